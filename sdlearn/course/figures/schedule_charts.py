"""Charts of notebook 07: noise schedules, what their timesteps show, and what leaks at the end."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.images import png
from sdlearn.course.figures.plots import NARROW
from sdlearn.course.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    VERMILION,
    Described,
    in_style,
    tint,
)

LOOKS = ((INK, "-"), (VERMILION, "--"), (BLUE, "-."), (PURPLE, ":"))


def compact(figure: Figure) -> Image.Image:
    """Render a figure as an image with a palette of 64 colours, in a quarter of the bytes."""
    drawn = Image.open(io.BytesIO(png(figure))).convert("RGB")
    return drawn.quantize(64, dither=Image.Dither.NONE)


def percent(share: float) -> str:
    """Write a share 0 ... 1 as a whole percentage, as the figures of the course do."""
    return f"{100 * share:.0f} %"


@in_style
def schedule_curves(tables: Mapping[str, Tensor]) -> Described:
    """Draw alphabar and the signal-to-noise ratio in decibels of up to four schedules.

    Args:
        tables: alphabar at each timestep (n,), falling, 0 … 1, by schedule. Zeros are left out of
            the lower panel.

    Raises:
        ValueError: If there are more schedules than kinds of line.
    """
    if len(tables) > len(LOOKS):
        raise ValueError(
            f"tables has {len(tables)} schedules, more than there are kinds of line; accepted: up "
            f"to {len(LOOKS)}"
        )
    figure = Figure(figsize=(NARROW, 5.2), dpi=100, layout="constrained")
    above, below = figure.subplots(2, 1)
    said = []
    for (name, table), (colour, dashes) in zip(tables.items(), LOOKS[: len(tables)], strict=True):
        ratio = table / (1 - table)
        whole = ratio > 0  # a table may end at pure noise
        above.plot(table, dashes, color=colour, label=name)
        below.plot(torch.arange(len(table))[whole], 10 * ratio[whole].log10(), dashes, color=colour)
        half = int((ratio >= 1).sum()) - 1
        said.append(f"{name}: 0 dB at t = {half}, at the end {float(table[-1]):.1g}")
    above.set(title="ᾱ, the signal's share of the variance", ylabel="ᾱ", ylim=(0, 1))
    above.legend(fontsize=9)
    below.set(title="Signal-to-noise ratio", ylabel="dB", ylim=(-45, 35), xlabel="timestep t")
    below.axhline(0, color=MUTED, lw=0.8)
    below.text(999, 1, "as much signal as noise", color=MUTED, fontsize=9, ha="right", va="bottom")
    words = (
        "Two panels against the timestep: ᾱ, which falls from 1, and the signal-to-noise ratio in "
        f"decibels. For each schedule, the time of 0 dB and the last ᾱ: {'; '.join(said)}."
    )
    return Described(compact(figure), words)


@in_style
def legible_steps(limits: Mapping[str, Sequence[int]], names: Sequence[str], n: int) -> Described:
    """Draw how each schedule divides its timesteps by what can be distinguished, as bars.

    Args:
        limits: By schedule, the last timestep at which each detail can be distinguished, in rising
            order.
        names: Names of the details, up to four. Until the first limit, all can be distinguished.
        n: Number of timesteps.

    Raises:
        ValueError: If there are more details than colours for them, or if a schedule doesn't have
            one limit for each detail.
    """
    looks = [tint(BLUE, 0.9), tint(GREEN, 0.9), tint(ORANGE, 0.8), tint(VERMILION, 0.7)]
    if len(names) > len(looks):
        raise ValueError(
            f"names has {len(names)} details, more than there are colours; accepted: up to "
            f"{len(looks)}"
        )
    for schedule, at in limits.items():
        if len(at) != len(names):
            raise ValueError(
                f"limits has {len(at)} timesteps for {schedule!r}; accepted: one for each of the "
                f"{len(names)} names"
            )
    figure = Figure(figsize=(1.2 * NARROW, 1.3 + 0.45 * len(limits)), dpi=100)
    ax = figure.subplots()
    figure.subplots_adjust(left=0.2, right=0.96, top=1 - 0.8 / figure.get_figheight(),
                           bottom=0.5 / figure.get_figheight())  # fmt: skip
    colours = [*looks[: len(names)], GREY]
    said = []
    for y, (schedule, at) in enumerate(limits.items()):
        parts = np.diff([0, *(t + 1 for t in at), n])
        starts = [0, *accumulate(parts)][:-1]
        for k, (start, width) in enumerate(zip(starts, parts, strict=True)):
            ax.barh(y, width, left=start, color=colours[k], edgecolor="white", height=0.7)
            ax.text(start + width / 2, y, percent(width / n), ha="center", va="center",
                    color="white" if k == 0 else INK, fontsize=9)  # fmt: skip
        shares = ", ".join(percent(part / n) for part in parts)
        said.append(f"{schedule}: {shares}")
    headings = [*names, "none of them"]
    first = [0, *(t + 1 for t in next(iter(limits.values()))), n]
    for k, heading in enumerate(headings):
        ax.text((first[k] + first[k + 1]) / 2, -0.47, textwrap.fill(heading, 8), ha="center",
                va="bottom", fontsize=8.5, color=MUTED)  # fmt: skip
    ax.set(yticks=range(len(limits)), yticklabels=[*limits], xlim=(0, n), xlabel="timestep t")
    ax.set_ylim(len(limits) - 0.5, -0.5)
    ax.grid(visible=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    figure.text(0.012, 0.985, "What the observer can still distinguish", fontweight="bold",
                fontsize=11, va="top")  # fmt: skip
    words = (
        "A bar for each schedule, divided at the last timesteps at which each of these can be "
        f"distinguished in 9 of 10 cases: {'; '.join(names)}. The shares of the timesteps, where "
        f"the last is that at which none of them can: {'; '.join(said)}."
    )
    return Described(compact(figure), words)


@in_style
def brightness_readings(panels: Mapping[str, Mapping[str, Tensor]], bins: int = 40) -> Described:
    """Draw histograms of the brightness read from noisy latents, with a panel for each size.

    Args:
        panels: For each panel, by title, three sets of values (n,), by name; -1 is black and 1 is
            white. All panels share the bins.
        bins: Number of bins.

    Raises:
        ValueError: If a panel doesn't have three sets.
    """
    figure = Figure(figsize=(NARROW, 2.35 * len(panels)), dpi=100, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    values = torch.cat([x.flatten() for sets in panels.values() for x in sets.values()])
    low, high = values.double().quantile(torch.tensor([0.002, 0.998]).double()).tolist()
    edges = np.linspace(low, high, bins + 1)
    looks = ((INK, "-"), (VERMILION, "-"), (BLUE, "--"))
    said = []
    for ax, (name, sets) in zip(axes, panels.items(), strict=True):
        for (label, x), (colour, dashes) in zip(sets.items(), looks, strict=True):
            heights, _ = np.histogram(x.numpy(), edges, density=True)
            ax.stairs(heights, edges, color=colour, ls=dashes, lw=1.8, label=label)
        ax.set(title=name, ylabel="density", ylim=(0, None))
        said.append(
            f"{name}: " + ", ".join(f"{k} {x.mean():.2f} ± {x.std():.2f}" for k, x in sets.items())
        )
    axes[0].legend(fontsize=9)
    axes[-1].set_xlabel("brightness read from the latent (-1 black, 1 white)")
    words = (
        "Histograms of the brightness read from latents at t = 999. Means and standard deviations: "
        f"{'; '.join(said)}."
    )
    return Described(compact(figure), words)


@in_style
def visited_timesteps(times: Mapping[str, Sequence[float]], num_steps: int = 1000) -> Described:
    """Draw each list of timesteps as a row of dots, from num_steps - 1 on the left to 0.

    The first and the last timestep of each list are labelled.

    Args:
        times: Timesteps, falling, by name. All lists have the same length.
        num_steps: Number of timesteps of the schedule.
    """
    figure = Figure(figsize=(1.2 * NARROW, 1.2 + 0.55 * len(times)), dpi=100, layout="constrained")
    ax = figure.subplots()
    for y, visits in enumerate(times.values()):
        ax.plot([0, num_steps - 1], [y, y], "-", color="0.8", lw=1, zorder=0)
        ax.plot(visits, [y] * len(visits), "o", color=BLUE, ms=5)
        for t in (visits[0], visits[-1]):
            ax.text(t, y - 0.2, f"{t:g}", fontsize=9, ha="center")
    ax.set(yticks=range(len(times)), yticklabels=[*times], xlabel="timestep t")
    ax.set(xlim=(num_steps + 25, -40), ylim=(len(times) - 0.6, -0.65))
    steps = len(next(iter(times.values())))
    ax.set_title(f"The timesteps of {steps} steps, noise on the left")
    ax.grid(visible=False, axis="y")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    said = "; ".join(f"{name}: from {v[0]:g} to {v[-1]:g}" for name, v in times.items())
    words = f"A row of {steps} dots for each spacing, from large to small t. {said}."
    return Described(compact(figure), words)
