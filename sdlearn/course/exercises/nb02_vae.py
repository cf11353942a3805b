"""Exercises and quiz of notebook 02, the autoencoder."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sdlearn.course.exercises.edits import with_mistakes
from sdlearn.course.grading.exercise import Answer, Case, Exercise, Question, normal

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
    statement="Write the KL divergence of the posterior from $N(0, 1)$. `mean` and `logvar` have "
    "shape `(b, ...)`: the first axis is the batch, and any others index the entries of a code. "
    "The entries are independent, so their divergences add up. Sum over the entries of each image, "
    "then average over the images. As in every exercise, the notebook uses the library's code "
    "until your answer is right.",
    hints=(
        "Start with the divergence of each entry, a tensor of the same shape as `mean`. The "
        "variance $s^2$ is `logvar.exp()`, and $\\ln s^2$ is `logvar` itself.",
        "The divergence of each entry is ½ (m² + s² − 1 − ln s²), in code "
        "`0.5 * (mean**2 + logvar.exp() - 1 - logvar)`.",
        "`.flatten(1)` joins all axes but the first, so `.flatten(1).sum(1)` gives one value for "
        "each image. End with `.mean()`.",
    ),
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
    statement="Draw `n` samples from the posterior of each image in a batch, in such a way that "
    "gradients reach the encoder. You are given the encoder's `mean` and `logvar`, of shape "
    "`(b, ...)`, and standard normal `noise` of shape `(n, b, ...)`. Sample $i$ of image $j$ uses "
    "`noise[i, j]`. Your code should also accept `noise` without the axis `n`, in which case it "
    "draws one sample for each image.",
    hints=(
        "A normal variable with mean m and standard deviation s is m + s · noise. The encoder "
        "returns neither s nor s² but the logarithm of s².",
        "s is the square root of exp(logvar), which is `torch.exp(0.5 * logvar)`. It is positive "
        "for any `logvar`.",
        "PyTorch broadcasts `(b, ...)` over the samples, because the additional axis of `noise` "
        "comes first.",
    ),
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
    statement="Suppose that `n` different images fit the same code. `images` has shape "
    "`(n, c, h, w)`, and image $i$ is the right one with probability `probabilities[i]`. The "
    "probabilities sum to 1 but needn't be equal. Return two images of shape `(c, h, w)`: first "
    "the one with the smallest expected squared error, then the one with the smallest expected "
    "absolute error. You may choose every value separately, so neither result need be one of the "
    "`n`. The next figure shows your two images.",
    hints=(
        "The first is a mean in which each image is weighted by its probability. For the second, "
        "think of a single value of one pixel: section 5 says what minimises the absolute error.",
        "Sort the n candidates for that value and put their probabilities in the same order. Then "
        "add these up, from the smallest candidate upwards, until the sum is at least one half. "
        "The candidate at which you stop is the median.",
        "After `values, order = images.sort(dim=0)`, the mask "
        "`probabilities[order].cumsum(0) >= 0.5` has shape `(n, c, h, w)`. `.int().argmax(0)` "
        "finds the first True, and `gather` takes the value there.",
    ),
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
    statement="Write $L_D$, the discriminator's loss. You are given its logits for real images and "
    "for generated ones, both of shape `(b, 1, h, w)`, with one logit for each patch. The two "
    "batches may differ in size, so take the mean of each separately. Section 7 trains its "
    "discriminator with your function, and the stripes in the next figure show whether it has "
    "learnt anything.",
    hints=(
        "`F.relu(x)` is max(0, x), entry by entry.",
        "A real patch costs `F.relu(1 - logit)`: nothing once the logit reaches 1, and more the "
        "lower it is. For a generated patch the sign of the logit is reversed.",
        "`0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())`",
    ),
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
    statement="Write `forward`. The activation is SiLU, $x / (1 + e^{-x})$, available as `F.silu`. "
    "Normalise, activate and convolve, then do the same again with the second norm and "
    "convolution. Finally add the input `x`, passed through `conv_shortcut`. That layer is an "
    "`Identity`, or a 1 × 1 convolution if the number of channels changes.",
    hints=(
        "There are two branches, which meet in a sum at the end. One goes through all norms and "
        "convolutions, the other through `conv_shortcut` alone.",
        "The first half of the long branch is `h = self.conv1(F.silu(self.norm1(x)))`. The second "
        "half has the same form and starts from `h`.",
        "The last line is `return self.conv_shortcut(x) + h`.",
    ),
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
    statement="Write `forward`. Add one column of zeros on the right of `x` and one row of zeros "
    "at the bottom, then apply the convolution, which itself adds none. From here on this is the "
    "`Downsample` of your autoencoder, and section 9 shows what happens to trained weights with "
    "zeros on both sides.",
    hints=(
        "`F.pad(x, sizes)` adds zeros around the last axes. `sizes` has two entries for each axis, "
        "before and after, and begins with the *last* axis.",
        "For two axes the four entries are left, right, top and bottom.",
        "`return self.conv(F.pad(x, (0, 1, 0, 1)))`",
    ),
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
    statement="Section 2 computes the divergence of a posterior from $N(0, 1)$. Now derive it from "
    "*any* normal distribution: write $\\mathrm{KL}(N(m, s^2) \\,\\|\\, N(m_p, s_p^2))$, given the "
    "means and log-variances as tensors of shape `(b, c, h, w)`. Sum over the entries, and return "
    "one value for each image, in a tensor of shape `(b,)`. (The loss of a diffusion model starts "
    "from this formula, because every step of its bound compares two normal distributions.)",
    hints=(
        "Begin as in section 2, with the mean over q of ln q(z) − ln p(z). Now ln p contains "
        "(z − mₚ)² / sₚ² and ln sₚ².",
        "The mean of (z − mₚ)² over q is (m − mₚ)² + s². Check your formula: with mₚ = 0 and "
        "sₚ = 1 it must reduce to that of section 2, and with q = p it must be 0.",
        "½ ( (m − mₚ)²/sₚ² + s²/sₚ² − 1 − ln(s²/sₚ²) ), where s²/sₚ² is "
        "`(logvar - logvar_p).exp()`. Then `.flatten(1).sum(1)`.",
    ),
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
    statement="A diffusion model is trained on *samples* of the posterior, so its scaling factor "
    "is one over the standard deviation of all entries of all samples. Section 10 draws noise to "
    "measure it. Here you compute it exactly and without any noise, from `mean` and `logvar` of "
    "shape `(b, c, h, w)`, as if you had infinitely many samples of every image. Return one value "
    "for all channels, as in Stable Diffusion, and use the population variance: divide by $n$, not "
    "by $n - 1$.\n\n"
    "The next cells apply your function to the posteriors of section 10, `book_mean` and "
    "`book_logvar`, and print the result beside the 1.060 measured there.",
    hints=(
        "The entries vary for two reasons: the means of the posteriors differ from each other, and "
        "every sample differs from its mean.",
        "Variances of independent variables add up: the variance of the means, plus the mean of "
        "the variances around them. Standard deviations don't.",
        "`mean.var(correction=0) + logvar.exp().mean()` is the whole variance. The factor is one "
        "over its square root.",
    ),
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
    statement="The encoder halves the image `levels` times, each time with a 3 × 3 convolution of "
    "stride 2 and *one* column of zeros on the right. Consider these convolutions alone, without "
    "the ResBlocks between them. Which columns of an image of `width` pixels does latent column "
    "`i` depend on? Return the first and the last, counted from 0. The zeros are not columns of "
    "the image.\n\n"
    "Once `check` passes, there is one more question, for three levels. How far is the middle of "
    "the receptive field from the middle of the latent position's own 8 × 8 pixels, and where "
    "would it be with zeros on both sides? The third hint ends with the answer and with what it "
    "explains.",
    hints=(
        "Start with one level. Which three columns are in the window of output i? Draw eight "
        "pixels and the first two windows.",
        "The window of output i covers the columns 2 i, 2 i + 1 and 2 i + 2. With several levels, "
        "ask the same question of the first and last columns that you found, once for every level.",
        "`first, last = 2 * first, 2 * last + 2` for every level, beginning with i and i. At the "
        "end, the last column cannot be beyond `width - 1`. (With three levels, and away from the "
        "borders, the middle of the field is 3.5 columns to the right of the middle of the "
        "position's own pixels. With zeros on both sides it is 3.5 to the left. That is 7 apart, "
        "the shift of section 9.)",
    ),
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
    statement="The library's autoencoder refuses images whose height or width is not a multiple of "
    "`factor`, and the one built above returns a smaller image. Write a function that pads an "
    "image to a size that fits. Add as few columns as possible on the *right* and as few rows as "
    "possible at the *bottom*, by repeating the last column and row. Leave a side alone if it "
    "already fits. Since no pixel changes its place, you can crop the decoded image back to `h` "
    "and `w`.\n\n"
    "The next cells use your function to send scenes cut to 50 × 61 pixels through the shipped "
    "autoencoder. Faint blotches in sky and ground are not your mistake: the text under the table "
    "says where they come from.",
    hints=(
        "How many columns are missing up to the next multiple? For w = 11 and a factor of 8 it is "
        "5, but for w = 16 it must be 0, not 8. In Python, `-11 % 8` is a useful number.",
        "`F.pad(x, (left, right, top, bottom), mode='replicate')` repeats the border. Mind the "
        "order: F.pad begins with the *last* axis, the width.",
        "`F.pad(x, (0, -w % factor, 0, -h % factor), mode='replicate')`",
    ),
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
    statement="Let $q(z) = \\frac{1}{b} \\sum_k q(z \\mid x_k)$ be the aggregate posterior of $b$ "
    "images. Averaged over the images, the KL term is the sum of two divergences:\n\n"
    "$$\\frac{1}{b} \\sum_j \\mathrm{KL}\\big(q(z \\mid x_j) \\,\\|\\, "
    "p(z)\\big) = \\underbrace{\\frac{1}{b} \\sum_j \\mathbb{E}_{z \\sim q(z \\mid x_j)}\\big[\\ln "
    "q(z \\mid x_j) - \\ln q(z)\\big]}_{\\text{mutual information}} + \\mathrm{KL}\\big(q(z) "
    "\\,\\|\\, p(z)\\big) .$$\n\n"
    "The **mutual information** is how much a code says, in nats, about *which* image it comes "
    "from. Show on paper that the equation holds (the first hint has the proof).\n\n"
    "Then estimate the mutual information. Draw samples as in exercise 02.2, from `mean` and "
    "`logvar` of shape `(b, ...)` and `noise` of shape `(n, b, ...)`, and average over all of "
    "them. A code may have thousands of entries, whose joint density is too small for a float, so "
    "compute with logarithms throughout. The next cells apply your function to the networks of "
    "section 4.",
    hints=(
        "On paper: insert − ln q(z) + ln q(z) into ln q(z | xⱼ) − ln p(z). The first half is the "
        "mutual information. The second depends on z alone, and a mean over j and q(z | xⱼ) is a "
        "mean over q(z), so it is KL(q(z) ‖ p(z)). In code you need ln q(z | xₖ) for each sample z "
        "and *every* image k, an `(n, b, b)` tensor. The ½ ln 2π cancels, but the ln s doesn't, "
        "because the posteriors differ in width.",
        "`sample_posterior(...).flatten(2)[:, :, None]` is `(n, b, 1, d)` and broadcasts with "
        "`mean.flatten(1)`, which is `(b, d)`. Sum over the last axis. The entries in which k is "
        "the sample's own image are on the diagonal: `.diagonal(dim1=1, dim2=2)`.",
        "ln q(z) is the logarithm of a mean, `ln_q.logsumexp(-1) - np.log(b)`, which never leaves "
        "the logarithms. The result is `(own - ln_q.logsumexp(-1)).mean() + np.log(b)`.",
    ),
    solution=information,
    cases=information_cases,
    tolerance=1e-6,  # a logarithm of b in float32 is right
)

EXERCISES = with_mistakes(
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

# -------------------------------------------------------------------------------------------- quiz

QUESTIONS = (
    Question(
        "Why does the encoder return a mean and a variance, and why does training decode a noisy "
        "sample instead of the mean?",
        (
            Answer(
                "So that the decoder returns a different image every time.",
                False,
                "It does, a little, but that is not the aim. During generation the decoder gets no "
                "noise of its own.",
            ),
            Answer(
                "So that everything near the codes of training images, and not only those codes, "
                "decodes to a plausible image.",
                True,
                "A diffusion model never hits a code exactly. The noise trains the decoder on a "
                "neighbourhood of each code, and the KL term keeps the neighbourhoods from "
                "shrinking to points.",
            ),
            Answer(
                "So that gradients can pass through the encoder.",
                False,
                "They would pass without any noise. The noise is what makes the reparameterisation "
                "trick necessary.",
            ),
        ),
    ),
    Question(
        "Stable Diffusion multiplies its latents by 0.18215. What does that say about them?",
        (
            Answer(
                "The KL term made them standard normal, and 0.18215 is the standard deviation of "
                "the posterior.",
                False,
                "If they were standard normal, no factor would be needed.",
            ),
            Answer(
                "They are compressed to about a fifth.",
                False,
                "The factor only changes the unit. It is undone before decoding, and no "
                "information is lost or gained.",
            ),
            Answer(
                "Their standard deviation was about 5.5: a KL term with a weight of a millionth "
                "did not make them standard normal.",
                True,
                "The factor is one over the measured standard deviation. It gives the diffusion "
                "model inputs of about unit variance but doesn't change the shape of their "
                "distribution.",
            ),
        ),
    ),
    Question(
        "You train two decoders on the same latents, one with the absolute error alone, the other "
        "with an adversarial loss as well. Which of them has, as a rule, the better PSNR on new "
        "images?",
        (
            Answer(
                "The one with the adversarial loss: its images look sharper.",
                False,
                "Looking real and being close to the original are different aims. An invented "
                "texture in the wrong place costs more PSNR than a smooth area.",
            ),
            Answer(
                "The one with the absolute error alone.",
                True,
                "PSNR measures the squared pixel error, and that decoder minimises another pixel "
                "error and nothing else. Where it can't know, it blurs, which is the safe guess. "
                "This is the perception–distortion trade-off: a better PSNR does not mean a better "
                "image.",
            ),
            Answer(
                "Neither, since the latents hold the same information.",
                False,
                "They do, but the decoders make different guesses about what the latents do not "
                "contain.",
            ),
        ),
    ),
)
