"""config.json of each network in a published folder, read and written.

    unet_config_from_json         unet_config_to_json
    controlnet_config_from_json   controlnet_config_to_json
    vae_config_from_json          vae_config_to_json

The files have more settings than the networks of this package. Those with only one supported value
are in config_fields. The text encoder's file is in text_config, the scheduler's in
scheduler_config.
"""

import re
from dataclasses import fields, replace
from pathlib import Path

from torch import nn

from sdlearn.unet import UNetConfig
from sdlearn.utils.validation import shown
from sdlearn.vae import VAEConfig
from sdlearn.weights.config_fields import (
    CONTROLNET_FIXED,
    DOWN_BLOCKS,
    NOT_IN_CONTROLNET,
    PER_LEVEL,
    UNET_FIXED,
    UP_BLOCKS,
    VAE_FIXED,
)
from sdlearn.weights.json_config import (
    LARGEST,
    MOST_LAYERS,
    Config,
    Integers,
    Json,
    is_list,
    read_config,
    written,
)

# Of one network; the largest of the supported systems, SDXL's U-Net, has 2.6 billion.
MOST_PARAMETERS = 2**34
# Of one U-Net, its ResBlocks and transformer blocks; SDXL's has 105.
MOST_BLOCKS = 2**12
# Height and width of latents that a U-Net was trained on; SDXL's has 128.
LARGEST_SAMPLE = 2**12


def check_parameters(path: Path, module: nn.Module) -> None:
    """Raise ValueError if a network on the meta device is too large for any memory.

    Args:
        path: Its configuration file, for the message.
        module: The network.
    """
    n = sum(parameter.numel() for parameter in module.parameters())
    if n > MOST_PARAMETERS:
        widest = max(module.parameters(), key=lambda parameter: parameter.numel())
        raise ValueError(
            f"{path} describes a {type(module).__name__} of {n:.1e} parameters, {4 * n:.1e} bytes "
            f"in float32, with tensors such as {tuple(widest.shape)}; at most "
            f"{MOST_PARAMETERS:.1e} parameters are supported"
        )


# -------------------------------------------------------------------------------------------- U-Net


def unet_config_from_json(path: Path, class_name: str = "UNet2DConditionModel") -> UNetConfig:
    """Read unet/config.json.

    In these files attention_head_dim is the number of heads, not their width. Only a ControlNet's
    file may give it as num_attention_heads.

    Args:
        path: The file.
        class_name: The class that it may be of; a ControlNet's file has most of the entries, too.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an entry is missing, malformed or not supported.
    """
    config = read_config(path, UNET_FIXED, PER_LEVEL)
    check_class(config, class_name)
    widths = config.integers("block_out_channels")
    if widths[0] % 2:
        raise ValueError(
            f"{path}: block_out_channels begins with {widths[0]}; the timestep is embedded as "
            "pairs of a cosine and a sine, so it must be even"
        )
    has_attention = {name: attention for attention, name in DOWN_BLOCKS.items()}
    down = config.texts("down_block_types")
    known = all(name in has_attention for name in down)
    mirrored = [UP_BLOCKS[has_attention[name]] for name in reversed(down)] if known else []
    is_unet = class_name == "UNet2DConditionModel"  # a ControlNet has no upsampling path
    up = config.texts("up_block_types") if is_unet else mirrored
    if not known or up != mirrored:
        raise ValueError(
            f"{path}: the blocks {shown(down)} and {shown(up)} are not those of "
            f"Stable Diffusion, {list(DOWN_BLOCKS.values())} and the matching "
            f"{list(UP_BLOCKS.values())}"
        )
    added = config.get("addition_embed_type")
    if added not in (None, "text_time"):
        raise ValueError(
            f"{path}: addition_embed_type is {shown(added)}; only None and 'text_time' are "
            "supported"
        )
    if added and config.integer("addition_time_embed_dim") % 2:
        raise config.wrong("addition_time_embed_dim", "even, for pairs of a cosine and a sine")
    has_heads = config.get("num_attention_heads") is not None
    if has_heads and is_unet:  # nor does diffusers read it
        given = shown(config["num_attention_heads"])
        raise ValueError(f"{path}: num_attention_heads is {given}; only null is supported")
    heads = "num_attention_heads" if has_heads else "attention_head_dim"
    unet = UNetConfig(
        in_channels=config.integer("in_channels", 4),
        out_channels=config.integer("out_channels", 4),
        block_out_channels=widths,
        layers_per_block=one_for_all(config, "layers_per_block", 2, MOST_LAYERS),
        cross_attention=tuple(has_attention[name] for name in down),
        transformer_depth=per_level(config, "transformer_layers_per_block", 1, 0, MOST_LAYERS),
        num_heads=per_level(config, heads, 8),
        cross_attention_dim=one_for_all(config, "cross_attention_dim"),
        use_linear_projection=config.flag("use_linear_projection"),
        added_dim=config.integer("projection_class_embeddings_input_dim") if added else None,
        added_time_dim=config.integer("addition_time_embed_dim") if added else None,
        norm_num_groups=config.integer("norm_num_groups", 32),
        upcast_attention=config.flag("upcast_attention"),
        sample_size=sample_size(config),
    )
    check_blocks(path, unet)
    return unet


