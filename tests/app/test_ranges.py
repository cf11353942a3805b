"""Settings of recipes: every one has a range, and whatever lies outside is refused by name."""

import json
from collections.abc import Iterator
from dataclasses import Field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sdlearn.cli.main import main
from sdlearn.recipes import PARTS, room, unet, vae
from sdlearn.recipes.ranges import accepted, kind_and_range
from sdlearn.recipes.recipe import Recipe, override

NAN, INF = float("nan"), float("inf")


def settings() -> Iterator[Any]:
    """(part, field) of every setting of every part."""
    for part in PARTS:
        recipe = import_module(f"sdlearn.recipes.{part}").RECIPES["small"]
        for field in fields(recipe):
            yield pytest.param(part, field, id=f"{part}-{field.name}")


def outside(field: "Field[Any]") -> list[object]:
    """Values that a setting must refuse: too small, too large, not a number, of another type."""
    kind, limits = kind_and_range(field.type)
    wrong: list[object] = [None, {}, b"1", 1j, [[1]], (1, (2,))]
    if limits is None:
        return [*wrong, 0, 1, "yes", 1.0]
    if kind is str:
        return [5, 1.5, "a\0b", "a\nb", "a" * 5000, None]
    if kind is int:
        return [*wrong, limits.low - 1, limits.high + 1, 10**400, NAN, INF, 1.5, True, "x", (1,)]
    if kind is float:
        below, above = limits.low - 1e-9, limits.high * (1 + 1e-9) + 1e-9
        return [*wrong, below, above, NAN, INF, -INF, 10**400, True, "nan", "x", (1.0,)]
    low, high = int(limits.low), int(limits.high)
    fewest, most = limits.entries
    good = (low,) * fewest
    bad: list[object] = [(entry, *good[1:]) for entry in (low - 1, high + 1, 8.0, NAN, "8", True)]
    return [*bad, (), good[1:], (low,) * (most + 1), 8, 8.0, "8", None]


@pytest.mark.parametrize(("part", "field"), list(settings()))
def test_what_lies_outside_a_range_is_refused_with_the_range(part: str, field) -> None:  # type: ignore[no-untyped-def]
    recipe = import_module(f"sdlearn.recipes.{part}").RECIPES["small"]
    for value in outside(field):
        with pytest.raises(ValueError, match=f"^{field.name} is ") as caught:
            replace(recipe, **{field.name: value})
        assert f"; accepted: {accepted(field.type)}" in str(caught.value)
        assert len(str(caught.value)) < 200
    again = override(recipe, json.loads(json.dumps(vars(recipe))))
    assert again == recipe


@pytest.mark.parametrize("part", PARTS)
def test_no_setting_lacks_a_range(part: str) -> None:
    recipe = import_module(f"sdlearn.recipes.{part}").RECIPES["small"]
    found = {field.name: kind_and_range(field.type) for field in fields(recipe)}
    assert {name for name, (kind, limits) in found.items() if limits is None} == {
        name for name, (kind, _) in found.items() if kind is bool
    }
    for kind, limits in found.values():
        assert limits is None or (limits.low < limits.high and kind in (int, float, str, *TUPLES))


TUPLES = (tuple[int, ...],)


