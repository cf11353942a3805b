"""Exercises and quiz of notebook 01, why latent space."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal

# ------------------------------------------------------------------------------ 01.1 three factors


def shrinkage(h: int, w: int, f: int, channels: int, bits: int) -> tuple[float, ...]:
    """Return how many times fewer elements, positions and bits a latent has."""
    pixels = h * w
    positions = -(-h // f) * -(-w // f)  # rounded up: the image is padded
    elements = 3 * pixels / (channels * positions)
    return elements, pixels / positions, elements * 8 / bits


def shrinkage_cases(_: Generator) -> Iterator[Case]:
    for h, w, f, channels, bits in (
        (512, 512, 8, 4, 32),
        (768, 512, 8, 4, 16),
        (500, 333, 8, 4, 16),
        (67, 90, 16, 16, 4),
        (33, 5, 4, 3, 32),
    ):
        yield Case((h, w, f, channels, bits))


SHRINKAGE = Exercise(
    number="01.1",
    title="Three factors",
    minutes=8,
    difficulty=1,
    core=True,
    solution=shrinkage,
    cases=shrinkage_cases,
    trained=False,
)

# ----------------------------------------------------------------------------- 01.2 a linear codec


def patch_codec(x: Tensor, mean: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Encode x (b, 3, h, w) as z (b, k, h / 8, w / 8) and decode it to (b, 3, h, w)."""
    middle = mean[:, None, None]  # (d, 1, 1), with d = 3 * 8 * 8
    patches = F.pixel_unshuffle(x, 8)  # (b, d, h / 8, w / 8)
    z = torch.einsum("kd,bdhw->bkhw", basis, patches - middle)
    back = torch.einsum("kd,bkhw->bdhw", basis, z) + middle
    return z, F.pixel_shuffle(back, 8)


