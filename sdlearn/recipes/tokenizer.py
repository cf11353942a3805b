"""Training of CLIP's byte-pair tokenizer on captions.

The vocabulary starts with the 256 bytes, each also in a form that ends a word. The most frequent
pair of adjacent tokens is merged again and again until every word of the captions is one token.
Other words are encoded as several tokens, so every text can be encoded.

A run uses one tokenizer from its start to its export: that of its initial weights, of which the
cache keeps a copy, or one that is trained on the captions and kept there.
"""

import json
import shutil
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer, PreTrainedTokenizerBase

from sdlearn.recipes.data import key, load_captions
from sdlearn.recipes.run_folder import RECIPE
from sdlearn.utils.atomic_files import add_folder, read_json
from sdlearn.utils.checkpoint import checkpoints
from sdlearn.weights.tokenizer_files import read_tokenizer, write_tokenizer

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


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of a tokenizer's vocabulary."""
    return key(sorted(tokenizer.get_vocab().items()))


def run_tokenizer(
    init: str, data: str, size: int, cache: Path, run: Path | None = None
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the initial weights, or train one on the captions.

    Args:
        init: Where the initial weights are, see `load_initial_weights`; "" for none.
        data: A user's folder, whose captions are learnt as well, or "".
        size: Of the images.
        cache: Folder for captions and tokenizers.
        run: Folder of the run that goes on, which needs the tokenizer that it began with.

    Raises:
        FileNotFoundError: If the initial weights have no tokenizer, or the run's own is lost.
    """
    if not init:
        return captions_tokenizer(data, size, cache)
    home = Path(init)
    began = run or home
    homes = (began / "export", home / "export", home, home.parent)
    beside = [path / "tokenizer" for path in homes]
    identity = began_with(began)
    if not identity:  # a published part, or a run of the first versions
        for place in beside:
            if place.is_dir():
                return read_tokenizer(place)
    if not identity and not checkpoints(home):
        raise FileNotFoundError(
            f"init is {init}, and there is no tokenizer beside it; accepted: a published text "
            "encoder with its tokenizer, or a run"
        )
    caches = [*cache.glob("tokenizer-*"), *(began.parent / "cache").glob("tokenizer-*")]
    for place in (*beside, *caches):
        with suppress(FileNotFoundError, ValueError):  # damaged, or none of them
            tokenizer = read_tokenizer(place)
            if tokenizer_key(tokenizer) == identity:
                return tokenizer
    tokenizer = captions_tokenizer(data, size, cache)
    if identity and tokenizer_key(tokenizer) != identity:
        raise FileNotFoundError(
            f"the tokenizer that {began} began with is neither in {init} nor in {cache}; "
            "restore one of them"
        )
    return tokenizer


def began_with(run: Path) -> str:
    """Return the hash of the tokenizer that a run began with; "" if that is not known."""
    try:
        frozen = read_json(run / RECIPE).get("frozen")
    except (FileNotFoundError, ValueError):
        return ""
    return str(frozen.get("tokenizer", "")) if isinstance(frozen, dict) else ""


def keep_tokenizer(tokenizer: PreTrainedTokenizerBase, cache: Path) -> None:
    """Keep a copy of a tokenizer of initial weights, which a resumed run needs without them."""
    identity = tokenizer_key(tokenizer)
    kept = kept_tokenizer(identity, cache)
    with suppress(FileNotFoundError, ValueError):
        if tokenizer_key(read_tokenizer(kept)) == identity:
            return
    shutil.rmtree(kept, ignore_errors=True)  # a damaged one
    add_folder(kept, lambda part: write_tokenizer(part, tokenizer))


def kept_tokenizer(identity: str, cache: Path) -> Path:
    """Return the folder of the copy of a tokenizer with this hash."""
    return cache / f"tokenizer-{identity}"


def captions_tokenizer(data: str, size: int, cache: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the storybook's captions and of those of a user's folder.

    It is trained once and kept, because equally frequent tokens may get other ids the next time.

    Args:
        data: A user's folder, or "".
        size: Of the images.
        cache: Folder for captions and the tokenizer.
    """
    captions = load_captions(5000, cache, per_scene=2)
    if data:
        captions = captions + load_captions(0, cache, data, size=size)
    texts = [text for paraphrases in captions for text in paraphrases]
    kept = cache / f"tokenizer-{key(texts)}"
    try:
        return read_tokenizer(kept)
    except (FileNotFoundError, ValueError) as error:
        if kept.exists():
            warnings.warn(f"{kept} is damaged; it is made again: {error}", stacklevel=2)
            shutil.rmtree(kept)
    add_folder(kept, lambda part: write_tokenizer(part, train_tokenizer(texts)))
    return read_tokenizer(kept)
