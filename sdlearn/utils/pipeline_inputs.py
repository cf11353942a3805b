"""Check the arguments of the pipeline before any work, and convert them to tensors.

Every error is a ValueError of one sentence: the argument, its value, and what is accepted.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, NamedTuple

from torch import Tensor

from sdlearn.controlnet import Control, ControlNet
from sdlearn.inpainting import InitImage
from sdlearn.samplers import get_sampler
from sdlearn.schedule import sigmas_for
from sdlearn.text import Sizes, size_conditioning
from sdlearn.unet import UNet
from sdlearn.utils import sampling as fields
from sdlearn.utils.images import Images, as_images, as_mask, fit_image, latent_size, per_prompt
from sdlearn.utils.noise import Noise, noise_source
from sdlearn.utils.sampling import Sampling, SamplingOptions
from sdlearn.utils.validation import (
    as_prompts,
    check_finite,
    check_unit_interval,
    negative_prompts,
    repeat_prompts,
)
from sdlearn.versions import ModelSpec

Prompts = str | list[str]
ControlInput = tuple[ControlNet, Images]  # with its hint
Output = Literal["image", "latent"]


class Options(SamplingOptions, total=False):
    """The keyword arguments of all image-generating methods, see StableDiffusion.trajectory."""

    negative_prompt: Prompts | None
    noise: Noise | None
    control: ControlInput | list[ControlInput] | None
    control_scale: float | list[float]
    sizes: Sizes | None


class Request(NamedTuple):
    """The checked arguments of one call, with all defaults filled in.

    Attributes:
        sampling: Without a None for which the specification has a default.
        scale: Guidance scale.
        prompts: b prompts, each given prompt n times.
        negatives: b negative prompts; None for zeros in place of an encoded text.
        init: The image to start from, or None.
        controls: ControlNets with their hints (b, 3, H, W) and scales.
        sizes: SDXL's size conditioning, (1, 6); None for other systems.
        draw: Returns new standard normals (b, c, h, w) at each call.
        eps: The initial noise; None to draw it.
    """

    sampling: Sampling
    scale: float
    prompts: list[str]
    negatives: list[str] | None
    init: InitImage | None
    controls: list[Control]
    sizes: Tensor | None
    draw: Callable[[], Tensor]
    eps: Tensor | None


def prepare(
    unet: UNet,
    factor: int,
    spec: ModelSpec,
    prompt: Prompts,
    image: Images | None,
    mask: Images | None,
    strength: float,
    options: Options,
) -> Request:
    """Check all arguments of StableDiffusion.trajectory; `factor` is that of the autoencoder.

    Raises:
        ValueError: For an argument that cannot be used.
        TypeError: For an unknown option.
    """
    given = fields.Sampling.from_options(known(options))
    sampling = resolve(given, spec)
    prompt_list = as_prompts("prompt", prompt)
    prompts = repeat_prompts(prompt_list, sampling.n)
    negatives = negative_prompts(options.get("negative_prompt"), prompts, sampling.n)
    if negatives is None and not spec.zero_negative:
        negatives = [""] * len(prompts)
    init = prepare_image(image, mask, strength, given, factor, len(prompt_list))
    if unet.config.in_channels > unet.config.out_channels and (init is None or init.mask is None):
        raise ValueError(
            f"{spec.name} is an inpainting model; it needs an image and a mask, as inpaint takes "
            "them"
        )
    if init is None:
        h, w = latent_size(sampling.height, sampling.width, factor)
    else:
        h, w = (side // factor for side in init.image.shape[-2:])
    control, scale = options.get("control"), options.get("control_scale", 1.0)
    controls = control_inputs(control, scale, (h, w), factor, len(prompt_list), sampling.n, unet)
    has_sizes = unet.config.added_dim is not None
    pixels = h * factor, w * factor
    sizes = size_conditioning(options.get("sizes"), *pixels, spec.name, has_sizes)
    shape = (len(prompts), unet.config.out_channels, h, w)
    draw, eps = noise_source(options.get("noise"), sampling.seed, shape, unet.conv_in.weight)
    scale = check_finite("guidance_scale", sampling.guidance_scale)
    return Request(sampling, scale, prompts, negatives, init, controls, sizes, draw, eps)


def known(options: Options) -> Options:
    """The options, if all of them exist. Raises TypeError, naming those that do, for another."""
    names = dict.fromkeys([*fields.knobs(fields.Sampling), *Options.__annotations__])
    for name in options:
        if name not in names:
            raise TypeError(f"there is no option {name!r}; the options are {', '.join(names)}")
    return options


def resolve(sampling: Sampling, spec: ModelSpec) -> Sampling:
    """Replace each None by the specification's default, if it has one.

    The default for sigmas is "table" if the sampler does not have those of the specification.
    """
    sampling = sampling.with_defaults(spec)
    if sampling.sigmas is None:
        available = sigmas_for(get_sampler(sampling.sampler).steps_in)
        default = spec.sigmas if spec.sigmas in available else "table"
        sampling = replace(sampling, sigmas=default)
    return sampling


def control_inputs(
    control: ControlInput | list[ControlInput] | None,
    scale: float | list[float],
    size: tuple[int, int],
    factor: int,
    prompts: int,
    n: int,
    unet: UNet,
) -> list[Control]:
    """ControlNets with their hints (prompts * n, 3, H, W) for latents of this size, and scales."""
    pairs = [] if control is None else control if isinstance(control, list) else [control]
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], ControlNet)):
            raise ValueError(
                f"control holds a {type(pair).__name__}; it must be a pair (ControlNet, image), "
                "or a list of such pairs"
            )
    scales = list(scale) if isinstance(scale, list) else [scale] * len(pairs)
    if len(scales) != len(pairs):
        raise ValueError(
            f"control_scale has {len(scales)} entries for {len(pairs)} ControlNets; give one for "
            "all, or one for each"
        )
    pixels = size[0] * factor, size[1] * factor
    controls: list[Control] = []
    for (net, image), each in zip(pairs, scales, strict=True):
        hint = as_images("control", image, "RGB", pixels, factor)
        hint = per_prompt("control", hint, prompts, n)
        net.check_fits(unet)
        hint = hint.expand(prompts * n, -1, -1, -1).to(unet.conv_in.weight)
        controls.append((net, hint, check_finite("control_scale", each)))
    return controls


def prepare_image(
    image: Images | None,
    mask: Images | None,
    strength: float,
    sampling: Sampling,
    factor: int,
    prompts: int,
) -> InitImage | None:
    """The image to start from, with its mask; None without an image."""
    if image is None:
        if mask is not None:
            raise ValueError("mask says what to repaint of an image, but there is no image")
        return None
    x, n = fit_image(image, sampling.height, sampling.width, factor), sampling.n
    repaint = None if mask is None else per_prompt("mask", as_mask(mask, x), prompts, n)
    x = per_prompt("image", 2 * x - 1, prompts, n)
    return InitImage(x, repaint, check_unit_interval("strength", strength))
