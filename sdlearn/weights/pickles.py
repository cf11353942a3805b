"""Pickled checkpoints, read without running any code that they name.

A pickle is a small program: it names classes and functions, which are called when it is read.
Published checkpoints name more than tensors, because training libraries store their own objects
beside the weights: callbacks, configurations, NumPy numbers. Three rules keep such files readable
and safe:

    1. torch.load(weights_only=True) interprets the pickle. It rebuilds tensors, and calls nothing
       but what it was given.
    2. A name that is only training data is given to it as a stand-in: an empty class of this
       module that drops whatever it is called with. The library that is named is never imported,
       and its class never used, even where it is installed.
    3. Any other name is refused before torch sees the file.
"""

import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from sdlearn.utils.validation import shown
from sdlearn.weights.pickle_names import INSTRUCTIONS, Use, names_in_file

# Names that are only data of a training. Of a module or package that ends in a dot: all it names.
DATA = re.compile(
    r"(pytorch_lightning|lightning|lightning_fabric|lightning_utilities|torchmetrics)\."
    r"|(omegaconf|hydra|argparse|easydict|addict|yacs|ml_collections|wandb)\."
    r"|(ldm|cldm|sgm|taming|diffusers|transformers|accelerate|deepspeed|apex|__main__)\."
    r"|(typing|enum|pathlib|datetime|decimal|fractions|uuid|numpy\.dtypes|torch\.optim)\."
    r"|numpy\.(dtype|ndarray|bool_?|(u?int|float|complex)\d+)$"
    r"|numpy\.random\.(_pickle|_pcg64|_mt19937|mtrand|bit_generator)\."
    r"|numpy\._?core\.multiarray\.(scalar|_reconstruct)$"
    r"|builtins\.(int|float|bool|str|bytes|list|tuple|dict|frozenset|object|slice|range|type)$"
    r"|collections\.(defaultdict|deque)$|types\.(SimpleNamespace|GenericAlias)$"
    r"|copyreg\._reconstructor$|_?operator\.getitem$"  # of typing.Optional[int] and its like
    r"|torch\.torch_version\.TorchVersion$|torch\.nn\.modules\.container\.ParameterDict$"
)
# Names that torch rebuilds without being told. Of its own package it decides alone.
TORCH = re.compile(
    r"torch\.|collections\.(OrderedDict|Counter)$|_codecs\.encode$"
    r"|builtins\.(set|bytearray|complex)$"
)
Permitted = Callable[..., Any] | tuple[Callable[..., Any], str]  # what torch may call, by name
LOADING = threading.Lock()  # torch has one list of permitted names for the whole process


