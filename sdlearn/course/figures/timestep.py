"""Figures of the timestep embedding: clock hands, the vector, maps of many vectors, curves."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.images import label_font
from sdlearn.course.figures.plots import WIDE
from sdlearn.course.figures.style import in_style

FACE, GAP, LINE = 96, 14, 16  # diameter of a clock, gap between two, line height, in pixels
FINE = 4  # antialiasing factor of the clocks
STROKES = (("k", "-", 1.8), ("0.35", "--", 1.6), ("0.5", ":", 1.9), ("0.2", "-.", 1.2))
SHADES = 9  # levels of a map; few levels keep thin stripes distinct and the file small


def frequencies(dim: int, max_period: float = 10000) -> Tensor:
    """Return the angle in radians by which each hand turns in one step of t, (dim / 2,) float64."""
    half = dim // 2
    return max_period ** (-torch.arange(half, dtype=torch.float64) / half)


def clock_hands(t: float | Tensor, dim: int, max_period: float = 10000) -> Tensor:
    """Return the sinusoidal embedding in float64: the cosines of all clocks, then the sines.

    Args:
        t: Timesteps, a number or a tensor (...).
        dim: Number of channels, even.
        max_period: See `sdlearn.embeddings.sinusoidal_embedding`.

    Returns:
        (..., dim).
    """
    angles = torch.as_tensor(t, dtype=torch.float64)[..., None] * frequencies(dim, max_period)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


# ------------------------------------------------------------------------------------ drawn clocks


def pick_clocks(dim: int, count: int) -> list[int]:
    """Choose up to `count` of dim / 2 clocks, evenly spaced from the fastest (0) to the slowest."""
    count = min(count, dim // 2)
    return [round(k * (dim // 2 - 1) / max(count - 1, 1)) for k in range(count)]


def clock_face(angle: float, other: float | None = None) -> Image.Image:
    """Draw one clock; at angle 0 its hand points up, and it turns clockwise.

    Args:
        angle: Of the black hand, in radians.
        other: Of a thin grey second hand, or None.
    """
    size, middle, radius = FACE * FINE, FACE * FINE / 2, 0.46 * FACE * FINE
    picture = Image.new("L", (size, size), "white")
    pen = ImageDraw.Draw(picture)
    edge = middle - radius, middle - radius, middle + radius, middle + radius
    pen.ellipse(edge, outline="black", width=FINE)
    for quarter in range(4):
        x, y = hand_direction(quarter * torch.pi / 2)
        inner, outer = 0.9 * radius, radius
        ends = [(middle + r * x, middle - r * y) for r in (inner, outer)]
        pen.line(ends, "black", FINE)
    for turned, colour, width, reach in ((other, "#888888", 2, 0.95), (angle, "black", 4, 0.8)):
        if turned is not None:
            x, y = hand_direction(turned)
            tip = middle + reach * radius * x, middle - reach * radius * y
            pen.line([(middle, middle), tip], colour, width * FINE)
    dot = 3 * FINE
    pen.ellipse((middle - dot, middle - dot, middle + dot, middle + dot), fill="black")
    return picture.resize((FACE, FACE), Image.Resampling.LANCZOS)


def hand_direction(angle: float) -> tuple[float, float]:
    """Return how far right (the sine) and up (the cosine) a hand points."""
    turned = torch.tensor(angle, dtype=torch.float64)
    return float(turned.sin()), float(turned.cos())


def clock_rows(
    times: Sequence[float], dim: int, title: str, max_period: float = 10000, count: int = 8
) -> Image.Image:
    """Draw a row of clocks for each time, the fastest on the left, with their periods below.

    Args:
        times: Timesteps, one a row.
        dim: Number of channels; there are dim / 2 clocks.
        title: Written above.
        max_period: See `frequencies`.
        count: Clocks in a row.
    """
    clocks = pick_clocks(dim, count)
    speeds = frequencies(dim, max_period)
    left, top = 86, 2 * LINE
    wide = left + len(clocks) * (FACE + GAP)
    page = Image.new("L", (wide, top + len(times) * (FACE + GAP) + 3 * LINE), "white")
    pen, font = ImageDraw.Draw(page), label_font(12)
    pen.text((8, 6), title, "black", label_font(13))
    for row, t in enumerate(times):
        y = top + row * (FACE + GAP)
        pen.text((8, y + FACE / 2), f"t = {t:g}", "black", font, anchor="lm")
        for column, i in enumerate(clocks):
            page.paste(clock_face(t * float(speeds[i])), (left + column * (FACE + GAP), y))
    y = top + len(times) * (FACE + GAP)
    pen.text((8, y), "clock", "black", font)
    pen.text((8, y + LINE), "a turn takes", "black", font)
    for column, i in enumerate(clocks):
        x = left + column * (FACE + GAP) + FACE / 2
        label_clock(pen, x, y, i, float(speeds[i]))
    return page


def label_clock(pen: ImageDraw.ImageDraw, x: float, y: float, i: int, speed: float) -> None:
    """Write the number and the period of a clock below it."""
    turn = 2 * torch.pi / speed
    steps = f"{turn:.1f}" if turn < 100 else f"{turn:,.0f}"
    for k, text in enumerate((f"i = {i}", f"{steps} steps")):
        pen.text((x, y + k * LINE), text, "black", label_font(12), anchor="ma")


def clock_figure(
    t: float, other: float, dim: int, max_period: float = 10000, count: int = 6
) -> Image.Image:
    """Draw the embedding of t: some of its clocks, and the whole vector as bars.

    The thin grey hands and the short grey marks on the bars show the `other` time.
    """
    clocks, speeds = pick_clocks(dim, count), frequencies(dim, max_period)
    left, wide, tall = 44, 44 + 6 * (FACE + GAP) + 10, 120
    top = 2 * LINE
    bars = top + FACE + 4 * LINE
    page = Image.new("L", (wide, bars + tall + 3 * LINE), "white")
    pen, font = ImageDraw.Draw(page), label_font(12)
    head = f"{len(clocks)} of {dim // 2} clocks: black at t = {t:g}, grey at t' = {other:g}"
    pen.text((8, 6), head, "black", label_font(13))
    for column, i in enumerate(clocks):
        edge = left + column * (FACE + GAP)
        page.paste(clock_face(t * float(speeds[i]), other * float(speeds[i])), (edge, top))
        label_clock(pen, edge + FACE / 2, top + FACE + 4, i, float(speeds[i]))
    pen.text((8, bars - LINE - 4), f"The vector of {dim} values at t", "black", label_font(13))
    width = (wide - left - 10) / dim
    middle = bars + tall / 2
    for value in (1, 0, -1):
        y = middle - value * tall / 2
        pen.line([(left, y), (left + dim * width, y)], "#bbbbbb")
        pen.text((left - 6, y), f"{value}", "black", font, anchor="rm")
    values = zip(clock_hands(t, dim, max_period), clock_hands(other, dim, max_period), strict=True)
    for k, (here, there) in enumerate(values):
        x, y, mark = (left + k * width, *(middle - float(v) * tall / 2 for v in (here, there)))
        pad = 0.15 * width if width > 4 else 0
        pen.rectangle((x + pad, min(y, middle), x + width - pad, max(y, middle)), "#404040")
        pen.line([(x, mark), (x + width, mark)], "#999999", 2)
    half = left + dim / 2 * width
    pen.line([(half, bars - 4), (half, bars + tall + 4)], "black")
    for x, text, anchor in (
        (left, "0", "ma"),
        ((left + half) / 2, "cosines", "ma"),
        (half, f"{dim // 2}", "ma"),
        (half + dim / 4 * width, "sines", "ma"),
        (left + dim * width, f"{dim - 1}", "ra"),
    ):
        pen.text((x, bars + tall + 6), text, "black", font, anchor=anchor)
    pen.text((wide / 2, bars + tall + 6 + LINE), "channel", "black", font, anchor="ma")
    return page


# -------------------------------------------------------------------------------------------- maps


@in_style
def vectors_over_time(vectors: Tensor, title: str, label: str = "value") -> Figure:
    """Draw embeddings as a map with time from left to right and channels from top to bottom.

    Each value is exactly one pixel, because resampling would alias fast stripes into slow ones.
    The scale is symmetric around 0.

    Args:
        vectors: (n, d), one for each timestep 0 ... n - 1.
        title: Of the figure.
        label: Of the colour bar.
    """
    n, d = vectors.shape
    wide, tall = n + 190, d + 110
    figure = Figure(figsize=(wide / 100, tall / 100), dpi=100)
    ax = figure.add_axes((70 / wide, 60 / tall, n / wide, d / tall))
    most = float(vectors.abs().max())
    shades = matplotlib.colormaps["cividis"].resampled(SHADES)
    drawn = ax.imshow(
        vectors.T.numpy(), cmap=shades, vmin=-most, vmax=most, aspect="auto", interpolation="none"
    )
    ax.set(title=title, xlabel="time t", ylabel="channel")
    bar = figure.add_axes(((n + 90) / wide, 60 / tall, 18 / wide, d / tall))
    figure.colorbar(drawn, cax=bar, label=label)
    return figure


@in_style
def similarity(matrices: Mapping[str, Tensor], step: int) -> Figure:
    """Draw maps of the similarity between the embeddings of two timesteps; light is similar.

    All maps share one scale, and every entry is one pixel.

    Args:
        matrices: By name, (n, n) each.
        step: Entry k belongs to the timestep k * step.
    """
    n = len(next(iter(matrices.values())))
    wide, tall = len(matrices) * (n + 80) + 110, n + 100
    figure = Figure(figsize=(wide / 100, tall / 100), dpi=100)
    least = min(float(matrix.min()) for matrix in matrices.values())
    shades = matplotlib.colormaps["cividis"].resampled(2 * SHADES)
    end = n * step
    for k, (name, matrix) in enumerate(matrices.items()):
        left = (70 + k * (n + 80)) / wide
        ax = figure.add_axes((left, 60 / tall, n / wide, n / tall))
        drawn = ax.imshow(
            matrix.numpy(), cmap=shades, vmin=least, vmax=1, extent=(0, end, end, 0),
            interpolation="none",
        )  # fmt: skip
        ax.set(title=name, xlabel="time t'", ylabel="time t")
    bar = figure.add_axes(((wide - 95) / wide, 60 / tall, 16 / wide, n / tall))
    figure.colorbar(drawn, cax=bar, label="similarity")
    return figure


# ------------------------------------------------------------------------------------------ curves


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
    """Draw panels of curves that differ in dashes and lightness, with one legend.

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
    names, marks = axes[0].get_legend_handles_labels()[::-1]
    if len(names) > 1:
        figure.legend(marks, names, loc="outside lower center", ncols=len(names), frameon=False)
    if title:
        figure.suptitle(title)
    return figure


def draw_panel(ax: Axes, part: Panel) -> None:
    """Draw one panel."""
    strokes = STROKES[: len(part.lines)]
    for (name, (xs, ys)), (colour, dashes, width) in zip(part.lines.items(), strokes, strict=True):
        ax.plot(xs, ys, dashes, color=colour, lw=width, label=name)
    if part.points:
        ax.plot(*part.points, "o", color="black", ms=4, mfc="white", label="trained")
    if part.log:
        ax.set_yscale("log")
    ax.set(title=part.title, xlabel=part.xlabel, ylabel=part.ylabel)
    ax.grid(alpha=0.3)
