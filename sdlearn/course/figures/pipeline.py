"""Where image-to-image enters, ways between noises, maps beside true masks, pages of any size."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.looks import tile
from sdlearn.course.figures.pages import OUTLINE, grid, label_font
from sdlearn.course.figures.plots import WIDE, axes_for
from sdlearn.schedule import Point

WAYS = ("on the sphere", "straight")
EXAMPLE = (-3, -2, -1)  # the axes of one latent


def doors(path: Sequence[Point], strengths: Sequence[float]) -> Figure:
    """alpha and sigma along a path, step by step, and where each strength enters it."""
    total = len(path) - 1
    figure, ax = axes_for(
        f"Where on a path of {total} steps each strength enters",
        "point of the path (0 is the noisiest)",
        "factor",
    )
    at = range(total + 1)
    ax.plot(at, [float(point.alpha) for point in path], "ko-", ms=3, label="alpha: of the page")
    sigma = [float(point.sigma) for point in path]
    ax.plot(at, sigma, "s--", color="0.45", ms=3, label="sigma: of the noise")
    for strength in strengths:
        k = total - int(total * strength)
        ax.axvline(k, ymax=0.87, color="0.6", lw=1, ls=":")
        ax.text(k, 1.06, f"{strength:g}", ha="center", va="bottom", fontsize=9)
    ax.text(-0.06, 1.06, "strength", transform=ax.get_yaxis_transform(), ha="right", fontsize=9)
    ax.set_ylim(0, 1.18)
    ax.legend(loc="center left")
    return figure


def between(a: Tensor, b: Tensor, w: float, way: str) -> Tensor:
    """The latent w of the way from a to b, each (c, h, w) or a batch of them: a at 0, b at 1.

    way: "straight", or "on the sphere", where every example keeps to the arc between the two
    directions. Raises ValueError for another way.
    """
    if way not in WAYS:
        raise ValueError(f"way is {way!r}; it is one of {', '.join(WAYS)}")
    if way == "straight":
        return (1 - w) * a + w * b
    lengths = length(a) * length(b)
    cosine = ((a * b).sum(dim=EXAMPLE, keepdim=True) / lengths).clamp(-1, 1)
    angle = cosine.arccos()
    arc = (((1 - w) * angle).sin() * a + (w * angle).sin() * b) / angle.sin()
    # Two latents of one direction have no arc between them; their straight line is one.
    return torch.where(angle.sin() < 1e-4, (1 - w) * a + w * b, arc)


def length(z: Tensor) -> Tensor:
    return torch.linalg.vector_norm(z, dim=EXAMPLE, keepdim=True)


def chord_and_arc(a: Tensor, b: Tensor, parts: int = 6) -> Figure:
    """The plane through the origin and two noises, with both ways between them.

    a, b: noises of one shape. The first axis points to a.
    """
    x = a.flatten() / a.norm()
    y = b.flatten() - (b.flatten() @ x) * x
    y = y / y.norm()
    figure = Figure(figsize=(WIDE * 0.62, 4.6), dpi=100, layout="constrained")
    ax = figure.subplots()
    for way, style in zip(WAYS, ("o-", "s--"), strict=True):
        steps = [between(a, b, k / parts, way).flatten() for k in range(parts + 1)]
        across, up = [float(z @ x) for z in steps], [float(z @ y) for z in steps]
        ax.plot(across, up, style, color="black" if way == WAYS[0] else "0.45", ms=5, label=way)
    for end, name in ((a, "first noise"), (b, "second noise")):
        place = float(end.flatten() @ x), float(end.flatten() @ y)
        ax.annotate("", place, (0, 0), arrowprops={"arrowstyle": "-|>", "color": "0.7"})
        below = -16 if end is a else 8
        ax.annotate(name, place, (0, below), textcoords="offset points", ha="center")
    ax.plot(0, 0, "k+", ms=10)
    most = 1.25 * float(max(a.norm(), b.norm()))
    ax.set(
        title=f"Two ways between two noises of {a.numel()} numbers",
        xlabel="along the first noise",
        ylabel="at a right angle to it",
        xlim=(-0.25 * most, most),
        ylim=(-0.1 * most, most),
        aspect="equal",
    )
    ax.grid(alpha=0.3)
    ax.legend(loc="upper right")
    return figure


def beside_truth(
    pages: Sequence[Image.Image],
    masks: Sequence[Tensor],
    maps: Mapping[str, Sequence[Tensor]],
    title: str,
    names: Sequence[str],
) -> Image.Image:
    """A row for each page: the page, the true mask of a thing (h, w), and maps (h, w) of the page.

    maps: by heading, one for each page. Each map has its own scale, white is its largest.
    """
    rows = [
        [page, tile(mask, most=1.0, size=page.width)]
        + [tile(column[k], size=page.width) for column in maps.values()]
        for k, (page, mask) in enumerate(zip(pages, masks, strict=True))
    ]
    return grid(rows, ["page", "true mask", *maps], names, title, scale=2)


def side_by_side(
    pictures: Sequence[Image.Image], names: Sequence[str], title: str, scale: int = 2
) -> Image.Image:
    """Pictures of any sizes in a row, every pixel a square of `scale` pixels, with their names."""
    font, gap, line = label_font(13), 8, 20
    wide = [
        max(scale * picture.width, round(font.getlength(name)))
        for picture, name in zip(pictures, names, strict=True)
    ]
    tall = max(scale * picture.height for picture in pictures)
    size = max(sum(wide) + gap * (len(wide) + 1), round(font.getlength(title)) + 2 * gap)
    page = Image.new("RGB", (size, tall + 2 * line + 2 * gap), "white")
    pen = ImageDraw.Draw(page)
    pen.text((gap, gap), title, "black", font)
    x = gap
    for picture, name, width in zip(pictures, names, wide, strict=True):
        side = scale * picture.width, scale * picture.height
        pen.text((x, gap + line), name, "black", font)
        top = gap + 2 * line
        pen.rectangle((x - 1, top - 1, x + side[0], top + side[1]), outline=OUTLINE)
        page.paste(picture.convert("RGB").resize(side, Image.Resampling.NEAREST), (x, top))
        x += width + gap
    return page
