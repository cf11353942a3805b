"""Exercises and quiz of notebook 08, the training loop."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Generator, Tensor

from sdlearn.course.grading.exercise import Answer, Case, Exercise, Mistake, Question, normal

# ------------------------------------------------------------------- 08.1 warm up, hold, cool down


def rate(step: int, steps: int, peak: float, warmup: int, cooldown: int) -> float:
    """The learning rate of step number `step`, 0 to steps - 1."""
    up = (step + 1) / max(warmup, 1)
    down = (steps - step) / max(cooldown, 1)
    return peak * min(1.0, up, down)


def rate_with(
    up: Callable[[int, int], float] = lambda step, warmup: (step + 1) / max(warmup, 1),
    down: Callable[[int, int], float] = lambda left, cooldown: left / max(cooldown, 1),
    join: Callable[[float, float], float] = min,
) -> Callable[..., float]:
    """up(step, warmup) and down(steps left, this one included, cooldown), capped and joined."""

    def answer(step: int, steps: int, peak: float, warmup: int, cooldown: int) -> float:
        rise, fall = up(step, warmup), down(steps - step, cooldown)
        return peak * join(min(1.0, rise), min(1.0, fall))

    return answer


def no_hold(step: int, steps: int, peak: float, warmup: int, cooldown: int) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (steps - step) / max(steps - warmup, 1)


def in_order(step: int, steps: int, peak: float, warmup: int, cooldown: int) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    if step < steps - cooldown:
        return peak
    return peak * (steps - step) / cooldown


def cooling_first(step: int, steps: int, peak: float, warmup: int, cooldown: int) -> float:
    if step >= steps - cooldown:
        return peak * (steps - step) / cooldown
    return peak * (step + 1) / warmup if step < warmup else peak


def rate_cases(_: Generator) -> Iterator[Case]:
    for step in (0, 1, 4, 5, 9, 11, 12, 18, 19):
        yield Case((step, 20, 0.002, 5, 8))
    for step in (0, 2, 3, 4, 7):  # too short for both
        yield Case((step, 8, 0.5, 6, 5))
    for step in (2, 4, 5, 6):
        yield Case((step, 10, 0.3, 8, 8))
    for step in (0, 9):
        yield Case((step, 10, 1e-4, 0, 3))
        yield Case((step, 10, 1e-4, 3, 0))
    yield Case((0, 1, 0.01, 1, 1))


RATE = Exercise(
    number="08.1",
    title="Warm up, hold, cool down",
    minutes=10,
    difficulty=1,
    statement="Half a cosine has a drawback: one must know the number of steps on the first day. "
    "Many large runs therefore *hold* the peak, and cool down only when it is time to stop. Write "
    "this schedule. The steps are numbered `0` to `steps - 1`. The rate rises in equal amounts "
    "over the first `warmup` steps, of which the last has the whole `peak`, and so that no step "
    "is taken with a rate of 0. The end mirrors the beginning: over the last `cooldown` steps, of "
    "which the first has the whole peak, the rate falls in equal amounts, and the very last step "
    "still has a little. Where a short run makes the two overlap, the *smaller* rate counts. "
    "`warmup` or `cooldown` may be 0; then there is none. Return a plain number, a `float`.",
    hints=(
        "Write down the rates of a run of 6 steps with a warm-up and a cool-down of 3 each, as "
        "parts of the peak. They are the same read backwards.",
        "Step `step` is number `step + 1` of the warm-up. Counted from the end it is number "
        "`steps - step`. Each divided by the length of its phase gives a share of the peak, which "
        "outside of the phase is more than 1.",
        "`peak * min(1.0, (step + 1) / warmup, (steps - step) / cooldown)`, with `max(..., 1)` "
        "around the two lengths.",
    ),
    solution=rate,
    cases=rate_cases,
    trained=False,
    mistakes=(
        Mistake(
            "a first step of 0",
            rate_with(up=lambda step, warmup: step / warmup if warmup else 1.0),
            "Your first step has a learning rate of 0: a whole batch is computed and nothing is "
            "learnt from it, and the peak comes one step late. Step 0 is the first of the warm-up, "
            "so it has 1 / warmup of the peak.",
        ),
        Mistake(
            "a last step of 0",
            rate_with(down=lambda left, cooldown: (left - 1) / cooldown if cooldown else 1.0),
            "Your last step has a learning rate of 0, and the fall begins one step early: the "
            "first step of the cool-down shall still have the whole peak. Counted from the end, "
            "the last step is number 1, not number 0.",
        ),
        Mistake(
            "0 at both ends",
            rate_with(
                up=lambda step, warmup: step / warmup if warmup else 1.0,
                down=lambda left, cooldown: (left - 1) / cooldown if cooldown else 1.0,
            ),
            "Your first and your last step have a learning rate of 0, so two batches are computed "
            "for nothing. Count the steps of each phase from 1, the last phase from its end.",
        ),
        Mistake(
            "never the whole peak",
            rate_with(
                up=lambda step, warmup: (step + 1) / (warmup + 1),
                down=lambda left, cooldown: left / (cooldown + 1),
            ),
            "You divide by one more than the length of a phase, so that the whole peak is only "
            "reached in the step after it. The last step of the warm-up and the first of the "
            "cool-down shall have it.",
        ),
        Mistake(
            "no hold",
            no_hold,
            "You cool down from the end of the warm-up on, and `cooldown` plays no part. Then the "
            "rate depends on the length of the run from early on, which is what this schedule is "
            "to avoid.",
        ),
        Mistake(
            "no cool-down",
            rate_with(down=lambda left, cooldown: 1.0),
            "Your rate never falls: there is no cool-down at the end. Take the smaller of two "
            "lines, one that rises from the first step and one that falls to the last. The "
            "symptom: the loss keeps jittering where it should settle.",
        ),
        Mistake(
            "no warm-up",
            rate_with(up=lambda step, warmup: 1.0),
            "Your rate begins at its peak: there is no warm-up. The first steps of an untrained "
            "network have large gradients in all directions, and a full step along them can ruin "
            "the run.",
        ),
        Mistake(
            "the whole peak always",
            lambda step, steps, peak, warmup, cooldown: peak,
            "Your rate is the peak at every step: neither warm-up nor cool-down is there.",
        ),
        Mistake(
            "larger for smaller",
            rate_with(join=max),
            "Of the two lines you take the larger, which is the peak nearly always. The smaller "
            "one counts: the rate may rise only as far as both allow.",
        ),
        Mistake(
            "a cosine",
            rate_with(
                down=lambda left, cooldown: (
                    0.5 - 0.5 * math.cos(math.pi * min(1.0, left / max(cooldown, 1)))
                )
            ),
            "Your cool-down is half a cosine. Asked for is a straight line: equal amounts from "
            "step to step.",
        ),
        Mistake(
            "product for minimum",
            rate_with(join=lambda rise, fall: rise * fall),
            "Where warm-up and cool-down overlap you multiply the two shares. A run of few steps "
            "then hardly moves at all. The smaller of the two counts.",
        ),
        Mistake(
            "warm-up wins",
            in_order,
            "Where the two overlap, your warm-up wins: it is asked for first, and the cool-down "
            "begins with a jump down. The smaller of the two rates counts, whichever it is.",
        ),
        Mistake(
            "cool-down wins",
            cooling_first,
            "Where the two overlap, your cool-down wins, and a short run can begin with a large "
            "rate. The smaller of the two counts, whichever it is.",
        ),
        Mistake(
            "a share of the peak",
            lambda step, steps, peak, warmup, cooldown: rate(step, steps, 1.0, warmup, cooldown),
            "What you return lies between 0 and 1: the share of the peak. Multiply it with `peak`. "
            "With a learning rate of 1 the loss is not a number after a few steps.",
        ),
        Mistake(
            "a phase of no steps",
            lambda step, steps, peak, warmup, cooldown: (
                peak * min(1.0, (step + 1) / warmup, (steps - step) / cooldown)
            ),
            "Right, until a phase has no steps: then you divide by 0. A length of 0 means that "
            "there is no such phase, and the other rules decide.",
        ),
        Mistake(
            "a tensor",
            lambda step, steps, peak, warmup, cooldown: torch.tensor(
                rate(step, steps, peak, warmup, cooldown), dtype=torch.float32
            ),
            "You return a tensor, and it keeps seven digits of what you computed. A learning rate "
            "is a plain number: return the `float` itself.",
        ),
    ),
)

# -------------------------------------------------------------- 08.2 three names for the same thing

Three = tuple[Tensor, Tensor, Tensor]


def translate(
    z_t: Tensor, answer: Tensor, abar: Tensor, predicts: str
) -> tuple[Tensor, Tensor, Tensor]:
    """What a network's answer (b, c, h, w) says of z_0, of eps and of v, in this order."""
    alpha, sigma = (x.view(-1, 1, 1, 1) for x in (abar.sqrt(), (1 - abar).sqrt()))
    if predicts == "velocity":
        z_0, eps = alpha * z_t - sigma * answer, sigma * z_t + alpha * answer
    elif predicts == "noise":
        z_0, eps = (z_t - sigma * answer) / alpha, answer
    else:
        z_0, eps = answer, (z_t - alpha * answer) / sigma
    return z_0, eps, alpha * eps - sigma * z_0


