"""The figures and the widget of notebook 07: what they draw is what the schedule says."""

import logging
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from sdlearn.course.figures import noise_schedule
from sdlearn.course.widgets.noise_schedule import NoiseScheduleWidget
from sdlearn.schedule import NoiseSchedule

SCHEDULES = {
    "published": NoiseSchedule(),
    "linear": NoiseSchedule(beta_start=1e-4, beta_end=0.02, kind="linear"),
    "cosine": NoiseSchedule(kind="cosine"),
    "zero": NoiseSchedule(zero_terminal_snr=True),
}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -------------------------------------------------------------------------------- under the noise


def test_a_mosaic_shows_every_number_of_four_channels_in_its_place():
    z = torch.zeros(4, 8, 8)
    z[0, 0, 0], z[1, 0, 7], z[2, 7, 0], z[3, 7, 7] = 3.0, -3.0, 9.0, -9.0
    pixels = np.array(noise_schedule.mosaic(z, 64))  # squares of 4 x 4 pixels
    assert pixels.shape == (64, 64)
    assert (pixels[:4, :4] == 255).all()
    assert (pixels[:4, -4:] == 0).all()
    assert (pixels[-4:, :4] == 255).all()
    assert (pixels[-4:, -4:] == 0).all()
    assert set(np.unique(pixels)) == {0, 136, 255}


def test_a_mosaic_is_lighter_where_the_number_is_larger():
    values = torch.linspace(-3, 3, 16).view(4, 2, 2)
    pixels = np.array(noise_schedule.mosaic(values, 4))
    order = values.view(2, 2, 2, 2).permute(0, 2, 1, 3).reshape(4, 4)
    assert (np.diff(pixels.flatten()[order.flatten().argsort().numpy()].astype(int)) == 17).all()


@pytest.mark.parametrize("t", [0, 500, 999])
def test_noisy_is_the_closed_form(t):
    z_0, eps = randn(2, 4, 3, 3), randn(2, 4, 3, 3, seed=1)
    alpha, sigma = SCHEDULES["published"].at(t)
    z = noise_schedule.add_noise(z_0, eps, alpha, sigma)
    assert z.dtype == torch.float32
    assert torch.allclose(z, float(alpha) * z_0 + float(sigma) * eps, atol=1e-6)


def test_nearest_finds_each_where_there_is_no_noise_and_the_most_likely_where_there_is():
    codes = randn(5, 4, 3, 3) * torch.linspace(0.2, 2, 5).view(5, 1, 1, 1)
    alpha, sigma = SCHEDULES["published"].at(900)
    assert noise_schedule.nearest_latent(float(alpha) * codes, alpha, codes).tolist() == [*range(5)]
    z = noise_schedule.add_noise(codes, randn(5, 4, 3, 3, seed=3), alpha, sigma)
    density = torch.distributions.Normal(alpha * codes[None], sigma).log_prob(z[:, None])
    likely = density.sum(dim=(2, 3, 4)).argmax(dim=1)
    assert noise_schedule.nearest_latent(z, alpha, codes).tolist() == likely.tolist() != [*range(5)]


def test_what_is_said_of_a_time():
    alpha, sigma = (x.item() for x in SCHEDULES["published"].at(500))
    said = noise_schedule.describe_noise_level(500, alpha, sigma)
    assert said == ("At t = 500: alpha 0.526, sigma 0.851, signal-to-noise ratio 0.3819 (-4.2 dB).")
    assert "1e-05 (-50.0 dB)" in noise_schedule.describe_noise_level(9, 1e-5**0.5, 1.0)
    assert "ratio 0 (no signal is left)" in noise_schedule.describe_noise_level(999, 0.0, 1.0)
    assert f"({10 * math.log10(1175.4706):.1f} dB)" in noise_schedule.describe_noise_level(
        0, 0.99915**0.5, 0.00085**0.5
    )


