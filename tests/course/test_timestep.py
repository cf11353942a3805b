"""The figures and the widget of notebook 03: what they draw is what the embedding says."""

import logging
import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from sdlearn.course.figures import timestep, timestep_encodings
from sdlearn.course.figures.style import BLUE, VERMILION
from sdlearn.course.widgets.timestep import CHANNELS, PERIODS, TimestepWidget
from sdlearn.embeddings import sinusoidal_embedding


def test_the_hands_are_the_embedding():
    t = torch.tensor([0.0, 0.25, 437, 999])
    for dim in (2, 8, 320):
        apart = timestep.clock_hands(t, dim).float() - sinusoidal_embedding(t, dim)
        assert apart.abs().max() < 2e-4
    assert timestep.clock_hands(437, 8).shape == (8,)
    assert torch.equal(timestep.clock_hands(437.0, 8), timestep.clock_hands(t, 8)[2])


def test_max_period_is_the_limit_of_the_slowest_clock():
    speeds = timestep.frequencies(8, 16)
    assert torch.allclose(speeds, torch.tensor([1, 0.5, 0.25, 0.125], dtype=torch.float64))


def test_clocks_are_chosen_from_the_fastest_to_the_slowest():
    assert timestep.pick_clocks(320, 6) == [0, 32, 64, 95, 127, 159]
    assert timestep.pick_clocks(8, 6) == [0, 1, 2, 3]
    assert timestep.pick_clocks(2, 6) == [0]


def coloured(picture, colour):
    """Where the pixels of an image have about this colour."""
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return np.abs(np.array(picture, int) - wanted).max(-1) < 40


@pytest.mark.parametrize("quarter", range(4))
def test_a_hand_starts_at_the_top_and_turns_to_the_right(quarter):
    hand = coloured(timestep.clock_face(quarter * math.pi / 2), BLUE)
    y, x = np.nonzero(hand)
    middle = hand.shape[0] / 2
    right, up = (x - middle + 0.5).mean(), (middle - y - 0.5).mean()
    assert right == pytest.approx(11 * math.sin(quarter * math.pi / 2), abs=3)
    assert up == pytest.approx(11 * math.cos(quarter * math.pi / 2), abs=3)


def test_the_other_hand_is_red_and_thin():
    one, two = (timestep.clock_face(0.0, other) for other in (None, math.pi / 2))
    assert not coloured(one, VERMILION).any()
    assert 40 < coloured(two, VERMILION).sum() < 0.6 * coloured(two, BLUE).sum()


def test_rows_of_clocks_are_rows_of_times():
    one = timestep.clock_rows([0, 5], 8, "A title", clocks=[0, 1, 2, 3])
    more = timestep.clock_rows([0, 5, 999], 8, "A title", clocks=[0, 1, 2, 3]).figure
    assert more.width == one.figure.width
    assert more.height - one.figure.height == timestep.FACE + timestep.GAP
    pixels = np.array(one.figure)
    left, top = 92, 2 * timestep.LINE
    for k, speed in enumerate(timestep.frequencies(8)):
        x = left + k * (timestep.FACE + timestep.GAP)
        y = top + timestep.FACE + timestep.GAP
        seen = pixels[y : y + timestep.FACE, x : x + timestep.FACE]
        assert np.array_equal(seen, np.array(timestep.clock_face(5 * float(speed))))
    assert "at t = 5: 0.796, 0.0796" in one.words


@pytest.mark.parametrize("dim", CHANNELS)
@pytest.mark.parametrize("period", PERIODS)
def test_the_page_can_be_drawn_over_the_whole_range(dim, period):
    blank = None
    for t, other in ((0, 0), (0.25, 999), (999, 500), (500, 503)):
        page = timestep.clock_figure(t, other, dim, period)
        assert blank in (None, page.size)
        blank = page.size
        dark = np.argwhere(np.array(page).min(-1) < 128)
        assert dark.min() > 2  # nothing touches the edge, so nothing is cut off
        assert (np.array(page.size[::-1]) - dark.max(0)[:2]).min() > 2


def test_the_bars_are_as_long_as_the_entries():
    bars = coloured(timestep.clock_figure(0, 0, 8), BLUE)  # at t = 0 cosines are 1 and sines 0
    rows = bars[-200:].sum(axis=0)
    width = (bars.shape[1] - 54) / 8
    heights = [rows[round(44 + (k + 0.5) * width)] for k in range(8)]
    assert all(height == pytest.approx(60, abs=3) for height in heights[:4])
    assert all(height <= 2 for height in heights[4:])


