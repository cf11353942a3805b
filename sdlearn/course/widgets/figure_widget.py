"""The base of most widgets: controls, a sentence, and a figure."""

import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
from PIL import Image

from sdlearn.course.figures.images import img
from sdlearn.course.widgets.stored_image import MimeBundle, with_image


class FigureWidget(widgets.VBox):
    """Controls, a sentence that screen readers read out, and a figure below it.

    A subclass makes its controls and passes them to this class. Its `update` draws the figure for
    their values, at first and after every change, and ends with `show`.

    Attributes:
        image: The figure that is shown.
        alt: The text alternative of the figure.
        width: Of the figure, in CSS pixels.
        stored_caption: Settings and results for the stored page, which shows no controls.
    """

    image: Image.Image
    alt: str
    width: int
    stored_caption: str = ""

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
        self.alt = alt
        self.view.value = img(self.image, alt, self.width)

    def _repr_mimebundle_(self, **options: Any) -> MimeBundle:
        view = super()._repr_mimebundle_(**options)
        return with_image(view, self.image, self.alt, self.width, self.stored_caption)
