"""Every lesson: what it builds is the finished part, number by number, so that neither can drift.

nbval runs the notebooks whole; here what they compare is taken out and run alone.
"""

import ast
import json
from functools import cache
from pathlib import Path

import nbtext
import pytest
from torch import nn

from sdlearn.course.exercises import exercises, files, questions
from sdlearn.course.grading.compare import Different
from tests import notebook_parts
from tests.notebook_parts import (
    Pair,
    Unspoilt,
    distance,
    extract,
    parts,
    run,
    runs,
    slipped,
    statements,
)

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
# The first looks at finished parts and the last but one at their costs; neither builds one.
BUILD_NOTHING = {"00", "16"}
LESSONS = [
    p for p in sorted(NOTEBOOKS.glob("[0-9][0-9]-*.ipynb")) if p.name[:2] not in BUILD_NOTHING
]
PARTS = [(lesson, part) for lesson in LESSONS for part in parts(lesson)]
each = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.name[:2])


def troubles(pairs: list[Pair]) -> list[str]:
    """What is wrong with the comparisons of a lesson, though all of them hold."""
    found = []
    if not any(pair.own and pair.finished for pair in pairs):
        found.append("nothing that the notebook builds is compared with a finished part of sdlearn")
    for pair in pairs:
        if pair.finished and not pair.own:
            found.append(f"{pair.theirs} is compared with what the notebook has not built")
        if pair.tolerance > 1e-12:
            found.append(f"a tolerance of {pair.tolerance} hides mistakes")
        if isinstance(pair.mine, nn.Module) and isinstance(pair.theirs, nn.Module):
            if distance(pair) > 1e-12:
                found.append(f"{type(pair.mine).__name__} is not the finished one")
            if [*pair.mine.parameters()] and not distance(pair, other_weights=True) > 1e-6:
                found.append(f"{type(pair.mine).__name__} does not depend on its weights")
    return found


@each
def test_what_it_builds_is_the_finished_part(lesson):
    assert troubles(run(extract(lesson))) == []


@pytest.mark.parametrize(("lesson", "part"), PARTS, ids=lambda x: getattr(x, "stem", x)[:40])
def test_a_slip_in_any_part_is_noticed(lesson, part):
    with pytest.raises(Different):
        run(extract(lesson), slip=part)


@cache
def finished() -> dict[str, ast.stmt]:
    """What the package defines, by name, wherever its files are; without the course's own figures
    and exercises, and without networks of the trainings and evaluations."""
    folders = {"course", "evaluation", "recipes"}
    files = (ROOT / "sdlearn").rglob("*.py")
    return {
        node.name: node
        for file in sorted(files)
        if not folders & set(file.relative_to(ROOT).parts)
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }


def test_the_finished_parts_are_found():
    assert {"UNet", "VAE", "GEGLU", "CLIPTextEncoder", "ControlNet", "ddim"} <= finished().keys()


@each
def test_a_class_that_is_named_like_a_finished_one_is_compared(lesson):
    networks = {name for name, node in finished().items() if runs(node)}
    own = {s.node.name for s in statements(lesson) if runs(s.node)}
    assert own & networks <= set(parts(lesson))


@pytest.mark.parametrize("lesson", files())
def test_sections_named_in_hints_and_quizzes_are_there(lesson):
    (path,) = NOTEBOOKS.glob(f"{lesson}-*.ipynb")
    said = [q.text for q in questions(lesson)]
    said += [answer.reason for q in questions(lesson) for answer in q.answers]
    for exercise in exercises(lesson):
        said += [*exercise.hints, *(mistake.sentence for mistake in exercise.mistakes)]
    named = {number for text in said for number in nbtext.sections_named(text)}
    assert named <= set(nbtext.sections(nbtext.headings_of(path)))


# ---------------------------------------------------------- that these can fail: a small lesson

IMPORTS = """
import torch
from torch import nn
import sdlearn
from sdlearn.course import check
heavy = undefined_if_it_ran
"""
BUILT = """
def halves(x):
    return x.chunk(2, dim=-1)


class GEGLU(nn.Module):
    def __init__(self, dim_in, dim_out):
        super().__init__()
        self.proj = nn.Linear(dim_in, 2 * dim_out)

    def forward(self, x):
        value, gate = halves(self.proj(x))
        return value * nn.functional.gelu(gate)
"""
INPUTS = "x = torch.randn(2, 3, 4)\nx += 1\nx[0] = 1\nmine = GEGLU(4, 5)"
SAME = "check.same(mine, sdlearn.attention.GEGLU(4, 5), x)"
STUB, CHECK = "def halves(x):\n    ...", 'check("04.9", halves)'


