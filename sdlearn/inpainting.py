"""Image-to-image and inpainting: the initial latent, and repainting the masked region of an image.

There are two methods of inpainting. A U-Net with nine input channels is trained for it: it receives
the noisy latent, the mask and the latent of the masked image, so it can continue the surroundings
of the mask (Rombach et al., arXiv:2112.10752, section 4.5). Any other model can inpaint by
replacement: at every step the known region of the clean latent replaces the model's estimate (after
Song et al., arXiv:2011.13456, section 5). Such a model has no input that marks the known region.
RePaint (Lugmayr et al., arXiv:2201.09865) is replacement with repeated jumps back to more noise,
which give the model a chance to make the two regions agree.

A mask is 1 where the image is repainted and 0 where it is kept.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlearn.samplers import Denoiser, Noise, Path, State, ddim, initial_state
from sdlearn.schedule import Point
from sdlearn.vae import VAE

if TYPE_CHECKING:
    from sdlearn.unet import UNet

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
    """The initial latent of a trajectory, with the extra tensors that inpainting needs.

    Image-to-image starts from the noised latent of the image (SDEdit, arXiv:2108.01073), and so
    does inpainting, except that at strength 1 the masked region starts from pure noise.

    Args:
        init: The image; None to start from pure noise.
        draw: Returns standard normals (b, c, h, w) on the latent's device and in its type. It is
            called in the order of diffusers: for the image's posterior, the initial noise and the
            masked image's posterior.
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
        (b, c, h, w), scaled, with the device and the type of the noise.
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


def widen_for_inpainting(unet: "UNet") -> "UNet":
    """A nine-channel copy of a U-Net to train for inpainting, with the same device and type.

    The weights of the new channels are zero, so at first the copy ignores them and its output is
    that of the U-Net.

    Args:
        unet: A text-to-image U-Net, with as many channels in as out.

    Raises:
        ValueError: If it already has more channels in than out.
    """
    config = unet.config
    if config.in_channels != config.out_channels:
        raise ValueError(
            f"the U-Net has {config.in_channels} input channels; it must have "
            f"{config.out_channels}, as many as the latent"
        )
    state = unet.state_dict()
    weight = state["conv_in.weight"]
    wide = type(unet)(replace(config, in_channels=2 * config.out_channels + 1))
    extra = weight.new_zeros(len(weight), config.out_channels + 1, *weight.shape[2:])
    wide.load_state_dict(state | {"conv_in.weight": torch.cat([weight, extra], dim=1)})
    return wide.to(weight.device, weight.dtype)


# ----------------------------------------------------------------------------------- replacement


def latent_mask(mask: Tensor, factor: int) -> Tensor:
    """(b, 1, H, W) -> (b, 1, H/f, W/f): 1 wherever at least one of the pixels is repainted."""
    return F.max_pool2d(mask, factor)


def replace_known(denoise: Denoiser, z_0: Tensor, mask: Tensor) -> Denoiser:
    """A denoiser that returns z_0 where the mask is 0.

    A sampler computes the noise in z as (z - alpha z_0) / sigma. A known region that starts as
    alpha z_0 + sigma eps therefore keeps this form, with the same eps, along the whole path of a
    deterministic sampler.

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

    A published path ends at a small noise level, but the known region should end without noise.

    Args:
        states: The sampler's states.
        end: The last point of its path.
        z_0: The clean latent of the image, (b, c, h, w).
        mask: (b or 1, 1, h, w) in latent positions.
    """
    for state in states:
        if state.point is end:
            state = state._replace(z=torch.where(mask > 0, state.z, z_0))
        yield state


# --------------------------------------------------------------------------------------- RePaint


def repaint(
    denoise: Denoiser,
    z: Tensor,
    path: Path,
    z_0: Tensor,
    mask: Tensor,
    jump: int,
    repeats: int,
    noise: Noise | None = None,
    sample: Callable[..., Iterator[State]] = ddim,
) -> Iterator[State]:
    """Inpaint by replacement, with jumps back to more noise (Lugmayr et al., algorithm 1).

    With repeats = 1 this is the sampler with `replace_known`.

    Args:
        denoise: The denoiser of the model.
        z: The initial latent, (b, c, h, w).
        path: The points of the sampler's path.
        z_0: The clean latent of the image, (b, c, h, w).
        mask: (b or 1, 1, h, w) in latent positions, 1 where the image is repainted.
        jump: Steps that each jump goes back, see `repaint_visits`.
        repeats: How often each stretch of the path is run.
        noise: Returns standard normals like z; torch.randn_like by default.
        sample: A sampler whose steps don't depend on earlier ones: ddim, ddpm, euler or heun.
    """
    draw = noise or (lambda: torch.randn_like(z))
    denoise = replace_known(denoise, z_0, mask)
    estimate = path[0].alpha * z
    yield initial_state(z, path)
    visits = repaint_visits(len(path) - 1, jump, repeats)
    for step, (i, k) in enumerate(pairwise(visits), start=1):
        if k > i:
            *_, last = sample(denoise, z, [path[i], path[k]], noise=draw)
            z, estimate = last.z, last.z_0
        else:
            z = add_noise(z, path[i], path[k], draw())
        yield State(step, path[k], z, estimate)


def repaint_visits(steps: int, jump: int, repeats: int) -> list[int]:
    """The points of a path that RePaint visits, as indices into it, as in its published code.

    Each stretch of `jump` steps is run `repeats` times. The last step, to the clean end of the
    path, is run once.

    Args:
        steps: Number of steps of the path, which has one more point. Index 0 is the noisiest.
        jump: Steps that a jump goes back.
        repeats: 1 for a path without jumps.

    Raises:
        ValueError: If jump or repeats is below 1.
    """
    if jump < 1 or repeats < 1:
        raise ValueError(f"jump is {jump} and repeats is {repeats}; each must be at least 1")
    left = {steps - 1 - k: repeats - 1 for k in range(0, steps - jump, jump)}
    visits = [0]
    while visits[-1] < steps:
        here = visits[-1]
        if left.get(here, 0) > 0:
            left[here] -= 1
            visits += range(here - 1, here - jump - 1, -1)
        else:
            visits.append(here + 1)
    return visits


def add_noise(z: Tensor, here: Point, there: Point, noise: Tensor) -> Tensor:
    """A latent (b, c, h, w) with the noise level of `here`, noised to that of `there`."""
    ratio = there.alpha / here.alpha
    return ratio * z + (there.sigma**2 - (ratio * here.sigma) ** 2).clamp(min=0).sqrt() * noise
