"""The figures of notebook 00 show what they are given, and their words agree with them."""

import re
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image

from sdlearn.course import figures
from sdlearn.course.figures import course_plan, overview
from sdlearn.schedule import NoiseSchedule

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def latent(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def pipeline():
    return figures.pipeline_map("a red cat on the sand", latent(), Image.new("RGB", (64, 64)))


def test_the_pipeline_shows_every_notebook_that_exists_and_no_other():
    described = pipeline()
    (ax,) = described.figure.axes
    shown = " ".join(text.get_text() for text in ax.texts)
    existing = {path.name[:2] for path in NOTEBOOKS.glob("[0-9][0-9]-*.ipynb")} - {"00"}
    assert set(re.findall(r"\b\d\d\b", shown)) == existing
    assert set(re.findall(r"\b\d\d\b", described.words)) == existing
    for name in course_plan.BOXES:
        assert name in described.words
        assert name in shown


def test_the_pipeline_draws_the_noise_and_the_image_it_is_given():
    (ax,) = pipeline().figure.axes
    noise, image = ax.images
    assert np.array_equal(noise.get_array(), latent()[0, 0])
    assert image.get_array().shape == (64, 64, 3)


def test_no_box_of_the_pipeline_is_on_another():
    boxes = [(x, y, w, h) for _, x, y, _, w, h in course_plan.BOXES.values()]
    for i, (x, y, w, h) in enumerate(boxes):
        for u, v, a, b in boxes[:i]:
            assert abs(x - u) > (w + a) / 2 or abs(y - v) > (h + b) / 2


def test_a_latent_is_drawn_on_one_scale():
    described = overview.latent_channels(latent(), "A latent", Image.new("RGB", (8, 8)))
    maps = [ax.images[0] for ax in described.figure.axes[1:5]]
    assert {drawn.get_clim() for drawn in maps} == {(-3.0, 3.0)}
    for k, drawn in enumerate(maps):
        assert np.array_equal(drawn.get_array(), latent()[0, k])
    assert f"standard deviation is {latent().numpy().std():.2f}" in described.words


def test_schedule_curves_draw_the_table_and_the_points():
    schedule = NoiseSchedule()
    path = schedule.path(7)
    described = overview.schedule_curves(schedule, path)
    (ax,) = described.figure.axes
    alpha, sigma, alpha_stops, sigma_stops = ax.lines
    assert np.allclose(alpha.get_ydata() ** 2, schedule.alphas_cumprod)
    assert np.allclose(sigma.get_ydata() ** 2 + alpha.get_ydata() ** 2, 1)
    for stops, values in (
        (alpha_stops, [p.alpha for p in path]),
        (sigma_stops, [p.sigma for p in path]),
    ):
        assert list(stops.get_xdata()) == [p.t for p in path]
        assert np.allclose(stops.get_ydata(), values)
    assert alpha.get_linestyle() != sigma.get_linestyle()
    assert "8 points" in ax.get_title(loc="left")
    assert "8 points" in described.words


def test_the_distances_are_drawn_from_their_own_first_step():
    runs = [[9.0, 7, 5, 3, 2, 0], [8.0, 7, 5, 4, 2, 0]]
    described = overview.settling(runs)
    (ax,) = described.figure.axes
    drawn = [line for line in ax.lines if line.get_linestyle() != ":"]
    for line, values in zip(drawn, runs, strict=True):
        assert [*line.get_xdata()] == [1, 2, 3, 4, 5, 6]
        assert [*line.get_ydata()] == values
    even = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert [[*line.get_ydata()] for line in even] == [[8.5, 0]]
    names = {text.get_text() for text in ax.texts}
    assert {"seed 0", "seed 1", "dotted: even pace"} <= names
    assert "is 8 to 9 levels from the final image after step 1, 0 to 0 after" in described.words
    assert "3 to 4 after step 4" in described.words


def test_a_compact_page_keeps_its_colours_and_has_a_palette():
    page = Image.new("RGB", (8, 8), "white")
    page.putpixel((3, 3), (220, 30, 30))
    small = overview.compact(page)
    assert small.mode == "P"
    assert np.abs(np.array(small.convert("RGB"), int) - np.array(page)).max() < 8


def test_labels_move_apart_and_keep_their_order():
    assert overview.apart([1.0, 5.0], 2) == [1, 5]
    low, high, middle = overview.apart([1.0, 1.5, 1.2], 2)
    assert high - middle > 1.99
    assert middle - low > 1.99


def test_noisy_latents_draw_channel_0_above_the_image():
    latents = [latent(k) for k in range(3)]
    images = [Image.new("RGB", (8, 8), (k, 0, 0)) for k in range(3)]
    described = overview.noisy_latents(latents, images, ["a", "b", "c"], "Title", "Three.")
    page = np.array(described.figure)
    for k in range(3):
        assert (page == (k, 0, 0)).all(axis=-1).sum() == 16 * 16
    for value, shade in ((-3.0, 0.0), (3.0, 1.0)):
        flat = [torch.full((1, 4, 8, 8), value)]
        page = np.array(overview.noisy_latents(flat, images[:1], ["a"], "", "").figure)
        colour = matplotlib.colormaps["cividis"](shade, bytes=True)[:3]
        assert (page == colour).all(axis=-1).sum() >= 16 * 16
    assert described.words == "Three."


def test_point_sets_draw_every_point_with_its_shape_and_enlarge_the_last_column():
    sets = [[3 * latent(k)[0, 0, :, :2] for k in (j, j + 1)] for j in (0, 2)]
    shapes = [(latent(k)[0, 1, :, :2] * 16).round() / 16 for k in (0, 1)]
    other = [("c", latent(5)[0, 0, :, :2], shapes[1])]
    described = overview.point_sets(
        sets, shapes[0], ["a", "b"], ["x", "y"], "Title", "Five sets.", other
    )
    axes = described.figure.axes
    assert [ax.get_ylabel() for ax in axes] == ["x", "", "y", "", "", ""]
    assert [ax.get_title() for ax in axes] == ["a", "b", "", "", "", "c"]
    assert not axes[4].axison
    assert not axes[4].lines
    del axes[4]
    limits = {False: set(), True: set()}
    drawn_sets = [p for row in sets for p in row] + [other[0][1]]
    for k, (ax, points) in enumerate(zip(axes, drawn_sets, strict=True)):
        (drawn,) = ax.lines
        assert np.allclose(np.stack(drawn.get_data(), 1), points)
        assert ax.get_xlim() == ax.get_ylim()
        limits[k % 2 == 1 or k == 4].add(ax.get_xlim()[1])
    (every,), (close,) = limits.values()
    assert every > max(points.abs().max() for row in sets for points in row)
    assert every > close > max(shape.abs().max() for shape in shapes)
    assert described.words == "Five sets."


def test_a_raster_holds_every_point():
    points = torch.tensor([[0.0, 0.25], [1.0, -0.5], [0.0625, 0.25]])
    x, y, filled = overview.raster(points)
    rows, columns = np.nonzero(filled)
    found = {(x[i], y[j]) for i, j in zip(columns, rows, strict=True)}
    assert found == {(0, 0.25), (1, -0.5), (0.0625, 0.25)}


def test_the_same_figure_gives_the_same_bytes():
    assert figures.png(pipeline().figure) == figures.png(pipeline().figure)
