"""Exercises and quiz of notebook 13, inpainting."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal
from sdlearn.schedule import NoiseSchedule, Point

# ------------------------------------------------------------------ 13.1 one step of replacement


def replace_step(
    z: Tensor,
    z_0: Tensor,
    eps: Tensor,
    mask: Tensor,
    point: "Point",
) -> Tensor:
    """Latents (b, c, h, w) at a point -> the same, the image's own where mask is 0."""
    known = point.alpha * z_0 + point.sigma * eps
    return mask * z + (1 - mask) * known


def replace_cases(rng: Generator) -> Iterator[Case]:
    schedule = NoiseSchedule()
    for shape, masks, steps, k, grey in (
        ((3, 4, 5, 3), 3, 10, 4, False),
        ((1, 3, 4, 2), 1, 20, 19, False),
        ((2, 2, 2, 2), 1, 7, 0, True),
        ((4, 2, 3, 5), 4, 30, 12, True),
        ((2, 1, 3, 2), 2, 12, 12, False),
    ):
        point = schedule.path(steps, final_sigma="min")[k]
        mask = torch.rand(masks, 1, *shape[2:], generator=rng, dtype=torch.float64)
        mask = mask if grey else (mask > 0.5).to(mask)
        yield Case((*(normal(rng, *shape) for _ in range(3)), mask, point))


REPLACE = Exercise(
    number="13.1",
    title="One step of replacement",
    minutes=8,
    difficulty=1,
    core=True,
    solution=replace_step,
    cases=replace_cases,
)

# ------------------------------------------------------------------------- 13.2 back to more noise


def add_noise(z: Tensor, here: "Point", there: "Point", noise: Tensor) -> Tensor:
    """Latents (b, c, h, w) at `here` -> the same at `there`, a noisier point."""
    ratio = there.alpha / here.alpha
    missing = there.sigma**2 - (ratio * here.sigma) ** 2
    return ratio * z + missing.sqrt() * noise


def noise_cases(rng: Generator) -> Iterator[Case]:
    schedule = NoiseSchedule()
    for shape, steps, k, jump in (
        ((2, 4, 3, 5), 10, 6, 1),
        ((1, 3, 4, 2), 20, 15, 10),
        ((3, 2, 2, 2), 7, 4, 4),
        ((2, 1, 5, 3), 30, 29, 3),
    ):
        path = schedule.path(steps, final_sigma="min")
        z, noise = normal(rng, *shape), normal(rng, *shape)
        yield Case((z, path[k], path[k - jump], noise))
    yield Case((z, path[9], path[4], 0 * noise))  # the mean alone
    yield Case((0 * z, path[9], path[4], noise))  # the new noise alone


NOISE = Exercise(
    number="13.2",
    title="Back to more noise",
    minutes=12,
    difficulty=2,
    core=True,
    solution=add_noise,
    cases=noise_cases,
)

# ----------------------------------------------------------------------- 13.3 five more channels


def widen(weight: Tensor, extra: int) -> Tensor:
    """The first convolution's weights (o, c, k, k) -> (o, c + extra, k, k)."""
    zeros = weight.new_zeros(weight.shape[0], extra, *weight.shape[2:])
    return torch.cat([weight, zeros], dim=1)


def widen_cases(rng: Generator) -> Iterator[Case]:
    for shape, extra in (
        ((5, 4, 3, 3), 5), ((2, 3, 1, 1), 4), ((4, 4, 3, 3), 1), ((3, 2, 5, 5), 7),
    ):  # fmt: skip
        yield Case((normal(rng, *shape), extra))


WIDEN = Exercise(
    number="13.3",
    title="Five more input channels",
    minutes=6,
    difficulty=1,
    core=True,
    solution=widen,
    cases=widen_cases,
)

# -------------------------------------------------------------------- 13.4 two masks for one hole


