"""The autoencoder: pictures (b, 3, h, w) in [-1, 1] <-> latents (b, 4, h/8, w/8).

The architecture is the KL autoencoder of latent diffusion (Rombach et al., arXiv:2112.10752,
appendix E.1) as published with Stable Diffusion; modules carry the names of the published weight
files. The second half of the file holds the losses that train it: reconstruction is pulled towards
what people see by a perceptual loss and a patch discriminator, the latents are kept in place by
a very small KL term.

Three details differ from what one would write by habit, and each breaks published weights:
every GroupNorm uses eps 1e-6, the encoder pads on the right and at the bottom only before its
stride-2 convolutions, and the decoder has one ResBlock more per level than the encoder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class VAEConfig:
    """The published autoencoder of SD 1 and 2; SDXL has another scaling_factor, 0.13025, and
    activations too large for half precision."""

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215  # 1 / std of the latents over the training pictures
    force_upcast: bool = False  # keep it in float32 where the rest of a system is in half precision


# ------------------------------------------------------------------------------ building blocks


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResBlock(nn.Module):
    """Two times GroupNorm, SiLU, 3x3 convolution, added to the input: (b, c_in, h, w) -> c_out."""

    def __init__(self, c_in: int, c_out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = group_norm(c_in, groups)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = group_norm(c_out, groups)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        # Published files hold a shortcut only where the widths differ; an Identity has no weights.
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + self.conv_shortcut(x)


class Downsample(nn.Module):
    """Halves height and width. One row and column of zeros at the bottom and right, none elsewhere.

    With zeros on all sides each position would look one pixel of its level further up and left: by
    1 + 2 + 4 = 7 pixels of the picture after three levels, which the published weights do not
    expect.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles height and width by repeating pixels, then smooths with a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class PixelAttention(nn.Module):
    """One head of self-attention over all positions, as wide as the channels, with biases."""

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
        seen = F.scaled_dot_product_attention(q, k, v).squeeze(1)  # (b, 1, h*w, c) -> (b, h*w, c)
        return x + self.to_out[0](seen).transpose(1, 2).reshape(b, c, h, w)


class MidBlock(nn.Module):
    """ResBlock, attention, ResBlock at the smallest size, in the encoder and in the decoder."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(channels, channels, groups) for _ in range(2))
        self.attentions = nn.ModuleList([PixelAttention(channels, groups)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class DownBlock(nn.Module):
    """One level of the encoder: `layers` ResBlocks, then half the size unless it is the last."""

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
    """One level of the decoder: `layers` ResBlocks, then twice the size unless it is the last."""

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
    """(b, 3, h, w) -> (b, 2 * latent_channels, h/f, w/f): means and log-variances, stacked."""

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
    """(b, latent_channels, h/f, w/f) -> (b, 3, h, w), the encoder's levels in reverse."""

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


# ------------------------------------------------------------------------------ the autoencoder


