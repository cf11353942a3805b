"""Training as a user meets it: runs that are killed, that diverge, that are asked for wrongly."""

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from sdlearn.cli.main import main
from sdlearn.recipes import perceptual, vae
from sdlearn.recipes.data import scene
from sdlearn.storybook import render
from sdlearn.training import (
    TrainingDiverged,
    TrainingJob,
    learning_rate,
    step_generator,
    train,
    update,
)
from sdlearn.utils.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from sdlearn.weights.tokenizer_files import read_tokenizer

TINY = ["--recipe", "small", "--steps", "8", "--batch", "4", "--scenes", "24", "--device", "cpu"]
TINY += ["--checkpoint-steps", "2", "--set", "size=32", "--set", "warmup=2"]


# ------------------------------------------------------------------------------------ the engine


def line_job(spoil: Callable[[int], bool] = lambda k: False) -> TrainingJob:
    """A linear network that learns to double; its loss is NaN in the steps that `spoil` names."""
    torch.manual_seed(0)
    network = nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(network.parameters())

    def step(k: int) -> dict[str, torch.Tensor]:
        x = torch.randn(5, 3, generator=step_generator(0, k))
        loss = (network(x) - 2 * x).square().mean()
        loss = loss * float("nan") if spoil(k) else loss
        gradient = update(loss, optimizer, learning_rate(k, 40, 1e-2, 3))
        return {"loss": loss, "gradient": gradient}

    def samples() -> Image.Image:
        return Image.new("RGB", (4, 4))

    return TrainingJob({"line": network}, {"line": optimizer}, step, batch=5, samples=samples)


def steps_written(folder: Path) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def test_training_learns_and_yields_every_step(tmp_path: Path) -> None:
    rows = list(train(line_job(), 40, tmp_path))
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert all(row["images_per_second"] > 0 for row in rows)
    assert steps_written(tmp_path) == list(range(1, 41))
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000040"]
    assert (tmp_path / "samples" / "step-00000040.png").is_file()


def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    assert len(list(train(line_job(), 3))) == 3
    assert not list(tmp_path.iterdir())


def test_leaving_the_loop_and_going_on_changes_nothing(tmp_path: Path) -> None:
    straight, broken = line_job(), line_job()
    list(train(straight, 20))
    for metrics in train(broken, 20, tmp_path, checkpoint_steps=4):
        if metrics["step"] == 7:
            break
    broken = line_job()
    asked = iter([False] * 6 + [True])
    rows = list(train(broken, 20, tmp_path, resume=True, should_stop=lambda: next(asked)))
    assert [row["step"] for row in rows] == [8, 9, 10, 11, 12, 13]
    broken = line_job()
    list(train(broken, 20, tmp_path, resume=True))
    expected, found = (job.networks["line"].state_dict() for job in (straight, broken))
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert steps_written(tmp_path) == list(range(1, 21))
    assert len(checkpoints(tmp_path)) == 2


def test_a_nan_stops_the_run_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    job = line_job(spoil=lambda k: k == 10)
    with pytest.raises(TrainingDiverged, match="step 11: loss is nan"):
        list(train(job, 20, tmp_path, checkpoint_steps=3))
    assert not torch.isfinite(job.networks["line"].weight).all(), "the test spoils nothing"
    good = line_job()
    assert load_checkpoint(tmp_path, good.networks, good.optimizers) == 9
    assert torch.isfinite(good.networks["line"].weight).all()
    assert steps_written(tmp_path) == list(range(1, 11))


def test_an_infinite_gradient_is_not_saved_either(tmp_path: Path) -> None:
    """The loss is still finite in the step whose gradient ruins the weights."""
    job = line_job()

    def step(k: int) -> dict[str, torch.Tensor]:
        metrics = job.step(k)
        return metrics | ({"gradient": torch.tensor(float("inf"))} if k == 5 else {})

    with pytest.raises(TrainingDiverged, match="step 6: gradient is inf"):
        list(train(replace(job, step=step), 20, tmp_path, checkpoint_steps=6))
    assert not checkpoints(tmp_path)


