"""Figures of notebook 01: the two stages, linear codes of patches, and reconstructions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.attention import heatmap
from sdlearn.course.figures.diagrams import CONV, MLP, arrow, box
from sdlearn.course.figures.images import grid
from sdlearn.course.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    PURPLE,
    VERMILION,
    Described,
    in_style,
    tint,
)
from sdlearn.vae import VAE

PATCH = 8  # side in pixels of the patch that one position of the latent encodes


def project_patches(x: Tensor, mean: Tensor, basis: Tensor, k: int) -> Tensor:
    """Project every patch of 8 x 8 pixels onto k basis vectors and back.

    Args:
        x: Images, (b, c, h, w).
        mean: Mean patch, (d,) with d = c * 64, colours outermost.
        basis: Orthonormal rows, (d or fewer, d).
        k: How many of the rows to use.

    Returns:
        Reconstructions (b, c, h, w), clamped to [-1, 1].

    Raises:
        ValueError: If k is not in 0 ... len(basis).
    """
    if not 0 <= k <= len(basis):
        raise ValueError(f"k is {k}; accepted: 0 to {len(basis)}, the number of directions")
    middle, rows = mean[:, None, None], basis[:k]
    patches = F.pixel_unshuffle(x, PATCH) - middle  # (b, d, h/8, w/8)
    z = torch.einsum("kd,bdhw->bkhw", rows, patches)
    return F.pixel_shuffle(torch.einsum("kd,bkhw->bdhw", rows, z) + middle, PATCH).clamp(-1, 1)


@torch.no_grad()
def blends(
    a: Tensor, b: Tensor, weight: float, vae: VAE, mean: Tensor, basis: Tensor, k: int
) -> Tensor:
    """Interpolate linearly between two images in three representations.

    Args:
        a: Image at weight 0, (1, 3, h, w).
        b: Image at weight 1, (1, 3, h, w).
        weight: 0 to 1.
        vae: The autoencoder of the latents.
        mean: See `project_patches`.
        basis: See `project_patches`.
        k: Coefficients kept of a patch.

    Returns:
        (3, 3, h, w): interpolated in pixels, in k coefficients per patch, and in latents.
    """
    pixels = torch.lerp(a, b, weight)
    z = torch.lerp(vae.to_latent(a), vae.to_latent(b), weight)
    # The coefficients are linear in the pixels, so interpolating either gives the same result.
    return torch.cat([pixels, project_patches(pixels, mean, basis, k), vae.to_image(z)])


def basis_images(basis: Tensor, reach: float = 1.0) -> list[Image.Image]:
    """Draw every basis vector (k, 192) as an image of 8 x 8 pixels.

    Grey is 0. Each vector is scaled so that its largest absolute value is `reach`; black and white
    are 1.
    """
    patches = F.pixel_shuffle(basis[:, :, None, None], PATCH)  # (k, 192, 1, 1) -> (k, 3, 8, 8)
    scaled = reach * patches / patches.abs().amax(dim=(1, 2, 3), keepdim=True)
    pixels = ((scaled + 1) * 127.5).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    return [Image.fromarray(patch) for patch in pixels]


# ---------------------------------------------------------------------------------------- diagrams


@in_style
def two_stages() -> Described:
    """Draw latent diffusion, training above generation, image and latent to scale."""
    width, height = 11.4, 9.1
    figure, ax = narrow(height / width)
    ax.set_position((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    rgb = tuple(tint(colour, 0.5) for colour in (BLUE, GREEN, VERMILION))
    grey = 4 * (tint(GREY, 0.7),)
    big, small = 2.4, 2.4 / 8

    def stack(x: float, y: float, side: float, colours: Sequence[str], name: str) -> None:
        for k, colour in enumerate(colours):
            shift = 0.1 * (k - (len(colours) - 1) / 2)
            corner = x - side / 2 + shift, y - side / 2 - shift
            ax.add_patch(
                Rectangle(corner, side, side, facecolor=colour, edgecolor=INK, lw=0.8, zorder=3)
            )
        text(x, y - side / 2 - 0.5, name)

    def text(x: float, y: float, words: str, colour: str = INK, **style: Any) -> None:
        ax.text(x, y, words, color=colour, ha="center", va="center", fontsize=11, **style)

    def network(x: float, y: float, name: str, colour: str) -> None:
        box(ax, x, y, "", colour, w=1.75, h=0.95)
        text(x, y, name, zorder=5)

    title = "Two stages: an autoencoder, and diffusion on its latents"
    for y, words in ((height - 0.4, title), (7.9, "Training"), (3.8, "Generation")):
        ax.text(0.15, y, words, ha="left", va="center", fontsize=11, fontweight="bold")
    top, bottom = 6.1, 2.0
    stack(1.6, top, big, rgb, "3 × 512 × 512")
    network(4.25, top, "encoder", CONV)
    stack(6.5, top, small, grey, "4 × 64 × 64")
    text(7.75, top + 0.4, "+ noise", MUTED)
    network(9.8, top, "U-Net", MLP)
    text(9.8, top - 1.1, "learns to remove\nthe noise", MUTED, linespacing=1.25)
    stack(1.0, bottom, small, grey, "noise")
    network(2.95, bottom, "U-Net", MLP)
    stack(5.0, bottom, small, grey, "4 × 64 × 64")
    network(6.95, bottom, "decoder", CONV)
    stack(9.75, bottom, big, rgb, "3 × 512 × 512")
    for y, spans in (
        (top, ((2.95, 3.35), (5.15, 6.1), (6.9, 8.9))),
        (bottom, ((1.4, 2.05), (3.85, 4.6), (5.4, 6.05), (7.85, 8.4))),
    ):
        for start, end in spans:
            arrow(ax, [(start, y), (end, y)])
    loop = (3.4, 0.5), (3.4, 1.05), (2.5, 1.05), (2.5, 0.5)
    arrow(ax, [(x, bottom + dy) for x, dy in loop], PURPLE)
    text(2.95, bottom + 1.4, "50 steps", PURPLE)
    text(6.95, bottom + 0.85, "once", MUTED)
    words = (
        "Two rows, in which images and latents are drawn to scale. In training, an image of "
        "3 × 512 × 512 goes through the encoder and becomes a latent of 4 × 64 × 64, an eighth as "
        "wide and as high. Noise is added, and the U-Net learns to remove it. In generation, the "
        "U-Net starts from noise and takes 50 steps to a clean latent of 4 × 64 × 64, which the "
        "decoder turns into an image of 3 × 512 × 512, once."
    )
    return Described(figure, words)


# ------------------------------------------------------------------------------------------ curves


def narrow(shape: float) -> tuple[Figure, Axes]:
    """Create a figure with one pair of axes, so narrow that a phone can show its letters.

    Args:
        shape: Its height, divided by its width.
    """
    figure = Figure(figsize=(5.2, 5.2 * shape), dpi=100, layout="constrained")
    return figure, figure.subplots()


def pca_beside_jpeg(basis: Tensor, down: Tensor, across: Tensor) -> Described:
    """Draw the first twelve principal directions, and six patterns of JPEG's cosine transform.

    The first six directions are drawn with both signs, the others with one.

    Args:
        basis: Rows of 192 values, twelve or more.
        down: Frequencies of the cosines from top to bottom, (6,).
        across: From left to right, (6,).
    """
    pixel = torch.arange(PATCH) + 0.5
    vertical, horizontal = (
        torch.cos(torch.pi / PATCH * f[:, None] * pixel) for f in (down, across)
    )
    waves = torch.einsum("ki,kj->kij", vertical, horizontal).flatten(1).repeat(1, 3)
    title = "Directions of PCA and of JPEG (zero is mid-grey)"
    both = [basis_images(-basis[:6]), basis_images(basis[:6])]
    blocks = [
        numbered(both, 1, ["PCA, z < 0", "PCA, z > 0"], title),
        numbered([basis_images(basis[6:12])], 7, ["PCA, z > 0"]),
        numbered([basis_images(waves, 0.7)], 1, ["JPEG"]),
    ]
    height = sum(block.height for block in blocks)
    figure = Image.new("RGB", (max(block.width for block in blocks), height), "white")
    top = 0
    for block in blocks:  # all end in six patches of one size, so that these are aligned
        figure.paste(block, (figure.width - block.width, top))
        top += block.height
    words = (
        "Patches of 8 × 8 squares with numbers, in columns of six. Directions 1 to 6 of PCA are "
        "shown twice, with a negative coefficient above a positive one, whose colours are "
        "complementary. The first two are plain. The next ones change from top to bottom or from "
        "left to right, several with a change of colour. Directions 7 to 12, below, are finer, "
        "with stripes and spots. The last row, JPEG's, is grey and has one plain patch, one wave "
        "across, one down, and finer ones."
    )
    return Described(figure, words)


def numbered(
    rows: Sequence[Sequence[Image.Image]], first: int, names: Sequence[str], title: str = ""
) -> Image.Image:
    """Draw rows of patches below their numbers, which count from `first`."""
    numbers = [str(first + k) for k in range(len(rows[0]))]
    return grid(rows, numbers, names, title, scale=8, letters=15)


# ------------------------------------------------------------------------------------------ images


def image_table(
    columns: Mapping[str, Sequence[Image.Image]],
    title: str,
    words: str,
    names: Sequence[str] = (),
    scale: int = 3,
    letters: int = 16,
) -> Described:
    """Draw images in columns, each with a heading.

    Args:
        columns: By heading, one image for each row.
        title: Of the figure.
        words: What the images show, in sentences.
        names: A name for each row, or none.
        scale: Side of an enlarged pixel, in pixels.
        letters: Size of the letters, in pixels.
    """
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    figure = grid(rows, [*columns], names, title, scale, letters)
    return Described(figure, f"Images in columns: {'; '.join(columns)}. {words}")


def outlined(picture: Image.Image, row: int, column: int, scale: int) -> Image.Image:
    """Enlarge an image and outline the patch of one position of its latent."""
    enlarged = picture.convert("RGB").resize(
        (scale * picture.width, scale * picture.height), Image.Resampling.NEAREST
    )
    left, top, size = scale * PATCH * column, scale * PATCH * row, scale * PATCH
    pen = ImageDraw.Draw(enlarged)
    pen.rectangle((left - 2, top - 2, left + size + 1, top + size + 1), outline=VERMILION, width=2)
    return enlarged


def error_image(a: Tensor, b: Tensor, gain: float) -> Image.Image:
    """Draw the absolute difference of two images (3, h, w) in [-1, 1], its colours averaged.

    White is an error of 1 / gain of the range of values, or more.
    """
    return heatmap((a - b).abs().mean(dim=0), most=2 / gain)
