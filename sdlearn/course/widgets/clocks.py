"""The live part of notebook 04: a time, its clocks and its vector."""

import html
import math

import ipywidgets as widgets

from sdlearn.course.figures.clocks import clock_page, frequencies, hands
from sdlearn.course.figures.pages import img

CHANNELS = (8, 16, 32, 64, 128, 320)
PERIODS = (10, 100, 1000, 10_000, 1_000_000)


class Clocks(widgets.VBox):
    """Two times, the number of channels and max_period; the clocks and the vector.

    `picture` is what is shown; `similarity` is that of the two vectors, 1 for the same time.
    """

    def __init__(self, t: float = 500, other: float = 503, width: int = 714) -> None:
        """t, other: the times at the beginning, 0 to 999. width: in CSS pixels."""
        self.width = width
        row = {"style": {"description_width": "9em"}, "layout": {"width": "36em"}}
        span = {"min": 0, "max": 999, "step": 0.25, "readout_format": ".2f"}
        self.t = widgets.FloatSlider(value=t, description="Time t", **span, **row)
        self.other = widgets.FloatSlider(value=other, description="Other time t'", **span, **row)
        self.channels = widgets.Dropdown(options=CHANNELS, value=32, description="Channels", **row)
        self.period = widgets.Dropdown(
            options=[(f"{period:,}", period) for period in PERIODS],
            value=10_000,
            description="max_period",
            **row,
        )
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        controls = [self.t, self.other, self.channels, self.period]
        for control in controls:
            control.observe(lambda _: self.look(), "value")
        self.look()
        super().__init__([*controls, self.message, self.view])

    def look(self) -> None:
        """Show the clocks of the current settings, and say what they tell."""
        t, other, dim, period = (
            self.t.value, self.other.value, self.channels.value, self.period.value
        )  # fmt: skip
        here, there = hands(t, dim, period), hands(other, dim, period)
        self.similarity = float(here @ there) / (dim // 2)
        round_once = int((frequencies(dim, period) * 1000 >= math.tau).sum())
        self.picture = clock_page(t, other, dim, period)
        sentence = (
            f"The vectors of t = {t:g} and t' = {other:g} have the similarity "
            f"{self.similarity:.4f}; 1 would be the same time. In 1000 steps {round_once} of "
            f"{dim // 2} clocks get round at least once."
        )
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'
        self.view.value = img(self.picture, f"Clocks and their vector. {sentence}", self.width)
