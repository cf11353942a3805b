"""Exercises and quiz of notebook 05, the text encoder."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sdlearn.course.grading.exercise import Answer, Case, Exercise, Mistake, Question, normal

Pair = tuple[str, str]

# ----------------------------------------------------------------------------- 05.1 spelling a word


def spell(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """A word, and pairs of pieces that may be merged, earliest learnt first -> its pieces."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    while True:
        pairs = list(pairwise(pieces))
        known = [pair for pair in pairs if pair in merges]
        if not known:
            return pieces
        best = min(known, key=merges.index)
        longer, i = [], 0
        while i < len(pieces):
            step = 2 if tuple(pieces[i : i + 2]) == best else 1
            longer.append("".join(pieces[i : i + step]))
            i += step
        pieces = longer


def letters(word: str) -> list[str]:
    return [*word[:-1], word[-1] + "</w>"]


def joined(pieces: list[str], pair: Pair) -> list[str]:
    """Every occurrence of the pair as one piece, from left to right."""
    longer: list[str] = []
    i = 0
    while i < len(pieces):
        step = 2 if tuple(pieces[i : i + 2]) == pair else 1
        longer.append("".join(pieces[i : i + step]))
        i += step
    return longer


def merged_while(
    pieces: list[str],
    merges: list[Pair],
    choose: Callable[[list[Pair]], Pair],
    rounds: int = 1000,
    join: Callable[[list[str], Pair], list[str]] = joined,
) -> list[str]:
    for _ in range(rounds):
        known = [p for p in pairwise(pieces) if p in merges]
        if not known:
            break
        pieces = join(pieces, choose(known))
    return pieces


def once_through(word: str, merges: list[Pair]) -> list[str]:
    pieces = letters(word)
    for pair in merges:
        pieces = joined(pieces, pair)
    return pieces


def pass_after_pass(word: str, merges: list[Pair]) -> list[str]:
    pieces = letters(word)
    while any(pair in merges for pair in pairwise(pieces)):
        for pair in merges:
            pieces = joined(pieces, pair)
    return pieces


def joined_from_the_right(pieces: list[str], pair: Pair) -> list[str]:
    turned = joined(pieces[::-1], (pair[1], pair[0]))
    return ["".join(pair) if piece == pair[1] + pair[0] else piece for piece in turned[::-1]]


def joined_first_only(pieces: list[str], pair: Pair) -> list[str]:
    i = list(pairwise(pieces)).index(pair)
    return [*pieces[:i], "".join(pair), *pieces[i + 2 :]]


def joined_overlapping(pieces: list[str], pair: Pair) -> list[str]:
    longer: list[str] = []
    for i, piece in enumerate(pieces):
        if tuple(pieces[i : i + 2]) == pair:
            longer.append("".join(pair))
        elif i == 0 or tuple(pieces[i - 1 : i + 1]) != pair:
            longer.append(piece)
    return longer


def joined_as_text(pieces: list[str], pair: Pair) -> list[str]:
    return " ".join(pieces).replace(" ".join(pair), "".join(pair)).split(" ")


def longest_first(word: str, merges: list[Pair]) -> list[str]:
    vocabulary = {*letters(word), *("".join(pair) for pair in merges)}
    rest, pieces = word + "</w>", []
    while rest:
        ends = [k for k in range(1, len(rest) + 1) if rest[:k] in vocabulary or k == 1]
        pieces.append(rest[: ends[-1]])
        rest = rest[ends[-1] :]
    return pieces


SPELLINGS: tuple[tuple[str, tuple[Pair, ...]], ...] = (
    ("lighthouse", (("gh", "t</w>"), ("h", "o"), ("u", "s"), ("ho", "us"), ("e", "s"),
                    ("hous", "e</w>"), ("g", "h"), ("gh", "t"), ("i", "ght"))),
    ("abcd", (("b", "c"), ("a", "b"), ("c", "d</w>"), ("ab", "cd</w>"))),
    ("abcd", (("b", "c"), ("bc", "d</w>"), ("a", "b"), ("a", "bcd</w>"))),
    ("aaab", (("a", "a"), ("a", "b</w>"))),
    ("tattat", (("a", "t</w>"), ("a", "t"), ("t", "at"), ("t", "at</w>"), ("tat", "tat</w>"))),
    ("xababc", (("x", "a"), ("a", "b"), ("b", "ab"))),
    ("a", (("a", "a"),)),
    # Not in an order that could have been learnt: a join makes a pair that stands further in front.
    ("light", (("gh", "t</w>"), ("g", "h"))),
    ("abcd", (("ab", "c"), ("a", "b"), ("c", "d</w>"))),
    ("abcde", (("abcd", "e</w>"), ("abc", "d"), ("ab", "c"), ("a", "b"))),
    # A pair at two places, whose first join makes a pair that would use up the second.
    ("abxabc", (("x", "ab"), ("ab", "x"), ("a", "b"), ("b", "c</w>"))),
    ("ababa", (("ab", "a"), ("a", "b"), ("ab", "a</w>"))),
    ("banana", (("an", "a"), ("a", "n"), ("b", "an"))),
)  # fmt: skip


