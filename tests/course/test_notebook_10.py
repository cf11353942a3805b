"""The functions of notebook 10, taken out of it, are the finished ones, a slip is noticed, and what
the notebook says about the toy dataset is true."""

import ast
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sdlearn
from sdlearn.course import solution
from sdlearn.course.exercises.nb10_guidance import SmallNetwork
from sdlearn.course.figures import guidance as line
from sdlearn.course.figures import guidance_scales
from sdlearn.course.grading.compare import Different, same
from sdlearn.text import Conditioning

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "10-guidance.ipynb"
FUNCTIONS = ("denoiser", "rescaled", "guided_network")
TOY = ("dataset", "network", "denoiser", "sampled")


def cells() -> dict[str, dict]:
    found = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    for cell in found:
        cell["source"] = "".join(cell["source"])
    return {cell["id"]: cell for cell in found}


def built(change: tuple[str, str] = ("", "")) -> dict:
    """The functions as the notebook defines them, with a piece of their text replaced."""
    names = {"torch": torch, "nn": nn, "Tensor": Tensor}
    texts = [solution(number).text for number in ("10.1", "10.3")]  # the learner writes these
    texts += [
        ast.unparse(node)
        for cell in cells().values()
        if cell["cell_type"] == "code"
        for node in ast.parse(cell["source"]).body
        if getattr(node, "name", "") in FUNCTIONS
    ]
    assert len(texts) == 5
    assert any(change[0] in text for text in texts), f"{change[0]!r} is not in them"
    for text in texts:
        exec(text.replace(*change), names)
    return names


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compared(names: dict) -> None:
    z, t = drawn(2, 4, 3, 5), torch.tensor([600, 600])
    cond, uncond = (Conditioning(drawn(2, 7, 6, seed=k)) for k in (1, 2))
    point = sdlearn.schedule.Point(600.0, *sdlearn.NoiseSchedule().at(600))
    model = SmallNetwork()
    finished = sdlearn.guidance.classifier_free_guidance

    for scale in (0.0, 3.0):
        same(
            lambda z, t, s=scale: names["guided"](model, z, t, cond.context, uncond.context, s),
            finished(model, cond, uncond, scale),
            z,
            t,
        )
    for asked in (
        (3.0,), (0.0,), (1,), (3.0, 0.7), (7.5, 0.7, (600, 900)), (3.0, 0.0, (0, 600)),
        (3.0, 0.7, (0, 599)), (3.0, 0.0, (601, 999)),
    ):  # fmt: skip
        mine = names["guided_network"](model, cond.context, uncond.context, *asked)
        same(mine, finished(model, cond, uncond, *asked), z, t)
    for phi in (0.0, 0.7, 1.0):
        same(names["rescaled"], sdlearn.guidance.rescale_guidance, z, z.cos() + 0.1 * z, phi)
    for predicts in ("noise", "velocity"):
        mine, theirs = (
            make(lambda z, t: z.sin() * t.view(-1, 1, 1, 1).to(z), predicts)
            for make in (names["denoiser"], sdlearn.guidance.denoiser)
        )
        same(lambda z, f=mine: f(z, point), lambda z, f=theirs: f(z, point), z)


def test_its_functions_are_the_finished_ones(capsys):
    compared(built())
    assert capsys.readouterr().out.count("same: ") == 15


