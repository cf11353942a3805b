"""The widget of notebook 01: interpolation between two images in three representations."""

from collections.abc import Sequence

import ipywidgets as widgets
from PIL import Image
from torch import Tensor

from sdlearn.course.figures import grid
from sdlearn.course.figures.latents import blends
from sdlearn.course.widgets.figure_widget import FigureWidget
from sdlearn.evaluation.image_metrics import as_tensor, psnr
from sdlearn.utils.images import to_pil
from sdlearn.vae import VAE


class LatentBlendWidget(FigureWidget):
    """Two images and a weight: interpolated in pixels, in k PCA values per patch, and in latents.

    At weight 0 and 1 the three are an image and its two reconstructions.

    Attributes:
        image: The figure on display.
    """

    def __init__(
        self, images: Sequence[Image.Image], vae: VAE, mean: Tensor, basis: Tensor, width: int = 600
    ) -> None:
        """Build the widget.

        Args:
            images: Images of one size.
            vae: The autoencoder of the latents.
            mean: See `figures.latents.project_patches`.
            basis: See `figures.latents.project_patches`.
            width: Of the figure, in CSS pixels.
        """
        self.x = as_tensor(images)
        self.vae, self.mean, self.basis = vae, mean, basis
        self.width = width
        row = {"style": {"description_width": "9em"}, "layout": {"width": "32em"}}
        last = len(images) - 1
        self.first = widgets.IntSlider(value=0, max=last, description="First image", **row)
        self.second = widgets.IntSlider(
            value=min(1, last), max=last, description="Second image", **row
        )
        self.weight = widgets.FloatSlider(value=0, max=1, step=0.05, description="Weight", **row)
        self.numbers = widgets.IntSlider(
            value=4, max=len(basis), description="Values per patch", **row
        )
        super().__init__([self.first, self.second, self.weight, self.numbers])

    def update(self) -> None:
        """Show the images of the current settings and give their PSNR."""
        first, second, weight = self.first.value, self.second.value, self.weight.value
        k, a, b = self.numbers.value, self.x[[first]], self.x[[second]]
        seen = blends(a, b, weight, self.vae, self.mean, self.basis, k)
        headings = ["pixels", f"PCA, k = {k}", "latents"]
        self.image = grid([to_pil(seen)], headings, scale=3, letters=15)
        if weight in (0, 1):
            image, name = (a, first) if weight == 0 else (b, second)
            directions, latents = psnr(seen[1:], image.expand(2, -1, -1, -1)).tolist()
            sentence = (
                f"Image {name} with {k} PCA values for each patch of 8 × 8 pixels: "
                f"{directions:.1f} dB; with the 4 of its latent: {latents:.1f} dB."
            )
        else:
            sentence = f"Image {first} and image {second}, {weight:.0%} of the way."
        self.show(sentence, f"Three pictures. {sentence}")
