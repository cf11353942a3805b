"""A CLIP tokenizer in a published folder, read and written.

Published folders have one of two layouts: vocab.json and merges.txt, or tokenizer.json. Tokens that
were learnt later, by textual inversion or DreamBooth, are in added_tokens.json, in the entry
added_tokens_decoder of tokenizer_config.json, or in tokenizer.json. All of these are read, as
transformers does; the first layout is written, with the learnt words in both of its places, so that
every version of transformers reads the same tokens.
"""

import codecs
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import Tokenizer
from transformers import AddedToken, CLIPTokenizer, PreTrainedTokenizerBase

from sdlearn.utils.atomic_files import atomic_write, read_json, write_json
from sdlearn.utils.file_kinds import describe_content
from sdlearn.utils.validation import shown
from sdlearn.weights.json_config import Json

SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast")
# The class of any tokenizer.json, whatever it holds, before and since transformers 5.
ANY = ("PreTrainedTokenizerFast", "TokenizersBackend")
PROBE = " It's  2001, A_B: caf\u00e9 CAFE\u0301\t(\u732b)<|endoftext|>don\u2019t 3.14 \U0001f408"
# Settings of every tokenizer, and their usual values, which are not written.
USUAL = {"padding_side": "right", "truncation_side": "right", "split_special_tokens": False}
ADDED = "added_tokens_decoder"
JSON_FILES = (
    "added_tokens.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "vocab.json",
)
FILES = (*JSON_FILES, "merges.txt")


# ---------------------------------------------------------------------------------------- reading


def read_tokenizer(folder: Path, class_name: str | None = None) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a published folder.

    Args:
        folder: Of the tokenizer.
        class_name: The class in model_index.json, which overrides the one in its own file.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or not supported.
    """
    for path in (folder / name for name in FILES):
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise ValueError(f"{path} is no regular file; the tokenizer needs one in its place")
    for path in (folder / name for name in FILES):
        is_what = describe_content(path) if path.is_file() else None
        if is_what:
            raise ValueError(f"{path} is {is_what}")
    if not (folder / "tokenizer.json").is_file():
        check_merges(folder)
    name = check_settings(folder)
    try:
        published = list(published_tokens(folder))
        with without_marks(folder) as plain:
            tokenizer: PreTrainedTokenizerBase = CLIPTokenizer.from_pretrained(
                plain, local_files_only=True
            )
            same = (class_name or name) not in ANY or splits_as(tokenizer, plain)
    except Exception as error:  # tokenizers, written in Rust, raises Exception itself
        reason = (str(error).strip() or type(error).__name__).split("\n", 1)[0][:400]
        raise ValueError(f"{folder} does not hold a readable CLIP tokenizer: {reason}") from error
    if not same:
        raise ValueError(
            f"{folder} is of the class {class_name or name}, and its tokenizer.json does not split "
            "a text as CLIP's tokenizer does; only CLIP's tokenizer is supported"
        )
    for name in ("bos_token", "eos_token", "pad_token"):
        if getattr(tokenizer, name) is None:
            raise ValueError(f"{folder}: {name} is null; a CLIP tokenizer needs one")
    ids = tokenizer.get_vocab()
    for place, token, number in published:
        if ids.get(token) != number:
            raise ValueError(
                f"{folder / place}: the token {shown(token)} has the number "
                f"{shown(number)}, but "
                f"{ids.get(token, 'none')} in the other files; these files do not belong together"
            )
    return tokenizer


def tokens_needed(tokenizer: PreTrainedTokenizerBase) -> int:
    """The rows that a token embedding needs for every id of a tokenizer."""
    return 1 + max(tokenizer.get_vocab().values())


def check_merges(folder: Path) -> None:
    """Check that vocab.json and merges.txt are there and whole."""
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; the tokenizer needs it")
    tokens = len(read_json(folder / "vocab.json"))
    content = (folder / "merges.txt").read_bytes().removeprefix(codecs.BOM_UTF8)
    lines = content.splitlines()
    merges = sum(not line.startswith(b"#version") for line in lines)
    if tokens > 2 * 256 + merges + 2:  # bytes, bytes that end a word, merges, start and end
        raise ValueError(
            f"{folder / 'merges.txt'} is incomplete: {merges} merges cannot make the "
            f"{tokens} tokens of vocab.json"
        )


@contextmanager
def without_marks(folder: Path) -> Iterator[Path]:
    """A tokenizer's folder whose files do not begin with a byte order mark, as editors write it.

    Yields:
        The folder itself, or a temporary copy of its files if one has the mark.
    """
    contents = {n: (folder / n).read_bytes() for n in FILES if (folder / n).is_file()}
    if not any(content.startswith(codecs.BOM_UTF8) for content in contents.values()):
        yield folder
        return
    with TemporaryDirectory() as copy:
        for name, content in contents.items():
            (Path(copy) / name).write_bytes(content.removeprefix(codecs.BOM_UTF8))
        yield Path(copy)


def splits_as(tokenizer: PreTrainedTokenizerBase, folder: Path) -> bool:
    """Whether a tokenizer.json splits a text as this tokenizer does; so it is if there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return True
    whole = Tokenizer.from_file(str(path))
    whole.no_padding()
    whole.no_truncation()
    ids: list[int] = tokenizer(PROBE).input_ids
    return ids == whole.encode(PROBE).ids


