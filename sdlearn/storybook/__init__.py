"""The storybook: a synthetic dataset of rendered scenes with captions and condition images.

captions         a scene in words
conditions       object masks, and the condition images of a ControlNet
folder           a user's own captioned images
folder_captions  which images that folder names, and their captions
rendering        a scene as an image
scenes           the scenes and their splits
shapes           the polygons of the things
shards           a user's own captioned images in tar files
"""

from .captions import WORDS, caption
from .conditions import CLASSES, HINTS, depth, edges, masks, pose, segmentation
from .folder import read_folder
from .rendering import render
from .scenes import (
    COLOURS,
    GROUNDS,
    KINDS,
    PATTERNS,
    POSES,
    SKIES,
    SPLITS,
    Scene,
    Thing,
    relation,
    sample_scene,
    split_of,
)

__all__ = [
    "CLASSES",
    "COLOURS",
    "GROUNDS",
    "HINTS",
    "KINDS",
    "PATTERNS",
    "POSES",
    "SKIES",
    "SPLITS",
    "WORDS",
    "Scene",
    "Thing",
    "caption",
    "depth",
    "edges",
    "masks",
    "pose",
    "read_folder",
    "relation",
    "render",
    "sample_scene",
    "segmentation",
    "split_of",
]  # fmt: skip
