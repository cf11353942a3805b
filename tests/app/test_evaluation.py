"""The measures measured: formulas against hand numbers, the judge against pages it never saw."""

import json
import math
import random
import shlex
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFont

from sdlearn.cli.main import main, parse
from sdlearn.cli.train import resolve_recipe
from sdlearn.evaluation import accuracy, card, contact_sheets, report, tables, text_probe
from sdlearn.evaluation.accuracy import (
    caption_accuracy,
    named_surroundings,
    prompt_cases,
    rates,
)
from sdlearn.evaluation.image_metrics import as_tensor, psnr, ssim
from sdlearn.evaluation.judge import (
    Detection,
    Judge,
    JudgeConfig,
    Logits,
    Reading,
    distinct,
    load_judge,
    save_judge,
)
from sdlearn.evaluation.matching import matches
from sdlearn.evaluation.resampling import interval
from sdlearn.pipeline import StableDiffusion
from sdlearn.recipes import judge as recipe
from sdlearn.recipes.data import scene as training_scene
from sdlearn.recipes.latent_cache import weights_key
from sdlearn.recipes.recipe import override
from sdlearn.storybook import COLOURS, KINDS, SPLITS, Scene, Thing, render, sample_scene
from sdlearn.storybook.scenes import HELD_OUT_PAIRS
from sdlearn.training import train
from sdlearn.utils.resources import data_folder
from sdlearn.versions import SPECS
from tests.tiny_model import tiny_diffusers

# ------------------------------------------------------------------------------ pixel measures


def test_psnr_by_hand() -> None:
    a = torch.zeros(3, 3, 4, 4)
    b = a.clone()
    b[0] += 0.1  # everywhere: mse 0.01
    b[1, :, :2] -= 0.2  # half of it: mse 0.02
    assert psnr(a, b).tolist() == pytest.approx([26.0206, 23.0103, math.inf], abs=1e-4)
    assert psnr(a, b, data_range=1.0)[0].item() == pytest.approx(20, abs=1e-5)
    with pytest.raises(ValueError, match=r"\(3, 3, 4, 4\) and \(1, 3, 4, 4\)"):
        psnr(a, b[:1])


