"""Guidance on a one-dimensional mixture of Gaussians: its exact quantities, and their figures.

This is the toy dataset of notebook 10. An animal is one value, its size. A quarter of the animals
are kittens, a quarter are grown cats and half are dogs, and the sizes of each kind are normally
distributed. A prompt is the mixture weights of the three kinds. A Gaussian with noise is a
Gaussian again, so the prediction of a perfect network is a formula.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from sdlearn.course.figures.plots import WIDE, legend_below, stroke_lines
from sdlearn.course.figures.style import in_style
from sdlearn.guidance import classifier_free_guidance, denoiser
from sdlearn.samplers import ddim
from sdlearn.schedule import NoiseSchedule
from sdlearn.text import Conditioning

MEANS = torch.tensor([-1.8, -0.2, 1.0], dtype=torch.float64)
STDS = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
WEIGHTS = {"": (0.25, 0.25, 0.5), "cat": (0.5, 0.5, 0.0), "dog": (0.0, 0.0, 1.0)}
THRESHOLD = -1.0  # halfway between the means of the kittens and of the grown cats
SCHEDULE = NoiseSchedule(kind="cosine")  # ends in noise alone, unlike Stable Diffusion's own
GRID = torch.linspace(-12, 6, 3601, dtype=torch.float64)


def mixture_weights(prompt: str) -> Tensor:
    """Return the weights (3,) of kittens, grown cats and dogs for "", "cat" or "dog"."""
    return torch.tensor(WEIGHTS[prompt], dtype=torch.float64)


def log_density(z: Tensor, shares: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
    """Return log p_t(z) of the mixture at one noise level.

    Args:
        z: Sizes, (...).
        shares: Mixture weights, (3,).
        alpha: Factor of the signal.
        sigma: Factor of the noise.
    """
    variance = alpha**2 * STDS**2 + sigma**2
    away = z[..., None] - alpha * MEANS
    logs = shares.log() - away**2 / (2 * variance) - (2 * math.pi * variance).log() / 2
    return logs.logsumexp(dim=-1)


def exact_noise(z: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """Return the noise that a perfect network predicts, E[eps | z_t]; it is called like a U-Net.

    Args:
        z: (b, c, h, w). Every element is one animal.
        t: Timesteps, (b,).
        context: Mixture weights, (b, 1, 3).
    """
    alpha, sigma = (x.view(-1, 1, 1, 1, 1) for x in SCHEDULE.at(t))
    shares = context[:, 0, None, None, None]  # (b, 1, 1, 1, 3)
    variance = alpha**2 * STDS**2 + sigma**2
    away = z[..., None] - alpha * MEANS
    comes_from = (shares.log() - away**2 / (2 * variance) - variance.log() / 2).softmax(dim=-1)
    return sigma[..., 0] * (comes_from * away / variance).sum(dim=-1)


def sharpened_density(away: str, scale: float, prompt: str = "cat") -> Tensor:
    """Return p(z | away)^(1 - scale) p(z | prompt)^scale over GRID, normalised to area 1."""
    logs = (1 - scale) * log_density(GRID, mixture_weights(away))
    if scale != 0:
        logs = logs + scale * log_density(GRID, mixture_weights(prompt))
    density = (logs - logs.max()).exp()
    return density / (density.sum() * (GRID[1] - GRID[0]))


def moments(density: Tensor) -> tuple[float, float, float]:
    """Return mean, standard deviation and mass above THRESHOLD of a density over GRID."""
    weight = density / density.sum()
    mean = (weight * GRID).sum()
    std = (weight * (GRID - mean) ** 2).sum().sqrt()
    return float(mean), float(std), float(weight[GRID > THRESHOLD].sum())


def guided_samples(
    scale: float,
    away: str = "",
    interval: tuple[float, float] | None = None,
    n: int = 400,
    steps: int = 80,
) -> Tensor:
    """Sample with DDIM and guidance from the n mid-quantiles of standard normal noise.

    DDIM is deterministic and keeps the order of the samples, so the results are the quantiles of
    the sampled distribution.

    Args:
        scale: Guidance scale; 1 is no guidance.
        away: The negative prompt: "", "cat" or "dog".
        interval: Lowest and highest timestep with guidance. None guides at every timestep.
        n: Number of samples.
        steps: Sampling steps.

    Returns:
        Samples, (n,) float64.
    """
    z = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n).view(n, 1, 1, 1)
    cond, uncond = (Conditioning(mixture_weights(p).expand(n, 1, 3)) for p in ("cat", away))
    denoise = denoiser(
        classifier_free_guidance(exact_noise, cond, uncond, scale, interval=interval), "noise"
    )
    for step in ddim(denoise, z, SCHEDULE.path(steps, "trailing", "zero")):
        z = step.z
    return z.flatten()


def density_from_quantiles(ends: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate a density from its n quantiles: 1 / (n * distance) between neighbours.

    Args:
        ends: Quantiles, (n,), in any order.

    Returns:
        Midpoints and densities, (n - 1,) each.
    """
    ends = ends.sort().values
    gaps = ends.diff().clamp(min=1e-6)
    return (ends[1:] + ends[:-1]) / 2, 1 / (len(ends) * gaps)


