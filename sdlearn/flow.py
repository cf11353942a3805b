"""Rectified flow: a straight path from an image to noise, and the velocity along it.

Rectified flow (Liu et al., arXiv:2209.03003), or flow matching (Lipman et al., arXiv:2210.02747),
connects a clean latent x_0 with noise eps by a straight line, as Stable Diffusion 3 does (Esser et
al., arXiv:2403.03206):

    x_t = (1 - t) x_0 + t eps,    0 <= t <= 1,    dx_t / dt = eps - x_0

A network learns the velocity eps - x_0. Its best answer is the mean over all lines through x_t, and
a sampler follows it from noise, dx = u(x, t) dt with t falling to 0. `euler` and `heun` do that.

x_t is not variance-preserving, but it is only a multiple of a latent that is. With the norm
r = sqrt((1 - t)² + t²), z = x_t / r is a latent of `schedule` with alpha = (1 - t) / r and
sigma = t / r. So a network that predicts noise is a velocity model, too, without any training:

    u = (eps - x_t) / (1 - t),    with eps = network(x_t / r, timestep)

The timestep is the one in the schedule's table with the same alpha / sigma. What is trained here as
a velocity model keeps this form: the network goes on predicting noise and being shown z, and the
*velocity computed from its output* is what the loss compares. It therefore starts as exactly the
model it is made from, any sampler of `samplers` can run it, and published files describe it.

Stable Diffusion's table ends before pure noise, at alpha / sigma = 0.068, which is t = 0.936. No
velocity is known beyond it (at t = 1 the formula divides by zero), so paths start there.

A `DiffusionTransformer` predicts the velocity itself, from x_t and a timestep of 1000 t. It needs
no schedule, and its paths start at t = 1, from pure noise.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sdlearn.clip import CLIPTextEncoder
from sdlearn.diffusion_transformer import TIMESTEPS, DiffusionTransformer
from sdlearn.guidance import Model, Network
from sdlearn.schedule import NoiseSchedule, Point
from sdlearn.text import Conditioning, TextEncoder, context_length, token_ids

Velocity = Callable[[Tensor, float], Tensor]  # (x, t) -> dx / dt, in the shape of x
Time = float | Tensor  # one time, or (b,): one for each latent
# The storybook's transformer is given so many tokens of a prompt. Its captions have at most 37; the
# remaining 37 of 77 would be padding.
TOKENS = 40


# -------------------------------------------------------------------------------- the straight path


def interpolate(x_0: Tensor, eps: Tensor, t: Time) -> Tensor:
    """The point x_t = (1 - t) x_0 + t eps, (b, c, h, w) as x_0 and eps, for t in 0 … 1."""
    t = per_latent(t, x_0)
    return (1 - t) * x_0 + t * eps


def per_latent(t: Time, x: Tensor) -> Time:
    """A time (b,) as (b, 1, 1, 1), in the type and on the device of x; a number as it is."""
    return t.to(x).view(-1, *[1] * (x.ndim - 1)) if isinstance(t, Tensor) else t


def draw_times(n: int, mean: float, std: float, generator: torch.Generator) -> Tensor:
    """Training times from a logit-normal distribution (Esser et al., section 3.1), (n,) in 0 … 1.

    log(t / (1 - t)) has this mean and standard deviation; with std 0 the times are uniform. The
    middle of the path is hardest to learn: near t = 0 the latent is already there, and near t = 1
    the best velocity is eps minus the mean of all latents.
    """
    if std == 0:
        return torch.rand(n, generator=generator)
    return torch.sigmoid(mean + std * torch.randn(n, generator=generator))


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Times shifted towards noise (Esser et al., eq. 23), in the shape of t.

    The same noise hides less of a larger image, because neighbouring pixels tell much the same. To
    hide as much of an image with n times as many pixels, shift by sqrt(n); 1 changes nothing. A
    shift that is not above 0 raises ValueError.
    """
    if not shift > 0:
        raise ValueError(f"shift is {shift!r}; it must be above 0, and 1 shifts nothing")
    return shift * t / (1 + (shift - 1) * t)


# ------------------------------------------------------------------ the variance-preserving latents


def norm(t: Time) -> Time:
    """The r in x_t = r z: sqrt((1 - t)² + t²), in the shape of t."""
    return ((1 - t) ** 2 + t**2) ** 0.5


def to_latent(x: Tensor, t: Time) -> Tensor:
    """The variance-preserving latent z = x_t / r, (b, c, h, w)."""
    return x / norm(per_latent(t, x))


