"""Answers that the checkers were not written for: wrong ones must not pass, and right ones in
another style must. The answers are in tests/course/answers, one file a notebook."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import pytest

from sdlearn.course import check
from sdlearn.course.exercises import exercises, files, find
from tests.course.answers.expected_verdict import ExpectedVerdict

ANSWERS = {notebook: import_module(f"tests.course.answers.nb{notebook}") for notebook in files()}
EXPECTED = [row for answers in ANSWERS.values() for row in getattr(answers, "VERDICTS", [])]
each_notebook = pytest.mark.parametrize("notebook", ANSWERS)


def cases(name: str) -> list[Any]:
    """A case (number, answer) for each answer in the tables of this name, "WRONG" or "RIGHT"."""
    tables: list[Mapping[str, Sequence[Any]]] = [getattr(file, name) for file in ANSWERS.values()]
    return [
        pytest.param(number, answer, id=f"{number}-{k}")
        for table in tables
        for number, answers in table.items()
        for k, answer in enumerate(answers)
    ]


@pytest.mark.parametrize(("number", "answer"), cases("WRONG"))
def test_a_wrong_answer_does_not_pass(number, answer):
    verdict = check(number, answer)
    assert verdict.status == "not yet", verdict.text
    assert "Traceback" not in verdict.text
    assert len(verdict.text) < 900


@pytest.mark.parametrize(("number", "answer"), cases("RIGHT"))
def test_a_right_answer_in_another_style_passes(number, answer):
    verdict = check(number, answer)
    assert verdict.status == "right", verdict.text


@pytest.mark.parametrize(
    "expected", EXPECTED, ids=[f"{row.number}-{k}" for k, row in enumerate(EXPECTED)]
)
def test_a_verdict_says_what_was_done(expected: ExpectedVerdict):
    verdict = check(expected.number, expected.answer)
    assert (verdict.status, verdict.mistake) == ("not yet", expected.mistake), verdict.text
    mistakes = {mistake.name: mistake.sentence for mistake in find(expected.number).mistakes}
    if expected.mistake:
        assert mistakes[expected.mistake] in verdict.text
    assert [words for words in expected.says if words not in verdict.text] == []
    assert [words for words in expected.omits if words in verdict.text] == []


@each_notebook
def test_each_exercise_has_five_wrong_answers_and_a_right_one(notebook):
    numbers = [exercise.number for exercise in exercises(notebook)]
    wrong, right = ANSWERS[notebook].WRONG, ANSWERS[notebook].RIGHT
    assert list(wrong) == list(right) == numbers
    assert [number for number in numbers if len(wrong[number]) < 5] == []
    assert [number for number in numbers if len(right[number]) < 1] == []
