"""The widget of notebook 12: interpolation between two images, by prompt and by noise."""

import ipywidgets as widgets
import torch
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.pipeline import INTERPOLATIONS, interpolate
from sdlearn.course.widgets.figure_widget import FigureWidget
from sdlearn.guidance import classifier_free_guidance, denoiser
from sdlearn.pipeline import StableDiffusion
from sdlearn.samplers import ddim
from sdlearn.text import Conditioning
from sdlearn.utils.noise import seeded_noise


class InterpolationWidget(FigureWidget):
    """Two prompts, two seeds, and an image at any interpolation between them.

    It samples with few steps of DDIM, which is fast enough for a slider.

    Attributes:
        image: The image on display.
        length: Norm of the noise that it was sampled from.
    """

    def __init__(
        self,
        sd: StableDiffusion,
        prompts: tuple[str, str],
        seeds: tuple[int, int] = (0, 1),
        steps: int = 8,
        width: int = 320,
    ) -> None:
        """Build the widget.

        Args:
            sd: The model.
            prompts: First and second prompt.
            seeds: First and second seed.
            steps: Sampling steps of every image.
            width: Of the image, in CSS pixels.
        """
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
        self.path = widgets.Dropdown(options=INTERPOLATIONS, description="Way of the noise", **row)
        super().__init__([self.first, self.second, self.words, *self.seeds, self.noise, self.path])

    def encoded(self, prompt: str) -> Tensor:
        """Return the embeddings of a prompt, (1, n, d), computed once."""
        if prompt not in self.states:
            with torch.inference_mode():
                self.states[prompt] = self.sd.text([prompt]).context
        return self.states[prompt]

    def update(self) -> None:
        """Sample the image at the current settings and describe where it is."""
        words, noise = self.words.value, self.noise.value
        self.image, self.length = self.sample(words, noise)
        sentence = (
            f"{words:.0%} of the way from the first prompt to the second, {noise:.0%} from seed "
            f"{self.seeds[0].value} to seed {self.seeds[1].value}, {self.path.value}: the noise "
            f"has norm {self.length:.1f}."
        )
        self.show(sentence, f"The interpolated image. {sentence}")

    def sample(self, words: float, noise: float) -> tuple[Image.Image, float]:
        """Sample an image.

        Args:
            words: 0 for the first prompt, 1 for the second.
            noise: 0 for the first seed, 1 for the second.

        Returns:
            The image and the norm of its initial noise.
        """
        sd, side = self.sd, self.sd.spec.resolution // self.sd.vae.factor
        shape = (1, sd.unet.config.out_channels, side, side)
        with torch.inference_mode():
            like = sd.unet.conv_in.weight
            start, end = (seeded_noise(seed.value, shape, like)() for seed in self.seeds)
            z = interpolate(start, end, noise, self.path.value)
            states = self.encoded(self.first.value), self.encoded(self.second.value)
            cond = Conditioning(torch.lerp(*states, words))
            uncond = Conditioning(self.encoded(""))
            network = classifier_free_guidance(sd.unet, cond, uncond, sd.spec.guidance_scale)
            (*_, last) = ddim(denoiser(network, sd.spec.predicts), z, sd.path(self.steps, "ddim"))
            (image,) = sd.to_images(last.z)
        return image, float(z.norm())
