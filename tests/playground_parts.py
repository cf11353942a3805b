"""How a reader uses the playground: draws, reads its labels, and gives it a file."""

import io
import re
from datetime import UTC, datetime
from typing import Any

from ipywidgets import HTML
from PIL import Image

from sdlearn.course.widgets import Playground


def press(playground: Playground) -> None:
    """Asks for a drawing and waits until it is finished, stopped or refused."""
    playground.button.click()
    playground.wait()


def drawn(playground: Playground) -> Image.Image:
    press(playground)
    image = playground.panels[0].image
    assert image is not None
    return image


def text(widget: HTML) -> str:
    return re.sub(r"<[^>]*>", "", widget.value)


def file(content: bytes, name: str) -> tuple[dict[str, Any], ...]:
    return ({"name": name, "type": "", "size": len(content), "content": memoryview(content),
             "last_modified": datetime.now(UTC)},)  # fmt: skip


def as_png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()
