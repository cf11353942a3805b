"""The widget of notebook 18: a prompt and the strengths of several adapters."""

from collections.abc import Mapping

import ipywidgets as widgets
from PIL import Image

from sdlearn.course.figures.images import grid
from sdlearn.course.widgets.figure_widget import FigureWidget
from sdlearn.lora import Adapter, attach
from sdlearn.pipeline import StableDiffusion


class AdapterWidget(FigureWidget):
    """A slider for each adapter's strength, and the prompt's image without and with adapters.

    Attributes:
        drawn: The image with the adapters.
        plain: The image without them, from the same noise.
    """

    def __init__(
        self,
        sd: StableDiffusion,
        adapters: Mapping[str, Adapter],
        prompt: str,
        steps: int = 8,
        width: int = 420,
    ) -> None:
        """Build the widget, leaving no adapters attached to the model.

        Args:
            sd: A model.
            adapters: Slider name -> an adapter of its U-Net, not attached.
            prompt: The initial prompt.
            steps: Sampling steps of every image.
            width: Width of the figure, in CSS pixels.
        """
        self.sd, self.adapters, self.steps, self.width = sd, adapters, steps, width
        row = {"style": {"description_width": "7em"}, "layout": {"width": "34em"}}
        self.prompt = widgets.Text(
            value=prompt, description="Prompt", continuous_update=False, **row
        )
        self.strengths = {
            name: widgets.FloatSlider(
                value=1.0, min=-1, max=2, step=0.1, description=name, continuous_update=False, **row
            )
            for name in adapters
        }
        self.seed = widgets.BoundedIntText(value=0, max=9999, description="Seed", **row)
        super().__init__([self.prompt, *self.strengths.values(), self.seed])

    def update(self) -> None:
        """Generate the images for the current settings and describe them."""
        self.plain = self.sample({})
        self.drawn = self.sample({name: s.value for name, s in self.strengths.items()})
        self.image = grid([[self.plain, self.drawn]], ["without", "with adapters"], scale=3)
        at = ", ".join(f"{name} {s.value:.1f}" for name, s in self.strengths.items())
        sentence = f"“{self.prompt.value}”, seed {self.seed.value}; strengths: {at}."
        self.stored_caption = sentence
        self.show(sentence, f"An image without the adapters and one with them. {sentence}")

    def sample(self, strengths: Mapping[str, float]) -> Image.Image:
        """Generate an image with adapters of these strengths."""
        unet = self.sd.unet
        attached = [attach(unet, self.adapters[name], s) for name, s in strengths.items()]
        try:
            (image,) = self.sd.text_to_image(
                self.prompt.value, steps=self.steps, seed=self.seed.value, progress=False
            )
        finally:
            for each in attached:
                each.detach()
        return image
