"""Figures of samplers on a toy distribution with a known denoiser.

The distribution is a mixture of Gaussians in the plane. A latent is one point (b, 2), and the best
estimate of z_0 is a formula.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.images import label_font, png
from sdlearn.course.figures.mixtures import DATA, nearest_cluster
from sdlearn.course.figures.plots import WIDE
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
    tint,
)
from sdlearn.samplers import Denoiser
from sdlearn.schedule import Point

LIMIT = 2.6  # of the plane, in each direction
MARKS = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", "-"), ("x", "--"))
SIDE, FINE = 480, 2  # side of the widget's image in pixels; antialiasing factor
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE)  # of the clusters
COLOURS_OF_LINES = (INK, VERMILION, BLUE, GREEN, PURPLE, ORANGE)
PALE_GREYS = LinearSegmentedColormap.from_list("pale greys", ["#ffffff", tint(MUTED, 0.45)])


# ------------------------------------------------------------------------------------- the plane


@in_style
def scatter(parts: Mapping[str, tuple[Tensor, Tensor]], title: str) -> Described:
    """Draw sets of points in panels side by side, coloured by cluster.

    Args:
        parts: Points (n, 2) and the cluster of each (n,), by the title of the panel.
        title: Of the figure.
    """
    figure, axes = plane_panels(list(parts), title)
    said = []
    for ax, (name, (points, clusters)) in zip(axes, parts.items(), strict=True):
        for k, colour in enumerate(COLOURS):
            ax.plot(*points[clusters == k].T, ".", color=colour, ms=2)
        share = (torch.bincount(clusters, minlength=len(COLOURS)) / len(points)).tolist()
        said.append(
            f"{one_line(name)}: standard deviation {points.std(0).mean():.2f}, of the clusters "
            + ", ".join(f"{s:.0%}" for s in share)
        )
    words = "Panels of the same plane, with points in a colour for each cluster. "
    return Described(few_colours(figure), words + "; ".join(said) + ".")


@in_style
def estimates(parts: Mapping[str, tuple[Tensor, Tensor, Tensor]], title: str) -> Described:
    """Draw points joined to their estimates of z_0 over the data.

    Args:
        parts: Points z_t (n, 2), their estimates (n, 2) and their clusters (n,), by panel.
        title: Of the figure.
    """
    figure, axes = plane_panels(list(parts), title, extra=0.35)
    said = []
    for ax, (name, (here, guess, clusters)) in zip(axes, parts.items(), strict=True):
        draw_clusters(ax)
        ax.plot(*torch.stack([here, guess]).unbind(-1), "-", color=GREY, lw=0.6)
        ax.plot(*here.T, "o", color=MUTED, mfc="white", ms=4, label="$z_t$")
        ax.plot([], [], "o", color=INK, ms=5, label=r"estimate of $z_0$, coloured by true cluster")
        for k, colour in enumerate(COLOURS):
            ax.plot(*guess[clusters == k].T, "o", color=colour, ms=4, mec="white", mew=0.4)
        middle = (guess.norm(dim=1) < 0.5).double().mean()
        said.append(f"{name}: {middle:.0%} of the estimates lie in the empty middle")
    legend_of_plane(figure, axes[0].get_legend_handles_labels()[0])
    words = "Noisy points, each joined by a line to its estimate; discs mark the clusters. "
    return Described(few_colours(figure), words + "; ".join(said) + ".")


@in_style
def trajectories(parts: Mapping[str, Tensor], title: str) -> Described:
    """Draw trajectories (steps + 1, n, 2) over the clusters, coloured by the one they end in."""
    figure, axes = plane_panels(list(parts), title, extra=0.35)
    said = []
    for ax, (name, states) in zip(axes, parts.items(), strict=True):
        draw_clusters(ax)
        dots = "." if len(states) < 30 else None
        clusters = nearest_cluster(states[-1]).tolist()
        for k, cluster in enumerate(clusters):
            ax.plot(*states[:, k].T, "-", color=COLOURS[cluster], lw=0.9, marker=dots, ms=3)
        ax.plot(*states[0].T, "o", color=INK, mfc="white", ms=4, label="start: noise")
        ax.plot(*states[-1].T, "o", color=INK, ms=4, label="end")
        away = torch.cdist(states[-1], DATA.means).min(dim=1).values.median()
        said.append(f"{name}: half of the ends lie within {away:.2f} of a cluster's centre")
    way = Line2D([], [], color=MUTED, label="trajectory, coloured by the cluster where it ends")
    legend_of_plane(figure, [*axes[0].get_legend_handles_labels()[0], way])
    words = (
        "Trajectories from noise, drawn as hollow dots, to their ends, drawn as full dots; discs "
        "mark the clusters. "
    )
    return Described(few_colours(figure), words + "; ".join(said) + ".")


@in_style
def score_field(
    denoise: Denoiser, points: Sequence[Point], states: Sequence[Tensor], title: str
) -> Described:
    """Draw the density, its score and the trajectories of the ODE at some noise levels.

    Everything is in Karras's x = z / alpha. There the velocity of the ODE, as sigma / alpha falls,
    is the score times sigma / alpha, so that one set of arrows shows both.

    Args:
        denoise: (z, point) -> estimate of z_0.
        points: One for each panel.
        states: For each panel the rest of some trajectories in x, (steps, n, 2).
        title: Of the figure.
    """
    names = [f"$\\sigma/\\alpha$ = {float(p.sigma / p.alpha):.1f}" for p in points]
    figure, axes = plane_panels(names, title, label="x", extra=0.35)
    side = torch.linspace(-LIMIT, LIMIT, 90, dtype=torch.float64)
    fine = torch.cartesian_prod(side, side)
    coarse = torch.linspace(-2.3, 2.3, 12, dtype=torch.float64)
    places = torch.cartesian_prod(coarse, coarse)
    said = []
    for ax, point, rest in zip(axes, points, states, strict=True):
        level = point.sigma / point.alpha
        variance = DATA.stds**2 + level**2
        squared = (fine[:, None] - DATA.means).pow(2).sum(-1)
        density = (DATA.weights / variance * (-squared / (2 * variance)).exp()).sum(1)
        shape = (len(side), len(side))
        ax.contourf(
            side, side, density.reshape(shape).T, levels=8, cmap=PALE_GREYS, vmin=0, zorder=0
        )
        velocity = (denoise(point.alpha * places, point) - places) / level
        ax.quiver(*places.T, *velocity.T, color=GREY, scale=38, width=0.005, zorder=1)
        for k, cluster in enumerate(nearest_cluster(rest[-1]).tolist()):
            ax.plot(*rest[:, k].T, "-", color=COLOURS[cluster], lw=1.6, zorder=2)
        ax.plot(*rest[0].T, "o", color=INK, mfc="white", ms=4, zorder=3)
        ax.plot(*rest[-1].T, "o", color=INK, ms=4, zorder=3)
        size = velocity.norm(dim=1).median()
        said.append(f"at sigma / alpha = {level:.1f} half of the arrows are longer than {size:.2f}")
    marks: list[Artist] = [
        Patch(color=PALE_GREYS(1.0), label="darker: higher density"),
        Line2D([], [], marker="$\u2192$", ls="", color=GREY, ms=11, label="score"),
        Line2D([], [], marker="o", ls="", color=INK, mfc="white", ms=4, label="latent now"),
        Line2D([], [], color=MUTED, label=r"its way to $\sigma/\alpha$ = 0"),
        Line2D([], [], marker="o", ls="", color=INK, ms=4, label="its end"),
    ]
    figure.legend(
        handles=marks, loc="outside lower left", ncols=5, frameon=False, columnspacing=1.4
    )
    words = (
        "The density of the noisy data in shades of grey, arrows that point uphill in it, and "
        "curves in the colour of a cluster, each of which leaves a hollow dot along the arrows and "
        "ends in a full dot; "
    )
    return Described(few_colours(figure, shades=True), words + "; ".join(said) + ".")


def one_line(name: str) -> str:
    """Return a panel's title without its line breaks."""
    return name.replace("\n", ", ")


