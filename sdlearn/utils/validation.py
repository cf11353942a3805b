"""Check numbers, strings and prompts before any work.

Each function returns the value or raises a ValueError of one sentence: the argument, its value, and
what is accepted. This module imports neither torch nor transformers, so that the command line can
check its options at once.
"""

import math
from collections.abc import Sequence
from operator import index
from typing import SupportsFloat, SupportsIndex


def check_int(name: str, value: object) -> int:
    """The value as an int, if it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):  # accepts NumPy's integers
        raise ValueError(f"{name} is {value!r}; it must be a whole number")
    return index(value)


def check_positive_int(name: str, value: object) -> int:
    """The value, if it is a whole number of at least 1."""
    if check_int(name, value) < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")
    return check_int(name, value)


def check_text(name: str, value: object) -> str:
    """The value, if it is a string."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}; it must be a string")
    return value


def check_finite(name: str, value: object) -> float:
    """The value as a float, if it is a finite number."""
    if not (isinstance(value, SupportsFloat) and math.isfinite(value)):
        raise ValueError(f"{name} is {value!r}; it must be a finite number")
    return float(value)


def check_unit_interval(name: str, value: object) -> float:
    """The value, if it lies in 0 … 1."""
    if not 0 <= check_finite(name, value) <= 1:
        raise ValueError(f"{name} is {value!r}; it must lie in 0 … 1")
    return check_finite(name, value)


def check_interval(name: str, value: object) -> tuple[float, float] | None:
    """The value as a pair (lo, hi), if it is two finite numbers with lo <= hi, or None."""
    if value is None:
        return None
    if not (isinstance(value, tuple | list) and len(value) == 2):
        raise ValueError(f"{name} is {value!r}; it must be two numbers, (lo, hi)")
    lo, hi = (check_finite(name, end) for end in value)
    if lo > hi:
        raise ValueError(f"{name} is {value!r}; it must be (lo, hi) with lo <= hi")
    return lo, hi


def as_prompts(name: str, value: object) -> list[str]:
    """One prompt, or a list of prompts, as a list."""
    prompts = [value] if isinstance(value, str) else value
    if (
        not isinstance(prompts, list)
        or not prompts
        or not all(isinstance(prompt, str) for prompt in prompts)
    ):
        raise ValueError(f"{name} is {value!r}; it must be a string or a list of strings")
    return prompts


def repeat_prompts(prompts: list[str], n: int) -> list[str]:
    """Each prompt n times in a row."""
    return [prompt for prompt in prompts for _ in range(check_positive_int("n", n))]


def negative_prompts(
    negative: str | list[str] | None, prompts: Sequence[str], n: int
) -> list[str] | None:
    """One negative prompt for each image.

    Args:
        negative: One for all, or one for each prompt; None remains None.
        prompts: The prompts, each n times, as `repeat_prompts` returns them.
        n: Images for each prompt.

    Raises:
        ValueError: If the numbers of negative prompts and prompts differ.
    """
    if negative is None:
        return None
    if isinstance(negative, str):
        return [negative] * len(prompts)
    each = repeat_prompts(as_prompts("negative_prompt", negative), n)
    if len(each) != len(prompts):
        raise ValueError(
            f"negative_prompt has {len(each) // n} entries for {len(prompts) // n} prompts; "
            "give one for all, or one for each"
        )
    return each
