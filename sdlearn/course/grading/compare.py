"""Comparing two results, and describing in a sentence how they differ.

`difference` compares results of any shape, `copy_weights` makes two modules comparable, and `same`
does both for a learner's module and the finished one.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdlearn.course.grading import arrangement, relations


class Different(AssertionError):
    """Two results differ; IPython shows the sentence without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def same(
    mine: Callable[..., Any], theirs: Callable[..., Any], *inputs: Any, tolerance: float = 1e-12
) -> None:
    """Check that your module or function gives the same results as the finished one.

    Modules are copied and given the same random weights. Both sides run in float64, and the
    function prints how well they agree.

    Args:
        mine: Your module or function.
        theirs: The finished one.
        *inputs: Arguments for both.
        tolerance: Largest relative error, ‖mine - theirs‖ / ‖theirs‖.

    Raises:
        Different: If weights are missing, additional or of another shape, or if the results
            differ by more than the tolerance.
    """
    counted = ""
    if isinstance(theirs, nn.Module):
        if not isinstance(mine, nn.Module):
            raise Different(f"Yours is a {type(mine).__name__}, theirs a module: give a module.")
        mine, theirs = copy.deepcopy(mine).cpu(), perturbed(theirs)
        trouble = copy_weights(theirs, mine)
        if trouble:
            raise Different(trouble)
        mine, theirs = mine.double().eval(), theirs.double().eval()
        sizes = [weight.numel() for weight in theirs.state_dict().values()]
        counted = f"{len(sizes)} tensors, equal names and shapes\n{sum(sizes):,} parameters; "
    with torch.no_grad():
        a, b = (materialize(f(*converted(inputs, torch.float64))) for f in (mine, theirs))
    trouble = difference(a, b, tolerance)
    if trouble:
        raise Different(f"Not the same: {trouble}.")
    errors = [relative_error(x, y) for x, y in zip(tree_leaves(a), tree_leaves(b), strict=True)]
    found = [str(tuple(leaf.shape)) for leaf in tree_leaves(b)] or ["equal"]
    shapes = ", ".join(found) if len(found) <= 2 else f"of {len(found)} tensors"
    print(f"same: {counted}output {shapes}")  # lines that a phone doesn't break
    print(f"relative error {max(errors, default=0):.1g}")


def copy_weights(source: nn.Module, target: nn.Module) -> str:
    """Load the weights of `source` into `target`; return "" or why they do not fit, a sentence."""
    wanted, found = source.state_dict(), target.state_dict()
    missing, extra = [k for k in wanted if k not in found], [k for k in found if k not in wanted]
    if missing or extra:
        parts = [f"{list_in_words(missing)} missing"] * bool(missing)
        parts += [f"{list_in_words(extra)} not expected"] * bool(extra)
        return f"The names of the weights differ: {'; '.join(parts)}."
    for key, value in wanted.items():
        if found[key].shape != value.shape:
            return (
                f"The weight `{key}` has the shape {tuple(found[key].shape)}; expected is "
                f"{tuple(value.shape)}."
            )
    target.load_state_dict(wanted, strict=True)
    return ""


def perturbed(module: nn.Module, seed: int = 0) -> nn.Module:
    """A copy on the CPU with random numbers added to every weight, so that none is just 0 or 1."""
    rng = torch.Generator().manual_seed(seed)
    module = copy.deepcopy(module).cpu()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.1)
    return module


