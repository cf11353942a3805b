"""Exercises and quiz of notebook 10, classifier-free guidance."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Generator, Tensor, nn

from sdlearn.course.grading.exercise import Answer, Case, Exercise, Mistake, Question, normal

# ------------------------------------------------------------------------------ 10.1 guided twice


def paper_w(s: float, r: float) -> float:
    """The w of the paper that guiding twice comes to, first with scale s, then with scale r."""
    scale = r * s  # uncond + r * (uncond + s * (cond - uncond) - uncond)
    return scale - 1


def twice_cases(_: Generator) -> Iterator[Case]:
    for pair in ((3.0, 2.0), (1.0, 5.0), (5.0, 1.0), (0.0, 4.0), (2.5, 0.5), (7.5, 1.5)):
        yield Case(pair)


TWICE = Exercise(
    number="10.1",
    title="Guided twice",
    minutes=6,
    difficulty=1,
    statement="A friend gives you the output of her network. You do not know that it is guided "
    "already, with scale `s` as Stable Diffusion counts. You take it for the conditional output "
    "and guide again, with scale `r` and the same unconditional output. Together that is guidance "
    "of one single scale. Return it as the *w* that Ho and Salimans would write in their paper.",
    hints=(
        "Write both steps down, one into the other, with `cond` and `uncond`, and collect what "
        "stands before the difference `cond - uncond`.",
        "Her output is `uncond + s * d` with `d = cond - uncond`. In your step it takes the place "
        "of `cond`: what is its difference from `uncond`?",
        "The difference is `s * d`, so yours is `uncond + r * s * d`. Section 2 says how such a "
        "scale becomes the paper's w.",
    ),
    solution=paper_w,
    cases=twice_cases,
    trained=False,
    mistakes=(
        Mistake(
            "not converted",
            lambda s, r: r * s,
            "This is Stable Diffusion's scale of the whole. The paper counts from the conditional "
            "output: its w = 0 is what Stable Diffusion calls 1.",
        ),
        Mistake(
            "converted the wrong way",
            lambda s, r: r * s + 1,
            "You add 1 where it must be taken away. A whole scale of 1 is the conditional output "
            "itself, for which the paper writes w = 0.",
        ),
        Mistake(
            "scales added",
            lambda s, r: s + r - 1,
            "You add the two scales. Try `s = 0`: her output is the unconditional one, so your "
            "step finds no difference to enlarge, whatever `r` is. Scales multiply.",
        ),
        Mistake(
            "two w added",
            lambda s, r: s + r - 2,
            "You turn each scale into a w and add them. What the second step enlarges is not the "
            "difference `cond - uncond` but one that is `s` times as long.",
        ),
        Mistake(
            "two w multiplied",
            lambda s, r: (s - 1) * (r - 1),
            "You turn both scales into w first and then multiply. It is the scales, counted from "
            "the unconditional output, that multiply; convert once, at the end.",
        ),
        Mistake(
            "from the conditional output",
            lambda s, r: r * (s - 1),
            "Your second step starts from the conditional output, as if that had taken the place "
            "of the unconditional one. Both steps start from `uncond`.",
        ),
        Mistake(
            "the paper's r",
            lambda s, r: (1 + r) * s - 1,
            "You take `r` for a w of the paper, which would mean one more of the difference. Both "
            "scales are given as Stable Diffusion counts; only the answer is not.",
        ),
        Mistake(
            "only the second converted",
            lambda s, r: s * (r - 1),
            "You take 1 from `r` before you multiply. The whole is r times s of the difference; "
            "of this product 1 is taken away.",
        ),
    ),
)

# --------------------------------------------------------------- 10.2 several prompts in one call


def steered(
    model: nn.Module, z: Tensor, t: Tensor, empty: Tensor, prompts: Tensor, scales: list[float]
) -> Tensor:
    """z (b, c, h, w), t (b,), empty (b, n, d), prompts (k, b, n, d) -> (b, c, h, w), one call."""
    k = len(prompts) + 1
    outputs = model(torch.cat([z] * k), torch.cat([t] * k), torch.cat([empty, *prompts]))
    without, *given = outputs.chunk(k)
    steps = [scale * (one - without) for scale, one in zip(scales, given, strict=True)]
    return without + torch.stack(steps).sum(dim=0)


class SmallNetwork(nn.Module):
    """Some function of (z, t, context) that treats every row alike.

    rows: None, or the only number of rows that it takes.
    """

    def __init__(self, rows: int | None = None) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        if self.rows is not None and not len(z) == len(t) == len(context) == self.rows:
            raise ValueError("this network takes only one call with the rows of all prompts")
        told, later = (x.view(-1, 1, 1, 1) for x in (context.sin().mean(dim=(1, 2)), t / 100))
        return (z + 3 * told).tanh() * (1 + later) + context.var(dim=(1, 2)).view(-1, 1, 1, 1)


def steered_cases(rng: Generator) -> Iterator[Case]:
    for rows, b, scales, shape, size in (
        (None, 2, [3.0, -2.0], (4, 5, 3), (7, 6)),
        (None, 3, [5.0, 2.0, 0.5], (3, 3, 3), (3, 3)),
        (8, 2, [1.5, 4.0, -1.0], (4, 3, 6), (5, 4)),
        (2, 1, [7.5], (4, 2, 3), (4, 5)),
    ):
        t = 999 * torch.rand(b, generator=rng, dtype=torch.float64)
        empty, prompts = normal(rng, b, *size), normal(rng, len(scales), b, *size)
        yield Case((SmallNetwork(rows), normal(rng, b, *shape), t, empty, prompts, scales))


def combined(
    model: nn.Module, z: Tensor, t: Tensor, empty: Tensor, prompts: Tensor
) -> tuple[Tensor, Tensor]:
    """Of one call: the output without a prompt (b, ...), and those with one, (k, b, ...)."""
    k = len(prompts) + 1
    outputs = model(torch.cat([z] * k), torch.cat([t] * k), torch.cat([empty, *prompts]))
    return outputs[: len(z)], outputs[len(z) :].unflatten(0, (k - 1, len(z)))


def weighed(given: Tensor, scales: Sequence[float]) -> Tensor:
    """The weighted sum over the prompts, (k, b, ...) -> (b, ...)."""
    return torch.stack([scale * one for scale, one in zip(scales, given, strict=True)]).sum(0)


def steered_with(
    make: Callable[[Tensor, Tensor, Sequence[float]], Tensor],
) -> Callable[..., Tensor]:
    """A mistake that makes its result of the right outputs: (without, given, scales) -> result."""

    def wrong(
        model: nn.Module, z: Tensor, t: Tensor, empty: Tensor, prompts: Tensor, scales: list[float]
    ) -> Tensor:
        return make(*combined(model, z, t, empty, prompts), scales)

    return wrong


def nested(without: Tensor, given: Tensor, scales: Sequence[float]) -> Tensor:
    for scale, one in zip(scales, given, strict=True):
        without = without + scale * (one - without)
    return without


def call_by_call(
    model: nn.Module, z: Tensor, t: Tensor, empty: Tensor, prompts: Tensor, scales: list[float]
) -> Tensor:
    without = model(z, t, empty)
    given = torch.stack([model(z, t, prompt) for prompt in prompts])
    return without + weighed(given - without, scales)


def rows_mixed(
    model: nn.Module, z: Tensor, t: Tensor, empty: Tensor, prompts: Tensor, scales: list[float]
) -> Tensor:
    k = len(prompts) + 1
    both = torch.cat([empty, *prompts])
    without, *given = model(z.repeat_interleave(k, 0), t.repeat_interleave(k), both).chunk(k)
    return without + weighed(torch.stack(given) - without, scales)


def times_mixed(
    model: nn.Module, z: Tensor, t: Tensor, empty: Tensor, prompts: Tensor, scales: list[float]
) -> Tensor:
    k = len(prompts) + 1
    both = torch.cat([empty, *prompts])
    without, *given = model(torch.cat([z] * k), t.repeat_interleave(k), both).chunk(k)
    return without + weighed(torch.stack(given) - without, scales)


def parted_across(
    model: nn.Module, z: Tensor, t: Tensor, empty: Tensor, prompts: Tensor, scales: list[float]
) -> Tensor:
    k = len(prompts) + 1
    outputs = model(torch.cat([z] * k), torch.cat([t] * k), torch.cat([empty, *prompts]))
    without, *given = outputs.unflatten(0, (len(z), k)).unbind(1)
    return without + weighed(torch.stack(given) - without, scales)


def words_mixed(
    model: nn.Module, z: Tensor, t: Tensor, empty: Tensor, prompts: Tensor, scales: list[float]
) -> Tensor:
    mean = weighed(prompts, scales) / sum(scales)
    without, given = model(torch.cat([z, z]), torch.cat([t, t]), torch.cat([empty, mean])).chunk(2)
    return without + sum(scales) * (given - without)


STEERED = Exercise(
    number="10.2",
    title="Several prompts, one call",
    minutes=15,
    difficulty=2,
    statement="Guidance can follow several prompts at once, each with a scale of its own, as "
    "[composable diffusion](https://arxiv.org/abs/2206.01714) does: to the output without a prompt "
    "add, for every prompt, its scale times how its output differs from that. A negative scale "
    "leads away. Ask the network **once**, with all rows in one batch (some networks of the check "
    "refuse any other call). `model(z, t, context)` takes any number of rows, and as many times "
    "and contexts; `prompts` holds one context for each of them.",
    hints=(
        "With k prompts there are k + 1 outputs to be had, each for the same `z` and `t`. How many "
        "rows has the one batch, and which row belongs to which prompt?",
        "`torch.cat([z] * (k + 1))`, the same for `t`, and `torch.cat([empty, *prompts])` agree "
        "row by row. `.chunk(k + 1)` takes the output apart in the same order.",
        "The first part is `without`. The result is `without` plus the sum of "
        "`scale * (one - without)` over the other parts.",
    ),
    solution=steered,
    cases=steered_cases,
    mistakes=(
        Mistake(
            "from the wrong side",
            steered_with(lambda without, given, scales: without + weighed(without - given, scales)),
            "Your differences have the wrong sign, so every prompt is led away from, and a "
            "negative one is followed. It is `one - without`.",
        ),
        Mistake(
            "the parts swapped",
            steered_with(
                lambda without, given, scales: (
                    given[0] + weighed(torch.cat([given[1:], without[None]]) - given[0], scales)
                )
            ),
            "You take the first prompt's output for the one without a prompt. Take the parts out "
            "of the batch in the order in which you put them in.",
        ),
        Mistake(
            "the paper's w",
            steered_with(
                lambda without, given, scales: (
                    without + weighed(given - without, [1 + scale for scale in scales])
                )
            ),
            "Every prompt counts once too often, as if `scales` were the paper's w. A scale of 0 "
            "must leave a prompt without any influence.",
        ),
        Mistake(
            "nothing to start from",
            steered_with(lambda without, given, scales: weighed(given - without, scales)),
            "You add up the differences and forget what they are added to. With all scales 0 the "
            "result must be the output without a prompt, and yours is 0.",
        ),
        Mistake(
            "outputs for differences",
            steered_with(lambda without, given, scales: without + weighed(given, scales)),
            "You add whole outputs, not differences. All of them contain the noise that is in z "
            "anyway, so yours has it many times over.",
        ),
        Mistake(
            "the mean",
            steered_with(
                lambda without, given, scales: (
                    without + weighed(given - without, scales) / len(scales)
                )
            ),
            "You divide by the number of prompts. Then a prompt weighs less only because there is "
            "another one; the scales already say how much each one counts.",
        ),
        Mistake(
            "guided outputs added",
            steered_with(
                lambda without, given, scales: (
                    len(scales) * without + weighed(given - without, scales)
                )
            ),
            "You add up one guided output for each prompt, and each of them contains the output "
            "without a prompt. It belongs into the sum once; only the differences are added up.",
        ),
        Mistake(
            "all alike",
            steered_with(
                lambda without, given, scales: without + sum(scales) * (given.mean(0) - without)
            ),
            "You multiply the mean of all differences by the sum of all scales, so every prompt "
            "counts alike. Each has a scale of its own: multiply first, then add.",
        ),
        Mistake(
            "one after the other",
            steered_with(nested),
            "You guide the guided output again for each prompt, so that the later ones also "
            "enlarge what the earlier ones did, and the order matters. All differences are taken "
            "from the same output, the one without a prompt.",
        ),
        Mistake(
            "call by call",
            call_by_call,
            "The numbers are right, but you call the network more than once. One call with all "
            "rows gives the same and lets the machine do them side by side.",
        ),
        Mistake(
            "rows mixed",
            rows_mixed,
            "Your rows do not belong together: `repeat_interleave` puts the copies of a row side "
            "by side, while the contexts come prompt after prompt. With a batch of one nobody "
            "would notice.",
        ),
        Mistake(
            "times mixed",
            times_mixed,
            "Your times do not fit the rows: `repeat_interleave` puts the copies of a time side by "
            "side, while z is repeated as a whole. Repeat both in the same way.",
        ),
        Mistake(
            "parted across",
            parted_across,
            "You take the output apart as if all that belongs to one example stood side by side. "
            "The rows come prompt after prompt, b rows each: the first axis is (k + 1, b), not "
            "(b, k + 1).",
        ),
        Mistake(
            "words mixed",
            words_mixed,
            "You mix the contexts and ask once for the mixture. What the network answers to a mean "
            "of prompts is not the mean of its answers.",
        ),
        Mistake(
            "the last alone",
            steered_with(
                lambda without, given, scales: without + scales[-1] * (given[-1] - without)
            ),
            "Only the last prompt counts: your sum is overwritten on the way, or only one "
            "difference is added.",
        ),
    ),
)

# --------------------------------------------------------------------------- 10.3 a sharpened bell


def sharpened_bell(
    m: Tensor, v: Tensor, m_c: Tensor, v_c: Tensor, s: float
) -> tuple[Tensor, Tensor]:
    """Mean and variance of p(z) p(c|z)^s; p(z) has mean m, variance v, and p(z|c) has m_c, v_c."""
    precision = s / v_c + (1 - s) / v
    mean = (s * m_c / v_c + (1 - s) * m / v) / precision
    return mean, 1 / precision


def bell_cases(rng: Generator) -> Iterator[Case]:
    for size, s in ((5, 3.0), (1, 1.0), (4, 0.0), (6, 7.5), (3, 0.5)):
        v = 1 + torch.rand(size, generator=rng, dtype=torch.float64)
        v_c = 0.2 + 0.7 * torch.rand(size, generator=rng, dtype=torch.float64)
        yield Case((normal(rng, size), v, normal(rng, size), v_c, s))


def bell(
    own: Callable[[float], float] = lambda s: s,
    rest: Callable[[float], float] = lambda s: 1 - s,
    given: Callable[[Tensor], Tensor] = lambda v: v,
    divided: bool = True,
    spread: Callable[[Tensor], Tensor] = lambda precision: 1 / precision,
) -> Callable[..., tuple[Tensor, Tensor]]:
    """The right answer but for the exponents, what is taken for v, or what is returned."""

    def wrong(m: Tensor, v: Tensor, m_c: Tensor, v_c: Tensor, s: float) -> tuple[Tensor, Tensor]:
        v, v_c = given(v), given(v_c)
        precision = own(s) / v_c + rest(s) / v
        mean = own(s) * m_c / v_c + rest(s) * m / v
        return mean / precision if divided else mean, spread(precision)

    return wrong


BELL = Exercise(
    number="10.3",
    title="A sharpened bell",
    minutes=12,
    difficulty=2,
    statement="The sharpened density of section 4 needs no grid where both densities are bells. "
    "Let $p(z)$ be normal with mean `m` and variance `v`, and $p(z|c)$ with mean `m_c` and "
    "variance `v_c`, smaller than `v`. Then $p(z)\\,p(c|z)^s$, scaled to area one, is a bell, too. "
    "Return its mean and its variance.",
    hints=(
        "First get rid of p(c|z): by Bayes's rule it is p(z|c) over p(z), but for a constant. "
        "Which powers of p(z|c) and of p(z) are left?",
        "The logarithm of a bell is `-((z - m) ** 2) / (2 * v)` and a constant. A sum of such "
        "parabolas is a parabola: what stands before z², and what before z?",
        "The powers are `s` and `1 - s`, so the precision, one over the variance, is "
        "`s / v_c + (1 - s) / v`. Before z stands the precision times the mean: collect what "
        "stands there in the same way.",
    ),
    solution=sharpened_bell,
    cases=bell_cases,
    mistakes=(
        Mistake(
            "p(z|c) for p(c|z)",
            bell(rest=lambda s: 1.0),
            "You multiply p(z) with the s-th power of p(z|c). It is p(c|z) that has the power, and "
            "it is p(z|c) divided by p(z): so p(z) has the power 1 - s. At s = 1 the result must "
            "be p(z|c).",
        ),
        Mistake(
            "the paper's w",
            bell(lambda s: 1 + s, lambda s: -s),
            "Your powers are 1 + s and -s, as for the paper's w. At s = 1 the result must be "
            "p(z|c) itself.",
        ),
        Mistake(
            "powers swapped",
            bell(lambda s: 1 - s, lambda s: s),
            "You have the two densities the wrong way round: at s = 1 the result must be p(z|c), "
            "and at s = 0 it must be p(z).",
        ),
        Mistake(
            "means and variances moved",
            lambda m, v, m_c, v_c, s: (m + s * (m_c - m), v + s * (v_c - v)),
            "You go from `m` to `m_c` and on, and the same with the variances, which are soon "
            "negative. Logarithms of densities are added here, so it is the *inverse* variances "
            "that go on in a straight line.",
        ),
        Mistake(
            "mean moved",
            lambda m, v, m_c, v_c, s: (m + s * (m_c - m), 1 / (s / v_c + (1 - s) / v)),
            "Your variance is right. The mean is not `m + s * (m_c - m)`: each mean counts as much "
            "as its bell is narrow, with s / v_c and (1 - s) / v.",
        ),
        Mistake(
            "means not weighted",
            lambda m, v, m_c, v_c, s: (
                (s * m_c + (1 - s) * m) / (s / v_c + (1 - s) / v),
                1 / (s / v_c + (1 - s) / v),
            ),
            "Your variance is right. In the mean you divide by the precision, but you do not "
            "weight the two means with theirs: it is `s * m_c / v_c + (1 - s) * m / v` that is "
            "divided. The symptom: at s = 1 the mean is not `m_c`.",
        ),
        Mistake(
            "means weighted by variances",
            lambda m, v, m_c, v_c, s: (
                (s * m_c * v_c + (1 - s) * m * v) / (s * v_c + (1 - s) * v),
                1 / (s / v_c + (1 - s) / v),
            ),
            "Your variance is right. You weight the means with the variances, so that the wider "
            "bell counts more. It is the narrow one that says more about where z is: divide by "
            "the variances.",
        ),
        Mistake(
            "mean not divided",
            bell(divided=False),
            "Your variance is right. What stands before z in the exponent is the mean times the "
            "precision: divide by it.",
        ),
        Mistake(
            "the precision",
            bell(spread=lambda precision: precision),
            "Your second result is the precision, one over the variance.",
        ),
        Mistake(
            "the standard deviation",
            bell(spread=lambda precision: precision**-0.5),
            "Your second result is the standard deviation; asked for is its square, the variance.",
        ),
        Mistake(
            "results swapped",
            lambda m, v, m_c, v_c, s: sharpened_bell(m, v, m_c, v_c, s)[::-1],
            "Both numbers are right, but you return the variance first. The mean comes first, then "
            "the variance.",
        ),
        Mistake(
            "squared variances",
            bell(given=lambda v: v**2),
            "You square `v` and `v_c`, which are variances, squares already.",
        ),
        Mistake(
            "what the sampler gives",
            lambda m, v, m_c, v_c, s: (
                (s * m_c / v_c + (1 - s) * m / v) / (s / v_c + (1 - s) / v),
                v_c**s * v ** (1 - s),
            ),
            "Your variance is the one of section 8, what a guided *walk* makes of two bells. The "
            "sharpened density is wider: its precision is s / v_c + (1 - s) / v.",
        ),
    ),
)

# ------------------------------------------------------------------ 10.4 every row its own noise


def guided_rows(
    without: Tensor,
    given: Tensor,
    t: Tensor,
    alphabar: Tensor,
    interval: tuple[float, float],
    scale: float,
) -> Tensor:
    """Outputs (b, c, h, w), t (b,) int64, alphabar (T,) -> (b, c, h, w), each row guided or not."""
    ratio = ((1 - alphabar[t]) / alphabar[t]).sqrt()  # (b,)
    inside = (interval[0] <= ratio) & (ratio <= interval[1])
    scales = given.new_ones(len(t)).masked_fill(inside, scale)  # in the dtype of the outputs
    return without + scales.view(-1, 1, 1, 1) * (given - without)


def rows_cases(rng: Generator) -> Iterator[Case]:
    last = 0.03 + 0.04 * torch.rand(1, generator=rng, dtype=torch.float64)
    betas = torch.linspace(0.02, 1, 200, dtype=torch.float64) * last
    alphabar = torch.cumprod(1 - betas, dim=0)
    # Two levels lie on an end of an interval, and every way of computing them, in any precision,
    # agrees there: 1 on the larger end, with alphabar = 1/2, and 0 on the smaller one, with no
    # noise at all. No other row comes near an end, and every scale is the same in float32.
    end = int((alphabar - 0.5).abs().argmin())
    alphabar[end], alphabar[0] = 0.5, 1.0
    level = (1 / alphabar - 1).sqrt()
    times = [
        ([*range(4, 200, 15), end], (2, 3, 4), (0.5, 1.0), 3.0),
        ([199, 60, 5, 80], (4, 4, 4), (0.3, 3.0), 5.0),  # as many rows as channels, rows, columns
        ([90], (3, 5, 2), (0.2, 5.0), 7.5),
        ([50, 9, 150, 0, 75, 30], (2, 3, 3), (0.0, 0.6), 0.0),
        ([20, 199, end, 180, 7], (3, 2, 4), (0.7, 1.6), -1.5),
    ]
    for t, shape, interval, scale in times:
        t = [k for k in t if k in (0, end) or all((level[k] - e).abs() > 0.005 for e in interval)]
        size = (len(t), *shape)
        rows = torch.tensor(t)[torch.randperm(len(t), generator=rng)]
        yield Case((normal(rng, *size), normal(rng, *size), rows, alphabar, interval, scale))


def rows_with(
    level: Callable[[Tensor, Tensor], Tensor] = lambda abar, t: ((1 - abar) / abar).sqrt(),
    outside: float = 1.0,
    within: Callable[[float], float] = lambda scale: scale,
    shape: tuple[int, ...] = (-1, 1, 1, 1),
    between: Callable[[Tensor, float, float], Tensor] = lambda seen, lo, hi: (
        (lo <= seen) & (seen <= hi)
    ),
) -> Callable[..., Tensor]:
    """The right answer but for what is held against the interval, or what is done there."""

    def wrong(
        without: Tensor,
        given: Tensor,
        t: Tensor,
        alphabar: Tensor,
        interval: tuple[float, float],
        scale: float,
    ) -> Tensor:
        inside = between(level(alphabar[t], t), *interval)
        scales = given.new_full(inside.shape, outside).masked_fill(inside, within(scale))
        scales = scales.view(shape) if shape else scales[0]
        return without + scales * (given - without)

    return wrong


ROWS = Exercise(
    number="10.4",
    title="Every row its own noise",
    minutes=15,
    difficulty=2,
    statement="The interval of section 6 asks for the time of the first row alone, since a sampler "
    "has one time for all. Write it for a batch in which every row has its own time `t`, and with "
    "the interval in the unit of the paper: not in t but in the noise level $\\sigma / \\alpha$. "
    "`alphabar` is the schedule's table, of which `alphabar[t]` is $\\alpha^2$. Rows inside the "
    "interval, its ends included, are guided with `scale`; for all others the prompt is followed "
    "without guidance.",
    hints=(
        "Find one number for each row first: its scale. What is the scale of a row that follows "
        "the prompt without guidance?",
        "σ² is 1 - α², so the noise level is the square root of `(1 - a) / a` with "
        "`a = alphabar[t]`, a number for each row.",
        "`torch.where(inside, scale, 1.0)` has the shape (b,). Give it three more axes, "
        "`.view(-1, 1, 1, 1)`, before it meets the difference (b, c, h, w).",
    ),
    solution=guided_rows,
    cases=rows_cases,
    mistakes=(
        Mistake(
            "no prompt outside",
            rows_with(outside=0.0),
            "Outside the interval you return the output without the prompt: a scale of 0. Guidance "
            "is off at 1, where the conditional output stands alone.",
        ),
        Mistake(
            "the wrong rows",
            rows_with(between=lambda seen, lo, hi: (seen < lo) | (seen > hi)),
            "You guide the rows outside the interval and leave those inside alone.",
        ),
        Mistake(
            "without the ends",
            rows_with(between=lambda seen, lo, hi: (lo < seen) & (seen < hi)),
            "Your interval lacks its ends. They belong to it, so compare with `<=` on both sides.",
        ),
        Mistake(
            "without the larger end",
            rows_with(between=lambda seen, lo, hi: (lo <= seen) & (seen < hi)),
            "Your interval lacks its larger end, as Python's ranges do. Here both ends belong to "
            "it: compare with `<=` on both sides.",
        ),
        Mistake(
            "one side alone",
            rows_with(between=lambda seen, lo, hi: seen <= hi),
            "You compare with the larger end alone, so rows with very little noise are guided, "
            "too. The interval has two ends.",
        ),
        Mistake(
            "no root",
            rows_with(lambda abar, t: (1 - abar) / abar),
            "You compare σ² / α², the square of the noise level: a root is missing.",
        ),
        Mistake(
            "signal over noise",
            rows_with(lambda abar, t: (abar / (1 - abar)).sqrt()),
            "Your ratio is upside down: α / σ is large where there is little noise.",
        ),
        Mistake(
            "sigma alone",
            rows_with(lambda abar, t: (1 - abar).sqrt()),
            "You compare sigma, which is never above 1. The paper's noise level is measured beside "
            "a clean latent of full size, z_0 + (σ / α) eps.",
        ),
        Mistake(
            "alphabar for alpha",
            rows_with(lambda abar, t: (1 - abar**2).sqrt() / abar),
            "You take `alphabar` for alpha. It is its square: alpha is the root of alphabar, and "
            "sigma the root of 1 - alphabar.",
        ),
        Mistake(
            "sigma over alphabar",
            rows_with(lambda abar, t: (1 - abar).sqrt() / abar),
            "You divide sigma by `alphabar[t]`, which is the *square* of alpha. The noise level is "
            "σ / α: take the root below, too.",
        ),
        Mistake(
            "times against levels",
            rows_with(lambda abar, t: t.double()),
            "You hold the times against the interval, which is given in noise levels. Look the "
            "level up: `alphabar[t]`.",
        ),
        Mistake(
            "the first row for all",
            rows_with(shape=()),
            "Your first row decides for all of them. A sampler would not notice, for its rows have "
            "one time; here every row has its own.",
        ),
        Mistake(
            "scales along the width",
            rows_with(shape=(-1,)),
            "Your scales meet the last axis: column number k gets the scale of row number k of the "
            "batch. With as many columns as rows nobody complains. Give them three more axes.",
        ),
        Mistake(
            "the paper's w",
            rows_with(within=lambda scale: 1 + scale),
            "Inside the interval you guide by 1 too much, as if `scale` were the paper's w.",
        ),
        Mistake(
            "led away",
            rows_with(within=lambda scale: 1 - scale),
            "Inside the interval you go from the conditional output towards the one without a "
            "prompt, and beyond it. It is the other way round: `without + scale * (given - "
            "without)`.",
        ),
        Mistake(
            "everywhere",
            lambda without, given, t, alphabar, interval, scale: (
                without + scale * (given - without)
            ),
            "On all of these inputs every row comes out guided, also those outside the interval. "
            "Either the interval is not used, or what you compare with it is not the noise level "
            "σ / α, so that all rows seem to be inside. The symptom: the scale acts from the first "
            "step to the last.",
        ),
        Mistake(
            "nowhere",
            lambda without, given, t, alphabar, interval, scale: 1 * given,
            "On all of these inputs no row comes out guided, also those inside the interval: they "
            "are the conditional outputs. What you compare with the interval is not the noise "
            "level σ / α, so that no row seems to be inside. Look the level up: `alphabar[t]`.",
        ),
    ),
)

# --------------------------------------------------------------------- 10.5 rescale the estimate


def rescaled_noise(
    z: Tensor, output: Tensor, cond: Tensor, alpha: float, sigma: float, phi: float
) -> Tensor:
    """Noise: guided `output` and `cond`, like z (b, c, h, w), -> noise of the rescaled z_0."""
    z_0, goal = ((z - sigma * eps) / alpha for eps in (output, cond))
    over = (1, 2, 3)
    ratio = goal.std(dim=over, keepdim=True) / z_0.std(dim=over, keepdim=True)
    z_0 = z_0 * (phi * ratio + 1 - phi)
    return (z - alpha * z_0) / sigma


def noise_cases(rng: Generator) -> Iterator[Case]:
    for size, alpha, phi in (
        ((2, 4, 6, 5), 0.8, 0.7),
        ((1, 3, 4, 4), 0.28, 1.0),
        ((3, 3, 3, 3), 0.6, 0.4),
        ((2, 2, 5, 3), 0.96, 0.7),
    ):
        sigma = (1 - alpha**2) ** 0.5
        clean = normal(rng, *size) + 0.5
        cond, more = normal(rng, *size), normal(rng, *size)
        growing = 1 + torch.arange(size[0], dtype=torch.float64).view(-1, 1, 1, 1)
        yield Case((alpha * clean + sigma * cond, cond + growing * more, cond, alpha, sigma, phi))


def factor_of(goal: Tensor, mine: Tensor, phi: float, over: tuple[int, ...] = (1, 2, 3)) -> Tensor:
    ratio = goal.std(dim=over, keepdim=True) / mine.std(dim=over, keepdim=True)
    return phi * ratio + 1 - phi


def noise_with(
    estimate: Callable[[Tensor, Tensor, float], Tensor] = lambda z_0, goal, phi: (
        z_0 * factor_of(goal, z_0, phi)
    ),
    back: Callable[[Tensor, Tensor, float, float], Tensor] = lambda z, z_0, a, s: (z - a * z_0) / s,
) -> Callable[..., Tensor]:
    """The right answer but for what is done to the estimate, or the way back to noise."""

    def wrong(
        z: Tensor, output: Tensor, cond: Tensor, alpha: float, sigma: float, phi: float
    ) -> Tensor:
        z_0, goal = ((z - sigma * eps) / alpha for eps in (output, cond))
        return back(z, estimate(z_0, goal, phi), alpha, sigma)

    return wrong


def velocity_rescaled(
    z: Tensor, output: Tensor, cond: Tensor, alpha: float, sigma: float, phi: float
) -> Tensor:
    v, goal = (alpha * eps - sigma * (z - sigma * eps) / alpha for eps in (output, cond))
    return alpha * v * factor_of(goal, v, phi) + sigma * z


NOISE = Exercise(
    number="10.5",
    title="Rescale the estimate",
    minutes=20,
    difficulty=3,
    statement="Section 8 shows that rescaling the *noise* does not tame the picture. So rescale "
    "what is a picture: the estimate of $z_0$. You are given the noise of a guided output "
    "and of the conditional one. Give the $z_0$ of the guided output the spread of the "
    "conditional $z_0$, "
    "each example for itself and blended by `phi` as in section 8, and return the *noise* that "
    "belongs to this $z_0$, so that any sampler can go on with it.",
    hints=(
        "There are three steps: from noise to estimates, for both outputs; the rescaling; and from "
        "the new estimate back to noise. All of it is in z = α z_0 + σ eps.",
        "The estimates are `(z - sigma * eps) / alpha`. Their spreads are taken over (c, h, w), "
        "as in `rescaled`, which you may also copy from section 8.",
        "With the new estimate the noise is `(z - alpha * z_0) / sigma`: the part of z that is "
        "left when the picture is taken away.",
    ),
    solution=rescaled_noise,
    cases=noise_cases,
    mistakes=(
        Mistake(
            "the noise rescaled",
            lambda z, output, cond, alpha, sigma, phi: output * factor_of(cond, output, phi),
            "You rescale the noise itself, which is what section 8 found wanting. Turn both "
            "outputs into estimates of z_0 first.",
        ),
        Mistake(
            "an estimate returned",
            noise_with(back=lambda z, z_0, alpha, sigma: z_0),
            "You return the new estimate of z_0. It is the right one, but the sampler takes it "
            "for noise: solve z = α z_0 + σ eps for the noise.",
        ),
        Mistake(
            "alpha forgotten on the way back",
            noise_with(back=lambda z, z_0, alpha, sigma: (z - z_0) / sigma),
            "On the way back you take away all of z_0. In z there is only alpha times of it.",
        ),
        Mistake(
            "sigma forgotten on the way back",
            noise_with(back=lambda z, z_0, alpha, sigma: z - alpha * z_0),
            "On the way back you do not divide by sigma: what is left of z is sigma times the "
            "noise.",
        ),
        Mistake(
            "alpha forgotten on the way there",
            noise_with(
                lambda z_0, goal, phi: z_0 * factor_of(goal, z_0, phi),
                lambda z, z_0, alpha, sigma: (z - alpha * (alpha * z_0)) / sigma,
            ),
            "Your estimate is `z - sigma * eps`, which is alpha times z_0. Divide by alpha, or "
            "else do not multiply by it on the way back.",
        ),
        Mistake(
            "the factor of the noise",
            lambda z, output, cond, alpha, sigma, phi: (
                (z - (z - sigma * output) * factor_of(cond, output, phi)) / sigma
            ),
            "You multiply z_0 with the factor that the *noise* would need. Take the spreads of the "
            "two estimates.",
        ),
        Mistake(
            "the velocity rescaled",
            velocity_rescaled,
            "You rescale the velocity. That tames the contrast in section 8, but here it is the "
            "estimate of z_0 itself that must have the spread of the conditional one.",
        ),
        Mistake(
            "the noise factor of z_0",
            lambda z, output, cond, alpha, sigma, phi: (
                output * factor_of((z - sigma * cond) / alpha, (z - sigma * output) / alpha, phi)
            ),
            "You find the right factor from the estimates, and then multiply the noise with it. It "
            "belongs to z_0; the noise follows from that.",
        ),
        Mistake(
            "alpha and sigma exchanged",
            lambda z, output, cond, alpha, sigma, phi: rescaled_noise(
                z, output, cond, sigma, alpha, phi
            ),
            "alpha and sigma have changed places: alpha goes with the picture, sigma with the "
            "noise.",
        ),
        Mistake(
            "the whole batch",
            noise_with(lambda z_0, goal, phi: z_0 * factor_of(goal, z_0, phi, (0, 1, 2, 3))),
            "You take one spread for the whole batch. Then a picture depends on those that are "
            "made beside it; leave the first axis out.",
        ),
        Mistake(
            "each channel for itself",
            noise_with(lambda z_0, goal, phi: z_0 * factor_of(goal, z_0, phi, (2, 3))),
            "You rescale every channel for itself, which changes the colours against each other. "
            "The spread is taken over (c, h, w) together.",
        ),
        Mistake(
            "the channels alone",
            noise_with(lambda z_0, goal, phi: z_0 * factor_of(goal, z_0, phi, (1,))),
            "You take the spread over the channels of each position. The picture's contrast lies "
            "between its positions as well: take it over (c, h, w).",
        ),
        Mistake(
            "ratio upside down",
            noise_with(lambda z_0, goal, phi: z_0 * factor_of(z_0, goal, phi)),
            "Your ratio is upside down: where guidance has made the spread too large, you make it "
            "larger still.",
        ),
        Mistake(
            "phi reversed",
            noise_with(lambda z_0, goal, phi: z_0 * factor_of(goal, z_0, 1 - phi)),
            "Your blend is reversed: phi = 0 must leave the estimate as it is, and phi = 1 rescale "
            "it fully.",
        ),
        Mistake(
            "no blend",
            noise_with(lambda z_0, goal, phi: z_0 * factor_of(goal, z_0, 1.0)),
            "You rescale fully, whatever `phi` is: it should blend the estimate with the "
            "rescaled one.",
        ),
        Mistake(
            "variances",
            noise_with(
                lambda z_0, goal, phi: (
                    z_0
                    * (
                        phi * goal.var((1, 2, 3), keepdim=True) / z_0.var((1, 2, 3), keepdim=True)
                        + 1
                        - phi
                    )
                )
            ),
            "You divide variances. A factor on numbers changes their variance by its square: take "
            "the standard deviations.",
        ),
        Mistake(
            "around the mean",
            noise_with(
                lambda z_0, goal, phi: (
                    z_0.mean((1, 2, 3), keepdim=True)
                    + (z_0 - z_0.mean((1, 2, 3), keepdim=True)) * factor_of(goal, z_0, phi)
                )
            ),
            "You stretch around the mean and keep it. The spreads come out right, but the paper "
            "multiplies the whole output with one factor, its mean included.",
        ),
    ),
)

# ------------------------------------------------------------------------------------- the quiz

QUESTIONS = (
    Question(
        "You give Stable Diffusion a negative prompt and set the guidance scale to 1. What does "
        "the negative prompt do?",
        (
            Answer(
                "It is led away from, but only a little.",
                False,
                "Put scale 1 into uncond + scale · (cond − uncond): nothing of `uncond` is left, "
                "not even a little.",
            ),
            Answer(
                "It is mixed with the prompt in equal parts.",
                False,
                "That would be scale 0.5. At 1 the output is the conditional one alone.",
            ),
            Answer(
                "Nothing.",
                True,
                "At scale 1 the output is `cond`. What stands in the place of the empty prompt "
                "need not even be computed.",
            ),
        ),
    ),
    Question(
        "Guided with scale 3, nearly no grown cats are drawn, though the sharpened density has "
        "many. What would bring them back?",
        (
            Answer(
                "Not guiding at the noisiest times.",
                True,
                "Where humps are not yet apart, guidance pushes everybody away from the dogs, and "
                "so decides who becomes a kitten. Later on it can only correct those who are near "
                "the dogs.",
            ),
            Answer(
                "Many more steps of the sampler.",
                False,
                "Section 4 tried it. More steps follow the guided flow more exactly, and this flow "
                "leads elsewhere.",
            ),
            Answer(
                "A network with smaller errors.",
                False,
                "The network on the line has no errors at all: it is a formula.",
            ),
        ),
    ),
    Question(
        "A network was trained on captions alone, without caption dropout. What goes wrong when "
        "you guide it with the empty prompt?",
        (
            Answer(
                "It needs a second network, for guidance always needs two.",
                False,
                "One network answers twice. Training two is possible and was done, but is not "
                "needed.",
            ),
            Answer(
                "It never learnt what all pages together are like, so the difference leads "
                "somewhere.",
                True,
                "To the network the empty prompt is a strange caption, and its answer is not "
                "the score of p(z). The difference of the two is then no longer the gradient of "
                "log p(c|z), and longer steps along it make that worse.",
            ),
            Answer(
                "Nothing: an empty text carries no information, so the answer is the "
                "unconditional one.",
                False,
                "Its states are vectors like all others, far from zero. What the network makes of "
                "them it must have learnt.",
            ),
        ),
    ),
)

EXERCISES = (TWICE, STEERED, BELL, ROWS, NOISE)
