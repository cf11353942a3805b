"""The networks of a whole system, made from a specification and filled from one original file."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from sdlearn.clip import CLIPTextEncoder
from sdlearn.unet import UNet
from sdlearn.utils.device import check_dtype, without_memory
from sdlearn.utils.validation import shown
from sdlearn.vae import VAE
from sdlearn.versions import ModelSpec
from sdlearn.weights.file_parts import PREFIXES, PUBLISHED_PREFIXES, find_part
from sdlearn.weights.leftovers import companion, is_left_beside
from sdlearn.weights.model_detection import foreign_family
from sdlearn.weights.state_dict import detected_hint, match_state_dict
from sdlearn.weights.tensor_files import LazyTensor


class Parts(NamedTuple):
    """The networks of a text-to-image system.

    For a StableDiffusion `sd` they are `Parts(sd.unet, sd.vae, sd.text.encoders)`.

    Attributes:
        unet: The U-Net.
        vae: The autoencoder.
        encoders: The text encoders: one, or two for SDXL.
    """

    unet: UNet
    vae: VAE
    encoders: Sequence[CLIPTextEncoder] | nn.ModuleList


def new_parts(spec: ModelSpec, dtype: torch.dtype) -> Parts:
    """The networks of a specification on the meta device, with names and shapes but no memory.

    Args:
        spec: The specification.
        dtype: Data type of the networks; SDXL's autoencoder is at least float32.

    Raises:
        ValueError: If the networks cannot compute in this dtype.
    """
    dtype = check_dtype(dtype)
    with without_memory():
        unet, vae = UNet(spec.unet), VAE(spec.vae)
        encoders = [CLIPTextEncoder(config) for config in spec.text]
    vae_dtype = torch.promote_types(dtype, torch.float32) if spec.vae.force_upcast else dtype
    return Parts(unet.to(dtype), vae.to(vae_dtype), [encoder.to(dtype) for encoder in encoders])


def match_parts(
    parts: Parts, tensors: dict[str, LazyTensor], path: Path, ema: bool = False
) -> list[tuple[nn.Module, dict[str, LazyTensor]]]:
    """Compare the networks of a system with an opened original file, without reading the weights.

    Args:
        parts: The networks.
        tensors: The file's tensors by name. The dictionary is emptied, to free the memory of
            tensors that are already in memory.
        path: The file, for messages.
        ema: As in `load_original`.

    Returns:
        The networks with their tensors, for `load_tensors`.

    Raises:
        ValueError: If the file does not fit.
    """
    unet, vae, encoders = parts
    hint = detected_hint(tensors, unet)
    matched: list[tuple[nn.Module, dict[str, LazyTensor]]] = []
    prefixes = []
    for module, encoder in ((unet, 0), (vae, 0), *zip(encoders, count(), strict=False)):
        found = find_part(module, tensors, path, encoder, ema)
        if found is None:
            what = "averaged weights (model_ema.*)" if ema and module is unet else "weights"
            raise ValueError(
                f"{path} holds no {what} of a {type(module).__name__} under known names"
                f"{hint}; expected a file of a whole system: U-Net, autoencoder and text encoder"
            )
        matched.append((module, match_state_dict(module, found.tensors, path, hint)))
        prefixes.append(found.prefix)
    check_others(tensors, tuple(prefixes), path, hint)
    tensors.clear()
    return matched


def check_others(
    tensors: Mapping[str, LazyTensor], prefixes: tuple[str, ...], path: Path, hint: str
) -> None:
    """Check the tensors of a file that belong to none of the networks; warn of unknown ones.

    Args:
        tensors: The file's tensors by name.
        prefixes: The prefixes of the networks that were found.
        path: The file, for messages.
        hint: Added to error messages, see `detected_hint`.

    Raises:
        ValueError: If a tensor would change what the networks compute.
    """
    others = [
        name for name in tensors if not name.startswith(prefixes) and not is_left_beside(name)
    ]
    for name in others:
        if name.startswith(PREFIXES + PUBLISHED_PREFIXES):
            raise ValueError(
                f"{path} holds the tensor {shown(name)}, which belongs to none of the "
                f"networks{hint}"
            )
        foreign = None if companion(name) else foreign_family({name: ()})
        if foreign:
            raise ValueError(f"{path} holds the tensor {shown(name)}, which belongs to {foreign}")
    for what in sorted({what for what in map(companion, others) if what}):
        warnings.warn(f"{path} also holds {what}; it is left out", stacklevel=4)
    unknown = [name for name in others if not companion(name)]
    if unknown:
        warnings.warn(
            f"{path}: {len(unknown)} unknown tensors are ignored, among them {shown(unknown[0])}",
            stacklevel=4,
        )
