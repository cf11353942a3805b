"""The figures and the widget of notebook 09: the world's denoiser is exact, and what is drawn and
said is what the samplers did."""

import logging
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from sdlearn.course.figures import samplers
from sdlearn.course.figures.images import label_font
from sdlearn.course.figures.samplers import (
    DATA,
    LIMIT,
    SIDE,
    exact_denoiser,
    ring_mixture,
    sample_mixture,
    trajectory_image,
)
from sdlearn.course.widgets.samplers import (
    NUM_TRAJECTORIES,
    SamplerWidget,
    exact_flow_ends,
    initial_noise,
    run_sampler,
)
from sdlearn.samplers import SAMPLERS, heun
from sdlearn.schedule import NoiseSchedule, Point


def at(angle):
    angle = torch.tensor(angle, dtype=torch.float64)
    return Point(0.0, angle.cos(), angle.sin())


# --------------------------------------------------------------------------------------- the world


def test_the_world_is_what_it_says():
    assert DATA.weights.sum().item() == pytest.approx(1)
    assert torch.allclose(DATA.means.norm(dim=1), torch.full((5,), 1.3, dtype=torch.float64))
    z = sample_mixture(DATA, 40_000)
    assert z.shape == (40_000, 2)
    assert z.dtype == torch.float64
    middle = (DATA.weights[:, None] * DATA.means).sum(0)
    assert (z.mean(0) - middle).abs().max() < 0.02
    second = (DATA.weights * (DATA.means.pow(2).sum(1) + 2 * DATA.stds**2)).sum()
    assert z.pow(2).sum(1).mean().item() == pytest.approx(second.item(), rel=0.02)
    assert torch.equal(z, sample_mixture(DATA, 40_000))
    assert not torch.equal(z, sample_mixture(DATA, 40_000, seed=1))


def test_a_ring_begins_at_the_top_and_turns_to_the_left():
    world = ring_mixture(2.0, (0.25, 0.25, 0.25, 0.25), (0.1, 0.2, 0.3, 0.4))
    expected = torch.tensor([[0, 2], [-2, 0], [0, -2], [2, 0]], dtype=torch.float64)
    assert torch.allclose(world.means, expected, atol=1e-12)
    assert world.stds.tolist() == [0.1, 0.2, 0.3, 0.4]


def test_the_denoiser_is_the_mean_of_what_led_there():
    """By numerical integration over z_0, on a fine grid of the plane."""
    side = torch.linspace(-3.5, 3.5, 561, dtype=torch.float64)
    z_0 = torch.cartesian_prod(side, side)
    squared = (z_0[:, None] - DATA.means).pow(2).sum(-1)
    density = (DATA.weights / DATA.stds**2 * (-squared / (2 * DATA.stds**2)).exp()).sum(1)
    for angle in (0.2, 0.9, 1.5):
        point = at(angle)
        for place in ((0.3, -0.2), (-1.1, 0.8), (1.4, 1.4)):
            z = torch.tensor([place], dtype=torch.float64)
            away = (z - point.alpha * z_0).pow(2).sum(1)
            weight = density * (-(away - away.min()) / (2 * point.sigma**2)).exp()
            mean = (weight[:, None] * z_0).sum(0) / weight.sum()
            assert torch.allclose(exact_denoiser(DATA)(z, point)[0], mean, atol=1e-6)


def test_the_denoiser_keeps_the_type_and_stays_finite():
    z = torch.tensor([[40.0, -3.0], [0.0, 0.0]])
    clean = Point(-1.0, torch.ones(()).double(), torch.zeros(()).double())
    for point in (at(1e-4), at(math.pi / 2), clean):
        found = exact_denoiser(DATA)(z, point)
        assert found.dtype == torch.float32
        assert found.isfinite().all()
    assert torch.allclose(exact_denoiser(DATA)(z, clean), z, atol=1e-4)


# ------------------------------------------------------------------------------------- the figures


