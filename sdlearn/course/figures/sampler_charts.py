"""The charts of notebook 09: trajectories over σ, errors over calls, and noise levels."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sdlearn.course.figures.plots import WIDE
from sdlearn.course.figures.samplers import (
    COLOURS,
    COLOURS_OF_LINES,
    MARKS,
    few_colours,
)
from sdlearn.course.figures.style import MUTED, Described, in_style


@in_style
def trajectories_over_sigma(
    ratios: Tensor,
    x: Tensor,
    clusters: Tensor,
    title: str,
    cuts: Sequence[float] = (5.0, 1.0),
    paths: Mapping[str, Sequence[float]] | None = None,
) -> Described:
    """Draw one coordinate of z / alpha over sigma / alpha (Karras's σ) for many trajectories.

    Time runs from left to right. Each panel shows a piece of the path, on its own scale.

    Args:
        ratios: sigma / alpha, falling, (steps + 1,).
        x: One coordinate of z / alpha, (steps + 1, n).
        clusters: Index of the cluster that each trajectory ends in, (n,).
        title: Title of the figure.
        cuts: The sigma / alpha at which a new panel starts, falling.
        paths: Levels sigma / alpha of up to six paths, by name, drawn as dots below the panels.

    Raises:
        ValueError: If there are more paths than colours.
    """
    rows = paths or {}
    if rows:
        refuse_more(rows, "paths")
    highs = [float(ratios.max()), *cuts]
    figure = Figure(figsize=(WIDE, 3.5 + 0.25 * len(rows)), dpi=100, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    heights = [1.0, *([0.08 * len(rows)] if rows else [])]
    grid = figure.subplots(
        len(heights), len(highs), squeeze=False, sharex="col", height_ratios=heights
    )
    for k, (high, low) in enumerate(zip(highs, [*cuts, 0.0], strict=True)):
        ax = grid[0][k]
        for j, cluster in enumerate(clusters.tolist()):
            ax.plot(ratios, x[:, j], "-", color=COLOURS[cluster], lw=0.8)
        ax.set_title(rf"$\sigma / \alpha$ from {high:.3g} to {low:g}", fontsize=10, weight="normal")
        ax.set(xlim=(high, low), ylim=(-2.4 * high, 2.4 * high))
        for row, (levels, colour) in enumerate(zip(rows.values(), COLOURS_OF_LINES, strict=False)):
            inside = [level for level in levels if low <= level <= 1.001 * high]
            grid[1][k].axhline(row, color=colour, lw=0.8)
            grid[1][k].plot(inside, [row] * len(inside), "o", color=colour, ms=4, clip_on=False)
        if rows:
            grid[1][k].set(ylim=(len(rows) - 0.4, -0.6), yticks=[])
            grid[1][k].grid(visible=False, axis="y")
            grid[1][k].spines["left"].set_visible(False)
        grid[-1][k].set_xlabel(r"$\sigma / \alpha$" + " (time runs to the right)" * (k == 1))
    grid[0][0].set_ylabel(r"second entry of $z / \alpha$")
    if rows:
        grid[1][0].set_yticks(range(len(rows)), list(rows))
    words = (
        f"{x.shape[1]} trajectories over sigma / alpha, which falls from {highs[0]:.1f} to 0, in "
        f"{len(highs)} panels. They start up to {x[0].abs().max():.0f} from the middle and run "
        "towards it in almost straight lines. In the last panel they bend and gather in bundles, "
        "one for each height at which there is a cluster."
    )
    dots = (f"{name}: " + ", ".join(f"{v:.2f}" for v in levels) for name, levels in rows.items())
    if rows:
        words += " Dots below mark the levels of paths; " + "; ".join(dots) + "."
    return Described(few_colours(figure), words)


@in_style
def error_curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    ylabel: str,
    slopes: Mapping[int, tuple[float, float]] | None = None,
    level: tuple[str, float] | None = None,
) -> Described:
    """Draw errors against the number of denoiser calls on logarithmic axes, with direct labels.

    Args:
        lines: Up to six lines (denoiser calls, error), by name. All values are positive.
        title: Title of the figure.
        ylabel: Label of the y axis.
        slopes: By order p, a point (calls, error) on the reference line error ~ calls^-p.
        level: Name and height of a horizontal line.

    Raises:
        ValueError: If there are more lines than colours.
    """
    refuse_more(lines, "lines")
    figure = Figure(figsize=(WIDE, 4.2), dpi=100, layout="constrained")
    ax = figure.subplots()
    ax.set(title=title, xlabel="denoiser calls", ylabel=ylabel, xscale="log", yscale="log")
    every = [float(calls) for xs, _ in lines.values() for calls in xs]
    for order, (calls, error) in (slopes or {}).items():
        ends = [error * (x / calls) ** -order for x in (min(every), max(every))]
        ax.plot((min(every), max(every)), ends, "-", color="#dfe4ea", lw=6, zorder=0)
        ax.annotate(
            f"slope {order}", (min(every), ends[0]), (-9, 0), textcoords="offset points",
            ha="right", va="center", color=MUTED,
        )  # fmt: skip
    drawn = zip(lines.items(), COLOURS_OF_LINES, MARKS, strict=False)
    for (name, (xs, ys)), colour, (mark, dashes) in drawn:
        ax.plot(xs, ys, dashes, marker=mark, color=colour, ms=5, mfc="white", label=name)
    if level:
        ax.axhline(level[1], color=MUTED, lw=1, ls=(0, (1, 3)))
        ax.text(min(every), level[1], level[0], va="bottom", color=MUTED)
    shown: list[float] = []
    for calls in sorted(set(every), reverse=True):
        if not shown or calls < 0.8 * shown[-1]:  # otherwise the tick labels would touch
            shown.append(calls)
    ax.set_xticks(shown, [f"{calls:g}" for calls in shown], minor=False)
    ax.set_xticks([], minor=True)
    ax.set_xlim(min(every) * (0.69 if slopes else 0.93), max(every) * 2.1)
    label_ends(ax, lines)
    words = "Errors against the number of denoiser calls, both axes logarithmic. " + "; ".join(
        f"{name}: from {ys[0]:.2g} with {xs[0]:g} calls to {ys[-1]:.2g} with {xs[-1]:g}"
        for name, (xs, ys) in lines.items()
    )
    return Described(few_colours(figure), words + ".")


def label_ends(ax: Axes, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    """Write each line's name to the right of its end, the names at least a line of text apart.

    Args:
        ax: Axes with a logarithmic y axis whose limits are set.
        lines: As for `error_curves`.
    """
    low, high = (math.log(y) for y in ax.get_ylim())
    gap = (high - low) * 0.058
    ends = sorted((math.log(ys[-1]), k) for k, (_, ys) in enumerate(lines.values()))
    heights: list[float] = []
    for height, _ in ends:
        heights.append(max(height, heights[-1] + gap) if heights else height)
    excess = heights[-1] - max(ends)[0] if heights else 0.0
    right = max(xs[-1] for xs, _ in lines.values())
    names = list(lines)
    for height, (_, k) in zip(heights, ends, strict=True):
        ax.text(
            right * 1.06, math.exp(height - excess / 2), names[k], va="center",
            color=COLOURS_OF_LINES[k],
        )  # fmt: skip


@in_style
def noise_levels(rows: Mapping[str, Sequence[float]], title: str) -> Described:
    """Draw the noise levels sigma / alpha of up to six paths as dots on one logarithmic axis.

    Args:
        rows: The levels above 0 of each path, the noisiest first, by name.
        title: Title of the figure.

    Raises:
        ValueError: If there are more paths than colours.
    """
    refuse_more(rows, "rows")
    figure = Figure(figsize=(WIDE, 1.1 + 0.45 * len(rows)), dpi=100, layout="constrained")
    ax = figure.subplots()
    for k, (levels, colour) in enumerate(zip(rows.values(), COLOURS_OF_LINES, strict=False)):
        ax.plot(levels, [k] * len(levels), "o-", color=colour, ms=6, lw=0.8)
    ax.set(xscale="log", title=title, xlabel=r"$\sigma / \alpha$ (time runs to the right)")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(ylim=(len(rows) - 0.5, -0.5))
    ax.invert_xaxis()
    ax.set_xticks([10, 3, 1, 0.3, 0.1, 0.03], ["10", "3", "1", "0.3", "0.1", "0.03"])
    ax.set_xticks([], minor=True)
    ax.grid(visible=False, axis="y")
    words = "Dots on a logarithmic axis of noise levels, which fall from left to right. "
    parts = (
        f"{name}: {len(levels)} from {levels[0]:.2f} to {levels[-1]:.3f}, "
        f"{sum(level < 1 for level in levels)} of them below 1"
        for name, levels in rows.items()
    )
    return Described(few_colours(figure), words + "; ".join(parts) + ".")


def refuse_more(lines: Mapping[str, object], name: str) -> None:
    """Raise a ValueError if there are more lines than colours, or none.

    Args:
        lines: What is drawn, by name.
        name: The argument's name.
    """
    if not 1 <= len(lines) <= len(COLOURS_OF_LINES):
        raise ValueError(
            f"{name} has {len(lines)} entries, and each one needs a colour of its own; 1 to "
            f"{len(COLOURS_OF_LINES)} are accepted"
        )
