"""Textual inversion: training of a new word's vectors, for a finished model that is frozen.

Only the word's rows in the token table are trained, on a few captioned images of what it should
mean. The result is a file of a few kilobytes, which `StableDiffusion.load_embedding` reads. SDXL
has two text encoders, so the word gets vectors in the tables of both.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedTokenizerBase

from sdlearn.clip import CLIPTextEncoder
from sdlearn.recipes.activation_checkpointing import checkpoint_activations
from sdlearn.recipes.base_model import (
    check_room,
    check_unchanged,
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
from sdlearn.text import TextEncoder
from sdlearn.textual_inversion import NewRows, add_word, check_word, initial_vectors
from sdlearn.training import TrainingJob
from sdlearn.weights.embedding_files import FILE_NAME, write_embedding


@dataclass(frozen=True, kw_only=True)
class EmbeddingRecipe(PersonalRecipe):
    """Settings of a word's training.

    Attributes:
        word: The new word, which every caption of `data` must contain.
        vectors: Number of its vectors, which is also its number of tokens in a prompt.
        start: A known word of similar meaning, whose vectors are the initial values.
        class_images: 0, because the model is frozen and can't forget anything.
    """

    word: Annotated[str, Range(1, 100)] = "<new>"
    vectors: Annotated[int, Range(1, 75)] = 1
    start: Annotated[str, Range(1, 1000)] = "a"
    weight_decay: Annotated[float, Range(0, 1)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard:
            raise ValueError(
                "shard is True; accepted: False, because only a few vectors are trained; the model "
                "stays whole in each process"
            )
        if self.class_images:
            raise ValueError(
                f"class_images is {self.class_images}; accepted: 0, because the model is frozen "
                "and can't forget anything"
            )


RECIPES = {
    "storybook": EmbeddingRecipe(
        steps=100, batch=16, lr=3e-2, warmup=5, min_snr=5.0, t_mean=-0.3, t_std=1.0, ema=0.9,
    ),
    "small": EmbeddingRecipe(steps=20, batch=4, lr=3e-2, warmup=2, ema=0.9),
    # For a published model, named with --model.
    "sd1.5": EmbeddingRecipe(
        steps=3000, batch=4, lr=2e-3, warmup=0, size=512, accumulate=4, lr_floor=1.0, dropout=0.0,
        ema=0.0,
    ),
}  # fmt: skip


def make_job(
    recipe: EmbeddingRecipe, cache: Path, device: torch.device, run: Path | None = None
) -> TrainingJob:
    """Add the word to the model, and build the training step and the optimizer of its vectors.

    Args:
        recipe: The settings.
        cache: Folder for latents.
        device: Where to train.
        run: Folder of the run to resume from its checkpoint; None for a new run.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If the word, the images or the model do not fit, or the memory is too small.
    """
    if not recipe.data:
        raise ValueError(
            "data is empty; accepted: a folder, or shards, of a few images whose captions contain "
            f"the word {recipe.word}"
        )
    base = load_base(recipe.model, recipe, device)
    sd = base.sd
    check_room(base, recipe, device, copies=1)  # the U-Net is frozen
    vectors = starting_vectors(recipe, sd.text)
    # Before the word is added, because what is cached must not depend on its vectors.
    data = CaptionedLatents(recipe, base.parts(), sd.schedule.num_steps, cache, device)
    check_captions(data.texts, recipe.word)
    rows = new_rows(sd.text, recipe.word, vectors)
    load_earlier_run(recipe, "embedding", RECIPES, ("word", "vectors"), rows, run)
    trained = in_training(rows, recipe, device)
    if recipe.activation_checkpointing:
        checkpoint_activations(sd.unet)
    attached = attach_rows(rows, sd.text)
    predict = compiled(sd.unet, recipe, device)

    def with_word(_: int, batch: Batch) -> Model:
        """Return the U-Net, conditioned on captions that are encoded with the new vectors."""
        return conditioned(predict, data.conditioning(batch, encode=True))

    step = denoising_step(recipe, data, sd.spec, trained, with_word, device)
    prompts = data.texts[: 8 * data.each : data.each]

    def samples() -> Image.Image:
        """Draw images of the captions with the averaged vectors, below the training images."""
        nonlocal attached
        detach_rows(attached)
        averaged = attach_rows(trained.average.module, sd.text)
        try:
            drawn = sample_images(sd, prompts, recipe.size)
            return grid([data.pages[: len(prompts)], drawn], scale=3)
        finally:
            detach_rows(averaged)
            attached = attach_rows(rows, sd.text)

    networks: dict[str, nn.Module] = {"embedding": rows, "ema": trained.average.module}
    frozen, states = frozen_base(base, recipe, cache), trained.states("embedding")
    return TrainingJob(networks, states, step, recipe.batch, samples, frozen)


# --------------------------------------------------------------- rows for one text encoder or two


def encoders_of(text: TextEncoder) -> Iterator[tuple[PreTrainedTokenizerBase, CLIPTextEncoder]]:
    """The tokenizers and their text encoders: one pair, or the two of SDXL."""
    for tokenizer, encoder in zip(text.tokenizers, text.encoders, strict=True):
        assert isinstance(encoder, CLIPTextEncoder)
        yield tokenizer, encoder


def starting_vectors(recipe: EmbeddingRecipe, text: TextEncoder) -> list[Tensor]:
    """The vectors of the known word in each text encoder, (n, d).

    Raises:
        ValueError: If the new word cannot be added, or the known one has no tokens.
    """
    for tokenizer, _ in encoders_of(text):
        check_word(tokenizer, recipe.word, recipe.vectors)
    return [initial_vectors(*pair, recipe.start, recipe.vectors) for pair in encoders_of(text)]


def new_rows(text: TextEncoder, word: str, vectors: Sequence[Tensor]) -> nn.ModuleList:
    """Add the word to each text encoder, and return its rows as trainable parameters."""
    pairs = zip(encoders_of(text), vectors, strict=True)
    return nn.ModuleList(
        NewRows(add_word(*pair, word, values)[0], values) for pair, values in pairs
    )


def attach_rows(rows: nn.ModuleList, text: TextEncoder) -> list[RemovableHandle]:
    """Make each text encoder use its new rows; return the handles that undo this."""
    pairs = zip(rows, encoders_of(text), strict=True)
    return [each.attach(encoder) for each, (_, encoder) in pairs if isinstance(each, NewRows)]


def detach_rows(handles: Iterable[RemovableHandle]) -> None:
    """Make the text encoders use their own tables again."""
    for handle in handles:
        handle.remove()


def check_captions(captions: list[str], word: str) -> None:
    """Raise ValueError if a caption lacks the word, because its image can't teach the word."""
    for caption in captions:
        if word not in caption:
            raise ValueError(
                f"data has the caption {caption[:80]!r}, without the word {word}; accepted: "
                "captions that contain it"
            )


def export(job: TrainingJob, recipe: EmbeddingRecipe, cache: Path, folder: Path) -> None:
    """Write the averaged vectors as one safetensors file.

    Args:
        job: The finished training.
        recipe: Its settings.
        cache: Not used, because the file holds the vectors alone.
        folder: Where to write.

    Raises:
        ValueError: If the model has changed since the training started.
    """
    check_unchanged(job, recipe.model, recipe.tokenizer)
    rows = [each for each in job.networks["ema"].children() if isinstance(each, NewRows)]
    folder.mkdir(parents=True, exist_ok=True)
    vectors: list[Tensor] = [each.vectors for each in rows]
    write_embedding(folder / FILE_NAME, recipe.word, vectors, torch.float32)
