"""One step of DDIM and of DDPM in the plane, as diagrams."""

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch
from torch import Tensor

from sdlearn.course.figures.plots import NARROW
from sdlearn.course.figures.samplers import few_colours
from sdlearn.course.figures.style import (
    BLUE,
    INK,
    MUTED,
    PURPLE,
    VERMILION,
    Described,
    in_style,
)
from sdlearn.schedule import Point


@in_style
def one_ddim_step(z: Tensor, z_0: Tensor, here: Point, there: Point, title: str) -> Described:
    """Draw a DDIM step as two sums: estimate and predicted noise, in two proportions.

    Args:
        z: The latent at `here`, (2,).
        z_0: The denoiser's estimate for it, (2,).
        here: Where the step begins.
        there: Where it ends.
        title: Title of the figure.
    """
    figure, ax = canvas(title)
    eps = (z - here.alpha * z_0) / here.sigma
    end = there.alpha * z_0 + there.sigma * eps
    ax.plot(*torch.stack([0 * z_0, z_0]).T, "-", color=BLUE, lw=0.9, zorder=1)
    dot(ax, 0 * z_0, "0", MUTED, (-4, -15))
    dot(ax, z_0, r"$\hat z_0$: the estimate", BLUE, (8, 4))
    for point, target, letter in ((here, z, "t"), (there, end, "s")):
        foot = point.alpha * z_0
        vector(ax, foot, target, VERMILION)
        dot(ax, foot, rf"$\alpha_{letter}\,\hat z_0$", BLUE, (-36, -9))
        label(ax, (foot + target) / 2, rf"$\sigma_{letter}\,\hat\epsilon$", VERMILION, (-12, 6))
    vector(ax, z, end, INK, dashed=True)
    label(ax, (z + end) / 2, "the step", INK, (8, 4))
    dot(ax, end, "$z_s$", INK, (2, 9))
    dot(ax, z, "$z_t$", INK, (6, -12), hollow=True)
    long, short = ((point.sigma * eps).norm().item() for point in (here, there))
    words = (
        "The noisy latent is the sum of the estimate, scaled by alpha, and an arrow of predicted "
        f"noise, scaled by sigma, {long:.2f} long. After the step alpha is larger, and the arrow "
        f"has the same direction and is {short:.2f} long. So the step leads to one point."
    )
    return Described(few_colours(figure), words)


@in_style
def one_ddpm_step(
    z: Tensor, z_0: Tensor, here: Point, there: Point, fresh: Tensor, title: str
) -> Described:
    """Draw the posterior of a DDPM step, some draws from it, and where DDIM would go.

    Args:
        z: The latent at `here`, (2,).
        z_0: The denoiser's estimate for it, (2,).
        here: Where the step begins.
        there: Where it ends.
        fresh: Standard normals for some draws, (n, 2).
        title: Title of the figure.
    """
    figure, ax = canvas(title, 0.3)
    a = (here.alpha / there.alpha) ** 2
    mean = (there.alpha * (1 - a) * z_0 + a.sqrt() * there.sigma**2 * z) / here.sigma**2
    std = (there.sigma / here.sigma * (1 - a).sqrt()).item()
    ddim = there.alpha * z_0 + there.sigma * (z - here.alpha * z_0) / here.sigma
    ax.add_patch(Circle(pair(mean), std, fill=False, ec=PURPLE, lw=1.4, ls="--"))
    dot(ax, z_0, r"estimate $\hat z_0$", BLUE, (-80, -4))
    for drawn in mean + std * fresh:
        vector(ax, z, drawn, MUTED)
        dot(ax, drawn, "", INK, (0, 0))
    dot(ax, mean, "mean", PURPLE, (-20, 8))
    circle = f"the posterior's\nstandard\ndeviation, {std:.2f}"
    label(ax, mean - torch.tensor([std, 0.0]).to(mean), circle, PURPLE, (-84, -52), 10)
    dot(ax, ddim, "$z_s$ of DDIM", VERMILION, (8, 3))
    dot(ax, z, "$z_t$", INK, (6, -12), hollow=True)
    words = (
        f"{len(fresh)} DDPM steps from one noisy latent with one estimate. They end around the "
        f"mean of the posterior, whose standard deviation is {std:.2f}. DDIM's step ends "
        f"{(ddim - mean).norm():.2f} from this mean, farther from the estimate."
    )
    return Described(few_colours(figure), words)


def canvas(title: str, low: float = -0.35) -> tuple[Figure, Axes]:
    """Create a narrow figure with a title and a plane without axes, from the height `low` up."""
    figure = Figure(figsize=(NARROW, 0.5 + NARROW * (2 - low) / 4.3), dpi=110, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    ax = figure.subplots()
    ax.set(xlim=(-2.0, 2.3), ylim=(low, 2.0), aspect="equal")
    ax.axis("off")
    return figure, ax


def pair(point: Tensor) -> tuple[float, float]:
    """Return a point (2,) as two numbers."""
    return float(point[0]), float(point[1])


def label(
    ax: Axes, at: Tensor, text: str, colour: str, shift: tuple[int, int], size: int = 12
) -> None:
    """Write a text at a point (2,), shifted right and up by points of 1/72 inch."""
    ax.annotate(
        text, pair(at), shift, textcoords="offset points", color=colour, fontsize=size, zorder=5
    )


def dot(
    ax: Axes, at: Tensor, text: str, colour: str, shift: tuple[int, int], hollow: bool = False
) -> None:
    """Draw a dot at a point (2,), with a text as in `label`."""
    ax.plot(*at, "o", color=colour, mfc="white" if hollow else colour, ms=6, zorder=4)
    label(ax, at, text, colour, shift)


def vector(ax: Axes, start: Tensor, end: Tensor, colour: str, dashed: bool = False) -> None:
    """Draw an arrow from one point (2,) to another."""
    style = (0, (4, 2.5)) if dashed else "-"
    ax.add_patch(
        FancyArrowPatch(
            pair(start), pair(end), arrowstyle="-|>", mutation_scale=12, color=colour, lw=1.4,
            ls=style, shrinkA=3, shrinkB=3, zorder=3,
        )
    )  # fmt: skip
