"""Images in a notebook: `show` a figure and its description, draw rows of images with `grid`."""

import base64
import html
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
from IPython.display import Image as Shown
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from sdlearn.course.figures.style import INK, Described

# ----------------------------------------------------------------------------------- in a notebook


def show(figure: Image.Image | Figure | Described, alt: str = "") -> None:
    """Display a figure and, folded below it, its description.

    The description is also the alternative text of the image. JupyterLab drops that text, so
    screen readers need the fold.

    Args:
        figure: What to show.
        alt: What the figure shows, in words. A `Described` figure brings its own.

    Raises:
        ValueError: If there is no description.
    """
    if isinstance(figure, Described):
        alt = alt or figure.words
        figure = figure.figure
    if not alt:
        raise ValueError("the figure has no description; give one as `alt`")
    display(Shown(data=png(figure), format="png", alt=alt))
    fold = f"<details><summary>The figure in words</summary>{html.escape(alt)}</details>"
    display({"text/html": fold, "text/plain": alt}, raw=True)


def png(figure: Image.Image | Figure, quick: bool = False) -> bytes:
    """Encode a figure as PNG. The same figure gives the same bytes.

    Args:
        figure: A figure of matplotlib, or an image.
        quick: Whether an image should take a fifth of the time and a third more bytes. Good for
            one that is shown at once and not stored.
    """
    file = io.BytesIO()
    if isinstance(figure, Figure):
        figure.savefig(file, format="png", metadata={"Software": None})
    else:
        figure.save(file, "PNG", **({"compress_level": 1} if quick else {"optimize": True}))
    return file.getvalue()


def img(picture: Image.Image, alt: str, width: int, squares: bool = True) -> str:
    """Return an image as an HTML element, for use inside a widget.

    Args:
        picture: The image, stored in the element as PNG.
        alt: Alternative text.
        width: In CSS pixels.
        squares: Enlarge without smoothing, so that pixels stay squares. Pass False for images that
            contain text.
    """
    data = base64.b64encode(png(picture, quick=True)).decode()
    rendering = "pixelated" if squares else "auto"
    return (
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}" width="{width}" '
        f'style="image-rendering: {rendering}; max-width: 100%">'
    )


# ----------------------------------------------------------------------------------- rows of images

OUTLINE = (170, 170, 170)


def grid(
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[str] = (),
    names: Sequence[str] = (),
    title: str = "",
    scale: int = 3,
    letters: int = 13,
) -> Image.Image:
    """Draw images of one size in rows, enlarged without smoothing.

    A thin grey outline makes a white image visible on the white background.

    Args:
        rows: The images. All rows have one length; the last may be shorter.
        columns: A heading for each column, or none. Long ones take several lines.
        names: A name for each row, drawn to its left, or none. It may have several lines.
        title: Written above the grid.
        scale: Side of an enlarged pixel, in pixels.
        letters: Size of the letters in pixels. A phone shrinks a wide grid to about 350 pixels.

    Raises:
        ValueError: If the lengths of rows, columns and names do not agree.
    """
    lengths = [len(row) for row in rows]
    across = len(columns) or max(lengths, default=0)
    full = bool(rows) and set(lengths[:-1]) <= {across} and 0 < lengths[-1] <= across
    if not full or (names and len(names) != len(rows)):
        raise ValueError(
            f"the rows have {lengths} images, with {len(columns)} headings and {len(names)} names; "
            "accepted: rows of one length (the last may be shorter), a heading for each column or "
            "none, and a name for each row or none"
        )
    font, bold, gap, line = label_font(letters), label_font(letters, bold=True), 6, letters + 7
    w, h = (scale * side for side in rows[0][0].size)
    lines = [text for name in names for text in name.split("\n")]
    left = gap + max((round(font.getlength(text)) + 2 * gap for text in lines), default=0)
    wide = max(left + across * (w + gap), 240)
    heading_lines = wrapped(title, bold, wide - 2 * gap)
    headings = [wrapped(heading, font, w - gap) for heading in columns]
    top = gap + line * (len(heading_lines) + max(map(len, headings), default=0))
    page = Image.new("RGB", (wide, top + len(rows) * (h + gap)), "white")
    pen = ImageDraw.Draw(page)
    for i, text in enumerate(heading_lines):
        pen.text((gap, gap + i * line), text, INK, bold)
    for i, texts in enumerate(headings):
        for k, text in enumerate(reversed(texts), start=1):
            pen.text((left + i * (w + gap) + w / 2, top - k * line), text, INK, font, anchor="ma")
    for j, row in enumerate(rows):
        y = top + j * (h + gap)
        if names:
            pen.text((gap, y + h / 2), names[j], INK, font, anchor="lm")
        for i, picture in enumerate(row):
            enlarged = picture.convert("RGB").resize((w, h), Image.Resampling.NEAREST)
            x = left + i * (w + gap)
            pen.rectangle((x - 1, y - 1, x + w, y + h), outline=OUTLINE)
            page.paste(enlarged, (x, y))
    return page


def letters_for(width: int) -> int:
    """Size of the letters, in pixels, of a grid whose images have this width together.

    A phone shrinks a grid of four images to little more than half its size.
    """
    return min(18, max(13, width // 24))


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Break a text between words into lines of at most `width` pixels."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@cache
def label_font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return matplotlib's own font, which is the same on every system."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def rows_of(
    tiles: Sequence[Image.Image],
    names: Sequence[str],
    title: str,
    across: int,
    scale: int = 2,
    letters: int = 13,
) -> Image.Image:
    """Draw images in rows of `across`, each with its name above it."""
    rows = [
        grid([tiles[i : i + across]], names[i : i + across], (), "" if i else title, scale, letters)
        for i in range(0, len(tiles), across)
    ]
    whole = Image.new(
        "RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white"
    )
    top = 0
    for row in rows:
        whole.paste(row, (0, top))
        top += row.height
    return whole
