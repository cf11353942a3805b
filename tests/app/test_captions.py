"""Captions tell the truth: a small parser that knows only English reads them back."""

import random
import re
from itertools import permutations

import pytest

from sdlearn.storybook import POSES, WORDS, Scene, Thing, caption, sample_scene
from sdlearn.storybook.captions import unknown_words

SINGULAR = {
    "house": "house", "cottage": "house", "tree": "tree", "car": "car", "sailing boat": "boat",
    "boat": "boat", "cat": "cat", "kitten": "cat", "fish": "fish", "flower": "flower",
    "person": "person", "child": "person", "mushroom": "mushroom", "toadstool": "mushroom",
    "umbrella": "umbrella", "snail": "snail", "hot-air balloon": "balloon", "balloon": "balloon",
    "star": "star", "bird": "bird", "rocket": "rocket", "butterfly": "butterfly",
}  # fmt: skip
PLURAL = {
    "houses": "house", "cottages": "house", "trees": "tree", "cars": "car",
    "sailing boats": "boat", "boats": "boat", "cats": "cat", "kittens": "cat", "fish": "fish",
    "flowers": "flower", "people": "person", "children": "person", "mushrooms": "mushroom",
    "toadstools": "mushroom", "umbrellas": "umbrella", "snails": "snail",
    "hot-air balloons": "balloon", "balloons": "balloon", "stars": "star", "birds": "bird",
    "rockets": "rocket", "butterflies": "butterfly",
}  # fmt: skip
SKY = {
    "day": "by day|on a sunny day|under a blue sky|in the sunshine",
    "dawn": "at dawn|at sunrise|early in the morning",
    "sunset": "at sunset|in the evening|at dusk",
    "night": "at night|under the stars|by moonlight",
    "cloudy": "on a cloudy day|under a cloudy sky|under grey clouds",
}
GROUND = {
    "grass": "on the grass|on green grass|in a meadow",
    "sand": "on the sand|on a sandy beach|on the beach",
    "snow": "in the snow|on the snow|on snowy ground",
    "sea": "on the sea|on the water|at sea",
    "street": "on the street|on the road|in the street",
}
COLOUR = r"(red|orange|yellow|green|blue|purple|pink|black)"
LOOK = r"(?:(striped|spotted) )?"


def left(a: Thing, b: Thing) -> bool:
    return b.x - a.x > 0.2


def above(a: Thing, b: Thing) -> bool:
    return a.y + a.size / 2 < b.y and abs(a.x - b.x) < 0.2


def in_front(a: Thing, b: Thing) -> bool:
    touching = abs(a.x - b.x) < (a.size + b.size) / 2
    return a.y + a.size / 2 > b.y + b.size / 2 and touching and not (a.flies or b.flies)


# What may stand between the things A, B, C, and what it says of them.
CLAIMS = {
    "A": lambda a: True,
    "A on the left": lambda a: a.x < 0.42,
    "A on the right": lambda a: a.x > 0.58,
    "A in the middle": lambda a: 0.38 < a.x < 0.62,
    "A to the left of B": left,
    "A left of B": left,
    "A to the right of B": lambda a, b: left(b, a),
    "A right of B": lambda a, b: left(b, a),
    "A on the left and B on the right": left,
    "A on the right and B on the left": lambda a, b: left(b, a),
    "A with B on its left": lambda a, b: left(b, a),
    "A with B on its right": left,
    "A above B": above,
    "A over B": above,
    "A below B": lambda a, b: above(b, a),
    "A under B": lambda a, b: above(b, a),
    "A in front of B": in_front,
    "A behind B": lambda a, b: in_front(b, a),
    "A, B and C": lambda a, b, c: True,
    "A, B and C from left to right": lambda a, b, c: left(a, b) and left(b, c),
    "A on the left, B in the middle and C on the right": lambda a, b, c: left(a, b) and left(b, c),
    "A between B and C": lambda a, b, c: left(b, a) and left(a, c),
}


def take(text: str, table: dict[str, str]) -> tuple[str | None, str]:
    """The key whose phrase `text` holds (at most one may), and the text without the phrase."""
    hits = [key for key, phrases in table.items() if re.search(rf"\b({phrases})\b", text)]
    assert len(hits) <= 1, text
    if not hits:
        return None, text
    return hits[0], re.sub(rf"\b({table[hits[0]]})\b", "", text, count=1)


def parse(text: str) -> tuple[str | None, str | None, list[dict[str, str | None]], bool, str]:
    """(sky, ground, things, whether there are two of the one thing, the claim about them)."""
    sky, text = take(text, SKY)
    ground, text = take(text, GROUND)
    text = re.sub(r"\b(a picture of|a page with)\b", "", text)
    things: list[dict[str, str | None]] = []
    plural = False

    def read(match: re.Match[str]) -> str:
        nonlocal plural
        many, pose, look, colour, look_2, noun, dress_look, dress, marks = match.groups()
        plural = many == "two"
        kinds = PLURAL if plural else SINGULAR
        assert noun in kinds, match.group()
        looks = [look, look_2, dress_look, {"stripes": "striped", "spots": "spotted"}.get(marks)]
        assert (colour is None) == (dress is not None) == (kinds[noun] == "person")
        things.append({
            "kind": kinds[noun], "colour": colour or dress, "pose": pose,
            "pattern": next((look for look in looks if look), None),
        })  # fmt: skip
        return "ABC"[len(things) - 1]

    nouns = "|".join(sorted({*SINGULAR, *PLURAL}, key=len, reverse=True))
    phrase = (
        rf"\b(an?|two) (?:({'|'.join(POSES)}) )?{LOOK}(?:{COLOUR} )?{LOOK}({nouns})\b"
        rf"(?: in {LOOK}{COLOUR}\b)?(?: with (stripes|spots)\b)?"
    )
    text = re.sub(phrase, read, text)
    claim = re.sub(r"\s+", " ", text).replace(" ,", ",").strip(" ,")
    return sky, ground, things, plural, claim


