"""Figures of notebook 01: what latents save, linear codes of patches, and reconstructions."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from sdlearn.course.figures import diagrams
from sdlearn.course.figures.attention import heatmap
from sdlearn.course.figures.diagrams import CONV, MLP, arrow, box, label
from sdlearn.course.figures.images import grid
from sdlearn.course.figures.plots import STYLES, axes_for
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


def basis_images(basis: Tensor) -> list[Image.Image]:
    """Draw every basis vector (k, 192) as an image of 8 x 8 pixels.

    Grey is 0. Each vector is scaled so that its largest absolute value reaches black or white.
    """
    patches = F.pixel_shuffle(basis[:, :, None, None], PATCH)  # (k, 192, 1, 1) -> (k, 3, 8, 8)
    scaled = patches / patches.abs().amax(dim=(1, 2, 3), keepdim=True)
    pixels = ((scaled + 1) * 127.5).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    return [Image.fromarray(patch) for patch in pixels]


# ---------------------------------------------------------------------------------------- diagrams


@in_style
def two_stages() -> Described:
    """Draw latent diffusion: the autoencoder around the U-Net, image and latent to scale."""
    figure, ax = diagrams.canvas(
        22, 6.7, "Two stages: an autoencoder, and diffusion on its latents"
    )
    y, big, small = 4.0, 4.2, 4.2 / 8
    rgb = tuple(tint(colour, 0.5) for colour in (BLUE, GREEN, VERMILION))

    def stack(x: float, side: float, *colours: str) -> None:
        for k, colour in enumerate(colours):
            dx = 0.14 * (k - (len(colours) - 1) / 2)
            ax.add_patch(
                Rectangle((x - side / 2 + dx, y - side / 2 - dx), side, side, facecolor=colour,
                          edgecolor=INK, lw=0.8, zorder=3)
            )  # fmt: skip

    stack(2.6, big, *rgb)
    stack(9.0, small, *4 * [tint(GREY, 0.7)])
    stack(14.0, small, *4 * [tint(GREY, 0.7)])
    stack(19.6, big, *rgb)
    for x in (2.6, 19.6):
        label(ax, x, 1.2, "image\n3 × 512 × 512")
    for x, name in ((9.0, "latent, or noise"), (14.0, "clean latent")):
        label(ax, x, 2.85, f"{name}\n4 × 64 × 64")
    box(ax, 6.6, y, "encoder", CONV, w=1.8, h=1.1)
    box(ax, 16.05, y, "decoder", CONV, w=1.8, h=1.1)
    box(ax, 11.5, y, "U-Net", MLP, w=1.8, h=1.1)
    arrow(ax, [(4.95, y), (5.65, y)])
    arrow(ax, [(7.5, y), (8.4, y)])
    arrow(ax, [(9.6, y), (10.55, y)])
    arrow(ax, [(12.4, y), (13.4, y)])
    arrow(ax, [(14.6, y), (15.1, y)])
    arrow(ax, [(16.95, y), (17.25, y)])
    arrow(ax, [(12.1, y + 0.6), (12.1, y + 1.45), (10.9, y + 1.45), (10.9, y + 0.6)], PURPLE)
    label(ax, 11.5, y + 1.95, "50 steps", PURPLE)
    label(ax, 6.6, y + 1.1, "training only", MUTED)
    label(ax, 16.05, y + 1.1, "once per image", MUTED)
    label(ax, 11.5, 1.2, "all of the diffusion happens here", MUTED)
    words = (
        "A diagram from left to right, in which images and latents are drawn to scale. An image of "
        "3 × 512 × 512 goes through the encoder, which only training needs, and becomes a latent "
        "of 4 × 64 × 64, an eighth as wide and as high. The U-Net works on latents, in "
        "training on noisy ones and in generation from pure noise, for 50 steps. "
        "The clean latent goes through the decoder, once for each image, and becomes an image "
        "again."
    )
    return Described(figure, words)


# ------------------------------------------------------------------------------------------ curves


@in_style
def unet_cost(
    sides: Sequence[int], seconds: Sequence[float], megabytes: Sequence[float], unit: int = 32
) -> Described:
    """Draw time and memory of one U-Net call over the number of positions.

    Args:
        sides: Of the square inputs, in positions.
        seconds: For each side.
        megabytes: For each side.
        unit: The side whose cost is drawn as 1.
    """
    figure, ax = axes_for(
        "One call of a small U-Net", "positions (height × width)", f"cost, {unit} × {unit} = 1"
    )
    positions = [side**2 for side in sides]
    at = list(sides).index(unit)
    share = [n / unit**2 for n in positions]
    lines = (
        ("∝ positions", share, ":", MUTED),
        ("∝ positions²", [n**2 for n in share], "-.", MUTED),
        ("memory", [m / megabytes[at] for m in megabytes], "s--", VERMILION),
        ("time", [s / seconds[at] for s in seconds], "o-", BLUE),
    )
    for name, values, style, colour in lines:
        ax.plot(positions, values, style, color=colour, label=name)
    ax.set(xscale="log", yscale="log")
    ax.set_xticks(positions, [f"{side} × {side}" for side in sides])
    ax.minorticks_off()
    ax.legend()
    words = (
        f"Time and memory of one call for {sides[0]} × {sides[0]} to {sides[-1]} × {sides[-1]} "
        "positions, on logarithmic axes, beside a line that grows with the positions and one that "
        f"grows with their square. All meet at {unit} × {unit}. The memory follows the positions. "
        "The time is flat for the smallest inputs and gets steeper; at the end it grows faster "
        "than the positions and more slowly than their square."
    )
    return Described(figure, words)


def pca_beside_jpeg(basis: Tensor, down: Tensor, across: Tensor) -> Described:
    """Draw the first twelve principal directions, and six patterns of JPEG's cosine transform.

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
    rows = [basis_images(basis[:6]), basis_images(basis[6:12]), basis_images(waves)]
    figure = grid(
        rows,
        names=["PCA, 1 to 6", "PCA, 7 to 12", "JPEG, 1 to 6"],
        title="The first twelve principal directions as patches, and the basis of JPEG",
        scale=9,
    )
    words = (
        "Three rows of six patches of 8 × 8 squares. The first two principal directions are plain. "
        "The next ones change from top to bottom or from left to right, several with a change of "
        "colour. Those of the second row are finer, with stripes and spots. The third row, in "
        "grey, has one plain patch, one wave across, one down, and finer ones."
    )
    return Described(figure, words)


