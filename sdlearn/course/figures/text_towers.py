"""Diagrams of the text encoder: CLIP's two towers, and the hidden states that each system uses."""

from collections.abc import Collection, Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sdlearn.course.figures import diagrams
from sdlearn.course.figures.diagrams import ATTENTION, CONV, LINEAR, NORM, arrow, box, label
from sdlearn.course.figures.plots import ARROW, WIDE
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
from sdlearn.versions import SD1_5, SD2_1, SDXL


@in_style
def two_towers() -> Described:
    """Draw CLIP's dual encoder and the matrix of similarities that its loss classifies."""
    figure, ax = diagrams.canvas(24, 9.5, "CLIP: two towers and one matrix of similarities")
    image, text = 7.2, 2.2  # heights of the towers
    label(ax, 0.2, image, "b images\n3 × 224 × 224", INK, "left")
    label(ax, 0.2, text, "b captions\n77 token ids", INK, "left")
    for y, first, layers, name in (
        (image, "patches\n14 × 14, linear\n+ position\n+ class token", 24, "attention,\nno mask"),
        (text, "token +\nposition\nembedding", 12, "attention,\ncausal mask"),
    ):
        box(ax, 5.1, y, first, CONV if y == image else LINEAR, w=2.9, h=2.5)
        for shift in (0.3, 0.15, 0.0):
            box(ax, 8.9 + shift, y + shift, "", ATTENTION, w=2.9, h=2.0)
        label(ax, 8.9, y, f"{layers} layers:\n{name},\nMLP")
        pooled = "class token\nof the last" if y == image else "end-of-text\ntoken of the last"
        box(ax, 12.8, y, f"{pooled}\nlayer, norm", NORM, w=2.9, h=1.9)
        box(ax, 15.9, y, "linear", LINEAR, w=1.6, h=1.0)
        for start, end in ((2.9, 3.65), (6.55, 7.45), (10.65, 11.35), (14.25, 15.1)):
            arrow(ax, [(start, y), (end, y)])
    label(ax, 7.6, 9.0, "image tower (vision transformer, ViT-L/14)", BLUE)
    label(ax, 7.6, 0.35, "text tower (the encoder of this notebook)", VERMILION)
    left, top, side, n = 18.7, 7.0, 0.95, 5
    for i in range(n):
        for j in range(n):
            colour = ORANGE if i == j else tint(BLUE, 0.07)
            corner = left + j * side, top - (i + 1) * side
            ax.add_patch(Rectangle(corner, side, side, facecolor=colour, edgecolor=INK, lw=0.6))
            names = f"$u_{i + 1} v_{j + 1}$"
            ax.text(corner[0] + side / 2, corner[1] + side / 2, names, ha="center", va="center",
                    fontsize=7)  # fmt: skip
    middle = top - n * side / 2
    arrow(ax, [(16.7, image), (17.6, image), (17.6, middle), (left - 0.05, middle)], BLUE)
    below = left + n * side / 2
    arrow(ax, [(16.7, text), (17.6, text), (17.6, 1.2), (below, 1.2), (below, top - n * side)],
          VERMILION)  # fmt: skip
    label(ax, 17.0, image + 0.4, "$u_i$", BLUE)
    label(ax, 17.0, text + 0.4, "$v_j$", VERMILION)
    label(ax, below, top + 0.85, "cosines: each row and each\ncolumn is a classification")
    label(ax, below + 0.15, 0.75, "orange: the right answers", MUTED)
    words = (
        "A diagram in two rows that meet in a matrix. Image tower: the image is cut into patches, "
        "and a linear layer embeds each. Position embeddings and a class token are added, and 24 "
        "layers of unmasked attention and MLP follow. The class token of the last layer is "
        "normalised and projected to u. Text tower: token and position embeddings are added, and "
        "12 layers of causal attention and MLP follow. The end-of-text token of the last layer is "
        "normalised and projected to v. The entries of the square matrix are the cosines u times "
        "v, and the right pairs are on its diagonal."
    )
    return Described(figure, words)


@in_style
def state_sources() -> Described:
    """Draw which hidden states each Stable Diffusion takes from its text encoders."""
    figure = Figure(figsize=(WIDE, 4.4), dpi=100, layout="constrained")
    ax = figure.subplots()
    (one,), (two,), (first, second) = SD1_5.text, SD2_1.text, SDXL.text
    # The published files of SD 2 omit the last layer.
    encoder_stack(ax, 0, "SD 1", one.num_layers, [3], {3: f"77 ×\n{one.hidden_size}"})
    encoder_stack(ax, 1, "SD 2", two.num_layers + 1, [3], {3: f"77 ×\n{two.hidden_size}"}, idle=[2])
    encoder_stack(
        ax,
        2,
        "SDXL, encoder 1",
        first.num_layers,
        [],
        {1: f"77 ×\n{first.hidden_size}"},
        idle=[2, 3],
    )
    taken = {1: f"77 ×\n{second.hidden_size}", 4: f"pooled\n{second.projection_dim}"}
    encoder_stack(ax, 3, "SDXL, encoder 2", second.num_layers, [3, 4], taken)
    ax.set(xlim=(-0.12, 4.15), ylim=(0.2, 6.1), title="What the U-Net is conditioned on")
    ax.axis("off")
    words = (
        "Four stacks, each with the embedding at the bottom and layers above it. SD 1: the "
        "context, 77 by 768, is taken at the top, after layer 12 and the final norm. SD 2: a line "
        "runs from layers 1 to 23 around layer 24, which is dashed because it isn't used, to the "
        "final norm. The context, 77 by 1024, is taken there. SDXL, encoder 1: 77 by 768 are "
        "taken after layers 1 to 11. Layer 12 and the final norm are not used. SDXL, encoder 2: "
        "77 by 1280 are taken after layers 1 to 31, without a norm. Layer 32, the final norm and "
        "the projection give the pooled vector, 1280."
    )
    return Described(figure, words)


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
        parts[3] += ",\nat the first\nend-of-text token"
        parts.append("projection")
    x, width, high, step = column * 1.05, 0.6, 0.7, 1.05
    ax.text(x + width / 2, step * len(parts) + 0.4, name, ha="center", fontweight="bold")
    colours = [LINEAR, ATTENTION, ATTENTION, NORM, LINEAR]
    below = None
    for k, part in enumerate(parts):
        bottom = step * k + 0.35
        used = k not in idle
        ink = INK if used else MUTED
        fill, dashes = (colours[k], "-") if used else ("white", "--")
        frame = (x, bottom), width, high
        ax.add_patch(Rectangle(*frame, facecolor=fill, edgecolor=ink, ls=dashes))
        words = part if used else f"{part}\n(not used)"
        ax.text(
            x + width / 2, bottom + high / 2, words, ha="center", va="center", fontsize=8, color=ink
        )
        if used and below is not None:
            past = k - below > 1
            xs = [x, x - 0.09, x - 0.09, x] if past else [x + width / 2] * 2
            from_y, to_y = step * below + 0.35, bottom
            ys = [from_y + high / 2] * 2 + [to_y + high / 2] * 2 if past else [from_y + high, to_y]
            ax.plot(xs, ys, "-", color=INK, lw=1)
            if past:
                ax.annotate("", (x, ys[-1]), (xs[-2], ys[-1]), arrowprops=ARROW)
        if used:
            below = k
        if k in taken:
            y = bottom + high / 2
            ax.annotate("", (x + width + 0.14, y), (x + width, y), arrowprops=ARROW)
            ax.text(x + width + 0.16, y, taken[k], va="center", fontsize=9)
