"""Learning a vocabulary: CLIP's byte-pair tokenizer, trained on captions.

It starts from the 256 bytes, each also in a form that ends a word, and keeps merging the pair of
pieces that most often stand together, until every word of the captions is one token. Words it has
never seen are spelled with smaller pieces, so nothing a user types is lost.
"""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
END = "</w>"
CONTEXT = 77  # tokens a text encoder reads, both ends included


def train_tokenizer(captions: Iterable[str], merges: int = 4000) -> CLIPTokenizer:
    """A CLIP tokenizer for the captions' words with at most `merges` merged tokens.

    Tokens are numbered as in the published vocabulary: bytes, bytes that end a word, merges in the
    order in which they were learned, start, end. Padding is with the end token.
    """
    clip = CLIPTokenizer().backend_tokenizer  # how CLIP cleans a text and cuts it into words
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(BPE(continuing_subword_prefix="", end_of_word_suffix=END))
    learner.normalizer, learner.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    trainer = BpeTrainer(
        vocab_size=2 * len(alphabet) + merges,
        initial_alphabet=alphabet,
        continuing_subword_prefix="",
        end_of_word_suffix=END,
        show_progress=False,
    )
    learner.train_from_iterator(captions, trainer)
    pairs = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(byte + END for byte in alphabet), *map("".join, pairs), BOS, EOS]
    # Two ways of merging can end in the same token.
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=CONTEXT)
