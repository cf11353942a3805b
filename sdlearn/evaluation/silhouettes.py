"""The silhouettes of the things on a storybook page, measured without a neural network.

The background of a page depends only on its sky and its ground, so every pixel that differs from it
belongs to a thing or to a thing's shadow.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdlearn.storybook import Scene
from sdlearn.storybook.rendering import background, oversampling

Silhouette = NDArray[np.bool_]
# A pixel belongs to a thing if it differs from the background by more grey levels than this. The
# autoencoder's errors are smaller.
LEVEL = 28.0


def silhouette(image: Image.Image, scene: Scene, level: float = LEVEL) -> Silhouette:
    """Return where an image differs from the empty page of a scene, (h, w) booleans.

    Args:
        image: A square RGB image.
        scene: Gives the sky and the ground; its things are ignored.
        level: A pixel differs if one of its colour channels does by more than this, 0 … 255.
    """
    factor = oversampling(image.width)
    empty = background(scene.sky, scene.ground, image.width * factor).reduce(factor)
    gap = np.abs(np.asarray(image, float) - np.asarray(empty, float)).max(axis=2)
    different: Silhouette = gap > level
    return different


def iou(a: Silhouette, b: Silhouette) -> float:
    """Return the intersection over union of two silhouettes; 1 if both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0
