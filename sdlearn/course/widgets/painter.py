"""The live part of notebook 00: a prompt, and the picture as it comes into being."""

import html
import warnings

import ipywidgets as widgets
from PIL import Image

from sdlearn.course.figures import img
from sdlearn.pipeline import StableDiffusion
from sdlearn.storybook import captions


class Painter(widgets.VBox):
    """A prompt, a seed, steps and guidance; a button; and the picture as it comes into being.

    While the loop runs, the current estimate of the finished picture is shown. What cannot be done
    is said in a sentence below the button. `picture` is the last finished picture, None before.
    """

    def __init__(self, sd: StableDiffusion, prompt: str, width: int = 320) -> None:
        """width: of the picture on the page, in CSS pixels."""
        self.sd = sd
        self.width = width
        self.picture: Image.Image | None = None
        row = {"style": {"description_width": "6em"}, "layout": {"width": "32em"}}
        self.prompt = widgets.Text(value=prompt, description="Prompt", **row)
        self.seed = widgets.BoundedIntText(value=0, min=0, max=2**31 - 1, description="Seed", **row)
        self.steps = widgets.IntSlider(
            value=sd.spec.steps, min=1, max=2 * sd.spec.steps, description="Steps", **row
        )
        self.guidance = widgets.FloatSlider(
            value=sd.spec.guidance, min=1, max=15, step=0.5, description="Guidance", **row
        )
        self.button = widgets.Button(description="Draw", button_style="primary")
        self.progress = widgets.IntProgress(description="Progress", **row)
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        # It stays enabled while it draws: a disabled button loses the keyboard's focus.
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
        """Make the picture of the current settings, or say why it cannot be made."""
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
        """Walk the trajectory, showing its estimate of the clean latent, decoded, at every step."""
        prompt, steps = self.prompt.value, self.steps.value
        for state in self.sd.trajectory(
            prompt, steps=steps, guidance_scale=self.guidance.value, seed=self.seed.value
        ):
            self.progress.value = state.step
            (estimate,) = self.sd.to_images(state.z_0)
            self.view.value = img(
                estimate, f"Estimate of the picture after {state.step} of {steps} steps", self.width
            )
        (self.picture,) = self.sd.to_images(state.z)
        self.view.value = img(self.picture, f"The picture drawn for: {prompt}", self.width)

    def say(self, sentence: str) -> None:
        """Show a sentence, which screen readers read out."""
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'


def unknown_words(sd: StableDiffusion, prompt: str) -> list[str]:
    """A sentence that names the words no storybook caption holds; none where all are known."""
    unknown = captions.unknown_words(prompt)
    if not unknown or sd.spec.name != "storybook":
        return []
    return [f"The storybook model never read: {', '.join(unknown)}."]
