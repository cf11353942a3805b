"""Exercises and quiz of notebook 06, the U-Net."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sdlearn.course.grading.exercise import Answer, Case, Exercise, Mistake, Question, normal
from sdlearn.unet import Downsample, ResBlock, Upsample

# ------------------------------------------------------------------------------ 06.1 meeting a skip


def meet(h: Tensor, skip: Tensor) -> Tensor:
    """h (b, c, h, w), skip (b, d, height, width) -> (b, c + d, height, width)."""
    grown = F.interpolate(h, size=skip.shape[-2:], mode="nearest")
    return torch.cat([grown, skip], dim=1)


def doubled(h: Tensor) -> Tensor:
    return h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def tiled(h: Tensor, skip: Tensor) -> Tensor:
    height, width = skip.shape[-2:]
    return torch.cat([h.repeat(1, 1, 2, 2)[:, :, :height, :width], skip], dim=1)


def cut_at_the_start(h: Tensor, skip: Tensor) -> Tensor:
    height, width = skip.shape[-2:]
    return torch.cat([doubled(h)[:, :, -height:, -width:], skip], dim=1)


def with_gaps(h: Tensor, skip: Tensor) -> Tensor:
    grown = h.new_zeros(*h.shape[:2], *skip.shape[-2:])
    grown[:, :, ::2, ::2] = h
    return torch.cat([grown, skip], dim=1)


def meet_cases(rng: Generator) -> Iterator[Case]:
    for b, c, d, height, width in (
        (2, 3, 5, 7, 10),
        (2, 4, 4, 6, 8),
        (1, 2, 6, 5, 5),
        (3, 3, 3, 4, 9),
    ):
        small = normal(rng, b, c, (height + 1) // 2, (width + 1) // 2)
        yield Case((small, normal(rng, b, d, height, width)))


MEET = Exercise(
    number="06.1",
    title="Meeting a skip",
    minutes=6,
    difficulty=1,
    statement="On the way up a small map `h` meets a skip that was kept before the size was "
    "halved, odd sizes rounded up. Bring `h` to the skip's size, each of its numbers repeated over "
    "the square of positions that it stands for, and put the two together as the U-Net does: one "
    "map with the channels of `h` first and then those of the skip. (No convolution here.)",
    hints=(
        "Two steps: first the size, then the channels. The size you need stands in `skip.shape`.",
        "`F.interpolate` repeats numbers with `mode='nearest'`, and takes either a factor or a "
        "`size`. What would a factor of two make of a side that was 7?",
        "`torch.cat([F.interpolate(h, size=skip.shape[-2:], mode='nearest'), skip], dim=1)`",
    ),
    solution=meet,
    cases=meet_cases,
    mistakes=(
        Mistake(
            "the skip first",
            lambda h, skip: torch.cat([skip, meet(h, skip)[:, : h.shape[1]]], dim=1),
            "You put the skip first. No shape complains, and a network trained so would be as good "
            "as any; but in the published weights the first channels of the next convolution "
            "belong to `h`, so a picture drawn with them would be nonsense.",
        ),
        Mistake(
            "a factor of two",
            lambda h, skip: torch.cat([doubled(h), skip], dim=1),
            "You double each side. That is right for even sizes only: a side of 7 was halved to 4, "
            "and doubling makes it 8, which does not fit the skip of 7. Take the skip's size.",
        ),
        Mistake(
            "tiled",
            tiled,
            "You lay the whole map out again and again, like tiles. Each *number* must be repeated "
            "in its place (`repeat_interleave`, not `repeat`), or the right half of the map would "
            "tell of the left half of the picture.",
        ),
        Mistake(
            "interpolated smoothly",
            lambda h, skip: torch.cat(
                [F.interpolate(h, size=skip.shape[-2:], mode="bilinear"), skip], dim=1
            ),
            "You interpolate between neighbours. Stable Diffusion only repeats numbers (nearest "
            "neighbour); the smoothing is the business of the convolution that follows.",
        ),
        Mistake(
            "cut at the start",
            cut_at_the_start,
            "You double the sides and then cut off the first row or column where one is too many. "
            "Everything moves by one position against the skip. The one too many is the last.",
        ),
        Mistake(
            "zeros between",
            with_gaps,
            "You leave zeros between the numbers instead of repeating them. That is the beginning "
            "of a transposed convolution, and of its checkerboard patterns.",
        ),
        Mistake(
            "added",
            lambda h, skip: F.interpolate(h, size=skip.shape[-2:], mode="nearest") + skip,
            "You add the skip. The U-Net of Stable Diffusion puts both side by side, `torch.cat` "
            "along the channels, and leaves it to the next convolution how to mix them; adding is "
            "also impossible where the numbers of channels differ.",
        ),
        Mistake(
            "the skip made smaller",
            lambda h, skip: torch.cat(
                [h, F.interpolate(skip, size=h.shape[-2:], mode="nearest")], dim=1
            ),
            "You bring the skip down to the size of `h`. Then the detail is gone for which it was "
            "kept, and the map stays small. It is `h` that has to grow.",
        ),
    ),
)

# ------------------------------------------------------------------------ 06.2 widths on the way up


def up_widths(widths: tuple[int, ...], layers: int) -> list[int]:
    """Channels that go into each ResBlock on the way up, in the order of a forward pass."""
    skips = [widths[0]]
    for i, c in enumerate(widths):
        skips += [c] * layers + [c] * (i < len(widths) - 1)
    h, result = widths[-1], []
    for c in reversed(widths):
        for _ in range(layers + 1):
            result.append(h + skips.pop())
            h = c
    return result


def kept(widths: tuple[int, ...], layers: int) -> list[int]:
    skips = [widths[0]]
    for i, c in enumerate(widths):
        skips += [c] * (layers + (i < len(widths) - 1))
    return skips


def counted_up(
    widths: tuple[int, ...],
    layers: int,
    take: int = -1,
    more: int = 1,
    own: bool = False,
    skip: int = 1,
) -> list[int]:
    skips, h, result = kept(widths, layers), widths[-1], []
    for c in reversed(widths):
        h = c if own else h
        for _ in range(layers + more):
            result.append(h + skip * skips.pop(take))
            h = c
    return result


def level_by_level(widths: tuple[int, ...], layers: int) -> list[int]:
    below = [*widths[1:], widths[-1]]
    rows = [[b + c] + [2 * c] * layers for b, c in zip(below, widths, strict=True)]
    return [width for row in reversed(rows) for width in row]


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
    title="What comes in on the way up",
    minutes=12,
    difficulty=2,
    statement="A U-Net has levels of `widths` channels, the largest map first, with `layers` "
    "ResBlocks each on the way down and one more on the way up. How many channels go *into* each "
    "ResBlock on the way up? Return a list in the order in which a forward pass meets them, "
    "smallest map first. Every one of them gets the current map and, beside it, one skip. You "
    "would need this list to build the layers; it is where most home-made U-Nets fail.",
    hints=(
        "Write down the list of skips first, in the order of keeping: `conv_in`, then for each "
        "level its ResBlocks and, except on the last level, its downsampling. Check: for "
        "`layers = 2` and four levels these are twelve.",
        "The skips are a stack: the last one kept is the first one taken, `skips.pop()`. The "
        "current map has `widths[-1]` channels when it comes out of the middle, and the level's "
        "own width after each ResBlock.",
        "Two loops: `for c in reversed(widths)`, and inside it `for _ in range(layers + 1)`, where "
        "you append `h + skips.pop()` and then set `h = c`. The upsampling changes no channels.",
    ),
    solution=up_widths,
    cases=widths_cases,
    trained=False,
    mistakes=(
        Mistake(
            "every skip has the level's width",
            level_by_level,
            "You let every skip of a level have that level's width. The last one has not: it was "
            "made by the downsampling of the level *above*, and has that one's width. The same "
            "list comes out if you keep a downsampling of the last level, which has none.",
        ),
        Mistake(
            "the skip of conv_in counted as nothing",
            lambda widths, layers: [*up_widths(widths, layers)[:-1], widths[0]],
            "Your last ResBlock gets no skip. The very first map is kept, too, what `conv_in` "
            "makes of the input: it is the first one kept, and the last one taken.",
        ),
        Mistake(
            "the skip of conv_in forgotten",
            lambda widths, layers: up_widths(widths, layers)[:-1],
            "Your list has one entry too few at its end. The very first map is kept, too, what "
            "`conv_in` makes of the input, so there are as many skips as ResBlocks on the way up.",
        ),
        Mistake(
            "the picture as the first skip",
            lambda widths, layers: [*up_widths(widths, layers)[:-1], widths[0] + 3],
            "You keep the picture itself as the first skip, with 3 channels. What is kept is the "
            "map that `conv_in` makes of it, `widths[0]` channels wide.",
        ),
        Mistake(
            "the latent as the first skip",
            lambda widths, layers: [*up_widths(widths, layers)[:-1], widths[0] + 4],
            "You keep the latent itself as the first skip, with 4 channels. What is kept is the "
            "map that `conv_in` makes of it, `widths[0]` channels wide.",
        ),
        Mistake(
            "first in, first out",
            lambda widths, layers: counted_up(widths, layers, take=0),
            "You take the skips in the order in which they were kept. They must come off the end: "
            "the skip kept last has the size of the map you are at; the first has the largest.",
        ),
        Mistake(
            "the level's own width from the start",
            lambda widths, layers: counted_up(widths, layers, own=True),
            "You count the first ResBlock of a level as if the map had that level's width already. "
            "It still has the width of the level below; the upsampling does not change it.",
        ),
        Mistake(
            "as many as on the way down",
            lambda widths, layers: counted_up(widths, layers, more=0),
            "You use as many ResBlocks as on the way down. There is one more on each level, or "
            "some skips would never be taken: count what is left in your list at the end.",
        ),
        Mistake(
            "skips alone",
            lambda widths, layers: kept(widths, layers)[::-1],
            "You list the skips alone. Each comes beside the current map, and the ResBlock gets "
            "the channels of both.",
        ),
        Mistake(
            "maps alone",
            lambda widths, layers: counted_up(widths, layers, skip=0),
            "You list the current map alone. Each ResBlock also gets a skip, put beside it along "
            "the channels.",
        ),
        Mistake(
            "largest map first",
            lambda widths, layers: up_widths(widths, layers)[::-1],
            "The numbers are right, in the wrong order: the way up begins at the smallest map.",
        ),
    ),
)

# ------------------------------------------------------------------- 06.3 a ResBlock with more time


class AdaptiveBlock(nn.Module):
    """A ResBlock in which the time scales and shifts what the second norm gives."""

    def __init__(self, c_in: int, c_out: int, time_dim: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, c_in, eps=1e-5)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, 2 * c_out)
        self.norm2 = nn.GroupNorm(groups, c_out, eps=1e-5)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x (b, c_in, h, w), emb (b, time_dim) -> (b, c_out, h, w)."""
        told = self.time_emb_proj(F.silu(emb))[:, :, None, None]
        scale, shift = told.chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.norm2(h) * (1 + scale) + shift
        return self.conv_shortcut(x) + self.conv2(F.silu(h))


