"""A scene in words: a small grammar with paraphrases, relations, plurals and articles.

    caption  = things [place] [time]  |  time "," things [place]
    things   = thing | thing RELATION thing | thing "," thing "and" thing
    thing    = article [pose] [pattern] colour kind

Everything in a caption is true of the scene. A caption may omit the ground, the sky or a pattern,
which the model is then free to choose.
"""

import random
import re

from .scenes import COLOURS, POSES, Scene, Thing, relation

# The first noun is the most frequent one.
NOUNS = {
    "house": ("house", "cottage"), "tree": ("tree",), "car": ("car",),
    "boat": ("boat", "sailing boat"), "cat": ("cat", "kitten"), "fish": ("fish",),
    "flower": ("flower",), "person": ("person", "child"), "mushroom": ("mushroom", "toadstool"),
    "umbrella": ("umbrella",), "snail": ("snail",), "balloon": ("balloon", "hot-air balloon"),
    "star": ("star",), "bird": ("bird",), "rocket": ("rocket",), "butterfly": ("butterfly",),
}  # fmt: skip
PLURALS = {"fish": "fish", "butterfly": "butterflies", "person": "people", "child": "children"}
PLACES = {
    "grass": ("on the grass", "on green grass", "in a meadow"),
    "sand": ("on the sand", "on a sandy beach", "on the beach"),
    "snow": ("in the snow", "on the snow", "on snowy ground"),
    "sea": ("on the sea", "on the water", "at sea"),
    "street": ("on the street", "on the road", "in the street"),
}
TIMES = {
    "day": ("by day", "on a sunny day", "under a blue sky", "in the sunshine"),
    "dawn": ("at dawn", "at sunrise", "early in the morning"),
    "sunset": ("at sunset", "in the evening", "at dusk"),
    "night": ("at night", "under the stars", "by moonlight"),
    "cloudy": ("on a cloudy day", "under a cloudy sky", "under grey clouds"),
}
RELATIONS = {
    "left": (
        "{a} to the left of {b}",
        "{a} to the left of {b}",
        "{b} to the right of {a}",
        "{a} left of {b}",
        "{b} right of {a}",
        "{a} on the left and {b} on the right",
        "{b} on the right and {a} on the left",
        "{b} with {a} on its left",
        "{a} with {b} on its right",
    ),
    "above": ("{a} above {b}", "{a} above {b}", "{b} below {a}", "{a} over {b}", "{b} under {a}"),
    "front": ("{a} in front of {b}", "{a} in front of {b}", "{b} behind {a}"),
}
THREE = (
    "{a}, {b} and {c}",
    "{a}, {b} and {c}",
    "{a}, {b} and {c} from left to right",
    "{a} on the left, {b} in the middle and {c} on the right",
    "{b} between {a} and {c}",
)
WHOLE = (
    "{things} {place} {time}", "{things} {place} {time}", "{things} {place} {time}",
    "{things} {time} {place}", "{time}, {things} {place}", "{place}, {things} {time}",
    "a picture of {things} {place} {time}", "a page with {things} {place} {time}",
)  # fmt: skip


def caption(scene: Scene, rng: random.Random) -> str:
    """Describe a scene in lower case.

    The positions of one, two or three things may be mentioned. Larger scenes are described by
    "a, b, c and d" only.

    Args:
        scene: The scene.
        rng: Chooses the wording.
    """
    place = rng.choice(PLACES[scene.ground]) if rng.random() < 0.92 else ""
    time = rng.choice(TIMES[scene.sky]) if rng.random() < 0.92 else ""
    text = rng.choice(WHOLE).format(things=_things(scene, rng), place=place, time=time)
    return " ".join(text.replace(" ,", ",").split()).strip(" ,")


def _things(scene: Scene, rng: random.Random) -> str:
    """Describe the things and their relation."""
    things = sorted(scene.things, key=lambda thing: thing.x)
    related = relation(scene)
    if related is not None:
        name, a, b = related
        if a.appearance == b.appearance:
            return _phrase(a, rng, plural=True)
        return rng.choice(RELATIONS[name]).format(a=_phrase(a, rng), b=_phrase(b, rng))
    phrases = [_phrase(thing, rng) for thing in things]
    if len(things) == 3:
        left, middle, right = phrases
        return rng.choice(THREE).format(a=left, b=middle, c=right)
    if len(things) == 1:
        x = things[0].x
        where = "on the left" if x < 0.4 else "on the right" if x > 0.6 else "in the middle"
        return f"{phrases[0]} {where}" if rng.random() < 0.25 else phrases[0]
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def _phrase(thing: Thing, rng: random.Random, plural: bool = False) -> str:
    """Return "a spotted red cat", "an umbrella", "two waving people in blue"."""
    nouns = NOUNS[thing.kind]
    noun = nouns[0] if rng.random() < 0.8 else rng.choice(nouns)
    if plural:
        noun = PLURALS.get(noun, noun + "s")
    pattern = thing.pattern if thing.pattern != "plain" and rng.random() < 0.85 else ""
    marks = {"striped": "stripes", "spotted": "spots", "": ""}[pattern]
    if thing.kind == "person":
        pose = thing.pose if rng.random() < 0.7 else ""
        words = f"{pose} {noun} in {pattern} {thing.colour}"
    elif pattern and rng.random() < 0.25:
        words = f"{thing.colour} {noun} with {marks}"
    elif pattern and rng.random() < 0.2:
        words = f"{thing.colour} {pattern} {noun}"
    else:
        words = f"{pattern} {thing.colour} {noun}"
    words = " ".join(words.split())
    return f"two {words}" if plural else f"{article(words)} {words}"


def article(words: str) -> str:
    """Return "an" before a vowel, else "a"; no word of the grammar is an exception."""
    return "an" if words[0] in "aeiou" else "a"


def _vocabulary() -> frozenset[str]:
    """Collect every word of the grammar."""
    tables = [*NOUNS.values(), *PLACES.values(), *TIMES.values(), *RELATIONS.values(), THREE, WHOLE]
    nouns = [noun for row in NOUNS.values() for noun in row]
    plurals = [PLURALS.get(noun, noun + "s") for noun in nouns]
    spoken = " ".join([*(phrase for row in tables for phrase in row), *plurals, *COLOURS, *POSES])
    words = (spoken + " a an two in with stripes spots striped spotted middle").replace(",", " ")
    return frozenset(word for word in words.split() if not word.startswith("{"))


# Every word that a caption can contain. A model trained on captions knows no others.
WORDS = _vocabulary()


def unknown_words(text: str) -> list[str]:
    """Return the words of a prompt that no caption contains, each once, in order."""
    words = dict.fromkeys(re.findall(r"[^\W_]+(?:-[^\W_]+)*", text.lower()))
    return [word for word in words if word not in WORDS]
