"""Figures of attention: its matrices, its cost, the transformer block, and attention maps."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from sdlearn.course.figures import diagrams
from sdlearn.course.figures.diagrams import ATTENTION, LINEAR, MLP, NORM, arrow, box, label, plus
from sdlearn.course.figures.images import grid, rows_of
from sdlearn.course.figures.plots import NARROW, axes_for
from sdlearn.course.figures.style import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    VERMILION,
    Described,
    in_style,
    tint,
)

# ---------------------------------------------------------------------------------------- diagrams


@in_style
def attention_matrices() -> Described:
    """Draw the matrices of cross-attention as rectangles: n image tokens read m text tokens."""
    figure, ax = diagrams.canvas(12.8, 7.3, "Cross-attention as matrices (one head)", NARROW)
    image, text = tint(BLUE, 0.35), tint(VERMILION, 0.35)
    n, m, d = 3.0, 1.8, 1.3  # sides of the rectangles

    def matrix(x: float, y: float, w: float, h: float, name: str, size: str, colour: str) -> None:
        ax.add_patch(Rectangle((x, y - h / 2), w, h, facecolor=colour, edgecolor=INK, lw=0.9))
        ax.text(x + w / 2, y, name, ha="center", va="center", fontsize=9.5)
        label(ax, x + w / 2, y - h / 2 - 0.3, size, MUTED)

    top, low = 5.6, 2.3  # the heights of the two rows
    matrix(0.4, top, d, n, "$x$", "n × dim", image)
    matrix(0.4, low, d, m, "text", "m × text dim", text)
    matrix(3.1, top, d, n, "$Q$", "n × d", image)
    matrix(3.1, low, d, m, "$K$", "m × d", text)
    matrix(9.2, low, d, m, "$V$", "m × d", text)
    matrix(6.4, top, m, n, "weights", "n × m", tint(ORANGE, 0.45))
    matrix(11.35, top, d, n, "output", "n × dim", image)
    arrow(ax, [(1.75, top), (3.0, top)], BLUE)
    arrow(ax, [(1.75, low + 0.2), (3.0, low + 0.2)], VERMILION)
    arrow(ax, [(1.75, low - 0.3), (2.3, low - 0.3), (2.3, 0.45), (8.6, 0.45), (8.6, low),
               (9.1, low)], VERMILION)  # fmt: skip
    label(ax, 2.3, top + 0.3, "to_q", BLUE)
    label(ax, 2.3, low + 0.5, "to_k", VERMILION)
    label(ax, 5.5, 0.75, "to_v", VERMILION)
    arrow(ax, [(4.45, top), (6.3, top)])
    arrow(ax, [(4.45, low + 0.2), (5.4, low + 0.2), (5.4, top - 0.8), (6.3, top - 0.8)])
    label(ax, 5.33, top + 0.85, "$QK^\\top/\\sqrt{d}$,\nsoftmax of\neach row")
    arrow(ax, [(8.25, top), (11.25, top)])
    arrow(ax, [(9.85, low + 0.95), (9.85, top - 0.05)])
    label(ax, 9.85, top + 0.55, "weights · $V$,\nthen to_out")
    words = (
        "A diagram of matrices. to_q maps the image tokens x, n rows, to the queries Q. to_k and "
        "to_v map the text tokens, m rows, to the keys K and the values V. Q times K transposed, "
        "divided by the square root of d and put through a softmax in each row, is the matrix of "
        "weights, n rows and m columns. The weights times V, through to_out, are the output, "
        "which has the shape of x."
    )
    return Described(figure, words)


@in_style
def transformer_block() -> Described:
    """Draw the SpatialTransformer with one block: three layers beside the residual stream."""
    title = "A SpatialTransformer with one transformer block"
    figure, ax = diagrams.canvas(12.2, 12.1, title, NARROW)
    stream, norm, middle = 2.7, 5.0, 7.9  # across: the stream, the norms, the layers
    ax.add_patch(Rectangle((1.1, 2.85), 8.4, 6.9, facecolor="#f5f7fa", edgecolor="#cbd2d9"))
    label(ax, 9.35, 9.45, "TransformerBlock", MUTED, "right")
    label(ax, stream + 0.25, 3.15, "residual stream: tokens (b, h·w, c)", MUTED, "left")
    label(ax, stream, 11.85, "feature map (b, c, h, w)")
    box(ax, stream, 10.45, "GroupNorm, proj_in", LINEAR, w=3.2, h=0.8)
    arrow(ax, [(stream, 11.6), (stream, 10.88)])
    layers = (
        (8.6, "self-attention\nattn1", ATTENTION),
        (6.6, "cross-attention\nattn2", ATTENTION),
        (4.6, "gated MLP\nff", MLP),
    )
    sums = (7.55, 5.55, 3.55)
    for k, ((y, name, colour), end) in enumerate(zip(layers, sums, strict=True), 1):
        arrow(ax, [(stream, y), (norm - 0.98, y)])
        box(ax, norm, y, f"LayerNorm\nnorm{k}", NORM, w=1.9, h=1.0)
        arrow(ax, [(norm + 0.95, y), (middle - 1.28, y)])
        box(ax, middle, y, name, colour, w=2.5, h=1.0)
        arrow(ax, [(middle, y - 0.5), (middle, end), (stream + 0.26, end)])
        plus(ax, stream, end)
    starts = [10.05, *(end - 0.24 for end in sums)]
    ends = [*(end + 0.26 for end in sums), 2.53]
    for start, end in zip(starts, ends, strict=True):
        arrow(ax, [(stream, start), (stream, end)])
    box(ax, stream, 2.1, "proj_out", LINEAR, w=1.9, h=0.8)
    arrow(ax, [(stream, 1.7), (stream, 1.31)])
    plus(ax, stream, 1.05)
    arrow(ax, [(stream, 0.81), (stream, 0.2)])
    label(ax, stream + 0.3, 0.4, "feature map (b, c, h, w)", side="left")
    arrow(ax, [(stream, 11.25), (0.65, 11.25), (0.65, 1.05), (stream - 0.26, 1.05)])
    ax.text(0.32, 6.2, "residual connection", rotation=90, ha="center", va="center",
            fontsize=8.5, color=MUTED)  # fmt: skip
    arrow(ax, [(10.15, 6.6), (middle + 1.28, 6.6)], VERMILION)
    label(ax, 11.1, 6.6, "text\nembeddings\n(b, 77,\ncontext_dim)", VERMILION)
    words = (
        "A diagram from top to bottom. A feature map goes through GroupNorm and proj_in into the "
        "residual stream of tokens. Three branches leave the stream, each through a LayerNorm and "
        "one layer, and are added back to it: self-attention, cross-attention, which also gets "
        "the text embeddings, and the gated MLP. After the block comes proj_out, and its result is "
        "added to the feature map, which bypasses all of this through an outer residual connection."
    )
    return Described(figure, words)


# ------------------------------------------------------------------------------------------ curves


@in_style
def largest_weights(widths: Sequence[int], largest: Mapping[str, Sequence[float]]) -> Described:
    """Draw the average largest attention weight over the width d, a line for each way of scaling.

    Args:
        widths: The values of d.
        largest: By the name of the scores, such as "q·k / √d", a value for each width.
    """
    figure, ax = axes_for("The largest of 64 attention weights, on average", "width d", "weight")
    figure.set_size_inches(1.15 * NARROW, 3.4)
    styles = zip(largest.items(), (VERMILION, BLUE), ("s--", "o-"), strict=True)
    for (name, values), colour, style in styles:
        ax.plot(widths, values, style, color=colour)
        ax.annotate(
            name, (widths[-1], values[-1]), (8, 0), textcoords="offset points", va="center",
            color=colour, fontweight="bold",
        )  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set(ylim=(0, 1.05), xlim=(widths[0] * 0.85, widths[-1] * 3.4))
    ax.set_xticks(widths, [str(d) for d in widths])
    ax.minorticks_off()
    ends = "; ".join(
        f"{name}: {values[0]:.2f} at d = {widths[0]}, {values[-1]:.2f} at d = {widths[-1]}"
        for name, values in largest.items()
    )
    words = f"The largest attention weight against the width d. {ends}."
    return Described(figure, words)


@in_style
def attention_time(tokens: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> Described:
    """Draw the time of one attention over the number of tokens, both axes logarithmic.

    Args:
        tokens: The numbers of tokens.
        seconds: By the name of the implementation, a time for each number of tokens. The dotted
            line is proportional to the square of the tokens and meets the first one's second time.
    """
    figure, ax = axes_for(
        "Time of one attention layer, two heads of width 32", "tokens n", "seconds of CPU time"
    )
    figure.set_size_inches(1.15 * NARROW, 3.4)
    first = next(iter(seconds.values()))[1]
    square = [first * (n / tokens[1]) ** 2 for n in tokens]
    lines = {"∝ n²": square} | dict(seconds)
    looks = zip(lines.items(), (MUTED, VERMILION, BLUE), (":", "s--", "o-"), strict=True)
    for (name, values), colour, style in looks:
        ax.plot(tokens, values, style, color=colour, label=name)
    ax.set(xscale="log", yscale="log")
    ax.set_xticks(tokens, [str(n) for n in tokens])
    ax.minorticks_off()
    ax.legend()
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
    image: Image.Image, maps: Tensor, words: Sequence[str], title: str, across: int = 4
) -> Described:
    """Draw an image and, for each token, the image lit by the token's attention map.

    All maps share one scale: the image is shown at full brightness at the largest weight of all.

    Args:
        image: The generated image, drawn first.
        maps: (tokens, h, w), attention weights.
        words: The tokens.
        title: Of the figure.
        across: Images in a row.
    """
    most = float(maps.max())
    tiles = [image, *(overlay(image, one, most) for one in maps)]
    shares = [f"{word}  {one.mean():.0%}" for word, one in zip(words, maps, strict=True)]
    figure = rows_of(tiles, ["the image", *shares], title, across)
    said = ", ".join(
        f"{word}: {one.mean():.1%} on average, {one.max():.1%} at most"
        for word, one in zip(words, maps, strict=True)
    )
    return Described(
        figure,
        "The image, and the same image once for each token, bright where the token gets attention "
        f"and dark elsewhere, on one scale. Attention weight: {said}.",
    )


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
