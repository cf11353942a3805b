"""The figures of the notebooks: functions from tensors and pictures to a picture, and `show`.

Grids of pictures are drawn with Pillow, every pixel a square (nearest neighbour); everything with
axes is a matplotlib Figure. Lines differ in dashes and markers, maps in lightness, so that all of
it can be read in black and white.
"""

import base64
import html
import io
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path

import matplotlib
from IPython.display import Image as Shown
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sdlearn.schedule import NoiseSchedule, Point

WIDE = 9.0  # inches; at 100 dots each a figure fits a notebook's column
STYLES = ("o-", "s--", "^:", "d-.")

# ------------------------------------------------------------------------------------ for any page


def show(figure: Image.Image | Figure, alt: str) -> None:
    """Display a figure, and under it what it shows in words, for those who cannot see it.

    The words are also the picture's alternative text. JupyterLab drops that, hence the fold.
    """
    display(Shown(data=png(figure), format="png", alt=alt))
    fold = f"<details><summary>The figure in words</summary>{html.escape(alt)}</details>"
    display({"text/html": fold, "text/plain": alt}, raw=True)


def png(figure: Image.Image | Figure) -> bytes:
    """A figure as a PNG file; the same figure gives the same bytes."""
    file = io.BytesIO()
    if isinstance(figure, Figure):
        figure.savefig(file, format="png", metadata={"Software": None})
    else:
        figure.save(file, "PNG", optimize=True)
    return file.getvalue()


def img(picture: Image.Image, alt: str, width: int) -> str:
    """A picture as an HTML element of this width in pixels, for use inside a widget."""
    data = base64.b64encode(png(picture)).decode()
    return (
        f'<img src="data:image/png;base64,{data}" alt="{html.escape(alt)}" width="{width}" '
        'style="image-rendering: pixelated">'
    )


# --------------------------------------------------------------------------------- rows of pictures


def grid(
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[str] = (),
    names: Sequence[str] = (),
    title: str = "",
    scale: int = 3,
) -> Image.Image:
    """Pictures of one size in rows, each pixel enlarged to a square of `scale` pixels.

    columns: a heading for each column, or none; names: one for each row, to its left, or none. The
    last row may be shorter. Raises ValueError where the numbers do not agree.
    """
    lengths = [len(row) for row in rows]
    across = len(columns) or max(lengths, default=0)
    full = bool(rows) and set(lengths[:-1]) <= {across} and 0 < lengths[-1] <= across
    if not full or (names and len(names) != len(rows)):
        raise ValueError(
            f"rows of {lengths} pictures, {len(columns)} headings and {len(names)} names: rows are "
            "of one length (the last may be shorter), with a heading for each column or none, and "
            "a name for each row or none"
        )
    font, gap, line = label_font(13), 6, 20
    w, h = (scale * side for side in rows[0][0].size)
    left = gap + max((round(font.getlength(name)) + 2 * gap for name in names), default=0)
    wide = max(left + across * (w + gap), 240)
    heading_lines = wrapped(title, font, wide - 2 * gap)
    top = gap + line * len(heading_lines) + line * bool(columns)
    page = Image.new("RGB", (wide, top + len(rows) * (h + gap)), "white")
    pen = ImageDraw.Draw(page)
    for i, text in enumerate(heading_lines):
        pen.text((gap, gap + i * line), text, "black", font)
    for i, heading in enumerate(columns):
        pen.text((left + i * (w + gap) + w / 2, top - line), heading, "black", font, anchor="ma")
    for j, row in enumerate(rows):
        y = top + j * (h + gap)
        if names:
            pen.text((gap, y + h / 2), names[j], "black", font, anchor="lm")
        for i, picture in enumerate(row):
            enlarged = picture.convert("RGB").resize((w, h), Image.Resampling.NEAREST)
            page.paste(enlarged, (left + i * (w + gap), y))
    return page


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """The text in lines of at most `width` pixels, broken between words."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@cache
def label_font(size: int) -> ImageFont.FreeTypeFont:
    """The font that matplotlib brings along: the same on every system."""
    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size
    )


# --------------------------------------------------------------------------------- maps and curves


def latent(z: Tensor, title: str, page: Image.Image | None = None, limit: float = 3.0) -> Figure:
    """The channels of one latent (c, h, w) or (1, c, h, w) side by side, after its page if given.

    Light is positive, dark negative; the scale ends at -limit and limit, the same for every latent.
    """
    channels = z.detach().float().cpu().reshape(-1, *z.shape[-2:]).numpy()
    figure = Figure(figsize=(WIDE, 2.6 if page else 2.9), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(channels) + bool(page), squeeze=False)[0]
    if page:
        axes[0].imshow(page)
        axes[0].set(title="the page", xlabel="column", ylabel="row")
        axes = axes[1:]
    for k, (ax, channel) in enumerate(zip(axes, channels, strict=True)):
        drawn = ax.imshow(channel, cmap="cividis", vmin=-limit, vmax=limit)
        ax.set(title=f"channel {k}", xlabel="column")
        if k > 0:
            ax.tick_params(labelleft=False)
    axes[0].set_ylabel("row")
    figure.colorbar(drawn, ax=list(axes), label="value", shrink=0.75, extend="both")
    figure.suptitle(title)
    return figure


def schedule_path(schedule: NoiseSchedule, path: Sequence[Point]) -> Figure:
    """alpha and sigma over all t, and the points of a path on them."""
    times = range(schedule.num_steps)
    alpha, sigma = schedule.at(schedule.alphas_cumprod.new_tensor(times))
    stops = [point.t for point in path]
    figure, ax = axes_for(
        f"The schedule, and the {len(path)} points of the path", "time t", "factor"
    )
    ax.plot(times, alpha, "k-", label=r"alpha: how much of the picture is in $z_t$")
    ax.plot(times, sigma, "--", color="0.45", label=r"sigma: how much noise is in $z_t$")
    ax.plot(stops, [point.alpha for point in path], "ko", ms=4)
    ax.plot(stops, [point.sigma for point in path], "s", color="0.45", ms=4)
    ax.annotate("", (300, 0.06), (700, 0.06), arrowprops=ARROW)
    ax.text(500, 0.1, "the walk goes this way", ha="center")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Up to four named lines, each (xs, ys), told apart by dashes and markers."""
    figure, ax = axes_for(title, xlabel, ylabel)
    for (name, (xs, ys)), style in zip(lines.items(), STYLES[: len(lines)], strict=True):
        ax.plot(xs, ys, style, ms=4, label=name)
    ax.set_ylim(bottom=0)
    ax.legend()
    return figure


