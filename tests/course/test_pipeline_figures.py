"""The figures and the widget of notebook 11."""

import logging
import re
from itertools import pairwise

import numpy as np
import pytest
import torch

from sdlearn.course.figures.attention import heatmap
from sdlearn.course.figures.pipeline import (
    INTERPOLATIONS,
    interpolate,
    lerp_and_slerp,
    maps_and_masks,
    side_by_side,
    strengths_on_path,
)
from sdlearn.course.widgets import InterpolationWidget
from sdlearn.schedule import NoiseSchedule
from sdlearn.storybook import Scene, Thing, render

PROMPTS = "a red cat on the sand", "a blue house on the sand at night"


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("strengths", [[0.0], [0.2, 0.77, 1.0]])
def test_doors_marks_the_point_at_which_each_strength_enters(strengths):
    path = NoiseSchedule().path(10)
    (ax,) = strengths_on_path(path, strengths).axes
    alpha, sigma, *marks = ax.lines
    assert list(alpha.get_ydata()) == pytest.approx([float(p.alpha) for p in path])
    assert list(sigma.get_ydata()) == pytest.approx([float(p.sigma) for p in path])
    entered = {0.0: 10, 0.2: 8, 0.77: 3, 1.0: 0}
    assert [line.get_xdata()[0] for line in marks] == [entered[s] for s in strengths]
    texts = [text.get_text() for text in ax.texts]
    assert texts[:-1] == [f"{s:g}" for s in strengths]
    assert alpha.get_linestyle() != sigma.get_linestyle()
    assert ax.get_title(loc="left")
    assert ax.get_xlabel()
    assert ax.get_ylabel()


@pytest.mark.parametrize("way", INTERPOLATIONS)
@pytest.mark.parametrize("w", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_between_is_at_every_place_where_it_should_be(way, w):
    a, b = drawn(3, 2, 4, 5), 2 * drawn(3, 2, 4, 5, seed=1)
    z = interpolate(a, b, w, way)
    for k in range(3):
        x, y = a[k].flatten(), b[k].flatten()
        if way == "straight":
            expected = (1 - w) * x + w * y
        else:
            angle = torch.acos(x @ y / x.norm() / y.norm())
            expected = (torch.sin((1 - w) * angle) * x + torch.sin(w * angle) * y) / angle.sin()
        assert torch.allclose(z[k].flatten(), expected, rtol=0, atol=1e-12)
        # An example alone, without a batch, goes the same way.
        assert torch.allclose(interpolate(a[k], b[k], w, way), z[k], rtol=0, atol=1e-12)


def test_the_sphere_keeps_equal_lengths_and_turns_by_equal_angles():
    a, b = (x / x.norm() for x in (drawn(4, 8, 8), drawn(4, 8, 8, seed=1)))
    steps = [interpolate(a, b, k / 5, "on the sphere") for k in range(6)]
    assert torch.allclose(torch.stack([z.norm() for z in steps]), torch.ones(6).double())
    turns = [float((x * y).sum()) for x, y in pairwise(steps)]
    assert max(turns) - min(turns) < 1e-12


def test_noises_of_one_direction_have_a_straight_way():
    a = torch.ones(1, 2, 3, 3, dtype=torch.float64)
    z = interpolate(a, 3 * a, 0.25, "on the sphere")
    assert torch.allclose(z, 1.5 * a, rtol=0, atol=1e-12)


def test_another_way_is_refused():
    with pytest.raises(ValueError, match="path is 'curved'; accepted: on the sphere, straight"):
        interpolate(drawn(1, 2, 2), drawn(1, 2, 2), 0.5, "curved")


def test_chord_and_arc_draws_both_ways_in_their_plane():
    a, b = drawn(4, 8, 8), drawn(4, 8, 8, seed=1)
    (ax,) = lerp_and_slerp(a, b, 4).axes
    for line, way in zip(ax.lines[:2], INTERPOLATIONS, strict=True):
        lengths = np.hypot(line.get_xdata(), line.get_ydata())
        expected = [float(interpolate(a, b, k / 4, way).norm()) for k in range(5)]
        assert list(lengths) == pytest.approx(expected)
        assert line.get_xdata()[0] == pytest.approx(float(a.norm()))
    assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle()
    assert "256 numbers" in ax.get_title(loc="left")


@pytest.fixture(scope="module")
def pages():
    things = [Thing("cat", "red", "plain", x, 0.7, 0.4) for x in (0.3, 0.6)]
    return [render(Scene("day", "grass", (thing,)), 64) for thing in things]


def holds(page, picture, scale: int = 2) -> bool:
    big = np.array(picture.convert("RGB")).repeat(scale, axis=0).repeat(scale, axis=1)
    whole = np.array(page)
    h, w = big.shape[:2]
    return any(
        np.array_equal(whole[i : i + h, j : j + w], big)
        for i in range(whole.shape[0] - h + 1)
        for j in np.flatnonzero((whole[i, : whole.shape[1] - w + 1] == big[0, 0]).all(-1))
        if np.array_equal(whole[i, j : j + w], big[0])
    )


def test_beside_truth_shows_page_mask_and_maps(pages):
    masks = [(drawn(8, 8, seed=k) > 0).float() for k in (0, 1)]
    maps = {"own": [drawn(8, 8, seed=k).abs() for k in (2, 3)]}
    sheet = maps_and_masks(pages, masks, maps, "Title", ["cat", "other cat"])
    for k in (0, 1):
        assert holds(sheet, pages[k])
        assert holds(sheet, heatmap(masks[k], most=1.0))
        assert holds(sheet, heatmap(maps["own"][k]))


def test_side_by_side_takes_pictures_of_any_size(pages):
    wide = pages[0].resize((96, 32))
    sheet = side_by_side([pages[0], wide], ["a page", "another"], "Title")
    assert holds(sheet, pages[0])
    assert holds(sheet, wide)
    assert sheet.width >= 2 * (64 + 96)
    # Long words do not run out of the page.
    assert side_by_side([wide], ["a"], "many words " * 9).width > 600


# ------------------------------------------------------------------------------------- the widget


@pytest.fixture
def crossing(tiny_storybook):
    return InterpolationWidget(tiny_storybook, PROMPTS, (3, 5), steps=3)


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


def sentence(crossing: InterpolationWidget) -> str:
    return re.sub(r"<[^>]*>", "", crossing.message.value)


def test_its_corners_are_the_library_s_pictures(crossing, set_to, tiny_storybook):
    for words in (0, 1):
        for noise in (0, 1):
            set_to(crossing.words, words)
            set_to(crossing.noise, noise)
            (expected,) = tiny_storybook.text_to_image(
                PROMPTS[words], steps=3, sampler="ddim", seed=(3, 5)[noise], progress=False
            )
            assert np.array_equal(np.array(crossing.image), np.array(expected))


@pytest.mark.parametrize("way", INTERPOLATIONS)
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.5, 1.0])
def test_it_draws_from_the_noise_it_says(crossing, set_to, tiny_storybook, way, noise):
    set_to(crossing.path, way)
    set_to(crossing.noise, noise)
    set_to(crossing.words, 0)
    ends = [
        torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (3, 5)
    ]
    z = interpolate(*ends, noise, way)
    (expected,) = tiny_storybook.text_to_image(
        PROMPTS[0], steps=3, sampler="ddim", noise=z, progress=False
    )
    assert np.array_equal(np.array(crossing.image), np.array(expected))
    assert crossing.length == pytest.approx(float(z.norm()))
    assert sentence(crossing) == (
        f"0% of the way from the first prompt to the second, {noise:.0%} from seed 3 to seed 5, "
        f"{way}: the noise has norm {float(z.norm()):.1f}."
    )
    assert 'role="status"' in crossing.message.value
    assert f"{noise:.0%} from seed 3" in crossing.view.value


