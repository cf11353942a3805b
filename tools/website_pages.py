"""The pages of the web edition that are no notebooks: the cover, the cards, the reference.

Each function returns the text of one or more pages for Sphinx. What they say of the course (titles,
topics, minutes) is read from the notebooks, the README and the docstring of the package.
"""

import ast
import html
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

from cover import CAPTIONS, COLUMNS, GAP, SIDE, TEXT
from nbcheck import Notebook
from PIL import Image

import sdlearn

ROW = re.compile(r"^\| \[[^\]]+\]\(notebooks/([\w-]+)\.ipynb\) \| (.+?) \| .* \|$", re.M)
MINUTES = re.compile(
    r"\*\*Minutes\*\* \| (\d+) to read .*?(?:, (\d+) for the exercises)?(?:;|\)? \|)"
)
CHAPTER = re.compile(r"^    (\w+)\.py +(.+)$", re.M)
# The cards: the page of each, its folder in data/, and its name in the contents.
CARDS = {
    "model-card": ("storybook", "The storybook model"),
    "model-card-few-steps": ("storybook-few-steps", "Four steps"),
    "model-card-inpaint": ("storybook-inpaint", "Inpainting"),
    "model-card-controlnet": ("storybook-controlnet", "ControlNet"),
    "model-card-transformer": ("storybook-transformer", "Diffusion transformer"),
    "model-card-early": ("early", "The early model"),
}
MODULES = {"utils.sampling": "the settings of an image besides its prompt"}  # beside the chapters


@dataclass(frozen=True)
class Lesson:
    """What the cover says of a notebook; the minutes are those to read it and to solve."""

    name: str
    title: str
    topic: str
    reading: int
    solving: int

    @property
    def number(self) -> str:
        return self.name[:2]


def lessons(root: Path, notebooks: dict[str, Notebook]) -> list[Lesson]:
    """Return the numbered notebooks, in order.

    Raises:
        ValueError: If a notebook has no minutes in its card, or no line in the README's table.
    """
    topics = dict(ROW.findall((root / "README.md").read_text("utf-8")))
    found = []
    for name, notebook in sorted(notebooks.items()):
        if not name[:2].isdigit():
            continue
        card = "".join(notebook["cells"][0]["source"])
        minutes = MINUTES.search(card)
        if not minutes or name not in topics:
            raise ValueError(f"{name} has no minutes in its card, or no line in README.md")
        title = card.splitlines()[0].split("·", 1)[1].strip()
        found.append(Lesson(name, title, topics[name], int(minutes[1]), int(minutes[2] or 0)))
    return found


def cover(root: Path) -> tuple[str, dict[str, Image.Image]]:
    """Return the cover as HTML, and its images, which are cut out of assets/cover.png.

    Raises:
        ValueError: If the file does not have the layout of tools/cover.py.
    """
    sheet = Image.open(root / "assets/cover.png").convert("RGB")
    rows = -(-len(CAPTIONS) // COLUMNS)
    size = (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + TEXT + GAP) + GAP)
    if sheet.size != size:
        raise ValueError(f"assets/cover.png has {sheet.size} pixels; tools/cover.py makes {size}")
    tiles, figures = {}, []
    for k, caption in enumerate(CAPTIONS):
        left, top = GAP + k % COLUMNS * (SIDE + GAP), GAP + k // COLUMNS * (SIDE + TEXT + GAP)
        tile = sheet.crop((left, top, left + SIDE, top + SIDE))
        path = f"_static/cover/{k}.png"
        tiles[path] = tile.resize((SIDE // 4, SIDE // 4), Image.Resampling.NEAREST)
        alt = html.escape(f"The model’s image for: {caption}")
        image = f'<img src="{path}" alt="{alt}" width="64" height="64">'
        figures.append(f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>")
    return '<div class="tiles">' + "\n".join(figures) + "</div>", tiles


def index(root: Path, course: list[Lesson], tiles: str) -> str:
    """Return the first page, site/book/index.md with the cover and the table of the course."""
    rows = "\n".join(
        f'<li><a href="{lesson.name}.html"><span class="number">{lesson.number}</span>'
        f'<span class="what"><b>{html.escape(lesson.title)}</b> {inline(lesson.topic)}</span>'
        f'<span class="minutes"><b>{lesson.reading}</b> min to read'
        f"<br>{lesson.solving} to solve</span></a></li>"
        for lesson in course
    )
    names = "\n".join([lesson.name for lesson in course] + ["playground"])
    cards = "\n".join(f"{title} <{page}>" for page, (_, title) in CARDS.items())
    values = {
        "cards": cards,
        "count": len(course),
        "first": course[0].name,
        "reading": round(sum(lesson.reading for lesson in course) / 60),
        "solving": round(sum(lesson.solving for lesson in course) / 60),
        "names": names,
        "rows": rows,
        "tiles": tiles,
    }
    return Template((root / "site/book/index.md").read_text("utf-8")).substitute(values)


def inline(text: str) -> str:
    """Return a line of Markdown, in which only code is marked, as HTML with a capital letter."""
    text = text[:1].upper() + text[1:]
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


def card(root: Path, page: str) -> tuple[str, dict[str, Path]]:
    """Return a model card as a page, and its images by their paths beside the page."""
    folder = root / "data" / CARDS[page][0]
    text = (folder / "README.md").read_text("utf-8")
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S)  # for the Hugging Face hub
    names = re.findall(r"!\[[^\]]*\]\(([\w-]+\.png)\)", text)
    text = re.sub(r"(!\[[^\]]*\]\()([\w-]+\.png\))", rf"\1{page}/\2", text)
    return text, {f"{page}/{name}": folder / name for name in names}


def chapters(root: Path) -> dict[str, str]:
    """Return the chapters in reading order, each with its line in the package's docstring."""
    text = ast.get_docstring(ast.parse((root / "sdlearn/__init__.py").read_text("utf-8"))) or ""
    return dict(CHAPTER.findall(text)) | MODULES


def reference(root: Path) -> dict[str, str]:
    """Return the pages of the reference: an overview, and a page for each module."""
    described = chapters(root)
    rows = [f"   * - :doc:`{name} <{name}>`\n     - {what}" for name, what in described.items()]
    names = "\n".join(f"   {name}" for name in described)
    public = ", ".join(
        f":py:obj:`~sdlearn.{home}.{name}`" for name, home in sorted(sdlearn._HOME.items())
    )
    overview = f"""Reference
=========

Each part of Stable Diffusion is a short module, made to be read. Here are the functions and
classes of each, from their docstrings; *source* leads to the code.

.. list-table::
   :class: modules

{chr(10).join(rows)}

The names that ``import sdlearn`` offers: {public}.

.. toctree::
   :hidden:

{names}
"""
    pages = {"api/index": overview}
    for name in described:
        title = f"sdlearn.{name}"
        pages[f"api/{name}"] = (
            f"{title}\n{'=' * len(title)}\n\n.. automodule:: {title}\n   :members:\n"
            "   :member-order: bysource\n"
        )
    return pages
