"""Rectified flow: straight paths from clean latents to noise, and the velocity along them.

Rectified flow (Liu et al., arXiv:2209.03003), or flow matching (Lipman et al., arXiv:2210.02747),
connects a clean latent x_0 to noise eps by a straight line. Stable Diffusion 3 uses it (Esser et
al., arXiv:2403.03206):

    x_t = (1 - t) x_0 + t eps,    0 <= t <= 1,    dx_t / dt = eps - x_0

A network is trained to predict the velocity eps - x_0. The optimal prediction u(x, t) is the mean
velocity of all lines through x at time t. A sampler starts from noise and integrates
dx = u(x, t) dt while t decreases to 0, as `euler` and `heun` do.

x_t is not variance-preserving, but it is a multiple of a latent that is. With the norm
r = sqrt((1 - t)² + t²), z = x_t / r is a latent of `schedule` with alpha = (1 - t) / r and
sigma = t / r. A network that predicts noise is therefore also a velocity model, without any further
training:

    u = (eps - x_t) / (1 - t),    with eps = network(x_t / r, timestep)

The timestep is the one at which the schedule has the same alpha / sigma. Velocity models trained
here keep this form: the network still receives z and predicts noise, and the loss compares the
*velocity computed from its output*. So training starts from exactly the velocities of the original
model, every sampler in `samplers` can run the result, and published file formats can store it.

Stable Diffusion's schedule ends before pure noise, at alpha / sigma = 0.068, which is t = 0.936.
The network was never trained beyond this, and at t = 1 the formula divides by zero, so paths start
at t = 0.936. A `DiffusionTransformer` predicts the velocity itself, from x_t and a timestep of
1000 t. It needs no schedule, and its paths start at t = 1, from pure noise.
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
from sdlearn.utils.validation import check_finite

Velocity = Callable[[Tensor, float], Tensor]  # (x, t) -> dx / dt, in the shape of x
Time = float | Tensor  # one time for all latents, or (b,), one for each
TOKENS = 40  # per prompt, for the storybook's transformer; its captions have at most 37


# -------------------------------------------------------------------------------- the straight path


def interpolate(x_0: Tensor, eps: Tensor, t: Time) -> Tensor:
    """The point x_t = (1 - t) x_0 + t eps, (b, c, h, w) as x_0 and eps, for t in 0 … 1."""
    t = per_latent(t, x_0)
    return (1 - t) * x_0 + t * eps


def per_latent(t: Time, x: Tensor) -> Time:
    """Times (b,) as (b, 1, 1, 1), in the dtype and on the device of x; a number is unchanged."""
    return t.to(x).view(-1, *[1] * (x.ndim - 1)) if isinstance(t, Tensor) else t


def draw_times(n: int, mean: float, std: float, generator: torch.Generator) -> Tensor:
    """Training times from a logit-normal distribution (Esser et al., section 3.1), (n,) in 0 … 1.

    log(t / (1 - t)) has this mean and standard deviation. With std 0 the times are uniform instead.
    The logit-normal distribution favours the middle of the path, where the velocity is hardest to
    predict: near t = 0 the latent is almost clean, and near t = 1 the optimal prediction is close
    to eps minus the mean of all latents.
    """
    if std == 0:
        return torch.rand(n, generator=generator)
    return torch.sigmoid(mean + std * torch.randn(n, generator=generator))


def shift_time(t: Tensor, shift: float) -> Tensor:
    """Times shifted towards noise (Esser et al., eq. 23), in the shape of t.

    The same noise level hides less of a larger image, because neighbouring pixels are more alike.
    For an image with n times as many pixels, a shift of sqrt(n) makes up for this.

    Raises:
        ValueError: If the shift is not a finite number greater than 0.
    """
    if not check_finite("shift", shift) > 0:
        raise ValueError(f"shift is {shift!r}; it must be greater than 0 (1 for no shift)")
    return shift * t / (1 + (shift - 1) * t)


# ------------------------------------------------------------------ the variance-preserving latents


def norm(t: Time) -> Time:
    """The norm r = sqrt((1 - t)² + t²), in the shape of t."""
    return ((1 - t) ** 2 + t**2) ** 0.5


def to_latent(x: Tensor, t: Time) -> Tensor:
    """The variance-preserving latent z = x_t / r, (b, c, h, w), for a point x_t."""
    return x / norm(per_latent(t, x))


def from_latent(z: Tensor, t: Time) -> Tensor:
    """The point x_t = r z, (b, c, h, w), for a variance-preserving latent z."""
    return z * norm(per_latent(t, z))


def time_of(point: Point) -> float:
    """The time t at which the path has a point's noise level: sigma / (alpha + sigma)."""
    return float(point.sigma / (point.alpha + point.sigma))


