"""Image-to-image and inpainting: the initial latent, and repainting the masked region of an image.

There are two methods of inpainting. A U-Net with nine input channels is trained for it: it receives
the noisy latent, the mask and the latent of the masked image, so it can continue the surroundings
of the mask (Rombach et al., arXiv:2112.10752, section 4.5). Any other model can inpaint by
replacement: at every step the known region of the clean latent replaces the model's estimate (after
Song et al., arXiv:2011.13456, section 5). That model has no input that tells known from unknown.

A mask is 1 where the image is repainted and 0 where it is kept.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlearn.samplers import Denoiser, State
from sdlearn.schedule import Point
from sdlearn.vae import VAE

# ------------------------------------------------------------------------------ initial latent


class InitImage(NamedTuple):
    """The image that a trajectory starts from.

    Attributes:
        image: (b or 1, 3, H, W) in [-1, 1].
        mask: (b or 1, 1, H, W), 1 where to repaint; None without a mask.
        strength: 0 … 1. At 1 nothing of the image remains where the mask is 1.
    """

    image: Tensor
    mask: Tensor | None = None
    strength: float = 1.0


class InitialState(NamedTuple):
    """What a trajectory starts from.

    Attributes:
        z: The initial latent, (b, c, h, w).
        extra_channels: Input channels of an inpainting U-Net after z, (b, 5, h, w).
        known_region: For inpainting by replacement: the clean latent (b, c, h, w), and the mask
            (b or 1, 1, h, w), 0 where that latent is kept.
    """

    z: Tensor
    extra_channels: Tensor | None = None
    known_region: tuple[Tensor, Tensor] | None = None


def initial_latent(
    init: InitImage | None,
    draw: Callable[[], Tensor],
    eps: Tensor | None,
    point: Point,
    std: Tensor | float,
    vae: VAE,
    is_inpainting: bool,
) -> InitialState:
    """The initial latent of a trajectory, with what inpainting needs.

    Image-to-image starts from the noised latent of the image (SDEdit, arXiv:2108.01073), and so
    does inpainting, except that at strength 1 the masked region starts from pure noise.

    Args:
        init: The image; None to start from pure noise.
        draw: Returns standard normals (b, c, h, w) on the latent's device and in its type. The
            order of its calls is that of diffusers: for the image's posterior, for the initial
            noise, for the posterior of the masked image.
        eps: Replaces the initial noise that was drawn, (b, c, h, w).
        point: The first point of the path.
        std: Standard deviation of pure noise at `point`, see SamplerSpec.initial_std.
        vae: Encodes the image.
        is_inpainting: Whether the U-Net has input channels for a mask.
    """
    z_0 = None
    fresh_start = init is not None and init.mask is not None and init.strength == 1
    if init is not None and not (is_inpainting and fresh_start):
        z_0 = encode_images(vae, init.image, draw())
    drawn = draw()
    eps = drawn if eps is None else eps
    pure_noise = std * eps
    z = pure_noise if z_0 is None else point.alpha * z_0 + point.sigma * eps
    if init is None or init.mask is None:
        return InitialState(z)
    if is_inpainting:
        masked = encode_images(vae, masked_image(init.image, init.mask), draw())
        return InitialState(z, extra_channels=inpaint_channels(init.mask.to(masked), masked))
    assert z_0 is not None
    mask = latent_mask(init.mask, vae.factor).to(z)
    z = torch.where(mask > 0, pure_noise, z) if fresh_start else z
    return InitialState(z, known_region=(z_0, mask))


def encode_images(vae: VAE, x: Tensor, noise: Tensor) -> Tensor:
    """Encode images as clean latents, sampled from the posterior.

    Args:
        vae: The autoencoder.
        x: (b or 1, 3, H, W) in [-1, 1].
        noise: Standard normals, (b, c, h, w).

    Returns:
        (b, c, h, w), scaled, with the device and the type of noise.
    """
    x, eps = (part.to(noise.device, vae.dtype) for part in (x, noise))
    if len(x) == 1:
        return vae.to_latent(x, eps).to(noise)
    pairs = zip(x.split(1), eps.split(1), strict=True)  # one at a time, to save memory
    return torch.cat([vae.to_latent(*pair) for pair in pairs]).to(noise)


# --------------------------------------------------------------------------------- nine channels


def masked_image(x: Tensor, mask: Tensor) -> Tensor:
    """Images (b, 3, H, W) in [-1, 1] made grey where the mask (b, 1, H, W) is 1."""
    return x * (1 - mask)


def inpaint_channels(mask: Tensor, masked: Tensor) -> Tensor:
    """The extra input channels of an inpainting U-Net: the mask, then the masked image's latent.

    Args:
        mask: (b or 1, 1, H, W) in pixels. The published models were trained on every f-th pixel of
            it, without scaling.
        masked: Latent of the masked image, (b, 4, H/f, W/f), scaled.

    Returns:
        (b, 5, H/f, W/f).
    """
    small = F.interpolate(mask, size=masked.shape[-2:], mode="nearest")
    return torch.cat([small.expand(len(masked), -1, -1, -1), masked], dim=1)


# ----------------------------------------------------------------------------------- replacement


def latent_mask(mask: Tensor, factor: int) -> Tensor:
    """(b, 1, H, W) -> (b, 1, H/f, W/f): 1 wherever at least one of the pixels is repainted."""
    return F.max_pool2d(mask, factor)


def replace_known(denoise: Denoiser, z_0: Tensor, mask: Tensor) -> Denoiser:
    """A denoiser that returns z_0 where the mask is 0.

    A sampler computes the noise in z as (z - alpha z_0) / sigma. A known region that starts as
    alpha z_0 + sigma eps is therefore alpha z_0 + sigma eps, with the same eps, along the whole
    path of a deterministic sampler.

    Args:
        denoise: The denoiser of the model.
        z_0: The clean latent of the image, (b, c, h, w).
        mask: (b or 1, 1, h, w) in latent positions.
    """

    def denoise_unknown(z: Tensor, point: Point) -> Tensor:
        return torch.where(mask > 0, denoise(z, point), z_0)

    return denoise_unknown


def restore_known(
    states: Iterator[State], end: Point, z_0: Tensor, mask: Tensor
) -> Iterator[State]:
    """The states of a sampler, with the last latent exactly z_0 where the mask is 0.

    A published path ends at a small noise level, and the known region needs no noise.

    Args:
        states: From the sampler.
        end: The last point of its path.
        z_0: The clean latent of the image, (b, c, h, w).
        mask: (b or 1, 1, h, w) in latent positions.
    """
    for state in states:
        if state.point is end:
            state = state._replace(z=torch.where(mask > 0, state.z, z_0))
        yield state
