"""Where a model's folder is: here, or on the Hugging Face hub."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download

PARTS = ("unet", "vae", "text_encoder")
SMALL = [
    "model_index.json",
    "tokenizer/*",
    "scheduler/*.json",
    *(f"{p}/config.json" for p in PARTS),
]
# The same weights again, in half precision or without averaging; 5 GB that nobody reads.
SPARE = ["*.fp16.*", "*non_ema*", "*.msgpack", "*.onnx"]


def local_folder(source: str | Path) -> Path:
    """The folder of a model: `source` itself, or a copy of the hub's "organisation/name".

    Raises FileNotFoundError where there is neither, ValueError for a file instead of a folder.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if path.is_file():
        raise ValueError(
            f"{path} is a file; only folders in the published layout can be read, with "
            "model_index.json, unet/, vae/, text_encoder/, tokenizer/ and scheduler/"
        )
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)) or path.parent.is_dir():
        raise FileNotFoundError(
            f"{source} does not exist; give a model's folder, or its id on the Hugging Face hub, "
            "such as organisation/name"
        )
    return download(str(source))


def download(repo: str) -> Path:
    """A local copy of the hub's folder, made once: safetensors, or .bin where it has only those."""
    try:
        folder = snapshot(repo, "safetensors")
        if not all(list((folder / part).glob("*.safetensors")) for part in PARTS):
            folder = snapshot(repo, "bin")
    except Exception as error:  # of the hub, of the network library below it, of the system
        reason = str(error).strip().split("\n", 1)[0]
        raise FileNotFoundError(
            f"{repo} is no folder here, and it could not be fetched from the Hugging Face hub: "
            f"{reason}"
        ) from error
    return folder


def snapshot(repo: str, kind: str) -> Path:
    weights = [f"{part}/*.{kind}" for part in PARTS] + [
        f"{part}/*.{kind}.index.json" for part in PARTS
    ]
    return Path(snapshot_download(repo, allow_patterns=SMALL + weights, ignore_patterns=SPARE))
