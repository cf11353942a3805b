"""DreamBooth: the whole U-Net of a finished model, trained on a few images of one subject.

With `class_images`, half of each batch consists of images that the model itself drew for a class
prompt before the training, so that it does not forget the class; see `sdlearn.dreambooth`.
`sdlearn train lora` accepts the same settings, and writes a much smaller file.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from sdlearn.pipeline import StableDiffusion
from sdlearn.recipes.base_model import (
    check_room,
    check_unchanged,
    class_images,
    frozen_base,
    load_base,
    sample_images,
)
from sdlearn.recipes.captioned_latents import Batch, CaptionedLatents
from sdlearn.recipes.contact_sheets import grid
from sdlearn.recipes.denoising_step import Model, compiled, denoising_step, in_training
from sdlearn.recipes.initial_weights import load_initial_weights
from sdlearn.recipes.personal_recipe import PersonalRecipe, conditioned
from sdlearn.recipes.recipe import MAX_BYTES
from sdlearn.training import TrainingJob
from sdlearn.unet import UNet


@dataclass(frozen=True, kw_only=True)
class DreamBoothRecipe(PersonalRecipe):
    """Settings of DreamBooth's training."""


RECIPES = {
    "storybook": DreamBoothRecipe(
        steps=200, batch=16, lr=1e-4, warmup=10, min_snr=5.0, t_mean=-0.3, t_std=1.0, ema=0.98,
        class_images=64,
    ),
    "small": DreamBoothRecipe(
        steps=20, batch=4, lr=1e-4, warmup=2, ema=0.9, class_images=4,
    ),
    # For a published model, named with --model. diffusers' examples/dreambooth and its README use
    # batches of one own image and one class image, weight 1, a constant learning rate of 2e-6 to
    # 5e-6, 400 to 1,500 steps and 200 to 300 class images, without EMA or empty captions.
    "sd1.5": DreamBoothRecipe(
        steps=800, batch=2, lr=5e-6, warmup=0, size=512, lr_floor=1.0, dropout=0.0, ema=0.0,
        class_images=200, prior_weight=1.0,
    ),
}  # fmt: skip


def make_job(
    recipe: DreamBoothRecipe, cache: Path, device: torch.device, run: Path | None = None
) -> TrainingJob:
    """Have the model draw the class images, and build the optimizer and the training step.

    Args:
        recipe: The settings.
        cache: Folder for class images, latents and hidden states.
        device: Where to train.
        run: Folder of the run to resume from its checkpoint; None for a new run.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If the images or the model do not fit, or the memory is too small.
    """
    if not recipe.data:
        raise ValueError(
            "data is empty; accepted: a folder, or shards, of a few captioned images of one subject"
        )
    base = load_base(recipe.model, recipe, device)
    sd = base.sd
    check_room(base, recipe, device, copies=5)  # with the EMA
    prior = class_images(recipe, base, cache)  # drawn before anything is trained
    unet = sd.unet.train().requires_grad_(True)
    load_initial_weights(recipe.init, {"unet": unet}, run)
    trained = in_training(unet, recipe, device)
    predict = compiled(unet, recipe, device)
    data = CaptionedLatents(recipe, base.parts(), sd.schedule.num_steps, cache, device, prior)

    def given_captions(_: int, batch: Batch) -> Model:
        """Return the U-Net, conditioned on the captions of a batch."""
        return conditioned(predict, data.conditioning(batch))

    step = denoising_step(recipe, data, sd.spec, trained, given_captions, device)
    model = StableDiffusion(trained.average.module, sd.vae, sd.text, sd.spec)
    prompts = data.texts[: 8 * data.each : data.each]

    def samples() -> Image.Image:
        """Draw images of up to eight captions, from the same noise every time."""
        return grid([sample_images(model, prompts, recipe.size)], scale=3)

    networks: dict[str, nn.Module] = {"unet": unet, "ema": trained.average.module}
    frozen, states = frozen_base(base, recipe, cache), trained.states("unet")
    return TrainingJob(networks, states, step, recipe.batch, samples, frozen, trained.skeletons)


def export(job: TrainingJob, recipe: DreamBoothRecipe, cache: Path, folder: Path) -> None:
    """Write the whole model, with the averaged weights, in the published layout.

    Args:
        job: The finished training.
        recipe: Its settings.
        cache: Not used, because the other parts come from the model in `recipe.model`.
        folder: Where to write.

    Raises:
        ValueError: If the model has changed since the training started.
    """
    unet = job.networks["ema"]
    assert isinstance(unet, UNet)
    check_unchanged(job, recipe.model, recipe.tokenizer)
    sd = load_base(recipe.model, recipe, torch.device("cpu")).sd
    StableDiffusion(unet, sd.vae, sd.text, sd.spec).save_pretrained(
        folder, torch.float16, MAX_BYTES
    )
