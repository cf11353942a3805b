"""Images between PIL and tensors, checked where a caller hands them in.

Every error is a ValueError of one sentence: the argument, its value, and what is accepted.
"""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sdlearn.utils.image_files import Mode, upright
from sdlearn.utils.validation import check_int, shown

ImageList = list[Image.Image]
Images = Image.Image | list[Image.Image] | Tensor
CHANNELS: dict[Mode, int] = {"RGB": 3, "L": 1}


def as_images(
    name: str, value: object, mode: Mode, size: tuple[int, int] | None, factor: int
) -> Tensor:
    """Images -> (b, 3 or 1, height, width) float32 in [0, 1].

    Args:
        name: The argument, for the messages.
        value: A PIL image of any mode, or a list of them, which is made upright and put on white
            (see image_files.upright) and then resized; or a Tensor (b, 3 or 1, height, width) in
            [0, 1] of the right size.
        mode: "RGB" for 3 channels, "L" for 1.
        size: (height, width); None for the images' own size, rounded down to multiples of factor.
        factor: The autoencoder's factor.
    """
    if isinstance(value, Tensor):
        return check_image_tensor(name, value, mode, size, factor)
    items = [value] if isinstance(value, Image.Image) else value
    if (
        not isinstance(items, list)
        or not items
        or not all(isinstance(item, Image.Image) for item in items)
    ):
        raise ValueError(
            f"{name} is a {type(value).__name__}; it must be a PIL image, a list of them, or a "
            f"Tensor (b, {CHANNELS[mode]}, height, width) in 0 … 1"
        )
    pixels = [upright(name, item, mode) for item in items]
    if size is None:
        sizes = {item.size for item in pixels}
        if len(sizes) > 1:
            raise ValueError(
                f"{name} has images of several sizes, {shown(sorted(sizes))} (width, height); give "
                "images of one size, or height and width"
            )
        width, height = (side - side % factor for side in sizes.pop())
        if min(width, height) < factor:
            raise ValueError(
                f"{name} is {pixels[0].width} x {pixels[0].height} pixels (width x height); both "
                f"must be at least {factor}, the autoencoder's factor"
            )
        size = height, width
    resample = Image.Resampling.LANCZOS if mode == "RGB" else Image.Resampling.NEAREST
    resized = [np.asarray(item.resize(size[::-1], resample)) for item in pixels]
    x = torch.from_numpy(np.stack(resized)).float() / 255  # (b, h, w[, 3])
    return x.unsqueeze(1) if mode == "L" else x.permute(0, 3, 1, 2)


def check_image_tensor(
    name: str, value: Tensor, mode: Mode, size: tuple[int, int] | None, factor: int
) -> Tensor:
    """Return a Tensor of images as float32; raise ValueError if it cannot be used."""
    c = CHANNELS[mode]
    valid = value.ndim == 4 and len(value) and value.shape[1] == c and value.is_floating_point()
    if not valid:
        raise ValueError(
            f"{name} is a {value.dtype} Tensor of the shape {tuple(value.shape)}; it must be "
            f"floating-point, (b, {c}, height, width) in 0 … 1"
        )
    if value.device.type == "meta" or value.layout is not torch.strided:
        raise ValueError(f"{name} is {shown(value)}; it must be a dense Tensor with values")
    own = value.shape[-2], value.shape[-1]
    if own != (size or own) or own[0] % factor or own[1] % factor or 0 in own:
        accepted = f"{size[0]} x {size[1]}" if size else f"multiples of {factor}"
        raise ValueError(
            f"{name} is {own[0]} x {own[1]} pixels (height x width); a Tensor must be {accepted}"
        )
    if not ((value >= 0) & (value <= 1)).all():
        raise ValueError(f"{name} has values outside 0 … 1, or NaN; a Tensor must lie in 0 … 1")
    return value.detach().float()


