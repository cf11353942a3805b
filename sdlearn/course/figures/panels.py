"""Panels of curves side by side, with one legend for all."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sdlearn.course.figures.plots import WIDE, legend_below, stroke_lines
from sdlearn.course.figures.style import in_style


class Panel(NamedTuple):
    """One pair of axes.

    Attributes:
        title: Of the axes.
        lines: Up to four curves (xs, ys), by name.
        xlabel: Of the x axis.
        ylabel: Of the y axis.
        log: Make the y axis logarithmic.
        points: (xs, ys) drawn as rings, or None.
    """

    title: str
    lines: Mapping[str, tuple[Sequence[float] | Tensor, Sequence[float] | Tensor]]
    xlabel: str
    ylabel: str
    log: bool = False
    points: tuple[Sequence[float] | Tensor, Sequence[float] | Tensor] | None = None


@in_style
def panels(parts: Sequence[Panel], title: str = "", across: int = 2) -> Figure:
    """Draw panels of curves that differ in colour and dashes, with one legend.

    Args:
        parts: The panels; all have lines of the same names.
        title: Of the figure.
        across: Panels in a row.
    """
    down = -(-len(parts) // across)
    figure = Figure(figsize=(WIDE, 0.7 + 2.7 * down), dpi=100, layout="constrained")
    axes = figure.subplots(down, min(across, len(parts)), squeeze=False).flatten()
    for ax, part in zip(axes, parts, strict=False):
        draw_panel(ax, part)
    for ax in axes[len(parts) :]:
        ax.axis("off")
    legend_below(figure)
    if title:
        figure.suptitle(title)
    return figure


def draw_panel(ax: Axes, part: Panel) -> None:
    """Draw one panel."""
    stroke_lines(ax, part.lines)
    if part.points:
        ax.plot(*part.points, "o", color="black", ms=4, mfc="white", label="trained")
    if part.log:
        ax.set_yscale("log")
    ax.set(title=part.title, xlabel=part.xlabel, ylabel=part.ylabel)
    ax.grid(alpha=0.3)
