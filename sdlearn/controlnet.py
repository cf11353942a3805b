"""ControlNet: an image of edges, depth or a pose (the hint) controls a frozen U-Net.

A ControlNet is a trainable copy of the U-Net's downsampling path and middle block that also
receives the hint. Its outputs go through zero convolutions, 1x1 convolutions that start at zero,
and are added to the U-Net's skip connections and to the output of its middle block. At first the
U-Net's output is unchanged; training teaches the ControlNet what to add (Zhang et al.,
arXiv:2302.05543). Modules have the names used in the published files.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlearn.unet import UNet, UNetConfig, UNetEncoder, skip_widths

if TYPE_CHECKING:
    from sdlearn.versions import ModelSpec

# A ControlNet's outputs: one tensor for each skip connection, the highest resolution first, and one
# for the middle block.
Residuals = tuple[list[Tensor], Tensor]


def zero_init(conv: nn.Conv2d) -> nn.Conv2d:
    """Set the weights and the bias of a convolution to zero, in place, and return it.

    It can still learn: the gradient of its weights is the gradient of its output times its input.
    Only the layers before it get no gradient until the weights have moved.
    """
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class HintEncoder(nn.Module):
    """Convolutions that encode the hint in the shape of the output of the U-Net's conv_in.

    Args:
        channels: Channels of the layers. Each entry after the first halves height and width; the
            published 16, 32, 96, 256 do so three times, like the autoencoder.
        width: Output channels.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for c_in, c_out in pairwise(channels):
            self.blocks.append(nn.Conv2d(c_in, c_in, 3, padding=1))
            self.blocks.append(nn.Conv2d(c_in, c_out, 3, stride=2, padding=1))
        self.conv_out = zero_init(nn.Conv2d(channels[-1], width, 3, padding=1))

    def forward(self, hint: Tensor) -> Tensor:
        """(b, 3, 8h, 8w) in [0, 1] -> (b, width, h, w)."""
        h = F.silu(self.conv_in(hint))
        for conv in self.blocks:
            h = F.silu(conv(h))
        return self.conv_out(h)


def keep_signal(encoder: HintEncoder) -> HintEncoder:
    """Initialise a hint encoder, in place, so that its layers preserve the hint's variance.

    With weights of standard deviation 1.7 / sqrt(fan-in), a signal that goes through SiLU and a
    convolution keeps its standard deviation. With PyTorch's default, a third of that, the hint
    reaches the last layer more than a hundred times weaker, and training has to amplify it first.
    The zero convolution at the end stays zero.

    Returns:
        The same encoder.
    """
    for conv in (encoder.conv_in, *encoder.blocks):
        assert isinstance(conv, nn.Conv2d)
        nn.init.normal_(conv.weight, std=1.7 / conv.weight[0].numel() ** 0.5)
        nn.init.zeros_(conv.get_parameter("bias"))
    return encoder


