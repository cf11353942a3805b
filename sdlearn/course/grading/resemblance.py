"""What wrong results have in common with the right ones, over all inputs that were tried.

Each probe takes a trial and returns a sentence, or "" if it finds nothing.
"""

import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from sdlearn.course.grading import arrangement, relations
from sdlearn.course.grading.compare import difference, told_apart, tree_leaves
from sdlearn.course.grading.sandbox import Failure
from sdlearn.course.grading.trials import STUMBLES, Trial, as_tensor, batch, kind, series, sizes


def relation(trial: Trial) -> str:
    """Report a power, a factor or an offset that explains all results."""
    sentences = []
    for name, pairs in series(trial):
        if not all(a.numel() and a.shape == b.shape for a, b in pairs):
            continue
        if all(relations.near(a, b) for a, b in pairs):
            continue
        words = relations.operation(pairs)
        if not words:
            words = relations.scaled(pairs, sizes(trial))
        if words:
            sentences.append(f"{name} is {words} what is expected")
            continue
        words = relations.shifted(pairs, sizes(trial))
        if words:
            sentences.append(f"{name} is {words}")
    return f"Everywhere {' and '.join(sentences[:2])}." if sentences else ""


def entries(trial: Trial) -> str:
    """Report which entries of a tuple are right on every input."""
    found = [all(relations.near(a, b, 1e-9) for a, b in pairs) for _, pairs in series(trial)]
    if len(found) > 1 and any(found) and not all(found):
        right = " and ".join(str(k) for k, fine in enumerate(found) if fine)
        wrong = " and ".join(str(k) for k, fine in enumerate(found) if not fine)
        several = found.count(True) > 1
        return (
            f"Entr{'ies' if several else 'y'} {right} of your result {'are' if several else 'is'} "
            f"right on every input; look at {wrong}."
        )
    return ""


def order(trial: Trial) -> str:
    """Report right numbers in another order, shape or container, or a list that is nearly right."""
    a, b = trial.mine[trial.first], trial.expected[trial.first]
    if isinstance(a, Failure) or isinstance(b, Failure):
        return ""
    if isinstance(a, (tuple, list)) and isinstance(b, tuple) and len(a) == len(b):
        if len(b) == 2 and not difference(list(a)[::-1], list(b), 1e-9):
            return "The two results are right, but exchanged."
        for x, y in zip(a, b, strict=True):
            if difference(x, y, trial.exercise.tolerance):
                a, b = x, y
                break
    if isinstance(a, (list, tuple)) and isinstance(b, list):
        return "" if tree_leaves([*a, *b]) else arrangement.sequences(a, b)
    if isinstance(a, (list, tuple)) and isinstance(b, tuple) and 1 < len(a) < len(b):
        begins = not difference(list(a), list(b[: len(a)]), 1e-9)
        return f"Your results are right, but {len(b)} are expected." * begins
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return arrangement.reshaped(a, b) if a.shape != b.shape else ""
    return wrapped(a, b)


def wrapped(a: Any, b: Any) -> str:
    """Report right numbers in a wrong type."""
    if isinstance(a, (list, tuple)) and len(a) == 1 and not difference(a[0], b, 1e-9):
        return "The result is right, but packed into a list or tuple: return it as it is."
    if isinstance(b, (list, tuple)):
        for k, x in enumerate(b):
            if not difference(a, x, 1e-9):
                return f"It is entry {k} alone; {len(b)} results belong together: `return x, y`."
        entries = a.tolist() if isinstance(a, Tensor) and isinstance(b, list) else a
        if hasattr(entries, "__iter__") and not difference(list(entries), list(b), 1e-9):
            return f"The numbers are right: return them as a {type(b).__name__}."
        return ""
    if not isinstance(b, Tensor):
        return ""
    if isinstance(a, (tuple, list)):
        for k, x in enumerate(a):
            if isinstance(x, Tensor) and relations.near(x, b):
                return f"Entry {k} of yours is right: return it alone."
        if a and all(isinstance(x, Tensor) for x in a):
            for words, join in (("stack", torch.stack), ("cat", torch.cat)):
                with suppress(*STUMBLES):
                    if relations.near(join(list(a)), b):
                        return f"The numbers are right: `torch.{words}` them to one tensor."
    return "The numbers are right: a tensor is expected." * relations.near(as_tensor(a), b)


