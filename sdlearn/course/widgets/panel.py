"""One panel of the playground: the controls of a drawing, and what was drawn with them."""

import html
import random
import textwrap
import time
import warnings
from contextlib import closing
from threading import Event
from typing import Any

import ipywidgets as widgets
from PIL import Image

from sdlearn.controlnet import ControlNet
from sdlearn.course.figures.trajectory import pick_steps
from sdlearn.course.widgets import controls, drawing
from sdlearn.course.widgets.begin_from import BeginFrom
from sdlearn.course.widgets.control_hint import ControlHint
from sdlearn.course.widgets.drawing import Drawing
from sdlearn.course.widgets.page_style import Upload
from sdlearn.course.widgets.prompts import PromptBox
from sdlearn.course.widgets.stored_image import MimeBundle, with_image
from sdlearn.course.widgets.text_to_image import unknown_words
from sdlearn.course.widgets.viewer import WIDTH, Viewer, smooth, status
from sdlearn.pipeline import StableDiffusion
from sdlearn.utils import memory, png_metadata
from sdlearn.utils.png_metadata import GenerationSettings, adapters_name
from sdlearn.utils.sampling_checks import check_control_fits

SEEDS = 100_000  # random seeds are below this, because longer numbers are hard to read out
NO_CONTROLNET = (
    "the image was made with a ControlNet and a hint, but this playground has no ControlNet; make "
    "one with Playground(sd, controlnet=...)"
)


