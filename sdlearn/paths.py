"""Where the shipped files are: in data/ of a clone, in sdlearn/_data/ of an installed wheel."""

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
