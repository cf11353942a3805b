"""The widget of notebook 11: images at sizes that the model wasn't trained on."""

from collections.abc import Sequence

import ipywidgets as widgets
from PIL import Image

from sdlearn.course.widgets.figure_widget import FigureWidget
from sdlearn.evaluation.image_metrics import as_tensor
from sdlearn.evaluation.judge import Judge
from sdlearn.pipeline import StableDiffusion

SIDES = (48, 64, 80, 96, 112, 128)  # pixels


class ImageSizeWidget(FigureWidget):
    """Choose a prompt, a size and a seed; see the image and how many objects the judge counts.

    Attributes:
        image: The image on display.
        count: How many objects the judge found in it.
    """

    def __init__(
        self, sd: StableDiffusion, judge: Judge, prompts: list[str], steps: int = 10
    ) -> None:
        """Build the widget.

        Args:
            sd: The model.
            judge: The judge that counts the objects.
            prompts: The prompts to choose from.
            steps: Number of DPM-Solver++ steps, 1 or more.
        """
        self.sd, self.judge, self.steps = sd, judge, steps
        row = {"style": {"description_width": "6em"}, "layout": {"width": "32em"}}
        self.prompt = widgets.Dropdown(options=prompts, description="Prompt", **row)
        self.high = widgets.SelectionSlider(
            options=SIDES, value=64, description="Height", continuous_update=False, **row
        )
        self.wide = widgets.SelectionSlider(
            options=SIDES, value=64, description="Width", continuous_update=False, **row
        )
        self.seed = widgets.BoundedIntText(value=0, min=0, max=2**31 - 1, description="Seed", **row)
        super().__init__([self.prompt, self.high, self.wide, self.seed])

    def update(self) -> None:
        """Generate the image for the current settings and count its objects."""
        (self.image,) = self.sd.text_to_image(
            self.prompt.value,
            height=self.high.value,
            width=self.wide.value,
            seed=self.seed.value,
            sampler="dpm_pp_2m",
            steps=self.steps,
            progress=False,
        )
        self.width = 3 * self.image.width
        self.count = count_objects(self.judge, [self.image])[0]
        size = f"{self.image.height} × {self.image.width}"
        objects = "1 object" if self.count == 1 else f"{self.count} objects"
        sentence = f"{size} pixels, seed {self.seed.value}: the judge counts {objects}."
        self.show(sentence, f"The image for “{self.prompt.value}”. {sentence}")


def count_objects(judge: Judge, images: Sequence[Image.Image]) -> list[int]:
    """Count the objects that the judge finds in each of several images.

    The images aren't resized, so the judge looks for objects at the scale of its 64-pixel images.

    Args:
        judge: The judge.
        images: Images of the same size.

    Returns:
        The number of objects in each image.
    """
    return [len(reading.things) for reading in judge.read(as_tensor(images))]
