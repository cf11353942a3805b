"""The style of the course's figures: a style sheet, a palette, and figures that come with words.

The palette follows that of Okabe and Ito (jfly.uni-koeln.de/color), which colour-blind readers can
tell apart. Its six colours also differ in lightness, so that they remain distinct in grey.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import matplotlib.style
from matplotlib.figure import Figure
from PIL import Image

P = ParamSpec("P")
R = TypeVar("R")

SHEET = Path(__file__).with_name("sdlearn.mplstyle")

BLUE, VERMILION, GREEN = "#0b5394", "#d55e00", "#3cb48f"
PURPLE, ORANGE, GREY = "#8e4585", "#f2b233", "#98a4b0"
INK, MUTED, PALE = "#1f2933", "#616e7c", "#f5f7fa"  # text, lesser text, the ground of an area


@dataclass(frozen=True)
class Described:
    """A figure together with what it shows, in words.

    Attributes:
        figure: What `show` displays.
        words: The alternative text, which `show` also folds away below the figure.
    """

    figure: Image.Image | Figure
    words: str


def in_style(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that draws a figure, so that it draws in the style of the course.

    Settings of matplotlib that the reader has made are left as they are.
    """

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.style.context(SHEET):
            return draw(*args, **kwargs)

    return drawn


def tint(colour: str, strength: float = 0.25) -> str:
    """Mix a colour such as "#0b5394" with white; strength 1 is the colour itself."""
    channels = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return "#" + "".join(f"{round(255 - strength * (255 - c)):02x}" for c in channels)
