"""The exercises and quizzes of the course: one file per notebook, `nb04_attention.py` for 04.

Each file holds EXERCISES and QUESTIONS, tuples of plain data (see
sdlearn.course.grading.exercise), and is imported when one of its exercises is needed. The words and
the mistakes are in a text file next to it, `nb04_attention.md` (see `texts` and `edits`).
"""

import re
from importlib import import_module
from pkgutil import iter_modules

from sdlearn.course.grading.exercise import Exercise, Question, Refused


def files() -> dict[str, str]:
    """The modules with exercises, by notebook: {"04": "nb04_attention"}."""
    found = (module.name for module in iter_modules(__path__) if module.name.startswith("nb"))
    return {name[2:4]: name for name in sorted(found)}


def exercises(notebook: str) -> tuple[Exercise, ...]:
    """All exercises of a notebook such as "04", easiest first.

    Raises:
        Refused: If the notebook has none.
    """
    return _module(notebook).EXERCISES


def questions(notebook: str) -> tuple[Question, ...]:
    """The three questions of a notebook's quiz.

    Raises:
        Refused: If the notebook has none.
    """
    return _module(notebook).QUESTIONS


def find(number: str) -> Exercise:
    """The exercise with a number such as "04.2".

    Raises:
        Refused: If there is none. The message names the exercises that exist.
    """
    if callable(number):
        raise Refused('The number comes first, then your answer: `check("04.2", split_heads)`.')
    notebook = str(number).split(".")[0]
    known = {e.number: e for e in exercises(notebook)} if notebook in files() else {}
    if number in known:
        return known[number]
    meant = _meant(number)
    existing = [e.number for e in exercises(meant[:2])] if meant else list(known)
    existing = existing or [e.number for notebook in files() for e in exercises(notebook)]
    none_yet = re.fullmatch(r"(\d\d)\.\d+", str(number)) and notebook not in files()
    why = f": notebook {notebook} has none yet" * bool(none_yet)
    question = f' Did you mean "{meant}"?' * bool(meant)
    raise Refused(
        f"There is no exercise {number!r}{why}; there are: {', '.join(existing)}.{question}"
    )


def _meant(number: object) -> str:
    """The number that 4.2, "4.2", "0402" or "04.2 " means; "" if there is no such exercise."""
    parts = re.fullmatch(r"0?(\d|[1-9]\d)\D*0?([1-9])", str(number).strip())
    if not parts:
        return ""
    notebook, k = parts[1].zfill(2), parts[2]
    numbers = [e.number for e in exercises(notebook)] if notebook in files() else []
    return f"{notebook}.{k}" if f"{notebook}.{k}" in numbers else ""


def _module(notebook: str):  # type: ignore[no-untyped-def]
    known = files()
    if notebook not in known:
        raise Refused(
            f"There is no quiz and no exercise for a notebook {notebook!r}; there are some for: "
            f"{', '.join(known)}."
        )
    return import_module(f"{__name__}.{known[notebook]}")
