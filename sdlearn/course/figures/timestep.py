"""Figures of the timestep embedding: its path, its frequencies as clocks, maps and curves."""

from collections.abc import Mapping, Sequence

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw
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
from sdlearn.course.figures.images import grid, label_font
from sdlearn.course.figures.plots import NARROW, STROKES
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
    label(ax, 11.05, 6.0, "residual\nconnection", MUTED, "right")
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
def error_curves(times: Sequence[float], errors: Mapping[str, Sequence[float]]) -> Described:
    """Draw the error of the predicted noise over the true timestep, on a logarithmic axis.

    Args:
        times: The true timesteps.
        errors: By what the network got as its timestep, a mean squared error for each true one.
    """
    figure = Figure(figsize=(NARROW, 4.2), dpi=110, layout="constrained")
    ax = figure.subplots()
    ax.set(title="Error of the noise prediction for each input")
    ax.set(xlabel="true timestep", ylabel="mean squared error")
    colours = (INK, BLUE, VERMILION, PURPLE, ORANGE)
    dashes = "-", "--", "-.", ":", (0, (6, 1.5))
    styles = zip(errors.items(), colours, dashes, "osD^v", strict=False)
    for (name, values), colour, dash, marker in styles:
        ax.plot(times, values, ls=dash, color=colour, label=name, marker=marker, ms=4)
    ax.set(yscale="log", xticks=[*range(0, 1000, 200), times[-1]])
    ax.axhline(1, color=MUTED, lw=0.8)
    ax.annotate(
        "yardstick: a prediction of zeros", (999, 1), (0, 3), textcoords="offset points",
        ha="right", color=MUTED,
    )  # fmt: skip
    figure.legend(loc="outside lower center", ncols=3)
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


@in_style
def fits(
    targets: Mapping[str, Tensor],
    fitted: Mapping[tuple[str, str], Tensor],
    trained: Tensor,
    windows: Mapping[str, tuple[int, int]],
    title: str,
) -> Described:
    """Draw target curves and what networks made of them: a column a curve, a row an input.

    Args:
        targets: By name of the curve, (n,): its values at the timesteps 0 ... n - 1.
        fitted: By names of the curve and the network's input, the network's curve (n,).
        trained: Which of the timesteps were trained, (n,) booleans; they get a ring.
        windows: By name of the curve, the first and the last timestep that are drawn.
        title: Of the figure.
    """
    inputs = list(dict.fromkeys(name for _, name in fitted))
    figure = Figure(figsize=(NARROW, 1.2 + 1.5 * len(inputs)), dpi=110, layout="constrained")
    axes = figure.subplots(len(inputs), len(targets), sharex="col", sharey="col", squeeze=False)
    said = []
    for (curve, target), column in zip(targets.items(), axes.T, strict=True):
        first, last = windows[curve]
        t = slice(first, last + 1)
        times, dots = torch.arange(first, last + 1), trained[t]
        for name, ax in zip(inputs, column, strict=True):
            values = fitted[curve, name][t]
            ax.plot(times, target[t], color=tint(BLUE, 0.3), lw=5, label="target")
            ax.plot(times, values, color=VERMILION, lw=1.3, label="network")
            ax.plot(times[dots], target[t][dots], "o", color=INK, mfc="white", ms=3.5,
                    label="trained")  # fmt: skip
            off = values - target[t]
            said.append(
                f"{curve}, {name}: RMS error {rms(off, dots):.2f} at trained timesteps and "
                f"{rms(off, ~dots):.2f} between them"
            )
        column[0].set_title(f"{curve}, t = {first} to {last}", fontsize=10)
        column[-1].set_xlabel("timestep t")
    for name, ax in zip(inputs, axes[:, 0], strict=True):
        ax.set_ylabel(name, fontsize=10, fontweight="bold")
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    words = (
        "A column of panels for each target curve, a row for each input. In each panel the target, "
        f"its trained timesteps as rings, and the network's curve. Errors in the windows shown: "
        f"{'; '.join(said)}."
    )
    return Described(figure, words)


def rms(errors: Tensor, where: Tensor) -> float:
    """Return the root mean square of the chosen errors."""
    return float(errors[where].square().mean().sqrt())


# ------------------------------------------------------------------------------------ frequencies


