"""The live part of notebook 02: one point, walked through two latent planes at once."""

import html
from collections.abc import Sequence

import ipywidgets as widgets
from PIL import Image
from torch import Tensor

from sdlearn.course.figures import img
from sdlearn.course.figures.autoencoding import Decode, plane_view


class Walk(widgets.VBox):
    """Two sliders move a point through latent planes of the same scale, side by side.

    `picture` is what is shown: for each plane the place of the point among the codes of the known
    pages, and what is decoded there.
    """

    def __init__(
        self,
        decoders: Sequence[Decode],
        codes: Sequence[Tensor],
        names: Sequence[str],
        reach: float = 2.5,
        width: int = 520,
    ) -> None:
        """decoders: each maps (b, 2) to pictures (b, 3, h, w) in [-1, 1]. codes: for each the codes
        (n, 2) of the known pages. reach: of the sliders. width: on the page, in CSS pixels."""
        self.planes = (decoders, codes, names)
        self.reach, self.width = reach, width
        row = {"style": {"description_width": "6em"}, "layout": {"width": "32em"}}
        self.x, self.y = (
            widgets.FloatSlider(
                value=0, min=-reach, max=reach, step=reach / 25, description=name, **row
            )
            for name in ("z_0", "z_1")
        )
        pages = [("(none)", -1), *((f"page {k}", k) for k in range(len(codes[0])))]
        self.page = widgets.Dropdown(options=pages, value=-1, description="Go to", **row)
        self.plane = widgets.Dropdown(
            options=[(name, k) for k, name in enumerate(names)], description="in", **row
        )
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        for slider in (self.x, self.y):
            slider.observe(lambda _: self.look(), "value")
        for choice in (self.page, self.plane):
            choice.observe(lambda _: self.go(), "value")
        self.look()
        super().__init__([self.page, self.plane, self.x, self.y, self.message, self.view])

    def go(self) -> None:
        """Move the point to the code of the chosen page in the chosen plane."""
        if self.page.value >= 0:
            x, y = self.planes[1][self.plane.value][self.page.value].tolist()
            self.x.value, self.y.value = x, y

    def look(self) -> None:
        """Show both planes at the sliders' point."""
        point = (self.x.value, self.y.value)
        self.picture: Image.Image = plane_view(*self.planes, point, self.reach)
        _, codes, names = self.planes
        distances = [
            f"{(places - places.new_tensor(point)).norm(dim=1).min():.2f} ({name})"
            for places, name in zip(codes, names, strict=True)
        ]
        sentence = f"Distance to the nearest code: {', '.join(distances)}."
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'
        self.view.value = img(
            self.picture, f"The pictures at z = ({point[0]:.2f}, {point[1]:.2f})", self.width
        )
