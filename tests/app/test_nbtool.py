"""tools/nbtool.py: two runs of a notebook become one file, and what is wrong is named."""

import base64
import io
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import nbtool
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
KEPT = {"tags": ["raises-exception"], "nbgrader": {"grade_id": "only", "points": 3}}
ALT = "Noise over a ramp from black to white."

LEFT, RIGHT = "a" * 32, "d" * 32
STATE = "application/vnd.jupyter.widget-state+json"


def figure() -> str:
    ramp = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3)
    noise = np.random.default_rng(0).normal(0, 4, (64, 64, 3))
    png = io.BytesIO()
    Image.fromarray((ramp + noise).clip(0, 255).astype("uint8")).save(png, "PNG")
    return base64.b64encode(png.getvalue()).decode()


def executed(count: int, widget: str, address: str) -> dict:
    """A notebook as Jupyter stores it after a run; the arguments are what differs between runs."""
    live = {nbtool.VIEW: {"model_id": widget}, "text/plain": ALT, "image/png": figure()}
    alt = {"image/png": {"alt": ALT, "width": 64}}
    shown = nbformat.v4.new_output("display_data", live, metadata=alt)
    result = nbformat.v4.new_output(
        "execute_result",
        {"text/plain": f"<Figure at {address}>", "image/png": figure()},
        metadata={"image/png": {"alt": ALT}},
        execution_count=count,
    )
    fold = f"<details><summary>The figure in words</summary>{ALT}</details>"
    words = nbformat.v4.new_output("display_data", {"text/html": fold, "text/plain": ALT})
    texts = [nbformat.v4.new_output("stream", name="stdout", text=t) for t in ("one\n", "two\n")]
    cell = nbformat.v4.new_code_cell(
        "show()",
        id="only",
        execution_count=count,
        metadata={"execution": {"iopub.busy": f"2031-01-0{count}"}, **KEPT},
        outputs=[*texts, result, words, shown],
    )
    state = {widget: {"state": {"value": count}}}
    title = nbformat.v4.new_markdown_cell("# A lesson", id="title")
    notebook = nbformat.v4.new_notebook(cells=[title, cell])
    notebook.metadata = {
        "language_info": {"name": "python", "version": f"3.11.{count}"},
        "widgets": {STATE: {"state": state, "version_major": 2, "version_minor": 0}},
    }
    return json.loads(json.dumps(notebook))


def test_two_runs_become_the_same_file():
    first = nbtool.written(nbtool.clean(executed(1, LEFT, "0x7f00aa11bb22")))
    second = nbtool.written(nbtool.clean(executed(2, RIGHT, "0x7f99cc33dd44")))
    assert first == second


def test_cleaning_twice_is_cleaning_once_and_leaves_no_fault(tmp_path):
    once = nbtool.clean(executed(1, LEFT, "0x7f00aa11bb22"))
    assert nbtool.written(nbtool.clean(once)) == nbtool.written(once)
    nbtool.store(tmp_path / "lesson.ipynb", once)
    assert nbtool.faults(tmp_path / "lesson.ipynb") == []


def test_a_widget_is_stored_as_its_image_with_the_description_below_it():
    cleaned = nbtool.clean(executed(1, LEFT, "0x7f00aa11bb22"))
    assert "widgets" not in cleaned["metadata"]
    image, words = cleaned["cells"][1]["outputs"][-2:]
    assert [*image["data"]] == ["text/plain", "image/png"]
    assert image["metadata"]["image/png"] == {"alt": ALT, "width": 64}
    assert words["data"]["text/plain"] == ALT
    assert f"<summary>The figure in words</summary>{ALT}<" in words["data"]["text/html"]


def test_a_widget_that_shows_no_image_yet_leaves_only_its_text():
    notebook = executed(1, LEFT, "0x7f00aa11bb22")
    del notebook["cells"][1]["outputs"][-1]["data"]["image/png"]
    last = nbtool.clean(notebook)["cells"][1]["outputs"][-1]
    assert last["data"] == {"text/plain": ALT}


