"""The source of an image's random noise: a seed, a tensor, or a function of the caller."""

from collections.abc import Callable

import torch
from torch import Tensor

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
        ValueError: For noise of another kind or shape, or a seed outside 64 bits.
    """
    value: object = noise
    if not (value is None or isinstance(value, Tensor) or callable(value)):
        kind = type(value).__name__
        raise ValueError(f"noise is a {kind}; it must be a Tensor or a callable that returns one")
    if isinstance(noise, Tensor) or noise is None:
        draw = seeded_noise(seed, shape, like)
        return draw, None if noise is None else check_shape(noise, shape).to(like)
    return lambda: check_shape(noise(), shape).to(like), None


def seeded_noise(seed: int, shape: tuple[int, ...], like: Tensor) -> Callable[[], Tensor]:
    """A function that returns new standard normals (b, c, h, w) at each call.

    Row k comes from its own generator on the CPU with the seed seed + k, so it is the same alone
    and in a batch.

    Args:
        seed: Seed of the first row, in -2^63 … 2^63 - b.
        shape: (b, c, h, w).
        like: A tensor with the device and the type to use.

    Raises:
        ValueError: For a seed outside this range.
    """
    if not -(2**63) <= seed <= 2**63 - shape[0]:
        raise ValueError(f"seed is {seed}; it must have fewer than 64 bits")
    generators = [torch.Generator().manual_seed(seed + k) for k in range(shape[0])]

    def draw() -> Tensor:
        rows = [torch.randn(shape[1:], generator=generator) for generator in generators]
        return torch.stack(rows).to(like)

    return draw


def check_shape(noise: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the noise; raise ValueError if it has another shape."""
    if noise.shape != shape:
        raise ValueError(f"noise has the shape {tuple(noise.shape)}; it must be {shape}")
    return noise
