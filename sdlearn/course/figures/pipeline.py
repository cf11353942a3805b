"""Figures of the pipeline: strength, interpolation of noise, attention maps and masks, images."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.attention import heatmap
from sdlearn.course.figures.images import OUTLINE, grid, label_font
from sdlearn.course.figures.plots import WIDE, axes_for
from sdlearn.course.figures.style import in_style
from sdlearn.schedule import Point

INTERPOLATIONS = ("on the sphere", "straight")
EXAMPLE = (-3, -2, -1)  # the axes of one latent


@in_style
def strengths_on_path(path: Sequence[Point], strengths: Sequence[float]) -> Figure:
    """Draw alpha and sigma along a path and the point at which each strength starts.

    Args:
        path: The points of a sampling path, noisiest first.
        strengths: Image-to-image strengths, 0 to 1.
    """
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


def interpolate(a: Tensor, b: Tensor, w: float, path: str) -> Tensor:
    """Interpolate between two latents, linearly or spherically (lerp or slerp).

    Args:
        a: The latent at w = 0, (c, h, w) or a batch of them.
        b: The latent at w = 1, in the shape of a.
        w: 0 to 1.
        path: "straight" for linear interpolation, "on the sphere" for spherical interpolation of
            every latent in the batch.

    Raises:
        ValueError: If path is another string.
    """
    if path not in INTERPOLATIONS:
        raise ValueError(f"path is {path!r}; accepted: {', '.join(INTERPOLATIONS)}")
    if path == "straight":
        return (1 - w) * a + w * b
    lengths = norm(a) * norm(b)
    cosine = ((a * b).sum(dim=EXAMPLE, keepdim=True) / lengths).clamp(-1, 1)
    angle = cosine.arccos()
    arc = (((1 - w) * angle).sin() * a + (w * angle).sin() * b) / angle.sin()
    # Two latents in the same direction have no arc between them, so they take the straight line.
    return torch.where(angle.sin() < 1e-4, (1 - w) * a + w * b, arc)


def norm(z: Tensor) -> Tensor:
    """Return the Euclidean norm of each latent, (..., c, h, w) -> (..., 1, 1, 1)."""
    return torch.linalg.vector_norm(z, dim=EXAMPLE, keepdim=True)


@in_style
def lerp_and_slerp(a: Tensor, b: Tensor, parts: int = 6) -> Figure:
    """Draw linear and spherical interpolation in the plane spanned by two noise tensors.

    Args:
        a: Noise of any shape; the first axis points to it.
        b: Noise in the shape of a.
        parts: Interpolation steps.
    """
    x = a.flatten() / a.norm()
    y = b.flatten() - (b.flatten() @ x) * x
    y = y / y.norm()
    figure = Figure(figsize=(WIDE * 0.62, 4.6), dpi=100, layout="constrained")
    ax = figure.subplots()
    styles = (("o-", "black"), ("s--", "0.45"))
    for path, (style, colour) in zip(INTERPOLATIONS, styles, strict=True):
        steps = [interpolate(a, b, k / parts, path).flatten() for k in range(parts + 1)]
        across, up = [float(z @ x) for z in steps], [float(z @ y) for z in steps]
        ax.plot(across, up, style, color=colour, ms=5, label=path)
    for end, name in ((a, "first noise"), (b, "second noise")):
        tip = float(end.flatten() @ x), float(end.flatten() @ y)
        ax.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "-|>", "color": "0.7"})
        below = -16 if end is a else 8
        ax.annotate(name, tip, (0, below), textcoords="offset points", ha="center")
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


def maps_and_masks(
    pages: Sequence[Image.Image],
    masks: Sequence[Tensor],
    maps: Mapping[str, Sequence[Tensor]],
    title: str,
    names: Sequence[str],
) -> Image.Image:
    """Draw a row for each image: the image, the true mask of an object, and attention maps.

    Each map has its own scale: white is its largest value.

    Args:
        pages: The images.
        masks: For each image the true mask, (h, w) in 0 ... 1.
        maps: By heading, one map (h, w) for each image.
        title: Of the figure.
        names: One for each row.
    """
    rows = [
        [page, heatmap(mask, most=1.0, size=page.width)]
        + [heatmap(column[k], size=page.width) for column in maps.values()]
        for k, (page, mask) in enumerate(zip(pages, masks, strict=True))
    ]
    return grid(rows, ["page", "true mask", *maps], names, title, scale=2)


def side_by_side(
    pictures: Sequence[Image.Image], names: Sequence[str], title: str, scale: int = 2
) -> Image.Image:
    """Draw images of any sizes in a row, with their names above them.

    Args:
        pictures: The images.
        names: One for each image.
        title: Written above the row.
        scale: Side of an enlarged pixel, in pixels.
    """
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
