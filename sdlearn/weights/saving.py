"""The tensors of one network, saved as safetensors with published names.

A network whose file could not be read again is refused before anything is written.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from sdlearn.clip import CLIPTextEncoder
from sdlearn.utils.atomic_files import atomic_write, check_folder, user_path, write_json
from sdlearn.utils.device import check_dtype, check_module
from sdlearn.utils.validation import one_line, shown
from sdlearn.weights.state_dict import TEXT_PREFIX
from sdlearn.weights.tensor_files import SAFETENSORS
from sdlearn.weights.weight_names import STEMS

TEXT_PROJECTION = "text_projection.weight"  # the one tensor of a text encoder without that prefix
# The names of weight files in a published folder: whole, a variant, a shard, an index.
WEIGHT_FILE = re.compile(
    rf"({'|'.join(STEMS)})([.-][\w.-]*)?\.(safetensors|sft|bin|msgpack)(\.index(\.\w+)?\.json)?"
)


def replace_weights(
    module: nn.Module,
    path: Path,
    dtype: torch.dtype | None = None,
    max_bytes: int | None = None,
) -> None:
    """Write a network into a published folder as `save` does, in place of any older weights.

    A variant, a pickle or shards of an earlier network would be loaded instead of the new one by
    software that prefers them, so they are deleted.

    Args:
        module: The network, which `check_save` has accepted.
        path: Its weight file.
        dtype: As in `save`.
        max_bytes: As in `save`.
    """
    if path.parent.is_dir():
        for file in path.parent.iterdir():
            if WEIGHT_FILE.fullmatch(file.name):
                file.unlink()
    write_weights(module, path, dtype, max_bytes)


def check_save(
    module: nn.Module, dtype: torch.dtype | None = None, max_bytes: int | None = None
) -> int:
    """Check that a network can be saved, and read again.

    Args:
        module: The network.
        dtype: As in `save`.
        max_bytes: As in `save`.

    Returns:
        The bytes of its tensors in the file.

    Raises:
        ValueError: If an argument is not accepted, or a value is not finite in the
            dtype.
    """
    check_module(module)
    if dtype is not None:
        check_dtype(dtype)
    number = isinstance(max_bytes, int) and not isinstance(max_bytes, bool)
    if max_bytes is not None and not (number and max_bytes >= 1):
        raise ValueError(
            f"max_bytes is {shown(max_bytes)}; it must be a whole number of bytes, at least "
            "1, or None for no limit"
        )
    total = 0
    for name, tensor in module.state_dict().items():
        if tensor.is_meta:
            raise ValueError(f"{name} of this {type(module).__name__} has no values to save yet")
        values = tensor.to(dtype) if tensor.is_floating_point() else tensor
        total += values.nbytes
        if not values.isfinite().all():
            raise ValueError(
                f"{name} of this {type(module).__name__} is not finite as {values.dtype}, so the "
                "file could not be read again; save it in a type with a larger range"
            )
    return total


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
        dtype: Data type of floating-point tensors in the file; None for the network's own.
        max_bytes: At least 1. A larger file is split into shards NAME-00001-of-00003.safetensors,
            with an index NAME.safetensors.index.json; None for no limit.

    Raises:
        ValueError: If the path has another suffix, or the file could not be read again.
        OSError: If the folder cannot be written to, or there is too little space.
    """
    path = user_path(path)
    if path.suffix.lower() not in SAFETENSORS:
        raise ValueError(f"{path}: weights are written as .safetensors files")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file in it")
    check_folder(path.parent, check_save(module, dtype, max_bytes))
    write_weights(module, path, dtype, max_bytes)


def write_weights(
    module: nn.Module, path: Path, dtype: torch.dtype | None, max_bytes: int | None
) -> None:
    """Write what `save` has checked."""
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


def write_safetensors(
    path: Path, state: dict[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file of tensors that is complete or absent, with the usual permissions."""
    with atomic_write(path) as part:
        part.touch()
        mode = part.stat().st_mode  # save_file makes files that only their owner can read
        try:
            save_file(state, part, metadata={"format": "pt", **(metadata or {})})
        except SafetensorError as error:  # such as a full disk
            reason = str(error).rpartition("I/O error: ")[2]
            raise OSError(f"{path} cannot be written: {one_line(reason)}") from error
        part.chmod(mode)
