"""A fine-tuned network, stored as its difference from the network that it started from.

The difference of each weight matrix is stored as the product of two thin matrices, which is its
best low-rank approximation (Eckart and Young 1936). Small tensors are stored whole. The file is a
fraction of the size of the weights.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sdlearn.utils.atomic_files import atomic_write
from sdlearn.utils.validation import shown
from sdlearn.weights.tensor_files import open_weights

UP, DOWN, WHOLE = ".difference_up", ".difference_down", ".difference"


def write_difference(
    path: Path, tuned: nn.Module, base: Mapping[str, Tensor], rank: int, dtype: torch.dtype
) -> None:
    """Write the difference of a network from its starting point.

    Args:
        path: The .safetensors file.
        tuned: The fine-tuned network.
        base: The weights it started from, with the same names and shapes.
        rank: Rank of the stored matrices. A difference that they do not make smaller is stored
            whole.
        dtype: Type of the stored values.
    """
    stored: dict[str, Tensor] = {}
    for name, weight in tuned.state_dict().items():
        difference = (weight - base[name]).float()
        flat = difference.flatten(1) if difference.ndim > 1 else difference[:, None]
        if rank * sum(flat.shape) >= flat.numel():
            stored[name + WHOLE] = difference
            continue
        u, s, v = torch.linalg.svd(flat, full_matrices=False)
        root = s[:rank].sqrt()
        stored[name + UP] = u[:, :rank] * root
        stored[name + DOWN] = root[:, None] * v[:rank]
    with atomic_write(path) as part:
        save_file({name: x.to(dtype).contiguous() for name, x in stored.items()}, part)


@torch.no_grad()
def add_difference(module: nn.Module, path: Path) -> None:
    """Add a stored difference to a network's weights, in place.

    Args:
        module: The network with the weights that the difference was taken from.
        path: The .safetensors file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its tensors do not fit this network; in that case the network is unchanged.
    """
    tensors = {name: lazy.read() for name, lazy in open_weights(path).items()}
    state = module.state_dict()
    changes: dict[str, Tensor] = {}
    for name, weight in state.items():
        if name + WHOLE in tensors:
            change = tensors.pop(name + WHOLE).float()
        elif name + UP in tensors and name + DOWN in tensors:
            change = tensors.pop(name + UP).float() @ tensors.pop(name + DOWN).float()
        else:
            raise ValueError(f"{path} has no difference for {shown(name)}")
        if change.numel() != weight.numel():
            raise ValueError(
                f"{path}: the difference for {shown(name)} has {change.numel()} values; it must "
                f"have {weight.numel()}, as many as the weight"
            )
        changes[name] = change.reshape(weight.shape)
    if tensors:
        raise ValueError(
            f"{path} holds {shown(next(iter(tensors)))}, which belongs to no weight of the network"
        )
    for name, weight in state.items():
        weight += changes[name].to(weight)
