"""Images of a class, which a model draws before it is trained; see `sdlearn.dreambooth`."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from sdlearn.dreambooth import own_in_batch
from sdlearn.pipeline import StableDiffusion
from sdlearn.recipes.array_cache import cached_array
from sdlearn.recipes.data import Pixels, key, to_pixels

CHUNK = 4  # images drawn at once


class ClassImages(NamedTuple):
    """Images of a class.

    Attributes:
        pages: Bytes, (n, size, size, 3).
        prompt: The prompt they were drawn for, which is also their caption.
    """

    pages: Pixels
    prompt: str


def draw_class_images(
    sd: StableDiffusion, model: str, prompt: str, n: int, size: int, cache: Path
) -> ClassImages:
    """Draw images of a class with the model's own settings, or load those it drew earlier.

    Image k has seed k, so a model draws the same images for every training.

    Args:
        sd: The model, before its training.
        model: A hash of its weights.
        prompt: Names the class, such as "a cat".
        n: Number of images.
        size: Their side in pixels.
        cache: Folder for the images.
    """
    identity = key(model, repr(replace(sd.spec, name="")), prompt)
    shape = (n, size, size, 3)

    def fill(part: Path, offset: int) -> None:
        out = np.memmap(part, np.uint8, mode="r+", offset=offset, shape=shape)
        for first in tqdm(range(0, n, CHUNK), desc="drawing class images", leave=False):
            z = sd.text_to_image(
                prompt, n=min(CHUNK, n - first), seed=first, height=size, width=size,
                output="latent", progress=False,
            )  # fmt: skip
            out[first : first + len(z)] = to_pixels(sd.vae.to_image(z))
        out.flush()

    path = cache / f"class-{n}-{size}px-{identity}.npy"
    pages: Pixels = cached_array(path, np.uint8, shape, fill)  # type: ignore[assignment]
    return ClassImages(pages, prompt)


def divided_rows(k: int, b: int, seed: int, n: int, n_class: int) -> NDArray[np.int64]:
    """The image numbers of batch k, (b,): own images, 0 … n - 1, then those of the class, from n.

    Both halves are drawn with replacement, and depend only on the seed and k.
    """
    own = own_in_batch(b)
    pages = np.random.default_rng([seed, k]).integers(n, size=own)
    others = np.random.default_rng([seed, k, 4]).integers(n_class, size=b - own)
    return np.concatenate([pages, n + others])
