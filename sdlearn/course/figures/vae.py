"""Figures of the autoencoder: latent planes, densities, errors."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.images import grid, label_font, letters_for
from sdlearn.course.figures.plots import NARROW, axes_for, cluster_labels
from sdlearn.course.figures.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    VERMILION,
    Described,
    in_style,
    tint,
)

Decode = Callable[[Tensor], Tensor]


def to_images(x: Tensor) -> list[Image.Image]:
    """Convert (b, 3, h, w) in [-1, 1] to a list of images; values outside are clamped."""
    bytes_ = ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(one.numpy()) for one in bytes_.permute(0, 2, 3, 1).cpu()]


def image_rows(
    rows: Mapping[str, Tensor], title: str, words: str, scale: int = 2, columns: Sequence[str] = ()
) -> Described:
    """Draw rows of images with their names.

    Args:
        rows: (n, 3, h, w) in [-1, 1], by name.
        title: Of the figure.
        words: What the images show.
        scale: Side of an enlarged pixel, in pixels.
        columns: A heading for each column, or none.
    """
    images = [to_images(row) for row in rows.values()]
    letters = letters_for(scale * sum(image.width for image in max(images, key=len)))
    figure = grid(images, columns, [*rows], title, scale, letters)
    names = "; ".join(filter(None, rows))
    return Described(figure, f"Rows of images: {names}. {words}" if names else words)


# ---------------------------------------------------------------------------------- latent planes


def plane_points(across: int, reach: float) -> Tensor:
    """Return a square grid of points (across * across, 2) in [-reach, reach], top row first."""
    ticks = torch.linspace(-reach, reach, across)
    y, x = torch.meshgrid(-ticks, ticks, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


@torch.no_grad()
def plane_image(decode: Decode, across: int, reach: float) -> Image.Image:
    """Decode a grid of across * across latents and tile the results into one image."""
    tiles = to_images(decode(plane_points(across, reach)))
    w, h = tiles[0].size
    sheet = Image.new("RGB", (across * w, across * h))
    for k, one in enumerate(tiles):
        sheet.paste(one, (k % across * w, k // across * h))
    return sheet


def nearest_image(pictures: Tensor, pages: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest page of every image by mean absolute error.

    Args:
        pictures: (n, 3, h, w), clamped to [-1, 1].
        pages: (m, 3, h, w) in [-1, 1].

    Returns:
        The errors in levels of 0..255 and the indices of the pages, (n,) each.
    """
    shown = pictures.clamp(-1, 1)
    apart = torch.stack([(shown - page).abs().mean((1, 2, 3)) for page in pages])
    least, which = apart.min(0)
    return 127.5 * least, which


# Mean absolute errors, their value in the map, colour and name.
NEAREST_LEVELS = {
    10.0: ("1.0", GREEN, "within 10 grey levels of a training image"),
    20.0: ("0.8", tint(GREEN, 0.4), "within 20"),
    256.0: ("0.5", tint(VERMILION, 0.3), "more than 20 from every training image"),
}
MAP_COLOURS = ListedColormap([INK, tint(VERMILION, 0.3), tint(GREEN, 0.4), GREEN])


@torch.no_grad()
def nearest_image_map(decode: Decode, pages: Tensor, across: int, reach: float) -> np.ndarray:
    """Map a latent plane by the distance of each decoded point to its nearest page.

    Args:
        decode: Maps (b, 2) to images (b, 3, h, w).
        pages: (m, 3, h, w) in [-1, 1].
        across: Side of the map in points.
        reach: The map covers [-reach, reach] in both directions.

    Returns:
        (across, across) in 0..1: the values of NEAREST_LEVELS, larger for smaller distances, and 0
        at borders between the regions of two pages.
    """
    least, which = nearest_image(decode(plane_points(across, reach)), pages)
    shade = np.full(across * across, 0.0)
    for limit, (value, *_) in reversed(NEAREST_LEVELS.items()):
        shade[least.numpy() < limit] = float(value)
    own = which.numpy().reshape(across, across)
    border = np.zeros((across, across), bool)
    border[:, 1:] |= own[:, 1:] != own[:, :-1]
    border[1:] |= own[1:] != own[:-1]
    return np.where(border, 0.0, shade.reshape(across, across))


