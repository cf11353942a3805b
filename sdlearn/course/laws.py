"""What an answer with the right numbers can still do wrong: the same laws for every exercise."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sdlearn.course.comparing import difference, leaves
from sdlearn.course.exercise import Case, Exercise
from sdlearn.course.running import Failure, argument_names, results, run


def leaves_its_inputs_alone(exercise: Exercise, answer: Any) -> str:
    """A sentence where the answer changes what it was given, else ""; so do all below."""
    for used, fresh in zip(exercise.inputs(), exercise.inputs(), strict=True):
        run(exercise, answer, used)
        for name, x, as_it_was in zip(
            argument_names(exercise), used.inputs, fresh.inputs, strict=False
        ):
            if leaves(x) and difference(x, as_it_was, 0.0):
                return (
                    f"The result is right, but your code changes `{name}` in place, which the "
                    "caller may still need. Make a new tensor instead: no `+=`, no `x[...] = `, "
                    "no method whose name ends in an underscore, on what you were given."
                )
    return ""


def remembers_nothing(exercise: Exercise, answer: Any) -> str:
    again, expected = results(exercise, answer), results(exercise, exercise.solution)
    if trouble(again, expected, exercise.tolerance):
        return (
            "The result is right at first and another one later, for the same input: your code "
            "keeps something from one call to the next."
        )
    return ""


def works_in_float32(exercise: Exercise, answer: Any) -> str:
    mine, expected = (
        results(exercise, code, torch.float32) for code in (answer, exercise.solution)
    )
    said = trouble(mine, expected, max(1e-3, exercise.tolerance)).rstrip(".")
    if not said:
        return ""
    if "differs at" in said:
        why = "Somewhere a number becomes too large or too small for float32, and digits are lost"
    else:
        why = "Make new tensors like the old ones: `x.new_zeros(...)`, `torch.zeros_like(x)`"
    return f"The result is right for inputs in float64, but not in float32: {said}. {why}."


def lets_gradients_through(exercise: Exercise, answer: Any) -> str:
    if not exercise.trained:
        return ""
    mine, expected = (
        gradients(exercise, code, exercise.inputs()[0]) for code in (answer, exercise.solution)
    )
    if not trouble([mine], [expected], 1e-6):
        return ""
    said = f" {mine.sentence}" if isinstance(mine, Failure) else ""
    return (
        "The result is right, but its gradients are not, so a network could not be trained through "
        "it. `.item()`, `.detach()`, `.data`, `float(...)`, `torch.tensor(...)`, numpy and "
        f"`no_grad` all cut the way back.{said}"
    )


LAWS: tuple[Callable[[Exercise, Any], str], ...] = (
    leaves_its_inputs_alone,
    remembers_nothing,
    works_in_float32,
    lets_gradients_through,
)


def trouble(mine: list[Any], expected: list[Any], tolerance: float) -> str:
    """How the first outcomes differ that do."""
    for a, b in zip(mine, expected, strict=True):
        if isinstance(a, Failure) or isinstance(b, Failure):
            said = "" if a == b else getattr(a, "sentence", "it gives a result")
        else:
            said = difference(a, b, tolerance)
        if said:
            return said
    return ""


def gradients(exercise: Exercise, answer: Any, case: Case) -> Any:
    """Of a fixed random combination of all results, by every floating input of a case."""
    inputs = [
        x.clone().requires_grad_() if isinstance(x, Tensor) and x.is_floating_point() else x
        for x in case.inputs
    ]
    by = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    result = run(exercise, answer, Case(tuple(inputs), case.build))
    if isinstance(result, Failure):
        return result
    parts = [x for x in leaves(result) if x.requires_grad]
    if not by or not parts:
        return Failure("No gradient reaches the inputs.")
    rng = torch.Generator().manual_seed(0)
    total = torch.stack(
        [(x * torch.randn(x.shape, generator=rng, dtype=x.dtype)).sum() for x in parts]
    ).sum()
    return [
        torch.zeros_like(x) if g is None else g
        for x, g in zip(by, torch.autograd.grad(total, by, allow_unused=True), strict=True)
    ]
