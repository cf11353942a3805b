"""Notebook 03: its classes are the finished ones, and what it says holds for any weights."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch

import sdlearn
from sdlearn.course import figures
from sdlearn.course.grading.compare import Different, same

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "03-timestep-embedding.ipynb"
SLOW = {"four", "train", "train-figure", "fits-figure"}  # the trainings, which nbval runs


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
    return cells


@pytest.fixture
def taken(cells):
    """A function or class out of the notebook's text, with a change to its code or none."""

    def taken(name: str, change: tuple[str, str] = ("", "")):
        code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
        found = [
            node
            for source in code
            for node in ast.parse(source).body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        ]
        names: dict = {}
        exec("import math, torch; import torch.nn.functional as F; from torch import nn", names)
        for node in found:
            if node.name in {"sinusoidal_embedding", name}:
                text = ast.unparse(node)
                if node.name == name:
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


def test_its_sinusoids_refuse_an_odd_width(taken):
    with pytest.raises(ValueError, match="dim = 7"):
        taken("sinusoidal_embedding")(TIMES[0], 7)


@pytest.mark.parametrize(
    "change",
    [
        ("angles.cos(), angles.sin()", "angles.sin(), angles.cos()"),
        ("* i / half", "* i / (half - 1)"),
        ("t.float()", "t.bfloat16()"),
        ("t.float()", "t.double()"),
        ("10000", "1000"),
        ("-math", "math"),
        ("half = dim // 2", "half = dim"),
    ],
)
def test_wrong_sinusoids_are_noticed(taken, change):
    wrong = taken("sinusoidal_embedding", change)
    with pytest.raises(Different):
        same(wrong, EMBEDDINGS.sinusoidal_embedding, TIMES[0], 320)


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


def test_its_sizes_are_the_finished_ones(taken):
    pooled = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[64, 48, 0, 8, 64, 64], [32, 32, 1, 2, 64, 48]])
    same(taken("size_embedding"), EMBEDDINGS.size_embedding, pooled, sizes, 8)
    for change in (
        ("sizes.flatten()", "sizes.T.flatten()"),
        ("[pooled, vectors", "[-pooled, vectors"),
        ("sizes.flatten()", "sizes.flip(1).flatten()"),
    ):
        wrong = taken("size_embedding", change)
        with pytest.raises(Different):
            same(wrong, EMBEDDINGS.size_embedding, pooled, sizes, 8)


@pytest.fixture
def run(cells, tiny_storybook, monkeypatch, tmp_path):
    """Run the code cells up to the one of this id with random weights, but for the trainings."""
    monkeypatch.setattr(sdlearn.StableDiffusion, "storybook", lambda **_: tiny_storybook)
    monkeypatch.chdir(tmp_path)

    def run(last: str, change: tuple[str, str] = ("", "")) -> dict:
        names: dict = {}
        for cell in cells:
            if cell["cell_type"] == "code" and cell["id"] not in SLOW:
                exec(compile(cell["source"].replace(*change), cell["id"], "exec"), names)
            if cell["id"] == last:
                return names
        raise AssertionError(f"the notebook has no cell {last!r}")

    return run


def test_what_it_says_of_the_model_holds_for_any_weights(run, tmp_path):
    names = run("widget-drive")
    assert names["apart"]["yours"].max() <= 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "last"),
    [
        (
            ("cos(), angles.sin()], dim=-1)\n\n\nt =", "sin(), angles.cos()], dim=-1)\n\n\nt ="),
            "order-model",
        ),
        (("torch.diag((k * omega).sin())", "-torch.diag((k * omega).sin())"), "shift"),
        (("x / (1 + torch.exp(-x))", "x / (1 + torch.exp(x))"), "silu"),
        (("omega * times[:, None]", "2 * omega * times[:, None]"), "near-figure"),
    ],
)
def test_its_own_comparisons_notice_a_mistake(run, monkeypatch, change, last):
    monkeypatch.setattr(figures, "show", lambda *_, **__: None)
    with pytest.raises(AssertionError):
        run(last, change)


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
    assert pictures >= 10


def test_every_number_in_the_prose_comes_from_a_cell(cells):
    printed = " ".join(
        joined(out.get("text", "")) for cell in cells for out in cell.get("outputs", [])
    )
    known = set(re.findall(r"\d+(?:\.\d+)?", printed))
    for cell in cells:
        if cell["cell_type"] == "markdown" and not cell["id"].startswith("exercise-"):
            prose = cell["source"].split("## Papers")[0]
            prose = re.sub(r"^\| \*\*Minutes.*$", " ", prose, flags=re.M)
            prose = re.sub(r"```.*?```", " ", prose, flags=re.S)
            prose = re.sub(r"\$[^$]*\$|`[^`]*`|\(https?:[^)]*\)", " ", prose)
            prose = re.sub(r"^#+ \d+ ·|Diffusion \d(\.\d)?|version \d", " ", prose, flags=re.M)
            prose = re.sub(r"([Nn]otebook|[Ss]ections?) \d+( and \d+)?", " ", prose)
            assert set(re.findall(r"\d+(?:\.\d+)?", prose)) <= known, cell["id"]


def test_the_widget_is_driven_by_its_traits(cells):
    (widget,) = [cell for cell in cells if cell["id"] == "widget"]
    assert shown(widget, "image/png")
    after = cells[cells.index(widget) + 1 :]
    driven = next(cell for cell in after if cell["cell_type"] == "code")
    assert ".other.value = " in driven["source"]
    assert shown(driven, "image/png")
