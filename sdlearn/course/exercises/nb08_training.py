"""Exercises and quiz of notebook 08, the training loop."""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal
from sdlearn.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule()

# ----------------------------------------------------------------------------------- 08.1 the loss


def diffusion_loss(
    network: nn.Module,
    z_0: Tensor,
    t: Tensor,
    eps: Tensor,
    context: Tensor,
    schedule: "NoiseSchedule",
) -> Tensor:
    """z_0, eps (b, c, h, w), t (b,), context (b, n, d) -> the loss, a scalar."""
    alpha, sigma = (x.to(z_0).view(-1, 1, 1, 1) for x in schedule.at(t))
    z_t = alpha * z_0 + sigma * eps
    prediction = network(z_t, t, context)
    return (prediction - eps).square().mean()


def stand_in(z: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """A function of all three in place of a network, (b, c, h, w)."""
    time, text = t.to(z).view(-1, 1, 1, 1) / 1000, context.mean(dim=(1, 2)).view(-1, 1, 1, 1)
    return torch.tanh(z * (0.5 + time) + text) + time


def diffusion_loss_cases(rng: Generator) -> Iterator[Case]:
    for b, *rest in ((3, 2, 4, 5), (4, 4, 4, 4), (1, 3, 2, 3), (5, 1, 3, 5)):
        t = torch.randint(1, 1000, (b,), generator=rng)
        z_0, eps, context = normal(rng, b, *rest), normal(rng, b, *rest), normal(rng, b, 3, 2)
        yield Case((stand_in, z_0, t, eps, context, SCHEDULE))
    ends = torch.tensor([0, 999])
    z_0, eps, context = normal(rng, 2, 2, 3, 4), normal(rng, 2, 2, 3, 4), normal(rng, 2, 4, 3)
    yield Case((stand_in, z_0, ends, eps, context, SCHEDULE))


DIFFUSION_LOSS = Exercise(
    number="08.1",
    title="The loss",
    minutes=10,
    difficulty=1,
    core=True,
    solution=diffusion_loss,
    cases=diffusion_loss_cases,
)

# -------------------------------------------------------------------------- 08.2 the training step


def training_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor, Tensor, Tensor],
    schedule: "NoiseSchedule",
    lr: float,
    clip: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """batch: z_0, t, eps, context -> the loss and the gradient's norm, both scalars."""
    loss = diffusion_loss(network, *batch, schedule)
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), clip)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return loss.detach(), norm


class Unwatched:
    """A small network that may change: the checker only watches tensors and modules."""

    def __init__(self, rng: Generator) -> None:
        self.module = nn.Linear(3, 3).double()
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.copy_(normal(rng, *parameter.shape))

    def __call__(self, z: Tensor, t: Tensor, context: Tensor) -> Tensor:
        z, time = z.double(), t.double().view(-1, 1, 1, 1) / 1000
        text = context.double().mean(dim=(1, 2)).view(-1, 1, 1, 1)
        changed: Tensor = self.module(z)
        return torch.tanh(changed + text) * (1 + time)

    def __getattr__(self, name: str) -> object:
        return getattr(self.module, name)


def training_step_cases(rng: Generator) -> Iterator[Case]:
    """Steps of a few runs. The losses and gradients of a step show what the earlier ones did."""
    for kind, clip in (("sgd", 0.5), ("adamw", 0.3), ("sgd", 100.0)):
        network = Unwatched(rng)
        weights = list(network.module.parameters())
        optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(weights, lr=0.9, momentum=0.5)
            if kind == "sgd"
            else torch.optim.AdamW(weights, lr=0.9, betas=(0.9, 0.99))
        )
        for b, lr in ((2, 0.1), (4, 0.3), (3, 0.05), (1, 0.2)):
            t = torch.randint(0, 1000, (b,), generator=rng)
            batch = normal(rng, b, 2, 4, 3), t, normal(rng, b, 2, 4, 3), normal(rng, b, 5, 2)
            yield Case((network, optimizer, batch, SCHEDULE, lr, clip))


TRAINING_STEP = Exercise(
    number="08.2",
    title="The training step",
    minutes=10,
    difficulty=2,
    core=True,
    solution=training_step,
    cases=training_step_cases,
    trained=False,
)

# -------------------------------------------------------------------- 08.3 warm up, hold, cool down


def rate(step: int, steps: int, peak: float, warmup: int, cooldown: int) -> float:
    """The learning rate of step number `step`, which is from 0 to steps - 1."""
    up = (step + 1) / max(warmup, 1)
    down = (steps - step) / max(cooldown, 1)
    return peak * min(1.0, up, down)


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
    number="08.3",
    title="Warm up, hold, cool down",
    minutes=10,
    difficulty=1,
    solution=rate,
    cases=rate_cases,
    trained=False,
)

# ---------------------------------------------------------------------- 08.4 converting predictions


