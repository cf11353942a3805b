"""The names of a low-rank adapter's tensors, in every format in which adapters are shared.

A name consists of a stem, which identifies the layer, and an ending, which identifies the matrix.
In each format, the matrix A for the layer `mid_block.attentions.0.proj_in` of the U-Net has the
stem and the ending below. The oldest format, in the last line, has attention projections only:

    peft, as diffusers writes today   unet.mid_block.attentions.0.proj_in    .lora_A.weight
    diffusers, 2023                   unet.mid_block.attentions.0.proj_in    .lora.down.weight
    kohya, SD 1 and 2                 lora_unet_mid_block_attentions_0_proj_in  .lora_down.weight
    kohya, SDXL                       lora_unet_middle_block_1_proj_in       .lora_down.weight
    diffusers, early 2023             ….attn1.processor.to_q_lora            .down.weight

kohya's names have underscores in place of dots, so a layer's name can't be reconstructed from them.
Instead, a table lists every stem that a layer of our networks can have in a file, and the names in
a file are looked up in it.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from torch import nn

from sdlearn.unet import UNet
from sdlearn.weights.ldm_keys import key_map
from sdlearn.weights.state_dict import TEXT_PREFIX

AdapterLayout = Literal["peft", "kohya"]
Half = Literal["down", "up", "alpha"]
Networks = Mapping[str, nn.Module]  # "unet", "text_encoder", "text_encoder_2" -> network

# Endings of names -> A ("down"), B ("up") or alpha.
HALVES: dict[str, Half] = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".down.weight": "down",
    ".up.weight": "up",
    ".alpha": "alpha",
}
WRITTEN: dict[AdapterLayout, dict[Half, str]] = {
    "peft": {"down": ".lora_A.weight", "up": ".lora_B.weight"},
    "kohya": {"down": ".lora_down.weight", "up": ".lora_up.weight", "alpha": ".alpha"},
}
# kohya's prefixes for each network. The text encoder of SD 1 and 2 has lora_te_, and the first of
# SDXL lora_te1_.
KOHYA_PREFIXES = {
    "unet": ("lora_unet_",),
    "text_encoder": ("lora_te_", "lora_te1_"),
    "text_encoder_2": ("lora_te2_",),
}
# Ending of an attention projection's name -> its ending in the oldest format.
PROCESSORS = {
    "to_q": "processor.to_q_lora",
    "to_k": "processor.to_k_lora",
    "to_v": "processor.to_v_lora",
    "to_out.0": "processor.to_out_lora",
    "q_proj": "to_q_lora",
    "k_proj": "to_k_lora",
    "v_proj": "to_v_lora",
    "out_proj": "to_out_lora",
}


class Place(NamedTuple):
    """A layer of a system: the name of its network, and its own name in that network."""

    part: str
    layer: str


def stems(networks: Networks) -> dict[str, Place]:
    """Every stem that can occur in a file -> the layer that it identifies."""
    table: dict[str, Place] = {}
    for part, network in networks.items():
        originals = original_names(network)
        for layer, _ in network.named_modules():
            place = Place(part, layer)
            dotted, underscored = {layer, published(part, layer)}, {originals.get(layer, layer)}
            dotted |= {old_name(name) for name in dotted}
            underscored |= dotted
            table |= {f"{part}.{name}": place for name in dotted}
            table |= {name: place for name in dotted if part == "unet"}
            for prefix in KOHYA_PREFIXES[part]:
                table |= {prefix + name.replace(".", "_"): place for name in underscored}
    return table


def stem(place: Place, layout: AdapterLayout, networks: Networks) -> str:
    """The stem for a layer in a file that we write.

    Args:
        place: The layer.
        layout: "peft" or "kohya".
        networks: All networks of the system; a second text encoder means SDXL.
    """
    name = published(place.part, place.layer)
    if layout == "peft":
        return f"{place.part}.{name}"
    is_xl = "text_encoder_2" in networks
    if place.part == "unet" and is_xl:
        name = original_names(networks["unet"]).get(place.layer, name)
    prefix = KOHYA_PREFIXES[place.part][is_xl and place.part == "text_encoder"]
    return prefix + name.replace(".", "_")


def published(part: str, layer: str) -> str:
    """The name of a layer in published folders, where text encoders' names have a prefix."""
    has_prefix = part != "unet" and layer != "text_projection"
    return TEXT_PREFIX + layer if has_prefix else layer


def old_name(layer: str) -> str:
    """The name of an attention projection in the oldest format; other names are unchanged."""
    for end, old in PROCESSORS.items():
        if layer.endswith(f".{end}"):
            return layer.removesuffix(end) + old
    return layer


def original_names(network: nn.Module) -> dict[str, str]:
    """Name of each layer of a U-Net -> its name in the original files; {} for other networks."""
    if not isinstance(network, UNet):
        return {}
    weights = {key: name for key, name in key_map(network).items() if key.endswith(".weight")}
    return {k.removesuffix(".weight"): name.removesuffix(".weight") for k, name in weights.items()}


def split_name(name: str, table: Mapping[str, Place]) -> tuple[Place, Half] | None:
    """The layer and the matrix that a tensor is for; None if its stem isn't in the table."""
    for end, half in HALVES.items():
        if name.endswith(end) and name.removesuffix(end) in table:
            return table[name.removesuffix(end)], half
    return None
