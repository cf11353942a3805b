"""The command line: parses, hands over to the module that does the work, reports errors.

Exit codes: 0 done, 2 something the user can put right (one sentence on stderr), 130 interrupted.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

# Each module has add_arguments(parser) and main(args) -> exit code.
COMMANDS = {
    "generate": ("make pictures of a prompt", "sdlearn.generate"),
    "train": ("train a part of a model", "sdlearn.recipes"),
    "evaluate": ("measure a model", "sdlearn.evaluation"),
    "playground": ("open the playground in the browser", "sdlearn.playground"),
    "classroom": ("make a course for nbgrader", "sdlearn.classroom"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sdlearn COMMAND ...`; returns the exit code."""
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
    """The arguments of one command. As always, argparse itself ends the program for a wrong one."""
    parser = argparse.ArgumentParser(
        prog="sdlearn", description="Stable Diffusion, built by hand in a notebook course."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, module) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        # Only the module of the command asked for: torch takes seconds, and --help should not.
        if name in argv[:1]:
            import_module(module).add_arguments(command)
    return parser.parse_args(argv)


def show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as the user of a command wants it: without the line of code that gave it."""
    print(f"sdlearn: {message}", file=sys.stderr)
