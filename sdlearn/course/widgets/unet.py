"""The widget of notebook 06: any block of a U-Net, its position, shapes and cost."""

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.images import grid, img, png
from sdlearn.course.figures.unet import BlockTrace, describe_block, u_shape
from sdlearn.course.figures.unet_charts import channel_image, most_varying_channels
from sdlearn.course.widgets.stored_image import MimeBundle, with_image

TITLES = {
    "storybook": "the storybook model",
    "sd1.5": "Stable Diffusion 1.5",
    "sd2.1": "Stable Diffusion 2.1",
    "sdxl": "SDXL",
}


class UNetTour(widgets.VBox):
    """One of several networks, and a slider over its blocks in the order of a forward pass.

    Attributes:
        sentence: Description of the block.
        image: The network with the block in black.
        alt: The text alternative of the image.
        maps: Four channels of the block's output, or None if its output was not given.
        maps_alt: The text alternative of the maps.
    """

    def __init__(
        self,
        traces: Mapping[str, Sequence[BlockTrace]],
        feature_maps: Mapping[str, Mapping[str, Tensor]],
        width: int = 450,
    ) -> None:
        """Build the widget.

        Args:
            traces: For each network its blocks, from `figures.unet.trace`.
            feature_maps: For some of the networks, by block, its output (c, h, w).
            width: Of the figure, in CSS pixels.
        """
        self.traces, self.feature_maps, self.width = traces, feature_maps, width
        self.maps: Image.Image | None = None
        self.maps_alt = ""
        row = {"style": {"description_width": "6em"}, "layout": {"width": "42em"}}
        self.network = widgets.Dropdown(options=list(traces), description="Network", **row)
        self.block = widgets.SelectionSlider(
            options=self.blocks(), description="Block", continuous_update=False, **row
        )
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        self.network.observe(lambda _: self.change_network(), "value")
        self.block.observe(lambda _: self.update(), "value")
        self.update()
        super().__init__([self.network, self.block, self.message, self.view])

    def blocks(self) -> list[tuple[str, int]]:
        """Return the names and indices of the current network's blocks."""
        return [(stop.name, k) for k, stop in enumerate(self.traces[self.network.value])]

    def change_network(self) -> None:
        """Go to the first block of the chosen network."""
        stays = self.block.value == 0
        self.block.index = 0  # calls update if the value changes
        self.block.options = self.blocks()
        if stays:
            self.update()

    def update(self) -> None:
        """Show the chosen block and describe it."""
        name, k = self.network.value, self.block.value
        stops = self.traces[name]
        self.sentence = describe_block(stops, k)
        title = f"The U-Net of {TITLES.get(name, name)}"
        self.image = Image.open(io.BytesIO(png(u_shape(stops, title, k))))
        self.alt = f"{title}; {stops[k].name} is marked. {self.sentence}"
        shown = img(self.image, self.alt, self.width)
        output = self.feature_maps.get(name, {}).get(stops[k].name)
        self.maps, self.maps_alt = None, ""
        if output is not None:
            self.maps = channels(output, stops[k].name)
            self.maps_alt = f"Four channels of the output of {stops[k].name}. {brightest(output)}"
            shown += img(self.maps, self.maps_alt, self.maps.width)
        self.message.value = f'<span role="status">{html.escape(self.sentence)}</span>'
        self.view.value = shown

    def _repr_mimebundle_(self, **options: Any) -> MimeBundle:
        view = super()._repr_mimebundle_(**options)
        if self.maps is None:
            return with_image(view, self.image, self.alt, self.width)
        whole = above(self.image, self.maps)
        return with_image(view, whole, f"{self.alt} {self.maps_alt}", whole.width)


def above(first: Image.Image, second: Image.Image) -> Image.Image:
    """Place one image above the other, on white."""
    size = max(first.width, second.width), first.height + second.height
    whole = Image.new("RGB", size, "white")
    whole.paste(first, (0, 0))
    whole.paste(second, (0, first.height))
    return whole


def brightest(output: Tensor) -> str:
    """Say where the channels that `channels` draws are largest."""
    places = []
    for k in most_varying_channels(output):
        row, column = divmod(int(output[k].argmax()), output.shape[-1])
        places.append(f"{k} in row {row + 1}, column {column + 1}")
    return f"The largest values of the channels: {'; '.join(places)}."


def channels(output: Tensor, name: str) -> Image.Image:
    """Draw the four channels of a block's output (c, h, w) that vary most, side by side."""
    chosen = most_varying_channels(output)
    return grid(
        [[channel_image(output[k]) for k in chosen]],
        [f"channel {k}" for k in chosen],
        title=f"Output of {name}: the channels that vary most, each on its own scale",
        scale=2,
    )
