"""Where the shipped files are: in a clone beside the package, in an installed wheel inside it."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def data_folder(name: str) -> Path:
    """The folder of a shipped model: `data_folder("storybook")`, `data_folder("judge")`.

    Raises FileNotFoundError when neither the clone nor the installed package holds it.
    """
    places = [PACKAGE.parent / "data" / name, PACKAGE / "_data" / name]
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"the shipped folder {name!r} was not found; looked for "
        + " and ".join(str(place) for place in places)
    )


def notebook_file(name: str) -> Path:
    """A notebook that the package itself uses, such as "playground.ipynb".

    Raises FileNotFoundError when neither the clone nor the installed package holds it.
    """
    for folder in (PACKAGE.parent / "notebooks", PACKAGE / "_notebooks"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"the notebook {name} was not found beside the package, nor inside it")
