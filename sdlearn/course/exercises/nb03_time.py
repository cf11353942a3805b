"""Exercises and quiz of notebook 03, the timestep embedding."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor

from sdlearn.course.grading.exercise import Answer, Case, Exercise, Mistake, Question, normal
from sdlearn.embeddings import sinusoidal_embedding

# float32 loses digits where angles are large: times have angles up to 999, sizes up to 3000.
TIME_DIGITS, SIZE_DIGITS = 8e-5, 3e-4

# ---------------------------------------------------------------------------- 03.1 a channel's turn


def wavelength(channel: int, dim: int) -> float:
    """After how many steps of t does this channel, 0 to dim - 1, repeat itself?"""
    half = dim // 2
    i = (
        channel % half
    )  # cosines are the channels 0 to half - 1, the sines of the same clocks follow
    return 2 * math.pi * 10000 ** (i / half)


def turn(i: float, part: float, whole: float = 2 * math.pi) -> float:
    return whole * 10000 ** (i / part)


def turn_cases(_: Generator) -> Iterator[Case]:
    for channel, dim in ((0, 320), (159, 320), (160, 320), (319, 320), (3, 8), (5, 8), (10, 24)):
        yield Case((channel, dim))


TURN = Exercise(
    number="03.1",
    title="A channel's turn",
    minutes=6,
    difficulty=1,
    statement="Take one channel of `sinusoidal_embedding(t, dim)`, in Stable Diffusion's order, "
    "and let `t` grow. After how many steps does this channel begin to repeat itself? Write the "
    "answer as a function of the channel's number, `0` to `dim - 1`, and of `dim`. It is a real "
    "number, not a whole one.",
    hints=(
        "Which clock does the channel belong to? There are only `dim / 2` clocks, and each of them "
        "has two channels.",
        "Channel `i` and channel `i + dim / 2` are the cosine and the sine of clock `i`. Its hand "
        "turns by ω_i radians a step, and it is round after 2π radians.",
        "With `i = channel % (dim // 2)` the number of steps is 2π / ω_i, and 1 / ω_i is "
        "`10000 ** (i / (dim // 2))`.",
    ),
    solution=wavelength,
    cases=turn_cases,
    trained=False,
    tolerance=1e-5,
    mistakes=(
        Mistake(
            "sines on clocks of their own",
            lambda channel, dim: turn(channel, dim // 2),
            "You go on counting in the second half, as if the sines had slower clocks of their "
            "own. They are the other coordinate of the same hands, so channel dim / 2 is as fast "
            "as channel 0. You would notice turns of more than 100 million steps.",
        ),
        Mistake(
            "in turns",
            lambda channel, dim: turn(channel // 2, dim // 2),
            "You take two neighbouring channels for one clock. That is how the transformer paper "
            "numbers them, sine and cosine in turns. Stable Diffusion has all cosines first, then "
            "all sines.",
        ),
        Mistake(
            "radians for turns",
            lambda channel, dim: turn(channel % (dim // 2), dim // 2, 1.0),
            "You give 1 / ω_i, the steps for one radian. A whole turn has 2π of them: the fastest "
            "clock moves one radian a step, and still needs more than six steps to come round.",
        ),
        Mistake(
            "degrees",
            lambda channel, dim: turn(channel % (dim // 2), dim // 2, 360.0),
            "You count 360 for a turn. The angle goes into `cos` and `sin`, which take radians: a "
            "whole turn is 2π.",
        ),
        Mistake(
            "half a turn",
            lambda channel, dim: turn(channel % (dim // 2), dim // 2, math.pi),
            "After π radians the hand points to the opposite side, and both its numbers have "
            "changed their sign. It takes 2π until they are the same again.",
        ),
        Mistake(
            "frequency for wavelength",
            lambda channel, dim: 10000 ** (-(channel % (dim // 2)) / (dim // 2)),
            "This is ω_i, the angle for one step. Asked for are the steps for one turn: the larger "
            "ω_i, the fewer.",
        ),
        Mistake(
            "exponent upside down",
            lambda channel, dim: turn(-(channel % (dim // 2)), dim // 2),
            "Your slow clocks are the fast ones: the sign of the exponent is the wrong way round. "
            "ω_i falls with i, so the time for a turn, 2π / ω_i, must grow.",
        ),
        Mistake(
            "dim for half",
            lambda channel, dim: turn(channel % (dim // 2), dim),
            "You divide i by dim. Then the slowest clock has only √10000 = 100 times the turn of "
            "the fastest. The divisor is the number of clocks, dim / 2.",
        ),
        Mistake(
            "half - 1",
            lambda channel, dim: turn(channel % (dim // 2), dim // 2 - 1),
            "You divide by dim / 2 - 1, as the first diffusion code did, so that the last clock "
            "has exactly the frequency 1/10000. Stable Diffusion divides by dim / 2.",
        ),
    ),
)

# ------------------------------------------------------------------------- 03.2 any time, any batch


def embed_times(t: Tensor, b: int, dim: int, max_period: float) -> Tensor:
    """t, () or (b,), of any dtype -> (b, dim) float32: cosines of all clocks, then sines."""
    half = dim // 2
    i = torch.arange(half, dtype=torch.float32)
    frequencies = torch.exp(-math.log(max_period) * i / half)
    angles = t.float().expand(b)[:, None] * frequencies  # (b, 1) * (dim/2,) -> (b, dim/2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def angles_of(
    t: Tensor, b: int, dim: int, max_period: float, divisor: float | None = None
) -> Tensor:
    half = dim // 2
    i = torch.arange(half, dtype=torch.float32)
    return t.float().expand(b)[:, None] * max_period ** (-i / (divisor or half))


def waves(angles: Tensor) -> Tensor:
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def changed(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The right answer but for what happens to the angles, (b, dim/2)."""
    return lambda t, b, dim, max_period: waves(change(angles_of(t, b, dim, max_period)))


