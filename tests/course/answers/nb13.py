"""Notebook 13: wrong answers that the checker was not written for, and right ones in another
style."""

import torch
import torch.nn.functional as F

from sdlearn.course.exercises.nb13_inpainting import (
    add_noise,
    larger_canvas,
    repaint_visits,
    replace_step,
    to_cells,
    widen,
)
from tests.course.answers.expected_verdict import ExpectedVerdict


def interpolated(z, z_0, eps, mask, point):
    _, alpha, sigma = point
    return torch.lerp(alpha * z_0 + sigma * eps, z, mask.expand_as(z))


def corrected(z, z_0, eps, mask, point):
    return z + (1 - mask) * (point.alpha * z_0 + point.sigma * eps - z)


def redrawn(z, z_0, eps, mask, point):
    return replace_step(z, z_0, torch.randn_like(eps), mask, point)


def in_place(z, z_0, eps, mask, point):
    z.mul_(mask).add_((1 - mask) * (point.alpha * z_0 + point.sigma * eps))
    return z


def by_beta(z, here, there, noise):
    """RePaint's formula, for a path on which alpha ** 2 + sigma ** 2 is 1."""
    beta = 1 - (there.alpha / here.alpha) ** 2
    return (1 - beta).sqrt() * z + beta.sqrt() * noise


def by_signal(z, here, there, noise):
    signal = z / here.alpha  # z_0, with noise of standard deviation here.sigma / here.alpha
    more = (there.sigma / there.alpha) ** 2 - (here.sigma / here.alpha) ** 2
    return there.alpha * (signal + more.sqrt() * noise)


def published(steps, jump, repeats):
    """As in RePaint's code, in its times, which fall to -1."""
    jumps = dict.fromkeys(range(0, steps - jump, jump), repeats - 1)
    t, times = steps, []
    while t >= 1:
        t -= 1
        times.append(t)
        if jumps.get(t, 0) > 0:
            jumps[t] -= 1
            for _ in range(jump):
                t += 1
                times.append(t)
    return [steps - 1 - t for t in [*times, -1]]


def by_pieces(steps, jump, repeats):
    turns = set(range(steps - 1, jump - 1, -jump))
    visits = []
    for here in range(steps + 1):
        visits.append(here)
        if here in turns:
            for _ in range(repeats - 1):
                visits += list(reversed(range(here - jump, here)))
                visits += list(range(here - jump + 1, here + 1))
    return visits


def nested(steps, jump, repeats):
    """Turning points reached again on the way down turn again."""
    visits = repaint_visits(steps, jump, repeats)
    return visits if repeats == 1 else visits[:-1] + visits[1:]


def padded(weight, extra):
    return F.pad(weight, (0, 0, 0, 0, 0, extra))


def filled(weight, extra):
    o, c, k, _ = weight.shape
    wide = torch.zeros(o, c + extra, k, k, dtype=weight.dtype)
    wide[:, :c] = weight
    return wide


