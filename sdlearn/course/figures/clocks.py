"""The time embedding to look at: clocks with hands, the vector, maps of many vectors, curves."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.pages import label_font
from sdlearn.course.figures.plots import WIDE

FACE, GAP, LINE = 96, 14, 16  # of a clock: diameter, distance and height of a line, in pixels
FINE = 4  # clocks are drawn this much larger and then shrunk, for smooth edges
STROKES = (("k", "-", 1.8), ("0.35", "--", 1.6), ("0.5", ":", 1.9), ("0.2", "-.", 1.2))
SHADES = 9  # few levels of a map: fine stripes stay apart, and the file stays small


def frequencies(dim: int, max_period: float = 10000) -> Tensor:
    """(dim / 2,) float64: how far each clock's hand turns in one step of t, in radians."""
    half = dim // 2
    return max_period ** (-torch.arange(half, dtype=torch.float64) / half)


def hands(t: float | Tensor, dim: int, max_period: float = 10000) -> Tensor:
    """t, a number or (...), -> (..., dim) float64: the cosines of all clocks, then the sines."""
    angles = torch.as_tensor(t, dtype=torch.float64)[..., None] * frequencies(dim, max_period)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


# ------------------------------------------------------------------------------------ drawn clocks


def chosen(dim: int, count: int) -> list[int]:
    """Up to `count` clocks of dim / 2, evenly from the fastest, 0, to the slowest."""
    count = min(count, dim // 2)
    return [round(k * (dim // 2 - 1) / max(count - 1, 1)) for k in range(count)]


def face(angle: float, other: float | None = None) -> Image.Image:
    """One clock: at angle 0 its hand points up, and it turns to the right; a thin, grey second."""
    size, middle, radius = FACE * FINE, FACE * FINE / 2, 0.46 * FACE * FINE
    picture = Image.new("L", (size, size), "white")
    pen = ImageDraw.Draw(picture)
    edge = middle - radius, middle - radius, middle + radius, middle + radius
    pen.ellipse(edge, outline="black", width=FINE)
    for quarter in range(4):
        x, y = at(quarter * torch.pi / 2)
        inner, outer = 0.9 * radius, radius
        ends = [(middle + r * x, middle - r * y) for r in (inner, outer)]
        pen.line(ends, "black", FINE)
    for turned, colour, width, reach in ((other, "#888888", 2, 0.95), (angle, "black", 4, 0.8)):
        if turned is not None:
            x, y = at(turned)
            tip = middle + reach * radius * x, middle - reach * radius * y
            pen.line([(middle, middle), tip], colour, width * FINE)
    dot = 3 * FINE
    pen.ellipse((middle - dot, middle - dot, middle + dot, middle + dot), fill="black")
    return picture.resize((FACE, FACE), Image.Resampling.LANCZOS)


def at(angle: float) -> tuple[float, float]:
    """Where a hand points: right (its sine) and up (its cosine)."""
    turned = torch.tensor(angle, dtype=torch.float64)
    return float(turned.sin()), float(turned.cos())


def clock_rows(
    times: Sequence[float], dim: int, title: str, max_period: float = 10000, count: int = 8
) -> Image.Image:
    """For each time a row of the same clocks, the fastest on the left; below them their turns."""
    clocks = chosen(dim, count)
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
            page.paste(face(t * float(speeds[i])), (left + column * (FACE + GAP), y))
    y = top + len(times) * (FACE + GAP)
    pen.text((8, y), "clock", "black", font)
    pen.text((8, y + LINE), "a turn takes", "black", font)
    for column, i in enumerate(clocks):
        x = left + column * (FACE + GAP) + FACE / 2
        label_clock(pen, x, y, i, float(speeds[i]))
    return page


def label_clock(pen: ImageDraw.ImageDraw, x: float, y: float, i: int, speed: float) -> None:
    turn = 2 * torch.pi / speed
    steps = f"{turn:.1f}" if turn < 100 else f"{turn:,.0f}"
    for k, text in enumerate((f"i = {i}", f"{steps} steps")):
        pen.text((x, y + k * LINE), text, "black", label_font(12), anchor="ma")


def clock_page(
    t: float, other: float, dim: int, max_period: float = 10000, count: int = 6
) -> Image.Image:
    """What a network is told at t: some clocks, and the whole vector as bars.

    The thin grey hands and the small grey marks on the bars are those of the `other` time.
    """
    clocks, speeds = chosen(dim, count), frequencies(dim, max_period)
    left, wide, tall = 44, 44 + 6 * (FACE + GAP) + 10, 120
    top = 2 * LINE
    bars = top + FACE + 4 * LINE
    page = Image.new("L", (wide, bars + tall + 3 * LINE), "white")
    pen, font = ImageDraw.Draw(page), label_font(12)
    head = f"{len(clocks)} of {dim // 2} clocks: black at t = {t:g}, grey at t' = {other:g}"
    pen.text((8, 6), head, "black", label_font(13))
    for column, i in enumerate(clocks):
        edge = left + column * (FACE + GAP)
        page.paste(face(t * float(speeds[i]), other * float(speeds[i])), (edge, top))
        label_clock(pen, edge + FACE / 2, top + FACE + 4, i, float(speeds[i]))
    pen.text((8, bars - LINE - 4), f"The vector of {dim} numbers at t", "black", label_font(13))
    width = (wide - left - 10) / dim
    middle = bars + tall / 2
    for value in (1, 0, -1):
        y = middle - value * tall / 2
        pen.line([(left, y), (left + dim * width, y)], "#bbbbbb")
        pen.text((left - 6, y), f"{value}", "black", font, anchor="rm")
    values = zip(hands(t, dim, max_period), hands(other, dim, max_period), strict=True)
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


def vectors_over_time(vectors: Tensor, title: str, label: str = "value") -> Figure:
    """Vectors (n, d), one for each time 0 ... n - 1, as an n x d map that stands on its side.

    Each number is exactly one pixel, n across and d down: drawn smaller, fast stripes would seem
    slow ones. The scale is even around 0.
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
    beside = figure.add_axes(((n + 90) / wide, 60 / tall, 18 / wide, d / tall))
    figure.colorbar(drawn, cax=beside, label=label)
    return figure


def similarity(matrices: Mapping[str, Tensor], step: int) -> Figure:
    """Square maps (n, n) of how alike the vectors of two times are, light where they are alike.

    step: entry k of a map belongs to the time k * step. All maps have one scale and one size, and
    every entry is one pixel.
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
    beside = figure.add_axes(((wide - 95) / wide, 60 / tall, 16 / wide, n / tall))
    figure.colorbar(drawn, cax=beside, label="similarity")
    return figure


# ------------------------------------------------------------------------------------------ curves


class Panel(NamedTuple):
    """One pair of axes. lines: by name (xs, ys), up to four; points: (xs, ys), or None."""

    title: str
    lines: Mapping[str, tuple[Sequence[float] | Tensor, Sequence[float] | Tensor]]
    xlabel: str
    ylabel: str
    log: bool = False
    points: tuple[Sequence[float] | Tensor, Sequence[float] | Tensor] | None = None


def panels(parts: Sequence[Panel], title: str = "", across: int = 2) -> Figure:
    """Dense curves side by side, told apart by dashes and lightness; one legend for all.

    log: the y axis is logarithmic. Panels of one figure have lines of the same names.
    """
    down = -(-len(parts) // across)
    figure = Figure(figsize=(WIDE, 0.7 + 2.7 * down), dpi=100, layout="constrained")
    axes = figure.subplots(down, min(across, len(parts)), squeeze=False).flatten()
    for ax, part in zip(axes, parts, strict=False):
        draw(ax, part)
    for ax in axes[len(parts) :]:
        ax.axis("off")
    names, marks = axes[0].get_legend_handles_labels()[::-1]
    if len(names) > 1:
        figure.legend(marks, names, loc="outside lower center", ncols=len(names), frameon=False)
    if title:
        figure.suptitle(title)
    return figure


def draw(ax: Axes, part: Panel) -> None:
    strokes = STROKES[: len(part.lines)]
    for (name, (xs, ys)), (colour, dashes, width) in zip(part.lines.items(), strokes, strict=True):
        ax.plot(xs, ys, dashes, color=colour, lw=width, label=name)
    if part.points:
        ax.plot(*part.points, "o", color="black", ms=4, mfc="white", label="trained")
    if part.log:
        ax.set_yscale("log")
    ax.set(title=part.title, xlabel=part.xlabel, ylabel=part.ylabel)
    ax.grid(alpha=0.3)
