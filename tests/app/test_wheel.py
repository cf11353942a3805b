"""The wheel in an environment of its own, far from a clone: the course can be taken from there."""

import json
import os
import re
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

import lab
from sdlearn.utils.resources import course_files

ROOT = Path(__file__).resolve().parents[2]
FIRST = "00-the-whole-picture.ipynb"
# Package indexes take files of up to 100 MB.
LARGEST = 70 * 10**6

# Runs the first code cells of a notebook of the folder that it is started in.
RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
code = [k for k, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
probe = nbformat.v4.new_code_cell("import sdlearn; print(sdlearn.__file__)")
notebook.cells = [*notebook.cells[: code[int(sys.argv[2])]], probe]
NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
print(notebook.cells[-1].outputs[0].text)
"""


class Installed(NamedTuple):
    """An environment with the wheel, and the variables under which its programs run."""

    wheel: Path
    programs: Path  # its folder of programs
    variables: dict[str, str]

    def run(self, *command: str, where: Path) -> str:
        """What a program of the environment prints; it must succeed."""
        program = [str(self.programs / command[0]), *command[1:]]
        done = subprocess.run(
            program, cwd=where, env=self.variables, capture_output=True, text=True, encoding="utf-8"
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    """The wheel of this repository, in a new environment outside it.

    Where CI is set, what it depends on is installed from the network as well. Elsewhere it is taken
    from the environment of these tests, which costs nothing; its sdlearn cannot be imported so.
    """
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("sdlearn-*.whl")
    own = folder / "own"
    bare = [] if os.environ.get("CI") else ["--without-pip"]
    subprocess.run([sys.executable, "-m", "venv", *bare, str(own)], check=True)
    programs = own / ("Scripts" if os.name == "nt" else "bin")
    python = programs / ("python.exe" if os.name == "nt" else "python")
    variables = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    variables |= {
        "OMP_NUM_THREADS": "1",
        "PYTHONUTF8": "1",
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_TOKEN": "known",
    }
    if os.environ.get("CI"):
        install = [sys.executable, "-m", "uv", "pip", "install", "--python", str(python)]
        install += ["-c", str(ROOT / "constraints.txt"), f"sdlearn[course] @ {wheel.as_uri()}"]
        settings = {**lab.uv_settings(lab.pip_config()), **os.environ}
        subprocess.run(install, check=True, env=settings)
    else:
        install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True)
        ours, theirs = (
            Path(sysconfig.get_path("purelib", vars={"base": str(base)}))
            for base in (own, sys.prefix)
        )
        # A plain path: the file that makes the editable sdlearn importable is not read.
        (ours / "the-others.pth").write_text(f"{theirs}\n", "utf-8")
        variables["JUPYTERLAB_DIR"] = str(Path(sys.prefix, "share", "jupyter", "lab"))
    return Installed(wheel, programs, variables)


@pytest.fixture(scope="module")
def folder(installed, tmp_path_factory) -> Path:
    """Where the notebooks were copied to, by a `sdlearn course` that served them until it ended."""
    where = tmp_path_factory.mktemp("learner")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(installed.programs / "sdlearn"), "course", "mine", "--no-browser"]
    log = where / "log.txt"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, f"--port={port}"],
            cwd=where,
            env=installed.variables,
            stdout=output,
            stderr=output,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        start = time.monotonic()
        while (listed := ask(f"{address}/api/contents")) is None:
            assert server.poll() is None, log.read_text("utf-8")
            assert time.monotonic() - start < 300, log.read_text("utf-8")
            time.sleep(0.3)
        shown = {each["name"] for each in json.loads(listed)["content"]}
        assert shown == {file.name for file in course_files()}
        opened = ask(f"{address}/api/contents/{FIRST}")
        assert json.loads(opened)["content"]["cells"]
        assert ask(f"{address}/lab/tree/{FIRST}") is not None
        ask(f"{address}/api/shutdown", b"")
        assert server.wait(timeout=300) == 0, log.read_text("utf-8")
    finally:
        server.kill()
        server.wait()
    said = log.read_text("utf-8")
    assert said.startswith(f"mine: {len(course_files())} files written, 0 up to date\n")
    assert f":{port}/lab/tree/{FIRST}" in said
    assert "Traceback" not in said
    return where / "mine"


def ask(address: str, content: bytes | None = None) -> str | None:
    """The answer of a server to a request with the token; None while it does not listen."""
    request = urllib.request.Request(address, content, {"Authorization": "token known"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()
    except (ConnectionError, urllib.error.URLError) as error:
        if isinstance(error, urllib.error.HTTPError):
            raise
        return None


def test_the_wheel_holds_the_notebooks_with_their_outputs_and_is_not_too_large(installed):
    with zipfile.ZipFile(installed.wheel) as packed:
        for file in course_files():
            assert packed.read(f"sdlearn/_notebooks/{file.name}") == file.read_bytes()
        names = packed.namelist()
    assert not [name for name in names if re.search(r"node_modules|checkpoints|/ruff", name)]
    assert installed.wheel.stat().st_size < LARGEST


def test_the_course_is_copied_and_served(folder):
    for file in course_files():
        assert (folder / file.name).read_bytes() == file.read_bytes()


def test_a_second_call_finds_everything_up_to_date(installed, folder):
    code = (
        "from pathlib import Path; from sdlearn.cli.course import copy, course_files; "
        "print(copy(course_files(), Path('mine')))"
    )
    assert installed.run("python", "-c", code, where=folder.parent) == "(0, [])\n"


@pytest.mark.slow
@pytest.mark.parametrize(("notebook", "cells"), [(FIRST, 4), ("13-inpainting.ipynb", 5)])
def test_a_notebook_runs_there_with_the_installed_package_and_its_model(
    installed, folder, notebook, cells
):
    said = installed.run("python", "-c", RUN, notebook, str(cells), where=folder)
    place = Path(said.strip()).resolve()
    assert installed.programs.parent.resolve() in place.parents
    assert "site-packages" in place.parts


def test_a_link_of_a_notebook_leads_to_a_file_that_was_copied(folder):
    links = 0
    for file in folder.glob("*.ipynb"):
        cells = json.loads(file.read_text("utf-8"))["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        for target in re.findall(r"\]\(([\w./-]+\.(?:ipynb|md|png))(?:#[^)]*)?\)", text):
            assert (folder / target).is_file(), f"{file.name}: {target}"
            links += 1
    assert links > 100
