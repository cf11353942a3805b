"""Training batches for denoising: latents of the images, and hidden states of their captions.

The U-Net, the inpainting U-Net, ControlNets, adapters and new words are trained on the same kind of
batch. The autoencoder is frozen, and the text encoder's own weights are, too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlearn.distributed import own_rows
from sdlearn.recipes.class_images import ClassImages, divided_rows
from sdlearn.recipes.data import (
    Batches,
    Images,
    images_key,
    key,
    load_captions,
    storybook_hash,
    training_images,
)
from sdlearn.recipes.frozen_parts import FrozenParts
from sdlearn.recipes.latent_cache import (
    HALF,
    check_cache_room,
    encode_captions,
    encode_pages,
    encode_pooled,
    weights_key,
)
from sdlearn.recipes.noise import draw_noise
from sdlearn.recipes.ranges import Decay, Range, check_multiples
from sdlearn.recipes.recipe import Recipe
from sdlearn.storybook.shards import ShardImages
from sdlearn.text import Conditioning, Sizes, TextEncoder
from sdlearn.training import step_generator


@dataclass(frozen=True, kw_only=True)
class DiffusionRecipe(Recipe):
    """Settings that all trainings on noisy latents share.

    Attributes:
        captions: Number of captions of each scene, which are paraphrases.
        dropout: Fraction of captions replaced by the empty one, for classifier-free guidance.
        min_snr: The gamma of Min-SNR weighting, or 0 for none.
        t_mean: See `draw_times`.
        t_std: See `draw_times`; 0 for uniform timesteps.
        lr_floor: Where the learning rate ends, as a fraction of `lr`; with 1 it stays at `lr`.
        weight_decay: AdamW's weight decay.
        ema: Decay of the exponential moving average of the weights.
        accumulate: Number of parts into which each process divides its rows of a batch. It
            computes their gradients one after the other and adds them: less memory, and the same
            result up to rounding.
        activation_checkpointing: Keep only the inputs of blocks, and compute their other
            activations again in the backward pass: less memory, more time, the same result.
        shard: With several processes, keep in each only a part of the trained weights and of their
            averages (see `sdlearn.sharding`): less memory, and the same result up to rounding. What
            is not trained stays whole in each process.
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


class Batch(NamedTuple):
    """One training batch, or some of its rows.

    Attributes:
        places: The positions of its rows in the whole batch, (b,).
        rows: The numbers of its images, (b,).
        z_0: Clean latents, scaled, (b, c, h, w).
        t: Timesteps, (b,), on the CPU.
        context: Hidden states of the captions, (b, 77, d).
        captions: The numbers of the captions, (b,); -1 for the empty one.
        pooled: For SDXL, the captions' pooled embeddings, (b, d); otherwise None.
    """

    places: NDArray[np.int64]
    rows: NDArray[np.int64]
    z_0: Tensor
    t: Tensor
    context: Tensor
    captions: NDArray[np.int64]
    pooled: Tensor | None = None

    def parts(self, n: int) -> Iterator["Batch"]:
        """Its n equal parts, in order."""
        size = len(self.rows) // n
        for first in range(0, len(self.rows), size):
            yield self.part(slice(first, first + size))

    def part(self, rows: slice) -> "Batch":
        """Some of its rows."""
        return Batch._make(None if field is None else field[rows] for field in self)