def test_a_row_of_fog_is_four_pictures_and_an_empty_one_where_nothing_is_found():
    page, other = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    z = randn(1, 4, 2, 2)
    row = noise_schedule.noise_and_nearest(
        page, z, other, lambda _: Image.new("RGB", (16, 16), "lime")
    )
    bare = noise_schedule.noise_and_nearest(
        page, z, None, lambda _: Image.new("RGB", (16, 16), "lime")
    )
    area = 32 * 32
    for picture, blue in ((row, area), (bare, 0)):
        pixels = np.array(picture)
        for colour, count in (((255, 0, 0), area), ((0, 255, 0), area), ((0, 0, 255), blue)):
            assert (pixels == colour).all(axis=-1).sum() == count
    assert row.size == bare.size


# ------------------------------------------------------------------------------------- with axes


def test_arcs_have_a_dot_for_each_time_on_the_circle():
    figure = noise_schedule.arcs(SCHEDULES, every=100)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [*SCHEDULES]
    for ax, schedule in zip(figure.axes, SCHEDULES.values(), strict=True):
        (dots,) = [line for line in ax.lines if line.get_marker() == "o"]
        xs, ys = (np.asarray(part) for part in dots.get_data())
        assert np.allclose(xs**2 + ys**2, 1)
        times = torch.tensor([*range(0, 1000, 100), 999])
        assert np.allclose(xs, schedule.at(times)[0])
        written = {text.get_text(): text.get_position() for text in ax.texts}
        assert {"0", "999"} <= set(written)
        places = [*written.values()]
        assert min(math.dist(a, b) for a in places for b in places if a != b) > 0.16
        for name, (x, y) in written.items():
            assert math.hypot(x, y) == pytest.approx(1.11)
            assert x / 1.11 == pytest.approx(float(schedule.at(int(name))[0]), abs=1e-6)


def test_a_single_arc_leaves_its_neighbour_empty():
    figure = noise_schedule.arcs({"one": NoiseSchedule()})
    assert [ax.axison for ax in figure.axes] == [True, False]


def test_curves_over_time_are_drawn_from_t_0_and_told_apart_in_two_ways():
    lines = {name: schedule.alphas_cumprod for name, schedule in SCHEDULES.items()}
    short = {name: curve[:-1].log() for name, curve in lines.items()}
    figure = noise_schedule.over_time({"left": ("share", lines), "right": ("its logarithm", short)})
    for ax, drawn in zip(figure.axes, (lines, short), strict=True):
        assert ax.get_xlabel() == "time t"
        for line, (name, curve) in zip(ax.lines, drawn.items(), strict=True):
            assert line.get_label() == name
            assert list(line.get_xdata()) == [*range(len(curve))]
            assert np.array_equal(line.get_ydata(), curve)
        assert len({line.get_linestyle() for line in ax.lines}) == 4
        assert len({line.get_color() for line in ax.lines}) == 4
    assert [ax.get_ylabel() for ax in figure.axes] == ["share", "its logarithm"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*SCHEDULES]


@pytest.mark.parametrize("sharey", [False, True])
def test_panels_of_histograms_have_one_vertical_scale_if_asked_to(sharey):
    figure = noise_schedule.histograms(
        {"wide": {"a": randn(500)}, "narrow": {"a": 0.1 * randn(500)}}, "number", sharey=sharey
    )
    wide, narrow = (ax.get_ylim() for ax in figure.axes)
    assert (wide == narrow) == sharey


def test_histograms_share_bins_and_have_the_area_one():
    sets = {"a": randn(500), "b": randn(400, seed=1) + 2, "c": randn(300, seed=2)}
    figure = noise_schedule.histograms(
        {"left": sets, "right": {"a": randn(90) * 5}}, "number", bins=20
    )
    left, right = figure.axes
    drawn = [patch.get_data() for patch in left.patches]
    assert len(drawn) == 3
    assert len({patch.get_linestyle() for patch in left.patches}) == 3
    for patch, x in zip(drawn, sets.values(), strict=True):
        assert (patch.values * np.diff(patch.edges)).sum() == pytest.approx(1)
        centres = (patch.edges[1:] + patch.edges[:-1]) / 2
        mean = (patch.values * np.diff(patch.edges) * centres).sum()
        assert mean == pytest.approx(float(x.mean()), abs=0.3)
    assert np.array_equal(drawn[0].edges, right.patches[0].get_data().edges)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]
    assert (left.get_title(loc="left"), left.get_xlabel(), left.get_ylabel()) == (
        "left",
        "number",
        "density",
    )


