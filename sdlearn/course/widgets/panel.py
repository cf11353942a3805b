"""One setting of the playground: its controls, and what was drawn with them."""

import base64
import html
import io
import textwrap
import time
import warnings
from collections.abc import Iterator, Sequence
from threading import Event

import ipywidgets as widgets
from PIL import Image, ImageOps
from torch import Tensor

from sdlearn import settings as stamped
from sdlearn.course import looking
from sdlearn.course.figures import grid, img, lit, tile
from sdlearn.course.figures.strip import chosen, strip
from sdlearn.course.widgets.painter import unknown_words
from sdlearn.pipeline import StableDiffusion, State, to_pil
from sdlearn.samplers import SAMPLERS
from sdlearn.settings import Settings

WIDTH = 384  # of a picture on the page, in CSS pixels: six for each of the storybook's
ROW = {
    "style": {"description_width": "8.5em"},
    "layout": widgets.Layout(width="auto", max_width="30em"),
}
LINE = ROW | {"layout": widgets.Layout(width="auto", max_width="56em")}


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
        self.name = name
        self.title = widgets.HTML(f"<h3>{html.escape(name)}</h3>")
        self.prompt = widgets.Text(value=prompt, description="Prompt", **LINE)
        self.negative = widgets.Text(
            description="Negative prompt", placeholder="what to move away from, or nothing", **LINE
        )
        self.seed = widgets.BoundedIntText(value=0, max=2**31 - 1, description="Seed", **ROW)
        self.sampler = widgets.Dropdown(
            options=[*SAMPLERS], value=spec.sampler, description="Sampler", **ROW
        )
        self.steps = widgets.IntSlider(value=spec.steps, min=1, max=100, description="Steps", **ROW)
        self.guidance = widgets.FloatSlider(
            value=spec.guidance, min=0, max=15, step=0.5, description="Guidance", **ROW
        )
        button = {"width": "auto"}
        self.afresh = widgets.Button(description="Noise", layout=button)
        self.upload = widgets.FileUpload(accept="image/*", description="A file", layout=button)
        self.again = widgets.Button(description="This picture", layout=button)
        self.strength = widgets.FloatSlider(
            value=0.6, min=0, max=1, step=0.05, description="Strength", disabled=True, **ROW
        )
        self.begins = widgets.HTML()
        self.progress = widgets.IntProgress(description="Progress", **ROW)
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        self.caption = widgets.HTML()
        self.words = widgets.ToggleButtons(
            description="Attention", style={"button_width": "auto"}, layout={"display": "none"}
        )
        self.map = widgets.HTML()
        self.strip = widgets.HTML()
        self.link = widgets.HTML()
        self.load = widgets.FileUpload(
            accept="image/png", description="Load settings from a picture", layout=button
        )
        self.upload.observe(lambda _: self.take_upload(), "value")
        self.again.on_click(lambda _: self.begin_from(self.picture))
        self.afresh.on_click(lambda _: self.begin_from(None))
        self.load.observe(lambda _: self.take_settings(), "value")
        self.words.observe(lambda _: self.look(), "index")
        self.begin_from(None)
        self.say("Nothing drawn yet.")
        starts = widgets.HBox([widgets.Label("Begin from"), self.afresh, self.upload, self.again])
        starts.layout.flex_flow = "row wrap"
        controls = [
            self.seed, self.sampler, self.steps, self.guidance, starts, self.begins, self.strength,
            self.load,
        ]  # fmt: skip
        drawn = [self.view, self.caption, self.progress, self.message, self.link]
        beside = {"flex": "1 1 22em", "max_width": "30em", "padding": "0 0 0 0.7em"}
        columns = [
            widgets.VBox(controls, layout={"flex": "0 1 24em", "min_width": "18em"}),
            widgets.VBox(drawn, layout=beside),
            widgets.VBox([self.words, self.map], layout=beside),
        ]
        wrapping = widgets.HBox(columns, layout={"flex_flow": "row wrap"})
        super().__init__(
            [self.title, self.prompt, self.negative, wrapping, self.strip],
            layout={"flex": "1 1 24em", "min_width": "18em"},
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
                    self.begin_from(upright(picture))
                    self.say(f"It will begin from {file['name']}.")
            except (OSError, ValueError, Image.DecompressionBombError):
                self.say(f"{file['name']} is not a picture that can be read.")
        self.upload.value = ()  # the same file can be handed in again

    def take_settings(self) -> None:
        """Set the controls to what made the picture that was handed in, or say why not."""
        for file in self.load.value:
            try:
                self.set(stamped.read(bytes(file["content"]), file["name"]))
            except ValueError as error:
                self.say(f"Nothing was changed: {error}.")
            else:
                self.say(f"These are the settings of {file['name']}. Press Draw.")
        self.load.value = ()

    def say(self, sentence: str) -> None:
        """Show a sentence, which screen readers read out."""
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'

    # -------------------------------------------------------------------------------- the drawing

    def draw(self, settings: Settings, stopping: Event) -> None:
        """Draw the picture of these settings, or as much as there is until `stopping` is set.

        What cannot be drawn is said in a sentence, and what was there before stays.
        """
        self.say("Drawing …")
        begun = time.perf_counter()
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
            self.say(f"Stopped. The strip shows how far it came; {self.kept()}.")
            self.show_picture()
            return
        (self.picture,) = self.sd.to_images(states[-1].z)
        self.made = settings
        self.show_picture()
        self.show_words(looks, settings)
        self.show_link()
        notes = [sentence(str(warning.message)) for warning in warned]
        unknown = unknown_words(self.sd, f"{settings.prompt} {settings.negative_prompt}")
        if settings.walked == 0:
            notes.insert(0, "Nothing was drawn over the picture: strength times steps is below 1.")
        self.say(" ".join([f"Done in {time.perf_counter() - begun:.1f} s.", *unknown, *notes]))

    def kept(self) -> str:
        """What the picture shows after a stop."""
        if self.picture is None:
            return "the picture is its last estimate"
        return "the picture is the last finished one"

    def follow(
        self, walk: Iterator[State], settings: Settings, stopping: Event
    ) -> tuple[list[State], bool]:
        """Walk, showing some of the estimates; the states shown, and whether it came to the end."""
        total = settings.walked
        shown = chosen(total)
        states: list[State] = []
        self.progress.value, self.progress.max = 0, max(total, 1)
        for state in walk:
            self.progress.value = state.step if total else 1
            self.progress.description = f"Step {state.step} of {total}"
            if state.step in shown:
                states.append(state)
                (estimate,) = self.sd.to_images(state.z_0)
                alt = f"Estimate of the picture after {state.step} of {total} steps"
                self.view.value = img(estimate, alt, WIDTH)
                self.caption.value = f"{alt}."
            if stopping.is_set() and state.step < total:
                return states, False
        return states, True

    def show_picture(self) -> None:
        """The last finished picture; while there is none, the last estimate stays."""
        if self.picture is not None and self.made is not None:
            made = self.made
            self.view.value = img(self.picture, f"The picture drawn for: {made.prompt}", WIDTH)
            self.caption.value = (
                f"“{html.escape(made.prompt)}”, seed {made.seed}, {made.steps} steps of "
                f"{made.sampler}, guidance {made.guidance_scale:g}"
            )

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
        """A button for each word. The chosen one stays so; else it is the one looked at hardest."""
        with warnings.catch_warnings(action="ignore"):  # the walk has warned already
            words, before = looking.words_of(self.sd, settings.prompt), self.words.value
        self.maps = looking.word_maps(looks) if looks else None
        index = None
        if self.maps is not None:
            most = self.maps.flatten(1).amax(1).tolist()
            hardest = max(range(1, len(words) - 1), key=most.__getitem__, default=0)
            index = words.index(before) if before in words else hardest
        with self.words.hold_trait_notifications():
            self.words.options = words
            self.words.index = None
        self.words.index = index
        self.words.layout.display = "none" if self.maps is None else None

    def look(self) -> None:
        """Show the map of the chosen word beside the picture."""
        k = self.words.index
        if k is None or self.maps is None or self.picture is None:
            self.map.value = ""
            return
        seen = self.maps[k]
        page = grid(
            [[lit(self.picture, seen), tile(seen, size=self.picture.width)]],
            ["lit by the map", "the map"],
            scale=max(1, 192 // self.picture.width),
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
            f'<a download="picture-{self.name.lower()}-{self.made.seed}.png" '
            f'href="data:image/png;base64,{data}" '
            'style="text-decoration: underline">Save this picture</a>, with its settings inside'
        )


def upright(picture: Image.Image) -> Image.Image:
    """A photo as it was held, on white where one can see through it, cut to its middle square."""
    held = ImageOps.exif_transpose(picture).convert("RGBA")
    page = Image.alpha_composite(Image.new("RGBA", held.size, "white"), held).convert("RGB")
    side = min(page.size)
    left, top = (page.width - side) // 2, (page.height - side) // 2
    return page.crop((left, top, left + side, top + side))


def sentence(warning: str) -> str:
    """A warning in at most two lines, as a sentence."""
    short = textwrap.shorten(warning, 200, placeholder=" …")
    return short[:1].upper() + short[1:] + "."
