"""Published folders of every class and kind of part, hostile JSON, astronomical networks."""

import inspect
import json
import os
import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
    _import_structure,
)

from sdlearn.controlnet import ControlNet
from sdlearn.utils.atomic_files import LARGEST_JSON
from sdlearn.weights.diffusers_folder import read_spec
from tests.tiny_folders import change, complaint, load
from tests.tiny_model import tiny_unet

# --------------------------------------------------------------------------------- classes

PIPELINES = sorted(name for name in _import_structure["pipelines"] if "Pipeline" in name)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_any_class_of_pipeline_over_the_same_parts_is_the_same_system(families, tmp_path, family):
    own = read_spec(families[family])
    index = json.loads((families[family] / "model_index.json").read_text())
    shutil.copytree(families[family], tmp_path / "model")
    others = ["OwnPipeline", ["pipeline_own", "OwnPipeline"], None, "FlaxStableDiffusionPipeline"]
    assert len(PIPELINES) > 200
    for name in [*PIPELINES, *others]:
        (tmp_path / "model" / "model_index.json").write_text(
            json.dumps(index | {"_class_name": name})
        )
        spec = read_spec(tmp_path / "model")
        assert (spec.unet, spec.text, spec.text_layer) == (own.unet, own.text, own.text_layer)
        assert (spec.guidance_scale, spec.zero_negative) == (own.guidance_scale, own.zero_negative)
    del index["_class_name"]
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index))
    assert read_spec(tmp_path / "model").unet == own.unet


OTHER_PARTS = {
    "unet": ["UNet2DModel", "UNet3DConditionModel", "UNetMotionModel", "OnnxRuntimeModel"],
    "vae": [
        "AutoencoderTiny",
        "AsymmetricAutoencoderKL",
        "AutoencoderKLTemporalDecoder",
        "VQModel",
    ],
    "text_encoder": ["T5EncoderModel", "RobertaSeriesModelWithTransformation", "ClapModel"],
    "tokenizer": ["BertTokenizer", "T5Tokenizer", "XLMRobertaTokenizer"],
}


@pytest.mark.parametrize(
    ("part", "name"), [(part, name) for part, names in OTHER_PARTS.items() for name in names]
)
def test_a_part_of_another_class_is_named(folder, part, name):
    change(folder / "model_index.json", **{part: ["diffusers", name]})
    said = complaint(lambda: load(folder))
    assert f"{part} of this 'StableDiffusionPipeline' is a ['diffusers', '{name}']" in said


