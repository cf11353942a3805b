"""Rules for the notebooks of the course: folds, line lengths, links, length and words.

`faults` returns one sentence for each fault; a notebook that the rules don't hold for has none.
"""

import ast
import builtins
import re
from collections.abc import Iterator
from pathlib import Path

import nbtext
import nbwords
from nbcheck import FOLDED, Cell, place, statements
from nblength import length

# The numbers of the notebooks that the rules hold for.
SECOND_EDITION: tuple[str, ...] = (
    "00",
    "01",
    "02",
    "03",
    "04",
    "05",
    "06",
    "07",
    "08",
    "09",
    "10",
    "11",
    "12",
    "13",
    "14",
    "15",
    "16",
    "17",
    "18",
    "19",
)
COLUMNS = 88
MOST_MINUTES, MOST_WORDS, MOST_LINES = 60, 3200, 350
ITEM = re.compile(r"(\d+[.)]|[-+*]) ")
OUTPUT = ("figures.show", "figures.table", "print", "display")
# Methods that only convert what is drawn. All other calls of methods may compute something.
CONVERSIONS = {"tolist", "item", "items", "keys", "values", "format", "join", "split", "replace"}


def faults(cells: list[Cell], path: Path) -> list[str]:
    """Return every fault of a notebook of the second edition, and none for any other."""
    lesson = path.name[:2]
    if lesson not in SECOND_EDITION:
        return []
    found = [*heading_faults(cells), *length_faults(cells)]
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            rules = (*fold_faults(cells, number), *line_faults(cell))
        else:
            rules = (*link_faults(cell, path), *wrap_faults(cell))
        found += [f"{place(number, cell)}: {fault}" for fault in rules]
    return [*found, *nbwords.faults(cells, lesson)]


def heading_faults(cells: list[Cell]) -> Iterator[str]:
    """Check that the first heading under the title is of level 2."""
    titles = nbtext.headings(cells)
    if len(titles) > 1 and titles[1].level > 2:
        yield f"the heading “{titles[1].text}” is of level {titles[1].level}, under level 1"


def length_faults(cells: list[Cell]) -> Iterator[str]:
    """Check the budgets of minutes, words and lines of code."""
    size = length(cells)
    for what, is_, most in (
        ("minutes to read", size.minutes, MOST_MINUTES),
        ("words of prose", size.words, MOST_WORDS),
        ("visible lines of code", size.lines, MOST_LINES),
    ):
        if is_ > most:
            yield f"it has {is_:,} {what}; accepted: at most {most:,}"


def line_faults(cell: Cell) -> Iterator[str]:
    """Check the width of a code cell."""
    widest = max(map(len, cell["source"].splitlines()), default=0)
    if widest > COLUMNS:
        yield f"a line has {widest} characters; accepted: at most {COLUMNS}"


# --------------------------------------------------------------------------------------- folds


def fold_faults(cells: list[Cell], number: int) -> Iterator[str]:
    """Check that a cell that only draws or prints is folded."""
    cell = cells[number]
    later = {name for other in cells[number + 1 :] for name in names_used(other)}
    tagged = FOLDED in cell["metadata"].get("tags", [])
    if "nbgrader" in cell["metadata"]:
        if tagged:
            yield f"it belongs to an exercise; accepted: without the tag {FOLDED}"
    elif not tagged and only_draws(statements(cell), later):
        yield f"it only draws or prints; accepted: with the tag {FOLDED}"


def only_draws(body: list[ast.stmt], later: set[str]) -> bool:
    """Tell whether a cell only draws or prints.

    It does if it ends by calling figures.show, figures.table, print or display, calls nothing else
    than `figures`, built-in functions and conversions such as `.tolist()`, and binds no name that
    a later cell uses.

    Args:
        body: The statements of the cell.
        later: The names that later cells use.
    """
    if not body or not draws(body[-1]):
        return False
    nodes = [node for statement in body for node in ast.walk(statement)]
    if any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Assert) for node in nodes):
        return False
    if any(isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store) for n in nodes):
        return False  # it sets a control of a widget
    bound = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    calls = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
    arithmetic = any(isinstance(n, ast.BinOp) and isinstance(n.op, ast.MatMult) for n in nodes)
    return not bound & later and not arithmetic and all(map(prepares, calls))


def draws(statement: ast.stmt) -> bool:
    """Tell whether a statement is a call that shows something, or ends in such calls."""
    if isinstance(statement, ast.For | ast.If | ast.With):
        return draws(statement.body[-1])
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
        return False
    return ast.unparse(statement.value.func) in OUTPUT


def prepares(function: str) -> bool:
    """Tell whether a called function draws, or only prepares what is drawn."""
    method = function.rpartition(".")[2]
    known = function in OUTPUT or hasattr(builtins, function) or function.startswith("figures.")
    return known or ("." in function and method in CONVERSIONS)


def names_used(cell: Cell) -> Iterator[str]:
    """Yield the names that a code cell reads."""
    for statement in statements(cell):
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                yield node.id


# ------------------------------------------------------------------------------ text and links


def wrap_faults(cell: Cell) -> Iterator[str]:
    """Check that no line of a paragraph begins like an item of a list, such as "255. " does."""
    for block in re.split(r"\n\s*\n", nbtext.prose(cell).strip()):
        first, *others = block.splitlines() or [""]
        for line in others if not ITEM.match(first) else ():
            if ITEM.match(line):
                yield f"“{line[:20]}” begins a list; accepted: an empty line before, or no list"


def link_faults(cell: Cell, path: Path) -> Iterator[str]:
    """Check that every mention of another notebook is a link to its file."""
    text = " ".join(nbtext.prose(cell).split())
    for _, label, target in re.findall(nbtext.LINK, text):
        for number in mentioned(label):
            if not target.startswith(f"{number}-"):
                yield f"the link of notebook {number} leads to {target}"
    for number in mentioned(re.sub(nbtext.LINK, "", text)):
        files = sorted(file.name for file in path.parent.glob(f"{number}-*.ipynb"))
        if not files:
            yield f"it mentions notebook {number}, which does not exist yet"
        elif files[0] != path.name:
            yield f"a mention is no link; accepted: [notebook {number}]({files[0]})"


def mentioned(text: str) -> list[str]:
    """Return the numbers of the notebooks that a text mentions."""
    found = re.findall(rf"\b[Nn]otebooks? {nbtext.NUMBERS}\b(?!\.\d)", text)
    return [number for named in found for number in re.findall(r"\d+", named)]
