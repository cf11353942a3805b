"""A tour of U-Nets: choose a block, and see where it stands, what it does and what it costs."""

import html
import io
from collections.abc import Mapping, Sequence

import ipywidgets as widgets
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.pages import grid, img, png
from sdlearn.course.figures.unet import Stop, account, loudest, relief, u_shape


class Tour(widgets.VBox):
    """One of several networks, and a slider along its blocks in the order of a forward pass.

    `sentence` tells its numbers; `picture` is the network with the block in black; `maps` are four
    channels of what the block gave, None where they are not known.
    """

    def __init__(
        self,
        walks: Mapping[str, Sequence[Stop]],
        seen: Mapping[str, Mapping[str, Tensor]],
        width: int = 900,
    ) -> None:
        """walks: for each network its stops. seen: for some of the networks, by block, the maps
        (c, h, w) that it gave. width: of the picture, in CSS pixels."""
        self.walks, self.seen, self.width = walks, seen, width
        self.maps: Image.Image | None = None
        row = {"style": {"description_width": "6em"}, "layout": {"width": "42em"}}
        self.network = widgets.Dropdown(options=list(walks), description="Network", **row)
        self.block = widgets.SelectionSlider(
            options=self.blocks(), description="Block", continuous_update=False, **row
        )
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        self.network.observe(lambda _: self.enter(), "value")
        self.block.observe(lambda _: self.look(), "value")
        self.look()
        super().__init__([self.network, self.block, self.message, self.view])

    def blocks(self) -> list[tuple[str, int]]:
        """The names of the blocks with their places on the walk."""
        return [(stop.name, k) for k, stop in enumerate(self.walks[self.network.value])]

    def enter(self) -> None:
        """Begin at the first block of another network."""
        stays = self.block.value == 0
        self.block.index = 0  # looks, if it moves
        self.block.options = self.blocks()
        if stays:
            self.look()

    def look(self) -> None:
        """Show the chosen block, and say its numbers."""
        name, k = self.network.value, self.block.value
        stops = self.walks[name]
        self.sentence = account(stops, k)
        self.picture = Image.open(io.BytesIO(png(u_shape(stops, f"The U-Net: {name}", k))))
        shown = img(self.picture, f"The blocks of {name}; marked is {stops[k].name}.", self.width)
        given = self.seen.get(name, {}).get(stops[k].name)
        self.maps = None if given is None else channels(given, stops[k].name)
        if self.maps is not None:
            shown += img(self.maps, f"Four channels of what {stops[k].name} gave.", self.maps.width)
        self.message.value = f'<span role="status">{html.escape(self.sentence)}</span>'
        self.view.value = shown


def channels(given: Tensor, name: str) -> Image.Image:
    """The four channels (h, w) of (c, h, w) that vary most, side by side."""
    chosen = loudest(given)
    return grid(
        [[relief(given[k]) for k in chosen]],
        [f"channel {k}" for k in chosen],
        title=f"What {name} gave: the channels that vary most, each on its own scale",
        scale=2,
    )
