"""The examples do what they say: run from another folder, judged by the files that they write."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from sdlearn import StableDiffusion, UNet, weights

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SIDE = 64


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs an example from an empty folder -> its output folder, what it said, its names."""

    def run(number):
        (file,) = EXAMPLES.glob(f"{number:02}_*.py")
        out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
        out.mkdir()
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        monkeypatch.setattr(sys, "argv", [str(file), str(out)])
        names = runpy.run_path(str(file), run_name="__main__")
        assert list(elsewhere.iterdir()) == []
        return out, capsys.readouterr().out, names

    return run


def pixels(file: Path, tiles: int = 1) -> NDArray[np.int64]:
    """An image of square tiles side by side as (tiles, h, w, 3)."""
    with Image.open(file) as image:
        assert image.size == (SIDE * tiles, SIDE)
        flat = np.asarray(image.convert("RGB"), dtype=np.int64)
    return flat.reshape(SIDE, tiles, SIDE, 3).swapaxes(0, 1)


def distance(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Mean absolute difference in levels of 0 … 255."""
    return float(np.abs(a - b).mean())


def test_text_to_image_draws_the_red_cat_on_the_left_and_the_blue_house_on_the_right(run):
    out, said, _ = run(1)
    assert said.startswith(f"{out / 'cat.png'}: 64 x 64 pixels of 'a red cat to the left of")
    (image,) = pixels(out / "cat.png")
    red, green, blue = image.transpose(2, 0, 1)
    is_red, is_blue = (red > green + 80) & (red > blue + 80), blue > red + 80
    bottom = slice(SIDE // 3, None)  # below the sky, which is blue too
    left, right = slice(0, SIDE // 2), slice(SIDE // 2, None)
    assert is_red[bottom, left].sum() > 100 > 10 > is_red[bottom, right].sum()
    assert is_blue[bottom, right].sum() > 100 > 10 > is_blue[bottom, left].sum()


def test_every_step_is_on_the_sheet_and_comes_closer_to_the_end(run):
    out, said, _ = run(2)
    images = pixels(out / "steps.png", 11)
    left = [distance(image, images[-1]) for image in images]
    assert left[0] > 40 > 10 > left[5] > left[8] > left[10] == 0
    assert re.findall(r"^step +(\d+):", said, re.MULTILINE) == [str(k) for k in range(11)]


def test_more_strength_leaves_less_of_the_image(run):
    out, said, _ = run(3)
    original = pixels(out / "original.png")
    far = [distance(pixels(out / f"strength-{s}.png"), original) for s in (0.1, 0.2, 0.7)]
    assert far == sorted(far)
    assert far[0] < 0.6 * far[2]
    assert "the last 70% of the steps" in said


def test_inpainting_changes_the_half_under_the_mask_alone(run):
    out, _, _ = run(4)
    (before,), (after,) = pixels(out / "before.png"), pixels(out / "after.png")
    half = SIDE // 2
    assert np.array_equal(before[:, :half], after[:, :half])
    assert distance(before[:, half:], after[:, half:]) > 10
    with Image.open(out / "mask.png") as mask:
        assert np.asarray(mask)[:, half:].min() == 255
        assert np.asarray(mask)[:, :half].max() == 0


def test_samplers_draw_the_same_scene_and_not_the_same_image(run):
    out, said, _ = run(5)
    assert said.endswith("ddim, euler, heun, dpm_pp_2m\n")
    images = pixels(out / "samplers.png", 4)
    apart = [distance(images[a], images[b]) for a in range(4) for b in range(a)]
    assert min(apart) > 0
    assert max(apart) < 30


def test_the_loss_of_the_trained_unet_falls_and_its_weights_are_written(run):
    out, said, names = run(6)
    first, last = (float(loss) for loss in re.findall(r"loss (\d\.\d+)", said))
    assert 0.9 < first < 1.3
    assert last < 0.7
    copy = UNet(names["unet"].config)
    weights.load(copy, out / "unet.safetensors")
    for key, value in names["unet"].state_dict().items():
        assert torch.equal(copy.state_dict()[key], value), key


def test_written_weights_are_read_back_and_draw_the_same_image(run):
    out, said, _ = run(7)
    assert said.endswith("the two models draw the same image\n")
    assert (out / "model" / "model_index.json").is_file()
    first, again = StableDiffusion.storybook(), StableDiffusion.from_pretrained(out / "model")
    for name, value in first.unet.state_dict().items():
        assert torch.equal(again.unet.state_dict()[name], value), name


def test_a_controlnet_changes_nothing_until_it_is_trained(run):
    out, _, _ = run(8)
    without, fresh, trained = (
        pixels(out / f"{name}.png") for name in ("without", "untrained", "trained")
    )
    assert np.abs(without - fresh).max() <= 1
    assert distance(without, trained) > 2


def test_every_example_is_in_the_table_and_writes_to_a_temporary_folder_unasked(
    monkeypatch, tmp_path, capsys
):
    names = sorted(file.name for file in EXAMPLES.glob("*.py"))
    table = re.findall(r"^\| \[(.+)\]\((.+)\) \|", (EXAMPLES / "README.md").read_text(), re.M)
    assert table == [(name, name) for name in names]
    monkeypatch.setattr(sys, "argv", [names[0]])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    runpy.run_path(str(EXAMPLES / names[0]), run_name="__main__")
    assert [file.name for file in tmp_path.rglob("*.png")] == ["cat.png"]
    assert str(tmp_path) in capsys.readouterr().out
