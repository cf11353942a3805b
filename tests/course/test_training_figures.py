"""The figures and the widget of notebook 08: what they draw is what they are given."""

import logging
import math
import re

import numpy as np
import pytest
from PIL import Image

import sdlearn
from sdlearn.course.figures import training
from sdlearn.course.widgets.training import TrainingWidget

SCHEDULE = sdlearn.NoiseSchedule()


def test_a_running_mean_looks_back_and_no_further():
    assert training.running_mean([3.0, 5.0, 10.0, 0.0], 2) == [3, 4, 7.5, 5]
    assert training.running_mean([3.0, 5.0, 10.0], 99) == [3, 4, 6]
    assert training.running_mean([3.0, 5.0], 1) == [3, 5]
    assert training.running_mean([], 4) == []


def test_a_loss_curve_holds_the_losses_their_mean_and_the_floor():
    losses = [1.0, 0.5, 0.6, 0.2]
    figure = training.loss_curve(losses, 2, "A title", floor=0.1)
    (ax,) = figure.axes
    raw, mean, floor = ax.lines
    assert list(raw.get_xdata()) == list(mean.get_xdata()) == [1, 2, 3, 4]
    assert list(raw.get_ydata()) == losses
    assert list(mean.get_ydata()) == training.running_mean(losses, 2)
    assert list(floor.get_ydata()) == [0.1, 0.1]
    assert floor.get_linestyle() != mean.get_linestyle()
    assert ax.get_ylim()[0] == 0
    assert (ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()) == (
        "A title",
        "training step",
        "loss",
    )
    assert len(training.loss_curve(losses, 2, "A title").axes[0].lines) == 2


def test_a_cloud_holds_its_dots_and_its_guesses():
    z, eps = np.array([0.0, 1.0]), np.array([2.0, 3.0])
    figure = training.noise_scatter(z, eps, {"one": (z, -eps), "two": (z, eps + 1)}, "A title")
    (ax,) = figure.axes
    dots, one, two = ax.lines
    assert (list(dots.get_ydata()), dots.get_linestyle()) == ([2, 3], "None")
    assert (list(one.get_ydata()), list(two.get_ydata())) == ([-2, -3], [3, 4])
    assert one.get_linestyle() != two.get_linestyle()
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["what was mixed", "one", "two"]


def test_the_turn_is_the_angle_of_the_schedule():
    figure = training.target_directions(SCHEDULE, (10, 400, 999))
    for ax, t in zip(figure.axes, (10, 400, 999), strict=True):
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
        assert f"{math.degrees(math.atan2(sigma, alpha)):.0f}°" in ax.get_title(loc="left")
        (low, high), (left, right) = ax.get_ylim(), ax.get_xlim()
        assert all(left < 1.17 * x < right and low < 1.17 * y < high for x, y in tips.values())


def test_weights_that_lie_on_each_other_are_both_seen():
    t, snr = np.array([0.0, 1.0]), np.array([10.0, 1.0])
    lines = {"all": (t, snr), "cut": (t, np.minimum(snr, 5)), "third": (t, snr + 1)}
    (ax,) = training.loss_weights(lines, "A title").axes
    assert [list(line.get_ydata()) for line in ax.lines] == [[10, 1], [5, 1], [11, 2]]
    under, over = ax.lines[:2]
    assert under.get_linewidth() > 3 * over.get_linewidth()
    assert (under.get_color(), over.get_color()) == ("0.75", "k")
    assert ax.get_yscale() == "log"
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["all", "cut", "third"]


# ---------------------------------------------------------------------------------------- the reel

LOSSES = [1.0, 0.6, 0.4, 0.3, 0.2, 0.1]
COLOURS = {0: "#101010", 3: "#808080", 6: "#d0d0d0"}


def sheets():
    """A picture of its own for each stage, kind of weights and caption."""
    kinds = ("averaged", "as they are")
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
        for words in ("", "averaged", "as they are")
    ]
    for one, other in ((0, 1), (1, 2)):
        rows, columns = np.argwhere((pages[one] != pages[other]).any(-1)).T
        assert rows.min() > 38 + 192
        assert columns.max() < 12 + 192


def test_nothing_of_a_reel_is_cut_off():
    long = "a yellow balloon on the grass under grey clouds early in the morning"
    for losses in (LOSSES, [0.5], [], [30.0, 0.1]):
        page = training.training_frame(
            Image.new("RGB", (64, 64)), long, losses, len(losses), "as they are"
        )
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
        for k, kind in enumerate(("averaged", "as they are")):
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