def spell_cases(_: Generator) -> Iterator[Case]:
    for word, merges in SPELLINGS:
        yield Case((word, list(merges)))


SPELL = Exercise(
    number="05.1",
    title="Spelling a word",
    minutes=12,
    difficulty=1,
    statement="Section 1 *learns* merges. Now use them: cut one new word into pieces as CLIP's "
    "tokenizer does. Begin with its letters, the last one marked with `</w>`. Among the pairs of "
    "neighbours that stand in `merges`, take the one that stands **first** there, that is, which "
    "was learnt earliest, and join it wherever it occurs in the word, from left to right, using no "
    "piece twice. Then look at the pairs of neighbours again, as they are now, and repeat until "
    "none of them stands in `merges`. The rule holds for any list; some of those that `check` "
    "tries cannot have been learnt in their order.",
    hints=(
        "There are two loops: the outer one chooses a pair, the inner one walks through the pieces "
        "and joins it. What ends the outer one?",
        "`min(pairs, key=merges.index)` is the earliest learnt among some pairs. The outer loop "
        "ends when none of the neighbouring pairs is in `merges`.",
        "For the inner loop, count with an index: where `(pieces[i], pieces[i + 1])` is the chosen "
        "pair, append both as one and go on at `i + 2`; else append `pieces[i]` and go on at "
        "`i + 1`.",
    ),
    solution=spell,
    cases=spell_cases,
    trained=False,
    mistakes=(
        Mistake(
            "from the left",
            lambda word, merges: merged_while(letters(word), merges, lambda known: known[0]),
            "You join the first pair from the left that is in the list. The order in the list "
            "decides, not the place in the word: the pair that was learnt earliest comes first. "
            "You would notice other numbers than the model was trained with, for some words only.",
        ),
        Mistake(
            "the longest piece",
            longest_first,
            "You take the longest known piece from the left. That is how other tokenizers work "
            "(WordPiece); byte-pair encoding repeats its merges in the order in which they were "
            "learnt, and that can end in shorter pieces.",
        ),
        Mistake(
            "no end mark",
            lambda word, merges: merged_while([*word], merges, lambda k: min(k, key=merges.index)),
            "Your last letter has no `</w>`. Without the mark, the *cat* of *catfish* and the word "
            "*cat* are the same piece, and most merges of word ends never happen.",
        ),
        Mistake(
            "an end mark of its own",
            lambda word, merges: merged_while(
                [*word, "</w>"], merges, lambda k: min(k, key=merges.index)
            ),
            "Your end mark is a piece of its own. In CLIP's vocabulary it is part of the last "
            "letter: `t</w>` is one piece from the beginning.",
        ),
        Mistake(
            "one merge",
            lambda word, merges: merged_while(
                letters(word), merges, lambda k: min(k, key=merges.index), rounds=1
            ),
            "You stop after one merge. What it joined can be joined again with its neighbours; go "
            "on until no pair is left that stands in the list.",
        ),
        Mistake(
            "one place at a time",
            lambda word, merges: merged_while(
                letters(word), merges, lambda k: min(k, key=merges.index), join=joined_first_only
            ),
            "You join the first place where the pair occurs, and then look at all pairs again. The "
            "pair must be joined at *every* place first: what the first join has made can form a "
            "pair that is earlier in the list, and takes the letters of the second place away.",
        ),
        Mistake(
            "once through the list",
            once_through,
            "You go through the list once, from its first pair to its last. With a list in the "
            "order in which it was learnt that does no harm. But the rule looks at *all* pairs "
            "again after every join: joining `g` and `h` makes the neighbours `gh` and `t</w>`, "
            "and their pair may stand further in front.",
        ),
        Mistake(
            "pass after pass",
            pass_after_pass,
            "You go through the list again and again, but each time to its end. After a join "
            "begin at the front: a pair there may have come about just now, and it goes before "
            "all that are further back.",
        ),
        Mistake(
            "the latest",
            lambda word, merges: merged_while(
                letters(word), merges, lambda k: max(k, key=merges.index)
            ),
            "You join the pair that was learnt latest. Early merges are the frequent ones, of "
            "which later ones are built: a late pair taken first can use up a letter that an "
            "earlier one needs.",
        ),
        Mistake(
            "a piece twice",
            lambda word, merges: merged_while(
                letters(word),
                merges,
                lambda k: min(k, key=merges.index),
                join=joined_overlapping,
            ),
            "You use a piece twice: in `a a a` the pair `a a` stands at two overlapping places, "
            "but after the first is joined, its second `a` is gone. The word has grown longer: "
            "put the pieces together and compare.",
        ),
        Mistake(
            "from the right",
            lambda word, merges: merged_while(
                letters(word),
                merges,
                lambda k: min(k, key=merges.index),
                join=joined_from_the_right,
            ),
            "You join from the right: of `a a a` you make `a aa`. The walk goes from left to "
            "right: `aa a`.",
        ),
        Mistake(
            "joined as text",
            lambda word, merges: merged_while(
                letters(word), merges, lambda k: min(k, key=merges.index), join=joined_as_text
            ),
            "You join by replacing text (`'a b'` by `'ab'` in a line with blanks). That also finds "
            "the pair inside longer pieces: `a b` stands in `xa ba`, too. Compare whole pieces.",
        ),
    ),
)

