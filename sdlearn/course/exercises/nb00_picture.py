"""Exercises and quiz of notebook 00, the whole picture."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sdlearn.course.exercises.edits import with_mistakes
from sdlearn.course.grading.exercise import Answer, Case, Exercise, Question, normal
from sdlearn.schedule import NoiseSchedule, Point


class SmallNetwork(nn.Module):
    """Stands in for the U-Net: z (b, ...), t, text (b, n, d) -> (b, ...), row by row."""

    def forward(self, z: Tensor, t: float | Tensor, text: Tensor) -> Tensor:
        shape = -1, *[1] * (z.ndim - 1)
        time = torch.as_tensor(t, dtype=z.dtype).expand(len(z)).reshape(shape) / 1000
        words = text.sin().flatten(1).mean(dim=1).reshape(shape)
        return (z + 3 * words).tanh() * (1 + time) + text.flatten(1).var(dim=1).reshape(shape)


# ------------------------------------------------------------------------------------ 00.1 one step


def denoise_step(
    unet: nn.Module,
    z: Tensor,
    here: "Point",
    there: "Point",
    text: Tensor,
    empty: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """From z at `here` to (z at `there`, the estimate of z_0)."""
    eps_text, eps_empty = unet(z, here.t, text), unet(z, here.t, empty)
    eps = eps_empty + scale * (eps_text - eps_empty)
    z_0 = (z - here.sigma * eps) / here.alpha
    return there.alpha * z_0 + there.sigma * eps, z_0


def step_cases(rng: Generator) -> Iterator[Case]:
    path = NoiseSchedule().path(8)
    for k, b, shape, size, scale in (
        (1, 2, (4, 5, 3), (7, 6), 5.0),
        (4, 1, (4, 2, 3), (4, 5), 7.5),
        (6, 3, (3, 3, 3), (3, 3), 1.0),
        (3, 2, (2,), (1, 4), 0.0),
        (7, 1, (4, 4, 4), (5, 5), 3.0),
    ):
        text, empty = normal(rng, b, *size), normal(rng, b, *size)
        z = normal(rng, b, *shape)
        yield Case((SmallNetwork(), z, path[k], path[k + 1], text, empty, scale))


STEP = Exercise(
    number="00.1",
    title="One denoising step",
    minutes=6,
    difficulty=1,
    core=True,
    statement="Write steps a to d as one function of four lines. `unet(z, t, text)` returns the "
    "predicted noise, and `here` and `there` are neighbouring points of the path, each with `.t`, "
    "`.alpha` and `.sigma`. Return a tuple: the latent at `there` and the estimate of $z_0$.",
    hints=(
        "Each of the steps a to d takes one line. You need the guided noise of step b twice, in c "
        "and in d.",
        "The two predictions are `unet(z, here.t, text)` and `unet(z, here.t, empty)`. Guidance "
        "starts from the second: `eps = eps_empty + scale * (eps_text - eps_empty)`.",
        "Step c is `z_0 = (z - here.sigma * eps) / here.alpha`, and d is "
        "`there.alpha * z_0 + there.sigma * eps`. Return d's result first.",
    ),
    solution=denoise_step,
    cases=step_cases,
)

# ----------------------------------------------------------------------------------- 00.2 the loop


def run_loop(step: "Callable", z: Tensor, path: list) -> tuple[list, list]:
    """z at path[0] -> (all latents, z first; the estimate of z_0 of each step)."""
    latents, estimates = [z], []
    for here, there in pairwise(path):
        z, z_0 = step(z, here, there)
        latents.append(z)
        estimates.append(z_0)
    return latents, estimates


class SmallStep(nn.Module):
    """Stands in for `denoise_step` with all but `text`, or everything else too, fixed."""

    def __init__(self, text: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("text", text)

    def forward(
        self, z: Tensor, here: Point, there: Point, text: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        eps = SmallNetwork()(z, here.t, self.text if text is None else text)
        z_0 = (z - here.sigma * eps) / here.alpha
        return there.alpha * z_0 + there.sigma * eps, z_0


def loop_cases(rng: Generator) -> Iterator[Case]:
    for b, steps, shape in ((1, 4, (4, 3, 2)), (2, 1, (2,)), (3, 7, (3, 3, 3)), (4, 3, (4, 4))):
        text = normal(rng, b, 5, 6)
        yield Case((SmallStep(text), normal(rng, b, *shape), NoiseSchedule().path(steps)))


LOOP = Exercise(
    number="00.2",
    title="The loop",
    minutes=5,
    difficulty=1,
    core=True,
    statement="Follow the path from its first point to its last. `step(z, here, there)` is your "
    "`denoise_step` with the network, the prompt and the scale filled in; it returns the same "
    "tuple. Return two lists: all the latents, beginning with the `z` you are given, and the "
    "estimates of $z_0$, one for each step. `pairwise` from `itertools` yields neighbouring "
    "points in pairs.",
    hints=(
        "A path of n + 1 points has n steps, so you return n + 1 latents and n estimates.",
        "Start with `latents, estimates = [z], []` and loop over "
        "`for here, there in pairwise(path):`.",
        "Inside the loop, `z, z_0 = step(z, here, there)` replaces `z`. Append both.",
    ),
    solution=run_loop,
    cases=loop_cases,
)

# --------------------------------------------------------------------------- 00.3 the training loss


def denoising_loss(
    model: nn.Module,
    z_0: Tensor,
    eps: Tensor,
    t: Tensor,
    text: Tensor,
    alpha: Tensor,
    sigma: Tensor,
) -> Tensor:
    """z_0, eps (b, d), t (b,), text (b, k), alpha, sigma (b, 1) -> the loss, ()."""
    z = alpha * z_0 + sigma * eps
    return F.mse_loss(model(z, t, text), eps)


def loss_cases(rng: Generator) -> Iterator[Case]:
    schedule = NoiseSchedule()
    for times, d, k in (
        ((3, 500, 980), 2, 3),
        ((40, 300), 2, 2),
        ((700,), 5, 4),
        ((250,) * 4, 4, 4),
    ):
        t, b = torch.tensor(times), len(times)
        alpha, sigma = (factor[:, None] for factor in schedule.at(t))
        z_0, eps, text = 2 * normal(rng, b, d) + 1, normal(rng, b, d), normal(rng, b, k)
        yield Case((SmallNetwork(), z_0, eps, t, text, alpha, sigma))


LOSS = Exercise(
    number="00.3",
    title="The training loss",
    minutes=5,
    difficulty=1,
    core=True,
    statement="Write the loss of one batch in two lines. Add the noise `eps` to the clean data "
    "`z_0` by the formula of section 3, then return the mean squared error between the model's "
    "prediction, `model(z, t, text)`, and the noise. Every example has its own $t$, and its "
    "factors are in `alpha` and `sigma`, both of shape `(b, 1)`.",
    hints=(
        "What does the model get to see, and what must it predict? It never sees `z_0` itself.",
        "The noisy example is `z = alpha * z_0 + sigma * eps`.",
        "`F.mse_loss(model(z, t, text), eps)` is the mean of the squared differences.",
    ),
    solution=denoising_loss,
    cases=loss_cases,
)

# ----------------------------------------------------------------- 00.4 the ideal denoiser


def ideal_noise(
    z: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    data: Tensor,
    allowed: Tensor,
) -> Tensor:
    """z (b, d), data (n, d), allowed (b, n), true where possible -> eps (b, d)."""
    distance = alpha * torch.cdist(z / alpha, data)  # from z to alpha * x, (b, n)
    scores = -(distance**2) / (2 * sigma**2)
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(dim=1)
    return (z - alpha * (weights @ data)) / sigma


def ideal_cases(rng: Generator) -> Iterator[Case]:
    schedule = NoiseSchedule()
    for times, n, d, far in (
        ((3, 500, 980), 5, 2, 0),
        ((300, 100), 2, 2, 0),
        ((700,), 4, 3, 0),
        ((200,) * 4, 4, 4, 0),
        ((20, 150), 7, 3, 4),  # far from all points: a plain exp gives 0
    ):
        b = len(times)
        alpha, sigma = (factor.double()[:, None] for factor in schedule.at(torch.tensor(times)))
        data = normal(rng, n, d)
        origin = data[torch.randint(n, (b,), generator=rng)]
        z = alpha * origin + sigma * normal(rng, b, d) + far
        allowed = torch.rand(b, n, generator=rng) > 0.3
        allowed[:, -1] = True
        yield Case((z, alpha, sigma, data, allowed))


IDEAL = Exercise(
    number="00.4",
    title="The ideal denoiser",
    minutes=15,
    difficulty=3,
    core=True,
    statement="Write the denoiser with the lowest possible loss, without any training. `data` "
    "holds n clean points. Each row of `z` has its own row of `allowed`: the points marked true "
    "are equally likely before $z$ is known, the others impossible. Then "
    "$z = \\alpha x + \\sigma\\epsilon$ for one of them, with normal $\\epsilon$. Use Bayes' rule "
    "to find how probable each point is, given $z$, and return the expected noise. It must also "
    "work for a $z$ far away from all points.",
    hints=(
        "Given x, how likely is z? It has a normal distribution around `alpha * x` with standard "
        "deviation `sigma`. By Bayes' rule the probability of x is proportional to this density.",
        "The logarithm of that density is −‖z − alpha · x‖² / (2 sigma²), plus a constant. A "
        "softmax over the n points turns these logarithms into probabilities, and does so without "
        "underflow. Points that are not allowed get −∞ before it.",
        "The expected clean point is `weights @ data`. Because the noise is linear in x, the "
        "expected noise is `(z - alpha * (weights @ data)) / sigma`.",
    ),
    solution=ideal_noise,
    cases=ideal_cases,
)

# ------------------------------------------------------------- 00.5 a change of prompt midway


def switch_prompt(
    step: "Callable",
    z: Tensor,
    path: list,
    first: Tensor,
    second: Tensor,
    at: int,
    keep: Tensor,
) -> Tensor:
    """The final z: `second` takes over after `at` steps, except where `keep` is 1."""
    original = edited = z
    for k, (here, there) in enumerate(pairwise(path)):
        original, _ = step(original, here, there, first)
        edited, _ = step(edited, here, there, first if k < at else second)
        edited = keep * original + (1 - keep) * edited
    return edited


class MixingStep(nn.Module):
    """Stands in for `denoise_step`; its prediction at one position depends on all the others."""

    def forward(self, z: Tensor, here: Point, there: Point, text: Tensor) -> tuple[Tensor, Tensor]:
        mean = z.mean(dim=(1, 2, 3), keepdim=True)
        eps = SmallNetwork()(z + 2 * mean, here.t, text)
        z_0 = (z - here.sigma * eps) / here.alpha
        return there.alpha * z_0 + there.sigma * eps, z_0


def switch_cases(rng: Generator) -> Iterator[Case]:
    schedule = NoiseSchedule()
    for b, steps, at in ((1, 6, 2), (2, 4, 0), (1, 4, 4), (3, 5, 1), (1, 7, 6)):
        z, first, second = normal(rng, b, 4, 3, 2), normal(rng, b, 5, 6), normal(rng, b, 5, 6)
        keep = torch.zeros(1, 1, 3, 2, dtype=torch.long)  # no gradient: a mask
        keep[..., steps % 2 :, 1] = 1
        yield Case((MixingStep(), z, schedule.path(steps), first, second, at, keep))


SWITCH = Exercise(
    number="00.5",
    title="Change the prompt midway",
    minutes=12,
    difficulty=2,
    core=True,
    statement="Write a loop that edits an image while it is being generated.\n\n"
    "1. **Prompt editing**, as web interfaces call it. The first `at` steps are conditioned on "
    "`first`, the later ones on `second`, so with `at = 0` only the second prompt is used.\n"
    "2. **Masking**, as in **inpainting**. Where `keep`, of shape `(1, 1, h, w)`, is 1, the final "
    "latent must be exactly the one that `first` alone would give; where it is 0, the edit "
    "decides.\n"
    "3. In every step the network must see both parts at the same noise level, so that it can fit "
    "the edit to the kept part.\n\n"
    "`step(z, here, there, text)`, your `denoise_step` with all but the prompt filled in, returns "
    "the same tuple as in 00.2. Return the final latent.",
    hints=(
        "Which latent holds the kept part of the image with exactly the noise of `there`? You need "
        "one after every step, not just after the last.",
        "Run two loops side by side from the same `z`: the original, which uses `first` in every "
        "step, and the edit. Counted from 0, step k of the edit uses "
        "`first if k < at else second`.",
        "After each step both latents are at `there`, so they have the same amount of noise and "
        "can be mixed: `edited = keep * original + (1 - keep) * edited`.",
    ),
    solution=switch_prompt,
    cases=switch_cases,
)

EXERCISES = with_mistakes(__name__, STEP, LOOP, LOSS, IDEAL, SWITCH)

# --------------------------------------------------------------------------------------------- quiz

QUESTIONS = (
    Question(
        "A friend generates an image with guidance scale 1 and a negative prompt. How does the "
        "negative prompt change the image?",
        (
            Answer(
                "Everything that it names disappears.",
                False,
                "At scale 1 the formula is eps_empty + 1 · (eps_text − eps_empty) = eps_text. The "
                "negative prompt cancels out.",
            ),
            Answer(
                "It doesn't change the image at all.",
                True,
                "The negative prompt takes the place of the empty prompt, and at scale 1 that "
                "prediction cancels out. (The diffusers library does not even compute it.)",
            ),
            Answer(
                "What it names appears, because scale 1 adds it.",
                False,
                "The scale multiplies the difference between the two predictions. At scale 1 what "
                "is left is the prediction for the prompt alone.",
            ),
        ),
    ),
    Question(
        "Why does the loop take 30 small steps and not just one, to the first estimate of z_0?",
        (
            Answer(
                "The first estimate is close to an average of all images that fit the prompt, and "
                "such an average is none of them.",
                True,
                "The loss is a squared error, for which the mean is the best answer. With less "
                "noise only a few candidates remain, and their mean is close to one of them.",
            ),
            Answer(
                "One large step would not fit into memory.",
                False,
                "Every step runs the same network on tensors of the same size.",
            ),
            Answer(
                "The U-Net was trained for exactly 30 noise levels.",
                False,
                "It was trained at 1000 timesteps. The number of steps is chosen when an image is "
                "generated.",
            ),
        ),
    ),
    Question(
        "What is the target of the training loss, and what does the U-Net get as its input?",
        (
            Answer(
                "The target is the clean latent; the input is pure noise.",
                False,
                "Pure noise holds no information about the latent. The input is a mixture of both.",
            ),
            Answer(
                "The target is the image; the input is its caption.",
                False,
                "The U-Net sees no pixels, and its input includes a noisy latent and the time.",
            ),
            Answer(
                "The target is the noise; the input is a noisy latent, the time and the "
                "embeddings of the caption.",
                True,
                "This is ε-prediction: the network predicts the noise that was added. The clean "
                "latent follows by solving the mixing formula.",
            ),
        ),
    ),
)
