"""Model folders: local ones, and those on the Hugging Face hub, which are downloaded once.

A repository on the hub often has the same weights several times: as safetensors and as pickles, in
single and half precision, whole and in shards. The names of the files tell which of them would be
loaded, so the names are listed first, and only the files that are needed are downloaded.
"""

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, errors, snapshot_download

from sdlearn.utils.atomic_files import user_path
from sdlearn.utils.validation import one_line
from sdlearn.weights.weight_names import (
    choose_variants,
    found_instead,
    pick_weights,
    shards_of,
)

# A failed download raises errors of the operating system, of the hub, or of the network library
# that the hub uses. That library depends on the version; `errors` has its base class, too.
FETCH_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    *(e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)),
)
# Raised where the cache lacks a folder, or the variant of its weights.
NOT_CACHED: tuple[type[Exception], ...] = (ValueError, *FETCH_ERRORS)
TIMEOUT = 10.0  # seconds in which the hub must answer


class Layout(NamedTuple):
    """The files that are needed from a published folder.

    Attributes:
        required: The file that every such folder has.
        parts: The subfolders with a config.json and weights; "" is the folder itself.
        whole: The subfolders of which every file is needed.
    """

    required: str
    parts: tuple[str, ...]
    whole: tuple[str, ...] = ()


SYSTEM = Layout(
    "model_index.json",
    ("unet", "vae", "text_encoder", "text_encoder_2"),
    ("scheduler", "tokenizer", "tokenizer_2"),
)
CONTROLNET = Layout("config.json", ("",))
ADAPTER = Layout("pytorch_lora_weights.safetensors", ())


def local_folder(source: str | Path, layout: Layout = SYSTEM, variant: str | None = None) -> Path:
    """The local folder of a model, which is downloaded if necessary.

    Args:
        source: A folder, or the id of one on the Hugging Face hub, "organisation/name".
        layout: The files that are needed.
        variant: The variant to download, see `pick_weights`.

    Raises:
        FileNotFoundError: If there is no such folder, or it cannot be downloaded.
        ValueError: If the hub's folder lacks the variant.
    """
    path = user_path(source)
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)) or os.path.lexists(path.parent):
        what = "is neither a folder nor a file" if path.exists() else "does not exist"
        raise FileNotFoundError(
            f"{source} {what}; give a model's folder, or its id on the Hugging Face hub, "
            "such as organisation/name"
        )
    return download(str(source), layout, variant)


def download(repo: str, layout: Layout, variant: str | None = None) -> Path:
    """A folder of the hub in its local cache, with one kind of weights for each part.

    Without a network connection, a complete folder in the cache is used.
    """
    try:
        # One request. Listing the files by pages would repeat it for half a minute if offline.
        listed = HfApi().model_info(repo, timeout=TIMEOUT).siblings or []
    except FETCH_ERRORS as error:
        folder = cached_folder(repo, layout, variant)
        if folder is None:
            raise FileNotFoundError(fetch_error(repo, error)) from error
        return folder
    names = [file.rfilename for file in listed]
    needed = choose_files(names, layout, f"{repo} on the Hugging Face hub", variant)
    try:
        return Path(snapshot_download(repo, allow_patterns=needed))
    except FETCH_ERRORS as error:
        raise FileNotFoundError(fetch_error(repo, error)) from error


def cached_folder(repo: str, layout: Layout, variant: str | None = None) -> Path | None:
    """The folder in the hub's local cache, or None if it is absent or lacks weights."""
    try:
        folder = snapshot_download(repo, allow_patterns=[layout.required], local_files_only=True)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        names = [path.relative_to(folder).as_posix() for path in files]
        choose_files(names, layout, folder, variant)
    except NOT_CACHED:
        return None
    return Path(folder)


def fetch_error(repo: str, error: Exception) -> str:
    """The error message for a failed download, with the first line of its reason."""
    first = (str(error).strip() or type(error).__name__).split("\n", 1)[0]
    reason = one_line(re.sub(r"\[Errno -?\d+\] ", "", first), 200)
    return (
        f"{repo} is not a local folder, and it could not be downloaded from the Hugging Face hub: "
        f"{reason}"
    )


def choose_files(
    names: Collection[str], layout: Layout, where: str, variant: str | None = None
) -> list[str]:
    """The files of a repository that are needed.

    Args:
        names: The paths of all its files.
        layout: The files to look for. A part without config.json is not there; a part with one
            needs weights.
        where: The repository or folder, for error messages.
        variant: The variant of the weights, see `pick_weights`.

    Raises:
        FileNotFoundError: If the required file, or the weights of a part, are missing.
        ValueError: If no part has the variant.
    """
    if layout.required not in names:
        raise FileNotFoundError(
            f"{where} has no {layout.required}, so it is not a folder in the published layout; if "
            "it has a single file, download that file and give its path"
        )
    needed = {layout.required}
    needed |= {name for name in names if name.startswith(tuple(f"{f}/" for f in layout.whole))}
    parts = {}
    for part in layout.parts:
        prefix = f"{part}/" if part else ""
        files = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        if "config.json" in files:
            parts[part] = files
    chosen = choose_variants(parts, variant, where)
    for part, files in parts.items():
        weights = pick_weights(files, chosen[part])
        if weights is None:
            raise FileNotFoundError(
                f"{where} has no weights {f'in its {part} ' if part else ''}that can be read"
                f"{found_instead(files)}; accepted: safetensors and .bin files under their "
                "published names"
            )
        prefix = f"{part}/" if part else ""
        needed |= {prefix + name for name in ("config.json", *shards_of(weights, files))}
    return sorted(needed)


def repo_id(folder: Path) -> str | None:
    """The hub's id of a folder in its local cache, or None for any other folder.

    The cache has the folders models--organisation--name/snapshots/COMMIT.
    """
    *_, repo, snapshots, _ = ("", "", *folder.absolute().parts)
    match = re.fullmatch(r"models--(.+?)--(.+)", repo)
    return f"{match[1]}/{match[2]}" if match and snapshots == "snapshots" else None
