"""The world: scenes follow from the seed, splits are disjoint, pictures agree at every size."""

import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from sdlearn.storybook import (
    COLOURS,
    GROUNDS,
    KINDS,
    PATTERNS,
    POSES,
    SKIES,
    SPLITS,
    Scene,
    Thing,
    caption,
    masks,
    relation,
    render,
    sample_scene,
    split_of,
)


def scenes(n: int, split: str = "train") -> list[Scene]:
    rng = random.Random(f"{split} scenes")
    return [sample_scene(rng, split) for _ in range(n)]


def pairs(scene: Scene) -> list[tuple[str, str]]:
    return sorted((thing.kind, thing.colour) for thing in scene.things)


def composition(scene: Scene) -> tuple[object, ...]:
    return scene.sky, scene.ground, *pairs(scene)


@pytest.fixture(scope="module")
def train() -> list[Scene]:
    return scenes(4000)


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_state_gives_the_same_scene_caption_and_picture(split):
    for seed in range(20):
        once, again = random.Random(seed), random.Random(seed)
        a, b = sample_scene(once, split), sample_scene(again, split)
        assert a == b
        assert caption(a, once) == caption(b, again)
        assert render(a, 64).tobytes() == render(b, 64).tobytes()
    assert len(set(scenes(50, split))) == 50


