"""Arguments of the commands: their types, and messages that name what the user typed.

argparse itself would print the name of a Python function ("invalid user_path value").
"""

import argparse
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdlearn.utils import atomic_files
from sdlearn.utils.validation import LONGEST_PATH, shown


def whole(text: str) -> int:
    """The type of an option that takes a whole number."""
    try:
        return int(text)
    except ValueError:  # also for more digits than Python converts
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number") from None


def number(text: str) -> float:
    """The type of an option that takes a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a number") from None


def path(text: str) -> Path:
    """The type of an option that takes a file or a folder; "~" is the home folder."""
    if not text.strip():  # such as a variable of the shell that is not set
        raise argparse.ArgumentTypeError("it is empty; accepted: the name of a file or folder")
    if len(text) > LONGEST_PATH:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} has {len(text)} characters; accepted: at most {LONGEST_PATH}"
        )
    try:
        return atomic_files.user_path(text)
    except (ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def home_path(text: str) -> str:
    """As `path`, but a text, spelt as it was given; "" is left for the command to refuse."""
    if text:
        path(text)
    return os.path.expanduser(text)


def scaled_file(text: str) -> tuple[str, float]:
    """The type of an option that takes FILE, or FILE:SCALE; the scale is 1 if it is left out."""
    place, _, scale = text.rpartition(":")
    try:
        factor = float(scale) if place else 1.0
    except ValueError:  # a colon of the name, as in C:\\style.safetensors
        factor, place = 1.0, text
    if not math.isfinite(factor):
        raise argparse.ArgumentTypeError(f"the scale is {scale}; it must be a finite number")
    return home_path(place or text), factor


TYPES: dict[type, Callable[[str], Any]] = {
    int: whole,
    float: number,
    str: str,
}  # of a value that is one of these


@contextmanager
def as_typed(options: Mapping[str, str]) -> Iterator[None]:
    """A context manager in which an error that begins with a setting's name names its option.

    Args:
        options: The options that the user gave, by the names of their settings.

    Raises:
        ValueError, OSError: As in the block, such as "--size is 15" for "height is 15".
    """
    try:
        yield
    except (ValueError, OSError) as error:
        message = str(error)
        match = re.match(r"(\w+)(?= (?:is|has|with|'))", message)
        if match is None or match[1] not in options:
            raise
        rest = message[match.end() :].replace("with n = ", f"with {options.get('n', 'n')} = ")
        raise type(error)(options[match[1]] + rest) from error
