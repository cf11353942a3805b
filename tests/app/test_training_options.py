"""Options of `sdlearn train` for precision, memory and logs."""

import json
from importlib import util
from pathlib import Path

import pytest

from sdlearn.cli.main import main
from sdlearn.utils.metrics_file import read_metrics
from tests.tiny_runs import CLIP, TINY, UNET, VAE, refused


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (
            [*TINY, "--precision", "half"],
            "--precision is 'half'; accepted: auto, float32, bf16, fp",
        ),
        ([*VAE, "--precision", "fp16"], "precision is fp16; accepted for the vae: auto, float32"),
        ([*UNET, "--accumulate", "3"], "batch is 2; accepted: multiples of 3, the parts of accum"),
        ([*UNET, "--accumulate", "0"], "--accumulate is 0; accepted: a whole number from 1"),
        ([*CLIP, "--accumulate", "2"], "the recipe has no setting 'accumulate'; accepted"),
        ([*VAE, "--shard"], "the recipe has no setting 'shard'; accepted"),
        ([*UNET, "--shard", "--set", "compile=True"], "compile is True; accepted with shard: Fal"),
        ([*TINY, "--log", "wandb"], "--log is 'wandb'; accepted: tensorboard"),
    ],
)
def test_what_a_training_cannot_do_is_refused(
    args: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused([*args, "--out", str(tmp_path / "run")], capsys)
    assert sentence in said
    assert not (tmp_path / "run").exists()


def test_tensorboard_must_be_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = util.find_spec
    monkeypatch.setattr(
        "sdlearn.cli.event_log.find_spec",
        lambda name: None if name == "tensorboard" else find_spec(name),
    )
    said = refused([*TINY, "--log", "tensorboard", "--out", str(tmp_path / "run")], capsys)
    assert "install it with `pip install sdlearn[tensorboard]`" in said
    assert not (tmp_path / "run").exists()


def test_tensorboard_reads_the_metrics_also_of_a_resumed_run(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    args = [*TINY, "--out", str(folder), "--log", "tensorboard"]
    assert main([*args, "--minutes", "0.00001"]) == 0
    assert main([*args, "--resume"]) == 0
    rows, _ = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for name in rows[0].keys() - {"step"}:
        found = [(event.step, event.value) for event in events.Scalars(name)]
        wanted = [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]
        assert found == wanted, name
    assert set(events.Tags()["scalars"]) == rows[0].keys() - {"step"}


def test_a_run_may_go_on_in_other_parts_and_keeps_its_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    args = [*UNET, "--out", str(folder), "--precision", "bf16"]
    args[args.index("--steps") + 1] = "2"
    assert main([*args, "--minutes", "0.00001", "--accumulate", "2"]) == 0
    settings = json.loads((folder / "recipe.json").read_text())["settings"]
    assert (settings["precision"], settings["accumulate"]) == ("bf16", 2)
    changed = [*UNET, "--out", str(folder), "--resume", "--precision", "float32"]
    changed[changed.index("--steps") + 1] = "2"
    assert "started with precision 'bf16', not 'float32'" in refused(changed, capsys)
    assert main([*args, "--resume", "--set", "activation_checkpointing=True"]) == 0
    assert len(read_metrics(folder / "metrics.jsonl")[0]) == 2
