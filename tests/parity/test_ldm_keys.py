"""The original single files, against diffusers' own converters and against the published sizes.

The files are made here by walking our map backwards, which alone would prove nothing: diffusers
converts each of them, and must find in it exactly what the published folders hold. At full size,
where names are checked and nothing is computed, they must also have the published files' number
of tensors and number of bytes, to the byte.
"""

import json
import math
from dataclasses import replace

import pytest
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from sdlearn import weights
from sdlearn.clip import CLIPTextEncoder
from sdlearn.controlnet import ControlNet
from sdlearn.pipeline import StableDiffusion
from sdlearn.unet import UNet
from sdlearn.vae import VAE
from sdlearn.versions import SD1_5, SD2_1, SDXL, SPECS
from sdlearn.weights.configs import unet_config_to_json, vae_config_to_json
from sdlearn.weights.ldm_keys import ema_key, key_map
from sdlearn.weights.model_detection import detect_model
from sdlearn.weights.saving import published_state
from sdlearn.weights.single_file import load_original
from sdlearn.weights.system_parts import new_parts
from sdlearn.weights.text_config import text_config_to_json
from tests.parity.oracle import randomise, shapes
from tests.tiny_model import tiny_diffusers, tiny_sd2, tiny_sdxl
from tests.tiny_original import (
    CLIP,
    OPEN_CLIP,
    SCHEDULE_TABLES,
    TEXT,
    TINY,
    TINY1,
    TINY_UNET,
    TINY_VAE,
    equal,
    original,
    same,
    system,
)

# ------------------------------------------------------------------ against diffusers' converters


def theirs(spec, prefixes, state):
    """What diffusers' converters find in an original file, each part under the published names."""
    unet = {"layers_per_block": spec.unet.layers_per_block}
    if spec.unet.added_dim:
        unet["addition_embed_type"] = "text_time"
    levels = [None] * len(spec.vae.block_out_channels)
    parts = [
        convert_ldm_unet_checkpoint(dict(state), unet),
        convert_ldm_vae_checkpoint(
            dict(state), {"down_block_types": levels, "up_block_types": levels}
        ),
    ]
    for config, prefix in zip(spec.text, prefixes, strict=True):
        if prefix.endswith("text_model."):
            part = convert_ldm_clip_checkpoint(state)
            part.pop("text_model.embeddings.position_ids", None)
        else:
            part = convert_open_clip_checkpoint(None, state, prefix=prefix)
            unused = f"text_model.encoder.layers.{config.num_layers}."  # theirs skips number 23
            part = {k: v for k, v in part.items() if not k.startswith(unused)}
        parts.append(part)
    return parts


@pytest.mark.parametrize("name", TINY)
def test_diffusers_finds_the_published_tensors(name):
    parts, state = system(TINY[name])
    found = theirs(TINY[name], TEXT[name], state)
    for module, part in zip((parts.unet, parts.vae, *parts.encoders), found, strict=True):
        published = published_state(module)
        assert part.keys() == published.keys()
        assert all(torch.equal(part[key], published[key]) for key in published)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_an_original_file_loads_back_equal(name, suffix, tmp_path):
    parts, state = system(TINY[name])
    path = tmp_path / f"model{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": state, "global_step": 840000, "epoch": 3}, path)
    else:
        save_file(state, path)
    loaded = load_original(TINY[name], path)
    assert same(loaded, parts)
    # And into parts that are there already, which keep their memory and their type.
    others, _ = system(TINY[name], seed=7)
    assert not same(others, parts)
    kept = others.unet.conv_in.weight
    others.vae.double()
    for module in (others.unet, others.vae):
        weights.load(module, path)
    assert others.unet.conv_in.weight is kept
    assert others.vae.quant_conv.weight.dtype == torch.float64
    assert equal(others.unet, parts.unet)
    assert equal(others.vae.float(), parts.vae)


def test_both_prefixes_of_the_first_text_encoder(tmp_path):
    parts, state = system(TINY1)
    short = {key.replace(CLIP, "cond_stage_model.transformer."): v for key, v in state.items()}
    assert short.keys() != state.keys()
    save_file(short, tmp_path / "model.safetensors")
    assert same(load_original(TINY1, tmp_path / "model.safetensors"), parts)


