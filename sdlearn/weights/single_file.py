"""A whole system in one original file, such as v1-5-pruned-emaonly.safetensors.

Such a file contains weights only. The system follows from the tensors' shapes where these differ,
and otherwise from a specification. The tokenizer, which all versions of Stable Diffusion share,
comes from a folder or from the Hugging Face hub.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import NamedTuple, cast

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import PreTrainedTokenizerBase

from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder
from sdlearn.text import TextEncoder
from sdlearn.unet import UNet
from sdlearn.utils.atomic_files import user_path
from sdlearn.vae import VAE
from sdlearn.versions import SPECS, ModelSpec
from sdlearn.weights.diffusers_folder import read_folder, read_tokenizer
from sdlearn.weights.hub import FETCH_ERRORS, SYSTEM, local_folder
from sdlearn.weights.ldm_keys import PREFIXES, find_part, is_ignored
from sdlearn.weights.model_detection import detect_model, resolve_spec, unet_input
from sdlearn.weights.state_dict import check_dtype, detected_hint, load_tensors, match_state_dict
from sdlearn.weights.tensor_files import LazyTensor, open_weights
from sdlearn.weights.weight_names import find_weights

TOKENIZER = "openai/clip-vit-large-patch14"
TOKENIZER_FILES = ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"]


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


def read_system(
    source: str | Path,
    dtype: torch.dtype,
    spec: ModelSpec | str | None = None,
    tokenizer: str | Path | None = None,
    variant: str | None = None,
) -> tuple[ModelSpec, UNet, VAE, TextEncoder]:
    """Read a whole system on the CPU from a folder, a hub id or an original file.

    Args:
        source: A folder in the published layout; the id of one on the Hugging Face hub,
            "organisation/name"; or an original file.
        dtype: Of the networks.
        spec: For a file only, as in `read_single_file`.
        tokenizer: For a file only, as in `read_single_file`.
        variant: For a folder only, as in `read_folder`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or not supported.
    """
    path = user_path(source)
    if path.is_file():
        if variant is not None:
            raise ValueError(f"{source} is a file; variant is accepted for a folder only")
        return read_single_file(path, dtype, spec, tokenizer)
    if spec is not None or tokenizer is not None:
        raise ValueError(
            f"{source} is not a file; spec and tokenizer are accepted for a single file only"
        )
    return read_folder(local_folder(source, SYSTEM, variant), dtype, variant)


def read_single_file(
    path: Path,
    dtype: torch.dtype,
    spec: ModelSpec | str | None = None,
    tokenizer: str | Path | None = None,
) -> tuple[ModelSpec, UNet, VAE, TextEncoder]:
    """Read a whole system on the CPU from one original file.

    Args:
        path: The file.
        dtype: Of the networks.
        spec: A specification or its name in SPECS; None if the shapes in the file are enough.
        tokenizer: A folder with vocab.json and merges.txt, or the folder of a model that has a
            tokenizer; None for CLIP's from the Hugging Face hub or its local cache.

    Raises:
        FileNotFoundError: If a file is missing, or the tokenizer cannot be downloaded.
        ValueError: If the file is damaged or not supported, or fits several systems.
    """
    check_dtype(dtype)
    tensors = open_weights(path)
    if not any(name.startswith(PREFIXES) for name in tensors):
        family = detect_model({name: tensor.shape for name, tensor in tensors.items()})
        raise ValueError(
            f"{path} is a file, but not of a whole system under its original names"
            f"{f'; it looks like {family}' if family else ''}; give such a file, or a folder in "
            "the published layout, with model_index.json, unet/, vae/, text_encoder/, tokenizer/ "
            "and scheduler/"
        )
    spec = detect_spec(path, tensors) if spec is None else resolve_spec(spec)
    tokenizers = [clip_tokenizer(path, config, tokenizer) for config in spec.text]
    eos = [each.eos_token_id for each in tokenizers]
    text = zip(spec.text, eos, strict=True)
    spec = replace(spec, text=tuple(replace(config, eos_token_id=end) for config, end in text))
    parts = new_parts(spec, dtype)
    load_parts(parts, tensors, path)
    encoders = cast("list[CLIPTextEncoder]", parts.encoders)
    return spec, parts.unet, parts.vae, TextEncoder(tokenizers, encoders, spec.text_layer)


def load_original(
    target: Parts | ModelSpec | str,
    path: str | Path,
    ema: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Parts:
    """Load the networks of a whole system from one original file of CompVis or Stability.

    Entries that are not weights, such as the tables of the schedule, are ignored; tensors outside
    the known parts are ignored with a warning.

    Args:
        target: Networks to fill in place and in their own dtype, `Parts(sd.unet, sd.vae,
            sd.text.encoders)` for a StableDiffusion; or a specification or its name in SPECS, for
            new networks on the CPU.
        path: The file, or a folder with it under a published name.
        ema: Take the moving average of the U-Net's weights from a file that has both; if it has
            only the average, that is always taken.
        dtype: Of new networks; SDXL's autoencoder is at least float32.

    Returns:
        The filled networks.

    Raises:
        FileNotFoundError: If there is no weight file.
        ValueError: If the target is something else, or if the file is damaged or does not fit, in
            which case every network is unchanged.
    """
    path = find_weights(user_path(path))
    if isinstance(target, Parts):
        parts = target
    elif isinstance(target, ModelSpec | str):
        parts = new_parts(resolve_spec(target), dtype)
    else:
        raise ValueError(
            f"target is a {type(target).__name__}; give Parts(unet, vae, encoders), a ModelSpec or "
            f"one of {', '.join(SPECS)}"
        )
    load_parts(parts, open_weights(path), path, ema)
    return parts


def new_parts(spec: ModelSpec, dtype: torch.dtype) -> Parts:
    """The networks of a specification on the meta device, with names and shapes but no memory.

    Args:
        spec: The specification.
        dtype: Of the networks; SDXL's autoencoder is at least float32.

    Raises:
        ValueError: If the networks cannot compute in this dtype.
    """
    check_dtype(dtype)
    with torch.device("meta"):
        unet, vae = UNet(spec.unet), VAE(spec.vae)
        encoders = [CLIPTextEncoder(config) for config in spec.text]
    vae_dtype = torch.promote_types(dtype, torch.float32) if spec.vae.force_upcast else dtype
    return Parts(unet.to(dtype), vae.to(vae_dtype), [encoder.to(dtype) for encoder in encoders])


def load_parts(parts: Parts, tensors: dict[str, LazyTensor], path: Path, ema: bool = False) -> None:
    """Fill the networks of a system from an opened original file, as `load_original` does.

    Args:
        parts: The networks to fill, in place.
        tensors: The file's tensors by name. The dictionary is emptied, to free the memory of
            tensors that are already in memory.
        path: The file, for messages.
        ema: As in `load_original`.
    """
    unet, vae, encoders = parts
    hint = detected_hint(tensors, unet)
    matched, prefixes = [], []
    for module, encoder in ((unet, 0), (vae, 0), *zip(encoders, count(), strict=False)):
        found = find_part(module, tensors, encoder, ema)
        if found is None:
            what = "averaged weights (model_ema.*)" if ema and module is unet else "weights"
            raise ValueError(
                f"{path} holds no {what} of a {type(module).__name__} under their original names"
                f"{hint}"
            )
        matched.append((module, match_state_dict(module, found.tensors, path, hint)))
        prefixes.append(found.prefix)
    others = [
        name
        for name in tensors
        if not name.startswith(tuple(prefixes)) and not is_ignored(name, "", unet)
    ]
    for name in others:
        if name.startswith(PREFIXES):
            raise ValueError(
                f"{path} holds the tensor {name!r}, which belongs to none of the networks{hint}"
            )
    if others:
        warnings.warn(
            f"{path}: {len(others)} unknown tensors are ignored, among them {others[0]!r}",
            stacklevel=3,
        )
    tensors.clear()
    del found  # or tensors that a pickle holds in memory would stay until the end
    load_tensors(matched, path)


def detect_spec(path: Path, tensors: Mapping[str, LazyTensor]) -> ModelSpec:
    """The system that a file is for, from the shapes of the U-Net.

    Raises:
        ValueError: If no system has these shapes, or if several have them that differ in more than
            their weights.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    alike = [
        spec
        for spec in SPECS.values()
        if (spec.unet.cross_attention_dim, spec.unet.in_channels) == unet_input(shapes)
    ]
    family = detect_model(shapes) or "no known system"
    if not alike:
        raise ValueError(
            f"{path} looks like {family}; known are {', '.join(SPECS)}, and spec= may describe "
            "another"
        )
    newest = alike[-1]
    if any(replace(spec, name=newest.name) != newest for spec in alike):
        names = ", ".join(repr(spec.name) for spec in alike)
        raise ValueError(
            f"{path} looks like {family}, and its weights do not tell which version; choose it "
            f"with spec=, one of {names}"
        )
    return newest