@pytest.fixture
def as_figure(monkeypatch):
    """The matplotlib figure in place of its picture in greys."""
    monkeypatch.setattr(samplers, "to_greyscale", lambda figure: figure)


POINTS = sample_mixture(DATA, 50)


@pytest.mark.usefixtures("as_figure")
def test_clouds_have_one_plane_for_each_set():
    figure = samplers.scatter({"one": POINTS, "two": -POINTS}, "A title", across=2)
    assert figure.get_suptitle() == "A title"
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["one", "two"]
    for ax, points in zip(figure.axes, (POINTS, -POINTS), strict=True):
        (line,) = ax.lines
        assert np.array_equal(line.get_xydata(), points.numpy())
        assert ax.get_xlim() == ax.get_ylim() == (-LIMIT, LIMIT)
        assert ax.get_xlabel() == "first number"
    assert figure.axes[0].get_ylabel() == "second number"
    odd = samplers.scatter({"a": POINTS, "b": POINTS, "c": POINTS}, "", across=2)
    assert [ax.axison for ax in odd.axes] == [True, True, True, False]


@pytest.mark.usefixtures("as_figure")
def test_guesses_are_joined_to_what_was_seen():
    figure = samplers.estimates({"t": (POINTS, POINTS / 2)}, "A title")
    *joins, seen, guessed = figure.axes[0].lines
    assert len(joins) == 50
    assert np.array_equal(joins[7].get_xydata(), [POINTS[7].tolist(), (POINTS[7] / 2).tolist()])
    assert np.array_equal(seen.get_xydata(), POINTS.numpy())
    assert np.array_equal(guessed.get_xydata(), (POINTS / 2).numpy())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "$z_t$",
        r"estimate of $z_0$",
    ]


@pytest.mark.usefixtures("as_figure")
def test_walks_are_drawn_from_start_to_end_over_the_data():
    states = torch.stack([POINTS[:3], POINTS[3:6], POINTS[6:9], POINTS[9:12]])
    figure = samplers.trajectories({"one": states, "two": states}, "A title", POINTS)
    data, *ways, begun, ended = figure.axes[1].lines
    assert np.array_equal(data.get_xydata(), POINTS.numpy())
    assert [np.array_equal(w.get_xydata(), states[:, k].numpy()) for k, w in enumerate(ways)] == [
        True
    ] * 3
    assert np.array_equal(begun.get_xydata(), states[0].numpy())
    assert np.array_equal(ended.get_xydata(), states[-1].numpy())
    assert begun.get_markerfacecolor() == "white"
    assert len(figure.legends[0].get_texts()) == 3


@pytest.mark.usefixtures("as_figure")
def test_the_fan_goes_from_much_noise_on_the_left_to_none():
    ratios = torch.tensor([9.0, 3.0, 1.0, 0.0])
    x = torch.tensor([[50.0, -50.0], [2.0, -3.0], [1.0, 1.0], [0.0, 1.0]])
    figure = samplers.trajectories_over_sigma(ratios, x, "A title")
    assert figure.get_suptitle() == "A title"
    whole, end = figure.axes
    assert whole.get_xlim() == (9, 0)
    low, high = whole.get_ylim()
    assert low < -50
    assert high > 50
    assert end.get_xlim() == (2, 0)
    assert end.get_ylim() == (-3, 3)
    for ax in (whole, end):
        assert np.array_equal(ax.lines[1].get_xydata(), np.stack([ratios, x[:, 1]], 1))
    assert whole.get_title(loc="left") != end.get_title(loc="left")


