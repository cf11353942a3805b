"""Exercises and quiz of notebook 09, sampling."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from sdlearn.course.grading.exercise import Answer, Case, Exercise, Mistake, Question, normal
from sdlearn.samplers import Denoiser, predicted_noise, step_to
from sdlearn.schedule import Point

# ------------------------------------------------------------------------------- 09.1 the budget


def affordable(sampler: str, evaluations: int, scale: float) -> int:
    """The largest number of steps that needs at most this many evaluations of the U-Net."""
    calls = evaluations if scale == 1 else evaluations // 2
    if sampler == "heun":  # 2 n - 1 calls for n steps
        return (calls + 1) // 2
    if sampler == "plms" and calls > 1:  # n + 1 calls, but one step needs only one
        return calls - 1
    return calls


def spent(
    heun: Callable[[int], int] = lambda calls: (calls + 1) // 2,
    plms: Callable[[int], int] = lambda calls: calls - 1 if calls > 1 else calls,
    free: Callable[[float], bool] = lambda scale: scale == 1,
) -> Callable[[str, int, float], int]:
    """The right answer but for one of its rules."""

    def answer(sampler: str, evaluations: int, scale: float) -> int:
        calls = evaluations if free(scale) else evaluations // 2
        rules = {"heun": heun, "plms": plms}
        return rules[sampler](calls) if sampler in rules else calls

    return answer


def guidance_last(sampler: str, evaluations: int, scale: float) -> int:
    steps = affordable(sampler, evaluations, 1)
    return steps if scale == 1 else steps // 2


def halved_up(sampler: str, evaluations: int, scale: float) -> int:
    return affordable(sampler, evaluations if scale == 1 else (evaluations + 1) // 2, 1)


def in_halves(sampler: str, evaluations: int, scale: float) -> int:
    calls = evaluations if scale == 1 else evaluations / 2
    if sampler == "heun":
        return int((calls + 1) / 2)
    return int(calls - 1) if sampler == "plms" and calls > 1 else int(calls)


def budget_cases(_: Generator) -> Iterator[Case]:
    for sampler in ("ddim", "heun", "plms", "dpm_pp_2m"):
        for evaluations in (0, 1, 2, 3, 5, 6, 100, 101):
            for scale in (1.0, 7.5, 0.0, 0.5):
                yield Case((sampler, evaluations, scale))


BUDGET = Exercise(
    number="09.1",
    title="The budget",
    minutes=8,
    difficulty=1,
    statement="What costs time is the U-Net, and you can pay for so many evaluations of it, no "
    'more. How many steps can you take with `"ddim"`, `"heun"`, `"plms"` or `"dpm_pp_2m"`? The '
    "path ends clean, as those of `path_of` do. With guidance (any `scale` but `1`) every call "
    "of the denoiser evaluates the U-Net twice, once with the prompt and once without. A step that "
    "you cannot pay in full is not taken; where there is nothing to spend, the answer is `0`.",
    hints=(
        "First turn evaluations into calls of the denoiser; then ask how many calls n steps of "
        "each sampler make. Sections 7 and 8 count them.",
        "n steps are n calls for two of them, 2 n - 1 for Heun and n + 1 for PLMS. Solve for n, "
        "and round down. Then try very small budgets by hand: which step of PLMS is "
        "the dear one?",
        "With `calls = evaluations if scale == 1 else evaluations // 2` Heun has `(calls + 1) // "
        "2` steps. PLMS has `calls - 1`, but a single step is DDIM's and takes one call only.",
    ),
    solution=affordable,
    cases=budget_cases,
    trained=False,
    mistakes=(
        Mistake(
            "guidance is free",
            spent(free=lambda scale: True),
            "You count a call of the denoiser as one evaluation at every scale. With guidance the "
            "U-Net answers twice, with the prompt and without, and you would overdraw your budget "
            "by a factor of two.",
        ),
        Mistake(
            "always twice",
            spent(free=lambda scale: False),
            "You halve the budget at scale 1, too. There the unconditional half has no influence, "
            "and nobody computes it.",
        ),
        Mistake(
            "guidance above one only",
            spent(free=lambda scale: scale <= 1),
            "At the scales 0 and 0.5 you count one evaluation a call, as if guidance began above "
            "1. Only 1 itself is off: below it the formula still names both outputs, and ours "
            "computes both.",
        ),
        Mistake(
            "off at zero, too",
            spent(free=lambda scale: scale in (0, 1)),
            "At scale 0 you count one evaluation a call. The conditional output has no influence "
            "there, but only scale 1 is treated as off: at 0, too, both outputs are computed.",
        ),
        Mistake(
            "off at zero alone",
            spent(free=lambda scale: scale == 0),
            "You take 0 for the scale at which guidance is off. In uncond + scale · (cond - "
            "uncond) that is 1: there the conditional output stands alone, and one evaluation is "
            "enough.",
        ),
        Mistake(
            "halved and rounded up",
            halved_up,
            "You round up when you halve the evaluations. Half a call cannot be paid: with 3 "
            "evaluations there is one call with guidance, and one evaluation is left over.",
        ),
        Mistake(
            "half a call",
            in_halves,
            "You halve the evaluations with `/`, and the half call that is left over counts in "
            "what follows. Round down at once, `evaluations // 2`: half a call cannot be made.",
        ),
        Mistake(
            "always half",
            lambda sampler, evaluations, scale: evaluations // 2 if scale != 1 else evaluations,
            "You halve the evaluations for guidance and return that for every sampler. Those are "
            "the *calls*. Heun makes 2 n - 1 calls for n steps, and PLMS n + 1.",
        ),
        Mistake(
            "guidance counted last",
            guidance_last,
            "You count the steps first and halve them for guidance afterwards. Round where the "
            "money is spent: the evaluations are halved, not the steps.",
        ),
        Mistake(
            "Heun with two calls every step",
            spent(heun=lambda calls: calls // 2),
            "You let Heun call twice in every step. Its last step ends without noise, where there "
            "is nothing to ask, so n steps are 2 n - 1 calls.",
        ),
        Mistake(
            "Heun solved the wrong way",
            spent(heun=lambda calls: max((calls - 1) // 2, 0)),
            "You solve 2 n + 1 calls for n, not 2 n - 1: the last step of Heun's saves a call, it "
            "does not need another one.",
        ),
        Mistake(
            "Heun as one call",
            spent(heun=lambda calls: calls),
            "You give Heun as many steps as DDIM. It looks at both ends of a step.",
        ),
        Mistake(
            "PLMS as one call",
            spent(plms=lambda calls: calls),
            "You forget that PLMS has no past at its first step, and calls twice there: n + 1 "
            "calls for n steps.",
        ),
        Mistake(
            "PLMS with a call too few",
            spent(plms=lambda calls: calls + 1 if calls else 0),
            "You solve n - 1 calls for n. PLMS calls once more than it has steps, so there are "
            "fewer steps than calls.",
        ),
        Mistake(
            "a single step of PLMS",
            spent(plms=lambda calls: max(calls - 1, 0)),
            "Nearly: with one call PLMS can take one step. A path of one step ends clean, where "
            "nothing can be asked, and the step is DDIM's.",
        ),
        Mistake(
            "in debt",
            spent(plms=lambda calls: calls - 1 if calls != 1 else 1),
            "With nothing to spend your PLMS takes a negative number of steps. Try the smallest "
            "budgets by hand.",
        ),
    ),
)

# ----------------------------------------------------------------------------- 09.2 Ho's own step


def ho_step(z: Tensor, eps: Tensor, here: "Point", there: "Point", fresh: Tensor) -> Tensor:
    """One DDPM step from here to there; eps: the predicted noise, fresh: new noise, as z."""
    keep = (here.alpha / there.alpha) ** 2
    mean = (z - (1 - keep) / here.sigma * eps) / keep.sqrt()
    std = there.sigma / here.sigma * (1 - keep).sqrt()
    return mean + std * fresh


def ho(
    keep: Callable[[Point, Point], Tensor] = lambda here, there: (here.alpha / there.alpha) ** 2,
    share: Callable[[Tensor, Point], Tensor] = lambda keep, here: (1 - keep) / here.sigma,
    grown: Callable[[Tensor, Point], Tensor | float] = lambda keep, here: keep.sqrt(),
    std: Callable[[Tensor, Point, Point], Tensor | float] = lambda keep, here, there: (
        there.sigma / here.sigma * (1 - keep).sqrt()
    ),
) -> Callable[..., Tensor]:
    """Ho's step with one of its parts replaced."""

    def answer(z: Tensor, eps: Tensor, here: Point, there: Point, fresh: Tensor) -> Tensor:
        kept = keep(here, there)
        mean = (z - share(kept, here) * eps) / grown(kept, here)
        return mean + std(kept, here, there) * fresh

    return answer