def to_cells(mask: Tensor, f: int) -> tuple[Tensor, Tensor]:
    """A mask in pixels (b, 1, f * h, f * w) -> for replacement, for nine channels."""
    replaced = F.max_pool2d(mask, f)
    sampled = F.interpolate(mask, scale_factor=1 / f, mode="nearest")
    return replaced, sampled


def cell_cases(rng: Generator) -> Iterator[Case]:
    for b, h, w, f in ((2, 4, 3, 4), (1, 3, 5, 8), (3, 5, 5, 2), (1, 8, 8, 8)):
        mask = torch.zeros(b, 1, f * h, f * w, dtype=torch.float64)
        for each in mask:
            top, left = (int(v) for v in torch.randint(1, f + 2, (2,), generator=rng))
            each[:, top : top + f * h // 2, left : left + f * w // 2] = 1
            each[:, -1, -2] = 1  # a single pixel, which no sampled pixel hits
        yield Case((mask, f))
    # Only one sampled pixel of some cells, and every pixel but that one of others.
    mask = torch.zeros(1, 1, 12, 16, dtype=torch.float64)
    mask[:, :, ::8, ::8] = 1
    mask[:, :, 4:8, 4:12] = 1
    mask[:, :, 4:8:4, 4:12:4] = 0
    yield Case((mask, 4))


CELLS = Exercise(
    number="13.4",
    title="Two masks for one hole",
    minutes=10,
    difficulty=2,
    solution=to_cells,
    cases=cell_cases,
    trained=False,
)

# ---------------------------------------------------------------------------- 13.5 a larger canvas


def larger_canvas(x: Tensor, left: int, right: int) -> tuple[Tensor, Tensor]:
    """Images (b, 3, h, w) in [-1, 1] -> wider ones, and their masks (b, 1, same)."""
    canvas = F.pad(x, (left, right))
    mask = F.pad(torch.zeros_like(x[:, :1]), (left, right), value=1.0)
    return canvas, mask


def canvas_cases(rng: Generator) -> Iterator[Case]:
    for shape, left, right in (
        ((2, 3, 4, 5), 3, 2), ((1, 3, 6, 6), 0, 4), ((3, 3, 5, 8), 1, 0), ((2, 3, 3, 3), 0, 0),
        ((1, 3, 8, 8), 8, 8),
    ):  # fmt: skip
        x = 2 * torch.rand(*shape, generator=rng, dtype=torch.float64) - 1
        x[:, :, 1] = 0  # a grey line: the mask doesn't follow from the colours
        yield Case((x, left, right))


CANVAS = Exercise(
    number="13.5",
    title="A larger canvas",
    minutes=10,
    difficulty=2,
    core=True,
    solution=larger_canvas,
    cases=canvas_cases,
)

# ---------------------------------------------------------------------------- 13.6 RePaint's visits


def repaint_visits(steps: int, jump: int, repeats: int) -> list:
    """The points that RePaint visits, as indices into a path of steps + 1 points."""
    left = {steps - 1 - k: repeats - 1 for k in range(0, steps - jump, jump)}
    visits = [0]
    while visits[-1] < steps:
        here = visits[-1]
        if left.get(here, 0) > 0:
            left[here] -= 1
            visits += range(here - 1, here - jump - 1, -1)
        else:
            visits.append(here + 1)
    return visits


def visit_cases(rng: Generator) -> Iterator[Case]:
    for steps, jump, repeats in (
        (6, 1, 2), (10, 3, 2), (7, 2, 4), (9, 4, 3), (8, 2, 1), (5, 5, 3), (12, 3, 3), (25, 10, 10),
    ):  # fmt: skip
        yield Case((steps, jump, repeats))


VISITS = Exercise(
    number="13.6",
    title="Where RePaint goes",
    minutes=18,
    difficulty=3,
    solution=repaint_visits,
    cases=visit_cases,
    trained=False,
)

EXERCISES, QUESTIONS = with_texts(
    __name__,
    REPLACE,
    NOISE,
    WIDEN,
    CELLS,
    CANVAS,
    VISITS,
)

# --------------------------------------------------------------------------------------- the quiz
