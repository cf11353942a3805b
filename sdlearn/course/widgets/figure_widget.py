"""The base of most widgets: controls, a sentence, and a figure."""

import html
from collections.abc import Sequence

import ipywidgets as widgets
from PIL import Image

from sdlearn.course.figures.images import img


class FigureWidget(widgets.VBox):
    """Controls, a sentence that screen readers read out, and a figure below it.

    A subclass makes its controls and passes them to this class. Its `update` draws the figure for
    their values, at first and after every change, and ends with `show`.

    Attributes:
        image: The figure that is shown.
        width: Of the figure, in CSS pixels.
    """

    image: Image.Image
    width: int

    def __init__(self, controls: Sequence[widgets.Widget]) -> None:
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        for control in controls:
            control.observe(lambda _: self.update(), "value")
        self.update()
        super().__init__([*controls, self.message, self.view])

    def update(self) -> None:
        """Draw the figure for the present values of the controls."""
        raise NotImplementedError

    def show(self, sentence: str, alt: str) -> None:
        """Show `image`, with a sentence above it and a text alternative."""
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'
        self.view.value = img(self.image, alt, self.width)
