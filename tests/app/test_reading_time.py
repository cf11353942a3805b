"""tools/reading_time.py and nblength.py: a card says what the notebook's words and code take."""

import nbformat
import pytest
import reading_time
import teaching
from nblength import Length, length, words

TEXT = """# 04 · A lesson

| | |
|---|---|
| **You need** | ten words that are not counted in the length, as |
| **Minutes** | five |

Two words.
"""


@pytest.mark.parametrize("path", teaching.lessons().values(), ids=lambda path: path.stem)
def test_a_card_says_the_measured_minutes(path):
    assert reading_time.renewed(path) == path.read_text("utf-8"), (
        "renew it: python tools/reading_time.py"
    )


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (TEXT, 5),  # with the four of the title: 04, A, lesson are three
        ("one-two, three — four", 3),
        ("a [link of four](https://example.org/a-b) words", 5),
        ("`code` counts, $x + y$ and $$\nx\n$$ do not", 5),
        ("```\nnot this\n```\nbut this", 2),
        ("| a | table |\n|---|---|\n| is | read |", 4),
        ("![a figure](x.png) <img alt='no'> yes", 1),
        ("### Exercise 04.1 · First\n\nIts minutes are known.", 0),
        ("Before.\n\n## Papers\n\n- Not this", 1),
    ],
)
def test_prose_is_counted_in_words(text, count):
    assert words(text) == count


def cells() -> list[dict]:
    code, image = nbformat.v4.new_code_cell, nbformat.v4.new_output("display_data", {})
    image["data"] = {"image/png": "AA", "text/plain": "x"}
    fold = nbformat.v4.new_output("display_data", {"text/html": "x"})
    folded = code("a = 1\nb = 2", metadata={"tags": ["hide-input"]}, outputs=[image, fold])
    answer = code("def f(): ...", metadata={"nbgrader": {"solution": True}})
    seen = code("a = 1\n\n  \nb = 2\n# three", outputs=[image, image])
    return [nbformat.v4.new_markdown_cell(TEXT), folded, answer, seen]


def test_code_that_is_seen_and_stored_images_are_counted():
    assert length(cells()) == Length(words=5, lines=3, figures=3)


def test_minutes_are_words_lines_and_figures():
    assert Length(2000, 120, 10).minutes == 10 + 10 + 5


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A notebook 04, and a teacher's page beside it."""
    notebook = nbformat.v4.new_notebook(cells=cells())
    path = tmp_path / "04-lesson.ipynb"
    nbformat.write(notebook, path)
    page = tmp_path / "teaching.md"
    page.write_text("<!-- made: minutes --> <!-- end -->")
    monkeypatch.setattr(teaching, "PAGE", page)
    monkeypatch.setattr(teaching, "MEASURED", {"04": 100.0})
    return path


def test_the_card_and_the_page_are_renewed(stored, capsys):
    before = stored.read_text("utf-8"), teaching.PAGE.read_text("utf-8")
    assert reading_time.main(["--check"]) == 1
    assert (stored.read_text("utf-8"), teaching.PAGE.read_text("utf-8")) == before
    assert capsys.readouterr().out.splitlines() == [
        "04-lesson.ipynb: is out of date; run: python tools/reading_time.py",
        "teaching.md: is out of date; run: python tools/reading_time.py",
    ]
    assert reading_time.main([]) == 0
    text = stored.read_text("utf-8")
    row = "2 to read (0 words, 0 lines of code, 3 figures), 99 for the exercises; the cells run in "
    assert f"| **Minutes** | {row}about 2 |" in text
    assert "| [04 · A lesson](04-lesson.ipynb) | 2 | 100 | 9 | 99 | 32 |" in (
        teaching.PAGE.read_text("utf-8")
    )
    assert reading_time.main(["--check"]) == 0


def test_a_card_without_minutes_is_refused(stored):
    stored.write_text(stored.read_text("utf-8").replace("Minutes", "Hours"), "utf-8")
    with pytest.raises(ValueError, match=r"the card of 04-lesson.ipynb has no row “\| \*\*Minutes"):
        reading_time.renewed(stored)
