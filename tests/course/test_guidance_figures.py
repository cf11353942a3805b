"""The line of notebook 10: its densities are exact, its walkers arrive where they should, and the
widget says so."""

import logging
import math
import re

import numpy as np
import pytest
import torch

from sdlearn.course.figures import guidance as line
from sdlearn.course.widgets.guidance import AWAY, GuidanceWidget
from sdlearn.guidance import classifier_free_guidance
from sdlearn.text import Conditioning

STEP = float(line.GRID[1] - line.GRID[0])


def told(prompt, b):
    return Conditioning(line.mixture_weights(prompt).expand(b, 1, 3))


@pytest.mark.parametrize("prompt", line.WEIGHTS)
@pytest.mark.parametrize(("alpha", "sigma"), [(1.0, 0.0), (0.6, 0.8), (0.1, 0.9)])
def test_the_densities_have_area_one_and_the_right_moments(prompt, alpha, sigma):
    shares = line.mixture_weights(prompt)
    density = line.log_density(line.GRID, shares, alpha, sigma).exp()
    assert float(density.sum() * STEP) == pytest.approx(1, abs=1e-9)
    mean = float(shares @ line.MEANS)
    second = float(shares @ (line.STDS**2 + line.MEANS**2))
    variance = alpha**2 * (second - mean**2) + sigma**2
    found = line.moments(density)
    assert found[:2] == pytest.approx((alpha * mean, math.sqrt(variance)), abs=1e-9)


@pytest.mark.parametrize("prompt", line.WEIGHTS)
@pytest.mark.parametrize("t", [20, 400, 950])
def test_the_network_gives_the_score(prompt, t):
    z = torch.linspace(-4, 3, 24, dtype=torch.float64, requires_grad=True)
    alpha, sigma = line.SCHEDULE.at(t)
    logs = line.log_density(z, line.mixture_weights(prompt), float(alpha), float(sigma))
    (slope,) = torch.autograd.grad(logs.sum(), z)
    rows = z.detach().view(2, 3, 2, 2), torch.full((2,), t)
    noise = line.exact_noise(*rows, told(prompt, 2).context).flatten()
    assert torch.allclose(noise, -sigma * slope, rtol=0, atol=1e-12)


def test_half_of_the_cats_are_grown():
    cats = line.log_density(line.GRID, line.mixture_weights("cat")).exp()
    assert line.moments(cats)[2] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("away", AWAY.values())
def test_sharpened_densities_begin_at_one_prompt_and_pass_the_other(away):
    for scale, prompt in ((0, away), (1, "cat")):
        expected = line.log_density(line.GRID, line.mixture_weights(prompt)).exp()
        assert torch.allclose(line.sharpened_density(away, scale), expected, rtol=0, atol=1e-9)
    for scale in (0.25, 2.0, 8.0):
        density = line.sharpened_density(away, scale)
        assert density.isfinite().all()
        assert float(density.sum() * STEP) == pytest.approx(1, abs=1e-9)


def test_unguided_walkers_arrive_at_the_density():
    for scale, prompt in ((0, ""), (1, "cat")):
        density = line.log_density(line.GRID, line.mixture_weights(prompt)).exp()
        below = (density * STEP).cumsum(0)
        ends = line.guided_samples(scale, steps=400)
        found = torch.from_numpy(np.interp(ends.numpy(), line.GRID.numpy(), below.numpy()))
        quantiles = (torch.arange(400) + 0.5) / 400
        assert float((found - quantiles).abs().max()) < 0.01


def test_guided_walkers_do_not_arrive_at_the_sharpened_density():
    ends, goal = line.guided_samples(3.0, steps=400), line.moments(line.sharpened_density("", 3.0))
    assert float((ends > line.THRESHOLD).double().mean()) < 0.05 < 0.4 < goal[2]
    assert float(ends.std()) < 0.5 < 0.8 < goal[1]
    assert float(ends.mean()) < -1.8 < -1.2 < goal[0]
    spared = line.guided_samples(3.0, interval=(0, 600), steps=400)
    assert float((spared > line.THRESHOLD).double().mean()) > 0.2


def test_walkers_keep_their_order_and_an_interval_of_nothing_is_no_guidance():
    for scale in (0.0, 3.0, 8.0):
        assert (line.guided_samples(scale).diff() > 0).all()
    never = line.guided_samples(5.0, "dog", interval=(998.5, 998.6))
    assert torch.equal(never, line.guided_samples(1.0))


def test_the_walk_uses_the_finished_guidance():
    z, t = torch.tensor([-1.0, 0.5], dtype=torch.float64).view(2, 1, 1, 1), torch.tensor([400, 400])
    output = classifier_free_guidance(line.exact_noise, told("cat", 2), told("", 2), 3.0)(z, t)
    without, given = (line.exact_noise(z, t, told(prompt, 2).context) for prompt in ("", "cat"))
    assert torch.allclose(output, without + 3 * (given - without), rtol=0, atol=1e-12)


