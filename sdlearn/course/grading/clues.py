"""The most telling clues about a wrong answer that is none of the known mistakes."""

from collections.abc import Callable
from contextlib import suppress

from sdlearn.course.grading.compare import difference
from sdlearn.course.grading.reruns import alone, doubled, nearly, never_used, parts, tiny, unaltered
from sdlearn.course.grading.resemblance import (
    entries,
    left_over,
    located,
    order,
    relation,
    right_where,
    weights,
)
from sdlearn.course.grading.sandbox import Failure, run
from sdlearn.course.grading.substitutes import other_arguments
from sdlearn.course.grading.trials import STUMBLES, Trial

PROBES: tuple[Callable[[Trial], str], ...] = (
    unaltered,
    never_used,
    other_arguments,
    nearly,
    parts,
    order,
    relation,
    weights,
    left_over,
    alone,
    entries,
    doubled,
    located,
    right_where,
)


def clues(trial: Trial) -> list[str]:
    """At most two sentences about a wrong answer, from the first probes that find something."""
    if trial.exercise.kind == "value":
        return []
    if trial.close:
        return list(filter(None, [tiny(trial)]))
    if drawn := random_numbers(trial):
        return [drawn]  # every other run would differ, too
    found: list[str] = []
    for probe in PROBES:
        with suppress(*STUMBLES):  # a probe that cannot handle a result finds nothing
            found += filter(None, [probe(trial)])
        if len(found) == 2:
            break
    return found


def random_numbers(trial: Trial) -> str:
    """Report an answer that draws random numbers."""
    k = trial.first
    again = run(trial.exercise, trial.answer, trial.unchanged[k], seed=1)
    if isinstance(again, Failure) or isinstance(trial.mine[k], Failure):
        return ""
    if not difference(again, trial.mine[k], 1e-9):
        return ""
    return (
        "Your code draws random numbers of its own: called twice with the same inputs, it returns "
        "different results. Use the inputs that you are given."
    )
