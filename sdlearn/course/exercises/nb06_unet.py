"""Exercises of notebook 06, the U-Net. Its quiz is in unet_quiz.py."""

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sdlearn.course.exercises.edits import with_mistakes
from sdlearn.course.exercises.unet_quiz import QUESTIONS as QUESTIONS
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
    statement="Write `forward`. Follow the diagram from top to bottom: norm, SiLU and convolution, "
    "then the projected time embedding, then norm, SiLU and convolution again, with the residual "
    "connection around it all. If the number of channels stays the same, `conv_shortcut` is the "
    "identity.",
    hints=(
        "You need four lines: the first half, the timestep, the second half and the sum. Keep `x` "
        "untouched for the sum, and call the rest `h`.",
        "The first half is `h = self.conv1(F.silu(self.norm1(x)))`. The time embedding also goes "
        "through a SiLU before its linear layer, which gives `(b, c_out)`.",
        "The timestep adds one value to each channel, the same at all positions: `[:, :, None, "
        "None]` turns `(b, c_out)` into `(b, c_out, 1, 1)`. The last line is `return "
        "self.conv_shortcut(x) + h`.",
    ),
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
    statement="The levels of a U-Net have `widths` channels, with the largest map first. Each has "
    "`layers` ResBlocks in the downsampling path and one more in the upsampling path. How many "
    "channels go *into* each ResBlock of the upsampling path? Return a list in the order of a "
    "forward pass, smallest map first. Section 6 builds the network with your list.",
    hints=(
        "First write down the list of skips in the order in which they are stored: `conv_in`, then "
        "for each level its ResBlocks and, except on the last level, its downsampling. As a check, "
        "`layers = 2` and four levels give twelve.",
        "The skips are a stack: the last one stored is the first one taken, `skips.pop()`. The "
        "current map has `widths[-1]` channels when it comes out of the middle block, and the "
        "level's own width after each ResBlock.",
        "You need two loops: `for c in reversed(widths)`, and inside it `for _ in range(layers + "
        "1)`, where you append `h + skips.pop()` and then set `h = c`. Upsampling leaves the "
        "channels as they are.",
    ),
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
    statement="Write the forward pass of one level. `skips` holds all skips that no level has "
    "taken yet, in the order in which they were stored. Each ResBlock in `level.resnets` takes the "
    "last one left, and its input is `h` concatenated with that skip, `h` first. `level.layer(n, "
    "x, emb, context)` runs ResBlock n on x, and then its transformer if there is one. The "
    "upsampling comes last: `level.upsamplers` holds one, or none on the top level, and "
    "`upsample(h, size)` brings `h` to the size of the skip that is *next in line*. Don't change "
    "the list `skips`: the network still needs it.",
    hints=(
        "Work on a copy, `list(skips)`. Each `pop()` then takes the last skip, and those that "
        "remain are for the levels after this one.",
        "For each n: `h = level.layer(n, torch.cat([h, skips.pop()], dim=1), emb, context)`.",
        "`level.upsamplers` holds one upsampling, or none on the top level. Call it with the size: "
        "`for upsample in level.upsamplers: h = upsample(h, skips[-1].shape[-2:])`.",
    ),
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
    statement="How many parameters does one level of the upsampling path have, not counting "
    "transformers? The level has `c` channels, and the map comes in with `below` channels. `skips` "
    "lists the channels of the skips in the order in which they are taken, and there is one "
    "ResBlock for each. An upsampling layer with its convolution follows, except on the `top` "
    "level. `dim` is the width of `emb`. Count every weight and bias. For the real model, "
    "`level_parameters(1280, 1280, [1280, 1280, 1280], 1280, False)` must equal `sum(p.numel() for "
    "p in large.up_blocks[0].parameters())`.",
    hints=(
        "Go through `ResBlock.__init__` line by line. A convolution with kernel size $k$ has $k^2 "
        "c_{in} c_{out}$ weights and $c_{out}$ biases. A linear layer has $c_{in} c_{out}$ weights "
        "and $c_{out}$ biases. A group norm has one weight and one bias per channel.",
        "The first ResBlock gets `below + skips[0]` channels, and each later one `c + skip`. Its "
        "first norm has as many channels as its input. There is a shortcut only where the number "
        "of channels changes.",
        "If a ResBlock has c_in input channels, it has `2 * c_in + 9 * c_in * c + c + dim * c + c "
        "+ 2 * c + 9 * c * c + c` parameters, plus `c_in * c + c` where `c_in != c`. The "
        "upsampling has `9 * c * c + c`.",
    ),
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
    statement="Stable Diffusion adds the timestep after `conv1`. "
    "[ADM](https://arxiv.org/abs/2105.05233) uses **adaptive group normalisation** instead. The "
    "projection gives *two* values per channel, first all the scales and then all the shifts, and "
    "they act on the output of the second norm, before the SiLU: `norm2(h) * (1 + scale) + shift`. "
    "The norm can thus no longer subtract any of the timestep (section 2.3). Everything else is as "
    "in section 2, including the SiLU on `emb` and the residual connection. Write `forward`.",
    hints=(
        "Start from the `forward` of `ResBlock`. Remove the line that adds the timestep, and "
        "change the one with `norm2`.",
        "The projection has the shape `(b, 2 * c_out)`. Give it two axes of length one for height "
        "and width, then split it in two along the channels: `scale, shift = ... .chunk(2, "
        "dim=1)`.",
        "`h = self.norm2(h) * (1 + scale) + shift`, then `self.conv2(F.silu(h))`, added to "
        "`self.conv_shortcut(x)`.",
    ),
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
    statement="[FreeU](https://arxiv.org/abs/2309.11497) claims better images from a trained U-Net "
    "without further training. Its authors found that the map `h` from below, the *backbone*, "
    "mainly denoises, while the skips mainly add fine detail, so FreeU rescales both before each "
    "concatenation. (1) Multiply the first `c // 2` channels of `h` by `b`. (2) Take the 2D "
    "Fourier transform of `skip` over height and width, and multiply by `s` every entry whose two "
    "frequencies are both -1, 0 or 1. (`fft2` puts frequency 0 first and the negative ones last.) "
    "(3) Transform back to a real tensor. Then change `factors` in the cells after the check, and "
    "look for better images.",
    hints=(
        "Begin with the backbone: join the scaled and the unscaled half with `torch.cat`. Don't "
        "change `h` in place.",
        "`torch.fft.fft2` transforms the last two axes. Along each, its entries have the "
        "frequencies 0, 1, 2, …, -2, -1, which `torch.fft.fftfreq(n, 1 / n)` returns: the low ones "
        "are the first two and the last.",
        "Let `rows` and `columns` be true where the absolute frequency is below 1.5. Then `low = "
        "rows[:, None] & columns` and `spectrum = torch.where(low, s * spectrum, spectrum)`, and "
        "`torch.fft.ifft2(spectrum).real` transforms back. (The authors' code scales only four of "
        "these nine entries, and diffusers leaves the two upper levels of Stable Diffusion as they "
        "are.)",
    ),
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
    """Stand for the forward pass of a block below the top level, where `kept` is given."""
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
    statement="[DeepCache](https://arxiv.org/abs/2312.00858) speeds up a trained U-Net without any "
    "training. From one sampling step to the next, the map that enters the top level changes "
    "little. So for a few steps, DeepCache *reuses* this map and computes only the top level. (The "
    "*bottom* means all lower levels.) Write the forward pass with the parts from section 6. If "
    "`kept` is None, run everything. Otherwise `kept` is the input of the last upsampling level, "
    "`unet.up_blocks[-1]`, and no block below the top level may run. Return the predicted noise "
    "and the map to keep. `emb` is the embedded timestep, and the network has at least two levels. "
    "The cells after the check use your function.",
    hints=(
        "In both cases, the last upsampling level gets a map and its skips, and then the output "
        "layers follow. Only the origin of the map and the skips differs.",
        "If `kept` is None, write out `UNet.forward` and stop before the last level: the loop runs "
        "over `unet.up_blocks[:-1]`, and the h it ends with is the map to keep. Otherwise the "
        "skips are the output of `conv_in` and all that `unet.down_blocks[0]` returns except its "
        "last map.",
        "The last map of `unet.down_blocks[0](skips[0], emb, context)` comes from the downsampling "
        "and is a skip of the next level, so `[:-1]` drops it. At the end: "
        "`h = unet.up_blocks[-1](kept, skips, emb, context)`, then "
        "`return unet.conv_out(F.silu(unet.conv_norm_out(h))), kept`.",
    ),
    solution=cached_forward,
    cases=cached_cases,
)

EXERCISES = with_mistakes(__name__, RES_BLOCK, WIDTHS, UP_LEVEL, LEVEL, ADAPTIVE, FREE_U, CACHED)
