"""tools/nbwatch.py and tools/guard: one run of small notebooks, most of which go too far."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import nbwatch
import pytest
import torch
from nbwatch import Usage, Watch

ROOT = Path(__file__).resolve().parents[2]
GOOD = """
import pathlib, shutil, socket, subprocess, sys, tempfile
with tempfile.TemporaryDirectory() as folder:
    pathlib.Path(folder, "x").write_text("x")
    pathlib.Path(folder, "x").rename(pathlib.Path(folder, "y"))
server = socket.create_server(("localhost", 0))
socket.create_connection(server.getsockname()).close()
assert open("00-good.ipynb").read()
assert subprocess.run([sys.executable, "-c", "import this"]).returncode == 0
"""
IN_A_CHILD = """
import subprocess, sys
child = "import socket; socket.gethostbyname('example.com')"
done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True)
raise ValueError(done.stderr)
"""
NO_NETWORK = "RuntimeError: a notebook must run without a network, and this one asks for "
NO_CHANGES = "RuntimeError: a notebook writes to temporary folders only, and this one changes "
BAD = {  # cells, and what they are told
    "from urllib.request import urlopen\nurlopen('http://a.example')": f"{NO_NETWORK}a.example",
    "import socket\nsocket.create_connection(('192.0.2.1', 80), 1)": f"{NO_NETWORK}192.0.2.1",
    "socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('192.0.2.2', 9))": f"{NO_NETWORK}192.0.2.2",
    IN_A_CHILD: f"{NO_NETWORK}example.com",
    "open('written.txt', 'w')": rf"{NO_CHANGES}.*written\.txt",
    "import os\nos.replace('00-good.ipynb', 'moved.ipynb')": rf"{NO_CHANGES}.*00-good\.ipynb",
    "os.remove('pytest.ini')": rf"{NO_CHANGES}.*pytest\.ini",
    "os.makedirs('new/folder')": rf"{NO_CHANGES}.*new",
    "import shutil\nshutil.rmtree('.')": rf"{NO_CHANGES}.*repository0",
}
SLOW = "import time\nwhile time.process_time() < 5: pass"
LARGE = "x = b'x' * 700_000_000\ndel x"
LEAVES = """import subprocess
assert subprocess.run(['touch', 'left.txt']).returncode == 0
assert subprocess.run(['mkdir', 'node_modules']).returncode == 0
assert subprocess.run(['touch', 'node_modules/package.json']).returncode == 0"""
PIECES = {
    "00-good": [GOOD],
    "01-bad": [*BAD],
    "08-slow": [SLOW],
    "09-too-much": [SLOW, LARGE, LEAVES],
}
CONFTEST = """
import nbwatch
pytest_plugins = ["nbwatch"]
nbwatch.SECONDS, nbwatch.SECONDS_OF, nbwatch.GIGABYTES, nbwatch.TOGETHER = 2, {"08": 50}, 0.6, 1
nbwatch.beat = lambda: 2 * nbwatch.REFERENCE
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> tuple[int, str]:
    """Exit code and output of pytest on all of them, in two workers as `lab.py test` has them."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\n")
    for name, sources in PIECES.items():
        cells = [nbformat.v4.new_code_cell(text, id=f"c{k}") for k, text in enumerate(sources)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadscope", "--color=no"]
    options = ["--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider"]
    paths = [str(ROOT / "tools"), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [*command, *options], cwd=folder, env=variables, capture_output=True, text=True
    )
    return done.returncode, re.sub(r"\x1b\[[\d;]*m", "", done.stdout)


linux = pytest.mark.skipif(sys.platform != "linux", reason="measured on Linux only")


@pytest.mark.parametrize("k", range(len(BAD)))
def test_a_cell_that_goes_too_far_fails(ran, k):
    _, said = ran
    (failure,) = re.findall(rf"^_+ 01-bad\.ipynb::Cell {k} _+$(.*?)^[_=]{{2}}", said, re.M | re.S)
    assert re.search([*BAD.values()][k], failure)


@linux
def test_time_and_memory_are_held_to_the_limits(ran):
    _, said = ran
    assert re.search(r"^_+ ERROR at teardown of .*Cell 2 _+$", said, re.M)
    seconds = (
        r"09-too-much\.ipynb used [56789]\.\d s of CPU time, which are [234]\.\d s of the "
        r"reference machine; the limit is 2 s"
    )
    memory = r"09-too-much\.ipynb used 0\.[78]\d GB of memory; the limit is 0\.6 GB"
    assert re.search(f"^{seconds}$", said, re.M)
    assert re.search(f"^{memory}$", said, re.M)


@linux
def test_the_table_shows_every_notebook_and_the_sum(ran):
    code, said = ran
    table = said.split("(here), and memory, with one thread")[1]
    rows = dict(re.findall(r"^(\S+?)(?:\.ipynb)? +([\d.]+) s of ", table, flags=re.M))
    assert rows.keys() == {*PIECES, "together"}
    total = sum(float(seconds) for name, seconds in rows.items() if name != "together")
    assert float(rows["together"]) == pytest.approx(total, abs=1)
    assert f"FAILED: all notebooks used {rows['together']} s of the reference machine" in said
    assert code == 1


def test_files_left_behind_are_named(ran):
    _, said = ran
    assert "\nFAILED: new files appeared in the repository: left.txt\n" in said


def test_nothing_else_fails(ran):
    _, said = ran
    short = said.split("short test summary info")[1]
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)\.ipynb::Cell (\d)", short, flags=re.M)
    expected = [("01-bad", str(k)) for k in range(len(BAD))] + [("09-too-much", "2")]
    assert sorted(failed) == expected


def test_the_limits_are_the_course_s():
    assert [*nbwatch.excesses("07-x.ipynb", Usage(179, 3.9))] == []
    assert [*nbwatch.excesses("08-x.ipynb", Usage(299, 3.9))] == []
    (slow,) = nbwatch.excesses("08-x.ipynb", Usage(301, 3.9))
    assert slow == (
        "08-x.ipynb used 301.0 s of CPU time, which are 301.0 s of the reference machine; "
        "the limit is 300 s"
    )
    slow, large = nbwatch.excesses("07-x.ipynb", Usage(362, 4.2, slowness=2))
    assert slow == (
        "07-x.ipynb used 362.0 s of CPU time, which are 181.0 s of the reference machine; "
        "the limit is 180 s"
    )
    assert large == "07-x.ipynb used 4.20 GB of memory; the limit is 4 GB"


@pytest.mark.parametrize(("slowness", "seconds"), [(0.5, 90), (1, 180), (3, 540)])
def test_the_limit_is_an_amount_of_work(slowness, seconds):
    assert [*nbwatch.excesses("07-x.ipynb", Usage(0.99 * seconds, 1, slowness))] == []
    assert len([*nbwatch.excesses("07-x.ipynb", Usage(1.01 * seconds, 1, slowness))]) == 1


@linux
def test_one_long_beat_does_not_make_a_machine_slow():
    beats = [nbwatch.REFERENCE * x for x in (1, 1.1, 0.9, 1, 50)]
    assert nbwatch.measured(os.getpid(), beats).slowness == pytest.approx(1)
    assert nbwatch.measured(os.getpid(), [2 * x for x in beats]).slowness == pytest.approx(2)


def test_a_beat_is_a_matrix_product_of_one_thread():
    threads = torch.get_num_threads()
    times = [nbwatch.beat() for _ in range(20)]
    assert torch.get_num_threads() == threads
    assert 0.1 < min(times) / nbwatch.REFERENCE < 20


@pytest.mark.parametrize(
    ("seconds", "file", "code"),
    [
        (599, ".hidden", 0),
        (601, ".hidden", 1),
        (590, "__pycache__/x", 0),
        (590, "notebooks/x", 1),
    ],
)
def test_all_together_have_limits_too(seconds, file, code, tmp_path):
    class Session:
        config, exitstatus = object(), 0

    watch = Watch(tmp_path)
    watch.usages = {"a": Usage(seconds, 1), "b": Usage(seconds, 1), "c": None}
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    watch.pytest_sessionfinish(Session)
    assert Session.exitstatus == code


def test_without_notebooks_new_files_are_nobody_s_business(tmp_path):
    class Session:
        config, exitstatus = object(), 0

    watch = Watch(tmp_path)
    (tmp_path / "x").touch()
    watch.pytest_sessionfinish(Session)
    assert Session.exitstatus == 0


def test_the_project_s_own_run_is_watched(pytestconfig):
    assert pytestconfig.pluginmanager.get_plugin("watch").root == ROOT
