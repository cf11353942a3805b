"""Training images and captions: the storybook, rendered once and cached, or a user's own.

A user's own images are in a folder, all of which is read at the start, or in shards, of which each
batch is read when it is needed. Both give the same batches.

Rendering a page takes one or two milliseconds, and training uses each page many times. So all CPU
cores render the pages in parallel into a memory-mapped file, whose name identifies its contents.
"""

import hashlib
import inspect
import json
import os
import random
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from sdlearn.recipes.array_cache import cached_array
from sdlearn.recipes.recipe import Recipe
from sdlearn.recipes.shard_index import load_shards
from sdlearn.storybook import Scene, caption, read_folder, render, sample_scene
from sdlearn.storybook.shards import ShardImages, is_shards
from sdlearn.utils.atomic_files import atomic_write

Pixels = NDArray[np.uint8]
Images = Pixels | ShardImages  # (n, size, size, 3), in memory or on the disk
SceneOf = Callable[[int, str, int], Scene]
Draw = Callable[[Scene, int], Image.Image]
CHUNK = 1000


def scene(k: int, split: str = "train", seed: int = 0) -> Scene:
    """Return scene number k of a split; the same arguments give the same scene."""
    return sample_scene(random.Random(f"{seed}-{k}"), split=split)


def training_images(recipe: Recipe, cache: Path) -> Images:
    """Load the images that a recipe trains on: a user's own, or pages of the storybook.

    Args:
        recipe: The settings.
        cache: Folder for rendered pages, and for the indexes of shards.

    Returns:
        Bytes, (n, size, size, 3).
    """
    if recipe.data:
        return own_images(recipe.data, recipe.size, cache).images
    return load_images(recipe.scenes, recipe.size, cache)


def load_images(
    n: int,
    size: int,
    cache: Path,
    split: str = "train",
    seed: int = 0,
    scene_of: SceneOf = scene,
    draw: Draw = render,
) -> Pixels:
    """Load rendered scenes.

    Two runs may call this at the same time with the same cache.

    Args:
        n: Number of scenes; they are scenes 0 ... n - 1 of the split.
        size: Side of the images in pixels.
        cache: Folder for the rendered images.
        split: Split of the scenes.
        seed: Seed of the scenes.
        scene_of: Returns the scene of image k. Other processes call it, so it must be a function
            of a module.
        draw: Draws an RGB image of a scene, such as `storybook.edges`; also a function of a module.

    Returns:
        Bytes, (n, size, size, 3).
    """
    name = "pages" if draw is render else draw.__name__
    identity: list[object] = [seed, storybook_hash()]
    if draw is not render:
        identity.append(file_hash(Path(inspect.getfile(draw))))
    if scene_of is not scene:
        name = f"{scene_of.__name__}-{name}"
        identity.append(file_hash(Path(inspect.getfile(scene_of))))
    path = cache / f"{name}-{split}-{n}-{size}px-{key(*identity)}.npy"

    def fill(part: Path, offset: int) -> None:
        _draw(part, offset, n, size, split, seed, scene_of, draw)

    pages: Pixels = cached_array(path, np.uint8, (n, size, size, 3), fill)  # type: ignore[assignment]
    return pages


def load_captions(
    n: int,
    cache: Path,
    folder: str = "",
    split: str = "train",
    seed: int = 0,
    per_scene: int = 1,
    size: int = 64,
) -> list[list[str]]:
    """Load the captions of the images that `training_images` or `load_images` loads.

    Args:
        n: Number of scenes.
        cache: Folder for the captions.
        folder: A user's folder or shards, or "" for the storybook.
        split: Split of the scenes.
        seed: Seed of the scenes.
        per_scene: Paraphrases of each scene.
        size: Of the images. With the recipe's size, a user's folder is read once.

    Returns:
        For each image its paraphrases; one for each of a user's own images.
    """
    if folder:
        return [[text] for text in own_images(folder, size, cache).captions]
    path = cache / f"captions-{split}-{n}-{per_scene}-{key(seed, storybook_hash())}.json"
    if path.exists():
        captions = _read_captions(path, n, per_scene)
        if captions is not None:
            return captions
        warnings.warn(f"{path} is damaged; it is made again", stacklevel=2)
    captions = [
        [caption(scene(k, split, seed), random.Random(f"{seed}-{k}-{j}")) for j in range(per_scene)]
        for k in tqdm(range(n), desc="captions", leave=False)
    ]
    with atomic_write(path) as part:
        part.write_text(json.dumps(captions), encoding="utf-8")
    return captions


def _read_captions(path: Path, n: int, per_scene: int) -> list[list[str]] | None:
    """Read a file of `load_captions`; None if it is not n times per_scene captions."""
    try:
        captions: list[list[str]] = json.loads(path.read_text(encoding="utf-8"))
        sizes = {(len(texts), *map(type, texts)) for texts in captions}
    except (ValueError, TypeError, RecursionError):
        return None
    return captions if len(captions) == n and sizes == {(per_scene, *[str] * per_scene)} else None


