"""The image of a widget, for a notebook that is read without a kernel."""

import base64
from typing import Any

from PIL import Image

from sdlearn.course.figures.images import png

MimeBundle = tuple[dict[str, Any], dict[str, Any]]


def with_image(
    view: dict[str, Any], image: Image.Image | None, text: str, width: int
) -> MimeBundle:
    """Add an image to what a widget displays.

    A running notebook shows the widget and ignores the image. `tools/nbtool.py` stores the image
    and removes the widget, which needs a kernel.

    Args:
        view: What ipywidgets displays, by MIME type.
        image: What the widget shows now, or None if it shows no image yet. It is enlarged to the
            size that it has in the widget, without smoothing.
        text: The text alternative of the image. It replaces the repr of the widget.
        width: Of the image, in CSS pixels.

    Returns:
        Data and metadata by MIME type, as IPython's `_repr_mimebundle_` returns them.
    """
    data = {**view, "text/plain": text}
    if image is None:
        return data, {}
    scale = max(1, width // image.width)
    size = (image.width * scale, image.height * scale)
    enlarged = image.resize(size, Image.Resampling.NEAREST)
    data["image/png"] = base64.b64encode(png(enlarged)).decode()
    return data, {"image/png": {"alt": text, "width": width}}
