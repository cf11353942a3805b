"""Distances between sets of features, PSNR and SSIM against torchmetrics and scipy."""

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torchmetrics.image import (
    PeakSignalNoiseRatio,
    StructuralSimilarityIndexMeasure,
)
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance, poly_mmd
from torchmetrics.multimodal import CLIPScore

from sdlearn.evaluation.clip_score import HESSEL, clip_scores
from sdlearn.evaluation.frechet import frechet_distance
from sdlearn.evaluation.image_metrics import psnr, ssim
from sdlearn.evaluation.kernel_distances import kid
from sdlearn.evaluation.resampling import mcnemar


class Flat(nn.Module):
    """The features are the pixels, so that the features of a library's metric are ours."""

    num_features = 3 * 2 * 2

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@pytest.fixture(scope="module")
def sets() -> tuple[Tensor, Tensor]:
    """Two sets of correlated features of twelve dimensions, (40, 12) and (55, 12), float64."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    a, b = (torch.randn(n, 12, generator=generator, dtype=torch.float64) for n in (40, 55))
    return a @ mix, 0.5 + 0.8 * b @ mix.roll(1, 0)


def with_scipy(a: Tensor, b: Tensor) -> float:
    """The published formula, with the matrix root that ours does without."""
    x, y = a.numpy(), b.numpy()
    sigma = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(sigma[0] @ sigma[1])
    shift = ((x.mean(0) - y.mean(0)) ** 2).sum()
    return float(shift + np.trace(sigma[0] + sigma[1] - 2 * root.real))


def test_frechet_is_scipys(sets: tuple[Tensor, Tensor]) -> None:
    assert frechet_distance(*sets) == pytest.approx(with_scipy(*sets), rel=1e-10)
    few = sets[0][:9], sets[1][:7]  # singular: the root of a product is good to half the digits
    assert frechet_distance(*few) == pytest.approx(with_scipy(*few), rel=1e-5)


def test_frechet_is_torchmetrics(sets: tuple[Tensor, Tensor]) -> None:
    metric = FrechetInceptionDistance(Flat(), normalize=True, input_img_size=(3, 2, 2))
    metric.set_dtype(torch.float64)
    for x, real in zip(sets, (True, False), strict=True):
        metric.update(x.view(-1, 3, 2, 2), real=real)
    assert frechet_distance(*sets) == pytest.approx(metric.compute().item(), rel=1e-9)


def test_kid_is_torchmetrics(sets: tuple[Tensor, Tensor]) -> None:
    a, b = sets[0][:40], sets[1][:40]
    assert kid(a, b, 1, 40).mean == pytest.approx(poly_mmd(a, b).item(), rel=1e-12)
    metric = KernelInceptionDistance(Flat(), subsets=3, subset_size=40, normalize=True)
    metric.set_dtype(torch.float64)
    metric.update(a.view(-1, 3, 2, 2), real=True)
    metric.update(b.view(-1, 3, 2, 2), real=False)
    mean, std = metric.compute()
    found = kid(a, b, 3, 40)
    assert found.mean == pytest.approx(mean.item(), rel=1e-9)
    assert abs(std.item() - found.std) <= 1e-9 * abs(found.mean)


def test_kid_of_subsets_has_torchmetrics_mean_and_spread(sets: tuple[Tensor, Tensor]) -> None:
    """The subsets are drawn by another generator, so only the statistics can agree."""
    metric = KernelInceptionDistance(Flat(), subsets=400, subset_size=20, normalize=True)
    metric.set_dtype(torch.float64)
    metric.update(sets[0].view(-1, 3, 2, 2), real=True)
    metric.update(sets[1].view(-1, 3, 2, 2), real=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mean, std = (x.item() for x in metric.compute())
    found = kid(*sets, 400, 20)
    assert abs(found.mean - mean) < 4 * std / 400**0.5 * 2**0.5
    assert found.std == pytest.approx(std, rel=0.15)


def test_psnr_and_ssim_are_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, 3, 24, 19, generator=generator, dtype=torch.float64) * 2 - 1
    b = (a + 0.2 * torch.randn(a.shape, generator=generator, dtype=torch.float64)).clamp(-1, 1)
    each = PeakSignalNoiseRatio(data_range=2.0, reduction="none", dim=(1, 2, 3)).double()
    assert psnr(a, b).tolist() == pytest.approx(each(a, b).tolist(), rel=1e-6)
    everywhere = StructuralSimilarityIndexMeasure(data_range=2.0, return_full_image=True)
    _, windows = everywhere(a, b)
    # Ours, like Wang's own code, has only the windows that lie inside the image. torchmetrics
    # mirrors the image at its border and counts the windows there, too.
    inside = windows[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))
    assert ssim(a, b).tolist() == pytest.approx(inside.tolist(), rel=1e-12)


class Embeddings(nn.Module):
    """The embeddings are the pixels, and the numbers in the captions."""

    config = None

    def get_image_features(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1)

    def get_text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        return ids


def process(
    images: list[Tensor] | None = None, text: list[str] | None = None, **kwargs: object
) -> dict[str, Tensor]:
    if images is not None:
        return {"pixel_values": torch.stack(images)}
    ids = torch.tensor([[float(word) for word in line.split()] for line in text or []]).double()
    return {"input_ids": ids, "attention_mask": ids}


def test_clip_score_is_torchmetrics(sets: tuple[Tensor, Tensor]) -> None:
    images = sets[0].view(-1, 3, 2, 2)
    noise = sets[1][:40]
    metric = CLIPScore(model_name_or_path=lambda: (Embeddings(), process)).set_dtype(torch.float64)
    for texts in (sets[0] + noise, noise):  # captions that fit, and captions of others
        captions = [" ".join(map(repr, row)) for row in texts.tolist()]
        each = [
            float(metric(image[None], line)) for image, line in zip(images, captions, strict=True)
        ]
        assert clip_scores(sets[0], texts).tolist() == pytest.approx(each, rel=1e-6, abs=1e-6)
        hessel = clip_scores(sets[0], texts, HESSEL).tolist()
        assert hessel == pytest.approx([value / 40 for value in each], rel=1e-6, abs=1e-6)
    assert min(each) == 0 < max(each)  # there are negative cosines among them


def test_mcnemar_is_scipys_binomial_test() -> None:
    for better, worse in ((0, 0), (3, 1), (1, 3), (12, 12), (40, 21), (0, 7), (600, 480)):
        n = better + worse
        expected = binomtest(better, n, 0.5).pvalue if n else 1.0
        assert mcnemar(better, worse) == pytest.approx(expected, rel=1e-9)
