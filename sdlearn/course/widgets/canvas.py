"""A canvas on which the reader paints pixels, for masks and for hand-drawn hints.

The code that runs in the browser is canvas.js. When a stroke ends, it sends the marks of all
pixels, run-length encoded row by row: [mark, length, mark, length, …].
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from numpy.typing import NDArray
from PIL import Image

from sdlearn.course.figures.images import png

Marks = NDArray[np.uint8]  # (rows, columns)
UNTOUCHED, PAINTED, ERASED = 0, 1, 2
STYLE = """
.sd-canvas-box { max-width: 100%; }
.sd-canvas { display: block; max-width: 100%; touch-action: none; cursor: crosshair; }
.sd-canvas:focus-visible { outline: 3px solid #222; outline-offset: 1px; }
.sd-canvas-help, .sd-canvas-place { font-size: 12px; line-height: 1.4; }
.sd-canvas-help, .sd-canvas-place { color: var(--jp-ui-font-color1, #222); max-width: 40em; }
.sd-canvas-place { min-height: 1.4em; }
"""


class Canvas(anywidget.AnyWidget):
    """A canvas for painting pixels, over an image or on black.

    Attributes:
        columns, rows: Width and height in pixels.
        shown_width: Width on the page in CSS pixels; the canvas shrinks on a narrower page.
        background: The image under the paint, as a data URL; "" for black.
        paint: Colour of the painted pixels: red, green, blue and opacity, 0 … 255 each.
        erased: The mark that erasing leaves: UNTOUCHED shows the background again, ERASED is black.
        marks: The marks as runs, see `decode`. Runs that do not fit this canvas are refused.
        brush: Diameter of the brush in pixels, 1 or more.
        erasing: Whether a stroke erases.
        label: The accessible name.
        help: How to use the keyboard, shown below the canvas.
    """

    _esm = Path(__file__).with_name("canvas.js")
    _css = STYLE
    columns = traitlets.Int(64).tag(sync=True)
    rows = traitlets.Int(64).tag(sync=True)
    shown_width = traitlets.Int(384).tag(sync=True)
    background = traitlets.Unicode("").tag(sync=True)
    paint = traitlets.List(traitlets.Int(), [255, 255, 255, 255]).tag(sync=True)
    erased = traitlets.Int(UNTOUCHED).tag(sync=True)
    marks = traitlets.List(traitlets.Int()).tag(sync=True)
    brush = traitlets.Int(4).tag(sync=True)
    erasing = traitlets.Bool(False).tag(sync=True)
    label = traitlets.Unicode("").tag(sync=True)
    help = traitlets.Unicode("").tag(sync=True)

    @traitlets.validate("marks")
    def check_marks(self, proposal: dict[str, Any]) -> list[int]:
        """Return the runs if they fit this canvas; raise TraitError otherwise."""
        runs = proposal["value"]
        try:
            decode(runs, self.rows, self.columns)
        except ValueError as error:
            raise traitlets.TraitError(str(error)) from error
        return list(runs)

    @property
    def cells(self) -> Marks:
        """The mark of each pixel."""
        return decode(self.marks, self.rows, self.columns)

    @cells.setter
    def cells(self, cells: Marks) -> None:
        self.marks = encode(cells)

    def show(self, image: Image.Image | None) -> None:
        """Show an image under the paint; None for black."""
        data = "" if image is None else base64.b64encode(png(image, quick=True)).decode()
        self.background = data and f"data:image/png;base64,{data}"


def encode(cells: Marks) -> list[int]:
    """Return the marks (rows, columns) as runs [mark, length, mark, length, …], row by row."""
    flat = cells.ravel()
    if not flat.any():
        return []
    starts = np.flatnonzero(np.diff(flat, prepend=flat[0] + 1))
    lengths = np.diff(starts, append=len(flat))
    return np.stack([flat[starts].astype(int), lengths], axis=1).ravel().tolist()


def decode(runs: Sequence[int], rows: int, columns: int) -> Marks:
    """Return the marks (rows, columns) that `encode` made into runs; an empty list is no paint.

    Raises:
        ValueError: If the runs hold anything but marks, or do not cover exactly these pixels.
    """
    wrong = f"marks must be runs of {UNTOUCHED}, {PAINTED} or {ERASED} over {rows * columns} pixels"
    if not runs:
        return np.zeros((rows, columns), np.uint8)
    if len(runs) % 2 or any(type(each) is not int for each in runs):
        raise ValueError(f"{wrong}: [mark, length, …], in whole numbers")
    marks, lengths = runs[::2], runs[1::2]
    if not set(marks) <= {UNTOUCHED, PAINTED, ERASED}:
        raise ValueError(f"{wrong}; these have the marks {sorted(set(marks))[:5]}")
    if min(lengths) < 1 or sum(lengths) != rows * columns:
        raise ValueError(
            f"{wrong}; the shortest of these has length {min(lengths)}, and together they cover "
            f"{sum(lengths)}"
        )
    return np.repeat(np.array(marks, np.uint8), lengths).reshape(rows, columns)


def inverted(cells: Marks) -> Marks:
    """Return the marks with painted pixels untouched and all others painted."""
    return np.where(cells == PAINTED, UNTOUCHED, PAINTED).astype(np.uint8)


def mask_of(cells: Marks) -> Image.Image | None:
    """Return the painted pixels in white on black (mode "L"); None if no pixel is painted."""
    painted = cells == PAINTED
    return Image.fromarray(painted * np.uint8(255)) if painted.any() else None


def cells_of(mask: Image.Image | None, rows: int, columns: int) -> Marks:
    """Return marks that are PAINTED where a mask (mode "L") is at least half white."""
    if mask is None:
        return np.zeros((rows, columns), np.uint8)
    shades = np.asarray(mask.resize((columns, rows), Image.Resampling.NEAREST))
    return np.where(shades >= 127.5, PAINTED, UNTOUCHED).astype(np.uint8)


def painted_over(base: Image.Image | None, cells: Marks) -> Image.Image:
    """Return the base image in RGB (black if None), white where painted and black where erased."""
    rows, columns = cells.shape
    black = Image.new("RGB", (columns, rows))
    shades = np.array(black if base is None else base.convert("RGB").resize((columns, rows)))
    shades[cells == PAINTED], shades[cells == ERASED] = 255, 0
    return Image.fromarray(shades)
