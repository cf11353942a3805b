"""Adapters merged into a network's weights, extracted from them, or stacked into one.

An update amounts to adding s · (alpha / r) · B A to the weight of its layer, so it can be merged
into the weight. Conversely, the difference between two networks' weights can be approximated by
matrices of rank r, which gives an adapter.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sdlearn.lora import Adapter, LowRank, attachments, check_fits
from sdlearn.lora_layers import ATTENTION, at_least_float32, check_rank, geometry, layers
from sdlearn.utils.validation import check_finite


@torch.no_grad()
def merge(network: nn.Module, adapter: Adapter, strength: float = 1.0) -> None:
    """Add an adapter to a network's weights, in place: W + s · (alpha / r) · B A.

    The sum is computed in float32 or wider and rounded once, to the dtype of the weight. Inference
    then costs what it did without the adapter.

    Raises:
        ValueError: If the strength is not a finite number, or if the adapter doesn't fit or is
            attached to this network. In that case the network is unchanged.
    """
    strength = check_finite("strength", strength)
    check_fits(network, adapter)
    if any(adapter in each.adapters for each in attachments(network)):
        raise ValueError("this adapter is attached and would count twice; detach it before merging")
    for name, update in adapter.updates.items():
        weight = network.get_submodule(name).get_parameter("weight")
        wide = at_least_float32(weight.dtype, update.down.dtype)
        weight.copy_(weight.to(wide) + strength * update.weight(wide))


def unmerge(network: nn.Module, adapter: Adapter, strength: float = 1.0) -> None:
    """Subtract an adapter that was merged with this strength, in place.

    In float32 and float64 this restores the weights up to rounding. In half precision much more is
    lost, because `merge` has rounded the sum to 11 significant bits (float16) or 8 (bfloat16). Keep
    a copy of such weights, or attach the adapter instead of merging it.
    """
    merge(network, adapter, -check_finite("strength", strength))


@torch.no_grad()
def extract(tuned: nn.Module, base: nn.Module, rank: int = 4, pattern: str = ATTENTION) -> Adapter:
    """The adapter that best approximates what fine-tuning changed in a network.

    For each selected layer, the difference between the weights is truncated to its r largest
    singular values. This is its best rank-r approximation in the Frobenius norm (Eckart and Young
    1936). A and B each get a factor of √S. Changes to biases and to other layers are ignored.

    Args:
        tuned: The fine-tuned network.
        base: The network that it was fine-tuned from.
        rank: r. The rank of an update is lower if its layer has fewer singular values.
        pattern: Selects the layers, see `Adapter.for_network`.

    Raises:
        ValueError: If the rank or the pattern is not accepted, or if a selected layer has no
            counterpart of the same shape in `base`.
    """
    check_rank(rank)
    starts, updates = dict(base.named_modules()), {}
    for name, layer in layers(tuned, pattern).items():
        start = getattr(starts.get(name), "weight", None)
        if not isinstance(start, Tensor) or start.shape != layer.weight.shape:
            shape = tuple(layer.weight.shape)
            raise ValueError(f"base has no layer {name} with a weight of shape {shape}")
        difference = layer.weight.double() - start.double()
        u, s, v = torch.linalg.svd(difference.flatten(1), full_matrices=False)
        root, dtype = s[:rank].sqrt(), at_least_float32(layer.weight.dtype)
        down = (root[:, None] * v[:rank]).unflatten(1, difference.shape[1:])
        up = (u[:, :rank] * root).reshape(len(u), -1, *[1] * (difference.ndim - 2))
        updates[name] = LowRank(down.to(dtype), up.to(dtype), len(root), geometry(layer))
    return Adapter(updates)


@torch.no_grad()
def stack(parts: Sequence[tuple[Adapter, float]]) -> Adapter:
    """Combine several adapters into one whose update is exactly the sum of theirs.

    The matrices A are placed one below the other, and the matrices B, each multiplied by its
    s · alpha / r, side by side. The ranks add up.

    Args:
        parts: At least one adapter, all for the same network, each with its strength s.

    Raises:
        ValueError: If there is no adapter, a strength is not a finite number, or two updates of one
            layer belong to layers of different shapes.
    """
    if not parts:
        raise ValueError("parts is empty; it must hold at least one adapter with its strength")
    parts = [(adapter, check_finite("strength", s)) for adapter, s in parts]
    names = dict.fromkeys(name for adapter, _ in parts for name in adapter.updates)
    updates = {}
    for name in names:
        rows = [(a.updates[name], s) for a, s in parts if name in a.updates]
        if len({(u.down.shape[1:], len(u.up), u.geometry) for u, _ in rows}) > 1:
            raise ValueError(f"the adapters are for different networks: their {name} don't fit")
        down = torch.cat([u.down for u, _ in rows])
        up = torch.cat([s * u.alpha / u.rank * u.up for u, s in rows], dim=1)
        updates[name] = LowRank(down, up, len(down), rows[0][0].geometry)
    return Adapter(updates)