def reshaped(x: Tensor, mean: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """A mistake: rows of d values by `reshape` alone."""
    b, _, h, w = x.shape
    patches = F.pixel_unshuffle(x, 8)
    z = (patches.reshape(-1, 192) - mean) @ basis.T
    back = (z @ basis + mean).reshape(patches.shape)
    return z.reshape(b, -1, h // 8, w // 8), F.pixel_shuffle(back, 8)


def innermost(x: Tensor, mean: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """A mistake: the values of a patch pixel by pixel, with the channels innermost."""
    patches = x.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).permute(0, 2, 4, 3, 5, 1)
    z = (patches.flatten(3) - mean) @ basis.T
    back = (z @ basis + mean).view(patches.shape).permute(0, 5, 1, 3, 2, 4)
    return z.movedim(3, 1), back.reshape(x.shape)


def codec_cases(rng: Generator) -> Iterator[Case]:
    for b, h, w, k in ((2, 16, 24, 4), (3, 16, 16, 16), (1, 8, 8, 1), (2, 24, 8, 192)):
        basis = torch.linalg.qr(normal(rng, 192, 192)).Q[:k].contiguous()
        yield Case((normal(rng, b, 3, h, w), normal(rng, 192), basis))


CODEC = Exercise(
    number="01.2",
    title="A linear codec",
    minutes=12,
    difficulty=2,
    core=True,
    solution=patch_codec,
    cases=codec_cases,
    trained=False,  # a pseudo-inverse of `basis` is right, and has other gradients
)

# -------------------------------------------------------------------------- 01.3 a latent preview


def preview_matrix(z: Tensor, x: Tensor) -> Tensor:
    """Fit colours of x (n, 3, 8 * h, 8 * w) to z (n, c, h, w); returns (c, 3)."""
    small = F.avg_pool2d(x, 8)  # (n, 3, h, w): the mean colour of each patch
    latents = z.movedim(1, -1).flatten(0, -2)  # (n * h * w, c)
    colours = small.movedim(1, -1).flatten(0, -2)  # (n * h * w, 3)
    return torch.linalg.solve(latents.T @ latents, latents.T @ colours)


def preview_cases(rng: Generator) -> Iterator[Case]:
    for n, c, h, w in ((3, 4, 4, 5), (2, 4, 4, 4), (1, 4, 2, 6), (2, 16, 6, 4), (4, 3, 3, 2)):
        z = normal(rng, n, c, h, w) @ normal(rng, w, w) + 0.5
        x = normal(rng, n, 3, 8 * h, 8 * w)
        yield Case((z, x.cumsum(dim=2) / 8 + 0.3))  # neighbours are alike, as in an image


PREVIEW = Exercise(
    number="01.3",
    title="A latent preview",
    minutes=12,
    difficulty=2,
    core=True,
    solution=preview_matrix,
    cases=preview_cases,
    trained=False,
)

# ------------------------------------------------------------------------ 01.4 patches to an image


def unpatchify(patches: Tensor, rows: int, p: int) -> Tensor:
    """Join patches (b, rows * columns, p * p * c) into (b, c, height, width)."""
    b, n, entries = patches.shape
    columns, c = n // rows, entries // p**2
    x = patches.reshape(b, rows, columns, p, p, c)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, c, rows * p, columns * p)


def patch_cases(rng: Generator) -> Iterator[Case]:
    for b, rows, columns, p, c in (
        (2, 3, 2, 4, 3),
        (1, 2, 5, 2, 3),
        (2, 4, 4, 3, 2),
        (3, 1, 4, 2, 1),
        (2, 2, 2, 2, 2),
    ):
        yield Case((normal(rng, b, rows * columns, p * p * c), rows, p))


PATCHES = Exercise(
    number="01.4",
    title="Patches to an image",
    minutes=12,
    difficulty=2,
    solution=unpatchify,
    cases=patch_cases,
)

# ------------------------------------------------------------------------ 01.5 decibels of a region


def psnr_where(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Return the PSNR of each image inside its mask (n, h, w), in dB, as (n,)."""
    inside = mask[:, None]  # (n, 1, h, w): the same for every channel
    total = ((a - b).square() * inside).sum(dim=(1, 2, 3))
    error = total / (inside.sum(dim=(1, 2, 3)) * a.shape[1])
    return 10 * torch.log10(4 / error)


def psnr_cases(rng: Generator) -> Iterator[Case]:
    for n, c, h, w in ((2, 3, 5, 4), (3, 3, 4, 4), (1, 1, 3, 6), (2, 4, 2, 2)):
        a, b = (normal(rng, n, c, h, w).clamp(-1, 1) for _ in range(2))
        mask = torch.rand(n, h, w, generator=rng) < 0.5
        mask[:, 0, 0], mask[:, -1, -1] = True, False
        yield Case((a, a + 0.2 * (b - a), mask))
    # Pale images, which use a part of the range from -1 to 1.
    a, b = (0.3 * normal(rng, 2, 3, 4, 4).clamp(-1, 1) for _ in range(2))
    yield Case((a, b, torch.rand(2, 4, 4, generator=rng) < 0.6))
    a, b = (normal(rng, 2, 3, 4, 5).clamp(-1, 1) for _ in range(2))
    mask = torch.rand(2, 4, 5, generator=rng) < 0.4
    mask[:, 0, 0] = True
    first = torch.tensor([True, False]).view(2, 1, 1, 1)  # in this image the region has no error
    yield Case((a, torch.where(mask[:, None] & first, a, b), mask))


PSNR = Exercise(
    number="01.5",
    title="Decibels of a region",
    minutes=12,
    difficulty=2,
    core=True,
    solution=psnr_where,
    cases=psnr_cases,
    trained=False,
)

# ------------------------------------------------------------------------------- 01.6 times cheaper


def times_cheaper(h: int, w: int, c: int, f: int) -> float:
    """Return how many times fewer multiplications one level needs on the latent."""

    def multiplications(n: int) -> int:
        convolutions = 2 * 9 * n * c * c
        attention = 4 * n * c * c + 2 * n * n * c
        return convolutions + attention

    return multiplications(h * w) / multiplications((h // f) * (w // f))


def cheaper_cases(_: Generator) -> Iterator[Case]:
    for h, w, c, f in ((512, 512, 320, 8), (64, 64, 320, 8), (64, 96, 32, 8), (40, 24, 64, 4),
                       (256, 32, 16, 16)):  # fmt: skip
        yield Case((h, w, c, f))


CHEAPER = Exercise(
    number="01.6",
    title="How many times cheaper",
    minutes=12,
    difficulty=2,
    core=True,
    solution=times_cheaper,
    cases=cheaper_cases,
    trained=False,
)

# ----------------------------------------------------------------------------- 01.7 along the arc


def between(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Interpolate along the arc from a (weight 0) to b (weight 1): (n, c, h, w)."""
    u, v = (F.normalize(x.flatten(1), dim=1) for x in (a, b))  # (n, c * h * w)
    angle = (u * v).sum(dim=1).clamp(-1, 1).acos().view(-1, 1, 1, 1)
    width = angle.sin()
    arc = (((1 - weight) * angle).sin() * a + (weight * angle).sin() * b) / width
    return torch.where(width < 1e-6, torch.lerp(a, b, weight), arc)


def rescaled(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """A mistake: the straight line, stretched to a length between those of the ends."""
    mixed = torch.lerp(a, b, weight)
    size = [x.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for x in (a, b, mixed)]
    return mixed * torch.lerp(size[0], size[1], weight) / size[2]


def between_cases(rng: Generator) -> Iterator[Case]:
    for shape, weight in (((2, 4, 3, 5), 0.3), ((3, 4, 4, 4), 0.5), ((1, 2, 6, 2), 0.8)):
        yield Case((normal(rng, *shape), 2 * normal(rng, *shape), weight))
    a, b = normal(rng, 3, 4, 2, 3), normal(rng, 3, 4, 2, 3)
    a[2] = torch.zeros_like(a[2])
    a[2, 0, 0, 0] = 4.0  # with one value only, nothing is rounded: its angle to itself is 0
    # Three angles in one batch: small, obtuse, and none at all, where the formula gives 0 / 0.
    yield Case((a, torch.stack([a[0] + 0.5 * b[0], b[1] - 2 * a[1], 2 * a[2]]), 0.25))
    a = normal(rng, 3, 4, 2, 3)
    yield Case((a, b, 0.0))
    # Small values, products below 1; the first pair is 3.6 degrees apart, nearly a line but no
    # line. Scripts that take the line from a cosine of 0.999 on are right here.
    a, b = 0.1 * a, 0.1 * b
    yield Case((a, torch.cat([turned(a[:1], b[:1], 0.998), b[1:]]), 0.4))
    yield Case((*rounded_beyond_one(rng), 0.35))


def turned(a: Tensor, b: Tensor, cosine: float) -> Tensor:
    """Turn a (1, c, h, w) towards b until the cosine of the angle is this."""
    across = b - (a * b).sum() / a.square().sum() * a
    return cosine * a + (1 - cosine**2) ** 0.5 * a.norm() / across.norm() * across


def rounded_beyond_one(rng: Generator) -> tuple[Tensor, Tensor]:
    """Parallel pairs (n, 1, 1, 2) whose cosine comes out above 1, however it is computed."""
    a = normal(rng, 400, 1, 1, 2)
    b = 1.7 * a
    u, v, product = a.flatten(1), b.flatten(1), (a * b).flatten(1).sum(dim=1)
    size = [x.norm(dim=1) for x in (u, v)]
    cosines = torch.stack(
        [
            (u / size[0][:, None] * (v / size[1][:, None])).sum(dim=1),
            product / (size[0] * size[1]),
            product / size[0] / size[1],
            product / (u.square().sum(dim=1) * v.square().sum(dim=1)).sqrt(),
        ]
    )
    found = (cosines > 1).all(dim=0).nonzero().flatten()[:6]
    return a[found], b[found]


BETWEEN = Exercise(
    number="01.7",
    title="Along the arc",
    minutes=15,
    difficulty=2,
    core=True,
    solution=between,
    cases=between_cases,
    trained=False,
)

EXERCISES, QUESTIONS = with_texts(
    __name__,
    SHRINKAGE,
    CODEC,
    PREVIEW,
    PATCHES,
    PSNR,
    CHEAPER,
    BETWEEN,
)
