"""Training of the U-Net: the training step, and the settings of the shipped model."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from PIL import Image
from torch import nn

from sdlearn.clip import CLIPTextConfig
from sdlearn.pipeline import StableDiffusion
from sdlearn.recipes.captioned_latents import CaptionedLatents, DiffusionRecipe
from sdlearn.recipes.contact_sheets import grid
from sdlearn.recipes.data import own_name, to_pixels
from sdlearn.recipes.denoising_step import compiled, denoising_step, in_training
from sdlearn.recipes.frozen_parts import FrozenParts, frozen_hashes
from sdlearn.recipes.initial_weights import load_initial_weights
from sdlearn.recipes.latent_cache import encoder_config
from sdlearn.recipes.ranges import Channels, Place, Range, check_levels, check_multiples
from sdlearn.recipes.recipe import MAX_BYTES
from sdlearn.recipes.room import check_memory
from sdlearn.text import TextEncoder
from sdlearn.training import TrainingJob
from sdlearn.unet import UNet, UNetConfig, zero_init_residuals
from sdlearn.utils.device import seeded
from sdlearn.vae import VAE, VAEConfig
from sdlearn.versions import SD1_5, STORYBOOK, ModelSpec

CONFIG = STORYBOOK.unet
SYSTEMS = {spec.name: spec for spec in (STORYBOOK, SD1_5)}
PROMPTS = (
    "a red cat to the left of a blue house on the sand at night",
    "a yellow star above a green tree on the grass at night",
    "a pink car on the street at sunset",
    "a striped purple balloon by day",
    "two orange fish at sea at dawn",
    "a waving person in red in the snow under grey clouds",
    "a black bird on the left and a spotted yellow umbrella on the right",
    "a blue snail in front of a red mushroom in a meadow",
)


@dataclass(frozen=True, kw_only=True)
class UNetRecipe(DiffusionRecipe):
    """Settings of the U-Net's training.

    Attributes:
        system: The system that the U-Net is for, "storybook" or "sd1.5". It decides the noise
            schedule and, if the number of levels is its own, which of them have attention. The
            parts of "sd1.5" have its sizes; those of the storybook may have any.
        block_out_channels: Channels of the levels.
        layers_per_block: ResBlocks of a level.
        num_heads: Attention heads of the levels.
        transformer_depth: Transformer blocks of the levels.
        vae: Folder of the frozen autoencoder, or "" for the shipped one.
        text: Folder of the frozen text encoder, or "" for the shipped one.
    """

    system: Annotated[str, Range(1, 20)] = STORYBOOK.name
    block_out_channels: Channels = CONFIG.block_out_channels
    layers_per_block: Annotated[int, Range(1, 8)] = CONFIG.layers_per_block
    num_heads: Annotated[tuple[int, ...], Range(1, 64, entries=(1, 6))] = CONFIG.num_heads
    transformer_depth: Annotated[tuple[int, ...], Range(1, 16, entries=(1, 6))] = (
        CONFIG.transformer_depth
    )
    vae: Place = ""
    text: Place = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.system not in SYSTEMS:
            raise ValueError(f"system is {self.system!r}; accepted: {', '.join(SYSTEMS)}")
        check_levels(self, "num_heads", "transformer_depth")
        for channels, heads in zip(self.block_out_channels, self.num_heads, strict=True):
            check_multiples("block_out_channels", channels, heads, "the level's num_heads")
        groups = CONFIG.norm_num_groups
        check_multiples("block_out_channels", self.block_out_channels, groups, "groups of a norm")

    @property
    def spec(self) -> ModelSpec:
        """The specification of the system."""
        return SYSTEMS[self.system]


RECIPES = {
    "storybook": UNetRecipe(
        steps=12_000, batch=64, lr=1e-3, warmup=50, scenes=24_000,
        min_snr=5.0, t_mean=-0.3, t_std=1.0,
    ),
    "small": UNetRecipe(
        steps=400, batch=32, lr=2e-3, warmup=30, scenes=1000, size=32,
        block_out_channels=(64, 96), layers_per_block=1, num_heads=(2, 3), ema=0.98,
    ),
    # The last stage of Stable Diffusion 1.5: 595,000 steps from the weights of 1.2 (--init), which
    # three stages had trained (`course.published_budgets.SD1_STAGES`). Steps, resolution and 10 %
    # empty captions: model card of stable-diffusion-v1-5. Batch 32 x 8 GPUs x 2 x 4 with 2 gradient
    # accumulations, AdamW, lr 1e-4 after a warm-up of 10,000 steps and then constant: the same, and
    # the card of v1-4. EMA: LitEma's default in ldm/modules/ema.py. Weight decay: AdamW's default.
    # Only here: gradients clipped to a norm of 1, AdamW's second beta 0.99 instead of 0.999, and
    # latents that are encoded once.
    "sd1.5": UNetRecipe(
        steps=595_000, batch=2048, lr=1e-4, warmup=10_000, size=512, accumulate=2, lr_floor=1.0,
        dropout=0.1, ema=0.9999, weight_decay=0.01, system="sd1.5",
        block_out_channels=SD1_5.unet.block_out_channels,
        layers_per_block=SD1_5.unet.layers_per_block, num_heads=SD1_5.unet.num_heads,
        transformer_depth=SD1_5.unet.transformer_depth,
    ),
}  # fmt: skip


def make_job(
    recipe: UNetRecipe, cache: Path, device: torch.device, run: Path | None = None
) -> TrainingJob:
    """Build the networks, the optimizer and the training step.

    Args:
        recipe: The settings.
        cache: Folder for images, captions, latents and hidden states.
        device: Where to train.
        run: Folder of the run that goes on from its checkpoint; None for a new one.

    Raises:
        FileNotFoundError: If the autoencoder or the text encoder is missing.
        ValueError: If they do not fit the recipe, or the memory is too small.
    """
    parts = FrozenParts.load(recipe.vae, recipe.text, cache, device)
    vae, text = parts.vae, parts.text
    config = new_config(recipe, vae.config, encoder_config(text))
    levels = len(recipe.block_out_channels)
    check_multiples("size", recipe.size, vae.factor * 2 ** (levels - 1), f"for {levels} levels")
    width = max(1, recipe.block_out_channels[0] // vae.factor**2)
    check_memory(recipe, device, lambda: UNet(config), width, copies=5)  # and its EMA
    frozen = frozen_hashes(recipe, parts, cache)
    with seeded(recipe.seed):
        unet = UNet(config)
    zero_init_residuals(unet)
    load_initial_weights(recipe.init, {"unet": unet}, run)
    trained = in_training(unet, recipe, device)
    predict = compiled(unet, recipe, device)
    data = CaptionedLatents(recipe, parts, recipe.spec.schedule.num_steps, cache, device)

    step = denoising_step(recipe, data, recipe.spec, trained, lambda k, batch: predict, device)
    model = assemble(trained.average.module, vae, text, spec=recipe.spec)
    prompts = [*data.texts[: 8 * data.each : data.each]] if recipe.data else [*PROMPTS]

    def samples() -> Image.Image:
        """Draw the images of eight prompts from the same noise every time."""
        z = model.text_to_image(prompts, steps=20, seed=0, output="latent", progress=False)
        images = to_pixels(vae.to_image(z))
        return grid([images[:4], images[4:]] if len(images) == 8 else [images], scale=3)

    networks: dict[str, nn.Module] = {"unet": unet, "ema": trained.average.module}
    states = trained.states("unet")
    return TrainingJob(networks, states, step, recipe.batch, samples, frozen, trained.skeletons)


def new_config(recipe: UNetRecipe, vae: VAEConfig, text: CLIPTextConfig) -> UNetConfig:
    """Return the U-Net's configuration for a recipe and the frozen networks.

    Raises:
        ValueError: If the networks do not have the sizes of the recipe's system.
    """
    base, levels = recipe.spec.unet, len(recipe.block_out_channels)
    if recipe.spec is not STORYBOOK:
        found = ("text", recipe.text, text.hidden_size), ("vae", recipe.vae, vae.latent_channels)
        for (name, place, c), wanted in zip(
            found, (base.cross_attention_dim, base.in_channels), strict=True
        ):
            if c != wanted:
                raise ValueError(
                    f"{name} is {place or 'empty, the shipped one'}, with {c} channels; accepted "
                    f"for {recipe.system}: a folder of its own, with {wanted} channels"
                )
    has_attention = base.cross_attention
    return dataclasses.replace(
        base,
        in_channels=vae.latent_channels,
        out_channels=vae.latent_channels,
        block_out_channels=recipe.block_out_channels,
        layers_per_block=recipe.layers_per_block,
        cross_attention=has_attention if len(has_attention) == levels else (True,) * levels,
        transformer_depth=recipe.transformer_depth,
        num_heads=recipe.num_heads,
        cross_attention_dim=text.hidden_size,
        sample_size=recipe.size // 2 ** (len(vae.block_out_channels) - 1),
    )


def assemble(
    unet: UNet, vae: VAE, text: TextEncoder, name: str = "", spec: ModelSpec = STORYBOOK
) -> StableDiffusion:
    """Assemble a pipeline from its networks.

    Args:
        unet: The U-Net.
        vae: The autoencoder.
        text: The text encoder.
        name: Name of the model, after its training data; "" for that of the system.
        spec: The system that they belong to.
    """
    spec = dataclasses.replace(
        spec,
        name=name or spec.name,
        unet=unet.config,
        vae=vae.config,
        text=(encoder_config(text),),
        resolution=unet.config.sample_size * vae.factor,
    )
    return StableDiffusion(unet, vae, text, spec)


def export(job: TrainingJob, recipe: UNetRecipe, cache: Path, folder: Path) -> None:
    """Write the whole model, with the EMA weights of the U-Net, in the published layout.

    Args:
        job: The finished training.
        recipe: Its settings.
        cache: Folder of the cached latents; its parent holds the runs.
        folder: Where to write.

    Raises:
        ValueError: If the frozen networks have changed since the training started.
    """
    unet = job.networks["ema"]
    assert isinstance(unet, UNet)
    parts = FrozenParts.load(recipe.vae, recipe.text, cache, torch.device("cpu"))
    if not parts.hashes().items() <= job.frozen.items():
        raise ValueError(
            f"{parts.vae_folder} or {parts.text_folder} has changed while the U-Net was trained on "
            "it; restore the old weights and use --resume to write the model"
        )
    name = own_name(recipe.data) if recipe.data else ""
    assemble(unet, parts.vae, parts.text, name, recipe.spec).save_pretrained(
        folder, torch.float16, MAX_BYTES
    )
