"""Exercises and quiz of notebook 02, the autoencoder."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sdlearn.course.grading.exercise import Answer, Case, Exercise, Mistake, Question, normal

# ------------------------------------------------------------------------------- 02.1 many samples


def draw(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """mean, logvar (b, c, h, w), noise (n, b, c, h, w) -> n samples of each, as noise."""
    return mean + torch.exp(0.5 * logvar) * noise


def draw_with(mean: Tensor, std: Tensor, noise: Tensor) -> Tensor:
    return mean + std * noise


def draw_cases(rng: Generator) -> Iterator[Case]:
    for n, b, c, h, w in ((3, 2, 4, 5, 3), (2, 2, 2, 2, 2), (1, 1, 4, 3, 6), (4, 3, 1, 1, 2)):
        mean, logvar = normal(rng, b, c, h, w), 2 * normal(rng, b, c, h, w) - 1
        yield Case((mean, logvar, normal(rng, n, b, c, h, w)))


DRAW = Exercise(
    number="02.1",
    title="Several samples at once",
    minutes=5,
    difficulty=1,
    statement="Draw `n` samples of the posterior of every page in a batch, so that gradients reach "
    "the encoder. `mean` and `logvar` are `(b, c, h, w)`, as `encode` returns them. `noise` is "
    "standard normal, `(n, b, c, h, w)`: new numbers for every sample of every page. Sample $i$ of "
    "page $j$ comes from `noise[i, j]`.",
    hints=(
        "A normal number with mean m and standard deviation s is m + s · noise. What the encoder "
        "gives is neither s nor s², but the logarithm of s².",
        "s is the root of exp(logvar), which is `torch.exp(0.5 * logvar)`. It is never negative, "
        "whatever the encoder says.",
        "PyTorch stretches `(b, c, h, w)` over the samples by itself, because `noise` has its "
        "additional axis in front.",
    ),
    solution=draw,
    cases=draw_cases,
    mistakes=(
        Mistake(
            "variance for deviation",
            lambda mean, logvar, noise: draw_with(mean, logvar.exp(), noise),
            "You multiply the noise by the variance, exp(logvar). It must be the standard "
            "deviation, the root of that: `torch.exp(0.5 * logvar)`. Where the posterior is narrow "
            "you add far too little noise, and training looks fine: you would only notice that the "
            "latents fill less room than the KL term was told.",
        ),
        Mistake(
            "logarithm for deviation",
            lambda mean, logvar, noise: draw_with(mean, logvar, noise),
            "You multiply the noise by `logvar` itself. That is a logarithm: it is negative for a "
            "narrow posterior, and -6 would mean *more* noise than -1. Take "
            "`torch.exp(0.5 * logvar)`.",
        ),
        Mistake(
            "the mean scaled",
            lambda mean, logvar, noise: mean * torch.exp(0.5 * logvar) + noise,
            "You multiply the mean by the standard deviation, and add the noise as it is. It is "
            "the noise that is scaled: a narrow posterior stays close to its mean.",
        ),
        Mistake(
            "noise added unscaled",
            lambda mean, logvar, noise: mean + torch.exp(0.5 * logvar) + noise,
            "You add the standard deviation to the noise. Multiply them: noise of variance 1 times "
            "σ has the variance σ².",
        ),
        Mistake(
            "root of the logarithm",
            lambda mean, logvar, noise: draw_with(mean, logvar.abs().sqrt(), noise),
            "You take the root of `logvar`. The root belongs to the variance, so the exponential "
            "comes first: exp(logvar) is the variance, `torch.exp(0.5 * logvar)` its root.",
        ),
        Mistake(
            "base two",
            lambda mean, logvar, noise: draw_with(mean, torch.exp(2 * logvar), noise),
            "You double the log-variance; the root of exp(logvar) is exp(logvar / 2).",
        ),
        Mistake(
            "one noise for all samples",
            lambda mean, logvar, noise: draw_with(
                mean, (0.5 * logvar).exp(), noise[:1].expand_as(noise)
            ),
            "All your samples of a page use `noise[0]`: they are n copies of one sample. You would "
            "notice that the mean over more samples is no less noisy than one.",
        ),
        Mistake(
            "one noise for the batch",
            lambda mean, logvar, noise: draw_with(
                mean, (0.5 * logvar).exp(), noise[:, :1].expand_as(noise)
            ),
            "All pages of your batch get the same noise, `noise[:, 0]`. Then the pages of a batch "
            "move together, their errors do not average out, and the gradient is as noisy as that "
            "of a single page.",
        ),
        Mistake(
            "noise not shifted",
            lambda mean, logvar, noise: (mean + noise) * torch.exp(0.5 * logvar),
            "You scale the mean together with the noise. Only the noise is scaled: the centre of "
            "the posterior is the mean, however narrow it is.",
        ),
    ),
)

# ------------------------------------------------------------------------ 02.2 pages of any size


def fit(x: Tensor, factor: int) -> Tensor:
    """Pictures (b, c, h, w) -> height and width the next multiples of factor, or as they are."""
    h, w = x.shape[-2:]
    return F.pad(x, (0, -w % factor, 0, -h % factor), mode="replicate")


def fit_with(
    x: Tensor, right: int, bottom: int, left: int = 0, top: int = 0, mode: str = "replicate"
) -> Tensor:
    return F.pad(x, (left, right, top, bottom), mode=mode)


def fit_cases(rng: Generator) -> Iterator[Case]:
    for b, c, h, w, factor in (
        (2, 3, 13, 6, 8),
        (1, 3, 16, 11, 8),
        (2, 2, 7, 7, 4),
        (3, 1, 4, 9, 2),
    ):
        yield Case((normal(rng, b, c, h, w), factor))


FIT = Exercise(
    number="02.2",
    title="A page of any size",
    minutes=8,
    difficulty=1,
    statement="The finished autoencoder refuses pictures whose height or width is no multiple of "
    "`factor`; the one built above says nothing and gives back a smaller picture. Make pictures "
    "fit: add as few columns as needed on the *right* and as few rows as needed at the *bottom*, "
    "by repeating the last column and the last row. A side that fits already stays as it is. The "
    "pixels that were there keep their places, so a reader can simply cut the result of `decode` "
    "back to `h` and `w`.",
    hints=(
        "How many columns are missing to the next multiple? For w = 11 and factor 8 it is 5, for "
        "w = 16 it must be 0, not 8. In Python, `-11 % 8` is a useful number.",
        "`F.pad(x, (left, right, top, bottom), mode='replicate')` repeats the border. Mind the "
        "order: F.pad begins with the *last* axis, the width.",
        "`F.pad(x, (0, -w % factor, 0, -h % factor), mode='replicate')`",
    ),
    solution=fit,
    cases=fit_cases,
    mistakes=(
        Mistake(
            "height and width swapped",
            lambda x, factor: fit_with(x, -x.shape[-2] % factor, -x.shape[-1] % factor),
            "You add to the width what the height lacks, and the other way round. F.pad counts "
            "from the last axis: first left and right, then top and bottom. Square pictures hide "
            "this mistake.",
        ),
        Mistake(
            "left and top",
            lambda x, factor: fit_with(x, 0, 0, -x.shape[-1] % factor, -x.shape[-2] % factor),
            "You add on the left and at the top. The sizes are right, but every pixel has moved, "
            "and a reader who cuts the result to h and w gets the padding and loses the picture's "
            "edge.",
        ),
        Mistake(
            "both sides",
            lambda x, factor: fit_with(
                x,
                -x.shape[-1] % factor - (-x.shape[-1] % factor) // 2,
                -x.shape[-2] % factor - (-x.shape[-2] % factor) // 2,
                (-x.shape[-1] % factor) // 2,
                (-x.shape[-2] % factor) // 2,
            ),
            "You share the padding between both sides, so the picture moves to the middle. Here it "
            "shall keep its place: everything goes to the right and to the bottom.",
        ),
        Mistake(
            "always a whole block",
            lambda x, factor: fit_with(
                x, factor - x.shape[-1] % factor, factor - x.shape[-2] % factor
            ),
            "A side that fits already gets a whole further block: `factor - w % factor` is factor, "
            "not 0, where w is a multiple. Take the remainder once more, or use `-w % factor`.",
        ),
        Mistake(
            "remainder",
            lambda x, factor: fit_with(x, x.shape[-1] % factor, x.shape[-2] % factor),
            "You add the remainder, `w % factor`, which is what there is *too much* of. Missing is "
            "the rest of the block, `-w % factor`.",
        ),
        Mistake(
            "zeros",
            lambda x, factor: fit_with(
                x, -x.shape[-1] % factor, -x.shape[-2] % factor, mode="constant"
            ),
            "You fill with zeros, which are grey here: the encoder would see an edge that is not "
            "in the picture, and spend latent numbers on it. Repeat the border instead.",
        ),
        Mistake(
            "mirrored",
            lambda x, factor: fit_with(
                x, -x.shape[-1] % factor, -x.shape[-2] % factor, mode="reflect"
            ),
            "You mirror the picture at its border: `reflect` walks back from the last column to "
            "the one before it, and whatever stands there appears twice. Asked for is the last "
            "column itself, again and again: `replicate`.",
        ),
        Mistake(
            "cut off",
            lambda x, factor: x[
                ..., : x.shape[-2] // factor * factor, : x.shape[-1] // factor * factor
            ],
            "You cut the picture to a multiple instead of adding to it. It fits, but a border of "
            "the page is gone.",
        ),
        Mistake(
            "stretched",
            lambda x, factor: F.interpolate(
                x, (x.shape[-2] + -x.shape[-2] % factor, x.shape[-1] + -x.shape[-1] % factor)
            ),
            "You stretch the picture to the new size. Then no pixel keeps its place, and circles "
            "become ellipses where one side grows more than the other.",
        ),
    ),
)

# --------------------------------------------------------------------- 02.3 one bell over another


def kl_between(mean: Tensor, logvar: Tensor, mean_p: Tensor, logvar_p: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(mean_p, exp(logvar_p))), all (b, c, h, w) -> (b,) in nats."""
    apart = (mean - mean_p) ** 2 / logvar_p.exp()
    wider = (logvar - logvar_p).exp() - 1 - (logvar - logvar_p)
    return 0.5 * (apart + wider).flatten(1).sum(1)


