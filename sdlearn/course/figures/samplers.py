"""Figures of samplers on a toy distribution with a known denoiser.

The distribution is a mixture of Gaussians in the plane. A latent is one point (b, 2), and the best
estimate of z_0 is a formula.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.images import label_font, png
from sdlearn.course.figures.plots import WIDE, axes_for
from sdlearn.course.figures.style import in_style
from sdlearn.samplers import Denoiser
from sdlearn.schedule import Point

LIMIT = 2.6  # of the plane, in each direction
MARKS = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", "-"), ("x", "--"))
SIDE, FINE = 480, 2  # side of the widget's image in pixels; antialiasing factor
SHADES = 8


class Mixture(NamedTuple):
    """A mixture of k isotropic Gaussians in the plane, in float64.

    Attributes:
        weights: (k,), sum 1.
        means: (k, 2).
        stds: (k,).
    """

    weights: Tensor
    means: Tensor
    stds: Tensor


def ring_mixture(radius: float, weights: Sequence[float], stds: Sequence[float]) -> Mixture:
    """Place Gaussians evenly on a circle around the origin, anticlockwise from the top."""
    angles = torch.arange(len(weights), dtype=torch.float64) / len(weights) * math.tau
    means = radius * torch.stack([-angles.sin(), angles.cos()], dim=-1)
    return Mixture(
        torch.tensor(weights, dtype=torch.float64), means, torch.tensor(stds, dtype=torch.float64)
    )


DATA = ring_mixture(1.3, (0.3, 0.25, 0.2, 0.15, 0.1), (0.15, 0.3, 0.15, 0.25, 0.15))


def sample_mixture(world: Mixture, n: int, seed: int = 0) -> Tensor:
    """Draw n points from a mixture, (n, 2) float64."""
    rng = torch.Generator().manual_seed(seed)
    k = torch.multinomial(world.weights, n, replacement=True, generator=rng)
    eps = torch.randn(n, 2, generator=rng, dtype=torch.float64)
    return world.means[k] + world.stds[k, None] * eps


def exact_denoiser(world: Mixture) -> Denoiser:
    """Return the optimal denoiser of a mixture, E[z_0 | z]: z (b, 2), point -> (b, 2).

    With noise the data are a mixture again, with standard deviations sqrt(alpha² stds² + sigma²).
    The estimate is the mean of the components' estimates, weighted by the posterior probability
    of each component.
    """

    def denoise(z: Tensor, point: Point) -> Tensor:
        weights, means, stds = (part.to(z) for part in world)
        away = z[:, None] - point.alpha * means  # (b, k, 2)
        variance = (point.alpha * stds) ** 2 + point.sigma**2  # (k,)
        logits = weights.log() - variance.log() - away.pow(2).sum(-1) / (2 * variance)
        estimate = means + (point.alpha * stds**2 / variance)[:, None] * away
        return (logits.softmax(dim=1)[:, :, None] * estimate).sum(dim=1)

    return denoise


# ------------------------------------------------------------------------------------- the plane


@in_style
def scatter(parts: Mapping[str, Tensor], title: str, across: int = 4) -> Image.Image:
    """Draw sets of points (n, 2), by name, in panels of one scale."""
    figure, axes = axes_grid(list(parts), title, across, legend=False)
    for ax, points in zip(axes, parts.values(), strict=True):
        ax.plot(*points.T, ".", color="0.3", ms=2)
    return to_greyscale(figure)


@in_style
def estimates(parts: Mapping[str, tuple[Tensor, Tensor]], title: str) -> Image.Image:
    """Draw points z (n, 2) joined by lines to their estimates of z_0 (n, 2), by name."""
    figure, axes = axes_grid(list(parts), title, across=len(parts))
    for ax, (here, guess) in zip(axes, parts.values(), strict=True):
        ax.plot(*torch.stack([here, guess]).unbind(-1), "-", color="0.75", lw=0.7)
        ax.plot(*here.T, "o", color="black", mfc="white", ms=4, label="$z_t$")
        ax.plot(*guess.T, "k.", ms=5, label=r"estimate of $z_0$")
    legend_below(figure, axes[0], 2)
    return to_greyscale(figure)


@in_style
def trajectories(parts: Mapping[str, Tensor], title: str, data: Tensor) -> Image.Image:
    """Draw trajectories (steps + 1, n, 2), by name, over grey points of the data (m, 2)."""
    figure, axes = axes_grid(list(parts), title, across=len(parts))
    for ax, states in zip(axes, parts.values(), strict=True):
        ax.plot(*data.T, ".", color="0.8", ms=2, label="data")
        dots = "." if len(states) < 30 else None
        ax.plot(*states.unbind(-1), "-", color="0.2", lw=0.7, marker=dots, ms=3)
        ax.plot(*states[0].T, "o", color="black", mfc="white", ms=4, label="start: noise")
        ax.plot(*states[-1].T, "ko", ms=4, label="end")
    legend_below(figure, axes[0], 3)
    return to_greyscale(figure)


def to_greyscale(figure: Figure | Image.Image) -> Image.Image:
    """Reduce a figure to 8 evenly spaced greys, which makes its PNG file three times smaller."""
    picture = Image.open(io.BytesIO(png(figure))).convert("L")
    levels = [round(round(v / 255 * (SHADES - 1)) * 255 / (SHADES - 1)) for v in range(256)]
    return picture.point(levels).quantize(SHADES)


def axes_grid(
    names: Sequence[str], title: str, across: int, legend: bool = True
) -> tuple[Figure, list[Axes]]:
    """Create one pair of axes over the plane for each name, `across` in a row."""
    down = -(-len(names) // across)
    tall = WIDE / across * down + (1.1 if legend else 0.75)
    figure = Figure(figsize=(WIDE, tall), dpi=100, layout="constrained")
    figure.suptitle(title)
    axes = list(figure.subplots(down, across, squeeze=False).flatten())
    for k, ax in enumerate(axes):
        ax.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), aspect="equal")
        ax.set(xlabel="first number", xticks=range(-2, 3), yticks=range(-2, 3))
        if k % across:
            ax.tick_params(labelleft=False)
        else:
            ax.set_ylabel("second number")
        if k < len(names):
            ax.set_title(names[k], fontsize=10)
        else:
            ax.axis("off")
    return figure, axes[: len(names)]


def legend_below(figure: Figure, ax: Axes, columns: int) -> None:
    """Draw one legend below all panels, with the entries of `ax`."""
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False
    )


# --------------------------------------------------------------------------------------- curves


@in_style
def trajectories_over_sigma(
    ratios: Tensor, x: Tensor, title: str, until: float = 2.0, limit: float = 3.0
) -> Image.Image:
    """Draw one coordinate of many trajectories, z / alpha, over Karras's sigma / alpha.

    Time runs from left to right. The left panel shows the whole trajectories, the right panel
    their ends.

    Args:
        ratios: sigma / alpha, (steps + 1,).
        x: One coordinate of z / alpha, (steps + 1, n).
        title: Of the figure.
        until: The sigma / alpha at which the right panel starts.
        limit: The right panel shows x from -limit to limit.
    """
    figure = Figure(figsize=(WIDE, 3.6), dpi=100, layout="constrained")
    figure.suptitle(title)
    whole, end = figure.subplots(1, 2)
    for ax, name in ((whole, "the whole path"), (end, "its end, enlarged")):
        ax.plot(ratios, x, "-", color="0.2", lw=0.7)
        ax.set_title(name, fontsize=10)
        ax.set(xlabel=r"$\sigma / \alpha$")
        ax.grid(color="0.85")
    whole.set(xlim=(float(ratios.max()), 0), ylabel=r"second number of $z / \alpha$")
    end.set(xlim=(until, 0), ylim=(-limit, limit))
    return to_greyscale(figure)


@in_style
def error_curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    ylabel: str,
    slopes: Mapping[int, tuple[float, float]] | None = None,
    level: tuple[str, float] | None = None,
    band: tuple[str, float, float] | None = None,
) -> Image.Image:
    """Draw errors over the number of denoiser calls on logarithmic axes.

    Args:
        lines: Up to six lines (calls of the denoiser, error), by name.
        title: Of the figure.
        ylabel: Of the y axis.
        slopes: By order p, a point (calls, error) on the reference line error ~ calls^-p.
        level: Name and height of a horizontal line.
        band: Name, lower and upper height of a grey band.
    """
    figure, ax = axes_for(title, "calls of the denoiser", ylabel)
    figure.set_figheight(4.2)
    every = [float(calls) for xs, _ in lines.values() for calls in xs]
    for order, (calls, error) in (slopes or {}).items():
        ends = [error * (x / calls) ** -order for x in (min(every), max(every))]
        ax.plot((min(every), max(every)), ends, "-", color="0.8", lw=5, zorder=0)
        ax.text(max(every), ends[1], f" slope {order}", va="center", color="0.3")
    for (name, (xs, ys)), (mark, dashes) in zip(lines.items(), MARKS[: len(lines)], strict=True):
        ax.plot(xs, ys, dashes, marker=mark, color="black", ms=5, lw=1.1, mfc="white", label=name)
    if level:
        ax.axhline(level[1], color="0.5", lw=1, ls=(0, (1, 3)), label=level[0])
    if band:
        ax.axhspan(*band[1:], color="0.88", lw=0, zorder=0, label=band[0])
    ax.set(xscale="log", yscale="log")
    shown: list[float] = []
    for calls in sorted(set(every), reverse=True):
        if not shown or calls < 0.9 * shown[-1]:  # otherwise the tick labels would touch
            shown.append(calls)
    ax.set_xticks(shown, [f"{calls:g}" for calls in shown], minor=False)
    ax.set_xticks([], minor=True)
    if slopes:
        ax.set_xlim(min(every) * 0.9, max(every) * 1.5)
    ax.legend(loc="lower left" if slopes else "best")
    return to_greyscale(figure)


# -------------------------------------------------------------------------- the widget's image


@in_style
def trajectory_image(states: Tensor, data: Tensor, title: str) -> Image.Image:
    """Draw trajectories over the data: a hollow dot at each start, a black dot at each end.

    Args:
        states: (steps + 1, n, 2).
        data: (m, 2), drawn as grey points.
        title: Written above.
    """
    size = SIDE * FINE
    page = Image.new("L", (size, size), "white")
    pen = ImageDraw.Draw(page)

    def pixels(points: Tensor) -> list[tuple[float, float]]:
        inside = points.clamp(-LIMIT, LIMIT)  # points outside the plane are drawn at its edge
        return [
            ((1 + x / LIMIT) * size / 2, (1 - y / LIMIT) * size / 2) for x, y in inside.tolist()
        ]

    def dot(at: tuple[float, float], radius: float, fill: str, outline: str | None = None) -> None:
        box = [at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius]
        pen.ellipse(box, fill=fill, outline=outline, width=FINE)

    for position in pixels(data):
        dot(position, FINE, "#c4c4c4")
    for k in range(states.shape[1]):
        positions = pixels(states[:, k])
        pen.line(positions, "#404040", FINE)
        for position in positions[1:-1] if len(positions) <= 30 else ():
            dot(position, 1.5 * FINE, "#404040")
        dot(positions[0], 4 * FINE, "white", "black")
        dot(positions[-1], 4 * FINE, "black")
    page = page.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    framed = Image.new("L", (SIDE + 20, SIDE + 40), "white")
    framed.paste(page, (10, 30))
    pen = ImageDraw.Draw(framed)
    pen.rectangle((9, 29, SIDE + 10, SIDE + 30), outline="#aaaaaa")
    pen.text((10, 4), title, "black", label_font(19))
    return to_greyscale(framed)