def last_time(schedule: NoiseSchedule) -> float:
    """The time t of the noisiest entry in a schedule's table, where sampling starts."""
    ratio = float(schedule.sigmas[-1])
    return ratio / (1 + ratio)


def points_at(t: Sequence[float] | Tensor, schedule: NoiseSchedule) -> list[Point]:
    """The variance-preserving points with alpha / sigma = (1 - t) / t.

    Their timesteps are interpolated in the schedule's table, as for the noise levels of Karras et
    al. Below the smallest noise level in the table, the timestep is 0.

    Raises:
        ValueError: If a time is outside 0 … `last_time`.
    """
    t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
    last = last_time(schedule)
    if not bool(((t >= 0) & (t <= last + 1e-6)).all()):  # float32 may round the last one up
        given = f"t is {t.tolist()!r:.80}"
        raise ValueError(f"{given}; it must lie in 0 … {last:.4f}, where this schedule ends")
    return schedule.points_at(t / (1 - t), rounded=False)


# ------------------------------------------------------------------------------------- the velocity


def velocity_from_noise(eps: Tensor, x: Tensor, t: Time) -> Tensor:
    """The velocity eps - x_0, (b, c, h, w), of the line from x_t to the noise eps, for t < 1."""
    return (eps - x) / (1 - per_latent(t, x))


def noise_from_velocity(u: Tensor, x: Tensor, t: Time) -> Tensor:
    """The noise eps, (b, c, h, w), at the end of the line through x_t with velocity u."""
    return x + (1 - per_latent(t, x)) * u


def velocity_model(network: Network, schedule: NoiseSchedule) -> Velocity:
    """Turn a network that predicts noise, such as the shipped U-Net, into a velocity model.

    Args:
        network: (z, timestep) -> noise, see `guidance.classifier_free_guidance`. Guiding the
            noise guides the velocity, which is an affine function of it.
        schedule: The noise schedule that the network was trained with.

    Returns:
        (x, t) -> velocity. It raises ValueError for a t outside 0 … `last_time`.
    """

    def velocity(x: Tensor, t: float) -> Tensor:
        (point,) = points_at([t], schedule)
        timestep = torch.full((len(x),), point.t, device=x.device)
        return velocity_from_noise(network(to_latent(x, t), timestep), x, t)

    return velocity


