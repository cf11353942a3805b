#!/usr/bin/env python3
"""One command for the course, the same on Linux, macOS and Windows:

    python lab.py                 set up if needed, then open the course in JupyterLab
    python lab.py setup           only set up: make .venv and install the course into it
    python lab.py test            run everything: lint, types, tests and notebooks
    python lab.py test -k vae     run some tests; everything after "test" goes to pytest
    python lab.py lint            run ruff, mypy and codespell and check the stored notebooks
    python lab.py format          format the code and clean the stored notebooks
    python lab.py site            build the web edition into build/site, or with --out DIR elsewhere

Options after `python lab.py`, such as --no-browser, go to JupyterLab.
This file needs only Python's standard library.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / ".sdlearn-installed"
FIRST_NOTEBOOK = "notebooks/00-the-whole-picture.ipynb"
WANTED = ["-c", "constraints.txt", "-e", ".[course,test]"]
# What only the web edition needs is installed when it is first built or tested.
SITE_STAMP = VENV / ".sdlearn-site-installed"
SITE_WANTED = ["-c", "constraints.txt", "-e", ".[site]"]
TESTED = ("tests", "notebooks")
OLDEST, TOO_NEW = (3, 11), (3, 15)
GIGABYTES = 3
INTERRUPTED = 130  # exit code

LINT = [
    ("ruff check", ["-m", "ruff", "check", "."]),
    ("ruff format", ["-m", "ruff", "format", "--check", "."]),
    ("mypy", ["-m", "mypy"]),
    ("codespell", ["-m", "codespell_lib"]),
    ("stored notebooks", ["tools/nbtool.py", "check"]),
    ("reading times", ["tools/reading_time.py", "--check"]),
]
FORMAT = [
    ("ruff check", ["-m", "ruff", "check", "--fix", "."]),
    ("ruff format", ["-m", "ruff", "format", "."]),
    ("stored notebooks", ["tools/nbtool.py", "clean"]),
]
# Two workers with one thread each, because torch becomes many times slower with more threads than
# cores. loadscope keeps a notebook's cells, which share a kernel, on one worker.
PYTEST = ["-n", "2", "--dist", "loadscope"]
NBVAL = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "900"]


class Problem(Exception):
    """An error that the user can fix; its text says how."""


def main(argv: list[str]) -> int:
    """Run `lab.py` with these arguments and return the exit code."""
    command = argv[0] if argv and not argv[0].startswith("-") else "lab"
    rest = argv[1:] if argv and argv[0] == command else argv
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # the terminal may lack characters of a path
            stream.reconfigure(errors="backslashreplace")
    commands = {
        "lab": lab,
        "setup": lambda _: 0,
        "test": test,
        "lint": lint,
        "format": tidy,
        "site": site,
    }
    if "-h" in argv[:1] or "--help" in argv[:1]:
        print(__doc__.strip())
        return 0
    try:
        if command not in commands:
            raise Problem(f"unknown command {command!r}; accepted: {', '.join(commands)}")
        if rest and command not in ("lab", "test", "site"):
            raise Problem(f"`lab.py {command}` was given {' '.join(rest)}; it takes no arguments")
        if command == "site":
            rest = site_arguments(rest)
        set_up()
        return commands[command](rest)
    except Problem as problem:
        print(f"lab.py: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # pressing it again changes nothing
        print("\nlab.py: interrupted; run the same command again to continue", file=sys.stderr)
        return INTERRUPTED


# ---------------------------------------------------------------- the commands


def lab(options: list[str]) -> int:
    """Open the course in JupyterLab."""
    jupyter = [
        "-m",
        "jupyterlab",
        # An address instead of a file, so that the whole repository can be browsed.
        f"--LabApp.default_url=/lab/tree/{FIRST_NOTEBOOK}",
        # No network requests: no news, no check for updates.
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        # An image uploaded to a widget is one message.
        "--ServerApp.tornado_settings={'websocket_max_message_size': 104857600}",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        jupyter.append("--allow-root")
    return run([*jupyter, *options], inside())


def test(arguments: list[str]) -> int:
    """Run lint and then pytest, whose summary comes last; with arguments, run pytest alone."""
    set_up_site()
    failed = [] if arguments else run_all(LINT)
    code = run(["-m", "pytest", *pytest_arguments(arguments)], testing())
    if failed:
        print(f"lab.py: failed before the tests: {', '.join(failed)} (see above)", file=sys.stderr)
    return code or int(bool(failed))


def lint(_: list[str]) -> int:
    """Run the checks that change nothing."""
    return int(bool(run_all(LINT)))


def tidy(_: list[str]) -> int:
    """Format the code and clean the notebooks."""
    return int(bool(run_all(FORMAT)))


def site(arguments: list[str]) -> int:
    """Build the web edition."""
    set_up_site()
    return run(["tools/website.py", *arguments], {"OMP_NUM_THREADS": "1", **inside()})


def site_arguments(arguments: list[str]) -> list[str]:
    """Return the arguments with the folder's whole path; Problem if they are not --out DIR."""
    if not arguments:
        return []
    option, equals, folder = arguments[0].partition("=")
    folders = [folder] if equals else arguments[1:]
    if option != "--out" or len(folders) != 1 or not folders[0] or folders[0].startswith("-"):
        raise Problem(
            f"`lab.py site` was given {' '.join(arguments)}; accepted: nothing, or --out DIR"
        )
    return ["--out", str(Path(folders[0]).expanduser().absolute())]


