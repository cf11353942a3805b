"""How the arrangement of wrong results differs: order, shape, missing entries.

In every function here, a is the answer's result and b the expected one.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations
from typing import Any

from torch import Tensor

from sdlearn.course.grading.relations import near


def rearranged(a: Tensor, b: Tensor) -> str:
    """Name the order, if a holds the numbers of b in a simple other order; else ""."""
    for order in permutations(range(b.dim())):
        if order != tuple(range(b.dim())) and near(a.permute(order), b):
            swapped = [k for k, axis in enumerate(order) if k != axis]
            if len(swapped) == 2:
                return f"axes {swapped[0]} and {swapped[1]} are exchanged"
            return f"the axes are in another order: `.permute{order}` of yours is right"
    for axis in range(b.dim()):
        found = slices(a, b, axis)
        if found:
            return f"along axis {axis} {ordering(found)}"
    return ""


def slices(a: Tensor, b: Tensor, axis: int) -> list[int]:
    """The index in b of each slice of a along one axis; [] if a is not b in another order."""
    rows, right = (x.detach().double().transpose(0, axis) for x in (a, b))
    if not 2 <= len(rows) <= 64 or not rows.numel():
        return []
    rows, right = (x.reshape(len(x), -1) for x in (rows, right))
    order = []
    for row in rows:
        distance = (right - row).norm(dim=1)
        if float(distance.min()) > 1e-7 * float(row.norm()):
            return []
        order.append(int(distance.argmin()))
    return order if sorted(order) == list(range(len(order))) and order != sorted(order) else []


def ordering(order: list[int]) -> str:
    """Describe a permutation: reversed, shifted, halves exchanged, or the indices."""
    n = len(order)
    if order == list(range(n))[::-1]:
        return "the order is reversed" if n > 2 else "the two entries are exchanged"
    shift = order[0]
    if order == [(k + shift) % n for k in range(n)]:
        if 2 * shift == n:
            return "the two halves are exchanged"
        ahead = shift if shift <= n // 2 else shift - n
        return f"everything is shifted by {abs(ahead)}" + " to the front" * (ahead > 0)
    shown = ", ".join(map(str, order[:8])) + ", …" * (n > 8)
    return f"your entries are the expected ones in the order {shown}"


def reshaped(a: Tensor, b: Tensor) -> str:
    """Describe how a, of another shape, is related to b; a sentence, or ""."""
    if a.numel() == b.numel():
        if near(a.reshape(b.shape), b):
            return "The numbers are right and in the right order; only the shape is not."
        if a.dim() == b.dim() <= 5:
            for order in permutations(range(b.dim())):
                if near(a.permute(order), b):
                    return f"The numbers are right: `.permute{order}` of yours is what is expected."
    for axes, words in reductions(a, b):
        return f"It is {words} axis {axes} of what is expected, which should stay."
    for axes, words in reductions(b, a):
        return f"What is expected is {words} axis {axes} of yours."
    if a.dim() == b.dim() + 1:
        for first, second in combinations(range(a.dim()), 2):
            if a.shape[first] == a.shape[second]:
                for place in range(b.dim()):
                    if near(a.diagonal(dim1=first, dim2=second).movedim(-1, place), b):
                        return (
                            f"What is expected is the diagonal of yours along the axes {first} and "
                            f"{second}: everything was combined with everything, as happens where "
                            "an axis is missing before a product or a sum."
                        )
    if a.dim() == b.dim():
        for axis in range(a.dim()):
            sentence = cut(a, b, axis)
            if sentence:
                return sentence
    return ""


def reductions(small: Tensor, large: Tensor) -> Iterator[tuple[str, str]]:
    """Yield the axes over which `small` is the mean, sum or first entry of `large`, and which."""
    if (small.dim() >= large.dim() and small.numel() >= large.numel()) or large.dim() > 5:
        return
    wide = large.detach().double()
    for count in range(1, large.dim() + 1):
        for axes in combinations(range(large.dim()), count):
            names = " and ".join(map(str, axes))
            for words, made in (
                ("the mean over", wide.mean(axes)),
                ("the sum over", wide.sum(axes)),
                (
                    "entry 0 along",
                    wide[tuple(0 if k in axes else slice(None) for k in range(wide.dim()))],
                ),
            ):
                if near(small.reshape(-1), made.reshape(-1)):
                    yield names, words


def cut(a: Tensor, b: Tensor, axis: int) -> str:
    """Describe an axis of a that is too long or too short, if the other entries are right."""
    if [n for k, n in enumerate(a.shape) if k != axis] != [
        n for k, n in enumerate(b.shape) if k != axis
    ]:
        return ""
    n, m = a.shape[axis], b.shape[axis]
    if n > m and near(a.narrow(axis, 0, m), b):
        return f"Along axis {axis} the first {m} entries are right, and the rest is too much."
    if n > m and near(a.narrow(axis, n - m, m), b):
        return f"Along axis {axis} the last {m} entries are right, and the rest is too much."
    if n < m and near(a, b.narrow(axis, 0, n)):
        return f"Your entries are right; along axis {axis} the last {m - n} are missing."
    if n < m and near(a, b.narrow(axis, m - n, n)):
        return f"Your entries are right; along axis {axis} the first {m - n} are missing."
    return ""


def places(a: Tensor, b: Tensor, tolerance: float) -> str:
    """Say which indices of an axis are wrong, without a full stop; "" if all of them are."""
    distance = (a.detach().double() - b.detach().double()).abs()
    wrong = ~(distance <= tolerance * b.detach().double().abs().nan_to_num(posinf=0).max())
    wrong &= ~((a == b) | (a.isnan() & b.isnan()))
    for axis in range(b.dim()):
        others = [k for k in range(b.dim()) if k != axis]
        hit = wrong.any(dim=others) if others else wrong
        indices, n = hit.nonzero().flatten().tolist(), b.shape[axis]
        if 0 < len(indices) < n:
            verb = "is" if len(indices) == 1 else "are"
            return f"only {ranged(indices, n)} of axis {axis} {verb} wrong"
    return ""


def ranged(indices: list[int], n: int) -> str:
    """Describe indices: "index 0", "the last 2 entries", "the indices 1 to 3"."""
    first, last, k = indices[0], indices[-1], len(indices)
    if k == 1:
        return "the last entry" if first == n - 1 else f"index {first}"
    if indices == list(range(first, last + 1)):
        if last == n - 1:
            return f"the last {k} entries"
        return f"the first {k} entries" if first == 0 else f"the indices {first} to {last}"
    return f"the indices {', '.join(map(str, indices[:6]))}" + ", …" * (k > 6)


def sequences(mine: Sequence[Any], theirs: Sequence[Any]) -> str:
    """Describe what two lists have in common; a sentence, or ""."""
    mine, theirs = list(mine), list(theirs)
    if not mine or not theirs or mine == theirs:
        return ""
    if mine == theirs[::-1]:
        return "The entries are right, in reverse order."
    if len(mine) == len(theirs) and sorted(map(repr, mine)) == sorted(map(repr, theirs)):
        return "The entries are the right ones, in another order."
    if mine[: len(theirs)] == theirs:
        return f"The first {len(theirs)} entries are right; the rest is too much."
    if mine == theirs[: len(mine)]:
        return f"Your entries are right; the last {len(theirs) - len(mine)} are missing."
    if mine[-len(theirs) :] == theirs:
        return f"The last {len(theirs)} entries are right; there is too much in front."
    if mine == theirs[-len(mine) :]:
        return f"Your entries are right; the first {len(theirs) - len(mine)} are missing."
    if all(isinstance(x, str) for x in (*mine, *theirs)):
        together = "".join(mine), "".join(theirs)
        if together[0] == together[1]:
            return f"Put together, your pieces are the same text, but split differently: {mine}."
        return f"Put together, your pieces are {together[0]!r} and should be {together[1]!r}."
    right = next(
        k for k, (x, y) in enumerate(zip([*mine, None], [*theirs, ...], strict=False)) if x != y
    )
    if len(mine) > 2 and right:
        return f"The first {right} entries are right."
    back = next(
        k
        for k, (x, y) in enumerate(zip([*mine[::-1], None], [*theirs[::-1], ...], strict=False))
        if x != y
    )
    if len(mine) > 2 and back:
        return f"The last {back} {'entries are' if back > 1 else 'entry is'} right."
    return ""
