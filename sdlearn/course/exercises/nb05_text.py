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
from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal

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
    solution=weight_tokens,
    cases=weight_cases,
    trained=False,
)

EXERCISES, QUESTIONS = with_texts(
    __name__,
    MERGES,
    CAUSAL,
    ENCODER,
    INFO_NCE,
    SPELL,
    CHUNKS,
    BACK,
    LOSS,
    WEIGHTS,
)
