"""Diagrams of notebook 17: ranks and their all-reduce, the rounds of a ring, sharded weights."""

from collections.abc import Sequence

from matplotlib.patches import Rectangle
from torch import Tensor

from sdlearn.course.figures import diagrams
from sdlearn.course.figures.diagrams import MLP, NORM, arrow, box, label
from sdlearn.course.figures.plots import NARROW
from sdlearn.course.figures.style import (
    BLUE,
    GREY,
    INK,
    MUTED,
    ORANGE,
    VERMILION,
    Described,
    in_style,
    tint,
)


@in_style
def data_parallel(ranks: int = 3) -> Described:
    """Draw one step of data parallelism: rows of a batch, copies of the network, one average.

    Args:
        ranks: The number of processes.
    """
    figure, ax = diagrams.canvas(10, 6.2, "One step on several devices", NARROW, dpi=100)
    wide = 9.6 / ranks
    colours = [tint(c, 0.35) for c in (BLUE, VERMILION, ORANGE, GREY)]
    ax.add_patch(Rectangle((0.2, 5.2), 9.6, 0.85, facecolor="none", edgecolor=INK, lw=1.1))
    for rank in range(ranks):
        x = 0.2 + (rank + 0.5) * wide
        left = x - wide / 2
        ax.add_patch(Rectangle((left, 5.2), wide, 0.85, facecolor=colours[rank % 4], lw=0))
        label(ax, x, 5.62, f"rows of rank {rank}")
        arrow(ax, [(x, 5.2), (x, 4.8)])
        box(ax, x, 4.3, f"rank {rank}: all weights\nloss of its rows", "white", 0.94 * wide, 1.0)
        arrow(ax, [(x, 3.8), (x, 3.4)])
        box(ax, x, 3.1, "gradients", colours[rank % 4], 0.62 * wide, 0.6)
        arrow(ax, [(x, 2.8), (x, 2.4)])
        arrow(ax, [(x, 1.6), (x, 1.2)])
        box(ax, x, 0.7, "clip, Adam, EMA:\nthe same everywhere", MLP, 0.94 * wide, 1.0)
    box(ax, 5, 2.0, "all-reduce: every rank gets the average of the gradients", NORM, 9.6, 0.8)
    return Described(
        figure,
        f"A batch cut into {ranks} groups of rows, one for each rank. Each rank has all weights "
        "and computes the gradients of its rows. An all-reduce gives every rank their average. "
        "Then each does the same update.",
    )


@in_style
def ring_rounds(counts: Sequence[Tensor]) -> Described:
    """Draw which chunks hold how many ranks' gradients, after each round of a ring all-reduce.

    Args:
        counts: For each round, from the start on, (ranks, chunks): how many gradients are in it.
    """
    ranks = counts[0].shape[0]
    gap, across = 0.55, (len(counts) + 1) // 2
    tall = ranks + 1.7  # a square and what is above it
    figure, ax = diagrams.canvas(
        across * (ranks + gap) + 2.0,
        2 * tall + 0.3,
        "How many gradients each chunk sums, after each round",
        NARROW,
        dpi=100,
    )
    for k, table in enumerate(counts):
        row, column = divmod(k, across)
        left, low = 2.2 + column * (ranks + gap), (1 - row) * tall + 0.2
        name = "start" if k == 0 else f"round {k - 1}"
        ax.text(left + ranks / 2, low + ranks + 1.05, name, ha="center", va="center", fontsize=9)
        for rank in range(ranks):
            for chunk in range(ranks):
                n = int(table[rank, chunk])
                full = n == ranks
                colour = VERMILION if full else tint(BLUE, 0.12 + 0.22 * (n - 1))
                corner = left + chunk, low + ranks - 1 - rank
                ax.add_patch(Rectangle(corner, 0.94, 0.94, facecolor=colour, lw=0))
                ax.text(corner[0] + 0.47, corner[1] + 0.47, str(n), ha="center", va="center",
                        fontsize=9, color="white" if full else INK)  # fmt: skip
        for chunk in range(ranks * (k == 0)):
            ax.text(left + 0.47 + chunk, low + ranks + 0.35, str(chunk), ha="center", va="center",
                    fontsize=9)  # fmt: skip
        for rank in range(ranks * (column == 0)):
            place = low + ranks - 0.53 - rank
            ax.text(2.05, place, f"rank {rank}", ha="right", va="center", fontsize=9)
    ax.text(2.05, tall + ranks + 0.55, "chunk", ha="right", va="center", fontsize=9)
    done = [int((table == ranks).sum()) for table in counts]
    return Described(
        figure,
        f"{len(counts)} squares of ranks by chunks, with the number of gradients in each chunk. "
        f"Complete chunks, from the start on: {', '.join(map(str, done))} of {ranks * ranks}.",
    )


@in_style
def sharded_step(blocks: int = 4, devices: int = 2) -> Described:
    """Draw what a device holds while a sharded network computes, block after block.

    Args:
        blocks: Of the network.
        devices: That share the weights.
    """
    passes = [*range(blocks), *reversed(range(blocks))]  # which block computes
    figure, ax = diagrams.canvas(
        10, 5.6, f"The weights that one of {devices} devices holds", NARROW, dpi=100
    )
    wide, tall, left = 8.2 / len(passes), 0.86, 1.7
    for block in range(blocks):
        y = 1.1 + tall * (blocks - 1 - block)
        label(ax, left - 0.15, y + 0.36, f"block {block + 1}", side="right")
        for k, now in enumerate(passes):
            x = left + k * wide
            whole = now == block
            ax.add_patch(Rectangle((x, y), wide - 0.08, 0.72, facecolor=tint(GREY, 0.18), lw=0))
            height = 0.72 if whole else 0.72 / devices
            colour = VERMILION if whole else tint(BLUE, 0.7)
            ax.add_patch(Rectangle((x, y), wide - 0.08, height, facecolor=colour, lw=0))
    for k, now in enumerate(passes):
        ax.text(left + (k + 0.46) * wide, 0.8, str(now + 1), ha="center", va="center", fontsize=9)
    for k, name in enumerate(("forward pass of block", "backward pass of block")):
        middle = left + (k + 0.5) * blocks * wide
        ax.text(middle, 0.3, name, ha="center", va="center", fontsize=9)
    top = 1.1 + tall * blocks + 0.35
    for x, colour, text in (
        (left, tint(BLUE, 0.7), f"its own {1 / devices:.0%}"),
        (left + 2.6, VERMILION, "gathered from all devices, then freed"),
    ):
        ax.add_patch(Rectangle((x, top - 0.15), 0.34, 0.3, facecolor=colour, lw=0))
        ax.text(x + 0.5, top, text, va="center", fontsize=9, color=MUTED)
    return Described(
        figure,
        f"A row for each of {blocks} blocks, a column for each pass of a block. "
        f"The device always has its {1 / devices:.0%} of each block's weights, and all "
        "weights of the block that is running.",
    )