def weights(trial: Trial) -> str:
    """Report a wrong weight, if each example's result is a weighted sum of its inputs."""
    mine: list[Tensor] = []
    right: list[Tensor] = []
    names: list[str] = []
    where: list[tuple[int, int]] = []
    in_float32 = False
    for k, case in enumerate(trial.unchanged):
        a, b = trial.mine[k], trial.expected[k]
        if isinstance(b, tuple):
            return ""
        if not (
            isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and b.dim() > 1
        ):
            return ""
        tensors = {
            name: x
            for name, x in zip(trial.names, case.inputs, strict=False)
            if isinstance(x, Tensor) and x.shape == b.shape and x.is_floating_point()
        }
        if not tensors or (names and list(tensors) != names):
            return ""
        names = list(tensors)
        if b[0].numel() <= 2 * len(tensors):  # too few numbers to tell
            continue
        for i in range(len(b)):
            basis = torch.stack([x[i].double().flatten() for x in tensors.values()], dim=1)
            usable = bool(a[i].isfinite().all() and basis.isfinite().all())
            if not usable or torch.linalg.matrix_rank(basis) < len(names):
                continue
            both = [fitted(basis, x[i]) for x in (a, b)]
            in_float32 = in_float32 or b.dtype != torch.float64
            if both[0] is None or both[1] is None:
                return ""
            mine.append(both[0])
            right.append(both[1])
            where.append((k, i))
    if not mine:
        return ""
    a, b = torch.stack(mine), torch.stack(right)
    tolerance = 1e-5 if in_float32 else 1e-7
    wrong = [j for j in range(len(names)) if not relations.near(a[:, j], b[:, j], tolerance)]
    if not wrong:
        return ""
    sentences = [weight(names[j], a[:, j], b[:, j], trial, where) for j in wrong]
    fine = [f"`{names[j]}`" for j in range(len(names)) if j not in wrong]
    rest = f" The factor of {' and '.join(fine)} is right." if fine else ""
    return f"Your result is a weighted sum of {listing(names)}. {' '.join(sentences)}{rest}"


def listing(names: list[str]) -> str:
    """The names in words: "`x` and `y`"."""
    return " and ".join(f"`{name}`" for name in names)


def weight(name: str, a: Tensor, b: Tensor, trial: Trial, where: list[tuple[int, int]]) -> str:
    """Describe the wrong weights a of one input; b are right, `where` holds (case, example)."""
    example = int(((a - b).abs() > 1e-6 * b.abs()).nonzero()[0])
    numbers = " instead of ".join(told_apart(float(a[example]), float(b[example]), 4))
    if not a.any():
        return f"The factor of `{name}` is 0: it does not reach the result."
    words = relations.operation([(a, b)]) or relations.scaled([(a, b)], {})
    if words:
        return f"The factor of `{name}` is {words} the right one ({numbers})."
    right = [where[k] for k in range(len(a)) if relations.near(a[k : k + 1], b[k : k + 1], 1e-6)]
    only = " (right in the first example only)" * bool(right and all(i == 0 for _, i in right))
    return f"The factor of `{name}` is {numbers}{only}."


def fitted(basis: Tensor, x: Tensor) -> Tensor | None:
    """The weights with which the columns of `basis` add up to x; None if they cannot."""
    tolerance = 1e-8 if x.dtype == torch.float64 else 1e-5
    x = x.detach().double().flatten()
    if not x.isfinite().all() or not basis.isfinite().all():
        return None
    found = torch.linalg.lstsq(basis, x[:, None]).solution[:, 0]
    scale = float(x.norm()) or 1.0
    if float((basis @ found - x).norm()) > tolerance * scale:
        return None
    return found.masked_fill(found.abs() < 1e-9, 0.0)


def left_over(trial: Trial) -> str:
    """Report an input of which the difference from the expected result is a multiple."""
    found: dict[str, list[float]] = {}
    for k, case in enumerate(trial.unchanged):
        a, b = trial.mine[k], trial.expected[k]
        if not (isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape):
            return ""
        for name, x in zip(trial.names, case.inputs, strict=False):
            if (
                isinstance(x, Tensor)
                and x.shape == b.shape
                and x.is_floating_point()
                and x.numel() > 2
            ):
                share = fitted(x.double().reshape(-1, 1), a.double() - b.double())
                if share is not None:
                    found.setdefault(name, []).append(float(share[0]))
    for name, values in found.items():
        if len(values) == len(trial.mine) and relations.constant(values) and values[0]:
            word = "missing" if values[0] < 0 else "too much"
            once = math.isclose(abs(values[0]), 1, rel_tol=1e-7)
            times = "" if once else f"{relations.number(abs(values[0]))} times "
            return f"Exactly {times}`{name}` is {word} in your result."
    return ""


