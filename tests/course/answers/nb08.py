"""Notebook 08: wrong answers that the checker was not written for, and right ones in another
style."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from sdlearn.course.exercises.nb08_training import (
    diffusion_loss,
    dropped,
    rate,
    shares,
    training_step,
    translate,
    velocity_loss,
)
from sdlearn.training import EMA
from sdlearn.training import diffusion_loss as finished_loss
from sdlearn.training import update as finished_update


def mixed(
    at=lambda schedule, t: schedule.at(t),
    mix=lambda a, s, z_0, eps: a * z_0 + s * eps,
    seen=lambda z, t, context: (z, t, context),
    fold=lambda prediction, eps: ((prediction - eps) ** 2).mean(),
):
    """at(schedule, t), mix(alpha, sigma, z_0, eps), what is seen, fold(prediction, eps)."""

    def answer(network, z_0, t, eps, context, schedule):
        alpha, sigma = (x[:, None, None, None].to(z_0.dtype) for x in at(schedule, t))
        return fold(network(*seen(mix(alpha, sigma, z_0, eps), t, context)), eps)

    return answer


def loss_by_examples(network, z_0, t, eps, context, schedule):
    """One example after another."""
    total = 0.0
    for k in range(len(t)):
        alpha, sigma = (float(x) for x in schedule.at(t[k]))
        z_t = alpha * z_0[k : k + 1] + sigma * eps[k : k + 1]
        out = network(z_t, t[k : k + 1], context[k : k + 1])
        total = total + nn.functional.mse_loss(out, eps[k : k + 1])
    return total / len(t)


def from_the_table(network, z_0, t, eps, context, schedule):
    abar = schedule.alphas_cumprod[t].to(z_0)[:, None, None, None]
    z_t = abar.sqrt() * z_0 + (1 - abar).sqrt() * eps
    return nn.functional.mse_loss(network(z_t, t, context), eps)


def stepped(
    begin=lambda network, optimizer: optimizer.zero_grad(),
    loss=diffusion_loss,
    clip_to=lambda clip: clip,
    lr_of=lambda lr: lr,
    end=lambda network, optimizer: None,
    returned=lambda loss, norm: (loss.detach(), norm),
):
    """A training step with some of its parts replaced."""

    def answer(network, optimizer, batch, schedule, lr, clip=1.0):
        begin(network, optimizer)
        value = loss(network, *batch, schedule)
        value.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), clip_to(clip))
        for group in optimizer.param_groups:
            group["lr"] = lr_of(lr)
        optimizer.step()
        end(network, optimizer)
        return returned(value, norm)

    return answer


def by_hand(network, optimizer, batch, schedule, lr, clip=1.0):
    """The gradients from torch.autograd.grad, clipped without torch's function."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    loss = diffusion_loss(network, *batch, schedule)
    slopes = torch.autograd.grad(loss, weights)
    norm = torch.sqrt(sum((slope**2).sum() for slope in slopes))
    shrink = min(1.0, float(clip / (norm + 1e-6)))
    for weight, slope in zip(weights, slopes, strict=True):
        weight.grad = slope * shrink
    optimizer.param_groups[0]["lr"] = lr
    optimizer.step()
    return loss.detach(), norm


def with_the_finished_update(network, optimizer, batch, schedule, lr, clip=1.0):
    loss = diffusion_loss(network, *batch, schedule)
    return loss.detach(), finished_update(loss, optimizer, lr, clip)


def stepped_twice(network, optimizer, batch, schedule, lr, clip=1.0):
    first = training_step(network, optimizer, batch, schedule, lr, clip)
    training_step(network, optimizer, batch, schedule, lr, clip)
    return first


def only_the_last_layer(network, optimizer, batch, schedule, lr, clip=1.0):
    optimizer.zero_grad()
    loss = diffusion_loss(network, *batch, schedule)
    loss.backward()
    norm = nn.utils.clip_grad_norm_([*network.parameters()][-1:], clip)
    optimizer.param_groups[0]["lr"] = lr
    optimizer.step()
    return loss.detach(), norm


def rate_with(
    up=lambda step, warmup: (step + 1) / max(warmup, 1),
    down=lambda left, cooldown: left / max(cooldown, 1),
    join=min,
):
    """up(step, warmup) and down(steps left, this one included, cooldown), capped and joined."""

    def answer(step, steps, peak, warmup, cooldown):
        rise, fall = up(step, warmup), down(steps - step, cooldown)
        return peak * join(min(1.0, rise), min(1.0, fall))

    return answer


def by_rules(
    noise=lambda z, e, a, s: ((z - s * e) / a, e, (e - s * z) / a),
    clean=lambda z, x, a, s: (x, (z - a * x) / s, (a * z - x) / s),
    velocity=lambda z, v, a, s: (a * z - s * v, s * z + a * v, v),
    factors=lambda abar: (abar.sqrt(), (1 - abar).sqrt()),
):
    """The answer made of a rule for each kind of network, with alpha and sigma from `factors`."""
    rules = {"noise": noise, "z_0": clean, "velocity": velocity}

    def answer(z_t, answer, abar, predicts):
        alpha, sigma = (x.view(-1, 1, 1, 1) for x in factors(abar))
        return rules[predicts](z_t, answer, alpha, sigma)

    return answer


