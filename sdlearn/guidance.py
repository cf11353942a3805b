"""From a network to a denoiser: classifier-free guidance, and what the network's output means.

Guidance (Ho and Salimans 2022) asks the network twice, with the prompt and without, and goes
further in the direction of the difference:

    output = uncond + scale * (cond - uncond)

so scale 1 is no guidance (the paper's w is scale - 1). A negative prompt simply takes the place of
the empty one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sdlearn.samplers import Denoiser
from sdlearn.schedule import Point, Predicts, prediction_type
from sdlearn.text import Conditioning

Model = Callable[[Tensor, Tensor, Conditioning], Tensor]
Network = Callable[[Tensor, Tensor], Tensor]


def guided(
    model: Model,
    cond: Conditioning,
    uncond: Conditioning | None,
    scale: float,
    rescale: float = 0.0,
    interval: tuple[float, float] | None = None,
) -> Network:
    """The model with its prompts filled in: (z, t) -> output, with guidance of the given scale.

    model: (z, t, conditioning) -> output; z (b, c, h, w), t (b,); cond and uncond of batch b.
    Both halves go through the model in one batch of 2b, the unconditional half first. At scale 1
    the unconditional half has no influence: it is not computed, and may be None.
    rescale: phi of `rescaled`, 0 leaves the output as it is.
    interval: (lo, hi) in the network's t, 0 … 999: only for lo <= t <= hi is there guidance, as
    Kynkäänniemi et al. (2024) propose in terms of the noise level, which only grows with t. Outside
    it the conditional half is asked alone. It is for samplers, whose t is one for all rows.
    """
    if scale == 1:
        return lambda z, t: model(z, t, cond)
    if uncond is None:
        raise ValueError(f"guidance of scale {scale} needs the unconditional prompt")
    both = Conditioning.cat([uncond, cond])

    def network(z: Tensor, t: Tensor) -> Tensor:
        if interval is not None and not interval[0] <= t[0] <= interval[1]:
            return model(z, t, cond)
        without, given = model(torch.cat([z, z]), torch.cat([t, t]), both).chunk(2)
        output = torch.lerp(without, given, scale)
        return rescaled(output, given, rescale) if rescale else output

    return network


def rescaled(output: Tensor, cond: Tensor, phi: float = 0.7) -> Tensor:
    """Give a guided output the spread of the conditional one (Lin et al. 2023, eq. 15 and 16).

    Large scales blow the output up and over-expose the picture. output, cond: (b, c, h, w), the
    spread is taken over (c, h, w); phi blends from 0, the output itself, to 1, fully rescaled.
    """
    over = tuple(range(1, output.ndim))
    ratio = cond.std(dim=over, keepdim=True) / output.std(dim=over, keepdim=True)
    return output * (phi * ratio + 1 - phi)


def denoiser(network: Network, predicts: Predicts) -> Denoiser:
    """Read an estimate of z_0 out of a network that predicts "noise" or "velocity".

    z = alpha z_0 + sigma eps, and the velocity is v = alpha eps - sigma z_0 (Salimans and Ho
    2022); both solve for z_0. The published names, "epsilon" and "v_prediction", mean the same.

    Raises:
        ValueError: for another value of predicts.
    """
    predicts = prediction_type(predicts)

    def denoise(z: Tensor, point: Point) -> Tensor:
        t = torch.full((len(z),), point.t, device=z.device)
        output = network(z, t)
        if predicts == "noise":
            return (z - point.sigma * output) / point.alpha
        return point.alpha * z - point.sigma * output

    return denoise
