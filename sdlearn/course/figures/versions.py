"""Figures of notebook 15: what the versions differ in, weight files, costs."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdlearn.course.figures.diagrams import ATTENTION, CONV, LINEAR, NORM, arrow
from sdlearn.course.figures.plots import NARROW, axes_for, titled
from sdlearn.course.figures.style import (
    BLUE,
    GREY,
    MUTED,
    ORANGE,
    VERMILION,
    Described,
    in_style,
    tint,
)
from sdlearn.course.figures.unet_diagrams import block, upright, write
from sdlearn.unet import UNetConfig
from sdlearn.weights.ldm_keys import map_key, unet_key_map

MONOSPACE = 0.602 / 72  # width of a monospaced letter of one point, in inches


@in_style
def changes(steps: Sequence[tuple[str, float, float]]) -> Described:
    """Draw how parameters and operations change from one version to the next, change by change.

    Args:
        steps: Name, parameters in millions and GFLOPs of one evaluation after each change. A name
            with a size, such as "512 × 512", is that of a version; its bars are darker.
    """
    figure = Figure(figsize=(NARROW, 0.8 + 0.78 * len(steps)), dpi=100, layout="constrained")
    panels = figure.subplots(2, 1)
    titles = ("Parameters of the U-Net, millions", "One evaluation, GFLOPs")
    columns = [step[1] for step in steps], [step[2] for step in steps]
    names = [name if "×" in name else f"+ {name}" for name, *_ in steps]
    for ax, title, colour, values in zip(panels, titles, (BLUE, ORANGE), columns, strict=True):
        shades = [colour if "×" in step[0] else tint(colour, 0.45) for step in steps]
        bars = ax.barh(range(len(steps)), values, height=0.66, color=shades)
        ax.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=9)
        ax.set(title=title, xlim=(0, 1.2 * max(values)), xticks=[])
        ax.set_yticks(range(len(steps)), names, fontsize=9)
        ax.invert_yaxis()
        ax.grid(False)
        ax.spines["bottom"].set_visible(False)
    told = (f"{n.replace(chr(10), ' ')}: {p:,.0f} and {f:,.0f}" for n, p, f in steps)
    return Described(
        figure,
        "Two panels of bars, after each change: millions of parameters, and GFLOPs. "
        f"{'; '.join(told)}.",
    )


@in_style
def file_map(header: int, entry: str, first: int, end: int, total: int) -> Described:
    """Draw the three pieces of a safetensors file, and the way from an entry to its values.

    Args:
        header: Length of the header in bytes.
        entry: One entry of the header. Its last line ends with the offsets.
        first: The byte of the file at which its values begin.
        end: The byte at which they end.
        total: Length of the file.
    """
    figure, ax = upright(2.6, "A safetensors file, not to scale")
    y, h, text = -1.05, 0.56, -2.2
    pieces = (
        (0.78, "length:\n8 bytes", NORM, "0", MUTED),
        (1.45, f"header, JSON:\n{header:,} bytes", LINEAR, "8", MUTED),
        (0.98, "values", CONV, f"{8 + header:,}", MUTED),
        (0.95, "these\nvalues", ATTENTION, f"{first:,}", VERMILION),
        (0.88, "values", CONV, "", MUTED),
    )
    x, centres = 0.08, []
    for width, name, colour, byte, shade in pieces:
        block(ax, x + width / 2, y, name, colour, width - 0.05, h)
        write(ax, x + 0.02, y + h / 2 + 0.13, byte, shade, "left", 9)
        centres.append(x + width / 2)
        x += width
    write(ax, x, y + h / 2 + 0.13, f"{total:,}", MUTED, "right", 9)
    ax.text(0.08, text, entry, va="center", fontsize=9, family="monospace", linespacing=1.4)
    ends = 0.08 + 9 * MONOSPACE * (len(entry.rsplit("\n", maxsplit=1)[-1]) - 6)
    arrow(ax, [(centres[1], y - h / 2), (centres[1], text + 0.24)], MUTED)
    bent = [(ends, -1.72), (centres[3], -1.72)]
    arrow(ax, [(ends, text + 0.03), *bent, (centres[3], y - h / 2)], VERMILION)
    words = (
        f"A row of three pieces: 8 bytes with the header's length; the header, {header:,} bytes of "
        f"JSON; the values of all tensors one after the other, up to byte {total:,}. The entry "
        f"{entry!r} points to bytes {first:,} to {end:,}."
    )
    return Described(figure, words)


@in_style
def block_numbers(config: UNetConfig, title: str) -> Described:
    """Draw the blocks of a U-Net in the order of execution, with their names in both layouts.

    Args:
        config: Of the U-Net.
        title: Of the figure.
    """
    keys, layers = unet_key_map(config), config.layers_per_block
    levels = len(config.cross_attention)
    down: list[tuple[str, ...]] = []
    up: list[tuple[str, ...]] = []
    for b in range(levels):
        for n in range(layers):
            has = config.cross_attention[b]
            both = (f"down_blocks.{b}.resnets.{n}", f"down_blocks.{b}.attentions.{n}")
            down.append(both if has else both[:1])
        if b < levels - 1:
            down.append((f"down_blocks.{b}.downsamplers.0.conv",))
        for n in range(layers + 1):
            names: tuple[str, ...] = (f"up_blocks.{b}.resnets.{n}",)
            names += (f"up_blocks.{b}.attentions.{n}",) * config.cross_attention[-1 - b]
            names += (f"up_blocks.{b}.upsamplers.0.conv",) * (n == layers and b < levels - 1)
            up.append(names)
    middle = tuple(f"mid_block.{each}" for each in ("resnets.0", "attentions.0", "resnets.1"))
    parts = (
        ("", "input_blocks.", 0, [("conv_in",)]),
        ("down_blocks.", "input_blocks.", 1, down),
        ("mid_block.", "middle_block", None, [middle]),
        ("up_blocks.", "output_blocks.", 0, up),
    )
    row, left, told = 0.36, 1.36, []
    figure, ax = upright(row * (len(down) + len(up) + 5) + 0.45, title)
    y = -0.62
    for heading, theirs, number, blocks in parts:
        if heading:
            write(ax, left + 0.04, y - 0.03, heading, MUTED, "left", 9)
            y -= row - 0.03
        for k, names in enumerate(blocks):
            other = theirs if number is None else f"{theirs}{number + k}"
            write(ax, 0.08, y, other, VERMILION, "left", 9)
            width = (NARROW - 0.06 - left) / len(names)
            for j, name in enumerate(names):
                place = str(j) if number is None else map_key(name, keys).split(".")[2]
                draw_block(ax, left + width * j, y, width, name, place)
                if number is not None:
                    told.append(f"{name} is {map_key(name, keys)}")
            y -= row
    return Described(figure, f"The blocks on the way down and up. {'; '.join(told)}.")


def draw_block(ax: Axes, left: float, y: float, width: float, name: str, place: str) -> None:
    """Draw one block with our name inside, shortened, and its last number in the other layout."""
    path = name.replace("mid_block.", "").split("_blocks.")[-1].removesuffix(".conv")
    kinds = {"resnets": CONV, "attentions": ATTENTION}
    colour = next((kinds[kind] for kind in kinds if kind in path), NORM)
    path = path.replace("attentions", "attn").replace("resnets", "res")
    path = path.replace("upsamplers", "up").replace("downsamplers", "down")
    block(ax, left + width / 2, y, "", colour, width - 0.05, 0.29)
    chip = {"fc": "white", "ec": "none", "pad": 1.5}
    ax.text(left + 0.09, y, f".{place}", fontsize=9, va="center_baseline", color=VERMILION,
            weight="bold", bbox=chip, zorder=5)  # fmt: skip
    ax.text(left + 0.16 + width / 2, y, path, fontsize=9, ha="center", va="center_baseline",
            zorder=4)  # fmt: skip


@in_style
def missing_tensors(effects: Mapping[str, float], threshold: float = 0.01) -> Described:
    """Draw, sorted, how much each tensor's absence changes a prediction.

    Args:
        effects: By the tensor's name, the relative change.
        threshold: Changes below it are pale.
    """
    label = "relative change of the prediction"
    figure, ax = axes_for("", "tensors, sorted by their effect", label, 6.0)
    titled(figure, "One tensor missing at a time")
    order = sorted(effects, key=lambda name: effects[name])
    floor = 1e-5
    for is_bias, colour, mark, kind in (
        (False, BLUE, "o", "weights"), (True, VERMILION, "^", "biases"),
    ):  # fmt: skip
        at = [k for k, name in enumerate(order) if name.endswith("bias") == is_bias]
        values = [max(effects[order[k]], floor) for k in at]
        ax.plot(at, values, mark, ms=3.4, color=colour, ls="")
        ax.text(0.03, 0.92 - 0.08 * is_bias, f"{'▲' if is_bias else '●'} {kind}", color=colour,
                transform=ax.transAxes, fontsize=9.5)  # fmt: skip
    ax.axhline(threshold, color=GREY, lw=1, ls="--")
    below = sum(value < threshold for value in effects.values())
    ax.text(len(order), threshold * 0.8, f"{threshold:.0%}", color=MUTED, fontsize=9, ha="right",
            va="top")  # fmt: skip
    ax.set(yscale="log", ylim=(floor / 1.5, 3))
    biases = [value for name, value in effects.items() if name.endswith("bias")]
    return Described(
        figure,
        f"{len(order)} points on a logarithmic scale, sorted. {below} are below {threshold:.0%}. "
        f"The largest is {max(effects.values()):.2f}, the largest of a bias {max(biases):.3f}.",
    )


@in_style
def block_seconds(rows: Sequence[tuple[str, int, float]], title: str) -> Described:
    """Draw the time of a U-Net's blocks, one bar for each kind and resolution.

    Args:
        rows: Kind, in the plural, and resolution; how many there are; their seconds together.
        title: Of the figure.
    """
    figure, ax = axes_for("", "", "", 6.0)
    figure.set_size_inches(6.0, 0.6 + 0.4 * len(rows))
    titled(figure, title)
    colours = [tint(ORANGE, 0.8) if "transformer" in row[0] else tint(BLUE, 0.7) for row in rows]
    bars = ax.barh(range(len(rows)), [row[2] for row in rows], height=0.68, color=colours)
    ax.bar_label(bars, [f"{seconds:.1f} s" for *_, seconds in rows], padding=3, fontsize=9)
    names = [f"{n} {name.replace('s,', ',') if n == 1 else name}" for name, n, _ in rows]
    ax.set_yticks(range(len(rows)), names, fontsize=9)
    ax.set(xlim=(0, 1.15 * max(row[2] for row in rows)), xticks=[])
    ax.invert_yaxis()
    ax.grid(False)
    ax.spines["bottom"].set_visible(False)
    told = "; ".join(f"{n}: {row[2]:.1f} s" for n, row in zip(names, rows, strict=True))
    return Described(figure, f"Bars: seconds of processor time of one evaluation. {told}.")


@in_style
def version_costs(
    weights: Mapping[str, float], activations: Mapping[str, float], title: str
) -> Described:
    """Draw the memory of a system: a bar for the weights and activations of each network.

    The networks run one after the other, so only the largest activations count. The other bars of
    activations are pale.

    Args:
        weights: Gigabytes by network.
        activations: Gigabytes at the peak by network.
        title: Of the figure.
    """
    names = [f"weights, {name}" for name in weights]
    names += [f"activations, {name}" for name in activations]
    values = [*weights.values(), *activations.values()]
    counts = [value == max(activations.values()) for value in activations.values()]
    colours = [tint(BLUE, 0.7)] * len(weights)
    colours += [tint(VERMILION, 0.6 if one else 0.2) for one in counts]
    figure = Figure(figsize=(6.6, 0.9 + 0.4 * len(names)), dpi=100, layout="constrained")
    ax = figure.subplots()
    bars = ax.barh(range(len(names)), values, color=colours, height=0.66)
    ax.bar_label(bars, [f"{value:.2f}" for value in values], padding=3, fontsize=9)
    ax.set_yticks(range(len(names)), names, fontsize=9)
    ax.set(title=title, xlabel="GB", xlim=(0, 1.12 * max(values)))
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    parts, peaks = (", ".join(f"{n} {g:.2f}" for n, g in d.items()) for d in (weights, activations))
    return Described(figure, f"Bars of memory in GB. Weights: {parts}. Activations: {peaks}.")
