"""Checkpoints that are complete or absent, even after a power failure.

A checkpoint is a folder `step-00001000` with one safetensors file per network, the state of the
optimizers, and checksums of these files. It is written under a temporary name, flushed to the disk
and then renamed, which is atomic. The last two checkpoints are kept.
"""

import hashlib
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sdlearn.utils.atomic_files import read_json, sync_folder, sync_tree, write_json
from sdlearn.utils.checkpoint_states import (
    UNREADABLE,
    Networks,
    Optimizers,
    contiguous,
    load_network,
    load_optimizer,
    states_of,
)
from sdlearn.utils.part_files import remove_leftovers, temporary_name
from sdlearn.utils.sharded_tensors import gathered
from sdlearn.utils.validation import one_line, shown

KEEP = 2
CHECKSUMS = "checksums.json"


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run folder, oldest first."""
    home = folder / "checkpoints"
    found = home.iterdir() if home.is_dir() else ()  # glob would be silent where it may not read
    return sorted(p for p in found if re.fullmatch(r"step-\d{8}", p.name) and p.is_dir())


def step_number(checkpoint: Path) -> int:
    """The number of steps in the name of a checkpoint."""
    return int(checkpoint.name.removeprefix("step-"))


def save_checkpoint(folder: Path, step: int, networks: Networks, optimizers: Optimizers) -> Path:
    """Write the state after `step` steps to folder/checkpoints and delete all but the last two.

    Sharded tensors are written whole, so a run may go on in another number of processes, or in one.
    While one process is in here, the others must be in `take_part`.

    Returns:
        The folder of the checkpoint.
    """
    home = folder / "checkpoints"
    home.mkdir(parents=True, exist_ok=True)
    remove_leftovers(home)
    target = home / f"step-{step:08d}"
    part = temporary_name(target)
    part.mkdir()
    try:
        for name, network in networks.items():
            save_file(contiguous(network), part / f"{name}.safetensors")
        torch.save(states_of(optimizers), part / "optimizers.pt")
        sums = {path.name: checksum(path) for path in part.iterdir()}
        write_json(part / CHECKSUMS, {"step": step, "sha256": sums})
        sync_tree(part)
        shutil.rmtree(target, ignore_errors=True)  # one that could not be read
        os.replace(part, target)
    except (SafetensorError, RuntimeError) as error:  # what the writers raise on a full disk
        raise OSError(f"{target} cannot be written: {disk_error(error)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync_folder(home)
    # Later ones could not be read, or the run would have gone on from them.
    kept = [path for path in checkpoints(folder) if path.name <= target.name][-KEEP:]
    for other in set(checkpoints(folder)) - set(kept):
        shutil.rmtree(other)
    return target


def take_part(networks: Networks, optimizers: Optimizers) -> None:
    """Send the parts of sharded tensors to the process that writes a checkpoint."""
    for each in (*networks.values(), *optimizers.values()):
        gathered(each.state_dict(), keep=False)


def disk_error(error: Exception) -> str:
    """What an error of the writers says of the disk; torch's speak of its own source code."""
    if isinstance(error, SafetensorError):
        return one_line(str(error).rpartition("I/O error: ")[2], 200)
    return "the disk may be full"


def load_checkpoint(
    folder: Path, networks: Networks, optimizers: Optimizers, steps: int | None = None
) -> int:
    """Load the newest readable checkpoint in place; warns about each one that cannot be read.

    Args:
        folder: The run's folder.
        networks: By their names in the checkpoint.
        optimizers: By their names in the checkpoint.
        steps: The steps of the whole run; a checkpoint of a later one is of another run, or has
            been renamed. None if that is not known.

    Returns:
        Its step; 0 if the folder has no checkpoint.

    Raises:
        PermissionError: If a file may not be read.
        ValueError: If no checkpoint of the folder can be read.
    """
    found = checkpoints(folder)
    damage = ""
    for path in reversed(found):
        try:
            if steps is not None and step_number(path) > steps:
                raise ValueError(f"its name says a step after the last one, {steps}")
            load_state(path, networks, optimizers)
        except PermissionError:
            raise
        except UNREADABLE as error:
            damage = f"{path} cannot be read ({one_line(error, 400)})"
            if path != found[0]:
                warnings.warn(f"{damage}; trying the checkpoint before it", stacklevel=2)
            continue
        return step_number(path)
    if damage:
        raise ValueError(
            f"{damage}, and {folder} has no other readable checkpoint; restore its files, or "
            f"delete {folder / 'checkpoints'} to start again from the first step"
        )
    return 0


