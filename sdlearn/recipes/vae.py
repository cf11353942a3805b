"""Training the autoencoder: what one step is, and the numbers of the shipped one."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch._functorch import config as functorch

from sdlearn import weights
from sdlearn.files import write_json
from sdlearn.recipes.data import Batches, load_pictures, to_pixels, to_tensor
from sdlearn.recipes.muon import Muon
from sdlearn.recipes.perceptual import load_features
from sdlearn.recipes.recipe import MAX_BYTES, Recipe
from sdlearn.recipes.sheets import grid
from sdlearn.training import (
    EMA,
    Job,
    autocast,
    channels_last,
    draw_noise,
    learning_rate,
    need_compiler,
    seeded,
    step_generator,
    update,
)
from sdlearn.vae import (
    VAE,
    PatchDiscriminator,
    PerceptualLoss,
    VAEConfig,
    adversarial_weight,
    discriminator_loss,
    generator_loss,
    kl_divergence,
)
from sdlearn.versions import STORYBOOK
from sdlearn.writing import vae_json


@dataclass(frozen=True, kw_only=True)
class VAERecipe(Recipe):
    """The autoencoder's own numbers.

    kl weighs the divergence summed over a latent against the absolute error averaged over pixel
    values. Latent diffusion uses the same 1e-6 against the error *summed* over pixel values, which
    is weaker by their number (12,288 at 64 x 64); a small network trained briefly keeps its latents
    in bounds better this way, and loses no sharpness that can be measured.

    The perceptual and the adversarial loss begin at a fraction of the horizon: until colours and
    shapes are about right they only cost time. The adversarial one is scaled to the gradient of the
    reconstruction, so `discriminator` is a share of it and needs no tuning as the error falls; the
    discriminator learns alone for its first `head_start` steps.

    mse weighs the squared error beside the absolute one. Decibels are those of the squared error,
    and it is largest at the outlines. From random weights, 1,800 steps of batch 16 with a weight of
    20 ended at 27.8 dB and an SSIM of 0.893 on 200 test renders, without it at 25.7 and 0.864; 400
    steps on a well-trained autoencoder won 0.4 dB.

    decoder_only freezes the encoder, as the published fine-tuned autoencoders of Stable Diffusion
    did (stabilityai/sd-vae-ft-mse): latents keep their meaning, so a U-Net trained on them serves
    the new decoder, and may be trained while the decoder still is.
    """

    block_out_channels: tuple[int, ...] = STORYBOOK.vae.block_out_channels
    layers_per_block: int = STORYBOOK.vae.layers_per_block
    latent_channels: int = STORYBOOK.vae.latent_channels
    norm_num_groups: int = STORYBOOK.vae.norm_num_groups
    kl: float = 1e-6
    logvar: float = -6.0  # where the posterior's log-variance begins: nearly deterministic
    flip: bool = True
    mse: float = 0.0
    decoder_only: bool = False
    perceptual: float = 0.1
    perceptual_start: float = 0.5
    perceptual_network: str = ""  # "" for the shipped one, "vgg16", or a folder
    discriminator: float = 0.1
    discriminator_start: float = 0.8
    head_start: int = 200
    ema: float = 0.999


RECIPES = {
    # The losses of the shipped one's last run, which made its outlines crisp.
    "storybook": VAERecipe(
        steps=20_000, batch=16, lr=4e-3, warmup=200, scenes=40_000,
        mse=20.0, perceptual=0.0, discriminator=0.0,
    ),
    # A minute or two at half the size: skies and grounds, hardly more.
    "small": VAERecipe(
        steps=400, batch=16, lr=4e-3, warmup=20, scenes=1000, size=32,
        block_out_channels=(16, 24, 32, 32), norm_num_groups=8,
        perceptual=0.0, discriminator=0.0, ema=0.98,
    ),
}  # fmt: skip


def make_job(recipe: VAERecipe, cache: Path, device: torch.device) -> Job:
    """Networks, optimizers and the step of a training; drawn pages are kept in `cache`."""
    listens_to_eye = recipe.perceptual > 0 and recipe.perceptual_start < 1
    if listens_to_eye:
        features, stages = load_features(recipe.perceptual_network, device)
        perceptual = PerceptualLoss(features, [1 / stages] * stages)
    has_critic = recipe.discriminator > 0 and recipe.discriminator_start < 1
    with seeded(recipe.seed):
        vae = new_vae(recipe)
        if has_critic:
            critic = PatchDiscriminator(width=32, depth=2)
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
    networks: dict[str, nn.Module] = {"vae": vae, "ema": average.module}
    optimizers: dict[str, torch.optim.Optimizer] = {"vae": optimizer}

    pages = load_pictures(recipe.scenes, recipe.size, cache, recipe.data)
    batches = Batches(pages, recipe.seed, recipe.batch, device)

    if has_critic:
        channels_last(critic, device)
        critic_optimizer = torch.optim.AdamW(
            critic.parameters(), betas=(0.5, 0.9), weight_decay=0.0, fused=device.type == "cuda"
        )
        networks["discriminator"] = critic
        optimizers["discriminator"] = critic_optimizer
    perceptual_from = round(recipe.perceptual_start * recipe.steps)
    critic_from = round(recipe.discriminator_start * recipe.steps)

    def batch(k: int) -> Tensor:
        x = to_tensor(batches(k), device)
        if recipe.flip:  # the autoencoder reads no captions, so left and right may change places
            coins = torch.rand(len(x), generator=step_generator(recipe.seed, k, 1)) < 0.5
            x = torch.where(coins.to(device).view(-1, 1, 1, 1), x.flip(3), x)
        return x.contiguous(memory_format=torch.channels_last)

    def step(k: int) -> dict[str, Tensor]:
        x = batch(k)
        lr = learning_rate(k, recipe.steps, recipe.lr, recipe.warmup)
        with autocast(device):
            mean, logvar = encode(x)
            mean, logvar = mean.float(), logvar.float()
            noise = draw_noise(mean.shape, recipe.seed, k, device)
            y = decode(mean + torch.exp(0.5 * logvar) * noise).float()
        l1, kl = (y - x).abs().mean(), kl_divergence(mean, logvar)
        reconstruction = l1 + recipe.mse * (y - x).square().mean() if recipe.mse else l1
        metrics = {"l1": l1, "kl": kl, "psnr": psnr(y, x)}
        if listens_to_eye and k >= perceptual_from:
            with autocast(device):
                metrics["perceptual"] = perceptual(y, x).float()
            reconstruction = reconstruction + recipe.perceptual * metrics["perceptual"]
        loss = reconstruction + recipe.kl * kl
        if has_critic and k >= critic_from + recipe.head_start:
            with autocast(device):
                adversarial = generator_loss(critic(y)).float()
            weight = adversarial_weight(reconstruction, adversarial, vae.decoder.conv_out.weight)
            loss = loss + recipe.discriminator * weight * adversarial
            metrics |= {"adversarial": adversarial, "adversarial_weight": weight}
        metrics["gradient"] = update(loss, optimizer, lr)
        if has_critic and k >= critic_from:
            with autocast(device):
                critic_loss = discriminator_loss(critic(x).float(), critic(y.detach()).float())
            update(critic_loss, critic_optimizer, lr)
            metrics["discriminator"] = critic_loss
        average.update(vae, k)
        return {"loss": loss, **metrics}

    shown = to_tensor(pages[: min(12, len(pages))], device)

    def sheet() -> Image.Image:
        """Twelve pages over their reconstructions by the averaged weights."""
        mean, _ = average.module.encode(shown)
        return grid([to_pixels(shown), to_pixels(average.module.decode(mean))], scale=2)

    # The adversarial weight goes back through the decoder twice before the step does, so what a
    # compiled decoder keeps for the backward pass must not be used up by the first time.
    keeping = functorch.patch(donated_buffer=False)
    return Job(networks, optimizers, keeping(step), recipe.batch, sheet)


def new_vae(recipe: VAERecipe) -> VAE:
    """A fresh autoencoder whose posterior is narrow.

    With the usual bias of 0 the decoder sees little but noise at first and learns slowly; from
    a log-variance of -6 it learns as a plain autoencoder does, and the KL term opens the posterior.
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
    """Peak signal-to-noise ratio of a batch in decibels; the peak-to-peak range is 2."""
    return 10 * torch.log10(4 / (y.detach().clamp(-1, 1) - x).square().mean().clamp(min=1e-10))


