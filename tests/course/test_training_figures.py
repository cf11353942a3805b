"""The figures and the widget of notebook 08: what they draw is what they are given."""

import logging
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

import sdlearn
from sdlearn.course.figures import training, training_targets
from sdlearn.course.widgets.training import TrainingWidget

SCHEDULE = sdlearn.NoiseSchedule()


def test_a_running_mean_looks_back_and_no_further():
    assert training.running_mean([3.0, 5.0, 10.0, 0.0], 2) == [3, 4, 7.5, 5]
    assert training.running_mean([3.0, 5.0, 10.0], 99) == [3, 4, 6]
    assert training.running_mean([3.0, 5.0], 1) == [3, 5]
    assert training.running_mean([], 4) == []


TIMES = (10, 500, 990)


def test_dots_and_both_predictions_are_drawn():
    z, eps = np.array([0.0, 1.0]), np.array([2.0, 3.0])
    drawn = training_targets.noise_scatter(z, eps, (z, -eps), (z, eps + 1), 300)
    (ax,) = drawn.figure.axes
    dots, nearest, best = ax.lines
    assert (list(dots.get_ydata()), dots.get_linestyle()) == ([2, 3], "None")
    assert (list(best.get_ydata()), list(nearest.get_ydata())) == ([-2, -3], [3, 4])
    assert best.get_linestyle() != nearest.get_linestyle()
    assert "t = 300" in drawn.words


def test_a_floor_is_drawn_under_the_losses_and_over_time():
    losses, lines = [1.0, 0.5, 0.6, 0.2], {"best": [0.9, 0.5, 0.1], "trained": [1.0, 0.6, 0.1]}
    drawn = training_targets.floor_panels(losses, 0.15, TIMES, lines)
    left, right = drawn.figure.axes
    raw, mean, floor = left.lines
    assert list(raw.get_xdata()) == list(mean.get_xdata()) == [1, 2, 3, 4]
    assert list(raw.get_ydata()) == losses
    assert list(mean.get_ydata()) == training.running_mean(losses, 50)
    assert list(floor.get_ydata()) == [0.15, 0.15]
    assert [list(line.get_ydata()) for line in right.lines] == [*lines.values()]
    assert "0.15" in drawn.words
    assert "0.90 at t = 10" in drawn.words
    assert "0.10 at t = 990" in drawn.words


def test_the_rotation_is_the_angle_of_the_schedule():
    drawn = training_targets.target_directions(SCHEDULE, (10, 400, 999))
    for ax, t in zip(drawn.figure.axes, (10, 400, 999), strict=True):
        alpha, sigma = (float(x) for x in SCHEDULE.at(t))
        tips = {
            text.get_text(): (text.get_position()[0] / 1.17, text.get_position()[1] / 1.17)
            for text in ax.texts
            if text.get_text().startswith("$")
        }
        assert tips["$z_t$"] == pytest.approx((alpha, sigma))
        assert tips["$v$"] == pytest.approx((-sigma, alpha))
        assert tips["$z_0$"] == pytest.approx((1, 0))
        assert tips[r"$\epsilon$"] == pytest.approx((0, 1))
        angle = f"{math.degrees(math.atan2(sigma, alpha)):.0f}°"
        assert angle in ax.get_title(loc="left")
        assert f"{angle} at t = {t}" in drawn.words
        (low, high), (left, right) = ax.get_ylim(), ax.get_xlim()
        assert all(left < 1.17 * x < right and low < 1.17 * y < high for x, y in tips.values())


def test_weights_that_coincide_are_both_seen_and_all_are_labelled():
    snr = SCHEDULE.snr(torch.arange(1000))
    drawn = training.loss_weights(snr, 5.0)
    (ax,) = drawn.figure.axes
    expected = (snr, snr.clamp(max=5), snr + 1, torch.ones(1000))
    for line, weights in zip(ax.lines, expected, strict=True):
        assert np.allclose(line.get_ydata(), weights)
    under, over = ax.lines[:2]
    assert under.get_linewidth() > 3 * over.get_linewidth()
    assert ax.get_yscale() == "log"
    names = [text.get_text() for text in ax.texts]
    assert names == ["ε-prediction", "Min-SNR", "v-prediction", "$z_0$-prediction"]