class Panel(widgets.VBox):
    """The controls of a drawing and, beside them, the drawing.

    `draw` may run in any thread; everything else belongs in the kernel's thread.

    Attributes:
        drawing: The last finished drawing; None before the first.
    """

    def __init__(
        self, sd: StableDiffusion, prompt: str, name: str, controlnet: ControlNet | None = None
    ) -> None:
        """Build the panel.

        Args:
            sd: The model.
            prompt: The first prompt.
            name: The panel's name where there are two.
            controlnet: Follows a drawn hint; None for a panel without control.

        Raises:
            ValueError: If the ControlNet is for another U-Net.
        """
        if controlnet is not None:
            check_control_fits(controlnet, sd.unet)
        self.sd, self.controlnet = sd, controlnet
        self.drawing: Drawing | None = None
        self.name = name
        self.title = widgets.HTML(f"<h3>{html.escape(name)}</h3>")
        self.prompts = PromptBox(prompt, sd.spec.name == "storybook")
        self.prompt, self.negative = self.prompts.prompt, self.prompts.negative
        self.controls = controls.controls(sd.spec)
        self.reasons = {name: widgets.HTML() for name in ("eta", "sigmas")}
        button = {"width": "auto"}
        self.dice = widgets.Button(
            description="⚄ Random seed", tooltip="Choose a seed at random", layout=button
        )
        self.source = BeginFrom(sd, self.say)
        self.control = None if controlnet is None else ControlHint(sd.spec, controlnet)
        self.message = widgets.HTML()
        self.load = Upload(
            "PNG",
            description="Load settings from an image",
            accept="image/png",
            tooltip="Set the controls to the settings in a saved image",
        )
        self.progress = widgets.IntProgress(
            description="Progress", style={"description_width": "6.5em"}, layout={"width": "auto"}
        )
        self.viewer = Viewer(sd, name)
        self.viewer.above.children = (self.progress, self.message)
        self.source.again.on_click(lambda _: self.source.set(self.image))
        self.load.observe(lambda _: self.take_settings(), "value")
        self.dice.on_click(lambda _: self.roll())
        self.controls["sampler"].observe(lambda _: self.adapt(), "value")
        self.adapt()
        self.say("Nothing drawn yet.")
        self.left = widgets.VBox(self.column(), layout={"min_width": "17em", "max_width": "100%"})
        self.source.box.layout.observe(lambda _: self.make_room(), "display")
        self.make_room()
        self.viewer.layout.flex = "1 1 20em"
        beside = widgets.HBox([self.left, self.viewer], layout={"flex_flow": "row wrap"})
        super().__init__(
            [self.title, self.prompts, beside], layout={"flex": "1 1 24em", "min_width": "17em"}
        )

    def column(self) -> list[widgets.Widget]:
        """Return the controls from top to bottom, the advanced ones folded away."""
        known = controls.knobs_of(self.sd.spec)
        plain: list[widgets.Widget] = []
        more: list[widgets.Widget] = []
        for name, each in self.controls.items():
            place = more if known[name].advanced else plain
            place.append(each)
            place += [self.reasons[name]] if name in self.reasons else []
            place += [self.dice] if name == "seed" else []
        more += [self.source, self.load]
        self.more = widgets.Accordion(
            [widgets.VBox(more)], titles=["More settings"], selected_index=None
        )
        self.control_fold = widgets.Accordion(
            [self.control or widgets.VBox()], titles=["Control"], selected_index=None
        )
        for fold in (self.more, self.control_fold):
            fold.observe(lambda _: self.make_room(), "selected_index")
        return [*plain, self.more, *([self.control_fold] if self.control else [])]

    def make_room(self) -> None:
        """Give the controls the width of a canvas while one is shown."""
        painting = self.more.selected_index == 0 and self.source.start is not None
        wide = painting or self.control_fold.selected_index == 0
        self.left.layout.flex = "0 1 34em" if wide else "0 1 25em"

    def _repr_mimebundle_(self, **options: Any) -> MimeBundle:
        """Return the widget, and for a stored page the last finished image."""
        view = super()._repr_mimebundle_(**options)
        made, image = self.made, self.image
        if made is None or image is None:
            return with_image(view, None, "Nothing drawn yet.", WIDTH)
        return with_image(view, smooth(image, WIDTH), f"The image drawn for: {made.prompt}", WIDTH)

    # ------------------------------------------------------------------------------ the controls

    @property
    def chosen(self) -> int:
        """The number of the chosen image; the viewer may be showing a new drawing with more."""
        return min(self.viewer.k, len(self.drawing.images) - 1) if self.drawing else 0

    @property
    def image(self) -> Image.Image | None:
        """The chosen image of the last finished drawing."""
        return None if self.drawing is None else self.drawing.images[self.chosen]

    @property
    def made(self) -> GenerationSettings | None:
        """The settings that draw the chosen image alone."""
        return None if self.drawing is None else self.drawing.settings_of(self.chosen)

    def settings(self) -> GenerationSettings:
        """Return the settings of the controls."""
        return GenerationSettings(
            self.prompt.value,
            self.negative.value,
            controls.sampling_of(self.controls, self.sd.spec),
            self.source.start,
            1.0 if self.source.start is None else self.source.strength.value,
            self.sd.spec.name,
            self.source.mask,
            adapters=adapters_name(self.sd),
            **({} if self.control is None else self.control.settings()),
        )

    def set(self, settings: GenerationSettings) -> None:
        """Set the controls to these settings.

        Raises:
            ValueError: If a control cannot show its setting; nothing is changed then.
        """
        if self.control is not None:
            self.control.check(settings)
        elif settings.hint is not None:
            raise ValueError(NO_CONTROLNET)
        controls.show(self.controls, settings.sampling, self.sd.spec)
        self.prompt.value, self.negative.value = settings.prompt, settings.negative_prompt
        self.source.set(settings.image, settings.mask)
        if settings.image is not None:
            self.source.strength.value = settings.strength
        if self.control is not None:
            self.control.take(settings)

    def adapt(self) -> None:
        """Disable the controls that the chosen sampler refuses, and say why."""
        said = controls.adapt(self.controls)
        for name, line in self.reasons.items():
            line.value = f"<small>{html.escape(said.get(name, ''))}</small>"
            line.layout.display = None if name in said else "none"

    def roll(self) -> None:
        """Choose a seed at random."""
        self.controls["seed"].value = random.randrange(SEEDS)

    def take_settings(self) -> None:
        """Set the controls to the settings in the uploaded image, or say why that is impossible."""
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
                settings.check_controlnet(self.controlnet)
            except ValueError as error:
                said += f" But {error}."
            self.say(f"{said} Press Draw.")
        self.load.value = ()

    def say(self, sentence: str) -> None:
        """Show a sentence, which screen readers read out."""
        self.message.value = status(sentence)

    # ------------------------------------------------------------------------------- the drawing

    def draw(self, settings: GenerationSettings, stopping: Event) -> bool:
        """Draw with these settings until `stopping` is set, and then show one drawing alone.

        This is the new drawing if it was finished, otherwise the one before it. A sentence says
        what cannot be drawn.

        Returns:
            Whether the drawing was finished.
        """
        self.say("Drawing …")
        before, said = self.drawing, ""
        try:
            said = self.run(settings, stopping)
        except (ValueError, FloatingPointError, MemoryError, RuntimeError) as error:
            full = memory.is_about_memory(error)
            if isinstance(error, RuntimeError) and not full:
                raise
            self.drawing = before
            said = f"This cannot be drawn: {memory.in_a_sentence(error) if full else error}."
        finally:
            if self.viewer.drawing is not self.drawing or self.drawing is None:
                self.show_drawing()
        self.say(said)
        return self.drawing is not before

    def run(self, settings: GenerationSettings, stopping: Event) -> str:
        """Draw and show, as `draw` does; return what there is to say at the end."""
        begun = time.perf_counter()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            states = settings.trajectory(self.sd, self.controlnet)
        total = settings.num_steps(self.sd)
        self.progress.value, self.progress.max = 0, max(total, 1)
        with closing(drawing.draw(self.sd, settings, states)) as steps:
            for now in steps:
                self.show_progress(now)
                if now.images or now.step in pick_steps(total):
                    self.viewer.show(now)
                if stopping.is_set() and now.step < total:
                    return f"Stopped after step {now.step} of {total}; {self.kept()}."
        self.drawing = now
        notes = [sentence(str(warning.message)) for warning in warned]
        unknown = unknown_words(self.sd, f"{settings.prompt} {settings.negative_prompt}")
        if total == 0:
            notes.insert(
                0, "Nothing was drawn over the image, because strength times steps is below 1."
            )
        return " ".join([f"Done in {time.perf_counter() - begun:.1f} s.", *unknown, *notes])

    def show_progress(self, now: Drawing) -> None:
        """Show how far a drawing has got."""
        self.progress.max = max(now.total, 1)
        self.progress.value = now.step if now.total else 1
        self.progress.description = f"{now.step} of {now.total}"

    def kept(self) -> str:
        """Say what is shown after a stop."""
        if self.drawing is None:
            return "there is no finished image yet"
        return "what you see is the last finished drawing"

    def show_drawing(self) -> None:
        """Show the last finished drawing and its progress, or nothing."""
        self.viewer.show(self.drawing)
        if self.drawing is None:
            self.progress.value, self.progress.description = 0, "Progress"
        else:
            self.show_progress(self.drawing)

    def restore(self, earlier: Drawing) -> None:
        """Show an earlier drawing again and set the controls to its settings."""
        self.set(earlier.settings)
        self.drawing = earlier
        self.show_drawing()
        self.say("This drawing is from the history; the controls show its settings.")


def sentence(warning: str) -> str:
    """Return a warning as a sentence of at most two lines."""
    short = textwrap.shorten(warning, 200, placeholder=" …")
    return short[:1].upper() + short[1:] + "."
