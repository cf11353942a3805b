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

from sdlearn.course.figures.plots import WIDE, legend_below
from sdlearn.course.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    VERMILION,
    Described,
    in_style,
    tint,
)
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

    Beyond the outermost midpoints it falls to 0 in a straight line that leaves the area 1.

    Args:
        ends: Quantiles, (n,), in any order.

    Returns:
        Sizes and densities, (n + 1,) each: those of the midpoints, and an end with density 0 on
        either side.
    """
    ends = ends.sort().values
    gaps = ends.diff().clamp(min=1e-6)
    low, high = ends[:1] - 1.5 * gaps[:1], ends[-1:] + 1.5 * gaps[-1:]
    zero = torch.zeros_like(low)
    middles = (ends[1:] + ends[:-1]) / 2
    return torch.cat([low, middles, high]), torch.cat([zero, 1 / (len(ends) * gaps), zero])


# ----------------------------------------------------------------------------------------- figures

CURVES = ((INK, "-", 1.6), (VERMILION, "--", 2.0), (GREEN, "-.", 2.0))
Curve = tuple[Tensor, Tensor]


class DensityPanel(NamedTuple):
    """One pair of axes.

    Attributes:
        title: Of the axes.
        filled: (xs, ys) of the sampled density, drawn as a filled area.
        lines: Up to three other densities (xs, ys), by name.
    """

    title: str
    filled: Curve
    lines: Mapping[str, Curve]


def above_threshold(curve: Curve) -> float:
    """Return the fraction of a density's area that is above THRESHOLD."""
    xs, ys = (x.double() for x in curve)
    areas = (ys[1:] + ys[:-1]) / 2 * xs.diff()
    return float(areas[(xs[1:] + xs[:-1]) / 2 > THRESHOLD].sum() / areas.sum())


@in_style
def densities(
    parts: Sequence[DensityPanel], title: str, name: str, span: tuple[float, float], top: float
) -> Described:
    """Draw densities over the size, two panels a row.

    Args:
        parts: The panels.
        title: Of the figure.
        name: Legend entry of the filled density.
        span: Lowest and highest size.
        top: Highest density.
    """
    down = -(-len(parts) // 2)
    height = 3.4 if len(parts) == 1 else 0.9 + 2.0 * down
    figure = Figure(figsize=(WIDE, height), dpi=100, layout="constrained")
    axes = figure.subplots(down, min(2, len(parts)), squeeze=False, sharex=True).flatten()
    said = []
    for k, (ax, part) in enumerate(zip(axes, parts, strict=False)):
        xs, ys = (x.tolist() for x in part.filled)
        ax.fill_between(xs, ys, color=tint(BLUE, 0.3), lw=0, label=name)
        ax.plot(xs, ys, "-", color=BLUE, lw=1.0)
        for (label, curve), (colour, dashes, width) in zip(
            part.lines.items(), CURVES[: len(part.lines)], strict=True
        ):
            ax.plot(*(x.tolist() for x in curve), dashes, color=colour, lw=width, label=label)
        ax.set_title(part.title, fontsize=10, weight="normal")
        ax.set(xlim=span, ylim=(0, top))
        if k % 2 == 0:
            ax.set_ylabel("density")
        if k + min(2, len(parts)) >= len(parts):
            ax.set_xlabel("size z")
        grown = {name: part.filled, **part.lines}
        shares = ", ".join(f"{x} {above_threshold(curve):.0%}" for x, curve in grown.items())
        said.append(f"{part.title + ': ' if part.title else ''}{shares}.")
    for ax in axes[len(parts) :]:
        ax.axis("off")
    legend_below(figure)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
    words = f"{title}: densities over the size. Share above {THRESHOLD:g}: {' '.join(said)}"
    return Described(figure, words)


@in_style
def trajectories(
    walks: Mapping[str, Tensor], times: Sequence[float], title: str, every: int = 20
) -> Described:
    """Draw trajectories z over t in panels side by side, from noise on the left to data.

    Trajectories that end above THRESHOLD, at grown cats, have another colour.

    Args:
        walks: States by name, (points, n) each.
        times: Timesteps of the points.
        title: Of the figure.
        every: Draw one of so many trajectories.
    """
    figure = Figure(figsize=(WIDE, 3.1), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(walks), squeeze=False, sharey=True)[0]
    said = []
    for ax, (name, walk) in zip(axes, walks.items(), strict=True):
        chosen = range(every // 2, walk.shape[1], every)
        for k in chosen:
            grown = float(walk[-1, k]) > THRESHOLD
            colour, width = (VERMILION, 1.4) if grown else (GREY, 1.0)
            ax.plot(times, walk[:, k].tolist(), color=colour, lw=width)
        ax.set_title(name, fontsize=10, weight="normal")
        ax.set(xlabel="timestep t (noise on the left)", xlim=(times[0], times[-1]))
        number = sum(float(walk[-1, k]) > THRESHOLD for k in chosen)
        said.append(f"{name}: {number} of {len(chosen)} end as grown cats.")
    axes[0].set_ylabel("z")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
    return Described(figure, f"Trajectories over the timestep, in panels. {' '.join(said)}")


@in_style
def dataset(curves: Mapping[str, Curve], probability: Curve) -> Described:
    """Draw densities over the size, and below them the probability of being a cat.

    Args:
        curves: Two densities by name.
        probability: Sizes and p(cat | z).
    """
    figure = Figure(figsize=(WIDE, 3.0), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for (name, curve), (colour, dashes, width) in zip(
        curves.items(), ((INK, "-", 1.8), (BLUE, "--", 2.2)), strict=True
    ):
        left.plot(*(x.tolist() for x in curve), dashes, color=colour, lw=width, label=name)
    left.legend(loc="upper right")
    top = max(float(curve[1].max()) for curve in curves.values())
    left.set(title="Density", xlabel="size z", ylabel="density", ylim=(0, 1.45 * top))
    for mean, name in zip(MEANS.tolist(), ("kittens", "grown cats", "dogs"), strict=True):
        peak = max(float(ys[(xs - mean).abs().argmin()]) for xs, ys in curves.values())
        left.annotate(name, (mean, peak + 0.05 * top), ha="center", fontsize=9)
    xs, ys = probability
    right.plot(xs.tolist(), ys.tolist(), color=VERMILION)
    right.set(title="Probability of a cat, p(cat | z)", xlabel="size z", ylabel="p(cat | z)")
    half = float(xs[(ys - 0.5).abs().argmin()])
    words = (
        f"Left, densities over the size: {' and '.join(curves)}, with kittens around -1.8, grown "
        "cats around -0.2 and dogs around 1. Right, the probability of being a cat: 1 on the "
        f"left, 0 on the right, one half at {half:.1f}."
    )
    return Described(figure, words)