def told(block: AdaptiveBlock, emb: Tensor) -> tuple[Tensor, Tensor]:
    scale, shift = block.time_emb_proj(F.silu(emb))[:, :, None, None].chunk(2, dim=1)
    return scale, shift


def first_half(block: AdaptiveBlock, x: Tensor) -> Tensor:
    return block.conv1(F.silu(block.norm1(x)))


class NoOne(AdaptiveBlock):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = told(self, emb)
        h = self.norm2(first_half(self, x)) * scale + shift
        return self.conv_shortcut(x) + self.conv2(F.silu(h))


class Rectified(AdaptiveBlock):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = told(self, emb)
        h = self.norm2(self.conv1(F.relu(self.norm1(x)))) * (1 + scale) + shift
        return self.conv_shortcut(x) + self.conv2(F.relu(h))


class ShiftInTheScale(AdaptiveBlock):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = told(self, emb)
        h = self.norm2(first_half(self, x)) * (1 + scale + shift)
        return self.conv_shortcut(x) + self.conv2(F.silu(h))


class HalvesExchanged(AdaptiveBlock):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        shift, scale = told(self, emb)
        h = self.norm2(first_half(self, x)) * (1 + scale) + shift
        return self.conv_shortcut(x) + self.conv2(F.silu(h))


