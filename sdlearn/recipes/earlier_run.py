"""The adapter or embedding of an earlier run, to start from: `--init` of such trainings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from torch import nn

from sdlearn.recipes.initial_weights import load_initial_weights
from sdlearn.recipes.recipe import Recipe
from sdlearn.recipes.run_folder import RECIPE, started_recipe

R = TypeVar("R", bound=Recipe)


def load_earlier_run(
    recipe: R,
    part: str,
    recipes: Mapping[str, R],
    same: Sequence[str],
    network: nn.Module,
    run: Path | None,
) -> None:
    """Load the weights of another run of the same part, if the recipe names one.

    Args:
        recipe: The settings.
        part: Name of the part, and of its network in a checkpoint.
        recipes: Those of the part.
        same: The settings that must be equal, because the weights mean something else otherwise.
        network: The network to fill, in place.
        run: Folder of the run that goes on. Its checkpoint has the weights, so `init` is not read.

    Raises:
        FileNotFoundError: If init is no run, or the run has no checkpoint.
        ValueError: If it is a run of another part or with other settings.
    """
    if not recipe.init or run is not None:
        return
    place = Path(recipe.init)
    begun = started_recipe(place, part, recipes) if (place / RECIPE).is_file() else None
    if begun is None:
        raise FileNotFoundError(
            f"init is {place}, which is no run; accepted: the folder of a run of "
            f"`sdlearn train {part}`"
        )
    for name in same:
        theirs, ours = getattr(begun[1], name), getattr(recipe, name)
        if theirs != ours:
            raise ValueError(
                f"{name} is {ours!r}, but {theirs!r} in the run {place} of init; accepted: the same"
            )
    load_initial_weights(recipe.init, {part: network})
