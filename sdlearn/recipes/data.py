"""Training pictures and captions: the storybook drawn once and kept, or a user's own folder.

Drawing a page takes a millisecond or two and a training shows each one many times, so the pages are
drawn by all cores at once and kept as a memory-mapped file, whose name says what is in it.
"""

import hashlib
import inspect
import json
import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from sdlearn.storybook import Scene, caption, read_folder, render, sample_scene

Pixels = NDArray[np.uint8]
SceneOf = Callable[[int, str, int], Scene]
CHUNK = 1000


def scene(k: int, split: str = "train", seed: int = 0) -> Scene:
    """Scene number k of a split: always the same one."""
    return sample_scene(random.Random(f"{seed}-{k}"), split=split)


def load_pictures(
    n: int,
    size: int,
    cache: Path,
    folder: str = "",
    split: str = "train",
    seed: int = 0,
    scene_of: SceneOf = scene,
) -> Pixels:
    """(n, size, size, 3) bytes: scenes 0..n-1 of a split, or all the pictures of a user's folder.

    scene_of: which scene page number k shows, a function of a module (other processes call it).

    The drawn pages are kept in `cache`; two runs may ask for them at once.
    """
    if folder:
        return np.stack([np.asarray(picture) for picture, _ in own_pictures(folder, size)])
    name = "pages"
    identity: list[object] = [seed, storybook_hash()]
    if scene_of is not scene:
        name = f"{scene_of.__name__}-pages"
        identity.append(file_hash(Path(inspect.getfile(scene_of))))
    path = cache / f"{name}-{split}-{n}-{size}px-{key(*identity)}.npy"
    if not path.exists():
        with only_once(path) as part:
            _draw(part, n, size, split, seed, scene_of)
    pages: Pixels = np.load(path, mmap_mode="r")
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
    """The captions of the same pictures, `per_scene` paraphrases each (one for a user's folder).

    size: the pictures' size, which matters only in that a user's folder is then read once.
    """
    if folder:
        return [[text] for _, text in own_pictures(folder, size)]
    path = cache / f"captions-{split}-{n}-{per_scene}-{key(seed, storybook_hash())}.json"
    if not path.exists():
        texts = [
            [
                caption(scene(k, split, seed), random.Random(f"{seed}-{k}-{j}"))
                for j in range(per_scene)
            ]
            for k in tqdm(range(n), desc="captions", leave=False)
        ]
        with only_once(path) as part:
            part.write_text(json.dumps(texts), encoding="utf-8")
    captions: list[list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return captions


def to_tensor(pixels: Pixels | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Bytes (b, h, w, 3) -> float32 (b, 3, h, w) in [-1, 1]."""
    x = torch.from_numpy(np.array(pixels)) if isinstance(pixels, np.ndarray) else pixels
    return x.to(device).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_pixels(x: Tensor) -> Pixels:
    """(b, 3, h, w) in [-1, 1] -> bytes (b, h, w, 3)."""
    bytes_ = ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels: Pixels = bytes_.permute(0, 2, 3, 1).cpu().numpy()
    return pixels


class Batches:
    """Random batches of an array, each a function of (seed, step).

    On a GPU the whole array is moved there once and batches are gathered there.
    """

    def __init__(self, array: NDArray[np.generic], seed: int, batch: int, device: torch.device):
        self.array, self.seed, self.batch = array, seed, batch
        self.device = device
        self.resident = (
            torch.from_numpy(np.array(array)).to(device) if device.type == "cuda" else None
        )

    def indices(self, step: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, step]).integers(len(self.array), size=self.batch)

    def __call__(self, step: int) -> Tensor:
        """The rows of batch number `step`, on the device."""
        return self.rows(self.indices(step))

    def rows(self, rows: NDArray[np.int64]) -> Tensor:
        """The named rows, on the device."""
        if self.resident is not None:
            return self.resident[torch.from_numpy(rows).to(self.device)]
        return torch.from_numpy(self.array[rows]).to(self.device)


@contextmanager
def only_once(path: Path) -> Iterator[Path]:
    """A temporary name, this process's own, to write a kept file under; then moved to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@lru_cache(maxsize=1)
def storybook_hash() -> str:
    """Changes with what the storybook draws and says, told by its first two hundred pages."""
    digest = hashlib.sha256()
    for k in range(200):
        page = scene(k)
        digest.update(render(page, 64).tobytes())
        digest.update(caption(page, random.Random(k)).encode())
    return digest.hexdigest()


def file_hash(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def key(*parts: object) -> str:
    """A short name for everything that a cached file depends on."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def workers() -> int:
    """The processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def own_pictures(folder: str, size: int) -> list[tuple[Image.Image, str]]:
    """The captioned pictures of a user's folder, read once for each training."""
    return read_folder(folder, size)


def _draw(path: Path, n: int, size: int, split: str, seed: int, scene_of: SceneOf) -> None:
    """Draw scenes 0..n-1 into a new .npy file, chunks of them in parallel."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (n, size, size, 3)}
        )
        offset = file.tell()
        file.truncate(offset + n * size * size * 3)
    chunks = [(path, offset, n, size, split, seed, scene_of, a) for a in range(0, n, CHUNK)]
    with tqdm(total=n, desc="drawing pages", unit="page", leave=False) as bar:
        if len(chunks) == 1:
            bar.update(_draw_chunk(chunks[0]))
            return
        # Fresh processes: forking one in which torch has started threads can hang.
        with ProcessPoolExecutor(min(61, workers()), mp_context=get_context("spawn")) as pool:
            for drawn in pool.map(_draw_chunk, chunks):
                bar.update(drawn)


def _draw_chunk(chunk: tuple[Path, int, int, int, str, int, SceneOf, int]) -> int:
    path, offset, n, size, split, seed, scene_of, first = chunk
    pages = np.memmap(path, np.uint8, mode="r+", offset=offset, shape=(n, size, size, 3))
    last = min(n, first + CHUNK)
    for k in range(first, last):
        pages[k] = np.asarray(render(scene_of(k, split, seed), size))
    pages.flush()
    return last - first