def test_an_outline_has_area_one_and_the_density_of_its_quantiles():
    quantiles = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    z = torch.special.ndtri(quantiles)
    sizes, heights = line.density_from_quantiles(z.flip(0))
    expected = (-(sizes**2) / 2).exp() / math.sqrt(2 * math.pi)
    assert float((heights - expected).abs()[101:-101].max()) < 0.002
    assert float((heights[1:-1] * z.diff()).sum()) == pytest.approx(0.999, abs=1e-9)
    assert heights[0] == heights[-1] == 0
    assert (sizes.diff() > 0).all()
    for end in (slice(2), slice(-2, None)):  # half a share of 1/n outside, and half between two
        assert float(torch.trapezoid(heights[end], sizes[end])) == pytest.approx(0.001, rel=1e-9)
    assert line.density_from_quantiles(torch.zeros(5))[1].isfinite().all()


# ----------------------------------------------------------------------------------------- figures


def test_densities_hold_what_they_are_given_and_differ_without_colour():
    xs = torch.linspace(-1, 1, 5)
    lines = {"a line": (xs, xs**2), "another": (xs, xs.abs())}
    parts = [line.DensityPanel(f"panel {k}", (xs, k + xs), lines) for k in range(3)]
    drawn = line.densities(parts, "A title", "what is filled", (-1, 1), 3.0)
    figure = drawn.figure
    assert "panel 1: what is filled 100%, a line 100%, another 100%." in drawn.words
    panels = [ax for ax in figure.axes if ax.lines]
    assert [ax.get_title(loc="left") for ax in panels] == ["panel 0", "panel 1", "panel 2"]
    for k, ax in enumerate(panels):
        assert ax.get_xlabel() == ("size z" if k > 0 else "")
        assert ax.get_ylabel() == ("density" if k % 2 == 0 else "")
        assert (ax.get_xlim(), ax.get_ylim()) == ((-1, 1), (0, 3))
        edge, one, other = ax.lines
        assert list(edge.get_ydata()) == pytest.approx((k + xs).tolist())
        assert list(one.get_ydata()) == pytest.approx((xs**2).tolist())
        assert one.get_linestyle() != other.get_linestyle()
        assert len(ax.collections) == 1
    (legend,) = figure.legends
    said = {text.get_text() for text in legend.get_texts()}
    assert said == {"what is filled", "a line", "another"}


def test_trajectories_that_end_as_grown_cats_have_another_colour():
    walk = torch.stack([torch.linspace(-2, 2, 40), torch.linspace(-3, 0, 40)])
    drawn = line.trajectories({"one": walk, "two": walk + 5}, [999, -1], "A title", every=10)
    assert "one: 1 of 4 end as grown cats. two: 4 of 4" in drawn.words
    left, right = drawn.figure.axes
    assert [ax.get_title(loc="left") for ax in (left, right)] == ["one", "two"]
    assert left.get_xlim() == (999, -1)
    chosen = [5, 15, 25, 35]
    assert [list(path.get_ydata()) for path in left.lines] == [walk[:, k].tolist() for k in chosen]
    dark = [path.get_color() == line.VERMILION for path in left.lines]
    assert (
        dark == [bool(walk[-1, k] > line.THRESHOLD) for k in chosen] == [False, False, False, True]
    )
    assert all(path.get_color() == line.VERMILION for path in right.lines)


# --------------------------------------------------------------------------------------- the widget


@pytest.fixture
def widget(caplog):
    """ipywidgets only logs what a callback raises; here that fails the test."""
    with caplog.at_level(logging.WARNING):
        yield GuidanceWidget()
    for record in caplog.records:
        if record.exc_info:
            raise record.exc_info[1]


def text(part):
    return re.sub(r"<[^>]*>", "", part.value)


def test_the_widget_says_where_the_walkers_arrive(widget):
    ends = line.guided_samples(3.0)
    assert widget.mean == pytest.approx(float(ends.mean()))
    said = text(widget.message)
    assert f"mean {float(ends.mean()):.2f} and standard deviation {float(ends.std()):.2f}" in said
    grown = float((ends > line.THRESHOLD).double().mean())
    assert widget.grown_fraction == grown < 0.1
    assert f"and {grown:.0%} are larger than -1." in said
    means, spreads, part = line.moments(line.sharpened_density("", 3.0))
    assert f"The sharpened density: {means:.2f}, {spreads:.2f} and {part:.0%}." in said
    assert 'role="status"' in widget.message.value
    widget.scale.value = 1.0
    assert widget.grown_fraction == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("control", "value"), [("scale", 5.0), ("away", "dog"), ("times", (0, 500))]
)
def test_every_control_matters(widget, control, value):
    before, said = np.array(widget.image), widget.message.value
    getattr(widget, control).value = value
    after = np.array(widget.image)
    assert before.shape == after.shape
    assert not np.array_equal(before, after)
    assert widget.message.value != said
    assert "Densities over the size" in widget.view.value


@pytest.mark.parametrize("away", AWAY.values())
def test_the_widget_answers_over_its_whole_range(widget, away):
    widget.away.value = away
    for scale, times in ((0.0, (0, 999)), (8.0, (0, 999)), (8.0, (999, 999)), (0.25, (0, 0))):
        widget.scale.value, widget.times.value = scale, times
        assert math.isfinite(widget.mean)
        assert 0 <= widget.grown_fraction <= 1
        assert f"guided for t from {times[0]} to {times[1]}" in text(widget.message)


def test_every_control_has_a_name(widget):
    controls = [widget.scale, widget.away, widget.times]
    assert controls == list(widget.children[:3])
    assert all(control.description and not control.disabled for control in controls)
