"""CLIP skip against diffusers' pipelines: earlier hidden states of the prompt, in each system."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from sdlearn.pipeline import StableDiffusion
from sdlearn.utils.resources import data_folder
from tests.tiny_model import tiny_diffusers, tiny_sd2, tiny_sdxl

from .oracle import TOLERANCE, VISIBLE, normal, relative_error

PROMPTS = ["a red cat on the sand", "two green fish in the sea by day"]
NEGATIVES = ["snow", "a brown tree"]
# With the number of layers that can be skipped: all but the embeddings, and for SDXL, whose count
# begins at the penultimate layer, one fewer of the smaller encoder.
SYSTEMS = {"sd1": (tiny_diffusers, 2), "sd2": (tiny_sd2, 3), "sdxl": (tiny_sdxl, 2)}


def with_text_model(pipe):
    """The pipeline; it asks for a module inside the text encoder that transformers 4 has, and that
    is the text encoder itself in transformers 5."""
    if not hasattr(pipe.text_encoder, "text_model"):
        object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)
    return pipe


@pytest.fixture(scope="module", params=SYSTEMS)
def both(request, tmp_path_factory):
    """A pipeline of diffusers, the same system here, both in float64, and what can be skipped."""
    make, most = SYSTEMS[request.param]
    pipe = make()
    folder = tmp_path_factory.mktemp(request.param)
    pipe.save_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    sd = StableDiffusion.from_pretrained(folder, dtype=torch.float64, device="cpu")
    return with_text_model(pipe.to(torch.float64)), sd, most


def encoded(pipe, negatives, clip_skip):
    """What diffusers encodes: the prompts' and the negatives' context and pooled embedding."""
    more = {} if "XL" in type(pipe).__name__ else {"device": pipe.device}
    with torch.no_grad():
        found = pipe.encode_prompt(
            PROMPTS, num_images_per_prompt=1, do_classifier_free_guidance=True,
            negative_prompt=negatives, clip_skip=clip_skip, **more,
        )  # fmt: skip
    return found if len(found) == 4 else (*found, None, None)


@pytest.mark.parametrize("clip_skip", [None, 0, 1, 2, 3])
@torch.no_grad()
def test_the_conditioning(both, clip_skip):
    """Earlier hidden states for the prompts; the negative prompts and the pooled ones keep all."""
    pipe, sd, most = both
    if (clip_skip or 0) > most:
        pytest.skip("has fewer layers")
    cond, uncond = sd.text.pair(PROMPTS, NEGATIVES, 5.0, None, clip_skip or 0)
    context, negative, pooled, negative_pooled = encoded(pipe, NEGATIVES, clip_skip)
    assert relative_error(cond.context, context) <= TOLERANCE[torch.float64]
    assert relative_error(uncond.context, negative) <= TOLERANCE[torch.float64]
    if pooled is not None:
        assert relative_error(cond.pooled, pooled) <= TOLERANCE[torch.float64]
        assert relative_error(uncond.pooled, negative_pooled) <= TOLERANCE[torch.float64]
    if clip_skip:  # each number of layers gives something else
        for other in {0, 1, clip_skip - 1} - {clip_skip}:
            assert relative_error(sd.text(PROMPTS, other).context, context) > VISIBLE


@pytest.mark.parametrize("negative", [None, NEGATIVES])
def test_the_latents(both, negative):
    """Through the whole pipeline; SDXL's without a negative prompt has zeros in its place."""
    pipe, sd, _ = both
    noise = normal(2, 4, 8, 8)
    options = {"negative_prompt": negative, "guidance_scale": 5.0, "clip_skip": 1}
    size = {"height": 16, "width": 16}
    theirs = pipe(
        PROMPTS, num_inference_steps=4, latents=noise, output_type="latent", **options, **size
    ).images
    ours = sd.text_to_image(
        PROMPTS, steps=4, noise=noise, output="latent", progress=False, **options, **size
    )
    assert relative_error(ours, theirs) <= 1e-6
    plain = sd.text_to_image(
        PROMPTS, steps=4, noise=noise, output="latent", progress=False,
        **options | {"clip_skip": 0}, **size,
    )  # fmt: skip
    assert relative_error(plain, theirs) > 1e-4


def test_a_number_of_layers_that_there_are_not(both):
    _, sd, most = both
    said = f"^clip_skip is {most + 1}; it must lie in 0 … {most} for this text encoder$"
    for call in (
        lambda: sd.text(PROMPTS, most + 1),
        lambda: sd.trajectory(PROMPTS, clip_skip=most + 1),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    assert next(sd.trajectory(PROMPTS, clip_skip=most, height=16, width=16)).step == 0


def test_the_storybook():
    pipe = with_text_model(StableDiffusionPipeline.from_pretrained(data_folder("storybook")))
    sd = StableDiffusion.storybook(device="cpu")
    with torch.no_grad():
        cond, _ = sd.text.pair(PROMPTS, NEGATIVES, 5.0, None, 1)
        context, *_ = encoded(pipe, NEGATIVES, 1)
    assert relative_error(cond.context, context) <= TOLERANCE[torch.float32]
