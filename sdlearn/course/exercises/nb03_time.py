"""Exercises and quiz of notebook 03, the timestep embedding."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal

# float32 loses digits where angles are large: times have angles up to 999, sizes up to 3000.
TIME_DIGITS, SIZE_DIGITS = 8e-5, 3e-4

# -------------------------------------------------------------------- 03.1 the sinusoidal embedding


def sinusoidal_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Timesteps t (b,), any dtype -> float32 (b, dim): all cosines, then all sines."""
    half = dim // 2
    i = torch.arange(half, dtype=torch.float32)
    frequencies = torch.exp(-math.log(max_period) * i / half)  # (dim/2,)
    angles = t.float()[:, None] * frequencies  # (b, 1) * (dim/2,) -> (b, dim/2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def kept(t: Tensor) -> torch.dtype:
    """The dtype of t, where fractions fit in."""
    return t.dtype if t.is_floating_point() else torch.float32


def times_cases(rng: Generator) -> Iterator[Case]:
    def drawn(*shape: int) -> Tensor:
        return 999 * torch.rand(shape, generator=rng, dtype=torch.float64)

    yield Case((drawn(3), 8, 10000.0))
    yield Case((drawn(5), 24, 10000.0))
    yield Case((torch.randint(1000, (4,), generator=rng), 8, 500.0))  # as many as frequencies
    yield Case((torch.randint(900, 1000, (2,), generator=rng), 320, 10000.0))
    yield Case((drawn(1), 6, 100.0))
    # 800 ** -0.5 is rounded to the same half-precision number by a power and by an exponential.
    yield Case(((drawn(3) / 4 + 740).half(), 4, 800.0))
    yield Case(((drawn(2) / 4 + 740).bfloat16(), 4, 800.0))


SINUSOIDS = Exercise(
    number="03.1",
    title="The sinusoidal embedding",
    minutes=10,
    difficulty=2,
    core=True,
    solution=sinusoidal_embedding,
    cases=times_cases,
    trained=False,
    tolerance=TIME_DIGITS,
)

# ------------------------------------------------------------------------------------- 03.2 the MLP


class TimeEmbedding(nn.Module):
    """The MLP after the sinusoids: linear, SiLU, linear."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim_in, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, dim_in) -> (b, dim)."""
        return self.linear_2(F.silu(self.linear_1(x)))


def mlp_cases(rng: Generator) -> Iterator[Case]:
    for b, dim_in, dim in ((3, 6, 20), (4, 4, 4), (1, 8, 5)):
        yield Case((normal(rng, b, dim_in),), build=(dim_in, dim))
    yield Case((30 * normal(rng, 2, 6),), build=(6, 12))  # far from 0, where SiLU is nearly linear


MULTILAYER = Exercise(
    number="03.2",
    title="The MLP",
    minutes=4,
    difficulty=1,
    core=True,
    solution=TimeEmbedding,
    cases=mlp_cases,
)

# ---------------------------------------------------------------------- 03.3 a channel's wavelength


def wavelength(channel: int, dim: int) -> float:
    """Return the wavelength, in steps of t, of a channel from 0 to dim - 1."""
    half = dim // 2
    i = channel % half  # channel i + half is the sine of frequency i
    return 2 * math.pi * 10000 ** (i / half)


def wavelength_cases(_: Generator) -> Iterator[Case]:
    for channel, dim in ((0, 320), (159, 320), (160, 320), (319, 320), (3, 8), (5, 8), (10, 24)):
        yield Case((channel, dim))


WAVELENGTH = Exercise(
    number="03.3",
    title="A channel's wavelength",
    minutes=6,
    difficulty=1,
    solution=wavelength,
    cases=wavelength_cases,
    trained=False,
    tolerance=1e-5,
)

# ------------------------------------------------------------------- 03.4 weights for another order


def adapted(weight: Tensor) -> Tensor:
    """Reorder a weight (n, dim) for sin, cos, sin, cos, ... to cosines, then sines."""
    return torch.cat([weight[:, 1::2], weight[:, 0::2]], dim=1)


def weight_cases(rng: Generator) -> Iterator[Case]:
    for n, dim in ((5, 8), (6, 6), (1, 10), (8, 4), (16, 64)):
        yield Case((normal(rng, n, dim),))


