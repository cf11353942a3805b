"""Write low-rank adapters in the formats in which they are shared.

`StableDiffusion.save_adapter` calls `save_adapter`. An adapter that doesn't fit the model is
refused before anything is written.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sdlearn.lora import Adapter, LowRank, check_fits
from sdlearn.utils.atomic_files import check_folder, user_path
from sdlearn.utils.device import check_dtype
from sdlearn.utils.validation import check_place, shown
from sdlearn.weights.adapter_metadata import settings_to_write
from sdlearn.weights.adapter_names import WRITTEN, AdapterLayout, Networks, Place, stem
from sdlearn.weights.saving import write_safetensors
from sdlearn.weights.tensor_files import SAFETENSORS


def save_adapter(
    networks: Networks,
    path: str | Path,
    adapter: Adapter | Mapping[str, Adapter],
    layout: AdapterLayout = "peft",
    dtype: torch.dtype | None = None,
) -> None:
    """Write an adapter as a safetensors file.

    Args:
        networks: See StableDiffusion.adaptable.
        path: A path that ends in .safetensors or .sft.
        adapter: An adapter for the U-Net; or a dictionary, name of each network -> its adapter.
        layout: "peft", which diffusers writes, or "kohya", which web interfaces and ComfyUI read.
        dtype: Dtype of the matrices in the file; None for the adapter's own.

    Raises:
        ValueError: If an argument is not accepted, an adapter doesn't fit its network, or a value
            is not finite in the dtype.
        OSError: If the file cannot be written.
    """
    path = user_path(check_place(path, "path"))
    if path.suffix.lower() not in SAFETENSORS:
        raise ValueError(f"{path}: adapters are written as .safetensors files")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file in it")
    if layout not in WRITTEN:
        raise ValueError(f"layout is {shown(layout)}; accepted: {', '.join(WRITTEN)}")
    adapters = {"unet": adapter} if isinstance(adapter, Adapter) else adapter
    check_adapters(adapters, networks)
    state = {}
    for part, each in adapters.items():
        for layer, update in each.updates.items():
            name = stem(Place(part, layer), layout, networks)
            for half, tensor in halves_to_write(update, networks[part], layer).items():
                if half in WRITTEN[layout]:
                    target = None if half == "alpha" or dtype is None else check_dtype(dtype)
                    state[name + WRITTEN[layout][half]] = finite(name, tensor, target)
    check_folder(path.parent, sum(tensor.nbytes for tensor in state.values()))
    write_safetensors(path, state, settings_to_write(adapters) if layout == "peft" else {})


def check_adapters(adapters: object, networks: Networks) -> None:
    """Raise ValueError unless these are adapters for some of these networks."""
    if not isinstance(adapters, Mapping) or not adapters:
        raise ValueError(
            f"adapter is {shown(adapters)}; it must be an Adapter, or a dictionary of Adapters "
            f"with keys from {', '.join(networks)}"
        )
    for part, adapter in adapters.items():
        if part not in networks or not isinstance(adapter, Adapter) or not adapter.updates:
            raise ValueError(
                f"adapter has a {type(adapter).__name__} under the key {shown(part)}; accepted: "
                f"Adapters with at least one update, with keys from {', '.join(networks)}"
            )
        check_fits(networks[part], adapter)


def halves_to_write(update: LowRank, network: nn.Module, layer: str) -> dict[str, Tensor]:
    """The tensors of an update, in the shapes that files have.

    In files for SD 1, the proj_in and proj_out of a transformer are 1x1 convolutions.
    """
    down, up = update.down.detach(), update.up.detach()
    linear = getattr(getattr(network, "config", None), "use_linear_projection", True)
    if not linear and layer.endswith((".proj_in", ".proj_out")):
        down, up = down[:, :, None, None], up[:, :, None, None]
    return {"down": down, "up": up, "alpha": torch.tensor(update.alpha)}


def finite(name: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor as it is stored in the file; ValueError if a value is not finite in its dtype."""
    if tensor.is_meta:
        raise ValueError(f"{name} of this adapter has no values to save yet")
    values = tensor.to("cpu", dtype).contiguous()
    if not values.isfinite().all():
        raise ValueError(
            f"{name} of this adapter is not finite as {values.dtype}, so the file could not be "
            "read again; save it in a type with a larger range"
        )
    return values
