"""The playground: every knob of the model, live; one picture, or two side by side."""

from pathlib import Path
from threading import Event, Lock, Thread

import ipywidgets as widgets

from sdlearn import settings as stamped
from sdlearn.course.widgets.panel import Panel
from sdlearn.pipeline import StableDiffusion
from sdlearn.settings import Settings

PROMPT = "a red cat to the left of a blue house on the sand at night"


class Playground(widgets.VBox):
    """Draw, Stop, and one or two panels of controls with their pictures.

    Drawing runs in a thread of its own, so that every control answers meanwhile; what is changed
    then counts for the next picture. Drawing again stops what is being drawn.
    """

    def __init__(self, sd: StableDiffusion, prompt: str = PROMPT) -> None:
        self.panels = [Panel(sd, prompt, "One setting"), Panel(sd, prompt, "Another")]
        self.button = widgets.Button(
            description="Draw", button_style="primary", tooltip="Draw with these settings"
        )
        self.stopper = widgets.Button(
            description="Stop", tooltip="Stop after the step that is being computed"
        )
        self.compare = widgets.ToggleButton(
            description="Two settings side by side", layout={"width": "auto"}
        )
        self.load = widgets.FileUpload(
            accept="image/png", description="Settings of a saved picture", layout={"width": "auto"}
        )
        # They stay enabled all the time: a disabled button loses the keyboard's focus.
        self.button.on_click(lambda _: self.draw())
        self.stopper.on_click(lambda _: self.stop())
        for panel in self.panels:
            panel.prompt.on_msg(self.take_message)
            panel.negative.on_msg(self.take_message)
        self.compare.observe(lambda _: self.show_panels(), "value")
        self.load.observe(lambda _: self.take_settings(), "value")
        self.turn = Lock()
        self.stopping = Event()
        self.worker: Thread | None = None
        self.failure: Exception | None = None
        bar = widgets.HBox([self.button, self.stopper, self.compare, self.load])
        bar.layout.flex_flow = "row wrap"
        self.shown = widgets.HBox(layout={"flex_flow": "row wrap"})
        self.show_panels()
        super().__init__([bar, self.shown])

    def show_panels(self) -> None:
        """One panel, or two; the second begins with the settings of the first."""
        first, second = self.panels
        if self.compare.value:
            second.set(first.settings())
        first.title.layout.display = None if self.compare.value else "none"
        self.shown.children = (first, second) if self.compare.value else (first,)

    def take_message(self, _: widgets.Widget, content: dict[str, str], __: object) -> None:
        """Enter in a line of text is as good as the button."""
        if content.get("event") == "submit":
            self.draw()

    def draw(self) -> None:
        """Begin to draw what the panels say, and return at once; `wait` waits for the end."""
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

    def work(self, jobs: list[tuple[Panel, Settings]], stopping: Event) -> None:
        """The thread: one picture after the other, and one thread after the other."""
        with self.turn:
            for panel, settings in jobs:
                if stopping.is_set():
                    panel.say("Stopped before it began.")
                    continue
                try:
                    panel.draw(settings, stopping)
                except Exception as error:  # said, and raised again by wait
                    self.failure = error
                    panel.say(f"It failed with {type(error).__name__}: {error}.")

    def stop(self) -> None:
        """Stop what is being drawn after the step that is being computed."""
        self.stopping.set()

    def wait(self) -> None:
        """Until nothing is being drawn any more. Raises what went wrong in the drawing."""
        if self.worker is not None:
            self.worker.join()
        if self.failure is not None:
            raise self.failure

    def take_settings(self) -> None:
        """Set the first panel to what made the picture that was handed in."""
        for file in self.load.value:
            self.panels[0].take_settings(bytes(file["content"]), file["name"])
        self.load.value = ()

    def save(self, place: str | Path) -> None:
        """Write the first panel's picture as a PNG file with its settings inside.

        Raises ValueError where nothing has been drawn, OSError where it cannot be written.
        """
        panel = self.panels[0]
        if panel.picture is None or panel.made is None:
            raise ValueError("there is no picture to save yet; press Draw first")
        stamped.write(panel.picture, Path(place), panel.made, panel.sd.spec.name)
