"""Join the text file of a notebook's exercises (see `texts`) to its Python file.

A mistake in the text file is an edit of the solution:

    ### heads left inside
        - .transpose(1, 2)
        +
    You stop at (b, n, heads, d). Attention takes the last two axes for tokens and channels.

The text after `-` must occur exactly once in the solution's source, and the text after `+` replaces
it. Both may have several lines, and a mistake may have several such pairs, which all refer to the
unchanged solution. The indentation of `-` lines is ignored, and `+` lines are indented like the
first line that they replace. Instead of an edit, `= expression` gives a complete answer of its own:
a value, or a function of the Python file.
"""

import re
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from sdlearn.course.exercises.texts import QUIZ, Entry, Section, questions, read
from sdlearn.course.grading.exercise import Exercise, Mistake, Question, source


def with_texts(
    module: str, *exercises: Exercise
) -> tuple[tuple[Exercise, ...], tuple[Question, ...]]:
    """Return the exercises of a module with their texts and mistakes, and the quiz.

    Args:
        module: The module's `__name__`. The text file is the `.md` file next to it.
        *exercises: Its exercises.

    Raises:
        ValueError: If something in the file doesn't fit. The message names the file, and the
            exercise and mistake where there is one.
    """
    names = vars(sys.modules[module])
    path = Path(names["__file__"]).with_suffix(".md")
    known = {f"{exercise.number} {exercise.title}": exercise for exercise in exercises}
    quiz: tuple[Question, ...] = ()
    found: dict[str, Exercise] = {}
    for section in read(path):
        if section.title == QUIZ:
            quiz = questions(section)
        elif section.title in known:
            found[section.title] = complete(known[section.title], section, names)
        else:
            trouble = f"there is no exercise {section.title!r}; there are: {', '.join(known)}"
            raise ValueError(f"{section.place}: {trouble}")
    for title in known:
        if title not in found:
            raise ValueError(f"{path.name}: the section {title!r} is missing")
    return tuple(found[title] for title in known), quiz


def complete(exercise: Exercise, section: Section, names: dict[str, Any]) -> Exercise:
    """Return the exercise with the statement, hints and mistakes of its section."""
    solution = source(exercise)
    mistakes = list(exercise.mistakes)
    for entry in section.mistakes:
        if entry.name in [mistake.name for mistake in mistakes]:
            raise entry.error("another mistake there has this name")
        if not entry.words:
            raise entry.error("the sentence for the learner is missing")
        if entry.edits and entry.instead:
            raise entry.error("it has edits and another answer: one of them is not used")
        answer = mistaken(entry, exercise.name, solution, names)
        mistakes.append(Mistake(entry.name, answer, " ".join(entry.words)))
    if not section.statement or len(section.hints) != 3:
        trouble = f"needs a statement and three hints, not {len(section.hints)}"
        raise ValueError(f"{section.place}: {section.title!r} {trouble}")
    one, two, three = section.hints
    return replace(
        exercise,
        statement=section.statement,
        hints=(one, two, three),
        mistakes=tuple(mistakes),
    )


def mistaken(entry: Entry, called: str, solution: str, names: dict[str, Any]) -> Any:
    """Return the mistake as a value or running code, in the namespace of the solution's module."""
    instead = f"{called} = " + "\n".join(entry.instead)
    text = instead if entry.instead else edited(entry, solution)
    if text == solution:
        raise entry.error("it changes nothing in the solution")
    made: dict[str, Any] = {}
    try:
        exec(compile(text, f"<{entry.name}>", "exec", dont_inherit=True), names, made)
    except (SyntaxError, NameError) as error:
        raise entry.error(f"it does not run: {error}") from error
    return made[called]


def edited(entry: Entry, text: str) -> str:
    """Return the solution's source with all edits of a mistake applied."""
    spans = []
    for edit in entry.edits:
        found = list(re.finditer(r"\n *".join(map(re.escape, edit.old)), text))
        if len(found) != 1:
            trouble = f"{' '.join(edit.old)!r} is {len(found)} times in the solution, not once"
            raise entry.error(trouble, edit.line)
        start, end = found[0].span()
        first_line = text[text.rfind("\n", 0, start) + 1 :]
        indent = " " * (len(first_line) - len(first_line.lstrip(" ")))
        spans.append((start, end, f"\n{indent}".join(edit.new)))
    spans.sort()
    if any(end > start for (_, end, _), (start, _, _) in pairwise(spans)):
        raise entry.error("two of its edits overlap")
    for start, end, new in reversed(spans):
        text = text[:start] + new + text[end:]
    return text