def right_where(trial: Trial) -> str:
    """Report what the inputs with a right result have in common."""
    if all(trial.wrong) or len(trial.wrong) < 3:
        return ""
    fine, n = trial.wrong.count(False), len(trial.wrong)
    for words, values in features(trial):
        if all(value != wrong for value, wrong in zip(values, trial.wrong, strict=True)):
            return f"It is right on {fine} of {n} inputs: only where {words}."
    for name, column in choices(trial):
        pairs = list(zip(column, trial.wrong, strict=True))
        yes, no = ({value for value, wrong in pairs if wrong == which} for which in (False, True))
        if yes & no:
            continue
        if len(yes) == 1:
            return f"It is right only where {name} is {any_of(yes)} ({fine} of {n} inputs)."
        if len(no) == 1:
            return f"It is wrong only where {name} is {any_of(no)}."
        if isinstance(column[0], str):
            return f"It is right where {name} is {any_of(yes)}, and wrong where it is {any_of(no)}."
    return f"It is right on {fine} of the {n} inputs tried."


def any_of(values: set[Any]) -> str:
    """Up to four values in words: 0.5 or 'noise'."""
    shown = [f"{x:g}" if isinstance(x, float) else repr(x) for x in sorted(values, key=str)]
    return " or ".join(shown[:4])


def features(trial: Trial) -> Iterator[tuple[str, list[bool]]]:
    """Yield properties of the inputs: the words, and whether each case has it."""
    cases = trial.unchanged
    tensors = [tree_leaves(list(c.inputs)) for c in cases]
    batches = [batch(row) for row in tensors]
    if any(batches):
        yield "the batch has one example", [b == 1 for b in batches]
        yield "the batch has several examples", [b > 1 for b in batches]
    if all(tensors):
        shapes = [[tuple(x.shape) for x in row] for row in tensors]
        square = [all(len(s) < 2 or s[-1] == s[-2] for s in row) for row in shapes]
        yield "the sides are equal (it fails where they are not)", square
        yield "the sides are not equal (it fails where they are)", [not x for x in square]
        same = [len({n for s in row for n in s}) <= 2 for row in shapes]
        yield "all lengths are alike, so that no mixed-up axis shows", same
        large = [
            max((float(x.double().abs().max()) for x in row if x.numel()), default=0)
            for row in tensors
        ]
        yield (
            "the numbers are not extreme",
            [x < 10 * sorted(large)[len(large) // 2] for x in large],
        )
        gap = [0 in (float(x.double().abs().min()) for x in row if x.numel()) for row in tensors]
        yield "no number in the inputs is 0", [not x for x in gap]
    numbers = {
        f"`{name}`": column
        for name, column in zip(
            trial.names, zip(*(c.inputs for c in cases), strict=False), strict=False
        )
        if kind(column) in ("whole", "number")
    }
    for name, column in numbers.items():
        yield f"{name} is 0", [x == 0 for x in column]
        yield f"{name} is not 0", [x != 0 for x in column]
        yield f"{name} is 1", [x == 1 for x in column]
        yield f"{name} is not 1", [x != 1 for x in column]
        yield f"{name} is above 0", [x > 0 for x in column]
        yield f"{name} is above 1", [x > 1 for x in column]
        yield f"{name} is at most 1", [x <= 1 for x in column]
    for (one, first), (two, second) in combinations(numbers.items(), 2):
        pairs = list(zip(first, second, strict=True))
        yield f"{one} is below {two}", [x < y for x, y in pairs]
        yield f"{one} is not below {two}", [x >= y for x, y in pairs]
        yield f"{one} is above {two}", [x > y for x, y in pairs]
        yield f"{one} is not above {two}", [x <= y for x, y in pairs]
        yield f"{one} and {two} are equal", [x == y for x, y in pairs]
        yield f"{one} and {two} are different", [x != y for x, y in pairs]
        if all(isinstance(x, int) for x in (*first, *second)) and all(second):
            yield f"{two} divides {one}", [x % y == 0 for x, y in pairs]
            yield f"{two} does not divide {one}", [x % y != 0 for x, y in pairs]
    if "`h`" in numbers and "`w`" in numbers and "`f`" in numbers:
        sides = list(zip(numbers["`h`"], numbers["`w`"], numbers["`f`"], strict=True))
        yield "`f` divides `h` and `w`", [h % f == 0 and w % f == 0 for h, w, f in sides]
        yield "`f` divides neither `h` nor `w`", [h % f != 0 and w % f != 0 for h, w, f in sides]


def choices(trial: Trial) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield arguments with few distinct values, and their value in each case.

    A number counts only if every value occurs several times: others say more about the inputs than
    about the answer.
    """
    columns = zip(*(c.inputs for c in trial.unchanged), strict=False)
    for name, column in zip(trial.names, columns, strict=False):
        if not all(isinstance(x, (str, int, float)) or x is None for x in column):
            continue
        often = all(column.count(x) > 1 or isinstance(x, str) or x is None for x in column)
        if often and len(set(column)) > 1:
            yield f"`{name}`", column


def located(trial: Trial) -> str:
    """Report which indices of a result are wrong."""
    a, b = trial.mine[trial.first], trial.expected[trial.first]
    if isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and a.dim():
        sentence = arrangement.places(a, b, 1e-9)
        return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""
    return ""
