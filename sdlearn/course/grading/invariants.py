"""Checks that apply to every answer, even if its numbers are right.

Each check takes the exercise and the answer, and returns a sentence, or "" if it passes.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sdlearn.course.grading.compare import difference, tree_leaves
from sdlearn.course.grading.exercise import Case, Exercise
from sdlearn.course.grading.mutation import Watch
from sdlearn.course.grading.sandbox import Failure, argument_names, results, run


def check_no_mutation(exercise: Exercise, answer: Any) -> str:
    """Check that the answer leaves its inputs unchanged."""
    for case in exercise.inputs():
        watch = Watch(argument_names(exercise), case.inputs)
        run(exercise, answer, case)
        changed = watch.changed()
        if changed:
            return f"The result is right, but {in_place(changed)}"
    return ""


def in_place(changed: str) -> str:
    """The sentence about a changed input such as "`x`" or "`ids`, a list,"."""
    sentence = (
        f"your code changes its input {changed} in place, which the caller may still need with its "
        "old values."
    )
    if not changed.endswith(","):
        return (
            f"{sentence} Make a new tensor instead: no `+=`, no `x[...] = `, no method whose name "
            "ends in an underscore, on what you were given."
        )
    return (
        f"{sentence} Begin with a copy, as `list(x)` makes one: no `append`, `pop`, `sort`, `+=` "
        "or `x[0] = ` on what you were given."
    )


def check_no_memory(exercise: Exercise, answer: Any) -> str:
    """Check that the answer keeps nothing from one call to the next.

    It runs on fresh inputs of the same shapes in reverse order, then on the first inputs again, so
    that a cache by shape and a counter both show.
    """
    backwards = exercise.inputs(1)[::-1]
    fresh, right = (
        [run(exercise, code, case) for case in cases]
        for code, cases in ((answer, backwards), (exercise.solution, exercise.inputs(1)[::-1]))
    )
    again, expected = results(exercise, answer), results(exercise, exercise.solution)
    if trouble(again, expected, exercise.tolerance):
        return (
            "The result is right at first and another one later, for the same input: your code "
            "keeps something from one call to the next."
        )
    problem = trouble(fresh, right, exercise.tolerance).rstrip(".")
    if problem:
        return (
            "The result is right for the first inputs, and wrong for others of the same shapes: "
            "your code keeps something from one call to the next, as a cache does that only knows "
            f"the shape, or it fits the first numbers alone ({problem})."
        )
    return ""


def check_float32(exercise: Exercise, answer: Any) -> str:
    """Check that the answer works for inputs in float32 too."""
    mine, expected = (
        results(exercise, code, torch.float32) for code in (answer, exercise.solution)
    )
    problem = trouble(mine, expected, max(1e-3, exercise.tolerance)).rstrip(".")
    if not problem:
        return ""
    if "differs at" in problem:
        why = "Somewhere a number becomes too large or too small for float32, and digits are lost"
    else:
        why = "Make new tensors like the old ones: `x.new_zeros(...)`, `torch.zeros_like(x)`"
    return f"The result is right for inputs in float64, but not in float32: {problem}. {why}."


def check_gradients(exercise: Exercise, answer: Any) -> str:
    """Check that the gradients through the answer are right, if the exercise needs them."""
    if not exercise.trained:
        return ""
    expected = gradients(exercise, exercise.solution, exercise.inputs()[0])
    through = None if isinstance(expected, Failure) else [bool(g.any()) for g in expected]
    mine = gradients(exercise, answer, exercise.inputs()[0], through)
    if not trouble([mine], [expected], 1e-6):
        return ""
    if isinstance(mine, Failure) and re.search("in-?place", mine.raised):
        return (
            "The result is right, but your code changes a tensor in place (`+=`, `x[...] = `, a "
            "method whose name ends in an underscore) whose old values the backward pass needs, so "
            "a network could not be trained through it. Make a new tensor instead."
        )
    detail = (
        f" {mine.sentence}" if isinstance(mine, Failure) else f" {lost(exercise, mine, expected)}"
    )
    return (
        "The result is right, but its gradients are not, so a network could not be trained through "
        "it. `.item()`, `.detach()`, `.data`, `float(...)`, `torch.tensor(...)`, numpy and "
        f"`no_grad` all break the gradient.{detail}".rstrip()
    )


def lost(exercise: Exercise, mine: list[Tensor], expected: list[Tensor]) -> str:
    """Name the first input whose gradient is wrong, and say whether it is missing, nan or wrong."""
    case = exercise.inputs()[0]
    names = [
        name
        for name, x in zip(argument_names(exercise), case.inputs, strict=False)
        if isinstance(x, Tensor) and x.is_floating_point()
    ]
    for name, a, b in zip(names, mine, expected, strict=True):
        if difference(a, b, 1e-6):
            if not a.any():
                return f"No gradient reaches `{name}`."
            if a.isnan().any() and not b.isnan().any():
                return (
                    f"The gradient with respect to `{name}` holds nan: `torch.where` sends "
                    "gradients into both of its branches, also into the one that was not taken."
                )
            return f"The gradient with respect to `{name}` is wrong."
    return ""


INVARIANTS: tuple[Callable[[Exercise, Any], str], ...] = (
    check_no_mutation,
    check_no_memory,
    check_float32,
    check_gradients,
)


def trouble(mine: list[Any], expected: list[Any], tolerance: float) -> str:
    """Describe the first pair of outcomes that differ; "" if none do."""
    for a, b in zip(mine, expected, strict=True):
        if isinstance(a, Failure) or isinstance(b, Failure):
            problem = "" if a == b else getattr(a, "sentence", "it gives a result")
        else:
            problem = difference(a, b, tolerance)
        if problem:
            return problem
    return ""


def gradients(
    exercise: Exercise, answer: Any, case: Case, through: Sequence[bool] | None = None
) -> Any:
    """The gradients of a fixed random combination of all results.

    Args:
        exercise: The exercise.
        answer: The answer or the solution.
        case: Its inputs.
        through: For each floating-point input, whether a gradient is expected; None for all. The
            others, such as a lookup table of times, need none, and code may treat them as numbers.

    Returns:
        One gradient for each floating-point input, or a Failure.
    """
    inputs = [x.clone() if isinstance(x, Tensor) else x for x in case.inputs]
    by = [x for x in inputs if isinstance(x, Tensor) and x.is_floating_point()]
    for x, needed in zip(by, through or [True] * len(by), strict=True):
        x.requires_grad_(needed)
    result = run(exercise, answer, Case(tuple(inputs), case.build))
    if isinstance(result, Failure):
        return result
    parts = [x for x in tree_leaves(result) if x.requires_grad]
    if not by or not parts:
        return Failure("No gradient reaches the inputs.")
    rng = torch.Generator().manual_seed(0)
    total = torch.stack(
        [(x * torch.randn(x.shape, generator=rng, dtype=x.dtype)).sum() for x in parts]
    ).sum()
    asked = [x for x in by if x.requires_grad]
    try:
        found = dict(
            zip(map(id, asked), torch.autograd.grad(total, asked, allow_unused=True), strict=True)
        )
    except RuntimeError as error:  # also a tensor that was overwritten after it was used
        return Failure("The backward pass through your code stops with an error.", str(error))
    return [torch.zeros_like(x) if found.get(id(x)) is None else found[id(x)] for x in by]