Factors = Callable[[Tensor], tuple[Tensor, Tensor]]
Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Three]


def by_rules(
    noise: Rule = lambda z, e, a, s: ((z - s * e) / a, e, (e - s * z) / a),
    clean: Rule = lambda z, x, a, s: (x, (z - a * x) / s, (a * z - x) / s),
    velocity: Rule = lambda z, v, a, s: (a * z - s * v, s * z + a * v, v),
    factors: Factors = lambda abar: (abar.sqrt(), (1 - abar).sqrt()),
    shape: tuple[int, ...] = (-1, 1, 1, 1),
) -> Callable[..., Three]:
    """The answer made of a rule for each kind of network, with alpha and sigma from `factors`."""
    rules = {"noise": noise, "z_0": clean, "velocity": velocity}

    def answer(z_t: Tensor, answer: Tensor, abar: Tensor, predicts: str) -> Three:
        alpha, sigma = (x.view(shape) for x in factors(abar))
        return rules[predicts](z_t, answer, alpha, sigma)

    return answer


def translate_cases(rng: Generator) -> Iterator[Case]:
    shapes = ((2, 3, 4, 5), (1, 4, 2, 3), (3, 2, 3, 3))
    for predicts in ("noise", "velocity", "z_0"):
        for b, *rest in shapes:
            abar = 0.05 + 0.9 * torch.rand(b, generator=rng, dtype=torch.float64)
            z_t, answer = normal(rng, b, *rest), normal(rng, b, *rest)
            yield Case((z_t, answer, abar, predicts))
    for predicts in ("noise", "velocity", "z_0"):
        ends = torch.tensor([0.0047, 0.99], dtype=torch.float64)
        yield Case((normal(rng, 2, 1, 2, 4), normal(rng, 2, 1, 2, 4), ends, predicts))


