"""Contact sheets: rows of small pictures, enlarged without smoothing so that every pixel shows."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from sdlearn.recipes.data import Pixels


def grid(rows: Sequence[Pixels], scale: int = 2, gap: int = 2) -> Image.Image:
    """Each row (n, h, w, 3) beside one another, the rows below one another, on white."""
    n, h, w, _ = rows[0].shape
    page = np.full((len(rows) * (h + gap) + gap, n * (w + gap) + gap, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            y, x = gap + i * (h + gap), gap + j * (w + gap)
            page[y : y + h, x : x + w] = picture
    sheet = Image.fromarray(page)
    return sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST)
