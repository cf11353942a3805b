"""Exercises and quiz of notebook 04, attention."""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn

from sdlearn.attention import Attention, GatedFeedForward
from sdlearn.course.exercises.edits import with_mistakes
from sdlearn.course.grading.exercise import Answer, Case, Exercise, Question, normal

# ----------------------------------------------------------------------------------- 04.1 one query


def look_once(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What one query sees: q (b, d), k (b, m, d), v (b, m, e) -> (b, e)."""
    scores = torch.einsum("bd,bmd->bm", q, k) / q.shape[-1] ** 0.5
    weights = scores.softmax(dim=-1)  # (b, m)
    return torch.einsum("bm,bme->be", weights, v)


# Oblong, square, a batch of one, a single place, and scores too large for exp: in all examples, and
# in one beside two of usual scores, which the largest of the batch must not push to exp(...) = 0.
SIZES = (
    (2, 8, 5, 3, (1, 1)),
    (4, 4, 4, 4, (1, 1, 1, 1)),
    (1, 6, 7, 2, (1,)),
    (3, 5, 1, 2, (1, 1, 1)),
    (2, 5, 9, 6, (3000, 3000)),
    (3, 7, 8, 4, (1, 3000, 1)),
)


def look_cases(rng: Generator) -> Iterator[Case]:
    for b, d, m, e, sizes in SIZES:
        q = torch.tensor(sizes)[:, None] * normal(rng, b, d)
        yield Case((q, normal(rng, b, m, d), normal(rng, b, m, e)))


LOOK = Exercise(
    number="04.1",
    title="One query",
    minutes=5,
    difficulty=1,
    statement="Write attention for a single query in each example of a batch. `q` is `(b, d)`: one "
    "query. `k` is `(b, m, d)` and `v` is `(b, m, e)`: the keys and values of $m$ places to look "
    "at. Return what the query sees, `(b, e)`. The formula is the one of sections 1 and 2, with "
    "its scale; the scores may be very large, and the answer must still be finite.",
    hints=(
        "First one number for each place: how well does the query agree with its key? That is a "
        "product summed over `d`, so the scores are `(b, m)`.",
        "Divide by the root of `d`, the width of a key, then `softmax` along the places. "
        "`torch.einsum('bd,bmd->bm', q, k)` is one way to write the products.",
        "The answer is the sum of `weights[:, j, None] * v[:, j]` over all places j, which is "
        "`torch.einsum('bm,bme->be', weights, v)`.",
    ),
    solution=look_once,
    cases=look_cases,
)

# ---------------------------------------------------------------------------- 04.2 splitting heads


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(b, n, heads * d) -> (b, heads, n, d): head 0 gets the first d channels of every token."""
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
    statement="Take apart the channels of `x`, `(b, n, heads * d)`, so that every head has its own "
    "sequence: `(b, heads, n, d)`. Head 0 gets the first `d` channels of every token, head 1 the "
    "next `d`, and so on. Beware: there are several ways to get this *shape*, and only one of them "
    "puts the right numbers into it.",
    hints=(
        "Which axis is cut into pieces? Only the last one. Every token must keep its own channels.",
        "Cut first, and move axes afterwards: `(b, n, heads * d)` -> `(b, n, heads, d)` -> "
        "`(b, heads, n, d)`. `reshape` cuts axes; it never moves them.",
        "The first step is `x.reshape(b, n, heads, -1)`, the second `.transpose(1, 2)`.",
    ),
    solution=split_heads,
    cases=split_cases,
)

# --------------------------------------------------------------------- 04.3 words that do not count