def in_two_steps(
    factors: Factors = lambda abar: (abar.sqrt(), (1 - abar).sqrt()),
    back: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]] = (
        lambda z, v, a, s: (a * z - s * v, s * z + a * v)
    ),
    last: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = (
        lambda z_0, eps, a, s: a * eps - s * z_0
    ),
    given: bool = False,
) -> Callable[..., Three]:
    """First z_0 and eps, from a velocity by `back`, then v by `last`; given: a velocity that the
    network predicts is returned as it is."""

    def answer(z_t: Tensor, answer: Tensor, abar: Tensor, predicts: str) -> Three:
        a, s = (x.view(-1, 1, 1, 1) for x in factors(abar))
        if predicts == "velocity":
            z_0, eps = back(z_t, answer, a, s)
        elif predicts == "noise":
            z_0, eps = (z_t - s * answer) / a, answer
        else:
            z_0, eps = answer, (z_t - a * answer) / s
        return z_0, eps, answer if given and predicts == "velocity" else last(z_0, eps, a, s)

    return answer


def opposite_velocity(z: Tensor, v: Tensor, a: Tensor, s: Tensor) -> Three:
    return a * z + s * v, s * z - a * v, v


TRANSLATE = Exercise(
    number="08.2",
    title="Three names for the same thing",
    minutes=12,
    difficulty=2,
    statement="A network has seen `z_t`, `(b, c, h, w)`, and given its `answer`, of the same "
    'shape. What it `predicts` is `"noise"`, `"z_0"` or `"velocity"`. Return all three, '
    "`(z_0, eps, v)`, as this answer has them: so that $z_t = \\alpha z_0 + \\sigma \\epsilon$ "
    "holds again, and $v = \\alpha\\epsilon - \\sigma z_0$. You are given `abar`, `(b,)`: "
    "$\\bar\\alpha_t$, for each example at a time of its own; it lies strictly between 0 and 1.",
    hints=(
        "First `alpha` and `sigma` from `abar`, in a shape that belongs to the examples and not to "
        "the columns. Then it is enough to find `z_0` and `eps`: v follows from them.",
        "From the noise: solve the equation of $z_t$ for $z_0$. From $z_0$: solve it for the "
        "noise. From the velocity: the turn of section 3, backwards.",
        "`abar.sqrt().view(-1, 1, 1, 1)`; from a velocity `z_0 = alpha * z_t - sigma * answer` and "
        "`eps = sigma * z_t + alpha * answer`.",
    ),
    solution=translate,
    cases=translate_cases,
    mistakes=(
        Mistake(
            "no roots",
            in_two_steps(lambda abar: (abar, 1 - abar)),
            "You take abar itself for alpha, and 1 - abar for sigma. Those are their squares: "
            "abar is a share of the variance. You would notice that alpha² + sigma² is not 1.",
        ),
        Mistake(
            "no roots, the velocity as given",
            in_two_steps(lambda abar: (abar, 1 - abar), given=True),
            "You forget the roots: alpha is not abar, and sigma not 1 - abar, but their roots. You "
            "would notice that the v of your z_0 and eps is not the velocity you were given.",
        ),
        Mistake(
            "sigma = 1 - alpha",
            in_two_steps(lambda abar: (abar.sqrt(), 1 - abar.sqrt())),
            "Your sigma is 1 - alpha. It is the squares that add up to 1: sigma = √(1 - abar).",
        ),
        Mistake(
            "sigma = 1 - alpha, the velocity as given",
            in_two_steps(lambda abar: (abar.sqrt(), 1 - abar.sqrt()), given=True),
            "You take 1 - alpha for sigma; but it is alpha² + sigma² that is 1, so sigma is "
            "√(1 - abar). Only then are z_t and v a turn of z_0 and eps.",
        ),
        Mistake(
            "alpha and sigma exchanged",
            by_rules(factors=lambda abar: ((1 - abar).sqrt(), abar.sqrt())),
            "You have alpha and sigma exchanged: alpha = √abar belongs to z_0, and is close to 1 "
            "where there is little noise.",
        ),
        Mistake(
            "times along the columns",
            by_rules(shape=(-1,)),
            "Your alpha and sigma have the shape `(b,)`, and so they line up with the columns, the "
            "last axis. Where b and w are equal nothing complains, and every column has its own "
            "time. Give them the shape `(b, 1, 1, 1)`.",
        ),
        Mistake(
            "the velocity's sign",
            by_rules(
                noise=lambda z, e, a, s: ((z - s * e) / a, e, (s * z - e) / a),
                clean=lambda z, x, a, s: (x, (z - a * x) / s, (x - a * z) / s),
                velocity=opposite_velocity,
            ),
            "Your velocity points backwards, from the noise to the picture: it is alpha eps - "
            "sigma z_0, not the other way round. A sampler would walk away from the picture.",
        ),
        Mistake(
            "turned the wrong way",
            by_rules(velocity=opposite_velocity),
            "From a velocity you turn the wrong way: z_0 = alpha z_t - sigma v, with a minus, and "
            "eps = sigma z_t + alpha v, with a plus. Put z_t and v in and see z_0 come out.",
        ),
        Mistake(
            "turned the wrong way, v made anew",
            in_two_steps(back=lambda z, v, a, s: (a * z + s * v, a * v - s * z)),
            "Given a velocity, you turn on instead of back: the plus belongs to eps, the minus to "
            "z_0. You would notice that the v of your z_0 and eps is not the one you were given.",
        ),
        Mistake(
            "the sign of v",
            in_two_steps(last=lambda z_0, eps, a, s: s * z_0 - a * eps),
            "Your z_0 and eps are right, and v is its own opposite: it is alpha eps - sigma z_0. "
            "You would notice that a velocity you were given comes back with another sign.",
        ),
        Mistake(
            "the sign of v, where it is not given",
            in_two_steps(last=lambda z_0, eps, a, s: s * z_0 - a * eps, given=True),
            "Your z_0 and eps are right. But the v that you make of them has the wrong sign: it "
            "is alpha eps - sigma z_0. A velocity that you are given has the right one.",
        ),
        Mistake(
            "plus for minus in v",
            in_two_steps(last=lambda z_0, eps, a, s: a * eps + s * z_0),
            "Your z_0 and eps are right. In v you add where you should subtract: it is alpha eps - "
            "sigma z_0. The symptom: a velocity that you were given comes back as another one.",
        ),
        Mistake(
            "plus for minus in v, where it is not given",
            in_two_steps(last=lambda z_0, eps, a, s: a * eps + s * z_0, given=True),
            "Your z_0 and eps are right. In the v that you make of them you add where you should "
            "subtract: it is alpha eps - sigma z_0.",
        ),
        Mistake(
            "the sign of v in z_0",
            in_two_steps(back=lambda z, v, a, s: (a * z + s * v, s * z + a * v)),
            "From a velocity, your z_0 has the wrong sign before v: it is alpha z_t - sigma v. "
            "Your eps = sigma z_t + alpha v is right.",
        ),
        Mistake(
            "the sign of v in z_0, the velocity as given",
            in_two_steps(back=lambda z, v, a, s: (a * z + s * v, s * z + a * v), given=True),
            "From a velocity, your z_0 has the wrong sign before v. Only eps has a plus there: z_0 "
            "is alpha z_t - sigma v.",
        ),
        Mistake(
            "the sign of v in eps",
            in_two_steps(back=lambda z, v, a, s: (a * z - s * v, s * z - a * v)),
            "From a velocity, your eps has the wrong sign before v: it is sigma z_t + alpha v. "
            "Your z_0 = alpha z_t - sigma v is right.",
        ),
        Mistake(
            "the sign of v in eps, the velocity as given",
            in_two_steps(back=lambda z, v, a, s: (a * z - s * v, s * z - a * v), given=True),
            "From a velocity, your eps has the wrong sign before v. Only z_0 has a minus there: "
            "eps is sigma z_t + alpha v.",
        ),
        Mistake(
            "alpha and sigma exchanged in v",
            in_two_steps(last=lambda z_0, eps, a, s: s * eps - a * z_0),
            "Your z_0 and eps are right; in v you have alpha and sigma exchanged. It is alpha eps "
            "- sigma z_0: where there is hardly any noise, v is nearly eps.",
        ),
        Mistake(
            "alpha and sigma exchanged in v, where it is not given",
            in_two_steps(last=lambda z_0, eps, a, s: s * eps - a * z_0, given=True),
            "Your z_0 and eps are right. In the v that you make of them alpha and sigma are "
            "exchanged: alpha, large where there is little noise, belongs to eps.",
        ),
        Mistake(
            "noise not divided out",
            by_rules(
                noise=lambda z, e, a, s: (z - s * e, e, a * e - s * (z - s * e)),
            ),
            "You take the noise away and forget that what is left is alpha z_0, not z_0. Late in "
            "time alpha is small, and your picture is nearly black.",
        ),
        Mistake(
            "picture not divided out",
            by_rules(clean=lambda z, x, a, s: (x, z - a * x, a * (z - a * x) - s * x)),
            "Taking alpha z_0 away from z_t leaves sigma eps, not eps: divide by sigma.",
        ),
        Mistake(
            "velocity of z_t",
            by_rules(
                noise=lambda z, e, a, s: ((z - s * e) / a, e, a * e - s * z),
                clean=lambda z, x, a, s: (x, (z - a * x) / s, a * (z - a * x) / s - s * z),
            ),
            "In the velocity you put z_t where z_0 belongs: v = alpha eps - sigma z_0.",
        ),
        Mistake(
            "always noise",
            by_rules(
                clean=lambda z, e, a, s: ((z - s * e) / a, e, (e - s * z) / a),
                velocity=lambda z, e, a, s: ((z - s * e) / a, e, (e - s * z) / a),
            ),
            "You take every answer for noise; `predicts` plays no part.",
        ),
        Mistake(
            "another order",
            lambda z_t, answer, abar, predicts: (
                translate(z_t, answer, abar, predicts)[1::-1]
                + translate(z_t, answer, abar, predicts)[2:]
            ),
            "The three are right, but in another order: first z_0, then eps, then v.",
        ),
    ),
)

