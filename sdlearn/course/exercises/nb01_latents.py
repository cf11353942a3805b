"""Exercises and quiz of notebook 01, why latent space."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sdlearn.course.grading.exercise import Answer, Case, Exercise, Mistake, Question, normal

# ------------------------------------------------------------------------------ 01.1 three factors


def shrinkage(h: int, w: int, f: int, channels: int, bits: int) -> tuple[float, float, float]:
    """How many times fewer numbers, positions and bits a latent has than its h x w picture."""
    pixels = h * w
    positions = -(-h // f) * -(-w // f)  # rounded up: what is not full is filled up
    numbers = 3 * pixels / (channels * positions)
    return numbers, pixels / positions, numbers * 8 / bits


Three = tuple[float, float, float]


def with_numbers(h: int, w: int, f: int, channels: int, bits: int, factor: float) -> Three:
    """The right factors, the number of numbers off by a factor, and the bits with it."""
    numbers, positions, in_bits = shrinkage(h, w, f, channels, bits)
    return numbers * factor, positions, in_bits * factor


def with_bits(h: int, w: int, f: int, channels: int, bits: int, factor: float) -> Three:
    """The right factors, but for that of the bits, which is this many times that of the numbers."""
    numbers, positions, _ = shrinkage(h, w, f, channels, bits)
    return numbers, positions, numbers * factor


def from_positions(h: int, w: int, channels: int, bits: int, positions: float) -> Three:
    """The factors for another number of positions."""
    numbers = 3 * h * w / (channels * positions)
    return numbers, h * w / positions, numbers * 8 / bits


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
    statement="A picture of `h` × `w` pixels has three colours of 8 bits each. Its latent has "
    "`channels` numbers of `bits` bits at every position, and a position stands for `f` × `f` "
    "pixels. Where a side cannot be divided by `f`, the picture is first filled up to the next "
    "multiple, so that nothing is cut off. Return three factors: how many times *fewer* numbers, "
    "positions and bits the latent has than the picture had *before* the filling. Which of the "
    'three is meant by "48×"?',
    hints=(
        "Begin with the positions of the latent: how many rows of f pixels does it take to cover "
        "h pixels? The last row may be only partly full.",
        "`-(-h // f)` is h / f rounded up. The picture has `h * w` positions, and `3 * h * w` "
        "numbers of 8 bits; the latent has `channels` numbers of `bits` bits at each position.",
        "The second factor is `h * w / positions`. The first is `3 / channels` times as much, and "
        "the third `8 / bits` times the first.",
    ),
    solution=shrinkage,
    cases=shrinkage_cases,
    trained=False,
    mistakes=(
        Mistake(
            "channels forgotten",
            lambda h, w, f, channels, bits: with_numbers(h, w, f, channels, bits, channels / 3),
            "Your numbers shrink as much as your positions. A pixel holds three numbers and a "
            "latent position holds `channels`: part of what is saved in positions is given back in "
            "channels. This is how 64× is quoted where 48× is meant.",
        ),
        Mistake(
            "one channel after all",
            lambda h, w, f, channels, bits: with_numbers(h, w, f, channels, bits, channels),
            "You count a single number at each latent position. There are `channels` of them.",
        ),
        Mistake(
            "the channels upside down",
            lambda h, w, f, channels, bits: with_numbers(
                h, w, f, channels, bits, (channels / 3) ** 2
            ),
            "You multiply by channels / 3 where you should divide: more channels make the latent "
            "larger, so it must shrink less.",
        ),
        Mistake(
            "one side only",
            lambda h, w, f, channels, bits: from_positions(h, w, channels, bits, h * w / f),
            "You divide by f once. A latent position is f pixels wide *and* f pixels high, so "
            "there are about f² times fewer of them.",
        ),
        Mistake(
            "rounded down",
            lambda h, w, f, channels, bits: from_positions(
                h, w, channels, bits, (h // f) * (w // f)
            ),
            "You round the sides of the latent down. Then the last rows and columns of the picture "
            "are cut off: a picture of 500 rows comes back with 496. Round up.",
        ),
        Mistake(
            "always the same",
            lambda h, w, f, channels, bits: from_positions(h, w, channels, bits, h * w / f**2),
            "Your factors never depend on the size. That is right as long as f divides both sides. "
            "Here it does not always: the filling makes the latent a little larger, but the "
            "picture that you started with has only h × w pixels.",
        ),
        Mistake(
            "f squared for the positions",
            lambda h, w, f, channels, bits: (
                shrinkage(h, w, f, channels, bits)[0],
                float(f * f),
                shrinkage(h, w, f, channels, bits)[2],
            ),
            "Your factor of the positions is f². It is as long as f divides both sides. Where the "
            "picture is filled up, the latent has a few positions more than its area asks for: "
            "divide h · w by the positions that there are, as you do with the numbers.",
        ),
        Mistake(
            "rounded to the nearest",
            lambda h, w, f, channels, bits: from_positions(
                h, w, channels, bits, max(1, round(h / f)) * max(1, round(w / f))
            ),
            "You round the sides of the latent to the nearest whole number. Where that is down, "
            "the last rows or columns of the picture are cut off. Round up, always.",
        ),
        Mistake(
            "factors rounded",
            lambda h, w, f, channels, bits: tuple(
                round(x) for x in shrinkage(h, w, f, channels, bits)
            ),
            "You round the factors themselves. Only the sides of the latent are whole numbers; a "
            "latent may well be 44.7 times smaller.",
        ),
        Mistake(
            "positions first",
            lambda h, w, f, channels, bits: tuple(
                shrinkage(h, w, f, channels, bits)[k] for k in (1, 0, 2)
            ),
            "Your three factors are right and stand in another order. Asked are numbers, "
            "positions, bits.",
        ),
        Mistake(
            "area rounded",
            lambda h, w, f, channels, bits: from_positions(h, w, channels, bits, -(-h * w // f**2)),
            "You round the area up once. Each side is filled up for itself: 33 × 5 pixels with "
            "f = 4 need 9 × 2 positions.",
        ),
        Mistake(
            "upside down",
            lambda h, w, f, channels, bits: tuple(
                1 / x for x in shrinkage(h, w, f, channels, bits)
            ),
            "Your factors are upside down: asked is how many times *less* the latent has, so a "
            "good autoencoder gives large numbers.",
        ),
        Mistake(
            "bits like numbers",
            lambda h, w, f, channels, bits: with_bits(h, w, f, channels, bits, 1),
            "Your bits shrink as much as your numbers. A colour of a pixel takes 8 bits, a number "
            "of the latent `bits`. Counting numbers alone hides this, which is why 48× is not a "
            "compression ratio.",
        ),
        Mistake(
            "bits the wrong way",
            lambda h, w, f, channels, bits: with_bits(h, w, f, channels, bits, bits / 8),
            "With more bits for each number your latent becomes smaller. It must be the other way: "
            "the factor of the bits is 8 / bits times that of the numbers.",
        ),
        Mistake(
            "a picture of floats",
            lambda h, w, f, channels, bits: with_bits(h, w, f, channels, bits, 32 / bits),
            "You count 32 bits for each colour of a pixel. That is what it takes inside a network; "
            "the picture itself has 256 levels, which is 8 bits.",
        ),
        Mistake(
            "bytes",
            lambda h, w, f, channels, bits: with_bits(h, w, f, channels, bits, 1 / bits),
            "You mix bits and bytes: a colour of a pixel takes 8 bits, not 1.",
        ),
        Mistake(
            "mean and variance",
            lambda h, w, f, channels, bits: with_numbers(h, w, f, channels, bits, 0.5),
            "You count the mean *and* the log-variance. The encoder computes both, but only one "
            "number for each is taken out of them, and that is the latent.",
        ),
    ),
)

# -------------------------------------------------------------------------- 01.2 patches to a page


def to_page(patches: Tensor, high: int, p: int) -> Tensor:
    """(b, high * wide, p * p * c) -> (b, c, high * p, wide * p): `high` rows of p x p patches."""
    b, n, numbers = patches.shape
    wide, c = n // high, numbers // p**2
    x = patches.reshape(b, high, wide, p, p, c)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(b, c, high * p, wide * p)


def folded(
    patches: Tensor,
    grid: tuple[int, int],
    p: int,
    order: tuple[int, ...],
    colours_last: bool = True,
) -> Tensor:
    """Cut into (b, *grid, patch), then moved to `order` and joined."""
    c = patches.shape[2] // p**2
    inside = (p, p, c) if colours_last else (c, p, p)
    x = patches.reshape(patches.shape[0], *grid, *inside).permute(order)
    return x.reshape(patches.shape[0], c, grid[0] * p, grid[1] * p)


def squared(patches: Tensor, high: int, p: int) -> Tensor:
    side = math.isqrt(patches.shape[1])
    return to_page(patches[:, : side * side], side, p)


def by_columns(patches: Tensor, high: int, p: int) -> Tensor:
    wide, c = patches.shape[1] // high, patches.shape[2] // p**2
    x = patches.reshape(len(patches), wide, high, p, p, c).permute(0, 5, 2, 3, 1, 4)
    return x.reshape(len(patches), c, high * p, wide * p)


def sides(patches: Tensor, high: int) -> tuple[int, int]:
    return high, patches.shape[1] // high


def page_cases(rng: Generator) -> Iterator[Case]:
    for b, high, wide, p, c in (
        (2, 3, 2, 4, 3),
        (1, 2, 5, 2, 3),
        (2, 4, 4, 3, 2),
        (3, 1, 4, 2, 1),
        (2, 2, 2, 2, 2),
    ):
        yield Case((normal(rng, b, high * wide, p * p * c), high, p))


PAGE = Exercise(
    number="01.2",
    title="Patches to a page",
    minutes=12,
    difficulty=2,
    statement="Transformers hold a picture as a sequence of patches. Here each patch is a row of "
    "`p * p * c` numbers: pixel after pixel along its lines, and for each pixel its `c` colours. "
    "The patches follow each other as words do on a page, line by line; there are `high` lines. "
    "Put the picture together again, `(b, c, high * p, wide * p)`. (In the notebook, "
    "`F.pixel_shuffle` did this for patches in another order, with the colours first.) Pictures "
    "need not be square.",
    hints=(
        "First give every meaning an axis of its own: the line of the patch, its column, the line "
        "of the pixel in the patch, its column, the colour. In which order do they lie in memory?",
        "`patches.reshape(b, high, wide, p, p, c)`. Now move the axes so that those which belong "
        "together are neighbours: line of the patch with line of the pixel, column with column.",
        "`permute(0, 5, 1, 3, 2, 4)` gives `(b, c, high, p, wide, p)`, and one more `reshape` "
        "joins `high, p` and `wide, p`.",
    ),
    solution=to_page,
    cases=page_cases,
    mistakes=(
        Mistake(
            "square pages only",
            squared,
            "You take the root of the number of patches for the number of lines. That is right for "
            "square pictures only; use `high`. Published code has this mistake, and nobody notices "
            "until somebody wants a landscape.",
        ),
        Mistake(
            "column by column",
            by_columns,
            "You lay the patches down column by column. They come line by line, as words on a "
            "page: the second patch stands to the right of the first. On square pictures you would "
            "notice a page that is reflected in its diagonal, patch by patch.",
        ),
        Mistake(
            "patches reflected",
            lambda x, high, p: folded(x, sides(x, high), p, (0, 5, 1, 4, 2, 3)),
            "Your patches are in their places, but each is reflected in its diagonal: lines and "
            "columns *inside* the patch are exchanged. You would notice ragged outlines.",
        ),
        Mistake(
            "reshape only",
            lambda x, high, p: x.reshape(
                len(x), x.shape[2] // p**2, high * p, x.shape[1] // high * p
            ),
            "The shape is right and the numbers are not: a `reshape` never moves a number, so the "
            "first line of your page is made of the whole first patch. Axes must be moved with "
            "`permute` between two reshapes.",
        ),
        Mistake(
            "no axis moved between the patches",
            lambda x, high, p: folded(x, sides(x, high), p, (0, 5, 1, 2, 3, 4)),
            "You join the axes without moving them together: first the line and the column of the "
            "patch, then those of the pixel. `(high, wide, p, p)` must become `(high, p, wide, p)` "
            "before it can be joined.",
        ),
        Mistake(
            "colours first",
            lambda x, high, p: folded(x, sides(x, high), p, (0, 3, 1, 4, 2, 5), colours_last=False),
            "You read each patch as c whole planes, one a colour; `F.pixel_shuffle` does that, "
            "too. Here the colours of one pixel are neighbours: `(p, p, c)`, not `(c, p, p)`. You "
            "would notice a page in stripes of grey.",
        ),
        Mistake(
            "spread over the page",
            lambda x, high, p: folded(x, sides(x, high), p, (0, 5, 3, 1, 4, 2)),
            "Your patches are spread over the whole page, each pixel of a patch in another region. "
            "The patch must be the outer part of the position and the pixel the inner one: "
            "`(high, p)`, not `(p, high)`.",
        ),
        Mistake(
            "colours last in the result",
            lambda x, high, p: to_page(x, high, p).permute(0, 2, 3, 1),
            "Your page is right but has its colours last, `(b, h, w, c)`, as Pillow has it. "
            "PyTorch's convolutions want `(b, c, h, w)`.",
        ),
    ),
)

# ------------------------------------------------------------------------ 01.3 decibels of a region


def psnr_where(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """a, b (n, c, h, w) in [-1, 1], mask (n, h, w) of True and False -> PSNR in decibels, (n,)."""
    inside = mask[:, None]  # (n, 1, h, w): the same for every colour
    total = ((a - b).square() * inside).sum(dim=(1, 2, 3))
    error = total / (inside.sum(dim=(1, 2, 3)) * a.shape[1])
    return 10 * torch.log10(4 / error)


def mean_error(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    return 4 / 10 ** (psnr_where(a, b, mask) / 10)


def psnr_cases(rng: Generator) -> Iterator[Case]:
    for n, c, h, w in ((2, 3, 5, 4), (3, 3, 4, 4), (1, 1, 3, 6), (2, 4, 2, 2)):
        a, b = (normal(rng, n, c, h, w).clamp(-1, 1) for _ in range(2))
        mask = torch.rand(n, h, w, generator=rng) < 0.5
        mask[:, 0, 0], mask[:, -1, -1] = True, False
        yield Case((a, a + 0.2 * (b - a), mask))
    a, b = (normal(rng, 2, 3, 4, 5).clamp(-1, 1) for _ in range(2))
    mask = torch.rand(2, 4, 5, generator=rng) < 0.4
    mask[:, 0, 0] = True
    first = torch.tensor([True, False]).view(2, 1, 1, 1)  # in this picture the region has no error
    yield Case((a, torch.where(mask[:, None] & first, a, b), mask))


PSNR = Exercise(
    number="01.3",
    title="Decibels of a region",
    minutes=12,
    difficulty=2,
    statement="In section 7 all pages were thrown together. Do it for each picture: the PSNR of "
    "only those pixels where its own `mask` is True. `a` and `b` are `(n, c, h, w)` with values "
    "from -1 to 1, `mask` is `(n, h, w)`, and the result is `(n,)`: one number of decibels for "
    "each picture. A region that came back without any error has infinitely many decibels.",
    hints=(
        "Which range do the values have? The peak of the formula is the largest possible "
        "difference of two values, squared.",
        "The mean squared error of a region is the sum of the squared errors in it, divided by how "
        "many *numbers* lie in it: c for each pixel of the mask. Sum over everything but the first "
        "axis.",
        "`((a - b).square() * mask[:, None]).sum(dim=(1, 2, 3))` divided by "
        "`mask.sum(dim=(1, 2)) * a.shape[1]`, and then `10 * torch.log10(4 / error)`.",
    ),
    solution=psnr_where,
    cases=psnr_cases,
    trained=False,
    mistakes=(
        Mistake(
            "range of one",
            lambda a, b, mask: 10 * torch.log10(1 / mean_error(a, b, mask)),
            "You take 1 for the range of the values. Here they go from -1 to 1: the range is 2, "
            "its square 4. You would notice results that are 6 decibels below everyone else's.",
        ),
        Mistake(
            "range of a byte",
            lambda a, b, mask: 10 * torch.log10(255**2 / mean_error(a, b, mask)),
            "You take 255 for the range of the values. Here they go from -1 to 1: the range is 2. "
            "You would notice results that are far too good to be true.",
        ),
        Mistake(
            "range not squared",
            lambda a, b, mask: 10 * torch.log10(2 / mean_error(a, b, mask)),
            "You compare the range itself with a squared error. Square the range, too: 2² = 4.",
        ),
        Mistake(
            "absolute errors",
            lambda a, b, mask: (
                20
                * torch.log10(
                    2
                    * (mask[:, None].sum((1, 2, 3)) * a.shape[1])
                    / ((a - b).abs() * mask[:, None]).sum((1, 2, 3))
                )
            ),
            "You average the absolute errors. The mean *squared* error is what PSNR is made of: a "
            "few large errors count for more than many small ones.",
        ),
        Mistake(
            "twenty",
            lambda a, b, mask: 20 * torch.log10(4 / mean_error(a, b, mask)),
            "Twice too much: 20 belongs to a quotient of amplitudes, range / root of the error; "
            "for a quotient of squares it is 10.",
        ),
        Mistake(
            "twenty without the root",
            lambda a, b, mask: 20 * torch.log10(2 / mean_error(a, b, mask)),
            "With 20 in front, both parts of the quotient must be amplitudes: the range 2 and the "
            "*root* of the mean squared error. You left out the root.",
        ),
        Mistake(
            "natural logarithm",
            lambda a, b, mask: 10 * torch.log(4 / mean_error(a, b, mask)),
            "You use the natural logarithm. Decibels count powers of ten: `torch.log10`.",
        ),
        Mistake(
            "upside down",
            lambda a, b, mask: 10 * torch.log10(mean_error(a, b, mask) / 4),
            "Your quotient is upside down, so better pictures have fewer decibels, and all are "
            "negative.",
        ),
        Mistake(
            "the rest is perfect",
            lambda a, b, mask: (
                10 * torch.log10(4 / ((a - b).square() * mask[:, None]).mean(dim=(1, 2, 3)))
            ),
            "You set the error outside the mask to 0 and then average over the whole picture. So "
            "the pixels outside count as perfect ones, and a small region always looks good. "
            "Divide by how many numbers lie inside.",
        ),
        Mistake(
            "colours not counted",
            lambda a, b, mask: 10 * torch.log10(4 / (mean_error(a, b, mask) * a.shape[1])),
            "You divide by the number of pixels, but you have summed over their colours, too: each "
            "pixel has c numbers. You would notice 4.8 decibels too few on colour pictures, and "
            "none on grey ones.",
        ),
        Mistake(
            "all pictures together",
            lambda a, b, mask: (
                10 * torch.log10(4 / (a - b).square().movedim(1, 3)[mask].mean().expand(len(a)))
            ),
            "You throw all pictures together before the logarithm, so that the worst one decides "
            "for all. Keep the first axis: one error and one PSNR for each picture.",
        ),
        Mistake(
            "one mask for all",
            lambda a, b, mask: psnr_where(a, b, mask[:1].expand_as(mask)),
            "You use the first picture's mask for all of them. Each picture has its own.",
        ),
        Mistake(
            "decibels averaged",
            lambda a, b, mask: torch.stack(
                [psnr_where(a[:, [k]], b[:, [k]], mask) for k in range(a.shape[1])]
            ).mean(0),
            "You take the PSNR of each colour and average the decibels. A mean of logarithms is "
            "not the logarithm of the mean: average the errors first.",
        ),
        Mistake(
            "the other region",
            lambda a, b, mask: psnr_where(a, b, ~mask),
            "You measure where the mask is False: the pixels outside the region, not those inside.",
        ),
        Mistake(
            "kept finite",
            lambda a, b, mask: 10 * torch.log10(4 / (mean_error(a, b, mask) + 1e-8)),
            "You add a small number to the error, so that it is never 0. That moves every result a "
            "little, and it bounds the best ones. Dividing a tensor by 0 gives inf in PyTorch, "
            "which is the right answer for a region without any error.",
        ),
        Mistake(
            "a smallest error",
            lambda a, b, mask: 10 * torch.log10(4 / mean_error(a, b, mask).clamp(min=1e-12)),
            "A region without any error must give inf. You allow no error below 1e-12, so that a "
            "perfect region gets a number that looks measured and comes from your constant. 4 / 0 "
            "is inf in PyTorch, and so is its logarithm: nothing needs guarding here.",
        ),
        Mistake(
            "infinity removed",
            lambda a, b, mask: psnr_where(a, b, mask).nan_to_num(),
            "A region without any error must give inf, and yours did until `nan_to_num` made it "
            "the largest number that the type can hold. Such a number looks like a measurement, "
            "and a mean over pictures with it is nonsense that nobody notices.",
        ),
    ),
)

# ------------------------------------------------------------------------------- 01.4 times cheaper


def times_cheaper(h: int, w: int, c: int, f: int) -> float:
    """How many times fewer multiplications one level needs on the latent than on the h x w page."""

    def multiplications(n: int) -> int:
        convolutions = 2 * 9 * n * c * c
        attention = 4 * n * c * c + 2 * n * n * c
        return convolutions + attention

    return multiplications(h * w) / multiplications((h // f) * (w // f))


def cheaper(
    n: float,
    fewer: float,
    c: int,
    convolutions: float = 18,
    projections: float = 4,
    pairs: float = 2,
) -> float:
    """The quotient of the bills for n and for `fewer` positions, with other entries."""

    def bill(n: float) -> float:
        return (convolutions + projections) * n * c * c + pairs * n * n * c

    return bill(n) / bill(fewer)


def cheaper_cases(_: Generator) -> Iterator[Case]:
    for h, w, c, f in ((512, 512, 320, 8), (64, 64, 320, 8), (64, 96, 32, 8), (40, 24, 64, 4),
                       (256, 32, 16, 16)):  # fmt: skip
        yield Case((h, w, c, f))


CHEAPER = Exercise(
    number="01.4",
    title="Times cheaper",
    minutes=15,
    difficulty=2,
    statement="How much does a latent save? Take one level of a U-Net of width `c`: two 3 × 3 "
    "convolutions from `c` to `c` channels, and one self-attention layer (four projections from "
    "`c` to `c`, the product of all queries with all keys, the product of the weights with the "
    "values). Count its multiplications for a page of `h` × `w` positions, and for its latent, "
    "`h / f` × `w / f` positions, with the *same* `c`. Return how many times fewer the latent "
    "needs. `f` divides both sides. When you have it, try `c = 320`, `f = 8` with pages of 64, "
    "512 and 4096 pixels: between which two limits does the factor lie, and what decides?",
    hints=(
        "Both bills have the same form; only the number n of positions differs. Write a small "
        "function of n and call it twice.",
        "Each output of a 3 × 3 convolution needs 9 c multiplications, and there are n · c "
        "outputs. Each projection is `(n, c)` times `(c, c)`. The two products between positions "
        "are `(n, c)` times `(c, n)` and `(n, n)` times `(n, c)`.",
        "One level takes 2 · 9 n c² + 4 n c² + 2 n² c. The page has n = h · w positions, the "
        "latent (h / f) · (w / f).",
    ),
    solution=times_cheaper,
    cases=cheaper_cases,
    trained=False,
    mistakes=(
        Mistake(
            "positions only",
            lambda h, w, c, f: float(f**2),
            "You return f², how many times fewer positions there are. That is what convolutions "
            "and projections save. The products between positions go with n²: they save f² twice.",
        ),
        Mistake(
            "attention only",
            lambda h, w, c, f: float(f**4),
            "You return f⁴, what the products between positions save. Convolutions and projections "
            "save only f², and on small pages they are most of the bill.",
        ),
        Mistake(
            "48 times",
            lambda h, w, c, f: 3 * f**2 / 4,
            "You count how many times fewer numbers the latent *holds*. Asked is how many times "
            "fewer multiplications it takes; inside the level both have c channels, and the three "
            "or four of the input play no part.",
        ),
        Mistake(
            "divided by f once",
            lambda h, w, c, f: cheaper(h * w, h * w / f, c),
            "Your latent has h · w / f positions. It is f times lower *and* f times narrower.",
        ),
        Mistake(
            "one side for all positions",
            lambda h, w, c, f: cheaper(h, h / f, c),
            "You take h for the number of positions. Every position of the page counts: n = h · w. "
            "Your factor does not depend on w.",
        ),
        Mistake(
            "upside down",
            lambda h, w, c, f: 1 / times_cheaper(h, w, c, f),
            "Your quotient is upside down: how many times *fewer* is a number larger than 1.",
        ),
        Mistake(
            "convolutions without neighbours",
            lambda h, w, c, f: cheaper(h * w, h * w / f**2, c, convolutions=2),
            "Your convolutions cost c² at each position. A 3 × 3 convolution looks at 9 positions, "
            "so it takes 9 c².",
        ),
        Mistake(
            "convolutions channel by channel",
            lambda h, w, c, f: cheaper(h * w, h * w / f**2, c, convolutions=18 / c),
            "Your convolutions cost 9 n c. Each of the c outputs at a position looks at all c "
            "inputs of its 9 neighbours: 9 n c².",
        ),
        Mistake(
            "the difference",
            lambda h, w, c, f: (
                (22 * c * c + 2 * h * w * c) * h * w
                - (22 * c * c + 2 * h * w * c / f**2) * h * w / f**2
            ),
            "You return how many multiplications are saved, a difference. *How many times fewer* "
            "is a quotient: the bill of the page divided by that of the latent.",
        ),
        Mistake(
            "one convolution",
            lambda h, w, c, f: cheaper(h * w, h * w / f**2, c, convolutions=9),
            "You count one convolution; the level has two.",
        ),
        Mistake(
            "no convolutions",
            lambda h, w, c, f: cheaper(h * w, h * w / f**2, c, convolutions=0),
            "The two convolutions are missing from your bill.",
        ),
        Mistake(
            "no projections",
            lambda h, w, c, f: cheaper(h * w, h * w / f**2, c, projections=0),
            "The four projections of the attention layer are missing: 4 n c².",
        ),
        Mistake(
            "three projections",
            lambda h, w, c, f: cheaper(h * w, h * w / f**2, c, projections=3),
            "You count three projections. Queries, keys and values are three; the fourth mixes "
            "what the heads brought home.",
        ),
        Mistake(
            "one product between positions",
            lambda h, w, c, f: cheaper(h * w, h * w / f**2, c, pairs=1),
            "One product with an n × n matrix is missing: queries times keys gives it, and then "
            "it is multiplied with the values.",
        ),
        Mistake(
            "pairs without channels",
            lambda h, w, c, f: cheaper(h * w, h * w / f**2, c, pairs=2 / c),
            "Each of the n² products of a query with a key is a sum over all channels: n² c, not "
            "n².",
        ),
        Mistake(
            "every colour its own bill",
            lambda h, w, c, f: 3 / 4 * times_cheaper(h, w, c, f),
            "You multiply by 3 / 4 for the channels of page and latent. Inside the level both have "
            "c channels.",
        ),
    ),
)

# ----------------------------------------------------------------------------- 01.5 along the arc


def between(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """a, b (n, c, h, w), weight from 0 (a) to 1 (b) -> (n, c, h, w), along the arc between them."""
    u, v = (F.normalize(x.flatten(1), dim=1) for x in (a, b))  # (n, c * h * w), of length one
    angle = (u * v).sum(dim=1).clamp(-1, 1).acos().view(-1, 1, 1, 1)
    width = angle.sin()
    arc = (((1 - weight) * angle).sin() * a + (weight * angle).sin() * b) / width
    return torch.where(width < 1e-6, torch.lerp(a, b, weight), arc)  # no angle, no arc


def arc_with(a: Tensor, b: Tensor, weight: float, angle: Tensor) -> Tensor:
    """The formula of the arc for another angle; nan where it is 0."""
    return (((1 - weight) * angle).sin() * a + (weight * angle).sin() * b) / angle.sin()


def angle_along(a: Tensor, b: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The angle between a and b, each product and length summed over these axes."""
    products = (a * b).sum(dims, keepdim=True)
    lengths = a.square().sum(dims, keepdim=True) * b.square().sum(dims, keepdim=True)
    return (products / lengths.sqrt()).clamp(-1, 1).acos()


