"""Evaluation of a ControlNet: recover the condition from the images that it controlled.

For edges, depth and segmentation, the silhouettes of the things are compared with those of the page
that the hint was drawn from. A pose is right if the true one fits the image's silhouette better
than the storybook's other poses. The captions decide the colours. The judge detects the things,
with their colours and positions.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdlearn.evaluation.accuracy import named_surroundings
from sdlearn.evaluation.judge import Judge, Reading
from sdlearn.evaluation.matching import matches
from sdlearn.evaluation.silhouettes import iou, silhouette
from sdlearn.storybook import HINTS, POSES, Scene, caption, render, sample_scene

if TYPE_CHECKING:
    from sdlearn.controlnet import ControlNet
    from sdlearn.pipeline import StableDiffusion

SIZE = 64
FAR = 0.5  # offset of a thing whose kind is not found, as a fraction of the page's side


class ControlCase(NamedTuple):
    """A caption and the scene that the hint is drawn from.

    The caption names the sky and the ground. It may say how the things are placed relative to each
    other, but not where they are on the page.
    """

    caption: str
    scene: Scene


def control_cases(n: int, people: bool = False, split: str = "test") -> list[ControlCase]:
    """Return the first n of a fixed list of scenes of one or two things, with their captions.

    Args:
        n: Number of scenes.
        people: Whether each scene has one person and nothing else, which is all a pose hint shows.
        split: Split of the scenes.
    """
    cases: list[ControlCase] = []
    k = 0
    while len(cases) < n:
        rng = random.Random(f"control-{split}-{k}")
        k += 1
        scene = sample_scene(rng, split, n=1 if people else rng.choice((1, 2)))
        if people and not any(thing.pose for thing in scene.things):
            continue
        text = next(t for _ in range(200) if all(named_surroundings(t := caption(scene, rng))))
        cases.append(ControlCase(text, scene))
    return cases


class ControlScore(NamedTuple):
    """How well images follow a hint; each value is a mean over the images or their things.

    Attributes:
        iou: Intersection over union of the things' silhouettes with those of the true page.
        offset: Distance of the things from their true positions in pixels; half the page's side for
            a kind that the judge did not find.
        right: Fraction of the things with the kind and the colour of the caption.
        pose: Fraction of the people in the true pose; NaN without people.
    """

    iou: float
    offset: float
    right: float
    pose: float


def control_score(
    sd: "StableDiffusion",
    judge: Judge,
    hint: str,
    controlnet: "ControlNet | None",
    n: int = 64,
    steps: int = 20,
    scale: float = 1.0,
) -> ControlScore:
    """Draw n images from hints of one kind, and measure how well they follow them.

    Args:
        sd: The model.
        judge: Detects the things.
        hint: "edges", "depth", "pose" or "segmentation".
        controlnet: None for the model alone.
        n: Number of images.
        steps: Sampling steps.
        scale: Factor of the ControlNet's residuals.
    """
    cases = control_cases(n, people=hint == "pose")
    images = draw_cases(sd, cases, hint, controlnet, steps, scale)
    return score(cases, images, judge)


def draw_cases(
    sd: "StableDiffusion",
    cases: Sequence[ControlCase],
    hint: str,
    controlnet: "ControlNet | None",
    steps: int,
    scale: float = 1.0,
) -> list[Image.Image]:
    """Draw the images of cases, 16 at a time; image k has seed k."""
    images: list[Image.Image] = []
    for first in range(0, len(cases), 16):
        part = cases[first : first + 16]
        texts = [case.caption for case in part]
        if controlnet is None:
            images += sd.text_to_image(texts, steps=steps, seed=first, progress=False)
            continue
        images += sd.text_to_image(
            texts, control=(controlnet, hints(part, hint)), control_scale=scale, steps=steps,
            seed=first, progress=False,
        )  # fmt: skip
    return images


def hints(cases: Sequence[ControlCase], hint: str) -> Tensor:
    """Return the hints of cases, (b, 3, 64, 64) in [0, 1]."""
    images = np.stack([np.asarray(HINTS[hint](case.scene, SIZE)) for case in cases])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def score(
    cases: Sequence[ControlCase], images: Sequence[Image.Image], judge: Judge
) -> ControlScore:
    """Return the scores of images, one for each case."""
    overlaps, offsets, right, poses = [], [], [], []
    readings = judge.read(images)
    for case, image, reading in zip(cases, images, readings, strict=True):
        scene = case.scene
        shape = silhouette(image, scene)
        overlaps.append(iou(shape, silhouette(render(scene, SIZE), scene)))
        offsets += things_offsets(scene, reading)
        right += [v.kind and v.colour for v in matches(scene, reading).things]
        if any(thing.pose for thing in scene.things):
            poses.append(is_best_pose(scene, image))
    return ControlScore(
        mean(overlaps), SIZE * mean(offsets), mean(right), mean(poses) if poses else math.nan
    )


def things_offsets(scene: Scene, reading: Reading) -> list[float]:
    """Return each thing's distance from the nearest detection of its kind, the page's side as 1."""
    return [
        min(
            (math.dist((found.x, found.y), (thing.x, thing.y))
             for found in reading.things if found.kind == thing.kind),
            default=FAR,
        )
        for thing in scene.things
    ]  # fmt: skip


def is_best_pose(scene: Scene, image: Image.Image) -> bool:
    """Tell whether the true pose of the scene's person fits the image best.

    The scene is rendered with each pose, and the silhouettes are compared with the image's.
    """
    shape = silhouette(image, scene)
    i = next(i for i, thing in enumerate(scene.things) if thing.pose)
    fits = {
        pose: iou(shape, silhouette(render(with_pose(scene, i, pose), SIZE), scene))
        for pose in POSES
    }
    return max(fits, key=fits.__getitem__) == scene.things[i].pose


def with_pose(scene: Scene, i: int, pose: str) -> Scene:
    """Return the scene with another pose for thing i, a person."""
    person = replace(scene.things[i], pose=pose)
    return replace(scene, things=(*scene.things[:i], person, *scene.things[i + 1 :]))
