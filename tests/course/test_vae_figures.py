"""The figures and the widget of notebook 02: every point, window and error where it belongs."""

import logging
import re

import numpy as np
import pytest
import torch

import sdlearn
from sdlearn.course import figures
from sdlearn.course.figures import vae as drawn
from sdlearn.course.figures import vae_diagrams
from sdlearn.course.widgets.vae import LatentPlaneWidget


def flat(z):
    """A decoder that shows the point: red is z_0, green is z_1, blue 0; pictures of 2 x 2."""
    colours = torch.cat([z / 2.5, torch.zeros(len(z), 1)], dim=1)
    return colours[:, :, None, None].expand(-1, 3, 2, 2)


def inverted(z):
    return -flat(z)


CODES = torch.tensor([[1.0, -2.0], [0.5, 0.5], [7.0, 0.0]])


def test_pixels_are_bytes_in_the_right_place():
    x = torch.tensor([-1.0, 0.0, 1.0, 3.0]).view(1, 1, 2, 2).expand(2, 3, 2, 2)
    pictures = drawn.to_images(x)
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


def test_the_nearest_page_and_how_far_it_is_in_levels():
    pages = torch.stack([torch.full((3, 2, 2), v) for v in (-1.0, 0.0, 1.0)])
    pictures = torch.stack([torch.full((3, 2, 2), v) for v in (-0.9, 0.2, 3.0)])
    least, which = drawn.nearest_image(pictures, pages)
    assert which.tolist() == [0, 1, 2]
    assert least.tolist() == pytest.approx([12.75, 25.5, 0], abs=1e-4)  # beyond white is white


def slope(z):
    """A decoder that shows z_0 / 2 as grey, whatever z_1 is."""
    return (z[:, 0] / 2)[:, None, None, None].expand(-1, 3, 2, 2)


def test_lands_are_light_near_a_page_and_black_on_borders():
    pages = torch.stack([torch.full((3, 2, 2), v) for v in (-0.5, 0.5)])  # at z_0 = -1 and 1
    land = drawn.nearest_image_map(slope, pages, 81, 2.0)
    assert (land == land[:1]).all(0).all()  # z_1 does not matter
    row = dict(zip(np.linspace(-2, 2, 81).round(2).tolist(), land[0].tolist(), strict=True))
    assert row[-1.0] == row[1.0] == row[0.9] == 1.0  # 0.05, or 6 levels, from a page
    assert row[0.8] == row[1.2] == 0.8  # 0.1, or 13 levels
    assert row[0.6] == row[-2.0] == 0.5  # 0.2, or 26 levels
    assert [z for z, shade in row.items() if shade == 0] == [0.05]


def test_codes_at_one_place_are_numbered_together():
    places = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.1, 0.0], [5.0, 5.0], [1.0, 0.2]])
    groups = drawn.cluster_labels(places, 0.3)
    assert [numbers for numbers, _ in groups] == ["0 2", "1 4", "3"]
    assert groups[0][1] == pytest.approx((0.05, 0.0))
    assert groups[1][1] == pytest.approx((1.0, 0.1))


def test_planes_number_the_codes_inside_and_leave_out_the_others():
    pages = flat(CODES)
    names = ["a", "b"]
    described = drawn.latent_planes(
        [flat, inverted], [CODES, CODES + 1], names, pages, "Title", across=5
    )
    figure = described.figure
    left, right = figure.axes[::2], figure.axes[1::2]
    assert [ax.get_title(loc="left") for ax in left] == names
    assert figure.get_suptitle() == "Title"
    assert [text.get_text() for text in right[0].texts] == ["0", "1"]
    assert right[0].texts[0].get_position() == (1.0, -2.0)
    # The middle of the outermost tiles is at the reach, so the edge lies half a tile beyond.
    for ax in figure.axes:
        assert ax.images[0].get_extent() == pytest.approx([-3.125, 3.125, -3.125, 3.125])
    tiles = np.array(left[0].images[0].get_array())
    assert np.array_equal(tiles, np.array(drawn.plane_image(flat, 5, 2.5)))
    # 100 points over 6.25: the code (1, -2) is in column 66 and row 82 and decodes to its page.
    land = right[0].images[0]
    assert land.get_array().shape == (100, 100)
    assert land.get_array()[82, 66] == 3
    assert (land.norm.vmin, land.norm.vmax) == (0, 3)
    nearness = drawn.nearest_image_map(flat, pages, 100, 3.125)
    assert f"a: {(nearness == 1).mean():.0%}; b:" in described.words
    assert len({land.cmap(shade) for shade in range(4)}) == 4
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "within 10 grey levels of a training image", "within 20",
        "more than 20 from every training image",
    ]  # fmt: skip
    assert all(ax.get_ylabel() for ax in left)
    assert all(axes[-1].get_xlabel() for axes in (left, right))


