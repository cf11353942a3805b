"""model_index.json of a published folder: the classes of its parts, and which system they make.

The class of the pipeline, `_class_name`, is one way to use the parts: from noise, from an image,
with a ControlNet or other guidance. The parts decide which system a folder is, so any class over
the parts of Stable Diffusion 1, 2 or XL can be read, community pipelines included.
"""

import warnings
from dataclasses import replace
from pathlib import Path

from sdlearn.unet import UNetConfig
from sdlearn.utils.validation import shown
from sdlearn.versions import SD1_5, SD1_5_INPAINT, SDXL, SPECS, ModelSpec
from sdlearn.weights.json_config import Config, Json
from sdlearn.weights.text_config import TEXT_CLASSES
from sdlearn.weights.tokenizer_files import ANY, CLASSES

TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TOKENIZERS = ("tokenizer", "tokenizer_2")
# The classes of the parts that are read.
PARTS = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    **dict.fromkeys(TEXT_ENCODERS, TEXT_CLASSES),
    **dict.fromkeys(TOKENIZERS, CLASSES + ANY),
}
# Parts that do not change an image: filters, and what encodes images for adapters.
HARMLESS = ("scheduler", "safety_checker", "feature_extractor", "image_encoder", "watermarker")
# Entries of ours, which diffusers ignores: the steps and the guidance scale of a model, if they are
# not those of its system. A model that was distilled to a few steps needs both.
STEPS, GUIDANCE = "_steps", "_guidance_scale"
# What U-Nets with other input channels than z, or z, a mask and an image, are for.
PURPOSES = {5: "depth to image", 7: "upscaling", 8: "edits by instruction or depth estimation"}


def read_index(folder: Path) -> Config:
    """Read model_index.json and check the classes of the parts.

    Warns about parts that are left out. Images are not filtered here, so a safety checker is left
    out without a warning.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is malformed, or if a required part is null or of another class.
    """
    path = folder / "model_index.json"
    if folder.is_dir() and not path.is_file():
        here = sorted(part for part in PARTS if (folder / part).is_dir())
        part = "config.json" if (folder / "config.json").is_file() else " and ".join(here)
        raise FileNotFoundError(
            f"{path} is missing; a published model folder holds it"
            f"{f', and this one has {part} only' if part else ''}"
        )
    index = Config(path)
    pipeline = index.get("_class_name")
    if not (pipeline is None or isinstance(pipeline, str | list)):
        raise index.wrong("_class_name", "the name of a class, or a list that ends with one")
    classes = {part: part_class(index, part) for part in PARTS}
    if not classes["unet"] and not (folder / "unet").is_dir():
        raise ValueError(
            f"{path}: _class_name is {shown(pipeline)}, and there is no unet; only folders "
            "of Stable Diffusion 1, 2 and XL can be read"
        )
    known = (*PARTS, *HARMLESS, "_class_name")
    others = [key for key in index if is_part(index[key]) and key not in known]
    if others:
        has_control = any("controlnet" in key for key in others)
        hint = "; ControlNet.from_pretrained reads a ControlNet's folder" if has_control else ""
        warnings.warn(
            f"{path}: the parts {shown(others)} are not read{hint}",
            stacklevel=7,  # of StableDiffusion.from_pretrained
        )
    return index


def is_part(entry: object) -> bool:
    """Whether an entry names the library and the class of a part that is there."""
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(x, str) for x in entry)


def part_class(index: Config, part: str) -> str | None:
    """The class of a part that is needed; None if the file has no entry or null for it.

    Raises:
        ValueError: If it is of another class than those in PARTS.
    """
    entry = index.get(part)
    if entry is None or entry == [None, None]:
        return None
    if not is_part(entry):
        raise index.wrong(part, "a list of a library and the name of a class")
    library, name = entry
    name = name.removeprefix("Flax")
    if library not in ("diffusers", "transformers") or name not in PARTS[part]:
        pipeline = index.get("_class_name")
        raise ValueError(
            f"{index.path}: {part} of this {shown(pipeline)} is a {shown(entry)}; "
            f"only {' and '.join(PARTS[part])} can be read"
        )
    return name


def detect_kind(index: Config, unet: UNetConfig) -> ModelSpec:
    """The system in SPECS with the settings that a folder's files lack.

    Args:
        index: See `read_index`.
        unet: The U-Net of the folder.

    Raises:
        ValueError: If the U-Net and the parts are not those of Stable Diffusion 1, 2 or XL.
    """
    is_xl = unet.added_dim is not None
    if index.flag("requires_aesthetics_score") or (
        is_xl and "text_encoder" in index and part_class(index, "text_encoder") is None
    ):
        raise ValueError(
            f"{index.path} is SDXL's refiner, which needs an aesthetic score and has one text "
            "encoder; only its base model can be read"
        )
    for part in TEXT_ENCODERS[: 1 + is_xl] + TOKENIZERS[: 1 + is_xl]:
        if part in index and part_class(index, part) is None:
            raise ValueError(f"{index.path}: {part} is null; {index.path.parent} lacks that part")
    if not is_xl and part_class(index, "text_encoder_2"):
        raise ValueError(
            f"{index.path} lists two text encoders; its U-Net has no addition_embed_type and is "
            "not that of SDXL"
        )
    c, extra = unet.out_channels, unet.in_channels - unet.out_channels
    if extra not in (0, c + 1):
        purpose = PURPOSES.get(unet.in_channels)
        raise ValueError(
            f"{index.path.parent}: in_channels of the U-Net is {unet.in_channels}"
            f"{f', as for {purpose}' if purpose else ''}; only {c}, and {2 * c + 1} for "
            "inpainting, are supported"
        )
    return SDXL if is_xl else SD1_5_INPAINT if extra else SD1_5


def like_its_system(name: str, unet: UNetConfig, kind: ModelSpec) -> ModelSpec:
    """The system in SPECS of this name, or with the same U-Net, or of the same kind.

    Args:
        name: Of the model.
        unet: Its U-Net.
        kind: See `detect_kind`.
    """
    alike = [SPECS[name]] if name in SPECS else [s for s in SPECS.values() if s.unet == unet]
    return alike[0] if alike else kind


def with_own_sampling(index: Config, spec: ModelSpec) -> ModelSpec:
    """The specification with the steps and the guidance scale that the file names, if any."""
    return replace(
        spec,
        steps=index.integer(STEPS, spec.steps, most=spec.schedule.num_steps),
        guidance_scale=index.number(GUIDANCE, spec.guidance_scale),
    )


def own_sampling(spec: ModelSpec) -> Json:
    """The entries that `with_own_sampling` reads: none if they are those of the system."""
    system = like_its_system(spec.name, spec.unet, spec)
    both = {STEPS: spec.steps, GUIDANCE: spec.guidance_scale}
    return both if (system.steps, system.guidance_scale) != tuple(both.values()) else {}


def reading_class(index: Config, spec: ModelSpec) -> str:
    """The class of pipeline that would read a folder: the one that is named, if it is published.

    A class of another name, or none, is read as the text-to-image class of the system.
    """
    name = index.get("_class_name")
    name = name.removeprefix("Flax") if isinstance(name, str) else ""
    return name if name.startswith("StableDiffusion") else pipeline_class(spec)


def pipeline_class(spec: ModelSpec) -> str:
    """The `_class_name` of a folder that is written."""
    xl = "XL" if len(spec.text) == 2 else ""
    inpainting = "Inpaint" if spec.unet.in_channels > spec.unet.out_channels else ""
    return f"StableDiffusion{xl}{inpainting}Pipeline"
