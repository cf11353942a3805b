"""The two diagrams of the U-Net: a ResBlock, and the whole network drawn from a configuration."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from sdlearn.course.figures import diagrams
from sdlearn.course.figures.diagrams import (
    ATTENTION,
    CONV,
    LINEAR,
    MLP,
    NORM,
    STREAM,
    TEXT,
    TIME,
    arrow,
    label,
    plus,
)
from sdlearn.course.figures.style import INK, MUTED, PALE, Described, in_style
from sdlearn.unet import UNetConfig, skip_widths, time_dim

ROW, TALL, SMALL = 3.15, 1.35, 0.72  # distance of two rows, height of a layer, of a lone box


@in_style
def res_block() -> Described:
    """Draw a ResBlock: the branch below, the residual connection above, the timestep entering."""
    figure, ax = diagrams.canvas(22, 6.6, "A ResBlock")
    y = 3.3
    ax.add_patch(
        FancyBboxPatch((2.2, 0.45), 16.4, 5.85, boxstyle="round,pad=0,rounding_size=0.3", fc=PALE,
                       ec="#cbd2d9")
    )  # fmt: skip
    label(ax, 0.2, y, "x\n(b, c_in, h, w)", INK, "left")
    layers = (
        (3.9, "Group\nNorm", "norm1", NORM),
        (5.6, "SiLU", "", MLP),
        (7.3, "3 × 3\nconv", "conv1", CONV),
        (11.3, "Group\nNorm", "norm2", NORM),
        (13.0, "SiLU", "", MLP),
        (14.7, "3 × 3\nconv", "conv2", CONV),
    )
    ends = [2.0, *(x for x, *_ in layers)]
    for k, (x, name, key, colour) in enumerate(layers):
        start = ends[k] + (0.6 if k else 0.2) if k != 3 else 9.54
        arrow(ax, [(start, y), (x - 0.62, y)])
        diagrams.box(ax, x, y, name, colour, w=1.2, h=1.15)
        label(ax, x, y - 0.85, key, MUTED)
    arrow(ax, [(7.9, y), (9.04, y)])
    plus(ax, 9.3, y)
    arrow(ax, [(15.3, y), (17.64, y)])
    plus(ax, 17.9, y)
    arrow(ax, [(18.14, y), (19.1, y)])
    label(ax, 19.25, y, "output\n(b, c_out, h, w)", INK, "left")
    arrow(ax, [(2.75, y), (2.75, 5.5), (17.9, 5.5), (17.9, y + 0.26)])
    diagrams.box(ax, 10.3, 5.5, "shortcut: a 1 × 1 conv if c_in ≠ c_out", LINEAR, w=6.0, h=0.8)
    label(ax, 4.9, 5.85, "residual connection", MUTED)
    label(ax, 14.55, 4.65, "branch", MUTED)
    arrow(ax, [(2.0, 1.3), (4.98, 1.3)], TIME)
    label(ax, 0.2, 1.3, "emb\n(b, time_dim)", TIME, "left")
    diagrams.box(ax, 5.6, 1.3, "SiLU", MLP, w=1.2, h=0.8)
    arrow(ax, [(6.2, 1.3), (6.63, 1.3)], TIME)
    diagrams.box(ax, 7.6, 1.3, "Linear", LINEAR, w=1.9, h=0.8)
    arrow(ax, [(8.55, 1.3), (9.3, 1.3), (9.3, y - 0.26)], TIME)
    label(ax, 9.6, 1.65, "one value for each channel,", TIME, "left")
    label(ax, 9.6, 1.2, "the same at all positions: (b, c_out, 1, 1)", TIME, "left")
    words = (
        "A diagram from left to right. The feature map x goes through a branch of GroupNorm, SiLU, "
        "3 × 3 convolution, an addition, and again GroupNorm, SiLU and 3 × 3 convolution. At the "
        "addition the time embedding enters from below, through a SiLU and a linear layer, with "
        "one value for each channel. A residual connection leads x around the branch, through a "
        "1 × 1 convolution if the number of channels changes, and is added to the branch's result."
    )
    return Described(figure, words)


# ------------------------------------------------------------------------------------------ the U


@dataclass(frozen=True)
class Column:
    """What is drawn in one place of a row.

    Attributes:
        x: Its centre.
        level: The row, from 0.
        kind: "conv", "layer" (a ResBlock with its transformer, if it has one), "down" or "up".
        depth: Blocks in its transformer; 0 for none.
    """

    x: float
    level: int
    kind: str
    depth: int = 0


def columns(config: UNetConfig) -> tuple[list[Column], list[Column], list[Column]]:
    """Lay out the downsampling path, the middle block and the upsampling path."""
    levels, layers = len(config.block_out_channels), config.layers_per_block
    depths = [
        depth * attends
        for depth, attends in zip(config.transformer_depth, config.cross_attention, strict=True)
    ]
    x, down, up = 0.0, [], []
    for i in range(levels):
        down.append(Column(x, i, "down" if i else "conv"))
        down += [Column(x + k, i, "layer", depths[i]) for k in range(1, layers + 1)]
        x += layers
    middle = [Column(x + 1.35, levels - 1, "layer", config.transformer_depth[-1])]
    middle.append(Column(x + 2.35, levels - 1, "layer"))
    x += 2.7
    for i in reversed(range(levels)):
        up += [Column(x, i, "up")] * (i < levels - 1)
        up += [Column(x + k, i, "layer", depths[i]) for k in range(1, layers + 2)]
        x += layers + 1
    return down, middle, [*up, Column(x + 1, 0, "conv")]


@in_style
def unet_diagram(config: UNetConfig, title: str, side: int) -> Described:
    """Draw a U-Net from its configuration, with sizes, skip connections, timestep and text.

    Args:
        config: Of the U-Net.
        title: Of the figure.
        side: Height and width of the latent.
    """
    levels = len(config.block_out_channels)
    down, middle, up = columns(config)
    right = up[-1].x
    edge = max(right, 18.0)  # a small network gets letters of the same size
    figure, ax = diagrams.canvas(edge + 7.6, ROW * levels + 2.2, title)
    ax.set(xlim=(-5.3, edge + 2.3), ylim=(-ROW * levels + 1.1, 3.3))
    for i, c in enumerate(config.block_out_channels):
        size = -(-side // 2**i)
        text = f"{size} × {size}\n{c} channels"
        ax.text(-5.2, -ROW * i, text, ha="left", va="center", fontsize=8.5, linespacing=1.4)
    box_of_the_middle(ax, middle)
    draw_skips(ax, config, down, up)
    for column in [*down, *middle, *up]:
        draw_column(ax, column)
    for path in (down, up):
        for before, after in pairwise(path):
            connect(ax, before, after)
    for before, after in ((down[-1], middle[0]), (middle[0], middle[1]), (middle[1], up[0])):
        connect(ax, before, after)
    arrow(ax, [(-1.2, 0), (-0.42, 0)])
    ax.text(-1.3, 0.0, "$z_t$", ha="right", va="center", fontsize=12)
    arrow(ax, [(right + 0.4, 0), (right + 1.2, 0)])
    ax.text(right + 1.3, 0.0, r"$\hat\epsilon$", ha="left", va="center", fontsize=12)
    middle_x = edge / 2
    pill(ax, middle_x - 5.6, 2.75, f"timestep t → {time_dim(config)} channels → every Res", TIME)
    pill(ax, middle_x + 5.6, 2.75, f"text, 77 × {config.cross_attention_dim} → every Attn", TEXT)
    legend(ax, edge, levels)
    return Described(figure, unet_in_words(config, side))


def box_of_the_middle(ax: Axes, middle: Sequence[Column]) -> None:
    """Draw the pale ground of the middle block, and its name."""
    y = -ROW * middle[0].level
    x, w = middle[0].x - 0.55, middle[1].x - middle[0].x + 1.1
    ax.add_patch(
        FancyBboxPatch((x, y - 1.28), w, 2.3, boxstyle="round,pad=0,rounding_size=0.2", fc=PALE,
                       ec="#cbd2d9", zorder=0)
    )  # fmt: skip
    ax.text(x + w / 2, y - 1.3, "middle block", ha="center", va="top", fontsize=7, color=MUTED)


def small_box(ax: Axes, x: float, y: float, name: str, colour: str, h: float) -> None:
    """Draw a box of a column with its name in small letters."""
    ax.add_patch(
        FancyBboxPatch((x - 0.4, y - h / 2), 0.8, h, boxstyle="round,pad=0,rounding_size=0.12",
                       fc=colour, ec=INK, lw=0.8, zorder=3)
    )  # fmt: skip
    ax.text(x, y, name, ha="center", va="center", fontsize=6.3, zorder=4, linespacing=1.0)


def draw_column(ax: Axes, column: Column) -> None:
    """Draw a convolution, a change of size, or a ResBlock above its transformer."""
    x, y = column.x, -ROW * column.level
    if column.kind == "layer":
        arrow(ax, [(x - 0.24, y + TALL / 2 + 0.42), (x - 0.24, y + TALL / 2 + 0.02)], TIME)
        if not column.depth:
            small_box(ax, x, y, "Res", CONV, TALL)
            return
        small_box(ax, x, y + TALL / 4 + 0.01, "Res", CONV, TALL / 2)
        times = f"\n× {column.depth}" * (column.depth > 1)
        small_box(ax, x, y - TALL / 4 - 0.01, f"Attn{times}", ATTENTION, TALL / 2)
        arrow(ax, [(x - 0.24, y - TALL / 2 - 0.42), (x - 0.24, y - TALL / 2 - 0.02)], TEXT)
        return
    name, colour = {"conv": ("conv", LINEAR), "down": ("↓ 2", MLP), "up": ("↑ 2", MLP)}[column.kind]
    small_box(ax, x, y, name, colour, SMALL)


def connect(ax: Axes, before: Column, after: Column) -> None:
    """Draw the arrow of the backbone from one column to the next."""
    y, half = -ROW * before.level, TALL / 2
    if after.kind == "down":
        arrow(ax, [(before.x, y - half), (after.x, y - ROW + SMALL / 2 + 0.02)], STREAM)
    elif after.kind == "up":
        arrow(ax, [(before.x + 0.2, y + half), (after.x + 0.2, y + ROW - SMALL / 2 - 0.02)], STREAM)
    else:
        arrow(ax, [(before.x + 0.4, y), (after.x - 0.41, y)], STREAM)


def draw_skips(ax: Axes, config: UNetConfig, down: Sequence[Column], up: Sequence[Column]) -> None:
    """Draw each skip connection as a dashed bracket, with its number of channels."""
    takers = [column for column in reversed(up) if column.kind == "layer"]
    per_level = config.layers_per_block + 1
    for k, (source, target, c) in enumerate(zip(down, takers, skip_widths(config), strict=True)):
        y = -ROW * source.level
        top = y + TALL / 2 + 0.38 + 0.34 * (per_level - k % per_level)
        tall = TALL if source.kind == "layer" else SMALL
        start, end = source.x + (0.0 if source.kind == "layer" else 0.22), target.x
        arrow(
            ax,
            [(start, y + tall / 2), (start, top), (end, top), (end, y + TALL / 2 + 0.02)],
            MUTED,
            dashed=True,
        )
        under = {"fc": "white", "ec": "none", "pad": 0.8}
        ax.text((start + end) / 2, top, f"{c}", ha="center", va="center", fontsize=6.5,
                color=MUTED, bbox=under, zorder=3)  # fmt: skip


def pill(ax: Axes, x: float, y: float, text: str, colour: str) -> None:
    """Write white text on a rounded ground of a colour."""
    ax.text(x, y, text, ha="center", va="center", fontsize=8.5, color="white", fontweight="bold",
            bbox={"boxstyle": "round,pad=0.4", "fc": colour, "ec": "none"})  # fmt: skip


def legend(ax: Axes, right: float, levels: int) -> None:
    """Say what the names mean, in the corner on the lower right."""
    y = -ROW * (levels - 1) + 0.75
    lines = (
        (CONV, "Res: ResBlock"),
        (ATTENTION, "Attn: SpatialTransformer"),
        (MLP, "↓ 2, ↑ 2: change of size"),
    )
    for k, (colour, text) in enumerate(lines):
        ax.add_patch(
            FancyBboxPatch((right - 4.6, y - 0.6 * k - 0.17), 0.5, 0.34,
                           boxstyle="round,pad=0,rounding_size=0.08", fc=colour, ec=INK, lw=0.7)
        )  # fmt: skip
        ax.text(right - 3.85, y - 0.6 * k, text, ha="left", va="center", fontsize=7.5)
    arrow(ax, [(right - 4.7, y - 1.8), (right - 4.0, y - 1.8)], MUTED, dashed=True)
    ax.text(right - 3.85, y - 1.8, "skip connection, channels", va="center", fontsize=7.5)


def unet_in_words(config: UNetConfig, side: int) -> str:
    """Describe the drawn U-Net."""
    widths, layers = config.block_out_channels, config.layers_per_block
    rows = []
    for i, (c, attends) in enumerate(zip(widths, config.cross_attention, strict=True)):
        size = -(-side // 2**i)
        each = "ResBlock with transformer" if attends else "ResBlock"
        rows.append(
            f"At {size} × {size} with {c} channels there are {layers} × {each} in the "
            f"downsampling path and {layers + 1} × in the upsampling path"
        )
    return (
        "A diagram in the form of a U. The latent enters on the left through a convolution. "
        f"{'. '.join(rows)}. At the bottom is the middle block: ResBlock, transformer, ResBlock. "
        f"{len(skip_widths(config))} dashed skip connections lead from the left side to the right, "
        f"{layers + 1} on each level, with {', '.join(map(str, skip_widths(config)))} channels. A "
        "short arrow for the timestep enters every ResBlock, and one for the text every "
        "transformer. A convolution on the right gives the predicted noise."
    )
