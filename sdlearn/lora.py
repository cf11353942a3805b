"""LoRA: a small trained update to a large network's weights (Hu et al., arXiv:2106.09685).

A linear layer computes W x. An adapter adds a low-rank update, the product of two matrices of
rank r:

    y = W x + s · (alpha / r) · B A x        A: (r, in), "down"; B: (out, r), "up"

W is frozen. A is initialised at random and B at zero, so a new adapter changes nothing. They must
not both be zero: the gradient of each matrix contains the other as a factor, so neither would ever
be trained. alpha is fixed during training. The strength s is chosen when the adapter is used. For a
convolution, A is a convolution with r output channels and the kernel size of the layer, and B is a
1x1 convolution.

This module attaches adapters to a network and detaches them again; `lora_merging` adds them to the
weights themselves.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sdlearn.lora_layers import (
    ATTENTION,
    Geometry,
    at_least_float32,
    check_not_compiled,
    check_rank,
    geometry,
    layers,
)
from sdlearn.utils.validation import check_finite


class LowRank(nn.Module):
    """The update of one layer: x -> (alpha / r) · B A x.

    Args:
        down: A, (r, in) for a linear layer, (r, c_in, kh, kw) for a convolution.
        up: B, (out, r) or (c_out, r, 1, 1).
        alpha: Any finite number except 0. With alpha = r, the factor alpha / r is 1.
        geometry: Stride, padding and dilation of a convolution; None for a linear layer.

    Raises:
        ValueError: If alpha is 0 or not finite.
    """

    def __init__(
        self, down: Tensor, up: Tensor, alpha: float, geometry: Geometry | None = None
    ) -> None:
        super().__init__()
        if check_finite("alpha", alpha) == 0:
            raise ValueError(f"alpha is {alpha}; it must be a finite number other than 0")
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(up)
        self.alpha = float(alpha)
        self.geometry = geometry

    @property
    def rank(self) -> int:
        """r, the number of rows of A."""
        return self.down.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out), or (b, c_in, h, w) -> (b, c_out, h', w')."""
        if self.geometry is None:
            change = F.linear(F.linear(x, self.down), self.up)
        else:
            stride, padding, dilation = self.geometry
            change = F.conv2d(F.conv2d(x, self.down, None, stride, padding, dilation), self.up)
        return self.alpha / self.rank * change

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The update to the layer's weight, (alpha / r) · B A, in the shape of that weight."""
        up, down = self.up.to(dtype), self.down.to(dtype)
        product = up.flatten(1) @ down.flatten(1)  # (out, in), or (c_out, c_in * kh * kw)
        return self.alpha / self.rank * product.unflatten(1, down.shape[1:])


class Adapter(nn.Module):
    """Low-rank updates for some layers of one network, under the names of these layers.

    Its state dict extends the network's names, as in `mid_block.attentions.0.….to_q.down`.

    Args:
        updates: Name of each layer -> its update.
    """

    def __init__(self, updates: Mapping[str, LowRank]) -> None:
        super().__init__()
        for name, update in updates.items():
            place: nn.Module = self
            *parents, last = name.split(".")
            for parent in parents:
                if parent not in dict(place.named_children()):
                    place.add_module(parent, nn.Module())
                place = place.get_submodule(parent)
            place.add_module(last, update)

    @property
    def updates(self) -> dict[str, LowRank]:
        """Name of each layer -> its update."""
        return {name: m for name, m in self.named_modules() if isinstance(m, LowRank)}

    @classmethod
    def for_network(
        cls,
        network: nn.Module,
        rank: int = 4,
        alpha: float | None = None,
        pattern: str = ATTENTION,
    ) -> Self:
        """A new adapter to train. It changes nothing until B has been trained.

        A is initialised as in nn.Linear, from U(-1/√fan_in, 1/√fan_in): Kaiming-uniform with
        a = √5. Each matrix is on the device of its layer. The dtype is float32 or wider, even for a
        network in half precision, so that small training updates aren't rounded away.

        Args:
            network: The network to adapt. It isn't changed.
            rank: r, at least 1.
            alpha: Any finite number except 0; None for alpha = r.
            pattern: A regular expression. Every linear layer and convolution gets an update if its
                name contains a match.

        Raises:
            ValueError: If the rank or alpha is out of range, the pattern is not a regular
                expression or matches no layer, or a matching convolution is not supported.
        """
        check_rank(rank)
        updates = {}
        for name, layer in layers(network, pattern).items():
            device, dtype = layer.weight.device, at_least_float32(layer.weight.dtype)
            c_out, *into = layer.weight.shape
            down = torch.empty((rank, *into), device=device, dtype=dtype)
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
            ones = [1] * (len(into) - 1)
            up = torch.zeros((c_out, rank, *ones), device=device, dtype=dtype)
            updates[name] = LowRank(down, up, rank if alpha is None else alpha, geometry(layer))
        return cls(updates)


