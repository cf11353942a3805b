"""The widget of notebook 17: what one device holds in a training step."""

import io

import ipywidgets as widgets
from PIL import Image

from sdlearn.course.figures.images import png
from sdlearn.course.figures.scaling import memory_bars
from sdlearn.course.training_costs import Run, activation_bytes, memory_of_step, unet_cost
from sdlearn.course.widgets.figure_widget import FigureWidget

VERSIONS = ("sd1.5", "sdxl")
SIDES = (256, 512, 1024)  # pixels
DEVICES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ROWS = (1, 2, 4, 8, 16, 32)
BATCH = 2048


class TrainingMemoryWidget(FigureWidget):
    """Choose a U-Net, a size, devices and techniques; see whether a training step fits a device.

    Attributes:
        limit: Memory of a device in gigabytes.
        pieces: What a step takes in gigabytes, by name.
        passes: How many passes of a device make a batch.
    """

    def __init__(self, limit: float = 40.0) -> None:
        """Build the widget.

        Args:
            limit: See the attributes.
        """
        self.limit = limit
        row = {"style": {"description_width": "9em"}, "layout": {"width": "32em"}}
        lazy = row | {"continuous_update": False}
        self.version = widgets.Dropdown(options=VERSIONS, description="U-Net", **row)
        self.side = widgets.SelectionSlider(options=SIDES, value=512, description="Side", **lazy)
        self.devices = widgets.SelectionSlider(
            options=DEVICES, value=8, description="Devices", **lazy
        )
        self.rows = widgets.SelectionSlider(
            options=ROWS, value=8, description="Images in a pass", **lazy
        )
        self.shard = widgets.Checkbox(value=False, description="sharded over the devices", **row)
        self.checkpointed = widgets.Checkbox(
            value=False, description="activation checkpointing", **row
        )
        super().__init__(
            [self.version, self.side, self.devices, self.rows, self.shard, self.checkpointed]
        )

    def update(self) -> None:
        """Count the memory at the present settings and draw it."""
        name, side, rows = self.version.value, self.side.value, self.rows.value
        parameters, flops = unet_cost(name, side)
        kept = activation_bytes(name, side, self.checkpointed.value)
        run = Run(parameters, flops, kept, steps=1, batch=BATCH)
        self.pieces = memory_of_step(run, rows, self.devices.value if self.shard.value else 1)
        total = sum(self.pieces.values())
        self.passes = max(1, BATCH // (self.devices.value * rows))
        verdict = "fits" if total <= self.limit else "doesn't fit"
        times = "one pass" if self.passes == 1 else f"{self.passes} passes"
        sentence = (
            f"{name} at {side} × {side}, {rows} images in a pass: {total:.1f} GB, which {verdict} "
            f"a device of {self.limit:g} GB. A batch of {BATCH:,} takes {times} of each device."
        )
        title = f"{name} at {side} × {side}, one device of {self.devices.value}"
        limits = {"the device": self.limit}
        drawn = memory_bars({"one step": self.pieces}, title, limits)
        self.image, self.width = Image.open(io.BytesIO(png(drawn.figure))), 640
        self.show(sentence, f"{sentence} {drawn.words}")
