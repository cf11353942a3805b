"""What a stored notebook's cells must be: clean outputs, pictures with words, plain short code.

`faults` gives one sentence for each fault; what a notebook's text must be is in nbtext.py.
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
MARK = "# NBVAL_CHECK_OUTPUT"
STATE = "application/vnd.jupyter.widget-state+json"
IMPORTED = {"torch", "numpy", "PIL", "matplotlib", "transformers", "ipywidgets", "IPython"}
ALLOWED = {*sys.stdlib_module_names, *IMPORTED, "sdlearn"} - {"runpy"}
PICTURES = ("image/png", "image/jpeg", "image/svg+xml")
# Beside the places of the machine that checks, those of any other.
PLACES = r"(?<![\w.:/~])/(?:home|Users|root|tmp|private|mnt|workspace)/[\w.-]+|\b[A-Z]:\\+Users\b"
PACKAGE_HOSTS = r"\b(?:pypi|pythonhosted|anaconda|npmjs|crates)\.(?:org|com|io)\b"


def faults(notebook: Notebook) -> list[str]:
    """Every fault of the cells, the cell named first."""
    found = widget_faults(notebook)
    for number, cell in enumerate(notebook["cells"]):
        at = place(number, cell)
        found += [f"{at}: {fault}" for fault in (*cell_faults(cell), *output_faults(cell))]
    return found


def place(number: int, cell: Cell) -> str:
    return f"cell {number} ({cell.get('id', 'without id')})"


# ------------------------------------------------------------------------------ what is written


def cell_faults(cell: Cell) -> Iterator[str]:
    """Its id, the places it names, and its code."""
    name = cell.get("id", "")
    random = re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", name)
    if random or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        yield "its id is not made of words, like attention-class"
    yield from places_in(cell["source"], "named")
    if cell["cell_type"] == "code":
        yield from code_faults(cell["source"])


def places_in(text: str, how: str) -> Iterator[str]:
    """Paths of a machine, and addresses of package registries."""
    mine = [str(ROOT), str(Path.home()), tempfile.gettempdir()]
    # "/", the home of some accounts, is in any date.
    paths = [path for path in mine if len(path) > 3 and path in text]
    paths += [match[0] for match in re.finditer(PLACES, text)]
    if paths:
        yield f"a path of the machine that ran it is {how} ({paths[0]})"
    hosts = re.search(PACKAGE_HOSTS, text)
    if hosts:
        yield f"a package registry is {how} ({hosts[0]}); the course needs no network"


def code_faults(source: str) -> Iterator[str]:
    lines = [line for line in source.splitlines() if line.strip()]
    if len(lines) > CODE_LINES:
        yield f"{len(lines)} lines of code; more than {CODE_LINES} are too many for one idea"
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
        yield "it uses sys.path; finished parts are imported from sdlearn as it is installed"


def imported(tree: ast.Module) -> Iterator[str]:
    """The full name of every module that is imported; relative ones begin with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            parts = [f"{module}.{alias.name}" for alias in node.names]
            yield from parts if module == "sdlearn.course" else [module]


# -------------------------------------------------------------------------------- what is stored


def output_faults(cell: Cell) -> Iterator[str]:
    outputs = cell.get("outputs", [])
    if MARK in cell["source"] and cell.get("execution_count") and not outputs:
        yield "its output is to be compared with the stored one, and none is stored"
    expects_error = "raises-exception" in cell["metadata"].get("tags", [])
    for output, following in pairwise([*outputs, {}]):
        size = len(json.dumps(output))
        if size > OUTPUT_BYTES:
            yield f"an output of {size:,} bytes, more than {OUTPUT_BYTES:,}"
        if output["output_type"] == "error" and not expects_error:
            yield f"a stored {output['ename']}"
        if output.get("name") == "stderr":
            yield "something written to stderr is stored"
        data = output.get("data", {})
        # An image in base64 may spell "/tmp" by chance.
        texts = [str(text) for kind, text in data.items() if kind not in PICTURES]
        yield from places_in("\n".join([output.get("text", ""), *texts]), "stored")
        yield from picture_faults(output, following)
        if without_alt(str(data.get("text/html", ""))):
            yield "an <img> without alternative text is stored"


def picture_faults(output: dict[str, Any], following: dict[str, Any]) -> Iterator[str]:
    """A picture has alternative text, and under it the same words for all to unfold."""
    for kind in PICTURES:
        if kind not in output.get("data", {}):
            continue
        alt = output["metadata"].get(kind, {}).get("alt", "")
        fold = following.get("data", {}).get("text/html", "")
        if len(alt) < ALT_LETTERS:
            yield "a picture without alternative text; figures.show(figure, alt) gives it some"
        elif "<details>" not in fold or html.escape(alt) not in fold:
            yield "a picture without its words folded under it; figures.show puts them there"


def without_alt(markup: str) -> bool:
    """Whether there is an <img> that says nothing to those who cannot see it."""
    images = re.findall(r"<img\b[^>]*>", re.sub(r"base64,[\w+/=]*", "", markup))
    return any(not re.search(r"""\salt=(["'])(?!\1)""", image) for image in images)


def widget_faults(notebook: Notebook) -> list[str]:
    """Widgets are stored with their contents, which are seen without a kernel, too."""
    stored = notebook["metadata"].get("widgets", {}).get(STATE, {}).get("state", {})
    values = [str(model.get("state", {}).get("value", "")) for model in stored.values()]
    fault = "the state of a widget holds an <img> without alternative text"
    return [fault] * any(map(without_alt, values))
