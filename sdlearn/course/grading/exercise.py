"""What an exercise and a quiz question are: plain data, from which all the rest is made.

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
    """One input to try an answer on: `answer(*inputs)`, for a module `answer(*build)(*inputs)`."""

    inputs: tuple[Any, ...] = ()
    build: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Mistake:
    """A wrong answer that people really give.

    answer: the mistake as running code, to be called like the solution. sentence: what the learner
    reads: what the code does, why that is wrong, how one would notice.
    """

    name: str
    answer: Any
    sentence: str


def no_input(rng: torch.Generator) -> Iterator[Case]:
    """The cases of an exercise whose answer is a value."""
    yield Case()


@dataclass(frozen=True)
class Exercise:
    """One exercise, everything about it.

    number: "05.2". minutes: for most readers. difficulty: 1 to 3. statement: markdown, ends up in
    the notebook. hints: three, each giving away more. solution: a function, a class of modules, or
    a value; its signature and docstring are the learner's stub. cases: draws the inputs, tensors in
    float64 (half precision where that is the point); called again with an equal generator it gives
    the same ones.
    given: methods of a class that the stub keeps. trained: gradients must flow back through the
    answer. tolerance: largest relative error in float64.
    """

    number: str
    title: str
    minutes: int
    difficulty: int
    statement: str
    hints: tuple[str, str, str]
    solution: Any
    mistakes: tuple[Mistake, ...] = ()
    cases: Callable[[torch.Generator], Iterator[Case]] = no_input
    given: tuple[str, ...] = ("__init__",)
    trained: bool = True
    tolerance: float = 1e-9

    @property
    def kind(self) -> str:
        """What an answer is: "class", "function" or "value"."""
        if isinstance(self.solution, type) and issubclass(self.solution, nn.Module):
            return "class"
        return "function" if callable(self.solution) else "value"

    @property
    def points(self) -> int:
        """What it counts where a class is graded: one for each level of difficulty, and one for
        every full five minutes."""
        return self.difficulty + self.minutes // 5

    @property
    def name(self) -> str:
        """What the notebook calls the answer."""
        return "answer" if self.kind == "value" else self.solution.__name__

    def inputs(self, seed: int = 0) -> list[Case]:
        """The cases; the same seed gives the same ones, in new tensors."""
        return list(self.cases(torch.Generator().manual_seed(seed)))


@dataclass(frozen=True)
class Answer:
    """One of the answers to choose from; reason: why it is right, or why not."""

    text: str
    right: bool
    reason: str


@dataclass(frozen=True)
class Question:
    """A question with one right answer."""

    text: str
    answers: tuple[Answer, ...]


class Refused(ValueError):
    """Said to the learner in one sentence, without a traceback where IPython shows it."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def normal(rng: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers in float64, for cases."""
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


# ------------------------------------------------------------------------- what the notebook shows


def cells(exercise: Exercise) -> list[dict[str, Any]]:
    """An exercise as a notebook stores it, but for outputs: the card, the answer, the check."""
    name = f"exercise-{exercise.number.split('.')[1]}"
    answer, checked = f"{name}-answer", f"{name}-check"
    return [
        cell("markdown", name, card(exercise), {}),
        cell("code", answer, stub(exercise), nbgrader(answer)),
        cell("code", checked, check_cell(exercise), nbgrader(checked, exercise.points)),
    ]


def cell(kind: str, name: str, text: str, metadata: dict[str, Any]) -> dict[str, Any]:
    return {"cell_type": kind, "id": name, "metadata": metadata, "source": text}


def nbgrader(name: str, points: int | None = None) -> dict[str, Any]:
    """What nbgrader reads in a cell: with points one that it grades and learners leave as it is,
    without points one that they fill in."""
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
    """The cell that checks the answer, or with "check.grade" grades it."""
    return f'{call}("{exercise.number}", {exercise.name})'


def stub(exercise: Exercise) -> str:
    """The solution with its bodies taken out; docstrings and what is `given` stay."""
    if exercise.kind == "value":
        return "answer = ..."
    return with_bodies(exercise, lambda body, indent: [f"{indent}..."])


def marked_solution(exercise: Exercise) -> str:
    """The solution with marks around its bodies, from which nbgrader makes the stub."""
    begin, end = "### BEGIN SOLUTION", "### END SOLUTION"
    if exercise.kind == "value":
        return "\n".join([stub(exercise), begin, source(exercise), end])
    return with_bodies(exercise, lambda body, indent: [indent + begin, *body, indent + end])


def with_bodies(exercise: Exercise, change: Callable[[list[str], str], list[str]]) -> str:
    """The solution's text, with `change(lines, indent)` for every body that a learner writes."""
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
    """The solution as text."""
    if exercise.kind == "value":
        return f"answer = {exercise.solution!r}"
    return textwrap.dedent(inspect.getsource(exercise.solution)).rstrip()
