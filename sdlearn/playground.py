"""`sdlearn playground`: the playground as a page in the browser, without the notebook around it."""

import argparse
import os
from pathlib import Path

from sdlearn.paths import notebook_file

MODEL = "SDLEARN_MODEL"  # how the notebook's kernel learns which model to load
LARGEST = 100 * 2**20  # bytes of a picture that is handed in; tornado alone takes ten million


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sdlearn playground`."""
    add = parser.add_argument
    add("--model", metavar="PLACE", help="a folder, hub id or single file (default: the storybook)")
    add("--port", type=int, default=8866, metavar="N", help="where it answers (default: 8866)")
    add("--no-browser", action="store_true", help="print the address, open nothing")


def main(args: argparse.Namespace) -> int:
    """Serve the page until it is interrupted.

    Raises FileNotFoundError without the notebook, ValueError without Voilà and for a port that is
    none, each in one sentence.
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
    # Its outputs alone, and for this computer alone.
    options = [f"--port={args.port}", "--Voila.ip=127.0.0.1", "--theme=light"]
    if args.no_browser:
        options.append("--no-browser")
    config = Config()
    config.Voila.tornado_settings = {"websocket_max_message_size": LARGEST}
    # Each page has a kernel, which holds the model: five minutes after the page is gone, it ends.
    config.MappingKernelManager.cull_idle_timeout = 300
    config.MappingKernelManager.cull_interval = 60
    Voila.launch_instance([str(notebook), *options], config=config)
    return 0