class StandIn:
    """An object in the place of one that training left; it drops what it is given."""

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class MappingStandIn:
    """A dictionary of another type: calling this class gives one that torch can fill."""

    def __new__(cls, *_: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


class ListStandIn:
    """A list of another type."""

    def __new__(cls, *_: object) -> list[Any]:  # type: ignore[misc]
        return []


def unpickled(path: Path, device: str) -> dict[str, Tensor]:
    """The tensors of a pickle by name; on the device "meta" without their values.

    Args:
        path: A pickle as torch writes it: an archive, or the older form from before torch 1.6.
        device: "cpu" or "meta".

    Raises:
        ValueError: If the file is damaged, holds no tensors by name, or names a function or class
            that is not known to be harmless.
    """
    return state_dict_in(pickle_content(path, device), path, device)


def pickle_content(path: Path, device: str) -> object:
    """All that a pickle holds, with stand-ins for objects of a training; see `unpickled`."""
    names = names_in_file(path)
    unknown = sorted(name for name in names if not (DATA.match(name) or TORCH.match(name)))
    if unknown:
        raise refusal(path, unknown[0])
    stand_ins: list[Permitted] = [
        (stand_in(use), name) for name, use in names.items() if DATA.match(name)
    ]
    try:
        # A file and not its name: for names in .safetensors torch has another reader.
        with LOADING, only_permitted(stand_ins), path.open("rb") as file:
            content = torch.load(file, map_location=device, weights_only=True, mmap=False)
    except Exception as error:  # damaged bytes can raise any exception
        raise reading_error(path, error) from error
    return content


def stand_in(use: Use) -> type:
    """A new stand-in, a class of its own: files have classes as keys."""
    kinds = {"object": StandIn, "mapping": MappingStandIn, "list": ListStandIn}
    return type("StandIn", (kinds[use],), {})


@contextmanager
def only_permitted(stand_ins: list[Permitted]) -> Iterator[None]:
    """Have torch know these names alone, and not what else this process may have permitted."""
    earlier = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles in protocols other than 2
            torch.serialization.add_safe_globals(stand_ins)
            yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(earlier)


# ------------------------------------------------------------------------------------ the errors


def refusal(path: Path, name: str) -> ValueError:
    """The error for a name that is not known to be harmless."""
    return ValueError(
        f"{path} is not a pickle of tensors alone: it holds {shown(name)}, and rebuilding such "
        "an object can run any code; use a .safetensors file of the same model"
    )


def reading_error(path: Path, error: Exception) -> ValueError:
    """The error for a pickle that torch cannot read, in our words.

    torch's own message is not passed on: it advises reading the file without protection.
    """
    message = str(error)
    named = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", message)
    if named:
        return refusal(path, named[1])
    opcode = re.search(r"Unsupported operand (\d+)", message)
    reason = "it is damaged or incomplete, or holds objects that are not weights"
    if opcode and chr(int(opcode[1])) in INSTRUCTIONS:
        name = INSTRUCTIONS[chr(int(opcode[1]))]
        reason = f"it uses the instruction {name}, which torch's own weight files do not use"
    return ValueError(
        f"{path} is not a pickle of tensors alone: {reason}; use a .safetensors file of the same "
        "model"
    )


# -------------------------------------------------------------------------------------- the weights


def state_dict_in(content: object, path: Path, device: str) -> dict[str, Tensor]:
    """The tensors by name in what a pickle holds.

    They are the content itself or its entry state_dict, which may be nested, as diffusers reads it.
    In a file that has neither, they are its one entry that is a dictionary of tensors, whatever its
    name (model, module, ema). Of several such entries, the one with the most tensors is taken, as
    the others belong to the training. If two have equally many, they may be weights and their
    average, and the file is refused.

    Raises:
        ValueError: If there are no tensors by name, or something else among them.
    """
    for _ in range(8):  # a pickle can hold itself
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
    if isinstance(content, dict) and not any(isinstance(v, Tensor) for v in content.values()):
        found = [key for key, value in content.items() if is_state_dict(value)]
        most = max((len(content[key]) for key in found), default=0)
        largest = [key for key in found if len(content[key]) == most]
        if len(largest) > 1:
            raise ValueError(
                f"{path} holds several sets of weights, {shown(largest[0])} and "
                f"{shown(largest[1])}, and does not say which to use; save the one as a file "
                "of its own"
            )
        content = content[largest[0]] if largest else content
    if not isinstance(content, dict) or not any(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path} is a pickle of something else; expected tensors by name")
    # Counters and notes of a training, such as epoch or global_step.
    content = {k: v for k, v in content.items() if not isinstance(v, int | float | str | None)}
    for name, value in content.items():
        if not isinstance(name, str):
            raise ValueError(
                f"{path} is a pickle of something else: it has {shown(name)} where the name of "
                "a tensor is expected"
            )
        if not is_plain(value, device):
            raise ValueError(
                f"{path} is a pickle of something else beside tensors: {shown(name)} is "
                f"{describe(value)}; expected tensors by name"
            )
    return {name: tensor.detach() for name, tensor in content.items()}


def is_state_dict(value: object) -> bool:
    """Whether this is a dictionary of tensors by name, and not empty."""
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def is_plain(value: object, device: str) -> bool:
    """Whether this is a tensor on the device whose values are the numbers in its storage."""
    return (
        isinstance(value, Tensor)
        and value.device.type == device
        and value.layout is torch.strided
        and not (value.is_quantized or value.is_neg() or value.is_conj())
    )


def describe(value: object) -> str:
    """What stands in the place of a plain tensor, for a message."""
    if isinstance(value, Tensor):
        return f"a tensor on {value.device}, {value.layout}, {value.dtype}, not plain numbers"
    if isinstance(value, StandIn):
        return "an object of its training"
    return f"of the type {type(value).__name__}"
