"""The widget of notebook 03: a timestep, its frequencies as clocks, and its embedding."""

import math

import ipywidgets as widgets

from sdlearn.course.figures.timestep import clock_figure, clock_hands, frequencies
from sdlearn.course.widgets.figure_widget import FigureWidget

CHANNELS = (8, 16, 32, 64, 128, 320)
PERIODS = (10, 100, 1000, 10_000, 1_000_000)


class TimestepWidget(FigureWidget):
    """Two timesteps, the number of channels and max_period; clocks and the embedding.

    Attributes:
        image: The figure on display.
        similarity: Cosine similarity of the two embeddings; 1 for the same timestep.
    """

    def __init__(self, t: float = 500, other: float = 503, width: int = 570) -> None:
        """Build the widget.

        Args:
            t: The timestep at the start, 0 to 999.
            other: The other timestep at the start, 0 to 999.
            width: Of the figure, in CSS pixels.
        """
        self.width = width
        row = {"style": {"description_width": "9em"}, "layout": {"width": "36em"}}
        span = {"min": 0, "max": 999, "step": 0.25, "readout_format": ".2f"}
        self.t = widgets.FloatSlider(value=t, description="Timestep t", **span, **row)
        self.other = widgets.FloatSlider(
            value=other, description="Other timestep t'", **span, **row
        )
        self.channels = widgets.Dropdown(options=CHANNELS, value=32, description="Channels", **row)
        self.period = widgets.Dropdown(
            options=[(f"{period:,}", period) for period in PERIODS],
            value=10_000,
            description="max_period",
            **row,
        )
        super().__init__([self.t, self.other, self.channels, self.period])

    def update(self) -> None:
        """Show the clocks of the current settings and describe them."""
        t, other, dim, period = (
            self.t.value, self.other.value, self.channels.value, self.period.value
        )  # fmt: skip
        here, there = clock_hands(t, dim, period), clock_hands(other, dim, period)
        self.similarity = float(here @ there) / (dim // 2)
        round_once = int((frequencies(dim, period) * 1000 >= math.tau).sum())
        self.image = clock_figure(t, other, dim, period)
        sentence = (
            f"The embeddings of t = {t:g} and t' = {other:g} have the similarity "
            f"{self.similarity:.4f}; 1 means the same timestep. In 1000 steps {round_once} of "
            f"{dim // 2} frequencies make at least one turn."
        )
        self.show(sentence, f"Clocks, and the embedding as bars. {sentence}")
