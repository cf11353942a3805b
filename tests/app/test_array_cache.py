"""Cached arrays and captions: damaged ones are named and made again, a full disk is told."""

import json
from pathlib import Path

import numpy as np
import pytest

from sdlearn.recipes import array_cache
from sdlearn.recipes.data import load_captions, load_images
from tests.damage import cut, flip, remove, scramble, zero


@pytest.mark.parametrize("damage", [cut, zero, scramble, remove, flip, "dtype", "shape"])
def test_a_damaged_array_is_named_and_made_again(damage, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    good = np.array(load_images(3, 32, tmp_path))
    (path,) = tmp_path.glob("*.npy")
    if damage == "dtype":
        np.save(path, good.astype(np.float32))
    elif damage == "shape":
        np.save(path, good[:2])
    else:
        damage(path)
    if damage is remove:
        assert (np.array(load_images(3, 32, tmp_path)) == good).all()
        return
    with pytest.warns(UserWarning, match=r"pages-train-3-.*npy is damaged \(.*made again"):
        assert (load_images(3, 32, tmp_path) == good).all()
    assert (load_images(3, 32, tmp_path) == good).all()
    assert [path.name] == [p.name for p in tmp_path.iterdir()]


def test_an_array_without_a_checksum_is_read_as_before(tmp_path: Path) -> None:
    good = np.array(load_images(3, 32, tmp_path))
    (path,) = tmp_path.glob("*.npy")
    np.save(path, good)
    assert (load_images(3, 32, tmp_path) == good).all()


@pytest.mark.parametrize("text", ["", "[[", "\0" * 30, "[]", "[[1]]", '[["a"], ["b"]]', "{}", "7"])
def test_damaged_captions_are_named_and_made_again(text: str, tmp_path: Path) -> None:
    good = load_captions(2, tmp_path, per_scene=2)
    (path,) = tmp_path.glob("captions-*.json")
    path.write_text(text)
    with pytest.warns(UserWarning, match=r"captions-.*json is damaged; it is made again"):
        assert load_captions(2, tmp_path, per_scene=2) == good
    assert json.loads(path.read_text()) == good


def test_a_full_disk_is_told_before_an_array_is_filled(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def full(handle: int, offset: int, amount: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(array_cache.os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left on device"):
        load_images(3, 32, tmp_path)
    assert not list(tmp_path.iterdir())
