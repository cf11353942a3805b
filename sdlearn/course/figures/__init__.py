"""The figures of the notebooks: functions from tensors and pictures to a picture, and `show`.

Grids of pictures are drawn with Pillow, every pixel a square (nearest neighbour); everything with
axes is a matplotlib Figure. Lines differ in dashes and markers, maps in lightness, so that all of
it can be read in black and white.
"""

from sdlearn.course.figures.looks import lit, tile, word_maps
from sdlearn.course.figures.pages import grid, img, label_font, png, show, wrapped
from sdlearn.course.figures.plan import MAP_IN_WORDS, PLACES, course_map
from sdlearn.course.figures.plots import axes_for, curves, latent, schedule_path, table

__all__ = [
    "MAP_IN_WORDS",
    "PLACES",
    "axes_for",
    "course_map",
    "curves",
    "grid",
    "img",
    "label_font",
    "latent",
    "lit",
    "png",
    "schedule_path",
    "show",
    "table",
    "tile",
    "word_maps",
    "wrapped",
]