@pytest.mark.parametrize(
    ("tags", "folded"), [(["hide-input"], True), (["nbval-check-output"], False), ([], False)]
)
@pytest.mark.parametrize("before", [{}, {"jupyter": {"source_hidden": True}}])
def test_exactly_the_cells_with_the_tag_are_stored_folded(tags, folded, before):
    notebook = executed(1, LEFT, "0x7f00aa11bb22")
    notebook["cells"][1]["metadata"] = {"tags": tags, **before}
    hidden = {"jupyter": {"source_hidden": True}} if folded else {}
    cleaned = nbtool.clean(notebook)
    assert cleaned["cells"][1]["metadata"] == {"tags": tags} | hidden
    assert nbtool.clean(cleaned) == cleaned


def test_cells_that_ran_are_counted_and_others_are_not():
    notebook = executed(7, LEFT, "0x7f00aa11bb22")
    _, ran = nbtool.clean(notebook)["cells"]
    assert ran["execution_count"] == 1
    assert [o.get("execution_count") for o in ran["outputs"]] == [None, 1, None, None, None]
    notebook["cells"][1]["outputs"] = []
    assert nbtool.clean(notebook)["cells"][1]["execution_count"] is None


def test_nbval_accepts_and_compares_what_is_stored(tmp_path):
    tags = {"tags": ["nbval-check-output"]}
    cell = nbformat.v4.new_code_cell("print(1 + 1)", id="only", metadata=tags)
    path = tmp_path / "sum.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    options = ["--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", "-q"]
    command = [sys.executable, "-m", "pytest", *options, str(path)]
    assert nbtool.main(["run", str(path)]) == 0
    assert subprocess.run(command, cwd=tmp_path).returncode == 0
    stored = path.read_text("utf-8")
    assert '"2\\n"' in stored
    path.write_text(stored.replace('"2\\n"', '"3\\n"'), "utf-8")
    assert subprocess.run(command, cwd=tmp_path).returncode == 1


def test_what_a_person_wrote_and_what_was_printed_stay():
    _, cell = nbtool.clean(executed(1, LEFT, "0x7f00aa11bb22"))["cells"]
    assert cell["source"] == "show()"
    assert cell["metadata"] == KEPT
    assert cell["outputs"][0]["text"] == "one\ntwo\n"


def test_a_figure_gets_smaller_and_looks_the_same():
    before, after = figure(), nbtool.with_palette(figure())
    assert len(after) < len(before)
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(f))).convert("RGB"), dtype=float)
                for f in (before, after)]  # fmt: skip
    assert np.abs(pictures[0] - pictures[1]).mean() < 8


def test_a_rare_colour_stays_what_it_is():
    """One red and one yellow thing among tiles of every grey."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 1)).repeat(3, axis=2)
    pixels[:8, :8], pixels[:4, 20:24] = (226, 32, 38), (255, 222, 89)
    before = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(before, "PNG")
    after = nbtool.with_palette(base64.b64encode(before.getvalue()).decode())
    stored = np.asarray(Image.open(io.BytesIO(base64.b64decode(after))).convert("RGB"), dtype=int)
    assert np.abs(stored - pixels).max() < 20


def test_noise_missing_outputs_and_size_are_named(tmp_path):
    path = tmp_path / "lesson.ipynb"

    def faults(**changes) -> list[str]:
        notebook = nbtool.clean(executed(1, LEFT, "0x7f00aa11bb22"))
        notebook["cells"][1].update(changes)
        nbtool.store(path, notebook)
        return nbtool.faults(path)

    assert faults(execution_count=3) == ["is not clean; run: python tools/nbtool.py clean"]
    assert faults(outputs=[])[-1].startswith("is stored without outputs; run: ")
    assert faults(source="# ☃" + "☃" * 170_000)[0].endswith("bytes; accepted: at most 500,000")


def test_the_command_cleans_in_place_and_then_finds_nothing(tmp_path, capsys):
    path = tmp_path / "lesson.ipynb"
    path.write_text(nbtool.written(executed(1, LEFT, "0x7f00aa11bb22")))
    assert nbtool.main(["check", str(path)]) == 1
    assert capsys.readouterr().out.startswith("lesson.ipynb: is not clean")
    assert nbtool.main(["clean", str(path)]) == 0
    assert nbtool.main(["check", str(path)]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["lesson.ipynb"]