@pytest.mark.usefixtures("as_figure")
def test_errors_have_slopes_through_their_points_and_differ_without_colour():
    calls = (5, 10, 38, 40)
    lines = {f"line {k}": (calls, [0.1 * k + 1 / c for c in calls]) for k in range(6)}
    figure = samplers.error_curves(
        lines, "Title", "error", {1: (10, 0.2), 2: (40, 0.01)}, ("floor", 0.3)
    )
    (ax,) = figure.axes
    first, second, *drawn_lines, level = ax.lines
    assert np.allclose(first.get_xydata(), [[5, 0.4], [40, 0.05]])
    assert np.allclose(second.get_xydata(), [[5, 0.64], [40, 0.01]])
    assert [text.get_text() for text in ax.texts] == [" slope 1", " slope 2"]
    for line, (xs, ys) in zip(drawn_lines, lines.values(), strict=True):
        assert np.allclose(line.get_xydata(), np.stack([xs, ys], 1))
    looks = {(line.get_marker(), line.get_linestyle()) for line in drawn_lines}
    assert len(looks) == 6
    assert set(level.get_ydata()) == {0.3}
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert {label.get_text() for label in ax.get_xticklabels()} == {"5", "10", "40"}
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == [*lines, "floor"]
    (plain,) = samplers.error_curves(lines, "Title", "error", band=("chance", 0.02, 0.05)).axes
    (band,) = plain.patches
    assert band.get_label() == "chance"
    assert band.get_extents().height > 0
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((0.02, 0.05))


def test_pictures_have_few_greys():
    picture = samplers.scatter({"one": POINTS}, "A title", across=4)
    assert isinstance(picture, Image.Image)
    assert len(picture.getcolors()) <= samplers.SHADES
    assert picture.size[0] == 900


def test_a_page_shows_the_walk_where_it_went():
    up = torch.tensor([[[-2.0, 0.0]], [[0.0, 0.0]], [[0.0, 2.0]]])
    page = np.array(trajectory_image(up, POINTS[:0], "A title").convert("L"))
    assert page.shape == (SIDE + 40, SIDE + 20)
    inner = page[30 : 30 + SIDE, 10 : 10 + SIDE]

    def shade(x, y):
        return inner[round((1 - y / LIMIT) * SIDE / 2), round((1 + x / LIMIT) * SIDE / 2)]

    assert shade(0, 2) < 60  # the end is filled
    assert shade(-2, 0) > 200  # the start is hollow
    assert shade(-1, 0) < 160
    assert shade(0, 1) < 160
    for empty in ((1, 0), (0, -1), (-1, 1), (1.5, 2)):
        assert shade(*empty) > 250


def test_a_walk_that_runs_away_stops_at_the_edge():
    wild = torch.tensor([[[0.0, 0.0]], [[400.0, 0.0]], [[400.0, -900.0]]])
    inner = np.array(trajectory_image(wild, POINTS[:0], "").convert("L"))[30:-10, 10:-10]
    y, x = np.nonzero(inner < 100)
    assert (x.max(), y.max()) == (SIDE - 1, SIDE - 1)


# -------------------------------------------------------------------------------------- the widget


@pytest.fixture
def widget(caplog):
    """ipywidgets only logs what a callback raises; here that fails the test."""
    with caplog.at_level(logging.WARNING):
        yield SamplerWidget()
    for record in caplog.records:
        if record.exc_info:
            raise record.exc_info[1]


def text(part):
    return re.sub(r"<[^>]*>", "", part.value)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_walk_starts_in_the_same_noise_and_ends_clean(name):
    calls = {"heun": 23, "plms": 13}.get(name, 12)
    states, asked = run_sampler(name, 12, 0.0, seed=3)
    assert asked == calls
    assert torch.equal(states[0].z, initial_noise(3))
    assert states[-1].point.sigma == 0
    assert states[0].point.alpha.item() == pytest.approx(0.0682, abs=1e-3)
    assert states[-1].z.shape == (NUM_TRAJECTORIES, 2)
    ended = torch.cdist(states[-1].z, DATA.means).min(dim=1).values
    assert ended.median() < 0.6
    again, _ = run_sampler(name, 12, 0.0, seed=3)
    assert torch.equal(again[-1].z, states[-1].z)


