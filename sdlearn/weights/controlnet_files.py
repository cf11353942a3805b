"""ControlNets read from a published folder or from one file, and written as a published folder.

`ControlNet.from_pretrained` and `ControlNet.save_pretrained` call the two functions here.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from sdlearn.controlnet import ControlNet
from sdlearn.unet import UNetConfig
from sdlearn.utils.atomic_files import check_folder, user_path, write_json
from sdlearn.utils.device import check_dtype, without_memory
from sdlearn.utils.validation import check_place
from sdlearn.versions import SPECS, ModelSpec
from sdlearn.weights.configs import (
    check_parameters,
    controlnet_config_from_json,
    controlnet_config_to_json,
)
from sdlearn.weights.file_parts import unwrap
from sdlearn.weights.hub import CONTROLNET, local_folder
from sdlearn.weights.json_config import errors_name_file
from sdlearn.weights.markers import averages_residuals
from sdlearn.weights.model_detection import (
    detect_model,
    foreign_family,
    hint_encoder,
    resolve_spec,
    unet_input,
)
from sdlearn.weights.saving import check_save, replace_weights
from sdlearn.weights.state_dict import load_part
from sdlearn.weights.tensor_files import LazyTensor, open_weights
from sdlearn.weights.weight_names import find_weights

AnyControlNet = TypeVar("AnyControlNet", bound=ControlNet)


def load_controlnet(
    cls: type[AnyControlNet],
    source: str | Path,
    dtype: torch.dtype = torch.float32,
    spec: ModelSpec | str | None = None,
    variant: str | None = None,
) -> AnyControlNet:
    """Read a ControlNet on the CPU, see ControlNet.from_pretrained.

    Args:
        cls: ControlNet, or a subclass with the same arguments.
        source: A folder, a hub id or a file.
        dtype: Of the network.
        spec: The system that a file is for.
        variant: The variant of a folder's weights, see `pick_weights`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or not supported.
    """
    dtype = check_dtype(dtype)
    path = config_file = user_path(check_place(source))
    if path.is_file():
        if variant is not None:
            raise ValueError(f"{source} is a file; variant is accepted for a folder only")
        tensors = open_weights(path)
        unwrap(tensors)
        config, hint_channels = detect_controlnet_config(path, tensors, spec)
        global_pool = averages_residuals(path)
    elif spec is not None:
        raise ValueError(f"{source} is not a file; spec is accepted for a single file only")
    else:
        folder = local_folder(source, CONTROLNET, variant)
        with errors_name_file(folder / "config.json") as config_file:
            config, hint_channels, global_pool = controlnet_config_from_json(config_file)
        path = find_weights(folder, variant)
        tensors = open_weights(path)
    with errors_name_file(config_file), without_memory():
        controlnet = cls(config, hint_channels, global_pool).to(dtype)
    check_parameters(config_file, controlnet)
    load_part(controlnet, tensors, path)
    return controlnet.eval()


def save_controlnet(
    controlnet: ControlNet, folder: str | Path, dtype: torch.dtype | None = None
) -> None:
    """Write a ControlNet as a folder in the published layout.

    Args:
        controlnet: The ControlNet.
        folder: Created if necessary.
        dtype: The type to store the weights in; None for the network's own.
    """
    folder = user_path(check_place(folder, "folder"))
    check_folder(folder, check_save(controlnet, dtype))
    (folder / "config.json").unlink(missing_ok=True)
    replace_weights(controlnet, folder / "diffusion_pytorch_model.safetensors", dtype)
    content = controlnet_config_to_json(
        controlnet.config, controlnet.hint_channels, controlnet.global_pool
    )
    write_json(folder / "config.json", content)


def detect_controlnet_config(
    path: Path, tensors: Mapping[str, LazyTensor], spec: ModelSpec | str | None = None
) -> tuple[UNetConfig, tuple[int, ...]]:
    """The configuration of a ControlNet in a file, from the shapes of its tensors.

    The versions of Stable Diffusion 2 need not be told apart: their U-Nets differ only in whether
    attention is computed in float32, as 2.1 does, and that is correct for all of them.

    Args:
        path: The file, for error messages.
        tensors: The file's tensors by name, in either layout.
        spec: The system that it is for, or its name in SPECS; None if the shapes are enough.

    Returns:
        The configuration of the U-Net that it controls, and the channels of its hint encoder.

    Raises:
        ValueError: If the file contains no ControlNet, or one for a system that is not known.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    hint_channels = hint_encoder(shapes)
    foreign = foreign_family(shapes)
    if foreign or not hint_channels:
        family = foreign or detect_model(shapes)
        raise ValueError(
            f"{path} holds no ControlNet{f'; it looks like {family}' if family else ''}; give the "
            "file of a ControlNet, or its folder with config.json and the weights"
        )
    if spec is not None:
        return resolve_spec(spec).unet, hint_channels
    context_dim, _ = unet_input(shapes)
    alike = [each.unet for each in SPECS.values() if each.unet.cross_attention_dim == context_dim]
    if not alike:
        raise ValueError(
            f"{path} looks like {detect_model(shapes)}; accepted: {', '.join(SPECS)}, spec= may "
            "describe another, and a folder with config.json needs none"
        )
    upcast = any(unet.upcast_attention for unet in alike)
    return replace(alike[0], upcast_attention=upcast), hint_channels
