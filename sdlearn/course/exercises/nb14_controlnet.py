"""Exercises and quiz of notebook 14, ControlNet."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Generator, Tensor, nn

from sdlearn.controlnet import zero_init
from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal
from sdlearn.unet import UNetConfig, UNetEncoder, skip_widths

# ----------------------------------------------------------- 14.1 the gradients of a convolution


def conv_gradients(
    x: Tensor,
    weight: Tensor,
    delta: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """x (b, c, h, w), weight (d, c), delta (b, d, h, w) -> the three gradients."""
    to_weight = torch.einsum("bdhw,bchw->dc", delta, x)
    to_bias = delta.sum(dim=(0, 2, 3))
    to_x = torch.einsum("dc,bdhw->bchw", weight, delta)
    return to_weight, to_bias, to_x


def gradient_cases(rng: Generator) -> Iterator[Case]:
    for b, c, d, h, w in ((2, 3, 5, 4, 6), (1, 4, 2, 3, 5), (3, 4, 4, 4, 4), (4, 1, 3, 2, 7)):
        yield Case((normal(rng, b, c, h, w), normal(rng, d, c), normal(rng, b, d, h, w)))
    yield Case((normal(rng, 2, 3, 4, 5), normal(rng, 6, 3) * 0, normal(rng, 2, 6, 4, 5)))


GRADIENTS = Exercise(
    number="14.1",
    title="What learns at zero",
    minutes=12,
    difficulty=2,
    core=True,
    solution=conv_gradients,
    cases=gradient_cases,
    trained=False,
)

# --------------------------------------------------------------------------- 14.2 the hint encoder


class HintEncoder(nn.Module):
    """Convolutions that bring a hint to the size of the latent."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for c_in, c_out in pairwise(channels):
            self.blocks.append(nn.Conv2d(c_in, c_in, 3, padding=1))
            self.blocks.append(nn.Conv2d(c_in, c_out, 3, stride=2, padding=1))
        self.conv_out = zero_init(nn.Conv2d(channels[-1], width, 3, padding=1))

    def forward(self, hint_image: Tensor) -> Tensor:
        """hint_image (b, 3, f * h, f * w) in 0 ... 1 -> (b, width, h, w)."""
        h = F.silu(self.conv_in(hint_image))
        for conv in self.blocks:
            h = F.silu(conv(h))
        return self.conv_out(h)


def hint_cases(rng: Generator) -> Iterator[Case]:
    for b, h, w, build in (
        (2, 8, 12, ((4, 6, 5), 7)),
        (1, 16, 8, ((3, 4, 6, 8), 5)),
        (3, 6, 6, ((3, 3), 3)),
        (2, 5, 7, ((4,), 4)),
    ):
        hint = torch.rand(b, 3, h, w, generator=rng, dtype=torch.float64)
        yield Case((hint,), build)


HINT = Exercise(
    number="14.2",
    title="The hint encoder",
    minutes=6,
    difficulty=1,
    core=True,
    solution=HintEncoder,
    cases=hint_cases,
)

# ----------------------------------------------------------------------------- 14.3 the ControlNet


class ControlNet(UNetEncoder):
    """A copy of a U-Net's downsampling path, a hint encoder, zero convolutions."""

    def __init__(self, config: "UNetConfig", channels: tuple[int, ...]) -> None:
        super().__init__(config)
        widths = config.block_out_channels
        self.controlnet_cond_embedding = HintEncoder(channels, widths[0])
        self.controlnet_down_blocks = nn.ModuleList(
            zero_init(nn.Conv2d(c, c, 1)) for c in skip_widths(config)
        )
        self.controlnet_mid_block = zero_init(nn.Conv2d(widths[-1], widths[-1], 1))

    def forward(
        self,
        z: Tensor,
        t: Tensor,
        context: Tensor,
        hint_image: Tensor,
        scale: float = 1.0,
    ) -> tuple[list[Tensor], Tensor]:
        """-> one residual for each skip connection, and that of the middle block."""
        h = self.conv_in(z) + self.controlnet_cond_embedding(hint_image)
        skips, mid = self.encode(h, self.embed(z, t, None), context)
        pairs = zip(self.controlnet_down_blocks, skips, strict=True)
        down = [scale * conv(skip) for conv, skip in pairs]
        return down, scale * self.controlnet_mid_block(mid)