def loss_with(
    target=lambda z_0, eps, a, s: a * eps - s * z_0,
    weight=lambda snr, gamma: snr.clamp(max=gamma) / (snr + 1),
    fold=lambda squared, weight: (squared.mean(dim=(1, 2, 3)) * weight).mean(),
    factors=lambda abar: (abar.sqrt(), (1 - abar).sqrt()),
    ratio=lambda abar: abar / (1 - abar),
):
    """target(z_0, eps, alpha, sigma); weight(snr, gamma); fold(squared errors, weights (b,))."""

    def answer(prediction, z_0, eps, abar, gamma):
        alpha, sigma = (x.view(-1, 1, 1, 1) for x in factors(abar))
        squared = (prediction - target(z_0, eps, alpha, sigma)).square()
        return fold(squared, weight(ratio(abar), gamma))

    return answer


def shares_with(decays: Sequence[float]) -> list[float]:
    """The shares in an average for any decays."""
    found = [1.0]
    for d in decays:
        found = [d * share for share in found] + [1 - d]
    return found


def warmed(steps, decay):
    return [min(decay, (1 + n) / (10 + n)) for n in range(steps)]


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
        mixed(at=lambda schedule, t: schedule.at(999 - t)),
        mixed(at=lambda schedule, t: schedule.at((t + 1).clamp(max=999))),
        mixed(at=lambda schedule, t: schedule.at(t[:1].expand_as(t))),
        mixed(at=lambda schedule, t: schedule.at(t.flip(0) // 2)),
        mixed(at=lambda schedule, t: [x.sqrt() for x in schedule.at(t)]),
        mixed(at=lambda schedule, t: [x.sqrt() for x in schedule.at(t)][::-1]),
        mixed(mix=lambda a, s, z_0, eps: z_0 + s / a * eps),
        mixed(mix=lambda a, s, z_0, eps: a * z_0 + s * eps.flip(0) / 2),
        mixed(mix=lambda a, s, z_0, eps: a * eps),
        mixed(mix=lambda a, s, z_0, eps: eps),
        mixed(mix=lambda a, s, z_0, eps: (a * z_0 + s * eps).clamp(-1, 1)),
        mixed(seen=lambda z, t, context: (z, 999 - t, context)),
        mixed(seen=lambda z, t, context: (z, t, 0 * context)),
        mixed(seen=lambda z, t, context: (z.detach(), t, context)),
        mixed(fold=lambda prediction, eps: ((prediction - eps) ** 2).mean() / 2),
        mixed(fold=lambda prediction, eps: ((prediction - eps) ** 2).mean().item()),
        mixed(fold=lambda prediction, eps: ((prediction - eps) ** 2).mean().float()),
        mixed(fold=lambda prediction, eps: nn.functional.huber_loss(prediction, eps)),
        mixed(fold=lambda prediction, eps: (prediction - eps).mean() ** 2),
        mixed(fold=lambda prediction, eps: 1 - (prediction * eps).mean()),
        lambda network, z_0, t, eps, context, schedule: finished_loss(
            network, z_0, t, eps, context, schedule, min_snr=5.0
        ),
        lambda network, z_0, t, eps, context, schedule: finished_loss(
            network, z_0, t, eps, context, schedule, predicts="velocity"
        ),
    ],
    "08.2": [
        stepped(begin=lambda network, optimizer: None),
        stepped(clip_to=lambda clip: 2 * clip),
        stepped(clip_to=lambda clip: clip**0.5),
        stepped(lr_of=lambda lr: 0.1),
        stepped(lr_of=lambda lr: lr / 2),
        stepped(lr_of=lambda lr: -lr),
        stepped(loss=lambda *given: 2 * diffusion_loss(*given)),
        stepped(loss=lambda *given: diffusion_loss(*given).sqrt()),
        stepped(end=lambda network, optimizer: optimizer.step()),
        stepped(returned=lambda loss, norm: loss.detach()),
        stepped(returned=lambda loss, norm: (loss.detach(), norm**2)),
        stepped(returned=lambda loss, norm: (loss.detach(), norm / 2)),
        stepped(returned=lambda loss, norm: None),
        stepped_twice,
        only_the_last_layer,
    ],
    "08.3": [
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
    "08.4": [
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
    "08.5": [
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
    "08.6": [
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
    "08.7": [
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
    "08.1": [mixed(), loss_by_examples, from_the_table],
    "08.2": [
        stepped(),
        by_hand,
        with_the_finished_update,
        stepped(begin=lambda network, optimizer: network.zero_grad(set_to_none=False)),
        stepped(begin=lambda *_: None, end=lambda network, optimizer: optimizer.zero_grad()),
        stepped(returned=lambda loss, norm: [loss, norm]),
    ],
    "08.3": [
        in_phases,
        from_lists,
        lambda step, steps, peak, warmup, cooldown: min(
            peak,
            peak * (step + 1) / warmup if warmup else peak,
            peak * (steps - step) / cooldown if cooldown else peak,
        ),
    ],
    "08.4": [one_by_one, by_turning, by_rules()],
    "08.5": [by_rows, by_sum, by_copy],
    "08.6": [loss_of_z_0, by_numbers],
    "08.7": [products, by_the_finished_average, lambda s, d: tuple(shares_with(warmed(s, d)))],
}
