"""Tensors in a file that are not weights of a network: what is left out, by name.

Training leaves data of its own in a checkpoint: the tables of the schedule, the moving average, the
losses of the autoencoder, counters. A text encoder's file often contains the whole of CLIP, whose
image encoder Stable Diffusion does not use. Everything that is left out is listed here by name. A
tensor inside a network's part of the file that is neither a weight nor in these lists means that
the file is for another network.
"""

from torch import nn

from sdlearn.clip import CLIPTextEncoder

# The last word of a name. The schedule's tables, of which markers.py checks the first:
SCHEDULE_TABLES = {
    "alphas_cumprod",
    "sigmas",
    "log_sigmas",
    "betas",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
}
# … what else a training needs, and what markers.py reads:
TRAINING = {
    "logvar",
    "learn_logvar",
    "lvlb_weights",
    "global_step",
    "epoch",
    "scale_factor",
    "v_pred",
    "ztsnr",
}
# … and in a text encoder constants, and CLIP's temperature, which only its loss needs:
CLIP_CONSTANTS = {
    "position_ids",
    "attn_mask",
    "logit_scale",
    "logit_bias",
    "input_resolution",
    "image_resolution",
    "context_length",
    "vocab_size",
}
NOT_WEIGHTS = SCHEDULE_TABLES | TRAINING | CLIP_CONSTANTS

# The first words of a name, after the prefix of its part.
TRAINED_WITH = ("model_ema.", "loss.", "discriminator.", "denoiser.")
IMAGE_ENCODER = ("visual.", "vision_model.", "visual_projection.")
PROJECTION = ("text_projection", "text_projection.weight")

# Parts of a whole system in which tools leave CLIP's constants and its other half.
TEXT_PARTS = ("cond_stage_model.", "conditioner.embedders.0.", "conditioner.embedders.1.")
TEXT_MODULES = ("transformer.", "model.")

# Whole networks beside a system, which are left out with a warning -> what they are.
COMPANIONS = {
    "control_model.": "a ControlNet, which ControlNet.from_pretrained reads from the same file",
    "embedding_manager.": "a textual-inversion embedding",
    "bundle_emb.": "a textual-inversion embedding",
    "safety_checker.": "a safety checker, which is not used",
}


def is_left_out(name: str, module: nn.Module) -> bool:
    """Whether a tensor in a network's part of a file is not one of its weights.

    Args:
        name: The tensor's name after the prefix of the part.
        module: The network.
    """
    if name.rpartition(".")[2] in NOT_WEIGHTS or name.startswith(TRAINED_WITH):
        return True
    return isinstance(module, CLIPTextEncoder) and is_unused_by(name, module)


def is_unused_by(name: str, encoder: CLIPTextEncoder) -> bool:
    """Whether a tensor of a CLIP model is not needed by its text encoder.

    SD 2 takes the output of OpenCLIP's penultimate layer, so this layer is the last of its
    encoder here, and its files contain one layer more. The projection of the pooled embedding is
    used by SDXL's second encoder only.
    """
    if name.startswith(IMAGE_ENCODER):
        return True
    if encoder.config.projection_dim is not None:
        return False
    n = encoder.config.num_layers
    last = (f"transformer.resblocks.{n}.", f"encoder.layers.{n}.")
    return name in PROJECTION or (encoder.config.activation == "gelu" and name.startswith(last))


def is_left_beside(name: str) -> bool:
    """Whether a tensor of a whole system that is in none of its networks is known to be no weight.

    Args:
        name: The tensor's name in the file.
    """
    if name.rpartition(".")[2] in NOT_WEIGHTS or name.startswith(TRAINED_WITH):
        return True
    part = next((part for part in TEXT_PARTS if name.startswith(part)), None)
    if part is None:
        return False
    name = name.removeprefix(part)
    for module in TEXT_MODULES:
        name = name.removeprefix(module)
    return name.startswith(IMAGE_ENCODER) or name in PROJECTION


def companion(name: str) -> str | None:
    """What a tensor beside a system belongs to, or None if that is not known."""
    return next((what for start, what in COMPANIONS.items() if name.startswith(start)), None)
