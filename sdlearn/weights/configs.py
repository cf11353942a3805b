"""config.json of each network in a published folder, read and written.

    unet_config_from_json         unet_config_to_json
    controlnet_config_from_json   controlnet_config_to_json
    vae_config_from_json          vae_config_to_json
    text_config_from_json         text_config_to_json

The files have more settings than the networks of this package. The tables *_FIXED list the settings
that these networks implement with one value only. A file with another value is refused, because
the network would silently compute something else; written files contain these values, so that
other software does the same. The scheduler's file is in scheduler_config.
"""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from sdlearn.clip import CLIPTextConfig
from sdlearn.unet import UNetConfig
from sdlearn.vae import VAEConfig
from sdlearn.weights.json_config import Config, Integers, Json, is_list, read_config

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
# The published classes of a level's blocks, with and without cross-attention.
DOWN_BLOCKS = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
UP_BLOCKS = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}
# Entries of a U-Net's file that a ControlNet's does not have.
NOT_IN_CONTROLNET = (
    "center_input_sample",
    "conv_in_kernel",
    "conv_out_kernel",
    "dual_cross_attention",
    "out_channels",
    "sample_size",
    "up_block_types",
)


# -------------------------------------------------------------------------------------------- U-Net


def unet_config_from_json(path: Path) -> UNetConfig:
    """Read unet/config.json.

    In these files attention_head_dim is the number of heads, not their width, unless
    num_attention_heads gives it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an entry is missing, malformed or not supported.
    """
    config = read_config(path, UNET_FIXED)
    widths = config.integers("block_out_channels")
    has_attention = {name: attention for attention, name in DOWN_BLOCKS.items()}
    down = config.texts("down_block_types")
    known = all(name in has_attention for name in down)
    mirrored = [UP_BLOCKS[has_attention[name]] for name in reversed(down)] if known else []
    up = config.texts("up_block_types", mirrored)  # a ControlNet has no upsampling path
    if not known or up != mirrored:
        raise ValueError(
            f"{path}: the blocks {down} and {up} are not those of Stable Diffusion, "
            f"{list(DOWN_BLOCKS.values())} and the matching {list(UP_BLOCKS.values())}"
        )
    added = config.get("addition_embed_type")
    if added not in (None, "text_time"):
        raise ValueError(
            f"{path}: addition_embed_type is {added!r}; only None and 'text_time' are supported"
        )
    has_heads = config.get("num_attention_heads") is not None
    heads = "num_attention_heads" if has_heads else "attention_head_dim"
    return UNetConfig(
        in_channels=config.integer("in_channels", 4),
        out_channels=config.integer("out_channels", 4),
        block_out_channels=widths,
        layers_per_block=config.integer("layers_per_block", 2),
        cross_attention=tuple(has_attention[name] for name in down),
        transformer_depth=per_level(config, "transformer_layers_per_block", 1, least=0),
        num_heads=per_level(config, heads, 8),
        cross_attention_dim=config.integer("cross_attention_dim"),
        use_linear_projection=config.flag("use_linear_projection"),
        added_dim=config.integer("projection_class_embeddings_input_dim") if added else None,
        added_time_dim=config.integer("addition_time_embed_dim") if added else None,
        norm_num_groups=config.integer("norm_num_groups", 32),
        upcast_attention=config.flag("upcast_attention"),
        sample_size=sample_size(config),
    )


def unet_config_to_json(config: UNetConfig) -> Json:
    """The content of unet/config.json."""
    return UNET_FIXED | {
        "_class_name": "UNet2DConditionModel",
        "addition_embed_type": None if config.added_dim is None else "text_time",
        "addition_time_embed_dim": config.added_time_dim,
        "attention_head_dim": list(config.num_heads),
        "block_out_channels": list(config.block_out_channels),
        "cross_attention_dim": config.cross_attention_dim,
        "down_block_types": [DOWN_BLOCKS[attention] for attention in config.cross_attention],
        "in_channels": config.in_channels,
        "layers_per_block": config.layers_per_block,
        "norm_num_groups": config.norm_num_groups,
        "out_channels": config.out_channels,
        "projection_class_embeddings_input_dim": config.added_dim,
        "sample_size": config.sample_size,
        "transformer_layers_per_block": list(config.transformer_depth),
        "up_block_types": [UP_BLOCKS[attention] for attention in reversed(config.cross_attention)],
        "upcast_attention": config.upcast_attention,
        "use_linear_projection": config.use_linear_projection,
    }


def sample_size(config: Config) -> int:
    """Height and width of the latents, which a file gives once or as a list of equal numbers.

    Files written before diffusers 0.9 say 32 for networks that were trained on 64.
    """
    several = is_list(config.get("sample_size"))
    sides = set(config.integers("sample_size") if several else [config.integer("sample_size", 64)])
    if len(sides) != 1:
        size = config["sample_size"]
        raise ValueError(f"{config.path}: sample_size is {size}; only squares are supported")
    old = re.match(r"0\.[0-8]\.", config.text("_diffusers_version", ""))
    return max(64, *sides) if old else sides.pop()


