"""The live parts of the notebooks: ipywidgets around the functions of the package."""

import html
import warnings

import ipywidgets as widgets
from PIL import Image

from sdlearn.course import looking
from sdlearn.course.figures import grid, img, lit, tile
from sdlearn.pipeline import StableDiffusion
from sdlearn.storybook import captions

ALL_HEADS = -1  # a menu takes None for "nothing chosen"


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


class Lens(widgets.VBox):
    """From where on the page is a word looked at? For one word, layer, step and head.

    `picture` is what is shown: the page, the map of the word, and the page in its light.
    """

    def __init__(self, looks: looking.Looks, word: int = 1, width: int = 480) -> None:
        """looks: see looking.watch. word: its number at the beginning. width: in CSS pixels."""
        self.looks = looks
        self.width = width
        row = {"style": {"description_width": "6em"}, "layout": {"width": "32em"}}
        words = [(f"{k}: {word}", k) for k, word in enumerate(looks.words)]
        layers = [(name.replace(".transformer_blocks.0.attn2", ""), name) for name in looks.q]
        steps, heads = next(iter(looks.q.values())).shape[:2]
        every = [("mean of all", ALL_HEADS), *((str(k), k) for k in range(heads))]
        self.word = widgets.Dropdown(options=words, value=word, description="Word", **row)
        middle = layers[len(layers) // 2][1]
        self.layer = widgets.Dropdown(options=layers, value=middle, description="Layer", **row)
        self.head = widgets.Dropdown(options=every, description="Head", **row)
        self.step = widgets.IntSlider(
            value=steps, min=1, max=steps, description="Step", continuous_update=False, **row
        )
        self.sharpness = widgets.FloatSlider(
            value=1, min=0, max=4, step=0.25, description="Sharpness", **row
        )
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        controls = [self.word, self.layer, self.head, self.step, self.sharpness]
        for control in controls:
            control.observe(lambda _: self.look(), "value")
        self.look()
        super().__init__([*controls, self.message, self.view])

    def look(self) -> None:
        """Show the map of the current settings, and say its numbers."""
        head = None if self.head.value == ALL_HEADS else self.head.value
        shares = looking.weights(
            self.looks, self.layer.value, self.step.value - 1, head, self.sharpness.value
        )
        page, word = self.looks.picture, self.looks.words[self.word.value]
        seen = looking.word_map(self.looks, self.word.value, shares)
        self.picture = grid(
            [[page, tile(seen, size=page.width), lit(page, seen)]],
            ["the page", f"weight of {word}", "the page in its light"],
            scale=2,
        )
        sentence = (
            f"The word “{word}” gets {seen.mean():.1%} of all looks, and {seen.max():.1%} where it "
            f"gets most; an equal share would be {1 / shares.shape[1]:.1%}."
        )
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'
        self.view.value = img(self.picture, f"Map of the word {word}. {sentence}", self.width)


def unknown_words(sd: StableDiffusion, prompt: str) -> list[str]:
    """A sentence that names the words no storybook caption holds; none where all are known."""
    unknown = captions.unknown_words(prompt)
    if not unknown or sd.spec.name != "storybook":
        return []
    return [f"The storybook model never read: {', '.join(unknown)}."]
