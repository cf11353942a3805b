"""The widget of notebook 08: samples of a training run at any stage."""

from collections.abc import Mapping, Sequence

import ipywidgets as widgets
from PIL import Image

from sdlearn.course.figures.training import running_mean, training_frame
from sdlearn.course.widgets.figure_widget import FigureWidget

Sheets = Mapping[int, Mapping[str, Sequence[Image.Image]]]


class TrainingWidget(FigureWidget):
    """Steps trained, caption and weights; the sample they gave, and the loss curve.

    Attributes:
        image: The figure on display.
    """

    def __init__(
        self, sheets: Sheets, captions: Sequence[str], losses: Sequence[float], width: int = 720
    ) -> None:
        """Build the widget.

        Args:
            sheets: sheets[steps done][name of the weights] holds one image for each caption.
            captions: The prompts.
            losses: One for each training step.
            width: Of the figure, in CSS pixels.
        """
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
        super().__init__([self.step, self.caption, self.weights])

    def update(self) -> None:
        """Show the sample of the current settings and describe the state of the run."""
        step, k, kind = self.step.value, self.caption.value, self.weights.value
        caption = self.captions[k]
        self.image = training_frame(self.sheets[step][kind][k], caption, self.losses, step, kind)
        recent = (
            f"the last losses had a mean of {running_mean(self.losses, 20)[step - 1]:.3f}"
            if step
            else "nothing had been learnt"
        )
        sentence = f"After {step} of {len(self.losses)} steps, weights {kind}: {recent}."
        words = f"Picture for “{caption}”, and the loss curve with a mark. {sentence}"
        self.show(sentence, words)
