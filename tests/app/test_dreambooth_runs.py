"""DreamBooth: the loss with prior preservation, what a run writes, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sdlearn import StableDiffusion
from sdlearn.cli.main import main
from sdlearn.dreambooth import prior_loss
from sdlearn.recipes import class_images, dreambooth, embedding, lora
from sdlearn.recipes.base_model import class_images as images_of
from sdlearn.recipes.base_model import load_base
from sdlearn.training import TrainingJob
from tests.processes import torchrun
from tests.tiny_model import tiny_diffusers
from tests.tiny_own import own_images, row_losses, saved
from tests.tiny_runs import sentence

CPU = torch.device("cpu")
TOGETHER = str(Path(__file__).resolve().parents[1] / "train_together.py")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, and three images of a cat."""
    folder = tmp_path_factory.mktemp("dreambooth")
    saved(tiny_diffusers, folder / "model")
    own_images(folder / "own")
    return folder


def command(
    place: Path, out: Path, *extra: str, part: str = "dreambooth", **changes: object
) -> list[str]:
    """A tiny training of a part, with some settings changed; None leaves one out."""
    settings: dict[str, object] = {"batch": 4, "size": 32}
    if part != "embedding":
        settings |= {"class_prompt": "a cat", "class_images": 6}
    settings = {"data": place / "own", "model": place / "model"} | settings | changes
    args = ["train", part, "--recipe", "small", "--device", "cpu", "--steps", "4"]
    for name, value in settings.items():
        args += [] if value is None else ["--set", f"{name}={value}"]
    return [*args, "--checkpoint-steps", "2", "--out", str(out), *extra]


def recipe(place: Path, **changes: Any) -> dreambooth.DreamBoothRecipe:
    settings = {
        "model": str(place / "model"), "data": str(place / "own"), "size": 32, "batch": 4,
        "class_images": 6, "class_prompt": "a cat", "warmup": 0,
    }  # fmt: skip
    return replace(dreambooth.RECIPES["small"], **settings | changes)


