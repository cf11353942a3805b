"""The figures and the widget of notebook 01."""

import logging
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from sdlearn.course.figures.latent_charts import rate_distortion, reconstruction_fid, unet_cost
from sdlearn.course.figures.latents import (
    basis_images,
    blends,
    error_image,
    image_table,
    outlined,
    pca_beside_jpeg,
    project_patches,
    two_stages,
)
from sdlearn.course.widgets.latents import LatentBlendWidget
from sdlearn.evaluation.image_metrics import as_tensor
from sdlearn.storybook import Scene, Thing, render
from sdlearn.utils.images import to_pil

D = 3 * 8 * 8


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture(scope="module")
def code() -> tuple[torch.Tensor, torch.Tensor]:
    """A middle and 192 directions at right angles."""
    return drawn(D) / 10, torch.linalg.qr(drawn(D, D)).Q


def test_squeezed_is_the_projection_of_every_patch_by_itself(code):
    mean, basis = code
    x = (drawn(2, 3, 16, 24) / 3).clamp(-0.9, 0.9)
    for k in (0, 1, 5, D):
        mine = project_patches(x, mean, basis, k)
        for i, j in ((0, 0), (1, 2), (0, 1)):
            patch = x[1, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8].flatten()
            z = basis[:k] @ (patch - mean)
            expected = (mean + z @ basis[:k]).clamp(-1, 1).view(3, 8, 8)
            seen = mine[1, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
            assert torch.allclose(seen, expected, rtol=0, atol=1e-12)
    assert torch.allclose(project_patches(x, mean, basis, D), x, rtol=0, atol=1e-12)


def test_more_numbers_are_never_worse(code):
    mean, basis = code
    x = (drawn(1, 3, 8, 8) / 3).clamp(-1, 1)
    lost = [(project_patches(x, mean, basis, k) - x).norm().item() for k in range(D + 1)]
    assert all(b <= a + 1e-9 for a, b in pairwise(lost))


@pytest.mark.parametrize("k", [-1, D + 1])
def test_a_number_of_directions_that_are_not_there_is_refused(code, k):
    with pytest.raises(ValueError, match=f"k is {k}; accepted: 0 to {D}"):
        project_patches(drawn(1, 3, 8, 8), *code, k)


def test_directions_show_every_number_in_its_place():
    basis = torch.zeros(2, D)
    basis[0, 2 * 64 + 3 * 8 + 5] = 0.5  # blue, line 3, column 5
    basis[1, 0], basis[1, 63] = 0.2, -0.1  # red, the first and the last
    first, second = (np.array(patch) for patch in basis_images(basis))
    assert first.shape == (8, 8, 3)
    assert first[3, 5].tolist() == [128, 128, 255]
    assert (np.delete(first.reshape(-1, 3), 3 * 8 + 5, axis=0) == 128).all()
    assert (second[0, 0, 0], second[7, 7, 0], second[7, 7, 1]) == (255, 64, 128)


def test_rates_draws_lines_and_points_that_differ_without_colour():
    lines = {"a": ([1, 4, 16], [10.0, 20.0, 30.0]), "b": ([3, 12], [12.0, 15.0])}
    drawn = rate_distortion(lines, {"star": (4, 28.0)}, "Title")
    (ax,) = drawn.figure.axes
    assert [list(line.get_xdata()) for line in ax.lines] == [[1, 4, 16], [3, 12], [4]]
    assert [list(line.get_ydata()) for line in ax.lines] == [[10, 20, 30], [12, 15], [28]]
    assert len({(line.get_linestyle(), line.get_marker()) for line in ax.lines}) == 3
    assert len({line.get_color() for line in ax.lines}) == 3
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "3", "4", "12", "16"]
    assert ax.get_title(loc="left") == "Title"
    assert ax.get_xlabel()
    assert ax.get_ylabel()
    assert "a: 10.0 dB at 1, 30.0 dB at 16; b: 12.0 dB at 3, 15.0 dB at 12" in drawn.words
    assert "star: 28.0 dB at 4" in drawn.words


def test_costs_of_a_position_are_multiples_of_those_of_one_side():
    drawn = unet_cost([8, 32, 64], [0.5, 1.0, 8.0], [10.0, 160.0, 640.0])
    (ax,) = drawn.figure.axes
    shown = {line.get_label(): list(line.get_ydata()) for line in ax.lines}
    assert shown["memory"] == [1, 1, 1]
    assert shown["time"] == [8, 1, 2]
    assert shown["cost ∝ n"] == [1, 1, 1]
    assert shown["cost ∝ n²"] == [1 / 16, 1, 4]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["8²", "32²", "64²"]
    assert "8 × 8 to 64 × 64" in drawn.words


