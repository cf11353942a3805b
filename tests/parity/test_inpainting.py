"""Pictures from pictures: image-to-image and inpainting against the pipelines of diffusers."""

import numpy as np
import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image

from sdlearn.pipeline import StableDiffusion
from tests.tiny_model import SCHEDULER, tiny_diffusers

from .oracle import relative_error

PROMPTS = ["a red cat to the left of a blue house", "two green fish"]
TOLERANCE = 1e-4  # of the final latents, after all steps
SEED = 11


def pictures():
    """Two smooth pictures of 24 x 16 pixels (height x width)."""
    y, x = np.mgrid[0:24, 0:16] / 24
    first = np.stack([np.sin(7 * x + k) * np.cos(5 * y * (k + 1)) for k in range(3)], -1)
    return [
        Image.fromarray(((part + 1) * 127).astype(np.uint8)) for part in (first, first[::-1, ::-1])
    ]


def masks(aligned):
    """A block to repaint; aligned: on whole latent positions, which are 2 pixels wide."""
    found = []
    for shift in (0, 4):
        mask = np.zeros((24, 16), np.uint8)
        mask[4 + shift : 16 + shift, 6:12] = 255
        if not aligned:
            mask[3 + shift, 5:13] = 255
        found.append(Image.fromarray(mask))
    return found


def generators():
    """As diffusers wants them, one for each picture; they draw what ours draw from this seed."""
    return [torch.Generator().manual_seed(SEED + k) for k in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def parts():
    """The parts of a tiny model; its autoencoder's posterior is wide enough to be noticed."""
    pipe = tiny_diffusers()
    pipe.vae.quant_conv.bias.data[4:] = -2.0
    return pipe.components


@pytest.fixture(scope="module")
def nine(parts):
    """The same with a U-Net of nine input channels."""
    torch.manual_seed(4)
    config = {k: v for k, v in parts["unet"].config.items() if not k.startswith("_")}
    unet = UNet2DConditionModel(**config | {"in_channels": 9})
    for parameter in unet.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.05)
    return parts | {"unet": unet}


def theirs(kind, components, scheduler=None, **options):
    pipe = kind(**components, requires_safety_checker=False)
    if scheduler is not None:
        pipe.scheduler = scheduler
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        prompt=PROMPTS, guidance_scale=4.0, generator=generators(), output_type="latent", **options
    ).images


