"""The figures of notebook 00 show what they are given, and their words agree with them."""

import re
from pathlib import Path

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
    guided = [[9.0, 7, 5, 3, 2, 0], [8.0, 7, 5, 4, 2, 0]]
    unguided = [[6.0, 4, 3, 2, 1, 0]]
    described = overview.settling(guided, unguided)
    (ax,) = described.figure.axes
    for line, values in zip(ax.lines, [*guided, *unguided], strict=True):
        assert [*line.get_xdata()] == [1, 2, 3, 4, 5, 6]
        assert [*line.get_ydata()] == values
    assert "is 8 to 9 levels from the final image after step 1 and 3 to 4" in described.words
    assert "it is 6 to 6 levels away after step 1 and 2 to 2 after step 4" in described.words


def test_point_sets_draw_every_point_on_its_shape_and_on_equal_axes():
    sets = [[latent(k)[0, 0, :, :2] for k in (j, j + 1)] for j in (0, 2)]
    shapes = [latent(k)[0, 1, :, :2] for k in (0, 1)]
    described = overview.point_sets(sets, shapes, ["a", "b"], ["x", "y"], "Title", "Four sets.")
    axes = described.figure.axes
    for k, (ax, points) in enumerate(zip(axes, [p for row in sets for p in row], strict=True)):
        shape, drawn = ax.collections
        assert np.allclose(shape.get_offsets(), shapes[k // 2])
        assert np.allclose(drawn.get_offsets(), points)
        assert ax.get_xlim() == ax.get_ylim()
    assert [ax.get_ylabel() for ax in axes] == ["x", "", "y", ""]
    assert described.words == "Four sets."


def test_the_same_figure_gives_the_same_bytes():
    assert figures.png(pipeline().figure) == figures.png(pipeline().figure)
