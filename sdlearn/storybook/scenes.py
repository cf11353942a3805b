"""The scenes of the storybook: a sky, a ground, and one to three things.

A `Scene` is plain data in scene units. Coordinates are 0..1 across and down the square page, from
the top left. `(x, y)` is the centre of a thing and `size` the side of its square box. Image,
caption, condition images and masks are pure functions of the scene.
"""

import random
import zlib
from dataclasses import dataclass, replace

SKIES = ("day", "dawn", "sunset", "night", "cloudy")
GROUNDS = ("grass", "sand", "snow", "sea", "street")
GROUND_KINDS = (
    "house", "tree", "car", "boat", "cat", "fish", "flower", "person", "mushroom", "umbrella",
    "snail",
)  # fmt: skip
AIR_KINDS = ("balloon", "star", "bird", "rocket", "butterfly")
KINDS = GROUND_KINDS + AIR_KINDS
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
PATTERNS = ("plain", "striped", "spotted")
POSES = ("standing", "waving", "cheering", "walking")
SPLITS = ("train", "test", "held_out")

# Each kind lacks one colour in training, each colour lacks two kinds.
HELD_OUT_PAIRS = frozenset((kind, COLOURS[(3 * i + 1) % 8]) for i, kind in enumerate(KINDS))

# Relative size of the kinds: a snail is smaller than a house.
SCALE = {"house": 1.15, "tree": 1.15, "flower": 0.95, "snail": 0.9, "butterfly": 0.9, "star": 0.9}


@dataclass(frozen=True)
class Thing:
    """One thing on the page.

    Attributes:
        kind: One of KINDS.
        colour: One of COLOURS.
        pattern: One of PATTERNS.
        x: Centre, 0..1 from the left.
        y: Centre, 0..1 from the top.
        size: Side of the square box, as a fraction of the page.
        pose: One of POSES for a person, None for every other kind.

    Raises:
        ValueError: If a name is unknown, or a thing that is not a person has a pose.
    """

    kind: str
    colour: str
    pattern: str
    x: float
    y: float
    size: float
    pose: str | None = None

    def __post_init__(self) -> None:
        _known("kind", self.kind, KINDS)
        _known("colour", self.colour, COLOURS)
        _known("pattern", self.pattern, PATTERNS)
        if self.kind == "person":
            _known("pose", self.pose, POSES)
        elif self.pose is not None:
            raise ValueError(f"pose is {self.pose!r}, but only a person has one, not a {self.kind}")

    @property
    def flies(self) -> bool:
        """Whether the kind is one of AIR_KINDS."""
        return self.kind in AIR_KINDS

    @property
    def appearance(self) -> tuple[str, str, str, str | None]:
        """Kind, colour, pattern and pose; two things of equal appearance are "two pink fish"."""
        return self.kind, self.colour, self.pattern, self.pose

    @property
    def base(self) -> float:
        """Lower end of the thing, 0..1 from the top; a larger value is nearer to the viewer."""
        return self.y + self.size / 2


@dataclass(frozen=True)
class Scene:
    """A page.

    Attributes:
        sky: One of SKIES.
        ground: One of GROUNDS.
        things: The things, in any order.

    Raises:
        ValueError: If the sky or the ground is unknown.
    """

    sky: str
    ground: str
    things: tuple[Thing, ...]

    def __post_init__(self) -> None:
        _known("sky", self.sky, SKIES)
        _known("ground", self.ground, GROUNDS)

    @property
    def back_to_front(self) -> tuple[Thing, ...]:
        """The things in drawing order: flying things first, then the others, near ones last."""
        return tuple(sorted(self.things, key=lambda thing: (not thing.flies, thing.base)))


def relation(scene: Scene) -> tuple[str, Thing, Thing] | None:
    """Return the spatial relation of the two things of a scene.

    Returns:
        ("left", a, b), ("above", a, b) or ("front", a, b): a is left of, above or in front of b.
        None if the scene does not have exactly two things.
    """
    if len(scene.things) != 2:
        return None
    a, b = sorted(scene.things, key=lambda thing: thing.x)
    if b.x - a.x >= 0.25:
        return "left", a, b
    if a.flies or b.flies:
        upper, lower = sorted(scene.things, key=lambda thing: thing.y)
        return "above", upper, lower
    back, front = sorted(scene.things, key=lambda thing: thing.base)
    return "front", front, back


def split_of(scene: Scene) -> str:
    """Return the split of a scene: "train", "test" or "held_out".

    A scene of "held_out" has a kind in the colour that training excludes for it. Of the others,
    one in ten compositions (sky, ground, and the kind and colour of every thing) belongs to
    "test". So a test caption that mentions all of them describes no training page.
    """
    pairs = sorted((thing.kind, thing.colour) for thing in scene.things)
    if HELD_OUT_PAIRS.intersection(pairs):
        return "held_out"
    key = repr((scene.sky, scene.ground, pairs)).encode()
    return "test" if zlib.crc32(key) % 10 == 0 else "train"


