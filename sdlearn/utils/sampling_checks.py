"""Settings checked against a model: does it have them, and do the images fit in memory?

Most of this needs the model's specification only, so a command can ask before it reads the weights.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from sdlearn.samplers import get_sampler
from sdlearn.schedule import Point, Sigmas, Spacing, sigmas_for
from sdlearn.text import check_layers_skipped
from sdlearn.utils import memory
from sdlearn.utils.images import latent_size
from sdlearn.utils.sampling import Sampling
from sdlearn.utils.validation import check_range, shown
from sdlearn.versions import ModelSpec

if TYPE_CHECKING:
    from sdlearn.controlnet import ControlNet
    from sdlearn.unet import UNet


def resolve(sampling: Sampling, spec: ModelSpec) -> Sampling:
    """Replace each None by the specification's default, if it has one.

    The default for sigmas is "table" if the sampler does not have those of the specification.
    """
    if not isinstance(sampling, Sampling):
        raise ValueError(f"sampling is {shown(sampling)}; it must be a Sampling")
    sampling = sampling.with_defaults(spec)
    if sampling.sigmas is None:
        available = sigmas_for(get_sampler(sampling.sampler).steps_in)
        default = spec.sigmas if spec.sigmas in available else "table"
        sampling = replace(sampling, sigmas=default)
    return sampling


def check_sampling(
    sampling: Sampling,
    spec: ModelSpec,
    prompts: int = 1,
    like: Tensor | None = None,
    factor: int | None = None,
) -> None:
    """Check resolved settings against a model that need not be loaded.

    Args:
        sampling: Settings from `resolve`.
        spec: The model.
        prompts: Number of prompts.
        like: A tensor of the device and the type to draw with; None for float32 on the CPU.
        factor: The autoencoder's factor, to check height and width; None where an image decides.

    Raises:
        ValueError: For a setting that this model does not have, or more than memory holds.
    """
    get_sampler(sampling.sampler).with_eta(sampling.sampler, sampling.eta)
    check_range("steps", sampling.steps, 1, spec.schedule.num_steps)
    sampler_path(sampling, spec)
    last = spec.schedule.num_steps - 1
    interval = sampling.guidance_interval
    if interval is not None and (interval[1] < 0 or interval[0] > last):
        raise ValueError(
            f"guidance_interval is {shown(interval)}; the timesteps of {spec.name} are 0 … {last}"
        )
    check_layers_skipped(sampling.clip_skip or 0, spec.text, spec.text_layer)
    if factor is not None:
        size = latent_size(sampling.height, sampling.width, factor)
        guided = sampling.guidance_scale != 1
        check_memory(spec, size, factor, prompts * sampling.n, guided, like)


def check_first_point(sampling: Sampling, spec: ModelSpec) -> None:
    """Raise ValueError if nothing can be learnt from the network at the start of the whole path.

    The noise in pure noise is known, so a network that predicts it says nothing of the image.
    """
    first, *_ = sampler_path(sampling, spec)
    if first.alpha == 0 and spec.predicts == "noise":
        raise ValueError(
            f"{spec.name} predicts noise, and the sampler {sampling.sampler!r} starts from pure "
            f"noise: zero_terminal_snr is true and spacing {spec.spacing!r}; choose a sampler that "
            "starts from the smallest signal, such as 'dpm_pp_2m', or a model that predicts "
            "velocity"
        )


def check_memory(
    spec: ModelSpec,
    size: tuple[int, int],
    factor: int,
    images: int,
    guided: bool,
    like: Tensor | None,
) -> None:
    """Raise ValueError if the memory cannot hold so many latents of this size (h, w) at a time."""
    itemsize = 4 if like is None else like.element_size()
    unet, pixels = spec.unet, (size[0] * factor, size[1] * factor)
    each = memory.unet_bytes(
        unet.block_out_channels, unet.layers_per_block, unet.cross_attention, size, itemsize
    )
    decoded = memory.vae_bytes(spec.vae.block_out_channels, pixels, itemsize)
    needed = max((2 if guided else 1) * images * each, decoded)
    needed += images * (memory.image_bytes(pixels) + memory.GENERATOR)
    memory.check_fits(pixels, images, needed, free_memory(like))


def free_memory(like: Tensor | None) -> int | None:
    """Bytes that are free on the device of a tensor; None if that is not known."""
    if like is None or not like.is_cuda:
        return memory.free_memory()
    free, _ = torch.cuda.mem_get_info(like.device)
    kept = torch.cuda.memory_reserved(like.device) - torch.cuda.memory_allocated(like.device)
    return free + kept


def sampler_path(
    sampling: Sampling, spec: ModelSpec, spacing: Spacing | None = None
) -> list[Point]:
    """The points that a sampler visits with these resolved settings, see NoiseSchedule.path.

    Of "leading" spacing, the samplers that end as the model says take the same stride of t in every
    step. If the offset is a stride or more, the last one ends at a timestep of the table. With an
    offset of 1 these are runs of more than 500 steps.
    """
    method = get_sampler(sampling.sampler)
    schedule, spacing = spec.schedule, spec.spacing if spacing is None else spacing
    points = schedule.path(
        sampling.steps or 0,
        spacing,
        method.final_sigma or spec.final_sigma,
        spec.steps_offset,
        cast(Sigmas, sampling.sigmas),
        method.steps_in,
    )
    end = points[-2].t - schedule.num_steps // (len(points) - 1)
    if method.final_sigma is None and spacing == "leading" and end >= 0:
        points[-1] = Point(end, *schedule.at(end))
    return points


# Entries of UNetConfig in which a ControlNet and its U-Net must agree.
MUST_AGREE = (
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "added_dim",
    "added_time_dim",
)


def check_control_fits(controlnet: "ControlNet", unet: "UNet") -> None:
    """Raise ValueError if a ControlNet's residuals cannot be added to a U-Net's feature maps."""
    for name in MUST_AGREE:
        ours, theirs = getattr(controlnet.config, name), getattr(unet.config, name)
        if ours != theirs:
            raise ValueError(
                f"the ControlNet is for another U-Net: its {name} is {ours}, here it is {theirs}"
            )
    own, other = controlnet.conv_in.weight, unet.conv_in.weight
    if (own.device, own.dtype) != (other.device, other.dtype):
        raise ValueError(
            f"the ControlNet is {own.dtype} on {own.device}, but the U-Net is {other.dtype} "
            f"on {other.device}; convert one with controlnet.to(device, dtype)"
        )
