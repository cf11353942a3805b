"""Answers of learners, right and wrong, as cases of a test."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest


def cases(table: Mapping[str, Sequence[Any]]) -> list[Any]:
    """A case (number, answer) for each answer in a table of exercises."""
    return [
        pytest.param(number, answer, id=f"{number}-{k}")
        for number, answers in table.items()
        for k, answer in enumerate(answers)
    ]
