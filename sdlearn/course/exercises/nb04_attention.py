"""Exercises and quiz of notebook 04, attention."""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn

from sdlearn.attention import GatedFeedForward
from sdlearn.course.exercises.edits import with_mistakes
from sdlearn.course.grading.exercise import Answer, Case, Exercise, Question, normal

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
    statement="Write the formula for a batch of queries. `q`, `(b, d)`, holds one query for each "
    "example; `k`, `(b, m, d)`, and `v`, `(b, m, e)`, hold the keys and values of $m$ tokens. "
    "Return the output, `(b, e)`. You need one product, the division by $\\sqrt d$, one softmax "
    "and one more product. Scores may be very large, but the output must stay finite.",
    hints=(
        "Start with one score for each key: how well does it match the query? That is a product "
        "summed over `d`, so the scores have the shape `(b, m)`.",
        "Divide by the square root of `d`, then apply `softmax` along the last axis. "
        "`torch.einsum('bd,bmd->bm', q, k)` is one way to write the products.",
        "The output is the sum of `weights[:, j, None] * v[:, j]` over all tokens j, which is "
        "`torch.einsum('bm,bme->be', weights, v)`.",
    ),
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
    statement="Split the channels of `x`, `(b, n, heads * d)`, so that every head has its own "
    "sequence: `(b, heads, n, d)`. Head 0 gets the first `d` channels of every token, head 1 the "
    "next `d`, and so on. Several ways of doing this give the right *shape*, but only one of them "
    "puts the right entries in it.",
    hints=(
        "Which axis is split? Only the last one. Every token must keep its own channels.",
        "Split first and move axes afterwards: `(b, n, heads * d)` -> `(b, n, heads, d)` -> "
        "`(b, heads, n, d)`. `reshape` splits axes; it never moves them.",
        "The first step is `x.reshape(b, n, heads, -1)`, the second `.transpose(1, 2)`.",
    ),
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
    statement="Write `forward`. Make the queries from `x` and the keys and values from the "
    "context, split all three into heads, attend, concatenate the heads, and send the result "
    "through `self.to_out[0]`. (`to_out` is a list of one layer, because published files call it "
    "`to_out.0`.) Without a context, the layer does self-attention. Use `split_heads` and "
    "`attention_weights`.",
    hints=(
        "Four steps: project (three linear layers), split, attend, merge. Write the shape beside "
        "each line.",
        "After the attention you have `(b, heads, n, d)`. Merging undoes the split, in reverse "
        "order: first move the axes back, then flatten the last two.",
        "`out.transpose(1, 2).flatten(2)` is `(b, n, heads * d)`, and `self.to_out[0]` takes it "
        "from there.",
    ),
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
    statement="Write `forward`, with one line for each layer of the diagram: self-attention among "
    "the tokens, cross-attention to the context, and the MLP. Each layer reads the normalised "
    "stream and adds its result to the stream itself. From top to bottom, the LayerNorms of the "
    "diagram are `norm1`, `norm2` and `norm3`.",
    hints=(
        "Follow one branch in the diagram. It leaves the residual stream, passes a norm and a "
        "layer, and is added back to the stream.",
        "The first branch is `x = x + self.attn1(self.norm1(x))`. The other two have the same "
        "form.",
        "`attn2` gets the context as its second argument: "
        "`x = x + self.attn2(self.norm2(x), context)`. The last line ends with `self.ff`.",
    ),
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
    statement="Write `forward`, which follows the diagram in section 8 from top to bottom. First "
    "comes `norm`, an `nn.GroupNorm`, which divides the channels into groups and normalises each "
    "group over all positions. Turn the map into a sequence with one token for each position, "
    "`(b, h * w, c)`, and let `proj_in` mix the channels of each token. (In SD 1 it is a 1 × 1 "
    "convolution, the same matrix.) Then apply all blocks and `proj_out`, turn the tokens back "
    "into a map, and add it to the feature map that came in. The norm's epsilon, the small "
    "constant added to the variance before the square root, is `1e-6` here, but `1e-5` in the rest "
    "of the U-Net.",
    hints=(
        "`flatten(2)` joins the last two axes into one, so the map becomes `(b, c, h * w)`. Which "
        "axis has to be last for a token to be a row?",
        "`tokens = self.norm(x).flatten(2).transpose(1, 2)` makes the tokens. After `proj_in`, the "
        "blocks follow in a loop: `tokens = block(tokens, context)`.",
        "To get back to a map, undo both steps in reverse order: "
        "`x + self.proj_out(tokens).transpose(1, 2).reshape(b, c, h, w)`.",
    ),
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
    statement="How many multiplications (in the literature, multiply–accumulates or **MACs**) does "
    "one self-attention layer take for a feature map with `c` channels, `h` rows and `w` columns? "
    "The layer has `heads` heads of width `c / heads`. Count only the matrix products (four "
    "projections and the two products with the scores) and leave out the scale, the softmax and "
    "all additions. A matrix product of `(p, q)` with `(q, r)` takes `p * q * r` multiplications. "
    "When you have the formula, find the number of tokens above which the two products with the "
    'scores cost more than the four projections. (`solution("04.6")` gives the answer.)',
    hints=(
        "There are n = h · w tokens. Go through the matrix products one by one and write down the "
        "shapes.",
        "Each projection is `(n, c)` times `(c, c)`. In one head, q kᵀ is `(n, d)` times `(d, n)` "
        "and the weights times v is `(n, n)` times `(n, d)`, with d = c / heads.",
        "Sum the two products over all heads: heads · n · n · d = n · n · c. The number of heads "
        "drops out, and the sum is 4 n c² + 2 n² c.",
    ),
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
    statement="Captions differ in length, so shorter ones are padded to a common number $m$ of "
    "tokens. Write single-head attention from an image to a caption that ignores the padding. In "
    "example $i$, the first `lengths[i]` tokens of `k` and `v` are real. Every query must give the "
    "padding a weight of *exactly* 0, and its weights must still sum to 1. The mask that does this "
    "is called a **key padding mask** (`key_padding_mask` in PyTorch's `nn.MultiheadAttention`, "
    "where True means *ignore*). Stable Diffusion has none, and section 10.3 showed what its "
    "padding tokens carry.",
    hints=(
        "The weights sum to 1 if the softmax is the last step, so the padding must be excluded "
        "before it. Which score gives a weight of exactly 0?",
        "exp(-inf) is 0. Build a mask `(b, m)` of the tokens that count by comparing "
        "`torch.arange(m)` with `lengths[:, None]`.",
        "`scores` is `(b, n, m)`, so the mask needs an axis for the queries: "
        "`scores.masked_fill(~counts[:, None, :], float('-inf'))`. The softmax comes after it.",
    ),
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
    statement="You have an image and want to change one word of its prompt without changing the "
    "composition. [Prompt-to-prompt](https://arxiv.org/abs/2208.01626) generates again from the "
    "same noise and, in every cross-attention, replaces the attention weights with those of the "
    "source image, so that each word stays where it was. Write that replacement. `edited` and "
    "`source`, both `(heads, n, m)`, are the weights for the two prompts. Token $j$ of the edited "
    "prompt is token `alignment[j]` of the source prompt and takes that token's weights. If "
    "`alignment[j]` is -1, the token is new and keeps its own. The rows need not sum to 1 "
    "afterwards; leave them as they are. The cells after the check generate with your function. "
    "(For a swapped word the authors inject only in the early steps, so that the shape can still "
    "adapt; their code also injects self-attention.)",
    hints=(
        "Think of one token. Its column `edited[..., j]` becomes `source[..., alignment[j]]`, or "
        "stays as it is. Indexing with the whole of `alignment` picks all columns at once.",
        "In Python the index -1 means the last token, so the new tokens need separate treatment: "
        "clamp the indices to 0 first, and choose afterwards.",
        "`torch.where(alignment >= 0, source[..., alignment.clamp(min=0)], edited)`: the "
        "condition has one entry for each column.",
    ),
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
    statement="As section 7 said, fused attention never stores the matrix of all scores. Write its "
    "core, the **online softmax**. Go through the keys and values `block` at a time (the last "
    "block may be shorter) and keep three running results for each query: the largest score so "
    "far, the sum of the exponentials, and the weighted sum of the values. Never hold more than "
    "`n × block` scores at a time. The difficulty is that every exponential is relative to the "
    "largest score so far, which the next block may raise. The output must equal that of ordinary "
    "attention for scores of any size. (`check` sees only the output, so not holding the matrix is "
    "up to you.)",
    hints=(
        "If scores were never large, two running sums, of exp(s) and of exp(s) · v, and one "
        "division at the end would do. Write that first.",
        "Now use exp(s - largest). If a new block raises the maximum from `largest` to `higher`, "
        "both running sums are too large by the factor exp(higher - largest). Correct them before "
        "you add the new block.",
        "With `shrink = (largest - higher).exp()`: `total = total * shrink + weights.sum(-1, "
        "keepdim=True)` and `out = out * shrink + weights @ values`. `largest`, `shrink` and "
        "`total` have the shape `(b, n, 1)`. Start with a maximum of -inf and sums of 0.",
    ),
    solution=streaming_attention,
    cases=streaming_cases,
)

