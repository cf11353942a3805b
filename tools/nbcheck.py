"""Checks of a stored notebook's cells: clean outputs, alternative texts, short plain code.

`faults` returns one sentence for each fault. nbtext.py checks the text of a notebook.
"""

import ast
import html
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]
Cell = dict[str, Any]

ROOT = Path(__file__).resolve().parents[1]
OUTPUT_BYTES = 120_000
CODE_LINES = 45
ALT_LETTERS = 20
COMPARED, FOLDED = "nbval-check-output", "hide-input"
TAGS = (COMPARED, FOLDED, "raises-exception")
# Comments for programs, which a reader should not see.
MARKERS = r"#\s*(?:NBVAL_\w+|PYTEST_VALIDATE\w+|noqa\b|fmt:|ruff:|isort:|type:\s*ignore|pragma:)"
IMPORTED = {"torch", "numpy", "PIL", "matplotlib", "transformers", "ipywidgets", "IPython"}
ALLOWED = {*sys.stdlib_module_names, *IMPORTED, "sdlearn"} - {"runpy"}
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")
# Paths of any machine, in addition to those of the machine that runs the check.
PLACES = r"(?<![\w.:/~])/(?:home|Users|root|tmp|private|mnt|workspace)/[\w.-]+|\b[A-Z]:\\+Users\b"
PACKAGE_HOSTS = r"\b(?:pypi|pythonhosted|anaconda|npmjs|crates)\.(?:org|com|io)\b"


def faults(notebook: Notebook) -> list[str]:
    """Return every fault of a notebook's cells; each begins with the cell."""
    found = []
    for number, cell in enumerate(notebook["cells"]):
        at = place(number, cell)
        found += [f"{at}: {fault}" for fault in (*cell_faults(cell), *output_faults(cell))]
    return found


def place(number: int, cell: Cell) -> str:
    """Return the number and the id of a cell, for messages."""
    return f"cell {number} ({cell.get('id', 'without id')})"


# ------------------------------------------------------------------------------------- sources


def cell_faults(cell: Cell) -> Iterator[str]:
    """Check a cell's id, the paths in it, and its code."""
    name = cell.get("id", "")
    random = re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name)
    if random or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        yield f"its id is {name!r}; accepted: words with hyphens, like attention-class"
    yield from places_in(cell["source"], "named")
    tags = TAGS if cell["cell_type"] == "code" else ()
    for tag in cell["metadata"].get("tags", []):
        if tag not in tags:
            yield f"its tag is {tag!r}; accepted: {', '.join(tags) or 'no tags in text'}"
    if cell["cell_type"] == "code":
        yield from code_faults(cell["source"])


def places_in(text: str, how: str) -> Iterator[str]:
    """Find paths of a machine and addresses of package registries."""
    mine = [str(ROOT), str(Path.home()), tempfile.gettempdir()]
    # The home of some accounts is "/", which also occurs in dates.
    paths = [path for path in mine if len(path) > 3 and path in text]
    paths += [match[0] for match in re.finditer(PLACES, text)]
    if paths:
        yield f"a path of the machine that ran it is {how} ({paths[0]})"
    hosts = re.search(PACKAGE_HOSTS, text)
    if hosts:
        yield f"a package registry is {how} ({hosts[0]}); the course needs no network"