def read_words(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """q (b, n, d), k (b, m, d), v (b, m, e), lengths (b,) whole numbers, 1 to m -> (b, n, e)."""
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5  # (b, n, m)
    counts = torch.arange(k.shape[1]) < lengths[:, None]  # (b, m)
    scores = scores.masked_fill(~counts[:, None, :], float("-inf"))
    return scores.softmax(dim=-1) @ v


def words_cases(rng: Generator) -> Iterator[Case]:
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


WORDS = Exercise(
    number="04.3",
    title="Words that do not count",
    minutes=15,
    difficulty=2,
    statement="Captions have different lengths, so they are filled up to the same number $m$ of "
    "tokens. Write attention of one head from the picture to the words that leaves out the "
    "filling: example $i$ has `lengths[i]` real words at the beginning of its `k` and `v`, and "
    "every query gives the others *exactly* no weight, while its weights still add up to one. (The "
    "real Stable Diffusion does not do this; its pictures look at the filling too.)",
    hints=(
        "Weights add up to one when the softmax is the last thing that happens to them. So the "
        "unwanted words must be gone before it. Which score gives a weight of exactly 0?",
        "exp(-inf) is 0. Build a mask `(b, m)` that says which words count, by comparing "
        "`torch.arange(m)` with `lengths[:, None]`.",
        "`scores` is `(b, n, m)`; the mask must be stretched over the queries: "
        "`scores.masked_fill(~counts[:, None, :], float('-inf'))`. Softmax over the last axis.",
    ),
    solution=read_words,
    cases=words_cases,
)

# ----------------------------------------------------------------------------------- 04.4 the bill


def multiplications(h: int, w: int, c: int, heads: int) -> int:
    """How many multiplications one self-attention layer takes for one feature map (c, h, w)."""
    n = h * w
    projections = 4 * n * c * c  # to_q, to_k, to_v, to_out
    products = 2 * n * n * c  # q k^T, and the weights times v: heads times n * n * (c / heads)
    # Answer to the question: the products cost more than the projections from n > 2 * c on.
    return projections + products


def bill_cases(_: Generator) -> Iterator[Case]:
    for h, w, c, heads in ((8, 6, 32, 4), (16, 16, 64, 8), (1, 5, 12, 3), (64, 48, 320, 8)):
        yield Case((h, w, c, heads))


BILL = Exercise(
    number="04.4",
    title="The bill",
    minutes=15,
    difficulty=2,
    statement="How many multiplications does one self-attention layer need for a feature map of "
    "`c` channels, `h` high and `w` wide, with `heads` heads of width `c / heads`? Count those "
    "inside the matrix products: four projections and the two products with the scores. Leave out "
    "the scale, the softmax and all additions. A matrix product of `(a, b)` with `(b, c)` takes "
    "`a * b * c` multiplications. When you have it: from how many tokens on do the two products "
    "with the scores cost more than the four projections? (The solution has the answer to this.)",
    hints=(
        "There are n = h · w tokens. Write down the shapes of every matrix product, one by one.",
        "Each projection is `(n, c)` times `(c, c)`. In one head, q kᵀ is `(n, d)` times `(d, n)` "
        "and the weights times v is `(n, n)` times `(n, d)`, with d = c / heads.",
        "Sum the two products over all heads: heads · n · n · d = n · n · c. The number of heads "
        "disappears, and the sum is 4 n c² + 2 n² c.",
    ),
    solution=multiplications,
    cases=bill_cases,
    trained=False,
)

# ------------------------------------------------------------------------------ 04.5 a second voice


class TwoVoices(nn.Module):
    """A transformer block that listens to a text and, at the same time, to an example picture."""

    def __init__(self, dim: int, heads: int, text_dim: int, image_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.to_text = Attention(dim, heads, text_dim)
        self.to_image = Attention(dim, heads, image_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = GatedFeedForward(dim)

    def forward(self, x: Tensor, text: Tensor, image: Tensor, scale: float) -> Tensor:
        """x (b, n, dim), text (b, m, text_dim), image (b, k, image_dim) -> (b, n, dim)."""
        x = x + self.attn1(self.norm1(x))
        asking = self.norm2(x)
        x = x + self.to_text(asking, text) + scale * self.to_image(asking, image)
        return x + self.ff(self.norm3(x))


def voices_cases(rng: Generator) -> Iterator[Case]:
    for b, n, m, k, build, scale in (
        (2, 6, 5, 3, (8, 2, 6, 10), 0.7),
        (2, 4, 4, 4, (6, 3, 6, 6), 0.4),
        (1, 5, 7, 2, (9, 3, 4, 4), 0.0),
    ):
        dim, _, text_dim, image_dim = build
        x, text, image = (
            normal(rng, b, n, dim),
            normal(rng, b, m, text_dim),
            normal(rng, b, k, image_dim),
        )
        yield Case((2 * x + 1, text, image, scale), build)


VOICES = Exercise(
    number="04.5",
    title="A second voice",
    minutes=25,
    difficulty=3,
    statement="Let a transformer block listen to an example picture besides the text, as the "
    "[IP-Adapter](https://arxiv.org/abs/2308.06721) does (here a little simplified). The block of "
    "section 8 gets a second cross-attention. Both ask with the *same* normalised `x`, at the same "
    "time, and what they see is added to the same stream, the picture's part multiplied by "
    "`scale`. With `scale = 0` this is exactly the block of Stable Diffusion. The layers are "
    "given; write `forward`.",
    hints=(
        "Begin with the `forward` of `TransformerBlock`. What has to change in its three lines?",
        "Only the second one. Keep `self.norm2(x)` under a name, since two layers ask with it.",
        "`x = x + self.to_text(asking, text) + scale * self.to_image(asking, image)`",
    ),
    solution=TwoVoices,
    cases=voices_cases,
)

EXERCISES = with_mistakes(__name__, LOOK, SPLIT, WORDS, BILL, VOICES)

# -------------------------------------------------------------------------------------------- quiz

QUESTIONS = (
    Question(
        "In some model the filling behind the prompt gets a third of all looks. You forbid every "
        "layer to look at it and draw again with the same noise: the picture stays as it was. What "
        "follows?",
        (
            Answer(
                "The maps were computed wrongly: what gets a third of the looks must matter.",
                False,
                "The looks are real. But a look moves the picture only by the value it brings, and "
                "other tokens may bring the same, or later layers may not care.",
            ),
            Answer(
                "The values of the filling are all zero.",
                False,
                "Not even then would nothing change: a weight spent on zeros is missing elsewhere, "
                "and when it is forbidden the other weights grow.",
            ),
            Answer(
                "This picture did not need the filling; how much it was looked at did not tell.",
                True,
                "Only the second drawing shows what depends on what, and only for this picture and "
                "this noise. A map counts looks. To find reasons one must change something.",
            ),
            Answer(
                "The filling is never needed, and may be left out for every prompt.",
                False,
                "One picture shows this for one picture. Where the words are forbidden, too, the "
                "filling may be all that is left to tell of the prompt.",
            ),
        ),
    ),
    Question(
        "A feature map is made twice as high and twice as wide. How many times more scores does "
        "self-attention compute, and how many times more cross-attention to the words?",
        (
            Answer(
                "16 and 4",
                True,
                "There are 4 times as many tokens n. Self-attention has n · n scores, "
                "cross-attention n · m, and the number m of words stays as it is.",
            ),
            Answer(
                "4 and 4",
                False,
                "There are 4 times as many tokens, but in self-attention they are on both sides "
                "of the scores: 4 times 4.",
            ),
            Answer(
                "16 and 16",
                False,
                "Right for self-attention. In cross-attention only the queries come from the map; "
                "the words do not become more.",
            ),
        ),
    ),
    Question(
        "You shuffle the positions of a feature map, send it through self-attention, and undo the "
        "shuffling. What has changed, compared with no shuffling?",
        (
            Answer(
                "The neighbours of each position, and so the result.",
                False,
                "Attention knows no neighbours: every position looks at all others, and nothing "
                "tells it where they are. Convolutions would notice.",
            ),
            Answer(
                "Nothing.",
                True,
                "Each query meets the same keys and values, in another order, and a sum has no "
                "order. In Stable Diffusion it is the convolutions around that know places.",
            ),
            Answer(
                "Only the weights; the result stays.",
                False,
                "The weights move along with the tokens and come back by the undoing, just as the "
                "result does.",
            ),
        ),
    ),
)
