"""Checkpoints that are complete or absent, even after a power failure.

A checkpoint is a folder `step-00001000` with one safetensors file per network, the state of the
optimizers, and checksums of these files. It is written under a temporary name, flushed to the disk
and then renamed, which is atomic. The last two checkpoints are kept.
"""

import hashlib
import os
import pickle
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdlearn.utils.atomic_files import (
    read_json,
    remove_leftovers,
    sync_folder,
    sync_tree,
    temporary_name,
    write_json,
)
from sdlearn.utils.validation import one_line, shown

KEEP = 2
CHECKSUMS = "checksums.json"
# What the readers of safetensors and of torch raise for damaged files.
UNREADABLE = (
    SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError,
    AttributeError, IndexError, pickle.UnpicklingError,
)  # fmt: skip

Networks = Mapping[str, nn.Module]
Optimizers = Mapping[str, torch.optim.Optimizer]


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run folder, oldest first."""
    found = (folder / "checkpoints").glob("step-*")
    return sorted(p for p in found if re.fullmatch(r"step-\d{8}", p.name) and p.is_dir())


def save_checkpoint(folder: Path, step: int, networks: Networks, optimizers: Optimizers) -> Path:
    """Write the state after `step` steps to folder/checkpoints and delete all but the last two.

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
        states = {name: optimizer.state_dict() for name, optimizer in optimizers.items()}
        torch.save(states, part / "optimizers.pt")
        sums = {path.name: checksum(path) for path in part.iterdir()}
        write_json(part / CHECKSUMS, {"step": step, "sha256": sums})
        sync_tree(part)
        shutil.rmtree(target, ignore_errors=True)  # one that could not be read
        os.replace(part, target)
    except (SafetensorError, RuntimeError) as error:  # what the writers raise on a full disk
        raise OSError(f"{target} cannot be written: {one_line(error, 200)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync_folder(home)
    for old in checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old)
    return target


def load_checkpoint(folder: Path, networks: Networks, optimizers: Optimizers) -> int:
    """Load the newest readable checkpoint in place; warns about each one that cannot be read.

    Returns:
        Its step; 0 if the folder has no checkpoint.

    Raises:
        ValueError: If no checkpoint of the folder can be read.
    """
    found = checkpoints(folder)
    damage = ""
    for path in reversed(found):
        try:
            load_state(path, networks, optimizers)
        except UNREADABLE as error:
            damage = f"{path} cannot be read ({one_line(error, 200)})"
            if path != found[0]:
                warnings.warn(f"{damage}; trying the checkpoint before it", stacklevel=2)
            continue
        return int(path.name.removeprefix("step-"))
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
    states = torch.load(path / "optimizers.pt", map_location="cpu", weights_only=True)
    for name, optimizer in optimizers.items():
        try:
            load_optimizer(optimizer, states[name])
        except UNREADABLE as error:
            raise ValueError(
                f"optimizers.pt does not fit the optimizer {name!r}: {one_line(error, 200)}"
            ) from error


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
    if record.get("step") != int(path.name.removeprefix("step-")):
        raise ValueError(f"{CHECKSUMS} is from step {shown(record.get('step'))}")
    sums = record.get("sha256")
    for name in names:
        if not isinstance(sums, dict) or sums.get(name) != checksum(path / name):
            raise ValueError(f"{name} is damaged: its checksum differs from the one in {CHECKSUMS}")


def checksum(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_network(path: Path, network: nn.Module) -> None:
    """Load a network from a file of a checkpoint, in place.

    Raises:
        ValueError: If the file cannot be read, or its tensors have other names or shapes.
    """
    try:
        found = load_file(path)
    except UNREADABLE as error:
        raise ValueError(f"{path.name} cannot be read: {one_line(error, 200)}") from error
    wanted = network.state_dict()
    for key in sorted(wanted.keys() | found.keys()):
        if key not in found or key not in wanted:
            where = "is missing" if key in wanted else "does not belong there"
            raise ValueError(f"{path.name}: the tensor {key!r} {where}")
        if found[key].shape != wanted[key].shape:
            shapes = f"{tuple(found[key].shape)}, not {tuple(wanted[key].shape)}"
            raise ValueError(f"{path.name}: the tensor {key!r} has the shape {shapes}")
    network.load_state_dict(found)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimizer, in place.

    Raises:
        ValueError: If it is that of other parameters.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} has the shape {tuple(value.shape)}")


def load_networks(folder: Path, networks: Networks) -> list[str]:
    """Initialise `networks` from the newest checkpoint of another run, in place.

    Returns:
        The names of the networks in that checkpoint.

    Raises:
        ValueError: If the weights are damaged, or have other names or shapes.
    """
    newest = checkpoints(folder)[-1]
    found = [name for name in networks if (newest / f"{name}.safetensors").exists()]
    try:
        check_files(newest, [f"{name}.safetensors" for name in found])
        for name in found:
            load_network(newest / f"{name}.safetensors", networks[name])
    except ValueError as error:
        raise ValueError(
            f"{newest} cannot be used: {error}; give a run of the same configuration"
        ) from error
    return found


def contiguous(network: nn.Module) -> dict[str, Tensor]:
    """A network's state dict for safetensors, which does not accept channels-last strides."""
    return {key: value.contiguous() for key, value in network.state_dict().items()}
