"""The widget of notebook 19: few steps on the flow path, with the shipped or the few-step model."""

import ipywidgets as widgets
import torch
from PIL import Image

from sdlearn import flow
from sdlearn.course.figures.images import grid
from sdlearn.course.widgets.figure_widget import FigureWidget
from sdlearn.guidance import classifier_free_guidance
from sdlearn.pipeline import StableDiffusion

MOST = 6  # estimates that fit side by side


class FlowWidget(FigureWidget):
    """Generate an image with chosen steps, shift and guidance, and show its estimates.

    Attributes:
        images: The estimates of the clean image at up to MOST steps, then the image.
        times: The times of the steps.
        calls: Number of U-Net calls for this image.
    """

    def __init__(
        self,
        models: dict[str, StableDiffusion],
        prompt: str = "a red cat to the left of a blue house on the sand at night",
        width: int = 480,
    ) -> None:
        """Build the widget.

        Args:
            models: The models to choose from, by name; their latents all have the same shape.
            prompt: The initial prompt.
            width: Of the figure, in CSS pixels.
        """
        self.models, self.width = models, width
        row = {"style": {"description_width": "7em"}, "layout": {"width": "34em"}}
        live = {"continuous_update": False, **row}
        self.prompt = widgets.Text(
            value=prompt, description="Prompt", continuous_update=False, **row
        )
        self.model = widgets.Dropdown(options=[*models], description="Model", **row)
        self.steps = widgets.IntSlider(value=4, min=1, max=12, description="Steps", **live)
        self.shift = widgets.FloatSlider(
            value=1.0, min=0.5, max=6, step=0.5, description="Shift", **live
        )
        self.guidance = widgets.FloatSlider(
            value=1.5, min=1, max=5, step=0.5, description="Guidance", **live
        )
        self.seed = widgets.BoundedIntText(value=0, max=9999, description="Seed", **row)
        super().__init__(
            [self.prompt, self.model, self.steps, self.shift, self.guidance, self.seed]
        )

    def update(self) -> None:
        """Generate the image for the current settings and describe it."""
        self.images = self.sample()
        names = [f"step {k}" for k in self.shown] + ["image"]
        self.image = grid([self.images], names, scale=2)
        twice = " (two a step, for guidance)" if self.calls > self.steps.value else ""
        model = self.model.value
        times = f"time{'s' * (self.steps.value > 1)} "
        times += ", ".join(f"{t:.2f}" for t in self.times[:-1])
        sentence = (
            f"{model[:1].upper()}{model[1:]}, {self.calls} call{'s' * (self.calls > 1)} of the "
            f"U-Net{twice} at {times}, guidance {self.guidance.value:g}, prompt "
            f"“{self.prompt.value}”."
        )
        self.stored_caption = sentence
        self.show(sentence, f"The estimates along the way and the final image. {sentence}")

    @torch.inference_mode()
    def sample(self) -> list[Image.Image]:
        """Generate with Euler's method and return the estimates and the image."""
        sd, scale = self.models[self.model.value], self.guidance.value
        cond, uncond = sd.text([self.prompt.value]), sd.text([""])
        network = classifier_free_guidance(sd.unet, cond, uncond, scale)
        self.times = flow.path(self.steps.value, flow.last_time(sd.schedule), self.shift.value)
        self.calls = self.steps.value * (1 if scale == 1 else 2)
        side = sd.spec.resolution // sd.vae.factor
        shape = (1, sd.unet.config.in_channels, side, side)
        z = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed.value))
        x = flow.from_latent(z.to(sd.device), self.times[0])
        states = [*flow.euler(flow.velocity_model(network, sd.schedule), x, self.times)][1:]
        last = len(states) - 1
        some = torch.linspace(0, last, min(MOST, last + 1)).round().long().tolist()
        self.shown = [k + 1 for k in some[:-1]]
        return sd.to_images(torch.cat([*(states[k - 1].x_0 for k in self.shown), states[-1].x]))
