"""Files of tensors, opened lazily: names, shapes and types first, the values when they are needed.

A safetensors file is a number of eight bytes, a header of that length (JSON: the type, shape and
offsets of every tensor) and then the values of all tensors. A torch pickle is an archive with one
entry that describes the tensors and one entry of values for each storage. Names and shapes can
therefore be checked before any value is read. Each tensor is read on its own, directly into the
memory that it keeps, and what training left in a checkpoint is never read.

Files are not memory-mapped. A mapped page counts in addition to the copy made of it, which doubles
the memory that loading needs, and a network that used the mapping itself would change with the
file.

Pickles are opened with weights_only=True, which rebuilds tensors, numbers and strings and runs no
code from the file.
"""

import json
import math
import re
import zipfile
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdlearn.utils.atomic_files import read_json

# The names of weight files in a published folder, in order of preference.
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
SUFFIXES = (
    ".safetensors",
    ".safetensors.index.json",
    ".fp16.safetensors",
    ".safetensors.index.fp16.json",
    ".bin",
    ".bin.index.json",
    ".fp16.bin",
)
PICKLES = (".bin", ".ckpt", ".pth", ".pt")
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class LazyTensor(NamedTuple):
    """A tensor that is still in its file.

    Attributes:
        name: In the file.
        shape: The shape that `read` returns.
        dtype: The type in the file.
        read: Returns the tensor on the CPU, contiguous and in memory of its own.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


def find_weights(path: Path) -> Path:
    """The weight file at a path: the file itself, or the preferred one of a folder.

    Raises:
        FileNotFoundError: If there is none.
    """
    if path.is_dir():
        name = pick_weights([file.name for file in path.iterdir() if file.is_file()])
        if name is None:
            raise FileNotFoundError(
                f"{path} holds no weights; expected {STEMS[0]}.safetensors or {STEMS[1]}"
                ".safetensors, whole or in shards with an index, or a .bin file"
            )
        return path / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a file or folder of weights")
    return path


def pick_weights(names: Collection[str]) -> str | None:
    """The preferred weight file among a folder's file names, or None if there is none."""
    candidates = (stem + suffix for suffix in SUFFIXES for stem in STEMS)
    return next((name for name in candidates if name in names), None)


def shards_of(name: str, names: Collection[str]) -> list[str]:
    """The files that loading a weight file reads: itself and, if it is an index, its shards.

    Args:
        name: The weight file.
        names: All file names of the folder. Shards have names such as
            model-00001-of-00002.safetensors.
    """
    stem, *suffixes = name.removesuffix(".json").split(".")
    half = r"\.fp16" if "fp16" in suffixes else ""
    kind = "bin" if "bin" in suffixes else "safetensors"
    shard = rf"{stem}({half}-\d+-of-\d+|-\d+-of-\d+{half})\.{kind}"
    shards = [each for each in names if re.fullmatch(shard, each)] if "index" in suffixes else []
    return [name, *shards]


def open_weights(path: Path) -> dict[str, LazyTensor]:
    """Every tensor of a weight file, or of all shards of an index, by name.

    Raises:
        FileNotFoundError: If a shard is missing.
        ValueError: If the file is damaged or is not a weight file.
    """
    if path.suffix == ".json":
        return open_shards(path)
    if path.suffix == ".safetensors":
        return open_safetensors(path)
    if path.suffix in PICKLES:
        return open_pickle(path)
    raise ValueError(
        f"{path} is not a weight file; the accepted suffixes are .safetensors, "
        f"{', '.join(PICKLES)} and that of an index, .json"
    )


