"""How wrong numbers are related to the right ones, in words: a power, a factor, an order, a shape.

Everything here looks at results only. `probes` runs code again to find out more.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import combinations, permutations, product
from typing import Any

import torch
from torch import Tensor

Pairs = Sequence[tuple[Tensor, Tensor]]  # (mine, expected), one for each input
Sizes = Mapping[str, Sequence[float]]  # what varies between inputs, by name


def near(a: Tensor, b: Tensor, tolerance: float = 1e-7) -> bool:
    """Whether the shapes are equal and the numbers agree; nan and inf agree with themselves."""
    if a.shape != b.shape:
        return False
    a, b = a.detach().double(), b.detach().double()
    odd = ~(a.isfinite() & b.isfinite())
    if (odd & (a != b) & ~(a.isnan() & b.isnan())).any():
        return False
    a, b = a.masked_fill(odd, 0), b.masked_fill(odd, 0)
    return float((a - b).norm()) <= tolerance * float(b.norm())


OPERATIONS: tuple[tuple[str, Callable[[Tensor], Tensor]], ...] = (
    ("the negative of", torch.neg),
    ("the square of", torch.square),
    ("the square root of", torch.sqrt),
    ("1 over", torch.reciprocal),
    ("1 over the square of", lambda x: x.square().reciprocal()),
    ("1 over the square root of", torch.rsqrt),
    ("1 minus", lambda x: 1 - x),
    ("the natural logarithm of", torch.log),
    ("the decimal logarithm of", torch.log10),
    ("the exponential of", torch.exp),
    ("the absolute value of", torch.abs),
    ("the rounded value of", torch.round),
    ("the value, rounded down, of", torch.floor),
    ("the value, rounded up, of", torch.ceil),
    ("the value, limited to 0 and above, of", lambda x: x.clamp(min=0)),
    ("the value, limited to 0 to 1, of", lambda x: x.clamp(0, 1)),
    ("the value, limited to -1 to 1, of", lambda x: x.clamp(-1, 1)),
)


def operation(pairs: Pairs) -> str:
    """ "the square of" where all of mine are the squares of what is expected, else ""."""
    if sum(b.numel() for _, b in pairs) < 2 or not varied(pairs):
        return ""
    for words, change in OPERATIONS:
        if all(near(a, change(b.double())) for a, b in pairs):
            return words
    return ""


def varied(pairs: Pairs) -> bool:
    """Whether the expected numbers are not all the same one."""
    values = torch.cat([b.detach().double().flatten() for _, b in pairs])
    return len(values) > 1 and bool((values != values[0]).any())


def factors(pairs: Pairs) -> list[float]:
    """By how much every input's result is too large; [] where that is no single factor."""
    found = []
    for a, b in pairs:
        if a.shape != b.shape or not b.any() or not (a.isfinite() & b.isfinite()).all():
            return []
        a, b = a.detach().double().flatten(), b.detach().double().flatten()
        factor = float(a @ b / (b @ b))
        if not near(a, factor * b) or factor == 0:
            return []
        found.append(factor)
    return found


def offsets(pairs: Pairs) -> list[float]:
    """By how much every input's result is off; [] where that is no single number."""
    found = []
    for a, b in pairs:
        if a.shape != b.shape or not a.numel() or not (a.isfinite() & b.isfinite()).all():
            return []
        apart = (a.detach().double() - b.detach().double()).flatten()
        if len(apart) > 1 and float(apart.std()) > 1e-7 * float(b.double().abs().max() + 1e-9):
            return []
        found.append(float(apart.mean()))
    return found


def scaled(pairs: Pairs, sizes: Sizes) -> str:
    """ "3 times" or "`h` · `w` times"; "" where no factor explains all results."""
    found = factors(pairs)
    words = explained(found, sizes, enough=sum(b.numel() for _, b in pairs) > len(pairs))
    return f"{words} times" if words and words != "1" else ""


def shifted(pairs: Pairs, sizes: Sizes) -> str:
    """ "2 too much" or "`n` too little"; "" where no difference explains all results."""
    found = offsets(pairs)
    if not any(found):
        return ""
    words = explained([abs(x) for x in found], sizes, enough=False)
    one_sided = all(x > 0 for x in found) or all(x < 0 for x in found)
    return f"{words} too {'much' if found[0] > 0 else 'little'}" if words and one_sided else ""


def explained(values: list[float], sizes: Sizes, enough: bool) -> str:
    """A constant, or a product of one or two sizes, that gives every value; "" without one.

    enough: whether a single value is evidence, as where a whole tensor agrees with it.
    """
    if len(values) < (1 if enough else 2) or not all(math.isfinite(x) and x for x in values):
        return ""
    if constant(values):
        return number(values[0])
    for few in (1, 2, 3):
        for names in combinations(sizes, few):
            for powers in product((1, -1, 2, -2, 0.5, -0.5)[: 6 if few < 3 else 3], repeat=few):
                terms = list(zip(names, powers, strict=True))
                rest = [
                    x / math.prod(sizes[name][k] ** power for name, power in terms)
                    for k, x in enumerate(values)
                ]
                if constant(rest) and fraction(rest[0]) and len(values) > few + (few < 3):
                    return formula(fraction(rest[0]), terms)
    return ""


