"""Published weight files <-> the modules of this package.

The modules carry the names of the published folders, so a file of those fits after a handful of
renames: the text encoder's prefix, the old names of the autoencoder's attention, and 1x1
convolutions, which here are linear layers. The original single files have other names, see
originals. Loading is strict: every tensor must be there, have the right shape and belong; that is
checked before anything is read, so a file that does not fit leaves the module as it was.

Files are safetensors, whole or in shards with an index. Pickled files (.bin, .ckpt, .pth) are read
with weights_only=True, which rebuilds tensors and runs no code from the file.
"""

import warnings
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from sdlearn.clip import CLIPTextEncoder
from sdlearn.files import replacing, write_json
from sdlearn.fitting import aside, fill, fitted
from sdlearn.originals import PARTS, beside, find_part
from sdlearn.stored import Stored, find, open_weights
from sdlearn.unet import UNet
from sdlearn.vae import VAE
from sdlearn.versions import SPECS, ModelSpec

if TYPE_CHECKING:
    from sdlearn.pipeline import StableDiffusion

# What published files call the parts of the autoencoder's attention -> what we call them.
RENAMES = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
TEXT_PREFIX = "text_model."
TEXT_PROJECTION = "text_projection.weight"  # the one tensor outside that prefix


# ----------------------------------------------------------------------------------------- loading


def load(module: nn.Module, path: str | Path) -> None:
    """Fill a module with published weights, strictly, in the module's own dtype.

    path: a .safetensors or .bin file, the index of a sharded one, or a folder that holds one of
    them under its published name; for a UNet, VAE, ControlNet or CLIPTextEncoder also an original
    file, of the part alone or of the whole system. A module on the meta device gets its memory
    here; no other copy of the weights is made.
    Raises FileNotFoundError, or ValueError naming the file and what was expected in it; the module
    is then as it was.
    """
    path = find(Path(path))
    fill_part(module, open_weights(path), path)


def fill_part(module: nn.Module, stored: dict[str, Stored], path: Path) -> None:
    """Read an opened file into the module, as `load` does, using up `stored`."""
    original = find_part(module, stored)
    part = original[1] if original else renamed(stored)
    part = fitted(module, part, path, aside(stored, module))
    stored.clear()  # or what a pickle holds would stay until the end
    del original
    fill([(module, part)], path)


def renamed(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors of a published folder's file under our names."""
    ours = {our_key(key): tensor for key, tensor in stored.items()}
    # The numbers 0 … 76, which old files store, are no weights.
    return {key: tensor for key, tensor in ours.items() if not key.endswith("position_ids")}


def our_key(key: str) -> str:
    """The name of a published tensor in our modules."""
    key = key.removeprefix(TEXT_PREFIX)
    for theirs, ours in RENAMES.items():
        key = key.replace(theirs, ours)
    return key


# ---------------------------------------------------------------------------------- original files


class Parts(NamedTuple):
    """The networks of a system."""

    unet: UNet
    vae: VAE
    encoders: Sequence[CLIPTextEncoder]


def load_original(
    target: "StableDiffusion | ModelSpec | str",
    path: str | Path,
    ema: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Parts:
    """Load a whole system from one file in the original layout of CompVis and Stability.

    target: a StableDiffusion, whose parts are filled; or a specification or its name in SPECS, by
    which new ones are made, on the CPU and in dtype (SDXL's autoencoder at least in float32). ema:
    take the U-Net's averaged weights from a file that holds both kinds; where it holds only them,
    they are taken anyway. What stands beside the weights, such as the tables of the schedule, is
    left out; a warning tells of tensors that are not known at all.
    Raises as `load` does, before any part is touched.
    """
    path = find(Path(path))
    parts = parts_of(target, dtype)
    fill_parts(parts, open_weights(path), path, ema)
    return parts


def fill_parts(parts: Parts, stored: dict[str, Stored], path: Path, ema: bool = False) -> None:
    """Read an opened original file into the parts of a system, using up `stored`."""
    unet, vae, encoders = parts
    ending = aside(stored, unet)
    fits, prefixes = [], []
    for module, number in ((unet, 0), (vae, 0), *zip(encoders, count(), strict=False)):
        found = find_part(module, stored, number, ema)
        if found is None:
            what = "averaged weights (model_ema.*)" if ema and module is unet else "weights"
            raise ValueError(
                f"{path} holds no {what} of a {type(module).__name__} under their original names"
                f"{ending}"
            )
        fits.append((module, fitted(module, found[1], path, ending)))
        prefixes.append(found[0])
    others = [
        name
        for name in stored
        if not name.startswith(tuple(prefixes)) and not beside(name, "", unet)
    ]
    for name in others:
        if name.startswith(PARTS):
            raise ValueError(f"{path} holds the tensor {name!r}, which has no place{ending}")
    if others:
        warnings.warn(
            f"{path}: {len(others)} tensors are not known and were left out, among them "
            f"{others[0]!r}",
            stacklevel=3,
        )
    stored.clear()  # or what a pickle holds would stay until the end
    del found
    fill(fits, path)


def named(system: object) -> ModelSpec:
    """The specification of this name, or the one given; ValueError where there is none."""
    if isinstance(system, ModelSpec):
        return system
    if not isinstance(system, str) or system not in SPECS:
        raise ValueError(f"spec is {system!r}; known are {', '.join(SPECS)}, or give a ModelSpec")
    return SPECS[system]


def check_dtype(dtype: torch.dtype) -> None:
    """Raises ValueError, in one sentence, for a type in which no network computes."""
    usable = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    if dtype not in usable:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(map(str, usable))}")


def parts_of(target: "StableDiffusion | ModelSpec | str", dtype: torch.dtype) -> Parts:
    """The parts of a system, or of a specification: those without memory yet."""
    if not isinstance(target, ModelSpec | str) and hasattr(target, "unet"):
        encoders = [e for e in target.text.encoders if isinstance(e, CLIPTextEncoder)]
        return Parts(target.unet, target.vae, encoders)
    spec = named(target)
    check_dtype(dtype)
    with torch.device("meta"):
        unet, vae = UNet(spec.unet), VAE(spec.vae)
        text = [CLIPTextEncoder(config) for config in spec.text]
    wide = torch.promote_types(dtype, torch.float32) if spec.vae.force_upcast else dtype
    return Parts(unet.to(dtype), vae.to(wide), [encoder.to(dtype) for encoder in text])


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
