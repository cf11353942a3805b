"""What people do to the folders of runs: damage, delete, move and share them."""

import errno
import json
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sdlearn import weights
from sdlearn.cli.main import main
from sdlearn.evaluation.training_record import collect
from sdlearn.recipes.data import own_images
from sdlearn.utils.checkpoint import checkpoints, save_checkpoint
from sdlearn.utils.run_lock import LOCK, run_lock
from tests.tiny_runs import POSIX, TINY, sentence

# ------------------------------------------------------------------------- damaged optimizer states


@pytest.mark.parametrize(
    "content",
    {
        "empty": b"",
        "zeros": b"\0" * 4000,
        "a pickle of a function": pickle.dumps({"unet": os.getcwd}),
        "a broken archive": b"PK\x03\x04" + b"x" * 4000,
        "text": b"<html>",
    }.items(),
    ids=lambda item: item[0],
)
def test_the_state_of_the_optimizers_is_named_without_the_advice_of_torch(
    content: tuple[str, bytes], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In checkpoints of the first versions, which have no checksums."""
    shutil.rmtree(run / "checkpoints" / "step-00000002")
    newest = run / "checkpoints" / "step-00000003"
    (newest / "checksums.json").unlink()
    (newest / "optimizers.pt").write_bytes(content[1])
    line = sentence([*TINY, "--out", str(run), "--resume"], capsys)
    assert "cannot be read (optimizers.pt is damaged: torch cannot read it)" in line
    assert "weights_only" not in line


# --------------------------------------------------------------------------- --init from bad runs


def damage(kind: str, checkpoint: Path) -> None:
    file = checkpoint / "perceptual.safetensors"
    if kind == "missing":
        file.unlink()
    elif kind == "emptied":
        shutil.rmtree(checkpoint)
        checkpoint.mkdir()
    elif kind == "flipped":
        values = bytearray(file.read_bytes())
        values[-1] ^= 1
        file.write_bytes(values)
    else:
        (checkpoint / "checksums.json").unlink()
        file.write_bytes(file.read_bytes()[:-9])


@pytest.mark.parametrize("kind", ["missing", "emptied", "flipped", "truncated, no checksums"])
def test_init_takes_the_newest_checkpoint_that_can_be_read(
    kind: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(kind, run / "checkpoints" / "step-00000003")
    shutil.copytree(run.parent / "cache", tmp_path / "cache")
    assert main([*TINY, "--out", str(tmp_path / "new"), "--init", str(run), "--lr", "1e-9"]) == 0
    said = capsys.readouterr().err
    assert "step-00000003 cannot be read (" in said
    assert "trying the checkpoint before it" in said
    began = load_file(run / "checkpoints" / "step-00000002" / "perceptual.safetensors")
    ended = load_file(tmp_path / "new" / "checkpoints" / "step-00000003" / "perceptual.safetensors")
    assert all(torch.allclose(began[key], ended[key], atol=1e-7) for key in began)
    damage(kind, run / "checkpoints" / "step-00000002")
    line = sentence([*TINY, "--out", str(tmp_path / "other"), "--init", str(run)], capsys)
    assert "has no other checkpoint that can; give another run" in line
    assert not (tmp_path / "other").exists()


def test_init_never_takes_raw_weights_because_the_average_is_missing(tmp_path: Path) -> None:
    from sdlearn.recipes.initial_weights import load_initial_weights

    raw, average, target = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {"unet": raw, "ema": average}, {})
    (checkpoints(tmp_path)[-1] / "ema.safetensors").unlink()
    with pytest.warns(UserWarning, match="step-00000002 cannot be read"):
        load_initial_weights(str(tmp_path), {"unet": target})
    assert torch.equal(target.weight, average.weight)


def test_a_checkpoint_removes_later_ones_that_could_not_be_read(tmp_path: Path) -> None:
    """They would count among the two that are kept."""
    network = nn.Linear(2, 2)
    for step in (3, 5, 4):
        save_checkpoint(tmp_path, step, {"line": network}, {})
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000003", "step-00000004"]


# --------------------------------------------------------------------- folders that vanish or move


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
def test_a_run_whose_folder_goes_stops_and_does_not_write_to_the_next_one(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    from sdlearn import training

    append = training.append_metrics

    def disturbed(path: Path, rows: list[training.Metrics]) -> None:
        append(path, rows)
        if how == "moved":
            run.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(run)
        if how == "replaced":
            run.mkdir()
            (run / LOCK).touch()

    monkeypatch.setattr(training, "append_metrics", disturbed)
    args = [argument for argument in TINY if argument not in ("--checkpoint-steps", "1")]
    line = sentence([*args, "--out", str(run)], capsys)
    assert f"{run}, or the file .lock in it, was deleted, moved or replaced" in line
    assert run.exists() == (how == "replaced")
    assert [path.name for path in run.glob("*")] == [LOCK] * run.exists()


def test_the_error_of_a_run_is_not_hidden_by_its_missing_folder(tmp_path: Path) -> None:
    def fail() -> None:
        shutil.rmtree(tmp_path / "run")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), run_lock(tmp_path / "run"):
        fail()


@pytest.mark.parametrize("name", [".DS_Store", "desktop.ini", ".gitkeep", "lost+found"])
def test_what_a_file_manager_leaves_does_not_make_a_folder_used(name: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).mkdir()
    assert main([*TINY, "--out", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize("how", ["link", "dot", "up"])
def test_the_cache_is_no_run_by_whatever_name(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.chdir(cache)
    (tmp_path / "link").symlink_to("cache", target_is_directory=True)
    out = {"link": str(tmp_path / "link"), "dot": ".", "up": f"{cache}/run/.."}[how]
    assert "where runs keep their images" in sentence([*TINY, "--out", out], capsys)
    assert not list(cache.iterdir())


def test_the_home_folder_is_meant_by_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main([*TINY, "--out", "~/a"]) == 0
    assert main([*TINY, "--out", "~/b", "--init", "~/a"]) == 0
    assert main([*TINY, "--out", "~/b", "--init", "~/a", "--resume"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "cache"}
    for part, option in (("unet", "vae"), ("unet", "text"), ("vae", "data")):
        line = sentence(["train", part, "--out", "c", f"--{option}", "~/none"], capsys)
        assert str(tmp_path / "none") in line


def test_images_may_move_but_not_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    for name in ("red", "blue"):
        Image.new("RGB", (40, 32), name).save(old / f"{name}.png")
        (old / f"{name}.txt").write_text(f"a {name} page")
    args = ["train", "vae", "--recipe", "small", "--device", "cpu", "--steps", "2", "--batch", "2"]
    args += ["--set", "size=32", "--set", "block_out_channels=(8,8)", "--set", "warmup=1"]
    run = tmp_path / "run"
    assert main([*args, "--out", str(run), "--data", str(old)]) == 0
    old.rename(new)
    own_images.cache_clear()  # as in a new process
    resume = ["train", "vae", "--out", str(run), "--resume"]
    assert f"{old} does not exist" in sentence(resume, capsys)
    assert main([*resume, "--data", str(new)]) == 0
    (new / "red.txt").write_text("a crimson page")
    own_images.cache_clear()
    line = sentence([*resume, "--data", str(new)], capsys)
    assert "started with another version of its images" in line


# ----------------------------------------------------------------------- what the system refuses


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "run cannot be read or written: No sp"),
        (PermissionError(errno.EACCES, "Permission denied", "x.json"), "x.json cannot be read or"),
        (OSError(errno.EIO, "Input/output error", "m.jsonl"), "m.jsonl cannot be read or written"),
    ],
    ids=["full disk", "permission", "broken disk"],
)
def test_an_error_of_the_system_is_a_sentence(
    error: OSError, said: str, tmp_path: Path, monkeypatch, capsys
) -> None:  # type: ignore[no-untyped-def]
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("sdlearn.training.append_metrics", fail)
    line = sentence([*TINY, "--out", str(tmp_path / "run")], capsys)
    assert said in line
    assert "[Errno" not in line


@pytest.mark.parametrize("place", ["checkpoints", "file", "init", "cache"])
def test_what_may_not_be_read_is_neither_damaged_nor_absent(
    place: str, run: Path, tmp_path: Path, monkeypatch, capsys
) -> None:  # type: ignore[no-untyped-def]
    """A run whose checkpoints may not be read would otherwise start again with its first step."""
    names = {"checkpoints": "checkpoints", "cache": "cache"}
    forbidden = names.get(place, "step-00000003")
    metrics = (run / "metrics.jsonl").read_bytes()

    def check(path: object) -> None:
        if Path(str(path)).name == forbidden or Path(str(path)).parent.name == forbidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

    iterdir, opened = Path.iterdir, Path.open
    monkeypatch.setattr(Path, "iterdir", lambda self: (check(self), iterdir(self))[1])
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: (check(self), opened(self, *a, **k))[1])
    monkeypatch.setattr(
        "sdlearn.recipes.array_cache.open_array", lambda path: check(path) or pytest.fail("opened")
    )
    args = [*TINY, "--out", str(run), "--resume"]
    if place == "init":
        args = [*TINY, "--out", str(tmp_path / "new"), "--init", str(run)]
    if place != "cache":
        monkeypatch.setattr(
            "sdlearn.recipes.perceptual.load_images",
            lambda n, size, *_: torch.zeros(n, size, size, 3, dtype=torch.uint8).numpy(),
        )
    line = sentence(args, capsys)
    assert "cannot be read or written: Permission denied" in line
    assert "damaged" not in line
    assert (run / "metrics.jsonl").read_bytes() == metrics


def test_saving_weights_on_a_full_disk_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    weights.save(nn.Linear(2, 2), path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")

    monkeypatch.setattr("sdlearn.weights.saving.save_file", full)
    with pytest.raises(OSError, match=r"model.safetensors cannot be written: No space left \("):
        weights.save(nn.Linear(2, 2), path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


# ---------------------------------------------------------------------------- signals and streams


@POSIX
@pytest.mark.parametrize(
    ("numbers", "ignored", "steps"),
    [
        ([signal.SIGHUP], False, 1),
        ([signal.SIGTERM, signal.SIGHUP], False, 1),
        ([signal.SIGTERM, signal.SIGTERM], False, 1),
        ([signal.SIGHUP], True, 3),
    ],
    ids=["terminal closed", "log-out", "told twice", "nohup"],
)
def test_signals_that_end_a_session_save_the_run(
    numbers: list[int], ignored: bool, steps: int, tmp_path: Path, monkeypatch, capsys
) -> None:  # type: ignore[no-untyped-def]
    from sdlearn import training

    append, sent = training.append_metrics, list(numbers)

    def told(path: Path, rows: list[training.Metrics]) -> None:
        append(path, rows)
        while sent:
            os.kill(os.getpid(), sent.pop())

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        monkeypatch.setattr(training, "append_metrics", told)
        assert main([*TINY, "--out", str(tmp_path / "run")]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert checkpoints(tmp_path / "run")[-1].name == f"step-{steps:08d}"


def test_a_training_without_a_stream_for_errors(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """As the shell's `2>&-` and Windows' pythonw start it."""
    monkeypatch.setattr(sys, "stderr", None)
    assert main([*TINY, "--out", str(tmp_path / "run")]) == 0


# ------------------------------------------------------------------- the records in a model's card


def rewrite(folder: Path, **changes: object) -> None:
    record = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps(record | changes))


RECORDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a line of zeros": (
        lambda run: (run / "metrics.jsonl").write_bytes(
            (run / "metrics.jsonl").read_bytes().replace(b'{"step": 2', b"\0\0\0")
        ),
        "metrics.jsonl is damaged: line 2 is not a step's line; `sdlearn train perceptual --resume",
    ),
    "no metrics": (
        lambda run: (run / "metrics.jsonl").write_text(""),
        "is not a run of `sdlearn train` that has done a step",
    ),
    "no UTF-8": (
        lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\xfe\n{}\n"),
        "is not a run of `sdlearn train` that has done a step",
    ),
    "part a list": (lambda run: rewrite(run, part=["vae"]), "has the part ['vae']; accepted: vae"),
    "recipe a list": (lambda run: rewrite(run, recipe=["x"]), "has the unknown recipe ['x']"),
    "settings null": (lambda run: rewrite(run, settings=None), "its settings are None"),
    "settings lack": (lambda run: rewrite(run, settings={"batch": 2}), "is damaged: its settings"),
    "settings text": (
        lambda run: rewrite(run, settings=dict.fromkeys(
            ("steps", "batch", "lr", "warmup", "seed", "scenes", "size"), "many")),
        "its settings are",
    ),
    "machine": (lambda run: rewrite(run, machine={"device": 1}), "its machine is {'device': 1}"),
}  # fmt: skip


@pytest.mark.parametrize("kind", RECORDS)
def test_records_of_damaged_runs_name_the_file(kind: str, run: Path, tmp_path: Path) -> None:
    harm, said = RECORDS[kind]
    harm(run)
    with pytest.raises(ValueError, match=r".") as caught:
        collect([run], tmp_path)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500


def test_the_record_of_a_run_that_was_killed_within_a_line(run: Path, tmp_path: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    (record,) = collect([run], tmp_path)
    assert record["steps_done"] == 3
    rewrite(run, settings=record["settings"] | {"crop": True})  # of an earlier version
    assert collect([run], tmp_path)[0]["settings"]["crop"] is True


@pytest.mark.parametrize("content", ['{"runs": {}}', "{}", '{"runs": [{"run": "a"}]}'])
def test_a_damaged_list_of_runs_is_named(content: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(content)
    with pytest.raises(ValueError, match=r"training.json is damaged: it does not list the records"):
        collect([run], tmp_path)
