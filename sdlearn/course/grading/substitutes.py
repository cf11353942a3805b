"""Finding other arguments for which the solution gives the results of a wrong answer.

An answer that wrongly squares an argument, or exchanges two, gives what the solution gives for the
square or for the exchanged arguments. Finding this out takes no knowledge of the exercise.
"""

import math
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlearn.course.grading.compare import difference, without_numbers
from sdlearn.course.grading.sandbox import Failure
from sdlearn.course.grading.trials import STUMBLES, Trial, kind


def other_arguments(trial: Trial) -> str:
    """Report other arguments for which the solution gives the answer's results; "" if none do."""
    if any(isinstance(x, Failure) or without_numbers(x) for x in trial.mine):
        return ""
    for words, change in changes(trial):
        if all(gives(trial, k, change) for k in trial.order):
            return f"Right code gives exactly your numbers {words}."
    return ""


def gives(trial: Trial, k: int, change: Callable[[list[Any]], list[Any]]) -> bool:
    """Whether the solution, for the changed inputs of case k, gives the answer's result."""
    try:
        inputs = change(list(trial.unchanged[k].inputs))
    except STUMBLES:
        return False
    result = trial.solve(k, inputs)
    if isinstance(result, Failure):
        return False
    return not difference(result, trial.mine[k], max(trial.exercise.tolerance, 1e-9))


Change = tuple[str, Callable[[list[Any]], list[Any]]]


def changes(trial: Trial) -> Iterator[Change]:
    """Yield changes to the arguments, each with its description."""
    samples = [case.inputs for case in trial.unchanged]
    columns = list(zip(*samples, strict=False))
    kinds = [kind(column) for column in columns]
    names = [f"`{name}`" for name in trial.names]
    for i, j in combinations(range(len(columns)), 2):
        if kinds[i] == kinds[j] != "other" and exchangeable(columns[i], columns[j]):
            yield f"when {names[i]} and {names[j]} are exchanged", exchange(i, j)
    alike: dict[str, list[int]] = {}
    for i, one in enumerate(kinds):
        alike.setdefault(one, []).append(i)
        for words, change in edits(one):
            yield f"when it is given {words.format(names[i])} for {names[i]}", edited([i], change)
    if trial.exercise.kind == "class":
        return
    for one, together in alike.items():
        groups = [*combinations(together, 2), *[tuple(together)] * (len(together) > 2)]
        for group in groups if len(together) < 5 else [tuple(together)]:
            several = " and ".join(names[i] for i in group)
            for words, change in edits(one):
                yield (
                    f"when {several} are both replaced: {words.format('x')} for x",
                    edited(list(group), change),
                )


def exchange(i: int, j: int) -> Callable[[list[Any]], list[Any]]:
    """A change that exchanges arguments i and j."""

    def change(inputs: list[Any]) -> list[Any]:
        inputs[i], inputs[j] = inputs[j], inputs[i]
        return inputs

    return change


