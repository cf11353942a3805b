"""The live part of notebook 11: on the way from one picture to another, by words and by noise."""

import html

import ipywidgets as widgets
import torch
from PIL import Image
from torch import Tensor

from sdlearn.beginning import normals
from sdlearn.course.figures.pages import img
from sdlearn.course.figures.pipeline import WAYS, between
from sdlearn.guidance import denoiser, guided
from sdlearn.pipeline import StableDiffusion
from sdlearn.samplers import ddim
from sdlearn.text import Conditioning


class Crossing(widgets.VBox):
    """Two prompts and two seeds, and a picture anywhere between the four corners.

    Few steps of DDIM, so that it answers while a slider moves. `picture` is what is shown, `length`
    the length of the noise it was drawn from.
    """

    def __init__(
        self,
        sd: StableDiffusion,
        prompts: tuple[str, str],
        seeds: tuple[int, int] = (0, 1),
        steps: int = 8,
        width: int = 320,
    ) -> None:
        """steps: of every picture. width: of the picture on the page, in CSS pixels."""
        self.sd, self.steps, self.width = sd, steps, width
        self.states: dict[str, Tensor] = {}
        row = {"style": {"description_width": "9em"}, "layout": {"width": "36em"}}
        live = {"continuous_update": False, **row}
        first, second = prompts
        self.first = widgets.Text(value=first, description="First prompt", **live)
        self.second = widgets.Text(value=second, description="Second prompt", **live)
        self.words = widgets.FloatSlider(value=0, max=1, step=0.05, description="Words", **live)
        self.seeds = tuple(
            widgets.BoundedIntText(value=seed, max=9999, description=f"{name} seed", **row)
            for name, seed in zip(("First", "Second"), seeds, strict=True)
        )
        self.noise = widgets.FloatSlider(value=0, max=1, step=0.05, description="Noise", **live)
        self.way = widgets.Dropdown(options=WAYS, description="Way of the noise", **row)
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        controls = [self.first, self.second, self.words, *self.seeds, self.noise, self.way]
        for control in controls:
            control.observe(lambda _: self.look(), "value")
        self.look()
        super().__init__([*controls, self.message, self.view])

    def encoded(self, prompt: str) -> Tensor:
        """The states of a prompt (1, n, d), computed once."""
        if prompt not in self.states:
            with torch.inference_mode():
                self.states[prompt] = self.sd.text([prompt]).context
        return self.states[prompt]

    def look(self) -> None:
        """Draw the picture of the current place, and say where it is."""
        words, noise = self.words.value, self.noise.value
        self.picture, self.length = self.drawn(words, noise)
        sentence = (
            f"{words:.0%} of the way from the first prompt to the second, {noise:.0%} from seed "
            f"{self.seeds[0].value} to seed {self.seeds[1].value}, {self.way.value}: the noise has "
            f"the length {self.length:.1f}."
        )
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'
        self.view.value = img(self.picture, f"The picture there. {sentence}", self.width)

    def drawn(self, words: float, noise: float) -> tuple[Image.Image, float]:
        """The picture at this place, and the length of its noise."""
        sd, side = self.sd, self.sd.spec.size // self.sd.vae.factor
        shape = (1, sd.unet.config.out_channels, side, side)
        with torch.inference_mode():
            like = sd.unet.conv_in.weight
            start, end = (normals(seed.value, shape, like)() for seed in self.seeds)
            z = between(start, end, noise, self.way.value)
            states = self.encoded(self.first.value), self.encoded(self.second.value)
            cond = Conditioning(torch.lerp(*states, words))
            uncond = Conditioning(self.encoded(""))
            network = guided(sd.model, cond, uncond, sd.spec.guidance)
            (*_, last) = ddim(denoiser(network, sd.spec.predicts), z, sd.path(self.steps, "ddim"))
            (picture,) = sd.to_images(last.z)
        return picture, float(z.norm())
