"""A whole system in one original file, such as v1-5-pruned-emaonly.safetensors.

Such a file contains weights only. The system follows from the tensors' shapes where these differ,
and otherwise from a specification. The tokenizer, which all versions of Stable Diffusion share,
comes from a folder or from the Hugging Face hub.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import PreTrainedTokenizerBase

from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder
from sdlearn.schedule import Prediction
from sdlearn.text import TextEncoder
from sdlearn.utils.atomic_files import user_path
from sdlearn.utils.device import check_dtype
from sdlearn.utils.validation import check_place
from sdlearn.versions import SDXL, SPECS, STORYBOOK_FEW_STEPS, ModelSpec
from sdlearn.weights.diffusers_folder import System, check_system_folder, read_folder
from sdlearn.weights.file_parts import is_system, unwrap
from sdlearn.weights.hub import FETCH_ERRORS, SYSTEM, local_folder
from sdlearn.weights.markers import as_marked, check_markers, read_markers
from sdlearn.weights.model_detection import (
    detect_model,
    foreign_family,
    resolve_spec,
    unet_input,
)
from sdlearn.weights.state_dict import load_tensors
from sdlearn.weights.system_parts import Parts, match_parts, new_parts
from sdlearn.weights.tensor_files import LazyTensor, open_weights
from sdlearn.weights.tokenizer_files import FILES, read_tokenizer
from sdlearn.weights.weight_names import find_weights

TOKENIZER = "openai/clip-vit-large-patch14"
# Not in SPECS, because nothing but its name tells its folder from SDXL's.
SDXL_INPAINT = replace(SDXL, name="sdxl-inpaint", unet=replace(SDXL.unet, in_channels=9))
CONFIGURATIONS = ("model_index.json", "config.json", "scheduler_config.json")


def read_system(
    source: str | Path,
    dtype: torch.dtype | None = None,
    spec: ModelSpec | str | None = None,
    tokenizer: str | Path | None = None,
    variant: str | None = None,
) -> System:
    """Read a whole system on the CPU from a folder, a hub id or an original file.

    Args:
        source: A folder in the published layout; the id of one on the Hugging Face hub,
            "organisation/name"; or an original file.
        dtype: Of the networks; None for float32.
        spec: For a file only, as in `read_single_file`.
        tokenizer: For a file only, as in `read_single_file`.
        variant: For a folder only, as in `read_folder`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or not supported.
    """
    path, dtype = user_path(check_place(source)), check_dtype(dtype)
    if tokenizer is not None:
        check_place(tokenizer, "tokenizer")
    if path.is_file():
        check_no_configuration(path)
        if variant is not None:
            raise ValueError(f"{source} is a file; variant is accepted for a folder only")
        return read_single_file(path, dtype, spec, tokenizer)
    if spec is not None or tokenizer is not None:
        raise ValueError(
            f"{source} is not a file; spec and tokenizer are accepted for a single file only"
        )
    return read_folder(local_folder(source, SYSTEM, variant), dtype, variant)


def check_system(source: str | Path) -> None:
    """Check a folder, hub id or original file without reading the values of its weights.

    Files of the hub are downloaded. Raises the errors of `read_system`, except those about values.
    """
    path = user_path(source)
    if path.is_file():
        check_no_configuration(path)
        match_single_file(path, torch.float32)
    else:
        check_system_folder(local_folder(source, SYSTEM))


def check_no_configuration(path: Path) -> None:
    """Raise ValueError for a JSON file of a folder, given in the place of the folder."""
    if path.name in CONFIGURATIONS:
        raise ValueError(
            f"{path} is a configuration; give the folder of the whole model, the one that holds "
            "model_index.json"
        )


def read_single_file(
    path: Path,
    dtype: torch.dtype,
    spec: ModelSpec | str | None = None,
    tokenizer: str | Path | None = None,
) -> System:
    """Read a whole system on the CPU from one original file.

    Args:
        path: The file.
        dtype: Of the networks.
        spec: A specification or its name in SPECS; None if the shapes in the file are enough. What
            the file says about its training is changed in it, see markers.
        tokenizer: A folder with vocab.json and merges.txt, or the folder of a model that has a
            tokenizer; None for CLIP's from the Hugging Face hub or its local cache.

    Raises:
        FileNotFoundError: If a file is missing, or the tokenizer cannot be downloaded.
        ValueError: If the file is damaged or not supported, or fits several systems.
    """
    system, matched = match_single_file(path, dtype, spec, tokenizer)
    load_tensors(matched, path)
    return system


def match_single_file(
    path: Path,
    dtype: torch.dtype,
    spec: ModelSpec | str | None = None,
    tokenizer: str | Path | None = None,
) -> tuple[System, list[tuple[nn.Module, dict[str, LazyTensor]]]]:
    """The system of a file with networks on the meta device, and their tensors, not yet read.

    Arguments and errors are those of `read_single_file`.
    """
    dtype = check_dtype(dtype)
    tensors = open_weights(path)
    unwrap(tensors)
    if not is_system(tensors):
        family = detect_model({name: tensor.shape for name, tensor in tensors.items()})
        raise ValueError(
            f"{path} is a file, but not of a whole system under known names"
            f"{f'; it looks like {family}' if family else ''}; give such a file, or a folder in "
            "the published layout, with model_index.json, unet/, vae/, text_encoder/, tokenizer/ "
            "and scheduler/"
        )
    markers = read_markers(path, tensors)
    found = detect_spec(path, tensors, markers.predicts) if spec is None else resolve_spec(spec)
    spec = as_marked(found, markers, tensors, path)
    parts = new_parts(spec, dtype)
    matched = match_parts(parts, tensors, path)
    tokenizers = [clip_tokenizer(path, config, tokenizer) for config in spec.text]
    eos = [each.eos_token_id for each in tokenizers]
    text = zip(spec.text, eos, strict=True)
    spec = replace(spec, text=tuple(replace(config, eos_token_id=end) for config, end in text))
    encoders = cast("list[CLIPTextEncoder]", parts.encoders)
    for encoder, config in zip(encoders, spec.text, strict=True):
        encoder.config = config
    text_encoder = TextEncoder(tokenizers, encoders, spec.text_layer)
    return (spec, parts.unet, parts.vae, text_encoder), matched


def load_original(
    target: Parts | ModelSpec | str,
    path: str | Path,
    ema: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Parts:
    """Load the networks of a whole system from one original file of CompVis or Stability.

    What training leaves in a file is ignored, see leftovers; other tensors outside the known parts
    are ignored with a warning.

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
    tensors = open_weights(path)
    unwrap(tensors)
    if isinstance(target, Parts):
        parts = target
        check_markers(parts.unet, tensors, path)
        check_markers(parts.vae, tensors, path)
    elif isinstance(target, ModelSpec | str):
        spec = resolve_spec(target)
        check_spec(spec, tensors, path)
        parts = new_parts(spec, dtype)
    else:
        raise ValueError(
            f"target is a {type(target).__name__}; give Parts(unet, vae, encoders), a ModelSpec or "
            f"one of {', '.join(SPECS)}"
        )
    load_tensors(match_parts(parts, tensors, path, ema), path)
    return parts


