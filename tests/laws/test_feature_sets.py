"""What must hold for distances between sets of features, whatever network the features are from."""

import math
from statistics import mean

import pytest
import torch
from torch import Tensor

from sdlearn.evaluation.frechet import (
    Moments,
    frechet_distance,
    frechet_limit,
    moments,
    moments_distance,
    symmetric_root,
)
from sdlearn.evaluation.kernel_distances import cmmd, cubic_kernel, kid, mmd2
from sdlearn.evaluation.nearest_neighbours import density_coverage, precision_recall, radii


def gaussian(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(n, d, generator=generator, dtype=torch.float64)


# ----------------------------------------------------------------------------------------- Fréchet


def test_the_distance_of_two_known_gaussians() -> None:
    """In one dimension it is (μ1 - μ2)² + (σ1 - σ2)², and diagonal covariances add up."""
    std_a, std_b = torch.tensor([1.0, 2.0, 0.0]).double(), torch.tensor([4.0, 0.5, 3.0]).double()
    mean_a, mean_b = torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([2.0, 1.0, -1.0]).double()
    a, b = Moments(mean_a, std_a.square().diag()), Moments(mean_b, std_b.square().diag())
    expected = (2**2 + 3**2) + (3**2 + 1.5**2 + 3**2)
    assert moments_distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert moments_distance(b, a) == pytest.approx(expected, rel=1e-12)
    turned = torch.linalg.qr(gaussian(3, 3, 0)).Q  # the same in other coordinates
    a, b = (Moments(turned @ x.mean, turned @ x.covariance @ turned.T) for x in (a, b))
    assert moments_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_covariances_that_do_not_commute() -> None:
    """Along u and along v alone, the trace of the root of the product is |u·v|."""
    u, v = torch.tensor([3.0, 0.0]).double(), torch.tensor([1.0, -2.0]).double()
    a, b = (Moments(torch.zeros(2).double(), torch.outer(x, x)) for x in (u, v))
    assert moments_distance(a, b) == pytest.approx(9 + 5 - 2 * 3, rel=1e-9)


def test_covariances_are_divided_by_one_less_than_the_number() -> None:
    points = torch.tensor([[0.0, 0.0], [2.0, 4.0]])
    fitted = moments(points)
    assert fitted.mean.tolist() == [1, 2]
    assert fitted.covariance.tolist() == [[2, 4], [4, 8]]
    assert moments(points[:, :1]).covariance.tolist() == [[2]]
    # so two pairs of points on a line have a distance known by hand: σ² is 2 and 18
    value = frechet_distance(points[:, :1], torch.tensor([[0.0], [6.0]]))
    assert value == pytest.approx((1 - 3) ** 2 + (math.sqrt(2) - math.sqrt(18)) ** 2, rel=1e-12)


def test_a_root_times_itself_is_the_covariance() -> None:
    covariance = gaussian(3, 8, 1).T.cov()  # the vectors are (3, 8), so the rank is 2
    root = symmetric_root(covariance)
    assert torch.allclose(root, root.T, atol=1e-12)
    assert torch.allclose(root @ root, covariance, atol=1e-7)


def test_equal_sets_are_at_zero_and_order_does_not_count() -> None:
    a = gaussian(40, 6, 2) @ gaussian(6, 6, 3)
    assert 0 <= frechet_distance(a, a.flip(0)) < 1e-10
    few = a[:4]  # fewer than dimensions: singular, and still exact
    assert 0 <= frechet_distance(few, few) < 1e-6
    shifted = frechet_distance(few, few + 2)
    assert shifted == pytest.approx(6 * 4, rel=1e-6)


def test_two_halves_of_one_set_are_not_at_zero() -> None:
    x = gaussian(400, 8, 4)
    assert frechet_distance(x[:200], x[200:]) > 0.05


def test_the_bias_falls_as_one_over_n() -> None:
    """Between N vectors each of two equal Gaussians it is (2 d + d (d + 1) / 2) / N."""
    d = 4

    def bias(n: int) -> float:
        pairs = [(gaussian(n, d, 2 * k), gaussian(n, d, 2 * k + 1)) for k in range(300)]
        return mean(frechet_distance(a, b) for a, b in pairs)

    found = {n: bias(n) for n in (50, 100, 200)}
    for n, value in found.items():
        assert value * n == pytest.approx(2 * d + d * (d + 1) / 2, rel=0.05)
    assert found[50] / found[200] == pytest.approx(4, rel=0.15)


def test_the_limit_is_the_distance_of_the_distributions() -> None:
    """|Δμ|² = 8 · 0.2² and Σ(Δσ)² = 8 · 0.1² are known; the plain distance is far above."""
    d, true = 8, 8 * (0.2**2 + 0.1**2)
    limits, plain = [], []
    for k in range(12):
        a, b = gaussian(480, d, 2 * k), gaussian(480, d, 2 * k + 1, shift=0.2, scale=1.1)
        found = frechet_limit(a, b)
        assert found.sizes == (480, 240, 160, 120, 96)
        assert found.distances[0] == pytest.approx(frechet_distance(a, b), rel=1e-9)
        assert list(found.distances) == sorted(found.distances)
        line = [found.limit + found.slope / n for n in found.sizes]
        assert line == pytest.approx(found.distances, abs=0.05)
        limits.append(found.limit)
        plain.append(found.distances[0])
    error = (mean(x * x for x in limits) - mean(limits) ** 2) ** 0.5 / 12**0.5
    assert abs(mean(limits) - true) < 3 * error
    assert mean(plain) > true + 0.05


def test_the_limit_of_equal_distributions_may_be_negative() -> None:
    limits = [frechet_limit(gaussian(60, 5, k), gaussian(60, 5, k + 50)).limit for k in range(20)]
    assert min(limits) < 0 < max(limits)
    assert abs(mean(limits)) < 0.05


def test_cuts_follow_the_size_of_the_sets() -> None:
    a = gaussian(30, 4, 0)
    assert frechet_limit(a, a).sizes == (30, 15, 10)  # parts of 8 or more
    assert frechet_limit(a, gaussian(90, 4, 1), cuts=2).sizes == (30, 15)
    assert frechet_limit(a, gaussian(30, 4, 1)) == frechet_limit(a, gaussian(30, 4, 1))
    with pytest.raises(ValueError, match="15 feature vectors of 4 dimensions; accepted: 16 or"):
        frechet_limit(a, a[:15])
    with pytest.raises(ValueError, match="cuts is 1; accepted: 2 or more"):
        frechet_limit(a, a, cuts=1)


# ------------------------------------------------------------------------------------------ kernels


def test_kid_of_two_vectors_each_by_hand() -> None:
    """k(x, y) = (xy + 1)³ in one dimension: k(0, 2) = 1, k(1, 3) = 64, between 1, 1, 27, 343."""
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]])
    found = kid(a, b, subsets=3, subset_size=2)
    assert found.mean == pytest.approx(1 + 64 - 2 * (1 + 1 + 27 + 343) / 4)
    assert found.mean < 0  # no error
    assert found.std == pytest.approx(0, abs=1e-9)  # a subset of all is always the same


