"""Notebook 14: wrong answers that the checker was not written for, and right ones in another
style."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import nn

from sdlearn.course.exercises.nb14_controlnet import (
    ControlNet,
    HintEncoder,
    conv_gradients,
    drawn_hint,
    guess_mode,
)


def by_autograd(x, weight, delta):
    with torch.enable_grad():
        x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
        bias = torch.zeros_like(weight[:, 0]).requires_grad_()
        y = F.conv2d(x, weight[:, :, None, None], bias)
        return torch.autograd.grad(y, (weight, bias, x), delta)


def by_matrices(x, weight, delta):
    rows, deltas = x.flatten(2), delta.flatten(2)  # (b, c, hw), (b, d, hw)
    to_x = (weight.T @ deltas).reshape(x.shape)
    return (deltas @ rows.transpose(1, 2)).sum(0), deltas.sum(2).sum(0), to_x


def with_a_conv(x, weight, delta):
    to_weight, to_bias, _ = by_matrices(x, weight, delta)
    return to_weight, to_bias, F.conv_transpose2d(delta, weight[:, :, None, None])


class AsSequence(HintEncoder):
    def forward(self, hint):
        for conv in [self.conv_in, *self.blocks]:
            hint = nn.functional.silu(conv(hint))
        return self.conv_out(hint)


class WithSigmoid(HintEncoder):
    def forward(self, hint):
        h = self.conv_in(hint)
        for conv in self.blocks:
            h = conv(h * h.sigmoid())
        return self.conv_out(h * h.sigmoid())


class SiluOnTheHint(HintEncoder):
    def forward(self, hint):
        return super().forward(F.silu(hint))


class Grey(HintEncoder):
    def forward(self, hint):
        return super().forward(hint.mean(dim=1, keepdim=True).expand_as(hint))


class HalfTheBlocks(HintEncoder):
    def forward(self, hint):
        h = F.silu(self.conv_in(hint))
        for conv in self.blocks[1::2]:
            h = F.silu(conv(h))
        return self.conv_out(h)


class Gelu(HintEncoder):
    def forward(self, hint):
        h = F.gelu(self.conv_in(hint))
        for conv in self.blocks:
            h = F.gelu(conv(h))
        return self.conv_out(h)


class Detached(HintEncoder):
    def forward(self, hint):
        return super().forward(hint.detach())


class InALoop(ControlNet):
    def forward(self, z, t, context, hint, scale=1.0):
        h = self.conv_in(z)
        h = h + self.controlnet_cond_embedding(hint)
        skips, mid = self.encode(h, self.embed(z, t, None), context)
        down = []
        for k, skip in enumerate(skips):
            down.append(self.controlnet_down_blocks[k](skip) * scale)
        return down, self.controlnet_mid_block(mid) * scale


class BlockByBlock(ControlNet):
    def forward(self, z, t, context, hint, scale=1.0):
        emb = self.embed(z, t, None)
        maps = [self.controlnet_cond_embedding(hint) + self.conv_in(z)]
        for block in self.down_blocks:
            maps.extend(block(maps[-1], emb, context))
        maps.append(self.mid_block(maps[-1], emb, context))
        convs = [*self.controlnet_down_blocks, self.controlnet_mid_block]
        *down, mid = (torch.mul(conv(x), scale) for conv, x in zip(convs, maps, strict=True))
        return down, mid


class OtherTime(ControlNet):
    def forward(self, z, t, context, hint, scale=1.0):
        return super().forward(z, 999 - t, context, hint, scale)


class SquaredScale(ControlNet):
    def forward(self, z, t, context, hint, scale=1.0):
        return super().forward(z, t, context, hint, scale**2)


class HintAfterwards(ControlNet):
    def forward(self, z, t, context, hint, scale=1.0):
        skips, mid = self.encode(self.conv_in(z), self.embed(z, t, None), context)
        skips[0] = skips[0] + self.controlnet_cond_embedding(hint)
        pairs = zip(self.controlnet_down_blocks, skips, strict=True)
        return [scale * conv(x) for conv, x in pairs], scale * self.controlnet_mid_block(mid)


class HintTwice(ControlNet):
    def forward(self, z, t, context, hint, scale=1.0):
        encoded = self.controlnet_cond_embedding(hint)
        skips, mid = self.encode(self.conv_in(z) + 2 * encoded, self.embed(z, t, None), context)
        pairs = zip(self.controlnet_down_blocks, skips, strict=True)
        return [scale * conv(x) for conv, x in pairs], scale * self.controlnet_mid_block(mid)


class FirstHint(ControlNet):
    def forward(self, z, t, context, hint, scale=1.0):
        return super().forward(z, t, context, hint[:1].expand_as(hint), scale)


def with_masks(residuals, scale):
    made = []
    for exponent, residual in zip(reversed(range(len(residuals))), residuals, strict=True):
        keep = (torch.arange(len(residual)) >= len(residual) // 2).to(residual)
        made.append(residual * keep.view(-1, 1, 1, 1) * scale * 0.825**exponent)
    return made


def by_padding(residuals, scale):
    made, factor = [], scale
    for residual in reversed(residuals):
        half = len(residual) // 2
        made.append(F.pad(factor * residual[half:], (0, 0, 0, 0, 0, 0, half, 0)))
        factor *= 0.825
    return made[::-1]


def in_place(residuals, scale):
    for k, residual in enumerate(reversed(residuals)):
        residual[: len(residual) // 2] = 0
        residual *= scale * 0.825**k
    return residuals


def on_rgb(lines, size):
    image = Image.new("RGB", (4 * size, 4 * size), "black")
    for points in lines:
        scaled = [tuple(4 * size * value for value in point) for point in points]
        ImageDraw.Draw(image).line(scaled, fill="white", width=4)
    pixels = np.asarray(image.reduce(4), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


def repeated(lines, size):
    return drawn_hint(lines, size)[:, :1].repeat(1, 3, 1, 1)


WRONG = {
    "14.1": [
        lambda x, w, d: conv_gradients(x.flip(0), w, d),
        lambda x, w, d: conv_gradients(x, -w, d),
        lambda x, w, d: conv_gradients(x, w, d / d.norm()),
        lambda x, w, d: conv_gradients(x, w, d)[:2],
        lambda x, w, d: (*conv_gradients(x, w, d)[:2], torch.zeros_like(x)),
        lambda x, w, d: (*conv_gradients(x, w, d)[:2], x),
        lambda x, w, d: conv_gradients(x[:1], w, d[:1])[:2] + conv_gradients(x, w, d)[2:],
        lambda x, w, d: conv_gradients(x.transpose(-1, -2), w, d.transpose(-1, -2)),
        lambda x, w, d: (torch.zeros_like(w), *conv_gradients(x, w, d)[1:]),
    ],
    "14.2": [SiluOnTheHint, Grey, HalfTheBlocks, Gelu, Detached],
    "14.3": [OtherTime, SquaredScale, HintAfterwards, HintTwice, FirstHint],
    "14.4": [
        in_place,
        lambda r, s: guess_mode(r, s)[::-1],
        lambda r, s: [*guess_mode(r[:-1], s), s * r[-1]],
        lambda r, s: guess_mode(r, min(s, 1.0)),
        lambda r, s: [x.mean(dim=(2, 3), keepdim=True) for x in guess_mode(r, s)],
        lambda r, s: [0.825 / 0.8 * x for x in guess_mode(r, s)],
        lambda r, s: guess_mode(r, s)[-1],
        lambda r, s: [s * x for x in r],
    ],
    "14.5": [
        lambda lines, size: drawn_hint(lines[::-1], size).flip(-1),
        lambda lines, size: drawn_hint(lines, size)[:, :1],
        lambda lines, size: drawn_hint(lines, size)[0],
        lambda lines, size: (drawn_hint(lines, size) > 0.5).float(),
        lambda lines, size: 1 - drawn_hint(lines, size),
        lambda lines, size: drawn_hint([points[:2] for points in lines], size) * 0.9,
        lambda lines, size: drawn_hint([[p for line in lines for p in line]], size) + 1e-3,
        lambda lines, size: drawn_hint(lines, size).clamp(max=0.8),
    ],
}
RIGHT = {
    "14.1": [by_autograd, by_matrices, with_a_conv],
    "14.2": [AsSequence, WithSigmoid],
    "14.3": [InALoop, BlockByBlock],
    "14.4": [with_masks, by_padding],
    "14.5": [on_rgb, repeated],
}