def converted(value: Any, dtype: torch.dtype) -> Any:
    """A copy with all floating-point tensors, in tuples, lists and modules too, in this dtype."""
    if isinstance(value, Tensor):
        return value.to(dtype, copy=True) if value.is_floating_point() else value.clone()
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).to(dtype)
    if isinstance(value, (tuple, list)):
        items = [converted(item, dtype) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def materialize(result: Any) -> Any:
    """The result, or a list of what it yields if it is a generator."""
    return list(result) if isinstance(result, Iterator) else result


def tree_leaves(result: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dictionaries, in order."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, Mapping):
        result = list(result.values())
    return (
        [x for item in result for x in tree_leaves(item)]
        if isinstance(result, (tuple, list))
        else []
    )


def without_numbers(result: Any) -> bool:
    """Whether a result's tensors hold only nan and infinities, as those of many wrong inputs do."""
    leaves = [leaf for leaf in tree_leaves(result) if leaf.numel()]
    return bool(leaves) and not any(leaf.isfinite().any() for leaf in leaves)


def relative_error(mine: Tensor, theirs: Tensor) -> float:
    """‖mine - theirs‖ / ‖theirs‖, or ‖mine‖ if theirs is zero."""
    a, b = mine.detach().double(), theirs.detach().double()
    return float((a - b).norm() / (b.norm() or 1.0))


# -------------------------------------------------------------------------------- how they differ


def difference(mine: Any, theirs: Any, tolerance: float, place: str = "the result") -> str:
    """Describe how `mine` differs from the expected `theirs`.

    Args:
        mine: The result to compare. A number may have any type that holds its value.
        theirs: The expected tensor, number, text or image, or a tuple, list or dictionary of them.
            inf and nan agree with themselves.
        tolerance: Largest relative error.
        place: What the message calls the result.

    Returns:
        A sentence without a full stop, or "" if they agree.
    """
    if isinstance(theirs, Tensor):
        return tensor_difference(mine, theirs, tolerance, place)
    if isinstance(theirs, np.ndarray) or hasattr(theirs, "tobitmap"):
        if type(mine).__module__.split(".")[0] != type(theirs).__module__.split(".")[0]:
            return f"{place} is {a_type(mine)}, and {a_type(theirs)} is expected"
        a, b = (torch.as_tensor(np.array(x)) for x in (mine, theirs))
        return tensor_difference(a, b, tolerance, place)
    if isinstance(theirs, (int, float)):
        single = isinstance(mine, (Tensor, np.ndarray, np.generic)) and len(mine.reshape(-1)) == 1
        value = mine.item() if single else mine
        if not isinstance(value, (int, float)):
            return f"{place} is {a_type(mine)}, and a number is expected"
        if isinstance(theirs, int):
            return "" if value == theirs else f"{place} is {value}, and {theirs} is expected"
        if math.isclose(value, theirs, rel_tol=tolerance):
            return ""
        shown, expected = told_apart(float(value), theirs, 6)
        close = math.isclose(value, theirs, rel_tol=1e-5)
        few = "; it agrees to only a few digits, as if computed in float32" * close
        return f"{place} is {shown}, and {expected} is expected{few}"
    if isinstance(theirs, Mapping):
        if not isinstance(mine, Mapping) or set(mine) != set(theirs):
            keys = list_in_words(list(theirs))
            return f"{place} is {a_type(mine)}; expected is a dictionary of {keys}"
        pairs = [(mine[key], theirs[key], f"entry {key!r} of {place}") for key in theirs]
    elif isinstance(theirs, (tuple, list)):
        if not isinstance(mine, (tuple, list)):
            return f"{place} is {a_type(mine)}, and {len(theirs)} results are expected"
        if len(mine) != len(theirs):
            return f"{place} has {len(mine)} entries, and {len(theirs)} are expected"
        pairs = [
            (a, b, f"entry {k} of {place}")
            for k, (a, b) in enumerate(zip(mine, theirs, strict=True))
        ]
    else:
        return "" if mine == theirs else f"{place} is {mine!r}, and {theirs!r} is expected"
    return next(filter(None, (difference(a, b, tolerance, where) for a, b, where in pairs)), "")


def tensor_difference(mine: Any, theirs: Tensor, tolerance: float, place: str) -> str:
    """Describe how `mine` differs from an expected tensor; as `difference`."""
    if not isinstance(mine, Tensor):
        return f"{place} is {a_type(mine)}, and a torch tensor is expected"
    shapes = tuple(mine.shape), tuple(theirs.shape)
    if shapes[0] != shapes[1]:
        swapped = ", the same lengths in another order" * (sorted(shapes[0]) == sorted(shapes[1]))
        return f"{place} has the shape {shapes[0]}, and {shapes[1]} is expected{swapped}"
    if mine.dtype != theirs.dtype:
        return f"{place} is {kind(mine)}, and {kind(theirs)} is expected"
    a, b = (x.detach().double() for x in (mine, theirs))
    odd = ~(a.isfinite() & b.isfinite())
    unlike = odd & (a != b) & ~(a.isnan() & b.isnan())
    if (unlike & a.isfinite()).any():
        first = tuple((unlike & a.isfinite()).nonzero()[0].tolist())
        where = f" at {list(first)}" * bool(first)
        return f"{place} is {float(a[first]):.4g}{where}, and {float(b[first])} is expected there"
    if unlike.any():
        count = int((~a.isfinite()).sum())
        return f"{place} holds {count} numbers of {a.numel()} that are not finite (nan or inf)"
    a, b = a.masked_fill(odd, 0), b.masked_fill(odd, 0)
    if relative_error(a, b) <= tolerance:
        return ""
    distance = (a - b).abs()
    differs = distance >= torch.minimum(tolerance * b.abs().max(), distance.max())
    first = tuple(differs.nonzero()[0].tolist())
    numbers = told_apart(float(a[first]), float(b[first]), 4)
    where = f"first at {list(first)} " * bool(first)
    return (
        f"{place}, of shape {shapes[0]}, differs at {int(differs.sum())} of {differs.numel()} "
        f"places, {where}where it is {numbers[0]} instead of {numbers[1]}{remark(a, b)}"
    )


def told_apart(a: float, b: float, digits: int) -> tuple[str, str]:
    """Format two numbers with at least these digits, and more if they would look the same."""
    for enough in (digits, 9, 12, 17):
        if f"{a:.{enough}g}" != f"{b:.{enough}g}":
            break
    return f"{a:.{enough}g}", f"{b:.{enough}g}"


def remark(mine: Tensor, theirs: Tensor) -> str:
    """Describe a pattern in the difference: a factor, an offset, an order, too few digits."""
    a, b = mine.flatten(), theirs.flatten()
    error = relative_error(a, b)
    if error < 1e-5:
        apart = (a - b) * b.sign()
        sided = len(a) > 2 and bool((apart > 0).all() or (apart < 0).all())
        if sided:
            return (
                f"; everywhere it is too {'large' if apart[0] > 0 else 'small'}, by a relative "
                f"{error:.0e}: something small was added, or a constant is rounded"
            )
        return (
            f"; it agrees to only a few digits (relative error {error:.0e}), as if computed in "
            "float32, with rounded constants, or with something small added"
        )
    if len(a) < 4 or not b.any():
        return ""
    factor = float(a @ b / (b @ b))
    if relative_error(a, factor * b) < 1e-6 and abs(factor) > 1e-9:
        return f"; everywhere it is {relations.number(factor)} times what is expected"
    if (a - b).std() < 1e-6 * b.std():
        return f"; everywhere it is off by the same number, {float((a - b).mean()):.4g}"
    if relative_error(a.sort().values, b.sort().values) < 1e-6:
        order = arrangement.rearranged(mine, theirs) or "look for a wrong reshape"
        return f"; all the right numbers are there, but in other places: {order}"
    return ""


def kind(x: Tensor) -> str:
    """The dtype's short name: float32 for torch.float32."""
    return str(x.dtype).removeprefix("torch.")


def a_type(value: Any) -> str:
    """The type of a value in words, such as "a tuple"."""
    words = {tuple: "a tuple", list: "a list", dict: "a dictionary", str: "a text", type: "a class"}
    if value is None:
        return "None"
    return words.get(type(value), f"of type {type(value).__name__}")


def list_in_words(names: list[str], most: int = 4) -> str:
    """A list of names such as "`a`, `b` and 3 more"."""
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown + f" and {len(names) - most} more" * (len(names) > most)