# ------------------------------------------------------------------- 08.3 sometimes, say nothing

Pair = tuple[Tensor, Tensor]


def dropped(
    context: Tensor, pooled: Tensor, empty: Tensor, empty_pooled: Tensor, u: Tensor, p: float
) -> tuple[Tensor, Tensor]:
    """(context, pooled) with the empty caption's in the examples whose u is below p."""
    silent = u < p  # (b,)
    return (
        torch.where(silent[:, None, None], empty, context),
        torch.where(silent[:, None], empty_pooled, pooled),
    )


def dropped_where(silent: Callable[[Tensor, float], Tensor]) -> Callable[..., Pair]:
    """The right answer but for who is silenced."""

    def answer(
        context: Tensor, pooled: Tensor, empty: Tensor, empty_pooled: Tensor, u: Tensor, p: float
    ) -> Pair:
        chosen = silent(u, p).to(u.dtype)
        return dropped(context, pooled, empty, empty_pooled, 1 - chosen, 0.5)

    return answer


def dropped_cases(rng: Generator) -> Iterator[Case]:
    for b, n, d, p in (
        (6, 3, 4, 0.3),
        (5, 5, 5, 0.6),
        (1, 2, 4, 0.1),
        (8, 2, 3, 0.1),
        (4, 4, 4, 0.4),
    ):
        u = torch.rand(b, generator=rng, dtype=torch.float64)
        u[0], u[-1] = 1.3 * p if p < 0.5 else 0.9, 0.5 * p  # whatever is drawn: one of each kind
        yield Case(
            (
                normal(rng, b, n, d), normal(rng, b, d), normal(rng, 1, n, d), normal(rng, 1, d),
                u, p,
            )
        )  # fmt: skip
    b, n, d = 3, 4, 2
    for p in (0.0, 1.0):  # nobody, everybody
        u = torch.tensor([0.0, 0.5, 0.999], dtype=torch.float64)
        yield Case(
            (
                normal(rng, b, n, d), normal(rng, b, d), normal(rng, 1, n, d), normal(rng, 1, d),
                u, p,
            )
        )  # fmt: skip


