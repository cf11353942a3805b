"""Two images of the playground side by side, with their difference."""

import html

import ipywidgets as widgets
import numpy as np
from PIL import Image

from sdlearn.course.figures import img

WIDTH = 192  # of each image, in CSS pixels


def absolute_difference(a: Image.Image, b: Image.Image, gain: float = 1.0) -> Image.Image:
    """Draw gain * |a - b| in grey levels, clipped at 255; both images have the same size."""
    levels = gain * np.abs(np.array(a.convert("RGB"), float) - np.array(b.convert("RGB"), float))
    return Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))


def mean_difference(a: Image.Image, b: Image.Image) -> float:
    """Return the mean of |a - b| over pixels and channels, in grey levels from 0 to 255."""
    return float(
        np.abs(np.array(a.convert("RGB"), float) - np.array(b.convert("RGB"), float)).mean()
    )


class Difference(widgets.VBox):
    """The images A and B, their difference, and a slider for its gain.

    Attributes:
        image: The difference that is shown; None without two images of the same size.
    """

    def __init__(self) -> None:
        """Make it empty; `show` fills it."""
        self.pair: tuple[Image.Image, Image.Image] | None = None
        self.image: Image.Image | None = None
        self.gain = widgets.IntSlider(
            value=4, min=1, max=16, description="Gain (×)",
            style={"description_width": "6em"}, layout={"width": "auto", "max_width": "30em"},
        )  # fmt: skip
        self.message, self.view = widgets.HTML(), widgets.HTML()
        self.gain.observe(lambda _: self.update(), "value")
        self.update()
        heading = widgets.HTML("<b>The difference between A and B</b>")
        super().__init__([heading, self.gain, self.message, self.view])

    def show(self, a: Image.Image | None, b: Image.Image | None) -> None:
        """Compare two images, or say that two are needed."""
        self.pair = None if a is None or b is None else (a, b)
        self.update()

    def update(self) -> None:
        """Draw the difference with the current gain, and say its mean."""
        self.image, self.view.value = None, ""
        if self.pair is None:
            self.say("Draw both to see where they differ.")
            return
        a, b = self.pair
        if a.size != b.size:
            self.say(
                f"A has {a.width} × {a.height} pixels and B {b.width} × {b.height}; "
                "only images of the same size can be compared."
            )
            return
        gain = self.gain.value
        self.image = absolute_difference(a, b, gain)
        mean = mean_difference(a, b)
        self.say(
            f"On average A and B differ by {mean:.1f} of 255 grey levels. "
            f"White is a difference of {255 / gain:.0f} grey levels or more."
        )
        shown = {"A": a, "B": b, f"|A − B| × {gain}": self.image}
        self.view.value = "".join(
            f'<figure style="display: inline-block; margin: 2px; max-width: 31%">'
            f"{img(each, f'{name}, enlarged', WIDTH, squares=False)}"
            f'<figcaption style="text-align: center">{html.escape(name)}</figcaption></figure>'
            for name, each in shown.items()
        )

    def say(self, sentence: str) -> None:
        """Show a sentence, which screen readers read out."""
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'
