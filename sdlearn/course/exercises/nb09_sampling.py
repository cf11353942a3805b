"""Exercises and quiz of notebook 09, sampling."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Generator, Tensor

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal
from sdlearn.samplers import Denoiser, predicted_noise, step_to
from sdlearn.schedule import Point

# ----------------------------------------------------------------------------- 09.1 DDIM's step


def ddim_step(z: Tensor, z_0: Tensor, here: "Point", there: "Point") -> Tensor:
    """One DDIM step from here to there; z and z_0 have the same shape."""
    eps = (z - here.alpha * z_0) / here.sigma
    return there.alpha * z_0 + there.sigma * eps


def point_between(rng: Generator, low: float, high: float) -> Point:
    """A point with alpha = cos(angle), sigma = sin(angle) and an angle between low and high."""
    angle = low + (high - low) * torch.rand((), generator=rng, dtype=torch.float64)
    return Point(round(600 * float(angle), 1), angle.cos(), angle.sin())


def ddim_cases(rng: Generator) -> Iterator[Case]:
    for shape in ((2, 4, 3, 5), (1, 2, 6, 4), (3, 3, 3, 3), (5, 2)):
        here, there = point_between(rng, 0.9, 1.4), point_between(rng, 0.2, 0.8)
        yield Case((normal(rng, *shape), normal(rng, *shape), here, there))
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    z, z_0 = normal(rng, 2, 3), normal(rng, 2, 3)
    yield Case((z, z_0, Point(999.0, zero, one), point_between(rng, 1.0, 1.3)))  # from pure noise
    yield Case((z, z_0, point_between(rng, 0.1, 0.3), Point(-1.0, one, zero)))  # to a clean end


DDIM = Exercise(
    number="09.1",
    title="One step of DDIM",
    minutes=8,
    difficulty=1,
    solution=ddim_step,
    cases=ddim_cases,
    core=True,
    trained=False,
)

# ----------------------------------------------------------------------------- 09.2 DDPM's step


def ho_step(
    z: Tensor,
    eps: Tensor,
    here: "Point",
    there: "Point",
    fresh: Tensor,
) -> Tensor:
    """One DDPM step from here to there; z, eps and fresh have the same shape."""
    a = (here.alpha / there.alpha) ** 2
    mean = (z - (1 - a) / here.sigma * eps) / a.sqrt()
    std = there.sigma / here.sigma * (1 - a).sqrt()
    return mean + std * fresh


def step_cases(rng: Generator) -> Iterator[Case]:
    for shape in ((2, 4, 3, 5), (1, 2, 6, 4), (3, 3, 3, 3)):
        here, there = point_between(rng, 0.9, 1.4), point_between(rng, 0.2, 0.8)
        yield Case((normal(rng, *shape), normal(rng, *shape), here, there, normal(rng, *shape)))
    near, far = point_between(rng, 1.3, 1.35), point_between(rng, 1.22, 1.28)  # a short step
    yield Case((normal(rng, 2, 2), normal(rng, 2, 2), near, far, normal(rng, 2, 2)))
    clean = Point(-1.0, torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    low = point_between(rng, 0.1, 0.3)
    yield Case((normal(rng, 3, 2), normal(rng, 3, 2), low, clean, normal(rng, 3, 2)))


HO = Exercise(
    number="09.2",
    title="The step as it was published",
    minutes=15,
    difficulty=2,
    solution=ho_step,
    cases=step_cases,
    core=True,
    trained=False,
)

# ------------------------------------------------------------------------------- 09.3 the budget


def affordable(sampler: str, evaluations: int, scale: float) -> int:
    """The largest number of steps with at most this many evaluations of the U-Net."""
    calls = evaluations if scale == 1 else evaluations // 2
    if sampler == "heun":  # 2 n - 1 calls for n steps
        return (calls + 1) // 2
    if sampler == "plms" and calls > 1:  # n + 1 calls, but one for a single step
        return calls - 1
    return calls  # one call for each step


def budget_cases(_: Generator) -> Iterator[Case]:
    for sampler in ("ddim", "heun", "plms", "dpm_pp_2m"):
        for evaluations in (0, 1, 2, 3, 5, 6, 100, 101):
            for scale in (1.0, 7.5, 0.0, 0.5):
                yield Case((sampler, evaluations, scale))


BUDGET = Exercise(
    number="09.3",
    title="The budget",
    minutes=8,
    difficulty=1,
    solution=affordable,
    cases=budget_cases,
    trained=False,
)

# ------------------------------------------------------------------- 09.4 one step from a velocity


def velocity_step(
    z: Tensor, v: Tensor, here: "Point", there: "Point", eta: float, fresh: Tensor
) -> Tensor:
    """One DDIM step from here to there; z, v and fresh have the same shape."""
    z_0 = here.alpha * z - here.sigma * v
    eps = here.sigma * z + here.alpha * v
    std = eta * there.sigma / here.sigma * (1 - (here.alpha / there.alpha) ** 2).sqrt()
    return there.alpha * z_0 + (there.sigma**2 - std**2).sqrt() * eps + std * fresh


def velocity_cases(rng: Generator) -> Iterator[Case]:
    for shape, eta in (((2, 4, 3, 5), 0.6), ((1, 2, 4, 6), 1.0), ((3, 3, 3, 3), 0.0)):
        here, there = point_between(rng, 0.9, 1.4), point_between(rng, 0.2, 0.8)
        z, v, fresh = (normal(rng, *shape) for _ in range(3))
        yield Case((z, v, here, there, eta, fresh))
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    z, v, fresh = (normal(rng, 2, 3, 2, 2) for _ in range(3))
    yield Case((z, v, Point(999.0, zero, one), point_between(rng, 1.0, 1.4), 0.3, fresh))


VELOCITY = Exercise(
    number="09.4",
    title="A step from a velocity",
    minutes=15,
    difficulty=2,
    solution=velocity_step,
    cases=velocity_cases,
    trained=False,
)

# --------------------------------------------------------------------------- 09.5 a perfect memory


def remembered(z: Tensor, images: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Posterior mean of z_0, one of n images: z (b, c, h, w), images (n, c, h, w)."""
    away = z[:, None] - alpha * images  # (b, n, c, h, w)
    squared = away.pow(2).flatten(2).sum(dim=-1)  # (b, n)
    weights = (-squared / (2 * sigma**2)).softmax(dim=1)
    # Every trajectory with it ends in one of the n images: memorisation.
    return torch.einsum("bn,nchw->bchw", weights, images)