class ControlNet(UNetEncoder):
    """A copy of a U-Net's downsampling path and middle block, a hint encoder, zero convolutions.

    Args:
        config: Configuration of the controlled U-Net. A ControlNet receives z only, without the
            extra channels of an inpainting U-Net.
        hint_channels: See HintEncoder.
        global_pool: Average each residual over height and width, so that the hint controls
            the style but not the layout, as in the published shuffle model.
    """

    def __init__(
        self,
        config: UNetConfig,
        hint_channels: tuple[int, ...] = (16, 32, 96, 256),
        global_pool: bool = False,
    ) -> None:
        super().__init__(replace(config, in_channels=config.out_channels))
        self.hint_channels = hint_channels
        self.global_pool = global_pool
        self.controlnet_cond_embedding = HintEncoder(hint_channels, config.block_out_channels[0])
        self.controlnet_down_blocks = nn.ModuleList(
            zero_init(nn.Conv2d(c, c, 1)) for c in skip_widths(config)
        )
        c = config.block_out_channels[-1]
        self.controlnet_mid_block = zero_init(nn.Conv2d(c, c, 1))

    @property
    def factor(self) -> int:
        """Pixels of the hint per latent position, in height and width."""
        return 2 ** (len(self.hint_channels) - 1)

    def forward(
        self,
        z: Tensor,
        t: Tensor | float,
        context: Tensor,
        hint: Tensor,
        scale: float | Sequence[float] = 1.0,
        added: tuple[Tensor, Tensor] | None = None,
    ) -> Residuals:
        """The residuals for `UNet.forward`.

        Args:
            z: Latent, (b, c, h, w).
            t: As in `UNet.forward`.
            context: As in `UNet.forward`.
            hint: RGB, (b, 3, 8h, 8w), or (1, 3, 8h, 8w) for the whole batch, in [0, 1], unlike the
                autoencoder's images in [-1, 1].
            scale: Factor of the residuals; 0 is off. One number for all, or one for each residual,
                the middle block's last.
            added: As in `UNet.forward`.

        Returns:
            One residual for each skip connection, the highest resolution first, and one for the
            middle block; (b, c, 1, 1) each with `global_pool`.

        Raises:
            ValueError: If the hint or the scale does not fit, or `added` is missing.
        """
        check_hint(hint, z, self.factor)
        scales = self.per_residual_scales(scale)
        emb = self.embed(z, t, added)
        h = self.conv_in(z) + self.controlnet_cond_embedding(hint.to(z.dtype))
        skips, mid = self.encode(h, emb, context)
        zero_convs = [*self.controlnet_down_blocks, self.controlnet_mid_block]
        residuals = [
            conv(x) * s for conv, x, s in zip(zero_convs, [*skips, mid], scales, strict=True)
        ]
        if self.global_pool:
            residuals = [x.mean(dim=(2, 3), keepdim=True) for x in residuals]
        return residuals[:-1], residuals[-1]

    def per_residual_scales(self, scale: float | Sequence[float]) -> Sequence[float]:
        """One scale for each residual, the middle block's last."""
        n = len(self.controlnet_down_blocks) + 1
        scales = scale if isinstance(scale, Sequence) else [scale] * n
        if len(scales) != n:
            raise ValueError(
                f"scale has {len(scales)} entries; give one number for all, or one for each of the "
                f"{n} residuals"
            )
        return scales

    # -------------------------------------------------------------------------- create, read, write

    @classmethod
    def from_unet(cls, unet: UNet, hint_channels: tuple[int, ...] = (16, 32, 96, 256)) -> Self:
        """A ControlNet to train on this U-Net, with the device and the type of its weights.

        The downsampling path and the middle block are copies of the U-Net's; the hint encoder and
        the zero convolutions are new. Its residuals are zero until it is trained.

        Raises:
            ValueError: If it is not a UNet.
        """
        if not isinstance(unet, UNet):
            raise ValueError(f"unet is a {type(unet).__name__}; it must be a UNet, such as sd.unet")
        conv_in = unet.conv_in.weight
        controlnet = cls(unet.config, hint_channels).to(conv_in.device, conv_in.dtype)
        keep_signal(controlnet.controlnet_cond_embedding)
        state = controlnet.state_dict()
        copied = {key: value for key, value in unet.state_dict().items() if key in state}
        copied["conv_in.weight"] = conv_in[:, : unet.config.out_channels]  # z comes first
        controlnet.load_state_dict(state | copied)
        return controlnet

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        dtype: torch.dtype = torch.float32,
        spec: "ModelSpec | str | None" = None,
        variant: str | None = None,
    ) -> Self:
        """Read a ControlNet on the CPU from a published folder or from one file.

        Args:
            source: A folder with config.json and the weights; or the id of one on the Hugging Face
                hub, "organisation/name", which is downloaded once; or a .safetensors or pickle
                file such as control_v11p_sd15_canny.pth, in the diffusers or the original layout.
            dtype: Type of the weights in memory, whatever their type in the file.
            spec: Only for a file: the system that it belongs to, or its name in SPECS. Needed if
                the shapes in the file fit several systems.
            variant: Only for a folder: the variant of the weights, such as "fp16".

        Raises:
            FileNotFoundError, ValueError: If it cannot be read.
        """
        from sdlearn.weights.controlnet_files import load_controlnet

        return load_controlnet(cls, source, dtype, spec, variant)

    @classmethod
    def storybook(
        cls, dtype: torch.dtype = torch.float32, device: str | torch.device | None = None
    ) -> Self:
        """The ControlNet of the storybook model, for edges, depth, poses and segmentation.

        For the arguments see `StableDiffusion.storybook`.
        """
        from sdlearn.weights.storybook_models import read_storybook_controlnet

        return read_storybook_controlnet(cls, dtype, device)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a folder in the published layout; dtype None keeps the module's."""
        from sdlearn.weights.controlnet_files import save_controlnet

        save_controlnet(self, folder, dtype)


