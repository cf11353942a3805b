"""The results of a wrong answer and of the solution, in the forms that the probes need."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sdlearn.course.grading.compare import difference, materialize, tree_leaves
from sdlearn.course.grading.exercise import Case, Exercise
from sdlearn.course.grading.sandbox import Failure, argument_names, isolated_rng, ready

STUMBLES = RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError


@dataclass(frozen=True)
class Trial:
    """The results of a wrong answer and of the solution, case by case.

    Attributes:
        exercise: The exercise.
        answer: The learner's answer.
        mine: The answer's result in each case, or a Failure.
        expected: The solution's result in each case.
        wrong: Whether they differ in each case.
        mistaken: The results of each known mistake in each case.
    """

    exercise: Exercise
    answer: Any
    mine: list[Any]
    expected: list[Any]
    wrong: list[bool]
    mistaken: list[list[Any]]

    @property
    def cases(self) -> list[Case]:
        """Fresh cases for the answer, which may change its inputs."""
        return self.exercise.inputs()

    @cached_property
    def unchanged(self) -> list[Case]:
        """The same cases for the solution, which leaves its inputs unchanged."""
        return self.exercise.inputs()

    @cached_property
    def solutions(self) -> list[Any]:
        """The solution, ready to be called, for each case; a module has its weights."""
        found = []
        for case in self.unchanged:
            with isolated_rng():  # once a case, so that the weights equal those of the answer
                found.append(ready(self.exercise, self.exercise.solution, case, torch.float64))
        return found

    def solve(self, k: int, inputs: Sequence[Any]) -> Any:
        """Run the solution of case k on other inputs; a Failure if it raises."""
        try:
            with isolated_rng(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return materialize(self.solutions[k](*inputs))
        except STUMBLES:
            return Failure("The solution takes no such inputs.")

    @property
    def names(self) -> list[str]:
        return argument_names(self.exercise)

    @cached_property
    def order(self) -> list[int]:
        """The cases, wrong ones first, then by size, so that a wrong guess fails early."""

        def size(k: int) -> int:
            return sum(x.numel() for x in tree_leaves(list(self.unchanged[k].inputs)))

        return sorted(range(len(self.mine)), key=lambda k: (not self.wrong[k], size(k)))

    @cached_property
    def close(self) -> bool:
        """Whether every result is right up to a relative error of 1e-5."""
        return all(
            not isinstance(a, Failure) and not difference(a, b, 1e-5)
            for a, b in zip(self.mine, self.expected, strict=True)
        )

    @property
    def first(self) -> int:
        """Index of the first case that is wrong."""
        return self.wrong.index(True)


def kind(column: tuple[Any, ...]) -> str:
    """The kind of an argument, from its values in all cases; "other" if `substitutes` has none."""
    if all(isinstance(x, Tensor) and x.is_floating_point() for x in column):
        return "tensor"
    if all(isinstance(x, Tensor) and x.dtype == torch.bool for x in column):
        return "mask"
    if all(isinstance(x, Tensor) for x in column):
        return "index"
    if all(isinstance(x, int) and not isinstance(x, bool) for x in column):
        return "whole"
    if all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in column):
        return "number"
    if all(hasattr(x, "_fields") for x in column):
        return "point"
    if all(isinstance(x, (list, tuple)) and x and isinstance(x[0], (int, float)) for x in column):
        return "numbers"
    if all(isinstance(x, list) for x in column):
        return "pairs" if all(x and isinstance(x[0], tuple) for x in column) else "list"
    return "other"


def series(trial: Trial) -> Iterator[tuple[str, list[tuple[Tensor, Tensor]]]]:
    """Yield a name and the pairs (mine, expected) of all cases, for each entry of a tuple."""
    if any(isinstance(x, Failure) for x in (*trial.mine, *trial.expected)):
        return
    pairs = list(zip(trial.mine, trial.expected, strict=True))
    counts = {len(b) if isinstance(b, tuple) else 0 for _, b in pairs}
    if counts == {0}:
        yield "your result", [(as_tensor(a), as_tensor(b)) for a, b in pairs]
    elif len(counts) == 1:
        (n,) = counts
        if all(isinstance(a, (tuple, list)) and len(a) == n for a, _ in pairs):
            for k in range(n):
                yield (
                    f"entry {k} of your result",
                    [(as_tensor(a[k]), as_tensor(b[k])) for a, b in pairs],
                )


def as_tensor(x: Any) -> Tensor:
    """Convert to a float64 tensor, an empty one if the value does not hold plain numbers."""
    try:
        if isinstance(x, Tensor):
            return x.detach().double()
        return torch.as_tensor(x, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        return torch.zeros(0)


def sizes(trial: Trial) -> dict[str, list[float]]:
    """Arguments and axis lengths that are positive and vary from case to case, by name."""
    found: dict[str, list[float]] = {}
    cases = trial.unchanged
    for name, column in zip(
        trial.names, zip(*(c.inputs for c in cases), strict=False), strict=False
    ):
        if kind(column) in ("whole", "number"):
            found[f"`{name}`"] = [float(x) for x in column]
    for name, column in zip(
        trial.names, zip(*(c.inputs for c in cases), strict=False), strict=False
    ):
        if all(isinstance(x, Tensor) for x in column) and len({x.dim() for x in column}) == 1:
            for axis in range(column[0].dim()):
                found[f"the length of axis {axis} of `{name}`"] = [x.shape[axis] for x in column]
        if all(isinstance(x, (list, tuple)) for x in column):
            found[f"the length of `{name}`"] = [len(x) for x in column]
    kept: dict[str, list[float]] = {}
    for name, values in found.items():
        usable = all(x > 0 for x in values) and len(set(values)) > 1
        if usable and values not in kept.values():
            kept[name] = values
    return kept


def batch(result: Any) -> int:
    """The length of the first axis; 0 if there is none."""
    found = tree_leaves(result)
    return len(found[0]) if found and found[0].dim() else 0
