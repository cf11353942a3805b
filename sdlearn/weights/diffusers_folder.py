"""A whole system as a folder in the published layout of diffusers, read and written.

    model_index.json                  the list of parts
    unet/                             config.json and diffusion_pytorch_model.safetensors
    vae/                              the same
    text_encoder/                     config.json and model.safetensors
    tokenizer/                        vocab.json, merges.txt and two files of special tokens
    scheduler/scheduler_config.json

SDXL also has text_encoder_2 and tokenizer_2. The JSON files determine the networks and the sampler,
see configs and scheduler_config, so any folder of Stable Diffusion 1, 2 or XL can be read.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder
from sdlearn.text import TextEncoder, context_length
from sdlearn.unet import UNet
from sdlearn.utils.atomic_files import check_folder, user_path, write_json
from sdlearn.utils.device import check_dtype, without_memory
from sdlearn.vae import VAE
from sdlearn.versions import SPECS, ModelSpec
from sdlearn.weights.configs import (
    check_parameters,
    unet_config_from_json,
    unet_config_to_json,
    vae_config_from_json,
    vae_config_to_json,
)
from sdlearn.weights.hub import repo_id
from sdlearn.weights.json_config import Config, Json, errors_name_file
from sdlearn.weights.model_index import (
    TEXT_ENCODERS,
    TOKENIZERS,
    detect_kind,
    like_its_system,
    own_sampling,
    part_class,
    pipeline_class,
    read_index,
    reading_class,
    with_own_sampling,
)
from sdlearn.weights.saving import check_save, replace_weights
from sdlearn.weights.scheduler_classes import scheduler_class
from sdlearn.weights.scheduler_config import (
    scheduler_config_from_json,
    scheduler_config_to_json,
)
from sdlearn.weights.state_dict import check_weights, load
from sdlearn.weights.text_config import text_config_from_json, text_config_to_json
from sdlearn.weights.tokenizer_files import (
    FILES,
    read_tokenizer,
    tokens_needed,
    write_tokenizer,
)
from sdlearn.weights.weight_names import choose_variants

System = tuple[ModelSpec, UNet, VAE, TextEncoder]

# ---------------------------------------------------------------------------------------- reading


def read_folder(folder: Path, dtype: torch.dtype, variant: str | None = None) -> System:
    """Read a whole system on the CPU from a published folder.

    Args:
        folder: With model_index.json.
        dtype: Data type of the networks; SDXL's autoencoder is at least float32.
        variant: The variant of the weights, such as "fp16", see `choose_variants`; None for the
            order of `pick_weights`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or not supported, or no part has the variant.
    """
    system, weights = empty_system(folder, dtype, variant)
    for module, place, chosen in weights:
        load(module, place, chosen)
    return system


def check_system_folder(folder: Path) -> None:
    """Check a published folder without reading the values of its weights.

    Raises the errors of `read_folder`, except those about values.
    """
    for module, place, chosen in empty_system(folder, torch.float32)[1]:
        check_weights(module, place, chosen)


def empty_system(
    folder: Path, dtype: torch.dtype, variant: str | None = None
) -> tuple[System, list[tuple[nn.Module, Path, str | None]]]:
    """The system of a published folder, with networks on the meta device.

    Args:
        folder: With model_index.json.
        dtype: As in `read_folder`.
        variant: As in `read_folder`.

    Returns:
        The system, and for each network the folder and the variant of its weights.

    Raises:
        FileNotFoundError, ValueError: As `read_folder`, for everything but the weight files.
    """
    dtype = check_dtype(dtype)
    with errors_name_file(folder):
        spec = read_spec(folder)
    files = {
        part: [file.name for file in (folder / part).iterdir()]
        for part in ("unet", "vae", *TEXT_ENCODERS[: len(spec.text)])
    }
    variants = choose_variants(files, variant, str(folder))
    tokenizers, configs = [], []
    index = Config(folder / "model_index.json")
    for name, config in zip(TOKENIZERS, spec.text, strict=False):
        tokenizer = read_tokenizer(folder / name, part_class(index, name))
        tokenizers.append(tokenizer)
        configs.append(fit_tokenizer(folder / name, tokenizer, config))
    if len(set(map(context_length, tokenizers, configs))) > 1:
        raise ValueError(
            f"{folder}: the two tokenizers make sequences of different lengths, by their "
            "model_max_length; both must be from the same model"
        )
    spec = replace(spec, text=tuple(configs))
    with errors_name_file(folder), without_memory():
        unet, vae = UNet(spec.unet), VAE(spec.vae)
        encoders = [CLIPTextEncoder(config) for config in spec.text]
    parts = {"unet": unet, "vae": vae, **dict(zip(TEXT_ENCODERS, encoders, strict=False))}
    for name, module in parts.items():
        check_parameters(folder / name / "config.json", module)
    vae_dtype = torch.promote_types(dtype, torch.float32) if spec.vae.force_upcast else dtype
    for module in parts.values():
        module.to(vae_dtype if module is vae else dtype)
    system = spec, unet, vae, TextEncoder(tokenizers, encoders, spec.text_layer)
    return system, [(module, folder / name, variants[name]) for name, module in parts.items()]


def read_spec(folder: Path) -> ModelSpec:
    """The specification of a published folder, from its JSON files.

    Published files do not contain the number of steps and the guidance scale. If model_index.json
    does not either, they are those of the system in SPECS that `like_its_system` finds.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is malformed or not supported, or if the parts do not fit each other.
    """
    index = read_index(folder)
    with errors_name_file(folder / "unet" / "config.json") as path:
        unet = unet_config_from_json(path)
    kind = detect_kind(index, unet)
    with errors_name_file(folder / "vae" / "config.json") as path:
        vae = vae_config_from_json(path)
        # Current files say true for every autoencoder; only SDXL's needs it.
        vae = replace(vae, force_upcast=vae.force_upcast and kind.vae.force_upcast)
    text = []
    for part in TEXT_ENCODERS[: len(kind.text)]:
        with errors_name_file(folder / part / "config.json") as path:
            text.append(text_config_from_json(path, part_class(index, part)))
    width = sum(config.hidden_size for config in text)
    if unet.cross_attention_dim != width:
        raise ValueError(
            f"{folder}: the U-Net attends to {unet.cross_attention_dim} channels, the text "
            f"encoder gives {width}; both must be from the same model"
        )
    if unet.added_dim is not None:
        added = (text[-1].projection_dim or 0) + 6 * (unet.added_time_dim or 0)
        if unet.added_dim != added:
            raise ValueError(
                f"{folder}: projection_class_embeddings_input_dim of the U-Net is "
                f"{unet.added_dim}; the pooled text and six embedded sizes have {added} channels; "
                "all parts must be from the same model"
            )
    if unet.out_channels != vae.latent_channels:
        raise ValueError(
            f"{folder}: the U-Net's latents have {unet.out_channels} channels, the autoencoder's "
            f"{vae.latent_channels}; both must be from the same model"
        )
    name = index.get("_name_or_path") or ""
    if not isinstance(name, str):
        raise index.wrong("_name_or_path", "a string")
    if name not in SPECS:
        name = repo_id(folder) or name or folder.resolve().name
    spec = replace(
        with_own_sampling(index, like_its_system(name, unet, kind)),
        name=name,
        unet=unet,
        vae=vae,
        text=tuple(text),
        text_layer=kind.text_layer,
        zero_negative=(
            kind.zero_negative and index.flag("force_zeros_for_empty_prompt", kind.zero_negative)
        ),
        resolution=unet.sample_size * 2 ** (len(vae.block_out_channels) - 1),
    )
    with errors_name_file(folder / "scheduler" / "scheduler_config.json") as path:
        return scheduler_config_from_json(
            path, spec, scheduler_class(index), reading_class(index, spec)
        )


def fit_tokenizer(
    folder: Path, tokenizer: PreTrainedTokenizerBase, config: CLIPTextConfig
) -> CLIPTextConfig:
    """The configuration of the text encoder that this tokenizer is for.

    Args:
        folder: The tokenizer's folder, for the message.
        tokenizer: The tokenizer.
        config: As in the text encoder's file, where the end-of-text token may be None.

    Raises:
        ValueError: If the tokenizer has more tokens than the text encoder.
    """
    needed = tokens_needed(tokenizer)
    if needed > config.vocab_size:
        raise ValueError(
            f"{folder} has {needed} tokens, more than the "
            f"{config.vocab_size} of the text encoder; both must be from the same model"
        )
    if config.eos_token_id is None and tokenizer.eos_token_id == needed - 1:
        return replace(config, eos_token_id=tokenizer.eos_token_id)
    return config


# ---------------------------------------------------------------------------------------- writing


def write_folder(
    folder: Path,
    spec: ModelSpec,
    unet: UNet,
    vae: VAE,
    text: TextEncoder,
    dtype: torch.dtype | None = None,
    max_bytes: int | None = None,
) -> None:
    """Write a whole system as a folder in the published layout.

    Everything is checked before the first file is written. Each file is complete or absent, and
    model_index.json, without which a folder cannot be read, is deleted first and written last, so
    that parts of two models are never read as one. Weights and tokenizer files of an older model
    are deleted; other files in the folder, such as a model card, are kept.

    Args:
        folder: Created if necessary.
        spec: The specification.
        unet: The U-Net.
        vae: The autoencoder.
        text: The text encoders and their tokenizers.
        dtype: Of the weights in the files, see `save`.
        max_bytes: Of a weight file, see `save`.

    Raises:
        ValueError: If no published file can describe the sampler, or if the dtype or max_bytes are
            not accepted.
        OSError: If the folder cannot be written to, or there is too little space.
    """
    folder = user_path(folder)
    scheduler = scheduler_config_to_json(spec, class_entries(spec)["_class_name"])
    parts: list[tuple[str, nn.Module, str, Json]] = [
        ("unet", unet, "diffusion_pytorch_model", unet_config_to_json(unet.config)),
        ("vae", vae, "diffusion_pytorch_model", vae_config_to_json(vae.config, spec.resolution)),
    ]
    needed = sum(check_save(module, dtype, max_bytes) for module in (unet, vae, *text.encoders))
    check_folder(folder, needed, ["model_index.json"])
    check_folder(folder / "scheduler", files=["scheduler_config.json"])
    classes = {}
    for n, (encoder, tokenizer) in enumerate(zip(text.encoders, text.tokenizers, strict=True)):
        assert isinstance(encoder, CLIPTextEncoder)
        config = text_config_to_json(encoder.config, tokenizer.bos_token_id)
        parts.append((TEXT_ENCODERS[n], encoder, "model", config))
        classes[TEXT_ENCODERS[n]] = ["transformers", *config["architectures"]]
        classes[TOKENIZERS[n]] = ["transformers", "CLIPTokenizer"]
    for name in TOKENIZERS:
        check_folder(folder / name, files=FILES)
    for name, _, stem, _ in parts:
        check_folder(folder / name, files=["config.json", f"{stem}.safetensors"])
    (folder / "model_index.json").unlink(missing_ok=True)
    for name, tokenizer, text_config in zip(TOKENIZERS, text.tokenizers, spec.text, strict=False):
        write_tokenizer(folder / name, tokenizer, context_length(tokenizer, text_config))
    for name, module, stem, config in parts:
        write_json(folder / name / "config.json", config)
        replace_weights(module, folder / name / f"{stem}.safetensors", dtype, max_bytes)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(
        folder / "model_index.json",
        {
            **class_entries(spec),
            **own_sampling(spec),
            **classes,
            "_diffusers_version": "0.6.0",
            "_name_or_path": spec.name,
            "feature_extractor": [None, None],
            "scheduler": ["diffusers", scheduler["_class_name"]],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


def class_entries(spec: ModelSpec) -> Json:
    """The entries of model_index.json that depend on the class of the pipeline."""
    name = {"_class_name": pipeline_class(spec)}
    if len(spec.text) == 2:
        return name | {"force_zeros_for_empty_prompt": spec.zero_negative}
    return name | {"requires_safety_checker": False, "safety_checker": [None, None]}
