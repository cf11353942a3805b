"""Exercises and quiz of notebook 11, text to image."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal
from sdlearn.samplers import State, ddim, euler_ancestral, heun
from sdlearn.schedule import NoiseSchedule, Point
from sdlearn.text import Conditioning

Denoiser = Callable[[Tensor, Point], Tensor]

# ------------------------------------------------------------------------------ 11.1 what to encode


def texts_for(
    prompts: list[str],
    negative: str | list[str] | None,
    n: int,
) -> list[str]:
    """Texts for n images of each prompt: all negative texts first, then all prompts."""
    if negative is None or isinstance(negative, str):
        negative = [negative or ""] * len(prompts)
    first = [text for text in negative for _ in range(n)]
    last = [text for text in prompts for _ in range(n)]
    return first + last


def texts_cases(rng: Generator) -> Iterator[Case]:
    cat, house, fish = "a red cat", "a blue house", "a pink fish"
    yield Case(([cat, house], None, 2))
    yield Case(([cat, house, fish], "at night", 2))
    yield Case(([cat, house], ["a house", "a cat"], 3))
    yield Case(([fish], ["rain"], 1))
    yield Case(([cat, cat, fish], ["night", "day", "night"], 2))
    yield Case(([house], "", 4))


TEXTS = Exercise(
    number="11.1",
    title="What to encode",
    minutes=8,
    difficulty=1,
    core=True,
    solution=texts_for,
    cases=texts_cases,
    trained=False,
)

# ------------------------------------------------------------------ 11.2 a generator for each image


def image_noise(seed: int, shape: tuple[int, ...], draws: int) -> Tensor:
    """The noise of b images, shape (b, c, h, w) -> (draws, b, c, h, w) float32."""
    b, *image = shape
    generators = [torch.Generator().manual_seed(seed + k) for k in range(b)]
    return torch.stack(
        [
            torch.stack([torch.randn(image, generator=generator) for generator in generators])
            for _ in range(draws)
        ]
    )


def noise_cases(rng: Generator) -> Iterator[Case]:
    for shape, draws in (
        ((3, 4, 2, 5), 4), ((2, 4, 8, 8), 3), ((1, 3, 3, 5), 3), ((4, 4, 4, 6), 1),
        ((2, 1, 3, 3), 5),
    ):  # fmt: skip
        yield Case((int(torch.randint(1, 10**6, (), generator=rng)), shape, draws))


NOISE = Exercise(
    number="11.2",
    title="A generator for each image",
    minutes=8,
    difficulty=1,
    core=True,
    solution=image_noise,
    cases=noise_cases,
    trained=False,
)

# -------------------------------------------------------------------------------- 11.3 the pipeline


def guided_denoiser(unet: nn.Module, uncond: Tensor, cond: Tensor, scale: float) -> Denoiser:
    """Embeddings (b, n, d) of the negative texts and of the prompts -> (z, point) -> z_0."""
    both = torch.cat([uncond, cond])

    def denoise(z: Tensor, here: Point) -> Tensor:
        t = torch.full((len(z),), here.t)
        if scale == 1:
            eps = unet(z, t, cond)
        else:
            eps_uncond, eps_cond = unet(torch.cat([z, z]), torch.cat([t, t]), both).chunk(2)
            eps = torch.lerp(eps_uncond, eps_cond, scale)
        return (z - here.sigma * eps) / here.alpha

    return denoise


def sample_latents(
    encode: nn.Module,
    unet: nn.Module,
    sample: "Callable[..., Iterator[State]]",
    path: "list[Point]",
    texts: list[str],
    noises: Tensor,
    scale: float,
) -> Tensor:
    """2b texts, noises (draws, b, c, h, w) -> clean latents (b, c, h, w)."""
    uncond, cond = encode(texts).context.chunk(2)
    denoise = guided_denoiser(unet, uncond, cond, scale)
    draws = iter(noises)
    start = next(draws)
    *_, last = sample(denoise, start, path, noise=lambda: next(draws))
    return last.z


class Letters(nn.Module):
    """A text encoder without weights: each of five tokens counts one letter."""

    def forward(self, texts: list[str]) -> Conditioning:
        """b texts -> context (b, 5, 2)."""
        counts = [[[0.3 + text.count(c) / 5, len(text) / 40] for c in "aeiou"] for text in texts]
        return Conditioning(torch.tensor(counts, dtype=torch.float64))


class Network(nn.Module):
    """A U-Net without weights that is conditioned on its context."""

    def forward(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """z (b, c, h, w), t (b,), context (b, n, d) -> (b, c, h, w)."""
        word = context.to(z).std(dim=(1, 2))[:, None, None, None]
        time = t.to(z)[:, None, None, None] / 2000
        return torch.tanh(z * (1 + word) + 2 * word) + time * word


def fresh(denoise: Denoiser, z: Tensor, path: list[Point], noise: Any = None) -> Iterator[State]:
    """Euler's ancestral method; without `noise` it adds zeros."""
    return euler_ancestral(denoise, z, path, noise or (lambda: torch.zeros_like(z)))


