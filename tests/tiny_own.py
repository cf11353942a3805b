"""A few captioned images of one thing, and tiny models to train on them."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor

from sdlearn import StableDiffusion
from sdlearn.recipes.base_model import load_base
from sdlearn.recipes.captioned_latents import CaptionedLatents
from sdlearn.recipes.class_images import ClassImages
from sdlearn.recipes.noise import draw_noise
from sdlearn.recipes.personal_recipe import PersonalRecipe
from sdlearn.storybook import render, sample_scene
from sdlearn.versions import ModelSpec
from tests.tiny_original import CLIP, TEXT, original

CAPTIONS = ("a <toby> cat on the sand", "a <toby> cat by day", "a <toby> cat")
CPU = torch.device("cpu")


def own_images(folder: Path, size: int = 32, captions: tuple[str, ...] = CAPTIONS) -> Path:
    """A folder of captioned images."""
    folder.mkdir(parents=True)
    lines = []
    for k, text in enumerate(captions):
        render(sample_scene(random.Random(k)), size).save(folder / f"{k}.png")
        lines.append(json.dumps({"file_name": f"{k}.png", "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def saved(pipe: Callable[[], DiffusionPipeline], folder: Path) -> Path:
    """A tiny model as a folder in the published layout."""
    pipe().save_pretrained(folder)
    return folder


def one_file(folder: Path, path: Path) -> tuple[Path, ModelSpec]:
    """The model of a folder as one original file, and the specification that fits it."""
    sd = StableDiffusion.from_pretrained(folder, device="cpu")
    prefixes = TEXT["tinyxl"] if len(sd.text.encoders) > 1 else [CLIP]
    state = original(sd.unet, "model.diffusion_model.") | original(sd.vae, "first_stage_model.")
    for encoder, prefix in zip(sd.text.encoders, prefixes, strict=True):
        state |= original(encoder, prefix)
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path, replace(sd.spec, name="tiny")


def row_losses(
    sd: StableDiffusion,
    recipe: PersonalRecipe,
    cache: Path,
    prior: ClassImages | None = None,
    k: int = 0,
) -> Tensor:
    """The loss of each row of batch k, (b,), by the formulas and with nothing cached but latents.

    The captions are encoded by the model, and the target follows from what it predicts.
    """
    parts = load_base(recipe.model, recipe, CPU).parts()
    data = CaptionedLatents(recipe, parts, sd.schedule.num_steps, cache, CPU, prior)
    batch = data.batch(k)
    eps = draw_noise(batch.z_0.shape, recipe.seed, k, CPU, stream=2)
    alpha, sigma = (x.float().view(-1, 1, 1, 1) for x in sd.schedule.at(batch.t))
    z = alpha * batch.z_0 + sigma * eps
    target = alpha * eps - sigma * batch.z_0 if sd.spec.predicts == "velocity" else eps
    with torch.no_grad():
        text = sd.text(data.captions_of(batch))
        if sd.spec.zero_negative:  # an empty caption is zeros
            told = torch.tensor([caption != "" for caption in data.captions_of(batch)])
            text = text._replace(context=text.context * told.view(-1, 1, 1))
            if text.pooled is not None:
                text = text._replace(pooled=text.pooled * told.view(-1, 1))
        if sd.unet.config.added_dim is None:
            found = sd.unet(z, batch.t, text.context)
        else:
            sizes = torch.tensor([[recipe.size, recipe.size, 0, 0, recipe.size, recipe.size]])
            added = text.pooled, sizes.expand(len(z), -1)
            found = sd.unet(z, batch.t, text.context, added)
    return (found - target).square().mean(dim=(1, 2, 3))
