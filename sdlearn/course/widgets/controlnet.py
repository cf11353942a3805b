"""The widget of notebook 14: place an object, and let its hint control the image."""

import ipywidgets as widgets
import numpy as np
import torch
from PIL import Image

from sdlearn.controlnet import ControlNet
from sdlearn.course.figures.images import grid
from sdlearn.course.widgets.figure_widget import FigureWidget
from sdlearn.evaluation.silhouettes import iou, silhouette
from sdlearn.pipeline import StableDiffusion
from sdlearn.storybook import HINTS, KINDS, Scene, Thing, render

SKY, GROUND = "day", "grass"


class ControlWidget(FigureWidget):
    """A kind, a position and a size make a hint; prompt, hint and scale make an image.

    Attributes:
        hint: The hint on display.
        drawn: The generated image on display.
        overlap: The IoU of the object's silhouettes in the image and in the hint's own page.
    """

    def __init__(
        self,
        sd: StableDiffusion,
        controlnet: ControlNet,
        prompt: str = f"a red house on the {GROUND} by {SKY}",
        steps: int = 8,
        width: int = 420,
    ) -> None:
        """Build the widget.

        Args:
            sd: The storybook model.
            controlnet: A ControlNet for all four kinds of hint.
            prompt: At the start. The overlap is measured for an image on grass by day.
            steps: Sampling steps of every image.
            width: Of the figure, in CSS pixels.
        """
        self.sd, self.controlnet, self.steps, self.width = sd, controlnet, steps, width
        row = {"style": {"description_width": "7em"}, "layout": {"width": "34em"}}
        live = {"continuous_update": False, "step": 0.02, **row}
        self.prompt = widgets.Text(
            value=prompt, description="Prompt", continuous_update=False, **row
        )
        self.kind = widgets.Dropdown(options=KINDS, description="Object", **row)
        self.kind_of_hint = widgets.Dropdown(options=[*HINTS], description="Hint", **row)
        self.x = widgets.FloatSlider(value=0.3, min=0.1, max=0.9, description="Across", **live)
        self.y = widgets.FloatSlider(value=0.64, min=0.1, max=0.9, description="Down", **live)
        self.size = widgets.FloatSlider(value=0.44, min=0.2, max=0.7, description="Size", **live)
        self.scale = widgets.FloatSlider(
            value=1.0, max=2, description="Scale", **(live | {"step": 0.1})
        )
        self.seed = widgets.BoundedIntText(value=0, max=9999, description="Seed", **row)
        super().__init__(
            [self.prompt, self.kind, self.kind_of_hint, self.x, self.y, self.size, self.scale,
             self.seed]
        )  # fmt: skip

    @property
    def scene(self) -> Scene:
        """The scene that the hint is drawn from."""
        kind = self.kind.value
        pose = "waving" if kind == "person" else None
        place = self.x.value, self.y.value, self.size.value
        return Scene(SKY, GROUND, (Thing(kind, "red", "plain", *place, pose),))

    def update(self) -> None:
        """Generate the image for the current settings and describe it."""
        self.hint, self.drawn, self.overlap = self.sample()
        self.image = grid([[self.hint, self.drawn]], ["hint", "image"], scale=3)
        sentence = (
            f"{self.kind_of_hint.value} of a {self.kind.value} at ({self.x.value:.2f}, "
            f"{self.y.value:.2f}), size {self.size.value:.2f}, scale {self.scale.value:.1f}, "
            f"prompt “{self.prompt.value}”: the silhouettes overlap by {self.overlap:.0%}."
        )
        self.stored_caption = sentence[0].upper() + sentence[1:]
        self.show(sentence, f"A hint and the image that it controls. {sentence}")

    def sample(self) -> tuple[Image.Image, Image.Image, float]:
        """Draw the hint, generate the image, and measure their overlap."""
        side, scene = self.sd.spec.resolution, self.scene
        hint = HINTS[self.kind_of_hint.value](scene, side)
        pixels = torch.from_numpy(np.array(hint)).permute(2, 0, 1)[None].float() / 255
        (image,) = self.sd.text_to_image(
            self.prompt.value, control=(self.controlnet, pixels), control_scale=self.scale.value,
            steps=self.steps, seed=self.seed.value, progress=False,
        )  # fmt: skip
        shapes = silhouette(image, scene), silhouette(render(scene, side), scene)
        return hint, image, iou(*shapes)
