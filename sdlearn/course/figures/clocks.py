"""A timestep's frequencies drawn as clocks, and its embedding as bars."""

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.images import label_font
from sdlearn.course.figures.style import BLUE, INK, VERMILION, Described

FACE, GAP, LINE = 72, 14, 18  # diameter of a clock, gap between two, line height, in pixels
LETTERS = 14  # their size in pixels: a phone shrinks the figure to about 350 pixels
FINE = 4  # antialiasing factor of the clocks


def frequencies(dim: int, max_period: float = 10000) -> Tensor:
    """Return the frequencies in radians per step of t, (dim / 2,) float64, the highest first."""
    half = dim // 2
    return max_period ** (-torch.arange(half, dtype=torch.float64) / half)


def clock_hands(t: float | Tensor, dim: int, max_period: float = 10000) -> Tensor:
    """Return the sinusoidal embedding in float64: the cosines of all frequencies, then the sines.

    Args:
        t: Timesteps, a number or a tensor (...).
        dim: Number of channels, even.
        max_period: See `sdlearn.embeddings.sinusoidal_embedding`.

    Returns:
        (..., dim).
    """
    angles = torch.as_tensor(t, dtype=torch.float64)[..., None] * frequencies(dim, max_period)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


# ------------------------------------------------------------------------------------ drawn clocks


