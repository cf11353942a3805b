"""The two diagrams of the U-Net: a ResBlock, and the whole network drawn from a configuration.

Both are upright and have large letters, so that they can be read on a phone. Lengths are in inches.
"""

import io
from collections import Counter

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image, ImageColor

from sdlearn.course.figures import diagrams
from sdlearn.course.figures.diagrams import (
    ATTENTION,
    CONV,
    LINEAR,
    MLP,
    NORM,
    TEXT,
    TIME,
    arrow,
    plus,
)
from sdlearn.course.figures.images import png
from sdlearn.course.figures.plots import NARROW
from sdlearn.course.figures.style import INK, MUTED, PALE, Described, in_style
from sdlearn.unet import UNetConfig, skip_widths, time_dim

BORDER = "#cbd2d9"  # of a pale ground


def upright(height: float, title: str) -> tuple[Figure, Axes]:
    """Create a figure without visible axes whose unit is an inch, with the origin at the top."""
    figure, ax = diagrams.canvas(NARROW, height, inches=NARROW, dpi=90)
    ax.set_ylim(-height, 0)
    ax.text(0.08, -0.08, title, ha="left", va="top", fontsize=12, fontweight="bold")
    return figure, ax


def block(ax: Axes, x: float, y: float, name: str, colour: str, w: float, h: float) -> None:
    """Draw a rounded box centred at (x, y) with its name inside."""
    ax.add_patch(
        FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle="round,pad=0,rounding_size=0.05",
                       fc=colour, ec=INK, lw=0.9, zorder=3)
    )  # fmt: skip
    ax.text(x, y - 0.01, name, ha="center", va="center", fontsize=10, zorder=4, linespacing=1.15)


def ground(ax: Axes, left: float, right: float, top: float, bottom: float) -> None:
    """Draw a pale rounded area behind boxes that belong together."""
    ax.add_patch(
        FancyBboxPatch((left, bottom), right - left, top - bottom, zorder=0, fc=PALE, ec=BORDER,
                       boxstyle="round,pad=0,rounding_size=0.09")
    )  # fmt: skip


def write(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    colour: str = INK,
    side: str = "center",
    size: float = 10,
) -> None:
    """Write a text at (x, y)."""
    ax.text(x, y, text, ha=side, va="center", fontsize=size, color=colour, linespacing=1.2)


@in_style
def res_block() -> Described:
    """Draw a ResBlock: the branch downwards, the residual connection to its right, the timestep."""
    figure, ax = upright(5.75, "A ResBlock")
    x, around, time, w, h = 2.72, 4.43, 0.82, 1.6, 0.34
    rows = [-1.15 - 0.5 * k for k in range(8)]
    first, last = rows[3], rows[7]  # the two additions
    ground(ax, 1.72, NARROW - 0.08, -0.68, -4.98)
    write(ax, x, -0.5, "x  (b, c_in, h, w)")
    arrow(ax, [(x, -0.61), (x, rows[0] + h / 2)])
    layers = (
        ("norm1: GroupNorm", NORM),
        ("SiLU", MLP),
        ("conv1: 3 × 3 conv", CONV),
        None,
        ("norm2: GroupNorm", NORM),
        ("SiLU", MLP),
        ("conv2: 3 × 3 conv", CONV),
        None,
    )
    for k, (layer, y) in enumerate(zip(layers, rows, strict=True)):
        half = h / 2 if layer else 0.12
        if k:
            above = h / 2 if layers[k - 1] else 0.12
            arrow(ax, [(x, rows[k - 1] - above), (x, y + half)])
        if layer is None:
            plus(ax, x, y, 0.12)
        else:
            block(ax, x, y, *layer, w, h)
    arrow(ax, [(x, last - 0.12), (x, -5.22)])
    write(ax, x, -5.4, "output  (b, c_out, h, w)")
    arrow(ax, [(x, -0.82), (around, -0.82), (around, last), (x + 0.13, last)])
    shortcut = "conv_shortcut:\n1 × 1 conv if\nc_in ≠ c_out"
    block(ax, around, rows[3] - 0.12, shortcut, LINEAR, 1.22, 0.66)
    write(ax, around - 0.08, rows[1] + 0.25, "residual\nconnection", MUTED, "right", 9)
    write(ax, time, rows[0] + 0.03, "emb\n(b, time_dim)", TIME)
    block(ax, time, rows[1], "SiLU", MLP, 1.1, h)
    block(ax, time, rows[2], "Linear", LINEAR, 1.1, h)
    arrow(ax, [(time, rows[0] - 0.17), (time, rows[1] + h / 2)], TIME)
    arrow(ax, [(time, rows[1] - h / 2), (time, rows[2] + h / 2)], TIME)
    arrow(ax, [(time, rows[2] - h / 2), (time, first), (x - 0.13, first)], TIME)
    shape = "(b, c_out, 1, 1):\none value for each\nchannel, the same\nat all positions"
    write(ax, 0.08, first - 0.36, shape, TIME, "left", 9)
    words = (
        "A diagram from top to bottom. The feature map x goes through a branch of GroupNorm, SiLU, "
        "3 × 3 convolution, an addition, and again GroupNorm, SiLU and 3 × 3 convolution. At the "
        "addition the time embedding enters from the left, through a SiLU and a linear layer, with "
        "one value for each channel. To the right, a residual connection leads x around the "
        "branch, through a 1 × 1 convolution if the number of channels changes, and is added to "
        "the branch's result."
    )
    return Described(figure, words)


