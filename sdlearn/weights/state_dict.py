"""The tensors of one network: loaded from published weight files, and saved with published names.

The networks of this package have the names of the published folders, except for three renames: the
text encoder's prefix, older names in the autoencoder's attention, and 1x1 convolutions that are
linear layers here. The names of the original single files are in ldm_keys.

Loading is strict: the file must contain exactly the network's tensors, in its shapes. Names and
shapes are compared before any tensor is read, so a file that does not fit leaves the network
unchanged.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sdlearn.clip import CLIPTextEncoder
from sdlearn.utils.atomic_files import atomic_write, user_path, write_json
from sdlearn.weights.ldm_keys import find_part
from sdlearn.weights.model_detection import detect_model
from sdlearn.weights.tensor_files import LazyTensor, open_weights
from sdlearn.weights.weight_names import find_weights

# Older published names in the autoencoder's attention -> the names here.
RENAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
TEXT_PREFIX = "text_model."
TEXT_PROJECTION = "text_projection.weight"  # the one tensor of a text encoder without that prefix
COMPUTE_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


# ------------------------------------------------------------------------------------------ loading


def load(module: nn.Module, path: str | Path, variant: str | None = None) -> None:
    """Fill a network with published weights, strictly, in the network's own dtype.

    A network on the meta device gets its memory here; the weights are not copied a second time.

    Args:
        module: The network to fill, in place.
        path: A .safetensors or .bin file, the index of a sharded file, or a folder with one of them
            under its published name. For a UNet, VAE, ControlNet or CLIPTextEncoder also an
            original file, of this part only or of the whole system.
        variant: Of the weights in a folder, such as "fp16", see `pick_weights`.

    Raises:
        FileNotFoundError: If there is no weight file.
        ValueError: If the file is damaged or does not fit the network, which is unchanged then.
    """
    path = find_weights(user_path(path), variant)
    load_part(module, open_weights(path), path)


def load_part(module: nn.Module, tensors: dict[str, LazyTensor], path: Path) -> None:
    """Fill a network from an opened file, as `load` does.

    Args:
        module: The network to fill, in place.
        tensors: The file's tensors by name. The dictionary is emptied, to free the memory of
            tensors that are already in memory.
        path: The file, for error messages.
    """
    found = find_part(module, tensors)
    published = found.tensors if found else rename_keys(tensors)
    matched = match_state_dict(module, published, path, detected_hint(tensors, module))
    tensors.clear()
    del found, published  # or tensors that a pickle holds in memory would stay until the end
    load_tensors([(module, matched)], path)


def rename_keys(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors of a published file under the names here, without position_ids.

    position_ids, which old files contain, are the numbers 0 … 76 and no weights.
    """
    renamed = {our_key(key): tensor for key, tensor in tensors.items()}
    return {key: tensor for key, tensor in renamed.items() if not key.endswith("position_ids")}


def our_key(key: str) -> str:
    """The name here of a published tensor."""
    key = key.removeprefix(TEXT_PREFIX)
    for theirs, ours in RENAMES.items():
        key = key.replace(theirs, ours)
    return key


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
                f"{path} holds the tensor {tensor.name!r}, which {owner} does not have{hint}"
            )
        shape = tuple(state[key].shape)
        if len(tensor.shape) > len(shape) and set(tensor.shape[len(shape) :]) == {1}:
            tensor = reshaped(tensor, tensor.shape[: len(shape)])  # 1x1 convolution -> linear
        if tensor.shape != shape:
            raise ValueError(
                f"{path}: {tensor.name} has the shape {tensor.shape}; {owner} needs {shape}{hint}"
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


def check_dtype(dtype: torch.dtype) -> None:
    """Raise ValueError for a dtype in which the networks cannot compute."""
    if dtype not in COMPUTE_DTYPES:
        accepted = ", ".join(map(str, COMPUTE_DTYPES))
        raise ValueError(f"dtype is {dtype!r}; it must be one of {accepted}")


# ------------------------------------------------------------------------------------------- saving


def save(
    module: nn.Module,
    path: str | Path,
    dtype: torch.dtype | None = None,
    max_bytes: int | None = None,
) -> None:
    """Write a network as safetensors, with published names and shapes.

    Each file is written under a temporary name and then moved, so that it is complete or absent.
    Files from an earlier save to the same path are replaced.

    Args:
        module: The network.
        path: A name that ends in .safetensors or .sft.
        dtype: Of floating-point tensors in the file; None for the network's own.
        max_bytes: A larger file is split into shards NAME-00001-of-00003.safetensors, with an index
            NAME.safetensors.index.json; None for no limit.

    Raises:
        ValueError: If the path has another suffix.
    """
    path = user_path(path)
    if path.suffix.lower() not in (".safetensors", ".sft"):
        raise ValueError(f"{path}: weights are written as .safetensors files")
    state = published_state(module, dtype)
    shards = split_shards(state, max_bytes)
    index = path.with_name(path.name + ".index.json")
    earlier = {path, index, *path.parent.glob(f"{path.stem}-*-of-*{path.suffix}")}
    if len(shards) == 1:
        written = {path}
        write_safetensors(path, state)
    else:
        weight_map: dict[str, str] = {}
        written = {index}
        for number, keys in enumerate(shards, start=1):
            shard = path.with_stem(f"{path.stem}-{number:05d}-of-{len(shards):05d}")
            write_safetensors(shard, {key: state[key] for key in keys})
            weight_map |= dict.fromkeys(keys, shard.name)
            written.add(shard)
        total = sum(tensor.nbytes for tensor in state.values())
        write_json(index, {"metadata": {"total_size": total}, "weight_map": weight_map})
    for stale in earlier - written:
        stale.unlink(missing_ok=True)


def published_state(module: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """A network's tensors on the CPU, with published names and shapes; dtype as in `save`."""
    convolutions = not getattr(getattr(module, "config", None), "use_linear_projection", True)
    state = {}
    for key, tensor in module.state_dict().items():
        if convolutions and key.endswith(("proj_in.weight", "proj_out.weight")):
            tensor = tensor[:, :, None, None]  # linear layer -> 1x1 convolution
        if isinstance(module, CLIPTextEncoder) and key != TEXT_PROJECTION:
            key = TEXT_PREFIX + key
        target = dtype if tensor.is_floating_point() else tensor.dtype
        state[key] = tensor.detach().to("cpu", target).contiguous()
    return state


def split_shards(state: dict[str, Tensor], max_bytes: int | None) -> list[list[str]]:
    """The keys of each shard; no shard is larger than max_bytes unless it is a single tensor."""
    shards: list[list[str]] = [[]]
    used = 0
    for key, tensor in state.items():
        size = tensor.nbytes + len(key) + 128  # an upper bound of its entry in the header
        if max_bytes is not None and shards[-1] and used + size > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(key)
        used += size
    return shards


def write_safetensors(path: Path, state: dict[str, Tensor]) -> None:
    """Write a file of tensors that is complete or absent, with the usual permissions."""
    with atomic_write(path) as part:
        part.touch()
        mode = part.stat().st_mode  # save_file makes files that only their owner can read
        save_file(state, part, metadata={"format": "pt"})
        part.chmod(mode)