def written(folder: Path, *sources: str) -> Path:
    exercise = {"nbgrader": {}}
    cells = [
        {"cell_type": "code", "id": f"c{k}", "source": source}
        | {"metadata": exercise if source in (STUB, CHECK) else {}}
        for k, source in enumerate(sources)
    ]
    path = folder / "04-small.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    return path


def test_a_small_lesson_is_taken_out_and_compared(tmp_path):
    path = written(tmp_path, IMPORTS, BUILT, "x = heavy", INPUTS, STUB, CHECK, SAME, "x = 1")
    taken = [ast.unparse(statement.node).splitlines()[0] for statement in extract(path)]
    definitions = ["def halves(x):", "class GEGLU(nn.Module):"]
    assert taken == [*IMPORTS.split("\n")[1:5], *definitions, *INPUTS.split("\n"), SAME]
    assert parts(path) == ["GEGLU"]
    assert troubles(run(extract(path))) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("value, gate", "gate, value"),
        ("dim=-1", "dim=1"),
        ("gelu(gate)", "gelu(gate, approximate='tanh')"),
        ("2 * dim_out)", "2 * dim_out, bias=False)"),
        ("self.proj", "self.project"),
    ],
)
def test_one_broken_line_in_a_notebook_is_noticed(tmp_path, old, new):
    path = written(tmp_path, IMPORTS, BUILT.replace(old, new), INPUTS, SAME)
    with pytest.raises(Different):
        run(extract(path))


CLOSURE = """
def twice(f):
    def doubled(x):
        return 2 * f(x)
    return doubled


check.same(twice(torch.sin), lambda x: 2 * torch.sin(x), x)
"""


def test_a_slip_in_what_a_function_returns_is_noticed(tmp_path):
    path = written(tmp_path, IMPORTS, INPUTS.replace("mine = GEGLU(4, 5)", ""), CLOSURE)
    assert parts(path) == ["twice"]
    assert len(run(extract(path))) == 1
    with pytest.raises(Different, match="agrees to only a few digits"):
        run(extract(path), slip="twice")


@pytest.mark.parametrize("part", ["GEGLU", "halves"])
def test_a_fault_of_this_test_is_not_taken_for_a_slip(tmp_path, monkeypatch, part):
    """A harness that spoils more than a digit would show in any comparison, also a careless one."""
    path = written(tmp_path, IMPORTS, BUILT, INPUTS, SAME)
    with pytest.raises(Different, match=r"differs at 30 of 30 places"):
        run(extract(path), slip=part)
    monkeypatch.setattr(notebook_parts, "slipped", lambda result: None)
    with pytest.raises(Unspoilt, match="the mistake is not small"):
        run(extract(path), slip=part)
    with pytest.raises(Unspoilt, match="type str has no number to change"):
        slipped("a text")


def test_an_error_outside_of_the_notebook_is_not_taken_for_a_difference(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("of the comparison itself")

    path = written(tmp_path, IMPORTS, BUILT, INPUTS, SAME)
    monkeypatch.setattr("sdlearn.course.grading.compare.same", broken)
    with pytest.raises(RuntimeError, match="of the comparison itself"):
        run(extract(path))


@pytest.mark.parametrize(
    ("same", "trouble"),
    [
        ("print(mine)", "nothing that the notebook builds is compared"),
        ("check.same(mine, GEGLU(4, 5), x)", "nothing that the notebook builds is compared"),
        (SAME.replace("mine", "sdlearn.attention.GEGLU(4, 5)"), "what the notebook has not built"),
        (SAME.replace(", x)", ", x, tolerance=1e-3)"), "a tolerance of 0.001 hides mistakes"),
        (SAME.replace(", x)", ", x[:0])"), "GEGLU does not depend on its weights"),
    ],
)
def test_a_comparison_that_proves_nothing_is_named(tmp_path, same, trouble):
    found = troubles(run(extract(written(tmp_path, IMPORTS, BUILT, INPUTS, same))))
    assert any(trouble in sentence for sentence in found)


def test_without_check_same_a_difference_is_found_as_well(tmp_path, monkeypatch):
    path = written(tmp_path, IMPORTS, BUILT.replace("value, gate", "gate, value"), INPUTS, SAME)
    monkeypatch.setattr("sdlearn.course.grading.compare.same", lambda *_, **__: None)
    assert troubles(run(extract(path))) == ["GEGLU is not the finished one"]
