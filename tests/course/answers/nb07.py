"""Notebook 07: wrong answers that the checker was not written for, and right ones in another
style."""

import math

import torch

from sdlearn.course.exercises.nb07_schedule import (
    add_noise,
    alphabar_table,
    betas_from,
    ending,
    latest_time,
    renoise,
    shifted,
)
from sdlearn.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule()


def noised(signal, noise):
    """07.2 with other factors, made of alphabar."""

    def answer(z_0, eps, t, alphas_cumprod):
        alphabar = alphas_cumprod[t][:, None, None, None]
        return (signal(alphabar) * z_0 + noise(alphabar) * eps).to(z_0.dtype)

    return answer


def level(a):
    """The signal-to-noise ratio in decibels."""
    return 10 * (a / (1 - a)).log10()


def last_where(measure, late=0):
    """07.3 with another measure of the table, or so many entries later."""
    return lambda decibels, a: int((measure(a) >= decibels).sum()) - 1 + late


def further(signal, noise):
    """07.6 with other factors, made of alphabar_s and alphabar_t."""

    def answer(z_s, eps, s, t, alphas_cumprod):
        a, b = alphas_cumprod[s], alphas_cumprod[t]
        return signal(a, b) * z_s + noise(a, b) * eps

    return answer


def stays(a, b):
    """The right factor of z_s."""
    return (b / a).sqrt()


def straight(alpha, last):
    """The straight line from the first alpha to the new last one."""
    return last + (alpha - alpha[-1]) * (alpha[0] - last) / (alpha[0] - alpha[-1])


def bent(last=lambda snr: (snr / (1 + snr)) ** 0.5, way=straight, out=torch.square):
    """07.7 with another last alpha, another line to it or another last operation."""
    return lambda alphas_cumprod, snr: out(way(alphas_cumprod.sqrt(), last(snr)))


def picture_by_picture(z_0, eps, t, alphas_cumprod):
    rows = []
    for z, e, k in zip(z_0, eps, t.tolist(), strict=True):
        alphabar = float(alphas_cumprod[k])
        rows.append(math.sqrt(alphabar) * z + math.sqrt(1 - alphabar) * e)
    return torch.stack(rows)


def by_einsum(z_0, eps, t, alphas_cumprod):
    table = alphas_cumprod.to(z_0.dtype)
    alpha, sigma = table.sqrt()[t], (1 - table).sqrt()[t]
    return torch.einsum("b,bchw->bchw", alpha, z_0) + torch.einsum("b,bchw->bchw", sigma, eps)


def from_the_back(z_0, eps, t, alphas_cumprod):
    alphabar = alphas_cumprod.gather(0, t)
    z, e = z_0.permute(1, 2, 3, 0), eps.permute(1, 2, 3, 0)
    result = z * alphabar**0.5 + e * (1 - alphabar) ** 0.5
    return result.permute(3, 0, 1, 2).to(z_0.dtype)


def by_walking(z_s, eps, s, t, alphas_cumprod):
    """Step after step, the noise of all of them in one."""
    kept = 1.0
    for k in range(s + 1, t + 1):
        kept = kept * (alphas_cumprod[k] / alphas_cumprod[k - 1])
    return kept**0.5 * z_s + (1 - kept) ** 0.5 * eps


def by_variances(z_s, eps, s, t, a):
    factor = a[t].sqrt() / a[s].sqrt()
    return factor * z_s + (1 - a[t] - factor**2 * (1 - a[s])).clamp(min=0).sqrt() * eps


def loop_of_betas(a):
    result, before = [], 1.0
    for entry in a.tolist():
        result.append(1 - entry / before)
        before = entry
    return torch.tensor(result, dtype=a.dtype)


def searched(decibels, a):
    t = -1
    for k, entry in enumerate(a.tolist()):
        if entry > 0 and entry / (1 - entry) >= 10 ** (decibels / 10):
            t = k
    return t


def mixed(a, snr):
    """The straight line as a mixture of its ends."""
    alpha = a.sqrt()
    part = (alpha - alpha[-1]) / (alpha[0] - alpha[-1])
    return torch.lerp(alpha.new_tensor(snr / (1 + snr)).sqrt(), alpha[0], part) ** 2


