"""Training of a new word: its rows alone change, and what cannot be trained is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sdlearn import StableDiffusion
from sdlearn.cli.main import main
from sdlearn.recipes import embedding
from sdlearn.recipes.base_model import BaseModel
from sdlearn.recipes.captioned_latents import CaptionedLatents
from sdlearn.recipes.data import scene
from sdlearn.recipes.noise import draw_noise
from sdlearn.storybook import render
from sdlearn.textual_inversion import add_word, initial_vectors, vectors_of
from sdlearn.training import diffusion_loss
from sdlearn.weights.embedding_files import FILE_NAME
from tests.tiny_runs import sentence

CPU = torch.device("cpu")
WORD = "<toy>"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pages, whose captions contain the word."""
    folder = tmp_path_factory.mktemp("own") / "images"
    folder.mkdir()
    lines = []
    for k, text in enumerate(("a <toy> on the sand", "a red <toy> by day", "<toy> and <toy>")):
        render(scene(k), 64).save(folder / f"{k}.png")
        lines.append(json.dumps({"file_name": f"{k}.png", "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def command(own: Path, out: Path, *extra: str) -> list[str]:
    args = ["train", "embedding", "--recipe", "small", "--device", "cpu", "--data", str(own)]
    args += ["--set", f"word={WORD}", "--set", "vectors=2", "--set", "start=cat", "--steps", "4"]
    return [*args, "--batch", "2", "--checkpoint-steps", "1", "--out", str(out), *extra]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_begins_with_the_loss_of_the_model_and_moves_the_new_rows_alone(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    bases: list[BaseModel] = []
    load = embedding.load_base

    def kept(*args: Any) -> BaseModel:
        bases.append(load(*args))
        return bases[-1]

    monkeypatch.setattr(embedding, "load_base", kept)
    settings = replace(
        embedding.RECIPES["small"], batch=4, word=WORD, vectors=2, start="cat", dropout=0.0,
        data=str(own), warmup=0, accumulate=accumulate,
    )  # fmt: skip
    cache = tmp_path / "cache"
    job = embedding.make_job(settings, cache, CPU)
    networks = {"unet": bases[0].sd.unet, "vae": bases[0].sd.vae, "text": bases[0].sd.text}
    before = {
        (part, name): value.clone()
        for part, network in networks.items()
        for name, value in network.state_dict().items()
    }
    rows = job.networks["embedding"][0].vectors
    first = rows.detach().clone()
    sd = StableDiffusion.storybook(device="cpu")
    data = CaptionedLatents(settings, bases[0].parts(), 1000, cache, CPU)
    vectors = initial_vectors(sd.text.tokenizers[0], sd.text.encoders[0], "cat", 2)
    assert torch.equal(first, vectors)
    add_word(sd.text.tokenizers[0], sd.text.encoders[0], WORD, vectors)
    batch = data.batch(0)
    with torch.no_grad():
        context = sd.text(data.captions_of(batch)).context
        eps = draw_noise(batch.z_0.shape, settings.seed, 0, CPU, stream=2)
        own_loss = diffusion_loss(sd.unet, batch.z_0, batch.t, eps, context, sd.schedule)
    assert job.step(0)["loss"].item() == pytest.approx(float(own_loss), rel=1e-5)
    assert (rows != first).any(dim=1).all()
    for (part, name), value in before.items():
        assert torch.equal(networks[part].state_dict()[name], value)
    assert job.samples is not None
    trained = rows.detach().clone()
    assert job.samples().size == (3 * (3 * 66 + 2), 3 * (2 * 66 + 2))
    loss = job.step(1)["loss"]
    assert torch.isfinite(loss)
    assert not torch.equal(rows, trained)


def test_a_run_is_exported_read_and_resumed_to_the_same_bits(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey = np.zeros((3, 64, 64, 3), np.uint8)
    monkeypatch.setattr(embedding, "sample_images", lambda *_: grey)  # they take long
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(command(own, whole)) == 0
    assert main(command(own, stopped, "--minutes", "0.00001")) == 0
    assert [p.name for p in (stopped / "checkpoints").iterdir()] == ["step-00000001"]
    assert main(command(own, stopped, "--resume")) == 0
    for name in ("embedding", "ema"):
        last = f"checkpoints/step-00000004/{name}.safetensors"
        one, two = (load_file(run / last)["0.vectors"] for run in (whole, stopped))
        assert torch.equal(one, two)
    assert [file.name for file in (whole / "export").iterdir()] == [FILE_NAME]
    sd = StableDiffusion.storybook(device="cpu")
    assert sd.load_embedding(whole / "export") == WORD
    assert torch.equal(vectors_of(sd.text.tokenizers[0], sd.text.encoders[0], WORD), one)
    again = command(own, tmp_path / "again", "--init", str(whole), "--lr", "1e-9")
    assert main(again) == 0
    state = load_file(tmp_path / "again/checkpoints/step-00000004/embedding.safetensors")
    assert (state["0.vectors"] - one).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"word=<toy>": "word=<cat>"}, "has the caption 'a <toy> on the sand', without the word"),
        ({"word=<toy>": "word=cat"}, "the tokenizer already has the token 'cat</w>'; accepted"),
        ({"start=cat": "start= "}, "start is ' ', which has no tokens; accepted: a known word"),
        ({"vectors=2": "vectors=76"}, "vectors is 76; accepted: a whole number from 1 to 75"),
        ({"vectors=2": "shard=True"}, "shard is True; accepted: False, because only a few vectors"),
        ({"vectors=2": "rank=2"}, "the recipe has no setting 'rank'; accepted: accumulate"),
        ({"--data": "--model"}, "which holds no model; accepted: a folder with model_index.json"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    changes: dict[str, str], said: str, own: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    args = [changes.get(arg, arg) for arg in command(own, tmp_path / "run")]
    if "--model" in args:
        args += ["--data", str(own)]
    assert said in sentence(args, capsys)
    assert not (tmp_path / "run").exists()


def test_images_are_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = command(tmp_path, tmp_path / "run")
    del args[args.index("--data") : args.index("--data") + 2]
    assert "data is empty; accepted: a folder, or shards, of a few" in sentence(args, capsys)
