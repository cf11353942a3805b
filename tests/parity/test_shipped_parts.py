"""The ControlNet and the U-Nets beside the storybook model, in diffusers and in use."""

import random

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    SD3Transformer2DModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from PIL import Image

from sdlearn import ControlNet, DiffusionTransformer, StableDiffusion, flow
from sdlearn.evaluation import control, inpainting, load_judge
from sdlearn.evaluation.accuracy import caption_accuracy, judge_images, prompt_cases, rates
from sdlearn.inpainting import widen_for_inpainting
from sdlearn.storybook import HINTS, render, sample_scene
from sdlearn.utils.atomic_files import read_json
from sdlearn.utils.resources import data_folder

SEED, SIDE = 5, 64
LEAST = 0.88  # objects that the transformer gets right; the card has the share of more captions


@pytest.fixture(scope="module")
def sd() -> StableDiffusion:
    return StableDiffusion.storybook(device="cpu")


@pytest.fixture(scope="module")
def controlnet() -> ControlNet:
    return ControlNet.storybook(device="cpu")


@pytest.fixture(scope="module")
def painter() -> StableDiffusion:
    return StableDiffusion.storybook(device="cpu", inpaint=True)


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


# ------------------------------------------------------------------------------------ ControlNet


@pytest.mark.parametrize("hint", HINTS)
def test_diffusers_follows_a_hint_with_the_same_image(sd, controlnet, hint) -> None:
    ((words, scene),) = control.control_cases(1, people=hint == "pose")
    drawn = HINTS[hint](scene, SIDE)
    pipe = StableDiffusionControlNetPipeline.from_pretrained(
        data_folder("storybook"),
        controlnet=ControlNetModel.from_pretrained(data_folder("storybook-controlnet")),
    )
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(SEED))
    expected = pipe(
        words, image=drawn, num_inference_steps=20, latents=noise, guidance_scale=3.0
    ).images[0]
    options = {"steps": 20, "noise": noise, "guidance_scale": 3.0, "progress": False}
    (found,) = sd.text_to_image(words, control=(controlnet, drawn), **options)
    assert np.abs(levels(found) - levels(expected)).max() <= 1
    (free,) = sd.text_to_image(words, **options)
    assert np.abs(levels(free) - levels(expected)).mean() > 5


@pytest.mark.parametrize(("hint", "least"), [("edges", 0.75), ("segmentation", 0.75)])
def test_the_silhouettes_follow_the_hint(sd, controlnet, hint, least) -> None:
    judge = load_judge()
    follows = control.control_score(sd, judge, hint, controlnet, 16, steps=8)
    free = control.control_score(sd, judge, hint, None, 16, steps=8)
    assert follows.iou > least > free.iou + 0.2
    assert follows.offset < 2 < free.offset


# ------------------------------------------------------------------------------------ inpainting


