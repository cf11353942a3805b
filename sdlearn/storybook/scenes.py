"""What a page of the storybook shows: a sky, a ground, and one to three things.

A `Scene` is plain data in scene units: 0..1 across and down the square page, origin at the top
left, `(x, y)` the middle of a thing and `size` the side of its square box. Everything that follows
(the picture, the caption, the condition maps, the masks) is a pure function of it.
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

# How large a kind is drawn beside the others: a snail is not as big as a house.
SCALE = {"house": 1.15, "tree": 1.15, "flower": 0.95, "snail": 0.9, "butterfly": 0.9, "star": 0.9}


@dataclass(frozen=True)
class Thing:
    """One thing on the page; `pose` is set for a person and None for every other kind."""

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
        return self.kind in AIR_KINDS

    @property
    def looks(self) -> tuple[str, str, str, str | None]:
        """What is said of it: two things that are equal in this are "two pink fish"."""
        return self.kind, self.colour, self.pattern, self.pose

    @property
    def base(self) -> float:
        """Where the thing touches the ground, 0..1 from the top: lower is nearer."""
        return self.y + self.size / 2


@dataclass(frozen=True)
class Scene:
    """A page: sky, ground and things, in no particular order."""

    sky: str
    ground: str
    things: tuple[Thing, ...]

    def __post_init__(self) -> None:
        _known("sky", self.sky, SKIES)
        _known("ground", self.ground, GROUNDS)

    @property
    def back_to_front(self) -> tuple[Thing, ...]:
        """The things in the order in which they are painted: flying ones first, near ones last."""
        return tuple(sorted(self.things, key=lambda thing: (not thing.flies, thing.base)))


def relation(scene: Scene) -> tuple[str, Thing, Thing] | None:
    """How the two things of a scene stand to each other, or None unless there are two.

    Returns ("left", a, b): a is left of b; ("above", a, b); or ("front", a, b): a is in front of b.
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
    """The split a scene belongs to.

    `held_out` has a kind in the colour that training never shows it in. Of the rest, one in ten
    compositions (sky, ground, and the kind and colour of every thing) is kept for `test`, so no
    test caption that says all of them describes a training page.
    """
    pairs = sorted((thing.kind, thing.colour) for thing in scene.things)
    if HELD_OUT_PAIRS.intersection(pairs):
        return "held_out"
    key = repr((scene.sky, scene.ground, pairs)).encode()
    return "test" if zlib.crc32(key) % 10 == 0 else "train"


def sample_scene(rng: random.Random, split: str = "train", n: int | None = None) -> Scene:
    """Draw a scene of a split with `n` things (1 to 3; None: mostly one or two).

    The same state of `rng` gives the same scene. Raises ValueError for an unknown split or n.
    """
    _known("split", split, SPLITS)
    if n not in (None, 1, 2, 3):
        raise ValueError(f"n is {n!r}; a scene has 1, 2 or 3 things (None: drawn at random)")
    while True:
        scene = _draw(rng, n or rng.choices((1, 2, 3), (0.35, 0.5, 0.15))[0])
        if split == "held_out":
            scene = _hold_out(rng, scene)
        if split_of(scene) == split:
            return scene


def _draw(rng: random.Random, n: int) -> Scene:
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
    """Two things side by side, one above the other, or one in front of the other."""
    way = rng.choices(("beside", "above", "front"), (0.7, 0.18, 0.12))[0]
    if way == "beside":
        a = _thing(rng, x=rng.uniform(0.2, 0.32), size=rng.uniform(0.32, 0.4))
        b = _thing(rng, x=rng.uniform(0.68, 0.8), size=rng.uniform(0.32, 0.4))
        if rng.random() < 0.1:
            b = replace(b, kind=a.kind, colour=a.colour, pattern=a.pattern, pose=a.pose)
            b = replace(b, y=a.y, size=a.size)
        return [a, b]
    if way == "above":
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
    """A thing of a random kind and colour, standing on the ground or flying above the horizon."""
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
    """Give one thing of the scene the colour that training never shows its kind in."""
    held_out = dict(HELD_OUT_PAIRS)
    k = rng.randrange(len(scene.things))
    things = list(scene.things)
    things[k] = replace(things[k], colour=held_out[things[k].kind])
    return replace(scene, things=tuple(things))


def _known(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; accepted: {', '.join(allowed)}")
