"""Notebook 04: wrong answers that the checker was not written for, and right ones in another
style."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from sdlearn.course.exercises.nb04_attention import (
    Attention,
    SpatialTransformer,
    TransformerBlock,
    attend_once,
    attend_to_words,
    attention_weights,
    inject,
    split_heads,
    streaming_attention,
)
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


class OtherLayers(nn.Module):
    def __init__(self, dim, heads, context_dim):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)

    def forward(self, x, context):
        return self.norm1(x)


def spatial(forward):
    return type("SpatialTransformer", (SpatialTransformer,), {"forward": forward})


def to_tokens(x):
    return x.flatten(2).transpose(1, 2)


def to_map(tokens, like):
    return tokens.transpose(1, 2).reshape(like.shape)


def through_the_blocks(self, tokens, context):
    for block in self.transformer_blocks:
        tokens = block(tokens, context)
    return tokens


def there_and_back(self, x, context):
    tokens = through_the_blocks(self, self.proj_in(to_tokens(self.norm(x))), context)
    return x + to_map(self.proj_out(tokens), x)


def by_permute(self, x, context):
    b, c, h, w = x.shape
    tokens = self.proj_in(self.norm(x).permute(0, 2, 3, 1).reshape(b, h * w, c))
    tokens = self.proj_out(through_the_blocks(self, tokens, context))
    return tokens.reshape(b, h, w, c).permute(0, 3, 1, 2) + x


def column_by_column(self, x, context):
    tokens = through_the_blocks(self, self.proj_in(to_tokens(self.norm(x).mT)), context)
    return x + to_map(self.proj_out(tokens), x.mT).mT


def map_replaced(self, x, context):
    b, c, h, w = x.shape
    x = self.norm(x)
    x = self.proj_in(x.flatten(2).transpose(1, 2))
    x = through_the_blocks(self, x, context)
    return self.proj_out(x).transpose(1, 2).reshape(b, c, h, w)


def named_the_same(self, x, context):
    skip, x = x, self.norm(x)
    x = through_the_blocks(self, self.proj_in(x.flatten(2).mT), context)
    return skip + self.proj_out(x).mT.unflatten(2, skip.shape[2:])


def width_first(self, x, context):
    b, c, h, w = x.shape
    tokens = through_the_blocks(self, self.proj_in(to_tokens(self.norm(x))), context)
    return x + self.proj_out(tokens).mT.reshape(b, c, w, h).mT


def scrambled(self, x, context):
    b, c, h, w = x.shape
    tokens = self.proj_in(self.norm(x).view(b, h * w, c))
    return x + self.proj_out(through_the_blocks(self, tokens, context)).view(b, c, h, w)


def channels_last(self, x, context):
    b, c, h, w = x.shape
    tokens = through_the_blocks(self, self.proj_in(to_tokens(self.norm(x))), context)
    return self.proj_out(tokens).reshape(b, h, w, c)


def norm_second(self, x, context):
    tokens = to_tokens(self.norm(to_map(self.proj_in(to_tokens(x)), x)))
    return x + to_map(self.proj_out(through_the_blocks(self, tokens, context)), x)


def norm_of_tokens(self, x, context):
    return there_and_back(self, x, context) + 0 * self.norm(to_tokens(x))


def heads_of(self, x, context):
    context = x if context is None else context
    projected = self.to_q(x), self.to_k(context), self.to_v(context)
    return [split_heads(each, self.heads) for each in projected]


def layer(forward):
    def with_default(self, x, context=None):
        return forward(self, x, context)

    return type("Attention", (Attention,), {"forward": with_default})


def merged(self, out):
    return self.to_out[0](out.transpose(1, 2).flatten(2))


def attended(self, x, context, weights):
    q, k, v = heads_of(self, x, context)
    return merged(self, weights(q, k) @ v)


def as_loop(self, x, context):
    q, k, v = heads_of(self, x, context)
    outs = [attention_weights(q[:, h], k[:, h]) @ v[:, h] for h in range(self.heads)]
    return self.to_out[0](torch.cat(outs, dim=-1))


def fused(self, x, context):
    return merged(self, F.scaled_dot_product_attention(*heads_of(self, x, context)))


def injected_in_place(edited, source, alignment):
    shared = alignment >= 0
    edited[..., shared] = source[..., alignment[shared]]
    return edited


def injected_by_index(edited, source, alignment):
    out, shared = edited.clone(), alignment >= 0
    out[..., shared] = source[..., alignment[shared]]
    return out


def injected_in_a_loop(edited, source, alignment):
    columns = [
        edited[..., j] if i < 0 else source[..., i] for j, i in enumerate(alignment.tolist())
    ]
    return torch.stack(columns, dim=-1)


def backwards(edited, source, alignment):
    out, shared = edited.clone(), alignment >= 0
    out[..., alignment[shared]] = source[..., shared]
    return out


def by_logsumexp(q, k, v, block):
    total, out = None, None
    for keys, values in zip(k.split(block, 1), v.split(block, 1), strict=True):
        s = q @ keys.transpose(1, 2) / q.shape[-1] ** 0.5
        here, mean = s.logsumexp(-1, keepdim=True), s.softmax(-1) @ values
        if total is None:
            total, out = here, mean
        else:
            both = torch.logaddexp(total, here)
            out, total = out * (total - both).exp() + mean * (here - both).exp(), both
    return out


def streamed(change):
    """Streaming attention with a change of its running results after every block."""

    def answer(q, k, v, block):
        largest = q.new_full((*q.shape[:2], 1), float("-inf"))
        total, out = torch.zeros_like(largest), 0.0
        for start in range(0, k.shape[1], block):
            s = q @ k[:, start : start + block].transpose(1, 2) / q.shape[-1] ** 0.5
            higher = torch.maximum(largest, s.amax(-1, keepdim=True))
            w, shrink = (s - higher).exp(), (largest - higher).exp()
            total = total * shrink + w.sum(-1, keepdim=True)
            out = out * shrink + w @ v[:, start : start + block]
            largest, total, out = change(higher, total, out)
        return out / total

    return answer


def transformer(forward):
    return type("TransformerBlock", (TransformerBlock,), {"forward": forward})


def in_three_lines(self, x, context):
    x = x + self.attn1(self.norm1(x))
    x = x + self.attn2(self.norm2(x), context)
    return x + self.ff(self.norm3(x))


def with_names(self, x, text):
    attended = self.attn1(self.norm1(x)) + x
    read = self.attn2(self.norm2(attended), text) + attended
    return torch.add(read, self.ff(self.norm3(read)))


WRONG = {
    "04.1": [
        lambda q, k, v: see((scores(q, k) * (q.shape[1] / k.shape[1]) ** 0.5).softmax(1), v),
        lambda q, k, v: see((torch.einsum("bd,bmd->bm", q, k) / 8**0.5).softmax(1), v),
        lambda q, k, v: see((scores(q, k) * q.shape[1] ** 0.5 / 2).softmax(1), v),
        lambda q, k, v: see(scores(q, k).log_softmax(1), v),
        lambda q, k, v: see(F.normalize(scores(q, k).sigmoid(), p=1, dim=1), v),
        lambda q, k, v: see(scores(q, k).clamp(-50, 50).softmax(1), v),
        lambda q, k, v: see(scores(q.float(), k.float()).softmax(1).to(v.dtype), v),
        lambda q, k, v: see(scores(q, k[:1]).softmax(1), v) if len(q) > 1 else attend_once(q, k, v),
        lambda q, k, v: attend_once(q.div_(2), k, v) * 0 + attend_once(q * 2, k, v),
        lambda q, k, v: attend_once(q, k, v) + attend_once(q, k, v).mean(),
        lambda q, k, v: see(scores(q, k).softmax(1) / (1 + 1e-6), v),
        lambda q, k, v: see(scores(q, k).exp() / (scores(q, k).exp().sum(1, True) + 1e-8), v),
        lambda q, k, v: attend_once(k[:, 0], k, v),
        lambda q, k, v: (
            attend_once(q, v, v) if k.shape == v.shape else attend_once(q, k, v).flip(0)
        ),
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
        layer(lambda s, x, c: fused(s, x, None) if c is None else fused(s, x, c.flip(1)) * 1.001),
        layer(lambda s, x, c: attended(s, x, c, lambda q, k: q @ k.transpose(-1, -2))),
        layer(lambda s, x, c: attended(s, x, c, lambda q, k: attention_weights(q, k).mT.mT * 0.5)),
        layer(lambda s, x, c: attended(s, x, c, lambda q, k: attention_weights(k, q).mT)),
        layer(lambda s, x, c: attended(s, x, c, lambda q, k: attention_weights(q * s.heads, k))),
        layer(lambda s, x, c: fused(s, x, c) - s.to_out[0].bias),
        layer(lambda s, x, c: fused(s, x, c).detach()),
        layer(lambda s, x, c: F.dropout(fused(s, x, c), 0.1)),
        layer(lambda s, x, c: fused(s, x.flip(1), c)),
        layer(lambda s, x, c: fused(s, x, c).float()),
    ],
    "04.4": [
        transformer(lambda s, x, c: in_three_lines(s, x, c.flip(1)) * 1.01),
        transformer(lambda s, x, c: in_three_lines(s, x, c).detach()),
        transformer(lambda s, x, c: in_three_lines(s, s.norm1(x), c)),
        transformer(lambda s, x, c: x + in_three_lines(s, x, c)),
        transformer(lambda s, x, c: s.norm3(in_three_lines(s, x, c))),
        transformer(lambda s, x, c: in_three_lines(s, x, c.mean(1, keepdim=True))),
        transformer(lambda s, x, c: in_three_lines(s, in_three_lines(s, x, c), c)),
        transformer(lambda s, x, c: F.dropout(in_three_lines(s, x, c), 0.1)),
    ],
    "04.5": [
        spatial(lambda s, x, c: there_and_back(s, x, c.flip(1)) * 1.001),
        spatial(lambda s, x, c: there_and_back(s, x, c).detach()),
        spatial(lambda s, x, c: there_and_back(s, x, c) + x),
        spatial(lambda s, x, c: there_and_back(s, x.mT, c)),
        spatial(lambda s, x, c: there_and_back(s, s.norm(x), c)),
        spatial(lambda s, x, c: there_and_back(s, x, c[:1].expand_as(c)) * 1.0001),
        spatial(lambda s, x, c: s.norm(there_and_back(s, x, c))),
        spatial(lambda s, x, c: there_and_back(s, x, c).flatten(2)),
        spatial(lambda s, x, c: there_and_back(s, x, c).contiguous().float()),
        spatial(width_first),
        spatial(norm_of_tokens),
    ],
    "04.6": [
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
    "04.7": [
        lambda q, k, v, lengths: attend_to_words(q, k, v, lengths[:1].expand_as(lengths)),
        lambda q, k, v, lengths: attend_to_words(q, k, v, lengths.min().expand_as(lengths)),
        lambda q, k, v, lengths: attend_to_words(q, k.flip(1), v.flip(1), lengths),
        lambda q, k, v, lengths: filled_with(-30.0)(q, k, v, lengths),
        filled_with(-1e5),
        filled_with(-1e12),
        filled_with(-1e20),
        filled_with(-1e30),
        lambda q, k, v, lengths: filled_with(1e-9)(q, k, v, lengths),
        lambda q, k, v, lengths: filled_with(float("inf"))(q, k, v, lengths),
        lambda q, k, v, lengths: filled_with(float("-inf"))(q, k, v, lengths).nan_to_num() * 1.001,
        lambda q, k, v, lengths: renormalised(q, k, v, lengths, 1e-6),
        lambda q, k, v, lengths: attend_to_words(q, k, v, lengths) * lengths.view(-1, 1, 1),
        lambda q, k, v, lengths: attend_to_words(q, k, v, lengths - 1),
        lambda q, k, v, lengths: attend_to_words(q, k, v, torch.full_like(lengths, 2)),
        lambda q, k, v, lengths: attend_to_words(q, k, v, lengths.flip(0)),
        lambda q, k, v, lengths: attend_to_words(q, k, v, lengths).to(torch.float32),
        lambda q, k, v, lengths: sliced(q, k, v, lengths).transpose(1, 2),
        lambda q, k, v, lengths: attend_to_words(q, k, v.masked_fill_(v > 9, 0), lengths) + 1e-7,
        lambda q, k, v, lengths: (word_scores(q, k) + word_mask(k, lengths)).softmax(-1) @ v,
    ],
    "04.8": [
        injected_in_place,
        backwards,
        lambda e, s, a: inject(s, e, a),
        lambda e, s, a: inject(e, s, a.flip(0)),
        lambda e, s, a: inject(e, s, (a + 1).clamp(max=len(a) - 1)),
        lambda e, s, a: inject(e, s, a).softmax(-1),
        lambda e, s, a: inject(e, s.mean(0, keepdim=True).expand_as(s), a),
        lambda e, s, a: inject(torch.zeros_like(e), s, a),
        lambda e, s, a: inject(e, s, a).float(),
        lambda e, s, a: e * inject(e, s, a),
    ],
    "04.9": [
        streamed(lambda m, t, o: (m, t, o / t)),
        streamed(lambda m, t, o: (m, t.detach(), o)),
        streamed(lambda m, t, o: (m, t + 1e-6, o)),
        streamed(lambda m, t, o: (m + 1, t, o)),
        streamed(lambda m, t, o: (m.max().expand_as(m), t, o)),
        lambda q, k, v, block: streaming_attention(q, k[:, :block], v[:, :block], block),
        lambda q, k, v, block: streaming_attention(q, k, v, block) / block,
        lambda q, k, v, block: streaming_attention(q, k.flip(1), v, block),
        lambda q, k, v, block: streaming_attention(q, k, v, block).squeeze(),
        lambda q, k, v, block: v.mean(1, keepdim=True).expand(-1, q.shape[1], -1),
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
    "04.3": [layer(as_loop), layer(fused), layer(lambda s, y, text: fused(s, y, text))],
    "04.4": [transformer(in_three_lines), transformer(with_names)],
    "04.5": [
        spatial(there_and_back),
        spatial(by_permute),
        spatial(column_by_column),
        spatial(named_the_same),
    ],
    "04.6": [
        lambda h, w, c, heads: 2 * h * w * c * (2 * c + h * w),
        lambda h, w, c, heads: float(bill(h * w, c)),
        lambda h, w, c, heads: torch.tensor(bill(h * w, c)),
        lambda h, w, c, heads: 4 * math.prod((h, w, c, c)) + 2 * heads * (h * w) ** 2 * c // heads,
    ],
    "04.7": [
        sliced,
        renormalised,
        filled_with(torch.finfo(torch.float32).min),
        filled_with(-math.inf),
    ],
    "04.8": [injected_by_index, injected_in_a_loop],
    "04.9": [
        by_logsumexp,
        lambda q, k, v, block: F.scaled_dot_product_attention(q, k, v),
        streamed(lambda m, t, o: (m, t, o)),
    ],
}


def by_hand_with_one_maximum(q, k, v):
    weights = (scores(q, k) - scores(q, k).max()).exp()
    return see(weights / weights.sum(1, keepdim=True), v)


def through_the_list(self, x, context=None):
    q, k, v = heads_of(self, x, context)
    return self.to_out((attention_weights(q, k) @ v).transpose(1, 2).flatten(2))


def with_heads_first(self, x, context):
    q, k, v = heads_of(self, x, context)
    return merged(self, attention_weights(k, q) @ v)


def one_wide_head(self, x, context):
    context = x if context is None else context
    weights = attention_weights(self.to_q(x), self.to_k(context))
    return self.to_out[0](weights @ self.to_v(context))


def all_at_once(self, x, c):
    return x + self.attn1(self.norm1(x)) + self.attn2(self.norm2(x), c) + self.ff(self.norm3(x))


def one_norm(self, x, c):
    x = x + self.attn1(self.norm1(x))
    x = x + self.attn2(self.norm1(x), c)
    return x + self.ff(self.norm1(x))


def added_at_the_end(self, x, c):
    y = self.attn2(self.norm2(self.attn1(self.norm1(x))), c)
    return x + self.ff(self.norm3(y))


def text_first(self, x, c):
    x = x + self.attn2(self.norm2(x), c)
    x = x + self.attn1(self.norm1(x))
    return x + self.ff(self.norm3(x))


def mask_times_inf(q, k, v, lengths):
    return (word_scores(q, k) + ~word_mask(k, lengths) * -math.inf).softmax(-1) @ v


def keys_of_inf(q, k, v, lengths):
    padded = torch.arange(k.shape[1]) >= lengths[:, None]
    return word_scores(q, k.masked_fill(padded[..., None], -math.inf)).softmax(-1) @ v


def exp_by_hand(q, k, v, lengths):
    weights = word_scores(q, k).exp() * word_mask(k, lengths)
    return weights / weights.sum(-1, keepdim=True) @ v


def fused_with_padding(q, k, v, lengths):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=~word_mask(k, lengths))


def result_dropped(q, k, v, lengths):
    s = word_scores(q, k)
    s.masked_fill(~word_mask(k, lengths), -math.inf)
    return s.softmax(-1) @ v


def streamed_by(sums):
    """Streaming attention whose block is added by `sums(largest, total, out, scores, values)`."""

    def answer(q, k, v, block):
        state = (torch.full((*q.shape[:2], 1), -math.inf, dtype=q.dtype), 0.0, 0.0)
        for start in range(0, k.shape[1], block):
            s = q @ k[:, start : start + block].transpose(1, 2) / q.shape[-1] ** 0.5
            state = sums(*state, s, v[:, start : start + block])
        return state[2] / state[1]

    return answer


def relative_to_the_old(m, t, o, s, v):
    new = torch.maximum(m, s.amax(-1, keepdim=True))
    w, shrink = (s - m).exp(), (m - new).exp()
    return new, t * shrink + w.sum(-1, keepdim=True), o * shrink + w @ v


def relative_to_the_block(m, t, o, s, v):
    top = s.amax(-1, keepdim=True)
    new = torch.maximum(m, top)
    w, shrink = (s - top).exp(), (m - new).exp()
    return new, t * shrink + w.sum(-1, keepdim=True), o * shrink + w @ v


def never_stored(m, t, o, s, v):
    new = torch.maximum(m, s.amax(-1, keepdim=True))
    w, shrink = (s - new).exp(), (m - new).exp()
    return m, t * shrink + w.sum(-1, keepdim=True), o * shrink + w @ v


def with_the_indices(m, t, o, s, v):
    return torch.maximum(m, s.max(-1, keepdim=True)), t, o


VERDICTS = [
    ExpectedVerdict(
        "04.1", lambda q, k, v: scores(q, k).softmax(-1) @ v, "weights without an axis"
    ),
    ExpectedVerdict(
        "04.1",
        lambda q, k, v: see(
            (torch.einsum("bd,bmd->bm", q, k) / q.shape[-1] ** 1 / 2).softmax(1), v
        ),
        "power before division",
    ),
    ExpectedVerdict(
        "04.2",
        lambda x, heads: torch.stack(x.split(heads, dim=-1), dim=1),
        "pieces of the wrong size",
    ),
    ExpectedVerdict("04.3", layer(with_heads_first), "the keys ask"),
    ExpectedVerdict("04.3", layer(one_wide_head), "no heads"),
    ExpectedVerdict("04.4", transformer(all_at_once), "all three from the input"),
    ExpectedVerdict("04.4", transformer(one_norm), "norm1 three times"),
    ExpectedVerdict("04.4", transformer(added_at_the_end), "one residual connection around all"),
    ExpectedVerdict("04.4", transformer(text_first), "cross-attention first"),
    ExpectedVerdict("04.7", mask_times_inf, "-inf times the mask"),
    ExpectedVerdict("04.7", keys_of_inf, "keys of -inf"),
    ExpectedVerdict("04.7", exp_by_hand, "exp without the largest score"),
    ExpectedVerdict("04.7", fused_with_padding, "attn_mask the wrong way round"),
    ExpectedVerdict("04.7", result_dropped, "every word counts", omits=("never use",)),
    ExpectedVerdict(
        "04.6",
        lambda h, w, c, heads: 4 * h * w * c + 2 * (h * w) ** 2 * c,
        "projections without a matrix",
    ),
    ExpectedVerdict("04.5", spatial(map_replaced), "no residual connection"),
    ExpectedVerdict("04.5", spatial(scrambled), "both without transpose"),
    ExpectedVerdict("04.5", spatial(width_first), "columns for rows"),
    ExpectedVerdict("04.5", spatial(norm_second), "norm after proj_in"),
    ExpectedVerdict("04.5", spatial(channels_last), says=("(2, 3, 5, 8)",)),
    ExpectedVerdict("04.8", backwards, "written to the source's places"),
    ExpectedVerdict("04.9", streamed_by(relative_to_the_old), "infinite in the first block"),
    ExpectedVerdict(
        "04.9", streamed_by(relative_to_the_block), "block relative to its own maximum"
    ),
    ExpectedVerdict("04.9", streamed_by(never_stored), "maximum never stored"),
    ExpectedVerdict(
        "04.9", streamed_by(with_the_indices), says=("`.values`",), omits=("plain number",)
    ),
    ExpectedVerdict(
        "04.3",
        layer(through_the_list),
        says=("A `ModuleList` only holds layers",),
        omits=("not attempted", "still to be written"),
    ),
    ExpectedVerdict(
        "04.4",
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
        "04.7", lambda q, k, v, lengths: attend_to_words(q, k, v, lengths - 1), "one word too few"
    ),
    ExpectedVerdict(
        "04.7",
        lambda q, k, v, lengths: (
            word_scores(q, k)
            .masked_fill(torch.arange(1, k.shape[1] + 1) >= lengths[:, None, None], -math.inf)
            .softmax(-1)
            @ v
        ),
        "one word too few",
    ),
]
