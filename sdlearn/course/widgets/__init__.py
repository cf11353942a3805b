"""The live parts of the notebooks: thin ipywidgets over the functions of figures and package."""

from sdlearn.course.widgets.autoencoding import Walk
from sdlearn.course.widgets.clocks import Clocks
from sdlearn.course.widgets.guidance import Guide
from sdlearn.course.widgets.latents import Blender
from sdlearn.course.widgets.learning import Reel
from sdlearn.course.widgets.lens import Lens
from sdlearn.course.widgets.painter import Painter
from sdlearn.course.widgets.pipeline import Crossing
from sdlearn.course.widgets.playground import Playground
from sdlearn.course.widgets.reading import ReadingGlass
from sdlearn.course.widgets.sampling import Tracks
from sdlearn.course.widgets.schedules import Fog
from sdlearn.course.widgets.unet import Tour

__all__ = [
    "Blender",
    "Clocks",
    "Crossing",
    "Fog",
    "Guide",
    "Lens",
    "Painter",
    "Playground",
    "ReadingGlass",
    "Reel",
    "Tour",
    "Tracks",
    "Walk",
]
