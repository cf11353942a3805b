"""The playground's history: finished drawings that the reader can come back to."""

import textwrap

import ipywidgets as widgets

from sdlearn.course.widgets.drawing import Drawing, short_settings
from sdlearn.course.widgets.tiles import Tile, Tiles

MOST = 24  # drawings are kept


class History(widgets.VBox):
    """A tile for each finished drawing, latest first.

    Attributes:
        kept: The panel and the drawing of each tile, by the tile's key.
        number: How many drawings there were in this visit.
    """

    def __init__(self) -> None:
        """Make an empty history."""
        self.kept: dict[str, tuple[int, Drawing]] = {}
        self.number = 0
        self.tiles = Tiles(108, lines=4)
        self.note = widgets.HTML("Finished drawings appear here.")
        super().__init__([widgets.HTML("<b>History</b>"), self.note, self.tiles])

    def add(self, panel: int, drawing: Drawing) -> None:
        """Keep a drawing.

        Args:
            panel: The number of the panel that drew it.
            drawing: A finished drawing.
        """
        self.number += 1
        newest = {f"drawing {self.number}": (panel, drawing)}
        self.kept = dict([*newest.items(), *self.kept.items()][:MOST])
        self.note.value = (
            "Choose a drawing to see it again, with its settings. "
            f"The last {MOST} drawings are kept until the page is closed."
        )
        self.tiles.show([tile_of(each, key) for key, (_, each) in self.kept.items()])


def tile_of(drawing: Drawing, key: str) -> Tile:
    """A drawing's tile: its first image, with the settings below it."""
    settings = short_settings(drawing.settings)
    prompt = textwrap.shorten(drawing.settings.prompt, 60, placeholder=" …")
    return Tile(
        f"{settings}: {prompt}",
        drawing.images[:1],
        f"{drawing.settings.prompt}; {settings}",
        key,
    )
