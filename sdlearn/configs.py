"""The JSON files of a published folder <-> the configurations of this package.

The files hold more settings than the systems differ in. What is the same for all of them is listed
once; a file that says otherwise is refused by name, because these modules would silently compute
something else.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from sdlearn.clip import CLIPTextConfig
from sdlearn.files import read_json
from sdlearn.guidance import Predicts
from sdlearn.schedule import Kind, NoiseSchedule
from sdlearn.unet import UNetConfig
from sdlearn.vae import VAEConfig
from sdlearn.versions import ModelSpec

Json = Mapping[str, Any]

# What the modules do in one way only: a file that says otherwise cannot be honoured, and files
# written here say it.
UNET_FIXED = {
    "act_fn": "silu",
    "addition_embed_type": None,
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
VAE_FIXED = {"act_fn": "silu"}
TEXT_FIXED = {"layer_norm_eps": 1e-05}
SCHEDULE_FIXED = {"trained_betas": None, "thresholding": False}
DOWN = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
UP = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}
# Samplers that spread their points over the whole table unless the file says otherwise.
LINSPACE = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DPMSolverMultistepScheduler",
)
PREDICTS: dict[str, Predicts] = {"epsilon": "noise", "v_prediction": "velocity"}
KINDS: dict[str, Kind] = {
    "scaled_linear": "scaled_linear",
    "linear": "linear",
    "squaredcos_cap_v2": "cosine",
}


# ---------------------------------------------------------------------------------------- reading


def read_unet(path: Path) -> UNetConfig:
    """unet/config.json -> UNetConfig. Its attention_head_dim is the NUMBER of heads."""
    config = read_config(path, UNET_FIXED)
    widths = tuple(config["block_out_channels"])
    names = {name: attends for attends, name in DOWN.items()}
    down, up = config["down_block_types"], config["up_block_types"]
    known = all(name in names for name in down)
    if not known or up != [UP[names[name]] for name in reversed(down)]:
        raise ValueError(
            f"{path}: the blocks {down} and {up} are not those of Stable Diffusion, "
            f"{list(DOWN.values())} and the matching {list(UP.values())}"
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
        norm_num_groups=config.get("norm_num_groups", 32),
        upcast_attention=bool(config.get("upcast_attention")),
        sample_size=side(path, config.get("sample_size", 64)),
    )


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


def read_scheduler(path: Path, spec: ModelSpec) -> ModelSpec:
    """scheduler/scheduler_config.json into a specification: schedule, path and prediction.

    All of Stable Diffusion's published samplers share one schedule; one that is not offered here is
    replaced by DDIM on that schedule. Absent entries mean what they mean to the sampler named.
    """
    config = read_config(path, SCHEDULE_FIXED)
    named = config.get("_class_name", "")
    ddpm = named == "DDPMScheduler"
    if config.get("clip_sample", ddpm or named == "DDIMScheduler"):
        raise ValueError(f"{path}: clip_sample is true; latents are not confined, it must be false")
    if ddpm and config.get("variance_type", "fixed_small") not in ("fixed_small", None):
        raise ValueError(f"{path}: variance_type is {config['variance_type']!r}, not 'fixed_small'")
    kind, prediction = config.get("beta_schedule", "linear"), config.get("prediction_type")
    if kind not in KINDS:
        raise ValueError(f"{path}: beta_schedule is {kind!r}; known are {', '.join(KINDS)}")
    if (prediction or "epsilon") not in PREDICTS:
        raise ValueError(
            f"{path}: prediction_type is {prediction!r}; known are {', '.join(PREDICTS)}"
        )
    schedule = NoiseSchedule(
        num_steps=config.get("num_train_timesteps", 1000),
        beta_start=config.get("beta_start", 0.0001),
        beta_end=config.get("beta_end", 0.02),
        kind=KINDS[kind],
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr")),
    )
    return replace(
        spec,
        schedule=schedule,
        predicts=PREDICTS[prediction or "epsilon"],
        sampler="ddpm" if ddpm else "ddim",
        spacing=config.get("timestep_spacing", "linspace" if named in LINSPACE else "leading"),
        offset=config.get("steps_offset", 0),
        final="clean" if config.get("set_alpha_to_one", named == "DDIMScheduler") else "first",
    )


@contextmanager
def sensible(path: Path) -> Iterator[Path]:
    """Turn what Python says of a value of the wrong kind into a ValueError that names the file."""
    try:
        yield path
    except (TypeError, AttributeError, ZeroDivisionError) as error:
        raise ValueError(f"{path} has an entry of the wrong kind: {error}") from error


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


def side(path: Path, size: int | list[int]) -> int:
    """The side of a square that a file gives once, or as height and width."""
    sides = {size} if isinstance(size, int) else {*size}
    if len(sides) != 1:
        raise ValueError(f"{path}: sample_size is {size}; only squares are supported")
    return sides.pop()


def per_level(value: int | list[int], widths: tuple[int, ...]) -> tuple[int, ...]:
    """One number for all levels, or one for each."""
    return (value,) * len(widths) if isinstance(value, int) else tuple(value)


# ---------------------------------------------------------------------------------------- writing


def unet_json(config: UNetConfig) -> Json:
    """unet/config.json of a U-Net."""
    down = [DOWN[attends] for attends in config.cross_attention]
    return UNET_FIXED | {
        "_class_name": "UNet2DConditionModel",
        "attention_head_dim": list(config.num_heads),
        "block_out_channels": list(config.block_out_channels),
        "cross_attention_dim": config.cross_attention_dim,
        "down_block_types": down,
        "in_channels": config.in_channels,
        "layers_per_block": config.layers_per_block,
        "norm_num_groups": config.norm_num_groups,
        "out_channels": config.out_channels,
        "sample_size": config.sample_size,
        "transformer_layers_per_block": list(config.transformer_depth),
        "up_block_types": [UP[attends] for attends in reversed(config.cross_attention)],
        "upcast_attention": config.upcast_attention,
        "use_linear_projection": config.use_linear_projection,
    }


def vae_json(config: VAEConfig, size: int) -> Json:
    """vae/config.json of an autoencoder; size, in pixels, only informs."""
    levels = len(config.block_out_channels)
    return (
        VAE_FIXED
        | {field.name: getattr(config, field.name) for field in fields(config)}
        | {
            "_class_name": "AutoencoderKL",
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "sample_size": size,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
        }
    )


def text_json(config: CLIPTextConfig, bos_token_id: int) -> Json:
    """text_encoder/config.json of a text encoder."""
    return TEXT_FIXED | {
        "architectures": ["CLIPTextModel"],
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
        # To compute in, also where the file holds half precision: else readers of this file take
        # the file's own type for this part alone.
        "torch_dtype": "float32",
        "vocab_size": config.vocab_size,
    }


def scheduler_json(spec: ModelSpec) -> Json:
    """scheduler/scheduler_config.json: DDIM as Stable Diffusion publishes it."""
    schedule = spec.schedule
    return {
        "_class_name": "DDIMScheduler",
        "beta_end": schedule.beta_end,
        "beta_schedule": next(name for name, kind in KINDS.items() if kind == schedule.kind),
        "beta_start": schedule.beta_start,
        "clip_sample": False,
        "num_train_timesteps": schedule.num_steps,
        "prediction_type": next(name for name, p in PREDICTS.items() if p == spec.predicts),
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
        "set_alpha_to_one": spec.final == "clean",
        "steps_offset": spec.offset,
        "timestep_spacing": spec.spacing,
        "trained_betas": None,
    }
