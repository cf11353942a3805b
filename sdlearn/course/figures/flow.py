"""Figures of notebook 19: the two paths, the flow, the times of steps and the joint block."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from torch import Tensor

from sdlearn.course.figures.diagrams import ATTENTION, LINEAR, MLP, NORM, arrow, plus
from sdlearn.course.figures.plots import NARROW, titled
from sdlearn.course.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    PURPLE,
    VERMILION,
    Described,
    in_style,
)
from sdlearn.course.figures.unet_diagrams import block, ground, upright, write

REACH = 2.6  # half the side of a panel of the plane
COLOURS = (VERMILION, BLUE, GREEN, PURPLE)


def planes(
    titles: Sequence[str], title: str, side: float = 2.7, room: float = 0.6
) -> tuple[Figure, list[Axes]]:
    """Create square panels of the plane, two in a row, with room for the title and a legend."""
    down = -(-len(titles) // 2)
    figure = Figure(figsize=(NARROW, side * down + room), dpi=100, layout="constrained")
    titled(figure, title)
    axes = list(figure.subplots(down, 2, squeeze=False).flatten())
    for ax, name in zip(axes, titles, strict=True):
        ax.set_title(name, fontsize=10, fontweight="normal")
        ax.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal")
        ax.set_xticks(range(-2, 3))
        ax.set_yticks(range(-2, 3))
        ax.tick_params(labelbottom=False)
    for ax in axes[-2:]:  # the panels of a column share its axis
        ax.set_xlabel("first entry")
        ax.tick_params(labelbottom=True)
    for ax in axes[::2]:
        ax.set_ylabel("second entry")
    for ax in axes[1::2]:
        ax.tick_params(labelleft=False)
    return figure, axes


@in_style
def two_paths(data: Tensor, x_0: Tensor, eps: Tensor) -> Described:
    """Draw the curved path of Stable Diffusion and the straight one between the same pairs.

    Args:
        data: Points of the dataset, (m, 2).
        x_0: The n data points to connect, (n, 2).
        eps: The noise point paired with each, (n, 2).
    """
    names = "variance-preserving: curved", "rectified flow: straight"
    figure, axes = planes(names, "Two paths between the same image and the same noise")
    t = torch.linspace(0, 1, 60, dtype=x_0.dtype)[:, None]
    angle = t * torch.pi / 2
    ways = (angle.cos(), angle.sin()), (1 - t, t)
    for ax, (alpha, sigma) in zip(axes, ways, strict=True):
        ax.plot(*data.T, "o", ms=1.5, color=GREY, alpha=0.5, mew=0)
        for start, end in zip(x_0, eps, strict=True):
            ax.plot(*(alpha * start + sigma * end).T, color=BLUE, lw=1.2)
        ax.plot(*x_0.T, "o", ms=5, color=VERMILION)
        ax.plot(*eps.T, "s", ms=4.5, color=INK)
    axes[1].plot([], [], "o", ms=5, color=VERMILION, label=r"data $x_0$")
    axes[1].plot([], [], "s", ms=4.5, color=INK, label=r"noise $\epsilon$")
    axes[1].legend(loc="upper right", fontsize=9, handletextpad=0.1)
    words = (
        f"Two panels of the plane with five clusters of data and {len(x_0)} pairs of a data point "
        "and a noise point. On the left each pair is joined by an arc that bulges outwards, on the "
        "right by a straight line. In both, paths cross."
    )
    return Described(figure, words)


@in_style
def flow_with_steps(
    data: Tensor, runs: Mapping[str, Sequence[Tensor]], title: str, words: str
) -> Described:
    """Draw the trajectories of a few points, and where many of them end, for several step counts.

    Args:
        data: Points of the dataset, (m, 2).
        runs: By name, the states of a sampler, each (n, 2). The first 12 rows are drawn as lines
            with a dot for each state, or, if there are more than 20, for ten steps of equal number.
        title: Of the figure.
        words: What it shows.
    """
    figure, axes = planes([*runs], title, 2.55, 0.75)
    for ax, states in zip(axes, runs.values(), strict=True):
        ax.plot(*data.T, "o", ms=1.5, color=GREY, alpha=0.5, mew=0)
        every = 1 if len(states) <= 20 else (len(states) - 1) // 10
        if every > 1:
            name = ax.get_title(loc="left")
            ax.set_title(f"{name}, every {every}th dotted", fontsize=10, fontweight="normal")
        for row in torch.stack([*states])[:, :12].unbind(1):
            ax.plot(*row.T, "o-", color=BLUE, lw=0.9, ms=2.2, markevery=every)
        one = float(states[-1].std(dim=0).max()) < 1e-6  # then all trajectories end at one point
        ax.plot(*states[-1].T, "o", ms=7 if one else 2, color=VERMILION, mew=0, zorder=3)
    looks: dict[str, dict[str, Any]] = {
        "dataset": {"marker": "o", "color": GREY, "ls": ""},
        "12 trajectories, a dot for each step": {"marker": "o", "color": BLUE, "markersize": 3},
        f"{len(states[-1])} end points": {"marker": "o", "color": VERMILION, "ls": ""},
    }
    handles = [
        Line2D([], [], label=name, **{"markersize": 5, "mew": 0, **look})
        for name, look in looks.items()
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False,
        columnspacing=1.2, handlelength=1.6, handletextpad=0.5,
    )  # fmt: skip
    return Described(figure, words)


@in_style
def step_times(rows: Mapping[str, Sequence[float]], title: str) -> Described:
    """Draw the times of samplers' steps as dots on the flow's time axis, with noise on the left.

    Args:
        rows: Falling times in 0 … 1, by name of the sampler, at most four.
        title: Of the figure.
    """
    figure = Figure(figsize=(NARROW, 0.9 + 0.42 * len(rows)), dpi=100, layout="constrained")
    ax = figure.subplots()
    titled(figure, title)
    for row, (times, colour) in enumerate(zip(rows.values(), COLOURS, strict=False)):
        ax.plot([times[0], times[-1]], [row, row], color=colour, lw=1)
        ax.plot(times, [row] * len(times), "o", color=colour, ms=6, clip_on=False)
    ax.set(xlim=(1, 0), ylim=(len(rows) - 0.4, -0.6), xlabel="time t (noise at 1, image at 0)")
    ax.set_yticks(range(len(rows)), [*rows])
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    said = "; ".join(f"{name}: {', '.join(f'{t:.2f}' for t in ts)}" for name, ts in rows.items())
    return Described(figure, f"Dots on a time axis from 1 to 0. {said}.")


# ------------------------------------------------------------------------------ the joint block

IMAGE, WORDS, MIDDLE = 1.15, 4.0, 2.58  # centres of the streams and of what they share, in inches
W, H = 1.45, 0.28  # width and height of a box
NORM_1, PROJECT, JOIN, OUT, GATE_1, SUM_1, NORM_2, FEED, GATE_2, SUM_2, END = (
    -1.35, -1.9, -2.5, -3.1, -3.58, -4.0, -4.55, -5.1, -5.58, -6.0, -6.4,
)  # fmt: skip
SIGN = 0.11  # radius of the sign of an addition or a product


@in_style
def joint_block() -> Described:
    """Draw a block of SD 3's transformer: two streams, one attention, gates and modulation."""
    figure, ax = upright(6.65, "One block of the diffusion transformer")
    for x, name in ((IMAGE, "image tokens"), (WORDS, "text tokens")):
        ground(ax, x - 1.0, x + 1.0, -0.42, -6.52)
        write(ax, x, -0.6, name)
        draw_stream(ax, x)
    block(ax, MIDDLE, JOIN, "attention over all tokens", ATTENTION, 4.1, 0.34)
    write(ax, MIDDLE, -0.78, "emb", PURPLE)
    for side in (-1, 1):  # the conditioning goes to both streams
        edge = MIDDLE + side * (WORDS - IMAGE - W) / 2
        for y in (NORM_1, GATE_1, NORM_2, GATE_2):
            end = edge if y in (NORM_1, NORM_2) else edge + side * (W / 2 - SIGN)
            arrow(ax, [(MIDDLE, y), (end, y)], PURPLE)
    ax.plot([MIDDLE, MIDDLE], [-0.88, JOIN + 0.17], color=PURPLE, lw=1.3, zorder=1)
    ax.plot([MIDDLE, MIDDLE], [JOIN - 0.17, GATE_2], color=PURPLE, lw=1.3, zorder=1)
    for y in (GATE_1, GATE_2):
        named(ax, y, "gate")
    for y in (NORM_1, NORM_2):
        named(ax, y, "shift, scale")
    words = (
        "A diagram of two columns, image tokens on the left and text tokens on the right. In each, "
        "a layer normalisation is followed by projections to queries, keys and values. One wide "
        "box, attention over all tokens, spans both columns. Then each has an output projection, "
        "a product with a gate, an addition to the residual connection, a second normalisation, "
        "an MLP, a second product and a second addition. Between the columns, the conditioning "
        "emb gives each normalisation a shift and a scale, and each product its gate."
    )
    return Described(figure, words)


