"""Where a network is in a file: the prefix of its tensors' names, and the layout that they follow.

An original file contains a whole system, and a tensor's prefix tells which part it belongs to:

    model.diffusion_model.       the U-Net; model_ema. its moving average, names without dots
    first_stage_model.           the autoencoder
    cond_stage_model.            the text encoder of SD 1 and 2
    conditioner.embedders.0.     the first text encoder of SDXL, conditioner.embedders.1. the second
    control_model.               a ControlNet

A pipeline of diffusers in one file has unet., vae., text_encoder. and text_encoder_2. instead.
A file of one part has these names without the prefix, or with that of the tool that wrote it. Its
layout is the original one or the published one, whatever the prefix.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from torch import nn

from sdlearn.clip import CLIPTextEncoder
from sdlearn.unet import UNet, UNetEncoder
from sdlearn.utils.validation import shown
from sdlearn.vae import VAE
from sdlearn.weights.ldm_keys import (
    ema_key,
    key_map,
    third_of_stack,
    transposed,
    vae_attention_key,
)
from sdlearn.weights.leftovers import is_left_out
from sdlearn.weights.tensor_files import LazyTensor

# The prefixes of the parts of a system.
PREFIXES = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.")

# The same in a file that a pipeline of diffusers was written to as a whole.
PUBLISHED_PREFIXES = ("unet.", "vae.", "text_encoder.", "text_encoder_2.")

# Where a network may be in a file, in this order.
UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "unet.", "")
CONTROL_PREFIXES = ("control_model.", "controlnet.", "")
VAE_PREFIXES = ("first_stage_model.", "vae.", "model.", "")
# The same for a text encoder: of a whole system, then of its own file.
TEXT_PREFIXES = (
    "text_encoders.clip_l.",
    "text_encoders.clip_g.",
    "text_encoders.clip_h.",
    "text_encoder.",
    "text_encoder_2.",
    "clip_l.",
    "clip_g.",
    "clip_h.",
    "",
)
TEXT_MODULES = ("", "transformer.", "model.", "text.", "model.transformer.")

# What tools put in front of every name of a file.
WRAPPERS = ("state_dict.", "module.", "_orig_mod.", "_forward_module.", "model.")

Layout = Literal["original", "published", "open_clip"]


class Location(NamedTuple):
    """Where a file may contain a network.

    Attributes:
        prefix: Prefix of its tensors' names.
        layout: Layout of the rest of the names; "original" and "open_clip" are those of ldm_keys,
            "published" that of the folders.
        known: The name of a tensor, after the prefix, that it always has.
    """

    prefix: str
    layout: Layout
    known: str = ""


class FoundPart(NamedTuple):
    """A network's tensors in a file: the prefix of their names, and the tensors.

    They have the names here; tensors that the network does not have keep their own.
    """

    prefix: str
    tensors: dict[str, LazyTensor]


def unwrap(tensors: dict[str, LazyTensor]) -> None:
    """Remove, in place, what a tool has put in front of every name of a file."""
    for wrapper in WRAPPERS * 2:
        wrapped = tensors and all(name.startswith(wrapper) for name in tensors)
        if wrapped and not any(name.startswith("model.diffusion_model.") for name in tensors):
            inner = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
            tensors.clear()
            tensors.update(inner)


def is_system(tensors: Iterable[str]) -> bool:
    """Whether names belong to a whole system, not to one part of it."""
    names = list(tensors)
    found = [each for each in PUBLISHED_PREFIXES if any(name.startswith(each) for name in names)]
    return len(found) >= 3 or any(name.startswith(PREFIXES) for name in names)


def possible_locations(module: nn.Module, encoder: int | None) -> Iterator[Location]:
    """Where to look for a network, in this order.

    Args:
        module: The network.
        encoder: Which text encoder of a whole system, from 0; None for any, or for one on its own.
    """
    if isinstance(module, UNetEncoder):
        prefixes = UNET_PREFIXES if isinstance(module, UNet) else CONTROL_PREFIXES
        for prefix in prefixes:
            yield Location(prefix, "original", "input_blocks.0.0.weight")
            yield Location(prefix, "published", "conv_in.weight")
    elif isinstance(module, VAE):
        for prefix in VAE_PREFIXES:
            yield Location(prefix, "original", "encoder.mid.block_1.norm1.weight")
            yield Location(prefix, "published", "encoder.mid_block.resnets.0.norm1.weight")
    elif isinstance(module, CLIPTextEncoder):
        for prefix in text_prefixes(encoder):
            yield Location(prefix, "published", "text_model.embeddings.token_embedding.weight")
            yield Location(prefix, "published", "embeddings.token_embedding.weight")
            yield Location(prefix, "open_clip", "positional_embedding")


def text_prefixes(encoder: int | None) -> list[str]:
    """The prefixes that a text encoder may have; encoder: as in `possible_locations`."""
    numbers = (0, 1) if encoder is None else (encoder,)
    roots = [f"conditioner.embedders.{number}." for number in numbers]
    roots += ["cond_stage_model."] if 0 in numbers else []
    roots += TEXT_PREFIXES if encoder is None else PUBLISHED_PREFIXES[2 + encoder : 3 + encoder]
    return [root + module for root in roots for module in TEXT_MODULES]


def find_part(
    module: nn.Module,
    tensors: Mapping[str, LazyTensor],
    path: Path,
    encoder: int | None = None,
    ema: bool = False,
) -> FoundPart | None:
    """Find a network's tensors in a file.

    Args:
        module: The network.
        tensors: The file's tensors by name.
        path: The file, for error messages.
        encoder: Which text encoder of a whole system, from 0; None for the one that has this
            network's channels.
        ema: Take the moving average of the U-Net's weights; it is always taken if the file has
            nothing else.

    Returns:
        None if the file does not contain such a network under known names.

    Raises:
        ValueError: If the file contains a tensor of the network twice, under two names.
    """
    locations = [
        location
        for location in possible_locations(module, encoder)
        if location.prefix + location.known in tensors
    ]
    if isinstance(module, CLIPTextEncoder):  # a file may have two, of which one fits
        dim = module.config.hidden_size
        locations.sort(key=lambda each: tensors[each.prefix + each.known].shape[-1:] != (dim,))
    if isinstance(module, UNet) and ema_key("input_blocks.0.0.weight") in tensors:
        ema = ema or not locations
        locations = locations or [next(possible_locations(module, encoder))]
    elif ema and isinstance(module, UNet):
        return None
    if not locations:
        return None
    found = tensors_at(locations[0], module, tensors, path)
    if ema and isinstance(module, UNet):
        return FoundPart(found.prefix, averaged(found, module, tensors))
    return found


def tensors_at(
    location: Location, module: nn.Module, tensors: Mapping[str, LazyTensor], path: Path
) -> FoundPart:
    """The tensors at a location under the names here, without those that are not weights.

    Args:
        location: Where they are.
        module: The network.
        tensors: The file's tensors by name.
        path: The file, for error messages.

    Raises:
        ValueError: If two tensors have the same name here.
    """
    places: dict[str, list[str]] = {}  # a name at the location -> the names here
    if location.layout != "published":
        for key, name in key_map(module, location.layout == "open_clip").items():
            places.setdefault(name, []).append(key)
    found: dict[str, LazyTensor] = {}
    for full_name, tensor in tensors.items():
        if not full_name.startswith(location.prefix):
            continue
        name = full_name.removeprefix(location.prefix)
        if isinstance(module, VAE):
            name = vae_attention_key(name)
        elif isinstance(module, CLIPTextEncoder):
            name = name.removeprefix("text_model.")
        if is_left_out(name, module):
            continue
        if name == "text_projection" and len(tensor.shape) == 2:
            places[name], tensor = ["text_projection.weight"], transposed(tensor)
        for key in places.get(name, [name]):
            if key in found:
                raise ValueError(
                    f"{path} holds one tensor of {type(module).__name__} under two names, "
                    f"{shown(found[key].name)} and {shown(tensor.name)}"
                )
            stacked = location.layout == "open_clip"
            found[key] = third_of_stack(key, tensor) if stacked else tensor
    return FoundPart(location.prefix, found)


def averaged(
    found: FoundPart, module: UNet, tensors: Mapping[str, LazyTensor]
) -> dict[str, LazyTensor]:
    """The moving average of each weight of the U-Net, and what else its part contains."""
    average = {key: ema_key(name) for key, name in key_map(module).items()}
    others = {key: tensor for key, tensor in found.tensors.items() if key not in average}
    return others | {key: tensors[name] for key, name in average.items() if name in tensors}