@pytest.mark.parametrize(
    "change",
    [
        ("torch.cat([uncond, cond])", "torch.cat([cond, uncond])"),
        ("eps_uncond + scale", "eps_cond + scale"),
        ("model, z, t, cond, uncond, scale, rescale", "model, z, t, uncond, cond, scale, rescale"),
        ("scale, rescale, interval)", "scale, 0.0, interval)"),
        ("scale, rescale, interval)", "scale, rescale)"),
        ("rescaled(output, eps_cond, rescale)", "rescaled(output, eps_uncond, rescale)"),
        ("rescaled(output, eps_cond, rescale)", "rescaled(eps_cond, output, rescale)"),
        ("if rescale else output", "if scale > 5 else output"),
        ("interval[0] <= t[0] <= interval[1]", "interval[0] < t[0] <= interval[1]"),
        ("interval[0] <= t[0] <= interval[1]", "interval[0] <= t[0] < interval[1]"),
        ("return model(z, t, cond)\n", "return model(z, t, uncond)\n"),
        ("over = (1, 2, 3)", "over = (2, 3)"),
        ("over = (1, 2, 3)", "over = (0, 1, 2, 3)"),
        ("phi * ratio + 1 - phi", "phi + ratio * (1 - phi)"),
        ("cond.std(dim=over, keepdim=True) / output.std(dim=over, keepdim=True)",
         "output.std(dim=over, keepdim=True) / cond.std(dim=over, keepdim=True)"),
        ("(z - point.sigma * output) / point.alpha", "z - point.sigma * output / point.alpha"),
        ("point.alpha * z - point.sigma", "point.sigma * z - point.alpha"),
        ("(len(z),), point.t)", "(len(z),), 0.0)"),
    ],
)  # fmt: skip
def test_a_slip_in_its_functions_is_noticed(change):
    with pytest.raises((Different, AttributeError, TypeError)):
        compared(built(change))


def test_guidance_takes_one_call_of_twice_the_rows():
    for asked, expected in (((3.0,), [4]), ((1,), [2]), ((3.0, 0.0, (0, 500)), [2])):
        rows = []

        def model(z, t, context, rows=rows):
            rows.append((len(z), len(t), len(context)))
            return z

        contexts = drawn(2, 3, 4), drawn(2, 3, 4, seed=1)
        network = built()["guided_network"](model, *contexts, *asked)
        network(drawn(2, 1, 2, 2), torch.tensor([600, 600]))
        assert rows == [(n, n, n) for n in expected]


# --------------------------------------------------------------------------- the toy dataset


@pytest.fixture(scope="module")
def toy() -> dict:
    """What the cells of the toy dataset define."""
    names: dict = {}
    exec(cells()["setup"]["source"], names)
    exec(solution("10.1").text, names)
    for name in TOY:
        exec(cells()[name]["source"], names)
    return names


def test_its_toy_dataset_is_that_of_the_package(toy):
    assert torch.equal(toy["means"], line.MEANS)
    assert torch.equal(toy["stds"], line.STDS)
    assert torch.equal(toy["sizes"], line.GRID)
    assert toy["schedule"] == line.SCHEDULE
    z, t = drawn(3, 2, 4, 5), torch.tensor([3, 500, 990])
    for prompt, weight in toy["weights"].items():
        assert torch.equal(weight, line.mixture_weights(prompt))
        context = toy["context"](prompt, 3)
        same(
            lambda z, c=context: toy["animals"](z, t, c),
            lambda z, c=context: line.exact_noise(z, t, c),
            z,
        )
        for level in ((1.0, 0.0), (0.6, 0.8)):
            found = toy["log_density"](z, weight, *level)
            assert torch.allclose(found, line.log_density(z, weight, *level), atol=1e-12)


def test_its_samples_and_its_sharpened_density_are_those_of_the_package(toy):
    for s, states in toy["runs"].items():
        found = line.guided_samples(float(s), n=500, steps=200)
        assert torch.allclose(states[-1], found, rtol=0, atol=1e-9)
        expected = line.sharpened_density("", float(s))
        assert torch.allclose(toy["sharpened"](s), expected / expected.sum(), atol=1e-12)
    away = toy["sample"](3, "dog", (0, 600), n=50)[-1]
    found = line.guided_samples(3.0, "dog", (0, 600), n=50, steps=200)
    assert torch.allclose(away, found, rtol=0, atol=1e-9)


