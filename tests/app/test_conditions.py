"""Masks, segmentation, edges, depth and pose agree with the picture and with each other."""

import random
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from sdlearn.storybook import (
    CLASSES,
    GROUNDS,
    KINDS,
    POSES,
    Scene,
    Thing,
    depth,
    edges,
    masks,
    pose,
    render,
    sample_scene,
    segmentation,
)

SIZES = (32, 64, 300)
MAPS = (edges, depth, segmentation, pose)


def scenes(count: int, n: int | None = None) -> list[Scene]:
    rng = random.Random(5)
    return [sample_scene(rng, n=n) for _ in range(count)]


def array(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=int)


def where(picture: np.ndarray, name: str) -> np.ndarray:
    return (picture == CLASSES[name]).all(axis=-1)


def crowd() -> Scene:
    """Things of every depth that hide each other, two of one kind, one half off the page."""
    return Scene(
        "dawn",
        "grass",
        (
            Thing("person", "red", "striped", 0.35, 0.72, 0.4, "waving"),
            Thing("house", "blue", "plain", 0.5, 0.5, 0.46),
            Thing("person", "green", "plain", 0.62, 0.75, 0.36, "walking"),
            Thing("balloon", "yellow", "plain", 0.45, 0.3, 0.4),
            Thing("car", "pink", "spotted", 0.95, 0.8, 0.3),
        ),
    )


@pytest.mark.parametrize("size", [32, 64, 129, 512])
def test_every_map_is_rgb_of_the_size_asked_for(size):
    for make in MAPS:
        picture = make(crowd(), size)
        assert (picture.mode, picture.size) == ("RGB", (size, size))
    assert [(m.mode, m.size) for m in masks(crowd(), size)] == [("L", (size, size))] * 5


@pytest.mark.parametrize("make", [*MAPS, masks])
def test_a_size_out_of_range_is_named(make):
    with pytest.raises(ValueError, match="size is 16; accepted: whole numbers of pixels from 32"):
        make(crowd(), 16)


@pytest.mark.parametrize("size", SIZES)
def test_a_mask_is_where_the_picture_changes_without_the_thing(size):
    for scene in [crowd(), *scenes(4)]:
        for k, mask in enumerate(map(array, masks(scene, size))):
            thing = scene.things[k]
            others = tuple(t for t in scene.things if t != thing)
            change = np.abs(
                array(render(scene, size)) - array(render(replace(scene, things=others), size))
            ).max(axis=2)
            outside = change * (mask == 0)
            rows, columns = np.nonzero(outside)
            if thing.flies:
                assert not outside.any()
            elif len(rows):  # only the shadow, an oval at the foot of the thing, may lie outside
                u = ((columns + 0.5) / size - thing.x) / (thing.size / 2)
                v = ((rows + 0.5) / size - thing.base) / (thing.size / 2)
                slack = 4 / (size * thing.size)
                assert ((np.abs(u) < 0.95 + slack) & (np.abs(v) < 0.16 + slack)).all()
            # A few colours happen to equal what is behind them, the rest has changed.
            assert (change[mask == 255] > 0).mean() > 0.9


@pytest.mark.parametrize("size", SIZES)
def test_masks_of_a_scene_do_not_overlap(size):
    for scene in [crowd(), *scenes(4, n=3)]:
        layers = np.array([array(m) for m in masks(scene, size)])
        total = layers.sum(axis=0)
        assert total.max() <= 255 + len(scene.things)  # rounding
        found = array(segmentation(scene, size))
        land_or_sky = where(found, scene.ground) | where(found, "sky")
        assert (layers[:, land_or_sky] <= 128).all()  # there no thing has the majority
        assert (total[~land_or_sky] >= 80).all()


def test_the_order_of_masks_is_the_order_of_things():
    scene = crowd()
    backwards = masks(replace(scene, things=scene.things[::-1]), 64)
    for mask, again in zip(masks(scene, 64), backwards[::-1], strict=True):
        assert mask.tobytes() == again.tobytes()


