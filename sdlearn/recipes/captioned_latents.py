"""Training batches of the networks that denoise: latents of the pages, and their captions' states.

The U-Net, the inpainting U-Net, a ControlNet and adapters are trained on the same batches, with the
same autoencoder and text encoder, both frozen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlearn.distributed import own_rows
from sdlearn.recipes.data import (
    Batches,
    Images,
    images_key,
    key,
    load_captions,
    storybook_hash,
    training_images,
)
from sdlearn.recipes.latent_cache import (
    check_cache_room,
    encode_captions,
    encode_pages,
    load_text,
    load_vae,
    part_folder,
    weights_key,
)
from sdlearn.recipes.noise import draw_noise
from sdlearn.recipes.ranges import Decay, Range, check_multiples
from sdlearn.recipes.recipe import Recipe
from sdlearn.storybook.shards import ShardImages
from sdlearn.text import TextEncoder
from sdlearn.training import step_generator
from sdlearn.vae import VAE


@dataclass(frozen=True, kw_only=True)
class DiffusionRecipe(Recipe):
    """Settings that all trainings on noisy latents share.

    Attributes:
        captions: Paraphrases of each scene.
        dropout: Fraction of captions replaced by the empty one, for classifier-free guidance.
        min_snr: The gamma of Min-SNR weighting, or 0 for none.
        t_mean: See `draw_times`.
        t_std: See `draw_times`; 0 for uniform timesteps.
        lr_floor: Where the learning rate ends, as a fraction of `lr`; with 1 it stays at `lr`.
        weight_decay: Of AdamW.
        ema: Decay of the exponential moving average of the weights.
        accumulate: Parts of a batch, one after the other in each process, whose gradients are
            added: less memory, and the same result but for rounding.
        activation_checkpointing: Keep the inputs of blocks only, and compute their other
            activations again in the backward pass: less memory, more time, the same result.
        shard: Keep in each of several processes a part of the trained weights and of their averages
            only (see `sdlearn.sharding`): less memory, and the same result but for rounding. What
            is not trained stays whole in each.
    """

    captions: Annotated[int, Range(1, 1000)] = 1
    dropout: Annotated[float, Range(0, 1)] = 0.1
    min_snr: Annotated[float, Range(0, 1000)] = 0.0
    t_mean: Annotated[float, Range(-10, 10)] = 0.0
    t_std: Annotated[float, Range(0, 10)] = 0.0
    lr_floor: Annotated[float, Range(0, 1)] = 0.01
    weight_decay: Annotated[float, Range(0, 1)] = 0.01
    ema: Decay = 0.999
    accumulate: Annotated[int, Range(1, 65_536)] = 1
    activation_checkpointing: bool = False
    shard: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_multiples("batch", self.batch, self.accumulate, "the parts of accumulate")
        if self.shard and self.compile:
            raise ValueError(
                "compile is True; accepted with shard: False, because what gathers the weights of "
                "a block is not compiled"
            )


class FrozenParts(NamedTuple):
    """The networks that are used but not trained, and hashes of their weights.

    Attributes:
        vae: The autoencoder.
        text: The text encoder.
        vae_folder: Where the autoencoder was read.
        text_folder: Where the text encoder was read.
    """

    vae: VAE
    text: TextEncoder
    vae_folder: Path
    text_folder: Path

    @classmethod
    def load(cls, vae: str, text: str, cache: Path, device: torch.device) -> Self:
        """Load both parts.

        Args:
            vae: Folder of the autoencoder, of a model or of a run, or "" for the shipped one.
            text: The same for the text encoder.
            cache: Its parent holds the runs.
            device: Where to train.

        Raises:
            FileNotFoundError: If a part is missing.
        """
        vae_folder = part_folder(vae, "vae", cache.parent / "vae")
        text_folder = part_folder(text, "text_encoder", cache.parent / "clip")
        return cls(
            load_vae(vae_folder, device), load_text(text_folder, device), vae_folder, text_folder
        )

    def hashes(self) -> dict[str, str]:
        """Hashes of the weights, by the name of the setting that chooses them."""
        return {"vae": weights_key(self.vae_folder), "text": weights_key(self.text_folder)}


class Batch(NamedTuple):
    """One training batch, or some of its rows.

    Attributes:
        places: The places of its rows in the whole batch, (b,).
        rows: The numbers of its pages, (b,).
        z_0: Clean latents, scaled, (b, c, h, w).
        t: Timesteps, (b,), on the CPU.
        context: Hidden states of the captions, (b, 77, d).
        captions: The numbers of the captions, (b,); -1 for the empty one.
    """

    places: NDArray[np.int64]
    rows: NDArray[np.int64]
    z_0: Tensor
    t: Tensor
    context: Tensor
    captions: NDArray[np.int64]

    def parts(self, n: int) -> Iterator["Batch"]:
        """Its n equal parts, in order."""
        size = len(self.rows) // n
        for first in range(0, len(self.rows), size):
            part = slice(first, first + size)
            yield Batch._make(field[part] for field in self)


class CaptionedLatents:
    """The encoded pages and captions of a training, and its batches.

    Attributes:
        pages: The images, bytes (n, size, size, 3).
        texts: All captions, the paraphrases of an image together.
        each: Captions of an image.
        rows: Returns the numbers of the pages of batch k, those of all processes.
        batch: Returns this process's rows of batch k, which depends on the recipe's seed and k
            only.
    """

    def __init__(
        self,
        recipe: DiffusionRecipe,
        parts: FrozenParts,
        num_steps: int,
        cache: Path,
        device: torch.device,
    ) -> None:
        """Draw or read the pages, and encode them; what was encoded before is in the cache.

        Args:
            recipe: The settings.
            parts: The frozen networks.
            num_steps: Length of the noise schedule.
            cache: Folder for images, captions, latents and hidden states.
            device: Where to train.

        Raises:
            ValueError: If the disk is too small.
        """
        vae, text = parts.vae, parts.text
        if not recipe.data:
            check_cache_room(recipe.scenes, recipe.captions, recipe.size, vae, text, cache)
        self.pages = training_images(recipe, cache)
        captions = load_captions(
            len(self.pages), cache, recipe.data, per_scene=recipe.captions, size=recipe.size
        )
        self.each = len(captions[0])
        self.texts = [caption for paraphrases in captions for caption in paraphrases]
        self.identity = pages_identity(recipe, self.pages, cache)
        kept = cache / f"latents-{weights_key(parts.vae_folder, self.identity)}.npy"
        latents = encode_pages(vae, self.pages, kept)
        kept = cache / f"states-{weights_key(parts.text_folder, key(self.texts))}.npy"
        states = encode_captions(text, self.texts, kept)
        with torch.no_grad():
            empty = text([""]).context  # (1, 77, d)
        pages = Batches(latents, recipe.seed, recipe.batch, device)
        self.rows = pages.indices
        self.batch = batches(
            recipe,
            pages,
            Batches(states, recipe.seed, recipe.batch, device),
            self.each,
            empty,
            num_steps,
            vae.config.scaling_factor,
        )

    def captions_of(self, batch: Batch) -> list[str]:
        """The captions of some rows of a batch, b texts."""
        return ["" if number < 0 else self.texts[number] for number in batch.captions]


def batches(
    recipe: DiffusionRecipe,
    latents: Batches,
    states: Batches,
    each: int,
    empty: Tensor,
    num_steps: int,
    scaling: float,
) -> Callable[[int], Batch]:
    """Return the function that draws batch k and reads the rows of this process.

    Args:
        recipe: The settings.
        latents: Mean and standard deviation of each page's posterior, (n, 2, c, h, w), unscaled.
        states: Hidden states of the captions, (n * each, 77, d).
        each: Captions of a page.
        empty: Hidden states of the empty caption, (1, 77, d).
        num_steps: Length of the noise schedule.
        scaling: The latents' scaling factor.
    """
    device = latents.device

    def batch(k: int) -> Batch:
        generator = step_generator(recipe.seed, k)
        b = recipe.batch
        # Everything random is drawn for the whole batch, so that it is the same in any number of
        # processes.
        places = own_rows(np.arange(b))
        t = draw_times(b, num_steps, recipe.t_mean, recipe.t_std, generator)[places]
        wording = torch.randint(each, (b,), generator=generator).numpy()[places]
        silent = (torch.rand(b, generator=generator) < recipe.dropout)[places]
        rows = latents.indices(k)[places]
        mean, std = latents.rows(rows).float().unbind(1)
        noise = draw_noise((b, *mean.shape[1:]), recipe.seed, k, device, stream=1)
        z_0 = mean + std * noise[places]
        captions = rows * each + wording
        context = states.rows(captions).float()
        context = torch.where(silent.to(device).view(-1, 1, 1), empty, context)
        captions = np.where(silent.numpy(), -1, captions)
        return Batch(places, rows, z_0 * scaling, t, context, captions)

    return batch


def pages_identity(recipe: Recipe, pages: Images, cache: Path) -> object:
    """What determines the pages of a recipe, for the names of cached files.

    A user's images are identified by their contents, rendered pages by the renderer's settings.
    """
    if isinstance(pages, ShardImages):
        return recipe.size, images_key(recipe, cache)
    return pages.tobytes() if recipe.data else (recipe.size, recipe.scenes, storybook_hash())


def frozen_hashes(recipe: Recipe, parts: FrozenParts, cache: Path) -> dict[str, str]:
    """Hashes of everything that a training uses but does not change, by name."""
    images = {"images": images_key(recipe, cache)} if recipe.data else {}
    return parts.hashes() | images


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
