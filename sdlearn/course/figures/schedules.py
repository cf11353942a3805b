"""Noise schedules to look at: noisy latents, arcs, histograms, and which times are visited."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.pages import grid
from sdlearn.course.figures.plots import WIDE

STEPS = (("k", "-", 1.9), ("0.35", "--", 1.7), ("0.55", ":", 2.2))
MARKS = ("o", "s", "^")
SHADES = 16  # grey levels of a latent: the squares stay apart, and the file stays small
LIMIT = 3.0  # a latent's darkest and lightest value


class Schedule(Protocol):
    """What is drawn here needs no more of a schedule, so a learner's own will do."""

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]: ...


# ---------------------------------------------------------------------------------- under the noise


def mosaic(z: Tensor, size: int = 64) -> Image.Image:
    """The four channels of a latent (4, h, w), two above two, as one square grey picture.

    Black is -3 or less, white 3 or more, the same for every latent.
    """
    rows = [torch.cat([*z[k : k + 2].detach().float().cpu()], dim=1) for k in (0, 2)]
    values = torch.cat(rows).clamp(-LIMIT, LIMIT) / (2 * LIMIT) + 0.5  # (2 h, 2 w) in 0 ... 1
    shades = (values * (SHADES - 1)).round() * (255 // (SHADES - 1))
    picture = Image.fromarray(shades.numpy().astype(np.uint8))
    return picture.resize((size, size), Image.Resampling.NEAREST)


def noisy(z_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """alpha z_0 + sigma eps in float32, as networks take it; a scalar pair for the whole batch."""
    return (alpha * z_0.double() + sigma * eps.double()).float()


def nearest(z: Tensor, alpha: Tensor, codes: Tensor) -> Tensor:
    """Which of the known latents (n, c, h, w) best explains each noisy one, (b, c, h, w) -> (b,).

    The best guess there is, where the noise is normal and every page equally likely beforehand.
    """
    distances = torch.cdist(z.flatten(1).double(), alpha * codes.flatten(1).double())
    return distances.argmin(dim=1)


def fog(
    page: Image.Image,
    z: Tensor,
    found: Image.Image | None,
    decode: Callable[[Tensor], Image.Image],
) -> Image.Image:
    """A row of four: the page, its noisy latent (1, 4, h, w), that decoded, and the page found, or
    an empty one where there is none."""
    blank = Image.new("RGB", page.size, "white")
    pictures = [page, mosaic(z[0], page.width), decode(z), found or blank]
    return grid([pictures], ["the page", "z_t", "z_t decoded", "the nearest"], scale=2)


def told(t: int, alpha: float, sigma: float) -> str:
    """The numbers of one time in a sentence."""
    snr = (alpha / sigma) ** 2 if sigma else math.inf
    decibels = f"{10 * math.log10(snr):.1f} dB" if 0 < snr < math.inf else "no signal is left"
    return (
        f"At t = {t}: alpha {alpha:.3f}, sigma {sigma:.3f}, signal-to-noise ratio {snr:.4g} "
        f"({decibels})."
    )


# -------------------------------------------------------------------------------------- with axes


def arcs(schedules: Mapping[str, Schedule], every: int = 50, num_steps: int = 1000) -> Figure:
    """For each schedule the quarter circle of (alpha, sigma), a dot each `every` steps and at the
    last one. The last dot says its time, and so does each further one that has the room."""
    figure = Figure(figsize=(WIDE, 3.5), dpi=100, layout="constrained")
    axes = figure.subplots(1, max(len(schedules), 2), squeeze=False)[0]
    times = torch.tensor([*range(0, num_steps, every), num_steps - 1]).unique()
    turn = torch.linspace(0, math.pi / 2, 91)
    for ax, (name, schedule) in zip(axes, schedules.items(), strict=False):
        alpha, sigma = schedule.at(times)
        ax.plot(turn.cos(), turn.sin(), "-", color="0.7", lw=1)
        ax.plot(alpha, sigma, "o", color="black", ms=3.5)
        label_arc(ax, *(x.flip(0).tolist() for x in (times, alpha, sigma)))
        ax.set(title=name, xlabel="alpha: how much of $z_0$", aspect="equal")
        ax.set(xlim=(-0.22, 1.28), ylim=(-0.03, 1.25), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    for ax in axes[len(schedules) :]:
        ax.axis("off")
    axes[0].set_ylabel("sigma: how much noise")
    return figure


def label_arc(
    ax: Axes, times: Sequence[float], alpha: Sequence[float], sigma: Sequence[float]
) -> None:
    """Write each dot's time outside the arc, unless it would touch the one before."""
    before = (math.inf, math.inf)
    for t, a, s in zip(times, alpha, sigma, strict=True):
        place = (1.11 * a, 1.11 * s)
        if math.dist(place, before) > 0.16:
            ax.text(*place, f"{t:.0f}", fontsize=8, ha="center", va="center")
            before = place


def histograms(
    panels: Mapping[str, Mapping[str, Tensor]], xlabel: str, bins: int = 30, title: str = ""
) -> Figure:
    """For each panel up to three named sets of numbers (n,), as outlines that differ in dashes.

    All panels share the bins, from the least to the largest number; each set has the area one.
    """
    figure = Figure(figsize=(WIDE, 3.4), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    numbers = torch.cat([x.flatten() for sets in panels.values() for x in sets.values()])
    edges = np.linspace(float(numbers.min()), float(numbers.max()), bins + 1)
    for ax, (name, sets) in zip(axes, panels.items(), strict=True):
        strokes = STEPS[: len(sets)]
        for (label, x), (colour, dashes, width) in zip(sets.items(), strokes, strict=True):
            heights, _ = np.histogram(x.numpy(), edges, density=True)
            ax.stairs(heights, edges, color=colour, ls=dashes, lw=width, label=label)
        ax.set(title=name, xlabel=xlabel)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("density")
    marks, names = axes[0].get_legend_handles_labels()
    figure.legend(marks, names, loc="outside lower center", ncols=len(names), frameon=False)
    if title:
        figure.suptitle(title)
    return figure


def visited(times: Mapping[str, Sequence[float]], num_steps: int = 1000) -> Figure:
    """A row of dots for each list of times, over the whole table; both its ends are written out."""
    figure = Figure(figsize=(WIDE, 1.2 + 0.55 * len(times)), dpi=100, layout="constrained")
    ax = figure.subplots()
    rows = range(len(times))
    for y, visits in zip(rows, times.values(), strict=True):
        ax.plot([0, num_steps - 1], [y, y], "-", color="0.8", lw=1, zorder=0)
        ax.plot(visits, [y] * len(visits), MARKS[y % len(MARKS)], color="black", ms=5)
        for t in (visits[0], visits[-1]):
            ax.text(t, y - 0.22, f"{t:g}", fontsize=9, ha="center")
    ax.set(yticks=[*rows], yticklabels=[*times], xlabel="time t", title="Which times are visited")
    ax.set(xlim=(num_steps + 25, -40), ylim=(len(times) - 0.6, -0.6))
    ax.grid(axis="x", alpha=0.3)
    ax.tick_params(axis="y", length=0)
    for side in ("left", "right", "top"):
        ax.spines[side].set_visible(False)
    return figure