def velocity_loss(
    model: Model, x: Tensor, t: Tensor, target: Tensor, context: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """Mean squared error of the velocities computed from a network's noise predictions, a scalar.

    Args:
        model: (z, timestep, context) -> noise, (b, c, h, w), like a U-Net.
        x: Points on the paths, (b, c, h, w).
        t: Their times, (b,), in 0 … `last_time`.
        target: The velocities to learn, (b, c, h, w).
        context: Text embeddings, (b, n, d).
        schedule: The noise schedule that the network was trained with.

    Raises:
        ValueError: If a time is out of range. The network is not called in that case.
    """
    timesteps = torch.tensor([point.t for point in points_at(t, schedule)], device=x.device)
    eps = model(to_latent(x, t), timesteps, context).float()
    return (velocity_from_noise(eps, x, t) - target).square().mean()


def flow_loss(
    model: Model, x_0: Tensor, t: Tensor, eps: Tensor, context: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """The loss of rectified flow (Liu et al., eq. 1) for the line from x_0 to noise eps.

    It equals the noise-prediction loss weighted by 1 / (1 - t)². The other arguments and the errors
    are those of `velocity_loss`.
    """
    return velocity_loss(model, interpolate(x_0, eps, t), t, eps - x_0, context, schedule)


def transformer_loss(
    model: Model, x_0: Tensor, t: Tensor, eps: Tensor, text: Conditioning
) -> Tensor:
    """The loss of rectified flow for a network that predicts the velocity itself, a scalar.

    The model is (x, 1000 t, context, pooled) -> velocity, like a `DiffusionTransformer`. x_0 and
    eps are (b, c, h, w), t is (b,) in 0 … 1, and text is from `transformer_text`, b rows.
    """
    x = interpolate(x_0, eps, t)
    velocity = model(x, TIMESTEPS * t.to(x), text.context, text.pooled).float()
    return (velocity - (eps - x_0)).square().mean()


def transformer_velocity(
    transformer: DiffusionTransformer, cond: Conditioning, uncond: Conditioning | None, scale: float
) -> Velocity:
    """A diffusion transformer with fixed prompts and classifier-free guidance, for `euler`.

    cond holds the prompts, and uncond the empty or negative ones: b rows of `transformer_text`
    each. uncond may be None at scale 1, which is no guidance; otherwise that raises ValueError.
    """
    if uncond is None and scale != 1:
        raise ValueError(f"guidance of scale {scale} needs the unconditional prompts; give uncond")
    both = cond if scale == 1 or uncond is None else Conditioning.cat([uncond, cond])

    def velocity(x: Tensor, t: float) -> Tensor:
        rows = x.repeat(len(both.context) // len(x), 1, 1, 1)
        out = transformer(rows, TIMESTEPS * t, both.context, both.pooled)
        return torch.lerp(out[: len(x)], out[-len(x) :], scale)  # without uncond, both are out

    return velocity


def transformer_text(text: TextEncoder, prompts: Sequence[str]) -> Conditioning:
    """Encode prompts for the storybook's transformer: hidden states and a pooled embedding.

    These are the first TOKENS states, (b, 40, d), and that of the end-of-text token, (b, d).
    """
    context, ends = text(prompts).context, end_of_text(text, prompts)
    return Conditioning(context[:, :TOKENS], context[torch.arange(len(ends)), ends])


def end_of_text(text: TextEncoder, prompts: Sequence[str]) -> Tensor:
    """The position of each prompt's first end-of-text token, (b,) int64; it may also be padding."""
    (tokenizer,), (encoder,) = text.tokenizers, text.encoders
    assert isinstance(encoder, CLIPTextEncoder)
    ids = token_ids(tokenizer, prompts, context_length(tokenizer, encoder.config))
    return (ids == tokenizer.eos_token_id).int().argmax(dim=1)


# ------------------------------------------------------------------------------------- the samplers


class FlowState(NamedTuple):
    """The state of a sampler after a step.

    Attributes:
        step: 0 for the initial state, then 1 … the number of steps.
        t: The time on the path, from the start of `path` down to 0.
        x: The point x_t, (b, c, h, w).
        x_0: The clean latent as estimated at the step's start, (b, c, h, w); at first it is x.
    """

    step: int
    t: float
    x: Tensor
    x_0: Tensor


def path(steps: int, start: float = 1.0, shift: float = 1.0) -> list[float]:
    """The steps + 1 times of a sampler, evenly spaced from `start` down to 0, then shifted.

    Args:
        steps: Number of steps, at least 1.
        start: The first time, above 0 and at most 1. The shift doesn't change it. For a
            `velocity_model`, pass `last_time`.
        shift: See `shift_time`.

    Raises:
        ValueError: If an argument is out of range.
    """
    if type(steps) is not int or steps < 1:
        raise ValueError(f"steps is {steps!r:.80}; it must be a whole number of at least 1")
    if not 0 < start <= 1:
        raise ValueError(f"start is {start!r:.80}; it must be greater than 0 and at most 1")
    t = shift_time(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)
    return [start * float(each) for each in t]


def euler(velocity: Velocity, x: Tensor, times: Sequence[float]) -> Iterator[FlowState]:
    """Euler's method: each step is a straight line along the velocity at its start.

    A step is the same as a step of deterministic DDIM between the same noise levels, because both
    keep the predicted noise and x_0 constant.

    Args:
        velocity: (x, t) -> velocity, see `velocity_model`.
        x: The initial point, (b, c, h, w): standard normal noise times `norm` of the first time.
        times: The times from noise to 0, see `path`.
    """
    yield FlowState(0, times[0], x, x)
    for step, (t, s) in enumerate(pairwise(times), start=1):
        u = velocity(x, t)
        x_0, x = x - t * u, x + (s - t) * u
        yield FlowState(step, s, x, x_0)


def heun(velocity: Velocity, x: Tensor, times: Sequence[float]) -> Iterator[FlowState]:
    """Heun's method: each step uses the mean of the velocities at its two ends.

    It calls `velocity` twice a step, and its error decreases with the square of the step size. The
    arguments are those of `euler`.
    """
    yield FlowState(0, times[0], x, x)
    for step, (t, s) in enumerate(pairwise(times), start=1):
        u = velocity(x, t)
        end = velocity(x + (s - t) * u, s)
        x_0, x = x - t * u, x + (s - t) * (u + end) / 2
        yield FlowState(step, s, x, x_0)
