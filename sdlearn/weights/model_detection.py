"""Which system a file of weights is for, from the names and shapes of its tensors."""

import math
import re
from collections.abc import Iterable, Mapping

from sdlearn.utils.validation import shown
from sdlearn.versions import SPECS, ModelSpec

Shapes = Mapping[str, tuple[int, ...]]

# A regular expression for part of a tensor's name that only one family has -> that family. First
# what is added to a model, which changes what the model computes:
ADDITIONS = {
    r"lora_controlnet": "a Control-LoRA, which is not a ControlNet on its own",
    r"lllite_": "ControlNet-LLLite, which is not a ControlNet on its own",
    r"ip_adapter\.|^image_proj\.": "an IP-Adapter, which is not a model on its own",
    r"lora|hada_w1_a|lokr_w1|oft_blocks|oft_diag": (
        "low-rank adapters (LoRA), which are not a model on their own"
    ),
    r"scaled_fp8$|\.(scale_weight|comfy_quant)$|\.(weight_scale|quant_map|absmax)$": (
        "quantised weights, which cannot be read; use the file in half precision"
    ),
}
# … and the rest. The first that fits any name counts.
SIGNATURES = ADDITIONS | {
    r"^(emb_params$|string_to_param|clip_[lg]$)": "a textual-inversion embedding",
    r"task_embedding|spatial_ch_projs|control_add_embedding": "ControlNet Union",
    r"(^|\.)(adapter\.)?body\.\d+\.(block|in_conv|resnets)": "a T2I-Adapter",
    r"ctrl_to_base|base_to_ctrl|enc_zero_convs": "ControlNet-XS",
    r"motion_modules\.": "AnimateDiff",
    r"joint_blocks\.": "Stable Diffusion 3",
    r"attn\.add_q_proj\.": "Stable Diffusion 3 or Flux",
    r"double_blocks\.|single_transformer_blocks\.": "Flux",
    r"edm_mean|edm_std": "Playground 2.5",
    r"edm_vpred\.": "CosXL",
    r"clip_txt_mapper\.|clip_txt_pooled_mapper\.|effnet_mapper\.": "Stable Cascade",
    r"adaln_single\.|^t_block\.1\.|cap_embedder\.|caption_projection\.": (
        "a diffusion transformer, such as PixArt"
    ),
    r"temporal_transformer_block|time_stack\.|time_mix_conv": "Stable Video Diffusion",
    r"noise_augmentor\.": "Stable Diffusion 2 unCLIP",
    r"depth_model\.": "Stable Diffusion 2 for depth maps",
    r"low_scale_model\.": "Stable Diffusion's upscaler",
    r"position_net\.|\.fuser\.": "GLIGEN",
    r"\.cond_proj\.": "a latent consistency model with its guidance as an input",
    r"transformer\.token_emb\.": "latent diffusion with a BERT text encoder",
    r"encoder_hid_proj\.|aug_emb\.": "Kandinsky or Kolors",
    r"concept_embeds": "a safety checker",
    r"block\.\d+\.layer\.\d+\.(SelfAttention|DenseReluDense)\.": "a T5 text encoder",
    r"(^|\.)layers\.\d+\.mlp\.gate_proj\.|embed_tokens\.": "a language model",
    r"(?i)\.rdb\d\.": "an image upscaler (ESRGAN)",
    r"taesd|^(en|de)coder\.layers\.\d+\.conv\.|^\d+\.conv\.\d+\.weight": (
        "a tiny autoencoder (TAESD)"
    ),
    r"quantize\.embedding\.": "an autoencoder with a codebook (VQ)",
    r"condition_encoder\.": "an asymmetric autoencoder",
    r"per_channel_statistics|coder\.(middle|upsamples)\.\d+\.|coder\.stages\.\d+\.": (
        "the autoencoder of another system"
    ),
}
# Channels of the U-Net's context -> system.
CONTEXT_DIMS = {
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    1280: "the refiner of SDXL",
    2048: "SDXL",
}
# Input channels of the U-Net -> what the model is for.
IN_CHANNELS = {
    4: "",
    5: " for depth maps",
    7: " for upscaling",
    8: " for following instructions",
    9: " for inpainting",
}
# Channels of the text encoder's position embedding -> text encoder.
TEXT_DIMS = {
    768: "CLIP ViT-L/14, the text encoder of Stable Diffusion 1 and the first of SDXL",
    1024: "OpenCLIP ViT-H/14, the text encoder of Stable Diffusion 2",
    1280: "OpenCLIP ViT-bigG/14, the second text encoder of SDXL",
}
# Names of CLIP's image encoder; and of a class embedding, in the original and the published layout.
IMAGE_ENCODER = r"(^|\.)(visual|vision_model|visual_projection)(\.|$)|logit_scale$|position_ids$"
CLASS_EMBEDDING = ("label_emb.0.0.weight", "class_embedding.linear_1.weight")
# Part of a ControlNet's names: its hint encoder in the original and in the published layout.
HINT_ENCODERS = ("input_hint_block.", "controlnet_cond_embedding.")
HINT_CONVOLUTION = (
    r"(?:input_hint_block|controlnet_cond_embedding(?:\.blocks)?)\.(conv_in|conv_out|\d+)\.weight$"
)


