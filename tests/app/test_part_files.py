"""Temporary files: those of living processes stay, those of dead ones go at the next start."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sdlearn.cli.main import main
from sdlearn.utils import part_files
from sdlearn.utils.atomic_files import add_folder, atomic_write
from sdlearn.utils.part_files import held_part, remove_abandoned
from tests.tiny_runs import POSIX, TINY

WRITER = """
import sys, time
from pathlib import Path
from sdlearn.utils.atomic_files import add_folder, atomic_write

def wait(part):
    print(part.name, flush=True)
    time.sleep(60)

if sys.argv[2] == "file":
    with atomic_write(Path(sys.argv[1], "a.npy")) as part:
        part.write_bytes(b"half")
        wait(part)
else:
    add_folder(Path(sys.argv[1], "a"), wait)
"""
DEAD = 2**31 - 2  # no system gives a process this number


@POSIX
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_living_process_writes_stays_and_goes_when_it_dies(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its number says nothing, because it runs in another container."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), kind], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    part = tmp_path / writer.stdout.readline().strip()
    remove_abandoned(tmp_path)
    monkeypatch.setattr(part_files, "may_be_written", lambda part: False)
    remove_abandoned(tmp_path)
    assert part.exists()
    monkeypatch.undo()
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    remove_abandoned(tmp_path)
    assert not list(tmp_path.iterdir())


@POSIX
@pytest.mark.parametrize(
    ("name", "stays"),
    [
        (f".{DEAD}-ab.part", False),
        (f".{os.getpid()}-ab.part", False),
        (f".{os.getppid()}-ab.part", True),
        (".1-ab.part", True),
        (".x-ab.part", True),
        (".99999999999999999999-ab.part", True),
        ("ab.part", True),
    ],
    ids=["dead", "own", "parent", "init", "no number", "too large", "another's"],
)
def test_only_a_dead_process_has_abandoned_its_files(name: str, stays: bool, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Those of the first versions, which held no locks."""
    (tmp_path / name).touch()
    remove_abandoned(tmp_path)
    assert (tmp_path / name).exists() == stays


@POSIX
def test_nothing_is_removed_where_there_are_no_locks(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """On a network disk the number may be that of another machine."""
    (tmp_path / f".{DEAD}-ab.part").touch()
    monkeypatch.setattr(part_files, "try_lock", lambda handle, shared=False: None)
    remove_abandoned(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_write(tmp_path / "a.txt") as part:
        part.write_text("a")
    assert (tmp_path / "a.txt").read_text() == "a"


@POSIX
def test_a_part_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    made: list[Path] = []
    lock = part_files.try_lock

    def slow(handle: int, shared: bool = False) -> bool | None:
        if shared and len(made) == 1:
            remove_abandoned(tmp_path)
        return lock(handle, shared)

    monkeypatch.setattr(part_files, "try_lock", slow)
    with held_part(tmp_path / "a", lambda part: (part.touch(), made.append(part))) as part:
        assert part.exists()
    assert len(made) == 2


@POSIX
def test_a_training_removes_the_files_of_killed_ones_from_its_cache(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / f".{DEAD}-ab.part").mkdir(parents=True)
    (cache / f".{DEAD}-cd.part").touch()
    (cache / f".{os.getppid()}-ef.part").touch()
    assert main([*TINY, "--out", str(tmp_path / "run")]) == 0
    assert [path.name for path in cache.glob(".*")] == [f".{os.getppid()}-ef.part"]


def test_an_error_of_writing_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught, atomic_write(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "a.txt")
    add_folder(tmp_path / "b", lambda part: None)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
