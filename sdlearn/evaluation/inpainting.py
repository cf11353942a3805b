"""Evaluation of inpainting, on images with a hole whose true content is known.

There are two tasks. In the first, the hole hides part of a thing, and the caption is that of the
page. Only the true content is right, so the score is the PSNR in the hole. In the second, the hole
is a box around a thing, and the caption names another thing in its place. The judge decides whether
the new thing is there.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from sdlearn.evaluation.image_metrics import as_tensor
from sdlearn.evaluation.judge import Judge
from sdlearn.evaluation.matching import matches
from sdlearn.storybook import COLOURS, Scene, caption, render, sample_scene
from sdlearn.storybook.scenes import AIR_KINDS, KINDS

if TYPE_CHECKING:
    from sdlearn.pipeline import StableDiffusion

SIZE = 64


class HoleCase(NamedTuple):
    """A page with a hole.

    Attributes:
        page: The scene of the page.
        mask: (1, 64, 64), 1 in the hole.
        caption: What to paint.
        wanted: The scene that the caption describes.
        thing: Index of the thing in the hole.
    """

    page: Scene
    mask: Tensor
    caption: str
    wanted: Scene
    thing: int


def hidden_half_cases(n: int, split: str = "test") -> list[HoleCase]:
    """Return the first n of a fixed list of pages, each with the right half of a thing hidden."""
    cases = []
    for k in range(n):
        rng, scene, i = page_with_two(f"half-{split}-{k}", split)
        thing = scene.things[i]
        left = round(SIZE * thing.x)
        top, bottom = (round(SIZE * (thing.y + s * thing.size / 2)) + 3 * s for s in (-1, 1))
        mask = box(top, bottom, left, left + round(SIZE * thing.size / 2) + 4)
        cases.append(HoleCase(scene, mask, caption(scene, rng), scene, i))
    return cases


def new_thing_cases(n: int, split: str = "test") -> list[HoleCase]:
    """Return the first n of a fixed list of pages, each with one thing to be replaced."""
    cases = []
    for k in range(n):
        rng, scene, i = page_with_two(f"new-{split}-{k}", split)
        thing = scene.things[i]
        r = thing.size / 2 + 0.03
        top, bottom, left, right = (
            round(SIZE * v) for v in (thing.y - r, thing.y + r, thing.x - r, thing.x + r)
        )
        mask = box(top, bottom + 1, left, right + 1)
        there = {each.kind for each in scene.things}
        kinds = [
            kind for kind in KINDS
            if (kind in AIR_KINDS) == thing.flies and kind not in there and kind != "person"
        ]  # fmt: skip
        other = replace(
            thing, kind=rng.choice(kinds), colour=rng.choice(COLOURS), pattern="plain", pose=None
        )
        wanted = replace(scene, things=(*scene.things[:i], other, *scene.things[i + 1 :]))
        cases.append(HoleCase(scene, mask, caption(wanted, rng), wanted, i))
    return cases


def box(top: int, bottom: int, left: int, right: int) -> Tensor:
    """Return a mask (1, 64, 64) that is 1 in a box; bottom and right are exclusive."""
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, max(0, top) : bottom, max(0, left) : right] = 1
    return mask


def page_with_two(seed: str, split: str) -> tuple[random.Random, Scene, int]:
    """Return a random number generator, a scene of two things and the index of one of them."""
    rng = random.Random(seed)
    return rng, sample_scene(rng, split, n=2), rng.randrange(2)


class HoleScore(NamedTuple):
    """The results of one model.

    Attributes:
        psnr: PSNR in decibels in the hole that hides half of a thing, mean over the pages.
        step: Step across the border of that hole, minus the same step on the true page, in grey
            levels of 0 … 255, mean over the pages.
        new_thing: Fraction of the pages on which the new thing has the caption's kind and colour.
        whole_page: Fraction of the pages on which, in addition, the other thing is right and there
            are no more than two.
    """

    psnr: float
    step: float
    new_thing: float
    whole_page: float


def hole_score(
    sd: "StableDiffusion",
    judge: Judge,
    n: int = 64,
    steps: int = 20,
    seed: int = 0,
    guidance_scale: float | None = None,
) -> HoleScore:
    """Inpaint n pages of each task and score the results.

    Args:
        sd: The model; with four input channels instead of nine, it inpaints by replacement.
        judge: Detects the things.
        n: Number of pages for each task.
        steps: Sampling steps.
        seed: Seed of the first page; page k has seed + k.
        guidance_scale: None for the model's own.
    """
    halves, news = hidden_half_cases(n), new_thing_cases(n)
    truth = as_tensor([render(case.page, SIZE) for case in halves])
    mask = torch.stack([case.mask for case in halves])
    filled = as_tensor(inpaint_cases(sd, halves, steps, seed, guidance_scale))
    outcomes = []
    painted = inpaint_cases(sd, news, steps, seed, guidance_scale)
    for case, reading in zip(news, judge.read(painted), strict=True):
        match = matches(case.wanted, reading)
        right = [verdict.kind and verdict.colour for verdict in match.things]
        outcomes.append((right[case.thing], all(right) and match.number))
    new, page = (sum(each) / n for each in zip(*outcomes, strict=True))
    return HoleScore(
        float(hole_psnr(filled, truth, mask).mean()),
        float(border_step(filled, mask).sub(border_step(truth, mask)).mean()),
        new,
        page,
    )


def inpaint_cases(
    sd: "StableDiffusion",
    cases: Sequence[HoleCase],
    steps: int,
    seed: int = 0,
    guidance_scale: float | None = None,
) -> list[Image.Image]:
    """Inpaint the pages of cases, 16 at a time; page k has seed + k."""
    images: list[Image.Image] = []
    for first in range(0, len(cases), 16):
        part = cases[first : first + 16]
        images += sd.inpaint(
            [case.caption for case in part],
            [render(case.page, SIZE) for case in part],
            torch.stack([case.mask for case in part]),
            steps=steps,
            seed=seed + first,
            guidance_scale=guidance_scale,
            progress=False,
        )
    return images


def hole_psnr(images: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Compute the peak signal-to-noise ratio in the hole, in decibels.

    Args:
        images: (b, 3, h, w) in [-1, 1].
        truth: The true images, (b, 3, h, w) in [-1, 1].
        mask: (b, 1, h, w), 1 in the hole.

    Returns:
        (b,) float64.
    """
    error = (images.double() - truth.double()).square() * mask
    mean = error.sum(dim=(1, 2, 3)) / (images.shape[1] * mask.double().sum(dim=(1, 2, 3)))
    return 10 * torch.log10(4 / mean)


def border_step(images: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean absolute step between neighbouring pixels across the border of the hole.

    A seam is visible where the step is larger than on the true page.

    Args:
        images: (b, 3, h, w) in [-1, 1].
        mask: (b, 1, h, w), 1 in the hole.

    Returns:
        Grey levels of 0 … 255, (b,) float64; 0 for a mask without a border.
    """
    total = images.new_zeros(len(images), dtype=torch.float64)
    count = torch.zeros_like(total)
    for axis in (2, 3):
        across = mask.diff(dim=axis).abs() > 0.5
        step = images.double().diff(dim=axis).abs().mean(dim=1, keepdim=True)
        total += (step * across).sum(dim=(1, 2, 3))
        count += across.sum(dim=(1, 2, 3))
    return 127.5 * total / count.clamp(min=1)
