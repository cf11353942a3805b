"""A user's own captioned images in shards: tar files, as the package webdataset reads and writes.

shards/000.tar
    0001.jpg  0001.txt        a red cat on the sand
    0002.png  0002.json       {"text": "a blue house"}

The files of a shard whose names agree up to the first dot of the file name are one sample: an image
and its caption, in a text file or as `text` (or `caption`) in a JSON object. If both exist, the
text file counts.

webdataset reads a shard from its beginning and shuffles the samples that pass through a buffer. So
it reads at the full speed of any disk or network. But the order depends on how many workers and
processes share the shards, and you cannot start in the middle of it. Our batch k is a function of
(seed, k) alone, and may hold any images of any shards. So each shard is read through once, for an
index of where its images begin (`recipes.shard_index` keeps it). After that, each image is read by
its number. This costs one seek for each image, so keep the shards on a local disk. We use the
package to find out which shards a pattern names, and which files are one sample.
"""

import hashlib
import math
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlearn.storybook.folder import reason, square, upright_image
from sdlearn.storybook.folder_captions import CAPTIONS, IMAGES, caption_in, decoded, json_object
from sdlearn.storybook.folder_captions import one_line as one_caption
from sdlearn.utils.atomic_files import user_path

EXAMPLE = '0001.jpg with 0001.txt, or with 0001.json {"text": "a red cat on the sand"}'
MOST = 100_000  # shards
Members = dict[str, tarfile.TarInfo]  # the files of a sample, by their endings


class ShardImage(NamedTuple):
    """One captioned image of a shard.

    Attributes:
        name: Its name in the shard.
        offset: Where its bytes begin.
        length: Their number.
        digest: Their SHA-256, in hexadecimal.
        side: The shorter side in pixels.
        caption: Its caption.
    """

    name: str
    offset: int
    length: int
    digest: str
    side: int
    caption: str


class ShardIndex(NamedTuple):
    """What a shard holds.

    Attributes:
        images: Its captioned images, in order.
        unreadable: The images that cannot be read, each as (name, why); they are skipped.
        without: The names of the images without a caption; they are skipped as well.
    """

    images: list[ShardImage]
    unreadable: list[tuple[str, str]]
    without: list[str]


# ------------------------------------------------------------------------------------ which shards


def is_shards(place: str) -> bool:
    """Whether a place names shards rather than a folder."""
    return bool(re.search(r"\.(tar|tgz|tar\.\w+)\}?$", place)) and not Path(place).is_dir()


def shard_files(pattern: str) -> list[Path]:
    """Return the shards that a pattern names, in its order.

    Args:
        pattern: For example "shards/{000..099}.tar"; "::" separates several patterns.

    Raises:
        ValueError: If webdataset is not installed, or the pattern names too many shards, or
            something other than .tar files of this machine.
        FileNotFoundError: If a shard is missing.
    """
    if find_spec("webdataset") is None:
        raise ValueError(
            f"data is {pattern}, and webdataset, which shards need, is not installed; install it "
            "with `pip install sdlearn[shards]`, or unpack the shards into a folder"
        )
    if re.match(r"\w\w+:/|pipe:", pattern):
        raise ValueError(f"data is {pattern}; accepted: shards on a local disk")
    ranges = re.findall(r"\{(\d+)\.\.(\d+)", pattern)
    count = math.prod(abs(int(first) - int(last)) + 1 for first, last in ranges)
    if count > MOST:
        raise ValueError(f"data is {pattern}, {count:,} shards; accepted: at most {MOST:,}")
    from webdataset.shardlists import expand_urls

    try:
        names = expand_urls(pattern.replace(os.sep, "/"))  # "\\" would be an escape
    except ValueError as error:  # of braceexpand, to which every fault is unbalanced braces
        raise ValueError(
            f"data is {pattern}, in which a brace is not closed; accepted: a pattern such as "
            "shards/{000..099}.tar"
        ) from error
    files = [user_path(name) for name in names]
    for file in files:
        if not file.exists():
            raise FileNotFoundError(f"{file} does not exist; accepted: a shard, which is a .tar")
        if file.suffix != ".tar" or not file.is_file():
            raise ValueError(
                f"{file} is not a .tar file; accepted: uncompressed shards, whose images can be "
                "read one by one"
            )
    return files


# ------------------------------------------------------------------------------- what is in a shard


def index_shard(shard: Path, threads: int = 1) -> ShardIndex:
    """Read a shard through, and check each caption and image.

    Args:
        shard: The tar file.
        threads: Images that are decoded at once.

    Raises:
        ValueError: If it is not a complete tar file, or the caption or the files of a sample are
            malformed.
    """
    with_image = {m["image"].name: m for m in samples(shard) if "image" in m}
    captions = {name: caption(shard, members) for name, members in with_image.items()}
    without = [name for name, text in captions.items() if text is None]
    wanted = [with_image[name]["image"] for name, text in captions.items() if text is not None]
    images: list[ShardImage] = []
    unreadable: list[tuple[str, str]] = []
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda member: examine(shard, member), wanted)
        for member, result in zip(wanted, found, strict=True):
            if isinstance(result, str):
                unreadable.append((member.name, result))
            else:
                place = (member.name, member.offset_data, member.size)
                images.append(ShardImage(*place, *result, captions[member.name] or ""))
    return ShardIndex(images, unreadable, without)


