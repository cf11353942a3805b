"""Attention: how positions of the picture look at each other and at the words of the caption.

From the inside out: `Attention` (softmax(q k^T / sqrt(d)) v over several heads),
`GatedFeedForward`, `TransformerBlock` (picture looks at picture, picture looks at text, MLP) and
`SpatialTransformer`, which lays a feature map out as a sequence, one token per position
(Rombach et al., arXiv:2112.10752, appendix E.2.1). Modules carry the names of the published files.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention. Queries come from x, keys and values from the context.

    heads is their number; each is dim / heads wide. context_dim: None for self-attention.
    upcast: compute the products in float32 at least (SD 2.1 overflows in half precision).
    """

    def __init__(
        self, dim: int, heads: int, context_dim: int | None = None, upcast: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.upcast = upcast
        context_dim = dim if context_dim is None else context_dim
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def split(self, x: Tensor) -> Tensor:
        """(b, n, heads * d) -> (b, heads, n, d)"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (b, n, dim), context (b, m, context_dim) or None for x itself -> (b, n, dim)."""
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        if self.upcast:
            wide = torch.promote_types(q.dtype, torch.float32)
            q, k, v = q.to(wide), k.to(wide), v.to(wide)
        seen = F.scaled_dot_product_attention(self.split(q), self.split(k), self.split(v))
        seen = seen.transpose(1, 2).flatten(2).to(x.dtype)  # (b, heads, n, d) -> (b, n, heads * d)
        return self.to_out[0](seen)


class GEGLU(nn.Module):
    """(b, n, dim_in) -> (b, n, dim_out): one half of the projection is the value, the other
    opens or closes it through a GELU (Shazeer, arXiv:2002.05202), the exact one with erf."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim_in, 2 * dim_out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class GatedFeedForward(nn.Module):
    """The transformer's MLP, four times as wide inside: (b, n, dim) -> (b, n, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # The published files count a dropout as number 1.
        self.net = nn.Sequential(GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text, MLP; each normalised first and added."""

    def __init__(self, dim: int, heads: int, context_dim: int, upcast: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads, upcast=upcast)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, heads, context_dim, upcast=upcast)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = GatedFeedForward(dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """`depth` transformer blocks over the positions of a feature map, added to it.

    proj_in and proj_out are Linear here; the files of SD 1 hold them as 1x1 convolutions, which
    are the same matrices with two axes of length one.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        context_dim: int,
        depth: int = 1,
        groups: int = 32,
        upcast: bool = False,
    ) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)  # 1e-5 in the ResBlocks beside it
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads, context_dim, upcast) for _ in range(depth)
        )
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (b, c, h, w), context (b, n, context_dim) -> (b, c, h, w)."""
        b, c, h, w = x.shape
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))  # (b, c, h, w) -> (b, hw, c)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens).transpose(1, 2).reshape(b, c, h, w)
