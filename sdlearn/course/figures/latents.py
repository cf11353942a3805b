"""Pages squeezed into few numbers: what is left of them, and how good that is."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.plots import STYLES, axes_for
from sdlearn.vae import VAE

PATCH = 8  # pixels on a side, as many as one position of the latent stands for


def squeezed(x: Tensor, mean: Tensor, basis: Tensor, k: int) -> Tensor:
    """Pages (b, c, h, w) when every patch of 8 x 8 pixels keeps k numbers, clamped to [-1, 1].

    mean (d,) and basis (d or fewer, d), rows of length one: the middle and the directions of the
    patches, d = c * 64 numbers each, the colours outermost. Raises ValueError for a k that is not
    between 0 and the number of directions.
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
    """Between two pages (1, 3, h, w), at `weight` from 0 to 1: (3, 3, h, w).

    The straight line is walked between their pixels, between their k numbers a patch, and between
    their latents; the last two come back as pixels.
    """
    pixels = torch.lerp(a, b, weight)
    z = torch.lerp(vae.to_latent(a), vae.to_latent(b), weight)
    # Numbers a patch are linear in the pixels, so it does not matter which of them are mixed.
    return torch.cat([pixels, squeezed(pixels, mean, basis, k), vae.to_image(z)])


def directions(basis: Tensor) -> list[Image.Image]:
    """Every row, of 3 * 64 numbers, as a picture of 8 x 8 pixels: grey is 0, its largest number
    is as far from grey as a colour can be."""
    patches = F.pixel_shuffle(basis[:, :, None, None], PATCH)  # (k, 192, 1, 1) -> (k, 3, 8, 8)
    scaled = patches / patches.abs().amax(dim=(1, 2, 3), keepdim=True)
    pixels = ((scaled + 1) * 127.5).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    return [Image.fromarray(patch) for patch in pixels]


def rates(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    points: Mapping[str, tuple[float, float]],
    title: str,
) -> Figure:
    """Quality in decibels over numbers kept of a patch: lines, and points that stand alone."""
    figure, ax = axes_for(title, "numbers kept of the 192 of a patch", "PSNR (decibels)")
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
