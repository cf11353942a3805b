"""What an original file says about its training: the prediction, zero terminal SNR, the schedule.

The weights of a U-Net do not show whether it predicts noise or velocity. Fine-tunes of SDXL that
predict velocity therefore contain an empty tensor `v_pred`, and `ztsnr` if they were trained with
zero terminal SNR (ComfyUI and the web interfaces read these). The metadata in the header of a
safetensors file says the same in the entries of the model specification standard
(https://github.com/Stability-AI/ModelSpec) and in those of kohya's training scripts.

What a file says takes effect: it changes the specification that the file is read with. Two kinds of
specification are refused: one that says velocity where the file says noise, and one whose system
has another version with the file's prediction. If a tensor and the metadata disagree, the
tensor decides, as in the tools that write it.
"""

import json
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from sdlearn.controlnet import ControlNet
from sdlearn.schedule import NoiseSchedule, Prediction
from sdlearn.unet import UNet
from sdlearn.utils.validation import shown
from sdlearn.vae import VAE
from sdlearn.versions import SPECS, ModelSpec
from sdlearn.weights.tensor_files import LazyTensor

EDM = ("edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")
NOISE = ("epsilon", "eps", "noise")
VELOCITY = ("v", "v_prediction", "v-prediction", "v_pred", "velocity")
# Entries of the metadata that name the prediction; ComfyUI writes the second.
PREDICTION_ENTRIES = ("modelspec.prediction_type", "modelspec.predict_key")
KOHYA_VELOCITY, KOHYA_ZERO_SNR = "ss_v_parameterization", "ss_zero_terminal_snr"
ARCHITECTURE = "modelspec.architecture"
ARCHITECTURES: dict[str, Prediction] = {
    "stable-diffusion-v2-512": "noise",
    "stable-diffusion-v2-768-v": "velocity",
}
TABLE = "alphas_cumprod"


class Markers(NamedTuple):
    """What a file says about its training.

    Attributes:
        predicts: What the U-Net predicts; None if the file does not say.
        said_by: The tensor or the entry that says so, for messages.
        zero_snr_by: The same for zero terminal SNR; empty if nothing says so.
    """

    predicts: Prediction | None = None
    said_by: str = ""
    zero_snr_by: str = ""


# ------------------------------------------------------------------------------------------ reading


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in the header of an opened safetensors file; {} for files of other kinds."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= path.stat().st_size - 8:
            return {}
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):  # a pickle
            return {}
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        return {}
    return {key: value for key, value in metadata.items() if isinstance(value, str)}


def read_markers(path: Path, tensors: Mapping[str, LazyTensor]) -> Markers:
    """What a file says about its training.

    Args:
        path: The file.
        tensors: Its tensors by name.

    Raises:
        ValueError: If it says something that is not supported.
    """
    words = {name.rpartition(".")[2]: name for name in tensors}
    edm = next((name for name in tensors if name.endswith(EDM)), None)
    if edm is not None:
        raise ValueError(
            f"{path} holds the tensor {shown(edm)}, so its model was trained in the EDM "
            "formulation (Playground 2.5, CosXL); only the prediction of noise or velocity on "
            "Stable Diffusion's schedule is supported"
        )
    metadata = read_metadata(path)
    predicts, said_by = read_prediction(path, metadata)
    if "v_pred" in words:
        predicts, said_by = "velocity", f"the tensor {shown(words['v_pred'])}"
    zero_snr_by = ""
    if "ztsnr" in words:
        zero_snr_by = f"the tensor {shown(words['ztsnr'])}"
    elif metadata.get(KOHYA_ZERO_SNR, "").lower() == "true":
        zero_snr_by = f"{KOHYA_ZERO_SNR} in its metadata"
    return Markers(predicts, said_by, zero_snr_by)


