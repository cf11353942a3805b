"""Training the judge, on drawn pages alone, blurred and disturbed as a decoder might.

Its pages come from all three splits, so it knows every kind in every colour; their seeds are its
own: neither a page that the shipped model trained on nor one that anything is measured on.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sdlearn.evaluation.judge import Judge, JudgeConfig, Logits, save_judge
from sdlearn.recipes.data import Batches, Pixels, load_pictures, scene, to_pixels, to_tensor
from sdlearn.recipes.recipe import Recipe
from sdlearn.recipes.sheets import grid
from sdlearn.storybook import SPLITS
from sdlearn.training import Job, autocast, learning_rate, seeded, step_generator, update

SEEDS = {split: 15_000 + k for k, split in enumerate(SPLITS)}  # of the judge's own scenes
THINGS = 3  # at most on one page


@dataclass(frozen=True, kw_only=True)
class JudgeRecipe(Recipe):
    """The judge's own numbers; `scenes` counts pages of each split.

    Every amount is the largest, drawn anew for each page. A fifth of the pages stay as drawn.
    brightness, noise and tint are in units of the page's range -1..1; colours must stay tellable,
    so there is no change of hue beyond the tint.
    """

    channels: tuple[int, ...] = (32, 64, 96)
    shift: int = 3  # pixels
    blur: float = 1.2  # standard deviation in pixels
    noise: float = 0.12
    tint: float = 0.08  # smooth coloured noise, eight pixels wide
    brightness: float = 0.06
    blocks: float = 0.25  # coarsest step of the 8 x 8 cosine coefficients, as in a JPEG


RECIPES = {
    "storybook": JudgeRecipe(steps=1600, batch=32, lr=2e-3, warmup=100, scenes=10_000),
    "small": JudgeRecipe(steps=150, batch=32, lr=3e-3, warmup=20, scenes=300),
}


def make_job(recipe: JudgeRecipe, cache: Path, device: torch.device) -> Job:
    """The network, its optimizer and the step of a training; drawn pages are kept in `cache`."""
    if recipe.data:
        raise ValueError(f"--data {recipe.data}: the judge learns from the storybook's scenes")
    half, quarter, eighth = recipe.channels
    with seeded(recipe.seed):
        judge = Judge(JudgeConfig(channels=(half, quarter, eighth), size=recipe.size))
    judge = judge.to(device)
    optimizer = torch.optim.AdamW(judge.parameters(), betas=(0.9, 0.99), weight_decay=0.01)

    pages = all_pages(recipe, cache)
    things, skies, grounds = (torch.from_numpy(x).to(device) for x in labels(recipe))
    batches = Batches(pages, recipe.seed, recipe.batch, device)

    def step(k: int) -> dict[str, Tensor]:
        rows = torch.from_numpy(batches.indices(k)).to(device)
        x, moved = disturb(to_tensor(batches(k), device), recipe, k)
        truth = things[rows].clone()
        truth[..., :2] += moved.to(device)
        with autocast(device):
            out = judge(x)
        metrics = judge_loss(Logits(*(y.float() for y in out)), truth, skies[rows], grounds[rows])
        lr = learning_rate(k, recipe.steps, recipe.lr, recipe.warmup)
        metrics["gradient"] = update(metrics["loss"], optimizer, lr)
        return metrics

    def sheet() -> Image.Image:
        """Twelve pages, and the same as the judge gets to see them."""
        shown = to_tensor(pages[:: max(1, len(pages) // 12)][:12], "cpu")
        return grid([to_pixels(shown), to_pixels(disturb(shown, recipe, 0)[0])], scale=2)

    return Job({"judge": judge}, {"judge": optimizer}, step, recipe.batch, sheet)


def all_pages(recipe: JudgeRecipe, cache: Path) -> Pixels:
    """The pages of the three splits, one after the other."""
    n, size = recipe.scenes, recipe.size
    return np.concatenate(
        [load_pictures(n, size, cache, split=split, seed=SEEDS[split]) for split in SPLITS]
    )


def labels(recipe: JudgeRecipe) -> tuple[NDArray[np.float32], ...]:
    """What those pages show: things (n, 3, 5) with x, y, kind, colour, pattern (-1: no thing),
    and the numbers of sky and ground (n,)."""
    names = JudgeConfig()
    scenes = [scene(k, split, SEEDS[split]) for split in SPLITS for k in range(recipe.scenes)]
    things = np.full((len(scenes), THINGS, 5), -1, np.float32)
    for row, page in zip(things, scenes, strict=True):
        for place, thing in zip(row, page.things, strict=False):
            kind, colour = names.kinds.index(thing.kind), names.colours.index(thing.colour)
            place[:] = thing.x, thing.y, kind, colour, names.patterns.index(thing.pattern)
    skies = np.array([names.skies.index(page.sky) for page in scenes])
    grounds = np.array([names.grounds.index(page.ground) for page in scenes])
    return things, skies, grounds


def judge_loss(out: Logits, things: Tensor, sky: Tensor, ground: Tensor) -> dict[str, Tensor]:
    """CenterNet's focal loss on the middles, cross-entropy on what the things are, and where.

    things: (b, 3, 5) as `labels` gives them; sky, ground: (b,) integers.
    """
    h, w = out.centre.shape[2:]
    there = things[..., 2] >= 0  # (b, 3)
    x, y = things[..., 0] * w, things[..., 1] * h
    rows = torch.arange(h, device=things.device).view(1, 1, h, 1)
    columns = torch.arange(w, device=things.device).view(1, 1, 1, w)
    dx = columns - x.floor()[..., None, None]
    dy = rows - y.floor()[..., None, None]
    bumps = torch.exp(-(dx.square() + dy.square()) / (2 * 0.8**2)) * there[..., None, None]
    heat, nearest = bumps.max(dim=1)  # (b, h, w)

    p = out.centre[:, 0].sigmoid().clamp(1e-5, 1 - 1e-5)
    is_centre = heat > 0.999
    right = torch.where(is_centre, p, 1 - p)
    weight = torch.where(is_centre, 1.0, (1 - heat) ** 4)
    centre = (-right.log() * (1 - right).square() * weight).sum() / there.sum()

    near = heat > 0.4  # the middle and its four neighbours, should the peak be found there
    owner = nearest[near]
    page = near.nonzero()[:, 0]
    target = things[page, owner]
    share = heat[near] / heat[near].sum()

    def classes(logits: Tensor, column: int) -> Tensor:
        chosen = logits.permute(0, 2, 3, 1)[near]
        losses = F.cross_entropy(chosen, target[:, column].long(), reduction="none")
        return (losses * share).sum()

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


def disturb(x: Tensor, recipe: JudgeRecipe, step: int) -> tuple[Tensor, Tensor]:
    """Pages (b, 3, h, w) as a decoder might blur and stain them; and how far all moved (x, y)."""
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
    x = torch.where(draw(b, 1, 1, 1) < 0.3, coarse(x, recipe.blocks * draw(b, 1, 1, 1)), x)
    stains = F.interpolate(normal(b, 3, h // 8, w // 8), size=(h, w), mode="bilinear")
    x = x + recipe.tint * draw(b, 1, 1, 1) * stains
    x = x + recipe.noise * draw(b, 1, 1, 1).square() * normal(*x.shape)
    contrast = 1 + recipe.brightness * (2 * draw(b, 1, 1, 1) - 1)
    x = contrast * x + recipe.brightness * (2 * draw(b, 1, 1, 1) - 1)
    x = torch.where(draw(b, 1, 1, 1) < 0.2, clean, x.clamp(-1, 1))
    return x, torch.tensor([right / w, down / h])


def blurred(x: Tensor, std: float) -> Tensor:
    """Pages under a Gaussian blur of `std` pixels."""
    taps = torch.exp(-torch.arange(-3, 4, device=x.device).square() / (2 * std**2))
    kernel = (taps / taps.sum()).expand(x.shape[1], 1, 7)
    x = F.conv2d(F.pad(x, (3, 3, 0, 0), mode="replicate"), kernel[:, :, None], groups=x.shape[1])
    return F.conv2d(
        F.pad(x, (0, 0, 3, 3), mode="replicate"), kernel[:, :, :, None], groups=x.shape[1]
    )


def coarse(x: Tensor, step: Tensor) -> Tensor:
    """Pages with their 8 x 8 cosine coefficients rounded to multiples of `step` (b, 1, 1, 1)."""
    n = torch.arange(8, device=x.device, dtype=torch.float32)
    cosine = torch.cos(math.pi / 8 * (n[None] + 0.5) * n[:, None]) / 2
    cosine[0] /= math.sqrt(2)  # orthonormal: the inverse is the transpose
    b, c, h, w = x.shape
    blocks = x.view(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)  # (b, c, h/8, w/8, 8, 8)
    step = step[..., None, None].clamp(min=1e-3)
    blocks = cosine.T @ ((cosine @ blocks @ cosine.T / step).round() * step) @ cosine
    return blocks.transpose(3, 4).reshape(b, c, h, w)


def export(job: Job, recipe: JudgeRecipe, cache: Path, folder: Path) -> None:
    """Write the judge as it is shipped in data/judge/."""
    judge = job.networks["judge"]
    assert isinstance(judge, Judge)
    save_judge(judge, folder, recipe=asdict(recipe))
