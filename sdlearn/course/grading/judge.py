"""Judging an answer by comparing its results with the solution's on fresh inputs.

`judge` runs the answer and the solution on the same inputs. If they differ, it runs every known
mistake on these inputs too, and reports the one whose results equal the answer's. If they agree,
it checks what such a comparison does not show (`invariants`).
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
    """The verdict on an answer.

    Attributes:
        status: "right", "not yet" or "not attempted".
        sentence: What the learner reads.
        mistake: Name of the known mistake that was recognised, if any.
    """

    status: str
    sentence: str
    mistake: str | None = None


def judge(exercise: Exercise, answer: Any) -> Finding:
    """Judge an answer. An exception in its code becomes a finding and is not raised."""
    if is_blank(answer):
        return Finding(
            "not attempted", "Write your answer in place of the `...` and run both cells."
        )
    trouble = wrong_kind(exercise, answer)
    if trouble:
        return Finding("not yet", trouble)
    mine, expected = results(exercise, answer), results(exercise, exercise.solution)
    for result in mine:
        if isinstance(result, Failure) and result.blank:
            return Finding("not attempted", result.sentence)
    differences = [differ(a, b, exercise.tolerance) for a, b in zip(mine, expected, strict=True)]
    if any(differences):
        mistaken = []
        for mistake in exercise.mistakes:
            mistaken.append(results(exercise, mistake.answer))
            if matches(mine, mistaken[-1], exercise.tolerance):
                return Finding("not yet", mistake.sentence, mistake.name)
        wrong = [bool(text) for text in differences]
        trial = Trial(exercise, answer, mine, expected, wrong, mistaken)
        return Finding("not yet", unforeseen(trial, differences))
    if exercise.kind == "value":
        return Finding("right", "This is the number.")
    for invariant in INVARIANTS:
        trouble = invariant(exercise, answer)
        if trouble:
            return Finding("not yet", trouble)
    return Finding("right", f"Your results are the solution's on {len(mine)} fresh inputs.")


def differ(mine: Any, expected: Any, tolerance: float) -> str:
    """Describe how two outcomes differ; "" if they agree or both raise the same exception."""
    if not isinstance(mine, Failure) and not isinstance(expected, Failure):
        return difference(mine, expected, tolerance)
    words = [getattr(x, "raised", "") or getattr(x, "sentence", "") for x in (mine, expected)]
    return "" if words[0] == words[1] else words[0] or "it gives a result"


def matches(mine: list[Any], mistaken: list[Any], tolerance: float) -> bool:
    """Whether an answer has the same outcome as a known mistake in every case.

    Exceptions in all cases do not count, since very different code can raise the same one.
    """
    raised = [isinstance(result, Failure) and bool(result.raised) for result in mistaken]
    pairs = zip(mine, mistaken, strict=True)
    return not all(raised) and not any(differ(a, b, tolerance) for a, b in pairs)


def unforeseen(trial: Trial, differences: list[str]) -> str:
    """Describe a wrong answer that is none of the known mistakes.

    Args:
        trial: The answer's results and the solution's.
        differences: How they differ in each case, as `differ` says it.
    """
    k, exercise = trial.first, trial.exercise
    result, sizes = trial.mine[k], sizes_of(exercise, exercise.inputs()[k])
    clue_text = " ".join(
        clue
        for clue in clues(trial)
        if clue.replace("Everywhere your result", "everywhere it").rstrip(".") not in differences[k]
    )
    if isinstance(result, Failure):
        sentence = f"{result.sentence} {clue_text}".rstrip()
        return f"{sentence} {sizes}".rstrip() if result.raised else sentence
    unused = "" if clue_text else ignored(trial)
    first = f"{differences[k][0].upper()}{differences[k][1:]}."
    return " ".join(filter(None, (first, clue_text, unused, sizes)))


def sizes_of(exercise: Exercise, case: Case) -> str:
    """Name the inputs of a case, as in "(This was with q (2, 5, 8), heads = 4.)"."""
    names = argument_names(exercise) if exercise.kind != "value" else []
    words = [described(name, value) for name, value in zip(names, case.inputs, strict=False)]
    built = f"{exercise.name}({', '.join(map(str, case.build))}), " * bool(case.build)
    return f"(This was with {built}{', '.join(words)}.)" if words else ""


def described(name: str, value: Any) -> str:
    """An argument with its shape or its value, or only its name if the value is long."""
    if isinstance(value, Tensor):
        return f"{name} {tuple(value.shape)}" if value.dim() else f"{name} = {value.item():g}"
    plain = isinstance(value, (int, float, str, tuple, list)) and not tree_leaves(value)
    return f"{name} = {value!r}" if plain else name


def ignored(trial: Trial) -> str:
    """Name the first tensor argument that affects the solution's result but not the answer's."""
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
    """Whether both are tensors of one shape with different values."""
    both = isinstance(here, Tensor) and isinstance(other, Tensor)
    return both and here.shape == other.shape and not torch.equal(here, other)
