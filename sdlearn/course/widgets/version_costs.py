"""The widget of notebook 15: the memory and operations of each version, counted from the code."""

import io

import ipywidgets as widgets
from PIL import Image

from sdlearn.course.figures.images import png
from sdlearn.course.figures.versions import version_costs
from sdlearn.course.version_costs import cost
from sdlearn.course.widgets.figure_widget import FigureWidget

VERSIONS = ("sd1.5", "sd2.1", "sdxl")
SIDES = (256, 512, 768, 1024)  # pixels
BYTES = {"float32": 4, "float16": 2}


class VersionCostsWidget(FigureWidget):
    """Choose a version, a size, a batch and a precision; see the memory and operations it takes.

    Attributes:
        activations: By network, in 10^9 bytes.
        gigabytes: Memory of the weights and the larger activations, in 10^9 bytes.
        teraflops: Operations of the whole batch, in 10^12.
    """

    def __init__(self, version: str = "sd1.5", side: int = 512) -> None:
        """Build the widget.

        Args:
            version: At first, one of VERSIONS.
            side: At first, one of SIDES.
        """
        row = {"style": {"description_width": "6em"}, "layout": {"width": "32em"}}
        self.version = widgets.Dropdown(
            options=VERSIONS, value=version, description="Version", **row
        )
        self.side = widgets.SelectionSlider(
            options=SIDES, value=side, description="Side", continuous_update=False, **row
        )
        self.batch = widgets.IntSlider(
            value=1, min=1, max=8, description="Batch", continuous_update=False, **row
        )
        self.precision = widgets.Dropdown(
            options=list(BYTES), value="float16", description="Precision", **row
        )
        super().__init__([self.version, self.side, self.batch, self.precision])

    def update(self) -> None:
        """Count the cost at the present settings and draw it."""
        name, side, batch = self.version.value, self.side.value, self.batch.value
        one, size = cost(name, side), BYTES[self.precision.value]
        sizes = dict.fromkeys(one.parameters, size)
        sizes["autoencoder"] = sizes["decoder"] = max(size, 4) if one.upcast else size
        weights = {part: sizes[part] * count / 1e9 for part, count in one.parameters.items()}
        rows = {"U-Net": 2 * batch, "decoder": 1}  # guidance doubles the batch; one image at a time
        self.activations = {
            part: rows[part] * sizes[part] * values / 1e9
            for part, values in one.activations.items()
        }
        self.gigabytes = sum(weights.values()) + max(self.activations.values())
        self.teraflops = batch * one.image_flops / 1e12
        images = "1 image" if batch == 1 else f"{batch} images"
        sentence = (
            f"{name}, {images} of {side} × {side} in {self.precision.value}: "
            f"{self.gigabytes:.1f} GB, and {self.teraflops:,.0f} TFLOPs in {one.evaluations} "
            f"evaluations of {one.unet_flops / 1e9:,.0f} GFLOPs an image."
        )
        title = (
            f"{name}, {images} of {side} × {side}, {self.precision.value}: {self.gigabytes:.1f} GB"
        )
        drawn = version_costs(weights, self.activations, title)
        self.image, self.width = Image.open(io.BytesIO(png(drawn.figure))), 640
        self.show(sentence, f"{sentence} {drawn.words}")
