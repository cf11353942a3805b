"""A whole system from one original file, such as v1-5-pruned-emaonly.safetensors; or a ControlNet.

Such a file holds weights alone. What it is for follows from the shapes as far as they differ, and
else from a specification; the tokenizer, which is the same for all of Stable Diffusion, comes from
a folder or from the Hugging Face hub.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import PreTrainedTokenizerBase

from sdlearn.clip import CLIPTextConfig
from sdlearn.families import hint_encoder, looks_like, unet_input
from sdlearn.folder import read_tokenizer
from sdlearn.hub import FETCH_ERRORS
from sdlearn.originals import PARTS
from sdlearn.stored import Stored, open_weights
from sdlearn.text import TextEncoder
from sdlearn.unet import UNet, UNetConfig
from sdlearn.vae import VAE
from sdlearn.versions import SPECS, ModelSpec
from sdlearn.weights import check_dtype, fill_parts, named, parts_of

TOKENIZER = "openai/clip-vit-large-patch14"
TOKENIZER_FILES = ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"]


def read_single(
    path: Path,
    dtype: torch.dtype,
    spec: ModelSpec | str | None = None,
    tokenizer: str | Path | None = None,
) -> tuple[ModelSpec, UNet, VAE, TextEncoder]:
    """Every part of an original file, on the CPU, its weights in dtype.

    spec: a specification or its name in SPECS; None where the weights themselves can tell.
    tokenizer: a folder with vocab.json and merges.txt, or the folder of a model that has one; None
    for CLIP's from the Hugging Face hub, or from its cache here.
    Raises FileNotFoundError or ValueError, in one sentence, for what cannot be read or decided.
    """
    check_dtype(dtype)
    stored = open_weights(path)
    if not any(name.startswith(PARTS) for name in stored):
        family = looks_like({name: tensor.shape for name, tensor in stored.items()})
        raise ValueError(
            f"{path} is a file, but not of a whole system under its original names"
            f"{f'; it looks like {family}' if family else ''}; give such a file, or a folder in "
            "the published layout, with model_index.json, unet/, vae/, text_encoder/, tokenizer/ "
            "and scheduler/"
        )
    spec = recognised(path, stored) if spec is None else named(spec)
    tokenizers = [clip_tokenizer(path, config, tokenizer) for config in spec.text]
    ends = [each.eos_token_id for each in tokenizers]
    text = zip(spec.text, ends, strict=True)
    spec = replace(spec, text=tuple(replace(config, eos_token_id=end) for config, end in text))
    parts = parts_of(spec, dtype)
    fill_parts(parts, stored, path)
    return spec, parts.unet, parts.vae, TextEncoder(tokenizers, parts.encoders, spec.text_state)


def recognised(path: Path, stored: Mapping[str, Stored]) -> ModelSpec:
    """The system that the U-Net's shapes belong to; ValueError where there is none, or where
    systems of these shapes would draw differently."""
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    alike = [
        spec
        for spec in SPECS.values()
        if (spec.unet.cross_attention_dim, spec.unet.in_channels) == unet_input(shapes)
    ]
    family = looks_like(shapes) or "no known system"
    if not alike:
        raise ValueError(
            f"{path} looks like {family}; known are {', '.join(SPECS)}, and spec= may describe "
            "another"
        )
    newest = alike[-1]
    if any(replace(spec, name=newest.name) != newest for spec in alike):
        names = ", ".join(repr(spec.name) for spec in alike)
        raise ValueError(
            f"{path} looks like {family}, of which the weights cannot tell the versions; say which "
            f"it is with spec=, one of {names}"
        )
    return newest


def control_config(
    path: Path, stored: Mapping[str, Stored], spec: ModelSpec | str | None = None
) -> tuple[UNetConfig, tuple[int, ...]]:
    """The U-Net that the ControlNet in a file is for, and the widths of its hint encoder.

    path: of the file, for the sentence of a ValueError. spec: as in `read_single`. The versions of
    Stable Diffusion 2 need not be told apart here: they differ only in where attention is computed
    in float32, and 2.1, which does so, is right for all.
    """
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    hint_channels = hint_encoder(shapes)
    if not hint_channels:
        family = looks_like(shapes)
        raise ValueError(
            f"{path} holds no ControlNet{f'; it looks like {family}' if family else ''}; give a "
            "ControlNet's file, or its folder with config.json and the weights beside it"
        )
    if spec is not None:
        return named(spec).unet, hint_channels
    width, _ = unet_input(shapes)
    alike = [each.unet for each in SPECS.values() if each.unet.cross_attention_dim == width]
    if not alike:
        raise ValueError(
            f"{path} looks like {looks_like(shapes)}; known are {', '.join(SPECS)}, spec= may "
            "describe another, and a folder with config.json needs none"
        )
    upcast = any(unet.upcast_attention for unet in alike)
    return replace(alike[0], upcast_attention=upcast), hint_channels


def clip_tokenizer(
    path: Path, config: CLIPTextConfig, folder: str | Path | None
) -> PreTrainedTokenizerBase:
    """CLIP's tokenizer for one text encoder of a file."""
    place = Path(folder) if folder is not None else downloaded(path)
    if (place / "tokenizer").is_dir():
        place = place / "tokenizer"
    tokenizer = read_tokenizer(place)
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"{place} has {len(tokenizer)} tokens, more than the {config.vocab_size} of the text "
            f"encoder in {path}; they do not belong together"
        )
    # OpenCLIP, which alone has the exact GELU, was trained on texts padded with token 0, a "!". As
    # in the published folders, a "!" of the prompt then is that token, too.
    openclip = config.activation == "gelu"
    pad = tokenizer.convert_ids_to_tokens(0) if openclip else tokenizer.eos_token
    tokenizer.add_special_tokens({"pad_token": pad})
    return tokenizer


def downloaded(path: Path) -> Path:
    """The folder of CLIP's tokenizer, fetched once."""
    try:
        return Path(snapshot_download(TOKENIZER, allow_patterns=TOKENIZER_FILES))
    except FETCH_ERRORS as error:
        raise FileNotFoundError(
            f"{path} holds no tokenizer, and that of {TOKENIZER} could not be fetched from the "
            "Hugging Face hub; give tokenizer= a folder with its vocab.json and merges.txt"
        ) from error