FAULTS = {
    "custom code": (
        {"unet": ["my_unet", "UNet2DConditionModel"]},
        "unet of this 'StableDiffusionPipeline' is a ['my_unet', 'UNet2DConditionModel']",
    ),
    "a part that is null": ({"text_encoder": [None, None]}, "text_encoder is null"),
    "a tokenizer that is null": ({"tokenizer": None}, "tokenizer is null"),
    "an entry of another kind": ({"vae": "AutoencoderKL"}, "vae is 'AutoencoderKL'; it must be"),
    "a class of another kind": ({"_class_name": 5}, "_class_name is 5; it must be the name"),
    "a second encoder": (
        {"text_encoder_2": ["transformers", "CLIPTextModel"]},
        "lists two text encoders",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_index_that_does_not_fit(folder, fault):
    changes, words = FAULTS[fault]
    change(folder / "model_index.json", **changes)
    assert words in complaint(lambda: load(folder))


@pytest.mark.parametrize(
    ("channels", "words"),
    [
        (5, "in_channels of the U-Net is 5, as for depth to image; only 4, and 9 for inpainting"),
        (7, "is 7, as for upscaling"),
        (8, "is 8, as for edits by instruction"),
        (3, "is 3; only 4, and 9"),
    ],
)
def test_a_unet_with_other_inputs_is_named(folder, channels, words):
    change(folder / "unet" / "config.json", in_channels=channels)
    assert words in complaint(lambda: load(folder))


def test_the_refiner_is_named(families, tmp_path):
    folder = shutil.copytree(families["sdxl"], tmp_path / "model")
    change(folder / "model_index.json", requires_aesthetics_score=True)
    assert "is SDXL's refiner, which needs an aesthetic score" in complaint(lambda: load(folder))
    change(folder / "model_index.json", requires_aesthetics_score=False)
    load(folder)
    change(folder / "model_index.json", text_encoder=[None, None], tokenizer=[None, None])
    assert "is SDXL's refiner" in complaint(lambda: load(folder))


def test_parts_beside_the_system_are_left_out_and_named_if_they_would_matter(folder):
    silent = {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    }
    change(folder / "model_index.json", **silent)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder)
    change(folder / "model_index.json", controlnet=["diffusers", "ControlNetModel"])
    with pytest.warns(UserWarning, match="parts .* are not read; Contr") as caught:
        load(folder)
    assert "the parts ['controlnet'] are" in str(caught[0].message)
    change(folder / "model_index.json", controlnet="gone", low_res_scheduler=["diffusers", "X"])
    with pytest.warns(UserWarning, match=r"\['low_res_scheduler'\] are not read$") as caught:
        load(folder)
    assert caught[0].filename.endswith("tiny_folders.py")  # the caller of from_pretrained


def test_the_warning_about_a_replaced_scheduler_names_the_callers_line(folder):
    change(folder / "model_index.json", scheduler=["diffusers", "KDPM2DiscreteScheduler"])
    with pytest.warns(UserWarning, match="KDPM2DiscreteScheduler") as caught:
        load(folder)
    assert caught[0].filename.endswith("tiny_folders.py")


def test_a_part_alone_is_no_system(families, tmp_path):
    said = complaint(lambda: load(families["sd1"] / "unet"))
    assert said.endswith("holds it, and this one has config.json only")
    shutil.copytree(families["sd1"] / "unet", tmp_path / "unet")
    assert complaint(lambda: load(tmp_path)).endswith("and this one has unet only")


@pytest.mark.parametrize("cls", [StableDiffusionInpaintPipeline, StableDiffusionXLInpaintPipeline])
def test_inpainting_folders_keep_their_class(pipes, tmp_path, cls):
    pipe = pipes["sdxl" if "XL" in cls.__name__ else "sd1"]
    config = {k: v for k, v in pipe.unet.config.items() if not k.startswith("_")}
    parts = pipe.components | {"unet": tiny_unet(**config | {"in_channels": 9})}
    accepted = inspect.signature(cls).parameters
    cls(**{k: v for k, v in parts.items() if k in accepted}).save_pretrained(tmp_path / "theirs")
    sd = load(tmp_path / "theirs")
    assert sd.is_inpainting
    sd.save_pretrained(tmp_path / "ours")
    again = DiffusionPipeline.from_pretrained(tmp_path / "ours")
    assert type(again) is cls
    assert torch.equal(again.unet.conv_in.weight, parts["unet"].conv_in.weight)


# ------------------------------------------------------------------------------------- JSON

HOSTILE = {
    "lists without end": (b"[" * 100_000, "its lists or objects are nested too deeply"),
    "objects without end": (b'{"a":' * 100_000, "its lists or objects are nested too deeply"),
    "a number of a million digits": (
        b'{"in_channels": ' + b"9" * 1_000_000 + b"}",
        "it holds a number with thousands of digits",
    ),
    "UTF-16": ('{"in_channels": 4}'.encode("utf-16"), "is not readable JSON: 'utf-8' codec"),
    "a half": (b'{"in_channels": 4', "is not readable JSON: "),
    "nothing": (b"", "is not readable JSON: "),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("place", ["model_index.json", "unet/config.json"])
def test_hostile_json_gets_a_sentence(folder, kind, place):
    content, words = HOSTILE[kind]
    (folder / place).write_bytes(content)
    said = complaint(lambda: load(folder))
    assert said.startswith(f"{folder / place} is not readable JSON: ")
    assert words in said


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "added_tokens.json", "vocab.json"]
)
def test_hostile_json_of_a_tokenizer(folder, name, kind):
    content, words = HOSTILE[kind]
    (folder / "tokenizer" / name).write_bytes(content)
    said = complaint(lambda: load(folder))
    what = "is an empty file" if kind == "nothing" else "is not readable JSON"
    assert f"{folder / 'tokenizer' / name} {what}" in said
    assert words in said or kind == "nothing"


