"""Figures of notebook 11: the pipeline as functions, rows of images of any size, memory."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageOps

from sdlearn.course.figures import diagrams
from sdlearn.course.figures.diagrams import CONV, MLP, TEXT, arrow, box, label
from sdlearn.course.figures.images import OUTLINE, grid, label_font
from sdlearn.course.figures.plots import NARROW
from sdlearn.course.figures.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    PALE,
    PURPLE,
    VERMILION,
    Described,
    in_style,
)

YOURS, NETWORK, GIVEN = MLP, CONV, PALE

# Each box: its name, its centre, its colour and its size.
BOXES = (
    ("texts_for\n11.1", 1.95, 10.7, YOURS, 2.7, 1.1),
    ("image_noise\n11.2", 6.2, 10.7, YOURS, 2.7, 1.1),
    ("path\nnotebook 07", 9.6, 10.7, GIVEN, 2.2, 1.1),
    ("text encoder", 1.95, 8.25, NETWORK, 2.7, 1.1),
    ("", 1.95, 5.4, GIVEN, 3.0, 2.1),
    ("U-Net", 1.95, 4.85, NETWORK, 1.8, 0.8),
    ("sampler\nnotebook 09", 8.2, 5.4, GIVEN, 5.0, 2.1),
    ("decoder", 7.6, 2.1, NETWORK, 2.7, 1.1),
    ("to_pil", 3.5, 2.1, GIVEN, 1.6, 1.1),
)


@in_style
def functions() -> Described:
    """Draw the functions of the pipeline, what they exchange, and the shapes."""
    figure, ax = diagrams.canvas(11.4, 12.5, "Text to image as a program", inches=NARROW)
    ax.add_patch(
        Rectangle((0.15, 3.45), 11.0, 5.8, fill=False, edgecolor=GREEN, lw=1.6, ls=(0, (5, 3)))
    )
    for name, x, y, colour, w, h in BOXES:
        box(ax, x, y, name, colour, w, h)
    label(ax, 1.95, 5.9, "guided_denoiser\nnotebook 10")
    ax.text(8.2, 3.85, "sample_latents, 11.3", ha="center", va="center", fontsize=8.5,
            fontweight="bold")  # fmt: skip
    for x, given in (
        (1.95, "prompts,\nnegative, n"),
        (6.2, "seed,\nheight, width"),
        (9.6, "steps,\nsampler"),
    ):
        label(ax, x, 12.05, given)
        arrow(ax, [(x, 11.65), (x, 11.25)])
    arrow(ax, [(1.95, 10.15), (1.95, 8.8)])
    label(ax, 2.15, 9.7, "2b texts", side="left")
    arrow(ax, [(1.95, 7.7), (1.95, 6.45)], TEXT)
    label(ax, 2.15, 7.1, "embeddings\n(2b, 77, d)", TEXT, side="left")
    arrow(ax, [(6.2, 10.15), (6.2, 6.45)])
    label(ax, 6.4, 7.9, "noise (b, 4, h, w),\none draw\nat a time", side="left")
    arrow(ax, [(9.6, 10.15), (9.6, 6.45)])
    label(ax, 9.8, 7.9, "points", side="left")
    arrow(ax, [(5.7, 5.85), (3.45, 5.85)])
    label(ax, 4.6, 6.2, "z, point")
    arrow(ax, [(3.45, 4.95), (5.7, 4.95)])
    label(ax, 4.6, 4.55, "$z_0$")
    arrow(ax, [(7.6, 3.45), (7.6, 2.65)])
    label(ax, 7.8, 3.05, "last z (b, 4, h, w)", side="left")
    arrow(ax, [(6.25, 2.1), (4.3, 2.1)])
    label(ax, 5.25, 1.65, "(b, 3,\n8h, 8w)")
    arrow(ax, [(2.7, 2.1), (1.8, 2.1)])
    label(ax, 1.0, 2.1, "images")
    label(ax, 3.5, 8.25, "for long\nprompts: 11.4", side="left")
    label(ax, 9.15, 2.1, "in tiles: 11.5", side="left")
    for x, name, colour in (
        (0.5, "you write", YOURS),
        (3.4, "network", NETWORK),
        (6.0, "given", GIVEN),
    ):
        box(ax, x, 0.45, "", colour, 0.5, 0.4)
        label(ax, x + 0.45, 0.45, name, side="left")
    return Described(
        figure,
        "A diagram of functions. Prompts, the negative prompt and n go to texts_for (exercise "
        "11.1). Seed and size go to image_noise (exercise 11.2). Steps and sampler give the path. "
        "A dashed frame, sample_latents (exercise 11.3), connects three parts: the text encoder "
        "turns the 2b texts into embeddings (2b, 77, d) for guided_denoiser, which holds the "
        "U-Net; the sampler takes the points of the path and the noise, one draw (b, 4, h, w) at a "
        "time, and exchanges z and the point for an estimate z_0 with guided_denoiser. Its last z "
        "goes to the decoder, whose output (b, 3, 8h, 8w) to_pil turns into images. Exercise 11.4 "
        "encodes long prompts, exercise 11.5 decodes in tiles.",
    )


def listed(counts: Mapping[str, int | Sequence[int]]) -> str:
    """Write counts by name for an alternative text, such as "cut off: 0; in chunks: 4".

    Args:
        counts: By name, one number or several.
    """
    rows = {name: [count] if isinstance(count, int) else count for name, count in counts.items()}
    return "; ".join(f"{name}: {', '.join(map(str, row))}" for name, row in rows.items())


def rows_of_images(
    rows: Mapping[str, Sequence[Image.Image]],
    columns: Sequence[str],
    title: str,
    words: str,
    side: int = 128,
) -> Described:
    """Draw a row of images for each name. All become equally large, in 128 colours.

    Args:
        rows: By name, the images of a row.
        columns: A heading for each column.
        title: Of the figure.
        words: What the images show.
        side: Width of each image in the figure, in pixels.
    """
    drawn = [
        [image.resize((side, side), Image.Resampling.BICUBIC) for image in row]
        for row in rows.values()
    ]
    letters = max(13, len(columns) * side // 36)  # larger in a wide figure, which a phone shrinks
    figure = grid(drawn, columns, [*rows], title, scale=1, letters=letters)
    figure = figure.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)  # small files
    named = f" with the columns {'; '.join(columns)}" if columns else ""
    return Described(figure, f"Rows of images{named}. The rows: {'; '.join(rows)}. {words}")


def sheet(images: Mapping[str, Image.Image], title: str, words: str, scale: int = 2) -> Described:
    """Draw images of any sizes in a row, all pixels equally large, each with its name above it.

    Args:
        images: By name.
        title: Of the figure.
        words: What the images show.
        scale: Side of an enlarged pixel, in pixels.
    """
    letters = 16 if scale * sum(image.width for image in images.values()) > 560 else 13
    font, bold, gap, line = label_font(letters), label_font(letters, bold=True), 8, letters + 7
    widths = [
        max(scale * image.width, round(font.getlength(name)) + gap)  # names must not touch
        for name, image in images.items()
    ]
    tall = max(scale * image.height for image in images.values())
    wide = max(sum(widths) + gap * (len(widths) + 1), round(bold.getlength(title)) + 2 * gap)
    figure = Image.new("RGB", (wide, tall + 2 * line + 2 * gap), "white")
    pen = ImageDraw.Draw(figure)
    pen.text((gap, gap), title, INK, bold)
    x = gap
    for (name, image), width in zip(images.items(), widths, strict=True):
        large = ImageOps.scale(image.convert("RGB"), scale, Image.Resampling.NEAREST)
        top = gap + 2 * line
        pen.text((x, gap + line), name, INK, font)
        pen.rectangle((x - 1, top - 1, x + large.width, top + large.height), outline=OUTLINE)
        figure.paste(large, (x, top))
        x += width + gap
    return Described(figure, f"{len(images)} images side by side: {'; '.join(images)}. {words}")


@in_style
def peak_memory(
    sides: Sequence[int], lines: Mapping[str, Sequence[float]], weights: float
) -> Described:
    """Draw the peak memory of one image over its size, both axes logarithmic.

    Args:
        sides: Of the square images, in pixels.
        lines: By name, gigabytes for each side.
        weights: Gigabytes of the weights, drawn as a level.
    """
    figure = Figure(figsize=(1.25 * NARROW, 3.9), dpi=100, layout="constrained")
    ax = figure.subplots()
    looks = ((VERMILION, "s-"), (BLUE, "o-"), (PURPLE, "D-"), (GREEN, "^--"))
    for (name, values), (colour, style) in zip(lines.items(), looks, strict=False):
        ax.plot(sides, values, style, color=colour)
        ax.annotate(
            name, (sides[-1], values[-1]), (8, 0), textcoords="offset points", va="center",
            color=colour, fontweight="bold",
        )  # fmt: skip
    ax.axhline(weights, color=MUTED, ls=":")
    ax.text(sides[0], weights * 1.08, f"all weights, {weights:.1f} GB", color=MUTED, va="bottom")
    ax.set(
        title="Stable Diffusion 1.5, one image: peak memory of the activations",
        xlabel="height and width in pixels",
        ylabel="GB (float16)",
        xscale="log",
        yscale="log",
        xlim=(sides[0] * 0.9, sides[-1] * 2.2),
    )
    ax.set_xticks(sides, [str(side) for side in sides])
    low, high = ax.get_ylim()
    ticks = [tick for tick in (0.03, 0.1, 0.3, 1, 3, 10, 30) if low <= tick <= high]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    said = "; ".join(
        f"{name}: " + ", ".join(f"{v:.2f} at {s}" for s, v in zip(sides, values, strict=True))
        for name, values in lines.items()
    )
    return Described(
        figure,
        f"Gigabytes against the side of the image, both logarithmic. {said}. All weights: "
        f"{weights:.1f}.",
    )
