"""Training of the judge on rendered pages, augmented with the artefacts of a decoder.

The pages come from all three splits, so that the judge knows every kind in every colour. Their
seeds are separate: no page is used to train the shipped model or to evaluate one.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sdlearn.distributed import gather_rows, own_rows
from sdlearn.evaluation.judge import Judge, JudgeConfig, Logits, save_judge
from sdlearn.recipes.contact_sheets import grid
from sdlearn.recipes.data import Batches, Pixels, load_images, scene, to_pixels, to_tensor
from sdlearn.recipes.initial_weights import load_initial_weights
from sdlearn.recipes.mixed_precision import gradient_metrics, with_scalers
from sdlearn.recipes.ranges import Range, check_multiples
from sdlearn.recipes.recipe import Recipe
from sdlearn.recipes.room import check_memory, check_pages
from sdlearn.storybook import SPLITS
from sdlearn.training import TrainingJob, learning_rate, step_generator, update
from sdlearn.utils.device import autocast, loss_scaler, seeded

SEEDS = {split: 15_000 + k for k, split in enumerate(SPLITS)}  # of the judge's own scenes
THINGS = 3  # at most on one page


@dataclass(frozen=True, kw_only=True)
class JudgeRecipe(Recipe):
    """Settings of the judge's training; `scenes` counts pages of each split.

    The amounts of augmentation are maxima, and each page gets random amounts below them. A fifth
    of the pages are not augmented. noise, tint and brightness are in units of the pixel range
    -1..1. Hue changes by no more than the tint, so that colours can still be recognised.

    Attributes:
        channels: Of the judge, at 1/2, 1/4 and 1/8 of the resolution.
        shift: In pixels, in each direction.
        blur: Standard deviation of the Gaussian blur, in pixels.
        noise: Standard deviation of the noise.
        tint: Standard deviation of the smooth coloured noise.
        brightness: Change of brightness and of contrast.
        blocks: Quantisation step of the 8 x 8 DCT coefficients.
    """

    channels: Annotated[tuple[int, ...], Range(8, 4096, entries=(3, 3))] = (32, 64, 96)
    shift: Annotated[int, Range(0, 64)] = 3
    blur: Annotated[float, Range(0.3, 10)] = 1.2
    noise: Annotated[float, Range(0, 2)] = 0.12
    tint: Annotated[float, Range(0, 2)] = 0.08
    brightness: Annotated[float, Range(0, 1)] = 0.06
    blocks: Annotated[float, Range(0, 2)] = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        check_multiples("channels", self.channels, 8, "for the groups of its norms")
        if self.shift > self.size // 8:  # or whole objects would leave the image
            raise ValueError(
                f"shift is {self.shift}; accepted: at most {self.size // 8}, an eighth of the size"
            )


RECIPES = {
    "storybook": JudgeRecipe(steps=1600, batch=32, lr=2e-3, warmup=100, scenes=10_000),
    "small": JudgeRecipe(steps=150, batch=32, lr=3e-3, warmup=20, scenes=300),
}


def make_job(
    recipe: JudgeRecipe, cache: Path, device: torch.device, run: Path | None = None
) -> TrainingJob:
    """Build the network, the optimizer and the training step.

    Args:
        recipe: The settings.
        cache: Folder for rendered images.
        device: Where to train.
        run: Folder of the run that goes on from its checkpoint; None for a new one.

    Raises:
        ValueError: If the recipe names a user's folder.
    """
    if recipe.data:
        raise ValueError(
            f"--data is {recipe.data}; the judge is trained on the storybook's scenes only"
        )
    half, quarter, eighth = recipe.channels
    config = JudgeConfig(channels=(half, quarter, eighth), size=recipe.size)
    check_memory(recipe, device, lambda: Judge(config), max(3, half // 4))
    check_pages(recipe, device, copies=len(SPLITS))
    with seeded(recipe.seed):
        judge = Judge(config)
    load_initial_weights(recipe.init, {"judge": judge}, run)
    judge = judge.to(device)
    optimizer = torch.optim.AdamW(judge.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    scaler = loss_scaler(device, recipe.precision)

    pages = all_pages(recipe, cache)
    things, skies, grounds = (torch.from_numpy(x).to(device) for x in labels(recipe))
    batches = Batches(pages, recipe.seed, recipe.batch, device)

    def step(k: int) -> dict[str, Tensor]:
        rows = torch.from_numpy(batches.indices(k)).to(device)
        x, moved = augment(to_tensor(batches(k), device), recipe, k)
        truth = things[rows].clone()
        truth[..., :2] += moved.to(device)
        with autocast(device, recipe.precision):
            out = judge(own_rows(x))
        # Its terms are divided by numbers of things and cells, not of rows: the whole batch counts.
        whole = Logits(*(gather_rows(y.float()) for y in out))
        metrics = judge_loss(whole, truth, skies[rows], grounds[rows])
        lr = learning_rate(k, recipe.steps, recipe.lr, recipe.warmup)
        gradient = update(metrics["loss"], optimizer, lr, scaler=scaler)
        return metrics | gradient_metrics(gradient, scaler)

    def samples() -> Image.Image:
        """Draw twelve pages and, below, the same pages augmented."""
        shown = to_tensor(pages[:: max(1, len(pages) // 12)][:12], "cpu")
        return grid([to_pixels(shown), to_pixels(augment(shown, recipe, 0)[0])], scale=2)

    states = with_scalers({"judge": optimizer}, scaler=scaler)
    return TrainingJob({"judge": judge}, states, step, recipe.batch, samples)


def all_pages(recipe: JudgeRecipe, cache: Path) -> Pixels:
    """Load the pages of the three splits, one after the other, (3 n, size, size, 3) bytes."""
    n, size = recipe.scenes, recipe.size
    return np.concatenate(
        [load_images(n, size, cache, split=split, seed=SEEDS[split]) for split in SPLITS]
    )


def labels(recipe: JudgeRecipe) -> tuple[NDArray[np.float32], ...]:
    """Return the labels of `all_pages`.

    Returns:
        Things (n, 3, 5) with x, y, kind, colour and pattern, all -1 if there is no thing; and the
        class indices of sky and ground, (n,) each.
    """
    names = JudgeConfig()
    scenes = [scene(k, split, SEEDS[split]) for split in SPLITS for k in range(recipe.scenes)]
    things = np.full((len(scenes), THINGS, 5), -1, np.float32)
    for row, page in zip(things, scenes, strict=True):
        for label, thing in zip(row, page.things, strict=False):
            kind, colour = names.kinds.index(thing.kind), names.colours.index(thing.colour)
            label[:] = thing.x, thing.y, kind, colour, names.patterns.index(thing.pattern)
    skies = np.array([names.skies.index(page.sky) for page in scenes])
    grounds = np.array([names.grounds.index(page.ground) for page in scenes])
    return things, skies, grounds


def judge_loss(out: Logits, things: Tensor, sky: Tensor, ground: Tensor) -> dict[str, Tensor]:
    """Compute CenterNet's losses: focal for centres, cross-entropy for classes, L1 for offsets.

    Args:
        out: Of the judge.
        things: (b, 3, 5), see `labels`.
        sky: Class indices, (b,).
        ground: Class indices, (b,).

    Returns:
        Scalars: "loss", the weighted sum, and each of its terms.
    """
    h, w = out.centre.shape[2:]
    present = things[..., 2] >= 0  # (b, 3)
    x, y = things[..., 0] * w, things[..., 1] * h
    rows = torch.arange(h, device=things.device).view(1, 1, h, 1)
    columns = torch.arange(w, device=things.device).view(1, 1, 1, w)
    dx = columns - x.floor()[..., None, None]
    dy = rows - y.floor()[..., None, None]
    bumps = torch.exp(-(dx.square() + dy.square()) / (2 * 0.8**2)) * present[..., None, None]
    heat, nearest = bumps.max(dim=1)  # (b, h, w)

    p = out.centre[:, 0].sigmoid().clamp(1e-5, 1 - 1e-5)
    is_centre = heat > 0.999
    right = torch.where(is_centre, p, 1 - p)
    weight = torch.where(is_centre, 1.0, (1 - heat) ** 4)
    centre = (-right.log() * (1 - right).square() * weight).sum() / present.sum()

    near = heat > 0.4  # the centre and its four neighbours, where the peak may be detected
    owner = nearest[near]
    page = near.nonzero()[:, 0]
    target = things[page, owner]
    weights = heat[near] / heat[near].sum()

    def classes(logits: Tensor, column: int) -> Tensor:
        chosen = logits.permute(0, 2, 3, 1)[near]
        losses = F.cross_entropy(chosen, target[:, column].long(), reduction="none")
        return (losses * weights).sum()

    kind, colour, pattern = (classes(z, 2 + n) for n, z in enumerate(out[1:4]))
    inside = torch.stack([x[page, owner] % 1, y[page, owner] % 1], dim=1)
    offset = out.offset.permute(0, 2, 3, 1)[is_centre]
    offset = (offset - inside[is_centre[near]]).abs().mean()
    skies, grounds = F.cross_entropy(out.sky, sky), F.cross_entropy(out.ground, ground)
    loss = centre + kind + colour + 0.2 * pattern + offset + 0.5 * (skies + grounds)
    return {
        "loss": loss, "centre": centre, "kind": kind, "colour": colour, "pattern": pattern,
        "offset": offset, "sky": skies, "ground": grounds,
    }  # fmt: skip


def augment(x: Tensor, recipe: JudgeRecipe, step: int) -> tuple[Tensor, Tensor]:
    """Shift, blur, quantise, tint and brighten pages at random, and add noise.

    Args:
        x: Pages, (b, 3, h, w) in [-1, 1].
        recipe: The maximal amounts.
        step: Training step; it determines the random numbers.

    Returns:
        The augmented pages, (b, 3, h, w), and the shift (x, y) of all of them, (2,), as a fraction
        of the page.
    """
    generator = step_generator(recipe.seed, step, 1)
    device, (b, _, h, w) = x.device, x.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    s = recipe.shift
    right, down = torch.randint(-s, s + 1, (2,), generator=generator).tolist()
    wide = F.pad(x, (s, s, s, s), mode="replicate")
    x = wide[:, :, s - down : s - down + h, s - right : s - right + w]
    clean = x
    x = torch.lerp(x, blurred(x, 0.3 + (recipe.blur - 0.3) * float(draw(1))), draw(b, 1, 1, 1))
    x = torch.where(draw(b, 1, 1, 1) < 0.3, quantise_dct(x, recipe.blocks * draw(b, 1, 1, 1)), x)
    stains = F.interpolate(normal(b, 3, h // 8, w // 8), size=(h, w), mode="bilinear")
    x = x + recipe.tint * draw(b, 1, 1, 1) * stains
    x = x + recipe.noise * draw(b, 1, 1, 1).square() * normal(*x.shape)
    contrast = 1 + recipe.brightness * (2 * draw(b, 1, 1, 1) - 1)
    x = contrast * x + recipe.brightness * (2 * draw(b, 1, 1, 1) - 1)
    x = torch.where(draw(b, 1, 1, 1) < 0.2, clean, x.clamp(-1, 1))
    return x, torch.tensor([right / w, down / h])


def blurred(x: Tensor, std: float) -> Tensor:
    """Blur pages with a Gaussian of `std` pixels, over 7 x 7 pixels."""
    taps = torch.exp(-torch.arange(-3, 4, device=x.device).square() / (2 * std**2))
    kernel = (taps / taps.sum()).expand(x.shape[1], 1, 7)
    x = F.conv2d(F.pad(x, (3, 3, 0, 0), mode="replicate"), kernel[:, :, None], groups=x.shape[1])
    return F.conv2d(
        F.pad(x, (0, 0, 3, 3), mode="replicate"), kernel[:, :, :, None], groups=x.shape[1]
    )


def quantise_dct(x: Tensor, step: Tensor) -> Tensor:
    """Round 8 x 8 DCT coefficients to multiples of `step` (b, 1, 1, 1), as JPEG does."""
    n = torch.arange(8, device=x.device, dtype=x.dtype)
    cosine = torch.cos(math.pi / 8 * (n[None] + 0.5) * n[:, None]) / 2
    cosine[0] /= math.sqrt(2)  # orthonormal: the inverse is the transpose
    b, c, h, w = x.shape
    blocks = x.view(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)  # (b, c, h/8, w/8, 8, 8)
    step = step[..., None, None].clamp(min=1e-3)
    blocks = cosine.T @ ((cosine @ blocks @ cosine.T / step).round() * step) @ cosine
    return blocks.transpose(3, 4).reshape(b, c, h, w)


def export(job: TrainingJob, recipe: JudgeRecipe, cache: Path, folder: Path) -> None:
    """Write the judge in the layout of data/judge/.

    Args:
        job: The finished training.
        recipe: Its settings.
        cache: Not used.
        folder: Where to write.
    """
    judge = job.networks["judge"]
    assert isinstance(judge, Judge)
    save_judge(judge, folder, recipe=asdict(recipe))