def in_half(t: Tensor, b: int, dim: int, max_period: float) -> Tensor:
    i = torch.arange(dim // 2)
    speeds = (max_period ** (-i / (dim // 2))).half()
    return waves(t.half().expand(b)[:, None] * speeds).float()


def kept(t: Tensor) -> torch.dtype:
    """The dtype of t, where fractions fit in."""
    return t.dtype if t.is_floating_point() else torch.float32


def in_own_dtype(t: Tensor, b: int, dim: int, max_period: float) -> Tensor:
    speeds = (max_period ** (-torch.arange(dim // 2) / (dim // 2))).to(kept(t))
    return waves(t.to(kept(t)).expand(b)[:, None] * speeds).float()


def with_rounded_speeds(t: Tensor, b: int, dim: int, max_period: float) -> Tensor:
    speeds = (max_period ** (-torch.arange(dim // 2) / (dim // 2))).to(kept(t))
    return waves(t.float().expand(b)[:, None] * speeds.float())


def with_whole_speeds(t: Tensor, b: int, dim: int, max_period: float) -> Tensor:
    speeds = (max_period ** (-torch.arange(dim // 2) / (dim // 2))).to(t.dtype)
    return waves(t.expand(b)[:, None] * speeds).float()


def with_rounded_angles(t: Tensor, b: int, dim: int, max_period: float) -> Tensor:
    return waves(angles_of(t, b, dim, max_period).to(kept(t))).float()


def without_own_axis(t: Tensor, b: int, dim: int, max_period: float) -> Tensor:
    speeds = max_period ** (-torch.arange(dim // 2, dtype=torch.float32) / (dim // 2))
    return waves(t.float().expand(b) * speeds)


def times_cases(rng: Generator) -> Iterator[Case]:
    def drawn(*shape: int) -> Tensor:
        return 999 * torch.rand(shape, generator=rng, dtype=torch.float64)

    yield Case((drawn(3), 3, 8, 10000.0))
    yield Case((drawn(), 4, 24, 10000.0))  # one time for the whole batch
    yield Case((torch.randint(1000, (4,), generator=rng), 4, 8, 500.0))  # as many as clocks
    yield Case((torch.randint(900, 1000, (2,), generator=rng), 2, 320, 10000.0))
    yield Case((drawn(1), 1, 6, 100.0))
    # 800 ** -0.5 is rounded to the same half-precision number by a power and by an exponential.
    yield Case(((drawn(3) / 4 + 740).half(), 3, 4, 800.0))
    yield Case(((drawn(2) / 4 + 740).bfloat16(), 2, 4, 800.0))


TIMES = Exercise(
    number="03.2",
    title="Any time, any batch",
    minutes=12,
    difficulty=2,
    statement="Samplers are careless: sometimes `t` is one time for the whole batch, a tensor of "
    "shape `()`, sometimes one for each picture, `(b,)`; sometimes whole numbers, sometimes "
    "fractions, and in any `dtype`, half precision included. Write an embedding that takes them "
    "all and returns `(b, dim)` in `float32`, exact to four digits. It has Stable Diffusion's "
    "order and divisor, and a `max_period` of its own in place of `10000`. You may use `torch` "
    "only, not the `sinusoidal_embedding` from above.",
    hints=(
        "Make `t` the same in all cases first: `float32`, and one number for each of the b "
        "pictures.",
        "`t.float().expand(b)` is `(b,)` from either shape. To multiply every time with every "
        "frequency, the times need an axis of their own: `(b, 1)` times `(dim / 2,)`.",
        "`angles = t.float().expand(b)[:, None] * max_period ** (-torch.arange(dim // 2) / "
        "(dim // 2))`; then the cosines and the sines, with `torch.cat` along the last axis.",
    ),
    solution=embed_times,
    cases=times_cases,
    trained=False,
    tolerance=TIME_DIGITS,
    mistakes=(
        Mistake(
            "sines first",
            lambda t, b, dim, max_period: waves(angles_of(t, b, dim, max_period)).roll(dim // 2, 1),
            "Your sines come first. All numbers are right, and the network behind would still read "
            "every one of them wrong: its weights were trained on cosines first.",
        ),
        Mistake(
            "half - 1",
            lambda t, b, dim, max_period: waves(
                angles_of(t, b, dim, max_period, max(dim // 2 - 1, 1))
            ),
            "Your divisor is dim / 2 - 1, so that the last clock has exactly the frequency 1 / "
            "max_period. Stable Diffusion divides by dim / 2. The clocks in the middle differ "
            "most: what is a small change of the speed is a large one of the angle after 999 "
            "steps.",
        ),
        Mistake(
            "in turns",
            lambda t, b, dim, max_period: torch.stack(
                [(a := angles_of(t, b, dim, max_period)).cos(), a.sin()], dim=-1
            ).flatten(1),
            "You put cosine and sine of each clock side by side. Here all cosines come first, then "
            "all sines.",
        ),
        Mistake(
            "exponent upside down",
            lambda t, b, dim, max_period: waves(angles_of(t, b, dim, 1 / max_period)),
            "Your frequencies grow from 1 up to max_period; they must fall from 1. A hand that "
            "turns a thousand times in one step looks like random numbers, in which neighbouring "
            "times have nothing in common.",
        ),
        Mistake(
            "always 10000",
            lambda t, b, dim, max_period: waves(angles_of(t, b, dim, 10000.0)),
            "Your clocks do not use `max_period`; 10000 is only its usual value.",
        ),
        Mistake(
            "dim for half",
            lambda t, b, dim, max_period: waves(angles_of(t, b, dim, max_period, dim)),
            "You divide i by dim, not by dim / 2, so that your clocks cover only half of the way "
            "from fast to slow (on a logarithmic scale). In the papers' exponent 2i / d the 2 is "
            "easily lost.",
        ),
        Mistake(
            "whole turns",
            changed(lambda angles: 2 * torch.pi * angles),
            "You multiply with 2π, so that the fastest clock makes a whole turn each step. At "
            "every whole t its hand then points up: two channels that never tell anything.",
        ),
        Mistake(
            "degrees",
            changed(torch.deg2rad),
            "You take the angles for degrees. `cos` and `sin` want radians, and t ω_i is one "
            "already. Turned into radians once more, all clocks are 57 times too slow.",
        ),
        Mistake(
            "time from 0 to 1",
            changed(lambda angles: angles / 1000),
            "You divide t by 1000. The frequencies are made for times up to 999; between 0 and 1 "
            "even the fastest hand moves by one radian only, and hardly any channel changes.",
        ),
        Mistake(
            "half precision",
            in_half,
            "You compute in half precision. Near 999 its numbers are half a step apart, so the "
            "angles of the fast clocks have lost their digits before `cos` sees them. Compute in "
            "float32, and cast the finished vector, if at all.",
        ),
        Mistake(
            "in the dtype of t",
            in_own_dtype,
            "You compute in whatever `dtype` the time has. With a time in half precision the "
            "frequencies and the angles are rounded to its few digits before `cos` sees them, and "
            "the cast at the end does not bring them back. Turn `t` into float32 first, and make "
            "the frequencies in float32.",
        ),
        Mistake(
            "frequencies in the dtype of t",
            with_rounded_speeds,
            "Your angles are float32, but the frequencies were made in the `dtype` of `t`. With a "
            "time in half precision each is off by some ten-thousandths or more, and after 900 "
            "steps a fast hand is visibly off.",
        ),
        Mistake(
            "angles in the dtype of t",
            with_rounded_angles,
            "Your frequencies are float32, but the angles are cast to the `dtype` of `t` before "
            "`cos` and `sin`. In half precision an angle of 900 radians has hardly a digit behind "
            "the point left. Stay in float32 until the vector is finished.",
        ),
        Mistake(
            "vector in the dtype of t",
            lambda t, b, dim, max_period: (
                waves(angles_of(t, b, dim, max_period)).to(kept(t)).float()
            ),
            "You cast the finished vector to the `dtype` of `t` and then to float32. The second "
            "cast does not bring back the digits that the first one took. Asked for is float32 "
            "throughout; who wants fewer digits can cast afterwards.",
        ),
        Mistake(
            "frequencies cut to whole numbers",
            with_whole_speeds,
            "You cast the frequencies to the `dtype` of `t`. When `t` holds whole numbers they "
            "become 1, 0, 0, 0, ...: all clocks but the first stand still.",
        ),
        Mistake(
            "max_period as a wavelength",
            lambda t, b, dim, max_period: waves(angles_of(t, b, dim, max_period / math.tau)),
            "You divide `max_period` by 2π, as if it were the steps for a turn of the slowest "
            "clock. The name suggests it, but the formula takes `max_period` as it is, in the "
            "place of 10000; the turn then takes up to 2π times as many steps.",
        ),
        Mistake(
            "one row",
            lambda t, b, dim, max_period: waves(angles_of(t, t.numel(), dim, max_period)),
            "With one time for the whole batch you return a single row. It might be broadcast "
            "later on, or not: an addition would forgive it, a `torch.cat` would not. Return (b, "
            "dim).",
        ),
        Mistake(
            "no axis for the batch",
            without_own_axis,
            "You multiply (b,) with (dim / 2,): time number k with frequency number k. That fits "
            "only if there happen to be as many pictures as clocks, or one, and then it is wrong. "
            "Every time meets every frequency: (b, 1) times (dim / 2,).",
        ),
    ),
)

# ----------------------------------------------------------------- 03.3 weights from another family


def adapted(weight: Tensor) -> Tensor:
    """(n, dim) for sin, cos, sin, cos, ... -> (n, dim) for all cosines, then all sines."""
    return torch.cat([weight[:, 1::2], weight[:, 0::2]], dim=1)


def weight_cases(rng: Generator) -> Iterator[Case]:
    for n, dim in ((5, 8), (6, 6), (1, 10), (8, 4), (16, 64)):
        yield Case((normal(rng, n, dim),))


WEIGHTS = Exercise(
    number="03.3",
    title="Weights from another family",
    minutes=12,
    difficulty=2,
    statement="You find a trained network whose embedding follows the transformer paper to the "
    "letter: the channels are sine and cosine in turns, $(\\sin_0, \\cos_0, \\sin_1, \\cos_1, "
    "\\dots)$, of the same clocks as ours. You want to run it on *your* `sinusoidal_embedding`, "
    "without training. Its first layer has the weight `(n, dim)`, as `nn.Linear(dim, n)` keeps it. "
    "Return the weight that gives the same output for our order of channels. (Converters of "
    "published files do such things all the time.)",
    hints=(
        "Output j of the layer is the sum of `weight[j, k] * x[k]` over the channels k. If the "
        "channels of `x` move, what has to move with them: rows or columns?",
        "Column k belongs to channel k of the other order. The odd ones, 1, 3, 5, ..., belong to "
        "the cosines, which come first in ours.",
        "`weight[:, 1::2]` are the columns of the cosines, in the order of the clocks, and "
        "`weight[:, 0::2]` those of the sines.",
    ),
    solution=adapted,
    cases=weight_cases,
    mistakes=(
        Mistake(
            "sines first",
            lambda weight: torch.cat([weight[:, 0::2], weight[:, 1::2]], dim=1),
            "You collect the sines first. The paper's list begins with a sine, so the even columns "
            "are sines; ours begins with all cosines.",
        ),
        Mistake(
            "rows",
            lambda weight: torch.cat([weight[1::2], weight[0::2]], dim=0),
            "You move the rows. A row makes one *output*; the channels of the input are the "
            "columns. With a square weight nobody would complain.",
        ),
        Mistake(
            "the way back",
            lambda weight: torch.stack(
                [weight[:, weight.shape[1] // 2 :], weight[:, : weight.shape[1] // 2]], dim=-1
            ).flatten(1),
            "You go the other way: from our order to sine and cosine in turns. A permutation and "
            "its inverse are easily mixed up; try it on a weight whose columns are 0, 1, 2, 3, ...",
        ),
        Mistake(
            "halves exchanged",
            lambda weight: weight.roll(weight.shape[1] // 2, 1),
            "You exchange the two halves. That would be right for a network that was trained on "
            "all sines, then all cosines; here they come in turns.",
        ),
        Mistake(
            "neighbours exchanged",
            lambda weight: weight.unflatten(1, (-1, 2)).flip(-1).flatten(1),
            "You exchange sine and cosine within each pair, but leave the pairs together. Ours has "
            "all cosines first, then all sines.",
        ),
        Mistake(
            "cut in two rows",
            lambda weight: weight.unflatten(1, (2, -1)).transpose(1, 2).flatten(1),
            "You deal out the two halves in turns. The halves of the paper's vector are not sines "
            "and cosines; its even and odd channels are.",
        ),
        Mistake(
            "nothing changed",
            lambda weight: weight.clone(),
            "You return the columns as they were. Each would meet another number than it was "
            "trained on. Shapes fit, nothing complains, and the network draws nonsense.",
        ),
        Mistake(
            "backwards",
            lambda weight: weight.flip(1),
            "You turn the columns around. Then the slowest clocks come first.",
        ),
    ),
)

# --------------------------------------------------------------------------- 03.4 what SDXL is told


def picture_vector(
    pooled: Tensor,
    originals: list[tuple[int, int]],
    corners: list[tuple[int, int]],
    targets: list[tuple[int, int]],
    dim: int,
) -> Tensor:
    """(b, d), and b times (width, height), (left, top), (width, height) -> (b, d + 6 * dim)."""
    rows = [
        (height, width, top, left, target_height, target_width)
        for (width, height), (left, top), (target_width, target_height) in zip(
            originals, corners, targets, strict=True
        )
    ]
    embedded = sinusoidal_embedding(torch.tensor(rows).flatten(), dim)  # (b * 6, dim)
    return torch.cat([pooled, embedded.reshape(len(rows), 6 * dim)], dim=-1)


def told(pooled: Tensor, rows: Tensor, dim: int) -> Tensor:
    """rows (b, 6) -> what the network gets of them."""
    embedded = sinusoidal_embedding(rows.flatten(), dim).reshape(len(rows), -1)
    return torch.cat([pooled, embedded], dim=-1)


def six(*pairs: list[tuple[int, int]]) -> Tensor:
    """b times two numbers, three times -> (b, 6)."""
    return torch.cat([torch.tensor(pair) for pair in pairs], dim=1)


def swapped(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(b, a) for a, b in pairs]


def in_order(*parts: list[tuple[int, int]]) -> Tensor:
    return six(*map(swapped, parts))


def rearranged(
    pooled: Tensor, rows: Tensor, dim: int, change: Callable[[Tensor], Tensor]
) -> Tensor:
    """change: from the embedded numbers (b, 6, dim) to (b, 6 * dim)."""
    embedded = sinusoidal_embedding(rows.flatten(), dim).reshape(*rows.shape, dim)
    return torch.cat([pooled, change(embedded)], dim=-1)


def vector_cases(rng: Generator) -> Iterator[Case]:
    for b, d, dim in ((2, 5, 8), (6, 6, 6), (1, 3, 16), (2, 1280, 256)):
        drawn = [
            torch.randint(low, high, (b, 2), generator=rng).tolist()
            for low, high in ((200, 3000), (0, 300), (500, 1500))
        ]
        drawn[0][0] = [2999, 2501]  # odd: half precision has not enough digits for them
        pairs = [[tuple(pair) for pair in part] for part in drawn]
        yield Case((normal(rng, b, d), *pairs, dim))


SIZES = Exercise(
    number="03.4",
    title="What SDXL is told",
    minutes=15,
    difficulty=2,
    statement="You prepare training pictures for SDXL with Pillow. For each of the `b` pictures "
    "you have `image.size` before it was scaled, the corner where the crop begins, and the size "
    "of the crop: `originals`, `corners` and `targets`, each a list of `b` pairs. Pillow's pairs "
    "are `(width, height)` and `(left, top)`. `pooled` is `(b, d)`. Return `(b, d + 6 * dim)`: "
    "the vector of section 13, in the order in which SDXL was trained to read it. You may use "
    "your `sinusoidal_embedding`.",
    hints=(
        "Build the six numbers of each picture first, `(b, 6)`, and compare their order with that "
        "in section 13. What does Pillow name first, and what SDXL?",
        "SDXL reads height, width, top, left, height, width: every pair is the other way round. "
        "Then each number is embedded for itself, and the six vectors of one picture stand side "
        "by side.",
        "`sinusoidal_embedding(numbers.flatten(), dim)` is `(b * 6, dim)`; `.reshape(b, 6 * dim)` "
        "puts the six of each picture into one row, and `pooled` comes before them.",
    ),
    solution=picture_vector,
    cases=vector_cases,
    tolerance=SIZE_DIGITS,
    mistakes=(
        Mistake(
            "as Pillow says",
            lambda pooled, originals, corners, targets, dim: told(
                pooled, six(originals, corners, targets), dim
            ),
            "You hand the pairs on as Pillow gives them, width and left first. SDXL reads height "
            "and top first. For square pictures cropped in the middle nobody would notice; a "
            "portrait would be told to be a landscape.",
        ),
        Mistake(
            "corner as Pillow says",
            lambda pooled, originals, corners, targets, dim: told(
                pooled, six(swapped(originals), corners, swapped(targets)), dim
            ),
            "The sizes are right, but the corner is still (left, top). SDXL reads top before left. "
            "You would notice heads cut off where you asked for a crop from the side.",
        ),
        Mistake(
            "sizes as Pillow says",
            lambda pooled, originals, corners, targets, dim: told(
                pooled, six(originals, swapped(corners), targets), dim
            ),
            "The corner is right, but both sizes are still (width, height). SDXL reads height "
            "before width. Square pictures would hide it; a portrait would be told to be a "
            "landscape.",
        ),
        Mistake(
            "original as Pillow says",
            lambda pooled, originals, corners, targets, dim: told(
                pooled, six(originals, swapped(corners), swapped(targets)), dim
            ),
            "Corner and target are right, but the original size is still (width, height). SDXL "
            "reads its height first, too.",
        ),
        Mistake(
            "target as Pillow says",
            lambda pooled, originals, corners, targets, dim: told(
                pooled, six(swapped(originals), swapped(corners), targets), dim
            ),
            "Original and corner are right, but the target is still (width, height). SDXL reads "
            "its height first, too. Targets are often square, and then nobody notices.",
        ),
        Mistake(
            "target before corner",
            lambda pooled, originals, corners, targets, dim: told(
                pooled, in_order(originals, targets, corners), dim
            ),
            "You put the target size before the corner. The order is original, corner, target. A "
            "corner of some hundred pixels tells the network that things are cut off.",
        ),
        Mistake(
            "pooled last",
            lambda pooled, originals, corners, targets, dim: told(
                pooled, in_order(originals, corners, targets), dim
            ).roll(-pooled.shape[1], 1),
            "Your sizes come before the pooled text. The columns of the layer behind belong to the "
            "text first.",
        ),
        Mistake(
            "all cosines, then all sines",
            lambda pooled, originals, corners, targets, dim: rearranged(
                pooled,
                in_order(originals, corners, targets),
                dim,
                lambda x: x.unflatten(-1, (2, -1)).transpose(1, 2).flatten(1),
            ),
            "You collect the cosines of all six numbers, then all sines. Every number keeps its "
            "own dim channels together: its cosines, then its sines, then the next number.",
        ),
        Mistake(
            "channel by channel",
            lambda pooled, originals, corners, targets, dim: rearranged(
                pooled,
                in_order(originals, corners, targets),
                dim,
                lambda x: x.transpose(1, 2).flatten(1),
            ),
            "You put the first channel of all six numbers first, then the second of all six. The "
            "six vectors stand one after the other.",
        ),
        Mistake(
            "pictures mixed",
            lambda pooled, originals, corners, targets, dim: torch.cat(
                [
                    pooled,
                    sinusoidal_embedding(
                        in_order(originals, corners, targets).T.flatten(), dim
                    ).reshape(len(pooled), -1),
                ],
                dim=-1,
            ),
            "You flatten number by number and cut picture by picture: all heights come first, and "
            "a row of the result holds numbers of several pictures. The shape is right, and so is "
            "a batch of one; you would notice pictures that change with their neighbours.",
        ),
        Mistake(
            "sizes from 0 to 1",
            lambda pooled, originals, corners, targets, dim: told(
                pooled, in_order(originals, corners, targets) / 1024, dim
            ),
            "You divide the sizes by 1024. SDXL was trained on pixels: between 0 and 1 the hands "
            "hardly move.",
        ),
        Mistake(
            "sines first",
            lambda pooled, originals, corners, targets, dim: rearranged(
                pooled,
                in_order(originals, corners, targets),
                dim,
                lambda x: x.roll(dim // 2, -1).flatten(1),
            ),
            "Your sines come first. Also for sizes, the cosines do.",
        ),
    ),
)

# -------------------------------------------------------------------------- 03.5 reading the clocks


def read_clocks(embedding: Tensor) -> Tensor:
    """(b, dim), the rounded embedding of b times -> the times (b,), 0 to 999, of the same dtype."""
    half = embedding.shape[1] // 2
    frequencies = 10000 ** (-torch.arange(half, dtype=embedding.dtype) / half)
    angles = torch.atan2(embedding[:, half:], embedding[:, :half])  # (b, dim/2), -π to π
    t = angles[:, -1] / frequencies[-1]  # the slowest has not gone round yet
    for i in reversed(range(half - 1)):
        turns = torch.round((t * frequencies[i] - angles[:, i]) / (2 * math.pi))
        t = (angles[:, i] + 2 * math.pi * turns) / frequencies[i]
    return t


def speeds(dim: int, divisor: int | None = None) -> Tensor:
    half = dim // 2
    return 10000 ** (-torch.arange(half, dtype=torch.float64) / (divisor or half))


def read_with(
    cosines: Tensor,
    sines: Tensor,
    w: Tensor,
    last: int = 0,
    whole: Callable[[Tensor], Tensor] = torch.round,
) -> Tensor:
    """From the slowest clock to clock number `last`."""
    angles = torch.atan2(sines, cosines)
    t = angles[:, -1] / w[-1]
    for i in reversed(range(last, len(w) - 1)):
        t = (angles[:, i] + 2 * math.pi * whole((t * w[i] - angles[:, i]) / math.tau)) / w[i]
    return t


def halves(embedding: Tensor) -> tuple[Tensor, Tensor]:
    half = embedding.shape[1] // 2
    return embedding[:, :half], embedding[:, half:]


def two_ends(embedding: Tensor) -> Tensor:
    """The slowest clock for the turns, the fastest for the rest, and none between."""
    cosines, sines = halves(embedding)
    w = speeds(embedding.shape[1])
    return read_with(cosines[:, [0, -1]], sines[:, [0, -1]], w[[0, -1]])


def only(embedding: Tensor, i: int) -> Tensor:
    cosines, sines = halves(embedding)
    return torch.atan2(sines[:, i], cosines[:, i]) / speeds(embedding.shape[1])[i]


def averaged(embedding: Tensor) -> Tensor:
    """The mean of what all clocks say, each after the slower ones."""
    cosines, sines = halves(embedding)
    w = speeds(embedding.shape[1])
    said = [read_with(cosines[:, i:], sines[:, i:], w[i:]) for i in range(len(w))]
    return torch.stack(said).mean(0)


def by_whole_turns(embedding: Tensor, signed: bool = False) -> Tensor:
    """As one reads a clock: the whole turns in the rough time, and the hand.

    signed: angles from -π to π, not from 0 to 2π.
    """
    cosines, sines = halves(embedding)
    w = speeds(embedding.shape[1])
    angles = torch.atan2(sines, cosines)
    angles = angles if signed else angles % math.tau
    t = angles[:, -1] / w[-1]
    for i in reversed(range(len(w) - 1)):
        t = (angles[:, i] + math.tau * torch.floor(t * w[i] / math.tau)) / w[i]
    return t


def by_arcsin(embedding: Tensor) -> Tensor:
    sines = halves(embedding)[1]
    cosines = (1 - sines.clamp(-1, 1) ** 2).sqrt()
    return read_with(cosines, sines, speeds(embedding.shape[1]))


def by_arctan(embedding: Tensor) -> Tensor:
    """The quotient of sine and cosine is the same for a hand and for the opposite one."""
    cosines, sines = halves(embedding)
    angles = torch.atan(sines / cosines)
    return read_with(angles.cos(), angles.sin(), speeds(embedding.shape[1]))


def by_arccos(embedding: Tensor) -> Tensor:
    cosines = halves(embedding)[0]
    sines = (1 - cosines.clamp(-1, 1) ** 2).sqrt()
    return read_with(cosines, sines, speeds(embedding.shape[1]))


def clock_cases(rng: Generator) -> Iterator[Case]:
    for b, dim in ((6, 8), (5, 32), (1, 16), (8, 6), (90, 10)):
        t = torch.rand(b, generator=rng, dtype=torch.float64)
        t = 999 * t.sqrt() if b == 1 else 999 * t
        if b > 1:
            t[0] = t[0] / 1000  # just after the beginning, and just before the end
            t[-1] = 999 - t[-1] / 1000
        if b > 50:  # moments at which a hand points straight up, or nearly
            turn = math.tau / speeds(dim)[:3].repeat(20)  # of the three fastest clocks
            t[1:61] = turn * (1 + torch.arange(60) // 3 % (990 / turn).floor()) + t[1:61] / 99900
        yield Case((waves(t[:, None] * speeds(dim)).mul(100).round() / 100,))


CLOCKS = Exercise(
    number="03.5",
    title="Reading the clocks",
    minutes=25,
    difficulty=3,
    statement="Go the other way: here is an embedding, what was the time? `embedding` is `(b, "
    "dim)`, made by Stable Diffusion's formula from times between 0 and 999, fractions included, "
    "but every number in it has been rounded to *two digits after the point*. Return the times, "
    "`(b,)`, in the `dtype` of `embedding` and as exactly as the clocks allow: a hundredth of a "
    "step. The slowest clock alone is not exact "
    "enough, and the fastest goes round every 6.28 steps: you need both, and those between them. "
    "(`dim` is at least `6`, so that the slowest clock does not get half round.)",
    hints=(
        "`torch.atan2(sine, cosine)` is the angle of a hand, between -π and π. Start with the "
        "slowest clock: it has not been round, so its angle divided by its frequency is a first, "
        "rough time.",
        "The next faster clock is more exact, but has made some whole turns that its hand does "
        "not show. The rough time tells how many: which number of turns brings the clock's time "
        "nearest to it?",
        "In a loop from slow to fast: `turns = torch.round((t * w - angle) / (2 * math.pi))`, then "
        "`t = (angle + 2 * math.pi * turns) / w`.",
    ),
    solution=read_clocks,
    cases=clock_cases,
    trained=False,
    tolerance=4e-5,
    mistakes=(
        Mistake(
            "the slowest clock only",
            lambda embedding: only(embedding, -1),
            "You read the slowest clock only. It knows roughly when it is, but two digits of its "
            "hand are several steps, often dozens. Use it to count the turns of the next faster "
            "one, and so on.",
        ),
        Mistake(
            "the fastest clock only",
            lambda embedding: only(embedding, 0) % math.tau,
            "You read the fastest clock only. It is the most exact, but it has been round up to "
            "159 times, and its hand does not show how often.",
        ),
        Mistake(
            "the two ends only",
            two_ends,
            "You go from the slowest clock straight to the fastest. The rough time is off by more "
            "than a turn of the fastest, so you count the wrong number of turns. Each clock can "
            "only tell the turns of one that is not much faster: visit them one after the other.",
        ),
        Mistake(
            "mean of all clocks",
            averaged,
            "You take the mean of what the clocks say. The slow ones are off by whole steps, and "
            "in a plain mean they count as much as the fast ones. The fastest clock, once its "
            "turns are known, is the best that there is.",
        ),
        Mistake(
            "sines and cosines exchanged",
            lambda embedding: read_with(*halves(embedding)[::-1], speeds(embedding.shape[1])),
            "You take the first half for sines. They are cosines; `torch.atan2` wants the sine "
            "first, which is easily mixed up, too.",
        ),
        Mistake(
            "in turns",
            lambda embedding: read_with(
                embedding[:, 0::2], embedding[:, 1::2], speeds(embedding.shape[1])
            ),
            "You take neighbouring channels for one clock. The sine of clock i is dim / 2 places "
            "after its cosine.",
        ),
        Mistake(
            "cosines only",
            by_arccos,
            "You use the cosines only. The cosine is the same at an angle and at its opposite: "
            "half of the time you read the hand mirrored. That is what the sine is there for.",
        ),
        Mistake(
            "sines only",
            by_arcsin,
            "You use the sines only. The sine is the same on both sides of a quarter turn: every "
            "hand that points down is read as one that points up. That is what the cosine is there "
            "for.",
        ),
        Mistake(
            "quotient of sine and cosine",
            by_arctan,
            "You take the angle from sine divided by cosine. In the quotient a hand and the "
            "opposite one are the same, since both signs cancel. `torch.atan2` takes the two "
            "numbers apart, and sees all of the circle.",
        ),
        Mistake(
            "floor of the difference",
            lambda embedding: read_with(
                *halves(embedding), speeds(embedding.shape[1]), whole=torch.floor
            ),
            "You cut the number of turns off with `floor`. The rough time is a little too early as "
            "often as too late; 2.98 turns then become 2, a whole turn too few. Take the *nearest* "
            "whole number.",
        ),
        Mistake(
            "floor of the turns",
            by_whole_turns,
            "You count the whole turns in the rough time, and then add the hand. Mostly that is "
            "right, but where a hand is near the top, the rough time cannot tell just before a "
            "full turn from just after it, and you are off by one turn. Take the number of turns "
            "that brings the clock's time *nearest* to the rough one.",
        ),
        Mistake(
            "floor of the turns, angles from -π",
            lambda embedding: by_whole_turns(embedding, signed=True),
            "You add the whole turns in the rough time to an angle that `torch.atan2` counts from "
            "-π to π: for every hand in the left half of the dial you are a turn behind. Compare "
            "times, not turns: which number of turns brings the clock's time *nearest* to the "
            "rough one?",
        ),
        Mistake(
            "without the fastest clock",
            lambda embedding: read_with(*halves(embedding), speeds(embedding.shape[1]), last=1),
            "You stop before clock 0, the fastest and most exact of all. A `range` that counts "
            "down to 0 ends at 1.",
        ),
        Mistake(
            "whole times",
            lambda embedding: read_clocks(embedding).round(),
            "You round to whole steps. Times may be fractions.",
        ),
        Mistake(
            "half - 1",
            lambda embedding: read_with(
                *halves(embedding), speeds(embedding.shape[1], embedding.shape[1] // 2 - 1)
            ),
            "Your frequencies have the divisor dim / 2 - 1; in Stable Diffusion it is dim / 2.",
        ),
    ),
)

EXERCISES = (TURN, TIMES, WEIGHTS, SIZES, CLOCKS)

# -------------------------------------------------------------------------------------------- quiz

QUESTIONS = (
    Question(
        "You run published weights with the divisor half - 1. Where are its vectors most nearly "
        "right?",
        (
            Answer(
                "Nowhere, because all frequencies but the first are wrong.",
                False,
                "They are all a little wrong, but a hand is where its frequency times t is. That "
                "needs time to go wrong.",
            ),
            Answer(
                "At large t, because the slow clocks, which count there, hardly move.",
                False,
                "The slow ones do stay right the longest. But the vector holds the others, too, "
                "and these are the further off the longer they have been running.",
            ),
            Answer(
                "At small t.",
                True,
                "All hands start at the top, whatever their speeds, and the errors grow with every "
                "step. A test with a few small times would not have found it.",
            ),
        ),
    ),
    Question(
        "The dot product of the embeddings of t and t' depends on t - t' only. Why?",
        (
            Answer(
                "Because cos a cos b + sin a sin b = cos(a - b), for every clock.",
                True,
                "For clock i that is cos(ω_i (t - t')), whatever the frequencies are. It needs "
                "both the cosine and the sine.",
            ),
            Answer(
                "Because the frequencies form a geometric sequence.",
                False,
                "It holds for any frequencies. The geometric sequence sees to it that there are "
                "clocks for small, middle and large differences.",
            ),
            Answer(
                "Because all these vectors have the same length.",
                False,
                "They have, for the same reason, but vectors of one length can have any angle "
                "between them.",
            ),
        ),
    ),
    Question(
        "A sampler asks for t = 498.4, though only whole times occurred in training. What does the "
        "network get to see?",
        (
            Answer(
                "The vector of 498, because times are rounded.",
                False,
                "Nothing rounds them (a sampler may choose to, some do). The hands of a clock also "
                "point somewhere between two ticks.",
            ),
            Answer(
                "Hands between those of 498 and of 499.",
                True,
                "Even the fastest clock turns by only one radian in a step, so the vector lies "
                "between two that the network knows. With a list of switches there would be none "
                "for 498.4.",
            ),
            Answer(
                "The mean of the vectors of 498 and 499, weighted 6 to 4.",
                False,
                "Nearly, but the tip of a hand moves on its circle, not straight across. The mean "
                "of two hands is shorter than a hand.",
            ),
        ),
    ),
)