def open_shards(index: Path) -> dict[str, LazyTensor]:
    """Every tensor of the shards of an index file, by name."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{index} has no weight_map; expected the index of a sharded file")
    shards = list(weight_map.values())
    if not shards or not all(isinstance(s, str) and not s.endswith(".json") for s in shards):
        raise ValueError(
            f"{index}: weight_map is empty or malformed; expected a file name for each tensor"
        )
    tensors: dict[str, LazyTensor] = {}
    for shard in sorted(set(shards)):
        path = index.parent / shard
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; {index.name} names it as a shard")
        tensors |= open_weights(path)
    return tensors


# ------------------------------------------------------------------------------------- safetensors


def open_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Every tensor of a safetensors file by name, from its header."""
    try:
        with safe_open(path, "np"):  # checks every entry of the header against the file's length
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in TYPES:
            known = ", ".join(TYPES)
            raise ValueError(f"{path}: {name} is of the type {entry['dtype']}; known are {known}")
        shape, dtype = tuple(entry["shape"]), TYPES[entry["dtype"]]
        start = 8 + length + entry["data_offsets"][0]
        tensors[name] = LazyTensor(name, shape, dtype, partial(read_at, path, start, shape, dtype))
    return tensors


def read_at(path: Path, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Read the tensor whose values begin at byte `start`."""
    values = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8)
    with path.open("rb") as file:
        file.seek(start)
        if file.readinto(values.numpy().data) != len(values):
            raise ValueError(f"{path} became shorter while it was read")
    return values.view(dtype).reshape(shape)


# ------------------------------------------------------------------------------------------ pickles


def open_pickle(path: Path) -> dict[str, LazyTensor]:
    """Every tensor of a pickle by name.

    Older files, from before torch 1.6, are no archives. Their tensors are read here, and their
    memory is free again when the result is.
    """
    tensors = unpickled(path, "meta") if is_archive(path) else {}
    starts: list[Any] = [
        getattr(t.untyped_storage(), "_checkpoint_offset", None) for t in tensors.values()
    ]
    if not tensors or None in starts:
        return {name: in_memory(name, tensor) for name, tensor in unpickled(path, "cpu").items()}
    items = zip(tensors.items(), starts, strict=True)
    return {name: from_archive(path, name, tensor, start) for (name, tensor), start in items}


def is_archive(path: Path) -> bool:
    """Whether this pickle is an archive without compression, as torch writes it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def unpickled(path: Path, device: str) -> dict[str, Tensor]:
    """The tensors of a pickle by name; on the device "meta" without their values.

    Original checkpoints have their tensors in an entry state_dict; the other entries are ignored.

    Raises:
        ValueError: If the file is damaged, or contains anything else.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # damaged bytes can raise any exception
        foreign = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
        reason = str(error).split("\n", 1)[0]
        if foreign:
            reason = (
                f"it holds a {foreign[1]}, and rebuilding such objects can run any code; use "
                "a .safetensors file of the same model"
            )
        raise ValueError(f"{path} is not a pickle of tensors alone: {reason}") from error
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    named = isinstance(content, dict) and all(isinstance(key, str) for key in content)
    if not named or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} is a pickle of something else; expected tensors by name")
    return {name: tensor.detach() for name, tensor in content.items()}


def from_archive(path: Path, name: str, tensor: Tensor, start: int) -> LazyTensor:
    """A tensor of an archive, which may be a view of its storage.

    Args:
        path: The archive.
        name: Of the tensor.
        tensor: The tensor on the meta device.
        start: The byte at which its storage begins in the archive.
    """
    shape, stride, dtype = tuple(tensor.shape), tensor.stride(), tensor.dtype
    first = start + int(tensor.storage_offset()) * dtype.itemsize
    ends = ((n - 1) * step for n, step in zip(shape, stride, strict=True))
    span = 1 + sum(ends) if tensor.numel() else 0  # elements from its first to its last

    def read() -> Tensor:
        values = read_at(path, first, (span,), dtype)
        return values.as_strided(shape, stride).contiguous()

    return LazyTensor(name, shape, dtype, read)


def in_memory(name: str, tensor: Tensor) -> LazyTensor:
    """A tensor in memory as a LazyTensor; a view of a larger storage is copied."""

    def read() -> Tensor:
        is_view = tensor.untyped_storage().nbytes() > tensor.nbytes
        return tensor.contiguous().clone() if is_view else tensor.contiguous()

    return LazyTensor(name, tuple(tensor.shape), tensor.dtype, read)