# ------------------------------------------------------------------------------ attach and detach


class Attachment:
    """One or more adapters, attached to their networks with a common strength.

    Attributes:
        adapters: The attached adapters. They don't become submodules of the networks, so the
            networks' state dicts don't contain them and `network.to(...)` doesn't move them.
    """

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength
        self.adapters: list[Adapter] = []
        self.handles: list[RemovableHandle] = []

    @property
    def strength(self) -> float:
        """The factor s, which you can set at any time; 0 switches the adapters off."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        self._strength = check_finite("strength", value)

    def add(self, network: nn.Module, adapter: Adapter) -> None:
        """Attach another adapter with the same strength; errors as in `attach`."""
        check_fits(network, adapter)
        check_not_compiled(network)
        if any(adapter in each.adapters for each in attachments(network)):
            raise ValueError(
                "this adapter is already attached to this network; set the strength of that "
                "attachment instead"
            )
        self.adapters.append(adapter)
        for name, update in adapter.updates.items():
            hook = Hook(update, self)
            self.handles.append(network.get_submodule(name).register_forward_hook(hook))

    def detach(self) -> None:
        """Remove the adapters. Each network then computes exactly what it did before."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.adapters.clear()


@dataclass(frozen=True)
class Hook:
    """A forward hook that adds an update to the output of its layer.

    It is an object and not a closure, so that a deep copy of a network gets its own copies of the
    adapters.
    """

    update: LowRank
    attachment: Attachment

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """W x -> W x + s · (alpha / r) · B A x, in the dtype of W x."""
        x, down = inputs[0], self.update.down
        if x.device != down.device:
            raise ValueError(
                f"the adapter is on {down.device} and its network on {x.device}; move the adapter "
                "with adapter.to(device)"
            )
        change = self.update(x.to(down.dtype)).to(output.dtype)
        return output + self.attachment.strength * change


def attach(network: nn.Module, adapter: Adapter, strength: float = 1.0) -> Attachment:
    """Attach an adapter to a network with forward hooks. The network's weights don't change.

    A network can have several adapters; their updates add up. Call torch.compile afterwards.

    Args:
        network: The network.
        adapter: An adapter for this network, or for one with the same layers, in any dtype.
        strength: s, see Attachment.strength.

    Raises:
        ValueError: If the adapter doesn't fit or is already attached, the network is compiled, or
            the strength is not a finite number.
    """
    attachment = Attachment(strength)
    attachment.add(network, adapter)
    return attachment


def attachments(network: nn.Module) -> list[Attachment]:
    """The attachments of a network, each once. A deep copy of a network has its own."""
    hooks = (hook for module in network.modules() for hook in module._forward_hooks.values())
    return list(dict.fromkeys(hook.attachment for hook in hooks if isinstance(hook, Hook)))


def detach_all(*networks: nn.Module) -> None:
    """Detach all adapters from these networks."""
    for network in networks:
        for attachment in attachments(network):
            attachment.detach()


def check_fits(network: nn.Module, adapter: Adapter) -> None:
    """Raise ValueError, naming the layer, if an adapter doesn't fit this network."""
    modules, owner = dict(network.named_modules()), type(network).__name__
    for name, update in adapter.updates.items():
        if name not in modules:
            raise ValueError(f"the adapter has an update for {name}, which this {owner} lacks")
        try:
            same = geometry(modules[name]) == update.geometry
        except ValueError as error:
            raise ValueError(f"{name} of this {owner}: {error}") from None
        shape = tuple(modules[name].get_parameter("weight").shape)
        needed = (update.up.shape[0], *update.down.shape[1:])
        if shape != needed:
            raise ValueError(
                f"the adapter's update for {name} is made for a weight of shape {needed}; in this "
                f"{owner} the weight has shape {shape}"
            )
        if not same:
            raise ValueError(
                f"the adapter's update for {name} is made for a convolution with another stride, "
                f"padding or dilation than the one in this {owner}"
            )