def test_names_at_line_ends_do_not_overlap_and_ticks_are_plain_numbers():
    lines = {"one": [1.0, 0.01], "two": [1.0, 0.0101], "three": [1.0, 0.5]}
    drawn = training.loss_lines(lines, "A title").figure
    drawn.draw_without_rendering()
    (ax,) = drawn.axes
    one, two = (text.get_window_extent() for text in ax.texts[:2])
    assert two.y0 >= one.y0 + 0.9 * one.height
    assert {"0.01", "0.1", "1"} <= {label.get_text() for label in ax.get_yticklabels()}


def test_both_losses_are_named_at_their_lines():
    ax = training.progress(
        LOSSES, {6: [Image.new("RGB", (4, 4))]}, ["a"], "A title", 2
    ).figure.axes[0]
    points = {text.get_text(): tuple(text.xy) for text in ax.texts}
    raw, mean = ax.lines[:2]
    assert points["every step"] in [*zip(raw.get_xdata(), raw.get_ydata(), strict=True)]
    assert points["mean of the last 2"] in [*zip(mean.get_xdata(), mean.get_ydata(), strict=True)]


def test_progress_marks_its_stages_and_shows_their_images():
    losses = [1.0, 0.5, 0.6, 0.2]
    images = {
        k: [Image.new("RGB", (4, 4), (60 * k, 100 * row, 0)) for row in (0, 1)] for k in (2, 4)
    }
    drawn = training.progress(losses, images, ["a red cat on the sand by day", "b"], "A title", 2)
    curve, *tiles = drawn.figure.axes
    means = training.running_mean(losses, 2)
    marks = [(line.get_xdata()[0], line.get_ydata()[0]) for line in curve.lines[2:]]
    assert marks == [(2, means[1]), (4, means[3])]
    colours = [tuple(tile.images[0].get_array()[0, 0]) for tile in tiles]
    assert colours == [(120, 0, 0), (240, 0, 0), (120, 100, 0), (240, 100, 0)]
    assert [tile.get_title() for tile in tiles] == ["after 2", "after 4", "", ""]
    assert "0.75 after 2; 0.40 after 4" in drawn.words


def test_runs_are_drawn_with_and_without_the_norms_of_their_gradients():
    lines, norms = {"one": [1.0, 0.5], "two": [1.0, 3.0]}, {"one": [2.0, 1.0], "two": [2.0, 9.0]}
    (ax,) = training.loss_lines(lines, "A title").figure.axes
    assert [list(line.get_ydata()) for line in ax.lines] == [*lines.values()]
    assert ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.texts] == ["one", "two"]
    assert [text.get_position()[1] for text in ax.texts] == pytest.approx([0.5, 3.0])
    drawn = training.loss_lines(lines, "A title", norms)
    shown = [[list(line.get_ydata()) for line in ax.lines] for ax in drawn.figure.axes]
    assert shown == [[*lines.values()], [*norms.values()]]
    assert "two: 9.0" in drawn.words


def test_errors_over_time_are_those_given():
    errors, of_z_0 = {"after 5": [0.9, 0.5, 0.1]}, {"after 5": [0.01, 0.5, 2.0]}
    drawn = training.errors_by_time(TIMES, errors, of_z_0)
    shown = [list(ax.lines[0].get_ydata()) for ax in drawn.figure.axes]
    assert shown == [[0.9, 0.5, 0.1], [0.01, 0.5, 2.0]]
    assert [ax.get_yscale() for ax in drawn.figure.axes] == ["linear", "log"]
    assert "0.90 at t = 10" in drawn.words


# ---------------------------------------------------------------------------------------- the reel

