"""Exercises and quiz of notebook 05, the text encoder."""

# The end-of-text token of a configuration may be None, and `ids == None` is a bool.
# mypy: disable-error-code="attr-defined"

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sdlearn.clip import CLIPTextConfig, Embeddings, Encoder
from sdlearn.clip import CLIPTextOutput as TextOutput
from sdlearn.course.exercises.edits import with_mistakes
from sdlearn.course.grading.exercise import Answer, Case, Exercise, Question, normal

Pair = tuple[str, str]
Inputs = Callable[[Generator], Iterator[Case]]

# What the notebook defines before the first exercise.


def letters(word: str) -> list[str]:
    """Spell a word; its last letter carries the end-of-word mark."""
    return [*word[:-1], word[-1] + "</w>"]


def join(pieces: Sequence[str], pair: Pair) -> list[str]:
    """Join the pair wherever it occurs, from left to right."""
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


# ----------------------------------------------------------------------------- 05.1 learning merges


def learn_merges(words: dict[str, int], number: int) -> list[tuple[str, str]]:
    """Words with their frequencies -> the first `number` merges, in order."""
    spelt = {word: letters(word) for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < number:
        counts: Counter[tuple[str, str]] = Counter()
        for word, pieces in spelt.items():
            for pair in pairwise(pieces):
                counts[pair] += words[word]
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        spelt = {word: join(pieces, best) for word, pieces in spelt.items()}
    return merges


def merge_cases(_: Generator) -> Iterator[Case]:
    for words, number in (
        ({"low": 5, "lower": 2, "newest": 6, "widest": 3}, 10),
        ({"banana": 2, "bandana": 1, "an": 4, "a": 9}, 6),
        ({"cat": 1, "catfish": 5, "at": 2, "fish": 1, "the": 3}, 7),
        ({"mississippi": 3, "miss": 2, "sip": 2}, 8),
        ({"aaaa": 1, "aa": 2}, 9),
        ({"a": 3}, 4),
        ({"red": 4, "reed": 3}, 0),
    ):
        yield Case((words, number))


MERGES = Exercise(
    number="05.1",
    title="Learning merges",
    minutes=12,
    difficulty=2,
    core=True,
    statement="Write the training loop of byte-pair encoding. `words` maps each word of a text to "
    "its frequency. Spell each word with `letters`, then repeat these steps:\n\n"
    "1. Count all pairs of neighbouring pieces, each weighted by the frequency of its word.\n"
    "2. Choose the most frequent pair. In a tie, take the one that Python sorts last.\n"
    "3. Append it to the list of merges, and `join` it in every word.\n\n"
    "Stop after `number` merges, or earlier if no pair is left, and return the list of pairs.",
    hints=(
        "Keep a dictionary from each word to its current pieces. Each pass of the loop counts the "
        "pairs, chooses one, appends it and replaces the pieces of all words.",
        "`pairwise(pieces)` gives the neighbours. With a `Counter`, `counts[pair] += words[word]` "
        "counts them.",
        "Choose with `max(counts, key=lambda pair: (counts[pair], pair))`. If the `Counter` is "
        "empty, every word is a single piece, and you can stop.",
    ),
    solution=learn_merges,
    cases=merge_cases,
    trained=False,
)

# ---------------------------------------------------------------------------- 05.2 causal attention


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k (b, heads, n, d), v (b, heads, n, e) -> (b, heads, n, e)."""
    n = q.shape[-2]
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (b, heads, n, n)
    mask = torch.full((n, n), float("-inf")).triu(1)
    return (scores + mask).softmax(dim=-1) @ v


def attention_cases(*sizes: tuple[tuple[int, ...], int, int, int, int]) -> Inputs:
    """Cases of causal attention: (batch, maybe heads), n queries, m keys, widths d and e."""

    def cases(rng: Generator) -> Iterator[Case]:
        # The last one has very low scores: a masked score must be lower still.
        for k, (batch, n, m, d, e) in enumerate(sizes):
            size, shift = 300 if k == 3 else 1, 20 if k == 4 else 0
            q, keys, v = (normal(rng, *batch, *shape) for shape in ((n, d), (m, d), (m, e)))
            yield Case((size * q - shift, keys + shift, v))

    return cases


causal_cases = attention_cases(
    ((2, 3), 5, 5, 4, 6),
    ((2, 4), 4, 4, 4, 4),
    ((1, 1), 1, 1, 3, 2),
    ((1, 2), 6, 6, 5, 3),
    ((2, 2), 5, 5, 4, 3),
)

CAUSAL = Exercise(
    number="05.2",
    title="The causal mask",
    minutes=6,
    difficulty=1,
    core=True,
    statement="Write scaled dot-product attention with a causal mask, for all heads at once. "
    "Token $i$ attends to itself and to the tokens before it.",
    hints=(
        "Compute the scores first. They form one square matrix per head, with queries in rows and "
        "keys in columns. On which side of the diagonal are the later tokens?",
        "They are to the right of the diagonal. Set their scores to minus infinity before the "
        "softmax, because exp(-inf) is 0, but leave the diagonal itself as it is.",
        "`mask = torch.full((n, n), float('-inf')).triu(1)` is minus infinity above the diagonal "
        "and 0 elsewhere. Add it to the scores, then apply the softmax along the last axis.",
    ),
    solution=causal_attention,
    cases=causal_cases,
)

# -------------------------------------------------------------------------- 05.3 the whole encoder


class TextTransformer(nn.Module):
    """CLIP's text encoder. Its parts have their published names."""

    def __init__(self, config: "CLIPTextConfig") -> None:
        super().__init__()
        self.end = config.eos_token_id
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        d, projected = config.hidden_size, config.projection_dim
        self.final_layer_norm = nn.LayerNorm(d)
        self.text_projection = (
            nn.Identity() if projected is None else nn.Linear(d, projected, bias=False)
        )

    def forward(self, ids: Tensor) -> "TextOutput":
        """ids (b, n) -> TextOutput, whose pooled vectors are projected."""
        positions = self.embeddings.position_embedding.weight[: ids.shape[1]]  # (n, d)
        hidden = [self.embeddings.token_embedding(ids) + positions]
        for layer in self.encoder.layers:
            hidden.append(layer(hidden[-1]))
        last = self.final_layer_norm(hidden[-1])
        first_end = (ids == self.end).int().argmax(dim=1)  # (b,)
        pooled = last[torch.arange(len(ids)), first_end]
        return TextOutput(last, tuple(hidden), self.text_projection(pooled))


class SmallConfig(CLIPTextConfig):
    """A configuration with a short name for the checker's messages."""

    def __str__(self) -> str:
        return "config"


def encoder_cases(rng: Generator) -> Iterator[Case]:
    for b, n, longest, padding, d, projected in (
        (3, 7, 9, 98, 12, None),
        (3, 7, 7, 0, 8, 5),
        (1, 6, 8, 98, 6, 6),
        (4, 8, 8, 0, 8, None),
    ):
        config = SmallConfig(
            vocab_size=105, hidden_size=d, num_layers=2 + b % 2, num_heads=2,
            intermediate_size=2 * d, max_positions=longest, projection_dim=projected,
            eos_token_id=98, activation="gelu" if d == 8 else "quick_gelu",
        )  # fmt: skip
        ids = torch.randint(1, 90, (b, n), generator=rng)
        ids[:, 0] = 97
        for row, stop in enumerate((3, n - 1, 4, 2)[:b]):
            ids[row, stop] = 98
            ids[row, stop + 1 :] = padding
        ids[0, 1] = 101  # a word that was added after the end-of-text token
        yield Case((ids,), build=(config,))


ENCODER = Exercise(
    number="05.3",
    title="The whole encoder",
    minutes=12,
    difficulty=2,
    core=True,
    statement="Write `forward`, which turns token ids into the three outputs. `__init__` makes "
    "the parts.\n\n"
    "1. Look up the token embeddings of the ids, and add the first $n$ rows of "
    "`position_embedding.weight`. The sum is the first entry of `hidden`.\n"
    "2. Send it through `self.encoder.layers`, one after another, and append the output of each "
    "to `hidden`.\n"
    "3. Apply `final_layer_norm` to the output of the last layer. This is `last`.\n"
    "4. Find the *first* end-of-text token of each text (its id is `self.end`), pick its row of "
    "`last`, and apply `text_projection`. This is `pooled`.\n"
    "5. Return `TextOutput(last, tuple(hidden), pooled)`.\n\n"
    "Step 4 has two traps. The padding token may or may not be the end-of-text token, and words "
    "may have been added to the vocabulary with ids above `self.end`.",
    hints=(
        "Keep a list of hidden states that begins with the embeddings. Each layer takes the last "
        "entry of the list, and its output becomes the next. The norm and the pooling come after "
        "the loop.",
        "`ids == self.end` is True at every end-of-text token. Converted to integers it is 0 or "
        "1, and `argmax(dim=1)` returns the position of the first 1 in each row.",
        "`hidden = [self.embeddings.token_embedding(ids) + positions]`, and in the loop "
        "`hidden.append(layer(hidden[-1]))`. The pooled rows are "
        "`last[torch.arange(len(ids)), first_end]`.",
    ),
    solution=TextTransformer,
    cases=encoder_cases,
    trained=False,
)

# ------------------------------------------------------------------------------------- 05.4 InfoNCE


def info_nce(images: Tensor, texts: Tensor, log_scale: Tensor) -> Tensor:
    """images (b, d), texts (b, d), log_scale = ln(1 / temperature) -> a scalar."""
    images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    logits = images @ texts.T * log_scale.exp().clamp(max=100)  # (b, b)
    own = torch.arange(len(logits))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def info_nce_cases(rng: Generator) -> Iterator[Case]:
    for b, d, log_scale in ((4, 6, 1.2), (5, 5, 2.66), (3, 8, 0.0), (1, 4, 2.0), (3, 5, 5.5)):
        scale = torch.tensor(log_scale, dtype=torch.float64)
        yield Case((3 * normal(rng, b, d), 0.5 * normal(rng, b, d), scale))


INFO_NCE = Exercise(
    number="05.4",
    title="InfoNCE",
    minutes=10,
    difficulty=2,
    core=True,
    statement="Write the InfoNCE loss for a batch in which image $i$ belongs to text $i$.\n\n"
    "1. Scale all vectors to length 1.\n"
    "2. Compute the cosine of each image with each text, and multiply it by $1/\\tau$. Since "
    "`log_scale` is the logarithm of $1/\\tau$, use `log_scale.exp().clamp(max=100)`, as CLIP "
    "does. The limit keeps the temperature from falling below 0.01.\n"
    "3. Return the mean of the two cross-entropies, images among texts and texts among images.",
    hints=(
        "One matrix of cosines serves both directions. What is its shape, and where in it are the "
        "right answers?",
        "`F.normalize(x, dim=-1)` scales each vector to length 1. Row i of the logits is a "
        "classification among b captions, and its label is i.",
        "`own = torch.arange(b)`. The loss is the mean of `F.cross_entropy(logits, own)` and "
        "`F.cross_entropy(logits.T, own)`.",
    ),
    solution=info_nce,
    cases=info_nce_cases,
)

# ---------------------------------------------------------------------------05.5 tokenizing a word


def tokenize_word(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """A word and the merges, earliest learnt first -> its pieces."""
    pieces = letters(word)
    while True:
        known = [pair for pair in pairwise(pieces) if pair in merges]
        if not known:
            return pieces
        pieces = join(pieces, min(known, key=merges.index))


def joined_from_the_right(pieces: list[str], pair: Pair) -> list[str]:
    turned = join(pieces[::-1], (pair[1], pair[0]))
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


SPELLINGS: tuple[tuple[str, tuple[Pair, ...]], ...] = (
    ("lighthouse", (("gh", "t</w>"), ("h", "o"), ("u", "s"), ("ho", "us"), ("e", "s"),
                    ("hous", "e</w>"), ("g", "h"), ("gh", "t"), ("i", "ght"))),
    ("abcd", (("b", "c"), ("a", "b"), ("c", "d</w>"), ("ab", "cd</w>"))),
    ("abcd", (("b", "c"), ("bc", "d</w>"), ("a", "b"), ("a", "bcd</w>"))),
    ("aaab", (("a", "a"), ("a", "b</w>"))),
    ("tattat", (("a", "t</w>"), ("a", "t"), ("t", "at"), ("t", "at</w>"), ("tat", "tat</w>"))),
    ("xababc", (("x", "a"), ("a", "b"), ("b", "ab"))),
    ("a", (("a", "a"),)),
    # Not in an order that could have been learnt: a join makes a pair that is earlier in the list.
    ("light", (("gh", "t</w>"), ("g", "h"))),
    ("abcd", (("ab", "c"), ("a", "b"), ("c", "d</w>"))),
    ("abcde", (("abcd", "e</w>"), ("abc", "d"), ("ab", "c"), ("a", "b"))),
    # A pair in two positions, whose first join makes a pair that would use up the second.
    ("abxabc", (("x", "ab"), ("ab", "x"), ("a", "b"), ("b", "c</w>"))),
    ("ababa", (("ab", "a"), ("a", "b"), ("ab", "a</w>"))),
    ("banana", (("an", "a"), ("a", "n"), ("b", "an"))),
)  # fmt: skip


def spell_cases(_: Generator) -> Iterator[Case]:
    for word, merges in SPELLINGS:
        yield Case((word, list(merges)))


SPELL = Exercise(
    number="05.5",
    title="Tokenizing a word",
    minutes=10,
    difficulty=2,
    statement="Use the merges you have learnt to tokenize a new word, as CLIP's tokenizer does. "
    "Start from its `letters` and repeat these steps:\n\n"
    "1. List the neighbouring pairs that are in `merges`. If there are none, return the pieces.\n"
    "2. Choose the pair that comes **first** in `merges`.\n"
    "3. Join it wherever it occurs in the word, from left to right, never reusing a piece.\n\n"
    "This isn't quite what `pieces_after` in section 1 does, because that goes through the list "
    "only once. With the merges `[('ab', 'c</w>'), ('a', 'b')]`, it cuts *abc* into *ab* and *c*, "
    "while CLIP's rule returns to the first merge and gives *abc*.",
    hints=(
        "You need two loops. The outer one chooses a pair, and the inner one, which is `join`, "
        "joins it everywhere. When does the outer one end?",
        "`min(pairs, key=merges.index)` is the pair that was learnt first. The outer loop ends "
        "when none of the neighbouring pairs is in `merges`.",
        "`known = [pair for pair in pairwise(pieces) if pair in merges]`. Return `pieces` if it "
        "is empty; otherwise `pieces = join(pieces, min(known, key=merges.index))`.",
    ),
    solution=tokenize_word,
    cases=spell_cases,
    trained=False,
)

# ------------------------------------------------------------------------------ 05.6 long prompts


def chunks(
    ids: list[int],
    length: int,
    start: int,
    end: int,
    pad: int,
) -> list[list[int]]:
    """Token ids of a prompt of any length -> rows of `length` ids, at least one."""
    size = length - 2
    parts = [ids[k : k + size] for k in range(0, len(ids), size)] or [[]]
    return [[start, *part, end] + [pad] * (size - len(part)) for part in parts]


def chunk_cases(rng: Generator) -> Iterator[Case]:
    for n, length, pad in (
        (7, 12, 99), (3, 77, 0), (6, 8, 99), (7, 8, 99), (12, 8, 0), (0, 5, 99), (90, 42, 0),
    ):  # fmt: skip
        ids = torch.randint(1, 90, (n,), generator=rng).tolist()
        yield Case((ids, length, 98, 99, pad))


CHUNKS = Exercise(
    number="05.6",
    title="Prompts longer than 77 tokens",
    minutes=8,
    difficulty=1,
    statement="Web interfaces for Stable Diffusion accept prompts of any length. They split the "
    "tokens into **chunks**, encode each chunk separately, and concatenate the embeddings along "
    "the token axis, which gives `(1, 154, d)` for two chunks. That works because cross-attention "
    "takes any number of tokens.\n\n"
    "Split a prompt's ids into rows, and return a list of lists:\n\n"
    "1. Each row has exactly `length` ids: the start-of-text token, up to `length - 2` ids of the "
    "prompt, the end-of-text token, and `pad` in the positions that are left.\n"
    "2. Only the last row may contain padding, and there are no more rows than necessary.\n"
    "3. An empty prompt gives one row.",
    hints=(
        "How many of the `length` positions are left for the prompt itself? Split the ids first, "
        "then complete each part.",
        "`range(0, len(ids), length - 2)` gives the start of each part. For an empty prompt the "
        "range is empty as well, so treat that case separately.",
        "A row is `[start, *part, end]`, followed by `pad` as many times as the part falls short "
        "of `length - 2`.",
    ),
    solution=chunks,
    cases=chunk_cases,
    trained=False,
)

# ----------------------------------------------------------------------------- 05.7 key–value cache


def cached_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (b, n, d) of the last n of m tokens; k (b, m, d), v (b, m, e) -> (b, n, e)."""
    n, m = q.shape[1], k.shape[1]
    scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5  # (b, n, m)
    position = torch.arange(m)
    later = position[None, :] > position[m - n :, None]  # (n, m)
    return scores.masked_fill(later, float("-inf")).softmax(dim=-1) @ v


back_cases = attention_cases(
    ((2,), 3, 7, 8, 5),
    ((2,), 4, 4, 4, 4),
    ((1,), 1, 5, 6, 3),
    ((3,), 5, 6, 4, 2),
    ((2,), 4, 6, 4, 3),
)

BACK = Exercise(
    number="05.7",
    title="The key–value cache",
    minutes=10,
    difficulty=2,
    statement="When two captions share a beginning, the causal mask makes the hidden states of "
    "that beginning the same in both, so its keys and values can be stored and reused. Language "
    "models do this for every new token, and the store is called the **key–value cache**. Write "
    "causal attention with such a cache, for one head:\n\n"
    "1. There are $m$ tokens with keys `k` and values `v`, but queries `q` only for the last $n "
    "\\le m$ of them, in order.\n"
    "2. Each query attends to its own token and to all tokens before it.\n"
    "3. The result equals the last $n$ rows of causal attention over all $m$ tokens.",
    hints=(
        "Query 0 doesn't belong to token 0. To which token does it belong, and to how many "
        "tokens may it attend?",
        "Query i belongs to token m - n + i. Compare that with `torch.arange(m)`: tokens with a "
        "larger index come later and are masked. The mask is `(n, m)`.",
        "`torch.ones(n, m, dtype=torch.bool).tril(m - n)` is True where attention is allowed. "
        "Set the other scores to minus infinity, then apply the softmax along the last axis.",
    ),
    solution=cached_attention,
    cases=back_cases,
)

# ------------------------------------------------------------------------------ 05.8 hard negatives


def matching_loss(images: Tensor, texts: Tensor, temperature: float) -> Tensor:
    """images (b, d); texts (m, d), m >= b, the first b are the images' -> a scalar."""
    images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)
    logits = images @ texts.T / temperature  # (b, m)
    own = torch.arange(len(images))
    for_texts = logits[:, : len(images)].T  # (b, b)
    return (F.cross_entropy(logits, own) + F.cross_entropy(for_texts, own)) / 2


def loss_cases(rng: Generator) -> Iterator[Case]:
    for b, m, d, temperature in ((4, 7, 6, 0.3), (3, 3, 5, 0.07), (1, 4, 8, 0.5), (5, 6, 5, 1.0)):
        yield Case((3 * normal(rng, b, d), 0.5 * normal(rng, m, d), temperature))


LOSS = Exercise(
    number="05.8",
    title="Hard negatives in the loss",
    minutes=6,
    difficulty=2,
    statement="In section 9 each hard-negative caption came with a hard-negative *image*, but "
    "captions from the web have none. NegCLIP therefore has a program swap words in the true "
    "captions and adds the results to the batch. Extend the loss to such captions:\n\n"
    "1. `texts` holds the captions of the $b$ images, followed by $m - b$ others that belong to "
    "no image. The vectors aren't normalised, and `temperature` is $\\tau$ itself.\n"
    "2. Each image is classified among all $m$ captions.\n"
    "3. Each of the first $b$ captions is classified among the $b$ images.\n"
    "4. The loss is the mean of the two cross-entropies.",
    hints=(
        "Both cross-entropies use the same matrix of cosines. What is its shape, and which "
        "columns of it does each direction use?",
        "`logits` is `(b, m)`. The images use whole rows, and the label of row i is i. For the "
        "captions, remove the additional columns and transpose.",
        "`own = torch.arange(b)`. The loss is the mean of `F.cross_entropy(logits, own)` and "
        "`F.cross_entropy(logits[:, :b].T, own)`, with `logits` the cosines divided by the "
        "temperature.",
    ),
    solution=matching_loss,
    cases=loss_cases,
)

# ------------------------------------------------------------------------------ 05.9 prompt weights


def weight_tokens(pieces: list[str], context: Tensor, empty: Tensor) -> Tensor:
    """Pieces with `(` and `:1.5)` among them; context, empty (n, d) -> (n, d)."""
    weights: list[float] = []  # of the prompt's own tokens
    opened: list[int] = []  # where the open groups begin
    for piece in pieces:
        if piece == "(":
            opened.append(len(weights))
        elif piece.startswith(":") and piece.endswith(")"):
            first, factor = opened.pop(), float(piece[1:-1])
            weights[first:] = [weight * factor for weight in weights[first:]]
        else:
            weights.append(1.0)
    row = torch.ones_like(context[:, :1])  # (n, 1)
    row[1 : 1 + len(weights), 0] = torch.tensor(weights, dtype=row.dtype)
    return empty + row * (context - empty)


def weight_cases(rng: Generator) -> Iterator[Case]:
    for prompt, n, d in (
        ("a red cat ( with spots :1.5) by day", 12, 3),
        ("( a cat ( with spots :2) and :0.5) a house", 10, 4),
        ("a ( b :0) ( c ( d ( e :2) :2) f :0.25) g ( h :4)", 11, 3),
        ("( a b :1.5) c", 5, 2),  # no padding
        ("( ( a :0.5) ( b :2) ( c :3) :2) d : e", 9, 5),
        ("a cat", 6, 2),
        ("", 4, 3),
    ):
        yield Case((prompt.split(), normal(rng, n, d), normal(rng, n, d)))


WEIGHTS = Exercise(
    number="05.9",
    title="Prompt weights",
    minutes=12,
    difficulty=3,
    core=True,
    statement="In many web interfaces you can write `(with spots:1.5)` to give words a **prompt "
    "weight**, which changes their embeddings *after* the text encoder. The rules differ from "
    "program to program. Write this one, which starts from the empty prompt:\n\n"
    "1. `pieces` are the prompt's tokens with the marks among them: `(` opens a group, and "
    "`:1.5)` closes the group that was opened last and gives its weight, as in `['a', '(', 'cat', "
    "'(', 'with', 'spots', ':2)', ':0.5)']`.\n"
    "2. Groups can be nested, and then their weights are multiplied: here *with* has 2 · 0.5 = 1.\n"
    "3. Tokens outside all groups have weight 1, and so do the start-of-text token, the "
    "end-of-text token and the padding.\n"
    "4. `context` holds the embeddings of the prompt without its marks, beginning with the "
    "start-of-text token, and `empty` holds those of the empty prompt. Each new embedding lies on "
    "the line through the empty prompt's embedding at the same position (weight 0) and the "
    "token's own (weight 1). Weights above 1 extrapolate.",
    hints=(
        "Split the task. The first half turns `pieces` into one weight for each token, and the "
        "second uses it to combine two vectors. A group's weight appears only where the group "
        "ends, so remember where it began.",
        "Keep a list of the weights so far, and a list of the positions at which groups were "
        "opened. A `(` appends `len(weights)` to the second list, and a `:1.5)` takes the last "
        "entry off it and multiplies all weights from there on.",
        "The first token of the prompt is at position 1. Fill `row`, of shape `(n, 1)`, with ones "
        "and set `row[1 : 1 + len(weights), 0] = torch.tensor(weights)`. The result is `empty + "
        "row * (context - empty)`.",
    ),
    solution=weight_tokens,
    cases=weight_cases,
    trained=False,
)

EXERCISES = with_mistakes(
    __name__, MERGES, CAUSAL, ENCODER, INFO_NCE, SPELL, CHUNKS, BACK, LOSS, WEIGHTS
)

# --------------------------------------------------------------------------------------------- quiz

QUESTIONS = (
    Question(
        "The prompt is `a red cat`. Which of the 77 embeddings can tell the U-Net of Stable "
        "Diffusion 1 that the cat is red?",
        (
            Answer(
                "Only that of `red`.",
                False,
                "It knows `red`, but not yet what is red, because `cat` comes later. Only `cat` "
                "and the tokens after it can know.",
            ),
            Answer(
                "Those of `cat`, of the end-of-text token and of all padding tokens.",
                True,
                "`cat` is the first token that attends to both words. Every later token attends "
                "to them, too, and the U-Net, which has no mask, gets all 77 embeddings.",
            ),
            Answer(
                "Only the pooled vector.",
                False,
                "Stable Diffusion 1 doesn't use the pooled vector. Its U-Net attends to the "
                "embeddings of the tokens.",
            ),
            Answer(
                "All 77.",
                False,
                "The start-of-text token, `a` and `red` come before `cat`, and no token attends "
                "to later ones.",
            ),
        ),
    ),
    Question(
        "You add a position embedding to each token's embedding, and then sum everything into "
        "one vector for the caption. Can it distinguish `a red cat and a blue house` from `a "
        "blue cat and a red house`?",
        (
            Answer(
                "Yes: the position embeddings say which word came first.",
                False,
                "They do, token by token, but the sum no longer shows which position belonged to "
                "which word.",
            ),
            Answer(
                "No: the sum is the same.",
                True,
                "The same words and the same positions are summed in another order, and no "
                "training, not even with hard negatives, can change that. Word and position must "
                "be combined nonlinearly, or words must attend to each other, before the sum.",
            ),
            Answer(
                "Only if the vectors are long enough.",
                False,
                "The two sums are equal at any length.",
            ),
        ),
    ),
    Question(
        "CLIP's loss compares images with the pooled vectors of their captions, and uses nothing "
        "else from the text. Which hidden states of the last layer get a gradient?",
        (
            Answer(
                "All 77.",
                False,
                "Pooling picks one row of the last layer, and no gradient from the loss reaches "
                "the others.",
            ),
            Answer(
                "Those of the caption, but not those of the padding.",
                False,
                "That is true one layer below. The end-of-text token of the last layer attends "
                "to the penultimate hidden states of all tokens of the caption, so these do get "
                "a gradient.",
            ),
            Answer(
                "The one at the first end-of-text token.",
                True,
                "The pooled vector is computed from that one. The others were never trained for "
                "anything, which is a reason to take the penultimate hidden states. Stable "
                "Diffusion 1 takes the last ones all the same.",
            ),
        ),
    ),
)
