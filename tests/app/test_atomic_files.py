"""Files and folders are whole or absent, whatever happens while they are written."""

import os
from pathlib import Path

import pytest

from sdlearn.utils.atomic_files import add_folder, atomic_write, recover_folder, replace_folder


def test_writing_flushes_before_it_renames(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    order: list[str] = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("flush"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("rename"), replace(a, b)))
    with atomic_write(tmp_path / "a.json") as part:
        part.write_text("{}")
    assert order == ["flush", "rename", "flush"]  # the file, its name, the folder


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_write(path) as first:
        first.write_text("first")
        with atomic_write(path) as second:
            assert second != first
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_is_never_lost_while_it_is_replaced(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "export"
    replace_folder(folder, lambda part: (part / "a").write_text("old"))  # type: ignore[arg-type, return-value]

    def broken(part: Path) -> None:
        (part / "a").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_folder(folder, broken)
    assert (folder / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    os.rename(folder, tmp_path / ".export.old")  # as if killed between the two renames
    recover_folder(folder)
    assert (folder / "a").read_text() == "old"
    replace_folder(folder, lambda part: (part / "a").write_text("new"))  # type: ignore[arg-type, return-value]
    assert (folder / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_two_processes_that_make_one_folder_keep_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"

    def first(part: Path) -> None:
        (part / "a").write_text("first")

    def second(part: Path) -> None:
        (part / "a").write_text("second")
        add_folder(folder, first)

    add_folder(folder, second)
    assert (folder / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]
