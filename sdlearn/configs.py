"""The JSON files of a published folder <-> the configurations of this package.

The files hold more settings than the systems differ in. What is the same for all of them is listed
once; a file that says otherwise is refused by name, because these modules would silently compute
something else.
"""

import math
import re
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
# What a U-Net's file says and a ControlNet's does not.
NOT_CONTROLNET = (
    "center_input_sample",
    "conv_in_kernel",
    "conv_out_kernel",
    "dual_cross_attention",
    "out_channels",
    "sample_size",
    "up_block_types",
)
VAE_FIXED = {
    "act_fn": "silu",
    "latents_mean": None,
    "latents_std": None,
    "shift_factor": None,
}
TEXT_FIXED = {"layer_norm_eps": 1e-05}
SCHEDULE_FIXED = {"trained_betas": None, "thresholding": False}
DOWN = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
UP = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}
# Published scheduler classes: the sampler here, and what of theirs it does in one way only.
SPREAD: dict[str, Any] = {"use_exponential_sigmas": False, "use_beta_sigmas": False}
SCHEDULERS: dict[str, tuple[str, Json]] = {
    "DDIMScheduler": ("ddim", {}),
    "DDPMScheduler": ("ddpm", {"variance_type": "fixed_small"}),
    # This class averages raw network outputs; the sampler here averages noise, as the original.
    "PNDMScheduler": ("plms", {"skip_prk_steps": True, "prediction_type": "epsilon"}),
    "EulerDiscreteScheduler": (
        "euler",
        SPREAD
        | {
            "interpolation_type": "linear",
            "sigma_min": None,
            "sigma_max": None,
            "timestep_type": "discrete",
            "final_sigmas_type": "zero",
        },
    ),
    "EulerAncestralDiscreteScheduler": ("euler_ancestral", {}),
    "HeunDiscreteScheduler": ("heun", SPREAD),
    "LMSDiscreteScheduler": ("lms", SPREAD),
    "DPMSolverMultistepScheduler": (
        "dpm_pp_2m",
        SPREAD
        | {
            "algorithm_type": "dpmsolver++",
            "solver_order": 2,
            "solver_type": "midpoint",
            "use_lu_lambdas": False,
            "use_flow_sigmas": False,
            "use_dynamic_shifting": False,
            "lambda_min_clipped": -math.inf,
            "final_sigmas_type": "zero",
        },
    ),
}
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


def read_scheduler(path: Path, spec: ModelSpec, named: str | None = None) -> ModelSpec:
    """scheduler/scheduler_config.json into a specification: schedule, sampler, path, prediction.

    All of Stable Diffusion's published samplers share one schedule; one that is not offered here is
    replaced by DDIM on that schedule, and settings of one that is, but not like that, are refused.
    Absent entries mean what they mean to the sampler named; where model_index.json names one, that
    counts, and not what the file itself says.
    """
    config = read_config(path, SCHEDULE_FIXED)
    named = named or config.get("_class_name", "")
    sampler, fixed = SCHEDULERS.get(named, ("ddim", {}))
    if config.get("clip_sample", named in ("DDPMScheduler", "DDIMScheduler")):
        raise ValueError(f"{path}: clip_sample is true; latents are not confined, it must be false")
    for key, value in fixed.items():
        given = config.get(key)
        if given is None:  # what every class does then, except that PNDM does not skip
            given = False if key == "skip_prk_steps" else value
        if given != value:
            raise ValueError(f"{path}: {key} is {given!r}; in a {named} it must be {value!r}")
    kind, prediction = config.get("beta_schedule", "linear"), config.get("prediction_type")
    if kind not in KINDS:
        raise ValueError(f"{path}: beta_schedule is {kind!r}; known are {', '.join(KINDS)}")
    if (prediction or "epsilon") not in PREDICTS:
        raise ValueError(
            f"{path}: prediction_type is {prediction!r}; known are {', '.join(PREDICTS)}"
        )
    heun = named == "HeunDiscreteScheduler"  # the one class with betas of its own
    schedule = NoiseSchedule(
        num_steps=config.get("num_train_timesteps", 1000),
        beta_start=config.get("beta_start", 0.00085 if heun else 0.0001),
        beta_end=config.get("beta_end", 0.012 if heun else 0.02),
        kind=KINDS[kind],
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr")),
    )
    whole_times = sampler in ("ddim", "ddpm", "plms")
    return replace(
        spec,
        schedule=schedule,
        predicts=PREDICTS[prediction or "epsilon"],
        sampler=sampler,
        spacing=config.get("timestep_spacing", "leading" if whole_times else "linspace"),
        offset=config.get("steps_offset", 0),
        final="clean" if config.get("set_alpha_to_one", named == "DDIMScheduler") else "first",
        karras=bool(config.get("use_karras_sigmas")) and SPREAD.keys() <= fixed.keys(),
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


# ---------------------------------------------------------------------------------------- writing


def unet_json(config: UNetConfig) -> Json:
    """unet/config.json of a U-Net."""
    down = [DOWN[attends] for attends in config.cross_attention]
    return UNET_FIXED | {
        "_class_name": "UNet2DConditionModel",
        "addition_embed_type": None if config.added_dim is None else "text_time",
        "addition_time_embed_dim": config.added_time_dim,
        "attention_head_dim": list(config.num_heads),
        "block_out_channels": list(config.block_out_channels),
        "cross_attention_dim": config.cross_attention_dim,
        "down_block_types": down,
        "in_channels": config.in_channels,
        "layers_per_block": config.layers_per_block,
        "norm_num_groups": config.norm_num_groups,
        "out_channels": config.out_channels,
        "projection_class_embeddings_input_dim": config.added_dim,
        "sample_size": config.sample_size,
        "transformer_layers_per_block": list(config.transformer_depth),
        "up_block_types": [UP[attends] for attends in reversed(config.cross_attention)],
        "upcast_attention": config.upcast_attention,
        "use_linear_projection": config.use_linear_projection,
    }


def controlnet_json(config: UNetConfig, hint_channels: tuple[int, ...]) -> Json:
    """config.json of a ControlNet."""
    unet = {key: value for key, value in unet_json(config).items() if key not in NOT_CONTROLNET}
    return unet | CONTROLNET_FIXED | {"conditioning_embedding_out_channels": list(hint_channels)}


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
    projects = config.projection_dim is not None
    return TEXT_FIXED | {
        "architectures": [f"CLIPTextModel{'WithProjection' if projects else ''}"],
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
