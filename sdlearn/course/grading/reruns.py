"""Clues from further runs: one example alone, a doubled input, the solution without a part.

Each probe takes a trial and returns a sentence, or "" if it finds nothing.
"""

import copy
import dis
import math
from collections.abc import Callable
from itertools import permutations
from typing import Any, NamedTuple

from torch import Tensor, nn

from sdlearn.course.grading import relations
from sdlearn.course.grading.compare import difference, tree_leaves, without_numbers
from sdlearn.course.grading.exercise import Case
from sdlearn.course.grading.mutation import Watch
from sdlearn.course.grading.sandbox import Failure, code_of, run
from sdlearn.course.grading.trials import Trial, as_tensor, batch, kind


def unaltered(trial: Trial) -> str:
    """Report an input that the answer changes in place."""
    for case in trial.cases:
        watch = Watch(trial.names, case.inputs)
        run(trial.exercise, trial.answer, case)
        changed = watch.changed()
        if changed:
            return f"Your code also changes its input {changed} in place; make a new one instead."
    return ""


def never_used(trial: Trial) -> str:
    """Report arguments that the solution reads and the answer's code does not."""
    unused = [
        name
        for name, mine, theirs in zip(
            trial.names, loaded(trial.answer), loaded(trial.exercise.solution), strict=False
        )
        if theirs and not mine
    ]
    if not unused:
        return ""
    named = " and ".join(f"`{name}`" for name in unused)
    return f"It does not depend on {named}, though it should: your code never uses it."


def tiny(trial: Trial) -> str:
    """Report a small constant in the code, which explains why only the last digits are wrong."""
    codes, small = [code_of(trial.answer)], []
    while codes:
        for constant in getattr(codes.pop(), "co_consts", ()):
            codes.append(constant)
            if isinstance(constant, float) and 0 < abs(constant) < 1e-4:
                small.append(f"`{constant:g}`")
    if not small:
        return ""
    return (
        f"Your code holds the small number {small[0]}: float64 has 16 digits, so that adding it "
        "changes the result. Where it keeps a divisor from being 0, handle that case by itself."
    )


def loaded(answer: Any) -> list[bool]:
    """Whether the code reads each of its arguments; [] if that is unknown."""
    code = code_of(answer)
    if code is None or code.co_flags & 0x0C:  # *args or **kwargs
        return []
    names = code.co_varnames[: code.co_argcount]
    read = {
        part
        for step in dis.get_instructions(code)
        if step.opname.startswith(("LOAD", "STORE_FAST_LOAD", "COPY_FREE", "MAKE_CELL"))
        for part in (step.argval if isinstance(step.argval, tuple) else (step.argval,))
        if isinstance(part, str)
    } - set()
    used = [name in read for name in names]
    return used[1:] if isinstance(answer, type) else used


def nearly(trial: Trial) -> str:
    """Report a known mistake that explains at least half of the wrong results."""
    wrong = [k for k, is_wrong in enumerate(trial.wrong) if is_wrong]
    enough, best, sentence = max(2, len(wrong) / 2), 0, ""
    for mistake, results in zip(trial.exercise.mistakes, trial.mistaken, strict=True):
        found = sum(alike(trial.mine[k], results[k], trial.exercise.tolerance) for k in wrong)
        if found >= enough and found > best:
            best, sentence = found, mistake.sentence
    if not sentence:
        return ""
    share = f"{best} of the {len(wrong)} inputs"
    return f"On {share} on which it is wrong, this is what you do: {sentence}"


def alike(mine: Any, other: Any, tolerance: float) -> bool:
    """Whether both are results and agree. Results without a finite number never do."""
    failed = isinstance(mine, Failure) or isinstance(other, Failure)
    return not failed and not without_numbers(mine) and not difference(mine, other, tolerance)


