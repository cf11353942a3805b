"""`sdlearn playground`: open the playground in the browser, without a notebook."""

import argparse
import os
from pathlib import Path

from sdlearn.cli.arguments import whole
from sdlearn.utils.resources import notebook_file
from sdlearn.utils.validation import check_place

MODEL = "SDLEARN_MODEL"  # environment variable that names the model for the notebook's kernel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sdlearn playground`."""
    add = parser.add_argument
    add("--model", metavar="PLACE", help="a folder, hub id or single file (default: the storybook)")
    add(
        "--port",
        type=whole,
        default=8866,
        metavar="N",
        help="port to serve on (default: 8866)",
    )
    add("--no-browser", action="store_true", help="print the address and open no browser")


def main(args: argparse.Namespace) -> int:
    """Serve the page until it is interrupted.

    Args:
        args: From `add_arguments`.

    Returns:
        The exit code.

    Raises:
        FileNotFoundError: If the notebook or the model is missing.
        OSError: If the port is in use.
        ValueError: If the port is out of range, the model cannot be read, or Voilà is not
            installed.
    """
    if not 1 <= args.port <= 65535:
        raise ValueError(f"--port is {args.port}; it must lie in 1 … 65535")
    notebook = notebook_file("playground.ipynb")
    try:
        from sdlearn.cli.playground_server import bind, serve
    except ImportError as error:
        raise ValueError(
            "the playground needs Voilà, which comes with the course: pip install 'sdlearn[course]'"
        ) from error
    sockets = bind(args.port)
    place = os.environ.get(MODEL) if args.model is None else args.model
    if place is not None:
        check_place(place, "--model")
        os.environ[MODEL] = readable_model(place)
    serve(notebook, sockets, not args.no_browser)
    return 0


def readable_model(place: str) -> str:
    """The place of a model, as the notebook's kernel finds it in its own folder.

    All but the values of the weights is checked here, so that errors are reported before a page
    opens and files from the hub are already downloaded.

    Raises:
        FileNotFoundError, ValueError: See StableDiffusion.from_pretrained.
    """
    from sdlearn.weights.single_file import check_system

    check_system(place)
    return str(Path(place).resolve()) if Path(place).exists() else place
