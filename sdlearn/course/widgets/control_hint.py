"""The hint of a ControlNet in the playground, drawn by hand or made from a scene."""

from typing import Any

import ipywidgets as widgets
import numpy as np
from PIL import Image

from sdlearn.controlnet import ControlNet
from sdlearn.course.widgets.canvas import ERASED, painted_over
from sdlearn.course.widgets.controls import ROW
from sdlearn.course.widgets.drawing import percent
from sdlearn.course.widgets.paint_box import PaintBox, note
from sdlearn.storybook import GROUNDS, HINTS, KINDS, POSES, Scene, Thing
from sdlearn.utils.png_metadata import GenerationSettings, controlnet_name
from sdlearn.versions import ModelSpec

ADVICE = (
    "Draw white lines, or choose a ready-made hint. A ControlNet follows the kinds of hint it was "
    "trained on. With any other kind, its effect is unpredictable."
)


class ControlHint(widgets.VBox):
    """A canvas for the hint, controls for ready-made hints, and the control scale."""

    def __init__(self, spec: ModelSpec, controlnet: ControlNet) -> None:
        """Build the controls, with an empty hint.

        Args:
            spec: The specification of the model, which sets the size of the hint.
            controlnet: The ControlNet that follows the hint.
        """
        self.controlnet, self.side = controlnet, spec.resolution
        self.base: Image.Image | None = None
        self.box = PaintBox(
            self.side, "The hint", "Pen width", can_invert=False, erased=ERASED,
            brush=max(1, self.side // 64),
        )  # fmt: skip
        self.scale = widgets.FloatSlider(
            value=1, min=0, max=2, step=0.05, description="Control scale",
            tooltip="Multiplies what the ControlNet adds; 0 switches it off", **ROW,
        )  # fmt: skip
        self.ready = widgets.Dropdown(options=list(HINTS), description="Ready-made hint", **ROW)
        self.ground = widgets.Dropdown(options=GROUNDS, description="Ground", **ROW)
        self.kind = widgets.Dropdown(options=KINDS, description="Object", **ROW)
        self.pose = widgets.Dropdown(options=POSES, description="Pose", **ROW)
        self.x, self.y, self.size = (
            widgets.FloatSlider(value=value, min=low, max=high, step=0.02, description=name, **ROW)
            for name, value, low, high in (
                ("From the left", 0.5, 0, 1), ("From the top", 0.62, 0, 1), ("Size", 0.4, 0.2, 0.6),
            )
        )  # fmt: skip
        self.use = widgets.Button(
            description="Put this hint on the canvas", layout={"width": "auto"},
            tooltip="Replace what is on the canvas with the ready-made hint",
        )  # fmt: skip
        self.state = widgets.HTML()
        self.use.on_click(lambda _: self.set(self.ready_hint()))
        self.box.clear.on_click(lambda _: self.set(None))
        self.box.canvas.observe(lambda _: self.describe(), "marks")
        self.scale.observe(lambda _: self.describe(), "value")
        for each in (self.ready, self.kind):
            each.observe(lambda _: self.adapt(), "value")
        scene = [self.ready, self.kind, self.pose, self.ground, self.x, self.y, self.size, self.use]
        self.adapt()
        self.set(None)
        super().__init__([note(ADVICE), self.box, self.scale, *scene])

    @property
    def hint(self) -> Image.Image | None:
        """The hint on the canvas; None if it is entirely black."""
        hint = painted_over(self.base, self.box.canvas.cells)
        return hint if hint.getbbox() else None

    def settings(self) -> dict[str, Any]:
        """Return the fields of GenerationSettings for this hint, or no fields if it is empty."""
        hint, name = self.hint, controlnet_name(self.controlnet)
        if hint is None:
            return {}
        return {"hint": hint, "control_scale": self.scale.value, "controlnet": name}

    def check(self, settings: GenerationSettings) -> None:
        """Raise ValueError if the slider cannot show the control scale."""
        low, high = self.scale.min, self.scale.max
        if not low <= settings.control_scale <= high:
            raise ValueError(
                f"control_scale is {settings.control_scale}; its control goes from {low:g} to "
                f"{high:g}"
            )

    def take(self, settings: GenerationSettings) -> None:
        """Show the hint and control scale of these settings, or an empty hint if they have none."""
        self.set(settings.hint)
        if settings.hint is not None:
            self.scale.value = settings.control_scale

    def set(self, hint: Image.Image | None) -> None:
        """Put a hint on the canvas, resized to the model's size; None to clear it."""
        side = (self.side, self.side)
        self.base = None if hint is None else hint.convert("RGB").resize(side)
        self.box.canvas.show(self.base)
        self.box.canvas.marks = []
        self.describe()

    def ready_hint(self) -> Image.Image:
        """Return the ready-made hint of the chosen scene."""
        person = self.kind.value == "person"
        thing = Thing(
            self.kind.value, "red", "plain", self.x.value, self.y.value, self.size.value,
            self.pose.value if person else None,
        )  # fmt: skip
        scene = Scene("day", self.ground.value, (thing,))
        drawn = HINTS[self.ready.value](scene, min(max(self.side, 32), 1024))
        return drawn.resize((self.side, self.side))

    def adapt(self) -> None:
        """Enable the controls that matter for the ready-made hint: only a person has a pose."""
        only_person = self.ready.value == "pose"
        if only_person:
            self.kind.value = "person"
        self.kind.disabled = only_person
        self.pose.layout.display = None if self.kind.value == "person" else "none"
        self.ground.disabled = only_person

    def describe(self) -> None:
        """Say what is on the canvas and whether it controls the next drawing."""
        hint = self.hint
        lit = 0.0 if hint is None else float((np.asarray(hint).max(axis=2) > 0).mean())
        self.box.say(hint_sentence(lit, self.scale.value))


def hint_sentence(lit: float, scale: float) -> str:
    """Say whether a hint controls the drawing.

    Args:
        lit: The fraction of its pixels that are not black, 0 … 1.
        scale: The control scale.
    """
    if lit == 0:
        return "The hint is empty, so the ControlNet is off."
    drawn = f"The hint covers {percent(lit)} of the image"
    if scale == 0:
        return f"{drawn}. The control scale is 0, so the ControlNet is off."
    return f"{drawn} and controls the next drawing at scale {scale:g}."