def test_diffusers_fills_a_hole_with_the_same_image(painter, tmp_path) -> None:
    painter.save_pretrained(tmp_path)
    pipe = StableDiffusionInpaintPipeline.from_pretrained(tmp_path, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    page = render(sample_scene(random.Random(8), split="test"), SIDE)
    mask = Image.new("L", page.size)
    mask.paste(255, (18, 24, 49, 60))
    words = "a red house on the sand by day"
    expected = pipe(
        words, image=page, mask_image=mask, height=SIDE, width=SIDE, strength=1.0,
        num_inference_steps=20, guidance_scale=3.0,
        generator=torch.Generator().manual_seed(SEED), output_type="latent",
    ).images  # fmt: skip
    options = {"steps": 20, "guidance_scale": 3.0, "seed": SEED, "progress": False}
    found = painter.inpaint(words, page, mask, output="latent", **options)
    ours, theirs = (levels(painter.to_images(z)[0]) for z in (found, expected))
    assert np.abs(ours - theirs).max() <= 1
    (pasted,) = painter.inpaint(words, page, mask, **options)
    changed = np.abs(levels(pasted) - levels(page)).max(-1)
    assert changed[np.asarray(mask) == 0].max() == 0
    assert changed[np.asarray(mask) > 0].mean() > 10


def test_the_difference_is_to_the_widened_model(sd, painter) -> None:
    widened = widen_for_inpainting(sd.unet).state_dict()
    trained = painter.unet.state_dict()
    assert painter.unet.config.in_channels == 9
    assert trained.keys() == widened.keys()
    new = trained["conv_in.weight"][:, 4:]
    assert new.abs().max() > 0.01
    change = (trained["conv_in.weight"][:, :4] - widened["conv_in.weight"][:, :4]).norm()
    assert 0 < change < widened["conv_in.weight"].norm()


def test_training_fills_holes_better_than_replacement(sd, painter) -> None:
    judge = load_judge()
    trained = inpainting.hole_score(painter, judge, 16, steps=8)
    replaced = inpainting.hole_score(sd, judge, 16, steps=8)
    assert trained.psnr > replaced.psnr + 0.5
    assert trained.step < replaced.step


# -------------------------------------------------------------------------------------- few steps


@pytest.fixture(scope="module")
def student() -> StableDiffusion:
    return StableDiffusion.storybook(device="cpu", few_steps=True)


def test_diffusers_draws_the_same_image_in_four_steps(student, tmp_path) -> None:
    student.save_pretrained(tmp_path)
    again = StableDiffusion.from_pretrained(tmp_path, device="cpu")
    assert (again.spec.steps, again.spec.guidance_scale) == (4, 1.0)
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    words = "a red house on the sand by day"
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(SEED))
    expected = pipe(
        words, num_inference_steps=4, guidance_scale=1.0, latents=noise, output_type="latent"
    ).images
    found = again.text_to_image(words, noise=noise, output="latent", progress=False)
    assert (found - expected).abs().max() <= 1e-4


def test_four_steps_show_what_the_caption_says(sd, student) -> None:
    judge, cases = load_judge(), prompt_cases("test", 64)
    few = rates(caption_accuracy(student, judge, cases))["right"].rate
    before = rates(caption_accuracy(sd, judge, cases, steps=4))["right"].rate
    assert few > 0.94 > before + 0.1


def test_the_difference_is_small() -> None:
    file = data_folder("storybook-few-steps") / "unet_difference.safetensors"
    assert file.stat().st_size <= 4.5e6


# ------------------------------------------------------------------------------------ transformer


@pytest.fixture(scope="module")
def transformer() -> DiffusionTransformer:
    return DiffusionTransformer.storybook()


def test_diffusers_predicts_the_same_velocity(sd, transformer) -> None:
    theirs = SD3Transformer2DModel.from_pretrained(data_folder("storybook-transformer"))
    words = ["a red house on the sand by day", ""]
    text = flow.transformer_text(sd.text, words)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(SEED))
    t = torch.tensor([1000.0, 370.0])
    with torch.inference_mode():
        wanted = theirs(x, text.context, text.pooled, t).sample
        found = transformer(x, t, text.context, text.pooled)
    assert (found - wanted).norm() / wanted.norm() <= 3e-5
    assert not any(p.requires_grad for p in transformer.parameters())


def test_the_transformer_shows_what_the_caption_says(sd, transformer) -> None:
    judge, cases = load_judge(), prompt_cases("test", 48)
    text = flow.transformer_text(sd.text, [case.caption for case in cases])
    empty = flow.transformer_text(sd.text, [""] * len(cases))
    noise = torch.randn(len(cases), 4, 8, 8, generator=torch.Generator().manual_seed(SEED))
    found = {}
    for scale in (0.0, 3.0):
        velocity = flow.transformer_velocity(transformer, text, empty, scale)
        with torch.inference_mode():
            *_, last = flow.euler(velocity, noise, flow.path(12))
            images = sd.to_images(last.x)
        found[scale] = rates(judge_images(judge, cases, images, range(len(cases))))["right"].rate
    assert found[3.0] > LEAST > found[0.0] + 0.4


def test_the_transformer_is_small_and_its_record_has_a_curve() -> None:
    folder = data_folder("storybook-transformer")
    assert (folder / "diffusion_pytorch_model.safetensors").stat().st_size <= 5.0e6
    curve = read_json(folder / "metrics.json")["curve"]
    assert [point["step"] for point in curve] == sorted({point["step"] for point in curve})
    losses = [point["loss"] for point in curve]
    assert (losses[0], losses[-1]) == (max(losses), min(losses))
    assert curve[0]["right"] < 0.05
    assert curve[-1]["right"] > 0.9
