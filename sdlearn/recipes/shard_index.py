"""The indexes of a user's shards, kept in the cache, so that each shard is read through only once.

The name of an index identifies its shard by path, size and time of the last change. Each time an
image is read, it is checked against the index.
"""

import hashlib
import json
import warnings
from pathlib import Path

from tqdm.auto import tqdm

from sdlearn.storybook.folder import check_side, warn_of
from sdlearn.storybook.shards import ShardImage, ShardImages, ShardIndex, index_shard, shard_files
from sdlearn.utils.atomic_files import atomic_write

VERSION = 1  # of an index's content
FIELDS = (str, int, int, str, int, str)  # the types in a ShardImage


def load_shards(pattern: str, size: int, cache: Path, threads: int) -> ShardImages:
    """Find the images of shards.

    Images that cannot be read, or have no caption, are skipped with a warning, as in a folder.

    Args:
        pattern: See `storybook.shards.shard_files`.
        size: Side of the images in pixels.
        cache: Folder for the indexes.
        threads: Images that are read at once.

    Raises:
        FileNotFoundError: If a shard is missing, or no image has a caption.
        ValueError: If the pattern, a shard or a caption is wrong, or no image can be read.
    """
    check_side(size)
    files = shard_files(pattern)
    bar = tqdm(files, desc="reading shards", leave=False)
    shards = [(file, shard_index(file, cache, threads)) for file in bar]
    if not any(index.images or index.unreadable for _, index in shards):
        raise FileNotFoundError(
            f"{pattern} has no image with a caption; accepted: a caption 0001.txt, or 0001.json "
            'with the entry "text", for each image 0001.jpg'
        )
    for file, index in shards:
        warn_of("without a caption file", index.without, file, "skipped")
        for name, why in index.unreadable:
            warnings.warn(
                f"{file}: {name} cannot be read as an image and was skipped: {why}", stacklevel=2
            )
        small = [image.name for image in index.images if image.side < size]
        warn_of(f"smaller than {size} pixels", small, file, "enlarged")
    images = ShardImages(shards, size, threads)
    if not images:
        raise ValueError(f"{pattern} has no image that can be read; accepted: captioned images")
    return images


def shard_index(shard: Path, cache: Path, threads: int) -> ShardIndex:
    """Read the index of a shard, or make it."""
    state = shard.stat()
    file = repr((VERSION, str(shard.resolve()), state.st_size, state.st_mtime_ns))
    path = cache / f"shard-{hashlib.sha256(file.encode()).hexdigest()[:12]}.json"
    if path.exists():
        index = read_index(path)
        if index is not None:
            return index
        warnings.warn(f"{path} is damaged; it is made again", stacklevel=2)
    index = index_shard(shard, threads)
    with atomic_write(path) as part:
        part.write_text(json.dumps(index), encoding="utf-8")
    return index


def read_index(path: Path) -> ShardIndex | None:
    """Read the file of an index; None if it is damaged."""
    try:
        images, unreadable, without = json.loads(path.read_text(encoding="utf-8"))
        if any(tuple(map(type, image)) != FIELDS for image in images):
            return None
        return ShardIndex(
            [ShardImage(*image) for image in images],
            [(str(name), str(why)) for name, why in unreadable],
            [str(name) for name in without],
        )
    except (ValueError, TypeError, RecursionError):
        return None
