"""Notebook 03: its classes are the finished ones, and what it says holds for any weights."""

import ast
import json
import math
import re
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sdlearn
from sdlearn.course import solution
from sdlearn.course.exercises.nb03_time import size_vector
from sdlearn.course.grading.compare import Different, same

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "03-timestep-embedding.ipynb"
TYPED = {
    "sinusoidal_embedding": "03.1", "TimeEmbedding": "03.2", "adapted": "03.4",
    "read_clocks": "03.6",
}  # fmt: skip


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
    return cells


@pytest.fixture
def taken(cells):
    """A function or class of the notebook, with a change to its code or none.

    The learner types four of them; the notebook goes on with the solution.
    """

    def taken(name: str, change: tuple[str, str] = ("", "")):
        texts = {name: solution(number).text for name, number in TYPED.items()}
        for cell in cells:
            if cell["cell_type"] == "code" and not cell["id"].startswith("exercise-"):
                for node in ast.parse(cell["source"]).body:
                    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                        texts[node.name] = ast.unparse(node)
        names: dict = {"math": math, "torch": torch, "F": F, "nn": nn, "Tensor": Tensor}
        for known in ("sinusoidal_embedding", name):
            text = texts[known]
            if known == name:
                assert change[0] in text
                text = text.replace(*change)
            exec(text, names)
        return names[name]

    return taken


EMBEDDINGS = sdlearn.embeddings
TIMES = [torch.tensor([0, 1, 437, 999]), torch.tensor([0.25, 498.4, 999.0])]


@pytest.mark.parametrize("t", TIMES, ids=["whole", "fractional"])
@pytest.mark.parametrize("dim", [2, 24, 320])
def test_its_sinusoids_are_the_finished_ones(taken, t, dim):
    same(taken("sinusoidal_embedding"), EMBEDDINGS.sinusoidal_embedding, t, dim)


@pytest.mark.parametrize(
    "change",
    [
        ("angles.cos(), angles.sin()", "angles.sin(), angles.cos()"),
        ("* i / half", "* i / (half - 1)"),
        ("t.float()", "t.bfloat16()"),
        ("t.float()", "t.double()"),
        ("math.log(max_period)", "math.log(1000)"),
        ("-math", "math"),
        ("half = dim // 2", "half = dim"),
    ],
)
def test_wrong_sinusoids_are_noticed(taken, change):
    wrong = taken("sinusoidal_embedding", change)
    with pytest.raises(Different):
        same(wrong, EMBEDDINGS.sinusoidal_embedding, TIMES[0], 320, tolerance=1e-6)


def test_its_network_is_the_finished_one(taken):
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    same(taken("TimeEmbedding")(6, 20), EMBEDDINGS.TimeEmbedding(6, 20), x)


@pytest.mark.parametrize(
    "change",
    [
        ("F.silu", "F.gelu"),
        ("F.silu(self.linear_1(x))", "self.linear_1(F.silu(x))"),
        ("self.linear_2(F.silu", "F.silu(self.linear_2"),
        ("F.silu(self.linear_1(x))", "self.linear_1(x)"),
        ("linear_2", "linear_3"),
        ("nn.Linear(dim_in, dim)", "nn.Linear(dim_in, dim, bias=False)"),
    ],
)
def test_a_wrong_network_is_noticed(taken, change):
    x = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    wrong = taken("TimeEmbedding", change)(20, 20)
    with pytest.raises(Different):
        same(wrong, EMBEDDINGS.TimeEmbedding(20, 20), x)


def test_the_sizes_of_its_exercise_are_those_of_the_finished_function():
    pooled = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[64, 48, 0, 8, 64, 32], [32, 24, 1, 2, 64, 48]])
    pairs = [[(w, h) for h, w in sizes[:, k : k + 2].tolist()] for k in (0, 2, 4)]
    expected = EMBEDDINGS.size_embedding(pooled, sizes, 8)
    assert torch.equal(size_vector(pooled, *pairs, 8), expected)


T = torch.tensor([0.0, 3, 437, 999])


def test_its_wrong_conventions_are_what_their_names_say(taken):
    right = sdlearn.embeddings.sinusoidal_embedding(T, 32)
    cosines, sines = right.chunk(2, dim=-1)
    assert torch.equal(taken("sines_first")(T, 32), torch.cat([sines, cosines], dim=-1))
    alternating = taken("alternating")(T, 32)
    assert torch.equal(alternating[:, 0::2], sines)
    assert torch.equal(alternating[:, 1::2], cosines)
    last = torch.atan2(*taken("half_minus_one")(torch.tensor([100.0]), 32)[0, [31, 15]])
    assert last / 100 == pytest.approx(1e-4, rel=1e-4)


