"""A sampling trajectory as a strip of latents and estimated images."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.images import grid

LIMIT = 3.0  # latents are drawn from -LIMIT, black, to LIMIT, white


def pick_steps(steps: int, most: int = 8) -> list[int]:
    """Choose at most `most` of the steps 0 … steps, evenly spaced, including the first and last."""
    if steps < most:
        return [*range(steps + 1)]
    return [round(k * steps / (most - 1)) for k in range(most)]


def channel_mosaic(z: Tensor, side: int) -> Image.Image:
    """Draw the four channels of a latent (4, h, w) as the quarters of one grey image."""
    rows = [[z[0], z[1]], [z[2], z[3]]]
    whole = np.block([[part.detach().float().cpu().numpy() for part in row] for row in rows])
    shades = ((whole / LIMIT).clip(-1, 1) * 127.5 + 127.5).round().astype(np.uint8)
    size = (side * whole.shape[1] // whole.shape[0], side)
    return Image.fromarray(shades).convert("RGB").resize(size, Image.Resampling.NEAREST)


def strip(
    numbers: Sequence[int], latents: Sequence[Tensor], estimates: Sequence[Image.Image]
) -> Image.Image:
    """Draw the latents of some steps and, below them, the decoded estimates of z_0.

    The four channels of a latent are the quarters of a square, black at -3 and below, white at 3
    and above.

    Args:
        numbers: The steps.
        latents: z at each step, (4, h, w).
        estimates: The decoded estimate at each step.
    """
    side = 96
    return grid(
        [
            [channel_mosaic(z, side) for z in latents],
            [resize_to_height(each, side) for each in estimates],
        ],
        [f"step {k}" for k in numbers],
        ["latent z", "estimate"],
        scale=1,
    )


def resize_to_height(picture: Image.Image, height: int) -> Image.Image:
    """Resize an image to a height in pixels: nearest neighbour upwards, box filter downwards."""
    how = Image.Resampling.NEAREST if picture.height < height else Image.Resampling.BOX
    return picture.resize((height * picture.width // picture.height, height), how)