def test_autoencoders_are_drawn_at_their_positions_and_two_are_marked_and_joined():
    published = [(8, 4, 24.19, 0.90), (16, 16, 24.08, 0.87), (16, 8, 21.94, 2.63)]
    drawn = reconstruction_fid(published, [(8, 4), (16, 16)])
    (ax,) = drawn.figure.axes
    *points, joined = ax.lines
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in points] == [
        (4096, 0.90),
        (1024, 0.87),
        (1024, 2.63),
    ]
    assert (*joined.get_xdata(), *joined.get_ydata()) == (4096, 1024, 0.90, 0.87)
    first, second, third = ((line.get_color(), line.get_marker()) for line in points)
    assert first == second
    assert first[0] != third[0]
    assert first[1] != third[1]
    names = [text.get_text() for text in ax.texts]
    assert names[:3] == ["f = 8, c = 4", "f = 16, c = 16", "f = 16, c = 8"]
    assert names[3:] == ["48 times fewer elements"]
    assert "f = 16 and c = 8: 1,024 positions, 2.63" in drawn.words
    assert "joined by a line" in drawn.words
    unequal = reconstruction_fid(published, [(8, 4), (16, 8)])
    assert len(unequal.figure.axes[0].lines) == 3
    assert "joined" not in unequal.words


def test_the_patch_of_one_position_is_outlined():
    drawn = np.array(outlined(Image.new("RGB", (64, 64), "white"), 4, 2, scale=3))
    down, across = np.nonzero((drawn != 255).any(axis=2))
    assert drawn.shape == (192, 192, 3)
    assert (down.min(), down.max() + 1) == (96 - 2, 120 + 2)
    assert (across.min(), across.max() + 1) == (48 - 2, 72 + 2)
    assert (drawn[96:120, 48:72] == 255).all()


def test_the_diagram_draws_image_and_latent_to_scale():
    (ax,) = two_stages().figure.axes
    squares = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert len(squares) == 3 + 4 + 4 + 4 + 3
    sides = sorted({round(square.get_width(), 6) for square in squares})
    assert sides[1] / sides[0] == pytest.approx(8)


def test_a_phone_can_show_the_letters_of_diagrams_and_curves():
    on_a_phone = 345  # pixels for a figure
    lines = {"a": ([1, 4], [10.0, 20.0])}
    for drawn in (
        two_stages(),
        unet_cost([8, 32], [0.5, 1.0], [10.0, 160.0]),
        rate_distortion(lines, {"star": (4, 28.0)}, "Title"),
        reconstruction_fid([(8, 4, 24.19, 0.90), (16, 16, 24.08, 0.87)], [(8, 4)]),
    ):
        figure = drawn.figure
        scale = on_a_phone / (figure.get_figwidth() * 72)
        shown = [text for text in figure.findobj(Text) if text.get_text()]
        assert min(text.get_fontsize() for text in shown) * scale >= 9


def test_an_error_is_drawn_with_its_gain():
    a, b = torch.zeros(3, 64, 64), torch.zeros(3, 64, 64)
    b[:, 0, 0], b[0, 0, 1], b[:, 0, 2] = 0.2, 0.3, 1.0
    shades = np.array(error_image(a, b, gain=5))  # white from an error of 2 / 5 on
    assert shades[0, :4].tolist() == [8 * 17, 4 * 17, 255, 0]


def test_images_are_arranged_in_columns_and_described():
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    drawn = image_table({"left": [red, red], "right": [blue, blue]}, "Title", "Two colours.")
    assert drawn.words == "Images in columns: left; right. Two colours."
    pixels = np.array(drawn.figure)
    reds, blues = ((pixels == colour).all(axis=2) for colour in ([255, 0, 0], [0, 0, 255]))
    assert reds.sum() == blues.sum() == 2 * 12 * 12
    assert np.nonzero(reds)[1].max() < np.nonzero(blues)[1].min()


def test_directions_are_drawn_with_both_signs_below_their_numbers():
    basis = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(3))).Q[:12]
    zeros = torch.zeros(6, dtype=torch.int64)
    pixels = np.array(pca_beside_jpeg(basis, zeros, zeros).figure, int)
    side, block = 64, 6 + (15 + 7) + 70  # a patch, and a block with one row of them
    bottom = len(pixels) - 6 - 2 * block  # of the row of positive coefficients
    plus = pixels[bottom - side : bottom, -6 - side : -6]
    minus = pixels[bottom - side - 70 : bottom - 70, -6 - side : -6]
    assert plus.std() > 10
    assert np.abs(plus + minus - 255).max() <= 1


