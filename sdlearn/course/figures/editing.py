"""Figures of the notebook on editing: strength, inversion, maps beside masks, causes of errors."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.attention import heatmap
from sdlearn.course.figures.images import grid
from sdlearn.course.figures.plots import axes_for
from sdlearn.course.figures.style import BLUE, GREEN, GREY, MUTED, VERMILION, Described, in_style

NARROW = 6.4
PHONE = 36  # letters of a 36th of the images' width can be read on a phone


def image_rows(
    rows: Mapping[str, Sequence[Image.Image]],
    columns: Sequence[str],
    title: str,
    words: str,
    scale: int = 2,
    colours: int | None = None,
) -> Described:
    """Draw images in named rows and columns.

    Args:
        rows: By name, the images of a row. An empty name draws none.
        columns: A heading for each column.
        title: Of the figure.
        words: What the images show.
        scale: Side of an enlarged pixel.
        colours: Size of the figure's own palette, at most 256, where small differences of colour
            matter. A stored notebook keeps it; any other figure gets 128 colours there.
    """
    names = [*rows] if any(rows) else []
    width = next(iter(rows.values()))[0].width
    letters = max(13, len(columns) * scale * width // PHONE)
    figure = grid([*rows.values()], columns, names, title, scale, letters)
    if colours is not None:
        figure = figure.quantize(colours, Image.Quantize.MEDIANCUT, 4, dither=Image.Dither.NONE)
    said = f" and rows {'; '.join(names)}" if names else ""
    return Described(figure, f"Images in columns {'; '.join(columns)}{said}. {words}")


def written(ax: Axes, name: str, at: tuple[float, float], colour: str, shift: int = 0) -> None:
    """Write a line's name to the right of its end."""
    ax.annotate(
        name, at, (6, shift), textcoords="offset points", color=colour, va="center", fontsize=9,
        annotation_clip=False,
    )  # fmt: skip


@in_style
def given_and_asked(strengths: Sequence[float], shares: Mapping[str, Sequence[float]]) -> Described:
    """Draw what a judge finds of the given image and of the prompt, against the strength.

    Args:
        strengths: Image-to-image strengths.
        shares: By name, the fraction found at each strength, 0 to 1. Names begin with "image" or
            "prompt", which sets the colour.
    """
    figure, ax = axes_for(
        "The image gives way to the prompt", "strength", "found by the judge, %", NARROW
    )
    for name, values in shares.items():
        colour = BLUE if name.startswith("image") else VERMILION
        dashes = "o-" if "objects" in name else "s--"
        ax.plot(strengths, [100 * v for v in values], dashes, color=colour, clip_on=False)
    ends = sorted(shares.items(), key=lambda item: item[1][-1])
    below = -100.0
    for name, values in ends:
        y = max(100 * values[-1], below + 8)
        below = y
        colour = BLUE if name.startswith("image") else VERMILION
        written(ax, name, (strengths[-1], y), colour)
    ax.set(ylim=(0, 105), xlim=(strengths[0] - 0.02, strengths[-1] + 0.02))
    ax.set_xticks(strengths)
    said = "; ".join(f"{n}: {', '.join(f'{v:.0%}' for v in row)}" for n, row in shares.items())
    levels = ", ".join(f"{s:g}" for s in strengths)
    return Described(
        figure, f"Four lines against the strength, at {levels}. The image's fall, the prompt's "
        f"rise. {said}.",
    )  # fmt: skip


@in_style
def signal_left(strengths: Sequence[float], ratios: Mapping[str, Sequence[float]]) -> Described:
    """Draw the signal-to-noise ratio of a latent's coarse layout against the strength.

    Args:
        strengths: Image-to-image strengths.
        ratios: By the size of the latent, the ratio of variances at each strength.
    """
    figure, ax = axes_for(
        "Averages over an eighth of each side",
        "strength",
        "signal-to-noise ratio of the average",
        NARROW,
    )
    ax.set_yscale("log")
    ax.axhline(1, color=MUTED, lw=1, ls=":")
    ax.text(strengths[0], 0.8, "signal = noise", color=MUTED, va="top", fontsize=9)
    for (name, values), colour in zip(ratios.items(), (VERMILION, BLUE), strict=True):
        ax.plot(strengths, values, "o-", color=colour)
        written(ax, f"latent {name}", (strengths[-1], values[-1]), colour)
    ax.set_xticks(strengths)
    said = "; ".join(f"{n}: {', '.join(f'{v:.3g}' for v in row)}" for n, row in ratios.items())
    levels = ", ".join(f"{s:g}" for s in strengths)
    return Described(
        figure,
        "Two falling lines on a logarithmic scale, the signal-to-noise ratio of a local average "
        f"against the strength, at {levels}. {said}.",
    )


