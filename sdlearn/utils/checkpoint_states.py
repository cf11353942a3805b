"""The states of networks and optimizers in a checkpoint: whole tensors, also of sharded ones.

A checkpoint is therefore the same for any number of processes.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.amp import GradScaler

from sdlearn.utils.sharded_tensors import gathered, shared_out_like
from sdlearn.utils.validation import one_line

# What the readers of safetensors and of torch raise for damaged files.
UNREADABLE = (
    SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError,
    AttributeError, IndexError, pickle.UnpicklingError,
)  # fmt: skip

Networks = Mapping[str, nn.Module]
Optimizers = Mapping[str, torch.optim.Optimizer | GradScaler]


def contiguous(network: nn.Module) -> dict[str, Tensor]:
    """A network's state dict for safetensors, which does not accept channels-last strides."""
    return {key: x.contiguous() for key, x in gathered(network.state_dict()).items()}


def states_of(optimizers: Optimizers) -> dict[str, Any]:
    """The states of the optimizers, with whole tensors."""
    return {name: gathered(optimizer.state_dict()) for name, optimizer in optimizers.items()}


def load_network(path: Path, network: nn.Module) -> None:
    """Load a network from a file of a checkpoint, in place.

    Raises:
        ValueError: If the file cannot be read, or its tensors have other names or shapes.
    """
    try:
        found = load_file(path)
    except UNREADABLE as error:
        raise ValueError(f"{path.name} cannot be read: {one_line(error, 400)}") from error
    wanted = network.state_dict()
    for key in sorted(wanted.keys() | found.keys()):
        if key not in found or key not in wanted:
            where = "is missing" if key in wanted else "does not belong there"
            raise ValueError(f"{path.name}: the tensor {key!r} {where}")
        if found[key].shape != wanted[key].shape:
            shapes = f"{tuple(found[key].shape)}, not {tuple(wanted[key].shape)}"
            raise ValueError(f"{path.name}: the tensor {key!r} has the shape {shapes}")
    network.load_state_dict({key: shared_out_like(x, wanted[key]) for key, x in found.items()})


def load_optimizer(optimizer: torch.optim.Optimizer | GradScaler, state: dict[str, Any]) -> None:
    """Load the state of an optimizer or a scaler, in place.

    Raises:
        ValueError: If it is that of other parameters.
    """
    if isinstance(optimizer, GradScaler):
        optimizer.load_state_dict(state)
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for k, parameter in enumerate(parameters):
        for name, value in state["state"].get(k, {}).items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state["state"][k][name] = shared_out_like(value, parameter)
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"{name} has the shape {tuple(value.shape)}")
