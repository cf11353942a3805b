"""Figures of the timestep embedding: its path, its frequencies as clocks, maps and curves."""

from collections.abc import Mapping, Sequence

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures import diagrams
from sdlearn.course.figures.diagrams import CONV, LINEAR, MLP, TIME, arrow, box, label, plus
from sdlearn.course.figures.images import grid, label_font
from sdlearn.course.figures.plots import WIDE, axes_for
from sdlearn.course.figures.style import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PALE,
    PURPLE,
    VERMILION,
    Described,
    in_style,
    tint,
)

FACE, GAP, LINE = 96, 14, 16  # diameter of a clock, gap between two, line height, in pixels
FINE = 4  # antialiasing factor of the clocks
SHADES = 9  # levels of a map; few levels keep thin stripes distinct and the file small


def frequencies(dim: int, max_period: float = 10000) -> Tensor:
    """Return the frequencies in radians per step of t, (dim / 2,) float64, the highest first."""
    half = dim // 2
    return max_period ** (-torch.arange(half, dtype=torch.float64) / half)


def clock_hands(t: float | Tensor, dim: int, max_period: float = 10000) -> Tensor:
    """Return the sinusoidal embedding in float64: the cosines of all frequencies, then the sines.

    Args:
        t: Timesteps, a number or a tensor (...).
        dim: Number of channels, even.
        max_period: See `sdlearn.embeddings.sinusoidal_embedding`.

    Returns:
        (..., dim).
    """
    angles = torch.as_tensor(t, dtype=torch.float64)[..., None] * frequencies(dim, max_period)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


# ---------------------------------------------------------------------------------------- diagram


@in_style
def timestep_path() -> Described:
    """Draw the path of a timestep: sinusoids, MLP, and the addition inside a ResBlock."""
    figure, ax = diagrams.canvas(22, 6.4, "From a timestep to every ResBlock")
    top, low = 5.0, 1.5
    label(ax, 1.1, top, "timestep $t$\n(b,)")
    box(ax, 4.6, top, "sinusoids\n$\\cos\\,\\omega_i t$,  $\\sin\\,\\omega_i t$",
        tint(PURPLE, 0.22), w=3.4, h=1.3)  # fmt: skip
    ax.add_patch(Rectangle((8.1, 3.95), 7.3, 2.1, facecolor=PALE, edgecolor="#cbd2d9"))
    label(ax, 15.2, 5.83, "TimeEmbedding", MUTED, "right")
    box(ax, 9.5, top, "linear_1", LINEAR, w=1.8)
    box(ax, 11.75, top, "SiLU", MLP, w=1.3)
    box(ax, 14.0, top, "linear_2", LINEAR, w=1.8)
    ends = ((2.0, 2.85), (6.35, 8.55), (10.45, 11.05), (12.45, 13.05), (14.95, 16.9))
    for start, end in ends:
        arrow(ax, [(start, top), (end, top)], TIME)
    label(ax, 7.3, top + 0.35, "(b, d)", MUTED)
    label(ax, 16.0, top + 0.35, "(b, 4d)", MUTED)
    label(ax, 17.05, top, "emb, the time embedding,\nto every ResBlock", TIME, "left")
    box(ax, 4.6, low, "norm, SiLU,\nconv1", CONV, w=2.6, h=1.2)
    plus(ax, 9.5, low)
    box(ax, 14.0, low, "norm, SiLU,\nconv2", CONV, w=2.6, h=1.2)
    plus(ax, 18.6, low)
    label(ax, 1.1, low, "feature map\n(b, c, h, w)")
    ends = ((2.2, 3.25), (5.95, 9.24), (9.76, 12.65), (15.35, 18.34), (18.86, 20.6))
    for start, end in ends:
        arrow(ax, [(start, low), (end, low)])
    arrow(ax, [(2.6, low), (2.6, 0.35), (18.6, 0.35), (18.6, low - 0.26)])
    label(ax, 11.4, 0.12, "residual connection", MUTED)
    box(ax, 9.5, 3.1, "SiLU, time_emb_proj", LINEAR, w=3.6, h=0.8)
    arrow(ax, [(16.4, top), (16.4, 3.1), (11.35, 3.1)], TIME)
    arrow(ax, [(9.5, 2.68), (9.5, low + 0.26)], TIME)
    label(ax, 9.75, 2.42, "one value for each channel, (b, c, 1, 1)", TIME, "left")
    words = (
        "A diagram. The timestep t becomes cosines and sines, a vector of d channels. The "
        "TimeEmbedding, linear_1, SiLU and linear_2, turns it into emb, of 4 d channels, which "
        "goes to every ResBlock. In a ResBlock, SiLU and a linear layer, time_emb_proj, make one "
        "value for each channel of it. That value is added to the feature map between the two "
        "convolutions, the same at every position. A residual connection bypasses the whole block."
    )
    return Described(figure, words)