def edited(positions: list[int], one: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    """A change that applies `one` to the arguments at these positions."""
    return lambda inputs: [one(x) if i in positions else x for i, x in enumerate(inputs)]


def exchangeable(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    """Whether two arguments can be exchanged: tensors must have one shape in every case."""
    if not isinstance(first[0], Tensor):
        return True
    return all(a.shape == b.shape for a, b in zip(first, second, strict=True))


def edits(one: str) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """Yield replacements for an argument of this kind, with their descriptions."""
    if one in ("tensor", "number"):
        yield "the square of {}", lambda x: x**2
        yield "the root of {}", lambda x: real(x**0.5)
        yield "1 - {}", lambda x: 1 - x
        yield "the root of 1 - {}", lambda x: real((1 - x) ** 0.5)
        yield "-{}", lambda x: -x
        yield "1 / {}", lambda x: 1 / x
        yield "2 · {}", lambda x: 2 * x
        yield "half of {}", lambda x: x / 2
        yield (
            "the exponential of {}",
            lambda x: torch.as_tensor(x).exp() if is_tensor(x) else math.exp(x),
        )
        yield "the logarithm of {}", lambda x: x.log() if is_tensor(x) else math.log(x)
        yield "nothing but zeros", lambda x: 0 * x
        yield "nothing but ones", lambda x: 0 * x + 1
    if one == "tensor":
        yield "the first example of {} for all", lambda x: x[:1].expand_as(x)
        yield "the last example of {} for all", lambda x: x[-1:].expand_as(x)
        yield (
            "the mean over the batch of {} for all",
            lambda x: x.mean(0, keepdim=True).expand_as(x),
        )
        yield "the examples of {} in reverse order", lambda x: x.flip(0)
        yield "the transpose (last two axes) of {}", lambda x: x.transpose(-2, -1)
        yield "{} normalised along its last axis", lambda x: F.normalize(x, dim=-1)
        yield "the softmax along the last axis of {}", lambda x: x.softmax(-1)
        yield "{} less its mean", lambda x: x - x.mean()
        yield "the absolute value of {}", abs
        yield "{} divided by the root of its last length", lambda x: x / x.shape[-1] ** 0.5
        yield "{} times the root of its last length", lambda x: x * x.shape[-1] ** 0.5
        yield "{}, limited to -1 to 1,", lambda x: x.clamp(-1, 1)
        yield "{}, reversed along its last axis,", lambda x: x.flip(-1)
        yield "{}, shifted by one to the right,", lambda x: torch.cat([x[:1], x[:-1]])
        yield "{}, shifted by one to the left,", lambda x: torch.cat([x[1:], x[-1:]])
    if one == "number":
        yield "{} - 1", lambda x: x - 1
        yield "{} + 1", lambda x: x + 1
        yield "{} in radians", math.radians
        yield "{} in degrees", math.degrees
        yield "{} cut to a whole number", lambda x: float(int(x))
    if one in ("whole", "index"):
        yield "{} - 1", lambda x: x - 1
        yield "{} + 1", lambda x: x + 1
        yield "{} + 2", lambda x: x + 2
        yield "{} - 2", lambda x: x - 2
        yield "2 · {}", lambda x: 2 * x
        yield "{} // 2", lambda x: x // 2
        yield "the square of {}", lambda x: x**2
        yield "always 0", lambda x: 0 * x
        yield "always 1", lambda x: 0 * x + 1
    if one == "index":
        yield "the first entry of {} for all", lambda x: x[:1].expand_as(x)
        yield "the last entry of {} for all", lambda x: x[-1:].expand_as(x)
        yield "the largest entry of {} for all", lambda x: x.max().expand_as(x)
        yield "{} in reverse order", lambda x: x.flip(0)
    if one == "mask":
        yield "the opposite of {}", torch.logical_not
        yield "the first example of {} for all", lambda x: x[:1].expand_as(x)
    if one == "point":
        yield (
            "{} with alpha and sigma exchanged",
            lambda p: p._replace(alpha=p.sigma, sigma=p.alpha),
        )
        yield "{} with the square of its alpha", lambda p: p._replace(alpha=p.alpha**2)
        yield "{} with the square of its sigma", lambda p: p._replace(sigma=p.sigma**2)
        yield (
            "{} with the squares of its alpha and its sigma",
            lambda p: p._replace(alpha=p.alpha**2, sigma=p.sigma**2),
        )
    if one == "numbers":
        yield "1 - x for every x in {}", lambda row: type(row)(1 - x for x in row)
        yield "the square of every x in {}", lambda row: type(row)(x**2 for x in row)
        yield "the root of every x in {}", lambda row: type(row)(real(x**0.5) for x in row)
        yield "-x for every x in {}", lambda row: type(row)(-x for x in row)
        yield "x - 1 for every x in {}", lambda row: type(row)(x - 1 for x in row)
        yield "x + 1 for every x in {}", lambda row: type(row)(x + 1 for x in row)
        yield "the first entry of {} for all", lambda row: type(row)(row[0] for _ in row)
        yield "the last entry of {} for all", lambda row: type(row)(row[-1] for _ in row)
        yield "the largest entry of {} for all", lambda row: type(row)(max(row) for _ in row)
        yield "only ones", lambda row: type(row)(0 * x + 1 for x in row)
        yield "the mean of {} for all", lambda row: type(row)(sum(row) / len(row) for _ in row)
        yield "{} sorted", lambda row: type(row)(sorted(row))
    if one in ("numbers", "pairs", "list"):
        yield "{} in reverse order", lambda row: row[::-1]
        yield "{} without its first entry", lambda row: row[1:]
        yield "{} without its last entry", lambda row: row[:-1]
    if one == "pairs":
        yield "{} with every pair turned round", lambda row: [pair[::-1] for pair in row]
        yield "the first pair of {} for all", lambda row: [row[0]] * len(row)


def is_tensor(x: Any) -> bool:
    """Whether x is a tensor."""
    return isinstance(x, Tensor)


def real(x: Any) -> Any:
    """Return x unchanged.

    Raises:
        ValueError: If x is complex or nan, as the root of a negative number is.
    """
    if isinstance(x, complex) or (isinstance(x, Tensor) and x.isnan().any()):
        raise ValueError("no real number")
    return x
