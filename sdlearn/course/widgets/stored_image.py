"""The image of a widget, for a notebook that is read without a kernel."""

import base64
from typing import Any

from PIL import Image, ImageDraw

from sdlearn.course.figures.images import label_font, png, wrapped
from sdlearn.course.figures.style import INK

MimeBundle = tuple[dict[str, Any], dict[str, Any]]
LETTERS, LINE, GAP = 15, 22, 6  # of a caption, in pixels


def with_image(
    view: dict[str, Any], image: Image.Image | None, text: str, width: int, caption: str = ""
) -> MimeBundle:
    """Add an image to what a widget displays.

    A running notebook shows the widget and ignores the image. `tools/nbtool.py` stores the image
    and removes the widget, which needs a kernel.

    Args:
        view: What ipywidgets displays, by MIME type.
        image: What the widget shows now, or None if it shows no image yet. It is enlarged to the
            size that it has in the widget, without smoothing.
        text: The text alternative of the image. It replaces the repr of the widget.
        width: Width of the image in the widget, in CSS pixels. It is stored at the largest whole
            multiple of its own size that is no wider, so that its pixels and letters stay sharp.
        caption: Settings and results that the image itself doesn't show, written below it.

    Returns:
        Data and metadata by MIME type, as IPython's `_repr_mimebundle_` returns them.
    """
    data = {**view, "text/plain": text}
    if image is None:
        return data, {}
    scale = max(1, width // image.width)
    size = (image.width * scale, image.height * scale)
    enlarged = image.resize(size, Image.Resampling.NEAREST)
    data["image/png"] = base64.b64encode(png(captioned(enlarged, caption))).decode()
    return data, {"image/png": {"alt": text, "width": min(width, enlarged.width)}}


def captioned(image: Image.Image, caption: str) -> Image.Image:
    """Write a caption below an image, or nothing if it is empty."""
    font = label_font(LETTERS)
    lines = wrapped(caption, font, image.width - 2 * GAP)
    if not lines:
        return image
    page = Image.new("RGB", (image.width, image.height + LINE * len(lines) + GAP), "white")
    page.paste(image, (0, 0))
    for k, line in enumerate(lines):
        ImageDraw.Draw(page).text((GAP, image.height + LINE * k), line, INK, font)
    return page
