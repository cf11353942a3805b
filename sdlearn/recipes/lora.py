"""Training of a low-rank adapter (LoRA) for a finished model, whose own weights are frozen.

An adapter changes the U-Net's attention projections and, with `text_encoder`, those of the text
encoder. It is a file of a few megabytes, which `StableDiffusion.load_adapter` and `sdlearn generate
--lora` read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from PIL import Image
from torch import nn

from sdlearn.lora import Adapter, attach, detach_all
from sdlearn.lora_layers import ATTENTION, TEXT_ATTENTION
from sdlearn.pipeline import StableDiffusion
from sdlearn.recipes.activation_checkpointing import checkpoint_activations
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
from sdlearn.recipes.earlier_run import load_earlier_run
from sdlearn.recipes.personal_recipe import PersonalRecipe, conditioned
from sdlearn.recipes.ranges import Range
from sdlearn.recipes.unet import PROMPTS
from sdlearn.training import TrainingJob
from sdlearn.utils.device import seeded
from sdlearn.weights.adapter_files import FILE_NAME
from sdlearn.weights.adapter_names import WRITTEN, AdapterLayout, Networks
from sdlearn.weights.adapter_saving import save_adapter

# The run that `init` names must have the same values of these settings.
SHAPE = ("rank", "alpha", "pattern", "text_encoder", "text_pattern")


@dataclass(frozen=True, kw_only=True)
class LoRARecipe(PersonalRecipe):
    """Settings of an adapter's training.

    Attributes:
        rank: r, the number of rows of A.
        alpha: The update is alpha / r · B A; 0 for alpha = r.
        pattern: A regular expression. The U-Net's layers in whose names it is found are adapted.
        text_encoder: Whether to adapt the text encoder too, or both of SDXL's. If so, captions are
            encoded in every step.
        text_pattern: Like `pattern`, for the text encoder.
        layout: Format of the exported file, "peft" or "kohya"; see `weights.adapter_saving`.
    """

    rank: Annotated[int, Range(1, 4096)] = 4
    alpha: Annotated[float, Range(0, 65_536)] = 0.0
    pattern: Annotated[str, Range(0, 1000)] = ATTENTION
    text_encoder: bool = False
    text_pattern: Annotated[str, Range(0, 1000)] = TEXT_ATTENTION
    layout: Annotated[str, Range(1, 20)] = "peft"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout not in WRITTEN:
            raise ValueError(f"layout is {self.layout!r}; accepted: {', '.join(WRITTEN)}")
        if self.shard:
            raise ValueError(
                "shard is True; accepted: False, because an adapter is small, and the model that "
                "it changes stays whole in each process"
            )


RECIPES = {
    "storybook": LoRARecipe(
        steps=1000, batch=16, lr=1e-3, warmup=20, scenes=24_000,
        min_snr=5.0, t_mean=-0.3, t_std=1.0, ema=0.99,
    ),
    "small": LoRARecipe(steps=100, batch=8, lr=1e-3, warmup=10, scenes=200, ema=0.98),
    # For a published model, named with --model: no EMA of the weights, no empty captions.
    "sd1.5": LoRARecipe(
        steps=15_000, batch=4, lr=1e-4, warmup=0, size=512, accumulate=4, lr_floor=0.0,
        dropout=0.0, ema=0.0,
    ),
}  # fmt: skip


def make_job(
    recipe: LoRARecipe, cache: Path, device: torch.device, run: Path | None = None
) -> TrainingJob:
    """Build the adapter, attach it, and build its optimizer and the training step.

    Args:
        recipe: The settings.
        cache: Folder for images, captions, latents and hidden states.
        device: Where to train.
        run: Folder of the run to resume from its checkpoint; None for a new run.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If the model or a pattern does not fit, or the memory is too small.
    """
    base = load_base(recipe.model, recipe, device)
    sd = base.sd
    check_room(base, recipe, device, copies=1)  # the U-Net is frozen
    with seeded(recipe.seed):
        adapters = new_adapters(recipe, sd.adaptable)
    load_earlier_run(recipe, "lora", RECIPES, SHAPE, adapters, run)
    trained = in_training(adapters, recipe, device)
    if recipe.activation_checkpointing:
        checkpoint_activations(sd.unet)
    # Before the adapters are attached: class images and cached states must not depend on them.
    prior = class_images(recipe, base, cache)
    data = CaptionedLatents(recipe, base.parts(), sd.schedule.num_steps, cache, device, prior)
    attach_all(sd, adapters)
    predict = compiled(sd.unet, recipe, device)

    def adapted(_: int, batch: Batch) -> Model:
        """Return the U-Net, conditioned on captions; an adapted text encoder encodes them again."""
        return conditioned(predict, data.conditioning(batch, encode=recipe.text_encoder))

    step = denoising_step(recipe, data, sd.spec, trained, adapted, device)
    prompts = data.texts[: 8 * data.each : data.each] if recipe.data else [*PROMPTS]

    def samples() -> Image.Image:
        """Draw images from the same noise, without an adapter and with the averaged one."""
        try:
            detach_all(*sd.adaptable.values())
            before = sample_images(sd, prompts, recipe.size)
            attach_all(sd, trained.average.module)
            return grid([before, sample_images(sd, prompts, recipe.size)], scale=3)
        finally:
            detach_all(*sd.adaptable.values())
            attach_all(sd, adapters)

    networks: dict[str, nn.Module] = {"lora": adapters, "ema": trained.average.module}
    frozen, states = frozen_base(base, recipe, cache), trained.states("lora")
    return TrainingJob(networks, states, step, recipe.batch, samples, frozen)


def new_adapters(recipe: LoRARecipe, networks: Networks) -> nn.ModuleDict:
    """New adapters, by the names of their networks.

    Args:
        recipe: Says which networks and layers are adapted.
        networks: See `StableDiffusion.adaptable`.

    Raises:
        ValueError: If a pattern matches no layer.
    """
    patterns = {"unet": recipe.pattern}
    if recipe.text_encoder:
        patterns |= {part: recipe.text_pattern for part in networks if part != "unet"}
    alpha = recipe.alpha or None
    return nn.ModuleDict(
        {
            part: Adapter.for_network(networks[part], recipe.rank, alpha, pattern)
            for part, pattern in patterns.items()
        }
    )


def attach_all(sd: StableDiffusion, adapters: nn.ModuleDict) -> None:
    """Attach each adapter to its network."""
    for part, adapter in adapters.items():
        assert isinstance(adapter, Adapter)
        attach(sd.adaptable[part], adapter)


def export(job: TrainingJob, recipe: LoRARecipe, cache: Path, folder: Path) -> None:
    """Write the averaged adapter as one safetensors file.

    Args:
        job: The finished training.
        recipe: Its settings.
        cache: Not used, because the file holds the adapter alone.
        folder: Where to write.

    Raises:
        ValueError: If the model has changed since the training started.
    """
    check_unchanged(job, recipe.model, recipe.tokenizer)
    networks = load_base(recipe.model, recipe, torch.device("cpu")).sd.adaptable
    parts = job.networks["ema"].named_children()
    adapters = {part: adapter for part, adapter in parts if isinstance(adapter, Adapter)}
    folder.mkdir(parents=True, exist_ok=True)
    layout: AdapterLayout = "kohya" if recipe.layout == "kohya" else "peft"
    save_adapter(networks, folder / FILE_NAME, adapters, layout, torch.float32)
