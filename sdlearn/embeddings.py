"""Numbers as vectors: how the network is told the time step, and SDXL's picture sizes.

A number becomes cosines and sines of many frequencies, fast to slow, like the hands of a clock
(Vaswani et al., arXiv:1706.03762, section 3.5, as used by Ho et al., arXiv:2006.11239); a small
MLP then turns the hands into what the ResBlocks can use.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoidal_embedding(t: Tensor, dim: int) -> Tensor:
    """(b,) -> (b, dim): cos(t w_i) for all i, then sin(t w_i), with w_i = 10000^(-2i / dim).

    Cosines come first, as in Stable Diffusion and unlike the transformer paper. t may be
    fractional. The result is float32 whatever t is: 999 w_i needs more digits than half precision
    has, and the published models were trained on these values. Raises ValueError for an odd dim.
    """
    if dim % 2:
        raise ValueError(f"dim = {dim}: a sinusoidal embedding needs an even number of channels")
    half = dim // 2
    i = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(10000) * i / half)
    angles = t.float()[:, None] * frequencies  # (b, dim/2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def size_embedding(pooled: Tensor, sizes: Tensor, dim: int) -> Tensor:
    """SDXL's extra conditioning before its MLP: (b, d) and (b, n) -> (b, d + n * dim) float32.

    pooled: the pooled text state. sizes, in pixels: original height and width, top and left of
    the crop, target height and width (arXiv:2307.01952, section 2.2); dim is 256.
    """
    b, n = sizes.shape
    embedded = sinusoidal_embedding(sizes.flatten(), dim).reshape(b, n * dim)
    # No cast down to the type of pooled: the caller casts once, to the type of the network.
    return torch.cat([pooled.to(torch.promote_types(pooled.dtype, embedded.dtype)), embedded], -1)


class TimeEmbedding(nn.Module):
    """The MLP behind the sinusoids: (b, dim_in) -> (b, dim), Linear, SiLU, Linear."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim_in, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))
