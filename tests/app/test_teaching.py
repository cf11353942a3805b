"""notebooks/teaching.md: what is made in it is up to date, and the rest speaks of all notebooks."""

import ast
import builtins
import json
import re
from dataclasses import replace

import nbsecond
import pytest
import teaching
from nbtext import LAST_NOTEBOOK
from nbwatch import seconds_allowed

from sdlearn.course.exercises import exercises, files
from sdlearn.course.grading.exercise import source
from tests.notebook_parts import names

TEXT = teaching.PAGE.read_text("utf-8")
ALL = [f"{k:02}" for k in range(LAST_NOTEBOOK + 1)]


def section(title: str, page: str = TEXT) -> str:
    return re.search(rf"^#+ {re.escape(title)}.*?\n(.*?)(?=^##|\Z)", page, re.M | re.S)[1]


def test_what_is_made_is_up_to_date():
    assert teaching.renewed(TEXT) == TEXT, "renew it: python tools/teaching.py"


def test_every_mistake_is_in_it_with_its_sentence_and_every_exercise_with_its_minutes():
    for lesson in files():
        for exercise in exercises(lesson):
            assert f"{exercise.number} {exercise.title} ({exercise.minutes} minutes, " in TEXT
            for mistake in exercise.mistakes:
                assert f"\n- **{mistake.name}**: {mistake.sentence}\n" in TEXT


def test_the_table_of_minutes_adds_up():
    row = r"^\| \[04 · Attention\]\(04-attention\.ipynb\) \| (\d+) \| \d+ \| 9 \| 99 \| 32 \|$"
    assert int(re.search(row, TEXT, re.M)[1]) == teaching.reading("04")
    assert TEXT.count(".ipynb) | ") == len(teaching.lessons())
    assert set(teaching.MEASURED) <= set(ALL)
    assert all(0 < teaching.MEASURED[n] < seconds_allowed(n) for n in teaching.MEASURED)


def test_a_change_of_an_exercise_is_noticed(monkeypatch):
    exercise = exercises("04")[1]
    other = replace(exercise, minutes=13)
    known = exercises
    monkeypatch.setattr(teaching, "exercises", lambda n: (other,) if n == "04" else known(n))
    page = teaching.renewed(TEXT)
    assert page != TEXT
    assert re.search(r"04-attention\.ipynb\) \| \d+ \| \S+ \| 1 \| 13 \| 3 \|", page)
    assert teaching.renewed(page) == page


def test_the_plan_of_twelve_weeks_has_every_notebook_once():
    rows = re.findall(r"^\| (\d+) \| ([\d, ]+) \|", section("Twelve weeks"), re.M)
    assert [int(week) for week, _ in rows] == [*range(1, 13)]
    assert [named.split(", ") for _, named in rows] == [week.split() for week in teaching.WEEKS]
    assert [n for _, named in rows for n in named.split(", ")] == ALL


def test_the_plan_of_three_days_teaches_or_leaves_out_every_notebook():
    taught, left = section("Three days").split("Left for afterwards")
    planned = [n for plan in teaching.HALF_DAYS.values() for n, _, _ in plan]
    assert re.findall(r"(?<=\*\*)\d\d(?=\*\*(?:, |;| \|))", taught.split("The first")[0]) == planned
    assert sorted(planned + re.findall(r"\*\*(\d\d)\*\*", left.split(".")[0])) == ALL


def test_half_a_day_of_rewritten_notebooks_takes_three_hours_at_most():
    rows = re.findall(r"\| (\d+) \| (\d+) \| (\d+) \|$", section("Three days"), re.M)
    assert len(rows) == len(teaching.HALF_DAYS)
    for (read, solved, both), plan in zip(rows, teaching.HALF_DAYS.values(), strict=True):
        assert int(read) + int(solved) == int(both)
        rewritten = {lesson for lesson, _, _ in plan} <= {*nbsecond.SECOND_EDITION}
        assert int(both) <= (185 if rewritten else 210)
    # 00 whole, half of 01 and of 02; the first two exercises of each
    read = sum(
        share * teaching.reading(lesson) for lesson, share in (("00", 1), ("01", 0.5), ("02", 0.5))
    )
    assert rows[0][:2] == (str(round(read)), str(6 + 5 + 8 + 12 + 6 + 5))


@pytest.mark.parametrize("lesson", teaching.lessons())
def test_there_are_questions_to_discuss(lesson):
    asked = re.findall(r"^- (.+?)(?=^- |\Z)", section(f"{lesson} · ").strip(), re.M | re.S)
    assert 2 <= len(asked) <= 3
    assert all(question.strip().endswith("?") for question in asked)
    title = teaching.title(teaching.lessons()[lesson])
    assert f"\n### {title}\n\n- " in TEXT


def test_links_lead_somewhere():
    titles = re.findall(r"^#+ (.+)$", TEXT, re.M)
    anchors = {"#" + re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        known = target in anchors or (teaching.PAGE.parent / target).is_file()
        assert known or target.startswith("https://"), target


@pytest.mark.parametrize("lesson", files())
def test_a_solution_runs_where_learners_write_it(lesson):
    """It uses only names of its notebook: the teacher's copy holds it there."""
    stored = json.loads(teaching.lessons()[lesson].read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in stored if cell["cell_type"] == "code"]
    known = set(dir(builtins)).union(*(names(n)[0] for text in code for n in ast.parse(text).body))
    for exercise in exercises(lesson):
        (node,) = ast.parse(source(exercise)).body
        _, now, later = names(node)
        assert now | later <= known | {exercise.name}, exercise.number
