"""Figures of the notebook on adapters: the low-rank update, and the two losses of its training."""

from collections.abc import Mapping, Sequence

from sdlearn.course.figures.diagrams import LINEAR, MLP, arrow, box, canvas, label, plus
from sdlearn.course.figures.plots import NARROW, axes_for, legend_below, titled
from sdlearn.course.figures.style import (
    BLUE,
    GREY,
    MUTED,
    ORANGE,
    VERMILION,
    Described,
    in_style,
    tint,
)


@in_style
def low_rank_diagram(n_in: int, n_out: int, rank: int) -> Described:
    """Draw a linear layer with its low-rank update.

    Args:
        n_in: Channels of the input.
        n_out: Channels of the output.
        rank: Rank of the update.
    """
    figure, ax = canvas(10.4, 5.6, "A linear layer and its low-rank update", NARROW)
    x, y, middle = 0.8, 4.2, 1.5
    label(ax, 0.35, y, "$x$")
    label(ax, 0.35, y - 0.5, f"{n_in}", MUTED)
    box(ax, 4.4, y, f"$W$: {n_out} × {n_in}, frozen", tint(GREY, 0.5), 4.2, 1.0)
    arrow(ax, [(x, y), (2.3, y)])
    plus(ax, 8.9, y)
    arrow(ax, [(6.5, y), (8.66, y)])
    arrow(ax, [(9.14, y), (9.75, y)])
    label(ax, 10.05, y, "$y$")
    label(ax, 10.05, y - 0.5, f"{n_out}", MUTED)
    arrow(ax, [(1.2, y), (1.2, middle), (1.7, middle)], ORANGE)
    box(ax, 2.75, middle, f"$A$: {rank} × {n_in}\nrandom", LINEAR, 2.1, 1.2)
    arrow(ax, [(3.8, middle), (4.5, middle)], ORANGE)
    label(ax, 4.15, middle + 0.4, f"{rank}", MUTED)
    box(ax, 5.55, middle, f"$B$: {n_out} × {rank}\nzero", tint(VERMILION, 0.55), 2.1, 1.2)
    arrow(ax, [(6.6, middle), (7.2, middle)], ORANGE)
    box(ax, 7.85, middle, r"$s\,\alpha / r$", MLP, 1.3, 0.9)
    arrow(ax, [(8.5, middle), (8.9, middle), (8.9, y - 0.24)], ORANGE)
    weights, update = n_in * n_out, rank * (n_in + n_out)
    label(ax, 4.4, y + 0.85, f"{weights:,} weights", MUTED)
    label(ax, 4.4, middle - 1.0, f"{update:,} weights, trained", MUTED)
    words = (
        f"A diagram. The input x has {n_in} channels. On one path, it is multiplied by the frozen "
        f"matrix W of {weights:,} weights. On the other, it is multiplied by A, which is random "
        f"and has {rank} rows, then by B, which is zero, and then by s alpha / r. The two results "
        f"are added. A and B have {update:,} weights together, and only they are trained."
    )
    return Described(figure, words)


@in_style
def losses(
    batches: Sequence[float],
    fixed: Mapping[int, float],
    title: str = "Loss of each batch, and on the fixed pairs",
) -> Described:
    """Draw the losses of single training batches, and the loss on fixed times and noise.

    Args:
        batches: The loss of each training step.
        fixed: The loss on fixed times and noise, by training step.
        title: Title of the figure.
    """
    figure, ax = axes_for("", "training step", "loss", NARROW)
    titled(figure, title)
    ax.plot(
        range(len(batches)), batches, ".", ms=5, color=tint(BLUE, 0.7), label="training batches"
    )
    ax.plot(
        [*fixed],
        [*fixed.values()],
        "o-",
        ms=4,
        color=VERMILION,
        label="20 fixed pairs of $t$ and noise",
    )
    ax.set_ylim(bottom=0)
    legend_below(figure)
    ordered = sorted(batches)
    low, high = (ordered[int(share * (len(ordered) - 1))] for share in (0.1, 0.9))
    said = ", ".join(f"{loss:.3f} at {step}" for step, loss in fixed.items())
    return Described(
        figure,
        "Loss against training step. Each dot is the loss of a training batch; eight in ten lie "
        f"between {low:.3f} and {high:.3f}, with no visible trend. A line shows the loss on fixed "
        f"times and noise: {said}.",
    )
