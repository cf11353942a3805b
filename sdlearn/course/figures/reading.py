"""How a text is read: its tokens in their 77 places, states that move, likeness, activations."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.pages import label_font, wrapped
from sdlearn.course.figures.plots import ARROW, WIDE
from sdlearn.versions import SD1_5, SD2_1, SDXL

STILL = 1e-4  # a state that moves by less of its length has not moved: this is rounding
BOX = 76, 46  # one token, in pixels


def readable(token: str) -> str:
    """A token for people: "cat" for "cat</w>", "light-" for a piece that goes on."""
    if token.startswith("<|"):
        return "(start)" if "start" in token else "(end)"
    return token.removesuffix("</w>") if token.endswith("</w>") else f"{token}-"


def token_page(
    tokens: Sequence[str],
    ids: Sequence[int],
    moved: Tensor | None = None,
    changed: Collection[int] = (),
    title: str = "",
    across: int = 11,
) -> Image.Image:
    """Every token in its place, with its number under it, read like a page; 7 rows are 77 tokens.

    moved: how far each state moved, (n,), as a part of its length: written into the box, which is
    the darker the more; one that stayed is white. changed: places with a thick frame.
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
    filling = next((k for k, one in enumerate(tokens) if readable(one) == "(end)"), len(tokens)) + 1
    for k, (token, number) in enumerate(zip(tokens, ids, strict=True)):
        x, y = gap + k % across * w, top + k // across * h
        still = values is None or values[k] < STILL
        shade = 255 if still or values is None else 240 - round(95 * values[k] / max(values))
        ink = "#767676" if values is None and k >= filling else "black"
        pen.rectangle((x, y, x + w, y + h), (shade,) * 3, "#999999")
        word = readable(token)
        while font.getlength(word) > w - 6 and len(word) > 2:
            word = word[:-2] + "…"
        pen.text((x + w / 2, y + 4), word, ink, font, anchor="ma")
        below = f"{number}" if values is None else f"{number}   {stepped(values[k])}"
        pen.text((x + w / 2, y + 26), below, ink, small, anchor="ma")
    for k in changed:
        x, y = gap + k % across * w, top + k // across * h
        pen.rectangle((x + 1, y + 1, x + w - 1, y + h - 1), None, "black", width=3)
    return page


def stepped(value: float) -> str:
    """How far a state moved, in two digits; 0 only for one that stayed."""
    return "0" if value < STILL else "<0.01" if value < 0.005 else f"{value:.2f}"


def moves(moved: Tensor, tokens: Sequence[str], names: Sequence[str], title: str) -> Figure:
    """How far states moved: a row for each layer, a column for each token, (rows, n), from 0 up.

    The numbers are written into squares that are the darker the larger they are, on one scale for
    all rows; a state that stayed is a white square with a 0.
    """
    height, width = moved.shape
    figure = Figure(figsize=(WIDE, 1.5 + 0.34 * height), dpi=100, layout="constrained")
    ax = figure.subplots()
    values = moved.detach().float().numpy()
    most = max(values.max(), STILL)
    shades = np.where(values < STILL, 0, 0.08 + 0.37 * values / most)
    ax.imshow(shades, cmap="Greys", vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(height, width):
        ax.text(j, i, stepped(float(values[i, j])), ha="center", va="center", fontsize=8)
    ax.set(title=title, ylabel="state", yticks=range(height), yticklabels=names)
    ax.set_xticks(range(width), [readable(token) for token in tokens], rotation=60, ha="right")
    return figure


def likenesses(matrices: Mapping[str, Tensor], title: str) -> Figure:
    """Cosines between pictures, in rows, and captions, in columns; one square matrix a panel.

    Numbers 2k and 2k + 1 are a couple; thin lines lie between the couples. Dark is alike.
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


def own_and_twin(matrices: Mapping[str, Tensor], title: str) -> Figure:
    """For every caption its cosine with its own page, a dot, and with the twin of that page, a
    ring, and between them a line; one square matrix, as for `likenesses`, a panel."""
    figure = Figure(figsize=(WIDE, 3.2), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(matrices), sharey=True, squeeze=False)[0]
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        captions = torch.arange(len(matrix))
        own = matrix.detach().diagonal()
        twin = matrix.detach()[captions ^ 1, captions]
        ax.vlines(captions, torch.minimum(own, twin), torch.maximum(own, twin), color="0.6", lw=1)
        ax.plot(captions, own, "ko", ms=5, label="with its own page")
        ax.plot(captions, twin, "o", ms=5, mec="black", mfc="white", label="with the twin's page")
        ax.set(title=name, xlabel="caption", xticks=range(0, len(matrix), 2))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("cosine")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(title)
    return figure


def gelus() -> Figure:
    """The exact GELU and the quick one, and how far they lie apart."""
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


def state_sources() -> Figure:
    """Four towers of layers: which states each Stable Diffusion takes from its text encoders."""
    figure = Figure(figsize=(WIDE, 4.4), dpi=100, layout="constrained")
    ax = figure.subplots()
    (one,), (two,), (first, second) = SD1_5.text, SD2_1.text, SDXL.text
    # The published files of SD 2 leave out the last layer.
    tower(ax, 0, "SD 1", one.num_layers, [3], {3: f"77 ×\n{one.hidden_size}"})
    tower(ax, 1, "SD 2", two.num_layers + 1, [3], {3: f"77 ×\n{two.hidden_size}"}, idle=[2])
    tower(
        ax, 2, "SDXL, first", first.num_layers, [], {1: f"77 ×\n{first.hidden_size}"}, idle=[2, 3]
    )
    taken = {1: f"77 ×\n{second.hidden_size}", 4: f"pooled\n{second.projection_dim}"}
    tower(ax, 3, "SDXL, second", second.num_layers, [3, 4], taken)
    ax.set(xlim=(-0.12, 4.15), ylim=(0.2, 6.1), title="Which states the U-Net is given")
    ax.axis("off")
    return figure


def tower(
    ax: Axes,
    column: int,
    name: str,
    layers: int,
    above: Collection[int],
    taken: Mapping[int, str],
    idle: Collection[int] = (),
) -> None:
    """One encoder from the embedding upwards, 0 to 3 or, where 4 is among the boxes above, to the
    projection. Idle boxes are dashed and passed by; from those taken an arrow goes to the right."""
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
