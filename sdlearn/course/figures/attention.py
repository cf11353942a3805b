"""Attention maps as images: which positions attend to a token?"""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.images import grid


def heatmap(weights: Tensor, most: float | None = None, size: int = 64) -> Image.Image:
    """Draw a map as a square grey image in 16 shades.

    A stored figure has few colours, and the image next to the map needs most of them.

    Args:
        weights: (h, w), values from 0 up. 0 is black.
        most: The value drawn as white. None takes the largest value of the map.
        size: Side of the image in pixels.
    """
    values = weights.detach().float().numpy()
    top = float(values.max()) if most is None else most
    shades = (np.clip(values / (top or 1.0), 0, 1) * 15).round() * 17
    return Image.fromarray(shades.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)


def overlay(image: Image.Image, weights: Tensor) -> Image.Image:
    """Darken a square image where a map (h, w) is small, and keep it bright where it is large."""
    light = np.array(heatmap(weights, size=image.width), float)[..., None] / 255
    pixels = np.array(image.convert("RGB"), float) * (0.15 + 0.85 * light)
    return Image.fromarray(pixels.round().astype(np.uint8))


def attention_map_grid(
    image: Image.Image, maps: Tensor, words: Sequence[str], title: str, across: int = 6
) -> Image.Image:
    """Draw an image and the attention map of every token, in rows.

    Each map has its own scale: white is its largest weight.

    Args:
        image: The generated image, drawn first.
        maps: (tokens, h, w).
        words: The tokens, one heading for each map.
        title: Written above the first row.
        across: Images in a row.
    """
    tiles = [image, *(heatmap(one, size=image.width) for one in maps)]
    names = ["the picture", *words]
    rows = [
        grid([tiles[i : i + across]], names[i : i + across], title="" if i else title, scale=2)
        for i in range(0, len(tiles), across)
    ]
    whole = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        whole.paste(row, (0, top))
        top += row.height
    return whole