def test_averaged_weights(tmp_path):
    """They are taken when asked for, and when there are no others."""
    path = tmp_path / "model.safetensors"
    parts, state = system(TINY1)
    average = randomise(UNet(TINY_UNET), seed=5)
    prefix = "model.diffusion_model."
    ema = {ema_key(k): v.contiguous() for k, v in original(average, "").items()}
    # As the original code names them: "model_ema." and the name from its second word on, no dots.
    full = original(average, prefix)
    assert ema.keys() == {"model_ema." + "".join(key.split(".")[1:]) for key in full}
    counters = {"model_ema.decay": torch.rand(()), "model_ema.num_updates": torch.tensor(3)}
    save_file(state | ema | counters, path)
    assert same(load_original(TINY1, path), parts)
    loaded = load_original(TINY1, path, ema=True)
    assert equal(loaded.unet, average)
    assert equal(loaded.vae, parts.vae)
    save_file({k: v for k, v in (state | ema).items() if not k.startswith(prefix)}, path)
    assert equal(load_original(TINY1, path).unet, average)
    save_file(state | counters, path)
    with pytest.raises(ValueError, match=r"holds no averaged weights \(model_ema\.\*\) of a UNet"):
        load_original(TINY1, path, ema=True)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("prefix", ["control_model.", ""])
def test_a_controlnet(name, prefix, tmp_path):
    """diffusers' converter is called on its own: its route from a file's configuration fails."""
    config = TINY[name].unet
    controlnet = randomise(ControlNet(config, hint_channels=(4, 6, 8, 10)))
    state = {key: v.contiguous() for key, v in original(controlnet, prefix).items()}
    found = convert_controlnet_checkpoint(
        dict(state), {"layers_per_block": config.layers_per_block}
    )
    published = published_state(controlnet)
    if config.added_dim:  # which that converter leaves out
        embedding = {key for key in published if key.startswith("add_embedding.")}
        assert len(embedding) == 4
        for key in embedding:
            number = key.replace("add_embedding.linear_1", "0").replace(
                "add_embedding.linear_2", "2"
            )
            assert torch.equal(state[f"{prefix}label_emb.0.{number}"], published.pop(key))
    assert found.keys() == published.keys()
    assert all(torch.equal(found[key], published[key]) for key in published)
    if prefix:  # the file of the whole system, as it was first published
        state |= system(TINY[name])[1]
    torch.save(state, tmp_path / "control.pth")
    other = ControlNet(config, hint_channels=(4, 6, 8, 10))
    weights.load(other, tmp_path / "control.pth")
    assert equal(other, controlnet)


def test_an_autoencoder_alone(tmp_path):
    """Like vae-ft-mse-840000-ema-pruned.ckpt, with the losses that trained it."""
    vae = randomise(VAE(TINY_VAE))
    state = original(vae, "") | {"loss.logvar": torch.zeros(())}
    torch.save({"state_dict": state}, tmp_path / "vae.ckpt")
    other = VAE(TINY_VAE)
    weights.load(other, tmp_path / "vae.ckpt")
    assert equal(other, vae)


@pytest.mark.parametrize("tiny", [tiny_diffusers, tiny_sd2, tiny_sdxl])
def test_a_file_draws_what_the_folder_draws(tiny, tmp_path):
    """From the weights in one original file, the specification and the tokenizer's folder."""
    pipeline = tiny()
    pipeline.save_pretrained(tmp_path / "folder")
    sd = StableDiffusion.from_pretrained(tmp_path / "folder", device="cpu")
    state = original(sd.unet, "model.diffusion_model.") | original(sd.vae, "first_stage_model.")
    prefixes = {tiny_diffusers: [CLIP], tiny_sd2: [OPEN_CLIP], tiny_sdxl: TEXT["tinyxl"]}[tiny]
    for encoder, prefix in zip(sd.text.encoders, prefixes, strict=True):
        state |= original(encoder, prefix)
    file = tmp_path / "model.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, file)
    other = StableDiffusion.from_pretrained(
        file, device="cpu", spec=sd.spec, tokenizer=tmp_path / "folder"
    )
    assert other.spec == sd.spec
    options = {"steps": 3, "output": "latent", "progress": False}
    latents = [each.text_to_image("a red cat!", **options) for each in (sd, other)]
    assert torch.equal(*latents)
    assert not torch.equal(latents[0], sd.text_to_image("a blue house", **options))


