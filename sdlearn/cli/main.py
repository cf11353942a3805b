"""The `sdlearn` command: parses the arguments, runs a command's module and reports errors.

Exit codes: 0 for success, 2 for an error that the user can fix (one sentence on stderr), 130 for an
interrupt, 141 if the program that reads the output has ended.
"""

import argparse
import errno
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import NoReturn

from sdlearn.cli.processes import OtherProcessFailed, is_quiet, may_speak
from sdlearn.cli.streams import (
    end_progress,
    escape_what_cannot_be_printed,
    flush_stdout,
    patient_stderr,
)
from sdlearn.utils import memory
from sdlearn.utils.resources import package_version
from sdlearn.utils.validation import one_line, shown

# Each module has add_arguments(parser) and main(args) -> exit code.
COMMANDS = {
    "generate": ("generate images from a prompt", "sdlearn.cli.generate"),
    "train": ("train a part of a model", "sdlearn.cli.train"),
    "evaluate": ("measure a model", "sdlearn.cli.evaluate"),
    "course": (
        "copy the notebooks into a folder and open them",
        "sdlearn.cli.course",
    ),
    "playground": ("open the playground in the browser", "sdlearn.cli.playground"),
    "classroom": ("make a course for nbgrader", "sdlearn.cli.classroom"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sdlearn COMMAND ...`.

    Args:
        argv: The arguments after `sdlearn`. None takes them from `sys.argv`.

    Returns:
        The exit code.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    with patient_stderr():
        return run(argv)


def run(argv: Sequence[str]) -> int:
    """Run a command with these arguments, and report its error; returns the exit code."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            escape_what_cannot_be_printed()
            args = parse(argv)
            code: int = import_module(COMMANDS[args.command][1]).main(args)
            flush_stdout()
            return code
    except SystemExit:  # of argparse, which has printed a help text or an error
        try:
            flush_stdout()
        except BrokenPipeError:
            return 141
        except OSError as error:
            return report(error)
        raise
    except KeyboardInterrupt:
        print("\nsdlearn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        with suppress(BrokenPipeError):
            flush_stdout()
        return 141
    except OtherProcessFailed:
        return 2
    except (ValueError, OSError, FloatingPointError, ImportError, MemoryError) as error:
        return report(error)
    except RuntimeError as error:
        if not memory.is_about_memory(error) and not isinstance(error, RecursionError):
            raise
        return report(error)


def report(error: Exception) -> int:
    """Print an error in one line; returns the exit code."""
    if isinstance(error, RecursionError):
        message = "something in the input is nested too deeply to be read"
    elif memory.is_about_memory(error):
        message = memory.in_a_sentence(error)
    elif isinstance(error, OSError) and error.strerror:  # the system's own, with a number
        message = f"{place_of(error)}: {one_line(error.strerror)}"
    else:
        message = one_line(error)
    if may_speak():
        end_progress()
        # A process that has died leaves its progress bar on the line.
        start = "\n" if isinstance(error, ConnectionError) else ""
        print(f"{start}sdlearn: {message}", file=sys.stderr)
    return 2


def place_of(error: OSError) -> str:
    """The beginning of a message for an error of the system: what cannot be read or written."""
    if error.filename is not None:
        return f"{shown(str(error.filename))} cannot be read or written"
    # Errors of opening a file name it; those of writing do not.
    full = error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", None))
    return "the output cannot be written" if full else "a file cannot be read or written"


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with code 2."""
        said = f"sdlearn: {one_line(message)}; see {self.prog} --help\n"
        self.exit(2, said if may_speak() else None)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of one command; argparse exits with code 2 if they are wrong."""
    parser = Parser(
        prog="sdlearn", description="Stable Diffusion, built by hand in a notebook course."
    )
    parser.add_argument("--version", action="version", version=f"sdlearn {package_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, module) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        # Import only the requested command's module: torch takes seconds, and --help should not.
        if name in argv[:1]:
            import_module(module).add_arguments(command)
    return parser.parse_args(argv)


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning on stderr without the source line that caused it; one process does so."""
    if is_quiet():
        return
    end_progress()
    print(f"sdlearn: {one_line(message)}", file=sys.stderr)