class VAE(nn.Module):
    """Variational autoencoder: `encode` and `decode` are unscaled, as the network was trained;
    `to_latent` and `to_image` add the scaling that the diffusion model expects."""

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
        """How many pixels one latent position spans in each direction: 8 for four levels."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    @property
    def dtype(self) -> torch.dtype:
        return self.quant_conv.weight.dtype

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior N(mean, exp(logvar)) of a picture.

        x: (b, 3, h, w) in [-1, 1]. Returns mean and logvar, each (b, latent_channels, h/f, w/f),
        logvar clamped to [-30, 20]. Raises ValueError where h or w is not a multiple of f.
        """
        h, w = x.shape[-2:]
        if h % self.factor or w % self.factor:
            raise ValueError(
                f"picture of {h} x {w} pixels (height x width): the autoencoder needs both to be "
                f"multiples of {self.factor}"
            )
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def decode(self, z: Tensor) -> Tensor:
        """Unscaled latent (b, latent_channels, h/f, w/f) -> picture (b, 3, h, w), unclamped."""
        # With the channels of a position side by side in memory, convolutions are faster.
        z = z.contiguous(memory_format=torch.channels_last)
        return self.decoder(self.post_quant_conv(z))

    def to_latent(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Picture -> z_0 with about unit variance: (mean + std * noise) * scaling_factor.

        noise: standard normal in the shape of the latent for a sample of the posterior; None for
        its mean.
        """
        mean, logvar = self.encode(x)
        z = mean if noise is None else mean + torch.exp(0.5 * logvar) * noise
        return z * self.config.scaling_factor

    def to_image(self, z: Tensor) -> Tensor:
        """z_0 (b, latent_channels, h/f, w/f) as diffusion leaves it -> picture in [-1, 1]."""
        return self.decode(z / self.config.scaling_factor).clamp(-1.0, 1.0)


# ------------------------------------------------------------------------- the losses to train it


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats: summed over a latent, averaged over the batch.

    Stable Diffusion weighs it 1e-6, which bounds the latents without making them normal: hence
    the scaling factor.
    """
    return 0.5 * (mean**2 + logvar.exp() - 1.0 - logvar).flatten(1).sum(1).mean()


class PerceptualLoss(nn.Module):
    """Distance between what a trained network sees in two pictures (LPIPS, arXiv:1801.03924).

    features: maps (b, 3, h, w) to a list of stages (b, c_i, h_i, w_i), gradients flowing through.
    weights: one factor per stage; they stand for LPIPS's learned per-channel weights.
    """

    def __init__(
        self, features: Callable[[Tensor], Sequence[Tensor]], weights: Sequence[float]
    ) -> None:
        super().__init__()
        self.features = features
        self.weights = tuple(weights)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Scalar, averaged over the batch. Gradients reach x; target is a constant."""
        with torch.no_grad():
            wanted = self.features(target)
        loss = x.new_zeros(())
        for weight, a, b in zip(self.weights, self.features(x), wanted, strict=True):
            # Unit length per position: the direction in feature space counts, not the contrast.
            a, b = (f / (f.square().sum(1, keepdim=True) + 1e-10).sqrt() for f in (a, b))
            loss = loss + weight * (a - b).square().sum(1).mean()
        return loss


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches as real or reconstructed (PatchGAN, arXiv:1611.07004).

    (b, 3, h, w) -> logits (b, 1, h', w'), one per patch; `depth` stride-2 convolutions of 4x4, then
    two of stride 1. GroupNorm takes the place of the published BatchNorm: no running statistics,
    so real and reconstructed batches do not leak into each other and a resumed run is exact.
    """

    def __init__(self, in_channels: int = 3, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        c = width
        for i in range(1, depth + 1):
            c_in, c = c, width * min(2**i, 8)
            stride = 2 if i < depth else 1
            layers += [
                nn.Conv2d(c_in, c, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(8, c),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(c, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Hinge loss: real patches should score above 1, reconstructed ones below -1."""
    return 0.5 * (F.relu(1.0 - real_logits).mean() + F.relu(1.0 + fake_logits).mean())


def generator_loss(fake_logits: Tensor) -> Tensor:
    """What the autoencoder minimises against the discriminator."""
    return -fake_logits.mean()


def adversarial_weight(reconstruction: Tensor, adversarial: Tensor, last_weight: Tensor) -> Tensor:
    """The factor that gives the adversarial loss a gradient as large as the reconstruction's at
    the decoder's last weight (VQGAN, arXiv:2012.09841, eq. 7), at most 1e4, without gradient.

    Both losses must still have their graph: call it before backward().
    """
    (wanted,) = torch.autograd.grad(reconstruction, last_weight, retain_graph=True)
    (given,) = torch.autograd.grad(adversarial, last_weight, retain_graph=True)
    return (wanted.norm() / (given.norm() + 1e-4)).clamp(0.0, 1e4)
