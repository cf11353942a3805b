"""A walk through a U-Net: what goes into each block, what comes out, what it costs; and its shape.

`walk` sends one latent through and writes down what passes; on torch's meta device that takes no
memory, whatever the size. All else here is made of its list of stops. Blocks are told apart by the
names of the published files, so that a U-Net built in the notebook is walked like the finished one.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor, nn

from sdlearn.course.figures.plots import ARROW, WIDE

BLOCK = re.compile(r"conv_in|conv_out|.*\.(resnets|attentions|downsamplers|upsamplers)\.\d+")
KINDS = {
    "conv": ("C", "a convolution", "0.93"),
    "resnets": ("R", "a ResBlock", "1.0"),
    "attentions": ("T", "a transformer", "0.78"),
    "downsamplers": ("↓", "a downsampling", "0.93"),
    "upsamplers": ("↑", "an upsampling", "0.93"),
}
BOX, STEP = 0.24, 0.15  # height of a box, distance of two brackets; rows are 1 apart


@dataclass(frozen=True)
class Stop:
    """A block, and what passed through it.

    shape_in, shape: (c, h, w) of the map that came in, with the skip that was put to it, and of
    the one that went out. multiplications: in convolutions and matrix products, for one picture.
    """

    name: str
    shape_in: tuple[int, ...]
    shape: tuple[int, ...]
    parameters: int
    multiplications: int

    @property
    def kind(self) -> str:
        """A key of KINDS."""
        return "conv" if self.name.startswith("conv_") else self.name.split(".")[-2]


def walk(unet: nn.Module, height: int, width: int, tokens: int = 77) -> list[Stop]:
    """All blocks in the order in which a latent of this size, and a text, pass through them."""
    modules = dict(unet.named_modules())
    blocks = [name for name in modules if BLOCK.fullmatch(name)]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    costs: Counter[str] = Counter()

    def passing(name: str) -> Any:
        def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            shapes[name] = tuple(inputs[0].shape[1:]), tuple(output.shape[1:])

        return after

    def paying(block: str) -> Any:
        def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            costs[block] += multiplications(module, inputs, output)

        return after

    handles = [modules[name].register_forward_hook(passing(name)) for name in blocks]
    for name, module in modules.items():
        inside = [block for block in blocks if f"{name}.".startswith(f"{block}.")]
        if inside and (isinstance(module, (nn.Conv2d, nn.Linear)) or is_attention(name)):
            handles.append(module.register_forward_hook(paying(inside[0])))
    try:
        with torch.no_grad():
            unet(*nothing(unet, height, width, tokens))
    finally:
        for handle in handles:
            handle.remove()
    return [
        Stop(name, *shapes[name], sum(p.numel() for p in modules[name].parameters()), costs[name])
        for name in shapes
    ]


def is_attention(name: str) -> bool:
    return name.rpartition(".")[2] in ("attn1", "attn2")


def multiplications(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> int:
    """Of one layer; of an attention, the two products with the scores."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        return output.numel() * module.weight[0].numel()
    x, context = inputs[0], inputs[-1]  # one and the same in self-attention
    return 2 * x.numel() * context.shape[1]


def nothing(unet: Any, height: int, width: int, tokens: int) -> tuple[Any, ...]:
    """Zeros of the right shapes, where the network is: latent, time, text, and SDXL's addition."""
    config, device = unet.config, next(unet.parameters()).device
    z = torch.zeros(1, config.in_channels, height, width, device=device)
    context = torch.zeros(1, tokens, config.cross_attention_dim, device=device)
    if config.added_dim is None:
        return z, 0.0, context
    pooled = torch.zeros(1, config.added_dim - 6 * config.added_time_dim, device=device)
    return z, 0.0, context, (pooled, torch.zeros(1, 6, device=device))


def skips(stops: Sequence[Stop]) -> list[tuple[int, int]]:
    """For each skip, in the order of keeping, the stop that makes it and the one that takes it."""
    stack: list[int] = []
    pairs = []
    for k, stop in enumerate(stops):
        if stop.name.startswith("up_blocks") and stop.kind == "resnets":
            pairs.append((stack.pop(), k))
        followed = k + 1 < len(stops) and stops[k + 1].kind == "attentions"
        if stop.name == "conv_in" or (stop.name.startswith("down_blocks") and not followed):
            stack.append(k)
    return sorted(pairs)


def by_size(stops: Sequence[Stop]) -> dict[str, tuple[int, int]]:
    """Parameters and multiplications of the blocks that give a map of each size, largest first."""
    sums: dict[tuple[int, ...], tuple[int, int]] = {}
    for stop in stops:
        parameters, spent = sums.get(stop.shape[1:], (0, 0))
        sums[stop.shape[1:]] = parameters + stop.parameters, spent + stop.multiplications
    return {f"{h} × {w}": sums[h, w] for h, w in sorted(sums, reverse=True)}


def account(stops: Sequence[Stop], k: int) -> str:
    """What there is to say of one stop, in sentences."""
    stop = stops[k]
    parameters = sum(s.parameters for s in stops)
    spent = sum(s.multiplications for s in stops)
    shape_in, shape = (" × ".join(map(str, s)) for s in (stop.shape_in, stop.shape))
    takes = next((kept for kept, taken in skips(stops) if taken == k), None)
    skip = ""
    if takes is not None:
        skip = f" ({stops[takes].shape[0]} channels of it kept from {stops[takes].name})"
    return (
        f"{stop.name}, {KINDS[stop.kind][1]}: channels, height and width {shape_in}{skip} become "
        f"{shape}. Parameters: {stop.parameters:,}, {stop.parameters / parameters:.1%} of all "
        f"blocks. Multiplications: {stop.multiplications / 1e9:,.3g} billion, "
        f"{stop.multiplications / spent:.1%} of all."
    )


