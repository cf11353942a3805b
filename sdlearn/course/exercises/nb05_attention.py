"""Exercises and quiz of notebook 05, attention."""

from collections.abc import Iterator

import torch
from torch import Generator, Tensor, nn

from sdlearn.attention import Attention, GatedFeedForward
from sdlearn.course.exercise import Answer, Case, Exercise, Mistake, Question, normal

# ----------------------------------------------------------------------------------- 05.1 one query


def look_once(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What one query sees: q (b, d), k (b, m, d), v (b, m, e) -> (b, e)."""
    scores = torch.einsum("bd,bmd->bm", q, k) / q.shape[-1] ** 0.5
    weights = scores.softmax(dim=-1)  # (b, m)
    return torch.einsum("bm,bme->be", weights, v)


def look_with(q: Tensor, k: Tensor, v: Tensor, power: float = 0.5, dim: int = -1) -> Tensor:
    scores = torch.einsum("bd,bmd->bm", q, k) / q.shape[-1] ** power
    return torch.einsum("bm,bme->be", scores.softmax(dim), v)


def look_by(q: Tensor, k: Tensor, v: Tensor, width: int) -> Tensor:
    scores = torch.einsum("bd,bmd->bm", q, k) / width**0.5
    return torch.einsum("bm,bme->be", scores.softmax(-1), v)


def scaled(q: Tensor, k: Tensor) -> Tensor:
    return torch.einsum("bd,bmd->bm", q, k) / q.shape[-1] ** 0.5


# Oblong, square, a batch of one, a single place, and scores too large for exp.
SIZES = ((2, 8, 5, 3, 1), (4, 4, 4, 4, 1), (1, 6, 7, 2, 1), (3, 5, 1, 2, 1), (2, 5, 9, 6, 3000))


def look_cases(rng: Generator) -> Iterator[Case]:
    for b, d, m, e, size in SIZES:
        yield Case((size * normal(rng, b, d), normal(rng, b, m, d), normal(rng, b, m, e)))


LOOK = Exercise(
    number="05.1",
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
    mistakes=(
        Mistake(
            "no scale",
            lambda q, k, v: look_with(q, k, v, power=0.0),
            "Your scores are not divided by √d. Products of d numbers grow like √d, so the wider "
            "the heads, the closer each softmax comes to choosing one single place, and it stops "
            "learning. You would notice weights near 0 and 1 before any training.",
        ),
        Mistake(
            "scale by d",
            lambda q, k, v: look_with(q, k, v, power=1.0),
            "You divide the scores by d; it must be √d, the spread of a sum of d products. Divided "
            "by d they are nearly equal, and every query sees almost the mean of all values. You "
            "would notice attention maps that are flat and grey.",
        ),
        Mistake(
            "scale by the width of a value",
            lambda q, k, v: look_by(q, k, v, v.shape[-1]),
            "You divide by the root of e, the width of a value. The scores are products of queries "
            "and keys, so what counts is d, the number of terms in such a product. You would "
            "notice nothing as long as keys and values are equally wide.",
        ),
        Mistake(
            "scale by the number of places",
            lambda q, k, v: look_by(q, k, v, k.shape[1]),
            "You divide by the root of m, the number of places. That number does not enter a "
            "product of a query and a key; d, their width, does. You would notice that the same "
            "query becomes less certain of every place when others are added.",
        ),
        Mistake(
            "every query met every example",
            lambda q, k, v: (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v,
            "Your `q` needs an axis: as a `(b, d)` matrix it counts as b queries, and every query "
            "met every example of the batch, which is why your result has an axis too many. Make "
            "it one query an example, `q[:, None]`, and drop that axis at the end.",
        ),
        Mistake(
            "softmax over the batch",
            lambda q, k, v: look_with(q, k, v, dim=0),
            "Your softmax runs over the batch, the first axis, and not over the places. The "
            "examples of a batch now compete with each other. You would notice that the weights of "
            "one query do not add up to 1, and that a picture changes with its neighbours.",
        ),
        Mistake(
            "softmax of single numbers",
            lambda q, k, v: v.sum(dim=1),
            "Your result is the plain sum of all values: every weight is 1. Scores of shape "
            "`(b, m, 1)`, as `k @ q[..., None]` gives them, have their places on the axis before "
            "the last, and a softmax of a single number is 1. Take `dim=1`, or drop that axis.",
        ),
        Mistake(
            "keys for values",
            lambda q, k, v: torch.einsum("bm,bmd->bd", scaled(q, k).softmax(-1), k),
            "You sum the keys where the values belong. The key says what a place offers and is "
            "only compared; what the query takes home is the value. With shapes like here you "
            "would notice a result of width d where e is expected.",
        ),
        Mistake(
            "no softmax",
            lambda q, k, v: torch.einsum("bm,bme->be", scaled(q, k), v),
            "You use the scores as weights, without softmax. They can be negative and add up to "
            "anything, so the result is no mean of the values. You would notice results larger "
            "than every value.",
        ),
        Mistake(
            "divided by the sum",
            lambda q, k, v: torch.einsum(
                "bm,bme->be", scaled(q, k) / scaled(q, k).sum(-1, keepdim=True), v
            ),
            "You divide the scores by their sum, but without the exponential before. Scores have "
            "both signs: their sum can be near 0, and weights become huge or negative. You would "
            "notice values that explode now and then.",
        ),
        Mistake(
            "only the best",
            lambda q, k, v: v[torch.arange(len(q)), scaled(q, k).argmax(-1)],
            "You take the value of the best place alone. Then no gradient reaches the scores: a "
            "choice cannot be improved by small steps. The softmax gives every place a share.",
        ),
        Mistake(
            "overflow",
            lambda q, k, v: torch.einsum(
                "bm,bme->be", scaled(q, k).exp() / scaled(q, k).exp().sum(-1, keepdim=True), v
            ),
            "Your formula is right, but `exp` of a large score is infinite (in float32 from 89 on) "
            "and inf / inf is nan. `softmax` first subtracts the largest score, which changes no "
            "weight. You would notice nan in the loss after some hours of training.",
        ),
    ),
)

# ---------------------------------------------------------------------------- 05.2 splitting heads


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(b, n, heads * d) -> (b, heads, n, d): head 0 gets the first d channels of every token."""
    b, n, width = x.shape
    return x.reshape(b, n, heads, width // heads).transpose(1, 2)


def split_cases(rng: Generator) -> Iterator[Case]:
    for b, n, heads, d in ((2, 5, 3, 4), (3, 3, 3, 3), (1, 7, 2, 5), (2, 4, 1, 6)):
        yield Case((normal(rng, b, n, heads * d), heads))


SPLIT = Exercise(
    number="05.2",
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
    mistakes=(
        Mistake(
            "reshape without transpose",
            lambda x, heads: x.reshape(x.shape[0], heads, x.shape[1], -1),
            "The shape is right and the numbers are not: a `reshape` straight to (b, heads, n, d) "
            "cuts the row of numbers at other places, so that tokens are mixed into heads. Cut "
            "the channels into (b, n, heads, d) first, then transpose. You would notice nothing "
            "but a model that learns badly, which is why this one lives for years.",
        ),
        Mistake(
            "heads left inside",
            lambda x, heads: x.reshape(x.shape[0], x.shape[1], heads, -1),
            "You stop at (b, n, heads, d). Attention takes the last two axes for tokens and "
            "channels, so the heads of one token would look at each other, and tokens never would. "
            "One `transpose(1, 2)` is missing.",
        ),
        Mistake(
            "every heads-th channel",
            lambda x, heads: x.reshape(*x.shape[:2], -1, heads).permute(0, 3, 1, 2),
            "Your heads take every heads-th channel instead of d neighbours: you cut the width "
            "into (d, heads), not (heads, d). A model trained this way works, but published "
            "weights would give nonsense in it.",
        ),
        Mistake(
            "heads in the batch",
            lambda x, heads: x.reshape(*x.shape[:2], heads, -1).transpose(1, 2).flatten(0, 1),
            "You fold the heads into the batch, (b * heads, n, d). Older code does that, and it "
            "computes the same; here the heads shall keep an axis of their own: leave out the last "
            "step.",
        ),
        Mistake(
            "heads before the batch",
            lambda x, heads: x.reshape(*x.shape[:2], heads, -1).permute(2, 0, 1, 3),
            "Your result is (heads, b, n, d). Batch comes first everywhere in this course; with a "
            "batch as large as the number of heads you would mix up examples and notice nothing.",
        ),
        Mistake(
            "tokens and channels swapped",
            lambda x, heads: x.reshape(*x.shape[:2], heads, -1).permute(0, 2, 3, 1),
            "Your last two axes are (d, n); they shall be (n, d). The products of queries and keys "
            "would compare channels instead of tokens: a d × d matrix where n × n is expected.",
        ),
    ),
)

# --------------------------------------------------------------------- 05.3 words that do not count


def read_words(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
    """q (b, n, d), k (b, m, d), v (b, m, e), lengths (b,) whole numbers, 1 to m -> (b, n, e)."""
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5  # (b, n, m)
    counts = torch.arange(k.shape[1]) < lengths[:, None]  # (b, m)
    scores = scores.masked_fill(~counts[:, None, :], float("-inf"))
    return scores.softmax(dim=-1) @ v


def counted(k: Tensor, lengths: Tensor) -> Tensor:
    return (torch.arange(k.shape[1]) < lengths[:, None])[:, None, :]  # (b, 1, m)


def scores_of(q: Tensor, k: Tensor, power: float = 0.5) -> Tensor:
    return q @ k.transpose(1, 2) / q.shape[-1] ** power


def masked(q: Tensor, k: Tensor, keep: Tensor, power: float = 0.5) -> Tensor:
    return scores_of(q, k, power).masked_fill(~keep, float("-inf"))


def low(number: str) -> Mistake:
    return Mistake(
        f"filled with {number}",
        lambda q, k, v, lengths: (
            scores_of(q, k).masked_fill(~counted(k, lengths), float(number)).softmax(-1) @ v
        ),
        f"Your fill of {number} is not low enough: use -inf. A real word can have a lower score "
        "still, and then the filling gets all the weight. Only exp(-inf) is 0 beside any score.",
    )


def lowered(number: str) -> Mistake:
    return Mistake(
        f"lowered by {number}",
        lambda q, k, v, lengths: (
            (scores_of(q, k) + float(number) * ~counted(k, lengths)).softmax(-1) @ v
        ),
        f"You add {number} to the scores of the filling. Where they lie higher than the words' by "
        "more than that, the filling still gets weight. Adding -inf, or filling with it, is the "
        "only way to *exactly* none.",
    )


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
    number="05.3",
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
    mistakes=(
        Mistake(
            "every word counts",
            lambda q, k, v, lengths: scores_of(q, k).softmax(-1) @ v,
            "You never use `lengths`: the filling gets weight, too. You would notice that the same "
            "caption gives another result when its batch is filled up to another length.",
        ),
        Mistake(
            "score zero",
            lambda q, k, v, lengths: (scores_of(q, k) * counted(k, lengths)).softmax(-1) @ v,
            "You set the scores of the filling to 0. A score of 0 is not a weight of 0: exp(0) is "
            "1, which is more than every word with a negative score gets. It must be -inf.",
        ),
        Mistake(
            "zero keys and values",
            lambda q, k, v, lengths: (
                scores_of(q, k * counted(k, lengths).mT).softmax(-1) @ (v * counted(k, lengths).mT)
            ),
            "You set the keys and values of the filling to zero. A zero key has score 0, not "
            "weight 0: the filling still gets a share, and what it brings is nothing, so the words "
            "add up to less than 1. Mask the scores.",
        ),
        *(low(number) for number in ("-100", "-1000", "-1e4", "-1e9")),
        *(lowered(number) for number in ("-1e4", "-1e9")),
        Mistake(
            "zeros after the softmax",
            lambda q, k, v, lengths: scores_of(q, k).softmax(-1) * counted(k, lengths) @ v,
            "You remove the filling after the softmax (from the weights or from the values). What "
            "it had is lost, and the rest adds up to less than 1. You would notice results that "
            "shrink the more filling there is. Mask the scores, before the softmax.",
        ),
        Mistake(
            "mended after the softmax",
            lambda q, k, v, lengths: (
                (late := scores_of(q, k).softmax(-1) * counted(k, lengths))
                / late.sum(-1, keepdim=True)
                @ v
            ),
            "You remove the filling after the softmax and divide by what is left. On paper that is "
            "right. But where the filling has by far the highest score, the words get 0 in the "
            "computer's numbers, and 0 / 0 is nan. Mask the scores, and nothing is lost.",
        ),
        Mistake(
            "one word too many",
            lambda q, k, v, lengths: masked(q, k, counted(k, lengths + 1)).softmax(-1) @ v,
            "You keep one word too many: counted from 0, the words of a caption of 3 are 0, 1 and "
            "2, so a word counts where its number is `<` the length, not `<=`.",
        ),
        Mistake(
            "the filling only",
            lambda q, k, v, lengths: masked(q, k, ~counted(k, lengths)).softmax(-1) @ v,
            "Your mask is the wrong way round: it keeps the filling and drops the words. "
            "`masked_fill` fills where its mask is True. You would notice nan for a caption of "
            "full length, where nothing is left.",
        ),
        Mistake(
            "queries masked",
            lambda q, k, v, lengths: (
                masked(q, k, counted(q, lengths).transpose(1, 2)).softmax(-1) @ v
            ),
            "You mask the queries, rows of the scores, instead of the words, their columns. A row "
            "of nothing but -inf has no softmax: it becomes nan, and that spreads everywhere.",
        ),
        Mistake(
            "softmax over the queries",
            lambda q, k, v, lengths: masked(q, k, counted(k, lengths)).softmax(1) @ v,
            "Your softmax runs over the queries (axis 1). Each query must share out its own "
            "weight of 1 among the words: the last axis. This mistake survives training, since "
            "shapes fit and losses fall; look whether the rows of the weights add up to 1.",
        ),
        Mistake(
            "no scale",
            lambda q, k, v, lengths: masked(q, k, counted(k, lengths), 0.0).softmax(-1) @ v,
            "The mask is right, but the scores are not divided by √d.",
        ),
        Mistake(
            "one length for all",
            lambda q, k, v, lengths: (
                masked(q, k, counted(k, lengths.max().expand(len(q)))).softmax(-1) @ v
            ),
            "You cut the whole batch at its longest caption. Every example has its own length, so "
            "the mask needs an axis for the batch: `(b, m)`.",
        ),
    ),
)

# ----------------------------------------------------------------------------------- 05.4 the bill


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
    number="05.4",
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
    mistakes=(
        Mistake(
            "one side for all tokens",
            lambda h, w, c, heads: 4 * h * c * c + 2 * h * h * c,
            "You count h tokens. Every position of the map is a token: n = h · w. With n = h a "
            "picture of double side would seem to cost 4 times as much in the scores; it is 16.",
        ),
        Mistake(
            "once for every head",
            lambda h, w, c, heads: 4 * h * w * c * c + 2 * (h * w) ** 2 * c * heads,
            "You count the full width c for every head. The heads share the channels: each is only "
            "c / heads wide, so heads of them take as many multiplications as one of width c. "
            "(They are not free in memory: each has its own n² scores.)",
        ),
        Mistake(
            "one head only",
            lambda h, w, c, heads: 4 * h * w * c * c + 2 * (h * w) ** 2 * c // heads,
            "You count the products of one head. There are `heads` of them, each of width "
            "c / heads; together they cost what one head of width c would.",
        ),
        Mistake(
            "one product",
            lambda h, w, c, heads: 4 * h * w * c * c + (h * w) ** 2 * c,
            "One product with an n × n matrix is missing: the scores are computed by q kᵀ, and "
            "then used once more, weights times v.",
        ),
        Mistake(
            "three projections",
            lambda h, w, c, heads: 3 * h * w * c * c + 2 * (h * w) ** 2 * c,
            "You count three projections; there is a fourth, `to_out`, which mixes the heads.",
        ),
        Mistake(
            "scores only",
            lambda h, w, c, heads: 2 * (h * w) ** 2 * c,
            "The projections are missing. They cost 4 n c², which is most of the bill while "
            "n < 2 c, as it is on the small levels of a U-Net.",
        ),
        Mistake(
            "projections only",
            lambda h, w, c, heads: 4 * h * w * c * c,
            "You count the projections alone. The two products with the scores are missing: q kᵀ "
            "and the weights times v, each with n² · d multiplications a head.",
        ),
        Mistake(
            "projections once",
            lambda h, w, c, heads: 4 * c * c + 2 * (h * w) ** 2 * c,
            "You count each projection for one token only. Every one of the n tokens is multiplied "
            "by the c × c matrix: a product of `(n, c)` with `(c, c)`.",
        ),
        Mistake(
            "projections of the heads",
            lambda h, w, c, heads: 4 * h * w * c * c // heads + 2 * (h * w) ** 2 * c,
            "Your projections are divided by the number of heads. A head gives only c / heads "
            "channels, but each of them is made from all c: together the heads need the whole "
            "c × c matrix.",
        ),
        Mistake(
            "additions, too",
            lambda h, w, c, heads: 2 * (4 * h * w * c * c + 2 * (h * w) ** 2 * c),
            "Exactly twice too much: you count multiplications and additions, the usual "
            "*floating-point operations*. Asked for are the multiplications.",
        ),
        Mistake(
            "scores without channels",
            lambda h, w, c, heads: 4 * h * w * c * c + 2 * (h * w) ** 2,
            "Each of the n² scores is a product over all channels, so n² must be multiplied by c.",
        ),
    ),
)

# ------------------------------------------------------------------------------ 05.5 a second voice


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


class PostNorm(TwoVoices):
    def forward(self, x: Tensor, text: Tensor, image: Tensor, scale: float) -> Tensor:
        x = self.norm1(x + self.attn1(x))
        x = self.norm2(x + self.to_text(x, text) + scale * self.to_image(x, image))
        return self.norm3(x + self.ff(x))


class NormedResidual(TwoVoices):
    def forward(self, x: Tensor, text: Tensor, image: Tensor, scale: float) -> Tensor:
        x = self.norm1(x)
        x = self.norm2(x + self.attn1(x))
        x = self.norm3(x + self.to_text(x, text) + scale * self.to_image(x, image))
        return x + self.ff(x)


class NoResidual(TwoVoices):
    def forward(self, x: Tensor, text: Tensor, image: Tensor, scale: float) -> Tensor:
        asking = self.norm2(self.attn1(self.norm1(x)))
        x = self.to_text(asking, text) + scale * self.to_image(asking, image)
        return self.ff(self.norm3(x))


class LeftOut(TwoVoices):
    """The block without one of its steps: a norm, the self-attention, or the way past a layer."""

    step = ""

    def forward(self, x: Tensor, text: Tensor, image: Tensor, scale: float) -> Tensor:
        norms = (self.norm1, self.norm2, self.norm3)
        norm1, norm2, norm3 = (
            nn.Identity() if self.step == f"norm{k}" else norm for k, norm in enumerate(norms, 1)
        )
        past1, past2, past3 = (float(self.step != f"past {k}") for k in (1, 2, 3))
        y = x if self.step == "attn1" else past1 * x + self.attn1(norm1(x))
        asking = norm2(x if self.step == "asking late" else y)
        y = past2 * y + self.to_text(asking, text) + scale * self.to_image(asking, image)
        return past3 * y + self.ff(norm3(y))


def without(step: str) -> type[TwoVoices]:
    return type("TwoVoices", (LeftOut,), {"step": step})


class OneAfterTheOther(TwoVoices):
    def forward(self, x: Tensor, text: Tensor, image: Tensor, scale: float) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.to_text(self.norm2(x), text)
        x = x + scale * self.to_image(self.norm2(x), image)
        return x + self.ff(self.norm3(x))


class NoNorm(TwoVoices):
    def forward(self, x: Tensor, text: Tensor, image: Tensor, scale: float) -> Tensor:
        x = x + self.attn1(x)
        x = x + self.to_text(x, text) + scale * self.to_image(x, image)
        return x + self.ff(x)


class Blend(TwoVoices):
    def forward(self, x: Tensor, text: Tensor, image: Tensor, scale: float) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        asking = self.norm2(x)
        x = x + (1 - scale) * self.to_text(asking, text) + scale * self.to_image(asking, image)
        return x + self.ff(self.norm3(x))


class ScaleOnBoth(TwoVoices):
    def forward(self, x: Tensor, text: Tensor, image: Tensor, scale: float) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        asking = self.norm2(x)
        x = x + scale * (self.to_text(asking, text) + self.to_image(asking, image))
        return x + self.ff(self.norm3(x))


class NoScale(TwoVoices):
    def forward(self, x: Tensor, text: Tensor, image: Tensor, scale: float) -> Tensor:
        return super().forward(x, text, image, 1.0)


class Swapped(TwoVoices):
    def forward(self, x: Tensor, text: Tensor, image: Tensor, scale: float) -> Tensor:
        return super().forward(x, image, text, scale)


class AskedByTheText(TwoVoices):
    def forward(self, x: Tensor, text: Tensor, image: Tensor, scale: float) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        asking = self.norm2(x)
        x = x + self.to_text(text, asking) + scale * self.to_image(image, asking)
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
    number="05.5",
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
    mistakes=(
        Mistake(
            "norm after",
            PostNorm,
            "You normalise the sum, after adding. That is the block of the first Transformer "
            "(post-norm). Stable Diffusion normalises what goes *into* each layer (pre-norm): "
            "`x = x + layer(norm(x))`. Published weights would give noise in yours, and deep "
            "stacks of it are harder to train.",
        ),
        Mistake(
            "residual of the normalised",
            NormedResidual,
            "You add to the normalised x, as in `x = norm(x); x = x + layer(x)`. The stream itself "
            "must go through untouched; only what is fed to the layer is normalised. You would "
            "notice that the block cannot pass a large x on, even when all its layers give 0.",
        ),
        Mistake(
            "no residual",
            NoResidual,
            "You replace x by what the layers give instead of adding to it. The way past the "
            "layers is missing, through which x, and the gradient, get by unharmed.",
        ),
        Mistake(
            "no way past the first layer",
            without("past 1"),
            "You replace x by what `attn1` gives: `x + ` is missing in the first line. After it "
            "nothing but means over the tokens is left of the stream.",
        ),
        Mistake(
            "no way past the voices",
            without("past 2"),
            "You replace x by what the two voices say: `x + ` is missing in the second line. The "
            "stream would know the text and the example, and have forgotten its own picture.",
        ),
        Mistake(
            "no way past the last layer",
            without("past 3"),
            "You return what `ff` gives without adding it to x: `x + ` is missing in the last "
            "line. Every layer adds to the stream; the last one, too.",
        ),
        Mistake(
            "no norm1",
            without("norm1"),
            "`attn1` gets x as it is: `norm1` is missing. Each layer reads a normalised x.",
        ),
        Mistake(
            "no norm2",
            without("norm2"),
            "Your two voices are asked with x as it is: `norm2` is missing. The larger the stream "
            "grows, the larger their scores, until each softmax chooses one single word.",
        ),
        Mistake(
            "no norm3",
            without("norm3"),
            "`ff` gets x as it is: `norm3` is missing. Its gates would open or close with the size "
            "of the stream and not with what it says.",
        ),
        Mistake(
            "no self-attention",
            without("attn1"),
            "`attn1` is never called: the positions do not look at each other. You would notice "
            "that what one position knows never reaches another one in this block.",
        ),
        Mistake(
            "asking with the old x",
            without("asking late"),
            "You take `norm2` of x as it was before `attn1` was added. The voices would be asked "
            "by positions that have not yet heard of each other: first add, then normalise.",
        ),
        Mistake(
            "one after the other",
            OneAfterTheOther,
            "Your picture is asked after the text was added: it gets another question. Both voices "
            "shall answer the same one, so keep `self.norm2(x)` and give it to both.",
        ),
        Mistake(
            "no norm",
            NoNorm,
            "Your layers get x as it is. Without `norm1`, `norm2` and `norm3` the scores grow with "
            "the stream from block to block, until every softmax chooses one place.",
        ),
        Mistake(
            "a blend",
            Blend,
            "You blend: (1 - scale) of the text and scale of the picture. The text shall keep its "
            "full say, and the picture's part be added on top.",
        ),
        Mistake(
            "both scaled",
            ScaleOnBoth,
            "You multiply both voices by the scale. With scale = 0 the text would fall silent, and "
            "the block would no longer be that of Stable Diffusion.",
        ),
        Mistake(
            "no scale",
            NoScale,
            "You never use `scale`. It lets a user say how much the example counts; at 0 it must "
            "not count at all.",
        ),
        Mistake(
            "voices exchanged",
            Swapped,
            "You give the picture to `to_text` and the text to `to_image`. Where both have the "
            "same width no shape complains; you would notice that `scale` turns down the text.",
        ),
        Mistake(
            "the text asks",
            AskedByTheText,
            "Your text and picture ask, and x answers. The first argument of `Attention` asks: its "
            "length is the result's. Here x asks, so it comes first.",
        ),
    ),
)

EXERCISES = (LOOK, SPLIT, WORDS, BILL, VOICES)

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
