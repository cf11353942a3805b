"""What a caller hands to a pipeline, checked before any work: prompts, counts, noise, pictures.

Everything wrong is refused with a ValueError of one sentence that names the argument, what it was
and what it may be.
"""

import math
from operator import index
from typing import Literal, SupportsFloat, SupportsIndex

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sdlearn.controlnet import ControlNet

Pictures = Image.Image | list[Image.Image] | Tensor
ControlInput = tuple[ControlNet, Pictures]  # with its hint
Control = tuple[ControlNet, Tensor, float]  # with its hint, (b, 3, H, W) in [0, 1], and its scale
Mode = Literal["RGB", "L"]
CHANNELS: dict[Mode, int] = {"RGB": 3, "L": 1}


def as_prompts(name: str, value: object) -> list[str]:
    """One prompt or several -> several."""
    prompts = [value] if isinstance(value, str) else value
    if (
        not isinstance(prompts, list)
        or not prompts
        or not all(isinstance(prompt, str) for prompt in prompts)
    ):
        raise ValueError(f"{name} is {value!r}; it must be a string or a list of strings")
    return prompts


def check_noise(value: object) -> None:
    """Initial noise is a Tensor, a callable that gives one, or None."""
    if not (value is None or isinstance(value, Tensor) or callable(value)):
        kind = type(value).__name__
        raise ValueError(f"noise is a {kind}; it must be a Tensor or a callable that gives one")


def shaped(noise: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Noise of this shape."""
    if noise.shape != shape:
        raise ValueError(f"noise has the shape {tuple(noise.shape)}; it must be {shape}")
    return noise


def repeat(prompts: list[str], n: int) -> list[str]:
    """Every prompt n times, side by side."""
    if whole("n", n) < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    return [prompt for prompt in prompts for _ in range(n)]


def for_each(name: str, rows: Tensor, prompts: int, n: int) -> Tensor:
    """One row for all pictures, (1, ...), or one for each prompt, (prompts, ...), n times each."""
    if len(rows) not in (1, prompts):
        raise ValueError(
            f"{name} has {len(rows)} entries for {prompts} prompts; give one for all, or one for "
            "each"
        )
    return rows if len(rows) == 1 else rows.repeat_interleave(n, dim=0)


def whole(name: str, value: object) -> int:
    """The value, if it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):  # NumPy's count as well
        raise ValueError(f"{name} is {value!r}; it must be a whole number")
    return index(value)


def finite(name: str, value: object) -> float:
    """The value, if it is a finite number."""
    if not (isinstance(value, SupportsFloat) and math.isfinite(value)):
        raise ValueError(f"{name} is {value!r}; it must be a finite number")
    return float(value)


def fraction(name: str, value: object) -> float:
    """The value, if it lies in 0 … 1."""
    if not 0 <= finite(name, value) <= 1:
        raise ValueError(f"{name} is {value!r}; it must lie in 0 … 1")
    return finite(name, value)


def as_interval(name: str, value: object) -> tuple[float, float] | None:
    """The value, if it is two finite numbers in order, or None."""
    if value is None:
        return None
    if not (isinstance(value, tuple | list) and len(value) == 2):
        raise ValueError(f"{name} is {value!r}; it must be two numbers, (lo, hi)")
    lo, hi = (finite(name, end) for end in value)
    if lo > hi:
        raise ValueError(f"{name} is {value!r}; its first number must not be above its second")
    return lo, hi


def as_pictures(
    name: str, value: object, mode: Mode, size: tuple[int, int] | None, factor: int
) -> Tensor:
    """Pictures -> (b, 3 or 1, height, width) float32 in [0, 1].

    value: a PIL image or a list of them, resized to size = (height, width); or a Tensor, which is
    what is returned and has that size already. size: None keeps the pictures' own, cut down to
    multiples of factor, which is what the autoencoder can encode.
    """
    if isinstance(value, Tensor):
        return checked(name, value, mode, size, factor)
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
    upright = [ImageOps.exif_transpose(item) for item in items]
    if size is None:
        sizes = {item.size for item in upright}
        if len(sizes) > 1:
            raise ValueError(
                f"{name} holds pictures of several sizes, {sorted(sizes)} (width, height); make "
                "them one, or give height and width"
            )
        width, height = (side - side % factor for side in sizes.pop())
        if min(width, height) < factor:
            raise ValueError(f"{name} is smaller than {factor} pixels, the autoencoder's factor")
        size = height, width
    smooth = Image.Resampling.LANCZOS if mode == "RGB" else Image.Resampling.NEAREST
    pixels = [np.asarray(item.convert(mode).resize(size[::-1], smooth)) for item in upright]
    x = torch.from_numpy(np.stack(pixels)).float() / 255  # (b, h, w[, 3])
    return x.unsqueeze(1) if mode == "L" else x.permute(0, 3, 1, 2)


def as_mask(value: object, x: Tensor) -> Tensor:
    """A mask for pictures x (b, 3, H, W): (b, 1, H, W), 1 where it is at least half white."""
    m = as_pictures("mask", value, "L", (x.shape[-2], x.shape[-1]), 1)
    return (m >= 0.5).float()


def hints(
    control: ControlInput | list[ControlInput] | None,
    scale: float | list[float],
    size: tuple[int, int],
    factor: int,
    prompts: int,
    n: int,
) -> list[Control]:
    """ControlNets with a hint for each picture of a latent of this size, and their scales."""
    pairs = [] if control is None else control if isinstance(control, list) else [control]
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], ControlNet)):
            raise ValueError(
                f"control holds a {type(pair).__name__}; it must be a pair (ControlNet, picture), "
                "or a list of such pairs"
            )
    scales = list(scale) if isinstance(scale, list) else [scale] * len(pairs)
    if len(scales) != len(pairs):
        raise ValueError(
            f"control_scale has {len(scales)} entries for {len(pairs)} ControlNets; give one for "
            "all, or one for each"
        )
    pixels = size[0] * factor, size[1] * factor
    found = []
    for (net, picture), each in zip(pairs, scales, strict=True):
        hint = for_each(
            "control", as_pictures("control", picture, "RGB", pixels, factor), prompts, n
        )
        hint = hint.expand(prompts * n, -1, -1, -1)
        found.append((net, hint, finite("control_scale", each)))
    return found


def checked(
    name: str, value: Tensor, mode: Mode, size: tuple[int, int] | None, factor: int
) -> Tensor:
    """A Tensor of pictures, if it is one that can be used."""
    c = CHANNELS[mode]
    right = value.ndim == 4 and len(value) and value.shape[1] == c and value.is_floating_point()
    if not right:
        raise ValueError(
            f"{name} is a {value.dtype} Tensor of the shape {tuple(value.shape)}; it must be "
            f"floating-point, (b, {c}, height, width) in 0 … 1"
        )
    own = value.shape[-2], value.shape[-1]
    if own != (size or own) or own[0] % factor or own[1] % factor or 0 in own:
        wanted = f"{size[0]} x {size[1]}" if size else f"multiples of {factor}"
        raise ValueError(
            f"{name} is {own[0]} x {own[1]} pixels (height x width); a Tensor must be {wanted}"
        )
    if not ((value >= 0) & (value <= 1)).all():
        raise ValueError(f"{name} has values outside 0 … 1, or NaN; pictures as Tensors lie there")
    return value.detach().float()