def per_level(config: Config, key: str, default: int, least: int = 1) -> Integers:
    """One number for each level; a file may give one for all levels."""
    if is_list(config.get(key)):
        return config.integers(key, least=least)
    return (config.integer(key, default, least),) * len(config.integers("block_out_channels"))


# --------------------------------------------------------------------------------------- ControlNet


def controlnet_config_from_json(path: Path) -> tuple[UNetConfig, tuple[int, ...]]:
    """Read the config.json of a ControlNet.

    Returns:
        The configuration of the U-Net that it controls, and the channels of its hint encoder.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an entry is missing, malformed or not supported.
    """
    config = read_config(path, CONTROLNET_FIXED)
    unet = unet_config_from_json(path)
    hint_channels = config.integers("conditioning_embedding_out_channels", (16, 32, 96, 256))
    return replace(unet, out_channels=unet.in_channels), hint_channels


def controlnet_config_to_json(config: UNetConfig, hint_channels: tuple[int, ...]) -> Json:
    """The content of a ControlNet's config.json.

    Args:
        config: Of the ControlNet, see ControlNet.config.
        hint_channels: The channels of its hint encoder.
    """
    unet = unet_config_to_json(config)
    shared = {key: value for key, value in unet.items() if key not in NOT_IN_CONTROLNET}
    return shared | CONTROLNET_FIXED | {"conditioning_embedding_out_channels": list(hint_channels)}


# -------------------------------------------------------------------------------------- autoencoder


def vae_config_from_json(path: Path) -> VAEConfig:
    """Read vae/config.json.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an entry is missing, malformed or not supported.
    """
    config = read_config(path, VAE_FIXED)
    blocks = {*config.texts("down_block_types"), *config.texts("up_block_types")}
    if blocks != {"DownEncoderBlock2D", "UpDecoderBlock2D"}:
        raise ValueError(
            f"{path}: the blocks {sorted(blocks)} are not those of Stable Diffusion's autoencoder, "
            "DownEncoderBlock2D and UpDecoderBlock2D"
        )
    defaults = VAEConfig()
    return VAEConfig(
        in_channels=config.integer("in_channels", defaults.in_channels),
        out_channels=config.integer("out_channels", defaults.out_channels),
        latent_channels=config.integer("latent_channels", defaults.latent_channels),
        block_out_channels=config.integers("block_out_channels"),
        layers_per_block=config.integer("layers_per_block", defaults.layers_per_block),
        norm_num_groups=config.integer("norm_num_groups", defaults.norm_num_groups),
        scaling_factor=config.number("scaling_factor", defaults.scaling_factor),
        force_upcast=config.flag("force_upcast"),
    )


def vae_config_to_json(config: VAEConfig, sample_size: int) -> Json:
    """The content of vae/config.json.

    Args:
        config: Of the autoencoder.
        sample_size: Height and width of the training images, in pixels; nothing is computed
            from it.
    """
    levels = len(config.block_out_channels)
    return (
        VAE_FIXED
        | {field.name: getattr(config, field.name) for field in fields(config)}
        | {
            "_class_name": "AutoencoderKL",
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "sample_size": sample_size,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        }
    )


# ------------------------------------------------------------------------------------- text encoder


def text_config_from_json(path: Path) -> CLIPTextConfig:
    """Read text_encoder/config.json.

    projection_dim only counts if the file's class is CLIPTextModelWithProjection. Old files say 2
    for eos_token_id, which is wrong for all of them; it is replaced by the last token of the
    vocabulary.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an entry is missing, malformed or not supported.
    """
    config = read_config(path, TEXT_FIXED)
    has_projection = "CLIPTextModelWithProjection" in config.texts("architectures", ())
    eos = config.integer("eos_token_id", 2, least=0)
    vocab_size = config.integer("vocab_size")
    activation: Any = config.text("hidden_act", "quick_gelu")  # CLIPTextConfig checks the name
    return CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=config.integer("hidden_size"),
        num_layers=config.integer("num_hidden_layers"),
        num_heads=config.integer("num_attention_heads"),
        intermediate_size=config.integer("intermediate_size"),
        max_positions=config.integer("max_position_embeddings", 77),
        activation=activation,
        projection_dim=config.integer("projection_dim") if has_projection else None,
        eos_token_id=vocab_size - 1 if eos == 2 else eos,
    )


def text_config_to_json(config: CLIPTextConfig, bos_token_id: int) -> Json:
    """The content of text_encoder/config.json.

    Args:
        config: Of the text encoder.
        bos_token_id: The start-of-text token, which only the tokenizer knows.
    """
    has_projection = config.projection_dim is not None
    return TEXT_FIXED | {
        "architectures": [f"CLIPTextModel{'WithProjection' if has_projection else ''}"],
        "bos_token_id": bos_token_id,
        "eos_token_id": config.eos_token_id,
        "hidden_act": config.activation,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "model_type": "clip_text_model",
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "pad_token_id": config.eos_token_id,
        "projection_dim": config.projection_dim or config.hidden_size,
        # Always float32, also if the weights are stored in half precision: without this entry
        # transformers would compute in the stored type in this part only.
        "torch_dtype": "float32",
        "vocab_size": config.vocab_size,
    }