def test_ssim_is_the_mean_over_gaussian_windows() -> None:
    """Against a double loop over windows, as the paper and scikit-image define it."""
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, (2, 13, 15))
    b = 0.7 * a + 0.3 * rng.uniform(-1, 1, a.shape) + 0.1
    g = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(g, g) / np.outer(g, g).sum()
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    values = []
    for p, q in zip(a, b, strict=True):
        for i in range(13 - 10):
            for j in range(15 - 10):
                x, y = p[i : i + 11, j : j + 11], q[i : i + 11, j : j + 11]
                mx, my = (window * x).sum(), (window * y).sum()
                vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
                cov = (window * (x - mx) * (y - my)).sum()
                top = (2 * mx * my + c1) * (2 * cov + c2)
                values.append(top / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    ours = ssim(torch.from_numpy(a)[None], torch.from_numpy(b)[None])
    assert ours.tolist() == pytest.approx([np.mean(values)], rel=1e-10)
    assert ssim(torch.from_numpy(a)[None], torch.from_numpy(a)[None]).item() == pytest.approx(1)
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(torch.zeros(1, 3, 10, 20), torch.zeros(1, 3, 10, 20))


def test_ssim_of_flat_pictures_is_their_luminance() -> None:
    a, b = torch.full((1, 3, 12, 12), 0.5), torch.full((1, 3, 12, 12), -0.1)
    c1 = 0.02**2
    assert ssim(a, b).item() == pytest.approx((2 * 0.5 * -0.1 + c1) / (0.25 + 0.01 + c1), rel=1e-6)


# ------------------------------------------------------------------------------------ matching


def thing(kind: str, colour: str, x: float, y: float = 0.7, size: float = 0.35) -> Thing:
    return Thing(kind, colour, "plain", x, y, size)


def found(kind: str, colour: str, x: float, y: float = 0.7) -> Detection:
    return Detection(kind, colour, "plain", x, y, 0.9)


PAIR = Scene("day", "sand", (thing("house", "blue", 0.75), thing("cat", "red", 0.25)))


def verdicts(scene: Scene, *things: Detection) -> list[tuple[bool, ...]]:
    """(kind, colour, side) of each thing of the scene."""
    return [tuple(v) for v in matches(scene, Reading(things, "day", "sand")).things]


def test_a_true_page_is_right_in_any_order_of_detections() -> None:
    house, cat = found("house", "blue", 0.7), found("cat", "red", 0.3)
    assert verdicts(PAIR, house, cat) == verdicts(PAIR, cat, house) == [(True, True, True)] * 2
    match = matches(PAIR, Reading((house, cat), "day", "sea"))
    assert (match.sky, match.ground, match.number) == (True, False, True)
    assert match.all_right(ground=False)
    assert not match.all_right()


def test_swapped_colours_sides_and_missing_things_are_wrong() -> None:
    swapped = verdicts(PAIR, found("house", "red", 0.7), found("cat", "blue", 0.3))
    assert swapped == [(True, False, True)] * 2
    mirrored = verdicts(PAIR, found("house", "blue", 0.3), found("cat", "red", 0.7))
    assert mirrored == [(True, True, False)] * 2
    alone = verdicts(PAIR, found("cat", "red", 0.3))
    assert alone == [(False, False, False), (True, True, False)]  # no house to be left of
    assert verdicts(PAIR) == [(False, False, False)] * 2
    beside = verdicts(PAIR, found("house", "blue", 0.52), found("cat", "red", 0.5))
    assert beside == [(True, True, False)] * 2  # a hair's breadth is no side
    half = verdicts(PAIR, found("car", "blue", 0.7), found("cat", "red", 0.3))
    assert half == [(False, True, True), (True, True, True)]


def test_each_find_counts_once_and_more_finds_than_things_are_noticed() -> None:
    twins = Scene("day", "sand", (thing("cat", "red", 0.25), thing("cat", "red", 0.75)))
    assert verdicts(twins, found("cat", "red", 0.3))[0] == (True, True, False)
    assert verdicts(twins, found("cat", "red", 0.3))[1] == (False, False, False)
    two = found("cat", "red", 0.3), found("cat", "red", 0.7)
    assert verdicts(twins, *two) == [(True, True, True)] * 2
    stacked = found("cat", "red", 0.5, 0.3), found("cat", "red", 0.5, 0.8)  # "two red cats"
    assert verdicts(twins, *stacked) == [(True, True, True)] * 2
    crowd = Reading((*two, found("car", "pink", 0.5)), "day", "sand")
    match = matches(twins, crowd)
    assert [v.right for v in match.things] == [True, True]
    assert not match.number
    assert not match.all_right()


def test_above_in_front_a_row_and_one_alone() -> None:
    bird, boat = thing("bird", "pink", 0.5, 0.2), thing("boat", "black", 0.55, 0.75)
    above = Scene("day", "sea", (boat, bird))
    seen = found("boat", "black", 0.5, 0.7), found("bird", "pink", 0.5, 0.3)
    assert verdicts(above, *seen) == [(True, True, True)] * 2
    upside_down = found("boat", "black", 0.5, 0.3), found("bird", "pink", 0.5, 0.7)
    assert verdicts(above, *upside_down) == [(True, True, False)] * 2

    front = Scene("day", "sea", (thing("cat", "red", 0.4, 0.8), thing("car", "red", 0.55, 0.5)))
    seen = found("cat", "red", 0.4, 0.8), found("car", "red", 0.55, 0.5)
    assert verdicts(front, *seen) == [(True, True, True)] * 2
    assert verdicts(front, seen[0]._replace(y=0.4), seen[1]) == [(True, True, False)] * 2

    row = Scene("day", "sea", tuple(thing(k, "red", x) for k, x in zip(KINDS, (0.8, 0.2, 0.5))))  # noqa: B905
    seen = tuple(found(t.kind, "red", t.x) for t in row.things)
    assert verdicts(row, *seen) == [(True, True, True)] * 3
    wrong = seen[0]._replace(x=0.35), *seen[1:]  # house and car have changed places
    right = [kind and colour and side for kind, colour, side in verdicts(row, *wrong)]
    assert right == [False, True, False]

    one = Scene("day", "sea", (thing("cat", "red", 0.2),))
    assert verdicts(one, found("cat", "red", 0.9)) == [(True, True, True)]


# ------------------------------------------------------------------------- captions and counts


def test_only_what_the_caption_names_is_asked_for() -> None:
    assert named_surroundings("at dusk, a red cat on the beach") == ("sunset", "sand")
    assert named_surroundings("two red stars under the stars") == ("night", None)
    assert named_surroundings("in the snow, a blue fish") == (None, "snow")
    assert named_surroundings("a red car to the left of a blue boat") == (None, None)
    for split in ("test", "held_out"):
        asked = prompt_cases(split, 60)
        named = [named_surroundings(one.caption) for one in asked]
        assert all(sky in (None, one.scene.sky) for (sky, _), one in zip(named, asked, strict=True))
        assert all(g in (None, one.scene.ground) for (_, g), one in zip(named, asked, strict=True))
        assert {len(one.scene.things) for one in asked} == {1, 2}
        pairs = [{(t.kind, t.colour) for t in one.scene.things} for one in asked]
        assert all(bool(p & HELD_OUT_PAIRS) == (split == "held_out") for p in pairs)
    assert prompt_cases("test", 60)[:5] == prompt_cases("test", 5)


def test_wilson_interval_and_its_clusters() -> None:
    single = interval([[True]] * 8 + [[False]] * 2)
    assert single.rate == 0.8
    assert single.cases == 10
    assert (single.low, single.high) == pytest.approx((0.4902, 0.9433), abs=0.02)
    # Saying everything twice is no new evidence.
    double = interval([[True, True]] * 8 + [[False, False]] * 2)
    assert double.cases == 20
    assert (double.low, double.high) == pytest.approx((single.low, single.high))
    assert interval([[True]] * 100).high == pytest.approx(1)
    assert interval([[True]] * 100).low == pytest.approx(0.963, abs=1e-3)
    assert math.isnan(interval([]).rate)


class Copyist:
    """Stands in for a model: knows the scene of every caption and draws it."""

    spec = SimpleNamespace(size=64)

    def __init__(self, asked: list[accuracy.PromptCase], mistake: int = 0) -> None:
        scenes = [one.scene for one in asked]
        scenes = scenes[mistake:] + scenes[:mistake]
        self.scene = dict(zip((one.caption for one in asked), scenes, strict=True))
        self.seeds: list[int] = []

    def text_to_image(self, texts: list[str], seed: int, **_: object) -> list[Image.Image]:
        self.seeds += range(seed, seed + len(texts))
        return [render(self.scene[text], 64) for text in texts]


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


def test_a_model_that_draws_the_truth_scores_full_and_a_shuffled_one_by_chance(
    judge: Judge,
) -> None:
    asked = prompt_cases("test", 120)
    model = Copyist(asked)
    outcomes = caption_accuracy(model, judge, asked, seeds=2, batch=50)
    assert model.seeds == list(range(240))
    assert [o.number for o in outcomes[118:122]] == [118, 119, 0, 1]
    truth = rates(outcomes)
    assert truth["right"].rate >= 0.98
    shuffled = rates(caption_accuracy(Copyist(asked, mistake=7), judge, asked))
    assert shuffled["right"].rate <= 0.05
    assert shuffled["kind"].rate <= 0.25  # the best of up to two finds, 1 in 16 each
    assert 0.08 <= shuffled["sky"].rate <= 0.35  # 1 in 5
    assert 0.08 <= shuffled["ground"].rate <= 0.35
    assert shuffled["page"].rate == 0


def test_legends_of_a_contact_sheet_are_whole_and_inside() -> None:
    """Captions have up to thirty words: none is lost, and no line leaves its cell."""
    asked = prompt_cases("test", 60)
    blind = Reading((), "night", "grass")
    outcomes = [
        accuracy.Outcome(k, k, one, render(one.scene, 64), matches(one.scene, blind))
        for k, one in enumerate(asked)
    ]
    font = ImageFont.load_default(size=11)
    missing = bytes(font.getmask("\u0378"))  # no character: the font draws its box
    gap, height, size = 10, 13, 128
    below = [contact_sheets.legend(outcome, size, font) for outcome in outcomes]
    for outcome, (black, red) in zip(outcomes, below, strict=True):
        assert " ".join(black) == f"{outcome.case.caption} (seed {outcome.seed})"
        assert black[-1].endswith(f"(seed {outcome.seed})"), "the seed stands on two lines"
        assert " ".join(red).startswith("not ")
        assert missing not in {bytes(font.getmask(c)) for c in "".join(black + red)}
        assert max(font.getlength(line) for line in black + red) <= size + gap
    page = contact_sheets.contact_sheet(outcomes)
    lines = max(len(black) + len(red) for black, red in below)
    assert page.size == (6 * (size + gap) + gap, 10 * (size + lines * height + gap) + gap)
    margins = np.asarray(page.convert("L"))
    assert (margins[-gap // 2 :] == 255).all(), "the last row's legend is cut below"
    assert (margins[:, -gap // 2 :] == 255).all(), "the last column's legend is cut"
    longest = max(range(60), key=lambda k: sum(map(len, below[k])))
    alone = contact_sheets.contact_sheet([outcomes[longest]])
    inked = (np.asarray(alone.convert("L"))[size + gap :] < 128).any(1)
    blocks = (np.diff(inked.astype(int)) == 1).sum()
    assert blocks >= sum(map(len, below[longest])), "a line of the legend is missing"


def test_renders_stand_above_what_became_of_them() -> None:
    asked, blind = prompt_cases("test", 3), Reading((), "night", "grass")
    greys = [Image.new("RGB", (64, 64), (k, 120, 150)) for k in range(3)]
    outcomes = [
        accuracy.Outcome(k, k, one, grey, matches(one.scene, blind))
        for k, (one, grey) in enumerate(zip(asked, greys, strict=True))
    ]
    page = np.asarray(contact_sheets.reconstruction_sheet(outcomes, columns=2))
    cells = [[page[8 + 264 * r :][:256, 8 + 264 * c :][:, :256] for c in (0, 1)] for r in range(4)]
    for column, k in (0, 0), (1, 1), (0, 2):
        row = 2 * (k // 2)
        true = render(asked[k].scene, 64).resize((256, 256), Image.Resampling.NEAREST)
        assert (cells[row][column] == np.asarray(true)).all()
        assert (cells[row + 1][column] == (k, 120, 150)).all()
    assert page.shape == (4 * 264 + 8, 2 * 264 + 8, 3)


def test_a_sheet_keeps_every_colour(tmp_path: Path) -> None:
    """With a palette for the whole sheet some yellow things were orange."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    contact_sheets.save(Image.fromarray(pixels), tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert (np.asarray(sheet.convert("RGB")) == pixels).all()


# ----------------------------------------------------------------------------------- the judge


def test_the_shipped_judge_reads_fresh_pages(judge: Judge) -> None:
    parameters = sum(p.numel() for p in judge.parameters())
    assert parameters <= 500_000
    scenes = [sample_scene(random.Random(f"fresh-{k}"), SPLITS[k % 3]) for k in range(210)]
    readings = judge.read([render(scene, 64) for scene in scenes])
    results = [matches(scene, r) for scene, r in zip(scenes, readings, strict=True)]
    right = [verdict.right for result in results for verdict in result.things]
    assert np.mean(right) >= 0.98
    for fact in ("sky", "ground", "number"):
        assert np.mean([getattr(result, fact) for result in results]) >= 0.98
    middles = [
        min(math.hypot(d.x - t.x, d.y - t.y) for d in r.things)
        for scene, r in zip(scenes, readings, strict=True)
        for t in scene.things
        if r.things
    ]
    assert np.median(middles) <= 0.03


def test_the_judge_is_strict_on_colour_and_forgives_blur(judge: Judge) -> None:
    asked = prompt_cases("test", 100)

    def rate(pictures: list[Image.Image], fact: str) -> float:
        return rates(accuracy.judge_images(judge, asked, pictures, range(100)))[fact].rate

    def recoloured(scene: Scene) -> Scene:
        following = {c: COLOURS[(k + 1) % 8] for k, c in enumerate(COLOURS)}
        # Neighbours among the colours: red and orange, blue and purple, pink and black ...
        moved = tuple(replace(t, colour=following[t.colour]) for t in scene.things)
        return replace(scene, things=moved)

    off = [render(recoloured(one.scene), 64) for one in asked]
    assert rate(off, "colour") <= 0.1
    assert rate(off, "kind") >= 0.97
    soft = [
        render(one.scene, 64).resize((32, 32), Image.Resampling.BOX).resize((64, 64))
        for one in asked
    ]
    assert rate(soft, "right") >= 0.9


def test_decoding_puts_peaks_into_words() -> None:
    """Three peaks in hand-made logits: one too weak, two next to each other of which one stays."""
    judge = Judge()

    def grid(channels: int) -> torch.Tensor:
        return torch.full((1, channels, 16, 16), -8.0)

    centre, kind, colour, pattern, offset = grid(1), grid(16), grid(8), grid(3), grid(2)
    offset[:] = 0.5
    centre[0, 0, 4, 10] = 3.0
    centre[0, 0, 5, 10] = 2.0  # the same thing
    centre[0, 0, 12, 3] = 1.0
    centre[0, 0, 14, 14] = -2.0  # below the threshold
    kind[0, KINDS.index("cat"), 4, 10] = colour[0, COLOURS.index("pink"), 4, 10] = 5.0
    kind[0, KINDS.index("boat"), 12, 3] = colour[0, COLOURS.index("red"), 12, 3] = 5.0
    offset[0, :, 4, 10] = torch.tensor([0.25, 0.75])
    sky, ground = torch.eye(5)[3:4], torch.eye(5)[1:2]
    judge.forward = lambda x: Logits(centre, kind, colour, pattern, offset, sky, ground)  # type: ignore[method-assign]
    (reading,) = judge.read(torch.zeros(1, 3, 64, 64))
    assert (reading.sky, reading.ground) == ("night", "sand")
    assert [(d.kind, d.colour) for d in reading.things] == [("cat", "pink"), ("boat", "red")]
    cat = reading.things[0]
    assert (cat.x, cat.y) == pytest.approx((10.25 / 16, 4.75 / 16))
    assert cat.score == pytest.approx(1 / (1 + math.exp(-3)))

    near = [found("cat", "red", 0.5), found("cat", "pink", 0.55)._replace(score=0.99)]
    assert distinct(near) == (near[1],)


def test_a_judge_is_written_in_half_precision_and_read_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge = Judge(JudgeConfig(channels=(8, 16, 24), threshold=0.4))
    save_judge(judge, tmp_path, recipe={"steps": 3})
    again = load_judge(tmp_path)
    assert again.config == judge.config
    assert not again.training
    error = (again.conv.weight - judge.conv.weight).norm() / judge.conv.weight.norm()
    assert 1e-6 < error.item() < 1e-3
    (tmp_path / "judge.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"judge\.safetensors"):
        load_judge(tmp_path)


# ------------------------------------------------------------------------------ its training


def test_its_pages_are_its_own_and_hold_every_pair() -> None:
    settings = override(recipe.RECIPES["small"], {"scenes": 200})
    things, _, _ = recipe.labels(settings)
    assert things.shape == (600, 3, 5)
    first = training_scene(0, "train", recipe.SEEDS["train"])
    assert things[0, 0, :2] == pytest.approx((first.things[0].x, first.things[0].y))
    assert KINDS[int(things[0, 0, 2])] == first.things[0].kind
    kinds, colours = things[..., 2], things[..., 3]
    seen = {(KINDS[int(k)], COLOURS[int(c)]) for k, c in zip(kinds.flat, colours.flat) if k >= 0}  # noqa: B905
    assert seen >= HELD_OUT_PAIRS
    assert recipe.SEEDS["train"] != 0  # the seed of what the other parts train on


def test_disturbances_move_blur_and_coarsen_as_they_say() -> None:
    x = as_tensor([render(prompt_cases("test", 1)[0].scene, 64)])
    off = override(
        recipe.RECIPES["small"],
        {"blur": 0.3, "noise": 0.0, "tint": 0.0, "brightness": 0.0, "blocks": 0.0},
    )
    for step in range(5):
        moved, by = recipe.augment(x, off, step)
        right, down = (round(64 * v) for v in by.tolist())
        inner = moved[..., 8 + down : 56 + down, 8 + right : 56 + right]
        assert (inner - x[..., 8:56, 8:56]).abs().mean() <= 0.02
    assert torch.equal(recipe.augment(x, off, 1)[0], recipe.augment(x, off, 1)[0])

    assert (recipe.quantise_dct(x, torch.zeros(1, 1, 1, 1)) - x).abs().max() <= 0.01
    flat = recipe.quantise_dct(x, torch.full((1, 1, 1, 1), 1e3))
    assert flat.abs().max() == 0  # every coefficient rounds to nothing
    dot = torch.zeros(1, 1, 15, 15)
    dot[0, 0, 7, 7] = 1
    spread = recipe.blurred(dot.expand(1, 3, 15, 15), 1.0)[0, 0]
    assert spread.sum().item() == pytest.approx(1, abs=1e-5)
    assert spread[7, 7].item() == pytest.approx(1 / (2 * math.pi), rel=0.01)
    assert spread[7, 8].item() == pytest.approx(math.exp(-0.5) / (2 * math.pi), rel=0.01)


def test_the_loss_knows_where_things_are() -> None:
    """Perfect logits cost nearly nothing; the same one cell away, or in other colours, much."""
    settings = override(recipe.RECIPES["small"], {"scenes": 5})
    things, skies, grounds = (torch.from_numpy(x) for x in recipe.labels(settings))
    n = len(things)
    centre = torch.full((n, 1, 16, 16), -9.0)
    kind, colour = torch.zeros(n, 16, 16, 16), torch.zeros(n, 8, 16, 16)
    pattern, offset = torch.zeros(n, 3, 16, 16), torch.zeros(n, 2, 16, 16)
    for b, row in enumerate(things):
        for x, y, *names in row[row[:, 2] >= 0].tolist():
            i, j = int(16 * y), int(16 * x)
            centre[b, 0, i, j] = 9.0
            offset[b, :, i, j] = torch.tensor([16 * x % 1, 16 * y % 1])
            near = slice(i - 1, i + 2), slice(j - 1, j + 2)
            for logits, name in zip((kind, colour, pattern), names, strict=True):
                logits[b, int(name), near[0], near[1]] = 20.0
    sky, ground = 20 * torch.eye(5)[skies], 20 * torch.eye(5)[grounds]
    good = Logits(centre, kind, colour, pattern, offset, sky, ground)
    losses = recipe.judge_loss(good, things, skies, grounds)
    assert losses["loss"] <= 0.05
    moved = good._replace(centre=centre.roll(2, dims=3))
    assert recipe.judge_loss(moved, things, skies, grounds)["centre"] >= 5
    dyed = good._replace(colour=colour.roll(1, dims=1))
    assert recipe.judge_loss(dyed, things, skies, grounds)["colour"] >= 5


def test_a_short_training_learns(tmp_path: Path) -> None:
    settings = override(recipe.RECIPES["small"], {"scenes": 30, "steps": 24, "batch": 8})
    job = recipe.make_job(settings, tmp_path / "cache", torch.device("cpu"))
    losses = [metrics["loss"] for metrics in train(job, settings.steps)]
    assert np.mean(losses[-5:]) <= 0.75 * np.mean(losses[:5])
    assert job.samples is not None
    assert job.samples().size == (2 * (12 * 66 + 2), 2 * (2 * 66 + 2))
    recipe.export(job, settings, tmp_path / "cache", tmp_path / "out")
    assert load_judge(tmp_path / "out").config.channels == settings.channels
    assert json.loads((tmp_path / "out/judge.json").read_text())["recipe"]["steps"] == 24


# ------------------------------------------------------------------- what the text encoder knows


def test_what_is_read_off_the_states_is_counted_thing_by_thing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = accuracy.prompt_cases("test", 12)
    wanted = torch.tensor([text_probe.scene_labels(one.scene) for one in asked])
    pairs = [k for k, one in enumerate(asked) if len(one.scene.things) == 2]
    things = sum(len(one.scene.things) for one in asked)
    assert 0 < len(pairs) < len(asked)
    monkeypatch.setattr(
        text_probe, "embed_captions", lambda text, captions: torch.zeros(len(captions), 1)
    )

    def answering(said: torch.Tensor) -> dict[str, accuracy.Rate]:
        def read(states: torch.Tensor) -> list[torch.Tensor]:
            return [F.one_hot(said[..., n].clamp(min=0), 16).float() for n in range(3)]

        return text_probe.text_accuracy(read, None, asked)  # type: ignore[arg-type]

    assert [rate.rate for rate in answering(wanted).values()] == [1, 1, 1, 1]
    assert answering(wanted)["side"].cases == 2 * len(pairs)
    wrong = wanted.clone()
    wrong[pairs[0], 1, 0] = (wrong[pairs[0], 1, 0] + 1) % 16  # the kind of a second thing
    wrong[pairs[1], 0, 2] = (wrong[pairs[1], 0, 2] + 1) % 3
    rate = answering(wrong)
    assert (rate["kind"].rate, rate["kind"].cases) == (1 - 1 / things, things)
    assert rate["colour"].rate == 1
    assert rate["side"].rate == 1 - 1 / (2 * len(pairs))
    assert rate["right"].rate == 1 - 2 / things


def test_the_reader_is_told_what_the_scene_shows() -> None:
    left = Thing("cat", "red", "plain", 0.25, 0.7, 0.35)
    right = Thing("star", "pink", "plain", 0.75, 0.2, 0.3)
    asked = text_probe.scene_labels(Scene("day", "sand", (right, left)))  # whatever their order
    assert [KINDS[kind] for kind, _, _ in asked] == ["cat", "star"]
    assert [COLOURS[colour] for _, colour, _ in asked] == ["red", "pink"]
    assert [text_probe.RELATIONS[way] for _, _, way in asked] == ["left", "left"]
    assert (
        text_probe.scene_labels(Scene("day", "sand", (left,)))[1] == [text_probe.IGNORE_INDEX] * 3
    )


def test_a_reader_learns_and_leaves_the_random_state_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_probe, "NUM_CAPTIONS", 400)
    monkeypatch.setattr(text_probe, "STEPS", 60)
    sd = StableDiffusion.from_pretrained(data_folder("storybook"))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    rates = text_probe.text_accuracy(
        text_probe.train_probe(sd.text), sd.text, accuracy.prompt_cases("test", 100)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert rates["colour"].rate > 0.3  # by chance, one in eight
    assert rates["kind"].rate > 0.2  # one in sixteen


# --------------------------------------------------------------------------- sdlearn evaluate


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole tiny model of random weights; pages are drawn from 32 pixels on."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_diffusers().save_pretrained(folder)
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | {"sample_size": 16}))
    return folder


def test_one_of_a_kind_is_no_plural() -> None:
    said = [tables.counted(n, "seed") for n in (1, 2, 11)]
    assert said == ["1 seed", "2 seeds", "11 seeds"]


def test_evaluate_prints_and_writes_its_figures(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    command = ["evaluate", "--model", str(model), "--n", "4", "--steps", "2", "--guidance", "1.5"]
    assert main([*command, "--seeds", "2", "--sheet", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert (figures["captions"], figures["seeds"], figures["guidance"]) == (4, 2, 1.5)
    assert list(figures["splits"]) == ["test"]
    measured = figures["splits"]["test"]
    assert measured["renders"]["page"]["cases"] == 4
    assert measured["pictures"]["page"]["cases"] == 8
    assert measured["renders"]["right"]["rate"] > measured["pictures"]["right"]["rate"]
    assert 0 < measured["vae"]["psnr"] < 20
    printed = capsys.readouterr().out
    assert f"PSNR {measured['vae']['psnr']:.2f} dB" in printed
    assert "4 captions × 2 seeds, guidance 1.5, 2 steps of ddim" in printed
    for name in ("unchosen.png", "worst.png"):
        with Image.open(tmp_path / name) as sheet:
            assert sheet.width > 8 * 16


def test_the_card_says_what_was_measured(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (report, tables, card, contact_sheets):
        monkeypatch.setattr(module, "GUIDANCES", (1.0, 5.0))
    for module in (report, tables, card, contact_sheets):
        monkeypatch.setattr(module, "STEPS", (1, 2))
    monkeypatch.setattr(text_probe, "NUM_CAPTIONS", 64)
    monkeypatch.setattr(text_probe, "STEPS", 3)
    run = tmp_path / "run"
    run.mkdir()
    settings = {"batch": 10, "lr": 1e-3, "scenes": 50, "init": "runs/first", "min_snr": 3.0}
    record = {"part": "unet", "recipe": "storybook", "settings": settings, "note": "By hand."}
    record["machine"] = {"device": "cpu", "threads": 2, "torch": "2.13.0"}
    record["settings"]["steps"] = 9000
    (run / "recipe.json").write_text(json.dumps(record))
    rows = [{"step": k, "images_per_second": 0.5} for k in range(1, 1234)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    command = ["evaluate", "--model", str(model), "--n", "3", "--steps", "2"]
    assert main([*command, "--card", "--table", "2", "--runs", str(run)]) == 0
    text = (model / "README.md").read_text()
    figures = json.loads((model / "metrics.json").read_text())
    assert set(figures["splits"]) == {"test", "held_out"}
    for name, split in figures["splits"].items():
        assert tables.percent(split["pictures"]["right"], True) in text
        assert f"{split['vae']['psnr']:.2f} dB" in text
        assert f"| {tables.percent(split['text']['kind'])} |" in text
        cells = {(cell["guidance"], cell["steps"]): cell["pictures"] for cell in split["table"]}
        assert sorted(cells) == [(1.0, 1), (1.0, 2), (5.0, 1), (5.0, 2)]
        assert all(cell["page"]["cases"] == 2 for cell in cells.values())
        for fact in ("right", "sky", "ground", "page"):
            row = (tables.percent(cells[5.0, n].get(fact)) for n in (1, 2))
            assert f"| 5 | {' | '.join(row)} |" in text
        quick, usual = split["quick"]
        assert (quick["sampler"], quick["steps"]) == ("dpm_pp_2m", 10)
        assert (usual["sampler"], usual["steps"]) == ("ddim", 2)
        for made in quick, usual:
            assert made["pictures"]["page"]["cases"] == 3
            rates = [tables.percent(made["pictures"].get(f), True) for f in ("right", "page")]
            row = f"{made['steps']} steps of {made['sampler']} | {' | '.join(rates)}"
            assert f"| {name.replace('_', '-')} | {row} |" in text
    machine = "cpu, 2 threads, torch 2.13.0"
    row = f"| run | unet | runs/first | 1,233 of 9,000 | 10 | 0.001 | 50 | 6.8 h | {machine} |"
    assert row in text  # 1233 * 10 / 0.5 s
    assert "run: By hand.\n" in text
    assert "together\n6.8 h on CPUs and none on accelerators." in text
    (again,) = (line for line in text.splitlines() if line.startswith("sdlearn train"))
    assert again.startswith("sdlearn train unet --recipe storybook --out runs/run ")
    # It was made before times could crowd, whatever the recipe says today.
    for changed in (
        "--batch 10",
        "--init runs/first",
        "--scenes 50",
        "'min_snr=3.0'",
        "'t_std=0.0'",
    ):
        assert f" {changed}" in again
    assert "--lr" not in again
    for name in ("table.png", "autoencoder.png", "unchosen.png", "worst.png"):
        assert f"({name})" in text
        assert (model / name).stat().st_size > 1000
    assert "--sampler ddim --table 2\n" in text
    assert "Accuracy on 2 captions of each split" in text

    later = run.rename(tmp_path / "later")  # the folder of the first run is gone by now
    assert main([*command, "--card", "--runs", str(later)]) == 0
    assert main([*command, "--card"]) == 0  # remembers the runs; the table is of another time
    again = (model / "README.md").read_text()
    assert again.index(row) < again.index(row.replace("| run |", "| later |"))
    assert again.count("sdlearn train") == 2
    assert "table.png" not in again
    assert not (model / "table.png").exists()


def test_the_widest_interval_of_good_rates() -> None:
    def cell(rate: float, low: float, high: float) -> dict[str, Any]:
        return {"pictures": {"right": {"rate": rate, "low": low, "high": high}}}

    table = [cell(0.95, 0.93, 0.96), cell(0.9, 0.87, 0.92), cell(0.5, 0.4, 0.6)]
    assert card.widest_interval({"splits": {"test": {"table": table}}}) == pytest.approx(3.0)


def test_the_card_compares_the_default_guidance_scale_with_the_measured_one() -> None:
    folder = data_folder("storybook")
    figures = json.loads((folder / "metrics.json").read_text())
    sd = SimpleNamespace(spec=SPECS["storybook"])
    rates = {
        cell["guidance"]: 100 * cell["pictures"]["right"]["rate"]
        for cell in figures["splits"]["test"]["table"]
        if cell["steps"] == 30
    }
    assert sd.spec.guidance_scale == 3
    assert rates[3.0] > rates[5.0] + 1
    told = card.default_scale(sd, figures)
    assert f"scale is 3. With 30 steps and the test\ncaptions, {rates[3.0]:.1f} % of" in told
    assert f"{rates[5.0]:.1f} % at 5.\n" in told
    assert told in (folder / "README.md").read_text(encoding="utf-8")
    readme = (folder.parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"{rates[3.0]:.1f} %\nof objects against {rates[5.0]:.1f} %" in readme
    assert card.default_scale(sd, figures | {"guidance": 3.0}) == ""


def test_the_shipped_card_repeats_the_runs_that_made_the_weights() -> None:
    """Its commands are read as anybody's are, and ask for exactly what the runs recorded."""
    folder = data_folder("storybook")
    runs = json.loads((folder / "training.json").read_text())["runs"]
    lines = [
        shlex.split(line)[1:]
        for line in (folder / "README.md").read_text().splitlines()
        if line.startswith("sdlearn train ")
    ]
    assert len(lines) == len(runs)
    made = set()
    for line, run in zip(lines, runs, strict=True):
        args = parse(line)
        assert (args.part, Path(args.out).name) == (run["part"], run["run"])
        module = import_module(f"sdlearn.recipes.{args.part}")
        asked = json.loads(json.dumps(vars(resolve_recipe(args, module, Path("nowhere")))))
        for name, value in run["settings"].items():
            assert asked.get(name, 0) == value, (run["run"], name)  # or one that is gone, and was 0
        builds_on = {run["settings"][key] for key in ("init", "vae", "text") if asked.get(key)}
        assert builds_on <= made  # by the runs before it
        made.add(args.out)
    frozen = [run for run in runs if run["part"] == "unet"][-1]["frozen"]
    assert frozen["text"] == weights_key(folder / "text_encoder")


def test_bad_input_is_one_sentence(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong, sentence in (
        (["--n", "0"], "--n is 0; it must be at least 1"),
        (["--table", "-1"], "--table is -1; it must be at least 1"),
        (["--n", "2", "--table", "3"], "--table is 3; accepted: at most --n, which is 2"),
        (["--out", "figures.txt"], "must end in .json"),
        (["--model", str(tmp_path / "nowhere")], "nowhere"),
        (["--model", str(model), "--sampler", "magic"], "magic"),
        (["--model", str(model), "--n", "2", "--runs", str(tmp_path), "--card"], "recipe.json"),
    ):
        assert main(["evaluate", *wrong]) == 2
        error = capsys.readouterr().err
        assert sentence in error
        assert error.strip().splitlines()[-1].startswith("sdlearn: ")
