"""Exercises and quiz of notebook 03, the timestep embedding."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sdlearn.course.exercises.edits import with_mistakes
from sdlearn.course.grading.exercise import Answer, Case, Exercise, Question, normal

# float32 loses digits where angles are large: times have angles up to 999, sizes up to 3000.
TIME_DIGITS, SIZE_DIGITS = 8e-5, 3e-4

# -------------------------------------------------------------------- 03.1 the sinusoidal embedding


def sinusoidal_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Timesteps t (b,), any dtype -> float32 (b, dim): all cosines, then all sines."""
    half = dim // 2
    i = torch.arange(half, dtype=torch.float32)
    frequencies = torch.exp(-math.log(max_period) * i / half)  # (dim/2,)
    angles = t.float()[:, None] * frequencies  # (b, 1) * (dim/2,) -> (b, dim/2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def kept(t: Tensor) -> torch.dtype:
    """The dtype of t, where fractions fit in."""
    return t.dtype if t.is_floating_point() else torch.float32


def times_cases(rng: Generator) -> Iterator[Case]:
    def drawn(*shape: int) -> Tensor:
        return 999 * torch.rand(shape, generator=rng, dtype=torch.float64)

    yield Case((drawn(3), 8, 10000.0))
    yield Case((drawn(5), 24, 10000.0))
    yield Case((torch.randint(1000, (4,), generator=rng), 8, 500.0))  # as many as frequencies
    yield Case((torch.randint(900, 1000, (2,), generator=rng), 320, 10000.0))
    yield Case((drawn(1), 6, 100.0))
    # 800 ** -0.5 is rounded to the same half-precision number by a power and by an exponential.
    yield Case(((drawn(3) / 4 + 740).half(), 4, 800.0))
    yield Case(((drawn(2) / 4 + 740).bfloat16(), 4, 800.0))


SINUSOIDS = Exercise(
    number="03.1",
    title="The sinusoidal embedding",
    minutes=10,
    difficulty=2,
    core=True,
    statement="Write the embedding for a batch of timesteps `t` of shape `(b,)`. They may be whole "
    "or fractional and of any `dtype`, including half precision. Return a `float32` tensor of "
    "shape `(b, dim)`, accurate to within 0.0001: the cosines of all `dim / 2` frequencies, "
    "highest frequency first, then the sines in the same order. `max_period` replaces the 10000 in "
    "the formula.",
    hints=(
        "Convert `t` to float32 first. You need one angle for each pair of a timestep and a "
        "frequency, so the angles have shape `(b, dim / 2)`.",
        "The frequencies are `max_period ** (-torch.arange(half) / half)` with `half = dim // 2`. "
        "To multiply every timestep by every frequency, give the timesteps an axis of their own: "
        "`(b, 1)` times `(dim / 2,)`.",
        "Compute `angles = t.float()[:, None] * frequencies`, then join their cosines and sines "
        "with `torch.cat` along the last axis.",
    ),
    solution=sinusoidal_embedding,
    cases=times_cases,
    trained=False,
    tolerance=TIME_DIGITS,
)

# ------------------------------------------------------------------------------------- 03.2 the MLP


class TimeEmbedding(nn.Module):
    """The MLP after the sinusoids: linear, SiLU, linear."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim_in, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, dim_in) -> (b, dim)."""
        return self.linear_2(F.silu(self.linear_1(x)))


def mlp_cases(rng: Generator) -> Iterator[Case]:
    for b, dim_in, dim in ((3, 6, 20), (4, 4, 4), (1, 8, 5)):
        yield Case((normal(rng, b, dim_in),), build=(dim_in, dim))
    yield Case((30 * normal(rng, 2, 6),), build=(6, 12))  # far from 0, where SiLU is nearly linear


MULTILAYER = Exercise(
    number="03.2",
    title="The MLP",
    minutes=4,
    difficulty=1,
    core=True,
    statement="Write `forward`: apply the first linear layer, then SiLU, then the second linear "
    "layer. Compute SiLU from the formula above or use `F.silu`.",
    hints=(
        "The first layer maps `(b, dim_in)` to `(b, dim)`, and the second keeps that shape. SiLU "
        "is applied once, between them.",
        "SiLU of `h` is `h * torch.sigmoid(h)`, or `F.silu(h)`.",
        "Start with `h = self.linear_1(x)`, then apply the second layer to `F.silu(h)`.",
    ),
    solution=TimeEmbedding,
    cases=mlp_cases,
)