def small(widths: tuple[int, ...], attends: tuple[bool, ...], layers: int = 1) -> UNetConfig:
    """A small configuration with two heads and two groups on every level."""
    twos, ones = (2,) * len(widths), (1,) * len(widths)
    return UNetConfig(
        block_out_channels=widths, cross_attention=attends, num_heads=twos, layers_per_block=layers,
        transformer_depth=ones, cross_attention_dim=5, norm_num_groups=2,
    )  # fmt: skip


def control_cases(rng: Generator) -> Iterator[Case]:
    for b, h, w, scale, build in (
        (2, 4, 6, 0.7, (small((4, 6), (True, False)), (3, 4))),
        (1, 5, 3, 1.0, (small((4, 4), (False, False)), (4, 2, 3))),
        (3, 4, 4, 1.5, (small((4, 8, 6), (False, True, True), 2), (4,))),
        (2, 3, 4, 0.0, (small((4,), (True,)), (2, 3))),
    ):
        f = 2 ** (len(build[1]) - 1)
        hint = torch.rand(b, 3, f * h, f * w, generator=rng, dtype=torch.float64)
        t = torch.randint(0, 1000, (b,), generator=rng)
        yield Case((normal(rng, b, 4, h, w), t, normal(rng, b, 3, 5), hint, scale), build)


CONTROL = Exercise(
    number="14.3",
    title="The ControlNet",
    minutes=12,
    difficulty=2,
    core=True,
    solution=ControlNet,
    cases=control_cases,
)

# -------------------------------------------------------------------------------- 14.4 guess mode


def guess_mode(residuals: list[Tensor], scale: float) -> list[Tensor]:
    """n residuals (2b, c, h, w), the middle block's last -> the same, weighted."""
    n = len(residuals)
    weighted = []
    for k, residual in enumerate(residuals):
        uncond, cond = residual.chunk(2)
        factor = scale * 0.825 ** (n - 1 - k)
        weighted.append(torch.cat([torch.zeros_like(uncond), factor * cond]))
    return weighted


def guess_cases(rng: Generator) -> Iterator[Case]:
    for sizes, scale in (
        (((4, 3, 8, 6), (4, 5, 4, 3), (4, 5, 4, 3)), 1.0),
        (((2, 4, 4, 4), (2, 4, 4, 4), (2, 4, 2, 2), (2, 6, 2, 2), (2, 6, 2, 2)), 0.7),
        (((6, 2, 3, 5), (6, 2, 3, 5)), 1.6),
        (((2, 3, 2, 2),), 0.5),
    ):
        yield Case(([normal(rng, *size) for size in sizes], scale))


GUESS = Exercise(
    number="14.4",
    title="Guess mode",
    minutes=10,
    difficulty=2,
    core=True,
    solution=guess_mode,
    cases=guess_cases,
)

# ----------------------------------------------------------------------- 14.5 a hint by your hand


def drawn_hint(lines: list, size: int) -> Tensor:
    """Lines of points (x, y) in 0 ... 1 -> white on black, (1, 3, size, size)."""
    image = Image.new("L", (4 * size, 4 * size))
    pen = ImageDraw.Draw(image)
    for points in lines:
        pen.line([(4 * size * x, 4 * size * y) for x, y in points], fill=255, width=4)
    pixels = torch.from_numpy(np.array(image.reduce(4))).float() / 255
    return pixels.expand(1, 3, size, size)


def line_cases(rng: Generator) -> Iterator[Case]:
    for size, lengths in ((32, (2,)), (64, (5, 3)), (48, (4, 2, 3)), (16, (3,))):
        points = (0.05 + 0.9 * torch.rand(sum(lengths), 2, generator=rng)).tolist()
        lines = [[tuple(points.pop()) for _ in range(length)] for length in lengths]
        yield Case((lines, size))


DRAWN = Exercise(
    number="14.5",
    title="A hint drawn by hand",
    minutes=12,
    difficulty=2,
    core=True,
    solution=drawn_hint,
    cases=line_cases,
    trained=False,
    tolerance=1e-6,  # of pixels in float32
)

EXERCISES, QUESTIONS = with_texts(__name__, GRADIENTS, HINT, CONTROL, GUESS, DRAWN)

# --------------------------------------------------------------------------------------- the quiz
