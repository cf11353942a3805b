"""The folder of a run: its lock, where it may be, what it needs, the machine it goes on with."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from sdlearn.cli.main import main
from sdlearn.recipes.data import own_images
from sdlearn.training import TrainingJob, train
from sdlearn.utils import run_lock as locks
from sdlearn.utils.checkpoint import checkpoints
from sdlearn.utils.resources import data_folder
from sdlearn.utils.run_lock import LOCK, run_lock
from tests.tiny_runs import CLIP, POSIX, TINY, UNET, VAE, refused


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


# --------------------------------------------------------------------------------------- the lock

HOLDER = """
import os, sys, time
from pathlib import Path
from sdlearn.utils.run_lock import run_lock

with run_lock(Path(sys.argv[1])):
    if sys.argv[2] == "fork" and os.fork() == 0:
        time.sleep(60)
    print("locked", flush=True)
    time.sleep(60)
"""


def hold(folder: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), how], stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


@POSIX
@pytest.mark.parametrize("how", ["alone", "fork"])
def test_a_second_training_is_told_and_a_killed_one_releases_the_folder(
    how: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when a process that the killed one has forked goes on."""
    process = hold(run, how)
    before = stamps(run)
    try:
        for more in (["--resume"], []):
            message = refused([*TINY, "--out", str(run), *more], capsys)
            assert f"another training (process {process.pid}) is writing to {run}; wait" in message
        assert stamps(run) == before
        process.kill()
        process.wait()
        assert main([*TINY, "--out", str(run), "--resume"]) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the forked one
        assert process.stdout is not None
        process.stdout.close()


