"""Check the arguments of the pipeline before any work, and convert them to tensors.

Every error is a ValueError of one sentence: the argument, its value, and what is accepted.
"""

import reprlib
import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from sdlearn.controlnet import Control, ControlNet
from sdlearn.inpainting import InitImage
from sdlearn.samplers import num_steps
from sdlearn.text import Sizes, TextEncoder, size_conditioning
from sdlearn.unet import UNet
from sdlearn.utils import sampling as fields
from sdlearn.utils.images import (
    ImageList,
    Images,
    as_images,
    as_mask,
    fit_image,
    latent_size,
    paste,
    per_prompt,
)
from sdlearn.utils.noise import Noise, check_noise, noise_source
from sdlearn.utils.sampling import Sampling, SamplingOptions
from sdlearn.utils.sampling_checks import (
    check_control_fits,
    check_first_point,
    check_memory,
    check_sampling,
    resolve,
)
from sdlearn.utils.validation import (
    as_prompts,
    check_bool,
    check_scale,
    check_unit_interval,
    negative_prompts,
    repeat_prompts,
    shown,
)
from sdlearn.vae import VAE
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

    @property
    def num_steps(self) -> int:
        """How many steps are run: from an image, only the last of them."""
        return num_steps(self.sampling.steps or 0, 1.0 if self.init is None else self.init.strength)

    def outside_kept(self, painted: ImageList) -> ImageList:
        """The painted images with the initial image's own pixels outside the mask."""
        if self.init is None or self.init.mask is None:
            return painted
        n = self.sampling.n  # there is one image and mask for all, or n copies for each prompt
        return paste(painted, (self.init.image[::n] + 1) / 2, self.init.mask[::n], n)


