"""tools/nbsecond.py and nbwords.py: the rules of the notebooks of the second edition."""

import ast
import tomllib
from pathlib import Path

import nbsecond
import nbtool
import nbwords
import pytest

from sdlearn.course.exercises import exercises
from tests.lesson_notebook import added, cell, code, lesson, neighbours, replaced, tagged

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def second(tmp_path, monkeypatch):
    """Return the faults of a notebook that belongs to the second edition."""
    monkeypatch.setattr(nbsecond, "SECOND_EDITION", ("03",))
    monkeypatch.setattr(nbwords, "TERMS", {"03": ("Fourier features", "c_noise")})
    monkeypatch.setattr("sdlearn.course.exercises.files", dict)
    check = neighbours(tmp_path)
    return lambda notebook: check(nbtool.clean(notebook))


def rewritten() -> dict:
    """The lesson with all that a second edition needs."""
    notebook = lesson()
    replaced("predict", "### Before", "## Before")(notebook)
    replaced("step-text", "notebook 02", "[notebook 02](02-two.ipynb)")(notebook)
    words = "[Notebooks 02](02-two.ipynb) and [04](04-other.ipynb) go on.\n\nFourier\nfeatures "
    replaced("more-text", "Notebooks 02 to 04 go on.", f"{words} and `c_noise`.")(notebook)
    cell(notebook, "step")["source"] = "figures.show(torch, alt='A square')"
    cell(notebook, "step")["metadata"]["tags"] = ["hide-input"]
    return notebook


def test_a_good_second_edition_has_no_fault(second):
    assert second(rewritten()) == []


def test_the_same_faults_are_none_in_the_first_edition(tmp_path, monkeypatch):
    monkeypatch.setattr(nbsecond, "SECOND_EDITION", ())
    check, notebook = neighbours(tmp_path), rewritten()
    for change, _ in SECOND.values():
        if change is not many_figures:
            change(notebook)
    assert check(nbtool.clean(notebook)) == []


def put(source: str):
    def change(notebook):
        cell(notebook, "step")["source"] = source
        cell(notebook, "step")["metadata"] = {}

    return change


def many_figures(notebook):
    cell(notebook, "step")["outputs"] *= 120


SECOND = {
    "level": (replaced("predict", "## Before", "### Before"), "the heading “Before you run anyth"),
    "wide": (replaced("widget", "(torch)", f"({'t' * 80})"), "cell 6 (widget): a line has 9"),
    "not folded": (put("figures.show(torch, alt='A square')"), "cell 4 (step): it only draws or p"),
    "printed": (put("for x in range(3):\n    print(x)"), "cell 4 (step): it only draws or prints"),
    "table": (put("rows = [torch]\nfigures.table(rows)"), "cell 4 (step): it only draws or prints"),
    "exercise": (tagged("answer-1", "hide-input"), "cell 9 (answer-1): it belongs to an exercise"),
    "no link": (
        added("See notebook 04."),
        "cell 5 (more-text): a mention is no link; accepted: [notebook 04](04-other.ipynb)",
    ),
    "second of two": (
        added("[notebook 02](02-two.ipynb), notebook\n04"),
        "cell 5 (more-text): a mention is no link; accepted: [notebook 04]",
    ),
    "wrong link": (
        added("[notebook 04](02-two.ipynb)"),
        "cell 5 (more-text): the link of notebook 04 leads to 02-two.ipynb",
    ),
    "a number that begins a line": (
        added("The difference is 13 of\n255. More follows."),
        "cell 5 (more-text): “255. More follows.” begins a list; accepted: an empty line before",
    ),
    "not there": (added("notebook 09"), "cell 5 (more-text): it mentions notebook 09, which does"),
    "word": (
        added("The query has a filling."),
        "cell 5 (more-text): “filling” → padding tokens",
    ),
    "page": (
        added("Draw the page."),
        "cell 5 (more-text): “page” → image (allowed only beside the word “storybook”)",
    ),
    "term": (replaced("more-text", "`c_noise`", "it"), "it never says “c_noise”, a standard term"),
    "words": (added("word " * 3300), "it has 3,370 words of prose; accepted: at most 3,200"),
    "minutes": (many_figures, "it has 6"),
}


@pytest.mark.parametrize("name", SECOND)
def test_a_broken_rule_of_the_second_edition_is_named(second, name):
    change, sentence = SECOND[name]
    notebook = rewritten()
    change(notebook)
    (fault,) = second(notebook)
    assert fault.startswith(sentence)


def test_too_many_lines_of_code_are_named(second):
    notebook = rewritten()
    notebook["cells"][5:5] = [code("x = 1\n" * 44, f"more-{k}") for k in "abcdefgh"]
    notebook["cells"][5]["outputs"] = []
    (fault,) = [f for f in second(notebook) if "execution" not in f]
    assert fault == "it has 358 visible lines of code; accepted: at most 350"


@pytest.mark.parametrize(
    "source",
    [
        "print(attention(x))",
        "weights = [part / total for part in parts]\nprint(weights)",
        "def f():\n    return 1\n\n\nprint(f())",
        "figures.show(q @ k, 'a')",
        "assert x == 2\nprint(x)",
        "lens.word.value = 3\nfigures.show(lens.image, lens.alt)",
        "x = 1",
        "print(x)\nx = 1",
        "print(x.softmax(-1))",
    ],
)
def test_a_cell_that_computes_stays_open(source):
    body = ast.parse(source).body
    assert not nbsecond.only_draws(body, {"weights"})


@pytest.mark.parametrize(
    "words",
    [
        "the page of the storybook, a thing in its world under a cloud",
        "a pair, not a couple of images; the point cloud stands for the distribution",
        "hidden states of the text; what a token looks like; walk through the code",
        "`the filling` and $heap$ are code; something, anything; real-world images",
        "```\nnobody shall walk\n```",
    ],
)
def test_what_is_allowed_is_no_fault(words):
    assert [*nbwords.word_faults(nbwords.without_code(words))] == []


def test_the_texts_of_exercises_and_quiz_are_read():
    texts = dict(nbwords.exercise_texts("04"))
    hints = "\n\n".join(exercises("04")[0].hints)
    assert texts["exercise 04.1"].startswith(hints)
    assert exercises("04")[0].mistakes[0].sentence in texts["exercise 04.1"]
    assert len([name for name in texts if "quiz" in name]) == 3
    assert dict(nbwords.exercise_texts("20")) == {}


def test_the_first_edition_alone_has_long_lines():
    """notebooks/ruff.toml lists exactly the notebooks that are not rewritten."""
    settings = tomllib.loads((ROOT / "notebooks" / "ruff.toml").read_text("utf-8"))
    lessons = {path.name[:2] for path in (ROOT / "notebooks").glob("[0-9][0-9]-*.ipynb")}
    first = {f"{lesson}-*.ipynb" for lesson in lessons - {*nbsecond.SECOND_EDITION}}
    first.add("playground.ipynb")
    assert {*settings["format"]["exclude"]} == first
    assert {*settings["lint"]["extend-per-file-ignores"]} == first