def test_a_lock_holds_within_a_process_and_leaves_no_new_folder_after_an_error(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "a" / "b"
    with pytest.raises(ZeroDivisionError), run_lock(folder):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with run_lock(folder):
        assert (folder / LOCK).read_text() == f"{os.getpid()}\n"
        with pytest.raises(BlockingIOError, match="another training"), run_lock(folder):
            pass
        (folder / "recipe.json").touch()
    with pytest.raises(ZeroDivisionError), run_lock(folder):
        raise ZeroDivisionError
    assert (folder / "recipe.json").exists()


def test_a_file_system_without_locks_is_named_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def no_locks(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        pytest.warns(UserWarning, match=r"cannot be locked \(No locks available\); make sure"),
        run_lock(tmp_path),
    ):
        pass


def test_a_lock_that_its_holder_removes_at_once_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file may be removed between opening and locking it; that lock would exclude nobody."""
    lock, calls = locks.lock, []

    def slow(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 1:
            (tmp_path / LOCK).unlink()
        lock(handle)

    monkeypatch.setattr(locks, "lock", slow)
    with run_lock(tmp_path):
        assert len(calls) == 2
        assert (tmp_path / LOCK).exists()


# ------------------------------------------------------------------------------------- bad places


def test_places_where_no_run_can_be(tmp_path: Path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "letter.txt").write_text("dear")
    letter = tmp_path / "letter.txt"
    assert "is a file, not a folder" in refused([*TINY, "--out", str(letter)], capsys)
    inside = refused([*TINY, "--out", str(letter / "run")], capsys)
    assert "cannot be made or written to: Not a directory; give another --out" in inside
    cache = refused([*TINY, "--out", str(tmp_path / "cache")], capsys)
    assert "where runs keep their images; give another name" in cache
    assert "--out is empty" in refused([*TINY, "--out", ""], capsys)
    assert "File name too long" in refused([*TINY, "--out", str(tmp_path / ("x" * 300))], capsys)
    mkdir = Path.mkdir

    def forbidden(path: Path, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        if path.name == "run":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", forbidden)
    message = refused([*TINY, "--out", str(tmp_path / "run")], capsys)
    assert "cannot be made or written to: Permission denied" in message
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_run_in_the_current_folder_has_its_cache_beside_it(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main([*TINY, "--out", "."]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"here", "cache"}


def pictures(folder: Path, colours: tuple[str, ...] = ("red", "blue", "green")) -> Path:
    folder.mkdir(exist_ok=True)
    with (folder / "metadata.jsonl").open("w") as file:
        for colour in colours:
            Image.new("RGB", (40, 40), colour).save(folder / f"{colour}.png")
            file.write(
                json.dumps({"file_name": f"{colour}.png", "text": f"a {colour} page"}) + "\n"
            )
    return folder


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (
            [*VAE, "--init", "nowhere"],
            "init is nowhere, which does not exist; accepted: the folder",
        ),
        ([*VAE, "--init", "FILE"], "which is a file; accepted: the folder of a run"),
        ([*VAE, "--init", "RUN"], "a run that trains perceptual; accepted: a run that trains vae"),
        ([*VAE, "--init", "TEXT"], ""),
        ([*CLIP, "--init", "VAE"], ""),
        ([*CLIP, "--init", "nowhere"], "init is nowhere, which does not exist"),
        (
            [*CLIP, "--init", "RUN"],
            "a run that trains perceptual; accepted: a run that trains text",
        ),
        ([*TINY, "--init", "VAE"], ""),
        ([*UNET, "--vae", "nowhere"], "there is no trained vae in nowhere"),
        ([*UNET, "--vae", "TEXT"], ""),
        ([*UNET, "--text", "VAE"], ""),
        ([*UNET, "--text", "FILE"], "there is no trained text_encoder in "),
        ([*UNET, "--init", "VAE"], ""),
        ([*UNET, "--set", "size=40"], "size is 40; accepted: multiples of 16, for 2 levels"),
        ([*VAE, "--data", "nowhere"], "nowhere does not exist"),
        ([*CLIP, "--data", "FILE"], "is a file; accepted: a folder of captioned images"),
        ([*UNET, "--data", "nowhere"], "nowhere does not exist"),
        ([*TINY, "--data", "nowhere"], "this network is trained on the storybook's scenes only"),
        ([*TINY[:4], "--steps", "2", "--device", "meta"], "device is 'meta', which is not"),
        ([*TINY[:4], "--steps", "2", "--device", "hpu"], "device is 'hpu', which is not"),
        ([*TINY, "--minutes", "0"], "--minutes is 0.0; accepted: more than 0 and at most 1000000"),
        ([*TINY, "--minutes", "-1"], "--minutes is -1.0"),
        ([*TINY, "--minutes", "nan"], "--minutes is nan"),
        ([*TINY, "--minutes", "inf"], "--minutes is inf"),
        ([*TINY, "--checkpoint-steps", "0"], "--checkpoint-steps is 0; accepted: 1 or more"),
    ],
    ids=lambda value: " ".join(value[-2:] + value[1:2]) if isinstance(value, list) else "",
)
def test_what_a_run_needs_is_missed_before_anything_is_made(
    args: list[str], sentence: str, whole: Path, tmp_path: Path, capsys
) -> None:  # type: ignore[no-untyped-def]
    """A part of the wrong kind, too: the shipped text encoder as an autoencoder, and so on."""
    letter = tmp_path / "letter.txt"
    letter.write_text("dear")
    places = {
        "FILE": str(letter), "RUN": str(whole), "VAE": str(data_folder("storybook") / "vae"),
        "TEXT": str(data_folder("storybook") / "text_encoder"),
    }  # fmt: skip
    args = [places.get(arg, arg) for arg in args]
    message = refused([*args, "--out", str(tmp_path / "runs" / "run")], capsys)
    assert sentence in message
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


# -------------------------------------------------------------------------- runs without a step


def test_a_run_that_is_stopped_before_its_first_step_exports_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stopped = threading.Event()
        stopped.set()
        patch.setattr("sdlearn.cli.train.stop_signals", lambda: nullcontext(stopped))
        assert main([*TINY, "--out", str(tmp_path / "run")]) == 130
    assert "stopped before the first step; nothing was exported" in capsys.readouterr().err
    assert not (tmp_path / "run" / "export").exists()
    assert main([*TINY, "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert (tmp_path / "run" / "export").exists()


def test_the_shortest_time_is_one_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [*TINY, "--out", str(tmp_path / "run"), "--minutes", "1e-300"]
    for step in (1, 2):
        assert main([*args, *(["--resume"] if step > 1 else [])]) == 0
        assert f"stopped at step {step} of 3" in capsys.readouterr().out
        assert checkpoints(tmp_path / "run")[-1].name == f"step-0000000{step}"


def test_a_finished_run_is_exported_again_without_a_step(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    shutil.rmtree(run / "export")
    assert main([*TINY, "--out", str(run), "--resume"]) == 0
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert {k: v for k, v in after.items() if k.name != LOCK} == {
        k: v for k, v in before.items() if k.name != LOCK
    }


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 2.5}, "steps is 2.5"),
        ({"steps": 10**400}, "steps is 1000"),
        ({"steps": None}, "steps is None"),
        ({"minutes": 0}, "minutes is 0; accepted: more than 0"),
        ({"minutes": float("nan")}, "minutes is nan"),
        ({"minutes": "5"}, "minutes is '5'"),
        ({"checkpoint_steps": 0}, "checkpoint_steps is 0"),
        ({"checkpoint_steps": 1.5}, "checkpoint_steps is 1.5"),
        ({"checkpoint_seconds": -1}, "checkpoint_seconds is -1"),
        ({"samples_seconds": float("nan")}, "samples_seconds is nan"),
    ],
    ids=str,
)
def test_wrong_numbers_in_python_are_refused_at_the_call(changes, sentence: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    job = TrainingJob({"line": nn.Linear(1, 1)}, {}, lambda k: {}, batch=1)
    with pytest.raises(ValueError, match="is ") as caught:
        train(job, folder=tmp_path / "run", **{"steps": 3, **changes})
    assert str(caught.value).startswith(sentence)
    assert not list(tmp_path.iterdir())


def test_checkpoints_of_another_run_are_not_mixed_with_new_ones(run: Path) -> None:
    job = TrainingJob({"line": nn.Linear(1, 1)}, {}, lambda k: {}, batch=1)
    with pytest.raises(ValueError, match="holds checkpoints; accepted: resume=True, or another"):
        train(job, 3, run)


# ------------------------------------------------------------------------------ another machine


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"threads": 99}, "began with threads 99, now {threads}; the last bits"),
        ({"device": "cuda:0"}, "began with device 'cuda:0', now 'cpu'; the last bits"),
        ({"torch": "1.0"}, "began with torch '1.0', now '{torch}'; the last bits"),
        ({"threads": 99, "torch": "1.0"}, "began with torch '1.0', now '{torch}' and threads 99"),
        ({"cpu": "vax"}, "began with cpu 'vax', now "),
    ],
    ids=str,
)
def test_going_on_elsewhere_says_that_bits_may_differ(change, said: str, run: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    record = json.loads((run / "recipe.json").read_text())
    said = said.format(**record["machine"])
    (run / "recipe.json").write_text(json.dumps(record | {"machine": record["machine"] | change}))
    capsys.readouterr()
    assert main([*TINY, "--out", str(run), "--resume"]) == 0
    message = capsys.readouterr().err
    assert ("may differ from those of a run that was not interrupted" in message) == bool(said)
    assert said in message


def test_other_threads_are_noticed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert main([*TINY, "--out", str(run), "--resume"]) == 0
    finally:
        torch.set_num_threads(threads)
    assert f"began with threads {threads}, now {threads + 1}" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_belongs_to_the_machine_that_starts_it_again(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "checkpoints")
    path = run / "recipe.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"machine": {"threads": 99}, "note": "by hand"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main([*TINY, "--out", str(run), "--resume"]) == 0
    assert json.loads(path.read_text()) == record | {"note": "by hand"}


def test_other_pictures_are_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = pictures(tmp_path / "own")
    small = ["--set", "block_out_channels=(8,8)", "--set", "norm_num_groups=4", "--batch", "2"]
    args = [*VAE, *small, "--data", str(own), "--out", str(tmp_path / "run")]
    assert main(args) == 0
    pictures(own, ("red", "green", "black"))
    own_images.cache_clear()  # as in another process
    message = refused([*args, "--resume"], capsys)
    assert "started with another version of its images; restore it, or start a new run" in message
    pictures(own)
    own_images.cache_clear()
    assert main([*args, "--resume"]) == 0


def test_a_damaged_tokenizer_in_the_cache_is_named_and_another_one_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--set", "hidden_size=16", "--set", "num_layers=1", "--set", "intermediate_size=32"]
    args = [*CLIP, *small, "--set", "image_width=8", "--batch", "2", "--out", str(tmp_path / "run")]
    assert main(args) == 0
    (kept,) = (tmp_path / "cache").glob("tokenizer-*")
    vocabulary = kept / "vocab.json"
    good = vocabulary.read_text()
    vocabulary.write_text(good[:1000])
    capsys.readouterr()
    main([*args, "--resume"])
    assert f"{kept} is damaged; it is made again" in capsys.readouterr().err
    tokens = json.loads(good)
    tokens["a</w>"], tokens["b</w>"] = tokens["b</w>"], tokens["a</w>"]
    vocabulary.write_text(json.dumps(tokens))
    message = refused([*args, "--resume"], capsys)
    assert "started with another version of its tokenizer" in message
