"""One setting of the playground: its controls, and what was drawn with them."""

import base64
import html
import textwrap
import time
import warnings
from collections.abc import Iterator, Sequence
from threading import Event
from typing import Any

import ipywidgets as widgets
from PIL import Image
from torch import Tensor

from sdlearn.course import attention_maps
from sdlearn.course.figures import grid, heatmap, img, overlay
from sdlearn.course.figures.trajectory import pick_steps, strip
from sdlearn.course.widgets import controls
from sdlearn.course.widgets.controls import ROW
from sdlearn.course.widgets.stored_image import MimeBundle, with_image
from sdlearn.course.widgets.text_to_image import unknown_words
from sdlearn.pipeline import StableDiffusion
from sdlearn.samplers import State
from sdlearn.utils import memory, png_metadata
from sdlearn.utils.image_files import open_image, upright
from sdlearn.utils.images import central_square, fit_image, to_pil
from sdlearn.utils.png_metadata import GenerationSettings

WIDTH = 384  # of a picture on the page, in CSS pixels: six for each of the storybook's
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
        self.made: GenerationSettings | None = None
        self.start: Image.Image | None = None
        self.maps: Tensor | None = None
        self.name = name
        self.title = widgets.HTML(f"<h3>{html.escape(name)}</h3>")
        self.prompt = widgets.Text(value=prompt, description="Prompt", **LINE)
        self.negative = widgets.Text(
            description="Negative prompt", placeholder="what to move away from, or nothing", **LINE
        )
        self.controls = controls.controls(sd.spec)
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
        known = controls.knobs_of(sd.spec)
        plain = [each for name, each in self.controls.items() if not known[name].advanced]
        more = [each for name, each in self.controls.items() if known[name].advanced]
        folded = widgets.Accordion([widgets.VBox(more)], titles=["More settings"])
        column = [*plain, folded, starts, self.begins, self.strength, self.load]
        drawn = [self.view, self.caption, self.progress, self.message, self.link]
        beside = {"flex": "1 1 22em", "max_width": "30em", "padding": "0 0 0 0.7em"}
        columns = [
            widgets.VBox(column, layout={"flex": "0 1 24em", "min_width": "18em"}),
            widgets.VBox(drawn, layout=beside),
            widgets.VBox([self.words, self.map], layout=beside),
        ]
        wrapping = widgets.HBox(columns, layout={"flex_flow": "row wrap"})
        super().__init__(
            [self.title, self.prompt, self.negative, wrapping, self.strip],
            layout={"flex": "1 1 24em", "min_width": "18em"},
        )

    def _repr_mimebundle_(self, **options: Any) -> MimeBundle:
        """The widget, and the last finished picture for a page that is stored."""
        view = super()._repr_mimebundle_(**options)
        text = f"The picture drawn for: {self.made.prompt}" if self.made else "Nothing drawn yet."
        return with_image(view, self.picture, text, WIDTH)

    # ------------------------------------------------------------------------------- the controls

    def settings(self) -> GenerationSettings:
        """What the controls say now."""
        return GenerationSettings(
            self.prompt.value,
            self.negative.value,
            controls.sampling_of(self.controls, self.sd.spec),
            self.start,
            1.0 if self.start is None else self.strength.value,
            self.sd.spec.name,
        )

    def set(self, settings: GenerationSettings) -> None:
        """Let the controls say this. Raises ValueError, with nothing changed, where one cannot."""
        controls.show(self.controls, settings.sampling, self.sd.spec)
        self.prompt.value, self.negative.value = settings.prompt, settings.negative_prompt
        self.begin_from(settings.image)
        if settings.image is not None:
            self.strength.value = settings.strength

    def begin_from(self, picture: Image.Image | None) -> None:
        """Take a picture to begin from, in the model's size; None for noise alone."""
        if picture is not None:
            side = self.sd.spec.resolution
            (picture,) = to_pil(2 * fit_image(picture, side, side, self.sd.vae.factor) - 1)
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
                with open_image(bytes(file["content"]), file["name"]) as picture:
                    self.begin_from(central_square(upright(file["name"], picture, "RGB")))
                    self.say(f"It will begin from {file['name']}.")
            except ValueError as error:
                self.say(f"{error}.")
            except MemoryError:
                self.say(f"{file['name']} has more pixels than the memory can hold.")
        self.upload.value = ()  # the same file can be handed in again

    def take_settings(self) -> None:
        """Set the controls to what made the picture that was handed in, or say why not."""
        for file in self.load.value:
            try:
                settings = png_metadata.read_png(bytes(file["content"]), file["name"])
                self.set(settings)
            except ValueError as error:
                self.say(f"Nothing was changed: {error}.")
                continue
            said = f"These are the settings of {file['name']}."
            try:
                settings.check_model(self.sd)
            except ValueError as error:
                said += f" But {error}."
            self.say(f"{said} Press Draw.")
        self.load.value = ()

    def say(self, sentence: str) -> None:
        """Show a sentence, which screen readers read out."""
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'

    # -------------------------------------------------------------------------------- the drawing

    def draw(self, settings: GenerationSettings, stopping: Event) -> None:
        """Draw the picture of these settings, or as much as there is until `stopping` is set.

        What cannot be drawn is said in a sentence, and what was there before stays.
        """
        self.say("Drawing …")
        before = self.picture, self.made
        try:
            said = self.drawn(settings, stopping)
        except (ValueError, FloatingPointError, MemoryError, RuntimeError) as error:
            full = memory.is_about_memory(error)
            if isinstance(error, RuntimeError) and not full:
                raise
            said = f"This cannot be drawn: {memory.in_a_sentence(error) if full else error}."
            self.picture, self.made = before
            self.show_picture()
        self.say(said)

    def drawn(self, settings: GenerationSettings, stopping: Event) -> str:
        """Draw and show, as `draw` does; what to say of it at the end."""
        begun = time.perf_counter()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            states = settings.trajectory(self.sd)
        looks: dict[str, Tensor] = {}
        with attention_maps.accumulate_weights(self.sd.unet, looks):
            shown, done = self.follow(states, settings, stopping)
        self.show_strip(shown, settings)
        if not done:
            self.show_picture()
            return f"Stopped. The strip shows how far it came; {self.kept()}."
        (self.picture,) = self.sd.to_images(shown[-1].z)
        self.made = settings
        self.show_picture()
        self.show_words(looks, settings)
        self.show_link()
        notes = [sentence(str(warning.message)) for warning in warned]
        unknown = unknown_words(self.sd, f"{settings.prompt} {settings.negative_prompt}")
        if settings.num_steps(self.sd) == 0:
            notes.insert(0, "Nothing was drawn over the picture: strength times steps is below 1.")
        return " ".join([f"Done in {time.perf_counter() - begun:.1f} s.", *unknown, *notes])

    def kept(self) -> str:
        """What the picture shows after a stop."""
        if self.picture is None:
            return "the picture is its last estimate"
        return "the picture is the last finished one"

    def follow(
        self, trajectory: Iterator[State], settings: GenerationSettings, stopping: Event
    ) -> tuple[list[State], bool]:
        """Run, showing some of the estimates; the states shown, and whether it came to the end."""
        total = settings.num_steps(self.sd)
        shown = pick_steps(total)
        states: list[State] = []
        self.progress.value, self.progress.max = 0, max(total, 1)
        for state in trajectory:
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
            made, how = self.made, self.made.sampling
            self.view.value = img(self.picture, f"The picture drawn for: {made.prompt}", WIDTH)
            self.caption.value = (
                f"“{html.escape(made.prompt)}”, seed {how.seed}, {how.steps} steps of "
                f"{how.sampler}, guidance {how.guidance_scale:g}"
            )

    def show_strip(self, states: Sequence[State], settings: GenerationSettings) -> None:
        """Show the latents and their decoded estimates after each of these steps."""
        estimates = [self.sd.to_images(state.z_0)[0] for state in states]
        numbers = [state.step for state in states]
        self.walked = strip(numbers, [state.z[0] for state in states], estimates)
        alt = (
            f"The latent and its decoded estimate after the steps {', '.join(map(str, numbers))} "
            f"of {settings.num_steps(self.sd)}. Light is positive, dark negative."
        )
        self.strip.value = img(self.walked, alt, self.walked.width, squares=False)

    def show_words(self, looks: dict[str, Tensor], settings: GenerationSettings) -> None:
        """A button for each word. The chosen one stays so; else it is the one looked at hardest."""
        with warnings.catch_warnings(action="ignore"):  # the walk has warned already
            words, before = attention_maps.prompt_tokens(self.sd, settings.prompt), self.words.value
        self.maps = attention_maps.token_maps(looks) if looks else None
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
            [[overlay(self.picture, seen), heatmap(seen, size=self.picture.width)]],
            ["lit by the map", "the map"],
            scale=max(1, 192 // self.picture.width),
        )
        word = self.words.options[k]
        mean, most = seen.mean(), seen.max()
        sentence = f"“{word}” gets {mean:.1%} of the attention, and {most:.1%} where it gets most"
        alt = f"Map of the word {word}. {sentence}"
        self.map.value = img(page, alt, page.width, squares=False) + (
            f'<br><span role="status">{html.escape(sentence)}.</span>'
        )

    def show_link(self) -> None:
        """A link that saves the picture, with its settings inside, in the browser."""
        if self.picture is None or self.made is None:
            return
        data = base64.b64encode(png_metadata.png_bytes(self.picture, self.made)).decode()
        self.link.value = (
            f'<a download="picture-{self.name.lower()}-{self.made.sampling.seed}.png" '
            f'href="data:image/png;base64,{data}" '
            'style="text-decoration: underline">Save this picture</a>, with its settings inside'
        )


def sentence(warning: str) -> str:
    """A warning in at most two lines, as a sentence."""
    short = textwrap.shorten(warning, 200, placeholder=" …")
    return short[:1].upper() + short[1:] + "."
