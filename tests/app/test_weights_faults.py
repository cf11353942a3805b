"""Folders and weight files: every published way to write them, and every way to be damaged."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdlearn import weights
from sdlearn.cli.main import main
from sdlearn.controlnet import ControlNet
from sdlearn.pipeline import StableDiffusion
from sdlearn.unet import UNetConfig
from sdlearn.utils.resources import data_folder
from sdlearn.versions import SPECS
from sdlearn.weights import saving, single_file
from sdlearn.weights.diffusers_folder import read_spec
from sdlearn.weights.json_config import errors_name_file
from sdlearn.weights.ldm_keys import key_map
from sdlearn.weights.single_file import detect_spec
from sdlearn.weights.system_parts import Parts, new_parts
from sdlearn.weights.tensor_files import open_weights
from sdlearn.weights.tokenizer_files import FILES, read_tokenizer

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
NAN, INFINITY = float("nan"), float("inf")


def load(folder):
    return StableDiffusion.from_pretrained(folder, device="cpu")


def rewrite(path, change):
    state = load_file(path)
    changed = change(state)
    save_file(changed if isinstance(changed, dict) else state, path)


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
        lambda f: (
            (f / "unet").rename(f / "transformer"),
            damage_json(
                f / "model_index.json",
                _class_name="StableDiffusion3Pipeline",
                unet="gone",
                transformer=["diffusers", "SD3Transformer2DModel"],
            ),
        ),
        r"_class_name is 'StableDiffusion3Pipeline', and there is no unet; only folders of Stable",
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
    "betas of its own": (
        lambda f: damage_json(f / "scheduler" / "scheduler_config.json", trained_betas=[0.1, 0.2]),
        r"trained_betas is \[0\.1, 0\.2\]; a table of betas is not supported",
    ),
    "another prediction": (
        lambda f: damage_json(f / "scheduler" / "scheduler_config.json", prediction_type="sample"),
        r"prediction_type is 'sample'; accepted: epsilon, v_prediction",
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
        r"vae.diffusion_pytorch_model\.safetensors is an empty file; download the file itself",
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
        lambda f: rewrite(f / TEXT, lambda s: s.update({"head.weight": torch.zeros(1)})),
        r"holds the tensor 'head\.weight', which CLIPTextEncoder does not have",
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


FAULTS |= {
    "a part is missing": (lambda f: shutil.rmtree(f / "unet"), r"unet.config\.json is missing"),
    "the text encoder is missing": (
        lambda f: shutil.rmtree(f / "text_encoder"),
        r"text_encoder.config\.json is missing",
    ),
    "the list of parts is not JSON": (
        lambda f: (f / "model_index.json").write_text("{'unet'"),
        r"model_index\.json is not readable JSON",
    ),
    "the list of parts is no text": (
        lambda f: (f / "model_index.json").write_bytes(b"\xff\xfe{}"),
        r"model_index\.json is not readable JSON",
    ),
    "the scheduler is not JSON": (
        lambda f: (f / "scheduler" / "scheduler_config.json").write_text(""),
        r"scheduler_config\.json is not readable JSON",
    ),
    "a folder for a configuration": (
        lambda f: ((f / "vae" / "config.json").unlink(), (f / "vae" / "config.json").mkdir()),
        r"vae.config\.json is missing",
    ),
    "a file for a part": (
        lambda f: (shutil.rmtree(f / "vae"), (f / "vae").write_text("")),
        r"vae.config\.json is missing",
    ),
    "weights that are not numbers": (
        lambda f: rewrite(f / UNET, lambda s: s["conv_in.weight"].view(-1)[-1:].fill_(NAN)),
        r"conv_in\.weight is not finite as torch\.float32; the file is damaged, or has values",
    ),
    "infinite weights": (
        lambda f: rewrite(f / TEXT, lambda s: s[max(s)].view(-1)[:1].fill_(-INFINITY)),
        r" is not finite as torch\.float32; the file is damaged",
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


@pytest.mark.parametrize("way", ["archive", "compressed", "before torch 1.6"])
def test_every_kind_of_tensor_in_a_pickle(tmp_path, way):
    """Whole ones and pieces, in any order of their numbers, alone and with others of a storage."""
    torch.manual_seed(0)
    whole = torch.randn(6, 8)
    tensors = {
        "whole": whole,
        "piece": whole[1:4, 2:7],
        "turned": whole.T,
        "stepped": whole[::2, ::3],
        "number": torch.tensor(3),
        "nothing": torch.empty(0, 4),
        "parameter": torch.nn.Parameter(torch.randn(5, dtype=torch.float64)),
        "half": torch.randn(7).half(),
        "brain": torch.randn(2, 3, 1, 1).bfloat16(),
        "flags": torch.tensor([True, False]),
    }
    path = tmp_path / "model.ckpt"
    content = {"state_dict": tensors, "epoch": 3}
    torch.save(content, path, _use_new_zipfile_serialization=way != "before torch 1.6")
    if way == "compressed":
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, numbers in entries.items():
                archive.writestr(name, numbers)
    found = open_weights(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].dtype == tensor.dtype
        read = found[name].read()
        assert torch.equal(read, tensor.detach())
        assert read.is_contiguous()
        assert read.untyped_storage().nbytes() == tensor.nbytes
        assert not read.requires_grad


def test_a_pickle_that_is_cut(folder):
    path = (folder / VAE).with_suffix(".bin")
    torch.save(load_file(folder / VAE), path)
    (folder / VAE).unlink()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(
        ValueError, match=r"model\.bin is an incomplete or damaged archive; download the file"
    ) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


class Trap:
    """Runs code where a pickle is read carelessly."""

    def __reduce__(self):
        return exec, ("raise SystemExit('the pickle was run')",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps(Trap()), "is not a pickle of tensors alone: it is damaged or incomplete, or"),
        (b"not a pickle at all", "is a text file that begins with 'not a pickle at all'"),
        (b"hello", "is a text file that begins with 'hello'"),
        (b"", "is an empty file"),
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
    for shards in ({}, {"conv_in.weight": 5}, {"conv_in.weight": index.name}):
        index.write_text(json.dumps({"weight_map": shards}))
        with pytest.raises(ValueError, match="weight_map is empty or malformed; expected a file"):
            load(tmp_path)
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../vae/config.txt"}}))
    with pytest.raises(ValueError, match=r"'\.\./vae/config\.txt'; a shard must lie in the folder"):
        load(tmp_path)
    index.unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        load(tmp_path)


# ------------------------------------------------------------------------------------- any file


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn]
)
def test_any_type_of_floating_point_numbers(published, tmp_path, dtype):
    state = {k: v.to(dtype) for k, v in load_file(published / VAE).items()}
    save_file(state, tmp_path / "vae.safetensors")
    vae = load(published).vae
    weights.load(vae, tmp_path / "vae.safetensors")
    assert all(torch.equal(v, state[k].float()) for k, v in vae.state_dict().items())


def test_other_numbers_are_refused(published, tmp_path):
    """Quantised weights need scales that are not here; they would be taken for the weights."""
    vae = load(published).vae
    path = tmp_path / "vae.safetensors"
    state = load_file(published / VAE)
    save_file(state | {"quant_conv.bias": torch.ones(8, dtype=torch.int16)}, path)
    with pytest.raises(ValueError, match=r"quant_conv\.bias holds torch\.int16; only files of fl"):
        weights.load(vae, path)
    path.write_bytes(path.read_bytes().replace(b'"I16"', b'"U16"'))
    with pytest.raises(ValueError, match=r"quant_conv\.bias holds torch\.uint16; only files of fl"):
        weights.load(vae, path)


def test_a_refused_file_changes_nothing(published, tmp_path):
    """Whatever comes last in it; also where the bad part is not the first."""
    sd = load(published)
    before = {key: value.clone() for key, value in state(sd).items()}
    path = tmp_path / "vae.safetensors"
    parts = Parts(sd.unet, sd.vae, sd.text.encoders)
    other = {key: value + 1 for key, value in load_file(published / VAE).items()}
    for bad in (
        {"quant_conv.weight": torch.zeros(8, 8, 3, 3)},
        {"zzz": torch.zeros(1)},
    ):
        save_file(other | bad, path)
        with pytest.raises(ValueError, match=r"quant_conv|zzz"):
            weights.load(sd.vae, path)
    unet = {"model.diffusion_model." + k: v for k, v in original(sd.unet).items()}
    vae = {"first_stage_model." + k: v for k, v in original(sd.vae).items()}
    text = {
        "cond_stage_model.transformer." + k: v for k, v in original(sd.text.encoders[0]).items()
    }
    whole = {key: value + 1 for key, value in (unet | vae | text).items()}
    lacking = whole.keys() - {"first_stage_model.decoder.conv_out.bias"}
    save_file({key: whole[key] for key in lacking}, path)
    with pytest.raises(ValueError, match=r"lacks 1 of the \d+ tensors of VAE, among them 'decoder"):
        weights.load_original(parts, path)
    name = "cond_stage_model.transformer.final_layer_norm.bias"
    whole[name][-1] = INFINITY  # in the part that is filled last
    save_file(whole, path)
    with pytest.raises(ValueError, match=re.escape(f"{name} is not finite as torch.float32; the")):
        weights.load_original(parts, path)
    assert all(torch.equal(value, before[key]) for key, value in state(sd).items())
    whole[name][-1] = before["text.encoders.0.final_layer_norm.bias"][-1] + 1
    save_file(whole, path)
    weights.load_original(parts, path)
    assert all(torch.equal(value, before[key] + 1) for key, value in state(sd).items())


def test_numbers_too_large_for_the_type(published, tmp_path):
    """Which would else be infinite, and every picture black."""
    state = load_file(published / VAE)
    state["quant_conv.bias"][3] = 70_000
    save_file(state, tmp_path / "vae.safetensors")
    vae = load(published).vae
    weights.load(vae, tmp_path / "vae.safetensors")
    with pytest.raises(ValueError, match=r"quant_conv\.bias is not finite as torch\.float16; "):
        weights.load(vae.half(), tmp_path / "vae.safetensors")


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.complex64, "float16"])
def test_types_in_which_no_network_computes(published, single, dtype):
    path, _, spec = single
    for source, options in ((published, {}), (path, {"spec": spec, "tokenizer": published})):
        with pytest.raises(
            ValueError, match=r"dtype is .*; it must be one of torch\.float32"
        ) as no:
            StableDiffusion.from_pretrained(source, dtype=dtype, device="cpu", **options)
        assert repr(dtype) in str(no.value)
    with pytest.raises(ValueError, match="dtype is"):
        weights.load_original(spec, path, dtype=dtype)


def test_files_for_folders_and_folders_for_files(published, single, tmp_path):
    path, _, spec = single
    vae = load(published).vae
    for source, words in (
        (published / "model_index.json", r"model_index\.json is a configuration; give the folder"),
        (
            published / "tokenizer" / "tokenizer_config.json",
            "has no weight_map; expected the ind",
        ),
        (published / "unet", r"model_index\.json is missing; a published model folder holds it"),
        (tmp_path / "vae" / "config.json", r"config\.json does not exist; give a model's folder"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            load(source)
    with pytest.raises(ValueError, match=r"config\.json has no weight_map; expected the index of"):
        weights.load(vae, published / "vae" / "config.json")
    with pytest.raises(FileNotFoundError, match=r"holds no weights; expected diffusion_pytorch_"):
        weights.load(vae, published)
    with pytest.raises(FileNotFoundError, match=r"holds no weights; expected diffusion_pytorch_"):
        weights.load_original(spec, published)
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist; expected a file or fold"):
        weights.load(vae, tmp_path / "nowhere")
    merges = published / "tokenizer" / "tokenizer.json"
    with pytest.raises(FileNotFoundError, match=r"vocab\.json is missing; the tokenizer needs it"):
        StableDiffusion.from_pretrained(path, spec=spec, tokenizer=merges)


@pytest.mark.parametrize("spec", ["sd3", "", 1.5, {"unet": 4}, ["sd1.5"]])
def test_specifications_that_are_none(single, published, spec):
    path, _, _ = single
    with pytest.raises(ValueError, match=r"spec is .*; accepted: sd1\.4, .*, or give a ModelSpec$"):
        StableDiffusion.from_pretrained(path, spec=spec, tokenizer=published)
    with pytest.raises(ValueError, match=r"(spec|target) is .* sd1\.4, sd1\.5, .*storybook"):
        weights.load_original(spec, path)


def test_a_pipeline_is_not_a_target_but_its_parts_are(single, published):
    path, tensors, _ = single
    sd = load(published)
    before = state(sd)["vae.quant_conv.bias"].clone()
    save_file(tensors | {"first_stage_model.quant_conv.bias": before + 1}, path)
    with pytest.raises(ValueError, match=r"^target is a StableDiffusion; give Parts\(unet"):
        weights.load_original(sd, path)
    assert torch.equal(sd.vae.quant_conv.bias, before)
    parts = Parts(sd.unet, sd.vae, sd.text.encoders)
    assert weights.load_original(parts, path) is parts
    assert torch.equal(sd.vae.quant_conv.bias, before + 1)


def test_the_names_of_the_package_need_no_torch():
    """`sdlearn --help` and completion in an editor must not wait for it."""
    code = "import sys, sdlearn.weights as w; print('torch' in sys.modules, dir(w))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False ['Parts', 'load', 'load_original', 'save']\n"
    assert weights.__all__ == dir(weights)
    assert all(callable(getattr(weights, name)) for name in dir(weights))
    with pytest.raises(AttributeError, match="has no attribute 'torch'"):
        weights.torch  # noqa: B018


WRONG = [None, [], "x", -1, 0, [1], {"x": 1}, True, 1.5, 10**30, NAN, INFINITY, ["x"], "a\nb", ""]


def complaint(folder, known):
    """What is said of a folder's JSON files, None where they are accepted; specifications that are
    known need not be built again."""
    try:
        with warnings.catch_warnings(), errors_name_file(folder):
            warnings.simplefilter("ignore")
            spec = read_spec(folder)
            if spec not in known:
                new_parts(spec, torch.float32)
                known.append(spec)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return None


def test_every_entry_of_every_file_of_a_wrong_kind(folder):
    """Read, or refused in one sentence that names the file; and never with anything else."""
    parts = ("scheduler/scheduler_", "text_encoder/", "unet/", "vae/")
    refused, known = 0, []
    for path in [folder / "model_index.json", *(folder / f"{part}config.json" for part in parts)]:
        content = json.loads(path.read_text())
        for key, wrong in product(content, WRONG):
            path.write_text(json.dumps(content | {key: wrong}))
            said = complaint(folder, known)
            refused += said is not None
            assert said is None or (str(folder) in said and "\n" not in said), (key, wrong, said)
        path.write_text(json.dumps(content))
    assert refused > 300


@pytest.mark.parametrize(
    ("place", "key", "value", "words"),
    [
        ("unet/", "block_out_channels", 320, "a list of whole numbers from 1 to 1048576"),
        ("unet/", "block_out_channels", [], "a list of whole numbers from 1 to 1048576"),
        ("unet/", "block_out_channels", [16, 32.5], "a list of whole numbers from 1 to 1048576"),
        ("unet/", "in_channels", True, "a whole number from 1 to 1048576"),
        ("unet/", "in_channels", 10**30, "a whole number from 1 to 1048576"),
        ("unet/", "attention_head_dim", 0, "a whole number from 1 to 1048576"),
        ("unet/", "upcast_attention", "no", "true or false"),
        ("unet/", "down_block_types", [1], "a list of strings"),
        ("vae/", "scaling_factor", NAN, "a number above 0"),
        ("vae/", "scaling_factor", "0.18215", "a number above 0"),
        ("vae/", "norm_num_groups", -1, "a whole number from 1 to 1048576"),
        ("text_encoder/", "hidden_act", {"x": 1}, "a string"),
        ("text_encoder/", "hidden_size", None, "a whole number from 1 to 1048576"),
        ("scheduler/scheduler_", "num_train_timesteps", 0, "a whole number from 1 to 1048576"),
        ("scheduler/scheduler_", "beta_start", INFINITY, "a number above 0"),
        ("scheduler/scheduler_", "steps_offset", -1, "a whole number from 0 to 1048576"),
    ],
)
def test_an_entry_of_a_wrong_kind_is_named_with_what_it_must_be(folder, place, key, value, words):
    path = folder / f"{place}config.json"
    damage_json(path, **{key: value})
    with pytest.raises(ValueError, match="entry of the wrong kind") as caught:
        load(folder)
    said = f"{path} has an entry of the wrong kind: {key} is "
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith(f"; it must be {words}")


def control_complaint(folder):
    try:
        ControlNet.from_pretrained(folder)
    except ValueError as error:
        return str(error)
    return None


def test_every_entry_of_a_controlnet_of_a_wrong_kind(tmp_path):
    unet = UNetConfig(
        block_out_channels=(16, 32),
        cross_attention=(True, False),
        transformer_depth=(1, 1),
        num_heads=(2, 4),
        cross_attention_dim=24,
        norm_num_groups=4,
    )
    ControlNet(unet, (4, 6, 8, 10)).save_pretrained(tmp_path)
    path, refused = tmp_path / "config.json", 0
    content = json.loads(path.read_text())
    for key, wrong in product(content, WRONG):
        path.write_text(json.dumps(content | {key: wrong}))
        said = control_complaint(tmp_path)
        refused += said is not None
        assert said is None or (str(tmp_path) in said and "\n" not in said), (key, wrong, said)
    assert refused > 200


@pytest.mark.parametrize("kind", [TypeError, AttributeError, KeyError, IndexError, RuntimeError])
@pytest.mark.parametrize(
    "place",
    [
        "diffusers_folder.unet_config_from_json",
        "diffusers_folder.VAE",
        "diffusers_folder.scheduler_config_from_json",
        "configs.sample_size",
    ],
)
def test_a_mistake_in_our_own_code_is_not_blamed_on_the_file(published, monkeypatch, kind, place):
    def mistaken(*_, **__):
        raise kind("a mistake")

    monkeypatch.setattr(f"sdlearn.weights.{place}", mistaken)
    with pytest.raises(kind, match="a mistake") as caught:
        load(published)
    assert str(published) not in str(caught.value)


def test_a_file_that_is_cut_while_it_is_read(published, tmp_path):
    path = Path(shutil.copy(published / VAE, tmp_path / "vae.safetensors"))
    *_, last = open_weights(path).values()
    assert last.read().shape == last.shape
    os.truncate(path, 3000)
    with pytest.raises(ValueError, match=r"vae\.safetensors became shorter while it was read"):
        last.read()


ATTENTION = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
STRANGERS = {
    "Stable Diffusion 2": {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
        "model.diffusion_model." + ATTENTION: (320, 1024),
    },
    "Stable Diffusion 1 for inpainting": {
        "conv_in.weight": (320, 9, 3, 3),
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    },
    "the refiner of SDXL": {
        "model.diffusion_model.input_blocks.0.0.weight": (384, 4, 3, 3),
        "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (
            768,
            1280,
        ),
    },
    "a ControlNet for Stable Diffusion 1": {
        "control_model.input_hint_block.0.weight": (16, 3, 3, 3),
        "control_model." + ATTENTION: (320, 768),
    },
    "low-rank adapters (LoRA), which are not a model on their own": {
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 320),
    },
    "Stable Diffusion 3": {
        "model.diffusion_model.joint_blocks.0.x_block.attn.proj.weight": (8, 8),
    },
    "Flux": {"double_blocks.0.img_attn.norm.key_norm.scale": (128,)},
    "an autoencoder whose latents have 16 channels, as in Stable Diffusion 3 and Flux": {
        "decoder.conv_in.weight": (8, 16, 3, 3)
    },
    "OpenCLIP ViT-H/14, the text encoder of Stable Diffusion 2": {
        "text_model.embeddings.position_embedding.weight": (77, 1024),
    },
}


@pytest.mark.parametrize("family", STRANGERS)
def test_a_file_for_another_family_is_refused_by_its_name(published, tmp_path, family):
    path = tmp_path / "model.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in STRANGERS[family].items()}, path)
    sd = load(published)
    for module in (sd.unet, sd.text.encoders[0]):
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            weights.load(module, path)
        assert str(caught.value).endswith(f"; it looks like {family}")
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        weights.load_original("sd1.5", path)
    assert f"looks like {family}" in str(caught.value)
    assert "\n" not in str(caught.value)
    if family != "Stable Diffusion 2":  # which is a known system, see below
        with pytest.raises(ValueError, match=re.escape(f"looks like {family}")) as caught:
            load(path)
        assert "\n" not in str(caught.value)


# ----------------------------------------------------------------------------- one original file


def original(module):
    """The tensors of one part under their original names; 1x1 convolutions may stay linear."""
    ours = module.state_dict()
    return {name: ours[key] for key, name in key_map(module).items()}


@pytest.fixture
def single(published, tmp_path):
    """A whole system in one file, and the tensors in it."""
    sd = load(published)
    parts = {
        "model.diffusion_model.": sd.unet,
        "first_stage_model.": sd.vae,
        "cond_stage_model.transformer.text_model.": sd.text.encoders[0],
    }
    tensors = {prefix + k: v for prefix, m in parts.items() for k, v in original(m).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors", tensors, sd.spec


def test_a_part_is_no_whole_system(published):
    with pytest.raises(ValueError, match=r"is a file, but not of a whole system under known"):
        load(published / UNET)


def test_a_specification_belongs_to_a_file(published, single):
    path, _, spec = single
    for options in ({"spec": "sd1.5"}, {"tokenizer": published}):
        with pytest.raises(ValueError, match=r"is not a file; spec and tokenizer are accepted for"):
            StableDiffusion.from_pretrained(published, **options)
    with pytest.raises(ValueError, match=r"spec is 'sd3'; accepted: sd1\.4, sd1\.5, "):
        StableDiffusion.from_pretrained(path, spec="sd3", tokenizer=published)
    with pytest.raises(ValueError, match=r"looks like no known system; accepted: sd1\.4, "):
        StableDiffusion.from_pretrained(path, tokenizer=published)
    sd = StableDiffusion.from_pretrained(path, spec=spec, tokenizer=published, device="cpu")
    assert same(sd, load(published))
    wrong = replace(spec, unet=replace(spec.unet, layers_per_block=2))
    with pytest.raises(ValueError, match=r"model\.safetensors(: | holds | lacks )"):
        StableDiffusion.from_pretrained(path, spec=wrong, tokenizer=published)


def test_what_the_weights_can_tell(tmp_path):
    """1.4 and 1.5 differ in their weights alone, so nothing must be said; 2 comes in two kinds."""

    def like(name):
        unet = SPECS[name].unet
        shapes = {ATTENTION: (1, unet.cross_attention_dim)}
        shapes["input_blocks.0.0.weight"] = (1, unet.in_channels, 3, 3)
        path = tmp_path / "model.safetensors"
        save_file({"model.diffusion_model." + k: torch.zeros(v) for k, v in shapes.items()}, path)
        return detect_spec(path, open_weights(path))

    assert like("sd1.4") == like("sd1.5") == SPECS["sd1.5"]
    for name in ("sd1.5-inpaint", "sd2-inpaint", "sdxl", "storybook"):
        assert like(name) == SPECS[name]
    for name in ("sd2.0-base", "sd2.0", "sd2.1-base", "sd2.1"):
        with pytest.raises(ValueError, match="do not show which version; choose it") as caught:
            like(name)
        assert str(caught.value).endswith("'sd2.0-base', 'sd2.0', 'sd2.1-base', 'sd2.1'")


def test_where_the_tokenizer_comes_from(published, single, tmp_path, monkeypatch):
    path, tensors, spec = single
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer, .* give tokenizer= a folder"):
        StableDiffusion.from_pretrained(path, spec=spec)
    with pytest.raises(FileNotFoundError, match=r"vocab\.json is missing"):
        StableDiffusion.from_pretrained(path, spec=spec, tokenizer=tmp_path)
    small = replace(spec, text=(replace(spec.text[0], vocab_size=500),))
    embedding = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    fewer = tmp_path / "fewer.safetensors"
    save_file(tensors | {embedding: tensors[embedding][:500].clone()}, fewer)
    with pytest.raises(ValueError, match=r"has \d+ tokens, more than the 500 of the text encoder"):
        StableDiffusion.from_pretrained(fewer, spec=small, tokenizer=published / "tokenizer")

    def snapshot(repo, allow_patterns):
        assert repo == "openai/clip-vit-large-patch14"
        assert sorted(allow_patterns) == sorted(FILES)
        return str(published / "tokenizer")

    monkeypatch.setattr(single_file, "snapshot_download", snapshot)
    sd = StableDiffusion.from_pretrained(path, spec=spec, device="cpu")
    assert same(sd, load(published))
    assert sd.text.tokenizers[0].pad_token == sd.text.tokenizers[0].eos_token


def test_tensors_that_nobody_knows(published, single):
    """Beside the parts they are left out, with a warning; inside one they are another network."""
    path, tensors, spec = single
    save_file(tensors | {"edit_note": torch.zeros(3)}, path)
    with pytest.warns(UserWarning, match="1 unknown tensors are ignored, among them '"):
        weights.load_original(spec, path)
    for name in (
        "model.diffusion_model.middle_block.3.weight",
        "first_stage_model.encoder.extra",
        "cond_stage_model.transformer.text_model.head.weight",
        "conditioner.embedders.1.model.positional_embedding",
    ):
        save_file(tensors | {name: torch.zeros(3)}, path)
        with pytest.raises(ValueError, match=f"holds the tensor {re.escape(repr(name))}"):
            weights.load_original(spec, path)


class Callback:
    """Something that a training left in its checkpoint."""


def test_a_checkpoint_with_objects_of_its_training(single, tmp_path):
    _, tensors, spec = single
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": tensors, "global_step": 5, "lr_schedulers": [{"a": 0.1}]}, path)
    assert weights.load_original(spec, path).unet.conv_in.weight.dtype == torch.float32
    torch.save({"state_dict": tensors, "callbacks": {"saver": Callback()}}, path)
    with pytest.raises(
        ValueError,
        match=r"holds '\S+\.Callback', and rebuilding .* use a \.safetensors",
    ):
        weights.load_original(spec, path)


# ----------------------------------------------------------------------------------------- saving


def test_a_failed_save_leaves_the_old_file(published, tmp_path, monkeypatch):
    sd = load(published)
    weights.save(sd.vae, tmp_path / "vae.safetensors")
    before = (tmp_path / "vae.safetensors").read_bytes()

    def fail(state, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(saving, "save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        weights.save(sd.vae, tmp_path / "vae.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["vae.safetensors"]
    assert (tmp_path / "vae.safetensors").read_bytes() == before
    with pytest.raises(ValueError, match=r"written as \.safetensors"):
        weights.save(sd.vae, tmp_path / "vae.bin")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_weights_can_be_read_by_whom_the_other_files_can(tmp_path):
    (tmp_path / "plain").touch()
    saving.write_safetensors(tmp_path / "w.safetensors", {"x": torch.zeros(2)})
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