def prepare(
    unet: UNet,
    vae: VAE,
    text: TextEncoder,
    spec: ModelSpec,
    prompt: Prompts,
    image: Images | None,
    mask: Images | None,
    strength: float,
    options: Options,
) -> Request:
    """Check all arguments of StableDiffusion.trajectory, the numbers before the images.

    Raises:
        ValueError: For an argument that cannot be used.
        TypeError: For an unknown option.
    """
    check_parts(unet, vae, text, spec)
    given, factor = fields.Sampling.from_options(known(options)), vae.factor
    sampling = resolve(given, spec)
    prompt_list = as_prompts("prompt", prompt)
    strength = check_strength(strength, image, mask)
    if unet.config.in_channels > unet.config.out_channels and (image is None or mask is None):
        raise ValueError(
            f"{spec.name} is an inpainting model; it needs an image and a mask, as inpaint takes "
            "them"
        )
    check_noise(options.get("noise"), sampling.seed)
    b, weight = len(prompt_list) * sampling.n, unet.conv_in.weight
    own_size = image is not None and given.height is None and given.width is None
    check_sampling(sampling, spec, len(prompt_list), weight, None if own_size else factor)
    if num_steps(sampling.steps or 0, strength) == sampling.steps:
        check_first_point(sampling, spec)
    prompts = repeat_prompts(prompt_list, sampling.n)
    negatives = negative_prompts(options.get("negative_prompt"), prompts, sampling.n)
    warn_without_influence(sampling, negatives)
    if negatives is None and not spec.zero_negative:
        negatives = [""] * len(prompts)
    guided = sampling.guidance_scale != 1
    if own_size and (drawn := pil_size(image, factor)):  # before it is made into a tensor
        check_memory(spec, drawn, factor, b, guided, weight)
    init = prepare_image(image, mask, strength, given, factor, len(prompt_list))
    if init is None:
        h, w = latent_size(sampling.height, sampling.width, factor)
    else:
        h, w = (side // factor for side in init.image.shape[-2:])
        check_memory(spec, (h, w), factor, b, guided, weight)
    control, scale = options.get("control"), options.get("control_scale")
    controls = control_inputs(control, scale, (h, w), factor, len(prompt_list), sampling.n, unet)
    has_sizes = unet.config.added_dim is not None
    pixels = h * factor, w * factor
    sizes = size_conditioning(options.get("sizes"), *pixels, spec.name, has_sizes)
    shape = (len(prompts), unet.config.out_channels, h, w)
    draw, eps = noise_source(options.get("noise"), sampling.seed, shape, weight)
    scale = check_scale("guidance_scale", sampling.guidance_scale)
    return Request(sampling, scale, prompts, negatives, init, controls, sizes, draw, eps)


def check_parts(*parts: object) -> None:
    """Raise ValueError unless these are the parts of a StableDiffusion, in their order.

    A network may be of any class: the notebooks put the learner's own in the place of ours.
    """
    kinds = {"unet": nn.Module, "vae": nn.Module, "text": nn.Module, "spec": ModelSpec}
    for (name, kind), part in zip(kinds.items(), parts, strict=True):
        if not isinstance(part, kind):
            accepted = "a ModelSpec" if kind is ModelSpec else "a network, a torch.nn.Module"
            raise ValueError(
                f"{name} of this StableDiffusion is a {type(part).__name__}; it must be {accepted}"
            )


def check_strength(strength: float, image: object, mask: object) -> float:
    """The strength, if there is an image that it is for, or it is 1."""
    if image is None and mask is not None:
        raise ValueError("mask marks the part of an image to repaint, but no image is given")
    checked = check_unit_interval("strength", strength)
    if image is None and checked != 1:
        raise ValueError(
            f"strength is {shown(strength)}; it says how much of an image to draw over, but "
            "there is no image; leave it out, or give an image"
        )
    return checked


def need_image(name: str, value: Images) -> Images:
    """The argument; ValueError for None, which elsewhere stands for no image."""
    if value is None:
        raise ValueError(f"{name} is None; it must be a PIL image, a list of them, or a Tensor")
    return value


def warn_without_influence(sampling: Sampling, negatives: list[str] | None) -> None:
    """Warn about settings of guidance where guidance is off."""
    given = {
        "the negative prompt": any(negatives or ()),
        "guidance_rescale": sampling.guidance_rescale > 0,
        "guidance_interval": sampling.guidance_interval is not None,
    }
    names = [name for name, is_given in given.items() if is_given]
    if sampling.guidance_scale == 1 and names:
        verb = "have" if len(names) > 1 else "has"
        warnings.warn(
            f"guidance_scale is 1, which turns guidance off, so {' and '.join(names)} {verb} no "
            "influence",
            stacklevel=4,
        )


def pil_size(image: object, factor: int) -> tuple[int, int] | None:
    """The latent's size for a PIL image, or for a list of them, before EXIF; None for others."""
    first = image[0] if isinstance(image, list) and image else image
    if not isinstance(first, Image.Image):
        return None
    return first.height // factor, first.width // factor


def check_output(output: object, progress: object) -> None:
    """Raise ValueError for another output, or for a progress that is neither True nor False."""
    if not isinstance(output, str) or output not in ("image", "latent"):
        raise ValueError(f"output is {shown(output)}; it must be 'image' or 'latent'")
    check_bool("progress", progress)


def check_latents(z: object, channels: int) -> Tensor:
    """The latents; ValueError unless they are a floating-point Tensor (b, channels, h, w)."""
    if not isinstance(z, Tensor):
        raise ValueError(f"the latents are a {type(z).__name__}; they must be a Tensor")
    if z.ndim != 4 or z.shape[1] != channels or 0 in z.shape or not z.is_floating_point():
        raise ValueError(
            f"the latents are a {z.dtype} Tensor of the shape {tuple(z.shape)}; they must be "
            f"floating-point, (b, {channels}, h, w)"
        )
    if z.device.type == "meta" or z.layout is not torch.strided:
        raise ValueError(f"the latents are {shown(z)}; they must be a dense Tensor with values")
    return z


def known(options: Options) -> Options:
    """The options, if all of them exist. Raises TypeError, naming those that do, for another."""
    names = dict.fromkeys([*fields.knobs(fields.Sampling), *Options.__annotations__])
    for name in options:
        if name not in names:
            raise TypeError(
                f"there is no option {reprlib.repr(name)}; the options are {', '.join(names)}"
            )
    return options


def control_inputs(
    control: ControlInput | list[ControlInput] | None,
    scale: float | list[float] | None,
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
    if scale is None:
        scale = 1.0
    elif not pairs and not isinstance(scale, list):
        raise ValueError(
            f"control_scale is {shown(scale)}, but there is no ControlNet; leave it out, or give "
            "control"
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
        check_control_fits(net, unet)
        if net.factor != factor:
            raise ValueError(
                f"the ControlNet reads {net.factor} x {net.factor} pixels for each position of the "
                f"latent, but the autoencoder has {factor} x {factor}; both must agree"
            )
        hint = hint.expand(prompts * n, -1, -1, -1).to(unet.conv_in.weight)
        controls.append((net, hint, check_scale("control_scale", each)))
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
        return None
    x, n = fit_image(image, sampling.height, sampling.width, factor), sampling.n
    repaint = None if mask is None else per_prompt("mask", as_mask(mask, x), prompts, n)
    x = per_prompt("image", 2 * x - 1, prompts, n)
    return InitImage(x, repaint, strength)
