"""lab.py: what it runs, what it tells uv and pytest, and what it says when something is wrong."""

import json
import subprocess
import sys

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
    tools = [call.split()[1] for call in calls[1:]]
    assert tools == ["ruff", "ruff", "mypy", "codespell_lib", "check", "pytest"]
    assert "-n 2 --dist loadscope" in calls[-1]
    assert "--nbval-lax" in calls[-1]
    assert " tests" in calls[-1]


@pytest.mark.parametrize(
    "broken", ["ruff check", "ruff format", "mypy", "codespell", "nbtool", "pytest"]
)
def test_any_failing_piece_fails_the_command_and_all_pieces_run(recorded, broken, capfd):
    calls, codes = recorded
    codes[broken] = 1
    assert lab.main(["test"]) == 1
    assert len(calls) == 7
    assert ("FAILED" in capfd.readouterr().out) == (broken != "pytest")


def test_arguments_narrow_the_run_to_pytest(recorded):
    calls, _ = recorded
    assert lab.main(["test", "-k", "setup"]) == 0
    assert len(calls) == 2
    assert calls[1].endswith("tests notebooks -k setup") or calls[1].endswith("tests -k setup")


def test_a_named_file_replaces_the_folders():
    arguments = lab.pytest_arguments(["tests/app/test_lab.py::test_x", "-x"])
    assert arguments[-2:] == ["tests/app/test_lab.py::test_x", "-x"]
    assert "tests" not in arguments


def test_tests_run_with_one_thread_and_without_the_network(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert lab.testing()["OMP_NUM_THREADS"] == "1"
    assert lab.testing()["HF_HUB_OFFLINE"] == "1"
    assert "OMP_NUM_THREADS" not in lab.inside()


@pytest.mark.parametrize("argv", [["tests"], ["setup", "now"], ["lint", "-x"]])
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
        monkeypatch.setattr(lab, "install", lambda: self.done.append("installed"))

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
        monkeypatch.setattr(lab, "install", lambda: self.done.append("installed"))
        lab.set_up()
        assert self.done == ["made", "installed"]

    def interrupt(self):
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

    def fail(self):
        raise lab.Problem("the disk is full; free some.")
