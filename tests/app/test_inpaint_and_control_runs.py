"""Training of the inpainting U-Net and of a ControlNet: what is their own in a run."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sdlearn import ControlNet, StableDiffusion, storybook
from sdlearn.cli.main import main
from sdlearn.recipes import controlnet, hole_masks, inpaint
from sdlearn.recipes.data import scene, to_pixels, to_tensor
from sdlearn.recipes.noise import draw_noise
from sdlearn.storybook import render
from sdlearn.training import diffusion_loss
from sdlearn.utils.sampling_checks import check_control_fits

TINY = ["--recipe", "small", "--steps", "3", "--batch", "2", "--scenes", "12", "--device", "cpu"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "cache"


def inpaint_recipe() -> inpaint.InpaintRecipe:
    return replace(inpaint.RECIPES["small"], steps=3, batch=4, scenes=12, holes=2)


def control_recipe(hint: str = "all") -> controlnet.ControlNetRecipe:
    return replace(controlnet.RECIPES["small"], steps=3, batch=4, scenes=40, hint=hint)


# ----------------------------------------------------------------------------------- inpainting


def test_the_first_step_has_the_loss_of_the_model_and_moves_the_new_weights(cache: Path) -> None:
    recipe = inpaint_recipe()
    job = inpaint.make_job(recipe, cache, torch.device("cpu"))
    sd = StableDiffusion.storybook(device="cpu")
    data = inpaint.CaptionedLatents(
        recipe, inpaint.load_base("", recipe, torch.device("cpu")).parts(), 1000, cache,
        torch.device("cpu"),
    )  # fmt: skip
    z_0, t, context = data.batch(0)[2:5]
    eps = draw_noise(z_0.shape, recipe.seed, 0, torch.device("cpu"), stream=2)
    own = diffusion_loss(sd.unet, z_0, t, eps, context, sd.schedule)
    assert job.step(0)["loss"].item() == pytest.approx(float(own), rel=1e-5)
    unet = job.networks["unet"]
    assert unet.conv_in.weight[:, 4:].abs().sum() > 0


def test_the_extra_channels_are_the_mask_and_the_latent_of_the_masked_page(cache: Path) -> None:
    recipe = inpaint_recipe()
    sd = StableDiffusion.storybook(device="cpu")
    pages = np.stack([np.asarray(render(scene(k), 64)) for k in range(12)])
    extra = inpaint.encode_holes(recipe, sd.vae, pages, cache / "some.npy")
    assert extra.shape == (24, 5, 8, 8)
    for row in (0, 7, 23):
        mask = inpaint.hole(recipe, row // 2, row % 2)
        assert np.array_equal(extra[row, 0], mask[::8, ::8].numpy())
        page = to_tensor(pages[[row // 2]])
        with torch.no_grad():
            mean, _ = sd.vae.encode(page * (1 - mask.float()))
        found = torch.from_numpy(np.array(extra[row, 1:])).float()
        scale = sd.vae.config.scaling_factor
        assert (found - mean[0] * scale).abs().max() < 2e-3 * (mean * scale).abs().max()


def test_another_seed_draws_other_masks_in_the_same_cache(tmp_path: Path) -> None:
    for seed in (0, 1, 1):
        recipe = replace(inpaint_recipe(), seed=seed)
        inpaint.make_job(recipe, tmp_path / "cache", torch.device("cpu"))
    first, second = (np.load(file) for file in sorted((tmp_path / "cache").glob("holes-*.npy")))
    assert not np.array_equal(first[:, 0], second[:, 0])


def test_masks_are_drawn_as_the_module_says() -> None:
    rng = random.Random(0)
    things = storybook.masks(scene(3), 64)
    drawn = [hole_masks.random_mask(rng, 64, things) for _ in range(600)]
    covered = np.array([mask.mean() for mask in drawn])
    assert all(mask.shape == (64, 64) and set(np.unique(mask)) <= {0, 1} for mask in drawn)
    assert covered.min() > 0
    assert 0.2 < (covered == 1).mean() < 0.3
    assert 0.1 < covered[covered < 1].mean() < 0.35
    cells = np.stack(drawn).reshape(-1, 8, 8, 8, 8).mean(axis=(2, 4))
    assert (((cells > 0) & (cells < 1)).any(axis=(1, 2))).mean() > 0.6  # edges cut latent cells


@pytest.mark.parametrize("k", range(6))
def test_a_mask_of_a_thing_covers_it_and_its_edge(k: int) -> None:
    rng = random.Random(k)
    (thing, *_) = storybook.masks(scene(k), 64)
    inside = np.asarray(thing) > 0
    for draw in (hole_masks.one_thing, hole_masks.box_around):
        mask = np.asarray(draw(rng, 64, [thing])) > 127
        assert mask[inside].all()
        assert mask.sum() > inside.sum()


def test_an_exported_inpainting_model_loads_and_keeps_what_is_outside(tmp_path: Path) -> None:
    assert main(["train", "inpaint", *TINY, "--out", str(tmp_path / "run")]) == 0
    sd = StableDiffusion.from_pretrained(tmp_path / "run" / "export", device="cpu")
    assert sd.is_inpainting
    assert sd.spec.name == "storybook-inpaint"
    page, mask = render(scene(1), 64), torch.zeros(1, 64, 64)
    mask[:, 20:40, 10:30] = 1
    (painted,) = sd.inpaint("a red cat", page, mask[None], steps=2, progress=False)
    changed = (np.asarray(painted) != np.asarray(page)).any(axis=2)
    assert changed.any()
    assert not changed[mask[0].numpy() == 0].any()
    sheet = (tmp_path / "run" / "samples" / "step-00000003.png").stat()
    assert sheet.st_size > 1000


# ----------------------------------------------------------------------------------- ControlNet


def test_the_first_step_of_a_controlnet_has_the_loss_of_the_model(cache: Path) -> None:
    recipe = control_recipe()
    job = controlnet.make_job(recipe, cache, torch.device("cpu"))
    sd = StableDiffusion.storybook(device="cpu")
    base = controlnet.load_base("", recipe, torch.device("cpu"))
    data = controlnet.CaptionedLatents(recipe, base.parts(), 1000, cache, torch.device("cpu"))
    z_0, t, context = data.batch(0)[2:5]
    eps = draw_noise(z_0.shape, recipe.seed, 0, torch.device("cpu"), stream=2)
    own = diffusion_loss(sd.unet, z_0, t, eps, context, sd.schedule)
    assert job.step(0)["loss"].item() == pytest.approx(float(own), rel=1e-5)
    trained = job.networks["controlnet"]
    assert trained.controlnet_mid_block.weight.abs().sum() > 0
    assert trained.controlnet_cond_embedding.conv_out.weight.abs().sum() == 0  # one step later
    job.step(1)
    assert trained.controlnet_cond_embedding.conv_out.weight.abs().sum() > 0


def test_hints_are_those_of_the_pages_and_of_every_kind(cache: Path) -> None:
    hints = controlnet.Hints(control_recipe(), cache)
    rows = np.arange(40)
    seen = set()
    for k in range(4):
        batch = hints.batch(k, rows)
        assert batch.shape == (40, 3, 64, 64)
        assert float(batch.min()) >= 0
        assert float(batch.max()) <= 1
        for row in rows:
            kinds = [
                kind for kind, draw in controlnet.HINTS.items()
                if np.array_equal(np.asarray(draw(scene(int(row)), 64)),
                                  to_pixels(2 * batch[row : row + 1] - 1)[0])
            ]  # fmt: skip
            assert len(kinds) == 1, "each hint is one of its page's, and no other"
            seen.add(kinds[0])
            assert kinds[0] != "pose" or hints.people[row]
    assert seen == {*controlnet.HINTS}


def test_a_page_with_a_person_gets_its_pose_half_of_the_time(cache: Path) -> None:
    hints = controlnet.Hints(control_recipe(), cache)
    chances = np.linspace(0, 1, 600, endpoint=False)
    person, other = (int(np.argmax(hints.people == found)) for found in (True, False))
    drawn = [hints.kind(person, chance) for chance in chances]
    assert [drawn.count(kind) for kind in controlnet.HINTS] == [100, 100, 300, 100]
    drawn = [hints.kind(other, chance) for chance in chances]
    assert [drawn.count(kind) for kind in controlnet.HINTS] == [200, 200, 0, 200]


def test_an_exported_controlnet_loads_and_controls(tmp_path: Path) -> None:
    args = ["train", "controlnet", *TINY, "--hint", "edges", "--out", str(tmp_path / "run")]
    assert main(args) == 0
    trained = ControlNet.from_pretrained(tmp_path / "run" / "export")
    sd = StableDiffusion.storybook(device="cpu")
    check_control_fits(trained, sd.unet)
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert record["settings"]["hint"] == "edges"
    hint = controlnet.Hints(control_recipe("edges"), tmp_path / "cache").batch(0, np.arange(1))
    with torch.no_grad():
        residuals, middle = trained(torch.randn(1, 4, 8, 8), 500, sd.text([""]).context, hint)
    assert middle.abs().sum() > 0
    assert all(each.abs().sum() > 0 for each in residuals)


# ---------------------------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
    ("part", "extra", "sentence"),
    [
        ("controlnet", ["--hint", "canny"], "--hint is 'canny'; accepted: edges, depth, pose,"),
        ("controlnet", ["--data", "."], "--data is '.'; accepted: nothing, because the hints"),
        ("controlnet", ["--model", "nowhere"], "nowhere, which holds no model; accepted: a fold"),
        ("inpaint", ["--model", "nowhere"], "nowhere, which holds no model; accepted: a folder"),
        ("inpaint", ["--hint", "edges"], "the recipe has no setting 'hint'; accepted: accumulate,"),
        ("inpaint", ["--vae", "x"], "the recipe has no setting 'vae'; accepted: accumulate,"),
        ("inpaint", ["--set", "size=40"], "size is 40; accepted: multiples of 16 for this model"),
        ("inpaint", ["--model", ""], "--model is empty; accepted: a folder, or leave it out"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    part: str, extra: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["train", part, *TINY, "--out", str(out), *extra]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence in message
    assert not out.exists()


def test_neither_is_trained_on_an_inpainting_model(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert main(["train", "inpaint", *TINY, "--out", str(tmp_path / "run")]) == 0
    for part in ("inpaint", "controlnet"):
        args = ["train", part, *TINY, "--model", str(tmp_path / "run")]
        assert main([*args, "--out", str(tmp_path / part)]) == 2
        assert "which is an inpainting model; accepted: a model with one" in capsys.readouterr().err


def test_a_run_goes_on_only_with_the_model_it_began_with(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    StableDiffusion.storybook(device="cpu").save_pretrained(tmp_path / "model")
    args = ["train", "inpaint", *TINY, "--model", str(tmp_path / "model")]
    args += ["--out", str(tmp_path / "run")]
    assert main([*args, "--minutes", "0.0001"]) == 0
    file = tmp_path / "model" / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({key: value * 1.01 for key, value in load_file(file).items()}, file)
    capsys.readouterr()
    assert main([*args, "--resume"]) == 2
    assert "started with another version of its model; restore it" in capsys.readouterr().err
