"""Where a model's folder is: here, or on the Hugging Face hub.

A repository of the hub often holds the same weights several times: as safetensors and as pickles,
in single and half precision, in parts and whole. Which file of a part would be read is known from
the names alone, so the names are asked for first, and then only those files, once.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, errors, snapshot_download

from sdlearn.stored import belonging, preferred

# What cannot be fetched raises the system's errors, those of the hub, or those of the network
# library below it: which one that is depends on the version, and its base class is in errors, too.
FETCH_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    *(e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)),
)


class Layout(NamedTuple):
    """What is read of a published folder.

    head: the file without which it is no such folder. parts: where weights are, "" for the folder
    itself. small: the folders of which everything is read.
    """

    head: str
    parts: tuple[str, ...]
    small: tuple[str, ...] = ()


SYSTEM = Layout(
    "model_index.json",
    ("unet", "vae", "text_encoder", "text_encoder_2"),
    ("scheduler", "tokenizer", "tokenizer_2"),
)
CONTROLNET = Layout("config.json", ("",))


def local_folder(source: str | Path, layout: Layout = SYSTEM) -> Path:
    """The folder of a model: `source` itself, or a copy of the hub's "organisation/name".

    Raises FileNotFoundError, in one sentence, where there is neither.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)) or path.parent.is_dir():
        raise FileNotFoundError(
            f"{source} does not exist; give a model's folder, or its id on the Hugging Face hub, "
            "such as organisation/name"
        )
    return download(str(source), layout)


def download(repo: str, layout: Layout) -> Path:
    """A local copy of the hub's folder, made once, with one kind of weights for each part.

    Where the hub cannot be asked, the copy that an earlier call has left is taken.
    """
    try:
        names = HfApi().list_repo_files(repo)
    except FETCH_ERRORS as error:
        folder = cached(repo, layout)
        if folder is None:
            raise FileNotFoundError(unfetched(repo, error)) from error
        return folder
    wanted = chosen(names, layout, f"{repo} on the Hugging Face hub")
    try:
        return Path(snapshot_download(repo, allow_patterns=wanted))
    except FETCH_ERRORS as error:
        raise FileNotFoundError(unfetched(repo, error)) from error


def cached(repo: str, layout: Layout) -> Path | None:
    """The copy that is already here; None where there is none, or one that lacks weights."""
    try:
        head = snapshot_download(repo, allow_patterns=[layout.head], local_files_only=True)
        files = [path for path in Path(head).rglob("*") if path.is_file()]
        chosen([path.relative_to(head).as_posix() for path in files], layout, head)
    except FETCH_ERRORS:  # also where it was never fetched
        return None
    return Path(head)


def unfetched(repo: str, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).split("\n", 1)[0]
    return (
        f"{repo} is no folder here, and it could not be fetched from the Hugging Face hub: {reason}"
    )


def chosen(names: Collection[str], layout: Layout, where: str) -> list[str]:
    """Of all the files of a repository, those that are read.

    Not every system has every part, but a part that has a config.json needs weights; raises
    FileNotFoundError, in one sentence, where it has none, or where this is another kind of folder.
    """
    if layout.head not in names:
        raise FileNotFoundError(
            f"{where} has no {layout.head}, so it is no such model's folder; if it holds a single "
            "file, download that and give its path"
        )
    wanted = {layout.head}
    wanted |= {name for name in names if name.startswith(tuple(f"{f}/" for f in layout.small))}
    for part in layout.parts:
        inside = f"{part}/" if part else ""
        here = {name.removeprefix(inside) for name in names if name.startswith(inside)}
        if "config.json" not in here:
            continue
        weights = preferred(here)
        if weights is None:
            raise FileNotFoundError(
                f"{where} has no weights {f'in its {part} ' if part else ''}that can be read; "
                "known are safetensors and .bin files under their published names"
            )
        wanted |= {inside + name for name in ("config.json", *belonging(weights, here))}
    return sorted(wanted)


def repository(folder: Path) -> str | None:
    """The id of which a folder is the hub's copy, None for any other: the hub keeps its copies as
    models--organisation--name/snapshots/ and a number."""
    *_, owner, snapshots, _ = ("", "", *folder.absolute().parts)
    found = re.fullmatch(r"models--(.+?)--(.+)", owner)
    return f"{found[1]}/{found[2]}" if found and snapshots == "snapshots" else None