# ---------------------------------------------------------------------------------------- tokenizer


def clip_tokenizer(
    path: Path, config: CLIPTextConfig, folder: str | Path | None
) -> PreTrainedTokenizerBase:
    """CLIP's tokenizer for one text encoder of a file.

    Args:
        path: The file, for error messages.
        config: Of the text encoder.
        folder: Of a tokenizer, or of a model that has one; None for the Hugging Face hub.
    """
    folder = user_path(folder) if folder is not None else download_tokenizer(path)
    if (folder / "tokenizer").is_dir():
        folder = folder / "tokenizer"
    tokenizer = read_tokenizer(folder)
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"{folder} has {len(tokenizer)} tokens, more than the {config.vocab_size} of the text "
            f"encoder in {path}; give the tokenizer of the same model"
        )
    # OpenCLIP, the only encoder with the exact GELU, was trained with token 0, a "!", as padding.
    # As in the published folders, a "!" in the prompt is therefore the padding token, too.
    openclip = config.activation == "gelu"
    pad = tokenizer.convert_ids_to_tokens(0) if openclip else tokenizer.eos_token
    tokenizer.add_special_tokens({"pad_token": pad})
    return tokenizer


def download_tokenizer(path: Path) -> Path:
    """The folder of CLIP's tokenizer in the hub's local cache; path: the model, for errors."""
    try:
        return Path(snapshot_download(TOKENIZER, allow_patterns=TOKENIZER_FILES))
    except FETCH_ERRORS as error:
        raise FileNotFoundError(
            f"{path} holds no tokenizer, and {TOKENIZER} could not be downloaded from the Hugging "
            "Face hub; give tokenizer= a folder with its vocab.json and merges.txt"
        ) from error
