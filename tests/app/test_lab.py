"""lab.py: what it runs, what it tells uv and pytest, and what it says when something is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lab

SPACE = 50 * 10**9


@pytest.fixture
def recorded(monkeypatch):
    """(calls, codes): what lab.py ran instead of running it, and exit codes to answer with."""
    calls, codes = [], {}

    def run(arguments, environment):
        line = " ".join(arguments)
        calls.append(line)
        return next((code for part, code in codes.items() if part in line), 0)

    monkeypatch.setattr(lab, "run", run)
    monkeypatch.setattr(lab, "set_up", lambda: calls.append("set up"))
    monkeypatch.setattr(lab, "set_up_site", lambda: calls.append("set up site"))
    return calls, codes


def test_the_plain_command_sets_up_and_opens_notebook_00(recorded):
    calls, _ = recorded
    assert lab.main([]) == 0
    assert calls[0] == "set up"
    assert calls[1].startswith("-m jupyterlab ")
    assert "/lab/tree/notebooks/00-the-whole-picture.ipynb " in calls[1]


def test_options_alone_go_to_jupyterlab(recorded):
    calls, _ = recorded
    assert lab.main(["--no-browser", "--port=9999"]) == 0
    assert calls[1].endswith("--no-browser --port=9999")


def test_setup_runs_nothing_more(recorded):
    calls, _ = recorded
    assert lab.main(["setup"]) == 0
    assert calls == ["set up"]


def test_the_whole_suite_is_lint_types_notebooks_and_tests_in_this_order(recorded):
    calls, _ = recorded
    assert lab.main(["test"]) == 0
    assert calls[:2] == ["set up", "set up site"]
    tools = [call.split()[1] for call in calls[2:]]
    assert tools == ["ruff", "ruff", "mypy", "codespell_lib", "check", "--check", "pytest"]
    assert "-n 2 --dist loadscope" in calls[-1]
    assert "--nbval-lax" in calls[-1]
    assert " tests" in calls[-1]


@pytest.mark.parametrize(
    "broken", ["ruff check", "ruff format", "mypy", "codespell", "nbtool", "reading_time", "pytest"]
)
def test_any_failing_piece_fails_the_command_and_all_pieces_run(recorded, broken, capfd):
    calls, codes = recorded
    codes[broken] = 1
    assert lab.main(["test"]) == 1
    assert len(calls) == 9
    assert ("FAILED" in capfd.readouterr().out) == (broken != "pytest")


def test_arguments_narrow_the_run_to_pytest(recorded):
    calls, _ = recorded
    assert lab.main(["test", "-k", "setup"]) == 0
    assert len(calls) == 3
    assert calls[2].endswith("tests notebooks -k setup") or calls[2].endswith("tests -k setup")


def test_the_site_is_built_from_its_own_packages(recorded, monkeypatch, tmp_path):
    calls, codes = recorded
    monkeypatch.chdir(tmp_path)
    codes["website.py"] = 2
    assert lab.main(["site"]) == 2
    assert lab.main(["site", "--out", "here"]) == 2
    assert lab.main(["site", f"--out={tmp_path}"]) == 2
    assert calls == [
        "set up", "set up site", "tools/website.py",
        "set up", "set up site", f"tools/website.py --out {tmp_path / 'here'}",
        "set up", "set up site", f"tools/website.py --out {tmp_path}",
    ]  # fmt: skip


def test_a_named_file_replaces_the_folders():
    arguments = lab.pytest_arguments(["tests/app/test_lab.py::test_x", "-x"])
    assert arguments[-2:] == ["tests/app/test_lab.py::test_x", "-x"]
    assert "tests" not in arguments


def test_tests_run_with_one_thread_and_without_the_network(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert lab.testing()["OMP_NUM_THREADS"] == "1"
    assert lab.testing()["HF_HUB_OFFLINE"] == "1"
    assert "OMP_NUM_THREADS" not in lab.inside()


@pytest.mark.parametrize(
    "argv",
    [
        ["tests"], ["setup", "now"], ["lint", "-x"],
        ["site", "here"], ["site", "--out"], ["site", "--out="], ["site", "--out", "a", "b"],
        ["site", "--out", "--fast"], ["site", "--in", "a"],
    ],
)  # fmt: skip
def test_a_wrong_command_is_one_sentence_and_exit_code_2(recorded, argv, capsys):
    calls, _ = recorded
    assert lab.main(argv) == 2
    assert calls == []
    said = capsys.readouterr().err
    assert said.startswith("lab.py: ")
    assert said.count("\n") == 1


def test_help_needs_no_set_up(recorded, capsys):
    assert lab.main(["--help"]) == 0
    assert recorded[0] == []
    assert "python lab.py test" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "system", "machine", "free", "says"),
    [
        ((3, 11), "Linux", "x86_64", SPACE, None),
        ((3, 14), "Windows", "AMD64", SPACE, None),
        ((3, 12), "Darwin", "arm64", SPACE, None),
        ((3, 10), "Linux", "x86_64", SPACE, "Python 3.11 or newer is needed, and this is 3.10"),
        ((3, 15), "Linux", "x86_64", SPACE, "this is Python 3.15"),
        ((3, 12), "Darwin", "x86_64", SPACE, "Intel"),
        ((3, 12), "Linux", "x86_64", 10**9, "1.0 GB free"),
    ],
)
def test_an_unsuitable_machine_is_told_why(version, system, machine, free, says):
    reason = lab.unsuitable(version, system, machine, free)
    assert reason is None if says is None else says in reason


def test_an_old_python_can_read_lab_py_far_enough_to_be_told():
    """The words of Python 3.7, so that the system Python of an old machine gets the sentence."""
    code = "import ast, sys; ast.parse(open(sys.argv[1]).read(), feature_version=(3, 7))"
    subprocess.run([sys.executable, "-c", code, lab.__file__], check=True)


def test_uv_is_given_what_pip_is_configured_with():
    config = (
        "global.extra-index-url='file:///a/simple https://mirror.example/simple'\n"
        "global.find-links='/elsewhere'\n"
        ":env:.find-links='/wheels /more'\n"
        "global.cert='/certs.pem'\n"
        "global.index-url='https://school.example/simple'\n"
        "global.timeout='60'\n"
    )
    assert lab.uv_settings(config) == {
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_INDEX": "file:///a/simple https://mirror.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_DEFAULT_INDEX": "https://school.example/simple",
        "SSL_CERT_FILE": "/certs.pem",
    }
    assert lab.uv_settings("") == {}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "disk is full"),
        ("WARNING: Retrying (Retry(total=4)) after connection broken", "set-up needs the network"),
        ("error: Failed: [Errno -3] Temporary failure in name resolution", "needs the network"),
        ("ERROR: something else entirely", "pip's own message is above"),
    ],
)
def test_a_failed_installation_is_explained(said, reason):
    assert reason in lab.explain(said)


class TestSetUp:
    """On an imaginary repository: nothing is installed, only what would be is recorded."""

    @pytest.fixture(autouse=True)
    def repository(self, tmp_path, monkeypatch):
        for name in ("pyproject.toml", "constraints.txt"):
            (tmp_path / name).write_text(name)
        self.root, self.done = tmp_path, []
        monkeypatch.setattr(lab, "ROOT", tmp_path)
        monkeypatch.setattr(lab, "VENV", tmp_path / ".venv")
        monkeypatch.setattr(lab, "STAMP", tmp_path / ".venv" / "stamp")
        monkeypatch.setattr(lab, "works", lambda _: (tmp_path / ".venv").exists())
        monkeypatch.setattr(lab, "make_environment", self.make)
        monkeypatch.setattr(lab, "SITE_STAMP", tmp_path / ".venv" / "site-stamp")
        monkeypatch.setattr(lab, "install", self.install)

    def install(self, wanted):
        self.done.append("installed" if wanted is lab.WANTED else wanted[-1])

    def make(self):
        (self.root / ".venv").mkdir()
        self.done.append("made")

    def test_once_is_enough_until_a_dependency_changes(self):
        lab.set_up()
        lab.set_up()
        assert self.done == ["made", "installed"]
        (self.root / "constraints.txt").write_text("torch==2.14.0")
        lab.set_up()
        assert self.done == ["made", "installed", "installed"]

    def test_learners_do_not_see_the_menus_of_those_who_grade(self):
        lab.set_up()
        settings = self.root / ".venv/etc/jupyter/labconfig/page_config.json"
        hidden = json.loads(settings.read_text("utf-8"))["disabledExtensions"]
        assert hidden["@jupyter/nbgrader"] is True

    def test_an_interrupted_installation_is_done_again(self, monkeypatch):
        monkeypatch.setattr(lab, "install", self.interrupt)
        with pytest.raises(KeyboardInterrupt):
            lab.set_up()
        monkeypatch.setattr(lab, "install", self.install)
        lab.set_up()
        assert self.done == ["made", "installed"]

    def test_the_site_s_packages_are_installed_when_it_is_first_built(self, monkeypatch):
        lab.set_up()
        assert self.done == ["made", "installed"]
        lab.set_up_site()
        lab.set_up_site()
        lab.set_up()
        assert self.done == ["made", "installed", ".[site]"]
        (self.root / "constraints.txt").write_text("sphinx==9.0.5")
        monkeypatch.setattr(lab, "install", self.interrupt)
        with pytest.raises(KeyboardInterrupt):
            lab.set_up_site()
        (self.root / "constraints.txt").write_text("constraints.txt")
        monkeypatch.setattr(lab, "install", self.install)
        lab.set_up_site()
        assert self.done == ["made", "installed", ".[site]", ".[site]"]

    def interrupt(self, _):
        raise KeyboardInterrupt

    def test_a_moved_repository_is_installed_again(self, monkeypatch):
        lab.set_up()
        elsewhere = self.root / "elsewhere"
        self.root.joinpath(".venv").rename(self.root / "venv")
        elsewhere.mkdir()
        for name in ("pyproject.toml", "constraints.txt", "venv"):
            (self.root / name).rename(elsewhere / name)
        monkeypatch.setattr(lab, "ROOT", elsewhere)
        monkeypatch.setattr(lab, "STAMP", elsewhere / "venv" / "stamp")
        monkeypatch.setattr(lab, "works", lambda _: True)
        lab.set_up()
        assert self.done == ["made", "installed", "installed"]

    def test_a_failure_reaches_the_person_as_one_sentence(self, monkeypatch, capsys):
        monkeypatch.setattr(lab, "install", self.fail)
        assert lab.main(["setup"]) == 2
        assert capsys.readouterr().err == "lab.py: the disk is full; free some.\n"

    def fail(self, _):
        raise lab.Problem("the disk is full; free some.")


# ------------------------------------------------------------------ real processes, with a fake pip

# pip says that it was interrupted, and uv dies in silence.
PIP = """
import os, signal, sys, time
if __spec__.name.startswith("uv"):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.environ.get("NO_UV"):
        sys.exit(1)
