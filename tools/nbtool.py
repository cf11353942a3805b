"""Keep the stored outputs of notebooks small and the same from one run to the next.

    python tools/nbtool.py check [FILE...]  check every notebook in notebooks/, or these
    python tools/nbtool.py clean [FILE...]  remove in place what changes from run to run
    python tools/nbtool.py run [FILE...]    execute from top to bottom, store the outputs, clean

Two runs of a notebook differ in counters, timestamps and widget ids. `clean` removes them, so that
a diff shows only what a person changed. It also converts figures to palette images, which have a
third of the bytes, folds the cells that are tagged `hide-input`, and stores a widget as its image
with the image's description, because a stored page has no kernel. Cleaning twice has the same
result as cleaning once. The other checks are in nbcheck.py (cells), nbtext.py (text) and
nbsecond.py (rules of the second edition).
"""

import argparse
import base64
import html
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbcheck
import nbformat
import nbsecond
import nbtext
from nbcheck import FOLDED, ROOT, Cell, Notebook
from PIL import Image

NOTEBOOK_BYTES = 500_000
PALETTE = 128
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
VIEW = "application/vnd.jupyter.widget-view+json"
KEPT_CELL_METADATA = {"tags", "slideshow", "editable", "deletable", "nbgrader"}


def clean(notebook: Notebook) -> Notebook:
    """Return a copy of a notebook without everything that changes from run to run."""
    notebook = json.loads(json.dumps(notebook))
    notebook["metadata"] = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for cell in notebook["cells"]:
        cell["metadata"] = clean_metadata(cell)
        if cell["cell_type"] == "code":
            outputs = without_widgets(cell["outputs"])
            cell["outputs"] = joined_streams([clean_output(output) for output in outputs])
    number(notebook)
    return notebook


def clean_metadata(cell: Cell) -> dict[str, Any]:
    """Return a cell's tags and nbgrader's marks, and `source_hidden` if its tag asks for it."""
    kept = {k: v for k, v in cell["metadata"].items() if k in KEPT_CELL_METADATA}
    folded = cell["cell_type"] == "code" and FOLDED in kept.get("tags", [])
    return kept | ({"jupyter": {"source_hidden": True}} if folded else {})


def without_widgets(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Replace each live widget by its image, and by the image's description folded below it."""
    stored = []
    for output in outputs:
        stored.append(output)
        if output.get("data", {}).pop(VIEW, None) and "image/png" in output["data"]:
            alt = output["metadata"]["image/png"]["alt"]
            fold = f"<details><summary>The figure in words</summary>{html.escape(alt)}</details>"
            words = {"text/html": fold, "text/plain": alt}
            stored.append({"output_type": "display_data", "metadata": {}, "data": words})
    return stored


def number(notebook: Notebook) -> None:
    """Number the code cells of an executed notebook from 1, as nbval requires."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    executed = any(cell["outputs"] for cell in code)
    filled = (cell for cell in code if cell["source"])
    for cell in code:
        cell["execution_count"] = None
    for count, cell in enumerate(filled if executed else (), start=1):
        cell["execution_count"] = count
        for output in cell["outputs"]:
            if output["output_type"] == "execute_result":
                output["execution_count"] = count


def clean_output(output: dict[str, Any]) -> dict[str, Any]:
    """Remove counters and addresses from an output, in place, and reduce its image's colours."""
    if "execution_count" in output:
        output["execution_count"] = None
    if "text" in output:
        output["text"] = without_addresses(output["text"])
    data = output.get("data", {})
    if "text/plain" in data:
        data["text/plain"] = without_addresses(data["text/plain"])
    if "image/png" in data:
        data["image/png"] = with_palette(data["image/png"])
    return output


def joined_streams(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join neighbouring pieces of one stream, which are split at random."""
    joined: list[dict[str, Any]] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output["output_type"] == "stream" and last.get("name") == output["name"]:
            last["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def without_addresses(text: str) -> str:
    """Replace memory addresses, as in `<Thing at 0x7f3a12c4>`, by 0x0."""
    return re.sub(r"\b0x[0-9a-fA-F]{6,}\b", "0x0", text)


def with_palette(encoded: str) -> str:
    """Reduce a PNG in base64 to 128 colours, if this makes it smaller.

    A palette image is returned unchanged. The palette covers all colours that occur rather than
    the most frequent ones, so that a red car among many grey tiles stays red.
    """
    original = base64.b64decode(encoded)
    image = Image.open(io.BytesIO(original))
    if image.mode == "P":
        return encoded
    smaller = io.BytesIO()
    palette = image.convert("RGB").quantize(
        PALETTE, method=Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE
    )
    palette.save(smaller, "PNG", optimize=True)
    return base64.b64encode(min(original, smaller.getvalue(), key=len)).decode() + "\n"


def faults(path: Path) -> list[str]:
    """Return one sentence for each fault of a stored notebook."""
    text = path.read_text(encoding="utf-8")
    names = [cell.get("id") for cell in json.loads(text)["cells"]]
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:  # nbformat would give such cells random ids, which cause more faults
        return [f"two cells have the id {name}" for name in repeated]
    notebook = read(text)
    found = []
    if written(clean(notebook)) != text:
        found.append("is not clean; run: python tools/nbtool.py clean")
    if len(text.encode()) > NOTEBOOK_BYTES:
        found.append(f"has {len(text.encode()):,} bytes; accepted: at most {NOTEBOOK_BYTES:,}")
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and cell["source"]]
    if code and not any(cell["outputs"] for cell in code):
        found.append("is stored without outputs; run: python tools/nbtool.py run")
    cells = notebook["cells"]
    found += nbcheck.faults(notebook) + nbtext.faults(cells, path)
    return found + nbsecond.faults(cells, path)


def read(text: str) -> Notebook:
    """Parse a notebook into dictionaries in which every source and output is one string."""
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    return json.loads(json.dumps(notebook))


def written(notebook: Notebook) -> str:
    """Return the text of a notebook's file."""
    return nbformat.writes(nbformat.from_dict(notebook)) + "\n"


def store(path: Path, notebook: Notebook) -> None:
    """Write a notebook atomically."""
    part = path.with_name(path.name + ".part")
    part.write_text(written(notebook), encoding="utf-8", newline="\n")
    os.replace(part, path)


def execute(path: Path) -> Notebook:
    """Run every cell in a new kernel, in the notebook's own folder, as a learner does."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    )
    return json.loads(json.dumps(client.execute()))


def main(argv: list[str] | None = None) -> int:
    """Check, clean or run notebooks; return 1 if there are faults."""
    parser = argparse.ArgumentParser(description="Check, clean or run stored notebooks.")
    parser.add_argument("action", choices=["check", "clean", "run"], help="what to do")
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="a notebook (default: every notebook in notebooks/)",
    )
    args = parser.parse_args(argv)
    bad = 0
    for path in args.files or sorted((ROOT / "notebooks").glob("*.ipynb")):
        if args.action == "check":
            found = faults(path)
            print(*(f"{path.name}: {fault}" for fault in found), sep="\n", end="\n" * bool(found))
            bad += len(found)
        else:
            new = execute(path) if args.action == "run" else read(path.read_text("utf-8"))
            store(path, clean(new))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