def draw_clusters(ax: Axes) -> None:
    """Draw a pale disc of two standard deviations for each cluster of DATA."""
    for (x, y), std, colour in zip(DATA.means.tolist(), DATA.stds.tolist(), COLOURS, strict=True):
        ax.add_patch(Circle((x, y), 2 * std, color=tint(colour, 0.3), lw=0, zorder=0))


def legend_of_plane(figure: Figure, marks: Sequence[Artist]) -> None:
    """Draw a legend below the panels with these marks and the discs of `draw_clusters`."""
    disc = Line2D([], [], marker="o", ls="", color=tint(MUTED, 0.4), ms=10)
    disc.set_label("cluster (radius: 2 std)")
    figure.legend(
        handles=[*marks, disc], loc="outside lower left", ncols=4, frameon=False,
        columnspacing=1.4,
    )  # fmt: skip


def plane_panels(
    names: Sequence[str], title: str, label: str = "z", extra: float = 0.0
) -> tuple[Figure, list[Axes]]:
    """Create one panel of the plane for each name, side by side.

    Args:
        names: Titles of the panels.
        title: Of the figure.
        label: What the coordinates are called.
        extra: Height for a legend, in inches.
    """
    height = WIDE / len(names) + 0.75 + extra + 0.2 * max(name.count("\n") for name in names)
    figure = Figure(figsize=(WIDE, height), dpi=100, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    axes = list(figure.subplots(1, len(names), squeeze=False)[0])
    for k, (ax, name) in enumerate(zip(axes, names, strict=True)):
        ax.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), aspect="equal")
        ax.set(xlabel=f"{label}, first entry", xticks=range(-2, 3), yticks=range(-2, 3))
        ax.grid(visible=False)
        if k:
            ax.tick_params(labelleft=False)
        else:
            ax.set_ylabel(f"{label}, second entry")
        ax.set_title(name, fontsize=10, fontweight="normal")
    return figure, axes


