"""The memory of a call, counted on the meta device without computing anything.

It is counted at its peak, as what autograd keeps for the backward pass, or as what the backward
pass computes again.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdlearn.recipes.activation_checkpointing import BLOCKS


class LiveMemory(TorchDispatchMode):
    """A context that adds up the memory of the live tensors created while it is active.

    Attributes:
        now: Bytes of those tensors that are still alive. Tensors that share storage count once.
        peak: The largest value of `now` so far, in bytes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: set[int] = set()
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count the storage of its results."""
        given = {x.untyped_storage()._cdata for x in tree_leaves(args) if isinstance(x, Tensor)}
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                key = storage._cdata
                if key not in self.known and key not in given:
                    self.known.add(key)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.free, key, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def free(self, key: int, size: int) -> None:
        """Subtract a storage of `size` bytes that no tensor uses any more."""
        self.known.discard(key)
        self.now -= size


def peak_bytes(call: Callable[..., Any], *inputs: Tensor) -> int:
    """Return the peak memory of a call, not counting its inputs and weights.

    Args:
        call: A network on the meta device, or one of its methods. It runs without gradients.
        *inputs: Its inputs, Tensors on the meta device.

    Returns:
        Bytes of the tensors alive at the peak.
    """
    with torch.inference_mode(False), torch.no_grad(), LiveMemory() as memory:
        call(*inputs)
    return memory.peak


def kept_bytes(call: Callable[[], Any], *networks: nn.Module) -> int:
    """Return what is kept of a call for the backward pass: what autograd saves, and block inputs.

    Attention is counted as a fused kernel computes it: its weights are not kept. Of a checkpointed
    block its inputs are counted, which autograd does not save as it saves other tensors.

    Args:
        call: Runs networks, on the meta device without computing anything.
        *networks: Their weights are not counted.

    Returns:
        Bytes of the tensors kept. Those that share storage count once.
    """
    inputs: list[Tensor] = []
    with before_checkpointed(networks, lambda _, args: inputs.extend(args)):
        kept = saved_storages(call, *networks)
    kept |= {x.untyped_storage()._cdata: x.untyped_storage() for x in inputs}
    return sum(storage.nbytes() for storage in kept.values())


def recomputed_bytes(
    call: Callable[..., Any], networks: Iterable[nn.Module], *inputs: Tensor | int
) -> int:
    """Return the memory of the checkpointed block that takes most when it is computed again.

    The backward pass computes one block at a time again. Its activations come on top of
    `kept_bytes`, for all images at once.

    Args:
        call: Runs networks, on the meta device without computing anything.
        networks: Their checkpointed blocks are looked at; see `checkpoint_activations`.
        *inputs: Of the call.

    Returns:
        Bytes, without the block's inputs. 0 if no block is checkpointed.
    """
    sizes = [0]

    def measure(block: nn.Module, args: tuple[Tensor, ...]) -> None:
        own = saved_storages(partial(type(block).forward, block, *args), block)
        given = {x.untyped_storage()._cdata for x in args}
        sizes.append(sum(storage.nbytes() for key, storage in own.items() if key not in given))

    with before_checkpointed(networks, measure), torch.no_grad():
        call(*inputs)
    return max(sizes)


@contextmanager
def before_checkpointed(
    networks: Iterable[nn.Module], see: Callable[[nn.Module, tuple[Tensor, ...]], None]
) -> Iterator[None]:
    """Call `see` with each checkpointed block of some networks and its inputs, before it runs."""
    modules = [module for network in networks for module in network.modules()]
    blocks = [m for m in modules if isinstance(m, BLOCKS) and "forward" in vars(m)]
    hooks = [block.register_forward_pre_hook(see) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def saved_storages(
    call: Callable[[], Any], *networks: nn.Module
) -> dict[int, torch.UntypedStorage]:
    """Return the storages that autograd saves of a call, without the networks' weights."""
    weights = {p.untyped_storage()._cdata for each in networks for p in each.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # the storages themselves: an address may be reused

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return x

    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        mock.patch.object(F, "scaled_dot_product_attention", fused_attention),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
    ):
        result = call()
    del result
    return kept


def fused_attention(q: Tensor, k: Tensor, v: Tensor, **_: object) -> Tensor:
    """Stand in for fused attention on the meta device."""
    return _FusedAttention.apply(q, k, v)  # type: ignore[no-untyped-call]


class _FusedAttention(torch.autograd.Function):
    """Keeps the inputs, the output and one sum for each query (arXiv:2205.14135)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1]))
        return out

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])
