"""Figures of noise schedules: noisy latents, (alpha, sigma) arcs, histograms, sampled timesteps."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.images import grid
from sdlearn.course.figures.plots import STROKES, WIDE, legend_below, stroke_lines
from sdlearn.course.figures.style import in_style

MARKS = ("o", "s", "^")
SHADES = 16  # grey levels of a latent: the squares stay apart, and the file stays small
LIMIT = 3.0  # a latent's darkest and lightest value


class Schedule(Protocol):
    """The only method of a schedule that these figures use; a learner's own class has it too."""

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at the times t, each in the shape of t."""
        ...


# ------------------------------------------------------------------------------------ noisy latents


def mosaic(z: Tensor, size: int = 64) -> Image.Image:
    """Draw the four channels of a latent (4, h, w), two above two, as one square grey image.

    Black is -3 or less and white is 3 or more, for every latent.
    """
    rows = [torch.cat([*z[k : k + 2].detach().float().cpu()], dim=1) for k in (0, 2)]
    values = torch.cat(rows).clamp(-LIMIT, LIMIT) / (2 * LIMIT) + 0.5  # (2 h, 2 w) in 0 ... 1
    shades = (values * (SHADES - 1)).round() * (255 // (SHADES - 1))
    picture = Image.fromarray(shades.numpy().astype(np.uint8))
    return picture.resize((size, size), Image.Resampling.NEAREST)


def add_noise(z_0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return alpha z_0 + sigma eps in float32, with one scalar pair for the whole batch."""
    return (alpha * z_0.double() + sigma * eps.double()).float()


def nearest_latent(z: Tensor, alpha: Tensor, codes: Tensor) -> Tensor:
    """Find the known latent that best explains each noisy one.

    This is the maximum a posteriori estimate for Gaussian noise and a uniform prior over `codes`.

    Args:
        z: Noisy latents, (b, c, h, w).
        alpha: Factor of the signal, a scalar.
        codes: Known latents, (n, c, h, w).

    Returns:
        Indices into `codes`, (b,).
    """
    distances = torch.cdist(z.flatten(1).double(), alpha * codes.flatten(1).double())
    return distances.argmin(dim=1)


def noise_and_nearest(
    page: Image.Image,
    z: Tensor,
    found: Image.Image | None,
    decode: Callable[[Tensor], Image.Image],
) -> Image.Image:
    """Draw a row of four: the page, its noisy latent, the decoded noisy latent, the nearest page.

    Args:
        page: The original page.
        z: The noisy latent, (1, 4, h, w).
        found: The nearest known page, or None for a blank image.
        decode: Decodes z to an image.
    """
    blank = Image.new("RGB", page.size, "white")
    pictures = [page, mosaic(z[0], page.width), decode(z), found or blank]
    return grid([pictures], ["the page", "z_t", "z_t decoded", "the nearest"], scale=2)


def describe_noise_level(t: int, alpha: float, sigma: float) -> str:
    """Describe alpha, sigma and the signal-to-noise ratio at timestep t in a sentence."""
    snr = (alpha / sigma) ** 2 if sigma else math.inf
    decibels = f"{10 * math.log10(snr):.1f} dB" if 0 < snr < math.inf else "no signal is left"
    return (
        f"At t = {t}: alpha {alpha:.3f}, sigma {sigma:.3f}, signal-to-noise ratio {snr:.4g} "
        f"({decibels})."
    )


# -------------------------------------------------------------------------------------- with axes


@in_style
def arcs(schedules: Mapping[str, Schedule], every: int = 50, num_steps: int = 1000) -> Figure:
    """Draw the quarter circle of (alpha, sigma) for each schedule.

    A dot marks every `every`-th timestep and the last one. The last dot is labelled with its time,
    and so is every other dot whose label does not overlap.
    """
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
    """Write each dot's time outside the arc, unless it would touch the previous label."""
    previous = (math.inf, math.inf)
    for t, a, s in zip(times, alpha, sigma, strict=True):
        position = (1.11 * a, 1.11 * s)
        if math.dist(position, previous) > 0.16:
            ax.text(*position, f"{t:.0f}", fontsize=8, ha="center", va="center")
            previous = position


@in_style
def over_time(panels: Mapping[str, tuple[str, Mapping[str, Tensor]]]) -> Figure:
    """Draw curves over the timesteps in panels side by side, with one legend.

    Args:
        panels: By title, (ylabel, up to four curves (n,) over the times 0 ... n - 1, by name).
            All panels have curves of the same names.
    """
    figure = Figure(figsize=(WIDE, 3.6), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, (ylabel, lines)) in zip(axes, panels.items(), strict=True):
        stroke_lines(ax, {name: (range(len(ys)), ys) for name, ys in lines.items()})
        ax.set(title=title, xlabel="time t", ylabel=ylabel)
        ax.grid(alpha=0.3)
    legend_below(figure)
    return figure


@in_style
def histograms(
    panels: Mapping[str, Mapping[str, Tensor]],
    xlabel: str,
    bins: int = 30,
    title: str = "",
    sharey: bool = False,
) -> Figure:
    """Draw histograms as outlines that differ in dashes, in panels side by side.

    All panels share the bins, which range from the smallest to the largest value. The area of each
    histogram is 1.

    Args:
        panels: By title, up to four sets of values (n,), by name.
        xlabel: Of every panel.
        bins: Number of bins.
        title: Of the figure.
        sharey: Give all panels the same vertical scale.
    """
    figure = Figure(figsize=(WIDE, 3.4), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=sharey)[0]
    values = torch.cat([x.flatten() for sets in panels.values() for x in sets.values()])
    edges = np.linspace(float(values.min()), float(values.max()), bins + 1)
    for ax, (name, sets) in zip(axes, panels.items(), strict=True):
        strokes = STROKES[: len(sets)]
        for (label, x), (colour, dashes, width) in zip(sets.items(), strokes, strict=True):
            heights, _ = np.histogram(x.numpy(), edges, density=True)
            ax.stairs(heights, edges, color=colour, ls=dashes, lw=width, label=label)
        ax.set(title=name, xlabel=xlabel)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("density")
    legend_below(figure)
    if title:
        figure.suptitle(title)
    return figure


@in_style
def visited_timesteps(times: Mapping[str, Sequence[float]], num_steps: int = 1000) -> Figure:
    """Draw a row of dots over 0 ... num_steps - 1 for each list of timesteps.

    The first and the last timestep of each list are labelled.
    """
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
