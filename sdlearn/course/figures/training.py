"""Figures of training: predictions, targets, loss weights, loss curves, samples of a run."""

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.images import label_font
from sdlearn.course.figures.overview import apart
from sdlearn.course.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    VERMILION,
    Described,
    in_style,
    tint,
)

PAPER = "white"
WIDTH = 7.2  # inches: less than other figures, so that a narrow page shrinks the letters less
Line = tuple[Sequence[float] | Tensor, Sequence[float] | Tensor]


def plain_log(ax: Axes) -> None:
    """Make the y axis logarithmic, with ticks such as 0.5, 1 and 2 in place of powers of ten."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    subs = (1,) if high > 400 * low else (1, 2, 5)
    ax.yaxis.set_major_locator(LogLocator(subs=subs))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))


# ----------------------------------------------------------------------------- weights over time


@in_style
def loss_weights(snr: Tensor, gamma: float) -> Described:
    """Draw what a squared error of z_0 counts in four losses, over t, with direct labels.

    Args:
        snr: (n,), one value for each timestep.
        gamma: The limit of Min-SNR.
    """
    figure = Figure(figsize=(WIDTH, 3.3), dpi=100, layout="constrained")
    ax = figure.subplots()
    last, limited = len(snr) - 1, snr.clamp(max=gamma)
    lines = (
        ("ε-prediction", snr, tint(BLUE, 0.45), "-", 6.0, (last, float(snr[-1]), "center")),
        ("Min-SNR", limited, INK, "-", 1.6, (20, 0.72 * gamma, "top")),
        ("v-prediction", snr + 1, VERMILION, "--", 1.8, (last, 1.3, "bottom")),
        ("z_0-prediction", torch.ones(len(snr)), GREEN, ":", 2.2, (last, 0.8, "top")),
    )
    for name, weights, colour, dashes, width, (x, y, side) in lines:
        ax.plot(torch.arange(len(snr)), weights, dashes, color=colour, lw=width)
        align = "right" if x == last else "left"
        shown = BLUE if name == "ε-prediction" else colour
        if name == "ε-prediction":
            x, y, align, side = x - 250, float(snr[-250]) * 0.4, "right", "center"
        label = name.replace("z_0", "$z_0$")
        ax.text(x, y, label, color=shown, fontweight="bold", ha=align, va=side)
    ax.set(
        title="What a squared error of $z_0$ counts in each loss",
        xlabel="timestep t",
        ylabel="weight",
    )
    plain_log(ax)
    words = (
        "Four weights over t on a logarithmic scale. That of ε-prediction falls from "
        f"{snr[0]:.0f} to {snr[-1]:.3f}. Min-SNR is {gamma:g} at first and then the same. That of "
        "v-prediction falls with it and then levels off at 1. That of z_0-prediction is 1 "
        "throughout."
    )
    return Described(figure, words)


# ------------------------------------------------------------------------------------ loss curves


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Return at every index the mean of the last `width` values, of fewer at the start."""
    total = torch.tensor([0.0, *values], dtype=torch.float64).cumsum(0)
    ends = torch.arange(1, len(values) + 1)
    starts = (ends - width).clamp(min=0)
    return ((total[ends] - total[starts]) / (ends - starts)).tolist()


