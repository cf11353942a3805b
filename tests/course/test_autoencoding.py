"""The figures and the widget of notebook 02: every point, window and error where it belongs."""

import logging
import re

import numpy as np
import pytest
import torch

from sdlearn.course.figures import autoencoding as drawn
from sdlearn.course.widgets.autoencoding import Walk


def flat(z):
    """A decoder that shows the point: red is z_0, green is z_1, blue 0; pictures of 2 x 2."""
    colours = torch.cat([z / 2.5, torch.zeros(len(z), 1)], dim=1)
    return colours[:, :, None, None].expand(-1, 3, 2, 2)


def inverted(z):
    return -flat(z)


CODES = torch.tensor([[1.0, -2.0], [0.5, 0.5], [7.0, 0.0]])


def test_pixels_are_bytes_in_the_right_place():
    x = torch.tensor([-1.0, 0.0, 1.0, 3.0]).view(1, 1, 2, 2).expand(2, 3, 2, 2)
    pictures = drawn.pixels(x)
    assert len(pictures) == 2
    assert np.array_equal(np.array(pictures[0])[..., 1], [[0, 128], [255, 255]])


def test_a_plane_s_points_go_right_and_up():
    points = drawn.plane_points(5, 2.0)
    assert points.shape == (25, 2)
    assert points[0].tolist() == [-2, 2]
    assert points[4].tolist() == [2, 2]
    assert points[12].tolist() == [0, 0]
    assert points[-1].tolist() == [2, -2]


def test_a_plane_s_picture_shows_each_point_in_its_place():
    sheet = np.array(drawn.plane_image(flat, 5, 2.5))
    assert sheet.shape == (10, 10, 3)
    assert sheet[0, 0].tolist() == [0, 255, 128]  # left is low z_0, top is high z_1
    assert sheet[0, 9].tolist() == [255, 255, 128]
    assert sheet[9, 0].tolist() == [0, 0, 128]


def test_planes_number_the_codes_inside_and_leave_out_the_others():
    figure = drawn.planes([flat, inverted], [CODES, CODES + 1], ["a", "b"], "Title", across=5)
    axes = figure.axes
    assert [ax.get_title() for ax in axes] == ["a", "b"]
    assert figure.get_suptitle() == "Title"
    assert [text.get_text() for text in axes[0].texts] == ["0", "1"]
    assert axes[0].texts[0].get_position() == (1.0, -2.0)
    # The middle of the outermost tiles is at the reach, so the edge lies half a tile beyond.
    assert axes[0].images[0].get_extent() == pytest.approx([-3.125, 3.125, -3.125, 3.125])
    assert all(ax.get_xlabel() for ax in axes)
    assert axes[0].get_ylabel()


def test_a_walk_has_equal_steps_and_both_ends():
    path = drawn.walk(torch.tensor([0.0, 1.0]), torch.tensor([4.0, -1.0]), 5)
    assert path.tolist() == [[0, 1], [1, 0.5], [2, 0], [3, -0.5], [4, -1]]


def test_a_map_marks_codes_and_the_point():
    canvas = np.array(drawn.plane_map(CODES, (-1.25, 1.25), 2.5, 101))
    dark = np.argwhere((canvas == 0).all(-1)).mean(0)
    assert dark == pytest.approx([25, 25])  # up and left of the middle, 50
    squares = np.argwhere((canvas == 90).all(-1))
    assert len(squares) == 2 * 49
    assert squares.mean(0) == pytest.approx([(90 + 40) / 2, (70 + 60) / 2], abs=1)


def test_the_view_shows_both_decoders_at_the_point():
    page = np.array(drawn.plane_view([flat, inverted], [CODES, CODES], ["a", "b"], (2.5, 0.0)))
    for colour in ((255, 128, 128), (0, 128, 128)):
        assert (page == colour).all(-1).sum() == 160 * 160


@pytest.mark.parametrize("value", [-2.5, -1.0, 0.0, 0.1, 2.5])
def test_the_view_holds_over_the_whole_range(value):
    page = drawn.plane_view([flat], [CODES], ["a"], (value, -value))
    assert page.width > 200