def check_class(config: Config, name: str) -> None:
    """Raise ValueError if the file says that it is of another class; Flax's are the same."""
    given = config.text("_class_name", name)
    if given.removeprefix("Flax") != name:
        raise ValueError(
            f"{config.path}: _class_name is {shown(given)}; only {name!r} is supported"
        )


def check_blocks(path: Path, config: UNetConfig) -> None:
    """Raise ValueError for a U-Net of more blocks than can be built in a moment."""
    depths = zip(config.cross_attention, config.transformer_depth, strict=True)
    per_layer = sum(1 + depth * attention for attention, depth in depths)
    blocks = (2 * config.layers_per_block + 1) * per_layer
    if blocks > MOST_BLOCKS:
        raise ValueError(
            f"{path}: layers_per_block and transformer_layers_per_block make {blocks} blocks; at "
            f"most {MOST_BLOCKS} are supported"
        )


def unet_config_to_json(config: UNetConfig) -> Json:
    """The content of unet/config.json."""
    return written(UNET_FIXED) | {
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
    given = config.get("sample_size")
    if is_list(given):
        size, *others = set(config.integers("sample_size", most=LARGEST_SAMPLE))
    else:
        others = []
        size = 64 if given is None else config.integer("sample_size", most=LARGEST_SAMPLE)
    if others:
        raise ValueError(
            f"{config.path}: sample_size is {shown(given)}; only squares are supported"
        )
    old = re.match(r"0\.[0-8]\.", config.text("_diffusers_version", ""))
    return max(64, size) if old else size


def per_level(
    config: Config, key: str, default: int, least: int = 1, most: int = LARGEST
) -> Integers:
    """One number for each level; a file may give one for all levels."""
    if is_list(config.get(key)):
        return config.integers(key, least=least, most=most)
    return (config.integer(key, default, least, most),) * len(config.integers("block_out_channels"))


def one_for_all(config: Config, key: str, default: int | None = None, most: int = LARGEST) -> int:
    """One number for all levels; a file may repeat it for each level."""
    if not is_list(config.get(key)):
        return config.integer(key, default, most=most)
    given = config.integers(key, most=most)
    if len(set(given)) > 1 or len(given) != len(config.integers("block_out_channels")):
        raise ValueError(
            f"{config.path}: {key} is {shown(list(given))}; only one number for all levels "
            "is supported"
        )
    return given[0]


# --------------------------------------------------------------------------------------- ControlNet


def controlnet_config_from_json(path: Path) -> tuple[UNetConfig, tuple[int, ...], bool]:
    """Read the config.json of a ControlNet.

    Returns:
        The configuration of the U-Net that it controls, the channels of its hint encoder, and
        whether its residuals are averaged.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an entry is missing, malformed or not supported.
    """
    config = read_config(path, CONTROLNET_FIXED)
    unet = unet_config_from_json(path, "ControlNetModel")
    hint_channels = config.integers("conditioning_embedding_out_channels", (16, 32, 96, 256))
    global_pool = config.flag("global_pool_conditions")
    return replace(unet, out_channels=unet.in_channels), hint_channels, global_pool


def controlnet_config_to_json(
    config: UNetConfig, hint_channels: tuple[int, ...], global_pool: bool
) -> Json:
    """The content of a ControlNet's config.json.

    Args:
        config: Of the ControlNet, see ControlNet.config.
        hint_channels: The channels of its hint encoder.
        global_pool: Whether its residuals are averaged.
    """
    unet = unet_config_to_json(config)
    shared = {key: value for key, value in unet.items() if key not in NOT_IN_CONTROLNET}
    return (
        shared
        | written(CONTROLNET_FIXED)
        | {
            "conditioning_embedding_out_channels": list(hint_channels),
            "global_pool_conditions": global_pool,
        }
    )


# -------------------------------------------------------------------------------------- autoencoder


def vae_config_from_json(path: Path) -> VAEConfig:
    """Read vae/config.json.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an entry is missing, malformed or not supported.
    """
    config = read_config(path, VAE_FIXED)
    check_class(config, "AutoencoderKL")
    widths = config.integers("block_out_channels")
    down, up = config.texts("down_block_types"), config.texts("up_block_types")
    n = len(widths)
    if (down, up) != (["DownEncoderBlock2D"] * n, ["UpDecoderBlock2D"] * n):
        raise ValueError(
            f"{path}: the blocks {shown(down)} and {shown(up)} are not those of "
            "Stable Diffusion's autoencoder, DownEncoderBlock2D and UpDecoderBlock2D for each of "
            f"the {n} levels of block_out_channels"
        )
    defaults = VAEConfig()
    groups = config.integer("norm_num_groups", defaults.norm_num_groups)
    if any(c % groups for c in widths):
        raise ValueError(
            f"{path}: norm_num_groups is {groups}; it must divide every one of the "
            f"block_out_channels {shown(list(widths))}"
        )
    return VAEConfig(
        latent_channels=config.integer("latent_channels", defaults.latent_channels),
        block_out_channels=widths,
        layers_per_block=config.integer("layers_per_block", 1, most=MOST_LAYERS),
        norm_num_groups=groups,
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
        written(VAE_FIXED)
        | {field.name: getattr(config, field.name) for field in fields(config)}
        | {
            "_class_name": "AutoencoderKL",
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "sample_size": sample_size,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        }
    )