class BeforeTheNorm(AdaptiveBlock):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = told(self, emb)
        h = self.norm2(first_half(self, x) * (1 + scale) + shift)
        return self.conv_shortcut(x) + self.conv2(F.silu(h))


class AfterSiLU(AdaptiveBlock):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = told(self, emb)
        h = F.silu(self.norm2(first_half(self, x))) * (1 + scale) + shift
        return self.conv_shortcut(x) + self.conv2(h)


class RawTime(AdaptiveBlock):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = self.time_emb_proj(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(first_half(self, x)) * (1 + scale) + shift
        return self.conv_shortcut(x) + self.conv2(F.silu(h))


class SiLUFirst(AdaptiveBlock):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = told(self, emb)
        h = self.conv1(self.norm1(F.silu(x)))
        h = self.norm2(F.silu(h)) * (1 + scale) + shift
        return self.conv_shortcut(x) + self.conv2(h)


class NoWayAround(AdaptiveBlock):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = told(self, emb)
        h = self.norm2(first_half(self, x)) * (1 + scale) + shift
        return self.conv2(F.silu(h))


class NormalisedWayAround(AdaptiveBlock):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = told(self, emb)
        x = F.silu(self.norm1(x))
        h = self.norm2(self.conv1(x)) * (1 + scale) + shift
        return self.conv_shortcut(x) + self.conv2(F.silu(h))


class ShiftOnly(AdaptiveBlock):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        _, shift = told(self, emb)
        h = self.norm2(first_half(self, x) + shift)
        return self.conv_shortcut(x) + self.conv2(F.silu(h))


class NoSecondSiLU(AdaptiveBlock):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = told(self, emb)
        h = self.norm2(first_half(self, x)) * (1 + scale) + shift
        return self.conv_shortcut(x) + self.conv2(h)


class ShiftedThenScaled(AdaptiveBlock):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift = told(self, emb)
        h = (self.norm2(first_half(self, x)) + shift) * (1 + scale)
        return self.conv_shortcut(x) + self.conv2(F.silu(h))


class Interleaved(AdaptiveBlock):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        both = self.time_emb_proj(F.silu(emb))[:, :, None, None]
        h = self.norm2(first_half(self, x)) * (1 + both[:, ::2]) + both[:, 1::2]
        return self.conv_shortcut(x) + self.conv2(F.silu(h))


def adaptive_cases(rng: Generator) -> Iterator[Case]:
    for b, h, w, build in (
        (2, 5, 7, (6, 8, 10, 2)),
        (3, 4, 4, (8, 8, 8, 4)),
        (1, 3, 6, (4, 4, 5, 2)),
    ):
        c_in, _, time_dim, _ = build
        yield Case((2 * normal(rng, b, c_in, h, w) + 1, normal(rng, b, time_dim)), build)


ADAPTIVE = Exercise(
    number="06.3",
    title="A ResBlock that hears more",
    minutes=15,
    difficulty=2,
    statement="In Stable Diffusion the time is added after `conv1`. Another U-Net of that time, "
    "[ADM](https://arxiv.org/abs/2105.05233), lets it do more: the projection gives *two* numbers "
    "for each channel, `scale` first and then `shift`, and they act on what the second norm gives: "
    "`norm2(h) * (1 + scale) + shift`, before the SiLU. All else is as in section 2, the SiLU on "
    "`emb` and the way around included. The layers are given; write `forward`.",
    hints=(
        "Begin with the `forward` of `ResBlock`. The line in which the time is added goes; the one "
        "with `norm2` changes.",
        "The projection gives `(b, 2 * c_out)`. Give it two axes of length one for height and "
        "width, then cut it in two along the channels: `scale, shift = ... .chunk(2, dim=1)`.",
        "`h = self.norm2(h) * (1 + scale) + shift`, then `self.conv2(F.silu(h))`, added to "
        "`self.conv_shortcut(x)`.",
    ),
    solution=AdaptiveBlock,
    cases=adaptive_cases,
    mistakes=(
        Mistake(
            "no one plus",
            NoOne,
            "You multiply by `scale` instead of `1 + scale`. At the start of training the "
            "projection gives numbers near zero, and your block would be nearly silent.",
        ),
        Mistake(
            "halves exchanged",
            HalvesExchanged,
            "You take the first half as the shift and the second as the scale. No shape complains; "
            "only with weights from elsewhere would you notice.",
        ),
        Mistake(
            "before the norm",
            BeforeTheNorm,
            "You scale and shift before `norm2`, which takes much of both away again: it divides "
            "by the spread and subtracts the mean. They must act on what the norm gives.",
        ),
        Mistake(
            "after the SiLU",
            AfterSiLU,
            "You scale and shift after the SiLU. The time could then no longer decide which "
            "channels the SiLU lets through, which is what it is there for.",
        ),
        Mistake(
            "no SiLU on the time",
            RawTime,
            "You project `emb` as it is. `emb` comes out of a linear layer, and two linear layers "
            "in a row are only one: the SiLU between them, `F.silu(emb)`, is missing.",
        ),
        Mistake(
            "SiLU before the norm",
            SiLUFirst,
            "You apply SiLU before the norms. The order is norm, SiLU, convolution: the norm "
            "brings the numbers to where the SiLU bends.",
        ),
        Mistake(
            "no way around",
            NoWayAround,
            "You return the result of the convolutions alone. The way around them is missing: add "
            "`self.conv_shortcut(x)`.",
        ),
        Mistake(
            "a normalised way around",
            NormalisedWayAround,
            "What goes around the convolutions is no longer x but its normalised version: have you "
            "used the name `x` twice? The stream itself must go through untouched.",
        ),
        Mistake(
            "shifted as before",
            ShiftOnly,
            "You add `shift` after `conv1`, as Stable Diffusion does, and never use `scale`. Here "
            "both act after `norm2`.",
        ),
        Mistake(
            "no second SiLU",
            NoSecondSiLU,
            "The second SiLU is missing, between the scaled and shifted map and `conv2`. All else "
            "is right.",
        ),
        Mistake(
            "ReLU for SiLU",
            Rectified,
            "Your activation is ReLU; the ResBlock's is SiLU, x · sigmoid(x), which is smooth and "
            "lets a little of the negative values through.",
        ),
        Mistake(
            "the shift in the scale",
            ShiftInTheScale,
            "You add the shift to the scale, so that the map is multiplied by both. The shift is "
            "added after the multiplication: `norm2(h) * (1 + scale) + shift`.",
        ),
        Mistake(
            "shifted, then scaled",
            ShiftedThenScaled,
            "You shift first and then scale, so that the shift is scaled, too. The scale comes "
            "first: a product, and then a sum.",
        ),
        Mistake(
            "every other number",
            Interleaved,
            "You take every other number as a scale and those between as shifts. All scales come "
            "first, then all shifts: cut the channels into two halves.",
        ),
    ),
)

# --------------------------------------------------------------------------- 06.4 counting a level


def level_parameters(c_below: int, c: int, skips: tuple[int, ...], time_dim: int, top: bool) -> int:
    """Parameters of one level on the way up, c channels wide and without transformers."""
    total, h = 0, c_below
    for skip in skips:
        c_in = h + skip
        total += 2 * c_in + 2 * c  # the norms: a weight and a bias for each channel
        total += 9 * c_in * c + c + 9 * c * c + c
        total += time_dim * c + c
        total += c_in * c + c if c_in != c else 0
        h = c
    return total + (0 if top else 9 * c * c + c)


def tallied(
    norms: int = 2,
    biases: int = 1,
    kernel: int = 9,
    shortcut: Callable[[int, int], bool] = lambda c_in, c: c_in != c,
    time: int = 1,
    own: bool = False,
    use_skips: bool = True,
    grow: Callable[[bool], bool] = lambda top: not top,
) -> Callable[[int, int, tuple[int, ...], int, bool], int]:
    """The count with something left out."""

    def count(c_below: int, c: int, skips: tuple[int, ...], time_dim: int, top: bool) -> int:
        total, h = 0, c if own else c_below
        for skip in skips:
            c_in = h + skip * use_skips
            total += norms * (c_in + c) + kernel * (c_in * c + c * c) + 2 * c * biases
            total += time * (time_dim * c + c * biases)
            total += (c_in * c + c * biases) * shortcut(c_in, c)
            h = c
        return total + (kernel * c * c + c * biases) * grow(top)

    return count


def off(
    a_block: Callable[[int, int], int], upsampling: int = 0
) -> Callable[[int, int, tuple[int, ...], int, bool], int]:
    """The count with so much too many for each ResBlock (c_in, c), and c times for the
    upsampling."""

    def count(c_below: int, c: int, skips: tuple[int, ...], time_dim: int, top: bool) -> int:
        widths = [c_below + skips[0], *(c + skip for skip in skips[1:])]
        more = sum(a_block(c_in, c) for c_in in widths) + upsampling * c * (not top)
        return level_parameters(c_below, c, skips, time_dim, top) + more

    return count


def never_changed(c_below: int, c: int, skips: tuple[int, ...], time_dim: int, top: bool) -> int:
    blocks = [level_parameters(c_below, c, (skip,), time_dim, True) for skip in skips]
    return sum(blocks) + (0 if top else 9 * c * c + c)


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
    minutes=15,
    difficulty=2,
    statement="How many parameters has one level on the way up? It is `c` channels wide and has no "
    "transformers. The map comes from below with `c_below` channels; there is one ResBlock for "
    "each entry of `skips`, the channels of the skips in the order in which they are taken. "
    "`time_dim` is the width of `emb`. Except on the `top` level an upsampling with its "
    "convolution follows. Count every weight and bias of the layers in sections 2 and 3. To try "
    "it: `level_parameters(1280, 1280, (1280, 1280, 1280), 1280, False)` is the first level on the "
    "way up in the Stable Diffusion of section 7, and must be "
    "`sum(p.numel() for p in large.up_blocks[0].parameters())`.",
    hints=(
        "Go through `ResBlock.__init__` line by line. A convolution of size $k$ has "
        "$k^2 c_{in} c_{out}$ weights and $c_{out}$ biases, a group norm two numbers for each of "
        "its channels, a linear layer $c_{in} c_{out}$ weights and $c_{out}$ biases.",
        "Into the first ResBlock go `c_below + skips[0]` channels, into each later one "
        "`c + skip`. The first norm has as many channels as go in. The shortcut exists where the "
        "number of channels changes.",
        "With c_in for what goes in, a ResBlock has `2 * c_in + 9 * c_in * c + c + time_dim * c "
        "+ c + 2 * c + 9 * c * c + c`, and `c_in * c + c` more where `c_in != c`. The upsampling "
        "has `9 * c * c + c`.",
    ),
    solution=level_parameters,
    cases=level_cases,
    trained=False,
    mistakes=(
        Mistake(
            "no shortcuts",
            tallied(shortcut=lambda c_in, c: False),
            "The shortcuts are missing: where the number of channels changes, and with a skip it "
            "nearly always does, a convolution of size one leads around the block.",
        ),
        Mistake(
            "a shortcut everywhere",
            tallied(shortcut=lambda c_in, c: True),
            "You count a shortcut in every ResBlock. It exists only where `c_in != c`; with the "
            "right skip, map and skip together can have `c` channels already.",
        ),
        Mistake(
            "no skips",
            tallied(use_skips=False),
            "You count the ResBlocks without their skips. On the way up each gets the current map "
            "*and* a skip, so its first norm, first convolution and shortcut are wider.",
        ),
        Mistake(
            "the level's own width from below",
            tallied(own=True),
            "You let the map come in with `c` channels. It has the `c_below` of the level below "
            "until the first ResBlock has changed it.",
        ),
        Mistake(
            "the width from below to the end",
            never_changed,
            "You let the map keep its `c_below` channels through the whole level. The first "
            "ResBlock makes it `c` wide, and that is what meets the later skips.",
        ),
        Mistake(
            "a shortcut of size three",
            off(lambda c_in, c: 8 * c_in * c * (c_in != c)),
            "You count the shortcut as a convolution of size three. It is of size one: it mixes "
            "the channels of each position and looks at no neighbours.",
        ),
        Mistake(
            "the first norm as wide as the second",
            off(lambda c_in, c: 2 * (c - c_in)),
            "You give both norms `c` channels. The first stands before `conv1` and normalises all "
            "that comes in, map and skip.",
        ),
        Mistake(
            "one bias less",
            off(lambda c_in, c: -c),
            "One bias is missing in each ResBlock, `c` numbers: both convolutions have one, and "
            "`time_emb_proj` has one, too.",
        ),
        Mistake(
            "no bias in the upsampling",
            off(lambda c_in, c: 0, upsampling=-1),
            "The ResBlocks are right. The upsampling's convolution has a bias, too, `c` numbers.",
        ),
        Mistake(
            "no biases",
            tallied(biases=0),
            "The biases are missing: one for each channel that a convolution or linear layer "
            "gives. They are few, and an exact count needs them.",
        ),
        Mistake(
            "no norms",
            tallied(norms=0),
            "The group norms are missing. They have parameters, too: a weight and a bias for each "
            "of their channels.",
        ),
        Mistake(
            "the first norm alone",
            off(lambda c_in, c: -2 * c),
            "You count one norm in each ResBlock, the first. There are two: the second one comes "
            "after the first convolution, on c channels, and has 2 · c parameters.",
        ),
        Mistake(
            "the second norm alone",
            off(lambda c_in, c: -2 * c_in),
            "You count one norm in each ResBlock, the second. There are two: the first one comes "
            "before the first convolution, on the map and the skip together, and has 2 parameters "
            "for each of these channels.",
        ),
        Mistake(
            "no norms and no biases",
            tallied(norms=0, biases=0),
            "You count the weights of the convolutions and of the time projection, and nothing "
            "else. Every one of them has a bias, and every norm a weight and a bias for each "
            "channel.",
        ),
        Mistake(
            "norms with one number",
            tallied(norms=1),
            "You count one number for each channel of a group norm; it has two, a weight and a "
            "bias.",
        ),
        Mistake(
            "no time",
            tallied(time=0),
            "`time_emb_proj` is missing: each ResBlock has its own, from `time_dim` to `c`.",
        ),
        Mistake(
            "three for nine",
            tallied(kernel=3),
            "You count 3 weights for a convolution of size 3. Its kernel is 3 high and 3 wide.",
        ),
        Mistake(
            "no upsampling",
            tallied(grow=lambda top: False),
            "The upsampling's convolution is missing on the levels that have one.",
        ),
        Mistake(
            "upsampling on top",
            tallied(grow=lambda top: True),
            "You count an upsampling on the top level, too. There the map has its full size "
            "already.",
        ),
    ),
)

