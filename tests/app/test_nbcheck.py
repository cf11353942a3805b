"""tools/nbcheck.py and nbtext.py: a lesson that breaks one rule gets the sentence of that rule."""

import ast
import base64
import copy
import io
import subprocess
import sys
from itertools import product
from pathlib import Path

import nbcheck
import nbformat
import nbtext
import nbtool
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
MODEL = "a" * 32
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


def text(source: str, name: str) -> dict:
    return nbformat.v4.new_markdown_cell(source, id=name)


def code(source: str, name: str, *outputs: dict) -> dict:
    return nbformat.v4.new_code_cell(source, id=name, outputs=list(outputs))


def exercise(stub: str, check: str, k: int) -> list[dict]:
    answer, checked = code(stub, f"answer-{k}"), code(check, f"check-{k}")
    answer.metadata["nbgrader"] = {"grade": False, "locked": False, "solution": True}
    checked.metadata["nbgrader"] = {"grade": True, "locked": True, "solution": False}
    return [answer, checked]


def shown(**data: str) -> dict:
    return nbformat.v4.new_output(
        "display_data", {kind.replace("_", "/"): value for kind, value in data.items()}
    )


def lesson() -> dict:
    """A notebook with everything that a lesson needs, and no fault."""
    picture, words = shown(image_png=png()), shown(text_html="", text_plain=ALT)
    picture["metadata"] = {"image/png": {"alt": ALT}}
    words["data"]["text/html"] = "<details>A square that is &quot;red&quot; all over.</details>"
    widget = nbformat.v4.new_output("display_data", {nbtool.VIEW: {"model_id": MODEL}})
    cells = [
        text(TITLE, "title"),
        text("### Before you run anything\n\nWhat will happen?", "predict"),
        code("import torch\n\nfrom sdlearn.course import check", "imports"),
        text(STEP, "step-text"),
        code("show(torch)", "step", picture, words),
        text("## 2 · Another step\n\nNotebooks 02 to 04 go on.", "more-text"),
        code("show(1)", "widget", widget),
        text("## Exercises", "exercises"),
        text("### Exercise 03.1 · First", "exercise-1"),
        *exercise("def f(): ...", 'check("03.1", f)', 1),
        text("### Exercise 03.2 · Second, after exercise 03.1", "exercise-2"),
        *exercise("answer = ...", 'check("03.2", answer)', 2),
        code('quiz("03")', "quiz"),
        text("## In the real Stable Diffusion\n\nIt is larger.", "real"),
        text(PAPERS, "papers"),
    ]
    state = {MODEL: {"state": {"value": '<img src="data:image/png;base64,AA/=" alt="red">'}}}
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata = {"widgets": {nbtool.STATE: {"state": state}}}
    return nbtool.clean(copy.deepcopy(notebook))


