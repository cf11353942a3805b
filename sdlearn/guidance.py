"""From a U-Net to a denoiser: classifier-free guidance, and what the network predicts.

Classifier-free guidance (Ho and Salimans 2022) runs the network with and without the prompt and
extrapolates along the difference:

    output = uncond + scale * (cond - uncond)

so scale 1 is no guidance (the paper's w is scale - 1). A negative prompt replaces the empty one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sdlearn.samplers import Denoiser
from sdlearn.schedule import Point, Predicts, prediction_type
from sdlearn.text import Conditioning

Model = Callable[..., Tensor]  # (z, t, context) -> output, like a U-Net
Network = Callable[[Tensor, Tensor], Tensor]  # (z, t) -> output, with fixed prompts


def classifier_free_guidance(
    model: Model,
    cond: Conditioning,
    uncond: Conditioning | None,
    scale: float,
    rescale: float = 0.0,
    interval: tuple[float, float] | None = None,
) -> Network:
    """The model with fixed prompts and classifier-free guidance, (z, t) -> output.

    Args:
        model: A U-Net, or a function with its signature: `model(z, t, context)`, with z
            (b, c, h, w) and t (b,); for SDXL `model(z, t, context, added)`.
        cond: The prompts, a batch of b.
        uncond: The empty or negative prompts, a batch of b. At scale 1 they have no influence, are
            not computed, and may be None. Otherwise both halves go through the model in one batch
            of 2b, the unconditional half first.
        scale: Guidance scale; 1 is off.
        rescale: The phi of `rescale_guidance`; 0 is off.
        interval: (lo, hi) in timesteps 0 … 999: guide only at lo <= t <= hi, as Kynkäänniemi et al.
            (2024) propose for the noise level, which grows with t. Outside the interval only the
            conditional half is computed. All rows must have the same t, as in a sampler.

    Raises:
        ValueError: If `uncond` is None at a scale other than 1.
    """
    conditional = cond.unet_inputs
    if scale == 1:
        return lambda z, t: model(z, t, *conditional)
    if uncond is None:
        raise ValueError(
            f"guidance of scale {scale} needs the unconditional prompt; give uncond, or scale 1"
        )
    both = Conditioning.cat([uncond, cond]).unet_inputs

    def guided(z: Tensor, t: Tensor) -> Tensor:
        if interval is not None and not interval[0] <= t[0] <= interval[1]:
            return model(z, t, *conditional)
        out_uncond, out_cond = model(torch.cat([z, z]), torch.cat([t, t]), *both).chunk(2)
        output = torch.lerp(out_uncond, out_cond, scale)
        return rescale_guidance(output, out_cond, rescale) if rescale else output

    return guided


def rescale_guidance(output: Tensor, cond: Tensor, phi: float = 0.7) -> Tensor:
    """Rescale an output to the conditional one's standard deviation (Lin et al. 2023, eq. 15-16).

    A large guidance scale increases the standard deviation and over-exposes the image.

    Args:
        output: The guided output, (b, c, h, w).
        cond: The conditional output, (b, c, h, w). Standard deviations are over (c, h, w).
        phi: 0 … 1, blends the output (0) and the rescaled output (1).
    """
    dims = tuple(range(1, output.ndim))
    ratio = cond.std(dim=dims, keepdim=True) / output.std(dim=dims, keepdim=True)
    return output * (phi * ratio + 1 - phi)


def denoiser(network: Network, predicts: Predicts) -> Denoiser:
    """A denoiser, (z, point) -> estimate of z_0, from a network that predicts noise or velocity.

    z = alpha z_0 + sigma eps, and the velocity is v = alpha eps - sigma z_0 (Salimans and Ho
    2022); z_0 follows from either.

    Args:
        network: (z, t) -> output, with z (b, c, h, w) and t (b,).
        predicts: "noise" or "velocity", or the published names "epsilon" and "v_prediction".

    Raises:
        ValueError: For any other value of predicts.
    """
    predicts = prediction_type(predicts)

    def denoise(z: Tensor, point: Point) -> Tensor:
        t = torch.full((len(z),), point.t, device=z.device)
        output = network(z, t)
        if predicts == "noise":
            return (z - point.sigma * output) / point.alpha
        return point.alpha * z - point.sigma * output

    return denoise
