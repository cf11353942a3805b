"""Contrastive training of the text encoder, with hard negatives.

A batch holds pairs of pages that differ in one attribute only (two colours swapped, the page
mirrored, or another kind, pattern or colour). Both captions of a pair have the same wording; see
sdlearn/recipes/hard_negatives.py. A bag of words cannot distinguish the two, so the encoder must
learn which colour belongs to which object, and left from right. Only the text encoder is kept. The
diffusion model is conditioned on its hidden states.
"""

import math
import random
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sdlearn import weights
from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder, contrastive_loss
from sdlearn.distributed import gather_rows, own_rows
from sdlearn.recipes.contact_sheets import grid
from sdlearn.recipes.data import (
    Batches,
    images_key,
    load_captions,
    load_images,
    scene,
    to_pixels,
    to_tensor,
    training_images,
)
from sdlearn.recipes.hard_negatives import hard_negative, hard_negative_captions
from sdlearn.recipes.initial_weights import check_initial_weights, load_initial_weights
from sdlearn.recipes.mixed_precision import gradient_metrics, with_scalers
from sdlearn.recipes.ranges import Range, check_multiples
from sdlearn.recipes.recipe import MAX_BYTES, Recipe
from sdlearn.recipes.room import check_memory
from sdlearn.recipes.tokenizer import (
    CONTEXT,
    MERGES,
    captions_tokenizer,
    keep_tokenizer,
    kept_tokenizer,
    run_tokenizer,
    tokenizer_key,
)
from sdlearn.training import TrainingJob, learning_rate, update
from sdlearn.utils.atomic_files import write_json
from sdlearn.utils.device import autocast, loss_scaler, seeded
from sdlearn.versions import STORYBOOK
from sdlearn.weights.text_config import text_config_to_json
from sdlearn.weights.tokenizer_files import read_tokenizer, write_tokenizer

TEXT = STORYBOOK.text[0]


@dataclass(frozen=True, kw_only=True)
class CLIPRecipe(Recipe):
    """Settings of the text encoder's training.

    `batch` counts images. Half of them are hard negatives of the others.

    Attributes:
        hidden_size: Width of the text encoder and of the shared embedding space.
        num_layers: Of the text encoder.
        num_heads: Of the text encoder.
        intermediate_size: Width of its MLPs.
        image_width: Channels of the image encoder's first level.
        weight_decay: For weights with two or more dimensions.
    """

    hidden_size: Annotated[int, Range(1, 4096)] = TEXT.hidden_size
    num_layers: Annotated[int, Range(1, 48)] = TEXT.num_layers
    num_heads: Annotated[int, Range(1, 64)] = TEXT.num_heads
    intermediate_size: Annotated[int, Range(1, 16_384)] = TEXT.intermediate_size
    image_width: Annotated[int, Range(8, 1024)] = 32
    weight_decay: Annotated[float, Range(0, 1)] = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_multiples("hidden_size", self.hidden_size, self.num_heads, "num_heads")
        check_multiples("image_width", self.image_width, 8, "for the groups of its norms")
        if self.batch < 2:
            raise ValueError(f"batch is {self.batch}; accepted: 2 or more, for a contrastive loss")
        if not self.data:
            check_multiples("batch", self.batch, 2, "because half of it are hard negatives")


RECIPES = {
    "storybook": CLIPRecipe(steps=3000, batch=128, lr=1e-3, warmup=100, scenes=20_000),
    "small": CLIPRecipe(
        steps=500, batch=32, lr=2e-3, warmup=20, scenes=1000, size=32,
        num_layers=2, intermediate_size=256, image_width=16,
    ),
}  # fmt: skip


# ------------------------------------------------------------------------------------ the networks


