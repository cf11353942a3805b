"""The autoencoder: images (b, 3, h, w) in [-1, 1] <-> latents (b, 4, h/8, w/8).

The architecture is the KL autoencoder of latent diffusion (Rombach et al., arXiv:2112.10752,
appendix E.1) as published with Stable Diffusion. Modules have the names used in the published
files. `sdlearn.vae_losses` has the losses that train it.

Three details are easy to get wrong, and each mistake breaks the published weights: every GroupNorm
uses eps 1e-6, the encoder pads only on the right and at the bottom before its stride-2
convolutions, and the decoder has one more ResBlock per level than the encoder.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class VAEConfig:
    """The configuration of an autoencoder; the defaults are those of SD 1 and 2.

    SDXL has the scaling_factor 0.13025, and activations too large for half precision.

    Attributes:
        in_channels, out_channels: Channels of the images.
        latent_channels: Channels of the latents.
        block_out_channels: Channels of each level, the highest resolution first.
        layers_per_block: ResBlocks per level in the encoder; one more in the decoder.
        norm_num_groups: Groups of every GroupNorm.
        scaling_factor: 1 / standard deviation of the latents of the training images.
        force_upcast: Keep the autoencoder in float32 where the rest of a system is in half
            precision.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215
    force_upcast: bool = False


# ------------------------------------------------------------------------------ building blocks


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """A GroupNorm with the autoencoder's eps."""
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection: (b, c_in, h, w) -> (b, c_out, h, w)."""

    def __init__(self, c_in: int, c_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = group_norm(c_in, groups)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = group_norm(c_out, groups)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        # The files have a shortcut only if the channels differ; an Identity has no weights.
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + self.conv_shortcut(x)


class Downsample(nn.Module):
    """Halves height and width, with one row of zeros at the bottom and one column on the right.

    With zeros on all sides, the receptive field of each position would move up and left by one
    pixel of its level: by 1 + 2 + 4 = 7 pixels of the image after three levels. The published
    weights do not expect that.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by a factor of 2, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class SpatialSelfAttention(nn.Module):
    """Self-attention over all positions: one head of all channels, with biases."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = group_norm(channels, groups)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # (b, c, h, w) -> (b, h*w, c)
        q, k, v = (to(tokens).unsqueeze(1) for to in (self.to_q, self.to_k, self.to_v))
        out = F.scaled_dot_product_attention(q, k, v).squeeze(1)  # (b, 1, h*w, c) -> (b, h*w, c)
        return x + self.to_out[0](out).transpose(1, 2).reshape(b, c, h, w)


class MidBlock(nn.Module):
    """ResBlock, attention, ResBlock at the lowest resolution, in both encoder and decoder."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(channels, channels, groups) for _ in range(2))
        self.attentions = nn.ModuleList([SpatialSelfAttention(channels, groups)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class DownBlock(nn.Module):
    """One level of the encoder: `layers` ResBlocks, then half the size if `down`."""

    def __init__(self, c_in: int, c_out: int, layers: int, groups: int, down: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResBlock(c_in if i == 0 else c_out, c_out, groups) for i in range(layers)
        )
        self.downsamplers = nn.ModuleList([Downsample(c_out)] if down else [])

    def forward(self, x: Tensor) -> Tensor:
        for block in (*self.resnets, *self.downsamplers):
            x = block(x)
        return x


class UpBlock(nn.Module):
    """One level of the decoder: `layers` ResBlocks, then twice the size if `up`."""

    def __init__(self, c_in: int, c_out: int, layers: int, groups: int, up: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResBlock(c_in if i == 0 else c_out, c_out, groups) for i in range(layers)
        )
        self.upsamplers = nn.ModuleList([Upsample(c_out)] if up else [])

    def forward(self, x: Tensor) -> Tensor:
        for block in (*self.resnets, *self.upsamplers):
            x = block(x)
        return x


class Encoder(nn.Module):
    """(b, 3, h, w) -> (b, 2 * latent_channels, h/f, w/f): means, then log-variances."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(c_in, c_out, config.layers_per_block, groups, down=i < len(widths) - 1)
            for i, (c_in, c_out) in enumerate(zip((widths[0], *widths[:-1]), widths, strict=True))
        )
        self.mid_block = MidBlock(widths[-1], groups)
        self.conv_norm_out = group_norm(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for block in self.down_blocks:
            h = block(h)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(h))))


class Decoder(nn.Module):
    """(b, latent_channels, h/f, w/f) -> (b, 3, h, w), with the encoder's levels in reverse."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups)
        self.up_blocks = nn.ModuleList(
            UpBlock(c_in, c_out, config.layers_per_block + 1, groups, up=i < len(widths) - 1)
            for i, (c_in, c_out) in enumerate(zip((widths[0], *widths[:-1]), widths, strict=True))
        )
        self.conv_norm_out = group_norm(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            h = block(h)
        return self.conv_out(F.silu(self.conv_norm_out(h)))


class VAE(nn.Module):
    """Variational autoencoder with a downsampling factor f, 8 for Stable Diffusion.

    `encode` and `decode` use unscaled latents, as the autoencoder was trained. `to_latent` and
    `to_image` use the scaled latents of the diffusion model.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        c = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * c, 2 * c, 1)
        self.post_quant_conv = nn.Conv2d(c, c, 1)

    @property
    def factor(self) -> int:
        """The downsampling factor f: pixels per latent position in height and width."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.quant_conv.weight.dtype

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior N(mean, exp(logvar)) of an image.

        Args:
            x: (b, 3, h, w) in [-1, 1].

        Returns:
            Mean and log-variance, each (b, latent_channels, h/f, w/f); the log-variance is clamped
            to [-30, 20].

        Raises:
            ValueError: If h or w is not a multiple of f.
        """
        h, w = x.shape[-2:]
        if h % self.factor or w % self.factor:
            raise ValueError(
                f"the image has {h} x {w} pixels (height x width); both must be multiples of "
                f"{self.factor}, the autoencoder's factor"
            )
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def decode(self, z: Tensor) -> Tensor:
        """Unscaled latent (b, latent_channels, h/f, w/f) -> image (b, 3, h, w), not clamped."""
        # Convolutions are faster if the channels of a position are adjacent in memory.
        z = z.contiguous(memory_format=torch.channels_last)
        return self.decoder(self.post_quant_conv(z))

    def to_latent(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Image -> z_0 of about unit variance: (mean + std * noise) * scaling_factor.

        Args:
            x: (b, 3, h, w) in [-1, 1].
            noise: Standard normal, (b, latent_channels, h/f, w/f), to sample the posterior; None
                for its mean.
        """
        mean, logvar = self.encode(x)
        z = mean if noise is None else mean + torch.exp(0.5 * logvar) * noise
        return z * self.config.scaling_factor

    def to_image(self, z: Tensor) -> Tensor:
        """Scaled latent z_0 (b, latent_channels, h/f, w/f) -> image (b, 3, h, w) in [-1, 1]."""
        return self.decode(z / self.config.scaling_factor).clamp(-1.0, 1.0)