def constant(values: Sequence[float]) -> bool:
    return all(math.isclose(x, values[0], rel_tol=1e-9) for x in values)


def fraction(x: float) -> Fraction:
    """A fraction of small whole numbers, 0 where there is none."""
    found = Fraction(x).limit_denominator(16)
    return (
        found if abs(found.numerator) <= 64 and math.isclose(found, x, rel_tol=1e-9) else Fraction()
    )


def number(x: float) -> str:
    """0.5, 2π, √2, 1.2346"""
    for unit, word in ((1.0, ""), (math.pi, "π"), (math.sqrt(2), "√2"), (math.sqrt(3), "√3")):
        found = fraction(x / unit)
        if found and (word or found.denominator in (1, 3, 6, 7, 9)):
            over = f"/{found.denominator}" * (found.denominator > 1)
            sign, top = "-" * (found < 0), abs(found.numerator)
            return f"{sign}{word if word and top == 1 else f'{top}{word}'}{over}"
    return f"{x:.6g}"


def formula(factor: Fraction, terms: list[tuple[str, float]]) -> str:
    """4 · `h` / `w`²"""

    def powered(name: str, power: float) -> str:
        return f"√{name}" if abs(power) == 0.5 else name + "²" * (abs(power) == 2)

    above = [powered(name, power) for name, power in terms if power > 0]
    below = [powered(name, power) for name, power in terms if power < 0]
    above = [str(factor.numerator)] * (factor.numerator != 1 or not above) + above
    below = [str(factor.denominator)] * (factor.denominator != 1) + below
    return (
        " · ".join(above)
        + (f" / {below[0]}" if len(below) == 1 else "")
        + (f" / ({' · '.join(below)})" if len(below) > 1 else "")
    )


# ------------------------------------------------------------------------------- orders and shapes


def rearranged(a: Tensor, b: Tensor) -> str:
    """The same numbers in another order, of one shape: which one, where it is a simple order."""
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
    """Which slice of the expected each of mine is, along one axis; [] where they are others."""
    rows, right = (x.detach().double().transpose(0, axis) for x in (a, b))
    if not 2 <= len(rows) <= 64 or not rows.numel():
        return []
    rows, right = (x.reshape(len(x), -1) for x in (rows, right))
    order = []
    for row in rows:
        apart = (right - row).norm(dim=1)
        if float(apart.min()) > 1e-7 * float(row.norm()):
            return []
        order.append(int(apart.argmin()))
    return order if sorted(order) == list(range(len(order))) and order != sorted(order) else []


def ordering(order: list[int]) -> str:
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
    """What mine, of another shape, has to do with the expected; a sentence, or ""."""
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
            said = cut(a, b, axis)
            if said:
                return said
    return ""


def reductions(small: Tensor, large: Tensor) -> Iterator[tuple[str, str]]:
    """The axes over which `small` is the mean, the sum or the first entry of `large`."""
    if (small.dim() >= large.dim() and small.numel() >= large.numel()) or large.dim() > 5:
        return
    wide = large.detach().double()
    for few in range(1, large.dim() + 1):
        for axes in combinations(range(large.dim()), few):
            said = " and ".join(map(str, axes))
            for words, made in (
                ("the mean over", wide.mean(axes)),
                ("the sum over", wide.sum(axes)),
                (
                    "entry 0 along",
                    wide[tuple(0 if k in axes else slice(None) for k in range(wide.dim()))],
                ),
            ):
                if near(small.reshape(-1), made.reshape(-1)):
                    yield said, words


def cut(a: Tensor, b: Tensor, axis: int) -> str:
    """One axis longer or shorter than expected, and the rest right."""
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
        return f"What there is is right; along axis {axis} the last {m - n} are missing."
    if n < m and near(a, b.narrow(axis, m - n, n)):
        return f"What there is is right; along axis {axis} the first {m - n} are missing."
    return ""


def places(a: Tensor, b: Tensor, tolerance: float) -> str:
    """Where the differences are, if that is a part of an axis only; no full stop."""
    apart = (a.detach().double() - b.detach().double()).abs()
    wrong = ~(apart <= tolerance * b.detach().double().abs().nan_to_num(posinf=0).max())
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
    """index 0, the last 2 entries, the indices 1 to 3"""
    first, last, k = indices[0], indices[-1], len(indices)
    if k == 1:
        return "the last entry" if first == n - 1 else f"index {first}"
    if indices == list(range(first, last + 1)):
        if last == n - 1:
            return f"the last {k} entries"
        return f"the first {k} entries" if first == 0 else f"the indices {first} to {last}"
    return f"the indices {', '.join(map(str, indices[:6]))}" + ", …" * (k > 6)


def sequences(mine: Sequence[Any], theirs: Sequence[Any]) -> str:
    """What two lists have in common; a sentence, or ""."""
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
        return f"What there is is right; the last {len(theirs) - len(mine)} are missing."
    if mine[-len(theirs) :] == theirs:
        return f"The last {len(theirs)} entries are right; there is too much in front."
    if mine == theirs[-len(mine) :]:
        return f"What there is is right; the first {len(theirs) - len(mine)} are missing."
    if all(isinstance(x, str) for x in (*mine, *theirs)):
        together = "".join(mine), "".join(theirs)
        if together[0] == together[1]:
            return f"Put together, your pieces are the same text, but cut at other places: {mine}."
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
