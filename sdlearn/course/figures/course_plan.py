"""The map of the course, as a figure and in words."""

from collections.abc import Collection

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from sdlearn.course.figures.plots import ARROW, WIDE
from sdlearn.course.figures.style import in_style

# Notebook: its name on the map, and the left and lower edge of its chip.
PLACES = {
    "03": ("time embedding", 23, 32), "04": ("attention", 23, 27),
    "05": ("text encoder", 32.5, 47), "06": ("U-Net", 23, 22),
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
    "A flow chart. A prompt goes into the text encoder (notebook 05), whose text states go down "
    "into the loop. Noise from a seed enters the loop from the left as z_T. The loop holds time "
    "embedding (03), attention (04), U-Net (06), noise schedule (07), sampling (09) and guidance "
    "(10); an arrow leads from its end back to its start, one step cleaner each time. Its result "
    "z_0 goes into the autoencoder (01, 02), which gives the picture. Below, around it: training "
    "loop (08), text to image (11), inpainting (12), ControlNet (13), the real SD (14), evaluation "
    "(15), scaling up (16), making it yours (17)."
)


@in_style
def course_map(ready: Collection[str] = ()) -> Figure:
    """Draw how a prompt becomes an image, with the notebook that builds each part.

    Args:
        ready: Numbers of the notebooks that exist, such as "05". The others are drawn as planned.
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
    """Draw one notebook on the map: filled if it exists, white with a dashed edge if not."""
    box = FancyBboxPatch((x, y), 16.4, 3.4, "round,pad=0.2", fc="white", ec="0.3", ls="--")
    if exists:
        box.set(facecolor="0.78", edgecolor="black", linestyle="-")
    ax.add_patch(box)
    ax.text(x + 0.6, y + 1.6, number, va="center", fontsize=9, weight="bold")
    ax.text(x + 3.8, y + 1.6, name, va="center", fontsize=9)
