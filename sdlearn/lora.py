"""LoRA: a small trained change of a large network's weights (Hu et al., arXiv:2106.09685).

A layer computes W x. Its adapter adds a matrix of low rank r:

    y = W x + s · (alpha / r) · B A x        A (r, in), "down";  B (out, r), "up"

W is frozen. A starts random and B at zero, so nothing changes at first. A must not be zero as well:
the gradient of each matrix contains the other one as a factor, and neither would ever move. alpha
is fixed in training; the strength s is chosen in use. For a convolution, A is a convolution with
the layer's kernel and r output channels, and B a 1x1 convolution.

An adapter is attached for a time here; `lora_merging` adds it to the weights for good.
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


class LowRank(nn.Module):
    """The update of one layer: x -> (alpha / r) · B A x.

    Args:
        down: A, (r, in) for a linear layer, (r, c_in, kh, kw) for a convolution.
        up: B, (out, r) or (c_out, r, 1, 1).
        alpha: Any number but 0; with alpha = r the factor is 1.
        geometry: Of a convolution; None for a linear layer.
    """

    def __init__(
        self, down: Tensor, up: Tensor, alpha: float, geometry: Geometry | None = None
    ) -> None:
        super().__init__()
        if not math.isfinite(alpha) or alpha == 0:
            raise ValueError(f"alpha is {alpha}; it must be a finite number other than 0")
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(up)
        self.alpha = float(alpha)
        self.geometry = geometry

    @property
    def rank(self) -> int:
        """The number of rows of A."""
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
        """The same update as a change of the layer's weight, (alpha / r) · B A, in its shape."""
        up, down = self.up.to(dtype), self.down.to(dtype)
        product = up.flatten(1) @ down.flatten(1)  # of a kernel: (c_out, c_in * kh * kw)
        return self.alpha / self.rank * product.unflatten(1, down.shape[1:])


class Adapter(nn.Module):
    """Updates for layers of one network, each under the name of its layer.

    The state dict has the network's names: `mid_block.attentions.0.….to_q.down`.

    Args:
        updates: Name of a layer -> its update.
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
        """Name of a layer -> its update."""
        return {name: m for name, m in self.named_modules() if isinstance(m, LowRank)}

    @classmethod
    def for_network(
        cls,
        network: nn.Module,
        rank: int = 4,
        alpha: float | None = None,
        pattern: str = ATTENTION,
    ) -> Self:
        """A fresh adapter, to be trained, which changes nothing yet.

        A is Kaiming-uniform with a = √5, that is U(-1/√in, 1/√in). The matrices are on the layers'
        devices, and in float32 at least, in which small steps of training are not rounded away.

        Args:
            network: The network; it is not changed.
            rank: r, at least 1.
            alpha: None for alpha = r.
            pattern: A regular expression that is searched for in the names of linear layers and
                convolutions.

        Raises:
            ValueError: If the rank, alpha or the pattern is not accepted.
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
    """Adapters at work in their networks, with one strength, until `detach`.

    Attributes:
        adapters: They stay modules of their own: the networks' state dicts do not contain them, and
            `network.to(...)` does not move them.
    """

    def __init__(self, strength: float = 1.0) -> None:
        self.strength = strength
        self.adapters: list[Adapter] = []
        self.handles: list[RemovableHandle] = []

    @property
    def strength(self) -> float:
        """The factor s; 0 is off, and it may be changed at any time."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise ValueError(f"strength is {value!r}; it must be a finite number")
        self._strength = float(value)

    def add(self, network: nn.Module, adapter: Adapter) -> None:
        """Attach one more adapter, see `attach`."""
        check_fits(network, adapter)
        check_not_compiled(network)
        if any(adapter in each.adapters for each in attachments(network)):
            raise ValueError("this adapter is already attached; change the strength of that one")
        self.adapters.append(adapter)
        for name, update in adapter.updates.items():
            hook = Hook(update, self)
            self.handles.append(network.get_submodule(name).register_forward_hook(hook))

    def detach(self) -> None:
        """Take the adapters off again: each network computes what it did before, to the bit."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.adapters.clear()


@dataclass(frozen=True)
class Hook:
    """A forward hook, which adds an update to the output of its layer.

    It is an object, not a closure, so that a deep copy of a network has adapters of its own.
    """

    update: LowRank
    attachment: Attachment

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Wx -> Wx + s · (alpha / r) · BAx, in the type of Wx."""
        x, down = inputs[0], self.update.down
        if x.device != down.device:
            raise ValueError(
                f"the adapter is on {down.device} and its network on {x.device}; move it, too: "
                "adapter.to(device)"
            )
        change = self.update(x.to(down.dtype)).to(output.dtype)
        return output + self.attachment.strength * change


def attach(network: nn.Module, adapter: Adapter, strength: float = 1.0) -> Attachment:
    """Have a network compute with an adapter, by forward hooks; its weights stay as they are.

    Several may be attached to one network: their updates add. torch.compile must come after it.

    Args:
        network: The network.
        adapter: Of the same network, or of one with the same layers, in any type.
        strength: s; see Attachment.strength.

    Raises:
        ValueError: If it does not fit, is attached already, or the network is compiled.
    """
    attachment = Attachment(strength)
    attachment.add(network, adapter)
    return attachment


def attachments(network: nn.Module) -> list[Attachment]:
    """What is attached to a network, in order. A deep copy of a network has its own."""
    hooks = (hook for module in network.modules() for hook in module._forward_hooks.values())
    return list(dict.fromkeys(hook.attachment for hook in hooks if isinstance(hook, Hook)))


def detach_all(*networks: nn.Module) -> None:
    """Detach everything that is attached to these networks."""
    for network in networks:
        for attachment in attachments(network):
            attachment.detach()


def check_fits(network: nn.Module, adapter: Adapter) -> None:
    """Raise ValueError, naming the layer, if an adapter is not for this network."""
    modules, owner = dict(network.named_modules()), type(network).__name__
    for name, update in adapter.updates.items():
        if name not in modules:
            raise ValueError(f"the adapter has an update of {name}, which this {owner} lacks")
        try:
            same = geometry(modules[name]) == update.geometry
        except ValueError as error:
            raise ValueError(f"{name} of this {owner}: {error}") from None
        shape = tuple(modules[name].get_parameter("weight").shape)
        needed = (update.up.shape[0], *update.down.shape[1:])
        if not same or shape != needed:
            raise ValueError(
                f"the adapter's update of {name} is for a weight of the shape {needed}; this "
                f"{owner} has {shape}{'' if same else ', or another stride or padding'}"
            )
