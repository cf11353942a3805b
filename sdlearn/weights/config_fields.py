"""The settings of published configuration files for which these networks accept only one value.

A file with another value is refused by the setting's name, because the network would silently
compute something else. Written files contain these values, so other software computes the same.

Settings that are neither here nor read in configs have no effect in diffusers and transformers on
the networks that are left: dropout, which only acts in training, sizes that nothing is computed
from, and settings of blocks of other kinds. tests/parity/test_configs.py goes through every setting
of their classes.
"""

from typing import Any

from sdlearn.weights.json_config import OneOf

UNET_FIXED: dict[str, Any] = {
    "act_fn": OneOf("silu", "swish"),
    "attention_type": "default",
    "center_input_sample": OneOf(False, None),
    "class_embed_type": None,
    "class_embeddings_concat": OneOf(False, None),
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "dual_cross_attention": OneOf(False, None),
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-05,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "reverse_transformer_layers_per_block": None,
    "time_cond_proj_dim": None,  # distilled guidance, of latent consistency models
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
# Those that a file may also give as a list, with a value for each level.
PER_LEVEL = ("only_cross_attention",)
CONTROLNET_FIXED: dict[str, Any] = {
    "_class_name": "ControlNetModel",
    "conditioning_channels": 3,
    "controlnet_conditioning_channel_order": "rgb",
}
# Entries of a U-Net's file that a ControlNet's does not have.
NOT_IN_CONTROLNET = (
    "attention_type",
    "center_input_sample",
    "class_embeddings_concat",
    "conv_in_kernel",
    "conv_out_kernel",
    "dual_cross_attention",
    "out_channels",
    "reverse_transformer_layers_per_block",
    "sample_size",
    "time_cond_proj_dim",
    "time_embedding_act_fn",
    "time_embedding_dim",
    "time_embedding_type",
    "timestep_post_act",
    "up_block_types",
)
VAE_FIXED: dict[str, Any] = {
    "act_fn": OneOf("silu", "swish"),
    "in_channels": 3,
    "latents_mean": None,
    "latents_std": None,
    "mid_block_add_attention": True,
    "out_channels": 3,
    "shift_factor": None,
    "use_post_quant_conv": True,
    "use_quant_conv": True,
}
TEXT_FIXED: dict[str, Any] = {"layer_norm_eps": 1e-05}
# The published classes of a level's blocks, with and without cross-attention.
DOWN_BLOCKS = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
UP_BLOCKS = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}
