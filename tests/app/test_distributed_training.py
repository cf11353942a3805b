"""Training in several processes, on the CPU with gloo: they train what one process trains."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sdlearn.cli.main import main
from sdlearn.utils.checkpoint import checkpoints
from sdlearn.utils.metrics_file import read_metrics
from tests.processes import sentences, torchrun, two_machines

TOGETHER = str(Path(__file__).resolve().parents[1] / "train_together.py")
STEPS = 10
# A small learning rate: Adam and Muon turn the rounding of a gradient that should be 0 into a step.
COMMON = [
    "--recipe", "small", "--steps", str(STEPS), "--batch", "4", "--scenes", "24",
    "--device", "cpu", "--checkpoint-steps", "4", "--lr", "1e-4", "--set", "warmup=2",
]  # fmt: skip
OWN = {
    "perceptual": ["widths=(4,8)", "size=32"],
    "vae": [
        "block_out_channels=(8,8,8,16)", "norm_num_groups=4", "size=32", "perceptual=0.1",
        "perceptual_start=0.2", "perceptual_network={runs}/perceptual/export", "mse=1.0",
        "discriminator=0.1", "discriminator_start=0.3", "discriminator_warmup=2",
    ],
    "clip": ["hidden_size=16", "num_layers=1", "intermediate_size=32", "image_width=16", "size=32"],
    "unet": ["block_out_channels=(32,32)", "num_heads=(2,2)", "min_snr=5", "size=32"],
    "inpaint": ["holes=2", "size=32"],
    "flow": ["shift=2", "size=32"],
    "transformer": ["num_layers=2", "num_heads=2", "head_dim=8", "shift=2", "size=32"],
    "distill": ["substeps=1", "inside=0.5", "size=32"],
    "controlnet": ["hint_channels=(8,8,8,16)", "size=32"],
    "lora": ["rank=2", "text_encoder=True", "size=32"],
    "judge": ["channels=(8,8,16)"],
}  # fmt: skip
IN_FLOAT32 = ("perceptual", "vae", "clip", "unet")
SHARDED = ("unet", "inpaint", "controlnet", "flow", "distill")
FOLDERS = {
    "unet": ["--vae", "{runs}/vae", "--text", "{runs}/clip"],
    "transformer": ["--vae", "{runs}/vae", "--text", "{runs}/clip"],
    "inpaint": ["--model", "{runs}/unet"],
    "flow": ["--model", "{runs}/unet"],
    "distill": ["--model", "{runs}/unet"],
    "controlnet": ["--model", "{runs}/unet"],
    "lora": ["--model", "{runs}/unet"],
}


def command(part: str, runs: Path, out: Path) -> list[str]:
    """A tiny training of a part, on the parts in the folder `runs`, in which every loss counts."""
    args = ["train", part, *COMMON, *FOLDERS.get(part, [])]
    for setting in OWN[part]:
        args += ["--set", setting]
    return [arg.format(runs=runs) for arg in args] + ["--out", str(out)]


def weights(run: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    """All weights of a checkpoint, averages included."""
    place = run / "checkpoints" / f"step-{step:08d}"
    return {
        f"{file.stem}.{name}": value
        for file in sorted(place.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def distance(a: Path, b: Path) -> float:
    """‖a − b‖ / ‖b‖ of all weights of two runs."""
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    x, y = (torch.cat([w[key].double().flatten() for key in theirs]) for w in (ours, theirs))
    return float((x - y).norm() / y.norm())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same trainings in one process and in two, in float64 and, some of them, in float32."""
    place = tmp_path_factory.mktemp("runs")
    for dtype, parts in (("float64", tuple(OWN)), ("float32", IN_FLOAT32)):
        for count in (1, 2):
            # Both start from the parts that one process has trained.
            commands = [
                json.dumps(command(part, place / f"{dtype}-1", place / f"{dtype}-{count}" / part))
                for part in parts
            ]
            done = torchrun(count, TOGETHER, dtype, *commands)
            assert done.returncode == 0, done.stderr[-3000:]
        commands = [
            json.dumps(
                [*command(part, place / f"{dtype}-1", place / f"{dtype}-sharded" / part), "--shard"]
            )
            for part in SHARDED
            if part in parts
        ]
        done = torchrun(2, TOGETHER, dtype, *commands)
        assert done.returncode == 0, done.stderr[-3000:]
    return place


@pytest.mark.slow
@pytest.mark.parametrize("part", OWN)
def test_two_processes_train_what_one_trains(runs: Path, part: str) -> None:
    one, two = runs / "float64-1" / part, runs / "float64-2" / part
    assert distance(two, one) < 1e-12
    before, after = (weights(one, step) for step in (8, STEPS))
    moved = [key for key in after if not torch.equal(before[key], after[key])]
    assert len(moved) > len(after) / 3, "the test trains nothing"


