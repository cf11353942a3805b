"""Intervals over the prompts, by resampling, and the comparison of two models on the same prompts.

The images of one prompt are alike, and so are the things on one page, so they are not independent
evidence. The bootstrap therefore draws prompts, with replacement, each with all of its images.

Two models that are compared on the same prompts and seeds find the same prompts hard. The interval
of their difference, drawn from the same prompts for both, is therefore narrower than their two
separate intervals suggest, and shows a difference with fewer images. Two models are often equally
good although their intervals differ, and different although their intervals overlap.

Do not use a bootstrap interval for a Fréchet distance. A resample has duplicates, so fewer distinct
images and a larger distance, and the interval is too high. Only its width means something.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sdlearn.utils.validation import check_positive_int, check_range

Clusters = Sequence[Sequence[bool]]  # for each prompt, the truth values of all its images
DRAWS = 2000
LEVEL = 0.95
MOST = 1_000_000  # prompts


class Rate(NamedTuple):
    """A fraction in 0..1 with its 95 % confidence interval.

    Attributes:
        rate: The fraction.
        low: Lower end of the interval.
        high: Upper end of the interval.
        cases: Number of cases.
    """

    rate: float
    low: float
    high: float
    cases: int


class Interval(NamedTuple):
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Two models on the same prompts and seeds.

    Attributes:
        first: Rate of the first model, with its own interval.
        second: Rate of the second model, with its own interval.
        paired: First minus second, with the interval for the same prompts.
        unpaired: The same difference, with the interval as if each model had its own prompts.
        better: Prompts on which the first model gets more right than the second.
        worse: Prompts on which it gets less right.
        p: Two-sided p-value of McNemar's test, from `better` and `worse`.
    """

    first: Rate
    second: Rate
    paired: Interval
    unpaired: Interval
    better: int
    worse: int
    p: float


def interval(clusters: Sequence[Sequence[bool]]) -> Rate:
    """Return the fraction of True with Wilson's 95 % confidence interval.

    The things and seeds of one caption are correlated, so they count as fewer independent cases.
    Their effective number gives the variance of the ratio estimator over captions (Cochran,
    Sampling Techniques, section 2.11).

    Args:
        clusters: For each caption, one truth value for each thing and seed.

    Returns:
        The rate; NaN if there are no cases.
    """
    clusters = [cluster for cluster in clusters if cluster]
    n, cases = len(clusters), sum(map(len, clusters))
    if not cases:
        return Rate(math.nan, math.nan, math.nan, 0)
    p = sum(map(sum, clusters)) / cases
    squares = sum((sum(cluster) - p * len(cluster)) ** 2 for cluster in clusters)
    variance = n / max(1, n - 1) * squares / cases**2
    independent = min(cases, p * (1 - p) / variance) if variance > 0 else n
    z = 1.96
    scale = 1 + z**2 / independent
    middle = (p + z**2 / (2 * independent)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / independent + (z / (2 * independent)) ** 2)
    return Rate(p, max(0.0, middle - half), min(1.0, middle + half), cases)


def bootstrap_mean(
    values: Sequence[Sequence[float]], draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Return the mean of all values with its percentile interval over prompts.

    If all values are equal, the interval has no width. For rates near 0 or 1, use `interval`, whose
    formula doesn't have this fault.

    Args:
        values: For each prompt, one value for each image. Prompts without values are left out.
        draws: Number of bootstrap samples.
        seed: Of the samples.

    Raises:
        ValueError: If there are no values at all, or draws is less than 1.
    """
    check_positive_int("draws", draws)
    sums, counts = totals([row for row in values if len(row)])
    samples = [ratio(sums[r], counts[r]) for r in resamples(len(sums), draws, seed)]
    return percentiles(ratio(sums, counts), samples)


def compare_paired(
    first: Clusters, second: Clusters, draws: int = DRAWS, seed: int = 0
) -> Comparison:
    """Compare two models on the same prompts and seeds.

    Args:
        first: For each prompt, the truth values of the first model.
        second: For each prompt, those of the second, as many. Prompts without values are left out.
        draws: Number of bootstrap samples.
        seed: Of the samples.

    Raises:
        ValueError: If the prompts or the numbers of truth values differ, there are none, or draws
            is less than 1.
    """
    check_positive_int("draws", draws)
    lengths = [[len(row) for row in clusters] for clusters in (first, second)]
    if lengths[0] != lengths[1]:
        raise ValueError(
            "the two models have truth values for different prompts, or different numbers of them; "
            "accepted: equally many for each prompt"
        )
    first, second = ([row for row in clusters if len(row)] for clusters in (first, second))
    a, counts = totals(first)
    b, _ = totals(second)
    difference = ratio(a, counts) - ratio(b, counts)
    paired, unpaired = [], []
    drawn = zip(resamples(len(a), draws, seed), resamples(len(a), draws, seed + 1), strict=True)
    for rows, others in drawn:
        value = ratio(a[rows], counts[rows])
        paired.append(value - ratio(b[rows], counts[rows]))
        unpaired.append(value - ratio(b[others], counts[others]))
    better, worse = int((a > b).sum()), int((a < b).sum())
    return Comparison(
        interval(first),
        interval(second),
        percentiles(difference, paired),
        percentiles(difference, unpaired),
        better,
        worse,
        mcnemar(better, worse),
    )


def mcnemar(better: int, worse: int) -> float:
    """Return the two-sided p-value of McNemar's test in its exact form.

    Prompts on which both models do equally well say nothing about which is better. If the models
    are equally good, each of the other prompts favours either one with probability 1/2. With one
    truth value for each prompt this is McNemar's test (1947); with several, it is the sign test
    over prompts.

    Args:
        better: Prompts on which the first model is better.
        worse: Prompts on which it is worse.

    Returns:
        The probability, 0 to 1, of a split at least as uneven; 1 if there are no such prompts.
    """
    fewer = min(check_range("better", better, 0, MOST), check_range("worse", worse, 0, MOST))
    n = better + worse
    ways = tail = 1  # n choose k, and the sum of these, for k = 0
    for k in range(fewer):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**n)


def totals(clusters: Sequence[Sequence[float]]) -> tuple[Tensor, Tensor]:
    """Return the sum and the number of the values of each prompt, (n,) and (n,) float64."""
    if not clusters:
        raise ValueError("there are no values to resample; accepted: one prompt or more")
    sums = [float(sum(row)) for row in clusters]
    counts = [float(len(row)) for row in clusters]
    return torch.tensor(sums, dtype=torch.float64), torch.tensor(counts, dtype=torch.float64)


def ratio(sums: Tensor, counts: Tensor) -> Tensor:
    """Return the mean over all values of some prompts: a ratio of sums, not a mean of means."""
    return sums.sum() / counts.sum()


def resamples(n: int, draws: int, seed: int) -> Iterator[Tensor]:
    """Yield the rows of each bootstrap sample of n prompts, (n,) each."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        yield torch.randint(n, (n,), generator=generator)


def percentiles(value: Tensor, samples: Sequence[Tensor]) -> Interval:
    """Return a value with the percentile interval of its bootstrap samples."""
    tail = (1 - LEVEL) / 2
    ends = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = torch.stack(list(samples)).quantile(ends).tolist()
    return Interval(value.item(), low, high)
