"""Which system a file of weights looks like, by the names and shapes of its tensors."""

import math
import re
from collections.abc import Iterable, Mapping

Shapes = Mapping[str, tuple[int, ...]]

# A piece of a name that only one family has; the first that is found counts.
TELLTALES = {
    "lora": "low-rank adapters (LoRA), which are no model of their own",
    "motion_modules.": "AnimateDiff",
    "joint_blocks.": "Stable Diffusion 3",
    "attn.add_q_proj.": "Stable Diffusion 3 or Flux",
    "double_blocks.": "Flux",
    "single_transformer_blocks.": "Flux",
    "edm_mean": "Playground 2.5",
}
CONTEXT_WIDTH = {
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    1280: "the refiner of SDXL",
    2048: "SDXL",
}
CONTROLNET = ("input_hint_block.", "controlnet_cond_embedding.")
HINT_CONVOLUTION = (
    r"(?:input_hint_block|controlnet_cond_embedding(?:\.blocks)?)\.(conv_in|conv_out|\d+)\.weight$"
)
INPUT = {4: "", 7: " for upscaling", 8: " for following instructions", 9: " for inpainting"}
TEXT_WIDTH = {
    768: "CLIP ViT-L/14, the text encoder of Stable Diffusion 1 and the first of SDXL",
    1024: "OpenCLIP ViT-H/14, the text encoder of Stable Diffusion 2",
    1280: "OpenCLIP ViT-bigG/14, the second text encoder of SDXL",
}


def looks_like(shapes: Shapes) -> str | None:
    """The name of a family, of a whole system or of a part, or None where nothing is known."""
    for piece, name in TELLTALES.items():
        if any(piece in key for key in shapes):
            return name
    width, channels = unet_input(shapes)
    if any(piece in key for key in shapes for piece in CONTROLNET):
        return f"a ControlNet for {CONTEXT_WIDTH.get(width, 'another system')}"
    if width in CONTEXT_WIDTH and channels in INPUT:
        return CONTEXT_WIDTH[width] + INPUT[channels]
    if width or channels:
        return None
    latents = first(shapes, ("decoder.conv_in.weight",))
    if len(latents) == 4:
        return f"an autoencoder whose latents have {latents[1]} channels"
    positions = first(shapes, ("position_embedding.weight", "positional_embedding"))
    return TEXT_WIDTH.get(positions[1]) if len(positions) == 2 else None


def unet_input(shapes: Shapes) -> tuple[int, int]:
    """How many channels the U-Net's context has, and how many its picture; 0 without a U-Net."""
    context = first(shapes, ("attn2.to_k.weight",))
    picture = first(shapes, ("input_blocks.0.0.weight",)) or shapes.get("conv_in.weight", ())
    return (context[1] if len(context) == 2 else 0, picture[1] if len(picture) == 4 else 0)


def hint_encoder(shapes: Shapes) -> tuple[int, ...]:
    """The widths of a ControlNet's hint encoder, () where there is none.

    Its convolutions, numbered in both layouts, come in pairs of which the second is the wider; the
    first and the last are alone.
    """
    ends = {"conv_in": -1.0, "conv_out": math.inf}
    widths = {}
    for key, shape in shapes.items():
        found = re.search(HINT_CONVOLUTION, key)
        if found and len(shape) == 4:
            widths[ends.get(found[1]) or float(found[1])] = shape[0]
    return tuple(widths[place] for place in sorted(widths))[:-1:2]


def first(shapes: Shapes, ends: Iterable[str]) -> tuple[int, ...]:
    """The shape of a tensor whose name ends so, () where there is none."""
    return next((shape for key, shape in shapes.items() if key.endswith(tuple(ends))), ())
