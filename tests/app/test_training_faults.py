"""Runs that die at any moment, files that are damaged, two trainings in one folder, bad places."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sdlearn.cli.main import main
from sdlearn.training import TrainingJob, learning_rate, step_generator, train, update
from sdlearn.utils.run_lock import LOCK
from tests.damage import cut, flip, remove, scramble, zero
from tests.tiny_runs import POSIX, TINY, refused


def line_job() -> TrainingJob:
    torch.manual_seed(0)
    network = nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(network.parameters())

    def step(k: int) -> dict[str, torch.Tensor]:
        x = torch.randn(5, 3, generator=step_generator(0, k))
        loss = (network(x) - 2 * x).square().mean()
        return {"loss": loss, "gradient": update(loss, optimizer, learning_rate(k, 9, 1e-2, 2))}

    return TrainingJob({"line": network}, {"line": optimizer}, step, batch=5)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "step-00000003" / "perceptual.safetensors")


def same_weights(a: Path, b: Path) -> bool:
    first, second = weights_of(a), weights_of(b)
    exported = [(run / "export" / "perceptual.safetensors").read_bytes() for run in (a, b)]
    assert exported[0] == exported[1]
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LOCK
    }


# ------------------------------------------------------------------------------- sudden death

ZYGOTE = """
import contextlib, io, os, signal, sys, time
import torch
torch.set_num_threads(1)
from sdlearn.cli.main import main
from sdlearn.recipes import perceptual

folder, first, last, every, *args = sys.argv[1:]

def child(work):
    pid = os.fork()
    if pid == 0:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = work()
        if code:
            print(said.getvalue(), file=sys.__stderr__)
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

os_fsync, os_write = os.fsync, os.write
main([*args, "--out", folder + "-warm/run"])  # imports are done, hashes are known

def dying(moment, out):
    count = 0
    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            count += function in (os_fsync, os_write) or folder in str(args[0])
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return call
    for name in ("replace", "fsync", "mkdir", "unlink", "rmdir", "open", "write"):
        setattr(os, name, counted(getattr(os, name)))
    io.open = counted(io.open)
    return main([*args, "--out", out])

moment = int(first)
while moment < int(last):
    out = f"{folder}/{moment}/run"
    code = child(lambda: dying(moment, out))
    print(moment, code, child(lambda: main([*args, "--out", out, "--resume"])), flush=True)
    if code == 0:
        break
    moment += int(every)