# ------------------------------------------------------------------------------------------ the U

LEFT, RIGHT = 1.11, 4.09  # centres of the two paths
BOX, HALF, GAP, HEADING = 1.3, 0.215, 0.135, 0.42  # width of a box, height of half a layer, ...


@in_style
def unet_diagram(config: UNetConfig, title: str, side: int) -> Described:
    """Draw a U-Net as a ladder: down on the left, up on the right, a rung for each skip.

    Args:
        config: Of the U-Net.
        title: Of the figure.
        side: Height and width of the latent.
    """
    depths = [
        depth * attends
        for depth, attends in zip(config.transformer_depth, config.cross_attention, strict=True)
    ]
    per_level, widths = config.layers_per_block + 1, skip_widths(config)
    levels = range(len(depths))
    tall = [(2 * HALF if depths[i] else 1.3 * HALF) + GAP for i in levels]
    height = 1.68 + sum(HEADING + per_level * tall[i] + 0.08 for i in levels) + 1.0
    figure, ax = upright(height, title)
    legend(ax, config)
    y = -1.64
    inner = f"{config.in_channels} × {side} × {side}"
    write(ax, LEFT, y + 0.13, f"$z_t$  ({inner})")
    write(ax, RIGHT, y + 0.13, rf"$\hat\epsilon$  ({inner})")
    down, up = y + 0.03, y + 0.03  # where the next arrow of each path begins or ends
    for i in levels:
        top = y
        middle = y - HEADING / 2
        size = -(-side // 2**i)
        text = f"{size} × {size}, {config.block_out_channels[i]} channels"
        ax.text(2.26, middle, text, ha="center", va="center", fontsize=10, fontweight="bold")
        block(ax, RIGHT, middle, "upsampling" if i else "norm, SiLU, conv", MLP if i else LINEAR,
              BOX, 1.3 * HALF)  # fmt: skip
        arrow(ax, [(RIGHT, middle + 0.65 * HALF), (RIGHT, up)])
        up = middle - 0.65 * HALF
        y -= HEADING
        for j in range(per_level):
            centre = y - (tall[i] - GAP) / 2
            half = tall[i] / 2 - GAP / 2
            rung = centre - HALF / 2 if depths[i] else centre
            if j == 0:
                block(ax, LEFT, rung, "downsampling" if i else "conv", MLP if i else LINEAR, BOX,
                      HALF if depths[i] else 1.3 * HALF)  # fmt: skip
                end = rung + (HALF if depths[i] else 1.3 * HALF) / 2
            else:
                draw_layer(ax, LEFT, centre, depths[i], downwards=True)
                end = centre + half
            draw_layer(ax, RIGHT, centre, depths[i], downwards=False)
            arrow(ax, [(LEFT, down), (LEFT, end)])
            arrow(ax, [(RIGHT, centre + half), (RIGHT, up)])
            down = up = centre - half
            ends = LEFT + BOX / 2, RIGHT - BOX / 2
            arrow(ax, [(ends[0], rung), (ends[1], rung)], MUTED, dashed=True)
            number = i * per_level + j
            ax.text(sum(ends) / 2 - 0.04, rung, f"skip {number + 1}: {widths[number]}", va="center",
                    ha="center", fontsize=9.5, zorder=3,
                    bbox={"fc": PALE, "ec": "none", "pad": 1.0})  # fmt: skip
            y -= tall[i]
        ground(ax, 0.08, NARROW - 0.08, top, y + GAP / 2)
        y -= 0.08
    draw_middle(ax, config, side, y, down)
    return Described(figure, unet_in_words(config, side))


def legend(ax: Axes, config: UNetConfig) -> None:
    """Say below the title what the three colours of arrows bring."""
    for y, colour, text in (
        (-0.56, TIME, f"timestep, {time_dim(config)} channels → every ResBlock"),
        (-0.84, TEXT, f"text, 77 × {config.cross_attention_dim} → every transformer"),
    ):
        arrow(ax, [(0.12, y), (0.48, y)], colour)
        write(ax, 0.58, y, text, colour, "left")
    arrow(ax, [(0.12, -1.12), (0.48, -1.12)], MUTED, dashed=True)
    write(ax, 0.58, -1.12, "skip connection, with its channels", MUTED, "left")


def draw_layer(ax: Axes, x: float, y: float, depth: int, downwards: bool) -> None:
    """Draw a ResBlock and its transformer, if it has one, in the direction of the path."""
    outside = -1 if x < NARROW / 2 else 1
    sign = 1 if downwards else -1
    parts = [("ResBlock", CONV, TIME, sign * HALF / 2)]
    if depth:
        times = f" × {depth}" * (depth > 1)
        parts.append((f"transformer{times}", ATTENTION, TEXT, -sign * HALF / 2))
    for name, colour, enters, shift in parts:
        at = y + shift if depth else y
        block(ax, x, at, name, colour, BOX, HALF if depth else 1.3 * HALF)
        edge = x + outside * BOX / 2
        arrow(ax, [(edge + outside * 0.32, at), (edge + outside * 0.01, at)], enters)


def draw_middle(ax: Axes, config: UNetConfig, side: int, top: float, above: float) -> None:
    """Draw the middle block below the ladder, from the left path to the right one."""
    size = smallest(config, side)
    y, h, depth = top - 0.53, 1.3 * HALF, config.transformer_depth[-1]
    ground(ax, 0.08, NARROW - 0.08, top, top - 0.92)
    text = f"middle block: {size} × {size}, {config.block_out_channels[-1]} channels"
    ax.text(NARROW / 2, top - 0.2, text, ha="center", va="center", fontsize=9.5,
            fontweight="bold")  # fmt: skip
    for x, way in ((LEFT, [above, y + h / 2]), (RIGHT, [y + h / 2, above])):
        arrow(ax, [(x, at) for at in way])
        block(ax, x, y, "ResBlock", CONV, BOX, h)
        outside = -1 if x == LEFT else 1
        edge = x + outside * BOX / 2
        arrow(ax, [(edge + outside * 0.32, y), (edge + outside * 0.01, y)], TIME)
    times = f" × {depth}" * (depth > 1)
    wide = 1.3 if times else 1.1
    block(ax, NARROW / 2, y, f"transformer{times}", ATTENTION, wide, h)
    arrow(ax, [(LEFT + BOX / 2, y), (NARROW / 2 - wide / 2, y)])
    arrow(ax, [(NARROW / 2 + wide / 2, y), (RIGHT - BOX / 2, y)])
    arrow(ax, [(NARROW / 2, y - 0.36), (NARROW / 2, y - h / 2)], TEXT)


def smallest(config: UNetConfig, side: int) -> int:
    """Return the height and width of the smallest map."""
    return -(-side // 2 ** (len(config.block_out_channels) - 1))


def few_colours(drawn: Described, colours: int = 32) -> Described:
    """Turn a diagram into an image of its most frequent colours, which takes less room.

    The colours of arrows and text are kept even if others are more frequent.
    """
    image = Image.open(io.BytesIO(png(drawn.figure))).convert("RGB")
    counts = Counter(zip(*(channel.tobytes() for channel in image.split()), strict=True))
    kept = [ImageColor.getrgb(colour) for colour in (INK, MUTED, TIME, TEXT)]
    frequent = [colour for colour, _ in counts.most_common(colours)]
    chosen = list(dict.fromkeys([*kept, *frequent]))[:colours]
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for colour in chosen for value in colour])
    return Described(image.quantize(palette=palette, dither=Image.Dither.NONE), drawn.words)