def test_the_foreign_weight_is_that_of_a_network_with_alternating_channels(cells, taken):
    (cell,) = [cell for cell in cells if cell["id"] == "foreign"]
    line = next(row for row in cell["source"].splitlines() if row.startswith("order = "))
    names: dict = {"torch": torch}
    exec(line, names)
    ours = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    foreign = ours[:, names["order"]]
    expected = taken("sinusoidal_embedding")(T, 128) @ ours.T
    assert torch.allclose(taken("alternating")(T, 128) @ foreign.T, expected, atol=1e-4)
    assert torch.equal(taken("adapted")(foreign), ours)


def test_the_ablation_replaces_what_the_u_net_calls(cells, tiny_storybook):
    """A fixed vector changes the prediction, whatever t is, and only within the `with` block."""
    unet = tiny_storybook.unet
    names: dict = {"sd": tiny_storybook, "sdlearn": sdlearn, "torch": torch, "nn": nn}
    names |= {"patch": patch, "time_embedding": unet.time_embedding}
    (cell,) = [cell for cell in cells if cell["id"] == "ablation"]
    for node in ast.parse(cell["source"]).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            width = str(unet.time_embedding.linear_1.in_features)
            exec(ast.unparse(node).replace("128", width), names)
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    context = tiny_storybook.text(["a red cat", "a hat"]).context

    def predicted(t):
        with torch.no_grad():
            return unet(z, t, context)

    before = predicted(100)
    with names["unet_with"](names["Fixed"](names["emb_of"](999))):
        assert torch.equal(predicted(100), predicted(500))
        ablated = predicted(100)
    assert torch.allclose(ablated, predicted(999), atol=1e-6)
    zeros = torch.zeros(1, unet.time_embedding.linear_2.out_features)
    with names["unet_with"](names["Fixed"](zeros)):
        assert not torch.allclose(predicted(999), ablated)
    assert torch.equal(predicted(100), before)


# ----------------------------------------------------------------------------------------- its form


def shown(cell: dict, kind: str) -> list[dict]:
    return [out for out in cell.get("outputs", []) if kind in out.get("data", {})]


def joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def test_it_opens_with_the_card_and_the_question(cells):
    assert cells[0]["source"].startswith("# 03 · The timestep embedding")
    for entry in ("You will build", "You need", "Minutes"):
        assert f"| **{entry}** |" in cells[0]["source"]
    assert "?**" in cells[1]["source"]


def test_it_ends_with_the_papers(cells):
    papers = cells[-1]["source"].split("## Papers")[1].strip().split("\n- ")
    assert len(papers) >= 5
    assert all("arXiv:" in paper for paper in papers)


def test_every_figure_has_words(cells):
    pictures = 0
    for cell in cells:
        images = shown(cell, "image/png")
        for image in images:
            assert len(image["metadata"]["image/png"]["alt"]) > 40
        pictures += len(images)
    assert pictures >= 9


def test_every_number_in_the_prose_comes_from_a_cell(cells):
    printed = " ".join(
        joined(out.get("text", "")) + " " + joined(out.get("data", {}).get("text/plain", ""))
        for cell in cells
        for out in cell.get("outputs", [])
    )
    known = set(re.findall(r"\d+(?:\.\d+)?", printed))
    known |= {"10000", "160", "256", "0.9"}  # the formula's, the widths', and a question's
    for cell in cells:
        if cell["cell_type"] == "markdown" and not cell["id"].startswith("exercise-"):
            prose = cell["source"].split("## Papers")[0]
            prose = re.sub(r"^\| \*\*Minutes.*$", " ", prose, flags=re.M)
            prose = re.sub(r"```.*?```", " ", prose, flags=re.S)
            prose = re.sub(r"\$[^$]*\$|`[^`]*`|\]\([^)]*\)", " ", prose)
            prose = re.sub(r"et al\.,\s\d{4}|arXiv:\S+|\b(SD|GPT)[ -]\d(\.\d)?", " ", prose)
            prose = re.sub(r"^#+ \d+ ·|Diffusion \d(\.\d)?|version \d", " ", prose, flags=re.M)
            prose = re.sub(r"([Nn]otebook|[Ss]ections?|exercise)\s\d+( and \d+|\.\d)?", " ", prose)
            assert set(re.findall(r"\d+(?:\.\d+)?", prose)) <= known, cell["id"]


def test_the_widget_is_driven_by_its_traits(cells):
    (widget,) = [cell for cell in cells if cell["id"] == "widget"]
    assert shown(widget, "image/png")
    after = cells[cells.index(widget) + 1 :]
    driven = next(cell for cell in after if cell["cell_type"] == "code")
    assert ".other.value = " in driven["source"]
    assert shown(driven, "image/png")
