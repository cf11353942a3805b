"""The specifications against the published configurations, at full size on the meta device.

What the published JSON files say is written out here, so that the specifications, the reader of
these files and the networks are all held to it.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig as TheirConfig
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder
from sdlearn.controlnet import ControlNet
from sdlearn.unet import UNet, UNetConfig
from sdlearn.vae import VAE
from sdlearn.versions import SPECS
from sdlearn.weights.configs import (
    unet_config_from_json,
    unet_config_to_json,
    vae_config_from_json,
    vae_config_to_json,
)
from sdlearn.weights.text_config import text_config_from_json, text_config_to_json

from .oracle import count, published, shapes

Shapes = dict[str, tuple[int, ...]]

SD1_UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 32,  # not so: they were trained on 64
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
SD2_UNET = SD1_UNET | {
    "_diffusers_version": "0.10.0.dev0",
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 64,
    "use_linear_projection": True,
}
SDXL_UNET = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.19.0.dev0",
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": 2048,
    "cross_attention_norm": None,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 2816,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "upcast_attention": None,
    "use_linear_projection": True,
}
SD2_INPAINT_UNET = SD2_UNET | {
    "_diffusers_version": "0.8.0",
    "in_channels": 9,
    "sample_size": 32,
}

CLIP_L = {
    "architectures": ["CLIPTextModel"],
    "bos_token_id": 0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "vocab_size": 49408,
}
OPENCLIP_H = CLIP_L | {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}
OPENCLIP_BIGG = CLIP_L | {
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}

SD_VAE = {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
SDXL_VAE = SD_VAE | {"force_upcast": True, "sample_size": 1024, "scaling_factor": 0.13025}

# System: U-Net, text encoders, autoencoder as published; parameters of the U-Net.
SYSTEMS: dict[str, tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any], int]] = {
    "sd1.4": (SD1_UNET | {"sample_size": 64}, [CLIP_L], SD_VAE, 859_520_964),
    "sd1.5": (SD1_UNET, [CLIP_L], SD_VAE, 859_520_964),
    "sd1.5-inpaint": (SD1_UNET | {"in_channels": 9}, [CLIP_L], SD_VAE, 859_535_364),
    "sd2.0-base": (SD2_UNET, [OPENCLIP_H], SD_VAE, 865_910_724),
    "sd2.0": (SD2_UNET | {"sample_size": 96}, [OPENCLIP_H], SD_VAE, 865_910_724),
    "sd2.1-base": (SD2_UNET, [OPENCLIP_H], SD_VAE, 865_910_724),
    "sd2.1": (
        SD2_UNET | {"sample_size": 96, "upcast_attention": True},
        [OPENCLIP_H],
        SD_VAE,
        865_910_724,
    ),
    "sd2-inpaint": (SD2_INPAINT_UNET, [OPENCLIP_H], SD_VAE, 865_925_124),
    "sdxl": (SDXL_UNET, [CLIP_L, OPENCLIP_BIGG], SDXL_VAE, 2_567_463_684),
}
TEXT_PARAMETERS = {768: 123_060_480, 1024: 340_387_840, 1280: 694_659_840}  # by width
WHOLE = {  # parameters of a whole system
    "sd1.4": 1_066_235_307,
    "sd1.5": 1_066_235_307,
    "sd2.1": 1_289_952_427,
    "sdxl": 3_468_837_867,
}


def written(folder, config):
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


@cache
def their_unet(config: str) -> Shapes:
    with torch.device("meta"):
        return shapes(published(UNet2DConditionModel.from_config(json.loads(config))))


@cache
def their_text(config: str) -> Shapes:
    values = json.loads(config)
    projects = "WithProjection" in values["architectures"][0]
    with torch.device("meta"):
        theirs = (CLIPTextModelWithProjection if projects else CLIPTextModel)(TheirConfig(**values))
    return shapes(published(theirs))


@cache
def our_unet(config: UNetConfig) -> tuple[Shapes, int]:
    with torch.device("meta"):
        ours = UNet(config)
    return shapes(ours.state_dict()), count(ours)


@cache
def our_text(config: CLIPTextConfig) -> tuple[Shapes, int]:
    with torch.device("meta"):
        ours = CLIPTextEncoder(config)
    return shapes(ours.state_dict()), count(ours)


def what_counts(config: dict[str, Any]) -> str:
    """Without what changes no tensor, so that each network is built once."""
    free = ("sample_size", "upcast_attention", "_diffusers_version")
    return json.dumps({key: value for key, value in config.items() if key not in free})


def constructed(monkeypatch: pytest.MonkeyPatch, build: Callable[[], nn.Module]) -> tuple[int, int]:
    """How many parameters were made while a module was built, and how many of them it has."""
    made: list[nn.Parameter] = []
    register = nn.Module.register_parameter

    def noting(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            made.append(parameter)
        register(self, name, parameter)

    with monkeypatch.context() as patch, torch.device("meta"):
        patch.setattr(nn.Module, "register_parameter", noting)
        module = build()
    return sum(parameter.numel() for parameter in made), count(module)


@pytest.mark.parametrize("name", SPECS)
def test_no_layer_is_built_and_thrown_away(name, monkeypatch):
    """SDXL's second middle transformer would be 350,840,320 parameters more."""
    spec = SPECS[name]
    for build in (
        lambda: UNet(spec.unet),
        lambda: ControlNet(spec.unet),
        lambda: VAE(spec.vae),
        *(partial(CLIPTextEncoder, config) for config in spec.text),
    ):
        made, kept = constructed(monkeypatch, build)
        assert made == kept > 0


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_published_files_are_the_specification(name, tmp_path):
    unet, text, vae, _ = SYSTEMS[name]
    spec = SPECS[name]
    assert unet_config_from_json(written(tmp_path, unet)) == spec.unet
    for config, own in zip(text, spec.text, strict=True):  # 2 stands for the highest id
        assert text_config_from_json(written(tmp_path, config)) == replace(own, eos_token_id=None)
    assert vae_config_from_json(written(tmp_path, vae)) == spec.vae