def test_a_hidden_thing_has_an_empty_mask():
    snail = Thing("snail", "red", "plain", 0.5, 0.6, 0.1)
    house = Thing("house", "blue", "plain", 0.5, 0.6, 0.5)
    hidden, whole = masks(Scene("day", "sand", (snail, house)), 64)
    assert array(hidden).max() == 0
    assert array(whole).max() == 255


def test_a_shadow_that_falls_on_a_thing_is_ground():
    house = Thing("house", "blue", "plain", 0.5, 0.64, 0.46)
    flower = Thing("flower", "red", "plain", 0.5, 0.68, 0.4)
    scene = Scene("day", "sand", (house, flower))
    x, y = int(0.62 * 256), int(0.862 * 256)  # on the wall, beside the foot of the flower
    (alone,) = masks(replace(scene, things=(house,)), 256)
    assert alone.getpixel((x, y)) == 255
    assert [mask.getpixel((x, y)) for mask in masks(scene, 256)] == [0, 0]
    assert segmentation(scene, 256).getpixel((x, y)) == CLASSES["sand"]
    assert render(scene, 256).getpixel((x, y)) == (190, 168, 118)  # sand in the shade


@pytest.mark.parametrize("size", SIZES)
def test_segmentation_is_the_class_that_covers_most_of_a_pixel(size):
    for scene in [crowd(), *scenes(4)]:
        found = array(segmentation(scene, size))
        cover = {name: np.zeros((size, size), dtype=int) for name in CLASSES}
        for thing, mask in zip(scene.things, masks(scene, size), strict=True):
            cover[thing.kind] += array(mask)
        # The land alone tells sky from ground: without things only these two classes are there.
        empty = array(segmentation(replace(scene, things=()), size))
        assert (where(empty, "sky") ^ where(empty, scene.ground)).all()
        rest = np.maximum(255 - sum(cover.values()), 0)
        assigned = np.zeros((size, size), dtype=int)
        for name in CLASSES:
            here = where(found, name)
            assigned += here
            if name in KINDS:
                rivals = [cover[other] for other in KINDS if other != name]
                assert (cover[name][here] >= np.max(rivals, axis=0)[here] - 1).all()
                assert (2 * cover[name][here] >= rest[here] - 4).all()
        assert (assigned == 1).all()  # exact colours only, one class a pixel
        untouched = sum(cover.values()) == 0
        assert (where(found, "sky") == where(empty, "sky"))[untouched].mean() > 0.97


def test_the_classes_have_distinct_colours():
    assert set(CLASSES) == {"sky", *GROUNDS, *KINDS}
    for a, b in combinations(CLASSES.values(), 2):
        assert np.abs(np.subtract(a, b)).sum() >= 60, (a, b)


@pytest.mark.parametrize("size", SIZES)
def test_edges_run_along_the_borders_of_the_segmentation(size):
    for scene in [crowd(), *scenes(4)]:
        line = array(edges(scene, size))[..., 0]
        classes = array(segmentation(scene, size)) @ (1, 256, 65536)
        border = np.zeros((size, size), dtype=bool)
        border[1:] |= classes[1:] != classes[:-1]
        border[:, 1:] |= classes[:, 1:] != classes[:, :-1]
        near = np.zeros_like(line)  # the brightest line within one pixel
        padded = np.pad(line, 1)
        for dy in range(3):
            for dx in range(3):
                near = np.maximum(near, padded[dy : dy + size, dx : dx + size])
        assert (near[border] >= 100).mean() > 0.97
        assert line[border].mean() > 2.5 * line.mean()


