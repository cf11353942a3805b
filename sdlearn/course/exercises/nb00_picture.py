"""Exercises and quiz of notebook 00, the whole picture."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal
from sdlearn.schedule import NoiseSchedule, Point


class SmallNetwork(nn.Module):
    """Stands in for the U-Net: z (b, ...), t, text (b, n, d) -> (b, ...), row by row."""

    def forward(self, z: Tensor, t: float | Tensor, text: Tensor) -> Tensor:
        shape = -1, *[1] * (z.ndim - 1)
        time = torch.as_tensor(t, dtype=z.dtype).expand(len(z)).reshape(shape) / 1000
        words = text.sin().flatten(1).mean(dim=1).reshape(shape)
        return (z + 3 * words).tanh() * (1 + time) + text.flatten(1).var(dim=1).reshape(shape)


# ------------------------------------------------------------------------------------ 00.1 one step


def denoise_step(
    unet: nn.Module,
    z: Tensor,
    here: "Point",
    there: "Point",
    text: Tensor,
    empty: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """From z at `here` to (z at `there`, the estimate of z_0)."""
    eps_text, eps_empty = unet(z, here.t, text), unet(z, here.t, empty)
    eps = eps_empty + scale * (eps_text - eps_empty)
    z_0 = (z - here.sigma * eps) / here.alpha
    return there.alpha * z_0 + there.sigma * eps, z_0


def step_cases(rng: Generator) -> Iterator[Case]:
    path = NoiseSchedule().path(8)
    for k, b, shape, size, scale in (
        (1, 2, (4, 5, 3), (7, 6), 5.0),
        (4, 1, (4, 2, 3), (4, 5), 7.5),
        (6, 3, (3, 3, 3), (3, 3), 1.0),
        (3, 2, (2,), (1, 4), 0.0),
        (7, 1, (4, 4, 4), (5, 5), 3.0),
    ):
        text, empty = normal(rng, b, *size), normal(rng, b, *size)
        z = normal(rng, b, *shape)
        yield Case((SmallNetwork(), z, path[k], path[k + 1], text, empty, scale))


STEP = Exercise(
    number="00.1",
    title="One denoising step",
    minutes=6,
    difficulty=1,
    core=True,
    solution=denoise_step,
    cases=step_cases,
)

# ----------------------------------------------------------------------------------- 00.2 the loop


def run_loop(step: "Callable", z: Tensor, path: list) -> tuple[list, list]:
    """z at path[0] -> (all latents, z first; the estimate of z_0 of each step)."""
    latents, estimates = [z], []
    for here, there in pairwise(path):
        z, z_0 = step(z, here, there)
        latents.append(z)
        estimates.append(z_0)
    return latents, estimates


class SmallStep(nn.Module):
    """Stands in for `denoise_step` with all but `text`, or everything else too, fixed."""

    def __init__(self, text: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("text", text)

    def forward(
        self, z: Tensor, here: Point, there: Point, text: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        eps = SmallNetwork()(z, here.t, self.text if text is None else text)
        z_0 = (z - here.sigma * eps) / here.alpha
        return there.alpha * z_0 + there.sigma * eps, z_0


def loop_cases(rng: Generator) -> Iterator[Case]:
    for b, steps, shape in ((1, 4, (4, 3, 2)), (2, 1, (2,)), (3, 7, (3, 3, 3)), (4, 3, (4, 4))):
        text = normal(rng, b, 5, 6)
        yield Case((SmallStep(text), normal(rng, b, *shape), NoiseSchedule().path(steps)))


LOOP = Exercise(
    number="00.2",
    title="The loop",
    minutes=5,
    difficulty=1,
    core=True,
    solution=run_loop,
    cases=loop_cases,
)

# --------------------------------------------------------------------------- 00.3 the training loss


def denoising_loss(
    model: nn.Module,
    z_0: Tensor,
    eps: Tensor,
    t: Tensor,
    text: Tensor,
    alpha: Tensor,
    sigma: Tensor,
) -> Tensor:
    """z_0, eps (b, d), t (b,), text (b, k), alpha, sigma (b, 1) -> the loss, ()."""
    z = alpha * z_0 + sigma * eps
    return F.mse_loss(model(z, t, text), eps)


def loss_cases(rng: Generator) -> Iterator[Case]:
    schedule = NoiseSchedule()
    for times, d, k in (
        ((3, 500, 980), 2, 3),
        ((40, 300), 2, 2),
        ((700,), 5, 4),
        ((250,) * 4, 4, 4),
    ):
        t, b = torch.tensor(times), len(times)
        alpha, sigma = (factor[:, None] for factor in schedule.at(t))
        z_0, eps, text = 2 * normal(rng, b, d) + 1, normal(rng, b, d), normal(rng, b, k)
        yield Case((SmallNetwork(), z_0, eps, t, text, alpha, sigma))


LOSS = Exercise(
    number="00.3",
    title="The training loss",
    minutes=5,
    difficulty=1,
    core=True,
    solution=denoising_loss,
    cases=loss_cases,
)

# ----------------------------------------------------------------- 00.4 the ideal denoiser


def ideal_noise(
    z: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    data: Tensor,
    allowed: Tensor,
) -> Tensor:
    """z (b, d), alpha, sigma (b, 1), data (n, d), allowed (b, n) -> eps (b, d)."""
    distance = alpha * torch.cdist(z / alpha, data)  # from z to alpha * x, (b, n)
    scores = -(distance**2) / (2 * sigma**2)
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(dim=1)
    return (z - alpha * (weights @ data)) / sigma


def ideal_cases(rng: Generator) -> Iterator[Case]:
    schedule = NoiseSchedule()
    for times, n, d, far in (
        ((3, 500, 980), 5, 2, 0),
        ((300, 100), 2, 2, 0),
        ((700,), 4, 3, 0),
        ((200,) * 4, 4, 4, 0),
        ((20, 150), 7, 3, 4),  # far from all points: a plain exp gives 0
    ):
        b = len(times)
        alpha, sigma = (factor.double()[:, None] for factor in schedule.at(torch.tensor(times)))
        data = normal(rng, n, d)
        origin = data[torch.randint(n, (b,), generator=rng)]
        z = alpha * origin + sigma * normal(rng, b, d) + far
        allowed = torch.rand(b, n, generator=rng) > 0.3
        allowed[:, -1] = True
        yield Case((z, alpha, sigma, data, allowed))


IDEAL = Exercise(
    number="00.4",
    title="The ideal denoiser",
    minutes=15,
    difficulty=3,
    core=True,
    solution=ideal_noise,
    cases=ideal_cases,
)

# ------------------------------------------------------------- 00.5 a change of prompt midway


def switch_prompt(
    step: "Callable",
    z: Tensor,
    path: list,
    first: Tensor,
    second: Tensor,
    at: int,
    keep: Tensor,
) -> Tensor:
    """The final z: `second` takes over after `at` steps, except where `keep` is 1."""
    original = edited = z
    for k, (here, there) in enumerate(pairwise(path)):
        original, _ = step(original, here, there, first)
        edited, _ = step(edited, here, there, first if k < at else second)
        edited = keep * original + (1 - keep) * edited
    return edited


class MixingStep(nn.Module):
    """Stands in for `denoise_step`; its prediction at one position depends on all the others."""

    def forward(self, z: Tensor, here: Point, there: Point, text: Tensor) -> tuple[Tensor, Tensor]:
        mean = z.mean(dim=(1, 2, 3), keepdim=True)
        eps = SmallNetwork()(z + 2 * mean, here.t, text)
        z_0 = (z - here.sigma * eps) / here.alpha
        return there.alpha * z_0 + there.sigma * eps, z_0


def switch_cases(rng: Generator) -> Iterator[Case]:
    schedule = NoiseSchedule()
    for b, steps, at in ((1, 6, 2), (2, 4, 0), (1, 4, 4), (3, 5, 1), (1, 7, 6)):
        z, first, second = normal(rng, b, 4, 3, 2), normal(rng, b, 5, 6), normal(rng, b, 5, 6)
        keep = torch.zeros(1, 1, 3, 2, dtype=torch.long)  # no gradient: a mask
        keep[..., steps % 2 :, 1] = 1
        yield Case((MixingStep(), z, schedule.path(steps), first, second, at, keep))


SWITCH = Exercise(
    number="00.5",
    title="Change the prompt midway",
    minutes=12,
    difficulty=2,
    core=True,
    solution=switch_prompt,
    cases=switch_cases,
)

EXERCISES, QUESTIONS = with_texts(
    __name__,
    STEP,
    LOOP,
    LOSS,
    IDEAL,
    SWITCH,
)
