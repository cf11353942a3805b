"""The source of an image's random noise: a seed, a tensor, or a function of the caller."""

from collections.abc import Callable

import torch
from torch import Tensor

from sdlearn.utils.validation import shown

Noise = Tensor | Callable[[], Tensor]


def noise_source(
    noise: Noise | None, seed: int, shape: tuple[int, ...], like: Tensor
) -> tuple[Callable[[], Tensor], Tensor | None]:
    """The function that draws standard normals, and the initial noise.

    Args:
        noise: The initial noise, or a callable for all draws; None for `seeded_noise`.
        seed: Seed of the first row.
        shape: (b, c, h, w).
        like: A tensor with the device and the type to use.

    Returns:
        A function that returns new standard normals (b, c, h, w) at each call; and the initial
        noise, None unless it was given as a Tensor.

    Raises:
        ValueError: For noise of another kind or shape, or a seed outside 63 bits.
    """
    if isinstance(noise, Tensor) or noise is None:
        draw = seeded_noise(seed, shape, like)
        return draw, None if noise is None else check_normals(noise, shape).to(like)
    return lambda: check_normals(noise(), shape).to(like), None


def check_noise(noise: object, seed: int) -> None:
    """Raise ValueError for noise of another kind, and for a seed that no noise is drawn from."""
    if not (noise is None or isinstance(noise, Tensor) or callable(noise)):
        kind = type(noise).__name__
        raise ValueError(f"noise is a {kind}; it must be a Tensor or a callable that returns one")
    if seed and callable(noise) and not isinstance(noise, Tensor):
        raise ValueError(
            f"seed is {seed}, but noise is a callable, which draws all of the noise; "
            "leave one of them out"
        )


def seeded_noise(seed: int, shape: tuple[int, ...], like: Tensor) -> Callable[[], Tensor]:
    """A function that returns new standard normals (b, c, h, w) at each call.

    Row k comes from its own generator on the CPU with the seed seed + k, so it is the same alone
    and in a batch.

    Args:
        seed: Seed of the first row, in 0 … 2^63 - b.
        shape: (b, c, h, w).
        like: A tensor with the device and the type to use.

    Raises:
        ValueError: For a seed outside this range.
    """
    if not 0 <= seed <= 2**63 - shape[0]:
        raise ValueError(
            f"seed is {shown(seed)}; for {shape[0]} images it must lie in 0 … 2^63 - {shape[0]}"
        )
    generators = [torch.Generator().manual_seed(seed + k) for k in range(shape[0])]

    def draw() -> Tensor:
        rows = [torch.randn(shape[1:], generator=generator) for generator in generators]
        return torch.stack(rows).to(like)

    return draw


def check_normals(noise: object, shape: tuple[int, ...]) -> Tensor:
    """Return the noise; ValueError unless it is a finite floating-point Tensor of this shape."""
    if not isinstance(noise, Tensor):
        raise ValueError(f"noise returns a {type(noise).__name__}; it must return a Tensor {shape}")
    if noise.shape != shape:
        raise ValueError(f"noise has the shape {shown(tuple(noise.shape))}; it must be {shape}")
    if not noise.is_floating_point():
        raise ValueError(f"noise is a Tensor of {noise.dtype}; it must be floating-point")
    if noise.device.type == "meta" or noise.layout is not torch.strided:
        raise ValueError(f"noise is {shown(noise)}; it must be a dense Tensor with values")
    if not noise.isfinite().all():
        raise ValueError("noise holds NaN or infinity; it must be finite")
    return noise
