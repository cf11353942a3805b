"""What a reader of a stored notebook is promised, beyond what `tools/nbcheck.py` holds it to.

nbval runs the notebooks; nbcheck looks at their cards, headings, links, outputs and imports.
"""

import json
import re
from pathlib import Path

import pytest

from sdlearn.course.exercises import files

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"
REFERENCES = "[Nn]otebooks?|[Ss]ections?|[Vv]ersions?|[Ee]xercises?"
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
def test_every_number_in_the_prose_comes_from_a_cell(path):
    cells = cells_of(path)
    outputs = [out for cell in cells for out in cell.get("outputs", [])]
    bundles = [out["data"] for out in outputs if "data" in out]
    texts = [joined(out.get("text", "")) for out in outputs]
    texts += [
        joined(b["text/plain"]) for b in bundles if "<table>" in joined(b.get("text/html", ""))
    ]
    printed = " ".join(texts).replace(",", "")
    known = set(re.findall(r"\d+(?:\.\d+)?", printed))
    for cell in cells:
        if cell["cell_type"] == "markdown" and not cell["source"].startswith("### Exercise"):
            text = cell["source"].split("## Papers")[0]
            text = re.sub(r"\$[^$]*\$|`[^`]*`|\(https?:[^)]*\)", " ", text)
            text = re.sub(r"^#+ \d+ ·|Diffusion \d(\.\d)?|SD \d(\.\d)?", " ", text, flags=re.M)
            text = re.sub(rf"({REFERENCES})\s\d[\d.]*((, | and | to )\d[\d.]*)*", " ", text)
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
