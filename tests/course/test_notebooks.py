"""What a reader of a stored notebook is promised, beyond what `tools/nbcheck.py` holds it to.

nbval runs the notebooks; nbcheck looks at their cards, headings, links, outputs and imports.
"""

import ast
import json
import re
from pathlib import Path

import nbcheck
import pytest

from sdlearn.course.exercises import files

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb"))
REFERENCES = "[Nn]otebooks?|[Ss]ections?|[Vv]ersions?|[Ee]xercises?"
SHORT_LINES = ("13", "14", "15", "16", "17", "18", "19")
PHONE = 43  # characters
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
def test_its_parts_come_in_the_order_of_the_course(path):
    if path.name[:2] not in files():
        pytest.skip("a notebook without exercises")
    text = prose(cells_of(path))
    parts = ["Exercises", "Quiz", "In the real Stable Diffusion", "What you can say now", "Papers"]
    places = [re.search(rf"^## (\d+ · )?{part}", text, flags=re.M).start() for part in parts]
    assert places == sorted(places)


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
def test_a_phone_breaks_no_printed_line(path):
    if path.name[:2] not in SHORT_LINES:
        pytest.skip("printed before lines were limited")
    for cell in cells_of(path):
        for out in cell.get("outputs", []):
            lines = joined(out.get("text", "")).splitlines()
            assert max(map(len, lines), default=0) <= PHONE, cell["id"]


def asserted(cells: list[dict]) -> set[str]:
    """The bounds in assert statements, as fractions and as percentages."""
    code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    tests = [n for text in code for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Assert)]
    values = [n.value for test in tests for n in ast.walk(test) if isinstance(n, ast.Constant)]
    bounds = [value for value in values if isinstance(value, int | float)]
    return {f"{value:g}" for value in bounds} | {f"{100 * value:g}" for value in bounds}


@each
def test_every_number_in_the_prose_comes_from_a_cell(path):
    cells = cells_of(path)
    # tests/app/test_reading_time.py compares the minutes of the card.
    cells[0]["source"] = re.sub(r"^\| \*\*Minutes.*$", "", cells[0]["source"], flags=re.M)
    outputs = [out for cell in cells for out in cell.get("outputs", [])]
    bundles = [out["data"] for out in outputs if "data" in out]
    tables = [data for data in bundles if "<table>" in joined(data.get("text/html", ""))]
    texts = [joined(out.get("text", "")) for out in outputs]
    printed = " ".join(texts + [joined(data["text/plain"]) for data in tables]).replace(",", "")
    known = set(re.findall(r"\d+(?:\.\d+)?", printed)) | asserted(cells)
    for cell in cells:
        if cell["cell_type"] == "markdown" and not cell["source"].startswith("### Exercise"):
            text = cell["source"].split("## Papers")[0]
            text = re.sub(r"\$\$[^$]*\$\$|\$[^$]*\$|`[^`]*`", " ", text)
            text = re.sub(r"(?<=\])\([^)]*\)|\(https?:[^)]*\)", " ", text)
            text = re.sub(
                r"^#+ \d+(\.\d+)* |^\d\. |(Diffusion|SD) \d(\.\d)?", " ", text, flags=re.M
            )
            text = re.sub(rf"({REFERENCES})\s\[?\d[\d.]*((, | and | to )\d[\d.]*)*", " ", text)
            found = set(re.findall(r"\d+(?:\.\d+)?", text.replace(",", "")))
            assert found <= known, (cell["id"], found - known)


@each
def test_a_widget_is_stored_as_an_image_and_driven_by_the_next_cell(path):
    cells = cells_of(path)
    live = nbcheck.widget_cells(cells)
    assert live
    assert "widgets" not in json.loads(path.read_text("utf-8"))["metadata"]
    for number in live:
        (image,) = shown(cells[number], "image/png")
        assert joined(image["data"]["text/plain"]) == image["metadata"]["image/png"]["alt"]
        driven = next(cell for cell in cells[number + 1 :] if cell["cell_type"] == "code")
        assert re.search(r"\.click\(\)|\.value = ", driven["source"])
        assert shown(driven, "image/png")