def pytest_arguments(arguments: list[str]) -> list[str]:
    """Return pytest's arguments, with the test folders unless the arguments name a path."""
    present = [folder for folder in TESTED if (ROOT / folder).is_dir()]
    paths = [ROOT / argument.split("::")[0] for argument in arguments]
    named = any(p.exists() and p.is_relative_to(ROOT / f) for p in paths for f in present)
    return [*PYTEST, *NBVAL, *([] if named else present), *arguments]


def run_all(pieces: list[tuple[str, list[str]]]) -> list[str]:
    """Run all commands, print the outcome of each, and return the names of those that failed."""
    failed = []
    for name, command in pieces:
        print(f"--- {name}", flush=True)
        if run(command, inside()) != 0:
            failed.append(name)
    for name, _ in pieces:
        print(f"{name:18} {'FAILED' if name in failed else 'ok'}", flush=True)
    return failed


def run(arguments: list[str], environment: dict[str, str]) -> int:
    """Run the environment's Python from the repository's root; the child handles Ctrl-C."""
    child = subprocess.Popen([str(PYTHON), *arguments], cwd=ROOT, env=environment)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue


def inside() -> dict[str, str]:
    """Return the environment variables with .venv activated."""
    variables = {
        **os.environ,
        "VIRTUAL_ENV": str(VENV),
        "PATH": os.pathsep.join([str(PYTHON.parent), os.environ.get("PATH", "")]),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONUTF8": "1",
    }
    # Otherwise every kernel and test process would compile all of torch again, because uv leaves
    # the compilation to the first import.
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    return variables


def testing() -> dict[str, str]:
    """Return the environment variables for tests, which never download a model."""
    return {"OMP_NUM_THREADS": "1", **inside(), "HF_HUB_OFFLINE": "1"}


# ---------------------------------------------------------------- setting up


def set_up() -> None:
    """Make .venv and install the course, unless it is up to date; Problem if this fails."""
    if STAMP.exists() and STAMP.read_text() == fingerprint(WANTED) and works(PYTHON):
        return
    free = shutil.disk_usage(ROOT).free
    problem = unsuitable(sys.version_info[:2], platform.system(), platform.machine(), free)
    problem = problem or unsuitable_name(os.fsencode(ROOT))
    if problem:
        raise Problem(problem)
    if not works(PYTHON):
        print("making .venv ...", flush=True)
        make_environment()
    # The stamp is written last, so the next run repairs an interrupted installation.
    STAMP.unlink(missing_ok=True)
    print("installing the course into .venv, once; this takes minutes the first time", flush=True)
    if platform.system() == "Linux" and not shutil.which("nvidia-smi"):
        print("(no NVIDIA GPU here: UV_TORCH_BACKEND=cpu asks for a much smaller torch)")
    install(WANTED)
    hide_grading()
    STAMP.write_text(fingerprint(WANTED))


def set_up_site() -> None:
    """Install what builds the web edition beside the course, unless it is up to date."""
    if SITE_STAMP.exists() and SITE_STAMP.read_text() == fingerprint(SITE_WANTED):
        return
    SITE_STAMP.unlink(missing_ok=True)
    print("installing what builds the web edition into .venv, once", flush=True)
    install(SITE_WANTED)
    SITE_STAMP.write_text(fingerprint(SITE_WANTED))


def fingerprint(wanted: list[str]) -> str:
    """Hash everything that requires a new installation if it changes, such as the folder's path."""
    files = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256(b"\0".join([*files, repr((wanted, str(ROOT))).encode()])).hexdigest()