def test_a_walk_has_equal_steps_and_both_ends():
    path = drawn.interpolate(torch.tensor([0.0, 1.0]), torch.tensor([4.0, -1.0]), 5)
    assert path.tolist() == [[0, 1], [1, 0.5], [2, 0], [3, -0.5], [4, -1]]


def test_a_map_numbers_the_codes_and_marks_the_point():
    canvas = np.array(drawn.plane_map(CODES, (-1.25, 1.25), 2.5, 201))
    dark = np.argwhere((canvas == 0).all(-1))
    assert dark.mean(0) == pytest.approx([50, 50], abs=1)  # up and left of the middle, 100
    assert abs(dark - 50).max(1).min() >= 7  # the cross leaves its middle free
    for place, number in (((140, 180), "0"), ((120, 80), "1")):
        (x, y), around = place, 8
        spot = canvas[y - around : y + around, x - around : x + around]
        assert (spot == 90).all(-1).any(), number
    written = np.argwhere((canvas == 90).all(-1))  # the third code is beyond the map
    near = [abs(written - (y, x)).max(1) <= 8 for x, y in ((140, 180), (120, 80))]
    assert np.logical_or(*near).all()


def test_a_point_beyond_the_map_is_at_its_edge():
    canvas = np.array(drawn.plane_map(CODES, (9.0, 0.0), 2.5, 201))
    assert np.argwhere((canvas == 0).all(-1)).mean(0)[0] == pytest.approx(100, abs=1)
    assert np.argwhere((canvas == 0).all(-1))[:, 1].max() == 200


def test_the_view_shows_each_decoder_at_its_point():
    points = [(2.5, 0.0), (2.5, 2.5)]
    page = np.array(drawn.plane_view([flat, inverted], [CODES, CODES], ["a", "b"], points, "Title"))
    for colour in ((255, 128, 128), (0, 0, 128)):
        assert (page == colour).all(-1).sum() == 180 * 180


@pytest.mark.parametrize("value", [-5.0, -2.5, -1.0, 0.0, 0.1, 2.5, 5.0])
def test_the_view_holds_over_the_whole_range(value):
    page = drawn.plane_view([flat], [CODES], ["a"], [(value, -value)], "Title")
    assert page.width > 200


def test_bells_have_area_one_and_say_their_price():
    described = drawn.normal_densities([(2, 0.5)], "Title")
    (ax,) = described.figure.axes
    (line,) = ax.lines
    z, p = line.get_xdata(), line.get_ydata()
    assert np.trapezoid(p, z) == pytest.approx(1, abs=1e-3)
    assert z[p.argmax()] == pytest.approx(2, abs=0.03)
    expected = 0.5 * (4 + 0.25 - 1 - np.log(0.25))
    assert f"{expected:.2f} nats" in line.get_label()
    assert f"mean 2, std 0.5: {expected:.2f} nats" in described.words


def test_the_costs_are_least_at_mean_and_median():
    described = drawn.guess_errors([-1, 1], [0.3, 0.7])
    (ax,) = described.figure.axes
    assert "squared error has its minimum at 0.40, and the absolute" in described.words
    assert "absolute error has its minimum at 1.00" in described.words
    squared, absolute = (line for line in ax.lines if line.get_label().count("minimum"))
    assert squared.get_label().endswith("0.40")
    assert absolute.get_label().endswith("1.00")
    assert squared.get_ydata().min() == pytest.approx(0.84, abs=1e-3)
    assert absolute.get_ydata().min() == pytest.approx(0.6, abs=1e-3)
    assert squared.get_linestyle() != absolute.get_linestyle()


def test_windows_are_three_wide_and_two_apart():
    described = vae_diagrams.convolution_windows(8, {"right": 0, "both": -1})
    figure = described.figure
    assert "right: from column 0; both: from column -1" in described.words
    pixels = [*map(str, range(8))]
    shown = {0: [*pixels, "pad"], -1: ["pad", *pixels, "pad"]}
    for ax, first in zip(figure.axes, (0, -1), strict=True):
        bars = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2]
        assert [round(bar.mean()) for bar in map(np.array, bars)] == [
            first + 1 + 2 * k for k in range(4)
        ]
        boxes = [text for text in ax.texts if not text.get_text().startswith("output")]
        assert [text.get_text() for text in boxes] == shown[first]
        assert [text.get_position()[0] for text in boxes] == [*range(first, 9)]
    assert figure.axes[0].get_title(loc="left") == "right"


def test_an_error_map_is_white_at_the_most():
    x = torch.zeros(1, 3, 1, 3)
    y = torch.tensor([0.0, 0.25, 4.0]).expand(1, 3, 1, 3)
    (picture,) = drawn.error_map(x, y)
    assert np.array(picture).tolist() == [[0, 127, 255]]


