"""The finished model from which a U-Net, a ControlNet, an adapter or a new word is trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from sdlearn.pipeline import StableDiffusion
from sdlearn.recipes.class_images import ClassImages, draw_class_images
from sdlearn.recipes.data import Pixels, images_key, key, to_pixels
from sdlearn.recipes.frozen_parts import FrozenParts
from sdlearn.recipes.latent_cache import weights_key
from sdlearn.recipes.personal_recipe import PersonalRecipe
from sdlearn.recipes.recipe import Recipe
from sdlearn.recipes.room import check_memory
from sdlearn.training import TrainingJob
from sdlearn.unet import UNet
from sdlearn.utils.resources import data_folder
from sdlearn.vae import VAE

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


class BaseModel(NamedTuple):
    """A model, and where it was read from.

    Attributes:
        sd: The model, frozen.
        place: A folder with its parts in the published layout, or one original file.
        tokenizer: The folder of the tokenizer that was given with a file, otherwise None.
    """

    sd: StableDiffusion
    place: Path
    tokenizer: Path | None = None

    def parts(self) -> FrozenParts:
        """The autoencoder and the text encoder."""
        sd, place = self.sd, self.place
        vae, text = place, place
        others: tuple[Path, ...] = (self.tokenizer,) if self.tokenizer else ()
        if place.is_dir():
            vae, text = place / "vae", place / "text_encoder"
            names = ("text_encoder_2", "tokenizer", "tokenizer_2")
            others = tuple(place / name for name in names if (place / name).is_dir())
        has_pooled = sd.unet.config.added_dim is not None
        return FrozenParts(sd.vae, sd.text, vae, text, others, has_pooled, sd.spec.zero_negative)

    def hash(self) -> str:
        """A hash of the weights of all parts, and of the tokenizers."""
        return model_hash(self.place, self.tokenizer)


def load_base(place: str, recipe: Recipe, device: torch.device) -> BaseModel:
    """Load the model that a training starts from.

    Args:
        place: A model's folder, or the folder of a run of `sdlearn train unet`; "" for the shipped
            model. With a `PersonalRecipe`, one original file is accepted, too.
        recipe: Gives the size of the images. With a `PersonalRecipe`, SDXL is accepted, too.
        device: Where to train.

    Raises:
        FileNotFoundError: If there is no model.
        ValueError: If the model can't be read, or does not fit the recipe; see `check_fits`.
    """
    spec, tokenizer, find = "", "", model_folder
    if isinstance(recipe, PersonalRecipe):
        spec, tokenizer, find = recipe.spec, recipe.tokenizer, model_place
    home = find(place)
    sd = StableDiffusion.from_pretrained(
        home, device=device, spec=spec or None, tokenizer=tokenizer or None
    )
    check_fits(home, sd.unet, sd.vae, recipe)
    return BaseModel(sd, home, tokenizer_folder(tokenizer))


def check_predicts_noise(base: BaseModel) -> None:
    """Raise ValueError if a model's U-Net predicts velocity, as that of SD 2.1 does."""
    if base.sd.spec.predicts != "noise":
        raise ValueError(
            f"model is {base.place}, whose U-Net predicts {base.sd.spec.predicts}; accepted: one "
            "that predicts noise, from which this training computes the velocity on the flow path"
        )


def check_fits(home: Path, unet: UNet, vae: VAE, recipe: Recipe) -> None:
    """Check that a recipe can start from a model; the networks may be on the meta device.

    Raises:
        ValueError: If it is an inpainting model, if it is SDXL and the recipe is no
            `PersonalRecipe`, or if the size does not fit.
    """
    is_personal = isinstance(recipe, PersonalRecipe)
    is_inpainting = unet.config.in_channels > unet.config.out_channels
    if is_inpainting or (unet.config.added_dim is not None and not is_personal):
        raise ValueError(
            f"model is {home}, which is {'an inpainting model' if is_inpainting else 'SDXL'}; "
            f"accepted: a model {'' if is_personal else 'with one text encoder '}whose U-Net has "
            f"{vae.config.latent_channels} input channels"
        )
    side = vae.factor * 2 ** (len(unet.config.block_out_channels) - 1)
    if recipe.size % side:
        raise ValueError(f"size is {recipe.size}; accepted: multiples of {side} for this model")


def check_room(base: BaseModel, recipe: Recipe, device: torch.device, copies: int) -> None:
    """Check whether a training on a model's U-Net can fit in the memory; see `room.check_memory`.

    Args:
        base: The model.
        recipe: The settings.
        device: Where to train.
        copies: Values kept for each weight of the U-Net; 1 if it is frozen.

    Raises:
        ValueError: If the memory is too small.
    """
    config = base.sd.unet.config
    width = max(1, config.block_out_channels[0] // base.sd.vae.factor**2)
    check_memory(recipe, device, lambda: UNet(config), width, copies)


def model_place(place: str) -> Path:
    """Find a whole model: one original file, or what `model_folder` finds."""
    return Path(place) if place and Path(place).is_file() else model_folder(place)


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


def tokenizer_folder(place: str) -> Path | None:
    """A tokenizer's folder: `place`, or "tokenizer" inside it if it is a model's; None for ""."""
    if not place:
        return None
    inside = Path(place, "tokenizer")
    return inside if inside.is_dir() else Path(place)


def model_hash(place: Path, tokenizer: Path | None = None) -> str:
    """A hash of a model's weights and tokenizers; those of a file are given with it."""
    if place.is_file():
        return key(*(weights_key(each) for each in (place, tokenizer) if each))
    return key(*(weights_key(place / part) for part in PARTS if (place / part).is_dir()))


def frozen_base(base: BaseModel, recipe: Recipe, cache: Path) -> dict[str, str]:
    """Hashes of what a training on a finished model uses but does not change, by name."""
    images = {"images": images_key(recipe, cache)} if recipe.data else {}
    return {"model": base.hash()} | images


def class_images(recipe: PersonalRecipe, base: BaseModel, cache: Path) -> ClassImages | None:
    """The class images that a recipe asks for, drawn by the model before it is trained, or None.

    Raises:
        ValueError: If there is no class prompt.
    """
    if not recipe.class_images:
        return None
    if not recipe.class_prompt.strip():
        raise ValueError(
            "class_prompt is empty; accepted: a text that names the class of your images, such as "
            "'a cat', for which the model draws the class images; or class_images=0, to have none"
        )
    return draw_class_images(
        base.sd, base.hash(), recipe.class_prompt, recipe.class_images, recipe.size, cache
    )


def check_unchanged(job: TrainingJob, place: str, tokenizer: str = "") -> None:
    """Raise ValueError if the model of a finished training has changed since it started.

    Args:
        job: The training.
        place: See `load_base`.
        tokenizer: See `PersonalRecipe`.
    """
    home = model_place(place)
    if model_hash(home, tokenizer_folder(tokenizer)) != job.frozen["model"]:
        raise ValueError(
            f"{home} changed during the training; restore the old weights and use --resume to "
            "write the result"
        )


def sample_images(sd: StableDiffusion, prompts: Sequence[str], size: int | None = None) -> Pixels:
    """Draw images of b prompts, from the same noise every time: bytes, (b, h, w, 3).

    Args:
        sd: The model.
        prompts: b prompts.
        size: Height and width; None for the model's own.
    """
    z = sd.text_to_image(
        list(prompts), steps=20, seed=0, height=size, width=size, output="latent", progress=False
    )
    return to_pixels(sd.vae.to_image(z))