LOSSES = [1.0, 0.6, 0.4, 0.3, 0.2, 0.1]
COLOURS = {0: "#101010", 3: "#808080", 6: "#d0d0d0"}


def sheets():
    """A picture of its own for each stage, kind of weights and caption."""
    kinds = ("averaged", "raw")
    return {
        stage: {
            kind: [
                Image.new("RGB", (64, 64), (40 * k + 20, 100 * j + 20, 40 * stage)) for j in (0, 1)
            ]
            for k, kind in enumerate(kinds)
        }
        for stage in COLOURS
    }


@pytest.mark.parametrize("step", range(len(LOSSES) + 1))
def test_the_mark_is_at_its_step(step):
    pages = [
        np.array(
            training.training_frame(Image.new("RGB", (64, 64)), "a caption", LOSSES, s).convert("L")
        )
        for s in (step, (step + 3) % 7)
    ]
    differ = np.argwhere((pages[0][44:206] < 60) & (pages[1][44:206] > 60))[:, 1]
    expected = 276 + 428 * step / len(LOSSES)
    assert np.median(differ) == pytest.approx(expected, abs=2)


def test_the_picture_is_there_with_every_pixel_a_square():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    page = np.array(training.training_frame(picture, "a caption", LOSSES, 2))
    assert np.array_equal(page[38 : 38 + 192 : 3, 12 : 12 + 192 : 3], np.array(picture))
    assert np.array_equal(page[40 : 38 + 192 : 3, 14 : 12 + 192 : 3], np.array(picture))


def test_the_weights_are_named_under_the_picture():
    pages = [
        np.array(training.training_frame(Image.new("RGB", (64, 64)), "a caption", LOSSES, 2, words))
        for words in ("", "averaged", "raw")
    ]
    for one, other in ((0, 1), (1, 2)):
        rows, columns = np.argwhere((pages[one] != pages[other]).any(-1)).T
        assert rows.min() > 38 + 192
        assert columns.max() < 12 + 192


def test_nothing_of_a_reel_is_cut_off():
    long = "a yellow balloon on the grass under grey clouds early in the morning"
    for losses in (LOSSES, [0.5], [], [30.0, 0.1]):
        page = training.training_frame(Image.new("RGB", (64, 64)), long, losses, len(losses), "raw")
        dark = np.argwhere(np.array(page.convert("L")) < 128)
        assert dark.min() > 2
        assert (np.array(page.size[::-1]) - dark.max(0)).min() > 2


@pytest.fixture
def widget(caplog):
    """ipywidgets only logs what a callback raises; here that fails the test."""
    with caplog.at_level(logging.WARNING):
        yield TrainingWidget(sheets(), ["one thing", "another <thing>"], LOSSES)
    for record in caplog.records:
        if record.exc_info:
            raise record.exc_info[1]


def shown(widget):
    return tuple(np.array(widget.image)[100, 100])


def test_the_widget_begins_at_the_end(widget):
    assert widget.step.value == 6
    assert shown(widget) == (20, 20, 240)


def test_the_widget_shows_what_is_asked_for(widget):
    for stage in COLOURS:
        for k, kind in enumerate(("averaged", "raw")):
            for j in (0, 1):
                widget.step.value, widget.weights.value, widget.caption.value = stage, kind, j
                assert shown(widget) == (40 * k + 20, 100 * j + 20, 40 * stage)
                said = re.sub(r"<[^>]*>", "", widget.message.value)
                assert f"After {stage} of 6 steps, weights {kind}" in said
                mean = f"{np.mean(LOSSES[:stage]):.3f}" if stage else "nothing had been learnt"
                assert mean in said
    assert 'role="status"' in widget.message.value
    assert "another &lt;thing&gt;" in widget.view.value


def test_every_control_has_a_name(widget):
    controls = [widget.step, widget.caption, widget.weights]
    assert controls == list(widget.children[:3])
    assert all(control.description and not control.disabled for control in controls)
