"""What a command prints: beside a progress bar, on a full disk, to a reader that has ended."""

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from tqdm import tqdm

from sdlearn.cli import main as command
from sdlearn.cli.streams import PatientStream, patient_stderr
from tests.tiny_runs import TINY

FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")


class FullDisk(io.StringIO):
    """A stream that takes nothing."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    flush = write  # type: ignore[assignment]


def started(*argv: str, stdout: str = os.devnull, stderr: str = os.devnull, buffered: bool = True):  # type: ignore[no-untyped-def]
    """The exit code of `sdlearn ...` in a process of its own, and what it said."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    with open(stdout, "w") as out, open(stderr, "w") as err:
        return subprocess.run(
            [sys.executable, "-m", "sdlearn", *argv], stdout=out, stderr=err, env=environment
        ).returncode


@FULL
@pytest.mark.parametrize(
    ("argv", "code"),
    [([*TINY, "--out", "run"], 0), ([*TINY, "--out", ""], 2), (["train", "nothing"], 2)],
    ids=["training", "refused", "usage"],
)
def test_messages_on_a_full_disk_end_nothing(argv, code, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(tmp_path)
    assert started(*argv, stderr="/dev/full") == code
    assert (tmp_path / "run" / "export" / "perceptual.json").is_file() == (code == 0)


@FULL
@pytest.mark.parametrize("buffered", [True, False])
def test_a_result_that_cannot_be_printed_is_told(buffered, tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(tmp_path)
    arguments = [*TINY, "--out", "run"]
    code = started(*arguments, stdout="/dev/full", stderr="said", buffered=buffered)
    assert code == 2
    last = (tmp_path / "said").read_text().splitlines()[-1]
    assert last == "sdlearn: the output cannot be written: No space left on device"
    assert (tmp_path / "run" / "export" / "perceptual.json").is_file()


def test_a_stream_that_recovers_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recovering(FullDisk):
        is_full = True

        def write(self, text: str) -> int:
            return super().write(text) if self.is_full else io.StringIO.write(self, text)

        flush = io.StringIO.flush

    below = Recovering()
    monkeypatch.setattr(sys, "stderr", below)
    with patient_stderr():
        assert isinstance(sys.stderr, PatientStream)
        print("lost", file=sys.stderr)
        below.is_full = False
        print("printed", file=sys.stderr, flush=True)
    assert sys.stderr is below
    assert below.getvalue().lstrip("\n") == "printed\n"


def test_a_warning_begins_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a file takes what is printed, in which a bar's \\r is no new line."""
    command.show_warning(UserWarning("before"))
    with tqdm(total=2, desc="outer") as bar:
        bar.update()
        command.show_warning(UserWarning("with one bar"))
        with tqdm(total=2, desc="inner", leave=False):
            command.show_warning(UserWarning("with two"))
            command.report(ValueError("an error"))
    with tqdm(total=2, disable=True):
        command.show_warning(UserWarning("without a bar"))
    lines = capsys.readouterr().err.split("\n")
    for said in ("before", "with one bar", "with two", "an error", "without a bar"):
        assert f"sdlearn: {said}" in lines
    assert lines[0] == "sdlearn: before"


def test_a_warning_of_a_training_does_so(tmp_path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    from sdlearn import training

    append = training.append_metrics

    def warned(path: Path, rows: list[training.Metrics]) -> None:
        warnings.warn("a file was skipped", stacklevel=1)
        append(path, rows)

    monkeypatch.setattr(training, "append_metrics", warned)
    assert command.main([*TINY, "--out", str(tmp_path / "run")]) == 0
    assert "sdlearn: a file was skipped" in capsys.readouterr().err.split("\n")
