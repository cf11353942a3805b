"""Figures of notebook 08 about training targets: the best prediction, its error, and v."""

import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sdlearn.course.figures.style import (
    BLUE,
    GREY,
    INK,
    MUTED,
    VERMILION,
    Described,
    in_style,
    tint,
)
from sdlearn.course.figures.training import WIDTH, Line, draw_losses
from sdlearn.schedule import NoiseSchedule


@in_style
def noise_scatter(z: Tensor, eps: Tensor, best: Line, nearest: Line, t: int) -> Described:
    """Draw pairs (z_t, eps) as dots, and two predictions of eps as lines against z_t.

    Args:
        z: Noisy values z_t, (n,).
        eps: The noise in them, (n,).
        best: The best prediction, (z_t, eps).
        nearest: The prediction that assumes the nearest cluster, (z_t, eps).
        t: The timestep, for the title.
    """
    figure = Figure(figsize=(WIDTH, 3.6), dpi=100, layout="constrained")
    ax = figure.subplots()
    ax.plot(z, eps, ".", color=tint(GREY, 0.7), ms=3, label="pairs from the data")
    ax.plot(*nearest, "--", color=VERMILION, lw=1.8, label="nearest cluster")
    ax.plot(*best, "-", color=BLUE, lw=2.4, label="best prediction")
    ax.set(
        title=f"Which noise was mixed into $z_t$? (t = {t})",
        xlabel="$z_t$, what the network sees",
        ylabel=r"$\epsilon$, what it must predict",
        xlim=(float(min(best[0])), float(max(best[0]))),
    )
    ax.legend(loc="upper left")
    words = (
        f"Dots show the noise eps against the noisy value z_t at t = {t}. They form three slanting "
        "bands that overlap. The best prediction is a smooth line. It follows the outer bands "
        "where they don't overlap others, and is almost flat in between, where the bands overlap. "
        "The prediction from the nearest cluster follows all three bands, jumping from one to the "
        "next."
    )
    return Described(figure, words)


@in_style
def floor_panels(
    losses: Sequence[float],
    floor: float,
    times: Sequence[int],
    lines: Mapping[str, Sequence[float]],
) -> Described:
    """Draw a loss curve with its lower bound, and the bound and the loss against t.

    Args:
        losses: The training loss, one value for each step.
        floor: Lowest possible loss, averaged over t.
        times: Timesteps of `lines`.
        lines: Two curves of the mean squared error against t, by name, the bound first.

    Raises:
        ValueError: If there aren't two lines.
    """
    figure = Figure(figsize=(WIDTH, 3.2), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_losses(left, losses, 50)
    left.axhline(floor, color=VERMILION, ls="--", lw=1.6)
    left.text(len(losses), 0.5 * floor, f"best possible: {floor:.2f}", color=VERMILION,
              ha="right", va="top")  # fmt: skip
    left.set(title="The loss falls to a floor", xlabel="training step", ylabel="loss", ylim=(0, 1))
    for (name, values), colour, dashes in zip(
        lines.items(), (VERMILION, BLUE), ("--", "-"), strict=True
    ):
        right.plot(times, values, dashes, color=colour, lw=2, label=name)
    right.set(title="… which depends on t", xlabel="timestep t", ylabel="mean squared error",
              ylim=(0, 1.12))  # fmt: skip
    right.legend()
    first, _ = lines.values()
    words = (
        f"Left: over {len(losses)} steps the loss falls to a dashed line at {floor:.2f}, the "
        "lowest possible, and stays there. Right: at each t, the lowest possible loss. It is "
        f"{first[0]:.2f} at t = {times[0]}, at most {max(first[1:]):.2f} after that, and "
        f"{first[-1]:.2f} at t = {times[-1]}. The trained network follows it."
    )
    return Described(figure, words)


@in_style
def target_directions(schedule: NoiseSchedule, times: Sequence[int]) -> Described:
    """Draw z_t and v at some timesteps in the plane spanned by z_0 and eps.

    z_t points along (alpha, sigma), and v is perpendicular to it (Salimans and Ho,
    arXiv:2202.00512). Both have length 1.

    Args:
        schedule: The noise schedule.
        times: Timesteps, one for each panel.
    """
    figure = Figure(figsize=(WIDTH, 2.3), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(times), squeeze=False)[0]
    turned = []
    for ax, t in zip(axes, times, strict=True):
        alpha, sigma = (float(x) for x in schedule.at(t))
        draw_target_directions(ax, alpha, sigma)
        ax.grid(visible=False)
        turned.append(f"{math.degrees(math.atan2(sigma, alpha)):.0f}°")
        ax.set(title=f"t = {t}: rotated by {turned[-1]}", xlabel=r"direction of $z_0$")
    axes[0].set_ylabel(r"direction of $\epsilon$")
    angles = ", ".join(f"{angle} at t = {t}" for angle, t in zip(turned, times, strict=True))
    words = (
        "Half circles with four arrows of equal length. z_0 points right and eps points up. z_t is "
        f"rotated away from z_0: {angles}. v is at right angles to z_t, to its left."
    )
    return Described(figure, words)


def draw_target_directions(ax: Axes, alpha: float, sigma: float) -> None:
    """Draw z_0, eps, z_t and v as arrows for one timestep.

    Args:
        ax: The axes to draw on.
        alpha: Coefficient of z_0, 0 … 1.
        sigma: Coefficient of eps, 0 … 1, with alpha² + sigma² = 1.
    """
    circle = torch.linspace(0, 2 * torch.pi, 200)
    ax.plot(circle.cos(), circle.sin(), color=tint(GREY, 0.5), lw=1)
    arrows = (
        ((1.0, 0.0), r"$z_0$", MUTED), ((0.0, 1.0), r"$\epsilon$", MUTED),
        ((alpha, sigma), r"$z_t$", BLUE), ((-sigma, alpha), r"$v$", VERMILION),
    )  # fmt: skip
    for (x, y), name, colour in arrows:
        style = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "color": colour, "lw": 1.8}
        ax.annotate("", (x, y), (0, 0), arrowprops=style)
        side = "right" if x == 0 else "center"  # z_t may be close to the right of eps
        ax.text(1.17 * x, 1.17 * y, name, color=colour, ha=side, va="center", fontsize=13)
    for start, end in (((alpha, 0), (alpha, sigma)), ((0, sigma), (alpha, sigma))):
        ax.plot(*zip(start, end, strict=True), ":", color=MUTED, lw=1.2)
    arc = torch.linspace(0, math.atan2(sigma, alpha), 40)
    ax.plot(0.3 * arc.cos(), 0.3 * arc.sin(), "-", color=INK, lw=1)
    ax.set(xlim=(-1.35, 1.35), ylim=(-0.35, 1.35), aspect="equal", xticks=(-1, 0, 1), yticks=(0, 1))
