"""Do the tensors of a file fit a module? That is asked of names and shapes, before any is read."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

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


def fill(module: nn.Module, part: dict[str, Stored]) -> None:
    """Read the tensors into the module one by one, using up `part`."""
    wanted = module.state_dict()
    if any(tensor.is_meta for tensor in wanted.values()):
        state = {key: part.pop(key).read().to(want.dtype) for key, want in wanted.items()}
        module.load_state_dict(state, strict=True, assign=True)
        return
    for key, tensor in wanted.items():
        tensor.copy_(part.pop(key).read())


def aside(stored: Mapping[str, Stored], module: nn.Module) -> str:
    """How to end a sentence about a file that does not fit the module, where it is known why."""
    family = looks_like({key: tensor.shape for key, tensor in stored.items()})
    own = looks_like({key: tuple(tensor.shape) for key, tensor in module.state_dict().items()})
    return f"; it looks like {family}" if family not in (None, own) else ""
