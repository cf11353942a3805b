"""Notebook 17: wrong answers that the checker was not written for, and right ones in another
style."""

import math
from collections import deque

import torch
from torch import nn

from sdlearn.course.exercises.nb17_scaling import (
    accumulated_gradients,
    data_parallel_step,
    plan,
    ring_chunks,
    scaled_step,
)
from tests.course.answers.expected_verdict import ExpectedVerdict

# -------------------------------------------------------------------------------- 17.1


def by_autograd(objective, batch, size):
    weights, n = list(objective.parameters()), len(batch[0])
    total = [torch.zeros_like(w) for w in weights]
    for first in range(0, n, size):
        part = [x[first : first + size] for x in batch]
        found = torch.autograd.grad(objective(*part) * len(part[0]), weights)
        total = [a + b for a, b in zip(total, found, strict=True)]
    return [gradient / n for gradient in total]


def row_by_row(objective, batch, size):
    objective.zero_grad()
    for k in range(len(batch[0])):
        (objective(*(x[k : k + 1] for x in batch)) / len(batch[0])).backward()
    return [w.grad for w in objective.parameters()]


def at_once(objective, batch, size):
    objective.zero_grad()
    objective(*batch).backward()
    return [w.grad for w in objective.parameters()]


def overlapping(objective, batch, size):
    objective.zero_grad()
    n = len(batch[0])
    for first in range(0, n, size):
        first = min(first, max(0, n - size))
        part = [x[first : first + size] for x in batch]
        (objective(*part) * len(part[0]) / n).backward()
    return [w.grad for w in objective.parameters()]


def stepped_inputs(objective, batch, size):
    found = accumulated_gradients(objective, batch, size)
    batch[0].zero_()
    return found


# -------------------------------------------------------------------------------- 17.2


def by_torch(gradients, scale, good, clip, growth):
    flat = torch.cat([g.flatten() for g in gradients]) / scale
    if not math.isfinite(float(flat.sum())):
        return [], 0.5 * scale, 0
    length = float(flat.norm())
    factor = clip / length if length > clip else 1.0
    found = [x * factor for x in flat.split([g.numel() for g in gradients])]
    found = [x.view_as(g) for x, g in zip(found, gradients, strict=True)]
    good = (good + 1) % growth
    return found, scale if good else 2.0 * scale, good


def in_place(gradients, scale, good, clip, growth):
    if any(not g.isfinite().all() for g in gradients):
        return [], scale / 2, 0
    for gradient in gradients:
        gradient.div_(scale)
    return scaled_step(gradients, 1.0, good, clip, growth)


def changed(edit):
    """The solution with its three results changed."""
    return lambda g, s, n, c, k: edit(*scaled_step(g, s, n, c, k))


# -------------------------------------------------------------------------------- 17.3


def summed_by_hand(objectives, optimizers, batch, clip=1.0):
    ranks, losses, found = len(objectives), [], []
    rows = len(batch[0]) // ranks
    for k, objective in enumerate(objectives):
        loss = objective(*(x[k * rows : (k + 1) * rows] for x in batch))
        found.append(torch.autograd.grad(loss, list(objective.parameters())))
        losses.append(loss.detach())
    means = [sum(each) / ranks for each in zip(*found, strict=True)]
    length = torch.cat([mean.flatten() for mean in means]).norm()
    factor = min(1.0, float(clip / (length + 1e-6)))
    for objective, optimizer in zip(objectives, optimizers, strict=True):
        for w, mean in zip(objective.parameters(), means, strict=True):
            w.grad = mean * factor
        optimizer.step()
    return sum(losses) / ranks, length


def one_gradient_for_all(objectives, optimizers, batch, clip=1.0):
    """The gradient of rank 0 is used by everyone."""
    loss = objectives[0](*(x.chunk(len(objectives))[0] for x in batch))
    found = torch.autograd.grad(loss, list(objectives[0].parameters()))
    for objective, optimizer in zip(objectives, optimizers, strict=True):
        for w, gradient in zip(objective.parameters(), found, strict=True):
            w.grad = gradient.clone()
        norm = nn.utils.clip_grad_norm_(objective.parameters(), clip)
        optimizer.step()
    return loss.detach(), norm


def without_clipping(objectives, optimizers, batch, clip=1.0):
    return data_parallel_step(objectives, optimizers, batch, 1e9)