WEIGHTS = Exercise(
    number="03.4",
    title="Weights for another order of channels",
    minutes=12,
    difficulty=2,
    core=True,
    solution=adapted,
    cases=weight_cases,
)

# -------------------------------------------------------------------------------- 03.5 SDXL's sizes


def size_vector(
    pooled: Tensor,
    originals: list[tuple[int, int]],
    corners: list[tuple[int, int]],
    targets: list[tuple[int, int]],
    dim: int,
) -> Tensor:
    """Return the pooled text (b, d) and the embedded sizes as (b, d + 6 * dim)."""
    rows = [
        (height, width, top, left, target_height, target_width)
        for (width, height), (left, top), (target_width, target_height) in zip(
            originals, corners, targets, strict=True
        )
    ]
    embedded = sinusoidal_embedding(torch.tensor(rows).flatten(), dim)  # (b * 6, dim)
    return torch.cat([pooled, embedded.reshape(len(rows), 6 * dim)], dim=-1)


def vector_cases(rng: Generator) -> Iterator[Case]:
    for b, d, dim in ((2, 5, 8), (6, 6, 12), (1, 3, 16), (2, 1280, 256)):
        drawn = [
            torch.randint(low, high, (b, 2), generator=rng).tolist()
            for low, high in ((200, 3000), (0, 300), (500, 1500))
        ]
        drawn[0][0] = [2999, 2501]  # odd: half precision has not enough digits for them
        pairs = [[tuple(pair) for pair in part] for part in drawn]
        yield Case((normal(rng, b, d), *pairs, dim))


VECTOR = Exercise(
    number="03.5",
    title="SDXL's sizes",
    minutes=12,
    difficulty=2,
    solution=size_vector,
    cases=vector_cases,
    tolerance=SIZE_DIGITS,
)

# -------------------------------------------------------------------------- 03.6 reading the clocks


def read_clocks(embedding: Tensor) -> Tensor:
    """Return the timesteps (b,), from 0 to 999, of rounded embeddings (b, dim)."""
    half = embedding.shape[1] // 2
    frequencies = 10000 ** (-torch.arange(half, dtype=embedding.dtype) / half)
    angles = torch.atan2(embedding[:, half:], embedding[:, :half])  # (b, dim/2), -π to π
    t = angles[:, -1] / frequencies[-1]  # the lowest has not made a whole turn yet
    for i in reversed(range(half - 1)):
        turns = torch.round((t * frequencies[i] - angles[:, i]) / (2 * math.pi))
        t = (angles[:, i] + 2 * math.pi * turns) / frequencies[i]
    return t


def speeds(dim: int) -> Tensor:
    half = dim // 2
    return 10000 ** (-torch.arange(half, dtype=torch.float64) / half)


def waves(angles: Tensor) -> Tensor:
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def clock_cases(rng: Generator) -> Iterator[Case]:
    for b, dim in ((6, 8), (5, 32), (1, 16), (8, 6), (150, 10)):
        t = torch.rand(b, generator=rng, dtype=torch.float64)
        t = 999 * t.sqrt() if b == 1 else 999 * t
        if b > 1:
            t[0] = t[0] / 1000  # just after the beginning, and just before the end
            t[-1] = 999 - t[-1] / 1000
        if b > 50:  # moments at which a hand points straight up or down, or nearly
            turn = math.tau / speeds(dim)[:3].repeat(20)  # of the three fastest clocks
            up = turn * (1 + torch.arange(60) // 3 % (990 / turn).floor())
            for first, moment in ((1, up), (61, up - turn / 2)):
                t[first : first + 60] = moment + t[first : first + 60] / 99900
        yield Case((waves(t[:, None] * speeds(dim)).mul(100).round() / 100,))


CLOCKS = Exercise(
    number="03.6",
    title="Reading the clocks",
    minutes=25,
    difficulty=3,
    core=True,
    solution=read_clocks,
    cases=clock_cases,
    trained=False,
    tolerance=4e-5,
)

EXERCISES, QUESTIONS = with_texts(
    __name__,
    SINUSOIDS,
    MULTILAYER,
    WAVELENGTH,
    WEIGHTS,
    VECTOR,
    CLOCKS,
)
