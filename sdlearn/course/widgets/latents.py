"""The live part of notebook 01: two pages, squeezed and blended."""

import html
from collections.abc import Sequence

import ipywidgets as widgets
from PIL import Image
from torch import Tensor

from sdlearn.course.figures import grid, img
from sdlearn.course.figures.latents import blends
from sdlearn.evaluation.pixels import as_tensor, psnr
from sdlearn.pipeline import to_pil
from sdlearn.vae import VAE


class Blender(widgets.VBox):
    """Two pages and a weight: blended as pixels, as k numbers a patch, and as latents.

    At weight 0 and 1 there is nothing to blend, and the three pictures are the page and its two
    round trips. `picture` is what is shown.
    """

    def __init__(
        self, pages: Sequence[Image.Image], vae: VAE, mean: Tensor, basis: Tensor, width: int = 600
    ) -> None:
        """pages: of one size. mean, basis: see figures.latents.squeezed. width: in CSS pixels."""
        self.x = as_tensor(pages)
        self.vae, self.mean, self.basis = vae, mean, basis
        self.width = width
        row = {"style": {"description_width": "9em"}, "layout": {"width": "32em"}}
        last = len(pages) - 1
        self.first = widgets.IntSlider(value=0, max=last, description="First page", **row)
        self.second = widgets.IntSlider(
            value=min(1, last), max=last, description="Second page", **row
        )
        self.weight = widgets.FloatSlider(value=0, max=1, step=0.05, description="Weight", **row)
        self.numbers = widgets.IntSlider(
            value=4, max=len(basis), description="Numbers a patch", **row
        )
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        controls = [self.first, self.second, self.weight, self.numbers]
        for control in controls:
            control.observe(lambda _: self.look(), "value")
        self.look()
        super().__init__([*controls, self.message, self.view])

    def look(self) -> None:
        """Show the pictures of the current settings, and say how good they are."""
        first, second, weight = self.first.value, self.second.value, self.weight.value
        k, a, b = self.numbers.value, self.x[[first]], self.x[[second]]
        seen = blends(a, b, weight, self.vae, self.mean, self.basis, k)
        headings = ["pixels", f"{k} numbers a patch", "latents"]
        self.picture = grid([to_pil(seen)], headings, scale=3)
        if weight in (0, 1):
            page, name = (a, first) if weight == 0 else (b, second)
            directions, latents = psnr(seen[1:], page.expand(2, -1, -1, -1)).tolist()
            sentence = (
                f"Page {name} with {k} numbers for each patch of 8 × 8 pixels: "
                f"{directions:.1f} dB; with its latent of 4: {latents:.1f} dB."
            )
        else:
            sentence = f"Page {first} and page {second}, {weight:.0%} of the way."
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'
        self.view.value = img(self.picture, f"Three pictures. {sentence}", self.width)