def pipeline_cases(rng: Generator) -> Iterator[Case]:
    schedule = NoiseSchedule()
    texts = ["", "", "a red cat", "two blue houses on the sand"]
    rain = ["rain", "an old tree by the sea", "a green boat", "a cat"]
    for sample, steps, final, words, scale in (
        (ddim, 4, "min", texts, 3.0),
        (fresh, 3, "zero", rain, 2.5),
        (heun, 3, "zero", rain[2:], 4.0),
        (fresh, 4, "min", texts, 1.0),
    ):
        noises = normal(rng, steps + 1, len(words) // 2, 2, 3, 4)
        path = schedule.path(steps, final_sigma=final)  # type: ignore[arg-type]
        yield Case((Letters(), Network(), sample, path, words, noises, scale))


PIPELINE = Exercise(
    number="11.3",
    title="The pipeline",
    minutes=12,
    difficulty=2,
    core=True,
    solution=sample_latents,
    cases=pipeline_cases,
    trained=False,
)

# -------------------------------------------------------------------------------- 11.4 long prompts


def long_embeddings(
    encode: nn.Module, negative: list[str], prompt: list[str]
) -> tuple[Tensor, Tensor]:
    """Chunks of a negative prompt and of a prompt -> (1, 77 * m, d) each."""
    m = max(len(negative), len(prompt))
    texts = negative + [""] * (m - len(negative)) + prompt + [""] * (m - len(prompt))
    context = encode(texts).context  # (2m, 77, d)
    uncond, cond = context.reshape(2, 1, -1, context.shape[-1])
    return uncond, cond


def long_cases(rng: Generator) -> Iterator[Case]:
    cat, house, sea = "a red cat with", "stripes and a blue house", "in the sea at night"
    yield Case((Letters(), [""], [cat, house, sea]))
    yield Case((Letters(), ["rain", "a boat on the road"], [cat, house]))
    yield Case((Letters(), ["rain", "a boat", "an old tree", "snow"], [sea, cat]))
    yield Case((Letters(), ["a boat"], [house]))


LONG = Exercise(
    number="11.4",
    title="Long prompts in the pipeline",
    minutes=12,
    difficulty=2,
    core=True,
    solution=long_embeddings,
    cases=long_cases,
    trained=False,
)

# ------------------------------------------------------------------------------ 11.5 tiled decoding


def decode_tiled(
    decode: "Callable[[Tensor], Tensor]",
    z: Tensor,
    tile: int,
    overlap: int,
    factor: int,
) -> Tensor:
    """Latent z (b, c, h, w) -> image (b, 3, factor * h, factor * w), tile by tile."""
    h, w = z.shape[-2:]
    stride = tile - overlap
    tops = [min(top, h - tile) for top in range(0, h - overlap, stride)]
    lefts = [min(left, w - tile) for left in range(0, w - overlap, stride)]
    side = torch.arange(1, factor * tile + 1).to(z)
    ramp = torch.minimum(side, side.flip(0))
    weight = ramp[:, None] * ramp
    image = z.new_zeros(len(z), 3, factor * h, factor * w)
    total = z.new_zeros(factor * h, factor * w)
    for top in tops:
        for left in lefts:
            part = decode(z[..., top : top + tile, left : left + tile])
            rows = slice(factor * top, factor * (top + tile))
            columns = slice(factor * left, factor * (left + tile))
            image[..., rows, columns] += weight * part
            total[rows, columns] += weight
    return image / total


class Decoder(nn.Module):
    """A decoder without weights, whose pixels depend on the whole latent that it gets."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        """z (b, c, h, w) -> (b, 3, factor * h, factor * w)."""
        x = F.interpolate(z[:, :3], scale_factor=float(self.factor), mode="nearest")
        place = torch.linspace(0, 1, x.shape[-1]).to(z) + z.mean(dim=(1, 2, 3))[:, None, None, None]
        return torch.sin(x) + place * torch.linspace(1, 2, x.shape[-2]).to(z)[:, None]


def tile_cases(rng: Generator) -> Iterator[Case]:
    for b, h, w, tile, overlap, factor in (
        (2, 6, 10, 4, 2, 3), (1, 7, 8, 4, 1, 2), (1, 5, 5, 5, 2, 2), (2, 9, 5, 3, 0, 1),
        (1, 6, 11, 5, 3, 2),
    ):  # fmt: skip
        yield Case((Decoder(factor), normal(rng, b, 4, h, w), tile, overlap, factor))


TILES = Exercise(
    number="11.5",
    title="Tiled decoding",
    minutes=25,
    difficulty=3,
    core=True,
    solution=decode_tiled,
    cases=tile_cases,
    trained=False,
)

EXERCISES, QUESTIONS = with_texts(
    __name__,
    TEXTS,
    NOISE,
    PIPELINE,
    LONG,
    TILES,
)
