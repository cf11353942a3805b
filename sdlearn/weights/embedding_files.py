"""Files of textual inversion, read and written; the chapter is textual_inversion.

Four forms are shared. Each is a safetensors file or a pickle, which is read as pickles describes:

    {"<cat>": (d,) or (n, d)}                           diffusers: the name is the word
    {"string_to_param": {"*": (n, d)}, "name": "cat"}   AUTOMATIC1111's web interface, pickles only
    {"emb_params": (n, d)}                              the same program
    {"clip_l": (n, 768), "clip_g": (n, 1280)}           SDXL, a table for each text encoder

The last two do not say the word; web interfaces take the name of the file, and so does this module.
The width d says which system the vectors are for.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from sdlearn.clip import CLIPTextEncoder
from sdlearn.text import TextEncoder
from sdlearn.textual_inversion import MOST_VECTORS, add_word, check_word, vectors_of
from sdlearn.utils.atomic_files import check_folder, user_path
from sdlearn.utils.device import check_dtype
from sdlearn.utils.validation import check_place, shown
from sdlearn.weights.model_detection import CONTEXT_DIMS
from sdlearn.weights.pickles import is_plain, is_state_dict, pickle_content
from sdlearn.weights.saving import write_safetensors
from sdlearn.weights.tensor_files import SAFETENSORS, container, open_file

FILE_NAME = "learned_embeds.safetensors"  # in a folder
XL_PARTS = ("clip_l", "clip_g")  # in the order of the text encoders
ACCEPTED = (
    "accepted: textual-inversion embeddings in the forms of diffusers, of AUTOMATIC1111's web "
    "interface and of SDXL (clip_l and clip_g)"
)


class Embedding(NamedTuple):
    """The content of a file.

    Attributes:
        word: The word that the file names, or the file's name.
        vectors: For each text encoder, (n, d), in the file's type.
    """

    word: str
    vectors: list[Tensor]


def load_embedding(text: TextEncoder, source: str | Path, word: str | None = None) -> str:
    """Read an embedding and add its word to each tokenizer and text encoder.

    Args:
        text: The tokenizers and text encoders of a model, changed in place.
        source: A file, or a folder with the file learned_embeds.safetensors.
        word: What prompts will call it; None for the file's own word.

    Returns:
        The word.

    Raises:
        FileNotFoundError, ValueError: If it cannot be read or does not fit; nothing is changed
            then.
    """
    path = user_path(check_place(source))
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give an embedding's file, or its folder")
    found = read_embedding(path)
    encoders = cast(list[CLIPTextEncoder], list(text.encoders))
    widths = [vectors.shape[1] for vectors in found.vectors]
    needed = [encoder.config.hidden_size for encoder in encoders]
    if widths != needed:
        raise ValueError(
            f"{path} holds vectors of the width {in_words(widths)}{family(widths)}; the text "
            f"{'encoder' if len(needed) == 1 else 'encoders'} of this model "
            f"{'has' if len(needed) == 1 else 'have'} {in_words(needed)}"
        )
    chosen = found.word if word is None else word
    for tokenizer, vectors in zip(text.tokenizers, found.vectors, strict=True):
        try:
            check_word(tokenizer, chosen, len(vectors))
        except ValueError as error:
            raise ValueError(f"{path}: {error}" if word is None else str(error)) from None
    for parts in zip(text.tokenizers, encoders, found.vectors, strict=True):
        tokenizer, encoder, vectors = parts
        add_word(tokenizer, encoder, chosen, vectors)
    return chosen


def read_embedding(path: Path) -> Embedding:
    """Read a file in any of the forms above.

    Raises:
        ValueError: In one sentence, if the file is damaged, is something else, or holds values that
            are not finite.
    """
    if container(path) == "pickle":
        content: object = pickle_content(path, "cpu")
    else:
        content = {name: tensor.read() for name, tensor in open_file(path).items()}
    word, tables = tables_in(path, content)
    vectors = [checked(path, name, table) for name, table in tables.items()]
    if len({len(each) for each in vectors}) > 1:
        raise ValueError(f"{path} holds clip_l and clip_g of different numbers of vectors")
    return Embedding(path.stem if word is None else word, vectors)


def tables_in(path: Path, content: Any) -> tuple[str | None, Mapping[str, Tensor]]:
    """The word that a file's content says, if any, and its tables by their names in the file."""
    if isinstance(content, Tensor):  # a pickle of one tensor
        return None, {"its tensor": content}
    if isinstance(content, dict) and "string_to_param" in content:
        tables, name = content["string_to_param"], content.get("name")
        if not is_state_dict(tables) or len(tables) != 1:
            raise ValueError(
                f"{path} holds string_to_param, but not as a dictionary with one tensor: older "
                "versions of the web interface stored an object of torch's class ParameterDict, "
                "which is not read; save the embedding again, as safetensors"
            )
        return name if isinstance(name, str) else None, tables
    if is_state_dict(content):
        if content.keys() == set(XL_PARTS):
            return None, {part: content[part] for part in XL_PARTS}
        if len(content) == 1:
            (word,) = content
            return None if word == "emb_params" else word, content
    names = list(content)[:3] if isinstance(content, dict) else []
    holds = f"holds {', '.join(map(shown, names))}" if names else "holds something else"
    raise ValueError(f"{path} {holds}, which is not an embedding; {ACCEPTED}")