def few_colours(figure: Figure | Image.Image, shades: bool = False) -> Image.Image:
    """Reduce a figure to 128 colours, which makes its PNG file two to three times smaller.

    Args:
        figure: The figure.
        shades: Keep pale shades of large areas apart as well, at the cost of some antialiasing.
    """
    picture = Image.open(io.BytesIO(png(figure))).convert("RGB")
    method = Image.Quantize.FASTOCTREE if shades else Image.Quantize.MAXCOVERAGE
    reduced = picture.quantize(128, method=method, dither=Image.Dither.NONE)
    palette = reduced.getpalette() or []
    ground = 3 * int(np.asarray(reduced)[0, 0])
    palette[ground : ground + 3] = [255, 255, 255]  # FASTOCTREE's white is a little grey
    reduced.putpalette(palette)
    return reduced


# -------------------------------------------------------------------------- the widget's image


@in_style
def trajectory_image(states: Tensor, data: Tensor, title: str) -> Image.Image:
    """Draw trajectories over the data: a hollow dot at each start, a black dot at each end.

    Args:
        states: (steps + 1, n, 2).
        data: (m, 2), drawn as pale points in the colours of their clusters.
        title: Written above the plane.
    """
    size = SIDE * FINE
    page = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(page)

    def pixels(points: Tensor) -> list[tuple[float, float]]:
        inside = points.clamp(-LIMIT, LIMIT)  # points outside the plane are drawn at its edge
        return [
            ((1 + x / LIMIT) * size / 2, (1 - y / LIMIT) * size / 2) for x, y in inside.tolist()
        ]

    def dot(at: tuple[float, float], radius: float, fill: str, outline: str | None = None) -> None:
        box = [at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius]
        pen.ellipse(box, fill=fill, outline=outline, width=FINE)

    for position, cluster in zip(pixels(data), nearest_cluster(data).tolist(), strict=True):
        dot(position, FINE, tint(COLOURS[cluster], 0.5))
    for k in range(states.shape[1]):
        positions = pixels(states[:, k])
        pen.line(positions, "#404040", FINE)
        for position in positions[1:-1] if len(positions) <= 30 else ():
            dot(position, 1.5 * FINE, "#404040")
        dot(positions[0], 4 * FINE, "white", "black")
        dot(positions[-1], 4 * FINE, "black")
    page = page.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    framed = Image.new("RGB", (SIDE + 20, SIDE + 40), "white")
    framed.paste(page, (10, 30))
    pen = ImageDraw.Draw(framed)
    pen.rectangle((9, 29, SIDE + 10, SIDE + 30), outline="#aaaaaa")
    pen.text((10, 4), title, "black", label_font(19))
    return few_colours(framed)
