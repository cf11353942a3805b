"""`sdlearn train PART --dry-run`: what it prints, for every part, and what it refuses."""

import re
from pathlib import Path

import pytest

from sdlearn.cli.main import main
from sdlearn.recipes import PARTS
from sdlearn.utils.resources import data_folder
from tests.tiny_runs import refused

PLAN = ["--dry-run", "--devices", "2", "--throughput", "10", "--price", "3"]


def printed(args: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """The lines of a dry run by their label: the words and numbers after it."""
    capsys.readouterr()
    assert main(args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 43  # a phone's page breaks longer ones
    rows = [line for line in lines if line.startswith("  ") and line[2:3].strip()]
    return {line[2:21].strip(): line[21:].split() for line in rows}


@pytest.mark.parametrize("part", PARTS)
def test_every_part_can_be_planned_and_nothing_is_written(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    steps, batch = 100, 8
    args = ["train", part, "--recipe", "small", *PLAN, "--steps", "100", "--batch", "8"]
    found = printed(args, capsys)
    assert found["images"] == [f"{steps * batch}"]
    assert float(found["device hours"][0]) == pytest.approx(steps * batch / 10 / 3600, abs=0.06)
    rows = [found[name] for name in ("weights", "gradients", "optimizer", "EMA")]
    for whole, share in rows:
        assert float(share) == pytest.approx(float(whole) / 2, abs=0.0011)
    assert float(found["GFLOPs per image"][0].replace(",", "")) > 0
    assert float(found["activations"][0]) > 0
    assert list(tmp_path.iterdir()) == []


def test_the_parameters_of_the_storybook_model_are_those_of_its_files(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = printed(["train", "unet", "--dry-run"], capsys)
    assert found["unet"] == ["11,015,620", "trained"]
    assert float(found["weights"][0]) == pytest.approx(4 * 11_015_620 / 1e9, abs=0.0006)
    assert float(found["optimizer"][0]) == pytest.approx(8 * 11_015_620 / 1e9, abs=0.0006)


@pytest.mark.slow
def test_the_plan_of_stable_diffusion(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["train", "unet", "--recipe", "sd1.5", "--dry-run", "--devices", "256"]
    args += ["--device-memory", "40", "--throughput", "4", "--price", "2.5"]
    found = printed(args, capsys)
    assert found["unet"] == ["859,520,964", "trained"]
    assert found["vae"] == ["83,653,863", "frozen"]
    assert found["text"] == ["123,060,480", "frozen"]
    state = {name: found[name] for name in ("weights", "gradients", "optimizer", "EMA")}
    assert {name: x[0] for name, x in state.items()} == {
        "weights": "3.438", "gradients": "3.438", "optimizer": "6.876", "EMA": "3.438",
    }  # fmt: skip
    assert state["optimizer"][1] == "0.027"
    assert found["in 40 GB"] == ["fits", "fits"]
    assert found["images"] == ["1,218,560,000"]  # 595,000 x 2,048
    assert found["GFLOPs per image"][0] == "2,409.82"
    assert found["device hours"][0] == "84,622.2"
    assert found["days"][0] == "13.77"
    assert found["dollars"][0] == "211,555.56"
    small = printed([*args[:-1], "2.5", "--device-memory", "4"], capsys)
    assert small["in 4 GB"] == ["too", "large", "too", "large"]


def test_activation_checkpointing_keeps_less_and_computes_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = ["train", "unet", "--recipe", "small", "--dry-run"]
    plain = printed(args, capsys)
    again = printed([*args, "--set", "activation_checkpointing=True"], capsys)
    assert float(again["activations"][0]) < float(plain["activations"][0]) / 2
    a, b = (float(x["GFLOPs per image"][0]) for x in (plain, again))
    assert b == pytest.approx(a * 4 / 3, abs=0.02)


UNET = ["train", "unet", "--recipe", "small"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--devices", "2", "--out", "run"], "--devices needs --dry-run; add that, or leave it o"),
        (["--price", "2", "--out", "run"], "--price needs --dry-run; add"),
        (["--dry-run", "--resume", "--out", "run"], "--resume cannot be used with --dry-run"),
        (["--dry-run", "--devices", "0"], "--devices is 0; accepted: 1 … 1,000,000"),
        (["--dry-run", "--devices", "3"], "--batch is 32; accepted: multiples of 3, for 3 devices"),
        (["--dry-run", "--device-memory", "0"], "--device-memory is 0.0; accepted: a number of GB"),
        (["--dry-run", "--throughput", "nan"], "--throughput is nan; accepted: a number of images"),
        (
            ["--dry-run", "--throughput", "1", "--price", "-1"],
            "--price is -1.0; accepted: a number",
        ),
        (["--dry-run", "--price", "1"], "--price needs --throughput"),
        (
            ["--dry-run", "--recipe", "sd3"],
            "unet has no recipe 'sd3'; accepted: storybook, small, ",
        ),
        (["--dry-run", "--set", "system=sdxl"], "system is 'sdxl'; accepted: storybook, sd1.5"),
        (["--dry-run", "--vae", "nowhere"], "there is no trained vae in nowhere"),
        ([], "--out is missing; accepted: the folder of the run, such as runs/vae"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(
    args: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    command = [*UNET, *args]
    if "--devices" in args and "--dry-run" in args:
        command += ["--batch", "32"]
    assert said in refused(command, capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [[], ["--vae", str(data_folder("storybook"))]])
def test_stable_diffusion_needs_its_own_parts(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["train", "unet", "--recipe", "sd1.5", "--out", str(tmp_path / "run"), *given]
    line = refused([*args, "--set", "block_out_channels=(32,32,32,32)"], capsys)
    assert re.search(
        r"text is empty, the shipped one, with 128 channels; accepted for sd1.5: .* 768", line
    )
    assert not (tmp_path / "run" / "recipe.json").exists()