# ------------------------------------------------------------------------ 05.2 seventy-seven places


def frame(ids: list[int], length: int, start: int, end: int, pad: int) -> list[int]:
    """The numbers of a caption's tokens -> exactly `length` numbers, as CLIP arranges them."""
    row = [start, *ids[: length - 2], end]
    return row + [pad] * (length - len(row))


def frame_cases(rng: Generator) -> Iterator[Case]:
    for n, length, pad in ((7, 12, 99), (3, 77, 0), (6, 8, 99), (7, 8, 99), (12, 8, 0), (0, 5, 99)):
        ids = torch.randint(1, 90, (n,), generator=rng).tolist()
        yield Case((ids, length, 98, 99, pad))


FRAME = Exercise(
    number="05.2",
    title="A fixed number of places",
    minutes=6,
    difficulty=1,
    statement="Put the tokens of one caption into a row of exactly `length` numbers: the start "
    "token, the caption, the end token, and then `pad` until the row is full. Where the caption is "
    "too long it loses its last tokens. Mind that a row always holds start *and* end, whatever is "
    "cut. Give back a list.",
    hints=(
        "How many of the `length` places are left for the caption itself?",
        "Cut the caption *before* start and end are put around it. A slice that is longer than the "
        "list does no harm.",
        "`row = [start, *ids[: length - 2], end]`, and then as many times `pad` as are missing.",
    ),
    solution=frame,
    cases=frame_cases,
    trained=False,
    mistakes=(
        Mistake(
            "the end cut off",
            lambda ids, length, start, end, pad: ([start, *ids, end] + [pad] * length)[:length],
            "You cut the whole row, and with a long caption the end token is cut off. It is the "
            "one whose state sums up the text. Cut the caption, then put start and end around it.",
        ),
        Mistake(
            "two too long",
            lambda ids, length, start, end, pad: (
                [start, *ids[:length], end] + [pad] * (length - len(ids[:length]))
            ),
            "Your row has `length` places for the caption, and start and end besides. They count: "
            "of 77 places a caption can use 75.",
        ),
        Mistake(
            "no start",
            lambda ids, length, start, end, pad: (
                [*ids[: length - 1], end] + [pad] * (length - 1 - len(ids[: length - 1]))
            ),
            "The start token is missing. Then every token stands one place too early, where "
            "another vector is added to it than in training.",
        ),
        Mistake(
            "no end",
            lambda ids, length, start, end, pad: (
                [start, *ids[: length - 1]] + [pad] * (length - 1 - len(ids[: length - 1]))
            ),
            "Your row has no end token of its own. While `pad` is the same number nobody notices, "
            "except in captions that fill the row; with another `pad` the end is missing always.",
        ),
        Mistake(
            "filled with the end",
            lambda ids, length, start, end, pad: (
                [start, *ids[: length - 2], end] + [end] * (length - 2 - len(ids[: length - 2]))
            ),
            "You always fill with the end token. Stable Diffusion 1 does, but version 2 and the "
            "second encoder of SDXL fill with the number 0. The U-Net reads the filling: it must "
            "be the one of training.",
        ),
        Mistake(
            "filled before the end",
            lambda ids, length, start, end, pad: [
                start,
                *ids[: length - 2],
                *[pad] * (length - 2 - len(ids[: length - 2])),
                end,
            ],
            "Your filling stands before the end token. The end comes right behind the last word, "
            "and the filling behind it.",
        ),
        Mistake(
            "filled in front",
            lambda ids, length, start, end, pad: (
                [pad] * (length - 2 - len(ids[: length - 2])) + [start, *ids[: length - 2], end]
            ),
            "Your filling stands in front. The places have vectors of their own: a caption must "
            "begin at place 0, as in training.",
        ),
        Mistake(
            "the beginning cut off",
            lambda ids, length, start, end, pad: (
                [start, *ids[-(length - 2) :], end] + [pad] * (length - 2 - len(ids[2 - length :]))
            ),
            "You keep the last tokens of a long caption and lose its beginning. It is the other "
            "way round: what stands behind the last place is not read.",
        ),
        Mistake(
            "a tensor",
            lambda ids, length, start, end, pad: torch.tensor(frame(ids, length, start, end, pad)),
            "Your numbers are right, but they are a tensor; a plain list of numbers is expected. "
            "A tensor is made later, of the rows of a whole batch, when all are equally long.",
        ),
        Mistake(
            "one word lost",
            lambda ids, length, start, end, pad: (
                [start, *ids[: length - 3], end] + [pad] * (length - 2 - len(ids[: length - 3]))
            ),
            "You leave one place less to the caption than it has: `length` less start and end is "
            "`length - 2`.",
        ),
    ),
)

