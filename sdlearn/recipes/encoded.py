"""What the U-Net trains on: the latents of the pages and the states of their captions.

Autoencoder and text encoder are frozen by then, so each page and each caption is encoded once and
kept. The name of a kept file holds a hash of the weights that made it: other weights, other file.
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
from sdlearn.configs import read_text, read_vae
from sdlearn.folder import read_tokenizer
from sdlearn.paths import data_folder
from sdlearn.recipes.data import Pixels, file_hash, key, only_once, to_tensor
from sdlearn.text import TextEncoder
from sdlearn.training import channels_last
from sdlearn.vae import VAE

HALF = NDArray[np.float16]


def part_folder(place: str, name: str, run: Path) -> Path:
    """Where a trained part is: `place` is its own folder, a published folder or a run.

    "" takes the shipped model's, or what the run `run` exported. Raises FileNotFoundError.
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
        f"no trained {name} in {' or '.join(map(str, homes))}; expected config.json and weights, "
        f"as a published folder, a run of `sdlearn train` or its export/{name} holds them"
    )


def load_vae(folder: Path, device: torch.device) -> VAE:
    """The autoencoder of a published part folder, frozen."""
    vae = VAE(read_vae(folder / "config.json"))
    weights.load(vae, folder)
    return channels_last(vae, device).eval().requires_grad_(False)


def load_text(folder: Path, device: torch.device) -> TextEncoder:
    """The text encoder of a published part folder with the tokenizer beside it, frozen."""
    encoder = CLIPTextEncoder(read_text(folder / "config.json"))
    weights.load(encoder, folder)
    text = TextEncoder([read_tokenizer(folder.parent / "tokenizer")], [encoder])
    return text.to(device).eval().requires_grad_(False)


def encoder_config(text: TextEncoder) -> CLIPTextConfig:
    """The configuration of a text encoder's only network."""
    (encoder,) = text.encoders
    assert isinstance(encoder, CLIPTextEncoder)
    return encoder.config


def weights_key(folder: Path, *parts: object) -> str:
    """A short name for the weights and configuration of a part folder, and for `parts`."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return key(file_hash(*files), *parts)


def encode_pages(vae: VAE, pages: Pixels, path: Path) -> HALF:
    """Mean and standard deviation of every page's latent: (n, 2, c, h, w), unscaled, kept at path.

    Both are kept because a latent is a sample: each step draws another one.
    """
    device = next(vae.parameters()).device

    def encode(rows: slice) -> Tensor:
        mean, logvar = vae.encode(to_tensor(np.array(pages[rows]), device))
        return torch.stack([mean, torch.exp(0.5 * logvar)], dim=1)

    return kept(path, len(pages), 128, encode, "encoding pages")


def encode_captions(text: TextEncoder, captions: Sequence[str], path: Path) -> HALF:
    """The states (n, 77, d) of captions, kept at path."""

    def encode(rows: slice) -> Tensor:
        return text(captions[rows]).context

    return kept(path, len(captions), 256, encode, "encoding captions")


@torch.no_grad()
def kept(path: Path, n: int, chunk: int, encode: Callable[[slice], Tensor], what: str) -> HALF:
    """encode(slice) for all of 0..n-1 in chunks, in half precision, in a memory-mapped file."""
    if not path.exists():
        chunks: Iterable[int] = tqdm(range(0, n, chunk), desc=what, leave=False)
        with only_once(path) as part:
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
