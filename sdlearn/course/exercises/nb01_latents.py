"""Exercises and quiz of notebook 01, why latent space."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sdlearn.course.exercises.edits import with_mistakes
from sdlearn.course.grading.exercise import Answer, Case, Exercise, Question, normal

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
    statement="An image of `h` × `w` pixels has three channels of 8 bits each. Each "
    "position of its latent covers `f` × `f` pixels and holds `channels` values of `bits` bits. If "
    "`f` does not divide a side, the image is first padded to the next multiple, so that nothing "
    "is cut off. Return three factors: how many times *fewer* elements, positions and bits the "
    "latent has than the image had *before* padding.",
    hints=(
        "Start with the positions of the latent: how many rows of f pixels does it take to cover "
        "h pixels? The last row may be only partly full.",
        "`-(-h // f)` is h / f rounded up. The image has `h * w` positions and `3 * h * w` "
        "elements of 8 bits; the latent has `channels` elements of `bits` bits at each position.",
        "The second factor is `h * w / positions`. The first factor is `3 / channels` times the "
        "second, and the third is `8 / bits` times the first.",
    ),
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
    statement="Write an encoder and a decoder for whole images. You are given the mean patch, "
    "`mean`, of shape `(d,)` with $d = 3 \\cdot 8 \\cdot 8$, and `basis`, of shape `(k, d)`, whose "
    "rows are orthonormal directions. Cut `x` into patches with `F.pixel_unshuffle`, compute the "
    "$k$ coefficients of each patch, and rebuild the image from these alone. Return `z` and the "
    "reconstruction, unclamped, so that the codec stays linear.",
    hints=(
        "Each position of `F.pixel_unshuffle(x, 8)`, `(b, d, h / 8, w / 8)`, is one patch. The "
        "two formulas above apply to all of them at once. `mean` needs two more axes "
        "before you can subtract it: `mean[:, None, None]`.",
        "For the coefficients, multiply `basis` by the centred patches and sum over d: "
        '`torch.einsum("kd,bdhw->bkhw", basis, ...)`.',
        'The decoder sums over k: `torch.einsum("kd,bkhw->bdhw", basis, z)`. Add the mean back, '
        "and let `F.pixel_shuffle` reassemble the image.",
    ),
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
    statement="Find the matrix $M$ of shape `(c, 3)` that best predicts colours from latents. The "
    "colour of a position is the *mean* colour of its 8 × 8 pixels. “Best” means the smallest "
    "sum of squared differences between $z^\\top M$ and these colours, over all positions of all "
    "`n` latents. `z` has shape `(n, c, h, w)` and `x` has shape `(n, 3, 8 * h, 8 * w)`. Don't fit "
    "a constant term. The matrix that minimises $\\lVert A M - B "
    "\\rVert^2$ solves the **normal equations** $A^\\top A\\, M = A^\\top B$; "
    "`torch.linalg.lstsq(A, B).solution` finds it as well.",
    hints=(
        "Every position gives one equation, with its c latent values on the left and its three "
        "colour values on the right. So A has n · h · w rows and c columns, and B the same number "
        "of rows and 3 columns.",
        "`F.avg_pool2d(x, 8)` gives the mean colours, `(n, 3, h, w)`. To make rows of positions, "
        "first move the channels to the end, then flatten all other axes.",
        "`z.movedim(1, -1).flatten(0, -2)` is `(n * h * w, c)`. Do the same with the colours, and "
        "return `torch.linalg.solve(A.T @ A, A.T @ B)`.",
    ),
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
    statement="In section 4, `F.pixel_shuffle` put the patches back together. A diffusion "
    "transformer (DiT) does the same at its output, but in another order; its authors call this "
    "*unpatchify*. Each patch is a vector of `p * p * c` values: its pixels row by row, with the "
    "`c` channels of each pixel side by side. (`F.pixel_shuffle` expects the channels outermost.) "
    "The patches come in reading order, in `rows` rows. Return the image, of shape `(b, c, rows * "
    "p, columns * p)`. It need not be square; `c` and `columns` follow from the shapes.",
    hints=(
        "First give every index an axis of its own: row of the patch, column of the patch, row of "
        "the pixel in the patch, its column, the channel. In which order do they lie in memory?",
        "`patches.reshape(b, rows, columns, p, p, c)`. Now move the axes so that those that belong "
        "together are neighbours: row of the patch with row of the pixel, column with column.",
        "`permute(0, 5, 1, 3, 2, 4)` gives `(b, c, rows, p, columns, p)`, and one more `reshape` "
        "joins `rows, p` and `columns, p`.",
    ),
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
    statement="Section 8 pooled the pixels of all images. Now compute one PSNR for each image, "
    "using only the pixels where the image's own `mask` is True. `a` and `b` have shape "
    "`(n, c, h, w)` and values from -1 to 1, and `mask` has shape `(n, h, w)`. Return the decibels "
    "of the images, of shape `(n,)`. If a region has no error at all, its PSNR is infinite. No "
    "mask is empty.\n\nThe cells below sort the test images by their PSNR near outlines and show "
    "the four best and the four worst. How do you expect them to differ?",
    hints=(
        "What range do the values have? The peak in the formula is the largest possible "
        "difference between two values, squared.",
        "The mean squared error of a region is the sum of its squared errors divided by the number "
        "of values in it: c for each pixel of the mask. Sum over all axes but the first.",
        "`((a - b).square() * mask[:, None]).sum(dim=(1, 2, 3))` divided by "
        "`mask.sum(dim=(1, 2)) * a.shape[1]`, and then `10 * torch.log10(4 / error)`.",
    ),
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
    statement="Take one level of a U-Net: two 3 × 3 convolutions and one self-attention layer, "
    "all with `c` channels. Count its multiplications, as in section 2, for the `h` × `w` "
    "positions of an image and for the `h / f` × `w / f` positions of its latent, with the *same* "
    "`c`. Return how many times fewer the latent needs. `f` divides both sides.\n\nThe cells "
    "below then take `c = 320`, `f = 8` and square images with sides of 64, 512 and 4,096 pixels. "
    "Which two limits does the factor approach, and what moves it from one to the other?",
    hints=(
        "Both counts have the same form; only the number n of positions differs. Write a small "
        "function of n and call it twice.",
        "Each output of a 3 × 3 convolution needs 9 c multiplications, and there are n · c "
        "outputs. Each of the four projections is `(n, c)` times `(c, c)`. The two products "
        "between positions are `(n, c)` times `(c, n)` and `(n, n)` times `(n, c)`.",
        "One level takes 2 · 9 n c² + 4 n c² + 2 n² c. The image has n = h · w positions, the "
        "latent (h / f) · (w / f).",
    ),
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
    statement="Halfway between two independent noises, `torch.lerp` gives a standard deviation of "
    "only 0.71, which is too little for a model that expects 1. **Slerp** (spherical linear "
    "interpolation) follows the arc instead of the chord. Treat each latent as one long vector. "
    "If $w$ is the weight and $\\theta$ the angle between the vectors of `a` and `b`, then\n\n"
    "$$\\text{between}(a, b, w) = "
    "\\frac{\\sin((1 - w)\\,\\theta)\\; a + \\sin(w\\,\\theta)\\; b}{\\sin\\theta}$$\n\n"
    "A batch has `n` pairs, each with its own angle. If both vectors have the same "
    "direction, then $\\theta = 0$ and there is no arc: take the straight line there. (Vectors of "
    "exactly opposite directions have no single arc between them, but they don't occur here.)\n\n"
    "One chord removes less than a third of the standard deviation. To magnify the effect, the "
    "cells below average 2, 4, 8 and 16 noises in pairs, each time halfway along the chord or "
    "along your arc, and generate an image from each average, without a prompt. Which images do "
    "you expect to suffer, and how? "
    "Afterwards, try a seed and a prompt of your own. With a prompt, the guidance scale is 7.5: "
    "watch whether guidance brings back the objects.",
    hints=(
        "How long are the vectors? `a.flatten(1)` is `(n, c * h * w)`: one vector for each image. "
        "The cosine of the angle is their dot product divided by both lengths.",
        "`F.cosine_similarity(a.flatten(1), b.flatten(1))` is `(n,)`. Rounding may push it above "
        "1, where `acos` is nan, so clamp it. View the angle as `(n, 1, 1, 1)`, then multiply.",
        "Compute both, the arc and `torch.lerp(a, b, weight)`, and choose for each image with "
        "`torch.where(theta.sin() < 1e-6, line, arc)`.",
    ),
    solution=between,
    cases=between_cases,
    trained=False,
)

EXERCISES = with_mistakes(__name__, SHRINKAGE, CODEC, PREVIEW, PATCHES, PSNR, CHEAPER, BETWEEN)

# -------------------------------------------------------------------------------------------- quiz

QUESTIONS = (
    Question(
        "Stable Diffusion's latent has 48 times fewer elements than the image. Why does a call of "
        "the same U-Net become far more than 48 times cheaper?",
        (
            Answer(
                "Because the values of a latent need fewer bits.",
                False,
                "They need more: 16 or 32 bits each, whereas a channel of a pixel takes 8. "
                "Besides, the cost of a call lies in its multiplications, not in the bits of its "
                "input.",
            ),
            Answer(
                "Because self-attention multiplies every position with every other, so its cost "
                "falls with the square of the number of positions.",
                True,
                "With 64 times fewer positions there are 4,096 times fewer pairs. The convolutions "
                "become 64 times cheaper, and the whole network lies in between.",
            ),
            Answer(
                "Because the autoencoder takes over most of the work.",
                False,
                "The autoencoder has a cost of its own, paid once per image rather than once per "
                "step. It isn't part of the U-Net's cost.",
            ),
        ),
    ),
    Question(
        "You train the U-Net until it makes no mistake at all, yet small faces still come out "
        "with smeared eyes. What can help?",
        (
            Answer(
                "A better autoencoder, for example one with more channels.",
                True,
                "Whatever the U-Net does, the decoder comes last, and it can generate only what "
                "the latent describes. This is why later systems trained new autoencoders, several "
                "of them with 16 channels instead of 4.",
            ),
            Answer(
                "More sampling steps.",
                False,
                "They bring the latent closer to what the U-Net has learnt, but it has learnt from "
                "latents in which the eyes are already lost.",
            ),
            Answer(
                "A larger U-Net.",
                False,
                "The U-Net already makes no mistake: it generates exactly the latents of real "
                "images. When those are decoded, the eyes are smeared as well.",
            ),
        ),
    ),
    Question(
        "No linear codec with four values per patch has a smaller squared error on the training "
        "patches than PCA. How can the autoencoder do better?",
        (
            Answer(
                "It keeps more values: a mean and a variance for each.",
                False,
                "The decoder is given one value for each of them, the mean or a sample. That makes "
                "four at each position, as in the linear codec.",
            ),
            Answer(
                "It doesn't minimise the squared error.",
                False,
                "That should make it worse by this measure, not better. A codec can beat PCA only "
                "where an assumption of the theorem doesn't hold.",
            ),
            Answer(
                "It is not linear, and its patches are not isolated: encoder and decoder also use "
                "the neighbouring positions.",
                True,
                "Both break an assumption of the theorem. A network can use four values to choose "
                "among very different patches, and it can continue an outline from the patch next "
                "to it.",
            ),
        ),
    ),
)
