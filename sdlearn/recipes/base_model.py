"""The finished model that another U-Net, a ControlNet or an adapter is trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from sdlearn.pipeline import StableDiffusion
from sdlearn.recipes.captioned_latents import FrozenParts
from sdlearn.recipes.data import Pixels, images_key, key, to_pixels
from sdlearn.recipes.latent_cache import weights_key
from sdlearn.recipes.recipe import Recipe
from sdlearn.training import TrainingJob
from sdlearn.utils.resources import data_folder

PARTS = ("unet", "vae", "text_encoder")


class BaseModel(NamedTuple):
    """A model, and the folder it was read from.

    Attributes:
        sd: The model, frozen.
        folder: Holds its parts in the published layout.
    """

    sd: StableDiffusion
    folder: Path

    def parts(self) -> FrozenParts:
        """The autoencoder and the text encoder."""
        sd, folder = self.sd, self.folder
        return FrozenParts(sd.vae, sd.text, folder / "vae", folder / "text_encoder")

    def hash(self) -> str:
        """A hash of the weights of all parts."""
        return model_hash(self.folder)


def load_base(place: str, recipe: Recipe, device: torch.device) -> BaseModel:
    """Load the model that a training starts from.

    Args:
        place: A model's folder, or the folder of a run of `sdlearn train unet`; "" for the shipped
            model.
        recipe: Gives the size of the images.
        device: Where to train.

    Raises:
        FileNotFoundError: If there is no model.
        ValueError: If it is an inpainting model or SDXL, or if the size does not fit.
    """
    folder = model_folder(place)
    sd = StableDiffusion.from_pretrained(folder, device=device)
    if sd.is_inpainting or sd.unet.config.added_dim is not None:
        kind = "an inpainting model" if sd.is_inpainting else "SDXL"
        raise ValueError(
            f"model is {folder}, which is {kind}; accepted: a model whose U-Net has "
            f"{sd.vae.config.latent_channels} input channels and one text encoder"
        )
    side = sd.vae.factor * 2 ** (len(sd.unet.config.block_out_channels) - 1)
    if recipe.size % side:
        raise ValueError(f"size is {recipe.size}; accepted: multiples of {side} for this model")
    return BaseModel(sd, folder)


def model_folder(place: str) -> Path:
    """Find the folder of a whole model in the published layout.

    Args:
        place: See `load_base`.

    Raises:
        FileNotFoundError: If there is none.
    """
    homes = [data_folder("storybook")] if not place else [Path(place), Path(place, "export")]
    for home in homes:
        if (home / "model_index.json").is_file():
            return home
    raise FileNotFoundError(
        f"model is {place}, which holds no model; accepted: a folder with model_index.json, or "
        "the folder of a run of `sdlearn train unet`"
    )


def model_hash(folder: Path) -> str:
    """A hash of the weights of a model's parts."""
    return key(*(weights_key(folder / part) for part in PARTS))


def frozen_base(base: BaseModel, recipe: Recipe, cache: Path) -> dict[str, str]:
    """Hashes of what a training on a finished model uses but does not change, by name."""
    images = {"images": images_key(recipe, cache)} if recipe.data else {}
    return {"model": base.hash()} | images


def check_unchanged(job: TrainingJob, place: str) -> None:
    """Raise ValueError if the model of a finished training has changed since it started.

    Args:
        job: The training.
        place: See `load_base`.
    """
    home = model_folder(place)
    if model_hash(home) != job.frozen["model"]:
        raise ValueError(
            f"{home} changed during the training; restore the old weights and use --resume to "
            "write the result"
        )


def sample_images(sd: StableDiffusion, prompts: Sequence[str]) -> Pixels:
    """Draw images of b prompts, from the same noise every time: bytes, (b, h, w, 3)."""
    z = sd.text_to_image(list(prompts), steps=20, seed=0, output="latent", progress=False)
    return to_pixels(sd.vae.to_image(z))