said = " ".join(sys.argv[1:])
if "config" not in said:
    print("pip", said, flush=True)
if os.environ.get("SLOW", "none") in said:
    open("reached", "w").close()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("ERROR: Operation cancelled by user", file=sys.stderr)
        sys.exit(1)
if os.environ.get("UTF8_ONLY"):
    assert sys.flags.utf8_mode
"""
SLOW_VENV = """
import venv, time
def make(*_, **__):
    open("reached", "w").close()
    time.sleep(60)
venv.EnvBuilder.create = make
"""


@pytest.fixture
def clone(tmp_path):
    """A function: a repository of this name with lab.py and pip and uv that install nothing."""
    if os.name == "nt":
        pytest.skip("sends a POSIX signal")

    def make(name: str | bytes = "clone") -> Path:
        root = tmp_path / os.fsdecode(name)
        root.mkdir()
        shutil.copy(lab.__file__, root)
        for each in ("pyproject.toml", "constraints.txt"):
            (root / each).write_text(each)
        return root

    return make


def environment(root: Path, ready: bool = True, **more: str) -> dict[str, str]:
    """The variables of a run; `ready`: .venv is there, and pip and uv in it are the fake ones."""
    fake = root.parent / "fake"
    if ready:
        if not (root / ".venv").exists():
            (root / ".venv" / "bin").mkdir(parents=True)
            (root / ".venv" / "bin" / "python").symlink_to(sys.executable)
        for name in ("pip", "uv"):
            (fake / name).mkdir(parents=True, exist_ok=True)
            (fake / name / "__init__.py").touch()
            (fake / name / "__main__.py").write_text(PIP)
    names = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**names, "PYTHONPATH": str(fake), **more}


def interrupted(root: Path, variables: dict[str, str], group: bool) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a set-up that got Ctrl-C when the slow step was reached."""
    child = subprocess.Popen(
        [sys.executable, "lab.py", "setup"],
        cwd=root,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell ignores Ctrl-C for what it starts in the background, these tests perhaps.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    start = time.monotonic()
    while not (root / "reached").exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() - start < 60
        time.sleep(0.05)
    (root / "reached").unlink()
    time.sleep(0.2)
    (os.killpg if group else os.kill)(child.pid, signal.SIGINT)
    out, said = child.communicate(timeout=60)
    return child.returncode, out, said


@pytest.mark.parametrize("group", [True, False], ids=["terminal", "lab.py alone"])
@pytest.mark.parametrize(
    "slow", ["--quiet uv", "pip install --python", "config list", "--progress-bar off"],
    ids=["uv itself", "uv", "pip's settings", "pip"],
)  # fmt: skip
def test_ctrl_c_in_set_up_is_one_line_and_the_next_run_repairs(clone, slow, group):
    root = clone()
    only_pip = {"NO_UV": "1"} if slow == "--progress-bar off" else {}
    variables = environment(root, SLOW=slow, **only_pip)
    code, out, said = interrupted(root, variables, group)
    assert code == 130
    assert said.strip() == "lab.py: interrupted; run the same command again to continue"
    assert "cancelled" not in out
    assert not (root / ".venv" / ".sdlearn-installed").exists()
    del variables["SLOW"]
    command = [sys.executable, "lab.py", "setup"]
    again = subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert (root / ".venv" / ".sdlearn-installed").exists()


@pytest.mark.parametrize("group", [True, False], ids=["terminal", "lab.py alone"])
def test_ctrl_c_while_the_environment_is_made(clone, group):
    root = clone()
    variables = environment(root, ready=False)
    (root.parent / "fake").mkdir()
    (root.parent / "fake" / "sitecustomize.py").write_text(SLOW_VENV)
    code, out, said = interrupted(root, variables, group)
    assert (code, out) == (130, "making .venv ...\n")
    assert said.strip() == "lab.py: interrupted; run the same command again to continue"


def test_an_interrupted_update_is_done_again_even_if_the_old_list_returns(clone):
    root = clone()
    variables = environment(root)
    command = [sys.executable, "lab.py", "setup"]
    assert subprocess.run(command, cwd=root, env=variables, capture_output=True).returncode == 0
    (root / "constraints.txt").write_text("changed")
    assert interrupted(root, {**variables, "SLOW": "pip install --python"}, True)[0] == 130
    (root / "constraints.txt").write_text("constraints.txt")
    again = subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True)
    assert "installing the course" in again.stdout


