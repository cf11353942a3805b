"""Adapters as weights: merged into a network, extracted from one, stacked into one adapter.

An update adds (alpha / r) · B A to the weight of its layer, so it can be added once and for all.
The other way round, the difference of two networks is cut to the best matrices of rank r.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sdlearn.lora import Adapter, LowRank, attachments, check_fits
from sdlearn.lora_layers import ATTENTION, at_least_float32, check_rank, geometry, layers


@torch.no_grad()
def merge(network: nn.Module, adapter: Adapter, strength: float = 1.0) -> None:
    """Add an adapter to the weights, in place: W + s · (alpha / r) · B A. No hook remains.

    The sum is computed in float32 at least and rounded once, to the type of the weights.

    Raises:
        ValueError: If it does not fit or is attached; the network is unchanged then.
    """
    check_fits(network, adapter)
    if any(adapter in each.adapters for each in attachments(network)):
        raise ValueError("this adapter is attached, and would count twice; detach it, then merge")
    for name, update in adapter.updates.items():
        weight = network.get_submodule(name).get_parameter("weight")
        wide = at_least_float32(weight.dtype, update.down.dtype)
        weight.copy_(weight.to(wide) + strength * update.weight(wide))


def unmerge(network: nn.Module, adapter: Adapter, strength: float = 1.0) -> None:
    """Subtract an adapter that was merged with this strength, in place.

    In float64 and float32 the weights come back but for the last digits. In half precision they do
    not: merging has rounded the sum to 11 bits (float16) or 8 (bfloat16), and what was rounded away
    of W is lost. There, keep a copy of the weights, or attach the adapter instead.
    """
    merge(network, adapter, -strength)


@torch.no_grad()
def extract(tuned: nn.Module, base: nn.Module, rank: int = 4, pattern: str = ATTENTION) -> Adapter:
    """The adapter that comes closest to a fine-tuned network.

    For each chosen layer the difference of the weights is cut to its r largest singular values,
    which is the best matrix of rank r in the Frobenius norm (Eckart and Young 1936). √S goes into
    each of A and B. Changes of other layers, and of biases, are left out.

    Args:
        tuned: The fine-tuned network.
        base: The network that it started from.
        rank: r; layers with fewer singular values have as many as they have.
        pattern: See `Adapter.for_network`.

    Raises:
        ValueError: If the networks or the rank do not fit.
    """
    check_rank(rank)
    starts, updates = dict(base.named_modules()), {}
    for name, layer in layers(tuned, pattern).items():
        start = getattr(starts.get(name), "weight", None)
        if not isinstance(start, Tensor) or start.shape != layer.weight.shape:
            raise ValueError(f"base has no weight for {name} of the shape {layer.weight.shape}")
        difference = layer.weight.double() - start.double()
        u, s, v = torch.linalg.svd(difference.flatten(1), full_matrices=False)
        root, dtype = s[:rank].sqrt(), at_least_float32(layer.weight.dtype)
        down = (root[:, None] * v[:rank]).unflatten(1, difference.shape[1:])
        up = (u[:, :rank] * root).reshape(len(u), -1, *[1] * (difference.ndim - 2))
        updates[name] = LowRank(down.to(dtype), up.to(dtype), len(root), geometry(layer))
    return Adapter(updates)


@torch.no_grad()
def stack(parts: Sequence[tuple[Adapter, float]]) -> Adapter:
    """One adapter that does what several with these strengths do together, exactly.

    Their A's are put below each other and their B's, times s · alpha / r, side by side, so the
    ranks add up.

    Args:
        parts: Adapters of the same network with their strengths.
    """
    names = dict.fromkeys(name for adapter, _ in parts for name in adapter.updates)
    updates = {}
    for name in names:
        rows = [(a.updates[name], s) for a, s in parts if name in a.updates]
        down = torch.cat([u.down for u, _ in rows])
        up = torch.cat([s * u.alpha / u.rank * u.up for u, s in rows], dim=1)
        updates[name] = LowRank(down, up, len(down), rows[0][0].geometry)
    return Adapter(updates)
