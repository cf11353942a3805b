"""Figures of the timestep embedding: its path, maps of vectors, errors, and rows of images."""

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from sdlearn.course.figures import diagrams
from sdlearn.course.figures.clocks import FACE as FACE
from sdlearn.course.figures.clocks import GAP as GAP
from sdlearn.course.figures.clocks import LINE as LINE
from sdlearn.course.figures.clocks import clock_face as clock_face
from sdlearn.course.figures.clocks import clock_figure as clock_figure
from sdlearn.course.figures.clocks import clock_hands as clock_hands
from sdlearn.course.figures.clocks import clock_rows as clock_rows
from sdlearn.course.figures.clocks import frequencies as frequencies
from sdlearn.course.figures.clocks import pick_clocks as pick_clocks
from sdlearn.course.figures.diagrams import CONV, LINEAR, MLP, TIME, arrow, box, label, plus
from sdlearn.course.figures.images import grid
from sdlearn.course.figures.plots import NARROW
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

LETTERS = 14  # of rows of images, in pixels: "purple butterfly," fits on an image of 128 pixels
SHADES = 9  # levels of a map; few levels keep thin stripes distinct and the file small


# ---------------------------------------------------------------------------------------- diagram


@in_style
def timestep_path() -> Described:
    """Draw the path of a timestep: sinusoids, MLP, and the addition inside a ResBlock."""
    across, tall = 11.8, 10.6
    figure, ax = diagrams.canvas(across, tall, "From a timestep to every ResBlock", NARROW)
    left, middle, right, y = 2.75, 6.65, 9.5, 4.9
    for x, w, low, high in ((0.35, 3.8, 2.75, 7.55), (5.1, 6.6, 1.25, 9.4)):
        ax.add_patch(Rectangle((x, low), w, high - low, facecolor=PALE, edgecolor="#cbd2d9"))
    label(ax, 0.45, 7.25, "TimeEmbedding", MUTED, "left")
    label(ax, 5.3, 9.05, "ResBlock", MUTED, "left")
    label(ax, left, 10.3, "timestep $t$, (b,)")
    box(ax, left, 8.7, "sinusoids\n$\\cos\\,\\omega_i t$,  $\\sin\\,\\omega_i t$",
        tint(PURPLE, 0.22), w=3.4, h=1.3)  # fmt: skip
    for height, name, colour in (
        (6.4, "linear_1", LINEAR), (5.0, "SiLU", MLP), (3.6, "linear_2", LINEAR)
    ):  # fmt: skip
        box(ax, left, height, name, colour, w=2.0)
    ends = ((10.0, 9.35), (8.05, 6.85), (5.95, 5.45), (4.55, 4.05), (3.15, 1.75))
    for start, end in ends:
        arrow(ax, [(left, start), (left, end)], TIME)
    label(ax, left + 0.2, 7.75, "(b, d)", MUTED, "left")
    label(ax, left - 0.2, 2.4, "(b, 4d)", MUTED, "right")
    label(ax, left, 1.05, "emb, the time embedding,\nto every ResBlock", TIME)
    arrow(ax, [(left, 2.2), (4.6, 2.2), (4.6, y), (middle - 1.32, y)], TIME)
    box(ax, middle, y, "SiLU,\ntime_emb_proj", LINEAR, w=2.6, h=1.2)
    arrow(ax, [(middle + 1.3, y), (right - 0.26, y)], TIME)
    label(ax, middle, 3.55, "one value for\neach channel,\n(b, c, 1, 1)", TIME)
    label(ax, right, 10.3, "feature map, (b, c, h, w)")
    box(ax, right, 7.2, "norm, SiLU,\nconv1", CONV, w=2.4, h=1.2)
    plus(ax, right, y)
    box(ax, right, 3.3, "norm, SiLU,\nconv2", CONV, w=2.4, h=1.2)
    plus(ax, right, 1.8)
    ends = ((10.0, 7.82), (6.6, y + 0.26), (y - 0.24, 3.92), (2.7, 2.06), (1.56, 0.6))
    for start, end in ends:
        arrow(ax, [(right, start), (right, end)])
    arrow(ax, [(right, 8.5), (11.3, 8.5), (11.3, 1.8), (right + 0.26, 1.8)])
    ax.text(
        11.02, 5.25, "residual connection", rotation=90, ha="center", va="center", color=MUTED,
        fontsize=8.5,
    )  # fmt: skip
    words = (
        "A diagram. The timestep t becomes cosines and sines, a vector of d channels. The "
        "TimeEmbedding, linear_1, SiLU and linear_2, turns it into emb, of 4 d channels, which "
        "goes to every ResBlock. In a ResBlock, SiLU and a linear layer, time_emb_proj, make one "
        "value for each channel of it. That value is added to the feature map between the two "
        "convolutions, the same at every position. A residual connection bypasses the whole block."
    )
    return Described(figure, words)


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
    wide, tall = n + 90, d + 180
    figure = Figure(figsize=(wide / 100, tall / 100), dpi=100)
    ax = figure.add_axes((75 / wide, 140 / tall, n / wide, d / tall))
    most = float(vectors.abs().max())
    shades = matplotlib.colormaps["cividis"].resampled(SHADES)
    drawn = ax.imshow(
        vectors.T.numpy(), cmap=shades, vmin=-most, vmax=most, aspect="auto", interpolation="none"
    )
    ax.set(title=title, xlabel="timestep t", ylabel="channel")
    ax.grid(visible=False)
    bar = figure.add_axes((75 / wide, 60 / tall, n / wide, 18 / tall))
    figure.colorbar(drawn, cax=bar, label=label, orientation="horizontal")
    words = (
        f"A map of {d} channels, from top to bottom, over {n} timesteps, from left to right. In "
        "each half, the uppermost channels are the shortest waves, those below grow longer and "
        "longer, and the lowest hardly change."
    )
    return Described(figure, words)