LOCALES = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "C.UTF-8"},
    {"PYTHONIOENCODING": "latin-1"},
]


@pytest.mark.parametrize("locale", LOCALES, ids=["C", "UTF-8", "latin-1"])
def test_a_folder_whose_name_the_locale_cannot_print(clone, locale):
    root = clone("Küche – 猫")
    variables = environment(root, UTF8_ONLY="1", **locale)
    (root / "constraints.txt").write_text(str(root), "utf-8")
    command = [sys.executable, "lab.py", "setup"]
    for expected in ("installing the course", ""):
        done = subprocess.run(command, cwd=root, env=variables, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        assert expected.encode() in done.stdout
    assert done.stdout == b""


@pytest.mark.parametrize("locale", LOCALES, ids=["C", "UTF-8", "latin-1"])
def test_a_sentence_with_such_a_name_is_printed(clone, locale):
    root = clone("Küche – 猫")
    (root / ".venv").write_text("a file where the folder should be")
    variables = environment(root, ready=False, **locale)
    command = [sys.executable, "lab.py", "setup"]
    done = subprocess.run(command, cwd=root, env=variables, capture_output=True)
    assert done.returncode == 2
    said = done.stderr.decode("utf-8" if "C.UTF-8" in locale.values() else "latin-1")
    assert said.startswith("lab.py: ")
    assert said.count("\n") == 1
    assert "could not be made" in said


def test_a_folder_whose_name_is_not_utf_8(clone):
    try:
        root = clone(b"K\xfcche")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    command = [sys.executable, "lab.py", "setup"]
    for locale in LOCALES:
        variables = environment(root, ready=False, **locale)
        done = subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True)
        assert done.returncode == 2
        assert "K\\xfcche, is not UTF-8" in done.stderr
        assert done.stderr.count("\n") == 1
