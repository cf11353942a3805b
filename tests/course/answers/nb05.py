"""Notebook 05: wrong answers that the checker was not written for, and right ones in another
style."""

from collections import Counter
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlearn.course.exercises.nb05_text import (
    TextTransformer,
    cached_attention,
    causal_attention,
    chunks,
    info_nce,
    join,
    learn_merges,
    letters,
    matching_loss,
    tokenize_word,
    weight_tokens,
)
from tests.course.answers.expected_verdict import ExpectedVerdict


def merged_in_order(word, merges):
    pieces = [*word[:-1], word[-1] + "</w>"]
    for a, b in merges:
        i = 0
        while i < len(pieces) - 1:
            if (pieces[i], pieces[i + 1]) == (a, b):
                pieces[i : i + 2] = [a + b]
            i += 1
    return pieces


def one_place_at_a_time(word, merges):
    """The earliest merge at its first place, then look again."""
    rank = {pair: k for k, pair in enumerate(merges)}
    pieces = [*word[:-1], word[-1] + "</w>"]
    while True:
        found = [(rank[pair], i) for i, pair in enumerate(pairwise(pieces)) if pair in rank]
        if not found:
            return pieces
        _, i = min(found)
        pieces = [*pieces[:i], pieces[i] + pieces[i + 1], *pieces[i + 2 :]]


def by_recursion(word, merges):
    def cut(pieces):
        known = [k for k, pair in enumerate(merges) if pair in pairwise(pieces)]
        if not known:
            return list(pieces)
        a, b = merges[known[0]]
        out = []
        for piece in pieces:
            if out and out[-1] == a and piece == b:
                out[-1] = a + b
            else:
                out.append(piece)
        return cut(tuple(out))

    return cut((*word[:-1], word[-1] + "</w>"))


def shortest_pair(word, merges):
    pieces = [*word[:-1], word[-1] + "</w>"]
    while known := [p for p in pairwise(pieces) if p in merges]:
        a, b = min(known, key=lambda pair: len("".join(pair)))
        i = next(i for i in range(len(pieces)) if tuple(pieces[i : i + 2]) == (a, b))
        pieces[i : i + 2] = [a + b]
    return pieces


def with_a_mask_added(q, k, v):
    n, m = q.shape[1], k.shape[1]
    mask = torch.full((n, m), float("-inf"), dtype=q.dtype).triu(m - n + 1)
    return (q @ k.mT * q.shape[-1] ** -0.5 + mask).softmax(-1) @ v


def token_by_token(q, k, v):
    n, m = q.shape[1], k.shape[1]
    rows = []
    for i in range(n):
        stop = m - n + i + 1
        weights = (q[:, i, None] @ k[:, :stop].mT / q.shape[-1] ** 0.5).softmax(-1)
        rows.append(weights @ v[:, :stop])
    return torch.cat(rows, dim=1)


def padded(q, k, v):
    """Zeros for the queries of the beginning, whose answers are thrown away."""
    q_all = F.pad(q, (0, 0, k.shape[1] - q.shape[1], 0))
    whole = F.scaled_dot_product_attention(q_all, k, v, is_causal=True)
    return whole[:, k.shape[1] - q.shape[1] :]


def with_minus(number):
    def answer(q, k, v):
        later = torch.ones(q.shape[1], k.shape[1]).triu(k.shape[1] - q.shape[1] + 1) > 0
        return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(later, number).softmax(-1) @ v

    return answer


def log_softmaxes(images, texts, temperature, swap=False):
    u = images / images.norm(dim=-1, keepdim=True)
    w = texts / texts.norm(dim=-1, keepdim=True)
    s = u @ w.T / temperature
    b = len(u)
    across = s.log_softmax(1).diagonal()
    down = (s if swap else s[:, :b]).log_softmax(0).diagonal()
    return -(across + down[:b]).mean() / 2


def masked_square(images, texts, temperature):
    """All m texts ask, those without a picture are ignored."""
    s = F.normalize(images) @ F.normalize(texts).T / temperature
    own = torch.arange(len(s))
    asked = torch.full((len(texts),), -100)
    asked[: len(s)] = own
    return (F.cross_entropy(s, own) + F.cross_entropy(s.T, asked, ignore_index=-100)) / 2


