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


def package_version() -> str:
    """The version in the metadata of the installed package; "unknown" in a clone without any."""
    try:
        return version("sdlearn")
    except PackageNotFoundError:
        return "unknown"
