"""Contact sheets: rows of small images, enlarged without smoothing."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from sdlearn.recipes.data import Pixels


def grid(rows: Sequence[Pixels], scale: int = 2, gap: int = 2) -> Image.Image:
    """Tile rows of images on white.

    Args:
        rows: Bytes (n, h, w, 3) each, all of one shape.
        scale: Side of an enlarged pixel, in pixels.
        gap: Between two images, in pixels before the enlargement.
    """
    n, h, w, _ = rows[0].shape
    page = np.full((len(rows) * (h + gap) + gap, n * (w + gap) + gap, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            y, x = gap + i * (h + gap), gap + j * (w + gap)
            page[y : y + h, x : x + w] = picture
    sheet = Image.fromarray(page)
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
