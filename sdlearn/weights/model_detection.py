"""Which system a file of weights is for, from the names and shapes of its tensors."""

import math
import re
from collections.abc import Iterable, Mapping

from sdlearn.versions import SPECS, ModelSpec

Shapes = Mapping[str, tuple[int, ...]]

# Part of a tensor's name that only one family has -> that family; the first match counts.
SIGNATURES = {
    "lora": "low-rank adapters (LoRA), which are no model of their own",
    "motion_modules.": "AnimateDiff",
    "joint_blocks.": "Stable Diffusion 3",
    "attn.add_q_proj.": "Stable Diffusion 3 or Flux",
    "double_blocks.": "Flux",
    "single_transformer_blocks.": "Flux",
    "edm_mean": "Playground 2.5",
}
# Channels of the U-Net's context -> system.
CONTEXT_DIMS = {
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    1280: "the refiner of SDXL",
    2048: "SDXL",
}
# Input channels of the U-Net -> what the model is for.
IN_CHANNELS = {4: "", 7: " for upscaling", 8: " for following instructions", 9: " for inpainting"}
# Channels of the text encoder's position embedding -> text encoder.
TEXT_DIMS = {
    768: "CLIP ViT-L/14, the text encoder of Stable Diffusion 1 and the first of SDXL",
    1024: "OpenCLIP ViT-H/14, the text encoder of Stable Diffusion 2",
    1280: "OpenCLIP ViT-bigG/14, the second text encoder of SDXL",
}
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
        raise ValueError(f"spec is {spec!r}; known are {', '.join(SPECS)}, or give a ModelSpec")
    return SPECS[spec]


def detect_model(shapes: Shapes) -> str | None:
    """The family that tensors of these names and shapes belong to.

    Args:
        shapes: Of every tensor of a file or of a network, by name, in any layout.

    Returns:
        The family of a whole system or of a part, worded for "it looks like …", or None if it is
        not known.
    """
    for signature, family in SIGNATURES.items():
        if any(signature in key for key in shapes):
            return family
    context_dim, in_channels = unet_input(shapes)
    if any(name in key for key in shapes for name in HINT_ENCODERS):
        return f"a ControlNet for {CONTEXT_DIMS.get(context_dim, 'another system')}"
    if context_dim in CONTEXT_DIMS and in_channels in IN_CHANNELS:
        return CONTEXT_DIMS[context_dim] + IN_CHANNELS[in_channels]
    if context_dim or in_channels:
        return None
    latents = first_shape(shapes, ("decoder.conv_in.weight",))
    if len(latents) == 4:
        return f"an autoencoder whose latents have {latents[1]} channels"
    positions = first_shape(shapes, ("position_embedding.weight", "positional_embedding"))
    return TEXT_DIMS.get(positions[1]) if len(positions) == 2 else None


def unet_input(shapes: Shapes) -> tuple[int, int]:
    """The channels of the U-Net's context and of its input z; 0 for what is not found."""
    context = first_shape(shapes, ("attn2.to_k.weight",))
    conv_in = first_shape(shapes, ("input_blocks.0.0.weight",)) or shapes.get("conv_in.weight", ())
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