def one_place(rng: Generator, low: float, high: float) -> Point:
    """A point whose angle, sigma = sin(angle), lies between low and high."""
    angle = low + (high - low) * torch.rand((), generator=rng, dtype=torch.float64)
    return Point(round(600 * float(angle), 1), angle.cos(), angle.sin())


def step_cases(rng: Generator) -> Iterator[Case]:
    for shape in ((2, 4, 3, 5), (1, 2, 6, 4), (3, 3, 3, 3)):
        here, there = one_place(rng, 0.9, 1.4), one_place(rng, 0.2, 0.8)
        yield Case((normal(rng, *shape), normal(rng, *shape), here, there, normal(rng, *shape)))
    near, far = one_place(rng, 1.3, 1.35), one_place(rng, 1.22, 1.28)  # a short step
    yield Case((normal(rng, 2, 2), normal(rng, 2, 2), near, far, normal(rng, 2, 2)))


HO = Exercise(
    number="09.2",
    title="The step as it was published",
    minutes=15,
    difficulty=2,
    statement="Ho's paper, and many programs, write a step of DDPM with the predicted noise `eps` "
    "in place of an estimate of z_0. Write it that way, for any stride: return $z_s$, where `here` "
    "is $t$, `there` is $s$, both with an `.alpha` and a `.sigma`, and `fresh` is the new standard "
    "normal noise. It must be the step of section 4, when `z = alpha z_0 + sigma eps`. There is "
    "always noise left at `there`.",
    hints=(
        "Two ways lead there: put the z_0 that belongs to `eps` into the formula of section 4, "
        "or do so on paper first and simplify. The checker cannot tell which you took.",
        "z_0 = (z - σ_t ε) / α_t. With a = (α_t / α_s)² the mean becomes (z - … ε) / √a; the "
        "standard deviation is that of section 4.",
        "`mean = (z - (1 - a) / here.sigma * eps) / a.sqrt()`, and the noise is multiplied by "
        "`there.sigma / here.sigma * (1 - a).sqrt()`.",
    ),
    solution=ho_step,
    cases=step_cases,
    trained=False,
    mistakes=(
        Mistake(
            "ratio without its square",
            ho(keep=lambda here, there: here.alpha / there.alpha),
            "You take alpha_t / alpha_s for a. Our alpha is the *root* of the papers' ᾱ, so a, "
            "which compares two ᾱ, is its square.",
        ),
        Mistake(
            "from the beginning",
            ho(keep=lambda here, there: here.alpha**2),
            "Your a is alpha_t², as if every step came all the way from a clean latent. Between s "
            "and t only the factor alpha_t / alpha_s was added.",
        ),
        Mistake(
            "upside down",
            ho(keep=lambda here, there: (there.alpha / here.alpha) ** 2),
            "Your a is larger than 1, and 1 - a negative: s and t have changed places. Going to "
            "the noisier t, alpha falls, so a = (alpha_t / alpha_s)² is below 1.",
        ),
        Mistake(
            "variance for standard deviation",
            ho(std=lambda keep, here, there: (there.sigma / here.sigma) ** 2 * (1 - keep)),
            "You multiply the noise by the variance of the posterior. It is the standard deviation "
            "that scales a standard normal: its root.",
        ),
        Mistake(
            "half a root",
            ho(std=lambda keep, here, there: there.sigma / here.sigma * (1 - keep)),
            "The root of the variance is taken of sigma_s² / sigma_t² only; (1 - a) needs it, too.",
        ),
        Mistake(
            "variance of the forward step",
            ho(std=lambda keep, here, there: 1 - keep),
            "You multiply the fresh noise by 1 - a. That is the variance of the forward step; the "
            "posterior's standard deviation is sigma_s / sigma_t · √(1 - a).",
        ),
        Mistake(
            "the other variance",
            ho(std=lambda keep, here, there: (1 - keep).sqrt()),
            "Your variance is 1 - a, what the forward step adds. Ho et al. tried this, too, and "
            "it is the exact one for data that is itself pure noise. Asked for is the posterior of "
            "section 4, for a z_0 that is known; yours lacks the factor sigma_s / sigma_t.",
        ),
        Mistake(
            "predict and renoise",
            lambda z, eps, here, there, fresh: (
                there.alpha * (z - here.sigma * eps) / here.alpha + there.sigma * fresh
            ),
            "You guess z_0, and then noise it afresh to s. That keeps nothing of z but the guess. "
            "The posterior stays close to z: most of the noise in it is kept, and only as much "
            "fresh noise is added as this one step needs. The symptom: trajectories jump about, "
            "and short steps do not help.",
        ),
        Mistake(
            "without noise",
            lambda z, eps, here, there, fresh: (
                there.alpha * (z - here.sigma * eps) / here.alpha + there.sigma * eps
            ),
            "This is the step of DDIM: it scales the same eps to the noise at s, and draws "
            "nothing. Asked for is the step of DDPM, which keeps a part of eps and adds fresh "
            "noise.",
        ),
        Mistake(
            "sigma of s under eps",
            lambda z, eps, here, there, fresh: (
                ho_step(z, eps, here, there, fresh)
                + ((1 - (here.alpha / there.alpha) ** 2) * (1 / here.sigma - 1 / there.sigma) * eps)
                * (there.alpha / here.alpha)
            ),
            "In the mean you divide by sigma_s. `here` and `there` are exchanged in that place: "
            "eps is the noise in z, at t, so its share is (1 - a) / sigma_t.",
        ),
        Mistake(
            "the noise left undivided",
            ho(std=lambda keep, here, there: there.sigma * (1 - keep).sqrt()),
            "Your standard deviation lacks the divisor sigma_t: it is sigma_s / sigma_t · √(1 - "
            "a).",
        ),
        Mistake(
            "all the noise that there is",
            ho(std=lambda keep, here, there: there.sigma),
            "You add sigma_s of fresh noise, but the mean still has a part of the old. Together "
            "there is more noise at s than there should be.",
        ),
        Mistake(
            "s and t exchanged in the noise",
            ho(std=lambda keep, here, there: here.sigma / there.sigma * (1 - keep).sqrt()),
            "In your standard deviation sigma_t stands above and sigma_s below. The less noise at "
            "s, the smaller it must be; yours grows without limit.",
        ),
        Mistake(
            "no fresh noise",
            ho(std=lambda keep, here, there: 0.0),
            "You return the mean. Without the fresh noise all walks run together, as section 5 "
            "shows.",
        ),
        Mistake(
            "all of eps removed",
            ho(share=lambda keep, here: here.sigma),
            "You take all of the noise out, sigma_t eps, before you divide. A step removes only "
            "the part that lies between s and t: (1 - a) / sigma_t.",
        ),
        Mistake(
            "the root of 1 - a",
            ho(share=lambda keep, here: (1 - keep).sqrt()),
            "You subtract √(1 - a) eps, the size of the noise that this one step added. But eps is "
            "all the noise in z, and only part of it came with this step: (1 - a) / sigma_t.",
        ),
        Mistake(
            "divided by sigma_t twice",
            ho(share=lambda keep, here: (1 - keep) / here.sigma**2),
            "You divide the share of eps by sigma_t². That divisor belongs to the formula for z_0; "
            "putting z_0 = (z - sigma_t eps) / alpha_t into it cancels one of the two sigmas.",
        ),
        Mistake(
            "not divided by sigma_t",
            ho(share=lambda keep, here: 1 - keep),
            "The factor of eps lacks its divisor sigma_t. At the noisiest times sigma_t is nearly "
            "1 and nobody notices; towards the end it is small.",
        ),
        Mistake(
            "not grown again",
            ho(grown=lambda keep, here: 1.0),
            "You forget the division by √a. A forward step makes the latent smaller by √a; going "
            "back it must grow again, or your pictures are pale.",
        ),
        Mistake(
            "grown too much",
            ho(grown=lambda keep, here: keep),
            "You divide by a and not by its root: z is multiplied by √a on the way there, so that "
            "its variance has the factor a.",
        ),
        Mistake(
            "grown as if to a clean latent",
            ho(grown=lambda keep, here: here.alpha),
            "You divide by alpha_t, which is √a only where alpha_s is 1. That would take the "
            "latent all the way to a clean one; to s it grows by alpha_s / alpha_t.",
        ),
    ),
)