def only_first_steps(objectives, optimizers, batch, clip=1.0):
    class Idle:
        def __init__(self, optimizer):
            self.zero_grad = optimizer.zero_grad

        def step(self):
            pass

    first, *others = optimizers
    return data_parallel_step(objectives, [first, *map(Idle, others)], batch, clip)


def twice(objectives, optimizers, batch, clip=1.0):
    data_parallel_step(objectives, optimizers, batch, clip)
    return data_parallel_step(objectives, optimizers, batch, clip)


# -------------------------------------------------------------------------------- 17.4, 17.5


def by_rotation(rank, ranks):
    line = deque(range(ranks))
    line.rotate(-rank)
    falling = [line[0], *list(line)[:0:-1]]
    return [*falling, *falling[:-2]]


def by_halving(run, machine, shard):
    state = sum(n * run.parameters for n in (4, 4, 4, 4, 4))
    if shard:
        state /= machine.devices
    rows = run.batch // machine.devices
    while rows and (
        rows * run.activations + state > machine.memory or run.batch // machine.devices % rows
    ):
        rows -= 1
    seconds = (run.flops + 2 * run.flops) * run.steps * run.batch / machine.peak
    hours = seconds / machine.utilisation / 60 / 60
    return rows, hours, machine.price * hours


WRONG = {
    "17.1": [
        at_once,
        overlapping,
        stepped_inputs,
        lambda o, b, n: accumulated_gradients(o, b, n)[:1],
        lambda o, b, n: [-g for g in accumulated_gradients(o, b, n)],
        lambda o, b, n: [g / g.norm() for g in accumulated_gradients(o, b, n)],
        lambda o, b, n: accumulated_gradients(o, tuple(x.flip(0) for x in b[:1]) + b[1:], n),
        lambda o, b, n: [g * 1.0001 for g in accumulated_gradients(o, b, n)],
    ],
    "17.2": [
        in_place,
        changed(lambda g, s, n: (g, s, n + 1)),
        changed(lambda g, s, n: (g, min(s, 500.0), n)),
        changed(lambda g, s, n: ([torch.cat([x.flatten() for x in g])] if g else [], s, n)),
        changed(lambda g, s, n: (g[::-1], s, n)),
        changed(lambda g, s, n: (g, s)),
        lambda g, s, n, c, k: scaled_step([x.nan_to_num() for x in g], s, n, c, k),
        lambda g, s, n, c, k: scaled_step(g, s, n, c * c, k),
        lambda g, s, n, c, k: scaled_step(g, s, n, c, 2000),
    ],
    "17.3": [
        one_gradient_for_all,
        without_clipping,
        only_first_steps,
        twice,
        lambda o, a, b, clip=1.0: data_parallel_step(o, a, tuple(x[:-1] for x in b), clip),
        lambda o, a, b, clip=1.0: data_parallel_step(o[:1], a[:1], tuple(x[:3] for x in b), clip),
        lambda o, a, b, clip=1.0: data_parallel_step(o, a, b, clip)[0],
        lambda o, a, b, clip=1.0: data_parallel_step(o, a, b, clip * len(o)),
    ],
    "17.4": [
        lambda r, n: ring_chunks(r, n)[::-1],
        lambda r, n: ring_chunks(0, n),
        lambda r, n: ring_chunks((r + 1) % n, n),
        lambda r, n: ring_chunks(r, 4),
        lambda r, n: sorted(ring_chunks(r, n)),
        lambda r, n: [each + 1 for each in ring_chunks(r, n)],
        lambda r, n: ring_chunks(r, n)[: n - 1] * 2,
    ],
    "17.5": [
        lambda r, m, s: plan(r, m, not s),
        lambda r, m, s: plan(r, m, s)[:2],
        lambda r, m, s: (plan(r, m, s)[0] or 1, *plan(r, m, s)[1:]),
        lambda r, m, s: (*plan(r, m, s)[:2], plan(r, m, s)[2] * m.devices),
        lambda r, m, s: plan(r._replace(parameters=0), m, s),
        lambda r, m, s: plan(r._replace(batch=r.batch // m.devices), m, s),
        lambda r, m, s: plan(r, m._replace(memory=m.memory * 0.9), s),
    ],
}
RIGHT = {
    "17.1": [by_autograd, row_by_row],
    "17.2": [by_torch],
    "17.3": [summed_by_hand],
    "17.4": [by_rotation],
    "17.5": [by_halving],
}
VERDICTS = [
    ExpectedVerdict("17.1", at_once, says=("rows at once",)),
    ExpectedVerdict("17.2", in_place, says=("gradients",)),
]
