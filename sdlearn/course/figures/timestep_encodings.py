"""Charts for notebook 03: what networks learn from an encoding, and times read from clocks."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from sdlearn.course.figures.clocks import FACE as FACE
from sdlearn.course.figures.clocks import GAP as GAP
from sdlearn.course.figures.clocks import LINE as LINE
from sdlearn.course.figures.clocks import clock_face as clock_face
from sdlearn.course.figures.clocks import clock_figure as clock_figure
from sdlearn.course.figures.clocks import clock_hands as clock_hands
from sdlearn.course.figures.clocks import clock_rows as clock_rows
from sdlearn.course.figures.clocks import frequencies as frequencies
from sdlearn.course.figures.clocks import pick_clocks as pick_clocks
from sdlearn.course.figures.plots import NARROW, STROKES
from sdlearn.course.figures.style import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    VERMILION,
    Described,
    in_style,
    tint,
)


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
    figure = Figure(figsize=(4.6, 1 + len(inputs)), dpi=110, layout="constrained")
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
                    label="trained timesteps")  # fmt: skip
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
    axes[1].set_xlabel("frequency i of the storybook model's 64, and turns in 1000 steps")
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