def checked(path: Path, name: str, table: Tensor) -> Tensor:
    """A table as (n, d); ValueError unless it is one of finite numbers."""
    rows = table.detach()[None] if table.ndim == 1 else table.detach()
    right = rows.ndim == 2 and 1 <= len(rows) <= MOST_VECTORS and rows.shape[1] > 0
    if not right or not is_plain(rows, "cpu") or not rows.dtype.is_floating_point:
        raise ValueError(
            f"{path}: {shown(name)} has the shape {tuple(table.shape)} and the type {table.dtype}; "
            f"an embedding is a table (n, d) of floating-point numbers, n at most {MOST_VECTORS}"
        )
    if not rows.isfinite().all():
        raise ValueError(f"{path}: {shown(name)} is not finite; the file is damaged")
    return rows.clone()


def family(widths: list[int]) -> str:
    """The part of a message that says which system vectors of these widths are for."""
    if len(widths) == 2:
        return ", for SDXL"
    return f", for {CONTEXT_DIMS[widths[0]]}" if widths[0] in CONTEXT_DIMS else ""


def in_words(numbers: list[int]) -> str:
    """Numbers joined by "and"."""
    return " and ".join(map(str, numbers))


def save_embedding(
    text: TextEncoder, path: str | Path, word: str, dtype: torch.dtype | None = None
) -> None:
    """Write a word that was added, in the form of diffusers; of SDXL, as clip_l and clip_g.

    Args:
        text: The tokenizers and text encoders of a model.
        path: A name that ends in .safetensors or .sft.
        word: The word.
        dtype: Of the file; None for the text encoder's own.

    Raises:
        ValueError: If an argument is not accepted, or a value is not finite in the type.
        OSError: If the file cannot be written.
    """
    encoders = cast(list[CLIPTextEncoder], list(text.encoders))
    pairs = zip(text.tokenizers, encoders, strict=True)
    write_embedding(path, word, [vectors_of(*pair, word) for pair in pairs], dtype)


def write_embedding(
    path: str | Path, word: str, vectors: list[Tensor], dtype: torch.dtype | None = None
) -> None:
    """Write the vectors of a word for one or two text encoders, as `save_embedding` does."""
    path = user_path(check_place(path, "path"))
    if path.suffix.lower() not in SAFETENSORS:
        raise ValueError(f"{path}: embeddings are written as .safetensors files")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file in it")
    target = None if dtype is None else check_dtype(dtype)
    names = [word] if len(vectors) == 1 else list(XL_PARTS)
    state = {
        name: each.detach().to("cpu", target).contiguous()
        for name, each in zip(names, vectors, strict=True)
    }
    for values in state.values():
        if not values.isfinite().all():
            raise ValueError(f"the vectors of {word} are not finite as {values.dtype}")
    check_folder(path.parent, sum(values.nbytes for values in state.values()))
    write_safetensors(path, state)
