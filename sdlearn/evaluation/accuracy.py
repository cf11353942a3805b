"""Caption accuracy: how much of what the captions say do the pictures show?

The same captions are measured three times: on their true renders (what the judge itself gets
wrong), on those renders after the autoencoder and back (the ceiling for any U-Net), and on the
pictures that a model makes of them. Where a caption leaves out the sky or the ground, that is not
judged; captions have one or two things.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image

from sdlearn.evaluation.judge import Judge
from sdlearn.evaluation.matching import Match, matches
from sdlearn.evaluation.pixels import as_tensor, psnr, ssim
from sdlearn.storybook import Scene, caption, render, sample_scene
from sdlearn.storybook.captions import PLACES, TIMES

if TYPE_CHECKING:
    from sdlearn.pipeline import StableDiffusion

# What is measured, in the order of every table, and what it is called there.
FACTS = {
    "kind": "kind of the things",
    "colour": "their colour",
    "side": "side, of two things",
    "right": "kind, colour and side",
    "sky": "sky",
    "ground": "ground",
    "count": "number of things",
    "page": "all of this on one page",
}


class Asked(NamedTuple):
    """A caption to draw, and the scene that it describes."""

    caption: str
    scene: Scene


class Outcome(NamedTuple):
    """One picture of caption `number`, made with `seed`, held against its scene."""

    number: int
    seed: int
    asked: Asked
    picture: Image.Image
    match: Match


class Rate(NamedTuple):
    """A share, 0..1, with its 95 % interval, of so many cases."""

    rate: float
    low: float
    high: float
    cases: int


def questions(split: str, n: int) -> list[Asked]:
    """The first n captions of a split's evaluation: always the same, never drawn for training."""
    return [question(split, f"evaluation-{split}-{k}") for k in range(n)]


def question(split: str, seed: str) -> Asked:
    """A caption of one or two things, always the same for a seed."""
    rng = random.Random(seed)
    scene = sample_scene(rng, split, n=rng.choices((1, 2), (0.4, 0.6))[0])
    return Asked(caption(scene, rng), scene)


def said(text: str) -> tuple[str | None, str | None]:
    """The sky and the ground that a caption names; None for one that it leaves out."""
    words = " " + " ".join(text.replace(",", " ").split()) + " "

    def named(phrases: Mapping[str, tuple[str, ...]]) -> str | None:
        found = (name for name, row in phrases.items() if any(f" {p} " in words for p in row))
        return next(found, None)

    return named(TIMES), named(PLACES)


def facts(asked: Asked, match: Match) -> dict[str, list[bool]]:
    """What one picture shows rightly, by the names in FACTS; nothing where nothing was said."""
    sky, ground = said(asked.caption)
    things = match.things
    return {
        "kind": [thing.kind for thing in things],
        "colour": [thing.colour for thing in things],
        "side": [thing.side for thing in things] if len(things) > 1 else [],
        "right": [thing.right for thing in things],
        "sky": [match.sky] if sky else [],
        "ground": [match.ground] if ground else [],
        "count": [match.number],
        "page": [match.all_right(sky is not None, ground is not None)],
    }


def rates(outcomes: Sequence[Outcome]) -> dict[str, Rate]:
    """The share of each fact that is right over all pictures."""
    clusters: dict[int, list[dict[str, list[bool]]]] = {}
    for outcome in outcomes:
        clusters.setdefault(outcome.number, []).append(facts(outcome.asked, outcome.match))
    return {
        name: interval([[x for one in ones for x in one[name]] for ones in clusters.values()])
        for name in FACTS
    }


def interval(clusters: Sequence[Sequence[bool]]) -> Rate:
    """The share of True, with Wilson's 95 % interval.

    A cluster holds everything about one caption: its two things and its several seeds succeed and
    fail together, so they count for fewer independent cases, as many as give the variance of the
    ratio estimator over captions (Cochran, Sampling Techniques, section 2.11).
    """
    clusters = [cluster for cluster in clusters if cluster]
    n, cases = len(clusters), sum(map(len, clusters))
    if not cases:
        return Rate(math.nan, math.nan, math.nan, 0)
    p = sum(map(sum, clusters)) / cases
    spread = sum((sum(cluster) - p * len(cluster)) ** 2 for cluster in clusters)
    variance = n / max(1, n - 1) * spread / cases**2
    independent = min(cases, p * (1 - p) / variance) if variance > 0 else n
    z = 1.96
    scale = 1 + z**2 / independent
    middle = (p + z**2 / (2 * independent)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / independent + (z / (2 * independent)) ** 2)
    return Rate(p, max(0.0, middle - half), min(1.0, middle + half), cases)


# ------------------------------------------------------------------------------ what is measured


def held_against(
    judge: Judge, asked: Sequence[Asked], pictures: Sequence[Image.Image], seeds: Sequence[int]
) -> list[Outcome]:
    """Picture k against asked[k % len(asked)]."""
    readings = judge.read(pictures)
    outcomes = []
    for k, (picture, reading, seed) in enumerate(zip(pictures, readings, seeds, strict=True)):
        number = k % len(asked)
        match = matches(asked[number].scene, reading)
        outcomes.append(Outcome(number, seed, asked[number], picture, match))
    return outcomes


def render_accuracy(judge: Judge, asked: Sequence[Asked]) -> list[Outcome]:
    """The judge on the true renders of the captions' scenes."""
    pictures = [render(one.scene, judge.config.size) for one in asked]
    return held_against(judge, asked, pictures, [0] * len(asked))


def vae_report(
    sd: "StableDiffusion", judge: Judge, asked: Sequence[Asked], batch: int = 32
) -> tuple[dict[str, float], list[Outcome]]:
    """The autoencoder on the true renders: mean PSNR in dB and SSIM, and what the judge still sees.

    The renders are encoded to the mean of the posterior and decoded again.
    """
    size = sd.spec.size
    pictures: list[Image.Image] = []
    closeness: list[tuple[float, float]] = []
    for first in range(0, len(asked), batch):
        true = [render(one.scene, size) for one in asked[first : first + batch]]
        x = as_tensor(true)
        with torch.inference_mode():
            made = sd.to_images(sd.vae.to_latent(x.to(sd.device, sd.dtype)))
        y = as_tensor(made)
        closeness += zip(psnr(y, x).tolist(), ssim(y, x).tolist(), strict=True)
        pictures += made
    decibels, similarity = (sum(column) / len(closeness) for column in zip(*closeness, strict=True))
    report = {"psnr": decibels, "ssim": similarity, "pictures": len(pictures)}
    return report, held_against(judge, asked, pictures, [0] * len(asked))


def caption_accuracy(
    sd: "StableDiffusion",
    judge: Judge,
    asked: Sequence[Asked],
    seeds: int = 1,
    guidance: float | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    batch: int = 32,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Outcome]:
    """Make `seeds` pictures of every caption and hold them against its scene.

    Picture k of round s has the seed s * len(asked) + k. None leaves a choice to the model's own
    specification. progress is told after every batch how many pictures came with it.
    """
    pictures: list[Image.Image] = []
    for texts in batches([one.caption for one in asked] * seeds, batch):
        pictures += sd.text_to_image(
            texts,
            steps=steps,
            guidance_scale=guidance,
            sampler=sampler,
            seed=len(pictures),
            progress=False,
        )
        progress(len(texts))
    return held_against(judge, asked, pictures, range(len(pictures)))


def batches(texts: list[str], size: int) -> Iterator[list[str]]:
    for first in range(0, len(texts), size):
        yield texts[first : first + size]