# A ControlNet, its hint (b, 3, H, W) in [0, 1], and its scale.
Control = tuple[ControlNet, Tensor, float]


def sum_residuals(residuals: Iterable[Residuals]) -> Residuals:
    """The sum of the residuals of several ControlNets for one U-Net."""
    downs, middles = zip(*residuals, strict=True)
    down = [reduce(torch.add, each) for each in zip(*downs, strict=True)]
    return down, reduce(torch.add, middles)


def unet_with(
    unet: UNet, extra_channels: Tensor | None, controls: Sequence[Control]
) -> Callable[..., Tensor]:
    """A function with the U-Net's signature that adds extra input channels and ControlNets.

    For a batch of 2b, as in classifier-free guidance, channels and hints are repeated. As in
    diffusers, a ControlNet with `global_pool` adds its residuals to the conditional half only.

    Args:
        unet: The U-Net; returned unchanged if there is nothing to add.
        extra_channels: Input channels of an inpainting U-Net after z, (b, 5, h, w).
        controls: ControlNets with their hints (b, 3, H, W) and scales.
    """
    if extra_channels is None and not controls:
        return unet

    def model(
        z: Tensor, t: Tensor, context: Tensor, added: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        residuals = []
        for net, hint, scale in controls:
            both = hint.repeat(len(z) // len(hint), 1, 1, 1)
            down, mid = net(z, t, context, both, scale, added)
            if net.global_pool and len(z) == 2 * len(hint):  # the unconditional half comes first
                keep = (torch.arange(len(z), device=z.device) >= len(hint)).view(-1, 1, 1, 1)
                down, mid = [x * keep for x in down], mid * keep
            residuals.append((down, mid))
        if extra_channels is not None:
            z = torch.cat([z, extra_channels.repeat(len(z) // len(extra_channels), 1, 1, 1)], dim=1)
        return unet(z, t, context, added, sum_residuals(residuals) if residuals else None)

    return model


def guess_mode_scales(n: int) -> list[float]:
    """The n scales of guess mode: 1 for the middle block, times 0.825 for each skip above it.

    Guess mode generates images from the hint without a prompt. The published code uses
    0.825 ** (12 - i) for the 13 residuals of Stable Diffusion 1, and no residuals for the
    unconditional half of guidance.
    """
    return [0.825 ** (n - 1 - i) for i in range(n)]


def check_hint(hint: Tensor, z: Tensor, factor: int) -> None:
    """Raise ValueError unless the hint (b or 1, 3, H, W) in [0, 1] fits z (b, c, h, w)."""
    if not (isinstance(hint, Tensor) and hint.is_floating_point()):
        kind = hint.dtype if isinstance(hint, Tensor) else type(hint).__name__
        raise ValueError(f"hint is {kind}; give a tensor of floating-point numbers in [0, 1]")
    (b, _, h, w) = z.shape
    shape = (3, factor * h, factor * w)
    if hint.ndim != 4 or hint.shape[1:] != shape or len(hint) not in (1, b):
        raise ValueError(
            f"hint has the shape {tuple(hint.shape)}; latents {tuple(z.shape)} need "
            f"{(b, *shape)}, RGB and {factor} times their size, or {(1, *shape)} for all"
        )
    if hint.is_meta:
        return
    low, high = (float(x) for x in hint.aminmax())
    if not (low >= 0 and high <= 1):  # also refuses NaN
        raise ValueError(
            f"hint runs from {low:.4g} to {high:.4g}; its values must be in [0, 1]: divide bytes "
            "by 255, or take (x + 1) / 2 of an image in [-1, 1]"
        )
