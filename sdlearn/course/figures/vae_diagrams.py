"""Diagrams of the autoencoder: its levels, its ResBlock, its windows, and a GAN."""

from itertools import pairwise

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sdlearn.course.figures import diagrams
from sdlearn.course.figures.diagrams import ATTENTION, CONV, LINEAR, MLP, NORM, arrow, box, label
from sdlearn.course.figures.plots import WIDE
from sdlearn.course.figures.style import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PALE,
    PURPLE,
    VERMILION,
    Described,
    in_style,
    tint,
)

LEVELS = ((128, 512, 6.0), (256, 256, 4.4), (512, 128, 3.2), (512, 64, 2.2))  # channels, side


@in_style
def autoencoder() -> Described:
    """Draw the autoencoder of Stable Diffusion: four levels down, the posterior, four levels up."""
    figure, ax = diagrams.canvas(23, 7.7, "The autoencoder of Stable Diffusion 1, 512 × 512 pixels")
    middle = 4.4

    def block(x: float, height: float, colour: str, name: str, width: float = 1.1) -> None:
        corner = (x - width / 2, middle - height / 2)
        ax.add_patch(Rectangle(corner, width, height, facecolor=colour, edgecolor=INK, lw=0.9))
        ax.text(x, middle, name, ha="center", va="center", fontsize=8.5, linespacing=1.3)

    block(0.85, 6.0, PALE, "image\n\n3 ×\n512²", 1.3)
    block(22.15, 6.0, PALE, "image\n\n3 ×\n512²", 1.3)
    for k, (channels, side, height) in enumerate(LEVELS):
        for x in (2.6 + 1.6 * k, 20.4 - 1.6 * k):
            block(x, height, CONV, f"{channels} ×\n{side}²")
    for x in (8.9, 14.1):
        block(x, 2.2, ATTENTION, "mid", 0.9)
    xs = [0.85, 2.6, 4.2, 5.8, 7.4, 8.9]
    for start, end in pairwise(xs):
        gap = 0.65 if start == 0.85 else 0.55
        left = end - (0.45 if end == 8.9 else 0.55)
        arrow(ax, [(start + gap, middle), (left, middle)])
        right = 23 - start - (0.65 if start == 0.85 else 0.55)
        arrow(ax, [(23 - left, middle), (right, middle)])
    for y, name, colour in ((5.2, "mean", LINEAR), (3.6, "logvar", LINEAR)):
        arrow(ax, [(9.35, middle), (9.65, y)])
        box(ax, 10.3, y, name, colour, w=1.25, h=0.9)
        arrow(ax, [(10.93, y), (11.35, middle + (0.25 if y > middle else -0.25))])
    box(ax, 11.75, middle, "z", tint(ORANGE, 0.7), w=0.8, h=1.4)
    arrow(ax, [(11.75, 6.9), (11.75, 5.12)], PURPLE)
    label(ax, 11.75, 7.2, "noise ε", PURPLE)
    arrow(ax, [(12.15, middle), (13.63, middle)])
    label(ax, 11.75, 2.5, "latent\n4 × 64²", MUTED)
    label(ax, 5.0, 0.6, "encoder: 2 ResBlocks a level, Downsample between levels", MUTED)
    label(ax, 18.0, 0.6, "decoder: 3 ResBlocks a level, Upsample between levels", MUTED)
    words = (
        "A diagram from left to right. An image of 3 times 512 times 512 goes through four levels "
        "of the encoder: 128 channels at 512, 256 at 256, 512 at 128 and 512 at 64 pixels, and a "
        "middle block. Mean and log-variance come out of it. With noise they make the latent z of "
        "4 times 64 times 64. A middle block and the same four levels in reverse, the decoder, "
        "make an image of it."
    )
    return Described(figure, words)


@in_style
def resblock() -> Described:
    """Draw the ResBlock: norm, SiLU and convolution, twice, and the residual connection."""
    figure, ax = diagrams.canvas(22, 3.8, "A ResBlock")
    y = 2.9
    label(ax, 0.2, y, "x\n(b, c_in, h, w)", INK, "left")
    parts = (
        ("norm1", NORM), ("SiLU", MLP), ("conv1\n3 × 3", CONV),
        ("norm2", NORM), ("SiLU", MLP), ("conv2\n3 × 3", CONV),
    )  # fmt: skip
    arrow(ax, [(2.6, y), (3.55, y)])
    for k, (name, colour) in enumerate(parts):
        x = 4.4 + 2.35 * k
        box(ax, x, y, name, colour, w=1.7, h=1.15)
        arrow(ax, [(x + 0.85, y), (x + (1.5 if k < 5 else 1.46), y)])
    diagrams.plus(ax, 17.85, y)
    arrow(ax, [(18.1, y), (19.0, y)])
    label(ax, 19.15, y, "(b, c_out, h, w)", INK, "left")
    arrow(ax, [(3.0, y), (3.0, 0.9), (9.05, 0.9)])
    box(ax, 10.3, 0.9, "conv_shortcut", LINEAR, w=2.5, h=0.9)
    arrow(ax, [(11.55, 0.9), (17.85, 0.9), (17.85, y - 0.26)])
    label(ax, 14.7, 0.55, "residual connection", MUTED)
    words = (
        "A diagram. The input x goes through norm1, SiLU, conv1, norm2, SiLU and conv2 from left "
        "to right. A second branch, the residual connection, goes from x through conv_shortcut "
        "alone and is added at the end."
    )
    return Described(figure, words)


