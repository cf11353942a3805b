"""Notebook 01: wrong answers that the checker was not written for, and right ones in another
style."""

import math

import torch
import torch.nn.functional as F

from sdlearn.course.exercises.nb01_latents import (
    between,
    psnr_where,
    shrinkage,
    times_cheaper,
    to_page,
)
from tests.course.answers.expected_verdict import ExpectedVerdict


def rounded(h, w, f, channels, bits):
    return tuple(round(x) for x in shrinkage(h, w, f, channels, bits))


def filled(h, w, f, channels, bits):
    """Counts the pixels of the filled picture."""
    h, w = -(-h // f) * f, -(-w // f) * f
    return shrinkage(h, w, f, channels, bits)


def once_more(h, w, f, channels, bits):
    """Always one row and column more."""
    positions = (h // f + 1) * (w // f + 1)
    return (
        3 * h * w / channels / positions,
        h * w / positions,
        24 * h * w / channels / positions / bits,
    )


def cut(patches, high, p):
    """One patch after the other, set into its place."""
    b, n, numbers = patches.shape
    wide, c = n // high, numbers // p**2
    page = patches.new_zeros(b, c, high * p, wide * p)
    for k in range(n):
        row, column = divmod(k, wide)
        patch = patches[:, k].reshape(b, p, p, c).permute(0, 3, 1, 2)
        page[:, :, row * p : (row + 1) * p, column * p : (column + 1) * p] = patch
    return page


def joined(patches, high, p):
    rows = [line.unflatten(-1, (p, p, -1)).permute(0, 4, 2, 1, 3).flatten(-2)
            for line in patches.chunk(high, dim=1)]  # fmt: skip
    return torch.cat(rows, dim=2)


def shuffled(patches, high, p):
    b, n, numbers = patches.shape
    x = patches.reshape(b, high, n // high, p * p, numbers // p**2).permute(0, 4, 3, 1, 2)
    return F.pixel_shuffle(x.flatten(1, 2), p)


def unfolded(patches, high, p):
    b, n, numbers = patches.shape
    columns = patches.reshape(b, n, p * p, numbers // p**2).permute(0, 3, 2, 1).flatten(1, 2)
    return F.fold(columns, (high * p, n // high * p), p, stride=p)


def picked(a, b, mask):
    rows = []
    for x, y, inside in zip(a, b, mask, strict=True):
        error = F.mse_loss(x[:, inside], y[:, inside])
        rows.append(20 * torch.log10(2 / error.sqrt()))
    return torch.stack(rows)


def with_nan(a, b, mask):
    error = (a - b).square().masked_fill(~mask[:, None], float("nan"))
    return 10 * (4 / error.flatten(1).nanmean(1)).log10()


def by_sums(h, w, c, f):
    def level(n):
        return 18 * n * c**2 + 4 * n * c**2 + n * n * c + n * n * c

    return level(h * w) / level(h * w / f**2)


def popular(a, b, weight, threshold=0.9995):
    """As it stands in many scripts."""
    out = []
    for x, y in zip(a, b, strict=True):
        dot = (x / x.norm() * (y / y.norm())).sum()
        if dot.abs() > threshold:
            out.append((1 - weight) * x + weight * y)
            continue
        theta = torch.acos(dot)
        out.append(
            torch.sin(theta - theta * weight) / torch.sin(theta) * x
            + torch.sin(theta * weight) / torch.sin(theta) * y
        )
    return torch.stack(out)


def by_atan(a, b, weight):
    u, v = (x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True) for x in (a, b))
    theta = 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))
    p, q = ((s * theta).sin() / theta.sin() for s in (1 - weight, weight))
    p, q = (torch.where(theta == 0, s, x) for s, x in ((1 - weight, p), (weight, q)))
    return p[:, None, None, None] * a + q[:, None, None, None] * b


def perpendicular(a, b, weight):
    """Along the unit vector across a: right in direction, but with the length of a."""
    u, v = a.flatten(1), b.flatten(1)
    length = u.norm(dim=1, keepdim=True)
    e = u / length
    across = v - (v * e).sum(1, keepdim=True) * e
    n = across / across.norm(dim=1, keepdim=True).clamp(min=1e-12)
    theta = weight * torch.atan2(across.norm(dim=1, keepdim=True), (v * e).sum(1, keepdim=True))
    return (length * (theta.cos() * e + theta.sin() * n)).view_as(a)


def unclamped(a, b, weight, by_similarity=False):
    """Right but for pairs that are parallel, where rounding decides."""
    u, v = a.flatten(1), b.flatten(1)
    product = (u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1))
    theta = (F.cosine_similarity(u, v) if by_similarity else product).acos().view(-1, 1, 1, 1)
    arc = (((1 - weight) * theta).sin() * a + (weight * theta).sin() * b) / theta.sin()
    return torch.where(theta.sin() < 1e-6, torch.lerp(a, b, weight), arc)


def in_degrees(a, b, weight):
    theta = F.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1).acos().rad2deg()
    theta = theta.view(-1, 1, 1, 1)
    arc = (((1 - weight) * theta).sin() * a + (weight * theta).sin() * b) / theta.sin()
    return torch.where(theta == 0, torch.lerp(a, b, weight), arc)


WRONG = {
    "01.1": [
        rounded,
        filled,
        once_more,
        lambda h, w, f, channels, bits: shrinkage(h, h, f, channels, bits),
        lambda h, w, f, channels, bits: shrinkage(h, w, 8, channels, bits),
        lambda h, w, f, channels, bits: shrinkage(h, w, f, 4, bits),
        lambda h, w, f, channels, bits: shrinkage(h, w, f, channels, 16),
        lambda h, w, f, channels, bits: shrinkage(h, w, f, channels, bits)[::-1],
        lambda h, w, f, channels, bits: shrinkage(h, w, f, channels, bits)[0],
        lambda h, w, f, channels, bits: (48.0, 64.0, 24.0),
        lambda h, w, f, channels, bits: shrinkage(h, w, f, channels, bits + 8),
        lambda h, w, f, channels, bits: shrinkage(
            round(h / f) * f, round(w / f) * f, f, channels, bits
        ),
    ],
    "01.2": [
        lambda x, high, p: to_page(x, x.shape[1] // high, p),
        lambda x, high, p: to_page(x, high, p).transpose(2, 3),
        lambda x, high, p: to_page(x, high, p).flip(2),
        lambda x, high, p: to_page(x.flip(1), high, p),
        lambda x, high, p: to_page(x, high, p).flip(1),
        lambda x, high, p: F.fold(
            x.transpose(1, 2), (high * p, x.shape[1] // high * p), p, stride=p
        ),
        lambda x, high, p: F.pixel_shuffle(
            x.transpose(1, 2).reshape(len(x), -1, high, x.shape[1] // high), p
        ),
        lambda x, high, p: to_page(x, high, p).float(),
        lambda x, high, p: to_page(x, high, p).detach(),
        lambda x, high, p: to_page(x[:1], high, p),
        lambda x, high, p: to_page(x, high, 2 if x.shape[2] % 4 == 0 else p),
        lambda x, high, p: x.reshape(len(x), high * p, -1, x.shape[2] // p**2).permute(0, 3, 1, 2),
        lambda x, high, p: list(to_page(x, high, p)),
    ],
    "01.3": [
        lambda a, b, mask: psnr_where(a, b, mask).mean().expand(len(a)),
        lambda a, b, mask: psnr_where(a, b, mask).mean(),
        lambda a, b, mask: psnr_where(a, b, torch.ones_like(mask)),
        lambda a, b, mask: psnr_where(a * mask[:, None], b * mask[:, None], torch.ones_like(mask)),
        lambda a, b, mask: psnr_where(a, b, mask).clamp(max=100),
        lambda a, b, mask: psnr_where(a.clamp(-0.99, 0.99), b.clamp(-0.99, 0.99), mask),
        lambda a, b, mask: psnr_where(a, b, mask.flip(0)),
        lambda a, b, mask: psnr_where(a, b, mask).nan_to_num(posinf=0.0),
        lambda a, b, mask: psnr_where(a, b, mask).nan_to_num(),
        lambda a, b, mask: psnr_where(a, b, mask).clamp(max=torch.finfo(a.dtype).max),
        lambda a, b, mask: (
            20
            * torch.log10(
                2 * mask.sum((1, 2)) * a.shape[1] / ((a - b).abs() * mask[:, None]).sum((1, 2, 3))
            )
        ),
        lambda a, b, mask: psnr_where(a, b, mask) + 20 * a.abs().amax((1, 2, 3)).log10() - 1e-6,
        lambda a, b, mask: psnr_where(a[:, :1], b[:, :1], mask),
        lambda a, b, mask: psnr_where(a, b, mask)[:, None],
        lambda a, b, mask: psnr_where(a, b, mask).tolist(),
        lambda a, b, mask: psnr_where(a.mean(1, True), b.mean(1, True), mask),
        lambda a, b, mask: psnr_where(a.float(), b.float(), mask).double(),
    ],
    "01.4": [
        lambda h, w, c, f: times_cheaper(h, h, c, f),
        lambda h, w, c, f: times_cheaper(h, w, 320, f),
        lambda h, w, c, f: times_cheaper(h, w, c, 8),
        lambda h, w, c, f: round(times_cheaper(h, w, c, f)),
        lambda h, w, c, f: f * times_cheaper(h, w, c, f),
        lambda h, w, c, f: (f**2 + f**4) / 2,
        lambda h, w, c, f: times_cheaper(h, w, c, f) * 3 / 4 + 16,
        lambda h, w, c, f: (22 * c + 2 * h * w) / (22 * c + 2 * h * w / f**2),
        lambda h, w, c, f: (22 + 2 * h * w) / (22 + 2 * h * w / f**2) * f**2,
        lambda h, w, c, f: (
            (18 * h * w * c**2 + 4 * h * w * c * c + 2 * (h * w) ** 2 * c)
            / (18 * h * w * c**2 + 4 * h * w * c * c + 2 * (h * w) ** 2 * c / f**4)
        ),
        lambda h, w, c, f: times_cheaper(h, w, c, f) * (1 + 1e-8),
        lambda h, w, c, f: f**2 + f**4 * h * w / (11 * c),
        lambda h, w, c, f: 18 * f**2 + 4 * f**2 + 2 * f**4,
    ],
    "01.5": [
        perpendicular,
        in_degrees,
        lambda a, b, weight: between(a, b, weight**2),
        lambda a, b, weight: between(a, b, 0.5),
        lambda a, b, weight: between(a, b, math.sin(weight * math.pi / 2)),
        lambda a, b, weight: torch.lerp(a, b, weight) / (weight**2 + (1 - weight) ** 2) ** 0.5,
        lambda a, b, weight: popular(a, b, weight, threshold=0.5),
        lambda a, b, weight: popular(a, b, weight, threshold=2.0),
        lambda a, b, weight: popular(a, b, weight, threshold=-1.0),
        lambda a, b, weight: popular(a, b, weight, threshold=0.9),
        lambda a, b, weight: popular(a, b, weight, threshold=0.95),
        lambda a, b, weight: popular(a, b, weight, threshold=0.99),
        unclamped,
        lambda a, b, weight: unclamped(a, b, weight, by_similarity=True),
        lambda a, b, weight: between(a - a.mean(), b - b.mean(), weight),
        lambda a, b, weight: between(a[:1].expand_as(a), b[:1].expand_as(b), weight),
        lambda a, b, weight: between(a, b, weight).nan_to_num().float(),
        lambda a, b, weight: between(a.transpose(0, 1), b.transpose(0, 1), weight).transpose(0, 1),
        lambda a, b, weight: between(a.flatten(2)[..., None], b.flatten(2)[..., None], weight),
        lambda a, b, weight: between(a, b, weight) + 1e-8,
        lambda a, b, weight: between(a.mul_(2), b, weight),
    ],
}
RIGHT = {
    "01.1": [
        lambda h, w, f, channels, bits: tuple(
            x / (math.ceil(h / f) * math.ceil(w / f))
            for x in (3 * h * w / channels, h * w, 24 * h * w / (channels * bits))
        ),
        lambda h, w, f, channels, bits: list(shrinkage(h, w, f, channels, bits)),
        lambda h, w, f, c, b: torch.tensor(shrinkage(h, w, f, c, b), dtype=torch.float64).unbind(),
    ],
    "01.2": [cut, joined, shuffled, unfolded],
    "01.3": [picked, with_nan, lambda x, y, where: psnr_where(y, x, where.bool())],
    "01.4": [
        by_sums,
        lambda h, w, c, f: f**2 * (11 * c + h * w) / (11 * c + h * w / f**2),
        lambda h, w, c, f: torch.tensor(times_cheaper(h, w, c, f), dtype=torch.float64),
    ],
    "01.5": [by_atan, popular, lambda a, b, how: between(b, a, 1 - how)],
}
VERDICTS = [
    # 0 decibels for a perfect region
    ExpectedVerdict("01.3", WRONG["01.3"][7], says=("expected there",), omits=("float32",)),
    ExpectedVerdict("01.3", WRONG["01.3"][8], "infinity removed", omits=("float32",)),
    ExpectedVerdict(
        "01.3",
        lambda a, b, mask: psnr_where(a, b, mask).clamp(max=10 * math.log10(4e12)),
        "a smallest error",
        omits=("float32",),
    ),
    ExpectedVerdict("01.5", unclamped, "no clamp", omits=("float32",)),
    ExpectedVerdict(
        "01.5",
        lambda a, b, weight: unclamped(a, b, weight, by_similarity=True),
        "no clamp",
        omits=("float32",),
    ),
    ExpectedVerdict(
        "01.5",
        lambda a, b, weight: popular(a, b, weight, threshold=0.9),
        "straight too soon",
        omits=("float32",),
    ),
    ExpectedVerdict(
        "01.5",
        lambda a, b, weight: popular(a, b, weight, threshold=0.99),
        "straight too soon",
        omits=("float32",),
    ),
]
