"""Contact sheets with captions, and the plot of accuracy over guidance."""

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sdlearn.evaluation.accuracy import FACTS, Outcome, facts
from sdlearn.evaluation.tables import STEPS, Figures
from sdlearn.files import replacing

UNCHOSEN, WORST = 64, 16  # pictures on the two sheets
TEXT, LINE = 11, 13  # pixels


def worst(outcomes: Sequence[Outcome], n: int = WORST) -> list[Outcome]:
    """The n pictures of which the judge found the smallest share right."""

    def share(outcome: Outcome) -> float:
        right = [one for row in facts(outcome.asked, outcome.match).values() for one in row]
        return sum(right) / len(right)

    return sorted(outcomes, key=share)[:n]


def contact_sheet(outcomes: Sequence[Outcome], columns: int = 6, scale: int = 2) -> Image.Image:
    """Pictures with their captions and seeds; what the judge misses on one is said in red.

    Six columns of 128 pixels are as wide as a README is shown: nothing is made smaller there.
    """
    size = max((outcome.picture.width for outcome in outcomes), default=64) * scale
    font = ImageFont.load_default(size=TEXT)
    gap = 10
    below = [legend(outcome, size, font) for outcome in outcomes]
    columns = min(columns, max(1, len(outcomes)))
    rows = math.ceil(len(outcomes) / columns)
    lines = max((len(black) + len(red) for black, red in below), default=0)
    cell = size + gap, size + lines * LINE + gap
    page = Image.new("RGB", (columns * cell[0] + gap, rows * cell[1] + gap), "white")
    draw = ImageDraw.Draw(page)
    for k, (outcome, (black, red)) in enumerate(zip(outcomes, below, strict=True)):
        x, y = gap + (k % columns) * cell[0], gap + (k // columns) * cell[1]
        page.paste(outcome.picture.resize((size, size), Image.Resampling.NEAREST), (x, y))
        for i, line in enumerate(black + red):
            colour = "black" if i < len(black) else (190, 0, 0)
            draw.text((x, y + size + i * LINE + 2), line, fill=colour, font=font)
    return page


def legend(
    outcome: Outcome, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> tuple[list[str], list[str]]:
    """The lines below a picture: caption with seed, and what the judge misses, if anything."""
    missed = [
        name
        for name, row in facts(outcome.asked, outcome.match).items()
        if not all(row) and name not in ("right", "page")
    ]
    red = wrapped("not " + ", ".join(missed), width, font) if missed else []
    return wrapped(f"{outcome.asked.caption} (seed\u00a0{outcome.seed})", width, font), red


def wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The words of a text on lines of at most `width` pixels."""
    lines = [""]
    for word in text.split(" "):  # a no-break space belongs to its word
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [line.replace("\u00a0", " ") for line in lines]  # the font draws a box for such a space


def save(picture: Image.Image, path: Path) -> None:
    """A PNG of 256 colours, which a third of the bytes hold, in its place all at once."""
    with replacing(path) as part:
        picture.quantize(256).save(part, format="PNG", optimize=True)
    print(path)


def plot(cells: Sequence[Figures], path: Path) -> None:
    """Accuracy over guidance, one line for each number of steps, told apart without colour."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = ("right", "sky", "ground", "page")
    figure, axes = plt.subplots(1, len(panels), figsize=(13, 3.6), sharey=True, dpi=100)
    for axis, fact in zip(axes, panels, strict=True):
        for steps, marker in zip(STEPS, "ovs^D", strict=False):
            row = [cell for cell in cells if cell["steps"] == steps and fact in cell["pictures"]]
            rate = [100 * cell["pictures"][fact]["rate"] for cell in row]
            axis.plot([cell["guidance"] for cell in row], rate, marker=marker, label=f"{steps}")
        axis.set(title=FACTS[fact], xlabel="guidance scale")
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="captions' facts right, %", ylim=(0, 101))
    axes[-1].legend(title="steps", loc="lower left")
    figure.tight_layout()
    with replacing(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})
    plt.close(figure)
    print(path)


def need_matplotlib() -> None:
    """Find out before the work, not after it, whether the plot can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "the plot of guidance and steps needs matplotlib: pip install 'sdlearn[course]'"
        ) from error
