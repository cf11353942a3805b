"""`sdlearn classroom release`, and what nbgrader itself then makes of what learners hand in."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import nbformat
import nbtool
import pytest
from nbgrader.api import Gradebook

from sdlearn.cli import classroom
from sdlearn.cli.main import main
from sdlearn.course import check
from sdlearn.course.early_model import early_model
from sdlearn.course.exercises import exercises, find
from sdlearn.course.grading.exercise import Refused, source, stub
from sdlearn.pipeline import StableDiffusion

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
TEXT, ATTENTION = "05-text-encoder", "04-attention"
LESSONS = (TEXT, ATTENTION)
PATHS = [NOTEBOOKS / f"{name}.ipynb" for name in LESSONS]
POINTS = {name: [exercise.points for exercise in exercises(name[:2])] for name in LESSONS}

MISTAKEN = """def split_heads(x: Tensor, heads: int) -> Tensor:
    return x.reshape(x.shape[0], heads, x.shape[1], -1)"""
NOISY = """def attend_once(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    import sys, warnings
    warnings.warn("deprecated")
    print("here", file=sys.stderr)
    return (F.softmax((k @ q[:, :, None]) / q.shape[-1] ** 0.5, 1) * v).sum(1)"""


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """The course, with all submissions graded."""
    out = tmp_path_factory.mktemp("classroom") / "course"
    assert main(["classroom", "release", *map(str, PATHS), "--out", str(out)]) == 0
    solved = {e.number: source(e) for name in LESSONS for e in exercises(name[:2])}
    for name in LESSONS:
        hand_in(out, name, "full", solved)
    hand_in(out, ATTENTION, "empty", {})
    half = {**solved, "04.1": NOISY, "04.2": MISTAKEN, "04.4": stub(find("04.4"))}
    hand_in(out, ATTENTION, "half", half)
    hand_in(out, ATTENTION, "tampered", {**solved, "04.2": MISTAKEN}, tampered)
    for name in LESSONS:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        command = [sys.executable, "-m", "nbgrader", "autograde", name]
        done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return out


def hand_in(course: Path, name: str, student: str, answers: dict, change=lambda notebook: None):
    """What nbgrader released, with these answers filled in. Only imports and definitions are kept
    of the lesson, without which an exercise could not run: the rest takes half a minute."""
    notebook = nbformat.read(course / "release" / name / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        marks = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "code" and not marks:
            kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
            tree = ast.parse(cell.source)
            uses = "answer_or_solution("  # a wrong answer must not spoil the next exercise
            tree.body = [n for n in tree.body if isinstance(n, kept) or uses in ast.unparse(n)]
            cell.source = ast.unparse(tree)
        elif marks.get("solution"):
            number = f"{name[:2]}.{marks['grade_id'].split('-')[1]}"
            cell.source = answers.get(number, cell.source)
    change(notebook)
    file = course / "submitted" / student / name / f"{name}.ipynb"
    file.parent.mkdir(parents=True)
    nbformat.write(notebook, file)


def tampered(notebook):
    """The check of a wrong answer passes, is worth more, and may not even be run."""
    (cell,) = (c for c in notebook.cells if c.id == "exercise-2-check")
    cell.source = "print('all right')"
    cell.metadata.tags = ["skip-execution"]
    cell.metadata.nbgrader.points = 100


def graded(course: Path, name: str, student: str) -> list[float]:
    """The points of each exercise, from nbgrader's gradebook."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{course}/gradebook.db") as book:
        found = book.find_submission_notebook(name, name, student).grades
        scores = {grade.name: (grade.auto_score, grade.max_score) for grade in found}
    assert [scores[name][1] for name in sorted(scores)] == POINTS[name]
    return [scores[name][0] for name in sorted(scores)]


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_a_full_submission_has_all_points(course, name):
    assert graded(course, name, "full") == POINTS[name]


@pytest.mark.slow
def test_an_empty_submission_has_none(course):
    assert graded(course, ATTENTION, "empty") == [0] * len(POINTS[ATTENTION])


@pytest.mark.slow
def test_a_wrong_answer_and_one_that_is_not_there_lose_their_own_points(course):
    expected = [0 if k in (2, 4) else p for k, p in enumerate(POINTS[ATTENTION], start=1)]
    assert graded(course, ATTENTION, "half") == expected


@pytest.mark.slow
def test_a_check_that_was_tampered_with_is_restored(course):
    expected = [0 if k == 2 else p for k, p in enumerate(POINTS[ATTENTION], start=1)]
    assert graded(course, ATTENTION, "tampered") == expected
    file = course / "autograded" / "tampered" / ATTENTION / f"{ATTENTION}.ipynb"
    (cell,) = (c for c in nbformat.read(file, 4).cells if c.id == "exercise-2-check")
    assert cell.source == 'check.grade("04.2", split_heads)'
    assert cell.metadata.nbgrader.points == 2
    (output,) = cell.outputs
    (known,) = (m for m in find("04.2").mistakes if m.name == "reshape without transpose")
    assert output.evalue.replace("\n", " ").startswith(
        f"✗ 04.2 Splitting heads: not yet. {known.sentence}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_learners_get_stubs_and_locked_checks_and_nothing_to_follow_elsewhere(course, name):
    released = nbformat.read(course / "release" / name / f"{name}.ipynb", as_version=4)
    given = {cell.id: cell for cell in released.cells}
    for k, exercise in enumerate(exercises(name[:2]), start=1):
        assert given[f"exercise-{k}-answer"].source == stub(exercise)
        checked = given[f"exercise-{k}-check"]
        assert checked.source == f'check.grade("{exercise.number}", {exercise.name})'
        assert checked.metadata.editable is False
    assert not any(cell.get("outputs") for cell in released.cells)
    assert "widgets" not in released.metadata
    texts = "".join(cell.source for cell in released.cells if cell.cell_type == "markdown")
    assert ".ipynb" not in texts
    assert "](https://arxiv.org/abs/" in texts
    lesson = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text("utf-8"))["cells"]
    assert [cell.id for cell in released.cells] == [cell["id"] for cell in lesson]


# ---------------------------------------------------------------------------- grading, and refusals


def test_grading_is_quiet_for_right_answers_and_raises_for_all_others(capfd):
    exercise = find("04.2")

    def noisy(x, heads):
        warnings.warn("deprecated", stacklevel=1)
        print("here", file=sys.stderr)
        return exercise.solution(x, heads)

    assert check.grade("04.2", noisy) is None
    assert capfd.readouterr() == ("", "")
    with pytest.raises(Refused, match=r"(?s)^○ 04\.2 Splitting heads: not attempted\. .*\.$"):
        check.grade("04.2", ...)
    for answer in (exercise.mistakes[0].answer, "seven", lambda x: x, lambda x, heads: 1 / 0):
        with pytest.raises(Refused, match=r"(?s)^✗ 04\.2 Splitting heads: not yet\. .*\.$"):
            check.grade("04.2", answer)


def changed(folder: Path, change) -> Path:
    """A copy of notebook 04 with its text changed."""
    path = folder / f"{ATTENTION}.ipynb"
    path.write_text(change((NOTEBOOKS / path.name).read_text("utf-8")), "utf-8")
    return path


REFUSED = {
    "unknown": (lambda t: t / "07-none.ipynb", "there is no notebook .*07-none.ipynb"),
    "folder": (lambda t: t, "is a folder; accepted: "),
    "no notebook": (lambda t: changed(t, lambda text: text[:-9]), "04-.* is not a notebook"),
    "no cells": (lambda t: changed(t, lambda text: "{}"), "04-.* is not a notebook"),
    "no exercises": (
        lambda t: NOTEBOOKS / "playground.ipynb",
        "playground.ipynb has no exercises; accepted: notebooks 00, 01, 02, 03, ",
    ),
    "without its cells": (
        lambda t: changed(t, lambda text: text.replace("exercise-2-check", "mine")),
        "has no cell exercise-2-check; the course's notebook 04 does",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_gets_one_sentence_and_leaves_nothing(name, tmp_path, capsys):
    make, words = REFUSED[name]
    (tmp_path / "in").mkdir()
    paths = [str(PATHS[0]), str(make(tmp_path / "in"))]
    refused(capsys, [*paths, "--out", str(tmp_path / "new" / "course")], words)
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


def refused(capsys, arguments: list[str], words: str) -> None:
    assert main(["classroom", "release", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("sdlearn: ")
    assert said.err.count("\n") == 1
    assert re.search(words, said.err)


def test_one_notebook_twice_and_a_folder_that_is_in_use_are_refused(tmp_path, capsys):
    one = str(PATHS[1])
    refused(
        capsys, [one, one, "--out", str(tmp_path / "x")], "two notebooks have the same name: 04-"
    )
    (tmp_path / "kept.txt").write_text("kept")
    for out in (tmp_path, tmp_path / "kept.txt"):
        refused(capsys, [one, "--out", str(out)], "already exists; accepted: a new or empty")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["kept"]
    under_a_file = tmp_path / "kept.txt" / "course"
    refused(capsys, [one, "--out", str(under_a_file)], "kept.txt")


def test_a_folded_cell_stays_folded_in_the_learners_copy(tmp_path):
    """The tag, which people see, and the mark that JupyterLab reads."""

    def fold(text):
        notebook = nbtool.read(text)
        (cell,) = (cell for cell in notebook["cells"] if cell["id"] == "setup")
        cell["metadata"]["tags"] = ["hide-input"]
        return nbtool.written(nbtool.clean(notebook))

    (tmp_path / "in").mkdir()
    path, out = changed(tmp_path / "in", fold), tmp_path / "course"
    assert main(["classroom", "release", str(path), "--out", str(out)]) == 0
    released = nbformat.read(out / "release" / ATTENTION / f"{ATTENTION}.ipynb", as_version=4)
    marks = {cell.id: cell.metadata.get("jupyter", {}) for cell in released.cells}
    assert marks["setup"] == {"source_hidden": True}
    tagged = {cell.id for cell in released.cells if "hide-input" in cell.metadata.get("tags", [])}
    assert {name for name, mark in marks.items() if "source_hidden" in mark} == tagged
    assert "setup" in tagged
    (setup,) = (cell for cell in released.cells if cell.id == "setup")
    assert setup.metadata.tags == ["hide-input"]


def test_without_nbgrader_one_learns_how_to_get_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(classroom, "find_spec", lambda name: None)
    arguments = [str(PATHS[1]), "--out", str(tmp_path / "x")]
    refused(capsys, arguments, "is not installed: pip install nbgrader$")
    assert not any(tmp_path.iterdir())


def test_where_nbgrader_fails_its_last_words_are_said_and_nothing_stays(tmp_path, capsys):
    """Two cells of a teacher's own with one name for the grades."""

    def twice(text):
        notebook = json.loads(text)
        (cell,) = (cell for cell in notebook["cells"] if cell["id"] == "exercise-2-check")
        notebook["cells"].append({**cell, "id": "one-more"})
        return json.dumps(notebook)

    (tmp_path / "in").mkdir()
    arguments = [str(changed(tmp_path / "in", twice)), "--out", str(tmp_path / "course")]
    refused(capsys, arguments, "nbgrader generate_assignment 04-attention failed: ")
    assert [file.name for file in tmp_path.iterdir()] == ["in"]


# ------------------------------------------------------------------------------- the challenge


def test_the_challenge_is_graded_by_the_page_score(tmp_path):
    """A model that was trained is evaluated and not trained again; a bad one gets no points."""
    name = "ten-minute-model"
    course = tmp_path / "course"
    shutil.copytree(NOTEBOOKS.parent / "examples" / name, course / "source" / name)
    (course / "nbgrader_config.py").write_text(classroom.CONFIG, "utf-8")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def nbgrader(*command):
        done = subprocess.run(
            [sys.executable, "-m", "nbgrader", *command],
            cwd=course, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    nbgrader("generate_assignment", name, "--create")
    released = course / "release" / name / f"{name}.ipynb"
    assert "1500" not in released.read_text("utf-8")  # the settings are for the teacher alone
    notebook = nbformat.read(released, as_version=4)
    by_name = {cell.metadata.nbgrader.grade_id: cell for cell in notebook.cells[1:]}
    by_name["settings"].source = 'settings = []\nguidance = "3"'
    # nbgrader puts a locked cell back.
    by_name["score"].source = by_name["score"].source.replace('"100"', '"1"')
    for student in ("early", "untrained"):
        folder = course / "submitted" / student / name
        folder.mkdir(parents=True)
        nbformat.write(notebook, folder / released.name)
        model = early_model(StableDiffusion.storybook())
        if student == "untrained":
            for weight in model.unet.parameters():
                weight.normal_(0, 0.02)
        model.save_pretrained(folder / "model")
    nbgrader("autograde", name)
    for student, points in (("early", 10), ("untrained", 0)):
        graded = course / "autograded" / student / name
        score = json.loads((graded / "score.json").read_text("utf-8"))
        assert score["captions"] == 100
        page = score["splits"]["test"]["pictures"]["page"]["rate"]
        assert (page >= 0.3) == (points == 10), page
        assert not (graded / "run").exists()
        with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
            assert book.find_submission(name, student).score == points
