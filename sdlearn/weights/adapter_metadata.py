"""The alpha of low-rank adapters in a file: one tensor for each layer, or an entry in the header.

kohya's files have a tensor `….alpha` for each layer. Files in peft's format have no such tensors.
For these, diffusers writes the training settings, peft's LoraConfig, as JSON into the header of the
safetensors file. They contain `lora_alpha` for each network, and `alpha_pattern` for layers with a
different alpha. If a file gives no alpha, or gives 0, alpha is the rank, so the update is B A.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdlearn.lora import Adapter
from sdlearn.utils.validation import shown
from sdlearn.weights.adapter_names import Half, Place
from sdlearn.weights.markers import read_metadata
from sdlearn.weights.state_dict import TEXT_PREFIX
from sdlearn.weights.tensor_files import LazyTensor

ENTRY = "lora_adapter_metadata"


def find_alpha(
    path: Path, place: Place, halves: Mapping[Half, LazyTensor], settings: Mapping[str, Any]
) -> float:
    """The alpha of a layer.

    Args:
        path: The file, for error messages.
        place: The layer.
        halves: Its tensors in the file.
        settings: The result of `read_settings`.

    Raises:
        ValueError: If alpha is not a finite number, or 0 in the metadata.
    """
    rank = halves["down"].shape[0]
    if "alpha" in halves:
        name, alpha = halves["alpha"].name, halves["alpha"].read().flatten().tolist()
    else:
        name = f"{place.part}.lora_alpha in its metadata"
        alpha = [in_settings(path, place, rank, settings)]
    number = len(alpha) == 1 and type(alpha[0]) in (int, float)
    if not number or not math.isfinite(alpha[0]):
        raise ValueError(f"{path}: {name} is {shown(alpha)}; it must be one finite number")
    if "alpha" not in halves and alpha[0] == 0:  # in a tensor of its own, 0 means r
        raise ValueError(f"{path}: {name} is 0, so this adapter would change nothing")
    return float(alpha[0]) or float(rank)


def in_settings(path: Path, place: Place, rank: int, settings: Mapping[str, Any]) -> Any:
    """The alpha of a layer according to the settings, found in the same way as peft does.

    The first entry of `alpha_pattern` whose name is the end of the layer's name decides, otherwise
    `lora_alpha`. With `use_rslora` the update's factor is alpha / √r instead of alpha / r
    (arXiv:2312.03732), so alpha is multiplied by √r.
    """
    own = {key.removeprefix(f"{place.part}."): v for key, v in settings.items()}
    if f"{place.part}.lora_alpha" not in settings:
        return rank
    alpha, patterns = own["lora_alpha"], own.get("alpha_pattern") or {}
    for end in patterns if isinstance(patterns, dict) else ():
        if not re.fullmatch(r"[\w.]+", end):
            raise ValueError(
                f"{path}: alpha_pattern in its metadata has {shown(end)}; accepted: layer names"
            )
        if f".{place.layer}".endswith(f".{end.removeprefix(TEXT_PREFIX)}"):
            alpha = patterns[end]
            break
    root = own.get("use_rslora") is True and type(alpha) in (int, float)
    return alpha * math.sqrt(rank) if root else alpha


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a file's header, with keys such as "unet.lora_alpha"; {} if there are none.

    Raises:
        ValueError: If they are damaged, or ask for a kind of update that isn't supported.
    """
    text = read_metadata(path).get(ENTRY, "{}")
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(
            f"{path}: {ENTRY} in its header is {shown(text)}; it must be a JSON object"
        )
    for key, value in settings.items():
        if key.endswith((".use_dora", ".lora_bias")) and value:
            raise ValueError(
                f"{path}: {key} is {shown(value)} in its metadata; only False is supported"
            )
    return settings


def settings_to_write(adapters: Mapping[str, Adapter]) -> dict[str, str]:
    """The header entry that tells peft the ranks and alphas of the updates.

    Args:
        adapters: Name of each network -> its adapter.
    """
    settings: dict[str, Any] = {}
    for part, adapter in adapters.items():
        ranks = {name: update.rank for name, update in adapter.updates.items()}
        alphas = {name: update.alpha for name, update in adapter.updates.items()}
        rank, alpha = most_common(ranks), most_common(alphas)
        settings |= {
            f"{part}.r": rank,
            f"{part}.lora_alpha": alpha,
            f"{part}.rank_pattern": {name: r for name, r in ranks.items() if r != rank},
            f"{part}.alpha_pattern": {name: a for name, a in alphas.items() if a != alpha},
            f"{part}.target_modules": sorted(ranks),
        }
    return {ENTRY: json.dumps(settings, indent=2, sort_keys=True)}


def most_common(values: Mapping[str, float]) -> float:
    """The most common value."""
    return Counter(values.values()).most_common(1)[0][0]