def sample_scene(rng: random.Random, split: str = "train", n: int | None = None) -> Scene:
    """Sample a scene of a split.

    Args:
        rng: The source of random numbers; the same state gives the same scene.
        split: One of SPLITS.
        n: Number of things, 1 to 3. None samples it: 35 % one, 50 % two, 15 % three.

    Raises:
        ValueError: If the split or n is unknown.
    """
    _known("split", split, SPLITS)
    if n not in (None, 1, 2, 3):
        raise ValueError(f"n is {n!r}; accepted: 1, 2, 3, or None for a random number of things")
    while True:
        scene = _draw(rng, n or rng.choices((1, 2, 3), (0.35, 0.5, 0.15))[0])
        if split == "held_out":
            scene = _hold_out(rng, scene)
        if split_of(scene) == split:
            return scene


def _draw(rng: random.Random, n: int) -> Scene:
    """Sample a scene of n things from any split."""
    sky, ground = rng.choice(SKIES), rng.choice(GROUNDS)
    if n == 1:
        things = [_thing(rng, x=rng.uniform(0.24, 0.76), size=rng.uniform(0.36, 0.46))]
    elif n == 2:
        things = _pair(rng)
    else:
        columns = [0.18, 0.5, 0.82]
        things = [
            _thing(rng, x=x + rng.uniform(-0.03, 0.03), size=rng.uniform(0.27, 0.31))
            for x in columns
        ]
    return Scene(sky, ground, tuple(things))


def _pair(rng: random.Random) -> list[Thing]:
    """Sample two things: side by side, one above the other, or one in front of the other."""
    arrangement = rng.choices(("beside", "above", "front"), (0.7, 0.18, 0.12))[0]
    if arrangement == "beside":
        a = _thing(rng, x=rng.uniform(0.2, 0.32), size=rng.uniform(0.32, 0.4))
        b = _thing(rng, x=rng.uniform(0.68, 0.8), size=rng.uniform(0.32, 0.4))
        if rng.random() < 0.1:
            b = replace(b, kind=a.kind, colour=a.colour, pattern=a.pattern, pose=a.pose)
            b = replace(b, y=a.y, size=a.size)
        return [a, b]
    if arrangement == "above":
        x = rng.uniform(0.3, 0.7)
        upper = _thing(rng, x=x + rng.uniform(-0.06, 0.06), size=0.31, kinds=AIR_KINDS)
        lower = _thing(rng, x=x, size=rng.uniform(0.32, 0.38), kinds=GROUND_KINDS)
        return [
            replace(upper, y=upper.size / 2 + rng.uniform(0.04, 0.07)),
            replace(lower, y=rng.uniform(0.9, 0.95) - lower.size / 2),
        ]
    x, side = rng.uniform(0.38, 0.62), rng.choice((-1, 1))
    back = _thing(rng, x=x, size=rng.uniform(0.38, 0.42), kinds=GROUND_KINDS)
    front = _thing(
        rng, x=x + side * rng.uniform(0.17, 0.21), size=rng.uniform(0.28, 0.3), kinds=GROUND_KINDS
    )
    return [
        replace(back, y=rng.uniform(0.71, 0.75) - back.size / 2),
        replace(front, y=rng.uniform(0.94, 0.97) - front.size / 2),
    ]


def _thing(
    rng: random.Random, x: float, size: float, kinds: tuple[str, ...] | None = None
) -> Thing:
    """Sample a thing, on the ground or above the horizon, depending on its kind."""
    kind = rng.choice(kinds or KINDS)
    size = size * SCALE.get(kind, 1.0)
    if kind in AIR_KINDS:
        y = size / 2 + rng.uniform(0.05, 0.2)
    else:
        y = rng.uniform(0.78, 0.95) - size / 2
    return Thing(
        kind,
        rng.choice(COLOURS),
        rng.choices(PATTERNS, (0.6, 0.2, 0.2))[0],
        round(x, 4),
        round(y, 4),
        round(size, 4),
        rng.choice(POSES) if kind == "person" else None,
    )


def _hold_out(rng: random.Random, scene: Scene) -> Scene:
    """Give one thing of a scene the colour that training excludes for its kind."""
    held_out = dict(HELD_OUT_PAIRS)
    k = rng.randrange(len(scene.things))
    things = list(scene.things)
    things[k] = replace(things[k], colour=held_out[things[k].kind])
    return replace(scene, things=tuple(things))


def _known(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Check that a value is one of those allowed; ValueError if not."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; accepted: {', '.join(allowed)}")
