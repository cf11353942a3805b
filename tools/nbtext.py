"""Checks of a notebook's text: headings, the parts of a lesson, links and references.

A file named NN-title.ipynb is a lesson and must have all parts of one. Of any other notebook only
headings, links and references are checked. nbcheck.py checks the cells.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from nbcheck import Cell, place, widget_cells, without_alt

LAST_NOTEBOOK = 19
CARD = ("You will build", "You need", "Minutes")
PAPERS, EXERCISES = 5, 2
NO_CELLS: list[Cell] = [{"source": "", "metadata": {}}] * 2
ANSWER = {"solution": True, "grade": False, "locked": False}
CHECK = {"solution": False, "grade": True, "locked": True}
NUMBERS = r"((?>\d+(?:(?:, | and | or | to |–)\d+)*))"
ARXIV = r"(?:\d\d(?:0[1-9]|1[0-2])\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7})(?:v\d+)?"
# The target may contain one pair of parentheses, as addresses of encyclopaedias do.
LINK = r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(((?:[^()\s]|\([^()\s]*\))*)(?:\s+\"[^\"]*\")?\)"


class Heading(NamedTuple):
    """A heading.

    Attributes:
        cell: Number of its cell.
        level: 1 to 6.
        text: Without marks.
    """

    cell: int
    level: int
    text: str

    @property
    def anchor(self) -> str:
        """The anchor that JupyterLab gives the heading."""
        return self.text.replace(" ", "-")


def faults(cells: list[Cell], path: Path) -> list[str]:
    """Return every fault of a notebook's text; each begins with the cell if it belongs to one.

    Args:
        cells: Of the notebook.
        path: Its file.
    """
    titles = headings(cells)
    found = [*heading_faults(titles)]
    lesson = re.match(r"(\d\d)-", path.name)
    if lesson:
        found += lesson_faults(cells, titles, lesson[1])
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "markdown":
            rules = (*link_faults(cell, titles, path), *reference_faults(cell, titles, path))
            found += [f"{place(number, cell)}: {fault}" for fault in rules]
    return found


def headings(cells: list[Cell]) -> list[Heading]:
    """Return all headings in order, as text without marks."""
    found = []
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "markdown":
            text = re.sub(r"^(```|~~~).*?^\1", "", cell["source"], flags=re.M | re.S)
            for marks, title in re.findall(r"^(#{1,6})\s+(.+?)\s*#*$", text, flags=re.M):
                words = re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`]", r"\1", title)
                found.append(Heading(number, len(marks), words))
    return found


def sections(titles: list[Heading]) -> list[int]:
    """Return the numbers of the numbered sections."""
    matches = (re.match(r"(\d+) · ", title.text) for title in titles if title.level == 2)
    return [int(match[1]) for match in matches if match]


def prose(cell: Cell) -> str:
    """Return the text of a cell without code and formulas."""
    text = re.sub(r"^(```|~~~).*?^\1", "", cell["source"], flags=re.M | re.S)
    return re.sub(r"(`+).*?\1|\$\$.*?\$\$|\$(?:[^$\n]|\n(?!\n))+\$", "", text, flags=re.S)


# ------------------------------------------------------------------------------------ headings


def heading_faults(titles: list[Heading]) -> Iterator[str]:
    """Check the levels of the headings and the numbers of the sections."""
    if [title.cell for title in titles if title.level == 1] != [0] or titles[0].level != 1:
        yield "the first cell begins with the title, `# …`, and no other heading is of this level"
    previous = 1
    for title in titles:
        # The opening question, a small heading, comes directly after the title.
        deepest = 3 if previous == 1 else previous + 1
        if title.level > deepest:
            yield f"the heading “{title.text}” is of level {title.level}, under level {previous}"
        previous = title.level
    numbered = sections(titles)
    if numbered != [*range(1, len(numbered) + 1)]:
        yield f"the sections are numbered {', '.join(map(str, numbered))}"


def lesson_faults(cells: list[Cell], titles: list[Heading], lesson: str) -> Iterator[str]:
    """Check the parts of a lesson, from its card to its papers."""
    first = cells[0]["source"] if cells else ""
    if not re.match(rf"# {lesson} · \S", first):
        yield f"the title is not `# {lesson} · …`, though the file is named {lesson}-…"
    for entry in CARD:
        if not re.search(rf"^\| \*\*{entry}\*\* \| [^|\s].* \|$", first, flags=re.M):
            yield f"the card has no “{entry}”"
    kinds = [cell["cell_type"] for cell in cells]
    before = cells[1 : kinds.index("code")] if "code" in kinds else cells[1:]
    if not any("?" in prose(cell) for cell in before):
        yield "no question is asked before the first code"
    parts = [re.sub(r"^\d+ · ", "", title.text) for title in titles if title.level == 2]
    if "In the real Stable Diffusion" not in parts:
        yield "there is no section “In the real Stable Diffusion”"
    if "Papers" not in parts or parts[-1] != "Papers":
        yield "the last section is not “Papers”"
    elif len(re.findall(r"^- ", cells[-1]["source"].split("## Papers")[-1], re.M)) < PAPERS:
        yield f"fewer than {PAPERS} papers are listed in the last cell"
    if any(cell.get("outputs") for cell in cells):
        yield from widget_faults(cells)
    yield from practice_faults(cells, titles, lesson)


def widget_faults(cells: list[Cell]) -> Iterator[str]:
    """Check that a widget is shown, and that each is stored as an image."""
    shown = widget_cells(cells)
    if not shown:
        yield "no widget is shown"
    for number in shown:
        outputs = cells[number].get("outputs", [])
        if not any("image/png" in output.get("data", {}) for output in outputs):
            yield f"{place(number, cells[number])}: its widget is stored without an image"


def practice_faults(cells: list[Cell], titles: list[Heading], lesson: str) -> Iterator[str]:
    """Check the exercises, each with an answer cell and a check cell, and the quiz."""
    cards = [title for title in titles if re.match(r"Exercise \d", title.text)]
    if len(cards) < EXERCISES:
        yield f"{len(cards)} exercises; a lesson has at least {EXERCISES}"
    for k, title in enumerate(cards, 1):
        if not re.match(rf"Exercise {lesson}\.{k} · \S", title.text):
            yield f"the heading “{title.text}” is not “Exercise {lesson}.{k} · …”"
        answer, checked = [*cells[title.cell + 1 : title.cell + 3], *NO_CELLS][:2]
        if not checked["source"].startswith(f'check("{lesson}.{k}", '):
            yield f'the second cell under “{title.text}” is not check("{lesson}.{k}", …)'
        elif (marks(answer), marks(checked)) != (ANSWER, CHECK):
            yield f"the two cells under “{title.text}” are not marked for nbgrader"
    if [cell["source"] for cell in cells].count(f'quiz("{lesson}")') != 1:
        yield f'there is not one cell with quiz("{lesson}") alone'


def marks(cell: Cell) -> dict[str, Any]:
    """Return nbgrader's marks of a cell: solution, grade and locked."""
    found = cell["metadata"].get("nbgrader", {})
    return {name: found.get(name) for name in CHECK}


