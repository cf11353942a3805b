"""Precision and recall, density and coverage of a set of generated images.

A Fréchet distance says how far off a model is, not how it errs. Precision is the fraction of the
generated images that look real; it falls with bad images. Recall is the fraction of the real images
that the model could generate; it falls if the model repeats itself.

An image "looks real" if its features lie where the real ones are: in the union of the balls around
them, each of which reaches to its k-th nearest neighbour (Kynkäänniemi et al., arXiv:1904.06991).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sdlearn.evaluation.features import check_feature_sets
from sdlearn.utils.validation import check_positive_int

ROWS = 256  # rows of a distance matrix that are in memory at once


class PrecisionRecall(NamedTuple):
    """Improved precision and recall, 0 to 1.

    Attributes:
        precision: Fraction of the generated vectors inside a ball of a real one.
        recall: Fraction of the real vectors inside a ball of a generated one.
    """

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density and coverage (Naeem et al., arXiv:2002.09797).

    They use the balls of the real vectors only, so a few strange generated images cannot raise
    them, and a real outlier's large ball counts little.

    Attributes:
        density: Mean number of balls that a generated vector lies in, divided by k; 0 or more, with
            the expected value 1 for equal distributions.
        coverage: Fraction of the balls that hold a generated vector, 0 to 1.
    """

    density: float
    coverage: float


def precision_recall(reals: Tensor, fakes: Tensor, k: int = 3) -> PrecisionRecall:
    """Compute improved precision and recall.

    Both depend on the sizes of the sets, so compare only numbers from equal sizes.

    Args:
        reals: Features of real images, (n, d), n > k.
        fakes: Features of generated images, (m, d), m > k.
        k: Which neighbour a ball reaches to, not counting its centre.

    Raises:
        ValueError: If a set has no more than k vectors, or the sets are not finite matrices of one
            width.
    """
    check_neighbours(reals, fakes, k, both=True)
    inside = [rows.any(dim=1) for rows in in_balls(fakes, reals, radii(reals, k))]
    found = [rows.any(dim=1) for rows in in_balls(reals, fakes, radii(fakes, k))]
    return PrecisionRecall(*(torch.cat(x).double().mean().item() for x in (inside, found)))


def density_coverage(reals: Tensor, fakes: Tensor, k: int = 5) -> DensityCoverage:
    """Compute density and coverage.

    Args:
        reals: Features of real images, (n, d), n > k.
        fakes: Features of generated images, (m, d).
        k: Which neighbour a ball reaches to, not counting its centre.

    Raises:
        ValueError: If there are no more than k real vectors, or the sets are not finite matrices
            of one width.
    """
    check_neighbours(reals, fakes, k, both=False)
    hits = 0
    covered = torch.zeros(len(reals), dtype=torch.bool, device=reals.device)
    for rows in in_balls(fakes, reals, radii(reals, k)):
        hits += int(rows.sum())
        covered |= rows.any(dim=0)
    return DensityCoverage(hits / (k * len(fakes)), covered.double().mean().item())


def radii(x: Tensor, k: int) -> Tensor:
    """Return the distance of each vector to its k-th nearest neighbour, (n, d) -> (n,)."""
    rows = [distances.kthvalue(k + 1, dim=1).values for distances in distance_rows(x, x)]
    return torch.cat(rows)  # k + 1, because the nearest is the vector itself


def in_balls(x: Tensor, centres: Tensor, radius: Tensor) -> Iterator[Tensor]:
    """Yield, for some rows of x at a time, which balls they lie in, (rows, n) booleans."""
    for distances in distance_rows(x, centres):
        yield distances <= radius


def distance_rows(x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Yield the Euclidean distances of ROWS rows of x at a time to all of y, (rows, n) float64."""
    for rows in x.double().split(ROWS):
        # The faster way, a matrix product, does not give 0 for a vector and itself.
        yield torch.cdist(rows, y.double(), compute_mode="donot_use_mm_for_euclid_dist")


def check_neighbours(reals: Tensor, fakes: Tensor, k: int, both: bool) -> None:
    """Raise ValueError unless the sets are large enough for k neighbours."""
    check_feature_sets(reals, fakes)
    check_positive_int("k", k)
    for name, x in [("reals", reals), ("fakes", fakes)][: 1 + both]:
        if len(x) <= k:
            raise ValueError(
                f"{name} has {len(x)} feature vectors; accepted: more than k, which is {k}"
            )
