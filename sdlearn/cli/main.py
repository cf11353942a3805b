"""The `sdlearn` command: parses the arguments, runs a command's module and reports errors.

Exit codes: 0 for success, 2 for an error that the user can fix (one sentence on stderr), 130 for an
interrupt, 141 if the program that reads the output has ended.
"""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from sdlearn.utils import memory
from sdlearn.utils.validation import one_line

# Each module has add_arguments(parser) and main(args) -> exit code.
COMMANDS = {
    "generate": ("generate images from a prompt", "sdlearn.cli.generate"),
    "train": ("train a part of a model", "sdlearn.cli.train"),
    "evaluate": ("measure a model", "sdlearn.cli.evaluate"),
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
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show_warning
            if sys.stderr is None:  # closed by the shell; progress bars would fail
                sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process
            escape_what_cannot_be_printed()
            args = parse(argv)
            code: int = import_module(COMMANDS[args.command][1]).main(args)
            if sys.stdout is not None:  # None if the shell has closed it
                sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        print("\nsdlearn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more at its end, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
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
    else:
        message = one_line(error)
    print(f"sdlearn: {message}", file=sys.stderr)
    return 2


def escape_what_cannot_be_printed() -> None:
    """Let stdout print a file name in any locale; stderr does so anyway."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with code 2."""
        self.exit(2, f"sdlearn: {one_line(message)}; see {self.prog} --help\n")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of one command; argparse exits with code 2 if they are wrong."""
    parser = Parser(
        prog="sdlearn", description="Stable Diffusion, built by hand in a notebook course."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, module) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        # Import only the requested command's module: torch takes seconds, and --help should not.
        if name in argv[:1]:
            import_module(module).add_arguments(command)
    return parser.parse_args(argv)


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning on stderr without the source line that caused it."""
    print(f"sdlearn: {one_line(message)}", file=sys.stderr)
