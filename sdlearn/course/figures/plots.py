"""Figures with axes that several notebooks share: latents, curves, tables."""

from collections.abc import Mapping, Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.style import BLUE, GREEN, INK, VERMILION, in_style

WIDE = 9.0  # inches; at 100 dots each a figure fits a notebook's column
NARROW = 5.2  # inches; a phone shrinks wider figures until their letters cannot be read
STYLES = ("o-", "s--", "^:", "d-.")
# Lines without markers differ in hue, lightness and dashes.
STROKES = ((INK, "-", 1.9), (VERMILION, "--", 1.9), (BLUE, ":", 2.4), (GREEN, "-.", 1.6))
ARROW = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0}


@in_style
def latent(z: Tensor, title: str, page: Image.Image | None = None, limit: float = 3.0) -> Figure:
    """Draw the channels of one latent side by side.

    Light is positive and dark is negative.

    Args:
        z: (c, h, w) or (1, c, h, w).
        title: Of the figure.
        page: The image of the latent, drawn first if given.
        limit: The scale ranges from -limit to limit, for every latent.
    """
    channels = z.detach().float().cpu().reshape(-1, *z.shape[-2:]).numpy()
    figure = Figure(figsize=(WIDE, 2.6 if page else 2.9), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(channels) + bool(page), squeeze=False)[0]
    if page:
        axes[0].imshow(page)
        axes[0].set(title="the page", xlabel="column", ylabel="row")
        axes = axes[1:]
    for k, (ax, channel) in enumerate(zip(axes, channels, strict=True)):
        drawn = ax.imshow(channel, cmap="cividis", vmin=-limit, vmax=limit)
        ax.set(title=f"channel {k}", xlabel="column")
        if k > 0:
            ax.tick_params(labelleft=False)
    axes[0].set_ylabel("row")
    figure.colorbar(drawn, ax=list(axes), label="value", shrink=0.75, extend="both")
    figure.suptitle(title)
    return figure


@in_style
def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    xlabel: str,
    ylabel: str,
    log: Literal["", "x", "y", "xy"] = "",
    width: float = WIDE,
) -> Figure:
    """Draw up to four lines that differ in dashes and markers.

    Args:
        lines: (xs, ys), by name.
        title: Of the figure.
        xlabel: Of the x axis.
        ylabel: Of the y axis.
        log: The logarithmic axes. With "xy", a power of x is a straight line. A linear y axis
            starts at 0, or lower if there are negative values.
        width: Of the figure, in inches. A narrow one has larger letters on a phone.
    """
    figure, ax = axes_for(title, xlabel, ylabel, width)
    for (name, (xs, ys)), style in zip(lines.items(), STYLES[: len(lines)], strict=True):
        ax.plot(xs, ys, style, ms=4, label=name)
    if "x" in log:
        ax.set_xscale("log")
    if "y" in log:
        ax.set_yscale("log")
    elif all(y >= 0 for _, ys in lines.values() for y in ys):
        ax.set_ylim(bottom=0)
    ax.legend()
    return figure


def stroke_lines(
    ax: Axes, lines: Mapping[str, tuple[Sequence[float] | Tensor, Sequence[float] | Tensor]]
) -> None:
    """Draw up to four lines (xs, ys), by name, that differ in colour and dashes."""
    strokes = STROKES[: len(lines)]
    for (name, (xs, ys)), (colour, dashes, width) in zip(lines.items(), strokes, strict=True):
        ax.plot(xs, ys, dashes, color=colour, lw=width, label=name)


def legend_below(figure: Figure) -> None:
    """Draw one legend for all panels below them, with the entries of the first."""
    marks, names = figure.axes[0].get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(marks, names, loc="outside lower center", ncols=len(names), frameon=False)


@in_style
def axes_for(title: str, xlabel: str, ylabel: str, width: float = WIDE) -> tuple[Figure, Axes]:
    """Create a figure, by default of the notebook's width, with one pair of axes and a grid."""
    figure = Figure(figsize=(width, 3.4), dpi=100, layout="constrained")
    ax = figure.subplots()
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.3)
    return figure, ax


def titled(figure: Figure, title: str) -> None:
    """Write the title at the left edge of the figure, as diagrams and rows of images have it."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")


@in_style
def matrix(
    weights: Tensor,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Draw a matrix of values from 0 to 1 as numbers in squares; larger values are darker.

    Args:
        weights: (rows, columns).
        rows: Labels of the rows.
        columns: Labels of the columns.
        title: Of the figure.
        xlabel: Of the x axis.
        ylabel: Of the y axis.
    """
    height, width = weights.shape
    size = 2.0 + 0.75 * width, 1.5 + 0.5 * height
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    ax = figure.subplots()
    ax.imshow(weights.detach().numpy(), cmap="Greys", vmin=0, vmax=1, aspect="auto")
    for i, j in ((i, j) for i in range(height) for j in range(width)):
        value = float(weights[i, j])
        colour = "white" if value > 0.5 else "black"
        ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.set(xticks=range(width), yticks=range(height))
    ax.set(xticklabels=columns, yticklabels=rows)
    return figure


def cluster_labels(points: Tensor, near: float) -> list[tuple[str, tuple[float, float]]]:
    """Group points (n, 2) within `near` of a group's first point; return labels and centres."""
    groups: list[list[int]] = []
    for k, point in enumerate(points):
        for group in groups:
            if (points[group[0]] - point).norm() < near:
                group.append(k)
                break
        else:
            groups.append([k])
    centres = (points[group].mean(0).tolist() for group in groups)
    return [(" ".join(map(str, g)), (x, y)) for g, (x, y) in zip(groups, centres, strict=True)]
