"""The drawings of the sixteen kinds: each is a short list of filled polygons.

Local coordinates range from -1 to 1 across and down the thing's box, so a drawing is the same at
every size. A fill is a role ("body" for the thing's colour, "dark" and "light" for its shades) or a
fixed colour `#rrggbb`.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

Points = np.ndarray  # (n, 2), columns u (right) and v (down)

CREAM, BROWN, SKIN, INK = "#fff4dc", "#7a5233", "#f2c39b", "#2b2a33"
GLASS, LEAF, FLAME, BEAK, SLIME = "#cfe9f7", "#4c8f45", "#ffb52e", "#f59a23", "#e0b184"
BODY, DARK, LIGHT = "body", "dark", "light"


class Part(NamedTuple):
    """One filled polygon of a drawing.

    Attributes:
        points: Vertices in local coordinates, (n, 2).
        fill: "body", "dark", "light" or `#rrggbb`.
        patterned: Whether the part has the thing's stripes or spots.
    """

    points: Points
    fill: str
    patterned: bool = False


def polygon(*points: tuple[float, float]) -> Points:
    """Return a polygon with these vertices."""
    return np.array(points, dtype=float)


def box(u0: float, v0: float, u1: float, v1: float) -> Points:
    """Return the rectangle between two opposite corners."""
    return polygon((u0, v0), (u1, v0), (u1, v1), (u0, v1))


def oval(u: float, v: float, ru: float, rv: float, start: float = 0, stop: float = 360) -> Points:
    """Return an ellipse, or its segment between two angles in degrees (0 is right, 90 is down)."""
    angle = np.deg2rad(np.linspace(start, stop, 48, endpoint=stop - start < 360))
    return np.stack([u + ru * np.cos(angle), v + rv * np.sin(angle)], axis=1)


def rounded(*points: tuple[float, float]) -> Points:
    """Return a smooth closed curve inside a polygon (Chaikin's corner cutting, three times)."""
    p = polygon(*points)
    for _ in range(3):
        following = np.roll(p, -1, axis=0)
        p = np.stack([0.75 * p + 0.25 * following, 0.25 * p + 0.75 * following], 1).reshape(-1, 2)
    return p


def limb(u0: float, v0: float, u1: float, v1: float, width: float) -> Points:
    """Return a thick line with round ends, as one polygon."""
    angle = np.degrees(np.arctan2(v1 - v0, u1 - u0))
    r = width / 2
    return np.concatenate(
        [oval(u1, v1, r, r, angle - 90, angle + 90), oval(u0, v0, r, r, angle + 90, angle + 270)]
    )


def eye(u: float, v: float, r: float = 0.075) -> Part:
    """Return a dark dot."""
    return Part(oval(u, v, r, r), INK)


def house() -> list[Part]:
    """Return the parts of a house."""
    return [
        Part(box(0.36, -0.86, 0.6, -0.2), BROWN),
        Part(box(-0.72, -0.12, 0.72, 1), BODY, True),
        Part(polygon((-0.98, -0.06), (0, -0.98), (0.98, -0.06)), DARK),
        Part(box(-0.5, 0.32, -0.08, 1), CREAM),
        Part(box(0.18, 0.2, 0.56, 0.58), GLASS),
    ]


def tree() -> list[Part]:
    """Return the parts of a tree."""
    crown = [(-0.42, -0.08, 0.5), (0.42, -0.08, 0.5), (0, -0.5, 0.5), (0, -0.02, 0.46)]
    return [
        Part(polygon((-0.15, 0.2), (0.15, 0.2), (0.22, 1), (-0.22, 1)), BROWN),
        *(Part(oval(u, v, r, r), BODY, True) for u, v, r in crown),
    ]


def car() -> list[Part]:
    """Return the parts of a car."""
    wheels = [(-0.52, 0.72), (0.52, 0.72)]
    return [
        Part(
            rounded((-0.62, 0.3), (-0.42, -0.42), (0.34, -0.42), (0.66, 0.3)),
            BODY,
        ),
        Part(
            rounded((-1, 0.06), (-0.5, 0), (0.6, 0), (1.02, 0.16), (1, 0.78), (-1.02, 0.78)),
            BODY,
            True,
        ),
        Part(polygon((-0.42, 0.06), (-0.3, -0.24), (-0.04, -0.24), (-0.04, 0.06)), GLASS),
        Part(polygon((0.08, 0.06), (0.08, -0.24), (0.26, -0.24), (0.42, 0.06)), GLASS),
        *(Part(oval(u, v, 0.28, 0.28), INK) for u, v in wheels),
        *(Part(oval(u, v, 0.12, 0.12), CREAM) for u, v in wheels),
    ]


def boat() -> list[Part]:
    """Return the parts of a boat."""
    return [
        Part(box(-0.07, -0.98, 0.05, 0.4), BROWN),
        Part(polygon((0.12, -0.9), (0.12, 0.24), (0.86, 0.24)), CREAM),
        Part(polygon((-0.14, -0.66), (-0.14, 0.24), (-0.78, 0.24)), LIGHT),
        Part(rounded((-1.05, 0.36), (1.05, 0.36), (0.7, 1.02), (-0.7, 1.02)), BODY, True),
        Part(polygon((-0.94, 0.36), (0.94, 0.36), (0.9, 0.48), (-0.9, 0.48)), DARK),
    ]


def balloon() -> list[Part]:
    """Return the parts of a balloon."""
    return [
        Part(polygon((-0.34, 0.2), (-0.26, 0.2), (-0.1, 0.76), (-0.18, 0.76)), BROWN),
        Part(polygon((0.34, 0.2), (0.26, 0.2), (0.1, 0.76), (0.18, 0.76)), BROWN),
        Part(box(-0.22, 0.68, 0.22, 1), BROWN),
        Part(oval(0, -0.32, 0.68, 0.66), BODY, True),
        Part(oval(-0.28, -0.52, 0.13, 0.17), LIGHT),
    ]


def cat() -> list[Part]:
    """Return the parts of a cat."""
    return [
        Part(limb(0.36, 0.84, 0.74, 0.66, 0.18), BODY),
        Part(limb(0.74, 0.66, 0.72, 0.24, 0.18), BODY),
        Part(rounded((-0.5, 1.06), (-0.44, -0.1), (0.44, -0.1), (0.5, 1.06)), BODY, True),
        Part(polygon((-0.48, -0.34), (-0.46, -1), (-0.04, -0.66)), BODY),
        Part(polygon((0.48, -0.34), (0.46, -1), (0.04, -0.66)), BODY),
        Part(oval(0, -0.38, 0.5, 0.42), BODY),
        Part(oval(-0.2, -0.42, 0.1, 0.12), CREAM),
        Part(oval(0.2, -0.42, 0.1, 0.12), CREAM),
        eye(-0.19, -0.41, 0.065),
        eye(0.19, -0.41, 0.065),
        Part(polygon((-0.08, -0.24), (0.08, -0.24), (0, -0.14)), "#f7a8b8"),
    ]


def fish() -> list[Part]:
    """Return the parts of a fish."""
    return [
        Part(polygon((0.34, 0), (0.98, -0.56), (0.86, 0), (0.98, 0.56)), DARK),
        Part(polygon((-0.3, -0.4), (0.22, -0.76), (0.26, -0.3)), DARK),
        Part(oval(-0.2, 0, 0.76, 0.5), BODY, True),
        Part(oval(-0.6, -0.12, 0.15, 0.15), CREAM),
        eye(-0.62, -0.12),
    ]


def flower() -> list[Part]:
    """Return the parts of a flower."""
    angles = np.deg2rad(np.arange(6) * 60 + 30)
    return [
        Part(box(-0.07, -0.2, 0.07, 1), LEAF),
        Part(rounded((0, 0.9), (0.2, 0.34), (0.72, 0.3), (0.5, 0.76)), LEAF),
        Part(rounded((0, 0.96), (-0.2, 0.44), (-0.72, 0.4), (-0.5, 0.82)), LEAF),
        *(
            Part(oval(0.37 * np.cos(a), -0.4 + 0.37 * np.sin(a), 0.27, 0.27), BODY, True)
            for a in angles
        ),
        Part(oval(0, -0.4, 0.2, 0.2), CREAM),
    ]


def star() -> list[Part]:
    """Return the parts of a star."""
    angle = np.deg2rad(np.arange(10) * 36 - 90)
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.47)
    points = np.stack([radius * np.cos(angle), 0.06 + radius * np.sin(angle)], axis=1)
    return [Part(points, BODY, True), eye(-0.17, 0.0), eye(0.17, 0.0)]


