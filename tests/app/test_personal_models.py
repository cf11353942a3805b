"""LoRA, a new word and DreamBooth on other models: velocity, SDXL, a whole model in one file."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sdlearn import VAE, StableDiffusion, UNet
from sdlearn.cli import personal_plan
from sdlearn.cli.main import main
from sdlearn.clip import CLIPTextEncoder
from sdlearn.recipes import dreambooth, embedding, lora
from sdlearn.recipes.base_model import class_images, load_base, model_hash
from sdlearn.text import TextEncoder
from sdlearn.training import TrainingJob
from sdlearn.versions import SD1_5, SPECS
from sdlearn.weights.diffusers_folder import System
from tests.app.test_dry_run import printed
from tests.tiny_model import tiny_diffusers, tiny_sd2, tiny_sdxl, tiny_tokenizer
from tests.tiny_own import one_file, own_images, row_losses, saved
from tests.tiny_runs import sentence

CPU = torch.device("cpu")
KINDS = ("velocity", "xl", "file", "xl-file")
PARTS: dict[str, ModuleType] = {"lora": lora, "embedding": embedding, "dreambooth": dreambooth}
OWN: dict[str, dict[str, object]] = {
    "lora": {"rank": 2, "text_encoder": True, "class_images": 2, "class_prompt": "a cat"},
    "embedding": {"word": "<toby>", "vectors": 2, "start": "cat"},
    "dreambooth": {"class_images": 2, "class_prompt": "a cat"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The models, and three images; while it is used, two tiny systems have names."""
    folder = tmp_path_factory.mktemp("models")
    own_images(folder / "own")
    saved(tiny_sd2, folder / "velocity")
    patch = pytest.MonkeyPatch()
    for name, pipe in (("file", tiny_diffusers), ("xl-file", tiny_sdxl)):
        home = saved(pipe, folder / name.replace("-file", "").replace("file", "sd1"))
        _, spec = one_file(home, folder / f"{name}.safetensors")
        patch.setitem(SPECS, f"tiny-{name}", replace(spec, name=f"tiny-{name}"))
    yield folder
    patch.undo()


def settings(place: Path, kind: str, part: str) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "data": str(place / "own"), "size": 32, "batch": 4, "dropout": 0.25, "warmup": 0,
        "model": str(place / kind),
    }  # fmt: skip
    if "file" in kind:
        folder = place / ("xl" if kind == "xl-file" else "sd1")
        chosen |= {"model": str(place / f"{kind}.safetensors"), "tokenizer": str(folder)}
        chosen |= {"spec": f"tiny-{kind}"}
    return chosen | OWN[part]


def command(place: Path, kind: str, part: str, out: Path, **changes: object) -> list[str]:
    args = ["train", part, "--recipe", "small", "--device", "cpu", "--steps", "2"]
    for name, value in (settings(place, kind, part) | changes).items():
        args += ["--set", f"{name}={value}"]
    return [*args, "--checkpoint-steps", "1", "--out", str(out)]


def job_of(place: Path, kind: str, part: str) -> tuple[Any, TrainingJob]:
    recipe = replace(PARTS[part].RECIPES["small"], **settings(place, kind, part))
    return recipe, PARTS[part].make_job(recipe, place / "cache", CPU)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", PARTS)
def test_the_first_step_has_the_loss_of_the_model(place: Path, kind: str, part: str) -> None:
    recipe, job = job_of(place, kind, part)
    base = load_base(recipe.model, recipe, CPU)
    sd, cache = base.sd, place / "cache"
    assert sd.spec.predicts == ("velocity" if kind == "velocity" else "noise")
    prior = class_images(recipe, base, cache)
    if part == "embedding":
        vectors = embedding.starting_vectors(recipe, sd.text)
        embedding.new_rows(sd.text, "<toby>", vectors)
    expected = float(row_losses(sd, recipe, cache, prior).mean()) * (1 if prior is None else 2)
    exact = 2e-3 if part == "dreambooth" else 1e-5  # its captions are cached in float16
    assert job.step(0)["loss"].item() == pytest.approx(expected, rel=exact)