def test_kid_has_no_bias_and_the_v_statistic_has() -> None:
    values, biased = [], []
    for k in range(200):
        x, y = gaussian(12, 3, 2 * k), gaussian(12, 3, 2 * k + 1)
        kernels = cubic_kernel(x, x), cubic_kernel(y, y), cubic_kernel(x, y)
        values.append(mmd2(*kernels))
        biased.append(mmd2(*kernels, biased=True))
        assert values[-1] == pytest.approx(kid(x, y, 1, 12).mean)
    error = (mean(v * v for v in values) - mean(values) ** 2) ** 0.5 / 200**0.5
    assert abs(mean(values)) < 3 * error
    assert sum(v < 0 for v in values) > 60
    assert min(biased) >= 0
    assert mean(biased) > 1


def test_kid_grows_with_the_difference_and_has_a_seed() -> None:
    a = gaussian(60, 4, 0)
    found = [kid(a, gaussian(60, 4, 1, shift=s), 20, 30).mean for s in (0.5, 1.0, 2.0)]
    assert found[0] < found[1] < found[2]
    b = gaussian(60, 4, 1)
    assert kid(a, b, 5, 30, seed=1) == kid(a, b, 5, 30, seed=1) != kid(a, b, 5, 30, seed=2)
    with pytest.raises(ValueError, match="subset_size is 61; it must lie in 2 … 60"):
        kid(a, b, subset_size=61)


