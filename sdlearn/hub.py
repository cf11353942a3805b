"""Where a model's folder is: here, or on the Hugging Face hub."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
SMALL = [
    "model_index.json",
    "tokenizer/*",
    "tokenizer_2/*",
    "scheduler/*.json",
    *(f"{p}/config.json" for p in PARTS),
]
# The same weights again, without averaging or for other programs; gigabytes that nobody reads.
SPARE = ["*non_ema*", "*.msgpack", "*.onnx", "*openvino*"]
# Ways to publish weights, the best first.
KINDS = ("safetensors", "fp16.safetensors", "bin")


def local_folder(source: str | Path) -> Path:
    """The folder of a model: `source` itself, or a copy of the hub's "organisation/name".

    Raises FileNotFoundError where there is neither.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)) or path.parent.is_dir():
        raise FileNotFoundError(
            f"{source} does not exist; give a model's folder, or its id on the Hugging Face hub, "
            "such as organisation/name"
        )
    return download(str(source))


def download(repo: str) -> Path:
    """A local copy of the hub's folder, made once, of the best kind of files that it has."""
    try:
        for kind in KINDS:
            folder = snapshot(repo, kind)
            parts = [path.parent for path in folder.glob("*/config.json")]
            if all(list(part.glob(f"*.{kind}")) for part in parts if part.name in PARTS):
                break
    except Exception as error:  # of the hub, of the network library below it, of the system
        reason = str(error).strip().split("\n", 1)[0]
        raise FileNotFoundError(
            f"{repo} is no folder here, and it could not be fetched from the Hugging Face hub: "
            f"{reason}"
        ) from error
    return folder


def snapshot(repo: str, kind: str) -> Path:
    """What is small, and the weights of one kind, whole or in shards."""
    wanted = [f"{part}/{name}" for part in PARTS for name in (f"*.{kind}", "*.index*.json")]
    spare = SPARE if "fp16" in kind else [*SPARE, "*.fp16.*"]
    return Path(snapshot_download(repo, allow_patterns=SMALL + wanted, ignore_patterns=spare))