# ------------------------------------------------------------------- 09.3 one step from a velocity


def velocity_step(
    z: Tensor, v: Tensor, here: "Point", there: "Point", eta: float, fresh: Tensor
) -> Tensor:
    """One DDIM step from here to there; v: the predicted velocity, fresh: new noise, as z."""
    z_0 = here.alpha * z - here.sigma * v
    eps = here.sigma * z + here.alpha * v
    kick = eta * there.sigma / here.sigma * (1 - (here.alpha / there.alpha) ** 2).sqrt()
    return there.alpha * z_0 + (there.sigma**2 - kick**2).sqrt() * eps + kick * fresh


def split(z: Tensor, v: Tensor, here: Point) -> tuple[Tensor, Tensor]:
    return here.alpha * z - here.sigma * v, here.sigma * z + here.alpha * v


def full_kick(here: Point, there: Point) -> Tensor:
    """The standard deviation of the posterior: the noise of eta 1."""
    return there.sigma / here.sigma * (1 - (here.alpha / there.alpha) ** 2).sqrt()


def by_parts(
    read: Callable[[Tensor, Tensor, Point], tuple[Tensor, Tensor]] = split,
    kick: Callable[[float, Point, Point], Any] = lambda eta, here, there: (
        eta * full_kick(here, there)
    ),
    left: Callable[[Tensor, Any], Tensor] = lambda sigma, kick: (sigma**2 - kick**2).sqrt(),
) -> Callable[..., Tensor]:
    """The right step with one of its parts replaced."""

    def answer(
        z: Tensor, v: Tensor, here: Point, there: Point, eta: float, fresh: Tensor
    ) -> Tensor:
        z_0, eps = read(z, v, here)
        kicked = kick(eta, here, there)
        return there.alpha * z_0 + left(there.sigma, kicked) * eps + kicked * fresh

    return answer


def as_noise(z: Tensor, v: Tensor, here: Point) -> tuple[Tensor, Tensor]:
    return (z - here.sigma * v) / here.alpha, v


def divided(z: Tensor, v: Tensor, here: Point) -> tuple[Tensor, Tensor]:
    eps = here.sigma * z + here.alpha * v
    return (z - here.sigma * eps) / here.alpha, eps


def sigma_of_here(
    z: Tensor, v: Tensor, here: Point, there: Point, eta: float, fresh: Tensor
) -> Tensor:
    z_0, eps = split(z, v, here)
    kick = eta * full_kick(here, there)
    return there.alpha * z_0 + (here.sigma**2 - kick**2).sqrt() * eps + kick * fresh


def unscaled_noise(
    z: Tensor, v: Tensor, here: Point, there: Point, eta: float, fresh: Tensor
) -> Tensor:
    z_0, eps = split(z, v, here)
    kick = eta * full_kick(here, there)
    return there.alpha * z_0 + (there.sigma**2 - kick**2).sqrt() * eps + eta * fresh


def no_fresh(z: Tensor, v: Tensor, here: Point, there: Point, eta: float, fresh: Tensor) -> Tensor:
    return by_parts()(z, v, here, there, eta, torch.zeros_like(z))


