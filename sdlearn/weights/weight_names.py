"""Which file of a published folder holds the weights to load.

A folder often has the same weights several times: as safetensors and as pickles, whole and in
shards, and in variants, whose name is a part of the file's name:

    diffusion_pytorch_model.safetensors                       the plain weights
    diffusion_pytorch_model.fp16.safetensors                  the variant fp16
    diffusion_pytorch_model.safetensors.index.json            an index, and a shard
    diffusion_pytorch_model-00001-of-00002.safetensors
    diffusion_pytorch_model.safetensors.index.fp16.json       an index of a variant, and a shard
    diffusion_pytorch_model.fp16-00001-of-00002.safetensors

Older index files are named NAME.safetensors.fp16.index.json or NAME.fp16.safetensors.index.json,
older shards NAME-00001-of-00002.fp16.safetensors. Names are read without regard to case.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from sdlearn.utils.file_kinds import OTHER_FORMATS, UNFINISHED
from sdlearn.utils.validation import shown

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
KINDS = ("safetensors", "sft", "bin")
# Variants by how near their values are to the plain ones: float32; averaged weights, which are what
# the plain files of published systems hold; 11 significant bits, 8 bits.
VARIANTS = ("", "fp32", "ema", "ema_only", "fp16", "bf16")

_STEM, _KIND, _VARIANT = (
    f"(?P<stem>{'|'.join(STEMS)})",
    f"(?P<kind>{'|'.join(KINDS)})",
    r"[\w.+-]+?",
)
_PATTERNS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_STEM}(\.(?P<variant>{_VARIANT}))?\.{_KIND}",
        rf"{_STEM}\.{_KIND}(?P<index>\.index)(\.(?P<variant>{_VARIANT}))?\.json",
        rf"{_STEM}\.{_KIND}\.(?P<variant>{_VARIANT})(?P<index>\.index)\.json",
        rf"{_STEM}\.(?P<variant>{_VARIANT})\.{_KIND}(?P<index>\.index)\.json",
    )
]
_SHARD = re.compile(r"-\d+-of-\d+")


class WeightName(NamedTuple):
    """The name of a weight file, taken apart.

    Attributes:
        name: The file's name.
        stem: One of STEMS.
        variant: Such as "fp16"; "" for the plain weights.
        kind: One of KINDS.
        is_index: Whether it is the index of a file in shards.
    """

    name: str
    stem: str
    variant: str
    kind: str
    is_index: bool


def parse(name: str) -> WeightName | None:
    """A file's name taken apart; None if it is no weight file, or a shard."""
    for pattern in _PATTERNS:
        match = pattern.fullmatch(name)
        if match and not _SHARD.search(name):
            parts = match.groupdict()
            stem, kind = parts["stem"].lower(), parts["kind"].lower()
            return WeightName(name, stem, parts["variant"] or "", kind, "index" in parts)
    return None


def find_weights(path: Path, variant: str | None = None) -> Path:
    """The weight file at a path: the file itself, or the one of a folder that `pick_weights` picks.

    Args:
        path: A file or a folder.
        variant: As in `pick_weights`, for a folder only.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the folder does not have the variant.
    """
    if path.is_dir():
        names = [file.name for file in path.iterdir() if file.is_file()]
        (variant,) = choose_variants({"": names}, variant, str(path)).values()
        name = pick_weights(names, variant)
        if name is None:
            raise FileNotFoundError(
                f"{path} holds no weights{found_instead(names)}; expected {STEMS[0]}.safetensors "
                f"or {STEMS[1]}.safetensors, whole or in shards with an index, or a .bin file"
            )
        return path / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a file or folder of weights")
    if variant is not None:
        raise ValueError(f"{path} is a file; variant is accepted for a folder only")
    return path


def pick_weights(names: Collection[str], variant: str | None = None) -> str | None:
    """The weight file to load among a folder's file names, or None if there is none.

    Without a variant the order is: the plain weights, as diffusers takes them; then those in
    float32 (fp32), averaged ones (ema, ema_only), fp16, bf16, which has fewer bits; then other
    variants by name; and last those without averaging (non_ema), which are there for training on.
    Of one variant, safetensors come before pickles, and whole files before shards.

    Args:
        names: The folder's file names.
        variant: The only variant to take, such as "fp16", or "" for the plain weights; None for
            the order above.
    """
    found = [each for each in map(parse, names) if each]
    if variant is not None:
        found = [each for each in found if each.variant == variant]
    return min(found, key=preference).name if found else None


def preference(file: WeightName) -> tuple[bool, int, str, int, bool, int, str]:
    """What weight files are ordered by, see `pick_weights`."""
    name = file.variant.lower()
    rank = VARIANTS.index(name) if name in VARIANTS else len(VARIANTS)
    last = re.search(r"non[_-]?ema", name) is not None
    kind, stem = KINDS.index(file.kind), STEMS.index(file.stem)
    return last, rank, name, kind, file.is_index, stem, file.name


def shards_of(name: str, names: Collection[str]) -> list[str]:
    """The files that loading a weight file reads: itself and, if it is an index, its shards.

    Args:
        name: The weight file.
        names: All file names of the folder.
    """
    file = parse(name)
    if file is None or not file.is_index:
        return [name]
    variant = re.escape(f".{file.variant}") if file.variant else ""
    shard = rf"{file.stem}({variant}-\d+-of-\d+|-\d+-of-\d+{variant})\.{file.kind}"
    return [name, *(each for each in names if re.fullmatch(shard, each, re.IGNORECASE))]


def variants(names: Collection[str]) -> list[str]:
    """The variants among a folder's file names, sorted; "" for the plain weights."""
    return sorted({file.variant for file in map(parse, names) if file})


def choose_variants(
    parts: Mapping[str, Collection[str]], variant: str | None, where: str
) -> dict[str, str | None]:
    """The variant to load of each part of a system, where one was asked for.

    As in diffusers, a part that lacks it gives its plain weights, if another part has it.

    Args:
        parts: The file names of each part.
        variant: The variant, such as "fp16"; None if none was asked for.
        where: The system, for messages.

    Returns:
        For each part what `pick_weights` takes: the variant, "" for the plain weights, or None.

    Raises:
        ValueError: If no part has it, or if a part has neither it nor plain weights.
    """
    if variant is None:
        return dict.fromkeys(parts)
    if not isinstance(variant, str) or not re.fullmatch(r"[\w.+-]*", variant):
        raise ValueError(
            f"variant is {shown(variant)}; give the name of one, such as 'fp16', or None"
        )
    there = {part: variants(names) for part, names in parts.items()}
    found = any(variant in each for each in there.values())
    chosen: dict[str, str | None] = {}
    for part, each in there.items():
        if variant not in each and not (found and "" in each):
            names = ", ".join(repr(name) if name else "None (the plain weights)" for name in each)
            raise ValueError(
                f"{where} has no weights of the variant {variant!r:.100}"
                f"{f' in its {part}' if part else ''}; there are {names or 'none at all'}"
            )
        chosen[part] = variant if variant in each else ""
    return chosen


def found_instead(names: Collection[str]) -> str:
    """Part of a message: what a folder without weights has that looks like some."""
    for name in sorted(names):
        ending = Path(name).suffix.lower()
        if ending in OTHER_FORMATS:
            return f", but {name[:100]!r}, {OTHER_FORMATS[ending].split(';')[0]}"
        if ending in UNFINISHED:
            return f", but {name[:100]!r}, a download that has not come to its end"
        if _SHARD.search(name):
            return f", but {name[:100]!r}, a shard without its index"
    return ""
