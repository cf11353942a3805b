"""Exercises and quiz of notebook 07, the noise schedule."""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal
from sdlearn.schedule import NoiseSchedule

PUBLISHED = NoiseSchedule()
LINEAR = NoiseSchedule(beta_start=1e-4, beta_end=0.02, kind="linear")
COSINE = NoiseSchedule(kind="cosine")
ZERO = NoiseSchedule(zero_terminal_snr=True)


def table(schedule: NoiseSchedule) -> Tensor:
    """A copy of the schedule's table of alphabar."""
    return schedule.alphas_cumprod.clone()


def drawn_table(rng: Generator, n: int) -> Tensor:
    """A table of alphabar for n random betas."""
    betas = 0.02 + 0.15 * torch.rand(n, generator=rng, dtype=torch.float64)
    return torch.cumprod(1 - betas, dim=0)


# ----------------------------------------------------------------------------- 07.1 the table of ᾱ


def alphabar_table(num_steps: int, beta_start: float, beta_end: float) -> Tensor:
    """Scaled-linear betas -> the table of alphabar (num_steps,), in float64."""
    roots = torch.linspace(beta_start**0.5, beta_end**0.5, num_steps, dtype=torch.float64)
    return torch.cumprod(1 - roots**2, dim=0)


def table_cases(rng: Generator) -> Iterator[Case]:
    yield Case((1000, 0.00085, 0.012))
    for num_steps in (12, 200, 1):
        low, width = (torch.rand(2, generator=rng, dtype=torch.float64) / 5).tolist()
        yield Case((num_steps, 0.01 + low, 0.02 + low + width))


TABLE = Exercise(
    number="07.1",
    title="The table of ᾱ",
    minutes=8,
    difficulty=1,
    solution=alphabar_table,
    cases=table_cases,
    trained=False,
    core=True,
)

# ------------------------------------------------------------------- 07.2 a timestep for each image