# ---------------------------------------------------------------------- 03.3 a channel's wavelength


def wavelength(channel: int, dim: int) -> float:
    """Return the wavelength, in steps of t, of a channel from 0 to dim - 1."""
    half = dim // 2
    i = channel % half  # channel i + half is the sine of frequency i
    return 2 * math.pi * 10000 ** (i / half)


def wavelength_cases(_: Generator) -> Iterator[Case]:
    for channel, dim in ((0, 320), (159, 320), (160, 320), (319, 320), (3, 8), (5, 8), (10, 24)):
        yield Case((channel, dim))


WAVELENGTH = Exercise(
    number="03.3",
    title="A channel's wavelength",
    minutes=6,
    difficulty=1,
    statement="Each channel of `sinusoidal_embedding(t, dim)` is a wave in `t`. What is its "
    "wavelength, the number of steps after which it repeats itself? Return the wavelength of "
    "channel number `channel`, from `0` to `dim - 1`, as a real number.",
    hints=(
        "Which frequency does the channel belong to? There are only `dim / 2` frequencies, and two "
        "channels share each of them.",
        "Channel `i` and channel `i + dim / 2` are the cosine and the sine of ω_i t. Both repeat "
        "themselves when ω_i t has grown by 2π.",
        "With `i = channel % (dim // 2)`, the number of steps is 2π / ω_i, and 1 / ω_i is "
        "`10000 ** (i / (dim // 2))`.",
    ),
    solution=wavelength,
    cases=wavelength_cases,
    trained=False,
    tolerance=1e-5,
)

# ------------------------------------------------------------------- 03.4 weights for another order


def adapted(weight: Tensor) -> Tensor:
    """Reorder a weight (n, dim) for sin, cos, sin, cos, ... to cosines, then sines."""
    return torch.cat([weight[:, 1::2], weight[:, 0::2]], dim=1)


def weight_cases(rng: Generator) -> Iterator[Case]:
    for n, dim in ((5, 8), (6, 6), (1, 10), (8, 4), (16, 64)):
        yield Case((normal(rng, n, dim),))


WEIGHTS = Exercise(
    number="03.4",
    title="Weights for another order of channels",
    minutes=12,
    difficulty=2,
    core=True,
    statement="You find a trained network whose embedding follows the transformer paper to the "
    "letter: sine and cosine alternate, $(\\sin_0, \\cos_0, \\sin_1, \\cos_1, \\dots)$, at the "
    "same frequencies as ours. You want to run it with *your* `sinusoidal_embedding`, without "
    "retraining it. Its first layer has a weight of shape `(n, dim)`, like that of "
    "`nn.Linear(dim, n)`. Return the weight that gives the same output with our order of channels. "
    "Conversion scripts for published weights do this all the time. The cells after the check "
    "generate images with your weight.",
    hints=(
        "Output j of the layer is the sum of `weight[j, k] * x[k]` over the channels k. If the "
        "channels of `x` move, what has to move with them: rows or columns?",
        "Column k belongs to channel k of the other order. The odd ones, 1, 3, 5, ..., belong to "
        "the cosines, which come first in our order.",
        "`weight[:, 1::2]` holds the columns of the cosines, in the order of the frequencies, and "
        "`weight[:, 0::2]` holds those of the sines.",
    ),
    solution=adapted,
    cases=weight_cases,
)

# -------------------------------------------------------------------------------- 03.5 SDXL's sizes


def size_vector(
    pooled: Tensor,
    originals: list[tuple[int, int]],
    corners: list[tuple[int, int]],
    targets: list[tuple[int, int]],
    dim: int,
) -> Tensor:
    """Return the pooled text (b, d) and the embedded sizes as (b, d + 6 * dim)."""
    rows = [
        (height, width, top, left, target_height, target_width)
        for (width, height), (left, top), (target_width, target_height) in zip(
            originals, corners, targets, strict=True
        )
    ]
    embedded = sinusoidal_embedding(torch.tensor(rows).flatten(), dim)  # (b * 6, dim)
    return torch.cat([pooled, embedded.reshape(len(rows), 6 * dim)], dim=-1)


