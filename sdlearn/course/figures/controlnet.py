"""Figures of the notebook on ControlNet: the diagram, the sudden convergence, the scale."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from sdlearn.course.figures.diagrams import ATTENTION, CONV, MLP, arrow, plus
from sdlearn.course.figures.editing import written
from sdlearn.course.figures.plots import axes_for, titled
from sdlearn.course.figures.style import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    PURPLE,
    VERMILION,
    Described,
    in_style,
    tint,
)
from sdlearn.course.figures.unet_diagrams import block, ground, upright, write

ZERO = tint(VERMILION, 0.55)
WIDTH = 5.6  # inches, of the charts
COLOURS = (BLUE, VERMILION, GREEN, PURPLE)

# ------------------------------------------------------------------------------------ the diagram

LEFT, RIGHT = 1.32, 4.0  # centres of the U-Net and of the ControlNet, in inches
W, H = 1.3, 0.3  # of a box
ROWS = (-1.98, -2.48, -2.98, -3.48, -4.03)  # convolution, level, downsampling, level, middle
SUM, LEVELS, OUT = -4.48, (-5.0, -5.62), -6.1  # the U-Net's second half
ZEROS = (-5.74, -5.5, -5.12, -4.88, SUM)  # heights of the zero convolutions, of row 0 first


@in_style
def controlnet_diagram(sizes: tuple[int, int] = (8, 4)) -> Described:
    """Draw a U-Net of two levels beside its ControlNet, with the zero convolutions.

    Args:
        sizes: Height and width of the feature maps of both levels.
    """
    figure, ax = upright(6.75, "A ControlNet beside its U-Net")
    ground(ax, 0.08, 2.2, -0.45, -6.4)
    trained = FancyBboxPatch(
        (2.52, -6.4), 2.6, 5.95, boxstyle="round,pad=0,rounding_size=0.09", zorder=0,
        fc=tint(ORANGE, 0.13), ec=tint(ORANGE, 0.6),
    )  # fmt: skip
    ax.add_patch(trained)
    for x, text in ((1.14, "U-Net: frozen"), (3.82, "ControlNet: a copy, trained")):
        ax.text(x, -0.6, text, ha="center", va="center", fontsize=10, fontweight="bold")
    large, small = (f"{size} × {size}" for size in sizes)
    names = ("conv", f"{large} layers", "downsampling", f"{small} layers", "middle block")
    colours = (CONV, ATTENTION, MLP, ATTENTION, ATTENTION)
    for x in (LEFT, RIGHT):
        for k, (name, colour, y) in enumerate(zip(names, colours, ROWS, strict=True)):
            if k or x == LEFT:
                block(ax, x, y, name, colour, W, H)
            if k > 1:
                arrow(ax, [(x, ROWS[k - 1] - H / 2), (x, y + H / 2)])
    arrow(ax, [(LEFT, ROWS[0] - H / 2), (LEFT, ROWS[1] + H / 2)])
    draw_inputs(ax)
    draw_second_half(ax, large, small)
    draw_zero_convolutions(ax)
    ax.text(
        3.82, -6.13, "Orange is added to the dashed\nskips and to the middle block.", ha="center",
        va="center", fontsize=9, color=MUTED,
    )  # fmt: skip
    words = (
        "A diagram of two columns. On the left the frozen U-Net: the noisy latent goes through a "
        f"convolution, the layers at {large}, a downsampling, the layers at {small} and the middle "
        f"block, then up through the layers at {small} and at {large} and a convolution to the "
        "predicted noise; four dashed skip connections lead from the first half to the second. "
        "On the right the ControlNet, which is trained: a copy of the first half and of the middle "
        "block. It gets the same latent, and to the output of its first convolution is added the "
        "hint, which has gone through the hint encoder and a zero convolution. The outputs of its "
        "four layers and of its middle block go through five more zero convolutions into the "
        "U-Net: that of the middle is added to the U-Net's middle block, the others to its skip "
        "connections."
    )
    return Described(figure, words)


def draw_inputs(ax: Axes) -> None:
    """Draw the latent, the copied first convolution, the hint encoder and their sum."""
    write(ax, LEFT, -0.95, "$z_t$")
    arrow(ax, [(LEFT, -1.08), (LEFT, ROWS[0] + H / 2)])
    arrow(ax, [(LEFT, -1.25), (2.98, -1.25), (2.98, ROWS[0] + H / 2)])
    block(ax, 2.98, ROWS[0], "conv", CONV, 0.72, H)
    write(ax, RIGHT, -0.88, "hint")
    arrow(ax, [(RIGHT, -0.97), (RIGHT, -1.06)])
    block(ax, RIGHT, -1.2, "hint encoder", CONV, W, 0.28)
    block(ax, RIGHT, -1.6, "zero conv", ZERO, 0.84, 0.24)
    arrow(ax, [(RIGHT, -1.34), (RIGHT, -1.48)])
    plus(ax, RIGHT, ROWS[0], 0.12)
    arrow(ax, [(RIGHT, -1.72), (RIGHT, ROWS[0] + 0.12)])
    arrow(ax, [(2.98 + 0.36, ROWS[0]), (RIGHT - 0.12, ROWS[0])])
    arrow(ax, [(RIGHT, ROWS[0] - 0.12), (RIGHT, ROWS[1] + H / 2)])


def draw_second_half(ax: Axes, large: str, small: str) -> None:
    """Draw the U-Net's upsampling path and its skip connections."""
    plus(ax, LEFT, SUM, 0.12)
    arrow(ax, [(LEFT, ROWS[4] - H / 2), (LEFT, SUM + 0.12)])
    above = SUM - 0.12
    for name, y in zip((f"{small} layers,\nupsampling", f"{large} layers"), LEVELS, strict=True):
        block(ax, LEFT, y, name, ATTENTION, W, 0.42)
        arrow(ax, [(LEFT, above), (LEFT, y + 0.21)])
        above = y - 0.21
    block(ax, LEFT, OUT, "conv", CONV, W, 0.24)
    arrow(ax, [(LEFT, above), (LEFT, OUT + 0.12)])
    arrow(ax, [(LEFT, OUT - 0.12), (LEFT, -6.5)])
    write(ax, LEFT, -6.6, r"$\hat\epsilon$")
    edge = LEFT - W / 2
    for k, start in enumerate(ROWS[:4]):
        x = 0.2 + 0.12 * k
        points = [(edge, start), (x, start), (x, ZEROS[k]), (edge, ZEROS[k])]
        arrow(ax, points, MUTED, dashed=True)


