"""Faster drawing on a processor: convolution weights laid out once, not at every call.

oneDNN, which computes torch's convolutions on a processor, wants its weights in blocks that fit the
vector registers. From ordinary weights it makes them anew at every call: for 1280 x 1280 channels
at 8 x 8 positions that takes as long as the convolution. `pack` does it once, with the operations
that torch's own compiler uses for frozen weights.
"""

from typing import Any

import torch
from torch import Tensor, nn


class PackedConv2d(nn.Module):
    """An nn.Conv2d that can only compute: (b, c_in, h, w) -> (b, c_out, h', w'), without gradients.

    It is saved as the layer it was made from. Raises RuntimeError where a gradient is wanted.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.bias = conv.bias
        # Tuples would do for torch's Conv2d, these operations take lists.
        self.places = [list(map(int, p)) for p in (conv.padding, conv.stride, conv.dilation)]
        self.groups = conv.groups
        size = (1, conv.in_channels, 64, 64)  # a hint: the blocks serve any size
        self.blocks = torch.ops.mkldnn._reorder_convolution_weight(
            conv.weight.detach().contiguous(memory_format=torch.channels_last),
            *self.places,
            conv.groups,
            size,
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                "packed weights are for drawing alone: load the model again to train"
            )
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.blocks, self.bias, *self.places, self.groups, "none", [], ""
        )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.blocks.to_dense()


def pack(module: nn.Module) -> int:
    """Pack, in place, the convolutions of a module on the processor; returns how many.

    The results differ in the last bits alone. Left as they are: convolutions of few channels, such
    as the first and the last of a network, and types other than float32. On other devices, and
    where torch was built without oneDNN, nothing is done.
    """
    if not torch.backends.mkldnn.is_available():
        return 0
    packed = 0
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d) and fits(child):
                setattr(parent, name, PackedConv2d(child))
                packed += 1
    return packed


def fits(conv: nn.Conv2d) -> bool:
    weight = conv.weight
    wide = min(conv.in_channels, conv.out_channels) >= 16
    return wide and weight.device.type == "cpu" and weight.dtype == torch.float32
