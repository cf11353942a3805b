"""Checkpoints that are complete or absent, even after a power failure.

A checkpoint is a folder `step-00001000` with one safetensors file per network and the state of the
optimizers. It is written under a temporary name, flushed to the disk and then renamed, which is
atomic. The last two checkpoints are kept.
"""

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdlearn.utils.atomic_files import atomic_write

KEEP = 2

Networks = Mapping[str, nn.Module]
Optimizers = Mapping[str, torch.optim.Optimizer]


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run folder, oldest first."""
    return sorted(p for p in (folder / "checkpoints").glob("step-*") if p.is_dir())


def save_checkpoint(folder: Path, step: int, networks: Networks, optimizers: Optimizers) -> Path:
    """Write the state after `step` steps to folder/checkpoints and delete all but the last two.

    Returns:
        The folder of the checkpoint.
    """
    home = folder / "checkpoints"
    home.mkdir(parents=True, exist_ok=True)
    target = home / f"step-{step:08d}"
    part = home / f".{target.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for name, network in networks.items():
        save_file(contiguous(network), part / f"{name}.safetensors")
    torch.save(
        {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        part / "optimizers.pt",
    )
    for path in part.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    shutil.rmtree(target, ignore_errors=True)  # an unreadable one, or one from another run
    os.replace(part, target)
    sync_folder(home)
    for old in checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old)
    for leftover in home.glob(".step-*.part"):
        shutil.rmtree(leftover)
    return target


def load_checkpoint(folder: Path, networks: Networks, optimizers: Optimizers) -> int:
    """Load the newest readable checkpoint in place; warns about each one that cannot be read.

    Returns:
        Its step; 0 if there is none.
    """
    for path in reversed(checkpoints(folder)):
        try:
            weights = {name: load_file(path / f"{name}.safetensors") for name in networks}
            states = torch.load(path / "optimizers.pt", map_location="cpu", weights_only=True)
        except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            warnings.warn(
                f"{path} cannot be read ({error}); trying the previous checkpoint", stacklevel=2
            )
            continue
        for name, network in networks.items():
            network.load_state_dict(weights[name])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(states[name])
        return int(path.name.removeprefix("step-"))
    return 0


def load_networks(folder: Path, networks: Networks) -> list[str]:
    """Initialise `networks` from the newest checkpoint of another run, in place.

    Returns:
        The names of the networks in that checkpoint.

    Raises:
        ValueError: If the weights have other names or shapes.
    """
    found = []
    newest = checkpoints(folder)[-1]
    for name, network in networks.items():
        path = newest / f"{name}.safetensors"
        if path.exists():
            try:
                network.load_state_dict(load_file(path))
            except (RuntimeError, SafetensorError) as error:
                raise ValueError(
                    f"{path} does not fit the network {name!r}: {error}; give a run of the same "
                    "configuration"
                ) from error
            found.append(name)
    return found


def contiguous(network: nn.Module) -> dict[str, Tensor]:
    """A network's state dict for safetensors, which does not accept channels-last strides."""
    return {key: value.contiguous() for key, value in network.state_dict().items()}


def sync_folder(folder: Path) -> None:
    """Flush a rename inside `folder` to the disk; Windows cannot do that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def truncate_metrics(path: Path, step: int) -> None:
    """Delete the lines of metrics.jsonl after `step`, and an incomplete last line."""
    if not path.exists():
        return
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if row["step"] > step:
            break
        lines.append(line + "\n")
    with atomic_write(path) as part:
        part.write_text("".join(lines), encoding="utf-8")
