"""Object masks of a scene, and the four condition images for a ControlNet.

Edges, depth, segmentation and pose are usually estimated from a photograph by a detector. Here the
geometry is known, so all of them are exact. They are derived from one map of labels, drawn from
the same polygons at the same positions as the image itself.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from .rendering import HORIZON, RGB, SWELL, draw_rim, horizon, outline, oversampling, shadow
from .scenes import Scene, Thing
from .shapes import drawing, limb, oval, skeleton

# The colour of every class in a segmentation map: the sky, the five grounds, the sixteen kinds.
CLASSES: dict[str, RGB] = {
    "sky": (135, 206, 250),
    "grass": (0, 110, 30), "sand": (224, 190, 120), "snow": (255, 255, 255),
    "sea": (0, 60, 140), "street": (100, 100, 100),
    "house": (220, 20, 60), "tree": (50, 220, 50), "car": (255, 215, 0),
    "boat": (0, 0, 255), "cat": (255, 120, 0), "fish": (0, 255, 255),
    "flower": (255, 20, 200), "person": (128, 0, 0), "mushroom": (255, 170, 170),
    "umbrella": (100, 0, 180), "snail": (150, 120, 0), "balloon": (200, 120, 255),
    "star": (250, 255, 140), "bird": (0, 150, 150), "rocket": (0, 0, 0),
    "butterfly": (120, 100, 210),
}  # fmt: skip

# The row of the page at which flat ground would be infinitely far away. It is just above the
# highest hill, so that all land is nearer than the sky.
VANISHING = HORIZON - 1.2 * max(SWELL.values())
ALOFT = 0.12  # inverse depth of a thing with no ground below it: just in front of the sky

PARTS = 64  # upper bound for the parts of a thing

BONES: dict[tuple[str, str], RGB] = {
    ("neck", "head"): (0, 0, 255),
    ("neck", "shoulder_l"): (255, 0, 0), ("shoulder_l", "hand_l"): (255, 130, 0),
    ("neck", "shoulder_r"): (170, 255, 0), ("shoulder_r", "hand_r"): (70, 255, 0),
    ("neck", "hip"): (255, 230, 0),
    ("hip", "hip_l"): (0, 255, 140), ("hip_l", "foot_l"): (0, 255, 255),
    ("hip", "hip_r"): (150, 0, 255), ("hip_r", "foot_r"): (255, 0, 255),
}  # fmt: skip


def masks(scene: Scene, size: int = 64) -> list[Image.Image]:
    """Return the mask of the visible part of every thing, in the order of `scene.things`.

    A mask includes the thing's paper edge but not its shadow. It excludes what hides the thing, so
    the masks of all things sum to at most 255 (up to rounding).

    Args:
        scene: The scene.
        size: Side in pixels, 32 to 1024.

    Returns:
        Greyscale images (mode "L"): 255 inside the thing, 0 outside, and values in between at
        its border.

    Raises:
        ValueError: If the size is out of range.
    """
    owner, factor = _labels(scene, size) // PARTS, oversampling(size)
    return [_coverage(owner == 2 + k, factor) for k in range(len(scene.things))]


def segmentation(scene: Scene, size: int = 64) -> Image.Image:
    """Return the class of every pixel as a colour of `CLASSES`, without mixing.

    A pixel at a border has the class that covers most of it.

    Args:
        scene: The scene.
        size: Side of the RGB image in pixels, 32 to 1024.

    Raises:
        ValueError: If the size is out of range.
    """
    owner, factor = _labels(scene, size) // PARTS, oversampling(size)
    owners: dict[str, list[int]] = {"sky": [0], scene.ground: [1]}
    for k, thing in enumerate(scene.things):
        owners.setdefault(thing.kind, []).append(2 + k)
    coverage = [np.asarray(_coverage(np.isin(owner, own), factor)) for own in owners.values()]
    colours = np.array([CLASSES[name] for name in owners], dtype=np.uint8)
    return Image.fromarray(colours[np.argmax(coverage, axis=0)])


def edges(scene: Scene, size: int = 64) -> Image.Image:
    """Return the edges as antialiased white lines about one pixel wide, on black.

    The lines follow the horizon, the visible silhouettes, and the borders between parts of a thing
    with different fills. Stripes, spots and shadows have no edges.

    Args:
        scene: The scene.
        size: Side of the RGB image in pixels, 32 to 1024.

    Raises:
        ValueError: If the size is out of range.
    """
    labels, factor = _labels(scene, size), oversampling(size)
    line = np.zeros(labels.shape, dtype=np.uint8)
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        border = labels[here] != labels[there]
        line[here] |= border
        line[there] |= border
    image = Image.fromarray(line * np.uint8(255))
    if factor > 2:  # the line is two points wide before the filter
        image = image.filter(ImageFilter.MaxFilter(factor - 1))
    return image.reduce(factor).convert("RGB")


def depth(scene: Scene, size: int = 64) -> Image.Image:
    """Return the inverse depth, like that of MiDaS: near is bright.

    The sky is infinitely far away and has the value 0. In perspective the inverse depth of flat
    ground is linear in the row below the vanishing line, and the ground at the lower border has
    the value 255. Things are upright, so a thing on the ground is everywhere as near as the ground
    at its base. A thing with its base above the horizon has no such reference and is just in front
    of the sky, because flying things are drawn first.

    Args:
        scene: The scene.
        size: Side of the grey RGB image in pixels, 32 to 1024.

    Raises:
        ValueError: If the size is out of range.
    """
    owner, factor = _labels(scene, size) // PARTS, oversampling(size)
    n = len(owner)
    things = [max(ALOFT, float(_inverse_depth(thing.base))) for thing in scene.things]
    near = np.array([0.0, 0.0, *things])[owner]
    near = np.where(owner == 1, _inverse_depth((np.arange(n)[:, None] + 0.5) / n), near)
    return Image.fromarray((near * 255).round().astype(np.uint8)).reduce(factor).convert("RGB")


def pose(scene: Scene, size: int = 64) -> Image.Image:
    """Return the skeletons of all persons on black.

    As in OpenPose's images, each bone has its own colour and round joints at its ends. Left and
    right are the viewer's. Skeletons are complete even if something hides the person.

    Args:
        scene: The scene.
        size: Side of the RGB image in pixels, 32 to 1024.

    Raises:
        ValueError: If the size is out of range.
    """
    factor = oversampling(size)
    page = Image.new("RGB", (size * factor, size * factor))
    draw = ImageDraw.Draw(page)
    for thing in scene.back_to_front:
        if thing.pose is not None:
            _draw_skeleton(draw, thing, page.width)
    return page.reduce(factor)


def _draw_skeleton(draw: ImageDraw.ImageDraw, thing: Thing, size: int) -> None:
    """Draw the bones, then the joints, of one person."""
    assert thing.pose is not None
    joints = skeleton(thing.pose)
    for (a, b), colour in BONES.items():
        bone = limb(*joints[a], *joints[b], 0.13)
        draw.polygon(outline(thing, bone, size), fill=tuple(c * 3 // 4 for c in colour))
    for (_, joint), colour in BONES.items():
        draw.polygon(outline(thing, oval(*joints[joint], 0.1, 0.1), size), fill=colour)


def _inverse_depth(row: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the inverse depth of flat ground at a row in 0..1: 0 infinitely far, 1 nearest."""
    return np.clip((np.asarray(row) - VANISHING) / (1 - VANISHING), 0, 1)


