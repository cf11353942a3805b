"""Exercises and quiz of notebook 02, the autoencoder."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal

# --------------------------------------------------------------------------------- 02.1 the KL term


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats: (b, ...) twice -> a scalar."""
    each = 0.5 * (mean**2 + logvar.exp() - 1 - logvar)
    return each.flatten(1).sum(1).mean()


def kl_term_cases(rng: Generator) -> Iterator[Case]:
    for shape in ((2, 4, 3, 5), (3, 3, 3, 3), (1, 2, 4, 1), (5, 2)):
        yield Case((2 * normal(rng, *shape), normal(rng, *shape) - 1))


KL_TERM = Exercise(
    number="02.1",
    title="The KL term",
    minutes=6,
    difficulty=1,
    core=True,
    solution=kl_divergence,
    cases=kl_term_cases,
)

# -------------------------------------------------------------------------- 02.2 posterior samples


def sample_posterior(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """mean, logvar (b, ...), noise (n, b, ...) -> n samples of each, (n, b, ...)."""
    return mean + torch.exp(0.5 * logvar) * noise


def sample_cases(rng: Generator) -> Iterator[Case]:
    for n, b, c, h, w in ((3, 2, 4, 5, 3), (2, 2, 2, 2, 2), (1, 1, 4, 3, 6), (4, 3, 1, 1, 2)):
        mean, logvar = normal(rng, b, c, h, w), 2 * normal(rng, b, c, h, w) - 1
        yield Case((mean, logvar, normal(rng, n, b, c, h, w)))


SAMPLE = Exercise(
    number="02.2",
    title="Samples of the posterior",
    minutes=5,
    difficulty=1,
    core=True,
    solution=sample_posterior,
    cases=sample_cases,
)

# ------------------------------------------------------------------------------ 02.3 the best guess


def best_guesses(images: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images (c, h, w) with the least expected L2 and L1 error."""
    mean = (probabilities.view(-1, 1, 1, 1) * images).sum(0)
    values, order = images.sort(dim=0)
    reached = probabilities[order].cumsum(0) >= 0.5  # (n, c, h, w)
    median = values.gather(0, reached.int().argmax(0, keepdim=True))[0]
    return mean, median


def guess_cases(rng: Generator) -> Iterator[Case]:
    for n, c, h, w in ((5, 3, 4, 6), (4, 2, 2, 2), (2, 1, 3, 5), (9, 3, 3, 2)):
        parts = torch.rand(n, generator=rng, dtype=torch.float64) + 0.05
        yield Case((normal(rng, n, c, h, w), parts / parts.sum()))
    small = torch.rand(2, generator=rng, dtype=torch.float64) / 8 + 0.05
    likely = torch.stack([small[0], 1 - small.sum(), small[1]])  # one more probable than not
    yield Case((normal(rng, 3, 2, 3, 3), likely))


def beside_the_median(images: Tensor, probabilities: Tensor, step: int) -> Tensor:
    """The value that lies `step` places further in the order, or the last one there is."""
    values, order = images.sort(dim=0)
    place = (probabilities[order].cumsum(0) >= 0.5).int().argmax(0, keepdim=True)
    return values.gather(0, (place + step).clamp(0, len(images) - 1))[0]


def best_image(images: Tensor, probabilities: Tensor) -> Tensor:
    """Of the images themselves the one with the smallest expected absolute error."""
    distance = (images[:, None] - images[None]).abs().mean((2, 3, 4))
    return images[(distance @ probabilities).argmin()]


def nearest_to_half(images: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """For the absolute error the value at which the summed probability is nearest to one half."""
    values, order = images.sort(dim=0)
    place = (probabilities[order].cumsum(0) - 0.5).abs().argmin(0, keepdim=True)
    return best_guesses(images, probabilities)[0], values.gather(0, place)[0]


GUESS = Exercise(
    number="02.3",
    title="The best guess",
    minutes=12,
    difficulty=2,
    core=True,
    solution=best_guesses,
    cases=guess_cases,
)

# ------------------------------------------------------------------------------ 02.4 the hinge loss


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The hinge loss of D: logits of real and of generated images -> a scalar."""
    real = F.relu(1 - real_logits).mean()
    fake = F.relu(1 + fake_logits).mean()
    return 0.5 * (real + fake)


def hinge_cases(rng: Generator) -> Iterator[Case]:
    for reals, fakes, h, w in ((2, 2, 3, 5), (8, 1, 4, 4), (1, 3, 2, 3), (3, 3, 1, 1)):
        yield Case((2 * normal(rng, reals, 1, h, w), 2 * normal(rng, fakes, 1, h, w)))


HINGE = Exercise(
    number="02.4",
    title="The hinge loss",
    minutes=5,
    difficulty=1,
    core=True,
    solution=discriminator_loss,
    cases=hinge_cases,
)

# -------------------------------------------------------------------------------- 02.5 the ResBlock


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """The GroupNorm of the published autoencoder; PyTorch's own eps is 1e-5."""
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResBlock(nn.Module):
    """Norm, SiLU and convolution, twice, with a residual connection."""

    def __init__(self, c_in: int, c_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = group_norm(c_in, groups)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = group_norm(c_out, groups)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        same = c_in == c_out
        self.conv_shortcut = nn.Identity() if same else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, c_in, h, w) -> (b, c_out, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.conv_shortcut(x) + h


def resblock_cases(rng: Generator) -> Iterator[Case]:
    for b, h, w, build in ((2, 5, 7, (8, 12, 4)), (3, 4, 5, (6, 6, 3)), (1, 6, 3, (9, 6, 3))):
        yield Case((2 * normal(rng, b, build[0], h, w) + 0.5,), build=build)


RESBLOCK = Exercise(
    number="02.5",
    title="The ResBlock",
    minutes=6,
    difficulty=1,
    core=True,
    solution=ResBlock,
    cases=resblock_cases,
)

# ---------------------------------------------------------------------------- 02.6 the downsampling


class Downsample(nn.Module):
    """Halve height and width with a convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """x (b, c, h, w) -> (b, c, h / 2, w / 2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # left, right, top, bottom


def downsample_cases(rng: Generator) -> Iterator[Case]:
    for b, c, h, w in ((2, 3, 6, 10), (1, 4, 8, 4), (3, 2, 6, 6), (2, 1, 5, 7)):
        yield Case((2 * normal(rng, b, c, h, w) + 0.5,), build=(c,))


DOWNSAMPLE = Exercise(
    number="02.6",
    title="Half the size",
    minutes=4,
    difficulty=1,
    core=True,
    solution=Downsample,
    cases=downsample_cases,
)

# ------------------------------------------------------------------ 02.7 from one normal to another


def kl_normal(mean: Tensor, logvar: Tensor, mean_p: Tensor, logvar_p: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(mean_p, exp(logvar_p))): (b, c, h, w) -> (b,)."""
    distance = (mean - mean_p) ** 2 / logvar_p.exp()
    ratio = logvar - logvar_p  # the logarithm of s² / s_p²
    each = 0.5 * (distance + ratio.exp() - 1 - ratio)
    return each.flatten(1).sum(1)


def kl_cases(rng: Generator) -> Iterator[Case]:
    for b, c, h, w in ((2, 4, 3, 5), (3, 3, 3, 3), (1, 2, 4, 1), (4, 1, 1, 1)):
        mean, mean_p = 2 * normal(rng, b, c, h, w), normal(rng, b, c, h, w)
        yield Case((mean, normal(rng, b, c, h, w) - 1, mean_p, normal(rng, b, c, h, w) + 0.5))


KL = Exercise(
    number="02.7",
    title="From one normal distribution to another",
    minutes=12,
    difficulty=2,
    solution=kl_normal,
    cases=kl_cases,
)

# -------------------------------------------------------------------------- 02.8 the scaling factor


def scaling_factor(mean: Tensor, logvar: Tensor) -> Tensor:
    """1 / std of all entries of all posterior samples: (b, c, h, w) -> a scalar."""
    between = (mean - mean.mean()).square().mean()  # variance of the means
    within = logvar.exp().mean()  # variance of the samples around them
    return 1 / (between + within).sqrt()


def factor_cases(rng: Generator) -> Iterator[Case]:
    for b, c, h, w in ((3, 4, 5, 2), (4, 4, 4, 4), (1, 3, 2, 6)):
        places = torch.arange(c, dtype=torch.float64).view(1, c, 1, 1)  # channels differ
        yield Case((3 * normal(rng, b, c, h, w) + places, normal(rng, b, c, h, w) + 0.5))


def seeded_noise(mean: Tensor) -> Tensor:
    """Noise in the shape of mean, always the same."""
    return torch.randn(mean.shape, generator=Generator().manual_seed(0))


FACTOR = Exercise(
    number="02.8",
    title="The scaling factor without noise",
    minutes=10,
    difficulty=2,
    core=True,
    solution=scaling_factor,
    cases=factor_cases,
)

# ------------------------------------------------------------------------- 02.9 the receptive field


def receptive_field(i: int, levels: int, width: int) -> tuple[int, int]:
    """First and last pixel column that latent column i depends on."""
    first = last = i
    for _ in range(levels):
        first, last = 2 * first, 2 * last + 2
    return first, min(last, width - 1)


def field_with(i: int, levels: int, low: int, high: int, width: int | None) -> tuple[int, int]:
    """Each downsampling has the window 2 i + low to 2 i + high; cut to an image of this width."""
    first = last = i
    for _ in range(levels):
        first, last = 2 * first + low, 2 * last + high
    return (first, last) if width is None else (max(first, 0), min(last, width - 1))


def field_cases(_: Generator) -> Iterator[Case]:
    for i, levels, width in ((2, 3, 64), (0, 1, 8), (5, 2, 32), (7, 3, 64), (3, 1, 8), (0, 2, 4)):
        yield Case((i, levels, width))


FIELD = Exercise(
    number="02.9",
    title="The receptive field of a latent position",
    minutes=12,
    difficulty=2,
    solution=receptive_field,
    cases=field_cases,
    trained=False,
)

# ----------------------------------------------------------------------- 02.10 an image of any size


def fit(x: Tensor, factor: int) -> Tensor:
    """x (b, c, h, w) -> height and width padded to multiples of factor."""
    h, w = x.shape[-2:]
    return F.pad(x, (0, -w % factor, 0, -h % factor), mode="replicate")


def fit_cases(rng: Generator) -> Iterator[Case]:
    for b, c, h, w, factor in (
        (2, 3, 13, 6, 8),
        (1, 3, 16, 11, 8),
        (2, 2, 7, 7, 4),
        (3, 1, 4, 9, 2),
    ):
        yield Case((normal(rng, b, c, h, w), factor))


def centred(side: int, factor: int) -> tuple[int, int]:
    """The missing columns or rows, shared between both sides."""
    missing = -side % factor
    return missing // 2, missing - missing // 2


FIT = Exercise(
    number="02.10",
    title="An image of any size",
    minutes=7,
    difficulty=1,
    core=True,
    solution=fit,
    cases=fit_cases,
)

# -------------------------------------------------------------------------- 02.11 where the nats go


def information(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Nats about which image: mean, logvar (b, ...), noise (n, b, ...) -> a scalar."""
    z = sample_posterior(mean, logvar, noise).flatten(2)[:, :, None]  # (n, b, 1, d)
    m, v = mean.flatten(1), logvar.flatten(1)  # (b, d)
    # ln q(z | x_k) of each sample under each posterior, less a constant: (n, b, b)
    ln_q = -0.5 * ((z - m) ** 2 / v.exp() + v).sum(-1)
    own = ln_q.diagonal(dim1=1, dim2=2)  # of each sample under its own posterior: (n, b)
    return (own - ln_q.logsumexp(-1)).mean() + np.log(len(mean))


def information_cases(rng: Generator) -> Iterator[Case]:
    for n, shape in ((3, (4, 2)), (2, (2, 2, 2)), (5, (3, 2, 1, 3)), (1, (5, 3))):
        mean, logvar = normal(rng, *shape), normal(rng, *shape) - 1
        yield Case((mean, logvar, normal(rng, n, *shape)))
    mean, logvar = 0.04 * normal(rng, 3, 4, 20, 20), 1 + 0.02 * normal(rng, 3, 4, 20, 20)
    yield Case((mean, logvar, normal(rng, 2, 3, 4, 20, 20)))  # densities below any float


def log_densities(mean: Tensor, logvar: Tensor, z: Tensor) -> Tensor:
    """The logarithms of q(z | x_k), less a constant, of z (n, b, ...) for all k: (n, b, b)."""
    distance = (z.flatten(2)[:, :, None] - mean.flatten(1)) ** 2
    return -0.5 * (distance / logvar.flatten(1).exp() + logvar.flatten(1)).sum(-1)


def from_densities(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """The information with ln q(z) from the densities themselves, which may underflow."""
    ln_q = log_densities(mean, logvar, sample_posterior(mean, logvar, noise))
    return (ln_q.diagonal(dim1=1, dim2=2) - ln_q.exp().mean(-1).log()).mean()


def from_ratios(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """The information from ratios of densities, which may be 0 / 0."""
    q = log_densities(mean, logvar, sample_posterior(mean, logvar, noise)).exp()
    return (q.diagonal(dim1=1, dim2=2) / q.mean(-1)).log().mean()


def without_pairs(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Each sample under its own posterior alone, compared with the other samples."""
    own = -0.5 * (noise**2 + logvar).flatten(2).sum(-1)
    return (own - own.logsumexp(1, keepdim=True)).mean()


def with_one_normal(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """The aggregate posterior taken for a normal distribution with its mean and variance."""
    z = sample_posterior(mean, logvar, noise)
    own = -0.5 * (noise**2 + logvar).flatten(2).sum(-1)
    variance = mean.var(0, correction=0) + logvar.exp().mean(0)
    whole = -0.5 * ((z - mean.mean(0)) ** 2 / variance + variance.log()).flatten(2).sum(-1)
    return (own - whole).mean()


INFORMATION = Exercise(
    number="02.11",
    title="Where the nats go",
    minutes=25,
    difficulty=3,
    core=True,
    solution=information,
    cases=information_cases,
    tolerance=1e-6,  # a logarithm of b in float32 is right
)

EXERCISES, QUESTIONS = with_texts(
    __name__,
    KL_TERM,
    SAMPLE,
    GUESS,
    HINGE,
    RESBLOCK,
    DOWNSAMPLE,
    KL,
    FACTOR,
    FIELD,
    FIT,
    INFORMATION,
)