def add_noise(z_0: Tensor, eps: Tensor, t: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """z_0, eps (b, c, h, w), t (b,), alphas_cumprod (n,) -> z_t (b, c, h, w)."""
    alphabar = alphas_cumprod[t][:, None, None, None]  # (b,) -> (b, 1, 1, 1)
    return (alphabar.sqrt() * z_0 + (1 - alphabar).sqrt() * eps).to(z_0.dtype)


def noise_cases(rng: Generator) -> Iterator[Case]:
    def drawn(b: int, n: int) -> Tensor:
        return torch.randint(n, (b,), generator=rng)

    three = torch.tensor([7, 0, 421])
    yield Case((normal(rng, 3, 4, 5, 6), normal(rng, 3, 4, 5, 6), three, table(PUBLISHED)))
    square = normal(rng, 4, 4, 4, 4), normal(rng, 4, 4, 4, 4)
    yield Case((*square, torch.tensor([3, 0, 9, 5]), drawn_table(rng, 10)))
    yield Case((normal(rng, 1, 4, 8, 8), normal(rng, 1, 4, 8, 8), drawn(1, 1000), table(LINEAR)))
    half = normal(rng, 2, 4, 3, 3).float(), normal(rng, 2, 4, 3, 3).float()
    yield Case((*half, torch.tensor([999, 120]), table(PUBLISHED)))


NOISE = Exercise(
    number="07.2",
    title="A timestep for each image",
    minutes=8,
    difficulty=1,
    solution=add_noise,
    cases=noise_cases,
    trained=False,
    tolerance=1e-6,  # one case is in float32
    core=True,
)

# ------------------------------------------------------------------------------- 07.3 enough signal


def latest_time(decibels: float, alphas_cumprod: Tensor) -> int:
    """The last timestep with a signal-to-noise ratio of at least this many decibels."""
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return int((10 * snr.log10() >= decibels).sum()) - 1  # the ratio only falls


def level_cases(rng: Generator) -> Iterator[Case]:
    for decibels, schedule in (
        (0.0, PUBLISHED), (10.0, PUBLISHED), (-15.0, PUBLISHED), (20.0, COSINE), (-6.0, LINEAR),
        (-20.0, ZERO), (-23.4, PUBLISHED), (3.0, LINEAR),
    ):  # fmt: skip
        yield Case((decibels, table(schedule)))
    yield Case((-2.0, drawn_table(rng, 40)))
    yield Case((0.0, torch.tensor([0.75, 0.5, 0.25], dtype=torch.float64)))  # exactly at t = 1


LATEST = Exercise(
    number="07.3",
    title="The last timestep with enough signal",
    minutes=10,
    difficulty=1,
    solution=latest_time,
    cases=level_cases,
    trained=False,
    core=True,
)

# ---------------------------------------------------------------- 07.4 a schedule for larger images


def shifted(alphas_cumprod: Tensor, k: int) -> Tensor:
    """alphas_cumprod (n,) -> the table (n,) with an SNR that is k² times smaller."""
    snr = alphas_cumprod / (1 - alphas_cumprod) / k**2
    return snr / (1 + snr)


def shift_cases(rng: Generator) -> Iterator[Case]:
    for schedule, k in ((PUBLISHED, 2), (COSINE, 8), (ZERO, 4), (LINEAR, 1)):
        yield Case((table(schedule), k))
    yield Case((drawn_table(rng, 12), 3))


SHIFTED = Exercise(
    number="07.4",
    title="A schedule for larger images",
    minutes=12,
    difficulty=2,
    solution=shifted,
    cases=shift_cases,
    trained=False,
    core=True,
)

# --------------------------------------------------------------------------- 07.5 back to the betas


def betas_from(alphas_cumprod: Tensor) -> Tensor:
    """alphas_cumprod (n,) -> the beta of every step (n,)."""
    before = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
    return 1 - alphas_cumprod / before


def beta_cases(rng: Generator) -> Iterator[Case]:
    for schedule in (PUBLISHED, COSINE, ZERO):
        yield Case((table(schedule),))
    for n in (5, 1):
        yield Case((drawn_table(rng, n),))


BETAS = Exercise(
    number="07.5",
    title="From ᾱ back to the betas",
    minutes=10,
    difficulty=2,
    solution=betas_from,
    cases=beta_cases,
    trained=False,
)

# ---------------------------------------------------------------------------------- 07.6 more noise


def renoise(z_s: Tensor, eps: Tensor, s: int, t: int, alphas_cumprod: Tensor) -> Tensor:
    """z_s, eps (b, c, h, w), timesteps s < t -> z_t (b, c, h, w)."""
    ratio = alphas_cumprod[t] / alphas_cumprod[s]
    return ratio.sqrt() * z_s + (1 - ratio).sqrt() * eps


def step_cases(rng: Generator) -> Iterator[Case]:
    for shape, s, t, schedule in (
        ((2, 4, 5, 6), 100, 500, PUBLISHED),
        ((1, 4, 8, 8), 0, 900, LINEAR),
        ((3, 4, 4, 4), 640, 650, COSINE),
        ((2, 4, 3, 3), 400, 999, ZERO),
    ):
        yield Case((normal(rng, *shape), normal(rng, *shape), s, t, table(schedule)))


FURTHER = Exercise(
    number="07.6",
    title="From one timestep to a later one",
    minutes=15,
    difficulty=2,
    solution=renoise,
    cases=step_cases,
    trained=False,
)

# ---------------------------------------------------------------------------- 07.7 a given last SNR


def ending(alphas_cumprod: Tensor, snr: float) -> Tensor:
    """alphas_cumprod (n,) -> the table (n,) whose last entry has this SNR."""
    alpha = alphas_cumprod.sqrt()
    last = (snr / (1 + snr)) ** 0.5
    scale = (alpha[0] - last) / (alpha[0] - alpha[-1])
    return ((alpha - alpha[-1]) * scale + last) ** 2


def ending_cases(rng: Generator) -> Iterator[Case]:
    for schedule, snr in ((PUBLISHED, 0.0), (PUBLISHED, 0.001), (LINEAR, 0.0047), (PUBLISHED, 0.3)):
        yield Case((table(schedule), snr))
    yield Case((drawn_table(rng, 12), 0.05))


ENDING = Exercise(
    number="07.7",
    title="A schedule that ends at a given SNR",
    minutes=20,
    difficulty=3,
    solution=ending,
    cases=ending_cases,
    trained=False,
)

EXERCISES, QUESTIONS = with_texts(
    __name__,
    TABLE,
    NOISE,
    LATEST,
    SHIFTED,
    BETAS,
    FURTHER,
    ENDING,
)