def check_spec(spec: ModelSpec, tensors: dict[str, LazyTensor], path: Path) -> None:
    """Raise ValueError if a file contradicts its specification about how it was trained."""
    said = as_marked(spec, read_markers(path, tensors), tensors, path)
    differences = {
        "predicts": (said.predicts, spec.predicts),
        "schedule.zero_terminal_snr": (
            said.schedule.zero_terminal_snr,
            spec.schedule.zero_terminal_snr,
        ),
        "vae.scaling_factor": (said.vae.scaling_factor, spec.vae.scaling_factor),
    }
    for name, (theirs, own) in differences.items():
        if theirs != own:
            raise ValueError(
                f"{path} was trained with {name}={theirs!r}, but the specification "
                f"{spec.name!r} has {own!r}; give one that agrees, or use "
                "StableDiffusion.from_pretrained, which adapts it"
            )


def detect_spec(
    path: Path, tensors: Mapping[str, LazyTensor], predicts: Prediction | None = None
) -> ModelSpec:
    """The system that a file is for, from the shapes of the U-Net and from what the file says.

    A U-Net distilled to a few steps has its teacher's shapes, so a file of one is read as the
    teacher's; name its system with `spec=`.

    Args:
        path: The file, for error messages.
        tensors: Its tensors by name.
        predicts: What it says that its U-Net predicts, if it says that. This tells the versions of
            SD 2 apart, apart from 2.0 and 2.1, which compute the same in float32.

    Raises:
        ValueError: If no system has these shapes, or if several have them that differ in more than
            their weights.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    alike = [
        spec
        for spec in (*SPECS.values(), SDXL_INPAINT)
        if (spec.unet.cross_attention_dim, spec.unet.in_channels) == unet_input(shapes)
        and spec is not STORYBOOK_FEW_STEPS
    ]
    family = detect_model(shapes) or "no known system"
    if not alike and foreign_family(shapes):
        raise ValueError(f"{path} looks like {family}; accepted: {', '.join(SPECS)}")
    if not alike:
        raise ValueError(
            f"{path} looks like {family}; accepted: {', '.join(SPECS)}, and spec= may describe "
            "another"
        )
    if predicts in [spec.predicts for spec in alike]:
        alike = [spec for spec in alike if spec.predicts == predicts]
    newest = alike[-1]
    if any(replace(spec, name=newest.name, unet=newest.unet) != newest for spec in alike):
        names = ", ".join(repr(spec.name) for spec in alike)
        raise ValueError(
            f"{path} looks like {family}, and its weights do not show which version; choose it "
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
        config: The text encoder's configuration.
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
        return Path(snapshot_download(TOKENIZER, allow_patterns=list(FILES)))
    except FETCH_ERRORS as error:
        raise FileNotFoundError(
            f"{path} holds no tokenizer, and {TOKENIZER} could not be downloaded from the Hugging "
            "Face hub; give tokenizer= a folder with its vocab.json and merges.txt"
        ) from error
