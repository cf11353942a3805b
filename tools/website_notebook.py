"""A stored notebook as a page of the web edition. Nothing is run.

`page` takes a notebook's dictionary and returns a copy for Sphinx, with its images as files:
figures with their descriptions, links where the text names another notebook, marks for exercises,
and a box where a widget has no kernel. The notebook itself is published unchanged beside the page.
"""

import base64
import html
import io
import json
import re
from typing import Any

from PIL import Image
from website_exercises import formula, help_with

Cell = dict[str, Any]
Notebook = dict[str, Any]

# What a link to another notebook must not be made in: code, formulas, links, headings.
APART = re.compile(
    r"(```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$\n]*\$|\[[^\]]*\]\([^)]*\)|^#.*?$)", re.S | re.M
)
MENTION = re.compile(r"\b[Nn]otebook (\d\d)\b")
SCROLLER = re.compile(r'<div style="overflow: auto;[^"]*">(<table>.*?</table>)</div>', re.S)
FORMULA = re.compile(r"\$([^$\n]+)\$")
WORDS = "<details><summary>The figure in words</summary>"
DISPLAYED = "<IPython.core.display.Image object>"

LIVE = """<aside class="live" aria-label="A widget">
<p><b>Live in the notebook.</b> {what} The course’s model also draws in this browser, without a
notebook: about 28 MB are loaded when you press the button.</p>
<p><a class="button load-draw" href="draw/index.html" data-title="The course’s model, drawing in
this page">Draw here</a></p>
</aside>"""
STILL = "The image above is how the widget begins; its controls need Python."
PLAYGROUND = "The controls of the playground need Python. Below is what it draws first."


def page(notebook: Notebook, name: str, names: dict[str, str]) -> tuple[Notebook, dict[str, bytes]]:
    """Return a notebook as Sphinx should read it, and its images.

    Args:
        notebook: The stored notebook.
        name: Its file's name without the ending, such as "04-attention".
        names: The file of each notebook by its number, such as {"04": "04-attention.ipynb"}.

    Returns:
        A changed copy, and the bytes of each image by its path in the site.
    """
    made: Notebook = json.loads(json.dumps(notebook))
    images: dict[str, bytes] = {}
    for cell in made["cells"]:
        cell["source"] = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cell["source"] = linked(
                cell["source"], {k: v for k, v in names.items() if v != f"{name}.ipynb"}
            )
        else:
            cell["metadata"]["tags"] = tags(cell)
            cell["outputs"] = outputs(cell, f"_static/figures/{name}", images)
            if aid := help_with(cell):
                cell["outputs"].append(as_html(aid))
            cell["execution_count"] = None
    return made, images


def linked(text: str, names: dict[str, str]) -> str:
    """Turn each mention such as "notebook 07" into a link, but not in code, formulas or links."""

    def link(match: re.Match[str]) -> str:
        file = names.get(match[1])
        return f"[{match[0]}]({file})" if file else match[0]

    pieces = APART.split(text)  # what matches has odd positions
    return "".join(p if k % 2 else MENTION.sub(link, p) for k, p in enumerate(pieces))


def tags(cell: Cell) -> list[str]:
    """Return a cell's tags, with one more for the cell in which a learner answers an exercise."""
    own = list(cell["metadata"].get("tags", []))
    marks = cell["metadata"].get("nbgrader", {})
    return own + ["exercise"] * bool(marks.get("solution")) + ["check"] * bool(marks.get("grade"))


def outputs(cell: Cell, folder: str, images: dict[str, bytes]) -> list[dict[str, Any]]:
    """Return a cell's outputs; its images become files in `images`, named after the cell."""
    shown: list[dict[str, Any]] = []
    for output in cell["outputs"]:
        data = {kind: "".join(value) for kind, value in output.get("data", {}).items()}
        if "image/png" in data:
            path = f"{folder}/{cell['id']}-{len(shown)}.png"
            images[path] = base64.b64decode(data["image/png"])
            described = output["metadata"]["image/png"]
            widget = data.get("text/plain", DISPLAYED) != DISPLAYED
            shown.append(as_html(figure(path, images[path], described, widget)))
        elif data.get("text/html", "").startswith(WORDS) and shown:
            last = shown[-1]["data"]  # the description belongs to the figure above it
            last["text/html"] = last["text/html"].replace("<!--words-->", data["text/html"])
        elif "text/html" in data:
            shown.append(as_html(markup(data["text/html"], quiz=cell["id"] == "quiz")))
        elif data:
            shown.append(as_html(LIVE.format(what=PLAYGROUND)))
        else:
            shown.append(output)
    return shown


def as_html(text: str) -> dict[str, Any]:
    """Return an output that shows this HTML."""
    return {"output_type": "display_data", "metadata": {}, "data": {"text/html": text}}


def figure(path: str, data: bytes, described: dict[str, Any], widget: bool) -> str:
    """Return a figure as HTML, at the size at which the notebook shows it."""
    wide, high = Image.open(io.BytesIO(data)).size
    shown = int(described.get("width", wide))
    alt = html.escape(described["alt"])
    size = f'width="{shown}" height="{round(high * shown / wide)}"'
    image = f'<img src="{path}" alt="{alt}" {size} loading="lazy">'
    live = LIVE.format(what=STILL) if widget else ""
    return f'<figure class="figure">{image}<!--words--></figure>{live}'


def markup(text: str, quiz: bool) -> str:
    """Return stored HTML for the page: tables that scroll in themselves, and typeset formulas."""
    text = SCROLLER.sub(r'<div class="scroll">\1</div>', text)
    if quiz:
        text = FORMULA.sub(lambda match: formula(html.unescape(match[1])), text)
        text = f'<div class="quiz">{text}</div>'
    return text


def anchor(heading: str) -> str:
    """Return JupyterLab's anchor of a heading, which the links in the notebooks name."""
    return heading.replace(" ", "-")
