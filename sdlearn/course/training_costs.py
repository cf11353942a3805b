"""What a training run costs: the memory of one step, counted, and the machine it runs on."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlearn.course.live_memory import LiveMemory, fused_attention, recomputed_bytes
from sdlearn.course.version_costs import count, flops, unet_inputs
from sdlearn.recipes.activation_checkpointing import checkpoint_activations
from sdlearn.unet import UNet
from sdlearn.utils.device import without_memory
from sdlearn.versions import SPECS

STATE = {"weights": 4, "gradients": 4, "Adam's moments": 8, "EMA": 4}  # bytes a parameter, float32


class Run(NamedTuple):
    """A training run.

    Attributes:
        parameters: Parameters of the network.
        flops: Operations of the forward pass of one image.
        activations: Bytes of one image in a training pass; see `activation_bytes`.
        steps: Training steps.
        batch: Images in a step, on all devices together.
    """

    parameters: int
    flops: float
    activations: float
    steps: int
    batch: int


class Machine(NamedTuple):
    """The devices that training runs on.

    Attributes:
        devices: Number of devices.
        memory: Memory of one device, in bytes.
        peak: Peak operations a second of one device.
        utilisation: The fraction of the peak that the training reaches.
        price: Dollars an hour for one device.
    """

    devices: int
    memory: float
    peak: float
    utilisation: float
    price: float


def alive_bytes(call: Callable[..., Tensor], *inputs: Tensor) -> int:
    """The memory that a call keeps for its backward pass, in bytes.

    It counts the tensors that are alive after the call. These include the inputs of checkpointed
    blocks, which autograd does not save in the way it saves other tensors. What the backward pass
    computes again of a checkpointed block comes on top: see `recomputed_bytes`.

    Args:
        call: A network or a loss, on any device; on the meta device nothing is computed.
        *inputs: Inputs of the call. Neither they nor the result are counted.
    """
    with torch.enable_grad(), LiveMemory() as memory:
        result = call(*inputs)
    return memory.now - result.untyped_storage().nbytes()


@cache
def activation_bytes(name: str, side: int, checkpointed: bool = False) -> int:
    """The activations of one image in a training pass of a version's U-Net in float32, in bytes.

    The temporary memory of operations isn't counted.

    Args:
        name: Name of the version.
        side: Side of the image, in pixels.
        checkpointed: With activation checkpointing: the inputs of all blocks, and the activations
            of the largest block, which the backward pass computes again.

    Raises:
        ValueError: If there is no version of this name.
    """
    unet = on_meta(name)
    if checkpointed:
        checkpoint_activations(unet)
    inputs = unet_inputs(unet, side // 8)
    with mock.patch.object(F, "scaled_dot_product_attention", fused_attention):
        kept = alive_bytes(unet, *inputs)
    return kept + recomputed_bytes(unet, [unet], *inputs)


@cache
def unet_cost(name: str, side: int) -> tuple[int, int]:
    """Parameters of a version's U-Net, and operations of its forward pass of one image.

    Raises:
        ValueError: If there is no version of this name.
    """
    unet = on_meta(name)
    return count(unet), flops(unet, *unet_inputs(unet, side // 8))


def on_meta(name: str) -> UNet:
    """A version's U-Net on the meta device; ValueError if there is no such version."""
    if name not in SPECS:
        raise ValueError(f"there is no version {name!r}; accepted: {', '.join(SPECS)}")
    with without_memory():
        return UNet(SPECS[name].unet)


def memory_of_step(run: Run, rows: int, shards: int = 1) -> dict[str, float]:
    """The memory of a training step on one device in gigabytes, by what takes it.

    Args:
        run: What is trained.
        rows: Images in one pass.
        shards: Devices that share weights, gradients, moments and EMA.
    """
    state = {name: size * run.parameters / shards / 1e9 for name, size in STATE.items()}
    return {**state, "activations": rows * run.activations / 1e9}
