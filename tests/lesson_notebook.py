"""A notebook that keeps every rule of a lesson, and changes that break one."""

import base64
import copy
import io
from collections.abc import Callable
from pathlib import Path

import nbformat
import nbtool
from nbcheck import Cell, Notebook
from PIL import Image

Change = Callable[[Notebook], None]
ALT = 'A square that is "red" all over.'
TITLE = """# 03 · A lesson

| | |
|---|---|
| **You will build** | nothing much |
| **You need** | nothing but [numbers](https://example.org/a_(b)) |
| **Minutes** | five |
"""
PAPERS = "## Papers\n\n" + "".join(
    f"- Somebody, *Something*, [arXiv:2112.1075{k}](https://arxiv.org/abs/2112.1075{k})\n"
    for k in range(5)
)
STEP = """## 1 · One step

Sections 1 and 2 of notebook 02 come first; section 3.2 of the paper, and $[0](1)$, do not count.
See [the next step](#2-·-Another-step), [another lesson](04-other.ipynb#1-·-There), exercise 04.1
and [the source](../source.py). `section 9` and ```[x](y)``` are code.
"""


def png() -> str:
    file = io.BytesIO()
    Image.new("P", (8, 8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode() + "\n"


def text(source: str, name: str) -> Cell:
    return nbformat.v4.new_markdown_cell(source, id=name)


def code(source: str, name: str, *outputs: Cell) -> Cell:
    return nbformat.v4.new_code_cell(source, id=name, outputs=list(outputs))


def exercise(stub: str, check: str, k: int) -> list[Cell]:
    answer, checked = code(stub, f"answer-{k}"), code(check, f"check-{k}")
    answer["metadata"]["nbgrader"] = {"grade": False, "locked": False, "solution": True}
    checked["metadata"]["nbgrader"] = {"grade": True, "locked": True, "solution": False}
    return [answer, checked]


def shown(**data: str) -> Cell:
    return nbformat.v4.new_output(
        "display_data", {kind.replace("_", "/"): value for kind, value in data.items()}
    )


def lesson() -> Notebook:
    """A notebook with everything that a lesson needs, and no fault."""
    picture, words = shown(image_png=png()), shown(text_html="", text_plain=ALT)
    picture["metadata"] = {"image/png": {"alt": ALT}}
    words["data"]["text/html"] = "<details>A square that is &quot;red&quot; all over.</details>"
    drawn = "from sdlearn.course.widgets import Lens\n\nlens = Lens(torch)\nlens"
    live = shown(image_png=png(), text_plain=ALT)
    live["data"][nbtool.VIEW] = {"model_id": "a" * 32}
    live["metadata"] = picture["metadata"]
    cells = [
        text(TITLE, "title"),
        text("### Before you run anything\n\nWhat will happen?", "predict"),
        code("import torch\n\nfrom sdlearn.course import check", "imports"),
        text(STEP, "step-text"),
        code("show(torch)", "step", picture, words),
        text("## 2 · Another step\n\nNotebooks 02 to 04 go on.", "more-text"),
        code(drawn, "widget", live),
        text("## Exercises", "exercises"),
        text("### Exercise 03.1 · First", "exercise-1"),
        *exercise("def f(): ...", 'check("03.1", f)', 1),
        text("### Exercise 03.2 · Second, after exercise 03.1", "exercise-2"),
        *exercise("answer = ...", 'check("03.2", answer)', 2),
        code('quiz("03")', "quiz"),
        text("## In the real Stable Diffusion\n\nIt is larger.", "real"),
        text(PAPERS, "papers"),
    ]
    return nbtool.clean(copy.deepcopy(nbformat.v4.new_notebook(cells=cells)))


def neighbours(root: Path) -> Callable[..., list[str]]:
    """Make a repository with two other notebooks in it.

    Returns:
        A function that writes a notebook beside them and returns its faults.
    """
    folder = root / "notebooks"
    folder.mkdir()
    (root / "source.py").touch()
    cells = [text("# 04 · Other\n\n## 1 · There\n\n### Exercise 04.1 · One", "all")]
    nbtool.store(folder / "04-other.ipynb", nbformat.v4.new_notebook(cells=cells))
    two = [text("# 02 · Two\n\n## 1 · One\n\n## 2 · Two", "all")]
    nbtool.store(folder / "02-two.ipynb", nbformat.v4.new_notebook(cells=two))

    def check(notebook: Notebook, name: str = "03-lesson.ipynb") -> list[str]:
        nbtool.store(folder / name, notebook)
        return nbtool.faults(folder / name)

    return check


def cell(notebook: Notebook, name: str) -> Cell:
    return next(cell for cell in notebook["cells"] if cell["id"] == name)


def added(words: str) -> Change:
    """A change that says more in a text."""

    def change(notebook: Notebook) -> None:
        cell(notebook, "more-text")["source"] += f"\n\n{words}"

    return change


def replaced(name: str, old: str, new: str) -> Change:
    """A change of what a cell says."""

    def change(notebook: Notebook) -> None:
        assert old in cell(notebook, name)["source"]
        cell(notebook, name)["source"] = cell(notebook, name)["source"].replace(old, new)

    return change


def tagged(name: str, tag: str) -> Change:
    def change(notebook: Notebook) -> None:
        cell(notebook, name)["metadata"]["tags"] = [tag]

    return change