# ---------------------------------------------------------------------------- 05.3 only what is new


def look_back(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (b, n, d) of the last n of m tokens; k (b, m, d), v (b, m, e) of all -> (b, n, e)."""
    n, m = q.shape[1], k.shape[1]
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5  # (b, n, m)
    place = torch.arange(m)
    later = place[None, :] > place[m - n :, None]  # (n, m)
    return scores.masked_fill(later, float("-inf")).softmax(dim=-1) @ v


def scaled(q: Tensor, k: Tensor, power: float = 0.5) -> Tensor:
    return q @ k.transpose(1, 2) / q.shape[-1] ** power


def kept(q: Tensor, k: Tensor, shift: int | None = None) -> Tensor:
    """The lower triangle, True where a query may look; shift 0 is the right one."""
    n, m = q.shape[1], k.shape[1]
    return torch.ones(n, m, dtype=torch.bool).tril(m - n if shift is None else m - n + shift)


def seen_with(q: Tensor, k: Tensor, v: Tensor, keep: Tensor, power: float = 0.5) -> Tensor:
    return scaled(q, k, power).masked_fill(~keep, float("-inf")).softmax(-1) @ v


def back_cases(rng: Generator) -> Iterator[Case]:
    for b, n, m, d, e, size, shift in (
        (2, 3, 7, 8, 5, 1, 0),
        (2, 4, 4, 4, 4, 1, 0),
        (1, 1, 5, 6, 3, 1, 0),
        (3, 5, 6, 4, 2, 300, 0),
        (2, 4, 6, 4, 3, 1, 20),  # all scores are very low: what is forbidden must be lower
    ):
        q, k, v = normal(rng, b, n, d), normal(rng, b, m, d), normal(rng, b, m, e)
        yield Case((size * q - shift, k + shift, v))


BACK = Exercise(
    number="05.3",
    title="Only what is new",
    minutes=15,
    difficulty=2,
    statement="Two captions begin alike. By causality the states of the common beginning are the "
    "same, so they need not be computed again: it is enough to ask for the *last* tokens. Write "
    "causal attention of one head for that. There are $m$ tokens, with keys `k` and values `v`, "
    "and queries `q` only for the last $n$ of them, in order, with `n <= m`. Every query sees its "
    "own token and all before it. The result must be the last $n$ rows of what attention to all "
    "$m$ tokens would give.",
    hints=(
        "Query 0 does not belong to token 0. To which token does it belong, and how many tokens "
        "may it see?",
        "Query i belongs to token m - n + i. Compare that number with `torch.arange(m)`: what is "
        "larger comes later and is forbidden. The mask is `(n, m)`.",
        "`torch.ones(n, m, dtype=torch.bool).tril(m - n)` is True where a query may look. Give "
        "the other scores minus infinity, and only then take the softmax over the last axis.",
    ),
    solution=look_back,
    cases=back_cases,
    mistakes=(
        Mistake(
            "no shift",
            lambda q, k, v: seen_with(q, k, v, torch.ones(q.shape[1], k.shape[1]).tril() > 0),
            "Your mask begins at token 0: the first query sees the first token only. But it "
            "belongs to token m - n. With n = m you would not notice. (`is_causal=True` in "
            "PyTorch's attention has this corner, too: with n < m it means the first n.)",
        ),
        Mistake(
            "only the new keys",
            lambda q, k, v: seen_with(
                q, k[:, -q.shape[1] :], v[:, -q.shape[1] :], kept(q, k[:, -q.shape[1] :])
            ),
            "You cut keys and values down to the last n tokens. Only the queries are new: they "
            "still look at the whole text, the common beginning included. With n = m you would "
            "not notice.",
        ),
        Mistake(
            "not itself",
            lambda q, k, v: seen_with(q, k, v, kept(q, k, -1)),
            "Your tokens do not see themselves. The diagonal belongs to what is allowed; without "
            "it the first token sees nothing at all, and a softmax of nothing is nan.",
        ),
        Mistake(
            "one too many",
            lambda q, k, v: seen_with(q, k, v, kept(q, k, 1)),
            "Every query sees one token that comes after its own. In a model that predicts the "
            "next word this is the famous leak: the loss falls to nothing, and nothing is learnt.",
        ),
        Mistake(
            "the other triangle",
            lambda q, k, v: seen_with(q, k, v, kept(q, k, -1).logical_not()),
            "You forbid the past and allow the future: it is the other triangle. Rows are queries, "
            "columns are keys, and a query sees the columns to the left of its own.",
        ),
        Mistake(
            "zeros for scores",
            lambda q, k, v: (scaled(q, k) * kept(q, k)).softmax(-1) @ v,
            "You multiply the scores by 0 and 1. A score of 0 is not a weight of 0: exp(0) is 1. "
            "What is forbidden needs the score minus infinity.",
        ),
        Mistake(
            "added a one",
            lambda q, k, v: (scaled(q, k) + kept(q, k)).softmax(-1) @ v,
            "You add a mask of zeros and ones to the scores. That only gives a little less weight "
            "to the future. A mask that is added holds 0 where looking is allowed and minus "
            "infinity elsewhere.",
        ),
        Mistake(
            "zeros after the softmax",
            lambda q, k, v: scaled(q, k).softmax(-1) * kept(q, k) @ v,
            "You take the forbidden weights away after the softmax. The rest no longer adds up to "
            "one, and how much is left depends on the future. Mask the scores, before the softmax.",
        ),
        Mistake(
            "everything seen",
            lambda q, k, v: scaled(q, k).softmax(-1) @ v,
            "Every query sees every token, also those after its own. The states of a common "
            "beginning would change with what follows it, and could not be kept.",
        ),
        Mistake(
            "no scale",
            lambda q, k, v: seen_with(q, k, v, kept(q, k), power=0.0),
            "The mask is right, but the scores are not divided by √d.",
        ),
        Mistake(
            "scaled by the width of the values",
            lambda q, k, v: seen_with(q * (q.shape[-1] / v.shape[-1]) ** 0.5, k, v, kept(q, k)),
            "The mask is right, but you divide the scores by the root of the width of `v`. They "
            "are products of queries and keys, so d is the width of these; the values may have "
            "another one.",
        ),
        Mistake(
            "softmax over the queries",
            lambda q, k, v: scaled(q, k).masked_fill(~kept(q, k), float("-inf")).softmax(1) @ v,
            "Your softmax runs over the queries, axis 1. Every query shares out its own weight of "
            "one among the tokens it sees: the last axis.",
        ),
    ),
)

# ------------------------------------------------------------------------------ 05.4 wrong captions


def matching_loss(images: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """images (b, d); texts (m, d), m >= b: the first b belong to the images, the rest to none."""
    images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    logits = images @ texts.T / temperature  # (b, m)
    own = torch.arange(len(images))
    asked_by_texts = logits[:, : len(images)].T  # (b, b)
    return (F.cross_entropy(logits, own) + F.cross_entropy(asked_by_texts, own)) / 2


def matched(
    images: Tensor, texts: Tensor, scale: float, dim: int | None = -1, power: int = 1
) -> Tensor:
    if dim is not None:
        images, texts = F.normalize(images, dim=dim), F.normalize(texts, dim=dim)
    return power * images @ texts.T * scale


def both(logits: Tensor, columns: int | None = None) -> Tensor:
    b = len(logits)
    own = torch.arange(b)
    across = F.cross_entropy(logits[:, : columns or logits.shape[1]], own)
    return (across + F.cross_entropy(logits[:, :b].T, own)) / 2


def all_captions_ask(logits: Tensor, targets: int) -> Tensor:
    across = F.cross_entropy(logits, torch.arange(len(logits)))
    return (across + F.cross_entropy(logits.T, torch.arange(targets))) / 2


def all_captions_choose(logits: Tensor, rest: int | None) -> Tensor:
    """Every caption asks; those beyond the first b for picture `rest`, with None for k modulo b."""
    b, m = logits.shape
    k = torch.arange(m)
    right = k % b if rest is None else k.masked_fill(k >= b, rest)
    return (F.cross_entropy(logits, k[:b]) + F.cross_entropy(logits.T, right)) / 2


def loss_cases(rng: Generator) -> Iterator[Case]:
    for b, m, d, temperature in ((4, 7, 6, 0.3), (3, 3, 5, 0.07), (1, 4, 8, 0.5), (5, 6, 5, 1.0)):
        yield Case((3 * normal(rng, b, d), 0.5 * normal(rng, m, d), temperature))


LOSS = Exercise(
    number="05.4",
    title="Wrong captions",
    minutes=15,
    difficulty=3,
    statement="Make the loss of section 8 harder. Besides the $b$ captions that belong to the $b$ "
    "pictures of a batch, `texts` holds some that belong to none (captions with their colours "
    "exchanged, say). Every picture must find its own caption among *all* $m$; every one of the "
    "first $b$ captions must find its picture among the $b$ pictures; the additional captions look "
    "for nothing. The loss is the mean of the two directions. Neither input has length one, and "
    "the temperature is given as a number, not as a logarithm.",
    hints=(
        "Two cross-entropies on one matrix of cosines. Which shape does the matrix have, and which "
        "part of it does each direction use?",
        "`logits` is `(b, m)`. The pictures ask with whole rows; the right answer of row i is "
        "column i. For the captions, cut off the additional columns, and transpose.",
        "`own = torch.arange(b)`; the mean of `F.cross_entropy(logits, own)` and "
        "`F.cross_entropy(logits[:, :b].T, own)`, with `logits` the cosines divided by the "
        "temperature.",
    ),
    solution=matching_loss,
    cases=loss_cases,
    mistakes=(
        Mistake(
            "pictures only",
            lambda x, y, t: F.cross_entropy(matched(x, y, 1 / t), torch.arange(len(x))),
            "Only the pictures look for captions. The other direction is missing: then one picture "
            "may be near to all captions, and nothing pushes it away.",
        ),
        Mistake(
            "captions only",
            lambda x, y, t: F.cross_entropy(
                matched(x, y, 1 / t)[:, : len(x)].T, torch.arange(len(x))
            ),
            "Only the captions look for pictures, so the additional captions are never seen: they "
            "appear in the rows of the pictures alone.",
        ),
        Mistake(
            "additional captions left out",
            lambda x, y, t: both(matched(x, y, 1 / t), columns=len(x)),
            "You leave the additional captions out of both directions. They ask for nothing, but "
            "the pictures must not choose them: they belong into the pictures' cross-entropy.",
        ),
        Mistake(
            "all captions ask",
            lambda x, y, t: all_captions_ask(matched(x, y, 1 / t), len(y)),
            "You let all m captions ask. The additional captions have no picture; only the first "
            "b ask. As soon as there is an additional one, its right answer would be a picture "
            "that does not exist, and `F.cross_entropy` stops.",
        ),
        Mistake(
            "more questions than answers",
            lambda x, y, t: all_captions_ask(matched(x, y, 1 / t), len(x)),
            "You hand all m captions to the second cross-entropy, with b right answers. The "
            "additional captions have no picture, so they must not ask: cut them off before you "
            "transpose.",
        ),
        Mistake(
            "additional captions choose the last picture",
            lambda x, y, t: all_captions_choose(matched(x, y, 1 / t), len(x) - 1),
            "The additional captions choose a picture, too, and you give them the last one for a "
            "right answer. They belong to none: only the first b captions may ask.",
        ),
        Mistake(
            "additional captions begin again",
            lambda x, y, t: all_captions_choose(matched(x, y, 1 / t), None),
            "The additional captions choose a picture, too: you count their right answers round "
            "and round. They belong to none: only the first b captions may ask.",
        ),
        Mistake(
            "additional captions choose the first picture",
            lambda x, y, t: all_captions_choose(matched(x, y, 1 / t), 0),
            "The additional captions choose a picture, too, and you give them the first one for a "
            "right answer. They belong to none: only the first b captions may ask.",
        ),
        Mistake(
            "the same direction twice",
            lambda x, y, t: (
                (
                    F.cross_entropy(matched(x, y, 1 / t), torch.arange(len(x)))
                    + F.cross_entropy(matched(x, y, 1 / t)[:, : len(x)], torch.arange(len(x)))
                )
                / 2
            ),
            "Both of your cross-entropies go along the rows: a transpose is missing. "
            "`F.cross_entropy` always takes the last axis for the choices.",
        ),
        Mistake(
            "times the temperature",
            lambda x, y, t: both(matched(x, y, t)),
            "You multiply by the temperature; the cosines are *divided* by it. Multiplied by a "
            "small number all choices look alike, and the loss hardly leaves ln b.",
        ),
        Mistake(
            "no temperature",
            lambda x, y, t: both(matched(x, y, 1.0)),
            "You never use the temperature. Cosines end at 1, and a softmax of numbers between -1 "
            "and 1 can never be sure of anything: the loss has a floor that no training gets "
            "through.",
        ),
        Mistake(
            "the temperature as a logarithm",
            lambda x, y, t: both(matched(x, y, torch.tensor(t, dtype=x.dtype).exp().item())),
            "You multiply by `exp` of the temperature. Models keep a logarithm, to learn it; here "
            "the number itself is given, and the cosines are divided by it.",
        ),
        Mistake(
            "divided by the exponential",
            lambda x, y, t: both(matched(x, y, torch.tensor(-t, dtype=x.dtype).exp().item())),
            "You divide by `exp` of the temperature. The number that is given is the temperature "
            "itself, and no logarithm of anything: divide by it as it is.",
        ),
        Mistake(
            "not normalised",
            lambda x, y, t: both(matched(x, y, 1 / t, dim=None)),
            "You do not bring the vectors to length one. Then a long vector is near to everything, "
            "and the networks can lower the loss by growing instead of turning.",
        ),
        Mistake(
            "normalised along the batch",
            lambda x, y, t: both(matched(x, y, 1 / t, dim=0)),
            "You normalise along the batch (axis 0). Each *vector* shall have length one: the last "
            "axis. The result for one picture must not depend on the length of another.",
        ),
        Mistake(
            "softmax twice",
            lambda x, y, t: both(matched(x, y, 1 / t).softmax(-1)),
            "You apply a softmax before `F.cross_entropy`, which has one inside. It takes scores, "
            "not probabilities. The loss still falls, but slowly and never far.",
        ),
        Mistake(
            "the sum",
            lambda x, y, t: 2 * both(matched(x, y, 1 / t)),
            "You add the two directions; asked for is their mean.",
        ),
        Mistake(
            "distance for likeness",
            lambda x, y, t: both(matched(x, y, 1 / t, power=-1)),
            "Your scores have the wrong sign: the most alike pair gets the lowest one. Training "
            "would push what belongs together apart.",
        ),
    ),
)

# ---------------------------------------------------------------------------- 05.5 the text of SDXL


def sdxl_text(
    hidden_1: Tensor,
    hidden_2: Tensor,
    norm: nn.Module,
    projection: nn.Module,
    ids: Tensor,
    end: int,
) -> tuple[Tensor, Tensor]:
    """hidden_1 (layers + 1, b, n, d_1) and hidden_2 (layers' + 1, b, n, d_2): the embedding, then
    each layer's output, of two encoders. norm, projection: the second one's last parts. ids
    (b, n): what it read -> context (b, n, d_1 + d_2) and pooled (b, p)."""
    context = torch.cat([hidden_1[-2], hidden_2[-2]], dim=-1)
    first_end = (ids == end).int().argmax(dim=1)  # (b,)
    pooled = norm(hidden_2[-1])[torch.arange(len(ids)), first_end]
    return context, projection(pooled)


def at(states: Tensor, place: Tensor) -> Tensor:
    return states[torch.arange(len(states)), place]


def ends(ids: Tensor, end: int) -> Tensor:
    return (ids == end).int().argmax(1)


def last_ends(ids: Tensor, end: int) -> Tensor:
    return ids.shape[1] - 1 - (ids.flip(1) == end).int().argmax(1)


def sdxl_cases(rng: Generator) -> Iterator[Case]:
    for (layers, d_1), (more, d_2), p, filling in (
        ((3, 4), (5, 6), 3, 0),
        ((4, 5), (3, 5), 5, 0),
        ((2, 6), (4, 3), 4, 98),
    ):
        b, n, end = 3, 7, 98
        ids = torch.randint(1, 90, (b, n), generator=rng)
        ids[:, 0] = 97
        for row, stop in enumerate((3, 6, 4)):
            ids[row, stop] = end
            ids[row, stop + 1 :] = filling
        ids[0, 1] = 101  # a word that somebody added above the end token
        norm, projection = nn.LayerNorm(d_2).double(), nn.Linear(d_2, p, bias=False).double()
        with torch.no_grad():
            for parameter in (*norm.parameters(), *projection.parameters()):
                parameter.copy_(normal(rng, *parameter.shape))
        hidden = normal(rng, layers, b, n, d_1), normal(rng, more, b, n, d_2)
        yield Case((*hidden, norm, projection, ids, end))


def context_of(hidden_1: Tensor, hidden_2: Tensor, k: int = -2) -> Tensor:
    return torch.cat([hidden_1[k], hidden_2[k]], dim=-1)


SDXL_TEXT = Exercise(
    number="05.5",
    title="The text of SDXL",
    minutes=20,
    difficulty=3,
    statement="SDXL reads a prompt with two encoders (section 7). Put together what its U-Net is "
    "given. The **context** is the penultimate state of both, side by side in each token, without "
    "a norm. The **pooled** vector comes from the second encoder alone: its *last* state, "
    "normalised, at the *first* end token of each text, projected. What fills the row up may be "
    "the end token or another one, and somebody may have added words to the vocabulary, with "
    "numbers above that of the end token.",
    hints=(
        "`hidden_1[-1]` is what the last layer gives; which index is the layer before? Side by "
        "side means that a token's vector becomes longer, not that there are more tokens.",
        "`ids == end` is True at every end token. As whole numbers it is 0 and 1, and `argmax` "
        "gives the first place of the largest.",
        "`last = norm(hidden_2[-1])`, `pooled = last[torch.arange(b), first_end]`, and then the "
        "projection. The context is `torch.cat([hidden_1[-2], hidden_2[-2]], dim=-1)`.",
    ),
    solution=sdxl_text,
    cases=sdxl_cases,
    trained=False,
    mistakes=(
        Mistake(
            "last states",
            lambda x, y, norm, project, ids, end: (
                context_of(x, y, -1),
                project(at(norm(y[-1]), ends(ids, end))),
            ),
            "Your context is made of the last states; SDXL takes the layer before, in both "
            "encoders. The last layer was trained for the pooled vector, and nothing but it.",
        ),
        Mistake(
            "normed context",
            lambda x, y, norm, project, ids, end: (
                torch.cat([x[-2], norm(y[-2])], -1),
                project(at(norm(y[-1]), ends(ids, end))),
            ),
            "You normalise the context. Version 2 does that with its penultimate state; SDXL takes "
            "it as it is. The norm is only for the pooled vector here.",
        ),
        Mistake(
            "pooled from the penultimate",
            lambda x, y, norm, project, ids, end: (
                context_of(x, y),
                project(at(norm(y[-2]), ends(ids, end))),
            ),
            "Your pooled vector is taken from the penultimate state. It is the one that was "
            "compared with pictures in training, so it goes all the way: last layer, norm, "
            "projection.",
        ),
        Mistake(
            "pooled without the norm",
            lambda x, y, norm, project, ids, end: (
                context_of(x, y),
                project(at(y[-1], ends(ids, end))),
            ),
            "Your pooled vector misses the norm between the last layer and the projection.",
        ),
        Mistake(
            "not projected",
            lambda x, y, norm, project, ids, end: (
                context_of(x, y),
                at(norm(y[-1]), ends(ids, end)),
            ),
            "Your pooled vector is not projected. Where the projection is square no shape tells.",
        ),
        Mistake(
            "the highest number",
            lambda x, y, norm, project, ids, end: (
                context_of(x, y),
                project(at(norm(y[-1]), ids.argmax(1))),
            ),
            "You take the place of the highest number, as CLIP's first code did. The end token has "
            "the highest only until somebody adds words, as textual inversion does. Ask for "
            "`ids == end`.",
        ),
        Mistake(
            "the last token",
            lambda x, y, norm, project, ids, end: (context_of(x, y), project(norm(y[-1])[:, -1])),
            "You pool the last place of the row. Behind a short text there is only filling; what "
            "was trained is the state at the end token.",
        ),
        Mistake(
            "the last end token",
            lambda x, y, norm, project, ids, end: (
                context_of(x, y),
                project(at(norm(y[-1]), last_ends(ids, end))),
            ),
            "You pool at the last end token. Where the row is filled up with end tokens, too, the "
            "text ends at the first.",
        ),
        Mistake(
            "the start token",
            lambda x, y, norm, project, ids, end: (context_of(x, y), project(norm(y[-1])[:, 0])),
            "You pool at the first place, as is done in models that look both ways. In a causal "
            "one the start token has seen nothing: this vector is the same for every text.",
        ),
        Mistake(
            "the mean",
            lambda x, y, norm, project, ids, end: (context_of(x, y), project(norm(y[-1]).mean(1))),
            "You pool by the mean of all places, the filling included. CLIP takes one place, the "
            "end token, which has seen everything before it.",
        ),
        Mistake(
            "encoders exchanged",
            lambda x, y, norm, project, ids, end: (
                context_of(y, x),
                project(at(norm(y[-1]), ends(ids, end))),
            ),
            "The second encoder stands before the first. The U-Net's projections were trained on "
            "one order; the other has the same shape and means nothing.",
        ),
        Mistake(
            "one behind the other",
            lambda x, y, norm, project, ids, end: (
                torch.cat([x[-2], y[-2]], dim=1),
                project(at(norm(y[-1]), ends(ids, end))),
            ),
            "You put the two encoders' tokens one behind the other, along axis 1, so there would "
            "be 154 tokens. They stand side by side: each token's vector becomes longer, axis -1.",
        ),
    ),
)

EXERCISES = (SPELL, FRAME, BACK, LOSS, SDXL_TEXT)

# -------------------------------------------------------------------------------------------- quiz

QUESTIONS = (
    Question(
        "A prompt is `a red cat`. In which of the 77 states can the U-Net of Stable Diffusion 1 "
        "find that the cat is red?",
        (
            Answer(
                "Only in the state of `red`.",
                False,
                "That one knows `red`, but not yet of what: `cat` comes later. The tokens behind "
                "both can know.",
            ),
            Answer(
                "In the state of `cat`, of the end token and of everything that fills the row.",
                True,
                "`cat` is the first that has seen both words. Every token behind it sees them, "
                "too, the filling included, and the U-Net is given all 77 states without a mask.",
            ),
            Answer(
                "Only in the one vector that sums up the prompt.",
                False,
                "Stable Diffusion 1 does not use that vector. Its U-Net reads the states of the "
                "tokens.",
            ),
            Answer(
                "In all 77.",
                False,
                "Not in those of the start token, of `a` and of `red`: they come before `cat`, and "
                "nobody looks ahead.",
            ),
        ),
    ),
    Question(
        "You add a vector for the place to each token's vector, and then add everything up to one "
        "vector for the caption. Can it tell `a red cat and a blue house` from `a blue cat and a "
        "red house`?",
        (
            Answer(
                "Yes: the places say which word came first.",
                False,
                "They do, token by token. But in the sum it can no longer be seen which place "
                "belonged to which word.",
            ),
            Answer(
                "No: the sum is the same.",
                True,
                "The same words and the same places are added, in another order, and no training "
                "with twins can change that. Something must make a product of word and place, or "
                "let words look at each other, before the sum is taken.",
            ),
            Answer(
                "Only if the vectors are long enough.",
                False,
                "The two sums are equal at any length.",
            ),
        ),
    ),
    Question(
        "CLIP's loss compares pictures with the pooled vectors of their captions, and with nothing "
        "else of the text. Of which states in the last layer has it ever asked anything?",
        (
            Answer(
                "Of all 77.",
                False,
                "Pooling picks one row of the last layer; no way leads from the loss to the rest.",
            ),
            Answer(
                "Of those of the caption, but not of the filling.",
                False,
                "That is so one layer below, in the penultimate states: there the end token of the "
                "last layer has looked at them.",
            ),
            Answer(
                "Of the one at the first end token.",
                True,
                "The pooled vector is made of that one. The others came along, untrained: a reason "
                "to take the penultimate states. Stable Diffusion 1 takes the last ones all the "
                "same.",
            ),
        ),
    ),
)
