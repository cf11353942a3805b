"""check, check.same, hint, solution, answer_or_solution and quiz, and how they are displayed."""

import html
import io
import re
import textwrap
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any

from IPython.display import display

from sdlearn.course import exercises
from sdlearn.course.grading import compare
from sdlearn.course.grading.exercise import Exercise, Question, Refused, check_cell, source
from sdlearn.course.grading.judge import Finding, judge

NOTHING = object()  # no second argument; None and `...` are blank answers
EMPHASIS = r"(?<!\w)\*([^*\s][^*]*)\*(?!\w)"
MARKS = {"right": "✓", "not yet": "✗", "not attempted": "○"}


@dataclass(frozen=True)
class Message:
    """A message for the learner: text in a terminal, HTML in a notebook."""

    text: str
    html: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


@dataclass(frozen=True, repr=False)
class Verdict(Message):
    """The outcome of a check.

    Attributes:
        status: "right", "not yet" or "not attempted".
        mistake: Name of the known mistake that the answer makes, or None.
    """

    status: str
    mistake: str | None


class Check:
    """Check an answer.

    check(number, answer) says whether it is right, check.grade(number, answer) does the same for
    nbgrader, and check.same(mine, theirs, *inputs) compares two implementations (see
    `sdlearn.course.grading.compare.same`).
    """

    def __call__(self, number: str, answer: Any = NOTHING) -> Verdict:
        """Try an answer on fresh inputs and say whether it is right.

        Whatever the answer does, it raises nothing here.

        Args:
            number: Of the exercise, such as "04.2".
            answer: The function, the class or the value itself.

        Raises:
            Refused: If there is no exercise of this number.
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
        """Return for a right answer; for any other, raise the check's message.

        nbgrader gives a cell its points if it neither raises nor writes to stderr. Everything that
        the answer writes to stderr, warnings included, is discarded, so that it costs no points.

        Args:
            number: Of the exercise, such as "04.2".
            answer: The function, the class or the value itself.

        Raises:
            Refused: If the answer is not right, or there is no exercise of this number.
        """
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            verdict = self(number, answer)
        if verdict.status != "right":
            raise Refused(textwrap.fill(verdict.text, 90))  # tracebacks do not wrap

    same: Callable[..., None] = staticmethod(compare.same)


def no_answer(exercise: Exercise) -> Finding:
    """What is said where only the number was given."""
    call = check_cell(exercise)
    return Finding("not attempted", f"Give your {exercise.kind} as the second argument: `{call}`.")


check = Check()


def hint(number: str, level: int = 1) -> Message:
    """Return one of the three hints of an exercise; each gives away more than the previous one.

    Args:
        number: Of the exercise, such as "04.2".
        level: 1, 2 or 3.

    Raises:
        Refused: If there is no such exercise or no such level.
    """
    exercise = exercises.find(number)
    if level not in (1, 2, 3):
        raise Refused(f"The hint level is {level!r}. Accepted: 1, 2 or 3.")
    next_one = f'`hint("{number}", {level + 1})`' if level < 3 else f'`solution("{number}")`'
    head, said = f"Hint {level} of 3 for {number}:", exercise.hints[level - 1]
    more = f"Still stuck? {next_one}."
    markup = f"<b>{marked_up(head)}</b> {marked_up(said)} <i>{marked_up(more)}</i>"
    return Message(f"{head} {said} {more}", f"<div>{markup}</div>")


def solution(number: str) -> Message:
    """Return the code of one right answer; there are others.

    Raises:
        Refused: If there is no exercise of this number.
    """
    text = source(exercises.find(number))
    return Message(text, f"<pre><code>{html.escape(text)}</code></pre>")


def answer_or_solution(number: str, answer: Any) -> Any:
    """Return an answer if it is right and the exercise's solution if it is not, and say which.

    The notebook goes on with what is returned, so it runs to its end whether or not the exercise
    has been solved. The solution's code is displayed folded.

    Args:
        number: Of the exercise, such as "04.2".
        answer: The learner's function or class.

    Raises:
        Refused: If there is no exercise of this number.
    """
    exercise = exercises.find(number)
    right = judge(exercise, answer).status == "right"
    whose = "your own" if right else "the library's"
    told = f"From here on the notebook uses {whose} `{exercise.name}`."
    code = html.escape(source(exercise))
    fold = f"<details><summary>The library's code</summary><pre><code>{code}</code></pre></details>"
    display({"text/plain": told, "text/html": f"<div>{marked_up(told)}</div>{fold}"}, raw=True)
    return answer if right else exercise.solution


def quiz(notebook: str) -> Message:
    """Return the questions of a notebook; unfolding an answer shows whether it is right, and why.

    The answers are HTML <details> elements, which need neither a kernel nor a network.

    Args:
        notebook: Its number, such as "04".
    """
    questions = exercises.questions(notebook)
    numbered = list(enumerate(questions, start=1))
    return Message(
        "\n\n".join(as_text(number, question) for number, question in numbered),
        "\n".join(as_html(number, question) for number, question in numbered),
    )


def as_text(number: int, question: Question) -> str:
    """Format a question as text: the answers, then which are right and why."""
    lines = [f"Question {number}. {question.text}"]
    for letter, answer in zip("ABCDEF", question.answers, strict=False):
        lines.append(f"  {letter}. {answer.text}")
    for letter, answer in zip("ABCDEF", question.answers, strict=False):
        lines.append(f"  ({letter}: {reason(answer.right, answer.reason)})")
    return "\n".join(lines)


def as_html(number: int, question: Question) -> str:
    """Format a question as HTML with one <details> element for each answer."""
    folds = "".join(
        f"<details><summary>{letter}. {marked_up(answer.text)}</summary>"
        f"<blockquote>{marked_up(reason(answer.right, answer.reason))}</blockquote></details>"
        for letter, answer in zip("ABCDEF", question.answers, strict=False)
    )
    return f"<p><b>Question {number}.</b> {marked_up(question.text)}</p>{folds}<br>"


def reason(right: bool, why: str) -> str:
    """Put "Right" or "Not quite" before an explanation."""
    return f"{'✓ Right' if right else '✗ Not quite'}: {why}"


def marked_up(text: str) -> str:
    """Convert plain text with `code` and *emphasis* to HTML."""
    pieces = re.split(r"`([^`]+)`", html.escape(text))
    pieces[1::2] = [f"<code>{code}</code>" for code in pieces[1::2]]
    pieces[::2] = [re.sub(EMPHASIS, r"<em>\1</em>", words) for words in pieces[::2]]
    return "".join(pieces)
