"""Files of tensors, opened but not yet read: first what is in them, memory last.

A safetensors file is a number of eight bytes, a header of that length (JSON: the type, shape and
place of every tensor) and then the numbers of all tensors, one after the other. A pickle of torch's
is an archive whose first entry describes the tensors and whose others are their numbers. So names
and shapes can be checked before anything is read, and each tensor is read on its own, straight into
memory that it keeps; what a training left beside the weights is never read. Nothing is mapped: a
mapped page counts beside the copy made of it, which doubles what loading needs, and a module that
used the map itself would change with the file.
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

from sdlearn.files import read_json

# Where a published folder keeps a component's weights, in the order of preference.
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


class Stored(NamedTuple):
    """A tensor that is still in its file.

    name, shape, dtype: as the file says. read: gives the tensor, on the CPU.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


def find(path: Path) -> Path:
    """The weight file that `path` is, or that the folder `path` holds."""
    if path.is_dir():
        name = preferred([place.name for place in path.iterdir() if place.is_file()])
        if name is None:
            raise FileNotFoundError(
                f"{path} holds no weights; expected {STEMS[0]}.safetensors or {STEMS[1]}"
                ".safetensors, whole or in shards with an index, or a .bin file"
            )
        return path / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a file or folder of weights")
    return path


def preferred(names: Collection[str]) -> str | None:
    """Of the files of a folder, the one to read its weights from; None where there is none."""
    places = (stem + suffix for suffix in SUFFIXES for stem in STEMS)
    return next((place for place in places if place in names), None)


def belonging(name: str, names: Collection[str]) -> list[str]:
    """Of the files of a folder, those that are read with the weights `name`: the file itself and,
    where it is an index, its shards, such as model-00001-of-00002.safetensors."""
    stem, *endings = name.removesuffix(".json").split(".")
    half = r"\.fp16" if "fp16" in endings else ""
    kind = "bin" if "bin" in endings else "safetensors"
    shard = rf"{stem}({half}-\d+-of-\d+|-\d+-of-\d+{half})\.{kind}"
    shards = [each for each in names if re.fullmatch(shard, each)] if "index" in endings else []
    return [name, *shards]


def open_weights(path: Path) -> dict[str, Stored]:
    """Every tensor of a weight file, or of all the shards that an index names.

    Raises FileNotFoundError or ValueError, in one sentence, for what is damaged or something else.
    """
    if path.suffix == ".json":
        return open_shards(path)
    if path.suffix == ".safetensors":
        return open_safetensors(path)
    if path.suffix in PICKLES:
        return open_pickle(path)
    raise ValueError(
        f"{path} is no weight file: they end in .safetensors, or in {', '.join(PICKLES)}"
    )


def open_shards(index: Path) -> dict[str, Stored]:
    """Every tensor of the shards of an index file."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{index} has no weight_map; expected the index of a sharded file")
    shards = list(weight_map.values())
    if not shards or not all(isinstance(s, str) and not s.endswith(".json") for s in shards):
        raise ValueError(f"{index}: weight_map does not give each tensor the file that holds it")
    stored: dict[str, Stored] = {}
    for shard in sorted(set(shards)):
        place = index.parent / shard
        if not place.is_file():
            raise FileNotFoundError(f"{place} is missing; {index.name} names it as a shard")
        stored |= open_weights(place)
    return stored


# ------------------------------------------------------------------------------------- safetensors


def open_safetensors(path: Path) -> dict[str, Stored]:
    try:
        with safe_open(path, "np"):  # checks every entry of the header against the file's length
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    stored = {}
    for name, entry in header.items():
        if entry["dtype"] not in TYPES:
            known = ", ".join(TYPES)
            raise ValueError(f"{path}: {name} is of the type {entry['dtype']}; known are {known}")
        shape, dtype = tuple(entry["shape"]), TYPES[entry["dtype"]]
        start = 8 + length + entry["data_offsets"][0]
        stored[name] = Stored(name, shape, dtype, partial(read_at, path, start, shape, dtype))
    return stored


def read_at(path: Path, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor whose numbers begin at byte `start`."""
    numbers = torch.empty(math.prod(shape) * dtype.itemsize, dtype=torch.uint8)
    with path.open("rb") as file:
        file.seek(start)
        if file.readinto(numbers.numpy().data) != len(numbers):
            raise ValueError(f"{path} became shorter while it was read")
    return numbers.view(dtype).reshape(shape)


# ------------------------------------------------------------------------------------------ pickles


def open_pickle(path: Path) -> dict[str, Stored]:
    """Every tensor of a pickle.

    Only of an archive are the places of the numbers known. Older files, from before torch 1.6, are
    in memory from here on, and leave it as the result is used up.
    """
    tensors = unpickled(path, "meta") if is_archive(path) else {}
    starts: list[Any] = [
        getattr(t.untyped_storage(), "_checkpoint_offset", None) for t in tensors.values()
    ]
    if not tensors or None in starts:
        return {name: held(name, tensor) for name, tensor in unpickled(path, "cpu").items()}
    places = zip(tensors.items(), starts, strict=True)
    return {name: placed(path, name, tensor, start) for (name, tensor), start in places}


def is_archive(path: Path) -> bool:
    """Whether torch wrote this pickle as an archive, in which nothing is compressed."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def unpickled(path: Path, device: str) -> dict[str, Tensor]:
    """The tensors of a pickle by name; on "meta" without their numbers.

    weights_only=True rebuilds tensors, numbers and texts, and runs no code from the file. Original
    checkpoints keep their tensors in an entry state_dict; what stands beside it is left out.
    """
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # the unpickler raises whatever the bytes make it stumble over
        foreign = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
        reason = str(error).split("\n", 1)[0]
        if foreign:
            reason = (
                f"it holds a {foreign[1]}, and rebuilding such objects can run any code; take "
                "the same model as a .safetensors file"
            )
        raise ValueError(f"{path} is not a pickle of tensors alone: {reason}") from error
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    named = isinstance(content, dict) and all(isinstance(key, str) for key in content)
    if not named or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} is a pickle of something else; expected tensors by name")
    return {name: tensor.detach() for name, tensor in content.items()}


def placed(path: Path, name: str, tensor: Tensor, start: int) -> Stored:
    """A tensor of an archive whose storage, of which it may be a piece, begins at byte `start`."""
    shape, stride, dtype = tuple(tensor.shape), tensor.stride(), tensor.dtype
    first = start + int(tensor.storage_offset()) * dtype.itemsize
    ends = ((n - 1) * step for n, step in zip(shape, stride, strict=True))
    span = 1 + sum(ends) if tensor.numel() else 0  # numbers from its first to its last

    def read() -> Tensor:
        numbers = read_at(path, first, (span,), dtype)
        return numbers.as_strided(shape, stride).contiguous()

    return Stored(name, shape, dtype, read)


def held(name: str, tensor: Tensor) -> Stored:
    """A tensor in memory as a Stored; one that is a piece of something larger is copied out."""

    def read() -> Tensor:
        piece = tensor.untyped_storage().nbytes() > tensor.nbytes
        return tensor.contiguous().clone() if piece else tensor.contiguous()

    return Stored(name, tuple(tensor.shape), tensor.dtype, read)