def vector_cases(rng: Generator) -> Iterator[Case]:
    for b, d, dim in ((2, 5, 8), (6, 6, 12), (1, 3, 16), (2, 1280, 256)):
        drawn = [
            torch.randint(low, high, (b, 2), generator=rng).tolist()
            for low, high in ((200, 3000), (0, 300), (500, 1500))
        ]
        drawn[0][0] = [2999, 2501]  # odd: half precision has not enough digits for them
        pairs = [[tuple(pair) for pair in part] for part in drawn]
        yield Case((normal(rng, b, d), *pairs, dim))


VECTOR = Exercise(
    number="03.5",
    title="SDXL's sizes",
    minutes=12,
    difficulty=2,
    statement="Many of SDXL's training images had been enlarged or cropped. To keep it from "
    "imitating their blur and cut-off heads, SDXL is conditioned on the sizes as well. Suppose you "
    "are preparing training images for it with Pillow. For each of `b` images you know three "
    "pairs: its `image.size` before scaling (`originals`), the corner where the crop begins "
    "(`corners`) and the size of the crop (`targets`). Pillow gives them as `(width, height)` and "
    "`(left, top)`.\n\nSDXL expects one vector, in a different order: the pooled text embedding "
    "(one vector for the whole prompt), original height, original width, crop top, crop left, "
    "target height, target width. Embed each of the six numbers separately in `dim` channels with "
    "`sinusoidal_embedding`. `pooled` has shape `(b, d)`. Return the concatenation, of shape "
    "`(b, d + 6 * dim)`.",
    hints=(
        "Build the six numbers of each image first, `(b, 6)`, and compare their order with "
        "SDXL's. Which comes first in Pillow, and which in SDXL?",
        "SDXL's order is height, width, top, left, height, width, so swap every pair. Then embed "
        "each number by itself, and concatenate the six embeddings of an image.",
        "`sinusoidal_embedding(numbers.flatten(), dim)` has shape `(b * 6, dim)`. Then "
        "`.reshape(b, 6 * dim)` puts the six embeddings of each image into one row, and `pooled` "
        "goes before them.",
    ),
    solution=size_vector,
    cases=vector_cases,
    tolerance=SIZE_DIGITS,
)

# -------------------------------------------------------------------------- 03.6 reading the clocks


def read_clocks(embedding: Tensor) -> Tensor:
    """Return the timesteps (b,), from 0 to 999, of rounded embeddings (b, dim)."""
    half = embedding.shape[1] // 2
    frequencies = 10000 ** (-torch.arange(half, dtype=embedding.dtype) / half)
    angles = torch.atan2(embedding[:, half:], embedding[:, :half])  # (b, dim/2), -π to π
    t = angles[:, -1] / frequencies[-1]  # the lowest has not made a whole turn yet
    for i in reversed(range(half - 1)):
        turns = torch.round((t * frequencies[i] - angles[:, i]) / (2 * math.pi))
        t = (angles[:, i] + 2 * math.pi * turns) / frequencies[i]
    return t


def speeds(dim: int) -> Tensor:
    half = dim // 2
    return 10000 ** (-torch.arange(half, dtype=torch.float64) / half)


