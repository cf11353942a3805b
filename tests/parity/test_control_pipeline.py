"""ControlNets in the whole pipeline, against the pipelines of diffusers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
)
from PIL import Image

from sdlearn import ControlNet
from sdlearn.pipeline import StableDiffusion
from tests.tiny_model import tiny_diffusers

from .oracle import randomise, relative_error

PROMPTS = ["a red cat to the left of a blue house", "two green fish"]
TOLERANCE = 1e-4
SIZE = {"height": 24, "width": 16}
HINT_CHANNELS = (4, 8)  # one halving, as the tiny autoencoder has


def hint(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 16, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def pipe():
    return tiny_diffusers()


@pytest.fixture(scope="module")
def sd(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    pipe.save_pretrained(folder)
    return StableDiffusion.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def pairs(pipe, tmp_path_factory):
    """Two ControlNets: theirs, and ours read from their folder."""
    found = []
    for seed in (1, 2):
        theirs = ControlNetModel.from_unet(
            pipe.unet, conditioning_embedding_out_channels=HINT_CHANNELS
        )
        for module in (theirs.controlnet_down_blocks, theirs.controlnet_mid_block):
            randomise(module, seed)
        randomise(theirs.controlnet_cond_embedding, seed)
        folder = tmp_path_factory.mktemp("control")
        theirs.save_pretrained(folder)
        found.append((theirs.eval(), ControlNet.from_pretrained(folder)))
    return found


def start():
    return torch.randn(2, 4, 12, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("scale", [1, 4.0])
@pytest.mark.parametrize("number", [1, 2])
def test_text_to_image(sd, pipe, pairs, number, scale):
    theirs, ours = zip(*pairs[:number], strict=True)
    hints = [hint(k) for k in range(number)]
    strengths = [0.7, 1.5][:number]
    one = number == 1
    other = StableDiffusionControlNetPipeline(
        **pipe.components,
        controlnet=theirs[0] if one else list(theirs),
        requires_safety_checker=False,
    )
    other.set_progress_bar_config(disable=True)
    expected = other(
        PROMPTS,
        image=hints[0] if one else hints,
        controlnet_conditioning_scale=strengths[0] if one else strengths,
        guidance_scale=scale,
        num_inference_steps=8,
        latents=start(),
        output_type="latent",
        **SIZE,
    ).images
    options = {
        "guidance_scale": scale,
        "steps": 8,
        "noise": start(),
        "output": "latent",
        "progress": False,
        **SIZE,
    }
    control = list(zip(ours, hints, strict=True))
    latents = sd.text_to_image(
        PROMPTS,
        control=control[0] if one else control,
        control_scale=strengths[0] if one else strengths,
        **options,
    )
    assert relative_error(latents, expected) <= TOLERANCE
    free = sd.text_to_image(PROMPTS, **options)
    assert relative_error(free, expected) > 100 * TOLERANCE
    other_hint = sd.text_to_image(PROMPTS, control=(ours[0], hint(9)), **options)
    assert relative_error(other_hint, expected) > 100 * TOLERANCE
    off = sd.text_to_image(PROMPTS, control=control, control_scale=0.0, **options)
    assert relative_error(off, free) <= 1e-6


@pytest.mark.parametrize("scale", [1, 4.0])
@pytest.mark.parametrize("place", ["folder", "control_v11e_sd15_shuffle.pth"])
def test_residuals_averaged_over_the_image(sd, pipe, pairs, tmp_path, place, scale):
    """As the published shuffle model: no places, and nothing for the unconditional half."""
    theirs = ControlNetModel.from_config(pairs[0][0].config, global_pool_conditions=True).eval()
    theirs.load_state_dict(pairs[0][0].state_dict())
    theirs.save_pretrained(tmp_path / "folder")
    if place.endswith(".pth"):
        torch.save(theirs.state_dict(), tmp_path / place)
    spec = None if place == "folder" else sd.spec
    ours = ControlNet.from_pretrained(tmp_path / place, spec=spec)
    ours.save_pretrained(tmp_path / "again")
    other = StableDiffusionControlNetPipeline(
        **pipe.components, controlnet=theirs, requires_safety_checker=False
    )
    other.set_progress_bar_config(disable=True)
    expected = other(
        PROMPTS,
        image=hint(0),
        controlnet_conditioning_scale=0.7,
        guidance_scale=scale,
        num_inference_steps=8,
        latents=start(),
        output_type="latent",
        **SIZE,
    ).images
    options = {"guidance_scale": scale, "steps": 8, "noise": start(), "control_scale": 0.7, **SIZE}
    for each in (ours, ControlNet.from_pretrained(tmp_path / "again")):
        latents = sd.text_to_image(
            PROMPTS, control=(each, hint(0)), output="latent", progress=False, **options
        )
        assert relative_error(latents, expected) <= TOLERANCE
    usual = sd.text_to_image(
        PROMPTS, control=(pairs[0][1], hint(0)), output="latent", progress=False, **options
    )
    assert relative_error(usual, expected) > 100 * TOLERANCE


def test_a_hint_for_each_prompt_from_a_picture(sd, pipe, pairs):
    theirs, ours = pairs[0]
    other = StableDiffusionControlNetImg2ImgPipeline(
        **pipe.components, controlnet=theirs, requires_safety_checker=False
    )
    other.set_progress_bar_config(disable=True)
    hints, pictures = [hint(5), hint(6)], [hint(7), hint(8)]
    expected = other(
        PROMPTS,
        image=pictures,
        control_image=hints,
        strength=0.7,
        guidance_scale=4.0,
        num_inference_steps=10,
        generator=[torch.Generator().manual_seed(4 + k) for k in range(2)],
        output_type="latent",
        controlnet_conditioning_scale=0.8,
        **SIZE,
    ).images
    options = {"strength": 0.7, "guidance_scale": 4.0, "steps": 10, "seed": 4, "output": "latent"}
    latents = sd.image_to_image(
        PROMPTS, pictures, control=(ours, hints), control_scale=0.8, progress=False, **options
    )
    assert relative_error(latents, expected) <= TOLERANCE
    swapped = sd.image_to_image(
        PROMPTS, pictures, control=(ours, hints[::-1]), progress=False, **options
    )
    assert relative_error(swapped, expected) > 100 * TOLERANCE


def test_a_controlnet_of_another_system_is_refused_before_the_work(sd):
    foreign = ControlNet(replace(sd.unet.config, cross_attention_dim=32), HINT_CHANNELS)
    with pytest.raises(ValueError, match="for another U-Net: its cross_attention_dim is 32"):
        sd.trajectory("a cat", control=(foreign, hint(1)), **SIZE)