def samples(shard: Path) -> Iterator[Members]:
    """Yield the files of each sample of a shard by their endings, and the image as "image".

    Raises:
        ValueError: If the shard is damaged, or a sample has two images or an ending twice.
    """
    from webdataset.tariterators import base_plus_ext

    found: dict[str, Members] = {}
    for member in tar_members(shard):
        base, ending = base_plus_ext(member.name)
        if base is None:
            continue
        files = found.setdefault(base, {})
        ending = ending.lower()
        kind = "image" if f".{ending}" in IMAGES else ending
        if kind in files:
            raise ValueError(
                f"{shard} has {files[kind].name} and {member.name} for one sample; accepted: one "
                f"image and one caption, such as {EXAMPLE}"
            )
        files[kind] = member
    yield from found.values()


def tar_members(shard: Path) -> list[tarfile.TarInfo]:
    """Return the files in a tar file, without folders and links.

    Raises:
        ValueError: If it is not a complete tar file.
    """
    try:
        with tarfile.open(shard, "r:") as tar:
            members = [each for each in tar if each.isreg() and not each.issparse()]
            end = tar.offset
    except tarfile.TarError as error:
        raise ValueError(f"{shard} cannot be read as a tar file: {error}") from error
    if shard.stat().st_size <= end:  # a tar ends with blocks of zeros
        raise ValueError(f"{shard} is cut short: its end is missing; accepted: a whole .tar file")
    return members


def caption(shard: Path, members: Members) -> str | None:
    """Return the caption of a sample, or None if it has none.

    Raises:
        ValueError: If it is malformed, or if there are two text files.
    """
    texts = [members[ending[1:]] for ending in CAPTIONS if ending[1:] in members]
    if len(texts) > 1:
        names = " and ".join(text.name for text in texts)
        raise ValueError(
            f"{shard}: {members['image'].name} has the captions {names} beside it; accepted: one "
            "of them"
        )
    for text in texts:
        where = f"{shard}: {text.name}"
        return one_caption(decoded(content(shard, text.offset_data, text.size), where), where)
    if "json" not in members:
        return None
    file = members["json"]
    where = f"{shard}: {file.name}"
    row = json_object(decoded(content(shard, file.offset_data, file.size), where), where, EXAMPLE)
    return caption_in(row, where, EXAMPLE) if {"text", "caption"} & row.keys() else None


def examine(shard: Path, member: tarfile.TarInfo) -> tuple[str, int] | str:
    """Return the SHA-256 and the shorter side of an image, or why it cannot be read."""
    file = content(shard, member.offset_data, member.size)
    try:
        return hashlib.sha256(file).hexdigest(), min(upright_image(file).size)
    except ValueError as error:
        return reason(error)


def content(shard: Path, offset: int, length: int) -> bytes:
    """Return `length` bytes of a shard, from `offset` on."""
    with shard.open("rb") as file:
        file.seek(offset)
        return file.read(length)


# -------------------------------------------------------------------------------------- the images


class ShardImages:
    """The images of shards, read on demand, like the rows of an array.

    images[rows] reads the images with these numbers in this order, whatever the number of threads.

    Attributes:
        shape: (n, size, size, 3).
        images: Shard and place of each image.
    """

    def __init__(
        self, shards: Sequence[tuple[Path, ShardIndex]], size: int, threads: int = 1
    ) -> None:
        """Number the images of some shards.

        Args:
            shards: Each with its index.
            size: Side of the images in pixels.
            threads: Images that are read at once.
        """
        self.images = [(file, image) for file, index in shards for image in index.images]
        self.shape = (len(self.images), size, size, 3)
        self.threads = threads

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice | Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images with these numbers, bytes (b, size, size, 3).

        Raises:
            ValueError: If an image is no longer the one in the index.
        """
        numbers = np.arange(len(self))[rows].tolist()
        with ThreadPoolExecutor(self.threads) as pool:
            found = list(pool.map(self._read, numbers))
        return np.array(found, np.uint8).reshape(len(found), *self.shape[1:])

    def _read(self, number: int) -> NDArray[np.uint8]:
        shard, image = self.images[number]
        file = content(shard, image.offset, image.length)
        if hashlib.sha256(file).hexdigest() != image.digest:
            raise ValueError(
                f"{shard}: {image.name} has changed since the training began; restore the shard, "
                "or start again"
            )
        return np.asarray(square(upright_image(file), self.shape[1]))
