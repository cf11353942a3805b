"""How close two pictures are, pixel by pixel and window by window."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def as_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """RGB pictures of one size -> float32 (b, 3, h, w) in [-1, 1]."""
    bytes_ = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return bytes_.permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(a: Tensor, b: Tensor, data_range: float = 2.0) -> Tensor:
    """Peak signal-to-noise ratio in decibels of each pair of pictures.

    a, b: (b, c, h, w), data_range apart at most (2 for pictures in [-1, 1]). Returns (b,):
    10 log10(data_range² / mean squared error), infinite for equal pictures.
    """
    alike(a, b)
    error = (a.double() - b.double()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(data_range**2 / error)


def ssim(a: Tensor, b: Tensor, data_range: float = 2.0) -> Tensor:
    """Structural similarity of each pair of pictures (Wang et al. 2004), 1 for equal ones.

    a, b: (b, c, h, w) with h, w >= 11. Returns (b,): the mean over channels and over all 11 x 11
    windows that lie within the picture, Gaussian weights with standard deviation 1.5, K1 = 0.01,
    K2 = 0.03, weighted (not sample) covariances.
    """
    alike(a, b)
    if min(a.shape[2:]) < 11:
        raise ValueError(f"the pictures are {a.shape[2]} x {a.shape[3]}; SSIM needs 11 x 11 pixels")
    a, b = a.double(), b.double()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_a, mean_b = window_mean(a), window_mean(b)
    var_a = window_mean(a * a) - mean_a**2
    var_b = window_mean(b * b) - mean_b**2
    covariance = window_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def window_mean(x: Tensor) -> Tensor:
    """(b, c, h, w) -> (b, c, h-10, w-10): Gaussian-weighted means of the 11 x 11 windows."""
    taps = torch.exp(-torch.arange(-5, 6, dtype=x.dtype, device=x.device).square() / (2 * 1.5**2))
    taps = taps / taps.sum()
    planes = x.flatten(0, 1)[:, None]
    planes = F.conv2d(F.conv2d(planes, taps.view(1, 1, 11, 1)), taps.view(1, 1, 1, 11))
    return planes[:, 0].unflatten(0, x.shape[:2])


def alike(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(
            f"the pictures have the shapes {tuple(a.shape)} and {tuple(b.shape)}; accepted: two "
            "batches of the same shape (b, c, h, w)"
        )
