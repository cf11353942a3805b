"""tools/nbcheck.py and nbtext.py: a lesson that breaks one rule gets the sentence of that rule."""

import ast
import subprocess
import sys
from itertools import product
from pathlib import Path

import nbcheck
import nbformat
import nbsecond
import nbtext
import nbtool
import pytest

from tests.lesson_notebook import (
    added,
    cell,
    code,
    lesson,
    neighbours,
    replaced,
    shown,
    tagged,
    text,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Write a notebook beside others and return its faults, as the command does."""
    monkeypatch.setattr(nbsecond, "SECOND_EDITION", ())
    return neighbours(tmp_path)


def test_a_good_lesson_has_no_fault(check):
    assert check(lesson()) == []


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


def without_image(notebook):
    """As a widget is stored that gives no image."""
    cell(notebook, "widget")["outputs"] = [shown(text_plain="Lens(children=(Dropdown(…")]


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
        tagged("imports", "nbval-check-output"),
        "cell 2 (imports): its output must be compared",
    ),
    "tag": (
        tagged("step", "nbval_check_output"),
        "cell 4 (step): its tag is 'nbval_check_output'; accepted: nbval-check-output, hide-input",
    ),
    "tag of a text": (tagged("real", "hide-input"), "cell 15 (real): its tag is 'hide-input'; a"),
    "marker": (
        replaced("step", "show", "# NBVAL_CHECK_OUTPUT\nshow"),
        "cell 4 (step): it has the comment “# NBVAL_CHECK_OUTPUT”; accepted: the tag nbval-check",
    ),
    "other marker": (replaced("step", "show", "#NBVAL_SKIP\nshow"), "cell 4 (step): it has the c"),
    "noqa": (
        replaced("imports", "import torch", "import torch  # noqa: F401"),
        "cell 2 (imports): it has the comment “# noqa”",
    ),
    "fmt": (replaced("step", "(torch)", "(torch)  # fmt: skip"), "cell 4 (step): it has the com"),
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
    "something else": (replaced("widget", ")\nlens", ")\ntorch"), "no widget is shown"),
    "not the widget": (replaced("widget", ")\nlens", ")\nlens.word"), "no widget is shown"),
    "widget without image": (
        without_image,
        "cell 6 (widget): its widget is stored without an image",
    ),
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
    "notebook": (added("notebooks 03 and\n20"), "cell 5 (more-text): there is no notebook 20"),
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
    (fault,) = check(notebook)
    assert fault.startswith("is stored without outputs")


def test_a_notebook_that_is_no_lesson_needs_no_card_nor_quiz(check):
    notebook = lesson()
    notebook["cells"] = [text("# Playground", "title"), *notebook["cells"][4:5]]
    assert check(nbtool.clean(notebook), "playground.ipynb") == []
    assert any("the card has no" in fault for fault in check(notebook))


def test_notebook_00_needs_exercises_and_a_quiz_like_any_other(check):
    notebook = lesson()
    for name in ("exercises", "quiz"):
        without(name)(notebook)
    for k, name in product((1, 2), ("exercise", "answer", "check")):
        without(f"{name}-{k}")(notebook)
    replaced("title", "# 03", "# 00")(notebook)
    faults = check(nbtool.clean(notebook), "00-lesson.ipynb")
    assert any("0 exercises; a lesson has at least 2" in fault for fault in faults)
    assert any('not one cell with quiz("00") alone' in fault for fault in faults)


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
    bad = nbformat.v4.new_notebook(cells=[code("print(undefined)", "only")])
    nbformat.write(bad, tmp_path / "bad.ipynb")
    command = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml")]
    done = subprocess.run([*command, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert "F821" in done.stdout
