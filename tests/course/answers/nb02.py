"""Notebook 02: wrong answers that the checker was not written for, and right ones in another
style."""

import torch
import torch.nn.functional as F

from sdlearn.course.exercises.nb02_vae import (
    Downsample,
    ResBlock,
    best_guesses,
    discriminator_loss,
    fit,
    information,
    kl_normal,
    scaling_factor,
)
from sdlearn.course.exercises.nb02_vae import sample_posterior as draw
from sdlearn.vae_losses import kl_divergence


def missing(x, factor):
    return -x.shape[-1] % factor, -x.shape[-2] % factor


def by_index(x, factor):
    h, w = x.shape[-2:]
    right, bottom = missing(x, factor)
    rows = torch.arange(h + bottom).clamp(max=h - 1)
    columns = torch.arange(w + right).clamp(max=w - 1)
    return x[:, :, rows][..., columns]


def by_cat(x, factor):
    right, bottom = missing(x, factor)
    x = torch.cat([x, x[..., -1:].expand(*x.shape[:3], right)], -1)
    return torch.cat([x, x[:, :, -1:].expand(*x.shape[:2], bottom, x.shape[-1])], 2)


def by_ceiling(x, factor):
    h, w = (-(-side // factor) * factor for side in x.shape[-2:])
    return F.pad(x, (0, w - x.shape[-1], 0, h - x.shape[-2]), "replicate")


def with_loops(mean, logvar, mean_p, logvar_p):
    q, p = (
        torch.distributions.Normal(m, torch.exp(v / 2))
        for m, v in ((mean, logvar), (mean_p, logvar_p))
    )
    return torch.stack([one.sum() for one in torch.distributions.kl_divergence(q, p)])


def whitened(mean, logvar, mean_p, logvar_p):
    z, ratio = (mean - mean_p) / torch.exp(0.5 * logvar_p), logvar - logvar_p
    return torch.stack([kl_divergence(a[None], b[None]) for a, b in zip(z, ratio, strict=True)])


def median_in_loops(pages, chances):
    best = torch.empty_like(pages[0])
    flat = best.view(-1)
    for k, values in enumerate(pages.flatten(1).T):
        costs = [(chances * (values - c).abs()).sum() for c in values]
        flat[k] = values[torch.stack(costs).argmin()]
    return torch.einsum("n,nchw->chw", chances, pages), best


def median_from_above(pages, chances):
    """The other end of the sorting: no chance is exactly one half, so it is the same."""
    values, order = pages.sort(dim=0, descending=True)
    k = (chances[order].cumsum(0) >= 0.5).int().argmax(0, keepdim=True)
    return (pages * chances[:, None, None, None]).sum(0), values.gather(0, k).squeeze(0)


def interpolated(pages, chances):
    values, order = pages.sort(dim=0)
    total = chances[order].cumsum(0)
    k = (total >= 0.5).int().argmax(0, keepdim=True)
    here, before = values.gather(0, k), values.gather(0, (k - 1).clamp(min=0))
    return best_guesses(pages, chances)[0], (0.5 * (here + before))[0]


def whole_pages(pages, chances):
    """The page with the least expected error as a whole, not number by number."""
    apart = (pages[:, None] - pages[None]).abs().mean((2, 3, 4))
    return best_guesses(pages, chances)[0], pages[(apart @ chances).argmin()]


def by_recursion(i, levels, width):
    if levels == 0:
        return i, min(i, width - 1)
    return by_recursion(2 * i, levels - 1, width)[0], min(
        2**levels * i + 2 * (2**levels - 1), width - 1
    )


def marked(i, levels, width):
    """Walk down with a set of columns."""
    columns = {i}
    for _ in range(levels):
        columns = {2 * c + k for c in columns for k in range(3)}
    inside = [c for c in columns if c < width]
    return min(inside), max(inside)


def whole_variance(mean, logvar):
    return mean.var(correction=0) + logvar.exp().mean()


def quantile_at(level):
    def answer(pages, chances):
        values, order = pages.sort(dim=0)
        k = (chances[order].cumsum(0) >= level).int().argmax(0, keepdim=True)
        return best_guesses(pages, chances)[0], values.gather(0, k)[0]

    return answer


def measured(mean, logvar, n):
    """From n samples of each posterior."""
    return 1 / draw(mean, logvar, torch.randn(n, *mean.shape, dtype=mean.dtype)).std()


def block(forward):
    return type("ResBlock", (ResBlock,), {"forward": forward})


def halves(self, x):
    h = self.conv1(F.silu(self.norm1(x)))
    return self.conv2(F.silu(self.norm2(h)))


def in_place(self, x):
    h = self.conv1(F.silu(self.norm1(x), inplace=True))
    h = self.conv2(F.silu(self.norm2(h), inplace=True))
    h += self.conv_shortcut(x)
    return h


def with_modules(self, x):
    silu = torch.nn.SiLU()
    first = torch.nn.Sequential(self.norm1, silu, self.conv1)
    return torch.add(self.conv_shortcut(x), self.conv2(silu(self.norm2(first(x)))))


def down(forward):
    return type("Downsample", (Downsample,), {"forward": forward})


def right(self, x):
    return self.conv(F.pad(x, (0, 1, 0, 1)))


def with_cat(self, x):
    x = torch.cat([x, torch.zeros_like(x[..., :1])], -1)
    return self.conv(torch.cat([x, torch.zeros_like(x[:, :, :1])], 2))


def into_zeros(self, x):
    b, c, h, w = x.shape
    padded = x.new_zeros(b, c, h + 1, w + 1)
    padded[..., :h, :w] = x
    return self.conv(padded)


def log_densities(mean, logvar, noise):
    """By PyTorch's own normal distribution, for each sample and each posterior."""
    each = torch.distributions.Normal(mean.flatten(1), torch.exp(logvar.flatten(1) / 2))
    return each.log_prob(draw(mean, logvar, noise).flatten(2)[:, :, None]).sum(-1)


def as_a_classifier(mean, logvar, noise):
    """The cross-entropy of guessing the image from the code, taken from ln b."""
    ln_q = log_densities(mean, logvar, noise)
    right = torch.arange(len(mean)).expand(len(noise), -1)
    b = torch.tensor(float(len(mean)))
    return torch.log(b) - F.cross_entropy(ln_q.flatten(0, 1), right.flatten())


def in_loops(mean, logvar, noise):
    b, total = len(mean), 0
    for sample in draw(mean, logvar, noise):
        for j in range(b):
            ln_q = torch.stack(
                [
                    -0.5 * ((sample[j] - mean[k]) ** 2 / logvar[k].exp() + logvar[k]).sum()
                    for k in range(b)
                ]
            )
            total = total + ln_q[j] - torch.logsumexp(ln_q - torch.log(torch.tensor(b)), 0)
    return total / (b * len(noise))


def without_the_own(mean, logvar, noise):
    """ln q(z) from the posteriors of the other images alone."""
    ln_q = log_densities(mean, logvar, noise)
    own = torch.eye(len(mean), dtype=torch.bool)
    others = ln_q.masked_fill(own, -torch.inf).logsumexp(-1)
    return (ln_q.diagonal(dim1=1, dim2=2) - others).mean() + torch.log(torch.tensor(len(mean) - 1))


def under_the_first(mean, logvar, noise):
    """Every sample's own density taken under the first image's posterior."""
    ln_q = log_densities(mean, logvar, noise)
    return (ln_q[..., 0] - ln_q.logsumexp(-1)).mean() + torch.log(torch.tensor(len(mean)))


WRONG = {
    "02.1": [
        lambda m, v: (0.5 * (m**2 + v - 1 - torch.log(v))).flatten(1).sum(1).mean(),
        lambda m, v: kl_divergence(m, v) + 1e-6,
        lambda m, v: -kl_divergence(m, v),
        lambda m, v: kl_divergence(m, v) / 0.6931471805599453,
        lambda m, v: kl_divergence(m.detach(), v),
        lambda m, v: kl_divergence(m, v)[None],
        lambda m, v: kl_divergence(m[:1], v[:1]),
        lambda m, v: kl_divergence(m, v.clamp(-1, 1)),
        lambda m, v: kl_divergence(m, v) / m[0].numel(),
        lambda m, v: 0.5 * (m**2 + v**2 - 1 - v).flatten(1).sum(1).mean(),
        lambda m, v: 0.5 * (m**2).flatten(1).sum(1).mean(),
        lambda m, v: kl_divergence(m, v).float(),
        lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v).sum(1).mean(),
        lambda m, v: 0.5 * (m**2 + v.exp() - 1 - v).sum((1, 2, 3)).sum(),
        lambda m, v: kl_divergence(v, m),
    ],
    "02.2": [
        lambda m, v, e: draw(m, v, e).detach(),
        lambda m, v, e: draw(m, v, e.flip(0)) if len(e) > 1 else m - torch.exp(v / 2) * e,
        lambda m, v, e: draw(m, v, -e),
        lambda m, v, e: draw(m, v, e)[0],
        lambda m, v, e: draw(m, v, e).transpose(0, 1),
        lambda m, v, e: draw(m, v, e.mean(0, keepdim=True)).expand_as(e),
        lambda m, v, e: draw(m, v, torch.randn_like(e)),
        lambda m, v, e: torch.normal(m.expand_as(e), torch.exp(v / 2).expand_as(e)),
        lambda m, v, e: m + F.softplus(v) * e,
        lambda m, v, e: m + torch.exp(v / 2) + e,
        lambda m, v, e: m + torch.exp(v / 2).detach() * e,
        lambda m, v, e: m + torch.exp(v.clamp(-1, 1) / 2) * e,
        lambda m, v, e: draw(m, v, e.float()).float(),
        lambda m, v, e: draw(m, v, e * (e.shape[0] ** -0.5)),
    ],
    "02.3": [
        interpolated,
        lambda p, c: (whole_pages(p, c)[1], whole_pages(p, c)[1]),
        lambda p, c: (
            best_guesses(p, c)[0],
            p[((p[:, None] - p[None]).square().mean((2, 3, 4)) @ c).argmin()],
        ),
        quantile_at(0.25),
        quantile_at(0.75),
        lambda p, c: best_guesses(p, c.flip(0)),
        lambda p, c: best_guesses(p, c.sort().values),
        lambda p, c: best_guesses(p, c)[::-1],
        lambda p, c: best_guesses(p, c)[0],
        lambda p, c: best_guesses(p, c**2 / (c**2).sum()),
        lambda p, c: (best_guesses(p, c)[0], p.quantile(0.5, dim=0)),
        lambda p, c: (best_guesses(p, c)[0], p[(c.cumsum(0) >= 0.5).int().argmax()]),
        lambda p, c: (best_guesses(p, c)[0], 0.5 * (p.amin(0) + p.amax(0))),
        lambda p, c: (best_guesses(p, c)[0] * len(c), best_guesses(p, c)[1]),
        lambda p, c: tuple(x[None] for x in best_guesses(p, c)),
        lambda p, c: torch.stack(best_guesses(p, c)),
        lambda p, c: (best_guesses(p, c)[0].detach(), best_guesses(p, c)[1].detach()),
        lambda p, c: best_guesses(p[:-1], c[:-1] / c[:-1].sum()),
    ],
    "02.4": [
        lambda r, f: discriminator_loss(r, f.detach()),
        lambda r, f: discriminator_loss(r.detach(), f),
        lambda r, f: discriminator_loss(r, f)[None],
        lambda r, f: discriminator_loss(r, f).float(),
        lambda r, f: discriminator_loss(r, f) + 1e-6,
        lambda r, f: discriminator_loss(r, f) / 2,
        lambda r, f: discriminator_loss(f, r),
        lambda r, f: discriminator_loss(r[:1], f[:1]),
        lambda r, f: discriminator_loss(r.clamp(-1, 1), f.clamp(-1, 1)),
        lambda r, f: discriminator_loss(r.mean((2, 3)), f.mean((2, 3))),
        lambda r, f: discriminator_loss(r.sigmoid(), f.sigmoid()),
        lambda r, f: discriminator_loss(r.tanh(), f.tanh()),
        lambda r, f: 0.5 * (F.relu(1 - r) + F.relu(1 + f.mean())).sum() / len(r),
        lambda r, f: (F.relu(1 - r).mean(), F.relu(1 + f).mean()),
        lambda r, f: 0.5 * (F.leaky_relu(1 - r).mean() + F.leaky_relu(1 + f).mean()),
        lambda r, f: F.relu(1 - r.mean() + f.mean()),
    ],
    "02.5": [
        block(lambda s, x: halves(s, x) + s.conv_shortcut(x).detach()),
        block(lambda s, x: halves(s, x).detach() + s.conv_shortcut(x)),
        block(lambda s, x: (halves(s, x) + s.conv_shortcut(x)) / 2**0.5),
        block(lambda s, x: halves(s, x) - s.conv_shortcut(x)),
        block(lambda s, x: halves(s, s.conv_shortcut(x)) + s.conv_shortcut(x)),
        block(lambda s, x: halves(s, x) + x),
        block(lambda s, x: halves(s, x.flip(-1)) + s.conv_shortcut(x)),
        block(lambda s, x: F.dropout(halves(s, x), 0.1) + s.conv_shortcut(x)),
        block(lambda s, x: (halves(s, x) + s.conv_shortcut(x)).float()),
        block(lambda s, x: halves(s, x) * s.conv_shortcut(x)),
        block(lambda s, x: s.conv_shortcut(x)),
        block(lambda s, x: halves(s, x) + s.conv_shortcut(x) + x.mean()),
        block(lambda s, x: F.silu(s.conv2(s.norm2(F.silu(s.conv1(s.norm1(x))))))),
    ],
    "02.6": [
        down(lambda s, x: right(s, x).detach()),
        down(lambda s, x: right(s, x.detach())),
        down(lambda s, x: right(s, x.flip(-1))),
        down(lambda s, x: right(s, x).float()),
        down(lambda s, x: F.silu(right(s, x))),
        down(lambda s, x: right(s, x) + 1e-4),
        down(lambda s, x: right(s, x.transpose(2, 3)).transpose(2, 3)),
        down(lambda s, x: s.conv(F.pad(x, (0, 1, 0, 1), mode="circular"))),
        down(lambda s, x: F.max_pool2d(x, 2)),
        down(lambda s, x: F.interpolate(x, scale_factor=0.5)),
        down(lambda s, x: F.conv2d(x, s.conv.weight, s.conv.bias, padding=1)[..., ::2, ::2]),
        down(lambda s, x: F.conv2d(F.pad(x, (0, 1, 0, 1)), s.conv.weight, stride=2)),
        down(lambda s, x: s.conv(F.pad(x, (0, 1, 0, 1), value=1e-3))),
    ],
    "02.7": [
        lambda m, v, mp, vp: kl_normal(m, v, mp, vp).sum(),
        lambda m, v, mp, vp: kl_normal(m, v, mp, vp)[:, None],
        lambda m, v, mp, vp: -kl_normal(m, v, mp, vp),
        lambda m, v, mp, vp: kl_normal(m, v, mp, vp) / 0.6931471805599453,
        lambda m, v, mp, vp: kl_normal(m, v, mp, vp).abs() + 1e-6,
        lambda m, v, mp, vp: 0.5 * (kl_normal(m, v, mp, vp) + kl_normal(mp, vp, m, v)),
        lambda m, v, mp, vp: kl_normal(m - mp, v - vp, 0 * mp, 0 * vp),
        lambda m, v, mp, vp: kl_normal(m, v, mp, 0 * vp),
        lambda m, v, mp, vp: kl_normal(m, v, 0 * mp, vp),
        lambda m, v, mp, vp: kl_normal(m, 2 * v, mp, 2 * vp),
        lambda m, v, mp, vp: kl_normal(m.detach(), v, mp, vp),
        lambda m, v, mp, vp: kl_normal(m[:1], v[:1], mp[:1], vp[:1]).expand(len(m)),
        lambda m, v, mp, vp: 0.5 * ((m - mp) ** 2 + (v - vp) ** 2).flatten(1).sum(1),
        lambda m, v, mp, vp: kl_normal(m, v, mp, vp).clamp(max=20.0),
        lambda m, v, mp, vp: kl_normal(m, v / 2, mp, vp / 2),
        lambda m, v, mp, vp: kl_normal(m, v, mp, vp) + 0.5 * vp.flatten(1).sum(1),
        lambda m, v, mp, vp: kl_normal(m, v, mp, vp).mean().expand(len(m)),
    ],
    "02.8": [
        lambda m, v: 1 / (m.std(correction=0) ** 2 + v.mean().exp()).sqrt(),
        lambda m, v: 1 / (m.var(correction=0) + torch.exp(v / 2).mean()).sqrt(),
        lambda m, v: 1 / (m.var(correction=0) - v.exp().mean()).abs().sqrt(),
        lambda m, v: 1 / (m.var(correction=0) + v.exp().mean() / m.numel()).sqrt(),
        lambda m, v: (1 / (m.var((1, 2, 3), correction=0) + v.exp().mean((1, 2, 3))).sqrt()).mean(),
        lambda m, v: 1 / whole_variance(m, v).sqrt() + 1e-8,
        lambda m, v: 1 / (whole_variance(m, v).sqrt() + 1e-5),
        lambda m, v: 1 / whole_variance(m, v).sqrt().detach(),
        lambda m, v: 0.18215,
        lambda m, v: measured(m, v, 1),
        lambda m, v: measured(m, v, 5),
        lambda m, v: measured(m, v, 10_000),
        lambda m, v: 1 / whole_variance(m[:1], v[:1]).sqrt(),
        lambda m, v: 1 / (m + torch.exp(v / 2)).std(correction=0),
        lambda m, v: (1 / whole_variance(m, v).sqrt()).expand(m.shape[1]),
        lambda m, v: float(1 / whole_variance(m, v).sqrt()),
    ],
    "02.9": [
        lambda i, levels, w: (2**levels * i, min(2**levels * i + 2 * 2**levels, w - 1)),
        lambda i, levels, w: (2**levels * i, min(2**levels * i + 3**levels - 1, w - 1)),
        lambda i, levels, w: (2**levels * i, min(2**levels * (i + 1), w - 1)),
        lambda i, levels, w: (2**levels * i, min(2**levels * i + 2 * levels, w - 1)),
        lambda i, levels, w: (2**levels * i, 2**levels * i + 2 * (2**levels - 1) if i else w - 1),
        lambda i, levels, w: (8 * i, min(8 * i + 14, w - 1)),
        lambda i, levels, w: [by_recursion(i, levels, w)],
        lambda i, levels, w: by_recursion(i + 1, levels, w),
        lambda i, levels, w: by_recursion(i, levels, w - 1),
        lambda i, levels, w: (by_recursion(i, levels, w)[0] + 1, by_recursion(i, levels, w)[1]),
        lambda i, levels, w: by_recursion(i, levels, w)[::-1],
        lambda i, levels, w: by_recursion(i, levels + 1, w),
        lambda i, levels, w: by_recursion(i, levels, w + 1),
        lambda i, levels, w: range(*by_recursion(i, levels, w)),
        lambda i, levels, w: tuple(max(c - 1, 0) for c in by_recursion(i, levels, w)),
    ],
    "02.10": [
        lambda x, f: F.pad(x, (0, -x.shape[-1] % f, 0, -x.shape[-2] % f), mode="circular"),
        lambda x, f: F.pad(x, (0, -x.shape[-1] % f, 0, 0), mode="replicate"),
        lambda x, f: F.pad(x, (0, 0, 0, -x.shape[-2] % f), mode="replicate"),
        lambda x, f: F.pad(x, (0, -x.shape[-1] % f, -x.shape[-2] % f, 0), mode="replicate"),
        lambda x, f: fit(x, 8),
        lambda x, f: fit(x, 2 * f),
        lambda x, f: fit(x, f).detach(),
        lambda x, f: fit(x.transpose(2, 3), f),
        lambda x, f: fit(fit(x, f), f + 1),
        lambda x, f: F.pad(x, (0, *missing(x, f)[:1], 0, missing(x, f)[1]), value=-1.0),
        lambda x, f: fit(x, f)[..., : x.shape[-2], : x.shape[-1]],
        lambda x, f: by_cat(x, f).float(),
        lambda x, f: torch.cat([by_cat(x, f)[..., :1], by_cat(x, f)[..., :-1]], -1),
        lambda x, f: fit(x, f) if x.shape[-1] % f and x.shape[-2] % f else x,
        lambda x, f: F.interpolate(x, by_cat(x, f).shape[-2:], mode="bilinear"),
        lambda x, f: F.interpolate(x, (x.shape[-2] + f, x.shape[-1] + f)),
    ],
    "02.11": [
        without_the_own,
        under_the_first,
        lambda m, v, e: information(m, v, e) + 1e-4,
        lambda m, v, e: -information(m, v, e),
        lambda m, v, e: information(m, v, e)[None],
        lambda m, v, e: information(m, v, e[:1]),
        lambda m, v, e: information(m, v, torch.randn_like(e)),
        lambda m, v, e: information(m, v, e).detach(),
        lambda m, v, e: information(m, 0 * v, e),
        lambda m, v, e: kl_divergence(m, v) - information(m, v, e),
        lambda m, v, e: log_densities(m, v, e).softmax(-1).diagonal(dim1=1, dim2=2).mean(),
        lambda m, v, e: log_densities(m, v, e).log_softmax(-1).diagonal(dim1=1, dim2=2).mean(),
        lambda m, v, e: log_densities(m, v, e).log_softmax(-1).mean(),
    ],
}
RIGHT = {
    "02.1": [
        kl_divergence,
        lambda m, v: (m.square() + v.exp() - 1 - v).sum() / (2 * len(m)),
        lambda m, v: (
            torch.distributions.kl_divergence(
                torch.distributions.Normal(m, torch.exp(v / 2)),
                torch.distributions.Normal(torch.zeros_like(m), torch.ones_like(m)),
            ).sum()
            / len(m)
        ),
    ],
    "02.2": [
        lambda mean, logvar, noise: mean[None] + logvar.exp().sqrt()[None] * noise,
        lambda m, v, e: torch.stack([m + torch.exp(v / 2) * one for one in e]),
        lambda m, v, e: torch.addcmul(m, torch.exp(v / 2), e),
    ],
    "02.3": [median_in_loops, median_from_above, lambda p, c: list(best_guesses(p, c))],
    "02.4": [
        lambda r, f: 0.5 * ((1 - r).clamp(min=0).mean() + (1 + f).clamp(min=0).mean()),
        lambda r, f: F.relu(1 - r).mean() / 2 + F.relu(1 + f).mean() / 2,
        lambda r, f: -0.5 * ((r - 1).clamp(max=0).mean() + (-f - 1).clamp(max=0).mean()),
    ],
    "02.5": [
        block(lambda s, x: halves(s, x) + s.conv_shortcut(x)),
        block(in_place),
        block(with_modules),
    ],
    "02.6": [
        down(with_cat),
        down(into_zeros),
        down(lambda s, x: s.conv(torch.nn.ZeroPad2d((0, 1, 0, 1))(x))),
        down(lambda s, x: s.conv(F.pad(x, (1, 1, 1, 1))[..., 1:, 1:])),
    ],
    "02.7": [with_loops, whitened],
    "02.8": [
        lambda mean, logvar: whole_variance(mean, logvar) ** -0.5,
        lambda m, v: (m.square().mean() - m.mean() ** 2 + v.exp().mean()).rsqrt(),
        lambda m, v: scaling_factor(m.flatten(), v.flatten()),
    ],
    "02.9": [by_recursion, marked, lambda i, levels, w: list(marked(i, levels, w))],
    "02.10": [by_index, by_cat, by_ceiling],
    "02.11": [as_a_classifier, in_loops],
}
