"""Notebook 11: wrong answers that the checker was not written for, and right ones in another
style."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

from sdlearn.course.exercises.nb11_pipeline import (
    draw_edited,
    enter_each,
    on_the_sphere,
    overlap,
    texts_for,
)
from tests.course.answers.expected_verdict import ExpectedVerdict


def over(x):
    return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def one_by_one(a, b, w):
    rows = []
    for x, y in zip(a, b, strict=True):
        cosine = float((x * y).sum() / x.norm() / y.norm())
        angle = math.acos(max(-1.0, min(1.0, cosine)))
        if angle < 1e-6:
            rows.append((1 - w) * x + w * y)
        else:
            top = math.sin((1 - w) * angle) * x + math.sin(w * angle) * y
            rows.append(top / math.sin(angle))
    return torch.stack(rows)


def with_where_before(a, b, w):
    cosine = ((a * b).flatten(1).sum(1) / a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).clip(
        -1, 1
    )
    angle = torch.arccos(cosine)[:, None, None, None]
    safe = torch.where(angle < 1e-7, torch.ones_like(angle), angle)
    first = torch.where(angle < 1e-7, 1 - w, torch.sin((1 - w) * safe) / torch.sin(safe))
    second = torch.where(angle < 1e-7, w, torch.sin(w * safe) / torch.sin(safe))
    return first * a + second * b


def straight_above(limit):
    def answer(a, b, w):
        cosine = (a * b).flatten(1).sum(1) / a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)
        close = (cosine > limit).view(-1, 1, 1, 1)
        return torch.where(close, (1 - w) * a + w * b, on_the_sphere(a, b, w))

    return answer


def by_factors(z_0, eps, path, strengths):
    total = len(path) - 1
    left = [math.floor(total * s) for s in strengths]
    points = [path[-1 - k] for k in left]
    alpha = torch.stack([p.alpha for p in points]).view(-1, 1, 1, 1)
    sigma = torch.stack([p.sigma for p in points]).view(-1, 1, 1, 1)
    return alpha * z_0 + sigma * eps, left


def with_the_slice(z_0, eps, path, strengths):
    z, left = [], []
    for k, strength in enumerate(strengths):
        rest = path[len(path) - 1 - int((len(path) - 1) * strength) :]
        z.append(rest[0].alpha * z_0[k] + rest[0].sigma * eps[k])
        left.append(len(rest) - 1)
    return torch.stack(z), left


def by_sorting(seen, mask):
    h, w = seen.shape
    f = mask.shape[1] // w
    thing = mask.reshape(h, f, w, f).mean(dim=(1, 3)) >= 0.5
    k = thing.sum().item()
    places = sorted(range(h * w), key=lambda i: -seen.flatten()[i].item())[:k]
    true = {i for i in range(h * w) if thing.flatten()[i]}
    return len(true & set(places)) / len(true | set(places))


def by_threshold(seen, mask):
    thing = F.interpolate(mask[None, None], size=seen.shape, mode="area")[0, 0] >= 0.5
    limit = seen.flatten().sort(descending=True).values[thing.sum() - 1]
    chosen = seen >= limit
    both = torch.logical_and(chosen, thing).sum()
    return float(both) / float(torch.logical_or(chosen, thing).sum())


def without_its_edges(seen, mask):
    f = mask.shape[0] // seen.shape[0]
    thing = F.avg_pool2d(mask[None, None], f)[0, 0] > 0.6
    best = seen.flatten().topk(int(thing.sum())).indices
    chosen = torch.zeros_like(thing).flatten().index_fill(0, best, True).view_as(thing)
    return ((chosen & thing).sum() / (chosen | thing).sum()).item()


def more_than_half(seen, mask):
    h, w = seen.shape
    f = mask.shape[1] // w
    thing = (mask.reshape(h, f, w, f).sum(dim=(1, 3)) > f * f / 2).flatten()
    best = set(seen.flatten().argsort(descending=True)[: thing.sum()].tolist())
    true = set(thing.nonzero().flatten().tolist())
    return len(true & best) / len(true | best)


def bilinear(seen, mask):
    small = F.interpolate(mask[None, None], size=seen.shape, mode="bilinear")[0, 0]
    thing = (small >= 0.5).double()
    return overlap(seen, thing)


def map_by_rows(seen, mask):
    return overlap(seen.flip(0), mask)


def asks_twice(network, empty, first, second, z, path, k, scale):
    prompts = [first] * k + [second] * (len(path) - 1 - k)
    for prompt, (here, there) in zip(prompts, pairwise(path), strict=True):
        both = network(torch.cat([z, z]), here.t, torch.cat([empty, prompt]))
        without, given = both.chunk(2)
        eps = torch.lerp(without, given, scale)
        z = there.alpha / here.alpha * (z - here.sigma * eps) + there.sigma * eps
    return z


def in_two_walks(network, empty, first, second, z, path, k, scale):
    total = len(path) - 1
    z = draw_edited(network, empty, first, first, z, path[: k + 1], k, scale)
    return draw_edited(network, empty, second, second, z, path[k:], total - k, scale)


def fresh_noise(network, empty, first, second, z, path, k, scale):
    start = draw_edited(network, empty, first, first, z, path[: k + 1], k, scale)
    start = start + 1e-3 * torch.randn_like(start)
    return draw_edited(network, empty, second, second, start, path[k:], 0, scale)


def halves_of_lists(prompts, negative, n):
    negatives = [""] if negative is None else negative
    negatives = negatives if isinstance(negatives, list) else [negatives]
    rows = negatives * (len(prompts) if len(negatives) == 1 else 1)
    return [text for row in (*rows, *prompts) for text in [row] * n]


def in_a_loop(prompts, negative, n):
    texts = []
    for k in range(len(prompts)):
        one = negative[k] if isinstance(negative, list) else (negative or "")
        texts.extend([one] * n)
    for prompt in prompts:
        texts.extend([prompt] * n)
    return texts


def from_the_start_again(network, empty, first, second, z, path, k, scale):
    """Draws with the first prompt, and throws the result away."""
    draw_edited(network, empty, first, first, z, path[: k + 1], k, scale)
    return draw_edited(network, empty, second, second, z, path, 0, scale)


WRONG = {
    "11.1": [
        lambda p, negative, n: texts_for(p, negative, 2),
        lambda p, negative, n: texts_for(p, None, n),
        lambda p, negative, n: texts_for(list(dict.fromkeys(p)), negative, n)[: 2 * n * len(p)],
        lambda p, negative, n: sorted(texts_for(p, negative, n)),
        lambda p, negative, n: tuple(texts_for(p, negative, n)[::-1]),
        lambda p, negative, n: (
            texts_for(p, negative, n)[: n * len(p)],
            texts_for(p, negative, n)[n * len(p) :],
        ),
        lambda p, negative, n: texts_for(p, [negative or ""] * len(p), n),
        lambda p, negative, n: [text.strip() + " " for text in texts_for(p, negative, n)],
        lambda p, negative, n: " ".join(texts_for(p, negative, n)),
        lambda p, negative, n: texts_for(p[::-1], negative, n),
        lambda p, negative, n: [f"not {x}" if x else x for x in texts_for(p, negative, n)],
        lambda p, negative, n: texts_for(
            p, negative[0] if isinstance(negative, list) else negative, n
        ),
    ],
    "11.2": [
        lambda a, b, w: on_the_sphere(a, b, 1 - w),
        lambda a, b, w: on_the_sphere(a, b, w**2),
        lambda a, b, w: on_the_sphere(a, b, w) * over(a) / over(on_the_sphere(a, b, w)),
        lambda a, b, w: (1 - w) ** 0.5 * a + w**0.5 * b,
        lambda a, b, w: ((1 - w) * a + w * b) / ((1 - w) ** 2 + w**2) ** 0.5,
        lambda a, b, w: on_the_sphere(a / over(a), b / over(b), w) * over(a),
        lambda a, b, w: on_the_sphere(a - a.mean(), b - b.mean(), w),
        lambda a, b, w: on_the_sphere(a, b.abs(), w),
        lambda a, b, w: on_the_sphere(a.float(), b.float(), w).double(),
        lambda a, b, w: on_the_sphere(a, b, w) if len(a) > 1 else (1 - w) * a + w * b,
        lambda a, b, w: on_the_sphere(a.mul_(1.0000001), b, w),
        lambda a, b, w: on_the_sphere(a[:1].expand_as(a), b, w),
        lambda a, b, w: one_by_one(a, b, w)[0],
        straight_above(0.99),
        straight_above(0.999),
    ],
    "11.3": [
        lambda z, eps, path, s: enter_each(z, eps, path, s[::-1]),
        lambda z, eps, path, s: enter_each(z, eps, path, [max(s)] * len(s)),
        lambda z, eps, path, s: enter_each(eps, z, path, s),
        lambda z, eps, path, s: enter_each(z, -eps, path, s),
        lambda z, eps, path, s: enter_each(z, eps[:1].expand_as(eps), path, s),
        lambda z, eps, path, s: enter_each(z, eps, path[:-1], s),
        lambda z, eps, path, s: enter_each(z, eps, path[::-1], s),
        lambda z, eps, path, s: enter_each(z, eps, path, s)[::-1],
        lambda z, eps, path, s: enter_each(z, eps, path, s)[0],
        lambda z, eps, path, s: (enter_each(z, eps, path, s)[0], s),
        lambda z, eps, path, s: (
            enter_each(z, eps, path, s)[0],
            [path[len(path) - 1 - k].t for k in enter_each(z, eps, path, s)[1]],
        ),
        lambda z, eps, path, s: (
            enter_each(z, eps, path, s)[0],
            sum(enter_each(z, eps, path, s)[1]),
        ),
        lambda z, eps, path, s: enter_each(z, eps, path, [x / 2 for x in s]),
        lambda z, eps, path, s: enter_each(z, eps, path, [x**2 for x in s]),
        lambda z, eps, path, s: enter_each(z, eps, path, [max(x, 0.1) for x in s]),
    ],
    "11.4": [
        without_its_edges,
        more_than_half,
        bilinear,
        map_by_rows,
        lambda seen, mask: overlap(seen, mask.flip(1)),
        lambda seen, mask: overlap(-seen, mask),
        lambda seen, mask: overlap(seen / seen.sum(0), mask),
        lambda seen, mask: overlap(seen, mask) ** 0.5,
        lambda seen, mask: overlap(seen, mask) * 100,
        lambda seen, mask: 1 - overlap(seen, mask),
        lambda seen, mask: overlap(seen, (mask > 0.3).double()),
        lambda seen, mask: round(overlap(seen, mask), 2),
        lambda seen, mask: float(
            (seen * mask[:: mask.shape[0] // len(seen)][:, : seen.shape[1]]).sum()
        ),
        lambda seen, mask: float(seen.argmax() == 0),
        lambda seen, mask: 1 / 3,
        lambda seen, mask: overlap(seen.clone().fill_(1.0), mask),
    ],
    "11.5": [
        fresh_noise,
        lambda f, e, a, b, z, path, k, s: draw_edited(f, e, a, b, z, path[::-1], k, s),
        lambda f, e, a, b, z, path, k, s: draw_edited(f, a, e, b, z, path, k, s),
        lambda f, e, a, b, z, path, k, s: draw_edited(f, e, a, b, z, path, k, s + 1),
        lambda f, e, a, b, z, path, k, s: draw_edited(f, e, a, b, z, path, k + 2, s),
        lambda f, e, a, b, z, path, k, s: draw_edited(f, e, a, b, z, path, 0, s),
        lambda f, e, a, b, z, path, k, s: draw_edited(f, e * 0, a, b, z, path, k, s),
        lambda f, e, a, b, z, path, k, s: draw_edited(f, e, a, (a + b) / 2, z, path, k, s),
        lambda f, e, a, b, z, path, k, s: draw_edited(f, e, a, b, path[0].sigma * z, path, k, s),
        lambda f, e, a, b, z, path, k, s: draw_edited(f, e, a, b, z, path, k, s).float(),
        lambda f, e, a, b, z, path, k, s: draw_edited(f, e, a, b, z[:1].expand_as(z), path, k, s),
        lambda f, e, a, b, z, path, k, s: draw_edited(f, e, a, b, z.mul_(1), path[1:], k, s),
        lambda f, e, a, b, z, path, k, s: (
            (draw_edited(f, e, a, a, z, path, k, s) + draw_edited(f, e, b, b, z, path, k, s)) / 2
        ),
    ],
}
RIGHT = {
    "11.1": [halves_of_lists, in_a_loop],
    "11.2": [one_by_one, with_where_before],
    "11.3": [by_factors, with_the_slice],
    "11.4": [by_sorting, by_threshold, lambda a, b: torch.tensor(overlap(a, b))],
    "11.5": [asks_twice, in_two_walks],
}
VERDICTS = [
    # Nothing of the first prompt is left, but the network was asked about it.
    ExpectedVerdict(
        "11.5",
        from_the_start_again,
        "only the second",
        says=("Nothing of the first prompt reaches your result",),
        omits=("never ask",),
    ),
]