@in_style
def frequency_needs(
    groups: Sequence[str],
    errors: Sequence[float],
    losses: Sequence[float],
    together: tuple[int, float, float],
    titles: tuple[str, str],
) -> Described:
    """Draw two bars for each group of frequencies, one panel above the other.

    Args:
        groups: Their names, the highest frequencies first.
        errors: The share of each group in an error, 0 to 1.
        losses: The similarity that is lost without each group.
        together: How many of the first groups are also taken as one, with its share and its loss.
        titles: Of the panels.
    """
    count, *joint = together
    figure = Figure(figsize=(NARROW, 4.6), dpi=110, layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    said = []
    for ax, values, colour, title, whole, percent in zip(
        axes, (errors, losses), (ORANGE, PURPLE), titles, joint, (True, False), strict=True
    ):
        texts = [f"{100 * v:.0f} %" if percent else f"{v:.2f}" for v in (*values, whole)]
        drawn = ax.bar(range(len(groups)), values, width=0.55, color=colour)
        ax.bar_label(drawn, texts[:-1], padding=2)
        ax.set_title(title, fontsize=10)
        ax.set(ylim=(0, 1.45 * max(*errors, *losses)), yticks=[])
        for side in ("left", "top", "right"):
            ax.spines[side].set_visible(False)
        ax.grid(visible=False)
        height = max(values[:count]) + 0.3 * max(*errors, *losses)
        ax.plot([-0.3, count - 0.7], [height] * 2, color=MUTED, lw=1)
        ax.annotate(
            f"together {texts[-1]}", ((count - 1) / 2, height), (0, 3), ha="center", color=MUTED,
            textcoords="offset points",
        )  # fmt: skip
        shares = "; ".join(f"{g}: {x}" for g, x in zip(groups, texts, strict=False))
        said.append(f"{title}: {shares}; the first {count} together: {texts[-1]}")
    axes[1].set_xticks(range(len(groups)), groups)
    axes[1].set_xlabel("frequencies i, and their turns in 1000 steps")
    lines = " ".join(". ".join(said).replace("\n", ", ").split())
    return Described(figure, f"Bars for {len(groups)} groups of frequencies. {lines}.")


@in_style
def reading_errors(
    times: Tensor,
    embeddings: Mapping[tuple[int, str], Tensor],
    found: Mapping[tuple[int, str], Tensor],
    title: str,
) -> Described:
    """Draw how the error of timesteps falls as the clocks of their embeddings are read.

    The slowest clock is read first. A ring shows the error of the reader's own timesteps.

    Args:
        times: The true timesteps, (b,).
        embeddings: By number of clocks and name of the rounding, embeddings (b, 2 * clocks).
        found: By the same, the reader's timesteps (b,).
        title: Of the figure.
    """
    counts = list(dict.fromkeys(count for count, _ in embeddings))
    figure = Figure(figsize=(NARROW, 4.2), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    axes = dict(zip(counts, panels, strict=True))
    strokes = dict(zip((name for _, name in embeddings), STROKES * len(counts), strict=False))
    said = []
    for (count, name), rounded in embeddings.items():
        (colour, dashes, width), ax = strokes[name], axes[count]
        errors = [float((t - times).abs().max()) for t in clock_by_clock(rounded)]
        ax.plot(range(1, count + 1), errors, dashes, color=colour, lw=width, label=name)
        ring = float((found[count, name] - times).abs().max())
        ax.plot(count, ring, "o", ms=8, mfc="none", mec=colour, mew=1.6)
        said.append(
            f"{count} clocks, {name}: {float(f'{errors[0]:.2g}'):g} after the slowest, "
            f"{float(f'{errors[-1]:.2g}'):g} after the fastest, {float(f'{ring:.2g}'):g} from "
            "read_clocks"
        )
    for count, ax in axes.items():
        ax.set_title(f"{count} clocks", fontsize=10)
        ax.set(xlabel="clocks read", yscale="log", xticks=range(count // 4, count + 1, count // 4))
    axes[counts[0]].set_ylabel("largest error, steps")
    sign = Line2D([], [], ls="", marker="o", ms=8, mfc="none", mec=MUTED, label="read_clocks")
    handles = [*axes[counts[0]].get_legend_handles_labels()[0], sign]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    words = f"Curves of the error of t against the number of clocks read. {'; '.join(said)}."
    return Described(figure, words)


def clock_by_clock(embeddings: Tensor) -> list[Tensor]:
    """Return the timesteps (b,) of embeddings (b, dim) after each clock, the slowest first."""
    half = embeddings.shape[1] // 2
    speeds = frequencies(2 * half)
    angles = torch.atan2(embeddings[:, half:], embeddings[:, :half])
    t = torch.zeros(len(embeddings), dtype=embeddings.dtype)
    stages: list[Tensor] = []
    for i in reversed(range(half)):
        turns = torch.round((t * speeds[i] - angles[:, i]) / (2 * torch.pi))
        if not stages:
            turns = torch.zeros_like(turns)  # the slowest has not made a whole turn
        t = (angles[:, i] + 2 * torch.pi * turns) / speeds[i]
        stages.append(t)
    return stages


# ------------------------------------------------------------------------------------------ images


def image_rows(
    rows: Mapping[str, Sequence[Image.Image]],
    title: str,
    words: str,
    columns: Mapping[str, str] | None = None,
    scale: int = 2,
    details: Mapping[str, tuple[str, int, tuple[int, int]]] | None = None,
) -> Described:
    """Draw a row of images for each way of generating them.

    Args:
        rows: By name, the images.
        title: Of the figure.
        words: What the images show.
        columns: By prompt, a short heading; the prompts are said in the figure's words.
        scale: Side of an enlarged pixel.
        details: By name, the row, the column and the corner (x, y) of a square of half the image's
            side. They form one more row, enlarged twice as much, and are as many as the columns.
    """
    columns = columns or {}
    figure = grid([*rows.values()], [*columns.values()], [*rows], title, scale, letters=15)
    if columns:
        words += f" The prompts: {'; '.join(columns)}."
    if details:
        crops = []
        for row, column, (x, y) in details.values():
            side = rows[row][column].width // 2
            crops.append(rows[row][column].crop((x, y, x + side, y + side)))
        longest = max(rows, key=label_font(15).getlength)
        below = grid([crops], [*details], [longest], "", 2 * scale, letters=15)
        pen = ImageDraw.Draw(below)
        left = below.width - len(crops) * (2 * scale * crops[0].width + 6)
        pen.rectangle((0, 0, left - 2, below.height), fill="white")
        pen.text((6, below.height - scale * crops[0].width), "enlarged", INK, label_font(15),
                 anchor="lm")  # fmt: skip
        whole = Image.new("RGB", (figure.width, figure.height + below.height + 6), "white")
        whole.paste(below, (0, figure.height + 6))
        whole.paste(figure)
        figure = whole
        words += f" Below, enlarged: {'; '.join(details)}."
    return Described(figure, f"A grid with these rows of images: {'; '.join(rows)}. {words}")
