"""Contact sheets with captions, and the plot of accuracy over guidance."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sdlearn.evaluation.accuracy import FACTS, Outcome, facts
from sdlearn.evaluation.tables import GUIDANCES, STEPS, Figures
from sdlearn.files import replacing
from sdlearn.recipes.sheets import grid
from sdlearn.storybook import render

UNCHOSEN, WORST, DECODED = 64, 16, 6  # pictures on the sheets
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


def there_and_back(decoded: Sequence[Outcome], columns: int = 3) -> Image.Image:
    """Renders, and below each row of them what the autoencoder made of them, four-fold enlarged."""
    rows = []
    for first in range(0, len(decoded), columns):
        row = decoded[first : first + columns]
        rows.append([render(one.asked.scene, one.picture.width) for one in row])
        rows.append([one.picture for one in row])
    return grid([np.stack([np.asarray(picture) for picture in row]) for row in rows], scale=4)


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
    """A PNG in its place all at once, in full colour: a palette would turn yellow into orange."""
    with replacing(path) as part:
        picture.save(part, format="PNG", optimize=True)
    print(path)


def plot(tables: Mapping[str, Sequence[Figures]], path: Path) -> None:
    """Accuracy over guidance, a row of panels for each split, one line for each number of steps.

    Lines are told apart without colour, and bars show the 95 % intervals.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = ("right", "sky", "ground", "page")
    size = (13, 0.4 + 3.6 * len(tables))
    figure, axes = plt.subplots(
        len(tables), len(panels), figsize=size, sharex=True, sharey=True, squeeze=False, dpi=100
    )
    for row, (split, cells) in zip(axes, tables.items(), strict=True):
        for axis, fact in zip(row, panels, strict=True):
            for k, (steps, marker) in enumerate(zip(STEPS, "ovs^D", strict=False)):
                line = [c for c in cells if c["steps"] == steps and fact in c["pictures"]]
                rates = [c["pictures"][fact] for c in line]
                axis.errorbar(
                    [c["guidance"] + 0.07 * (k - 2) for c in line],  # side by side, to be seen
                    [100 * r["rate"] for r in rates],
                    [[100 * (r["rate"] - r["low"]) for r in rates],
                     [100 * (r["high"] - r["rate"]) for r in rates]],
                    marker=marker, markersize=5, linewidth=1.2, elinewidth=0.8, label=f"{steps}",
                )  # fmt: skip
            axis.set(title=f"{split.replace('_', '-')}: {FACTS[fact]}")
            axis.grid(alpha=0.3)
        row[0].set(ylabel="right, %", ylim=(0, 103), xticks=GUIDANCES)
        row[0].set_xticklabels([f"{g:g}" for g in GUIDANCES])
    for axis in axes[-1]:
        axis.set(xlabel="guidance scale")
    axes[0, -1].legend(title="steps", loc="lower left")
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
