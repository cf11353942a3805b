"""What every recipe holds; each trained part adds its own numbers in its own file."""

import ast
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

MAY_BE_ZERO = ("warmup", "seed", "head_start", "shift")
MAX_BYTES = 15 * 2**20  # of one exported file; a larger one is written in shards


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the outcome of a training, so that a run can be repeated.

    steps is also the horizon of the learning rate: a linear warm-up to lr over `warmup` steps, then
    a cosine down to one hundredth of it. data: a folder of captioned pictures, "" for the storybook
    (its first `scenes` training scenes). init: weights to start from, "" for random ones. compile:
    have torch.compile write the autoencoder's or the U-Net's code for this machine, which costs
    minutes before the first step and a C++ compiler, and makes the others a good deal faster.
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
    compile: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            if name == "lr" or name in MAY_BE_ZERO:
                if value < 0:
                    raise ValueError(f"{name} is {value}; accepted: 0 or more")
            elif type(value) is int and value < 1:
                raise ValueError(f"{name} is {value}; accepted: 1 or more")
            elif isinstance(value, tuple) and not all(type(x) is int and x > 0 for x in value):
                raise ValueError(f"{name} is {value}; accepted: whole numbers from 1")
        if self.size % 8:
            raise ValueError(f"size is {self.size}; accepted: a multiple of 8 pixels")
        if self.seed >= 2**63:
            raise ValueError(f"seed is {self.seed}; accepted: less than 2 to the power of 63")


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