def to_tensor(pixels: Pixels | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Convert bytes (b, h, w, 3) to float32 (b, 3, h, w) in [-1, 1]."""
    x = torch.from_numpy(np.array(pixels)) if isinstance(pixels, np.ndarray) else pixels
    return x.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_pixels(x: Tensor) -> Pixels:
    """Convert (b, 3, h, w) in [-1, 1] to bytes (b, h, w, 3); values outside are clamped."""
    bytes_ = ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels: Pixels = bytes_.permute(0, 2, 3, 1).cpu().numpy()
    return pixels


class Batches:
    """Random batches of an array, each determined by (seed, step).

    On a GPU an array that is small beside the free memory is moved there once, and batches are
    gathered there.
    """

    def __init__(
        self, array: NDArray[np.generic] | ShardImages, seed: int, batch: int, device: torch.device
    ):
        """Prepare batches of `batch` rows of an array (n, ...), drawn with replacement."""
        self.array, self.seed, self.batch = array, seed, batch
        self.device = device
        self.resident: Tensor | None = None
        if isinstance(array, np.ndarray) and is_small(array, device):
            self.resident = torch.from_numpy(np.array(array)).to(device)

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return the row numbers of batch number `step`, (batch,)."""
        return np.random.default_rng([self.seed, step]).integers(len(self.array), size=self.batch)

    def __call__(self, step: int) -> Tensor:
        """Return batch number `step` on the device, (batch, ...)."""
        return self.rows(self.indices(step))

    def rows(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the rows with these numbers on the device."""
        if self.resident is not None:
            return self.resident[torch.from_numpy(rows).to(self.device)]
        return torch.from_numpy(self.array[rows]).to(self.device)


def is_small(array: NDArray[np.generic], device: torch.device) -> bool:
    """Whether an array may be moved to a GPU: it takes at most a quarter of the free memory."""
    return device.type == "cuda" and array.nbytes <= torch.cuda.mem_get_info(device)[0] // 4


@lru_cache(maxsize=1)
def storybook_hash() -> str:
    """Hash the images and captions of the first 200 scenes, to detect changes of the storybook."""
    digest = hashlib.sha256()
    for k in range(200):
        page = scene(k)
        digest.update(render(page, 64).tobytes())
        digest.update(caption(page, random.Random(k)).encode())
    return digest.hexdigest()


def file_hash(*paths: Path) -> str:
    """Return the SHA-256 of the contents of files, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:  # in pieces, because a model in one file has gigabytes
            while piece := file.read(2**20):
                digest.update(piece)
    return digest.hexdigest()


def key(*parts: object) -> str:
    """Return a hash of 12 digits of everything that a cached file depends on."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def workers() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OwnImages(NamedTuple):
    """A user's own images.

    Attributes:
        images: Bytes, (n, size, size, 3).
        captions: One for each image.
        key: A hash of all of them.
    """

    images: Images
    captions: list[str]
    key: str


def images_key(recipe: Recipe, cache: Path) -> str:
    """Return a hash of the images and captions of a user, on which a recipe trains."""
    return own_images(recipe.data, recipe.size, cache).key


@lru_cache(maxsize=1)
def own_images(place: str, size: int, cache: Path) -> OwnImages:
    """Return a user's captioned images, found once for each training.

    Args:
        place: A folder (see `storybook.read_folder`) or shards (see `storybook.shards`).
        size: Side of the images in pixels.
        cache: Folder for the indexes of shards.

    Raises:
        FileNotFoundError: If the folder, a shard or the captions are missing.
        ValueError: If something in them is malformed, or no image can be read.
    """
    if is_shards(place):
        shards = load_shards(place, size, cache, min(16, workers()))
        texts = [image.caption for _, image in shards.images]
        contents = [(image.digest, image.caption) for _, image in shards.images]
        return OwnImages(shards, texts, key(*contents))
    pairs = read_folder(place, size)
    pixels = np.stack([np.asarray(image) for image, _ in pairs])
    identity = key(*((image.tobytes(), text) for image, text in pairs))
    return OwnImages(pixels, [text for _, text in pairs], identity)


def own_name(place: str) -> str:
    """Return the name of a user's images: that of their folder, or of the folder of the shards."""
    path = Path(place.partition("::")[0]) if is_shards(place) else Path(place)
    return (path.parent if is_shards(place) else path).resolve().name


def _draw(
    path: Path, offset: int, n: int, size: int, split: str, seed: int, scene_of: SceneOf, draw: Draw
) -> None:
    """Render scenes 0 ... n - 1 in parallel chunks into a file, from a position in bytes on."""
    chunks = [(path, offset, n, size, split, seed, scene_of, draw, a) for a in range(0, n, CHUNK)]
    with tqdm(total=n, desc="drawing pages", unit="page", leave=False) as bar:
        if len(chunks) == 1:
            bar.update(_draw_chunk(chunks[0]))
            return
        # Spawn, because forking a process in which torch has started threads can hang.
        with ProcessPoolExecutor(min(61, workers()), mp_context=get_context("spawn")) as pool:
            try:
                for drawn in pool.map(_draw_chunk, chunks):
                    bar.update(drawn)
            except BrokenProcessPool as error:
                raise OSError(
                    "a process that was rendering pages was killed; there may be too little "
                    "memory or disk space"
                ) from error


def _draw_chunk(chunk: tuple[Path, int, int, int, str, int, SceneOf, Draw, int]) -> int:
    path, offset, n, size, split, seed, scene_of, draw, first = chunk
    pages = np.memmap(path, np.uint8, mode="r+", offset=offset, shape=(n, size, size, 3))
    last = min(n, first + CHUNK)
    for k in range(first, last):
        pages[k] = np.asarray(draw(scene_of(k, split, seed), size))
    pages.flush()
    return last - first
