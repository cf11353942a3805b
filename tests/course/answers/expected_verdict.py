"""What `check` must say to an answer, beyond that it is wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ExpectedVerdict:
    """A wrong answer and what its verdict must be.

    Attributes:
        number: The exercise, such as "01.3".
        answer: The wrong answer.
        mistake: The name of the known mistake that must be recognised; None if it is none of them.
        says: Words that the verdict must contain.
        omits: Words that the verdict must not contain, because they would not be true.
    """

    number: str
    answer: Callable[..., Any]
    mistake: str | None = None
    says: tuple[str, ...] = ()
    omits: tuple[str, ...] = ()
