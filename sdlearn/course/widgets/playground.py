"""The playground: every setting of the model, live, for one drawing or two side by side."""

from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import ipywidgets as widgets

from sdlearn.controlnet import ControlNet
from sdlearn.course.figures import grid
from sdlearn.course.widgets.difference import Difference
from sdlearn.course.widgets.history import History
from sdlearn.course.widgets.page_style import STYLE
from sdlearn.course.widgets.panel import Panel
from sdlearn.course.widgets.prompts import PROMPT
from sdlearn.course.widgets.stored_image import MimeBundle, with_image
from sdlearn.course.widgets.viewer import WIDTH, smooth
from sdlearn.course.widgets.xy_table import XYTable
from sdlearn.pipeline import StableDiffusion
from sdlearn.utils.png_metadata import GenerationSettings, write_png


class Playground(widgets.VBox):
    """Buttons to draw and stop, one or two panels, the X/Y comparison and the history.

    Drawing runs in its own thread, so the controls stay responsive. A change made while an image
    is being drawn applies to the next image. Drawing again stops the current drawing.
    """

    def __init__(
        self, sd: StableDiffusion, prompt: str = PROMPT, controlnet: ControlNet | None = None
    ) -> None:
        """Build the playground.

        Args:
            sd: The model.
            prompt: A prompt to start from.
            controlnet: Follows a drawn hint; None for a playground without control.

        Raises:
            ValueError: If the ControlNet is for another U-Net.
        """
        self.sd, self.controlnet = sd, controlnet
        self.panels = [Panel(sd, prompt, "A", controlnet)]  # B is made when it is first shown
        self.button = widgets.Button(
            description="Draw", button_style="primary", tooltip="Draw with these settings"
        )
        self.stopper = widgets.Button(
            description="Stop", tooltip="There is nothing to stop", disabled=True
        )
        self.next = widgets.Button(
            description="Next seed",
            tooltip="Draw with the next seed and otherwise the same settings",
        )
        self.compare = widgets.ToggleButton(
            description="Two settings side by side", layout={"width": "auto"}
        )
        self.button.on_click(lambda _: self.draw())
        self.stopper.on_click(lambda _: self.stop_and_keep_focus())
        self.next.on_click(lambda _: self.draw_next())
        self.compare.observe(lambda _: self.show_panels(), "value")
        self.turn = Lock()
        self.stopping = Event()
        self.worker: Thread | None = None
        self.failure: Exception | None = None
        bar = widgets.HBox([self.button, self.stopper, self.next, self.compare])
        bar.layout.flex_flow = "row wrap"
        self.shown = widgets.HBox(layout={"flex_flow": "row wrap"})
        self.difference = Difference()
        self.xy = XYTable(sd, controlnet)
        self.xy.button.on_click(lambda _: self.draw_table())
        self.xy_fold = widgets.Accordion(
            [self.xy], titles=["X/Y comparison: two settings against each other"],
            selected_index=None,
        )  # fmt: skip
        self.history = History()
        self.history.tiles.observe(lambda change: self.restore(change["new"]), "chosen")
        self.listen_to(self.panels[0])
        self.show_panels()
        style = widgets.HTML(STYLE, layout={"margin": "0", "height": "0"})
        super().__init__(
            [style, bar, self.shown, self.difference, self.history, self.xy_fold],
            layout={"overflow": "hidden"},
        )

    def listen_to(self, panel: Panel) -> None:
        """Draw when Enter is pressed in a prompt; compare again when another image is chosen."""
        panel.prompt.on_msg(self.take_message)
        panel.negative.on_msg(self.take_message)
        panel.viewer.grid.observe(lambda _: self.show_difference(), "chosen")

    def show_panels(self) -> None:
        """Show one panel or two.

        The second panel starts with the settings of the first. Hidden and shown again, it keeps
        its own.
        """
        if self.compare.value and len(self.panels) == 1:
            second = Panel(self.sd, self.panels[0].prompt.value, "B", self.controlnet)
            second.set(self.panels[0].settings())
            self.listen_to(second)
            self.panels.append(second)
        visible = self.panels if self.compare.value else self.panels[:1]
        self.panels[0].title.layout.display = None if self.compare.value else "none"
        self.shown.children = tuple(visible)
        self.difference.layout.display = None if self.compare.value else "none"
        self.show_difference()

    def show_difference(self) -> None:
        """Compare the chosen images of the two panels."""
        if self.compare.value:
            first, second = self.panels
            self.difference.show(first.image, second.image)

    def take_message(self, _: widgets.Widget, content: dict[str, str], __: object) -> None:
        """Draw if Enter was pressed in a text field."""
        if content.get("event") == "submit":
            self.draw()

    def draw_next(self) -> None:
        """Draw the panels' settings, each with the next seed that it has not drawn yet."""
        for panel in self.shown.children:
            seed = panel.controls["seed"]
            seed.value = min(seed.max, seed.value + panel.controls["n"].value)
        self.draw()

    def restore(self, tile: int | None) -> None:
        """Bring back a drawing from the history, with its settings and images."""
        kept = self.history.kept.get(str(self.history.tiles.chosen_key))
        if tile is None or kept is None:  # another drawing has just taken the tile's place
            return
        self.stop()
        number, drawing = kept
        panel = self.panels[number] if self.compare.value else self.panels[0]
        with self.turn:  # a stopped drawing first shows the panel's last image again
            panel.restore(drawing)
            self.show_difference()

    # ------------------------------------------------------------------------------- the drawing

    def draw(self) -> None:
        """Start drawing the panels' settings and return at once; `wait` waits for the end."""
        jobs = []
        for number, panel in enumerate(self.shown.children):
            try:
                jobs.append((number, panel.settings()))
            except ValueError as error:
                panel.say(f"This cannot be drawn: {error}.")
        self.begin(lambda stopping: self.draw_all(jobs, stopping))

    def draw_table(self) -> None:
        """Start drawing the X/Y comparison and return at once."""
        try:
            base = self.panels[0].settings()
        except ValueError as error:
            self.xy.say(f"This cannot be drawn: {error}.")
            return

        def job(stopping: Event) -> None:
            try:
                self.xy.draw(base, stopping)
            except Exception as error:
                self.xy.say(f"Drawing failed with {type(error).__name__}: {error}.")
                raise

        self.begin(job)

    def begin(self, job: Callable[[Event], None]) -> None:
        """Stop the current drawing, and begin another in a thread that waits until it has ended."""
        self.stop()
        self.stopping, self.failure = Event(), None
        self.stopper.disabled, self.stopper.tooltip = False, "Stop after the current step"
        self.worker = Thread(target=self.work, args=(job, self.stopping), daemon=True)
        self.worker.start()

    def work(self, job: Callable[[Event], None], stopping: Event) -> None:
        """Do a job when its turn has come."""
        with self.turn:
            try:
                job(stopping)
            except Exception as error:  # shown on the page, and raised again by `wait`
                self.failure = error
            if stopping is self.stopping:  # no other drawing is waiting for its turn
                self.stopper.disabled, self.stopper.tooltip = True, "There is nothing to stop"

    def draw_all(self, jobs: list[tuple[int, GenerationSettings]], stopping: Event) -> None:
        """Draw one panel after another."""
        for number, settings in jobs:
            panel = self.panels[number]
            if stopping.is_set():
                panel.say("Stopped before drawing began.")
                continue
            try:
                if panel.draw(settings, stopping) and panel.drawing is not None:
                    self.history.add(number, panel.drawing)
            except Exception as error:
                panel.say(f"Drawing failed with {type(error).__name__}: {error}.")
                raise
            self.show_difference()

    def stop(self) -> None:
        """Stop drawing after the current step."""
        self.stopping.set()

    def stop_and_keep_focus(self) -> None:
        """Stop, and move keyboard focus to Draw, because a disabled button cannot have it."""
        self.stop()
        self.button.focus()

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
        drawn = [panel for panel in self.shown.children if panel.image is not None]
        view = super()._repr_mimebundle_(**options)
        if not drawn:
            return with_image(view, None, "The playground. Run this cell to use it.", WIDTH)
        names = " and ".join(panel.made.prompt for panel in drawn)
        large = [smooth(panel.image, WIDTH) for panel in drawn]
        page = grid([large], [panel.name for panel in drawn], scale=1)
        return with_image(view, page, f"The images drawn for: {names}", page.width)

    def save(self, place: str | Path) -> None:
        """Write the first panel's image as a PNG file with its settings inside.

        Args:
            place: Path of the file.

        Raises:
            ValueError: If nothing has been drawn yet.
            OSError: If the file cannot be written.
        """
        panel = self.panels[0]
        if panel.image is None or panel.made is None:
            raise ValueError("there is no image to save yet; press Draw first")
        write_png(panel.image, Path(place), panel.made)
