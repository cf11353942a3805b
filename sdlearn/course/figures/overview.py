"""Figures of notebook 00: latents, the schedule, the estimates, and a first denoiser's points."""

from collections.abc import Collection, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.images import grid
from sdlearn.course.figures.plots import NARROW, WIDE, axes_for
from sdlearn.course.figures.style import BLUE, INK, MUTED, VERMILION, Described, in_style
from sdlearn.schedule import NoiseSchedule, Point

LIMIT = 3.0  # the scale of a latent: -3 to 3
SHAPE = "#cfd6de"  # the shape that points should fill


def compact(page: Image.Image, colours: int = 64) -> Image.Image:
    """Return a grid of images with a palette of few colours, whose file is a third smaller."""
    method = Image.Quantize.MAXCOVERAGE  # keeps rare colours
    return page.quantize(colours, method=method, kmeans=4, dither=Image.Dither.NONE)


@in_style
def latent_channels(z: Tensor, title: str, image: Image.Image | None = None) -> Described:
    """Draw the channels of a latent side by side, on one scale.

    Args:
        z: (1, c, h, w).
        title: Of the figure.
        image: What the latent encodes, drawn first.
    """
    channels = z[0].detach().float().cpu().numpy()
    figure = Figure(figsize=(WIDE, 2.3), dpi=100, layout="constrained")
    axes = list(figure.subplots(1, len(channels) + (image is not None)))
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    if image is not None:
        axes[0].imshow(image)
        axes[0].set_title("image", loc="center", fontsize=9)
        del axes[0]
    for k, (ax, channel) in enumerate(zip(axes, channels, strict=True)):
        drawn = ax.imshow(channel, cmap="cividis", vmin=-LIMIT, vmax=LIMIT)
        ax.set_title(f"channel {k}", loc="center", fontsize=9)
    figure.colorbar(drawn, ax=axes, label="value", shrink=0.8, extend="both")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return Described(
        figure,
        f"{title}: {len(channels)} maps of {channels.shape[1]} × {channels.shape[2]} values, one "
        f"for each channel. Their standard deviation is {channels.std():.2f}.",
    )


def noisy_latents(
    latents: Sequence[Tensor], images: Sequence[Image.Image], columns: Sequence[str], title: str,
    words: str,
) -> Described:  # fmt: skip
    """Draw channel 0 of latents with more and more noise above what they decode to.

    The channels have the colours and the scale of `latent_channels`.

    Args:
        latents: Each (1, c, h, w).
        images: The latents, decoded.
        columns: Headings.
        title: Of the figure.
        words: What the figure shows.
    """
    colours = ScalarMappable(Normalize(-LIMIT, LIMIT), "cividis")
    maps = [
        Image.fromarray(colours.to_rgba(z[0, 0].detach().float().cpu().numpy(), bytes=True))
        for z in latents
    ]
    above = [m.resize(i.size, Image.Resampling.NEAREST) for m, i in zip(maps, images, strict=True)]
    names = "channel 0", "decoded"
    return Described(grid([above, images], columns, names, title, scale=2, letters=17), words)


@in_style
def schedule_curves(schedule: NoiseSchedule, path: Sequence[Point]) -> Described:
    """Draw alpha and sigma over all timesteps, with the points of a path on both curves."""
    times = range(schedule.num_steps)
    alpha, sigma = schedule.at(schedule.alphas_cumprod.new_tensor(times))
    stops = [point.t for point in path]
    figure, ax = axes_for(
        f"The noise schedule and the {len(path)} points of the path", "timestep t", "factor"
    )
    ax.plot(times, alpha, color=BLUE)
    ax.plot(times, sigma, color=VERMILION, ls="--")
    ax.plot(stops, [point.alpha for point in path], "o", color=BLUE, ms=4)
    ax.plot(stops, [point.sigma for point in path], "s", color=VERMILION, ms=4)
    ax.text(150, 1.03, "α, the factor of the clean latent", color=BLUE, va="bottom")
    ax.text(700, 1.03, "σ, the factor of the noise", color=VERMILION, va="bottom")
    arrow = {"arrowstyle": "-|>", "color": MUTED}
    ax.annotate("", (330, 0.06), (670, 0.06), arrowprops=arrow)
    ax.text(500, 0.1, "sampling goes this way", color=MUTED, ha="center")
    ax.set_ylim(0, 1.15)
    return Described(
        figure,
        f"Two curves over the timestep t. α falls from {alpha[0]:.2f} at t = 0 to {alpha[-1]:.2f} "
        f"at t = {schedule.num_steps - 1}; σ rises from {sigma[0]:.2f} to {sigma[-1]:.2f}. The "
        f"{len(path)} points of the path run from t = {stops[0]:.0f} down to t = {stops[-1]:.0f}.",
    )


