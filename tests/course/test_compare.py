"""check.same and the comparison under it: equal things are equal, others are told apart."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sdlearn.course import check
from sdlearn.course.grading.compare import Different, converted, difference


class Two(nn.Module):
    def __init__(self, width=3, bias=True, eps=1e-5):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps)
        self.out = nn.Linear(width, 2, bias=bias)

    def forward(self, x):
        return self.out(self.norm(x))


X = 0.01 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def test_same_modules_are_the_same_and_left_alone(capsys):
    torch.manual_seed(0)
    mine, theirs = Two(), Two()
    before = [p.clone() for p in (*mine.parameters(), *theirs.parameters())]
    check.same(mine, theirs, X)
    after = [*mine.parameters(), *theirs.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    said = capsys.readouterr().out
    assert said.startswith(
        "same: 4 tensors, equal names and shapes\n14 parameters; output (4, 2)\n"
    )
    assert said.endswith("relative error 0\n")


class Bare(Two):
    """Ignores what the norm has learnt, which weights of 1 and biases of 0 would hide."""

    def forward(self, x):
        return self.out(nn.functional.layer_norm(x, x.shape[-1:]))


class Renamed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.proj = nn.LayerNorm(3), nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        (Two(bias=False), "`out.bias` missing."),
        (Renamed(), "`out.weight`, `out.bias` missing; `proj.weight`, `proj.bias` not expected."),
        (Two(4), r"The weight `norm.weight` has the shape \(4,\); expected is \(3,\)."),
        (Two(eps=1e-6), "Not the same: the result, of shape"),
        (Bare(), "Not the same: the result, of shape"),
        (lambda x: x, "give a module"),
    ],
)
def test_what_is_not_the_same_is_named(mine, words):
    with pytest.raises(Different, match=words) as caught:
        check.same(mine, Two(), X)
    assert isinstance(caught.value, AssertionError)
    assert caught.value._render_traceback_() == [str(caught.value)]


def test_additional_weights_are_named():
    with pytest.raises(Different, match=r"differ: `out.bias` not expected\."):
        check.same(Two(), Two(bias=False), X)


def test_functions_and_generators_are_compared_too(capsys):
    check.same(lambda x: x + x, lambda x: 2 * x, X)
    check.same(lambda x: iter([x, x]), lambda x: [x, x], X)
    assert capsys.readouterr().out.count("same: output (4, 3)") == 2
    with pytest.raises(Different, match=r"it is .* instead of"):
        check.same(lambda x: x + 1e-9, lambda x: x, X)


class Pair(NamedTuple):
    a: object
    b: object


SQUARE = Image.new("RGB", (2, 2), "red")


@pytest.mark.parametrize(
    ("mine", "theirs", "words"),
    [
        (1, 1, ""),
        (1.0, 1, ""),
        (torch.tensor(1), 1, ""),
        (np.float64(0.5), 0.5, ""),
        (2, 1, "the result is 2, and 1 is expected"),
        (0.5, 0.25, "the result is 0.5, and 0.25 is expected"),
        ("a", 1, "is a text, and a number is expected"),
        ("a", "b", "the result is 'a', and 'b' is expected"),
        ("a", "a", ""),
        ((1, 2), Pair(1, 2), ""),
        ((1, 3), Pair(1, 2), "entry 1 of the result is 3"),
        ((1,), (1, 2), "has 1 entries, and 2 are expected"),
        (1, (1, 2), "2 results are expected"),
        ({"a": 1}, {"a": 1}, ""),
        ({"a": 1}, {"a": 2}, "entry 'a' of the result is 1"),
        ({"b": 1}, {"a": 2}, "a dictionary of `a`"),
        (SQUARE, SQUARE.copy(), ""),
        (Image.new("RGB", (2, 2), "blue"), SQUARE, "differs at 8 of 12 places"),
        (np.zeros(3), SQUARE, "of type ndarray, and of type Image is expected"),
        (np.arange(3), np.arange(3), ""),
        (torch.tensor([1.0, np.nan, np.inf]), torch.tensor([1.0, np.nan, np.inf]), ""),
        (
            torch.tensor([1.0, np.nan]),
            torch.tensor([1.0, 2.0]),
            "1 numbers of 2 that are not finite",
        ),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, np.nan]), "is 2 at [1], and nan is expected"),
        (
            torch.full((1,), torch.finfo(torch.float64).max, dtype=torch.float64),
            torch.full((1,), np.inf, dtype=torch.float64),
            "is 1.798e+308 at [0], and inf is expected",
        ),
        (torch.tensor([1.0, -np.inf]), torch.tensor([1.0, np.inf]), "not finite"),
        (torch.zeros(2), torch.zeros(2), ""),
        (torch.full((2,), 1e-6), torch.zeros(2), "differs at 2 of 2 places"),
        (torch.tensor([True, False]), torch.tensor([True, True]), "differs at 1 of 2"),
        (torch.zeros(0, 2), torch.zeros(0, 2), ""),
    ],
)
def test_difference(mine, theirs, words):
    found = difference(mine, theirs, 1e-9)
    assert (words in found) if words else (found == "")


def test_converted_reaches_into_what_holds_tensors():
    module = nn.Linear(2, 2)
    pair = converted(Pair([torch.ones(1), torch.ones(1, dtype=torch.long)], module), torch.float64)
    assert isinstance(pair, Pair)
    assert [x.dtype for x in pair.a] == [torch.float64, torch.int64]
    assert pair.b.weight.dtype == torch.float64
    assert module.weight.dtype == torch.float32
