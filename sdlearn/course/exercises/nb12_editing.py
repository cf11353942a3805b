"""Exercises and quiz of notebook 12, editing."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal
from sdlearn.samplers import posterior_std
from sdlearn.schedule import NoiseSchedule, Point

# ------------------------------------------------------------- 12.1 where image-to-image begins


def begin(z_0: Tensor, eps: Tensor, path: list, strength: float) -> tuple[Tensor, int]:
    """Clean latents, noise (b, c, h, w) -> noised latents, steps still to run."""
    total = len(path) - 1
    left = int(total * strength)
    start = path[total - left]
    return start.alpha * z_0 + start.sigma * eps, left


def begin_cases(rng: Generator) -> Iterator[Case]:
    schedule = NoiseSchedule()
    for shape, steps, strength, final in (
        ((3, 4, 5, 3), 10, 0.77, "min"),
        ((1, 3, 4, 2), 20, 0.72, "zero"),
        ((2, 2, 2, 2), 7, 1.0, "min"),
        ((4, 2, 3, 5), 30, 0.0, "min"),
        ((2, 1, 3, 2), 12, 0.3, "zero"),
    ):
        path = schedule.path(steps, final_sigma=final)  # type: ignore[arg-type]
        yield Case((normal(rng, *shape), normal(rng, *shape), path, strength))


BEGIN = Exercise(
    number="12.1",
    title="Where image-to-image begins",
    minutes=8,
    difficulty=1,
    core=True,
    solution=begin,
    cases=begin_cases,
    trained=False,
)

# ----------------------------------------------------------------------- 12.2 one inversion step


def invert_step(
    denoise: nn.Module, z: Tensor, there: "Point", here: "Point", iterations: int
) -> Tensor:
    """The latent at `here`, the noisier point, that DDIM takes to z at `there`."""
    z_here = z
    for _ in range(iterations):
        z_0 = denoise(z_here, here)
        eps = (z_here - here.alpha * z_0) / here.sigma
        clean = (z - there.sigma * eps) / there.alpha
        z_here = here.alpha * clean + here.sigma * eps
    return z_here


class Shrink(nn.Module):
    """A denoiser without weights, close to the ideal one for latents with variance 1."""

    def forward(self, z: Tensor, point: Point) -> Tensor:
        """z (b, c, h, w) -> an estimate of the clean latent."""
        return torch.tanh(point.alpha * z) + 0.1 * point.sigma * z.roll(1, -1)


def invert_cases(rng: Generator) -> Iterator[Case]:
    schedule = NoiseSchedule()
    for shape, steps, k, iterations, final in (
        ((2, 3, 4, 5), 20, 7, 1, "min"),
        ((1, 4, 3, 2), 10, 4, 3, "min"),
        ((3, 2, 2, 2), 30, 0, 2, "min"),
        ((2, 1, 5, 3), 8, 7, 5, "zero"),
        ((2, 2, 3, 4), 12, 5, 4, "zero"),
    ):
        path = schedule.path(steps, final_sigma=final)  # type: ignore[arg-type]
        here, there = path[k : k + 2]
        yield Case((Shrink(), normal(rng, *shape), there, here, iterations))


INVERT = Exercise(
    number="12.2",
    title="One step of inversion",
    minutes=12,
    difficulty=2,
    core=True,
    solution=invert_step,
    cases=invert_cases,
)

# ---------------------------------------------------------- 12.3 noise that returns exactly


def stored_noises(
    mean: nn.Module, std: "Callable", z_0: Tensor, eps: Tensor, path: list
) -> tuple[Tensor, Tensor]:
    """Clean latents (b, c, h, w), noise (n, b, c, h, w) -> n + 1 latents, n noises."""
    points = zip(path[:-1], eps, strict=True)
    latents = [*(p.alpha * z_0 + p.sigma * e for p, e in points), z_0]
    noises = torch.zeros_like(eps)
    for k, (here, there) in enumerate(pairwise(path)):
        scale = std(here, there)
        if scale > 0:
            noises[k] = (latents[k + 1] - mean(latents[k], here, there)) / scale
    return torch.stack(latents), noises


class Mean(nn.Module):
    """A stand-in for the mean of a DDPM step: it shrinks, shifts and drops some noise."""

    def forward(self, z: Tensor, here: Point, there: Point) -> Tensor:
        """z (b, c, h, w) at `here` -> the mean of the latent at `there`, (b, c, h, w)."""
        kept = there.alpha * torch.tanh(z + here.sigma) + 0.2 * there.sigma * z.roll(1, -1)
        return kept + here.t / 4000


def wider_std(here: Point, there: Point) -> Tensor:
    return 1.5 * posterior_std(here, there)


def store_cases(rng: Generator) -> Iterator[Case]:
    schedule = NoiseSchedule()
    for shape, steps, std, final in (
        ((2, 3, 4, 5), 6, posterior_std, "min"),
        ((1, 2, 5, 3), 4, posterior_std, "zero"),
        ((3, 1, 2, 2), 3, wider_std, "min"),
        ((2, 2, 3, 3), 2, posterior_std, "min"),
    ):
        path = schedule.path(steps, final_sigma=final)  # type: ignore[arg-type]
        yield Case((Mean(), std, normal(rng, *shape), normal(rng, steps, *shape), path))


STORE = Exercise(
    number="12.3",
    title="Noise that returns exactly",
    minutes=18,
    difficulty=3,
    core=True,
    solution=stored_noises,
    cases=store_cases,
    trained=False,
)

# --------------------------------------------------------------------------- 12.4 turn up a word


def reweight(weights: Tensor, tokens: list[int], factor: float) -> Tensor:
    """(b, heads, n, m) -> the same: tokens of the prompts' half times factor."""
    scale = weights.new_ones(weights.shape[0], 1, 1, weights.shape[-1])
    scale[len(weights) // 2 :, :, :, tokens] = factor
    return weights * scale


def reweight_cases(rng: Generator) -> Iterator[Case]:
    for b, heads, n, m, tokens, factor in (
        (2, 3, 4, 7, [2], 3.0),
        (4, 2, 5, 5, [1, 3], 0.0),
        (6, 1, 3, 8, [4, 5, 6], -2.0),
        (2, 2, 6, 4, [0, 3], 1.5),
    ):
        yield Case((normal(rng, b, heads, n, m).softmax(dim=-1), tokens, factor))


REWEIGHT = Exercise(
    number="12.4",
    title="Turn up a word",
    minutes=12,
    difficulty=1,
    core=True,
    solution=reweight,
    cases=reweight_cases,
)

# ----------------------------------------------------------------------------- 12.5 map and mask


def map_iou(attention_map: Tensor, mask: Tensor) -> float:
    """A map (h, w) and a true mask (f * h, f * w) in 0 ... 1 -> their IoU, 0 to 1."""
    f = mask.shape[0] // attention_map.shape[0]
    inside = F.avg_pool2d(mask[None, None], f)[0, 0] >= 0.5  # (h, w)
    best = attention_map.flatten().topk(int(inside.sum())).indices
    chosen = torch.zeros_like(inside).flatten().index_fill(0, best, True)
    chosen = chosen.view_as(inside)
    return (chosen & inside).sum().item() / (chosen | inside).sum().item()


def at_full_size(attention_map: Tensor, mask: Tensor) -> float:
    f = mask.shape[0] // attention_map.shape[0]
    # A slope far smaller than any difference gives equal neighbours a definite order.
    wide = attention_map.repeat_interleave(f, 0).repeat_interleave(f, 1)
    wide = wide - 1e-12 * torch.arange(wide.numel(), dtype=wide.dtype).view_as(wide)
    return map_iou(wide, (mask >= 0.5).to(mask))


def map_cases(rng: Generator) -> Iterator[Case]:
    for h, w, f, size in ((8, 6, 4, 0.5), (5, 5, 8, 0.4), (4, 7, 2, 0.6), (8, 8, 8, 0.35)):
        mask = torch.zeros(f * h, f * w, dtype=torch.float64)
        top, left = (int(x) for x in torch.randint(1, f + 2, (2,), generator=rng))
        rows, columns = int(size * f * h) + 1, int(size * f * w) + 1
        mask[top : top + rows, left : left + columns] = 1
        mask[top + rows, left : left + columns] = 0.4  # a soft edge
        mask = mask * (1 - 0.02 * torch.rand(mask.shape, generator=rng, dtype=torch.float64))
        inside = F.avg_pool2d(mask[None, None], f)[0, 0]
        noise = torch.rand(h, w, generator=rng, dtype=torch.float64)
        yield Case(((0.05 * inside + 0.06 * noise + 0.01) * (1 + rows), mask))
    # An object that covers the left half of some positions, and scattered single pixels.
    mask = 0.02 * torch.rand(12, 16, generator=rng, dtype=torch.float64)
    mask[:8, :10] = 1 - mask[:8, :10]
    mask[1::4, 3::4] = 1 - mask[1::4, 3::4]
    yield Case((0.01 * torch.rand(3, 4, generator=rng, dtype=torch.float64), mask))
    # An object that covers exactly half of the positions along two of its edges.
    mask = torch.zeros(20, 24, dtype=torch.float64)
    mask[4:14, 4:18] = 1
    yield Case((torch.rand(5, 6, generator=rng, dtype=torch.float64), mask))


MAP = Exercise(
    number="12.5",
    title="Is the map on the object?",
    minutes=15,
    difficulty=2,
    solution=map_iou,
    cases=map_cases,
    trained=False,
    tolerance=1e-6,  # a ratio of two counts, perhaps in float32
)

EXERCISES, QUESTIONS = with_texts(
    __name__,
    BEGIN,
    INVERT,
    STORE,
    REWEIGHT,
    MAP,
)

# --------------------------------------------------------------------------------------- the quiz
