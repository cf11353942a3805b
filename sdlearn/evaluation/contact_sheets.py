"""Contact sheets with captions, and the plot of accuracy over guidance."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sdlearn.evaluation.accuracy import FACTS, Outcome, facts
from sdlearn.evaluation.tables import GUIDANCES, STEPS, Figures
from sdlearn.recipes.contact_sheets import grid
from sdlearn.storybook import render
from sdlearn.utils.atomic_files import atomic_write

UNCHOSEN, WORST, DECODED = 64, 16, 6  # images on the sheets
TEXT, LINE = 11, 13  # pixels


def worst(outcomes: Sequence[Outcome], n: int = WORST) -> list[Outcome]:
    """Return the n outcomes with the smallest fraction of right facts, the worst first."""

    def fraction_right(outcome: Outcome) -> float:
        right = [fact for row in facts(outcome.case, outcome.match).values() for fact in row]
        return sum(right) / len(right)

    return sorted(outcomes, key=fraction_right)[:n]


def contact_sheet(outcomes: Sequence[Outcome], columns: int = 6, scale: int = 2) -> Image.Image:
    """Draw images with their captions and seeds, and print in red what the judge does not find.

    Six columns of 128 pixels are as wide as a README is displayed, so they are not resampled there.

    Args:
        outcomes: The images.
        columns: Images in a row.
        scale: Side of an enlarged pixel, in pixels.
    """
    size = max((outcome.image.width for outcome in outcomes), default=64) * scale
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
        page.paste(outcome.image.resize((size, size), Image.Resampling.NEAREST), (x, y))
        for i, line in enumerate(black + red):
            colour = "black" if i < len(black) else (190, 0, 0)
            draw.text((x, y + size + i * LINE + 2), line, fill=colour, font=font)
    return page


def reconstruction_sheet(decoded: Sequence[Outcome], columns: int = 3) -> Image.Image:
    """Draw rows of renders, each above a row of its reconstructions, enlarged four times."""
    rows = []
    for first in range(0, len(decoded), columns):
        row = decoded[first : first + columns]
        rows.append([render(one.case.scene, one.image.width) for one in row])
        rows.append([one.image for one in row])
    return grid([np.stack([np.asarray(image) for image in row]) for row in rows], scale=4)


def legend(
    outcome: Outcome, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> tuple[list[str], list[str]]:
    """Return the lines below an image: the caption with its seed, and what the judge missed."""
    missed = [
        name
        for name, row in facts(outcome.case, outcome.match).items()
        if not all(row) and name not in ("right", "page")
    ]
    red = wrapped("not " + ", ".join(missed), width, font) if missed else []
    return wrapped(f"{outcome.case.caption} (seed\u00a0{outcome.seed})", width, font), red


def wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break a text between words into lines of at most `width` pixels."""
    lines = [""]
    for word in text.split(" "):  # no break at a no-break space
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return [line.replace("\u00a0", " ") for line in lines]  # the font has no glyph for it


def save(image: Image.Image, path: Path) -> None:
    """Write a PNG file atomically, in full colour: a palette would turn yellow into orange."""
    with atomic_write(path) as part:
        image.save(part, format="PNG", optimize=True)
    print(path)


def plot(tables: Mapping[str, Sequence[Figures]], path: Path) -> None:
    """Plot accuracy over guidance scale, with one line for each number of steps.

    Each split is a row of panels, and each panel shows one fact. Markers distinguish the lines,
    and bars show the 95 % intervals.

    Args:
        tables: For each split, the results of `report.sweep`.
        path: The PNG file to write.
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
                    [c["guidance"] + 0.07 * (k - 2) for c in line],  # so that bars don't overlap
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
    with atomic_write(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})
    plt.close(figure)
    print(path)


def need_matplotlib() -> None:
    """Check that matplotlib is installed, before the evaluation starts.

    Raises:
        ValueError: If it is not.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "the plot for --table needs matplotlib: pip install 'sdlearn[course]'"
        ) from error
