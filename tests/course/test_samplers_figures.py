"""The figures and the widget of notebook 09: the dataset's denoiser is exact, and what is drawn and
said is what the samplers did."""

import logging
import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.patches import Circle, FancyArrowPatch
from PIL import Image

from sdlearn.course.figures import sampler_charts, sampler_steps, samplers
from sdlearn.course.figures.images import label_font
from sdlearn.course.figures.mixtures import (
    DATA,
    exact_denoiser,
    nearest_cluster,
    ring_mixture,
    sample_mixture,
    sliced_distance,
)
from sdlearn.course.figures.samplers import LIMIT, SIDE, trajectory_image
from sdlearn.course.widgets.samplers import (
    NUM_TRAJECTORIES,
    SamplerWidget,
    exact_flow_ends,
    initial_noise,
    run_sampler,
)
from sdlearn.samplers import SAMPLERS, ddim, ddpm, heun
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
    """The matplotlib figure in place of its picture in few colours."""
    for module in (samplers, sampler_charts, sampler_steps):
        monkeypatch.setattr(module, "few_colours", lambda figure, shades=False: figure)


POINTS = sample_mixture(DATA, 50)
CLUSTERS = nearest_cluster(POINTS)


def test_the_nearest_cluster_is_the_one_a_point_was_drawn_from():
    assert nearest_cluster(DATA.means).tolist() == [0, 1, 2, 3, 4]
    drawn = nearest_cluster(sample_mixture(DATA, 20_000))
    shares = torch.bincount(drawn, minlength=5) / len(drawn)
    assert (shares - DATA.weights).abs().max() < 0.02


def test_the_sliced_distance_is_that_of_a_shift():
    shift = torch.tensor([0.3, 0.0], dtype=torch.float64)
    assert sliced_distance(POINTS, POINTS.flip(0)) < 1e-12
    # The mean of |0.3 cos| over all directions is 0.3 * 2 / pi.
    assert sliced_distance(POINTS, POINTS + shift) == pytest.approx(0.6 / math.pi, rel=2e-3)


@pytest.mark.usefixtures("as_figure")
def test_sets_of_points_have_a_panel_each_and_a_colour_for_each_cluster():
    drawn = samplers.scatter({"one\ntwo": (POINTS, CLUSTERS), "b": (-POINTS, CLUSTERS)}, "A title")
    figure = drawn.figure
    assert figure.get_suptitle() == "A title"
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["one\ntwo", "b"]
    for ax, points in zip(figure.axes, (POINTS, -POINTS), strict=True):
        for k, line in enumerate(ax.lines):
            assert np.array_equal(line.get_xydata(), points[k == CLUSTERS].numpy())
            assert line.get_color() == samplers.COLOURS[k]
        assert ax.get_xlim() == ax.get_ylim() == (-LIMIT, LIMIT)
        assert ax.get_xlabel() == "z, first entry"
    share = (CLUSTERS == 0).double().mean()
    assert (
        f"one, two: standard deviation {POINTS.std(0).mean():.2f}, of the clusters " in drawn.words
    )
    assert f"{share:.0%}" in drawn.words


@pytest.mark.usefixtures("as_figure")
def test_estimates_are_joined_to_the_latents():
    drawn = samplers.estimates({"t": (POINTS, POINTS / 2, CLUSTERS)}, "A title")
    *joins, seen, _, first, _, _, _, _ = drawn.figure.axes[0].lines
    assert len(joins) == 50
    assert np.array_equal(joins[7].get_xydata(), [POINTS[7].tolist(), (POINTS[7] / 2).tolist()])
    assert np.array_equal(seen.get_xydata(), POINTS.numpy())
    assert np.array_equal(first.get_xydata(), (POINTS / 2)[CLUSTERS == 0].numpy())
    middle = ((POINTS / 2).norm(dim=1) < 0.5).double().mean()
    assert f"t: {middle:.0%} of the estimates" in drawn.words
    (legend,) = drawn.figure.legends
    assert [text.get_text()[:8] for text in legend.get_texts()] == ["$z_t$", "estimate", "cluster "]


@pytest.mark.usefixtures("as_figure")
def test_trajectories_have_the_colour_of_the_cluster_they_end_in():
    states = torch.stack([POINTS[:3], POINTS[3:6], POINTS[6:9], POINTS[9:12]])
    drawn = samplers.trajectories({"one": states, "two": states}, "A title")
    *lines, begun, ended = drawn.figure.axes[1].lines
    assert len(lines) == 3
    for k, line in enumerate(lines):
        assert np.array_equal(line.get_xydata(), states[:, k].numpy())
        assert line.get_color() == samplers.COLOURS[CLUSTERS[9 + k]]
    assert np.array_equal(begun.get_xydata(), states[0].numpy())
    assert np.array_equal(ended.get_xydata(), states[-1].numpy())
    assert begun.get_markerfacecolor() == "white"
    assert "two: half of the ends" in drawn.words
    (legend,) = drawn.figure.legends
    names = [text.get_text().split()[0] for text in legend.get_texts()]
    assert names == ["start:", "end", "trajectory,", "cluster"]


