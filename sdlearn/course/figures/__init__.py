"""The figures of the notebooks: functions from tensors and images to a figure, and `show`.

Grids of images are drawn with Pillow and enlarged without smoothing (nearest neighbour). Everything
with axes is a matplotlib Figure. Lines differ in dashes and markers and maps differ in lightness,
so every figure can be read in black and white.
"""

from sdlearn.course.figures import attention as attention
from sdlearn.course.figures import attention_diagrams as attention_diagrams
from sdlearn.course.figures import guidance_scales as guidance_scales
from sdlearn.course.figures import noise_schedule as noise_schedule
from sdlearn.course.figures import overview as overview
from sdlearn.course.figures import sampler_charts as sampler_charts
from sdlearn.course.figures import sampler_steps as sampler_steps
from sdlearn.course.figures import samplers as samplers
from sdlearn.course.figures import schedule_charts as schedule_charts
from sdlearn.course.figures import timestep as timestep
from sdlearn.course.figures import timestep_encodings as timestep_encodings
from sdlearn.course.figures import training_targets as training_targets
from sdlearn.course.figures import vae as vae
from sdlearn.course.figures import vae_diagrams as vae_diagrams
from sdlearn.course.figures.attention import (
    attention_map_grid,
    heatmap,
    overlay,
    seed_grid,
    token_overlays,
    variant_rows,
    variants,
)
from sdlearn.course.figures.course_plan import pipeline_map
from sdlearn.course.figures.images import grid, img, label_font, png, show, wrapped
from sdlearn.course.figures.plots import axes_for, curves, latent, matrix
from sdlearn.course.figures.style import Described, in_style
from sdlearn.course.figures.tables import scientific, table

__all__ = [
    "Described",
    "attention_map_grid",
    "axes_for",
    "curves",
    "grid",
    "heatmap",
    "img",
    "in_style",
    "label_font",
    "latent",
    "matrix",
    "overlay",
    "pipeline_map",
    "png",
    "scientific",
    "seed_grid",
    "show",
    "table",
    "token_overlays",
    "variant_rows",
    "variants",
    "wrapped",
]
