"""Notebook 16: what the learner writes is what the library does, and a slip is noticed."""

import contextlib
import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sdlearn.evaluation
from sdlearn.course import check
from sdlearn.course.figures import evaluation as drawn
from sdlearn.course.grading.compare import Different
from sdlearn.course.widgets import MetricsWidget
from sdlearn.course.widgets.evaluation import CHANGES, ONE_SKY, changed
from sdlearn.evaluation import load_judge, prompt_cases
from sdlearn.evaluation.accuracy import judge_images, rates
from sdlearn.evaluation.background_judge import BackgroundJudge
from sdlearn.evaluation.clip_score import clip_scores
from sdlearn.evaluation.resampling import compare_paired, interval, resamples
from sdlearn.storybook import Scene, render, sample_scene
from tests.notebook_parts import learnt

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "16-evaluation.ipynb"


def built(change: tuple[str, str] = ("", "")) -> dict:
    """The learner's functions and the notebook's around them, with a piece of text replaced."""
    imports = ["import random", "import torch", "import torch.nn.functional as F"]
    imports += ["from torch import Tensor", "from dataclasses import replace"]
    imports += ["from sdlearn.storybook import COLOURS, KINDS"]
    numbers = [f"16.{k}" for k in range(1, 6)]
    return learnt(NOTEBOOK, numbers, imports, ("kid", "altered", "loss_of", "please"), change)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compared(names: dict) -> None:
    x, y = normal(40, 5), 1.3 * normal(30, 5, seed=1) + 0.4
    pairs = {
        "frechet": sdlearn.evaluation.frechet_distance,
        "kid": lambda a, b: sdlearn.evaluation.kid(a, b, subsets=1, subset_size=30).mean,
    }
    for name, theirs in pairs.items():
        mine = names[name]
        check.same(
            mine,
            lambda a, b, theirs=theirs: torch.tensor(theirs(a, b), dtype=a.dtype),
            x[:30] if name == "kid" else x,
            y,
        )
    check.same(
        lambda a, b: torch.stack(names["precision_recall"](a, b, 3)),
        lambda a, b: torch.tensor(sdlearn.evaluation.precision_recall(a, b, 3), dtype=a.dtype),
        x,
        y,
    )
    rows = torch.stack([*resamples(30, 200, 0)])
    a, b = (normal(30, seed=k).gt(-0.5).double() for k in (2, 3))

    def paired(a, b):
        first, second = ([[value] for value in row.tolist()] for row in (a, b))
        return torch.tensor(compare_paired(first, second, draws=200).paired, dtype=a.dtype)

    check.same(lambda a, b: names["paired_interval"](a, b, rows), paired, a, b)
    check.same(
        lambda a, b: names["worst_by_clip"](a, b, 2)[0], clip_scores, x[:10], y[:10] - x[:10]
    )
    assert names["worst_by_clip"](x[:3], x[:3] * torch.tensor([[1.0], [-1], [1]]), 1)[1] == 1
    # The library allows for several images a prompt, and so counts one case less.
    low, high = names["wilson"](torch.tensor(0.8, dtype=torch.float64), 49)
    theirs = interval([[k % 5 > 0] for k in range(50)])
    assert (low.item(), high.item()) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_its_parts_are_the_finished_ones():
    with contextlib.redirect_stdout(io.StringIO()) as said:
        compared(built())
    assert said.getvalue().count("same: ") == 5


