"""Faster sampling on a CPU: convolution weights are reordered once, not at every call.

oneDNN, which computes torch's convolutions on a CPU, needs its weights in blocks that fit the
vector registers. It reorders ordinary weights at every call. For 1280 x 1280 channels at 8 x 8
positions, that takes as long as the convolution itself. `prepack` reorders them once, with the
operations that torch's own compiler uses for frozen weights.
"""

from typing import Any

import torch
from torch import Tensor, nn


class PackedConv2d(nn.Module):
    """An nn.Conv2d for inference, without gradients: (b, c_in, h, w) -> (b, c_out, h', w').

    Its state dict is that of the nn.Conv2d.

    Raises:
        RuntimeError: If it is called with an input that requires a gradient.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.bias = conv.bias
        # nn.Conv2d has tuples, but these operations take lists.
        self.geometry = [list(map(int, p)) for p in (conv.padding, conv.stride, conv.dilation)]
        self.groups = conv.groups
        size = (1, conv.in_channels, 64, 64)  # a hint; the packed weight works for any size
        self.packed_weight = torch.ops.mkldnn._reorder_convolution_weight(
            conv.weight.detach().contiguous(memory_format=torch.channels_last),
            *self.geometry,
            conv.groups,
            size,
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("prepacked weights have no gradients: load the model again to train")
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.packed_weight, self.bias, *self.geometry, self.groups, "none", [], ""
        )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.packed_weight.to_dense()


def prepack(module: nn.Module) -> int:
    """Replace the convolutions of a module by prepacked ones, in place.

    Only float32 convolutions on the CPU with at least 16 input and output channels are replaced,
    and none if torch was built without oneDNN. A convolution with a forward hook, such as that of
    an attached adapter, is left as it is. Outputs differ by rounding only.

    Returns:
        The number of convolutions that were replaced.

    Raises:
        ValueError: For anything but a module, such as a whole StableDiffusion.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"module is a {type(module).__name__}; it must be a network, such as sd.unet or sd.vae"
        )
    if not torch.backends.mkldnn.is_available():
        return 0
    packed = 0
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d) and can_prepack(child):
                setattr(parent, name, PackedConv2d(child))
                packed += 1
    return packed


def can_prepack(conv: nn.Conv2d) -> bool:
    """Whether `prepack` replaces this convolution."""
    weight = conv.weight
    enough_channels = min(conv.in_channels, conv.out_channels) >= 16
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    return enough_channels and on_cpu and not conv._forward_hooks
