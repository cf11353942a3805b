"""Notebook 03: wrong answers that the checker was not written for, and right ones in another
style."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sdlearn.course.exercises.nb03_time import (
    TimeEmbedding,
    adapted,
    read_clocks,
    sinusoidal_embedding,
    size_vector,
    speeds,
    wavelength,
    waves,
)
from tests.course.answers.expected_verdict import ExpectedVerdict


def times_of(t, dtype=torch.float32):
    return t.to(dtype)[:, None]


def by_power(t, dim, max_period=1e4, dtype=torch.float32):
    i = torch.arange(dim // 2, dtype=dtype)
    return waves(times_of(t, dtype) * max_period ** (-i / (dim // 2))).float()


def in_a_loop(t, dim, max_period=1e4):
    half, rows = dim // 2, []
    for time in t.tolist():
        angles = [time / max_period ** (i / half) for i in range(half)]
        rows.append([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    return torch.tensor(rows)


def own(t):
    """The dtype of t, where fractions fit in."""
    return t.dtype if t.is_floating_point() else torch.float32


def in_dtypes(speeds, times=None, angles=None):
    """speeds(i, half, max_period); i and the times have the dtype of t, or what is given."""

    def answer(t, dim, max_period=1e4):
        w = speeds(torch.arange(dim // 2, dtype=own(t)), dim // 2, max_period)
        turned = t.to(times or own(t))[:, None] * w
        return waves(turned.to(angles or turned.dtype)).float()

    return answer


IN_ITS_DTYPE = [
    in_dtypes(lambda i, half, period: period ** (-i / half)),
    in_dtypes(lambda i, half, period: torch.exp(-math.log(period) * i / half)),
    in_dtypes(lambda i, half, period: torch.exp(i * (-math.log(period) / half))),
    in_dtypes(lambda i, half, period: (1 / period ** (i / half).float()).to(i.dtype)),
]


def spaced(first, last):
    def answer(t, dim, max_period=1e4):
        return waves(times_of(t) * max_period ** -torch.linspace(first, last, dim // 2))

    return answer


def with_times(change):
    """The right embedding of changed timesteps."""
    return lambda t, dim, max_period=1e4: sinusoidal_embedding(change(t), dim, max_period)


def changed(change):
    """The right embedding, changed."""
    return lambda t, dim, max_period=1e4: change(sinusoidal_embedding(t, dim, max_period))


def mlp(forward):
    return type("TimeEmbedding", (TimeEmbedding,), {"forward": forward})


def step_by_step(self, x):
    h = self.linear_1(x)
    h = h * torch.sigmoid(h)
    return self.linear_2(h)


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


def in_order(*parts):
    """Three lists of b pairs -> (b, 6), each pair turned round."""
    return torch.cat([torch.tensor(pairs).flip(1) for pairs in parts], dim=1)


def with_sizes(change):
    """The right rows of six, (b, 6), changed before they are embedded."""

    def answer(pooled, originals, corners, targets, dim):
        rows = change(in_order(originals, corners, targets))
        embedded = sinusoidal_embedding(rows.flatten(), dim).reshape(len(rows), -1)
        return torch.cat([pooled, embedded], dim=-1)

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


def by_turns(start=0, stop=0, turns=None, signed=True):
    """Slow to fast, from one clock on or to one; `turns` counts them in (t * w, angle)."""
    nearest = turns or (lambda turned, angle: torch.round((turned - angle) / math.tau))

    def answer(embedding):
        half, w = embedding.shape[1] // 2, speeds(embedding.shape[1])
        angles = torch.atan2(embedding[:, half:], embedding[:, :half])
        angles = angles if signed else angles % math.tau
        last = half - 1 - start
        t = angles[:, last] / w[last]
        for i in reversed(range(stop, last)):
            t = (angles[:, i] + math.tau * nearest(t * w[i], angles[:, i])) / w[i]
        return t

    return answer


def rounded(whole):
    """The right way but for how the number of turns becomes a whole one."""
    return by_turns(turns=lambda turned, angle: whole((turned - angle) / math.tau))


WRONG = {
    "03.1": [
        spaced(0, 1),
        lambda t, dim, max_period=1e4: spaced(1 / (dim // 2), 1)(t, dim, max_period),
        changed(Tensor.double),
        with_times(Tensor.long),
        with_times(Tensor.round),
        with_times(Tensor.bfloat16),
        with_times(Tensor.half),
        with_times(lambda t: t + 1),
        with_times(lambda t: t[:1].expand(len(t))),
        with_times(lambda t: t.flip(0)),
        with_times(Tensor.neg),
        with_times(lambda t: 999 - t.float()),
        changed(lambda x: x.flip(1)),
        changed(lambda x: x * 2**0.5),
        changed(lambda x: x.T),
        changed(lambda x: x.half().float()),
        changed(lambda x: x.unflatten(1, (2, -1))),
        lambda t, dim, max_period=1e4: sinusoidal_embedding(t, dim),
        lambda t, dim, max_period=1e4: by_power(t, dim, max_period, torch.float64).double(),
        lambda t, dim, max_period=1e4: waves(
            times_of(t) / max_period * torch.arange(1, dim // 2 + 1)
        ),
        lambda t, dim, max_period=1e4: torch.cat([waves(times_of(t))] * (dim // 2), -1),
        *IN_ITS_DTYPE,
        in_dtypes(lambda i, half, period: period ** (-i / half), times=torch.float32),
        in_dtypes(lambda i, half, period: period ** (-i / half), times=torch.float64),
        in_dtypes(lambda i, half, period: period ** (-i.float() / half), angles=torch.float16),
        in_dtypes(lambda i, half, period: period ** (-i.float() / half), angles=torch.bfloat16),
        lambda t, dim, max_period=1e4: sinusoidal_embedding(t, dim, max_period).to(t.dtype),
        lambda t, dim, max_period=1e4: sinusoidal_embedding(t, dim, max_period * math.tau),
        lambda t, dim, max_period=1e4: (
            times_of(t, own(t)) / max_period ** (torch.arange(dim // 2, dtype=own(t)) * 2 / dim)
        ).float(),
    ],
    "03.2": [
        mlp(lambda self, x: self.linear_2(torch.tanh(self.linear_1(x)))),
        mlp(lambda self, x: self.linear_2(F.softplus(self.linear_1(x)))),
        mlp(lambda self, x: self.linear_2(F.leaky_relu(self.linear_1(x)))),
        mlp(lambda self, x: self.linear_2(F.elu(self.linear_1(x)))),
        mlp(lambda self, x: self.linear_2(F.silu(F.silu(self.linear_1(x))))),
        mlp(lambda self, x: self.linear_2(self.linear_1(x).softmax(-1))),
        mlp(lambda self, x: self.linear_2(F.hardswish(self.linear_1(x)))),
        mlp(lambda self, x: self.linear_2(self.linear_2(F.silu(self.linear_1(x))))),
        mlp(lambda self, x: self.linear_2(F.silu(self.linear_1(x))).detach()),
        mlp(lambda self, x: self.linear_2(F.dropout(F.silu(self.linear_1(x)), 0.1))),
    ],
    "03.3": [
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
    "03.4": [
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
    "03.5": [
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
        lambda pooled, originals, corners, targets, dim: size_vector(
            pooled, originals, corners, originals, dim
        ),
        lambda pooled, originals, corners, targets, dim: size_vector(
            pooled, sorted(originals), corners, targets, dim
        ),
        lambda pooled, originals, corners, targets, dim: size_vector(
            pooled, originals, corners, targets, 256
        ),
    ],
    "03.6": [
        by_turns(1),
        by_turns(stop=1),
        by_turns(stop=2),
        by_turns(turns=lambda turned, angle: torch.floor(turned / math.tau), signed=False),
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
        by_power,
        in_a_loop,
        in_dtypes(lambda i, half, period: period ** (-i.float() / half)),
        in_dtypes(lambda i, half, period: period ** (-i.float() / half), times=torch.float64),
        lambda t, dim, max_period=1e4: by_power(t, dim, max_period, torch.float64),
        lambda t, dim, max_period=1e4: waves(
            torch.outer(t.float(), torch.logspace(0, -1, dim // 2 + 1, base=max_period)[:-1])
        ),
    ],
    "03.2": [
        mlp(step_by_step),
        mlp(lambda self, x: self.linear_2(self.linear_1(x) / (1 + (-self.linear_1(x)).exp()))),
        mlp(lambda self, x: self.linear_2(torch.nn.SiLU()(self.linear_1(x)))),
    ],
    "03.3": [
        lambda channel, dim: 2 * math.pi / 10000 ** (-(channel % (dim // 2)) / (dim // 2)),
        lambda channel, dim: (
            math.tau * math.exp(math.log(10000) * (2 * channel % dim // 2) / (dim // 2))
        ),
        lambda channel, dim: (
            2 * torch.pi / torch.exp(-math.log(10000) * torch.arange(dim // 2) / (dim // 2))
        ).repeat(2)[channel],
    ],
    "03.4": [
        column_by_column,
        by_product,
        lambda weight: weight.unflatten(1, (-1, 2)).flip(-1).transpose(1, 2).flatten(1),
        lambda weight: torch.hstack((weight[:, 1::2], weight[:, ::2])).contiguous(),
    ],
    "03.5": [
        one_by_one,
        put_together(lambda pooled, x: torch.cat([pooled, x.flatten(1).to(pooled.dtype)], -1)),
        with_sizes(lambda rows: rows.double()),
    ],
    "03.6": [weighted, most_alike, by_turns()],
}


def with_speeds(speeds):
    """speeds(half, max_period) -> the frequencies of an otherwise right embedding."""
    return lambda t, dim, max_period=1e4: waves(times_of(t) * speeds(dim // 2, max_period))


def with_halves(join):
    """The right cosines and sines, joined in some other way."""
    return lambda t, dim, max_period=1e4: join(*by_power(t, dim, max_period).chunk(2, 1))


def in_place(weight):
    new, half = weight.clone(), weight.shape[1] // 2
    new[:, :half] = new[:, 1::2]
    new[:, half:] = new[:, ::2]
    return new


def from_pairs(number_rows):
    """number_rows(originals, corners, targets), tensors (b, 2) -> (b, 6), the rest is right."""

    def answer(pooled, originals, corners, targets, dim):
        rows = number_rows(*map(torch.tensor, (originals, corners, targets)))
        embedded = sinusoidal_embedding(rows.flatten(), dim).reshape(len(pooled), -1)
        return torch.cat([pooled, embedded], dim=-1)

    return answer


def with_a_table(pooled, originals, corners, targets, dim):
    embedded = sinusoidal_embedding(in_order(originals, corners, targets), dim)
    return torch.cat([pooled, embedded.reshape(len(pooled), -1)], dim=-1)


def sideways(o, c, t):
    return torch.cat([o.flip(1), c.flip(1), t.flip(1)], dim=1)


def named(number, mistakes):
    return [ExpectedVerdict(number, answer, name) for name, answer in mistakes.items()]


def unnamed(number, says, omits, *answers):
    return [ExpectedVerdict(number, answer, None, (says,), (omits,)) for answer in answers]


VERDICTS = [
    *(ExpectedVerdict("03.1", answer, "in the dtype of t") for answer in IN_ITS_DTYPE),
    *named(
        "03.1",
        {
            "power upside down": with_speeds(lambda half, m: m ** (torch.arange(half) / half)),
            "power before quotient": with_speeds(lambda half, m: m ** -torch.arange(half) / half),
            "without the exponential": with_speeds(
                lambda half, m: torch.arange(half) * -math.log(m) / half
            ),
            "logarithm to base 10": with_speeds(
                lambda half, m: (-math.log10(m) / half * torch.arange(half)).exp()
            ),
            "twice the exponent": with_speeds(
                lambda half, m: m ** (-2 * torch.arange(half) / half)
            ),
            "counted from 1": with_speeds(
                lambda half, m: torch.tensor([m ** (-(i + 1) / half) for i in range(half)])
            ),
            "whole timesteps": with_times(Tensor.long),
            "cosines twice": with_halves(lambda cosines, sines: cosines.repeat(1, 2)),
            "sines twice": with_halves(lambda cosines, sines: sines.repeat(1, 2)),
            "one below the other": with_halves(lambda *both: torch.cat(both)),
            "a new axis": with_halves(lambda *both: torch.stack(both, -1)),
        },
    ),
    *unnamed("03.1", "`.permute(1, 0)` of yours", "softmax", changed(lambda x: x.T)),
    *named(
        "03.2",
        {
            "first layer alone": mlp(lambda self, x: self.linear_1(x)),
            "first layer left out": mlp(lambda self, x: self.linear_2(x * torch.sigmoid(x))),
            "layers exchanged": mlp(lambda self, x: self.linear_1(F.silu(self.linear_2(x)))),
            "first layer twice": mlp(lambda self, x: self.linear_1(F.silu(self.linear_1(x)))),
            "second layer twice": mlp(lambda self, x: self.linear_2(F.silu(self.linear_2(x)))),
            "sigmoid of x": mlp(lambda self, x: self.linear_2(self.linear_1(x) * x.sigmoid())),
            "activation before and between": mlp(lambda self, x: step_by_step(self, F.silu(x))),
        },
    ),
    *unnamed(
        "03.2",
        "A linear layer takes vectors of one length",
        "transpose",
        mlp(lambda self, x: self.linear_2(x)),
        mlp(lambda self, x: self.linear_1(self.linear_2(x))),
    ),
    *unnamed(
        "03.2",
        "call it first, `layer(x)`",
        "plain number",
        mlp(lambda self, x: self.linear_2(F.silu(self.linear_1)(x))),
        mlp(lambda self, x: self.linear_2(torch.nn.SiLU(self.linear_1(x)))),
    ),
    *named(
        "03.3",
        {
            "channel over dim": lambda channel, dim: 2 * math.pi * 10000 ** (channel / dim),
            "half subtracted from all": lambda channel, dim: (
                math.tau * 10000 ** ((channel - dim // 2) / (dim // 2))
            ),
            "first sine with the cosines": lambda channel, dim: (
                math.tau * 10000 ** ((channel - dim // 2 * (channel > dim // 2)) / (dim // 2))
            ),
            "quotient for remainder": lambda channel, dim: (
                math.tau / 10000 ** -(channel // (dim // 2) / (dim // 2))
            ),
            "even and odd channels": lambda channel, dim: (
                math.tau / 10000 ** -(channel % 2 / (dim // 2))
            ),
        },
    ),
    *named(
        "03.4",
        {
            "one below the other": lambda weight: torch.cat((weight[:, 1::2], weight[:, ::2])),
            "rows and columns exchanged": lambda weight: torch.cat([weight.T[1::2], weight.T[::2]]),
            "overwritten": in_place,
        },
    ),
    *unnamed(
        "03.4",
        "(10, 4), and (5, 8)",
        "softmax",
        lambda weight: torch.cat((weight[:, ::2], weight[:, 1::2])),
    ),
    *named(
        "03.5",
        {
            "only the original turned round": from_pairs(
                lambda o, c, t: torch.cat([o.flip(1), c, t], dim=1)
            ),
            "only the target turned round": from_pairs(
                lambda o, c, t: torch.cat([o, c, t.flip(1)], dim=1)
            ),
            "all heights first": from_pairs(
                lambda o, c, t: torch.stack([x[:, k] for k in (1, 0) for x in (o, c, t)], dim=1)
            ),
            "all six reversed": from_pairs(lambda o, c, t: torch.cat([o, c, t], dim=1).flip(1)),
            "images in reverse order": from_pairs(lambda o, c, t: sideways(o, c, t).flip(0)),
            "images reversed, pairs not": from_pairs(
                lambda o, c, t: torch.cat([o.flip(0), c.flip(0), t.flip(0)], dim=1)
            ),
            "stacked along axis 0": from_pairs(lambda o, c, t: torch.stack([o, c, t]).flip(2)),
            "images mixed": from_pairs(lambda o, c, t: sideways(o, c, t).T),
            "a table of timesteps": with_a_table,
        },
    ),
    *named(
        "03.6",
        {
            "turns without the angle": by_turns(
                turns=lambda turned, angle: torch.round(turned / math.tau)
            ),
            "turns without the angle, from 0": by_turns(
                turns=lambda turned, angle: torch.round(turned / math.tau), signed=False
            ),
        },
    ),
    *unnamed("03.6", "differs at", "Only the first example", rounded(Tensor.long)),
]
