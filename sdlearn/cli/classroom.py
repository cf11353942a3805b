"""`sdlearn classroom release`: make an nbgrader course from notebooks of this course.

In a released notebook every answer cell holds the solution between the marks at which nbgrader
removes it, and every check cell grades. nbgrader itself then generates the learners' version, so
its own rules apply from the first assignment on.
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

from sdlearn.cli.arguments import path as path_argument
from sdlearn.course.exercises import exercises, files
from sdlearn.course.grading.exercise import Exercise, cells, check_cell, marked_solution
from sdlearn.utils.atomic_files import check_folder

Notebook = dict[str, Any]

CONFIG = '''"""nbgrader's settings for this course; its commands are run from this folder."""

c = get_config()
c.CourseDirectory.course_id = "sdlearn"

# What replaces the solution in the learners' cells, as in the notebooks of the course.
c.ClearSolutions.code_stub = {"python": "..."}

# Cells that train take minutes on a slow machine.
c.Execute.timeout = 600

# nbgrader skips cells with this tag, and a skipped cell gets all its points. Notebooks have no
# empty tags, so nothing is skipped.
c.Execute.skip_cells_with_tag = ""
'''
# The target may hold one pair of parentheses, as in nbtext.py; addresses have a scheme.
FILE_LINK = r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?![a-z][a-z+.-]*:|#)(?:[^()\s]|\([^()\s]*\))*\)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sdlearn classroom`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    summary = "make an nbgrader course from notebooks, ready to hand out and to grade"
    action = actions.add_parser(
        "release", help=summary, description=summary[0].upper() + summary[1:] + "."
    )
    action.add_argument(
        "notebooks",
        nargs="+",
        type=path_argument,
        metavar="NOTEBOOK",
        help="a notebook of the course",
    )
    action.add_argument(
        "--out", required=True, type=path_argument, metavar="FOLDER", help="a new or empty folder"
    )


def main(args: argparse.Namespace) -> int:
    """Make the course and print how to use it.

    Args:
        args: From `add_arguments`.

    Returns:
        The exit code.

    Raises:
        ValueError: If an argument is wrong, nbgrader is missing, or it fails.
        OSError: If a file cannot be read or written.
    """
    release(args.notebooks, args.out)
    print(f"{args.out}: {len(args.notebooks)} assignments; hand out {args.out / 'release'}")
    print(f"put submissions into {args.out / 'submitted'}/STUDENT/ASSIGNMENT/, then run:")
    print(f"    cd {args.out}")
    for path in args.notebooks:
        print(f"    nbgrader autograde {path.stem}")
    print("    nbgrader export")
    return 0


def release(paths: list[Path], out: Path) -> None:
    """Make an nbgrader course with one assignment for each notebook.

    If an error is raised, no folder is left.

    Args:
        paths: Notebooks of this course. The contents of their answer cells are not used.
        out: A new or empty folder.

    Raises:
        ValueError: If nbgrader is missing or fails, the folder is not empty, two notebooks have
            the same name, or a file is not a notebook with exercises.
        OSError: If a file cannot be read or written.
    """
    if find_spec("nbgrader") is None:
        raise ValueError(
            "nbgrader, which makes and grades the course, is not installed: pip install nbgrader"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} already exists; accepted: a new or empty folder")
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(f"two notebooks have the same name: {', '.join(names)}")
    sources = {path.stem: source(path) for path in paths}
    check_folder(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        course = Path(temporary, out.name)
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
    """Return a notebook for nbgrader's source/: with solutions and graded checks, no outputs."""
    notebook = read(path)
    stored = {cell.get("id"): cell for cell in notebook["cells"]}
    lesson = path.name[:2]
    if lesson not in files():
        raise ValueError(f"{path} has no exercises; accepted: notebooks {', '.join(files())}")
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
    # The outputs are gone, so the state of their widgets must go too.
    notebook["metadata"].pop("widgets", None)
    return notebook


def graded(exercise: Exercise) -> Iterator[dict[str, Any]]:
    """Yield the two code cells of an exercise: the solved answer, and check.grade."""
    _, answer, checked, *_ = cells(exercise)
    yield answer | {"source": marked_solution(exercise)}
    yield checked | {"source": check_cell(exercise, "check.grade")}


def read(path: Path) -> Notebook:
    """Read a notebook; ValueError if the file is not one."""
    try:
        notebook: Notebook = json.loads(path.read_text("utf-8"))
        cells, metadata = notebook["cells"], notebook["metadata"]
        kinds = {cell["cell_type"] for cell in cells}
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no notebook {path}") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{path} is a folder; accepted: notebooks (.ipynb)") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path} is not a notebook (.ipynb)") from None
    if not isinstance(metadata, dict) or not kinds <= {"code", "markdown", "raw"}:
        raise ValueError(f"{path} is not a notebook (.ipynb)")
    return notebook


def nbgrader(arguments: list[str], course: Path) -> None:
    """Run nbgrader in the course's folder; ValueError with its last line if it fails."""
    # nbgrader calls alembic by name, and alembic is in the folder of this Python.
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=course,
        env={**os.environ, "PATH": here},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it printed nothing"]
        raise ValueError(f"nbgrader {' '.join(arguments)} failed: {lines[-1]}")
