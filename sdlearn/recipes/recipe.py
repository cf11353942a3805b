"""The settings that all recipes share; each trained part adds its own in its own module."""

import ast
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, TypeVar

from sdlearn.recipes.ranges import (
    Place,
    Range,
    accepted,
    check_multiples,
    check_ranges,
    kind_and_range,
)
from sdlearn.utils.run_limits import MAX_STEPS

# Settings that have their own option in `sdlearn train`; the others need --set.
SHORTCUTS = (
    "steps", "batch", "lr", "seed", "scenes", "init", "data", "vae", "text", "model", "hint",
    "accumulate", "precision", "shard",
)  # fmt: skip
PRECISIONS = ("auto", "float32", "bf16", "fp16")
MAX_BYTES = 15 * 2**20  # size of an exported file; larger weights are written in shards
MAX_LETTERS = 1000  # of a value on the command line that is not a text


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
        precision: "float32"; "bf16" or "fp16" for mixed precision; "auto" for bf16 on CUDA and
            float32 elsewhere.
        compile: Use torch.compile for the autoencoder or the U-Net. It needs a C++ compiler and
            takes minutes before the first step. Later steps are much faster.

    Raises:
        ValueError: If a setting is out of range.
    """

    steps: Annotated[int, Range(1, MAX_STEPS)]
    batch: Annotated[int, Range(1, 65_536)]
    lr: Annotated[float, Range(1e-9, 1)]
    warmup: Annotated[int, Range(0, MAX_STEPS)]
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0
    scenes: Annotated[int, Range(1, 10_000_000)] = 100_000
    size: Annotated[int, Range(32, 1024)] = 64
    data: Place = ""
    init: Place = ""
    precision: Annotated[str, Range(1, 20)] = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; accepted: {', '.join(PRECISIONS)}")
        check_multiples("size", self.size, 8, "in pixels")


R = TypeVar("R", bound=Recipe)


def override(recipe: R, settings: dict[str, object]) -> R:
    """Return a recipe with some settings changed.

    Args:
        recipe: The recipe to start from.
        settings: New values by name. A value may be text, as from the command line.

    Raises:
        ValueError: If the recipe has no such setting, or a value has the wrong type or range.
    """
    kinds = {field.name: field.type for field in fields(recipe)}
    changed: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in kinds:
            raise ValueError(
                f"the recipe has no setting {reprlib.repr(name)}; accepted: "
                f"{', '.join(sorted(kinds))}"
            )
        changed[name] = _parse(kinds[name], name, value)
    return replace(recipe, **changed)


def named(recipes: Mapping[str, R], name: str, part: str) -> R:
    """Return the recipe of this name.

    Raises:
        ValueError: If the part has none.
    """
    if name not in recipes:
        known = ", ".join(recipes)
        raise ValueError(f"{part} has no recipe {reprlib.repr(name)}; accepted: {known}")
    return recipes[name]


def _parse(annotation: Any, name: str, value: object) -> object:
    """Convert the text of a value, or a list from JSON, to the type of a setting; "~" is home."""
    kind, _ = kind_and_range(annotation)
    if isinstance(value, str) and kind is not str:
        try:
            if len(value) > MAX_LETTERS:
                raise ValueError("too long")
            value = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            raise ValueError(
                f"{name} is {reprlib.repr(value)}; accepted: {accepted(annotation)}"
            ) from None
    if annotation is Place and isinstance(value, str):
        value = os.path.expanduser(value)
    if isinstance(value, list):  # what JSON makes of a tuple
        value = tuple(value)
    return float(value) if kind is float and type(value) is int else value