def kl_parts(
    mean: Tensor, logvar: Tensor, mean_p: Tensor, logvar_p: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(m - m_p)² / s_p², s² / s_p² and its logarithm, each (b, c, h, w)."""
    ratio = logvar - logvar_p
    return (mean - mean_p) ** 2 * (-logvar_p).exp(), ratio.exp(), ratio


def kl_cases(rng: Generator) -> Iterator[Case]:
    for b, c, h, w in ((2, 4, 3, 5), (3, 3, 3, 3), (1, 2, 4, 1), (4, 1, 1, 1)):
        mean, mean_p = 2 * normal(rng, b, c, h, w), normal(rng, b, c, h, w)
        yield Case((mean, normal(rng, b, c, h, w) - 1, mean_p, normal(rng, b, c, h, w) + 0.5))


KL = Exercise(
    number="02.3",
    title="From one bell to another",
    minutes=15,
    difficulty=2,
    statement="The notebook compares a posterior with $N(0, 1)$. Compare it with *any* normal "
    "distribution: derive and write KL(N(m, s²) ‖ N(mₚ, sₚ²)), given all means and log-variances "
    "as tensors `(b, c, h, w)`. Sum over a page's numbers, and return one value for each page, "
    "`(b,)`. (Diffusion models are trained with this formula: in the paper of 2020 every step "
    "compares two normal distributions.)",
    hints=(
        "Begin as in section 3: the mean, over q, of ln q(z) - ln p(z). ln p now holds "
        "(z - mₚ)² / sₚ² and ln sₚ².",
        "The mean of (z - mₚ)² over q is (m - mₚ)² + s². Check yours with mₚ = 0 and sₚ = 1: the "
        "formula of section 3 must come out; and with q = p: 0.",
        "½ ( (m - mₚ)²/sₚ² + s²/sₚ² - 1 - ln(s²/sₚ²) ), where s²/sₚ² is "
        "`(logvar - logvar_p).exp()`. Then `.flatten(1).sum(1)`.",
    ),
    solution=kl_between,
    cases=kl_cases,
    mistakes=(
        Mistake(
            "the other way round",
            lambda m, v, mp, vp: kl_between(mp, vp, m, v),
            "You compute KL(p ‖ q). The divergence is no distance: both ways differ. Here the "
            "expectation is over q, the first one, since it is q that we can draw samples of.",
        ),
        Mistake(
            "no half",
            lambda m, v, mp, vp: 2 * kl_between(m, v, mp, vp),
            "Your result is twice too large: the ½ that stands before the squares in ln q and "
            "ln p is missing. You would notice by simulation, as in section 3.",
        ),
        Mistake(
            "wrong sign of the logarithm",
            lambda m, v, mp, vp: sum_of(
                lambda apart, ratio, log: 0.5 * (apart + ratio - 1 + log), m, v, mp, vp
            ),
            "The logarithm of s²/sₚ² must be subtracted. As you have it, a posterior that shrinks "
            "to a point gains without end. You would notice a divergence below zero, which "
            "cannot be.",
        ),
        Mistake(
            "mean over the page",
            lambda m, v, mp, vp: sum_of(
                lambda apart, ratio, log: 0.5 * (apart + ratio - 1 - log) / apart[0].numel(),
                m,
                v,
                mp,
                vp,
            ),
            "You average over the numbers of a page. Divergences of independent numbers add up. "
            "The mean is smaller by as many times as there are numbers, so the same KL weight "
            "would mean something else at every size.",
        ),
        Mistake(
            "deviation for variance",
            lambda m, v, mp, vp: sum_of(
                lambda apart, ratio, log: 0.5 * (apart + ratio.sqrt() - 1 - log), m, v, mp, vp
            ),
            "Your ratio of variances is a ratio of standard deviations: exp(logvar / 2) where "
            "exp(logvar) belongs. Then the smallest value is no longer at s = sₚ.",
        ),
        Mistake(
            "logvar taken for log sigma",
            lambda m, v, mp, vp: kl_between(m, 2 * v, mp, 2 * vp),
            "You take `logvar` for the logarithm of the standard deviation and square its "
            "exponential. It is the logarithm of the *variance*: `logvar.exp()` is σ² already, and "
            "the ratio of the standard deviations has the logarithm (logvar - logvar_p) / 2.",
        ),
        Mistake(
            "exponentials squared",
            lambda m, v, mp, vp: sum_of(
                lambda apart, ratio, log: 0.5 * (apart * (-vp).exp() + ratio**2 - 1 - log),
                m,
                v,
                mp,
                vp,
            ),
            "You square `logvar.exp()`, as if it were a standard deviation. It is the variance "
            "already: `logvar` is the logarithm of σ².",
        ),
        Mistake(
            "no half at the logarithm",
            lambda m, v, mp, vp: sum_of(
                lambda apart, ratio, log: 0.5 * (apart + ratio - 1) - log, m, v, mp, vp
            ),
            "Your logarithm is twice as large as it should be: ln(σₚ / σ) is half of `logvar_p - "
            "logvar`, which are logarithms of variances.",
        ),
        Mistake(
            "distance over the deviation",
            lambda m, v, mp, vp: sum_of(
                lambda apart, ratio, log: 0.5 * (apart * (vp / 2).exp() + ratio - 1 - log),
                m,
                v,
                mp,
                vp,
            ),
            "You divide the squared distance of the means by sₚ. A square needs a square below "
            "it: sₚ² is `logvar_p.exp()`, without a half. Measured in other units, cents for "
            "euros, yours would give another result, and a divergence must not.",
        ),
        Mistake(
            "width of p forgotten",
            lambda m, v, mp, vp: sum_of(
                lambda apart, ratio, log: 0.5 * (apart + ratio - 1 - (log + vp)), m, v, mp, vp
            ),
            "You subtract ln s² alone. Section 3 has no ln sₚ² because there sₚ is 1; ln p now "
            "brings one along. Try q = p: the divergence must be zero, and yours is not.",
        ),
        Mistake(
            "no one",
            lambda m, v, mp, vp: sum_of(
                lambda apart, ratio, log: 0.5 * (apart + ratio - log), m, v, mp, vp
            ),
            "The -1 is missing. It is the mean of -(z - m)²/s² over q, which ln q brings along. "
            "Try q = p: your result is half the number of numbers, and must be zero.",
        ),
        Mistake(
            "absolute distance",
            lambda m, v, mp, vp: (
                0.5 * ((m - mp).abs() / vp.exp() + (v - vp).exp() - 1 - (v - vp))
            ).sum((1, 2, 3)),
            "You take the absolute distance of the means. It is the *squared* distance that is "
            "compared with the variance of p.",
        ),
        Mistake(
            "distance not scaled",
            lambda m, v, mp, vp: sum_of(
                lambda apart, ratio, log: 0.5 * (apart * vp.exp() + ratio - 1 - log), m, v, mp, vp
            ),
            "You do not divide the distance of the means by sₚ². To be one off is much beside a "
            "narrow bell and little beside a wide one.",
        ),
        Mistake(
            "distance scaled by its own",
            lambda m, v, mp, vp: sum_of(
                lambda apart, ratio, log: 0.5 * (apart / ratio + ratio - 1 - log), m, v, mp, vp
            ),
            "You divide the distance of the means by s², the width of q. It is p that judges how "
            "unlikely the distance is: divide by sₚ².",
        ),
        Mistake(
            "only towards N(0, 1)",
            lambda m, v, mp, vp: kl_between(m, v, torch.zeros_like(m), torch.zeros_like(v)),
            "This is the divergence from N(0, 1), the formula of the notebook. `mean_p` and "
            "`logvar_p` are not used.",
        ),
        Mistake(
            "one number for the batch",
            lambda m, v, mp, vp: kl_between(m, v, mp, vp).mean(),
            "You average over the batch. Asked for is one number for each page, `(b,)`.",
        ),
    ),
)


def sum_of(formula, mean, logvar, mean_p, logvar_p):  # type: ignore[no-untyped-def]
    """A formula of the three parts, summed over each page."""
    return formula(*kl_parts(mean, logvar, mean_p, logvar_p)).flatten(1).sum(1)


# ------------------------------------------------------------------------------ 02.4 the best guess


def best_guesses(pages: Tensor, chances: Tensor) -> tuple[Tensor, Tensor]:
    """pages (n, c, h, w), chances (n,) with sum 1 -> what L2 and what L1 paints, each (c, h, w)."""
    weights = chances.view(-1, 1, 1, 1)
    mean = (weights * pages).sum(0)
    values, order = pages.sort(dim=0)
    reached = chances[order].cumsum(0) >= 0.5  # (n, c, h, w)
    median = values.gather(0, reached.int().argmax(0, keepdim=True))[0]
    return mean, median


def guess_cases(rng: Generator) -> Iterator[Case]:
    for n, c, h, w in ((5, 3, 4, 6), (4, 2, 2, 2), (2, 1, 3, 5), (9, 3, 3, 2)):
        parts = torch.rand(n, generator=rng, dtype=torch.float64) + 0.05
        yield Case((normal(rng, n, c, h, w), parts / parts.sum()))
    small = torch.rand(2, generator=rng, dtype=torch.float64) / 8 + 0.05
    lonely = torch.stack([small[0], 1 - small.sum(), small[1]])  # one page likelier than not
    yield Case((normal(rng, 3, 2, 3, 3), lonely))


def median_with(pages: Tensor, chances: Tensor, level: float) -> Tensor:
    values, order = pages.sort(dim=0)
    reached = chances[order].cumsum(0) >= level
    return values.gather(0, reached.int().argmax(0, keepdim=True))[0]


def beside_the_median(pages: Tensor, chances: Tensor, step: int) -> Tensor:
    """The value that lies `step` places further in the order, or the last one there is."""
    values, order = pages.sort(dim=0)
    place = (chances[order].cumsum(0) >= 0.5).int().argmax(0, keepdim=True)
    return values.gather(0, (place + step).clamp(0, len(pages) - 1))[0]


def mean_of(pages: Tensor, chances: Tensor) -> Tensor:
    return (chances.view(-1, 1, 1, 1) * pages).sum(0)


def best_page(pages: Tensor, chances: Tensor) -> Tensor:
    """Of the pages themselves the one with the smallest expected absolute error."""
    apart = (pages[:, None] - pages[None]).abs().mean((2, 3, 4))
    return pages[(apart @ chances).argmin()]


GUESS = Exercise(
    number="02.4",
    title="The best guess",
    minutes=15,
    difficulty=2,
    statement="A latent fits `n` different pages, `(n, c, h, w)`, and page $i$ is the right one "
    "with the chance `chances[i]`; all chances add up to one. The decoder must paint *one* "
    "picture. Return the picture with the smallest expected squared error and the one with the "
    "smallest expected absolute error, a tuple of two `(c, h, w)`. The pages are not equally "
    "likely, and every number of the picture may be chosen on its own.",
    hints=(
        "The first is a mean in which each page counts with its chance. For the second look at one "
        "number of the picture alone: section 6 says what minimises absolute errors.",
        "Sort the n values of that number, with their chances in the same order, and walk up from "
        "the smallest until at least half of all chance is reached. There is the median.",
        "`values, order = pages.sort(dim=0)`, then `chances[order].cumsum(0) >= 0.5` is `(n, c, h, "
        "w)`; `.int().argmax(0)` finds the first True. `gather` takes the value there.",
    ),
    solution=best_guesses,
    cases=guess_cases,
    mistakes=(
        Mistake(
            "mean without chances",
            lambda pages, chances: (pages.mean(0), median_with(pages, chances, 0.5)),
            "Your mean counts every page alike. A page that is hardly ever right must hardly "
            "count: weigh each page with its chance.",
        ),
        Mistake(
            "median without chances",
            lambda pages, chances: (mean_of(pages, chances), pages.median(0).values),
            "Your median counts every page alike, as `torch.median` does. Half of the *chance* "
            "must lie on either side, not half of the pages.",
        ),
        Mistake(
            "both without chances",
            lambda pages, chances: (pages.mean(0), pages.median(0).values),
            "You never use `chances`. Each page counts with its own.",
        ),
        Mistake(
            "the likeliest page",
            lambda pages, chances: (mean_of(pages, chances), pages[chances.argmax()]),
            "For the absolute error you paint the likeliest page. That is the best bet for being "
            "*exactly* right, and what an adversarial loss favours. The absolute error asks for "
            "the median, number by number.",
        ),
        Mistake(
            "the best whole page",
            lambda pages, chances: (mean_of(pages, chances), best_page(pages, chances)),
            "For the absolute error you choose among the pages the one that costs least. No page "
            "has to win as a whole: every number of the picture may be chosen on its own, and the "
            "best ones come from different pages.",
        ),
        Mistake(
            "one place too early",
            lambda pages, chances: (mean_of(pages, chances), beside_the_median(pages, chances, -1)),
            "You take the last value *before* half of the chance is reached. The median is the "
            "next one: the first at which the sum of the chances, its own included, is at least "
            "one half.",
        ),
        Mistake(
            "one place too late",
            lambda pages, chances: (mean_of(pages, chances), beside_the_median(pages, chances, 1)),
            "You take the value *after* the one at which half of the chance is reached. The value "
            "that reaches it is the median itself.",
        ),
        Mistake(
            "exchanged",
            lambda pages, chances: (median_with(pages, chances, 0.5), mean_of(pages, chances)),
            "Both pictures are right, in the wrong order: the squared error wants the mean, the "
            "absolute error the median.",
        ),
        Mistake(
            "median of weighted values",
            lambda pages, chances: (
                mean_of(pages, chances),
                (pages * chances.view(-1, 1, 1, 1) * len(pages)).median(0).values,
            ),
            "You multiply the values by their chances and take the median of that. A chance says "
            "how much a value counts; it does not change the value. The result must be one of the "
            "values that were there.",
        ),
        Mistake(
            "chances not sorted along",
            lambda pages, chances: (
                mean_of(pages, chances),
                pages.sort(dim=0).values[(chances.cumsum(0) >= 0.5).int().argmax()],
            ),
            "You sort the values, but the chances stay in the order of the pages, so they belong "
            "to the wrong values. `sort` also returns the order: use `chances[order]`.",
        ),
        Mistake(
            "twice the mean",
            lambda pages, chances: (mean_of(pages, chances), mean_of(pages, chances)),
            "You give the mean for both. It is what the squared error wants. The absolute error is "
            "smallest at the median, which does not care how far away the other values are.",
        ),
    ),
)

# -------------------------------------------------------------------------- 02.5 the scaling factor


def scaling_factor(mean: Tensor, logvar: Tensor) -> Tensor:
    """1 / std of all numbers of all posterior samples: mean, logvar (b, c, h, w) -> scalar."""
    spread = (mean - mean.mean()).square().mean()  # of the centres
    width = logvar.exp().mean()  # of the posteriors around them
    return 1 / (spread + width).sqrt()


def factor_with(mean: Tensor, width: Tensor | float, shift: Tensor | float) -> Tensor:
    return 1 / ((mean - shift).square().mean() + width).sqrt()


def factor_cases(rng: Generator) -> Iterator[Case]:
    for b, c, h, w in ((3, 4, 5, 2), (4, 4, 4, 4), (1, 3, 2, 6)):
        places = torch.arange(c, dtype=torch.float64).view(1, c, 1, 1)  # channels differ
        yield Case((3 * normal(rng, b, c, h, w) + places, normal(rng, b, c, h, w) + 0.5))


FACTOR = Exercise(
    number="02.5",
    title="The factor, without drawing a sample",
    minutes=12,
    difficulty=2,
    statement="The diffusion model is trained on *samples* of the posterior, so the scaling factor "
    "is one over the standard deviation of all numbers of all samples. The notebook draws noise to "
    "measure it. Compute it exactly instead, from `mean` and `logvar`, `(b, c, h, w)`, without any "
    "random number: think of infinitely many samples of every page. One number for all channels, "
    "as in Stable Diffusion; divide sums by how many numbers there are, not by one less.",
    hints=(
        "Two things spread the numbers: the centres of the posteriors differ from each other, and "
        "every sample lies somewhere around its centre.",
        "Variances of independent things add up: the variance of the centres, plus the mean of the "
        "variances around them. Standard deviations do not add up.",
        "`mean.var(correction=0) + logvar.exp().mean()` is the whole variance. The factor is one "
        "over its root.",
    ),
    solution=scaling_factor,
    cases=factor_cases,
    mistakes=(
        Mistake(
            "centres only",
            lambda mean, logvar: factor_with(mean, 0.0, mean.mean()),
            "You take the spread of the means and forget the width of the posteriors. That is the "
            "usual shortcut, nearly right for a narrow posterior. The samples spread more.",
        ),
        Mistake(
            "the variance of the means only",
            lambda mean, logvar: 1 / mean.std(),
            "You take the standard deviation of the means and forget the width of the posteriors. "
            "A sample lies somewhere around its mean, so samples vary more than means: add the "
            "mean of `logvar.exp()` to the variance.",
        ),
        Mistake(
            "the variance of the means only, no root",
            lambda mean, logvar: 1 / mean.var(correction=0),
            "This is one over the *variance* of the means. The factor is one over a standard "
            "deviation, and to the variance of the means comes the mean variance of the "
            "posteriors, `logvar.exp().mean()`.",
        ),
        Mistake(
            "the logarithm averaged",
            lambda mean, logvar: factor_with(mean, logvar.mean().exp(), mean.mean()),
            "You average the logarithms of the variances and take the exponential afterwards. That "
            "is their geometric mean, which is smaller: average `logvar.exp()`.",
        ),
        Mistake(
            "the logarithm for the variance",
            lambda mean, logvar: factor_with(mean, logvar.mean(), mean.mean()),
            "You add `logvar` to the variance of the means. It is a logarithm, often negative: the "
            "variance of a posterior is `logvar.exp()`.",
        ),
        Mistake(
            "deviations for variances",
            lambda mean, logvar: factor_with(mean, torch.exp(0.5 * logvar).mean(), mean.mean()),
            "You add standard deviations of the posteriors, exp(logvar / 2), to a variance. "
            "Variances add up: `logvar.exp()`.",
        ),
        Mistake(
            "one deviation above every mean",
            lambda mean, logvar: 1 / (mean + torch.exp(0.5 * logvar)).std(correction=0),
            "You add one standard deviation to every mean, always upwards, as if the noise were 1 "
            "everywhere. Samples lie on both sides of their mean: add up variances instead.",
        ),
        Mistake(
            "widths only",
            lambda mean, logvar: 1 / logvar.exp().mean().sqrt(),
            "You take the width of the posteriors only. Most of the spread comes from the pages "
            "being different, so that their centres lie apart.",
        ),
        Mistake(
            "widths added up",
            lambda mean, logvar: factor_with(mean, logvar.exp().sum(), mean.mean()),
            "You add up the variances of all posteriors. It is their *mean* that comes to the "
            "variance of the means: the more numbers, the larger your sum.",
        ),
        Mistake(
            "widths subtracted",
            lambda mean, logvar: factor_with(mean, -logvar.exp().mean(), mean.mean()),
            "You subtract the mean variance of the posteriors. Samples vary more than their means, "
            "so it is added.",
        ),
        Mistake(
            "deviations added",
            lambda mean, logvar: 1 / (mean.std(correction=0) + torch.exp(0.5 * logvar).mean()),
            "You add standard deviations. Of independent things the *variances* add up: 3 and 4 "
            "give 5, not 7.",
        ),
        Mistake(
            "square of the mean deviation",
            lambda mean, logvar: factor_with(
                mean, torch.exp(0.5 * logvar).mean().square(), mean.mean()
            ),
            "You average the standard deviations and square the result. The mean of squares is "
            "larger than the square of the mean: average the variances, exp(logvar).",
        ),
        Mistake(
            "around zero",
            lambda mean, logvar: factor_with(mean, logvar.exp().mean(), 0.0),
            "You measure the distance from zero, not from the mean. The latents of an autoencoder "
            "need not have mean zero. (One could scale by that instead; the published factors are "
            "one over the standard deviation.)",
        ),
        Mistake(
            "upside down",
            lambda mean, logvar: 1 / factor_with(mean, logvar.exp().mean(), mean.mean()),
            "This is the standard deviation; the factor is one over it. Latents are *multiplied* "
            "by the factor on the way to the diffusion model, and divided on the way back. You "
            "would notice latents of the square of their spread.",
        ),
        Mistake(
            "variance for deviation",
            lambda mean, logvar: factor_with(mean, logvar.exp().mean(), mean.mean()) ** 2,
            "You forgot the root: this is one over the variance.",
        ),
        Mistake(
            "one for each channel",
            lambda mean, logvar: (
                1
                / (mean.var(dim=(0, 2, 3), correction=0) + logvar.exp().mean(dim=(0, 2, 3))).sqrt()
            ),
            "You give every channel its own factor. That would be sensible, and some later models "
            "do it; Stable Diffusion has a single number for all four.",
        ),
        Mistake(
            "channel by channel",
            lambda mean, logvar: (
                1 / (mean.var(dim=(0, 2, 3), correction=0).mean() + logvar.exp().mean()).sqrt()
            ),
            "You measure the spread inside each channel and average. The channels also have "
            "different means, which spreads the numbers as a whole.",
        ),
        Mistake(
            "drawn",
            lambda mean, logvar: (
                1 / (mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)).std()
            ),
            "You draw a sample and measure it. The result is near, and another one at every call. "
            "Asked for is what infinitely many samples tend to, with no random number at all.",
        ),
        Mistake(
            "drawn as in the notebook",
            lambda mean, logvar: (
                1
                / (
                    mean
                    + torch.exp(0.5 * logvar)
                    * torch.randn(mean.shape, generator=Generator().manual_seed(0))
                ).std()
            ),
            "This is the notebook's measurement, with one sample of each page. A fixed seed makes "
            "it repeatable, not exact: another seed gives another factor. Compute what the noise "
            "adds on average instead of drawing it.",
        ),
        Mistake(
            "one less",
            lambda mean, logvar: 1 / (mean.var() + logvar.exp().mean()).sqrt(),
            "You divide by one less than there are numbers, as `var()` and `std()` do by default. "
            "The statement asks for the plain mean of the squares: `correction=0`.",
        ),
    ),
)

# -------------------------------------------------------------- 02.6 what one latent position sees


def seen(i: int, levels: int, width: int) -> tuple[int, int]:
    """First and last pixel column that `levels` downsamplings bring to latent column i."""
    first = last = i
    for _ in range(levels):
        first, last = 2 * first, 2 * last + 2
    return first, min(last, width - 1)


def seen_with(i: int, levels: int, low: int, high: int, width: int | None) -> tuple[int, int]:
    """Each downsampling looks from 2 i + low to 2 i + high; cut to a picture of this width."""
    first = last = i
    for _ in range(levels):
        first, last = 2 * first + low, 2 * last + high
    return (first, last) if width is None else (max(first, 0), min(last, width - 1))


def seen_cases(_: Generator) -> Iterator[Case]:
    for i, levels, width in ((2, 3, 64), (0, 1, 8), (5, 2, 32), (7, 3, 64), (3, 1, 8), (0, 2, 4)):
        yield Case((i, levels, width))


SEEN = Exercise(
    number="02.6",
    title="What one latent position sees",
    minutes=15,
    difficulty=3,
    statement="The encoder halves the picture `levels` times, each time with a 3×3 convolution of "
    "stride 2 and *one* column of zeros on the right. Take these convolutions alone, without the "
    "ResBlocks between them. Which columns of a picture of `width` pixels does latent column `i` "
    "depend on? Return the first and the last, counted from 0. The zeros on the right are no "
    "pixels. When you have it: how far is the middle of what it sees from the middle of its own "
    "block of pixels, and where would it be with zeros on both sides? (The last hint says.)",
    hints=(
        "One level first: which three columns does output i of such a convolution see? Draw eight "
        "pixels and the window's first two positions.",
        "Output i sees the columns 2 i, 2 i + 1 and 2 i + 2. With several levels ask the same of "
        "the first and of the last column that you have found, once for every level.",
        "`first, last = 2 * first, 2 * last + 2` for every level, beginning with i and i. At the "
        "end the last one cannot be beyond `width - 1`. (With three levels, and away from the "
        "borders, the middle of what it sees is 3.5 columns to the right of its block's middle, "
        "and with zeros on both sides 3.5 to the left: 7 apart, which section 13 finds again.)",
    ),
    solution=seen,
    cases=seen_cases,
    trained=False,
    mistakes=(
        Mistake(
            "zeros on both sides",
            lambda i, levels, width: seen_with(i, levels, -1, 1, width),
            "You centre the window: 2 i - 1 to 2 i + 1. That is a convolution with a column of "
            "zeros on *each* side, as in the U-Net. Here there is none on the left, so the first "
            "window begins at column 0 and goes to 2.",
        ),
        Mistake(
            "zeros on the left",
            lambda i, levels, width: seen_with(i, levels, -2, 0, width),
            "Your window ends at 2 i: it would have its zeros on the left. They are on the right, "
            "so it begins at 2 i.",
        ),
        Mistake(
            "not cut",
            lambda i, levels, width: seen_with(i, levels, 0, 2, None),
            "You count columns that are not there: at the right border the window reaches into the "
            "zeros, which are no pixels.",
        ),
        Mistake(
            "its own block",
            lambda i, levels, width: (2**levels * i, 2**levels * (i + 1) - 1),
            "This is the block of pixels in the place of the latent position, as if the windows "
            "were 2 wide. They are 3 wide, so neighbours overlap, and each level adds to it.",
        ),
        Mistake(
            "counted from one",
            lambda i, levels, width: tuple(c + 1 for c in seen_with(i, levels, 0, 2, width)),
            "Both your numbers are one too large: you count the columns from 1. Counted from 0, "
            "the first column is 0 and the last one `width - 1`.",
        ),
        Mistake(
            "one past the end",
            lambda i, levels, width: (
                seen_with(i, levels, 0, 2, None)[0],
                min(seen_with(i, levels, 0, 2, None)[1] + 1, width),
            ),
            "Your second number is one past the last column, as in a `range`. Asked for is the "
            "last one itself.",
        ),
        Mistake(
            "twice for every level",
            lambda i, levels, width: (2 * levels * i, min(2 * levels * i + 2 * levels, width - 1)),
            "You multiply by 2 · levels. Each level doubles what the one before has doubled, so it "
            "is 2 to the power of levels.",
        ),
        Mistake(
            "three wide at the end",
            lambda i, levels, width: (2**levels * i, min(2**levels * i + 2, width - 1)),
            "You let the window be 3 wide in pixels. It is 3 wide in its own level only; each of "
            "the three saw three columns of the level before.",
        ),
        Mistake(
            "no stride",
            lambda i, levels, width: (i, min(i + 2 * levels, width - 1)),
            "You forget the stride: your windows move by one column. Output i of a convolution of "
            "stride 2 begins at column 2 i, so each level doubles the index.",
        ),
        Mistake(
            "two more for every level",
            lambda i, levels, width: (
                2**levels * i,
                min(2**levels * i + 2 * levels, width - 1),
            ),
            "Your first column is right. For the last one you add 2 for every level, in pixels. "
            "The 2 that a level adds is counted in its own columns, and every level before it "
            "doubles it: `last = 2 * last + 2`.",
        ),
        Mistake(
            "three times three",
            lambda i, levels, width: (2**levels * i, min(2**levels * i + 3**levels - 1, width - 1)),
            "Your first column is right, and your window is 3 to the power of levels wide, as if "
            "neighbouring windows did not overlap. With stride 2 they share a column: the widths "
            "are 3, 7 and 15.",
        ),
        Mistake(
            "windows side by side",
            lambda i, levels, width: (3**levels * i, min(3**levels * (i + 1) - 1, width - 1)),
            "You put the windows side by side, as with a stride of 3. They are 3 wide and move by "
            "2, so neighbours share a column.",
        ),
        Mistake(
            "cut at the width",
            lambda i, levels, width: (
                2**levels * i,
                min(seen_with(i, levels, 0, 2, None)[1], width),
            ),
            "You cut at `width`. Columns are counted from 0, so the last one is `width - 1`; "
            "column number `width` is the zeros.",
        ),
        Mistake(
            "cut to the width less two",
            lambda i, levels, width: (
                2**levels * i,
                min(seen_with(i, levels, 0, 2, None)[1], width - 2),
            ),
            "You cut one column too early: the last column of the picture is `width - 1`.",
        ),
        Mistake(
            "four wide",
            lambda i, levels, width: seen_with(i, levels, 0, 3, width),
            "Your window goes from 2 i to 2 i + 3, which are four columns. Three columns from 2 i "
            "on are 2 i, 2 i + 1 and 2 i + 2.",
        ),
        Mistake(
            "one level",
            lambda i, levels, width: seen_with(i, 1, 0, 2, width),
            "You go through one level, whatever `levels` is. Repeat the step: each level asks "
            "which columns *its* input saw.",
        ),
        Mistake(
            "how many for the last",
            lambda i, levels, width: (
                seen(i, levels, width)[0],
                seen(i, levels, width)[1] - seen(i, levels, width)[0] + 1,
            ),
            "Your second number says how many columns there are. Asked for is the last one itself.",
        ),
        Mistake(
            "zeros on both sides, not cut",
            lambda i, levels, width: seen_with(i, levels, -1, 1, None),
            "You centre the window, 2 i - 1 to 2 i + 1, as with zeros on each side. Here there are "
            "none on the left: the window begins at 2 i. And columns beyond the picture are no "
            "pixels.",
        ),
        Mistake(
            "added before doubling",
            lambda i, levels, width: (2**levels * i, min(2**levels * (i + 2), width - 1)),
            "You add 2 in the columns of the latent, and double afterwards. Each level doubles "
            "first and adds its 2 then: `last = 2 * last + 2`.",
        ),
        Mistake(
            "the first cut, too",
            lambda i, levels, width: seen_with(i, levels, 0, 2, width // 2),
            "You cut at half the width, which is the width *behind* the first level. The columns "
            "asked for are those of the picture.",
        ),
        Mistake(
            "one past, and not cut",
            lambda i, levels, width: (
                seen_with(i, levels, 0, 2, None)[0],
                seen_with(i, levels, 0, 2, None)[1] + 1,
            ),
            "Your second number is one past the last column, as in a `range`, and it may lie in "
            "the zeros on the right, which are no pixels.",
        ),
    ),
)

EXERCISES = (DRAW, FIT, KL, GUESS, FACTOR, SEEN)

# -------------------------------------------------------------------------------------------- quiz

QUESTIONS = (
    Question(
        "Why does the encoder give a mean and a variance, and why is noise added, instead of "
        "decoding its output as it is?",
        (
            Answer(
                "So that the decoder draws a different picture every time.",
                False,
                "It does, a little, but nobody wants it: when pictures are made, the decoder gets "
                "no noise of its own.",
            ),
            Answer(
                "So that not only the codes of training pages, but everything near them, decodes "
                "to a page.",
                True,
                "A diffusion model never hits a code exactly. The noise makes the decoder answer "
                "for a neighbourhood, and the KL term keeps the neighbourhoods from shrinking to "
                "points.",
            ),
            Answer(
                "So that gradients can pass through the encoder.",
                False,
                "They pass best without any noise. Noise makes a trick necessary, the "
                "reparameterisation, for them to pass at all.",
            ),
        ),
    ),
    Question(
        "Stable Diffusion multiplies its latents by 0.18215. What does that tell about them?",
        (
            Answer(
                "The KL term made them standard normal, and 0.18215 is the width of the posterior.",
                False,
                "If they were standard normal, no factor would be needed.",
            ),
            Answer(
                "They are compressed to about a fifth.",
                False,
                "The factor changes the unit, nothing else. It is undone before decoding, and no "
                "information is lost or gained.",
            ),
            Answer(
                "Their standard deviation was about 5.5: the KL term, weighted with a millionth, "
                "did not make them standard normal.",
                True,
                "The factor is one over the measured standard deviation. It gives the diffusion "
                "model numbers of about unit variance; their distribution stays as it is.",
            ),
        ),
    ),
    Question(
        "You train two decoders on the same latents, one with the absolute error alone, one with "
        "an adversarial loss besides. Which one has the better PSNR on new pages, as a rule?",
        (
            Answer(
                "The one with the adversarial loss: its pictures look sharper.",
                False,
                "Looking sharper and being near are two things. An invented texture in the wrong "
                "place costs more PSNR than a smooth area.",
            ),
            Answer(
                "The one with the absolute error alone.",
                True,
                "PSNR measures pixel errors, and that decoder was trained for little else. It is "
                "blurred where it does not know, which is the safe guess; this is why a better "
                "PSNR does not mean a better picture.",
            ),
            Answer(
                "Neither, since the latents hold the same information.",
                False,
                "They do, but the decoders make different guesses about what the latents do not "
                "say.",
            ),
        ),
    ),
)
