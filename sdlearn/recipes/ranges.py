"""The range of a setting, written beside it, and the checks of recipes before any work.

A setting is annotated with its type and its `Range`:

    ema: Annotated[float, Range(0, 0.999999)] = 0.999
"""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from sdlearn.utils.validation import has_control

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Range:
    """What a setting accepts.

    Attributes:
        low: The smallest number, or the fewest characters of a text.
        high: The largest number, or the most characters of a text.
        entries: For a tuple, the fewest and the most entries; the numbers are for each of them.
    """

    low: float
    high: float
    entries: tuple[int, int] = (1, 1)


Place = Annotated[str, Range(0, 4096)]  # of a file or folder; "" for none
Channels = Annotated[tuple[int, ...], Range(1, 4096, entries=(1, 6))]  # of the levels
Decay = Annotated[float, Range(0, 0.999999)]  # of a moving average


def kind_and_range(annotation: Any) -> tuple[type | GenericAlias, Range | None]:
    """Return the type of a field's annotation, and its range, which only a bool may lack."""
    if get_origin(annotation) is not Annotated:
        return annotation, None
    kind, limits = get_args(annotation)[:2]
    return kind, limits


def accepted(annotation: Any) -> str:
    """Describe in words what a setting accepts."""
    kind, limits = kind_and_range(annotation)
    if limits is None:
        return "True or False"
    if kind is str:
        return f"a text of one line, of at most {limits.high} characters"
    numbers = f"from {limits.low} to {limits.high}"
    if kind is int:
        return f"a whole number {numbers}"
    if kind is float:
        return f"a number {numbers}"
    fewest, most = limits.entries
    count = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"{count} whole numbers in brackets, each {numbers}"


def is_accepted(annotation: Any, value: object) -> bool:
    """Return whether a value has the type and lies in the range of a setting; NaN never does."""
    kind, limits = kind_and_range(annotation)
    if limits is None or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is str:
        return isinstance(value, str) and len(value) <= limits.high and not has_control(value)
    if kind is int:
        return isinstance(value, int) and limits.low <= value <= limits.high
    if kind is float:
        return isinstance(value, int | float) and limits.low <= value <= limits.high
    if not isinstance(value, tuple):
        return False
    fewest, most = limits.entries
    each = Annotated[int, limits]
    return fewest <= len(value) <= most and all(is_accepted(each, entry) for entry in value)


def check_ranges(recipe: "DataclassInstance") -> None:
    """Check all settings of a recipe.

    Raises:
        ValueError: If one has another type, or lies outside its range.
    """
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if not is_accepted(field.type, value):
            raise ValueError(
                f"{field.name} is {reprlib.repr(value)}; accepted: {accepted(field.type)}"
            )


def check_multiples(name: str, values: int | Sequence[int], of: int, why: str) -> None:
    """Check that one number, or each of several, is a multiple of another.

    Raises:
        ValueError: If it is not.
    """
    for value in (values,) if isinstance(values, int) else values:
        if value % of:
            raise ValueError(
                f"{name} is {reprlib.repr(values)}; accepted: multiples of {of}, {why}"
            )


def check_levels(recipe: object, *names: str) -> None:
    """Check that tuples have as many entries as `block_out_channels`, one for each level.

    Raises:
        ValueError: If one has not.
    """
    channels: tuple[int, ...] = recipe.block_out_channels  # type: ignore[attr-defined]
    for name in names:
        if len(getattr(recipe, name)) != len(channels):
            raise ValueError(
                f"{name} is {getattr(recipe, name)}; accepted: one number for each of the "
                f"{len(channels)} levels of block_out_channels, which is {channels}"
            )


def check_size(size: int, levels: int) -> None:
    """Check that images can be halved between the levels of a network.

    Raises:
        ValueError: If the size is no multiple of 2 to the power of levels - 1.
    """
    check_multiples("size", size, 2 ** (levels - 1), f"halved between {levels} levels")