def _coverage(where: NDArray[np.bool_], factor: int) -> Image.Image:
    """Return the fraction of each pixel that a mask covers, as an "L" image; 255 is all of it."""
    return Image.fromarray(where * np.uint8(255)).reduce(factor)


def _labels(scene: Scene, size: int) -> NDArray[np.int32]:
    """Label each point of the oversampled page with PARTS * owner + part.

    The owner is 0 for the sky, 1 for the ground (with the shadows on it), and 2 + k for
    `scene.things[k]`. Parts of a thing with the same fill have the same part number. The paper edge
    around a part belongs to the part.
    """
    n = size * oversampling(size)
    page = Image.new("I", (n, n))
    draw = ImageDraw.Draw(page)
    draw.polygon([tuple(p) for p in (horizon(scene.ground) * n).tolist()], fill=PARTS)
    for thing in scene.back_to_front:
        foot = shadow(thing)
        if foot is not None:
            draw.polygon(outline(thing, foot, n), fill=PARTS)
        parts = drawing(thing.kind, thing.pose)
        outlines = [outline(thing, part.points, n) for part in parts]
        fills = list(dict.fromkeys(part.fill for part in parts))
        first = PARTS * (2 + scene.things.index(thing))
        labels = [first + fills.index(part.fill) for part in parts]
        for pixels, label in zip(outlines, labels, strict=True):
            draw_rim(draw, pixels, n, label)
        for pixels, label in zip(outlines, labels, strict=True):
            draw.polygon(pixels, fill=label)
    return np.asarray(page)


# The condition images of a ControlNet, by name.
HINTS: dict[str, Callable[[Scene, int], Image.Image]] = {
    "edges": edges, "depth": depth, "pose": pose, "segmentation": segmentation,
}  # fmt: skip
