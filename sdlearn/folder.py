"""The published folder layout: which part is where, and what its JSON files say.

    model_index.json           the list of parts
    unet/config.json           its configuration, and diffusion_pytorch_model.safetensors beside it
    vae/config.json            the same
    text_encoder/config.json   the same, with model.safetensors
    tokenizer/                 vocab.json, merges.txt and two small files about special tokens
    scheduler/scheduler_config.json

SDXL also has a text_encoder_2 and a tokenizer_2. Any folder of Stable Diffusion 1, 2 or XL is read
by what its files say, see configs and schedulers.
"""

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from sdlearn import weights
from sdlearn.clip import CLIPTextEncoder
from sdlearn.configs import Config, Json, read_text, read_unet, read_vae, sensible
from sdlearn.files import read_json, replacing, write_json
from sdlearn.hub import repository
from sdlearn.schedulers import read_scheduler, scheduler_json
from sdlearn.text import TextEncoder
from sdlearn.unet import UNet
from sdlearn.vae import VAE
from sdlearn.versions import SD1_5, SD1_5_INPAINT, SDXL, SPECS, ModelSpec
from sdlearn.writing import text_json, unet_json, vae_json

# The pipelines that folders are for, and the system that has what their files leave unsaid.
KINDS = {
    "StableDiffusionPipeline": SD1_5,
    "StableDiffusionInpaintPipeline": SD1_5_INPAINT,
    "StableDiffusionXLPipeline": SDXL,
}
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")

# ---------------------------------------------------------------------------------------- reading


def read_folder(folder: Path, dtype: torch.dtype) -> tuple[ModelSpec, UNet, VAE, TextEncoder]:
    """Every part of a published folder, on the CPU, its weights in dtype.

    Raises FileNotFoundError or ValueError, in one sentence, for a missing, damaged or foreign file.
    """
    weights.check_dtype(dtype)
    with sensible(folder):
        spec = read_spec(folder)
    tokenizers, configs = [], []
    for name, config in zip(TOKENIZERS, spec.text, strict=False):
        tokenizer = read_tokenizer(folder / name)
        if len(tokenizer) > config.vocab_size:
            raise ValueError(
                f"{folder / name} has {len(tokenizer)} tokens, more than the "
                f"{config.vocab_size} of the text encoder; they do not belong together"
            )
        tokenizers.append(tokenizer)
        # It writes the end token, so it knows it; the encoder's file may be wrong, see read_text.
        configs.append(replace(config, eos_token_id=tokenizer.eos_token_id))
    spec = replace(spec, text=tuple(configs))
    # Names and shapes only; loading gives them memory.
    with sensible(folder), torch.device("meta"):
        unet, vae = UNet(spec.unet), VAE(spec.vae)
        encoders = [CLIPTextEncoder(config) for config in spec.text]
    wide = torch.promote_types(dtype, torch.float32) if spec.vae.force_upcast else dtype
    weights.load(unet.to(dtype), folder / "unet")
    weights.load(vae.to(wide), folder / "vae")
    for name, encoder in zip(TEXT_ENCODERS, encoders, strict=False):
        weights.load(encoder.to(dtype), folder / name)
    return spec, unet, vae, TextEncoder(tokenizers, encoders, spec.text_state)