"""


@POSIX
def test_a_run_killed_at_any_file_operation_resumes_to_the_same_bits(
    whole: Path, tmp_path: Path
) -> None:
    """Every seventh operation on lock, cache, recipe, metrics, checkpoints and export."""
    script = [sys.executable, "-c", ZYGOTE, str(tmp_path / "k"), "1", "1000", "7", *TINY]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(script, capture_output=True, text=True, timeout=500, env=environment)
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines() if line[0].isdigit()]
    assert len(rows) > 15, done.stderr
    assert rows[-1][1] == 0, "the last moment is after the end"
    for moment, killed, resumed in rows:
        assert killed in (-signal.SIGKILL, 0), done.stderr
        assert resumed == 0, f"{moment}: {done.stderr}"
        folder = tmp_path / "k" / str(moment) / "run"
        assert same_weights(whole, folder), moment
        steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()]
        assert steps == [1, 2, 3], moment
        left = {path.name for path in folder.iterdir()}
        assert left == {LOCK, "recipe.json", "metrics.jsonl", "checkpoints", "export"}, moment


FIRST = """
import sys, torch
torch.set_num_threads(1)
from sdlearn.recipes import perceptual
from sdlearn.cli.main import main
print("ready", flush=True)
sys.stdin.readline()
main(sys.argv[1:])
"""


@POSIX
def test_a_run_killed_in_its_first_milliseconds_starts_again(whole: Path, tmp_path: Path) -> None:
    for number, milliseconds in enumerate((1, 10, 50)):
        out = tmp_path / str(number) / "run"
        args = [*TINY, "--out", str(out)]
        process = subprocess.Popen(
            [sys.executable, "-c", FIRST, *args], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.write("go\n")
        process.stdin.flush()
        while not out.exists():
            time.sleep(0.0005)
        time.sleep(milliseconds / 1000)
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            assert main([*args, "--resume"]) == 0
        finally:
            torch.set_num_threads(threads)
        assert same_weights(whole, out), milliseconds


def nothing(folder: Path) -> None:
    pass


def make_empty(folder: Path) -> None:
    folder.mkdir(parents=True)


def make_lock(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / LOCK).write_text("1")


def make_part(folder: Path) -> None:
    make_lock(folder)
    (folder / ".17-ab.part").write_text('{"part": "perc')


@pytest.mark.parametrize("state", [nothing, make_empty, make_lock, make_part])
@pytest.mark.parametrize("resume", [True, False])
def test_a_run_without_a_recipe_starts_with_its_first_step(
    state: Callable[[Path], None], resume: bool, tmp_path: Path, whole: Path, capsys
) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "run"
    state(out)
    assert main([*TINY, "--out", str(out), *(["--resume"] if resume else [])]) == 0
    said = "has no checkpoint yet; the run starts with its first step"
    assert (said in capsys.readouterr().out) == resume
    assert same_weights(whole, out)
    assert not list(out.glob(".*.part"))


# ------------------------------------------------------------------------------- damaged files


DAMAGE = [cut, zero, scramble, remove]


@pytest.mark.parametrize("name", ["perceptual.safetensors", "optimizers.pt", "checksums.json"])
@pytest.mark.parametrize("damage", [*DAMAGE, flip])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    name: str, damage: Callable[[Path], None], whole: Path, run: Path, capsys
) -> None:  # type: ignore[no-untyped-def]
    damage(run / "checkpoints" / "step-00000003" / name)
    assert main([*TINY, "--out", str(run), "--resume"]) == 0
    message = capsys.readouterr().err
    if name == "checksums.json" and damage is remove:
        assert "cannot be read" not in message  # the first versions wrote none
    else:
        assert "step-00000003 cannot be read (" in message
        assert f"{name} is " in message or f"from the one in {name}" in message
        assert "trying the checkpoint before it" in message
    assert same_weights(whole, run)


def test_a_checkpoint_of_another_step_or_network_is_refused_by_name(
    whole: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = run / "checkpoints"
    shutil.rmtree(home / "step-00000003")
    os.rename(home / "step-00000002", home / "step-00000001")
    args = [*TINY, "--out", str(run), "--resume"]
    before = files(run)
    message = refused(args, capsys)
    assert "step-00000001 cannot be read (checksums.json is from step 2)" in message
    assert f"delete {home} to start again from the first step" in message
    assert files(run) == before

    (home / "step-00000001" / "checksums.json").unlink()
    torch.save(
        {"perceptual": {"state": {}, "param_groups": []}}, home / "step-00000001/optimizers.pt"
    )
    assert "optimizers.pt does not fit the optimizer 'perceptual'" in refused(args, capsys)
    torch.save([1, 2], home / "step-00000001" / "optimizers.pt")
    assert "optimizers.pt does not fit the optimizer 'perceptual'" in refused(args, capsys)
    other = whole / "export" / "perceptual.safetensors"
    shutil.copy(other, home / "step-00000001" / "perceptual.safetensors")
    shutil.rmtree(home)
    (home / "step-oops").mkdir(parents=True)
    assert main(args) == 0  # a folder of another name is none of ours
    assert same_weights(whole, run)


RECIPES = {
    "cut": lambda text: text[: len(text) // 2],
    "zeros": lambda text: "\0" * len(text),
    "empty": lambda text: "",
    "a list": lambda text: "[1, 2]",
    "no settings": lambda text: text.replace('"settings"', '"sottings"'),
    "settings are a list": lambda text: json.dumps(json.loads(text) | {"settings": [1]}),
    "a setting is missing": lambda text: text.replace('"steps"', '"stops"'),
    "out of range": lambda text: text.replace('"batch": 2', '"batch": 0'),
    "not a number": lambda text: text.replace('"batch": 2', '"batch": NaN'),
    "no recipe's name": lambda text: text.replace('"recipe": "small"', '"recipe": ["small"]'),
    "frozen is a list": lambda text: text.replace('"frozen": {}', '"frozen": [1]'),
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_damaged_recipe_is_named(kind: str, run: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    path = run / "recipe.json"
    text = path.read_text()
    path.write_text(RECIPES[kind](text))
    assert path.read_text() != text
    before = files(run)
    message = refused([*TINY, "--out", str(run), "--resume"], capsys)
    assert f"{path} is damaged: " in message
    assert "restore the file" in message
    assert files(run) == before
    path.write_text(text)
    assert main([*TINY, "--out", str(run), "--resume"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"widths"', '"heights"', "the setting 'heights'"),
        ('"lr"', '"lora_rank": 4, "lr"', "the setting 'lora_rank'"),
        ('"recipe": "small"', '"recipe": "enormous"', "the recipe 'enormous'"),
    ],
    ids=["another setting", "one setting more", "another recipe"],
)
def test_a_recipe_of_a_newer_version_is_not_called_damaged(old, new, named, run, capsys) -> None:  # type: ignore[no-untyped-def]
    path = run / "recipe.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    before = files(run)
    message = refused([*TINY, "--out", str(run), "--resume"], capsys)
    assert f"{path} has {named}, which this version of sdlearn (" in message
    assert "resume the run with the version that started it, or start a new run in" in message
    assert "damaged" not in message
    assert files(run) == before


@pytest.mark.parametrize("how", ["alone", "beside a good one"])
def test_a_checkpoint_beyond_the_last_step_is_no_finished_run(
    how: str, whole: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of the first versions, which wrote no checksums: renamed, or of a longer run."""
    home = run / "checkpoints"
    (home / "step-00000003" / "checksums.json").unlink()
    (home / "step-00000003").rename(home / "step-00000009")
    shutil.rmtree(run / "export")
    args = [*TINY, "--out", str(run), "--resume"]
    said = "step-00000009 cannot be read (its name says a step after the last one, 3)"
    if how == "alone":
        shutil.rmtree(home / "step-00000002")
        before = files(run)
        assert said in refused(args, capsys)
        assert files(run) == before
        return
    assert main(args) == 0
    assert f"{said}; trying the checkpoint before it" in capsys.readouterr().err
    assert same_weights(whole, run)
    assert sorted(path.name for path in home.iterdir()) == ["step-00000002", "step-00000003"]


