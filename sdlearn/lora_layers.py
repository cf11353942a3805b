"""The layers that can have a low-rank update: linear layers and convolutions."""

import re
from typing import NamedTuple

import torch
from torch import nn

# Regular expressions for `Adapter.for_network`, which select layers by their names. The first, the
# projections of all attention layers, is the usual choice.
ATTENTION = r"\.(to_q|to_k|to_v|to_out\.0)$"
CROSS_ATTENTION = r"\.attn2\.(to_q|to_k|to_v|to_out\.0)$"
TRANSFORMERS = r"\.attentions\."  # kohya's default for a U-Net
TEXT_ATTENTION = r"\.(q_proj|k_proj|v_proj|out_proj)$"  # in a text encoder


class Geometry(NamedTuple):
    """The stride, padding and dilation of a convolution, see nn.Conv2d."""

    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]


def layers(network: nn.Module, pattern: str) -> dict[str, nn.Linear | nn.Conv2d]:
    """The linear layers and convolutions whose names match; ValueError if there are none."""
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
            f"no linear layer or convolution of this {type(network).__name__} has a name that "
            f"matches {pattern!r}; network.named_modules() lists the names"
        )
    return found


def geometry(layer: nn.Module) -> Geometry | None:
    """The geometry of a convolution, None for a linear layer; ValueError for any other layer."""
    if isinstance(layer, nn.Linear):
        return None
    if not isinstance(layer, nn.Conv2d):
        raise ValueError(
            f"a {type(layer).__name__} can't have a low-rank update; only nn.Linear and nn.Conv2d "
            "can, and prepack() replaces the latter, so attach or merge adapters before prepack()"
        )
    if layer.groups != 1 or layer.padding_mode != "zeros":
        raise ValueError(
            "a convolution with groups, or with padding other than zeros, can't have a low-rank "
            "update"
        )
    return Geometry(layer.stride, layer.padding, layer.dilation)


def check_rank(rank: int) -> None:
    """Raise ValueError unless the rank is a whole number of at least 1."""
    if type(rank) is not int or rank < 1:
        raise ValueError(f"rank is {rank!r}; it must be a whole number of at least 1")


def at_least_float32(*dtypes: torch.dtype) -> torch.dtype:
    """The smallest dtype that can hold every value of these dtypes and of float32."""
    result = torch.float32
    for dtype in dtypes:
        result = torch.promote_types(result, dtype)
    return result


def check_not_compiled(network: nn.Module) -> None:
    """Raise ValueError for a compiled network, because it would ignore new hooks."""
    if hasattr(network, "_orig_mod") or any(m._compiled_call_impl for m in network.modules()):
        raise ValueError(
            f"this {type(network).__name__} is compiled and would ignore the adapter; attach the "
            "adapter first, then compile the network"
        )