def test_visited_times_are_marked_and_both_ends_written():
    rows = {"one": [999, 500, 1], "two": [901, 101]}
    (ax,) = noise_schedule.visited_timesteps(rows).axes
    marks = [line for line in ax.lines if line.get_marker() not in ("", "None", None)]
    assert [list(line.get_xdata()) for line in marks] == [*rows.values()]
    assert len({line.get_marker() for line in marks}) == 2
    assert [text.get_text() for text in ax.texts] == ["999", "1", "901", "101"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
    assert ax.get_xlim()[0] > 999 > 0 > ax.get_xlim()[1]  # the walk goes from left to right


# --------------------------------------------------------------------------------------- the widget


@pytest.fixture
def widget(caplog, tiny_storybook):
    """ipywidgets only logs what a callback raises; here that fails the test."""
    pages = [Image.new("RGB", (64, 64), colour) for colour in ("red", "lime", "blue", "white")]
    with caplog.at_level(logging.WARNING):
        yield NoiseScheduleWidget(SCHEDULES, pages, 3 * randn(4, 4, 8, 8), tiny_storybook.vae)
    for record in caplog.records:
        if record.exc_info:
            raise record.exc_info[1]


def text(part):
    return re.sub(r"<[^>]*>", "", part.value)


def test_the_widget_says_the_numbers_of_its_schedule(widget):
    widget.t.value = 250
    for name, schedule in SCHEDULES.items():
        widget.schedule.value = name
        alpha, sigma = schedule.at(250)
        said = text(widget.message)
        assert said == widget.sentence
        assert f"At t = 250: alpha {alpha:.3f}, sigma {sigma:.3f}" in said
        assert f"({10 * schedule.snr(250).log10():.1f} dB)" in said
        assert "of 4 pages the nearest is" in said
    assert 'role="status"' in widget.message.value


def test_the_widget_finds_each_page_without_noise_and_none_without_signal(widget):
    widget.t.value = 0
    for page in range(4):
        widget.page.value = page
        assert widget.found == page
        assert f"Page {page}; of 4 pages the nearest is the right one." in widget.sentence
    widget.schedule.value, widget.t.value = "zero", 999
    assert widget.found is None
    assert "no signal is left" in widget.sentence
    assert "all are equally near" in widget.sentence


def test_a_wrong_page_is_named(widget):
    widget.codes = 0.1 * widget.codes
    widget.t.value = 990
    for page in range(4):
        widget.page.value = page
        if widget.found != page:
            assert f"the nearest is page {widget.found}, a wrong one." in widget.sentence
            return
    raise AssertionError("at this time a page should have been lost")


@pytest.mark.parametrize(("control", "value"), [("schedule", "cosine"), ("t", 77), ("page", 2)])
def test_every_control_matters(widget, control, value):
    before, said = np.array(widget.image), widget.sentence
    getattr(widget, control).value = value
    after = np.array(widget.image)
    assert before.shape == after.shape
    assert not np.array_equal(before, after)
    assert widget.sentence != said
    assert "A page under noise" in widget.view.value


@pytest.mark.parametrize("t", [100, 999])
def test_a_page_keeps_its_noise_and_what_is_nearest_is_shown(widget, t):
    widget.codes = 0.1 * widget.codes
    widget.page.value, widget.t.value = 3, t
    alpha, sigma = SCHEDULES["published"].at(t)
    z = noise_schedule.add_noise(widget.codes[[3]], randn(1, 4, 8, 8, seed=3), alpha, sigma)
    found = int(noise_schedule.nearest_latent(z, alpha, widget.codes)[0])
    assert (found == 3) == (t == 100)
    expected = noise_schedule.noise_and_nearest(
        widget.pages[3], z, widget.pages[found], widget.decode
    )
    assert np.array_equal(np.array(widget.image), np.array(expected))


def test_the_widget_answers_over_its_whole_range(widget):
    for name in SCHEDULES:
        widget.schedule.value = name
        for t in (0, 1, 998, 999):
            for page in (0, 3):
                widget.t.value, widget.page.value = t, page
                assert f"At t = {t}:" in widget.sentence


def test_every_control_has_a_name(widget):
    controls = [widget.schedule, widget.t, widget.page]
    assert controls == list(widget.children[:3])
    assert all(control.description and not control.disabled for control in controls)