# ---------------------------------------------------------------------------------------- full size


def on_no_device(spec):
    parts = new_parts(spec, torch.float32)
    assert parts.unet.conv_in.weight.is_meta
    return parts


def manifest(spec, prefixes):
    """Names and shapes of the tensors of a full-size original file, the weights of spec alone."""
    parts = on_no_device(spec)
    state = original(parts.unet, "model.diffusion_model.") | original(
        parts.vae, "first_stage_model."
    )
    for encoder, prefix in zip(parts.encoders, prefixes, strict=True):
        state |= original(encoder, prefix)
    return {name: ("F32", tuple(tensor.shape)) for name, tensor in state.items()}


def file_size(entries):
    """Bytes of the header, and of the file, as the published ones were written: sorted by name,
    the header's end not yet padded to a multiple of eight."""
    header, start = {"__metadata__": {"format": "pt"}}, 0
    for name, (kind, shape) in sorted(entries.items()):
        end = start + math.prod(shape) * int(kind[1:]) // 8
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
        start = end
    length = len(json.dumps(header, separators=(",", ":")))
    return length, 8 + length + start


TABLE_ENTRIES = dict.fromkeys(SCHEDULE_TABLES, ("F32", (1000,)))
EMA_ENTRIES = {"model_ema.decay": ("F32", ()), "model_ema.num_updates": ("I32", ())}
SD2_FILE = {**TABLE_ENTRIES, OPEN_CLIP + "logit_scale": ("F32", ())}
SD2_WHOLE = (replace(SD2_1.text[0], num_layers=24, projection_dim=1024),)  # the file's encoder


def published_file(name):
    """The tensors that a published file is made of: those of our modules, and what is beside."""
    if name == "sd1.5":
        ids = {CLIP + "embeddings.position_ids": ("I64", (1, 77))}
        return manifest(SD1_5, [CLIP]) | ids | TABLE_ENTRIES | EMA_ENTRIES
    if name == "sdxl":
        prefixes = TEXT["tinyxl"]
        ids = {prefixes[0] + "embeddings.position_ids": ("I64", (1, 77))}
        return manifest(SDXL, prefixes) | ids | {prefixes[1] + "logit_scale": ("F32", ())}
    return manifest(replace(SPECS[name], text=SD2_WHOLE), [OPEN_CLIP]) | SD2_FILE


@pytest.mark.parametrize(
    ("name", "beside", "tensors", "size"),
    [
        pytest.param("sd1.5", {}, 1145, 4_265_146_304, id="v1-5-pruned-emaonly"),
        pytest.param("sd2.1-base", {}, 1240, 5_214_604_312, id="v2-1_512-nonema-pruned"),
        pytest.param("sd2.1-base", EMA_ENTRIES, 1242, 5_214_604_494, id="v2-1_512-ema-pruned"),
        pytest.param("sd2-inpaint", EMA_ENTRIES, 1242, 5_214_662_094, id="512-inpainting-ema"),
    ],
)
def test_full_size_files_have_the_published_size(name, beside, tensors, size):
    entries = published_file(name) | beside
    assert len(entries) == tensors
    header, total = file_size(entries)
    assert total == size
    if name == "sd1.5":
        assert header == 156_444


def test_full_size_sdxl():
    """Version 1.0 in half precision; its header also describes the model, in some 35 kB that are
    not known here, so only the numbers' share of the file is exact."""
    entries = {
        name: (kind.replace("F32", "F16"), shape)
        for name, (kind, shape) in published_file("sdxl").items()
    }
    assert len(entries) == 2515
    header, total = file_size(entries)
    assert total - header - 8 == 2 * (3_468_837_867 + 1) + 8 * 77
    assert 30_000 < 6_938_078_334 - total < 40_000