def whole_kick(
    z: Tensor, v: Tensor, here: Point, there: Point, eta: float, fresh: Tensor
) -> Tensor:
    z_0, eps = split(z, v, here)
    kick = full_kick(here, there)
    return there.alpha * z_0 + (there.sigma**2 - (eta * kick) ** 2).sqrt() * eps + kick * fresh


def velocity_cases(rng: Generator) -> Iterator[Case]:
    for shape, eta in (((2, 4, 3, 5), 0.6), ((1, 2, 4, 6), 1.0), ((3, 3, 3, 3), 0.0)):
        here, there = one_place(rng, 0.9, 1.4), one_place(rng, 0.2, 0.8)
        z, v, fresh = (normal(rng, *shape) for _ in range(3))
        yield Case((z, v, here, there, eta, fresh))
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    z, v, fresh = (normal(rng, 2, 3, 2, 2) for _ in range(3))
    yield Case((z, v, Point(999.0, zero, one), one_place(rng, 1.0, 1.4), 0.3, fresh))


VELOCITY = Exercise(
    number="09.3",
    title="A step from a velocity",
    minutes=15,
    difficulty=2,
    statement="Some versions of Stable Diffusion have a U-Net that predicts neither noise nor "
    "z_0, but the *velocity* $v = \\alpha\\,\\epsilon - \\sigma\\,z_0$. Write one step of DDIM for "
    "such a network, with any `eta`: return $z_s$, where `here` is $t$ and `there` is $s$. It must "
    "also work at the very beginning of a path on which nothing is left of the picture: "
    "`here.alpha` is then `0`, and `here.sigma` is `1`.",
    hints=(
        "You know z = α z_0 + σ ε and v = α ε - σ z_0: two equations, two unknowns, and α² + σ² "
        "is 1. Solve them without a division.",
        "z_0 = α z - σ v and ε = σ z + α v. The rest is section 5: the kick has `eta` times the "
        "posterior's standard deviation, and what "
        "remains of eps makes room for it.",
        "`kick = eta * there.sigma / here.sigma * (1 - (here.alpha / there.alpha) ** 2).sqrt()`; "
        "the factor of eps is `(there.sigma ** 2 - kick ** 2).sqrt()`.",
    ),
    solution=velocity_step,
    cases=velocity_cases,
    trained=False,
    mistakes=(
        Mistake(
            "velocity taken for noise",
            by_parts(as_noise),
            "You read v as if it were the noise. A v-model run this way gives grey or "
            "glaring pictures, and this mistake is made with every new version. Solve for z_0 and "
            "eps first.",
        ),
        Mistake(
            "divided by alpha",
            by_parts(divided),
            "You divide by alpha, for z_0 or for eps. Where nothing is left of the picture alpha "
            "is 0, and the result is not a number. From z and v both come without a division.",
        ),
        Mistake(
            "sign of v in z_0",
            by_parts(lambda z, v, here: (here.alpha * z + here.sigma * v, split(z, v, here)[1])),
            "The sign of v in your z_0 is wrong. v = alpha eps - sigma z_0 grows with eps and "
            "falls with z_0: alpha z - sigma v.",
        ),
        Mistake(
            "sign of v in eps",
            by_parts(lambda z, v, here: (split(z, v, here)[0], here.sigma * z - here.alpha * v)),
            "The sign of v in your eps is wrong. v = alpha eps - sigma z_0 grows with eps: "
            "sigma z + alpha v.",
        ),
        Mistake(
            "v with the other sign",
            by_parts(lambda z, v, here: split(z, -v, here)),
            "Your v has the opposite sign: you solve v = sigma z_0 - alpha eps. Here it is "
            "v = alpha eps - sigma z_0.",
        ),
        Mistake(
            "z_0 and eps exchanged",
            by_parts(lambda z, v, here: split(z, v, here)[::-1]),
            "You have solved for the right two, but they have changed places: alpha z - sigma v is "
            "z_0, and sigma z + alpha v is eps.",
        ),
        Mistake(
            "noise on top",
            by_parts(left=lambda sigma, kick: sigma),
            "You add the fresh noise and leave the old as it was: there is more noise in z_s than "
            "sigma_s. The squares must add up to sigma_s².",
        ),
        Mistake(
            "subtracted, not as squares",
            by_parts(left=lambda sigma, kick: sigma - kick),
            "You subtract the kick from sigma_s. Independent noises add as squares: what is left "
            "for eps is √(sigma_s² - kick²).",
        ),
        Mistake(
            "variance for standard deviation",
            by_parts(kick=lambda eta, here, there: eta * full_kick(here, there) ** 2),
            "You multiply eta by the variance of the posterior. It belongs to its standard "
            "deviation, the root.",
        ),
        Mistake(
            "eta as a share of the variance",
            by_parts(kick=lambda eta, here, there: eta**0.5 * full_kick(here, there)),
            "Your eta multiplies the variance. In DDIM it multiplies the standard deviation; 0 and "
            "1 are the same both ways, and what lies between is not.",
        ),
        Mistake(
            "eta of sigma_s",
            by_parts(kick=lambda eta, here, there: eta * there.sigma),
            "Your kick is eta times sigma_s. Then eta 1 would be all the noise there is, and "
            "nothing of eps would be left; DDPM's noise is less than that.",
        ),
        Mistake(
            "the other variance",
            by_parts(
                kick=lambda eta, here, there: eta * (1 - (here.alpha / there.alpha) ** 2).sqrt()
            ),
            "Your kick lacks the factor sigma_s / sigma_t. What you have is the noise that the "
            "forward step adds, which can be more than sigma_s in all.",
        ),
        Mistake(
            "ratio without its square",
            by_parts(
                kick=lambda eta, here, there: (
                    eta * there.sigma / here.sigma * (1 - here.alpha / there.alpha).sqrt()
                )
            ),
            "In the kick you use alpha_t / alpha_s where the formula has the ratio of two ᾱ, which "
            "are squares of our alphas.",
        ),
        Mistake(
            "s and t exchanged",
            by_parts(
                kick=lambda eta, here, there: (
                    eta * here.sigma / there.sigma * (1 - (here.alpha / there.alpha) ** 2).sqrt()
                )
            ),
            "In the kick sigma_s belongs above and sigma_t below. Yours is the wrong way round and "
            "can be more than all the noise, which makes the root undefined.",
        ),
        Mistake(
            "sigma of t",
            sigma_of_here,
            "The factor of eps has sigma_t in it. You go to s: all that stands in z_s, signal and "
            "noise, must have the size it has at s.",
        ),
        Mistake(
            "fresh noise not scaled",
            unscaled_noise,
            "You multiply the fresh noise by eta alone. Its size is the kick: eta times the "
            "posterior's standard deviation.",
        ),
        Mistake(
            "eta in one place only",
            whole_kick,
            "You make room for eta times the posterior's standard deviation, and then add fresh "
            "noise of the whole of it. It is one kick, with eta in it, in both places.",
        ),
        Mistake(
            "always DDPM",
            by_parts(kick=lambda eta, here, there: full_kick(here, there)),
            "Your step does not depend on eta: it always has the noise of eta 1, as DDPM does. The "
            "kick is eta times the posterior's standard deviation.",
        ),
        Mistake(
            "always without noise",
            by_parts(kick=lambda eta, here, there: 0.0),
            "Your step does not depend on eta: it is that of eta 0, without fresh noise. That is "
            "one end of the slider; the kick is what the others have.",
        ),
        Mistake(
            "no fresh noise",
            no_fresh,
            "You make room for fresh noise and then do not add it: too little noise is left in "
            "z_s.",
        ),
    ),
)