def in_blocks(mask, f):
    b, _, h, w = mask.shape
    blocks = mask.reshape(b, 1, h // f, f, w // f, f)
    return blocks.amax(dim=(3, 5)), blocks[:, :, :, 0, :, 0]


def by_counting(mask, f):
    return (F.avg_pool2d(mask, f) > 0).to(mask), mask[..., ::f, ::f]


def joined(x, left, right):
    b, _, h, w = x.shape
    sides = [torch.zeros(b, 3, h, n, dtype=x.dtype) for n in (left, right)]
    mask = torch.ones(b, 1, h, left + w + right, dtype=x.dtype)
    mask[..., left : left + w] = 0
    return torch.cat([sides[0], x, sides[1]], dim=3), mask


WRONG = {
    "13.1": [
        redrawn,
        in_place,
        lambda z, z_0, e, m, p: replace_step(z, z_0, -e, m, p),
        lambda z, z_0, e, m, p: replace_step(z_0, z, e, m, p),
        lambda z, z_0, e, m, p: replace_step(z, z_0, e, m**2, p),
        lambda z, z_0, e, m, p: replace_step(z, z_0, e, m[:1], p),
        lambda z, z_0, e, m, p: replace_step(z, z_0, e, m.flip(-1), p),
        lambda z, z_0, e, m, p: replace_step(z, z_0, e[:1].expand_as(e), m, p),
    ],
    "13.2": [
        lambda z, a, b, n: add_noise(z, a, b, torch.randn_like(n)),
        lambda z, a, b, n: add_noise(z, a, b, n[:1].expand_as(n)),
        lambda z, a, b, n: add_noise(z, a, b, -n),
        lambda z, a, b, n: add_noise(n, a, b, z),
        lambda z, a, b, n: add_noise(z, b, a, n),
        lambda z, a, b, n: add_noise(z, a, b, n) + 0.01,
        lambda z, a, b, n: b.alpha * z + b.sigma * n,
        lambda z, a, b, n: (b.alpha / a.alpha) * (z + (b.sigma**2 - a.sigma**2).sqrt() * n),
        lambda z, a, b, n: add_noise(z, a, b, n).float(),
    ],
    "13.3": [
        lambda w, n: widen(w, n)[:, :-1],
        lambda w, n: widen(w, n + 1),
        lambda w, n: widen(w, 5),
        lambda w, n: widen(w.flip(1), n),
        lambda w, n: widen(w, n).float(),
        lambda w, n: widen(w, n) + 1e-4,
        lambda w, n: widen(w, n).transpose(0, 1),
    ],
    "13.4": [
        lambda m, f: to_cells(1 - m, f),
        lambda m, f: to_cells(m, f)[0],
        lambda m, f: (to_cells(m, f)[0], m[..., f - 1 :: f, f - 1 :: f]),
        lambda m, f: (
            F.max_pool2d(m, f + 1, f, f // 2)[..., : m.shape[2] // f, :],
            m[..., ::f, ::f],
        ),
        lambda m, f: tuple(2 * x - 1 for x in to_cells(m, f)),
        lambda m, f: tuple(0.18215 * x for x in to_cells(m, f)),
        lambda m, f: to_cells(m, 8 if m.shape[2] % 8 == 0 else f),
    ],
    "13.5": [
        lambda x, a, b: larger_canvas(x, a, b)[::-1],
        lambda x, a, b: larger_canvas(x, a + b, 0),
        lambda x, a, b: larger_canvas(x.flip(-1), a, b),
        lambda x, a, b: larger_canvas((x + 1) / 2, a, b),
        lambda x, a, b: (larger_canvas(x, a, b)[0], (larger_canvas(x, a, b)[0][:, :1] == 0).to(x)),
        lambda x, a, b: (larger_canvas(x, a, b)[0] + 0.01, larger_canvas(x, a, b)[1]),
        lambda x, a, b: (larger_canvas(x, a, b)[0], 2 * larger_canvas(x, a, b)[1] - 1),
    ],
    "13.6": [
        nested,
        lambda n, j, r: repaint_visits(n, j, r)[::-1],
        lambda n, j, r: repaint_visits(n, r, j),
        lambda n, j, r: repaint_visits(n, j, r)[:-1],
        lambda n, j, r: repaint_visits(n, 1, r),
        lambda n, j, r: repaint_visits(n - 1, j, r),
        lambda n, j, r: len(repaint_visits(n, j, r)),
        lambda n, j, r: sorted(repaint_visits(n, j, r)),
    ],
}
RIGHT = {
    "13.1": [interpolated, corrected],
    "13.2": [by_beta, by_signal],
    "13.3": [padded, filled],
    "13.4": [in_blocks, by_counting],
    "13.5": [joined],
    "13.6": [published, by_pieces],
}
VERDICTS = [
    ExpectedVerdict(
        "13.1",
        lambda z, z_0, e, m, p: torch.where(m.bool(), z, p.alpha * z_0 + p.sigma * e),
        "a grey mask rounded up",
        says=("section 5",),
    ),
]
