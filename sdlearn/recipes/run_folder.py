"""What the folder of a run says about its start, and whether the run can be resumed."""

import platform
import reprlib
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from sdlearn.distributed import is_first_process, process_count, process_rank
from sdlearn.recipes.recipe import Recipe, override
from sdlearn.training import TrainingJob
from sdlearn.utils.atomic_files import read_json, write_json
from sdlearn.utils.checkpoint import checkpoints
from sdlearn.utils.file_kinds import AGAIN
from sdlearn.utils.part_files import PART
from sdlearn.utils.resources import package_version
from sdlearn.utils.run_lock import LOCK

R = TypeVar("R", bound=Recipe)
RECIPE = "recipe.json"
# What file managers, version control, Jupyter and a disk's format put into an empty folder.
OTHERS = {
    ".DS_Store", "desktop.ini", "Thumbs.db", ".directory", ".gitkeep", ".gitignore",
    ".ipynb_checkpoints", "lost+found",
}  # fmt: skip
PLACES = {
    "data": "images",
    "vae": "vae",
    "text": "text",
    "model": "model",
    "tokenizer": "model",
}  # setting -> its hash in "frozen"
# Settings that change the rounding alone.
REARRANGED = {"accumulate", "activation_checkpointing", "shard"}
ALWAYS = {"steps", "batch", "lr", "warmup", "seed", "scenes", "size"}  # in every recipe.json


def started_recipe(folder: Path, part: str, recipes: Mapping[str, R]) -> tuple[str, R] | None:
    """Return the recipe that a run was started with, and its name.

    Args:
        folder: The run's folder; it may be missing.
        part: The part that is to be trained.
        recipes: The part's named recipes.

    Returns:
        Name and recipe; None if the folder is missing, or if a run died in it before it wrote its
        recipe.

    Raises:
        ValueError: If recipe.json is damaged or missing or of a newer version, or if the folder
            holds something else.
    """
    path = folder / RECIPE
    if not path.exists():
        check_unused(folder)
        return None
    advice = f"restore the file, or start a new run in another folder with --init {folder}"
    try:
        record = read_json(path)
        name, settings = record.get("recipe"), record.get("settings")
        if not (isinstance(settings, dict) and settings.keys() >= ALWAYS):
            raise ValueError(f"{path} lacks the settings of a run")
        if record.get("part") != part:
            found = record.get("part")
            raise WrongPart(f"{folder} trains {short(found)}, not {part}")
        if not isinstance(name, str):
            raise ValueError(f"{path} names the recipe {reprlib.repr(name)}")
        check_known(path, "recipe", [name], recipes)
        check_known(path, "setting", settings, vars(recipes[name]))
        return name, override(recipes[name], settings)
    except (WrongPart, NewerRun):
        raise
    except ValueError as error:
        reason = str(error).removesuffix(f"; {AGAIN}")
        raise ValueError(f"{path} is damaged: {reason}; {advice}") from error


class WrongPart(ValueError):
    """The run trains another part."""


class NewerRun(ValueError):
    """The run was started by a version that has more recipes or settings than this one."""


def check_known(path: Path, what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Check that this version has the recipe or the settings that a recipe.json names.

    Raises:
        NewerRun: If it does not have one of them.
    """
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise NewerRun(
            f"{path} has the {what} {reprlib.repr(unknown[0])}, which this version of sdlearn "
            f"({package_version()}) does not know; resume the run with the version that started "
            f"it, or start a new run in another folder with --init {path.parent}"
        )


def short(value: object) -> str:
    """Return a part's name without quotes, or a bounded representation of anything else."""
    return value if isinstance(value, str) and len(value) < 20 else reprlib.repr(value)


def check_unused(folder: Path) -> None:
    """Check that a folder is missing or empty, apart from what a run that died at once leaves.

    Raises:
        ValueError: If it is a file, or holds anything else.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file, not a folder; accepted: a new or empty folder")
    names = {path.name for path in folder.iterdir()} - OTHERS
    if RECIPE not in names and names & {"checkpoints", "metrics.jsonl", "export"}:
        raise ValueError(
            f"{folder} is not empty: it holds a run whose recipe.json is missing; restore the "
            f"file, or start a new run in another folder with --init {folder}"
        )
    if any(name != LOCK and not name.endswith(PART) for name in names):
        raise ValueError(
            f"{folder} is not empty; accepted: a new or empty folder, or a run with --resume"
        )


def may_move(folder: Path) -> set[str]:
    """Return the settings of a run that may differ when it is resumed.

    These are the folders whose contents recipe.json identifies, so `begin` notices others, and the
    settings that only arrange the same arithmetic in another way.
    """
    frozen = read_json(folder / RECIPE).get("frozen", {})
    kept = frozen if isinstance(frozen, dict) else {}
    return REARRANGED | {setting for setting, content in PLACES.items() if content in kept}


def machine(device: torch.device) -> dict[str, str | int]:
    """Return what changes the rounding: it must be the same to repeat a run exactly."""
    found: dict[str, str | int] = {
        "torch": torch.__version__,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "processes": process_count(),
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def begin(
    folder: Path, part: str, name: str, recipe: Recipe, job: TrainingJob, device: torch.device
) -> None:
    """Write recipe.json, or check that a resumed run goes on as it began.

    Warns if the machine differs, because the last bits of the results may then differ.

    Args:
        folder: The run's folder.
        part: The part that is trained.
        name: Name of the recipe.
        recipe: The recipe.
        job: The training.
        device: Where to train.

    Raises:
        ValueError: If the weights, images or tokenizer that the run depends on have changed.
    """
    path, now = folder / RECIPE, machine(device)
    if not path.exists():
        check_shared(path)
        record: dict[str, Any] = {"part": part, "recipe": name, "settings": vars(recipe)}
        write_json(path, record | {"machine": now, "frozen": dict(job.frozen)})
        return
    record = read_json(path)
    check_frozen_parts(job, folder, record)
    before = record.get("machine")
    before = before if isinstance(before, dict) else {}
    if not checkpoints(folder):  # it starts again, on this machine
        if is_first_process():
            write_json(path, record | {"machine": now})
        return
    changes = [
        f"{name} {reprlib.repr(before[name])}, now {now[name]!r}"
        for name in now
        if name in before and kind(before[name]) != kind(now[name])
    ]
    if changes:
        warnings.warn(
            f"{folder} began with {' and '.join(changes)}; the last bits of its results may differ "
            "from those of a run that was not interrupted",
            stacklevel=2,
        )


def check_shared(path: Path) -> None:
    """Check that this process sees a file or folder that process 0 has written before.

    Raises:
        ValueError: If not.
    """
    if not is_first_process() and not path.exists():
        raise ValueError(
            f"process {process_rank()} does not find {path}, which process 0 has written; "
            "accepted: a folder that all machines share"
        )


def kind(value: object) -> object:
    """Return a device without its number, and anything else as it is."""
    return value.partition(":")[0] if isinstance(value, str) else value


def check_frozen_parts(job: TrainingJob, folder: Path, record: Mapping[str, Any]) -> None:
    """Check that what a run uses but does not train has not changed since it started.

    Raises:
        ValueError: If something has changed.
    """
    started = record.get("frozen", {})
    if not isinstance(started, dict):
        raise ValueError(f"{folder / RECIPE} is damaged: frozen is not an object; restore the file")
    changed = [name for name, now in job.frozen.items() if started.get(name, now) != now]
    if changed:
        raise ValueError(
            f"{folder} started with another version of its {' and '.join(changed)}; restore it, or "
            f"start a new run in another folder with --init {folder}"
        )
