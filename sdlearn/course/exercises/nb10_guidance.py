"""Exercises and quiz of notebook 10, classifier-free guidance."""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal

# ---------------------------------------------------------------------------- 10.1 one batched call


def guided(
    model: nn.Module, z: Tensor, t: Tensor, cond: Tensor, uncond: Tensor, scale: float
) -> Tensor:
    """z (b, c, h, w), t (b,), cond and uncond (b, n, d) -> (b, c, h, w), one call."""
    outputs = model(torch.cat([z, z]), torch.cat([t, t]), torch.cat([uncond, cond]))
    eps_uncond, eps_cond = outputs.chunk(2)
    return eps_uncond + scale * (eps_cond - eps_uncond)


class SmallNetwork(nn.Module):
    """A function of (z, t, context) that treats every row alike.

    Args:
        rows: The only number of rows that it accepts; None for any number.
    """

    def __init__(self, rows: int | None = None) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        if self.rows is not None and not len(z) == len(t) == len(context) == self.rows:
            raise ValueError("this network accepts only the number of rows that is asked for")
        seen, later = (x.view(-1, 1, 1, 1) for x in (context.sin().mean(dim=(1, 2)), t / 100))
        return (z + 3 * seen).tanh() * (1 + later) + context.var(dim=(1, 2)).view(-1, 1, 1, 1)


def guided_cases(rng: Generator) -> Iterator[Case]:
    for rows, b, scale, shape, size in (
        (None, 2, 3.0, (4, 5, 3), (7, 6)),
        (6, 3, 7.5, (3, 3, 3), (3, 3)),
        (2, 1, 0.0, (4, 2, 3), (4, 5)),
        (4, 2, 1.0, (2, 2, 2), (2, 2)),
        (None, 4, -2.0, (4, 3, 6), (5, 4)),
    ):
        t = 999 * torch.rand(b, generator=rng, dtype=torch.float64)
        cond, uncond = normal(rng, b, *size), normal(rng, b, *size)
        yield Case((SmallNetwork(rows), normal(rng, b, *shape), t, cond, uncond, scale))


GUIDED = Exercise(
    number="10.1",
    title="Guidance in one call",
    minutes=8,
    difficulty=1,
    core=True,
    solution=guided,
    cases=guided_cases,
)

# --------------------------------------------------------------- 10.2 several prompts in one call


def steered(
    model: nn.Module,
    z: Tensor,
    t: Tensor,
    empty: Tensor,
    prompts: Tensor,
    scales: list[float],
) -> Tensor:
    """z (b, ...), t (b,), empty (b, n, d), prompts (k, b, n, d) -> like z, one call."""
    k = len(prompts) + 1
    outputs = model(torch.cat([z] * k), torch.cat([t] * k), torch.cat([empty, *prompts]))
    without, *given = outputs.chunk(k)
    steps = [scale * (one - without) for scale, one in zip(scales, given, strict=True)]
    return without + torch.stack(steps).sum(dim=0)


def steered_cases(rng: Generator) -> Iterator[Case]:
    for rows, b, scales, shape, size in (
        (None, 2, [3.0, -2.0], (4, 5, 3), (7, 6)),
        (None, 3, [5.0, 2.0, 0.5], (3, 3, 3), (3, 3)),
        (8, 2, [1.5, 4.0, -1.0], (4, 3, 6), (5, 4)),
        (2, 1, [7.5], (4, 2, 3), (4, 5)),
    ):
        t = 999 * torch.rand(b, generator=rng, dtype=torch.float64)
        empty, prompts = normal(rng, b, *size), normal(rng, len(scales), b, *size)
        yield Case((SmallNetwork(rows), normal(rng, b, *shape), t, empty, prompts, scales))


STEERED = Exercise(
    number="10.2",
    title="Several prompts, one call",
    minutes=15,
    difficulty=2,
    core=True,
    solution=steered,
    cases=steered_cases,
)

# ------------------------------------------------------- 10.3 guidance in an interval, rescaled


def rescaled(output: Tensor, cond: Tensor, phi: float = 0.7) -> Tensor:
    """output, cond (b, c, h, w) -> output; with phi = 1 it has the std of cond."""
    over = (1, 2, 3)
    ratio = cond.std(dim=over, keepdim=True) / output.std(dim=over, keepdim=True)
    return output * (phi * ratio + 1 - phi)


