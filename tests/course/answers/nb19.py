"""Notebook 19: wrong answers that the checker was not written for, and right ones in another
style."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from sdlearn.course.exercises.nb19_flow import (
    AdaLNZeroMLP,
    JointAttention,
    flow_euler,
    line_points,
    rectified_flow_loss,
    shift_time,
    velocity_of_noise,
)


def loss_by_lerp(velocity, x_0, eps, t):
    weight = t[(...,) + (None,) * (x_0.ndim - 1)]
    return F.mse_loss(velocity(torch.lerp(x_0, eps, weight.expand_as(x_0)), t), eps - x_0)


def loss_by_rows(velocity, x_0, eps, t):
    rows = torch.stack([x + s * (e - x) for x, e, s in zip(x_0, eps, t, strict=True)])
    error = velocity(rows, t) + x_0 - eps
    return (error * error).sum() / error.numel()


def first_time_for_all(velocity, x_0, eps, t):
    return rectified_flow_loss(lambda x, _: velocity(x, t[:1].expand_as(t)), x_0, eps, t)


def by_index(velocity, x, times):
    for k in range(len(times) - 1):
        x = x - (times[k] - times[k + 1]) * velocity(x, times[k])
    return x


def by_estimates(velocity, x, times):
    for t, s in pairwise(times):
        x_0 = x - t * velocity(x, t)
        x = x_0 + s / t * (x - x_0)
    return x


def heun(velocity, x, times):
    for t, s in pairwise(times):
        u = velocity(x, t)
        x = x + (s - t) * (u + velocity(x + (s - t) * u, s)) / 2
    return x


def midpoint(velocity, x, times):
    for t, s in pairwise(times):
        x = x + (s - t) * velocity(x, (s + t) / 2)
    return x


def through_x_0(network, x, t, timestep):
    r = (1 - 2 * t + 2 * t * t) ** 0.5
    eps = network(x / r, timestep)
    return eps - (x - t * eps) / (1 - t)


def with_alpha(network, x, t, timestep):
    r = ((1 - t) ** 2 + t**2) ** 0.5
    alpha, sigma, z = (1 - t) / r, t / r, x / r
    eps = network(z, timestep)
    return eps - (z - sigma * eps) / alpha


def lines_by_lerp(first, last, t_first, t_last, s):
    x = torch.lerp(first, last, s[:, None, None, None].expand_as(first))
    velocity = (first - last) / (t_first - t_last)[:, None, None, None]
    return x, torch.lerp(t_first, t_last, s), velocity


def lines_from_the_time(first, last, t_first, t_last, s):
    t = (1 - s) * t_first + s * t_last
    velocity = (last - first) / (t_last - t_first).reshape(-1, 1, 1, 1)
    return first + (t - t_first).reshape(-1, 1, 1, 1) * velocity, t, velocity


class Split(AdaLNZeroMLP):
    def forward(self, x, emb):
        made = self.linear(nn.functional.silu(emb)).unsqueeze(1)
        shift, scale, gate = made.split(x.shape[-1], dim=-1)
        norm = nn.LayerNorm(x.shape[-1], eps=1e-6, elementwise_affine=False)
        h = norm(x)
        return x + gate * self.ff(h + h * scale + shift)


class ByHand(AdaLNZeroMLP):
    def forward(self, x, emb):
        made = self.linear(emb * emb.sigmoid()).view(len(emb), 3, 1, -1)
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
        h = (x - mean) / (variance + 1e-6).sqrt()
        return torch.addcmul(x, made[:, 2], self.ff(h * (made[:, 1] + 1) + made[:, 0]))


class Twice(AdaLNZeroMLP):
    def forward(self, x, emb):
        return super().forward(super().forward(x, emb), emb)


class OverTokens(AdaLNZeroMLP):
    def forward(self, x, emb):
        return super().forward(x - x.mean(1, keepdim=True), emb)


class LargeEps(AdaLNZeroMLP):
    def forward(self, x, emb):
        shift, scale, gate = self.linear(F.silu(emb))[:, None].chunk(3, dim=-1)
        h = F.layer_norm(x, x.shape[-1:], eps=1e-1) * (1 + scale) + shift
        return x + gate * self.ff(h)


class FirstEmb(AdaLNZeroMLP):
    def forward(self, x, emb):
        return super().forward(x, emb[:1].expand_as(emb))


class TanhGate(AdaLNZeroMLP):
    def forward(self, x, emb):
        shift, scale, gate = self.linear(F.silu(emb))[:, None].chunk(3, dim=-1)
        h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        return x + gate.tanh() * self.ff(h)


class TextFirst(JointAttention):
    def forward(self, x, context):
        q, k, v = (
            self.split(torch.cat([added(context), to(x)], dim=1))
            for to, added in (
                (self.to_q, self.add_q_proj),
                (self.to_k, self.add_k_proj),
                (self.to_v, self.add_v_proj),
            )
        )
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        m = context.shape[1]
        return self.to_out[0](out[:, m:]), self.to_add_out(out[:, :m])


class SoftmaxByHand(JointAttention):
    def forward(self, x, context):
        n, d = x.shape[1], x.shape[2] // self.heads
        q = self.split(torch.cat([self.to_q(x), self.add_q_proj(context)], dim=1))
        k = self.split(torch.cat([self.to_k(x), self.add_k_proj(context)], dim=1))
        v = self.split(torch.cat([self.to_v(x), self.add_v_proj(context)], dim=1))
        weights = (q @ k.transpose(-1, -2) / d**0.5).softmax(-1)
        out = (weights @ v).transpose(1, 2).reshape(len(x), -1, x.shape[2])
        return self.to_out[0](out[:, :n]), self.to_add_out(out[:, n:])


class Causal(JointAttention):
    def forward(self, x, context):
        q, k, v = (
            self.split(torch.cat([to(x), added(context)], dim=1))
            for to, added in (
                (self.to_q, self.add_q_proj),
                (self.to_k, self.add_k_proj),
                (self.to_v, self.add_v_proj),
            )
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        n = x.shape[1]
        return self.to_out[0](out[:, :n]), self.to_add_out(out[:, n:])


class Residual(JointAttention):
    def forward(self, x, context):
        image, text = super().forward(x, context)
        return x + image, context + text


class ImageOnly(JointAttention):
    def forward(self, x, context):
        return super().forward(x, context)[0]


class TextUnchanged(JointAttention):
    def forward(self, x, context):
        return super().forward(x, context)[0], context


class TextBlind(JointAttention):
    def forward(self, x, context):
        return super().forward(x, context)[0], super().forward(0 * x, context)[1]


def shifted_ratio(t, shift):
    return 1 / (1 + (1 - t) / (shift * t))


def shifted_fraction(t, shift):
    return t * shift / ((1 - t) + t * shift)


WRONG = {
    "19.1": [
        first_time_for_all,
        lambda u, x, e, t: rectified_flow_loss(u, x, e, t) / 2,
        lambda u, x, e, t: rectified_flow_loss(u, x, e, t).sqrt(),
        lambda u, x, e, t: rectified_flow_loss(u, x, e, 1 - t),
        lambda u, x, e, t: (loss_by_lerp(u, x, e, t) * (1 + t)).mean(),
        lambda u, x, e, t: rectified_flow_loss(lambda z, s: u(z, 1000 * s), x, e, t),
        lambda u, x, e, t: rectified_flow_loss(u, x, e, t).expand(len(t)),
    ],
    "19.2": [
        heun,
        midpoint,
        lambda u, x, times: flow_euler(u, x, times[:-1]),
        lambda u, x, times: flow_euler(u, x, [*times, 0.0]),
        lambda u, x, times: flow_euler(u, x, [times[0], times[-1]]),
        lambda u, x, times: flow_euler(u, x, times[::-1]),
        lambda u, x, times: flow_euler(u, x.clamp(-1, 1), times),
    ],
    "19.3": [
        lambda f, x, t, k: -velocity_of_noise(f, x, t, k),
        lambda f, x, t, k: velocity_of_noise(f, x, t, k) * (1 - t),
        lambda f, x, t, k: velocity_of_noise(f, x, 1 - t if t else t, k),
        lambda f, x, t, k: velocity_of_noise(lambda z, s: f(z, s) + 1e-3, x, t, k),
        lambda f, x, t, k: velocity_of_noise(lambda z, s: f(z, s[:1].expand_as(s)), x, t, k),
        lambda f, x, t, k: f(x / ((1 - t) ** 2 + t**2) ** 0.5, k),
    ],
    "19.4": [
        lambda a, b, t, s, w: line_points(b, a, s, t, w),
        lambda a, b, t, s, w: line_points(a, b, t, s, w)[::-1],
        lambda a, b, t, s, w: line_points(a, b, t, s, w)[:2],
        lambda a, b, t, s, w: line_points(a, b, t, s, w[:1].expand_as(w) / 2),
        lambda a, b, t, s, w: line_points(a, b, t, s, w.square()),
        lambda a, b, t, s, w: line_points(a, b, t, s, w.round()),
        lambda a, b, t, s, w: line_points(a.mean(1, keepdim=True).expand_as(a), b, t, s, w),
    ],
    "19.5": [Twice, OverTokens, LargeEps, FirstEmb, TanhGate],
    "19.6": [Causal, Residual, ImageOnly, TextUnchanged, TextBlind],
    "19.7": [
        lambda t, m: shift_time(t, m**0.5),
        lambda t, m: shift_time(t, m) * 0.999,
        lambda t, m: 1 - shift_time(t, m),
        lambda t, m: shift_time(1 - t, m),
        lambda t, m: t + (m - 1) * t * (1 - t),
        lambda t, m: m * t / (1 + m * t),
    ],
}
RIGHT = {
    "19.1": [loss_by_lerp, loss_by_rows],
    "19.2": [by_index, by_estimates],
    "19.3": [through_x_0, with_alpha],
    "19.4": [lines_by_lerp, lines_from_the_time],
    "19.5": [Split, ByHand],
    "19.6": [TextFirst, SoftmaxByHand],
    "19.7": [
        shifted_fraction,
        lambda t, m: t / (t + (1 - t) / m),
    ],
}
