"""The playground: every knob of the model, live; one picture, or two side by side."""

import html
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Lock, Thread

import ipywidgets as widgets

from sdlearn import settings as stamped
from sdlearn.course.widgets.panel import Panel
from sdlearn.pipeline import StableDiffusion
from sdlearn.settings import Settings
from sdlearn.storybook.captions import NOUNS, PLACES, TIMES
from sdlearn.storybook.scenes import COLOURS, POSES

PROMPT = "a red cat to the left of a blue house on the sand at night"


class Playground(widgets.VBox):
    """Draw, Stop, and one or two panels of controls with their pictures.

    Drawing runs in a thread of its own, so that every control answers meanwhile; what is changed
    then counts for the next picture. Drawing again stops what is being drawn.
    """

    def __init__(self, sd: StableDiffusion, prompt: str = PROMPT) -> None:
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
        # They stay enabled all the time: a disabled button loses the keyboard's focus.
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
        """One panel, or two; the second begins with the settings of the first, and keeps its own
        when it comes back."""
        first, second = self.panels
        if self.compare.value and not self.compared:
            second.set(first.settings())
            self.compared = True
        first.title.layout.display = None if self.compare.value else "none"
        self.shown.children = (first, second) if self.compare.value else (first,)

    def take_message(self, _: widgets.Widget, content: dict[str, str], __: object) -> None:
        """Enter in a line of text is as good as the button."""
        if content.get("event") == "submit":
            self.draw()

    def draw_next(self) -> None:
        """Draw what the panels say, each with the seed after its own."""
        for panel in self.shown.children:
            panel.seed.value += 1
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

    def save(self, place: str | Path) -> None:
        """Write the first panel's picture as a PNG file with its settings inside.

        Raises ValueError where nothing has been drawn, OSError where it cannot be written.
        """
        panel = self.panels[0]
        if panel.picture is None or panel.made is None:
            raise ValueError("there is no picture to save yet; press Draw first")
        stamped.write(panel.picture, Path(place), panel.made, panel.sd.spec.name)


def vocabulary(sd: StableDiffusion) -> Iterator[widgets.HTML]:
    """A fold with the words of the storybook's captions, where it is the storybook that draws."""
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
