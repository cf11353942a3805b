"""Renders a scene as an image of 32 to 1024 pixels.

Pages are drawn larger and averaged down. With this antialiasing every pixel is the mean of the area
it covers, so a scene looks the same at every size.
"""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from .scenes import Scene, Thing
from .shapes import Points, drawing, oval, rounded

RGB = tuple[int, int, int]

PALETTE: dict[str, RGB] = {
    "red": (218, 41, 44), "orange": (245, 128, 24), "yellow": (253, 216, 48),
    "green": (46, 148, 66), "blue": (33, 104, 208), "purple": (128, 58, 176),
    "pink": (250, 150, 196), "black": (56, 58, 68),
}  # fmt: skip
PAPER = (255, 250, 240)  # the colour of the paper edge around every thing
EDGE = 0.011  # width of the paper edge, as a fraction of the page
HORIZON = 0.6
SWELL = {"grass": 0.022, "sand": 0.016, "snow": 0.026}  # height of the hills; others are flat

SKY: dict[str, tuple[RGB, RGB]] = {  # the colour at the top and at the horizon
    "day": ((96, 178, 240), (202, 232, 250)),
    "dawn": ((170, 158, 216), (252, 206, 196)),
    "sunset": ((112, 62, 128), (252, 150, 78)),
    "night": ((16, 22, 62), (54, 68, 128)),
    "cloudy": ((142, 152, 164), (198, 204, 208)),
}
GROUND: dict[str, RGB] = {
    "grass": (112, 184, 84), "sand": (238, 210, 148), "snow": (240, 245, 252),
    "sea": (40, 128, 176), "street": (128, 128, 136),
}  # fmt: skip
LIGHT: dict[str, tuple[float, float, float]] = {  # how each sky tints the ground
    "day": (1, 1, 1), "dawn": (1, 0.93, 0.94), "sunset": (1, 0.88, 0.82),
    "night": (0.52, 0.54, 0.68), "cloudy": (0.86, 0.88, 0.92),
}  # fmt: skip


def render(scene: Scene, size: int = 64) -> Image.Image:
    """Render a scene as an RGB image.

    Args:
        scene: The scene.
        size: Side in pixels, 32 to 1024.

    Raises:
        ValueError: If the size is out of range.
    """
    factor = oversampling(size)
    page = background(scene.sky, scene.ground, size * factor).copy()
    for thing in scene.back_to_front:
        _paint(page, scene, thing)
    return page.reduce(factor)


def oversampling(size: int) -> int:
    """Return the factor by which a page is drawn larger than `size`.

    Raises:
        ValueError: If the size is not in 32 ... 1024.
    """
    if not isinstance(size, int) or not 32 <= size <= 1024:
        raise ValueError(f"size is {size!r}; accepted: whole numbers of pixels from 32 to 1024")
    return 4 if size <= 256 else 2


def shade(colour: RGB, factor: float) -> RGB:
    """Darken a colour with a factor below 1, or blend it with white with one in 1..2."""
    if factor <= 1:
        return tuple(int(c * factor) for c in colour)  # type: ignore[return-value]
    return tuple(int(255 - (255 - c) * (2 - factor)) for c in colour)  # type: ignore[return-value]


def outline(thing: Thing, points: Points, size: int) -> list[tuple[float, float]]:
    """Convert local coordinates of a thing to pixels of a page of `size` pixels."""
    centre = np.array([thing.x, thing.y])
    return [tuple(p) for p in ((centre + points * thing.size / 2) * size).tolist()]


def shadow(thing: Thing) -> Points | None:
    """Return the shadow of a thing on the ground in local coordinates, None for a flying one."""
    return None if thing.flies else oval(0, 1.0, 0.95, 0.16)


def shadow_colour(sky: str, ground: str) -> RGB:
    """Return the colour of shadows on a ground under a sky: darker, but lighter on the sea."""
    return shade(_tint(GROUND[ground], sky), 1.35 if ground == "sea" else 0.8)