@in_style
def rate_distortion(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    points: Mapping[str, tuple[float, float]],
    title: str,
) -> Described:
    """Draw PSNR in decibels over the number of values kept of a patch.

    Args:
        lines: Up to four curves (values kept, PSNR), by name.
        points: Up to two single results (values kept, PSNR), by name.
        title: Of the figure.
    """
    figure, ax = axes_for(title, "values kept of the 192 of a patch", "PSNR (dB)")
    colours = (BLUE, GREEN, PURPLE, MUTED)
    for (name, (xs, ys)), style, colour in zip(
        lines.items(), STYLES[: len(lines)], colours[: len(lines)], strict=True
    ):
        ax.plot(xs, ys, style, color=colour, label=name)
    for (name, (x, y)), marker in zip(points.items(), ("*", "P")[: len(points)], strict=True):
        ax.plot([x], [y], marker, color=VERMILION, ms=14, ls="none", label=name)
    ticks = sorted({x for xs, _ in lines.values() for x in xs})
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [f"{x:g}" for x in ticks])
    ax.minorticks_off()
    ax.legend(loc="upper left")
    curves = "; ".join(
        f"{name}: {ys[0]:.1f} dB at {xs[0]:g}, {ys[-1]:.1f} dB at {xs[-1]:g}"
        for name, (xs, ys) in lines.items()
    )
    single = "; ".join(f"{name}: {y:.1f} dB at {x:g}" for name, (x, y) in points.items())
    words = (
        "PSNR against the number of values kept of a patch. All curves rise. "
        f"{curves}. A single point for {single}."
    )
    return Described(figure, words)


# ------------------------------------------------------------------------------------------ images


def image_table(
    columns: Mapping[str, Sequence[Image.Image]],
    title: str,
    words: str,
    names: Sequence[str] = (),
    scale: int = 3,
) -> Described:
    """Draw images in columns, each with a heading.

    Args:
        columns: By heading, one image for each row.
        title: Of the figure.
        words: What the images show, in sentences.
        names: A name for each row, or none.
        scale: Side of an enlarged pixel, in pixels.
    """
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    figure = grid(rows, [*columns], names, title, scale)
    return Described(figure, f"Images in columns: {'; '.join(columns)}. {words}")


def error_image(a: Tensor, b: Tensor, gain: float) -> Image.Image:
    """Draw the absolute difference of two images (3, h, w) in [-1, 1], its colours averaged.

    White is an error of 1 / gain of the range of values, or more.
    """
    return heatmap((a - b).abs().mean(dim=0), most=2 / gain)