def test_a_map_has_one_pixel_for_each_number():
    vectors = timestep.clock_hands(torch.arange(90), 12)
    drawn = timestep.vectors_over_time(vectors, "Title")
    assert "12 channels" in drawn.words
    assert "the uppermost channels are the shortest waves" in drawn.words
    ax, beside = drawn.figure.axes
    assert np.array_equal(np.asarray(ax.images[0].get_array()), vectors.T.numpy())
    size = ax.get_window_extent()
    assert (size.width, size.height) == pytest.approx((90, 12))
    assert (ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()) == (
        "Title",
        "timestep t",
        "channel",
    )
    assert ax.images[0].get_clim() == pytest.approx((-1, 1))
    assert beside.get_xlabel() == "value"


def test_maps_of_similarity_share_their_scale_and_their_times():
    one, two = torch.eye(50), torch.eye(50) - 0.5
    drawn = timestep.similarity({"one": one, "two": two}, 4, [3.0, 1.5, 2.0, 4.0], (0, 2))
    assert "3.0 at t = 0, down to 1.5 at t = 1, 4.0 at t = 3" in drawn.words
    assert "two: from -0.50 to 1, on average -0.48" in drawn.words
    maps = [ax for ax in drawn.figure.axes if ax.images]
    for ax, name, matrix in zip(maps, ("one", "two"), (one, two), strict=True):
        assert ax.get_title(loc="left") == name
        assert np.array_equal(np.asarray(ax.images[0].get_array()), matrix.numpy())
        assert ax.images[0].get_clim() == pytest.approx((-0.5, 1))
        assert ax.images[0].get_extent() == [0, 200, 200, 0]
        assert ax.get_window_extent().width == pytest.approx(50)


def test_curves_of_errors_differ_without_colour():
    errors = {name: [0.1 * k + 0.1, 0.5, 2.0] for k, name in enumerate("abcde")}
    drawn = timestep.error_curves([0, 10, 999], errors, {"b": (1, (9, 2))})
    (ax,) = drawn.figure.axes
    lines = ax.lines[:5]
    assert [list(line.get_ydata()) for line in lines] == list(errors.values())
    assert len({str(line.get_linestyle()) + str(line._dash_pattern) for line in lines}) == 5
    assert len({line.get_marker() for line in lines}) == 5
    labels = {label.get_text(): label.xy for label in ax.texts}
    assert labels["a"] == (999, 2.0)
    assert labels["b"] == (10, 0.5)
    assert ax.get_yscale() == "log"
    assert "b: 0.2 at 0, 0.5 at 10, 2 at 999" in drawn.words