def draw_rim(
    draw: ImageDraw.ImageDraw, pixels: list[tuple[float, float]], size: int, fill: RGB | int
) -> None:
    """Draw the paper edge around one part of a thing, on a page of `size` pixels."""
    edge = max(1, round(2 * EDGE * size))
    # Small pages need round joints, which are slow, only at sharp corners.
    joint = "curve" if len(pixels) < 12 or size > 512 else None
    draw.line([*pixels, pixels[0], pixels[1]], fill=fill, width=edge, joint=joint)
    if size > 512:  # wide lines leave gaps at sharp corners
        r = edge / 2 - 0.5
        for x, y in pixels:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def land(level: float, height: float, phase: float) -> Points:
    """Return the outline of hilly land below `level`, in scene units; flat for a height of 0."""
    x = np.linspace(0, 1, 65)
    edge = np.stack([x, level + height * np.sin(2 * np.pi * x + phase)], axis=1)
    return np.concatenate([edge, [(1, 1.01), (0, 1.01)]])


def horizon(ground: str) -> Points:
    """Return the outline of everything below the sky, in scene units."""
    return land(HORIZON, SWELL.get(ground, 0.0), 2.6)


def _paint(page: Image.Image, scene: Scene, thing: Thing) -> None:
    """Draw one thing with its shadow and pattern."""
    draw, size = ImageDraw.Draw(page), page.width
    body = PALETTE[thing.colour]
    roles = {"body": body, "dark": shade(body, 0.7), "light": shade(body, 1.5)}
    foot = shadow(thing)
    if foot is not None:
        draw.polygon(outline(thing, foot, size), fill=shadow_colour(scene.sky, scene.ground))
    parts = [(outline(thing, p.points, size), p) for p in drawing(thing.kind, thing.pose)]
    for pixels, _ in parts:
        draw_rim(draw, pixels, size, PAPER)
    for pixels, part in parts:
        draw.polygon(pixels, fill=roles.get(part.fill, part.fill))
        if part.patterned and thing.pattern != "plain":
            _pattern(page, thing, pixels)


def _pattern(page: Image.Image, thing: Thing, pixels: list[tuple[float, float]]) -> None:
    """Draw stripes or spots inside one part, lighter than it, or darker on pale colours."""
    size, body = page.width, PALETTE[thing.colour]
    ink = shade(body, 0.72) if thing.colour in ("yellow", "pink") else shade(body, 1.62)
    xs, ys = zip(*pixels, strict=True)
    left, top = int(min(xs)), int(min(ys))
    window = (left, top, int(max(xs)) + 1, int(max(ys)) + 1)
    inside = Image.new("1", (window[2] - left, window[3] - top))
    ImageDraw.Draw(inside).polygon([(x - left, y - top) for x, y in pixels], fill=1)
    marks = Image.new("1", inside.size)
    draw = ImageDraw.Draw(marks)
    for points in _marks(thing.pattern):
        draw.polygon([(x - left, y - top) for x, y in outline(thing, points, size)], fill=1)
    empty = Image.new("1", inside.size)
    page.paste(ink, window, Image.composite(marks, empty, inside))


@lru_cache
def _marks(pattern: str) -> tuple[Points, ...]:
    """Return the stripes or spots of a pattern in local coordinates."""
    if pattern == "striped":
        bars = np.arange(-1.25, 1.5, 0.5)
        return tuple(
            np.array([(-1.2, v), (1.2, v), (1.2, v + 0.22), (-1.2, v + 0.22)]) for v in bars
        )
    rows = [
        (u + 0.25 * (k % 2), 0.42 * (k - 2.5)) for k in range(6) for u in np.arange(-1.25, 1.3, 0.5)
    ]
    return tuple(oval(u, v, 0.125, 0.125) for u, v in rows)


def _tint(colour: RGB, sky: str) -> RGB:
    """Return a colour of the ground under a sky."""
    return tuple(int(c * k) for c, k in zip(colour, LIGHT[sky], strict=True))  # type: ignore[return-value]


