"""Training of an inpainting U-Net, which has nine input channels, starting from a finished model.

The weights of the five extra channels (the mask, and the latent of the masked image) start at zero,
so at first the U-Net predicts exactly what the finished model predicts (Rombach et al.,
arXiv:2112.10752, and the model card of Stable Diffusion 1.5's inpainting model).
"""

import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sdlearn.inpainting import inpaint_channels, masked_image, widen_for_inpainting
from sdlearn.pipeline import StableDiffusion
from sdlearn.recipes import hole_masks
from sdlearn.recipes.base_model import check_room, check_unchanged, frozen_base, load_base
from sdlearn.recipes.captioned_latents import Batch, CaptionedLatents, DiffusionRecipe
from sdlearn.recipes.contact_sheets import grid
from sdlearn.recipes.data import Batches, Images, file_hash, scene, to_pixels, to_tensor
from sdlearn.recipes.denoising_step import Model, compiled, denoising_step, in_training
from sdlearn.recipes.initial_weights import load_initial_weights
from sdlearn.recipes.latent_cache import HALF, cached, weights_key
from sdlearn.recipes.ranges import Place, Range
from sdlearn.recipes.recipe import MAX_BYTES
from sdlearn.storybook import masks
from sdlearn.training import TrainingJob
from sdlearn.unet import UNet
from sdlearn.vae import VAE
from sdlearn.versions import inpainting_spec


@dataclass(frozen=True, kw_only=True)
class InpaintRecipe(DiffusionRecipe):
    """Settings of the inpainting U-Net's training.

    Attributes:
        model: Folder of the model to start from, or "" for the shipped one.
        holes: Number of masks for each image.
    """

    model: Place = ""
    holes: Annotated[int, Range(1, 1000)] = 4


# The noisiest timesteps decide what fills the hole, so the U-Net must learn to use the masked image
# there. With the timesteps of the U-Net's own recipe (mean -0.3, standard deviation 1), only six in
# ten thousand are above 950, and at those the trained U-Net ignored the masked image.
RECIPES = {
    "storybook": InpaintRecipe(
        steps=8000, batch=16, lr=5e-4, warmup=50, scenes=24_000,
        min_snr=5.0, t_mean=1.2, t_std=1.2,
    ),
    "small": InpaintRecipe(steps=100, batch=8, lr=5e-4, warmup=10, scenes=200, ema=0.98),
}  # fmt: skip


def make_job(
    recipe: InpaintRecipe, cache: Path, device: torch.device, run: Path | None = None
) -> TrainingJob:
    """Widen the finished U-Net to nine input channels, and build the step that trains it.

    Args:
        recipe: The settings.
        cache: Folder for images, captions, hidden states, and latents of whole and masked images.
        device: Where to train.
        run: Folder of the run to resume from its checkpoint; None for a new run.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If the model does not fit the recipe, or the memory is too small.
    """
    base = load_base(recipe.model, recipe, device)
    sd, parts = base.sd, base.parts()
    check_room(base, recipe, device, copies=6)  # with the EMA and the original model
    unet = widen_for_inpainting(sd.unet)
    load_initial_weights(recipe.init, {"unet": unet}, run)
    unet.train().requires_grad_(True)
    trained = in_training(unet, recipe, device)
    predict = compiled(unet, recipe, device)
    data = CaptionedLatents(recipe, parts, sd.schedule.num_steps, cache, device)
    drawn_by = file_hash(Path(hole_masks.__file__))
    what = weights_key(parts.vae_folder, data.identity, recipe.holes, recipe.seed, drawn_by)
    encoded = encode_holes(recipe, sd.vae, data.pages, cache / f"holes-{what}.npy")
    holes = Batches(encoded, recipe.seed, recipe.batch, device)

    def with_holes(k: int, batch: Batch) -> Model:
        """Return the U-Net as a function that appends the extra channels of batch k."""
        which = np.random.default_rng([recipe.seed, k, 1]).integers(recipe.holes, size=recipe.batch)
        extra = holes.rows(batch.rows * recipe.holes + which[batch.places]).float()
        return lambda z, t, context: predict(torch.cat([z, extra], dim=1), t, context)

    step = denoising_step(recipe, data, sd.spec, trained, with_holes, device)
    model = assemble(sd, trained.average.module)
    shown = data.pages[:8]

    def samples() -> Image.Image:
        """Repaint a hole in up to eight pages; return the pages, masked pages and results."""
        mask = torch.stack([hole(recipe, k, 1)[None] for k in range(len(shown))]).float()
        x = to_tensor(np.array(shown))
        painted = model.inpaint(
            data.texts[: len(shown) * data.each : data.each], (x + 1) / 2, mask, steps=20, seed=0,
            progress=False,
        )  # fmt: skip
        rows = [np.array(shown), to_pixels(masked_image(x, mask))]
        return grid([*rows, np.stack([np.asarray(image) for image in painted])], scale=3)

    networks: dict[str, nn.Module] = {"unet": unet, "ema": trained.average.module}
    frozen, states = frozen_base(base, recipe, cache), trained.states("unet")
    return TrainingJob(networks, states, step, recipe.batch, samples, frozen, trained.skeletons)


def hole(recipe: InpaintRecipe, k: int, j: int) -> Tensor:
    """Return mask j of page k, (size, size) of 0 and 1; the same arguments give the same mask."""
    things = [] if recipe.data else masks_of(k, recipe.size)
    mask = hole_masks.random_mask(random.Random(f"{recipe.seed}-{k}-{j}"), recipe.size, things)
    return torch.from_numpy(mask)


@lru_cache(maxsize=1)
def masks_of(k: int, size: int) -> list[Image.Image]:
    """Return the masks of page k's things, cached for the page's next hole."""
    return masks(scene(k), size)


def encode_holes(recipe: InpaintRecipe, vae: VAE, pages: Images, path: Path) -> HALF:
    """Draw the masks of all pages and encode the masked pages, or load them from `path`.

    Args:
        recipe: The settings.
        vae: The autoencoder.
        pages: Bytes, (n, size, size, 3).
        path: The cached file.

    Returns:
        The extra input channels, (n * holes, 5, h, w): the mask, then the latent, scaled.
    """
    device = next(vae.parameters()).device
    side, each = pages.shape[1] // vae.factor, recipe.holes

    def encode(rows: slice) -> Tensor:
        numbers = range(rows.start, rows.stop)
        mask = torch.stack([hole(recipe, k // each, k % each)[None] for k in numbers]).float()
        x = to_tensor(pages[[k // each for k in numbers]], device)
        mean, _ = vae.encode(masked_image(x, mask.to(device)))
        return inpaint_channels(mask.to(device), mean * vae.config.scaling_factor)

    shape = (len(pages) * each, 1 + vae.config.latent_channels, side, side)
    return cached(path, shape, 128, encode, "encoding masked pages")


def assemble(sd: StableDiffusion, unet: UNet) -> StableDiffusion:
    """Return the model with an inpainting U-Net in place of its own."""
    return StableDiffusion(unet, sd.vae, sd.text, inpainting_spec(sd.spec, unet.config))


def export(job: TrainingJob, recipe: InpaintRecipe, cache: Path, folder: Path) -> None:
    """Write the whole inpainting model, with the EMA weights, in the published layout.

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
    check_unchanged(job, recipe.model)
    base = load_base(recipe.model, recipe, torch.device("cpu"))
    assemble(base.sd, unet).save_pretrained(folder, torch.float16, MAX_BYTES)
