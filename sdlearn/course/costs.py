"""What a call costs: processor time, memory kept for the backward pass, operations."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


class Operations(NamedTuple):
    """Floating-point operations (FLOPs) of one call: a multiplication and an addition are two.

    Attributes:
        total: All that PyTorch counts: convolutions and matrix products.
        attention: Those of the two products inside attention, which have no weights.
    """

    total: float
    attention: float


def cpu_seconds(call: Callable[[], Any], repeats: int = 1) -> float:
    """Measure the processor time of a call, summed over all cores.

    Args:
        call: Run once to warm up, then `repeats` times.
        repeats: The shortest time of so many is returned.
    """
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times[1:])


def kept_megabytes(call: Callable[[], Any], network: nn.Module) -> float:
    """Measure what autograd keeps of a call for the backward pass, in units of 10^6 bytes.

    The network's weights are not counted, and memory that several operations keep counts once.
    """
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        result = call()
    del result
    return sum(kept.values()) / 1e6


def operations(call: Callable[..., Any], *shapes: tuple[int, ...]) -> Operations:
    """Count the operations of a call on the meta device, where nothing is computed.

    Args:
        call: A network on the meta device, or one of its methods.
        *shapes: Of its inputs.
    """
    inputs = [torch.empty(shape, device="meta") for shape in shapes]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(*inputs)
    counts, aten = counter.get_flop_counts()["Global"], torch.ops.aten
    weighted = sum(counts.get(op, 0) for op in (aten.convolution, aten.mm, aten.addmm))
    total = counter.get_total_flops()
    return Operations(total, total - weighted)


def is_attention(name: str) -> bool:
    """Tell whether a module is a self- or cross-attention, by its published name."""
    return name.rpartition(".")[2] in ("attn1", "attn2")


def macs(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    """Count the MACs of one layer; for attention, those of its two matrix products."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        return output.numel() * module.weight[0].numel()
    x, context = inputs[0], inputs[-1]  # one and the same in self-attention
    return 2 * x.numel() * context.shape[1]
