"""The JSON files of a published folder -> the configurations of this package.

The files hold more settings than the systems differ in. What is the same for all of them is listed
once; a file that says otherwise is refused by name, because these modules would silently compute
something else. The way back is writing; the scheduler's file is read and written in schedulers.
"""

import math
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdlearn.clip import CLIPTextConfig
from sdlearn.files import read_json
from sdlearn.unet import UNetConfig
from sdlearn.vae import VAEConfig

Json = Mapping[str, Any]
Integers = tuple[int, ...]

# No size in a configuration comes near it, and no tensor of such sizes is too large for torch.
LARGEST = 2**20

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
    widths = config.integers("block_out_channels")
    names = {name: attends for attends, name in DOWN.items()}
    down = config.texts("down_block_types")
    known = all(name in names for name in down)
    mirrored = [UP[names[name]] for name in reversed(down)] if known else []
    up = config.texts("up_block_types", mirrored)  # a ControlNet has no way up
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
    named = config.get("num_attention_heads") is not None
    heads = "num_attention_heads" if named else "attention_head_dim"
    return UNetConfig(
        in_channels=config.integer("in_channels", 4),
        out_channels=config.integer("out_channels", 4),
        block_out_channels=widths,
        layers_per_block=config.integer("layers_per_block", 2),
        cross_attention=tuple(names[name] for name in down),
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


def read_controlnet(path: Path) -> tuple[UNetConfig, tuple[int, ...]]:
    """A ControlNet's config.json -> the U-Net it controls, and the widths of its hint encoder."""
    config = read_config(path, CONTROLNET_FIXED)
    unet = read_unet(path)
    hint_channels = config.integers("conditioning_embedding_out_channels", (16, 32, 96, 256))
    return replace(unet, out_channels=unet.in_channels), hint_channels


def read_vae(path: Path) -> VAEConfig:
    """vae/config.json -> VAEConfig."""
    config = read_config(path, VAE_FIXED)
    blocks = {*config.texts("down_block_types"), *config.texts("up_block_types")}
    if blocks != {"DownEncoderBlock2D", "UpDecoderBlock2D"}:
        raise ValueError(
            f"{path}: the blocks {sorted(blocks)} are not those of Stable Diffusion's autoencoder, "
            "DownEncoderBlock2D and UpDecoderBlock2D"
        )
    usual = VAEConfig()
    return VAEConfig(
        in_channels=config.integer("in_channels", usual.in_channels),
        out_channels=config.integer("out_channels", usual.out_channels),
        latent_channels=config.integer("latent_channels", usual.latent_channels),
        block_out_channels=config.integers("block_out_channels"),
        layers_per_block=config.integer("layers_per_block", usual.layers_per_block),
        norm_num_groups=config.integer("norm_num_groups", usual.norm_num_groups),
        scaling_factor=config.number("scaling_factor", usual.scaling_factor),
        force_upcast=config.flag("force_upcast"),
    )


def read_text(path: Path) -> CLIPTextConfig:
    """text_encoder/config.json -> CLIPTextConfig.

    projection_dim counts only where the class has a projection. Old files say eos_token_id 2,
    which is not true of any of them: the end token is the last one of the vocabulary.
    """
    config = read_config(path, TEXT_FIXED)
    projects = "CLIPTextModelWithProjection" in config.texts("architectures", ())
    eos = config.integer("eos_token_id", 2, least=0)
    vocab_size = config.integer("vocab_size")
    activation: Any = config.text("hidden_act", "quick_gelu")  # CLIPTextConfig knows which it takes
    return CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=config.integer("hidden_size"),
        num_layers=config.integer("num_hidden_layers"),
        num_heads=config.integer("num_attention_heads"),
        intermediate_size=config.integer("intermediate_size"),
        max_positions=config.integer("max_position_embeddings", 77),
        activation=activation,
        projection_dim=config.integer("projection_dim") if projects else None,
        eos_token_id=vocab_size - 1 if eos == 2 else eos,
    )


@contextmanager
def sensible(path: Path) -> Iterator[Path]:
    """Have the ValueError of a class that refuses values also name the file that they are from.

    Values of a wrong kind never get that far: Config refuses them. So any other error is a mistake
    in the code, and is left as it is.
    """
    try:
        yield path
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def read_config(path: Path, fixed: Json) -> "Config":
    """A configuration whose `fixed` entries, where it has them, are the supported ones."""
    config = Config(path)
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise ValueError(f"{path}: {key} is {config[key]!r}; only {value!r} is supported")
    return config


class Config(dict[str, Any]):
    """The entries of a configuration file.

    Asked for an entry as what it must be, it raises a ValueError that names the file and the entry
    where that is absent or something else. An absent entry is the default where one is given.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(read_json(path))
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"{self.path} has no entry {key!r}")

    def entry(self, key: str, default: Any) -> Any:
        return self[key] if default is None else self.get(key, default)

    def wrong(self, key: str, expected: str) -> ValueError:
        return ValueError(
            f"{self.path} has an entry of the wrong kind: {key} is {reprlib.repr(self[key])}; it "
            f"must be {expected}"
        )

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self.entry(key, default)
        if not is_integer(value, least):
            raise self.wrong(key, f"a whole number from {least} to {LARGEST}")
        return int(value)

    def integers(self, key: str, default: Sequence[int] | None = None, least: int = 1) -> Integers:
        """At least one of them."""
        values = self.entry(key, default)
        if not is_list(values) or not values or not all(is_integer(v, least) for v in values):
            raise self.wrong(key, f"a list of whole numbers from {least} to {LARGEST}")
        return tuple(values)

    def number(self, key: str, default: float | None = None) -> float:
        """Finite and above 0."""
        value = self.entry(key, default)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise self.wrong(key, "a number above 0")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """null is false."""
        value = self.get(key, default)
        if not (value is None or isinstance(value, bool)):
            raise self.wrong(key, "true or false")
        return bool(value)

    def text(self, key: str, default: str | None = None) -> str:
        value = self.entry(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "a text")
        return value

    def texts(self, key: str, default: Sequence[str] | None = None) -> list[str]:
        """null is an empty list where there is a default."""
        values = self.entry(key, default)
        if values is None and default is not None:
            return []
        if not is_list(values) or not all(isinstance(value, str) for value in values):
            raise self.wrong(key, "a list of texts")
        return list(values)


def is_integer(value: object, least: int) -> bool:
    """Not a bool, which Python counts among them."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LARGEST


def is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def sample_size(config: Config) -> int:
    """The side of the latents, a square that the file gives once, or as height and width.

    Files written before diffusers 0.9 say 32 of networks that were trained on 64.
    """
    many = is_list(config.get("sample_size"))
    sides = set(config.integers("sample_size") if many else [config.integer("sample_size", 64)])
    if len(sides) != 1:
        size = config["sample_size"]
        raise ValueError(f"{config.path}: sample_size is {size}; only squares are supported")
    old = re.match(r"0\.[0-8]\.", config.text("_diffusers_version", ""))
    return max(64, *sides) if old else sides.pop()


def per_level(config: Config, key: str, default: int, least: int = 1) -> Integers:
    """One number for all levels, or one for each."""
    if is_list(config.get(key)):
        return config.integers(key, least=least)
    return (config.integer(key, default, least),) * len(config.integers("block_out_channels"))
