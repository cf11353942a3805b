"""What the published versions cost, counted on the meta device, and timed block by block."""

from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sdlearn.attention import SpatialTransformer
from sdlearn.course.costs import cpu_seconds
from sdlearn.course.live_memory import peak_bytes
from sdlearn.unet import ResBlock, UNet
from sdlearn.versions import SPECS, ModelSpec
from sdlearn.weights.system_parts import new_parts

# From SD 1.5 to SDXL, change by change: a name, the side of the latent, and the fields that change.
STAGES: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("SD 1.5\n512\u00a0×\u00a0512", 64, {}),
    ("heads of 64 channels", 64, {"num_heads": (5, 10, 20, 20)}),
    ("text width 1024", 64, {"cross_attention_dim": 1024, "use_linear_projection": True}),
    ("SD 2.1\n768\u00a0×\u00a0768", 96, {}),
    (
        "three levels, attention\nin the lower two",
        96,
        {
            "block_out_channels": (320, 640, 1280),
            "cross_attention": (False, True, True),
            "transformer_depth": (1, 1, 1),
            "num_heads": (5, 10, 20),
        },
    ),
    ("2 and 10 blocks\nin a transformer", 96, {"transformer_depth": (1, 2, 10)}),
    ("text width 2048", 96, {"cross_attention_dim": 768 + 1280}),
    ("pooled text, sizes", 96, {"added_dim": 1280 + 6 * 256, "added_time_dim": 256}),
    ("SDXL\n1024\u00a0×\u00a01024", 128, {"sample_size": 128}),
)
Kind = tuple[str, int]  # "ResBlocks" or "transformers", and the side of their feature map


class Block(NamedTuple):
    """A block of a U-Net on the meta device.

    Attributes:
        flops: Operations of one evaluation.
        module: The block.
        shapes: Of its inputs.
    """

    flops: int
    module: nn.Module
    shapes: list[tuple[int, ...]]


@dataclass(frozen=True)
class Cost:
    """What one image of a version costs, at batch 1.

    Attributes:
        parameters: By network.
        activations: By network, the largest number of values alive at a time; the U-Net's for one
            row, without guidance.
        unet_flops: Of one evaluation of the U-Net, of one row.
        decoder_flops: Of decoding one image.
        evaluations: Rows that the U-Net evaluates for an image, with guidance.
        upcast: Whether the autoencoder overflows in half precision and stays in float32.
    """

    parameters: dict[str, int]
    activations: dict[str, float]
    unet_flops: int
    decoder_flops: int
    evaluations: int
    upcast: bool = False

    @property
    def image_flops(self) -> int:
        """Of a whole image; the text encoders' are too few to count."""
        return self.evaluations * self.unet_flops + self.decoder_flops


def fused(q: Tensor, k: Tensor, v: Tensor, **_: object) -> Tensor:
    """Stand in for fused attention: only its output takes memory."""
    return q.new_empty(*q.shape[:-1], v.shape[-1])


def unet_inputs(unet: UNet, side: int) -> tuple[Any, ...]:
    """The inputs of a U-Net on the meta device for one latent of this side."""
    config = unet.config
    inputs = [(1, config.in_channels, side, side), (1,), (1, 77, config.cross_attention_dim)]
    z, t, context = (torch.empty(shape, device="meta") for shape in inputs)
    if config.added_dim is None or config.added_time_dim is None:
        return z, t, context
    pooled = config.added_dim - 6 * config.added_time_dim
    return z, t, context, (z.new_empty(1, pooled), z.new_empty(1, 6))


def flops(call: Callable[..., Any], *inputs: Any) -> int:
    """Count the floating-point operations of a call on the meta device."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(*inputs)
    return int(counter.get_total_flops())


def evaluations(spec: ModelSpec) -> int:
    """How many rows the U-Net evaluates for one image, with the version's own settings."""
    return 2 * (spec.steps + (spec.sampler == "plms"))


@cache
def cost(name: str, side: int) -> Cost:
    """Count the cost of an image of `side` × `side` pixels on the meta device.

    Raises:
        ValueError: If there is no version of this name.
    """
    if name not in SPECS:
        raise ValueError(f"there is no version {name!r}; accepted: {', '.join(SPECS)}")
    spec = SPECS[name]
    unet, vae, encoders = new_parts(spec, torch.float32)
    inputs = unet_inputs(unet, side // vae.factor)
    parts = {"text": encoders, "U-Net": [unet], "autoencoder": [vae]}
    counts = {part: count(*modules) for part, modules in parts.items()}
    with mock.patch.object(F, "scaled_dot_product_attention", fused):
        activations = {
            "U-Net": peak_bytes(unet, *inputs) / 4,
            "decoder": peak_bytes(vae.to_image, inputs[0]) / 4,
        }
    operations = flops(unet, *inputs), flops(vae.to_image, inputs[0])
    return Cost(counts, activations, *operations, evaluations(spec), spec.vae.force_upcast)


def count(*modules: nn.Module) -> int:
    """Count the parameters of networks."""
    return sum(p.numel() for module in modules for p in module.parameters())


def stage_costs() -> list[tuple[str, float, float]]:
    """Name, parameters in millions and GFLOPs of one evaluation of the U-Net of each stage."""
    config, costs = SPECS["sd1.5"].unet, []
    for name, side, fields in STAGES:
        config = replace(config, **fields)
        with torch.device("meta"):
            unet = UNet(config)
        costs.append((name, count(unet) / 1e6, flops(unet, *unet_inputs(unet, side)) / 1e9))
    return costs


def blocks_of(unet: UNet, side: int) -> dict[Kind, list[Block]]:
    """The ResBlocks and transformers of a U-Net by kind.

    Args:
        unet: On the meta device.
        side: Of the latent.
    """
    seen: list[tuple[nn.Module, list[tuple[int, ...]]]] = []

    def note(block: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        seen.append((block, [tuple(x.shape) for x in inputs]))

    wanted = [m for m in unet.modules() if isinstance(m, ResBlock | SpatialTransformer)]
    hooks = [block.register_forward_hook(note) for block in wanted]
    with torch.no_grad():
        unet(*unet_inputs(unet, side))
    for hook in hooks:
        hook.remove()
    kinds: dict[Kind, list[Block]] = defaultdict(list)
    for block, shapes in seen:
        operations = flops(block, *(torch.empty(shape, device="meta") for shape in shapes))
        name = "ResBlocks" if isinstance(block, ResBlock) else "transformers"
        kinds[name, shapes[0][-1]].append(Block(operations, block, shapes))
    return dict(kinds)


def time_one(block: Block, repeats: int = 1) -> float:
    """Seconds of processor time of one block at its real size, with random inputs.

    Args:
        block: On the meta device.
        repeats: The shortest time of so many is returned.
    """
    real = deepcopy(block.module).to_empty(device="cpu")
    with torch.no_grad():
        for parameter in real.parameters():
            parameter.fill_(0.01)
        inputs = [torch.randn(shape) for shape in block.shapes]
        return cpu_seconds(partial(real, *inputs), repeats)
