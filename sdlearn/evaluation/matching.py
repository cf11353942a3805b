"""Comparison of a scene's things with the judge's detections.

A thing is right if a detection has its kind and its colour and is on its side of the other thing.
Things and detections are matched one to one, with the assignment that gives the most right things.
A side is a relation, so it is right only if both things were detected.
"""

from collections.abc import Sequence
from itertools import pairwise, permutations
from typing import NamedTuple

from sdlearn.evaluation.judge import Detection, Reading
from sdlearn.storybook import Scene, Thing, relation

MARGIN = 0.05  # smallest distance, as a fraction of the page, that counts as left or above


class Verdict(NamedTuple):
    """What is right about one thing of a scene; all False for a missing thing.

    Attributes:
        kind: The detection has the thing's kind.
        colour: The detection has the thing's colour.
        side: The detection is on the right side of the other thing, or there is no other.
    """

    kind: bool = False
    colour: bool = False
    side: bool = False

    @property
    def right(self) -> bool:
        """Whether kind, colour and side are all right."""
        return self.kind and self.colour and self.side


class Match(NamedTuple):
    """The result of comparing a page with a scene.

    Attributes:
        things: A verdict on every thing, in the scene's order.
        sky: The sky is right.
        ground: The ground is right.
        number: The page has as many things as the scene.
    """

    things: tuple[Verdict, ...]
    sky: bool
    ground: bool
    number: bool

    def all_right(self, sky: bool = True, ground: bool = True) -> bool:
        """Tell whether everything is right.

        Args:
            sky: The caption mentions the sky, so it must be right.
            ground: The caption mentions the ground, so it must be right.
        """
        page = (self.sky or not sky) and (self.ground or not ground)
        return page and self.number and all(thing.right for thing in self.things)


def matches(scene: Scene, reading: Reading) -> Match:
    """Compare the judge's reading of a page with the scene of its caption.

    For two things the side is the relation that captions state (`storybook.relation`): left of,
    above, or in front of, which means lower on the page. Three things are compared as a row. A
    single thing has no side, and neither do two identical things.
    """
    # One None for every thing, so that any of them can be missing.
    found: list[Detection | None] = [*reading.things, *[None] * len(scene.things)]
    assignments = permutations(found, len(scene.things))
    best = max((assign_verdicts(scene, chosen) for chosen in assignments), key=merit)
    return Match(
        best,
        reading.sky == scene.sky,
        reading.ground == scene.ground,
        len(reading.things) == len(scene.things),
    )


def merit(verdicts: Sequence[Verdict]) -> tuple[int, ...]:
    """Return a key that is larger for a better assignment."""
    return (
        sum(v.right for v in verdicts),
        sum(v.kind and v.colour for v in verdicts),
        sum(v.kind for v in verdicts),
        sum(v.colour for v in verdicts),
        sum(v.side for v in verdicts),
    )


def assign_verdicts(scene: Scene, chosen: Sequence[Detection | None]) -> tuple[Verdict, ...]:
    """Return the verdicts if thing k of the scene is matched with chosen[k]."""
    in_order = sides_right(scene, chosen)
    return tuple(
        Verdict()
        if found is None
        else Verdict(found.kind == thing.kind, found.colour == thing.colour, in_order)
        for thing, found in zip(scene.things, chosen, strict=True)
    )


def sides_right(scene: Scene, chosen: Sequence[Detection | None]) -> bool:
    """Tell whether the detections have the spatial relation of the scene's things."""
    if len(scene.things) == 1:
        return True
    found = dict(zip(map(id, scene.things), chosen, strict=True))
    said = relation(scene)
    if said is not None:
        name, first, second = said
        a, b = found[id(first)], found[id(second)]
        if a is None or b is None:
            return False
        if first.appearance == second.appearance:  # captions say "two pink fish"
            return True
        ahead = {"left": b.x - a.x, "above": b.y - a.y, "front": a.y - b.y}[name]
        return ahead >= MARGIN
    row = [found[id(thing)] for thing in sorted(scene.things, key=across)]
    xs = [thing.x for thing in row if thing is not None]
    return len(xs) == len(row) and all(b - a >= MARGIN for a, b in pairwise(xs))


def across(thing: Thing) -> float:
    """Return the horizontal position, for sorting."""
    return thing.x