class ImageEncoder(nn.Module):
    """Encode images (b, 3, s, s) in [-1, 1] as vectors (b, d), for training only.

    Strided convolutions are followed by one linear layer over all positions. The module also holds
    the text's projection into the shared space and the logarithm of the inverse temperature.
    """

    def __init__(self, size: int, width: int, dim: int) -> None:
        """Build the encoder.

        Args:
            size: Side of the images in pixels, a multiple of 8.
            width: Channels of the first level.
            dim: Width of the shared embedding space.
        """
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for c_in, c in pairwise(widths):
            layers += [nn.Conv2d(c_in, c, 3, stride=2, padding=1), nn.GroupNorm(8, c), nn.SiLU()]
            layers += [nn.Conv2d(c, c, 3, padding=1), nn.GroupNorm(8, c), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(4 * width, width, 1), nn.SiLU())
        self.projection = nn.Linear(width * (size // 8) ** 2, dim, bias=False)
        self.text_projection = nn.Linear(dim, dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, x: Tensor) -> Tensor:
        """Return image embeddings, (b, d), not normalised."""
        return self.projection(self.layers(x).flatten(1))


def token_batch(tokenizer: PreTrainedTokenizerBase, captions: list[str]) -> Tensor:
    """Tokenize captions and pad them to the longest one, (b, n).

    The encoder is causal, so the padding after the end-of-text token has no effect on the result.
    """
    batch = tokenizer(
        captions, padding="longest", max_length=CONTEXT, truncation=True, return_tensors="pt"
    )
    ids: Tensor = batch.input_ids
    return ids


# ------------------------------------------------------------------------------------ the training


def make_job(
    recipe: CLIPRecipe, cache: Path, device: torch.device, run: Path | None = None
) -> TrainingJob:
    """Build the networks, the optimizer and the training step.

    Args:
        recipe: The settings.
        cache: Folder for rendered images, captions and the tokenizer.
        device: Where to train.
        run: Folder of the run that goes on from its checkpoint; None for a new one.
    """
    frozen = {"images": images_key(recipe, cache)} if recipe.data else {}
    check_initial_weights(recipe.init, "text", run)
    check_memory(recipe, device, lambda: nn.ModuleList(new_networks(recipe, MERGES, 0)), 3)
    tokenizer = run_tokenizer(recipe.init, recipe.data, recipe.size, cache, run)
    frozen["tokenizer"] = tokenizer_key(tokenizer)
    with seeded(recipe.seed):
        text, image = new_networks(recipe, len(tokenizer), tokenizer.eos_token_id)
    load_initial_weights(recipe.init, {"text": text, "image": image}, run)
    if recipe.init:
        keep_tokenizer(tokenizer, cache)
    text.to(device), image.to(device)
    parameters: list[nn.Parameter] = [*text.parameters(), *image.parameters()]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=fused)
    scaler = loss_scaler(device, recipe.precision)
    pages = training_images(recipe, cache)
    half = recipe.batch if recipe.data else recipe.batch // 2
    batches = Batches(pages, recipe.seed, half, device)
    if recipe.data:
        own = load_captions(0, cache, recipe.data, size=recipe.size)
    else:
        negatives = load_images(recipe.scenes, recipe.size, cache, scene_of=hard_negative)
        negative_batches = Batches(negatives, recipe.seed, half, device)
        pairs = [(scene(k), hard_negative(k)) for k in range(recipe.scenes)]

    def draw(k: int) -> tuple[Tensor, list[str]]:
        """Images and captions of batch k; the second half are hard negatives of the first."""
        rows = batches.indices(k)
        if recipe.data:
            return to_tensor(batches(k), device), [own[row][0] for row in rows]
        rng = random.Random(f"{recipe.seed}-{k}")
        captions = [hard_negative_captions(pairs[row], rng) for row in rows]
        images = torch.cat([batches(k), negative_batches(k)])
        return to_tensor(images, device), [a for a, _ in captions] + [b for _, b in captions]

    def step(k: int) -> dict[str, Tensor]:
        x, captions = draw(k)
        ids = own_rows(token_batch(tokenizer, captions)).to(device)
        with autocast(device, recipe.precision):
            images = image(own_rows(x)).float()
            texts = image.text_projection(text(ids).pooled).float()
        # Each image is compared with the texts of the whole batch, also of other processes.
        images, texts = gather_rows(images), gather_rows(texts)
        loss = contrastive_loss(images, texts, image.logit_scale)
        metrics = accuracies(images, texts, captions)
        lr = learning_rate(k, recipe.steps, recipe.lr, recipe.warmup)
        gradient = gradient_metrics(update(loss, optimizer, lr, scaler=scaler), scaler)
        return {"loss": loss, **metrics, "scale": image.logit_scale.detach().exp(), **gradient}

    shown = to_tensor(pages[:200], device)
    queries = [
        paraphrases[0]
        for paraphrases in load_captions(min(200, len(pages)), cache, recipe.data, size=recipe.size)
    ]

    def samples() -> Image.Image:
        """Draw twelve pages and, below, the pages retrieved for their captions from 200."""
        texts = image.text_projection(text(token_batch(tokenizer, queries[:12]).to(device)).pooled)
        found = (F.normalize(texts) @ F.normalize(image(shown)).T).argmax(1)
        return grid([to_pixels(shown[:12]), to_pixels(shown[found])])

    networks: dict[str, nn.Module] = {"text": text, "image": image}
    states = with_scalers({"clip": optimizer}, scaler=scaler)
    return TrainingJob(networks, states, step, recipe.batch, samples, frozen)


@torch.no_grad()
def accuracies(images: Tensor, texts: Tensor, captions: list[str]) -> dict[str, Tensor]:
    """Measure retrieval accuracy in a batch whose second half are hard negatives of the first.

    Args:
        images: Image embeddings, (b, d).
        texts: Embeddings of their captions, (b, d).
        captions: The b captions.

    Returns:
        accuracy, the fraction of images whose own caption is the most similar in the batch, and
        swap_accuracy, the fraction of images that are more similar to their own caption than to
        that of their hard negative, among those whose two captions differ.
    """
    likeness = F.normalize(images) @ F.normalize(texts).T
    b = len(captions)
    own = likeness.diagonal()
    accuracy = (likeness.argmax(1) == torch.arange(b, device=images.device)).float().mean()
    rows = torch.arange(b)
    others = (rows + b // 2) % b
    differ = torch.tensor([captions[i] != captions[j] for i, j in enumerate(others.tolist())])
    nearer = own > likeness[rows, others]
    swap_accuracy = nearer[differ.to(nearer.device)].float().mean().nan_to_num(1.0)
    return {"accuracy": accuracy, "swap_accuracy": swap_accuracy}


def new_networks(
    recipe: CLIPRecipe, vocab_size: int, eos_token_id: int
) -> tuple[CLIPTextEncoder, ImageEncoder]:
    """Build the encoders of texts and images with random weights."""
    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.hidden_size,
        num_layers=recipe.num_layers,
        num_heads=recipe.num_heads,
        intermediate_size=recipe.intermediate_size,
        eos_token_id=eos_token_id,
    )
    image = (recipe.size, recipe.image_width, recipe.hidden_size)
    return CLIPTextEncoder(config), ImageEncoder(*image)


def export(job: TrainingJob, recipe: CLIPRecipe, cache: Path, folder: Path) -> None:
    """Write text_encoder/ and tokenizer/ in the published layout.

    Args:
        job: The finished training.
        recipe: Its settings.
        cache: Folder of the tokenizer.
        folder: Where to write.
    """
    if recipe.init:
        tokenizer = read_tokenizer(kept_tokenizer(job.frozen["tokenizer"], cache))
    else:
        tokenizer = captions_tokenizer(recipe.data, recipe.size, cache)
    text = job.networks["text"]
    assert isinstance(text, CLIPTextEncoder)
    home = folder / "text_encoder"
    write_json(home / "config.json", text_config_to_json(text.config, tokenizer.bos_token_id))
    weights.save(text, home / "model.safetensors", torch.float16, MAX_BYTES)
    write_tokenizer(folder / "tokenizer", tokenizer)
