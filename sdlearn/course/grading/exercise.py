"""Exercises and quiz questions as plain data, and the notebook cells made from them.

The checker (`judge`) runs the solution and the mistakes; the notebook shows `cells`.
"""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """Inputs for one run: `answer(*inputs)`, or `answer(*build)(*inputs)` for a module."""

    inputs: tuple[Any, ...] = ()
    build: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that learners often give.

    Attributes:
        name: Short name, unique within the exercise.
        answer: The mistake as running code, called like the solution.
        sentence: What the learner reads: what the code does, why that is wrong and what the
            symptom is.
    """

    name: str
    answer: Any
    sentence: str


def no_input(rng: torch.Generator) -> Iterator[Case]:
    """Yield the single, empty case of an exercise whose answer is a value."""
    yield Case()


@dataclass(frozen=True)
class Exercise:
    """One exercise: its text, its solution and how an answer is tested.

    Attributes:
        number: Notebook and position, such as "04.2".
        title: Heading of the card.
        minutes: Time that most readers need.
        difficulty: 1 to 3.
        solution: A function, a subclass of nn.Module or a value. Its signature and docstring are
            the learner's stub.
        statement: The task in Markdown, shown in the notebook.
        hints: Three, each giving away more than the one before.
        mistakes: Wrong answers that the checker recognises.
        cases: Draws the inputs, with tensors in float64 (half precision where that is the point).
            An equal generator must give equal inputs.
        given: Methods of a class that the stub keeps.
        trained: Whether gradients must flow back through the answer.
        tolerance: Largest relative error in float64.
        core: Whether the notebook goes on with the answer, or with the solution in its place.
    """

    number: str
    title: str
    minutes: int
    difficulty: int
    solution: Any
    statement: str = ""
    hints: tuple[str, str, str] = ("", "", "")
    mistakes: tuple[Mistake, ...] = ()
    cases: Callable[[torch.Generator], Iterator[Case]] = no_input
    given: tuple[str, ...] = ("__init__",)
    trained: bool = True
    tolerance: float = 1e-9
    core: bool = False

    @property
    def kind(self) -> str:
        """The kind of answer: "class", "function" or "value"."""
        if isinstance(self.solution, type) and issubclass(self.solution, nn.Module):
            return "class"
        return "function" if callable(self.solution) else "value"

    @property
    def points(self) -> int:
        """Points in a graded class: the difficulty, plus one for every full five minutes."""
        return self.difficulty + self.minutes // 5

    @property
    def name(self) -> str:
        """The name that the notebook gives the answer."""
        return "answer" if self.kind == "value" else self.solution.__name__

    def inputs(self, seed: int = 0) -> list[Case]:
        """Draw the cases; the same seed gives the same ones, in new tensors."""
        return list(self.cases(torch.Generator().manual_seed(seed)))


@dataclass(frozen=True)
class Answer:
    """One of the answers to choose from, with the reason why it is right or wrong."""

    text: str
    right: bool
    reason: str


@dataclass(frozen=True)
class Question:
    """A question with one right answer."""

    text: str
    answers: tuple[Answer, ...]


class Refused(ValueError):
    """An error for the learner, which IPython shows as one sentence without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def normal(rng: torch.Generator, *shape: int) -> Tensor:
    """Draw standard normal numbers of this shape in float64."""
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


# ------------------------------------------------------------------------------- notebook cells


def cells(exercise: Exercise) -> list[dict[str, Any]]:
    """The notebook cells of an exercise, without outputs: card, answer and check.

    A core exercise has a fourth cell, after which the notebook uses the answer if it is right and
    the solution if it is not.
    """
    name = f"exercise-{exercise.number.split('.')[1]}"
    answer, checked = f"{name}-answer", f"{name}-check"
    made = [
        cell("markdown", name, card(exercise), {}),
        cell("code", answer, stub(exercise), nbgrader(answer)),
        cell("code", checked, check_cell(exercise), nbgrader(checked, exercise.points)),
    ]
    if exercise.core:
        made.append(cell("code", f"{name}-use", use_cell(exercise), {}))
    return made


def cell(kind: str, name: str, text: str, metadata: dict[str, Any]) -> dict[str, Any]:
    """A notebook cell in nbformat's JSON; kind is "markdown" or "code"."""
    return {"cell_type": kind, "id": name, "metadata": metadata, "source": text}


def nbgrader(name: str, points: int | None = None) -> dict[str, Any]:
    """The metadata with which nbgrader recognises a cell.

    Args:
        name: Identifier of the cell, unique within the notebook.
        points: Points of a locked cell that nbgrader runs; None for a cell that learners fill in.
    """
    graded = points is not None
    marks = {"grade": graded, "grade_id": name, "locked": graded, "schema_version": 3}
    marks |= {"solution": not graded, "task": False}
    return {"nbgrader": marks | ({"points": points} if graded else {})}


def card(exercise: Exercise) -> str:
    """The markdown cell of an exercise."""
    number = exercise.number
    return (
        f"### Exercise {number} · {exercise.title}\n\n"
        f"*Difficulty {exercise.difficulty} of 3 · about {exercise.minutes} minutes*\n\n"
        f"{exercise.statement}\n\n"
        f'Stuck? `hint("{number}")`, then `hint("{number}", 2)` and `hint("{number}", 3)`. '
        f'When you are done: `solution("{number}")`.'
    )


def check_cell(exercise: Exercise, call: str = "check") -> str:
    """The code that checks the answer, or grades it if call is "check.grade"."""
    return f'{call}("{exercise.number}", {exercise.name})'


def use_cell(exercise: Exercise) -> str:
    """The code after which the notebook has a right answer under the answer's name."""
    return f'{exercise.name} = answer_or_solution("{exercise.number}", {exercise.name})'


def stub(exercise: Exercise) -> str:
    """The solution with `...` for its bodies; docstrings and the methods in `given` stay."""
    if exercise.kind == "value":
        return "answer = ..."
    return with_bodies(exercise, lambda body, indent: [f"{indent}..."])


def marked_solution(exercise: Exercise) -> str:
    """The solution with nbgrader's marks around the bodies that it removes for learners."""
    begin, end = "### BEGIN SOLUTION", "### END SOLUTION"
    if exercise.kind == "value":
        return "\n".join([stub(exercise), begin, source(exercise), end])
    return with_bodies(exercise, lambda body, indent: [indent + begin, *body, indent + end])


def with_bodies(exercise: Exercise, change: Callable[[list[str], str], list[str]]) -> str:
    """The solution's source, with `change(lines, indent)` for every body that a learner writes."""
    text = source(exercise)
    lines = text.splitlines()
    (tree,) = ast.parse(text).body
    whole = [tree] if isinstance(tree, ast.FunctionDef) else []
    parts = tree.body if isinstance(tree, ast.ClassDef) else []
    methods = [part for part in parts if isinstance(part, ast.FunctionDef)]
    for function in reversed(whole + [m for m in methods if m.name not in exercise.given]):
        first, end = function.body[0], function.end_lineno
        keeps = ast.get_docstring(function) is not None and first.end_lineno is not None
        start = first.end_lineno if keeps else first.lineno - 1
        lines[start:end] = change(lines[start:end], " " * first.col_offset)
    return "\n".join(lines)


def source(exercise: Exercise) -> str:
    """The solution's source code."""
    if exercise.kind == "value":
        return f"answer = {exercise.solution!r}"
    return textwrap.dedent(inspect.getsource(exercise.solution)).rstrip()