@pytest.mark.usefixtures("as_figure")
def test_the_arrows_are_the_score_times_the_noise_level():
    """Against the density on a grid, differentiated numerically."""
    point = at(0.6)
    rest = POINTS[:4].reshape(2, 2, 2)
    drawn = samplers.score_field(exact_denoiser(DATA), [point], [rest], "A title")
    (ax,) = drawn.figure.axes
    arrows = next(c for c in ax.collections if hasattr(c, "U"))
    level = point.sigma / point.alpha

    def log_density(x):
        variance = DATA.stds**2 + level**2
        squared = (x[:, None] - DATA.means).pow(2).sum(-1)
        return (DATA.weights.log() - variance.log() - squared / (2 * variance)).logsumexp(1)

    places = torch.from_numpy(np.stack([arrows.X, arrows.Y], axis=1)).requires_grad_()
    (score,) = torch.autograd.grad(log_density(places).sum(), places)
    assert np.allclose(np.stack([arrows.U, arrows.V], 1), (level * score).numpy())
    first, second, begun, ended = ax.lines
    for k, line in enumerate((first, second)):
        assert np.array_equal(line.get_xydata(), rest[:, k].numpy())
        assert line.get_color() == samplers.COLOURS[nearest_cluster(rest[-1])[k]]
    assert np.array_equal(begun.get_xydata(), rest[0].numpy())
    assert np.array_equal(ended.get_xydata(), rest[-1].numpy())
    (legend,) = drawn.figure.legends
    assert legend.get_texts()[0].get_text() == "darker: higher density"
    assert f"sigma / alpha = {level:.1f}" in drawn.words


@pytest.mark.usefixtures("as_figure")
def test_the_fan_goes_from_much_noise_on_the_left_to_none():
    ratios = torch.tensor([9.0, 3.0, 1.0, 0.0])
    x = torch.tensor([[50.0, -50.0], [2.0, -3.0], [1.0, 1.0], [0.0, 1.0]])
    paths = {"one": [9.0, 2.5, 0.0], "two": [8.0, 0.5, 0.0]}
    drawn = sampler_charts.trajectories_over_sigma(
        ratios, x, torch.tensor([0, 3]), "A title", (4.0, 1.0), paths
    )
    assert drawn.figure.get_suptitle() == "A title"
    panels, strips = drawn.figure.axes[:3], drawn.figure.axes[3:]
    limits = [(9, 4), (4, 1), (1, 0)]
    assert [ax.get_xlim() for ax in panels] == [ax.get_xlim() for ax in strips] == limits
    for ax, (high, _) in zip(panels, limits, strict=True):
        assert ax.get_ylim() == pytest.approx((-2.4 * high, 2.4 * high))
        assert np.array_equal(ax.lines[1].get_xydata(), np.stack([ratios, x[:, 1]], 1))
        assert ax.lines[1].get_color() == samplers.COLOURS[3]
    assert len({ax.get_title(loc="left") for ax in panels}) == 3
    marked = [[[*line.get_xdata()] for line in ax.lines[1::2]] for ax in strips]
    assert marked == [[[9.0], [8.0]], [[2.5], []], [[0.0], [0.5, 0.0]]]
    assert [label.get_text() for label in strips[0].get_yticklabels()] == ["one", "two"]
    assert "falls from 9.0 to 0" in drawn.words
    assert "up to 50 from the middle" in drawn.words
    assert "two: 8.00, 0.50, 0.00" in drawn.words
    plain = sampler_charts.trajectories_over_sigma(ratios, x, torch.tensor([0, 3]), "A title")
    assert len(plain.figure.axes) == 3
    assert "Dots" not in plain.words


def steps_drawn(figure):
    """The ends of the arrows and the dots, by their labels."""
    (ax,) = figure.axes
    arrows = [p for p in ax.patches if isinstance(p, FancyArrowPatch)]
    labels = {text.get_text(): text.xy for text in ax.texts}
    return [p._posA_posB for p in arrows], labels


@pytest.mark.usefixtures("as_figure")
def test_a_step_of_ddim_is_drawn_where_it_goes():
    here, there = at(1.2), at(0.7)
    z, z_0 = torch.tensor([[2.0, 0.5], [-0.5, 1.5]], dtype=torch.float64)
    drawn = sampler_steps.one_ddim_step(z, z_0, here, there, "A title")
    assert drawn.figure.get_suptitle() == "A title"
    *_, state = ddim(lambda z, _: z_0.expand_as(z), z[None], [here, there])
    arrows, labels = steps_drawn(drawn.figure)
    assert np.allclose(labels["$z_s$"], state.z[0])
    feet = [here.alpha * z_0, there.alpha * z_0]
    expected = [(feet[0], z), (feet[1], state.z[0]), (z, state.z[0])]
    assert np.allclose(arrows, [[a.tolist(), b.tolist()] for a, b in expected])
    assert f"is {(state.z[0] - feet[1]).norm():.2f} long" in drawn.words


