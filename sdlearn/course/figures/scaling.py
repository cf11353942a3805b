"""Charts of notebook 17: memory, number formats, gradients, loss scales, shuffling, budgets."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from sdlearn.course.figures.overview import apart
from sdlearn.course.figures.plots import NARROW
from sdlearn.course.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    VERMILION,
    Described,
    in_style,
    tint,
)

PIECES = {  # of the memory of a training step
    "weights": BLUE,
    "gradients": ORANGE,
    "Adam's moments": GREEN,
    "EMA": PURPLE,
    "activations": tint(VERMILION, 0.75),
}


@in_style
def memory_bars(
    rows: Mapping[str, Mapping[str, float]], title: str, limits: Mapping[str, float] | None = None
) -> Described:
    """Draw the memory of training steps as stacked bars.

    Args:
        rows: For each bar its pieces in gigabytes, by the names of PIECES.
        title: Of the figure.
        limits: Memory of devices in gigabytes, by name, drawn as lines.
    """
    figure = Figure(figsize=(NARROW, 1.35 + 0.5 * len(rows)), dpi=100, layout="constrained")
    ax = figure.subplots()
    totals = [sum(pieces.values()) for pieces in rows.values()]
    most = 1.16 * max([*totals, *(limits or {}).values()])
    for k, pieces in enumerate(rows.values()):
        left = 0.0
        for name, size in pieces.items():
            ax.barh(k, size, left=left, height=0.62, color=PIECES[name], edgecolor="white", lw=0.8)
            left += size
        ax.text(left + 0.01 * most, k, f"{left:.1f} GB", va="center", fontsize=9)
    for name, size in (limits or {}).items():
        ax.axvline(size, color=INK, lw=1.1, ls="--")
        ax.text(size, -0.62, f"{name} ", ha="right", va="bottom", fontsize=8.5, color=INK)
    used = [name for name in PIECES if any(name in pieces for pieces in rows.values())]
    handles = [Rectangle((0, 0), 1, 1, color=PIECES[name]) for name in used]
    figure.legend(handles, used, loc="outside lower left", ncols=3, fontsize=9, handlelength=1)
    ax.set(title=title, xlabel="GB", xlim=(0, most), ylim=(len(rows) - 0.5, -0.95))
    ax.set_yticks(range(len(rows)), list(rows), fontsize=9)
    ax.grid(visible=False, axis="y")
    told = (
        f"{name.replace(chr(10), ' ')}: "
        + ", ".join(f"{piece} {size:.2f}" for piece, size in pieces.items())
        for name, pieces in rows.items()
    )
    lines = "".join(f" A line marks {n}, {size:g} GB." for n, size in (limits or {}).items())
    return Described(figure, f"Stacked bars of memory in GB. {'; '.join(told)}.{lines}")


@in_style
def growth(lines: Mapping[str, Mapping[int, float]], title: str, ylabel: str) -> Described:
    """Draw lines over the batch, with their names at their ends.

    Args:
        lines: For each name the value at each batch.
        title: Of the figure.
        ylabel: What the values are.
    """
    figure = Figure(figsize=(NARROW, 3.0), dpi=100, layout="constrained")
    ax = figure.subplots()
    styles = ((VERMILION, "o-"), (BLUE, "s--"), (GREEN, "^:"))
    ends = [list(values.values())[-1] for values in lines.values()]
    heights = apart(ends, 0.07 * max(ends))
    for (name, values), (colour, mark), height in zip(lines.items(), styles, heights, strict=False):
        ax.plot([*values], [*values.values()], mark, color=colour)
        ax.text(1.02 * max(values), height, name, color=colour, va="center", fontsize=9.5)
    ax.set(title=title, xlabel="images in the batch", ylabel=ylabel, ylim=(0, None))
    ax.set_xlim(0, 1.3 * max(next(iter(lines.values()))))
    ax.set_xticks([*next(iter(lines.values()))])
    told = (
        f"{name}: " + ", ".join(f"{value:.0f} at {n}" for n, value in values.items())
        for name, values in lines.items()
    )
    return Described(figure, f"Straight lines: {ylabel} over the batch. {'; '.join(told)}.")


# --------------------------------------------------------------------------------- number formats


@in_style
def number_formats(formats: Mapping[str, tuple[int, int]]) -> Described:
    """Draw the bits of number formats, and the range of their normal numbers.

    Args:
        formats: For each name the bits of the exponent and of the fraction.
    """
    figure = Figure(figsize=(NARROW, 1.1 + 0.9 * len(formats)), dpi=100, layout="constrained")
    bits, ranges = figure.subplots(2, 1)
    told = []
    for k, (name, (exponent, fraction)) in enumerate(formats.items()):
        colours = [INK] + [tint(VERMILION, 0.65)] * exponent + [tint(BLUE, 0.45)] * fraction
        for place, colour in enumerate(colours):
            corner = place, k - 0.34
            bits.add_patch(Rectangle(corner, 1, 0.68, facecolor=colour, ec="white", lw=0.8))
        bits.text(1 + exponent / 2, k, str(exponent), ha="center", va="center", fontsize=9)
        middle = 1 + exponent + fraction / 2
        bits.text(middle, k, str(fraction), ha="center", va="center", fontsize=9)
        bias = 2 ** (exponent - 1) - 1
        low, high = (1 - bias) * np.log10(2), (bias + 1) * np.log10(2)
        deep = low - fraction * np.log10(2)
        ranges.barh(k, high - low, left=low, height=0.5, color=tint(VERMILION, 0.65))
        ranges.barh(k, low - deep, left=deep, height=0.5, color=tint(VERMILION, 0.25))
        told.append(
            f"{name}: 1 sign bit, {exponent} exponent bits, {fraction} fraction bits, "
            f"normal numbers from 10^{low:.0f} to 10^{high:.0f}"
        )
    for ax in (bits, ranges):
        ax.set_ylim(len(formats) - 0.5, -0.6)
        ax.grid(visible=False)
        ax.spines["left"].set_visible(False)
        ax.set_yticks(range(len(formats)), list(formats), fontsize=10)
        ax.tick_params(axis="y", length=0)
    bits.set(xlim=(0, 32), xticks=[], title="Bits of sign, exponent and fraction")
    bits.spines["bottom"].set_visible(False)
    ticks = (-40, -20, 0, 20, 40)
    ranges.set(title="Range (pale: subnormal)", xticks=ticks)
    ranges.set_xticklabels(f"$10^{{{tick}}}$" if tick else "1" for tick in ticks)
    return Described(figure, f"The bits of {len(formats)} number formats. {'; '.join(told)}.")


@in_style
def gradient_sizes(gradient: Tensor, scale: float) -> Described:
    """Draw how large the values of a gradient are, before and after scaling, against fp16's range.

    Args:
        gradient: Any number of values, not 0.
        scale: The loss scale.
    """
    figure = Figure(figsize=(NARROW, 3.0), dpi=100, layout="constrained")
    ax = figure.subplots()
    sizes = gradient.abs().log2().numpy()
    zones = {"zero": (-38, -25), "subnormal": (-25, -14), "normal": (-14, 16), "infinite": (16, 23)}
    share = []
    for shift, colour, name in ((0.0, VERMILION, "unscaled"), (np.log2(scale), BLUE, "scaled")):
        counts, edges = np.histogram(sizes + shift, bins=np.arange(-60, 30))
        heights = counts / len(sizes)
        ax.stairs(heights, edges, fill=True, color=tint(colour, 0.35))
        ax.stairs(heights, edges, color=colour, lw=1.6)
        peak = int(heights.argmax())
        label = name if not shift else f"× {scale:,.0f}"
        ax.text(edges[peak] - 1.5, 1.05 * heights[peak], label, color=colour, fontsize=9.5)
        share.append(float(((sizes + shift) < -25).mean()))
    top = 1.3 * ax.get_ylim()[1]
    for name, (low, high) in zones.items():
        if low > -38:
            ax.axvline(low, color=INK, lw=1, ls="--")
        ax.text((low + high) / 2, 0.97 * top, name, fontsize=9, va="top", ha="center")
    ax.axvspan(-25, 16, color=tint(GREY, 0.18), zorder=0)
    ticks = range(-30, 21, 10)
    ax.set(title="The gradient's values, and what fp16 can hold", xlabel="absolute value",
           ylabel="share of the values", ylim=(0, top), xlim=(-38, 23))  # fmt: skip
    ax.set_xticks([*ticks], [f"$2^{{{tick}}}$" for tick in ticks])
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.0%}"))
    words = (
        f"Two histograms of one shape over the absolute value. Unscaled, {share[0]:.0%} of the "
        f"values are below 2^-25, where fp16 rounds to zero; multiplied by {scale:,.0f}, "
        f"{share[1]:.1%} are. "
        "Lines mark 2^-25, 2^-14, below which numbers are subnormal, and 2^16, above which they "
        "are infinite."
    )
    return Described(figure, words)


@in_style
def scale_history(scales: Sequence[float], skipped: Sequence[bool], title: str) -> Described:
    """Draw the loss scale of each step, with crosses on the steps that were skipped.

    Args:
        scales: With which each step's loss was multiplied.
        skipped: Whether the step was skipped.
        title: Of the figure.
    """
    figure = Figure(figsize=(NARROW, 2.15), dpi=100, layout="constrained")
    ax = figure.subplots()
    steps = np.arange(1, len(scales) + 1)
    ax.step(steps, np.log2(scales), where="mid", color=tint(BLUE, 0.6), lw=1.4)
    bad = np.array(skipped, dtype=bool)
    ax.plot(steps[~bad], np.log2(scales)[~bad], "o", color=BLUE, ms=5)
    ax.plot(steps[bad], np.log2(scales)[bad], "x", color=VERMILION, ms=8, mew=2)
    ax.text(0.99, 0.93, "× skipped: a gradient was infinite", color=VERMILION, fontsize=9.5,
            ha="right", transform=ax.transAxes)  # fmt: skip
    low, high = int(np.log2(min(scales))), int(np.log2(max(scales)))
    ticks = [*range(low, high + 1, max(1, (high - low) // 4))]
    ax.set(title=title, xlabel="step", ylabel="scale")
    ax.set_yticks(ticks, [f"$2^{{{tick}}}$" for tick in ticks])
    changes = ", ".join(f"2^{np.log2(s):.0f}" for s in scales)
    return Described(
        figure, f"The loss scale over {len(scales)} steps: {changes}. {int(bad.sum())} are skipped."
    )


# ---------------------------------------------------------------------------------- data and costs


@in_style
def shuffles(orders: Mapping[str, Sequence[int]]) -> Described:
    """Draw where items end up, for several ways of shuffling, side by side.

    Args:
        orders: For each name the items' old places, in their new order.
    """
    figure = Figure(figsize=(NARROW, 2.15), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(orders), sharey=True)
    told = []
    for ax, (name, order) in zip(np.atleast_1d(panels), orders.items(), strict=True):
        n = len(order)
        ax.plot([0, n], [0, n], color=GREY, lw=1)
        ax.plot(range(n), order, ".", ms=1.6, color=BLUE)
        ax.set(xlim=(0, n), ylim=(0, n), aspect=1)
        ax.set_title(name, fontsize=10)
        moves = np.array(order) - np.arange(n)
        told.append(f"{name}: items come at most {moves.max()} positions earlier")
    np.atleast_1d(panels)[0].set_ylabel("position in the shards")
    figure.supxlabel("position after the shuffle", fontsize=10)
    return Described(
        figure,
        f"{len(orders)} scatter plots of old against new positions, with the diagonal. "
        f"{'; '.join(told)}.",
    )


@in_style
def budgets(points: Sequence[tuple[str, float, float]], title: str, ylabel: str) -> Described:
    """Draw what trainings took over the years, on a logarithmic axis, each with its name.

    Args:
        points: Name, year and amount; "your run" is drawn as a star.
        title: Of the figure.
        ylabel: What the amounts are.
    """
    figure = Figure(figsize=(NARROW, 4.0), dpi=100, layout="constrained")
    ax = figure.subplots()
    years, amounts = [p[1] for p in points], [p[2] for p in points]
    for name, year, amount in points:
        own = name == "your run"
        ax.plot(year, amount, "*" if own else "o", color=VERMILION if own else BLUE,
                ms=13 if own else 7)  # fmt: skip
        crowded = any(
            0 < other - year < 1 and abs(np.log10(much / amount)) < 0.3
            for other, much in zip(years, amounts, strict=True)
        )
        left = crowded or year > max(years) - 1
        ax.annotate(
            name, (year, amount), (-9 if left else 9, 0), textcoords="offset points", va="center",
            ha="right" if left else "left", fontsize=9, color=VERMILION if own else INK,
        )  # fmt: skip
    ax.set(title=title, ylabel=ylabel, yscale="log", xlim=(min(years) - 2.6, max(years) + 0.4))
    ax.set_xticks(range(int(min(years)), int(max(years)) + 1))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    ax.grid(visible=True, axis="y")
    told = "; ".join(f"{n}, {int(y)}: {a:,.0f}" for n, y, a in points)
    return Described(figure, f"Points on a logarithmic axis, {ylabel} over the year. {told}.")