@pytest.mark.slow
@pytest.mark.parametrize("part", IN_FLOAT32)
def test_in_float32_only_rounding_differs(runs: Path, part: str) -> None:
    assert distance(runs / "float32-2" / part, runs / "float32-1" / part) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("part", OWN)
def test_the_metrics_are_those_of_the_whole_batch(runs: Path, part: str) -> None:
    (one, _), (two, _) = (
        read_metrics(runs / f"float64-{count}" / part / "metrics.jsonl") for count in (1, 2)
    )
    assert len(one) == len(two) == STEPS, "only one process writes"
    for theirs, ours in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs.keys() - {"images_per_second"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-9, abs=1e-9), name


@pytest.mark.slow
def test_the_first_process_alone_writes_samples_and_the_part(runs: Path) -> None:
    one, two = (runs / f"float32-{count}" / "unet" for count in (1, 2))
    names = [sorted(p.relative_to(run).as_posix() for p in run.rglob("*")) for run in (one, two)]
    assert names[0] == names[1]
    record = json.loads((two / "recipe.json").read_text())
    assert record["machine"]["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("part", SHARDED)
def test_sharded_weights_are_trained_and_written_as_whole_ones(runs: Path, part: str) -> None:
    one, sharded = runs / "float64-1" / part, runs / "float64-sharded" / part
    assert distance(sharded, one) < 1e-12
    if part in IN_FLOAT32:
        assert distance(runs / "float32-sharded" / part, runs / "float32-1" / part) < 1e-5
    names = [
        sorted(p.relative_to(run).as_posix() for p in run.rglob("*")) for run in (one, sharded)
    ]
    assert names[0] == names[1]
    files = sorted((one / "export").rglob("*.safetensors"))
    assert files
    for file in files:  # in float16
        theirs, ours = load_file(file), load_file(sharded / file.relative_to(one))
        assert ours.keys() == theirs.keys()
        for key, x in theirs.items():
            torch.testing.assert_close(ours[key], x, rtol=1e-3, atol=1e-7, msg=key)


@pytest.mark.slow
def test_two_machines_train_what_two_processes_of_one_train(runs: Path) -> None:
    folder = runs / "machines" / "unet"
    args = command("unet", runs / "float32-1", folder)
    for code, said in two_machines("-m", "sdlearn", *args):
        assert code == 0, said[-3000:]
    assert distance(folder, runs / "float32-2" / "unet") == 0


DYING = """
import os, signal, sys
from dataclasses import replace

from sdlearn.cli.main import main
from sdlearn.recipes import unet

make_job = unet.make_job

def make_dying_job(*args):
    job = make_job(*args)
    def step(k):
        if k == 6 and os.environ["RANK"] == sys.argv[1]:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return job.step(k)
    return replace(job, step=step)

unet.make_job = make_dying_job
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_the_run_goes_on_in_any_number(
    runs: Path, tmp_path: Path, rank: int, capsys: pytest.CaptureFixture[str]
) -> None:
    program, folder = tmp_path / "dying.py", runs / "killed" / str(rank)
    program.write_text(DYING)
    args = command("unet", runs / "float32-1", folder)
    shard = ["--shard"] if rank == 1 else []
    done = torchrun(2, str(program), str(rank), *args, *shard)
    assert done.returncode != 0
    (said,) = sentences(done.stderr)
    assert said.startswith("sdlearn: another process of this training has ended")
    assert [p.name for p in checkpoints(folder)] == ["step-00000004"]
    assert not (folder / "export").exists()

    if rank == 0:  # as many processes as before: the same bits
        done = torchrun(2, "-m", "sdlearn", *args, "--resume")
        assert done.returncode == 0, done.stderr
        assert distance(folder, runs / "float32-2" / "unet") == 0
    else:
        assert main([*args, "--resume", "--set", "shard=False"]) == 0
        assert "began with" in (said := capsys.readouterr().err)
        assert "processes 2, now 1" in said
        assert distance(folder, runs / "float32-1" / "unet") < 1e-5
    assert [row["step"] for row in read_metrics(folder / "metrics.jsonl")[0]] == [*range(1, 11)]


@pytest.mark.slow
def test_what_cannot_be_shared_is_refused_once_and_nothing_is_written(tmp_path: Path) -> None:
    args = ["train", "perceptual", *COMMON, "--out", str(tmp_path / "run")]
    args[args.index("--batch") + 1] = "5"
    done = torchrun(2, "-m", "sdlearn", *args)
    assert done.returncode != 0
    assert sentences(done.stderr) == [
        "sdlearn: --batch is 5; accepted: multiples of 2, the number of processes"
    ]
    assert not (tmp_path / "run").exists()
    assert done.stdout == ""
