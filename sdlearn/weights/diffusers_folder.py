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

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from sdlearn.clip import CLIPTextEncoder
from sdlearn.text import TextEncoder
from sdlearn.unet import UNet
from sdlearn.utils.atomic_files import atomic_write, read_json, user_path, write_json
from sdlearn.utils.file_kinds import describe_content
from sdlearn.vae import VAE
from sdlearn.versions import SD1_5, SD1_5_INPAINT, SDXL, SPECS, ModelSpec
from sdlearn.weights.configs import (
    text_config_from_json,
    text_config_to_json,
    unet_config_from_json,
    unet_config_to_json,
    vae_config_from_json,
    vae_config_to_json,
)
from sdlearn.weights.hub import repo_id
from sdlearn.weights.json_config import Config, Json, errors_name_file
from sdlearn.weights.scheduler_config import (
    scheduler_config_from_json,
    scheduler_config_to_json,
)
from sdlearn.weights.state_dict import check_dtype, load, save
from sdlearn.weights.weight_names import choose_variants

# The supported _class_name of model_index.json -> the system with the settings that the files lack.
PIPELINE_CLASSES = {
    "StableDiffusionPipeline": SD1_5,
    "StableDiffusionInpaintPipeline": SD1_5_INPAINT,
    "StableDiffusionXLPipeline": SDXL,
}
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")

# ---------------------------------------------------------------------------------------- reading


def read_folder(
    folder: Path, dtype: torch.dtype, variant: str | None = None
) -> tuple[ModelSpec, UNet, VAE, TextEncoder]:
    """Read a whole system on the CPU from a published folder.

    Args:
        folder: With model_index.json.
        dtype: Of the networks; SDXL's autoencoder is at least float32.
        variant: Of the weights, such as "fp16", see `choose_variants`; None for the order of
            `pick_weights`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or not supported, or no part has the variant.
    """
    check_dtype(dtype)
    with errors_name_file(folder):
        spec = read_spec(folder)
    parts = ("unet", "vae", *TEXT_ENCODERS[: len(spec.text)])
    names = {part: [file.name for file in (folder / part).iterdir()] for part in parts}
    variants = choose_variants(names, variant, str(folder))
    tokenizers, configs = [], []
    for name, config in zip(TOKENIZERS, spec.text, strict=False):
        tokenizer = read_tokenizer(folder / name)
        if len(tokenizer) > config.vocab_size:
            raise ValueError(
                f"{folder / name} has {len(tokenizer)} tokens, more than the "
                f"{config.vocab_size} of the text encoder; both must be from the same model"
            )
        tokenizers.append(tokenizer)
        # The text encoder's file may have a wrong end token, see text_config_from_json.
        configs.append(replace(config, eos_token_id=tokenizer.eos_token_id))
    spec = replace(spec, text=tuple(configs))
    # On the meta device, parameters have shapes but no memory until they are loaded.
    with errors_name_file(folder), torch.device("meta"):
        unet, vae = UNet(spec.unet), VAE(spec.vae)
        encoders = [CLIPTextEncoder(config) for config in spec.text]
    vae_dtype = torch.promote_types(dtype, torch.float32) if spec.vae.force_upcast else dtype
    load(unet.to(dtype), folder / "unet", variants["unet"])
    load(vae.to(vae_dtype), folder / "vae", variants["vae"])
    for name, encoder in zip(TEXT_ENCODERS, encoders, strict=False):
        load(encoder.to(dtype), folder / name, variants[name])
    return spec, unet, vae, TextEncoder(tokenizers, encoders, spec.text_layer)


def read_spec(folder: Path) -> ModelSpec:
    """The specification of a published folder, from its JSON files.

    The files do not contain the number of steps and the guidance scale. These are taken from the
    system in SPECS with the name in model_index.json, or with the same U-Net, or of the same class
    of pipeline.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is malformed or not supported, or if the parts do not fit each other.
    """
    index = Config(folder / "model_index.json")
    pipeline = index.text("_class_name", "")
    if pipeline not in PIPELINE_CLASSES:
        raise ValueError(
            f"{index.path}: _class_name is {pipeline!r}; only "
            f"{', '.join(map(repr, PIPELINE_CLASSES))} folders can be read"
        )
    kind = PIPELINE_CLASSES[pipeline]
    with errors_name_file(folder / "unet" / "config.json") as path:
        unet = unet_config_from_json(path)
    with errors_name_file(folder / "vae" / "config.json") as path:
        vae = vae_config_from_json(path)
        # Current files say true for every autoencoder; only SDXL's needs it.
        vae = replace(vae, force_upcast=vae.force_upcast and kind.vae.force_upcast)
    text = []
    for part in TEXT_ENCODERS[: len(kind.text)]:
        with errors_name_file(folder / part / "config.json") as path:
            text.append(text_config_from_json(path))
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
    name = index.text("_name_or_path", "")
    if name not in SPECS:
        name = repo_id(folder) or name or folder.resolve().name
    alike = [SPECS[name]] if name in SPECS else [s for s in SPECS.values() if s.unet == unet]
    spec = replace(
        alike[0] if alike else kind,
        name=name,
        unet=unet,
        vae=vae,
        text=tuple(text),
        text_layer=kind.text_layer,
        zero_negative=index.flag("force_zeros_for_empty_prompt", kind.zero_negative),
        resolution=unet.sample_size * 2 ** (len(vae.block_out_channels) - 1),
    )
    with errors_name_file(folder / "scheduler" / "scheduler_config.json") as path:
        return scheduler_config_from_json(path, spec, scheduler_class(index))


