"""Read files of low-rank adapters (LoRA) and attach them; adapter_names describes the formats.

`StableDiffusion.load_adapter` calls `load_adapter`. Reading is strict: every tensor in a file must
belong to a layer of the model and fit its shape, and all of this is checked before any network is
changed. A file in which nothing fits the model is refused, where diffusers may only warn and load
nothing.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from sdlearn.lora import Adapter, Attachment, LowRank
from sdlearn.lora_layers import check_not_compiled, geometry
from sdlearn.utils.atomic_files import user_path
from sdlearn.utils.validation import check_finite, check_place, shown
from sdlearn.weights.adapter_metadata import find_alpha, read_settings
from sdlearn.weights.adapter_names import Half, Networks, Place, split_name, stems
from sdlearn.weights.hub import ADAPTER, local_folder
from sdlearn.weights.json_config import errors_name_file
from sdlearn.weights.model_detection import CONTEXT_DIMS, detect_model
from sdlearn.weights.state_dict import read_finite
from sdlearn.weights.tensor_files import LazyTensor, open_file

FILE_NAME = ADAPTER.required  # the adapter's file in a folder
ACCEPTED = (
    "accepted: low-rank adapters (LoRA) for linear layers and convolutions, in the formats of "
    "diffusers and of kohya's scripts"
)
# Patterns in tensor names that reveal other kinds of files -> what these hold. None is supported.
OTHERS = {
    r"\.hada_w|\.hada_t": "LoHa (products of two low-rank matrices)",
    r"\.lokr_": "LoKr (Kronecker products)",
    r"\.dora_scale$|lora_magnitude_vector": "DoRA (low-rank updates of normalised weights)",
    r"\.oft_|\.boft_": "OFT (rotations of the weights)",
    r"\.lora_mid\.": "convolutions split into three factors (LoCon with CP decomposition)",
    r"\.lora_B\.bias$": "updates of biases",
    r"\.diff(_b)?$|\.difference": "full-rank differences of weights",
    r"^(lora_)?transformer[._]|(^diffusion_model\.|^lora_unet_)(double|single|joint)_blocks[._]": (
        "an adapter for a diffusion transformer, such as Stable Diffusion 3 or Flux"
    ),
    r"^lora_prior_": "an adapter for Stable Cascade",
    r"^(string_to_param|emb_params$|clip_[lg]$)": "a textual-inversion embedding",
}


def load_adapter(networks: Networks, source: str | Path, scale: float = 1.0) -> Attachment:
    """Read an adapter and attach it to its networks, with the same strength for all of them.

    Args:
        networks: See StableDiffusion.adaptable.
        source: A file; or a folder that contains pytorch_lora_weights.safetensors; or the id of
            such a folder on the Hugging Face hub.
        scale: The strength s: 1 as in training, 0 to switch the adapter off.

    Raises:
        FileNotFoundError, ValueError: If the adapter can't be read or doesn't fit. In that case
            nothing is attached.
    """
    attachment = Attachment(check_finite("scale", scale))
    path = user_path(check_place(source))
    if not path.is_file():
        path = local_folder(source, ADAPTER) / FILE_NAME
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; give the adapter's file, or its folder")
    adapters = read_adapters(path, networks)
    for part in adapters:
        check_not_compiled(networks[part])
    for part, adapter in adapters.items():
        attachment.add(networks[part], adapter)
    return attachment


def read_adapters(path: Path, networks: Networks) -> dict[str, Adapter]:
    """Read a file into one adapter for each network, in the dtypes of the networks' weights.

    Args:
        path: A safetensors file, or a pickle of tensors.
        networks: As in `load_adapter`.

    Returns:
        Name of each network in the file -> its adapter.

    Raises:
        ValueError: If the file is damaged, isn't an adapter, or is for another model.
    """
    tensors = open_file(path)
    found = places(path, tensors, networks)
    for place, halves in found.items():
        check_halves(path, place, halves, networks, tensors)
    settings = read_settings(path)
    updates: dict[str, dict[str, LowRank]] = {}
    for place, halves in found.items():
        layer = networks[place.part].get_submodule(place.layer)
        alpha = find_alpha(path, place, halves, settings)
        update = read_update(path, halves, layer, alpha)
        updates.setdefault(place.part, {})[place.layer] = update
    return {part: Adapter(each).eval().requires_grad_(False) for part, each in updates.items()}


def places(
    path: Path, tensors: Mapping[str, LazyTensor], networks: Networks
) -> dict[Place, dict[Half, LazyTensor]]:
    """Group a file's tensors by layer; ValueError if one of them belongs to no layer."""
    for pattern, what in OTHERS.items():
        name = next((name for name in tensors if re.search(pattern, name)), None)
        if name is not None:
            raise ValueError(f"{path} holds {what}, such as {shown(name)}; {ACCEPTED}")
    table, others = stems(networks), []
    found: dict[Place, dict[Half, LazyTensor]] = {}
    for name, tensor in tensors.items():
        said = split_name(name, table)
        if said is None:
            others.append(name)
            continue
        halves = found.setdefault(said[0], {})
        if said[1] in halves:
            raise ValueError(
                f"{path} holds {shown(halves[said[1]].name)} and {shown(name)}, which are for the "
                "same matrix; an adapter has one tensor for each matrix"
            )
        halves[said[1]] = tensor
    if not found:
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        family = adapter_family(tensors) or detect_model(shapes)
        raise ValueError(f"{path} holds no adapter for this model{looks_like(family)}; {ACCEPTED}")
    if others:
        raise ValueError(
            f"{path} holds {shown(others[0])}, which belongs to no layer of this model"
            f"{looks_like(adapter_family(tensors))}; every tensor of an adapter must belong to one"
        )
    return found


