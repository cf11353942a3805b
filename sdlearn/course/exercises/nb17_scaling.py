"""Exercises and quiz of notebook 17, scaling up."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor, nn

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal
from sdlearn.course.training_costs import Machine, Run


class Unwatched:
    """A small network with a loss, which may change: only tensors and modules are watched.

    It takes at most `most` rows at once, and has gradients left over from another step.
    """

    def __init__(self, rng: Generator, most: int) -> None:
        self.most = most
        self.module = nn.Linear(3, 2).double()
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.copy_(normal(rng, *parameter.shape))
                parameter.grad = normal(rng, *parameter.shape)

    def __call__(self, x: Tensor, target: Tensor) -> Tensor:
        if len(x) > self.most:
            raise ValueError(
                f"the objective was given {len(x)} rows at once; accepted: at most {self.most}"
            )
        predicted: Tensor = self.module(x.double())
        return (torch.tanh(predicted) - target.double()).square().mean()

    def __getattr__(self, name: str) -> object:
        return getattr(self.module, name)


class Several(list[Any]):
    """A list that a verdict doesn't spell out."""

    def __repr__(self) -> str:
        return f"[{len(self)} of them]"


# ----------------------------------------------------------------- 17.1 gradient accumulation


def accumulated_gradients(
    objective: nn.Module,
    batch: tuple[Tensor, ...],
    size: int,
) -> list:
    """Gradients of objective(*batch), a mean over rows, in micro-batches of `size`."""
    objective.zero_grad()
    n = len(batch[0])
    for micro in zip(*(x.split(size) for x in batch), strict=True):
        loss = objective(*micro)
        (loss * len(micro[0]) / n).backward()
    return [parameter.grad for parameter in objective.parameters()]


def only_the_last(objective: nn.Module, batch: tuple[Tensor, ...], size: int) -> list:
    """The gradients are cleared before every micro-batch."""
    n = len(batch[0])
    for micro in zip(*(x.split(size) for x in batch), strict=True):
        objective.zero_grad()
        (objective(*micro) * len(micro[0]) / n).backward()
    return [parameter.grad for parameter in objective.parameters()]


def accumulation_cases(rng: Generator) -> Iterator[Case]:
    for n, size in ((6, 2), (7, 3), (5, 4), (4, 4), (3, 5), (9, 1), (10, 4)):
        batch = normal(rng, n, 3), normal(rng, n, 2)
        yield Case((Unwatched(rng, size), batch, size))


ACCUMULATE = Exercise(
    number="17.1",
    title="Gradient accumulation",
    minutes=12,
    difficulty=2,
    core=True,
    solution=accumulated_gradients,
    cases=accumulation_cases,
    trained=False,
)

# ------------------------------------------------------------------------- 17.2 the loss scaler


def scaled_step(
    gradients: list[Tensor], scale: float, good: int, clip: float, growth: int
) -> tuple[list[Tensor], float, int]:
    """Gradients of scale * loss -> those for the optimizer, [] to skip; scale; good."""
    if not all(gradient.isfinite().all() for gradient in gradients):
        return [], scale / 2, 0
    unscaled = [gradient / scale for gradient in gradients]
    norm = torch.stack([gradient.norm() for gradient in unscaled]).norm()
    clipped = [gradient * (clip / norm).clamp(max=1) for gradient in unscaled]
    if good + 1 == growth:
        return clipped, scale * 2, 0
    return clipped, scale, good + 1


def scaler_cases(rng: Generator) -> Iterator[Case]:
    inf, nan = float("inf"), float("nan")
    for scale, good, clip, growth, length, bad in (
        (1024.0, 3, 1.0, 10, 5.0, ()),
        (256.0, 0, 1.0, 10, 0.2, ()),
        (512.0, 9, 1.0, 10, 3.0, ()),  # the last good step before the scale doubles
        (64.0, 0, 0.5, 1, 0.7, ()),
        (4096.0, 4, 1.0, 5, 2.0, (2, inf)),
        (128.0, 7, 2.0, 9, 1.0, (0, nan)),
        (32.0, 1, 2.0, 9, 1.0, (1, nan)),
        (2048.0, 2, 1.0, 9, 1.0, (1, -inf)),
        (4.0, 8, 1e5, 9, 30.0, ()),  # far from being clipped
    ):
        gradients = [normal(rng, 3, 2), normal(rng, 4), normal(rng, 1, 2, 2)]
        whole = torch.cat([each.flatten() for each in gradients]).norm()
        gradients = [scale * length * each / whole for each in gradients]
        if bad:
            gradients[bad[0]].view(-1)[1] = bad[1]
        yield Case((gradients, scale, good, clip, growth))


SCALER = Exercise(
    number="17.2",
    title="The loss scaler",
    minutes=15,
    difficulty=2,
    core=True,
    solution=scaled_step,
    cases=scaler_cases,
    trained=False,
)

# ------------------------------------------------------------------------ 17.3 one step of N ranks