@pytest.mark.usefixtures("as_figure")
def test_steps_of_ddpm_are_drawn_from_the_posterior():
    here, there = at(1.2), at(0.7)
    z, z_0 = torch.tensor([[2.0, 0.5], [-0.5, 1.5]], dtype=torch.float64)
    fresh = torch.tensor([[1.0, -1.0], [0.3, 0.2]], dtype=torch.float64)
    drawn = sampler_steps.one_ddpm_step(z, z_0, here, there, fresh, "A title")

    def end(noise):
        *_, state = ddpm(lambda z, _: z_0.expand_as(z), z[None], [here, there], lambda: noise)
        return state.z[0]

    arrows, labels = steps_drawn(drawn.figure)
    mean, std = end(torch.zeros(1, 2).double()), (end(fresh[:1]) - end(0 * fresh[:1]))[0].item()
    assert np.allclose(labels["mean"], mean)
    assert np.allclose(arrows, [[z.tolist(), end(row[None]).tolist()] for row in fresh])
    (circle,) = (p for p in drawn.figure.axes[0].patches if isinstance(p, Circle))
    assert circle.radius == pytest.approx(std)
    assert np.allclose(circle.center, mean)
    assert f"standard deviation is {std:.2f}" in drawn.words
    assert (end(0 * fresh[:1]) - z_0).norm() < (torch.tensor(labels["$z_s$ of DDIM"]) - z_0).norm()


@pytest.mark.parametrize("number", [0, 7])
def test_a_chart_refuses_more_lines_than_it_has_colours(number):
    rows = {str(k): [10.0, 1.0] for k in range(number)}
    lines = {name: ((5, 10), levels) for name, levels in rows.items()}
    for draw, name in (
        (lambda: sampler_charts.error_curves(lines, "Title", "error"), "lines"),
        (lambda: sampler_charts.noise_levels(rows, "Title"), "rows"),
    ):
        with pytest.raises(
            ValueError, match=rf"^{name} has {number} entries.* 1 to 6 are accepted$"
        ):
            draw()
    if number:
        x = torch.tensor([[1.0], [0.0]])
        with pytest.raises(ValueError, match=r"^paths has 7 entries"):
            sampler_charts.trajectories_over_sigma(
                x[:, 0] * 10, x, torch.tensor([0]), "Title", paths=rows
            )


@pytest.mark.usefixtures("as_figure")
def test_errors_have_slopes_through_their_points_and_differ_without_colour():
    calls = (5, 10, 38, 40)
    lines = {f"line {k}": (calls, [0.1 * k + 1 / c for c in calls]) for k in range(6)}
    drawn = sampler_charts.error_curves(
        lines, "Title", "error", {1: (10, 0.2), 2: (40, 0.01)}, ("floor", 0.3)
    )
    (ax,) = drawn.figure.axes
    first, second, *drawn_lines, level = ax.lines
    assert np.allclose(first.get_xydata(), [[5, 0.4], [40, 0.05]])
    assert np.allclose(second.get_xydata(), [[5, 0.64], [40, 0.01]])
    for line, (xs, ys) in zip(drawn_lines, lines.values(), strict=True):
        assert np.allclose(line.get_xydata(), np.stack([xs, ys], 1))
    looks = {(line.get_marker(), line.get_linestyle()) for line in drawn_lines}
    assert len(looks) == 6
    assert set(level.get_ydata()) == {0.3}
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert {label.get_text() for label in ax.get_xticklabels()} == {"5", "10", "40"}
    texts = {text.get_text().strip(): text.get_position()[1] for text in ax.texts}
    assert set(texts) == {"slope 1", "slope 2", "floor", *lines}
    heights = sorted(math.log(texts[name]) for name in lines)
    gap = math.log(ax.get_ylim()[1] / ax.get_ylim()[0]) * 0.057
    assert all(b - a >= gap for a, b in pairwise(heights))
    assert "line 0: from 0.2 with 5 calls to 0.025 with 40" in drawn.words


@pytest.mark.usefixtures("as_figure")
def test_noise_levels_fall_from_left_to_right_on_one_axis():
    rows = {"a": [10.0, 1.5, 0.5], "b": [10.0, 0.4, 0.03]}
    drawn = sampler_charts.noise_levels(rows, "A title")
    (ax,) = drawn.figure.axes
    assert [list(line.get_xdata()) for line in ax.lines] == [*rows.values()]
    left, right = ax.get_xlim()
    assert left > right
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert "b: 3 from 10.00 to 0.030, 2 of them below 1" in drawn.words


def test_pictures_have_few_colours():
    drawn = samplers.scatter({str(k): (POINTS, CLUSTERS) for k in range(4)}, "A title")
    assert isinstance(drawn.figure, Image.Image)
    assert len(drawn.figure.getcolors()) <= 128
    assert drawn.figure.size[0] == 900
    point = at(0.6)
    field = samplers.score_field(exact_denoiser(DATA), [point], [POINTS[:4].reshape(2, 2, 2)], "A")
    assert len(field.figure.getcolors()) <= 128
    assert field.figure.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


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
