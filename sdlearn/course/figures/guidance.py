"""Guidance where all of it can be computed: animals on a line, and figures of densities and walks.

The line of notebook 10: an animal is one number, its size. A quarter are kittens, a quarter grown
cats, half are dogs; each kind is a normal density. A prompt is the shares of the three. Noised,
normal densities stay normal, so that what a perfect network would answer is a formula.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from sdlearn.course.figures.plots import WIDE
from sdlearn.guidance import denoiser, guided
from sdlearn.samplers import ddim
from sdlearn.schedule import NoiseSchedule
from sdlearn.text import Conditioning

MIDDLES = torch.tensor([-1.8, -0.2, 1.0], dtype=torch.float64)
SPREADS = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
SHARES = {"": (0.25, 0.25, 0.5), "cat": (0.5, 0.5, 0.0), "dog": (0.0, 0.0, 1.0)}
BETWEEN = -1.0  # halfway from the middle of the kittens to that of the grown cats
SCHEDULE = NoiseSchedule(kind="cosine")  # ends in noise alone, unlike Stable Diffusion's own
GRID = torch.linspace(-12, 6, 3601, dtype=torch.float64)


def shares_of(prompt: str) -> Tensor:
    """(3,) of kittens, grown cats and dogs."""
    return torch.tensor(SHARES[prompt], dtype=torch.float64)


def log_density(z: Tensor, shares: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
    """log p_t(z) of animals (...) with these shares (3,), at the noise level of alpha and sigma."""
    variance = alpha**2 * SPREADS**2 + sigma**2
    away = z[..., None] - alpha * MIDDLES
    logs = shares.log() - away**2 / (2 * variance) - (2 * math.pi * variance).log() / 2
    return logs.logsumexp(dim=-1)


def animals(z: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
    """The noise in z_t (b, c, h, w) that a perfect network would see; every number is an animal.

    t (b,); the context (b, 1, 3) holds the shares.
    """
    alpha, sigma = (x.view(-1, 1, 1, 1, 1) for x in SCHEDULE.at(t))
    shares = conditioning.context[:, 0, None, None, None]  # (b, 1, 1, 1, 3)
    variance = alpha**2 * SPREADS**2 + sigma**2
    away = z[..., None] - alpha * MIDDLES
    comes_from = (shares.log() - away**2 / (2 * variance) - variance.log() / 2).softmax(dim=-1)
    return sigma[..., 0] * (comes_from * away / variance).sum(dim=-1)


def sharpened(away: str, scale: float, prompt: str = "cat") -> Tensor:
    """p(z | away)^(1 - scale) p(z | prompt)^scale over GRID, of area one."""
    logs = (1 - scale) * log_density(GRID, shares_of(away))
    if scale != 0:
        logs = logs + scale * log_density(GRID, shares_of(prompt))
    density = (logs - logs.max()).exp()
    return density / (density.sum() * (GRID[1] - GRID[0]))


def moments(density: Tensor) -> tuple[float, float, float]:
    """Mean, standard deviation, and the part to the right of BETWEEN, of a density over GRID."""
    weight = density / density.sum()
    mean = (weight * GRID).sum()
    spread = (weight * (GRID - mean) ** 2).sum().sqrt()
    return float(mean), float(spread), float(weight[GRID > BETWEEN].sum())


def walkers(
    scale: float,
    away: str = "",
    interval: tuple[float, float] | None = None,
    n: int = 400,
    steps: int = 80,
) -> Tensor:
    """Where n guided walkers arrive, (n,), from the n middle quantiles of standard normal noise.

    The walk is deterministic and keeps the order, so these are the quantiles of what is sampled.
    """
    z = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n).view(n, 1, 1, 1)
    cond, uncond = (Conditioning(shares_of(p).expand(n, 1, 3)) for p in ("cat", away))
    denoise = denoiser(guided(animals, cond, uncond, scale, interval=interval), "noise")
    for step in ddim(denoise, z, SCHEDULE.path(steps, "trailing", "clean")):
        z = step.z
    return z.flatten()


def outline(ends: Tensor) -> tuple[Tensor, Tensor]:
    """The density whose n quantiles these are: between neighbours, 1 / (n * their distance)."""
    ends = ends.sort().values
    gaps = ends.diff().clamp(min=1e-6)
    return (ends[1:] + ends[:-1]) / 2, 1 / (len(ends) * gaps)


# ----------------------------------------------------------------------------------------- figures


class Bells(NamedTuple):
    """One pair of axes. filled: (xs, ys), what was sampled; lines: up to three, by name."""

    title: str
    filled: tuple[Tensor, Tensor]
    lines: Mapping[str, tuple[Tensor, Tensor]]


STROKES = (("0.25", ":", 1.8), ("black", "--", 1.5), ("0.5", "-.", 1.5))


def bells(
    parts: Sequence[Bells], title: str, name: str, span: tuple[float, float], top: float
) -> Figure:
    """Densities over the line, two panels a row; grey and filled is the one that is `name`d."""
    down = -(-len(parts) // 2)
    figure = Figure(figsize=(WIDE, 0.8 + 2.2 * down), dpi=100, layout="constrained")
    axes = figure.subplots(down, min(2, len(parts)), squeeze=False, sharex=True).flatten()
    for ax, part in zip(axes, parts, strict=False):
        xs, ys = (x.tolist() for x in part.filled)
        ax.fill_between(xs, ys, color="0.8", label=name)
        ax.plot(xs, ys, "-", color="0.35", lw=1.0)
        strokes = STROKES[: len(part.lines)]
        for (line, (u, v)), (colour, dashes, width) in zip(
            part.lines.items(), strokes, strict=True
        ):
            ax.plot(u.tolist(), v.tolist(), dashes, color=colour, lw=width, label=line)
        ax.set(title=part.title, xlim=span, ylim=(0, top), xlabel="size z", ylabel="density")
        ax.grid(alpha=0.3)
    for ax in axes[len(parts) :]:
        ax.axis("off")
    marks, names = axes[0].get_legend_handles_labels()
    figure.legend(marks, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(title)
    return figure


def ways(
    walks: Mapping[str, Tensor], times: Sequence[float], title: str, every: int = 20
) -> Figure:
    """Walks (points, n) by name, side by side: z over t from noise, on the left, to clean.

    times: of the points. Every so many walkers are drawn, dark those that end as grown cats.
    """
    figure = Figure(figsize=(WIDE, 2.8), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(walks), squeeze=False, sharey=True)[0]
    for ax, (name, walk) in zip(axes, walks.items(), strict=True):
        for k in range(every // 2, walk.shape[1], every):
            grown = float(walk[-1, k]) > BETWEEN
            colour, width = ("black", 1.3) if grown else ("0.65", 1.0)
            ax.plot(times, walk[:, k].tolist(), color=colour, lw=width)
        ax.set(title=name, xlabel="time t", xlim=(times[0], times[-1]))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("z")
    figure.suptitle(title)
    return figure
