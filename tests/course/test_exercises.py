"""Every exercise of every notebook: what it holds, and what the checker says to known answers."""

import contextlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sdlearn.course import answer_or_solution, api, check, hint, quiz, solution
from sdlearn.course.exercises import exercises, files, find, questions
from sdlearn.course.grading.exercise import Exercise, Refused, card, cells, marked_solution, stub
from sdlearn.unet import UNetConfig, UNetEncoder

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
ALL = [exercise for notebook in files() for exercise in exercises(notebook)]
MISTAKES = [(exercise, mistake) for exercise in ALL for mistake in exercise.mistakes]
KEPT = ("cell_type", "id", "metadata", "source")
each = pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.number)


def blank(exercise: Exercise):
    """The learner's stub, untouched, as the notebook defines it."""
    torch_names = {"torch": torch, "nn": nn, "Tensor": Tensor}
    names = torch_names | {"UNetConfig": UNetConfig, "UNetEncoder": UNetEncoder}
    exec(stub(exercise), names)
    return names[exercise.name]


@each
def test_it_is_complete(exercise):
    assert re.fullmatch(r"\d\d\.\d+", exercise.number)
    assert find(exercise.number) is exercise
    assert exercise.difficulty in (1, 2, 3)
    assert 3 <= exercise.minutes <= 40
    assert len(exercise.hints) == len(set(exercise.hints)) == 3
    assert len(exercise.mistakes) >= 3
    names = [mistake.name for mistake in exercise.mistakes]
    sentences = [mistake.sentence for mistake in exercise.mistakes]
    assert len(set(names)) == len(set(sentences)) == len(names)
    for text in (exercise.statement, *exercise.hints, *sentences):
        assert len(text) > 40
        assert text[-1] in ".?`)"
        assert "  " not in text


@each
def test_its_inputs_are_fresh_reproducible_and_not_all_alike(exercise):
    def flat(cases):
        return [x for case in cases for x in case.inputs if isinstance(x, Tensor)]

    once, again, other = exercise.inputs(0), exercise.inputs(0), exercise.inputs(1)
    for x, y in zip(flat(once), flat(again), strict=True):
        assert x is not y
        assert torch.equal(x, y)
    if exercise.kind != "value":
        assert len(once) >= 3
    floating = [
        (x, y) for x, y in zip(flat(once), flat(other), strict=True) if x.is_floating_point()
    ]
    # Fewer digits stand for themselves, where they are what the exercise is about; and a published
    # table is the same every time.
    few = torch.float32, torch.float16, torch.bfloat16
    assert any(x.dtype == torch.float64 for x, _ in floating) or not floating
    assert all(x.dtype in (torch.float64, *few) for x, _ in floating)
    assert any(not torch.equal(x, y) for x, y in floating) or not floating


@each
def test_its_solution_passes(exercise):
    verdict = check(exercise.number, exercise.solution)
    assert (verdict.status, verdict.mistake) == ("right", None), verdict.text


@each
def test_an_untouched_stub_is_not_attempted(exercise):
    for answer in (blank(exercise), ..., None):
        verdict = check(exercise.number, answer)
        assert verdict.status == "not attempted"
        assert "not attempted" in repr(verdict)


@pytest.mark.parametrize(
    ("exercise", "mistake"), MISTAKES, ids=[f"{e.number}-{m.name}" for e, m in MISTAKES]
)
def test_a_mistake_is_caught_by_its_own_sentence(exercise, mistake):
    verdict = check(exercise.number, mistake.answer)
    assert (verdict.status, verdict.mistake) == ("not yet", mistake.name)
    assert mistake.sentence in verdict.text


@each
def test_code_that_fails_gets_a_sentence(exercise):
    if exercise.kind == "value":
        answers = ["seven", [], lambda: 1]
    elif exercise.kind == "function":
        answers = [raising, leaving, silent, listing, with_too_few_arguments, 3.0, nn.Linear]
    else:

        class Raises(exercise.solution):
            forward = raising

        class Silent(exercise.solution):
            forward = silent

        class Lists(exercise.solution):
            forward = listing

        class Empty(nn.Module):
            def __init__(self, *_):
                super().__init__()

            def forward(self, *inputs):
                return inputs[0] + 1

        answers = [Raises, Silent, Lists, Empty, nn.Linear, raising, 3.0]
    for answer in answers:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            verdict = check(exercise.number, answer)
        assert verdict.status == "not yet"
        assert verdict.mistake is None
        assert "Traceback" not in verdict.text
        assert "\n" not in verdict.text
        assert printed.getvalue() == ""


