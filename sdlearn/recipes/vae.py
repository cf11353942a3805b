"""Training of the autoencoder: the training step, and the settings of the shipped model."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from PIL import Image
from torch import Tensor, nn
from torch._functorch import config as functorch

from sdlearn import weights
from sdlearn.distributed import average, own_rows
from sdlearn.recipes.contact_sheets import grid
from sdlearn.recipes.data import Batches, images_key, to_pixels, to_tensor, training_images
from sdlearn.recipes.initial_weights import check_initial_weights, load_initial_weights
from sdlearn.recipes.muon import Muon
from sdlearn.recipes.noise import draw_noise
from sdlearn.recipes.perceptual import load_features
from sdlearn.recipes.ranges import Channels, Decay, Place, Range, check_multiples, check_size
from sdlearn.recipes.recipe import MAX_BYTES, Recipe
from sdlearn.recipes.room import check_memory
from sdlearn.training import (
    EMA,
    TrainingJob,
    learning_rate,
    step_generator,
    update,
)
from sdlearn.utils.atomic_files import write_json
from sdlearn.utils.device import autocast, channels_last, need_compiler, seeded
from sdlearn.utils.run_limits import MAX_STEPS
from sdlearn.vae import VAE, VAEConfig
from sdlearn.vae_losses import (
    PatchDiscriminator,
    PerceptualLoss,
    adversarial_weight,
    discriminator_loss,
    generator_loss,
    kl_divergence,
)
from sdlearn.versions import STORYBOOK
from sdlearn.weights.configs import vae_config_to_json


@dataclass(frozen=True, kw_only=True)
class VAERecipe(Recipe):
    """Settings of the autoencoder's training.

    The perceptual and the adversarial loss start late, because they only cost time until colours
    and shapes are approximately right. The adversarial loss is scaled to the gradient of the
    reconstruction loss, so its weight needs no tuning as the error falls.

    Attributes:
        block_out_channels: Channels of the levels.
        layers_per_block: ResBlocks of a level.
        latent_channels: Channels of a latent.
        norm_num_groups: Groups of the group norms.
        kl: Weight of the KL divergence, summed over a latent, against the absolute error, averaged
            over pixel values. Latent diffusion uses the same 1e-6 against the error *summed* over
            pixel values, which is weaker by their number (12,288 at 64 x 64). This stronger weight
            keeps the latents of a small, briefly trained network in bounds, with no measurable
            loss of sharpness.
        logvar: Initial log-variance of the posterior; -6 is almost deterministic.
        flip: Mirror half of the images.
        mse: Weight of the squared error, in addition to the absolute error. PSNR measures the
            squared error, which is largest at outlines. From random weights, 1,800 steps of batch
            16 ended at 27.8 dB and an SSIM of 0.893 on 200 test renders with a weight of 20, and
            at 25.7 dB and 0.864 without. 400 steps on a well-trained autoencoder gained 0.4 dB.
        decoder_only: Freeze the encoder, as in stabilityai/sd-vae-ft-mse. The latents stay the
            same, so a U-Net trained on them works with the new decoder.
        perceptual: Weight of the perceptual loss.
        perceptual_start: Fraction of the steps after which the perceptual loss starts.
        perceptual_network: "" for the shipped network, "vgg16", or a folder.
        discriminator: Weight of the adversarial loss, relative to the reconstruction loss.
        discriminator_start: Fraction of the steps after which the discriminator starts.
        discriminator_warmup: Steps for which the discriminator learns before it is used.
        ema: Decay of the exponential moving average of the weights.
    """

    block_out_channels: Channels = STORYBOOK.vae.block_out_channels
    layers_per_block: Annotated[int, Range(1, 8)] = STORYBOOK.vae.layers_per_block
    latent_channels: Annotated[int, Range(1, 64)] = STORYBOOK.vae.latent_channels
    norm_num_groups: Annotated[int, Range(1, 256)] = STORYBOOK.vae.norm_num_groups
    kl: Annotated[float, Range(0, 10)] = 1e-6
    logvar: Annotated[float, Range(-30, 20)] = -6.0
    flip: bool = True
    mse: Annotated[float, Range(0, 10_000)] = 0.0
    decoder_only: bool = False
    perceptual: Annotated[float, Range(0, 1000)] = 0.1
    perceptual_start: Annotated[float, Range(0, 1)] = 0.5
    perceptual_network: Place = ""
    discriminator: Annotated[float, Range(0, 1000)] = 0.1
    discriminator_start: Annotated[float, Range(0, 1)] = 0.8
    discriminator_warmup: Annotated[int, Range(0, MAX_STEPS)] = 200
    ema: Decay = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        check_multiples(
            "block_out_channels", self.block_out_channels, self.norm_num_groups, "norm_num_groups"
        )
        check_size(self.size, len(self.block_out_channels))
        if self.precision == "fp16":  # gradients balance the losses before they are scaled
            raise ValueError("precision is fp16; accepted for the vae: auto, float32, bf16")

    @property
    def has_perceptual(self) -> bool:
        """Whether the perceptual loss takes part."""
        return self.perceptual > 0 and self.perceptual_start < 1

    @property
    def has_discriminator(self) -> bool:
        """Whether the adversarial loss takes part."""
        return self.discriminator > 0 and self.discriminator_start < 1


RECIPES = {
    # The losses of the last run of the shipped autoencoder, which sharpened the outlines.
    "storybook": VAERecipe(
        steps=20_000, batch=16, lr=4e-3, warmup=200, scenes=40_000,
        mse=20.0, perceptual=0.0, discriminator=0.0,
    ),
    # One or two minutes at half the size: enough for skies and grounds, hardly more.
    "small": VAERecipe(
        steps=400, batch=16, lr=4e-3, warmup=20, scenes=1000, size=32,
        block_out_channels=(16, 24, 32, 32), norm_num_groups=8,
        perceptual=0.0, discriminator=0.0, ema=0.98,
    ),
}  # fmt: skip


def make_job(
    recipe: VAERecipe, cache: Path, device: torch.device, run: Path | None = None
) -> TrainingJob:
    """Build the networks, the optimizers and the training step.

    Args:
        recipe: The settings.
        cache: Folder for rendered images.
        device: Where to train.
        run: Folder of the run that goes on from its checkpoint; None for a new one.

    Raises:
        FileNotFoundError: If the network of the perceptual loss is missing.
        ValueError: If the recipe needs torchvision or a compiler that is not installed.
    """
    frozen = {"images": images_key(recipe, cache)} if recipe.data else {}
    check_initial_weights(recipe.init, "vae", run)
    channels = recipe.block_out_channels[0]
    check_memory(recipe, device, lambda: new_vae(recipe), channels, copies=4)  # and its EMA
    uses_perceptual, has_discriminator = recipe.has_perceptual, recipe.has_discriminator
    if uses_perceptual:
        features, stages = load_features(recipe.perceptual_network, device)
        perceptual = PerceptualLoss(features, [1 / stages] * stages)
        check_size(recipe.size, stages)
    with seeded(recipe.seed):
        vae = new_vae(recipe)
        if has_discriminator:
            discriminator = PatchDiscriminator(width=32, depth=2)
    networks: dict[str, nn.Module] = {"vae": vae}
    if has_discriminator:
        networks["discriminator"] = discriminator
    load_initial_weights(recipe.init, networks, run)
    channels_last(vae, device)
    average = EMA(vae, recipe.ema)
    if recipe.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    encode, decode = vae.encode, vae.decode
    if recipe.compile:
        need_compiler(device)
        encode, decode = torch.compile(encode), torch.compile(decode)
    optimizer = Muon(p for p in vae.parameters() if p.requires_grad)
    networks["ema"] = average.module
    optimizers: dict[str, torch.optim.Optimizer] = {"vae": optimizer}

    pages = training_images(recipe, cache)
    batches = Batches(pages, recipe.seed, recipe.batch, device)

    if has_discriminator:
        channels_last(discriminator, device)
        discriminator_optimizer = torch.optim.AdamW(
            discriminator.parameters(),
            betas=(0.5, 0.9),
            weight_decay=0.0,
            fused=device.type == "cuda",
        )
        optimizers["discriminator"] = discriminator_optimizer
    perceptual_from = round(recipe.perceptual_start * recipe.steps)
    discriminator_from = round(recipe.discriminator_start * recipe.steps)

    def batch(k: int) -> Tensor:
        x = to_tensor(batches.rows(own_rows(batches.indices(k))), device)
        if recipe.flip:  # no captions are used, so left and right may be swapped
            coins = torch.rand(recipe.batch, generator=step_generator(recipe.seed, k, 1)) < 0.5
            x = torch.where(own_rows(coins).to(device).view(-1, 1, 1, 1), x.flip(3), x)
        return x.contiguous(memory_format=torch.channels_last)

    def step(k: int) -> dict[str, Tensor]:
        x = batch(k)
        lr = learning_rate(k, recipe.steps, recipe.lr, recipe.warmup)
        with autocast(device, recipe.precision):
            mean, logvar = encode(x)
            mean, logvar = mean.float(), logvar.float()
            noise = own_rows(draw_noise((recipe.batch, *mean.shape[1:]), recipe.seed, k, device))
            y = decode(mean + torch.exp(0.5 * logvar) * noise).float()
        l1, kl = (y - x).abs().mean(), kl_divergence(mean, logvar)
        reconstruction = l1 + recipe.mse * (y - x).square().mean() if recipe.mse else l1
        metrics = {"l1": l1, "kl": kl, "psnr": psnr(y, x)}
        if uses_perceptual and k >= perceptual_from:
            with autocast(device, recipe.precision):
                metrics["perceptual"] = perceptual(y, x).float()
            reconstruction = reconstruction + recipe.perceptual * metrics["perceptual"]
        loss = reconstruction + recipe.kl * kl
        if has_discriminator and k >= discriminator_from + recipe.discriminator_warmup:
            with autocast(device, recipe.precision):
                adversarial = generator_loss(discriminator(y)).float()
            weight = adversarial_weight(reconstruction, adversarial, vae.decoder.conv_out.weight)
            loss = loss + recipe.discriminator * weight * adversarial
            metrics |= {"adversarial": adversarial, "adversarial_weight": weight}
        metrics["gradient"] = update(loss, optimizer, lr)
        if has_discriminator and k >= discriminator_from:
            with autocast(device, recipe.precision):
                d_loss = discriminator_loss(
                    discriminator(x).float(), discriminator(y.detach()).float()
                )
            update(d_loss, discriminator_optimizer, lr)
            metrics["discriminator"] = d_loss
        average.update(vae, k)
        return {"loss": loss, **metrics}

    shown = to_tensor(pages[: min(12, len(pages))], device)

    def samples() -> Image.Image:
        """Draw twelve pages and, below, their reconstructions by the EMA weights."""
        mean, _ = average.module.encode(shown)
        return grid([to_pixels(shown), to_pixels(average.module.decode(mean))], scale=2)

    # The adversarial weight needs two backward passes through the decoder before that of the step,
    # so a compiled decoder must not free its saved activations after the first one.
    keep_buffers = functorch.patch(donated_buffer=False)
    return TrainingJob(networks, optimizers, keep_buffers(step), recipe.batch, samples, frozen)


def new_vae(recipe: VAERecipe) -> VAE:
    """Build an autoencoder with random weights and a narrow posterior.

    With the usual bias of 0 the latents are mostly noise at first, and the decoder learns slowly.
    With a log-variance of -6 it learns like a plain autoencoder, and the KL term widens the
    posterior later.
    """
    config = VAEConfig(
        latent_channels=recipe.latent_channels,
        block_out_channels=recipe.block_out_channels,
        layers_per_block=recipe.layers_per_block,
        norm_num_groups=recipe.norm_num_groups,
        scaling_factor=1.0,  # measured after the training
    )
    vae = VAE(config)
    logvar = slice(recipe.latent_channels, None)
    assert vae.quant_conv.bias is not None
    with torch.no_grad():
        vae.quant_conv.weight[logvar] *= 0.1
        vae.quant_conv.bias[logvar] = recipe.logvar
    return vae


def psnr(y: Tensor, x: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of a batch in decibels, for images in [-1, 1].

    Args:
        y: Reconstructions, (b, 3, h, w), clamped to [-1, 1].
        x: Originals, (b, 3, h, w).
    """
    error = average((y.detach().clamp(-1, 1) - x).square().mean())  # over all processes
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


