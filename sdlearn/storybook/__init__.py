"""The captioned world that everything here trains on: drawn, so exact and free."""

from .captions import WORDS, caption
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
    "relation",
    "render",
    "sample_scene",
    "split_of",
]  # fmt: skip