def read_prediction(path: Path, metadata: Mapping[str, str]) -> tuple[Prediction | None, str]:
    """The prediction that the metadata names, and the entry that names it."""
    for entry in PREDICTION_ENTRIES:
        if metadata.get(entry, "").strip():
            value = metadata[entry].strip().lower()
            if value not in NOISE + VELOCITY:
                raise ValueError(
                    f"{path}: {entry} in its metadata is {shown(metadata[entry])}; only "
                    "'epsilon' and 'v' are supported"
                )
            return ("noise" if value in NOISE else "velocity"), f"{entry} in its metadata"
    if metadata.get(KOHYA_VELOCITY, "").lower() in ("true", "false"):
        velocity = metadata[KOHYA_VELOCITY].lower() == "true"
        return ("velocity" if velocity else "noise"), f"{KOHYA_VELOCITY} in its metadata"
    prediction = ARCHITECTURES.get(metadata.get(ARCHITECTURE, "").lower())
    return prediction, f"{ARCHITECTURE} in its metadata"


# ----------------------------------------------------------------------------------------- applying


def as_marked(
    spec: ModelSpec, markers: Markers, tensors: Mapping[str, LazyTensor], path: Path
) -> ModelSpec:
    """The specification of a system in a file, changed to what the file says.

    A model that predicts velocity is sampled with DDIM instead of PLMS, as the published ones are:
    PLMS averages noise. With zero terminal SNR the timesteps are spaced "trailing", so that
    sampling starts at the last one, which is pure noise (Lin et al. 2023, section 3.3).

    Args:
        spec: The specification.
        markers: What the file says.
        tensors: The file's tensors by name.
        path: The file, for error messages.

    Raises:
        ValueError: If the specification contradicts the file.
    """
    if markers.predicts not in (None, spec.predicts):
        check_prediction(spec, markers, path)
        sampler = "ddim" if spec.sampler == "plms" else spec.sampler
        spec = replace(spec, predicts="velocity", sampler=sampler)
    zero_snr_by = markers.zero_snr_by or zero_snr_table(spec.schedule, tensors, path)
    if zero_snr_by and not spec.schedule.zero_terminal_snr:
        schedule = replace(spec.schedule, zero_terminal_snr=True)
        spec = replace(spec, schedule=schedule, spacing="trailing")
    if zero_snr_by and spec.predicts == "noise":
        raise ValueError(
            f"{path} was trained with zero terminal SNR (according to {zero_snr_by}), where noise "
            "cannot be predicted, and nothing in it says that it predicts velocity; give a spec= "
            "whose predicts is 'velocity' if it does"
        )
    scale = scaling_factor(spec.vae.scaling_factor, tensors, path)
    return spec if scale is None else replace(spec, vae=replace(spec.vae, scaling_factor=scale))


def check_prediction(spec: ModelSpec, markers: Markers, path: Path) -> None:
    """Raise ValueError if a specification cannot be changed to the prediction of a file."""
    others = [
        repr(other.name)
        for other in SPECS.values()
        if other.predicts == markers.predicts and alike(other, spec)
    ]
    if markers.predicts == "noise" or others:
        instead = f", such as {' or '.join(others)}" if others else ""
        raise ValueError(
            f"{path} predicts {markers.predicts} (according to {markers.said_by}), but "
            f"spec {spec.name!r} predicts {spec.predicts}; give one that predicts "
            f"{markers.predicts}{instead}"
        )


def alike(a: ModelSpec, b: ModelSpec) -> bool:
    """Whether the U-Nets of two systems cannot be told apart by the shapes in a file."""
    size, upcast = b.unet.sample_size, b.unet.upcast_attention
    return replace(a.unet, sample_size=size, upcast_attention=upcast) == b.unet


def zero_snr_table(schedule: NoiseSchedule, tensors: Mapping[str, LazyTensor], path: Path) -> str:
    """Compare the table of the schedule that a file may contain with the specification's.

    Returns:
        What says that the file was trained with zero terminal SNR; empty if nothing does.

    Raises:
        ValueError: If the table is another one.
    """
    if TABLE not in tensors or is_table(tensors[TABLE], schedule, zero_snr=False):
        return ""
    if is_table(tensors[TABLE], schedule, zero_snr=True):
        return f"its table {TABLE!r}"
    raise ValueError(
        f"{path} was trained on another noise schedule: its table {TABLE!r} is not that of the "
        f"specification, which has {schedule.num_steps} steps and betas from "
        f"{schedule.beta_start} to {schedule.beta_end} ({schedule.kind})"
    )


