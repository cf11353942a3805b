"""Exercises and quiz of notebook 07, the noise schedule."""

from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor

from sdlearn.course.grading.exercise import Answer, Case, Exercise, Mistake, Question, normal
from sdlearn.schedule import NoiseSchedule

PUBLISHED = NoiseSchedule()
LINEAR = NoiseSchedule(beta_start=1e-4, beta_end=0.02, kind="linear")
COSINE = NoiseSchedule(kind="cosine")
ZERO = NoiseSchedule(zero_terminal_snr=True)


def table(schedule: NoiseSchedule) -> Tensor:
    """A table of alphabar that an answer may spoil without harm."""
    return schedule.alphas_cumprod.clone()


def drawn_table(rng: Generator, n: int) -> Tensor:
    """alphabar of n random steps."""
    betas = 0.02 + 0.15 * torch.rand(n, generator=rng, dtype=torch.float64)
    return torch.cumprod(1 - betas, dim=0)


# --------------------------------------------------------------------- 07.1 a time for each picture


def add_noise(z_0: Tensor, eps: Tensor, t: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Two (b, c, h, w), whole times (b,), a table (n,) -> z_t (b, c, h, w) in the dtype of z_0."""
    alphabar = alphas_cumprod[t][:, None, None, None]  # (b,) -> (b, 1, 1, 1)
    return (alphabar.sqrt() * z_0 + (1 - alphabar).sqrt() * eps).to(z_0.dtype)


def column(t: Tensor, alphas_cumprod: Tensor) -> Tensor:
    return alphas_cumprod[t][:, None, None, None]


def noised(
    signal: Callable[[Tensor], Tensor], noise: Callable[[Tensor], Tensor]
) -> Callable[..., Tensor]:
    """The right answer but for the two factors, made of alphabar."""

    def answer(z_0: Tensor, eps: Tensor, t: Tensor, alphas_cumprod: Tensor) -> Tensor:
        alphabar = column(t, alphas_cumprod)
        return (signal(alphabar) * z_0 + noise(alphabar) * eps).to(z_0.dtype)

    return answer


def along(axes: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The right answer but for the axes that the times are put along."""

    def answer(z_0: Tensor, eps: Tensor, t: Tensor, alphas_cumprod: Tensor) -> Tensor:
        alphabar = axes(alphas_cumprod[t])
        return (alphabar.sqrt() * z_0 + (1 - alphabar).sqrt() * eps).to(z_0.dtype)

    return answer


def from_table(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """The right answer but for what happens to the table first."""
    return lambda z_0, eps, t, alphas_cumprod: add_noise(z_0, eps, t, change(alphas_cumprod))


def own_noise(z_0: Tensor, eps: Tensor, t: Tensor, alphas_cumprod: Tensor) -> Tensor:
    return add_noise(z_0, torch.randn_like(z_0), t, alphas_cumprod)


def in_float64(z_0: Tensor, eps: Tensor, t: Tensor, alphas_cumprod: Tensor) -> Tensor:
    alphabar = column(t, alphas_cumprod)
    return alphabar.sqrt() * z_0 + (1 - alphabar).sqrt() * eps


def noise_cases(rng: Generator) -> Iterator[Case]:
    def drawn(b: int, n: int) -> Tensor:
        return torch.randint(n, (b,), generator=rng)

    three = torch.tensor([7, 0, 421])
    yield Case((normal(rng, 3, 4, 5, 6), normal(rng, 3, 4, 5, 6), three, table(PUBLISHED)))
    square = normal(rng, 4, 4, 4, 4), normal(rng, 4, 4, 4, 4)
    yield Case((*square, torch.tensor([3, 0, 9, 5]), drawn_table(rng, 10)))
    yield Case((normal(rng, 1, 4, 8, 8), normal(rng, 1, 4, 8, 8), drawn(1, 1000), table(LINEAR)))
    half = normal(rng, 2, 4, 3, 3).float(), normal(rng, 2, 4, 3, 3).float()
    yield Case((*half, torch.tensor([999, 120]), table(PUBLISHED)))


NOISE = Exercise(
    number="07.1",
    title="A time for each picture",
    minutes=8,
    difficulty=1,
    statement="In training, every picture of a batch has a time of its own. `z_0` and `eps` are "
    "`(b, c, h, w)`, `t` holds `b` whole numbers, and `alphas_cumprod` is a schedule's table of "
    "$\\bar\\alpha$, in `float64`. Return the `b` noisy latents $z_t$, picture `k` at the time "
    "`t[k]`, in the `dtype` of `z_0`: networks take `float32`.",
    hints=(
        "A tensor may be indexed with a tensor: `alphas_cumprod[t]` is `(b,)`. Which axis of `z_0` "
        "should its numbers lie along?",
        "Broadcasting begins at the *last* axis. To meet the first one of `(b, c, h, w)`, the "
        "numbers need the shape `(b, 1, 1, 1)`.",
        "With `alphabar = alphas_cumprod[t][:, None, None, None]` the result is "
        "`alphabar.sqrt() * z_0 + (1 - alphabar).sqrt() * eps`, and `.to(z_0.dtype)` brings it "
        "back from `float64`.",
    ),
    solution=add_noise,
    cases=noise_cases,
    trained=False,
    tolerance=1e-6,  # one case is in float32
    mistakes=(
        Mistake(
            "alphabar for its root",
            noised(lambda a: a, lambda a: 1 - a),
            "You multiply with alphabar and 1 - alphabar. They are shares of the *variance*; the "
            "factors are their roots. You would notice that z_t is too small in the middle: with "
            "alphabar = 0.5 its variance would be 0.25 + 0.25.",
        ),
        Mistake(
            "1 - alpha for sigma",
            noised(lambda a: a.sqrt(), lambda a: 1 - a.sqrt()),
            "You take 1 - alpha for sigma, as if the two factors added up to one. Their *squares* "
            "do: sigma is the root of 1 - alphabar, not 1 minus the root.",
        ),
        Mistake(
            "root of 1 - alpha",
            noised(lambda a: a.sqrt(), lambda a: (1 - a.sqrt()).sqrt()),
            "You subtract alpha, which is a root already, from one. It is alphabar that is "
            "subtracted: sigma = sqrt(1 - alphabar).",
        ),
        Mistake(
            "no root at the noise",
            noised(lambda a: a.sqrt(), lambda a: 1 - a),
            "The factor of the noise lacks its root. 1 - alphabar is the noise's variance, and eps "
            "must be multiplied with a standard deviation.",
        ),
        Mistake(
            "no root at the latent",
            noised(lambda a: a, lambda a: (1 - a).sqrt()),
            "The factor of z_0 lacks its root. alphabar is the share of the variance that is left; "
            "the latent itself is multiplied with its root.",
        ),
        Mistake(
            "signal and noise exchanged",
            noised(lambda a: (1 - a).sqrt(), lambda a: a.sqrt()),
            "Your factors are exchanged: at t = 0 yours is nearly pure noise, at the end nearly "
            "the picture. alpha, the root of alphabar, belongs to z_0.",
        ),
        Mistake(
            "noise subtracted",
            noised(lambda a: a.sqrt(), lambda a: -(1 - a).sqrt()),
            "You subtract the noise. Such a z_t is distributed as it should be, for -eps is as "
            "likely as eps. But in training the network is asked for eps, and would be told the "
            "opposite of what is in its input.",
        ),
        Mistake(
            "the latent is not made smaller",
            noised(torch.ones_like, lambda a: (1 - a).sqrt()),
            "You add noise to the whole z_0. Its factor alpha keeps the variance at one; without "
            "it, z_t of late times has nearly twice the variance that the network was promised.",
        ),
        Mistake(
            "the noise of another convention",
            noised(torch.ones_like, lambda a: ((1 - a) / a).sqrt()),
            "You add noise of the size sigma / alpha to the whole z_0. That is z_t / alpha, the "
            "latent as Karras et al. write it. Here it is multiplied with alpha, so that its "
            "variance stays one.",
        ),
        Mistake(
            "along the width",
            along(lambda a: a),
            "You multiply (b,) with (b, c, h, w). Broadcasting begins at the last axis, so your "
            "times run along the *columns* of each latent. Nobody complains if there are as many "
            "columns as pictures, or only one picture. Give them the shape (b, 1, 1, 1).",
        ),
        Mistake(
            "along the height",
            along(lambda a: a[:, None]),
            "(b, 1) meets (b, c, h, w) at the rows: every row of a latent gets another time. "
            "Nobody complains if there are as many rows as pictures. It needs (b, 1, 1, 1).",
        ),
        Mistake(
            "along the channels",
            along(lambda a: a[:, None, None]),
            "(b, 1, 1) meets (b, c, h, w) at the channels: every channel gets another time. Nobody "
            "complains if there are as many channels as pictures. One axis more: (b, 1, 1, 1).",
        ),
        Mistake(
            "one time for all",
            along(lambda a: a[:1][:, None, None, None]),
            "All your pictures have the time of the first one. Every picture k has its own, t[k].",
        ),
        Mistake(
            "the entry before",
            lambda z_0, eps, t, alphas_cumprod: add_noise(z_0, eps, t - 1, alphas_cumprod),
            "You look up t - 1, as if times began at 1. That is how papers count; the table begins "
            "at 0, and its entry 0 has one step of noise. At t = 0 you even get the last entry: "
            "index -1 counts from the end.",
        ),
        Mistake(
            "the entry after",
            lambda z_0, eps, t, alphas_cumprod: add_noise(
                z_0, eps, (t + 1).clamp(max=len(alphas_cumprod) - 1), alphas_cumprod
            ),
            "You look up t + 1: every picture gets one step of noise too much. The entry t belongs "
            "to the time t.",
        ),
        Mistake(
            "multiplied twice",
            from_table(lambda a: torch.cumprod(a, dim=0)),
            "You multiply up the table once more. `alphas_cumprod` holds the products already, "
            "alphabar itself.",
        ),
        Mistake(
            "the table taken for betas",
            from_table(lambda a: torch.cumprod(1 - a, dim=0)),
            "You treat the table as betas and compute alphabar from it. It holds alphabar already.",
        ),
        Mistake(
            "noise of its own",
            own_noise,
            "You draw noise yourself. It must be the `eps` that you are given: in training, the "
            "same eps is what the network is asked for.",
        ),
        Mistake(
            "left in float64",
            in_float64,
            "The numbers are right, but for latents in float32 you return float64, because the "
            "table is. A network with weights in float32 would refuse it. Convert the result with "
            "`.to(z_0.dtype)`.",
        ),
    ),
)

# ------------------------------------------------------------------------------------ 07.2 how late


def latest_time(decibels: float, alphas_cumprod: Tensor) -> int:
    """The last whole t at which the signal-to-noise ratio still has this many decibels."""
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return int((10 * snr.log10() >= decibels).sum()) - 1  # the ratio only falls


def last_where(
    measure: Callable[[Tensor], Tensor], late: int = 0
) -> Callable[[float, Tensor], int]:
    """The last t at which some other measure of the table reaches the number."""
    return lambda decibels, a: int((measure(a) >= decibels).sum()) - 1 + late


def level(a: Tensor) -> Tensor:
    return 10 * (a / (1 - a)).log10()


def first_below(decibels: float, a: Tensor, back: int = 0) -> int:
    return int((level(a) < decibels).nonzero()[0]) - back


def first_below_or_zero(decibels: float, a: Tensor, back: int = 0) -> int:
    return int((level(a) < decibels).double().argmax()) - back


def level_cases(rng: Generator) -> Iterator[Case]:
    for decibels, schedule in (
        (0.0, PUBLISHED), (10.0, PUBLISHED), (-15.0, PUBLISHED), (20.0, COSINE), (-6.0, LINEAR),
        (-20.0, ZERO), (-23.4, PUBLISHED), (3.0, LINEAR),
    ):  # fmt: skip
        yield Case((decibels, table(schedule)))
    yield Case((-2.0, drawn_table(rng, 40)))
    yield Case((0.0, torch.tensor([0.75, 0.5, 0.25], dtype=torch.float64)))  # exactly at t = 1


LATEST = Exercise(
    number="07.2",
    title="How late is it?",
    minutes=10,
    difficulty=1,
    statement="Schedules are compared by their signal-to-noise ratio in decibels. Given a table of "
    "$\\bar\\alpha$ (from `t = 0` on, always falling), return the *last* `t` at which the ratio is "
    "still at least `decibels`, a whole number. (There is always such a time in the tables that "
    "you will be given. It may be the table's last. A table may end at zero.)",
    hints=(
        "First the ratio at every time, from alphabar alone: section 3 has it. Then in decibels.",
        "The ratio is `alphas_cumprod / (1 - alphas_cumprod)`, and its decibels are 10 times the "
        "logarithm to base 10. The ratio only falls: how many times still have enough?",
        "`(10 * snr.log10() >= decibels).sum()` counts the times that have enough. They are t = 0, "
        "1, 2 and so on, so the last one of them is that number minus one.",
    ),
    solution=latest_time,
    cases=level_cases,
    trained=False,
    mistakes=(
        Mistake(
            "twenty for ten",
            last_where(lambda a: 2 * level(a)),
            "You take 20 times the logarithm. That is for a ratio of amplitudes, alpha / sigma. "
            "The signal-to-noise ratio is one of variances, squared already, and takes 10.",
        ),
        Mistake(
            "the ratio not squared",
            last_where(lambda a: level(a) / 2),
            "You take 10 times the logarithm of alpha / sigma. The signal-to-noise ratio is its "
            "square, so your decibels are only half of what they should be.",
        ),
        Mistake(
            "the natural logarithm",
            last_where(lambda a: 10 * (a / (1 - a)).log()),
            "You take the natural logarithm. Decibels are counted to base 10: `log10`. Ten "
            "decibels are a factor of ten.",
        ),
        Mistake(
            "without the ten",
            last_where(lambda a: level(a) / 10),
            "The factor ten is missing: your unit is the bel, ten decibels. As a check, a ratio of "
            "two is about three decibels.",
        ),
        Mistake(
            "base two",
            last_where(lambda a: (a / (1 - a)).log2()),
            "You count doublings, with the logarithm to base 2. A decibel is a tenth of a factor "
            "of ten: 10 * log10(ratio).",
        ),
        Mistake(
            "the plain ratio",
            last_where(lambda a: a / (1 - a)),
            "You compare the ratio itself with a number in decibels. Either take 10 * log10 of the "
            "ratio, or turn the decibels into a ratio, 10 ** (decibels / 10).",
        ),
        Mistake(
            "signal only",
            last_where(lambda a: 10 * a.log10()),
            "You take alphabar for the ratio. It is the variance of the signal; the ratio divides "
            "it by that of the noise, 1 - alphabar.",
        ),
        Mistake(
            "one too late",
            last_where(level, 1),
            "You are one too late: this is the first time that has *less*. If the times 0 ... n - "
            "1 have enough, there are n of them, and the last one is n - 1.",
        ),
        Mistake(
            "more than",
            lambda decibels, a: int((level(a) > decibels).sum()) - 1,
            "You ask for *more* than `decibels`. At least means that a time with exactly as many "
            "counts, too.",
        ),
        Mistake(
            "the first that has less",
            first_below,
            "You look for the first time that has *less*, which is one too late. And where the "
            "table has enough to its very end there is no such time, and nothing to be found.",
        ),
        Mistake(
            "the first that has less, or zero",
            first_below_or_zero,
            "You look for the first time that has *less*, which is one too late. And where the "
            "table has enough to its very end no entry is true, and `argmax` says 0.",
        ),
        Mistake(
            "one before the first that has less",
            lambda decibels, a: first_below(decibels, a, back=1),
            "You look for the first time that has *less* and go back by one. That is right as long "
            "as there is one. Where the table has enough to its very end your code finds nothing: "
            "look for the times that have enough instead.",
        ),
        Mistake(
            "one before the first that has less, or minus one",
            lambda decibels, a: first_below_or_zero(decibels, a, back=1),
            "You look for the first time that has *less* and go back by one. That is right as long "
            "as there is one. Where the table has enough to its very end `argmax` says 0, and you "
            "return -1: look for the times that have enough instead.",
        ),
        Mistake(
            "the first one",
            lambda decibels, a: int((level(a) >= decibels).double().argmax()),
            "You give the first time that has enough. That is always t = 0, where the picture is "
            "nearly clean. Asked for is the last one.",
        ),
        Mistake(
            "the nearest one",
            lambda decibels, a: int((level(a) - decibels).abs().argmin()),
            "You give the time whose decibels come closest. That one may have a little less than "
            "asked for; the last one that still has enough is then the one before.",
        ),
        Mistake(
            "noise over signal",
            lambda decibels, a: int((-level(a) >= decibels).nonzero().max()),
            "Your ratio is upside down, noise over signal, and grows with t. So the last time is "
            "always the last of the table.",
        ),
        Mistake(
            "noise over signal, counted",
            last_where(lambda a: 10 * ((1 - a) / a).log10()),
            "Your ratio is upside down: noise over signal, which *rises* with t. You then count "
            "the late times, where there is much noise. The signal-to-noise ratio is alphabar / "
            "(1 - alphabar).",
        ),
        Mistake(
            "noise over signal, the first",
            lambda decibels, a: int((-level(a) >= decibels).int().argmax()),
            "Your ratio is upside down: noise over signal, which *rises* with t, and you take the "
            "first time at which it reaches the number. The signal-to-noise ratio is alphabar / "
            "(1 - alphabar).",
        ),
        Mistake(
            "noise over signal, below",
            lambda decibels, a: int((-level(a) <= decibels).sum()) - 1,
            "Your ratio is upside down: noise over signal. With `<=` you have turned the "
            "comparison as well, but the sign of the decibels not: -10 decibels of signal over "
            "noise are +10 of noise over signal.",
        ),
    ),
)

# ----------------------------------------------------------------- 07.3 from the table to the steps


def betas_from(alphas_cumprod: Tensor) -> Tensor:
    """A table of alphabar (n,) -> the betas (n,) of its single steps."""
    before = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
    return 1 - alphas_cumprod / before


def with_before(
    first: Callable[[Tensor], Tensor], formula: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """Another formula of alphabar and the entry before, or another entry before the first."""
    return lambda a: formula(a, torch.cat([first(a), a[:-1]]))


def one(a: Tensor) -> Tensor:
    return a.new_ones(1)


def beta_cases(rng: Generator) -> Iterator[Case]:
    for schedule in (PUBLISHED, COSINE, ZERO):
        yield Case((table(schedule),))
    for n in (5, 1):
        yield Case((drawn_table(rng, n),))


BETAS = Exercise(
    number="07.3",
    title="From the table to the steps",
    minutes=10,
    difficulty=2,
    statement="A schedule may be invented as a curve of $\\bar\\alpha$, as the cosine schedule "
    "was, or a table may be changed afterwards, as in section 8. A library may still ask for the "
    "betas. Given a table of $\\bar\\alpha$, `(n,)`, return the `n` betas of the single steps: "
    "`torch.cumprod(1 - betas, dim=0)` of your result must give the table back, up to rounding. "
    "Its last entry may be zero.",
    hints=(
        "alphabar_t is the product of (1 - beta) over all steps up to t. What is left if you "
        "divide it by the product up to the step before?",
        "The ratio of an entry to the one before is 1 - beta of that step. There is no entry "
        "before the first one: what is the product of no factors at all?",
        "`before = torch.cat([torch.ones(1), alphas_cumprod[:-1]])`, in the dtype of the table; "
        "then `1 - alphas_cumprod / before`.",
    ),
    solution=betas_from,
    cases=beta_cases,
    trained=False,
    mistakes=(
        Mistake(
            "one too few",
            lambda a: 1 - a[1:] / a[:-1],
            "You return n - 1 betas: the first step is missing. Before it nothing has been "
            "multiplied yet, so what stands before alphabar_0 is 1.",
        ),
        Mistake(
            "no first step",
            with_before(lambda a: a[:1], lambda a, b: 1 - a / b),
            "Your first beta is zero, as if alphabar_0 stood before itself. But the table's first "
            "entry is not 1: one step of noise has been added by then.",
        ),
        Mistake(
            "the first entry copied",
            lambda a: torch.cat([a[:1], 1 - a[1:] / a[:-1]]),
            "Your first beta is alphabar_0. That is what the first step *leaves*, nearly "
            "everything; what it adds is 1 - alphabar_0. All your other betas are right.",
        ),
        Mistake(
            "a one in front",
            lambda a: torch.cat([a.new_ones(1), 1 - a[1:] / a[:-1]]),
            "Your first beta is 1: such a step would leave nothing of the latent. The 1 belongs "
            "among the alphabars, in front of the first one, not among the betas.",
        ),
        Mistake(
            "a zero in front",
            with_before(lambda a: a.new_zeros(1), lambda a, b: 1 - a / b),
            "You put a zero before the first entry and divide by it. Before the first step nothing "
            "has been multiplied, and an empty product is 1.",
        ),
        Mistake(
            "round the corner",
            lambda a: 1 - a / a.roll(1),
            "`roll` puts the last entry before the first one. What stands before alphabar_0 is 1, "
            "a latent without noise.",
        ),
        Mistake(
            "one too early",
            lambda a: torch.cat([1 - a[1:] / a[:-1], a.new_zeros(1)]),
            "Your betas are all there but for the first, and each stands one place too early: "
            "alphabar_t / alphabar_(t-1) belongs to step t, not to the step before.",
        ),
        Mistake(
            "what stays",
            with_before(one, lambda a, b: a / b),
            "You return what is *left* of the variance at each step, 1 - beta. (Papers call it "
            "alpha_t, which is why it is easily mistaken.)",
        ),
        Mistake(
            "differences",
            with_before(one, lambda a, b: b - a),
            "You subtract neighbouring entries. alphabar is a product, not a sum: to undo it, "
            "divide. Your numbers become too small as alphabar falls.",
        ),
        Mistake(
            "upside down",
            with_before(one, lambda a, b: 1 - b / a),
            "Your ratio is upside down. Its betas are negative, and a variance cannot be.",
        ),
        Mistake(
            "all the noise so far",
            lambda a: 1 - a,
            "1 - alphabar is all the noise that has been gathered up to t. A beta is what a single "
            "step adds.",
        ),
        Mistake(
            "roots",
            with_before(one, lambda a, b: 1 - (a / b).sqrt()),
            "You take a root first. The root of 1 - beta is what the latent is multiplied with; "
            "alphabar, beta and all of this table are variances.",
        ),
        Mistake(
            "standard deviations",
            with_before(one, lambda a, b: (1 - a / b).sqrt()),
            "This is the root of beta, what the noise of a step is multiplied with. Beta is its "
            "square, a variance.",
        ),
        Mistake(
            "logarithms",
            with_before(one, lambda a, b: b.log() - a.log()),
            "The fall of the logarithm is -ln(1 - beta). It is nearly beta where beta is small, "
            "which is why your first numbers look right, and infinite where the table ends at 0.",
        ),
        Mistake(
            "clipped at 0.999",
            with_before(one, lambda a, b: (1 - a / b).clamp(max=0.999)),
            "You clip at 0.999, as those who invented the cosine schedule did. Then a table that "
            "ends at zero does not come back: the last step has to remove everything, beta = 1.",
        ),
    ),
)

# ------------------------------------------------------------------------------ 07.4 from s on to t


def renoise(z_s: Tensor, eps: Tensor, s: int, t: int, alphas_cumprod: Tensor) -> Tensor:
    """z_s at the time s, fresh noise eps, both (b, c, h, w), and t > s -> z_t."""
    left = alphas_cumprod[t] / alphas_cumprod[s]  # of the variance of z_s
    return left.sqrt() * z_s + (1 - left).sqrt() * eps


def further(
    signal: Callable[[Tensor, Tensor], Tensor], noise: Callable[[Tensor, Tensor], Tensor]
) -> Callable[..., Tensor]:
    """Other factors, made of alphabar_s and alphabar_t."""

    def answer(z_s: Tensor, eps: Tensor, s: int, t: int, alphas_cumprod: Tensor) -> Tensor:
        a, b = alphas_cumprod[s], alphas_cumprod[t]
        return signal(a, b) * z_s + noise(a, b) * eps

    return answer


def stays(a: Tensor, b: Tensor) -> Tensor:
    return (b / a).sqrt()


def comes(a: Tensor, b: Tensor) -> Tensor:
    return (1 - b / a).sqrt()


def one_step(z_s: Tensor, eps: Tensor, s: int, t: int, alphas_cumprod: Tensor) -> Tensor:
    return renoise(z_s, eps, t - 1, t, alphas_cumprod)


def the_time_between(z_s: Tensor, eps: Tensor, s: int, t: int, alphas_cumprod: Tensor) -> Tensor:
    left = alphas_cumprod[t - s]
    return left.sqrt() * z_s + (1 - left).sqrt() * eps


def same_noise(z_s: Tensor, eps: Tensor, s: int, t: int, alphas_cumprod: Tensor) -> Tensor:
    for k in range(s + 1, t + 1):
        z_s = renoise(z_s, eps, k - 1, k, alphas_cumprod)
    return z_s


def step_cases(rng: Generator) -> Iterator[Case]:
    for shape, s, t, schedule in (
        ((2, 4, 5, 6), 100, 500, PUBLISHED),
        ((1, 4, 8, 8), 0, 900, LINEAR),
        ((3, 4, 4, 4), 640, 650, COSINE),
        ((2, 4, 3, 3), 400, 999, ZERO),
    ):
        yield Case((normal(rng, *shape), normal(rng, *shape), s, t, table(schedule)))


FURTHER = Exercise(
    number="07.4",
    title="Further into the noise",
    minutes=15,
    difficulty=2,
    statement="A latent has reached the time `s`: `z_s` is $\\alpha_s z_0 + \\sigma_s\\epsilon'$, "
    "with a $z_0$ and an $\\epsilon'$ that you are not told. Some methods go *back* into the noise "
    "from there (inpainting by RePaint, ancestral samplers). Return a $z_t$ for a later time "
    "`t > s`, by adding the right amount of the fresh noise `eps` in one go. What you return must "
    "be distributed just as if it had been made from $z_0$ at once: right signal, right variance.",
    hints=(
        "Two things must be right. The signal: alpha_s z_0 has to become alpha_t z_0, so what is "
        "z_s multiplied with? The variance: there is some noise already, and it shrinks, too.",
        "Multiply z_s with alpha_t / alpha_s. The old noise then has the variance "
        "(alphabar_t / alphabar_s) (1 - alphabar_s). How much is missing to 1 - alphabar_t?",
        "(1 - alphabar_t) - (alphabar_t / alphabar_s) (1 - alphabar_s) is 1 - alphabar_t / "
        "alphabar_s. With `left = alphas_cumprod[t] / alphas_cumprod[s]`, it is a step with "
        "beta = 1 - left.",
    ),
    solution=renoise,
    cases=step_cases,
    trained=False,
    mistakes=(
        Mistake(
            "as if it were clean",
            further(lambda a, b: b.sqrt(), lambda a, b: (1 - b).sqrt()),
            "You treat z_s as a clean latent. Its signal has been multiplied with alpha_s already, "
            "so it is now too small, by just that factor.",
        ),
        Mistake(
            "all of the noise",
            further(stays, lambda a, b: (1 - b).sqrt()),
            "You add noise of the full sigma_t. But z_s brings noise along: the variance becomes "
            "larger than one. Add only what is missing.",
        ),
        Mistake(
            "all of the noise, nothing made smaller",
            further(lambda a, b: torch.ones_like(a), lambda a, b: (1 - b).sqrt()),
            "You add noise of the full sigma_t to the whole z_s. Two things are missing: the "
            "signal must shrink from alpha_s to alpha_t, and z_s brings noise of its own.",
        ),
        Mistake(
            "the time between",
            the_time_between,
            "You look up t - s, as if z_s were clean and steps were equally strong at any time. "
            "The steps from s to t are stronger than the first t - s of the table: it is their "
            "product that counts, alphabar_t / alphabar_s.",
        ),
        Mistake(
            "the same noise in every step",
            same_noise,
            "You walk step by step, and add the same eps in each. The noises of a walk are "
            "independent, and their variances add up; equal ones add up themselves, and become "
            "far too loud. With one eps, make all steps in one.",
        ),
        Mistake(
            "noise of its own",
            lambda z_s, eps, s, t, a: renoise(z_s, torch.randn_like(z_s), s, t, a),
            "You draw noise yourself. Use the `eps` that you are given: whoever calls this wants "
            "to decide about the noise, to get the same picture again.",
        ),
        Mistake(
            "difference of sigmas",
            further(stays, lambda a, b: (1 - b).sqrt() - (1 - a).sqrt()),
            "You add sigma_t - sigma_s. Standard deviations of independent noise do not add up; "
            "their squares do. And the old noise has shrunk, too.",
        ),
        Mistake(
            "the old noise does not shrink",
            further(stays, lambda a, b: (a - b).sqrt()),
            "You add the difference of the variances, sigma_t² - sigma_s². That forgets that the "
            "old noise is multiplied with alpha_t / alpha_s as well: yours becomes too quiet.",
        ),
        Mistake(
            "nothing made smaller",
            further(lambda a, b: torch.ones_like(a), lambda a, b: (a - b).sqrt()),
            "You add noise and leave z_s as it is. The noise is then right, but the signal is "
            "still alpha_s z_0, too large for the time t.",
        ),
        Mistake(
            "only noise added",
            further(lambda a, b: torch.ones_like(a), comes),
            "The fresh noise is right, but z_s must become smaller: without a factor the signal "
            "stays what it was at s, and the variance exceeds one.",
        ),
        Mistake(
            "no roots",
            further(lambda a, b: b / a, lambda a, b: 1 - b / a),
            "The roots are missing. alphabar_t / alphabar_s is what is left of the *variance*.",
        ),
        Mistake(
            "no root at the latent",
            further(lambda a, b: b / a, comes),
            "The factor of z_s lacks its root: alphabar_t / alphabar_s is the square of alpha_t / "
            "alpha_s.",
        ),
        Mistake(
            "variance for standard deviation",
            further(stays, lambda a, b: 1 - b / a),
            "1 - alphabar_t / alphabar_s is the variance of the noise to be added. eps is "
            "multiplied with its root.",
        ),
        Mistake(
            "s and t exchanged",
            further(lambda a, b: (a / b).sqrt(), lambda a, b: (1 - a / b).sqrt()),
            "Your ratio is upside down, alphabar_s / alphabar_t. It is larger than one, and the "
            "root of a negative number is not a number.",
        ),
        Mistake(
            "factors exchanged",
            further(comes, stays),
            "Your two factors are exchanged: the root of alphabar_t / alphabar_s belongs to z_s.",
        ),
        Mistake(
            "a single step",
            one_step,
            "You make the single step from t - 1 to t. All the steps from s to t have to be made, "
            "at once: their factors (1 - beta) multiply up to alphabar_t / alphabar_s.",
        ),
        Mistake(
            "product for ratio",
            further(lambda a, b: (a * b).sqrt(), lambda a, b: (1 - a * b).sqrt()),
            "You multiply alphabar_s and alphabar_t. alphabar_t contains all steps up to s "
            "already; divide them out.",
        ),
        Mistake(
            "sigma by the ratio",
            further(stays, lambda a, b: ((1 - b) / (1 - a)).sqrt()),
            "You divide sigma_t by sigma_s, as is right for the signal. For the noise it is not: "
            "that at s is there already, and what you add has to make up the rest.",
        ),
    ),
)

# -------------------------------------------------------------------------- 07.5 an ending to order


def ending(alphas_cumprod: Tensor, snr: float) -> Tensor:
    """The table, (n,), with the root of alphabar shifted and scaled so that it ends at this SNR."""
    alpha = alphas_cumprod.sqrt()
    last = (snr / (1 + snr)) ** 0.5
    scale = (alpha[0] - last) / (alpha[0] - alpha[-1])
    return (last + (alpha - alpha[-1]) * scale) ** 2


def bent(
    last: Callable[[float], float] = lambda snr: (snr / (1 + snr)) ** 0.5,
    way: Callable[[Tensor, float], Tensor] = lambda alpha, last: (
        last + (alpha - alpha[-1]) * (alpha[0] - last) / (alpha[0] - alpha[-1])
    ),
    out: Callable[[Tensor], Tensor] = torch.square,
    into: Callable[[Tensor], Tensor] = torch.sqrt,
) -> Callable[[Tensor, float], Tensor]:
    """The right answer but for one part: the end, the straight way to it, the roots."""
    return lambda alphas_cumprod, snr: out(way(into(alphas_cumprod), last(snr)))


def last_only(alphas_cumprod: Tensor, snr: float) -> Tensor:
    changed = alphas_cumprod.clone()
    changed[-1] = snr / (1 + snr)
    return changed


def same(x: Tensor) -> Tensor:
    return x


def ending_cases(rng: Generator) -> Iterator[Case]:
    for schedule, snr in ((PUBLISHED, 0.0), (PUBLISHED, 0.001), (LINEAR, 0.0047), (PUBLISHED, 0.3)):
        yield Case((table(schedule), snr))
    yield Case((drawn_table(rng, 12), 0.05))


ENDING = Exercise(
    number="07.5",
    title="An ending to order",
    minutes=20,
    difficulty=3,
    statement="Section 8 lets a schedule end at pure noise. Somebody wants an ending in between, "
    "for a table that is changed a little at a time while a model is being trained further. Given "
    "a table of $\\bar\\alpha$ and the signal-to-noise ratio `snr` at which it shall end (zero or "
    "more; a plain ratio, not decibels), return the new table. As in section 8, it is $\\alpha = "
    "\\sqrt{\\bar\\alpha}$ that is shifted and scaled: one multiplication and one addition, the "
    "same for all entries. The first entry must not change.",
    hints=(
        "Two steps. Which alpha has this signal-to-noise ratio, if alpha² + sigma² = 1? And which "
        "straight line leaves alpha_0 where it is and takes the last alpha there?",
        "From snr = alphabar / (1 - alphabar) follows alphabar = snr / (1 + snr). For the line, "
        "first make the last alpha zero by subtraction, then scale, then add the new last alpha.",
        "`last + (alpha - alpha[-1]) * (alpha[0] - last) / (alpha[0] - alpha[-1])` is `last` at "
        "the end and `alpha[0]` at the beginning. Square it.",
    ),
    solution=ending,
    cases=ending_cases,
    trained=False,
    mistakes=(
        Mistake(
            "alphabar moved",
            bent(last=lambda snr: snr / (1 + snr), into=same, out=same),
            "You shift and scale alphabar itself. Both ends are right, the way between them is "
            "not: asked for is a straight change of its root, alpha.",
        ),
        Mistake(
            "not squared",
            bent(out=same),
            "You return alpha. The table holds alphabar, its square.",
        ),
        Mistake(
            "snr for alphabar",
            bent(last=lambda snr: snr**0.5),
            "You take the ratio itself for alphabar at the end. It is alphabar / (1 - alphabar). "
            "For small ratios that is nearly the same, which is why it is hard to notice.",
        ),
        Mistake(
            "a minus for a plus",
            bent(last=lambda snr: (snr / (1 - snr)) ** 0.5),
            "You take snr / (1 - snr) for alphabar at the end. Solve snr = alphabar / (1 - "
            "alphabar) for alphabar again, and mind the sign. As a check: with a ratio of 1 half "
            "of the variance is signal.",
        ),
        Mistake(
            "decibels",
            bent(last=lambda snr: (10 ** (snr / 10) / (1 + 10 ** (snr / 10))) ** 0.5),
            "You turn `snr` from decibels into a ratio. It is a ratio already: for 0 your table "
            "must end without signal, and yours ends with as much signal as noise.",
        ),
        Mistake(
            "snr for alpha",
            bent(last=lambda snr: snr),
            "You take the ratio for alpha at the end. It is a ratio of variances: solve "
            "alphabar / (1 - alphabar) = snr, then take the root.",
        ),
        Mistake(
            "a root missing",
            bent(last=lambda snr: snr / (1 + snr)),
            "snr / (1 + snr) is alphabar at the end, and you use it for alpha: a root is missing.",
        ),
        Mistake(
            "noise for signal",
            bent(last=lambda snr: (1 / (1 + snr)) ** 0.5),
            "1 / (1 + snr) is the variance of the *noise* at the end. With a ratio of zero your "
            "table would end without any noise at all.",
        ),
        Mistake(
            "always at zero",
            bent(last=lambda snr: 0.0),
            "Your table ends at pure noise whatever `snr` is. That is section 8; here the end is "
            "given.",
        ),
        Mistake(
            "only shifted",
            bent(way=lambda alpha, last: alpha - alpha[-1] + last),
            "You only shift. The end is right, but the first entry has moved with it; scale, so "
            "that it stays.",
        ),
        Mistake(
            "only scaled",
            bent(way=lambda alpha, last: alpha * last / alpha[-1]),
            "You only scale. The end is right, but the first entry has been scaled as well. It "
            "takes a shift, too.",
        ),
        Mistake(
            "scaled to alpha_0, then shifted",
            bent(
                way=lambda alpha, last: (
                    last + (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
                )
            ),
            "You scale as for an ending at zero and add the new end afterwards. This lifts the "
            "first entry, too: there is only alpha_0 - last to be covered.",
        ),
        Mistake(
            "the last entry alone",
            last_only,
            "You change the last entry only. The table then has a jump at its end: one step would "
            "have to do what all the others have not done.",
        ),
    ),
)

EXERCISES = (NOISE, LATEST, BETAS, FURTHER, ENDING)

QUESTIONS = (
    Question(
        text="A latent at t = 700 is wanted for training. How often must you draw noise for it, "
        "and why?",
        answers=(
            Answer(
                "Seven hundred and one times: the table says how strong each step is.",
                False,
                "That would work, too, and would give the same distribution. But nobody needs the "
                "stops on the way.",
            ),
            Answer(
                "Once: a sum of independent normal noises is normal, and its variance is known.",
                True,
                "Every step multiplies and adds normal noise. So the result is alpha z_0 plus one "
                "normal noise whose variance is 1 - alphabar.",
            ),
            Answer(
                "Once for the signal and once for the noise.",
                False,
                "The signal is not random: alpha is a number from a table, and z_0 is given.",
            ),
        ),
    ),
    Question(
        text="A schedule was made for small pictures. You use it, unchanged, for pictures of eight "
        "times the side. What happens to a page at t = 500?",
        answers=(
            Answer(
                "More of it can be told, because neighbouring numbers say nearly the same and "
                "their noise averages out.",
                True,
                "The signal-to-noise ratio of a single number is the same. A square of 8 × 8 "
                "numbers that belong together has 64 times that ratio.",
            ),
            Answer(
                "Just as much can be told: the signal-to-noise ratio at t = 500 is in the table.",
                False,
                "The table's ratio is that of each number alone. What can be told of a picture "
                "depends on all its numbers together.",
            ),
            Answer(
                "Less can be told, because there are more numbers to be found out.",
                False,
                "There are more numbers, but they are not independent: what a page shows has not "
                "become more.",
            ),
        ),
    ),
    Question(
        text="You take a model trained to predict the noise, put a table that ends at zero signal "
        "in place of its own, and sample with trailing spacing. What happens at the first step?",
        answers=(
            Answer(
                "The pictures become darker and brighter, as they should.",
                False,
                "Only in a model that was trained with this table, and to predict something else "
                "than the noise.",
            ),
            Answer(
                "Nothing new, because samplers never visit the last time.",
                False,
                "With leading spacing they do not. With trailing spacing the first stop is the "
                "last entry of the table.",
            ),
            Answer(
                "The estimate of z_0 divides by zero.",
                True,
                "z_0 = (z - sigma eps) / alpha, and alpha is 0 there. The noise says nothing about "
                "the picture where there is nothing else. A velocity does: there it is -z_0.",
            ),
        ),
    ),
)
