"""Attention: how image positions exchange information with each other and with the prompt.

From the inside out: `Attention` (softmax(q k^T / sqrt(d)) v over several heads),
`GatedFeedForward`, `TransformerBlock` (self-attention, cross-attention to the text, MLP) and
`SpatialTransformer`, which turns a feature map into a sequence with one token per position
(Rombach et al., arXiv:2112.10752, appendix E.2.1). Modules have the names used in the published
files.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention: queries come from x, keys and values from the context.

    Args:
        dim: Channels of x and of the output.
        heads: Number of heads; each has dim / heads channels.
        context_dim: Channels of the context; None for self-attention.
        upcast: Compute attention in float32 at least; SD 2.1 overflows in half precision.
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
        """Split the channels into heads: (b, n, heads * d) -> (b, heads, n, d)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Attend from x to the context.

        Args:
            x: (b, n, dim).
            context: (b, m, context_dim); None attends to x itself.

        Returns:
            (b, n, dim).
        """
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        if self.upcast:
            dtype = torch.promote_types(q.dtype, torch.float32)
            q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        out = F.scaled_dot_product_attention(self.split(q), self.split(k), self.split(v))
        out = out.transpose(1, 2).flatten(2).to(x.dtype)  # (b, heads, n, d) -> (b, n, heads * d)
        return self.to_out[0](out)


class GEGLU(nn.Module):
    """Linear layer with a GELU gate: (b, n, dim_in) -> (b, n, dim_out).

    One half of the projection is the value; the other half gates it through the exact GELU, which
    uses erf (Shazeer, arXiv:2002.05202).
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim_in, 2 * dim_out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class GatedFeedForward(nn.Module):
    """The transformer's MLP, with 4 * dim hidden channels: (b, n, dim) -> (b, n, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # The published files count a dropout as layer 1; the Identity has its index.
        self.net = nn.Sequential(GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text and MLP: pre-norm, with residual connections."""

    def __init__(self, dim: int, heads: int, context_dim: int, upcast: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, heads, upcast=upcast)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, heads, context_dim, upcast=upcast)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = GatedFeedForward(dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Tokens x (b, n, dim) and text (b, m, context_dim) -> (b, n, dim)."""
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map, with a residual connection.

    proj_in and proj_out are linear layers here. SD 1's files store them as 1x1 convolutions: the
    same matrices with two more axes of length one.

    Args:
        channels: Channels of the feature map.
        heads: Attention heads of each block.
        context_dim: Channels of the text embeddings.
        depth: Number of transformer blocks.
        groups: Groups of the GroupNorm.
        upcast: See `Attention`.
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
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)  # 1e-5 in the U-Net's ResBlocks
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, heads, context_dim, upcast) for _ in range(depth)
        )
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Feature map x (b, c, h, w) and text (b, n, context_dim) -> (b, c, h, w)."""
        b, c, h, w = x.shape
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))  # (b, c, h, w) -> (b, hw, c)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens).transpose(1, 2).reshape(b, c, h, w)
