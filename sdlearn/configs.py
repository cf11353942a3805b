"""The JSON files of a published folder -> the configurations of this package.

The files hold more settings than the systems differ in. What is the same for all of them is listed
once; a file that says otherwise is refused by name, because these modules would silently compute
something else. The way back is writing; the scheduler's file is read and written in schedulers.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from sdlearn.clip import CLIPTextConfig
from sdlearn.files import read_json
from sdlearn.unet import UNetConfig
from sdlearn.vae import VAEConfig

Json = Mapping[str, Any]

# What the modules do in one way only: a file that says otherwise cannot be honoured, and files
# written here say it.
UNET_FIXED = {
    "act_fn": "silu",
    "center_input_sample": False,
    "class_embed_type": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-05,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
}
CONTROLNET_FIXED = {
    "_class_name": "ControlNetModel",
    "conditioning_channels": 3,
    "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False,
}
VAE_FIXED = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "shift_factor": None,
}
TEXT_FIXED = {"layer_norm_eps": 1e-05}
DOWN = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
UP = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}


def read_unet(path: Path) -> UNetConfig:
    """unet/config.json -> UNetConfig. Its attention_head_dim is the NUMBER of heads."""
    config = read_config(path, UNET_FIXED)
    widths = tuple(config["block_out_channels"])
    names = {name: attends for attends, name in DOWN.items()}
    down = config["down_block_types"]
    known = all(name in names for name in down)
    mirrored = [UP[names[name]] for name in reversed(down)] if known else []
    up = config.get("up_block_types", mirrored)  # a ControlNet has no way up
    if not known or up != mirrored:
        raise ValueError(
            f"{path}: the blocks {down} and {up} are not those of Stable Diffusion, "
            f"{list(DOWN.values())} and the matching {list(UP.values())}"
        )
    added = config.get("addition_embed_type")
    if added not in (None, "text_time"):
        raise ValueError(
            f"{path}: addition_embed_type is {added!r}; only None and 'text_time' are supported"
        )
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    return UNetConfig(
        in_channels=config.get("in_channels", 4),
        out_channels=config.get("out_channels", 4),
        block_out_channels=widths,
        layers_per_block=config.get("layers_per_block", 2),
        cross_attention=tuple(names[name] for name in down),
        transformer_depth=per_level(config.get("transformer_layers_per_block", 1), widths),
        num_heads=per_level(heads, widths),
        cross_attention_dim=config["cross_attention_dim"],
        use_linear_projection=bool(config.get("use_linear_projection")),
        added_dim=config["projection_class_embeddings_input_dim"] if added else None,
        added_time_dim=config["addition_time_embed_dim"] if added else None,
        norm_num_groups=config.get("norm_num_groups", 32),
        upcast_attention=bool(config.get("upcast_attention")),
        sample_size=sample_size(path, config),
    )


def read_controlnet(path: Path) -> tuple[UNetConfig, tuple[int, ...]]:
    """A ControlNet's config.json -> the U-Net it controls, and the widths of its hint encoder."""
    config = read_config(path, CONTROLNET_FIXED)
    unet = read_unet(path)
    hint_channels = config.get("conditioning_embedding_out_channels", (16, 32, 96, 256))
    return replace(unet, out_channels=unet.in_channels), tuple(hint_channels)


def read_vae(path: Path) -> VAEConfig:
    """vae/config.json -> VAEConfig."""
    config = read_config(path, VAE_FIXED)
    blocks = {*config["down_block_types"], *config["up_block_types"]}
    if blocks != {"DownEncoderBlock2D", "UpDecoderBlock2D"}:
        raise ValueError(
            f"{path}: the blocks {sorted(blocks)} are not those of Stable Diffusion's autoencoder, "
            "DownEncoderBlock2D and UpDecoderBlock2D"
        )
    known = {field.name: config[field.name] for field in fields(VAEConfig) if field.name in config}
    return VAEConfig(**known | {"block_out_channels": tuple(config["block_out_channels"])})


def read_text(path: Path) -> CLIPTextConfig:
    """text_encoder/config.json -> CLIPTextConfig.

    projection_dim counts only where the class has a projection. Old files say eos_token_id 2,
    which is not true of any of them: the end token is the last one of the vocabulary.
    """
    config = read_config(path, TEXT_FIXED)
    projects = "CLIPTextModelWithProjection" in (config.get("architectures") or ())
    eos = config.get("eos_token_id", 2)
    return CLIPTextConfig(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        intermediate_size=config["intermediate_size"],
        max_positions=config.get("max_position_embeddings", 77),
        activation=config.get("hidden_act", "quick_gelu"),
        projection_dim=config.get("projection_dim") if projects else None,
        eos_token_id=config["vocab_size"] - 1 if eos == 2 else eos,
    )


@contextmanager
def sensible(path: Path) -> Iterator[Path]:
    """Turn what is said of a bad value, by our classes or by Python, into a ValueError that names
    the file."""
    try:
        yield path
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error
    except (TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).split("\n", 1)[0]
        raise ValueError(f"{path} has an entry of the wrong kind: {reason}") from error


def read_config(path: Path, fixed: Json) -> "Config":
    """A configuration whose `fixed` entries, where it has them, are the supported ones."""
    config = Config(read_json(path))
    config.path = path
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise ValueError(f"{path}: {key} is {config[key]!r}; only {value!r} is supported")
    return config


class Config(dict[str, Any]):
    """A configuration that says which file an absent entry is absent from."""

    path: Path

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"{self.path} has no entry {key!r}")


def sample_size(path: Path, config: Json) -> int:
    """The side of the latents, a square that the file gives once, or as height and width.

    Files written before diffusers 0.9 say 32 of networks that were trained on 64.
    """
    size = config.get("sample_size", 64)
    sides = {size} if isinstance(size, int) else {*size}
    if len(sides) != 1:
        raise ValueError(f"{path}: sample_size is {size}; only squares are supported")
    old = re.match(r"0\.[0-8]\.", config.get("_diffusers_version", ""))
    return max(64, *sides) if old else sides.pop()


def per_level(value: int | list[int], widths: tuple[int, ...]) -> tuple[int, ...]:
    """One number for all levels, or one for each."""
    return (value,) * len(widths) if isinstance(value, int) else tuple(value)
