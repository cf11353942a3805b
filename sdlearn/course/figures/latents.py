"""Linear compression of image patches compared with latents: reconstructions and PSNR."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.plots import STYLES, axes_for
from sdlearn.course.figures.style import in_style
from sdlearn.vae import VAE

PATCH = 8  # side in pixels of the patch that one position of the latent encodes


def project_patches(x: Tensor, mean: Tensor, basis: Tensor, k: int) -> Tensor:
    """Project every patch of 8 x 8 pixels onto k basis vectors and back.

    Args:
        x: Images, (b, c, h, w).
        mean: Mean patch, (d,) with d = c * 64, colours outermost.
        basis: Orthonormal rows, (d or fewer, d).
        k: How many of the rows to use.

    Returns:
        Reconstructions (b, c, h, w), clamped to [-1, 1].

    Raises:
        ValueError: If k is not in 0 ... len(basis).
    """
    if not 0 <= k <= len(basis):
        raise ValueError(f"k is {k}; accepted: 0 to {len(basis)}, the number of directions")
    middle, rows = mean[:, None, None], basis[:k]
    patches = F.pixel_unshuffle(x, PATCH) - middle  # (b, d, h/8, w/8)
    z = torch.einsum("kd,bdhw->bkhw", rows, patches)
    return F.pixel_shuffle(torch.einsum("kd,bkhw->bdhw", rows, z) + middle, PATCH).clamp(-1, 1)


@torch.no_grad()
def blends(
    a: Tensor, b: Tensor, weight: float, vae: VAE, mean: Tensor, basis: Tensor, k: int
) -> Tensor:
    """Interpolate linearly between two images in three representations.

    Args:
        a: Image at weight 0, (1, 3, h, w).
        b: Image at weight 1, (1, 3, h, w).
        weight: 0 to 1.
        vae: The autoencoder of the latents.
        mean: See `project_patches`.
        basis: See `project_patches`.
        k: Coefficients kept of a patch.

    Returns:
        (3, 3, h, w): interpolated in pixels, in k coefficients a patch, and in latents.
    """
    pixels = torch.lerp(a, b, weight)
    z = torch.lerp(vae.to_latent(a), vae.to_latent(b), weight)
    # The coefficients are linear in the pixels, so interpolating either gives the same result.
    return torch.cat([pixels, project_patches(pixels, mean, basis, k), vae.to_image(z)])


def basis_images(basis: Tensor) -> list[Image.Image]:
    """Draw every basis vector (k, 192) as an image of 8 x 8 pixels.

    Grey is 0. Each vector is scaled so that its largest absolute value reaches black or white.
    """
    patches = F.pixel_shuffle(basis[:, :, None, None], PATCH)  # (k, 192, 1, 1) -> (k, 3, 8, 8)
    scaled = patches / patches.abs().amax(dim=(1, 2, 3), keepdim=True)
    pixels = ((scaled + 1) * 127.5).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    return [Image.fromarray(patch) for patch in pixels]


@in_style
def rate_distortion(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    points: Mapping[str, tuple[float, float]],
    title: str,
) -> Figure:
    """Draw PSNR in decibels over the number of values kept of a patch.

    Args:
        lines: Up to four curves (values kept, PSNR), by name.
        points: Up to two single results (values kept, PSNR), by name.
        title: Of the figure.
    """
    figure, ax = axes_for(title, "values kept of the 192 of a patch", "PSNR (decibels)")
    for (name, (xs, ys)), style in zip(lines.items(), STYLES[: len(lines)], strict=True):
        ax.plot(xs, ys, style, color="0.35", ms=5, label=name)
    for (name, (x, y)), marker in zip(points.items(), ("*", "P")[: len(points)], strict=True):
        ax.plot([x], [y], marker, color="black", ms=14, ls="none", label=name)
    ticks = sorted({x for xs, _ in lines.values() for x in xs})
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
    ax.minorticks_off()
    ax.legend(loc="upper left")
    return figure
