"""One setting of the playground: its controls, and what was drawn with them."""

import base64
import html
import io
import warnings
from collections.abc import Iterator, Sequence
from threading import Event

import ipywidgets as widgets
from PIL import Image
from torch import Tensor

from sdlearn import settings as stamped
from sdlearn.course import looking
from sdlearn.course.figures import grid, img, lit, tile
from sdlearn.course.figures.strip import chosen, strip
from sdlearn.course.widgets.painter import unknown_words
from sdlearn.pipeline import StableDiffusion, State, to_pil
from sdlearn.samplers import SAMPLERS
from sdlearn.settings import Settings

WIDTH = 288  # of a picture on the page, in CSS pixels
ROW = {
    "style": {"description_width": "7.5em"},
    "layout": widgets.Layout(width="auto", max_width="30em"),
}


class Panel(widgets.VBox):
    """The controls of one picture, and under them the picture, its strip and its words.

    `picture` and `made` are the last finished picture and the settings it was made with, None
    before the first. Drawing goes on in whatever thread calls `draw`; the rest is for the kernel's.
    """

    def __init__(self, sd: StableDiffusion, prompt: str, name: str) -> None:
        """name: what the panel is called where there are two."""
        self.sd = sd
        self.picture: Image.Image | None = None
        self.made: Settings | None = None
        self.start: Image.Image | None = None
        self.maps: Tensor | None = None
        spec = sd.spec
        self.title = widgets.HTML(f"<h3>{html.escape(name)}</h3>")
        self.prompt = widgets.Text(value=prompt, description="Prompt", **ROW)
        self.negative = widgets.Text(
            description="Not this", placeholder="a negative prompt, or nothing", **ROW
        )
        self.seed = widgets.BoundedIntText(value=0, max=2**31 - 1, description="Seed", **ROW)
        self.sampler = widgets.Dropdown(
            options=[*SAMPLERS], value=spec.sampler, description="Sampler", **ROW
        )
        self.steps = widgets.IntSlider(value=spec.steps, min=1, max=100, description="Steps", **ROW)
        self.guidance = widgets.FloatSlider(
            value=spec.guidance, min=0, max=15, step=0.5, description="Guidance", **ROW
        )
        self.upload = widgets.FileUpload(
            accept="image/*", description="Begin from a file …", layout={"width": "auto"}
        )
        self.again = widgets.Button(description="… from this picture", layout={"width": "auto"})
        self.afresh = widgets.Button(description="… from noise", layout={"width": "auto"})
        self.strength = widgets.FloatSlider(
            value=0.6, min=0, max=1, step=0.05, description="Strength", disabled=True, **ROW
        )
        self.begins = widgets.HTML()
        self.progress = widgets.IntProgress(description="Progress", **ROW)
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        self.words = widgets.ToggleButtons(
            description="Looks at", style={"button_width": "auto"}, layout={"display": "none"}
        )
        self.map = widgets.HTML()
        self.strip = widgets.HTML()
        self.link = widgets.HTML()
        self.upload.observe(lambda _: self.take_upload(), "value")
        self.again.on_click(lambda _: self.begin_from(self.picture))
        self.afresh.on_click(lambda _: self.begin_from(None))
        self.words.observe(lambda _: self.look(), "index")
        self.begin_from(None)
        self.say("Nothing drawn yet.")
        starts = widgets.HBox([self.upload, self.again, self.afresh])
        starts.layout.flex_flow = "row wrap"
        controls = [
            self.prompt, self.negative, self.seed, self.sampler, self.steps, self.guidance, starts,
            self.begins, self.strength, self.progress, self.message, self.link,
        ]  # fmt: skip
        columns = [
            widgets.VBox(controls, layout={"flex": "0 1 27em", "min_width": "18em"}),
            widgets.VBox([self.view, self.words], layout={"flex": "0 1 20em"}),
            widgets.VBox([self.map], layout={"flex": "0 1 20em"}),
        ]
        wrapping = widgets.HBox(columns, layout={"flex_flow": "row wrap"})
        super().__init__(
            [self.title, wrapping, self.strip], layout={"flex": "1 1 24em", "min_width": "18em"}
        )

    # ------------------------------------------------------------------------------- the controls

    def settings(self) -> Settings:
        """What the controls say now."""
        return Settings(
            self.prompt.value,
            self.negative.value,
            self.seed.value,
            self.steps.value,
            self.guidance.value,
            self.sampler.value,
            1.0 if self.start is None else self.strength.value,
            self.start,
        )

    def set(self, settings: Settings) -> None:
        """Let the controls say this. Raises ValueError where one of them cannot."""
        if settings.steps > self.steps.max or not 0 <= settings.guidance_scale <= self.guidance.max:
            raise ValueError(
                f"{settings.steps} steps of guidance {settings.guidance_scale} do not fit the "
                f"sliders, which end at {self.steps.max} and {self.guidance.max:g}"
            )
        if settings.seed > self.seed.max:
            raise ValueError(f"seed {settings.seed} is above {self.seed.max}, the largest here")
        self.prompt.value, self.negative.value = settings.prompt, settings.negative_prompt
        self.seed.value, self.steps.value = settings.seed, settings.steps
        self.guidance.value, self.sampler.value = settings.guidance_scale, settings.sampler
        self.begin_from(settings.image)
        if settings.image is not None:
            self.strength.value = settings.strength

    def begin_from(self, picture: Image.Image | None) -> None:
        """Take a picture to begin from, in the model's size; None for noise alone."""
        if picture is not None:
            size = self.sd.spec.size
            (picture,) = to_pil(2 * self.sd.fitted(picture, size, size) - 1)
        self.start = picture
        self.strength.disabled = picture is None
        self.begins.value = (
            "Begins from noise."
            if picture is None
            else "Begins from " + img(picture, "The picture to begin from", 64)
        )

    def take_upload(self) -> None:
        """Begin from the file that was handed in, or say why it cannot be used."""
        for file in self.upload.value:
            try:
                with Image.open(io.BytesIO(file["content"])) as picture:
                    self.begin_from(picture.convert("RGB"))
                    self.say(f"It will begin from {file['name']}.")
            except (OSError, ValueError, Image.DecompressionBombError):
                self.say(f"{file['name']} is not a picture that can be read.")
        self.upload.value = ()  # the same file can be handed in again

    def take_settings(self, content: bytes, name: str) -> None:
        """Set the controls to what made the picture in this PNG file, or say why not."""
        try:
            self.set(stamped.read(content, name))
        except ValueError as error:
            self.say(f"Nothing was changed: {error}.")
        else:
            self.say(f"These are the settings of {name}. Press Draw.")

    def say(self, sentence: str) -> None:
        """Show a sentence, which screen readers read out."""
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'

    # -------------------------------------------------------------------------------- the drawing

    def draw(self, settings: Settings, stopping: Event) -> None:
        """Draw the picture of these settings, or as much as there is until `stopping` is set.

        What cannot be drawn is said in a sentence, and what was there before stays.
        """
        self.say("Drawing …")
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                walk = settings.walk(self.sd)
            looks: dict[str, Tensor] = {}
            with looking.added_up(self.sd.unet, looks):
                states, done = self.follow(walk, settings, stopping)
        except (ValueError, FloatingPointError) as error:
            self.say(f"This cannot be drawn: {error}.")
            return
        self.show_strip(states, settings)
        if not done:
            self.say("Stopped. The strip shows how far it came.")
            self.show_picture()
            return
        (self.picture,) = self.sd.to_images(states[-1].z)
        self.made = settings
        self.show_picture()
        self.show_words(looks, settings)
        self.show_link()
        notes = [str(warning.message) for warning in warned]
        self.say(" ".join(["Done.", *unknown_words(self.sd, settings.prompt), *notes]))

    def follow(
        self, walk: Iterator[State], settings: Settings, stopping: Event
    ) -> tuple[list[State], bool]:
        """Walk, showing some of the estimates; the states shown, and whether it came to the end."""
        total = settings.walked
        shown = chosen(total)
        states: list[State] = []
        self.progress.value, self.progress.max = 0, total
        for state in walk:
            self.progress.value = state.step
            if state.step in shown:
                states.append(state)
                (estimate,) = self.sd.to_images(state.z_0)
                alt = f"Estimate of the picture after {state.step} of {total} steps"
                self.view.value = img(estimate, alt, WIDTH)
            if stopping.is_set() and state.step < total:
                return states, False
        return states, True

    def show_picture(self) -> None:
        """The last finished picture; while there is none, the last estimate stays."""
        if self.picture is not None and self.made is not None:
            self.view.value = img(self.picture, f"The picture drawn for: {self.made.prompt}", WIDTH)

    def show_strip(self, states: Sequence[State], settings: Settings) -> None:
        estimates = [self.sd.to_images(state.z_0)[0] for state in states]
        numbers = [state.step for state in states]
        self.walked = strip(numbers, [state.z[0] for state in states], estimates)
        alt = (
            f"The latent and its decoded estimate after the steps {', '.join(map(str, numbers))} "
            f"of {settings.walked}. Light is positive, dark negative."
        )
        self.strip.value = img(self.walked, alt, self.walked.width, squares=False)

    def show_words(self, looks: dict[str, Tensor], settings: Settings) -> None:
        """One button for each word; the first click shows where it was looked at from."""
        self.maps = looking.word_maps(looks) if looks else None
        words = looking.words_of(self.sd, settings.prompt)
        with self.words.hold_trait_notifications():
            self.words.options = words
            self.words.index = None
        self.words.layout.display = "none" if self.maps is None else None
        self.map.value = ""

    def look(self) -> None:
        """Show the map of the chosen word beside the picture."""
        k = self.words.index
        if k is None or self.maps is None or self.picture is None:
            self.map.value = ""
            return
        seen = self.maps[k]
        page = grid(
            [[lit(self.picture, seen), tile(seen, size=self.picture.width)]],
            ["the page in its light", "the map"],
            scale=max(1, 128 // self.picture.width),
        )
        word = self.words.options[k]
        sentence = (
            f"“{word}” gets {seen.mean():.1%} of all looks, and {seen.max():.1%} where it gets most"
        )
        alt = f"Map of the word {word}. {sentence}"
        self.map.value = img(page, alt, page.width, squares=False) + (
            f'<br><span role="status">{html.escape(sentence)}.</span>'
        )

    def show_link(self) -> None:
        """A link that saves the picture, with its settings inside, in the browser."""
        if self.picture is None or self.made is None:
            return
        data = base64.b64encode(stamped.png(self.picture, self.made, self.sd.spec.name)).decode()
        self.link.value = (
            f'<a download="picture-{self.made.seed}.png" href="data:image/png;base64,{data}" '
            'style="text-decoration: underline">Save this picture</a>, with its settings inside'
        )