def weighted(images, texts, temperature):
    """Every text counts the same, whoever asks: a mean over all 2 b choices with wrong weights."""
    s = F.normalize(images) @ F.normalize(texts).T / temperature
    own = torch.arange(len(s))
    return 0.75 * F.cross_entropy(s, own) + 0.25 * F.cross_entropy(s[:, : len(s)].T, own)


def encoder_with(forward) -> type[nn.Module]:
    """The encoder with another forward."""
    return type("TextTransformer", (TextTransformer,), {"forward": forward})


def changed(change) -> type[nn.Module]:
    """The encoder with `change(last, hidden, pooled)` for its outputs."""
    return encoder_with(lambda self, ids: change(*TextTransformer.forward(self, ids)))


def with_a_running_state(self: TextTransformer, ids: Tensor):
    x = self.embeddings.token_embedding(ids)
    x = x + self.embeddings.position_embedding(torch.arange(ids.shape[1]))[None]
    hidden = (x,)
    for k in range(len(self.encoder.layers)):
        x = self.encoder.layers[k](x)
        hidden += (x,)
    last = self.final_layer_norm(x)
    rows = [state[text.tolist().index(self.end)] for state, text in zip(last, ids, strict=True)]
    return last, hidden, self.text_projection(torch.stack(rows))


def gathered(self: TextTransformer, ids: Tensor):
    """Every position is projected, and one is gathered."""
    last, hidden, _ = TextTransformer.forward(self, ids)
    place = (ids == self.end).float().cumsum(1).eq(1).float().argmax(1)
    rows = self.text_projection(last)
    return (
        last,
        list(hidden),
        rows.gather(1, place[:, None, None].expand(-1, 1, rows.shape[-1]))[:, 0],
    )


def shifted_positions(self: TextTransformer, ids: Tensor):
    longer = torch.cat([ids[:, :1], ids], dim=1)[:, : ids.shape[1]]
    return TextTransformer.forward(self, longer)


def merges_by_text(words, number):
    """Pieces as text with spaces, as in the code printed by Sennrich et al."""
    vocabulary = {" ".join(letters(word)): times for word, times in words.items()}
    merges = []
    for _ in range(number):
        counts = Counter()
        for text, times in vocabulary.items():
            symbols = text.split()
            for i in range(len(symbols) - 1):
                counts[symbols[i], symbols[i + 1]] += times
        if not counts:
            return merges
        most = max(counts.values())
        best = max(pair for pair in counts if counts[pair] == most)
        merges.append(best)
        vocabulary = {
            " ".join(join(text.split(), best)): times for text, times in vocabulary.items()
        }
    return merges


def merges_of_a_list(words, number):
    pieces, times = [letters(word) for word in words], [*words.values()]
    merges = []
    while len(merges) < number and any(len(one) > 1 for one in pieces):
        counts = Counter()
        for one, n in zip(pieces, times, strict=True):
            counts.update(dict.fromkeys(pairwise(one), 0))
            for pair in pairwise(one):
                counts[pair] += n
        merges.append(max(counts.items(), key=lambda item: (item[1], item[0]))[0])
        pieces = [join(one, merges[-1]) for one in pieces]
    return merges


def fused(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def causal_filled(q, k, v):
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) * q.shape[-1] ** -0.5
    later = torch.arange(q.shape[2])[:, None] < torch.arange(q.shape[2])
    return torch.einsum("bhnm,bhme->bhne", scores.masked_fill(later, -torch.inf).softmax(-1), v)


def causal_in_a_loop(q, k, v):
    rows = [
        (q[..., i : i + 1, :] @ k[..., : i + 1, :].mT / q.shape[-1] ** 0.5).softmax(-1)
        @ v[..., : i + 1, :]
        for i in range(q.shape[-2])
    ]
    return torch.cat(rows, dim=-2)


def nce_by_log_softmax(images, texts, log_scale):
    u, v = (x / x.norm(dim=1, keepdim=True) for x in (images, texts))
    s = u @ v.T * torch.minimum(log_scale.exp(), torch.tensor(100.0))
    return -(s.log_softmax(0).diagonal() + s.log_softmax(1).diagonal()).mean() / 2