def draw_losses(ax: Axes, losses: Sequence[float], width: int, colour: str = INK) -> None:
    """Draw the loss of every step, pale, and its running mean, each with its name."""
    steps, means = range(1, len(losses) + 1), running_mean(losses, width)
    ax.plot(steps, losses, color=tint(GREY, 0.7), lw=0.8)
    ax.plot(steps, means, "-", color=colour, lw=2)
    falling = next((k for k, mean in enumerate(means) if mean < 0.7 * means[0]), 0)
    late = range(len(losses) * 2 // 3, max(len(losses) * 9 // 10, 1))
    highest = max(late, key=losses.__getitem__)
    for k, values, name, shade, up, side in (
        (falling, means, f"mean of the last {width}", colour, 22, "left"),
        (highest, losses, "every step", MUTED, 20, "center"),
    ):
        ax.annotate(
            name, (steps[k], values[k]), (18 if side == "left" else 0, up), color=shade, ha=side,
            textcoords="offset points", arrowprops={"arrowstyle": "-", "color": shade, "lw": 0.8},
        )  # fmt: skip


@in_style
def progress(
    losses: Sequence[float],
    shots: Mapping[int, Sequence[Image.Image]],
    captions: Sequence[str],
    title: str,
    width: int = 20,
) -> Described:
    """Draw a loss curve and, below it, what the network draws at some steps.

    Args:
        losses: One value a step.
        shots: Images for each number of steps done, one for each caption.
        captions: What the images should show, one a row.
        title: Of the curve.
        width: Steps of the running mean.
    """
    rows, columns = len(captions), len(shots)
    figure = Figure(figsize=(WIDTH, 2.4 + 1.45 * rows), dpi=100, layout="constrained")
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[2.1, *[1.35] * rows])
    ax = figure.add_subplot(grid[0, :])
    draw_losses(ax, losses, width)
    means = running_mean(losses, width)
    for step in shots:
        if step:
            ax.plot(step, means[step - 1], "o", color=VERMILION, ms=6, clip_on=False, zorder=3)
    ax.set(title=title, xlabel="training step", ylabel="loss", ylim=(0, None),
           xlim=(0, len(losses)))  # fmt: skip
    for row, caption in enumerate(captions):
        for column, (step, images) in enumerate(shots.items()):
            tile = figure.add_subplot(grid[row + 1, column])
            tile.imshow(images[row].convert("RGB"), interpolation="nearest")
            tile.set(xticks=[], yticks=[])
            tile.grid(visible=False)
            if row == 0:
                tile.set_title(f"after {step}", loc="center", fontsize=10, fontweight="normal")
            if column == 0:
                tile.set_ylabel(caption.replace(" on the ", "\non the ").replace(" at ", "\nat "),
                                fontsize=8, rotation=0, ha="right", va="center")  # fmt: skip
    stages = "; ".join(f"{means[k - 1]:.2f} after {k}" for k in shots if k)
    words = (
        f"A loss curve of {len(losses)} steps, whose running mean is {stages}. Below it, one "
        f"column of images for each of these stages and a row for each of the captions: "
        f"{'; '.join(captions)}."
    )
    return Described(figure, words)


@in_style
def loss_lines(
    lines: Mapping[str, Sequence[float]],
    title: str,
    norms: Mapping[str, Sequence[float]] | None = None,
) -> Described:
    """Draw the losses of up to four runs, and the norms of their gradients in a second panel.

    Both axes are logarithmic. Each name is at the end of its loss.

    Args:
        lines: One loss a step, by the name of the run.
        title: Of the figure.
        norms: One norm a step, by the name of the run, or None.
    """
    figure = Figure(figsize=(WIDTH, 3.2), dpi=100, layout="constrained")
    axes = figure.subplots(1, 2 if norms else 1, squeeze=False)[0]
    styles = ((BLUE, "-"), (VERMILION, "--"), (INK, ":"), (GREEN, "-."))
    for ax, runs, label in zip(
        axes, (lines, norms), ("loss", "norm of the gradient"), strict=False
    ):
        for (name, values), (colour, dashes) in zip((runs or {}).items(), styles, strict=False):
            steps = range(1, len(values) + 1)
            ax.plot(steps, values, dashes, color=colour, lw=1.8, label=name)
        ax.set(xlabel="training step", ylabel=label)
        plain_log(ax)
    low, high = map(math.log, axes[0].get_ylim())
    heights = apart([math.log(values[-1]) for values in lines.values()], 0.075 * (high - low))
    for (name, values), height, (colour, _) in zip(lines.items(), heights, styles, strict=False):
        axes[0].text(1.03 * len(values), math.exp(height), name, color=colour, va="center")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    ends = "; ".join(f"{name}: {v[0]:.2f} to {v[-1]:.2g}" for name, v in lines.items())
    words = f"The losses of {len(lines)} runs over the training steps, first and last. {ends}."
    if norms:
        peaks = "; ".join(f"{name}: {max(v):.1f}" for name, v in norms.items())
        words += f" Beside them the norms of their gradients, with the largest: {peaks}."
    return Described(figure, words)


