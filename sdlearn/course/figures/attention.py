"""Figures of attention: its cost, the softmax's slopes, and attention maps."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageOps
from torch import Tensor

from sdlearn.course.figures.images import grid, letters_for, rows_of
from sdlearn.course.figures.plots import NARROW, axes_for
from sdlearn.course.figures.style import (
    BLUE,
    MUTED,
    VERMILION,
    Described,
    in_style,
)

# ------------------------------------------------------------------------------------------ curves


@in_style
def saturation(
    widths: Sequence[int],
    largest: Mapping[str, Sequence[float]],
    slopes: Mapping[str, Sequence[float]],
) -> Described:
    """Draw the largest weight and the sum of the slopes of a softmax over the width d.

    Args:
        widths: The values of d.
        largest: By the name of the scores, such as "q·k / √d", a value for each width.
        slopes: The same names, and the sums of the weights' slopes.
    """
    figure = Figure(figsize=(1.45 * NARROW, 3.3), dpi=100, layout="constrained")
    panels = {"Mean of the largest of 64 weights": largest, "Mean sum of the 64 slopes": slopes}
    said = []
    for ax, (title, lines) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        ax.set(title=title, xlabel="width d")
        for (name, values), colour, style in zip(
            lines.items(), (VERMILION, BLUE), ("s--", "o-"), strict=True
        ):
            ax.plot(widths, values, style, color=colour)
            ax.annotate(
                name, (widths[-1], values[-1]), (8, 0), textcoords="offset points", va="center",
                color=colour, fontweight="bold",
            )  # fmt: skip
        ax.set_xscale("log", base=2)
        ax.set(ylim=(0, 1.05), xlim=(widths[0] * 0.85, widths[-1] * 8))
        ax.set_xticks(widths, [str(d) for d in widths])
        ax.minorticks_off()
        ends = "; ".join(
            f"{name}: {values[0]:.2f} at d = {widths[0]}, {values[-1]:.2f} at d = {widths[-1]}"
            for name, values in lines.items()
        )
        said.append(f"{title}: {ends}.")
    return Described(figure, f"Two panels, both against the width d. {' '.join(said)}")


@in_style
def attention_time(tokens: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> Described:
    """Draw the time of one attention over the number of tokens, both axes logarithmic.

    Args:
        tokens: The numbers of tokens.
        seconds: By the name of the implementation, a time for each number of tokens. The dotted
            line is proportional to the square of the tokens and meets the first one's second time.
    """
    figure, ax = axes_for(
        "Forward time of attention, two heads of width 32", "tokens n", "seconds of CPU time"
    )
    figure.set_size_inches(1.15 * NARROW, 3.4)
    first = next(iter(seconds.values()))[1]
    square = [first * (n / tokens[1]) ** 2 for n in tokens]
    lines = {"∝ n²": square} | dict(seconds)
    looks = zip(lines.items(), (MUTED, VERMILION, BLUE), (":", "s--", "o-"), strict=True)
    below = 0.0  # the height of the label below
    for (name, values), colour, style in sorted(looks, key=lambda look: look[0][1][-1]):
        ax.plot(tokens, values, style, color=colour)
        below = max(values[-1] * 0.9, 1.9 * below)  # far enough above it
        ax.text(tokens[-1] * 1.25, below, name, va="center", color=colour, fontweight="bold")
    ax.set(xscale="log", yscale="log", xlim=(tokens[0] * 0.8, tokens[-1] * 3.6))
    ax.set_xticks(tokens, [str(n) for n in tokens])
    ax.minorticks_off()
    ends = "; ".join(f"{name}: {values[-1]:.1g} s" for name, values in seconds.items())
    words = (
        f"Time against the number of tokens, from {tokens[0]} to {tokens[-1]}, on logarithmic "
        f"axes, beside a dotted line that grows with the square of the tokens. At {tokens[-1]} "
        f"tokens, {ends}."
    )
    return Described(figure, words)


# ------------------------------------------------------------------------------------------ images


def heatmap(weights: Tensor, most: float | None = None, size: int = 64) -> Image.Image:
    """Draw a map as a square grey image in 16 shades.

    A stored figure has few colours, and the image next to the map needs most of them.

    Args:
        weights: (h, w), values from 0 up. 0 is black.
        most: The value drawn as white. None takes the largest value of the map.
        size: Side of the image in pixels.
    """
    values = weights.detach().float().numpy()
    top = float(values.max()) if most is None else most
    shades = (np.clip(values / (top or 1.0), 0, 1) * 15).round() * 17
    return Image.fromarray(shades.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)


def overlay(image: Image.Image, weights: Tensor, most: float | None = None) -> Image.Image:
    """Darken a square image where a map (h, w) is small, and keep it bright where it is large.

    The light grows with the square root of the map, so that small weights can be told apart.

    Args:
        image: The image.
        weights: (h, w), values from 0 up.
        most: The value that leaves the image as it is. None takes the largest value of the map.
    """
    top = float(weights.max()) if most is None else most
    light = np.array(heatmap(weights.sqrt(), top**0.5, image.width), float)[..., None] / 255
    pixels = np.array(image.convert("RGB"), float) * (0.3 + 0.7 * light)
    return Image.fromarray(pixels.round().astype(np.uint8))


def token_overlays(
    image: Image.Image,
    maps: Tensor,
    words: Sequence[str],
    title: str,
    across: int = 4,
    alone: Mapping[str, Tensor] | None = None,
) -> Described:
    """Draw an image and, for each token, the image lit by the token's attention map.

    All `maps` share one scale: the image is shown at full brightness at the largest weight of all.

    Args:
        image: The generated image, drawn first.
        maps: (tokens, h, w), attention weights.
        words: The tokens.
        title: Of the figure.
        across: Images in a row.
        alone: More maps (h, w), by token, in rows of their own below. Each has its own scale.
    """
    most = float(maps.max())
    tiles = [image, *(overlay(image, one, most) for one in maps)]
    named = [*zip(words, maps, strict=True)]
    figure = rows_of(tiles, ["the image", *map(share_of, named)], title, across, letters=18)
    said = "; ".join(map(described, named))
    words_of_figure = (
        "The image, and the same image once for each token, bright where the token gets attention "
        f"and dark elsewhere, on one scale. Attention weight: {said}."
    )
    if alone:
        below = [overlay(image, one) for one in alone.values()]
        names = [share_of(one) for one in alone.items()]
        scaled = rows_of(below, names, "Each on its own scale", across, letters=18)
        figure = stacked(figure, scaled)
        said = "; ".join(map(described, alone.items()))
        words_of_figure += f" Below, each on its own scale: {said}."
    return Described(figure, words_of_figure)


def share_of(named: tuple[str, Tensor]) -> str:
    """The heading of a token's map: the token and its mean weight."""
    return f"{named[0]}, {named[1].mean():.1%}"