# --------------------------------------------------------------------------- 09.4 a perfect memory


def remembered(z: Tensor, pictures: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Best guess of z_0 if it is one of n pictures: z (b, c, h, w), pictures (n, c, h, w)."""
    away = z[:, None] - alpha * pictures  # (b, n, c, h, w)
    squared = away.pow(2).flatten(2).sum(dim=-1)  # (b, n)
    weights = (-squared / (2 * sigma**2)).softmax(dim=1)
    # Every walk with it ends in one of the n pictures, which is called memorisation.
    return torch.einsum("bn,nchw->bchw", weights, pictures)


def distances(z: Tensor, pictures: Tensor) -> Tensor:
    """Squared, (b, n)."""
    return (z[:, None] - pictures).pow(2).flatten(2).sum(dim=-1)


def weighed(weights: Tensor, pictures: Tensor) -> Tensor:
    return torch.einsum("bn,nchw->bchw", weights, pictures)


def memory(
    scores: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor], dim: int = 1
) -> Callable[..., Tensor]:
    """A mean of the pictures, with the softmax of these scores (b, n) as weights."""

    def answer(z: Tensor, pictures: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return weighed(scores(z, pictures, alpha, sigma).softmax(dim=dim), pictures)

    return answer


def right_scores(z: Tensor, pictures: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return -distances(z, alpha * pictures) / (2 * sigma**2)


def nearest(z: Tensor, pictures: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return pictures[distances(z, alpha * pictures).argmin(dim=1)]


def with_exponentials(normalised: bool, more: float = 0.0) -> Callable[..., Tensor]:
    """Without a softmax; more: what is added to the sum to keep it from being 0."""

    def answer(z: Tensor, pictures: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        parts = right_scores(z, pictures, alpha, sigma).exp()
        parts = parts / (parts.sum(dim=1, keepdim=True) + more) if normalised else parts
        return weighed(parts, pictures)

    return answer


def memory_cases(rng: Generator) -> Iterator[Case]:
    def case(b: int, n: int, shape: tuple[int, ...], angle: float, spread: float = 0.5) -> Case:
        """z comes from the first pictures; with b > n, the last from ones that are not known."""
        pictures = spread * normal(rng, max(b, n), *shape)
        turned = angle * (0.95 + 0.1 * torch.rand((), generator=rng, dtype=torch.float64))
        alpha, sigma = turned.cos(), turned.sin()
        z = alpha * pictures[:b] + sigma * normal(rng, b, *shape)
        return Case((z, pictures[:n], alpha, sigma))

    yield case(5, 4, (3, 4, 5), 0.02, 1.0)  # hardly any noise: the exponents are huge
    yield case(2, 5, (3, 2, 4), 1.2)
    yield case(1, 4, (2, 3, 2), 1.0)
    yield case(3, 3, (3, 3, 3), 1.1, 0.4)
    yield case(3, 6, (2, 4, 3), 1.45)
    yield case(2, 4, (2, 2, 3), 0.15, 0.08)  # little noise, and pictures that are much alike


MEMORY = Exercise(
    number="09.4",
    title="A perfect memory",
    minutes=15,
    difficulty=2,
    statement="A world of another kind: z_0 is one of `n` known pictures, each as likely as any "
    "other, and nothing else. This is the world of a network that has learnt its training set by "
    "heart. Write its best guess, a tensor like `z`; `alpha` and `sigma` belong to the time of "
    "`z`. It must give finite numbers even where there is hardly any noise and `z` comes from a "
    "picture that is not among the known ones. Think: what does a "
    "sampler make with this denoiser? (The solution has the answer to this in one word: what it "
    "is called.)",
    hints=(
        "It is the mixture of section 2 whose blobs have shrunk to points: set the standard "
        "deviations to 0 in the formulas there, and see what remains.",
        "The guess is a mean of the pictures x_j with weights proportional to "
        "exp(-‖z - α x_j‖² / 2σ²). Sums over all numbers of a picture; a softmax over the "
        "pictures makes the weights add up to one without overflow.",
        "`squared = (z[:, None] - alpha * pictures).pow(2).flatten(2).sum(-1)` is `(b, n)`; after "
        'the softmax over `n`, `torch.einsum("bn,nchw->bchw", weights, pictures)`.',
    ),
    solution=remembered,
    cases=memory_cases,
    trained=False,
    mistakes=(
        Mistake(
            "pictures without alpha",
            memory(lambda z, x, alpha, sigma: -distances(z, x) / (2 * sigma**2)),
            "You compare z with the pictures themselves. In z_t a picture is alpha times itself, "
            "plus noise; at the noisiest times there is hardly anything left to compare with.",
        ),
        Mistake(
            "alpha bar",
            memory(lambda z, x, alpha, sigma: -distances(z, alpha**2 * x) / (2 * sigma**2)),
            "You multiply the pictures by alpha², which is the papers' ᾱ. Our alpha is its root "
            "already.",
        ),
        Mistake(
            "divided by alpha first",
            memory(lambda z, x, alpha, sigma: -distances(z / alpha, x) / (2 * sigma**2)),
            "You compare z / alpha with the pictures, which can be done, but then the noise in it "
            "is sigma / alpha and not sigma.",
        ),
        Mistake(
            "sigma without its square",
            memory(lambda z, x, alpha, sigma: -distances(z, alpha * x) / (2 * sigma)),
            "You divide by 2 sigma; a Gaussian has 2 sigma², its variance. At the noisy times "
            "sigma is nearly 1 and it looks right.",
        ),
        Mistake(
            "without the half",
            memory(lambda z, x, alpha, sigma: -distances(z, alpha * x) / sigma**2),
            "The 2 in exp(-d² / 2 sigma²) is missing: your weights are too sure of themselves.",
        ),
        Mistake(
            "mean for sum",
            memory(lambda z, x, alpha, sigma: right_scores(z, x, alpha, sigma) / z[0].numel()),
            "You take the mean over the numbers of a picture. Every number is evidence of its own, "
            "so the squares are summed: with many numbers even strong noise leaves little doubt.",
        ),
        Mistake(
            "distance without its square",
            memory(lambda z, x, alpha, sigma: -distances(z, alpha * x).sqrt() / (2 * sigma**2)),
            "You use the distance. In the exponent of a Gaussian stands its square.",
        ),
        Mistake(
            "the farthest first",
            memory(lambda z, x, alpha, sigma: -right_scores(z, x, alpha, sigma)),
            "The sign is missing: the farther a picture, the more it weighs.",
        ),
        Mistake(
            "softmax over the batch",
            memory(right_scores, dim=0),
            "Your softmax goes over the batch: the examples share out each picture among "
            "themselves. Every z must share out a weight of one among the *pictures*.",
        ),
        Mistake(
            "nearest picture",
            nearest,
            "You return the nearest picture. That is the *most probable* one. The best guess in "
            "the sense of squared errors is the mean, each picture as probable as it is; they "
            "agree only where there is little noise.",
        ),
        Mistake(
            "weights that do not add up to one",
            with_exponentials(normalised=False),
            "Your weights are exponentials that do not add up to one. They are proportional to the "
            "probabilities, and must be divided by their sum.",
        ),
        Mistake(
            "zero divided by zero",
            with_exponentials(normalised=True),
            "The formula is right, but where z is far from all pictures and there is little noise, "
            "every exponential is 0, and 0 / 0 is not a number. A softmax subtracts the largest "
            "exponent first.",
        ),
        Mistake(
            "a little added to the sum",
            with_exponentials(normalised=True, more=1e-12),
            "A small number in the divisor keeps 0 / 0 away and puts a blank picture in its place: "
            "where every exponential is 0, so is your guess, and it is off where they are small. "
            "A softmax subtracts the largest exponent first, and nothing needs to be added.",
        ),
        Mistake(
            "still dimmed",
            lambda z, pictures, alpha, sigma: alpha * remembered(z, pictures, alpha, sigma),
            "You return alpha times the guess: what of z is picture. Asked for is z_0 itself.",
        ),
        Mistake(
            "the mean of all",
            lambda z, pictures, alpha, sigma: pictures.mean(0).expand_as(z),
            "You return the mean of all pictures and never look at z. That is right only where "
            "nothing but noise is left.",
        ),
    ),
)

# --------------------------------------------------------------------------------- 09.5 midpoint


def midpoint(denoise: "Denoiser", z: Tensor, path: "list[Point]") -> "Iterator[Tensor]":
    """Yields z at every point of the path, the start included, by the midpoint method."""
    yield z
    for here, there in pairwise(path):
        eps = predicted_noise(z, denoise(z, here), here)
        if there.sigma > 0:
            ratio = (here.sigma / here.alpha * there.sigma / there.alpha).sqrt()
            alpha = 1 / (1 + ratio**2).sqrt()
            middle = Point((here.t + there.t) / 2, alpha, ratio * alpha)
            ahead = step_to(z, eps, here, middle)
            eps = predicted_noise(ahead, denoise(ahead, middle), middle)
        z = step_to(z, eps, here, there)
        yield z


def mean_t(here: Point, there: Point) -> float:
    return (here.t + there.t) / 2


def between(here: Point, there: Point, ratio: Tensor) -> Point:
    alpha = 1 / (1 + ratio**2).sqrt()
    return Point(mean_t(here, there), alpha, ratio * alpha)


def geometric(here: Point, there: Point) -> Point:
    return between(here, there, (here.sigma / here.alpha * there.sigma / there.alpha).sqrt())


def arithmetic(here: Point, there: Point) -> Point:
    return between(here, there, (here.sigma / here.alpha + there.sigma / there.alpha) / 2)


def halfway_factors(here: Point, there: Point) -> Point:
    factors = (here.alpha + there.alpha) / 2, (here.sigma + there.sigma) / 2
    return Point(mean_t(here, there), *factors)


def halfway_alpha(here: Point, there: Point) -> Point:
    alpha = (here.alpha + there.alpha) / 2
    return Point(mean_t(here, there), alpha, (1 - alpha**2).sqrt())


def geometric_factors(here: Point, there: Point) -> Point:
    factors = (here.alpha * there.alpha).sqrt(), (here.sigma * there.sigma).sqrt()
    return Point(mean_t(here, there), *factors)


def with_t_of_here(here: Point, there: Point) -> Point:
    return geometric(here, there)._replace(t=here.t)


def with_t_of_there(here: Point, there: Point) -> Point:
    return geometric(here, there)._replace(t=there.t)


def without_t(here: Point, there: Point) -> Point:
    return geometric(here, there)._replace(t=0.0)


def slope(denoise: Denoiser, z: Tensor, point: Point) -> Tensor:
    return predicted_noise(z, denoise(z, point), point)


Walk = Callable[[Denoiser, Tensor, list[Point]], list[Tensor]]


def stepping(
    step: Callable[[Denoiser, Tensor, Point, Point], Tensor],
    clean: bool = True,
    first: bool = True,
) -> Walk:
    """A walk with this step; clean: whether a step that ends clean is Euler's."""

    def answer(denoise: Denoiser, z: Tensor, path: list[Point]) -> list[Tensor]:
        states = [z] if first else []
        for here, there in pairwise(path):
            if clean and there.sigma == 0:
                z = step_to(z, slope(denoise, z, here), here, there)
            else:
                z = step(denoise, z, here, there)
            states.append(z)
        return states

    return answer


def middle_step(
    middle: Callable[[Point, Point], Point] = geometric,
) -> Callable[[Denoiser, Tensor, Point, Point], Tensor]:
    def step(denoise: Denoiser, z: Tensor, here: Point, there: Point) -> Tensor:
        stop = middle(here, there)
        ahead = step_to(z, slope(denoise, z, here), here, stop)
        return step_to(z, slope(denoise, ahead, stop), here, there)

    return step


def euler_step(denoise: Denoiser, z: Tensor, here: Point, there: Point) -> Tensor:
    return step_to(z, slope(denoise, z, here), here, there)


def heun_step(denoise: Denoiser, z: Tensor, here: Point, there: Point) -> Tensor:
    eps = slope(denoise, z, here)
    ahead = step_to(z, eps, here, there)
    return step_to(z, (eps + slope(denoise, ahead, there)) / 2, here, there)


def far_end_step(denoise: Denoiser, z: Tensor, here: Point, there: Point) -> Tensor:
    ahead = euler_step(denoise, z, here, there)
    return step_to(z, slope(denoise, ahead, there), here, there)


def from_the_middle(denoise: Denoiser, z: Tensor, here: Point, there: Point) -> Tensor:
    stop = geometric(here, there)
    ahead = step_to(z, slope(denoise, z, here), here, stop)
    return step_to(ahead, slope(denoise, ahead, stop), stop, there)


def mean_of_slopes(denoise: Denoiser, z: Tensor, here: Point, there: Point) -> Tensor:
    stop = geometric(here, there)
    eps = slope(denoise, z, here)
    ahead = step_to(z, eps, here, stop)
    return step_to(z, (eps + slope(denoise, ahead, stop)) / 2, here, there)


def old_z_in_the_noise(denoise: Denoiser, z: Tensor, here: Point, there: Point) -> Tensor:
    stop = geometric(here, there)
    ahead = step_to(z, slope(denoise, z, here), here, stop)
    return step_to(z, predicted_noise(z, denoise(ahead, stop), stop), here, there)


def old_place_in_the_noise(denoise: Denoiser, z: Tensor, here: Point, there: Point) -> Tensor:
    stop = geometric(here, there)
    ahead = step_to(z, slope(denoise, z, here), here, stop)
    return step_to(z, predicted_noise(ahead, denoise(ahead, stop), here), here, there)


def asked_about_the_old_z(denoise: Denoiser, z: Tensor, here: Point, there: Point) -> Tensor:
    return step_to(z, slope(denoise, z, geometric(here, there)), here, there)


def asked_at_here_only(denoise: Denoiser, z: Tensor, here: Point, there: Point) -> Tensor:
    stop = geometric(here, there)
    ahead = step_to(z, slope(denoise, z, here), here, stop)
    return step_to(z, predicted_noise(ahead, denoise(ahead, here), stop), here, there)


def asked_at_the_old_time(denoise: Denoiser, z: Tensor, here: Point, there: Point) -> Tensor:
    stop = geometric(here, there)
    ahead = step_to(z, slope(denoise, z, here), here, stop)
    return step_to(z, slope(denoise, ahead, here), here, there)


def estimate_kept(denoise: Denoiser, z: Tensor, here: Point, there: Point) -> Tensor:
    """z_0 of the middle for the whole step, with the noise that z had at its beginning."""
    stop = geometric(here, there)
    z_0 = denoise(z, here)
    ahead = step_to(z, predicted_noise(z, z_0, here), here, stop)
    later = denoise(ahead, stop)
    return there.alpha * later + there.sigma * predicted_noise(z, z_0, here)


def two_values(m: float, s: float) -> Denoiser:
    """The exact denoiser where every number of z_0 is near m or -m, s away.

    As for a network, only a z of the right size means anything: alpha² + sigma² must be 1.
    """

    def denoise(z: Tensor, point: Point) -> Tensor:
        variance = (point.alpha * s) ** 2 + point.sigma**2
        way = torch.tanh(point.alpha * m * z / variance)
        size = point.alpha**2 + point.sigma**2
        return size * (point.alpha * s**2 * z + point.sigma**2 * m * way) / variance

    return denoise


def network_like(denoise: Denoiser, path: list[Point]) -> Denoiser:
    """Reads the t of a point as well, as a network does, and refuses more calls than the path is
    worth: two a step, one where it ends clean."""
    paid = sum(1 if there.sigma == 0 else 2 for there in path[1:])
    calls = 0

    def answering(z: Tensor, point: Point) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > paid:
            raise RuntimeError(
                f"the denoiser was asked more often than {paid} times, which is two calls a step, "
                "and one for a step that ends clean"
            )
        return (1 + point.t / 5000) * denoise(z, point)

    return answering


def midpoint_cases(rng: Generator) -> Iterator[Case]:
    def angle(a: float) -> Point:
        x = torch.tensor(a, dtype=torch.float64)
        return Point(round(600 * a, 1), x.cos(), x.sin())

    clean = Point(-1.0, torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    for shape, angles, ends in (
        ((2, 1, 3, 4), (1.4, 1.0, 0.6), True),
        ((1, 4, 2, 3), (1.5, 1.3, 0.9, 0.5), False),
        ((3, 3, 3, 3), (1.45, 0.8), False),
        ((4, 2), (1.2,), True),
    ):
        m, s = (float(x) for x in 0.4 + 0.6 * torch.rand(2, generator=rng))
        path = [angle(a) for a in angles] + [clean] * ends
        yield Case((network_like(two_values(m, s), path), normal(rng, *shape), path))


MIDPOINT = Exercise(
    number="09.5",
    title="From the middle",
    minutes=25,
    difficulty=3,
    statement="Heun asks at both ends of a step. The *midpoint method* asks in the middle: go "
    "half the step with the noise seen at its start; ask the denoiser there; then go back to the "
    "start of the step, and walk the *whole* of it with the noise seen in the middle. It is of "
    "order 2 as well, and another sampler of diffusion models, DPM-Solver-2, is made this way. The "
    "middle of a step from $t$ to $s$ is where $\\sigma/\\alpha$ is the geometric mean of the two "
    "ends, the root of their product; its `Point` must have $\\alpha^2 + \\sigma^2 = 1$. Its `t`, "
    "which networks read, is the mean of both. A step that ends clean has no such middle and is "
    "Euler's. So there are two calls a step, and one where it ends clean; more are not paid for. "
    "Yield `z` at every point, the start included. `predicted_noise` and `step_to` "
    "of sections 5 and 7 may help.",
    hints=(
        "Take `heun` from section 7 and change only what happens between the two calls: where "
        "is the second call made, and which noise is used in the end?",
        "With `ratio = (here.sigma / here.alpha * there.sigma / there.alpha).sqrt()` the middle "
        "has `alpha = 1 / (1 + ratio ** 2).sqrt()` and `sigma = ratio * alpha`. Go there with "
        "`step_to`, and ask.",
        "`ahead = step_to(z, eps, here, middle)`, `eps = predicted_noise(ahead, denoise(ahead, "
        "middle), middle)`, and then `z = step_to(z, eps, here, there)`, for steps with "
        "`there.sigma > 0`.",
    ),
    solution=midpoint,
    cases=midpoint_cases,
    trained=False,
    mistakes=(
        Mistake(
            "Euler",
            stepping(euler_step),
            "This is Euler's method: the noise seen at the start is used for the whole step, and "
            "what you learn in the middle, if you ask there, has no effect.",
        ),
        Mistake(
            "Heun",
            stepping(heun_step),
            "This is Heun's method: it asks at the far end and takes the mean. Here the second "
            "call is made in the middle, and its noise is used alone.",
        ),
        Mistake(
            "the far end",
            stepping(far_end_step),
            "You use the noise of the far end for the whole step. That is as one-sided as Euler, "
            "from the other side; the middle is what makes it second order.",
        ),
        Mistake(
            "on from the middle",
            stepping(from_the_middle),
            "You go on from the middle, and not from the start of the step again. These are two "
            "of Euler's half steps: better than one, but still first order.",
        ),
        Mistake(
            "mean of start and middle",
            stepping(mean_of_slopes),
            "You take the mean of the noise at the start and in the middle. That is the noise of a "
            "place a quarter of the way. Use that of the middle alone.",
        ),
        Mistake(
            "old z in the noise",
            stepping(old_z_in_the_noise),
            "In the middle you subtract the new estimate from the *old* z. The noise in the middle "
            "is that of the latent in the middle: `predicted_noise(ahead, …, middle)`.",
        ),
        Mistake(
            "old place in the noise",
            stepping(old_place_in_the_noise),
            "You compute the noise of the middle with the alpha and sigma of the start. The latent "
            "in the middle belongs to the point in the middle.",
        ),
        Mistake(
            "asked about the old z",
            stepping(asked_about_the_old_z),
            "You ask the denoiser about the old z at the new time. It must be shown what the "
            "latent would be there: go to the middle first.",
        ),
        Mistake(
            "asked at the old time",
            stepping(asked_at_the_old_time),
            "You go to the middle, but ask there with the time of the start: the denoiser is "
            "told that there is more noise than there is.",
        ),
        Mistake(
            "asked with the start's point",
            stepping(asked_at_here_only),
            "You go to the middle and compute its noise with its own alpha and sigma, but you "
            "ask the denoiser with the point of the start. It must be told where it looks.",
        ),
        Mistake(
            "t of the start",
            stepping(middle_step(with_t_of_here)),
            "Your middle has the right alpha and sigma, but the t of the start. A network reads "
            "the level of noise from t alone: give it the mean of both.",
        ),
        Mistake(
            "t of the end",
            stepping(middle_step(with_t_of_there)),
            "Your middle has the right alpha and sigma, but the t of the step's end. A network "
            "reads the level of noise from t alone, and takes the latent for cleaner than it is.",
        ),
        Mistake(
            "no t",
            stepping(middle_step(without_t)),
            "Your middle has the right alpha and sigma, but its t is 0. A network reads the level "
            "of noise from t alone: it would take the latent for a nearly clean one.",
        ),
        Mistake(
            "z_0 of one, noise of the other",
            stepping(estimate_kept),
            "You put the z_0 of the middle together with the noise of the start. They do not "
            "belong to one latent. Take one of them from the middle, and let `step_to` find the "
            "other.",
        ),
        Mistake(
            "arithmetic mean",
            stepping(middle_step(arithmetic)),
            "Your middle is the arithmetic mean of sigma / alpha. That is of second order, too, "
            "but asked for is the geometric mean: the ratio falls by a factor of hundreds along a "
            "path, and half way down in factors is a better half.",
        ),
        Mistake(
            "mean of alpha and of sigma",
            stepping(middle_step(halfway_factors)),
            "You take the means of alpha and of sigma. Their squares no longer add up to 1, and no "
            "time of the schedule has such a pair: make both from their ratio.",
        ),
        Mistake(
            "the mean of alpha",
            stepping(middle_step(halfway_alpha)),
            "You take the mean of the two alphas, and the sigma that belongs to it. The middle of "
            "a step is where the *ratio* sigma / alpha is the geometric mean of both ends: "
            "halfway on the logarithmic scale, on which the step is taken.",
        ),
        Mistake(
            "geometric means of alpha and of sigma",
            stepping(middle_step(geometric_factors)),
            "Your alpha and sigma are both geometric means. Their ratio is right, but their "
            "squares do not add up to 1: the latent that the network is shown has the wrong size. "
            "Make alpha from the ratio.",
        ),
        Mistake(
            "asked where no noise is",
            stepping(middle_step(), clean=False),
            "A step that ends clean has sigma 0 at its end, and so has the geometric mean: you ask "
            "the denoiser where there is no noise and divide by 0. Such a step is Euler's.",
        ),
        Mistake(
            "start left out",
            stepping(middle_step(), first=False),
            "The steps are right, but the start is missing: a path of n + 1 points gives n + 1 "
            "latents, the first of them as it was given.",
        ),
        Mistake(
            "Euler without the start",
            stepping(euler_step, first=False),
            "This is Euler's method, and the start is not yielded.",
        ),
    ),
)

EXERCISES = (BUDGET, HO, VELOCITY, MEMORY, MIDPOINT)

# -------------------------------------------------------------------------------------------- quiz

QUESTIONS = (
    Question(
        "At the noisiest time even a perfect denoiser shows a blur, like none of the data. Why?",
        (
            Answer(
                "It has not been trained long enough at such times.",
                False,
                "No training was involved in this notebook's denoiser: it is exact, and its early "
                "estimates lay in the empty middle of the ring.",
            ),
            Answer(
                "It is the mean of everything that z could have come from.",
                True,
                "Among all guesses the mean has the smallest squared error, and while z could have "
                "come from anything, that is the mean of everything. A mean need not look like any "
                "of its parts.",
            ),
            Answer(
                "The noise hides the picture, so the estimate is noisy as well.",
                False,
                "The estimate is a smooth function of z with hardly any noise in it, which is just "
                "what a blur is.",
            ),
        ),
    ),
    Question(
        "You may call the network ten times. A paper proves that Heun's method is of second order "
        "and DDIM only of first. Is Heun the better choice?",
        (
            Answer(
                "Yes: its error falls with the square of the number of steps.",
                False,
                "It falls so once the steps are small. Ten calls are five steps, and these were "
                "too long for the promise to hold.",
            ),
            Answer(
                "No: with two calls a step Heun is never better than DDIM.",
                False,
                "With many calls it was far better: the steeper line wins in the end.",
            ),
            Answer(
                "Yes, unless there is guidance.",
                False,
                "Guidance makes it worse, but in the world of five heaps there was none, and with "
                "ten calls Heun lost all the same.",
            ),
            Answer(
                "That must be measured: the order says how fast the error falls, not where it "
                "starts.",
                True,
                "Order is a slope. At equal calls Heun has half the steps, and in our world the "
                "lines crossed only later. A multistep method, one call a step, was better than "
                "both.",
            ),
        ),
    ),
    Question(
        "Take DDPM's step and leave out its fresh noise. Is that DDIM?",
        (
            Answer(
                "No. Its mean alone has too little spread, and nobody makes up for it.",
                True,
                "The fresh noise is a part of what z_s must contain. DDIM gives its share to the "
                "noise that is already there, so that the spread at s is right again.",
            ),
            Answer(
                "Yes, that is what eta = 0 means.",
                False,
                "eta = 0 removes the fresh noise and takes more of the old in its place. Without "
                "the second half all walks run together, and most heaps stay empty.",
            ),
            Answer(
                "Yes, but only if the steps are small enough.",
                False,
                "It does not become DDIM with smaller steps: even with very many, the noise that "
                "was left out is missing.",
            ),
        ),
    ),
)
