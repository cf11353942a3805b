"""What an autoencoder does, in pictures: planes of latents, windows of convolutions, errors."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.pages import grid, label_font
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


def to_nearest(pictures: Tensor, pages: Tensor) -> tuple[Tensor, Tensor]:
    """How far each picture is from the page most like it, in levels of 0..255, and which that is.

    pictures (n, 3, h, w), cut to [-1, 1]; pages (m, 3, h, w). Both results are (n,).
    """
    shown = pictures.clamp(-1, 1)
    apart = torch.stack([(shown - page).abs().mean((1, 2, 3)) for page in pages])
    least, which = apart.min(0)
    return 127.5 * least, which


LANDS = {10.0: ("1.0", "like a page: within 10 levels"), 20.0: ("0.8", "within 20"),
         256.0: ("0.5", "like no page")}  # fmt: skip


@torch.no_grad()
def lands(decode: Decode, pages: Tensor, across: int, reach: float) -> np.ndarray:
    """A map (across, across) of a plane: light where it decodes to something like a page, darker
    where it does not, and black where one page's land ends and another's begins."""
    least, which = to_nearest(decode(plane_points(across, reach)), pages)
    shade = np.full(across * across, 0.0)
    for limit, (grey, _) in reversed(LANDS.items()):
        shade[least.numpy() < limit] = float(grey)
    own = which.numpy().reshape(across, across)
    border = np.zeros((across, across), bool)
    border[:, 1:] |= own[:, 1:] != own[:, :-1]
    border[1:] |= own[1:] != own[:-1]
    return np.where(border, 0.0, shade.reshape(across, across))


def planes(
    decoders: Sequence[Decode],
    codes: Sequence[Tensor],
    names: Sequence[str],
    pages: Tensor,
    title: str,
    across: int = 7,
    reach: float = 2.5,
) -> Figure:
    """For each decoder the plane of its latents: what points decode to, and below where that is
    like a page.

    codes: for each decoder the codes (n, 2) of the pages (n, 3, h, w), drawn as numbers.
    """
    size = WIDE, 1.1 + 2 * WIDE / len(names)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False, sharex=True, sharey=True)
    edge = reach * across / (across - 1)
    box = {"extent": (-edge, edge, -edge, edge), "interpolation": "nearest"}
    for (above, below), decode, places, name in zip(axes.T, decoders, codes, names, strict=True):
        above.imshow(plane_image(decode, across, reach), **box)
        below.imshow(lands(decode, pages, 20 * across, edge), cmap="gray", vmin=0, vmax=1, **box)
        for numbers, (x, y) in gathered(places, 0.3):
            if abs(x) <= edge and abs(y) <= edge:
                spot = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "black"}
                below.text(x, y, numbers, ha="center", va="center", fontsize=8, bbox=spot)
        above.set(title=name)
        below.set(xlabel="$z_0$", xlim=(-edge, edge), ylim=(-edge, edge))
    for ax in axes[:, 0]:
        ax.set_ylabel("$z_1$")
    keys = [Patch(fc=grey, ec="black", label=words) for grey, words in LANDS.values()]
    figure.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle(title)
    return figure


def gathered(places: Tensor, near: float) -> list[tuple[str, tuple[float, float]]]:
    """Codes (n, 2) with their numbers; those within `near` of the first of them together."""
    groups: list[list[int]] = []
    for k, place in enumerate(places):
        for group in groups:
            if (places[group[0]] - place).norm() < near:
                group.append(k)
                break
        else:
            groups.append([k])
    centres = (places[group].mean(0).tolist() for group in groups)
    return [(" ".join(map(str, g)), (x, y)) for g, (x, y) in zip(groups, centres, strict=True)]


def walk(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Points (steps, d) at equal distances on the straight line between two, both included."""
    share = torch.linspace(0, 1, steps)[:, None]
    return (1 - share) * start + share * end


def plane_view(
    decoders: Sequence[Decode],
    codes: Sequence[Tensor],
    names: Sequence[str],
    points: Sequence[tuple[float, float]],
    title: str,
    reach: float = 2.5,
    size: int = 180,
) -> Image.Image:
    """Two rows: a map of each plane's codes with its point; what decodes from there."""
    with torch.no_grad():
        drawn = [
            pixels(decode(torch.tensor([point])))[0]
            for decode, point in zip(decoders, points, strict=True)
        ]
    enlarged = [one.resize((size, size), Image.Resampling.NEAREST) for one in drawn]
    maps = [
        plane_map(places, point, reach, size) for places, point in zip(codes, points, strict=True)
    ]
    return grid([maps, enlarged], names, ["where it is", "its picture"], title, scale=1)


def plane_map(places: Tensor, point: tuple[float, float], reach: float, size: int) -> Image.Image:
    """Codes as their numbers on white, the point as a cross that leaves its middle free, the
    middle of the plane as two grey lines. A point beyond the reach is drawn at the edge."""
    canvas = Image.new("RGB", (size, size), "white")
    pen, last = ImageDraw.Draw(canvas), size - 1
    pen.line((last / 2, 0, last / 2, last), fill=(215, 215, 215))
    pen.line((0, last / 2, last, last / 2), fill=(215, 215, 215))

    def at(x: float, y: float) -> tuple[float, float]:
        across, down = ((v / reach + 1) / 2 * last for v in (x, -y))
        return min(max(across, 0), last), min(max(down, 0), last)

    for k, (x, y) in enumerate(places.tolist()):
        if max(abs(x), abs(y)) <= reach:
            pen.text(at(x, y), str(k), (90, 90, 90), label_font(13), anchor="mm")
    x, y = at(*point)
    for near, far in ((-15, -8), (8, 15)):
        pen.line((x + near, y, x + far, y), fill="black", width=3)
        pen.line((x, y + near, x, y + far), fill="black", width=3)
    return canvas


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

    starts: for each name the column at which the first window begins: 0 with padding on the right
    only, -1 with padding on both sides.
    """
    figure = Figure(figsize=(WIDE, 1.0 + 1.5 * len(starts)), dpi=100, layout="constrained")
    axes = figure.subplots(len(starts), 1, squeeze=False)[:, 0]
    for ax, (name, first) in zip(axes, starts.items(), strict=True):
        for column in range(first, width + 1):
            is_pixel = 0 <= column < width
            ax.text(
                column, 0, str(column) if is_pixel else "pad", ha="center", va="center", fontsize=9,
                bbox={"boxstyle": "square,pad=0.45", "fc": "0.85" if is_pixel else "white",
                      "ec": "black", "ls": "-" if is_pixel else ":"},
            )  # fmt: skip
        for k in range(width // 2):
            left, height = 2 * k + first, 0.75 + 0.45 * (k % 2)
            ax.plot([left - 0.35, left + 2.35], [height] * 2, "k-", lw=3)
            ax.plot(left + 1, height, "ko", ms=7)
            ax.text(left + 1, height + 0.13, f"output {k}", ha="center", fontsize=8)
        ax.set(xlim=(-1.8, width + 0.8), ylim=(-0.5, 1.6), yticks=[], title=name, xlabel="column")
    figure.suptitle("Where the windows of a stride-2 convolution lie (pad: a zero)")
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