def from_latent(z: Tensor, t: Time) -> Tensor:
    """The x_t = r z of a variance-preserving latent, (b, c, h, w)."""
    return z * norm(per_latent(t, z))


def time_of(point: Point) -> float:
    """The t of the path with a point's noise level: sigma / (alpha + sigma)."""
    return float(point.sigma / (point.alpha + point.sigma))


def last_time(schedule: NoiseSchedule) -> float:
    """The t of the noisiest entry of a schedule's table; sampling starts there."""
    ratio = float(schedule.sigmas[-1])
    return ratio / (1 + ratio)


def points_at(t: Sequence[float] | Tensor, schedule: NoiseSchedule) -> list[Point]:
    """The variance-preserving points with alpha / sigma = (1 - t) / t.

    Their timesteps are interpolated in the schedule's table, as for Karras's noise levels. Below
    the table's smallest noise level the timestep is 0.

    A time outside 0 … `last_time` raises ValueError.
    """
    t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
    last = last_time(schedule)
    if not bool(((t >= 0) & (t <= last + 1e-6)).all()):  # float32 may round the last one up
        given = f"t is {t.tolist()!r:.80}"
        raise ValueError(f"{given}; it must lie in 0 … {last:.4f}, where this schedule ends")
    return schedule.points_at(t / (1 - t), rounded=False)


# ------------------------------------------------------------------------------------- the velocity


def velocity_from_noise(eps: Tensor, x: Tensor, t: Time) -> Tensor:
    """The velocity eps - x_0 of the line through x_t with this noise, (b, c, h, w); t below 1."""
    return (eps - x) / (1 - per_latent(t, x))


def noise_from_velocity(u: Tensor, x: Tensor, t: Time) -> Tensor:
    """The noise at the end of the line through x_t with this velocity, (b, c, h, w)."""
    return x + (1 - per_latent(t, x)) * u


def velocity_model(network: Network, schedule: NoiseSchedule) -> Velocity:
    """A network that predicts noise, such as the shipped U-Net, read as a velocity model.

    Args:
        network: (z, timestep) -> noise, see `guidance.classifier_free_guidance`. Guidance of the
            noise is guidance of the velocity, because one is an affine function of the other.
        schedule: The noise schedule that it was trained with. For a t that it does not reach, the
            velocity model raises ValueError.
    """

    def velocity(x: Tensor, t: float) -> Tensor:
        (point,) = points_at([t], schedule)
        timestep = torch.full((len(x),), point.t, device=x.device)
        return velocity_from_noise(network(to_latent(x, t), timestep), x, t)

    return velocity


