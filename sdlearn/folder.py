"""The published folder layout: which part is where, and what its JSON files say.

    model_index.json           the list of parts
    unet/config.json           its configuration, and diffusion_pytorch_model.safetensors beside it
    vae/config.json            the same
    text_encoder/config.json   the same, with model.safetensors
    tokenizer/                 vocab.json, merges.txt and two small files about special tokens
    scheduler/scheduler_config.json

Any Stable Diffusion 1 folder is read by what its files say, see configs.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from sdlearn import weights
from sdlearn.clip import CLIPTextEncoder
from sdlearn.configs import (
    read_scheduler,
    read_text,
    read_unet,
    read_vae,
    scheduler_json,
    sensible,
    text_json,
    unet_json,
    vae_json,
)
from sdlearn.files import read_json, replacing, write_json
from sdlearn.text import TextEncoder
from sdlearn.unet import UNet
from sdlearn.vae import VAE
from sdlearn.versions import SPECS, ModelSpec

# ---------------------------------------------------------------------------------------- reading


def read_folder(folder: Path, dtype: torch.dtype) -> tuple[ModelSpec, UNet, VAE, TextEncoder]:
    """Every part of a published folder, on the CPU, its weights in dtype.

    Raises FileNotFoundError or ValueError, in one sentence, for a missing, damaged or foreign file.
    """
    spec = read_spec(folder)
    tokenizer = read_tokenizer(folder / "tokenizer")
    if len(tokenizer) > spec.text[0].vocab_size:
        raise ValueError(
            f"{folder / 'tokenizer'} has {len(tokenizer)} tokens, more than the "
            f"{spec.text[0].vocab_size} of the text encoder; they do not belong together"
        )
    # Names and shapes only; loading gives them memory.
    with sensible(folder), torch.device("meta"):
        unet, vae = UNet(spec.unet), VAE(spec.vae)
        encoders = [CLIPTextEncoder(config) for config in spec.text]
    for module, name in ((unet, "unet"), (vae, "vae"), (encoders[0], "text_encoder")):
        weights.load(module.to(dtype), folder / name)
    return spec, unet, vae, TextEncoder([tokenizer], encoders)


def read_spec(folder: Path) -> ModelSpec:
    """What the JSON files of a published folder say, as a specification.

    The files do not say with how many steps and how much guidance a picture is made: that comes
    from the system of the name in model_index.json, or of the same U-Net.
    """
    index = read_json(folder / "model_index.json")
    if index.get("_class_name") != "StableDiffusionPipeline":
        raise ValueError(
            f"{folder / 'model_index.json'}: _class_name is {index.get('_class_name')!r}; only "
            "'StableDiffusionPipeline' folders can be read"
        )
    with sensible(folder / "unet" / "config.json") as path:
        unet = read_unet(path)
    with sensible(folder / "vae" / "config.json") as path:
        vae = read_vae(path)
    with sensible(folder / "text_encoder" / "config.json") as path:
        text = read_text(path)
    if unet.cross_attention_dim != text.hidden_size:
        raise ValueError(
            f"{folder}: the U-Net attends to {unet.cross_attention_dim} channels, the text "
            f"encoder gives {text.hidden_size}; they do not belong together"
        )
    if unet.out_channels != vae.latent_channels:
        raise ValueError(
            f"{folder}: the U-Net's latents have {unet.out_channels} channels, the autoencoder's "
            f"{vae.latent_channels}; they do not belong together"
        )
    name = index.get("_name_or_path")
    alike = [SPECS[name]] if name in SPECS else [s for s in SPECS.values() if s.unet == unet]
    spec = alike[0] if alike else ModelSpec(name=folder.resolve().name)
    if spec.name == "storybook" != name:  # of its size, but it knows another world
        spec = replace(spec, name=name or folder.resolve().name)
    size = unet.sample_size * 2 ** (len(vae.block_out_channels) - 1)
    spec = replace(spec, unet=unet, vae=vae, text=(text,), size=size)
    with sensible(folder / "scheduler" / "scheduler_config.json") as path:
        return read_scheduler(path, spec)


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a published folder; ValueError or FileNotFoundError where it is damaged."""
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
    except Exception as error:  # the library raises bare Exceptions for damaged files
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
    """Write every part in the published layout; dtype and max_bytes as in weights.save.

    The scheduler is DDIM, which Stable Diffusion publishes. Each file is replaced in one piece, and
    model_index.json, without which a folder is not read, comes last. Other files in the folder (a
    model card) stay.
    """
    (encoder,), (tokenizer,) = text.encoders, text.tokenizers
    assert isinstance(encoder, CLIPTextEncoder)
    parts = (
        ("unet", unet, "diffusion_pytorch_model", unet_json(unet.config)),
        ("vae", vae, "diffusion_pytorch_model", vae_json(vae.config, spec.size)),
        ("text_encoder", encoder, "model", text_json(encoder.config, tokenizer.bos_token_id)),
    )
    for name, module, stem, config in parts:
        write_json(folder / name / "config.json", config)
        weights.save(module, folder / name / f"{stem}.safetensors", dtype, max_bytes)
    write_tokenizer(folder / "tokenizer", tokenizer)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler_json(spec))
    write_json(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.6.0",
            "_name_or_path": spec.name,
            "feature_extractor": [None, None],
            "requires_safety_checker": False,
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


def write_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """The four files of a published CLIP tokenizer, which every version of its reader knows."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    with replacing(folder / "vocab.json") as part:
        part.write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    with replacing(folder / "merges.txt") as part:
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
