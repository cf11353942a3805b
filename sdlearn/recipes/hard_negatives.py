"""Hard negatives: pages that differ in one attribute, for contrastive training.

Two random pages of a batch differ so much that one or two words distinguish them. The text encoder
would learn to ignore the rest of the caption; see sdlearn/recipes/clip.py.
"""

import random
from dataclasses import replace

from sdlearn.recipes.data import scene
from sdlearn.storybook import COLOURS, PATTERNS, Scene, caption, relation, split_of
from sdlearn.storybook.scenes import AIR_KINDS, GROUND_KINDS, POSES, SCALE


def hard_negative(k: int, split: str = "train", seed: int = 0) -> Scene:
    """Return scene k of a split with one attribute changed.

    The result belongs to the same split, and the same arguments give the same scene.
    """
    original, rng = scene(k, split, seed), random.Random(f"{seed}-{k}-twin")
    while True:
        change = rng.choice((swap_colours, mirror, other_kind, other_pattern, other_colour))
        changed = change(original, rng)
        if changed != original and split_of(changed) == split:
            return changed


def swap_colours(page: Scene, rng: random.Random) -> Scene:
    """Swap the colours of two things."""
    if len(page.things) < 2:
        return page
    things = list(page.things)
    i, j = rng.sample(range(len(things)), 2)
    a, b = things[i], things[j]
    things[i], things[j] = replace(a, colour=b.colour), replace(b, colour=a.colour)
    return replace(page, things=tuple(things))


def mirror(page: Scene, rng: random.Random) -> Scene:
    """Mirror the positions of the things, if captions mention left and right.

    The things themselves are not mirrored.
    """
    said = relation(page)
    if len(page.things) < 2 or (said is not None and said[0] != "left"):
        return page
    return replace(page, things=tuple(replace(t, x=round(1 - t.x, 4)) for t in page.things))


def other_kind(page: Scene, rng: random.Random) -> Scene:
    """Replace one thing by one of another kind, with that kind's size, in the same position."""
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
    """Give one thing a random pattern."""
    return change_one(page, rng, pattern=rng.choice(PATTERNS))


def other_colour(page: Scene, rng: random.Random) -> Scene:
    """Give one thing a random colour."""
    return change_one(page, rng, colour=rng.choice(COLOURS))


def change_one(page: Scene, rng: random.Random, **change: str) -> Scene:
    """Change fields of one randomly chosen thing."""
    things = list(page.things)
    i = rng.randrange(len(things))
    things[i] = replace(things[i], **change)  # type: ignore[arg-type]
    return replace(page, things=tuple(things))


def hard_negative_captions(
    pair: tuple[Scene, Scene], rng: random.Random, tries: int = 8
) -> tuple[str, ...]:
    """Return the captions of two pages in the same wording.

    They may be equal if the grammar cannot distinguish the pages.

    Args:
        pair: A page and its hard negative.
        rng: Chooses the wording.
        tries: Number of wordings to try until the captions differ.
    """
    for _ in range(tries):
        wording = rng.getrandbits(32)
        captions = tuple(caption(page, random.Random(wording)) for page in pair)
        if captions[0] != captions[1]:
            break
    return captions