def velocity_loss(
    model: Model, x: Tensor, t: Tensor, target: Tensor, context: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """Mean squared error of the velocity from a network that predicts noise, a scalar.

    Args:
        model: (z, timestep, context) -> noise, (b, c, h, w), like a U-Net.
        x: Points of the path, (b, c, h, w).
        t: Their times, (b,), in 0 … `last_time`; ValueError for others, before any work.
        target: The velocities to learn, (b, c, h, w).
        context: Text embeddings, (b, n, d).
        schedule: The noise schedule that the network was trained with.
    """
    timesteps = torch.tensor([point.t for point in points_at(t, schedule)], device=x.device)
    eps = model(to_latent(x, t), timesteps, context).float()
    return (velocity_from_noise(eps, x, t) - target).square().mean()


def flow_loss(
    model: Model, x_0: Tensor, t: Tensor, eps: Tensor, context: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The loss of rectified flow (Liu et al., eq. 1), for the line from x_0 to noise eps.

    It is the loss of the noise, weighted by 1 / (1 - t)². The rest is as for `velocity_loss`.
    """
    return velocity_loss(model, interpolate(x_0, eps, t), t, eps - x_0, context, schedule)


# ------------------------------------------------------- the velocity of a diffusion transformer


def transformer_loss(
    model: Model, x_0: Tensor, t: Tensor, eps: Tensor, text: Conditioning
) -> Tensor:
    """The loss of rectified flow for a network that predicts the velocity itself, a scalar.

    Args:
        model: (x, 1000 t, context, pooled) -> velocity, like a `DiffusionTransformer`.
        x_0: Clean latents, (b, c, h, w).
        t: Times, (b,), in 0 … 1.
        eps: Noise, (b, c, h, w).
        text: From `transformer_text`, b rows.
    """
    x = interpolate(x_0, eps, t)
    velocity = model(x, TIMESTEPS * t.to(x), text.context, text.pooled).float()
    return (velocity - (eps - x_0)).square().mean()


def transformer_velocity(
    transformer: DiffusionTransformer, cond: Conditioning, uncond: Conditioning | None, scale: float
) -> Velocity:
    """A diffusion transformer with fixed prompts and classifier-free guidance, for `euler`.

    Args:
        transformer: The network.
        cond: The prompts, from `transformer_text`, b rows.
        uncond: The empty or negative prompts, b rows; at scale 1 they have no influence and may be
            None, at another scale that raises ValueError.
        scale: Guidance scale; 1 is off.
    """
    if uncond is None and scale != 1:
        raise ValueError(
            f"guidance of scale {scale} needs the unconditional prompts; give uncond, or scale 1"
        )
    both = cond if scale == 1 or uncond is None else Conditioning.cat([uncond, cond])

    def velocity(x: Tensor, t: float) -> Tensor:
        rows = x.repeat(len(both.context) // len(x), 1, 1, 1)
        out = transformer(rows, TIMESTEPS * t, both.context, both.pooled)
        if len(out) == len(x):
            return out
        out_uncond, out_cond = out.chunk(2)
        return torch.lerp(out_uncond, out_cond, scale)

    return velocity


def transformer_text(text: TextEncoder, prompts: Sequence[str]) -> Conditioning:
    """The prompts as the storybook's transformer reads them.

    Returns:
        The first TOKENS hidden states, (b, 40, d), and as the pooled text the hidden state of the
        end-of-text token, (b, d), which has attended to the whole prompt.
    """
    context = text(prompts).context
    ends = end_of_text(text, prompts).to(context.device)
    return Conditioning(context[:, :TOKENS], context[torch.arange(len(ends)), ends])


def end_of_text(text: TextEncoder, prompts: Sequence[str]) -> Tensor:
    """The position of the end-of-text token of each prompt, (b,) int64; the first, if padded."""
    (tokenizer,), (encoder,) = text.tokenizers, text.encoders
    assert isinstance(encoder, CLIPTextEncoder)
    ids = token_ids(tokenizer, prompts, context_length(tokenizer, encoder.config))
    return (ids == tokenizer.eos_token_id).int().argmax(dim=1)


# ------------------------------------------------------------------------------------- the samplers


class FlowState(NamedTuple):
    """The state of a sampler after a step.

    Attributes:
        step: 0 for the initial state, then 1 … the number of steps.
        t: The time on the path, from `last_time` down to 0.
        x: The point x_t, (b, c, h, w).
        x_0: The estimate of the clean latent at the previous time, (b, c, h, w); at first x.
    """

    step: int
    t: float
    x: Tensor
    x_0: Tensor


def path(steps: int, start: float = 1.0, shift: float = 1.0) -> list[float]:
    """The steps + 1 times of a sampler: evenly spaced from `start` down to 0, then shifted.

    `start`, above 0 and at most 1, is the first time whatever the shift is: choose `last_time`.
    Other values raise ValueError.
    """
    if type(steps) is not int or steps < 1:
        raise ValueError(f"steps is {steps!r:.80}; it must be a whole number, 1 or more")
    if not 0 < start <= 1:
        raise ValueError(f"start is {start!r:.80}; it must be above 0 and at most 1")
    t = shift_time(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)
    return [start * float(each) for each in t]


def euler(velocity: Velocity, x: Tensor, times: Sequence[float]) -> Iterator[FlowState]:
    """Euler's method: straight steps along the velocity at their start, over the times of `path`.

    The initial x, (b, c, h, w), is noise times `norm` of the first time. A step is one of
    deterministic DDIM between the same noise levels: both keep noise and x_0 constant.
    """
    yield FlowState(0, times[0], x, x)
    for step, (t, s) in enumerate(pairwise(times), start=1):
        u = velocity(x, t)
        x_0, x = x - t * u, x + (s - t) * u
        yield FlowState(step, s, x, x_0)


def heun(velocity: Velocity, x: Tensor, times: Sequence[float]) -> Iterator[FlowState]:
    """Heun's method: the mean of the velocities at both ends of a step; arguments as of `euler`.

    A step calls the velocity twice: the error falls with the square of the step.
    """
    yield FlowState(0, times[0], x, x)
    for step, (t, s) in enumerate(pairwise(times), start=1):
        u = velocity(x, t)
        end = velocity(x + (s - t) * u, s)
        x_0, x = x - t * u, x + (s - t) * (u + end) / 2
        yield FlowState(step, s, x, x_0)