@pytest.mark.parametrize("part", PARTS)
def test_the_result_of_sdxl_in_one_file_is_read_and_resumed(
    place: Path, part: str, tmp_path: Path
) -> None:
    out, folder = tmp_path / "run", place / "xl"
    assert main(command(place, "xl-file", part, out)) == 0
    base = StableDiffusion.from_pretrained(folder, device="cpu")
    sd = base
    if part == "dreambooth":
        sd = StableDiffusion.from_pretrained(out / "export", device="cpu")
        assert len(sd.text.encoders) == 2
        assert sd.spec.zero_negative == base.spec.zero_negative
    elif part == "embedding":
        found = load_file(out / "export" / embedding.FILE_NAME)
        assert {name: x.shape for name, x in found.items()} == {
            "clip_l": (2, 12),
            "clip_g": (2, 20),
        }
        sd.load_embedding(out / "export", "<toby>")
    else:
        names = load_file(out / "export" / lora.FILE_NAME)
        starts = {name.split(".")[0] for name in names}
        assert starts == {"unet", "text_encoder", "text_encoder_2"}
        sd.load_adapter(out / "export")
    sd.text_to_image("a <toby> cat", steps=1, height=32, width=32, progress=False)
    # The same, stopped after its first step and resumed.
    again = tmp_path / "again"
    args = command(place, "xl-file", part, again)
    assert main([*args, "--minutes", "0.00001"]) == 0
    assert main([*args, "--resume"]) == 0
    for file in (out / "checkpoints" / "step-00000002").glob("*.safetensors"):
        one, two = load_file(file), load_file(again / "checkpoints" / "step-00000002" / file.name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_both_text_encoders_of_sdxl_learn_the_word(place: Path) -> None:
    _, job = job_of(place, "xl", "embedding")
    rows = job.networks["embedding"]
    before = [each.vectors.detach().clone() for each in rows]
    job.step(0)
    assert [each.vectors.shape[1] for each in rows] == [12, 20]
    assert all((x != each.vectors).all() for x, each in zip(before, rows, strict=True))


def test_the_cache_and_the_run_know_the_file(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another file, or another tokenizer, is another model: nothing cached of it is used."""
    recipe, job = job_of(place, "file", "dreambooth")
    base = load_base(recipe.model, recipe, CPU)
    other = tmp_path / "other.safetensors"
    data = Path(recipe.model).read_bytes()
    other.write_bytes(data)
    assert base._replace(place=other).hash() == base.hash() == job.frozen["model"]
    other.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert base._replace(place=other).hash() != base.hash()
    parts, changed = base.parts(), base._replace(place=other).parts()
    assert parts.text_key("x") != changed.text_key("x")
    assert parts.hashes()["vae"] != changed.hashes()["vae"]
    assert base._replace(tokenizer=place / "velocity" / "tokenizer").hash() != base.hash()
    # A run whose model changes is not resumed.
    args = command(place, "file", "lora", tmp_path / "run", model=other)
    other.write_bytes(data)
    assert main([*args, "--minutes", "0.00001"]) == 0
    other.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "another version of its model" in sentence([*args, "--resume"], capsys)


def test_the_hash_of_a_folder_holds_its_tokenizer(place: Path, tmp_path: Path) -> None:
    """With another vocabulary the same captions have other embeddings."""
    model = shutil.copytree(place / "velocity", tmp_path / "model")
    before = model_hash(model)
    assert before == model_hash(place / "velocity")
    path = model / "tokenizer" / "tokenizer.json"
    stored = json.loads(path.read_text("utf-8"))
    ids = stored["model"]["vocab"]
    first, second, *_ = ids
    ids[first], ids[second] = ids[second], ids[first]
    path.write_text(json.dumps(stored), "utf-8")
    assert model_hash(model) != before


def test_a_plan_of_sdxl_counts_both_text_encoders(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in PARTS:
        for kind in ("xl", "xl-file"):
            args = command(place, kind, part, place / "plan")
            found = printed([*args[: args.index("--checkpoint-steps")], "--dry-run"], capsys)
            assert {"vae", "unet", "text", "text_2"} <= found.keys()
            assert float(found["GFLOPs per image"][0]) > 0
            assert "total (peak)" in found
    assert not (place / "plan").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "peak", "less"),
    [("lora", 5.9, 4.6), ("embedding", 5.7, 4.5), ("dreambooth", 21.9, 18.9)],
)
def test_the_peak_memory_in_the_readme(
    part: str, peak: float, less: float, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def empty_model(_: object) -> System:
        with torch.device("meta"):
            text = TextEncoder([tiny_tokenizer()], [CLIPTextEncoder(SD1_5.text[0])])
            return SD1_5, UNet(SD1_5.unet), VAE(SD1_5.vae), text

    monkeypatch.setattr(personal_plan, "empty_model", empty_model)
    readme = Path(personal_plan.__file__).parents[2].joinpath("README.md").read_text("utf-8")
    assert f"| `sdlearn train {part}` | {peak} GB | {less} GB |" in readme
    args = ["train", part, "--recipe", "sd1.5", "--dry-run", "--set"]
    for again, expected in ((False, peak), (True, less)):
        found = printed([*args, f"activation_checkpointing={again}"], capsys)
        assert float(found["total (peak)"][0]) == pytest.approx(expected, abs=0.051)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spec": "sd9"}, "'sd9'"),
        ({"tokenizer": "nowhere"}, "nowhere"),
        ({"model": "{place}/own/metadata.jsonl"}, "metadata.jsonl"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(
    changes: dict[str, str], said: str, place: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = {name: value.format(place=place) for name, value in changes.items()}
    args = command(place, "file", "lora", tmp_path / "run", **given)
    assert said in sentence(args, capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", ["flow", "inpaint", "controlnet", "distill"])
def test_the_other_trainings_refuse_sdxl(
    part: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["train", part, "--recipe", "small", "--model", str(place / "xl"), "--device", "cpu"]
    said = sentence([*args, "--out", str(tmp_path / "run")], capsys)
    assert (
        "is SDXL; accepted: a model with one text encoder whose U-Net has 4 input channels" in said
    )
