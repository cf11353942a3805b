"""Embeddings of numbers: the timestep, and SDXL's image sizes.

A number becomes cosines and sines of many frequencies, from fast to slow, like the hands of a
clock (Vaswani et al., arXiv:1706.03762, section 3.5, as used by Ho et al., arXiv:2006.11239). A
small MLP then turns them into the embedding that conditions the ResBlocks.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoidal_embedding(t: Tensor, dim: int) -> Tensor:
    """Embed each timestep as cos(t w_i) for all i, then sin(t w_i), with w_i = 10000^(-2i / dim).

    The cosines come first, as in Stable Diffusion and unlike in the transformer paper.

    Args:
        t: (b,), may be fractional.
        dim: Channels of the embedding, even.

    Returns:
        (b, dim), float32 whatever the type of t: 999 w_i needs more digits than half precision
        has, and the published models were trained with these values.

    Raises:
        ValueError: If dim is odd.
    """
    if dim % 2:
        raise ValueError(f"dim = {dim}; a sinusoidal embedding needs an even number of channels")
    half = dim // 2
    i = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(10000) * i / half)
    angles = t.float()[:, None] * frequencies  # (b, dim/2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def size_embedding(pooled: Tensor, sizes: Tensor, dim: int) -> Tensor:
    """Concatenate SDXL's pooled text embedding and its embedded sizes (arXiv:2307.01952, 2.2).

    Args:
        pooled: Pooled text embedding, (b, d).
        sizes: (b, n) in pixels: original height and width, top and left of the crop, target
            height and width.
        dim: Channels for each size, 256 in SDXL.

    Returns:
        (b, d + n * dim), float32 at least: the input of SDXL's second `TimeEmbedding`.
    """
    b, n = sizes.shape
    embedded = sinusoidal_embedding(sizes.flatten(), dim).reshape(b, n * dim)
    # No cast down to the type of pooled: the caller casts once, to the network's own type.
    return torch.cat([pooled.to(torch.promote_types(pooled.dtype, embedded.dtype)), embedded], -1)


class TimeEmbedding(nn.Module):
    """The MLP after the sinusoids, Linear, SiLU, Linear: (b, dim_in) -> (b, dim)."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim_in, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))