@pytest.mark.parametrize(
    "change",
    [
        ("z**2 / (4 * n**2)", "z**2 / (2 * n**2)"),
        ("gap[rows].mean(dim=1)", "gap[rows].mean(dim=0)"),
        ("[0.025, 0.975]", "[0.05, 0.95]"),
        ("- 2 * squares.sqrt().sum()", "- squares.sqrt().sum()"),
        ("x.T.cov(), y.T.cov()", "x.T.cov(correction=0), y.T.cov(correction=0)"),
        ("kthvalue(k + 1", "kthvalue(k"),
        (".any(dim=1)", ".all(dim=1)"),
        ("k.sum() - k.trace()", "k.sum()"),
        ("/ a.shape[1] + 1) ** 3", "/ a.shape[1] + 1) ** 2"),
        ("cosines.clamp(min=0)", "cosines.abs()"),
    ],
    ids=lambda change: change[0],
)
def test_a_slip_is_noticed(change):
    with (
        pytest.raises((AssertionError, Different, ValueError, RuntimeError)),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        compared(built(change))


def test_an_altered_page_differs_in_one_word():
    altered = built()["altered"]
    for k in range(40):
        scene = sample_scene(random.Random(k), "test", n=2)
        other = altered(scene, k)
        assert other.things[1:] == scene.things[1:]
        before, after = scene.things[0], other.things[0]
        assert (before.kind != after.kind) == bool(k % 2)
        assert (before.colour != after.colour) == (k % 2 == 0)
        render(other, 64)


def test_an_empty_page_pleases_the_network_alone():
    names, judge, cases = built(), load_judge(), prompt_cases("test", 4)
    empty = [render(Scene(case.scene.sky, case.scene.ground, ()), 64) for case in cases]
    x = sdlearn.evaluation.image_metrics.as_tensor(empty)
    y = names["please"](judge, x, [case.scene for case in cases])
    assert (y - x).abs().max() <= 16 / 127.5 + 1e-6
    pixels = ((y + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    images = [Image.fromarray(one) for one in pixels]
    found = [
        rates(judge_images(reader, cases, images, range(4)))["page"].rate
        for reader in (judge, BackgroundJudge())
    ]
    assert found[0] >= 0.75
    assert found[1] == 0


# ---------------------------------------------------------------------------------------- figures


def test_intervals_are_written_in_per_cent():
    figure = drawn.rates_and_difference(
        {"A": (0.9, 0.8, 0.95), "B": (0.8, 0.7, 0.9)}, {"paired": (0.1, 0.02, 0.2), "not": (0,) * 3}
    )
    assert "A: 90.0, from 80.0 to 95.0" in figure.words
    rates, differences = figure.figure.axes
    assert [label.get_text() for label in rates.get_yticklabels()] == ["A", "B"]
    assert list(differences.lines[0].get_xdata()) == [2, 20]


def test_lines_end_at_their_limits():
    distances = {"true": [1.0, 1.9], "blurred": [2.0, 3.1]}
    limits = {"true": (0.1, 900.0), "blurred": (0.9, 1100.0)}
    figure = drawn.frechet_lines([1000, 500], distances, limits)
    assert "blurred: 2.00, 3.10, limit 0.90" in figure.words
    (ax,) = figure.figure.axes
    line = next(line for line in ax.lines if line.get_ydata()[0] == 0.9)
    assert line.get_ydata()[1] == pytest.approx(0.9 + 1100 / 500)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["∞", "1000", "500"]


def test_halves_below_zero_are_counted():
    values = {
        "Fréchet distance": torch.tensor([0.4, 0.6]),
        "KID": torch.tensor([-0.101, 0.3, -0.2]),
    }
    figure = drawn.two_halves(values)
    words = figure.words
    assert all("mean" in [text.get_text() for text in ax.texts] for ax in figure.figure.axes)
    assert "Fréchet distance: from 0.40 to 0.60, mean 0.50, 0 of 2 negative" in words
    assert "KID: from -0.20 to 0.30, mean 0.00, 2 of 3 negative" in words  # no "-0.00"


def test_points_inside_the_balls_are_counted():
    reals = torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 1]])
    near = torch.tensor([[0.5, 0.5], [0.5, 0.6], [0.6, 0.5], [5.0, 5]])
    figure = drawn.neighbour_balls(reals, {"near": near, "far": near + 20}, k=2)
    assert "near: 3 of 4 generated points inside, precision 0.75; 1 of 4 real" in figure.words
    assert "far: 0 of 4 generated points inside, precision 0.00; 0 of 4 real" in figure.words
    assert "reaches to its second nearest real neighbour" in figure.words
    titles = [ax.get_title("left") for ax in figure.figure.axes]
    assert titles[0] == "near\nprecision 0.75"
    assert titles[2] == "recall 0.25"
    crosses = [line for line in figure.figure.axes[2].lines if line.get_marker() == "x"]
    assert len(crosses[0].get_xdata()) == 3  # real points that no ball covers


def test_a_faded_image_keeps_its_colours_in_the_figure():
    image = render(sample_scene(random.Random(3), "test", n=1), 64)
    faded = Image.blend(Image.new("RGB", image.size, (128, 128, 128)), image, 0.9)
    rows, said = {"": [image, faded]}, (["true", "faded"], "a title", "words")
    exact = np.asarray(drawn.image_rows(rows, *said).figure.convert("RGB"), dtype=int)
    own = drawn.image_rows(rows, *said, colours=256).figure
    assert own.mode == "P"  # stored as it is
    gap = np.abs(np.asarray(own.convert("RGB"), dtype=int) - exact).max(axis=2)
    assert np.mean(gap > 2) < 0.02


# ----------------------------------------------------------------------------------------- widget


@pytest.fixture(scope="module")
def lens():
    scenes = [case.scene for case in prompt_cases("test", 240)]
    return MetricsWidget(load_judge(), scenes)


def test_each_change_does_more_with_a_larger_amount():
    scenes = [sample_scene(random.Random(k), "test", n=1) for k in range(6)]
    images = [render(scene, 64) for scene in scenes]
    assert changed(scenes, images, "none", 1.0) == images
    for name in (*CHANGES, ONE_SKY):
        sizes = []
        for amount in (0.0, 0.5, 1.0):
            after = changed(scenes, images, name, amount)
            assert {image.size for image in after} == {(64, 64)}
            gaps = (np.subtract(a, b, dtype=float) for a, b in zip(after, images, strict=True))
            sizes.append(sum(np.abs(gap).sum() for gap in gaps))
        assert sizes[0] == 0, name
        assert 0 < sizes[1] <= sizes[2], name
    after = changed(scenes, images, ONE_SKY, 1.0)
    assert after[0] == render(Scene("day", scenes[0].ground, scenes[0].things), 64)


def test_the_widget_measures_what_it_shows(lens):
    lens.change.value = "none"
    before = lens.measured
    assert before.psnr == float("inf")
    lens.change.value, lens.amount.value = "blur", 100
    blurred = lens.measured
    assert blurred.frechet > before.frechet
    assert blurred.precision < before.precision
    lens.change.value = ONE_SKY
    assert lens.measured.recall < before.recall - 0.3
    assert f"recall {lens.measured.recall:.2f}" in lens.message.value
    lens.amount.value = 0
    assert lens.measured == before


def test_every_setting_of_the_widget_has_a_sentence(lens):
    for change in lens.change.options:
        for amount in (0, 100):
            for n in (lens.number.min, lens.number.max):
                lens.change.value, lens.amount.value, lens.number.value = change, amount, n
                assert f"{n} images" in lens.message.value
                assert "nan" not in lens.message.value
    assert lens.alt.startswith("Five true images")
