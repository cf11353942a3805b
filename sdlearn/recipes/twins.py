"""Twins: pages that differ in one thing only, so that a contrastive training must read everything.

Two chance pages of a batch differ in so much that a word or two tells them apart. What no twin ever
changes the text encoder therefore learns to neglect; see sdlearn/recipes/clip.py.
"""

import random
from dataclasses import replace

from sdlearn.recipes.data import scene
from sdlearn.storybook import COLOURS, PATTERNS, Scene, caption, relation, split_of
from sdlearn.storybook.scenes import AIR_KINDS, GROUND_KINDS, POSES, SCALE


def twin(k: int, split: str = "train", seed: int = 0) -> Scene:
    """Scene k of a split with one attribute changed, in the same split: always the same one."""
    original, rng = scene(k, split, seed), random.Random(f"{seed}-{k}-twin")
    while True:
        change = rng.choice((swap_colours, mirror, other_kind, other_pattern, other_colour))
        changed = change(original, rng)
        if changed != original and split_of(changed) == split:
            return changed


def swap_colours(page: Scene, rng: random.Random) -> Scene:
    """Two things exchange their colours."""
    if len(page.things) < 2:
        return page
    things = list(page.things)
    i, j = rng.sample(range(len(things)), 2)
    a, b = things[i], things[j]
    things[i], things[j] = replace(a, colour=b.colour), replace(b, colour=a.colour)
    return replace(page, things=tuple(things))


def mirror(page: Scene, rng: random.Random) -> Scene:
    """Left and right change places, where a caption tells them apart; nothing is turned around."""
    said = relation(page)
    if len(page.things) < 2 or (said is not None and said[0] != "left"):
        return page
    return replace(page, things=tuple(replace(t, x=round(1 - t.x, 4)) for t in page.things))


def other_kind(page: Scene, rng: random.Random) -> Scene:
    """One thing becomes another that stands, or flies, where it does, as large as those are."""
    things = list(page.things)
    i = rng.randrange(len(things))
    old = things[i]
    kind = rng.choice(AIR_KINDS if old.flies else GROUND_KINDS)
    if kind == old.kind:
        return page
    size = round(old.size / SCALE.get(old.kind, 1.0) * SCALE.get(kind, 1.0), 4)
    things[i] = replace(
        old,
        kind=kind,
        y=round(old.y if old.flies else old.base - size / 2, 4),
        size=size,
        pose=rng.choice(POSES) if kind == "person" else None,
    )
    return replace(page, things=tuple(things))


def other_pattern(page: Scene, rng: random.Random) -> Scene:
    return change_one(page, rng, pattern=rng.choice(PATTERNS))


def other_colour(page: Scene, rng: random.Random) -> Scene:
    return change_one(page, rng, colour=rng.choice(COLOURS))


def change_one(page: Scene, rng: random.Random, **change: str) -> Scene:
    things = list(page.things)
    i = rng.randrange(len(things))
    things[i] = replace(things[i], **change)  # type: ignore[arg-type]
    return replace(page, things=tuple(things))


def twin_captions(
    couple: tuple[Scene, Scene], rng: random.Random, tries: int = 8
) -> tuple[str, ...]:
    """Captions of two pages in the same wording. They may be equal where the grammar cannot tell
    the pages apart: a mirrored page with one thing in the middle, say."""
    for _ in range(tries):
        wording = rng.getrandbits(32)
        said = tuple(caption(page, random.Random(wording)) for page in couple)
        if said[0] != said[1]:
            break
    return said