def unet_in_words(config: UNetConfig, side: int) -> str:
    """Describe the drawn U-Net."""
    widths, layers = config.block_out_channels, config.layers_per_block
    skips = skip_widths(config)
    rows = []
    for i, (c, attends) in enumerate(zip(widths, config.cross_attention, strict=True)):
        size = -(-side // 2**i)
        kind = "ResBlock" if layers == 1 else "ResBlocks"
        if attends:
            kind += " with a transformer" if layers == 1 else " with a transformer each"
        taken = ", ".join(map(str, skips[i * (layers + 1) : (i + 1) * (layers + 1)]))
        rows.append(
            f"At {size} × {size} with {c} channels the left has {layers} {kind}, the right "
            f"{layers + 1}, and the skips have {taken} channels"
        )
    return (
        "A diagram in the form of a ladder. On the left the latent goes down through a convolution "
        f"and the levels, with a downsampling between two of them. {'. '.join(rows)}. At the "
        f"bottom the middle block, at {smallest(config, side)} × {smallest(config, side)} with "
        f"{widths[-1]} channels, consists of a ResBlock, a transformer and a ResBlock and leads to "
        "the right, where the path goes up through the levels, with an upsampling between two of "
        "them, and ends in a norm, a SiLU and a convolution, which gives the predicted noise. "
        f"{len(skips)} dashed skip connections are the rungs, {layers + 1} on each level. An arrow "
        "for the timestep enters every ResBlock, and one for the text every transformer."
    )
