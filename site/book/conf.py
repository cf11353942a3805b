"""Sphinx's settings for the web edition, and what is done to its pages (tools/website_book.py)."""

import html
import json
import re
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

HERE = Path(__file__).parent
LAUNCH = json.loads((HERE / "settings.json").read_text("utf-8"))

project = "Build Stable Diffusion by hand"
author = "the authors of sdlearn"
language = "en"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["theme"]
default_role = "py:obj"

# Notebooks: their stored outputs, with JupyterLab's anchors.
nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
nb_ipywidgets_js = {}
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 4
myst_heading_slug_func = "website_notebook.anchor"
suppress_warnings = ["config.cache"]

# Formulas: MathJax from this folder, without its menu, which would fetch more of it.
mathjax_path = "mathjax.js"
mathjax3_config = {
    "options": {"enableMenu": False},
    "svg": {"fontCache": "global"},
}

# The reference.
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 78
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
viewcode_line_numbers = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "theme"
html_theme_path = [str(HERE)]
html_title = project
html_copy_source = False
html_show_sourcelink = False
html_use_index = False
html_domain_indices = False
html_permalinks_icon = "#"
html_search_language = "en"

TABLE = re.compile(r'<table class="docutils.*?</table>', re.S)
STORED = re.compile(r"<pre><code>(.*?)</code></pre>", re.S)
HEAD = re.compile(r"<thead>(.*?)</thead>", re.S)
NUMBERED = re.compile(r"(<h[12]>|<a class=\"[^\"]*reference internal\"[^>]*>)(\d{1,2}) · ")
QUANTITY = re.compile(r">(\d[\d,.]*) (min|h|%|MB|GB|dB)<")
UNKNOWN = "&lt;address of the repository&gt;"
LABELS = {
    "[source]</span>": "source</span>",
    "[docs]</a>": "reference</a>",
    ">Variables<": ">Attributes<",
}
DESCRIPTION = (
    "Build every part of a text-to-image model by hand, in notebooks, and draw with it in the "
    "browser."
)


def table(match):
    """A table that scrolls in itself; a head without words, which Markdown demands, is left out."""
    head = HEAD.search(match[0])
    bare = head is not None and not re.sub(r"<[^>]*>|\s", "", head[1])
    text = match[0].replace(head[0], "") if bare else match[0]
    if bare:
        text = text.replace('class="docutils', 'class="headless docutils', 1)
    text = QUANTITY.sub(r">\1&#160;\2<", text)  # a number stays with its unit
    return f'<div class="scroll">{text}</div>'


def coloured(match):
    """Code in the stored output of a cell, in the colours of the other code."""
    code = highlight(html.unescape(match[1]), PythonLexer(), HtmlFormatter())
    return code.strip()


def numbered(text):
    """Numbers of chapters and sections set apart, so that they can be set in their own way."""
    return NUMBERED.sub(r'\1<span class="number">\2</span> ', text)


def dress(app, pagename, templatename, context, doctree):
    """Complete what the template of a page is given."""
    if "body" in context:
        body = numbered(TABLE.sub(table, context["body"]))
        for theirs, ours in LABELS.items():
            body = body.replace(theirs, ours)
        body = body.replace(UNKNOWN, LAUNCH.get("address", UNKNOWN))  # not in the search index
        context["body"] = STORED.sub(coloured, body)
    tree = context["toctree"](maxdepth=2, collapse=True, titles_only=True, includehidden=True)
    context["contents"] = numbered(tree or "")
    sections = context.get("toc", "") if context.get("display_toc") and pagename != "index" else ""
    inner = re.search(r"<ul>\s*<li>.*?(<ul>.*</ul>)\s*</li>\s*</ul>", sections, re.S)
    context["sections"] = numbered(inner[1]) if inner else ""
    context["description"] = DESCRIPTION
    context["notebook"] = None
    if (HERE / f"{pagename}.ipynb").is_file():
        file = f"{pagename}.ipynb"
        links = {kind: LAUNCH[kind] + file for kind in ("binder", "colab") if LAUNCH}
        install = {"install": LAUNCH.get("install")}
        context["notebook"] = {"file": f"notebooks/{file}"} | install | links


def as_rst(app, what, name, obj, options, lines):
    """Docstrings as reStructuredText: theirs are plain text, with `code` and indented examples."""
    made = []
    for k, block in enumerate(re.split(r"\n\s*\n", "\n".join(lines))):
        if k and block.startswith("    ") and not made[-1].startswith(" "):
            made.append("::")  # an indented paragraph after one that is not: an example
        made.append(block if made and made[-1] == "::" else plain(block))
    lines[:] = "\n\n".join(made).split("\n")


def plain(text):
    """Text of a docstring in which only code is marked, and only names of Python become links."""
    parts = text.split("`")
    for k, part in enumerate(parts):
        if k % 2 == 0:
            parts[k] = re.sub(r"([*|\\])|(?<=\w)_(?!\w)", lambda m: "\\" + m[0], part)
            if k and part[:1].isalnum():
                parts[k] = "\\ " + parts[k]  # a plural's s may follow marked code
        elif re.fullmatch(r"[A-Za-z_][\w.]*", part):
            parts[k] = f"`{part}`"
        else:
            parts[k] = f"``{part}``"
    return "".join(parts)


def setup(app):
    """Connect the functions above."""
    app.connect("html-page-context", dress)
    app.connect("autodoc-process-docstring", as_rst, priority=400)
    return {"parallel_read_safe": True}
