"""A mixture of Gaussians in the plane, whose optimal denoiser is known exactly."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sdlearn.samplers import Denoiser
from sdlearn.schedule import Point


class Mixture(NamedTuple):
    """A mixture of k isotropic Gaussians in the plane, in float64.

    Attributes:
        weights: Probabilities of the components, (k,), with sum 1.
        means: Their centres, (k, 2).
        stds: Their standard deviations, (k,).
    """

    weights: Tensor
    means: Tensor
    stds: Tensor


def ring_mixture(radius: float, weights: Sequence[float], stds: Sequence[float]) -> Mixture:
    """Place Gaussians evenly on a circle around the origin, anticlockwise from the top.

    Args:
        radius: Of the circle.
        weights: Probabilities of the k components, with sum 1.
        stds: Their k standard deviations.
    """
    angles = torch.arange(len(weights), dtype=torch.float64) / len(weights) * math.tau
    means = radius * torch.stack([-angles.sin(), angles.cos()], dim=-1)
    return Mixture(
        torch.tensor(weights, dtype=torch.float64), means, torch.tensor(stds, dtype=torch.float64)
    )


DATA = ring_mixture(1.3, (0.3, 0.25, 0.2, 0.15, 0.1), (0.15, 0.3, 0.15, 0.25, 0.15))


def sample_mixture(mixture: Mixture, n: int, seed: int = 0) -> Tensor:
    """Sample n points from a mixture, (n, 2) float64."""
    rng = torch.Generator().manual_seed(seed)
    k = torch.multinomial(mixture.weights, n, replacement=True, generator=rng)
    eps = torch.randn(n, 2, generator=rng, dtype=torch.float64)
    return mixture.means[k] + mixture.stds[k, None] * eps


def sliced_distance(a: Tensor, b: Tensor, directions: int = 32) -> float:
    """Return the sliced Wasserstein distance between two sets of n points (Rabin et al. 2011).

    Both sets are projected onto lines and sorted. The distance is the mean absolute difference over
    all ranks and directions.

    Args:
        a: Points, (n, 2).
        b: As many points, (n, 2), of the same type.
        directions: Number of lines, evenly spaced over half a turn.
    """
    turns = torch.arange(directions, dtype=a.dtype) / directions * math.pi
    lines = torch.stack([turns.cos(), turns.sin()])  # (2, directions)
    sides = [(points @ lines).sort(dim=0).values for points in (a, b)]
    return (sides[0] - sides[1]).abs().mean().item()


def exact_denoiser(mixture: Mixture) -> Denoiser:
    """Return the optimal denoiser of a mixture, E[z_0 | z]: z (b, 2), point -> (b, 2).

    The noisy data follow a mixture again, with standard deviations sqrt(alpha² stds² + sigma²). The
    estimate is the mean of the components' estimates, weighted by the posterior probability of each
    component.
    """

    def denoise(z: Tensor, point: Point) -> Tensor:
        weights, means, stds = (part.to(z) for part in mixture)
        away = z[:, None] - point.alpha * means  # (b, k, 2)
        variance = (point.alpha * stds) ** 2 + point.sigma**2  # (k,)
        logits = weights.log() - variance.log() - away.pow(2).sum(-1) / (2 * variance)
        estimate = means + (point.alpha * stds**2 / variance)[:, None] * away
        return (logits.softmax(dim=1)[:, :, None] * estimate).sum(dim=1)

    return denoise


def nearest_cluster(z: Tensor) -> Tensor:
    """Return the index of the nearest cluster of DATA for each point, z (n, 2) -> (n,)."""
    return torch.cdist(z, DATA.means.to(z)).argmin(dim=1)
