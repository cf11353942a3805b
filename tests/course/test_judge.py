"""The checker beyond known mistakes: what it says to answers that nobody foresaw."""

import re

import pytest
import torch
from torch import nn

from sdlearn.course import check
from sdlearn.course.api import marked_up
from sdlearn.course.grading.exercise import (
    Case,
    Exercise,
    Mistake,
    Refused,
    check_cell,
    normal,
    stub,
)
from sdlearn.course.grading.judge import judge


def weighted(x, y):
    """x (b, n), y (b, n) -> (b, n)"""
    return x.softmax(-1) * y


def cases(rng):
    for b, n in ((2, 3), (1, 4), (3, 3)):
        yield Case((normal(rng, b, n), normal(rng, b, n)))


TOY = Exercise(
    number="00.1",
    title="A toy",
    minutes=5,
    difficulty=1,
    statement="",
    hints=("", "", ""),
    solution=weighted,
    cases=cases,
    mistakes=(
        Mistake("axis", lambda x, y: x.softmax(0) * y, "The wrong axis."),
        Mistake("matrix", lambda x, y: x.softmax(-1) @ y, "A matrix product."),
    ),
)
FACTOR = Exercise(**{**vars(TOY), "solution": 0.18215, "tolerance": 1e-3, "mistakes": ()})


def said(answer, exercise=TOY) -> str:
    finding = judge(exercise, answer)
    assert finding.status == "not yet"
    return finding.sentence


def test_the_exact_sentence_for_wrong_numbers():
    assert re.fullmatch(
        r"The result, of shape \(2, 3\), differs at 6 of 6 places, first at \[0, 0\] where it is "
        r"-?[\d.e-]+ instead of -?[\d.e-]+; everywhere it is 3 times what is expected\. "
        r"\(This was with x \(2, 3\), y \(2, 3\)\.\)",
        said(lambda x, y: 3 * weighted(x, y)),
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, y: weighted(x, y) + 2, "everywhere it is off by the same number, 2"),
        (lambda x, y: -weighted(x, y), "everywhere it is -1 times"),
        (lambda x, y: weighted(x, y).flip(1), "right numbers are there, but in other places"),
        (lambda x, y: weighted(x, y).T, r"shape (3, 2), and (2, 3) is expected, the same lengths"),
        (lambda x, y: weighted(x.float(), y.float()), "is float32, and float64 is expected"),
        (lambda x, y: weighted(x.float(), y), "agrees to only a few digits"),
        (lambda x, y: weighted(x, y) / 0, "numbers of 6 that are not finite"),
        (lambda x, y: x.softmax(-1) * 2, "does not depend on `y`"),
        (lambda x, y: weighted(x, y).tolist(), "is a list, and a torch tensor is expected"),
        (lambda x, y: weighted(x, y).numpy(), "of type ndarray, and a torch tensor"),
        (lambda x, y: weighted(x, y)[0], "has the shape (3,), and (2, 3) is expected"),
        (lambda x, y: print(x), "is a `return` missing"),
        (lambda x: x, "must take (x, y)"),
        (lambda x, y: x.nothing, "raised AttributeError: 'Tensor' object has no attribute"),
        (lambda x, y: weighted(x, y) if len(x) > 1 else x[9], "raised IndexError"),
        (lambda x, y: weighted(x, y).detach(), "its gradients are not"),
        (lambda x, y: torch.tensor(weighted(x, y).tolist(), dtype=x.dtype), "gradients are not"),
        (lambda x, y: weighted(x.detach(), y), "its gradients are not"),
        (lambda x, y: weighted(x, y).double(), "but not in float32: the result is float64"),
        (
            lambda x, y: weighted(x, y.mul_(1.0).add_(1).sub_(1).mul_(2)) / 2,
            "the caller may still need",
        ),
        (7.0, "Hand over the function itself"),
        (nn.Linear, "Hand over the function itself"),
    ],
)
def test_what_it_says_to(answer, words):
    assert words in said(answer)


def test_a_mistake_speaks_where_the_numbers_are_its():
    assert judge(TOY, lambda x, y: x.exp() / x.exp().sum(0) * y).mistake == "axis"


def test_a_mistake_that_only_raises_elsewhere_still_needs_its_numbers():
    """x @ y needs a square: on the third case it has numbers, elsewhere it raises."""
    assert judge(TOY, lambda x, y: torch.matmul(x.softmax(1), y)).mistake == "matrix"
    assert judge(TOY, lambda x, y: x @ y).mistake is None


