"""Figures of the inpainting notebook: holes on the latent grid, RePaint's path, seams, masks."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.attention import heatmap
from sdlearn.course.figures.diagrams import ATTENTION, CONV, LINEAR, TEXT, TIME, arrow
from sdlearn.course.figures.editing import image_rows as image_rows
from sdlearn.course.figures.images import grid
from sdlearn.course.figures.plots import NARROW, axes_for, titled
from sdlearn.course.figures.style import (
    BLUE,
    GREY,
    INK,
    MUTED,
    ORANGE,
    VERMILION,
    Described,
    in_style,
    tint,
)
from sdlearn.course.figures.training import running_mean
from sdlearn.course.figures.unet_diagrams import block, upright, write

SMALL = 88  # side of a small map, in pixels
KNOWN = (11, 83, 148)  # the palette's blue, for what is kept
REPAINTED = (213, 94, 0)  # its vermilion, for what is repainted


def corners(mask: Tensor) -> tuple[int, int, int, int]:
    """Return the left, top, right and bottom of a hole (1, h, w), the last two exclusive."""
    rows, columns = (mask[0].amax(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def outlined(images: Sequence[Image.Image], masks: Tensor) -> list[Image.Image]:
    """Draw the outermost pixels of each hole, also along the edge of the image.

    Args:
        images: The images.
        masks: (b, 1, h, w), 1 in the holes.
    """
    known = F.pad(1 - masks, (1, 1, 1, 1), value=1.0)
    edges = masks * F.max_pool2d(known, 3, 1)
    pages = [image.convert("RGB") for image in images]
    for page, edge in zip(pages, edges, strict=True):
        page.paste(REPAINTED, mask=Image.fromarray((255 * edge[0]).byte().numpy()))
    return pages


def close_up(image: Image.Image, mask: Tensor, side: int = 28) -> Image.Image:
    """Crop a square from an image, around the hole's upper-left corner.

    Args:
        image: An image larger than the square.
        mask: (1, h, w), 1 in the hole.
        side: Side of the square in pixels.
    """
    left, top, *_ = corners(mask)
    x = min(max(0, left - side // 3), image.width - side)
    y = min(max(0, top - side // 3), image.height - side)
    return image.crop((x, y, x + side, y + side))


def cut_cells(
    image: Image.Image, masks: Sequence[Tensor], names: Sequence[str], f: int = 8
) -> Described:
    """Draw an image's latent grid, the hole, and the positions that each mask repaints.

    Args:
        image: A square image.
        masks: The hole in pixels, (1, h, w), then masks in latent positions, (1, h / f, w / f).
        names: One for each mask.
        f: Side of a latent position in pixels.
    """
    hole, *cells = masks
    scale, tiles = 4, []
    w, h = (scale * v for v in image.size)
    for mask in masks:
        page = image.convert("RGB").resize((w, h), Image.Resampling.NEAREST)
        shade = mask if mask is hole else mask.repeat_interleave(f, 1).repeat_interleave(f, 2)
        where = Image.fromarray((shade[0] * 150).byte().numpy()).resize((w, h), 0)
        page.paste(Image.new("RGB", (w, h), REPAINTED), mask=where)
        pen = ImageDraw.Draw(page)
        for k in range(f * scale, w, f * scale):
            pen.line((k, 0, k, h), fill=MUTED)
            pen.line((0, k, w, k), fill=MUTED)
        pen.rectangle([scale * v for v in corners(hole)], outline=KNOWN, width=3)
        tiles.append(page)
    counts = [f"{name}: {int(mask.sum())}" for name, mask in zip(names[1:], cells, strict=True)]
    return Described(
        grid([tiles], names, (), "A hole on the latent grid", scale=1, letters=18),
        "The same image three times, with the grid of latent positions and the hole outlined. "
        f"The hole covers {int(hole.sum())} pixels, {int(hole.sum()) / f**2:.1f} positions. "
        f"Positions repainted: {'; '.join(counts)}.",
    )


@in_style
def visits_chart(lists: Sequence[Sequence[int]], names: Sequence[str], steps: int) -> Described:
    """Plot the point of the path against the number of moves, for two lists of visits.

    Args:
        lists: Indices into the path, 0 for the noisiest point.
        names: One for each list.
        steps: Number of steps of the path.
    """
    figure = Figure(figsize=(NARROW, 3.1), dpi=100, layout="constrained")
    titled(figure, "Where replacement and RePaint go")
    ax = figure.subplots()
    for visits, name, colour in zip(lists, names, (VERMILION, BLUE), strict=True):
        ax.plot(range(len(visits)), visits, "-", color=colour, lw=1.6)
        ax.annotate(
            name, (len(visits) - 1, visits[-1]), (6, 0), textcoords="offset points", color=colour,
            va="center", fontsize=9, annotation_clip=False,
        )  # fmt: skip
    ax.invert_yaxis()
    ax.set(
        xlabel="moves",
        ylabel="point of the path (0 = noise)",
        xlim=(0, 1.22 * max(map(len, lists))),
    )
    said = "; ".join(
        f"{name}: {len(v) - 1} moves, {sum(b > a for a, b in pairwise(v))} of which denoise"
        for v, name in zip(lists, names, strict=True)
    )
    return Described(
        figure,
        f"A line chart of the point on a path of {steps} steps after each move. Replacement is a "
        "straight line downwards. RePaint is a sawtooth that keeps jumping back to noisier points. "
        f"{said}.",
    )


@in_style
def nine_channel_diagram(image: Image.Image, given: Image.Image, mask: Tensor) -> Described:
    """Draw how the mask and the masked image reach an inpainting U-Net.

    Args:
        image: A square image.
        given: The same image, grey in the hole.
        mask: (1, h, w), 1 in the hole.
    """
    figure, ax = upright(6.2, "The input of an inpainting U-Net")
    hole, half = heatmap(mask[0], 1.0, image.width), 0.42
    latent, small, known = 0.85, 2.35, 4.35  # centres of the three inputs
    top, tiles, layers, stack = -0.88, -2.35, -3.2, -3.9
    for x, y, tile in ((3.4, top, image), (small, tiles, hole), (known, tiles, given)):
        ax.imshow(tile.convert("RGB"), extent=(x - half, x + half, y - half, y + half), zorder=2)
    ax.set(xlim=(0, NARROW), ylim=(-6.2, 0))
    write(ax, 2.9, top, "image x", MUTED, "right")
    write(ax, small - half, tiles + 0.53, "mask M", MUTED, "left")
    write(ax, NARROW - 0.1, tiles + 0.53, "x (1 − M)", MUTED, "right")
    arrow(ax, [(3.4 + half, top), (known - 0.15, top), (known - 0.15, tiles + half)])
    arrow(ax, [(small + half, tiles), (known - half, tiles)])
    block(ax, latent, layers, "noisy latent", tint(ORANGE, 0.7), 1.3, 0.3)
    block(ax, small, layers, "every 8th pixel", LINEAR, 1.4, 0.3)
    block(ax, known, layers, "encode, scale", CONV, 1.4, 0.3)
    left, wide = NARROW / 2 - 4.5 * 0.34, 0.34
    parts = (
        (4, latent, tint(ORANGE, 0.7), "4 channels"),
        (1, small, GREY, "1"),
        (4, known, tint(BLUE, 0.55), "4 channels"),
    )
    for x in (small, known):
        arrow(ax, [(x, tiles - half), (x, layers + 0.15)])
    for count, x, colour, name in parts:
        middle = left + count * wide / 2
        arrow(ax, [(x, layers - 0.15), (middle, stack + 0.17)])
        write(ax, middle, stack - 0.3, name, MUTED)
        for _ in range(count):
            ax.add_patch(
                Rectangle((left, stack - 0.17), wide, 0.34, facecolor=colour, edgecolor=INK)
            )
            left += wide
    centre, rest = NARROW / 2, -5.35
    arrow(ax, [(centre, stack - 0.42), (centre, -4.55)])
    block(ax, centre, -4.7, "first convolution", CONV, 1.6, 0.3)
    arrow(ax, [(centre, -4.85), (centre, rest + 0.2)])
    block(ax, centre, rest, "the rest of the U-Net", ATTENTION, 1.9, 0.4)
    arrow(ax, [(centre, rest - 0.2), (centre, -5.9)])
    write(ax, centre, -6.05, r"$\hat\epsilon$")
    write(ax, 0.75, rest, "time t", TIME)
    arrow(ax, [(1.05, rest), (centre - 0.95, rest)], TIME)
    write(ax, NARROW - 0.75, rest, "caption", TEXT)
    arrow(ax, [(NARROW - 1.1, rest), (centre + 0.95, rest)], TEXT)
    return Described(
        figure,
        "A diagram. Three inputs are concatenated into nine channels: the noisy latent (4 "
        "channels), every 8th pixel of the mask (1), and the image with a grey hole, encoded and "
        "scaled (4). They go through the first convolution into the rest of the U-Net, which also "
        "receives the time and the caption, and which predicts the noise.",
    )


def leak_maps(
    images: Mapping[str, Image.Image], maps: Mapping[str, Tensor], mask: Tensor, title: str
) -> Described:
    """Draw images and, on one scale, maps in latent positions, all with the outline of the hole.

    Args:
        images: By name, square and of one size.
        maps: By name, (h, w), from 0 up.
        mask: (1, H, W), 1 in the hole, which consists of whole positions.
        title: Title of the figure.
    """
    hole = corners(mask)
    most = max(float(each.max()) for each in maps.values())
    tiles = [enlarged(image, hole) for image in images.values()]
    tiles += [enlarged(heatmap(each, most, mask.shape[-1]), hole) for each in maps.values()]
    f = mask.shape[-1] // next(iter(maps.values())).shape[-1]
    known = mask[0, ::f, ::f] == 0
    said = "; ".join(
        f"{name}: up to {each[known].max():.2f} outside the hole, up to {each[~known].max():.2f} "
        "in it"
        for name, each in maps.items()
    )
    title += f": black 0, white {most:.2f}"
    return Described(
        grid([tiles], [*images, *maps], (), title, scale=1, letters=22),
        f"The same image as {' and as '.join(images)}, with the outline of the hole, and "
        f"{len(maps)} maps on one scale, black for 0 and white for {most:.2f}. {said}.",
    )


def mask_samples(masks: Sequence[Tensor], title: str) -> Described:
    """Draw masks in a row, with the fraction of the image that each hides.

    Args:
        masks: Masks (h, w), 1 in the hole.
        title: Title of the figure.
    """
    shares = [f"{mask.float().mean():.0%}" for mask in masks]
    tiles = [heatmap(mask.float(), 1.0, SMALL) for mask in masks]
    return Described(
        grid([tiles], shares, (), title, scale=1, letters=18),
        f"{len(masks)} black images with white holes, which hide {', '.join(shares)} of the image.",
    )


@in_style
def loss_curve(points: Sequence[tuple[int, float]], title: str, width: int = 10) -> Described:
    """Draw the recorded loss of a training run, and its mean over some of the points.

    Args:
        points: Steps, and the mean losses of the steps since the point before.
        title: Title of the figure.
        width: Points of the running mean.
    """
    figure, ax = axes_for("", "training step", "loss", 6.0)
    titled(figure, title)
    steps, losses = zip(*points, strict=True)
    means = running_mean(losses, width)
    ax.plot(steps, losses, "-", color=tint(GREY, 0.7), lw=0.8)
    ax.plot(steps, means, "-", color=VERMILION, lw=2)
    ax.axhline(losses[0], color=MUTED, lw=1, ls=":")
    ax.annotate(
        f"the first {steps[0]} steps", (steps[-1], losses[0]), (0, 4), color=MUTED, ha="right",
        textcoords="offset points", fontsize=9,
    )  # fmt: skip
    ax.set(ylim=(0, None), xlim=(0, steps[-1]))
    highest = max(range(len(losses)), key=losses.__getitem__)
    return Described(
        figure,
        f"The loss against the training step. It is {losses[0]:.3f} over the first {steps[0]} "
        f"steps, {losses[highest]:.3f} at its highest, near step {steps[highest]}, and "
        f"{means[-1]:.3f} at the end, at step {steps[-1]}, averaged over {width} points.",
    )


def enlarged(
    image: Image.Image, box: tuple[int, int, int, int] | None = None, scale: int = 4
) -> Image.Image:
    """Enlarge an image without smoothing, and draw a box on it if one is given.

    Args:
        image: The image.
        box: Left, top, right and bottom in its pixels, the last two exclusive.
        scale: Side of each enlarged pixel.
    """
    w, h = image.size
    page = image.convert("RGB").resize((scale * w, scale * h), Image.Resampling.NEAREST)
    if box:
        left, top, right, bottom = (scale * v for v in box)
        corners = (left, top, right - 1, bottom - 1)
        ImageDraw.Draw(page).rectangle(corners, outline=REPAINTED, width=(scale + 1) // 2)
    return page


def beside(tiles: Sequence[Image.Image], names: Sequence[str]) -> Image.Image:
    """Draw images of the same size side by side, each with its name above it."""
    return grid([tiles], names, (), "", scale=1, letters=14)
