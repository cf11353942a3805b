"""The live part of notebook 08: a training as a reel, picture after picture."""

import html
from collections.abc import Mapping, Sequence

import ipywidgets as widgets
from PIL import Image

from sdlearn.course.figures.learning import reel, running_mean
from sdlearn.course.figures.pages import img

Sheets = Mapping[int, Mapping[str, Sequence[Image.Image]]]


class Reel(widgets.VBox):
    """How far the training was, what was asked for, and with which weights it was drawn.

    `picture` is what is shown.
    """

    def __init__(
        self, sheets: Sheets, captions: Sequence[str], losses: Sequence[float], width: int = 720
    ) -> None:
        """sheets[steps done][name of the weights] holds one picture for each caption; losses: of
        every step. width: in CSS pixels."""
        self.sheets, self.captions, self.losses, self.width = sheets, captions, losses, width
        row = {"style": {"description_width": "9em"}, "layout": {"width": "40em"}}
        stages = sorted(sheets)
        self.step = widgets.SelectionSlider(
            options=stages, value=stages[-1], description="Steps trained", **row
        )
        said = [(caption, k) for k, caption in enumerate(captions)]
        self.caption = widgets.Dropdown(options=said, value=0, description="Caption", **row)
        kinds = [*sheets[stages[0]]]
        self.weights = widgets.Dropdown(options=kinds, description="Weights", **row)
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        controls = [self.step, self.caption, self.weights]
        for control in controls:
            control.observe(lambda _: self.look(), "value")
        self.look()
        super().__init__([*controls, self.message, self.view])

    def look(self) -> None:
        """Show the picture of the current settings, and say where the training was."""
        step, k, kind = self.step.value, self.caption.value, self.weights.value
        caption = self.captions[k]
        self.picture = reel(self.sheets[step][kind][k], caption, self.losses, step, kind)
        recent = (
            f"the last losses had a mean of {running_mean(self.losses, 20)[step - 1]:.3f}"
            if step
            else "nothing had been learnt"
        )
        sentence = f"After {step} of {len(self.losses)} steps, weights {kind}: {recent}."
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'
        words = f"Picture for “{caption}”, and the loss curve with a mark. {sentence}"
        self.view.value = img(self.picture, words, self.width)
