"""Notebook 03: wrong answers that the checker was not written for, and right ones in another
style."""

import math

import torch

from sdlearn.course.exercises.nb03_time import (
    adapted,
    embed_times,
    in_order,
    picture_vector,
    read_clocks,
    speeds,
    told,
    wavelength,
    waves,
)
from sdlearn.embeddings import sinusoidal_embedding
from tests.course.answers.expected_verdict import ExpectedVerdict


def times_of(t, b, dtype=torch.float32):
    return t.to(dtype).expand(b)[:, None]


def by_power(t, b, dim, max_period, dtype=torch.float32):
    i = torch.arange(dim // 2, dtype=dtype)
    return waves(times_of(t, b, dtype) * max_period ** (-i / (dim // 2))).float()


def in_a_loop(t, b, dim, max_period):
    half, rows = dim // 2, []
    for k in range(b):
        time = float(t) if t.dim() == 0 else float(t[k])
        angles = [time / max_period ** (i / half) for i in range(half)]
        rows.append([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    return torch.tensor(rows)


def own(t):
    """The dtype of t, where fractions fit in."""
    return t.dtype if t.is_floating_point() else torch.float32


def in_dtypes(speeds, times=None, angles=None):
    """speeds(i, half, max_period); i and the times have the dtype of t, or what is given."""

    def answer(t, b, dim, max_period):
        w = speeds(torch.arange(dim // 2, dtype=own(t)), dim // 2, max_period)
        turned = t.to(times or own(t)).expand(b)[:, None] * w
        return waves(turned.to(angles or turned.dtype)).float()

    return answer


IN_ITS_DTYPE = [
    in_dtypes(lambda i, half, period: period ** (-i / half)),
    in_dtypes(lambda i, half, period: torch.exp(-math.log(period) * i / half)),
    in_dtypes(lambda i, half, period: torch.exp(i * (-math.log(period) / half))),
    in_dtypes(lambda i, half, period: (1 / period ** (i / half).float()).to(i.dtype)),
]


def spaced(first, last):
    def answer(t, b, dim, max_period):
        return waves(times_of(t, b) * max_period ** -torch.linspace(first, last, dim // 2))

    return answer


def keeps(method):
    def answer(weight):
        return method(weight, torch.arange(weight.shape[1]), weight.shape[1] // 2)

    return answer


def column_by_column(weight):
    columns = [weight[:, 2 * i + 1] for i in range(weight.shape[1] // 2)]
    columns += [weight[:, 2 * i] for i in range(weight.shape[1] // 2)]
    return torch.stack(columns, dim=1)


def by_product(weight):
    half = weight.shape[1] // 2
    order = torch.zeros(weight.shape[1], weight.shape[1], dtype=weight.dtype)
    for i in range(half):
        order[2 * i + 1, i] = order[2 * i, half + i] = 1
    return weight @ order


def with_sizes(change):
    """The right rows of six, (b, 6), changed before they are embedded."""

    def answer(pooled, originals, corners, targets, dim):
        return told(pooled, change(in_order(originals, corners, targets)), dim)

    return answer


def put_together(join):
    """The right vectors, (b, 6, dim), joined with the pooled text in some other way."""

    def answer(pooled, originals, corners, targets, dim):
        rows = in_order(originals, corners, targets)
        return join(pooled, torch.stack([sinusoidal_embedding(row, dim) for row in rows]))

    return answer


def one_by_one(pooled, originals, corners, targets, dim):
    result = []
    for k in range(len(pooled)):
        parts = [pooled[k]]
        for a, b in (originals[k], corners[k], targets[k]):
            parts += [sinusoidal_embedding(torch.tensor([x]), dim)[0] for x in (b, a)]
        result.append(torch.cat(parts))
    return torch.stack(result)


def most_alike(embedding, step=0.01):
    grid = torch.arange(0, 999.005, step, dtype=torch.float64)
    known = waves(grid[:, None] * speeds(embedding.shape[1]))
    best = [int((known - row.double()).pow(2).sum(1).argmin()) for row in embedding]
    return torch.stack([grid[k] for k in best]).to(embedding.dtype)


def weighted(embedding):
    """Of all clocks, each as sure as it is fast: as good as the fastest, or better."""
    t, half = read_clocks(embedding), embedding.shape[1] // 2
    w = speeds(embedding.shape[1]).to(embedding.dtype)
    off = torch.atan2(embedding[:, half:], embedding[:, :half]) - t[:, None] * w
    off = off - math.tau * torch.round(off / math.tau)
    return t + (off * w).sum(1) / (w * w).sum()


def from_clock(start, stop=0):
    """Slow to fast, but only from one clock on, or only to one."""

    def answer(embedding):
        half = embedding.shape[1] // 2
        w = speeds(embedding.shape[1])
        angles = torch.atan2(embedding[:, half:], embedding[:, :half])
        last = half - 1 - start
        t = angles[:, last] / w[last]
        for i in reversed(range(stop, last)):
            t = (angles[:, i] + math.tau * torch.round((t * w[i] - angles[:, i]) / math.tau)) / w[i]
        return t

    return answer


def rounded(whole):
    """The right way but for how the number of turns becomes a whole one."""

    def answer(embedding):
        half, w = embedding.shape[1] // 2, speeds(embedding.shape[1])
        angles = torch.atan2(embedding[:, half:], embedding[:, :half])
        t = angles[:, -1] / w[-1]
        for i in reversed(range(half - 1)):
            t = (angles[:, i] + math.tau * whole((t * w[i] - angles[:, i]) / math.tau)) / w[i]
        return t

    return answer


def by_floor(embedding):
    half, w = embedding.shape[1] // 2, speeds(embedding.shape[1])
    angles = torch.atan2(embedding[:, half:], embedding[:, :half]) % math.tau
    t = angles[:, -1] / w[-1]
    for i in reversed(range(half - 1)):
        t = (angles[:, i] + math.tau * torch.floor(t * w[i] / math.tau)) / w[i]
    return t


WRONG = {
    "03.1": [
        lambda channel, dim: round(wavelength(channel, dim)),
        lambda channel, dim: wavelength(channel, 320),
        lambda channel, dim: wavelength(dim - 1 - channel, dim),
        lambda channel, dim: 2 * math.pi * 10000 ** (2 * (channel % (dim // 2)) / (dim // 2)),
        lambda channel, dim: 2 * math.pi * math.exp((channel % (dim // 2)) / (dim // 2)),
        lambda channel, dim: 2 * math.pi * 10000 ** ((channel % (dim // 2) + 1) / (dim // 2)),
        lambda channel, dim: 6.28 * 10000 ** ((channel % (dim // 2)) / (dim // 2)),
        lambda channel, dim: wavelength(channel, dim) / 1000,
        lambda channel, dim: 1000 / wavelength(channel, dim),
        lambda channel, dim: 2 * math.pi * 10000 ** (channel % (dim // 2) / dim * 2.001),
        lambda channel, dim: 2 * math.pi * 10000 ** (abs(channel - dim // 2) / (dim // 2)),
        lambda channel, dim: wavelength(channel, dim) if channel < dim // 2 else 0.0,
        lambda channel, dim: 2 * math.pi * 1000 ** ((channel % (dim // 2)) / (dim // 2)),
        lambda channel, dim: [wavelength(channel, dim)],
    ],
    "03.2": [
        spaced(0, 1),
        lambda t, b, dim, max_period: spaced(1 / (dim // 2), 1)(t, b, dim, max_period),
        lambda t, b, dim, max_period: embed_times(t, b, dim, max_period).double(),
        lambda t, b, dim, max_period: embed_times(t.long(), b, dim, max_period),
        lambda t, b, dim, max_period: embed_times(t.round(), b, dim, max_period),
        lambda t, b, dim, max_period: embed_times(t.bfloat16(), b, dim, max_period),
        lambda t, b, dim, max_period: embed_times(t.half(), b, dim, max_period),
        lambda t, b, dim, max_period: embed_times(t + 1, b, dim, max_period),
        lambda t, b, dim, max_period: embed_times(t.flatten()[0], b, dim, max_period),
        lambda t, b, dim, max_period: (
            embed_times(t.flatten().flip(0)[:b], b, dim, max_period)
            if t.dim()
            else embed_times(t, b, dim, max_period)
        ),
        lambda t, b, dim, max_period: embed_times(-t, b, dim, max_period),
        lambda t, b, dim, max_period: embed_times(t, b, dim, max_period).flip(1),
        lambda t, b, dim, max_period: embed_times(t, b, dim, max_period) * 2**0.5,
        lambda t, b, dim, max_period: embed_times(t, b, dim, max_period).T,
        lambda t, b, dim, max_period: embed_times(t, b, dim, max_period).half().float(),
        lambda t, b, dim, max_period: sinusoidal_embedding(t.expand(b), dim),
        lambda t, b, dim, max_period: embed_times(t, len(t), dim, max_period),
        lambda t, b, dim, max_period: by_power(t, b, dim, max_period, torch.float64).double(),
        lambda t, b, dim, max_period: waves(
            times_of(t, b) / max_period * torch.arange(1, dim // 2 + 1)
        ),
        lambda t, b, dim, max_period: torch.cat([waves(times_of(t, b))] * (dim // 2), -1),
        *IN_ITS_DTYPE,
        in_dtypes(lambda i, half, period: period ** (-i / half), times=torch.float32),
        in_dtypes(lambda i, half, period: period ** (-i / half), times=torch.float64),
        in_dtypes(lambda i, half, period: period ** (-i.float() / half), angles=torch.float16),
        in_dtypes(lambda i, half, period: period ** (-i.float() / half), angles=torch.bfloat16),
        lambda t, b, dim, max_period: embed_times(t, b, dim, max_period).to(t.dtype),
        lambda t, b, dim, max_period: embed_times(t, b, dim, max_period * math.tau),
        lambda t, b, dim, max_period: (
            times_of(t, b, own(t)) / max_period ** (torch.arange(dim // 2, dtype=own(t)) * 2 / dim)
        ).float(),
    ],
    "03.3": [
        keeps(lambda w, k, half: w[:, (k + 1) % len(k)]),
        keeps(lambda w, k, half: w[:, k // 2 + half * (k % 2)]),
        keeps(lambda w, k, half: w[:, torch.cat([k[1::2], k[0::2].flip(0)])]),
        keeps(lambda w, k, half: w[:, torch.cat([k[1::2].flip(0), k[0::2].flip(0)])]),
        keeps(lambda w, k, half: torch.cat([w[:, 1::2], -w[:, 0::2]], 1)),
        keeps(lambda w, k, half: torch.cat([w[:, 1::2], w[:, 0::2]], 1).T),
        keeps(lambda w, k, half: torch.cat([w[:, 1::2], w[:, 0::2]], 1).detach()),
        keeps(lambda w, k, half: torch.cat([w[:, 1::2], w[:, 0::2]], 1).float()),
        keeps(lambda w, k, half: torch.cat([w[:, 1::2], w[:, 1::2]], 1)),
        keeps(lambda w, k, half: torch.stack([w[:, 1::2], w[:, 0::2]], 1)),
        keeps(lambda w, k, half: torch.cat([w[:, half:], w[:, :half]], 1).flip(0)),
        keeps(lambda w, k, half: w.unflatten(0, (-1, 1)).flip(1).squeeze(1)),
        lambda weight: weight.copy_(adapted(weight)),
        lambda weight: adapted(adapted(weight)),
        lambda weight: adapted(weight)[:, :-1],
    ],
    "03.4": [
        with_sizes(lambda rows: rows[:, [0, 1, 2, 3, 5, 4]]),
        with_sizes(lambda rows: rows[:, [1, 0, 2, 3, 4, 5]]),
        with_sizes(lambda rows: rows[:, [0, 1, 3, 2, 5, 4]]),
        with_sizes(lambda rows: rows[:, [1, 0, 3, 2, 4, 5]]),
        with_sizes(lambda rows: rows[:, [4, 5, 2, 3, 0, 1]]),
        with_sizes(lambda rows: rows[:, [2, 3, 0, 1, 4, 5]]),
        with_sizes(lambda rows: rows.flip(1)),
        with_sizes(lambda rows: rows[:1].expand_as(rows)),
        with_sizes(lambda rows: rows.flip(0)),
        with_sizes(lambda rows: rows // 8),
        with_sizes(lambda rows: rows[:, :5]),
        with_sizes(lambda rows: rows.half()),
        with_sizes(lambda rows: torch.cat([rows[:, :2], rows[:, 2:4] * 0, rows[:, 4:]], 1)),
        put_together(lambda pooled, x: torch.cat([pooled, x.sum(1)], -1)),
        put_together(lambda pooled, x: torch.cat([pooled.float(), x.flatten(1)], -1)),
        put_together(lambda pooled, x: torch.cat([pooled.detach(), x.flatten(1)], -1)),
        put_together(lambda pooled, x: torch.cat([pooled, x.flatten(1).double().round()], -1)),
        put_together(
            lambda pooled, x: torch.cat([pooled, x.transpose(0, 1).reshape(len(x), -1)], -1)
        ),
        put_together(lambda pooled, x: torch.cat([x.flatten(1), pooled], -1)),
        put_together(lambda pooled, x: torch.cat([pooled * 0, x.flatten(1)], -1)),
        put_together(lambda pooled, x: x.flatten(1)),
        lambda pooled, originals, corners, targets, dim: picture_vector(
            pooled, originals, corners, originals, dim
        ),
        lambda pooled, originals, corners, targets, dim: picture_vector(
            pooled, sorted(originals), corners, targets, dim
        ),
        lambda pooled, originals, corners, targets, dim: picture_vector(
            pooled, originals, corners, targets, 256
        ),
    ],
    "03.5": [
        from_clock(1),
        from_clock(0, 1),
        from_clock(0, 2),
        by_floor,
        rounded(torch.ceil),
        rounded(torch.trunc),
        rounded(lambda turns: turns),
        lambda embedding: read_clocks(embedding).double().float(),
        lambda embedding: read_clocks(embedding).floor(),
        lambda embedding: read_clocks(embedding) + 1,
        lambda embedding: read_clocks(embedding).abs().clamp(1, 998),
        lambda embedding: read_clocks(embedding)[:, None],
        lambda embedding: read_clocks(embedding) / 1000,
        lambda embedding: read_clocks(embedding).flip(0),
        lambda embedding: read_clocks(embedding) % math.tau,
        lambda embedding: most_alike(embedding, 1.0),
        lambda embedding: read_clocks(embedding[:1]).expand(len(embedding)),
        lambda embedding: read_clocks(embedding.roll(1, dims=1)),
        lambda embedding: read_clocks(embedding).tolist(),
        lambda embedding: read_clocks(embedding.sign()),
        lambda embedding: read_clocks(-embedding),
    ],
}
RIGHT = {
    "03.1": [
        lambda channel, dim: 2 * math.pi / 10000 ** (-(channel % (dim // 2)) / (dim // 2)),
        lambda channel, dim: (
            math.tau * math.exp(math.log(10000) * (2 * channel % dim // 2) / (dim // 2))
        ),
        lambda channel, dim: (
            2 * torch.pi / torch.exp(-math.log(10000) * torch.arange(dim // 2) / (dim // 2))
        ).repeat(2)[channel],
    ],
    "03.2": [
        by_power,
        in_a_loop,
        in_dtypes(lambda i, half, period: period ** (-i.float() / half)),
        in_dtypes(lambda i, half, period: period ** (-i.float() / half), times=torch.float64),
        lambda t, b, dim, max_period: by_power(t, b, dim, max_period, torch.float64),
        lambda t, b, dim, max_period: waves(
            torch.outer(
                t.reshape(-1).float() if t.numel() == b else t.float().repeat(b),
                torch.logspace(0, -1, dim // 2 + 1, base=max_period)[:-1],
            )
        ),
    ],
    "03.3": [
        column_by_column,
        by_product,
        lambda weight: weight.unflatten(1, (-1, 2)).flip(-1).transpose(1, 2).flatten(1),
        lambda weight: torch.hstack((weight[:, 1::2], weight[:, ::2])).contiguous(),
    ],
    "03.4": [
        one_by_one,
        put_together(lambda pooled, x: torch.cat([pooled, x.flatten(1).to(pooled.dtype)], -1)),
        with_sizes(lambda rows: rows.double()),
    ],
    "03.5": [weighted, most_alike, from_clock(0)],
}
VERDICTS = [ExpectedVerdict("03.2", answer, "in the dtype of t") for answer in IN_ITS_DTYPE]