class CaptionedLatents:
    """The encoded images and captions of a training, and its batches.

    Attributes:
        pages: The images, bytes (n, size, size, 3).
        texts: All captions, with the paraphrases of an image together. If there are class images,
            the class prompt comes last.
        each: Number of captions of each image.
        rows: Returns the image numbers of batch k, for all processes, if there are no class images.
        batch: Returns this process's rows of batch k, which depends only on the recipe's seed and
            k.
    """

    def __init__(
        self,
        recipe: DiffusionRecipe,
        parts: FrozenParts,
        num_steps: int,
        cache: Path,
        device: torch.device,
        prior: ClassImages | None = None,
    ) -> None:
        """Draw or read the images, and encode them; earlier encodings are read from the cache.

        Args:
            recipe: The settings.
            parts: The frozen networks.
            num_steps: Length of the noise schedule.
            cache: Folder for images, captions, latents and hidden states.
            device: Where to train.
            prior: Class images, which then make up the second half of each batch.

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
        self.texts += [prior.prompt] if prior else []
        self.identity = pages_identity(recipe, self.pages, cache)
        self.text, self.zero_empty, self.size = text, parts.zero_empty, recipe.size

        def latents(pages: Images, identity: object) -> Batches:
            kept = cache / f"latents-{weights_key(parts.vae_folder, identity)}.npy"
            return Batches(encode_pages(vae, pages, kept), recipe.seed, recipe.batch, device)

        def states(name: str, encode: Callable[[TextEncoder, list[str], Path], HALF]) -> Batches:
            kept = cache / f"{name}-{parts.text_key(key(self.texts))}.npy"
            return Batches(encode(text, self.texts, kept), recipe.seed, recipe.batch, device)

        own = latents(self.pages, self.identity)
        self.rows = own.indices
        with torch.no_grad():
            empty: Conditioning = text([""])
        empty = empty.zeroed() if parts.zero_empty else empty
        pooled = None
        if parts.has_pooled and empty.pooled is not None:
            pooled = states("pooled", encode_pooled), empty.pooled
        self.batch = batches(
            recipe, own, states("states", encode_captions), self.each, empty.context, num_steps,
            vae.config.scaling_factor, pooled,
            latents(prior.pages, prior.pages.tobytes()) if prior else None,
        )  # fmt: skip

    def captions_of(self, batch: Batch) -> list[str]:
        """The captions of some rows of a batch, b texts."""
        return ["" if number < 0 else self.texts[number] for number in batch.captions]

    def conditioning(self, batch: Batch, encode: bool = False) -> Conditioning:
        """What the U-Net is conditioned on for some rows of a batch.

        Args:
            batch: The rows.
            encode: Whether to encode the captions anew, with the text encoders as they are now
                and with gradients, instead of using the cached embeddings.
        """
        found = Conditioning(batch.context, batch.pooled)
        if encode:
            found = self.text(self.captions_of(batch))
            if self.zero_empty:
                told = torch.from_numpy(batch.captions >= 0).to(found.context.device)
                found = Conditioning._make(
                    None if x is None else torch.where(told.view(-1, *[1] * (x.ndim - 1)), x, 0)
                    for x in found
                )
        if batch.pooled is None:
            return Conditioning(found.context)
        sizes = Sizes().row(self.size, self.size).to(found.context.device)
        return found._replace(sizes=sizes.expand(len(batch.rows), -1))


def batches(
    recipe: DiffusionRecipe,
    latents: Batches,
    states: Batches,
    each: int,
    empty: Tensor,
    num_steps: int,
    scaling: float,
    pooled: tuple[Batches, Tensor] | None = None,
    prior: Batches | None = None,
) -> Callable[[int], Batch]:
    """Return the function that draws batch k and reads this process's rows of it.

    Args:
        recipe: The settings.
        latents: Mean and standard deviation of each image's posterior, (n, 2, c, h, w), unscaled.
        states: Hidden states of the captions, (n * each, 77, d); with `prior`, one row more.
        each: Number of captions of each image.
        empty: Hidden states of the empty caption, (1, 77, d).
        num_steps: Length of the noise schedule.
        scaling: The latents' scaling factor.
        pooled: For SDXL, the pooled embeddings of the captions, (n * each, d), and that of the
            empty one, (1, d); with `prior`, the first has one row more, too.
        prior: The same as `latents` for class images, whose caption comes after all the others.
            They make up the second half of each batch, and their image numbers begin at n.
    """
    device, n = latents.device, len(latents.array)

    def choose(table: Batches, captions: NDArray[np.int64], silent: Tensor, no: Tensor) -> Tensor:
        """Rows of a table of captions, with `no` where the caption is dropped."""
        found = table.rows(captions).float()
        return torch.where(silent.to(device).view(-1, *[1] * (found.ndim - 1)), no, found)

    def batch(k: int) -> Batch:
        generator = step_generator(recipe.seed, k)
        b = recipe.batch
        # Everything random is drawn for the whole batch, so that it does not depend on the number
        # of processes.
        places = own_rows(np.arange(b))
        t = draw_times(b, num_steps, recipe.t_mean, recipe.t_std, generator)[places]
        wording = torch.randint(each, (b,), generator=generator).numpy()[places]
        silent = (torch.rand(b, generator=generator) < recipe.dropout)[places]
        if prior is None:
            rows = latents.indices(k)[places]
            found = latents.rows(rows)
        else:
            rows = divided_rows(k, b, recipe.seed, n, len(prior.array))[places]
            found = torch.cat([latents.rows(rows[rows < n]), prior.rows(rows[rows >= n] - n)])
        mean, std = found.float().unbind(1)
        noise = draw_noise((b, *mean.shape[1:]), recipe.seed, k, device, stream=1)
        z_0 = mean + std * noise[places]
        captions = np.where(rows < n, rows * each + wording, n * each)
        context = choose(states, captions, silent, empty)
        vectors = None if pooled is None else choose(pooled[0], captions, silent, pooled[1])
        captions = np.where(silent.numpy(), -1, captions)
        return Batch(places, rows, z_0 * scaling, t, context, captions, vectors)

    return batch


def pages_identity(recipe: Recipe, pages: Images, cache: Path) -> object:
    """What determines the images of a recipe, for the names of cached files.

    A user's own images are identified by their contents, rendered pages by the renderer's settings.
    """
    if isinstance(pages, ShardImages):
        return recipe.size, images_key(recipe, cache)
    return pages.tobytes() if recipe.data else (recipe.size, recipe.scenes, storybook_hash())


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
