"""Figures of notebook 00: latents, the schedule, the estimates, and a first denoiser's points."""

from collections.abc import Collection, Sequence

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.plots import NARROW, WIDE, axes_for
from sdlearn.course.figures.style import BLUE, MUTED, VERMILION, Described, in_style
from sdlearn.schedule import NoiseSchedule, Point

LIMIT = 3.0  # the scale of a latent: -3 to 3
SHAPE = "#cfd6de"  # the shape that points should fill


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
def settling(guided: Sequence[Sequence[float]], unguided: Sequence[Sequence[float]]) -> Described:
    """Draw how far the estimate of z_0 is from the run's final one after each step.

    Args:
        guided: Distances of the decoded estimates of step 1, 2, …, at the usual scale, for each
            seed.
        unguided: The same for runs at scale 1.
    """
    figure, ax = axes_for(
        "Distance of each decoded estimate from its final image",
        "step",
        "mean difference, levels of 255",
        NARROW,
    )
    figure.set_figheight(2.9)
    steps = range(1, len(guided[0]) + 1)
    first, middle = min(6, len(steps)), 2 * len(steps) // 3
    ax.axvspan(first, middle, color=SHAPE, alpha=0.45, lw=0)
    for runs, colour, style in ((guided, BLUE, "-"), (unguided, VERMILION, "--")):
        for run in runs:
            ax.plot(steps, run, style, color=colour, lw=1.1)
    top = max(max(run) for run in guided)
    third = len(steps) // 3
    many, below = len(guided), min(min(run[:third]) for run in unguided) - 0.8
    ax.text(third + 2, max(run[third] for run in guided), f"scale 5, {many} seeds", color=BLUE)
    ax.text(1, below, f"scale 1, {len(unguided)} seeds", color=VERMILION, va="top")
    ax.text((first + middle) / 2, 1.1 * top, f"steps {first} to {middle}", ha="center", va="top")
    ax.set_ylim(0, 1.13 * top)

    def between(runs: Sequence[Sequence[float]], step: int) -> str:
        values = [run[step - 1] for run in runs]
        return f"{min(values):.0f} to {max(values):.0f}"

    return Described(
        figure,
        f"{len(guided)} curves at each of two scales, over the step, all falling to 0 at step "
        f"{len(steps)}. At scale 5 the decoded estimate of z_0 is {between(guided, 1)} levels from "
        f"the final image after step 1 and {between(guided, middle)} after step {middle}. At scale "
        f"1 it is {between(unguided, 1)} levels away after step 1 and "
        f"{between(unguided, middle)} after step {middle}. Steps {first} to {middle} are shaded.",
    )


@in_style
def point_sets(
    rows: Sequence[Sequence[Tensor]], shapes: Sequence[Tensor], columns: Sequence[str],
    names: Sequence[str], title: str, words: str, estimates: Collection[int] = (),
) -> Described:  # fmt: skip
    """Draw sets of points in the plane as a grid of scatter plots, each on its row's shape.

    All plots have the same limits, which hold every point.

    Args:
        rows: The sets, each (n, 2).
        shapes: The data of each row, (m, 2), drawn pale below its sets.
        columns: Headings.
        names: One for each row.
        title: Of the figure.
        words: What the figure shows.
        estimates: The rows that are estimates, drawn in another colour.
    """
    limit = 1.02 * max(points.abs().max().item() for row in rows for points in row)
    size = 1.0 + 1.45 * len(columns), 0.55 + 1.32 * len(rows)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for j, row in enumerate(rows):
        colour = VERMILION if j in estimates else BLUE
        for i, points in enumerate(row):
            ax = axes[j, i]
            ax.scatter(*shapes[j].T, s=6, marker="s", color=SHAPE, linewidths=0, antialiased=False)
            ax.scatter(
                *points.detach().T, s=0.6, marker="s", color=colour, linewidths=0,
                antialiased=False,
            )  # fmt: skip
            ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
            if j == 0:
                ax.set_title(columns[i], loc="center", fontsize=9)
        axes[j, 0].set_ylabel(names[j], fontsize=9, rotation=0, ha="right", va="center")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return Described(figure, words)