def guided_output(
    model: nn.Module,
    z: Tensor,
    t: Tensor,
    cond: Tensor,
    uncond: Tensor,
    scale: float,
    rescale: float = 0.0,
    interval: tuple[float, float] = (0, 999),
) -> Tensor:
    """As guided, only for t in the interval, and rescaled with phi = rescale."""
    if scale == 1 or not interval[0] <= t[0] <= interval[1]:
        return model(z, t, cond)
    outputs = model(torch.cat([z, z]), torch.cat([t, t]), torch.cat([uncond, cond]))
    eps_uncond, eps_cond = outputs.chunk(2)
    output = eps_uncond + scale * (eps_cond - eps_uncond)
    return rescaled(output, eps_cond, rescale) if rescale else output


def output_cases(rng: Generator) -> Iterator[Case]:
    for rows, b, time, settings, shape, size in (
        (2, 2, 700.0, (1.0, 0.7, (0, 999)), (4, 5, 3), (7, 6)),  # off: one call, with b rows
        (3, 3, 250.0, (5.0, 0.0, (300, 900)), (3, 3, 3), (3, 3)),  # below the interval
        (1, 1, 950.0, (5.0, 0.7, (300, 900)), (4, 3, 6), (5, 4)),  # above it
        (4, 2, 600.0, (3.0, 0.0, (600, 900)), (4, 2, 3), (4, 5)),  # on its lower end
        (6, 3, 600.0, (7.5, 0.7, (100, 600)), (3, 4, 4), (6, 3)),  # on its upper end
        (4, 2, 500.0, (4.0, 1.0, (0, 999)), (2, 3, 5), (4, 4)),
        (2, 1, 20.0, (0.0, 0.0, (0, 999)), (3, 2, 2), (2, 2)),
    ):
        t = torch.full((b,), time, dtype=torch.float64)
        cond, uncond = normal(rng, b, *size), 2 * normal(rng, b, *size)
        yield Case((SmallNetwork(rows), normal(rng, b, *shape), t, cond, uncond, *settings))


OUTPUT = Exercise(
    number="10.3",
    title="Guidance in an interval, rescaled",
    minutes=12,
    difficulty=2,
    core=True,
    solution=guided_output,
    cases=output_cases,
)

# --------------------------------------------------------------------- 10.4 rescale the estimate


def rescaled_noise(
    z: Tensor, output: Tensor, cond: Tensor, alpha: float, sigma: float, phi: float
) -> Tensor:
    """Guided, conditional noise, like z (b, c, h, w) -> noise of the rescaled z_0."""
    z_0, goal = ((z - sigma * eps) / alpha for eps in (output, cond))
    over = (1, 2, 3)
    ratio = goal.std(dim=over, keepdim=True) / z_0.std(dim=over, keepdim=True)
    z_0 = z_0 * (phi * ratio + 1 - phi)
    return (z - alpha * z_0) / sigma


def noise_cases(rng: Generator) -> Iterator[Case]:
    for size, alpha, phi in (
        ((2, 4, 6, 5), 0.8, 0.7),
        ((1, 3, 4, 4), 0.28, 1.0),
        ((3, 3, 3, 3), 0.6, 0.4),
        ((2, 2, 5, 3), 0.96, 0.7),
    ):
        sigma = (1 - alpha**2) ** 0.5
        clean = normal(rng, *size) + 0.5
        cond, more = normal(rng, *size), normal(rng, *size)
        growing = 1 + torch.arange(size[0], dtype=torch.float64).view(-1, 1, 1, 1)
        yield Case((alpha * clean + sigma * cond, cond + growing * more, cond, alpha, sigma, phi))


NOISE = Exercise(
    number="10.4",
    title="Rescale the estimate",
    minutes=20,
    difficulty=3,
    core=True,
    solution=rescaled_noise,
    cases=noise_cases,
)

# ----------------------------------------------------------------------- 10.5 a sharpened Gaussian


def sharpened_bell(
    m: Tensor, v: Tensor, m_c: Tensor, v_c: Tensor, s: float
) -> tuple[Tensor, Tensor]:
    """Mean and variance of p(z) p(c|z)^s; p(z) has m and v, p(z|c) has m_c and v_c."""
    precision = s / v_c + (1 - s) / v
    mean = (s * m_c / v_c + (1 - s) * m / v) / precision
    return mean, 1 / precision


