"""Notebook 18: wrong answers that the checker was not written for, and right ones in another
style."""

import torch
import torch.nn.functional as F

from sdlearn.course.exercises.nb18_adapters import LowRank, nearest, new_rows, prior_loss, stacked


class WithLinear(LowRank):
    def forward(self, x):
        change = F.linear(F.linear(x, self.down), self.up)
        return change * (self.alpha / len(self.down))


class WithEinsum(LowRank):
    def forward(self, x):
        small = torch.einsum("...i,ri->...r", x, self.down)
        return torch.einsum("...r,or->...o", small * self.alpha / self.up.shape[1], self.up)


class AsWeight(LowRank):
    def forward(self, x):
        return F.linear(x, self.alpha * self.up @ self.down / self.down.shape[0])


class WithResidual(LowRank):
    def forward(self, x):
        y = super().forward(x)
        return y + x if y.shape == x.shape else y


class Transposed(LowRank):
    def forward(self, x):
        return super().forward(x.transpose(0, -2)).transpose(0, -2) * 1.001


class WithoutB(LowRank):
    def forward(self, x):
        return super().forward(x) * 0 + (x @ self.down.T).mean(-1, keepdim=True)


class Clamped(LowRank):
    def forward(self, x):
        return super().forward(x).clamp(-1, 1)


class WithBias(LowRank):
    def forward(self, x):
        return super().forward(x) + 0.1


def in_a_loop(parts):
    a, b = [], []
    for down, up, alpha, strength in parts:
        a.append(down)
        b.append(up * (strength * alpha / up.shape[1]))
    return torch.vstack(a), torch.hstack(b)


def preallocated(parts):
    ranks = [len(part[0]) for part in parts]
    factors = [s * alpha / r for (_, _, alpha, s), r in zip(parts, ranks, strict=True)]
    columns = torch.cat([up for _, up, _, _ in parts], dim=-1)
    scale = torch.tensor(factors, dtype=columns.dtype).repeat_interleave(torch.tensor(ranks))
    return torch.cat([part[0] for part in parts], dim=0), columns * scale


def averaged(parts):
    down, up = stacked(parts)
    return down, up / len(parts)


def by_loop(ids, embedded, first, rows):
    made = embedded
    for k, row in enumerate(rows):
        made = torch.where((ids == first + k)[..., None], row, made)
    return made


def by_one_hot(ids, embedded, first, rows):
    names = torch.arange(first, first + len(rows))
    hot = (ids[..., None] == names).to(rows)
    return embedded * (1 - hot.sum(-1, keepdim=True)) + hot @ rows


def in_place(ids, embedded, first, rows):
    for k in range(len(rows)):
        embedded[ids == first + k] = rows[k]
    return embedded


def two_means(losses, own, weight):
    mine, theirs = losses.split([own, len(losses) - own])
    return torch.mean(mine) + torch.mean(theirs) * weight


def weighted_sum(losses, own, weight):
    weights = torch.full_like(losses, weight / (len(losses) - own))
    weights[:own] = 1 / own
    return losses @ weights


def with_diag(change, rank):
    u, s, v = torch.linalg.svd(change)
    return u[:, :rank] @ torch.diag(s[:rank]) @ v[:rank, :]


def by_outer_products(change, rank):
    u, s, v = torch.svd(change)
    return sum(s[k] * torch.outer(u[:, k], v[:, k]) for k in range(min(rank, len(s))))


def by_eigenvectors(change, rank):
    _, vectors = torch.linalg.eigh(change.T @ change)
    kept = vectors[:, -rank:]
    return change @ kept @ kept.T


WRONG = {
    "18.1": [WithResidual, Transposed, WithoutB, Clamped, WithBias],
    "18.2": [
        averaged,
        lambda parts: stacked(parts)[::-1],
        lambda parts: (stacked(parts)[0], stacked(parts)[1].flip(1)),
        lambda parts: (stacked(parts)[0], stacked(parts)[1].abs()),
        lambda parts: stacked([(a, b, alpha, abs(s)) for a, b, alpha, s in parts]),
        lambda parts: stacked(parts)[1] @ stacked(parts)[0],
        lambda parts: (stacked(parts)[0].T, stacked(parts)[1].T),
    ],
    "18.3": [
        in_place,
        lambda i, e, f, r: new_rows(i, e, f + 1, r),
        lambda i, e, f, r: new_rows(i, e, f, r.flip(0)),
        lambda i, e, f, r: new_rows(i, e, f, r / r.norm()),
        lambda i, e, f, r: (new_rows(i, e, f, r) + e) / 2,
        lambda i, e, f, r: new_rows(i, e.detach(), f, r),
        lambda i, e, f, r: new_rows(i, 0 * e, f, r),
    ],
    "18.4": [
        lambda x, own, w: prior_loss(x.flip(0), own, w),
        lambda x, own, w: prior_loss(x, own, w).sqrt(),
        lambda x, own, w: prior_loss(x, own, max(w, 0.5)),
        lambda x, own, w: x[0] + w * x[own:].mean(),
        lambda x, own, w: prior_loss(x, own, w).detach(),
        lambda x, own, w: x[:own].mean() + (w * x[own:]).mean(0, keepdim=True),
        lambda x, own, w: x[:own].median() + w * x[own:].median(),
    ],
    "18.5": [
        lambda m, r: nearest(m, r - 1) if r > 1 else 0 * m,
        lambda m, r: nearest(m, r + 1),
        lambda m, r: nearest(m, r).T,
        lambda m, r: m - nearest(m, r),
        lambda m, r: nearest(m, r).abs(),
        lambda m, r: nearest(m, r) * m.norm() / nearest(m, r).norm(),
    ],
}
RIGHT = {
    "18.1": [WithLinear, WithEinsum, AsWeight],
    "18.2": [in_a_loop, preallocated],
    "18.3": [by_loop, by_one_hot],
    "18.4": [two_means, weighted_sum],
    "18.5": [with_diag, by_outer_products, by_eigenvectors],
}
