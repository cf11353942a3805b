"""Is what the caption asked for on the page? A scene's things against what the judge found.

A thing is right when something on the page is of its kind, has its colour and is on its side of the
other thing. Each thing is held against one find and each find against one thing, in the way that
makes the most of the picture. A side is a relation, so it is right only when both things are there.
"""

from collections.abc import Sequence
from itertools import pairwise, permutations
from typing import NamedTuple

from sdlearn.evaluation.judge import Detection, Reading
from sdlearn.storybook import Scene, Thing, relation

MARGIN = 0.05  # of the page: closer than this is neither left nor right, above nor below


class Verdict(NamedTuple):
    """One thing of a scene on one page: what of it is right. A missing thing has nothing right."""

    kind: bool = False
    colour: bool = False
    side: bool = False

    @property
    def right(self) -> bool:
        """Kind and colour right, on the right side."""
        return self.kind and self.colour and self.side


class Match(NamedTuple):
    """A page held against a scene: a verdict on every thing, in the scene's order."""

    things: tuple[Verdict, ...]
    sky: bool
    ground: bool
    number: bool  # as many things as in the scene, none besides

    def all_right(self, sky: bool = True, ground: bool = True) -> bool:
        """Everything right; sky and ground only where the caption said them."""
        page = (self.sky or not sky) and (self.ground or not ground)
        return page and self.number and all(thing.right for thing in self.things)


def matches(scene: Scene, reading: Reading) -> Match:
    """Hold what the judge read on a page against the scene of its caption.

    For two things the side is the relation that captions state (`storybook.relation`): left of,
    above (the higher one), in front of (the lower one). Three stand in a row. One has no side, nor
    have two that are alike.
    """
    # One empty place for every thing, so that any of them may be found missing.
    places: list[Detection | None] = [*reading.things, *[None] * len(scene.things)]
    best = max(
        (judged(scene, chosen) for chosen in permutations(places, len(scene.things))), key=merit
    )
    return Match(
        best,
        reading.sky == scene.sky,
        reading.ground == scene.ground,
        len(reading.things) == len(scene.things),
    )


def merit(verdicts: Sequence[Verdict]) -> tuple[int, ...]:
    """What a better assignment has more of, the most important first."""
    return (
        sum(v.right for v in verdicts),
        sum(v.kind and v.colour for v in verdicts),
        sum(v.kind for v in verdicts),
        sum(v.colour for v in verdicts),
        sum(v.side for v in verdicts),
    )


def judged(scene: Scene, chosen: Sequence[Detection | None]) -> tuple[Verdict, ...]:
    """The verdicts when thing k of the scene is held against chosen[k]."""
    in_order = sides_right(scene, chosen)
    return tuple(
        Verdict()
        if found is None
        else Verdict(found.kind == thing.kind, found.colour == thing.colour, in_order)
        for thing, found in zip(scene.things, chosen, strict=True)
    )


def sides_right(scene: Scene, chosen: Sequence[Detection | None]) -> bool:
    """Whether the finds stand to each other as the things of the scene do."""
    if len(scene.things) == 1:
        return True
    found = dict(zip(map(id, scene.things), chosen, strict=True))
    said = relation(scene)
    if said is not None:
        name, first, second = said
        a, b = found[id(first)], found[id(second)]
        if a is None or b is None:
            return False
        if first.looks == second.looks:  # captions say "two pink fish"
            return True
        ahead = {"left": b.x - a.x, "above": b.y - a.y, "front": a.y - b.y}[name]
        return ahead >= MARGIN
    row = [found[id(thing)] for thing in sorted(scene.things, key=across)]
    xs = [thing.x for thing in row if thing is not None]
    return len(xs) == len(row) and all(b - a >= MARGIN for a, b in pairwise(xs))


def across(thing: Thing) -> float:
    return thing.x