# -------------------------------------------------------------------------------------- as pictures


def u_shape(stops: Sequence[Stop], title: str, chosen: int | None = None) -> Figure:
    """The walk from left to right, one row for each size of the map, the skips as brackets.

    Each bracket tells the number of its skip and its channels. chosen: the stop to mark.
    """
    sizes = sorted({stop.shape[1:] for stop in stops}, reverse=True)
    rows = [-sizes.index(stop.shape[1:]) for stop in stops]
    figure = Figure(figsize=(WIDE, 0.9 + 1.05 * len(sizes)), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(-4.2, len(stops) + 0.3), ylim=(0.4 - len(sizes), 1.15))
    ax.axis("off")
    ax.text(len(stops) / 2 - 2, 1.03, title, ha="center", va="top", fontsize=12)
    for row, size in enumerate(sizes):
        name = " × ".join(map(str, size))
        ax.text(-4, BOX / 2 - row, name, va="center", fontsize=9, weight="bold")
    for k, (stop, y) in enumerate(zip(stops, rows, strict=True)):
        letter, _, shade = KINDS[stop.kind]
        face, ink = ("black", "white") if k == chosen else (shade, "black")
        ax.add_patch(Rectangle((k, y), 0.9, BOX, fc=face, ec="black", lw=0.8))
        ax.text(k + 0.45, y + BOX / 2, letter, ha="center", va="center", fontsize=8, color=ink)
    write_channels(ax, stops, rows)
    pairs = skips(stops)
    for number, (kept, taken) in enumerate(pairs, start=1):
        inside = [a for a, _ in pairs if a > kept and rows[a] == rows[kept]]
        top = rows[kept] + BOX + STEP * (1 + len(inside))
        ends = kept + 0.45, taken + 0.45
        ax.plot([ends[0]] * 2 + [ends[1]], [rows[kept] + BOX, top, top], "-", c="0.35", lw=0.9)
        ax.annotate("", (ends[1], rows[kept] + BOX), (ends[1], top), arrowprops=ARROW | {"lw": 0.9})
        text = f"{number}: {stops[kept].shape[0]}"
        text = text if taken - kept < 0.1 * len(stops) else f"skip {text}"
        under = {"fc": "white", "ec": "none", "pad": 0.6}
        ax.text(sum(ends) / 2, top, text, ha="center", va="center", fontsize=7, bbox=under)
    words = ", ".join(f"{letter} {name}" for letter, name, _ in KINDS.values())
    ax.text(len(stops) / 2 - 2, 0.44 - len(sizes), words, ha="center", va="bottom", fontsize=8.5)
    return figure


def write_channels(ax: Axes, stops: Sequence[Stop], rows: Sequence[int]) -> None:
    """Under each run of boxes of one size and width, the number of channels."""
    first = 0
    for k in range(1, len(stops) + 1):
        if k == len(stops) or stops[k].shape != stops[first].shape:
            middle = (first + k - 0.1) / 2
            text = str(stops[first].shape[0])
            ax.text(middle, rows[first] - 0.04, text, ha="center", va="top", fontsize=7.5)
            first = k


def shares(stops: Sequence[Stop], title: str) -> Figure:
    """Where the parameters are and where the work is: two bars for each size of the map."""
    sums = by_size(stops)
    totals = [sum(column) for column in zip(*sums.values(), strict=True)]
    figure = Figure(figsize=(WIDE, 1.4 + 0.55 * len(sums)), dpi=100, layout="constrained")
    ax = figure.subplots()
    styles: tuple[dict[str, Any], ...] = ({"fc": "0.25"}, {"fc": "white", "hatch": "///"})
    for j, (name, style) in enumerate(zip(("parameters", "multiplications"), styles, strict=True)):
        parts = [100 * both[j] / totals[j] for both in sums.values()]
        places = [i + 0.36 * (j - 0.5) for i in range(len(sums))]
        bars = ax.barh(places, parts, height=0.34, label=name, ec="black", **style)
        ax.bar_label(bars, [f"{part:.1f} %" for part in parts], padding=3, fontsize=9)
    ax.set(yticks=range(len(sums)), yticklabels=list(sums), ylabel="size of the map")
    ax.set(title=title, xlabel="share of all blocks (%)", xlim=(0, 100))
    ax.invert_yaxis()
    ax.legend(loc="lower right")
    return figure


def relief(feature_map: Tensor, size: int = 64) -> Image.Image:
    """One channel (h, w): white is its largest number, black its smallest, size pixels a side.

    In 16 shades, like figures.tile.
    """
    values = feature_map.detach().float().cpu().numpy()
    low, high = float(values.min()), float(values.max())
    shades = ((values - low) / ((high - low) or 1.0) * 15).round() * 17
    return Image.fromarray(shades.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)


def loudest(feature_maps: Tensor, count: int = 4) -> list[int]:
    """The channels of (c, h, w) that differ most from place to place, the first one most."""
    spread = feature_maps.float().flatten(1).std(dim=1)
    return spread.topk(min(count, len(spread))).indices.tolist()
