"""Figures of attention: its cost, the softmax's slopes, masked tokens, and attention maps."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.images import grid, rows_of
from sdlearn.course.figures.plots import NARROW, axes_for
from sdlearn.course.figures.style import (
    BLUE,
    GREY,
    MUTED,
    VERMILION,
    Described,
    in_style,
)

# ---------------------------------------------------------------------------------------- diagrams


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


@in_style
def share_and_effect(
    shares: Mapping[str, float], effects: Mapping[str, float], named: Mapping[str, tuple[int, int]]
) -> Described:
    """Draw what masking some tokens changes over the share of attention that they get.

    Args:
        shares: By trial, the share of attention of its tokens, 0 to 1.
        effects: By trial, the fraction of the pixels that masking them changes, 0 to 1.
        named: The trials that get a label, and where it is put, in points from the mark.
    """
    figure, ax = axes_for(
        f"{len(shares)} masks: attention and pixels changed (grey: see the tables)",
        "share of attention, %",
        "pixels changed, %",
    )
    figure.set_size_inches(1.2 * NARROW, 3.9)
    for name, share in shares.items():
        at, bold = (100 * share, 100 * effects[name]), name in named
        ax.plot(*at, "o", color=VERMILION if bold else GREY, clip_on=False, zorder=3)
        if bold:
            dx, dy = named[name]
            ax.annotate(
                name, at, (dx, dy), textcoords="offset points", va="center", fontsize=9,
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
            )  # fmt: skip
    ax.set(xlim=(0, 100), ylim=(0, 100))
    said = "; ".join(f"{n}: {share:.0%} and {effects[n]:.0%}" for n, share in shares.items())
    return Described(
        figure,
        f"A point for each of {len(shares)} trials: the share of attention of the masked tokens "
        f"and the pixels that masking them changes. {said}.",
    )


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
    figure = rows_of(tiles, ["the image", *map(share_of, named)], title, across)
    said = "; ".join(map(described, named))
    words_of_figure = (
        "The image, and the same image once for each token, bright where the token gets attention "
        f"and dark elsewhere, on one scale. Attention weight: {said}."
    )
    if alone:
        below = [overlay(image, one) for one in alone.values()]
        names = [share_of(one) for one in alone.items()]
        figure = stacked(figure, rows_of(below, names, "Each on its own scale", across))
        said = "; ".join(map(described, alone.items()))
        words_of_figure += f" Below, each on its own scale: {said}."
    return Described(figure, words_of_figure)


def share_of(named: tuple[str, Tensor]) -> str:
    """The heading of a token's map: the token and its mean weight."""
    return f"{named[0]}, mean {named[1].mean():.0%}"


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
    rows: Mapping[str, Sequence[Image.Image]], seeds: Sequence[int], title: str, words: str
) -> Described:
    """Draw variants of several images: a row for each variant, a column for each seed.

    Args:
        rows: By the name of the variant, its image for each seed.
        seeds: Of the columns.
        title: Of the figure.
        words: What the images show.
    """
    names = [f"seed {seed}" for seed in seeds]
    figure = grid([*rows.values()], names, [*rows], title, scale=2)
    return Described(
        figure, f"A grid with a column for each seed and the rows: {'; '.join(rows)}. {words}"
    )


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
