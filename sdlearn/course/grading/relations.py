"""How wrong numbers are related to the right ones: a power, a factor or an offset.

Everything here compares results only; `reruns` runs code again to find out more.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import combinations, product

import torch
from torch import Tensor

Pairs = Sequence[tuple[Tensor, Tensor]]  # (mine, expected), one for each input
Sizes = Mapping[str, Sequence[float]]  # values that vary between inputs, by name


def near(a: Tensor, b: Tensor, tolerance: float = 1e-7) -> bool:
    """Whether two tensors have one shape and agree; nan and inf agree with themselves."""
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
    """Name the operation that turns each expected result into mine, "the square of"; else ""."""
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
    """The factor by which each result is too large; [] if it is not a single factor."""
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
    """The offset of each result; [] if it is not a single number."""
    found = []
    for a, b in pairs:
        if a.shape != b.shape or not a.numel() or not (a.isfinite() & b.isfinite()).all():
            return []
        gap = (a.detach().double() - b.detach().double()).flatten()
        if len(gap) > 1 and float(gap.std()) > 1e-7 * float(b.double().abs().max() + 1e-9):
            return []
        found.append(float(gap.mean()))
    return found


def scaled(pairs: Pairs, sizes: Sizes) -> str:
    """The factor that explains all results, "3 times" or "`h` · `w` times"; else ""."""
    found = factors(pairs)
    words = explained(found, sizes, enough=sum(b.numel() for _, b in pairs) > len(pairs))
    return f"{words} times" if words and words != "1" else ""


def shifted(pairs: Pairs, sizes: Sizes) -> str:
    """The offset that explains all results, "2 too much" or "`n` too little"; else ""."""
    found = offsets(pairs)
    if not any(found):
        return ""
    words = explained([abs(x) for x in found], sizes, enough=False)
    one_sided = all(x > 0 for x in found) or all(x < 0 for x in found)
    return f"{words} too {'much' if found[0] > 0 else 'little'}" if words and one_sided else ""


def explained(values: list[float], sizes: Sizes, enough: bool) -> str:
    """A constant, or a product of powers of up to three sizes, that gives every value; else "".

    Args:
        values: One number for each input.
        sizes: The sizes to try.
        enough: Whether a single value is evidence, for example because a whole tensor agrees.
    """
    if len(values) < (1 if enough else 2) or not all(math.isfinite(x) and x for x in values):
        return ""
    if constant(values):
        return number(values[0])
    for count in (1, 2, 3):
        for names in combinations(sizes, count):
            for powers in product((1, -1, 2, -2, 0.5, -0.5)[: 6 if count < 3 else 3], repeat=count):
                terms = list(zip(names, powers, strict=True))
                rest = [
                    x / math.prod(sizes[name][k] ** power for name, power in terms)
                    for k, x in enumerate(values)
                ]
                if constant(rest) and fraction(rest[0]) and len(values) > count + (count < 3):
                    return formula(fraction(rest[0]), terms)
    return ""


def constant(values: Sequence[float]) -> bool:
    """Whether all values are equal up to a relative error of 1e-9."""
    return all(math.isclose(x, values[0], rel_tol=1e-9) for x in values)


def fraction(x: float) -> Fraction:
    """The fraction of small integers that equals x; 0 if there is none."""
    found = Fraction(x).limit_denominator(16)
    return (
        found if abs(found.numerator) <= 64 and math.isclose(found, x, rel_tol=1e-9) else Fraction()
    )


def number(x: float) -> str:
    """Format a number, with fractions, π and roots: 0.5, 2π, √2, 1/3, 1.2346."""
    for unit, word in ((1.0, ""), (math.pi, "π"), (math.sqrt(2), "√2"), (math.sqrt(3), "√3")):
        found = fraction(x / unit)
        if found and (word or found.denominator in (1, 3, 6, 7, 9)):
            over = f"/{found.denominator}" * (found.denominator > 1)
            sign, top = "-" * (found < 0), abs(found.numerator)
            return f"{sign}{word if word and top == 1 else f'{top}{word}'}{over}"
    return f"{x:.6g}"


def formula(factor: Fraction, terms: list[tuple[str, float]]) -> str:
    """Format a product of powers: 4 · `h` / `w`²."""

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
