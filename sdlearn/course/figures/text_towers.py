"""Diagrams of the text encoder: CLIP's two towers, and the hidden states that each system uses."""

from collections.abc import Collection, Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sdlearn.course.figures import diagrams
from sdlearn.course.figures.diagrams import ATTENTION, CONV, LINEAR, NORM, arrow, box, label
from sdlearn.course.figures.plots import ARROW, NARROW
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
    figure, ax = diagrams.canvas(
        13, 17.6, "CLIP: two towers, one matrix of similarities", inches=NARROW
    )
    for x, colour, name, given, first, layers, pooled in (
        (3.1, BLUE, "image tower\n(vision transformer, ViT-L/14)", "b images, 3 × 224 × 224",
         "patches 14 × 14, linear\n+ class token, + position", "24 layers: attention\nwithout a "
         "mask, MLP", "class token\nof the last layer, norm"),
        (9.9, VERMILION, "text tower\n(the encoder of this notebook)", "b captions, 77 token ids",
         "token + position\nembedding", "12 layers: attention with\na causal mask, MLP",
         "end-of-text token\nof the last layer, norm"),
    ):  # fmt: skip
        label(ax, x, 17.0, name, colour)
        label(ax, x, 15.9, given, INK)
        box(ax, x, 14.2, first, CONV if colour == BLUE else LINEAR, w=5.3, h=1.3)
        for shift in (0.3, 0.15, 0.0):
            box(ax, x + shift, 12.0 + shift, "", ATTENTION, w=5.3, h=1.3)
        label(ax, x, 12.0, layers)
        box(ax, x, 9.8, pooled, NORM, w=5.3, h=1.3)
        box(ax, x, 8.1, "linear", LINEAR, w=2.2, h=0.8)
        for start, end in ((15.5, 14.85), (13.55, 12.95), (11.35, 10.45), (9.15, 8.5)):
            arrow(ax, [(x, start), (x, end)])
    left, top, side, n = 4.4, 6.3, 0.98, 5
    for i in range(n):
        for j in range(n):
            ground = ORANGE if i == j else tint(BLUE, 0.07)
            corner = left + j * side, top - (i + 1) * side
            ax.add_patch(Rectangle(corner, side, side, facecolor=ground, edgecolor=INK, lw=0.6))
            names = f"$u_{i + 1} v_{j + 1}$"
            ax.text(corner[0] + side / 2, corner[1] + side / 2, names, ha="center", va="center",
                    fontsize=8)  # fmt: skip
    middle, centre = top - n * side / 2, left + n * side / 2
    arrow(ax, [(3.1, 7.7), (3.1, middle), (left - 0.05, middle)], BLUE)
    arrow(ax, [(9.9, 7.7), (9.9, 6.95), (centre, 6.95), (centre, top + 0.03)], VERMILION)
    label(ax, 2.6, 5.9, "$u_i$", BLUE)
    label(ax, 10.4, 7.1, "$v_j$", VERMILION)
    label(ax, centre, 0.75, "cosines, to be divided by τ: each row and each column is\n"
          "a classification, with the right answer in orange")  # fmt: skip
    words = (
        "Two columns of boxes that meet in a matrix. Image tower: the image is cut into patches, "
        "and a linear layer embeds each. Position embeddings and a class token are added, and 24 "
        "layers of unmasked attention and MLP follow. The class token of the last layer is "
        "normalised and projected to u. Text tower: token and position embeddings are added, and "
        "12 layers of causal attention and MLP follow. The end-of-text token of the last layer is "
        "normalised and projected to v. The entries of the square matrix are the cosines u times "
        "v, and the right pairs are on its diagonal."
    )
    return Described(figure, words)


@in_style
def encoder_outputs() -> Described:
    """Draw the text encoder from ids to its three outputs, each where it is taken."""
    figure, ax = diagrams.canvas(11.4, 13.1, "The encoder and its three outputs", inches=NARROW)
    parts = [
        ("token + position embedding", LINEAR, "hidden[0]   (b, n, d)"),
        ("layer 1", ATTENTION, "hidden[1]"),
        ("", "", ""),  # the layers between
        ("layer N − 1", ATTENTION, "hidden[-2]"),
        ("layer N", ATTENTION, "hidden[-1]"),
        ("final norm", NORM, "last   (b, n, d)"),
        ("row of the first end-of-text token", "white", ""),
        ("projection (if there is one)", LINEAR, "pooled   (b, d)"),
    ]
    x, step, wide, high = 3.5, 1.5, 6.2, 0.9
    label(ax, x, 0.45, "ids   (b, n)")
    for k, (name, colour, taken) in enumerate(parts):
        y = 1.8 + step * k
        start = y - step + (0.45 if k == 0 else high / 2)
        arrow(ax, [(x, start), (x, y - high / 2)])
        if name:
            box(ax, x, y, name, colour, w=wide, h=high)
        else:
            label(ax, x, y, "⋮")
        if taken:
            arrow(ax, [(x + wide / 2, y), (x + wide / 2 + 0.9, y)], BLUE)
            label(ax, x + wide / 2 + 1.1, y, taken, BLUE, side="left")
    words = (
        "A column of boxes from the ids at the bottom to the projection at the top. The token and "
        "position embedding gives hidden[0], layer 1 hidden[1], the last layer but one hidden[-2] "
        "and the last layer, N, hidden[-1]. The final norm follows and gives last, of shape "
        "(b, n, d). From there, the row of the first end-of-text token goes through the "
        "projection, if there is one, and gives pooled, of shape (b, d)."
    )
    return Described(figure, words)


