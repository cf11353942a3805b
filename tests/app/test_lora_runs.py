"""Training of low-rank adapters: what changes, what is written, and what is refused."""

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
from sdlearn.recipes import lora
from sdlearn.recipes.base_model import BaseModel
from sdlearn.recipes.captioned_latents import CaptionedLatents
from sdlearn.recipes.noise import draw_noise
from sdlearn.training import diffusion_loss
from sdlearn.weights.adapter_files import FILE_NAME
from tests.tiny_runs import sentence

CPU = torch.device("cpu")
TINY = ["train", "lora", "--recipe", "small", "--steps", "2", "--batch", "2", "--scenes", "12"]
TINY += ["--device", "cpu", "--set", "rank=2", "--set", "alpha=1", "--set", "text_encoder=True"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "cache"


@pytest.fixture
def no_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples take longer than these trainings; one test draws them."""
    monkeypatch.setattr(lora, "sample_images", lambda *_: np.zeros((8, 64, 64, 3), np.uint8))


def recipe(**changes: Any) -> lora.LoRARecipe:
    return replace(lora.RECIPES["small"], steps=3, batch=4, scenes=12, warmup=0, **changes)


def weights_of(sd: StableDiffusion) -> dict[str, Tensor]:
    """A copy of every weight of a model."""
    networks = {"unet": sd.unet, "vae": sd.vae, "text": sd.text}
    return {
        f"{part}.{name}": value.clone()
        for part, network in networks.items()
        for name, value in network.state_dict().items()
    }


@pytest.mark.parametrize("text_encoder", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_begins_with_the_loss_of_the_model_and_moves_the_adapter_alone(
    cache: Path, monkeypatch: pytest.MonkeyPatch, text_encoder: bool, accumulate: int
) -> None:
    bases: list[BaseModel] = []
    load = lora.load_base
    monkeypatch.setattr(lora, "load_base", lambda *args: bases.append(load(*args)) or bases[0])
    settings = recipe(text_encoder=text_encoder, accumulate=accumulate, min_snr=5.0)
    job = lora.make_job(settings, cache, CPU)
    sd, before = bases[0].sd, weights_of(bases[0].sd)
    data = CaptionedLatents(settings, bases[0].parts(), 1000, cache, CPU)
    batch = data.batch(0)
    context = batch.context
    if text_encoder:
        with torch.no_grad():
            context = StableDiffusion.storybook(device="cpu").text(data.captions_of(batch)).context
    eps = draw_noise(batch.z_0.shape, settings.seed, 0, CPU, stream=2)
    with torch.no_grad():  # the fresh adapter is attached, and adds zero
        own = diffusion_loss(sd.unet, batch.z_0, batch.t, eps, context, sd.schedule, min_snr=5.0)
    first = {name: value.clone() for name, value in job.networks["lora"].state_dict().items()}
    assert job.step(0)["loss"].item() == pytest.approx(float(own), rel=1e-5)
    after = job.networks["lora"].state_dict()
    moved = {name for name in first if not torch.equal(first[name], after[name])}
    assert {name for name in moved if name.endswith(".up")} == {n for n in first if "up" in n[-2:]}
    job.step(1)  # now that B is not zero, A has a gradient as well
    last = job.networks["lora"].state_dict()
    assert not any(torch.equal(first[name], last[name]) for name in first)
    assert {name.split(".")[0] for name in last} == {"unet", *["text_encoder"] * text_encoder}
    now = weights_of(sd)
    assert now.keys() == before.keys()
    assert all(torch.equal(now[name], before[name]) for name in before)


def test_samples_leave_the_training_as_it_was(cache: Path) -> None:
    jobs = [lora.make_job(recipe(), cache, CPU) for _ in range(2)]
    for k in range(2):
        jobs[0].step(k)
        jobs[1].step(k)
        if k == 0:
            assert jobs[1].samples is not None
            sheet = jobs[1].samples()
    assert sheet.size == (3 * (8 * 66 + 2), 3 * (2 * 66 + 2))
    states = [job.networks["lora"].state_dict() for job in jobs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def noise(sd: StableDiffusion) -> Tensor:
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return sd.unet(z, 500, sd.text(["a red cat"]).context)


@pytest.mark.usefixtures("no_samples")
def test_the_exported_file_is_read_in_both_layouts_and_by_generate(tmp_path: Path) -> None:
    sd = StableDiffusion.storybook(device="cpu")
    plain, found = noise(sd), []
    for layout in ("peft", "kohya"):
        out = tmp_path / layout
        assert main([*TINY, "--set", f"layout={layout}", "--set", "ema=0", "--out", str(out)]) == 0
        assert [file.name for file in (out / "export").iterdir()] == [FILE_NAME]
        with_adapter = sd.load_adapter(out / "export")
        found.append(noise(sd))
        with_adapter.detach()
    assert torch.equal(noise(sd), plain)
    assert torch.equal(*found)
    assert not torch.equal(found[0], plain)
    names = load_file(tmp_path / "peft" / "export" / FILE_NAME)
    assert any(name.startswith("text_encoder.text_model.") for name in names)
    settings = lora.RECIPES["small"].__class__(**json.loads(
        (tmp_path / "peft" / "recipe.json").read_text())["settings"])  # fmt: skip
    state = load_file(tmp_path / "peft" / "checkpoints" / "step-00000002" / "lora.safetensors")
    adapters = lora.new_adapters(settings, sd.adaptable)
    adapters.load_state_dict(state)
    lora.attach_all(sd, adapters)  # what was trained is what was exported
    assert torch.equal(noise(sd), found[0])
    args = ["generate", "a red cat", "--steps", "1", "--out", str(tmp_path / "cat.png")]
    assert main([*args, "--lora", str(tmp_path / "kohya" / "export" / FILE_NAME)]) == 0


@pytest.mark.usefixtures("no_samples")
def test_a_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    args = [*TINY, "--checkpoint-steps", "1"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*args, "--out", str(whole)]) == 0
    assert main([*args, "--out", str(stopped), "--minutes", "0.00001"]) == 0
    assert [p.name for p in (stopped / "checkpoints").iterdir()] == ["step-00000001"]
    assert main([*args, "--out", str(stopped), "--resume"]) == 0
    for name in ("lora", "ema"):
        last = f"checkpoints/step-00000002/{name}.safetensors"
        one, two = (load_file(run / last) for run in (whole, stopped))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.usefixtures("no_samples")
def test_a_run_starts_from_the_adapter_of_another_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, "--out", str(tmp_path / "one")]) == 0
    args = [*TINY, "--init", str(tmp_path / "one"), "--out", str(tmp_path / "other" / "two")]
    twice = [*args, "--lr", "1e-9", "--set", "ema=0"]
    assert main(twice) == 0
    first, second = (
        load_file(tmp_path / run / "checkpoints" / "step-00000002" / f"{name}.safetensors")
        for run, name in (("one", "ema"), ("other/two", "lora"))
    )
    states = [next(place.glob("cache/states-*.npy")) for place in (tmp_path, tmp_path / "other")]
    assert states[0].name == states[1].name
    assert np.array_equal(*map(np.load, states)), "the cache holds what an adapter encoded"
    assert all((first[name] - second[name]).abs().max() < 1e-6 for name in first)
    assert any(first[name].any() for name in first if name.endswith(".up"))
    args[args.index("rank=2")] = "rank=3"
    args[-1] = str(tmp_path / "three")
    assert "rank is 3, but 2 in the run" in sentence(args, capsys)
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--shard"], "--shard is True; accepted: False, because an adapter is small"),
        (["--set", "layout=lycoris"], "layout is 'lycoris'; accepted: peft, kohya"),
        (["--set", "pattern=attn3"], "no linear layer or convolution of this UNet has a name"),
        (["--set", "text_pattern=["], "pattern is '[', not a regular expression"),
        (["--model", "nowhere"], "nowhere, which holds no model; accepted: a folder"),
        (["--init", "nowhere"], "init is nowhere, which is no run; accepted: the folder of a run"),
        (["--hint", "edges"], "the recipe has no setting 'hint'; accepted: accumulate, acti"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    extra: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in sentence([*TINY, *extra, "--out", str(tmp_path / "run")], capsys)
    assert not (tmp_path / "run").exists()
