"""The widget of notebook 10: guidance on a one-dimensional mixture of Gaussians."""

import io

import ipywidgets as widgets
from PIL import Image

from sdlearn.course.figures.guidance import (
    GRID,
    THRESHOLD,
    DensityPanel,
    densities,
    density_from_quantiles,
    guided_samples,
    log_density,
    mixture_weights,
    moments,
    sharpened_density,
)
from sdlearn.course.figures.images import png
from sdlearn.course.widgets.figure_widget import FigureWidget

AWAY = {"nothing (the empty prompt)": "", "dog (a negative prompt)": "dog"}


class GuidanceWidget(FigureWidget):
    """Guidance scale, negative prompt and guided timesteps; the samples and both densities.

    Attributes:
        image: The figure on display.
        mean: Mean of the samples.
        std: Standard deviation of the samples.
        grown_fraction: Fraction of the samples above THRESHOLD, which are grown cats.
    """

    def __init__(self, scale: float = 3.0, width: int = 720, away: str = "") -> None:
        """Build the widget.

        Args:
            scale: Guidance scale at the start, 0 to 8.
            width: Of the figure, in CSS pixels.
            away: The negative prompt at the start, "" or "dog".
        """
        self.width = width
        row = {"style": {"description_width": "8em"}, "layout": {"width": "36em"}}
        self.scale = widgets.FloatSlider(
            value=scale, min=0, max=8, step=0.25, description="Scale s",
            continuous_update=False, **row,
        )  # fmt: skip
        self.away = widgets.Dropdown(options=AWAY, value=away, description="Away from", **row)
        self.times = widgets.IntRangeSlider(
            value=(0, 999), min=0, max=999, description="Guided for t in",
            continuous_update=False, **row,
        )  # fmt: skip
        super().__init__([self.scale, self.away, self.times])

    def update(self) -> None:
        """Sample with the current settings and describe the samples."""
        scale, away, times = self.scale.value, self.away.value, self.times.value
        ends = guided_samples(scale, away, times)
        goal = sharpened_density(away, scale)
        self.mean, self.std = float(ends.mean()), float(ends.std())
        self.grown_fraction = float((ends > THRESHOLD).double().mean())
        mean, std, fraction = moments(goal)
        negative = "nothing" if away == "" else away
        sentence = (
            f"Scale {scale:g}, away from {negative}, guided for t from {times[0]} to {times[1]}: "
            f"the samples have mean {self.mean:.2f} and standard deviation {self.std:.2f}, and "
            f"{self.grown_fraction:.0%} are larger than {THRESHOLD:g}. The sharpened density: "
            f"{mean:.2f}, {std:.2f} and {fraction:.0%}."
        )
        cats = GRID, log_density(GRID, mixture_weights("cat")).exp()
        part_of = DensityPanel(
            "", density_from_quantiles(ends), {"all cats": cats, "sharpened": (GRID, goal)}
        )
        title = f"Cats, guided with scale {scale:g}, away from {negative}"
        drawn = densities([part_of], title, "samples", (-7, 3), 2.5)
        self.image = Image.open(io.BytesIO(png(drawn.figure))).convert("RGB").quantize(64)
        self.show(sentence, f"Densities over the size. {sentence}")
