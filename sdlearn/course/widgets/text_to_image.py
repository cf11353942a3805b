"""The widget of notebook 00: a prompt, and the image while it is sampled."""

import html
import warnings
from typing import Any

import ipywidgets as widgets
from PIL import Image, ImageDraw

from sdlearn.course.figures import img
from sdlearn.course.figures.images import label_font
from sdlearn.course.figures.style import BLUE, GREY, INK
from sdlearn.course.widgets.stored_image import MimeBundle, with_image
from sdlearn.pipeline import StableDiffusion
from sdlearn.storybook import captions

STILL = 460  # the width of the stored picture, in pixels


class TextToImageWidget(widgets.VBox):
    """Prompt, seed, steps and guidance scale; a button; and the image while it is sampled.

    While the loop runs, the widget shows the current estimate of the final image. A sentence below
    the button says what is wrong with settings that cannot be drawn.

    Attributes:
        image: The last finished image, or None.
        alt: The text alternative of the image.
    """

    def __init__(self, sd: StableDiffusion, prompt: str, width: int = 320) -> None:
        """Build the widget.

        Args:
            sd: The model.
            prompt: The prompt at the start.
            width: Of the image, in CSS pixels.
        """
        self.sd = sd
        self.width = width
        self.image: Image.Image | None = None
        self.alt = "A widget that draws a prompt. Run this cell to use it."
        row = {"style": {"description_width": "6em"}, "layout": {"width": "32em"}}
        self.prompt = widgets.Text(value=prompt, description="Prompt", **row)
        self.seed = widgets.BoundedIntText(value=0, min=0, max=2**31 - 1, description="Seed", **row)
        self.steps = widgets.IntSlider(
            value=sd.spec.steps, min=1, max=2 * sd.spec.steps, description="Steps", **row
        )
        self.guidance = widgets.FloatSlider(
            value=sd.spec.guidance_scale, min=1, max=15, step=0.5, description="Guidance", **row
        )
        self.button = widgets.Button(description="Draw", button_style="primary")
        self.progress = widgets.IntProgress(description="Progress", **row)
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        # The button is never disabled, because a disabled button loses keyboard focus.
        self.button.on_click(lambda _: self.draw())
        self.say("Press Draw.")
        super().__init__(
            [
                self.prompt,
                self.seed,
                self.steps,
                self.guidance,
                self.button,
                self.progress,
                self.message,
                self.view,
            ]
        )

    def draw(self) -> None:
        """Draw the image of the current settings, or say why it cannot be drawn."""
        self.progress.value, self.progress.max = 0, self.steps.value
        self.say("Drawing …")
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                self.paint()
            except (ValueError, FloatingPointError) as error:
                self.say(f"This cannot be drawn: {error}.")
                return
        notes = [str(warning.message) for warning in warned]
        self.say(" ".join(["Done.", *unknown_words(self.sd, self.prompt.value), *notes]))

    def paint(self) -> None:
        """Run the sampler and show the decoded estimate of z_0 at every step."""
        prompt, steps = self.prompt.value, self.steps.value
        for state in self.sd.trajectory(
            prompt, steps=steps, guidance_scale=self.guidance.value, seed=self.seed.value
        ):
            self.progress.value = state.step
            (estimate,) = self.sd.to_images(state.z_0)
            self.view.value = img(
                estimate, f"Estimate of the picture after {state.step} of {steps} steps", self.width
            )
        (self.image,) = self.sd.to_images(state.z)
        self.alt = f"The picture drawn for: {prompt}"
        self.view.value = img(self.image, self.alt, self.width)

    def _repr_mimebundle_(self, **options: Any) -> MimeBundle:
        view = super()._repr_mimebundle_(**options)
        if self.image is None:
            return with_image(view, None, self.alt, self.width)
        settings = ", ".join(f"{c.description} {c.value:g}" for c in self.controls()[1:])
        alt = f"{self.alt}, below the controls ({settings}, and the button “Draw”)"
        return with_image(view, self.still(), alt, STILL)

    def controls(self) -> tuple[widgets.ValueWidget, ...]:
        """Return the controls, in the order in which they are shown."""
        return self.prompt, self.seed, self.steps, self.guidance

    def still(self) -> Image.Image:
        """Draw the widget as it is now, with its controls, for a page without a kernel."""
        assert self.image is not None
        font, line, left, right = label_font(13), 32, 84, STILL - 60
        times = self.width // self.image.width
        size = times * self.image.width, times * self.image.height
        page = Image.new("RGB", (STILL, 5 * line + size[1] + 12), "white")
        pen = ImageDraw.Draw(page)
        for k, control in enumerate(self.controls()):
            y = (k + 0.5) * line
            pen.text((left - 8, y), control.description, INK, font, "rm")
            if hasattr(control, "max") and control is not self.seed:
                x = left + (right - left) * (control.value - control.min) / (
                    control.max - control.min
                )
                pen.rectangle((left, y - 2, right, y + 1), GREY)
                pen.ellipse((x - 7, y - 7, x + 7, y + 7), BLUE)
                pen.text((right + 18, y), f"{control.value:g}", INK, font, "lm")
            else:
                pen.rectangle((left, y - 12, STILL - 5, y + 12), outline=GREY)
                pen.text((left + 8, y), str(control.value), INK, font, "lm")
        y = 4.5 * line
        pen.rectangle((left, y - 13, left + 120, y + 13), BLUE)
        pen.text((left + 60, y), self.button.description, "white", font, "mm")
        page.paste(self.image.resize(size, Image.Resampling.NEAREST), (left, 5 * line + 6))
        return page

    def say(self, sentence: str) -> None:
        """Show a sentence, which screen readers read out."""
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'


def unknown_words(sd: StableDiffusion, prompt: str) -> list[str]:
    """Name the words that no storybook caption contains, in a sentence.

    Returns:
        One sentence, or no sentence if every word is known or the model is another one.
    """
    unknown = captions.unknown_words(prompt)
    if not unknown or sd.spec.name != "storybook":
        return []
    return [f"The storybook model never read: {', '.join(unknown)}."]