@in_style
def adversarial_training() -> Described:
    """Draw the two networks of a GAN: the decoder as generator, and the discriminator."""
    figure, ax = diagrams.canvas(
        22, 6.0, "A decoder and a discriminator, trained against each other"
    )
    real, fake = 4.6, 1.7
    box(ax, 1.4, real, "image x", PALE, w=2.0, h=1.1)
    box(ax, 5.2, fake, "encoder,\nfrozen or not", LINEAR, w=2.4, h=1.2)
    box(ax, 8.9, fake, "decoder\n(generator G)", CONV, w=2.5, h=1.2)
    box(ax, 13.0, fake, "reconstruction y", PALE, w=2.6, h=1.1)
    box(ax, 17.0, 3.15, "discriminator D", ATTENTION, w=2.7, h=1.2)
    arrow(ax, [(1.4, real - 0.55), (1.4, fake), (4.0, fake)])
    arrow(ax, [(6.4, fake), (7.65, fake)])
    arrow(ax, [(10.15, fake), (11.7, fake)])
    arrow(ax, [(2.4, real), (17.0, real), (17.0, 3.75)])
    arrow(ax, [(14.3, fake), (17.0, fake), (17.0, 2.55)])
    arrow(ax, [(18.35, 3.15), (19.2, 3.15)])
    label(ax, 19.3, 3.15, "one logit\nfor each patch", INK, "left")
    label(ax, 9.8, 4.95, "D learns: the logits of x up, those of y down", VERMILION)
    arrow(ax, [(15.6, 3.15), (8.9, 3.15), (8.9, 2.32)], BLUE, dashed=True)
    label(ax, 12.2, 3.5, "gradient: the logits of y up", BLUE)
    words = (
        "A diagram. An image x goes through the encoder and the decoder, which is the generator, "
        "and becomes the reconstruction y. The discriminator gets x and y and returns one logit "
        "for each patch. It learns to raise the logits of x and to lower those of y. A dashed "
        "arrow from it back to the decoder is the gradient that teaches the decoder to raise the "
        "logits of y."
    )
    return Described(figure, words)


@in_style
def convolution_windows(width: int, starts: dict[str, int]) -> Described:
    """Draw which pixels the windows of a stride-2 convolution of width 3 cover.

    Args:
        width: Number of pixels.
        starts: By name, the column of the first window's left end: 0 with padding on the right
            only, -1 with padding on both sides.
    """
    figure = Figure(figsize=(WIDE, 1.0 + 1.5 * len(starts)), dpi=100, layout="constrained")
    axes = figure.subplots(len(starts), 1, squeeze=False)[:, 0]
    for ax, (name, first) in zip(axes, starts.items(), strict=True):
        for column in range(first, width + 1):
            is_pixel = 0 <= column < width
            ax.text(
                column, 0, str(column) if is_pixel else "pad", ha="center", va="center", fontsize=9,
                bbox={"boxstyle": "square,pad=0.45", "ec": INK, "ls": "-" if is_pixel else ":",
                      "fc": tint(BLUE, 0.25) if is_pixel else "white"},
            )  # fmt: skip
        for k in range(width // 2):
            left, height = 2 * k + first, 0.75 + 0.45 * (k % 2)
            ax.plot([left - 0.35, left + 2.35], [height] * 2, "-", color=ORANGE, lw=3)
            ax.plot(left + 1, height, "o", color=ORANGE, ms=7)
            ax.text(left + 1, height + 0.13, f"output {k}", ha="center", fontsize=8)
        ax.set(xlim=(-1.8, width + 0.8), ylim=(-0.5, 1.6), yticks=[], title=name, xlabel="column")
    title = "The windows of a stride-2 convolution (pad: a zero)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    said = "; ".join(f"{name}: from column {first}" for name, first in starts.items())
    words = (
        f"Rows of {width} numbered pixels with padding, and above them the windows, three columns "
        f"wide and two apart, of the {width // 2} outputs. The first window begins, with {said}."
    )
    return Described(figure, words)
