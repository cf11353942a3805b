"""Textual inversion: a new word whose vectors alone are trained (Gal et al., arXiv:2208.01618).

The first layer of a text encoder is a table of token embeddings: one row, a vector of d elements,
for each token. Textual inversion adds rows for a new word, and trains them with the diffusion loss
on a few images whose captions contain the word. Everything else stays frozen, so the model draws
the same images as before for all other prompts. The result is a file of a few kilobytes.

A word with n vectors becomes n tokens: `<cat>`, `<cat>_1`, `<cat>_2` and so on. In a prompt you
write only the first. `text.spell_out` adds the others, and all n count towards its 75 tokens.

The optimizer can't simply be given the whole table: weight decay, and the moments of earlier steps,
also change rows whose gradient is zero. So the new rows are a small module of their own. During
training, a forward hook puts them in place of the table's rows.
"""

import re
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedTokenizerBase

from sdlearn.clip import CLIPTextEncoder

MOST_VECTORS = 75  # tokens of a prompt, without BOS and EOS
MOST_LETTERS = 100


# ------------------------------------------------------------------------------------ the new word


def token_names(word: str, n: int) -> list[str]:
    """The tokens of a word with n vectors: ["<cat>", "<cat>_1", ...]."""
    return [word, *(f"{word}_{k}" for k in range(1, n))]


def check_word(tokenizer: PreTrainedTokenizerBase, word: object, n: int) -> str:
    """Return the word; raise ValueError unless it can be added with n vectors."""
    plain = isinstance(word, str) and 1 <= len(word) <= MOST_LETTERS and word.isprintable()
    if not plain or any(letter.isspace() for letter in str(word)):
        raise ValueError(
            f"word is {str(word)[:MOST_LETTERS]!r}; accepted: a word of 1 to {MOST_LETTERS} "
            "characters without spaces, such as '<cat>'"
        )
    if not 1 <= n <= MOST_VECTORS:
        raise ValueError(f"{word} has {n} vectors; accepted: 1 to {MOST_VECTORS}")
    known = tokenizer.get_vocab()
    # A word's tokens end before the first `_k` that is missing, so the next must be free as well.
    for token in (*token_names(str(word), n + 1), f"{word}</w>"):
        if token in known:
            raise ValueError(
                f"word is {word!r}, but the tokenizer already has the token {token!r}; accepted: a "
                "new word, such as '<cat>'"
            )
    before = re.fullmatch(r"(.+)_\d+", str(word))
    if before and before[1] in tokenizer.get_added_vocab():
        raise ValueError(
            f"word is {word!r}, which would continue the added word {before[1]!r}; accepted: a "
            "new word, such as '<cat>'"
        )
    return str(word)


@torch.no_grad()
def add_word(
    tokenizer: PreTrainedTokenizerBase, encoder: CLIPTextEncoder, word: str, vectors: Tensor
) -> list[int]:
    """Add a word to a tokenizer and its vectors to the text encoder's table, in place.

    The other rows keep their exact values.

    Args:
        tokenizer: The encoder's tokenizer.
        encoder: The text encoder. The number of tokens in its configuration is updated as well.
        word: A new word, such as "<cat>".
        vectors: The word's vectors, (n, d).

    Returns:
        The n token ids, which are consecutive.

    Raises:
        ValueError: If the word or the vectors do not fit. In that case nothing is changed.
    """
    table = encoder.embeddings.token_embedding
    old = table.weight
    if vectors.ndim != 2 or vectors.shape[1] != old.shape[1]:
        raise ValueError(
            f"vectors have the shape {tuple(vectors.shape)}; this text encoder needs "
            f"(n, {old.shape[1]})"
        )
    names = token_names(check_word(tokenizer, word, len(vectors)), len(vectors))
    tokenizer.add_tokens(names)
    known = tokenizer.get_vocab()
    ids = [known[name] for name in names]
    missing = max(0, max(ids) + 1 - len(old))  # some tables have more rows than tokens
    weight = torch.cat([old, old.new_zeros(missing, old.shape[1])])
    weight[ids] = vectors.to(weight)
    table.weight = nn.Parameter(weight, requires_grad=old.requires_grad)
    table.num_embeddings = len(weight)
    end = encoder.config.eos_token_id
    encoder.config = replace(
        encoder.config,
        vocab_size=len(weight),
        # None would mean the highest id, which is no longer that of the end of the text.
        eos_token_id=tokenizer.eos_token_id if end is None else end,
    )
    return ids


def vectors_of(tokenizer: PreTrainedTokenizerBase, encoder: CLIPTextEncoder, word: str) -> Tensor:
    """A copy of an added word's vectors, (n, d); raises ValueError if there is no such word."""
    added = tokenizer.get_added_vocab()
    if word not in added or word in tokenizer.all_special_tokens:
        raise ValueError(f"word is {word!r}, which was not added to this tokenizer")
    n = next(n for n in range(1, len(added) + 2) if f"{word}_{n}" not in added)
    ids = [added[name] for name in token_names(word, n)]
    return encoder.embeddings.token_embedding.weight.detach()[ids].clone()


def initial_vectors(
    tokenizer: PreTrainedTokenizerBase, encoder: CLIPTextEncoder, start: str, n: int
) -> Tensor:
    """Initial vectors, (n, d): those of a known text's tokens, repeated or cut off after n.

    Args:
        tokenizer: The encoder's tokenizer.
        encoder: The text encoder.
        start: A text whose meaning is close to that of the new word, such as "toy".
        n: Number of vectors.

    Raises:
        ValueError: If the text has no tokens.
    """
    ids = tokenizer(start, add_special_tokens=False, verbose=False).input_ids
    if not ids:
        raise ValueError(f"start is {start!r}, which has no tokens; accepted: a known word")
    rows = [ids[k % len(ids)] for k in range(n)]
    return encoder.embeddings.token_embedding.weight.detach()[rows].clone()


# --------------------------------------------------------------------------------------- training


class NewRows(nn.Module):
    """The rows of a new word, as trainable parameters.

    Args:
        first: The id of the word's first token; those of the others follow it.
        vectors: The initial values of the rows, (n, d).
    """

    def __init__(self, first: int, vectors: Tensor) -> None:
        super().__init__()
        self.first = first
        self.vectors = nn.Parameter(vectors.clone())

    def forward(self, ids: Tensor, embedded: Tensor) -> Tensor:
        """Return the embeddings, with these rows for the word's tokens.

        Args:
            ids: Token ids, (b, n).
            embedded: Their embeddings, (b, n, d).
        """
        place = ids - self.first
        own = (place >= 0) & (place < len(self.vectors))
        rows = F.embedding(place.where(own, 0), self.vectors)
        return torch.where(own[..., None], rows.to(embedded.dtype), embedded)

    def attach(self, encoder: CLIPTextEncoder) -> RemovableHandle:
        """Make a text encoder use these rows, not its table's, until the handle's `remove()`."""
        return encoder.embeddings.token_embedding.register_forward_hook(
            lambda _, inputs, output: self(inputs[0], output)
        )
