"""Images for notebook 05, with the prompt or the weights that they belong to."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from sdlearn.course.figures.images import OUTLINE, label_font, wrapped
from sdlearn.course.figures.style import (
    BLUE,
    INK,
    VERMILION,
    Described,
)


def captioned(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    title: str,
    words: str,
    wrong: Collection[int] = (),
    size: int = 160,
    across: int = 0,
) -> Described:
    """Draw images in rows, each with its caption below.

    Args:
        images: The images, enlarged without smoothing.
        captions: One for each.
        title: Of the figure.
        words: What the figure shows; the captions are added.
        wrong: Indices of captions that are wrong, drawn with a cross.
        size: Side of an image, in pixels.
        across: Images in a row; 0 for a single row.
    """
    font, gap = label_font(13), 10
    lines = [wrapped(caption, font, size) for caption in captions]
    across = across or len(images)
    step = size + 19 * max(map(len, lines)) + 12  # from one row to the next
    tall = 30 + -(-len(images) // across) * step
    page = Image.new("RGB", (gap + across * (size + gap), tall), "white")
    pen = ImageDraw.Draw(page)
    pen.text((gap, 6), title, INK, label_font(13, bold=True))
    for k, (picture, text) in enumerate(zip(images, lines, strict=True)):
        x, y = gap + k % across * (size + gap), 30 + k // across * step
        large = picture.convert("RGB").resize((size, size), Image.Resampling.NEAREST)
        page.paste(large, (x, y))
        ink = VERMILION if k in wrong else INK
        for i, line in enumerate(text):
            pen.text((x + size / 2, y + 4 + size + 19 * i), line, ink, font, anchor="ma")
        if k in wrong:
            pen.line((x, y, x + 18, y + 18), VERMILION, 4)
            pen.line((x + 18, y, x, y + 18), VERMILION, 4)
    marked = [f"{text} (wrong)" if k in wrong else text for k, text in enumerate(captions)]
    return Described(page, f"{words} The captions: {'; '.join(marked)}.")


def weighted(
    groups: Mapping[str, Sequence[Sequence[Image.Image]]],
    weights: Sequence[float],
    title: str,
    words: str,
) -> Described:
    """Draw images for several prompt weights, in columns.

    Args:
        groups: For each way of applying the weights, a row of images for each noise.
        weights: One for each column.
        title: Of the figure.
        words: What the figure shows; the groups and the columns are named before it.
    """
    font, bold, gap, line = label_font(17), label_font(17, bold=True), 6, 28
    rows = [row for group in groups.values() for row in group]
    w, h = (2 * side for side in rows[0][0].size)
    wide = gap + len(weights) * (w + gap)
    heading = wrapped(title, bold, wide - 2 * gap)
    tall = gap + line * (len(heading) + 1 + len(groups)) + len(rows) * (h + gap)
    page = Image.new("RGB", (wide, tall), "white")
    pen = ImageDraw.Draw(page)
    y = gap
    for text in heading:
        pen.text((gap, y), text, INK, bold)
        y += line
    for k, weight in enumerate(weights):
        x = gap + k * (w + gap) + w / 2
        pen.text((x, y), f"weight {weight:g}" if k == 0 else f"{weight:g}", INK, font, anchor="ma")
    y += line
    for name, group in groups.items():
        pen.text((gap, y), name, BLUE, font)
        y += line
        for row in group:
            for k, picture in enumerate(row):
                x = gap + k * (w + gap)
                pen.rectangle((x - 1, y - 1, x + w, y + h), outline=OUTLINE)
                enlarged = picture.convert("RGB").resize((w, h), Image.Resampling.NEAREST)
                page.paste(enlarged, (x, y))
            y += h + gap
    columns = ", ".join(f"{weight:g}" for weight in weights)
    counts = "; ".join(f"{name} ({len(group)} rows)" for name, group in groups.items())
    return Described(page, f"Images in rows: {counts}. Columns: weights {columns}. {words}")


def shapes(image: Image.Image, colour: str) -> int:
    """Count the large shapes of a colour, red or blue, in the lower half of a 64 x 64 image."""
    red, green, blue = np.array(image, int)[32:].transpose(2, 0, 1)
    reds = (red - np.maximum(green, blue) > 70) & (green < 90)
    mask = reds if colour == "red" else blue - np.maximum(red, green) > 70
    closed = ndimage.binary_closing(np.pad(mask, 2))  # across spots
    found, _ = ndimage.label(closed)
    return int((np.bincount(found.ravel())[1:] > 100).sum())
