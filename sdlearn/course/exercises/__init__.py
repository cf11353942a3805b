"""The exercises and quizzes of the course: one file a notebook, `nb05_attention.py` for 05.

Each file holds EXERCISES and QUESTIONS, tuples of plain data (see sdlearn.course.exercise). It is
imported when one of its exercises is asked for. Where there is a file `nb05_attention.md` beside
it, that holds the mistakes (see `edits`).
"""

from importlib import import_module
from pkgutil import iter_modules

from sdlearn.course.exercise import Exercise, Question, Refused


def files() -> dict[str, str]:
    """The notebooks that have exercises, and the module that holds them: {"05": "nb05_..."}."""
    found = (module.name for module in iter_modules(__path__) if module.name.startswith("nb"))
    return {name[2:4]: name for name in sorted(found)}


def exercises(notebook: str) -> tuple[Exercise, ...]:
    """All exercises of a notebook such as "05", easiest first. Refused where there are none."""
    return _module(notebook).EXERCISES


def questions(notebook: str) -> tuple[Question, ...]:
    """The three questions of a notebook's quiz. Refused where there are none."""
    return _module(notebook).QUESTIONS


def find(number: str) -> Exercise:
    """The exercise of a number such as "05.2". Refused, in one sentence, where there is none."""
    notebook = str(number).split(".")[0]
    known = {e.number: e for e in exercises(notebook)} if notebook in files() else {}
    if number in known:
        return known[number]
    there = known or [e.number for notebook in files() for e in exercises(notebook)]
    raise Refused(f"There is no exercise {number!r}; there are: {', '.join(there)}.")


def _module(notebook: str):  # type: ignore[no-untyped-def]
    known = files()
    if notebook not in known:
        raise Refused(
            f"There is no quiz and no exercise for a notebook {notebook!r}; there are some for: "
            f"{', '.join(known)}."
        )
    return import_module(f"{__name__}.{known[notebook]}")