def test_fits_show_the_target_the_network_and_the_trained_timesteps():
    t = torch.arange(20)
    targets, trained = {"up": t.float(), "down": -t.float()}, t % 2 == 0
    fitted = {(curve, name): y + k * ~trained
              for curve, y in targets.items() for k, name in enumerate("ab")}  # fmt: skip
    windows = {"up": (0, 5), "down": (10, 17)}
    drawn = timestep_encodings.fits(targets, fitted, trained, windows, "A title")
    titles = [ax.get_title(loc="left") for ax in drawn.figure.axes]
    assert titles == ["up, t = 0 to 5", "down, t = 10 to 17", "", ""]
    assert [ax.get_ylabel() for ax in drawn.figure.axes] == ["a", "", "b", ""]
    for k, ax in enumerate(drawn.figure.axes):
        curve, name = ("up", "down")[k % 2], "ab"[k // 2]
        first, last = windows[curve]
        n = last + 1 - first
        assert [len(line.get_xdata()) for line in ax.lines] == [n, n, n // 2]
        assert list(ax.lines[0].get_xdata()) == list(range(first, last + 1))
        assert list(ax.lines[1].get_ydata()) == fitted[curve, name][first : last + 1].tolist()
    assert "down, b: RMS error 0.00 at trained timesteps and 1.00 between them" in drawn.words
    (legend,) = drawn.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "target",
        "network",
        "trained timesteps",
    ]


@pytest.mark.parametrize(
    "drawn",
    [
        timestep.timestep_path,
        lambda: timestep.clock_rows([1], 320, "Title", clocks=range(6)),
        lambda: timestep.vectors_over_time(timestep.clock_hands(torch.arange(500), 12), "Title"),
        lambda: timestep.similarity(dict.fromkeys("ab", torch.eye(250)), 4, [1.0] * 1000, (2, 3)),
        lambda: timestep.error_curves([0, 999], {"a": [1, 2]}),
    ],
)
def test_a_figure_is_narrow_enough_for_a_phone(drawn):
    figure = drawn().figure
    wide = figure.width if isinstance(figure, Image.Image) else figure.bbox.width
    assert wide <= 630  # on 350 pixels, letters of 13 become 7


def test_rows_of_images_have_their_names():
    image = Image.new("RGB", (4, 4))
    drawn = timestep.image_rows({"one": [image] * 3, "two": [image] * 3}, "A title", "All black.")
    assert drawn.words == "A grid with these rows of images: one; two. All black."


def test_rows_of_images_say_the_prompts():
    image = Image.new("RGB", (8, 8))
    columns = {"a long prompt": "long", "a short one": "short"}
    drawn = timestep.image_rows({"one": [image] * 2}, "A title", "Squares.", columns)
    assert drawn.words.endswith("Squares. The prompts: a long prompt; a short one.")


def test_a_heading_of_three_parts_takes_three_lines():
    image = Image.new("RGB", (64, 64))
    tall = [
        timestep.image_rows({"one": [image]}, "A title", "", {"a prompt": heading}).figure.height
        for heading in ("purple butterfly, purple butterfly,", "purple butterfly,")
    ]
    assert tall[0] - tall[1] == timestep.LETTERS + 7


def test_bars_of_frequencies_have_their_values():
    titles = "error", "loss"
    drawn = timestep_encodings.frequency_needs(
        "abc", [0.5, 0.4, 0.1], [0, 0.1, 0.6], (2, 0.9, 0.2), titles
    )
    for ax, title, values in zip(
        drawn.figure.axes, titles, ([0.5, 0.4, 0.1], [0, 0.1, 0.6]), strict=True
    ):
        assert ax.get_title(loc="left") == title
        assert [bar.get_height() for bar in ax.patches] == values
    assert "error: a: 50 %; b: 40 %; c: 10 %; the first 2 together: 90 %" in drawn.words
    assert "loss: a: 0.00; b: 0.10; c: 0.60; the first 2 together: 0.20" in drawn.words


def test_each_clock_makes_the_time_more_precise():
    times = torch.tensor([0.0, 3.3, 500, 998.9], dtype=torch.float64)
    rounded = timestep.clock_hands(times, 8).round(decimals=2)
    stages = timestep_encodings.clock_by_clock(rounded)
    errors = [float((t - times).abs().max()) for t in stages]
    assert len(errors) == 4
    assert all(a > 3 * b for a, b in pairwise(errors))
    assert errors[-1] < 0.01
    drawn = timestep_encodings.reading_errors(
        times, {(4, "two"): rounded}, {(4, "two"): times + 5}, "Title"
    )
    assert list(drawn.figure.axes[0].lines[0].get_ydata()) == errors
    assert "5 from read_clocks" in drawn.words


def test_the_diagram_names_the_layers_of_the_published_files():
    drawn = timestep.timestep_path()
    said = " ".join(text.get_text() for text in drawn.figure.axes[0].texts)
    for name in ("linear_1", "SiLU", "linear_2", "time_emb_proj", "conv1", "conv2"):
        assert name in said
    assert "added to the feature map between the two convolutions" in drawn.words


# --------------------------------------------------------------------------------------- the widget


@pytest.fixture
def widget(caplog):
    """ipywidgets only logs what a callback raises; here that fails the test."""
    with caplog.at_level(logging.WARNING):
        yield TimestepWidget(t=500, other=503)
    for record in caplog.records:
        if record.exc_info:
            raise record.exc_info[1]


def text(part):
    return re.sub(r"<[^>]*>", "", part.value)


def test_the_widget_says_the_similarity_of_the_two_times(widget):
    widget.channels.value = 320
    expected = sinusoidal_embedding(torch.tensor([500.0, 503.0]), 320).double()
    assert widget.similarity == pytest.approx(float(expected[0] @ expected[1]) / 160, abs=1e-4)
    assert f"similarity {widget.similarity:.4f}" in text(widget.message)
    assert "89 of 160 frequencies" in text(widget.message)
    assert 'role="status"' in widget.message.value
    widget.other.value = 500
    assert widget.similarity == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("control", "value"), [("t", 498.25), ("other", 0.0), ("channels", 8), ("period", 10)]
)
def test_every_control_matters(widget, control, value):
    before, said = np.array(widget.image), widget.message.value
    getattr(widget, control).value = value
    after = np.array(widget.image)
    assert before.shape == after.shape
    assert not np.array_equal(before, after)
    assert widget.message.value != said
    assert "Clocks, and the embedding as bars" in widget.view.value


def test_the_widget_answers_over_its_whole_range(widget):
    for channels, period in zip(CHANNELS, (*PERIODS, 10), strict=True):
        widget.channels.value, widget.period.value = channels, period
        for t, other in ((0, 999), (999, 0.25)):
            widget.t.value, widget.other.value = t, other
            assert -1 <= widget.similarity <= 1
            said = text(widget.message).replace("&#x27;", "'")
            assert f"t = {t:g} and t' = {other:g}" in said


def test_every_control_has_a_name(widget):
    controls = [widget.t, widget.other, widget.channels, widget.period]
    assert controls == list(widget.children[:4])
    assert all(control.description and not control.disabled for control in controls)