# ------------------------------------------------------------------------- 06.5 a dial on each skip


class DialUNet(nn.Module):
    """A U-Net without text, with two ResBlocks a level on the way up and a dial on every skip."""

    def __init__(self, widths: tuple[int, ...], time_dim: int, groups: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down, self.up, kept = nn.ModuleList(), nn.ModuleList(), [widths[0]]
        for c in widths:
            self.down.append(ResBlock(kept[-1], c, time_dim, groups))
            kept += [c, c]
        kept.pop()  # the last level has no downsampling
        h = widths[-1]
        self.mid = ResBlock(h, h, time_dim, groups)
        for c in reversed(widths):
            self.up.append(ResBlock(h + kept.pop(), c, time_dim, groups))
            self.up.append(ResBlock(c + kept.pop(), c, time_dim, groups))
            h = c
        self.shrink = nn.ModuleList(Downsample(c) for c in widths[:-1])
        self.grow = nn.ModuleList(Upsample(c) for c in widths[:0:-1])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor, dials: list[float]) -> Tensor:
        """x (b, 3, h, w), emb (b, time_dim), one dial a skip, first kept first -> (b, 3, h, w)."""
        h = self.conv_in(x)
        skips = [h]
        for i, block in enumerate(self.down):
            h = block(h, emb)
            skips.append(h)
            if i < len(self.shrink):
                h = self.shrink[i](h)
                skips.append(h)
        skips = [dial * skip for dial, skip in zip(dials, skips, strict=True)]
        h = self.mid(h, emb)
        for i, block in enumerate(self.up):
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
            if i % 2 == 1 and skips:
                h = self.grow[i // 2](h, skips[-1].shape[-2:])
        return self.conv_out(h)


class Wandering(DialUNet):
    """The right walk, but for what a subclass changes."""

    order, take = 1, -1  # of the dials; which skip is taken
    stream = skip_first = no_mid = factor = hard = deaf = shrunk = middle = False

    def forward(self, x: Tensor, emb: Tensor, dials: list[float]) -> Tensor:
        dials = [1.0 if self.deaf or (self.hard and dial) else dial for dial in dials]
        dials = dials[:: self.order]
        skips: list[Tensor] = []

        def keep(h: Tensor) -> Tensor:
            skips.append(dials[len(skips)] * h)
            return skips[-1] if self.stream else h

        h = keep(self.conv_in(x))
        for i, block in enumerate(self.down):
            h = keep(block(h, emb))
            if i < len(self.shrink):
                h = keep(self.shrink[i](skips[-1] if self.shrunk else h))
        h = skips[-1] if self.middle else h
        h = h if self.no_mid else self.mid(h, emb)
        for i, block in enumerate(self.up):
            skip = skips.pop(self.take)
            h = block(torch.cat([skip, h] if self.skip_first else [h, skip], dim=1), emb)
            if i % 2 == 1 and skips:
                twice = torch.Size((2 * h.shape[2], 2 * h.shape[3]))
                h = self.grow[i // 2](h, twice if self.factor else skips[-1].shape[-2:])
        return self.conv_out(h)


class DialsReversed(Wandering):
    order = -1


class FirstInFirstOut(Wandering):
    take = 0


class StreamTurnedDown(Wandering):
    stream = True


class ShrinkTurnedDown(Wandering):
    shrunk = True


class MiddleTurnedDown(Wandering):
    middle = True


class SkipFirst(Wandering):
    skip_first = True


class NoMiddle(Wandering):
    no_mid = True


class TwiceAsLarge(Wandering):
    factor = True


class SwitchNotDial(Wandering):
    hard = True


class DialsUnused(Wandering):
    deaf = True


def dial_cases(rng: Generator) -> Iterator[Case]:
    for b, h, w, build in (
        (2, 9, 14, ((4, 6, 8), 5, 2)),
        (1, 6, 4, ((4, 4), 7, 2)),
        (2, 5, 3, ((6,), 5, 3)),
    ):
        widths, time_dim, _ = build
        dials = [0.0, *torch.rand(2 * len(widths) - 1, generator=rng).tolist()]
        yield Case((normal(rng, b, 3, h, w), normal(rng, b, time_dim), dials), build)


DIAL = Exercise(
    number="06.5",
    title="A dial on every skip",
    minutes=25,
    difficulty=3,
    statement="Write the whole walk through a small U-Net whose skips can be turned down, each "
    "by its own dial: skip $k$ is multiplied by `dials[k]`, counted in the order in which the "
    "skips are *kept*. With all dials at one this is an ordinary U-Net. What goes on *down* is not "
    "turned down, only what is kept. The layers are given: `down` has one ResBlock a level, "
    "`shrink` a downsampling for every level but the last, `up` two ResBlocks a level, smallest "
    "map first, and `grow` the upsampling after each pair of them but the last. Any height and "
    "width must do.",
    hints=(
        "Keep a list. `conv_in`, every ResBlock on the way down and every downsampling adds what "
        "it gave. Then `mid`. On the way up every ResBlock takes one off the end of the list.",
        "Multiply the whole list once, before the way up begins: the k-th entry by `dials[k]`. If "
        "you multiply while taking, count backwards.",
        "The way up: `h = block(torch.cat([h, skips.pop()], dim=1), emb)` for each block of `up`; "
        "after every second one, while there are skips left, "
        "`h = self.grow[i // 2](h, skips[-1].shape[-2:])`.",
    ),
    solution=DialUNet,
    cases=dial_cases,
    mistakes=(
        Mistake(
            "dials in the order of taking",
            DialsReversed,
            "You turn the dials in the order in which the skips are taken. The last one kept is "
            "taken first, so your dials are in reverse: `dials[0]` belongs to `conv_in`.",
        ),
        Mistake(
            "first in, first out",
            FirstInFirstOut,
            "You take the skips in the order in which they were kept. The last one kept must be "
            "taken first; yours would only fit if all maps had the same size and width.",
        ),
        Mistake(
            "the stream turned down",
            StreamTurnedDown,
            "You turn down `h` itself, so that what goes on down is turned down, too. A dial at 0 "
            "would then silence everything below it. Only the copy that is kept shall change.",
        ),
        Mistake(
            "the downsampling gets the copy",
            ShrinkTurnedDown,
            "Your downsampling gets the map that was turned down. It goes on from the map itself, "
            "`h`; what the dial changes is only for the way up.",
        ),
        Mistake(
            "the middle gets the copy",
            MiddleTurnedDown,
            "Your `mid` gets the last skip, already turned down, instead of `h`. What the last "
            "level gave goes into the middle whole; only its copy has a dial.",
        ),
        Mistake(
            "the skip first",
            SkipFirst,
            "You put the skip before the map. The map comes first: `torch.cat([h, skip], dim=1)`. "
            "Shapes agree either way; the weights do not.",
        ),
        Mistake(
            "no middle",
            NoMiddle,
            "You never go through `self.mid`, between the way down and the way up.",
        ),
        Mistake(
            "twice as large",
            TwiceAsLarge,
            "You make the map twice as large. A side of 9 became 5 on the way down, and twice 5 is "
            "10. Grow to the size of the skip that is waiting: `skips[-1].shape[-2:]`.",
        ),
        Mistake(
            "switches",
            SwitchNotDial,
            "Your dials are switches: every skip is either whole or silent. Multiply by the dial.",
        ),
        Mistake(
            "dials unused",
            DialsUnused,
            "Your walk is right, and the dials do nothing: multiply skip k by `dials[k]`.",
        ),
    ),
)

EXERCISES = (MEET, WIDTHS, ADAPTIVE, LEVEL, DIAL)

# -------------------------------------------------------------------------------------------- quiz

QUESTIONS = (
    Question(
        "The time is added as one number for each channel, and then `norm2` follows. What would "
        "happen if `norm2` normalised every channel by itself?",
        (
            Answer(
                "The same as before; a norm only scales.",
                False,
                "A norm also subtracts the mean of what it normalises, and here that mean would be "
                "all the time has to say.",
            ),
            Answer(
                "The block would no longer hear the time.",
                True,
                "A constant added to a whole channel moves its mean, and only that. The norm would "
                "subtract it again. In groups of several channels the differences between them "
                "remain.",
            ),
            Answer(
                "The time would count more, since each channel has its own number.",
                False,
                "Each channel has its own number in any case. The question is whether the norm "
                "leaves it there.",
            ),
        ),
    ),
    Question(
        "Which twelve feature maps are the skips of Stable Diffusion 1.5?",
        (
            Answer(
                "Three for each of the four levels: what its three ResBlocks gave.",
                False,
                "On the way down there are two ResBlocks a level; three are on the way up.",
            ),
            Answer(
                "The outputs of the twelve ResBlocks and transformers of the way down.",
                False,
                "Where a transformer follows a ResBlock, only what the transformer gave is kept.",
            ),
            Answer(
                "The output of `conv_in`, two for each of the four levels, and three "
                "downsamplings.",
                True,
                "The last level has no downsampling. Counted by size instead, these are three "
                "skips for each of the four sizes of the map.",
            ),
        ),
    ),
    Question(
        "Where do positions of the smallest map look at each other in Stable Diffusion 1.5?",
        (
            Answer(
                "Only in the middle block.",
                True,
                "The last level has ResBlocks alone, down and up. The middle has a transformer "
                "between its two ResBlocks, whatever the last level does.",
            ),
            Answer(
                "On the way down, in the middle and on the way up, as for every size.",
                False,
                "So it is for the three larger sizes, except that they have no middle.",
            ),
            Answer(
                "Nowhere: at that size there are only ResBlocks.",
                False,
                "True of the last level's down and up blocks, but the middle works on the same "
                "size.",
            ),
        ),
    ),
)
