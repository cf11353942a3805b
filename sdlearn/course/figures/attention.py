"""Figures of attention: its matrices, its cost, the transformer block, and attention maps."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from sdlearn.course.figures import diagrams
from sdlearn.course.figures.diagrams import ATTENTION, LINEAR, MLP, NORM, arrow, box, label, plus
from sdlearn.course.figures.images import grid, rows_of
from sdlearn.course.figures.plots import NARROW, axes_for
from sdlearn.course.figures.style import (
    BLUE,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PALE,
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
def heads(
    one: Tensor, halves: Sequence[Tensor], queries: Sequence[str], words: Sequence[str]
) -> Described:
    """Draw how one head and two heads attend, from the queries to the outputs.

    Args:
        one: (n, m), the attention weights of one head with all channels.
        halves: The weights of two heads, (n, m) each, one with each half of the channels.
        queries: What the n queries are.
        words: What the m keys are, as many as the queries have channels. The values are the rows of
            the identity matrix, so the outputs are weights.
    """
    figure, ax = diagrams.canvas(14.6, 11.4, "One head and two heads", NARROW)
    side, n = 0.7, len(queries)
    left, middle, right = 3.0, 7.1, 11.2  # the left edges of the three columns
    first, second = tint(BLUE, 0.3), tint(ORANGE, 0.5)

    def matrix(x: float, y: float, colours: Sequence[Sequence[str]]) -> None:
        for i, row in enumerate(colours):
            for j, colour in enumerate(row):
                corner = (x + j * side, y - (i + 1) * side)
                ax.add_patch(Rectangle(corner, side, side, fc=colour, ec=INK, lw=0.7))

    def entries(x: float, y: float, values: Tensor, light: float = 1) -> None:
        for i, row in enumerate(values.tolist()):
            for j, w in enumerate(row):
                ax.text(
                    x + (j + 0.5) * side, y - (i + 0.5) * side, f"{w:.2f}".lstrip("0"),
                    ha="center", va="center", fontsize=6.5, color="white" if w > light else INK,
                )  # fmt: skip

    def weights(x: float, y: float, values: Tensor) -> None:
        matrix(x, y, [[tint(INK, 0.8 * float(w)) for w in row] for row in values])
        entries(x, y, values, 0.6)

    def titles(x: float, y: float, names: Sequence[str]) -> None:
        for j, name in enumerate(names):
            ax.text(x + (j + 0.5) * side, y + 0.12, name, rotation=45, fontsize=7.5, color=MUTED)

    half, width = len(words) // 2, len(words) * side
    plain, split = [[PALE] * len(words)] * n, [[first] * half + [second] * half] * n
    both = torch.cat([halves[0][:, :half], halves[1][:, half:]], dim=1)  # the outputs of two heads
    tops = 9.6, 4.2  # of the matrices of one head and of two
    parts = (("one head", plain, one), ("two heads", split, both))
    for y, (name, colours, outputs) in zip(tops, parts, strict=True):
        matrix(left, y, colours)
        matrix(right, y, colours)
        entries(right, y, outputs)
        titles(left, y, ("colour", "object", "place", "time"))
        titles(right, y, words)
        ax.text(0.1, y + 0.55, name, fontsize=9.5, fontweight="bold", va="center")
        for i, query in enumerate(queries):
            label(ax, left - 0.15, y - (i + 0.5) * side, query, MUTED, "right")
    tall = n * side
    centre = tops[0] - tall / 2
    titles(middle, tops[0], words)
    weights(middle, tops[0], one)
    arrow(ax, [(left + width + 0.1, centre), (middle - 0.1, centre)])
    arrow(ax, [(middle + width + 0.1, centre), (right - 0.1, centre)])
    centre = tops[1] - tall / 2
    titles(middle, tops[1] + 1.75, words)
    shades = zip(halves, (1.65, -1.35), (BLUE, ORANGE), (0.35, -0.35), strict=True)
    for k, (values, up, colour, shift) in enumerate(shades):
        y = tops[1] + up
        weights(middle, y, values)
        frame = (middle - 0.07, y - tall - 0.07)
        ax.add_patch(Rectangle(frame, width + 0.14, tall + 0.14, fill=False, ec=colour, lw=2))
        label(ax, middle + width / 2, y - tall - 0.4, f"head {k}")
        level = y - tall / 2
        arrow(ax, [(left + width + 0.1, centre + shift), (middle - 0.17, level)], colour)
        arrow(ax, [(middle + width + 0.17, level), (right - 0.1, centre + shift)], colour)
    for x, name in ((left, "queries"), (middle, "weights"), (right, "outputs")):
        label(ax, x + width / 2, 11.1, name)
    described = "; ".join(
        f"{name} {', '.join(f'{w:.2f} on {word}' for w, word in zip(row, words, strict=True))}"
        for name, row in (
            ("one head", one[-1].tolist()),
            *((f"head {k}", values[-1].tolist()) for k, values in enumerate(halves)),
            ("outputs of two heads", both[-1].tolist()),
        )
    )
    return Described(
        figure,
        f"A diagram of matrices for {n} queries. With one head, all channels of the queries give "
        f"one matrix of weights, {n} rows and {len(words)} columns, and that one gives all "
        "channels of the outputs. With two heads, the first half of the channels gives one matrix "
        "and the second half another; each gives its half of the outputs, and the halves stand "
        f"side by side. For {queries[-1]}: {described}.",
    )


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