# ---------------------------------------------------------------------------------------- links


def link_faults(cell: Cell, titles: list[Heading], path: Path) -> Iterator[str]:
    """Check the links, images and arXiv numbers of a cell."""
    text = prose(cell)
    for mark, label, target in re.findall(LINK, text):
        if mark and not label:
            yield f"the image {target} has no alternative text"
        if re.match(r"[a-z][a-z+.-]*:", target):
            yield from address_faults(label, target)
        else:
            yield from file_faults(target, titles, path)
    if re.search(r"(?<!\()\bhttp://", text):
        yield "an address begins with http://; accepted: https://"
    if without_alt(text):
        yield "an <img> has no alternative text"
    for named in re.findall(r"arXiv:\s*([^\s\]),;]*[\w/])", text):
        if not re.fullmatch(ARXIV, named):
            yield f"arXiv:{named} is not the number of a paper"


def address_faults(label: str, target: str) -> Iterator[str]:
    """Check the form of an address, without the network."""
    try:
        parts = urlsplit(target)
    except ValueError:
        yield f"the address {target} is not well formed"
        return
    if parts.scheme != "https" or "." not in parts.netloc:
        yield f"the link {target} does not lead to an https address"
    if parts.netloc.removeprefix("www.") == "arxiv.org":
        number = re.fullmatch(rf"/(?:abs|pdf)/({ARXIV})", parts.path)
        named = re.search(r"arXiv:\s*(\S+)", label)
        if not number:
            yield f"the link {target} contains no arXiv number"
        elif named and named[1] != number[1]:
            yield f"the link says {named[0]} and leads to {number[1]}"