def nce_by_logsumexp(images, texts, log_scale):
    s = torch.cosine_similarity(images[:, None], texts[None], dim=-1)
    s = s * log_scale.exp().clamp(max=100)
    own = s.diagonal()
    return (s.logsumexp(0) + s.logsumexp(1) - 2 * own).mean() / 2


def chunks_by_slicing(ids, length, start, end, pad):
    rows, rest = [], list(ids)
    while True:
        part, rest = rest[: length - 2], rest[length - 2 :]
        row = [start, *part, end]
        rows.append(row + [pad] * (length - len(row)))
        if not rest:
            return rows


def first_only(ids, length, start, end, pad):
    return chunks(ids, length, start, end, pad)[0]


def mixed(weights, context, empty):
    row = torch.tensor([1.0, *weights, *[1.0] * (len(context) - 1 - len(weights))])
    return torch.lerp(empty, context, row.to(context)[:, None].expand_as(context))


def by_recursive_groups(pieces, context, empty):
    def group(k):
        """Return the weights from piece k to the end of its group, and where the group ends."""
        weights = []
        while k < len(pieces):
            if pieces[k] == "(":
                inner, k = group(k + 1)
                weights += inner
            elif pieces[k] != ":" and pieces[k][0] == ":":
                return [float(pieces[k][1:-1]) * weight for weight in weights], k + 1
            else:
                weights.append(1.0)
                k += 1
        return weights, k

    return mixed(group(0)[0], context, empty)


def with_a_running_product(pieces, context, empty):
    """From the back, where the weight of a group comes first."""
    weights, factors = [], [1.0]
    for piece in reversed(pieces):
        if piece == "(":
            factors.pop()
        elif piece.startswith(":") and piece.endswith(")"):
            factors.append(factors[-1] * float(piece[1:-1]))
        else:
            weights.insert(0, factors[-1])
    return mixed(weights, context, empty)


def groups_as_splits(pieces, context, empty):
    """As if there were no nesting: a group begins at the latest bracket."""
    weights, begin = [], 0
    for piece in pieces:
        if piece == "(":
            begin = len(weights)
        elif piece.startswith(":") and piece.endswith(")"):
            weights[begin:] = [weight * float(piece[1:-1]) for weight in weights[begin:]]
        else:
            weights.append(1.0)
    return mixed(weights, context, empty)


def by_position_of_the_piece(pieces, context, empty):
    """The positions count the marks."""
    weights = [1.0] * len(pieces)
    opened = []
    for k, piece in enumerate(pieces):
        if piece == "(":
            opened.append(k)
        elif piece.startswith(":") and piece.endswith(")"):
            for j in range(opened.pop(), k):
                weights[j] *= float(piece[1:-1])
    return mixed(weights[: len(context) - 1], context, empty)


def started_once(ids, length, start, end, pad):
    size = length - 2
    rows = [[*ids[k : k + size], end] for k in range(0, max(len(ids), 1), size)]
    rows[0].insert(0, start)
    return [row + [pad] * (length - len(row)) for row in rows]


def ended_once(ids, length, start, end, pad):
    size = length - 2
    rows = [[start, *ids[k : k + size]] for k in range(0, max(len(ids), 1), size)]
    rows[-1].append(end)
    return [row + [pad] * (length - len(row)) for row in rows]


def parts_of_75(ids, length, start, end, pad):
    parts = [ids[k : k + 75] for k in range(0, len(ids), 75)] or [[]]
    return [[start, *part, end] + [pad] * (length - 2 - len(part)) for part in parts]


def in_one_list(*given):
    return [number for row in chunks(*given) for number in row]


def scaled_by_d(q, k, v):
    scores = q @ k.mT / q.shape[-1]
    later = torch.ones(q.shape[-2], q.shape[-2]).triu(1) > 0
    return scores.masked_fill(later, float("-inf")).softmax(-1) @ v


def mean_restored(pieces, context, empty):
    right = weight_tokens(pieces, context, torch.zeros_like(context))
    return right * context.mean() / right.mean()