def test_bells_have_area_one_and_say_their_price():
    (ax,) = drawn.bells([(2, 0.5)], "Title").axes
    (line,) = ax.lines
    z, p = line.get_xdata(), line.get_ydata()
    assert np.trapezoid(p, z) == pytest.approx(1, abs=1e-3)
    assert z[p.argmax()] == pytest.approx(2, abs=0.03)
    expected = 0.5 * (4 + 0.25 - 1 - np.log(0.25))
    assert f"KL {expected:.2f}" in line.get_label()


def test_the_costs_are_least_at_mean_and_median():
    (ax,) = drawn.guess_costs([-1, 1], [0.3, 0.7]).axes
    squared, absolute = (line for line in ax.lines if line.get_label().count("least"))
    assert squared.get_label().endswith("0.40")
    assert absolute.get_label().endswith("1.00")
    assert squared.get_ydata().min() == pytest.approx(0.84, abs=1e-3)
    assert absolute.get_ydata().min() == pytest.approx(0.6, abs=1e-3)
    assert squared.get_linestyle() != absolute.get_linestyle()


def test_windows_are_three_wide_and_two_apart():
    figure = drawn.windows(8, {"right": 0, "both": -1})
    for ax, first in zip(figure.axes, (0, -1), strict=True):
        bars = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2]
        assert [round(bar.mean()) for bar in map(np.array, bars)] == [
            first + 1 + 2 * k for k in range(4)
        ]
        assert [text.get_text() for text in ax.texts][:10] == ["0", *map(str, range(8)), "0"]
    assert figure.axes[0].get_title() == "right"


def test_an_error_map_is_white_at_the_most():
    x = torch.zeros(1, 3, 1, 3)
    y = torch.tensor([0.0, 0.25, 4.0]).expand(1, 3, 1, 3)
    (picture,) = drawn.error_map(x, y)
    assert np.array(picture).tolist() == [[0, 127, 255]]


def test_progress_is_a_running_mean():
    (ax,) = drawn.progress({"a": [1, 2, 3, 4], "b": [4, 4, 4, 4]}, "T", "error", window=2).axes
    assert ax.lines[0].get_xdata().tolist() == [2, 3, 4]
    assert ax.lines[0].get_ydata().tolist() == [1.5, 2.5, 3.5]
    assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle()
    assert ax.get_ylabel() == "error"


# -------------------------------------------------------------------------------------- the widget


@pytest.fixture
def walk():
    return Walk([flat, inverted], [CODES, CODES - 1], ["plain", "clouds"])


def text(widget) -> str:
    return re.sub(r"<[^>]*>", "", widget.value)


def test_both_sliders_matter(walk):
    seen = [np.array(walk.picture)]
    for slider in (walk.x, walk.y):
        slider.value = 1.0
        seen.append(np.array(walk.picture))
        assert not np.array_equal(*seen[-2:])
    expected = drawn.plane_view(*walk.planes, (1.0, 1.0))
    assert np.array_equal(seen[-1], np.array(expected))
    assert text(walk.message) == "Distance to the nearest code: 0.71 (plain), 2.12 (clouds)."
    assert 'role="status"' in walk.message.value
    assert "z = (1.00, 1.00)" in walk.view.value


def test_it_goes_to_a_page_in_the_chosen_plane(walk):
    walk.page.value = 1
    assert (walk.x.value, walk.y.value) == pytest.approx((0.5, 0.5))
    walk.plane.value = 1
    assert (walk.x.value, walk.y.value) == pytest.approx((-0.5, -0.5))
    walk.page.value = 2  # a code beyond the sliders' reach: they stop at their ends
    assert walk.x.value == 2.5


def test_nothing_is_swallowed(walk, caplog):
    with caplog.at_level(logging.WARNING):
        for value in np.linspace(-2.5, 2.5, 11):
            walk.x.value = walk.y.value = value
        walk.page.value = -1
    assert not [record for record in caplog.records if record.exc_info]


def test_every_control_has_a_name(walk):
    for control in (walk.page, walk.plane, walk.x, walk.y):
        assert control.description
        assert not control.disabled