def named(ax: Axes, y: float, name: str) -> None:
    """Write an arrow's label above it, on white, which interrupts the line of emb."""
    box = {"fc": "white", "ec": "none", "pad": 1.5}
    write(ax, MIDDLE, y + 0.16, name, PURPLE, size=9)
    ax.texts[-1].set(bbox=box, zorder=2)


def product(ax: Axes, x: float, y: float) -> None:
    """Draw the sign of a product, a cross in a circle."""
    ax.add_patch(Circle((x, y), SIGN, facecolor="white", edgecolor=INK, lw=1.1, zorder=3))
    d = 0.6 * SIGN / 2**0.5
    for rise in (-d, d):
        ax.plot([x - d, x + d], [y - rise, y + rise], color=INK, lw=1.1, zorder=4)


def draw_stream(ax: Axes, x: float) -> None:
    """Draw the layers of one stream, with its two residual connections."""
    rows = (
        (NORM_1, "modulated norm", NORM), (PROJECT, "q, k, v", LINEAR), (OUT, "output", LINEAR),
        (NORM_2, "modulated norm", NORM), (FEED, "MLP", MLP),
    )  # fmt: skip
    for y, name, colour in rows:
        block(ax, x, y, name, colour, W, H)
    for y in (GATE_1, GATE_2):
        product(ax, x, y)
    for y in (SUM_1, SUM_2):
        plus(ax, x, y, SIGN)
    stops = (
        (-0.72, NORM_1 + H / 2), (NORM_1 - H / 2, PROJECT + H / 2), (PROJECT - H / 2, JOIN + 0.17),
        (JOIN - 0.17, OUT + H / 2), (OUT - H / 2, GATE_1 + SIGN), (GATE_1 - SIGN, SUM_1 + SIGN),
        (SUM_1 - SIGN, NORM_2 + H / 2), (NORM_2 - H / 2, FEED + H / 2),
        (FEED - H / 2, GATE_2 + SIGN), (GATE_2 - SIGN, SUM_2 + SIGN), (SUM_2 - SIGN, END),
    )  # fmt: skip
    for start, end in stops:
        arrow(ax, [(x, start), (x, end)])
    side = x - 0.9 if x < MIDDLE else x + 0.9
    inner = x - SIGN if x < MIDDLE else x + SIGN
    for start, end in ((-0.95, SUM_1), (SUM_1 - 0.26, SUM_2)):
        arrow(ax, [(x, start), (side, start), (side, end), (inner, end)], MUTED)
