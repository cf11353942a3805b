"""Exercises of notebook 06, the U-Net."""

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sdlearn.course.exercises.edits import with_texts
from sdlearn.course.grading.exercise import Case, Exercise, normal
from sdlearn.unet import UNet, UNetConfig, UpBlock

# -------------------------------------------------------------------------------- 06.1 the ResBlock


class ResBlock(nn.Module):
    """Two convolutions with a residual connection; the timestep enters between them."""

    def __init__(self, c_in: int, c_out: int, time_dim: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=1e-5)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, c_out)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=1e-5)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        same = c_in == c_out
        self.conv_shortcut = nn.Identity() if same else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x (b, c_in, h, w), emb (b, time_dim) -> (b, c_out, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(F.silu(emb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return self.conv_shortcut(x) + h


def block_cases(rng: Generator) -> Iterator[Case]:
    for b, h, w, build in (
        (2, 5, 7, (6, 8, 10, 2)),
        (3, 4, 4, (8, 8, 8, 4)),
        # As many rows and columns as channels: a vector on the wrong axis gives numbers.
        (1, 4, 4, (4, 4, 5, 2)),
    ):
        c_in, _, time_dim, _ = build
        yield Case((2 * normal(rng, b, c_in, h, w) + 1, normal(rng, b, time_dim)), build)


RES_BLOCK = Exercise(
    number="06.1",
    title="The ResBlock",
    minutes=8,
    difficulty=1,
    core=True,
    solution=ResBlock,
    cases=block_cases,
)

# --------------------------------------------------------------- 06.2 widths of the upsampling path


def up_widths(widths: tuple[int, ...], layers: int) -> list[int]:
    """Input channels of each ResBlock of the upsampling path, in forward order."""
    skips = [widths[0]]
    for i, c in enumerate(widths):
        skips += [c] * layers + [c] * (i < len(widths) - 1)
    h, result = widths[-1], []
    for c in reversed(widths):
        for _ in range(layers + 1):
            result.append(h + skips.pop())
            h = c
    return result


def widths_cases(_: Generator) -> Iterator[Case]:
    for case in (
        ((320, 640, 1280, 1280), 2),
        ((3, 5, 11), 1),
        ((4, 9), 3),
        ((7,), 2),
        ((2, 16, 30, 100, 64), 1),
    ):
        yield Case(case)


WIDTHS = Exercise(
    number="06.2",
    title="Input widths of the upsampling path",
    minutes=12,
    difficulty=2,
    core=True,
    solution=up_widths,
    cases=widths_cases,
    trained=False,
)

# -------------------------------------------------------------- 06.3 a level of the upsampling path


def upsampling_level(
    level: nn.Module, h: Tensor, skips: list[Tensor], emb: Tensor, context: Tensor
) -> Tensor:
    """h (b, c_in, h, w) -> (b, c, height, width); skips: all that are left."""
    skips = list(skips)
    for n in range(len(level.resnets)):
        h = level.layer(n, torch.cat([h, skips.pop()], dim=1), emb, context)
    for upsample in level.upsamplers:
        h = upsample(h, skips[-1].shape[-2:])
    return h


def config_of(widths: tuple[int, ...], attends: tuple[bool, ...]) -> UNetConfig:
    """A small configuration with two heads and two groups on every level."""
    twos, ones = (2,) * len(widths), (1,) * len(widths)
    return UNetConfig(
        block_out_channels=widths, cross_attention=attends, num_heads=twos,
        transformer_depth=ones, cross_attention_dim=5, norm_num_groups=2,
    )  # fmt: skip


class CheckedLevel(UpBlock):
    """A level that says in words what is wrong with the input of a layer."""

    def layer(self, n: int, h: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        """Run ResBlock n and its transformer, if the inputs fit."""
        if not isinstance(n, int):
            raise RuntimeError("level.layer takes the *number* of a ResBlock first: 0, 1, ...")
        wanted, shape = self.resnets[n].conv1.in_channels, tuple(h.shape)
        if len(shape) != 4 or shape[1] != wanted:
            raise RuntimeError(
                f"ResBlock {n} takes (b, {wanted}, height, width) and was given {shape}. It needs "
                "h and one skip, concatenated along the channels: torch.cat([h, skip], dim=1)"
            )
        if emb.shape[-1] != self.resnets[n].time_emb_proj.in_features:
            raise RuntimeError("level.layer takes n, x, emb, context, in this order")
        return super().layer(n, h, emb, context)


def up_cases(rng: Generator) -> Iterator[Case]:
    for b, sides, config, i, c, skip_widths in (
        # Equal maps: they can be joined along any axis, and the level says which was the wrong one.
        (2, ((4, 4), (8, 8)), config_of((8, 8), (False, False)), 1, 8, (8, 8, 8)),
        # Odd sides: twice the small map is too large. Skips of two more levels are waiting.
        (2, ((4, 5), (7, 9)), config_of((4, 8, 6), (True, True, False)), 1, 6, (4, 8, 8)),
        (1, ((3, 6), (3, 6)), config_of((4, 4), (True, False)), 0, 4, (4, 4, 4)),
    ):
        (h, w), above = sides
        waiting = [(2 * above[0], 2 * above[1] - 1), above] if i > 0 else []
        skips = [normal(rng, b, 4, *size) for size in waiting]
        skips += [normal(rng, b, width, h, w) for width in skip_widths]
        level = CheckedLevel(config, i, c, skip_widths).double()
        for parameter in level.parameters():
            parameter.data = normal(rng, *parameter.shape) / 3
        emb = normal(rng, b, 4 * config.block_out_channels[0])
        yield Case((level, normal(rng, b, c, h, w), skips, emb, normal(rng, b, 3, 5)))


UP_LEVEL = Exercise(
    number="06.3",
    title="A level of the upsampling path",
    minutes=12,
    difficulty=2,
    core=True,
    solution=upsampling_level,
    cases=up_cases,
)

# ----------------------------------------------------------------------- 06.4 parameters of a level


def level_parameters(below: int, c: int, skips: list[int], dim: int, top: bool) -> int:
    """Parameters of one level of the upsampling path, without transformers."""
    total, h = 0, below
    for skip in skips:
        c_in = h + skip
        total += 2 * c_in + 2 * c  # the norms: a weight and a bias for each channel
        total += 9 * c_in * c + c + 9 * c * c + c
        total += dim * c + c
        total += c_in * c + c if c_in != c else 0
        h = c
    return total + (0 if top else 9 * c * c + c)


def level_cases(_: Generator) -> Iterator[Case]:
    for case in (
        (1280, 1280, (1280, 1280, 1280), 1280, False),
        (640, 320, (320, 320, 320), 1280, True),
        (16, 24, (8, 40), 64, False),
        (12, 12, (5,), 20, True),
    ):
        yield Case(case)


LEVEL = Exercise(
    number="06.4",
    title="The parameters of a level",
    minutes=12,
    difficulty=2,
    solution=level_parameters,
    cases=level_cases,
    trained=False,
)

# ---------------------------------------------------------------- 06.5 adaptive group normalisation


class AdaptiveBlock(nn.Module):
    """A ResBlock in which the timestep scales and shifts the second norm's output."""

    def __init__(self, c_in: int, c_out: int, time_dim: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=1e-5)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, 2 * c_out)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=1e-5)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        same = c_in == c_out
        self.conv_shortcut = nn.Identity() if same else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x (b, c_in, h, w), emb (b, time_dim) -> (b, c_out, h, w)."""
        projected = self.time_emb_proj(F.silu(emb))[:, :, None, None]
        scale, shift = projected.chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h) * (1 + scale) + shift
        return self.conv_shortcut(x) + self.conv2(F.silu(h))


ADAPTIVE = Exercise(
    number="06.5",
    title="Adaptive group normalisation",
    minutes=8,
    difficulty=1,
    solution=AdaptiveBlock,
    cases=block_cases,
)

# --------------------------------------------------------------------------------------- 06.6 FreeU


def free_u(h: Tensor, skip: Tensor, b: float, s: float) -> tuple[Tensor, Tensor]:
    """h (n, c, height, width), skip (n, d, height, width) -> both, rescaled."""
    half = h.shape[1] // 2
    h = torch.cat([b * h[:, :half], h[:, half:]], dim=1)
    height, width = skip.shape[-2:]
    rows = torch.fft.fftfreq(height, 1 / height).abs() < 1.5
    columns = torch.fft.fftfreq(width, 1 / width).abs() < 1.5
    low = rows[:, None] & columns  # (height, width)
    spectrum = torch.fft.fft2(skip)
    spectrum = torch.where(low, s * spectrum, spectrum)
    return h, torch.fft.ifft2(spectrum).real


def free_u_cases(rng: Generator) -> Iterator[Case]:
    for n, c, d, height, width, b, s in (
        (2, 6, 4, 7, 10, 1.4, 0.3),
        (1, 4, 4, 6, 6, 0.0, 1.5),
        (3, 5, 2, 4, 9, 2.0, 0.0),
        (1, 2, 3, 8, 5, 0.7, 0.6),
    ):
        yield Case((normal(rng, n, c, height, width), normal(rng, n, d, height, width), b, s))


FREE_U = Exercise(
    number="06.6",
    title="FreeU",
    minutes=15,
    difficulty=2,
    core=True,
    solution=free_u,
    cases=free_u_cases,
    tolerance=1e-6,  # of a mask in float32
)

# ----------------------------------------------------------------------------- 06.7 a cached bottom


def cached_forward(
    unet: "UNet", z: Tensor, emb: Tensor, context: Tensor, kept: Tensor | None
) -> tuple[Tensor, Tensor]:
    """z (b, 4, h, w) -> the predicted noise, and the map that enters the top level."""
    skips = [unet.conv_in(z)]
    if kept is None:
        skips, kept = unet.encode(skips[0], emb, context)
        for block in unet.up_blocks[:-1]:
            kept = block(kept, skips, emb, context)
            skips = skips[: -len(block.resnets)]
    else:
        skips += unet.down_blocks[0](skips[0], emb, context)[:-1]
    h = unet.up_blocks[-1](kept, skips, emb, context)
    return unet.conv_out(F.silu(unet.conv_norm_out(h))), kept


def idle(*_: object) -> None:
    """Replace the forward pass of a block below the top level, where `kept` is given."""
    raise RuntimeError(
        "a block below the top level ran although `kept` is given. Its result is in `kept`: run "
        "only conv_in, down_blocks[0], up_blocks[-1] and the output layers"
    )


def cached_cases(rng: Generator) -> Iterator[Case]:
    for b, h, w, given, config in (
        (2, 9, 14, False, config_of((4, 6, 8), (True, False, False))),
        (2, 6, 4, True, config_of((4, 8), (False, True))),
        (1, 7, 5, True, replace(config_of((6, 4, 4), (True, True, True)), layers_per_block=1)),
        (1, 4, 8, False, replace(config_of((8, 8), (True, False)), layers_per_block=3)),
    ):
        unet = UNet(config).double()
        for parameter in unet.parameters():
            parameter.data = normal(rng, *parameter.shape) / 3
        for block in (*unet.down_blocks[1:], unet.mid_block, *unet.up_blocks[:-1]) * given:
            block.forward = idle
        emb = normal(rng, b, 4 * config.block_out_channels[0])
        kept = normal(rng, b, config.block_out_channels[1], h, w) if given else None
        yield Case((unet, normal(rng, b, 4, h, w), emb, normal(rng, b, 3, 5), kept))


CACHED = Exercise(
    number="06.7",
    title="Keep the bottom of the U",
    minutes=20,
    difficulty=3,
    core=True,
    solution=cached_forward,
    cases=cached_cases,
)

EXERCISES, QUESTIONS = with_texts(
    __name__,
    RES_BLOCK,
    WIDTHS,
    UP_LEVEL,
    LEVEL,
    ADAPTIVE,
    FREE_U,
    CACHED,
)
