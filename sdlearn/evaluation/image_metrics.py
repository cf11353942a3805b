"""PSNR and SSIM of two images."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def as_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Convert RGB images of one size to float32 (b, 3, h, w) in [-1, 1]."""
    bytes_ = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return bytes_.permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(a: Tensor, b: Tensor, data_range: float = 2.0) -> Tensor:
    """Compute the peak signal-to-noise ratio in decibels of each pair of images.

    Args:
        a: (b, c, h, w).
        b: (b, c, h, w).
        data_range: Largest possible difference of two values; 2 for images in [-1, 1].

    Returns:
        10 log10(data_range² / mean squared error), (b,) float64; infinite for equal images.

    Raises:
        ValueError: If the shapes differ or do not have four dimensions.
    """
    check_same_shape(a, b)
    error = (a.double() - b.double()).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(data_range**2 / error)


def ssim(a: Tensor, b: Tensor, data_range: float = 2.0) -> Tensor:
    """Compute the structural similarity of each pair of images (Wang et al. 2004).

    The windows are 11 x 11 pixels with Gaussian weights of standard deviation 1.5, K1 = 0.01 and
    K2 = 0.03, and covariances are weighted (not sample) covariances. Only windows inside the image
    count; torchmetrics mirrors the image at its border and counts the windows there, too.

    Args:
        a: (b, c, h, w) with h, w >= 11.
        b: (b, c, h, w).
        data_range: Largest possible difference of two values; 2 for images in [-1, 1].

    Returns:
        Means over the channels and over all windows inside the image, (b,) float64; 1 for equal
        images.

    Raises:
        ValueError: If the shapes differ, do not have four dimensions, or the images are smaller
            than a window.
    """
    check_same_shape(a, b)
    if min(a.shape[2:]) < 11:
        raise ValueError(
            f"the images are {a.shape[2]} x {a.shape[3]}; accepted: 11 x 11 pixels or more"
        )
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
    """Compute Gaussian-weighted means of 11 x 11 windows, (b, c, h, w) -> (b, c, h-10, w-10)."""
    taps = torch.exp(-torch.arange(-5, 6, dtype=x.dtype, device=x.device).square() / (2 * 1.5**2))
    taps = taps / taps.sum()
    planes = x.flatten(0, 1)[:, None]
    planes = F.conv2d(F.conv2d(planes, taps.view(1, 1, 11, 1)), taps.view(1, 1, 1, 11))
    return planes[:, 0].unflatten(0, x.shape[:2])


def check_same_shape(a: Tensor, b: Tensor) -> None:
    """Check that two tensors are batches of images of one shape; ValueError if not."""
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(
            f"the images have the shapes {tuple(a.shape)} and {tuple(b.shape)}; accepted: two "
            "batches of the same shape (b, c, h, w)"
        )