def is_table(tensor: LazyTensor, schedule: NoiseSchedule, zero_snr: bool) -> bool:
    """Whether a table of alphabar in a file is a schedule's, up to the rounding of the file.

    Args:
        tensor: The table in the file.
        schedule: The schedule.
        zero_snr: Whether to compare with the schedule for zero terminal SNR; the tables of the two
            differ by up to 0.03, and half precision rounds by up to 0.002.
    """
    table = replace(schedule, zero_terminal_snr=zero_snr).alphas_cumprod
    if not tensor.dtype.is_floating_point or tensor.shape != table.shape:
        return False
    return bool((tensor.read().double() - table).abs().max() <= 0.004)


def scaling_factor(own: float, tensors: Mapping[str, LazyTensor], path: Path) -> float | None:
    """The scaling factor of the latents that a file contains; None if it has none but `own`.

    Latent diffusion measures it on the first batch and then stores it (Rombach et al. 2022).

    Raises:
        ValueError: If it is not a number above 0.
    """
    if "scale_factor" not in tensors:
        return None
    tensor = tensors["scale_factor"]
    value = float(tensor.read()) if math.prod(tensor.shape) == 1 else math.nan
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(
            f"{path}: scale_factor, the scaling factor of the latents, must be one number above 0"
        )
    return None if math.isclose(value, own, rel_tol=0.005) else value


# ---------------------------------------------------------------------------------- single networks


def check_markers(module: nn.Module, tensors: Mapping[str, LazyTensor], path: Path) -> None:
    """Check what a file says beyond the weights of one network that are read from it.

    Args:
        module: The network.
        tensors: The file's tensors by name.
        path: The file.

    Raises:
        ValueError: If the file says something that is not supported, or that the network's
            configuration contradicts.
    """
    if isinstance(module, UNet):
        markers = read_markers(path, tensors)
        said = [f"predicts velocity (according to {markers.said_by})"] * (
            markers.predicts == "velocity"
        )
        zero_snr_by = markers.zero_snr_by
        if TABLE in tensors and is_table(tensors[TABLE], NoiseSchedule(), zero_snr=True):
            zero_snr_by = f"its table {TABLE!r}"
        if zero_snr_by:
            said.append(f"was trained with zero terminal SNR (according to {zero_snr_by})")
        if said:
            warnings.warn(
                f"{path} {' and '.join(said)}, which the weights alone do not show; sample with a "
                "ModelSpec that says so, too",
                stacklevel=4,
            )
    elif isinstance(module, ControlNet):
        check_controlnet(module, tensors, path)
    elif isinstance(module, VAE):
        own = module.config.scaling_factor
        value = scaling_factor(own, tensors, path)
        if value is not None:
            raise ValueError(
                f"{path}: scale_factor, the scaling factor of its latents, is {value:g}; the "
                f"configuration of the autoencoder says {own:g}"
            )


def averages_residuals(path: Path) -> bool:
    """Whether a single file is the published ControlNet for shuffled images.

    Its residuals are averaged over the image, which only the file's name shows, such as
    control_v11e_sd15_shuffle.pth.
    """
    return bool(re.search(r"(^|[_-])shuffle([_-]|$)", path.stem, re.IGNORECASE))


def check_controlnet(network: ControlNet, tensors: Mapping[str, LazyTensor], path: Path) -> None:
    """Raise ValueError for a ControlNet's file whose weights are meant for another computation.

    Both kinds have the tensors of any ControlNet. Tools know the first by a tensor that says so,
    and the second by the name that its authors gave the file.
    """
    if "difference" in tensors:
        raise ValueError(
            f"{path} holds a ControlNet as its difference from the U-Net that it was trained on "
            "(according to the tensor 'difference'); only whole ControlNets are supported"
        )
    if averages_residuals(path) and not network.global_pool:
        raise ValueError(
            f"{path} has the name of a ControlNet for shuffled images, whose residuals are "
            "averaged over the image; make the ControlNet with global_pool=True, or use "
            "from_pretrained"
        )