# ------------------------------------------------------------------------------------ drawn clocks


def pick_clocks(dim: int, count: int) -> list[int]:
    """Choose up to `count` of dim / 2 frequencies, evenly spaced from the highest (0) down."""
    count = min(count, dim // 2)
    return [round(k * (dim // 2 - 1) / max(count - 1, 1)) for k in range(count)]


def clock_face(angle: float, other: float | None = None) -> Image.Image:
    """Draw one clock; at angle 0 its hand points up, and it turns clockwise.

    Args:
        angle: Of the blue hand, in radians.
        other: Of a thin vermilion second hand, or None.
    """
    size, middle, radius = FACE * FINE, FACE * FINE / 2, 0.46 * FACE * FINE
    picture = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(picture)
    edge = middle - radius, middle - radius, middle + radius, middle + radius
    pen.ellipse(edge, outline=INK, width=FINE)
    for quarter in range(4):
        x, y = hand_direction(quarter * torch.pi / 2)
        inner, outer = 0.9 * radius, radius
        ends = [(middle + r * x, middle - r * y) for r in (inner, outer)]
        pen.line(ends, INK, FINE)
    for turned, colour, width, reach in ((other, VERMILION, 3, 0.95), (angle, BLUE, 4, 0.8)):
        if turned is not None:
            x, y = hand_direction(turned)
            tip = middle + reach * radius * x, middle - reach * radius * y
            pen.line([(middle, middle), tip], colour, width * FINE)
    dot = 3 * FINE
    pen.ellipse((middle - dot, middle - dot, middle + dot, middle + dot), fill=BLUE)
    return picture.resize((FACE, FACE), Image.Resampling.LANCZOS)


def hand_direction(angle: float) -> tuple[float, float]:
    """Return how far right (the sine) and up (the cosine) a hand points."""
    turned = torch.tensor(angle, dtype=torch.float64)
    return float(turned.sin()), float(turned.cos())


def clock_rows(
    times: Sequence[float], dim: int, title: str, max_period: float = 10000, count: int = 8
) -> Described:
    """Draw a row of clocks for each time, the fastest on the left, with their wavelengths below.

    Args:
        times: Timesteps, one a row.
        dim: Number of channels; there are dim / 2 frequencies.
        title: Written above.
        max_period: See `frequencies`.
        count: Clocks in a row.
    """
    clocks = pick_clocks(dim, count)
    speeds = frequencies(dim, max_period)
    left, top = 100, 2 * LINE
    wide = left + len(clocks) * (FACE + GAP)
    drawn = Image.new("RGB", (wide, top + len(times) * (FACE + GAP) + 3 * LINE), "white")
    pen, font = ImageDraw.Draw(drawn), label_font(12)
    pen.text((8, 6), title, INK, label_font(13, bold=True))
    for row, t in enumerate(times):
        y = top + row * (FACE + GAP)
        pen.text((8, y + FACE / 2), f"t = {t:g}", INK, font, anchor="lm")
        for column, i in enumerate(clocks):
            drawn.paste(clock_face(t * float(speeds[i])), (left + column * (FACE + GAP), y))
    y = top + len(times) * (FACE + GAP)
    pen.text((8, y), "frequency", INK, font)
    pen.text((8, y + LINE), "wavelength", INK, font)
    for column, i in enumerate(clocks):
        x = left + column * (FACE + GAP) + FACE / 2
        label_clock(pen, x, y, i, float(speeds[i]))
    turns = "; ".join(
        f"at t = {t:g}: " + ", ".join(f"{t * float(speeds[i]) / torch.pi / 2:.3g}" for i in clocks)
        for t in times
    )
    words = (
        f"A row of {len(clocks)} clocks for each of {len(times)} timesteps, the highest frequency "
        f"on the left. From left to right the hands have made this many turns since t = 0, {turns}."
    )
    return Described(drawn, words)


def label_clock(pen: ImageDraw.ImageDraw, x: float, y: float, i: int, speed: float) -> None:
    """Write the number and the wavelength of a frequency below its clock."""
    turn = 2 * torch.pi / speed
    steps = f"{turn:.1f}" if turn < 100 else f"{turn:,.0f}"
    for k, text in enumerate((f"i = {i}", f"{steps} steps")):
        pen.text((x, y + k * LINE), text, INK, label_font(12), anchor="ma")


def clock_figure(
    t: float, other: float, dim: int, max_period: float = 10000, count: int = 6
) -> Image.Image:
    """Draw the embedding of t: some of its frequencies as clocks, and the whole vector as bars.

    The thin vermilion hands and the short vermilion marks on the bars show the `other` time.
    """
    clocks, speeds = pick_clocks(dim, count), frequencies(dim, max_period)
    left, wide, tall = 44, 44 + 6 * (FACE + GAP) + 10, 120
    top = 2 * LINE
    bars = top + FACE + 4 * LINE
    drawn = Image.new("RGB", (wide, bars + tall + 3 * LINE), "white")
    pen, font, bold = ImageDraw.Draw(drawn), label_font(12), label_font(13, bold=True)
    head = f"{len(clocks)} of {dim // 2} frequencies: blue at t = {t:g}, red at t' = {other:g}"
    pen.text((8, 6), head, INK, bold)
    for column, i in enumerate(clocks):
        edge = left + column * (FACE + GAP)
        drawn.paste(clock_face(t * float(speeds[i]), other * float(speeds[i])), (edge, top))
        label_clock(pen, edge + FACE / 2, top + FACE + 4, i, float(speeds[i]))
    pen.text((8, bars - LINE - 4), f"The embedding of t, {dim} channels", INK, bold)
    width = (wide - left - 10) / dim
    middle = bars + tall / 2
    for value in (1, 0, -1):
        y = middle - value * tall / 2
        pen.line([(left, y), (left + dim * width, y)], "#cbd2d9")
        pen.text((left - 6, y), f"{value}", INK, font, anchor="rm")
    values = zip(clock_hands(t, dim, max_period), clock_hands(other, dim, max_period), strict=True)
    for k, (here, there) in enumerate(values):
        x, y, mark = (left + k * width, *(middle - float(v) * tall / 2 for v in (here, there)))
        pad = 0.15 * width if width > 4 else 0
        pen.rectangle((x + pad, min(y, middle), x + width - pad, max(y, middle)), BLUE)
        pen.line([(x, mark), (x + width, mark)], VERMILION, 2)
    half = left + dim / 2 * width
    pen.line([(half, bars - 4), (half, bars + tall + 4)], INK)
    for x, text, anchor in (
        (left, "0", "ma"),
        ((left + half) / 2, "cosines", "ma"),
        (half, f"{dim // 2}", "ma"),
        (half + dim / 4 * width, "sines", "ma"),
        (left + dim * width, f"{dim - 1}", "ra"),
    ):
        pen.text((x, bars + tall + 6), text, INK, font, anchor=anchor)
    pen.text((wide / 2, bars + tall + 6 + LINE), "channel", INK, font, anchor="ma")
    return drawn


# -------------------------------------------------------------------------------------------- maps


@in_style
def vectors_over_time(vectors: Tensor, title: str, label: str = "value") -> Described:
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
    ax.set(title=title, xlabel="timestep t", ylabel="channel")
    ax.grid(visible=False)
    bar = figure.add_axes(((n + 90) / wide, 60 / tall, 18 / wide, d / tall))
    figure.colorbar(drawn, cax=bar, label=label)
    words = (
        f"A map of {d} channels, from top to bottom, over {n} timesteps, from left to right. In "
        "each half, the uppermost channels alternate from one timestep to the next, those below "
        "are waves that grow longer and longer, and the lowest hardly change."
    )
    return Described(figure, words)


@in_style
def similarity(matrices: Mapping[str, Tensor], step: int) -> Described:
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
        ax.set(title=name, xlabel="timestep t'", ylabel="timestep t")
        ax.grid(visible=False)
    bar = figure.add_axes(((wide - 95) / wide, 60 / tall, 16 / wide, n / tall))
    figure.colorbar(drawn, cax=bar, label="cosine similarity")
    said = "; ".join(
        f"{name}: from {float(matrix.min()):.2f} to 1, on average {float(matrix.mean()):.2f}"
        for name, matrix in matrices.items()
    )
    words = (
        f"Square maps of the cosine similarity of the embeddings of all pairs of timesteps from 0 "
        f"to {end}, lightest on the diagonal. {said}."
    )
    return Described(figure, words)


# ------------------------------------------------------------------------------------------ curves


@in_style
def error_curves(times: Sequence[float], errors: Mapping[str, Sequence[float]]) -> Described:
    """Draw the error of the predicted noise over the true timestep, on a logarithmic axis.

    Args:
        times: The true timesteps.
        errors: By what the network got as its timestep, a mean squared error for each true one.
    """
    title = "Error of the noise prediction, by what the network gets as its timestep"
    figure, ax = axes_for(title, "true timestep", "mean squared error")
    colours = (INK, BLUE, VERMILION, PURPLE, ORANGE)
    styles = zip(errors.items(), colours, ("-", "--", "-.", ":", (0, (6, 1.5))), strict=False)
    for (name, values), colour, dashes in styles:
        ax.plot(times, values, ls=dashes, color=colour, label=name)
    ax.set(yscale="log", xlim=(times[0], times[-1]))
    ax.axhline(1, color=MUTED, lw=0.8)
    ax.annotate(
        "prediction 0", (280, 1), (0, 3), textcoords="offset points", ha="center", color=MUTED,
        fontsize=9,
    )  # fmt: skip
    ax.legend(loc="lower left", fontsize=9)
    middle = len(times) // 2
    said = "; ".join(
        f"{name}: {v[0]:.2g} at {times[0]:g}, {v[middle]:.2g} at {times[middle]:g}, "
        f"{v[-1]:.2g} at {times[-1]:g}"
        for name, v in errors.items()
    )
    words = f"Curves of the mean squared error against the true timestep. {said}."
    return Described(figure, words)


@in_style
def fits(
    times: Tensor, target: Tensor, fitted: Mapping[str, Tensor], trained: Tensor, title: str
) -> Described:
    """Draw a target curve and what networks made of it, a panel for each network.

    Args:
        times: The timesteps, (n,).
        target: The curve, (n,).
        fitted: By name of the input, the network's curve (n,).
        trained: Which of the timesteps were trained, (n,) booleans; they get a ring.
        title: Of the figure.
    """
    figure = Figure(figsize=(WIDE, 3.3), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(fitted), sharey=True, squeeze=False)[0]
    for ax, (name, curve) in zip(axes, fitted.items(), strict=True):
        ax.plot(times, target, "--", color=MUTED, lw=1.4, label="target")
        ax.plot(times, curve, color=VERMILION, label="network")
        ax.plot(times[trained], target[trained], "o", color=INK, mfc="white", ms=4, label="trained")
        ax.set(title=name, xlabel="timestep t")
    axes[0].set_ylabel("value, standardised")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    said = "; ".join(
        f"{name}: typical error {rms(curve - target, trained):.2f} at trained timesteps and "
        f"{rms(curve - target, ~trained):.2f} between them"
        for name, curve in fitted.items()
    )
    words = (
        f"A target curve with {int(trained.sum())} trained timesteps as rings, and the curve of "
        f"each network. {said}."
    )
    return Described(figure, words)


def rms(errors: Tensor, where: Tensor) -> float:
    """Return the root mean square of the chosen errors."""
    return float(errors[where].square().mean().sqrt())


# ------------------------------------------------------------------------------------------ images


def image_rows(
    rows: Mapping[str, Sequence[Image.Image]],
    title: str,
    words: str,
    columns: Sequence[str] = (),
    scale: int = 2,
) -> Described:
    """Draw a row of images for each way of generating them.

    Args:
        rows: By name, the images.
        title: Of the figure.
        words: What the images show.
        columns: Headings, or none.
        scale: Side of an enlarged pixel.
    """
    figure = grid([*rows.values()], columns, [*rows], title, scale)
    return Described(figure, f"A grid with these rows of images: {'; '.join(rows)}. {words}")
