"""Samplers to look at: a world whose best denoiser is known, and drawings of walks through it.

The world is a mixture of Gaussians in the plane, so that a latent is one point (b, 2), and the best
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

from sdlearn.course.figures.pages import label_font, png
from sdlearn.course.figures.plots import WIDE, axes_for
from sdlearn.samplers import Denoiser
from sdlearn.schedule import Point

LIMIT = 2.6  # of the plane, in each direction
MARKS = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", "-"), ("x", "--"))
SIDE, FINE = 480, 2  # of a page of walks, in pixels; drawn this much larger, for smooth lines
SHADES = 8


class Mixture(NamedTuple):
    """A mixture of k round Gaussians: weights (k,), means (k, 2), stds (k,), all float64."""

    weights: Tensor
    means: Tensor
    stds: Tensor


def ring(radius: float, weights: Sequence[float], stds: Sequence[float]) -> Mixture:
    """Blobs on a circle around the origin, evenly, the first at the top, then to the left."""
    angles = torch.arange(len(weights), dtype=torch.float64) / len(weights) * math.tau
    means = radius * torch.stack([-angles.sin(), angles.cos()], dim=-1)
    return Mixture(
        torch.tensor(weights, dtype=torch.float64), means, torch.tensor(stds, dtype=torch.float64)
    )


WORLD = ring(1.3, (0.3, 0.25, 0.2, 0.15, 0.1), (0.15, 0.3, 0.15, 0.25, 0.15))


def drawn(world: Mixture, n: int, seed: int = 0) -> Tensor:
    """n points of the world, (n, 2) float64."""
    rng = torch.Generator().manual_seed(seed)
    k = torch.multinomial(world.weights, n, replacement=True, generator=rng)
    eps = torch.randn(n, 2, generator=rng, dtype=torch.float64)
    return world.means[k] + world.stds[k, None] * eps


def exact(world: Mixture) -> Denoiser:
    """The best denoiser of a world, E[z_0 | z]: z (b, 2), point -> (b, 2).

    At every time the world with noise is a mixture again, of standard deviations
    sqrt(alpha² stds² + sigma²). The answer is a mean over its parts, each with the probability that
    z came from it.
    """

    def denoise(z: Tensor, point: Point) -> Tensor:
        weights, means, stds = (part.to(z) for part in world)
        away = z[:, None] - point.alpha * means  # (b, k, 2)
        variance = (point.alpha * stds) ** 2 + point.sigma**2  # (k,)
        said = weights.log() - variance.log() - away.pow(2).sum(-1) / (2 * variance)
        guess = means + (point.alpha * stds**2 / variance)[:, None] * away
        return (said.softmax(dim=1)[:, :, None] * guess).sum(dim=1)

    return denoise


# ------------------------------------------------------------------------------------- the plane


def clouds(parts: Mapping[str, Tensor], title: str, across: int = 4) -> Image.Image:
    """Named sets of points, (n, 2) each, in planes of one scale."""
    figure, axes = planes(list(parts), title, across, legend=False)
    for ax, points in zip(axes, parts.values(), strict=True):
        ax.plot(*points.T, ".", color="0.3", ms=2)
    return grey(figure)


def guesses(parts: Mapping[str, tuple[Tensor, Tensor]], title: str) -> Image.Image:
    """Named pairs of (z, the estimate of z_0), (n, 2) each, joined by lines."""
    figure, axes = planes(list(parts), title, across=len(parts))
    for ax, (here, guess) in zip(axes, parts.values(), strict=True):
        ax.plot(*torch.stack([here, guess]).unbind(-1), "-", color="0.75", lw=0.7)
        ax.plot(*here.T, "o", color="black", mfc="white", ms=4, label="$z_t$")
        ax.plot(*guess.T, "k.", ms=5, label=r"estimate of $z_0$")
    legend_below(figure, axes[0], 2)
    return grey(figure)


def walks(parts: Mapping[str, Tensor], title: str, data: Tensor) -> Image.Image:
    """Named walks (steps + 1, n, 2) over the points of the data (m, 2), in grey."""
    figure, axes = planes(list(parts), title, across=len(parts))
    for ax, states in zip(axes, parts.values(), strict=True):
        ax.plot(*data.T, ".", color="0.8", ms=2, label="data")
        dots = "." if len(states) < 30 else None
        ax.plot(*states.unbind(-1), "-", color="0.2", lw=0.7, marker=dots, ms=3)
        ax.plot(*states[0].T, "o", color="black", mfc="white", ms=4, label="start: noise")
        ax.plot(*states[-1].T, "ko", ms=4, label="end")
    legend_below(figure, axes[0], 3)
    return grey(figure)


def grey(figure: Figure | Image.Image) -> Image.Image:
    """In a few even greys, black and white among them: thousands of points and lines are then a
    third of the file."""
    picture = Image.open(io.BytesIO(png(figure))).convert("L")
    levels = [round(round(v / 255 * (SHADES - 1)) * 255 / (SHADES - 1)) for v in range(256)]
    return picture.point(levels).quantize(SHADES)


def planes(
    names: Sequence[str], title: str, across: int, legend: bool = True
) -> tuple[Figure, list[Axes]]:
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
    figure.legend(
        *ax.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False
    )


# --------------------------------------------------------------------------------------- curves


def fan(
    ratios: Tensor, x: Tensor, title: str, until: float = 2.0, limit: float = 3.0
) -> Image.Image:
    """One number of many walks in Karras's form: x (steps + 1, n) = z / alpha over sigma / alpha.

    The walks go from left to right: in the left half all of them, in the right half their ends,
    from the ratio `until` on and with x from -limit to limit.
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
    return grey(figure)


