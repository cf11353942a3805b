"""The playground: controls for every setting of the model, for one image or two side by side."""

import html
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import ipywidgets as widgets

from sdlearn.course.figures import grid
from sdlearn.course.widgets.panel import WIDTH, Panel
from sdlearn.course.widgets.stored_image import MimeBundle, with_image
from sdlearn.pipeline import StableDiffusion
from sdlearn.storybook.captions import NOUNS, PLACES, TIMES
from sdlearn.storybook.scenes import COLOURS, POSES
from sdlearn.utils.png_metadata import GenerationSettings, write_png

PROMPT = "a red cat to the left of a blue house on the sand at night"


class Playground(widgets.VBox):
    """Buttons to draw and stop, and one or two panels of controls with their images.

    Drawing runs in its own thread, so the controls stay responsive. A change made while an image
    is being drawn applies to the next image. Drawing again stops the current drawing.
    """

    def __init__(self, sd: StableDiffusion, prompt: str = PROMPT) -> None:
        """Build the playground of a model, with a prompt to start from."""
        self.panels = [Panel(sd, prompt, "A"), Panel(sd, prompt, "B")]
        self.button = widgets.Button(
            description="Draw", button_style="primary", tooltip="Draw with these settings"
        )
        self.stopper = widgets.Button(
            description="Stop", tooltip="Stop after the step that is being computed"
        )
        self.next = widgets.Button(
            description="Next seed", tooltip="Draw with the next seed, all else alike"
        )
        self.compare = widgets.ToggleButton(
            description="Two settings side by side", layout={"width": "auto"}
        )
        # The buttons are never disabled, because a disabled button loses keyboard focus.
        self.button.on_click(lambda _: self.draw())
        self.stopper.on_click(lambda _: self.stop())
        self.next.on_click(lambda _: self.draw_next())
        for panel in self.panels:
            panel.prompt.on_msg(self.take_message)
            panel.negative.on_msg(self.take_message)
        self.compare.observe(lambda _: self.show_panels(), "value")
        self.compared = False
        self.turn = Lock()
        self.stopping = Event()
        self.worker: Thread | None = None
        self.failure: Exception | None = None
        bar = widgets.HBox([self.button, self.stopper, self.next, self.compare])
        bar.layout.flex_flow = "row wrap"
        self.shown = widgets.HBox(layout={"flex_flow": "row wrap"})
        self.show_panels()
        super().__init__([bar, self.shown, *vocabulary(sd)])

    def show_panels(self) -> None:
        """Show one panel or two.

        The second panel starts with the settings of the first. Hidden and shown again, it keeps
        its own.
        """
        first, second = self.panels
        if self.compare.value and not self.compared:
            second.set(first.settings())
            self.compared = True
        first.title.layout.display = None if self.compare.value else "none"
        self.shown.children = (first, second) if self.compare.value else (first,)

    def take_message(self, _: widgets.Widget, content: dict[str, str], __: object) -> None:
        """Draw if Enter was pressed in a text field."""
        if content.get("event") == "submit":
            self.draw()

    def draw_next(self) -> None:
        """Draw the panels' settings, each with the next seed."""
        for panel in self.shown.children:
            panel.controls["seed"].value += 1
        self.draw()

    def draw(self) -> None:
        """Start drawing the panels' settings and return at once; `wait` waits for the end."""
        self.stop()
        jobs = []
        for panel in self.shown.children:
            try:
                jobs.append((panel, panel.settings()))
            except ValueError as error:
                panel.say(f"This cannot be drawn: {error}.")
        self.stopping, self.failure = Event(), None
        self.worker = Thread(target=self.work, args=(jobs, self.stopping), daemon=True)
        self.worker.start()

    def work(self, jobs: list[tuple[Panel, GenerationSettings]], stopping: Event) -> None:
        """Draw one image after the other, in a thread that first waits for the previous one."""
        with self.turn:
            for panel, settings in jobs:
                if stopping.is_set():
                    panel.say("Stopped before it began.")
                    continue
                try:
                    panel.draw(settings, stopping)
                except Exception as error:  # shown here, and raised again by wait
                    self.failure = error
                    panel.say(f"It failed with {type(error).__name__}: {error}.")

    def stop(self) -> None:
        """Stop drawing after the current step."""
        self.stopping.set()

    def wait(self) -> None:
        """Wait until drawing has ended.

        Raises:
            Exception: The error that ended the drawing, if there was one.
        """
        if self.worker is not None:
            self.worker.join()
        if self.failure is not None:
            raise self.failure

    def _repr_mimebundle_(self, **options: Any) -> MimeBundle:
        drawn = [panel for panel in self.shown.children if panel.picture is not None]
        view = super()._repr_mimebundle_(**options)
        if not drawn:
            return with_image(view, None, "The playground. Run this cell to use it.", WIDTH)
        names = " and ".join(panel.made.prompt for panel in drawn)
        image = grid([[panel.picture for panel in drawn]], [panel.name for panel in drawn])
        return with_image(view, image, f"The pictures drawn for: {names}", image.width)

    def save(self, place: str | Path) -> None:
        """Write the first panel's image as a PNG file with its settings inside.

        Args:
            place: Path of the file.

        Raises:
            ValueError: If nothing has been drawn yet.
            OSError: If the file cannot be written.
        """
        panel = self.panels[0]
        if panel.picture is None or panel.made is None:
            raise ValueError("there is no image to save yet; press Draw first")
        write_png(panel.picture, Path(place), panel.made)


def vocabulary(sd: StableDiffusion) -> Iterator[widgets.HTML]:
    """Yield a folded list of the captions' words for the storybook model, nothing for others."""
    if sd.spec.name != "storybook":
        return
    rows = {
        "Things": [noun for nouns in NOUNS.values() for noun in nouns],
        "Colours": [*COLOURS, "striped", "spotted"],
        "Places": [place for places in PLACES.values() for place in places],
        "Times": [time for times in TIMES.values() for time in times],
        "Between two": [
            "to the left of",
            "to the right of",
            "above",
            "below",
            "in front of",
            "behind",
        ],
        "People": [f"a {pose} person in red" for pose in POSES],
    }
    lines = (f"<b>{name}</b> {html.escape(', '.join(words))}" for name, words in rows.items())
    yield widgets.HTML(
        f"<details><summary>The words that it knows</summary>{'<br>'.join(lines)}</details>"
    )
