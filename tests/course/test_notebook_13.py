"""Notebook 13: what the learner writes is what the library does, and a slip is noticed."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sdlearn.inpainting
from sdlearn.course import check
from sdlearn.course.figures import inpainting as drawn
from sdlearn.course.grading.compare import Different
from sdlearn.course.widgets import InpaintingWidget
from sdlearn.course.widgets.inpainting import box_mask
from sdlearn.samplers import ddim
from sdlearn.schedule import NoiseSchedule
from tests.notebook_parts import folded_assertions, learnt

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "13-inpainting.ipynb"
PATH = NoiseSchedule().path(6)
SHAPE = (2, 4, 5, 3)


def built(change: tuple[str, str] = ("", "")) -> dict:
    """The learner's functions and the notebook's around them, with a piece of text replaced."""
    imports = ["import torch", "import torch.nn.functional as F", "from torch import Tensor"]
    imports += ["from itertools import pairwise", "from sdlearn.samplers import ddim"]
    imports += ["import sdlearn.inpainting"]
    numbers = [f"13.{k}" for k in range(1, 7)]
    return learnt(NOTEBOOK, numbers, imports, ("last", "replacement", "repaint"), change)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def denoise(z, point):
    return torch.tanh(point.alpha * z) + 0.1 * point.sigma * z.roll(1, -1)


def hole():
    mask = torch.zeros(1, 1, *SHAPE[2:], dtype=torch.float64)
    mask[..., 1:3, 1:] = 1
    return mask


def last(states):
    *_, state = states
    return state.z


def compared(names: dict) -> None:
    eps, z_0, mask = normal(*SHAPE), normal(*SHAPE, seed=1), hole()

    def library(eps, z_0):
        z = torch.where(mask > 0, eps, PATH[0].alpha * z_0 + PATH[0].sigma * eps)
        states = ddim(sdlearn.inpainting.replace_known(denoise, z_0, mask), z, PATH)
        return last(sdlearn.inpainting.restore_known(states, PATH[-1], z_0, mask))

    def source():
        generator = torch.Generator().manual_seed(3)
        return lambda: torch.randn(*SHAPE, generator=generator, dtype=torch.float64)

    check.same(lambda eps, z_0: names["replacement"](denoise, eps, PATH, z_0, mask),
               library, eps, z_0)  # fmt: skip
    for jump, repeats in ((1, 3), (2, 2), (4, 1)):

        def library_repaint(eps, z_0, how=(jump, repeats)):
            z = torch.where(mask > 0, eps, PATH[0].alpha * z_0 + PATH[0].sigma * eps)
            states = sdlearn.inpainting.repaint(denoise, z, PATH, z_0, mask, *how, source())
            return last(sdlearn.inpainting.restore_known(states, PATH[-1], z_0, mask))

        def mine(eps, z_0, how=(jump, repeats)):
            return names["repaint"](denoise, eps, PATH, z_0, mask, *how, source())

        check.same(mine, library_repaint, eps, z_0)
    for steps, jump, repeats in ((250, 10, 10), (7, 3, 3), (4, 1, 2)):
        expected = sdlearn.inpainting.repaint_visits(steps, jump, repeats)
        assert names["repaint_visits"](steps, jump, repeats) == expected
    weight = normal(3, 4, 3, 3)
    x = normal(1, 9, 6, 6, seed=2)
    wide = torch.nn.functional.conv2d(x, names["widen"](weight, 5))
    assert torch.allclose(wide, torch.nn.functional.conv2d(x[:, :4], weight), rtol=0, atol=1e-12)
    assert names["widen"](weight, 5).shape == (3, 9, 3, 3)
    mask = box_mask(32, 3, 5, 9, 8)
    replaced, sampled = names["to_cells"](mask, 8)
    assert torch.equal(replaced, sdlearn.inpainting.latent_mask(mask, 8))
    channels = sdlearn.inpainting.inpaint_channels(mask, torch.zeros(1, 4, 4, 4))
    assert torch.equal(sampled, channels[:, :1])
    canvas, border = names["larger_canvas"](normal(1, 3, 4, 4), 2, 1)
    assert torch.equal(canvas * border, 0 * canvas)
    assert border[0, 0, 0].tolist() == [1, 1, 0, 0, 0, 0, 1]


def test_its_parts_are_the_finished_ones():
    with contextlib.redirect_stdout(io.StringIO()) as said:
        compared(built())
    assert said.getvalue().count("same: ") == 4


@pytest.mark.parametrize(
    "change",
    [
        ("mask * z + (1 - mask) * known", "(1 - mask) * z + mask * known"),
        ("point.alpha * z_0", "z_0"),
        ("point.sigma * eps", "0 * eps"),
        ("z_0, eps, mask, there)", "z_0, eps, mask, here)"),
        ("return torch.where(mask > 0, z, z_0)", "return z"),
        ("repeats - 1 for k", "repeats for k"),
        ("range(0, steps - jump, jump)", "range(0, steps, jump)"),
        ("here - jump - 1, -1)", "here - jump, -1)"),
        ("there.alpha / here.alpha", "here.alpha / there.alpha"),
        ("(ratio * here.sigma) ** 2", "here.sigma ** 2"),
        ("missing.sqrt()", "missing"),
        ("dim=1)", "dim=0)"),
        ("F.max_pool2d(mask, f)", "F.avg_pool2d(mask, f)"),
        ("value=1.0", "value=0.0"),
    ],
)
def test_a_slip_in_its_parts_is_noticed(change):
    with pytest.raises((Different, AssertionError, RuntimeError, IndexError)):
        compared(built(change))


def test_its_claims_are_asserted():
    assert folded_assertions(NOTEBOOK) >= 8


# ---------------------------------------------------------------------------------------- figures


def test_a_close_up_is_cut_around_the_corner_of_the_hole():
    page = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
    mask = box_mask(64, 20, 30, 10, 12)[0]
    assert drawn.corners(mask) == (20, 30, 30, 42)
    cut = drawn.close_up(page, mask, 24)
    assert cut.size == (24, 24)
    assert cut.getpixel((8, 8)) == page.getpixel((20, 30))
    assert drawn.close_up(page, box_mask(64, 0, 60, 4, 4)[0]).size == (28, 28)


def test_holes_are_outlined_inside_and_along_the_edge():
    grey = [Image.new("RGB", (12, 12), (128, 128, 128))] * 2
    strips = torch.zeros(1, 1, 12, 12)
    strips[..., :4] = 1
    inside, edge = drawn.outlined(grey, torch.cat([box_mask(12, 3, 2, 5, 4), strips]))
    red = {
        (x, y) for x in range(12) for y in range(12) if inside.getpixel((x, y)) == drawn.REPAINTED
    }
    assert red == {(x, y) for x in range(3, 8) for y in range(2, 6)} - {
        (x, y) for x in range(4, 7) for y in range(3, 5)
    }
    assert [edge.getpixel((x, 5)) == drawn.REPAINTED for x in range(5)] == [1, 0, 0, 1, 0]
    assert edge.getpixel((2, 11)) == drawn.REPAINTED
    assert grey[0].getpixel((3, 2)) == (128, 128, 128)


def test_the_figure_of_cut_cells_counts_them():
    mask = box_mask(64, 12, 20, 24, 24)
    masks = [mask[0], sdlearn.inpainting.latent_mask(mask, 8)[0], mask[0][..., ::8, ::8]]
    figure = drawn.cut_cells(Image.new("RGB", (64, 64)), masks, ["hole", "any", "every 8th"])
    assert "576 pixels, 9.0 positions" in figure.words
    assert "any: 16; every 8th: 9" in figure.words


def test_the_visits_are_drawn_downwards():
    visits = sdlearn.inpainting.repaint_visits(4, 1, 2)
    figure = drawn.visits_chart([visits, list(range(5))], ["RePaint", "replacement"], 4)
    assert "RePaint: 10 moves, 7 of which denoise; replacement: 4 moves, 4 of" in figure.words
    (ax,) = figure.figure.axes
    assert list(ax.lines[0].get_ydata()) == visits
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_maps_of_a_leak_say_how_much_is_where():
    mask, page = box_mask(64, 16, 8, 24, 16)[0], Image.new("RGB", (64, 64))
    leak = torch.zeros(8, 8)
    leak[1:3, 2:5], leak[3, 3] = 4, 1.5
    maps = {"first": leak, "then": torch.zeros(8, 8)}
    figure = drawn.leak_maps({"a red cat": page, "a blue cat": page}, maps, mask, "Leaks")
    assert "as a red cat and as a blue cat" in figure.words
    assert "first: up to 1.50 outside the hole, up to 4.00 in it; then: up to 0.00" in figure.words


def test_a_loss_curve_names_its_start_its_highest_point_and_its_end():
    points = [(50, 0.5), (100, 0.7), (150, 0.3), (200, 0.1)]
    words = drawn.loss_curve(points, "Loss", width=2).words
    assert "0.500 over the first 50 steps, 0.700 at its highest, near step 100" in words
    assert "0.200 at the end, at step 200" in words


def test_masks_say_what_they_hide():
    masks = [torch.ones(4, 4), torch.eye(4)]
    assert "hide 100%, 25%" in drawn.mask_samples(masks, "Masks").words


# ----------------------------------------------------------------------------------------- widget


@pytest.fixture
def studio(tiny_storybook):
    side = tiny_storybook.spec.resolution
    ramp = np.linspace(0, 255, side * side * 3).astype(np.uint8).reshape(side, side, 3)
    return InpaintingWidget(
        tiny_storybook,
        Image.fromarray(ramp),
        "a red cat",
        (side // 4, side // 4, side // 2, side // 2),
        steps=3,
    )


def test_a_box_is_cut_off_at_the_edge():
    for left, top, width, height in ((0, 0, 8, 8), (60, 60, 64, 64), (3, 9, 4, 64)):
        mask = box_mask(64, left, top, width, height)
        assert mask.sum() == min(width, 64 - left) * min(height, 64 - top)


def test_the_outside_is_kept_and_each_control_matters(studio):
    before = np.array(studio.result)
    side, outside = studio.page.width, studio.mask[0, 0].numpy() == 0
    assert np.array_equal(before[outside], np.array(studio.page)[outside])
    changes = {"prompt": "a blue house", "method": "RePaint", "left": 0, "top": 0}
    changes |= {"wide": 4, "high": side, "seed": 5}
    for name, value in changes.items():
        control = getattr(studio, name)
        old = control.value
        control.value = value
        assert not np.array_equal(np.array(studio.result), before), name
        control.value = old
    assert np.array_equal(np.array(studio.result), before)


def test_the_sentence_gives_both_steps(studio):
    sentence = studio.message.value
    assert f"The border step is {studio.step:.1f} grey levels" in sentence
    assert "Method: replacement. The hole covers 25% of the image." in sentence
    assert studio.alt.startswith("The image with the hole's outline, and the result.")


def test_a_hole_at_the_edge_and_a_full_one_are_filled(studio):
    side = studio.page.width
    studio.left.value, studio.top.value = side - 4, side - 4
    studio.wide.value = studio.high.value = side
    studio.left.value = studio.top.value = 0
    assert studio.mask.mean() == 1
    assert studio.step == 0


def test_without_a_trained_model_there_are_two_methods(studio):
    assert studio.method.options == ("replacement", "RePaint")


def test_the_diagram_of_nine_channels_has_nine():
    page = Image.new("RGB", (64, 64), "white")
    figure = drawn.nine_channel_diagram(page, page, box_mask(64, 8, 8, 20, 20)[0])
    (ax,) = figure.figure.axes
    assert sum(type(patch).__name__ == "Rectangle" for patch in ax.patches) == 9
    assert "concatenated into nine channels" in figure.words
