"""What every recipe holds; each trained part adds its own numbers in its own file."""

import ast
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

MAX_BYTES = 15 * 2**20  # of one exported file; a larger one is written in shards


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the outcome of a training, so that a run can be repeated.

    steps is also the horizon of the learning rate: a linear warm-up to lr over `warmup` steps, then
    a cosine down to one hundredth of it. data: a folder of captioned pictures, "" for the storybook
    (its first `scenes` training scenes). init: weights to start from, "" for random ones.
    """

    steps: int
    batch: int
    lr: float
    warmup: int
    seed: int = 0
    scenes: int = 100_000
    size: int = 64
    data: str = ""
    init: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "scenes", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: 1 or more")
        for name in ("lr", "warmup", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: 0 or more")


R = TypeVar("R", bound=Recipe)


def override(recipe: R, settings: dict[str, object]) -> R:
    """The recipe with some settings changed.

    A value may be text, as from the command line. Raises ValueError for a setting that this recipe
    does not have or a value of the wrong type.
    """
    known = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    changed: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in known:
            raise ValueError(
                f"this training has no setting {name!r}; accepted: {', '.join(sorted(known))}"
            )
        changed[name] = _as_type_of(known[name], name, value)
    return replace(recipe, **changed)


def _as_type_of(example: object, name: str, value: object) -> object:
    """`value` in the type of the setting's present value: int, float, bool, str or a tuple."""
    if isinstance(example, str):
        return str(value)
    if isinstance(value, str):
        with suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
    if isinstance(value, list):  # what JSON makes of a tuple
        value = tuple(value)
    if isinstance(example, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(example):
        wanted = type(example).__name__
        raise ValueError(f"{name} is {value!r}; accepted: a value of type {wanted}")
    return value
