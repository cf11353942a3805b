"""The most telling clues about a wrong answer that is none of the known mistakes."""

from collections.abc import Callable
from contextlib import suppress

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
    found: list[str] = []
    for probe in PROBES:
        with suppress(*STUMBLES):  # a probe that cannot handle a result finds nothing
            found += filter(None, [probe(trial)])
        if len(found) == 2:
            break
    return found
