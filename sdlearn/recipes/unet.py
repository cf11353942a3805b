"""Training the diffusion model: what one step is, and the numbers of the shipped one."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from sdlearn.pipeline import StableDiffusion
from sdlearn.recipes.data import (
    Batches,
    key,
    load_captions,
    load_pictures,
    storybook_hash,
    to_pixels,
)
from sdlearn.recipes.encoded import (
    encode_captions,
    encode_pages,
    encoder_config,
    load_text,
    load_vae,
    part_folder,
    weights_key,
)
from sdlearn.recipes.recipe import MAX_BYTES, Recipe
from sdlearn.recipes.sheets import grid
from sdlearn.text import TextEncoder
from sdlearn.training import (
    EMA,
    Job,
    autocast,
    diffusion_loss,
    draw_noise,
    learning_rate,
    need_compiler,
    seeded,
    step_generator,
    update,
)
from sdlearn.unet import UNet, UNetConfig, start_at_zero
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
    """The diffusion model's own numbers.

    vae, text: folders of the frozen parts, "" for the shipped ones. dropout: share of captions
    replaced by the empty one, for classifier-free guidance. min_snr: the gamma of Min-SNR
    weighting, 0 for none. t_mean, t_std: where the times of training crowd, see `draw_times`;
    t_std 0 for all times alike. captions: paraphrases of each scene.
    """

    block_out_channels: tuple[int, ...] = CONFIG.block_out_channels
    layers_per_block: int = CONFIG.layers_per_block
    num_heads: tuple[int, ...] = CONFIG.num_heads
    transformer_depth: tuple[int, ...] = CONFIG.transformer_depth
    vae: str = ""
    text: str = ""
    captions: int = 1
    dropout: float = 0.1
    min_snr: float = 0.0
    t_mean: float = 0.0
    t_std: float = 0.0
    weight_decay: float = 0.01
    ema: float = 0.999


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


def make_job(recipe: UNetRecipe, cache: Path, device: torch.device) -> Job:
    """Networks, optimizer and the step of a training; latents and states are kept in `cache`."""
    vae_folder = part_folder(recipe.vae, "vae", cache.parent / "vae")
    text_folder = part_folder(recipe.text, "text_encoder", cache.parent / "clip")
    vae, text = load_vae(vae_folder, device), load_text(text_folder, device)
    with seeded(recipe.seed):
        unet = UNet(new_config(recipe, vae, text))
    start_at_zero(unet)
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

    pages = load_pictures(recipe.scenes, recipe.size, cache, recipe.data)
    said = load_captions(
        len(pages), cache, recipe.data, per_scene=recipe.captions, size=recipe.size
    )
    each = len(said[0])
    texts = [caption for of_page in said for caption in of_page]
    # A user's pictures are named by what is in them, drawn pages by how they are drawn.
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

    def sheet() -> Image.Image:
        """Eight prompts, always from the same noise."""
        z = model.text_to_image(
            prompts, steps=20, guidance_scale=5.0, seed=0, output="latent", progress=False
        )
        pictures = to_pixels(vae.to_image(z))
        return grid([pictures[:4], pictures[4:]] if len(pictures) == 8 else [pictures], scale=3)

    networks: dict[str, nn.Module] = {"unet": unet, "ema": average.module}
    frozen = {"vae": weights_key(vae_folder), "text": weights_key(text_folder)}
    return Job(networks, {"unet": optimizer}, step, recipe.batch, sheet, frozen)


def draw_times(
    n: int, num_steps: int, mean: float, std: float, generator: torch.Generator
) -> Tensor:
    """n times of training, integers (n,) in 0..num_steps-1.

    Uniform where std is 0, as for Stable Diffusion 1 and 2; otherwise the logistic function of a
    normal variable (arXiv:2403.03206, section 3.1): half of the times are below
    num_steps / (1 + exp(-mean)), few near the ends, where there is little to learn.
    """
    if std == 0:
        return torch.randint(num_steps, (n,), generator=generator)
    t = torch.sigmoid(mean + std * torch.randn(n, generator=generator)) * num_steps
    return t.long().clamp(max=num_steps - 1)


def new_config(recipe: UNetRecipe, vae: VAE, text: TextEncoder) -> UNetConfig:
    """The configuration that fits the frozen parts."""
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
    """The whole model, to make pictures with; `name` says what world it knows."""
    spec = dataclasses.replace(
        STORYBOOK,
        name=name,
        unet=unet.config,
        vae=vae.config,
        text=(encoder_config(text),),
        size=unet.config.sample_size * vae.factor,
    )
    return StableDiffusion(unet, vae, text, spec)


def export(job: Job, recipe: UNetRecipe, cache: Path, folder: Path) -> None:
    """Write the whole model in the published layout: the averaged U-Net with its frozen parts."""
    unet = job.networks["ema"]
    assert isinstance(unet, UNet)
    cpu = torch.device("cpu")
    vae_folder = part_folder(recipe.vae, "vae", cache.parent / "vae")
    text_folder = part_folder(recipe.text, "text_encoder", cache.parent / "clip")
    if job.frozen != {"vae": weights_key(vae_folder), "text": weights_key(text_folder)}:
        raise ValueError(
            f"{vae_folder} or {text_folder} has changed while the U-Net was trained on it; put "
            "back what was there and --resume, to write the model"
        )
    vae, text = load_vae(vae_folder, cpu), load_text(text_folder, cpu)
    name = Path(recipe.data).resolve().name if recipe.data else STORYBOOK.name
    assemble(unet, vae, text, name).save_pretrained(folder, torch.float16, MAX_BYTES)
