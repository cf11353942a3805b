"""The text files of the exercises: how they are read, and refused where they do not fit."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compare_exercises import equal, plain

from sdlearn.course.exercises import edits, exercises, files, texts
from sdlearn.course.grading.exercise import Answer, Question, source
from sdlearn.course.grading.sandbox import results

FOLDER = Path(edits.__file__).parent
WRITTEN = [lesson for lesson, name in files().items() if (FOLDER / f"{name}.md").exists()]

PYTHON = '''
import torch
from torch import Tensor, nn

from sdlearn.course.grading.exercise import Exercise, Mistake
from sdlearn.course.exercises.edits import with_texts


def add_twice(x: Tensor, y: Tensor) -> Tensor:
    """x and twice y, added."""
    if y.dim():
        total = x + y
        total = total + y
        return total
    return x + 2 * y


def add_once(x: Tensor, y: Tensor) -> Tensor:
    return x + y


class Scale(nn.Module):
    """x and its multiple, added."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), 3.0))

    def forward(self, x: Tensor) -> Tensor:
        y = self.weight * x
        return x + y


def exercise(number, title, solution, *mistakes):
    about = dict(number=number, title=title, minutes=5, difficulty=1, mistakes=mistakes)
    return Exercise(solution=solution, **about)


EXERCISES, QUESTIONS = with_texts(
    __name__,
    exercise("99.1", "Twice", add_twice),
    exercise("99.2", "A layer", Scale, Mistake("from Python", nn.Identity, "You give x back.")),
    exercise("99.3", "How many", 64),
)
'''
X, Y = (torch.tensor(x, dtype=torch.float64) for x in ([1, 2], [10, 20]))


TITLES = ("99.1 Twice", "99.2 A layer", "99.3 How many")
TEXT = "Do\nit.\n\n### Hints\n\n1. Begin.\n2. Go\n   on.\n3. End.\n\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function that makes a module of exercises with this text file."""

    def made(text):
        file = tmp_path / "nb99_small.py"
        file.write_text(PYTHON, encoding="utf-8")
        file.with_suffix(".md").write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("nb99_small", file)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "nb99_small", module)
        spec.loader.exec_module(module)
        return module

    return made


@pytest.fixture
def load(module):
    """A function from sections with mistakes alone to exercises: {"99.1": exercise, ...}."""

    def made(text):
        for title in TITLES:
            text += f"\n## {title}\n" * (f"## {title}\n" not in text)
            text = text.replace(f"## {title}\n", f"## {title}\n{TEXT}")
        return {exercise.number: exercise for exercise in module(text).EXERCISES}

    return made


def only(mistakes):
    (mistake,) = mistakes
    return mistake.answer


def indented(code):
    return "".join(f"    {line}\n" for line in code.splitlines())


# -------------------------------------------------------------------------- reading and applying


def test_a_file_gives_names_sentences_and_order(load):
    found = load(
        "# Mistakes\n\n## 99.1 Twice\n\n"
        "### once\n    - total = total + y\n    +\nYou add y\nonly  once: `a +\nb`.\n\n"
        "### three times\n    - 2 * y\n    + 3 * y\n    - total + y\n    + total + 2 * y\n"
        "You add y three times.\n\n## 99.3 How many\n\n"
        "### by eight\n    - 64\n    + 8 * 64\nYou multiply by 8.\n"
        "### halved\n    = 32\nYou divide by 2.\n"
    )
    assert [m.name for m in found["99.1"].mistakes] == ["once", "three times"]
    assert [m.sentence for m in found["99.1"].mistakes] == [
        "You add y only once: `a + b`.",
        "You add y three times.",
    ]
    assert [m.answer for m in found["99.3"].mistakes] == [512, 32]
    assert [m.name for m in found["99.2"].mistakes] == ["from Python"]


@pytest.mark.parametrize(
    ("edit", "vector", "number"),
    [
        ("- total = total + y\n+", (11, 22), 21),
        ("-         x + 2 * y\n+ x - 2 * y", (21, 42), -19),
        ("- x + 2 * y\n+ x\n- x + y\n+ y", (20, 40), 1),
        # Every edit is looked for in the solution as it is, not in what another one made of it.
        ("- total + y\n+ total - y\n- x + y\n+ total + y if False else y", (0, 0), 21),
        # Lines are found whatever their indentation, and get that of the first.
        ("- total = x + y\n-   total = total + y\n+ total = y\n+ total = -total", (-10, -20), 21),
        ("- total = total + y\n+ for _ in range(3):\n+     total = total + y", (41, 82), 21),
        ("= add_once", (11, 22), 11),
        ("= lambda x, y: (\n=     x\n= )", (1, 2), 1),
    ],
)
def test_edits_of_a_function(load, edit, vector, number):
    answer = only(load(f"## 99.1 Twice\n### m\n{indented(edit)}You do.\n")["99.1"].mistakes)
    assert torch.equal(answer(X, Y), torch.tensor(vector, dtype=torch.float64))
    assert float(answer(X[0], Y[0])) == number


def test_edits_inside_a_method_of_a_class(load):
    edit = "- return x + y\n+ if x.dim():\n+     return y\n+ return x"
    exercise = load(f"## 99.2 A layer\n### alone\n{indented(edit)}No x.\n")["99.2"]
    python, ours = exercise.mistakes
    assert (python.name, ours.name) == ("from Python", "alone")
    assert ours.answer.__name__ == "Scale"
    assert ours.answer is not exercise.solution
    assert ours.answer(2).double()(X).tolist() == [3.0, 6.0]
    assert exercise.solution(2).double()(X).tolist() == [4.0, 8.0]


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "## 99.1 Twice\n### m\n    - total +  y\n    + y\nYou do.\n",
            "line 3: 99.1 Twice, 'm': 'total +  y' is 0 times in the solution, not once",
        ),
        (
            "## 99.1 Twice\n### m\n    - 2 * y\n    + y\n    - total =\n    + y =\nYou do.\n",
            "line 5: 99.1 Twice, 'm': 'total =' is 2 times in the solution, not once",
        ),
        (
            "## 99.1 Twice\n### m\n    - total = x + y\n    + y\n    - x + y\n    + y\nYou do.\n",
            "line 2: 99.1 Twice, 'm': two of its edits overlap",
        ),
        (
            "## 99.1 Twice\n### m\n    - 2 * y\n    + 2 * y\nYou do.\n",
            "line 2: 99.1 Twice, 'm': it changes nothing in the solution",
        ),
        (
            "## 99.3 How many\n### m\n    = 64\nYou do.\n",
            "line 2: 99.3 How many, 'm': it changes nothing in the solution",
        ),
        (
            "## 99.1 Twice\n### m\nYou do.\n",
            "line 2: 99.1 Twice, 'm': it changes nothing in the solution",
        ),
        (
            "## 99.1 Twice\n### m\n    - 2 * y\n    + 3 * y\n\n## 99.2 A layer\nYou do.\n",
            "line 2: 99.1 Twice, 'm': the sentence for the learner is missing",
        ),
        (
            "\n## 99.4 Twice\n### m\n    - 2 * y\n    + 3 * y\nYou do.\n",
            "line 2: there is no exercise '99.4 Twice'; there are: 99.1 Twice, 99.2 A layer, "
            "99.3 How many",
        ),
        (
            "### m\n    - 2 * y\n    + 3 * y\nYou do.\n",
            "line 1: no section is above the heading 'm'",
        ),
        (
            "## 99.1 Twice\n" + 2 * "### m\n    - 2 * y\n    + 3 * y\nYou do.\n",
            "line 6: another part of the section has the heading 'm'",
        ),
        (
            2 * "## 99.1 Twice\n### m\n    - 2 * y\n    + 3 * y\nYou do.\n",
            "line 6: another section has the heading '99.1 Twice'",
        ),
        (
            "## 99.2 A layer\n### from Python\n    = nn.Sequential\nYou do.\n",
            "line 2: 99.2 A layer, 'from Python': another mistake there has this name",
        ),
        (
            "## 99.1 Twice\n### m\n    + 3 * y\nYou do.\n",
            "line 3: 99.1 Twice, 'm': an indented line begins with `-`, then `+`, or with `=`",
        ),
        (
            "## 99.1 Twice\n### m\n    2 * y\nYou do.\n",
            "line 3: 99.1 Twice, 'm': an indented line begins with `-`, then `+`, or with `=`",
        ),
        (
            "## 99.1 Twice\n### m\n    - 2 * y\n    + 2 *\nYou do.\n",
            "line 2: 99.1 Twice, 'm': it does not run: invalid syntax (<m>, line 7)",
        ),
        (
            "## 99.1 Twice\n### m\n    = unknown\nYou do.\n",
            "line 2: 99.1 Twice, 'm': it does not run: name 'unknown' is not defined",
        ),
        (
            "## 99.1 Twice\n### m\n    - 2 * y\n    + y\n    = add_once\nYou do.\n",
            "line 2: 99.1 Twice, 'm': it has edits and another answer: one of them is not used",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(module, text, said):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole text is compared
        module(text)
    assert str(raised.value) == f"nb99_small.md, {said}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"## 99.1 Twice\n{TEXT}", "nb99_small.md: the section '99.2 A layer' is missing"),
        (
            "## 99.1 Twice\n" + TEXT.replace("Do\nit.", ""),
            "nb99_small.md, line 1: '99.1 Twice' needs a statement and three hints, not 3",
        ),
        (
            "## 99.1 Twice\n" + TEXT.replace("3. End.", ""),
            "nb99_small.md, line 1: '99.1 Twice' needs a statement and three hints, not 2",
        ),
        (
            "## Quiz\n### Question 1\nWhy?\n- [x] A.\n\n  So.\n\n- [ ] B.\n",
            "nb99_small.md, line 1, Question 1: each answer, `- [ ] …`, must have one reason",
        ),
        (
            "## Quiz\n### Question 1\nWhy?\n- [ ] A.\n- [ ] B.\n\n  So.\n\n  So.\n",
            "nb99_small.md, line 1, Question 1: each answer, `- [ ] …`, must have one reason",
        ),
        (
            "## Quiz\n### Question 1\nWhy?\n- [x] A.\n\n  So.\n\n- [x] B.\n\n  No.\n",
            "nb99_small.md, line 1, Question 1: 2 answers are right; one must be",
        ),
    ],
)
def test_a_missing_text_is_named(module, text, said):
    with pytest.raises(ValueError) as raised:  # noqa: PT011 - the whole text is compared
        module(text)
    assert str(raised.value) == said


def test_a_statement_keeps_its_paragraphs_and_its_lists(module):
    statement = "One\nparagraph.\n\n1. First,\n   and on.\n2. Second.\n\n$$x$$\n\nLast."
    text = "".join(f"## {title}\n\n{TEXT}" for title in TITLES).replace("Do\nit.", statement, 1)
    first, second, _ = module(text).EXERCISES
    assert first.statement == ("One paragraph.\n\n1. First, and on.\n2. Second.\n\n$$x$$\n\nLast.")
    assert second.statement == "Do it."
    assert second.hints == ("Begin.", "Go on.", "End.")


def test_a_quiz_has_its_questions_answers_and_reasons(module):
    text = "".join(f"## {title}\n{TEXT}" for title in TITLES)
    text += (
        "## Quiz\n\n### Question 1\n\nWhy\nso?\n\n- [ ] No\n  way.\n\n  Wrong.\n\n"
        "- [x] It is.\n\n  Right\n  so.\n\n### Question 2\n\nHow?\n\n- [x] So.\n\n  Yes.\n"
    )
    one, two = module(text).QUESTIONS
    assert one == Question(
        "Why so?", (Answer("No way.", False, "Wrong."), Answer("It is.", True, "Right so."))
    )
    assert two == Question("How?", (Answer("So.", True, "Yes."),))


# ---------------------------------------------------------------------------- the files there are


@pytest.mark.parametrize("lesson", WRITTEN)
def test_every_edit_of_a_file_is_needed(lesson):
    """A mistake without one of its edits gives other results: none is there for nothing."""
    path = FOLDER / f"{files()[lesson]}.md"
    written = [mistake for section in texts.read(path) for mistake in section.mistakes]
    known = {f"{exercise.number} {exercise.title}": exercise for exercise in exercises(lesson)}
    assert len(written) == sum(len(exercise.mistakes) for exercise in known.values()) > 0
    names = vars(sys.modules[f"sdlearn.course.exercises.{files()[lesson]}"])
    for entry in written:
        exercise = known[entry.exercise]
        made = [
            edits.mistaken(replace(entry, edits=kept), exercise.name, source(exercise), names)
            for kept in without_one(entry.edits)
        ]
        (whole,) = (m.answer for m in exercise.mistakes if m.name == entry.name)
        outcome = plain(results(exercise, whole))
        for answer in made:
            assert not equal(plain(results(exercise, answer)), outcome), entry.name


def without_one(items):
    """Every list with one item fewer, for at least two items."""
    return [items[:k] + items[k + 1 :] for k in range(len(items))] if len(items) > 1 else []


@pytest.mark.parametrize("lesson", WRITTEN)
def test_a_file_is_wrapped_for_reading(lesson):
    text = (FOLDER / f"{files()[lesson]}.md").read_text("utf-8")
    assert max(map(len, text.splitlines())) <= 100
    assert not [line for line in text.splitlines() if line != line.rstrip()]
