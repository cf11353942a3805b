"""Figures of the notebook on evaluation: intervals, the line in 1/N, halves of one set, balls."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from sdlearn.course.figures.editing import image_rows as image_rows
from sdlearn.course.figures.plots import NARROW, axes_for
from sdlearn.course.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    VERMILION,
    Described,
    in_style,
)
from sdlearn.evaluation.nearest_neighbours import precision_recall

Ends = tuple[float, float, float]  # a value with the ends of its interval
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, GREY)


def draw_intervals(ax: Axes, rows: Mapping[str, Ends], colours: Sequence[str]) -> None:
    """Draw intervals below each other, each with its name on the axis."""
    for y, ((value, low, high), colour) in enumerate(zip(rows.values(), colours, strict=True)):
        ax.plot([100 * low, 100 * high], [y, y], "-", color=colour, lw=5, solid_capstyle="butt")
        ax.plot(100 * value, y, "o", color=INK, ms=6, zorder=3)
    ax.set_yticks(range(len(rows)), [*rows])
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.grid(axis="x", alpha=0.3)


@in_style
def rates_and_difference(rates: Mapping[str, Ends], differences: Mapping[str, Ends]) -> Described:
    """Draw the intervals of two rates, and below them those of their difference.

    Args:
        rates: Value, low and high end of each rate, 0 to 1, by name.
        differences: The same of their difference, by the name of the method.
    """
    figure = Figure(figsize=(NARROW, 4.2), dpi=100, layout="constrained")
    top, bottom = figure.subplots(2, 1)
    draw_intervals(top, rates, (BLUE, VERMILION))
    top.set(title="Each model alone", xlabel="images that are right, %")
    draw_intervals(bottom, differences, (GREY, GREEN))
    bottom.axvline(0, color=INK, lw=1, ls="--")
    bottom.set(title="Their difference", xlabel="percentage points")
    said = "; ".join(
        f"{name}: {100 * v:.1f}, from {100 * low:.1f} to {100 * high:.1f}"
        for name, (v, low, high) in [*rates.items(), *differences.items()]
    )
    return Described(
        figure,
        "Two panels of horizontal intervals, in per cent. Above: the rates of two models. Below: "
        f"their difference, with a line at 0. {said}.",
    )


@in_style
def frechet_lines(
    sizes: Sequence[int],
    distances: Mapping[str, Sequence[float]],
    limits: Mapping[str, tuple[float, float]],
) -> Described:
    """Draw Fréchet distances against 1/N, with straight lines extended to 1/N = 0.

    Args:
        sizes: The Ns, images in each of the two sets.
        distances: At each N, by the name of a set.
        limits: Intercept and slope of the line of each set.
    """
    figure, ax = axes_for(
        "Fréchet distance to true images", "N, images in each of the two sets (linear in 1/N)",
        "Fréchet distance", NARROW,
    )  # fmt: skip
    xs = [1 / n for n in sizes]
    end = max(xs)
    names = sorted(distances, key=lambda name: limits[name][0])
    for name, colour in zip(names, COLOURS, strict=False):
        limit, slope = limits[name]
        ax.plot([0, end], [limit, limit + slope * end], "-", color=colour, lw=1.2)
        ax.plot(xs, distances[name], "o", color=colour, ms=6, clip_on=False, zorder=3)
        ax.plot(0, limit, "o", color=colour, mfc="white", ms=8, clip_on=False, zorder=3)
        ax.annotate(
            name, (end, limit + slope * end), (8, 0), textcoords="offset points", color=colour,
            va="center", fontsize=10, annotation_clip=False,
        )  # fmt: skip
    ax.set_xticks([0, *xs], ["∞", *map(str, sizes)])
    ax.set(xlim=(-0.00004, end), ylim=(0, None))
    said = "; ".join(
        f"{name}: {', '.join(f'{v:.2f}' for v in distances[name])}, limit {limits[name][0]:.2f}"
        for name in names
    )
    return Described(
        figure,
        "Points near rising straight lines, the Fréchet distance against 1/N, at N = "
        f"{', '.join(map(str, sizes))}. Rings on the left show where the lines meet 1/N = 0. "
        f"{said}.",
    )


@in_style
def two_halves(rows: Mapping[str, Tensor]) -> Described:
    """Draw distances between random halves of one set as dots, a panel for each distance.

    Args:
        rows: Distances of many splits, by the name of the distance.
    """
    figure = Figure(figsize=(NARROW, 0.3 + 1.9 * len(rows)), dpi=100, layout="constrained")
    axes = figure.subplots(len(rows), 1)
    said = []
    for ax, (name, values), colour in zip(axes, rows.items(), COLOURS, strict=False):
        heights = torch.arange(len(values)) % 6 / 6
        ax.plot(values, heights, "o", color=colour, ms=5, alpha=0.75, mec="none")
        ax.axvline(0, color=INK, lw=1, ls="--")
        ax.plot([values.mean()] * 2, [-0.25, 1.05], "-", color=colour, lw=2)
        ax.text(
            values.mean(), 1.08, "mean", color=colour, ha="center", va="bottom", fontsize=9,
            bbox={"fc": "white", "ec": "none", "pad": 1},
        )  # fmt: skip
        ax.set(title=name, xlabel="distance between two halves", ylim=(-0.3, 1.4), yticks=[])
        said.append(
            f"{name}: from {values.min():.2f} to {values.max():.2f}, "
            f"mean {values.mean():z.2f}, "
            f"{int((values < 0).sum())} of {len(values)} negative"
        )
    axes[0].set_xlim(left=min(-0.1, *axes[0].get_xlim()))
    note = "The scales differ. The height only separates the dots."
    figure.supxlabel(note, fontsize=9, color=MUTED)
    return Described(
        figure,
        "Dots for the distances between random halves of one set, with a line at 0 and one at "
        f"their mean. The scales differ. {'; '.join(said)}.",
    )


@in_style
def neighbour_balls(reals: Tensor, fakes: Mapping[str, Tensor], k: int = 3) -> Described:
    """Draw the balls around real points and around generated ones, and what lies in them.

    The upper row shows precision: generated points in the balls of the real ones. The lower row
    shows recall: real points in the balls of the generated ones.

    Args:
        reals: (n, 2).
        fakes: Generated points (m, 2), by name, a column for each.
        k: The neighbour that a ball reaches to.
    """
    figure = Figure(figsize=(NARROW, 5.4), dpi=100, layout="constrained")
    axes = figure.subplots(2, len(fakes), sharex=True, sharey=True)
    said = []
    for (top, bottom), (name, points) in zip(axes.T, fakes.items(), strict=True):
        precision, recall = precision_recall(reals, points, k)
        inside = draw_balls(top, reals, points, k, BLUE, "^")
        covered = draw_balls(bottom, points, reals, k, ORANGE, "o")
        top.plot(*reals.T, ".", color=BLUE, ms=4)
        bottom.plot(*points.T, ".", color=INK, ms=3)
        top.set_title(f"{name}\nprecision {precision:.2f}", fontsize=10)
        bottom.set_title(f"recall {recall:.2f}", fontsize=10)
        said.append(
            f"{name}: {inside} of {len(points)} generated points inside, precision "
            f"{precision:.2f}; {covered} of {len(reals)} real points inside, recall {recall:.2f}"
        )
    everything = torch.cat([reals, *fakes.values()])
    low, high = everything.min(dim=0).values - 0.3, everything.max(dim=0).values + 0.3
    axes[0, 0].set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes[0, 0].set_ylabel("balls around\nreal points", fontsize=10)
    axes[1, 0].set_ylabel("balls around\ngenerated points", fontsize=10)
    note = "Dots: centres of balls. Of the other set, green: inside; red: outside."
    figure.supxlabel(note, fontsize=9, color=MUTED)
    nth = {1: "nearest", 2: "second nearest", 3: "third nearest"}.get(k, f"{k}-th nearest")
    return Described(
        figure,
        f"Two rows of {len(fakes)} panels. Above, each real point has a ball that reaches to its "
        f"{nth} real neighbour, and generated points lie inside or outside. Below, the generated "
        f"points have the balls, and the real points lie inside or outside. {'. '.join(said)}.",
    )


def draw_balls(ax: Axes, centres: Tensor, points: Tensor, k: int, colour: str, mark: str) -> int:
    """Draw balls around centres (n, 2) and points (m, 2); return how many points lie in a ball."""
    radius = torch.cdist(centres, centres).kthvalue(k + 1, dim=1).values
    for centre, r in zip(centres.tolist(), radius.tolist(), strict=True):
        ax.add_patch(Circle((centre[0], centre[1]), r, fc=colour, alpha=0.09, ec="none"))
    inside = (torch.cdist(points, centres) <= radius).any(dim=1)
    ax.plot(*points[inside].T, mark, color=GREEN, ms=5)
    ax.plot(*points[~inside].T, "x", color=VERMILION, ms=5, mew=1.5)
    ax.set(aspect="equal", xticks=[], yticks=[])
    return int(inside.sum())