def test_the_basis_of_jpeg_has_its_frequencies():
    down, across = torch.tensor([0, 0, 1, 2, 1, 0]), torch.tensor([0, 1, 0, 0, 1, 2])
    drawn = pca_beside_jpeg(torch.linalg.qr(torch.randn(D, D)).Q[:12], down, across)
    pixels = np.array(drawn.figure.convert("L"), float)
    low = pixels[-6 - 64 : -6]  # the last row of patches
    last, third = low[:, -6 - 64 : -6], low[:, -6 - 4 * 70 + 6 : -6 - 3 * 70]
    assert last.std(axis=0).max() == 0  # the same in every line: a wave across
    assert last.std(axis=1).min() > 50
    assert third.std(axis=1).max() == 0  # a wave down
    assert third.std(axis=0).min() > 50


@pytest.fixture(scope="module")
def pages():
    things = [Thing("cat", "red", "plain", x, 0.7, 0.4) for x in (0.3, 0.5, 0.7)]
    return [render(Scene("day", "grass", (thing,)), 64) for thing in things]


@pytest.fixture
def blender(tiny_storybook, code, pages):
    mean, basis = (x.float() for x in code)
    return LatentBlendWidget(pages, tiny_storybook.vae, mean, basis)


@pytest.fixture
def set_to(caplog):
    """Move a control. ipywidgets only logs what a callback raises; here that fails the test."""

    def set_to(control, value):
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            control.value = value
        for record in caplog.records:
            if record.exc_info:
                raise record.exc_info[1]

    return set_to


def sentence(blender: LatentBlendWidget) -> str:
    return re.sub(r"<[^>]*>", "", blender.message.value)


@pytest.mark.parametrize("weight", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("k", [0, 1, 4, 191, 192])
def test_blends_at_every_end_of_the_sliders(tiny_storybook, code, pages, weight, k):
    mean, basis = (x.float() for x in code)
    vae, (a, b) = tiny_storybook.vae, as_tensor(pages[:2]).split(1)
    seen = blends(a, b, weight, vae, mean, basis, k)
    z = (1 - weight) * vae.to_latent(a) + weight * vae.to_latent(b)
    assert seen.shape == (3, 3, 64, 64)
    assert torch.allclose(seen[0], ((1 - weight) * a + weight * b)[0], atol=1e-6)
    mixed = (1 - weight) * squeezed_free(a, mean, basis, k) + weight * squeezed_free(
        b, mean, basis, k
    )
    assert torch.allclose(seen[1], mixed[0].clamp(-1, 1), atol=1e-4)
    assert torch.allclose(seen[2], vae.to_image(z)[0], atol=1e-4)


def squeezed_free(x, mean, basis, k):
    """Without the clamp, which alone is not linear."""
    small = project_patches(x / 100, mean / 100, basis, k)
    return small * 100


def test_it_shows_the_blends_and_says_how_good_they_are(blender, set_to, code, pages):
    mean, basis = (x.float() for x in code)
    assert re.fullmatch(
        r"Image 0 with 4 PCA values for each patch of 8 × 8 pixels: -?\d+\.\d dB; "
        r"with the 4 of its latent: -?\d+\.\d dB\.",
        sentence(blender),
    )
    set_to(blender.second, 2)
    set_to(blender.weight, 0.25)
    set_to(blender.numbers, 16)
    assert sentence(blender) == "Image 0 and image 2, 25% of the way."
    a, _, b = as_tensor(pages).split(1)
    expected = to_pil(blends(a, b, 0.25, blender.vae, mean, basis, 16))
    shown = np.array(blender.image)
    for one in expected:
        big = np.array(one).repeat(3, axis=0).repeat(3, axis=1)
        places = [
            x for x in range(shown.shape[1] - 192)
            if np.array_equal(shown[-192 - 6 : -6, x : x + 192], big)
        ]  # fmt: skip
        assert len(places) >= 1
    assert "25% of the way" in blender.view.value
    assert 'role="status"' in blender.message.value
    set_to(blender.weight, 1.0)
    assert sentence(blender).startswith("Image 2 with 16 PCA values")


@pytest.mark.parametrize(
    ("control", "value"), [("first", 2), ("second", 2), ("weight", 0.8), ("numbers", 40)]
)
def test_every_control_matters(blender, set_to, control, value):
    set_to(blender.weight, 0.5)
    before = np.array(blender.image)
    set_to(getattr(blender, control), value)
    after = np.array(blender.image)
    assert before.shape != after.shape or not np.array_equal(before, after)


def test_every_control_has_a_name_and_takes_the_keyboard(blender):
    controls = [blender.first, blender.second, blender.weight, blender.numbers]
    assert list(blender.children[:4]) == controls
    for control in controls:
        assert control.description
        assert control.tabbable is not False
        assert not control.disabled


def test_a_mistake_of_ours_is_not_swallowed(blender, set_to, monkeypatch):
    monkeypatch.setattr(blender.vae, "to_image", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        set_to(blender.weight, 0.4)
