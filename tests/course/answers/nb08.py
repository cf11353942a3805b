"""Notebook 08: wrong answers that the checker was not written for, and right ones in another
style."""

import math

import torch

from sdlearn.course.exercises.nb08_training import (
    by_rules,
    dropped,
    loss_with,
    rate,
    rate_with,
    shares,
    shares_with,
    translate,
    velocity_loss,
    warmed,
)
from sdlearn.training import EMA


def in_phases(step, steps, peak, warmup, cooldown):
    share = 1.0
    if step < warmup:
        share = (step + 1) / warmup
    if steps - step <= cooldown:
        share = min(share, (steps - step) / cooldown)
    return peak * share


def from_lists(step, steps, peak, warmup, cooldown):
    up = [(k + 1) / warmup for k in range(warmup)] + [1.0] * steps
    down = [1.0] * steps + [k / cooldown for k in range(cooldown, 0, -1)]
    return peak * min(up[step], down[-(steps - step)])


def one_by_one(z_t, answer, abar, predicts):
    rows = []
    for z, a, share in zip(z_t, answer, abar, strict=True):
        alpha, sigma = share**0.5, (1 - share) ** 0.5
        known = {
            "noise": lambda z=z, a=a, alpha=alpha, sigma=sigma: (z / alpha - a * sigma / alpha, a),
            "z_0": lambda z=z, a=a, alpha=alpha, sigma=sigma: (a, (z - alpha * a) / sigma),
            "velocity": lambda z=z, a=a, alpha=alpha, sigma=sigma: (
                alpha * z - sigma * a,
                sigma * z + alpha * a,
            ),
        }
        z_0, eps = known[predicts]()
        rows.append((z_0, eps, alpha * eps - sigma * z_0))
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))


def by_turning(z_t, answer, abar, predicts):
    """From the velocity of whatever was predicted, turned back."""
    phi = torch.acos(abar.sqrt())[:, None, None, None]
    if predicts == "noise":
        v = (answer - phi.sin() * z_t) / phi.cos()
    elif predicts == "z_0":
        v = (phi.cos() * z_t - answer) / phi.sin()
    else:
        v = answer
    return phi.cos() * z_t - phi.sin() * v, phi.sin() * z_t + phi.cos() * v, v


def by_rows(context, pooled, empty, empty_pooled, u, p):
    pairs = [
        (empty[0], empty_pooled[0]) if u[i] < p else (context[i], pooled[i]) for i in range(len(u))
    ]
    return tuple(torch.stack(parts) for parts in zip(*pairs, strict=True))


def by_sum(context, pooled, empty, empty_pooled, u, p):
    keep = (u >= p).to(context.dtype)
    a, b = keep.view(-1, 1, 1), keep.view(-1, 1)
    return context * a + empty * (1 - a), pooled * b + empty_pooled * (1 - b)


def by_copy(context, pooled, empty, empty_pooled, u, p):
    context, pooled = context.clone(), pooled.clone()
    context[u < p], pooled[u < p] = empty[0], empty_pooled[0]
    return context, pooled


def in_place(context, pooled, empty, empty_pooled, u, p):
    context[u < p], pooled[u < p] = empty[0], empty_pooled[0]
    return context, pooled


def decided_twice(context, pooled, empty, empty_pooled, u, p):
    first = dropped(context, pooled, empty, empty_pooled, u, p)[0]
    return first, dropped(context, pooled, empty, empty_pooled, u.flip(0), p)[1]


def loss_of_z_0(prediction, z_0, eps, abar, gamma):
    """The weight where it is meant: on the error of z_0."""
    alpha, sigma = (x.view(-1, 1, 1, 1) for x in (abar.sqrt(), (1 - abar).sqrt()))
    guess = alpha * (alpha * z_0 + sigma * eps) - sigma * prediction
    error = (guess - z_0).pow(2).flatten(1).mean(1)
    return torch.mean(torch.minimum(abar / (1 - abar), abar.new_tensor(gamma)) * error)


def by_numbers(prediction, z_0, eps, abar, gamma):
    total = 0.0
    for k in range(len(abar)):
        a, s = abar[k].sqrt(), (1 - abar[k]).sqrt()
        snr = abar[k] / (1 - abar[k])
        weight = min(snr, gamma) / (1 + snr)
        total = total + weight * ((prediction[k] - a * eps[k] + s * z_0[k]) ** 2).mean()
    return total / len(abar)


def products(steps, decay):
    d = warmed(steps, decay)
    return [math.prod(d)] + [(1 - d[j]) * math.prod(d[j + 1 :]) for j in range(steps)]


def by_the_finished_average(steps, decay):
    """Weights that are 1 in one step only, averaged."""
    found = []
    for j in range(steps + 1):
        network = torch.nn.Linear(1, 1, bias=False).double()
        torch.nn.init.constant_(network.weight, float(j == 0))
        average = EMA(network, decay)
        for n in range(steps):
            torch.nn.init.constant_(network.weight, float(j == n + 1))
            average.update(network, n)
        found.append(average.module.weight.item())
    return found


