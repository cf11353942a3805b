"""Do the tensors of a file fit a module? That is asked of names and shapes, before any is read;
then they are read."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sdlearn.families import looks_like
from sdlearn.stored import Stored


def fitted(
    module: nn.Module, part: Mapping[str, Stored], path: Path, ending: str
) -> dict[str, Stored]:
    """The tensors that fill the module, in its shapes; ValueError unless they are exactly its own.

    ending: of the sentence.
    """
    wanted = module.state_dict()
    owner = type(module).__name__
    fits = {}
    for key, tensor in part.items():
        if key not in wanted:
            raise ValueError(
                f"{path} holds the tensor {tensor.name!r}, which {owner} does not have{ending}"
            )
        want = wanted[key]
        shape = tuple(want.shape)
        if len(tensor.shape) > len(shape) and set(tensor.shape[len(shape) :]) == {1}:
            tensor = reshaped(tensor, tensor.shape[: len(shape)])  # 1x1 convolution -> linear
        if tensor.shape != shape:
            raise ValueError(
                f"{path}: {tensor.name} has the shape {tensor.shape}; {owner} needs {shape}{ending}"
            )
        if want.is_floating_point() and not tensor.dtype.is_floating_point:
            raise ValueError(
                f"{path}: {tensor.name} holds {tensor.dtype}; only files of floating-point numbers "
                "can be read"
            )
        fits[key] = tensor
    missing = wanted.keys() - fits.keys()
    if missing:
        raise ValueError(
            f"{path} lacks {len(missing)} of the {len(wanted)} tensors of {owner}, among them "
            f"{min(missing)!r}{ending}"
        )
    return fits


def reshaped(tensor: Stored, shape: tuple[int, ...]) -> Stored:
    return tensor._replace(shape=shape, read=lambda: tensor.read().reshape(shape))


def fill(fits: Sequence[tuple[nn.Module, dict[str, Stored]]], path: Path) -> None:
    """Read the tensors into their modules one by one, using them up.

    Raises ValueError where one is not finite. Modules that have memory are then as they were: they
    are only written to when everything has been read once; the others are filled at the end.
    """
    fresh = {module: any(t.is_meta for t in module.state_dict().values()) for module, _ in fits}
    for module, part in fits:
        if not fresh[module]:
            for key, want in module.state_dict().items():
                finite(part[key], want.dtype, path)
    for module, part in fits:
        wanted = module.state_dict()
        if fresh[module]:
            state = {key: finite(part.pop(key), want.dtype, path) for key, want in wanted.items()}
            module.load_state_dict(state, strict=True, assign=True)
        else:
            for key, want in wanted.items():
                want.copy_(part.pop(key).read())


def finite(tensor: Stored, dtype: torch.dtype, path: Path) -> Tensor:
    """The numbers of a tensor in this type; ValueError where they are not numbers."""
    numbers = tensor.read().to(dtype)
    low, high = numbers.aminmax()
    if not (low.isfinite() and high.isfinite()):
        raise ValueError(
            f"{path}: {tensor.name} is not finite as {dtype}; the file is damaged, or has numbers "
            "that are too large for this type"
        )
    return numbers


def aside(stored: Mapping[str, Stored], module: nn.Module) -> str:
    """How to end a sentence about a file that does not fit the module, where it is known why."""
    family = looks_like({key: tensor.shape for key, tensor in stored.items()})
    own = looks_like({key: tuple(tensor.shape) for key, tensor in module.state_dict().items()})
    return f"; it looks like {family}" if family not in (None, own) else ""