def stored(name: str) -> str:
    """The stored output of a cell, as text."""
    outputs = cells()[name]["outputs"]
    texts = [out.get("text") or out["data"]["text/plain"] for out in outputs]
    return "".join("".join(text) for text in texts).replace("−", "-")


@pytest.mark.parametrize(
    ("table", "text", "values"),
    [
        ("sampled-table", "sampled-read", ("46.1%", "3.4%", "-2.16")),
        ("interval-table", "interval-read", ("3.4%", "33.4%", "10.2%", "2.2%")),
        ("interval-early-table", "interval-early-read", ("77%", "64%", "72%", "81%")),
        ("negative-table", "negative-read", ("-4.76",)),
    ],
)
def test_the_numbers_of_its_text_are_those_of_its_tables(table, text, values):
    told = cells()[text]["source"].replace(" %", "%").replace("−", "-")
    for value in values:
        assert value in stored(table), value
        assert value in told, value


def test_the_full_models_numbers_are_those_of_the_card():
    told = cells()["curve-read"]["source"]
    folder = Path(sdlearn.__file__).parents[1] / "data" / "storybook"
    rows = json.loads((folder / "metrics.json").read_text("utf-8"))["splits"]["test"]["table"]
    for row in rows:
        if row["steps"] == 30 and row["guidance"] in (1, 3, 10):
            assert f"{100 * row['pictures']['right']['rate']:.1f} %" in " ".join(told.split())


def test_forbidding_with_minus_two_is_the_negative_prompt_at_three():
    network, z, t = SmallNetwork(), drawn(2, 4, 3, 5), torch.tensor([3.0, 700.0])
    empty, prompt, black = (drawn(2, 7, 6, seed=k) for k in (1, 2, 3))
    names: dict = {"torch": torch, "nn": nn, "Tensor": Tensor}
    exec(solution("10.2").text, names)
    found = names["steered"](network, z, t, empty, torch.stack([prompt, black]), [3.0, -2.0])
    conditions = Conditioning(prompt), Conditioning(black)
    negative = sdlearn.guidance.classifier_free_guidance(network, *conditions, 3.0)(z, t)
    assert torch.allclose(found, negative, rtol=0, atol=1e-12)


def test_the_figure_of_two_models_says_its_rates():
    rate = {s: (r, r - 0.1, r + 0.1) for s, r in ((0, 0.1), (1, 0.5), (3, 0.8))}
    full = {1: (0.9, 0.8, 1.0), 3: (1.0, 0.9, 1.0)}
    drawn_figure = guidance_scales.accuracy({"weak": rate, "full": full})
    ax = drawn_figure.figure.axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "3"]
    assert list(ax.lines[0].get_xdata()) == [0, 1, 3]
    assert "logarithmic" in ax.get_xlabel()
    assert {text.get_text() for text in ax.texts} == {"weak", "full"}
    assert "weak: 10 % at 0, 50 % at 1, 80 % at 3." in drawn_figure.words


def test_the_figure_of_the_pushes_has_one_scale_and_says_its_changes():
    zs = torch.linspace(-2, 2, 5)
    moves = {"s = 0": zs, "s = 3": -2 * zs}
    kinds = {"cats": (-1.0, 0.5), "dogs": (1.0, 0.25)}
    panels = [guidance_scales.PushPanel(title, moves, kinds) for title in ("one", "two")]
    drawn_figure = guidance_scales.pushes(zs, panels)
    left, right, below, _ = drawn_figure.figure.axes
    assert left.get_ylim() == right.get_ylim()
    assert [text.get_text() for text in left.texts] == ["s = 0", "s = 3"]
    assert [text.get_text() for text in below.texts] == ["cats", "dogs"]
    assert [(bar.get_x(), bar.get_width()) for bar in below.patches] == [(-1.5, 1.0), (0.75, 0.5)]
    assert "one, s = 3: +2.00 over the cats, -2.00 over the dogs." in drawn_figure.words