def test_json_of_gigabytes_is_not_read(folder):
    path = folder / "unet" / "config.json"
    path.touch()
    os.truncate(path, 5_000_000_000)  # a hole, which takes no space
    said = complaint(lambda: load(folder))
    assert said == (
        f"{path} has 5,000,000,000 bytes; at most {LARGEST_JSON:,} bytes of JSON are read"
    )


def test_a_byte_order_mark_is_skipped(folder, families):
    for path in folder.rglob("*config.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    for path in (folder / "tokenizer").iterdir():
        shutil.copy(families["sd1"] / "tokenizer" / path.name, path)
    assert replace(read_spec(folder), name="") == replace(read_spec(families["sd1"]), name="")


ASTRONOMICAL = {
    "channels": ("unet", {"block_out_channels": [2**20, 2**20]}, "a UNet of ", "e+14 parameters"),
    "layers": ("unet", {"layers_per_block": 10**6}, "layers_per_block is 1000000; it must", "256"),
    "depth": ("unet", {"transformer_layers_per_block": [10**5, 1]}, "transformer_layers_", "256"),
    "blocks": (
        "unet",
        {"layers_per_block": 200, "transformer_layers_per_block": 200},
        "layers_per_block and transformer_layers_per_block make 81002 blocks; at most 4096",
        "",
    ),
    "levels": ("unet", {"block_out_channels": [16] * 99}, "block_out_channels has 99 entr", "16"),
    "autoencoder": ("vae", {"block_out_channels": [2**20] * 2}, "a VAE of ", "e+14 parameters"),
    "autoencoder's layers": ("vae", {"layers_per_block": 10**6}, "layers_per_block is 1000000", ""),
    "vocabulary": ("text_encoder", {"vocab_size": 10**12}, "vocab_size is 1000000000000; it m", ""),
    "text": (
        "text_encoder",
        {"hidden_size": 2**20, "vocab_size": 2**20},
        "attends to 24 channels, the text encoder gives 1048576",
        "",
    ),
    "text layers": ("text_encoder", {"num_hidden_layers": 10**6}, "num_hidden_layers is 100", ""),
    "text MLP": (
        "text_encoder",
        {"intermediate_size": 2**20, "vocab_size": 2**20, "num_hidden_layers": 256, "pad": 1},
        "a CLIPTextEncoder of ",
        "e+10 parameters",
    ),
    "images": ("unet", {"sample_size": 10**6}, "sample_size is 1000000; it must be", "4096"),
}


@pytest.mark.parametrize("kind", ASTRONOMICAL)
def test_a_network_that_no_memory_holds_is_refused_before_it_is_built(folder, kind):
    part, changes, *words = ASTRONOMICAL[kind]
    if kind == "text MLP":  # of a width that the other parts share
        change(folder / "unet" / "config.json", cross_attention_dim=48)
        changes |= {"hidden_size": 48, "num_attention_heads": 2}
    change(folder / part / "config.json", **changes)
    said = complaint(lambda: load(folder))
    assert all(word in said for word in words)
    assert str(folder) in said


def test_a_controlnet_that_no_memory_holds(families, tmp_path):
    ControlNet.from_unet(load(families["sd1"]).unet, (4, 6)).save_pretrained(tmp_path)
    change(tmp_path / "config.json", conditioning_embedding_out_channels=[2**19, 2**19])
    assert "a ControlNet of 4.9e+12 parameters" in complaint(
        lambda: ControlNet.from_pretrained(tmp_path)
    )
