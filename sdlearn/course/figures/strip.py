"""A walk from noise to picture, as a strip: what is there, and what it is taken for."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.pages import grid

LIMIT = 3.0  # latents are drawn from -LIMIT, black, to LIMIT, white


def chosen(steps: int, most: int = 8) -> list[int]:
    """At most `most` of the states 0 … steps, evenly, the first and the last among them."""
    if steps < most:
        return [*range(steps + 1)]
    return [round(k * steps / (most - 1)) for k in range(most)]


def channels(z: Tensor, side: int) -> Image.Image:
    """The four channels of a latent (4, h, w) as the quarters of one grey picture."""
    rows = [[z[0], z[1]], [z[2], z[3]]]
    whole = np.block([[part.detach().float().cpu().numpy() for part in row] for row in rows])
    shades = ((whole / LIMIT).clip(-1, 1) * 127.5 + 127.5).round().astype(np.uint8)
    size = (side * whole.shape[1] // whole.shape[0], side)
    return Image.fromarray(shades).convert("RGB").resize(size, Image.Resampling.NEAREST)


def strip(
    numbers: Sequence[int], latents: Sequence[Tensor], estimates: Sequence[Image.Image]
) -> Image.Image:
    """Two rows: the latents (4, h, w) of these steps, and the pictures they are taken for.

    The four channels are the quarters of a square, black at -3 and below, white at 3 and above.
    """
    side = 96
    return grid(
        [[channels(z, side) for z in latents], [fitted(each, side) for each in estimates]],
        [f"step {k}" for k in numbers],
        ["latent z", "estimate"],
        scale=1,
    )


def fitted(picture: Image.Image, height: int) -> Image.Image:
    """The picture in this height: small ones in squares, large ones averaged."""
    how = Image.Resampling.NEAREST if picture.height < height else Image.Resampling.BOX
    return picture.resize((height * picture.width // picture.height, height), how)