def read_spec(folder: Path) -> ModelSpec:
    """What the JSON files of a published folder say, as a specification.

    The files do not say with how many steps and how much guidance a picture is made: that comes
    from the system of the name in model_index.json, or of the same U-Net, or of the same kind.
    """
    index = Config(folder / "model_index.json")
    pipeline = index.text("_class_name", "")
    if pipeline not in KINDS:
        raise ValueError(
            f"{index.path}: _class_name is {pipeline!r}; only {', '.join(map(repr, KINDS))} "
            "folders can be read"
        )
    kind = KINDS[pipeline]
    with sensible(folder / "unet" / "config.json") as path:
        unet = read_unet(path)
    with sensible(folder / "vae" / "config.json") as path:
        vae = read_vae(path)
        # Today's files say true of every autoencoder; it is meant, and heeded, for SDXL's.
        vae = replace(vae, force_upcast=vae.force_upcast and kind.vae.force_upcast)
    text = []
    for part in TEXT_ENCODERS[: len(kind.text)]:
        with sensible(folder / part / "config.json") as path:
            text.append(read_text(path))
    width = sum(config.hidden_size for config in text)
    if unet.cross_attention_dim != width:
        raise ValueError(
            f"{folder}: the U-Net attends to {unet.cross_attention_dim} channels, the text "
            f"encoder gives {width}; they do not belong together"
        )
    if unet.added_dim is not None:
        added = (text[-1].projection_dim or 0) + 6 * (unet.added_time_dim or 0)
        if unet.added_dim != added:
            raise ValueError(
                f"{folder}: the U-Net is told {unet.added_dim} numbers besides the context, the "
                f"pooled text and six sizes are {added}; they do not belong together"
            )
    if unet.out_channels != vae.latent_channels:
        raise ValueError(
            f"{folder}: the U-Net's latents have {unet.out_channels} channels, the autoencoder's "
            f"{vae.latent_channels}; they do not belong together"
        )
    name = index.text("_name_or_path", "")
    if name not in SPECS:
        name = repository(folder) or name or folder.resolve().name
    alike = [SPECS[name]] if name in SPECS else [s for s in SPECS.values() if s.unet == unet]
    spec = replace(
        alike[0] if alike else kind,
        name=name,
        unet=unet,
        vae=vae,
        text=tuple(text),
        text_state=kind.text_state,
        zero_negative=index.flag("force_zeros_for_empty_prompt", kind.zero_negative),
        size=unet.sample_size * 2 ** (len(vae.block_out_channels) - 1),
    )
    with sensible(folder / "scheduler" / "scheduler_config.json") as path:
        return read_scheduler(path, spec, scheduler_class(index))


def scheduler_class(index: Config) -> str | None:
    """The scheduler that model_index.json names, as ["diffusers", "DDIMScheduler"]; None where it
    names none."""
    named = index.get("scheduler") or [None]
    if not isinstance(named, list) or not isinstance(named[-1], str | None):
        raise index.wrong("scheduler", "a list that ends with the name of a class")
    return named[-1]


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
    """Write every part in the published layout; dtype and max_bytes as in weights.save.

    Each file is replaced in one piece, and model_index.json, without which a folder is not read,
    comes last. Other files in the folder (a model card) stay.

    Raises:
        ValueError: before anything is written, for a sampler that no published file can describe.
    """
    scheduler = scheduler_json(spec)
    parts: list[tuple[str, nn.Module, str, Json]] = [
        ("unet", unet, "diffusion_pytorch_model", unet_json(unet.config)),
        ("vae", vae, "diffusion_pytorch_model", vae_json(vae.config, spec.size)),
    ]
    classes = {}
    for n, (encoder, tokenizer) in enumerate(zip(text.encoders, text.tokenizers, strict=True)):
        assert isinstance(encoder, CLIPTextEncoder)
        config = text_json(encoder.config, tokenizer.bos_token_id)
        parts.append((TEXT_ENCODERS[n], encoder, "model", config))
        write_tokenizer(folder / TOKENIZERS[n], tokenizer)
        classes[TEXT_ENCODERS[n]] = ["transformers", *config["architectures"]]
        classes[TOKENIZERS[n]] = ["transformers", "CLIPTokenizer"]
    for name, module, stem, config in parts:
        write_json(folder / name / "config.json", config)
        weights.save(module, folder / name / f"{stem}.safetensors", dtype, max_bytes)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(
        folder / "model_index.json",
        {
            **own_entries(spec),
            **classes,
            "_diffusers_version": "0.6.0",
            "_name_or_path": spec.name,
            "feature_extractor": [None, None],
            "scheduler": ["diffusers", scheduler["_class_name"]],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


def own_entries(spec: ModelSpec) -> Json:
    """What model_index.json says in only one kind of folder."""
    if len(spec.text) == 2:
        return {
            "_class_name": "StableDiffusionXLPipeline",
            "force_zeros_for_empty_prompt": spec.zero_negative,
        }
    inpaints = spec.unet.in_channels > spec.unet.out_channels
    return {
        "_class_name": f"StableDiffusion{'Inpaint' if inpaints else ''}Pipeline",
        "requires_safety_checker": False,
        "safety_checker": [None, None],
    }


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