# Hands, then feet: left and right from the viewer's side, by pose.
ARMS = {
    "standing": ((-0.56, 0.36), (0.56, 0.36)),
    "waving": ((-0.56, 0.36), (0.66, -0.66)),
    "cheering": ((-0.66, -0.66), (0.66, -0.66)),
    "walking": ((-0.62, 0.2), (0.6, 0.26)),
}
LEGS = {
    "standing": ((-0.2, 0.93), (0.2, 0.93)),
    "waving": ((-0.2, 0.93), (0.2, 0.93)),
    "cheering": ((-0.3, 0.93), (0.3, 0.93)),
    "walking": ((-0.48, 0.93), (0.46, 0.93)),
}


def skeleton(pose: str) -> dict[str, tuple[float, float]]:
    """Return the joints of a person in local coordinates, for the drawing and the pose image."""
    (hand_l, hand_r), (foot_l, foot_r) = ARMS[pose], LEGS[pose]
    return {
        "head": (0, -0.62), "neck": (0, -0.26), "hip": (0, 0.4),
        "shoulder_l": (-0.26, -0.12), "shoulder_r": (0.26, -0.12),
        "hip_l": (-0.16, 0.42), "hip_r": (0.16, 0.42),
        "hand_l": hand_l, "hand_r": hand_r, "foot_l": foot_l, "foot_r": foot_r,
    }  # fmt: skip


