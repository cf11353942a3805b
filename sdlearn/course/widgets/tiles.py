"""Rows of images that are buttons, with names, for the mouse and the keyboard."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import ipywidgets as widgets
import traitlets
from PIL import Image

from sdlearn.course.figures.images import png
from sdlearn.course.figures.style import BLUE

GAP = 4  # between the images of a tile, in CSS pixels


@dataclass(frozen=True)
class Tile:
    """One tile.

    Attributes:
        name: Written below the images and read out by screen readers.
        images: The images, from top to bottom.
        help: The tooltip, "" for none.
        key: Where tiles move to other places, what stays with the tile: a click that arrives late
            then still means the tile that was clicked. None where tile k stays tile k.
    """

    name: str
    images: tuple[Image.Image, ...]
    help: str = ""
    key: str | None = None


class Tiles(widgets.VBox):
    """Tiles in rows that wrap.

    Attributes:
        chosen: The number of the tile that was clicked. It becomes None before each click, so that
            observers also see a second click on the same tile.
        chosen_key: The key of that tile, or its number if it has none.
        tiles: The tiles that are shown.
        buttons: The button of each tile.
    """

    chosen = traitlets.Int(None, allow_none=True)

    def __init__(self, width: int, lines: int = 1) -> None:
        """Make an empty row.

        Args:
            width: Width of a tile, in CSS pixels.
            lines: How many lines of the name are visible.
        """
        self.width, self.lines = width, lines
        self.tiles: tuple[Tile, ...] = ()
        self.marked: int | None = None
        self.chosen_key: int | str | None = None
        self.style_sheet = widgets.HTML(layout={"margin": "0"})
        self.buttons: list[widgets.Button] = []
        self.made: dict[int | str, tuple[widgets.Button, str]] = {}  # with its class, by key
        self.numbers = count()
        self.row = widgets.HBox(layout={"flex_flow": "row wrap"})
        super().__init__([self.style_sheet, self.row])
        self.name = f"tiles-{self.model_id}"

    def show(self, tiles: Sequence[Tile], marked: int | None = None) -> None:
        """Show these tiles and no others, one of them marked as the current one."""
        self.tiles, self.marked = tuple(tiles), marked
        keys = self.tile_keys()
        for key in keys:
            if key not in self.made:
                self.made[key] = self.make_button(key)
        for key in [*self.made]:  # those of numbers are used again
            if isinstance(key, str) and key not in keys:
                self.made.pop(key)[0].close()
        self.buttons = [self.made[key][0] for key in keys]
        for button, tile in zip(self.buttons, tiles, strict=True):
            button.description, button.tooltip = tile.name, tile.help or tile.name
        self.write_style()
        if self.row.children != (shown := tuple(self.buttons)):
            self.row.children = shown
        self.layout.display = None if tiles else "none"

    def tile_keys(self) -> list[int | str]:
        """What identifies each tile: its key, or its number if it has none."""
        return [k if tile.key is None else tile.key for k, tile in enumerate(self.tiles)]

    def make_button(self, key: int | str) -> tuple[widgets.Button, str]:
        """Make the button of the tile with this key; the second value is its class in CSS."""
        button, own = widgets.Button(), f"{self.name}-{next(self.numbers)}"
        button.add_class(self.name)
        button.add_class(own)
        button.on_click(lambda _: self.press(key))
        return button, own

    def press(self, key: int | str) -> None:
        """Choose the tile with this key, unless it is gone."""
        keys = self.tile_keys()
        if key in keys:
            self.chosen_key = key
            self.choose(keys.index(key))

    def mark(self, k: int | None) -> None:
        """Mark another tile, or no tile if k is None."""
        if k != self.marked:
            self.marked = k
            self.write_style()

    def choose(self, k: int) -> None:
        """Do what a click on tile k does."""
        self.chosen = None
        self.chosen = k

    def write_style(self) -> None:
        """Write the style sheet that gives the buttons their images."""
        line = 15
        rules = [
            f".jupyter-button.{self.name} {{ width: {self.width + 6}px; height: auto; margin: 2px;"
            f" padding: 3px 3px 0; line-height: {line}px; background: none; border: 1px solid #aab;"
            " border-radius: 3px; white-space: normal; overflow: hidden; font-size: 12px;"
            f" text-align: center; box-shadow: none; }}"
            f".jupyter-button.{self.name}:focus-visible {{ outline: 3px solid #222 !important; }}"
            f".jupyter-button.{self.name}:hover {{ border-color: {BLUE}; }}"
        ]
        for k, (key, tile) in enumerate(zip(self.tile_keys(), self.tiles, strict=True)):
            heights = [round(self.width * each.height / each.width) for each in tile.images]
            tops = [3 + sum(heights[:i]) + GAP * i for i in range(len(heights))]
            below = tops[-1] + heights[-1] + GAP if heights else 3
            mark = f"outline: 3px solid {BLUE};" if k == self.marked else ""
            rules.append(
                f".jupyter-button.{self.name}.{self.made[key][1]} {{"
                f" background-image: {', '.join(map(css_url, tile.images)) or 'none'};"
                f" background-position: {', '.join(f'3px {top}px' for top in tops) or '0 0'};"
                f" background-size: {', '.join(f'{self.width}px {h}px' for h in heights) or '0'};"
                f" background-repeat: no-repeat; padding-top: {below}px;"
                f" height: {below + line * self.lines + 2}px; {mark} }}"
            )
        self.style_sheet.value = f"<style>{''.join(rules)}</style>"


def css_url(image: Image.Image) -> str:
    """Return an image as the value of a CSS property."""
    data = base64.b64encode(png(image, quick=True)).decode()
    return f"url(data:image/png;base64,{data})"