def parts(trial: Trial) -> str:
    """Report a change to a submodule of the solution that explains the results."""
    if trial.exercise.kind != "class" or any(isinstance(x, Failure) for x in trial.mine):
        return ""
    solution = trial.exercise.solution(*trial.unchanged[0].build)
    names = [
        name for name, child in solution.named_modules() if name and not list(child.children())
    ]
    outer = [name for name, _ in solution.named_children()]
    changes: list[tuple[str, str, Change]] = []
    changes += [(f"`{name}` is left out", name, identity) for name in names]
    changes += [(f"`{name}` gives nothing", name, silence) for name in dict.fromkeys(outer + names)]
    for words, factor in (("twice", 2.0), ("half", 0.5), ("minus", -1.0)):
        changes += [
            (f"{words} the output of `{name}` is used", name, scaling(factor)) for name in outer
        ]
    parts_of = solution.named_modules()
    simple = {name: part for name, part in parts_of if name in names}
    for one, other in permutations([name for name in outer if name in simple], 2):
        shapes = [[x.shape for x in simple[name].parameters()] for name in (one, other)]
        if type(simple[one]) is type(simple[other]) and shapes[0] == shapes[1] != []:
            changes.append((f"`{other}` is used for `{one}`", one, Instead(other)))
    ranked = trial.order
    for words, name, change in changes:
        if all(altered(trial, k, name, change) for k in ranked):
            return f"Right code gives exactly your numbers when {words}."
    return ""


class Instead(NamedTuple):
    """A change that puts another submodule of the same module in this position."""

    name: str


def scaling(factor: float) -> Callable[[nn.Module], nn.Module]:
    """A change that multiplies the output of a submodule."""
    return lambda part: Scaled(part, factor)


Change = Callable[[nn.Module], nn.Module] | Instead


def identity(module: nn.Module) -> nn.Module:
    """A module that returns its first input, in place of this one."""
    return First()


def silence(module: nn.Module) -> nn.Module:
    """A copy with all weights zero."""
    module = copy.deepcopy(module)
    for parameter in module.parameters():
        parameter.data.zero_()
    return module


class Scaled(nn.Module):
    """A module whose output is multiplied by a factor."""

    def __init__(self, part: nn.Module, factor: float) -> None:
        super().__init__()
        self.part, self.factor = part, factor

    def forward(self, *inputs: Any) -> Any:
        return self.factor * self.part(*inputs)


class First(nn.Module):
    """A module that returns its first input."""

    def forward(self, x: Tensor, *rest: Any) -> Tensor:
        return x


def altered(trial: Trial, k: int, name: str, change: Change) -> bool:
    """Whether the solution with one submodule changed gives the answer's result in case k."""
    module = trial.solutions[k]
    submodules = dict(module.named_modules())
    if name not in submodules or (isinstance(change, Instead) and change.name not in submodules):
        return False  # this case builds a smaller one
    part = submodules[name]
    other = submodules[change.name] if isinstance(change, Instead) else change(part)
    try:
        module.set_submodule(name, other)
        result = trial.solve(k, trial.unchanged[k].inputs)
    finally:
        module.set_submodule(name, part)
    return not isinstance(result, Failure) and not difference(result, trial.mine[k], 1e-9)


def alone(trial: Trial) -> str:
    """Report that the examples of a batch influence each other, although they should not."""
    k = next((k for k, b in enumerate(trial.expected) if trial.wrong[k] and batch(b) > 1), None)
    if k is None or isinstance(trial.mine[k], Failure):
        return ""
    b = batch(trial.expected[k])
    if b > 64 or batch(trial.mine[k]) != b:  # a long table, or axes in another order
        return ""
    singles = [one_by_one(trial, k, b, code) for code in (trial.exercise.solution, trial.answer)]
    right, mine = singles
    if any(isinstance(x, Failure) for x in right) or not all(
        same_row(x, trial.expected[k], i) for i, x in enumerate(right)
    ):
        return ""
    fine = [same_row(x, trial.expected[k], i) for i, x in enumerate(mine)]
    together = [same_row(row(trial.mine[k], i), trial.expected[k], i) for i in range(b)]
    if together[0] and not any(together[1:]) and all(fine):
        return "Only the first example of the batch is right: something of it is used for all."
    if all(fine):
        return (
            "For each example alone your code gives the right result, and for the batch it does "
            "not: somewhere the examples are mixed, as by a mean, a norm or a softmax along axis "
            "0, or one example's number is used for all."
        )
    whole = [same_row(x, trial.mine[k], i) for i, x in enumerate(mine)]
    if not any(whole) and not any(isinstance(x, Failure) for x in mine):
        return (
            "Your result for an example changes with the other examples of its batch, which it "
            "must not: look for a mean, a norm or a softmax along axis 0."
        )
    return ""