def described(named: tuple[str, Tensor]) -> str:
    """A token's map in words: its mean and its largest weight."""
    word, one = named
    return f"{word}: {one.mean():.1%} on average, {one.max():.1%} at most"


def stacked(above: Image.Image, below: Image.Image) -> Image.Image:
    """Draw one image below another, on white."""
    size = max(above.width, below.width), above.height + below.height
    page = Image.new("RGB", size, "white")
    page.paste(above, (0, 0))
    page.paste(below, (0, above.height))
    return page


def attention_map_grid(
    image: Image.Image, maps: Tensor, words: Sequence[str], title: str, across: int = 6
) -> Image.Image:
    """Draw an image and the attention map of every token, in rows.

    Each map has its own scale: white is its largest weight.

    Args:
        image: The generated image, drawn first.
        maps: (tokens, h, w).
        words: The tokens, one heading for each map.
        title: Written above the first row.
        across: Images in a row.
    """
    tiles = [image, *(heatmap(one, size=image.width) for one in maps)]
    return rows_of(tiles, ["the picture", *words], title, across, 3 if across <= 4 else 2)


def variants(images: Mapping[str, Image.Image], title: str, words: Mapping[str, str]) -> Described:
    """Draw variants of one image in a row.

    Args:
        images: By name.
        title: Of the figure.
        words: By name, what an image shows.
    """
    figure = grid([[*images.values()]], [*images], title=title, scale=3 if len(images) < 5 else 2)
    said = "; ".join(f"{name}: {what}" for name, what in words.items())
    return Described(figure, f"{len(images)} images side by side, {'; '.join(images)}. {said}.")


def variant_rows(
    rows: Mapping[str, Sequence[Image.Image]],
    seeds: Sequence[int],
    title: str,
    words: str,
    silhouettes: Sequence[np.ndarray] = (),
) -> Described:
    """Draw variants of several images: a row for each variant, a column for each seed.

    Args:
        rows: By the name of the variant, its image for each seed.
        seeds: Of the columns.
        title: Of the figure.
        words: What the images show.
        silhouettes: For each seed (h, w), True on an object of the first row's image, whose outline
            is then drawn in the other rows.
    """
    names = [f"seed {seed}" for seed in seeds]
    first, *others = rows.values()
    if silhouettes:
        others = [[*map(outlined, row, silhouettes)] for row in others]
        first = [enlarged(image) for image in first]
    scale = 1 if silhouettes else 2
    letters = letters_for(scale * sum(image.width for image in first))
    figure = grid([first, *others], names, [*rows], title, scale, letters)
    return Described(
        figure, f"A grid with a column for each seed and the rows: {'; '.join(rows)}. {words}"
    )


def enlarged(image: Image.Image) -> Image.Image:
    """Double an image, without smoothing."""
    return ImageOps.scale(image.convert("RGB"), 2, Image.Resampling.NEAREST)


def outlined(image: Image.Image, silhouette: np.ndarray) -> Image.Image:
    """Double an image and draw the outer outline of a silhouette (h, w) as a thin dark line."""
    inside = np.pad(silhouette.repeat(2, 0).repeat(2, 1), 1)
    sea = Image.fromarray(inside.astype(np.uint8) * 255).copy()
    ImageDraw.floodfill(sea, (0, 0), 128)  # what it does not reach is a hole
    inside = np.array(sea) != 128
    near = inside[:-2, 1:-1] | inside[2:, 1:-1] | inside[1:-1, :-2] | inside[1:-1, 2:]
    pixels = np.array(enlarged(image))
    pixels[near & ~inside[1:-1, 1:-1]] = (20, 20, 20)
    return Image.fromarray(pixels)


def seed_grid(
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[str],
    seeds: Sequence[int],
    title: str,
    words: str,
) -> Described:
    """Draw variants of several images: a row for each seed, a column for each variant.

    Args:
        rows: The images.
        columns: What each column shows.
        seeds: Of the rows.
        title: Of the figure.
        words: What the images show.
    """
    names = [f"seed {seed}" for seed in seeds]
    figure = grid(rows, columns, names, title, scale=3 if len(columns) < 5 else 2)
    return Described(
        figure, f"A grid with a row for each seed and the columns: {'; '.join(columns)}. {words}"
    )