def waves(angles: Tensor) -> Tensor:
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def clock_cases(rng: Generator) -> Iterator[Case]:
    for b, dim in ((6, 8), (5, 32), (1, 16), (8, 6), (150, 10)):
        t = torch.rand(b, generator=rng, dtype=torch.float64)
        t = 999 * t.sqrt() if b == 1 else 999 * t
        if b > 1:
            t[0] = t[0] / 1000  # just after the beginning, and just before the end
            t[-1] = 999 - t[-1] / 1000
        if b > 50:  # moments at which a hand points straight up or down, or nearly
            turn = math.tau / speeds(dim)[:3].repeat(20)  # of the three fastest clocks
            up = turn * (1 + torch.arange(60) // 3 % (990 / turn).floor())
            for first, moment in ((1, up), (61, up - turn / 2)):
                t[first : first + 60] = moment + t[first : first + 60] / 99900
        yield Case((waves(t[:, None] * speeds(dim)).mul(100).round() / 100,))


CLOCKS = Exercise(
    number="03.6",
    title="Reading the clocks",
    minutes=25,
    difficulty=3,
    core=True,
    statement="Invert the embedding. You get the sinusoidal embeddings of timesteps between 0 and "
    "999, whole or fractional, as a tensor of shape `(b, dim)`, with every entry rounded to *two "
    "decimal places*. Return the timesteps, of shape `(b,)` and with the same `dtype`, accurate to "
    "a hundredth of a step. The lowest frequency alone isn't precise enough, and the highest "
    "repeats itself every 6.28 steps, so you need both and all those in between. (`dim` is at "
    "least `6`, so that the slowest clock makes less than half a turn.)",
    hints=(
        "`torch.atan2(sine, cosine)` is the angle of a hand, between -π and π. Start with the "
        "lowest frequency: its clock has not made a whole turn, so its angle divided by its "
        "frequency is a first, rough estimate of t.",
        "The next faster clock is more precise, but it has made some whole turns that its hand "
        "doesn't show. Use the rough estimate: which number of turns brings this clock's t nearest "
        "to that estimate?",
        "Loop from slow to fast. At each clock, compute "
        "`turns = torch.round((t * w - angle) / (2 * math.pi))`, then "
        "`t = (angle + 2 * math.pi * turns) / w`.",
    ),
    solution=read_clocks,
    cases=clock_cases,
    trained=False,
    tolerance=4e-5,
)

EXERCISES = with_mistakes(__name__, SINUSOIDS, MULTILAYER, WAVELENGTH, WEIGHTS, VECTOR, CLOCKS)

# -------------------------------------------------------------------------------------------- quiz

QUESTIONS = (
    Question(
        "You run Stable Diffusion's weights with the divisor d/2 − 1. At which timesteps are your "
        "sinusoids closest to the correct ones?",
        (
            Answer(
                "At none, because all frequencies but the first are wrong.",
                False,
                "They are all slightly wrong, but the network sees only the cosine and sine of the "
                "angle ω t, and the error of that angle is t times the error of ω.",
            ),
            Answer(
                "At large t, because only the low frequencies count there.",
                False,
                "The low frequencies do stay accurate longest, but the vector contains the others "
                "too, and their angles are furthest off at large t.",
            ),
            Answer(
                "At small t.",
                True,
                "At t = 0 all angles are 0, whatever the frequencies, and the errors grow with t. "
                "A test on a few small timesteps would have missed the bug.",
            ),
        ),
    ),
    Question(
        "The dot product of the embeddings of t and t' depends on t - t' only. Why?",
        (
            Answer(
                "Because cos a cos b + sin a sin b = cos(a - b), for every frequency.",
                True,
                "For frequency i that is cos(ω_i (t - t')), whatever the frequencies are. It needs "
                "both the cosine and the sine.",
            ),
            Answer(
                "Because the frequencies form a geometric sequence.",
                False,
                "It holds for any frequencies. The geometric sequence provides frequencies that "
                "suit small, medium and large differences.",
            ),
            Answer(
                "Because all these embeddings have the same length.",
                False,
                "They do have the same length, and for the same reason, but vectors of equal "
                "length can have any angle between them.",
            ),
        ),
    ),
    Question(
        "You fix the timestep of the trained storybook model at 999 while it generates. The images "
        "fall apart. What does the network do in the late steps, when little noise remains?",
        (
            Answer(
                "Nothing, because the embedding of 999 was hardly seen in training.",
                False,
                "The error at a true timestep of 999 is the lowest in section 1, so the network "
                "knows this timestep well.",
            ),
            Answer(
                "It mistakes parts of the image for noise.",
                True,
                "At t = 999 almost everything in a latent is noise, and the network was trained to "
                "predict just that. Section 1 measured the result: at small true timesteps the "
                "error is larger than that of predicting zero.",
            ),
            Answer(
                "It generates an image of another prompt.",
                False,
                "The prompt reaches the network as before. What the network misjudges is the "
                "amount of noise.",
            ),
        ),
    ),
)