EXERCISES = with_mistakes(
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

# --------------------------------------------------------------------------------------------- quiz

QUESTIONS = (
    Question(
        "In a model, the padding tokens get a third of all attention. You mask them in every layer "
        "and generate again from the same noise, and the image doesn't change. What follows?",
        (
            Answer(
                "The attention maps were computed wrongly: a third of the attention must matter.",
                False,
                "The maps are right, but attention changes an image only through the values it "
                "brings. Other tokens may bring the same, or later layers may ignore them.",
            ),
            Answer(
                "The values of the padding tokens are all zero.",
                False,
                "They need not be, since other tokens may bring the same. And even with zero "
                "values the image could change, because masking a token makes the weights of the "
                "others grow.",
            ),
            Answer(
                "This image did not depend on the padding, whatever its share of the attention.",
                True,
                "Only the intervention, masking and generating again, shows what depends on what, "
                "and only for this image and this noise. An attention map can't show it.",
            ),
            Answer(
                "The padding is never needed and may be masked for every prompt.",
                False,
                "You have tested one image and one prompt. Other tokens may have carried the same "
                "information, and without them the padding might be needed.",
            ),
        ),
    ),
    Question(
        "You double the height and the width of a feature map. By what factor does the number of "
        "scores grow in self-attention, and by what factor in cross-attention to the text?",
        (
            Answer(
                "16 and 4",
                True,
                "There are 4 times as many tokens n. Self-attention has n · n scores and "
                "cross-attention n · m, and the number m of text tokens stays the same.",
            ),
            Answer(
                "4 and 4",
                False,
                "There are 4 times as many tokens, but in self-attention they provide both queries "
                "and keys, so the factor is 4 times 4.",
            ),
            Answer(
                "16 and 16",
                False,
                "Right for self-attention. In cross-attention only the queries come from the "
                "feature map; the number of text tokens does not grow.",
            ),
        ),
    ),
    Question(
        "You shuffle the positions of a feature map, send it through self-attention, and undo the "
        "shuffle. What has changed, compared with no shuffle?",
        (
            Answer(
                "The neighbours of each position, and therefore the result.",
                False,
                "Attention has no notion of neighbours. Every position attends to all others, and "
                "nothing tells it where they are. A convolution would notice.",
            ),
            Answer(
                "Nothing.",
                True,
                "Each query meets the same keys and values in another order, and a sum does not "
                "depend on the order. In Stable Diffusion the convolutions supply the positions.",
            ),
            Answer(
                "Only the attention weights; the result is the same.",
                False,
                "The weights move along with the tokens and come back with them, just as the "
                "result does.",
            ),
        ),
    ),
)
