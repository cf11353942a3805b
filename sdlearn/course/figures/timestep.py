"""Figures of the timestep embedding: its path, its frequencies as clocks, maps and curves."""

from collections.abc import Mapping, Sequence

import matplotlib
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

SHADES = 9  # levels of a map; few levels keep thin stripes distinct and the file small


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
        f"to {(n - 1) * step}, lightest on the diagonal. {said}."
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
    title = "Error of the noise prediction for each input"
    figure, ax = axes_for(title, "true timestep", "mean squared error")
    colours = (INK, BLUE, VERMILION, PURPLE, ORANGE)
    styles = zip(errors.items(), colours, ("-", "--", "-.", ":", (0, (6, 1.5))), strict=False)
    for (name, values), colour, dashes in styles:
        ax.plot(times, values, ls=dashes, color=colour, label=name)
    ax.set(yscale="log", xlim=(times[0], times[-1]))
    ax.axhline(1, color=MUTED, lw=0.8)
    ax.annotate(
        "always predicting 0", (700, 1), (0, 3), textcoords="offset points", ha="center",
        color=MUTED, fontsize=9,
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
        f"{name}: RMS error {rms(curve - target, trained):.2f} at trained timesteps and "
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
