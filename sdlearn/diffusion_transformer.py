"""Stable Diffusion 3's multimodal diffusion transformer (MM-DiT), which replaces the U-Net.

The latent is cut into patches. Each patch becomes a token, and so does each text embedding. Image
and text are two streams through the same blocks. They have separate weights, because their tokens
are of different kinds, but in each block all tokens of both attend to one another (Esser et al.,
arXiv:2403.03206, section 4 and figure 2). So the text is not only read, as in a U-Net's
cross-attention. It also attends to the image, and changes from block to block. The time and the
pooled text embedding condition every block. They shift and scale its activations, and gate the
outputs of its branches. This is adaLN-Zero (Peebles and Xie, arXiv:2212.09748, section 3.2):

    emb = time_embedding(t) + pooled_embedding(pooled)
    shift, scale, gate = linear(silu(emb))
    x = x + gate * branch((1 + scale) * layer_norm(x) + shift)      branch: attention, then MLP

The network predicts the velocity eps - x_0 of rectified flow (see `sdlearn.flow`). Its inputs are
x_t itself and the timestep 1000 t, so that times in 0 … 1 are embedded like a U-Net's timesteps.

Modules have the names used in the published files. In the code, x is the image stream, (b, n, dim),
context is the text stream, (b, m, dim), and emb is the conditioning, (b, dim).
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlearn.embeddings import TimeEmbedding, sinusoidal_embedding

TIMESTEPS = 1000  # the timestep is this times t
TIME_CHANNELS = 256  # of the sinusoidal time embedding


@dataclass(frozen=True)
class DiffusionTransformerConfig:
    """The configuration of a diffusion transformer, by default that of SD 3 medium.

    Attributes:
        in_channels: Channels of the latent and of the velocity.
        patch_size: Height and width of a patch, in latent positions.
        num_layers: Number of blocks. The last one leaves the text unchanged.
        num_heads: Attention heads in each block.
        head_dim: Channels of each head. Both streams have num_heads * head_dim channels.
        context_dim: Channels of the text embeddings; joint_attention_dim in the files.
        pooled_dim: Channels of the pooled text embedding; pooled_projection_dim in the files.
        qk_norm: Whether queries and keys are normalised, as in SD 3.5.
        sample_size: Nominal height and width of the latents, which set the scale of the positions:
            neighbouring patches are (sample_size / patch_size) / pos_embed_max_size apart.
        pos_embed_max_size: Height and width, in patches, of the largest latent.

    Raises:
        ValueError: If a size is not a whole number of at least 1, or num_heads * head_dim is not a
            multiple of 4.
    """

    in_channels: int = 16
    patch_size: int = 2
    num_layers: int = 24
    num_heads: int = 24
    head_dim: int = 64
    context_dim: int = 4096
    pooled_dim: int = 2048
    qk_norm: bool = False
    sample_size: int = 128
    pos_embed_max_size: int = 192

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "qk_norm" and (type(value) is not int or value < 1):
                raise ValueError(f"{name} = {value!r:.80}; it must be a whole number of at least 1")
        if self.dim % 4:
            raise ValueError(
                f"num_heads * head_dim = {self.dim}; it must be a multiple of 4, for sines and "
                "cosines of two coordinates"
            )

    @property
    def dim(self) -> int:
        """Channels of both streams."""
        return self.num_heads * self.head_dim


def position_embedding(dim: int, size: int, scale: float) -> Tensor:
    """Embed the positions in a square grid as sines and cosines, (1, size * size, dim).

    The first half of the channels embeds the column, the second half the row. In each half the
    sines come first, unlike in the time embedding. Neighbouring positions are `scale` apart.
    """
    cos, sin = sinusoidal_embedding(scale * torch.arange(size), dim // 2).chunk(2, dim=-1)
    axis = torch.cat([sin, cos], dim=-1)  # (size, dim/2)
    column, row = axis.expand(size, -1, -1), axis[:, None].expand(-1, size, -1)
    return torch.cat([column, row], dim=-1).flatten(0, 1)[None]


class PatchEmbed(nn.Module):
    """Turn patches into tokens and add their positions: (b, c, h, w) -> (b, h w / p², dim)."""

    def __init__(self, config: DiffusionTransformerConfig) -> None:
        super().__init__()
        p, self.size = config.patch_size, config.pos_embed_max_size
        # A convolution whose stride is the size of its kernel is one linear layer for each patch.
        self.proj = nn.Conv2d(config.in_channels, config.dim, p, stride=p)
        scale = config.sample_size // p / self.size
        self.pos_embed: Tensor  # not trained, but part of the published files
        self.register_buffer("pos_embed", position_embedding(config.dim, self.size, scale))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.proj(x)  # (b, dim, h/p, w/p)
        h, w = patches.shape[-2:]
        top, left = (self.size - h) // 2, (self.size - w) // 2
        grid = self.pos_embed.unflatten(1, (self.size, self.size))
        middle = grid[:, top : top + h, left : left + w].flatten(1, 2)
        return (patches.flatten(2).transpose(1, 2) + middle).to(patches.dtype)


class TimeTextEmbedding(nn.Module):
    """Timestep (b,) and pooled text embedding (b, pooled_dim) -> emb, (b, dim)."""

    def __init__(self, config: DiffusionTransformerConfig) -> None:
        super().__init__()
        self.timestep_embedder = TimeEmbedding(TIME_CHANNELS, config.dim)
        self.text_embedder = TimeEmbedding(config.pooled_dim, config.dim)  # the same two layers

    def forward(self, t: Tensor, pooled: Tensor) -> Tensor:
        time = sinusoidal_embedding(t, TIME_CHANNELS).to(pooled.dtype)
        return self.timestep_embedder(time) + self.text_embedder(pooled)


class Modulation(nn.Module):
    """adaLN-Zero: emb (b, dim) -> n shifts, scales or gates, each (b, 1, dim), initially zero."""

    def __init__(self, dim: int, n: int) -> None:
        super().__init__()
        self.n = n
        self.linear = zeroed(nn.Linear(dim, n * dim))

    def forward(self, emb: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(emb))[:, None].chunk(self.n, dim=-1)


def zeroed(layer: nn.Linear) -> nn.Linear:
    """Set a layer's weights and bias to zero. It still learns, because its input is not zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer normalisation whose scale and shift depend on emb: (b, n, dim) -> (b, n, dim)."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²)) · weight over the last axis (Zhang and Sennrich, arXiv:1910.07467)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        variance = x.float().square().mean(-1, keepdim=True)  # always in float32, as diffusers does
        return (x * torch.rsqrt(variance + 1e-6)).to(x.dtype) * self.weight