def file_faults(target: str, titles: list[Heading], path: Path) -> Iterator[str]:
    """Check that the file of a link exists and, in a notebook, its heading."""
    name, _, anchor = unquote(target).partition("#")
    file = path.parent / name if name else path
    repository = path.resolve().parents[1]
    if not target or not file.resolve().is_relative_to(repository):
        yield f"the link “{target}” leads to nothing in the repository"
    elif not file.exists():
        yield f"the link {target} leads to a file that does not exist"
    elif anchor and file.suffix == ".ipynb":
        there = titles if file == path else headings_of(file)
        if anchor not in [title.anchor for title in there]:
            yield f"the link {target} leads to a heading that does not exist"


# ----------------------------------------------------------------------------------- references


def reference_faults(cell: Cell, titles: list[Heading], path: Path) -> Iterator[str]:
    """Check that the notebooks, sections and exercises that a cell mentions exist."""
    text = re.sub(LINK, r"\2", " ".join(prose(cell).split()))
    for named in re.findall(rf"\b[Nn]otebooks? {NUMBERS}\b(?!\.\d)", text):
        for number in re.findall(r"\d+", named):
            if len(number) != 2 or int(number) > LAST_NOTEBOOK:
                yield f"there is no notebook {number}; accepted: 00 to {LAST_NOTEBOOK}"
    for number in re.findall(r"\b[Ee]xercises? (\d\d\.\d+)", text):
        own = number.startswith(path.name[:2])
        there = titles if own else [*siblings(path, number[:2])]
        if not any(title.text.startswith(f"Exercise {number} ·") for title in there):
            yield f"there is no exercise {number}"
    text = text.split("## Papers")[0]  # after it, sections may be those of a paper
    for number in sections_named(text):
        if sections(titles) and number not in sections(titles):
            yield f"there is no section {number}"
    for number, lesson in re.findall(r"\bsection (\d+) of notebook (\d\d)\b", text):
        there = [*siblings(path, lesson)]
        if there and int(number) not in sections(there):
            yield f"there is no section {number} in notebook {lesson}"


def sections_named(text: str) -> list[int]:
    """Return the sections of the same notebook that a text mentions.

    A section "of" something belongs to another notebook.
    """
    found = re.findall(rf"\b[Ss]ections? {NUMBERS}\b(?!\.\d| of (?!this))", text)
    return [int(number) for named in found for number in re.findall(r"\d+", named)]


def siblings(path: Path, lesson: str) -> Iterator[Heading]:
    """Yield the headings of another lesson in the same folder."""
    for file in path.parent.glob(f"{lesson}-*.ipynb"):
        yield from headings_of(file)


def headings_of(file: Path) -> list[Heading]:
    """Return the headings of a stored notebook."""
    cells = json.loads(file.read_text("utf-8"))["cells"]
    return headings([{**cell, "source": "".join(cell["source"])} for cell in cells])