@pytest.mark.parametrize("name", SYSTEMS)
def test_keys_shapes_and_counts_of_unet_and_text_encoders(name):
    unet, text, _, parameters = SYSTEMS[name]
    spec = SPECS[name]
    ours, number = our_unet(spec.unet)
    assert ours == their_unet(what_counts(unet))
    assert number == parameters
    for config, published_config in zip(spec.text, text, strict=True):
        ours, in_text = our_text(config)
        assert ours == their_text(json.dumps(published_config))
        assert in_text == TEXT_PARAMETERS[config.hidden_size]
        number += in_text
    assert number + 83_653_863 == WHOLE.get(name, number + 83_653_863)


@pytest.mark.parametrize("config", [SD_VAE, SDXL_VAE], ids=["SD", "SDXL"])
def test_keys_shapes_and_counts_of_the_autoencoder(config, tmp_path):
    with torch.device("meta"):
        ours = VAE(vae_config_from_json(written(tmp_path, config)))
        theirs = AutoencoderKL.from_config(config)
    assert shapes(ours.state_dict()) == shapes(theirs.state_dict())
    assert count(ours) == 83_653_863
    assert (count(ours.encoder), count(ours.decoder)) == (34_163_592, 49_490_179)
    assert ours.factor == 8


@pytest.mark.parametrize("name", SPECS)
def test_what_is_written_is_read_again(name, tmp_path):
    spec = SPECS[name]
    assert unet_config_from_json(written(tmp_path, unet_config_to_json(spec.unet))) == spec.unet
    vae = vae_config_to_json(spec.vae, spec.resolution)
    assert vae_config_from_json(written(tmp_path, vae)) == spec.vae
    for text in spec.text:
        again = text_config_from_json(written(tmp_path, text_config_to_json(text, 49406)))
        assert again == text


def test_how_pictures_are_made():
    """Prediction and sampler as in the published scheduler files, guidance as in the pipelines."""
    made = {s.name: (s.predicts, s.sampler, s.resolution, s.guidance_scale) for s in SPECS.values()}
    del made["storybook"], made["storybook-inpaint"], made["storybook-few-steps"]
    assert made == {
        "sd1.4": ("noise", "plms", 512, 7.5),
        "sd1.5": ("noise", "plms", 512, 7.5),
        "sd1.5-inpaint": ("noise", "ddim", 512, 7.5),
        "sd2.0-base": ("noise", "plms", 512, 7.5),
        "sd2.0": ("velocity", "ddim", 768, 7.5),
        "sd2.1-base": ("noise", "plms", 512, 7.5),
        "sd2.1": ("velocity", "ddim", 768, 7.5),
        "sd2-inpaint": ("noise", "plms", 512, 7.5),
        "sdxl": ("noise", "euler", 1024, 5.0),
    }
    for name, spec in SPECS.items():
        assert spec.name == name
        few = name == "storybook-few-steps"  # its windows end where this path does
        own = ("trailing", 1, "zero") if few else ("leading", 1, "min")
        assert (spec.spacing, spec.steps_offset, spec.final_sigma) == own
        assert spec.resolution == spec.unet.sample_size * 8
        assert spec.unet.cross_attention_dim == sum(text.hidden_size for text in spec.text)
        assert spec.schedule.beta_end == 0.012
        assert spec.zero_negative == (spec.text_layer == "penultimate") == (name == "sdxl")
