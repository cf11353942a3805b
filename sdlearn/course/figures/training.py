"""Figures of training: predictions, targets as directions, loss weights, loss curves, samples."""

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.images import label_font
from sdlearn.course.figures.plots import ARROW, WIDE
from sdlearn.course.figures.style import in_style
from sdlearn.schedule import NoiseSchedule

PAPER, INK, GREY = "white", "black", "#8c8c8c"

# --------------------------------------------------------------------------------- predictions


@in_style
def noise_scatter(
    z: Tensor, eps: Tensor, lines: Mapping[str, tuple[Tensor, Tensor]], title: str
) -> Figure:
    """Draw pairs (z_t, eps) as dots and predictions of eps as lines over z_t.

    Args:
        z: (n,).
        eps: (n,).
        lines: Up to three predictions (z_t, eps), by name.
        title: Of the figure.
    """
    figure = Figure(figsize=(WIDE, 3.8), dpi=100, layout="constrained")
    ax = figure.subplots()
    ax.plot(z, eps, ".", color="0.7", ms=3, label="what was mixed")
    styles = (("k", "-", 2.2), ("0.35", "--", 1.8), ("0.1", ":", 2.0))
    for (name, (xs, ys)), (colour, dashes, width) in zip(lines.items(), styles, strict=False):
        ax.plot(xs, ys, dashes, color=colour, lw=width, label=name)
    ax.set(title=title, xlabel=r"what the network sees, $z_t$", ylabel=r"the noise, $\epsilon$")
    ax.grid(alpha=0.3)
    ax.legend(loc="upper left")
    return figure


# -------------------------------------------------------------------------- targets as directions


@in_style
def target_directions(schedule: NoiseSchedule, times: Sequence[int]) -> Figure:
    """Draw z_t and v at some timesteps in the plane spanned by z_0 and eps.

    z_t points along (alpha, sigma) and v is perpendicular to it. Both have length 1.
    """
    figure = Figure(figsize=(WIDE, 2.75), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(times), squeeze=False)[0]
    for ax, t in zip(axes, times, strict=True):
        alpha, sigma = (float(x) for x in schedule.at(t))
        draw_target_directions(ax, alpha, sigma)
        degrees = math.degrees(math.atan2(sigma, alpha))
        ax.set(title=f"t = {t}: turned by {degrees:.0f}°", xlabel=r"direction of $z_0$")
    axes[0].set_ylabel(r"direction of $\epsilon$")
    figure.suptitle("One turn: picture and noise become what is seen and what is asked for")
    return figure


def draw_target_directions(ax: Axes, alpha: float, sigma: float) -> None:
    """Draw z_0, eps, z_t and v as arrows for one timestep."""
    circle = torch.linspace(0, 2 * torch.pi, 200)
    ax.plot(circle.cos(), circle.sin(), color="0.85", lw=1)
    arrows = (
        ((1.0, 0.0), r"$z_0$", "0.55"), ((0.0, 1.0), r"$\epsilon$", "0.55"),
        ((alpha, sigma), r"$z_t$", "k"), ((-sigma, alpha), r"$v$", "k"),
    )  # fmt: skip
    for (x, y), name, colour in arrows:
        ax.annotate("", (x, y), (0, 0), arrowprops={**ARROW, "color": colour, "lw": 1.6})
        ax.text(1.17 * x, 1.17 * y, name, color=colour, ha="center", va="center", fontsize=13)
    for start, end in (((alpha, 0), (alpha, sigma)), ((0, sigma), (alpha, sigma))):
        ax.plot(*zip(start, end, strict=True), ":", color="0.4", lw=1.2)
    arc = torch.linspace(0, math.atan2(sigma, alpha), 40)
    ax.plot(0.3 * arc.cos(), 0.3 * arc.sin(), "k-", lw=1)
    ax.set(xlim=(-1.35, 1.35), ylim=(-0.35, 1.35), aspect="equal", xticks=(-1, 0, 1), yticks=(0, 1))


# ----------------------------------------------------------------------------- weights over time


@in_style
def loss_weights(lines: Mapping[str, tuple[Tensor, Tensor]], title: str) -> Figure:
    """Draw up to four loss weights over t, each (times, weights), by name.

    The first line is wide and pale, so that a line that coincides with it stays visible.
    """
    figure = Figure(figsize=(WIDE, 3.4), dpi=100, layout="constrained")
    ax = figure.subplots()
    styles = (("0.75", "-", 7.0), ("k", "-", 1.6), ("0.2", "--", 1.8), ("0.4", ":", 2.2))
    for (name, (times, weights)), (colour, dashes, width) in zip(
        lines.items(), styles[: len(lines)], strict=True
    ):
        ax.plot(times, weights, dashes, color=colour, lw=width, label=name)
    ax.set(title=title, xlabel="time t", ylabel="weight", yscale="log")
    ax.grid(alpha=0.3)
    ax.legend()
    return figure


# ------------------------------------------------------------------------------------ loss curves


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Return at every index the mean of the last `width` values, of fewer at the start."""
    total = torch.tensor([0.0, *values], dtype=torch.float64).cumsum(0)
    ends = torch.arange(1, len(values) + 1)
    starts = (ends - width).clamp(min=0)
    return ((total[ends] - total[starts]) / (ends - starts)).tolist()


@in_style
def loss_curve(
    losses: Sequence[float], width: int, title: str, floor: float | None = None
) -> Figure:
    """Draw the loss of every step, its running mean, and its lower bound if it is known.

    Args:
        losses: One value a step.
        width: Steps of the running mean.
        title: Of the figure.
        floor: Lowest possible loss, or None.
    """
    figure = Figure(figsize=(WIDE, 2.8), dpi=100, layout="constrained")
    ax = figure.subplots()
    steps = range(1, len(losses) + 1)
    ax.plot(steps, losses, color="0.75", lw=0.8, label="every step")
    ax.plot(steps, running_mean(losses, width), "k-", lw=2, label=f"mean of the last {width}")
    if floor is not None:
        ax.axhline(floor, color="0.3", ls="--", lw=1.5, label="the floor: the best possible")
    ax.set(title=title, xlabel="training step", ylabel="loss", ylim=(0, None))
    ax.grid(alpha=0.3)
    ax.legend()
    return figure


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
