"""What every stored notebook promises its reader; nbval runs it, nbtool checks its file."""

import ast
import json
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from sdlearn.course.exercises import files

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(path: Path) -> list[dict]:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    for cell in cells:
        cell["source"] = joined(cell["source"])
    return cells


def joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def shown(cell: dict, kind: str) -> list[dict]:
    return [out for out in cell.get("outputs", []) if kind in out.get("data", {})]


def prose(cells: list[dict]) -> str:
    return "\n\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")


@each
def test_it_opens_with_the_card_and_a_question(path):
    before_code = []
    for cell in cells_of(path):
        if cell["cell_type"] == "code":
            break
        before_code.append(cell["source"])
    assert before_code[0].startswith(f"# {path.name[:2]} · ")
    for entry in ("You will build", "You need", "Minutes"):
        assert f"| **{entry}** |" in before_code[0]
    assert "### Before you run anything" in before_code[1]
    assert "?" in before_code[1]


@each
def test_its_headings_are_in_order(path):
    text = re.sub(r"^```.*?^```", "", prose(cells_of(path)), flags=re.M | re.S)
    headings = re.findall(r"^(#+) (.+)$", text, flags=re.M)
    levels = [len(marks) for marks, _ in headings]
    assert levels.count(1) == 1
    assert levels[0] == 1
    # The question before the first cell stands beside the title, a step down at most after that.
    assert all(after - before <= 1 for before, after in pairwise(levels[1:]))
    numbers = [int(n) for n in re.findall(r"^## (\d+) ·", text, flags=re.M)]
    assert numbers == list(range(1, len(numbers) + 1))
    for wanted in ("In the real Stable Diffusion", "What you can say now", "Papers"):
        assert any(wanted in title for _, title in headings), wanted


@each
def test_its_parts_come_in_the_order_of_the_course(path):
    if path.name[:2] not in files():
        pytest.skip("a notebook without exercises")
    text = prose(cells_of(path))
    parts = ["## Exercises", "## Quiz", "## In the real Stable Diffusion", "## Papers"]
    places = [text.index(f"\n{part}") for part in parts]
    assert places == sorted(places)


@each
def test_it_ends_with_the_papers(path):
    papers = cells_of(path)[-1]["source"].split("## Papers")[1].strip().split("\n- ")
    assert len(papers) >= 3
    assert all("arXiv:" in paper or "](https://" in paper for paper in papers)


@each
def test_every_figure_has_words(path):
    pictures = 0
    for cell in cells_of(path):
        images = shown(cell, "image/png")
        folds = [o for o in shown(cell, "text/html") if "figure in words" in str(o["data"])]
        assert len(images) == len(folds), cell["id"]
        for image, fold in zip(images, folds, strict=True):
            alt = image["metadata"]["image/png"]["alt"]
            assert len(alt) > 40
            assert joined(fold["data"]["text/plain"]) == alt
            pictures += 1
    assert pictures >= 3


@each
def test_every_number_in_the_prose_comes_from_a_cell(path):
    cells = cells_of(path)
    printed = " ".join(
        joined(out.get("text", "")) for cell in cells for out in cell.get("outputs", [])
    ).replace(",", "")
    known = set(re.findall(r"\d+(?:\.\d+)?", printed))
    for cell in cells:
        if cell["cell_type"] == "markdown" and not cell["source"].startswith("### Exercise"):
            text = cell["source"].split("## Papers")[0]
            text = re.sub(r"\$[^$]*\$|`[^`]*`|\(https?:[^)]*\)", " ", text)
            text = re.sub(r"^#+ \d+ ·|Diffusion \d(\.\d)?|SD \d(\.\d)?", " ", text, flags=re.M)
            text = re.sub(
                r"([Nn]otebooks?|[Ss]ections?|[Vv]ersions?) \d[\d.]*( and \d+)?", " ", text
            )
            found = set(re.findall(r"\d+(?:\.\d+)?", text.replace(",", "")))
            assert found <= known, (cell["id"], found - known)


@each
def test_a_widget_is_stored_with_a_picture_for_readers_without_a_kernel(path):
    cells = cells_of(path)
    live = [cell for cell in cells if shown(cell, WIDGET)]
    assert live
    stored = json.loads(path.read_text("utf-8"))["metadata"]["widgets"]
    (state,) = (kept["state"] for kept in stored.values())
    for cell in live:
        assert shown(cell, WIDGET)[0]["data"][WIDGET]["model_id"] in state
        after = cells[cells.index(cell) + 1 :]
        driven = next(cell for cell in after if cell["cell_type"] == "code")
        assert re.search(r"\.click\(\)|\.value = ", driven["source"])
        assert shown(driven, "image/png")


@each
def test_finished_parts_are_imported_from_sdlearn_only(path):
    allowed = {"sdlearn", "torch", "numpy", "PIL"} | sys.stdlib_module_names
    for cell in cells_of(path):
        if cell["cell_type"] != "code":
            continue
        for node in ast.walk(ast.parse(cell["source"])):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module]
            assert {name.split(".")[0] for name in names} <= allowed, cell["id"]


@each
def test_its_links_and_cross_references_resolve(path):
    text = prose(cells_of(path))
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith("https://"):
            assert (path.parent / target.split("#")[0]).exists(), target
    for number in re.findall(r"[Nn]otebook (\d+)", text):
        assert number in {f"{n:02d}" for n in range(18)}
    sections = set(re.findall(r"^## (\d+) ·", text, flags=re.M))
    for number in re.findall(r"[Ss]ection (\d+)", text):
        assert number in sections


@each
def test_its_cells_have_names_and_no_output_is_an_error(path):
    for cell in cells_of(path):
        assert re.fullmatch(r"[a-z][a-z0-9-]{2,40}", cell["id"])
        assert all(out["output_type"] != "error" for out in cell.get("outputs", []))
