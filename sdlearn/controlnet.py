"""ControlNet: a second picture (edges, depth, a pose) steers a U-Net that stays as it is.

The way down and the middle of the U-Net are copied. The copy also sees the hint, and everything it
finds out is added to what the U-Net carries over its skips and out of its middle, through 1x1
convolutions that start at zero: at first nothing changes, and training learns from there what to
add (Zhang et al., arXiv:2302.05543). Modules carry the names of the published files.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdlearn import weights
from sdlearn.configs import read_controlnet, sensible
from sdlearn.files import write_json
from sdlearn.hub import CONTROLNET, local_folder
from sdlearn.singlefile import control_config
from sdlearn.stored import find, open_weights
from sdlearn.unet import UNet, UNetConfig, UNetEncoder, skip_widths
from sdlearn.versions import ModelSpec
from sdlearn.weights import check_dtype
from sdlearn.writing import controlnet_json

# What a ControlNet adds: one tensor for each skip of the U-Net, largest first, and one for the
# output of its middle.
Residuals = tuple[list[Tensor], Tensor]

# Entries of UNetConfig in which a ControlNet and the U-Net that it controls cannot differ.
MUST_AGREE = (
    "out_channels",
    "block_out_channels",
    "layers_per_block",
    "cross_attention_dim",
    "added_dim",
    "added_time_dim",
)


def zero(conv: nn.Conv2d) -> nn.Conv2d:
    """The same convolution with weights and bias at zero.

    It still learns: the gradient of its weights is that of its output times its input, and only
    what lies before it has to wait until the weights have moved.
    """
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv


class HintEncoder(nn.Module):
    """Brings the hint to the size and width of the latent's first feature map.

    Convolutions without norms; each entry of `channels` after the first halves height and width.
    The published widths 16, 32, 96, 256 halve three times, as the autoencoder does.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for c_in, c_out in pairwise(channels):
            self.blocks.append(nn.Conv2d(c_in, c_in, 3, padding=1))
            self.blocks.append(nn.Conv2d(c_in, c_out, 3, stride=2, padding=1))
        self.conv_out = zero(nn.Conv2d(channels[-1], width, 3, padding=1))

    def forward(self, hint: Tensor) -> Tensor:
        """(b, 3, 8h, 8w) in [0, 1] -> (b, width, h, w)."""
        h = F.silu(self.conv_in(hint))
        for conv in self.blocks:
            h = F.silu(conv(h))
        return self.conv_out(h)


