"""The U-Net: (z_t, t, text) -> the noise (or velocity) in z_t, in the shape of z_t.

Down through the levels, each a row of ResBlocks that are told the time, with a SpatialTransformer
after each where the level looks at the text; through the middle; and up again, where every
ResBlock also receives one of the feature maps kept on the way down (Ho et al., arXiv:2006.11239,
with the attention of Rombach et al., arXiv:2112.10752). One class holds SD 1, SD 2, SDXL and the
storybook model; they differ in `UNetConfig` only. Modules carry the names of the published files.
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
    """The U-Net of SD 1.4 and 1.5. Tuples have one entry per level, the largest size first.

    cross_attention: where it is False, a level has no transformers at all, so that its positions do
    not look at each other either. The middle always has one, with the last level's heads and depth.
    """

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    cross_attention: tuple[bool, ...] = (True, True, True, False)
    transformer_depth: tuple[int, ...] = (1, 1, 1, 1)
    num_heads: tuple[int, ...] = (8, 8, 8, 8)  # how many, not how wide
    cross_attention_dim: int = 768
    use_linear_projection: bool = False  # how the files hold proj_in and proj_out
    added_dim: int | None = None  # SDXL: 2816 = pooled text 1280 + 6 sizes * 256
    added_time_dim: int | None = None  # SDXL: 256 channels for each size
    norm_num_groups: int = 32
    upcast_attention: bool = False
    sample_size: int = 64  # side of the latents it was trained on

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
                    f"and {self.norm_num_groups} groups; give multiples of both"
                )


class ResBlock(nn.Module):
    """Two 3x3 convolutions added to their input; between them the time is added per channel."""

    def __init__(self, c_in: int, c_out: int, time_dim: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=1e-5)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, c_out)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=1e-5)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        # Published files hold a shortcut only where the widths differ; an Identity has no weights.
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x (b, c_in, h, w), emb (b, time_dim) -> (b, c_out, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(F.silu(emb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return h + self.conv_shortcut(x)


class Downsample(nn.Module):
    """Halves height and width with a convolution, padded on all sides (unlike the VAE's)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Repeats positions up to the given size, then smooths with a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        return self.conv(F.interpolate(x, size=size, mode="nearest"))


class Level(nn.Module):
    """What down, mid and up blocks share: ResBlocks, the first of them with a SpatialTransformer
    after it.

    i: the level. widths_in: the input width of each ResBlock. attentions: how many ResBlocks have
    a transformer: all of them, none, or in the middle one of two.
    """

    def __init__(
        self, config: UNetConfig, i: int, widths_in: Sequence[int], attentions: int
    ) -> None:
        super().__init__()
        c = config.block_out_channels[i]
        self.resnets = nn.ModuleList(
            ResBlock(c_in, c, time_dim(config), config.norm_num_groups) for c_in in widths_in
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
        h = self.resnets[n](h, emb)
        return self.attentions[n](h, context) if n < len(self.attentions) else h


class DownBlock(Level):
    """One level on the way down; returns every feature map that the way up will want."""

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


class MidBlock(Level):
    """ResBlock, SpatialTransformer, ResBlock at the smallest size, whatever the last level does."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config, -1, [config.block_out_channels[-1]] * 2, attentions=1)

    def forward(self, h: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        return self.layer(1, self.layer(0, h, emb, context), emb, context)


class UpBlock(Level):
    """One level on the way up: one ResBlock more than on the way down, each fed with a skip.

    skip_widths: of the skips that are left, first kept first; its own are the last of them.
    """

    def __init__(self, config: UNetConfig, i: int, c_in: int, skip_widths: Sequence[int]) -> None:
        c = config.block_out_channels[i]
        widths = [c_in] + [c] * config.layers_per_block
        pairs = zip(widths, reversed(skip_widths), strict=False)
        widths_in = [width + skip_width for width, skip_width in pairs]
        super().__init__(config, i, widths_in, len(widths) if config.cross_attention[i] else 0)
        self.upsamplers = nn.ModuleList([] if i == 0 else [Upsample(c)])

    def forward(self, h: Tensor, skips: Sequence[Tensor], emb: Tensor, context: Tensor) -> Tensor:
        """h (b, c_in, h, w) -> (b, c, 2h, 2w), on the largest level (b, c, h, w).

        skips: those that are left, first kept first. The last len(resnets) of them are its own;
        the one before has the size to grow to, which is not 2h x 2w where the halves were uneven.
        """
        own = len(self.resnets)
        for n, skip in zip(range(own), reversed(skips), strict=False):
            h = self.layer(n, torch.cat([h, skip], dim=1), emb, context)
        for upsample in self.upsamplers:
            h = upsample(h, skips[-own - 1].shape[-2:])
        return h


def time_dim(config: UNetConfig) -> int:
    """Width of the time embedding inside the network."""
    return 4 * config.block_out_channels[0]


def skip_widths(config: UNetConfig) -> list[int]:
    """Widths of the feature maps that `UNetEncoder.encode` keeps, in the same order."""
    widths = config.block_out_channels
    kept = [widths[0]]
    for i, c in enumerate(widths):
        kept += [c] * (config.layers_per_block + (i < len(widths) - 1))
    return kept


class UNetEncoder(nn.Module):
    """The way down and the middle: what a U-Net and a ControlNet have in common."""

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
        """The vector that every ResBlock hears: the time, and for SDXL what is `added`.

        z gives batch size, device and type. Returns (b, 4 * block_out_channels[0]).
        """
        t = torch.as_tensor(t, device=z.device).expand(z.shape[0])
        emb = self.time_embedding(
            sinusoidal_embedding(t, self.config.block_out_channels[0]).to(z.dtype)
        )
        if self.config.added_dim is None:
            return emb
        if added is None or self.config.added_time_dim is None:
            raise ValueError(
                f"this {type(self).__name__} needs added = (pooled text, sizes) besides the "
                "context, and added_time_dim in its UNetConfig"
            )
        pooled, sizes = added
        vector = size_embedding(pooled, sizes, self.config.added_time_dim)
        return emb + self.add_embedding(vector.to(z.dtype))

    def encode(self, h: Tensor, emb: Tensor, context: Tensor) -> tuple[list[Tensor], Tensor]:
        """h (b, c, h, w) from conv_in -> the skips, largest first, and the middle's output."""
        skips = [h]
        for block in self.down_blocks:
            skips += block(skips[-1], emb, context)
        return skips, self.mid_block(skips[-1], emb, context)


class UNet(UNetEncoder):
    """The denoising network."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        widths = config.block_out_channels
        kept, per_level = skip_widths(config), config.layers_per_block + 1
        self.up_blocks = nn.ModuleList(
            UpBlock(config, i, widths[min(i + 1, len(widths) - 1)], kept[: (i + 1) * per_level])
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
        """The network's estimate, (b, out_channels, h, w).

        z: (b, in_channels, h, w), the latent of unit variance first. t: in 0 .. 999, may be
        fractional, a number or a tensor () or (b,). context: text states (b, n,
        cross_attention_dim). added: SDXL's pooled text (b, d) and sizes in pixels (b, 6).
        residuals: from a ControlNet, one tensor for each skip and one for the middle. Raises
        ValueError where `added` is missing.
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


def start_at_zero(unet: UNet) -> None:
    """Silence every residual branch and the output before training, as for Stable Diffusion: at
    first each block passes its input on, and the estimate is zero noise."""
    last: list[nn.Module] = [unet.conv_out]
    last += [m.conv2 for m in unet.modules() if isinstance(m, ResBlock)]
    last += [m.proj_out for m in unet.modules() if isinstance(m, SpatialTransformer)]
    for layer in last:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