def at_most_one(pieces, context, empty):
    """Weights clamped from above only."""
    weights = weight_tokens(pieces, torch.ones_like(context), torch.zeros_like(context))
    return empty + weights.clamp(max=1) * (context - empty)


def counted_on(words, number):
    """One counter for all passes."""
    pieces, counts, merges = {word: letters(word) for word in words}, Counter(), []
    for _ in range(number):
        for word, times in words.items():
            for pair in pairwise(pieces[word]):
                counts[pair] += times
        if not counts:
            break
        merges.append(max(counts, key=lambda pair: (counts[pair], pair)))
        pieces = {word: join(one, merges[-1]) for word, one in pieces.items()}
    return merges


def across_words(words, number):
    pieces, merges = [], []
    for word, times in words.items():
        pieces += letters(word) * times
    while len(merges) < number and (counts := Counter(pairwise(pieces))):
        merges.append(max(counts, key=lambda pair: (counts[pair], pair)))
        pieces = join(pieces, merges[-1])
    return merges


def masked_with(mask):
    """Scaled dot-product attention with a mask that is added, made for n tokens."""

    def answer(q, k, v):
        scores = q @ k.mT / q.shape[-1] ** 0.5
        return (scores + mask(q.shape[-2])).softmax(dim=-1) @ v

    return answer


def softmax_on(axis):
    def answer(q, k, v):
        later = torch.ones(q.shape[-2], q.shape[-2]).triu(1) > 0
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(later, float("-inf"))
        return scores.softmax(dim=axis) @ v

    return answer


def matched(images, texts, scale, **given):
    """The loss of vectors that may be normalised in another way."""
    logits, own = images @ texts.T * scale, torch.arange(len(images))
    one, other = F.cross_entropy(logits, own, **given), F.cross_entropy(logits.T, own, **given)
    return (one + other) / 2


