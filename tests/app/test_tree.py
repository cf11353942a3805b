"""The trees that are printed for readers name the files that are there, and every one of them."""

import ast
import re
import sys
from pathlib import Path

import pytest

import sdlearn

PACKAGE = Path(sdlearn.__file__).parent
ROOT = PACKAGE.parent
# Folders that get one line in ARCHITECTURE.md, whatever is in them.
ONE_LINE = ("course/exercises", "course/figures", "course/widgets")


def printed(block: str) -> set[str]:
    """The paths in a printed tree below its first line, folders with a slash at the end."""
    found: set[str] = set()
    above: list[tuple[int, str]] = []  # the folders around a line, with their indentation
    for line in block.splitlines()[1:]:
        match = re.match(r"( *)([\w.]+/?)  +\S", line)
        if not match:
            assert not line.strip(), f"no name and text two spaces apart: {line!r}"
            continue
        indent, name = len(match[1]), match[2]
        above = [(i, folder) for i, folder in above if i < indent]
        path = "".join(folder for _, folder in above) + name
        assert path not in found, f"{path} is listed twice"
        found.add(path)
        if name.endswith("/"):
            above.append((indent, name))
    return found


def block_of(text: str) -> str:
    """The fenced block that draws the package, from its line "sdlearn/" on."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (block,) = [each for each in blocks if "unet.py" in each]
    lines = block.splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.split()[:1] == ["sdlearn/"]]
    rest = enumerate(lines[start + 1 :], start + 1)
    end = next((i for i, line in rest if line and not line.startswith(" ")), None)
    return "\n".join(lines[start:end])


def top_level() -> set[str]:
    """The chapters and the folders."""
    chapters = {file.name for file in PACKAGE.glob("*.py") if not file.name.startswith("_")}
    return chapters | {f"{file.parent.name}/" for file in PACKAGE.glob("*/__init__.py")}


def every_file() -> set[str]:
    files = {file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py")}
    files = {file for file in files if not file.startswith(tuple(f"{x}/" for x in ONE_LINE))}
    folders = {f"{file.rsplit('/', 1)[0]}/" for file in files if "/" in file}
    folders |= {f"{folder}/" for folder in ONE_LINE}
    return folders | {file for file in files if not file.endswith("/__init__.py")}


def test_architecture_has_a_line_for_every_file():
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    assert printed(block_of(text)) == every_file()


def test_the_readme_has_a_line_for_every_chapter_and_folder():
    text = (ROOT / "README.md").read_text("utf-8")
    assert printed(block_of(text)) == top_level()


def test_the_package_s_docstring_has_them_too():
    text = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))) or ""
    indented = [line for line in text.splitlines() if re.match(r" {4}[\w.]+(/|\.py) ", line)]
    assert printed("\n".join(["sdlearn/", *indented])) == top_level()


@pytest.mark.parametrize("folder", ["weights", "utils", "evaluation", "course/grading"])
def test_a_folder_s_docstring_lists_its_modules(folder: str):
    text = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text("utf-8"))) or ""
    listed = [
        name
        for line in text.splitlines()
        if (match := re.match(r" *([a-z_]+(?:, [a-z_]+)*)  +\S", line))
        for name in match[1].split(", ")
    ]
    there = {file.stem for file in (PACKAGE / folder).glob("*.py")} - {"__init__"}
    assert sorted(listed) == sorted(there)


def test_files_named_in_architecture_are_there():
    """Those in running text; NN and topic stand for what a reader adds."""
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    named = set(re.findall(r"`((?:[\w.]+/)*[\w.]+(?:/|\.py))`", text))
    named = {name for name in named if not re.search(r"NN|topic", name)}
    assert len(named) > 20
    assert {name for name in named if not (ROOT / name).exists() and not find(name)} == set()


def find(name: str) -> list[Path]:
    return [
        path
        for path in PACKAGE.rglob(Path(name).name)
        if path.as_posix().endswith(name.rstrip("/"))
    ]


def test_one_step_runs_through_the_files_that_architecture_names():
    states = sdlearn.StableDiffusion.storybook().trajectory("a red cat on the sand", steps=3)
    next(states)
    files: set[str] = set()
    to_network: list[str] = []

    def note(frame, event, argument):
        if event != "call" or Path(frame.f_code.co_filename).parent != PACKAGE:
            return
        files.add(Path(frame.f_code.co_filename).name)
        if frame.f_code.co_qualname == "UNet.forward" and not to_network:
            while frame is not None:
                if PACKAGE in Path(frame.f_code.co_filename).parents:
                    to_network.insert(0, frame.f_code.co_name)
                frame = frame.f_back

    sys.setprofile(note)
    try:
        next(states)
    finally:
        sys.setprofile(None)
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    table = set(re.findall(r"^\| \d \| `(\w+\.py)`", text, re.MULTILINE))
    assert len(table) == 6
    assert (
        files | {"schedule.py"} == table
    )  # a Point is made by the schedule, before the first step
    assert to_network == ["checked", "ddim", "denoise", "guided", "forward"]


def test_a_tree_that_has_drifted_is_found():
    tree = "sdlearn/\n  a.py   one\n\n  b/     two\n    c.py   three\n    d/   four\n  e.py  five"
    assert printed(tree) == {"a.py", "b/", "b/c.py", "b/d/", "e.py"}
    with pytest.raises(AssertionError, match=r"a\.py is listed twice"):
        printed(tree + "\n  a.py  again")
    with pytest.raises(AssertionError, match="no name and text"):
        printed(tree + "\n  a line of something else")
    text = f"```\nlab.py\n```\n```\nnotebooks/  x\n{tree}\n  unet.py  six\ntests/  y\n```"
    assert block_of(text) == f"{tree}\n  unet.py  six"
