#!/usr/bin/env python3
"""One command for the course, the same on Linux, macOS and Windows:

    python lab.py                 set up if needed, then open the course in JupyterLab
    python lab.py setup           only set up: make .venv and install the course into it
    python lab.py test            the whole suite: lint, types, tests and notebooks
    python lab.py test -k vae     only some tests; everything after "test" goes to pytest
    python lab.py lint            ruff, mypy, codespell and the state of the stored notebooks
    python lab.py format          let ruff and the notebook cleaner put things in order

Options after `python lab.py` go to JupyterLab, such as --no-browser.
This file needs nothing but Python's standard library.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / ".sdlearn-installed"
FIRST_NOTEBOOK = "notebooks/00-the-whole-picture.ipynb"
WANTED = ["-c", "constraints.txt", "-e", ".[course,test]"]
TESTED = ("tests", "notebooks")
OLDEST, TOO_NEW = (3, 11), (3, 15)
GIGABYTES = 3

LINT = [
    ("ruff check", ["-m", "ruff", "check", "."]),
    ("ruff format", ["-m", "ruff", "format", "--check", "."]),
    ("mypy", ["-m", "mypy"]),
    ("codespell", ["-m", "codespell_lib"]),
    ("stored notebooks", ["tools/nbtool.py", "check"]),
]
FORMAT = [
    ("ruff check", ["-m", "ruff", "check", "--fix", "."]),
    ("ruff format", ["-m", "ruff", "format", "."]),
    ("stored notebooks", ["tools/nbtool.py", "clean"]),
]
# Two workers with one thread each: more threads than cores make torch many times slower. A
# notebook's cells share one kernel, so they must stay together on one worker: loadscope.
PYTEST = ["-n", "2", "--dist", "loadscope"]
NBVAL = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "400"]


class Problem(Exception):
    """Something the person at the keyboard can put right; its text says how."""


def main(argv: list[str]) -> int:
    command = argv[0] if argv and not argv[0].startswith("-") else "lab"
    rest = argv[1:] if argv and argv[0] == command else argv
    commands = {"lab": lab, "setup": lambda _: 0, "test": test, "lint": lint, "format": tidy}
    if "-h" in argv[:1] or "--help" in argv[:1]:
        print(__doc__.strip())
        return 0
    try:
        if command not in commands:
            raise Problem(f"unknown command {command!r}; known are: {', '.join(commands)}")
        if rest and command not in ("lab", "test"):
            raise Problem(f"`lab.py {command}` takes no arguments, but was given {' '.join(rest)}")
        set_up()
        return commands[command](rest)
    except Problem as problem:
        print(f"lab.py: {problem}", file=sys.stderr)
        return 2


# ---------------------------------------------------------------- the commands


def lab(options: list[str]) -> int:
    jupyter = [
        "-m",
        "jupyterlab",
        # As an address, not as a file: then the whole repository can be browsed, sdlearn/ too.
        f"--LabApp.default_url=/lab/tree/{FIRST_NOTEBOOK}",
        # Nothing is asked of the network: no news, no look for updates.
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        # A photo that is handed to a widget goes through in one message.
        "--ServerApp.tornado_settings={'websocket_max_message_size': 104857600}",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        jupyter.append("--allow-root")
    return run([*jupyter, *options], inside())


def test(arguments: list[str]) -> int:
    """With arguments only pytest runs; pytest comes last, so that its closing line does too."""
    failed = [] if arguments else run_all(LINT)
    code = run(["-m", "pytest", *pytest_arguments(arguments)], testing())
    if failed:
        print(f"lab.py: failed before the tests: {', '.join(failed)} (see above)", file=sys.stderr)
    return code or int(bool(failed))


def lint(_: list[str]) -> int:
    return int(bool(run_all(LINT)))


def tidy(_: list[str]) -> int:
    return int(bool(run_all(FORMAT)))


def pytest_arguments(arguments: list[str]) -> list[str]:
    """The folders are added unless the arguments name what to test themselves."""
    present = [folder for folder in TESTED if (ROOT / folder).is_dir()]
    paths = [ROOT / argument.split("::")[0] for argument in arguments]
    named = any(p.exists() and p.is_relative_to(ROOT / f) for p in paths for f in present)
    return [*PYTEST, *NBVAL, *([] if named else present), *arguments]


def run_all(pieces: list[tuple[str, list[str]]]) -> list[str]:
    """Run every piece even when one fails, say how each went, return the names that failed."""
    failed = []
    for name, command in pieces:
        print(f"--- {name}", flush=True)
        if run(command, inside()) != 0:
            failed.append(name)
    for name, _ in pieces:
        print(f"{name:18} {'FAILED' if name in failed else 'ok'}", flush=True)
    return failed


def run(arguments: list[str], environment: dict[str, str]) -> int:
    """Run the environment's Python from the repository's root; Ctrl-C is the child's to answer."""
    child = subprocess.Popen([str(PYTHON), *arguments], cwd=ROOT, env=environment)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue


def inside() -> dict[str, str]:
    """The caller's variables, as if the environment had been activated."""
    variables = {
        **os.environ,
        "VIRTUAL_ENV": str(VENV),
        "PATH": os.pathsep.join([str(PYTHON.parent), os.environ.get("PATH", "")]),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONUTF8": "1",
    }
    # Else every kernel and test process would compile all of torch anew: uv leaves that to the
    # first import.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    return variables


def testing() -> dict[str, str]:
    """Tests never ask the network for a model."""
    return {"OMP_NUM_THREADS": "1", **inside(), "HF_HUB_OFFLINE": "1"}


# ---------------------------------------------------------------- setting up