DROPPED = Exercise(
    number="08.3",
    title="Sometimes, say nothing",
    minutes=10,
    difficulty=2,
    statement="SDXL's U-Net hears its caption twice: as `context`, `(b, n, d)`, one vector for "
    "each token, and as `pooled`, `(b, d)`, one vector that sums the caption up. Write the caption "
    "dropout for both. `empty`, `(1, n, d)`, and `empty_pooled`, `(1, d)`, are what the empty "
    "caption gives. The dice have been thrown already: `u`, `(b,)`, holds a number from 0 up to, "
    "but not including, 1 for each example, and an example loses its caption where its `u` is "
    "*below* `p`. Return the new `(context, pooled)`.",
    hints=(
        "Each example decides for itself, but once: who loses the one must lose the other, too.",
        "`u < p` is one truth value for each example, `(b,)`. `torch.where(condition, a, b)` wants "
        "it in a shape that lines up with the first axis of what is chosen from.",
        "`torch.where((u < p)[:, None, None], empty, context)`, and the same with one axis fewer "
        "for the pooled vector.",
    ),
    solution=dropped,
    cases=dropped_cases,
    mistakes=(
        Mistake(
            "the whole batch at once",
            dropped_where(lambda u, p: (u[:1] < p).expand_as(u)),
            "Your whole batch is silent or none of it: the first example decides for all. On "
            "average as many captions are dropped, but the loss then jumps from batch to batch, "
            "and with 10 % most batches never practise silence. Each example has its own `u`.",
        ),
        Mistake(
            "kept with probability p",
            dropped_where(lambda u, p: u >= p),
            "You drop where `u` is *not* below p. With p = 0.1 nine captions of ten are lost, and "
            "the model hardly listens. (Is it `torch.where`? It takes its second argument where "
            "the condition holds, and the third elsewhere.)",
        ),
        Mistake(
            "probability 1 - p",
            dropped_where(lambda u, p: u < 1 - p),
            "You drop with probability 1 - p. With p = 0.1 nine captions of ten are lost, and the "
            "model hardly learns to listen.",
        ),
        Mistake(
            "at most p",
            dropped_where(lambda u, p: u <= p),
            "You drop where `u` is p or less. `u` can be exactly 0, and then p = 0 would still "
            "drop a caption. Below p means below.",
        ),
        Mistake(
            "pooled keeps talking",
            lambda context, pooled, empty, empty_pooled, u, p: (
                dropped(context, pooled, empty, empty_pooled, u, p)[0],
                pooled.clone(),
            ),
            "Your pooled vector stays. It sums the caption up, so the network still hears what it "
            "shall not know, and never learns what to draw without a caption. Guidance would then "
            "compare two answers that both listen.",
        ),
        Mistake(
            "context keeps talking",
            lambda context, pooled, empty, empty_pooled, u, p: (
                context.clone(),
                dropped(context, pooled, empty, empty_pooled, u, p)[1],
            ),
            "Your context stays: only the pooled vector is replaced, and cross-attention goes on "
            "reading the caption.",
        ),
        Mistake(
            "zeros for the empty caption",
            lambda context, pooled, empty, empty_pooled, u, p: dropped(
                context, pooled, 0 * empty, 0 * empty_pooled, u, p
            ),
            "You put zeros in. The empty caption is a caption, too: it has a start, an end and "
            "filling, and its states are not zero. Whoever samples with the states of an empty "
            "text would meet something that was never trained. (Zeros work, if one uses them in "
            "both places; they were not asked for here.)",
        ),
        Mistake(
            "a mixture",
            lambda context, pooled, empty, empty_pooled, u, p: (
                torch.lerp(context, empty.expand_as(context), p),
                torch.lerp(pooled, empty_pooled.expand_as(pooled), p),
            ),
            "You mix p of the empty caption into every example, which is what happens *on "
            "average*. The network would never see an empty caption, only muffled ones. Each "
            "example keeps its caption whole, or loses it whole.",
        ),
        Mistake(
            "decided along the channels",
            lambda context, pooled, empty, empty_pooled, u, p: (
                torch.where(u < p, empty, context),
                torch.where(u < p, empty_pooled, pooled),
            ),
            "Your condition has the shape `(b,)`, and lines up with the channels, the last axis. "
            "Where b and d are equal nothing complains, and every caption loses some channels. It "
            "needs axes of length 1 behind it.",
        ),
    ),
)

# -------------------------------------------------------------------- 08.4 velocity, and its weight


def velocity_loss(
    prediction: Tensor, z_0: Tensor, eps: Tensor, abar: Tensor, gamma: float
) -> Tensor:
    """The Min-SNR weighted loss of predicted velocities (b, c, h, w), a scalar; abar is (b,)."""
    alpha, sigma = (x.view(-1, 1, 1, 1) for x in (abar.sqrt(), (1 - abar).sqrt()))
    error = (prediction - (alpha * eps - sigma * z_0)).square().mean(dim=(1, 2, 3))
    snr = abar / (1 - abar)
    return (error * snr.clamp(max=gamma) / (snr + 1)).mean()


Target = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Weight = Callable[[Tensor, float], Tensor]
Fold = Callable[[Tensor, Tensor], Tensor]


