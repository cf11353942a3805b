"""What else a scene tells: object masks and the four pictures that can steer a ControlNet.

Edges, depth, segmentation and pose are usually guessed from a photograph by a detector. Here the
geometry is known, so all of them are exact: everything is read off one map of labels, drawn from
the same polygons at the same places as the picture itself.
"""

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

# The row of the page at which level ground would be infinitely far: just above the highest hill,
# so that all the land is nearer than the sky.
VANISHING = HORIZON - 1.2 * max(SWELL.values())
ALOFT = 0.12  # the inverse depth of a thing with no ground below it: in front of the sky, no more

PARTS = 64  # more than any thing has

BONES: dict[tuple[str, str], RGB] = {
    ("neck", "head"): (0, 0, 255),
    ("neck", "shoulder_l"): (255, 0, 0), ("shoulder_l", "hand_l"): (255, 130, 0),
    ("neck", "shoulder_r"): (170, 255, 0), ("shoulder_r", "hand_r"): (70, 255, 0),
    ("neck", "hip"): (255, 230, 0),
    ("hip", "hip_l"): (0, 255, 140), ("hip_l", "foot_l"): (0, 255, 255),
    ("hip", "hip_r"): (150, 0, 255), ("hip_r", "foot_r"): (255, 0, 255),
}  # fmt: skip


def masks(scene: Scene, size: int = 64) -> list[Image.Image]:
    """The visible part of every thing of `scene.things`, in their order.

    Each is an "L" picture of `size` x `size` pixels (32 to 1024), 255 inside the thing (its paper
    edge included, its shadow not), in between on the border. What hides a thing is left out of its
    mask, so masks of different things add up to at most 255 (up to rounding).
    """
    owner, factor = _labels(scene, size) // PARTS, oversampling(size)
    return [_coverage(owner == 2 + k, factor) for k in range(len(scene.things))]


def segmentation(scene: Scene, size: int = 64) -> Image.Image:
    """The class of every pixel as one of the colours `CLASSES`, never mixed: RGB, `size` x `size`.

    On a border the class that covers most of the pixel wins.
    """
    owner, factor = _labels(scene, size) // PARTS, oversampling(size)
    owners: dict[str, list[int]] = {"sky": [0], scene.ground: [1]}
    for k, thing in enumerate(scene.things):
        owners.setdefault(thing.kind, []).append(2 + k)
    shares = [np.asarray(_coverage(np.isin(owner, own), factor)) for own in owners.values()]
    colours = np.array([CLASSES[name] for name in owners], dtype=np.uint8)
    return Image.fromarray(colours[np.argmax(shares, axis=0)])


def edges(scene: Scene, size: int = 64) -> Image.Image:
    """White lines about one pixel wide on black: RGB, `size` x `size`, antialiased.

    They follow the horizon, the visible silhouettes, and inside a thing the borders between parts
    of different fill; stripes, spots and shadows have none.
    """
    labels, factor = _labels(scene, size), oversampling(size)
    line = np.zeros(labels.shape, dtype=np.uint8)
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        border = labels[here] != labels[there]
        line[here] |= border
        line[there] |= border
    picture = Image.fromarray(line * np.uint8(255))
    if factor > 2:  # the line is two points wide as it stands
        picture = picture.filter(ImageFilter.MaxFilter(factor - 1))
    return picture.reduce(factor).convert("RGB")


def depth(scene: Scene, size: int = 64) -> Image.Image:
    """Inverse depth as MiDaS gives it, near is bright: grey as RGB, `size` x `size`.

    The sky is infinitely far: 0. On level ground seen in perspective the inverse depth is linear
    in the row below the vanishing line: 255 is the ground at the lower border. A thing stands
    upright, so all of it is as near as the ground at its base. A thing in the air gives no such
    hint: with its base above the horizon it is put just in front of the sky, because things that
    fly are painted behind everything that stands.
    """
    owner, factor = _labels(scene, size) // PARTS, oversampling(size)
    n = len(owner)
    things = [max(ALOFT, float(_inverse_depth(thing.base))) for thing in scene.things]
    near = np.array([0.0, 0.0, *things])[owner]
    near = np.where(owner == 1, _inverse_depth((np.arange(n)[:, None] + 0.5) / n), near)
    return Image.fromarray((near * 255).round().astype(np.uint8)).reduce(factor).convert("RGB")


def pose(scene: Scene, size: int = 64) -> Image.Image:
    """The skeleton of every person on black: RGB, `size` x `size`; all black without a person.

    As in OpenPose's pictures each bone has its own colour and ends in round joints. Sides are the
    reader's. A skeleton is drawn whole, also where something hides the person.
    """
    factor = oversampling(size)
    page = Image.new("RGB", (size * factor, size * factor))
    draw = ImageDraw.Draw(page)
    for thing in scene.back_to_front:
        if thing.pose is not None:
            _draw_skeleton(draw, thing, page.width)
    return page.reduce(factor)


def _draw_skeleton(draw: ImageDraw.ImageDraw, thing: Thing, size: int) -> None:
    assert thing.pose is not None
    joints = skeleton(thing.pose)
    for (a, b), colour in BONES.items():
        bone = limb(*joints[a], *joints[b], 0.13)
        draw.polygon(outline(thing, bone, size), fill=tuple(c * 3 // 4 for c in colour))
    for (_, joint), colour in BONES.items():
        draw.polygon(outline(thing, oval(*joints[joint], 0.1, 0.1), size), fill=colour)


def _inverse_depth(row: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Of level ground at `row` (0..1 from the top of the page): 0 infinitely far, 1 nearest."""
    return np.clip((np.asarray(row) - VANISHING) / (1 - VANISHING), 0, 1)


def _coverage(where: NDArray[np.bool_], factor: int) -> Image.Image:
    """How much of each pixel lies `where`: "L", 255 for all of it."""
    return Image.fromarray(where * np.uint8(255)).reduce(factor)


def _labels(scene: Scene, size: int) -> NDArray[np.int32]:
    """Who covers each point of the oversampled page: the scene painted with numbers for colours.

    PARTS * owner + part. The owner is 0 for the sky, 1 for the ground (with the shadows on it),
    2 + k for `scene.things[k]`. The parts of a thing that share a fill share a number; the paper
    edge round a part belongs to it.
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