def raising(*inputs):
    return inputs[0].no_such_thing


def leaving(*inputs):
    raise SystemExit(1)


def silent(*inputs):
    print(inputs)


def listing(*inputs):
    return [type(inputs[0]), "?"]


def with_too_few_arguments():
    return 1


@each
def test_the_three_hints_and_the_solution_are_shown(exercise):
    for level in (1, 2, 3):
        told = hint(exercise.number, level)
        assert exercise.hints[level - 1] in told.text
        assert f"Hint {level} of 3" in told._repr_html_()
    assert hint(exercise.number).text == hint(exercise.number, 1).text
    text = solution(exercise.number).text
    assert exercise.name in text
    names: dict = {"torch": torch, "nn": nn, "Tensor": Tensor}
    module = __import__(exercise.cases.__module__, fromlist=["_"])
    exec(text, {**vars(module), **names}, names)
    assert check(exercise.number, names[exercise.name]).status == "right"


@pytest.mark.parametrize("notebook", files())
def test_its_notebook_shows_exactly_these_exercises_and_this_quiz(notebook):
    (path,) = NOTEBOOKS.glob(f"{notebook}-*.ipynb")
    stored = json.loads(path.read_text("utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in stored]
    starts = [text for text in sources if re.match(r"#+ Exercise \d", text)]
    assert starts == [card(exercise) for exercise in exercises(notebook)]
    for exercise in exercises(notebook):
        place = sources.index(card(exercise))
        shown = [
            {**cell, "source": "".join(cell["source"])}
            for cell in stored[place : place + 3 + exercise.core]
        ]
        assert [{key: c[key] for key in KEPT} for c in shown] == cells(exercise)
        assert shown[1]["outputs"] == []
        (output,) = shown[2]["outputs"]
        verdict = check(exercise.number, blank(exercise))
        assert "".join(output["data"]["text/plain"]) == verdict.text
        assert "".join(output["data"]["text/html"]) == verdict._repr_html_()
    asked = stored[sources.index(f'quiz("{notebook}")')]
    (output,) = asked["outputs"]
    assert "".join(output["data"]["text/html"]) == quiz(notebook)._repr_html_()


@pytest.mark.parametrize(
    ("minutes", "difficulty", "points"),
    [(3, 1, 1), (4, 1, 1), (5, 1, 2), (9, 1, 2), (10, 1, 3), (12, 2, 4), (25, 3, 8), (40, 3, 11)],
)
def test_points_grow_with_minutes_and_difficulty(minutes, difficulty, points):
    assert replace(find("04.2"), minutes=minutes, difficulty=difficulty).points == points


def test_what_the_exercises_count():
    """A teacher's gradebook holds these numbers."""
    assert {
        notebook: [exercise.points for exercise in exercises(notebook)] for notebook in files()
    } == {
        "00": [2, 2, 2, 6, 4],
        "01": [2, 4, 4, 4, 4, 4, 5],
        "02": [2, 2, 4, 2, 2, 1, 4, 4, 4, 2, 8],
        "05": [4, 2, 4, 4, 4, 2, 4, 3, 5],
        "03": [4, 1, 2, 4, 4, 8],
        "04": [2, 2, 4, 2, 4, 2, 4, 4, 8],
        "06": [2, 4, 4, 4, 2, 5, 7],
        "07": [2, 2, 3, 4, 4, 5, 7],
        "08": [3, 4, 3, 4, 4, 5, 7],
        "09": [2, 5, 2, 5, 5, 8],
        "10": [2, 5, 4, 7, 4, 5, 2],
        "11": [2, 2, 4, 4, 8],
        "12": [2, 4, 6, 3, 5],
        "13": [2, 4, 2, 4, 4, 6],
        "14": [4, 2, 4, 4, 4],
        "15": [4, 6, 4, 2, 2],
        "16": [2, 4, 6, 4, 2],
        "17": [4, 5, 6, 4, 7],
        "18": [2, 4, 4, 2, 4],
        "19": [2, 2, 4, 3, 4, 6, 4],
    }


def test_the_marks_that_nbgrader_reads():
    """Those of the second exercise of notebook 04: eight minutes of the first difficulty."""
    shown, answer, checked, use = cells(find("04.2"))
    assert use["metadata"] == {}
    assert use["source"] == 'split_heads = answer_or_solution("04.2", split_heads)'
    both = {"schema_version": 3, "task": False}
    assert shown["metadata"] == {}
    assert answer["metadata"]["nbgrader"] == both | {
        "grade": False,
        "grade_id": "exercise-2-answer",
        "locked": False,
        "solution": True,
    }
    assert checked["metadata"]["nbgrader"] == both | {
        "grade": True,
        "grade_id": "exercise-2-check",
        "locked": True,
        "points": 2,
        "solution": False,
    }


def test_a_notebook_goes_on_with_a_right_answer_and_else_with_the_solution(monkeypatch):
    told = []
    monkeypatch.setattr(api, "display", lambda bundle, raw=False: told.append(bundle))
    mine = lambda x, heads: x.unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
    assert answer_or_solution("04.2", mine) is mine
    for answer in (..., None, lambda x, heads: x, lambda x: x):
        assert answer_or_solution("04.2", answer) is find("04.2").solution
    assert told[0]["text/plain"] == "From here on the notebook uses your own `split_heads`."
    assert told[1]["text/plain"] == "From here on the notebook uses the library's `split_heads`."
    for bundle in told:
        assert "<summary>The library's code</summary>" in bundle["text/html"]
        assert (
            "return x.reshape(b, n, heads, width // heads).transpose(1, 2)" in bundle["text/html"]
        )


@each
def test_nbgrader_makes_the_stub_from_the_marked_solution(exercise):
    """It puts the stub `...`, as deep as the first mark, where a marked part stands."""
    parts = re.compile(r"^( *)### BEGIN SOLUTION\n.*?### END SOLUTION$", flags=re.M | re.S)
    text = marked_solution(exercise)
    made = parts.sub(r"\1...", text)
    assert made == stub(exercise) + "\n..." * (exercise.kind == "value")
    without = re.sub(r"^ *### (BEGIN|END) SOLUTION\n?", "", text, flags=re.M).rstrip()
    assert without.removeprefix("answer = ...\n") == solution(exercise.number).text


@pytest.mark.parametrize("notebook", files())
def test_a_quiz_asks_three_questions_and_explains_every_answer(notebook):
    asked = questions(notebook)
    assert len(asked) == 3
    assert len({[a.right for a in question.answers].index(True) for question in asked}) > 1
    for question in asked:
        assert question.text.endswith("?")
        assert 3 <= len(question.answers) <= 6
        assert [answer.right for answer in question.answers].count(True) == 1
        assert all(len(answer.reason) > 30 for answer in question.answers)
    page, text = quiz(notebook)._repr_html_(), quiz(notebook).text
    count = sum(len(question.answers) for question in asked)
    assert page.count("<details>") == page.count("<summary>") == count
    assert page.count("✓ Right") == text.count("✓ Right") == 3
    assert page.count("✗ Not quite") == count - 3
    assert not re.search(r"<script|https?:|onclick|style=", page)


def test_unknown_numbers_are_answered_with_those_there_are():
    for number in ("04.0", "nothing", 4.2, "", "99.1"):
        with pytest.raises(Refused, match=r"There is no exercise .*; there are: .*04\.1"):
            check(number, None)
    with pytest.raises(Refused, match="Accepted: 1, 2 or 3"):
        hint("04.1", 4)
    with pytest.raises(Refused, match=r"for: .*04"):
        quiz("98")
    assert Refused("one sentence")._render_traceback_() == ["one sentence"]
