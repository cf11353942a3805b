"""Kernel distances between two sets of features: KID and CMMD.

The squared maximum mean discrepancy (Gretton et al. 2012) is

    MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y)

for independent x, x' from one distribution and y, y' from the other. Nothing is assumed about the
shape of the distributions. If the pairs of a vector with itself are left out, the estimate is
unbiased for any number of vectors, unlike the Fréchet distance. It can then be negative when the
distributions are close, which is not an error.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlearn.evaluation.features import check_feature_sets
from sdlearn.utils.validation import check_positive_int


def cubic_kernel(x: Tensor, y: Tensor) -> Tensor:
    """Return (x·y / d + 1)³ for all pairs, (n, d), (m, d) -> (n, m): the kernel of KID."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian_kernel(x: Tensor, y: Tensor, sigma: float = 10.0) -> Tensor:
    """Return exp(-|x - y|² / 2σ²) for all pairs, (n, d), (m, d) -> (n, m): the kernel of CMMD."""
    return torch.exp(-torch.cdist(x, y).square() / (2 * sigma**2))


def mmd2(xx: Tensor, yy: Tensor, xy: Tensor, biased: bool = False) -> float:
    """Estimate the squared maximum mean discrepancy from the values of a kernel.

    Args:
        xx: Values within the first set, (n, n).
        yy: Values within the second set, (m, m).
        xy: Values between the sets, (n, m).
        biased: Keep the pairs of a vector with itself. The estimate (a V-statistic) is then never
            negative, and too large by about E[k(x, x) - k(x, x')] / n for each set.
    """
    if biased:
        return (xx.mean() + yy.mean() - 2 * xy.mean()).item()
    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
    return (within[0] + within[1] - 2 * xy.mean()).item()


class KID(NamedTuple):
    """The kernel Inception distance over subsets. Papers often print 1000 times these numbers.

    Attributes:
        mean: Mean over the subsets. It can be negative.
        std: Standard deviation over the subsets. It says how much the value of one subset varies;
            it is not the error of the mean.
    """

    mean: float
    std: float


def kid(a: Tensor, b: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0) -> KID:
    """Compute the kernel Inception distance (Bińkowski et al., arXiv:1801.01401).

    It is the unbiased MMD² with the kernel (x·y / d + 1)³, averaged over random subsets, which
    keeps the kernel matrices small.

    Args:
        a: Features, (n, d).
        b: Features, (m, d).
        subsets: Number of subsets.
        subset_size: Vectors of each set in a subset, drawn without replacement: 2 to min(n, m).
        seed: Seed of the subsets.

    Raises:
        ValueError: If a number is outside its range, or the sets are not finite matrices of one
            width.
    """
    check_feature_sets(a, b)
    check_positive_int("subsets", subsets)
    most = min(len(a), len(b))
    if not 2 <= check_positive_int("subset_size", subset_size) <= most:
        raise ValueError(
            f"subset_size is {subset_size}; it must lie in 2 … {most}, the size of the smaller set"
        )
    a, b = a.double(), b.double()
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        rows = [torch.randperm(len(x), generator=generator)[:subset_size] for x in (a, b)]
        x, y = a[rows[0].to(a.device)], b[rows[1].to(b.device)]
        values.append(mmd2(cubic_kernel(x, x), cubic_kernel(y, y), cubic_kernel(x, y)))
    over = torch.tensor(values, dtype=torch.float64)
    return KID(over.mean().item(), over.std(correction=0).item())


def cmmd(a: Tensor, b: Tensor, biased: bool = False) -> float:
    """Compute CMMD (Jayasumana et al., arXiv:2401.09603).

    It is 1000 times the MMD² with a Gaussian kernel of σ = 10 on vectors of unit length. The paper
    uses CLIP's image embeddings (ViT-L/14 at 336 pixels). It says that its estimate is unbiased,
    but its published code keeps the pairs of a vector with itself. `biased` selects one of these.

    Args:
        a: Embeddings of any length, (n, d), n >= 2.
        b: Embeddings of any length, (m, d), m >= 2.
        biased: Compute it as the published code does.

    Raises:
        ValueError: If the sets are not finite matrices of one width, with two rows or more.
    """
    check_feature_sets(a, b)
    x, y = F.normalize(a.double()), F.normalize(b.double())
    kernels = gaussian_kernel(x, x), gaussian_kernel(y, y), gaussian_kernel(x, y)
    return 1000 * mmd2(*kernels, biased=biased)
