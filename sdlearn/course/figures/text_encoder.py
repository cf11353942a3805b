"""Figures of the text encoder: tokens, changed embeddings, similarities, activations."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.images import label_font, wrapped
from sdlearn.course.figures.plots import ARROW, WIDE
from sdlearn.course.figures.style import in_style
from sdlearn.versions import SD1_5, SD2_1, SDXL

ROUNDING = 1e-4  # a relative change of an embedding below this is rounding error
BOX = 76, 46  # one token, in pixels


def display_token(token: str) -> str:
    """Return a readable token: "cat" for "cat</w>", "light-" for a piece that continues."""
    if token.startswith("<|"):
        return "(start)" if "start" in token else "(end)"
    return token.removesuffix("</w>") if token.endswith("</w>") else f"{token}-"


def token_grid(
    tokens: Sequence[str],
    ids: Sequence[int],
    moved: Tensor | None = None,
    changed: Collection[int] = (),
    title: str = "",
    across: int = 11,
) -> Image.Image:
    """Draw every token in a box with its id, row by row; 77 tokens fill 7 rows of 11.

    Args:
        tokens: The n tokens.
        ids: Their ids.
        moved: Relative change of each embedding, (n,). It is written into the box, and larger
            changes are darker. An unchanged embedding has a white box.
        changed: Positions drawn with a thick frame.
        title: Written above the boxes.
        across: Boxes in a row.
    """
    (w, h), gap, font, small = BOX, 6, label_font(12), label_font(10)
    wide = across * w + 2 * gap
    heading = wrapped(title, label_font(13), wide - 2 * gap)
    top = gap + 20 * len(heading)
    page = Image.new("RGB", (wide, top + -(-len(tokens) // across) * h + gap), "white")
    pen = ImageDraw.Draw(page)
    for i, line in enumerate(heading):
        pen.text((gap, gap + 20 * i), line, "black", label_font(13))
    values = None if moved is None else moved.detach().float().tolist()
    ends = (k for k, token in enumerate(tokens) if display_token(token) == "(end)")
    padding = next(ends, len(tokens)) + 1
    for k, (token, number) in enumerate(zip(tokens, ids, strict=True)):
        x, y = gap + k % across * w, top + k // across * h
        still = values is None or values[k] < ROUNDING
        shade = 255 if still or values is None else 240 - round(95 * values[k] / max(values))
        ink = "#767676" if values is None and k >= padding else "black"
        pen.rectangle((x, y, x + w, y + h), (shade,) * 3, "#999999")
        word = display_token(token)
        while font.getlength(word) > w - 6 and len(word) > 2:
            word = word[:-2] + "…"
        pen.text((x + w / 2, y + 4), word, ink, font, anchor="ma")
        below = f"{number}" if values is None else f"{number}   {format_distance(values[k])}"
        pen.text((x + w / 2, y + 26), below, ink, small, anchor="ma")
    for k in changed:
        x, y = gap + k % across * w, top + k // across * h
        pen.rectangle((x + 1, y + 1, x + w - 1, y + h - 1), None, "black", width=3)
    return page


def format_distance(value: float) -> str:
    """Format a relative change with two digits; "0" only for an unchanged embedding."""
    return "0" if value < ROUNDING else "<0.01" if value < 0.005 else f"{value:.2f}"


@in_style
def state_distances(
    moved: Tensor, tokens: Sequence[str], names: Sequence[str], title: str
) -> Figure:
    """Draw how far embeddings changed, with a row for each layer and a column for each token.

    The values are written into squares, and larger values are darker, on one scale for all rows.
    An unchanged embedding is a white square with a 0.

    Args:
        moved: Relative changes, (rows, n), from 0 up.
        tokens: The n tokens.
        names: Labels of the rows.
        title: Of the figure.
    """
    height, width = moved.shape
    figure = Figure(figsize=(WIDE, 1.5 + 0.34 * height), dpi=100, layout="constrained")
    ax = figure.subplots()
    values = moved.detach().float().numpy()
    most = max(values.max(), ROUNDING)
    shades = np.where(values < ROUNDING, 0, 0.08 + 0.37 * values / most)
    ax.imshow(shades, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(height, width):
        ax.text(j, i, format_distance(float(values[i, j])), ha="center", va="center", fontsize=8)
    ax.set(title=title, ylabel="state", yticks=range(height), yticklabels=names)
    ax.set_xticks(range(width), [display_token(token) for token in tokens], rotation=60, ha="right")
    return figure


@in_style
def similarity_matrices(matrices: Mapping[str, Tensor], title: str) -> Figure:
    """Draw cosine similarities between images, in rows, and captions, in columns.

    Items 2k and 2k + 1 are a hard-negative pair, and thin lines separate the pairs. Dark is
    similar. Each of the square matrices is a panel.
    """
    figure = Figure(figsize=(WIDE, 2.8), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(matrices), sharey=True, squeeze=False)[0]
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        n = len(matrix)
        drawn = ax.imshow(matrix.detach().numpy(), cmap="Greys", vmin=-0.2, vmax=1)
        ax.set(title=name, xlabel="caption", xticks=range(0, n, 4), yticks=range(0, n, 4))
        for border in np.arange(1.5, n - 1, 2):
            ax.axhline(border, color="0.75", lw=0.5)
            ax.axvline(border, color="0.75", lw=0.5)
    axes[0].set_ylabel("picture")
    figure.colorbar(drawn, ax=list(axes), label="cosine", shrink=0.7, extend="min")
    figure.suptitle(title)
    return figure


@in_style
def own_and_negative(matrices: Mapping[str, Tensor], title: str) -> Figure:
    """Draw each caption's cosine similarity with its own page and with the hard negative.

    The own page is a dot, the hard negative a ring, and a line connects them. Each matrix, as for
    `similarity_matrices`, is a panel.
    """
    figure = Figure(figsize=(WIDE, 3.2), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(matrices), sharey=True, squeeze=False)[0]
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        captions = torch.arange(len(matrix))
        own = matrix.detach().diagonal()
        other = matrix.detach()[captions ^ 1, captions]
        ax.vlines(captions, torch.minimum(own, other), torch.maximum(own, other), color="0.6", lw=1)
        ax.plot(captions, own, "ko", ms=5, label="with its own page")
        ring = {"ms": 5, "mec": "black", "mfc": "white"}
        ax.plot(captions, other, "o", **ring, label="with the hard negative")
        ax.set(title=name, xlabel="caption", xticks=range(0, len(matrix), 2))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("cosine")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(title)
    return figure


@in_style
def gelus() -> Figure:
    """Draw the exact GELU, quick GELU and their difference."""
    x = torch.linspace(-5, 5, 401, dtype=torch.float64)
    exact, quick = F.gelu(x), x * torch.sigmoid(1.702 * x)
    figure = Figure(figsize=(WIDE, 3.2), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(x, exact, "k-", label=r"exact: $x\,\Phi(x)$")
    left.plot(x, quick, "--", color="0.45", lw=2.5, label=r"quick: $x\,\sigma(1.702\,x)$")
    left.set(title="Two activations", xlabel="x", ylabel="result")
    left.legend()
    right.plot(x, quick - exact, "k-")
    right.set(title="Quick minus exact", xlabel="x", ylabel="difference")
    for ax in (left, right):
        ax.grid(alpha=0.3)
    return figure


@in_style
def state_sources() -> Figure:
    """Draw which hidden states each Stable Diffusion takes from its text encoders."""
    figure = Figure(figsize=(WIDE, 4.4), dpi=100, layout="constrained")
    ax = figure.subplots()
    (one,), (two,), (first, second) = SD1_5.text, SD2_1.text, SDXL.text
    # The published files of SD 2 omit the last layer.
    encoder_stack(ax, 0, "SD 1", one.num_layers, [3], {3: f"77 ×\n{one.hidden_size}"})
    encoder_stack(ax, 1, "SD 2", two.num_layers + 1, [3], {3: f"77 ×\n{two.hidden_size}"}, idle=[2])
    encoder_stack(
        ax, 2, "SDXL, first", first.num_layers, [], {1: f"77 ×\n{first.hidden_size}"}, idle=[2, 3]
    )
    taken = {1: f"77 ×\n{second.hidden_size}", 4: f"pooled\n{second.projection_dim}"}
    encoder_stack(ax, 3, "SDXL, second", second.num_layers, [3, 4], taken)
    ax.set(xlim=(-0.12, 4.15), ylim=(0.2, 6.1), title="Which states the U-Net is given")
    ax.axis("off")
    return figure


def encoder_stack(
    ax: Axes,
    column: int,
    name: str,
    layers: int,
    above: Collection[int],
    taken: Mapping[int, str],
    idle: Collection[int] = (),
) -> None:
    """Draw one encoder as a stack of boxes, from the embedding (0) to the final norm (3).

    Args:
        ax: Where to draw.
        column: Position from the left, from 0.
        name: Heading of the stack.
        layers: Number of layers.
        above: If it contains 4, the stack ends with the projection (4).
        taken: For each box that the U-Net uses, the label of the arrow that leaves it.
        idle: Boxes that are skipped, drawn dashed.
    """
    parts = ["embedding", f"layers 1 … {layers - 1}", f"layer {layers}", "final norm"]
    if 4 in above:
        parts[3] += ",\nfirst end token"
        parts.append("projection")
    x, width, high, step = column * 1.05, 0.6, 0.7, 1.05
    ax.text(x + width / 2, step * len(parts) + 0.4, name, ha="center", fontweight="bold")
    below = None
    for k, part in enumerate(parts):
        bottom = step * k + 0.35
        used = k not in idle
        ink = "black" if used else "0.45"
        box = (x, bottom), width, high
        ax.add_patch(Rectangle(*box, fill=False, ls="-" if used else "--", color=ink))
        words = part if used else f"{part}\n(not used)"
        ax.text(
            x + width / 2, bottom + high / 2, words, ha="center", va="center", fontsize=8, color=ink
        )
        if used and below is not None:
            past = k - below > 1
            xs = [x, x - 0.06, x - 0.06, x] if past else [x + width / 2] * 2
            from_y, to_y = step * below + 0.35, bottom
            ys = [from_y + high / 2] * 2 + [to_y + high / 2] * 2 if past else [from_y + high, to_y]
            ax.plot(xs, ys, "k-", lw=1)
        if used:
            below = k
        if k in taken:
            y = bottom + high / 2
            ax.annotate("", (x + width + 0.14, y), (x + width, y), arrowprops=ARROW)
            ax.text(x + width + 0.16, y, taken[k], va="center", fontsize=9)
