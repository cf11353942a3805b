"""Read the words of exercises and quizzes from a text file that can be edited as prose.

`nb04_attention.md` is next to `nb04_attention.py`. It has a section for each exercise and one for
the quiz:

    ## 04.2 Splitting heads

    The task, in Markdown.

    ### Hints

    1. Each hint gives away more than the one before.
    2. The second.
    3. The third.

    ### heads left inside
        - .transpose(1, 2)
        +
    You stop at (b, n, heads, d). Attention takes the last two axes for tokens and channels.

    ## Quiz

    ### Question 1

    The question?

    - [ ] An answer.

      Why it is wrong.

    - [x] The right answer.

      Why it is right.

Lines can be broken anywhere, because those of a paragraph or list item are joined. Each heading
after the hints begins a mistake, written as an edit of the solution (see `edits`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sdlearn.course.grading.exercise import Answer, Question

QUIZ, HINTS = "Quiz", "Hints"
ITEM, BOX = re.compile(r"(\d+\.|-) "), re.compile(r"- \[[ x]\] ")


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
        words: The sentence for the learner, split into words.
    """

    file: str
    line: int
    exercise: str
    name: str
    edits: list[Edit] = field(default_factory=list)
    instead: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def error(self, trouble: str, line: int = 0) -> ValueError:
        """Return an exception that names file, line, exercise and mistake."""
        place = f"{self.file}, line {line or self.line}"
        return ValueError(f"{place}: {self.exercise}, {self.name!r}: {trouble}")


@dataclass
class Section:
    """One exercise, or the quiz, as it is written in the text file.

    Attributes:
        title: Number and title of the exercise, or "Quiz".
        place: File and line number of its heading.
        parts: The lines under each third-level heading; under "", those before the first heading.
        mistakes: The mistakes among these parts.
    """

    title: str
    place: str
    parts: dict[str, list[str]] = field(default_factory=lambda: {"": []})
    mistakes: list[Entry] = field(default_factory=list)

    @property
    def statement(self) -> str:
        """The task in Markdown, one line for each paragraph or list item."""
        return "\n".join(joined(self.parts[""]))

    @property
    def hints(self) -> tuple[str, ...]:
        """The hints, easiest first, without their numbers."""
        items = joined(self.parts.get(HINTS, []))
        return tuple(ITEM.sub("", item, count=1) for item in items if item)


def read(path: Path) -> list[Section]:
    """Read the sections of a text file. Text above the first one is a note for the authors.

    Args:
        path: The `.md` file.

    Raises:
        ValueError: If a heading occurs twice or has no section above it, or if an indented line is
            not part of an edit.
    """
    found: list[Section] = []
    part: list[str] = []
    mistake: Entry | None = None
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        place, title = f"{path.name}, line {line}", text.lstrip("#").strip()
        if text.startswith("## "):
            if title in [section.title for section in found]:
                raise ValueError(f"{place}: another section has the heading {title!r}")
            found.append(Section(title, place))
            part, mistake = found[-1].parts[""], None
        elif text.startswith("### "):
            if not found or title in found[-1].parts:
                trouble = "another part of the section has" if found else "no section is above"
                raise ValueError(f"{place}: {trouble} the heading {title!r}")
            section = found[-1]
            part, mistake = section.parts.setdefault(title, []), None
            if section.title != QUIZ and title != HINTS:
                mistake = Entry(path.name, line, section.title, title)
                section.mistakes.append(mistake)
        elif mistake:
            add_line(mistake, line, text)
        else:
            part.append(text)
    return found


def add_line(mistake: Entry, line: int, text: str) -> None:
    """Add a line under the heading of a mistake: as code if it is indented by four spaces."""
    if text.startswith("    ") and text.strip():
        add_code(mistake, line, text[4], text[5:].removeprefix(" ").rstrip())
    else:
        mistake.words += text.split()


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


def questions(quiz: Section) -> tuple[Question, ...]:
    """Make the questions of a quiz.

    Raises:
        ValueError: If answers and reasons don't alternate, or not exactly one answer is right.
    """
    return tuple(question(quiz, name) for name in quiz.parts if name)


def question(quiz: Section, name: str) -> Question:
    """Make the question under one heading of a quiz."""
    text, *blocks = [block for block in joined(quiz.parts[name]) if block] or [""]
    boxes, reasons = blocks[::2], blocks[1::2]
    if len(boxes) != len(reasons) or not all(map(BOX.match, boxes)) or any(map(BOX.match, reasons)):
        raise ValueError(f"{quiz.place}, {name}: each answer, `- [ ] …`, must have one reason")
    right = [box.startswith("- [x]") for box in boxes]
    if sum(right) != 1:
        raise ValueError(f"{quiz.place}, {name}: {sum(right)} answers are right; one must be")
    words = [BOX.sub("", box) for box in boxes]
    return Question(text, tuple(map(Answer, words, right, reasons)))


def joined(lines: Iterable[str]) -> list[str]:
    """Join the lines of each paragraph and each list item; "" marks empty lines between them."""
    blocks: list[str] = []
    for line in lines:
        if not line.strip():
            blocks += [""] * bool(blocks and blocks[-1])
        elif not blocks or not blocks[-1] or ITEM.match(line):
            blocks.append(line.strip())
        else:
            blocks[-1] += " " + line.strip()
    return blocks[:-1] if blocks and not blocks[-1] else blocks
