"""ControlNets in the whole pipeline, against the pipelines of diffusers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from PIL import Image
from torch import Tensor

from sdlearn import Adapter, ControlNet
from sdlearn.lora_layers import ATTENTION, TEXT_ATTENTION
from sdlearn.pipeline import StableDiffusion
from tests.tiny_model import tiny_diffusers

from .oracle import normal, randomise, relative_error

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


def trained(sd: StableDiffusion) -> dict[str, Adapter]:
    """Adapters with random matrices for the U-Net and the text encoder."""
    made = {}
    for part, pattern in (("unet", ATTENTION), ("text_encoder", TEXT_ATTENTION)):
        made[part] = Adapter.for_network(sd.adaptable[part], 3, 6.0, pattern)
        for n, parameter in enumerate(made[part].parameters()):
            parameter.data = 0.15 * normal(*parameter.shape, seed=n)
    return made


@pytest.mark.parametrize("scale", [1, 4.0])
def test_a_controlnet_and_an_adapter_together(
    pipe: StableDiffusionPipeline,
    pairs: list[tuple[ControlNetModel, ControlNet]],
    tmp_path: Path,
    scale: float,
) -> None:
    """The adapter changes the U-Net and the text encoder, but not the ControlNet, which copied
    layers of the same names from the U-Net."""
    pipe.save_pretrained(tmp_path / "model")
    pairs[0][0].save_pretrained(tmp_path / "control")
    sd = StableDiffusion.from_pretrained(tmp_path / "model", torch.float64, "cpu")
    control = ControlNet.from_pretrained(tmp_path / "control", torch.float64), hint(0)
    other = StableDiffusionControlNetPipeline.from_pretrained(
        tmp_path / "model",
        controlnet=ControlNetModel.from_pretrained(tmp_path / "control", torch_dtype=torch.float64),
        torch_dtype=torch.float64,
        safety_checker=None,
    )
    other.set_progress_bar_config(disable=True)
    # diffusers computes the schedule in float32; test_schedule.py compares the two.
    other.scheduler.alphas_cumprod = sd.schedule.alphas_cumprod
    other.scheduler.final_alpha_cumprod = sd.schedule.alphas_cumprod[0]

    def theirs() -> Tensor:
        return other(
            PROMPTS,
            image=hint(0),
            controlnet_conditioning_scale=0.7,
            guidance_scale=scale,
            num_inference_steps=5,
            latents=start().double(),
            output_type="pt",
            **SIZE,
        ).images

    def ours(strength: float = 0.7) -> Tensor:
        z = sd.text_to_image(
            PROMPTS,
            control=control,
            control_scale=strength,
            guidance_scale=scale,
            steps=5,
            noise=start().double(),
            output="latent",
            progress=False,
            **SIZE,
        )
        with torch.no_grad():
            return sd.vae.to_image(z) / 2 + 0.5

    plain = ours()
    assert relative_error(plain, theirs()) <= 1e-12
    path = tmp_path / "pytorch_lora_weights.safetensors"
    sd.save_adapter(path, trained(sd))
    sd.load_adapter(path)
    other.load_lora_weights(tmp_path)
    wanted = theirs()
    assert relative_error(ours(), wanted) <= 1e-12
    assert relative_error(plain, wanted) > 1e-3  # without the adapter
    assert relative_error(ours(strength=0.0), wanted) > 1e-3  # without the ControlNet


def test_a_controlnet_of_another_system_is_refused_before_the_work(sd):
    foreign = ControlNet(replace(sd.unet.config, cross_attention_dim=32), HINT_CHANNELS)
    with pytest.raises(ValueError, match="for another U-Net: its cross_attention_dim is 32"):
        sd.trajectory("a cat", control=(foreign, hint(1)), **SIZE)