@in_style
def similarity(
    matrices: Mapping[str, Tensor],
    step: int,
    lengths: Sequence[float],
    border: tuple[float, float],
) -> Described:
    """Draw maps of the similarity between the embeddings of two timesteps; light is similar.

    All maps share one scale, and every entry is one pixel. A curve below them shows the length of
    the embeddings.

    Args:
        matrices: By name, (n, n) each.
        step: Entry k belongs to the timestep k * step.
        lengths: Of the embeddings of the timesteps 0, 1, 2, ... after the MLP.
        border: Two timesteps; the curve has a band between them.
    """
    n = len(next(iter(matrices.values())))
    below = 215  # pixels of the curve, its title and its labels
    wide, tall = 75 + len(matrices) * (n + 25), n + 175 + below
    figure = Figure(figsize=(wide / 100, tall / 100), dpi=100)
    least = min(float(matrix.min()) for matrix in matrices.values())
    shades = matplotlib.colormaps["cividis"].resampled(2 * SHADES)
    end = n * step
    for k, (name, matrix) in enumerate(matrices.items()):
        ax = figure.add_axes(((75 + k * (n + 25)) / wide, (135 + below) / tall, n / wide, n / tall))
        drawn = ax.imshow(
            matrix.numpy(), cmap=shades, vmin=least, vmax=1, extent=(0, end, end, 0),
            interpolation="none",
        )  # fmt: skip
        ticks = range(0, end, 250)
        ax.set(title=name, xlabel="timestep t'", xticks=ticks, yticks=ticks)
        ax.grid(visible=False)
        if k:
            ax.tick_params(labelleft=False)
    figure.axes[0].set_ylabel("timestep t")
    bar = figure.add_axes((75 / wide, (55 + below) / tall, (wide - 100) / wide, 16 / tall))
    figure.colorbar(drawn, cax=bar, label="cosine similarity", orientation="horizontal")
    curve = figure.add_axes((75 / wide, 50 / tall, (wide - 100) / wide, (below - 85) / tall))
    draw_lengths(curve, lengths, border)
    said = "; ".join(
        f"{name}: from {float(matrix.min()):.2f} to 1, on average {float(matrix.mean()):.2f}"
        for name, matrix in matrices.items()
    )
    least_at, last = lengths.index(min(lengths)), len(lengths) - 1
    words = (
        f"Square maps of the cosine similarity of the embeddings of all pairs of timesteps from 0 "
        f"to {(n - 1) * step}, lightest on the diagonal. {said}. Below, the length of emb over the "
        f"timestep: {lengths[0]:.1f} at t = 0, down to {lengths[least_at]:.1f} at t = {least_at}, "
        f"{lengths[last]:.1f} at t = {last}."
    )
    return Described(figure, words)


