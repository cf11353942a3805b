"""Published weight files <-> the modules of this package.

The modules carry the published names, so a file fits after a handful of renames: the text encoder's
prefix, the old names of the autoencoder's attention, and 1x1 convolutions, which here are linear
layers. Loading is strict: every tensor must be there, have the right shape and belong.

Files are safetensors, whole or in shards with an index. Pickled files (.bin) are read with
weights_only=True, which rebuilds tensors and runs no code from the file.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdlearn.clip import CLIPTextEncoder
from sdlearn.files import read_json, replacing, write_json

# What published files call the parts of the autoencoder's attention -> what we call them.
RENAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
TEXT_PREFIX = "text_model."
TEXT_PROJECTION = "text_projection.weight"  # the one tensor outside that prefix

# Where a published folder keeps a component's weights, in the order of preference.
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
SUFFIXES = (
    ".safetensors",
    ".safetensors.index.json",
    ".fp16.safetensors",
    ".safetensors.index.fp16.json",
    ".bin",
    ".bin.index.json",
    ".fp16.bin",
)


# ----------------------------------------------------------------------------------------- loading


def load(module: nn.Module, path: str | Path) -> None:
    """Fill a module with published weights, strictly, in the module's own dtype.

    path: a .safetensors or .bin file, the index of a sharded one, or a folder that holds one of
    them under its published name. A module on the meta device gets its memory here.
    Raises FileNotFoundError, or ValueError naming the file and what was expected in it.
    """
    path = find(Path(path))
    state = {}
    wanted = module.state_dict()
    name = type(module).__name__
    for key, tensor in read(path).items():
        key = our_key(key)
        if key.endswith("position_ids"):
            continue  # the numbers 0 … 76, which old files store
        if key not in wanted:
            raise ValueError(f"{path} holds the tensor {key!r}, which {name} does not have")
        want = wanted[key]
        if tensor.shape[2:] == (1, 1) and tensor.shape[:2] == want.shape:
            tensor = tensor[:, :, 0, 0]  # 1x1 convolution -> linear layer
        if tensor.shape != want.shape:
            shapes = tuple(tensor.shape), tuple(want.shape)
            raise ValueError(f"{path}: {key} has the shape {shapes[0]}; {name} needs {shapes[1]}")
        state[key] = tensor
    missing = wanted.keys() - state.keys()
    if missing:
        raise ValueError(
            f"{path} lacks {len(missing)} of the {len(wanted)} tensors of {name}, among them "
            f"{min(missing)!r}"
        )
    on_meta = any(tensor.is_meta for tensor in wanted.values())
    if on_meta:  # copies, for a tensor as read may still be tied to its file
        state = {key: tensor.to(wanted[key].dtype, copy=True) for key, tensor in state.items()}
    module.load_state_dict(state, strict=True, assign=on_meta)


def our_key(key: str) -> str:
    """The name of a published tensor in our modules."""
    key = key.removeprefix(TEXT_PREFIX)
    for theirs, ours in RENAMES.items():
        key = key.replace(theirs, ours)
    return key


def find(path: Path) -> Path:
    """The weight file that `path` is, or that the folder `path` holds."""
    if path.is_dir():
        places = [path / (stem + suffix) for suffix in SUFFIXES for stem in STEMS]
        found = [place for place in places if place.is_file()]
        if not found:
            raise FileNotFoundError(
                f"{path} holds no weights; expected {STEMS[0]}.safetensors or {STEMS[1]}"
                ".safetensors, whole or in shards with an index, or a .bin file"
            )
        return found[0]
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a file or folder of weights")
    return path


def read(path: Path) -> dict[str, Tensor]:
    """Every tensor of a weight file, or of all the shards that an index names, on the CPU."""
    if path.suffix == ".json":
        return read_shards(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a complete safetensors file: {error}") from error
    if path.suffix not in (".bin", ".pt", ".pth", ".ckpt"):
        raise ValueError(f"{path} is no weight file: they end in .safetensors or .bin")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever the bytes make it stumble over
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"{path} is not a pickle of tensors alone: {reason}") from error
    named = isinstance(content, dict) and all(isinstance(key, str) for key in content)
    if not named or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} is a pickle of something else; expected tensors by name")
    return content


def read_shards(index: Path) -> dict[str, Tensor]:
    """Every tensor of the shards of an index file."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{index} has no weight_map; expected the index of a sharded file")
    state: dict[str, Tensor] = {}
    for shard in sorted(set(weight_map.values())):
        place = index.parent / shard
        if not place.is_file():
            raise FileNotFoundError(f"{place} is missing; {index.name} names it as a shard")
        state |= read(place)
    return state


# ------------------------------------------------------------------------------------------ saving


def save(
    module: nn.Module,
    path: str | Path,
    dtype: torch.dtype | None = None,
    max_bytes: int | None = None,
) -> None:
    """Write a module with published names and shapes as safetensors, in its place all at once.

    path: ends in .safetensors. dtype: of the written tensors, None for the module's own.
    max_bytes: a larger file is written as shards NAME-00001-of-00003.safetensors beside an index
    NAME.safetensors.index.json. Files of an earlier save under the same name are replaced.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weights are written as .safetensors files")
    state = published_state(module, dtype)
    shards = split(state, max_bytes)
    index = path.with_name(path.name + ".index.json")
    earlier = {path, index, *path.parent.glob(f"{path.stem}-*-of-*.safetensors")}
    if len(shards) == 1:
        written = {path}
        write_safetensors(path, state)
    else:
        weight_map: dict[str, str] = {}
        written = {index}
        for number, keys in enumerate(shards, start=1):
            place = path.with_stem(f"{path.stem}-{number:05d}-of-{len(shards):05d}")
            write_safetensors(place, {key: state[key] for key in keys})
            weight_map |= dict.fromkeys(keys, place.name)
            written.add(place)
        total = sum(tensor.nbytes for tensor in state.values())
        write_json(index, {"metadata": {"total_size": total}, "weight_map": weight_map})
    for stale in earlier - written:
        stale.unlink(missing_ok=True)


def published_state(module: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """A module's tensors under their published names and in their published shapes."""
    convolutions = not getattr(getattr(module, "config", None), "use_linear_projection", True)
    state = {}
    for key, tensor in module.state_dict().items():
        if convolutions and key.endswith(("proj_in.weight", "proj_out.weight")):
            tensor = tensor[:, :, None, None]  # linear layer -> 1x1 convolution
        if isinstance(module, CLIPTextEncoder) and key != TEXT_PROJECTION:
            key = TEXT_PREFIX + key
        wanted = dtype if tensor.is_floating_point() else tensor.dtype
        state[key] = tensor.detach().to("cpu", wanted).contiguous()
    return state


def split(state: dict[str, Tensor], max_bytes: int | None) -> list[list[str]]:
    """The keys of each shard, so that no file is larger than max_bytes (a lone tensor may be)."""
    shards: list[list[str]] = [[]]
    used = 0
    for key, tensor in state.items():
        size = tensor.nbytes + len(key) + 128  # the tensor's line in the header, generously
        if max_bytes is not None and shards[-1] and used + size > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(key)
        used += size
    return shards


def write_safetensors(path: Path, state: dict[str, Tensor]) -> None:
    with replacing(path) as part:
        part.touch()
        mode = part.stat().st_mode  # safetensors would leave the file to its owner alone
        save_file(state, part, metadata={"format": "pt"})
        part.chmod(mode)
