"""The widget of notebook 07: a noisy image at any timestep, and the image nearest to it."""

from collections.abc import Mapping, Sequence

import ipywidgets as widgets
import torch
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.noise_schedule import (
    add_noise,
    describe_noise_level,
    nearest_latent,
    noise_and_nearest,
)
from sdlearn.course.widgets.figure_widget import FigureWidget
from sdlearn.schedule import NoiseSchedule
from sdlearn.utils.images import to_pil
from sdlearn.vae import VAE


class NoiseScheduleWidget(FigureWidget):
    """A schedule, a timestep and a page: the noisy latent, decoded, and the nearest known page.

    The noise of a page is the same at every timestep and for every schedule.

    Attributes:
        image: The figure on display.
        sentence: Its description.
        found: Index of the nearest page, or None if there is no signal.
    """

    def __init__(
        self,
        schedules: Mapping[str, NoiseSchedule],
        pages: Sequence[Image.Image],
        codes: Tensor,
        vae: VAE,
        width: int = 540,
    ) -> None:
        """Build the widget.

        Args:
            schedules: By name, of equal length.
            pages: Images of one size.
            codes: Latents of the pages, (n, 4, h, w).
            vae: The autoencoder.
            width: Of the figure, in CSS pixels.
        """
        self.schedules, self.pages, self.codes, self.vae = schedules, pages, codes, vae
        self.width = width
        row = {"style": {"description_width": "6em"}, "layout": {"width": "36em"}}
        last = min(schedule.num_steps for schedule in schedules.values()) - 1
        self.schedule = widgets.Dropdown(options=list(schedules), description="Schedule", **row)
        self.t = widgets.IntSlider(
            value=last // 2, max=last, description="Timestep t", continuous_update=False, **row
        )
        self.page = widgets.IntSlider(
            value=0, max=len(pages) - 1, description="Image", continuous_update=False, **row
        )
        super().__init__([self.schedule, self.t, self.page])

    def update(self) -> None:
        """Show the chosen page at the chosen timestep and describe the noise level."""
        k, t = self.page.value, self.t.value
        alpha, sigma = self.schedules[self.schedule.value].at(t)
        z_0 = self.codes[[k]]
        eps = torch.randn(z_0.shape, generator=torch.Generator().manual_seed(k))
        z = add_noise(z_0, eps, alpha, sigma)
        self.found = int(nearest_latent(z, alpha, self.codes)[0]) if alpha > 0 else None
        if self.found is None:
            guess, seen = "all are equally near", None
        else:
            other = f"the nearest is image {self.found}, a wrong one"
            guess = "the nearest is the right one" if self.found == k else other
            seen = self.pages[self.found]
        self.image = noise_and_nearest(self.pages[k], z, seen, self.decode)
        level = describe_noise_level(t, float(alpha), float(sigma))
        self.sentence = f"{level} Image {k}: of {len(self.pages)} images, {guess}."
        self.show(self.sentence, f"An image under noise. {self.sentence}")

    def decode(self, z: Tensor) -> Image.Image:
        """Decode a latent (1, 4, h, w) to an image."""
        with torch.no_grad():
            return to_pil(self.vae.to_image(z))[0]
