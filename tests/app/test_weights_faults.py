"""Folders and weight files: every published way to write them, and every way to be damaged."""

import json
import os
import pickle
import re
import shutil
from fnmatch import fnmatch

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdlearn import hub, weights
from sdlearn.cli import main
from sdlearn.folder import read_tokenizer
from sdlearn.paths import data_folder
from sdlearn.pipeline import StableDiffusion
from tests.tiny_model import tiny_diffusers

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_diffusers().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(published, tmp_path):
    """A copy to damage."""
    return shutil.copytree(published, tmp_path / "model")


def load(folder):
    return StableDiffusion.from_pretrained(folder, device="cpu")


def rewrite(path, change):
    state = load_file(path)
    save_file(change(state) or state, path)


def state(sd):
    """Every tensor of a model."""
    parts = {"unet": sd.unet, "vae": sd.vae, "text": sd.text}
    return {f"{n}.{k}": v for n, part in parts.items() for k, v in part.state_dict().items()}


def same(a, b):
    a, b = state(a), state(b)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# ------------------------------------------------------------------ published ways to write them


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_both_names_of_the_text_encoder(folder, published, prefix):
    def rename(state):
        plain = {key.removeprefix("text_model."): value for key, value in state.items()}
        return {prefix + key: value for key, value in plain.items()}

    rewrite(folder / TEXT, rename)
    assert same(load(folder), load(published))


def test_position_ids_are_ignored(folder, published):
    ids = torch.arange(77)[None]
    rewrite(folder / TEXT, lambda s: s.update({"text_model.embeddings.position_ids": ids}))
    assert same(load(folder), load(published))


@pytest.mark.parametrize("convolutions", [False, True])
def test_old_names_of_the_autoencoder_s_attention(folder, published, convolutions):
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(state):
        old = {}
        for key, value in state.items():
            for ours, theirs in names.items():
                if f".{ours}." in key:
                    key = key.replace(f".{ours}.", f".{theirs}.")
                    if convolutions and value.ndim == 2:
                        value = value[:, :, None, None]
            old[key] = value
        assert sum("attentions.0.query" in key for key in old) == 4
        return old

    rewrite(folder / VAE, rename)
    assert same(load(folder), load(published))


def test_pickles_of_tensors(folder, published):
    for place in (UNET, VAE):
        torch.save(load_file(folder / place), (folder / place).with_suffix(".bin"))
        (folder / place).unlink()
    torch.save(load_file(folder / TEXT), folder / "text_encoder" / "pytorch_model.bin")
    (folder / TEXT).unlink()
    assert same(load(folder), load(published))


def test_shards_and_half_precision(published, tmp_path):
    sd = load(published)
    sd.save_pretrained(tmp_path, max_bytes=30_000)
    assert len(list((tmp_path / "unet").glob("*-of-*.safetensors"))) > 2
    assert same(load(tmp_path), sd)
    sd.save_pretrained(tmp_path)  # whole again, and the shards are gone
    assert sorted(p.name for p in (tmp_path / "unet").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    assert same(load(tmp_path), sd)
    whole = (tmp_path / UNET).stat().st_size
    sd.save_pretrained(tmp_path, dtype=torch.float16)
    assert load_file(tmp_path / UNET)["conv_in.weight"].dtype == torch.float16
    assert (tmp_path / UNET).stat().st_size < 0.6 * whole
    half = load(tmp_path)
    assert half.dtype == torch.float32
    assert torch.equal(half.unet.conv_in.weight, sd.unet.conv_in.weight.half().float())
    (tmp_path / UNET).rename(tmp_path / UNET.replace(".safetensors", ".fp16.safetensors"))
    assert same(load(tmp_path), half)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_asked_for(published, dtype):
    sd = StableDiffusion.from_pretrained(published, dtype=dtype, device="cpu")
    assert {value.dtype for value in state(sd).values()} == {dtype}
    assert not any(value.requires_grad for value in sd.unet.parameters())
    latent = sd.text_to_image("a cat", steps=2, output="latent", progress=False)
    assert latent.dtype == dtype


def test_published_names_and_shapes(published, tmp_path):
    """Written files have exactly the tensors of the files that were read."""
    load(published).save_pretrained(tmp_path)
    for place in (UNET, VAE, TEXT):
        ours, theirs = load_file(tmp_path / place), load_file(published / place)
        prefix = "text_model." if place == TEXT else ""
        plain = {prefix + k.removeprefix("text_model."): v for k, v in theirs.items()}
        assert ours.keys() == plain.keys()
        assert all(torch.equal(ours[key], plain[key]) for key in ours)
    assert load_file(tmp_path / UNET)[
        "down_blocks.0.attentions.0.proj_in.weight"
    ].shape == (16, 16, 1, 1)  # fmt: skip


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_hub_id(folder, published, tmp_path, monkeypatch, kind):
    """The hub's folder comes with what nobody reads; what is asked for must be enough, no more."""
    for place in (UNET, VAE, TEXT):
        torch.save(load_file(folder / place), (folder / place).with_suffix(".bin"))
        for suffix in (".fp16.safetensors", ".non_ema.safetensors", ".msgpack"):
            (folder / place).with_suffix(suffix).write_bytes(b"5 GB")
        if kind == "bin":
            (folder / place).unlink()
    (folder / "v1-5-pruned.safetensors").write_bytes(b"5 GB")
    fetched = tmp_path / "cache"

    def snapshot(repo, allow_patterns, ignore_patterns):
        assert repo == "organisation/stable-diffusion"
        for path in folder.rglob("*.*"):
            name = path.relative_to(folder).as_posix()
            if any(fnmatch(name, pattern) for pattern in allow_patterns) and not any(
                fnmatch(name, pattern) for pattern in ignore_patterns
            ):
                (fetched / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, fetched / name)
        return str(fetched)

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert same(load("organisation/stable-diffusion"), load(published))
    assert {path.suffix for path in fetched.rglob("*.*")} == {".json", f".{kind}"}


def test_a_module_of_its_own_type_keeps_it(published):
    vae = load(published).vae.half()
    weights.load(vae, published / "vae")
    assert vae.quant_conv.weight.dtype == torch.float16


# ------------------------------------------------------------------------------ damaged folders


def damage_json(path, **changes):
    content = json.loads(path.read_text())
    content |= changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "gone"}))