def person(pose: str) -> list[Part]:
    """Return the parts of a person."""
    j = skeleton(pose)
    return [
        *(Part(limb(*j[f"hip_{s}"], *j[f"foot_{s}"], 0.2), INK) for s in "lr"),
        *(Part(limb(*j[f"shoulder_{s}"], *j[f"hand_{s}"], 0.19), DARK) for s in "lr"),
        *(Part(oval(*j[f"hand_{s}"], 0.11, 0.11), SKIN) for s in "lr"),
        Part(rounded((-0.34, -0.3), (0.34, -0.3), (0.58, 0.62), (-0.58, 0.62)), BODY, True),
        Part(oval(0, -0.64, 0.36, 0.36), BROWN),
        Part(oval(0, -0.58, 0.29, 0.29), SKIN),
        eye(-0.11, -0.58, 0.05),
        eye(0.11, -0.58, 0.05),
    ]


def mushroom() -> list[Part]:
    """Return the parts of a mushroom."""
    return [
        Part(rounded((-0.22, -0.1), (0.22, -0.1), (0.44, 1.06), (-0.44, 1.06)), CREAM),
        Part(
            rounded((-1.12, 0.3), (-0.84, -0.72), (0, -1.1), (0.84, -0.72), (1.12, 0.3)), BODY, True
        ),
    ]


def umbrella() -> list[Part]:
    """Return the parts of an umbrella."""
    scallops = [oval(u, -0.06, 0.325, 0.2, 180, 360) for u in (-0.65, 0, 0.65)]
    dome = oval(0, -0.06, 0.98, 0.86, 180, 360)
    edge = np.concatenate([s[::-1] for s in scallops[::-1]])
    return [
        Part(box(-0.05, -1, 0.05, 0.86), BROWN),
        Part(limb(0, 0.86, 0.24, 0.92, 0.12), BROWN),
        Part(limb(0.24, 0.92, 0.28, 0.72, 0.12), BROWN),
        Part(np.concatenate([dome, edge]), BODY, True),
    ]