def memory_cases(rng: Generator) -> Iterator[Case]:
    def case(b: int, n: int, shape: tuple[int, ...], angle: float, std: float = 0.5) -> Case:
        """z comes from the first images; if b > n, the last ones are not among the known."""
        images = std * normal(rng, max(b, n), *shape)
        turned = angle * (0.95 + 0.1 * torch.rand((), generator=rng, dtype=torch.float64))
        alpha, sigma = turned.cos(), turned.sin()
        z = alpha * images[:b] + sigma * normal(rng, b, *shape)
        return Case((z, images[:n], alpha, sigma))

    yield case(5, 4, (3, 4, 5), 0.02, 1.0)  # hardly any noise: the exponents are huge
    yield case(2, 5, (3, 2, 4), 1.2)
    yield case(1, 4, (2, 3, 2), 1.0)
    yield case(3, 3, (3, 3, 3), 1.1, 0.4)
    yield case(3, 6, (2, 4, 3), 1.45)
    yield case(2, 4, (2, 2, 3), 0.15, 0.08)  # little noise, and images that are much alike


MEMORY = Exercise(
    number="09.5",
    title="A perfect memory",
    minutes=15,
    difficulty=2,
    solution=remembered,
    cases=memory_cases,
    core=True,
    trained=False,
)

# --------------------------------------------------------------------------------- 09.6 midpoint


def midpoint(denoise: "Denoiser", z: Tensor, path: "list[Point]") -> "Iterator[Tensor]":
    """Yield z at every point of the path, by the midpoint method."""
    yield z
    for here, there in pairwise(path):
        eps = predicted_noise(z, denoise(z, here), here)
        if there.sigma > 0:
            ratio = (here.sigma / here.alpha * there.sigma / there.alpha).sqrt()
            alpha = 1 / (1 + ratio**2).sqrt()
            middle = Point((here.t + there.t) / 2, alpha, ratio * alpha)
            ahead = step_to(z, eps, here, middle)
            eps = predicted_noise(ahead, denoise(ahead, middle), middle)
        z = step_to(z, eps, here, there)
        yield z


def two_values(m: float, s: float) -> Denoiser:
    """The exact denoiser if every entry of z_0 is near m or -m, with the standard deviation s.

    As with a network, z must have the right size: its output is wrong unless alpha² + sigma² = 1.
    """

    def denoise(z: Tensor, point: Point) -> Tensor:
        variance = (point.alpha * s) ** 2 + point.sigma**2
        sign = torch.tanh(point.alpha * m * z / variance)
        size = point.alpha**2 + point.sigma**2
        return size * (point.alpha * s**2 * z + point.sigma**2 * m * sign) / variance

    return denoise


def network_like(denoise: Denoiser, path: list[Point]) -> Denoiser:
    """A denoiser that also depends on t, as a network does, and limits its calls.

    It allows two calls a step, and one for a step that ends at sigma = 0.
    """
    allowed = sum(1 if there.sigma == 0 else 2 for there in path[1:])
    calls = 0

    def limited(z: Tensor, point: Point) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > allowed:
            raise RuntimeError(
                f"the denoiser was called more than {allowed} times. This path allows two calls a "
                "step, and one for a step that ends at sigma = 0"
            )
        return (1 + point.t / 5000) * denoise(z, point)

    return limited


def midpoint_cases(rng: Generator) -> Iterator[Case]:
    def angle(a: float) -> Point:
        x = torch.tensor(a, dtype=torch.float64)
        return Point(round(600 * a, 1), x.cos(), x.sin())

    clean = Point(-1.0, torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    for shape, angles, ends in (
        ((2, 1, 3, 4), (1.4, 1.0, 0.6), True),
        ((1, 4, 2, 3), (1.5, 1.3, 0.9, 0.5), False),
        ((3, 3, 3, 3), (1.45, 0.8), False),
        ((4, 2), (1.2,), True),
    ):
        m, s = (float(x) for x in 0.4 + 0.6 * torch.rand(2, generator=rng))
        path = [angle(a) for a in angles] + [clean] * ends
        yield Case((network_like(two_values(m, s), path), normal(rng, *shape), path))


MIDPOINT = Exercise(
    number="09.6",
    title="From the middle",
    minutes=25,
    difficulty=3,
    solution=midpoint,
    cases=midpoint_cases,
    trained=False,
)

EXERCISES, QUESTIONS = with_texts(
    __name__,
    DDIM,
    HO,
    BUDGET,
    VELOCITY,
    MEMORY,
    MIDPOINT,
)
