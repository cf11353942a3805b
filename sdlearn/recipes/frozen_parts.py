"""The networks that a training uses but does not change, and hashes of their weights."""

from pathlib import Path
from typing import NamedTuple, Self

import torch

from sdlearn.recipes.data import images_key
from sdlearn.recipes.latent_cache import load_text, load_vae, part_folder, weights_key
from sdlearn.recipes.recipe import Recipe
from sdlearn.text import TextEncoder
from sdlearn.vae import VAE


class FrozenParts(NamedTuple):
    """The networks that are used but not trained, and hashes of their weights.

    Attributes:
        vae: The autoencoder.
        text: The text encoder; for SDXL, both.
        vae_folder: Where the autoencoder was read from: a folder, or the file of a whole model.
        text_folder: The same for the text encoder.
        others: Further folders on which the embeddings of a caption depend: that of SDXL's second
            text encoder, or that of the tokenizer given with a file.
        has_pooled: Whether the U-Net also takes pooled embeddings and sizes, as SDXL's does.
        zero_empty: Whether the empty caption is embedded as zeros, as in SDXL.
    """

    vae: VAE
    text: TextEncoder
    vae_folder: Path
    text_folder: Path
    others: tuple[Path, ...] = ()
    has_pooled: bool = False
    zero_empty: bool = False

    @classmethod
    def load(cls, vae: str, text: str, cache: Path, device: torch.device) -> Self:
        """Load both parts.

        Args:
            vae: Folder of the autoencoder, of a model or of a run, or "" for the shipped one.
            text: The same for the text encoder.
            cache: Its parent holds the runs.
            device: Where to train.

        Raises:
            FileNotFoundError: If a part is missing.
        """
        vae_folder = part_folder(vae, "vae", cache.parent / "vae")
        text_folder = part_folder(text, "text_encoder", cache.parent / "clip")
        return cls(
            load_vae(vae_folder, device), load_text(text_folder, device), vae_folder, text_folder
        )

    def text_key(self, *parts: object) -> str:
        """A hash of everything that the embeddings of captions depend on, and of `parts`."""
        return weights_key(self.text_folder, *map(weights_key, self.others), *parts)

    def hashes(self) -> dict[str, str]:
        """Hashes of the weights, by the name of the setting that chooses them."""
        return {"vae": weights_key(self.vae_folder), "text": weights_key(self.text_folder)}


def frozen_hashes(recipe: Recipe, parts: FrozenParts, cache: Path) -> dict[str, str]:
    """Hashes of everything that a training uses but does not change, by name."""
    images = {"images": images_key(recipe, cache)} if recipe.data else {}
    return parts.hashes() | images
