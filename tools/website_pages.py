"""The pages of the web edition that are no notebooks: the cover, the teacher's page, cards, reference.

Each function returns the text of one or more pages for Sphinx. What they say of the course (titles,
topics, minutes) is read from the notebooks, the README and the docstring of the package.
"""

import ast
import html
import re
from dataclasses import dataclass
from pathlib import Path

from cover import CAPTIONS, COLUMNS, GAP, SIDE, TEXT
from nbcheck import Notebook
from PIL import Image

ROW = re.compile(r"^\| \[[^\]]+\]\(notebooks/([\w-]+)\.ipynb\) \| (.+?) \| .* \|$", re.M)
MINUTES = re.compile(r"\*\*Minutes\*\* \| (\d+) to read .*?(?:, (\d+) for the exercises)?(?:;|\)? \|)")
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
    """What the cover says of a notebook: its name, title, topic, and minutes to read and to solve."""

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


def index(course: list[Lesson], tiles: str) -> str:
    """Return the first page: what this is, the cover, and the table of the course."""
    hours = round(sum(lesson.reading for lesson in course) / 60)
    rows = "\n".join(
        f'<li><a href="{lesson.name}.html"><span class="number">{lesson.number}</span>'
        f'<span class="what"><b>{html.escape(lesson.title)}</b> {inline(lesson.topic)}</span>'
        f'<span class="minutes"><b>{lesson.reading}</b> min to read'
        f"<br>{lesson.solving} to solve</span></a></li>"
        for lesson in course
    )
    names = "\n".join([lesson.name for lesson in course] + ["playground"])
    cards = "\n".join(f"{title} <{page}>" for page, (_, title) in CARDS.items())
    return f"""# Build Stable Diffusion by hand

```{{raw}} html
<p class="lead">A course in {len(course)} notebooks. You write every part of a text-to-image model, train
it on a laptop, and load the published weights into the same classes.</p>
<p class="begin"><a class="button first" href="{course[0].name}.html">Start reading</a>
<a class="button" href="draw/index.html">Draw in this browser</a></p>
{tiles}
<p class="under">The course’s own model made these images from the captions under them, with seed 0. None
was selected. It was trained on two CPU cores in 11 hours.</p>
```

## What you will do

```{{raw}} html
<ul class="promises">
<li><b>Build it.</b> The autoencoder, the text encoder, the U-Net, the noise schedule, the training loop,
the samplers and guidance. In every notebook you write the core yourself, and a check compares it with
the finished code and recognises the usual mistakes.</li>
<li><b>See it work.</b> On captions that the small model was never trained on, 97 of 100 objects have the
right kind, colour and side. The <a href="model-card.html">model card</a> has all the results.</li>
<li><b>Meet the real one.</b> Stable Diffusion 1.4 to XL run in the classes that you built. What came after
it has a notebook, too.</li>
</ul>
```

## The course

```{{raw}} html
<p>About {hours} hours to read, and as long again or longer for the exercises. Each notebook can be read alone.</p>
<ol class="course">
{rows}
</ol>
```

## Run it yourself

This book shows the notebooks with their stored results. To run and change them, you need Python 3.11 to
3.14 and about 3 GB of disk, but no GPU:

```
git clone --depth 1 <address of the repository> sdlearn
cd sdlearn
python lab.py          # sets up, then opens the course in JupyterLab
```

Each page has its notebook to download. If you teach, [the teacher’s page](teaching.md) has plans for
twelve weeks and for three days, questions to discuss, and the usual mistakes. The
[reference](api/index.rst) describes every function and class.

```{{toctree}}
:caption: The course
:hidden:

{names}
```

```{{toctree}}
:caption: Model cards
:hidden:

{cards}
```

```{{toctree}}
:caption: More
:hidden:

Teaching <teaching>
api/index
```
"""


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
    overview = f"""Reference
=========

Each part of Stable Diffusion is a short module, made to be read. Here are their functions and classes,
from their docstrings; *source* leads to the code.

.. list-table::
   :class: modules

{chr(10).join(rows)}

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