def test_a_scene_does_not_depend_on_how_python_hashes_strings():
    code = (
        "import random; from sdlearn.storybook import sample_scene;"
        "draw = lambda split, k: sample_scene(random.Random(k), split);"
        "print([draw(s, k) for s in ('train','held_out') for k in range(20)])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True, timeout=120,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    expected = [sample_scene(random.Random(k), s) for s in ("train", "held_out") for k in range(20)]
    assert said == {f"{expected}\n"}


def test_splits_are_disjoint(train):
    test, held_out = scenes(800, "test"), scenes(1500, "held_out")
    for split, drawn in (("train", train), ("test", test), ("held_out", held_out)):
        assert {split_of(scene) for scene in drawn} == {split}
        assert {len(scene.things) for scene in drawn} == {1, 2, 3}
    shown = {pair for scene in train + test for pair in pairs(scene)}
    new = [[pair for pair in pairs(scene) if pair not in shown] for scene in held_out]
    assert all(len(pair) >= 1 for pair in new)
    assert len({pair for row in new for pair in row}) == len(KINDS)  # one for each kind
    assert len(shown) == len(KINDS) * (len(COLOURS) - 1)  # and everything else is shown
    assert not {composition(s) for s in train} & {composition(s) for s in test}
    assert split_of(replace(train[0], things=train[0].things[::-1])) == "train"


def test_everything_occurs_about_equally_often(train):
    things = [thing for scene in train for thing in scene.things]
    for values, all_values, slack in (
        ([scene.sky for scene in train], SKIES, 0.15),
        ([scene.ground for scene in train], GROUNDS, 0.15),
        ([thing.kind for thing in things], KINDS, 0.2),
        ([thing.colour for thing in things], COLOURS, 0.15),
        ([thing.pose for thing in things if thing.pose], POSES, 0.3),
    ):
        counts = Counter(values)
        assert set(counts) == set(all_values)
        mean = len(values) / len(all_values)
        assert max(abs(n / mean - 1) for n in counts.values()) < slack, counts
    patterns = Counter(thing.pattern for thing in things)
    assert set(patterns) == set(PATTERNS)
    assert patterns["plain"] == max(patterns.values())
    assert {len(scene.things) for scene in train} == {1, 2, 3}
    assert {relation(scene)[0] for scene in train if len(scene.things) == 2} == {
        "left",
        "above",
        "front",
    }


def test_the_number_of_things_can_be_chosen():
    rng = random.Random(0)
    for n in (1, 2, 3):
        assert all(len(sample_scene(rng, n=n).things) == n for _ in range(50))


def test_things_stay_on_the_page_and_are_seen():
    def area(scene: Scene, size: int, border: int = 0) -> list[float]:
        inside = slice(border, size - border)
        return [float(np.asarray(m)[inside, inside].sum()) for m in masks(scene, size)]

    for scene in scenes(60):
        for thing, seen in zip(scene.things, area(scene, 64), strict=True):
            assert seen > 64 * 255  # no thing is a speck: over 64 of the 4096 pixels
            (alone,) = area(replace(scene, things=(thing,)), 64)
            assert seen > 0.75 * alone  # what stands in front leaves most of it
            # The same page with a margin: nearly nothing of the thing lies in the margin.
            x, y = 0.25 + thing.x / 2, 0.25 + thing.y / 2
            small = replace(scene, things=(replace(thing, x=x, y=y, size=thing.size / 2),))
            assert area(small, 128, border=32)[0] > 0.93 * area(small, 128)[0]


def test_the_same_scene_looks_the_same_at_every_size():
    for scene in scenes(12):
        small = np.asarray(render(scene, 64), dtype=float)
        for size in (128, 256, 512):
            large = np.asarray(render(scene, size).reduce(size // 64), dtype=float)
            difference = np.abs(small - large)
            assert difference.mean() < 3.5  # of 255
            assert np.quantile(difference, 0.98) < 40  # only the borders differ at all


@pytest.mark.parametrize("size", [32, 50, 64, 257, 1024])
def test_a_picture_has_the_size_asked_for(size):
    picture = render(scenes(1)[0], size)
    assert (picture.mode, picture.size) == ("RGB", (size, size))


def test_colours_are_where_the_scene_says():
    def pixel(scene: Scene, x: float, y: float) -> tuple[int, int, int]:
        return render(scene, 200).getpixel((int(200 * x), int(200 * y)))

    def near(colour, expected):
        assert max(abs(a - b) for a, b in zip(colour, expected, strict=True)) <= 12, colour

    house = Thing("house", "red", "plain", 0.3, 0.7, 0.4)
    balloon = Thing("balloon", "blue", "plain", 0.75, 0.3, 0.4)
    day = Scene("day", "grass", (house, balloon))
    near(pixel(day, 0.35, 0.85), (218, 41, 44))  # the wall, right of the door
    near(pixel(day, 0.3, 0.6), (152, 28, 30))  # the roof, a darker red
    near(pixel(day, 0.75, 0.24), (33, 104, 208))  # the balloon
    near(pixel(day, 0.02, 0.98), (112, 184, 84))  # grass
    near(pixel(day, 0.5, 0.01), (96, 178, 240))  # blue sky
    night = replace(day, sky="night", ground="snow")
    near(pixel(night, 0.5, 0.01), (16, 22, 62))
    near(pixel(night, 0.02, 0.98), (124, 132, 171))  # snow by moonlight
    near(pixel(night, 0.35, 0.85), (218, 41, 44))  # things keep their colour, so it can be named
    # The nearer thing hides the other, whatever the order they are listed in.
    back = Thing("mushroom", "green", "plain", 0.5, 0.55, 0.4)
    front = Thing("mushroom", "purple", "plain", 0.5, 0.7, 0.4)
    for things in ((back, front), (front, back)):
        near(pixel(Scene("day", "sand", things), 0.5, 0.62), (128, 58, 176))


def test_stripes_and_spots_change_only_the_thing():
    plain = Scene("day", "sand", (Thing("mushroom", "blue", "plain", 0.5, 0.6, 0.5),))
    for pattern in ("striped", "spotted"):
        marked = replace(plain, things=(replace(plain.things[0], pattern=pattern),))
        change = np.abs(
            np.asarray(render(plain, 128), dtype=int) - np.asarray(render(marked, 128), dtype=int)
        ).max(axis=2)
        inside = np.asarray(masks(plain, 128)[0]) > 0
        assert 0.1 < (change[inside] > 30).mean() < 0.6
        assert change[~inside].max() == 0


def test_bad_values_are_named():
    star = Thing("star", "red", "plain", 0.5, 0.3, 0.3)
    scene = Scene("day", "sand", (star,))
    for attempt, words in (
        (lambda: Thing("dog", "red", "plain", 0.5, 0.5, 0.3), r"kind is 'dog'; accepted: house"),
        (lambda: Thing("cat", "cyan", "plain", 0.5, 0.5, 0.3), r"colour is 'cyan'; accepted: red"),
        (lambda: Thing("cat", "red", "tartan", 0.5, 0.5, 0.3), r"pattern is 'tartan'; accepted"),
        (lambda: Thing("person", "red", "plain", 0.5, 0.5, 0.3), r"pose is None; accepted"),
        (lambda: Thing("cat", "red", "plain", 0.5, 0.5, 0.3, "waving"), r"only a person has one"),
        (lambda: Scene("noon", "sand", ()), r"sky is 'noon'; accepted: day"),
        (lambda: Scene("day", "lava", ()), r"ground is 'lava'; accepted: grass"),
        (lambda: sample_scene(random.Random(0), "validation"), r"split is 'validation'; accepted"),
        (lambda: sample_scene(random.Random(0), n=4), r"n is 4; accepted: 1, 2, 3, or None"),
        (lambda: render(scene, 31), r"size is 31; accepted: whole numbers of pixels from 32"),
        (lambda: render(scene, 1025), r"size is 1025; accepted"),
        (lambda: render(scene, 64.0), r"size is 64.0; accepted"),
    ):
        with pytest.raises(ValueError, match=words):
            attempt()
