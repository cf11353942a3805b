"""Diagrams for notebook 04: the matrices of attention, its heads, and a transformer block."""

from collections.abc import Sequence

import torch
from matplotlib.patches import Rectangle
from torch import Tensor

from sdlearn.course.figures import diagrams
from sdlearn.course.figures.diagrams import ATTENTION, LINEAR, MLP, NORM, arrow, box, label, plus
from sdlearn.course.figures.plots import NARROW
from sdlearn.course.figures.style import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PALE,
    VERMILION,
    Described,
    in_style,
    tint,
)


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
    one: Tensor,
    halves: Sequence[Tensor],
    queries: Sequence[str],
    words: Sequence[str],
    asked: Tensor | None = None,
) -> Described:
    """Draw how one head and two heads attend, from the queries to the outputs.

    Args:
        one: (n, m), the attention weights of one head with all channels.
        halves: The weights of two heads, (n, m) each, one with each half of the channels.
        queries: What the n queries are.
        words: What the m keys are, as many as the queries have channels. The values are the rows of
            the identity matrix, so the outputs are weights.
        asked: The queries themselves, (n, channels), written into their cells. None leaves the
            cells empty.
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

    def entries(x: float, y: float, values: Tensor, light: float = 1, form: str = ".2f") -> None:
        for i, row in enumerate(values.tolist()):
            for j, w in enumerate(row):
                written = f"{w:{form}}"
                ax.text(
                    x + (j + 0.5) * side, y - (i + 0.5) * side,
                    written.lstrip("0") if "." in written else written,
                    ha="center", va="center", fontsize=9, color="white" if w > light else INK,
                )  # fmt: skip

    def weights(x: float, y: float, values: Tensor) -> None:
        matrix(x, y, [[tint(INK, 0.8 * float(w)) for w in row] for row in values])
        entries(x, y, values, 0.6)

    def titles(x: float, y: float, names: Sequence[str]) -> None:
        for j, name in enumerate(names):
            ax.text(x + (j + 0.5) * side, y + 0.12, name, rotation=45, fontsize=9, color=MUTED)

    half, width = len(words) // 2, len(words) * side
    plain, split = [[PALE] * len(words)] * n, [[first] * half + [second] * half] * n
    both = torch.cat([halves[0][:, :half], halves[1][:, half:]], dim=1)  # the outputs of two heads
    tops = 9.6, 4.2  # of the matrices of one head and of two
    parts = (("one head", plain, one), ("two heads", split, both))
    for y, (name, colours, outputs) in zip(tops, parts, strict=True):
        matrix(left, y, colours)
        matrix(right, y, colours)
        entries(right, y, outputs)
        if asked is not None:
            entries(left, y, asked, light=float("inf"), form="g")
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
    said = ""
    if asked is not None:
        rows = zip(queries, asked.tolist(), strict=True)
        said = " The queries: " + "; ".join(
            f"{query} {', '.join(f'{entry:g}' for entry in row)}" for query, row in rows
        )
        said += "."
    return Described(
        figure,
        f"A diagram of matrices for {n} queries. With one head, all channels of the queries give "
        f"one matrix of weights, {n} rows and {len(words)} columns, and that one gives all "
        "channels of the outputs. With two heads, the first half of the channels gives one matrix "
        "and the second half another; each gives its half of the outputs, and the halves stand "
        f"side by side. For {queries[-1]}: {described}.{said}",
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
