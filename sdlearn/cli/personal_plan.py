"""The dry run of the trainings on a few images: LoRA, textual inversion, DreamBooth.

The model may be a folder or a file of any system. Its weights are not read.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sdlearn.clip import CLIPTextEncoder
from sdlearn.course.meta_networks import inputs
from sdlearn.course.meta_training import MetaTraining, with_adamw
from sdlearn.lora import Adapter, attach
from sdlearn.recipes.activation_checkpointing import checkpoint_activations
from sdlearn.recipes.base_model import check_fits, model_place
from sdlearn.recipes.embedding import EmbeddingRecipe
from sdlearn.recipes.lora import LoRARecipe, new_adapters
from sdlearn.recipes.personal_recipe import PersonalRecipe
from sdlearn.text import TextEncoder, context_length
from sdlearn.textual_inversion import NewRows
from sdlearn.weights.diffusers_folder import System, empty_system
from sdlearn.weights.single_file import match_single_file


def personal_training(recipe: PersonalRecipe) -> MetaTraining:
    """Build the networks of a recipe on the meta device.

    Raises:
        FileNotFoundError: If the model is missing.
        ValueError: If the model does not fit the recipe.
    """
    _, unet, vae, text = empty_model(recipe)
    encoders = [each for each in text.encoders if isinstance(each, CLIPTextEncoder)]
    names = ["text_encoder", "text_encoder_2"][: len(encoders)]
    networks: dict[str, nn.Module] = {"unet": unet, **dict(zip(names, encoders, strict=True))}
    frozen: dict[str, nn.Module] = {"vae": vae.requires_grad_(False)}
    for name, network in networks.items():
        frozen[name.replace("_encoder", "")] = network.requires_grad_(False)
    with torch.device("meta"):
        name, trained = trained_network(recipe, networks)
    if trained is unet:
        del frozen["unet"]
    if recipe.activation_checkpointing:
        checkpoint_activations(unet)
    encodes = isinstance(recipe, EmbeddingRecipe) or getattr(recipe, "text_encoder", False)
    side = recipe.size // vae.factor

    def forward(n: int) -> Any:
        z, t, context = inputs(n, unet.config, side)
        pooled = None
        if encodes:
            context, pooled = encoded(n, text, encoders)
        if unet.config.added_dim is None:
            return unet(z, t, context)
        if pooled is None:
            pooled = torch.empty(n, encoders[-1].config.projection_dim or 0)
        return unet(z, t, context, (pooled, torch.empty(n, 6)))

    return with_adamw({name: trained}, forward, (name,), frozen)


def empty_model(recipe: PersonalRecipe) -> System:
    """The recipe's model, on the meta device."""
    home = model_place(recipe.model)
    if home.is_file():
        spec, tokenizer = recipe.spec or None, recipe.tokenizer or None
        system, _ = match_single_file(home, torch.float32, spec, tokenizer)
    else:
        system, _ = empty_system(home, torch.float32)
    check_fits(home, system[1], system[2], recipe)
    return system


def trained_network(
    recipe: PersonalRecipe, networks: Mapping[str, nn.Module]
) -> tuple[str, nn.Module]:
    """The name of what a recipe trains, and the module: attached adapters or rows, or the U-Net."""
    if isinstance(recipe, LoRARecipe):
        adapters = new_adapters(recipe, networks)
        for part, adapter in adapters.items():
            assert isinstance(adapter, Adapter)
            attach(networks[part], adapter)
        return "adapter", adapters
    if not isinstance(recipe, EmbeddingRecipe):
        return "unet", networks["unet"].requires_grad_(True)
    rows = nn.ModuleList()
    for encoder in networks.values():
        if isinstance(encoder, CLIPTextEncoder):
            rows.append(new := NewRows(0, torch.empty(recipe.vectors, encoder.config.hidden_size)))
            new.attach(encoder)
    return "embedding", rows


def encoded(
    n: int, text: TextEncoder, encoders: list[CLIPTextEncoder]
) -> tuple[Tensor, Tensor | None]:
    """The embeddings of n captions, as `TextEncoder` computes them, and their pooled embeddings."""
    contexts, pooled = [], None
    for tokenizer, encoder in zip(text.tokenizers, encoders, strict=True):
        length = context_length(tokenizer, encoder.config)
        states = encoder(torch.zeros(n, length, dtype=torch.long))
        contexts.append(states.last if text.layer == "last" else states.hidden[-2])
        pooled = states.pooled
    return torch.cat(contexts, dim=-1), pooled