# ----------------------------------------------------------------------------------------- figures


class DensityPanel(NamedTuple):
    """One pair of axes.

    Attributes:
        title: Of the axes.
        filled: (xs, ys) of the sampled density, drawn as a grey area.
        lines: Up to three other densities (xs, ys), by name.
    """

    title: str
    filled: tuple[Tensor, Tensor]
    lines: Mapping[str, tuple[Tensor, Tensor]]


@in_style
def densities(
    parts: Sequence[DensityPanel], title: str, name: str, span: tuple[float, float], top: float
) -> Figure:
    """Draw densities over the size, two panels a row.

    Args:
        parts: The panels.
        title: Of the figure.
        name: Legend entry of the filled density.
        span: Lowest and highest size.
        top: Highest density.
    """
    down = -(-len(parts) // 2)
    figure = Figure(figsize=(WIDE, 0.8 + 2.2 * down), dpi=100, layout="constrained")
    axes = figure.subplots(down, min(2, len(parts)), squeeze=False, sharex=True).flatten()
    for ax, part in zip(axes, parts, strict=False):
        xs, ys = (x.tolist() for x in part.filled)
        ax.fill_between(xs, ys, color="0.8", label=name)
        ax.plot(xs, ys, "-", color="0.35", lw=1.0)
        stroke_lines(ax, part.lines)
        ax.set(title=part.title, xlim=span, ylim=(0, top), xlabel="size z", ylabel="density")
        ax.grid(alpha=0.3)
    for ax in axes[len(parts) :]:
        ax.axis("off")
    legend_below(figure)
    figure.suptitle(title)
    return figure


@in_style
def trajectories(
    walks: Mapping[str, Tensor], times: Sequence[float], title: str, every: int = 20
) -> Figure:
    """Draw trajectories z over t in panels side by side, from noise on the left to data.

    Trajectories that end above THRESHOLD, at grown cats, are dark.

    Args:
        walks: States by name, (points, n) each.
        times: Timesteps of the points.
        title: Of the figure.
        every: Draw one of so many trajectories.
    """
    figure = Figure(figsize=(WIDE, 2.8), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(walks), squeeze=False, sharey=True)[0]
    for ax, (name, walk) in zip(axes, walks.items(), strict=True):
        for k in range(every // 2, walk.shape[1], every):
            grown = float(walk[-1, k]) > THRESHOLD
            colour, width = ("black", 1.3) if grown else ("0.65", 1.0)
            ax.plot(times, walk[:, k].tolist(), color=colour, lw=width)
        ax.set(title=name, xlabel="time t", xlim=(times[0], times[-1]))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("z")
    figure.suptitle(title)
    return figure
