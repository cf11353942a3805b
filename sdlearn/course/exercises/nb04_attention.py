"""Exercises and quiz of notebook 04, attention."""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn

from sdlearn.attention import GatedFeedForward
from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal

# ----------------------------------------------------------------------------------- 04.1 one query


def attend_once(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One query for each example: q (b, d), k (b, m, d), v (b, m, e) -> (b, e)."""
    scores = torch.einsum("bd,bmd->bm", q, k) / q.shape[-1] ** 0.5
    weights = scores.softmax(dim=-1)  # (b, m)
    return torch.einsum("bm,bme->be", weights, v)


# Oblong, square, a batch of one, a single key, and scores too large for exp: in all examples, and
# in one beside two of usual scores, which the largest of the batch must not push to exp(...) = 0.
SIZES = (
    (2, 8, 5, 3, (1, 1)),
    (4, 4, 4, 4, (1, 1, 1, 1)),
    (1, 6, 7, 2, (1,)),
    (3, 5, 1, 2, (1, 1, 1)),
    (2, 5, 9, 6, (3000, 3000)),
    (3, 7, 8, 4, (1, 3000, 1)),
)


def one_query_cases(rng: Generator) -> Iterator[Case]:
    for b, d, m, e, sizes in SIZES:
        q = torch.tensor(sizes)[:, None] * normal(rng, b, d)
        yield Case((q, normal(rng, b, m, d), normal(rng, b, m, e)))


ONE_QUERY = Exercise(
    number="04.1",
    title="One query",
    minutes=8,
    difficulty=1,
    core=True,
    solution=attend_once,
    cases=one_query_cases,
)

# ----------------------------------------------------------------------------- 04.2 splitting heads


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(b, n, heads * d) -> (b, heads, n, d); head 0 gets the first d channels."""
    b, n, width = x.shape
    return x.reshape(b, n, heads, width // heads).transpose(1, 2)


def split_cases(rng: Generator) -> Iterator[Case]:
    for b, n, heads, d in ((2, 5, 3, 4), (3, 3, 3, 3), (1, 7, 2, 5), (2, 4, 1, 6)):
        yield Case((normal(rng, b, n, heads * d), heads))


SPLIT = Exercise(
    number="04.2",
    title="Splitting heads",
    minutes=8,
    difficulty=1,
    core=True,
    solution=split_heads,
    cases=split_cases,
)

# ------------------------------------------------------------------------ 04.3 multi-head attention


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """q (..., n, d), k (..., m, d) -> (..., n, m); every row sums to 1."""
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)


class Attention(nn.Module):
    """Multi-head attention: queries from x, keys and values from the context."""

    def __init__(self, dim: int, heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        context_dim = dim if context_dim is None else context_dim
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])  # published: to_out.0

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (b, n, dim), context (b, m, context_dim); None is x -> (b, n, dim)."""
        context = x if context is None else context
        q = split_heads(self.to_q(x), self.heads)
        k = split_heads(self.to_k(context), self.heads)
        v = split_heads(self.to_v(context), self.heads)
        out = attention_weights(q, k) @ v  # (b, heads, n, d)
        return self.to_out[0](out.transpose(1, 2).flatten(2))  # (b, n, heads * d)


def multi_head_cases(rng: Generator) -> Iterator[Case]:
    for b, n, m, build in (
        (2, 6, 4, (12, 3, 5)),
        (3, 4, 4, (8, 2, 8)),
        (1, 5, 7, (6, 2, 3)),
        (2, 7, None, (12, 4)),
        (2, 3, 5, (4, 1, 3)),
    ):
        x = normal(rng, b, n, build[0])
        yield Case((x,) if m is None else (x, normal(rng, b, m, build[-1])), build=build)


MULTI_HEAD = Exercise(
    number="04.3",
    title="Multi-head attention",
    minutes=12,
    difficulty=2,
    core=True,
    solution=Attention,
    cases=multi_head_cases,
)

# ----------------------------------------------------------------------- 04.4 the transformer block


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and MLP: pre-norm, with residual connections."""

    def __init__(self, dim: int, heads: int, context_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, heads, context_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = GatedFeedForward(dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (b, n, dim), context (b, m, context_dim) -> (b, n, dim)."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


def block_cases(rng: Generator) -> Iterator[Case]:
    for b, n, m, build in ((2, 6, 5, (8, 2, 6)), (3, 4, 4, (6, 3, 6)), (1, 5, 7, (9, 3, 4))):
        yield Case((normal(rng, b, n, build[0]), normal(rng, b, m, build[2])), build=build)


BLOCK = Exercise(
    number="04.4",
    title="The transformer block",
    minutes=6,
    difficulty=1,
    core=True,
    solution=TransformerBlock,
    cases=block_cases,
)

# ------------------------------------------------------- 04.5 from a feature map to tokens and back


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map."""

    def __init__(
        self,
        channels: int,
        heads: int,
        context_dim: int,
        depth: int = 1,
        groups: int = 32,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=eps)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads, context_dim) for _ in range(depth)
        )
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (b, c, h, w), context (b, m, context_dim) -> (b, c, h, w)."""
        b, c, h, w = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (b, h * w, c)
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens).transpose(1, 2).reshape(b, c, h, w)


def spatial_cases(rng: Generator) -> Iterator[Case]:
    for b, h, w, m, build in (
        (2, 3, 5, 4, (8, 2, 6, 2, 4)),
        (3, 4, 4, 5, (6, 3, 6, 1, 3)),
        # As many positions as channels: the axes can be exchanged without an error.
        (1, 4, 2, 3, (8, 2, 4, 3, 2)),
    ):
        x, text = normal(rng, b, build[0], h, w), normal(rng, b, m, build[2])
        yield Case((2 * x + 1, text), build)


SPATIAL = Exercise(
    number="04.5",
    title="From a feature map to tokens and back",
    minutes=10,
    difficulty=2,
    core=True,
    solution=SpatialTransformer,
    cases=spatial_cases,
)

# ------------------------------------------------------------------------------------ 04.6 the cost


def multiplications(h: int, w: int, c: int, heads: int) -> int:
    """The multiplications of one self-attention layer for one map (c, h, w)."""
    n = h * w
    projections = 4 * n * c * c  # to_q, to_k, to_v, to_out
    products = 2 * n * n * c  # q k^T, and the weights times v: heads times n * n * (c / heads)
    # Answer to the question: the products cost more than the projections from n > 2 * c on.
    return projections + products


def cost_cases(_: Generator) -> Iterator[Case]:
    for h, w, c, heads in ((8, 6, 32, 4), (16, 16, 64, 8), (1, 5, 12, 3), (64, 48, 320, 8)):
        yield Case((h, w, c, heads))


COST = Exercise(
    number="04.6",
    title="What self-attention costs",
    minutes=8,
    difficulty=1,
    solution=multiplications,
    cases=cost_cases,
    trained=False,
)

# ------------------------------------------------------------------------ 04.7 ignoring the padding


def attend_to_words(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """q (b, n, d), k (b, m, d), v (b, m, e), lengths (b,), 1 to m -> (b, n, e)."""
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5  # (b, n, m)
    counts = torch.arange(k.shape[1]) < lengths[:, None]  # (b, m)
    scores = scores.masked_fill(~counts[:, None, :], float("-inf"))
    return scores.softmax(dim=-1) @ v


def padding_cases(rng: Generator) -> Iterator[Case]:
    for b, n, m, d, e, lengths, size in (
        (3, 6, 5, 8, 4, (2, 5, 3), 1),
        (2, 4, 4, 4, 4, (4, 1), 1),
        (1, 3, 7, 6, 5, (4,), 1),
        # Real words of very low scores: no finite number is below all of them.
        (2, 9, 3, 4, 2, (1, 2), 1e3),
        (2, 9, 3, 4, 2, (1, 2), 1e7),
        (2, 9, 3, 4, 2, (1, 2), 1e32),
    ):
        q, k, v = size * normal(rng, b, n, d), normal(rng, b, m, d), normal(rng, b, m, e)
        yield Case((q, k, v, torch.tensor(lengths)))


PADDING = Exercise(
    number="04.7",
    title="Ignoring the padding",
    minutes=10,
    difficulty=2,
    solution=attend_to_words,
    cases=padding_cases,
)

# ---------------------------------------------------------------------------- 04.8 prompt-to-prompt


def inject(edited: Tensor, source: Tensor, alignment: Tensor) -> Tensor:
    """edited, source (heads, n, m), alignment (m,), -1 to m - 1 -> (heads, n, m)."""
    copied = source[..., alignment.clamp(min=0)]
    return torch.where(alignment >= 0, copied, edited)


def inject_cases(rng: Generator) -> Iterator[Case]:
    for heads, n, alignment in (
        (2, 6, (0, 1, -1, 2, 3)),
        (4, 4, (0, -1, 2, 1)),
        (1, 9, (0, -1, 1)),
        (3, 5, (0, -1, -1, 1, 1, 3, 5)),
        (2, 7, (-1, -1, 0, 1)),
    ):
        m = len(alignment)
        weights = [normal(rng, heads, n, m).softmax(dim=-1) for _ in range(2)]
        yield Case((*weights, torch.tensor(alignment)))


PROMPT_TO_PROMPT = Exercise(
    number="04.8",
    title="Prompt-to-prompt",
    minutes=12,
    difficulty=2,
    core=True,
    solution=inject,
    cases=inject_cases,
)

# ----------------------------------------------------------------------------------- 04.9 streaming


def streaming_attention(q: Tensor, k: Tensor, v: Tensor, block: int) -> Tensor:
    """q (b, n, d), k (b, m, d), v (b, m, e) -> (b, n, e), a block of keys at a time."""
    largest = q.new_full((*q.shape[:2], 1), float("-inf"))
    total, out = torch.zeros_like(largest), q.new_zeros(*q.shape[:2], v.shape[-1])
    for start in range(0, k.shape[1], block):
        scores = q @ k[:, start : start + block].transpose(1, 2) / q.shape[-1] ** 0.5
        higher = torch.maximum(largest, scores.amax(dim=-1, keepdim=True))
        weights, shrink = (scores - higher).exp(), (largest - higher).exp()
        total = total * shrink + weights.sum(dim=-1, keepdim=True)
        out = out * shrink + weights @ v[:, start : start + block]
        largest = higher
    return out / total


def streaming_cases(rng: Generator) -> Iterator[Case]:
    for b, n, m, d, e, block, size, shift in (
        (2, 5, 12, 4, 3, 4, 1, 0),
        (1, 3, 7, 6, 5, 3, 1, 0),
        (2, 4, 4, 4, 4, 1, 1, 0),
        (1, 6, 5, 3, 2, 8, 1, 0),
        # Scores that differ by more than exp can hold; all too large for it, and all too small.
        (2, 5, 9, 4, 3, 4, 3000, 0),
        (1, 4, 8, 4, 2, 2, 1, 60),
        (1, 4, 8, 4, 2, 2, 1, -60),
    ):
        q, k, v = size * normal(rng, b, n, d), normal(rng, b, m, d), normal(rng, b, m, e)
        q[..., 0] += abs(shift)
        k[..., 0] += shift
        yield Case((q, k, v, block))


STREAMING = Exercise(
    number="04.9",
    title="Attention without the matrix",
    minutes=25,
    difficulty=3,
    solution=streaming_attention,
    cases=streaming_cases,
)

EXERCISES, QUESTIONS = with_texts(
    __name__,
    ONE_QUERY,
    SPLIT,
    MULTI_HEAD,
    BLOCK,
    SPATIAL,
    COST,
    PADDING,
    PROMPT_TO_PROMPT,
    STREAMING,
)