def works(python: Path) -> bool:
    """Tell whether a Python exists, runs, has a supported version and has pip."""
    check = f"import sys, pip; sys.exit(not {OLDEST} <= sys.version_info[:2] < {TOO_NEW})"
    try:
        return subprocess.run([str(python), "-c", check], capture_output=True).returncode == 0
    except OSError:
        return False


def unsuitable(version: tuple[int, int], system: str, machine: str, free: int) -> str | None:
    """Return why the course cannot be installed here, or None if it can; `free` is in bytes."""
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


def unsuitable_name(folder: bytes) -> str | None:
    """Return why a folder of this name cannot hold the course, or None if it can."""
    try:
        folder.decode("utf-8")
    except UnicodeDecodeError:
        shown = folder.decode("utf-8", "backslashreplace")
        return (
            f"the name of the folder, {shown}, is not UTF-8, which Python's virtual environments "
            "need; rename it."
        )
    return None


def make_environment() -> None:
    """Make .venv; Problem if this fails."""
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(VENV)], capture_output=True, env=utf8()
    )
    if done.returncode == 0:
        return
    check_interrupt(done.returncode)
    said = (done.stdout + done.stderr).decode("utf-8", "backslashreplace").strip()
    if "ensurepip" in said or "No module named" in said:
        raise Problem(
            "this Python cannot make virtual environments; on Debian and Ubuntu "
            "`sudo apt install python3-venv` adds what is missing."
        )
    reason = (said.splitlines() or ["Python gives no reason"])[-1]
    raise Problem(f"{VENV} could not be made: {reason}")


def install(wanted: list[str]) -> None:
    """Install with uv, or with pip if uv fails; Problem if both fail."""
    pip = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check"]
    if echo([*pip, "--quiet", "uv"])[0] == 0:
        uv = [str(PYTHON), "-m", "uv", "pip", "install", "--python", str(PYTHON)]
        settings = {**uv_settings(pip_config()), **utf8()}
        code = subprocess.call([*uv, *wanted], cwd=ROOT, env=settings)
        if code == 0:
            return
        check_interrupt(code)
        print("uv failed; trying again with pip, which takes longer", flush=True)
    code, said = echo([*pip, *wanted, "--progress-bar", "off"])
    if code != 0:
        raise Problem(explain(said))


def echo(command: list[str]) -> tuple[int, str]:
    """Run a command, print its output as it comes, and return its exit code and output."""
    lines = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=utf8(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as child:
        try:
            for line in child.stdout or ():
                print(line, end="", flush=True)
                lines.append(line)
            code = child.wait()
        except KeyboardInterrupt:
            child.kill()
            raise
    check_interrupt(code)
    return code, "".join(lines)


def check_interrupt(code: int) -> None:
    """Raise KeyboardInterrupt for the exit code of a child that Ctrl-C has ended."""
    if code in (INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt


def utf8() -> dict[str, str]:
    """Return the environment variables for a Python that reads and writes UTF-8 in any locale."""
    return {**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}


def hide_grading() -> None:
    """Hide nbgrader's menu, buttons and panel from learners; notebooks/teaching.md undoes this."""
    hidden = ["@jupyter/nbgrader", "@jupyter-notebook/lab-extension:interface-switcher"]
    settings = VENV / "etc" / "jupyter" / "labconfig" / "page_config.json"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(json.dumps({"disabledExtensions": dict.fromkeys(hidden, True)}), "utf-8")


def pip_config() -> str:
    """Return what `pip config list` prints."""
    command = [str(PYTHON), "-m", "pip", "config", "list"]
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=utf8())
    return said.stdout.decode("utf-8", "replace")


def uv_settings(config: str) -> dict[str, str]:
    """Convert the output of `pip config list` to variables for uv, which ignores pip's settings.

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


def explain(output: str) -> str:
    """Explain in one sentence why pip failed, from its output."""
    text = output.lower()
    if "no space left" in text or "errno 28" in text:
        return "the disk is full; free about 3 GB and run the same command again."
    network = ("connection", "timed out", "name resolution", "getaddrinfo", "retrying", "proxy")
    if any(word in text for word in network):
        return (
            "packages could not be downloaded; set-up needs the network once (the course does not "
            "need it afterwards). Check the connection, or pip's proxy settings, and run it again."
        )
    return "the course could not be installed; pip's own message is above."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