@in_style
def latent_planes(
    decoders: Sequence[Decode],
    codes: Sequence[Tensor],
    names: Sequence[str],
    pages: Tensor,
    title: str,
    across: int = 7,
    reach: float = 2.5,
) -> Described:
    """Draw a row for each decoder: what points of its plane decode to, and the nearest pages.

    Args:
        decoders: Each maps (b, 2) to images (b, 3, h, w).
        codes: For each decoder the latents (n, 2) of the pages, drawn as their indices.
        names: One for each decoder.
        pages: (n, 3, h, w) in [-1, 1].
        title: Of the figure.
        across: Decoded points in a row.
        reach: The outermost points are at -reach and reach.
    """
    figure = Figure((NARROW, 1.3 + NARROW / 2 * len(names)), dpi=100, layout="constrained")
    axes = figure.subplots(len(names), 2, squeeze=False, sharex=True, sharey=True)
    edge = reach * across / (across - 1)
    box = {"extent": (-edge, edge, -edge, edge), "interpolation": "nearest"}
    spot = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "black"}
    shares = []
    for (left, right), decode, points, name in zip(axes, decoders, codes, names, strict=True):
        left.imshow(plane_image(decode, across, reach), **box)
        nearness = nearest_image_map(decode, pages, 20 * across, edge)
        shares.append(f"{name}: {(nearness == 1).mean():.0%}")
        right.imshow(
            np.digitize(nearness, (0.4, 0.7, 0.9)), cmap=MAP_COLOURS, vmin=0, vmax=3, **box
        )
        for numbers, (x, y) in cluster_labels(points, 0.4):
            if abs(x) <= edge and abs(y) <= edge:
                right.text(x, y, numbers, ha="center", va="center", fontsize=9, bbox=spot)
        left.set(title=name, ylabel="$z_1$")
        right.set(xlim=(-edge, edge), ylim=(-edge, edge))
        left.grid(False)
        right.grid(False)
    for ax in axes[-1]:
        ax.set_xlabel("$z_0$")
    keys = [Patch(fc=colour, label=key) for _, colour, key in NEAREST_LEVELS.values()]
    figure.legend(handles=keys, loc="outside lower left", ncols=1, frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    words = (
        f"A row of two square planes for each of: {', '.join(names)}. On the left, {across} by "
        f"{across} images that points of the plane decode to. On the right, a map of where the "
        "decoded image is like one of the book, with the number of each image at its code and "
        "black borders between the regions of two images. Share of the plane within 10 grey levels "
        f"of an image: {'; '.join(shares)}."
    )
    return Described(figure, words)


def interpolate(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Interpolate linearly between two points (d,): (steps, d), both ends included."""
    weight = torch.linspace(0, 1, steps)[:, None]
    return (1 - weight) * start + weight * end


def plane_view(
    decoders: Sequence[Decode],
    codes: Sequence[Tensor],
    names: Sequence[str],
    points: Sequence[tuple[float, float]],
    title: str,
    reach: float = 2.5,
    size: int = 180,
) -> Image.Image:
    """Draw a point in the latent plane of each decoder and, below, the image decoded from it.

    Args:
        decoders: Each maps (b, 2) to images (b, 3, h, w).
        codes: For each decoder the latents (n, 2) of the pages.
        names: One for each decoder.
        points: For each decoder the point to decode.
        title: Of the figure.
        reach: The maps cover [-reach, reach] in both directions.
        size: Side of a map and of a decoded image, in pixels.
    """
    with torch.no_grad():
        drawn = [
            to_images(decode(torch.tensor([point])))[0]
            for decode, point in zip(decoders, points, strict=True)
        ]
    enlarged = [one.resize((size, size), Image.Resampling.NEAREST) for one in drawn]
    maps = [
        plane_map(latents, point, reach, size) for latents, point in zip(codes, points, strict=True)
    ]
    return grid([maps, enlarged], names, ["the code", "decoded"], title, scale=1)


def plane_map(latents: Tensor, point: tuple[float, float], reach: float, size: int) -> Image.Image:
    """Draw latents (n, 2) as their indices, and a point as a cross with an open centre.

    Two grey lines are the axes. A point outside the reach is drawn at the edge.
    """
    canvas = Image.new("RGB", (size, size), "white")
    pen, last = ImageDraw.Draw(canvas), size - 1
    pen.line((last / 2, 0, last / 2, last), fill=(215, 215, 215))
    pen.line((0, last / 2, last, last / 2), fill=(215, 215, 215))

    def at(x: float, y: float) -> tuple[float, float]:
        across, down = ((v / reach + 1) / 2 * last for v in (x, -y))
        return min(max(across, 0), last), min(max(down, 0), last)

    for k, (x, y) in enumerate(latents.tolist()):
        if max(abs(x), abs(y)) <= reach:
            pen.text(at(x, y), str(k), (90, 90, 90), label_font(13), anchor="mm")
    x, y = at(*point)
    for near, far in ((-15, -8), (8, 15)):
        pen.line((x + near, y, x + far, y), fill="black", width=3)
        pen.line((x, y + near, x, y + far), fill="black", width=3)
    return canvas


# ------------------------------------------------------------------------------------------ curves


@in_style
def normal_densities(pairs: Sequence[tuple[float, float]], title: str) -> Described:
    """Draw normal densities, each (mean, standard deviation), over N(0, 1) with their KL."""
    figure, ax = axes_for(title, "z", "density")
    figure.set_size_inches(NARROW, 2.8)
    z, said = np.linspace(-3.5, 5, 341), []
    ax.fill_between(z, density(z, 0, 1), color="#dfe3e8")
    ax.text(-1.2, float(density(-1.2, 0, 1)), "N(0, 1)", color=MUTED, ha="right", va="bottom")
    looks = zip(pairs, (BLUE, VERMILION, GREEN), ("-", "--", "-."), strict=False)
    for (mean, std), colour, style in looks:
        divergence = 0.5 * (mean**2 + std**2 - 1) - np.log(std)
        name = f"mean {mean:g}, std {std:g}: {divergence:.2f} nats"
        ax.plot(z, density(z, mean, std), style, color=colour, label=name)
        side = -1 if mean <= 0 else 1  # of the curve, for its label
        x, written = mean + side * 0.7 * std, name.replace(": ", ":\n")
        ax.text(
            x + side * 0.15, float(density(x, mean, std)), written, color=colour, fontsize=9,
            ha="right" if side < 0 else "left", va="bottom",
        )  # fmt: skip
        said.append(name)
    return Described(
        figure,
        f"Normal densities over that of N(0, 1), and their KL from it. {'; '.join(said)}.",
    )


def density(z: np.ndarray | float, mean: float, std: float) -> np.ndarray:
    """Return the normal density at z."""
    return np.exp(-0.5 * ((z - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))


@in_style
def guess_errors(values: Sequence[float], chances: Sequence[float]) -> Described:
    """Draw the expected squared and absolute error of a constant guess c, with their minima.

    Args:
        values: Possible values of the pixel, in [-1, 1].
        chances: Their probabilities.
    """
    title = "Which value has the smallest expected error?"
    figure, ax = axes_for(title, "value returned", "expected error")
    figure.set_size_inches(NARROW, 2.8)
    c, said = np.linspace(-1.4, 1.4, 281), []
    looks = ("squared", 2, "-", BLUE), ("absolute", 1, "--", VERMILION)
    for name, power, style, colour in looks:
        pairs = zip(values, chances, strict=True)
        cost = np.sum([p * np.abs(c - x) ** power for x, p in pairs], axis=0)
        best = int(cost.argmin())
        ax.plot(c, cost, style, color=colour, label=f"{name} error: minimum at {c[best]:.2f}")
        ax.plot(c[best], cost[best], "o", color=colour)
        said.append(f"the {name} error has its minimum at {c[best]:.2f}")
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])
    for x, p in zip(values, chances, strict=True):
        ax.axvline(x, color="0.6", lw=1)
        side = "left" if x < 0 else "right"
        ax.text(x, ax.get_ylim()[1] * 0.93, f" {p:.0%} of the images ", ha=side, color=MUTED)
    ax.legend(loc="upper center", bbox_to_anchor=(0.49, 0.9))
    words = f"Two curves of the expected error over the value returned: {', and '.join(said)}."
    return Described(figure, words)


# ------------------------------------------------------------------------------------------- errors


def error_map(x: Tensor, y: Tensor, most: float = 0.5) -> list[Image.Image]:
    """Draw the mean absolute error over the colours: black is 0, white is `most` or more.

    Args:
        x: Originals, (b, 3, h, w) in [-1, 1].
        y: Reconstructions, (b, 3, h, w), clamped to [-1, 1].
        most: In units of x.
    """
    error = (x - y.clamp(-1, 1)).abs().mean(1) / most
    return [Image.fromarray((e.clamp(0, 1) * 255).byte().numpy()) for e in error.detach()]
