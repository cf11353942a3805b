"""`sdlearn course`: copy the notebooks into a folder and open them in JupyterLab.

This is the course for someone who has installed the package and has no clone. A second call brings
files up to date that are still as they were copied, and leaves alone those that were changed.
"""

import argparse
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from sdlearn.cli.arguments import path, whole
from sdlearn.utils.atomic_files import atomic_write, check_folder, read_json, write_json
from sdlearn.utils.resources import course_files

FOLDER = "sdlearn-course"
RECORD = ".sdlearn-course.json"  # in the folder: file name -> SHA-256 of what was copied
PORT = 8888
SETTINGS = [  # as in lab.py
    # No network requests: no news, no check for updates.
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    # An image uploaded to a widget is one message.
    "--ServerApp.tornado_settings={'websocket_max_message_size': 104857600}",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sdlearn course`."""
    add = parser.add_argument
    add(
        "folder",
        nargs="?",
        type=path,
        default=Path(FOLDER),
        metavar="DIR",
        help=f"where the notebooks go; files that you changed are kept (default: {FOLDER})",
    )
    add("--port", type=whole, metavar="N", help=f"port to serve on (default: {PORT} or the next)")
    add("--no-browser", action="store_true", help="print the address and open no browser")


def main(args: argparse.Namespace) -> int:
    """Copy the notebooks, say which were kept, and serve the folder until it is interrupted.

    Args:
        args: From `add_arguments`.

    Returns:
        The exit code.

    Raises:
        FileNotFoundError: If the package has no notebooks.
        OSError: If the folder cannot be written to, or the port is in use.
        ValueError: If the port is out of range, JupyterLab is not installed, or the folder's record
            cannot be read.
    """
    if args.port is not None:
        check_port(args.port)
    if find_spec("jupyterlab") is None:
        raise ValueError(
            "the course needs JupyterLab, which comes with it: pip install 'sdlearn[course]'"
        )
    files = course_files()
    check_folder(args.folder, files=[file.name for file in files])
    written, kept = copy(files, args.folder)
    print(f"{args.folder}: {written} files written, {len(files) - written - len(kept)} up to date")
    if kept:
        print(f"kept as you changed them: {', '.join(kept)}")
        print("(to get the original of one again, rename yours and run this again)")
    sys.stdout.flush()
    return serve(args.folder, files[0].name, args.port, args.no_browser)


def check_port(port: int) -> None:
    """Check that a port of this computer is free.

    Raises:
        OSError: If it is in use or may not be used.
        ValueError: If there is no such port.
    """
    if not 1 <= port <= 65535:
        raise ValueError(f"--port is {port}; it must lie in 1 … 65535")
    try:
        with socket.socket() as probe:
            if os.name == "posix":  # elsewhere it would let two servers have the same port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise OSError(f"--port {port} cannot be used ({reason}); give another one") from error


def copy(files: Sequence[Path], folder: Path) -> tuple[int, list[str]]:
    """Copy files into a folder, but never over one that was changed there.

    Args:
        files: The files of the course.
        folder: Where they go; it is made if it is not there.

    Returns:
        How many were written, and the names of those that were kept because they were changed.

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If the record of an earlier call cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / RECORD
    before: Mapping[str, object] = read_json(record) if record.exists() else {}
    after = dict(before)
    written, kept = 0, []
    for file in files:
        place, content = folder / file.name, file.read_bytes()
        new = hashlib.sha256(content).hexdigest()
        there = hashlib.sha256(place.read_bytes()).hexdigest() if place.exists() else None
        if there not in (None, new, before.get(file.name)):
            kept.append(file.name)
            continue
        if there != new:
            with atomic_write(place) as part:
                part.write_bytes(content)
            written += 1
        after[file.name] = new
    if after != before:
        write_json(record, after)
    return written, kept


def serve(folder: Path, first: str, port: int | None, no_browser: bool) -> int:
    """Open a folder in JupyterLab until it is interrupted.

    Args:
        folder: The folder, above which the browser sees nothing.
        first: The notebook that is opened.
        port: The port; with None, the first that is free from PORT on.
        no_browser: Whether only the address is printed.

    Returns:
        JupyterLab's exit code.
    """
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={folder.resolve()}",
        f"--LabApp.default_url=/lab/tree/{first}",
        *SETTINGS,
    ]
    if port is not None:
        command += [f"--port={port}", "--ServerApp.port_retries=0"]
    if no_browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    child = subprocess.Popen(command, env=variables())
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:  # JupyterLab gets it too, and asks whether to end
            continue


def variables() -> dict[str, str]:
    """The environment variables: the kernels and commands of this Python come first."""
    # Not resolved: in a virtual environment, Python is a link to the one that made it.
    own = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": os.pathsep.join([own, os.environ.get("PATH", "")]),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONUTF8": "1",
    }