def line(n, first, last):
    return torch.linspace(first**0.5, last**0.5, n, dtype=torch.float64)


def step_by_step(n, first, last):
    """The table in a loop."""
    table, left = [], 1.0
    for k in range(n):
        part = k / (n - 1) if n > 1 else 0.0
        left *= 1 - ((1 - part) * math.sqrt(first) + part * math.sqrt(last)) ** 2
        table.append(left)
    return torch.tensor(table, dtype=torch.float64)


WRONG = {
    "07.1": [
        lambda n, first, last: torch.cumprod(1 - torch.full((n,), first), 0).double(),
        lambda n, first, last: torch.cumprod(1 - line(n, first, last) ** 4, 0),
        lambda n, first, last: torch.cumprod(1 - line(n, last, first) ** 2, 0),
        lambda n, first, last: torch.cumprod(1 - line(n + 1, first, last)[1:] ** 2, 0),
        lambda n, first, last: torch.cumprod(1 + line(n, first, last) ** 2, 0),
        lambda n, first, last: torch.cumprod(1 - line(n, first, last).abs(), 0) ** 2,
        lambda n, first, last: torch.prod(1 - line(n, first, last) ** 2),
        lambda n, first, last: line(n, first, last) ** 2,
        lambda n, first, last: alphabar_table(n, first, last).float(),
        lambda n, first, last: alphabar_table(n, first, last).float().double(),
        lambda n, first, last: alphabar_table(n, first, last)[:, None],
        lambda n, first, last: alphabar_table(n, first, last).flip(0),
        lambda n, first, last: alphabar_table(n, first, last)[:-1],
        lambda n, first, last: alphabar_table(n, first, last).tolist(),
        lambda n, first, last: alphabar_table(1000, 0.00085, 0.012)[:n],
        lambda n, first, last: alphabar_table(n, 0.00085, 0.012),
    ],
    "07.2": [
        noised(lambda a: -a.sqrt(), lambda a: (1 - a).sqrt()),
        noised(lambda a: a.sqrt(), lambda a: (1 - a**2).sqrt()),
        noised(lambda a: a**2, lambda a: 1 - a**2),
        noised(lambda a: a.sqrt(), lambda a: torch.ones_like(a)),
        noised(lambda a: 1 - a, lambda a: a),
        noised(lambda a: a.sqrt(), lambda a: ((1 - a) / a).sqrt()),
        lambda z_0, eps, t, a: add_noise(z_0, eps, t.flip(0), a),
        lambda z_0, eps, t, a: add_noise(z_0, eps, t.sort().values, a),
        lambda z_0, eps, t, a: add_noise(z_0, eps[:1].expand_as(eps), t, a),
        lambda z_0, eps, t, a: add_noise(z_0, eps, len(a) - 1 - t, a),
        lambda z_0, eps, t, a: add_noise(z_0, eps, t.clamp(min=1), a),
        lambda z_0, eps, t, a: add_noise(z_0, eps, t, a).double(),
        lambda z_0, eps, t, a: add_noise(z_0, eps, t, a).float(),
        lambda z_0, eps, t, a: add_noise(z_0, eps, t, SCHEDULE.alphas_cumprod),
        lambda z_0, eps, t, a: add_noise(z_0, eps, t, a.bfloat16()),
        lambda z_0, eps, t, a: add_noise(z_0, eps, t[:1], a),
        lambda z_0, eps, t, a: add_noise(z_0, eps, t, a) - eps,
        lambda z_0, eps, t, a: z_0.mul_(a[t][:, None, None, None].sqrt()).add_(eps),
        lambda z_0, eps, t, a: (add_noise(z_0, eps, t, a), eps),
        lambda z_0, eps, t, a: add_noise(z_0, eps, t, a).mean(0, keepdim=True).expand_as(z_0),
    ],
    "07.3": [
        last_where(level, -1),
        last_where(lambda a: -level(a)),
        last_where(lambda a: 10 * (1 - a).log10()),
        last_where(lambda a: 10 * a.sqrt().log10()),
        last_where(lambda a: 10 * (a.sqrt() / (1 - a)).log10()),
        last_where(lambda a: 10 * (a / (1 - a.sqrt())).log10()),
        last_where(lambda a: 10 * (1 + a / (1 - a)).log10()),
        last_where(lambda a: a.log10()),
        lambda decibels, a: latest_time(decibels, a) / len(a),
        lambda decibels, a: latest_time(decibels, SCHEDULE.alphas_cumprod),
        lambda decibels, a: latest_time(-decibels, a),
        lambda decibels, a: [latest_time(decibels, a)],
        lambda decibels, a: len(a) - 1 - latest_time(decibels, a),
        lambda decibels, a: str(latest_time(decibels, a)),
        lambda decibels, a: int((a >= decibels / 10).sum()) - 1,
        lambda decibels, a: latest_time(decibels, a) // 10 * 10,
        lambda decibels, a: int((a / (1 - a) > 10 ** (decibels / 10)).sum()) - 1,
        lambda decibels, a: int((level(a) < decibels).nonzero().min()) - 1,
        lambda decibels, a: next(k for k in range(len(a)) if level(a)[k] < decibels) - 1,
        lambda decibels, a: latest_time(decibels, a[:-1]),
    ],
    "07.4": [
        lambda a, k: a**k,
        lambda a, k: a ** (k**2),
        lambda a, k: a / (a + k * (1 - a)),
        lambda a, k: a / (a + k**4 * (1 - a)),
        lambda a, k: a / (1 + k**2 * (1 - a)),
        lambda a, k: a / (a + k**2),
        lambda a, k: 1 - (1 - a) * k**2,
        lambda a, k: (1 - (1 - a) * k**2).clamp(min=0),
        lambda a, k: a * k**2 / (1 + a * (k**2 - 1)),
        lambda a, k: a[:: k**2],
        lambda a, k: shifted(a, k).float(),
        lambda a, k: shifted(a, k).flip(0),
        lambda a, k: shifted(a, 2),
        lambda a, k: shifted(a, k).clamp(min=1e-4),
        lambda a, k: (1 / (1 + k**2 * (1 / a - 1))).clamp(max=0.5),
        lambda a, k: a.copy_(shifted(a, k)),
        lambda a, k: shifted(SCHEDULE.alphas_cumprod, k)[: len(a)],
    ],
    "07.5": [
        lambda a: -betas_from(a),
        lambda a: betas_from(a).flip(0),
        lambda a: betas_from(a).clamp(max=0.99),
        lambda a: betas_from(a).clamp(min=1e-3),
        lambda a: betas_from(a).float(),
        lambda a: betas_from(a)[:, None],
        lambda a: torch.cumsum(betas_from(a), 0),
        lambda a: betas_from(a.sqrt()),
        lambda a: betas_from(a).sort().values.roll(1),
        lambda a: torch.cat([betas_from(a)[1:], betas_from(a)[:1]]),
        lambda a: torch.linspace(0.00085**0.5, 0.012**0.5, len(a), dtype=a.dtype) ** 2,
        lambda a: betas_from(a) ** 2,
        lambda a: betas_from(a).tolist(),
        lambda a: a.clone().div_(a[0]),
        lambda a: torch.where(a > 0, betas_from(a), 0.999),
        lambda a: torch.cat([1 - a[1:] / a[:-1], a.new_ones(1)]),
        lambda a: torch.cat([a.new_full((1,), 0.00085), 1 - a[1:] / a[:-1]]),
    ],
    "07.6": [
        further(stays, lambda a, b: (1 - b) - (1 - a)),
        further(stays, lambda a, b: (1 - a).sqrt()),
        further(lambda a, b: (b - a).abs().sqrt(), stays),
        further(lambda a, b: b.sqrt(), lambda a, b: (1 - b / a).sqrt()),
        further(stays, lambda a, b: -(1 - b / a).sqrt()),
        further(lambda a, b: 1 - (a - b), lambda a, b: (a - b).sqrt()),
        further(stays, lambda a, b: 1 - (b / a).sqrt()),
        further(lambda a, b: a.sqrt(), lambda a, b: (1 - a).sqrt()),
        lambda z_s, eps, s, t, a: renoise(z_s, eps, s, t - 1, a) if t - 1 > s else z_s,
        lambda z_s, eps, s, t, a: renoise(z_s, eps, s + 1, t, a),
        lambda z_s, eps, s, t, a: renoise(z_s, eps, max(s - 1, 0), t, a),
        lambda z_s, eps, s, t, a: renoise(eps, z_s, s, t, a),
        lambda z_s, eps, s, t, a: renoise(z_s, torch.randn_like(eps), s, t, a),
        lambda z_s, eps, s, t, a: z_s,
        further(lambda a, b: torch.ones_like(a), lambda a, b: (1 - b).sqrt() - (1 - a).sqrt()),
        further(lambda a, b: b.sqrt(), lambda a, b: (a - b).sqrt()),
        lambda z_s, eps, s, t, a: renoise(z_s, eps, 0, t - s, a),
        lambda z_s, eps, s, t, a: renoise(z_s, eps, s, t, SCHEDULE.alphas_cumprod),
    ],
    "07.7": [
        bent(last=lambda snr: 10 ** (snr / 10)),
        bent(last=lambda snr: (snr / (2 + snr)) ** 0.5),
        bent(last=lambda snr: (1 / (1 + 1 / snr)) ** 0.5),
        bent(way=lambda a, last: (a - a[-1] + last) * a[0] / (a[0] - a[-1] + last)),
        bent(last=lambda snr: snr**2 / (1 + snr**2)),
        bent(way=lambda alpha, last: torch.linspace(1, 0, len(alpha)).to(alpha) * alpha[0]),
        bent(way=lambda alpha, last: alpha.clamp(min=last)),
        bent(way=lambda alpha, last: alpha.clamp(max=alpha[0], min=last) - alpha[-1]),
        bent(way=lambda alpha, last: alpha - (alpha[-1] - last) * torch.arange(len(alpha))),
        bent(out=lambda x: x**4),
        bent(way=lambda a, last: last + (a - a[-1]) * (1 - last) / (1 - a[-1])),
        lambda a, snr: ending(a, snr).float(),
        lambda a, snr: ending(a, snr)[:-1],
        lambda a, snr: ending(a, snr).flip(0),
        lambda a, snr: ending(SCHEDULE.alphas_cumprod, snr),
        lambda a, snr: betas_from(ending(a, snr)),
        lambda a, snr: a.copy_(ending(a, snr)),
        lambda a, snr: ending(a, snr).sort().values,
    ],
}
RIGHT = {
    "07.1": [
        step_by_step,
        lambda n, first, last: torch.log1p(-(line(n, first, last) ** 2)).cumsum(0).exp(),
        lambda n, first, last: (1 - line(n, first, last).square()).cumprod(0),
    ],
    "07.2": [picture_by_picture, by_einsum, from_the_back],
    "07.3": [
        searched,
        lambda decibels, a: (a / (1 - a) >= 10 ** (decibels / 10)).nonzero().max(),
        lambda decibels, a: int((10 * (a.log10() - (1 - a).log10()) >= decibels).sum()) - 1,
        lambda decibels, a: len([x for x in level(a).tolist() if x >= decibels]) - 1,
    ],
    "07.4": [
        lambda a, k: a / (a + k**2 * (1 - a)),
        lambda a, k: 1 / (1 + k**2 * (1 / a - 1)),
        lambda a, k: a / (a * (1 - k**2) + k**2),
    ],
    "07.5": [
        loop_of_betas,
        lambda a: 1 - a / torch.cat([torch.ones(1, dtype=a.dtype), a[:-1]]),
        lambda a: torch.cat([1 - a[:1], 1 - a[1:] / a[:-1]]),
        lambda a: -torch.diff(a, prepend=a.new_ones(1)) / torch.cat([a.new_ones(1), a[:-1]]),
    ],
    "07.6": [
        by_walking,
        by_variances,
        further(stays, lambda a, b: ((a - b) / a).sqrt()),
    ],
    "07.7": [
        mixed,
        bent(last=lambda snr: (1 - 1 / (1 + snr)) ** 0.5),
        bent(
            way=lambda a, last: a[0] + (a - a[0]) * (last - a[0]) / (a[-1] - a[0]),
            out=lambda x: x * x,
        ),
    ],
}