def scheduler_class(index: Config) -> str | None:
    """The class in model_index.json's entry for the scheduler, ["diffusers", CLASS], or None."""
    entry = index.get("scheduler") or [None]
    if not isinstance(entry, list) or not isinstance(entry[-1], str | None):
        raise index.wrong("scheduler", "a list that ends with the name of a class")
    return entry[-1]


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a published folder.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged.
    """
    for path in sorted(folder.glob("*")):
        is_what = describe_content(path) if path.suffix in (".json", ".txt") else None
        if is_what:
            raise ValueError(f"{path} is {is_what}")
    if not (folder / "tokenizer.json").is_file():
        for name in ("vocab.json", "merges.txt"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name} is missing; the tokenizer needs it")
        tokens = len(read_json(folder / "vocab.json"))
        lines = (folder / "merges.txt").read_bytes().splitlines()
        merges = sum(not line.startswith(b"#version") for line in lines)
        if tokens > 2 * 256 + merges + 2:  # bytes, bytes that end a word, merges, start and end
            raise ValueError(
                f"{folder / 'merges.txt'} is incomplete: {merges} merges cannot make the "
                f"{tokens} tokens of vocab.json"
            )
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers, written in Rust, raises Exception itself
        raise ValueError(f"{folder} does not hold a readable CLIP tokenizer: {error}") from error


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

    Each file is complete or absent, and model_index.json, without which a folder cannot be read, is
    written last. Other files in the folder, such as a model card, are kept.

    Args:
        folder: Created if necessary.
        spec: The specification.
        unet: The U-Net.
        vae: The autoencoder.
        text: The text encoders and their tokenizers.
        dtype: Of the weights in the files, see `save`.
        max_bytes: Of a weight file, see `save`.

    Raises:
        ValueError: If no published file can describe the sampler; nothing is written then.
    """
    folder = user_path(folder)
    scheduler = scheduler_config_to_json(spec)
    parts: list[tuple[str, nn.Module, str, Json]] = [
        ("unet", unet, "diffusion_pytorch_model", unet_config_to_json(unet.config)),
        ("vae", vae, "diffusion_pytorch_model", vae_config_to_json(vae.config, spec.resolution)),
    ]
    classes = {}
    for n, (encoder, tokenizer) in enumerate(zip(text.encoders, text.tokenizers, strict=True)):
        assert isinstance(encoder, CLIPTextEncoder)
        config = text_config_to_json(encoder.config, tokenizer.bos_token_id)
        parts.append((TEXT_ENCODERS[n], encoder, "model", config))
        write_tokenizer(folder / TOKENIZERS[n], tokenizer)
        classes[TEXT_ENCODERS[n]] = ["transformers", *config["architectures"]]
        classes[TOKENIZERS[n]] = ["transformers", "CLIPTokenizer"]
    for name, module, stem, config in parts:
        write_json(folder / name / "config.json", config)
        save(module, folder / name / f"{stem}.safetensors", dtype, max_bytes)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(
        folder / "model_index.json",
        {
            **class_entries(spec),
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
    if len(spec.text) == 2:
        return {
            "_class_name": "StableDiffusionXLPipeline",
            "force_zeros_for_empty_prompt": spec.zero_negative,
        }
    inpainting = spec.unet.in_channels > spec.unet.out_channels
    return {
        "_class_name": f"StableDiffusion{'Inpaint' if inpainting else ''}Pipeline",
        "requires_safety_checker": False,
        "safety_checker": [None, None],
    }


def write_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the four files of a published CLIP tokenizer, read by all versions of transformers."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    with atomic_write(folder / "vocab.json") as part:
        part.write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    with atomic_write(folder / "merges.txt") as part:
        part.write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8", newline="\n")
    special = {
        name: getattr(tokenizer, name)
        for name in ("bos_token", "eos_token", "pad_token", "unk_token")
    }
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        special
        | {
            "add_prefix_space": False,
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": tokenizer.model_max_length,
            "tokenizer_class": "CLIPTokenizer",
        },
    )
