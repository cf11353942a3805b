"""Charts for notebook 01: what a U-Net costs, and how well compressed images are restored."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from sdlearn.course.figures.latents import narrow
from sdlearn.course.figures.plots import STYLES
from sdlearn.course.figures.style import (
    BLUE,
    GREEN,
    MUTED,
    PURPLE,
    VERMILION,
    Described,
    in_style,
)


def beside(ax: Axes, name: str, at: Any, shift: Any, colour: str, side: str = "left") -> None:
    """Write the name of a line near one of its points, `shift` in points away from it."""
    ax.annotate(name, at, shift, textcoords="offset points", color=colour, ha=side, fontsize=11)


@in_style
def unet_cost(
    sides: Sequence[int], seconds: Sequence[float], megabytes: Sequence[float], unit: int = 32
) -> Described:
    """Draw time and memory of one U-Net call per position, over the number of positions.

    Args:
        sides: Of the square inputs, in positions.
        seconds: For each side.
        megabytes: For each side.
        unit: The side whose cost per position is drawn as 1.
    """
    figure, ax = narrow(0.68)
    ax.set(title="What one position costs in a small U-Net", xlabel="positions n (height × width)")
    ax.set_ylabel(f"cost per position,\nrelative to {unit} × {unit}")
    positions = [side**2 for side in sides]
    at = list(sides).index(unit)
    share = [n / unit**2 for n in positions]
    lines = (
        ("cost ∝ n", [1.0] * len(share), ":", MUTED, -15),
        ("cost ∝ n²", share, "-.", MUTED, -4),
        ("memory", [m / megabytes[at] / n for m, n in zip(megabytes, share, strict=True)],
         "s--", VERMILION, 7),
        ("time", [s / seconds[at] / n for s, n in zip(seconds, share, strict=True)],
         "o-", BLUE, -4),
    )  # fmt: skip
    for name, values, style, colour, up in lines:
        ax.plot(positions, values, style, color=colour, label=name)
        beside(ax, name, (positions[-1], values[-1]), (9, up), colour)
    ax.set(xscale="log", yscale="log", xlim=(positions[0] / 1.6, positions[-1] * 5))
    ax.set_ylim(0.4, 1.5 * share[-1])
    ax.set_xticks(positions, [f"{side}²" for side in sides])
    ax.set_yticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
    ax.minorticks_off()
    words = (
        f"Time and memory of one call, divided by the positions, for {sides[0]} × {sides[0]} to "
        f"{sides[-1]} × {sides[-1]} positions, on logarithmic axes. A level line is a cost that "
        f"grows with the positions, and a rising one a cost that grows with their square. All "
        f"meet at {unit} × {unit}. The memory stays close to the level line. The time of a "
        "position first falls, then rises, though less steeply than the line of the square."
    )
    return Described(figure, words)


@in_style
def reconstruction_fid(
    published: Sequence[tuple[int, int, float, float]],
    marked: Sequence[tuple[int, int]],
    side: int = 512,
) -> Described:
    """Draw the R-FID of autoencoders over the positions of their latents.

    Args:
        published: Downsampling factor f, channels c, PSNR and R-FID of each.
        marked: The (f, c) that are highlighted, up to three, in the order of `published`. A line
            joins them if their latents have equally many elements.
        side: Of the image, in pixels.
    """
    figure, ax = narrow(0.68)
    ax.set(title="Reconstruction error against positions", ylabel="R-FID (lower is better)")
    ax.set_xlabel(f"positions of the latent of {side} × {side} pixels")
    # Around the line through the highlighted points: the last of three is labelled above it.
    places = [((9, -4), "left"), ((0, -19), "center"), ((-27, 9), "left")]
    told: list[str] = []
    line: list[tuple[int, float]] = []
    last = (side // min(row[0] for row in published)) ** 2
    for f, c, _, fid in published:
        positions, chosen = (side // f) ** 2, (f, c) in marked
        colour = VERMILION if chosen else BLUE
        ax.plot([positions], [fid], "D" if chosen else "o", color=colour, ms=8, ls="none")
        # The label of the last point is to its left.
        shift, align = ((-9, -4), "right") if positions == last else ((9, -4), "left")
        if chosen:
            shift, align = places[min(len(line), 2)]
            line.append((positions, fid))
        beside(ax, f"f = {f}, c = {c}", (positions, fid), shift, colour, align)
        told.append(f"f = {f} and c = {c}: {positions:,} positions, {fid:g}")
    same = ""
    fewer = {3 * f**2 / c for f, c in marked}
    if len(fewer) == 1 < len(marked):
        ax.plot(*zip(*line, strict=True), color=VERMILION, lw=1)
        same = f"{fewer.pop():g} times fewer elements"
        beside(ax, same, line[1], (4, 10), VERMILION)
        same = f", joined by a line, with {same} than the image"
    sides = sorted({side // f for f, *_ in published})
    ax.set(xscale="log", yscale="log", xlim=(sides[0] ** 2 / 2, sides[-1] ** 2 * 2))
    ax.set_xticks([n**2 for n in sides], [f"{n}²" for n in sides])
    ax.set_yticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
    ax.minorticks_off()
    words = (
        "R-FID against positions, on logarithmic axes, one point for each autoencoder. "
        f"{'; '.join(told)}. The fewer positions, the worse, unless there are more channels. "
        f"Highlighted are {'; '.join(f'f = {f} and c = {c}' for f, c in marked)}{same}."
    )
    return Described(figure, words)


@in_style
def rate_distortion(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    points: Mapping[str, tuple[float, float]],
    title: str,
) -> Described:
    """Draw PSNR in decibels over the number of values kept of a patch.

    Args:
        lines: Up to four curves (values kept, PSNR), by name.
        points: Up to two single results (values kept, PSNR), by name.
        title: Of the figure.
    """
    figure, ax = narrow(0.68)
    ax.set(title=title, xlabel="values kept per patch (of 192)", ylabel="PSNR (dB)")
    colours = (BLUE, GREEN, PURPLE, MUTED)
    for (name, (xs, ys)), style, colour in zip(lines.items(), STYLES, colours, strict=False):
        ax.plot(xs, ys, style, color=colour, label=name)
        shift, side = ((14, -20), "center") if ax.lines[1:] else ((-12, -4), "right")
        beside(ax, name, (xs[-1], ys[-1]), shift, colour, side)
    for (name, (x, y)), marker in zip(points.items(), ("*", "P")[: len(points)], strict=True):
        ax.plot([x], [y], marker, color=VERMILION, ms=14, ls="none", label=name)
        beside(ax, f"{name}: {y:.1f} dB", (x, y), (12, -4), VERMILION)
    ticks = sorted({x for xs, _ in lines.values() for x in xs})
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
    ax.minorticks_off()
    curves = "; ".join(
        f"{name}: {ys[0]:.1f} dB at {xs[0]:g}, {ys[-1]:.1f} dB at {xs[-1]:g}"
        for name, (xs, ys) in lines.items()
    )
    single = "; ".join(f"{name}: {y:.1f} dB at {x:g}" for name, (x, y) in points.items())
    words = (
        "PSNR against the number of values kept of a patch. All curves rise. "
        f"{curves}. A single point for {single}."
    )
    return Described(figure, words)
