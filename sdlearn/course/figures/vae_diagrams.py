"""Diagrams of the autoencoder: its loss, its levels, its ResBlock, its windows, and a GAN."""

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sdlearn.course.figures import diagrams
from sdlearn.course.figures.diagrams import ATTENTION, CONV, LINEAR, MLP, NORM, arrow, box, label
from sdlearn.course.figures.plots import NARROW
from sdlearn.course.figures.style import (
    BLUE,
    GREY,
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

LEVELS = ((128, 512, 3.4), (256, 256, 2.7), (512, 128, 2.1), (512, 64, 1.6))  # channels, side
ACROSS = 12.7  # units of a narrow diagram, in which letters have the size of the wide ones


@in_style
def autoencoder() -> Described:
    """Draw the autoencoder of Stable Diffusion: four levels down, the posterior, four levels up."""
    figure, ax = diagrams.canvas(
        ACROSS, 8.8, "The autoencoder of Stable Diffusion 1 (channels × side²)", NARROW
    )
    above, below = 6.7, 2.1

    def block(
        x: float, y: float, height: float, colour: str, name: str, wide: float = 1.15
    ) -> None:
        corner = (x - wide / 2, y - height / 2)
        ax.add_patch(Rectangle(corner, wide, height, facecolor=colour, edgecolor=INK, lw=0.9))
        ax.text(x, y, name, ha="center", va="center", fontsize=8, linespacing=1.3)

    for y in (above, below):
        block(0.6, y, LEVELS[0][2], PALE, "image\n\n3 ×\n512²", 1.0)
        for k, (channels, side, height) in enumerate(LEVELS):
            block(1.97 + 1.43 * k, y, height, CONV, f"{channels} ×\n{side}²")
        block(7.5, y, 1.6, ATTENTION, "mid", 0.75)
        box(ax, 8.65, y, "1 × 1", LINEAR, w=1.0, h=0.9)
    gaps = ((1.1, 1.4), (2.55, 2.83), (3.98, 4.26), (5.41, 5.69), (6.84, 7.12), (7.88, 8.15))
    for left, right in gaps:
        arrow(ax, [(left, above), (right, above)])
        arrow(ax, [(right, below), (left, below)])
    for y, name in ((above + 0.75, "mean"), (above - 0.75, "logvar")):
        arrow(ax, [(9.15, above), (9.5, y)])
        box(ax, 10.1, y, name, LINEAR, w=1.2, h=0.9)
        arrow(ax, [(10.7, y), (11.4, above + (0.25 if y > above else -0.25))])
    label(ax, 8.65, above - 0.8, "8 × 64²", MUTED)
    box(ax, 11.85, above, "z", tint(ORANGE, 0.7), w=0.9, h=1.4)
    arrow(ax, [(11.85, above + 1.5), (11.85, above + 0.7)], PURPLE)
    label(ax, 11.85, above + 1.8, "noise ε", PURPLE)
    arrow(ax, [(11.85, above - 0.7), (11.85, below), (9.15, below)])
    label(ax, 10.8, (above + below) / 2, "latent\n4 × 64²", MUTED)
    for y, text in (
        (above, "encoder: 2 ResBlocks a level,\nDownsample between levels"),
        (below, "decoder: 3 ResBlocks a level,\nUpsample between levels"),
    ):
        label(ax, 4.2, y + 1.6, text, MUTED, "left")
    label(ax, 5.0, above - 1.45, "mid: 2 ResBlocks and attention", MUTED, "left")
    words = (
        "A diagram in two rows. Above, an image of 3 times 512 times 512 goes through four levels "
        "of the encoder: 128 channels at 512, 256 at 256, 512 at 128 and 512 at 64 pixels, a "
        "middle block and a 1 by 1 convolution. Its 8 channels are mean and log-variance. With "
        "noise they make the latent z of 4 times 64 times 64. Below, a 1 by 1 convolution, a "
        "middle block and the same four levels in reverse, the decoder, make an image of it."
    )
    return Described(figure, words)


@in_style
def elbo() -> Described:
    """Draw a VAE with the two terms of its loss and the tensors that each compares."""
    figure, ax = diagrams.canvas(
        ACROSS, 6.5, "A variational autoencoder and its loss", NARROW, dpi=100
    )
    y, top, below = 3.6, 5.65, 0.75
    box(ax, 0.75, y, "image\nx", PALE, w=1.2, h=1.1)
    box(ax, 2.75, y, "encoder", CONV, w=1.6, h=1.1)
    for up, name in ((0.55, "mean m"), (-0.55, "variance s²")):
        box(ax, 5.15, y + up, name, LINEAR, w=1.8, h=0.85)
        arrow(ax, [(3.55, y + 0.4 * up), (4.25, y + up)])
        arrow(ax, [(6.05, y + up), (6.85, y + 0.25 * up)])
    box(ax, 7.25, y, "code\nz", tint(ORANGE, 0.7), w=0.8, h=1.1)
    box(ax, 9.35, y, "decoder", CONV, w=1.6, h=1.1)
    box(ax, 11.85, y, "decoded\nx\u0302", PALE, w=1.4, h=1.1)
    for left, right in ((1.35, 1.95), (7.65, 8.55), (10.15, 11.15)):
        arrow(ax, [(left, y), (right, y)])
    arrow(ax, [(7.25, y - 1.35), (7.25, y - 0.55)], PURPLE)
    label(ax, 7.25, y - 1.65, "noise ε", PURPLE)
    # The two terms of the loss.
    ax.plot([0.75, 0.75, 11.85, 11.85], [y + 0.7, top, top, y + 0.7], color=VERMILION, lw=1.6)
    label(ax, 6.3, top + 0.4, "reconstruction term: is x̂ close to x?", VERMILION)
    frame = Rectangle((4.05, y - 1.15), 2.2, 2.3, fill=False, edgecolor=BLUE, lw=1.3, ls="--")
    ax.add_patch(frame)
    label(ax, 5.15, y + 1.42, "posterior q(z | x)", BLUE)
    box(ax, 5.15, below, "prior N(0, 1)", tint(GREY, 0.4), w=2.3, h=0.85)
    ax.plot([5.15, 5.15], [below + 0.5, y - 1.2], color=BLUE, lw=1.6)
    label(
        ax,
        4.85,
        (below + y) / 2 - 0.36,
        "KL term: is the posterior\nclose to the prior?",
        BLUE,
        "right",
    )
    words = (
        "A diagram. From left to right, an image x goes through the encoder, which returns a mean "
        "and a variance. With noise they make the code z, which goes through the decoder and "
        "becomes the decoded image. A line above, the reconstruction term, joins the image and the "
        "decoded image. A frame around mean and variance is the posterior, and a line from it, the "
        "KL term, leads to the prior, N(0, 1)."
    )
    return Described(figure, words)


@in_style
def resblock() -> Described:
    """Draw the ResBlock: norm, SiLU and convolution, twice, and the residual connection."""
    figure, ax = diagrams.canvas(ACROSS, 4.0, "A ResBlock", NARROW)
    y = 2.6
    label(ax, 0.2, y, "x", INK, "left")
    parts = (
        ("norm1", NORM), ("SiLU", MLP), ("conv1\n3 × 3", CONV),
        ("norm2", NORM), ("SiLU", MLP), ("conv2\n3 × 3", CONV),
    )  # fmt: skip
    arrow(ax, [(0.5, y), (1.1, y)])
    for k, (name, colour) in enumerate(parts):
        x = 1.8 + 1.75 * k
        box(ax, x, y, name, colour, w=1.35, h=1.15)
        arrow(ax, [(x + 0.68, y), (x + (1.07 if k < 5 else 0.96), y)])
    diagrams.plus(ax, 11.75, y)
    arrow(ax, [(11.99, y), (12.6, y)])
    label(ax, 0.1, 3.65, "(b, c_in, h, w)", MUTED, "left")
    label(ax, 12.6, 3.65, "(b, c_out, h, w)", MUTED, "right")
    arrow(ax, [(0.75, y), (0.75, 0.9), (5.0, 0.9)])
    box(ax, 6.3, 0.9, "conv_shortcut", LINEAR, w=2.5, h=0.9)
    arrow(ax, [(7.55, 0.9), (11.75, 0.9), (11.75, y - 0.26)])
    label(ax, 9.6, 0.5, "residual connection", MUTED)
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
        ACROSS, 5.9, "A decoder and a discriminator, trained against each other", NARROW
    )
    real, middle, fake = 4.9, 3.1, 1.0
    box(ax, 1.35, real, "image x", PALE, w=1.8, h=1.1)
    box(ax, 1.35, fake, "encoder", LINEAR, w=2.4, h=1.2)
    box(ax, 4.9, fake, "decoder\n(generator G)", CONV, w=2.5, h=1.2)
    box(ax, 8.35, fake, "reconstruction\ny", PALE, w=2.3, h=1.2)
    box(ax, 11.2, middle, "discriminator D:\none logit\nfor each patch", ATTENTION, w=2.7, h=1.8)
    arrow(ax, [(1.35, real - 0.55), (1.35, fake + 0.6)])
    arrow(ax, [(2.55, fake), (3.65, fake)])
    arrow(ax, [(6.15, fake), (7.2, fake)])
    arrow(ax, [(2.25, real), (11.2, real), (11.2, middle + 0.9)])
    arrow(ax, [(9.5, fake), (11.2, fake), (11.2, middle - 0.9)])
    label(ax, 6.7, real + 0.35, "D learns: the logits of x up, those of y down", VERMILION)
    arrow(ax, [(9.85, middle), (4.9, middle), (4.9, fake + 0.62)], BLUE, dashed=True)
    label(ax, 7.4, middle + 0.35, "gradient: the logits of y up", BLUE)
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
    figure = Figure(figsize=(NARROW, 1.0 + 1.5 * len(starts)), dpi=100, layout="constrained")
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
    title = "Windows of a stride-2 convolution (pad = zero)"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    said = "; ".join(f"{name}: from column {first}" for name, first in starts.items())
    words = (
        f"Rows of {width} numbered pixels with padding, and above them the windows, three columns "
        f"wide and two apart, of the {width // 2} outputs. The first window begins, with {said}."
    )
    return Described(figure, words)
