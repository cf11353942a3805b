"""Pickles that are small and would keep a program busy for ever are refused at once."""

import time
import zipfile

import pytest
import torch

from sdlearn.weights import tensor_files
from sdlearn.weights.tensor_files import open_weights


def doubled(times: int) -> bytes:
    """A tuple of two tuples of two tuples …: all of them the same one, by way of the memo."""
    return b"K\x01" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(times))


FOR_EVER = {
    "a key of 2^60 objects": b"\x80\x02}" + doubled(60) + b"Ns.",
    "a key of 255^9 objects": b"\x80\x02}K\x01"
    + b"".join(b"q%c(" % n + b"h%c" % n * 255 + b"t" for n in range(9))
    + b"Ns.",
    "a set with such an object": b"\x80\x02c__builtin__\nset\n]" + doubled(60) + b"a\x85R.",
    "millions of instructions": b"\x80\x02" + b"N0" * 3_000_000 + b"}.",
}


def archive(path, pickle):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle)
        file.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize("kind", FOR_EVER)
def test_pickles_that_never_end(tmp_path, kind):
    """Python finds the place of a key by visiting all that is in it, which nothing interrupts."""
    path = archive(tmp_path / "bomb.ckpt", FOR_EVER[kind])
    assert path.stat().st_size < 20_000
    before = time.monotonic()
    with pytest.raises(ValueError, match=r"bomb\.ckpt is not a pickle of tensors alone"):
        open_weights(path)
    assert time.monotonic() - before < 20


def test_keys_of_the_usual_kind(tmp_path):
    inner = tuple((n, (str(n), (n, n))) for n in range(100))
    content = {"state_dict": {"a": torch.ones(2)}, "callbacks": {inner: 1, (inner, inner): 2}}
    torch.save(content, tmp_path / "model.ckpt")
    assert open_weights(tmp_path / "model.ckpt")["a"].read().tolist() == [1, 1]


def test_an_archive_that_unpacks_to_more_than_memory_holds(tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "whole.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "whole.ckpt") as whole,
        zipfile.ZipFile(tmp_path / "small.ckpt", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for entry in whole.infolist():
            small.writestr(entry.filename, whole.read(entry))
    assert open_weights(tmp_path / "small.ckpt")["a"].read().sum() == 0
    monkeypatch.setattr(tensor_files, "free_memory", lambda: 3_000_000)
    assert open_weights(tmp_path / "whole.ckpt")["a"].shape == (1_000_000,)  # read in pieces
    with pytest.raises(
        ValueError, match=r"unpacks to 3\.8 MiB, but only 2\.9 MiB of memory is free"
    ):
        open_weights(tmp_path / "small.ckpt")


def test_names_that_are_no_strings(tmp_path):
    torch.save({1: torch.ones(2)}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="it has 1 where the name of a tensor is expected"):
        open_weights(tmp_path / "model.ckpt")