@in_style
def settling(runs: Sequence[Sequence[float]]) -> Described:
    """Draw how far the estimate of z_0 is from the run's final one after each step.

    Args:
        runs: Distances of the decoded estimates of step 1, 2, …, for each seed.
    """
    figure, ax = axes_for(
        "Distance of each decoded estimate from its final image",
        "step",
        "mean difference, levels of 255",
        NARROW,
    )
    figure.set_figheight(2.9)
    steps = range(1, len(runs[0]) + 1)
    first, middle = min(6, len(steps)), 2 * len(steps) // 3
    ax.axvspan(first, middle, color=SHAPE, alpha=0.45, lw=0)
    top = max(max(run) for run in runs)
    for run in runs:
        ax.plot(steps, run, color=BLUE, lw=1.1)
    mean = sum(run[0] for run in runs) / len(runs)
    ax.plot([1, len(steps)], [mean, 0], ":", color=BLUE, lw=0.9)
    for seed, y in enumerate(apart([run[0] for run in runs], 0.075 * top)):
        ax.text(0.7, y, f"seed {seed}", color=BLUE, fontsize=8, ha="right", va="center")
    ax.text((first + middle) / 2, 1.1 * top, f"steps {first} to {middle}", ha="center", va="top")
    note = "dotted: even pace"
    ax.text(len(steps), 0.55 * top, note, color=MUTED, fontsize=9, ha="right")
    ax.set(xlim=(-0.13 * len(steps), 1.03 * len(steps)), ylim=(0, 1.13 * top))
    ax.set_xticks([1, *range(5, len(steps) + 1, 5)])

    def between(step: int) -> str:
        values = [run[step - 1] for run in runs]
        return f"{min(values):.0f} to {max(values):.0f}"

    return Described(
        figure,
        f"{len(runs)} curves over the step, all falling to 0 at step {len(steps)}. The decoded "
        f"estimate of z_0 is {between(1)} levels from the final image after step 1, "
        f"{between(first)} after step {first} and {between(middle)} after step {middle}. Steps "
        f"{first} to {middle} are shaded. A dotted line falls evenly from the mean of step 1.",
    )


def apart(heights: Sequence[float], least: float) -> list[float]:
    """Move the heights of labels until neighbours are at least `least` apart, in their order."""
    moved = list(heights)
    order = sorted(range(len(moved)), key=moved.__getitem__)
    for _ in range(100):
        for i, j in pairwise(order):
            overlap = least - (moved[j] - moved[i])
            if overlap > 0:
                moved[i], moved[j] = moved[i] - overlap / 2, moved[j] + overlap / 2
    return moved


@in_style
def point_sets(
    rows: Sequence[Sequence[Tensor]], shape: Tensor, columns: Sequence[str], names: Sequence[str],
    title: str, words: str, others: Sequence[tuple[str, Tensor, Tensor]] = (),
    estimates: Collection[int] = (),
) -> Described:  # fmt: skip
    """Draw sets of points in the plane as a grid of scatter plots, each with its shape.

    The plots of all columns but the last have the same limits, which hold every point. Those of
    the last column, and of the other sets below the grid, fit the shapes.

    Args:
        rows: The sets, each (n, 2).
        shape: The data, (m, 2), on a grid of points 1/16 apart. It is drawn pale below the sets,
            and its outline above them.
        columns: Headings.
        names: One for each row.
        title: Of the figure.
        words: What the figure shows.
        others: Headings, sets and shapes of a last row, as many as there are columns at most.
        estimates: The rows that are estimates, drawn in another colour.
    """
    every = 1.02 * max(points.abs().max().item() for row in rows for points in row)
    close = 1.12 * max(s.abs().max().item() for s in (shape, *(s for _, _, s in others)))
    size = 1.2 + 1.6 * len(columns), 0.6 + 1.6 * (len(rows) + bool(others))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots(len(rows) + bool(others), len(columns), squeeze=False)
    for j, row in enumerate(rows):
        colour = VERMILION if j in estimates else BLUE
        for i, points in enumerate(row):
            scatter(axes[j, i], points, shape, colour, every if i < len(row) - 1 else close, close)
            if j == 0:
                axes[j, i].set_title(columns[i], loc="center", fontsize=9)
        axes[j, 0].set_ylabel(names[j], fontsize=9, rotation=0, ha="right", va="center")
    if others:
        empty = len(columns) - len(others)
        for ax in axes[-1, :empty]:
            ax.set_axis_off()
        for ax, (name, points, own_shape) in zip(axes[-1, empty:], others, strict=True):
            scatter(ax, points, own_shape, BLUE, close, close)
            ax.set_title(name, loc="center", fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return Described(figure, words)


def scatter(
    ax: Axes, points: Tensor, shape: Tensor, colour: str, limit: float, close: float
) -> None:
    """Draw one set of points with its shape, in larger markers up to the limit `close`."""
    ax.contourf(*raster(shape), levels=[0.5, 2], colors=[SHAPE], antialiased=False)
    # A comma is a marker of one pixel.
    ax.plot(*points.detach().T, "," if limit > close else "s", color=colour, ms=1.5, mew=0,
            antialiased=False)  # fmt: skip
    ax.contour(*raster(shape), levels=[0.5], colors=INK, linewidths=0.5, antialiased=False)
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def raster(points: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points on a grid 1/16 apart, (n, 2) -> the grid's x, its y, and 1 where a point is."""
    cells = (points * 16).round().int()
    (left, low), (right, high) = cells.amin(0).tolist(), cells.amax(0).tolist()
    x, y = np.arange(left - 1, right + 2), np.arange(low - 1, high + 2)
    filled = np.zeros((len(y), len(x)))
    filled[cells[:, 1] - low + 1, cells[:, 0] - left + 1] = 1
    return x / 16, y / 16, filled
