"""The captioned world that everything here trains on: drawn, so exact and free."""

from .captions import WORDS, caption
from .conditions import CLASSES, depth, edges, masks, pose, segmentation
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