def draw_zero_convolutions(ax: Axes) -> None:
    """Draw the five zero convolutions, from the ControlNet's layers to the U-Net."""
    edge, height = RIGHT + W / 2, 0.2
    for k, y in enumerate(ZEROS):
        start = ROWS[k] if k else ROWS[0] - 0.2
        x = 5.05 - 0.085 * k
        first = (edge, start) if k else (RIGHT, start)
        block(ax, 3.3, y, "zero conv", ZERO, 0.84, height)
        arrow(ax, [first, (x, start), (x, y), (3.3 + 0.42, y)], VERMILION)
        end = LEFT + (0.12 if k == 4 else W / 2)
        arrow(ax, [(3.3 - 0.42, y), (end, y)], VERMILION)


# -------------------------------------------------------------------------------------- the charts


@in_style
def convergence(
    lines: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    levels: Mapping[str, float],
    title: str,
    ylabel: str,
) -> Described:
    """Draw measures against the training step, with a name at the end of each line.

    Args:
        lines: By name, the training steps and a value for each.
        levels: By name, a value that doesn't depend on the step, drawn dashed.
        title: Of the figure.
        ylabel: Of the y axis.
    """
    figure, ax = axes_for("", "training step", ylabel, WIDTH)
    titled(figure, title)
    every = [*levels.values(), *(value for _, line in lines.values() for value in line)]
    last = max(steps[-1] for steps, _ in lines.values())
    gap = 0.07 * (max(every) - min(every))
    below = min(every) - gap
    colours = dict(zip(lines, COLOURS, strict=False))
    for name, (steps, values) in sorted(lines.items(), key=lambda item: item[1][1][-1]):
        ax.plot(steps, values, "o-", ms=3.5, color=colours[name], clip_on=False)
        below = max(values[-1], below + gap)
        written(ax, name, (steps[-1], below), colours[name])
    for name, value in levels.items():
        ax.axhline(value, color=MUTED, lw=1, ls="--")
        lowest = value == min(every)  # then the lines are above it
        y, side = (value - gap / 5, "top") if lowest else (value + gap / 5, "bottom")
        ax.text(last, y, name, color=MUTED, va=side, ha="right", fontsize=9)
    ax.set(xlim=(0, last), ylim=(min(every) - gap, max(every) + gap))
    said = "; ".join(
        f"{name}: {', '.join(f'{v:.3g} at {step}' for step, v in zip(*line, strict=True))}"
        for name, line in lines.items()
    )
    flat = "".join(f" {name}: {value:.3g}." for name, value in levels.items())
    return Described(figure, f"{ylabel} against the training step. {said}.{flat}")


@in_style
def against_scale(
    scales: Sequence[float], lines: Mapping[str, Sequence[float]], ceiling: float
) -> Described:
    """Draw what follows the hint and what follows the prompt against the scale of the residuals.

    Args:
        scales: The scales.
        lines: By name, a value from 0 to 1 for each scale.
        ceiling: The IoU of true images after the autoencoder.
    """
    figure, ax = axes_for("", "scale of the residuals", "IoU, or fraction right", WIDTH)
    titled(figure, "What the scale decides")
    ax.axhline(ceiling, color=MUTED, lw=1, ls="--")
    colours = dict(zip(lines, COLOURS, strict=False))
    ends = {name: values[-1] for name, values in lines.items()} | {"IoU of true images": ceiling}
    below = -1.0
    for name, end in sorted(ends.items(), key=lambda item: item[1]):
        if name in lines:
            ax.plot(scales, lines[name], "o-", color=colours[name], clip_on=False)
        below = max(end, below + 0.075)
        written(ax, name, (scales[-1], below), colours.get(name, MUTED))
    ax.set(ylim=(0, 1.05), xlim=(scales[0], scales[-1]))
    ax.set_xticks(scales, [f"{scale:g}" for scale in scales])
    said = "; ".join(f"{n}: {', '.join(f'{v:.2f}' for v in row)}" for n, row in lines.items())
    return Described(
        figure,
        f"Lines against the scale, at {', '.join(f'{s:g}' for s in scales)}. {said}. A dashed line "
        f"marks the IoU of true images, {ceiling:.2f}.",
    )