def check_settings(folder: Path) -> str | None:
    """The class that a tokenizer's file names; checks it, and the length of the sequences."""
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    name = settings.get("tokenizer_class")
    if name is not None and name not in CLASSES + ANY:
        raise ValueError(
            f"{path}: tokenizer_class is {shown(name)}; only {' and '.join(CLASSES)}, and "
            f"{' and '.join(ANY)} with CLIP's files, can be read"
        )
    length = settings.get("model_max_length")
    number = isinstance(length, int | float) and not isinstance(length, bool)
    if length is not None and not (number and length >= 3):
        raise ValueError(
            f"{path}: model_max_length is {shown(length)}; it must be at least 3, for "
            "a start token, a word and an end token"
        )
    return name


def published_tokens(folder: Path) -> Iterator[tuple[str, object, object]]:
    """The added tokens in each file of a tokenizer: the file, the token, its id."""
    added, settings, whole, *_ = (
        read_json(folder / name) if (folder / name).is_file() else {} for name in JSON_FILES
    )
    for token, number in added.items():
        yield "added_tokens.json", token, number
    for number, token in (settings.get(ADDED) or {}).items():
        yield "tokenizer_config.json", token["content"], int(number)
    for token in whole.get("added_tokens") or []:
        yield "tokenizer.json", token["content"], token["id"]


# ---------------------------------------------------------------------------------------- writing


def write_tokenizer(
    folder: Path, tokenizer: PreTrainedTokenizerBase, length: int | None = None
) -> None:
    """Write the files of a published CLIP tokenizer, in place of those of another one.

    Args:
        folder: Of the tokenizer.
        tokenizer: The tokenizer.
        length: Tokens of a sequence; None for the tokenizer's own limit. That may be missing, and
            other software pads up to what the file says.
    """
    for name in ("tokenizer.json", "added_tokens.json"):
        (folder / name).unlink(missing_ok=True)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    with atomic_write(folder / "vocab.json") as part:
        part.write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    with atomic_write(folder / "merges.txt") as part:
        part.write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8", newline="\n")
    special = {name: getattr(tokenizer, name) for name in SPECIAL}
    write_json(folder / "special_tokens_map.json", special)
    added = tokenizer.added_tokens_decoder  # the special tokens and the learnt words
    learnt = {str(t): n for n, t in added.items() if str(t) not in model["vocab"]}
    if learnt:
        write_json(folder / "added_tokens.json", learnt)
    settings: dict[str, Any] = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": length or tokenizer.model_max_length,
        "tokenizer_class": "CLIPTokenizer",
    }
    unusual = {key: getattr(tokenizer, key, usual) for key, usual in USUAL.items()}
    settings |= {key: value for key, value in unusual.items() if value != USUAL[key]}
    plain = {
        str(token): token_settings(AddedToken(token, special=True)) for token in special.values()
    }
    how = {str(n): token_settings(token) for n, token in sorted(added.items())}
    if any(token != plain.get(token["content"]) for token in how.values()):
        settings[ADDED] = how
    write_json(folder / "tokenizer_config.json", special | settings)


def token_settings(token: Any) -> Json:
    """How an added token is found in a text, as it is written."""
    names = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    return {name: getattr(token, name) for name in names}