@pytest.mark.parametrize(
    ("part", "changes", "sentence"),
    [
        ("vae", {"size": 68}, "size is 68; accepted: multiples of 8"),
        ("vae", {"norm_num_groups": 5}, "multiples of 5, norm_num_groups"),
        ("vae", {"size": 40, "block_out_channels": (8,) * 5}, "size is 40; accepted: multiples of"),
        ("unet", {"num_heads": (2,)}, "num_heads is (2,); accepted: one number for each of the 2"),
        ("unet", {"transformer_depth": (1, 1, 1)}, "transformer_depth is (1, 1, 1); accepted: one"),
        ("unet", {"block_out_channels": (64,)}, "accepted: one number for each of the 1 levels"),
        ("unet", {"block_out_channels": (64, 80)}, "block_out_channels is 80; accepted: multiples"),
        ("unet", {"block_out_channels": (48, 96)}, "(48, 96); accepted: multiples of 32"),
        ("clip", {"hidden_size": 130}, "hidden_size is 130; accepted: multiples of 4, num_heads"),
        ("clip", {"image_width": 12}, "image_width is 12; accepted: multiples of 8"),
        ("clip", {"batch": 1}, "batch is 1; accepted: 2 or more"),
        ("clip", {"batch": 33}, "batch is 33; accepted: multiples of 2"),
        ("perceptual", {"size": 40, "widths": (8,) * 5}, "size is 40; accepted: multiples of 16"),
        ("judge", {"channels": (8, 8)}, "channels is (8, 8); accepted: 3 whole numbers"),
        ("judge", {"channels": (8, 12, 8)}, "channels is (8, 12, 8); accepted: multiples of 8"),
        ("judge", {"shift": 9}, "shift is 9; accepted: at most 8, an eighth of the size"),
    ],
)
def test_settings_that_do_not_fit_each_other(part: str, changes, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="accepted") as caught:
        override(import_module(f"sdlearn.recipes.{part}").RECIPES["small"], changes)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--lr", "nan"], "lr is nan; accepted: a number from 1e-09 to 1"),
        (["--lr", "inf"], "lr is inf"),
        (["--lr", "0"], "lr is 0.0"),
        (["--lr", "-1"], "lr is -1.0"),
        (["--steps", "0"], "steps is 0; accepted: a whole number from 1 to 99999999"),
        (["--steps", "1" + 30 * "0"], "steps is 1000000000000"),
        (["--scenes", "1000000000"], "scenes is 1000000000; accepted"),
        (["--scenes", "9999999", "--set", "size=1024"], "the disk of "),
        (["--batch", "65536", "--set", "size=1024"], "one layer's output for 65536 images"),
        (["--set", f"block_out_channels={(4096,) * 6}"], "of memory; accepted: smaller ones"),
        (["--set", "ema=1.0"], "ema is 1.0; accepted: a number from 0 to 0.999999"),
        (["--set", "perceptual_start=1.1"], "perceptual_start is 1.1; accepted: a number from 0"),
        (["--set", "kl="], "kl is ''; accepted: a number"),
        (["--set", "=1"], "the recipe has no setting ''"),
        (["--set", "=" * 500], "the recipe has no setting ''"),
        (["--set", "a" * 500 + "=1"], "has no setting 'aaaaaaaaaaaa...aaaaaaaaaaaaa'"),
        (["--set", "kl=1", "--set", "kl=2"], "'kl' is given twice; accepted: one value"),
        (["--lr", "0.1", "--set", "lr=0.2"], "'lr' is given twice"),
        (["--set", "kl=__import__('os').system('false')"], "kl is \"__import__("),
        (["--set", "kl=1e999"], "kl is inf"),
        (["--set", "kl=nan"], "kl is 'nan'"),
        (["--set", "kl=" + "(" * 900], "kl is '(((("),
        (["--set", "kl=" + "-" * 900 + "1"], "kl is "),
        (["--set", "kl=" + "9" * 100_000], "kl is '9999"),
        (["--set", "kl=" + "1+" * 400 + "1"], "kl is "),
        (["--set", "norm_num_groups=4.0"], "norm_num_groups is 4.0; accepted: a whole number"),
        (["--set", "flip=true"], "flip is 'true'; accepted: True or False"),
        (["--set", "block_out_channels=8"], "accepted: 1 to 6 whole numbers in brackets"),
        (["--set", "block_out_channels=['8']"], "accepted: 1 to 6 whole numbers in brackets"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_refused_setting_makes_no_folder(
    options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a" / "run"
    args = ["train", "vae", "--recipe", "small", "--device", "cpu", "--out", str(out)]
    assert main([*args, *options]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("sdlearn: ")
    assert sentence in message
    assert len(message.splitlines()) == 1
    assert len(message) < 500
    assert not list(tmp_path.iterdir()), "not even the parent's folder or the cache"


def test_a_list_in_brackets_is_a_tuple() -> None:
    changed = override(vae.RECIPES["small"], {"block_out_channels": "[8, 16]", "kl": "1"})
    assert (changed.block_out_channels, changed.kl) == ((8, 16), 1.0)
    assert type(changed.kl) is float


def test_a_disk_too_small_for_what_is_encoded_is_told_before_the_pages_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def check_disk(folder: Path, amount: int, what: str) -> None:
        asked.append(amount)
        raise ValueError("full")

    monkeypatch.setattr("sdlearn.recipes.latent_cache.check_disk", check_disk)
    recipe = override(unet.RECIPES["small"], {"scenes": 10, "captions": 3})
    with pytest.raises(ValueError, match="full"):
        unet.make_job(recipe, tmp_path / "cache", torch.device("cpu"))
    # Bytes of pages, half-precision means and deviations, and half-precision text embeddings.
    assert asked == [10 * (32 * 32 * 3 + 2 * 2 * 4 * 4 * 4 + 3 * 2 * 77 * 128)]
    assert not (tmp_path / "cache").exists()


def test_estimates_name_amounts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pages take 1,000,000\.0 GB, and the disk of "):
        room.check_disk(tmp_path / "missing", 10**15, "pages")
    room.check_disk(tmp_path, 1, "pages")
    recipe = Recipe(steps=1, batch=2, lr=0.1, warmup=0, size=32)
    cpu = torch.device("cpu")
    total = room.memory(cpu)
    assert total is None or 10**9 < total < 10**14

    def wide() -> torch.nn.Module:
        return torch.nn.Linear(10**6, 10**6, bias=False)

    if total is not None:
        with pytest.raises(
            ValueError, match=r"1,000,000,000,000 weights, .* at least 16,000\.0 GB"
        ):
            room.check_memory(recipe, cpu, wide, 1)
    room.check_memory(recipe, cpu, lambda: torch.nn.Linear(2, 2), 8)
