"""The live part of notebook 10: what guidance makes of the cats on the line."""

import html
import io

import ipywidgets as widgets
from PIL import Image

from sdlearn.course.figures.guidance import (
    BETWEEN,
    GRID,
    Bells,
    bells,
    log_density,
    moments,
    outline,
    shares_of,
    sharpened,
    walkers,
)
from sdlearn.course.figures.pages import img, png

AWAY = {"nothing (the empty prompt)": "", "dog (a negative prompt)": "dog"}


class Guide(widgets.VBox):
    """Scale, what is led away from, and the times of guidance; the walkers and both densities.

    `picture` is what is shown; `mean`, `spread` and `grown` are the walkers', the last one the part
    of them that is larger than the middle between kittens and grown cats.
    """

    def __init__(self, scale: float = 3.0, width: int = 720) -> None:
        """scale: 0 to 8. width: in CSS pixels."""
        self.width = width
        row = {"style": {"description_width": "8em"}, "layout": {"width": "36em"}}
        self.scale = widgets.FloatSlider(
            value=scale, min=0, max=8, step=0.25, description="Scale s",
            continuous_update=False, **row,
        )  # fmt: skip
        self.away = widgets.Dropdown(options=AWAY, description="Away from", **row)
        self.times = widgets.IntRangeSlider(
            value=(0, 999), min=0, max=999, description="Guided for t in",
            continuous_update=False, **row,
        )  # fmt: skip
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        controls = [self.scale, self.away, self.times]
        for control in controls:
            control.observe(lambda _: self.look(), "value")
        self.look()
        super().__init__([*controls, self.message, self.view])

    def look(self) -> None:
        """Send the walkers with the current settings, and say where they arrive."""
        scale, away, times = self.scale.value, self.away.value, self.times.value
        ends = walkers(scale, away, times)
        goal = sharpened(away, scale)
        self.mean, self.spread = float(ends.mean()), float(ends.std())
        self.grown = float((ends > BETWEEN).double().mean())
        means, spreads, part = moments(goal)
        told = "nothing" if away == "" else away
        sentence = (
            f"Scale {scale:g}, away from {told}, guided for t from {times[0]} to {times[1]}: the "
            f"walkers have mean {self.mean:.2f} and spread {self.spread:.2f}, and {self.grown:.0%} "
            f"are larger than {BETWEEN:g}. The sharpened density: {means:.2f}, {spreads:.2f} and "
            f"{part:.0%}."
        )
        cats = GRID, log_density(GRID, shares_of("cat")).exp()
        part_of = Bells("", outline(ends), {"all cats": cats, "sharpened": (GRID, goal)})
        title = f"Cats, guided with scale {scale:g}, away from {told}"
        figure = bells([part_of], title, "the walkers", (-7, 3), 2.5)
        self.picture = Image.open(io.BytesIO(png(figure))).convert("L")
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'
        self.view.value = img(self.picture, f"Densities over the size. {sentence}", self.width)
