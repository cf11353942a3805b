"""How long a notebook takes: words of prose, lines of code that the reader sees, and figures.

The reading time is words / 200 + lines / 12 + half a minute for each figure. reading_time.py
writes it into a notebook's card, and teaching.py into the teacher's page.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

from nbcheck import FOLDED, PICTURES, Cell

WORDS_A_MINUTE, LINES_A_MINUTE, MINUTES_A_FIGURE = 200, 12, 0.5


class Length(NamedTuple):
    """What a reader of a notebook has to read.

    Attributes:
        words: Of prose.
        lines: Of code that is not folded.
        figures: Stored images.
    """

    words: int
    lines: int
    figures: int

    @property
    def minutes(self) -> int:
        """The reading time in whole minutes."""
        time = self.words / WORDS_A_MINUTE + self.lines / LINES_A_MINUTE
        return round(time + self.figures * MINUTES_A_FIGURE)


def length_of(path: Path) -> Length:
    """Return the length of a stored notebook."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return length([{**cell, "source": "".join(cell["source"])} for cell in cells])


def length(cells: list[Cell]) -> Length:
    """Return the length of a notebook.

    Its card, the papers and all cells of exercises are left out: exercises have minutes of their
    own.
    """
    texts = [cell["source"] for cell in cells if cell["cell_type"] == "markdown"]
    seen = [cell for cell in cells if visible(cell)]
    lines = [line for cell in seen for line in cell["source"].splitlines() if line.strip()]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    figures = [output for output in outputs if {*PICTURES} & {*output.get("data", {})}]
    return Length(sum(map(words, texts)), len(lines), len(figures))


def visible(cell: Cell) -> bool:
    """Tell whether a cell holds code that is neither folded nor part of an exercise."""
    tags = cell["metadata"].get("tags", [])
    return cell["cell_type"] == "code" and FOLDED not in tags and "nbgrader" not in cell["metadata"]


def words(text: str) -> int:
    """Count the words of prose in a text cell."""
    if text.startswith("### Exercise "):
        return 0
    if text.startswith("# "):  # the card is a table
        text = re.sub(r"^\|.*$", "", text, flags=re.M)
    text = re.split(r"^## Papers$", text, flags=re.M)[0]
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.M | re.S)
    text = re.sub(r"\$\$.*?\$\$|\$(?:[^$\n]|\n(?!\n))+\$", "", text, flags=re.S)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)|\]\([^)]*\)|<[^>]*>", " ", text)
    return sum(any(letter.isalnum() for letter in word) for word in text.split())