WRONG = {
    "08.1": [
        lambda step, steps, peak, warmup, cooldown: in_phases(
            step + 1, steps, peak, warmup, cooldown
        ),
        lambda step, steps, peak, warmup, cooldown: peak,
        lambda step, steps, peak, warmup, cooldown: rate(
            steps - 1 - step, steps, peak, warmup, cooldown
        ),
        lambda step, steps, peak, warmup, cooldown: rate(step, steps, peak, cooldown, warmup),
        lambda step, steps, peak, warmup, cooldown: rate(
            step % warmup if warmup else step, steps, peak, warmup, cooldown
        ),
        lambda step, steps, peak, warmup, cooldown: rate(step, steps, peak, warmup, 0),
        lambda step, steps, peak, warmup, cooldown: rate(step, steps, peak, 0, cooldown),
        lambda step, steps, peak, warmup, cooldown: (
            rate(step, steps, peak, warmup, cooldown) + 1e-9
        ),
        lambda step, steps, peak, warmup, cooldown: round(
            rate(step, steps, peak, warmup, cooldown), 4
        ),
        rate_with(join=max),
        rate_with(join=lambda rise, fall: (rise + fall) / 2),
        rate_with(down=lambda left, cooldown: (left / max(cooldown, 1)) ** 2),
        rate_with(
            up=lambda step, warmup: math.sin(math.pi / 2 * min(1.0, (step + 1) / max(warmup, 1)))
        ),
        rate_with(down=lambda left, cooldown: max(left - 1, 0.01) / max(cooldown, 1)),
        lambda step, steps, peak, warmup, cooldown: [rate(step, steps, peak, warmup, cooldown)],
    ],
    "08.2": [
        by_rules(factors=lambda abar: (abar, 1 - abar)),
        by_rules(factors=lambda abar: (abar.sqrt(), 1 - abar.sqrt())),
        by_rules(factors=lambda abar: (abar.sqrt(), 1 - abar)),
        by_rules(factors=lambda abar: (abar.sqrt(), (1 - abar.sqrt()).sqrt())),
        by_rules(factors=lambda abar: (abar, (1 - abar**2).sqrt())),
        by_rules(noise=lambda z, e, a, s: ((z + s * e) / a, e, (e - s * z) / a)),
        by_rules(noise=lambda z, e, a, s: ((z - e) / a, e, (e - s * z) / a)),
        by_rules(clean=lambda z, x, a, s: (x, z - x, (a * z - x) / s)),
        by_rules(velocity=lambda z, v, a, s: (z - s * v, s * z + a * v, v)),
        by_rules(velocity=lambda z, v, a, s: (a * z - s * v, v, v)),
        by_rules(velocity=lambda z, v, a, s: (s * z - a * v, a * z + s * v, v)),
        by_rules(noise=lambda z, e, a, s: ((z - s * e) / a, e, a * e + (z - s * e) * s / a)),
        lambda z_t, answer, abar, predicts: translate(
            z_t, answer, abar[:1].expand_as(abar), predicts
        ),
        lambda z_t, answer, abar, predicts: translate(z_t, answer, abar.flip(0), predicts),
        lambda z_t, answer, abar, predicts: translate(z_t, answer, abar, predicts)[:2],
        lambda z_t, answer, abar, predicts: [
            x.float() for x in translate(z_t, answer, abar, predicts)
        ],
        lambda z_t, answer, abar, predicts: translate(z_t, answer.detach(), abar, predicts),
        lambda z_t, answer, abar, predicts: tuple(
            x.clamp(-1, 1) for x in translate(z_t, answer, abar, predicts)
        ),
    ],
    "08.3": [
        in_place,
        decided_twice,
        lambda context, pooled, empty, empty_pooled, u, p: dropped(
            context, pooled, empty, empty_pooled, u, 0.1
        ),
        lambda context, pooled, empty, empty_pooled, u, p: dropped(
            context, pooled, empty, empty_pooled, u.flip(0), p
        ),
        lambda context, pooled, empty, empty_pooled, u, p: dropped(
            context, pooled, empty, empty_pooled, torch.rand_like(u), p
        ),
        lambda context, pooled, empty, empty_pooled, u, p: dropped(
            context, pooled, empty, empty_pooled, u.mean().expand_as(u), p
        ),
        lambda context, pooled, empty, empty_pooled, u, p: dropped(
            context, pooled, empty.mean(1, keepdim=True), empty_pooled, u, p
        ),
        lambda context, pooled, empty, empty_pooled, u, p: dropped(
            context, pooled, context[:1], pooled[:1], u, p
        ),
        lambda context, pooled, empty, empty_pooled, u, p: dropped(
            context / (1 - p + 1e-9), pooled / (1 - p + 1e-9), empty, empty_pooled, u, p
        ),
        lambda context, pooled, empty, empty_pooled, u, p: dropped(
            context, pooled, empty, empty_pooled, u, p
        )[::-1],
        lambda context, pooled, empty, empty_pooled, u, p: dropped(
            context, pooled, empty, empty_pooled, u, p
        )[0],
        lambda context, pooled, empty, empty_pooled, u, p: dropped(
            context, pooled, empty, empty_pooled, u, p**0.5
        ),
        lambda context, pooled, empty, empty_pooled, u, p: (context[u >= p], pooled[u >= p]),
        lambda context, pooled, empty, empty_pooled, u, p: tuple(
            x.detach() for x in dropped(context, pooled, empty, empty_pooled, u, p)
        ),
    ],
    "08.4": [
        loss_with(weight=lambda snr, gamma: snr.clamp(max=gamma) / (gamma + 1)),
        loss_with(weight=lambda snr, gamma: snr.clamp(max=5.0) / (snr + 1)),
        loss_with(weight=lambda snr, gamma: snr.clamp(max=gamma) * (snr + 1)),
        loss_with(weight=lambda snr, gamma: (snr + 1).clamp(max=gamma) / (snr + 1)),
        loss_with(weight=lambda snr, gamma: (snr.clamp(max=gamma) / (snr + 1)).sqrt()),
        loss_with(weight=lambda snr, gamma: snr.clamp(max=gamma**2) / (snr + 1)),
        loss_with(ratio=lambda abar: (1 - abar) / abar),
        loss_with(ratio=lambda abar: abar**2 / (1 - abar) ** 2),
        loss_with(target=lambda z_0, eps, a, s: z_0),
        loss_with(target=lambda z_0, eps, a, s: eps - z_0),
        loss_with(factors=lambda abar: (abar.sqrt(), 1 - abar.sqrt())),
        loss_with(fold=lambda squared, weight: (squared.mean(dim=(1, 2, 3)) * weight).sum()),
        loss_with(
            fold=lambda squared, weight: (squared.mean(dim=(1, 2, 3)).sqrt() * weight).mean()
        ),
        loss_with(fold=lambda squared, weight: (squared.mean() * weight).mean()),
        lambda prediction, z_0, eps, abar, gamma: (
            velocity_loss(prediction, z_0, eps, abar, gamma) / 2
        ),
        lambda prediction, z_0, eps, abar, gamma: velocity_loss(
            prediction, z_0, eps, abar, gamma
        ).item(),
        lambda prediction, z_0, eps, abar, gamma: velocity_loss(
            prediction, z_0, eps, abar, gamma
        ).detach(),
        lambda prediction, z_0, eps, abar, gamma: velocity_loss(
            prediction.abs(), z_0, eps, abar, gamma
        ),
    ],
    "08.5": [
        lambda steps, decay: [0.0, *shares(steps, decay)[1:]],
        lambda steps, decay: shares(steps + 1, decay)[:-1],
        lambda steps, decay: [*shares(steps, decay), 0.0],
        lambda steps, decay: shares_with([min(decay, n / (10 + n)) for n in range(steps)]),
        lambda steps, decay: shares_with([min(decay, (1 + n) / (9 + n)) for n in range(steps)]),
        lambda steps, decay: shares_with([decay * (1 + n) / (10 + n) for n in range(steps)]),
        lambda steps, decay: shares_with(warmed(steps, decay)[::-1]),
        lambda steps, decay: shares_with([1 - 1 / (n + 2) for n in range(steps)]),
        lambda steps, decay: shares_with([min(decay, (1 + n) / 10 + n) for n in range(steps)]),
        lambda steps, decay: [math.prod(warmed(steps, decay)), *[1 / steps] * steps],
        lambda steps, decay: [round(share, 3) for share in shares(steps, decay)],
        lambda steps, decay: sum(shares(steps, decay)),
        lambda steps, decay: torch.tensor(shares(steps, decay))[:, None],
        lambda steps, decay: warmed(steps + 1, decay),
        lambda steps, decay: [
            share / (1 - shares(steps, decay)[0]) for share in shares(steps, decay)
        ],
    ],
}
RIGHT = {
    "08.1": [
        in_phases,
        from_lists,
        lambda step, steps, peak, warmup, cooldown: min(
            peak,
            peak * (step + 1) / warmup if warmup else peak,
            peak * (steps - step) / cooldown if cooldown else peak,
        ),
    ],
    "08.2": [one_by_one, by_turning, by_rules()],
    "08.3": [by_rows, by_sum, by_copy],
    "08.4": [loss_of_z_0, by_numbers],
    "08.5": [products, by_the_finished_average, lambda s, d: tuple(shares_with(warmed(s, d)))],
}