def as_mask(value: object, x: Tensor) -> Tensor:
    """The mask of images x (b, 3, H, W): (b, 1, H, W), 1 where `value` is at least 0.5.

    Warns about a mask that is neither black nor has white, such as one of 0 and 1 in 8 bits.
    """
    m = as_images("mask", value, "L", (x.shape[-2], x.shape[-1]), 1)
    lightest = m.flatten(1).amax(1)
    if ((lightest > 0) & (lightest < 0.5)).any():
        warnings.warn(
            f"mask is dark everywhere, so nothing is repainted: its lightest value is "
            f"{255 * lightest[lightest < 0.5].max():.0f} of 255; white is repainted",
            stacklevel=6,
        )
    return (m >= 0.5).float()


def fit_image(image: Images, height: int | None, width: int | None, factor: int) -> Tensor:
    """The image (b, 3, H, W) in [0, 1], resized to height and width if one is given."""
    size = None
    if height is not None or width is not None:
        h, w = latent_size(height, width, factor)
        size = h * factor, w * factor
    return as_images("image", image, "RGB", size, factor)


def latent_size(height: int | None, width: int | None, factor: int) -> tuple[int, int]:
    """Pixels -> the latent's (h, w); ValueError for a size that the autoencoder cannot decode."""
    sizes = []
    for name, pixels in (("height", height), ("width", width)):
        if check_int(name, pixels) < 1 or check_int(name, pixels) % factor:
            raise ValueError(
                f"{name} is {pixels}; it must be a positive multiple of {factor} pixels, the "
                "autoencoder's factor"
            )
        sizes.append(check_int(name, pixels) // factor)
    return sizes[0], sizes[1]


def decoded(to_image: Callable[[Tensor], Tensor], z: Tensor) -> ImageList:
    """Latents (b, c, h, w), decoded to b images.

    Decoding needs far more memory than denoising: at most one image of 512² at a time.

    Args:
        to_image: Decodes some of the latents, to (b, 3, H, W) in [-1, 1].
        z: The latents.

    Raises:
        FloatingPointError: If a value of the images is not finite.
    """
    at_once = max(1, 64**2 // (z.shape[-1] * z.shape[-2]))
    x = torch.cat([to_image(part) for part in z.split(at_once)])
    if not x.isfinite().all():
        raise FloatingPointError("the autoencoder's image is not finite; use float32")
    return to_pil(x)


def to_pil(x: Tensor) -> ImageList:
    """Convert a Tensor (b, 3, H, W) in [-1, 1] to b PIL images."""
    pixels = ((x.float() + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
    return [Image.fromarray(image.numpy()) for image in pixels]


def paste(painted: ImageList, x: Tensor, mask: Tensor, n: int) -> ImageList:
    """The painted images inside the mask and exactly the pixels of x outside it.

    Args:
        painted: n images for each prompt.
        x: (1 or prompts, 3, H, W) in [0, 1].
        mask: (1 or prompts, 1, H, W) of 0 and 1.
        n: Images for each prompt.
    """
    b, prompts = len(painted), len(painted) // n
    originals = to_pil(per_prompt("image", 2 * x - 1, prompts, n).expand(b, -1, -1, -1))
    masks = to_pil(per_prompt("mask", 2 * mask - 1, prompts, n).expand(b, 3, -1, -1))
    return [
        Image.composite(new, old, white.getchannel(0))
        for new, old, white in zip(painted, originals, masks, strict=True)
    ]


def per_prompt(name: str, rows: Tensor, prompts: int, n: int) -> Tensor:
    """Rows (1, ...) for all images, unchanged; or (prompts, ...), each repeated n times."""
    if len(rows) not in (1, prompts):
        raise ValueError(
            f"{name} has {len(rows)} entries for {prompts} prompts; give one for all, or one for "
            "each"
        )
    return rows if len(rows) == 1 else rows.repeat_interleave(n, dim=0)


def central_square(image: Image.Image) -> Image.Image:
    """The square in the middle of an image, as large as possible."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