@torch.no_grad()
def latent_std(vae: VAE, pages: Batches, batches: int = 32) -> float:
    """Measure the standard deviation of unscaled posterior samples over all channels.

    Args:
        vae: The autoencoder.
        pages: Batches of training images.
        batches: Number of batches.
    """
    device = next(vae.parameters()).device
    total = torch.zeros(3, dtype=torch.float64)
    for k in range(batches):
        mean, logvar = vae.encode(to_tensor(pages(k), device))
        noise = draw_noise(mean.shape, pages.seed, k, device)
        z = (mean + torch.exp(0.5 * logvar) * noise).cpu().double()
        total += torch.tensor([z.numel(), z.sum(), z.square().sum()], dtype=torch.float64)
    count, first, second = total
    return float((second / count - (first / count) ** 2).sqrt())


def export(job: TrainingJob, recipe: VAERecipe, cache: Path, folder: Path) -> None:
    """Measure the scaling factor and write the EMA weights in the published layout.

    Args:
        job: The finished training.
        recipe: Its settings.
        cache: Folder of the rendered images.
        folder: Where to write; the files go into its folder vae/.
    """
    vae = job.networks["ema"]
    assert isinstance(vae, VAE)
    device = next(vae.parameters()).device
    pages = training_images(recipe, cache)
    std = latent_std(vae, Batches(pages, recipe.seed, 64, device))
    vae.config = dataclasses.replace(vae.config, scaling_factor=1 / std)
    write_json(folder / "vae" / "config.json", vae_config_to_json(vae.config, recipe.size))
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.save(vae, path, torch.float16, MAX_BYTES)
