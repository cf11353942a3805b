"""Tensors that are sharded over processes: each process holds some rows (torch's DTensor).

Tensors that are not sharded are returned as they are, and nothing is sent.
"""

from typing import Any

import torch.distributed as dist
from torch import Tensor


def is_sharded(x: object) -> bool:
    """Whether each process holds only a part of this tensor."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor  # slow, so only if needed

    return isinstance(x, DTensor)


def local(x: Tensor) -> Tensor:
    """The part of a tensor in this process, sharing its memory; call it without gradients."""
    part: Tensor = x.to_local() if is_sharded(x) else x  # type: ignore[attr-defined]
    return part


def whole(x: Tensor) -> Tensor:
    """The whole tensor, on its device. Each process sends its part, so all must call this."""
    full: Tensor = x.full_tensor() if is_sharded(x) else x  # type: ignore[attr-defined]
    return full


def gathered(x: Any, keep: bool = True) -> Any:
    """The same for all tensors in dictionaries and lists; the whole tensors are moved to the CPU.

    They are gathered one after the other, so the device never holds more than one.

    Args:
        x: Has the same structure in all processes, which must all call this.
        keep: Whether this process wants them. If not, it sends its parts and gets None for each.
    """
    if is_sharded(x):
        full = whole(x)
        return full.cpu() if keep else None
    if isinstance(x, dict):
        return {key: gathered(value, keep) for key, value in x.items()}
    if isinstance(x, list):
        return [gathered(value, keep) for value in x]
    return x


def shared_out_like(x: Tensor, other: Tensor) -> Tensor:
    """A whole tensor of process 0, sharded in the same way as another one of its shape."""
    if not is_sharded(other):
        return x
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = other.device_mesh, other.placements  # type: ignore[attr-defined]
    return distribute_tensor(x.to(other.dtype), mesh, placements)
