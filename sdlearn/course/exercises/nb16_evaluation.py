"""Exercises and quiz of notebook 16, evaluation."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal

# ----------------------------------------------------------------------- 16.1 Wilson's interval


def wilson(rate: Tensor, n: int, z: float = 1.96) -> tuple[Tensor, Tensor]:
    """Fractions of n cases, any shape -> low and high ends of their intervals."""
    scale = 1 + z**2 / n
    middle = (rate + z**2 / (2 * n)) / scale
    half = z / scale * (rate * (1 - rate) / n + z**2 / (4 * n**2)).sqrt()
    return middle - half, middle + half


def wilson_cases(rng: Generator) -> Iterator[Case]:
    for shape, n in (((4,), 64), ((1,), 1000), ((2, 3), 7), ((5,), 200)):
        hits = torch.randint(n + 1, shape, generator=rng).double()
        yield Case((hits / n, n))
    yield Case((torch.tensor([0.0, 1.0], dtype=torch.float64), 20))
    yield Case((torch.tensor([0.25, 0.9], dtype=torch.float64), 40, 1.0))


WILSON = Exercise(
    number="16.1",
    title="How certain is a rate?",
    minutes=8,
    difficulty=1,
    core=True,
    solution=wilson,
    cases=wilson_cases,
    trained=False,
)

# ----------------------------------------------------------------------- 16.2 the paired bootstrap


def paired_interval(a: Tensor, b: Tensor, rows: Tensor) -> Tensor:
    """Scores (n,), (n,), rows (draws, n) -> difference, low end, high end (3,)."""
    gap = a - b
    means = gap[rows].mean(dim=1)
    ends = torch.tensor([0.025, 0.975], dtype=means.dtype)
    return torch.cat([gap.mean()[None], means.quantile(ends)])


def paired_cases(rng: Generator) -> Iterator[Case]:
    for n, draws, truth in ((12, 30, False), (7, 40, False), (30, 25, True), (5, 5, False)):
        a, b = normal(rng, n), normal(rng, n) / 2 + 0.3
        if truth:
            a, b = (x.gt(0).double() for x in (a, b))
        yield Case((a, b, torch.randint(n, (draws, n), generator=rng)))
    shared = 5 * normal(rng, 20)  # the same prompts are hard for both
    a, b = shared + 0.2 * normal(rng, 20), shared + 0.2 * normal(rng, 20)
    yield Case((a, b, torch.randint(20, (50, 20), generator=rng)))


PAIRED = Exercise(
    number="16.2",
    title="The paired bootstrap",
    minutes=12,
    difficulty=2,
    core=True,
    solution=paired_interval,
    cases=paired_cases,
    trained=False,
)

# -------------------------------------------------------------------------- 16.3 Fréchet distance


def frechet(x: Tensor, y: Tensor) -> Tensor:
    """Features (n, d), (m, d) -> the squared Fréchet distance, ()."""
    shift = x.mean(dim=0) - y.mean(dim=0)
    cov_x, cov_y = x.T.cov(), y.T.cov()
    values, vectors = torch.linalg.eigh(cov_x)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    squares = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0)
    traces = cov_x.trace() + cov_y.trace()
    return shift @ shift + traces - 2 * squares.sqrt().sum()


def frechet_cases(rng: Generator) -> Iterator[Case]:
    for n, m, d in ((12, 9, 3), (40, 25, 5), (8, 8, 2), (15, 30, 4)):
        mix = normal(rng, d, d)
        yield Case((normal(rng, n, d) @ mix + 1, 1.5 * normal(rng, m, d) + normal(rng, d)))
    x = normal(rng, 20, 3)
    yield Case((x, x + 2))  # the means alone
    yield Case((x - x.mean(dim=0), 3 * (x - x.mean(dim=0))))  # the covariances alone


FRECHET = Exercise(
    number="16.3",
    title="The Fréchet distance",
    minutes=16,
    difficulty=3,
    core=True,
    solution=frechet,
    cases=frechet_cases,
    trained=False,
    tolerance=1e-7,
)

# --------------------------------------------------------------------- 16.4 precision and recall


def precision_recall(reals: Tensor, fakes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Features (n, d), (m, d) -> precision and recall, each () in [0, 1]."""

    def share_inside(x: Tensor, centres: Tensor) -> Tensor:
        radius = torch.cdist(centres, centres).kthvalue(k + 1, dim=1).values
        return (torch.cdist(x, centres) <= radius).any(dim=1).to(x).mean()

    return share_inside(fakes, reals), share_inside(reals, fakes)


def ball_cases(rng: Generator) -> Iterator[Case]:
    for n, m, d, k, shift, size in (
        (20, 15, 2, 3, 0.5, 1.0),
        (24, 20, 3, 1, 0.5, 0.6),
        (12, 24, 2, 5, 1.0, 0.5),
        (16, 16, 4, 3, 0.8, 1.3),
        (23, 21, 2, 2, 1.5, 1.0),
    ):
        yield Case((normal(rng, n, d), size * normal(rng, m, d) + shift, k))


BALLS = Exercise(
    number="16.4",
    title="Precision and recall",
    minutes=12,
    difficulty=2,
    core=True,
    solution=precision_recall,
    cases=ball_cases,
    trained=False,
)

# ------------------------------------------------------------------- 16.5 worst by the CLIP score


def worst_by_clip(images: Tensor, texts: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Embeddings (n, d), (n, d) -> scores (n,), and the indices (k,) of the k worst."""
    cosines = F.cosine_similarity(images, texts, dim=1)
    scores = 100 * cosines.clamp(min=0)
    return scores, scores.argsort()[:k]


def clip_cases(rng: Generator) -> Iterator[Case]:
    for n, d, k, noise in ((6, 4, 2, 0.8), (9, 3, 3, 1.0), (5, 5, 1, 0.6), (12, 8, 4, 0.9)):
        texts = 3 * normal(rng, n, d)
        images = 0.5 * texts + noise * normal(rng, n, d)
        images[0], images[-1] = -texts[0], texts[-1]  # one negative cosine, which is the worst
        yield Case((images, texts, k if n == 5 else 1))
        fits = texts + 0.3 * normal(rng, n, d)
        yield Case((fits, texts, k))
    yield Case((-texts[:1], texts[:1], 1))


WORST = Exercise(
    number="16.5",
    title="The images that fit worst",
    minutes=8,
    difficulty=1,
    core=True,
    solution=worst_by_clip,
    cases=clip_cases,
    trained=False,
)

EXERCISES, QUESTIONS = with_texts(
    __name__,
    WILSON,
    PAIRED,
    FRECHET,
    BALLS,
    WORST,
)