def data_parallel_step(
    objectives: list[nn.Module],
    optimizers: list[torch.optim.Optimizer],
    batch: tuple[Tensor, ...],
    clip: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """One step of all ranks -> the loss of the whole batch, the gradient's norm."""
    ranks = len(objectives)
    losses = []
    for rank in range(ranks):
        optimizers[rank].zero_grad()
        loss = objectives[rank](*(x.chunk(ranks)[rank] for x in batch))
        loss.backward()
        losses.append(loss.detach())
    for same in zip(*(each.parameters() for each in objectives), strict=True):
        mean = torch.stack([parameter.grad for parameter in same]).mean(dim=0)
        for parameter in same:
            parameter.grad = mean.clone()
    for objective, optimizer in zip(objectives, optimizers, strict=True):
        norm = nn.utils.clip_grad_norm_(objective.parameters(), clip)
        optimizer.step()
    return torch.stack(losses).mean(), norm


def averaged_weights(
    objectives: list[nn.Module],
    optimizers: list[torch.optim.Optimizer],
    batch: tuple[Tensor, ...],
    clip: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Each rank steps on its own gradients; then the weights are averaged."""
    ranks = len(objectives)
    losses, norms = [], []
    for rank in range(ranks):
        optimizers[rank].zero_grad()
        loss = objectives[rank](*(x.chunk(ranks)[rank] for x in batch))
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(objectives[rank].parameters(), clip))
        optimizers[rank].step()
        losses.append(loss.detach())
    with torch.no_grad():
        for same in zip(*(each.parameters() for each in objectives), strict=True):
            mean = torch.stack([*same]).mean(dim=0)
            for parameter in same:
                parameter.copy_(mean)
    return torch.stack(losses).mean(), torch.stack(norms).mean()


def clipped_first(
    objectives: list[nn.Module],
    optimizers: list[torch.optim.Optimizer],
    batch: tuple[Tensor, ...],
    clip: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Each rank clips its own gradients; then they are averaged."""
    ranks = len(objectives)
    losses, norms = [], []
    for rank in range(ranks):
        optimizers[rank].zero_grad()
        loss = objectives[rank](*(x.chunk(ranks)[rank] for x in batch))
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(objectives[rank].parameters(), clip))
        losses.append(loss.detach())
    for same in zip(*(each.parameters() for each in objectives), strict=True):
        mean = torch.stack([parameter.grad for parameter in same]).mean(dim=0)
        for parameter in same:
            parameter.grad = mean.clone()
    for optimizer in optimizers:
        optimizer.step()
    return torch.stack(losses).mean(), torch.stack(norms).mean()


def parallel_cases(rng: Generator) -> Iterator[Case]:
    """Steps of a few runs. The losses and norms of a step show what the earlier ones did."""
    for ranks, kind, clip in ((2, "adamw", 0.3), (3, "sgd", 100.0), (2, "sgd", 0.2)):
        first, *others = [Unwatched(rng, most=3) for _ in range(ranks)]
        for other in others:
            other.module.load_state_dict(first.module.state_dict())
        objectives = Several([first, *others])
        optimizers = Several(
            torch.optim.AdamW(each.module.parameters(), lr=0.3)
            if kind == "adamw"
            else torch.optim.SGD(each.module.parameters(), lr=0.5, momentum=0.5)
            for each in objectives
        )
        for rows in (2, 1, 3):
            b = ranks * rows
            yield Case((objectives, optimizers, (normal(rng, b, 3), normal(rng, b, 2)), clip))


PARALLEL = Exercise(
    number="17.3",
    title="One step of N ranks",
    minutes=15,
    difficulty=3,
    core=True,
    solution=data_parallel_step,
    cases=parallel_cases,
    trained=False,
)

# --------------------------------------------------------------------------- 17.4 round the ring


def ring_chunks(rank: int, ranks: int) -> list:
    """The chunk that a rank sends in each of the 2 * (ranks - 1) rounds."""
    rounds = range(ranks - 1)
    adding = [(rank - k) % ranks for k in rounds]
    handing_on = [(rank + 1 - k) % ranks for k in rounds]
    return adding + handing_on


def ring_cases(_: Generator) -> Iterator[Case]:
    for ranks in (4, 2, 3, 7):
        for rank in range(ranks):
            yield Case((rank, ranks))


RING = Exercise(
    number="17.4",
    title="Round the ring",
    minutes=12,
    difficulty=2,
    core=True,
    solution=ring_chunks,
    cases=ring_cases,
    trained=False,
)

# ---------------------------------------------------------------------------- 17.5 plan a run


def plan(run: "Run", machine: "Machine", shard: bool) -> tuple[int, float, float]:
    """Rows of a device in one pass, 0 if none fits; hours of all devices; dollars."""
    state = 20 * run.parameters / (machine.devices if shard else 1)
    share = run.batch // machine.devices
    fit = int((machine.memory - state) // run.activations)
    rows = max((n for n in range(1, fit + 1) if share % n == 0), default=0)
    flops = 3 * run.flops * run.batch * run.steps
    hours = flops / (machine.peak * machine.utilisation) / 3600
    return rows, hours, hours * machine.price


def plan_cases(_: Generator) -> Iterator[Case]:
    sd, small = Run(860_000_000, 8.0e11, 2.5e9, 600_000, 2048), Run(11_000_000, 7e8, 4e7, 100, 24)
    for run, machine in (
        (sd, Machine(256, 40e9, 312e12, 0.2, 1.5)),
        (sd, Machine(8, 80e9, 989e12, 0.35, 3.0)),
        (sd, Machine(4, 16e9, 125e12, 0.3, 0.6)),
        (small, Machine(2, 1.0e9, 1e11, 0.5, 0.05)),
        (small, Machine(1, 0.3e9, 1e11, 0.5, 0.0)),
        (small, Machine(3, 9e9, 2e11, 0.4, 0.1)),
    ):
        for shard in (False, True):
            yield Case((run, machine, shard))


PLAN = Exercise(
    number="17.5",
    title="Plan a run",
    minutes=20,
    difficulty=3,
    core=True,
    solution=plan,
    cases=plan_cases,
    trained=False,
)

EXERCISES, QUESTIONS = with_texts(__name__, ACCUMULATE, SCALER, PARALLEL, RING, PLAN)
