"""The live part of notebook 07: a page in more and more noise, and whether it can still be told."""

import html
from collections.abc import Mapping, Sequence

import ipywidgets as widgets
import torch
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.pages import img
from sdlearn.course.figures.schedules import fog, nearest, noisy, told
from sdlearn.pipeline import to_pil
from sdlearn.schedule import NoiseSchedule
from sdlearn.vae import VAE


class Fog(widgets.VBox):
    """A schedule, a time and a page: its noisy latent, that decoded, and the nearest known page.

    The noise of a page stays the same, whatever the schedule and the time. `picture` is what is
    shown, `sentence` what is said; `found` is the number of the nearest page, None without signal.
    """

    def __init__(
        self,
        schedules: Mapping[str, NoiseSchedule],
        pages: Sequence[Image.Image],
        codes: Tensor,
        vae: VAE,
        width: int = 540,
    ) -> None:
        """schedules: by name, of equal length. pages: of one size; codes: their latents
        (n, 4, h, w). width: in CSS pixels."""
        self.schedules, self.pages, self.codes, self.vae = schedules, pages, codes, vae
        self.width = width
        row = {"style": {"description_width": "6em"}, "layout": {"width": "36em"}}
        last = min(schedule.num_steps for schedule in schedules.values()) - 1
        self.schedule = widgets.Dropdown(options=list(schedules), description="Schedule", **row)
        self.t = widgets.IntSlider(
            value=last // 2, max=last, description="Time t", continuous_update=False, **row
        )
        self.page = widgets.IntSlider(
            value=0, max=len(pages) - 1, description="Page", continuous_update=False, **row
        )
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        controls = [self.schedule, self.t, self.page]
        for control in controls:
            control.observe(lambda _: self.look(), "value")
        self.look()
        super().__init__([*controls, self.message, self.view])

    def look(self) -> None:
        """Show the chosen page at the chosen time, and say the numbers."""
        k, t = self.page.value, self.t.value
        alpha, sigma = self.schedules[self.schedule.value].at(t)
        z_0 = self.codes[[k]]
        eps = torch.randn(z_0.shape, generator=torch.Generator().manual_seed(k))
        z = noisy(z_0, eps, alpha, sigma)
        self.found = int(nearest(z, alpha, self.codes)[0]) if alpha > 0 else None
        if self.found is None:
            guess, seen = "all are equally near", None
        else:
            other = f"the nearest is page {self.found}, a wrong one"
            guess = "the nearest is the right one" if self.found == k else other
            seen = self.pages[self.found]
        self.picture = fog(self.pages[k], z, seen, self.decode)
        numbers = told(t, float(alpha), float(sigma))
        self.sentence = f"{numbers} Page {k}; of {len(self.pages)} pages {guess}."
        self.message.value = f'<span role="status">{html.escape(self.sentence)}</span>'
        self.view.value = img(self.picture, f"A page under noise. {self.sentence}", self.width)

    def decode(self, z: Tensor) -> Image.Image:
        with torch.no_grad():
            return to_pil(self.vae.to_image(z))[0]