def test_an_error_in_a_step_saves_no_half_done_step(tmp_path: Path) -> None:
    job = line_job()

    def step(k: int) -> dict[str, torch.Tensor]:
        if k == 5:
            raise RuntimeError("out of memory")
        return job.step(k)

    with pytest.raises(RuntimeError, match="out of memory"):
        list(train(replace(job, step=step), 20, tmp_path, checkpoint_steps=4))
    assert [p.name for p in checkpoints(tmp_path)] == ["step-00000004"]


def test_half_written_checkpoints_and_lines_are_ignored(tmp_path: Path) -> None:
    job = line_job()
    list(train(job, 6, tmp_path, checkpoint_steps=3))
    part = tmp_path / "checkpoints" / ".step-00000009.part"
    part.mkdir()
    (part / "line.safetensors").write_bytes(b"half")
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "loss": 1.0}\n{"step": 8, "lo')
    again = line_job()
    rows = list(train(again, 12, tmp_path, resume=True))
    assert rows[0]["step"] == 7
    assert steps_written(tmp_path) == list(range(1, 13))
    assert not part.exists()


@pytest.mark.parametrize("name", ["line.safetensors", "optimizers.pt"])
def test_a_damaged_checkpoint_is_named_and_the_other_used(tmp_path: Path, name: str) -> None:
    job = line_job()
    save_checkpoint(tmp_path, 3, job.networks, job.optimizers)
    list(train(job, 2))
    save_checkpoint(tmp_path, 5, job.networks, job.optimizers)
    damaged = tmp_path / "checkpoints" / "step-00000005" / name
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.warns(UserWarning, match="step-00000005 cannot be read"):
        assert load_checkpoint(tmp_path, job.networks, job.optimizers) == 3
    save_checkpoint(tmp_path, 5, job.networks, job.optimizers)  # it gives way to a whole one
    assert load_checkpoint(tmp_path, job.networks, job.optimizers) == 5


# ------------------------------------------------------------------------------- whole runs, tiny


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for runs, with a perceptual network for the autoencoder's loss."""
    place = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    network = perceptual.PerceptualNetwork((4, 8))
    job = TrainingJob({"perceptual": network}, {}, lambda k: {}, 1)
    recipe = replace(perceptual.RECIPES["small"], widths=(4, 8))
    perceptual.export(job, recipe, place, place / "eye")
    return place


FROM_A_MODEL = ("inpaint", "flow", "distill", "controlnet", "lora")


def arguments(part: str, runs: Path) -> list[str]:
    """A tiny training in which every loss takes part."""
    own = {
        "vae": [
            "block_out_channels=(8,8,8,16)", "norm_num_groups=4", "perceptual=0.1",
            "perceptual_start=0.25", f"perceptual_network={runs / 'eye'}",
            "discriminator=0.1", "discriminator_start=0.25", "discriminator_warmup=1",
        ],
        "clip": ["hidden_size=16", "num_layers=1", "intermediate_size=32", "image_width=8"],
        "unet": ["block_out_channels=(32,32)", "num_heads=(2,2)", "min_snr=5"],
        "inpaint": ["holes=2"],
        "flow": ["shift=2"],
        "distill": ["substeps=1", "inside=0.5"],
        "controlnet": ["hint_channels=(8,8,8,16)"],
        "lora": ["rank=2", "text_encoder=True"],
        "transformer": ["num_layers=2", "num_heads=2", "head_dim=8", "shift=2", "lr_floor=1"],
        "perceptual": ["widths=(4,8)"],
    }[part]  # fmt: skip
    args = ["train", part, *TINY]
    for setting in own:
        args += ["--set", setting]
    if part in ("unet", "transformer"):
        args += ["--vae", str(runs / "vae"), "--text", str(runs / "clip")]
    if part in FROM_A_MODEL:
        args += ["--model", str(runs / "unet")]
    return args


def without(args: list[str], extra: list[str]) -> list[str]:
    """The arguments without the settings that `extra` sets, because none may be set twice."""
    names = {setting.partition("=")[0] for setting in extra}
    pairs = zip(args, [*args[1:], ""], strict=True)
    twice = {k for k, (a, b) in enumerate(pairs) if a == "--set" and b.partition("=")[0] in names}
    return [arg for k, arg in enumerate(args) if k not in twice and k - 1 not in twice]


@pytest.fixture(scope="module")
def straight(runs: Path) -> Callable[[str], Path]:
    """The folder of an undisturbed run of a part, and of those that it needs."""

    def run(part: str) -> Path:
        folder = runs / part
        if not folder.exists():
            for needed in {
                "unet": ["vae", "clip"], "transformer": ["vae", "clip"],
                **{key: ["unet"] for key in FROM_A_MODEL},
            }.get(part, []):  # fmt: skip
                run(needed)
            assert main([*arguments(part, runs), "--out", str(folder)]) == 0
        return folder

    return run


DYING = """
import os, signal, sys
from dataclasses import replace
from importlib import import_module

import torch
from sdlearn.cli.main import main

torch.set_num_threads(int(sys.argv[1]))
module = import_module("sdlearn.recipes." + sys.argv[3])
make_job = module.make_job

def make_dying_job(*args):
    job = make_job(*args)
    def step(k):
        if k == 5:
            job.step(k)
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return job.step(k)
    return replace(job, step=step)

module.make_job = make_dying_job
main(sys.argv[2:])
"""


@pytest.mark.parametrize("part", ["vae", "clip", "unet", "transformer", *FROM_A_MODEL])
def test_a_killed_run_resumes_to_the_same_bits(part: str, runs: Path, straight, tmp_path) -> None:  # type: ignore[no-untyped-def]
    whole = straight(part)
    folder = runs / f"killed-{part}"
    args = [*arguments(part, runs), "--out", str(folder)]
    threads = str(torch.get_num_threads())
    killed = subprocess.run(
        [sys.executable, "-c", DYING, threads, *args], capture_output=True, text=True, timeout=500
    )
    assert killed.returncode not in (0, 1, 2), killed.stderr
    assert [p.name for p in checkpoints(folder)] == ["step-00000002", "step-00000004"]
    assert steps_written(folder) == [1, 2, 3, 4, 5]

    assert main([*args, "--resume"]) == 0
    assert steps_written(folder) == list(range(1, 9))
    names = {path.name for path in (whole / "checkpoints" / "step-00000008").iterdir()}
    assert {p.name for p in (folder / "checkpoints" / "step-00000008").iterdir()} == names
    for name in sorted(names - {"optimizers.pt", "checksums.json"}):
        expected = load_file(whole / "checkpoints" / "step-00000008" / name)
        found = load_file(folder / "checkpoints" / "step-00000008" / name)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(found[key], value), f"{name}: {key}"


def test_a_run_documents_itself(runs: Path, straight) -> None:  # type: ignore[no-untyped-def]
    folder = straight("vae")
    record = json.loads((folder / "recipe.json").read_text())
    assert (record["part"], record["settings"]["steps"]) == ("vae", 8)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    parts = {"loss", "l1", "kl", "psnr", "perceptual", "adversarial", "discriminator", "gradient"}
    assert parts <= last.keys()
    sheet = Image.open(folder / "samples" / "step-00000008.png")
    assert sheet.size == (2 * (12 * 34 + 2), 2 * (2 * 34 + 2))
    config = json.loads((folder / "export" / "vae" / "config.json").read_text())
    assert config["block_out_channels"] == [8, 8, 8, 16]
    assert config["scaling_factor"] != 1.0


def test_the_exported_model_makes_pictures(runs: Path, straight) -> None:  # type: ignore[no-untyped-def]
    from sdlearn import StableDiffusion

    model = StableDiffusion.from_pretrained(straight("unet") / "export")
    assert model.spec.resolution == 32
    (picture,) = model.text_to_image("a red cat", steps=2, progress=False)
    assert picture.size == (32, 32)


def test_own_pictures_train_every_part(runs: Path, straight, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    straight("unet")
    own = tmp_path / "pictures"
    own.mkdir()
    with (own / "metadata.jsonl").open("w") as file:
        for k in range(5):
            render(scene(k), 48).save(own / f"{k}.png")
            text = f"a photograph of page {k}"
            file.write(json.dumps({"file_name": f"{k}.png", "text": text}) + "\n")
    for part in ("vae", "clip", "unet", "transformer", "inpaint", "flow", "distill", "lora"):
        args = [*arguments(part, runs), "--data", str(own), "--out", str(tmp_path / part)]
        assert main([*args, "--steps", "2"]) == 0
    tokenizer = read_tokenizer(tmp_path / "clip" / "export" / "tokenizer")
    assert tokenizer.tokenize("a photograph of a cat") == [
        "a</w>", "photograph</w>", "of</w>", "a</w>", "cat</w>",
    ]  # fmt: skip
    (latents,) = (tmp_path / "cache").glob("latents-*.npy")
    assert np.load(latents).shape == (5, 2, 4, 4, 4)  # five pictures: mean and deviation
    refused = [*arguments("perceptual", runs), "--data", str(own), "--out", str(tmp_path / "no")]
    assert main(refused) == 2


def test_init_starts_from_the_averages_of_a_run(runs: Path, straight, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = straight("vae")
    for number, init in enumerate((source, source / "export" / "vae")):
        folder = runs / f"init-{number}"
        args = [*arguments("vae", runs), "--out", str(folder), "--init", str(init)]
        assert main([*args, "--lr", "1e-9", "--steps", "1"]) == 0
        found = load_file(folder / "checkpoints" / "step-00000001" / "vae.safetensors")
        averages = load_file(source / "checkpoints" / "step-00000008" / "ema.safetensors")
        tolerance = 1e-8 if number == 0 else 1e-3  # an export is in half precision
        for key, value in averages.items():
            torch.testing.assert_close(found[key], value, rtol=tolerance, atol=tolerance)


def test_sigterm_stops_between_steps_with_a_checkpoint(
    runs: Path,
    straight,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_job = vae.make_job

    def make_stopped_job(*args):  # type: ignore[no-untyped-def]
        job = make_job(*args)

        def step(k: int) -> dict[str, torch.Tensor]:
            if k == 4:
                signal.raise_signal(signal.SIGTERM)
            return job.step(k)

        return replace(job, step=step)

    monkeypatch.setattr(vae, "make_job", make_stopped_job)
    folder = runs / "stopped"
    before = signal.getsignal(signal.SIGTERM)
    assert main([*arguments("vae", runs), "--out", str(folder)]) == 0
    assert signal.getsignal(signal.SIGTERM) is before
    assert "stopped at step 5 of 8; continue with --resume" in capsys.readouterr().out
    assert checkpoints(folder)[-1].name == "step-00000005"


def test_divergence_ends_with_exit_code_1_and_advice(runs: Path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    make_job = perceptual.make_job

    def make_spoiled_job(*args):  # type: ignore[no-untyped-def]
        job = make_job(*args)
        nan = torch.tensor(float("nan"))
        return replace(job, step=lambda k: job.step(k) | ({"loss": nan} if k == 1 else {}))

    monkeypatch.setattr(perceptual, "make_job", make_spoiled_job)
    folder = runs / "diverged"
    assert main([*arguments("perceptual", runs), "--out", str(folder)]) == 1
    message = capsys.readouterr().err
    assert re.search(r"stopped at step 2: loss is nan.*smaller --lr", message)
    assert not (folder / "export").exists()


# ----------------------------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--recipe", "huge"], "vae has no recipe 'huge'; accepted: storybook, small"),
        (["--text", "x"], "the recipe has no setting 'text'; accepted: batch, block_out"),
        (["--set", "kl"], "--set 'kl' has no value; accepted: --set NAME=VALUE"),
        (["--set", "kl=small"], "kl is 'small'; accepted: a number from 0 to 10"),
        (["--set", "flip=3"], "flip is 3; accepted: True or False"),
        (["--set", "perceptual_network=nowhere"], "sdlearn train perceptual"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--init", "nowhere"], "nowhere"),
        (["--data", "nowhere"], "nowhere does not exist; accepted: a folder of images"),
        (["--steps", "0"], "steps is 0"),
        (["--batch", "-1"], "batch is -1"),
        (["--set", "size=36"], "size is 36; accepted: multiples of 8, in pixels"),
        (
            ["--set", "norm_num_groups=0"],
            "norm_num_groups is 0; accepted: a whole number from 1 to 256",
        ),
        (
            ["--set", "block_out_channels=(8,'a')"],
            "accepted: 1 to 6 whole numbers in brackets, each from 1",
        ),
        (["--seed", str(2**63)], "accepted: a whole number from 0 to 9223372036854775807"),
        (["--checkpoint-steps", "0"], "--checkpoint-steps is 0; accepted: 1 or more"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    extra: list[str], sentence: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main([*without(arguments("vae", runs), extra), "--out", str(out), *extra]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("sdlearn: ")
    assert sentence in message
    assert not out.exists(), "a refused run leaves no folder behind"


def test_folders_that_are_taken_are_refused(runs: Path, straight, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    def refused(args: list[str]) -> str:
        assert main(args) == 2
        return str(capsys.readouterr().err.strip().splitlines()[-1])

    run = straight("vae")
    taken = [*arguments("vae", runs), "--out", str(run)]
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert "is not empty" in refused(taken)
    assert "started with batch 4, not 5" in refused([*taken, "--resume", "--batch", "5"])
    other = [arg.replace("small", "storybook") for arg in taken]
    assert "with the recipe 'small', not 'storybook'" in refused([*other, "--resume"])
    clip = [*arguments("clip", runs), "--out", str(run), "--resume"]
    assert "trains vae, not clip" in refused(clip)
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    (tmp_path / "letter.txt").write_text("dear")
    other = [*arguments("vae", runs), "--out", str(tmp_path), "--resume"]
    assert "is not empty" in refused(other)
    file = [*arguments("vae", runs), "--out", str(tmp_path / "letter.txt")]
    assert "is not empty" in refused(file) or "not a folder" in refused(file)


def test_compile_needs_a_compiler(runs: Path, tmp_path, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("shutil.which", lambda name: None)
    args = [*arguments("vae", runs), "--out", str(tmp_path / "run"), "--set", "compile=True"]
    assert main(args) == 2
    assert "no C++ compiler is installed; accepted: False" in capsys.readouterr().err


def test_a_unet_goes_on_only_with_the_parts_it_began_with(
    runs: Path,
    straight,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    straight("unet")
    parts = tmp_path / "vae"
    shutil.copytree(runs / "vae" / "export" / "vae", parts)
    args = [*arguments("unet", runs), "--vae", str(parts), "--out", str(tmp_path / "run")]
    assert main([*args, "--steps", "4", "--minutes", "0.0001"]) == 0
    weights = parts / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    save_file({key: value * 1.01 for key, value in load_file(weights).items()}, weights)
    capsys.readouterr()
    assert main([*args, "--steps", "4", "--resume"]) == 2
    assert "started with another version of its vae; restore it" in capsys.readouterr().err
    weights.write_bytes(before)
    assert main([*args, "--steps", "4", "--resume"]) == 0


def test_the_unet_says_which_part_it_lacks(runs: Path, straight, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    args = [*arguments("unet", runs), "--vae", str(tmp_path), "--out", str(tmp_path / "run")]
    assert main(args) == 2
    assert f"no trained vae in {tmp_path}" in capsys.readouterr().err
