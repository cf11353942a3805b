"""`sdlearn playground`: open the playground in the browser, without a notebook."""

import argparse
import os
from pathlib import Path

from sdlearn.utils.resources import notebook_file

MODEL = "SDLEARN_MODEL"  # environment variable that names the model for the notebook's kernel
LARGEST = 100 * 2**20  # bytes of an uploaded image; tornado's own limit is 10 MB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sdlearn playground`."""
    add = parser.add_argument
    add("--model", metavar="PLACE", help="a folder, hub id or single file (default: the storybook)")
    add("--port", type=int, default=8866, metavar="N", help="port to serve on (default: 8866)")
    add("--no-browser", action="store_true", help="print the address and open no browser")


def main(args: argparse.Namespace) -> int:
    """Serve the page until it is interrupted.

    Args:
        args: From `add_arguments`.

    Returns:
        The exit code.

    Raises:
        FileNotFoundError: If the notebook is missing.
        ValueError: If the port is out of range or Voilà is not installed.
    """
    if not 1 <= args.port <= 65535:
        raise ValueError(f"--port is {args.port}; it must lie in 1 … 65535")
    notebook = notebook_file("playground.ipynb")
    try:
        from traitlets.config import Config
        from voila.app import Voila
    except ImportError as error:
        raise ValueError(
            "the playground needs Voilà, which comes with the course: pip install 'sdlearn[course]'"
        ) from error

    if args.model is not None:
        place = Path(args.model)
        os.environ[MODEL] = str(place.resolve()) if place.exists() else args.model
    # Serve the outputs without the code, and only to this computer.
    options = [f"--port={args.port}", "--Voila.ip=127.0.0.1", "--theme=light"]
    if args.no_browser:
        options.append("--no-browser")
    config = Config()
    config.Voila.tornado_settings = {"websocket_max_message_size": LARGEST}
    # Each page has a kernel, which holds the model. It ends five minutes after the page is closed.
    config.MappingKernelManager.cull_idle_timeout = 300
    config.MappingKernelManager.cull_interval = 60
    Voila.launch_instance([str(notebook), *options], config=config)
    return 0