@in_style
def errors_by_time(
    times: Sequence[int],
    errors: Mapping[str, Sequence[float]],
    of_z_0: Mapping[str, Sequence[float]],
) -> Described:
    """Draw validation losses over t, as errors of the noise and as errors of z_0 (log scale).

    Args:
        times: The timesteps.
        errors: Up to four curves, by name.
        of_z_0: The same errors, of z_0.
    """
    figure = Figure(figsize=(WIDTH, 3.3), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = ((GREEN, "-."), (VERMILION, "--"), (BLUE, "-"), (INK, ":"))
    for ax, lines in ((left, errors), (right, of_z_0)):
        for (name, values), (colour, dashes) in zip(lines.items(), styles, strict=False):
            ax.plot(times, values, dashes, color=colour, lw=1.9, label=name)
        ax.set(xlabel="timestep t", ylabel="mean squared error")
    left.set(title="Error of the noise", ylim=(0, None))
    right.set(title="The same, as an error of $z_0$")
    plain_log(right)
    left.legend()
    first, last = times[0], times[-1]
    ends = "; ".join(
        f"{name}: {v[0]:.2f} at t = {first}, {v[-1]:.4f} at t = {last}"
        for name, v in errors.items()
    )
    on_z_0 = "; ".join(f"{name}: {v[0]:.4f}, {v[-1]:.3f}" for name, v in of_z_0.items())
    words = f"Two panels over t. Error of the noise: {ends}. Error of z_0 at the ends: {on_z_0}."
    return Described(figure, words)


# ------------------------------------------------------------------------------ training progress


def training_frame(
    picture: Image.Image,
    caption: str,
    losses: Sequence[float],
    step: int,
    weights: str = "",
    width: int = 20,
) -> Image.Image:
    """Draw one sample of a training run next to its loss curve, with a mark at the sample's step.

    Args:
        picture: The sample.
        caption: Its prompt.
        losses: One value for each step of the run.
        step: Steps done before the sample, 0 … len(losses).
        weights: Name of the weights that made the sample, such as "EMA".
        width: Steps of the running mean.
    """
    page = Image.new("RGB", (720, 260), PAPER)
    pen, font = ImageDraw.Draw(page), label_font(13)
    side = 192
    enlarged = picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
    pen.rectangle((11, 37, 12 + side, 38 + side), outline=GREY)
    page.paste(enlarged, (12, 38))
    pen.text((12, 3), caption, INK, font)
    if weights:
        pen.text((12, 236), f"weights: {weights}", INK, label_font(12))
    left, top, right, bottom = 276, 44, 704, 206
    highest = 1.05 * max([*losses, 0.1])

    def at(done: float, loss: float) -> tuple[float, float]:
        x = left + (right - left) * done / max(len(losses), 1)
        return x, bottom - (bottom - top) * min(loss, highest) / highest

    pen.rectangle((left, top, right, bottom), outline=GREY)
    for name, values, colour, thick in (
        ("every step", losses, "#c4c4c4", 1),
        ("mean", running_mean(losses, width), INK, 2),
    ):
        points = [at(k, loss) for k, loss in enumerate(values, start=1)]
        if len(points) > 1:
            pen.line(points, colour, thick)
        key = left + 8 + (150 if name == "mean" else 0)
        pen.line([(key, top - 12), (key + 24, top - 12)], colour, thick)
        label = name if name == "every step" else f"mean of the last {width}"
        pen.text((key + 30, top - 12), label, INK, label_font(12), anchor="lm")
    x = at(step, 0)[0]
    for y in range(top, bottom, 8):
        pen.line([(x, y), (x, y + 4)], INK, 2)
    pen.polygon([(x - 6, bottom + 9), (x + 6, bottom + 9), (x, bottom + 1)], INK)
    for loss in (0.0, highest / 2, highest):
        pen.text((left - 6, at(0, loss)[1]), f"{loss:.1f}", INK, label_font(12), anchor="rm")
    for done in (0, len(losses)):
        anchor = "la" if done == 0 else "ra"
        pen.text((at(done, 0)[0], bottom + 12), f"{done}", INK, label_font(12), anchor=anchor)
    middle = ((left + right) / 2, bottom + 28)
    pen.text(middle, f"training step (here: after {step})", INK, label_font(12), anchor="ma")
    pen.text((left - 6, top - 18), "loss", INK, label_font(12), anchor="rm")
    return page