def guarded(a: Tensor, b: Tensor, weight: float, angle: Tensor) -> Tensor:
    """The arc for this angle, and the straight line where its sine is 0."""
    line = torch.lerp(a, b, weight)
    return torch.where(angle.sin() < 1e-6, line, arc_with(a, b, weight, angle))


def unclamped(a: Tensor, b: Tensor) -> Tensor:
    """The angle; nan where rounding brings its cosine above 1."""
    u, v = (F.normalize(x.flatten(1), dim=1) for x in (a, b))
    return (u * v).sum(dim=1).acos().view(-1, 1, 1, 1)


def rescaled(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The straight line, stretched to a length between those of the ends."""
    mixed = torch.lerp(a, b, weight)
    size = [x.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for x in (a, b, mixed)]
    return mixed * torch.lerp(size[0], size[1], weight) / size[2]


def on_the_sphere(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Between the directions of a and b, both of length one."""
    size = [x.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for x in (a, b)]
    return between(a / size[0], b / size[1], weight)


def between_cases(rng: Generator) -> Iterator[Case]:
    for shape, weight in (((2, 4, 3, 5), 0.3), ((3, 4, 4, 4), 0.5), ((1, 2, 6, 2), 0.8)):
        yield Case((normal(rng, *shape), 2 * normal(rng, *shape), weight))
    a, b = normal(rng, 3, 4, 2, 3), normal(rng, 3, 4, 2, 3)
    a[2] = torch.zeros_like(a[2])
    a[2, 0, 0, 0] = 4.0  # with one number only, nothing is rounded: its angle to itself is 0
    # Three angles in one batch: small, obtuse, and none at all, where the formula gives 0 / 0.
    yield Case((a, torch.stack([a[0] + 0.5 * b[0], b[1] - 2 * a[1], 2 * a[2]]), 0.25))
    a = normal(rng, 3, 4, 2, 3)
    yield Case((a, b, 0.0))
    # Small numbers, products below 1; the first pair is 3.6 degrees apart, nearly a line but no
    # line. Scripts that draw the line from a cosine of 0.999 on are right here.
    a, b = 0.1 * a, 0.1 * b
    yield Case((a, torch.cat([turned(a[:1], b[:1], 0.998), b[1:]]), 0.4))
    yield Case((*rounded_beyond_one(rng), 0.35))


def turned(a: Tensor, b: Tensor, cosine: float) -> Tensor:
    """a (1, c, h, w) turned towards b until the cosine of the angle is this."""
    across = b - (a * b).sum() / a.square().sum() * a
    return cosine * a + (1 - cosine**2) ** 0.5 * a.norm() / across.norm() * across


def rounded_beyond_one(rng: Generator) -> tuple[Tensor, Tensor]:
    """Parallel pairs (n, 1, 1, 2), the cosine of which comes out above 1, however computed."""
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
    number="01.5",
    title="Along the arc",
    minutes=20,
    difficulty=3,
    statement="Halfway between two independent noises, `torch.lerp` gives numbers with a spread of "
    "only 0.71: too little noise for a model that expects a spread of one. So one walks along the "
    "arc instead of the chord. Take each latent as one long vector, with $\\theta$ the angle "
    "between the vectors of `a` and `b`:\n\n"
    "$$\\text{between}(a, b) = \\frac{\\sin((1 - \\text{weight})\\,\\theta)}{\\sin\\theta}\\,a + "
    "\\frac{\\sin(\\text{weight} \\cdot \\theta)}{\\sin\\theta}\\,b$$\n\n"
    "There are `n` pairs in a batch, each with its own angle. Where both point the same way, "
    "$\\theta = 0$ and there is no arc: take the straight line there. (Two vectors that point in "
    "exactly opposite ways have no single arc between them; they do not occur.)",
    hints=(
        "How long are the vectors? `a.flatten(1)` is `(n, c * h * w)`: one vector a picture. "
        "The cosine of the angle is their product divided by both lengths.",
        "`F.cosine_similarity(a.flatten(1), b.flatten(1))` is `(n,)`. Rounding may push it above "
        "1, where `acos` is nan: clamp it. View the angle as `(n, 1, 1, 1)` before you multiply.",
        "Compute both, the arc and `torch.lerp(a, b, weight)`, and choose for each picture with "
        "`torch.where(theta.sin() < 1e-6, line, arc)`.",
    ),
    solution=between,
    cases=between_cases,
    trained=False,
    mistakes=(
        Mistake(
            "straight line",
            lambda a, b, weight: torch.lerp(a, b, weight),
            "You walk along the chord. It passes nearer to the origin than its ends, so halfway "
            "the latent is too short: independent noises end up with a spread of 0.71, which no "
            "model has met at the noisiest time: its pictures may turn out flat, or all alike.",
        ),
        Mistake(
            "line stretched",
            rescaled,
            "You walk along the chord and stretch the result to the right length. Halfway that is "
            "nearly the arc, but elsewhere it is not: equal steps of the weight are no equal steps "
            "of the angle.",
        ),
        Mistake(
            "ends exchanged",
            lambda a, b, weight: between(b, a, weight),
            "Your ends are exchanged: weight 0 must give a, and weight 1 must give b.",
        ),
        Mistake(
            "one angle for the batch",
            lambda a, b, weight: torch.where(
                angle_along(a, b, (1, 2, 3)).sin() < 1e-6,
                torch.lerp(a, b, weight),
                arc_with(a, b, weight, angle_along(a, b, (0, 1, 2, 3))),
            ),
            "You compute one angle for the whole batch. Every pair has its own: flatten from the "
            "second axis on. You would notice that a picture changes with its neighbours in the "
            "batch.",
        ),
        Mistake(
            "one angle, and no guard",
            lambda a, b, weight: arc_with(a, b, weight, angle_along(a, b, (0, 1, 2, 3))),
            "You compute one angle for the whole batch. Every pair has its own: flatten from the "
            "second axis on. Then some pair may have the angle 0, which needs the straight line.",
        ),
        Mistake(
            "the mean angle for the batch",
            lambda a, b, weight: guarded(
                a, b, weight, angle_along(a, b, (1, 2, 3)).mean().expand(len(a), 1, 1, 1)
            ),
            "You average the angles of the batch and use their mean for all. Every pair has its "
            "own angle: keep the batch's axis, `.view(-1, 1, 1, 1)`.",
        ),
        Mistake(
            "the first angle for the batch",
            lambda a, b, weight: guarded(
                a, b, weight, angle_along(a, b, (1, 2, 3))[:1].expand(len(a), 1, 1, 1)
            ),
            "You use the angle of the first pair for the whole batch. Every pair has its own: keep "
            "the batch's axis, `.view(-1, 1, 1, 1)`.",
        ),
        Mistake(
            "an angle at each position",
            lambda a, b, weight: torch.where(
                angle_along(a, b, (1, 2, 3)).sin() < 1e-6,
                torch.lerp(a, b, weight),
                arc_with(a, b, weight, angle_along(a, b, (1,))),
            ),
            "You compute an angle at each position, between vectors of c numbers. The latent of a "
            "picture is *one* vector of c · h · w numbers. With your angles, each position moves "
            "on an arc of its own, and where two happen to be opposite it flies off.",
        ),
        Mistake(
            "lengths not divided out",
            lambda a, b, weight: guarded(
                a, b, weight, (a * b).sum((1, 2, 3), keepdim=True).clamp(-1, 1).acos()
            ),
            "You take the arc cosine of the bare product. The product is the cosine times both "
            "lengths, and clamped it says 0 or 180 degrees for nearly everything: divide by the "
            "lengths.",
        ),
        Mistake(
            "lengths not divided out, nor clamped",
            lambda a, b, weight: guarded(a, b, weight, (a * b).sum((1, 2, 3), keepdim=True).acos()),
            "You take the arc cosine of the bare product, which is the cosine times both lengths. "
            "Nearly always it is above 1 or below -1, where `acos` is nan. Divide by both lengths; "
            "clamping alone would only hide it.",
        ),
        Mistake(
            "no clamp",
            lambda a, b, weight: guarded(a, b, weight, unclamped(a, b)),
            "Some of your results are nan, though you take the straight line where the angle is 0. "
            "Where both point the same way, rounding often makes the cosine a little larger than "
            "1, and `acos` of that is nan, not 0: clamp the cosine first.",
        ),
        Mistake(
            "straight too soon",
            lambda a, b, weight: torch.where(
                angle_along(a, b, (1, 2, 3)).cos() > 0.95,
                torch.lerp(a, b, weight),
                between(a, b, weight),
            ),
            "You take the straight line for small angles, too. Only where the sine is lost in "
            "rounding is there no arc; a few degrees have one, and your walk would jump from one "
            "rule to the other as the angle grows.",
        ),
        Mistake(
            "nothing where there is no angle",
            lambda a, b, weight: arc_with(a, b, weight, angle_along(a, b, (1, 2, 3))).nan_to_num(),
            "Where both point the same way your arc is 0 / 0, and you make that nan a 0: an empty "
            "latent between two that are nearly the same. Take the straight line there.",
        ),
        Mistake(
            "spread of independent noises",
            lambda a, b, weight: torch.lerp(a, b, weight) / ((1 - weight) ** 2 + weight**2) ** 0.5,
            "You stretch the chord by what two independent noises of one spread need. For any "
            "other pair that is wrong: between a latent and itself the result would be too long. "
            "Let the angle decide.",
        ),
        Mistake(
            "directions only",
            on_the_sphere,
            "Your result always has length one: you divide a and b by their lengths, which is "
            "right for the angle, and then mix these unit vectors. Mix a and b themselves.",
        ),
        Mistake(
            "no guard",
            lambda a, b, weight: arc_with(a, b, weight, angle_along(a, b, (1, 2, 3))),
            "Your arc is right, but where a and b point the same way you divide 0 by 0, and the "
            "whole latent is nan. Take the straight line there. You would notice a black picture "
            "when somebody blends a picture with itself.",
        ),
        Mistake(
            "a where there is no angle",
            lambda a, b, weight: torch.where(
                angle_along(a, b, (1, 2, 3)).sin() < 1e-6, a, between(a, b, weight)
            ),
            "Where both point the same way you return a. They may have different lengths: take the "
            "straight line between them.",
        ),
        Mistake(
            "cosine weights",
            lambda a, b, weight: (
                math.cos(weight * math.pi / 2) * a + math.sin(weight * math.pi / 2) * b
            ),
            "You take 90 degrees for the angle. That is nearly right for independent noises, but "
            "not for others: halfway between a latent and itself it must be the same latent.",
        ),
    ),
)