class JointAttention(nn.Module):
    """Attention over the tokens of both streams together, with separate projections for each.

    With context_pre_only, the text has no output projection, because its output is not used.
    """

    def __init__(self, config: DiffusionTransformerConfig, context_pre_only: bool) -> None:
        super().__init__()
        dim, self.heads = config.dim, config.num_heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.to_add_out = nn.Identity() if context_pre_only else nn.Linear(dim, dim)

        def norm() -> nn.Module:
            return RMSNorm(config.head_dim) if config.qk_norm else nn.Identity()

        self.norm_q, self.norm_k, self.norm_added_q, self.norm_added_k = (norm() for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        """Split the channels into heads: (b, n, heads * d) -> (b, heads, n, d)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Attend from all n + m tokens to all of them: (b, n, dim), (b, m, dim) -> the same."""
        q, k, v = (self.split(to(x)) for to in (self.to_q, self.to_k, self.to_v))
        add = self.add_q_proj, self.add_k_proj, self.add_v_proj
        c_q, c_k, c_v = (self.split(to(context)) for to in add)
        q = torch.cat([self.norm_q(q), self.norm_added_q(c_q)], dim=2)  # (b, heads, n + m, d)
        k = torch.cat([self.norm_k(k), self.norm_added_k(c_k)], dim=2)
        out = F.scaled_dot_product_attention(q, k, torch.cat([v, c_v], dim=2))
        out = out.transpose(1, 2).flatten(2)  # (b, n + m, dim)
        image, text = out.split([x.shape[1], context.shape[1]], dim=1)
        return self.to_out[0](image), self.to_add_out(text)


class FeedForward(nn.Module):
    """The MLP of a stream, with 4 * dim hidden channels: (b, n, dim) -> (b, n, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = OrderedDict(proj=nn.Linear(dim, 4 * dim), gelu=nn.GELU("tanh"))
        # Layer 1 of the published network is a dropout. The Identity in its place keeps index 2.
        self.net = nn.Sequential(nn.Sequential(hidden), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class JointBlock(nn.Module):
    """Joint attention, then an MLP for each stream, with residual connections.

    The last block has context_pre_only: it leaves the text alone, because no later block reads it.
    """

    def __init__(self, config: DiffusionTransformerConfig, context_pre_only: bool) -> None:
        super().__init__()
        self.context_pre_only = context_pre_only
        self.norm1 = Modulation(config.dim, 6)
        self.norm1_context = Modulation(config.dim, 2 if context_pre_only else 6)
        self.attn = JointAttention(config, context_pre_only)
        self.ff = FeedForward(config.dim)
        if not context_pre_only:
            self.ff_context = FeedForward(config.dim)

    def forward(self, x: Tensor, context: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """Image (b, n, dim), text (b, m, dim) and emb (b, dim) -> image and text, same shapes."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.norm1(emb)
        if self.context_pre_only:
            c_scale, c_shift = self.norm1_context(emb)  # in this order in the published files
        else:
            c_shift, c_scale, c_gate, c_mlp_shift, c_mlp_scale, c_mlp_gate = self.norm1_context(emb)
        out, c_out = self.attn(modulate(x, shift, scale), modulate(context, c_shift, c_scale))
        x = x + gate * out
        x = x + mlp_gate * self.ff(modulate(x, mlp_shift, mlp_scale))
        if not self.context_pre_only:
            context = context + c_gate * c_out
            hidden = modulate(context, c_mlp_shift, c_mlp_scale)
            context = context + c_mlp_gate * self.ff_context(hidden)
        return x, context


def unpatchify(patches: Tensor, p: int, h: int, w: int) -> Tensor:
    """Put patches of p x p back in their places: (b, h w / p², p p c) -> (b, c, h, w)."""
    patches = patches.unflatten(1, (h // p, w // p)).unflatten(-1, (p, p, -1))
    return patches.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, h, w)


class DiffusionTransformer(nn.Module):
    """The velocity network of Stable Diffusion 3: (x_t, 1000 t, text, pooled text) -> velocity."""

    def __init__(self, config: DiffusionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.pos_embed = PatchEmbed(config)
        self.time_text_embed = TimeTextEmbedding(config)
        self.context_embedder = nn.Linear(config.context_dim, config.dim)
        self.transformer_blocks = nn.ModuleList(
            JointBlock(config, context_pre_only=i == config.num_layers - 1)
            for i in range(config.num_layers)
        )
        self.norm_out = Modulation(config.dim, 2)
        self.proj_out = zeroed(nn.Linear(config.dim, config.in_channels * config.patch_size**2))

    def forward(self, x: Tensor, t: Tensor | float, context: Tensor, pooled: Tensor) -> Tensor:
        """Predict the velocity at x, in the shape of x.

        Args:
            x: The point x_t on the path, (b, in_channels, h, w), not scaled to unit variance.
            t: Timestep, 1000 times the time in 0 … 1: a number or a tensor, () or (b,).
            context: Text embeddings, (b, m, context_dim), for any m.
            pooled: Pooled text embedding, (b, pooled_dim).

        Raises:
            ValueError: If h or w is not a multiple of the patch size, or is too large.
        """
        (h, w), p = x.shape[-2:], self.config.patch_size
        most = p * self.config.pos_embed_max_size
        if h % p or w % p or max(h, w) > most:
            raise ValueError(
                f"x has the shape {tuple(x.shape)}; its height and width must be multiples of {p}, "
                f"the patch size, and at most {most}"
            )
        t = torch.as_tensor(t, device=x.device).expand(len(x))
        emb = self.time_text_embed(t, pooled)
        tokens, context = self.pos_embed(x), self.context_embedder(context)
        for block in self.transformer_blocks:
            tokens, context = block(tokens, context, emb)
        scale, shift = self.norm_out(emb)
        return unpatchify(self.proj_out(modulate(tokens, shift, scale)), p, h, w)

    @classmethod
    def from_pretrained(cls, source: str | Path, dtype: torch.dtype = torch.float32) -> Self:
        """Read a transformer on the CPU. `source` is a published model's folder "transformer".

        Raises FileNotFoundError or ValueError if it cannot be read.
        """
        from sdlearn.weights.transformer_files import load_transformer

        return load_transformer(cls, source, dtype)

    @classmethod
    def storybook(cls) -> Self:
        """Read the storybook's transformer; `StableDiffusion.storybook()` has the other parts."""
        from sdlearn.weights.storybook_models import read_storybook_transformer

        return read_storybook_transformer(cls)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write the transformer as a published folder; dtype None keeps the network's own."""
        from sdlearn.weights.transformer_files import save_transformer

        save_transformer(self, folder, dtype)
