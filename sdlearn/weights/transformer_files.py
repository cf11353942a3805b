"""Diffusion transformers, read from a published folder and written as one.

`DiffusionTransformer.from_pretrained` and `save_pretrained` call the functions here. In a published
Stable Diffusion 3 the folder is named "transformer". It holds config.json and the weights.
"""

from pathlib import Path
from typing import Any, TypeVar

import torch

from sdlearn.diffusion_transformer import DiffusionTransformer, DiffusionTransformerConfig
from sdlearn.utils.atomic_files import check_folder, user_path, write_json
from sdlearn.utils.device import check_dtype, without_memory
from sdlearn.utils.validation import check_place, shown
from sdlearn.weights.configs import LARGEST_SAMPLE, check_class, check_parameters
from sdlearn.weights.hub import CONTROLNET, local_folder
from sdlearn.weights.json_config import (
    MOST_LAYERS,
    Json,
    OneOf,
    errors_name_file,
    read_config,
    written,
)
from sdlearn.weights.saving import check_save, replace_weights
from sdlearn.weights.state_dict import load_part
from sdlearn.weights.tensor_files import open_weights
from sdlearn.weights.weight_names import find_weights

AnyTransformer = TypeVar("AnyTransformer", bound=DiffusionTransformer)
CLASS = "SD3Transformer2DModel"
# Some blocks of SD 3.5 medium have a second attention, over the image alone: not supported.
FIXED: dict[str, Any] = {"dual_attention_layers": OneOf([], None)}
QK_NORM = {None: False, "rms_norm": True}
LAYOUT = CONTROLNET  # config.json and weights in one folder


def load_transformer(
    cls: type[AnyTransformer],
    source: str | Path,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
) -> AnyTransformer:
    """Read a transformer on the CPU; see `DiffusionTransformer.from_pretrained`.

    Args:
        cls: DiffusionTransformer, or a subclass whose constructor takes the same argument.
        source: A folder or a hub id.
        dtype: Type of the weights in memory.
        variant: The variant of the folder's weights, see `pick_weights`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or not supported.
    """
    dtype = check_dtype(dtype)
    folder = local_folder(source, LAYOUT, variant)
    with errors_name_file(folder / "config.json") as file:
        config = transformer_config_from_json(file)
        with without_memory():
            transformer = cls(config).to(dtype)
    check_parameters(file, transformer)
    path = find_weights(folder, variant)
    load_part(transformer, open_weights(path), path)
    return transformer.eval()


def save_transformer(
    transformer: DiffusionTransformer, folder: str | Path, dtype: torch.dtype | None = None
) -> None:
    """Write a transformer as a folder in the published layout.

    Args:
        transformer: The network.
        folder: Created if necessary.
        dtype: Type of the weights in the file; None for the network's own.

    Raises:
        ValueError: If an argument is not accepted, or a weight is not finite in the dtype.
    """
    folder = user_path(check_place(folder, "folder"))
    check_folder(folder, check_save(transformer, dtype))
    (folder / "config.json").unlink(missing_ok=True)
    replace_weights(transformer, folder / "diffusion_pytorch_model.safetensors", dtype)
    write_json(folder / "config.json", transformer_config_to_json(transformer.config))


def transformer_config_from_json(path: Path) -> DiffusionTransformerConfig:
    """Read transformer/config.json.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an entry is missing, malformed or not supported.
    """
    config = read_config(path, FIXED)
    check_class(config, CLASS)
    norm = config.get("qk_norm")
    if not (norm is None or isinstance(norm, str)) or norm not in QK_NORM:
        raise ValueError(
            f"{path}: qk_norm is {shown(norm)}; only None and 'rms_norm' are supported"
        )
    channels = config.integer("in_channels")
    heads = config.integer("num_attention_heads")
    width = heads * config.integer("attention_head_dim")
    for key, only, why in (
        ("out_channels", channels, "as many as in_channels"),
        ("caption_projection_dim", width, "num_attention_heads times attention_head_dim"),
    ):
        if config.get(key) is not None and config[key] != only:
            raise ValueError(
                f"{path}: {key} is {shown(config[key])}; only {only}, {why}, is supported"
            )
    return DiffusionTransformerConfig(
        in_channels=channels,
        patch_size=config.integer("patch_size"),
        num_layers=config.integer("num_layers", most=MOST_LAYERS),
        num_heads=heads,
        head_dim=config.integer("attention_head_dim"),
        context_dim=config.integer("joint_attention_dim"),
        pooled_dim=config.integer("pooled_projection_dim"),
        qk_norm=QK_NORM[norm],
        sample_size=config.integer("sample_size", most=LARGEST_SAMPLE),
        pos_embed_max_size=config.integer("pos_embed_max_size", most=LARGEST_SAMPLE),
    )


def transformer_config_to_json(config: DiffusionTransformerConfig) -> Json:
    """Return the content of transformer/config.json."""
    return written(FIXED) | {
        "_class_name": CLASS,
        "attention_head_dim": config.head_dim,
        "caption_projection_dim": config.dim,
        "in_channels": config.in_channels,
        "joint_attention_dim": config.context_dim,
        "num_attention_heads": config.num_heads,
        "num_layers": config.num_layers,
        "out_channels": config.in_channels,
        "patch_size": config.patch_size,
        "pooled_projection_dim": config.pooled_dim,
        "pos_embed_max_size": config.pos_embed_max_size,
        "qk_norm": "rms_norm" if config.qk_norm else None,
        "sample_size": config.sample_size,
    }