def loss_with(
    target: Target = lambda z_0, eps, a, s: a * eps - s * z_0,
    weight: Weight = lambda snr, gamma: snr.clamp(max=gamma) / (snr + 1),
    fold: Fold = lambda squared, weight: (squared.mean(dim=(1, 2, 3)) * weight).mean(),
    factors: Factors = lambda abar: (abar.sqrt(), (1 - abar).sqrt()),
    ratio: Callable[[Tensor], Tensor] = lambda abar: abar / (1 - abar),
) -> Callable[..., Tensor]:
    """target(z_0, eps, alpha, sigma); weight(snr, gamma); fold(squared errors, weights (b,))."""

    def answer(prediction: Tensor, z_0: Tensor, eps: Tensor, abar: Tensor, gamma: float) -> Tensor:
        alpha, sigma = (x.view(-1, 1, 1, 1) for x in factors(abar))
        squared = (prediction - target(z_0, eps, alpha, sigma)).square()
        return fold(squared, weight(ratio(abar), gamma))

    return answer


def loss_cases(rng: Generator) -> Iterator[Case]:
    for b, *rest, gamma in (
        (4, 3, 2, 5, 5.0),
        (1, 2, 3, 4, 1.0),
        (3, 3, 3, 3, 5.0),
        (6, 1, 2, 2, 0.5),
    ):
        abar = torch.linspace(0.97, 0.02, b + 1, dtype=torch.float64)[:-1]
        abar = abar - 0.015 * torch.rand(b, generator=rng, dtype=torch.float64)
        tensors = [normal(rng, b, *rest) for _ in range(3)]
        yield Case((*tensors, abar, gamma))


LOSS = Exercise(
    number="08.4",
    title="The velocity and its weight",
    minutes=15,
    difficulty=2,
    statement="A network has predicted the velocity: `prediction`, `(b, c, h, w)`. You know what "
    "it was made of: `z_0` and `eps`, of the same shape, and `abar`, `(b,)`: $\\bar\\alpha_t$. "
    "Return the loss with Min-SNR weights, one number: the mean squared error of each example, "
    "times the example's weight, and of that the mean. Begin from the idea, not from the formula: "
    "the error of $z_0$ shall count $\\min(\\text{SNR}, \\gamma)$. What does that mean for the "
    "error of $v$?",
    hints=(
        "Three things: the target $v = \\alpha\\epsilon - \\sigma z_0$; the squared error, one "
        "number for each example; and a weight for each example.",
        "By section 4, an error of $v$ is $1/\\sigma$ times that of $z_0$. Squared, it is "
        "SNR + 1 times as large, because SNR is `abar / (1 - abar)`. So a weight for $z_0$ must "
        "be divided by that.",
        "`weight = snr.clamp(max=gamma) / (snr + 1)`, and at the end `(error * weight).mean()`, "
        "both `(b,)`.",
    ),
    solution=velocity_loss,
    cases=loss_cases,
    mistakes=(
        Mistake(
            "the target's sign",
            loss_with(lambda z_0, eps, a, s: s * z_0 - a * eps),
            "Your velocity has the opposite sign: it is alpha eps - sigma z_0. A network would "
            "learn yours just as well, and every sampler would walk backwards with it.",
        ),
        Mistake(
            "a sum for the target",
            loss_with(lambda z_0, eps, a, s: a * eps + s * z_0),
            "Your target adds sigma z_0 where it must be taken away. In the plane of section 3, v "
            "stands at a right angle to z_t; yours does not.",
        ),
        Mistake(
            "alpha and sigma exchanged in the target",
            loss_with(lambda z_0, eps, a, s: s * eps - a * z_0),
            "In your target alpha and sigma are exchanged. Where there is hardly any noise, alpha "
            "is nearly 1 and the velocity is nearly eps.",
        ),
        Mistake(
            "eps and z_0 exchanged in the target",
            loss_with(lambda z_0, eps, a, s: a * z_0 - s * eps),
            "In your target z_0 and eps are exchanged: it is alpha eps - sigma z_0. What you have "
            "is nearly z_0 where there is hardly any noise, and that the network sees already.",
        ),
        Mistake(
            "the noise for the target",
            loss_with(lambda z_0, eps, a, s: eps),
            "You compare with the noise. That is the target of the other kind of network; this one "
            "has predicted the velocity, alpha eps - sigma z_0.",
        ),
        Mistake(
            "z_t for the target",
            loss_with(lambda z_0, eps, a, s: a * z_0 + s * eps),
            "You compare with z_t, which the network has been given: it could simply return it.",
        ),
        Mistake(
            "the noise's weight",
            loss_with(weight=lambda snr, gamma: snr.clamp(max=gamma) / snr),
            "Your weight is min(SNR, gamma) / SNR, which belongs to predicted noise. An error of "
            "the velocity is SNR + 1 times that of z_0 (squared), so divide by SNR + 1. This "
            "mistake was in published training code, too.",
        ),
        Mistake(
            "the weight of z_0",
            loss_with(weight=lambda snr, gamma: snr.clamp(max=gamma)),
            "Your weight is that of errors in z_0. Those in v are larger by SNR + 1 (squared), "
            "which you must divide out again.",
        ),
        Mistake(
            "maximum for minimum",
            loss_with(weight=lambda snr, gamma: snr.clamp(min=gamma) / (snr + 1)),
            "You take the larger of SNR and gamma. `clamp(min=...)` is a lower limit; what the "
            "weight needs is an upper one, `clamp(max=gamma)`.",
        ),
        Mistake(
            "no limit",
            loss_with(weight=lambda snr, gamma: snr / (snr + 1)),
            "Your gamma has no effect: nothing limits the SNR. The limit belongs on the SNR "
            "itself, before you divide.",
        ),
        Mistake(
            "the finished weight limited",
            loss_with(weight=lambda snr, gamma: (snr / (snr + 1)).clamp(max=gamma)),
            "You limit SNR / (SNR + 1), the finished weight. That is too late: it is never above "
            "1, so a gamma of 5 would change nothing. Limit the SNR first, then divide.",
        ),
        Mistake(
            "limited above and below",
            loss_with(weight=lambda snr, gamma: snr.clamp(max=gamma) / (snr.clamp(max=gamma) + 1)),
            "You limit the SNR in the denominator, too. There it says how much larger an error of "
            "v is than one of z_0, and that has no limit: divide by the SNR as it is, plus 1.",
        ),
        Mistake(
            "no weight",
            loss_with(weight=lambda snr, gamma: torch.ones_like(snr)),
            "This is the loss with equal weights. For the error of z_0 that is SNR + 1, without "
            "any limit.",
        ),
        Mistake(
            "SNR without squares",
            loss_with(ratio=lambda abar: (abar / (1 - abar)).sqrt()),
            "Your SNR is alpha / sigma. It is a ratio of variances: alpha² / sigma², which is "
            "abar / (1 - abar).",
        ),
        Mistake(
            "no roots",
            loss_with(factors=lambda abar: (abar, 1 - abar)),
            "You use abar for alpha and 1 - abar for sigma in the target. Those are their squares.",
        ),
        Mistake(
            "mean error times mean weight",
            loss_with(fold=lambda squared, weight: squared.mean() * weight.mean()),
            "You average the errors and the weights separately. Then every example counts the "
            "same. Multiply each example's error with its own weight first.",
        ),
        Mistake(
            "divided by the sum of the weights",
            loss_with(
                fold=lambda squared, weight: (
                    (squared.mean(dim=(1, 2, 3)) * weight).sum() / weight.sum()
                )
            ),
            "You divide by the sum of the weights. Then one and the same picture counts more in a "
            "batch of noisy ones than in a batch of clear ones. Asked for is the plain mean.",
        ),
        Mistake(
            "sum over the numbers of an example",
            loss_with(fold=lambda squared, weight: (squared.sum(dim=(1, 2, 3)) * weight).mean()),
            "You add up the squares of an example. With the mean the loss does not depend on how "
            "large the latents are, and neither does the best learning rate.",
        ),
        Mistake(
            "the prediction in float32",
            lambda prediction, z_0, eps, abar, gamma: velocity_loss(
                prediction.float(), z_0, eps, abar, gamma
            ),
            "You turn the prediction into float32, as section 5 does for networks that answer in "
            "half precision. These numbers have more digits than that, and you cut them off. Leave "
            "the `dtype` as it is.",
        ),
        Mistake(
            "one number for each example",
            loss_with(fold=lambda squared, weight: squared.mean(dim=(1, 2, 3)) * weight),
            "You return one loss for each example. `backward()` wants a single number: take the "
            "mean over the batch at last.",
        ),
    ),
)

