"""`sdlearn course`: what it copies, what it keeps, what it refuses, and the server it starts."""

import json
import re
import socket
import sys
from pathlib import Path

import pytest

from sdlearn.cli import course
from sdlearn.cli.main import main
from sdlearn.utils import resources
from sdlearn.utils.resources import course_files

NAMES = [file.name for file in course_files()]
FIRST = "00-the-whole-picture.ipynb"


@pytest.fixture
def served(monkeypatch, tmp_path):
    """The arguments with which JupyterLab would be started, one list for each call."""
    calls = []
    monkeypatch.setattr(course, "serve", lambda *arguments: calls.append(arguments) or 0)
    monkeypatch.chdir(tmp_path)
    return calls


def test_the_course_is_every_lesson_the_playground_and_the_teacher_s_page():
    lessons = [name for name in NAMES if re.match(r"\d\d-", name)]
    assert [name[:2] for name in lessons] == [f"{k:02}" for k in range(20)]
    assert [*lessons, "playground.ipynb", "teaching.md"] == NAMES


def test_the_notebooks_are_copied_and_the_first_is_opened(served, capsys):
    assert main(["course"]) == 0
    folder = Path("sdlearn-course")
    assert served == [(folder, FIRST, None, False)]
    assert sorted(path.name for path in folder.iterdir()) == sorted([course.RECORD, *NAMES])
    for file in course_files():
        assert (folder / file.name).read_bytes() == file.read_bytes()
    assert capsys.readouterr().out == f"sdlearn-course: {len(NAMES)} files written, 0 up to date\n"


def test_a_changed_file_is_kept_and_named_and_a_missing_one_comes_back(served, capsys):
    assert main(["course", "mine", "--no-browser", "--port", "9123"]) == 0
    capsys.readouterr()
    Path("mine", FIRST).write_text("my answers")
    Path("mine", "02-vae.ipynb").unlink()
    Path("mine", "notes.txt").write_text("my notes")
    assert main(["course", "mine"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"mine: 1 files written, {len(NAMES) - 2} up to date\n")
    assert f"kept as you changed them: {FIRST}\n" in said
    assert Path("mine", FIRST).read_text() == "my answers"
    assert Path("mine", "notes.txt").read_text() == "my notes"
    assert Path("mine", "02-vae.ipynb").exists()
    assert served == [(Path("mine"), FIRST, 9123, True), (Path("mine"), FIRST, None, False)]


def test_a_newer_course_replaces_what_was_not_changed_and_nothing_else(tmp_path):
    new, mine = tmp_path / "new", tmp_path / "mine"
    new.mkdir()
    files = [new / name for name in ("a.ipynb", "b.ipynb", "c.ipynb")]
    for file in files:
        file.write_text("one")
    assert course.copy(files, mine) == (3, [])
    (mine / "a.ipynb").write_text("changed")
    (mine / "c.ipynb").write_text("two")  # as the newer course has it
    for file in files:
        file.write_text("two")
    assert course.copy(files, mine) == (1, ["a.ipynb"])
    assert [(mine / f.name).read_text() for f in files] == ["changed", "two", "two"]
    assert course.copy(files, mine) == (0, ["a.ipynb"])


def test_a_file_that_was_there_before_the_course_is_kept(served, capsys):
    Path("other").mkdir()
    Path("other", "teaching.md").write_text("not ours")
    assert main(["course", "other"]) == 0
    assert "kept as you changed them: teaching.md" in capsys.readouterr().out
    assert Path("other", "teaching.md").read_text() == "not ours"


@pytest.mark.parametrize("damage", ["[]", "{", "\x00"])
def test_a_damaged_record_is_named_and_nothing_is_written(served, capsys, damage):
    Path("mine").mkdir()
    Path("mine", course.RECORD).write_text(damage)
    assert main(["course", "mine"]) == 2
    assert course.RECORD in one_sentence(capsys)
    assert [path.name for path in Path("mine").iterdir()] == [course.RECORD]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "0"], "--port is 0; it must lie in 1 … 65535"),
        (["--port", "70000"], "--port is 70000"),
        (["--port", "many"], "argument --port: 'many' is not a whole number"),
        (["file"], "file is a file; give a folder to write to"),
        (["file/course"], "which is a file"),
        ([""], "it is empty; accepted: the name of a file or folder"),
        (["blocked"], "is a folder; a file of this name is to be written"),
        (["one", "two"], "unrecognized arguments: two"),
    ],
)
def test_bad_input_is_one_sentence(served, capsys, arguments, says):
    Path("file").write_text("")
    Path("blocked", FIRST).mkdir(parents=True)
    try:
        code = main(["course", *arguments])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert says in one_sentence(capsys)
    assert served == []


def test_a_port_in_use_is_one_sentence(served, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["course", "--port", str(port)]) == 2
    assert f"--port {port} cannot be used (address already in use)" in one_sentence(capsys)
    assert not Path("sdlearn-course").exists()


def test_without_jupyterlab_it_says_what_to_install(served, capsys, monkeypatch):
    monkeypatch.setattr(course, "find_spec", lambda _: None)
    assert main(["course"]) == 2
    assert "pip install 'sdlearn[course]'" in one_sentence(capsys)
    assert not Path("sdlearn-course").exists()


def test_without_the_notebooks(served, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(resources, "PACKAGE", tmp_path)
    assert main(["course"]) == 2
    assert "was not found" in one_sentence(capsys)


def one_sentence(capsys) -> str:
    said = capsys.readouterr().err
    assert said.startswith("sdlearn: ")
    assert said.count("\n") == 1
    return said


def test_jupyterlab_serves_the_folder_from_this_python(monkeypatch, tmp_path):
    started = []

    class Child:
        def __init__(self, command, env):
            started.append((command, env))
            self.waits = iter([KeyboardInterrupt, 3])

        def wait(self):
            if (result := next(self.waits)) is KeyboardInterrupt:
                raise result
            return result

    monkeypatch.setattr(course.subprocess, "Popen", Child)
    assert course.serve(tmp_path, FIRST, 9123, True) == 3
    ((command, variables),) = started
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert {
        f"--ServerApp.root_dir={tmp_path}", f"--LabApp.default_url=/lab/tree/{FIRST}",
        "--port=9123", "--ServerApp.port_retries=0", "--no-browser",
    } < {*command}  # fmt: skip
    assert variables["PATH"].startswith(str(Path(sys.executable).parent))
    assert variables["JUPYTER_PREFER_ENV_PATH"] == "1"


def test_it_starts_as_lab_py_starts_it():
    text = (Path(__file__).resolve().parents[2] / "lab.py").read_text("utf-8")
    assert all(f'"{each}"' in text for each in course.SETTINGS)


def test_the_record_is_plain_json(served):
    assert main(["course"]) == 0
    record = json.loads(Path("sdlearn-course", course.RECORD).read_text("utf-8"))
    assert sorted(record) == sorted(NAMES)
