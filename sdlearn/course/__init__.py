"""The course around the reference modules: checks, hints, quizzes, figures and widgets.

from sdlearn.course import check, hint, quiz, solution

check("04.2", split_heads)      tells you whether your answer is right, and if not, what is wrong
check.same(Mine(8), sdlearn.Theirs(8), x)
hint("04.2"), hint("04.2", 2), hint("04.2", 3), solution("04.2")
quiz("04")
answer_or_solution("04.2", split_heads)     returns your answer if it is right
"""

from sdlearn.course.api import answer_or_solution as answer_or_solution
from sdlearn.course.api import check as check
from sdlearn.course.api import hint as hint
from sdlearn.course.api import quiz as quiz
from sdlearn.course.api import solution as solution

__all__ = ["answer_or_solution", "check", "hint", "quiz", "solution"]
