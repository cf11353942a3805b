"""Notebook 06: wrong answers that the checker was not written for, and right ones in another
style."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from sdlearn.course.exercises.nb06_unet import (
    AdaptiveBlock,
    ResBlock,
    free_u,
    level_parameters,
    up_widths,
)
from sdlearn.unet import UNetConfig, skip_widths
from tests.course.answers.expected_verdict import ExpectedVerdict

# ------------------------------------------------------------------------------------ 06.1 and 06.2


def res(forward):
    return type("ResBlock", (ResBlock,), {"forward": forward})


def res_with(
    first=lambda s, x: s.conv1(F.silu(s.norm1(x))),
    time=lambda s, h, emb: h + s.time_emb_proj(F.silu(emb))[:, :, None, None],
    second=lambda s, h: s.conv2(F.silu(s.norm2(h))),
    out=lambda s, x, h: s.conv_shortcut(x) + h,
):
    return res(lambda s, x, emb: out(s, x, second(s, time(s, first(s, x), emb))))


def res_in_steps(self, x, emb):
    h = self.norm1(x)
    h = self.conv1(h * h.sigmoid())
    bias = self.time_emb_proj(emb * torch.sigmoid(emb))
    h = self.norm2(h + bias.unsqueeze(-1).unsqueeze(-1))
    return self.conv2(nn.functional.silu(h)).add(self.conv_shortcut(x))


def up_widths_from_a_list(widths, layers):
    left, c_in, found = skip_widths(UNetConfig(block_out_channels=(32,) * 4)), widths[-1], []
    left = [widths[0]]
    for i in range(len(widths)):
        left.extend([widths[i]] * layers)
        if i + 1 < len(widths):
            left.append(widths[i])
    for i in range(len(widths) - 1, -1, -1):
        for k in range(layers + 1):
            found.append((c_in if k == 0 else widths[i]) + left.pop(-1))
        c_in = widths[i]
    return found


def up_widths_in_rows(widths, layers):
    above, below = [widths[0], *widths], [*widths[1:], widths[-1]]
    rows = []
    for i, c in enumerate(widths):
        first = [below[i] + c]
        rows.append(first + [2 * c] * (layers - 1) + [c + above[i]])
    return [width for row in rows[::-1] for width in row]


# --------------------------------------------------------------------------------------------- 06.3


def level_with(
    order=lambda skips, n, own: skips[-1 - n],
    join=lambda h, skip: torch.cat([h, skip], 1),
    run=lambda level, n, x, emb, context: level.layer(n, x, emb, context),
    size=lambda h, skips, own: skips[-own - 1].shape[-2:],
    times=1,
):
    def forward(level, h, skips, emb, context):
        own = len(level.resnets)
        for n in range(own):
            h = run(level, n, join(h, order(skips, n, own)), emb, context)
        for upsample in level.upsamplers:
            for _ in range(times):
                h = upsample(h, size(h, skips, own))
        return h

    return forward


def by_hand(level, h, skips, emb, context):
    left = skips[:]
    for n, block in enumerate(level.resnets):
        h = block(torch.concat((h, left.pop(-1)), dim=-3), emb)
        if len(level.attentions):
            h = level.attentions[n](h, context)
    if len(level.upsamplers) == 1:
        h = level.upsamplers[0](h, left[-1].shape[2:])
    return h


def in_the_list(level, h, skips, emb, context):
    for n in range(len(level.resnets)):
        h = level.layer(n, torch.cat([h, skips.pop()], dim=1), emb, context)
    for upsample in level.upsamplers:
        h = upsample(h, skips[-1].shape[-2:])
    return h


# ------------------------------------------------------------------------------------ 06.5 to 06.7


def adaptive(forward):
    return type("AdaptiveBlock", (AdaptiveBlock,), {"forward": forward})


def told(self, emb, cut=lambda x: x.chunk(2, dim=1)):
    return cut(self.time_emb_proj(F.silu(emb))[:, :, None, None])


def adaptive_with(
    first=lambda s, x: s.conv1(F.silu(s.norm1(x))),
    between=lambda s, h, scale, shift: F.silu(s.norm2(h) * (1 + scale) + shift),
    last=lambda s, x, h: s.conv_shortcut(x) + s.conv2(h),
    cut=lambda x: x.chunk(2, dim=1),
):
    def forward(self, x, emb):
        return last(self, x, between(self, first(self, x), *told(self, emb, cut)))

    return adaptive(forward)


def in_place(self, x, emb):
    scale, shift = told(self, emb)
    x -= 0.5 * x
    x *= 2
    h = self.norm2(self.conv1(F.silu(self.norm1(x)))) * (1 + scale) + shift
    x += 1e-30 + 0.5
    return self.conv_shortcut(x - 0.5) + self.conv2(F.silu(h))


def indexed(self, x, emb):
    told = self.time_emb_proj(emb * emb.sigmoid())
    c = told.shape[1] // 2
    h = self.norm2(self.conv1(nn.SiLU()(self.norm1(x))))
    h = h + h * told[:, :c].reshape(len(x), c, 1, 1) + told[:, c:].reshape(len(x), c, 1, 1)
    around = self.conv_shortcut(x)
    return self.conv2(nn.functional.silu(h)) + around


def shifted_free_u(h, skip, b, s):
    factors = torch.ones_like(h[0, :, :1, :1])
    factors[: len(factors) // 2] = b
    h = h * factors
    spectrum = torch.fft.fftshift(torch.fft.fft2(skip), dim=(-2, -1))
    i, j = (side // 2 for side in skip.shape[-2:])
    mask = torch.ones_like(skip)
    mask[..., i - 1 : i + 2, j - 1 : j + 2] = s
    return h, torch.fft.ifft2(torch.fft.ifftshift(spectrum * mask, dim=(-2, -1))).real


def free_u_with_rfft(h, skip, b, s):
    half = h.shape[1] // 2
    spectrum = torch.fft.rfft2(skip)
    mask = torch.ones(spectrum.shape[-2:], dtype=skip.dtype)
    mask[[0, 1, -1], :2] = s
    low = torch.fft.irfft2(spectrum * mask, s=skip.shape[-2:])
    return torch.cat((h[:, :half] * b, h[:, half:]), 1), low


def bottom(unet, z, emb, context):
    skips, h = unet.encode(unet.conv_in(z), emb, context)
    for level in unet.up_blocks[:-1]:
        h = level(h, skips, emb, context)
        skips = skips[: -len(level.resnets)]
    return skips, h


def top(unet, z, emb, context):
    h, level = unet.conv_in(z), unet.down_blocks[0]
    skips = [h]
    for n in range(len(level.resnets)):
        h = level.layer(n, h, emb, context)
        skips.append(h)
    return skips


def cached_with(
    whole=bottom,
    quick=top,
    last=lambda unet, h, skips, emb, context: unet.up_blocks[-1](h, skips, emb, context),
    out=lambda unet, h: unet.conv_out(F.silu(unet.conv_norm_out(h))),
    keep=lambda kept, h, given: kept,
    anew=lambda kept: kept is None,
):
    def forward(unet, z, emb, context, kept):
        given = not anew(kept)
        if given:
            skips = quick(unet, z, emb, context)
        else:
            skips, kept = whole(unet, z, emb, context)
        h = last(unet, kept, skips, emb, context)
        return out(unet, h), keep(kept, h, given)

    return forward


def with_the_downsampled(unet, z, emb, context):
    skips = [unet.conv_in(z)]
    return skips + unet.down_blocks[0](skips[0], emb, context)


def all_encoded(unet, z, emb, context):
    skips, _ = unet.encode(unet.conv_in(z), emb, context)
    return skips[: 1 + len(unet.down_blocks[0].resnets)]


def not_shortened(unet, z, emb, context):
    skips, h = unet.encode(unet.conv_in(z), emb, context)
    for level in unet.up_blocks[:-1]:
        h = level(h, skips, emb, context)
    return skips, h


def all_levels(unet, z, emb, context):
    skips, h = unet.encode(unet.conv_in(z), emb, context)
    for level in unet.up_blocks:
        h = level(h, skips, emb, context)
        skips = skips[: -len(level.resnets)]
    return skips, h


def count(c_below, c, skips, time_dim, top, block, up):
    widths = [h + skip for h, skip in zip([c_below, *[c] * 9], skips, strict=False)]
    return sum(block(c_in, c, time_dim) for c_in in widths) + (0 if top else up(c))


def a_block(c_in, c, d):
    shortcut = (c_in + 1) * c if c_in != c else 0
    return 2 * c_in + 9 * c_in * c + c + (d + 1) * c + 2 * c + 9 * c * c + c + shortcut


def an_up(c):
    return 9 * c * c + c


def by_building(c_below, c, skips, time_dim, top):
    from sdlearn.unet import ResBlock, Upsample

    with torch.device("meta"):
        layers = nn.ModuleList() if top else nn.ModuleList([Upsample(c)])
        for h, skip in zip([c_below] + [c] * len(skips), skips, strict=False):
            layers.append(ResBlock(h + skip, c, time_dim, math.gcd(h + skip, c)))
    return sum(p.numel() for p in layers.parameters())


WRONG = {
    "06.1": [
        res_with(first=lambda s, x: s.norm1(F.silu(s.conv1(x))) if x.shape[1] == 8 else s.conv1(x)),
        res_with(time=lambda s, h, emb: h + s.time_emb_proj(F.gelu(emb))[:, :, None, None]),
        res_with(time=lambda s, h, emb: h - s.time_emb_proj(F.silu(emb))[:, :, None, None]),
        res_with(time=lambda s, h, emb: h + F.silu(s.time_emb_proj(emb))[:, :, None, None]),
        res_with(time=lambda s, h, emb: h + s.time_emb_proj(F.silu(emb)).mean()),
        res_with(time=lambda s, h, emb: h + s.time_emb_proj(F.silu(emb))[:1, :, None, None]),
        res_with(second=lambda s, h: F.silu(s.conv2(F.silu(s.norm2(h))))),
        res_with(second=lambda s, h: s.conv2(F.gelu(s.norm2(h)))),
        res_with(second=lambda s, h: s.conv2(F.silu(s.norm2(h))).detach()),
        res_with(out=lambda s, x, h: (s.conv_shortcut(x) + h) / 2**0.5),
        res_with(out=lambda s, x, h: s.conv_shortcut(F.silu(s.norm1(x))) + h),
        res_with(out=lambda s, x, h: x + h),
        res_with(out=lambda s, x, h: s.norm2(s.conv_shortcut(x) + h)),
        res_with(out=lambda s, x, h: torch.cat([s.conv_shortcut(x), h], 1)),
    ],
    "06.2": [
        lambda widths, layers: up_widths(widths, 2),
        lambda widths, layers: sorted(up_widths(widths, layers), reverse=True),
        lambda widths, layers: up_widths(widths, layers)[:-1],
        lambda widths, layers: [2 * c for c in reversed(widths) for _ in range(layers + 1)],
        lambda widths, layers: up_widths((*widths, widths[-1]), layers),
        lambda widths, layers: [float(x) + 0.5 for x in up_widths(widths, layers)],
        lambda widths, layers: up_widths(widths, layers)[: len(widths)],
        lambda widths, layers: sum(up_widths(widths, layers)),
        lambda widths, layers: up_widths(widths[:4], layers),
        lambda widths, layers: up_widths(tuple(sorted(widths)), layers),
        lambda widths, layers: [2560, 2560, 2560, 2560, 2560, 1920, 1920, 1280, 960, 960, 640, 640],
    ],
    "06.3": [
        level_with(order=lambda skips, n, own: skips[n]),
        level_with(order=lambda skips, n, own: torch.zeros_like(skips[-1 - n])),
        level_with(order=lambda skips, n, own: skips[-1 - n].flip(0)),
        level_with(join=lambda h, skip: h + skip),
        level_with(join=lambda h, skip: torch.cat([h, skip], 0)),
        level_with(join=lambda h, skip: torch.cat([h, h], 1)),
        level_with(run=lambda level, n, x, emb, context: level.layer(0, x, emb, context)),
        level_with(run=lambda level, n, x, emb, context: level.layer(n, x, 0 * emb, context)),
        level_with(run=lambda level, n, x, emb, context: level.layer(n, x, emb, context.flip(0))),
        level_with(size=lambda h, skips, own: skips[-1].shape[-2:]),
        level_with(size=lambda h, skips, own: skips[-own - 1].shape[-1:-3:-1]),
        level_with(times=2),
        in_the_list,
    ],
    "06.4": [
        lambda a, c, skips, d, top: count(a, c, skips, d, top, a_block, lambda c: 9 * c * c),
        lambda a, c, skips, d, top: count(
            a, c, skips, d, top, lambda i, o, d: a_block(i, o, d) + i, an_up
        ),
        lambda a, c, skips, d, top: count(
            a, c, skips, d, top, lambda i, o, d: a_block(i, o, d) - o, an_up
        ),
        lambda a, c, skips, d, top: count(a, c, skips, 1280, top, a_block, an_up),
        lambda a, c, skips, d, top: count(a, c, skips[:2], d, top, a_block, an_up),
        lambda a, c, skips, d, top: count(a, c, skips[::-1], d, top, a_block, an_up),
        lambda a, c, skips, d, top: count(a, c, skips, d, not top, a_block, an_up),
        lambda a, c, skips, d, top: count(
            a, c, skips, d, top, lambda i, o, d: a_block(i, o, d) - 8 * i * o, an_up
        ),
        lambda a, c, skips, d, top: count(
            a, c, skips, d, top, lambda i, o, d: 2 * a_block(i, o, d), an_up
        ),
        lambda a, c, skips, d, top: level_parameters(a, c, skips, d, top) * (1 + 1e-8),
        lambda a, c, skips, d, top: level_parameters(a, c, skips, d, top) + len(skips),
        lambda a, c, skips, d, top: 162_279_680,
        lambda a, c, skips, d, top: count(
            a, c, skips, d, top, lambda i, o, d: a_block(max(i, o), o, d), lambda c: 16 * c * c + c
        ),
    ],
    "06.5": [
        adaptive_with(cut=lambda x: (x[:, ::2], x[:, 1::2])),
        adaptive_with(cut=lambda x: (x.chunk(2, 1)[0], 0)),
        adaptive_with(cut=lambda x: (0, x.chunk(2, 1)[1])),
        adaptive_with(between=lambda s, h, scale, shift: F.silu(s.norm2(h) * (1 + scale)) + shift),
        adaptive_with(
            between=lambda s, h, scale, shift: F.silu((s.norm2(h) + shift) * (1 + scale))
        ),
        adaptive_with(between=lambda s, h, scale, shift: s.norm2(h) * (1 + scale) + shift),
        adaptive_with(between=lambda s, h, scale, shift: F.relu(s.norm2(h) * (1 + scale) + shift)),
        adaptive_with(between=lambda s, h, scale, shift: F.silu(s.norm2(h) * scale.exp() + shift)),
        adaptive_with(between=lambda s, h, scale, shift: F.silu(h * (1 + scale) + shift)),
        adaptive_with(first=lambda s, x: s.conv1(s.norm1(x))),
        adaptive_with(first=lambda s, x: s.conv1(F.silu(x))),
        adaptive_with(last=lambda s, x, h: x + s.conv2(h) if x.shape == h.shape else s.conv2(h)),
        adaptive_with(last=lambda s, x, h: (s.conv_shortcut(x) + s.conv2(h)) / 2**0.5),
        adaptive_with(last=lambda s, x, h: s.conv_shortcut(x) + h),
        adaptive_with(last=lambda s, x, h: s.conv_shortcut(x) + s.conv2(h).detach()),
        adaptive(in_place),
    ],
    "06.6": [
        lambda h, skip, b, s: (b * h, skip),
        lambda h, skip, b, s: (free_u(h, skip, b, s)[0], skip),
        lambda h, skip, b, s: (h, free_u(h, skip, b, s)[1]),
        lambda h, skip, b, s: free_u(h, skip, b, s)[::-1],
        lambda h, skip, b, s: torch.cat(free_u(h, skip, b, s), 1),
        lambda h, skip, b, s: free_u(h, skip, b, s**2),
        lambda h, skip, b, s: free_u(h, skip, 1 + b, s),
        lambda h, skip, b, s: (free_u(h, skip, b, s)[0], s * skip),
        lambda h, skip, b, s: free_u(h, skip.transpose(2, 3), b, s),
        lambda h, skip, b, s: free_u(h.detach(), skip, b, s),
        lambda h, skip, b, s: (free_u(h, skip, b, s)[0], free_u(h, skip, b, s)[1].float()),
        lambda h, skip, b, s: (free_u(h, skip, b, s)[0], free_u(h, skip, b, s)[1] + skip),
        lambda h, skip, b, s: (torch.cat([b * h[:, ::2], h[:, 1::2]], 1), free_u(h, skip, b, s)[1]),
    ],
    "06.7": [
        cached_with(quick=with_the_downsampled),
        cached_with(quick=lambda *told: top(*told)[1:]),
        cached_with(quick=lambda *told: top(*told)[:1]),
        cached_with(quick=all_encoded),
        cached_with(quick=lambda unet, z, *told: top(unet, 0 * z, *told)),
        cached_with(quick=lambda unet, z, emb, context: top(unet, z, 0 * emb, context)),
        cached_with(whole=not_shortened),
        cached_with(whole=all_levels),
        cached_with(anew=lambda kept: True),
        cached_with(anew=lambda kept: not kept),
        cached_with(keep=lambda kept, h, given: h),
        cached_with(keep=lambda kept, h, given: None if given else kept),
        cached_with(keep=lambda kept, h, given: h if given else kept),
        cached_with(keep=lambda kept, h, given: 0.9 * kept),
        cached_with(out=lambda unet, h: unet.conv_out(h)),
        cached_with(out=lambda unet, h: unet.conv_out(F.relu(unet.conv_norm_out(h)))),
        cached_with(out=lambda unet, h: h),
        lambda *told: cached_with()(*told)[0],
        lambda *told: cached_with()(*told)[::-1],
        lambda *told: cached_with(out=lambda unet, h: unet.conv_out(h).detach())(*told),
    ],
}
RIGHT = {
    "06.1": [res_with(), res(res_in_steps)],
    "06.2": [
        up_widths_from_a_list,
        up_widths_in_rows,
        lambda widths, layers: tuple(up_widths(widths, layers)),
        lambda widths, layers: [torch.tensor(c) for c in up_widths(widths, layers)],
    ],
    "06.3": [level_with(), by_hand],
    "06.4": [
        by_building,
        lambda *told: float(level_parameters(*told)),
        lambda a, c, skips, d, top: count(a, c, skips, d, top, a_block, an_up),
    ],
    "06.5": [adaptive_with(), adaptive(indexed)],
    "06.6": [shifted_free_u, free_u_with_rfft],
    "06.7": [
        cached_with(),
        lambda *told: list(cached_with()(*told)),
    ],
}


def widths_from(skips_of, first=-1, more=lambda h, skip, c: c):
    def answer(widths, layers):
        skips, h, found = skips_of(widths, layers), widths[first], []
        for c in widths[::-1]:
            for _ in range(layers + 1):
                skip = skips.pop()
                found.append(h + skip)
                h = more(h, skip, c)
        return found

    return answer


def stored(widths, layers):
    return skip_widths(
        UNetConfig(
            block_out_channels=widths, layers_per_block=layers, norm_num_groups=1,
            cross_attention=(False,) * len(widths), num_heads=(1,) * len(widths),
            transformer_depth=(1,) * len(widths),
        )
    )  # fmt: skip


def upsampled_in_the_loop(level, h, skips, emb, context):
    left = list(skips)
    for n in range(len(level.resnets)):
        h = level.layer(n, torch.cat([h, left.pop()], 1), emb, context)
        for upsample in level.upsamplers:
            h = upsample(h, left[-1].shape[-2:])
    return h


def level_loop(
    copied=list,
    joined=lambda h, skip: torch.cat([h, skip], 1),
    before=(),
    after=(lambda level, h, left: [u(h, left[-1].shape[-2:]) for u in level.upsamplers],),
    layers=lambda level: range(len(level.resnets)),
    take=lambda left, n: left.pop(),
    run=lambda level, n, x, emb, context: level.layer(n, x, emb, context),
):
    """A level in a loop, with steps before the ResBlocks and after them."""

    def forward(level, h, skips, emb, context):
        left = copied(skips)
        for step in before:
            h = (step(level, h, left) or [h])[-1]
        for n in layers(level):
            h = run(level, n, joined(h, take(left, n)), emb, context)
        for step in after:
            h = (step(level, h, left) or [h])[-1]
        return h

    return forward


def enlarged_each_time(level, h, skips, emb, context):
    left = list(skips)
    for n in range(len(level.resnets)):
        for upsample in level.upsamplers:
            h = upsample(h, left[-1].shape[-2:])
        h = level.layer(n, torch.cat([h, left.pop()], 1), emb, context)
    return h


def projected(s, emb):
    return s.time_emb_proj(F.silu(emb))


JOINS = (
    lambda h, skip: torch.cat([h, skip]),
    lambda h, skip: torch.cat([h, skip], -1),
    lambda h, skip: torch.stack([h, skip], 1),
    lambda h, skip: h + skip,
    lambda h, skip: h,
)
VERDICTS = [
    *(
        ExpectedVerdict("06.1", res_with(time=time), mistake)
        for time, mistake in (
            (lambda s, h, emb: h + projected(s, emb), "no axes for height and width"),
            (lambda s, h, emb: h + projected(s, emb)[..., None], "one axis too few"),
            (lambda s, h, emb: h + projected(s, emb)[None, None], "no axes for height and width"),
            (
                lambda s, h, emb: h + projected(s, emb)[:, None, None],
                "no axes for height and width",
            ),
            (lambda s, h, emb: h + F.silu(emb)[..., None, None], "emb not projected"),
            (lambda s, h, emb: h + emb[..., None, None], "emb as it is"),
        )
    ),
    *(
        ExpectedVerdict("06.1", res_with(**{part: code}), mistake)
        for part, code, mistake in (
            ("out", lambda s, x, h: x + s.conv_shortcut(h), "the shortcut around the wrong map"),
            ("out", lambda s, x, h: h + s.conv_shortcut(h), "the branch twice"),
            ("first", lambda s, x: s.conv1(F.silu(s.norm2(x))), "the second norm twice"),
            ("first", lambda s, x: s.conv2(F.silu(s.norm1(x))), "the second convolution twice"),
            ("second", lambda s, h: s.conv1(F.silu(s.norm2(h))), "the first convolution twice"),
        )
    ),
    ExpectedVerdict(
        "06.1",
        res_with(
            first=lambda s, x: s.conv1(F.silu(s.norm2(x))),
            second=lambda s, h: s.conv2(F.silu(s.norm1(h))),
        ),
        "the norms exchanged",
    ),
    ExpectedVerdict(
        "06.1",
        res(lambda s, x, emb: s.conv_shortcut(x) + s.conv2(F.silu(s.norm2(x)))),
        "the first half lost",
    ),
    ExpectedVerdict(
        "06.1",
        res_with(first=lambda s, x: s.conv1(nn.SiLU(s.norm1(x)))),
        says=("If it is a layer, call it first",),
    ),
    *(
        ExpectedVerdict(
            "06.3", level_loop(joined=joined), says=("h and one skip, concatenated along", "dim=1")
        )
        for joined in JOINS
    ),
    ExpectedVerdict(
        "06.3",
        level_loop(joined=lambda h, skip: torch.cat(h, skip)),
        says=("`torch.cat([a, b], dim=1)`",),
    ),
    ExpectedVerdict(
        "06.3",
        level_loop(run=lambda level, n, x, emb, c: level.layer(level.resnets[n], x, emb, c)),
        says=("takes the *number* of a ResBlock",),
    ),
    ExpectedVerdict(
        "06.3",
        level_loop(run=lambda level, n, x, emb, c: level.layer(n, x, c, emb)),
        says=("n, x, emb, context, in this order",),
    ),
    ExpectedVerdict(
        "06.3",
        level_with(order=lambda skips, n, own: skips[-n]),
        "counted from minus zero",
    ),
    ExpectedVerdict("06.3", level_loop(take=lambda left, n: left.pop(0)), "first in, first out"),
    ExpectedVerdict(
        "06.3", level_with(order=lambda skips, n, own: skips[n - own]), "the level's skips forwards"
    ),
    ExpectedVerdict(
        "06.3", level_with(size=lambda h, skips, own: skips[-own - 1]), "a skip for its size"
    ),
    ExpectedVerdict(
        "06.3",
        level_loop(after=(lambda level, h, left: [u(h) for u in level.upsamplers],)),
        "no size",
    ),
    ExpectedVerdict(
        "06.3",
        level_loop(
            before=(lambda level, h, left: [u(h, left[-1].shape[-2:]) for u in level.upsamplers],),
            after=(),
        ),
        "upsampling before the layers",
    ),
    ExpectedVerdict("06.3", enlarged_each_time, "upsampling before each layer"),
    ExpectedVerdict(
        "06.3",
        level_loop(run=lambda lev, n, x, emb, c: lev.attentions[n](lev.resnets[n](x, emb), c)),
        "a transformer everywhere",
    ),
    ExpectedVerdict(
        "06.3", level_loop(layers=lambda level: range(len(level.resnets) - 1)), "one ResBlock less"
    ),
    ExpectedVerdict(
        "06.5",
        adaptive_with(last=lambda s, x, h: x + s.conv2(h)),
        "no shortcut",
    ),
    ExpectedVerdict(
        "06.5",
        adaptive_with(between=lambda s, h, a, b: F.silu(s.norm1(h) * (1 + a) + b)),
        "the first norm twice",
    ),
    ExpectedVerdict(
        "06.1",
        res_with(time=lambda s, h, emb: h + F.silu(s.time_emb_proj(emb))[:, :, None, None]),
        "SiLU after the projection",
    ),
    ExpectedVerdict("06.1", res_with(out=lambda s, x, h: x + h), "no shortcut"),
    ExpectedVerdict(
        "06.1", res_with(second=lambda s, h: s.conv2(F.silu(s.norm1(h)))), "the first norm twice"
    ),
    ExpectedVerdict("06.2", widths_from(stored, first=0), "from the top"),
    ExpectedVerdict(
        "06.2",
        widths_from(
            lambda widths, layers: [widths[0]] + [c for c in widths for _ in range(layers)]
        ),
        "no downsampling stored",
    ),
    ExpectedVerdict(
        "06.2", widths_from(stored, more=lambda h, skip, c: h + skip), "the map accumulates"
    ),
    ExpectedVerdict("06.3", upsampled_in_the_loop, "upsampling after each layer"),
    ExpectedVerdict(
        "06.3", level_with(size=lambda h, skips, own: skips[-own - 1].shape), "the whole shape"
    ),
    ExpectedVerdict(
        "06.4",
        lambda a, c, skips, d, top: count(a, c, skips, d, not top, a_block, an_up),
        "top the wrong way round",
    ),
    ExpectedVerdict(
        "06.5",
        adaptive_with(between=lambda s, h, scale, shift: F.silu(s.norm2(h) * 1 + scale + shift)),
        "no parentheses",
    ),
    ExpectedVerdict(
        "06.7", cached_with(quick=with_the_downsampled), "the downsampled map among the skips"
    ),
    ExpectedVerdict("06.7", cached_with(whole=not_shortened), "skips already taken"),
    ExpectedVerdict("06.7", cached_with(anew=lambda kept: not kept), "the truth of a tensor"),
    ExpectedVerdict(
        "06.7", cached_with(quick=all_encoded), says=("a block below the top level ran",)
    ),
]
