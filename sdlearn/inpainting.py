"""Inpainting: repaint where a mask says so, and keep the rest of a picture.

There are two ways. A U-Net with nine input channels was trained for it: beside the noisy latent it
sees the mask and the latent of the picture with the hole, so it can continue what is around
(Rombach et al., arXiv:2112.10752, section 4.5). Any other model can do it by replacement: what is
known of the clean latent takes the place of the model's estimate at every step (after Song et al.,
arXiv:2011.13456, section 5). The model is then told what is there, though not that it is certain.

A mask is 1 where to repaint and 0 where to keep.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlearn.samplers import Denoiser, Step
from sdlearn.schedule import Point


def with_hole(x: Tensor, mask: Tensor) -> Tensor:
    """Grey where to repaint: pictures (b, 3, h, w) in [-1, 1], masks (b, 1, h, w) of 0 and 1."""
    return x * (1 - mask)


def nine_channels(mask: Tensor, hole: Tensor) -> Tensor:
    """What the U-Net sees beside z, (b, 5, h/f, w/f): first the mask, then the latent of the
    picture with the hole.

    mask: (b, 1, h, w) in pixels; the published models were trained on every f-th pixel of it, and
    it is not scaled. hole: (b, 4, h/f, w/f), scaled as every latent.
    """
    small = F.interpolate(mask, size=hole.shape[-2:], mode="nearest")
    return torch.cat([small.expand(len(hole), -1, -1, -1), hole], dim=1)


def latent_mask(mask: Tensor, factor: int) -> Tensor:
    """(b, 1, h, w) -> (b, 1, h/f, w/f): 1 wherever any of the pixels is to be repainted."""
    return F.max_pool2d(mask, factor)


def keeping(denoise: Denoiser, z_0: Tensor, mask: Tensor) -> Denoiser:
    """A denoiser that knows z_0 where the mask is 0.

    z_0: (b, c, h, w); mask: (b, 1, h, w) in latent positions. A sampler takes the noise in z to be
    (z - alpha z_0) / sigma, so a known region that starts as alpha z_0 + sigma eps goes on as
    exactly that, with the same eps, to the end of the path.
    """

    def known(z: Tensor, point: Point) -> Tensor:
        return torch.where(mask > 0, denoise(z, point), z_0)

    return known


def ending(walk: Iterator[Step], end: Point, z_0: Tensor, mask: Tensor) -> Iterator[Step]:
    """The walk, its last latent exactly z_0 where the mask is 0: a published path ends with a
    little noise left, which what is known does not need."""
    for step in walk:
        if step.point is end:
            step = step._replace(z=torch.where(mask > 0, step.z, z_0))
        yield step
