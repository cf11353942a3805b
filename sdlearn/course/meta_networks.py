"""The frozen networks of a training run on torch's meta device, and inputs for the trained one."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder
from sdlearn.recipes.base_model import model_folder
from sdlearn.recipes.latent_cache import part_folder
from sdlearn.recipes.recipe import Recipe
from sdlearn.recipes.tokenizer import CONTEXT
from sdlearn.recipes.transformer import TransformerRecipe
from sdlearn.recipes.unet import UNetRecipe
from sdlearn.unet import UNet
from sdlearn.vae import VAE, VAEConfig
from sdlearn.versions import STORYBOOK
from sdlearn.weights.configs import unet_config_from_json, vae_config_from_json
from sdlearn.weights.text_config import text_config_from_json


def images(n: int, recipe: Recipe) -> Tensor:
    """A batch of n images, (n, 3, size, size)."""
    return torch.empty(n, 3, recipe.size, recipe.size)


def inputs(n: int, config: Any, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, times and hidden states for a U-Net: (n, c, side, side), (n,), (n, 77, d)."""
    z = torch.empty(n, config.in_channels, side, side)
    return z, torch.empty(n), torch.empty(n, CONTEXT, config.cross_attention_dim)


def frozen_configs(
    recipe: UNetRecipe | TransformerRecipe, cache: Path
) -> tuple[VAEConfig, CLIPTextConfig]:
    """The configurations of the frozen parts: the system's own where the recipe names no folder."""
    spec = recipe.spec if isinstance(recipe, UNetRecipe) else STORYBOOK
    vae_config, text_config = spec.vae, spec.text[0]
    if recipe.vae or spec is STORYBOOK:
        place = part_folder(recipe.vae, "vae", cache.parent / "vae")
        vae_config = vae_config_from_json(place / "config.json")
    if recipe.text or spec is STORYBOOK:
        place = part_folder(recipe.text, "text_encoder", cache.parent / "clip")
        text_config = text_config_from_json(place / "config.json")
    return vae_config, text_config


def base_networks(place: str) -> tuple[UNet, VAE, CLIPTextEncoder]:
    """The networks of the model that training starts from."""
    folder = model_folder(place)
    return (
        UNet(unet_config_from_json(folder / "unet" / "config.json")),
        VAE(vae_config_from_json(folder / "vae" / "config.json")),
        CLIPTextEncoder(text_config_from_json(folder / "text_encoder" / "config.json")),
    )
