"""A JSON configuration file, read with a check of every entry's type and range.

`Config` is the file's entries with typed getters. Their errors name the file, the entry, its value
and the accepted values.
"""

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdlearn.utils.atomic_files import read_json
from sdlearn.utils.validation import shown

Json = Mapping[str, Any]
Integers = tuple[int, ...]

# No size in a configuration comes near this, and torch can count the elements of a tensor with it.
LARGEST = 2**20
# Nor do counts of layers and of levels; each layer takes time to build, whatever its size.
MOST_LAYERS = 256
MOST_LEVELS = 16


@contextmanager
def errors_name_file(path: Path) -> Iterator[Path]:
    """Add the path to every ValueError that is raised inside and does not name it yet.

    For the errors of classes that are built from a file's values. Only ValueError is changed:
    Config checks the types of the values, so any other error is a bug in the code.

    Yields:
        The path.
    """
    try:
        yield path
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error


def read_config(path: Path, fixed: dict[str, Any], levels: Collection[str] = ()) -> "Config":
    """Read a network's configuration file and compare some entries with the supported values.

    Args:
        path: The JSON file.
        fixed: The only supported value of each of these entries, or a `OneOf`. The file may leave
            them out.
        levels: Which of them the file may also give as a list, with a value for each level.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a JSON object, or has another value for an entry of `fixed`.
    """
    return check_fixed(Config(path), fixed, levels)


def check_fixed(config: "Config", fixed: dict[str, Any], levels: Collection[str] = ()) -> "Config":
    """The configuration, if some of its entries have the supported values, see `read_config`."""
    for key, value in (fixed | {"quantization_config": None}).items():
        accepted = value if isinstance(value, OneOf) else OneOf(value)
        given = [config[key]] if key in config else []
        if key in levels and is_list(config.get(key)):
            per_level = len(config.integers("block_out_channels")) == len(config[key])
            given = config[key] if per_level else given
        if any(each not in accepted for each in given):
            raise ValueError(
                f"{config.path}: {key} is {shown(config[key])}; only "
                f"{' and '.join(map(repr, accepted))} {'is' if len(accepted) == 1 else 'are'} "
                "supported"
            )
    return config


class OneOf(tuple[Any, ...]):
    """The values of a setting that all mean the same; the first is written."""

    __slots__ = ()

    def __new__(cls, *values: Any) -> "OneOf":
        return super().__new__(cls, values)


def written(fixed: dict[str, Any]) -> dict[str, Any]:
    """The entries of a table of fixed settings as they are written."""
    return {key: value[0] if isinstance(value, OneOf) else value for key, value in fixed.items()}


class Config(dict[str, Any]):
    """The entries of a JSON configuration file, with typed getters.

    Each getter returns the default if the file does not have the entry. It raises ValueError if
    there is no default either, or if the value has the wrong type or is out of range.

    Args:
        path: The JSON file.
        content: An object in the file, where that is the configuration; None for the whole.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a JSON object.
    """

    def __init__(self, path: Path, content: Json | None = None) -> None:
        super().__init__(read_json(path) if content is None else content)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"{self.path} has no entry {key!r}")

    def entry(self, key: str, default: Any) -> Any:
        """The unchecked value of an entry; None is no default."""
        return self[key] if default is None else self.get(key, default)

    def wrong(self, key: str, expected: str) -> ValueError:
        """The error for an entry that is not what it is expected to be."""
        return ValueError(
            f"{self.path} has an entry of the wrong kind: {key} is {shown(self[key])}; it "
            f"must be {expected}"
        )

    def integer(
        self, key: str, default: int | None = None, least: int = 1, most: int = LARGEST
    ) -> int:
        """A whole number in least … most."""
        value = self.entry(key, default)
        if not is_integer(value, least, most):
            raise self.wrong(key, f"a whole number from {least} to {most}")
        return int(value)

    def integers(
        self, key: str, default: Sequence[int] | None = None, least: int = 1, most: int = LARGEST
    ) -> Integers:
        """A list of 1 … MOST_LEVELS whole numbers in least … most."""
        values = self.entry(key, default)
        if not is_list(values) or not values or not all(is_integer(v, least, most) for v in values):
            raise self.wrong(key, f"a list of whole numbers from {least} to {most}")
        if len(values) > MOST_LEVELS:
            raise ValueError(
                f"{self.path}: {key} has {len(values)} entries; at most {MOST_LEVELS} are supported"
            )
        return tuple(values)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self.entry(key, default)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value <= sys.float_info.max:  # no infinity, no larger integer
            raise self.wrong(key, "a number above 0")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        """A bool; null counts as false."""
        value = self.get(key, default)
        if not (value is None or isinstance(value, bool)):
            raise self.wrong(key, "true or false")
        return bool(value)

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self.entry(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def texts(self, key: str, default: Sequence[str] | None = None) -> list[str]:
        """A list of strings; null counts as an empty list if there is a default."""
        values = self.entry(key, default)
        if values is None and default is not None:
            return []
        if not is_list(values) or not all(isinstance(value, str) for value in values):
            raise self.wrong(key, "a list of strings")
        return list(values)


def is_integer(value: object, least: int, most: int) -> bool:
    """Whether the value is a whole number in least … most, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_list(value: object) -> bool:
    """Whether the value is a list or a tuple."""
    return isinstance(value, list | tuple)
