"""The cached training data of the U-Net: latents of the pages, hidden states of the captions.

The autoencoder and the text encoder are frozen while the U-Net is trained, so each page and each
caption is encoded once. The name of a cached file contains a hash of the weights that made it.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from sdlearn import weights
from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder
from sdlearn.recipes.data import Pixels, file_hash, key, temporary_part, to_tensor
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
    """Hash the weights and configuration of a part folder, and `parts`."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return key(file_hash(*files), *parts)


def encode_pages(vae: VAE, pages: Pixels, path: Path) -> HALF:
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

    def encode(rows: slice) -> Tensor:
        mean, logvar = vae.encode(to_tensor(np.array(pages[rows]), device))
        return torch.stack([mean, torch.exp(0.5 * logvar)], dim=1)

    return cached(path, len(pages), 128, encode, "encoding pages")


def encode_captions(text: TextEncoder, captions: Sequence[str], path: Path) -> HALF:
    """Encode captions, or load them from `path`: hidden states, (n, 77, d)."""

    def encode(rows: slice) -> Tensor:
        return text(captions[rows]).context

    return cached(path, len(captions), 256, encode, "encoding captions")


@torch.no_grad()
def cached(path: Path, n: int, chunk: int, encode: Callable[[slice], Tensor], what: str) -> HALF:
    """Encode items 0 ... n - 1 in chunks into a memory-mapped float16 file, unless it exists.

    Args:
        path: The file.
        n: Number of items.
        chunk: Items encoded at once.
        encode: Returns the encodings of a slice of the items.
        what: Label of the progress bar.
    """
    if not path.exists():
        chunks: Iterable[int] = tqdm(range(0, n, chunk), desc=what, leave=False)
        with temporary_part(path) as part:
            out = None
            for first in chunks:
                rows = slice(first, min(n, first + chunk))
                values = encode(rows).half().cpu().numpy()
                if out is None:
                    out = np.lib.format.open_memmap(part, "w+", np.float16, (n, *values.shape[1:]))
                out[rows] = values
            del out  # closes the file
    states: HALF = np.load(path, mmap_mode="r")
    return states
