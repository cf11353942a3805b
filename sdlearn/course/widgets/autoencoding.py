"""The live part of notebook 02: a step from the code of a page, in two latent planes at once."""

import html
from collections.abc import Sequence

import ipywidgets as widgets
import torch
from PIL import Image
from torch import Tensor

from sdlearn.course.figures import img
from sdlearn.course.figures.autoencoding import Decode, plane_view, to_nearest


class Walk(widgets.VBox):
    """Two sliders make a step, the same in latent planes of the same scale, side by side.

    It begins in each plane at that plane's own code of the chosen page, so that the planes are
    compared fairly. `picture` is what is shown: for each plane where the step ends among the codes
    of the pages, and what is decoded there.
    """

    def __init__(
        self,
        decoders: Sequence[Decode],
        codes: Sequence[Tensor],
        names: Sequence[str],
        pages: Tensor,
        reach: float = 2.5,
        width: int = 520,
    ) -> None:
        """decoders: each maps (b, 2) to pictures (b, 3, h, w) in [-1, 1]. codes: for each the codes
        (n, 2) of the pages (n, 3, h, w). reach: of the sliders. width: on the page, in CSS pixels.
        """
        self.planes, self.pages = (decoders, codes, names), pages
        self.reach, self.width = reach, width
        row = {"style": {"description_width": "6em"}, "layout": {"width": "32em"}}
        options = [("the middle", -1), *((f"page {k}", k) for k in range(len(pages)))]
        self.page = widgets.Dropdown(options=options, value=-1, description="From", **row)
        self.x, self.y = (
            widgets.FloatSlider(
                value=0, min=-reach, max=reach, step=reach / 25, description=name, **row
            )
            for name in ("step in z_0", "step in z_1")
        )
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        for control in (self.page, self.x, self.y):
            control.observe(lambda _: self.look(), "value")
        self.look()
        super().__init__([self.page, self.x, self.y, self.message, self.view])

    @property
    def points(self) -> list[tuple[float, float]]:
        """Where the step ends in each plane."""
        step = torch.tensor([self.x.value, self.y.value])
        _, codes, _ = self.planes
        page = self.page.value
        ends = [(places[page] if page >= 0 else 0) + step for places in codes]
        return [(x.item(), y.item()) for x, y in ends]

    def look(self) -> None:
        """Show both planes where the step ends."""
        title = f"From {self.page.label}, and a step of ({self.x.value:.1f}, {self.y.value:.1f})"
        self.picture: Image.Image = plane_view(*self.planes, self.points, title, self.reach)
        said = []
        for decode, point, name in zip(self.planes[0], self.points, self.planes[2], strict=True):
            with torch.no_grad():
                least, which = to_nearest(decode(torch.tensor([point])), self.pages)
            said.append(f"page {which.item()}, {least.item():.0f} levels away ({name})")
        sentence = f"Nearest page: {'; '.join(said)}."
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'
        self.view.value = img(self.picture, title, self.width)