@in_style
def state_sources() -> Described:
    """Draw which hidden states each Stable Diffusion takes from its text encoders."""
    figure = Figure(figsize=(NARROW, 7.6), dpi=100, layout="constrained")
    ratios = {"height_ratios": (4.8, 6.9)}
    mosaic = [["SD 1", "SD 2"], ["SDXL", "SDXL"]]
    drawn: dict[str, Axes] = figure.subplot_mosaic(mosaic, gridspec_kw=ratios)
    wide, below = drawn["SDXL"], -0.75
    for name in ("SD 1", "SD 2"):
        drawn[name].set(xlim=(-0.12, 1.3), ylim=(0.2, 5.0))
    wide.set(xlim=(-0.12, 2.72), ylim=(below - 0.2, 6.05))
    (one,), (two,), (first, second) = SD1_5.text, SD2_1.text, SDXL.text
    # The published files of SD 2 omit the last layer.
    top = {3: f"last\n77 × {one.hidden_size}"}
    encoder_stack(drawn["SD 1"], "SD 1", one.num_layers, [3], top)
    top = {3: f"hidden[-2]\n+ norm\n77 × {two.hidden_size}"}
    encoder_stack(drawn["SD 2"], "SD 2", two.num_layers + 1, [3], top, idle=[2])
    taken = {1: f"hidden[-2]\n77 × {first.hidden_size}"}
    encoder_stack(wide, "SDXL, encoder 1", first.num_layers, [], taken, idle=[2, 3], boxes=5)
    taken = {1: f"hidden[-2]\n77 × {second.hidden_size}", 4: f"pooled\n{second.projection_dim}"}
    encoder_stack(wide, "SDXL, encoder 2", second.num_layers, [3, 4], taken, x=1.42)
    both = first.hidden_size + second.hidden_size
    frame = (0.86, below), 1.56, 0.6
    wide.add_patch(Rectangle(*frame, facecolor="white", edgecolor=INK))
    wide.text(1.64, below + 0.3, f"concatenated: 77 × {both}", ha="center", va="center")
    for x in (1.03, 2.36):  # from the labels of the two contexts
        wide.annotate("", (x, below + 0.6), (x, 1.36), arrowprops=ARROW)
    figure.suptitle("What the U-Net is conditioned on", x=0.01, ha="left", fontsize=11,
                    fontweight="bold")  # fmt: skip
    words = (
        "Four stacks, each with the embedding at the bottom and layers above it. SD 1: the "
        "context is last, 77 by 768, taken at the top, after layer 12 and the final norm. SD 2: a "
        "line runs from layers 1 to 23 around layer 24, which is dashed because it isn't used, to "
        "the final norm. The context, hidden[-2] with the norm, 77 by 1024, is taken there. SDXL, "
        "encoder 1: hidden[-2], 77 by 768, is taken after layers 1 to 11. Layer 12 and the final "
        "norm are not used. SDXL, encoder 2: hidden[-2], 77 by 1280, is taken after layers 1 to "
        "31, without a norm. Layer 32, the final norm and "
        "the projection give the pooled vector, 1280. Arrows join the two contexts of SDXL in one "
        f"box: concatenated, 77 by {both}."
    )
    return Described(figure, words)


def encoder_stack(
    ax: Axes,
    name: str,
    layers: int,
    above: Collection[int],
    taken: Mapping[int, str],
    idle: Collection[int] = (),
    x: float = 0,
    boxes: int = 0,
) -> None:
    """Draw one encoder as a stack of boxes, from the embedding (0) to the final norm (3).

    Args:
        ax: Where to draw.
        name: Heading of the stack.
        layers: Number of layers.
        above: If it contains 4, the stack ends with the projection (4).
        taken: For each box that the U-Net uses, the label of the arrow that leaves it.
        idle: Boxes that are skipped, drawn dashed.
        x: Left edge of the boxes.
        boxes: Height of the heading, as a number of boxes; 0 for the number drawn.
    """
    parts = ["embedding", f"layers 1 … {layers - 1}", f"layer {layers}", "final norm"]
    if 4 in above:
        parts[3] += " at the first\nend-of-text token"
        parts.append("projection")
    width, high, step = 0.78, 0.7, 1.05
    ax.text(x + width / 2, step * (boxes or len(parts)) + 0.4, name, ha="center", fontweight="bold")
    ax.axis("off")
    colours = [LINEAR, ATTENTION, ATTENTION, NORM, LINEAR]
    below = None
    for k, part in enumerate(parts):
        bottom = step * k + 0.35
        used = k not in idle
        ink = INK if used else MUTED
        fill, dashes = (colours[k], "-") if used else ("white", "--")
        extra = 0.08 if "\n" in part else 0  # on both sides, for the longest words
        frame = (x - extra, bottom), width + 2 * extra, high
        ax.add_patch(Rectangle(*frame, facecolor=fill, edgecolor=ink, ls=dashes))
        words = part if used else f"{part}\n(not used)"
        ax.text(x + width / 2, bottom + high / 2, words, ha="center", va="center", color=ink,
                fontsize=9)  # fmt: skip
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
            ax.text(x + width + 0.16, y, taken[k], va="center")
