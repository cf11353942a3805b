"""What an autoencoder does, in pictures: planes of latents, windows of convolutions, errors."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.pages import grid
from sdlearn.course.figures.plots import STYLES, WIDE, axes_for

Decode = Callable[[Tensor], Tensor]


def pixels(x: Tensor) -> list[Image.Image]:
    """Pictures (b, 3, h, w) in [-1, 1], values beyond cut off, as a list."""
    bytes_ = ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return [Image.fromarray(one.numpy()) for one in bytes_.permute(0, 2, 3, 1).cpu()]


# ---------------------------------------------------------------------------------- latent planes


def plane_points(across: int, reach: float) -> Tensor:
    """A square grid of points (across * across, 2) from -reach to reach, top row first."""
    ticks = torch.linspace(-reach, reach, across)
    y, x = torch.meshgrid(-ticks, ticks, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


@torch.no_grad()
def plane_image(decode: Decode, across: int, reach: float) -> Image.Image:
    """What a plane of latents decodes to: across * across small pictures in one."""
    tiles = pixels(decode(plane_points(across, reach)))
    w, h = tiles[0].size
    sheet = Image.new("RGB", (across * w, across * h))
    for k, one in enumerate(tiles):
        sheet.paste(one, (k % across * w, k // across * h))
    return sheet


def planes(
    decoders: Sequence[Decode],
    codes: Sequence[Tensor],
    names: Sequence[str],
    title: str,
    across: int = 11,
    reach: float = 2.5,
) -> Figure:
    """For each decoder the plane of its latents, every point shown as what it decodes to.

    codes: for each decoder the codes (n, 2) of the known pages, drawn as numbered circles.
    """
    figure = Figure(figsize=(WIDE, 0.6 + WIDE / len(names)), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    edge = reach * across / (across - 1)
    for ax, decode, places, name in zip(axes, decoders, codes, names, strict=True):
        sheet = plane_image(decode, across, reach)
        ax.imshow(sheet, extent=(-edge, edge, -edge, edge), interpolation="nearest")
        for k, (x, y) in enumerate(places.tolist()):
            if abs(x) <= edge and abs(y) <= edge:
                spot = {"boxstyle": "circle,pad=0.2", "fc": "white", "ec": "black"}
                ax.text(x, y, str(k), ha="center", va="center", fontsize=7, bbox=spot)
        ax.set(title=name, xlabel="$z_0$", xlim=(-edge, edge), ylim=(-edge, edge))
    axes[0].set_ylabel("$z_1$")
    figure.suptitle(title)
    return figure


def walk(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Points (steps, d) at equal distances on the straight line between two, both included."""
    share = torch.linspace(0, 1, steps)[:, None]
    return (1 - share) * start + share * end


def plane_view(
    decoders: Sequence[Decode],
    codes: Sequence[Tensor],
    names: Sequence[str],
    point: tuple[float, float],
    reach: float = 2.5,
    size: int = 160,
) -> Image.Image:
    """Two rows: a map of each plane's codes with a cross at the point; what decodes from there."""
    z = torch.tensor([point])
    with torch.no_grad():
        drawn = [pixels(decode(z))[0] for decode in decoders]
    enlarged = [one.resize((size, size), Image.Resampling.NEAREST) for one in drawn]
    maps = [plane_map(places, point, reach, size) for places in codes]
    title = f"The same point of both planes: z = ({point[0]:.2f}, {point[1]:.2f})"
    return grid([maps, enlarged], names, ["where it is", "its picture"], title, scale=1)


