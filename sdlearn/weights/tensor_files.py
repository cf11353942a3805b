"""Files of tensors, opened lazily: names, shapes and types first, the values when they are needed.

A safetensors file is a number of eight bytes, a header of that length (JSON: the type, shape and
offsets of every tensor) and then the values of all tensors. A torch pickle is an archive with one
entry that describes the tensors and one entry of values for each storage. Names and shapes can
therefore be checked before any value is read. Each tensor is read on its own, directly into the
memory that it keeps, and what training left in a checkpoint is never read.

Files are not memory-mapped. A mapped page counts in addition to the copy made of it, which doubles
the memory that loading needs, and a network that used the mapping itself would change with the
file.

A file is read as what its first bytes say, whatever its name: a pickle that was renamed to
.safetensors is read as safely as any pickle, see pickles.
"""

import json
import math
import re
import struct
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdlearn.utils.atomic_files import read_json
from sdlearn.utils.file_kinds import (
    ARCHIVE,
    DAMAGED_ARCHIVE,
    describe_content,
    describe_text,
    is_safetensors,
)
from sdlearn.utils.memory import free_memory, in_words
from sdlearn.utils.validation import one_line, shown
from sdlearn.weights.pickles import unpickled

SAFETENSORS = (".safetensors", ".sft")
LONGEST_NAME = 500  # characters; messages name tensors
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
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


def open_weights(path: Path) -> dict[str, LazyTensor]:
    """Every tensor of a weight file, or of all shards of an index, by name.

    Raises:
        FileNotFoundError: If a shard is missing.
        ValueError: If the file is damaged or is not a weight file.
    """
    if path.suffix.lower() == ".json" and container(path) is None:
        return open_shards(path)
    return open_file(path)


def open_file(path: Path) -> dict[str, LazyTensor]:
    """Every tensor of one file, which is read as what it is, whatever the ending of its name."""
    kind = container(path)
    if kind is not None:
        tensors = open_safetensors(path) if kind == "safetensors" else open_pickle(path)
        for name in tensors:
            if len(name) > LONGEST_NAME or not name.isprintable():
                raise ValueError(f"{path} holds a tensor with the name {shown(name)}")
        return tensors
    is_what = describe_content(path) or describe_text(path)
    if is_what:
        raise ValueError(f"{path} is {is_what}")
    if path.suffix.lower() in SAFETENSORS:
        raise ValueError(f"{path} is not a complete safetensors file: its header is damaged")
    raise ValueError(
        f"{path} is not a weight file; accepted: safetensors files, pickles of torch and the .json "
        "index of sharded weights"
    )


def container(path: Path) -> str | None:
    """What a file begins like: "safetensors", "pickle", or None for anything else."""
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(ARCHIVE):
        return None if describe_content(path) else "pickle"
    if is_safetensors(head):  # first, because a header of 640 bytes also begins like a pickle
        return "safetensors"
    is_pickle = head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5")
    return "pickle" if is_pickle else None


def open_shards(index: Path) -> dict[str, LazyTensor]:
    """Every tensor of the shards of an index file, by name.

    A shard is a file beside the index. Its entry in the index must be a plain name, so that an
    index leads to no other folder. A file that is a link, as in the hub's cache, is followed.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{index} has no weight_map; expected the index of a sharded file")
    shards = list(weight_map.values())
    if not shards or not all(isinstance(s, str) and not is_json(s) for s in shards):
        raise ValueError(
            f"{index}: weight_map is empty or malformed; expected a file name for each tensor"
        )
    tensors: dict[str, LazyTensor] = {}
    for shard in sorted(set(shards)):
        plain = re.fullmatch(r"[^/\\:]{1,255}", shard) and shard.isprintable()
        if not plain or shard in (".", ".."):
            raise ValueError(
                f"{index} names the shard {shown(shard)}; a shard must lie in the folder of "
                "its index and be given by its name alone"
            )
        path = index.parent / shard
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; {index.name} names it as a shard")
        found = open_file(path)
        twice = sorted(found.keys() & tensors.keys())
        if twice:
            raise ValueError(f"{path} holds {shown(twice[0])}, which another shard holds too")
        tensors |= found
    return tensors


def is_json(name: str) -> bool:
    """Whether a name is that of a JSON file."""
    return name.lower().endswith(".json")


# ------------------------------------------------------------------------------------- safetensors


def open_safetensors(path: Path) -> dict[str, LazyTensor]:
    """Every tensor of a safetensors file by name, from its header."""
    try:
        with safe_open(path, "np"):  # checks every entry of the header against the file's length
            pass
    except (SafetensorError, OSError) as error:
        reason = one_line(error, 200)
        raise ValueError(f"{path} is not a complete safetensors file: {reason}") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in TYPES:
            known = ", ".join(TYPES)
            raise ValueError(
                f"{path}: {shown(name)} is of the type {entry['dtype']}; accepted: {known}"
            )
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

    Archives are read lazily if the values can be taken as they lie in the file. The tensors of
    other files, such as those from before torch 1.6, are read here, and their memory is free again
    when the result is.
    """
    lengths = stored_values(path)
    tensors = unpickled(path, "meta") if lengths else {}
    starts: dict[str, Any] = {
        name: getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
        for name, tensor in tensors.items()
    }
    # torch computes these offsets from how it writes archives. Other programs write them otherwise.
    lazy = all(lengths.get(starts[n]) == t.untyped_storage().nbytes() for n, t in tensors.items())
    if not tensors or not lazy:
        check_unpacked(path)
        return {name: in_memory(name, tensor) for name, tensor in unpickled(path, "cpu").items()}
    return {name: from_archive(path, name, t, starts[name]) for name, t in tensors.items()}


def stored_values(path: Path) -> dict[int, int]:
    """Where the entries of an archive lie in its file: their first bytes and lengths.

    The result is empty if they cannot be used as they lie there: if the file is no archive, is
    compressed or has the other byte order.
    """
    with path.open("rb") as file:
        if file.read(len(ARCHIVE)) != ARCHIVE:
            return {}
        try:
            return entries_of(file)
        except Exception as error:  # damaged bytes can raise any exception
            raise ValueError(f"{path} is {DAMAGED_ARCHIVE}") from error


def check_unpacked(path: Path) -> None:
    """Raise ValueError if an archive, perhaps a compressed one, is more than memory holds."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        needed = sum(entry.file_size for entry in archive.infolist())
    free = free_memory()
    if free is not None and needed > free:
        raise ValueError(
            f"{path} unpacks to {in_words(needed)}, but only {in_words(free)} of memory is free; "
            "use a .safetensors file of the same model, which is read tensor by tensor"
        )


def entries_of(file: BinaryIO) -> dict[int, int]:
    """The result of `stored_values` for an open archive."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        orders = [archive.open(e).read(9) for e in entries if e.filename.endswith("/byteorder")]
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    if not stored or orders not in ([], [sys.byteorder.encode()]):
        return {}
    lengths = {}
    for entry in entries:
        file.seek(entry.header_offset + 26)  # the lengths of the name and the extra field
        name, extra = struct.unpack("<HH", file.read(4))
        lengths[entry.header_offset + 30 + name + extra] = entry.file_size
    return lengths


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
    if first + span * dtype.itemsize > start + tensor.untyped_storage().nbytes():
        raise ValueError(
            f"{path}: {name} is larger than the data stored for it; the file is damaged"
        )

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
