"""Make the book of the web edition from the stored notebooks: nothing is run.

    python tools/website_book.py OUT MATHJAX

MATHJAX is npm's mathjax/es5/tex-svg-full.js, or the folder of that package. The book is made by
Sphinx and MyST-NB with the settings and the theme in site/book/. It can be read from any static
server, and asks nothing of another one. The buttons for Binder and Colab appear if pyproject.toml
names the repository on GitHub as `Repository` in `[project.urls]`.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import website_pages
from website_notebook import page

ROOT = Path(__file__).resolve().parents[1]
BRANCH = "main"
LEFT_OUT = (
    ".buildinfo",
    "objects.inv",
    "_static/mystnb*.css",
    "_static/basic.css",
    "_static/*.png",
)


class BookError(Exception):
    """The book cannot be made as it should be; the text says why."""


def build(out: Path, mathjax: Path, repository: str | None = None) -> None:
    """Write the book into a folder, which may hold other things, such as the drawing page.

    Args:
        out: The folder; it is made if it is not there.
        mathjax: MathJax 3's tex-svg-full.js, or the npm package's folder.
        repository: The address on GitHub for the launch buttons; by default pyproject's.

    Raises:
        FileNotFoundError: If there is no MathJax at that place.
        ValueError: If the repository's address is not one on GitHub.
        BookError: If Sphinx fails or warns of anything.
    """
    script = mathjax if mathjax.is_file() else mathjax / "es5" / "tex-svg-full.js"
    if not script.is_file():
        raise FileNotFoundError(f"no MathJax at {mathjax}; `npm ci` in site/ brings it")
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "source", Path(folder) / "made"
        shutil.copytree(ROOT / "site/book", source)
        links = launch_links(address() if repository is None else repository)
        write_pages(source, made)
        shutil.copy(script, source / "theme/static/mathjax.js")
        (source / "settings.json").write_text(json.dumps(links), "utf-8")
        run_sphinx(source, made)
        for name in LEFT_OUT:
            for file in made.glob(name):
                file.unlink()
        shutil.rmtree(made / "_sources", ignore_errors=True)
        shutil.copytree(made, out, dirs_exist_ok=True)


def write_pages(source: Path, made: Path) -> None:
    """Write the sources of all pages, and the files that Sphinx leaves alone."""
    files = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    names = {name[:2]: file.name for name, file in files.items() if name[:2].isdigit()}
    notebooks = {name: json.loads(file.read_text("utf-8")) for name, file in files.items()}
    for name, notebook in notebooks.items():
        changed, images = page(notebook, name, names)
        write(source / f"{name}.ipynb", json.dumps(changed))
        write_bytes(made, images)
    write_bytes(made, {f"notebooks/{file.name}": file.read_bytes() for file in files.values()})
    tiles, cut = website_pages.cover(ROOT)
    for path, image in cut.items():
        (made / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(made / path, optimize=True)
    course = website_pages.lessons(ROOT, notebooks)
    write(source / "index.md", website_pages.index(ROOT, course, tiles))
    write(source / "teaching.md", (ROOT / "notebooks/teaching.md").read_text("utf-8"))
    for name in website_pages.CARDS:
        text, beside = website_pages.card(ROOT, name)
        write(source / f"{name}.md", text)
        write_bytes(source, {path: file.read_bytes() for path, file in beside.items()})
    for name, text in website_pages.reference(ROOT).items():
        write(source / f"{name}.rst", text)


def write(path: Path, text: str) -> None:
    """Write a text, making its folder."""
    write_bytes(path.parent, {path.name: text.encode()})


def write_bytes(folder: Path, files: dict[str, bytes]) -> None:
    """Write files at their paths below a folder."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def address() -> str:
    """Return the repository's address in pyproject.toml, or an empty text."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return str(project.get("urls", {}).get("Repository", ""))


def launch_links(repository: str) -> dict[str, str]:
    """Return the repository's address and those of the launch buttons, up to a notebook's name.

    Raises:
        ValueError: If the address is not one on GitHub, which Binder and Colab can open.
    """
    if not repository:
        return {}
    match = re.fullmatch(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?", repository)
    if not match:
        raise ValueError(
            f"the repository {repository!r} has no launch buttons; "
            "accepted: https://github.com/OWNER/NAME, or nothing"
        )
    place = f"{match[1]}/{match[2]}"
    return {
        "address": f"https://github.com/{place}",
        "binder": f"https://mybinder.org/v2/gh/{place}/{BRANCH}?urlpath=lab/tree/notebooks/",
        "colab": f"https://colab.research.google.com/github/{place}/blob/{BRANCH}/notebooks/",
        "install": f'%pip install "sdlearn[course] @ git+https://github.com/{place}"',
    }


def run_sphinx(source: Path, made: Path) -> None:
    """Run Sphinx in a process of its own, with a fixed order of sets.

    Raises:
        BookError: If it fails, or has any warning.
    """
    paths = [str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
    }
    warnings = source.parent / "warnings.txt"
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-w", str(warnings)]
    command += ["-d", str(source.parent / "doctrees"), str(source), str(made)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    said = warnings.read_text("utf-8") if warnings.is_file() else ""
    if ended.returncode or said.strip():
        text = (said.strip() or ended.stderr).replace(f"{source}{os.sep}", "")
        print(text, file=sys.stderr)
        raise BookError(f"Sphinx has {len(text.splitlines())} lines to say:\n{text}")


def main(argv: list[str] | None = None) -> int:
    """Make the book; return 1 if that fails, with the reason printed."""
    parser = argparse.ArgumentParser(description="Make the book of the web edition.")
    parser.add_argument("out", type=Path, help="the folder to write into")
    parser.add_argument("mathjax", type=Path, help="MathJax's file, or its npm package's folder")
    parser.add_argument("--repository", help="its address on GitHub, for the launch buttons")
    args = parser.parse_args(argv)
    try:
        build(args.out, args.mathjax, args.repository)
    except (BookError, FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