FAULTS = {
    "no model_index.json": (
        lambda f: (f / "model_index.json").unlink(),
        r"model_index\.json is missing",
    ),
    "another pipeline": (
        lambda f: damage_json(f / "model_index.json", _class_name="StableDiffusionXLPipeline"),
        r"_class_name is 'StableDiffusionXLPipeline'; only 'StableDiffusionPipeline'",
    ),
    "no configuration": (
        lambda f: (f / "vae" / "config.json").unlink(),
        r"vae.config\.json is missing",
    ),
    "configuration is not JSON": (
        lambda f: (f / "unet" / "config.json").write_text('{"in_channels": 4,'),
        r"unet.config\.json is not readable JSON",
    ),
    "configuration is a list": (
        lambda f: (f / "unet" / "config.json").write_text("[]"),
        r"unet.config\.json holds a list; expected a JSON object",
    ),
    "configuration lacks an entry": (
        lambda f: damage_json(f / "text_encoder" / "config.json", vocab_size="gone"),
        r"text_encoder.config\.json has no entry 'vocab_size'",
    ),
    "a setting that is not supported": (
        lambda f: damage_json(f / "unet" / "config.json", resnet_time_scale_shift="scale_shift"),
        r"resnet_time_scale_shift is 'scale_shift'; only 'default' is supported",
    ),
    "other blocks": (
        lambda f: damage_json(
            f / "unet" / "config.json", down_block_types=["AttnDownBlock2D", "DownBlock2D"]
        ),
        r"blocks \['AttnDownBlock2D', 'DownBlock2D'\].*are not those of Stable Diffusion",
    ),
    "clipped samples": (
        lambda f: damage_json(f / "scheduler" / "scheduler_config.json", clip_sample=True),
        r"clip_sample is true",
    ),
    "another prediction": (
        lambda f: damage_json(f / "scheduler" / "scheduler_config.json", prediction_type="sample"),
        r"prediction_type is 'sample'; known are epsilon, v_prediction",
    ),
    "one number for many": (
        lambda f: damage_json(f / "unet" / "config.json", block_out_channels=320),
        r"unet.config\.json has an entry of the wrong kind",
    ),
    "no heads": (
        lambda f: damage_json(f / "unet" / "config.json", attention_head_dim=0),
        r"has an entry of the wrong kind",
    ),
    "an oblong": (
        lambda f: damage_json(f / "unet" / "config.json", sample_size=[8, 16]),
        r"sample_size is \[8, 16\]; only squares are supported",
    ),
    "another autoencoder": (
        lambda f: damage_json(f / "vae" / "config.json", latent_channels=8),
        r"the U-Net's latents have 4 channels, the autoencoder's 8",
    ),
    "a tokenizer for a larger encoder": (
        lambda f: damage_json(f / "text_encoder" / "config.json", vocab_size=500),
        r"tokenizer has \d+ tokens, more than the 500 of the text encoder",
    ),
    "parts of two systems": (
        lambda f: damage_json(f / "unet" / "config.json", cross_attention_dim=32),
        r"attends to 32 channels, the text encoder gives 24",
    ),
    "no weights": (lambda f: (f / UNET).unlink(), r"unet holds no weights; expected"),
    "a folder for weights": (
        lambda f: ((f / UNET).unlink(), (f / UNET).mkdir()),
        r"unet holds no weights; expected",
    ),
    "truncated weights": (
        lambda f: (f / UNET).write_bytes((f / UNET).read_bytes()[:-1000]),
        r"unet.diffusion_pytorch_model\.safetensors is not a complete safetensors file",
    ),
    "empty weights": (
        lambda f: (f / VAE).write_bytes(b""),
        r"vae.diffusion_pytorch_model\.safetensors is not a complete safetensors file",
    ),
    "weights of another size": (
        lambda f: rewrite(f / UNET, lambda s: s.update({"conv_in.bias": torch.zeros(7)})),
        r"conv_in\.bias has the shape \(7,\); UNet needs \(16,\)",
    ),
    "a tensor too few": (
        lambda f: rewrite(f / VAE, lambda s: {k: s[k] for k in s if k != "quant_conv.bias"}),
        r"lacks 1 of the \d+ tensors of VAE, among them 'quant_conv\.bias'",
    ),
    "a tensor too many": (
        lambda f: rewrite(f / TEXT, lambda s: s.update({"logit_scale": torch.zeros(1)})),
        r"holds the tensor 'logit_scale', which CLIPTextEncoder does not have",
    ),
    "no vocabulary": (
        lambda f: (f / "tokenizer" / "tokenizer.json").unlink(),
        r"tokenizer.vocab\.json is missing",
    ),
    "a damaged vocabulary": (
        lambda f: (f / "tokenizer" / "tokenizer.json").write_text("{"),
        r"tokenizer does not hold a readable CLIP tokenizer",
    ),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), r"vocab\.json is missing"),
    "no scheduler": (
        lambda f: shutil.rmtree(f / "scheduler"),
        r"scheduler_config\.json is missing",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_folder_is_refused_in_one_sentence(folder, fault):
    damage, words = FAULTS[fault]
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("fault", ["truncated weights", "no scheduler", "no heads"])
def test_the_command_line_says_so_and_leaves_nothing(folder, tmp_path, capsys, fault):
    damage, words = FAULTS[fault]
    damage(folder)
    out = tmp_path / "cat.png"
    assert main(["generate", "a cat", "--model", str(folder), "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("sdlearn: ")
    assert re.search(words, line)
    assert not list(tmp_path.glob("*.png*"))


def test_merges_that_end_too_early(folder):
    """Or every word would be spelled in letters, and the pictures would silently be others."""
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(data_folder("storybook") / "tokenizer", folder / "tokenizer")
    merges = folder / "tokenizer" / "merges.txt"
    whole = merges.read_text(encoding="utf-8").splitlines()
    assert len(read_tokenizer(folder / "tokenizer")) > 700
    merges.write_text("\n".join(whole[: len(whole) // 2]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"merges\.txt is incomplete: \d+ merges cannot make"):
        read_tokenizer(folder / "tokenizer")


class Trap:
    """Runs code where a pickle is read carelessly."""

    def __reduce__(self):
        return exec, ("raise SystemExit('the pickle was run')",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps(Trap()), "is not a pickle of tensors alone"),
        (b"not a pickle at all", "is not a pickle of tensors alone"),
        (b"hello", "is not a pickle of tensors alone"),
        (b"", "is not a pickle of tensors alone"),
    ],
    ids=["code", "text", "a word", "nothing"],
)
def test_a_pickle_that_is_not_tensors(folder, content, words):
    path = (folder / UNET).with_suffix(".bin")
    (folder / UNET).unlink()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"step": 5}, {0: torch.zeros(2)}, Trap])
def test_a_pickle_of_something_else(folder, content):
    (folder / UNET).unlink()
    torch.save(content, (folder / UNET).with_suffix(".bin"))
    with pytest.raises(ValueError, match="pickle of"):
        load(folder)


def test_a_shard_or_its_index_is_missing(published, tmp_path):
    load(published).save_pretrained(tmp_path, max_bytes=30_000)
    index = tmp_path / (UNET + ".index.json")
    shard = sorted((tmp_path / "unet").glob("*-of-*.safetensors"))[1]
    shard.rename(shard.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError, match=f"{shard.name} is missing; {index.name} names it"):
        load(tmp_path)
    shard.with_name("elsewhere").rename(shard)
    index.write_text("{}")
    with pytest.raises(ValueError, match="has no weight_map"):
        load(tmp_path)
    index.unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        load(tmp_path)


def test_a_single_file_is_refused(published):
    with pytest.raises(ValueError, match=r"is a file; only folders in the published layout"):
        load(published / UNET)


def test_a_failed_save_leaves_the_old_file(published, tmp_path, monkeypatch):
    sd = load(published)
    weights.save(sd.vae, tmp_path / "vae.safetensors")
    before = (tmp_path / "vae.safetensors").read_bytes()

    def fail(state, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        weights.save(sd.vae, tmp_path / "vae.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["vae.safetensors"]
    assert (tmp_path / "vae.safetensors").read_bytes() == before
    with pytest.raises(ValueError, match=r"written as \.safetensors"):
        weights.save(sd.vae, tmp_path / "vae.bin")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_weights_can_be_read_by_whom_the_other_files_can(tmp_path):
    (tmp_path / "plain").touch()
    weights.write_safetensors(tmp_path / "w.safetensors", {"x": torch.zeros(2)})
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