def _crescent(x: float, y: float, r: float) -> Points:
    """Return a moon: an arc, and the same arc flattened towards its chord."""
    arc = oval(x, y, r, r, 55, 235)
    chord = arc[-1] - arc[0]
    normal = np.array([-chord[1], chord[0]]) / np.hypot(*chord)
    depth = (arc - arc[0]) @ normal
    return np.concatenate([arc, (arc - 0.55 * depth[:, None] * normal)[::-1]])


@lru_cache(maxsize=32)
def background(sky: str, ground: str, size: int) -> Image.Image:
    """Render sky and ground without things, not antialiased.

    Args:
        sky: One of SKIES.
        ground: One of GROUNDS.
        size: Side in pixels.
    """
    top, low = (np.array(c, dtype=float) for c in SKY[sky])
    down = np.clip(np.arange(size) / size / HORIZON, 0, 1)[:, None]
    rows = (top + (low - top) * down)[:, None, :]
    page = Image.fromarray(np.broadcast_to(rows, (size, size, 3)).round().astype(np.uint8))
    draw = ImageDraw.Draw(page)

    def fill(points: Points, colour: RGB) -> None:
        draw.polygon([tuple(p) for p in (points * size).tolist()], fill=colour)

    def cloud(x: float, y: float, r: float, colour: RGB) -> None:
        for dx, dy, k in ((-1.1, 0.25, 0.62), (0, 0, 0.9), (1.1, 0.2, 0.7)):
            fill(oval(x + dx * r, y + dy * r, k * r * 1.25, k * r), colour)

    if sky == "day":
        fill(oval(0.86, 0.14, 0.085, 0.085), (255, 226, 92))
        cloud(0.2, 0.16, 0.075, (250, 253, 255))
    elif sky == "dawn":
        fill(oval(0.72, 0.56, 0.14, 0.14), (255, 240, 214))
        cloud(0.24, 0.2, 0.05, (244, 214, 226))
    elif sky == "sunset":
        fill(oval(0.3, 0.55, 0.17, 0.17), (255, 214, 96))
        cloud(0.76, 0.24, 0.055, (204, 104, 116))
    elif sky == "night":
        fill(_crescent(0.17, 0.15, 0.1), (250, 244, 206))
        for x, y in ((0.32, 0.1), (0.46, 0.3), (0.56, 0.08), (0.7, 0.2), (0.86, 0.09), (0.92, 0.36),
                     (0.3, 0.42), (0.08, 0.38), (0.66, 0.46)):  # fmt: skip
            fill(oval(x, y, 0.011, 0.011), (240, 238, 214))
    else:
        for x, y, r in ((0.22, 0.14, 0.09), (0.78, 0.2, 0.1), (0.5, 0.36, 0.07)):
            cloud(x, y, r, (226, 230, 234))

    colour = _tint(GROUND[ground], sky)
    if ground in SWELL:
        fill(horizon(ground), shade(colour, 0.9))
        fill(land(HORIZON + 0.09, SWELL[ground], 5.2), colour)
    elif ground == "sea":
        fill(horizon(ground), colour)
        for k, (cx, cy) in enumerate(
            ((0.2, 0.68), (0.72, 0.72), (0.42, 0.82), (0.86, 0.88), (0.14, 0.93))
        ):
            wave = rounded((cx - 0.13, cy), (cx, cy - 0.024), (cx + 0.13, cy), (cx, cy + 0.004))
            fill(wave, shade(colour, 1.3 if k % 2 else 1.2))
    else:
        fill(horizon(ground), shade(colour, 1.35))
        fill(land(HORIZON + 0.05, 0, 0), colour)
        for cx in (0.1, 0.43, 0.76):
            fill(np.array([(cx, 0.8), (cx + 0.17, 0.8), (cx + 0.15, 0.835), (cx - 0.02, 0.835)]),
                 _tint((246, 240, 216), sky))  # fmt: skip
    return page