WRONG = {
    "05.1": [
        lambda words, number: learn_merges(words, number)[::-1],
        lambda words, number: learn_merges(dict.fromkeys(words, 1), number),
        lambda words, number: learn_merges({w[::-1]: n for w, n in words.items()}, number),
        lambda words, number: sorted(learn_merges(words, number)),
        lambda words, number: learn_merges(words, 5),
        lambda words, number: learn_merges(words, 1000),
        lambda words, number: set(learn_merges(words, number)),
        lambda words, number: [a + b for a, b in learn_merges(words, number)],
        lambda words, number: [
            (a.removesuffix("</w>"), b.removesuffix("</w>")) for a, b in learn_merges(words, number)
        ],
        lambda words, number: [
            pair for pair in learn_merges(words, number) if "</w>" not in pair[1]
        ],
    ],
    "05.2": [
        F.scaled_dot_product_attention,
        lambda q, k, v: causal_attention(q, k, v).flip(-2),
        lambda q, k, v: causal_attention(q.flip(-2), k.flip(-2), v.flip(-2)).flip(-2),
        lambda q, k, v: causal_attention(k, q, v),
        lambda q, k, v: causal_attention(q * q.shape[-1] ** -0.5, k, v),
        lambda q, k, v: causal_attention(q, k, v.detach()),
        lambda q, k, v: causal_attention(q, k, v).transpose(1, 2),
        lambda q, k, v: causal_attention(q, k, v).cumsum(-2),
        lambda q, k, v: v.cumsum(-2) / torch.arange(1, v.shape[-2] + 1)[:, None],
        lambda q, k, v: causal_attention(q, k, torch.zeros_like(v)),
    ],
    "05.3": [
        changed(lambda last, hidden, pooled: (last, hidden, pooled[:1].expand_as(pooled))),
        changed(lambda last, hidden, pooled: (last, hidden[::-1], pooled)),
        changed(lambda last, hidden, pooled: (last, hidden[:-1], pooled)),
        changed(lambda last, hidden, pooled: (hidden, last, pooled)),
        changed(lambda last, hidden, pooled: (last, torch.stack(hidden)[-1], pooled)),
        changed(lambda last, hidden, pooled: last),
        changed(lambda last, hidden, pooled: (2 * last, hidden, pooled)),
        changed(lambda last, hidden, pooled: (last, hidden, F.normalize(pooled))),
        encoder_with(shifted_positions),
        TextTransformer.forward,
    ],
    "05.4": [
        lambda x, y, s: info_nce(x, y, s).detach(),
        lambda x, y, s: info_nce(x, y.flip(0), s),
        lambda x, y, s: info_nce(x, y, -s),
        lambda x, y, s: info_nce(x, y, s / 2),
        lambda x, y, s: info_nce(x, y, s) * len(x),
        lambda x, y, s: info_nce(x, x, s),
        lambda x, y, s: -(F.normalize(x) * F.normalize(y)).sum(-1).mean() * s.exp(),
        lambda x, y, s: info_nce(x, y, s.clamp(max=2)),
        lambda x, y, s: (F.normalize(x) - F.normalize(y)).pow(2).sum(-1).mean(),
        lambda x, y, s: torch.stack([info_nce(x, y, s)] * 2),
    ],
    "05.5": [
        one_place_at_a_time,
        shortest_pair,
        lambda word, merges: tokenize_word(word, merges[::-1]),
        lambda word, merges: tokenize_word(word[::-1], merges)[::-1],
        lambda word, merges: [piece.removesuffix("</w>") for piece in tokenize_word(word, merges)],
        lambda word, merges: [*word[:-1], word[-1] + "</w>"],
        lambda word, merges: tokenize_word(word, merges[:3]),
        lambda word, merges: tokenize_word(word, sorted(merges)),
        lambda word, merges: tokenize_word(word, merges[:-1]),
        lambda word, merges: "".join(tokenize_word(word, merges)),
        lambda word, merges: tokenize_word(
            word, [pair for pair in merges if "</w>" not in pair[1]]
        ),
        lambda word, merges: len(tokenize_word(word, merges)),
    ],
    "05.6": [
        lambda ids, length, start, end, pad: chunks(ids, 77, start, end, pad),
        lambda ids, length, start, end, pad: chunks(ids, length, end, start, pad),
        lambda ids, length, start, end, pad: chunks(ids, length, start, end, 0),
        lambda ids, length, start, end, pad: chunks(ids, length, start, end, pad)[::-1],
        lambda ids, length, start, end, pad: [[start, *ids, end]],
        first_only,
        lambda ids, length, start, end, pad: [
            x for row in chunks(ids, length, start, end, pad) for x in row
        ],
        lambda ids, length, start, end, pad: chunks(sorted(ids), length, start, end, pad),
        lambda ids, length, start, end, pad: chunks(ids[:75], length, start, end, pad),
        lambda ids, length, start, end, pad: chunks(ids, length, start, pad, pad),
    ],
    "05.7": [
        with_minus(-100.0),
        with_minus(0.0),
        lambda q, k, v: cached_attention(q, k, v).flip(1),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda q, k, v: cached_attention(q, v if v.shape == k.shape else k, v),
        lambda q, k, v: cached_attention(q * q.shape[-1] ** -0.5, k, v),
        lambda q, k, v: cached_attention(q, k.flip(1), v.flip(1)),
        lambda q, k, v: cached_attention(q, k, v).mean(1, keepdim=True).expand(-1, q.shape[1], -1),
        lambda q, k, v: cached_attention(q, k[:, : q.shape[1]], v[:, : q.shape[1]]),
        lambda q, k, v: cached_attention(q, k, v.detach()),
    ],
    "05.8": [
        weighted,
        lambda x, y, t: log_softmaxes(x, y, t, swap=True) + 0.1,
        lambda x, y, t: matching_loss(x, y, t**0.5),
        lambda x, y, t: matching_loss(x, y, t).detach(),
        lambda x, y, t: matching_loss(x, y.flip(0), t),
        lambda x, y, t: matching_loss(x, y, t) * len(x),
        lambda x, y, t: matching_loss(x, y, max(t, 0.1)),
        lambda x, y, t: matching_loss(x[: len(x) // 2 + 1], y, t),
        lambda x, y, t: -(F.normalize(x) * F.normalize(y[: len(x)])).sum(-1).mean() / t,
        lambda x, y, t: matching_loss(x, torch.cat([y, y[:1]]), t),
    ],
    "05.9": [
        lambda p, c, e: weight_tokens(p, e, c),
        lambda p, c, e: weight_tokens(p, c, e[:1].expand_as(e)),
        lambda p, c, e: weight_tokens(p, c, torch.zeros_like(e)),
        lambda p, c, e: weight_tokens(p[::-1], c, e) if "(" not in p else c,
        lambda p, c, e: weight_tokens(p, c, e).flip(0),
        lambda p, c, e: weight_tokens(p, c, e)[1:],
        lambda p, c, e: weight_tokens([x for x in p if x != "("] and p[:3], c, e),
        lambda p, c, e: c,
        groups_as_splits,
        by_position_of_the_piece,
    ],
}
RIGHT = {
    "05.1": [
        merges_by_text,
        merges_of_a_list,
        lambda words, number: tuple(learn_merges(words, number)),
    ],
    "05.2": [fused, causal_filled, causal_in_a_loop],
    "05.3": [encoder_with(with_a_running_state), encoder_with(gathered)],
    "05.4": [nce_by_log_softmax, nce_by_logsumexp],
    "05.5": [
        by_recursion,
        lambda word, merges: tuple(tokenize_word(word, merges)),
    ],
    "05.6": [
        chunks_by_slicing,
        lambda *given: tuple(tuple(row) for row in chunks(*given)),
    ],
    "05.7": [with_a_mask_added, token_by_token, padded, with_minus(float("-inf"))],
    "05.8": [log_softmaxes, masked_square],
    "05.9": [by_recursive_groups, with_a_running_product],
}
INFINITE = float("inf")
VERDICTS = [
    ExpectedVerdict("05.1", counted_on, "the counts never begin again"),
    ExpectedVerdict("05.1", across_words, "pairs across words"),
    ExpectedVerdict(
        "05.2",
        masked_with(lambda n: -INFINITE * torch.ones(n, n).triu(1)),
        "minus infinity times zero",
    ),
    ExpectedVerdict(
        "05.2",
        masked_with(lambda n: torch.ones(n, n).triu() * -INFINITE),
        "minus infinity times zero",
    ),
    ExpectedVerdict(
        "05.2",
        masked_with(
            lambda n: torch.zeros(n, n).masked_fill(torch.ones(n, n).tril() > 0, -INFINITE)
        ),
        "the allowed ones masked",
    ),
    ExpectedVerdict("05.2", softmax_on(1), "softmax over the heads"),
    ExpectedVerdict(
        "05.4",
        lambda x, y, s: matched(
            F.normalize(x), F.normalize(y), s.exp().clamp(max=100), reduction="sum"
        ),
        "the sum over the batch",
    ),
    ExpectedVerdict(
        "05.4",
        lambda x, y, s: matched(x / x.norm(), y / y.norm(), s.exp().clamp(max=100)),
        "one length for the whole batch",
    ),
    ExpectedVerdict(
        "05.4",
        lambda x, y, s: matched(F.normalize(x), F.normalize(y), s.exp().clamp(min=100)),
        "a floor instead of a ceiling",
    ),
    ExpectedVerdict(
        "05.4",
        lambda x, y, s: matched(F.normalize(x), F.normalize(y), s.clamp(max=100).exp()),
        "no clamp",
    ),
    ExpectedVerdict("05.2", scaled_by_d, "scaled by d"),
    ExpectedVerdict("05.5", merged_in_order, "once through the list"),
    ExpectedVerdict("05.6", started_once, "a start token in the first row only, padded behind"),
    ExpectedVerdict("05.6", ended_once, "an end token in the last row only"),
    ExpectedVerdict("05.6", parts_of_75, "75 for every length, padded to the length"),
    ExpectedVerdict("05.6", in_one_list, "one flat list"),
    ExpectedVerdict("05.9", mean_restored, "multiplied, the mean corrected"),
    ExpectedVerdict("05.9", groups_as_splits, "the latest bracket"),
    ExpectedVerdict("05.9", at_most_one, "no extrapolation"),
]
