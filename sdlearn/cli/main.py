"""The `sdlearn` command: parses the arguments, runs a command's module and reports errors.

Exit codes: 0 for success, 2 for an error that the user can fix (one sentence on stderr), 130 for an
interrupt.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

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
            args = parse(argv)
            code: int = import_module(COMMANDS[args.command][1]).main(args)
            return code
    except KeyboardInterrupt:
        print("\nsdlearn: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"sdlearn: {error}", file=sys.stderr)
        return 2


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of one command; argparse exits with code 2 if they are wrong."""
    parser = argparse.ArgumentParser(
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
    print(f"sdlearn: {message}", file=sys.stderr)