@pytest.mark.parametrize("name", ["sd1.5", "sd1.5-inpaint", "sd2.1", "sdxl"])
def test_full_size_names_and_shapes_are_those_that_diffusers_finds(name):
    """Every tensor of their models at full size has a place in the file, and each its own."""
    spec = SPECS[name]
    parts = on_no_device(spec)
    encoders = list(parts.encoders)
    prefixes = {"sd2.1": [OPEN_CLIP], "sdxl": TEXT["tinyxl"]}.get(name, [CLIP])
    state = original(parts.unet, "model.diffusion_model.")
    state |= original(parts.vae, "first_stage_model.")
    for encoder, prefix in zip(encoders, prefixes, strict=True):
        state |= original(encoder, prefix)
    with torch.device("meta"):
        if name == "sd2.1":  # with the layer and the projection that are skipped
            state |= original(CLIPTextEncoder(SD2_WHOLE[0]), OPEN_CLIP)
        models = [
            UNet2DConditionModel.from_config(dict(unet_config_to_json(spec.unet))),
            AutoencoderKL.from_config(dict(vae_config_to_json(spec.vae, spec.resolution))),
        ]
        for config in spec.text:
            json = text_config_to_json(config, 49406)
            kind = CLIPTextModelWithProjection if config.projection_dim else CLIPTextModel
            models.append(kind(transformers.CLIPTextConfig(**json)))
    for part, model in zip(theirs(spec, prefixes, state), models, strict=True):
        assert shapes(bare(part)) == shapes(bare(model.state_dict()))


def bare(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the prefix that transformers 5.0 still gives the names of its text encoder."""
    return {key.removeprefix("text_model."): value for key, value in state.items()}


def test_names_that_no_size_and_no_converter_would_notice():
    """The upsampling stands behind the transformer, or in its place where a level has none;
    diffusers' converter takes it from either."""
    expected = {
        "sd1.5": ["output_blocks.2.1.conv", "output_blocks.5.2.conv", "output_blocks.8.2.conv"],
        "sdxl": ["output_blocks.2.2.conv", "output_blocks.5.2.conv"],
    }
    for name, places in expected.items():
        rename = key_map(on_no_device(SPECS[name]).unet)
        ours = [f"up_blocks.{b}.upsamplers.0.conv.bias" for b in range(len(places))]
        assert [rename[key] for key in ours] == [f"{place}.bias" for place in places]


FAMILIES = {
    "sd1.4": "Stable Diffusion 1",
    "sd1.5": "Stable Diffusion 1",
    "sd1.5-inpaint": "Stable Diffusion 1 for inpainting",
    "sd2.0-base": "Stable Diffusion 2",
    "sd2.0": "Stable Diffusion 2",
    "sd2.1-base": "Stable Diffusion 2",
    "sd2.1": "Stable Diffusion 2",
    "sd2-inpaint": "Stable Diffusion 2 for inpainting",
    "sdxl": "SDXL",
    "storybook": None,
    "storybook-inpaint": None,
    "storybook-few-steps": None,
}


@pytest.mark.parametrize("name", SPECS)
def test_every_full_size_system_is_recognised(name):
    """By the U-Net in the published folder and in the original file; and so is a ControlNet."""
    unet = on_no_device(SPECS[name]).unet
    assert detect_model(shapes(unet.state_dict())) == FAMILIES[name]
    assert detect_model(shapes(original(unet, "model.diffusion_model."))) == FAMILIES[name]
    with torch.device("meta"):
        controlnet = ControlNet(SPECS[name].unet)
    family = FAMILIES[name].removesuffix(" for inpainting") if FAMILIES[name] else "another system"
    for state in (controlnet.state_dict(), original(controlnet, "control_model.")):
        assert detect_model(shapes(state)) == f"a ControlNet for {family}"


def test_parts_are_recognised():
    for name, text in (
        ("sd1.5", "CLIP ViT-L/14"),
        ("sd2.1", "OpenCLIP ViT-H/14"),
        ("sdxl", "OpenCLIP ViT-bigG/14"),
    ):
        parts = on_no_device(SPECS[name])
        encoder = parts.encoders[-1]
        for state in (encoder.state_dict(), original(encoder, "x.model.")):
            assert detect_model(shapes(state)).startswith(text + ", the ")
        for state in (parts.vae.state_dict(), original(parts.vae, "")):
            assert detect_model(shapes(state)) == "an autoencoder whose latents have 4 channels"