@pytest.mark.parametrize(
    ("control", "value"),
    [
        ("first", "two green fish in the sea by day"),
        ("second", "two green fish in the sea by day"),
        ("words", 1.0),
        ("noise", 0.9),
        ("path", "straight"),
    ],
)
def test_every_control_matters(crossing, set_to, control, value):
    set_to(crossing.words, 0.5)
    set_to(crossing.noise, 0.5)
    before = np.array(crossing.image)
    set_to(getattr(crossing, control), value)
    assert not np.array_equal(np.array(crossing.image), before)


@pytest.mark.parametrize("k", [0, 1])
def test_every_seed_matters(crossing, set_to, k):
    set_to(crossing.noise, 0.5)
    before = np.array(crossing.image)
    set_to(crossing.seeds[k], 77)
    assert not np.array_equal(np.array(crossing.image), before)


def test_words_between_are_mixed_in_a_straight_line(crossing, set_to, tiny_storybook):
    set_to(crossing.words, 0.25)
    first, second = (tiny_storybook.text([prompt]).context for prompt in PROMPTS)
    crossing.states[PROMPTS[0]] = 0.75 * first + 0.25 * second
    crossing.states["other"] = first
    mixed = np.array(crossing.image)
    set_to(crossing.words, 0)
    assert np.abs(np.array(crossing.image, int) - mixed.astype(int)).max() <= 1


def test_every_control_has_a_name_and_takes_the_keyboard(crossing):
    controls = crossing.children[:7]
    assert len({control.description for control in controls}) == 7
    for control in controls:
        assert control.description
        assert control.tabbable is not False
        assert not control.disabled


def test_a_mistake_of_ours_is_not_swallowed(crossing, set_to, monkeypatch):
    monkeypatch.setattr(crossing.sd.vae, "to_image", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        set_to(crossing.noise, 0.4)
