"""The judge without a network, against pages whose scenes are known."""

from dataclasses import replace

import torch
from PIL import Image

from sdlearn.evaluation.accuracy import judge_images, prompt_cases, rates
from sdlearn.evaluation.background_judge import (
    PAGES,
    SIDE,
    BackgroundJudge,
    crop,
    different,
    drawings,
    empty_pages,
    nearest_page,
    regions,
)
from sdlearn.evaluation.image_metrics import as_tensor
from sdlearn.storybook import COLOURS, KINDS, PATTERNS, POSES, Scene, Thing, render

CAT = Thing("cat", "red", "plain", 0.3, 0.7, 0.34)
STAR = Thing("star", "blue", "plain", 0.72, 0.25, 0.3)


def test_it_is_right_on_almost_all_true_pages() -> None:
    cases = prompt_cases("test", 100)
    pages = [render(case.scene, 64) for case in cases]
    found = rates(judge_images(BackgroundJudge(), cases, pages, [0] * 100))
    assert found["sky"].rate == found["ground"].rate == 1
    assert found["right"].rate > 0.88
    assert found["count"].rate > 0.9
    assert found["page"].rate > 0.85
    others = judge_images(BackgroundJudge(), cases, pages[1:] + pages[:1], [0] * 100)
    assert rates(others)["page"].rate < 0.05


def test_a_page_is_read_thing_by_thing() -> None:
    read = BackgroundJudge().read([render(Scene("dawn", "snow", (CAT, STAR)), 64)])[0]
    assert (read.sky, read.ground) == ("dawn", "snow")
    by_kind = {thing.kind: thing for thing in read.things}
    assert set(by_kind) == {"cat", "star"}
    for thing in (CAT, STAR):
        seen = by_kind[thing.kind]
        assert (seen.colour, seen.pattern) == (thing.colour, thing.pattern)
        assert abs(seen.x - thing.x) < 0.04
        assert abs(seen.y - thing.y) < 0.05
        assert 0.8 < seen.score <= 1
    assert read.things[0].score >= read.things[1].score


def test_size_and_mode_of_the_image_do_not_matter() -> None:
    scene = Scene("day", "sand", (CAT,))
    small, large = render(scene, 64), render(scene, 128).convert("RGBA")
    for read in BackgroundJudge().read([small, large]):
        assert [(t.kind, t.colour) for t in read.things] == [("cat", "red")]
        assert (read.sky, read.ground) == ("day", "sand")


def test_empty_pages_have_their_own_sky_and_ground_and_no_things() -> None:
    assert len(PAGES) == len(empty_pages()) == 25
    for k, page in enumerate(PAGES):
        x = as_tensor([render(Scene(*page, ()), 64)])[0]
        assert nearest_page(x) == k
        assert not different(x, k).any()


def test_shadows_belong_to_the_background() -> None:
    page = PAGES.index(("day", "snow"))
    x = as_tensor([render(Scene("day", "snow", (CAT,)), 64)])[0]
    foot = 64 * (CAT.y + CAT.size / 2)
    rows = different(x, page).any(dim=1).nonzero()
    assert abs(rows.max().item() - foot) <= 2  # the shadow reaches two rows further


def test_regions_are_connected_and_large_enough() -> None:
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[2:8, 2:8] = True  # 36 pixels
    mask[8:14, 8:14] = True  # touches it at a corner
    mask[20:30, 20:22] = True  # 20 pixels, 1.25 %
    mask[35:38, 35:38] = True  # 9 pixels: noise
    assert sorted(int(region.sum()) for region in regions(mask)) == [20, 72]
    snake = torch.zeros(40, 40, dtype=torch.bool)
    snake[::2] = True
    snake[1::4, 0] = snake[3::4, -1] = True
    assert [int(region.sum()) for region in regions(snake)] == [int(snake.sum())]


def test_a_crop_keeps_the_aspect_ratio() -> None:
    region = torch.zeros(64, 64, dtype=torch.bool)
    region[10:58, 30:42] = True  # 48 x 12
    part = crop(torch.ones(3, 64, 64), region)
    assert part.shape == (3, SIDE, SIDE)
    assert part[0].sum() == SIDE * SIDE / 4
    assert part[:, :, SIDE // 2].min() == 1
    assert part[:, :, 0].max() == 0


def test_every_appearance_has_a_drawing_of_its_own() -> None:
    found = drawings()
    looks = {thing.appearance for thing in found.things}
    assert len(looks) == len(found.images) == (15 + len(POSES)) * len(COLOURS) * len(PATTERNS)
    assert {thing.kind for thing in found.things} == set(KINDS)
    assert len(found.images.flatten(1).unique(dim=0)) == len(found.images)


def test_what_pleases_a_network_does_not_please_it() -> None:
    """Without things, with a thing in another colour, or with noise, nothing is found right."""
    scene = Scene("day", "grass", (CAT,))
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    pages = [render(Scene("day", "grass", ()), 64), render(replace(scene, things=(STAR,)), 64)]
    for page in (*pages, noise):
        things = BackgroundJudge().read([page])[0].things
        assert ("cat", "red") not in {(thing.kind, thing.colour) for thing in things}