def test_exceptions_alone_are_no_mistake():
    always = Mistake("always", lambda x, y: x @ y.new_zeros(99, 1), "It always stops.")
    exercise = Exercise(**{**vars(TOY), "mistakes": (always,)})
    finding = judge(exercise, lambda x, y: x @ y.new_zeros(99, 1))
    assert (finding.status, finding.mistake) == ("not yet", None)
    assert "raised RuntimeError" in finding.sentence


def test_an_answer_may_draw_the_random_numbers_that_the_solution_draws():
    def noisy(x, y):
        """x (b, n), y (b, n) -> (b, n)"""
        return x + y * torch.randn_like(x)

    exercise = Exercise(**{**vars(TOY), "solution": noisy, "mistakes": ()})
    assert judge(exercise, lambda x, y: torch.randn_like(y) * y + x).status == "right"
    assert judge(exercise, lambda x, y: torch.rand_like(y) * y + x).status == "not yet"


def test_memory_between_calls_is_noticed():
    seen = []

    def grows(x, y):
        seen.append(1)
        return weighted(x, y) + (len(seen) > 4)

    assert "keeps something from one call to the next" in said(grows)


def test_random_numbers_of_its_own_do_not_pass_and_none_are_taken_from_the_learner():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    said(lambda x, y: weighted(x, y) * torch.rand_like(x))
    assert torch.equal(torch.rand(2), expected)


def test_a_blank_is_recognised_in_many_forms():
    def with_docstring(x, y):
        """Only words."""

    def with_names(x, y):
        scores = ...  # noqa: F841
        return ...

    def not_implemented(x, y):
        raise NotImplementedError

    def half(x, y):
        scores = x.softmax(-1)
        rest = ...
        return scores * rest

    def passing(x, y):
        pass

    for answer in (with_docstring, with_names, not_implemented, half, passing, lambda x, y: None):
        assert judge(TOY, answer).status == "not attempted"


def test_the_line_of_an_error_is_the_learner_s():
    for line in ("return a * y[:, 7]", "return F.softmax(a, dim=7)"):  # raised here, and in torch
        cell = f"def answer(x, y):\n    a = x.softmax(-1)\n    {line}\n"
        names: dict = {"F": nn.functional}
        exec(compile(cell, "<cell>", "exec"), names)
        assert "Line 3 of the cell raised IndexError" in said(names["answer"])


def test_gradients_are_not_asked_for_where_nothing_is_trained():
    exercise = Exercise(**{**vars(TOY), "trained": False})
    assert judge(exercise, lambda x, y: weighted(x, y).detach()).status == "right"


def test_an_answer_can_be_a_value():
    assert stub(FACTOR) == "answer = ..."
    assert check_cell(FACTOR) == 'check("00.1", answer)'
    for right in (0.18215, 0.1822, torch.tensor(0.18215), torch.tensor([0.18215]).numpy()):
        assert judge(FACTOR, right).status == "right"
    assert "The result is 0.19, and 0.18215 is expected" in said(0.19, FACTOR)
    assert "a number is expected" in said("0.18215", FACTOR)
    assert "a value, not a function" in said(lambda: 0.18215, FACTOR)


def test_the_verdict_says_the_same_to_eyes_and_ears():
    verdict = check("04.1", lambda q, k, v: "<b>")
    assert verdict._repr_html_().startswith('<div role="status"><b>✗ 04.1 One query: not yet.</b>')
    assert repr(verdict).startswith("✗ 04.1 One query: not yet. The result is a text")
    assert "<code>hint(&quot;04.1&quot;)</code>" in verdict._repr_html_()


def test_code_and_emphasis_are_marked_up_but_products_are_not():
    text = "*Both* the `a * b` and *x*: 2 * 3 * 4, n*m*k, `*args`, (*so*) <b>"
    assert marked_up(text) == (
        "<em>Both</em> the <code>a * b</code> and <em>x</em>: 2 * 3 * 4, n*m*k, "
        "<code>*args</code>, (<em>so</em>) &lt;b&gt;"
    )


def test_a_refusal_has_lines_that_fit_a_page_and_all_of_the_words():
    said = check("04.1", lambda *_: torch.zeros(3)).text
    with pytest.raises(Refused) as refused:
        check.grade("04.1", lambda *_: torch.zeros(3))
    lines = str(refused.value).splitlines()
    assert len(lines) > 1
    assert max(map(len, lines)) <= 90
    assert " ".join(lines).split() == said.split()