@pytest.fixture
def check(tmp_path):
    """Write a notebook beside others and return its faults, as the command does."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (tmp_path / "source.py").touch()
    cells = [text("# 04 · Other\n\n## 1 · There\n\n### Exercise 04.1 · One", "all")]
    nbtool.store(folder / "04-other.ipynb", nbformat.v4.new_notebook(cells=cells))
    two = [text("# 02 · Two\n\n## 1 · One\n\n## 2 · Two", "all")]
    nbtool.store(folder / "02-two.ipynb", nbformat.v4.new_notebook(cells=two))

    def check(notebook: dict, name: str = "03-lesson.ipynb") -> list[str]:
        nbtool.store(folder / name, notebook)
        return nbtool.faults(folder / name)

    return check


def cell(notebook: dict, name: str) -> dict:
    return next(cell for cell in notebook["cells"] if cell["id"] == name)


def test_a_good_lesson_has_no_fault(check):
    assert check(lesson()) == []


def added(words: str):
    """A change that says more in a text."""

    def change(notebook):
        cell(notebook, "more-text")["source"] += f"\n\n{words}"

    return change


def replaced(name: str, old: str, new: str):
    """A change of what a cell says."""

    def change(notebook):
        assert old in cell(notebook, name)["source"]
        cell(notebook, name)["source"] = cell(notebook, name)["source"].replace(old, new)

    return change


def without(name: str):
    def change(notebook):
        notebook["cells"].remove(cell(notebook, name))

    return change


def stored(output: dict):
    def change(notebook):
        cell(notebook, "imports")["outputs"].append(output)

    return change


def renamed(name: str, new: str):
    def change(notebook):
        cell(notebook, name)["id"] = new

    return change


def remarked(name: str, marks: dict):
    def change(notebook):
        cell(notebook, name)["metadata"]["nbgrader"] = marks

    return change


def printed(words: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": words}


def without_alt(notebook):
    cell(notebook, "step")["outputs"][0]["metadata"] = {}


def without_fold(notebook):
    del cell(notebook, "step")["outputs"][1]


def without_alt_in_widget(notebook):
    (state,) = notebook["metadata"]["widgets"][nbtool.STATE]["state"].values()
    state["state"]["value"] = '<img src="x" alt="">'


ERROR = {"output_type": "error", "ename": "KeyError", "evalue": "", "traceback": []}
IMAGE = shown(text_html='<img src="x">')

BROKEN = {
    "error": (stored(ERROR), "cell 2 (imports): a stored KeyError"),
    "stderr": (stored(printed("w", "stderr")), "cell 2 (imports): something written to stderr"),
    "large": (stored(printed("x" * 130_000)), "cell 2 (imports): an output has 130,"),
    "place": (stored(printed(f"{ROOT}/runs")), "cell 2 (imports): a path of the machine"),
    "place of others": (stored(printed("in /home/ada/x")), "cell 2 (imports): a path of the mach"),
    "registry": (stored(printed("from pypi.org")), "cell 2 (imports): a package registry is s"),
    "no alt": (without_alt, "cell 4 (step): an image has no alternative text"),
    "no fold": (without_fold, "cell 4 (step): an image has no description folded below it"),
    "img": (stored(IMAGE), "cell 2 (imports): an <img> without alternative text is stored"),
    "img in a widget": (without_alt_in_widget, "the state of a widget holds an <img> without"),
    "random id": (
        renamed("step", "deadbeef"),
        "cell 4 (deadbeef): its id is 'deadbeef'; accepted: words",
    ),
    "odd id": (renamed("step", "Step_1"), "cell 4 (Step_1): its id is 'Step_1'; accepted: words"),
    "long": (
        replaced("step", "show(torch)", "x = 1\n" * 46),
        "cell 4 (step): it has 46 lines of code",
    ),
    "nothing to compare": (
        replaced("imports", "import torch", "# NBVAL_CHECK_OUTPUT\nimport torch"),
        "cell 2 (imports): its output must be compared",
    ),
    "magic": (replaced("step", "show", "%time show"), "cell 4 (step): it is not plain Python (l"),
    "import": (replaced("imports", "torch", "diffusers"), "cell 2 (imports): it imports diffusers"),
    "copy": (
        replaced("imports", "from sdlearn.course", "from .copy"),
        "cell 2 (imports): it imports .copy",
    ),
    "solutions": (
        replaced("imports", "import check", "import check, exercises"),
        "cell 2 (imports): it imports the exercises",
    ),
    "sys.path": (replaced("step", "torch", "sys.path"), "cell 4 (step): it uses sys.path"),
    "path": (replaced("step", "torch", '"/tmp/x"'), "cell 4 (step): a path of the machine"),
    "title": (replaced("title", "# 03 ·", "# 04 ·"), "the title is not `# 03 · …`"),
    "two titles": (added("# More"), "the first cell begins with the title"),
    "skipped": (added("#### Deep"), "the heading “Deep” is of level 4, under level 2"),
    "number": (added("## 4 · More"), "the sections are numbered 1, 2, 4"),
    "card": (replaced("title", "You need", "You want"), "the card has no “You need”"),
    "empty card": (replaced("title", " five ", " "), "the card has no “Minutes”"),
    "question": (replaced("predict", "?", "."), "no question is asked before the first code"),
    "real": (without("real"), "there is no section “In the real Stable Diffusion”"),
    "no papers": (replaced("papers", "## Papers", "## Books"), "the last section is not “Papers”"),
    "papers": (replaced("papers", "- S", "S"), "fewer than 5 papers are listed"),
    "widget": (without("widget"), "no widget is shown"),
    "exercises": (
        lambda n: [without(name)(n) for name in ("exercise-2", "answer-2", "check-2")],
        "1 exercises; a lesson has at least 2",
    ),
    "exercise number": (
        replaced("exercise-2", "03.2", "03.3"),
        "the heading “Exercise 03.3 · Second, after exercise 03.1” is not “Exercise 03.2 · …”",
    ),
    "answer": (without("answer-2"), "the second cell under “Exercise 03.2 · Second, after exerci"),
    "check": (without("check-2"), "the second cell under “Exercise 03.2 · Second, after exercise"),
    "other check": (replaced("check-2", "03.2", "03.1"), "the second cell under “Exercise 03.2 ·"),
    "no marks": (remarked("answer-2", {}), "the two cells under “Exercise 03.2 · Second, after ex"),
    "open check": (
        remarked("check-1", {"grade": True, "locked": False, "solution": False}),
        "the two cells under “Exercise 03.1 · First” are not marked for nbgrader",
    ),
    "quiz": (without("quiz"), 'there is not one cell with quiz("03") alone'),
    "file": (added("[x](07-x.ipynb)"), "cell 5 (more-text): the link 07-x.ipynb leads to a file"),
    "anchor": (added("[x](#3-·-No)"), "cell 5 (more-text): the link #3-·-No leads to a heading"),
    "far anchor": (
        added("[x](04-other.ipynb#No)"),
        "cell 5 (more-text): the link 04-other.ipynb#No leads to a heading",
    ),
    "outside": (added("[x](../../x)"), "cell 5 (more-text): the link “../../x” leads to nothing"),
    "http": (added("[x](http://x.org)"), "cell 5 (more-text): the link http://x.org does not l"),
    "bare http": (added("http://x.org"), "cell 5 (more-text): an address begins with http://"),
    "malformed": (added("[x](https://x)"), "cell 5 (more-text): the link https://x does not lead"),
    "arxiv": (added("arXiv:2113.1234"), "cell 5 (more-text): arXiv:2113.1234 is not the number"),
    "arxiv link": (
        added("[x](https://arxiv.org/abs/21.1)"),
        "cell 5 (more-text): the link https://arxiv.org/abs/21.1 contains no arXiv number",
    ),
    "another paper": (
        added("[arXiv:2112.10752](https://arxiv.org/abs/2112.10753)"),
        "cell 5 (more-text): the link says arXiv:2112.10752 and leads to 2112.10753",
    ),
    "picture": (added("![](../source.py)"), "cell 5 (more-text): the image ../source.py has no"),
    "html": (added('<img src="x">'), "cell 5 (more-text): an <img> has no alternative text"),
    "notebook": (added("notebooks 03 and\n18"), "cell 5 (more-text): there is no notebook 18"),
    "short notebook": (added("Notebook 3"), "cell 5 (more-text): there is no notebook 3"),
    "exercise": (added("exercise 03.3"), "cell 5 (more-text): there is no exercise 03.3"),
    "far exercise": (added("exercise 04.2"), "cell 5 (more-text): there is no exercise 04.2"),
    "section": (added("sections 2 and 3"), "cell 5 (more-text): there is no section 3"),
    "far section": (
        added("section 3 of notebook 02"),
        "cell 5 (more-text): there is no section 3 in notebook 02",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_the_one_that_is_named(check, name):
    change, sentence = BROKEN[name]
    notebook = lesson()
    change(notebook)
    (fault,) = check(nbtool.clean(notebook))
    assert fault.startswith(sentence)
    assert "\n" not in fault


def test_two_cells_of_one_name_are_named(check, tmp_path):
    check(lesson())
    path = tmp_path / "notebooks" / "03-lesson.ipynb"
    path.write_text(path.read_text("utf-8").replace('"id": "real"', '"id": "papers"'), "utf-8")
    assert nbtool.faults(path) == ["two cells have the id papers"]


@pytest.mark.parametrize(
    "words",
    [
        "section 9 of the paper",
        "sections 7 and 8 of another text",
        "section 2 of this notebook",
        "sections 4.1 and 4.2",
        "section 7 of notebook 05, which is not there yet",
        "[hep-th/9901001](https://arxiv.org/abs/hep-th/9901001v2), arXiv:hep-th/9901001.",
        "$a[0](b)$ and $$\n[x](y)\n$$",
        "```\n# not a heading\n[x](y) section 9\n```",
        "### Below\n\n#### Deeper",
        "[`code`](../source.py) and [two words](../notebooks/02-two.ipynb#2-%C2%B7-Two)",
    ],
)
def test_what_only_looks_like_a_fault_is_none(check, words):
    notebook = lesson()
    added(words)(notebook)
    assert check(notebook) == []


def test_an_expected_error_is_no_fault(check):
    notebook = lesson()
    stored(ERROR)(notebook)
    cell(notebook, "imports")["metadata"]["tags"] = ["raises-exception"]
    assert check(nbtool.clean(notebook)) == []


def test_a_lesson_that_never_ran_is_told_so_and_no_more(check):
    notebook = lesson()
    for each in notebook["cells"]:
        each.update(outputs=[], execution_count=None) if each["cell_type"] == "code" else None
    del notebook["metadata"]["widgets"]
    (fault,) = check(notebook)
    assert fault.startswith("is stored without outputs")


def test_a_notebook_that_is_no_lesson_needs_no_card_nor_quiz(check):
    notebook = lesson()
    notebook["cells"] = [text("# Playground", "title"), *notebook["cells"][4:5]]
    del notebook["metadata"]["widgets"]
    assert check(nbtool.clean(notebook), "playground.ipynb") == []
    assert any("the card has no" in fault for fault in check(notebook))


def test_notebook_00_needs_no_exercises(check):
    notebook = lesson()
    for name in ("exercises", "quiz"):
        without(name)(notebook)
    for k, name in product((1, 2), ("exercise", "answer", "check")):
        without(f"{name}-{k}")(notebook)
    replaced("title", "# 03", "# 00")(notebook)
    assert check(nbtool.clean(notebook), "00-lesson.ipynb") == []


def test_anchors_and_names_of_sections_are_read_from_marked_up_headings():
    cells = [text("# `a` *b* [c](d)\n\n```\n# no\n```\n## 1 · Two  words ##", "all")]
    titles = nbtext.headings(cells)
    assert [title.anchor for title in titles] == ["a-b-c", "1-·-Two--words"]
    assert nbtext.sections(titles) == [1]


def test_relative_modules_and_parts_of_the_course_are_told_apart():
    tree = ast.parse("import a.b, c\nfrom ..d import e\nfrom sdlearn.course import check, f")
    names = ["a.b", "c", "..d", "sdlearn.course.check", "sdlearn.course.f"]
    assert [*nbcheck.imported(tree)] == names


def test_ruff_reads_notebooks_too(tmp_path):
    """So the checker need not: `lab.py lint` runs both."""
    bad = nbformat.v4.new_notebook(cells=[code("import os", "only")])
    nbformat.write(bad, tmp_path / "bad.ipynb")
    command = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert "F401" in done.stdout
