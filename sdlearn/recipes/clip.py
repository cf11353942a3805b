"""Training the text encoder: pictures and captions that belong together should point the same way.

A batch holds pairs of pages that differ in one thing only (the colours of two things exchanged, the
page mirrored, another kind, pattern or colour), each with its own caption in the same wording; see
sdlearn/recipes/twins.py. To tell the two apart a bag of words is not enough: the encoder must bind
colours to things and know its left from its right. Only the text encoder is kept; the diffusion
model reads its states.
"""

import math
import random
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sdlearn import weights
from sdlearn.clip import CLIPTextConfig, CLIPTextEncoder, contrastive_loss
from sdlearn.files import write_json
from sdlearn.folder import read_tokenizer, write_tokenizer
from sdlearn.recipes import replace_folder
from sdlearn.recipes.data import (
    Batches,
    key,
    load_captions,
    load_pictures,
    scene,
    to_pixels,
    to_tensor,
)
from sdlearn.recipes.recipe import MAX_BYTES, Recipe
from sdlearn.recipes.sheets import grid
from sdlearn.recipes.tokenizer import CONTEXT, train_tokenizer
from sdlearn.recipes.twins import twin, twin_captions
from sdlearn.training import Job, autocast, learning_rate, seeded, update
from sdlearn.versions import STORYBOOK
from sdlearn.writing import text_json

TEXT = STORYBOOK.text[0]


@dataclass(frozen=True, kw_only=True)
class CLIPRecipe(Recipe):
    """The text encoder's own numbers; `batch` counts pictures, half of them twins of the rest."""

    hidden_size: int = TEXT.hidden_size
    num_layers: int = TEXT.num_layers
    num_heads: int = TEXT.num_heads
    intermediate_size: int = TEXT.intermediate_size
    image_width: int = 32
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch < 2:
            raise ValueError(f"batch is {self.batch}; accepted: 2 or more, to tell them apart")


RECIPES = {
    "storybook": CLIPRecipe(steps=3000, batch=128, lr=1e-3, warmup=100, scenes=20_000),
    "small": CLIPRecipe(
        steps=500, batch=32, lr=2e-3, warmup=20, scenes=1000, size=32,
        num_layers=2, intermediate_size=256, image_width=16,
    ),
}  # fmt: skip


# ------------------------------------------------------------------------------------ the networks


class ImageEncoder(nn.Module):
    """(b, 3, s, s) in [-1, 1] -> (b, d): strided convolutions, then every position at once.

    Also holds what else only the training needs: the text's projection into the shared space and
    the logarithm of the inverse temperature.
    """

    def __init__(self, size: int, width: int, dim: int) -> None:
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
        return self.projection(self.layers(x).flatten(1))


def token_batch(tokenizer: PreTrainedTokenizerBase, captions: list[str]) -> Tensor:
    """Token ids as wide as the longest caption: the encoder looks backwards only, so what would
    follow the end token changes nothing before it."""
    batch = tokenizer(
        captions, padding="longest", max_length=CONTEXT, truncation=True, return_tensors="pt"
    )
    ids: Tensor = batch.input_ids
    return ids


# ------------------------------------------------------------------------------------ the training