def plane_map(places: Tensor, point: tuple[float, float], reach: float, size: int) -> Image.Image:
    """Codes as dark squares on white, the point as a cross, the middle as two grey lines."""
    canvas = np.full((size, size, 3), 255, np.uint8)
    canvas[size // 2, :] = canvas[:, size // 2] = 200

    def at(x: float, y: float) -> tuple[int, int]:
        column, row = ((v / reach + 1) / 2 * (size - 1) for v in (x, -y))
        return round(min(max(row, 0), size - 1)), round(min(max(column, 0), size - 1))

    for x, y in places.tolist():
        if max(abs(x), abs(y)) <= reach:
            row, column = at(x, y)
            canvas[max(row - 3, 0) : row + 4, max(column - 3, 0) : column + 4] = (90, 90, 90)
    row, column = at(*point)
    canvas[max(row - 9, 0) : row + 10, max(column - 1, 0) : column + 2] = 0
    canvas[max(row - 1, 0) : row + 2, max(column - 9, 0) : column + 10] = 0
    return Image.fromarray(canvas)


# ------------------------------------------------------------------------------------------ curves


def bells(pairs: Sequence[tuple[float, float]], title: str) -> Figure:
    """Normal densities, each a (mean, standard deviation), beside N(0, 1)."""
    figure, ax = axes_for(title, "z", "density")
    z = np.linspace(-5, 5, 401)
    ax.fill_between(z, density(z, 0, 1), color="0.85", label="N(0, 1)")
    for (mean, std), style in zip(pairs, ("-", "--", ":", "-."), strict=False):
        name = f"mean {mean:g}, std {std:g}: KL {0.5 * (mean**2 + std**2 - 1) - np.log(std):.2f}"
        ax.plot(z, density(z, mean, std), "k" + style, label=name)
    ax.legend()
    return figure


def density(z: np.ndarray, mean: float, std: float) -> np.ndarray:
    return np.exp(-0.5 * ((z - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))


def guess_costs(values: Sequence[float], chances: Sequence[float]) -> Figure:
    """Expected squared and absolute error of every guess c, with their smallest values marked."""
    figure, ax = axes_for(
        "Which single guess costs least?", "the guess c", "expected error of the pixel"
    )
    c = np.linspace(-1.4, 1.4, 281)
    for name, power, style in (("squared", 2, "k-"), ("absolute", 1, "k--")):
        pairs = zip(values, chances, strict=True)
        cost = np.sum([p * np.abs(c - x) ** power for x, p in pairs], axis=0)
        best = int(cost.argmin())
        ax.plot(c, cost, style, label=f"{name}: least at {c[best]:.2f}")
        ax.plot(c[best], cost[best], "ko")
    for x, p in zip(values, chances, strict=True):
        ax.axvline(x, color="0.6", lw=1)
        ax.text(x, ax.get_ylim()[1] * 0.93, f" {p:.0%} of the pages", color="0.3")
    ax.legend(loc="upper center")
    return figure


# -------------------------------------------------------------------------------------- convolution


def windows(width: int, starts: dict[str, int]) -> Figure:
    """Which pixels the windows of a stride-2 convolution of width 3 cover.

    starts: for each name the column at which the first window begins, -1 with zeros on the left.
    """
    figure = Figure(figsize=(WIDE, 1.0 + 1.5 * len(starts)), dpi=100, layout="constrained")
    axes = figure.subplots(len(starts), 1, squeeze=False)[:, 0]
    for ax, (name, first) in zip(axes, starts.items(), strict=True):
        for column in range(-1, width + 1):
            is_pixel = 0 <= column < width
            ax.text(
                column, 0, str(column) if is_pixel else "0", ha="center", va="center", fontsize=9,
                bbox={"boxstyle": "square,pad=0.45", "fc": "0.85" if is_pixel else "white",
                      "ec": "black", "ls": "-" if is_pixel else ":"},
            )  # fmt: skip
        for k in range(width // 2):
            left, height = 2 * k + first, 0.75 + 0.45 * (k % 2)
            ax.plot([left - 0.35, left + 2.35], [height] * 2, "k-", lw=3)
            ax.plot(left + 1, height, "ko", ms=7)
            ax.text(left + 1, height + 0.13, f"output {k}", ha="center", fontsize=8)
        ax.set(xlim=(-1.8, width + 0.8), ylim=(-0.5, 1.6), yticks=[], title=name, xlabel="column")
    figure.suptitle("Where the windows of a stride-2 convolution lie (0: padding)")
    return figure


# ------------------------------------------------------------------------------------------- errors


def error_map(x: Tensor, y: Tensor, most: float = 0.5) -> list[Image.Image]:
    """Mean absolute error over the colours, (b, 3, h, w) each: black is none, white `most`."""
    error = (x - y.clamp(-1, 1)).abs().mean(1) / most
    return [Image.fromarray((e.clamp(0, 1) * 255).byte().numpy()) for e in error.detach()]


def progress(
    losses: dict[str, Sequence[float]], title: str, ylabel: str, window: int = 10
) -> Figure:
    """A number of every training step, as running means over `window` steps."""
    figure, ax = axes_for(title, "training step", ylabel)
    for (name, values), style in zip(losses.items(), STYLES, strict=False):
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        ax.plot(np.arange(window, len(values) + 1), smooth, style, ms=4, markevery=10, label=name)
    ax.set_ylim(bottom=0)
    ax.legend()
    return figure
