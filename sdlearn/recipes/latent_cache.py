"""The cached training data of the U-Net: latents of the pages, hidden states of the captions.

The autoencoder and the text encoder are frozen while the U-Net is trained, so each page and each
caption is encoded once. The name of a cached file contains a hash of the weights that made it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from sdlearn import weights
from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder
from sdlearn.recipes.array_cache import cached_array
from sdlearn.recipes.data import Images, file_hash, key, to_tensor
from sdlearn.recipes.room import check_disk
from sdlearn.text import TextEncoder
from sdlearn.utils.device import channels_last
from sdlearn.utils.resources import data_folder
from sdlearn.vae import VAE
from sdlearn.weights.configs import vae_config_from_json
from sdlearn.weights.text_config import text_config_from_json
from sdlearn.weights.tokenizer_files import read_tokenizer

HALF = NDArray[np.float16]


def part_folder(place: str, name: str, run: Path) -> Path:
    """Find the folder of a trained part.

    Args:
        place: The part's own folder, a published folder or a run. "" takes the shipped model's
            part, or that of `run` if no model is shipped.
        name: "vae" or "text_encoder".
        run: Folder of a run.

    Raises:
        FileNotFoundError: If none of the folders has the part.
    """
    if place:
        homes = [Path(place)]
    else:
        try:
            homes = [data_folder("storybook"), run]
        except FileNotFoundError:
            homes = [run]
    candidates = [path for home in homes for path in (home / name, home / "export" / name, home)]
    for path in candidates:
        if (path / "config.json").is_file():
            return path
    raise FileNotFoundError(
        f"there is no trained {name} in {' or '.join(map(str, homes))}; accepted: a published "
        f"folder, a run of `sdlearn train`, or a folder with config.json and weights"
    )


def load_vae(folder: Path, device: torch.device) -> VAE:
    """Load the autoencoder of a published part folder, frozen and in eval mode."""
    vae = VAE(vae_config_from_json(folder / "config.json"))
    weights.load(vae, folder)
    return channels_last(vae, device).eval().requires_grad_(False)


def load_text(folder: Path, device: torch.device) -> TextEncoder:
    """Load the text encoder of a part folder and the tokenizer next to it, frozen, in eval mode."""
    encoder = CLIPTextEncoder(text_config_from_json(folder / "config.json"))
    weights.load(encoder, folder)
    text = TextEncoder([read_tokenizer(folder.parent / "tokenizer")], [encoder])
    return text.to(device).eval().requires_grad_(False)


def encoder_config(text: TextEncoder) -> CLIPTextConfig:
    """Return the configuration of a text encoder that consists of one network."""
    (encoder,) = text.encoders
    assert isinstance(encoder, CLIPTextEncoder)
    return encoder.config


def weights_key(folder: Path, *parts: object) -> str:
    """Hash the weights and configuration of a part folder, or the file of a model, and `parts`."""
    inside = [folder] if folder.is_file() else sorted(folder.iterdir())
    files = [path for path in inside if path.is_file()]
    return key(file_hash(*files), *parts)


def check_cache_room(
    scenes: int, captions: int, size: int, vae: VAE, text: TextEncoder, cache: Path
) -> None:
    """Check before any work whether the disk has room for the pages and their encodings.

    Args:
        scenes: Number of pages.
        captions: Captions of each page.
        size: Side of the pages in pixels.
        vae: The autoencoder.
        text: The text encoder.
        cache: Where the files will be.

    Raises:
        ValueError: If there is too little room.
    """
    if any(cache.glob("latents-*.npy")):
        return  # perhaps those of this training; each file is checked before it is written
    latent = 2 * vae.config.latent_channels * (size // vae.factor) ** 2
    with torch.no_grad():
        caption = text([""]).context.numel()
    amount = scenes * (3 * size**2 + 2 * latent + 2 * captions * caption)
    check_disk(cache, amount, f"{scenes:,} pages, their latents and their encoded captions")


def encode_pages(vae: VAE, pages: Images, path: Path) -> HALF:
    """Encode pages, or load them from `path`.

    The mean and the standard deviation are kept, because each training step samples a new latent.

    Args:
        vae: The autoencoder.
        pages: Bytes, (n, size, size, 3).
        path: The cached file.

    Returns:
        Mean and standard deviation of the posterior, (n, 2, c, h, w), unscaled.
    """
    device = next(vae.parameters()).device
    side = pages.shape[1] // vae.factor

    def encode(rows: slice) -> Tensor:
        mean, logvar = vae.encode(to_tensor(np.array(pages[rows]), device))
        return torch.stack([mean, torch.exp(0.5 * logvar)], dim=1)

    shape = (len(pages), 2, vae.config.latent_channels, side, side)
    return cached(path, shape, 128, encode, "encoding pages")


def encode_captions(text: TextEncoder, captions: Sequence[str], path: Path) -> HALF:
    """Encode captions, or load them from `path`: hidden states, (n, 77, d)."""

    def encode(rows: slice) -> Tensor:
        return text(captions[rows]).context

    with torch.no_grad():
        shape = (len(captions), *text([""]).context.shape[1:])
    return cached(path, shape, 256, encode, "encoding captions")


def encode_pooled(text: TextEncoder, captions: Sequence[str], path: Path) -> HALF:
    """Encode captions, or load them from `path`: SDXL's pooled embeddings, (n, d)."""

    def encode(rows: slice) -> Tensor:
        pooled = text(captions[rows]).pooled
        assert pooled is not None
        return pooled

    with torch.no_grad():
        shape = (len(captions), *encode(slice(1)).shape[1:])
    return cached(path, shape, 256, encode, "encoding captions")


@torch.no_grad()
def cached(
    path: Path, shape: tuple[int, ...], chunk: int, encode: Callable[[slice], Tensor], what: str
) -> HALF:
    """Encode items in chunks into a memory-mapped float16 file, unless there is a good one.

    Args:
        path: The file.
        shape: Shape of the encodings of all items.
        chunk: Items encoded at once.
        encode: Returns the encodings of a slice of the items.
        what: Label of the progress bar.
    """

    def fill(part: Path, offset: int) -> None:
        out = np.memmap(part, np.float16, mode="r+", offset=offset, shape=shape)
        for first in tqdm(range(0, shape[0], chunk), desc=what, leave=False):
            rows = slice(first, min(shape[0], first + chunk))
            out[rows] = encode(rows).half().cpu().numpy()
        out.flush()

    states: HALF = cached_array(path, np.float16, shape, fill)  # type: ignore[assignment]
    return states
