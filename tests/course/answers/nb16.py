"""Notebook 16: wrong answers that the checker was not written for, and right ones in another
style."""

import torch
import torch.nn.functional as F

from sdlearn.course.exercises.nb16_evaluation import (
    frechet,
    paired_interval,
    precision_recall,
    wilson,
    worst_by_clip,
)


def by_roots(rate, n, z=1.96):
    """The two solutions of (rate - p)² = z² p (1 - p) / n."""
    a, b, c = 1 + z**2 / n, -(2 * rate + z**2 / n), rate**2
    root = (b**2 - 4 * a * c).clamp(min=0).sqrt()
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def in_counts(rate, n, z=1.96):
    hits = n * rate
    middle = (hits + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * (hits * (n - hits) / n + z**2 / 4).sqrt()
    return middle - half, middle + half


def agresti(rate, n, z=1.96):
    """Another interval with the same centre."""
    more = n + z**2
    middle = (n * rate + z**2 / 2) / more
    half = z * (middle * (1 - middle) / more).sqrt()
    return middle - half, middle + half


def sorted_ends(a, b, rows):
    """Quantiles by linear interpolation between the sorted values."""
    means = torch.stack([a[r].mean() - b[r].mean() for r in rows]).sort().values
    ends = [(a - b).mean()]
    for share in (0.025, 0.975):
        at = share * (len(means) - 1)
        k = int(at)
        upper = means[min(k + 1, len(means) - 1)]
        ends.append(means[k] + (at - k) * (upper - means[k]))
    return torch.stack(ends)


def unbiased_ends(a, b, rows):
    """An interval around 0 instead of the difference."""
    difference, low, high = paired_interval(a, b, rows)
    return torch.stack([difference, low - difference, high - difference])


def by_nuclear_norm(x, y):
    roots = []
    for features in (x, y):
        _, s, v = torch.linalg.svd(features - features.mean(dim=0), full_matrices=False)
        roots.append(v.T * s / (len(features) - 1) ** 0.5 @ v)
    overlap = torch.linalg.matrix_norm(roots[0] @ roots[1], "nuc")
    shift = (x.mean(dim=0) - y.mean(dim=0)).square().sum()
    return shift + sum(root.square().sum() for root in roots) - 2 * overlap


def by_general_eigenvalues(x, y):
    product = torch.linalg.eigvals(x.T.cov() @ y.T.cov()).real.clamp(min=0)
    shift = (x.mean(dim=0) - y.mean(dim=0)).square().sum()
    return shift + x.T.cov().trace() + y.T.cov().trace() - 2 * product.sqrt().sum()


def without_own_row(reals, fakes, k):
    def inside(x, centres):
        apart = (centres[:, None] - centres).square().sum(dim=2)
        apart.fill_diagonal_(torch.inf)
        radius = apart.sort(dim=1).values[:, k - 1]
        far = (x[:, None] - centres).square().sum(dim=2)
        return (far <= radius).any(dim=1).to(x).mean()

    return inside(fakes, reals), inside(reals, fakes)


def strict_and_pooled(reals, fakes, k):
    """Neighbours in both sets together."""
    both = torch.cat([reals, fakes])

    def inside(x, centres):
        radius = torch.cdist(centres, both).kthvalue(k + 1, dim=1).values
        return (torch.cdist(x, centres) <= radius).any(dim=1).to(x).mean()

    return inside(fakes, reals), inside(reals, fakes)


def normalised(images, texts, k):
    scores = 100 * (F.normalize(images) * F.normalize(texts)).sum(dim=1).relu()
    return scores, scores.topk(k, largest=False).indices


WRONG = {
    "16.1": [
        agresti,
        lambda rate, n, z=1.96: wilson(rate, n, z)[::-1],
        lambda rate, n, z=1.96: wilson(rate, n, 1.96),
        lambda rate, n, z=1.96: wilson(rate, n - 1, z),
        lambda rate, n, z=1.96: wilson(1 - rate, n, z),
        lambda rate, n, z=1.96: wilson(rate, n, 1.645 / 1.96 * z),
        lambda rate, n, z=1.96: tuple(100 * end for end in wilson(rate, n, z)),
        lambda rate, n, z=1.96: wilson(rate.mean(), n, z),
    ],
    "16.2": [
        unbiased_ends,
        lambda a, b, rows: paired_interval(a, b, rows[:, :-1]),
        lambda a, b, rows: paired_interval(a, b, rows[:-1]),
        lambda a, b, rows: paired_interval(a, b, rows)[[0, 2, 1]],
        lambda a, b, rows: paired_interval(a, b, rows)[1:],
        lambda a, b, rows: 100 * paired_interval(a, b, rows),
        lambda a, b, rows: paired_interval(a, b, torch.randint(len(a), rows.shape)),
        lambda a, b, rows: paired_interval(a.sort().values, b.sort().values, rows),
    ],
    "16.3": [
        lambda x, y: frechet(x, y).sqrt(),
        lambda x, y: frechet(x, x) + frechet(x, y) / 2,
        lambda x, y: frechet(x[:-1], y),
        lambda x, y: frechet(x - x.mean(dim=0), y),
        lambda x, y: frechet(x, y) / x.shape[1],
        lambda x, y: frechet(x.T, y.T) if len(x) == len(y) else frechet(x, y) + 0.1,
        lambda x, y: frechet(x, y) + 1e-3,
    ],
    "16.4": [
        strict_and_pooled,
        lambda r, f, k: precision_recall(r, f, 3),
        lambda r, f, k: tuple(1 - share for share in precision_recall(r, f, k)),
        lambda r, f, k: tuple(100 * share for share in precision_recall(r, f, k)),
        lambda r, f, k: precision_recall(r, f, k)[0],
        lambda r, f, k: precision_recall(r[: len(r) // 2], f, k),
        lambda r, f, k: precision_recall(r / 2, f, k),
    ],
    "16.5": [
        lambda i, t, k: worst_by_clip(i, t, k)[::-1],
        lambda i, t, k: (worst_by_clip(i, t, k)[0].sort().values, worst_by_clip(i, t, k)[1]),
        lambda i, t, k: (worst_by_clip(i, t, k)[0], worst_by_clip(i, t, len(i))[1]),
        lambda i, t, k: worst_by_clip(i, t.roll(1, 0), k),
        lambda i, t, k: worst_by_clip(i - i.mean(dim=0), t, k),
        lambda i, t, k: (worst_by_clip(i, t, k)[0].mean(), worst_by_clip(i, t, k)[1]),
        lambda i, t, k: worst_by_clip(i.abs(), t.abs(), k),
    ],
}
RIGHT = {
    "16.1": [by_roots, in_counts],
    "16.2": [sorted_ends],
    "16.3": [by_nuclear_norm, by_general_eigenvalues],
    "16.4": [without_own_row],
    "16.5": [normalised],
}