def test_the_exact_ends_are_those_of_the_flow():
    path = NoiseSchedule().path(1000, "trailing", "zero", steps_in="sigma")
    *_, last = heun(exact_denoiser(DATA), initial_noise(5), path)
    assert (exact_flow_ends(5) - last.z).norm(dim=1).median() < 0.01
    assert not torch.equal(exact_flow_ends(5), exact_flow_ends(6))


def test_it_says_how_far_the_walks_ended_from_the_flow(widget):
    for name, steps, calls in (("ddim", 1, 1), ("heun", 20, 39), ("dpm_pp_2m", 60, 60)):
        widget.sampler.value, widget.steps.value = name, steps
        states, _ = run_sampler(name, steps, 0.0, 0)
        error = (states[-1].z - exact_flow_ends(0)).norm(dim=1).median().item()
        assert widget.calls == calls
        assert widget.error == pytest.approx(error, abs=1e-12)
        taken = "1 step, 1 call of" if steps == 1 else f"{steps} steps, {calls} calls of"
        assert f"{name}, {taken}" in text(widget.message)
        assert f"within {error:.3f}" in text(widget.message)
    assert 'role="status"' in widget.message.value


def test_with_fresh_noise_there_is_no_single_right_end(widget):
    for name, eta in (("ddpm", 0.0), ("euler_ancestral", 0.0), ("ddim", 0.3)):
        widget.sampler.value, widget.eta.value = name, eta
        assert widget.error is None
        assert "no single right end" in text(widget.message)
    widget.eta.value = 0.0
    assert widget.error is not None


@pytest.mark.parametrize(
    ("control", "value"),
    [("sampler", "heun"), ("steps", 3), ("eta", 0.5), ("seed", 1), ("shown", "z_0")],
)
def test_every_control_matters(widget, control, value):
    before = np.array(widget.image.convert("L"))
    getattr(widget, control).value = value
    after = np.array(widget.image.convert("L"))
    assert before.shape == after.shape
    assert not np.array_equal(before, after)
    assert "trajectories over five clusters" in widget.view.value


def test_eta_is_for_ddim_only(widget):
    assert not widget.eta.disabled
    widget.sampler.value = "heun"
    assert widget.eta.disabled
    before = np.array(widget.image.convert("L"))
    widget.eta.value = 0.7
    assert np.array_equal(before, np.array(widget.image.convert("L")))


def test_it_answers_over_its_whole_range(widget):
    for name in SAMPLERS:
        widget.sampler.value = name
        for steps, eta, seed in ((1, 0.0, 0), (2, 1.0, 50), (60, 0.45, 7)):
            widget.steps.value, widget.eta.value, widget.seed.value = steps, eta, seed
            for shown in ("z_0", "z"):
                widget.shown.value = shown
                assert widget.image.size == (SIDE + 20, SIDE + 40)
            assert f"{name}, {steps} step{'s' * (steps > 1)}, " in text(widget.message)


def test_the_picture_says_what_it_shows(widget, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "sdlearn.course.widgets.samplers.trajectory_image",
        lambda states, data, title: titles.append(title) or trajectory_image(states, data, title),
    )
    widget.steps.value = 20
    widget.eta.value = 0.8
    widget.sampler.value = "euler_ancestral"
    widget.shown.value = "z_0"
    assert titles == [
        "ddim, 20 steps: z",
        "ddim, 20 steps, eta 0.8: z",
        "euler_ancestral, 20 steps: z",
        "euler_ancestral, 20 steps: estimates of z_0",
    ]
    assert label_font(19).getlength("euler_ancestral, 60 steps: estimates of z_0") <= SIDE


def test_every_control_has_a_name(widget):
    controls = [widget.sampler, widget.steps, widget.eta, widget.seed, widget.shown]
    assert controls == list(widget.children[:5])
    assert all(control.description for control in controls)
