"""The pieces of block diagrams: boxes with a name, arrows, the sign of an addition."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from sdlearn.course.figures.plots import WIDE
from sdlearn.course.figures.style import BLUE, GREEN, INK, ORANGE, PURPLE, VERMILION, tint

# One colour for each kind of layer, in every diagram of the course.
NORM, LINEAR = tint(PURPLE, 0.22), tint(BLUE, 0.22)
ATTENTION, MLP, CONV = tint(ORANGE, 0.45), tint(GREEN, 0.3), tint(BLUE, 0.4)
TEXT, TIME, STREAM = VERMILION, PURPLE, INK


def canvas(
    width: float, height: float, title: str = "", inches: float = WIDE, dpi: int = 110
) -> tuple[Figure, Axes]:
    """Create a figure without visible axes.

    Args:
        width: Of the drawing, in its own units.
        height: In the same units.
        title: Of the figure.
        inches: Width of the figure. Letters in a narrow one remain legible on a phone.
        dpi: Resolution of the stored picture.
    """
    drawn = inches * height / width
    tall = drawn + (0.35 if title else 0.0)
    figure = Figure(figsize=(inches, tall), dpi=dpi)
    ax = figure.add_axes((0, 0, 1, drawn / tall))
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    if title:
        figure.text(0.01, 0.99, title, ha="left", va="top", fontsize=11, fontweight="bold")
    return figure, ax


def box(
    ax: Axes, x: float, y: float, name: str, colour: str, w: float = 2.0, h: float = 0.9
) -> None:
    """Draw a rounded box centred at (x, y) with its name inside."""
    ax.add_patch(
        FancyBboxPatch(
            (x - w / 2, y - h / 2), w, h, boxstyle="round,pad=0,rounding_size=0.16",
            facecolor=colour, edgecolor=INK, linewidth=0.9, zorder=3,
        )
    )  # fmt: skip
    ax.text(x, y, name, ha="center", va="center", fontsize=8.5, zorder=4, linespacing=1.25)


def arrow(
    ax: Axes, points: Sequence[tuple[float, float]], colour: str = STREAM, dashed: bool = False
) -> None:
    """Draw a line through points, with a head at the last one."""
    style = (0, (4, 2.5)) if dashed else "-"
    *before, start, end = points
    if before:
        xs, ys = zip(*before, start, strict=True)
        ax.plot(xs, ys, color=colour, lw=1.3, ls=style, solid_capstyle="round", zorder=1)
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=10, color=colour, lw=1.3, ls=style,
            shrinkA=0, shrinkB=0, zorder=2,
        )
    )  # fmt: skip


def plus(ax: Axes, x: float, y: float, radius: float = 0.24) -> None:
    """Draw the sign of an addition, a plus in a circle."""
    ax.add_patch(Circle((x, y), radius, facecolor="white", edgecolor=INK, lw=1.1, zorder=3))
    for dx, dy in ((0.6 * radius, 0), (0, 0.6 * radius)):
        ax.plot([x - dx, x + dx], [y - dy, y + dy], color=INK, lw=1.1, zorder=4)


def label(ax: Axes, x: float, y: float, text: str, colour: str = INK, side: str = "center") -> None:
    """Write a text at (x, y)."""
    ax.text(x, y, text, ha=side, va="center", fontsize=8.5, color=colour, linespacing=1.25)