def translate(
    z_t: Tensor, prediction: Tensor, abar: Tensor, predicts: str
) -> tuple[Tensor, Tensor, Tensor]:
    """z_t, prediction (b, c, h, w), abar (b,) -> z_0, eps, v, each (b, c, h, w)."""
    alpha = abar.sqrt().view(-1, 1, 1, 1)
    sigma = (1 - abar).sqrt().view(-1, 1, 1, 1)
    if predicts == "velocity":
        z_0 = alpha * z_t - sigma * prediction
        eps = sigma * z_t + alpha * prediction
    elif predicts == "noise":
        z_0 = (z_t - sigma * prediction) / alpha
        eps = prediction
    else:
        z_0 = prediction
        eps = (z_t - alpha * prediction) / sigma
    v = alpha * eps - sigma * z_0
    return z_0, eps, v


def translate_cases(rng: Generator) -> Iterator[Case]:
    shapes = ((2, 3, 4, 5), (1, 4, 2, 3), (3, 2, 3, 3))
    for predicts in ("noise", "velocity", "z_0"):
        for b, *rest in shapes:
            abar = 0.05 + 0.9 * torch.rand(b, generator=rng, dtype=torch.float64)
            z_t, prediction = normal(rng, b, *rest), normal(rng, b, *rest)
            yield Case((z_t, prediction, abar, predicts))
    for predicts in ("noise", "velocity", "z_0"):
        ends = torch.tensor([0.0047, 0.99], dtype=torch.float64)
        yield Case((normal(rng, 2, 1, 2, 4), normal(rng, 2, 1, 2, 4), ends, predicts))


TRANSLATE = Exercise(
    number="08.4",
    title="Converting predictions",
    minutes=12,
    difficulty=2,
    core=True,
    solution=translate,
    cases=translate_cases,
)

# ----------------------------------------------------------------------------- 08.5 caption dropout


def dropped(
    context: Tensor,
    pooled: Tensor,
    empty: Tensor,
    empty_pooled: Tensor,
    u: Tensor,
    p: float,
) -> tuple[Tensor, Tensor]:
    """context (b, n, d), pooled (b, d) -> both, with some captions dropped."""
    drop = u < p  # (b,)
    return (
        torch.where(drop[:, None, None], empty, context),
        torch.where(drop[:, None], empty_pooled, pooled),
    )


def dropped_cases(rng: Generator) -> Iterator[Case]:
    for b, n, d, p in (
        (6, 3, 4, 0.3),
        (5, 5, 5, 0.6),
        (1, 2, 4, 0.1),
        (8, 2, 3, 0.1),
        (4, 4, 4, 0.4),
    ):
        u = torch.rand(b, generator=rng, dtype=torch.float64)
        u[0], u[-1] = 1.3 * p if p < 0.5 else 0.9, 0.5 * p  # one of each kind at least
        yield Case(
            (
                normal(rng, b, n, d), normal(rng, b, d), normal(rng, 1, n, d), normal(rng, 1, d),
                u, p,
            )
        )  # fmt: skip
    b, n, d = 3, 4, 2
    for p in (0.0, 1.0):  # no caption is dropped, then all are
        u = torch.tensor([0.0, 0.5, 0.999], dtype=torch.float64)
        yield Case(
            (
                normal(rng, b, n, d), normal(rng, b, d), normal(rng, 1, n, d), normal(rng, 1, d),
                u, p,
            )
        )  # fmt: skip


DROPPED = Exercise(
    number="08.5",
    title="Caption dropout",
    minutes=10,
    difficulty=2,
    solution=dropped,
    cases=dropped_cases,
)

# -------------------------------------------------------------------- 08.6 Min-SNR for v-prediction


def velocity_loss(
    prediction: Tensor, z_0: Tensor, eps: Tensor, abar: Tensor, gamma: float
) -> Tensor:
    """prediction, z_0, eps (b, c, h, w), abar (b,) -> the weighted loss, a scalar."""
    alpha = abar.sqrt().view(-1, 1, 1, 1)
    sigma = (1 - abar).sqrt().view(-1, 1, 1, 1)
    target = alpha * eps - sigma * z_0
    error = (prediction - target).square().mean(dim=(1, 2, 3))  # (b,)
    snr = abar / (1 - abar)
    weight = snr.clamp(max=gamma) / (snr + 1)
    return (error * weight).mean()


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
    number="08.6",
    title="Min-SNR for v-prediction",
    minutes=15,
    difficulty=2,
    solution=velocity_loss,
    cases=loss_cases,
)

# ------------------------------------------------------------------------ 08.7 what an EMA contains


def shares(steps: int, decay: float) -> list[float]:
    """steps + 1 floats: for the initial weights, then for those after each step."""
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(steps)]
    kept = 1.0  # the fraction that all later steps leave
    found = []
    for d in reversed(decays):
        found.append((1 - d) * kept)
        kept *= d
    return [kept, *reversed(found)]


def shares_cases(_: Generator) -> Iterator[Case]:
    for steps, decay in ((1, 0.9), (2, 0.99), (5, 0.99), (12, 0.3), (40, 0.7), (30, 0.9999)):
        yield Case((steps, decay))


SHARES = Exercise(
    number="08.7",
    title="What an EMA contains",
    minutes=20,
    difficulty=3,
    solution=shares,
    cases=shares_cases,
    trained=False,
)

EXERCISES, QUESTIONS = with_texts(
    __name__,
    DIFFUSION_LOSS,
    TRAINING_STEP,
    RATE,
    TRANSLATE,
    DROPPED,
    LOSS,
    SHARES,
)