def test_rows_of_images_have_their_names_and_words():
    rows = {"": torch.zeros(2, 3, 4, 4), "second": torch.ones(2, 3, 4, 4)}
    described = drawn.image_rows(rows, "Title", "Grey and white.", scale=3)
    assert described.words == "Rows of images: second. Grey and white."
    pixels = np.array(described.figure)
    assert ((pixels == 128).all(-1).sum(), pixels.shape[1] >= 240) == (2 * 12 * 12, True)


def written(figure) -> set[str]:
    return {text.get_text().replace("\n", " ") for ax in figure.axes for text in ax.texts}


def test_the_autoencoder_s_diagram_has_the_sizes_of_the_published_one():
    texts = written(vae_diagrams.autoencoder().figure)
    spec = sdlearn.SPECS["sd1.5"]
    for level, channels in enumerate(spec.vae.block_out_channels):
        assert f"{channels} × {spec.resolution // 2**level}²" in texts
    assert {"mean", "logvar", "z", "latent 4 × 64²", "8 × 64²"} <= texts
    layers = spec.vae.layers_per_block
    assert f"encoder: {layers} ResBlocks a level, Downsample between levels" in texts
    assert f"decoder: {layers + 1} ResBlocks a level, Upsample between levels" in texts


def test_the_loss_s_diagram_names_both_terms_and_what_they_compare():
    described = vae_diagrams.elbo()
    texts = written(described.figure)
    assert {
        "reconstruction term: is x̂ close to x?",
        "KL term: is the posterior close to the prior?",
    } <= texts
    assert {"mean m", "variance s²", "code z", "noise ε", "prior N(0, 1)"} <= texts
    assert figures.png(described.figure)


def test_the_resblock_s_diagram_names_its_layers():
    texts = written(vae_diagrams.resblock().figure)
    layers = [name for name, _ in sdlearn.vae.ResBlock(4, 8, 2).named_children()]
    assert [name for name in layers if not any(name in text for text in texts)] == []


def test_the_diagram_of_a_gan_names_both_networks():
    described = vae_diagrams.adversarial_training()
    names = written(described.figure)
    assert "decoder (generator G)" in names
    assert "discriminator D: one logit for each patch" in names
    assert figures.png(described.figure)


# -------------------------------------------------------------------------------------- the widget


PAGES = flat(CODES)


@pytest.fixture
def walk():
    return LatentPlaneWidget([flat, inverted], [CODES, CODES - 1], ["plain", "clouds"], PAGES)


def text(widget) -> str:
    return re.sub(r"<[^>]*>", "", widget.value)


def test_both_sliders_matter(walk):
    seen = [np.array(walk.image)]
    for slider in (walk.x, walk.y):
        slider.value = 1.0
        seen.append(np.array(walk.image))
        assert not np.array_equal(*seen[-2:])
    title = "The middle, moved by (1.0, 1.0)"
    expected = drawn.plane_view(*walk.planes, [(1.0, 1.0)] * 2, title)
    assert np.array_equal(seen[-1], np.array(expected))
    assert title in walk.view.value


def test_the_step_begins_at_the_page_s_own_code_in_each_plane(walk):
    """A fair comparison: in neither plane is the start further from the code than in the other."""
    walk.page.value = 1
    assert walk.points == [pytest.approx((0.5, 0.5)), pytest.approx((-0.5, -0.5))]
    walk.x.value, walk.y.value = 0.3, -0.2
    for point, codes in zip(walk.points, (CODES, CODES - 1), strict=True):
        assert (torch.tensor(point) - codes[1]).tolist() == pytest.approx([0.3, -0.2])
    expected = drawn.plane_view(*walk.planes, walk.points, "Image 1, moved by (0.3, −0.2)")
    assert np.array_equal(np.array(walk.image), np.array(expected))


def test_its_words_name_the_nearest_page_of_each_plane(walk):
    walk.page.value = 1  # inverted(-0.5, -0.5) is page 1, too
    here = "image 1, 0 grey levels away"
    assert text(walk.message) == f"Nearest image: {here} (plain); {here} (clouds)."
    walk.x.value = 1.0  # a change of 0.4 in one colour of three: 17 levels of 255
    assert "image 1, 17 grey levels away (plain)" in text(walk.message)
    assert 'role="status"' in walk.message.value


def test_nothing_is_swallowed(walk, caplog):
    with caplog.at_level(logging.WARNING):
        for page in range(-1, 3):
            walk.page.value = page
            for value in np.linspace(-2.5, 2.5, 11):
                walk.x.value = walk.y.value = value
    assert not [record for record in caplog.records if record.exc_info]


def test_every_control_has_a_name(walk):
    for control in (walk.page, walk.x, walk.y):
        assert control.description
        assert not control.disabled
