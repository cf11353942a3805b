"""The hints and solutions of the exercises, folded, for those who read without a kernel."""

import html
import re
from typing import Any

from sdlearn.course import exercises
from sdlearn.course.api import marked_up
from sdlearn.course.grading.exercise import source

NUMBER = re.compile(r'^check(?:\.grade)?\("(\d\d\.\d+)"', re.M)
FORMULA = re.compile(r"(\$[^$]+\$)")


def help_with(cell: dict[str, Any]) -> str:
    """Return what helps with the exercise that a cell checks, as HTML; "" for another cell.

    The solution of an exercise that the notebook goes on with is shown by the notebook itself.
    """
    found = NUMBER.search(cell["source"])
    if not found:
        return ""
    exercise = exercises.find(found[1])
    folds = [
        f"<details><summary>Hint {level}</summary><p>{worded(text)}</p></details>"
        for level, text in enumerate(exercise.hints, start=1)
    ]
    if not exercise.core:
        code = f"<pre><code>{html.escape(source(exercise))}</code></pre>"
        folds.append(f"<details><summary>A solution</summary>{code}</details>")
    return f'<div class="help">{"".join(folds)}</div>'


def worded(text: str) -> str:
    """Return a hint as HTML, with `code`, *emphasis* and $formulas$."""
    pieces = FORMULA.split(text)
    pieces[::2] = [marked_up(piece) for piece in pieces[::2]]
    pieces[1::2] = [formula(piece.strip("$")) for piece in pieces[1::2]]
    return "".join(pieces)


def formula(tex: str) -> str:
    """Return a formula as MathJax finds it in a page."""
    return f'<span class="math notranslate nohighlight">\\({html.escape(tex)}\\)</span>'