def check_halves(
    path: Path,
    place: Place,
    halves: Mapping[Half, LazyTensor],
    networks: Networks,
    tensors: Mapping[str, LazyTensor],
) -> None:
    """Raise ValueError unless a layer's update is complete and fits the layer."""
    layer, owner = networks[place.part].get_submodule(place.layer), f"{place.part}.{place.layer}"
    for half, matrix in (("down", "A"), ("up", "B")):
        if half not in halves:
            name = next(iter(halves.values())).name
            raise ValueError(
                f"{path} holds {shown(name)}, but not the matrix {matrix} of the same update; an "
                "update needs both A and B"
            )
    with errors_name_file(path):
        try:
            geometry(layer)
        except ValueError as error:
            raise ValueError(f"{owner}: {error}") from None
    c_out, *into = layer.get_parameter("weight").shape
    rank = rank_of(halves)
    needed: dict[Half, tuple[int, ...]] = {"down": (rank, *into), "up": (c_out, rank)}
    for half, shape in needed.items():
        given = halves[half]
        if rank < 1 or trimmed(given.shape) != trimmed(shape):
            r = "r" if rank < 1 else rank
            wanted = (r, *shape[1:]) if half == "down" else (c_out, r)
            raise ValueError(
                f"{path}: {shown(given.name)} has the shape {given.shape}; {owner} needs "
                f"({', '.join(map(str, wanted))}){looks_like(adapter_family(tensors))}"
            )
        if not given.dtype.is_floating_point:
            raise ValueError(
                f"{path}: {shown(given.name)} has the type {given.dtype}; an adapter must hold "
                "floating-point numbers"
            )


def read_update(
    path: Path, halves: Mapping[Half, LazyTensor], layer: nn.Module, alpha: float
) -> LowRank:
    """The update for a layer, in the dtype and on the device of its weight.

    If the file has a 1x1 convolution for a linear layer, its two axes of length one are dropped.
    """
    weight = layer.get_parameter("weight")
    down, up = (read_finite(halves[half], weight.dtype, path) for half in ("down", "up"))
    ones = [1] * (weight.ndim - 2)
    down = down.reshape(len(down), *weight.shape[1:]).to(weight.device)
    up = up.reshape(*up.shape[:2], *ones).to(weight.device)
    return LowRank(down, up, alpha, geometry(layer))


def rank_of(halves: Mapping[Half, LazyTensor]) -> int:
    """The rank of a layer's update, which is the number of rows of A."""
    return (*halves["down"].shape, 0)[0]


def trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without trailing axes of length one, but with at least two axes."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def adapter_family(tensors: Mapping[str, LazyTensor]) -> str | None:
    """The system that an adapter is for, judging by the width of its text embeddings."""
    for name, tensor in tensors.items():
        if re.search(r"attn2[._](processor\.)?to_k[._]lora[._](A|down)", name):
            family = CONTEXT_DIMS.get((*tensor.shape, 0, 0)[1])
            return f"an adapter for {family}" if family else None
    xl = any(name.startswith(("lora_te2_", "text_encoder_2.")) for name in tensors)
    return "an adapter for SDXL" if xl else None


def looks_like(family: str | None) -> str:
    """The part of an error message that says what a file looks like; empty if unknown."""
    return f"; it looks like {family}" if family else ""
