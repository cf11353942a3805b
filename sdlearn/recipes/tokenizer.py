"""Training of CLIP's byte-pair tokenizer on captions.

The vocabulary starts with the 256 bytes, each also in a form that ends a word. The most frequent
pair of adjacent tokens is merged again and again until every word of the captions is one token.
Other words are encoded as several tokens, so every text can be encoded.
"""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
END = "</w>"
MERGES = 4000  # at most
CONTEXT = 77  # tokens of a text, including start-of-text and end-of-text


def train_tokenizer(captions: Iterable[str], merges: int = MERGES) -> CLIPTokenizer:
    """Train a CLIP tokenizer.

    The ids have the order of the published vocabulary: bytes, bytes that end a word, merges in the
    order in which they were learned, start-of-text, end-of-text. The padding token is end-of-text.

    Args:
        captions: The texts to train on.
        merges: Maximal number of merged tokens.
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
    # Two different merges can give the same token.
    vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=CONTEXT)
