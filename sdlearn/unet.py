"""The U-Net predicts the noise (or the velocity) in z_t from z_t, the timestep and the text.

Its ResBlocks are conditioned on the timestep. Levels with cross-attention have a SpatialTransformer
after each ResBlock. In the upsampling path each ResBlock also receives a feature map of the
downsampling path, over a skip connection (Ho et al., arXiv:2006.11239, with the attention of
Rombach et al., arXiv:2112.10752). SD 1, SD 2, SDXL and the storybook model differ in `UNetConfig`
only. Modules have the names used in the published files. In the code h is a feature map
(b, c, h, w), emb the time embedding (b, time_dim), context the text (b, n, cross_attention_dim).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlearn.attention import SpatialTransformer
from sdlearn.embeddings import TimeEmbedding, sinusoidal_embedding, size_embedding


@dataclass(frozen=True)
class UNetConfig:
    """The configuration of a U-Net, by default SD 1.5's; tuples start at the highest resolution.

    Attributes:
        layers_per_block: ResBlocks per level; the upsampling path has one more.
        cross_attention: Whether a level has transformers. Without them it has no self-attention
            either. The middle block always has one, with the last level's heads and depth.
        num_heads: Number of attention heads, not their width.
        use_linear_projection: Whether the files store proj_in and proj_out as linear layers.
        added_dim: SDXL: 2816 channels = 1280 for the pooled text + 6 sizes * added_time_dim.
        sample_size: Height and width of the latents it was trained on.

    Raises:
        ValueError: If tuples differ in length, or channels do not divide into heads and groups.
    """

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    cross_attention: tuple[bool, ...] = (True, True, True, False)
    transformer_depth: tuple[int, ...] = (1, 1, 1, 1)
    num_heads: tuple[int, ...] = (8, 8, 8, 8)
    cross_attention_dim: int = 768
    use_linear_projection: bool = False
    added_dim: int | None = None
    added_time_dim: int | None = None
    norm_num_groups: int = 32
    upcast_attention: bool = False
    sample_size: int = 64

    def __post_init__(self) -> None:
        levels = len(self.block_out_channels)
        for name in ("cross_attention", "transformer_depth", "num_heads"):
            if len(getattr(self, name)) != levels:
                raise ValueError(
                    f"UNetConfig: {name} has {len(getattr(self, name))} entries but there are "
                    f"{levels} levels in block_out_channels; give one entry per level"
                )
        for c, heads in zip(self.block_out_channels, self.num_heads, strict=True):
            if c % heads or c % self.norm_num_groups:
                raise ValueError(
                    f"UNetConfig: a level of {c} channels cannot be divided into {heads} heads "
                    f"and {self.norm_num_groups} groups; it must be a multiple of both"
                )


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection; the time embedding is added in between."""

    def __init__(self, c_in: int, c_out: int, time_dim: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=1e-5)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, c_out)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=1e-5)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        # The files have a shortcut only if the channels differ; an Identity has no weights.
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Map x (b, c_in, h, w) and emb (b, time_dim) to (b, c_out, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(F.silu(emb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + self.conv_shortcut(x)


class Downsample(nn.Module):
    """Halves height and width with a convolution, padded on all sides (unlike in the VAE)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling to the given size, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class StageBase(nn.Module):
    """ResBlocks at level i, the first few followed by a SpatialTransformer.

    Args:
        in_channels: Input channels of each ResBlock.
        attentions: How many ResBlocks have a transformer: all, none, or in the middle one of two.
    """

    def __init__(
        self, config: UNetConfig, i: int, in_channels: Sequence[int], attentions: int
    ) -> None:
        super().__init__()
        c = config.block_out_channels[i]
        self.resnets = nn.ModuleList(
            ResBlock(c_in, c, time_dim(config), config.norm_num_groups) for c_in in in_channels
        )
        self.attentions = nn.ModuleList(
            SpatialTransformer(
                c,
                config.num_heads[i],
                config.cross_attention_dim,
                config.transformer_depth[i],
                config.norm_num_groups,
                config.upcast_attention,
            )
            for _ in range(attentions)
        )

    def layer(self, n: int, h: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        """ResBlock n and its transformer, if it has one: h (b, c_in, h, w) -> (b, c, h, w)."""
        h = self.resnets[n](h, emb)
        return self.attentions[n](h, context) if n < len(self.attentions) else h


class DownBlock(StageBase):
    """One level of the downsampling path; returns the feature maps for the skip connections."""

    def __init__(self, config: UNetConfig, i: int, c_in: int) -> None:
        c, layers = config.block_out_channels[i], config.layers_per_block
        attentions = layers if config.cross_attention[i] else 0
        super().__init__(config, i, [c_in] + [c] * (layers - 1), attentions)
        last = i == len(config.block_out_channels) - 1
        self.downsamplers = nn.ModuleList([] if last else [Downsample(c)])

    def forward(self, h: Tensor, emb: Tensor, context: Tensor) -> list[Tensor]:
        skips = []
        for n in range(len(self.resnets)):
            h = self.layer(n, h, emb, context)
            skips.append(h)
        return skips + [downsample(h) for downsample in self.downsamplers]


class MidBlock(StageBase):
    """ResBlock, SpatialTransformer, ResBlock at the lowest resolution."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config, -1, [config.block_out_channels[-1]] * 2, attentions=1)

    def forward(self, h: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        return self.layer(1, self.layer(0, h, emb, context), emb, context)


class UpBlock(StageBase):
    """One level of the upsampling path: layers_per_block + 1 ResBlocks, one per skip connection.

    skip_channels are those of the skip connections up to this level, in the order of the
    downsampling path; this level takes the last of them.
    """

    def __init__(self, config: UNetConfig, i: int, c_in: int, skip_channels: Sequence[int]) -> None:
        c = config.block_out_channels[i]
        widths = [c_in] + [c] * config.layers_per_block
        pairs = zip(widths, reversed(skip_channels), strict=False)
        in_channels = [width + skip for width, skip in pairs]
        super().__init__(config, i, in_channels, len(widths) if config.cross_attention[i] else 0)
        self.upsamplers = nn.ModuleList([] if i == 0 else [Upsample(c)])

    def forward(self, h: Tensor, skips: Sequence[Tensor], emb: Tensor, context: Tensor) -> Tensor:
        """Feature map h (b, c_in, h, w) -> (b, c, 2h, 2w), or (b, c, h, w) on level 0.

        Of the skips up to this level, the last len(resnets) belong to it. The one before them has
        the size to upsample to, which is not 2h x 2w where downsampling rounded up.
        """
        num_skips = len(self.resnets)
        for n, skip in zip(range(num_skips), reversed(skips), strict=False):
            h = self.layer(n, torch.cat([h, skip], dim=1), emb, context)
        for upsample in self.upsamplers:
            h = upsample(h, skips[-num_skips - 1].shape[-2:])
        return h


def time_dim(config: UNetConfig) -> int:
    """Channels of the time embedding."""
    return 4 * config.block_out_channels[0]


def skip_widths(config: UNetConfig) -> list[int]:
    """Channels of the skip connections that `UNetEncoder.encode` returns, in the same order."""
    widths = config.block_out_channels
    skips = [widths[0]]
    for i, c in enumerate(widths):
        skips += [c] * (config.layers_per_block + (i < len(widths) - 1))
    return skips


class UNetEncoder(nn.Module):
    """Downsampling path and middle block, which a U-Net and a ControlNet have in common."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], time_dim(config))
        if config.added_dim is not None:
            self.add_embedding = TimeEmbedding(config.added_dim, time_dim(config))
        self.down_blocks = nn.ModuleList(
            DownBlock(config, i, widths[max(i - 1, 0)]) for i in range(len(widths))
        )
        self.mid_block = MidBlock(config)

    def embed(self, z: Tensor, t: Tensor | float, added: tuple[Tensor, Tensor] | None) -> Tensor:
        """The time embedding (b, time_dim), which for SDXL includes `added`; see `UNet.forward`."""
        t = torch.as_tensor(t, device=z.device).expand(z.shape[0])
        emb = self.time_embedding(
            sinusoidal_embedding(t, self.config.block_out_channels[0]).to(z.dtype)
        )
        if self.config.added_dim is None:
            return emb
        if added is None or self.config.added_time_dim is None:
            raise ValueError(
                f"this {type(self).__name__} needs added = (pooled text, sizes) as well as the "
                "context, and added_time_dim in its UNetConfig"
            )
        pooled, sizes = added
        vector = size_embedding(pooled, sizes, self.config.added_time_dim)
        return emb + self.add_embedding(vector.to(z.dtype))

    def encode(self, h: Tensor, emb: Tensor, context: Tensor) -> tuple[list[Tensor], Tensor]:
        """The skip connections, in order, and the middle block's output, for h from conv_in."""
        skips = [h]
        for block in self.down_blocks:
            skips += block(skips[-1], emb, context)
        return skips, self.mid_block(skips[-1], emb, context)


class UNet(UNetEncoder):
    """The denoising network: (z_t, t, text) -> noise or velocity."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        widths = config.block_out_channels
        skips, per_level = skip_widths(config), config.layers_per_block + 1
        self.up_blocks = nn.ModuleList(
            UpBlock(config, i, widths[min(i + 1, len(widths) - 1)], skips[: (i + 1) * per_level])
            for i in reversed(range(len(widths)))
        )
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], eps=1e-5)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(
        self,
        z: Tensor,
        t: Tensor | float,
        context: Tensor,
        added: tuple[Tensor, Tensor] | None = None,
        residuals: tuple[Sequence[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Predict the noise or the velocity in z.

        Args:
            z: Latent of about unit variance, (b, in_channels, h, w); an inpainting model's extra
                channels come after it.
            t: Timestep in 0 … 999, may be fractional; a number or a tensor () or (b,).
            context: Text embeddings, (b, n, cross_attention_dim).
            added: SDXL's pooled text (b, d) and sizes in pixels (b, 6).
            residuals: A ControlNet's, one for each skip connection and one for the middle block.

        Returns:
            (b, out_channels, h, w).

        Raises:
            ValueError: For SDXL, if `added` is missing.
        """
        emb = self.embed(z, t, added)
        skips, h = self.encode(self.conv_in(z), emb, context)
        if residuals is not None:
            down, mid = residuals
            skips = [skip + extra for skip, extra in zip(skips, down, strict=True)]
            h = h + mid
        for block in self.up_blocks:
            h = block(h, skips, emb, context)
            skips = skips[: -(self.config.layers_per_block + 1)]
        return self.conv_out(F.silu(self.conv_norm_out(h)))


def zero_init_residuals(unet: UNet) -> None:
    """Set the last layer of every residual branch, and the output layer, to zero before training.

    Each block is then the identity at first and the prediction is zero, as for Stable Diffusion.
    """
    last_layers: list[nn.Module] = [unet.conv_out]
    last_layers += [m.conv2 for m in unet.modules() if isinstance(m, ResBlock)]
    last_layers += [m.proj_out for m in unet.modules() if isinstance(m, SpatialTransformer)]
    for layer in last_layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