def axes_for(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDE, 3.4), dpi=100, layout="constrained")
    ax = figure.subplots()
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.3)
    return figure, ax


# ----------------------------------------------------------------------------------- the course map

ARROW = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0}


# Notebook: its name on the map, and the left and lower edge of its chip.
PLACES = {
    "03": ("text encoder", 32.5, 47),
    "04": ("time embedding", 23, 32), "05": ("attention", 23, 27), "06": ("U-Net", 23, 22),
    "10": ("guidance", 42, 32), "09": ("sampling", 42, 27), "07": ("noise schedule", 42, 22),
    "01": ("why latents", 69, 29.5), "02": ("autoencoder", 69, 24.5),
    "08": ("training loop", 10, 5), "11": ("text to image", 30, 5),
    "12": ("inpainting", 50, 5), "13": ("ControlNet", 70, 5),
    "14": ("the real SD", 10, 0), "15": ("evaluation", 30, 0),
    "16": ("scaling up", 50, 0), "17": ("making it yours", 70, 0),
}  # fmt: skip
FRAMES = {
    "words become vectors": (30.5, 45.5, 20.5, 9),
    "the loop, once for each step": (21, 20.5, 40, 18.5),
    "the latent becomes pixels": (67, 23, 20.5, 13.5),
    "around it": (8, -1.5, 80.5, 13.5),
}
MAP_IN_WORDS = (
    "A flow chart. A prompt goes into the text encoder (notebook 03), whose text states go down "
    "into the loop. Noise from a seed enters the loop from the left as z_T. The loop holds time "
    "embedding (04), attention (05), U-Net (06), noise schedule (07), sampling (09) and guidance "
    "(10); an arrow leads from its end back to its start, one step cleaner each time. Its result "
    "z_0 goes into the autoencoder (01, 02), which gives the picture. Below, around it: training "
    "loop (08), text to image (11), inpainting (12), ControlNet (13), the real SD (14), evaluation "
    "(15), scaling up (16), making it yours (17)."
)


def course_map(ready: Collection[str] = ()) -> Figure:
    """How a prompt becomes a picture, with the notebook that builds each part.

    ready: the numbers of the notebooks that exist, such as "03"; the others are drawn as planned.
    """
    figure = Figure(figsize=(WIDE, 5.8), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 98), ylim=(-3, 61))
    ax.axis("off")
    ax.text(49, 58, "The course: how a prompt becomes a picture", ha="center", fontsize=13)
    for name, (x, y, w, h) in FRAMES.items():
        ax.add_patch(FancyBboxPatch((x, y), w, h, "round,pad=0.3", fc="0.94", ec="0.55"))
        ax.text(x + w / 2, y + h - 0.7, name, ha="center", va="top", fontsize=9, style="italic")
    for number, (name, x, y) in PLACES.items():
        chip(ax, x, y, number, name, exists=number in ready)
    chip(ax, 72, 52, "00", "ready", exists=True)
    chip(ax, 72, 47, "··", "planned", exists=False)
    for name, x, y in (("prompt", 20, 50), ("noise\nfrom a seed", 8, 29), ("picture", 93.5, 29)):
        ax.text(x, y, name, ha="center", va="center", fontsize=11, weight="bold")
    for start, end in (
        ((24.5, 50), (29.8, 50)),
        ((40.75, 45), (40.75, 39.6)),
        ((14.5, 29), (20.4, 29)),
        ((61.5, 29), (66.4, 29)),
        ((88, 29), (89.8, 29)),
    ):
        ax.annotate("", end, start, arrowprops=ARROW)
    ax.plot([55, 55, 27], [20, 16.3, 16.3], "k-", lw=1)
    ax.annotate("", (27, 20), (27, 16.2), arrowprops=ARROW)
    for text, x, y in (
        ("text states", 46, 42),
        ("$z_T$", 17.3, 30.5),
        ("$z_0$", 63.8, 30.5),
        ("one step cleaner, again", 41, 17.6),
    ):
        ax.text(x, y, text, ha="center", va="center", fontsize=9)
    return figure


def chip(ax: Axes, x: float, y: float, number: str, name: str, exists: bool) -> None:
    """A notebook on the map: filled where it exists, white with a dashed edge where not."""
    box = FancyBboxPatch((x, y), 16.4, 3.4, "round,pad=0.2", fc="white", ec="0.3", ls="--")
    if exists:
        box.set(facecolor="0.78", edgecolor="black", linestyle="-")
    ax.add_patch(box)
    ax.text(x + 0.6, y + 1.6, number, va="center", fontsize=9, weight="bold")
    ax.text(x + 3.8, y + 1.6, name, va="center", fontsize=9)