def snail() -> list[Part]:
    """Return the parts of a snail."""
    return [
        Part(rounded((-1.1, 0.98), (-0.98, 0.2), (-0.58, 0.2), (-0.4, 0.6), (1.0, 0.62),
                     (1.1, 0.98)), SLIME),
        Part(limb(-0.74, 0.3, -0.62, -0.16, 0.1), SLIME),
        Part(limb(-0.86, 0.3, -0.96, -0.16, 0.1), SLIME),
        eye(-0.62, -0.18, 0.09),
        eye(-0.96, -0.18, 0.09),
        Part(oval(0.22, 0.06, 0.68, 0.68), BODY, True),
        Part(oval(0.22, 0.06, 0.3, 0.3), DARK),
        Part(oval(0.26, 0.1, 0.13, 0.13), BODY),
    ]  # fmt: skip


def bird() -> list[Part]:
    """Return the parts of a bird."""
    return [
        Part(polygon((0.4, 0.06), (1, -0.3), (0.94, 0.32)), DARK),
        Part(polygon((-0.78, -0.24), (-1.08, -0.06), (-0.76, 0.06)), BEAK),
        Part(rounded((-0.9, -0.5), (-0.3, -0.62), (0.7, -0.1), (0.66, 0.36), (-0.1, 0.74),
                     (-0.78, 0.4)), BODY, True),
        Part(rounded((-0.3, 0.16), (0.2, -1.1), (0.78, -0.98), (0.4, 0.24)), DARK),
        Part(oval(-0.56, -0.18, 0.12, 0.12), CREAM),
        eye(-0.57, -0.18, 0.07),
    ]  # fmt: skip


def rocket() -> list[Part]:
    """Return the parts of a rocket."""
    return [
        Part(polygon((-0.2, 0.6), (0.2, 0.6), (0, 1)), FLAME),
        Part(polygon((-0.3, 0.1), (-0.7, 0.74), (-0.2, 0.58)), DARK),
        Part(polygon((0.3, 0.1), (0.7, 0.74), (0.2, 0.58)), DARK),
        Part(rounded((-0.28, 0.7), (-0.5, 0), (-0.34, -0.7), (0, -1.12), (0.34, -0.7), (0.5, 0),
                     (0.28, 0.7)), BODY, True),
        Part(oval(0, -0.24, 0.2, 0.2), GLASS),
    ]  # fmt: skip


def butterfly() -> list[Part]:
    """Return the parts of a butterfly."""
    return [
        Part(rounded((0, -0.06), (-0.36, -1.02), (-1.14, -0.9), (-0.96, 0.04)), BODY, True),
        Part(rounded((0, -0.06), (0.36, -1.02), (1.14, -0.9), (0.96, 0.04)), BODY, True),
        Part(rounded((0, 0), (-0.92, -0.06), (-0.86, 0.84), (-0.24, 0.82)), DARK),
        Part(rounded((0, 0), (0.92, -0.06), (0.86, 0.84), (0.24, 0.82)), DARK),
        Part(limb(0, -0.4, 0, 0.52, 0.18), INK),
        Part(oval(0, -0.54, 0.15, 0.15), INK),
    ]


DRAWINGS = {
    f.__name__: f
    for f in (
        house, tree, car, boat, cat, fish, flower, mushroom, umbrella, snail, balloon, star, bird,
        rocket, butterfly,
    )
}  # fmt: skip


@cache
def drawing(kind: str, pose: str | None = None) -> tuple[Part, ...]:
    """Return the parts of a kind from back to front; a person needs one of POSES."""
    return tuple(person(pose) if pose is not None else DRAWINGS[kind]())