def load_state(path: Path, networks: Networks, optimizers: Optimizers) -> None:
    """Load one checkpoint in place.

    Raises:
        Exception: One of `UNREADABLE`, with the name of the damaged file, if there is one.
    """
    check_files(path, [*(f"{name}.safetensors" for name in networks), "optimizers.pt"])
    for name, network in networks.items():
        load_network(path / f"{name}.safetensors", network)
    states = read_optimizers(path / "optimizers.pt")
    for name, optimizer in optimizers.items():
        try:
            load_optimizer(optimizer, states[name])
        except UNREADABLE as error:
            raise ValueError(
                f"optimizers.pt does not fit the optimizer {name!r}: {one_line(error, 400)}"
            ) from error


def read_optimizers(path: Path) -> dict[str, Any]:
    """Read the states of the optimizers.

    Raises:
        PermissionError: If the file may not be read.
        ValueError: If it is damaged; torch's own words advise to read it unsafely.
    """
    try:
        states: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except UNREADABLE as error:
        raise ValueError(f"{path.name} is damaged: torch cannot read it") from error
    return states


def check_files(path: Path, names: list[str]) -> None:
    """Compare the files of a checkpoint with its checksums, which the first versions did not write.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file has changed, or if the checkpoint is of another step.
    """
    for name in names:
        if not (path / name).is_file():
            raise FileNotFoundError(f"{name} is missing")
    if not (path / CHECKSUMS).exists():
        return
    record = read_json(path / CHECKSUMS)
    if record.get("step") != step_number(path):
        raise ValueError(f"{CHECKSUMS} is from step {shown(record.get('step'))}")
    sums = record.get("sha256")
    for name in names:
        if not isinstance(sums, dict) or sums.get(name) != checksum(path / name):
            raise ValueError(f"{name} is damaged: its checksum differs from the one in {CHECKSUMS}")


def checksum(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_networks(path: Path, networks: Networks) -> None:
    """Initialise `networks` from a checkpoint of another run, in place.

    Args:
        path: The folder of the checkpoint, which `newest_readable` has chosen.
        networks: By their names in the checkpoint.

    Raises:
        ValueError: If the weights have other names or shapes.
    """
    try:
        for name, network in networks.items():
            load_network(path / f"{name}.safetensors", network)
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be used: {error}; give a run of the same configuration"
        ) from error


def newest_readable(folder: Path) -> Path:
    """The newest checkpoint of a run whose weights can be read; warns about each one before it.

    Args:
        folder: The run's folder, with at least one checkpoint.

    Raises:
        PermissionError: If a file may not be read.
        ValueError: If the weights of no checkpoint can be read.
    """
    damage = ""
    for path in reversed(checkpoints(folder)):
        if damage:
            warnings.warn(f"{damage}; trying the checkpoint before it", stacklevel=2)
        try:
            files = [f"{name}.safetensors" for name in networks_of(path)]
            check_files(path, files)
            for name in files:
                check_header(path / name)
        except PermissionError:
            raise
        except UNREADABLE as error:
            damage = f"{path} cannot be read ({one_line(error, 400)})"
            continue
        return path
    raise ValueError(f"{damage}, and {folder} has no other checkpoint that can; give another run")


def check_header(path: Path) -> None:
    """Check that a file's tensors fill it, as its header says; its values are not read.

    Raises:
        ValueError: If not.
    """
    try:
        with safe_open(path, framework="pt"):
            pass
    except UNREADABLE as error:
        raise ValueError(f"{path.name} cannot be read: {one_line(error, 400)}") from error


def networks_of(path: Path) -> list[str]:
    """The names of the networks that a checkpoint was written with."""
    names = {file.name for file in path.glob("*.safetensors")}
    if (path / CHECKSUMS).exists():
        sums = read_json(path / CHECKSUMS).get("sha256")
        names |= sums.keys() if isinstance(sums, dict) else set()
    if not names:
        raise ValueError("it is empty")
    suffix = ".safetensors"
    return sorted(name.removesuffix(suffix) for name in names if name.endswith(suffix))
