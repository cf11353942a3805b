"""tools/compare_exercises.py notices what a change of exercises must not change."""

import subprocess
import sys
from types import SimpleNamespace

import compare_exercises
import numpy as np
import pytest
import torch
from compare_exercises import compared, equal, plain, probe, runner
from PIL import Image

from sdlearn.course.exercises import exercises
from sdlearn.course.grading.sandbox import Failure, results

NUMBERS = torch.tensor([1.0, 2.0, float("nan"), float("inf")], dtype=torch.float64)
FOUND = {
    "04": {
        "04.1": [("a", "You do a.", [NUMBERS, 3]), ("b", "You do b.", [["failure", "Oh."], 0.5])],
        "04.2": [("c", "You do c.", [["tuple", NUMBERS, "x"]])],
    }
}


def changed(*mistakes):
    return {"04": {**FOUND["04"], "04.1": list(mistakes)}}


@pytest.mark.parametrize(
    ("new", "outcomes", "said"),
    [
        (FOUND, 5, []),
        (changed(*FOUND["04"]["04.1"][::-1]), 5, ["04.1: another order: b, a"]),
        (changed(FOUND["04"]["04.1"][0]), 3, ["04.1 b: gone"]),
        (changed(*FOUND["04"]["04.1"], ("d", "You do d.", [1])), 5, ["04.1 d: new"]),
        (
            changed(("a", "You do!", [NUMBERS, 3]), FOUND["04"]["04.1"][1]),
            5,
            ["04.1 a: another sentence"],
        ),
        (
            changed(("a", "You do a.", [NUMBERS, 4]), FOUND["04"]["04.1"][1]),
            5,
            ["04.1 a: another result on case 1"],
        ),
        (
            changed(("a", "You do a.", [NUMBERS]), FOUND["04"]["04.1"][1]),
            4,
            ["04.1 a: 2 cases before, 1 after"],
        ),
        ({"04": {"04.1": FOUND["04"]["04.1"]}}, 4, ["04.2 c: gone"]),
        ({"06": FOUND["04"]}, 0, []),
    ],
)
def test_every_difference_is_a_line(new, outcomes, said):
    report = compared(FOUND, new)
    assert report.differences == said
    assert report.outcomes == outcomes


def test_outcomes_are_equal_to_twelve_digits_and_words_exactly():
    assert equal(NUMBERS, NUMBERS * (1 + 1e-14))
    assert equal(0.1 + 0.2, 0.3)
    assert equal(["failure", "Oh."], ["failure", "Oh."])
    for other in (NUMBERS * (1 + 1e-10), NUMBERS.float(), NUMBERS[:3], NUMBERS.nan_to_num(), 1.0):
        assert not equal(NUMBERS, other)
    for a, b in ((1, 2), (1, 1.0), (1, True), ("a", "b"), (None, 0), (["a"], ["a", "a"])):
        assert not equal(a, b)
    assert not equal(torch.tensor([1, 2]), torch.tensor([1, 3]))


def test_outcomes_are_made_plain():
    assert plain(Failure("Line 3 raised E: no.", raised="E: no.")) == ["failure", "E: no."]
    assert plain(Failure("It returns nothing.")) == ["failure", "It returns nothing."]
    assert plain(({"a": 1}, [None, "x"])) == ["tuple", [["a", 1]], ["list", None, "x"]]
    picture = Image.new("RGB", (2, 1), (9, 8, 7))
    for image in (picture, np.array(picture)):
        kind, pixels = plain(image)
        assert (kind, pixels.tolist()) == ("array", [[[9, 8, 7], [9, 8, 7]]])
    assert plain(SimpleNamespace) == "<class 'types.SimpleNamespace'>"
    assert " at 0x" not in plain(object())


def test_it_runs_every_mistake_on_every_case():
    assert runner() is results
    found = probe(["04"])
    expected = exercises("04")
    assert list(found) == ["04"]
    assert list(found["04"]) == [exercise.number for exercise in expected]
    for exercise in expected:
        mistakes = found["04"][exercise.number]
        assert [(name, sentence) for name, sentence, _ in mistakes] == [
            (mistake.name, mistake.sentence) for mistake in exercise.mistakes
        ]
        for _, _, outcomes in mistakes:
            assert len(outcomes) == len(exercise.inputs())


EXERCISES = """
from types import SimpleNamespace as Made

def files():
    return {"01": "nb01"}

def exercises(notebook):
    return [Made(number="01.1", mistakes=[Made(name="m", sentence="You do.", answer=ANSWER)])]
"""
RUNNER = "results = lambda exercise, answer: [answer, answer + 1]"


def commit(repository, files):
    """A commit in which the repository holds these files only; its hash."""

    def git(*words):
        who = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
        command = ["git", *who, *words]
        return subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True)

    git("init", "-q")
    git("rm", "-rq", "--ignore-unmatch", ".")
    for name, text in files.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text(text)
    git("add", ".")
    git("commit", "-qm", "A commit")
    return git("rev-parse", "HEAD").stdout.strip()


def test_each_commit_runs_its_own_package_wherever_its_runner_is(tmp_path, monkeypatch):
    kept = {"sdlearn/__init__.py": "", "sdlearn/course/__init__.py": "", "data/x": ""}
    place = "sdlearn/course/exercises/__init__.py"
    moved = {"sdlearn/course/grading/sandbox.py": RUNNER}
    old, new, none = (
        commit(tmp_path, {**kept, **runner, place: EXERCISES.replace("ANSWER", str(k))})
        for k, runner in enumerate(({"sdlearn/course/running.py": RUNNER}, moved, {}))
    )
    monkeypatch.setattr(compare_exercises, "ROOT", tmp_path)
    for made, outcomes in ((old, [0, 1]), (new, [1, 2])):
        assert compare_exercises.probed(made, []) == {"01": {"01.1": [("m", "You do.", outcomes)]}}
    with pytest.raises(subprocess.CalledProcessError):
        compare_exercises.probed(none, [])


@pytest.mark.parametrize(
    ("new", "code", "said"),
    [
        (FOUND, 0, "0 results differ, 0 sentences differ, 0 names or orders differ"),
        (changed(FOUND["04"]["04.1"][0]), 1, "04.1 b: gone"),
        ({"06": {}}, 1, "notebook 04 is in one commit only and was not compared"),
        ({"06": {}}, 1, "nothing was compared"),
    ],
)
def test_a_difference_and_a_comparison_of_nothing_are_errors(monkeypatch, capsys, new, code, said):
    monkeypatch.setattr(
        compare_exercises, "probed", lambda commit, _: {"a": FOUND, "b": new}[commit]
    )
    monkeypatch.setattr(sys, "argv", ["compare_exercises.py", "a", "b"])
    assert compare_exercises.main() == code
    assert said in capsys.readouterr().out
