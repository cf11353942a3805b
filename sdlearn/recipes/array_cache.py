"""Arrays that are computed once and kept in a file, which is checked before it is used.

A file is a .npy file with the SHA-256 of its bytes appended, which other readers ignore. It can
always be computed again, so a damaged one is named and replaced.
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sdlearn.recipes.room import check_disk
from sdlearn.utils.atomic_files import atomic_write
from sdlearn.utils.part_files import remove_leftovers

DIGEST = 32  # bytes of a SHA-256
DAY = 24 * 3600.0


def cached_array(
    path: Path,
    dtype: DTypeLike,
    shape: Sequence[int],
    fill: Callable[[Path, int], None],
) -> NDArray[np.generic]:
    """Load an array, or compute it. Two processes may do this at the same time.

    Args:
        path: The file.
        dtype: Data type of the array.
        shape: Shape of the array.
        fill: Writes the values into a file, from a position in bytes on.

    Returns:
        The array, memory-mapped and read-only.

    Raises:
        OSError: If the disk is full.
    """
    if path.exists():
        damage = damage_of(path, dtype, shape)
        if not damage:
            return open_array(path)
        warnings.warn(f"{path} is damaged ({damage}); it is made again", stacklevel=2)
    check_disk(path.parent, array_bytes(dtype, shape), path.name)
    remove_leftovers(path.parent, DAY)
    with atomic_write(path) as part:
        fill(part, reserve(part, dtype, shape))
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        with part.open("ab") as file:
            file.write(digest)
    return open_array(path)


def open_array(path: Path) -> NDArray[np.generic]:
    """Open the array of a file, memory-mapped and read-only."""
    array: NDArray[np.generic] = np.load(path, mmap_mode="r")
    return array


def damage_of(path: Path, dtype: DTypeLike, shape: Sequence[int]) -> str:
    """Say what is wrong with a file, or return "" for a good one.

    Files that were written before there were checksums end with their last value.

    Raises:
        PermissionError: If the file may not be read.
    """
    try:
        array = open_array(path)
    except PermissionError:
        raise
    except (ValueError, OSError, EOFError) as error:
        return str(error)
    if array.dtype != dtype or array.shape != tuple(shape):
        return f"it holds {array.shape} values of type {array.dtype}"
    assert isinstance(array, np.memmap)
    end = array.offset + array.nbytes
    extra = path.stat().st_size - end
    if extra == 0:
        return ""
    contents = np.memmap(path, np.uint8, mode="r")
    digest = hashlib.sha256(contents[:end].data).digest()
    return "" if contents[end:].tobytes() == digest else "its checksum is wrong"


def array_bytes(dtype: DTypeLike, shape: Sequence[int]) -> int:
    """Return the bytes of an array's values."""
    count = np.dtype(dtype).itemsize
    for n in shape:
        count *= int(n)
    return count


def reserve(path: Path, dtype: DTypeLike, shape: Sequence[int]) -> int:
    """Write the header of a .npy file and reserve the disk space of its values.

    Without it, a memory-mapped file on a full disk would kill the process that fills it.

    Returns:
        The position of the first value, in bytes.
    """
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": tuple(shape),
    }
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        offset = file.tell()
        amount = array_bytes(dtype, shape)
        file.truncate(offset + amount)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), offset, amount)
    return offset