def resolve_spec(spec: object) -> ModelSpec:
    """A specification from itself or from its name in SPECS.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(spec, ModelSpec):
        return spec
    if not isinstance(spec, str) or spec not in SPECS:
        given = shown(spec)
        raise ValueError(f"spec is {given}; accepted: {', '.join(SPECS)}, or give a ModelSpec")
    return SPECS[spec]


def detect_model(shapes: Shapes) -> str | None:
    """The family that tensors of these names and shapes belong to.

    Args:
        shapes: Of every tensor of a file or of a network, by name, in any layout.

    Returns:
        The family of a whole system or of a part, worded for "it looks like …", or None if it is
        not known.
    """
    foreign = foreign_family(shapes)
    if foreign:
        return foreign
    context_dim, in_channels = unet_input(shapes)
    if any(name in key for key in shapes for name in HINT_ENCODERS):
        return f"a ControlNet for {CONTEXT_DIMS.get(context_dim, 'another system')}"
    if context_dim in CONTEXT_DIMS and in_channels in IN_CHANNELS:
        unclip = context_dim == 1024 and first_shape(shapes, CLASS_EMBEDDING)
        use = " unCLIP" if unclip and in_channels == 4 else IN_CHANNELS[in_channels]
        return CONTEXT_DIMS[context_dim] + use
    if context_dim or in_channels:
        return None
    latents = first_shape(shapes, ("decoder.conv_in.weight",))
    if len(latents) == 4:
        others = ", as in Stable Diffusion 3 and Flux" if latents[1] == 16 else ""
        return f"an autoencoder whose latents have {latents[1]} channels{others}"
    if len(latents) == 5:
        return "an autoencoder for video"
    text = {key: shape for key, shape in shapes.items() if not re.search(IMAGE_ENCODER, key)}
    if shapes and not text:
        return "the image encoder of CLIP, without its text encoder"
    positions = first_shape(text, ("position_embedding.weight", "positional_embedding"))
    return TEXT_DIMS.get(positions[1]) if len(positions) == 2 else None


def foreign_family(shapes: Shapes) -> str | None:
    """The family that a signature in the names tells, none of which is supported; or None."""
    for signature, family in SIGNATURES.items():
        pattern = re.compile(signature)
        if any(pattern.search(key) for key in shapes):
            return family
    return None


def find_addition(names: Iterable[str]) -> tuple[str, str] | None:
    """The first tensor that belongs to something added to a model, and what that is; or None."""
    pattern = re.compile("|".join(ADDITIONS))
    name = next((name for name in names if pattern.search(name)), None)
    return None if name is None else (name, str(foreign_family({name: ()})))


def unet_input(shapes: Shapes) -> tuple[int, int]:
    """The channels of the U-Net's context and of its input z; 0 for what is not found."""
    context = first_shape(shapes, ("attn2.to_k.weight",))
    conv_in = first_shape(shapes, ("input_blocks.0.0.weight", "unet.conv_in.weight"))
    conv_in = conv_in or shapes.get("conv_in.weight", ())
    return (context[1] if len(context) == 2 else 0, conv_in[1] if len(conv_in) == 4 else 0)


def hint_encoder(shapes: Shapes) -> tuple[int, ...]:
    """The channels of a ControlNet's hint encoder, as HintEncoder takes them; () if there is none.

    Between its first and last convolution, which both layouts number, there are pairs: the first
    convolution keeps the channels, the second one increases them.
    """
    ends = {"conv_in": -1.0, "conv_out": math.inf}
    channels = {}
    for key, shape in shapes.items():
        match = re.search(HINT_CONVOLUTION, key)
        if match and len(shape) == 4:
            channels[ends.get(match[1]) or float(match[1])] = shape[0]
    return tuple(channels[position] for position in sorted(channels))[:-1:2]


def first_shape(shapes: Shapes, suffixes: Iterable[str]) -> tuple[int, ...]:
    """The shape of the first tensor whose name has one of these endings; () if there is none."""
    return next((shape for key, shape in shapes.items() if key.endswith(tuple(suffixes))), ())
