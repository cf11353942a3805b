"""Notebook 01: wrong answers that the checker was not written for, and right ones in another
style."""

import math

import torch
import torch.nn.functional as F

from sdlearn.course.exercises.nb01_latents import (
    between,
    patch_codec,
    preview_matrix,
    psnr_where,
    shrinkage,
    times_cheaper,
    unpatchify,
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


def peak_of_the_data(a, b, mask):
    """The range that the images happen to use, in place of that of all images."""
    peak = max(a.max(), b.max()) - min(a.min(), b.min())
    return psnr_where(a, b, mask) + 20 * torch.log10(peak / 2)


def by_floats(a, b, mask):
    """Right, but for the type: a list of floats is made into a tensor."""
    pairs = zip(a, b, mask, strict=True)
    errors = [F.mse_loss(x[:, inside], y[:, inside]).item() for x, y, inside in pairs]
    return torch.tensor([10 * math.log10(4 / e) if e else math.inf for e in errors])


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


def by_convolution(x, mean, basis):
    kernels = basis.view(-1, 3, 8, 8)
    z = F.conv2d(x, kernels, -basis @ mean, stride=8)
    tiled = F.pixel_shuffle(mean.view(1, -1, 1, 1), 8).repeat(1, 1, *z.shape[2:])
    return z, F.conv_transpose2d(z, kernels, stride=8) + tiled


def patch_by_patch(x, mean, basis):
    z = x.new_zeros(len(x), len(basis), x.shape[2] // 8, x.shape[3] // 8)
    back = torch.zeros_like(x)
    for i in range(z.shape[2]):
        for j in range(z.shape[3]):
            rows, columns = slice(8 * i, 8 * i + 8), slice(8 * j, 8 * j + 8)
            found = (x[:, :, rows, columns].flatten(1) - mean) @ basis.T
            z[:, :, i, j] = found
            back[:, :, rows, columns] = (found @ basis + mean).view(-1, 3, 8, 8)
    return z, back


def by_unfold(x, mean, basis):
    size = x.shape[2] // 8, x.shape[3] // 8
    columns = F.unfold(x, 8, stride=8) - mean[:, None]  # (b, d, n)
    z = basis @ columns
    back = F.fold(basis.T @ z + mean[:, None], x.shape[2:], 8, stride=8)
    return z.unflatten(2, size), back


def by_pseudo_inverse(x, mean, basis, least_squares=False):
    """The decoder's matrix as the encoder's inverse, which it is for orthonormal directions."""
    patches = F.pixel_unshuffle(x, 8).permute(0, 2, 3, 1) - mean  # (b, h / 8, w / 8, d)
    rows = patches.reshape(-1, patches.shape[-1])
    if least_squares:
        z = torch.linalg.lstsq(basis.T, rows.T).solution.T
    else:
        z = rows @ torch.linalg.pinv(basis)
    back = z @ basis + mean
    size = patches.shape[:3]
    z, back = (y.reshape(*size, -1).permute(0, 3, 1, 2) for y in (z, back))
    return z, F.pixel_shuffle(back, 8)


def inverse_for_both(x, mean, basis):
    """The pseudo-inverse in the decoder."""
    z, _ = patch_codec(x, mean, basis)
    back = torch.einsum("dk,bkhw->bdhw", torch.linalg.pinv(basis), z) + mean[:, None, None]
    return z, F.pixel_shuffle(back, 8)


def wrong_order_inside(x, mean, basis):
    """Reshaped instead of unshuffled."""
    b, _, h, w = x.shape
    patches = x.reshape(b, 192, h // 8, w // 8) - mean[:, None, None]
    z = torch.einsum("kd,bdhw->bkhw", basis, patches)
    back = torch.einsum("kd,bkhw->bdhw", basis, z) + mean[:, None, None]
    return z, back.reshape(b, 3, h, w)


def by_rows(x, mean, basis):
    """Rows of d values by `reshape`, which hold no patch."""
    patches = F.pixel_unshuffle(x, 8)
    b, d, h, w = patches.shape
    z = (patches.view(-1, d) - mean).mm(basis.T)
    back = torch.addmm(mean, z, basis)
    return z.reshape(b, len(basis), h, w), F.pixel_shuffle(back.view(b, d, h, w), 8)


def colours_innermost(x, mean, basis):
    b, c, h, w = x.shape
    patches = x.reshape(b, c, h // 8, 8, w // 8, 8).permute(0, 2, 4, 3, 5, 1)
    z = (patches.reshape(b, h // 8, w // 8, -1) - mean) @ basis.T
    back = (z @ basis + mean).reshape(b, h // 8, w // 8, 8, 8, c)
    return z.permute(0, 3, 1, 2), back.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


def as_rows(z, x):
    small = x.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).mean(dim=(3, 5))
    return [y.permute(0, 2, 3, 1).reshape(-1, y.shape[1]) for y in (z, small)]


def by_lstsq(z, x):
    return torch.linalg.lstsq(*as_rows(z, x)).solution


def by_every_pixel(z, x):
    wide = F.interpolate(z, scale_factor=8.0)
    a, b = (y.permute(0, 2, 3, 1).flatten(0, 2) for y in (wide, x))
    return torch.linalg.pinv(a) @ b


def centred(z, x):
    a, b = as_rows(z, x)
    return torch.linalg.lstsq(a - a.mean(0), b - b.mean(0)).solution


def with_a_ridge(z, x):
    a, b = as_rows(z, x)
    return torch.linalg.solve(a.T @ a + 1e-3 * torch.eye(a.shape[1]).to(a), a.T @ b)


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
        wrong_order_inside,
        lambda x, mean, basis: patch_codec(x, mean, basis)[0],
        lambda x, mean, basis: patch_codec(x, mean, basis)[1],
        lambda x, mean, basis: patch_codec(x, mean, basis[:1]),
        lambda x, mean, basis: patch_codec(x, mean, basis.flip(0)),
        lambda x, mean, basis: patch_codec(x, mean.mean(), basis),
        lambda x, mean, basis: patch_codec(x, mean.mean().expand(192), basis),
        lambda x, mean, basis: patch_codec(x.transpose(2, 3), mean, basis),
        lambda x, mean, basis: patch_codec(x.clamp(-1, 1), mean, basis),
        lambda x, mean, basis: (patch_codec(x, mean, basis)[0], x),
        lambda x, mean, basis: (patch_codec(x, mean, basis)[0].flatten(2), x),
        lambda x, mean, basis: patch_codec(x, mean, basis / basis.norm()),
        lambda x, mean, basis: patch_codec(x[:1], mean, basis),
        lambda x, mean, basis: patch_codec(x.sub_(mean.mean()), mean, basis),
    ],
    "01.3": [
        centred,
        with_a_ridge,
        lambda z, x: preview_matrix(z, x)[:, :2],
        lambda z, x: preview_matrix(z, x).flip(1),
        lambda z, x: preview_matrix(z, x.flip(3)),
        lambda z, x: preview_matrix(z, x.clamp(0)),
        lambda z, x: preview_matrix(z, x.transpose(2, 3)),
        lambda z, x: preview_matrix(z - z.mean(), x),
        lambda z, x: preview_matrix(z / z.std(), x),
        lambda z, x: preview_matrix(z[:, :4], x),
        lambda z, x: preview_matrix(z, F.interpolate(F.max_pool2d(x, 8), scale_factor=8.0)),
        lambda z, x: preview_matrix(z, x.roll(1, 0)),
        lambda z, x: preview_matrix(z, x.mean(1, keepdim=True).expand_as(x)),
        lambda z, x: preview_matrix(z, 2 * x - 1),
    ],
    "01.4": [
        lambda x, high, p: unpatchify(x, x.shape[1] // high, p),
        lambda x, high, p: unpatchify(x, high, p).transpose(2, 3),
        lambda x, high, p: unpatchify(x, high, p).flip(2),
        lambda x, high, p: unpatchify(x.flip(1), high, p),
        lambda x, high, p: unpatchify(x, high, p).flip(1),
        lambda x, high, p: F.fold(
            x.transpose(1, 2), (high * p, x.shape[1] // high * p), p, stride=p
        ),
        lambda x, high, p: F.pixel_shuffle(
            x.transpose(1, 2).reshape(len(x), -1, high, x.shape[1] // high), p
        ),
        lambda x, high, p: unpatchify(x, high, p).float(),
        lambda x, high, p: unpatchify(x, high, p).detach(),
        lambda x, high, p: unpatchify(x[:1], high, p),
        lambda x, high, p: unpatchify(x, high, 2 if x.shape[2] % 4 == 0 else p),
        lambda x, high, p: x.reshape(len(x), high * p, -1, x.shape[2] // p**2).permute(0, 3, 1, 2),
        lambda x, high, p: list(unpatchify(x, high, p)),
    ],
    "01.5": [
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
        peak_of_the_data,
        lambda a, b, mask: psnr_where(a, b, mask)[:, None],
        lambda a, b, mask: psnr_where(a, b, mask).tolist(),
        lambda a, b, mask: psnr_where(a.mean(1, True), b.mean(1, True), mask),
        lambda a, b, mask: psnr_where(a.float(), b.float(), mask).double(),
    ],
    "01.6": [
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
    "01.7": [
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
    "01.2": [
        by_convolution,
        patch_by_patch,
        by_unfold,
        by_pseudo_inverse,
        lambda x, mean, basis: by_pseudo_inverse(x, mean, basis, least_squares=True),
        inverse_for_both,
    ],
    "01.3": [by_lstsq, by_every_pixel],
    "01.4": [cut, joined, shuffled, unfolded],
    "01.5": [picked, with_nan, lambda x, y, where: psnr_where(y, x, where.bool())],
    "01.6": [
        by_sums,
        lambda h, w, c, f: f**2 * (11 * c + h * w) / (11 * c + h * w / f**2),
        lambda h, w, c, f: torch.tensor(times_cheaper(h, w, c, f), dtype=torch.float64),
    ],
    "01.7": [by_atan, popular, lambda a, b, how: between(b, a, 1 - how)],
}
VERDICTS = [
    ExpectedVerdict(
        "01.1",
        lambda h, w, f, channels, bits: tuple(int(x) for x in shrinkage(h, w, f, channels, bits)),
        "rounded down at the end",
    ),
    ExpectedVerdict("01.1", once_more, "always one more"),
    ExpectedVerdict(
        "01.1",
        lambda h, w, f, channels, bits: (
            3 * h * w - channels * math.ceil(h / f) * math.ceil(w / f),
            h * w - math.ceil(h / f) * math.ceil(w / f),
            24 * h * w - bits * channels * math.ceil(h / f) * math.ceil(w / f),
        ),
        "the difference",
    ),
    ExpectedVerdict(
        "01.1",
        lambda h, w, f, channels, bits: (
            *shrinkage(h, w, f, channels, bits)[:2],
            shrinkage(h, w, f, 3, bits)[2],
        ),
        "bits of one channel",
    ),
    ExpectedVerdict("01.2", by_rows, "reshaped without moving the channels"),
    ExpectedVerdict("01.2", colours_innermost, "channels innermost"),
    ExpectedVerdict(
        "01.3",
        lambda z, x: (
            torch.linalg.lstsq(*(y.flatten(2).mT for y in (z, F.avg_pool2d(x, 8)))).solution
        ),
        "a matrix for each image",
    ),
    ExpectedVerdict("01.5", peak_of_the_data, "range of these images"),
    ExpectedVerdict("01.5", by_floats, "a list made into a tensor"),
    ExpectedVerdict(
        "01.6",
        lambda h, w, c, f: f**2 * (10 * c + 2 * h * w) / (10 * c + 2 * h * w / f**2),
        "three for three by three",
    ),
    # 0 decibels for a perfect region
    ExpectedVerdict("01.5", WRONG["01.5"][7], says=("expected there",), omits=("float32",)),
    ExpectedVerdict("01.5", WRONG["01.5"][8], "infinity removed", omits=("float32",)),
    ExpectedVerdict(
        "01.5",
        lambda a, b, mask: psnr_where(a, b, mask).clamp(max=10 * math.log10(4e12)),
        "a smallest error",
        omits=("float32",),
    ),
    ExpectedVerdict("01.7", unclamped, "no clamp", omits=("float32",)),
    ExpectedVerdict(
        "01.7",
        lambda a, b, weight: unclamped(a, b, weight, by_similarity=True),
        "no clamp",
        omits=("float32",),
    ),
    ExpectedVerdict(
        "01.7",
        lambda a, b, weight: popular(a, b, weight, threshold=0.9),
        "straight too soon",
        omits=("float32",),
    ),
    ExpectedVerdict(
        "01.7",
        lambda a, b, weight: popular(a, b, weight, threshold=0.99),
        "straight too soon",
        omits=("float32",),
    ),
]