def pick_clocks(dim: int, count: int) -> list[int]:
    """Choose up to `count` of dim / 2 frequencies, evenly spaced from the highest (0) down."""
    count = min(count, dim // 2)
    return [round(k * (dim // 2 - 1) / max(count - 1, 1)) for k in range(count)]


def clock_face(angle: float, other: float | None = None) -> Image.Image:
    """Draw one clock; at angle 0 its hand points up, and it turns clockwise.

    Args:
        angle: Of the blue hand, in radians.
        other: Of a thin vermilion second hand, or None.
    """
    size, middle, radius = FACE * FINE, FACE * FINE / 2, 0.46 * FACE * FINE
    picture = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(picture)
    edge = middle - radius, middle - radius, middle + radius, middle + radius
    pen.ellipse(edge, outline=INK, width=FINE)
    for quarter in range(4):
        x, y = hand_direction(quarter * torch.pi / 2)
        inner, outer = 0.9 * radius, radius
        ends = [(middle + r * x, middle - r * y) for r in (inner, outer)]
        pen.line(ends, INK, FINE)
    for turned, colour, width, reach in ((other, VERMILION, 3, 0.95), (angle, BLUE, 4, 0.8)):
        if turned is not None:
            x, y = hand_direction(turned)
            tip = middle + reach * radius * x, middle - reach * radius * y
            pen.line([(middle, middle), tip], colour, width * FINE)
    dot = 3 * FINE
    pen.ellipse((middle - dot, middle - dot, middle + dot, middle + dot), fill=BLUE)
    return picture.resize((FACE, FACE), Image.Resampling.LANCZOS)


def hand_direction(angle: float) -> tuple[float, float]:
    """Return how far right (the sine) and up (the cosine) a hand points."""
    turned = torch.tensor(angle, dtype=torch.float64)
    return float(turned.sin()), float(turned.cos())


def clock_rows(
    times: Sequence[float],
    dim: int,
    title: str,
    max_period: float = 10000,
    clocks: Sequence[int] | None = None,
) -> Described:
    """Draw a row of clocks for each time, the fastest on the left, with their wavelengths below.

    Args:
        times: Timesteps, one a row.
        dim: Number of channels; there are dim / 2 frequencies.
        title: Written above.
        max_period: See `frequencies`.
        clocks: Which of the frequencies are drawn; None for eight, evenly spaced.
    """
    clocks = pick_clocks(dim, 8) if clocks is None else clocks
    speeds = frequencies(dim, max_period)
    left, top = 92, 2 * LINE
    wide = left + len(clocks) * (FACE + GAP)
    drawn = Image.new("RGB", (wide, top + len(times) * (FACE + GAP) + 4 * LINE), "white")
    pen, font = ImageDraw.Draw(drawn), label_font(LETTERS)
    pen.text((8, 6), title, INK, label_font(LETTERS, bold=True))
    for row, t in enumerate(times):
        y = top + row * (FACE + GAP)
        pen.text((8, y + FACE / 2), f"t = {t:g}", INK, font, anchor="lm")
        for column, i in enumerate(clocks):
            drawn.paste(clock_face(t * float(speeds[i])), (left + column * (FACE + GAP), y))
    y = top + len(times) * (FACE + GAP)
    pen.text((8, y), "clock", INK, font)
    pen.text((8, y + LINE), "wavelength", INK, font)
    for column, i in enumerate(clocks):
        x = left + column * (FACE + GAP) + FACE / 2
        label_clock(pen, x, y, i, float(speeds[i]))
    turns = "; ".join(
        f"at t = {t:g}: " + ", ".join(f"{t * float(speeds[i]) / torch.pi / 2:.3g}" for i in clocks)
        for t in times
    )
    words = (
        f"A row of {len(clocks)} clocks for each of {len(times)} timesteps, the highest frequency "
        f"on the left. From left to right the hands have made this many turns since t = 0, {turns}."
    )
    return Described(drawn, words)


def label_clock(pen: ImageDraw.ImageDraw, x: float, y: float, i: int, speed: float) -> None:
    """Write the number and the wavelength of a frequency below its clock."""
    turn = 2 * torch.pi / speed
    steps = f"{turn:.1f}" if turn < 100 else f"{turn:,.0f}"
    for k, text in enumerate((f"i = {i}", steps, "steps")):
        pen.text((x, y + k * LINE), text, INK, label_font(LETTERS), anchor="ma")


def clock_figure(
    t: float, other: float, dim: int, max_period: float = 10000, count: int = 6
) -> Image.Image:
    """Draw the embedding of t: some of its frequencies as clocks, and the whole vector as bars.

    The thin vermilion hands and the short vermilion marks on the bars show the `other` time. The
    cosine similarity of the two embeddings is written above.
    """
    clocks, speeds = pick_clocks(dim, count), frequencies(dim, max_period)
    left, wide, tall = 44, 44 + 6 * (FACE + GAP) + 10, 120
    top = 4 * LINE
    bars = top + FACE + 5 * LINE
    drawn = Image.new("RGB", (wide, bars + tall + 3 * LINE), "white")
    pen, font, bold = (
        ImageDraw.Draw(drawn), label_font(LETTERS), label_font(LETTERS, bold=True)
    )  # fmt: skip
    here, there = (clock_hands(time, dim, max_period) for time in (t, other))
    head = (
        f"{len(clocks)} of {dim // 2} frequencies, max_period {max_period:,}",
        f"blue: t = {t:g}, orange: t' = {other:g}",
        f"similarity of the two embeddings: {float(here @ there) / (dim // 2):.3f}",
    )
    for k, line in enumerate(head):
        pen.text((8, 6 + k * LINE), line, INK, font if k else bold)
    for column, i in enumerate(clocks):
        edge = left + column * (FACE + GAP)
        drawn.paste(clock_face(t * float(speeds[i]), other * float(speeds[i])), (edge, top))
        label_clock(pen, edge + FACE / 2, top + FACE + 4, i, float(speeds[i]))
    pen.text((8, bars - LINE - 4), f"The embedding of t, {dim} channels", INK, bold)
    width = (wide - left - 10) / dim
    middle = bars + tall / 2
    for value in (1, 0, -1):
        y = middle - value * tall / 2
        pen.line([(left, y), (left + dim * width, y)], "#cbd2d9")
        pen.text((left - 6, y), f"{value}", INK, font, anchor="rm")
    for k, pair in enumerate(zip(here, there, strict=True)):
        x, y, mark = (left + k * width, *(middle - float(v) * tall / 2 for v in pair))
        pad = 0.15 * width if width > 4 else 0
        pen.rectangle((x + pad, min(y, middle), x + width - pad, max(y, middle)), BLUE)
        pen.line([(x, mark), (x + width, mark)], VERMILION, 2)
    half = left + dim / 2 * width
    pen.line([(half, bars - 4), (half, bars + tall + 4)], INK)
    for x, text, anchor in (
        (left, "0", "ma"),
        ((left + half) / 2, "cosines", "ma"),
        (half, f"{dim // 2}", "ma"),
        (half + dim / 4 * width, "sines", "ma"),
        (left + dim * width, f"{dim - 1}", "ra"),
    ):
        pen.text((x, bars + tall + 6), text, INK, font, anchor=anchor)
    pen.text((wide / 2, bars + tall + 6 + LINE), "channel", INK, font, anchor="ma")
    return drawn