class ControlNet(UNetEncoder):
    """The copy of a U-Net's way down and middle, with the hint encoder and the zero convolutions.

    config: of the U-Net that is controlled. A ControlNet sees z alone, without the mask and the
    masked picture that an inpainting U-Net sees beside it. hint_channels: see HintEncoder.
    """

    def __init__(
        self, config: UNetConfig, hint_channels: tuple[int, ...] = (16, 32, 96, 256)
    ) -> None:
        super().__init__(replace(config, in_channels=config.out_channels))
        self.hint_channels = hint_channels
        self.controlnet_cond_embedding = HintEncoder(hint_channels, config.block_out_channels[0])
        self.controlnet_down_blocks = nn.ModuleList(
            zero(nn.Conv2d(c, c, 1)) for c in skip_widths(config)
        )
        c = config.block_out_channels[-1]
        self.controlnet_mid_block = zero(nn.Conv2d(c, c, 1))

    @property
    def factor(self) -> int:
        """Pixels of the hint for one position of the latent, in height and in width."""
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
        """The residuals for `UNet.forward`: a list, one for each skip, and one for the middle.

        z (b, c, h, w), t, context and added: what the U-Net gets. hint: RGB (b, 3, H, W) in [0, 1],
        unlike the pictures in [-1, 1] of the autoencoder, H = 8h and W = 8w; (1, 3, H, W) serves
        the whole batch. scale: strength, 0 is off; one for all or one for each, the middle last.
        Raises ValueError for a hint or a scale that does not fit, or where `added` is missing.
        """
        check_hint(hint, z, self.factor)
        scales = self.strengths(scale)
        emb = self.embed(z, t, added)
        h = self.conv_in(z) + self.controlnet_cond_embedding(hint.to(z.dtype))
        skips, mid = self.encode(h, emb, context)
        zeros = [*self.controlnet_down_blocks, self.controlnet_mid_block]
        *down, middle = (
            conv(x) * s for conv, x, s in zip(zeros, [*skips, mid], scales, strict=True)
        )
        return down, middle

    def strengths(self, scale: float | Sequence[float]) -> Sequence[float]:
        """One number for each residual, the middle last."""
        n = len(self.controlnet_down_blocks) + 1
        scales = scale if isinstance(scale, Sequence) else [scale] * n
        if len(scales) != n:
            raise ValueError(
                f"scale has {len(scales)} entries; give one number for all, or one for each of the "
                f"{n} residuals"
            )
        return scales

    def check_fits(self, unet: UNet) -> None:
        """Raises ValueError, in one sentence, where the residuals cannot be added to this U-Net."""
        for name in MUST_AGREE:
            ours, theirs = getattr(self.config, name), getattr(unet.config, name)
            if ours != theirs:
                raise ValueError(
                    f"the ControlNet is for another U-Net: its {name} is {ours}, here it is "
                    f"{theirs}"
                )
        mine, other = self.conv_in.weight, unet.conv_in.weight
        if (mine.device, mine.dtype) != (other.device, other.dtype):
            raise ValueError(
                f"the ControlNet is {mine.dtype} on {mine.device}, but the U-Net is {other.dtype} "
                f"on {other.device}; bring them together with controlnet.to(device, dtype)"
            )

    # ------------------------------------------------------------------------------ where from

    @classmethod
    def from_unet(cls, unet: UNet, hint_channels: tuple[int, ...] = (16, 32, 96, 256)) -> Self:
        """A ControlNet to train: the U-Net's own way down and middle, copied, and fresh hint
        encoder and zero convolutions, so that it changes nothing yet."""
        first = unet.conv_in.weight
        controlnet = cls(unet.config, hint_channels).to(first.device, first.dtype)
        state = controlnet.state_dict()
        copied = {key: value for key, value in unet.state_dict().items() if key in state}
        copied["conv_in.weight"] = first[:, : unet.config.out_channels]  # z comes first
        controlnet.load_state_dict(state | copied)
        return controlnet

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        dtype: torch.dtype = torch.float32,
        spec: ModelSpec | str | None = None,
    ) -> Self:
        """Read a ControlNet from a published folder, or from one file, on the CPU.

        source: a folder with config.json and the weights beside it, or the id of one on the Hugging
        Face hub, "organisation/name", which is downloaded once; or a file, .safetensors or a
        pickle, such as control_v11p_sd15_canny.pth, in either layout. dtype: of the module,
        whatever the file holds. spec: the system that a file is for, or its name in SPECS, where
        its shapes do not tell; a folder says so itself.
        Raises FileNotFoundError or ValueError, in one sentence, for what cannot be read.
        """
        check_dtype(dtype)
        path = said = Path(source)
        if path.is_file():
            stored = open_weights(path)
            config, hint_channels = control_config(path, stored, spec)
        elif spec is not None:
            raise ValueError(f"{source} is no file; only for a file is spec given")
        else:
            folder = local_folder(source, CONTROLNET)
            with sensible(folder / "config.json") as said:
                config, hint_channels = read_controlnet(said)
            path = find(folder)
            stored = open_weights(path)
        with sensible(said), torch.device("meta"):  # names and shapes; loading gives them memory
            controlnet = cls(config, hint_channels).to(dtype)
        weights.fill_part(controlnet, stored, path)
        return controlnet.eval()

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a folder in the published layout; dtype of the file, None for the module's own."""
        folder = Path(folder)
        weights.save(self, folder / "diffusion_pytorch_model.safetensors", dtype)
        write_json(folder / "config.json", controlnet_json(self.config, self.hint_channels))


def combined(residuals: Iterable[Residuals]) -> Residuals:
    """What several ControlNets on one U-Net say together: their sums."""
    downs, middles = zip(*residuals, strict=True)
    down = [reduce(torch.add, each) for each in zip(*downs, strict=True)]
    return down, reduce(torch.add, middles)


def fading(n: int) -> list[float]:
    """The n scales of guess mode: 1 for the middle, and 0.825 times less for each skip above it.

    For pictures without a prompt, where the hint alone says what is there. The published code has
    0.825 ** (12 - i) for the 13 residuals of Stable Diffusion 1, and gives none to the
    unconditional half of guidance.
    """
    return [0.825 ** (n - 1 - i) for i in range(n)]


def check_hint(hint: Tensor, z: Tensor, factor: int) -> None:
    """Raises ValueError, in one sentence, unless the hint (b or 1, 3, H, W) fits z (b, c, h, w)."""
    if not (isinstance(hint, Tensor) and hint.is_floating_point()):
        kind = hint.dtype if isinstance(hint, Tensor) else type(hint).__name__
        raise ValueError(f"hint is {kind}; give a tensor of floating-point numbers in [0, 1]")
    (b, _, h, w) = z.shape
    wanted = (3, factor * h, factor * w)
    if hint.ndim != 4 or hint.shape[1:] != wanted or len(hint) not in (1, b):
        raise ValueError(
            f"hint has the shape {tuple(hint.shape)}; latents {tuple(z.shape)} need "
            f"{(b, *wanted)}, RGB and {factor} times their size, or {(1, *wanted)} for all"
        )
    if hint.is_meta:
        return
    low, high = (float(x) for x in hint.aminmax())
    if not (low >= 0 and high <= 1):  # also where one is not a number
        raise ValueError(
            f"hint runs from {low:.4g} to {high:.4g}; its values must be in [0, 1]: divide bytes "
            "by 255, and take (x + 1) / 2 of a picture in [-1, 1]"
        )
