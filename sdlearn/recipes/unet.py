"""Training of the U-Net: the training step, and the settings of the shipped model."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from PIL import Image
from torch import Tensor, nn

from sdlearn.pipeline import StableDiffusion
from sdlearn.recipes.contact_sheets import grid
from sdlearn.recipes.data import (
    Batches,
    images_key,
    key,
    load_captions,
    load_images,
    storybook_hash,
    to_pixels,
)
from sdlearn.recipes.initial_weights import load_initial_weights
from sdlearn.recipes.latent_cache import (
    check_cache_room,
    encode_captions,
    encode_pages,
    encoder_config,
    load_text,
    load_vae,
    part_folder,
    weights_key,
)
from sdlearn.recipes.ranges import Channels, Decay, Place, Range, check_levels, check_multiples
from sdlearn.recipes.recipe import MAX_BYTES, Recipe
from sdlearn.recipes.room import check_memory
from sdlearn.text import TextEncoder
from sdlearn.training import (
    EMA,
    TrainingJob,
    diffusion_loss,
    draw_noise,
    learning_rate,
    seeded,
    step_generator,
    update,
)
from sdlearn.unet import UNet, UNetConfig, zero_init_residuals
from sdlearn.utils.device import autocast, need_compiler
from sdlearn.vae import VAE
from sdlearn.versions import STORYBOOK

CONFIG = STORYBOOK.unet
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
class UNetRecipe(Recipe):
    """Settings of the U-Net's training.

    Attributes:
        block_out_channels: Channels of the levels.
        layers_per_block: ResBlocks of a level.
        num_heads: Attention heads of the levels.
        transformer_depth: Transformer blocks of the levels.
        vae: Folder of the frozen autoencoder, or "" for the shipped one.
        text: Folder of the frozen text encoder, or "" for the shipped one.
        captions: Paraphrases of each scene.
        dropout: Fraction of captions replaced by the empty one, for classifier-free guidance.
        min_snr: The gamma of Min-SNR weighting, or 0 for none.
        t_mean: See `draw_times`.
        t_std: See `draw_times`; 0 for uniform timesteps.
        weight_decay: Of AdamW.
        ema: Decay of the exponential moving average of the weights.
    """

    block_out_channels: Channels = CONFIG.block_out_channels
    layers_per_block: Annotated[int, Range(1, 8)] = CONFIG.layers_per_block
    num_heads: Annotated[tuple[int, ...], Range(1, 64, entries=(1, 6))] = CONFIG.num_heads
    transformer_depth: Annotated[tuple[int, ...], Range(1, 16, entries=(1, 6))] = (
        CONFIG.transformer_depth
    )
    vae: Place = ""
    text: Place = ""
    captions: Annotated[int, Range(1, 1000)] = 1
    dropout: Annotated[float, Range(0, 1)] = 0.1
    min_snr: Annotated[float, Range(0, 1000)] = 0.0
    t_mean: Annotated[float, Range(-10, 10)] = 0.0
    t_std: Annotated[float, Range(0, 10)] = 0.0
    weight_decay: Annotated[float, Range(0, 1)] = 0.01
    ema: Decay = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        check_levels(self, "num_heads", "transformer_depth")
        for channels, heads in zip(self.block_out_channels, self.num_heads, strict=True):
            check_multiples("block_out_channels", channels, heads, "the level's num_heads")
        groups = CONFIG.norm_num_groups
        check_multiples("block_out_channels", self.block_out_channels, groups, "groups of a norm")


RECIPES = {
    "storybook": UNetRecipe(
        steps=12_000, batch=64, lr=1e-3, warmup=50, scenes=24_000,
        min_snr=5.0, t_mean=-0.3, t_std=1.0,
    ),
    "small": UNetRecipe(
        steps=400, batch=32, lr=2e-3, warmup=30, scenes=1000, size=32,
        block_out_channels=(64, 96), layers_per_block=1, num_heads=(2, 3), ema=0.98,
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
    """
    vae_folder = part_folder(recipe.vae, "vae", cache.parent / "vae")
    text_folder = part_folder(recipe.text, "text_encoder", cache.parent / "clip")
    vae, text = load_vae(vae_folder, device), load_text(text_folder, device)
    config = new_config(recipe, vae, text)
    levels = len(recipe.block_out_channels)
    check_multiples("size", recipe.size, vae.factor * 2 ** (levels - 1), f"for {levels} levels")
    width = max(1, recipe.block_out_channels[0] // vae.factor**2)
    check_memory(recipe, device, lambda: UNet(config), width, copies=5)  # and its EMA
    frozen = {"vae": weights_key(vae_folder), "text": weights_key(text_folder)}
    if recipe.data:
        frozen["images"] = images_key(recipe.data, recipe.size)
    with seeded(recipe.seed):
        unet = UNet(config)
    zero_init_residuals(unet)
    load_initial_weights(recipe.init, {"unet": unet}, run)
    unet.to(device)
    average = EMA(unet, recipe.ema)
    predict: Callable[..., Tensor] = unet
    if recipe.compile:
        need_compiler(device)
        predict = torch.compile(unet)
    optimizer = torch.optim.AdamW(
        unet.parameters(),
        betas=(0.9, 0.99),
        weight_decay=recipe.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )

    if not recipe.data:
        check_cache_room(recipe.scenes, recipe.captions, recipe.size, vae, text, cache)
    pages = load_images(recipe.scenes, recipe.size, cache, recipe.data)
    captions = load_captions(
        len(pages), cache, recipe.data, per_scene=recipe.captions, size=recipe.size
    )
    each = len(captions[0])
    texts = [caption for paraphrases in captions for caption in paraphrases]
    # The cached file of a user's images is named after their contents, that of rendered pages after
    # the settings of the renderer.
    identity = pages.tobytes() if recipe.data else (recipe.size, recipe.scenes, storybook_hash())
    kept = cache / f"latents-{weights_key(vae_folder, identity)}.npy"
    latents = Batches(encode_pages(vae, pages, kept), recipe.seed, recipe.batch, device)
    kept = cache / f"states-{weights_key(text_folder, key(texts))}.npy"
    states = Batches(encode_captions(text, texts, kept), recipe.seed, recipe.batch, device)
    with torch.no_grad():
        empty = text([""]).context  # (1, 77, d)

    def draw(k: int) -> tuple[Tensor, Tensor, Tensor]:
        """z_0 (b, c, h, w), t (b,) on the CPU, and context (b, 77, d) of batch k."""
        generator = step_generator(recipe.seed, k)
        b = recipe.batch
        t = draw_times(b, STORYBOOK.schedule.num_steps, recipe.t_mean, recipe.t_std, generator)
        wording = torch.randint(each, (b,), generator=generator).numpy()
        silent = torch.rand(b, generator=generator) < recipe.dropout
        rows = latents.indices(k)
        mean, std = latents.rows(rows).float().unbind(1)
        z_0 = mean + std * draw_noise(mean.shape, recipe.seed, k, device, stream=1)
        context = states.rows(rows * each + wording).float()
        context = torch.where(silent.to(device).view(-1, 1, 1), empty, context)
        return z_0 * vae.config.scaling_factor, t, context

    def step(k: int) -> dict[str, Tensor]:
        z_0, t, context = draw(k)
        eps = draw_noise(z_0.shape, recipe.seed, k, device, stream=2)
        with autocast(device):
            loss = diffusion_loss(
                predict, z_0, t, eps, context, STORYBOOK.schedule, min_snr=recipe.min_snr or None
            )
        lr = learning_rate(k, recipe.steps, recipe.lr, recipe.warmup)
        gradient = update(loss, optimizer, lr)
        average.update(unet, k)
        return {"loss": loss, "gradient": gradient}

    model = assemble(average.module, vae, text)
    prompts = [*texts[: 8 * each : each]] if recipe.data else [*PROMPTS]

    def samples() -> Image.Image:
        """Draw the images of eight prompts from the same noise every time."""
        z = model.text_to_image(
            prompts, steps=20, guidance_scale=5.0, seed=0, output="latent", progress=False
        )
        images = to_pixels(vae.to_image(z))
        return grid([images[:4], images[4:]] if len(images) == 8 else [images], scale=3)

    networks: dict[str, nn.Module] = {"unet": unet, "ema": average.module}
    return TrainingJob(networks, {"unet": optimizer}, step, recipe.batch, samples, frozen)


def draw_times(
    n: int, num_steps: int, mean: float, std: float, generator: torch.Generator
) -> Tensor:
    """Draw training timesteps, uniformly or from a logit-normal distribution.

    Stable Diffusion 1 and 2 draw them uniformly. The logit-normal distribution (arXiv:2403.03206,
    section 3.1) has few timesteps near both ends, where there is little to learn. Half of its
    timesteps are below num_steps / (1 + exp(-mean)).

    Args:
        n: Number of timesteps.
        num_steps: Length of the noise schedule.
        mean: Mean of the normal variable.
        std: Its standard deviation, or 0 for uniform timesteps.
        generator: The source of random numbers.

    Returns:
        Integers in 0 ... num_steps - 1, (n,).
    """
    if std == 0:
        return torch.randint(num_steps, (n,), generator=generator)
    t = torch.sigmoid(mean + std * torch.randn(n, generator=generator)) * num_steps
    return t.long().clamp(max=num_steps - 1)


def new_config(recipe: UNetRecipe, vae: VAE, text: TextEncoder) -> UNetConfig:
    """Return the U-Net's configuration for a recipe and the frozen networks."""
    return dataclasses.replace(
        CONFIG,
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        block_out_channels=recipe.block_out_channels,
        layers_per_block=recipe.layers_per_block,
        cross_attention=(True,) * len(recipe.block_out_channels),
        transformer_depth=recipe.transformer_depth,
        num_heads=recipe.num_heads,
        cross_attention_dim=encoder_config(text).hidden_size,
        sample_size=recipe.size // vae.factor,
    )


def assemble(
    unet: UNet, vae: VAE, text: TextEncoder, name: str = STORYBOOK.name
) -> StableDiffusion:
    """Assemble a pipeline from its networks.

    Args:
        unet: The U-Net.
        vae: The autoencoder.
        text: The text encoder.
        name: Name of the model, after its training data.
    """
    spec = dataclasses.replace(
        STORYBOOK,
        name=name,
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
    cpu = torch.device("cpu")
    vae_folder = part_folder(recipe.vae, "vae", cache.parent / "vae")
    text_folder = part_folder(recipe.text, "text_encoder", cache.parent / "clip")
    frozen = {"vae": weights_key(vae_folder), "text": weights_key(text_folder)}
    if not frozen.items() <= job.frozen.items():
        raise ValueError(
            f"{vae_folder} or {text_folder} has changed while the U-Net was trained on it; restore "
            "the old weights and use --resume to write the model"
        )
    vae, text = load_vae(vae_folder, cpu), load_text(text_folder, cpu)
    name = Path(recipe.data).resolve().name if recipe.data else STORYBOOK.name
    assemble(unet, vae, text, name).save_pretrained(folder, torch.float16, MAX_BYTES)