def test_cmmd_of_unit_vectors_by_hand() -> None:
    """Vectors at right angles are √2 apart: k = exp(-2 / 200), whatever their lengths."""
    a, b = torch.eye(4)[:2] * 5, torch.eye(4)[2:]
    k = math.exp(-2 / 200)
    assert cmmd(a, b) == pytest.approx(1000 * (2 * k - 2 * k), abs=1e-9)
    assert cmmd(a, b, biased=True) == pytest.approx(1000 * (2 * (1 + k) / 2 - 2 * k), rel=1e-9)
    assert cmmd(a, a, biased=True) == pytest.approx(0, abs=1e-9)
    assert cmmd(a, a) < 0


# ---------------------------------------------------------------------------- precision and recall


def circle(centre: float, n: int = 12) -> Tensor:
    angles = torch.arange(n) * (2 * math.pi / n)
    return torch.stack([angles.cos() + centre, angles.sin()], dim=1)


def test_radii_do_not_count_the_vector_itself() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert radii(x, 1).tolist() == [1, 1, 2, 4]
    assert radii(x, 3).tolist() == [7, 6, 4, 7]


def test_equal_sets_and_far_sets() -> None:
    a = circle(0)
    assert precision_recall(a, a) == (1, 1)
    assert precision_recall(a, circle(50)) == (0, 0)
    assert density_coverage(a, circle(50)) == (0, 0)
    # each of the 12 lies in the balls of k = 5 neighbours, with the sixth as far as the fifth
    density, coverage = density_coverage(a, a.roll(1, 0), k=4)
    assert (density, coverage) == (5 / 4, 1)


def test_a_model_that_repeats_itself_has_precision_and_no_recall() -> None:
    two = torch.cat([circle(0), circle(50)])
    repeats = circle(0, 24)
    assert precision_recall(two, repeats) == (1, 0.5)
    assert precision_recall(repeats, two) == (0.5, 1)
    assert density_coverage(two, repeats).coverage == 0.5


def test_a_model_with_bad_images_loses_precision_only() -> None:
    reals = circle(0)
    fakes = torch.cat([circle(0), 100 + 30 * torch.arange(4.0)[:, None].expand(4, 2)])
    found = precision_recall(reals, fakes)
    assert found.precision == 12 / 16
    assert found.recall == 1


def test_a_real_outlier_fools_precision_but_not_density() -> None:
    """One outlier has a ball that holds everything; it is one of 13 balls to the density."""
    reals = torch.cat([circle(0), torch.tensor([[1000.0, 0.0]])])
    fakes = circle(100)
    assert precision_recall(reals, fakes).precision == 1
    assert density_coverage(reals, fakes) == (1 / 5, 1 / 13)


def test_blocks_of_rows_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = gaussian(30, 3, 0), gaussian(50, 3, 1, shift=0.7)
    whole = precision_recall(a, b), density_coverage(a, b)
    monkeypatch.setattr("sdlearn.evaluation.nearest_neighbours.ROWS", 7)
    assert (precision_recall(a, b), density_coverage(a, b)) == whole


def test_sets_that_cannot_be_compared_are_refused() -> None:
    a = gaussian(10, 4, 0)
    for wrong, sentence in (
        (a[:, :3], "4 and 3 dimensions"),
        (a[0], r"the second set of features is a torch.float64 tensor of the shape \(4,\)"),
        (a[:1], r"n >= 2"),
        (a.long(), "torch.int64"),
        (a.log(), "infinite values or NaN"),
    ):
        for measure in (frechet_distance, kid, cmmd, precision_recall, density_coverage):
            with pytest.raises(ValueError, match=sentence):
                measure(a, wrong)
    with pytest.raises(ValueError, match="fakes has 3 feature vectors; accepted: more than k, whi"):
        precision_recall(a, a[:3])
    with pytest.raises(ValueError, match="reals has 5 feature"):
        density_coverage(a[:5], a)
    density_coverage(a, a[:3])  # generated images have no balls there