def draw_lengths(ax: Axes, lengths: Sequence[float], border: tuple[float, float]) -> None:
    """Draw the length of an embedding over the timestep; its least and its last value are named."""
    ax.axvspan(*border, color=tint(ORANGE, 0.35), lw=0)
    ax.plot(lengths, color=PURPLE, lw=1.8)
    for t, shift, side in ((lengths.index(min(lengths)), (0, 15), "center"),
                           (len(lengths) - 1, (0, 19), "right")):  # fmt: skip
        ax.plot(t, lengths[t], "o", color=PURPLE, ms=5)
        ax.annotate(
            f"{lengths[t]:.1f} at t = {t}", (t, lengths[t]), shift, textcoords="offset points",
            ha=side, va="center",
        )  # fmt: skip
    ax.set(
        title="length of emb", xlabel="timestep t", ylabel="length", ylim=(0, 1.35 * max(lengths))
    )
    ax.set(xlim=(0, len(lengths)), xticks=range(0, len(lengths), 250))


# ------------------------------------------------------------------------------------------ curves


@in_style
def error_curves(
    times: Sequence[float],
    errors: Mapping[str, Sequence[float]],
    places: Mapping[str, tuple[int, tuple[float, float]]] | None = None,
) -> Described:
    """Draw the error of the predicted noise over the true timestep, on a logarithmic axis.

    Args:
        times: The true timesteps.
        errors: By what the network got as its timestep, a mean squared error for each true one.
        places: By name, where a curve is labelled: beside which of its points, and how far right
            and up of it, in points. The others are labelled to the right of their ends.
    """
    figure = Figure(figsize=(NARROW, 3.9), dpi=110, layout="constrained")
    ax = figure.subplots()
    ax.set_title("Error of the noise prediction,\nwith the true timestep and with each replacement")
    ax.set(xlabel="true timestep", ylabel="mean squared error")
    colours = (INK, BLUE, VERMILION, PURPLE, ORANGE)
    dashes = "-", "--", "-.", ":", (0, (6, 1.5))
    styles = zip(errors.items(), colours, dashes, "osD^v", strict=False)
    for (name, values), colour, dash, marker in styles:
        ax.plot(times, values, ls=dash, color=colour, marker=marker, ms=4)
        point, shift = (places or {}).get(name, (-1, (9, 0)))
        ax.annotate(
            name, (times[point], values[point]), shift, textcoords="offset points", va="center",
            color="#9a6700" if colour == ORANGE else colour, fontweight="bold",
        )  # fmt: skip
    ax.set(yscale="log", xticks=[*range(0, 1000, 200), times[-1]], xlim=(-45, 1.3 * times[-1]))
    ax.axhline(1, color=MUTED, lw=0.8)
    ax.annotate(
        "yardstick: a prediction of zeros", (1.28 * times[-1], 1), (0, 3), ha="right", color=MUTED,
        textcoords="offset points",
    )  # fmt: skip
    middle = len(times) // 2
    said = "; ".join(
        f"{name}: {v[0]:.2g} at {times[0]:g}, {v[middle]:.2g} at {times[middle]:g}, "
        f"{v[-1]:.2g} at {times[-1]:g}"
        for name, v in errors.items()
    )
    words = (
        "Curves of the mean squared error against the true timestep, and a line at 1, the error of "
        f"a prediction of zeros. {said}."
    )
    return Described(figure, words)


# ------------------------------------------------------------------------------------------ images


def image_rows(
    rows: Mapping[str, Sequence[Image.Image]],
    title: str,
    words: str,
    columns: Mapping[str, str] | None = None,
    scale: int = 2,
) -> Described:
    """Draw a row of images for each way of generating them.

    Args:
        rows: By name, the images.
        title: Of the figure.
        words: What the images show.
        columns: By prompt, a short heading; the prompts are said in the figure's words.
        scale: Side of an enlarged pixel.
    """
    columns = columns or {}
    figure = grid([*rows.values()], [*columns.values()], [*rows], title, scale, letters=LETTERS)
    if columns:
        words += f" The prompts: {'; '.join(columns)}."
    return Described(figure, f"A grid with these rows of images: {'; '.join(rows)}. {words}")