def make_job(recipe: CLIPRecipe, cache: Path, device: torch.device) -> Job:
    """Networks, optimizer and the step of a training."""
    tokenizer = run_tokenizer(recipe, cache)
    with seeded(recipe.seed):
        text = new_text_encoder(recipe, tokenizer).to(device)
        image = ImageEncoder(recipe.size, recipe.image_width, recipe.hidden_size).to(device)
    parameters: list[nn.Parameter] = [*text.parameters(), *image.parameters()]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=fused)
    pages = load_pictures(recipe.scenes, recipe.size, cache, recipe.data)
    half = recipe.batch if recipe.data else recipe.batch // 2
    batches = Batches(pages, recipe.seed, half, device)
    if recipe.data:
        own = load_captions(0, cache, recipe.data, size=recipe.size)
    else:
        twin_pages = load_pictures(recipe.scenes, recipe.size, cache, scene_of=twin)
        twin_batches = Batches(twin_pages, recipe.seed, half, device)
        couples = [(scene(k), twin(k)) for k in range(recipe.scenes)]

    def draw(k: int) -> tuple[Tensor, list[str]]:
        """Pictures and captions of batch k; the second half are the twins of the first."""
        rows = batches.indices(k)
        if recipe.data:
            return to_tensor(batches(k), device), [own[row][0] for row in rows]
        rng = random.Random(f"{recipe.seed}-{k}")
        said = [twin_captions(couples[row], rng) for row in rows]
        pictures = torch.cat([batches(k), twin_batches(k)])
        return to_tensor(pictures, device), [a for a, _ in said] + [b for _, b in said]

    def step(k: int) -> dict[str, Tensor]:
        x, captions = draw(k)
        ids = token_batch(tokenizer, captions).to(device)
        with autocast(device):
            seen, read = image(x).float(), image.text_projection(text(ids).pooled).float()
        loss = contrastive_loss(seen, read, image.logit_scale)
        metrics = accuracies(seen, read, captions)
        lr = learning_rate(k, recipe.steps, recipe.lr, recipe.warmup)
        gradient = update(loss, optimizer, lr)
        scale = image.logit_scale.detach().exp()
        return {"loss": loss, **metrics, "scale": scale, "gradient": gradient}

    shown = to_tensor(pages[:200], device)
    asked = [
        said[0]
        for said in load_captions(min(200, len(pages)), cache, recipe.data, size=recipe.size)
    ]

    def sheet() -> Image.Image:
        """Twelve pages over the ones, of two hundred, that the encoders find for their captions."""
        read = image.text_projection(text(token_batch(tokenizer, asked[:12]).to(device)).pooled)
        found = (F.normalize(read) @ F.normalize(image(shown)).T).argmax(1)
        return grid([to_pixels(shown[:12]), to_pixels(shown[found])])

    return Job({"text": text, "image": image}, {"clip": optimizer}, step, recipe.batch, sheet)


@torch.no_grad()
def accuracies(seen: Tensor, read: Tensor, captions: list[str]) -> dict[str, Tensor]:
    """accuracy: share of pictures whose own caption is the nearest in the batch. swap_accuracy: of
    pictures that are nearer to their own caption than to their twin's, where the two differ."""
    likeness = F.normalize(seen) @ F.normalize(read).T
    b = len(captions)
    own = likeness.diagonal()
    accuracy = (likeness.argmax(1) == torch.arange(b, device=seen.device)).float().mean()
    rows = torch.arange(b)
    others = (rows + b // 2) % b
    differ = torch.tensor([captions[i] != captions[j] for i, j in enumerate(others.tolist())])
    nearer = own > likeness[rows, others]
    share = nearer[differ.to(nearer.device)].float().mean().nan_to_num(1.0)
    return {"accuracy": accuracy, "swap_accuracy": share}


def new_text_encoder(recipe: CLIPRecipe, tokenizer: PreTrainedTokenizerBase) -> CLIPTextEncoder:
    return CLIPTextEncoder(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            num_layers=recipe.num_layers,
            num_heads=recipe.num_heads,
            intermediate_size=recipe.intermediate_size,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def run_tokenizer(recipe: CLIPRecipe, cache: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that the initial weights belong to, or one trained on the captions.

    It always learns the storybook's words, so that a user's own pictures may join them. It is
    trained once and kept, because pieces that are equally frequent may be numbered differently the
    next time.
    """
    init = Path(recipe.init)
    for home in (init / "export", init, init.parent):
        if recipe.init and (home / "tokenizer").is_dir():
            return read_tokenizer(home / "tokenizer")
    captions = load_captions(5000, cache, per_scene=2)
    if recipe.data:
        captions = captions + load_captions(0, cache, recipe.data, size=recipe.size)
    texts = [text for said in captions for text in said]
    kept = cache / f"tokenizer-{key(texts)}"
    if not kept.is_dir():
        replace_folder(kept, lambda part: write_tokenizer(part, train_tokenizer(texts)))
    return read_tokenizer(kept)


def export(job: Job, recipe: CLIPRecipe, cache: Path, folder: Path) -> None:
    """Write text_encoder/ and tokenizer/ as a published folder holds them."""
    text, tokenizer = job.networks["text"], run_tokenizer(recipe, cache)
    assert isinstance(text, CLIPTextEncoder)
    home = folder / "text_encoder"
    write_json(home / "config.json", text_json(text.config, tokenizer.bos_token_id))
    weights.save(text, home / "model.safetensors", torch.float16, MAX_BYTES)
    write_tokenizer(folder / "tokenizer", tokenizer)