def test_lines_are_thin_crisp_and_only_where_something_begins():
    house = Thing("house", "red", "striped", 0.5, 0.65, 0.5)
    for size in (64, 256, 512):
        line = array(edges(Scene("night", "street", (house,)), size))[..., 0]
        assert line.max() == 255
        assert (line > 0).mean() < 16 / size  # lines, not areas
        column = line[:, size // 8]  # beside the house: the horizon, nothing else
        (lit,) = np.nonzero(column)
        assert abs(lit.mean() + 0.5 - 0.6 * size) <= 1
        assert len(lit) <= 2
        assert 200 <= column.sum() <= 320  # one pixel of white
    plain = replace(house, pattern="plain")
    assert (
        edges(Scene("day", "sea", (house,)), 64).tobytes()
        == edges(Scene("dawn", "sea", (plain,)), 64).tobytes()
    )  # neither the pattern nor the sky is an edge
    wall = array(edges(Scene("day", "sea", (house,)), 512))[:, :, 0]
    assert wall[int(0.80 * 512), int(0.45 * 512) : int(0.55 * 512)].max() > 100  # the door's side


def test_depth_is_linear_on_the_ground_and_flat_on_things():
    scene = crowd()
    grey = array(depth(scene, 128))
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (grey[..., 0] == grey[..., 2]).all()
    grey = grey[..., 0]
    assert (grey[:60, 0] == 0).all()  # the sky
    ground = array(depth(Scene("day", "street", ()), 128))[:, 64, 0]
    assert 0 < ground[80] < ground[127]
    assert ground[127] >= 252
    below = ground[80:]
    assert np.abs(below - np.linspace(below[0], below[-1], len(below))).max() <= 1
    for thing, mask in zip(scene.things, masks(scene, 128), strict=True):
        values = grey[array(mask) == 255]
        assert np.ptp(values) == 0
        assert values[0] > 0
        if not thing.flies:  # as near as the ground it stands on
            assert abs(values[0] - ground[min(127, int(thing.base * 128))]) <= 4


def test_what_hides_is_nearer_than_what_is_hidden():
    for scene in scenes(150):
        nearness = []
        for thing in scene.back_to_front:
            alone = replace(scene, things=(thing,))
            inside = array(masks(alone, 32)[0]) == 255
            nearness.append(array(depth(alone, 32))[inside][0, 0])
        assert nearness == sorted(nearness)


@pytest.mark.parametrize("name", POSES)
def test_a_skeleton_lies_inside_its_person(name):
    person = Thing("person", "red", "plain", 0.5, 0.6, 0.5, name)
    for size in SIZES:
        scene = Scene("day", "sand", (person,))
        bones = array(pose(scene, size)).max(axis=2)
        mask = array(masks(scene, size)[0])
        assert bones.max() > 150
        assert mask[bones > 0].min() > 0
        assert mask[bones > 100].min() >= 128
        assert (bones > 0).sum() > 0.1 * (mask > 0).sum()


def test_poses_differ_and_only_people_have_one():
    def skeleton(kind: str, *poses: str | None, x: float = 0.5) -> np.ndarray:
        things = (Thing(kind, "red", "plain", x, 0.6, 0.4, p) for p in poses)
        return array(pose(Scene("day", "sand", tuple(things)), 128))

    assert skeleton("cat", None).max() == 0
    assert skeleton("person").max() == 0
    for a, b in combinations(POSES, 2):
        assert np.abs(skeleton("person", a) - skeleton("person", b)).mean() > 0.5
    waving = skeleton("person", "waving")[: int(0.52 * 128)].max(axis=2)
    columns = np.nonzero(waving > 60)[1]
    assert columns.max() > 0.5 * 128 + 10  # the hand that is up is on the reader's right
    assert columns.min() > 0.5 * 128 - 8
    # Every bone has its own colour, and moving the person moves its skeleton.
    left, right = skeleton("person", "waving", x=0.3), skeleton("person", "waving", x=0.55)
    assert np.abs(left[:, :96] - right[:, 32:]).mean() < 0.2


def test_every_size_shows_the_same_geometry():
    for scene in [crowd(), *scenes(3)]:
        for make in (depth, pose):
            small = array(make(scene, 64))
            large = array(make(scene, 512).reduce(8))
            assert np.abs(small - large).mean() < 2.5
        for small, large in zip(masks(scene, 64), masks(scene, 512), strict=True):
            assert np.abs(array(small) - array(large.reduce(8))).mean() < 3
