"""Which layers of a network can have a low-rank update: linear layers and convolutions."""

import re
from typing import NamedTuple

import torch
from torch import nn

# Regular expressions that choose layers by their names, for `Adapter.for_network`. The usual
# choice: the projections of every attention.
ATTENTION = r"\.(to_q|to_k|to_v|to_out\.0)$"
CROSS_ATTENTION = r"\.attn2\.(to_q|to_k|to_v|to_out\.0)$"
TRANSFORMERS = r"\.attentions\."  # all that kohya's scripts adapt in a U-Net
TEXT_ATTENTION = r"\.(q_proj|k_proj|v_proj|out_proj)$"  # of a text encoder


class Geometry(NamedTuple):
    """How a convolution moves over its input, see nn.Conv2d."""

    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]


def layers(network: nn.Module, pattern: str) -> dict[str, nn.Linear | nn.Conv2d]:
    """The linear layers and convolutions whose names fit; ValueError if there are none."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern is {pattern!r}, not a regular expression: {error}") from None
    found = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and re.search(pattern, name)
    }
    if not found:
        raise ValueError(
            f"no linear layer or convolution of this {type(network).__name__} has a name that fits "
            f"{pattern!r}; its layers are those of network.named_modules()"
        )
    return found


def geometry(layer: nn.Module) -> Geometry | None:
    """The geometry of a layer, None for a linear one; ValueError if it cannot have an update."""
    if isinstance(layer, nn.Linear):
        return None
    if not isinstance(layer, nn.Conv2d):
        raise ValueError(
            f"a {type(layer).__name__} can't have a low-rank update; only nn.Linear and nn.Conv2d "
            "can, so attach or merge an adapter before prepack()"
        )
    if layer.groups != 1 or layer.padding_mode != "zeros":
        raise ValueError("a convolution with groups or other padding than zeros is not supported")
    return Geometry(layer.stride, layer.padding, layer.dilation)


def check_rank(rank: int) -> None:
    """Raise ValueError unless this is a rank."""
    if type(rank) is not int or rank < 1:
        raise ValueError(f"rank is {rank!r}; it must be a whole number of at least 1")


def at_least_float32(*dtypes: torch.dtype) -> torch.dtype:
    """The type that holds the values of all these types, and of float32."""
    result = torch.float32
    for dtype in dtypes:
        result = torch.promote_types(result, dtype)
    return result


def check_not_compiled(network: nn.Module) -> None:
    """Raise ValueError for a compiled network, which would not notice new hooks."""
    if hasattr(network, "_orig_mod") or any(m._compiled_call_impl for m in network.modules()):
        raise ValueError(
            f"this {type(network).__name__} is compiled, and would go on without the adapter; "
            "attach it first, and compile the network then"
        )