def code_faults(source: str) -> Iterator[str]:
    """Check the length, the comments, the syntax and the imports of a code cell."""
    lines = [line for line in source.splitlines() if line.strip()]
    if len(lines) > CODE_LINES:
        yield f"it has {len(lines)} lines of code; accepted: at most {CODE_LINES}"
    for marker in re.findall(MARKERS, source):
        yield (
            f"it has the comment “{marker}”; accepted: the tag {COMPARED}, and the "
            "per-file-ignores of pyproject.toml"
        )
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        yield f"it is not plain Python (line {error.lineno}: {error.msg})"
        return
    for name in imported(tree):
        if name.split(".")[0] not in ALLOWED:
            yield (
                f"it imports {name}; a notebook imports the standard library, "
                f"{', '.join(sorted(IMPORTED, key=str.lower))}, and finished parts from sdlearn"
            )
        elif name.startswith("sdlearn.course.exercises"):
            yield "it imports the exercises, and with them their solutions"
    if any(ast.unparse(node) == "sys.path" for node in ast.walk(tree)):
        yield "it uses sys.path; accepted: imports from the installed sdlearn"


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the full name of every imported module; relative ones begin with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            parts = [f"{module}.{alias.name}" for alias in node.names]
            yield from parts if module == "sdlearn.course" else [module]


# ------------------------------------------------------------------------------------- outputs


def output_faults(cell: Cell) -> Iterator[str]:
    """Check the stored outputs of a cell."""
    outputs = cell.get("outputs", [])
    tags = cell["metadata"].get("tags", [])
    if COMPARED in tags and cell.get("execution_count") and not outputs:
        yield "its output must be compared with the stored one, but none is stored"
    expects_error = "raises-exception" in tags
    for output, following in pairwise([*outputs, {}]):
        size = len(json.dumps(output))
        if size > OUTPUT_BYTES:
            yield f"an output has {size:,} bytes; accepted: at most {OUTPUT_BYTES:,}"
        if output["output_type"] == "error" and not expects_error:
            yield f"a stored {output['ename']}"
        if output.get("name") == "stderr":
            yield "something written to stderr is stored"
        data = output.get("data", {})
        # An image in base64 may contain "/tmp" by chance.
        texts = [str(text) for kind, text in data.items() if kind not in PICTURES]
        yield from places_in("\n".join([output.get("text", ""), *texts]), "stored")
        yield from picture_faults(output, following)
        if without_alt(str(data.get("text/html", ""))):
            yield "an <img> without alternative text is stored"


def picture_faults(output: dict[str, Any], following: dict[str, Any]) -> Iterator[str]:
    """Check that an image has alternative text, and the same text folded below it."""
    for kind in PICTURES:
        if kind not in output.get("data", {}):
            continue
        alt = output["metadata"].get(kind, {}).get("alt", "")
        fold = following.get("data", {}).get("text/html", "")
        if len(alt) < ALT_LETTERS:
            yield "an image has no alternative text; figures.show(figure, alt) adds it"
        elif "<details>" not in fold or html.escape(alt) not in fold:
            yield "an image has no description folded below it; figures.show(figure, alt) adds it"


def without_alt(markup: str) -> bool:
    """Tell whether an <img> lacks alternative text."""
    images = re.findall(r"<img\b[^>]*>", re.sub(r"base64,[\w+/=]*", "", markup))
    return any(not re.search(r"""\salt=(["'])(?!\1)""", image) for image in images)


def widget_cells(cells: list[Cell]) -> list[int]:
    """Return the numbers of the cells that end by showing a widget of sdlearn.course.widgets."""
    classes: set[str] = set()
    widgets: set[str] = set()
    found = []
    for number, cell in enumerate(cells):
        body = statements(cell)
        for node in body:
            if isinstance(node, ast.ImportFrom) and node.module == "sdlearn.course.widgets":
                classes |= {alias.asname or alias.name for alias in node.names}
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                made = ast.unparse(node.value.func) in classes
                widgets |= {ast.unparse(target) for target in node.targets if made}
        last = body[-1].value if body and isinstance(body[-1], ast.Expr) else None
        if isinstance(last, ast.Name) and last.id in widgets:
            found.append(number)
    return found


def statements(cell: Cell) -> list[ast.stmt]:
    """Return the statements of a code cell; none for text, and none for what is no Python."""
    if cell["cell_type"] != "code":
        return []
    try:
        return ast.parse(cell["source"]).body
    except SyntaxError:
        return []
