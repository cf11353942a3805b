"""Read and write files of textual-inversion embeddings; see textual_inversion for the method.

There are four common formats. Each is a safetensors file or a pickle (see pickles):

    {"<cat>": (d,) or (n, d)}                           diffusers; the key is the word
    {"string_to_param": {"*": (n, d)}, "name": "cat"}   AUTOMATIC1111's web interface, pickles only
    {"emb_params": (n, d)}                              the same web interface
    {"clip_l": (n, 768), "clip_g": (n, 1280)}           SDXL, with a table for each text encoder

The last two formats don't contain the word. As in web interfaces, the name of the file is then the
word. A pickle that holds one tensor and nothing else is read in the same way. The width d shows
which system the vectors are for.
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

FILE_NAME = "learned_embeds.safetensors"  # the embedding's file in a folder
XL_PARTS = ("clip_l", "clip_g")  # in the order of the text encoders
ACCEPTED = (
    "accepted: textual-inversion embeddings in the formats of diffusers, of AUTOMATIC1111's web "
    "interface and of SDXL (clip_l and clip_g)"
)


class Embedding(NamedTuple):
    """The content of a file.

    Attributes:
        word: The word in the file; if there is none, the file's name without its suffix.
        vectors: One table (n, d) for each text encoder, in the dtype of the file.
    """

    word: str
    vectors: list[Tensor]


def load_embedding(text: TextEncoder, source: str | Path, word: str | None = None) -> str:
    """Read an embedding and add its word to each tokenizer and text encoder.

    Args:
        text: The tokenizers and text encoders of a model, changed in place.
        source: A file, or a folder that contains learned_embeds.safetensors.
        word: The word to use in prompts; None for the word in the file.

    Returns:
        The word that was added.

    Raises:
        FileNotFoundError, ValueError: If the embedding can't be read or doesn't fit. In that case
            nothing is changed.
    """
    path = user_path(check_place(source))
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give the embedding's file, or its folder")
    found = read_embedding(path)
    encoders = cast(list[CLIPTextEncoder], list(text.encoders))
    widths = [vectors.shape[1] for vectors in found.vectors]
    needed = [encoder.config.hidden_size for encoder in encoders]
    if widths != needed:
        raise ValueError(
            f"{path} holds vectors of width {in_words(widths)}{family(widths)}; the text "
            f"{'encoder' if len(needed) == 1 else 'encoders'} of this model "
            f"{'needs' if len(needed) == 1 else 'need'} {in_words(needed)}"
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
    """Read a file in any of the formats above.

    Raises:
        ValueError: If the file is damaged, isn't an embedding, or holds values that are not finite.
    """
    if container(path) == "pickle":
        content: object = pickle_content(path, "cpu")
    else:
        content = {name: tensor.read() for name, tensor in open_file(path).items()}
    word, tables = tables_in(path, content)
    vectors = [checked(path, name, table) for name, table in tables.items()]
    if len({len(each) for each in vectors}) > 1:
        raise ValueError(f"{path} holds different numbers of vectors in clip_l and clip_g")
    return Embedding(path.stem if word is None else word, vectors)


def tables_in(path: Path, content: Any) -> tuple[str | None, Mapping[str, Tensor]]:
    """The word in a file's content, or None, and its tables by their names in the file."""
    if isinstance(content, Tensor):  # a pickle of one tensor
        return None, {"its tensor": content}
    if isinstance(content, dict) and "string_to_param" in content:
        tables, name = content["string_to_param"], content.get("name")
        if not is_state_dict(tables) or len(tables) != 1:
            raise ValueError(
                f"{path} holds string_to_param, but not as a dictionary with one tensor; older "
                "versions of the web interface stored a torch ParameterDict, which is not "
                "supported; convert the embedding to safetensors"
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
    """A table as (n, d), copied; ValueError unless it holds finite floating-point numbers."""
    rows = table.detach()[None] if table.ndim == 1 else table.detach()
    right = rows.ndim == 2 and 1 <= len(rows) <= MOST_VECTORS and rows.shape[1] > 0
    if not right or not is_plain(rows, "cpu") or not rows.dtype.is_floating_point:
        raise ValueError(
            f"{path}: {shown(name)} has the shape {tuple(table.shape)} and the type {table.dtype}; "
            "an embedding must be a table (n, d) of floating-point numbers, with n at most "
            f"{MOST_VECTORS}"
        )
    if not rows.isfinite().all():
        raise ValueError(f"{path}: {shown(name)} is not finite; the file is damaged")
    return rows.clone()


def family(widths: list[int]) -> str:
    """The part of an error message that says which system vectors of these widths are for."""
    if len(widths) == 2:
        return ", for SDXL"
    return f", for {CONTEXT_DIMS[widths[0]]}" if widths[0] in CONTEXT_DIMS else ""


def in_words(numbers: list[int]) -> str:
    """The numbers, joined by "and"."""
    return " and ".join(map(str, numbers))


def save_embedding(
    text: TextEncoder, path: str | Path, word: str, dtype: torch.dtype | None = None
) -> None:
    """Write the vectors of an added word in the format of diffusers, or of SDXL for two encoders.

    Args:
        text: The tokenizers and text encoders of a model.
        path: A path that ends in .safetensors or .sft.
        word: The word.
        dtype: Dtype of the vectors in the file; None for the text encoder's own.

    Raises:
        ValueError: If an argument is not accepted, or a value is not finite in the dtype.
        OSError: If the file cannot be written.
    """
    encoders = cast(list[CLIPTextEncoder], list(text.encoders))
    pairs = zip(text.tokenizers, encoders, strict=True)
    write_embedding(path, word, [vectors_of(*pair, word) for pair in pairs], dtype)


def write_embedding(
    path: str | Path, word: str, vectors: list[Tensor], dtype: torch.dtype | None = None
) -> None:
    """Write a word's vectors for one text encoder, or for SDXL's two; see `save_embedding`."""
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
            raise ValueError(
                f"the vectors of {word} are not finite as {values.dtype}; save them in a type with "
                "a larger range"
            )
    check_folder(path.parent, sum(values.nbytes for values in state.values()))
    write_safetensors(path, state)