# ------------------------------------------------------------------ 08.5 what is in an average


def shares(steps: int, decay: float) -> list[float]:
    """steps + 1 numbers: of the first weights, then of the weights after each step."""
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(steps)]
    kept = 1.0  # what the steps that follow leave of it
    found = []
    for d in reversed(decays):
        found.append((1 - d) * kept)
        kept *= d
    return [kept, *reversed(found)]


def shares_with(decays: Sequence[float]) -> list[float]:
    """The right answer for these decays."""
    found = [1.0]
    for d in decays:
        found = [d * share for share in found] + [1 - d]
    return found


def warmed(steps: int, decay: float) -> list[float]:
    return [min(decay, (1 + n) / (10 + n)) for n in range(steps)]


def without_later_steps(steps: int, decay: float) -> list[float]:
    decays = warmed(steps, decay)
    return [math.prod(decays), *(1 - d for d in decays)]


def decayed_once_too_often(steps: int, decay: float) -> list[float]:
    decays = warmed(steps, decay)
    later = [math.prod(decays[n:]) for n in range(steps)]
    return [math.prod(decays), *((1 - d) * k for d, k in zip(decays, later, strict=True))]


def powers_of_the_last(steps: int, decay: float) -> list[float]:
    d = warmed(steps, decay)[-1]
    return [d**steps, *((1 - d) * d ** (steps - 1 - n) for n in range(steps))]


def shares_cases(_: Generator) -> Iterator[Case]:
    for steps, decay in ((1, 0.9), (2, 0.99), (5, 0.99), (12, 0.3), (40, 0.7), (30, 0.9999)):
        yield Case((steps, decay))