def set_up() -> None:
    """Make .venv and install the course, unless that was done and nothing has changed since."""
    if STAMP.exists() and STAMP.read_text() == fingerprint() and works(PYTHON):
        return
    free = shutil.disk_usage(ROOT).free
    problem = unsuitable(sys.version_info[:2], platform.system(), platform.machine(), free)
    if problem:
        raise Problem(problem)
    if not works(PYTHON):
        print("making .venv ...", flush=True)
        make_environment()
    print("installing the course into .venv, once; this takes minutes the first time", flush=True)
    if platform.system() == "Linux" and not shutil.which("nvidia-smi"):
        print("(no NVIDIA GPU here: UV_TORCH_BACKEND=cpu asks for a much smaller torch)")
    install()
    hide_grading()
    STAMP.write_text(fingerprint())


def fingerprint() -> str:
    """Changes when the environment has to be installed again; also when the folder has moved."""
    files = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256(b"\0".join([*files, repr((WANTED, str(ROOT))).encode()])).hexdigest()


def works(python: Path) -> bool:
    """False when there is no such Python, or the one it was made from is gone or too old."""
    check = f"import sys, pip; sys.exit(not {OLDEST} <= sys.version_info[:2] < {TOO_NEW})"
    try:
        return subprocess.run([str(python), "-c", check], capture_output=True).returncode == 0
    except OSError:
        return False


def unsuitable(version: tuple[int, int], system: str, machine: str, free: int) -> str | None:
    """Why the course cannot be installed with this Python on this machine, or None."""
    here = ".".join(map(str, version))
    if version < OLDEST:
        return (
            f"Python 3.11 or newer is needed, and this is {here} ({sys.executable}). Install a "
            "newer one and run that, for example `python3.12 lab.py`, or use conda (README.md)."
        )
    if version >= TOO_NEW:
        return (
            f"this is Python {here}, for which PyTorch 2.13 has no build; run lab.py with "
            "Python 3.11, 3.12, 3.13 or 3.14, for example `python3.13 lab.py`."
        )
    if (system, machine) == ("Darwin", "x86_64"):
        return "PyTorch is no longer built for Intel Macs, nor for an Intel Python under Rosetta."
    if free < GIGABYTES * 10**9:
        return (
            f"the disk that holds {ROOT} has {free / 1e9:.1f} GB free; the course needs about "
            f"{GIGABYTES} GB, and with PyTorch's CUDA build about 8 GB."
        )
    return None


def make_environment() -> None:
    try:
        venv.create(VENV, with_pip=True, clear=True, symlinks=os.name != "nt")
    except (subprocess.CalledProcessError, ImportError) as error:
        raise Problem(
            "this Python cannot make virtual environments; on Debian and Ubuntu "
            "`sudo apt install python3-venv` adds what is missing."
        ) from error
    except OSError as error:
        raise Problem(f"{VENV} could not be made: {error}") from error


def install() -> None:
    """With uv, which is fast and shows its progress; where it cannot, with pip alone."""
    pip = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check"]
    if subprocess.call([*pip, "--quiet", "uv"], cwd=ROOT) == 0:
        uv = [str(PYTHON), "-m", "uv", "pip", "install", "--python", str(PYTHON)]
        settings = {**uv_settings(pip_config()), **os.environ}
        if subprocess.call([*uv, *WANTED], cwd=ROOT, env=settings) == 0:
            return
        print("uv could not do it; trying again with pip, which takes longer", flush=True)
    done = subprocess.Popen(
        [*pip, *WANTED, "--progress-bar", "off"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    said = []
    for line in done.stdout or ():
        print(line, end="", flush=True)
        said.append(line)
    if done.wait() != 0:
        raise Problem(explain("".join(said)))


def hide_grading() -> None:
    """Tests and teachers need nbgrader, which would also show learners its menu, buttons and panel.

    notebooks/teaching.md says how a teacher gets them.
    """
    hidden = ["@jupyter/nbgrader", "@jupyter-notebook/lab-extension:interface-switcher"]
    settings = VENV / "etc" / "jupyter" / "labconfig" / "page_config.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps({"disabledExtensions": dict.fromkeys(hidden, True)}), "utf-8")


def pip_config() -> str:
    command = [str(PYTHON), "-m", "pip", "config", "list"]
    return subprocess.run(command, capture_output=True, text=True).stdout


def uv_settings(config: str) -> dict[str, str]:
    """What `pip config list` prints, as the variables uv reads: uv ignores pip's settings.

    Schools and companies often reach packages only through such settings.
    """
    settings = {}
    for line in config.splitlines():
        key, _, value = line.partition("=")
        settings[key.rsplit(".", 1)[-1]] = str(ast.literal_eval(value)).split()
    variables = {}
    if settings.get("find-links"):
        variables["UV_FIND_LINKS"] = ",".join(settings["find-links"])
    if settings.get("index-url"):
        variables["UV_DEFAULT_INDEX"] = settings["index-url"][0]
    if settings.get("extra-index-url"):
        variables["UV_INDEX"] = " ".join(settings["extra-index-url"])
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # pip's: the best version of any
    if settings.get("cert"):
        variables["SSL_CERT_FILE"] = " ".join(settings["cert"])
    return variables


def explain(said: str) -> str:
    """One sentence on why pip failed, from what it said."""
    text = said.lower()
    if "no space left" in text or "errno 28" in text:
        return "the disk is full; free about 3 GB and run the same command again."
    network = ("connection", "timed out", "name resolution", "getaddrinfo", "retrying", "proxy")
    if any(word in text for word in network):
        return (
            "packages could not be fetched; set-up needs the network once (afterwards the course "
            "does not). Check the connection, or pip's proxy settings, and run it again."
        )
    return "the course could not be installed; pip's own words are above."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
