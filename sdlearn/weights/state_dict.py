"""The tensors of one network, loaded from published weight files; `saving` writes them.

The networks of this package have the names of the published folders, except for the text encoder's
prefix, and for 1x1 convolutions, which are linear layers here. The names in other files are in
ldm_keys; file_parts finds a network in a file.

Loading is strict: a network's part of the file must contain exactly its tensors, in its shapes,
apart from what leftovers lists. Names and shapes are compared before any tensor is read, so a file
that does not fit leaves the network unchanged.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sdlearn.utils.atomic_files import user_path
from sdlearn.utils.device import check_module
from sdlearn.utils.validation import shown
from sdlearn.weights.file_parts import Location, find_part, tensors_at, unwrap
from sdlearn.weights.markers import check_markers
from sdlearn.weights.model_detection import detect_model, find_addition
from sdlearn.weights.tensor_files import LazyTensor, open_weights
from sdlearn.weights.weight_names import find_weights

TEXT_PREFIX = "text_model."


def load(module: nn.Module, path: str | Path, variant: str | None = None) -> None:
    """Fill a network with published weights, strictly, in the network's own dtype.

    A network on the meta device gets its memory here; the weights are not copied a second time.

    Args:
        module: The network to fill, in place.
        path: A .safetensors or .bin file, the index of a sharded file, or a folder with one of them
            under its published name. For a UNet, VAE, ControlNet or CLIPTextEncoder also an
            original file, of this part only or of the whole system, and for a text encoder a file
            of the whole CLIP model or one that OpenAI or OpenCLIP wrote.
        variant: The variant of a folder's weights, such as "fp16", see `pick_weights`.

    Raises:
        FileNotFoundError: If there is no weight file.
        ValueError: If the file is damaged or does not fit the network, which is unchanged then.
    """
    check_module(module)
    path = find_weights(user_path(path), variant)
    load_part(module, open_weights(path), path)


def check_weights(module: nn.Module, path: str | Path, variant: str | None = None) -> None:
    """Compare weights with a network, which may be on the meta device, without reading the values.

    Raises the errors of `load`, except those about values.
    """
    path = find_weights(user_path(path), variant)
    match_part(module, open_weights(path), path)


def load_part(module: nn.Module, tensors: dict[str, LazyTensor], path: Path) -> None:
    """Fill a network from an opened file, as `load` does; for the arguments see `match_part`."""
    load_tensors([(module, match_part(module, tensors, path))], path)


def match_part(
    module: nn.Module, tensors: dict[str, LazyTensor], path: Path
) -> dict[str, LazyTensor]:
    """Find a network's tensors in an opened file, and compare their names and shapes.

    Args:
        module: The network.
        tensors: The file's tensors by name. The dictionary is emptied, to free the memory of
            tensors that are already in memory.
        path: The file, for error messages.

    Returns:
        As `match_state_dict`.
    """
    unwrap(tensors)
    check_markers(module, tensors, path)
    published = Location("", "published")  # a file in another layout is refused by its names
    found = find_part(module, tensors, path) or tensors_at(published, module, tensors, path)
    matched = match_state_dict(module, found.tensors, path, detected_hint(tensors, module))
    added = find_addition(name for name in tensors if not name.startswith(found.prefix))
    if added:
        raise ValueError(f"{path} holds the tensor {shown(added[0])}, which belongs to {added[1]}")
    tensors.clear()
    return matched


def match_state_dict(
    module: nn.Module, tensors: Mapping[str, LazyTensor], path: Path, hint: str = ""
) -> dict[str, LazyTensor]:
    """Compare a file's tensors with a network's by name, shape and type, without reading them.

    Args:
        module: The network.
        tensors: The file's tensors under the names here.
        path: The file, for error messages.
        hint: Added to error messages, see `detected_hint`.

    Returns:
        One tensor for each entry of the network's state dict, in the network's shape: the weights
        of 1x1 convolutions become those of linear layers.

    Raises:
        ValueError: If a tensor is missing, left over, or of another shape or kind of number.
    """
    state = module.state_dict()
    owner = type(module).__name__
    matched = {}
    for key, tensor in tensors.items():
        if key not in state:
            raise ValueError(
                f"{path} holds the tensor {shown(tensor.name)}, which {owner} does not have{hint}"
            )
        shape = tuple(state[key].shape)
        if len(tensor.shape) > len(shape) and set(tensor.shape[len(shape) :]) == {1}:
            tensor = reshaped(tensor, tensor.shape[: len(shape)])  # 1x1 convolution -> linear
        if tensor.shape != shape:
            raise ValueError(
                f"{path}: {tensor.name} has the shape {shown(tensor.shape)}; {owner} needs "
                f"{shape}{hint}"
            )
        if state[key].is_floating_point() and not tensor.dtype.is_floating_point:
            raise ValueError(
                f"{path}: {tensor.name} holds {tensor.dtype}; only files of floating-point numbers "
                "can be read"
            )
        matched[key] = tensor
    missing = state.keys() - matched.keys()
    if missing:
        raise ValueError(
            f"{path} lacks {len(missing)} of the {len(state)} tensors of {owner}, among them "
            f"{min(missing)!r}{hint}"
        )
    return matched


def reshaped(tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    """The tensor in another shape, still to be read."""
    return tensor._replace(shape=shape, read=lambda: tensor.read().reshape(shape))


def load_tensors(matched: Sequence[tuple[nn.Module, dict[str, LazyTensor]]], path: Path) -> None:
    """Read tensors into their networks one by one.

    Networks on the meta device get memory. The others are filled last, and only after all their
    tensors have been read and checked once, so that an error leaves them unchanged.

    Args:
        matched: Networks, each with the result of `match_state_dict`, which is emptied.
        path: The file, for error messages.

    Raises:
        ValueError: If a value is not finite in the network's dtype.
    """
    on_meta = {
        module: any(t.is_meta for t in module.state_dict().values()) for module, _ in matched
    }
    for module, tensors in matched:
        if not on_meta[module]:
            for key, target in module.state_dict().items():
                read_finite(tensors[key], target.dtype, path)
    for module, tensors in matched:
        state = module.state_dict()
        if on_meta[module]:
            new = {
                key: read_finite(tensors.pop(key), target.dtype, path)
                for key, target in state.items()
            }
            module.load_state_dict(new, strict=True, assign=True)
        else:
            for key, target in state.items():
                target.copy_(tensors.pop(key).read())


def read_finite(tensor: LazyTensor, dtype: torch.dtype, path: Path) -> Tensor:
    """Read a tensor in this dtype; ValueError if a value is not finite."""
    values = tensor.read().to(dtype)
    low, high = values.aminmax()
    if not (low.isfinite() and high.isfinite()):
        raise ValueError(
            f"{path}: {tensor.name} is not finite as {dtype}; the file is damaged, or has values "
            "that are too large for this type"
        )
    return values


def detected_hint(tensors: Mapping[str, LazyTensor], module: nn.Module) -> str:
    """The end of an error message: what a file looks like, if that is not this network."""
    family = detect_model({key: tensor.shape for key, tensor in tensors.items()})
    own = detect_model({key: tuple(tensor.shape) for key, tensor in module.state_dict().items()})
    return f"; it looks like {family}" if family not in (None, own) else ""
