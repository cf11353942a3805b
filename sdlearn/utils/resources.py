"""Locations of the shipped files: next to the package in a clone, inside it when installed."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def data_folder(name: str) -> Path:
    """The folder of a shipped model, such as "storybook" or "judge".

    Raises:
        FileNotFoundError: If neither a clone nor the installed package has it.
    """
    folders = [PACKAGE.parent / "data" / name, PACKAGE / "_data" / name]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"the shipped folder {name!r} was not found; neither of these exists: "
        + ", ".join(str(folder) for folder in folders)
    )


def notebook_file(name: str) -> Path:
    """A notebook that the package itself uses, such as "playground.ipynb".

    Raises:
        FileNotFoundError: If neither a clone nor the installed package has it.
    """
    for folder in (PACKAGE.parent / "notebooks", PACKAGE / "_notebooks"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"the notebook {name} was not found; it belongs in {PACKAGE.parent / 'notebooks'} or "
        f"{PACKAGE / '_notebooks'}"
    )


def course_files() -> list[Path]:
    """The course: its notebooks in order, the playground, and the teacher's page.

    Raises:
        FileNotFoundError: If neither a clone nor the installed package has them.
    """
    folder = notebook_file("playground.ipynb").parent
    lessons = sorted(folder.glob("[0-9][0-9]-*.ipynb"))
    if not lessons:
        raise FileNotFoundError(f"the notebooks of the course were not found in {folder}")
    return [*lessons, folder / "playground.ipynb", notebook_file("teaching.md")]


def package_version() -> str:
    """The version in the metadata of the installed package; "unknown" in a clone without any."""
    try:
        return version("sdlearn")
    except PackageNotFoundError:
        return "unknown"