EXERCISES = (SHRINKAGE, PAGE, PSNR, CHEAPER, BETWEEN)

# -------------------------------------------------------------------------------------------- quiz

QUESTIONS = (
    Question(
        "Stable Diffusion's latent has 48 times fewer numbers than the picture. Why did a U-Net "
        "evaluation become cheaper by far more than 48 times?",
        (
            Answer(
                "Because the numbers of a latent need fewer bits.",
                False,
                "They need more: 16 or 32 each, where a colour of a pixel takes 8. And the work is "
                "in the multiplications, not in the bits of the input.",
            ),
            Answer(
                "Because self-attention multiplies every position with every other, so its cost "
                "falls with the square of the number of positions.",
                True,
                "64 times fewer positions are 4096 times fewer pairs. The convolutions save 64 "
                "times; the whole lies in between.",
            ),
            Answer(
                "Because the autoencoder takes over most of the work.",
                False,
                "It has a bill of its own, but that is paid once a picture and not once a step, "
                "and it is no part of the U-Net's.",
            ),
        ),
    ),
    Question(
        "You train the U-Net until it makes no mistake at all, and still small faces come out "
        "without eyes. What can help?",
        (
            Answer(
                "A better decoder, or a latent that keeps more.",
                True,
                "Whatever the U-Net does, the decoder has the last word, and it can draw only what "
                "the latent says. This is why later systems got a new autoencoder, and some "
                "have 16 channels instead of 4.",
            ),
            Answer(
                "More sampling steps.",
                False,
                "They bring the latent nearer to what the U-Net has learnt. It has learnt latents "
                "in which the eyes are lost already.",
            ),
            Answer(
                "A larger U-Net.",
                False,
                "This one makes no mistake: it gives exactly the latents of true pages. Their "
                "decoded pictures have no eyes either.",
            ),
        ),
    ),
    Question(
        "No linear code of four numbers a patch has a smaller squared error on the training "
        "patches than principal components have. How can the autoencoder be better?",
        (
            Answer(
                "It keeps more numbers: a mean and a variance for each.",
                False,
                "The decoder is given one number for each of them, the mean or a sample: four at "
                "each position, like the other.",
            ),
            Answer(
                "It does not minimise the squared error.",
                False,
                "That would rather make it worse by this measure. A code can be better only where "
                "the proof has an opening.",
            ),
            Answer(
                "It is not linear, and its patches are not alone: each position sees its "
                "neighbours, on the way in and on the way out.",
                True,
                "Both are outside the proof. A network can use four numbers to choose among very "
                "different patches, and an outline that enters on one side may be continued.",
            ),
        ),
    ),
)
