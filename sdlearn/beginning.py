"""Where a walk begins: noise alone, or a picture with the noise that belongs to a time on the way.

Image-to-image begins from the latent of a picture, noised (SDEdit, arXiv:2108.01073). Inpainting
does, too, or begins the hole from noise alone; see inpainting for what happens on the way.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sdlearn.inpainting import latent_mask, nine_channels, with_hole
from sdlearn.schedule import Point
from sdlearn.vae import VAE


class Canvas(NamedTuple):
    """What to begin from: x (b or 1, 3, H, W) in [-1, 1]; repaint (b or 1, 1, H, W), 1 where a
    mask is white, None without a mask; strength: 0 … 1, at 1 the white part forgets x."""

    x: Tensor
    repaint: Tensor | None = None
    strength: float = 1.0


class Start(NamedTuple):
    """Where a walk begins.

    z: (b, c, h, w); beside: what an inpainting U-Net sees beside it, (b, 5, h, w); known: the clean
    latent and the mask (b or 1, 1, h, w), 0 where the latent is kept by replacement.
    """

    z: Tensor
    beside: Tensor | None = None
    known: tuple[Tensor, Tensor] | None = None


def begin(
    canvas: Canvas | None,
    draw: Callable[[], Tensor],
    eps: Tensor | None,
    point: Point,
    std: Tensor | float,
    vae: VAE,
    sees_mask: bool,
) -> Start:
    """The latent at `point`, and what goes with it.

    draw: gives standard normals (b, c, h, w) on the latent's device and in its type, in diffusers'
    order: for the posterior of the picture, for the start, and for the posterior of the picture
    with a hole. eps: used for the start instead. std: of noise alone, see samplers.Offer.
    sees_mask: whether the U-Net was made for inpainting.
    """
    z_0 = None
    forgets = canvas is not None and canvas.repaint is not None and canvas.strength == 1
    if canvas is not None and not (sees_mask and forgets):
        z_0 = to_latents(vae, canvas.x, draw())
    drawn = draw()
    eps = drawn if eps is None else eps
    alone = std * eps
    z = alone if z_0 is None else point.alpha * z_0 + point.sigma * eps
    if canvas is None or canvas.repaint is None:
        return Start(z)
    if sees_mask:
        hole = to_latents(vae, with_hole(canvas.x, canvas.repaint), draw())
        return Start(z, beside=nine_channels(canvas.repaint.to(hole), hole))
    assert z_0 is not None
    mask = latent_mask(canvas.repaint, vae.factor).to(z)
    return Start(torch.where(mask > 0, alone, z) if forgets else z, known=(z_0, mask))


def to_latents(vae: VAE, x: Tensor, noise: Tensor) -> Tensor:
    """Pictures (b or 1, 3, H, W) in [-1, 1] -> clean latents (b, c, h, w), of noise's type.

    noise: standard normals (b, c, h, w), for a sample of the posterior.
    """
    x, eps = (part.to(noise.device, vae.dtype) for part in (x, noise))
    if len(x) == 1:
        return vae.to_latent(x, eps).to(noise)
    pairs = zip(x.split(1), eps.split(1), strict=True)  # one at a time, for the memory
    return torch.cat([vae.to_latent(*pair) for pair in pairs]).to(noise)


def normals(seed: int, shape: tuple[int, ...], like: Tensor) -> Callable[[], Tensor]:
    """Standard normals (b, c, h, w), call after call; row k from its own generator on the CPU,
    seeded seed + k, so that it is the same alone or in a batch. like: gives device and type.

    Raises ValueError for a seed of 64 bits or more.
    """
    if not -(2**63) <= seed <= 2**63 - shape[0]:
        raise ValueError(f"seed is {seed}; it must have fewer than 64 bits")
    generators = [torch.Generator().manual_seed(seed + k) for k in range(shape[0])]

    def draw() -> Tensor:
        rows = [torch.randn(shape[1:], generator=generator) for generator in generators]
        return torch.stack(rows).to(like)

    return draw