def row(result: Any, i: int) -> Any:
    """Example i of a batch of results, as a batch of one."""
    if isinstance(result, Tensor):
        return result[i : i + 1] if result.dim() else result
    if isinstance(result, tuple):
        return tuple(row(x, i) for x in result)
    return result[i : i + 1] if isinstance(result, list) else result


def same_row(single: Any, whole: Any, i: int) -> bool:
    """Whether the result for one example agrees with example i of a batch."""
    if isinstance(single, Failure) or isinstance(whole, Failure):
        return False
    return not difference(single, row(whole, i), 1e-7)


def one_by_one(trial: Trial, k: int, b: int, code: Any) -> list[Any]:
    """Run the code on each of the b examples of case k alone."""

    def single(x: Any, i: int) -> Any:
        if isinstance(x, Tensor) and x.dim() and len(x) == b:
            return x[i : i + 1]
        return x[i : i + 1] if isinstance(x, list) and len(x) == b else x

    found = []
    for i in range(b):
        case = trial.cases[k]
        inputs = tuple(single(x, i) for x in case.inputs)
        found.append(run(trial.exercise, code, Case(inputs, case.build)))
    return found


def doubled(trial: Trial) -> str:
    """Report an input whose doubling changes the results differently from the solution's."""
    k = trial.first
    if isinstance(trial.mine[k], Failure) or isinstance(trial.expected[k], Failure):
        return ""
    columns = list(zip(*(c.inputs for c in trial.unchanged), strict=False))
    for i, name in enumerate(trial.names[: len(columns)]):
        if kind(columns[i]) not in ("tensor", "number") or (
            not tree_leaves([columns[i][k]]) and not columns[i][k]
        ):
            continue
        found = [
            response(trial, code, i, old)
            for code, old in ((trial.exercise.solution, trial.expected), (trial.answer, trial.mine))
        ]
        right, mine = found
        if right is None or mine == right:
            continue
        should = "should not change" if right == 1 else f"should become {power(right)}"
        if mine is None:
            if right == 1:
                return f"If `{name}` is doubled, the result {should}; yours does."
            return f"If `{name}` is doubled, the result {should}; yours does something else."
        does = "does not change" if mine == 1 else f"becomes {power(mine)}"
        return f"If `{name}` is doubled, the result {should}, and yours {does}."
    return ""


def power(factor: float) -> str:
    """The factor in words: "2 times as large"."""
    return f"{relations.number(factor)} times as large"


def response(trial: Trial, code: Any, i: int, before: list[Any]) -> float | None:
    """The factor by which all results grow if argument i is doubled; None if there is none."""
    found = []
    for k, case in enumerate(trial.cases[:3]):
        inputs = (*case.inputs[:i], 2 * case.inputs[i], *case.inputs[i + 1 :])
        result = run(trial.exercise, code, Case(inputs, case.build))
        if isinstance(result, Failure) or isinstance(before[k], Failure):
            return None
        a, b = ([as_tensor(x) for x in tree_leaves(r) or [r]] for r in (result, before[k]))
        pairs = [(x, y) for x, y in zip(a, b, strict=False) if y.numel() and y.any()]
        factors = relations.factors(pairs)
        if not factors or len(a) != len(b):
            return None
        found += factors
    fits = found and all(math.isclose(x, found[0], rel_tol=1e-6) for x in found)
    return round(found[0], 6) if fits else None