@torch.no_grad()
def latent_std(vae: VAE, pages: Batches, batches: int = 32) -> float:
    """Standard deviation of the unscaled posterior samples over training pages, all channels."""
    device = next(vae.parameters()).device
    total = torch.zeros(3, dtype=torch.float64)
    for k in range(batches):
        mean, logvar = vae.encode(to_tensor(pages(k), device))
        noise = draw_noise(mean.shape, pages.seed, k, device)
        z = (mean + torch.exp(0.5 * logvar) * noise).cpu().double()
        total += torch.tensor([z.numel(), z.sum(), z.square().sum()], dtype=torch.float64)
    count, first, second = total
    return float((second / count - (first / count) ** 2).sqrt())


def export(job: Job, recipe: VAERecipe, cache: Path, folder: Path) -> None:
    """Write the averaged autoencoder in the published layout, its scaling factor measured."""
    vae = job.networks["ema"]
    assert isinstance(vae, VAE)
    device = next(vae.parameters()).device
    pages = load_pictures(recipe.scenes, recipe.size, cache, recipe.data)
    std = latent_std(vae, Batches(pages, recipe.seed, 64, device))
    vae.config = dataclasses.replace(vae.config, scaling_factor=1 / std)
    write_json(folder / "vae" / "config.json", vae_json(vae.config, recipe.size))
    place = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.save(vae, place, torch.float16, MAX_BYTES)