def bell_cases(rng: Generator) -> Iterator[Case]:
    for size, s in ((5, 3.0), (1, 1.0), (4, 0.0), (6, 7.5), (3, 0.5)):
        v = 1 + torch.rand(size, generator=rng, dtype=torch.float64)
        v_c = 0.2 + 0.7 * torch.rand(size, generator=rng, dtype=torch.float64)
        yield Case((normal(rng, size), v, normal(rng, size), v_c, s))


BELL = Exercise(
    number="10.5",
    title="A sharpened Gaussian",
    minutes=12,
    difficulty=2,
    solution=sharpened_bell,
    cases=bell_cases,
)

# ------------------------------------------------------------------ 10.6 every row its own noise


def guided_rows(
    without: Tensor,
    given: Tensor,
    t: Tensor,
    alphabar: Tensor,
    interval: tuple[float, float],
    scale: float,
) -> Tensor:
    """Outputs (b, c, h, w), t (b,) int64, alphabar (T,) -> (b, c, h, w)."""
    ratio = ((1 - alphabar[t]) / alphabar[t]).sqrt()  # (b,)
    inside = (interval[0] <= ratio) & (ratio <= interval[1])
    scales = given.new_ones(len(t)).masked_fill(inside, scale)  # in the dtype of the outputs
    return without + scales.view(-1, 1, 1, 1) * (given - without)


def rows_cases(rng: Generator) -> Iterator[Case]:
    last = 0.03 + 0.04 * torch.rand(1, generator=rng, dtype=torch.float64)
    betas = torch.linspace(0.02, 1, 200, dtype=torch.float64) * last
    alphabar = torch.cumprod(1 - betas, dim=0)
    # Two noise levels lie exactly on an end of an interval, where every way of computing them gives
    # the same in any precision: 1, with alphabar = 1/2, on an upper end, and 0, without noise, on a
    # lower one. No other row comes near an end, and every scale is exact in float32.
    end = int((alphabar - 0.5).abs().argmin())
    alphabar[end], alphabar[0] = 0.5, 1.0
    level = (1 / alphabar - 1).sqrt()
    times = [
        ([*range(4, 200, 15), end], (2, 3, 4), (0.5, 1.0), 3.0),
        ([199, 60, 5, 80], (4, 4, 4), (0.3, 3.0), 5.0),  # as many rows as channels, rows, columns
        ([90], (3, 5, 2), (0.2, 5.0), 7.5),
        ([50, 9, 150, 0, 75, 30], (2, 3, 3), (0.0, 0.6), 0.0),
        ([20, 199, end, 180, 7], (3, 2, 4), (0.7, 1.6), -1.5),
    ]
    for t, shape, interval, scale in times:
        t = [k for k in t if k in (0, end) or all((level[k] - e).abs() > 0.005 for e in interval)]
        size = (len(t), *shape)
        rows = torch.tensor(t)[torch.randperm(len(t), generator=rng)]
        yield Case((normal(rng, *size), normal(rng, *size), rows, alphabar, interval, scale))


ROWS = Exercise(
    number="10.6",
    title="Every row its own noise level",
    minutes=15,
    difficulty=2,
    solution=guided_rows,
    cases=rows_cases,
)

# ------------------------------------------------------------------------------ 10.7 guided twice


def paper_w(s: float, r: float) -> float:
    """The paper's w of guiding twice: first with scale s, then with scale r."""
    scale = r * s  # uncond + r * (uncond + s * (cond - uncond) - uncond)
    return scale - 1


def twice_cases(_: Generator) -> Iterator[Case]:
    for pair in ((3.0, 2.0), (1.0, 5.0), (5.0, 1.0), (0.0, 4.0), (2.5, 0.5), (7.5, 1.5)):
        yield Case(pair)


TWICE = Exercise(
    number="10.7",
    title="Guided twice",
    minutes=6,
    difficulty=1,
    solution=paper_w,
    cases=twice_cases,
    trained=False,
)

# ------------------------------------------------------------------------------------- the quiz


EXERCISES, QUESTIONS = with_texts(
    __name__,
    GUIDED,
    STEERED,
    OUTPUT,
    NOISE,
    BELL,
    ROWS,
    TWICE,
)
