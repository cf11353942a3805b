"""The settings that all recipes share; each trained part adds its own in its own module."""

import ast
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

MAY_BE_ZERO = ("warmup", "seed", "discriminator_warmup", "shift")
# Settings that have their own option in `sdlearn train`; the others need --set.
SHORTCUTS = ("steps", "batch", "lr", "seed", "scenes", "init", "data", "vae", "text")
MAX_BYTES = 15 * 2**20  # size of an exported file; larger weights are written in shards


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings that determine the result of a training, so that a run can be repeated.

    Attributes:
        steps: Training steps. The learning rate rises linearly to `lr` over `warmup` steps, then
            follows a cosine down to one hundredth of it at the last step.
        batch: Images in a batch.
        lr: Peak learning rate.
        warmup: Steps of the warm-up.
        seed: Of weights, batches and noise.
        scenes: Number of training scenes of the storybook.
        size: Side of the images in pixels, a multiple of 8.
        data: A folder of captioned images, or "" for the storybook.
        init: Folder of the weights to start from, or "" for random weights.
        compile: Use torch.compile for the autoencoder or the U-Net. It needs a C++ compiler and
            takes minutes before the first step. Later steps are much faster.

    Raises:
        ValueError: If a setting is out of range.
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
            raise ValueError(f"seed is {self.seed}; accepted: less than 2**63")


R = TypeVar("R", bound=Recipe)


def override(recipe: R, settings: dict[str, object]) -> R:
    """Return a recipe with some settings changed.

    Args:
        recipe: The recipe to start from.
        settings: New values by name. A value may be text, as from the command line.

    Raises:
        ValueError: If the recipe has no such setting, or a value has the wrong type or range.
    """
    known = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    changed: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in known:
            raise ValueError(
                f"the recipe has no setting {name!r}; accepted: {', '.join(sorted(known))}"
            )
        changed[name] = _as_type_of(known[name], name, value)
    return replace(recipe, **changed)


def _as_type_of(example: object, name: str, value: object) -> object:
    """Convert `value` to the type of the setting's current value: int, float, bool, str, tuple."""
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
