"""Caption accuracy: the fraction of a caption's content that the images show.

The same captions are measured three times: on their true renders (the errors of the judge itself),
on those renders encoded and decoded by the autoencoder (the upper bound for any U-Net), and on a
model's images. A caption describes one or two things. The sky and the ground are judged only if it
mentions them.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from PIL import Image

from sdlearn.evaluation.image_metrics import as_tensor, psnr, ssim
from sdlearn.evaluation.judge import Judge, Reading
from sdlearn.evaluation.matching import Match, matches
from sdlearn.evaluation.resampling import Rate, bootstrap_mean, interval
from sdlearn.storybook import Scene, caption, render, sample_scene
from sdlearn.storybook.captions import PLACES, TIMES

if TYPE_CHECKING:
    from sdlearn.pipeline import StableDiffusion

# What is measured, in the order of every table, and its label there.
FACTS = {
    "kind": "kind of object",
    "colour": "colour of object",
    "side": "side of two objects",
    "right": "kind, colour and side",
    "sky": "sky",
    "ground": "ground",
    "count": "number of objects",
    "page": "everything on one page",
}


class PromptCase(NamedTuple):
    """A caption to draw, and the scene that it describes."""

    caption: str
    scene: Scene


class Outcome(NamedTuple):
    """One image compared with the scene of its caption.

    Attributes:
        number: Index of the caption.
        seed: Seed of the image.
        case: The caption and its scene.
        image: The image.
        match: What is right in the image.
    """

    number: int
    seed: int
    case: PromptCase
    image: Image.Image
    match: Match


def prompt_cases(split: str, n: int) -> list[PromptCase]:
    """Return the first n evaluation captions of a split.

    They are always the same. Those of the splits "test" and "held_out" are never used in training.
    """
    return [prompt_case(split, f"evaluation-{split}-{k}") for k in range(n)]


def prompt_case(split: str, seed: str) -> PromptCase:
    """Return a caption of one or two things, determined by the split and the seed."""
    rng = random.Random(seed)
    scene = sample_scene(rng, split, n=rng.choices((1, 2), (0.4, 0.6))[0])
    return PromptCase(caption(scene, rng), scene)


def named_surroundings(text: str) -> tuple[str | None, str | None]:
    """Return the sky and the ground that a caption mentions, None for each that it omits."""
    words = " " + " ".join(text.replace(",", " ").split()) + " "

    def named(phrases: Mapping[str, tuple[str, ...]]) -> str | None:
        found = (name for name, row in phrases.items() if any(f" {p} " in words for p in row))
        return next(found, None)

    return named(TIMES), named(PLACES)


def facts(case: PromptCase, match: Match) -> dict[str, list[bool]]:
    """Return what is right in one image, by the keys of FACTS.

    A fact that the caption does not mention has an empty list.
    """
    sky, ground = named_surroundings(case.caption)
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
    """Return the rate at which each fact is right, over all images."""
    return {name: interval(clusters) for name, clusters in outcome_clusters(outcomes).items()}


def outcome_clusters(outcomes: Sequence[Outcome]) -> dict[str, list[list[bool]]]:
    """Return, for each fact and each caption, the truth values of all things and seeds."""
    captions: dict[int, list[dict[str, list[bool]]]] = {}
    for outcome in outcomes:
        captions.setdefault(outcome.number, []).append(facts(outcome.case, outcome.match))
    return {
        name: [[x for one in ones for x in one[name]] for ones in captions.values()]
        for name in FACTS
    }


# ----------------------------------------------------------------------------------- measurements


class Reader(Protocol):
    """What reads images: a `Judge`, or a `BackgroundJudge`."""

    def read(self, images: Sequence[Image.Image]) -> list[Reading]:
        """Return what each image shows."""


def judge_images(
    judge: Reader, cases: Sequence[PromptCase], images: Sequence[Image.Image], seeds: Sequence[int]
) -> list[Outcome]:
    """Compare image k with the scene of cases[k % len(cases)].

    Args:
        judge: Detects what the images show.
        cases: The captions and their scenes.
        images: One or more rounds over all cases.
        seeds: One for each image.
    """
    readings = judge.read(images)
    outcomes = []
    for k, (image, reading, seed) in enumerate(zip(images, readings, seeds, strict=True)):
        number = k % len(cases)
        match = matches(cases[number].scene, reading)
        outcomes.append(Outcome(number, seed, cases[number], image, match))
    return outcomes


def render_accuracy(judge: Judge, cases: Sequence[PromptCase]) -> list[Outcome]:
    """Judge the true renders of the captions' scenes."""
    images = [render(case.scene, judge.config.size) for case in cases]
    return judge_images(judge, cases, images, [0] * len(cases))


def vae_report(
    sd: "StableDiffusion", judge: Judge, cases: Sequence[PromptCase], batch: int = 32
) -> tuple[dict[str, float], list[Outcome]]:
    """Reconstruct the true renders with the autoencoder, and measure and judge the results.

    The renders are encoded to the mean of the posterior.

    Args:
        sd: The model.
        judge: Detects what the reconstructions show.
        cases: The captions and their scenes.
        batch: Renders in a batch.

    Returns:
        Mean PSNR in dB ("psnr") and mean SSIM ("ssim") with the ends of their 95 % intervals
        ("psnr_low" ...), and the number of renders ("pictures"); and the outcomes.
    """
    size = sd.spec.resolution
    images: list[Image.Image] = []
    metrics: list[tuple[float, float]] = []
    for first in range(0, len(cases), batch):
        renders = [render(case.scene, size) for case in cases[first : first + batch]]
        x = as_tensor(renders)
        with torch.inference_mode():
            decoded = sd.to_images(sd.vae.to_latent(x.to(sd.device, sd.dtype)))
        y = as_tensor(decoded)
        metrics += zip(psnr(y, x).tolist(), ssim(y, x).tolist(), strict=True)
        images += decoded
    report: dict[str, float] = {"pictures": len(images)}
    for name, values in zip(("psnr", "ssim"), zip(*metrics, strict=True), strict=True):
        mean, low, high = bootstrap_mean([[value] for value in values])
        report |= {name: mean, f"{name}_low": low, f"{name}_high": high}
    return report, judge_images(judge, cases, images, [0] * len(cases))


def caption_accuracy(
    sd: "StableDiffusion",
    judge: Judge,
    cases: Sequence[PromptCase],
    seeds: int = 1,
    guidance: float | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    batch: int = 32,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Outcome]:
    """Generate images of every caption and compare them with its scene.

    Args:
        sd: The model.
        judge: Detects what the images show.
        cases: The captions and their scenes.
        seeds: Images of each caption. Caption k has the seed s * len(cases) + k in round s.
        guidance: Guidance scale. None takes the model's own.
        steps: Sampling steps. None takes the model's own.
        sampler: Name of the sampler. None takes the model's own.
        batch: Images generated at once.
        progress: Called after every batch with its number of images.
    """
    images: list[Image.Image] = []
    for texts in batches([case.caption for case in cases] * seeds, batch):
        images += sd.text_to_image(
            texts,
            steps=steps,
            guidance_scale=guidance,
            sampler=sampler,
            seed=len(images),
            progress=False,
        )
        progress(len(texts))
    return judge_images(judge, cases, images, range(len(images)))


def batches(texts: list[str], size: int) -> Iterator[list[str]]:
    """Yield the texts in batches of at most `size`."""
    for first in range(0, len(texts), size):
        yield texts[first : first + size]
