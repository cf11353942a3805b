"""Random masks for the training of an inpainting U-Net.

A quarter of them mask the whole image, as in the training of Stable Diffusion 1.5's inpainting
model, so that the model can still generate images from text alone. The others are boxes, broad
strokes (after LaMa, arXiv:2109.07161), and, where the things of a page are known, one thing or the
box around it.
"""

import math
import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Mask = NDArray[np.uint8]
EVERYTHING = 0.25  # fraction of masks that are 1 everywhere


def random_mask(rng: random.Random, size: int, things: Sequence[Image.Image] = ()) -> Mask:
    """Draw a mask.

    Args:
        rng: The source of random numbers.
        size: Height and width in pixels.
        things: The masks of the page's things, greyscale images of this size (see
            `storybook.masks`).

    Returns:
        (size, size), 1 where the image is repainted, 0 elsewhere.
    """
    if rng.random() < EVERYTHING:
        return np.ones((size, size), np.uint8)
    visible = [thing for thing in things if thing.getbbox()]
    draw = rng.choice([boxes, strokes, *([one_thing, box_around] if visible else [])])
    page = draw(rng, size, visible)
    mask = (np.asarray(page) > 127).astype(np.uint8)
    return mask if mask.any() else np.ones_like(mask)


def boxes(rng: random.Random, size: int, _: Sequence[Image.Image]) -> Image.Image:
    """One to three boxes, which may run over the edge of the page."""
    page = Image.new("L", (size, size))
    draw = ImageDraw.Draw(page)
    for _box in range(rng.choice((1, 1, 2, 3))):
        w, h = rng.uniform(0.15, 0.7), rng.uniform(0.15, 0.7)
        x, y = rng.uniform(-0.1, 1.1 - w), rng.uniform(-0.1, 1.1 - h)
        draw.rectangle([size * v for v in (x, y, x + w, y + h)], fill=255)
    return page


def strokes(rng: random.Random, size: int, _: Sequence[Image.Image]) -> Image.Image:
    """One to three broad strokes of a few straight pieces with round joints."""
    page = Image.new("L", (size, size))
    draw = ImageDraw.Draw(page)
    for _stroke in range(rng.choice((1, 1, 2, 3))):
        width = size * rng.uniform(0.08, 0.25)
        x, y = size * rng.random(), size * rng.random()
        angle = rng.uniform(0, 2 * math.pi)
        for _piece in range(rng.randint(1, 4)):
            angle += rng.uniform(-1.2, 1.2)
            step = size * rng.uniform(0.15, 0.45)
            end = x + step * math.cos(angle), y + step * math.sin(angle)
            draw.line([(x, y), end], fill=255, width=round(width))
            for cx, cy in ((x, y), end):
                r = width / 2
                draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill=255)
            x, y = end
    return page


def one_thing(rng: random.Random, size: int, things: Sequence[Image.Image]) -> Image.Image:
    """The shape of a thing, grown by 1 to 5 pixels of a page of 64."""
    shape = rng.choice(things).point(lambda value: 255 * (value > 0))
    margin = max(1, round(size / 64 * rng.randint(1, 5)))
    return shape.filter(ImageFilter.MaxFilter(2 * margin + 1))


def box_around(rng: random.Random, size: int, things: Sequence[Image.Image]) -> Image.Image:
    """The box around a thing, with up to 6 pixels of a page of 64 on each side."""
    bounds = rng.choice(things).getbbox()
    assert bounds is not None
    left, top, right, bottom = (v + s for v, s in zip(bounds, (0, 0, -1, -1), strict=True))
    grow = [size / 64 * rng.uniform(0, 6) for _ in range(4)]
    page = Image.new("L", (size, size))
    ImageDraw.Draw(page).rectangle(
        [left - grow[0], top - grow[1], right + grow[2], bottom + grow[3]], fill=255
    )
    return page
