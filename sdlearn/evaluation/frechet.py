"""The Fréchet distance between two sets of features, its bias, and its limit.

FID (Heusel et al., arXiv:1706.08500) fits a Gaussian to the features of real images and one to
those of generated images, and takes the distance between the two Gaussians. The features come from
a network: the 2015 Inception in published numbers, our judge here. Distances from different
networks cannot be compared.

With finitely many images the distance is biased upwards: between two halves of one set it is not
zero. The expected value is FID_N = FID_∞ + c / N + ..., and c depends on the model, so comparing
models at the same N is not fair either. `frechet_limit` measures the distance for several N and
extrapolates the line in 1/N to N = ∞ (Chong and Forsyth, arXiv:1911.07023).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from sdlearn.evaluation.features import check_feature_sets
from sdlearn.utils.validation import check_positive_int


class Moments(NamedTuple):
    """The Gaussian that is fitted to a set of features.

    Attributes:
        mean: (d,).
        covariance: (d, d), the sample covariance, divided by N - 1.
    """

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Return the mean and the covariance of features (n, d), n >= 2, in float64."""
    features = features.double()
    return Moments(features.mean(dim=0), features.T.cov().reshape(features.shape[1], -1))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Compute the Fréchet distance between the Gaussians fitted to two sets of features.

    With no more vectors than dimensions, the covariances are singular. The distance between the two
    Gaussians is still exact, without the 1e-6 that other code adds to the diagonals when its matrix
    root fails. But the bias dominates it, so it says little about the models.

    Args:
        a: Features, (n, d), n >= 2.
        b: Features, (m, d), m >= 2.

    Returns:
        The squared distance, as FID is: at least 0, in squared units of the features.

    Raises:
        ValueError: If the sets are not finite matrices of one width, with two rows or more.
    """
    check_feature_sets(a, b)
    return moments_distance(moments(a), moments(b))


def moments_distance(a: Moments, b: Moments) -> float:
    """Compute |μ_a - μ_b|² + Tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½).

    The eigenvalues of Σ_a Σ_b are the squared singular values of Σ_a^½ Σ_b^½, so the trace of its
    root is the sum of these singular values, the nuclear norm. Both roots are of symmetric
    matrices. The root of the product, which is not symmetric, is never needed.
    """
    product = symmetric_root(a.covariance) @ symmetric_root(b.covariance)
    overlap = torch.linalg.matrix_norm(product, "nuc")
    traces = a.covariance.trace() + b.covariance.trace()
    distance = (a.mean - b.mean).square().sum() + traces - 2 * overlap
    return max(0.0, distance.item())  # rounding makes it -1e-14 for equal sets


def symmetric_root(covariance: Tensor) -> Tensor:
    """Return the symmetric square root of a covariance matrix, (d, d)."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T  # zeros are rounded to ±1e-17


class FrechetLimit(NamedTuple):
    """The Fréchet distance against the number of images, and its limit.

    Attributes:
        sizes: Vectors of the first set in a part, in descending order.
        distances: Mean distance between two parts of that size.
        limit: Where the line through the distances meets 1/N = 0: FID_∞. It can be negative,
            because it is the estimate of a number near 0.
        slope: Slope of the line: with N vectors in a part, the distance is slope / N larger.
    """

    sizes: tuple[int, ...]
    distances: tuple[float, ...]
    limit: float
    slope: float


def frechet_limit(
    a: Tensor, b: Tensor, cuts: int = 5, rounds: int = 4, seed: int = 0
) -> FrechetLimit:
    """Extrapolate the Fréchet distance to infinitely many vectors in both sets.

    Both sets are shuffled and cut into k parts, and the k distances between part i of one and part
    i of the other are averaged, for k = 1, 2, ... `cuts`. In the paper, the real images are not
    cut. Here both sets are, so the limit is free of the bias of both.

    Only parts of at least 2 d vectors are used. With fewer vectors the covariances are nearly
    singular, and the bias departs from the line.

    Args:
        a: Features, (n, d).
        b: Features, (m, d). n and m are at least 4 d, so that halves can be used.
        cuts: Largest number of parts, at least 2.
        rounds: Shuffles, each with its own parts.
        seed: Seed of the shuffles.

    Raises:
        ValueError: If the sets are too small, are not finite matrices of one width, or `cuts` is
            less than 2.
    """
    check_feature_sets(a, b)
    check_positive_int("rounds", rounds)
    if check_positive_int("cuts", cuts) < 2:
        raise ValueError(f"cuts is {cuts}; accepted: 2 or more, because a line needs two points")
    fewest, d = min(len(a), len(b)), a.shape[1]
    if fewest < 4 * d:
        raise ValueError(
            f"the smaller set has {fewest} feature vectors of {d} dimensions; accepted: {4 * d} or "
            "more, for a line through the distances of the whole sets and of their halves"
        )
    cuts = min(cuts, fewest // (2 * d))
    generator = torch.Generator().manual_seed(seed)
    totals = torch.zeros(cuts, dtype=torch.float64)
    for _ in range(rounds):
        rows = [torch.randperm(len(x), generator=generator).to(x.device) for x in (a, b)]
        for k in range(1, cuts + 1):
            totals[k - 1] += part_distance(a[rows[0]], b[rows[1]], k) / rounds
    sizes = [len(a) // k for k in range(1, cuts + 1)]
    limit, slope = fit_line([1 / n for n in sizes], totals.tolist())
    return FrechetLimit(tuple(sizes), tuple(totals.tolist()), limit, slope)


def part_distance(a: Tensor, b: Tensor, k: int) -> float:
    """Return the mean distance between the i-th of k equal parts of a and of b."""
    n, m = len(a) // k, len(b) // k
    parts = zip(a[: n * k].split(n), b[: m * k].split(m), strict=True)
    return sum(moments_distance(moments(x), moments(y)) for x, y in parts) / k


def fit_line(x: list[float], y: list[float]) -> tuple[float, float]:
    """Return intercept and slope of the least-squares line through two points or more."""
    abscissae = torch.tensor(x, dtype=torch.float64)
    design = torch.stack([torch.ones_like(abscissae), abscissae / abscissae.max()], dim=1)
    line = torch.linalg.lstsq(design, torch.tensor(y, dtype=torch.float64)[:, None]).solution
    return line[0].item(), (line[1] / abscissae.max()).item()