def agrees(said: dict[str, str | None], thing: Thing) -> bool:
    return (
        said["kind"] == thing.kind
        and said["colour"] == thing.colour
        and said["pose"] in (None, thing.pose)
        and said["pattern"] in (None, thing.pattern)
    )


def is_true(text: str, scene: Scene) -> bool:
    sky, ground, said, plural, claim = parse(text)
    assert claim in CLAIMS, (text, claim)
    if sky not in (None, scene.sky) or ground not in (None, scene.ground):
        return False
    if plural:
        assert len(said) == 1
        return claim == "A" and len(scene.things) == 2 and all(
            agrees(said[0], thing) for thing in scene.things
        )  # fmt: skip
    return len(said) == len(scene.things) and any(
        all(map(agrees, said, things)) and CLAIMS[claim](*things)
        for things in permutations(scene.things)
    )


@pytest.fixture(scope="module")
def told() -> list[tuple[Scene, str]]:
    rng = random.Random(2)
    drawn = [sample_scene(rng, split) for split in ("train", "held_out") for _ in range(1200)]
    return [(scene, caption(scene, rng)) for scene in drawn]


def test_captions_are_true(told):
    false = [text for scene, text in told if not is_true(text, scene)]
    assert not false, false[:5]


def test_the_parser_would_notice_a_lie(told):
    """Each caption with one word exchanged is false of its scene: what the test above rests on."""
    lies = (
        ("left", "right"), ("above", "below"), ("front of", "behind"), ("red", "blue"),
        ("cat", "star"), ("at night", "at dawn"), ("sand", "snow"), ("striped", "spotted"),
        ("waving", "walking"),
    )  # fmt: skip
    for word, other in lies:
        where = [(s, t) for s, t in told if re.search(rf"\b{word}\b", t) and len(s.things) < 3]
        assert len(where) >= 5, word
        for scene, text in where[:20]:
            lie = re.sub(rf"\b{word}\b", other, text).replace("in behind", "behind")
            mirrored = "left" in text and "right" in text  # both sides named: only one exchanged
            assert mirrored or not is_true(lie, scene), (text, lie)


def test_articles_plurals_and_words(told):
    for _, text in told:
        assert text == text.lower() == " ".join(text.split()).strip(" ,")
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|\btwo two\b|,,", text), text
        assert set(text.replace(",", " ").split()) <= WORDS, text
        assert not unknown_words(text), text
    said = set(" ".join(text for _, text in told).replace(",", " ").split())
    assert {"an", "two", "cottage", "stripes", "between"} <= said
    assert len(WORDS - said) < 25, WORDS - said  # hardly a word is promised and never said


def test_plurals():
    for kind, words in (
        ("person", {"two people in red", "two children in red"}),
        ("butterfly", {"two red butterflies"}),
        ("fish", {"two red fish"}),
        ("boat", {"two red boats", "two red sailing boats"}),
    ):
        pose = "waving" if kind == "person" else None
        twins = tuple(Thing(kind, "red", "plain", x, 0.7, 0.35, pose) for x in (0.25, 0.75))
        texts = {caption(Scene("day", "sea", twins), random.Random(k)) for k in range(300)}
        found = {phrase for text in texts for phrase in words if phrase in text}
        assert found == words
        assert all("two " in text for text in texts)


def test_every_claim_and_phrase_is_spoken(told):
    parsed = [parse(text) for _, text in told]
    assert {claim for *_, claim in parsed} == set(CLAIMS)
    skies, grounds = [p[0] for p in parsed], [p[1] for p in parsed]
    for said, known in ((skies, SKY), (grounds, GROUND)):
        assert set(said) == {None, *known}
        assert 0.03 < said.count(None) / len(said) < 0.15
    texts = " | ".join(text for _, text in told)
    for phrases in (*SKY.values(), *GROUND.values()):
        assert all(phrase in texts for phrase in phrases.split("|"))


def test_a_scene_has_many_captions():
    scene = sample_scene(random.Random(3), n=2)
    assert len({caption(scene, random.Random(k)) for k in range(200)}) > 60


def test_the_example_of_the_front_page():
    cat = Thing("cat", "red", "plain", 0.25, 0.7, 0.36)
    house = Thing("house", "blue", "plain", 0.75, 0.7, 0.4)
    scene = Scene("night", "sand", (cat, house))
    text = "a red cat to the left of a blue house on the sand at night"
    assert is_true(text, scene)
    assert text in {caption(scene, random.Random(k)) for k in range(2000)}
