"""A whole published folder, read here and by diffusers: the same noise gives the same picture."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from sdlearn.pipeline import StableDiffusion
from sdlearn.utils.resources import data_folder
from tests.tiny_model import SCHEDULER, tiny_diffusers

from .oracle import relative_error

PROMPTS = ["a red cat to the left of a blue house", "two green fish, a zebra 123!"]
SIZE = (2, 4, 8, 8)
TOLERANCE = 1e-4  # of the final latents, after all steps


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_diffusers()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sd(folder):
    return StableDiffusion.from_pretrained(folder, device="cpu")


def start(*size):
    return torch.randn(size or SIZE, generator=torch.Generator().manual_seed(3))


def both(sd, pipe, prompt, negative, noise, output, **options):
    """The same pictures from sdlearn and from diffusers."""
    steps, scale = options.pop("steps", 12), options.pop("scale", 5)
    ours = sd.text_to_image(
        prompt,
        negative_prompt=negative,
        steps=steps,
        guidance_scale=scale,
        noise=noise,
        output=output,
        progress=False,
        **options,
    )
    theirs = pipe(
        prompt,
        negative_prompt=[negative] * len(prompt) if isinstance(negative, str) else negative,
        num_inference_steps=steps,
        guidance_scale=scale,
        latents=noise,
        output_type={"latent": "latent", "image": "pil"}[output],
        **options,
    ).images
    return ours, theirs


@pytest.mark.parametrize("scale", [1, 5, 7.5])
@pytest.mark.parametrize("negative", [None, "snow", ["snow", "a yellow balloon"]])
def test_latents(sd, pipe, scale, negative):
    ours, theirs = both(sd, pipe, PROMPTS, negative, start(), "latent", scale=scale)
    assert relative_error(ours, theirs) <= TOLERANCE
    assert relative_error(ours.flip(0), theirs) > 0.1  # or the comparison could be blind


def test_the_prompt_counts(sd):
    """Or agreement of the latents would say nothing about the text."""
    options = {"noise": start(), "output": "latent", "steps": 12, "progress": False}
    one = sd.text_to_image(PROMPTS, **options)
    for other in (
        sd.text_to_image(PROMPTS[::-1], **options),
        sd.text_to_image(PROMPTS, negative_prompt="snow", **options),
    ):
        assert relative_error(other, one) > 100 * TOLERANCE


@pytest.mark.parametrize("size", [None, (24, 40)])
def test_pictures(sd, pipe, size):
    options = {"height": size[0], "width": size[1]} if size else {}
    noise = start(2, 4, *(pixels // 2 for pixels in size)) if size else start()
    ours, theirs = both(sd, pipe, PROMPTS, "snow", noise, "image", **options)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.size, a.mode) == (b.size, b.mode)
        pixels = np.asarray(a).astype(int)
        assert np.abs(pixels - np.asarray(b)).max() <= 1
        assert pixels.std() > 5


def test_ddpm(folder, pipe, monkeypatch):
    """Stochastic all the way, both fed the same noise."""
    sd = StableDiffusion.from_pretrained(folder, device="cpu")
    other = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    published = {key: SCHEDULER[key] for key in SCHEDULER.keys() - {"set_alpha_to_one"}}
    other.scheduler = DDPMScheduler(**published)
    other.set_progress_bar_config(disable=True)
    noises = torch.randn(13, *SIZE, generator=torch.Generator().manual_seed(5))
    fresh = iter(noises[1:])
    place = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
    monkeypatch.setattr(place, lambda *_, **__: next(fresh))
    theirs = other(
        PROMPTS, num_inference_steps=12, guidance_scale=5, latents=noises[0], output_type="latent"
    ).images
    options = {"sampler": "ddpm", "steps": 12, "guidance_scale": 5, "output": "latent"}
    ours = sd.text_to_image(PROMPTS, noise=iter(noises).__next__, progress=False, **options)
    assert relative_error(ours, theirs) <= TOLERANCE


def test_the_shipped_model():
    """The folder in the repository is a published one: diffusers draws the same pictures."""
    theirs = StableDiffusionPipeline.from_pretrained(data_folder("storybook"))
    theirs.set_progress_bar_config(disable=True)
    prompts = ["a red cat to the left of a blue house on the sand at night", "a green tree by day"]
    a, b = both(
        StableDiffusion.storybook(device="cpu"), theirs, prompts, None, start(), "image", steps=30
    )
    for ours, other in zip(a, b, strict=True):
        pixels = np.asarray(ours).astype(int)
        assert pixels.shape == (64, 64, 3)
        assert np.abs(pixels - np.asarray(other)).max() <= 1
        assert pixels.std() > 20


@pytest.mark.parametrize("dtype", [None, torch.float16])
@pytest.mark.parametrize("max_bytes", [None, 100_000])
def test_a_folder_written_here_is_read_by_diffusers(sd, tmp_path, dtype, max_bytes):
    sd.save_pretrained(tmp_path, dtype=dtype, max_bytes=max_bytes)
    if max_bytes:
        assert max(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) <= max_bytes
        assert (tmp_path / "unet" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    again = StableDiffusion.from_pretrained(tmp_path, device="cpu")
    assert again.dtype == torch.float32
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path)
    theirs.set_progress_bar_config(disable=True)
    a, b = both(again, theirs, PROMPTS, None, start(), "latent")
    assert relative_error(a, b) <= TOLERANCE
    before = sd.text_to_image(
        PROMPTS, steps=12, guidance_scale=5, noise=start(), output="latent", progress=False
    )
    if dtype is None:
        assert torch.equal(a, before)
    else:
        assert 1e-6 < relative_error(a, before) < 0.05


def test_what_a_written_folder_says(sd, tmp_path):
    sd.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["safety_checker"] == index["feature_extractor"] == [None, None]
    assert index["requires_safety_checker"] is False
    scheduler = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    expected = {**SCHEDULER, "_class_name": "DDIMScheduler", "prediction_type": "epsilon"}
    assert expected.items() <= scheduler.items()


def test_velocity_and_the_second_version_s_settings(pipe, tmp_path):
    """Linear projections, depth 2, velocity, trailing: a folder of another kind, by its files."""
    torch.manual_seed(1)
    config = {k: v for k, v in pipe.unet.config.items() if not k.startswith("_")} | {
        "use_linear_projection": True,
        "transformer_layers_per_block": [2, 1],
        "attention_head_dim": 4,
    }
    unet = UNet2DConditionModel(**config)
    for parameter in unet.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    other = StableDiffusionPipeline(
        **{**pipe.components, "unet": unet}, requires_safety_checker=False
    )
    other.scheduler = type(pipe.scheduler)(
        **SCHEDULER, prediction_type="v_prediction", timestep_spacing="trailing"
    )
    other.set_progress_bar_config(disable=True)
    other.save_pretrained(tmp_path / "theirs")
    sd = StableDiffusion.from_pretrained(tmp_path / "theirs", device="cpu")
    assert (sd.spec.predicts, sd.spec.spacing) == ("velocity", "trailing")
    assert sd.spec.unet.transformer_depth == (2, 1)
    a, b = both(sd, other, PROMPTS, None, start(), "latent", steps=10)
    assert relative_error(a, b) <= TOLERANCE
    sd.save_pretrained(tmp_path / "ours")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "ours")
    again.set_progress_bar_config(disable=True)
    _, c = both(sd, again, PROMPTS, None, start(), "latent", steps=10)
    assert relative_error(c, b) <= 1e-6


# ------------------------------------------------------------------------ what needs no oracle


def test_a_picture_is_the_same_alone_or_in_a_batch(sd):
    options = {"steps": 8, "sampler": "ddpm", "progress": False}
    batch = sd.text_to_image(PROMPTS, n=2, seed=7, **options)
    for k, prompt in enumerate([PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]):
        (alone,) = sd.text_to_image(prompt, seed=7 + k, **options)
        assert np.abs(np.asarray(alone).astype(int) - np.asarray(batch[k])).max() <= 1
    assert batch[0].tobytes() != batch[1].tobytes()
    again = sd.text_to_image(PROMPTS, n=2, seed=7, **options)
    assert [a.tobytes() for a in again] == [b.tobytes() for b in batch]


def test_trajectory(sd):
    states = list(sd.trajectory(PROMPTS[0], steps=8, seed=4))
    assert [state.step for state in states] == list(range(9))
    assert [state.t for state in states] == [876, 751, 626, 501, 376, 251, 126, 1, 0]
    own = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(4))
    assert torch.equal(states[0].z[0], own)
    final = sd.text_to_image(PROMPTS[0], steps=8, seed=4, output="latent", progress=False)
    assert torch.equal(states[-1].z, final)
    assert all(state.z_0.shape == (1, 4, 8, 8) for state in states)
    (picture,) = sd.to_images(states[-1].z)
    (same,) = sd.text_to_image(PROMPTS[0], steps=8, seed=4, progress=False)
    assert picture.tobytes() == same.tobytes()
    numpy = {"steps": np.int64(8), "seed": np.int64(4), "guidance_scale": np.float32(7.5)}
    assert torch.equal(list(sd.trajectory(PROMPTS[0], **numpy))[-1].z, final)
    (states[3].z * torch.ones(1, requires_grad=True)).sum().backward()  # an ordinary tensor


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": 5}, "prompt is 5; it must be a string or a list of strings"),
        ({"prompt": ["a", None]}, "string or a list of strings"),
        ({"prompt": ("a", "b")}, "string or a list of strings"),
        ({"prompt": []}, "string or a list of strings"),
        ({"negative_prompt": 3}, "negative_prompt is 3"),
        ({"negative_prompt": ["a", "b"]}, "2 entries for 1 prompts"),
        ({"height": 15}, "height is 15; it must be a positive multiple of 2"),
        ({"width": 0}, "width is 0"),
        ({"width": 16.0}, "width is 16.0; it must be a whole number"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"steps": 1001}, "steps is 1001; it must lie in 1 … 1000"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"sampler": "magic"}, "'magic' is not known: the samplers are ddim, ddpm"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"n": 0}, "n is 0"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"seed": 2**64}, r"seed is 18446744073709551616; it must lie in 0 … 2\^63 - 1"),
        ({"noise": np.zeros((1, 4, 8, 8))}, "noise is a ndarray; it must be a Tensor or a"),
        ({"sampler": ""}, "sampler '' is not known"),
        ({"noise": torch.zeros(1, 4, 3, 3)}, r"\(1, 4, 3, 3\); it must be \(1, 4, 8, 8\)"),
        ({"output": "numpy"}, "it must be 'image' or 'latent'"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(sd, options, words):
    with pytest.raises(ValueError, match=words):
        sd.text_to_image(**{"prompt": "a cat", "steps": 2, "progress": False} | options)
    if "output" not in options:
        with pytest.raises(ValueError, match=words):
            sd.trajectory(**{"prompt": "a cat", "steps": 2} | options)


def test_a_latent_that_is_not_finite_stops_the_walk(folder):
    sd = StableDiffusion.from_pretrained(folder, device="cpu")
    sd.unet.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite after step 1"):
        sd.text_to_image("a cat", steps=3, progress=False)