SHARES = Exercise(
    number="08.5",
    title="What is in an average",
    minutes=20,
    difficulty=3,
    statement="An `EMA` has been updated `steps` times (at least once), with the decay and the "
    "slow start of section 6. It is then a mixture of all the weights there have been. How much of "
    "each? Return a list, not a tensor, of `steps + 1` numbers: first the share of the random "
    "weights that the average began with, then the shares of the weights after step number 0, 1, "
    "… up to the last. "
    "(Look at a few runs of your own. The shares add up to 1. After 20 steps with a decay of 0.999 "
    "the newest weights have the largest share; without the slow start it would be the random "
    "ones, with nearly everything.)",
    hints=(
        "Step n multiplies everything that is in the average with its decay $d_n$, and adds "
        "$(1 - d_n)$ of the newest weights. So what happens to a share after it has come in?",
        "The weights after step n come in with a share of $1 - d_n$. Every later step multiplies "
        "it with its own decay: $(1 - d_n) \\, d_{n+1} \\, d_{n+2} \\cdots$.",
        "Keep a list, beginning with `[1.0]`. For each step with decay `d`, multiply all that is "
        "in the list with `d` and append `1 - d`. The decay of step n is "
        "`min(decay, (1 + n) / (10 + n))`.",
    ),
    solution=shares,
    cases=shares_cases,
    trained=False,
    mistakes=(
        Mistake(
            "decay and 1 - decay exchanged",
            lambda steps, decay: shares_with([1 - d for d in warmed(steps, decay)]),
            "You keep 1 - decay of the average and take decay of the newest weights. With 0.999 "
            "such an average is the newest weights and nothing else. You would notice that it is "
            "as restless as the network itself.",
        ),
        Mistake(
            "no slow start",
            lambda steps, decay: shares_with([decay] * steps),
            "You use the whole decay from the first step on. Then the random weights of the "
            "beginning stay for hundreds of steps, and the average draws nothing but noise. Early "
            "decays are smaller: min(decay, (1 + n) / (10 + n)).",
        ),
        Mistake(
            "only the slow start",
            lambda steps, decay: shares_with([(1 + n) / (10 + n) for n in range(steps)]),
            "Your decay goes on growing and `decay` plays no part. The slow start ends where "
            "(1 + n) / (10 + n) has grown larger than `decay`: take the smaller of the two.",
        ),
        Mistake(
            "steps counted from 1",
            lambda steps, decay: shares_with(
                [min(decay, (1 + n) / (10 + n)) for n in range(1, steps + 1)]
            ),
            "You number the steps from 1. The first step has the number 0 and a decay of 1/10.",
        ),
        Mistake(
            "maximum for minimum",
            lambda steps, decay: shares_with(
                [max(decay, (1 + n) / (10 + n)) for n in range(steps)]
            ),
            "You take the larger of the two decays. The slow start is there to forget *faster* at "
            "the beginning, so the smaller counts.",
        ),
        Mistake(
            "newest first",
            lambda steps, decay: shares(steps, decay)[::-1],
            "Your shares are right, and run from the newest weights to the oldest. The list begins "
            "with the random weights.",
        ),
        Mistake(
            "without what came later",
            without_later_steps,
            "You give each step the share with which it came in. Every later step takes a part of "
            "that away again. You would notice that your shares add up to more than 1.",
        ),
        Mistake(
            "decayed once too often",
            decayed_once_too_often,
            "You multiply the share of a step with that step's own decay, too. New weights come in "
            "*after* the old average has been multiplied; only later steps take from them. You "
            "would notice that your shares add up to less than 1.",
        ),
        Mistake(
            "one decay for all steps",
            powers_of_the_last,
            "You use the last step's decay for all steps. Each step had its own; the shares are "
            "products of different numbers, not powers of one.",
        ),
        Mistake(
            "all alike",
            lambda steps, decay: [1 / (steps + 1)] * (steps + 1),
            "This is the plain mean of all weights there have been. An EMA forgets: what came "
            "earlier counts less.",
        ),
        Mistake(
            "without the first weights",
            lambda steps, decay: shares(steps, decay)[1:],
            "The share of the random weights is missing: they are what the average began with, and "
            "a little of them stays in it for ever.",
        ),
        Mistake(
            "a tensor of few digits",
            lambda steps, decay: torch.tensor(shares(steps, decay), dtype=torch.float32),
            "The shares are right, but they are in a tensor, with seven digits each. Return a "
            "list of plain numbers.",
        ),
        Mistake(
            "a tensor for the list",
            lambda steps, decay: torch.tensor(shares(steps, decay), dtype=torch.float64),
            "The shares are right, but they are in a tensor. Return a list of plain numbers; "
            "`.tolist()` makes one of a tensor.",
        ),
    ),
)

EXERCISES = (RATE, TRANSLATE, DROPPED, LOSS, SHARES)

# -------------------------------------------------------------------------------------------- quiz

QUESTIONS = (
    Question(
        "In a long run with predicted noise, the loss at the smallest times stays close to 1, "
        "while pictures get better and better. What follows?",
        (
            Answer(
                "The network has learnt nothing there; train longer at small times.",
                False,
                "It would not help. Where there is less noise than there is detail in the data "
                "that nobody could foresee, the noise cannot be told from the detail.",
            ),
            Answer(
                "Nothing is wrong: hardly anyone could do better there.",
                True,
                "The noise is smaller than the unforeseeable detail of the data, so the best guess "
                "of it is nearly 0, and the loss of that guess is 1. And the error hardly matters: "
                "for z_0 it is divided by the SNR, which is huge there.",
            ),
            Answer(
                "The schedule adds too much noise at small times.",
                False,
                "It adds very little; that is the reason. The same network can be right about z_0 "
                "and wrong about what little noise was added to it.",
            ),
        ),
    ),
    Question(
        "A run is resumed with its weights, its average and its step, but with a new AdamW. Its "
        "learning rate is as large as before. What does its first update do?",
        (
            Answer(
                "It moves every weight by about the whole learning rate, whatever the size of its "
                "gradient.",
                True,
                "AdamW divides the mean gradient by the root of the mean squared gradient. After "
                "one step both know only this one gradient, so the quotient is 1 or -1. Weights "
                "whose gradients are mostly chance are pushed as far as all others.",
            ),
            Answer(
                "Nothing, because the mean gradient of a new optimizer is zero.",
                False,
                "It starts at zero, but AdamW knows that and corrects for it. (Without the "
                "correction its first steps would be too small.)",
            ),
            Answer(
                "The same as without the interruption, because the gradient is the same.",
                False,
                "The gradient is the same, but the update is not: it depends on the earlier "
                "gradients, which only the optimizer's state remembers.",
            ),
        ),
    ),
    Question(
        "You change a training from noise to velocity, and leave the weights of the loss at 1. Why "
        "is that more than a change of variables?",
        (
            Answer(
                "Because velocities are larger than noise, so the learning rate is now too large.",
                False,
                "Both have a variance of about 1 where the latents do: v is eps and z_0, turned.",
            ),
            Answer(
                "It is not more: the network's answers can be converted into each other.",
                False,
                "The answers can. But an error of v is another error in z_0 than one of eps.",
            ),
            Answer(
                "Because the error of z_0 now counts SNR + 1 instead of SNR, so late times matter "
                "far more.",
                True,
                "Where there is almost only noise, SNR is nearly 0: what the network thinks of z_0 "
                "there counted almost nothing, and now counts 1.",
            ),
        ),
    ),
)
