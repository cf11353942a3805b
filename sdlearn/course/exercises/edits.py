"""Mistakes as edits of the solution, in a text file that can be proof-read as prose.

`nb04_attention.md` is next to `nb04_attention.py`. Each mistake in it has a name, an edit and the
text that the learner reads:

    ## 04.2 Splitting heads

    ### heads left inside
        - .transpose(1, 2)
        +
    You stop at (b, n, heads, d). Attention takes the last two axes for tokens and channels.

The text after `-` must occur exactly once in the solution's source, and the text after `+` replaces
it. Both may be several lines, and a mistake may have several such pairs, which all refer to the
unchanged solution. The indentation of `-` lines is not compared, and `+` lines are indented like
the first line that they replace. Instead of an edit, `= expression` gives a whole other answer: a
value, or a function of the Python file.
"""

import re
import sys
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from sdlearn.course.grading.exercise import Exercise, Mistake, source


@dataclass
class Edit:
    """One replacement in the solution.

    Attributes:
        line: Line number in the text file.
        old: The lines after `-`, without the sign.
        new: The lines after `+`, without the sign.
    """

    line: int
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


@dataclass
class Entry:
    """A mistake as it is written in the text file.

    Attributes:
        file: Name of the text file.
        line: Line number of its heading.
        exercise: Number and title of the exercise.
        name: Name of the mistake.
        edits: Its edits.
        instead: The lines after `=`, without the sign.
        words: The text for the learner, in words.
    """

    file: str
    line: int
    exercise: str
    name: str
    edits: list[Edit] = field(default_factory=list)
    instead: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def error(self, trouble: str, line: int = 0) -> ValueError:
        """An exception that names file, line, exercise and mistake."""
        place = f"{self.file}, line {line or self.line}"
        return ValueError(f"{place}: {self.exercise}, {self.name!r}: {trouble}")


def with_mistakes(module: str, *exercises: Exercise) -> tuple[Exercise, ...]:
    """The exercises of a module, with the mistakes in the `.md` file next to it.

    Args:
        module: The module's `__name__`.
        *exercises: Its exercises. Mistakes that they already have come first.

    Raises:
        ValueError: If an entry of the file does not fit; names file, line, exercise and mistake.
    """
    names = vars(sys.modules[module])
    known = {f"{exercise.number} {exercise.title}": exercise for exercise in exercises}
    solutions = {title: source(exercise) for title, exercise in known.items()}
    mistakes = {title: list(exercise.mistakes) for title, exercise in known.items()}
    for entry in read(Path(names["__file__"]).with_suffix(".md")):
        if entry.exercise not in known:
            raise entry.error(f"there is no such exercise; there are: {', '.join(known)}")
        before = mistakes[entry.exercise]
        if entry.name in [mistake.name for mistake in before]:
            raise entry.error("another mistake there has this name")
        if not entry.words:
            raise entry.error("the sentence for the learner is missing")
        if entry.edits and entry.instead:
            raise entry.error("it has edits and another answer: one of them is not used")
        called = known[entry.exercise].name
        answer = mistaken(entry, called, solutions[entry.exercise], names)
        before.append(Mistake(entry.name, answer, " ".join(entry.words)))
    return tuple(replace(known[title], mistakes=tuple(mistakes[title])) for title in known)


def read(path: Path) -> list[Entry]:
    """Read the entries of a text file.

    Text above an exercise's first mistake is a note for the authors and is skipped.
    """
    found: list[Entry] = []
    exercise, entry = "no exercise", None
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if text.startswith("## "):
            exercise, entry = text[3:].strip(), None
        elif text.startswith("### "):
            entry = Entry(path.name, line, exercise, text[4:].strip())
            found.append(entry)
        elif entry and text.startswith("    ") and text.strip():
            add_code(entry, line, text[4], text[5:].removeprefix(" ").rstrip())
        elif entry:
            entry.words += text.split()
    return found


def add_code(entry: Entry, line: int, sign: str, code: str) -> None:
    """Add an indented line of the text file to its entry."""
    if sign == "-":
        if not entry.edits or entry.edits[-1].new:
            entry.edits.append(Edit(line))
        entry.edits[-1].old.append(code.strip())
    elif sign == "+" and entry.edits:
        entry.edits[-1].new.append(code)
    elif sign == "=":
        entry.instead.append(code)
    else:
        raise entry.error("an indented line begins with `-`, then `+`, or with `=`", line)


def mistaken(entry: Entry, called: str, solution: str, names: dict[str, Any]) -> Any:
    """The mistake as running code or a value, in the namespace of the solution's module."""
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
    """The solution's source with all edits of a mistake applied."""
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
