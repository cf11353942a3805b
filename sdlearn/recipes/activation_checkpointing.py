"""Activation checkpointing: less memory for about one more forward pass (arXiv:1604.06174)."""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from sdlearn.attention import TransformerBlock
from sdlearn.unet import ResBlock

BLOCKS = (ResBlock, TransformerBlock)


def checkpoint_activations(network: nn.Module) -> None:
    """Let each block of a U-Net or ControlNet keep only its inputs.

    The backward pass computes the other activations of a block again, in the same way, so the
    gradients are the same. Make copies of the network beforehand.
    """
    for block in network.modules():
        if isinstance(block, BLOCKS):
            again = partial(checkpoint, block.forward, use_reentrant=False)
            block.forward = again  # type: ignore[method-assign]
