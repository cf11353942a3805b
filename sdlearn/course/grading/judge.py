"""How an answer is judged: by its numbers, on fresh inputs, beside the solution's.

`judge` runs the answer and the solution on the same inputs. Where they differ, it runs every
known mistake on these inputs, too: the one whose results are the answer's speaks its sentence.
Where they agree, it looks for what such a comparison does not show (`invariants`).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sdlearn.course.grading.clues import clues
from sdlearn.course.grading.compare import difference, tree_leaves
from sdlearn.course.grading.exercise import Case, Exercise
from sdlearn.course.grading.invariants import INVARIANTS
from sdlearn.course.grading.sandbox import (
    Failure,
    argument_names,
    is_blank,
    results,
    run,
    wrong_kind,
)
from sdlearn.course.grading.trials import Trial


class Finding(NamedTuple):
    """status: "right", "not yet" or "not attempted"; mistake: the name of the one recognised."""

    status: str
    sentence: str
    mistake: str | None = None


def judge(exercise: Exercise, answer: Any) -> Finding:
    """Judge an answer; nothing that its code does makes this raise."""
    if is_blank(answer):
        return Finding(
            "not attempted", "Write your answer where the `...` stands and run both cells."
        )
    trouble = wrong_kind(exercise, answer)
    if trouble:
        return Finding("not yet", trouble)
    mine, expected = results(exercise, answer), results(exercise, exercise.solution)
    for result in mine:
        if isinstance(result, Failure) and result.blank:
            return Finding("not attempted", result.sentence)
    apart = [differ(a, b, exercise.tolerance) for a, b in zip(mine, expected, strict=True)]
    if any(apart):
        mistaken = []
        for mistake in exercise.mistakes:
            mistaken.append(results(exercise, mistake.answer))
            if matches(mine, mistaken[-1], exercise.tolerance):
                return Finding("not yet", mistake.sentence, mistake.name)
        wrong = [bool(said) for said in apart]
        trial = Trial(exercise, answer, mine, expected, wrong, mistaken)
        return Finding("not yet", unforeseen(trial, apart))
    if exercise.kind == "value":
        return Finding("right", "This is the number.")
    for law in INVARIANTS:
        trouble = law(exercise, answer)
        if trouble:
            return Finding("not yet", trouble)
    return Finding("right", f"Your results are the solution's on {len(mine)} fresh inputs.")


def differ(mine: Any, expected: Any, tolerance: float) -> str:
    """How two outcomes differ; "" where they do not, as when both stop with the same words."""
    if not isinstance(mine, Failure) and not isinstance(expected, Failure):
        return difference(mine, expected, tolerance)
    words = [getattr(x, "raised", "") or getattr(x, "sentence", "") for x in (mine, expected)]
    return "" if words[0] == words[1] else words[0] or "it gives a result"


def matches(mine: list[Any], mistaken: list[Any], tolerance: float) -> bool:
    """Whether the answer makes this mistake: the same outcome everywhere, and not only exceptions,
    since very different code can stop with the same words."""
    raised = [isinstance(result, Failure) and bool(result.raised) for result in mistaken]
    pairs = zip(mine, mistaken, strict=True)
    return not all(raised) and not any(differ(a, b, tolerance) for a, b in pairs)


def unforeseen(trial: Trial, apart: list[str]) -> str:
    """What can be said of a wrong answer that is none of the known mistakes."""
    k, exercise = trial.first, trial.exercise
    result, sizes = trial.mine[k], sizes_of(exercise, exercise.inputs()[k])
    told = " ".join(
        clue
        for clue in clues(trial)
        if clue.replace("Everywhere your result", "everywhere it").rstrip(".") not in apart[k]
    )
    if isinstance(result, Failure):
        said = f"{result.sentence} {told}".rstrip()
        return f"{said} {sizes}".rstrip() if result.raised else said
    idle = "" if told else ignored(trial)
    return " ".join(filter(None, (f"{apart[k][0].upper()}{apart[k][1:]}.", told, idle, sizes)))


def sizes_of(exercise: Exercise, case: Case) -> str:
    """(This was with q (2, 5, 8), heads = 4.)"""
    names = argument_names(exercise) if exercise.kind != "value" else []
    words = [described(name, value) for name, value in zip(names, case.inputs, strict=False)]
    built = f"{exercise.name}({', '.join(map(str, case.build))}), " * bool(case.build)
    return f"(This was with {built}{', '.join(words)}.)" if words else ""


def described(name: str, value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{name} {tuple(value.shape)}" if value.dim() else f"{name} = {value.item():g}"
    plain = isinstance(value, (int, float, str, tuple, list)) and not tree_leaves(value)
    return f"{name} = {value!r}" if plain else name


def ignored(trial: Trial) -> str:
    """Of the first tensor argument that moves the solution but not the answer, on these inputs."""
    exercise = trial.exercise
    names = argument_names(exercise) if exercise.kind != "value" else []
    pairs = list(zip(exercise.inputs(0), exercise.inputs(1), strict=False))
    for k, name in enumerate(names):
        swaps = [
            (here, Case((*here.inputs[:k], other.inputs[k], *here.inputs[k + 1 :]), here.build))
            for here, other in pairs
            if k < len(here.inputs) and replaceable(here.inputs[k], other.inputs[k])
        ]
        moved = [
            any(differ(run(exercise, code, a), run(exercise, code, b), 1e-12) for a, b in swaps)
            for code in (exercise.solution, trial.answer)
        ]
        if moved == [True, False]:
            return (
                f"On these inputs it stays the same whatever the numbers in `{name}` are: what you "
                "do with them has no effect here."
            )
    return ""


def replaceable(here: Any, other: Any) -> bool:
    both = isinstance(here, Tensor) and isinstance(other, Tensor)
    return both and here.shape == other.shape and not torch.equal(here, other)
