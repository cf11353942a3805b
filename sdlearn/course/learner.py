"""The five things a learner calls, and how their answers look in a terminal and in a notebook."""

import html
import io
import re
import textwrap
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any

from sdlearn.course import comparing, exercises
from sdlearn.course.checking import Finding, judge
from sdlearn.course.exercise import Exercise, Question, Refused, check_cell, source

NOTHING = object()  # no second argument; None and `...` are blank answers
MARKS = {"right": "✓", "not yet": "✗", "not attempted": "○"}


@dataclass(frozen=True)
class Told:
    """What the learner is told: as text in a terminal, as HTML in a notebook."""

    text: str
    html: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True, repr=False)
class Verdict(Told):
    """A check's outcome. status: "right", "not yet" or "not attempted"; mistake: the name of the
    known mistake that the answer makes, None for any other answer."""

    status: str
    mistake: str | None


class Check:
    """check(number, answer); check.grade(number, answer), where a class is graded; and
    check.same(mine, theirs, *inputs), see comparing.same."""

    def __call__(self, number: str, answer: Any = NOTHING) -> Verdict:
        """Try an answer on fresh inputs and say, in a sentence, whether it is right.

        number: of the exercise, such as "05.2". answer: the function, the class or the value
        itself. Whatever it does, this raises only for an unknown number.
        """
        exercise = exercises.find(number)
        found = no_answer(exercise) if answer is NOTHING else judge(exercise, answer)
        more = {
            "right": f'Compare with `solution("{number}")`.',
            "not yet": f'Stuck? `hint("{number}")`.',
            "not attempted": f'Stuck? `hint("{number}")`.',
        }
        head = f"{MARKS[found.status]} {number} {exercise.title}: {found.status}."
        said = f"{found.sentence} {more[found.status]}"
        markup = f'<div role="status"><b>{marked_up(head)}</b> {marked_up(said)}</div>'
        return Verdict(f"{head} {said}", markup, found.status, found.mistake)

    def grade(self, number: str, answer: Any = NOTHING) -> None:
        """Return for a right answer, raise Refused with the check's words for any other.

        nbgrader gives the points of a cell that neither raises nor writes to stderr. Whatever the
        answer writes there, warnings too, is left out: it must not cost points.
        """
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            verdict = self(number, answer)
        if verdict.status != "right":
            raise Refused(textwrap.fill(verdict.text, 90))  # a traceback wraps nothing

    same: Callable[..., None] = staticmethod(comparing.same)


def no_answer(exercise: Exercise) -> Finding:
    """What is said where only the number was given."""
    call = check_cell(exercise)
    return Finding("not attempted", f"Give your {exercise.kind} as the second argument: `{call}`.")


check = Check()


def hint(number: str, level: int = 1) -> Told:
    """One of the three hints of an exercise; each gives away more than the one before."""
    exercise = exercises.find(number)
    if level not in (1, 2, 3):
        raise Refused(f"There is no hint {level!r}: an exercise has the hints 1, 2 and 3.")
    next_one = f'`hint("{number}", {level + 1})`' if level < 3 else f'`solution("{number}")`'
    head, said = f"Hint {level} of 3 for {number}:", exercise.hints[level - 1]
    more = f"Still stuck? {next_one}."
    markup = f"<b>{marked_up(head)}</b> {marked_up(said)} <i>{marked_up(more)}</i>"
    return Told(f"{head} {said} {more}", f"<div>{markup}</div>")


def solution(number: str) -> Told:
    """The code of one right answer; there are others."""
    text = source(exercises.find(number))
    return Told(text, f"<pre><code>{html.escape(text)}</code></pre>")


def quiz(notebook: str) -> Told:
    """The questions of a notebook; opening an answer tells whether it is right, and why.

    Plain folds of HTML, which need neither a kernel nor a network once they are on the page.
    """
    questions = exercises.questions(notebook)
    numbered = list(enumerate(questions, start=1))
    return Told(
        "\n\n".join(as_text(number, question) for number, question in numbered),
        "\n".join(as_html(number, question) for number, question in numbered),
    )


def as_text(number: int, question: Question) -> str:
    lines = [f"Question {number}. {question.text}"]
    for letter, answer in zip("ABCDEF", question.answers, strict=False):
        lines.append(f"  {letter}. {answer.text}")
    for letter, answer in zip("ABCDEF", question.answers, strict=False):
        lines.append(f"  ({letter}: {reason(answer.right, answer.reason)})")
    return "\n".join(lines)


def as_html(number: int, question: Question) -> str:
    folds = "".join(
        f"<details><summary>{letter}. {marked_up(answer.text)}</summary>"
        f"<blockquote>{marked_up(reason(answer.right, answer.reason))}</blockquote></details>"
        for letter, answer in zip("ABCDEF", question.answers, strict=False)
    )
    return f"<p><b>Question {number}.</b> {marked_up(question.text)}</p>{folds}<br>"


def reason(right: bool, why: str) -> str:
    return f"{'✓ Right' if right else '✗ Not quite'}: {why}"


def marked_up(text: str) -> str:
    """Plain text as HTML, `code` in its own font."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
