"""The configurations of this package -> the JSON files of a published folder.

Each file also says what these modules do in one way only, so that other readers do the same. The
scheduler's file is written in schedulers.
"""

from dataclasses import fields

from sdlearn.clip import CLIPTextConfig
from sdlearn.configs import CONTROLNET_FIXED, DOWN, TEXT_FIXED, UNET_FIXED, UP, VAE_FIXED, Json
from sdlearn.unet import UNetConfig
from sdlearn.vae import VAEConfig

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