def layouts(maps: Mapping[str, Sequence[Tensor]], columns: Sequence[str], title: str) -> Described:
    """Draw maps in rows, all on one scale, from the least to the largest value of the first column.

    Args:
        maps: By the name of a row, maps (h, w).
        columns: A heading for each map of a row. The first column is compared with the others.
        title: Of the figure.
    """
    firsts = torch.stack([row[0] for row in maps.values()])
    low, high = firsts.min(), firsts.max()
    rows = [[heatmap((m - low) / (high - low), most=1.0) for m in row] for row in maps.values()]
    said = []
    for name, row in maps.items():
        both = (torch.corrcoef(torch.stack([row[0], m]).flatten(1))[0, 1] for m in row[1:])
        said.append(f"{name}: {', '.join(f'{r:.2f}' for r in both)}")
    return Described(
        grid(rows, columns, [*maps], title, scale=2),
        f"Grey maps in columns {'; '.join(columns)} and rows {'; '.join(maps)}. Correlation of "
        f"each with the first of its row: {'; '.join(said)}.",
    )


@in_style
def map_quality(
    times: Sequence[int], lines: Mapping[str, Sequence[float]], levels: Mapping[str, float]
) -> Described:
    """Draw the AUC of attention maps against the time t.

    Args:
        times: The times.
        lines: By name, the mean AUC at each time.
        levels: By name, a value that doesn't depend on the time.
    """
    figure, ax = axes_for(
        "Do the maps know where the object is?", "time t of the noise", "AUC", NARROW
    )
    colours = dict(zip(lines, (BLUE, VERMILION, GREEN), strict=False))
    below = 0.0
    for name, values in sorted(lines.items(), key=lambda item: item[1][-1]):
        ax.plot(times, values, "o-", color=colours[name], clip_on=False)
        below = max(values[-1], below + 0.075)
        written(ax, name.replace(": ", ":\n"), (times[-1], below), colours[name])
    for name, value in levels.items():
        ax.axhline(value, color=GREY, ls="--", lw=1.2)
        ax.text(0.68 * times[-1], value + 0.012, name, color=MUTED, fontsize=9)
    ax.set(ylim=(0.4, 1.02), xlim=(times[0] - 45, times[-1] + 5))
    said = "; ".join(
        f"{name}: {', '.join(f'{v:.2f}' for v in values)}" for name, values in lines.items()
    )
    flat = "; ".join(f"{name}: {value:.2f}" for name, value in levels.items())
    return Described(
        figure,
        f"The AUC of the maps against the time, at t = {', '.join(map(str, times))}. {said}. "
        f"Dashed lines: {flat}.",
    )


def maps_beside_masks(
    images: Sequence[Image.Image],
    masks: Sequence[Tensor],
    maps: Mapping[str, Sequence[Tensor]],
    names: Sequence[str],
    title: str,
) -> Described:
    """Draw a row for each image: the image, the true mask of an object, and attention maps.

    Each map has its own scale, in which white is its largest weight.

    Args:
        images: The images.
        masks: For each image the true mask, (h, w) in 0 ... 1.
        maps: By heading, one map (h, w) for each image.
        names: One for each row.
        title: Of the figure.
    """
    rows = [
        [image, heatmap(mask, most=1.0, size=image.width)]
        + [heatmap(column[k], size=image.width) for column in maps.values()]
        for k, (image, mask) in enumerate(zip(images, masks, strict=True))
    ]
    figure = grid(rows, ["image", "true mask", *maps], names, title, scale=2)
    said = []
    for k, name in enumerate(names):
        inside = masks[k] >= 0.5
        hits = [column for column, row in maps.items() if bool(inside.flatten()[row[k].argmax()])]
        said.append(f"{name}: {', '.join(hits) or 'none'}")
    return Described(
        figure,
        f"A grid with a row for each of {', '.join(names)} and the columns image, true mask, "
        f"{', '.join(maps)}. Maps whose brightest position is inside the mask: {'; '.join(said)}.",
    )


@in_style
def right_after(
    counts: Mapping[str, int], total: int, title: str, things: str = "images"
) -> Described:
    """Draw a horizontal bar for each intervention: how much is right after it.

    Args:
        counts: By intervention, the number that is right; the first is without any.
        total: Number of images or objects.
        title: Of the figure.
        things: What is counted.
    """
    figure = Figure(figsize=(NARROW + 1, 0.9 + 0.42 * len(counts)), dpi=100, layout="constrained")
    ax = figure.subplots()
    names = [*counts]
    first = counts[names[0]]
    for y, count in enumerate(counts.values()):
        ax.barh(y, count, height=0.62, color=BLUE)
        ax.text(count + 0.01 * total, y, f"{count}", va="center", fontsize=9)
    ax.axvline(first, color=MUTED, lw=1, ls=":")
    ax.text(first, len(names) - 0.5, f" {names[0]}: {first}", va="top", color=MUTED,
            fontsize=9)  # fmt: skip
    ax.set_ylim(-0.5, len(names))
    ax.set(title=title, xlabel=f"{things} right, of {total}", xlim=(0, total))
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.grid(visible=False, axis="y")
    said = "; ".join(f"{name}: {count}" for name, count in counts.items())
    return Described(figure, f"Bars: the number of right {things} out of {total}. {said}.")
