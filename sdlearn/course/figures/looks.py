"""Attention maps as pictures: from where on the page is a word looked at?"""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.pages import grid


def tile(weights: Tensor, most: float | None = None, size: int = 64) -> Image.Image:
    """A map (h, w) of numbers from 0 up: white is `most`, by default its largest, black is 0.

    In 16 shades: a stored figure has few colours, and the picture beside it needs most of them.
    """
    values = weights.detach().float().numpy()
    top = float(values.max()) if most is None else most
    shades = (np.clip(values / (top or 1.0), 0, 1) * 15).round() * 17
    return Image.fromarray(shades.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)


def lit(picture: Image.Image, weights: Tensor) -> Image.Image:
    """The picture in the light of a map (h, w): bright where it is large, dim where it is small."""
    light = np.array(tile(weights, size=picture.width), float)[..., None] / 255
    pixels = np.array(picture.convert("RGB"), float) * (0.15 + 0.85 * light)
    return Image.fromarray(pixels.round().astype(np.uint8))


def word_maps(
    picture: Image.Image, maps: Tensor, words: Sequence[str], title: str, across: int = 6
) -> Image.Image:
    """For each word its map, (words, h, w), in rows; the picture itself comes first.

    Each map has its own scale: white is its largest weight.
    """
    tiles = [picture, *(tile(one, size=picture.width) for one in maps)]
    names = ["the picture", *words]
    rows = [
        labelled(tiles[i : i + across], names[i : i + across]) for i in range(0, len(tiles), across)
    ]
    whole = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        whole.paste(row, (0, top))
        top += row.height
    return grid([[whole]], title=title, scale=1)


def labelled(tiles: Sequence[Image.Image], names: Sequence[str]) -> Image.Image:
    return grid([list(tiles)], list(names), scale=2)