def errors(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    ylabel: str,
    slopes: Mapping[int, tuple[float, float]] | None = None,
    level: tuple[str, float] | None = None,
    band: tuple[str, float, float] | None = None,
) -> Image.Image:
    """Named errors, (calls of the denoiser, error), both axes logarithmic, up to six lines.

    slopes: by order p, a point (calls, error) through which a line of error ~ calls^-p is drawn.
    level: a name and a height for a horizontal line. band: a name and two heights, grey between.
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
        if not shown or calls < 0.9 * shown[-1]:  # or the numbers would touch
            shown.append(calls)
    ax.set_xticks(shown, [f"{calls:g}" for calls in shown], minor=False)
    ax.set_xticks([], minor=True)
    if slopes:
        ax.set_xlim(min(every) * 0.9, max(every) * 1.5)
    ax.legend(loc="lower left" if slopes else "best")
    return grey(figure)


# --------------------------------------------------------------------------- the widget's page


def walk_page(states: Tensor, data: Tensor, title: str) -> Image.Image:
    """A page of walks (steps + 1, n, 2) over the data (m, 2): start hollow, end a black dot."""
    size = SIDE * FINE
    page = Image.new("L", (size, size), "white")
    pen = ImageDraw.Draw(page)

    def pixels(points: Tensor) -> list[tuple[float, float]]:
        inside = points.clamp(-LIMIT, LIMIT)  # what runs away stops at the edge
        return [
            ((1 + x / LIMIT) * size / 2, (1 - y / LIMIT) * size / 2) for x, y in inside.tolist()
        ]

    def dot(at: tuple[float, float], radius: float, fill: str, outline: str | None = None) -> None:
        box = [at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius]
        pen.ellipse(box, fill=fill, outline=outline, width=FINE)

    for place in pixels(data):
        dot(place, FINE, "#c4c4c4")
    for k in range(states.shape[1]):
        places = pixels(states[:, k])
        pen.line(places, "#404040", FINE)
        for place in places[1:-1] if len(places) <= 30 else ():
            dot(place, 1.5 * FINE, "#404040")
        dot(places[0], 4 * FINE, "white", "black")
        dot(places[-1], 4 * FINE, "black")
    page = page.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    framed = Image.new("L", (SIDE + 20, SIDE + 40), "white")
    framed.paste(page, (10, 30))
    pen = ImageDraw.Draw(framed)
    pen.rectangle((9, 29, SIDE + 10, SIDE + 30), outline="#aaaaaa")
    pen.text((10, 4), title, "black", label_font(19))
    return grey(framed)
