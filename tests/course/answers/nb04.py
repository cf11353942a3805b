"""Notebook 04: wrong answers that the checker was not written for, and right ones in another
style."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from sdlearn.course.exercises.nb04_attention import TwoVoices, look_once, read_words, split_heads
from tests.course.answers.expected_verdict import ExpectedVerdict


def scores(q, k):
    return torch.einsum("bd,bmd->bm", q, k) / q.shape[-1] ** 0.5


def see(weights, v):
    return torch.einsum("bm,bme->be", weights, v)


def each_in_a_loop(q, k, v):
    rows = []
    for query, keys, values in zip(q, k, v, strict=True):
        weights = torch.stack([query @ key for key in keys]).div(len(query) ** 0.5).softmax(0)
        rows.append(sum(w * value for w, value in zip(weights, values, strict=True)))
    return torch.stack(rows)


def by_hand(q, k, v):
    weights = (scores(q, k) - scores(q, k).amax(1, keepdim=True)).exp()
    return see(weights / weights.sum(1, keepdim=True), v)


def squeezed(q, k, v):
    weights = (k @ q[:, :, None]).squeeze().div(q.shape[-1] ** 0.5).softmax(-1)
    return (weights[..., None] * v).sum(1)


def word_mask(k, lengths):
    return (torch.arange(k.shape[1]) < lengths[:, None])[:, None]


def word_scores(q, k):
    return q @ k.transpose(1, 2) / q.shape[-1] ** 0.5


def sliced(q, k, v, lengths):
    rows = [
        F.scaled_dot_product_attention(a, b[:n], c[:n])
        for a, b, c, n in zip(q, k, v, lengths, strict=True)
    ]
    return torch.stack(rows)


def renormalised(q, k, v, lengths, floor=0.0):
    kept = word_scores(q, k).masked_fill(~word_mask(k, lengths), float("-inf"))
    weights = (kept - kept.amax(-1, keepdim=True)).exp()
    return weights / (weights.sum(-1, keepdim=True) + floor) @ v


def filled_with(number):
    def answer(q, k, v, lengths):
        return word_scores(q, k).masked_fill(~word_mask(k, lengths), number).softmax(-1) @ v

    return answer


def bill(n, c):
    return 4 * n * c * c + 2 * n * n * c


def block(forward):
    return type("TwoVoices", (TwoVoices,), {"forward": forward})


def after(x, self, text, image, scale, **change):
    """The right block from the second cross-attention on, but for what is changed."""
    asking = self.norm2(x)
    x = x + self.to_text(change.get("text_asks", asking), text)
    x = x + change.get("factor", scale) * self.to_image(change.get("image_asks", asking), image)
    return x + self.ff(change.get("last", self.norm3)(x))


def first(self, x):
    return x + self.attn1(self.norm1(x))


def own_queries(self, x, text, image, scale):
    x = first(self, x)
    return after(x, self, text, image, scale)


def without_grad(self, x, text, image, scale):
    x = first(self, x)
    asking = self.norm2(x)
    with torch.no_grad():
        voice = scale * self.to_image(asking, image)
    x = x + self.to_text(asking, text) + voice
    return x + self.ff(self.norm3(x))


def in_place(self, x, text, image, scale):
    x += self.attn1(self.norm1(x))
    return after(x, self, text, image, scale)


def parallel(self, x, text, image, scale):
    x1 = self.attn1(self.norm1(x))
    asking = self.norm2(x)
    voices = self.to_text(asking, text) + scale * self.to_image(asking, image)
    return x + x1 + voices + self.ff(self.norm3(x))


def no_last_residual(self, x, text, image, scale):
    x = first(self, x)
    asking = self.norm2(x)
    x = x + self.to_text(asking, text) + scale * self.to_image(asking, image)
    return self.ff(self.norm3(x))


def text_last(self, x, text, image, scale):
    x = first(self, x)
    x = x + scale * self.to_image(self.norm2(x), image)
    x = x + self.to_text(self.norm2(x), text)
    return x + self.ff(self.norm3(x))


class OtherLayers(nn.Module):
    def __init__(self, dim, heads, text_dim, image_dim):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)

    def forward(self, x, text, image, scale):
        return self.norm1(x)


WRONG = {
    "04.1": [
        lambda q, k, v: see((scores(q, k) * (q.shape[1] / k.shape[1]) ** 0.5).softmax(1), v),
        lambda q, k, v: see((torch.einsum("bd,bmd->bm", q, k) / 8**0.5).softmax(1), v),
        lambda q, k, v: see((scores(q, k) * q.shape[1] ** 0.5 / 2).softmax(1), v),
        lambda q, k, v: see(scores(q, k).log_softmax(1), v),
        lambda q, k, v: see(F.normalize(scores(q, k).sigmoid(), p=1, dim=1), v),
        lambda q, k, v: see(scores(q, k).clamp(-50, 50).softmax(1), v),
        lambda q, k, v: see(scores(q.float(), k.float()).softmax(1).to(v.dtype), v),
        lambda q, k, v: see(scores(q, k[:1]).softmax(1), v) if len(q) > 1 else look_once(q, k, v),
        lambda q, k, v: look_once(q.div_(2), k, v) * 0 + look_once(q * 2, k, v),
        lambda q, k, v: look_once(q, k, v) + look_once(q, k, v).mean(),
        lambda q, k, v: see(scores(q, k).softmax(1) / (1 + 1e-6), v),
        lambda q, k, v: see(scores(q, k).exp() / (scores(q, k).exp().sum(1, True) + 1e-8), v),
        lambda q, k, v: look_once(k[:, 0], k, v),
        lambda q, k, v: look_once(q, v, v) if k.shape == v.shape else look_once(q, k, v).flip(0),
        lambda q, k, v: v.mean(1),
        lambda q, k, v: scores(q, k).softmax(1).squeeze() @ v,
    ],
    "04.2": [
        lambda x, heads: torch.stack(x.chunk(heads, -1)[::-1], 1),
        lambda x, heads: x.reshape(x.shape[0], heads, -1, x.shape[1]).transpose(2, 3),
        lambda x, heads: split_heads(x, heads).detach().clone(),
        lambda x, heads: x.reshape(2, x.shape[1], heads, -1).transpose(1, 2),
        lambda x, heads: split_heads(x, 3),
        lambda x, heads: split_heads(x, heads)[:, :1].expand(-1, heads, -1, -1),
        lambda x, heads: split_heads(x, heads).float(),
        lambda x, heads: split_heads(x.flip(1), heads),
        lambda x, heads: split_heads(x, heads).squeeze(1),
        lambda x, heads: split_heads(x, heads) / heads**0.5,
        lambda x, heads: x.transpose(1, 2).reshape(x.shape[0], heads, x.shape[1], -1),
        lambda x, heads: list(split_heads(x, heads).unbind(1)),
    ],
    "04.3": [
        lambda q, k, v, lengths: read_words(q, k, v, lengths[:1].expand_as(lengths)),
        lambda q, k, v, lengths: read_words(q, k, v, lengths.min().expand_as(lengths)),
        lambda q, k, v, lengths: read_words(q, k.flip(1), v.flip(1), lengths),
        lambda q, k, v, lengths: filled_with(-30.0)(q, k, v, lengths),
        filled_with(-1e5),
        filled_with(-1e12),
        filled_with(-1e20),
        filled_with(-1e30),
        lambda q, k, v, lengths: filled_with(1e-9)(q, k, v, lengths),
        lambda q, k, v, lengths: filled_with(float("inf"))(q, k, v, lengths),
        lambda q, k, v, lengths: filled_with(float("-inf"))(q, k, v, lengths).nan_to_num() * 1.001,
        lambda q, k, v, lengths: renormalised(q, k, v, lengths, 1e-6),
        lambda q, k, v, lengths: read_words(q, k, v, lengths) * lengths.view(-1, 1, 1),
        lambda q, k, v, lengths: read_words(q, k, v, lengths - 1),
        lambda q, k, v, lengths: read_words(q, k, v, torch.full_like(lengths, 2)),
        lambda q, k, v, lengths: read_words(q, k, v, lengths.flip(0)),
        lambda q, k, v, lengths: read_words(q, k, v, lengths).to(torch.float32),
        lambda q, k, v, lengths: sliced(q, k, v, lengths).transpose(1, 2),
        lambda q, k, v, lengths: read_words(q, k, v.masked_fill_(v > 9, 0), lengths) + 1e-7,
        lambda q, k, v, lengths: (word_scores(q, k) + word_mask(k, lengths)).softmax(-1) @ v,
    ],
    "04.4": [
        lambda h, w, c, heads: bill(h + w, c),
        lambda h, w, c, heads: bill(w, c),
        lambda h, w, c, heads: 4 * h * w * c * c + 2 * h * w * c,
        lambda h, w, c, heads: max(4 * h * w * c * c, 2 * (h * w) ** 2 * c),
        lambda h, w, c, heads: bill(h * h, c),
        lambda h, w, c, heads: bill(h * w, c) // heads,
        lambda h, w, c, heads: bill(h * w, c) + (h * w) ** 2,
        lambda h, w, c, heads: bill(h * w, c) + heads * (h * w) ** 2,
        lambda h, w, c, heads: bill(h * w, c // heads),
        lambda h, w, c, heads: 4 * (h * w * c) ** 2,
        lambda h, w, c, heads: bill(h * w, c) * (1 + 1e-8),
        lambda h, w, c, heads: 4 * h * w * c * c + 2 * (h * w) * 77 * c,
        lambda h, w, c, heads: f"{bill(h * w, c)}",
        lambda h, w, c, heads: 8 * h * w * c * c + 2 * (h * w) ** 2 * c,
    ],
    "04.5": [
        block(no_last_residual),
        block(parallel),
        block(text_last),
        block(without_grad),
        block(in_place),
        block(lambda s, x, t, i, scale: after(first(s, x), s, t, i, scale, last=lambda y: y)),
        block(lambda s, x, t, i, scale: after(first(s, x), s, t, i, scale, last=s.norm2)),
        block(lambda s, x, t, i, scale: after(first(s, x), s, t, i, scale, text_asks=x)),
        block(lambda s, x, t, i, scale: after(first(s, x), s, t, i, scale, image_asks=first(s, x))),
        block(lambda s, x, t, i, scale: after(first(s, x), s, t, i, scale, factor=scale**2)),
        block(lambda s, x, t, i, scale: after(first(s, x), s, t, i, scale, factor=1 + scale)),
        block(lambda s, x, t, i, scale: after(x, s, t, i, scale)),
        block(lambda s, x, t, i, scale: after(x + s.attn1(x), s, t, i, scale)),
        block(lambda s, x, t, i, scale: after(first(s, x) + x, s, t, i, scale)),
        block(lambda s, x, t, i, scale: own_queries(s, x, t, i, scale).detach()),
        block(lambda s, x, t, i, scale: F.dropout(own_queries(s, x, t, i, scale), 0.1)),
        block(lambda s, x, t, i, scale: own_queries(s, x, t, i.mean(1, keepdim=True), scale)),
    ],
}
RIGHT = {
    "04.1": [
        each_in_a_loop,
        by_hand,
        squeezed,
        lambda q, k, v: F.scaled_dot_product_attention(q[:, None], k, v)[:, 0],
        lambda a, b, c: torch.bmm(scores(a, b).softmax(-1)[:, None], c).squeeze(1),
    ],
    "04.2": [
        lambda x, heads: torch.stack(x.chunk(heads, dim=-1), dim=1),
        lambda x, heads: x.unflatten(-1, (heads, -1)).transpose(1, 2).contiguous(),
        lambda x, heads: (
            x.transpose(1, 2).reshape(x.shape[0], heads, -1, x.shape[1]).transpose(2, 3)
        ),
    ],
    "04.3": [
        sliced,
        renormalised,
        filled_with(torch.finfo(torch.float32).min),
        filled_with(-math.inf),
    ],
    "04.4": [
        lambda h, w, c, heads: 2 * h * w * c * (2 * c + h * w),
        lambda h, w, c, heads: float(bill(h * w, c)),
        lambda h, w, c, heads: torch.tensor(bill(h * w, c)),
        lambda h, w, c, heads: 4 * math.prod((h, w, c, c)) + 2 * heads * (h * w) ** 2 * c // heads,
    ],
    "04.5": [
        block(own_queries),
        block(lambda s, x, text, image, how: own_queries(s, x, text, image, how)),
    ],
}


def by_hand_with_one_maximum(q, k, v):
    weights = (scores(q, k) - scores(q, k).max()).exp()
    return see(weights / weights.sum(1, keepdim=True), v)


VERDICTS = [
    ExpectedVerdict(
        "04.5",
        OtherLayers,
        says=("The names of the weights differ: `attn1.to_q.weight`", "more missing"),
    ),
    ExpectedVerdict("04.1", by_hand_with_one_maximum, "one maximum for the whole batch"),
    ExpectedVerdict(
        "04.1",
        lambda q, k, v: see((torch.einsum("bd,bmd->bm", q, k) / math.sqrt(len(q))).softmax(1), v),
        "scale by the batch size",
    ),
    ExpectedVerdict(
        "04.3", lambda q, k, v, lengths: read_words(q, k, v, lengths - 1), "one word too few"
    ),
    ExpectedVerdict(
        "04.3",
        lambda q, k, v, lengths: (
            word_scores(q, k)
            .masked_fill(torch.arange(1, k.shape[1] + 1) >= lengths[:, None, None], -math.inf)
            .softmax(-1)
            @ v
        ),
        "one word too few",
    ),
]