def weights(run: Path, step: int = 4) -> dict[str, Tensor]:
    files = sorted((run / "checkpoints" / f"step-{step:08d}").glob("*.safetensors"))
    assert files
    return {f"{file.stem}.{k}": v for file in files for k, v in load_file(file).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_a_step_has_the_loss_of_the_paper_and_moves_the_unet_alone(
    place: Path, accumulate: int
) -> None:
    settings = recipe(place, prior_weight=0.7, accumulate=accumulate, dropout=0.0, batch=8, lr=1e-3)
    cache = place / "cache"
    base = load_base(settings.model, settings, CPU)
    prior = images_of(settings, base, cache)
    assert prior is not None
    losses = row_losses(base.sd, settings, cache, prior)
    job = dreambooth.make_job(settings, cache, CPU)
    unet = job.networks["unet"]
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    expected = float(prior_loss(losses, 4, 0.7))
    assert expected != pytest.approx(float(losses.mean()), rel=1e-3)
    assert job.step(0)["loss"].item() == pytest.approx(expected, rel=1e-5)
    moved = [name for name, value in unet.state_dict().items() if not value.equal(before[name])]
    assert len(moved) > 0.9 * len(before)
    assert job.networks.keys() == {"unet", "ema"}


def test_half_of_each_batch_are_images_of_the_class_with_the_class_prompt(place: Path) -> None:
    settings = recipe(place, batch=8, dropout=0.0)
    base = load_base(settings.model, settings, CPU)
    prior = images_of(settings, base, place / "cache")
    assert prior is not None
    assert prior.pages.shape == (6, 32, 32, 3)
    drawn = base.sd.text_to_image("a cat", seed=5, height=32, width=32, progress=False)[0]
    assert np.abs(np.asarray(drawn).astype(int) - prior.pages[5].astype(int)).max() <= 1
    data = dreambooth.CaptionedLatents(settings, base.parts(), 1000, place / "cache", CPU, prior)
    rows = np.stack([data.batch(k).rows for k in range(12)])
    assert set(rows[:, :4].flatten()) == {0, 1, 2}
    assert set(rows[:, 4:].flatten()) == {3, 4, 5, 6, 7, 8}
    batch = data.batch(0)
    captions = data.captions_of(batch)
    assert captions[4:] == ["a cat"] * 4
    assert captions[:4] == [data.texts[row] for row in batch.rows[:4]]
    assert not any(
        torch.equal(*pair) for pair in zip(batch.context[:4], batch.context[4:], strict=True)
    )
    assert torch.equal(data.batch(0).z_0, batch.z_0)


class Killed(BaseException):
    """What ends a process at once: nothing is written after it."""


def test_a_killed_run_resumes_to_the_same_bits_and_its_export_is_a_model(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(command(place, whole)) == 0
    make_job = dreambooth.make_job

    def dying(*args: Any) -> TrainingJob:
        job = make_job(*args)

        def step(k: int) -> dict[str, Tensor]:
            if k == 3:
                raise Killed
            return job.step(k)

        return replace(job, step=step)

    with monkeypatch.context() as patch:
        patch.setattr(dreambooth, "make_job", dying)
        with pytest.raises(Killed):
            main(command(place, killed))
    assert [p.name for p in (killed / "checkpoints").iterdir()] == ["step-00000002"]
    assert not (killed / "export").exists()
    assert main(command(place, killed, "--resume")) == 0
    assert same(weights(killed), weights(whole))

    sd = StableDiffusion.from_pretrained(whole / "export", device="cpu")
    base = StableDiffusion.from_pretrained(place / "model", device="cpu")
    averages = {name[4:]: x for name, x in weights(whole).items() if name.startswith("ema.")}
    for name, value in sd.unet.state_dict().items():
        torch.testing.assert_close(value, averages[name], rtol=1e-3, atol=1e-6)
    assert any(not x.equal(base.unet.state_dict()[n].half().float()) for n, x in
               sd.unet.state_dict().items())  # fmt: skip
    for ours, theirs in ((sd.vae, base.vae), (sd.text, base.text)):
        for name, value in ours.state_dict().items():
            torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-3, atol=1e-6)

    # --init of the run, and --model of it: both start with its weights.
    quiet = ["--lr", "1e-9", "--steps", "2"]
    assert main(command(place, tmp_path / "again", "--init", str(whole), *quiet, ema=0)) == 0
    again = weights(tmp_path / "again", 2)
    assert all((again[f"unet.{n}"] - x).abs().max() < 1e-6 for n, x in averages.items())
    assert main(command(place, tmp_path / "lora", "--steps", "1", part="lora", model=whole)) == 0


def test_weight_0_is_plain_fine_tuning_and_the_prior_changes_the_result(
    place: Path, tmp_path: Path
) -> None:
    runs = {
        "plain": {"batch": 2, "class_images": 0},
        "zero": {"prior_weight": 0},
        "prior": {"prior_weight": 1},
    }
    for name, changes in runs.items():
        assert main(command(place, tmp_path / name, dropout=0, **changes)) == 0
    plain, zero, prior = (weights(tmp_path / name) for name in runs)
    assert same(plain, zero)
    moved = [name for name in plain if not plain[name].equal(prior[name])]
    assert len(moved) > 0.9 * len(plain)


def test_lora_has_the_same_prior_and_shares_the_drawn_images(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = place / "cache"
    dreambooth.make_job(recipe(place), cache, CPU)
    drawn = {path.name: path.stat().st_mtime_ns for path in cache.glob("class-*.npy")}
    monkeypatch.setattr(class_images, "to_pixels", None)  # nothing may be drawn again
    values = {name: value for name, value in vars(recipe(place)).items() if name != "prior_weight"}
    settings = lora.LoRARecipe(**values, prior_weight=0.3, rank=2, text_encoder=True)
    job = lora.make_job(settings, cache, CPU)
    base = load_base(settings.model, settings, CPU)
    losses = row_losses(base.sd, settings, cache, images_of(settings, base, cache))
    found = job.step(0)["loss"].item()
    assert found == pytest.approx(float(prior_loss(losses, 2, 0.3)), rel=1e-5)
    assert drawn == {path.name: path.stat().st_mtime_ns for path in cache.glob("class-*.npy")}


@pytest.mark.slow
def test_two_processes_train_what_one_trains(place: Path, tmp_path: Path) -> None:
    """DreamBooth, LoRA with prior preservation, and a new word, in float64."""
    few = ["--steps", "6", "--lr", "1e-4", "--set", "min_snr=5"]
    own: dict[str, dict[str, object]] = {
        "dreambooth": {"prior_weight": 0.5, "accumulate": 2},
        "lora": {"rank": 2, "text_encoder": True},
        "embedding": {"word": "<toby>", "vectors": 2, "start": "cat"},
    }
    for count in (1, 2):
        commands = [
            json.dumps(command(place, tmp_path / str(count) / part, *few, part=part, **changes))
            for part, changes in own.items()
        ]
        done = torchrun(count, TOGETHER, "float64", *commands)
        assert done.returncode == 0, done.stderr[-3000:]
    for part in own:
        one, two = (weights(tmp_path / str(count) / part, 6) for count in (1, 2))
        first = weights(tmp_path / "1" / part, 4)
        assert one.keys() == two.keys()
        x, y, z = (torch.cat([each[k].flatten() for k in one]) for each in (one, two, first))
        assert (x - y).norm() < 1e-12 * x.norm(), part
        assert (x - z).norm() > 1e-7 * x.norm(), "the test trains nothing"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"class_images": -1}, "class_images is -1; accepted: a whole number from 0 to 100000"),
        ({"prior_weight": "-1"}, "prior_weight is -1.0; accepted: a number from 0 to 1000"),
        ({"batch": 3}, "batch is 3; accepted with prior preservation: even numbers"),
        ({"class_prompt": None}, "class_prompt is empty; accepted: a text that names the class"),
        ({"data": None}, "data is empty; accepted: a folder, or shards, of a few captioned image"),
        ({"data": "nowhere"}, "nowhere"),
        ({"model": "nowhere"}, "nowhere, which holds no model; accepted: a folder"),
        ({"spec": "sd1.5"}, "spec and tokenizer are accepted for a single file only"),
        ({"size": 36}, "size is 36; accepted: multiples of 8"),
        ({"rank": 4}, "the recipe has no setting 'rank'; accepted: accumulate"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    changes: dict[str, Any], said: str, place: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert said in sentence(command(place, tmp_path / "run", **changes), capsys)
    assert not (tmp_path / "run").exists()


def test_a_new_word_needs_no_images_of_a_class(place: Path) -> None:
    with pytest.raises(ValueError, match="class_images is 5; accepted: 0, because the model is f"):
        replace(embedding.RECIPES["small"], class_images=5, class_prompt="a cat")
