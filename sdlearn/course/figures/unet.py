"""Shapes, parameters and MACs of every block of a U-Net, and figures of them.

`trace` runs one forward pass and records every block. On torch's meta device this takes no memory
at any size. The other functions draw its list of records. Blocks are recognised by their published
names, so a U-Net built in the notebook is traced like the reference.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from sdlearn.course.costs import is_attention, macs
from sdlearn.course.figures.diagrams import ATTENTION, CONV, LINEAR, MLP
from sdlearn.course.figures.plots import ARROW
from sdlearn.course.figures.style import (
    INK,
    MUTED,
    in_style,
)

BLOCK = re.compile(r"conv_in|conv_out|.*\.(resnets|attentions|downsamplers|upsamplers)\.\d+")
KINDS = {
    "conv": ("C", "a convolution", LINEAR),
    "resnets": ("R", "a ResBlock", CONV),
    "attentions": ("T", "a transformer", ATTENTION),
    "downsamplers": ("↓", "a downsampling", MLP),
    "upsamplers": ("↑", "an upsampling", MLP),
}
LADDER, ROW, WIDE_BOX, BOX = 4.5, 0.31, 0.38, 0.21  # inches: of the ladder, a row, a box


@dataclass(frozen=True)
class BlockTrace:
    """One block in a forward pass.

    Attributes:
        name: Published name, such as "down_blocks.0.resnets.0".
        shape_in: (c, h, w) of the input, with the concatenated skip connection.
        shape: (c, h, w) of the output.
        parameters: Number of parameters.
        macs: Multiply–accumulate operations of convolutions and matrix products, for one image.
        products: Those of them in the products of attention, QKᵀ and the weights times V.
    """

    name: str
    shape_in: tuple[int, ...]
    shape: tuple[int, ...]
    parameters: int
    macs: int
    products: int

    @property
    def kind(self) -> str:
        """The kind of the block, a key of KINDS."""
        return "conv" if self.name.startswith("conv_") else self.name.split(".")[-2]


def trace(unet: nn.Module, height: int, width: int, tokens: int = 77) -> list[BlockTrace]:
    """Record all blocks in the order of a forward pass.

    Args:
        unet: A U-Net with published names and a `config`.
        height: Of the latent, in positions.
        width: Of the latent, in positions.
        tokens: Length of the text.
    """
    modules = dict(unet.named_modules())
    blocks = [name for name in modules if BLOCK.fullmatch(name)]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    costs: Counter[str] = Counter()
    products: Counter[str] = Counter()

    def passing(name: str) -> Any:
        def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            shapes[name] = tuple(inputs[0].shape[1:]), tuple(output.shape[1:])

        return after

    def paying(block: str) -> Any:
        def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            spent = macs(module, inputs, output)
            costs[block] += spent
            products[block] += 0 if isinstance(module, (nn.Conv2d, nn.Linear)) else spent

        return after

    handles = [modules[name].register_forward_hook(passing(name)) for name in blocks]
    for name, module in modules.items():
        inside = [block for block in blocks if f"{name}.".startswith(f"{block}.")]
        if inside and (isinstance(module, (nn.Conv2d, nn.Linear)) or is_attention(name)):
            handles.append(module.register_forward_hook(paying(inside[0])))
    try:
        with torch.no_grad():
            unet(*zero_inputs(unet, height, width, tokens))
    finally:
        for handle in handles:
            handle.remove()
    return [
        BlockTrace(
            name,
            *shapes[name],
            sum(p.numel() for p in modules[name].parameters()),
            costs[name],
            products[name],
        )
        for name in shapes
    ]


def zero_inputs(unet: Any, height: int, width: int, tokens: int) -> tuple[Any, ...]:
    """Return zero inputs on the network's device: latent, time, context and SDXL's added inputs."""
    config, device = unet.config, next(unet.parameters()).device
    z = torch.zeros(1, config.in_channels, height, width, device=device)
    context = torch.zeros(1, tokens, config.cross_attention_dim, device=device)
    if config.added_dim is None:
        return z, 0.0, context
    pooled = torch.zeros(1, config.added_dim - 6 * config.added_time_dim, device=device)
    return z, 0.0, context, (pooled, torch.zeros(1, 6, device=device))


def activation_bytes(unet: nn.Module, height: int, width: int, tokens: int = 77) -> dict[str, int]:
    """Count the bytes that autograd keeps for the backward pass of one forward pass.

    A tensor kept by several operations counts once, weights not at all. On the meta device
    attention is unfused and keeps its attention weights.

    Args:
        unet: A U-Net with published names and a `config`.
        height: Of the latent, in positions.
        width: Of the latent, in positions.
        tokens: Length of the text.

    Returns:
        The bytes by kind: "attention weights", and "other activations".
    """
    weights = {p.untyped_storage()._cdata for p in unet.parameters()}
    kept: dict[int, Tensor] = {}  # by storage; holds the tensors, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage()._cdata
        if address not in weights:
            kept.setdefault(address, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        unet(*zero_inputs(unet, height, width, tokens))
    heads = set(unet.config.num_heads)  # type: ignore[union-attr, arg-type]
    matrices = [t for t in kept.values() if t.ndim == 4 and t.shape[1] in heads]
    sizes = [t.untyped_storage().nbytes() for t in matrices if t.shape[3] in (t.shape[2], tokens)]
    total = sum(t.untyped_storage().nbytes() for t in kept.values())
    return {"attention weights": sum(sizes), "other activations": total - sum(sizes)}


def skip_connections(stops: Sequence[BlockTrace]) -> list[tuple[int, int]]:
    """Return (source, target) of every skip connection, as indices into `stops`, by source."""
    stack: list[int] = []
    pairs = []
    for k, stop in enumerate(stops):
        if stop.name.startswith("up_blocks") and stop.kind == "resnets":
            pairs.append((stack.pop(), k))
        followed = k + 1 < len(stops) and stops[k + 1].kind == "attentions"
        if stop.name == "conv_in" or (stop.name.startswith("down_blocks") and not followed):
            stack.append(k)
    return sorted(pairs)


def by_resolution(stops: Sequence[BlockTrace]) -> dict[str, tuple[int, int]]:
    """Sum (parameters, MACs) of the blocks by output size, largest first."""
    sums: dict[tuple[int, ...], tuple[int, int]] = {}
    for stop in stops:
        parameters, spent = sums.get(stop.shape[1:], (0, 0))
        sums[stop.shape[1:]] = parameters + stop.parameters, spent + stop.macs
    return {f"{h} × {w}": sums[h, w] for h, w in sorted(sums, reverse=True)}


def describe_block(stops: Sequence[BlockTrace], k: int) -> str:
    """Describe one block in sentences: its shapes, parameters and MACs."""
    stop = stops[k]
    parameters = 100 * stop.parameters / sum(s.parameters for s in stops)
    spent = 100 * stop.macs / sum(s.macs for s in stops)
    shape_in, shape = (" × ".join(map(str, s)) for s in (stop.shape_in, stop.shape))
    takes = next((kept for kept, taken in skip_connections(stops) if taken == k), None)
    skip = ""
    if takes is not None:
        skip = f", of which {stops[takes].shape[0]} channels are the skip from {stops[takes].name}"
    return (
        f"{stop.name} is {KINDS[stop.kind][1]}. Its input (channels × height × width) is "
        f"{shape_in}{skip}, and its output is {shape}. It has {stop.parameters:,} parameters "
        f"({parameters:.1f} % of all blocks) and takes {stop.macs / 1e9:,.3g} "
        f"GMACs ({spent:.1f} %)."
    )


# ------------------------------------------------------------------------------------------ figures


@in_style
def u_shape(stops: Sequence[BlockTrace], title: str, chosen: int | None = None) -> Figure:
    """Draw the blocks as a ladder: down on the left, up on the right, a rung for each skip.

    Args:
        stops: The blocks, from `trace`.
        title: Of the figure.
        chosen: Index of a block to draw in black, or None.
    """
    pairs = skip_connections(stops)
    places = ladder(stops, pairs)
    height = 1.0 - min(y for _, y in places.values())
    figure = Figure(figsize=(LADDER, height), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, LADDER), ylim=(0.45 - height, 0.45))
    ax.axis("off")
    ax.text(0.08, 0.4, title, ha="left", va="top", fontsize=11, fontweight="bold")
    for k, (x, y) in places.items():
        letter, _, shade = KINDS[stops[k].kind]
        face, ink = ("black", "white") if k == chosen else (shade, INK)
        corner = x - WIDE_BOX / 2, y - BOX / 2
        ax.add_patch(Rectangle(corner, WIDE_BOX, BOX, fc=face, ec=INK, lw=0.8))
        ax.text(x, y - 0.01, letter, ha="center", va="center", fontsize=9.5, color=ink)
        x_next, y_next = places.get(k + 1, (x, y))
        if y_next != y:
            half = BOX / 2 if y_next > y else -BOX / 2
            ends = (x_next, y_next - half), (x_next, y + half)
        elif x_next > x and stops[k].name.startswith("mid_block"):
            ends = (x_next - WIDE_BOX / 2, y), (x + WIDE_BOX / 2, y)
        else:
            continue
        ax.annotate("", *ends, arrowprops=ARROW | {"lw": 0.9, "mutation_scale": 7})
    ax.text(0.08, min(y for _, y in places.values()), "middle", va="center", fontsize=9)
    sizes = []
    for number, (kept, taken) in enumerate(pairs, start=1):
        y = places[kept][1]
        ends = (places[taken][0] - WIDE_BOX / 2, y), (places[kept][0] + WIDE_BOX / 2, y)
        ax.annotate("", *ends, arrowprops=ARROW | {"lw": 0.9, "color": MUTED, "ls": "--"})
        under = {"fc": "white", "ec": "none", "pad": 0.6}
        ax.text(2.36, y, f"skip {number}: {stops[kept].shape[0]}", ha="center", va="center",
                fontsize=9, bbox=under)  # fmt: skip
        ax.text(LADDER - 0.08, y, f"{stops[taken].shape[0]}", ha="right", va="center", fontsize=9)
        size = " × ".join(map(str, stops[kept].shape[1:]))
        if size not in sizes:
            sizes.append(size)
            ax.text(0.08, y, size, va="center", fontsize=9, weight="bold")
    ax.text(LADDER - 0.08, 0.08, "channels", ha="right", va="center", fontsize=9)
    words = [f"{letter} {name.split()[1]}" for letter, name, _ in KINDS.values()]
    told = f"{', '.join(words[:3])}\n{', '.join(words[3:])}"
    ax.text(LADDER / 2, 0.65 - height, told, ha="center", va="center", fontsize=9)
    return figure


def ladder(
    stops: Sequence[BlockTrace], pairs: Sequence[tuple[int, int]]
) -> dict[int, tuple[float, float]]:
    """Place each block, by index: the ends of a skip, and their transformers, are in one row."""
    left, right = (1.12, 1.55), (3.2, 3.63)
    places, y = {}, 0.15
    for kept, taken in pairs:
        above = taken + (2 if stops[taken + 1].kind == "attentions" else 1)
        y -= ROW
        if stops[above].kind in ("upsamplers", "conv"):
            places[above] = right[0], y
            y -= ROW
        first = kept - (stops[kept].kind == "attentions")
        places |= {k: (left[k - first], y) for k in range(first, kept + 1)}
        places |= {k: (right[k - taken], y) for k in range(taken, min(above, taken + 2))}
    middle = [k for k, stop in enumerate(stops) if stop.name.startswith("mid_block")]
    for k, x in zip(middle, (left[0], (left[0] + right[0]) / 2, right[0]), strict=True):
        places[k] = x, y - ROW
    return places