def test_a_run_whose_recipe_is_missing_is_not_overwritten(stopped: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    (stopped / "recipe.json").unlink()
    before = files(stopped)
    for more in ([], ["--resume"]):
        message = refused([*TINY, "--out", str(stopped), *more], capsys)
        assert "recipe.json is missing; restore the file, or start a new run in another" in message
    assert files(stopped) == before


LINE = '{"step": %d, "loss": 1.0, "images_per_second": 1.0}\n'
METRICS = {
    "half a line": (LINE % 1 + LINE % 2 + '{"step": 3, "lo', 0),
    "later lines": ("".join(LINE % k for k in range(1, 9)), 0),
    "zeros at the end": (LINE % 1 + LINE % 2 + "\0" * 50, 0),
    "zeros in between": (LINE % 1 + "\0" * 50 + "\n" + LINE % 3, 1),
    "twice": (LINE % 1 + LINE % 2 + LINE % 1 + LINE % 2, 0),
    "other types": (LINE % 1 + '[1]\n7\n"x"\n{"step": "2"}\n{"step": true}\n{"loss": 1}\n', 1),
    "a text for a number": (LINE % 1 + LINE.replace("1.0,", '"a",') % 2, 1),
    "nested": (LINE % 1 + LINE % 2 + "[" * 100_000 + "\n", 0),
    "empty": ("", 2),
}


@pytest.mark.parametrize("kind", METRICS)
def test_damaged_metrics_are_mended_and_named(kind: str, tmp_path: Path) -> None:
    text, lost = METRICS[kind]
    list(train(line_job(), 2, tmp_path))
    path = tmp_path / "metrics.jsonl"
    path.write_text(text)
    loop = train(line_job(), 4, tmp_path, resume=True)
    if lost:
        with pytest.warns(UserWarning, match=rf"metrics.jsonl .* line for {lost} of the 2 steps"):
            list(loop)
    else:
        list(loop)
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert steps == [1, 2, 3, 4][-4 + lost :] or (lost == 1 and steps == [1, 3, 4])


def test_metrics_are_on_the_disk_before_their_checkpoint(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    order: list[str] = []
    monkeypatch.setattr("sdlearn.training.sync_file", lambda path: order.append(path.name))
    save = "sdlearn.training.save_checkpoint"
    monkeypatch.setattr(save, lambda folder, step, *_: order.append(f"step {step}"))
    list(train(line_job(), 3, tmp_path, checkpoint_steps=2))
    assert order == ["metrics.jsonl", "step 2", "metrics.jsonl", "step 3"]


@pytest.mark.parametrize("writer", ["save_file", "torch.save"])
def test_a_full_disk_keeps_the_checkpoint_before(
    writer: str, stopped: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    def full(*_: object) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(f"sdlearn.utils.checkpoint.{writer}", full)
    message = refused([*TINY, "--out", str(stopped), "--resume"], capsys)
    assert "step-00000003 cannot be written: No space left on device" in message
    monkeypatch.undo()
    left = sorted(path.name for path in (stopped / "checkpoints").iterdir())
    assert left == ["step-00000002"]
    assert not (stopped / "export").exists()