def loaded(kind, components, folder):
    kind(**components, requires_safety_checker=False).save_pretrained(folder)
    return StableDiffusion.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def sd(parts, tmp_path_factory):
    return loaded(StableDiffusionPipeline, parts, tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def sd_nine(nine, tmp_path_factory):
    return loaded(StableDiffusionInpaintPipeline, nine, tmp_path_factory.mktemp("nine"))


OURS = {"guidance_scale": 4.0, "seed": SEED, "output": "latent", "progress": False}


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
@pytest.mark.parametrize(("steps", "strength"), [(10, 0.3), (10, 0.7), (7, 0.6), (8, 1.0)])
def test_image_to_image(sd, parts, sampler, steps, strength):
    published = {k: v for k, v in SCHEDULER.items() if k not in ("clip_sample", "set_alpha_to_one")}
    scheduler = (
        EulerDiscreteScheduler(**published, timestep_spacing="leading")
        if sampler == "euler"
        else None
    )
    expected = theirs(
        StableDiffusionImg2ImgPipeline,
        parts,
        scheduler,
        image=pictures(),
        strength=strength,
        num_inference_steps=steps,
    )
    latents = sd.image_to_image(
        PROMPTS, pictures(), strength=strength, steps=steps, sampler=sampler, **OURS
    )
    assert latents.shape == (2, 4, 12, 8)
    assert relative_error(latents, expected) <= TOLERANCE
    swapped = sd.image_to_image(
        PROMPTS, pictures()[::-1], strength=strength, steps=steps, sampler=sampler, **OURS
    )
    assert relative_error(swapped, expected) > 100 * TOLERANCE


@pytest.mark.parametrize("strength", [0.5, 0.8])
def test_inpainting_by_replacement(sd, parts, strength):
    expected = theirs(
        StableDiffusionInpaintPipeline,
        parts,
        image=pictures(),
        mask_image=masks(aligned=True),
        strength=strength,
        num_inference_steps=10,
        height=24,
        width=16,
    )
    latents = sd.inpaint(
        PROMPTS, pictures(), masks(aligned=True), strength=strength, steps=10, **OURS
    )
    assert relative_error(latents, expected) <= TOLERANCE


@pytest.mark.parametrize("strength", [0.7, 1.0])
@pytest.mark.parametrize("aligned", [True, False])
def test_inpainting_with_nine_channels(sd_nine, nine, strength, aligned):
    expected = theirs(
        StableDiffusionInpaintPipeline,
        nine,
        image=pictures(),
        mask_image=masks(aligned),
        strength=strength,
        num_inference_steps=10,
        height=24,
        width=16,
    )
    options = {"strength": strength, "steps": 10} | OURS
    latents = sd_nine.inpaint(PROMPTS, pictures(), masks(aligned), **options)
    assert relative_error(latents, expected) <= TOLERANCE
    other = sd_nine.inpaint(PROMPTS, pictures(), masks(aligned)[::-1], **options)
    assert relative_error(other, expected) > 100 * TOLERANCE


# ------------------------------------------------------------------------ what needs no oracle


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize("kind", ["four", "nine"])
def test_what_is_known_comes_back_exactly(sd, sd_nine, kind, strength, sampler):
    model = {"four": sd, "nine": sd_nine}[kind]
    options = {"strength": strength, "steps": 6, "sampler": sampler, "progress": False}
    for picture, mask in zip(pictures(), masks(aligned=False), strict=True):
        (painted,) = model.inpaint("a red cat", picture, mask, **options)
        keep = np.asarray(mask) == 0
        before, after = np.asarray(picture).astype(int), np.asarray(painted).astype(int)
        assert np.array_equal(after[keep], before[keep])
        assert np.abs(after - before)[~keep].mean() > 5


def test_the_known_region_keeps_its_own_noise(sd):
    """On every step of the way it is alpha z_0 + sigma eps, with the eps of the start."""
    mask = masks(aligned=True)[0]
    noise = torch.randn(1, 4, 12, 8, generator=torch.Generator().manual_seed(3))
    states = list(
        sd.trajectory("a cat", steps=8, image=pictures()[0], mask=mask, strength=1, noise=noise)
    )
    known = torch.from_numpy(np.asarray(mask)[::2, ::2] == 0).expand(1, 4, 12, 8)
    z_0 = states[-1].z
    for state, point in zip(states, sd.path(8), strict=True):
        expected = (point.alpha * z_0 + point.sigma * noise).float()
        if state.step == len(states) - 1:
            expected = z_0
        assert torch.allclose(state.z[known], expected[known], atol=2e-5)
        assert (
            not torch.allclose(state.z[~known], expected[~known], atol=0.1) or state is states[-1]
        )


def test_strength_nothing_is_the_picture(sd):
    """As the autoencoder sees it, with what little noise the path ends with."""
    (latent,) = sd.image_to_image("a cat", pictures()[0], strength=0.0, steps=10, **OURS)
    generator = torch.Generator().manual_seed(SEED)
    posterior, eps = (torch.randn(4, 12, 8, generator=generator) for _ in range(2))
    x = torch.from_numpy(np.array(pictures()[0])).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        z_0 = sd.vae.to_latent(x, posterior)[0]
    end = sd.path(10)[-1]
    assert relative_error(latent, (end.alpha * z_0 + end.sigma * eps).float()) <= 1e-5


def test_a_picture_is_the_same_alone_or_in_a_batch(sd):
    options = {"steps": 10, "output": "latent", "progress": False}
    batch = sd.image_to_image(PROMPTS, pictures(), n=2, seed=5, **options)
    for k, row in enumerate(batch):
        alone = sd.image_to_image(PROMPTS[k // 2], pictures()[k // 2], seed=5 + k, **options)
        assert relative_error(row[None], alone) <= 1e-5
    assert relative_error(batch[0], batch[1]) > 0.05


def test_sizes(sd):
    """A picture's own, cut down to what can be encoded; or the size asked for."""
    odd = pictures()[0].resize((17, 25))
    options = {"steps": 2, "strength": 0.5, "progress": False}
    assert sd.image_to_image("a cat", odd, **options)[0].size == (16, 24)
    (wide,) = sd.image_to_image("a cat", odd, height=8, width=32, **options)
    assert wide.size == (32, 8)
    pixels = torch.rand(1, 3, 8, 12)
    assert sd.image_to_image("a cat", pixels, **options)[0].size == (12, 8)
    (painted,) = sd.inpaint("a cat", odd, masks(True)[0], steps=2, progress=False)
    assert painted.size == (16, 24)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": "cat.png"}, "image is a str; it must be a PIL image, a list of them, or a"),
        ({"image": []}, "image is a list"),
        ({"image": torch.zeros(3, 8, 8)}, r"shape \(3, 8, 8\); it must be floating-point, \(b, 3"),
        ({"image": torch.zeros(1, 3, 8, 8).byte()}, "torch.uint8 Tensor"),
        ({"image": torch.zeros(1, 3, 9, 8)}, "9 x 8 pixels .* must be multiples of 2"),
        ({"image": torch.full((1, 3, 8, 8), 1.5)}, "image has values outside 0 … 1"),
        ({"image": torch.full((1, 3, 8, 8), float("nan"))}, "or NaN"),
        ({"image": [Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))]}, "of several sizes"),
        ({"image": Image.new("RGB", (1, 8))}, "image is 1 x 8 pixels"),
        ({"image": [Image.new("RGB", (8, 8))] * 3}, "image has 3 entries for 1 prompts"),
        ({"strength": 1.5}, "strength is 1.5; it must lie in 0 … 1"),
        ({"strength": float("nan")}, "strength is nan; it must be a finite number"),
        ({"strength": "half"}, "strength is 'half'"),
        ({"mask": "white"}, "mask is a str"),
        ({"mask": torch.zeros(1, 1, 4, 4)}, "mask .* 4 x 4 pixels .* must be 16 x 16"),
        ({"mask": torch.zeros(1, 3, 16, 16)}, r"\(b, 1, height, width\)"),
        ({"control": "edges"}, "control holds a str; it must be a pair"),
        ({"control_scale": [1.0]}, "control_scale has 1 entries for 0 ControlNets"),
    ],
)
def test_what_cannot_be_done_is_said_before_the_work(sd, options, words):
    white = Image.new("L", (16, 16), 255)
    given = {"image": Image.new("RGB", (16, 16)), "mask": white} | options
    with pytest.raises(ValueError, match=words):
        sd.inpaint("a cat", steps=2, progress=False, **given)
    with pytest.raises(ValueError, match=words):
        sd.trajectory("a cat", steps=2, **given)


def test_image_and_mask_belong_together(sd, sd_nine):
    with pytest.raises(
        ValueError, match="mask marks the part of an image to repaint, but no image"
    ):
        sd.trajectory("a cat", mask=masks(True)[0])
    for options in ({}, {"image": pictures()[0]}):
        with pytest.raises(ValueError, match="needs an image and a mask, as inpaint takes them"):
            sd_nine.trajectory("a cat", **options)
