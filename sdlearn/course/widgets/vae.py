"""The widget of notebook 02: the same step from a page's latent, in two latent planes."""

from collections.abc import Sequence

import ipywidgets as widgets
import torch
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.vae import Decode, nearest_image, plane_view
from sdlearn.course.widgets.figure_widget import FigureWidget


class LatentPlaneWidget(FigureWidget):
    """Two sliders that make the same step in several latent planes of the same scale.

    In each plane the step starts at that plane's own latent of the chosen page, so the comparison
    is fair.

    Attributes:
        image: The figure on display: for each plane, the end of the step among the pages' latents,
            and the image decoded there.
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
        """Build the widget.

        Args:
            decoders: Each maps (b, 2) to images (b, 3, h, w) in [-1, 1].
            codes: For each decoder the latents (n, 2) of the pages.
            names: One for each decoder.
            pages: (n, 3, h, w) in [-1, 1].
            reach: The sliders range from -reach to reach.
            width: Of the figure, in CSS pixels.
        """
        self.planes, self.pages = (decoders, codes, names), pages
        self.reach, self.width = reach, width
        row = {"style": {"description_width": "6em"}, "layout": {"width": "32em"}}
        options = [("the middle", -1), *((f"image {k}", k) for k in range(len(pages)))]
        self.page = widgets.Dropdown(options=options, value=-1, description="From", **row)
        self.x, self.y = (
            widgets.FloatSlider(
                value=0, min=-reach, max=reach, step=reach / 25, description=name, **row
            )
            for name in ("step in z_0", "step in z_1")
        )
        super().__init__([self.page, self.x, self.y])

    @property
    def points(self) -> list[tuple[float, float]]:
        """The end of the step in each plane."""
        step = torch.tensor([self.x.value, self.y.value])
        _, codes, _ = self.planes
        page = self.page.value
        ends = [(latents[page] if page >= 0 else 0) + step for latents in codes]
        return [(x.item(), y.item()) for x, y in ends]

    def update(self) -> None:
        """Decode the end of the step in every plane and name the nearest images."""
        step = f"({self.x.value:.1f}, {self.y.value:.1f})".replace("-", "−")
        title = f"{self.page.label[0].upper()}{self.page.label[1:]}, moved by {step}"
        self.image: Image.Image = plane_view(*self.planes, self.points, title, self.reach)
        nearest = []
        for decode, point, name in zip(self.planes[0], self.points, self.planes[2], strict=True):
            with torch.no_grad():
                least, which = nearest_image(decode(torch.tensor([point])), self.pages)
            nearest.append(f"image {which.item()}, {least.item():.0f} grey levels away ({name})")
        sentence = f"Nearest image: {'; '.join(nearest)}."
        self.show(sentence, f"{title}. {sentence}")
