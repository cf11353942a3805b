"""A canvas with its tools: brush size, eraser, clear and, for masks, invert."""

import html

import ipywidgets as widgets

from sdlearn.course.widgets.canvas import Canvas, inverted
from sdlearn.course.widgets.controls import ROW
from sdlearn.course.widgets.viewer import WIDTH, status

KEYS = (
    "Paint with the mouse, a finger or the keyboard. The arrow keys move the cursor by one pixel, "
    "or by 8 with Shift. Space paints, and Shift+Space or E erases. To paint a line, hold Space "
    "while you move the cursor."
)


class PaintBox(widgets.VBox):
    """A canvas, its tools, and a message that screen readers announce.

    The code that owns the box describes the paint with `say` and connects the button `clear`.
    """

    def __init__(
        self, side: int, label: str, tool: str, can_invert: bool, **canvas: object
    ) -> None:
        """Build the box.

        Args:
            side: Height and width of the canvas, in image pixels.
            label: The accessible name of the canvas.
            tool: The label of the brush-size slider.
            can_invert: Whether to show a button that swaps painted and unpainted pixels.
            **canvas: Other attributes of the Canvas.
        """
        most = max(2, side // 3)
        self.canvas = Canvas(
            columns=side, rows=side, shown_width=WIDTH, label=label, help=KEYS, **canvas
        )
        self.size = widgets.IntSlider(
            value=self.canvas.brush, min=1, max=most, description=tool,
            tooltip="Diameter in image pixels", **ROW,
        )  # fmt: skip
        button = {"width": "auto"}
        self.eraser = widgets.ToggleButton(
            description="Eraser", tooltip="Erase instead of painting", layout=button
        )
        self.clear = widgets.Button(description="Clear", tooltip="Erase everything", layout=button)
        self.invert = widgets.Button(
            description="Invert", tooltip="Swap painted and unpainted pixels", layout=button
        )
        self.message = widgets.HTML()
        # Linked in the browser, so that the brush changes at once even while the kernel draws.
        self.links = [
            widgets.jsdlink((self.size, "value"), (self.canvas, "brush")),
            widgets.jsdlink((self.eraser, "value"), (self.canvas, "erasing")),
        ]
        self.invert.on_click(lambda _: self.swap())
        tools = [self.eraser, self.clear, *([self.invert] if can_invert else [])]
        bar = widgets.HBox(tools, layout={"flex_flow": "row wrap"})
        super().__init__([self.canvas, self.message, self.size, bar])

    def swap(self) -> None:
        """Swap painted and unpainted pixels."""
        self.canvas.cells = inverted(self.canvas.cells)

    def say(self, sentence: str) -> None:
        """Show a sentence, which screen readers announce."""
        self.message.value = status(sentence)


def note(sentence: str) -> widgets.HTML:
    """Return a sentence in small type."""
    return widgets.HTML(f"<small>{html.escape(sentence)}</small>")
