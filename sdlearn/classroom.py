"""`sdlearn classroom release`: a course for nbgrader, made from notebooks of this course.

A released notebook differs from the course's: every answer cell holds the solution between the
marks at which nbgrader cuts it out, and every check cell grades. nbgrader itself then makes what
learners get, so that its own rules hold from the first assignment on.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sdlearn.course.exercise import Exercise, cells, check_cell, marked_solution
from sdlearn.course.exercises import exercises, files

Notebook = dict[str, Any]

CONFIG = '''"""nbgrader's settings for this course; its commands are run from this folder."""

c = get_config()
c.CourseDirectory.course_id = "sdlearn"

# What stands for the solution in the learners' cells, as in the notebooks of the course.
c.ClearSolutions.code_stub = {"python": "..."}

# Cells that train take minutes on a slow machine.
c.Execute.timeout = 600

# A cell with this tag is not run, and one that is not run would get all its points. The tag that
# a notebook can have is never empty.
c.Execute.skip_cells_with_tag = ""
'''
# The target may hold one pair of parentheses, as in nbtext.py; addresses have a scheme.
FILE_LINK = r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?![a-z][a-z+.-]*:|#)(?:[^()\s]|\([^()\s]*\))*\)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    said = "make an nbgrader course of notebooks, ready to hand out and to grade"
    action = actions.add_parser("release", help=said, description=said.capitalize() + ".")
    action.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK", help="its .ipynb")
    action.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")


def main(args: argparse.Namespace) -> int:
    release(args.notebooks, args.out)
    print(f"{args.out}: {len(args.notebooks)} assignments, to hand out from {args.out / 'release'}")
    print(f"what comes back belongs in {args.out / 'submitted'}/STUDENT/ASSIGNMENT/; then, there:")
    print(f"    cd {args.out}")
    for path in args.notebooks:
        print(f"    nbgrader autograde {path.stem}")
    print("    nbgrader export")
    return 0


def release(paths: list[Path], out: Path) -> None:
    """Make the folder `out`, an nbgrader course with one assignment for each notebook.

    paths: notebooks of this course; what is in their answer cells is not used. out: new or empty.
    Raises ValueError or OSError, in one sentence, and leaves nothing behind.
    """
    if find_spec("nbgrader") is None:
        raise ValueError(
            "nbgrader, which makes and grades a course, is not installed: pip install nbgrader"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; a course needs a new or an empty folder")
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"two notebooks have one name: {', '.join(names)}")
    sources = {path.stem: source(path) for path in paths}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
        course = Path(beside, out.name)
        for name, notebook in sources.items():
            file = course / "source" / name / f"{name}.ipynb"
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", "utf-8")
        (course / "nbgrader_config.py").write_text(CONFIG, "utf-8")
        for name in sources:
            nbgrader(["generate_assignment", name], course)
        if out.exists():
            out.rmdir()
        os.replace(course, out)


def source(path: Path) -> Notebook:
    """A notebook of the course as nbgrader's source/ has it: solved, graded, without outputs."""
    notebook = read(path)
    stored = {cell.get("id"): cell for cell in notebook["cells"]}
    lesson = path.name[:2]
    if lesson not in files():
        raise ValueError(f"{path} has no exercises; there are some for {', '.join(files())}")
    for exercise in exercises(lesson):
        for made in graded(exercise):
            name = made["id"]
            if name not in stored:
                raise ValueError(f"{path} has no cell {name}; the course's notebook {lesson} does")
            stored[name] |= made
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
        else:
            cell["source"] = re.sub(FILE_LINK, r"\1", "".join(cell["source"]))
    # The widgets that were shown go with the outputs.
    notebook["metadata"].pop("widgets", None)
    return notebook


def graded(exercise: Exercise) -> Iterator[dict[str, Any]]:
    """The two code cells of an exercise: solved, and with check.grade."""
    _, answer, checked = cells(exercise)
    yield answer | {"source": marked_solution(exercise)}
    yield checked | {"source": check_cell(exercise, "check.grade")}


def read(path: Path) -> Notebook:
    try:
        notebook: Notebook = json.loads(path.read_text("utf-8"))
        notebook["cells"], notebook["metadata"]
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no notebook {path}") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not a notebook (.ipynb)") from None
    return notebook


def nbgrader(arguments: list[str], course: Path) -> None:
    """Run nbgrader in the course's folder. ValueError with its last words where it fails."""
    # It calls alembic by name, which stands beside this Python.
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=course,
        env={**os.environ, "PATH": here},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["without a word"]
        raise ValueError(f"nbgrader {' '.join(arguments)} failed: {said[-1]}")
