"""Takes what a notebook compares with finished parts out of it, and runs only that.

A notebook's statements are followed backwards from every `check.same(...)`: to the definitions and
values that it uses, to what those use, and so on. Nothing else of the notebook runs.
"""

import ast
import json
import re
import symtable
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from inspect import unwrap
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from sdlearn.course import check, solution
from sdlearn.course.grading import compare


@dataclass(frozen=True)
class Statement:
    """bound: the names it gives a value. now, later: those it uses, and those that functions
    defined in it use when they are called."""

    node: ast.stmt
    place: str
    bound: frozenset[str]
    now: frozenset[str]
    later: frozenset[str]


@dataclass(frozen=True)
class Pair:
    """One comparison that held."""

    mine: Callable[..., Any]
    theirs: Callable[..., Any]
    inputs: tuple[Any, ...]
    tolerance: float

    @property
    def own(self) -> bool:
        """Whether the left side was made in the notebook."""
        return origin(self.mine) == "the_notebook"

    @property
    def finished(self) -> bool:
        """Whether the right side is a part of sdlearn, or a function that calls one."""
        function = unwrap(self.theirs)  # without decorators such as torch.enable_grad
        calls = getattr(getattr(function, "__code__", None), "co_names", ())
        return origin(self.theirs).startswith("sdlearn.") or "sdlearn" in calls


def origin(part: Callable[..., Any]) -> str:
    """The Python module where the class of a network, or a function, was defined."""
    return type(part).__module__ if isinstance(part, nn.Module) else part.__module__


@cache
def statements(path: Path) -> list[Statement]:
    """All of a notebook, cell after cell; its exercises, which learners fill in, are left out.

    Where the notebook goes on with a learner's answer, the solution is put in its place.
    """
    found = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        core = re.match(r'\w+ = answer_or_solution\("(\d\d\.\d)", \w+\)$', source)
        source = solution(core[1]).text if core else source
        if cell["cell_type"] == "code" and "nbgrader" not in cell["metadata"]:
            place = f"{path.name}, cell {cell['id']}"
            found += [Statement(node, place, *names(node)) for node in ast.parse(source).body]
    return found


def names(node: ast.stmt) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    table = symtable.symtable(ast.unparse(node), "cell", "exec")
    symbols = table.get_symbols()
    bound = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
    now = {s.get_name() for s in symbols if s.is_referenced()}
    if isinstance(node, ast.AugAssign):
        now |= set(changed(node.target))
    bound |= {name for target in getattr(node, "targets", []) for name in changed(target)}
    later, inside = set(), table.get_children()
    while inside:
        child = inside.pop()
        inside += child.get_children()
        later |= {s.get_name() for s in child.get_symbols() if s.is_referenced() and s.is_global()}
    return frozenset(bound), frozenset(now), frozenset(later)


def changed(target: ast.expr) -> list[str]:
    """The name whose value, or only an entry or an attribute of it, an assignment changes."""
    while isinstance(target, ast.Subscript | ast.Attribute):
        target = target.value
    return [target.id] if isinstance(target, ast.Name) else []


def comparisons(node: ast.stmt) -> list[ast.Call]:
    """The calls of check.same in a statement."""
    calls = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]
    return [call for call in calls if ast.unparse(call.func) == "check.same"]


def needed(program: list[Statement], k: int, wanted: frozenset[str] | set[str]) -> set[int]:
    """Which statements give statement k the names that are wanted there, directly or not."""
    found: set[int] = set()
    todo = [(name, k) for name in wanted]
    while todo:
        name, before = todo.pop()
        binding = [i for i in range(before) if name in program[i].bound][-1:]
        for i in set(binding) - found:
            found.add(i)
            todo += [(inner, i) for inner in program[i].now]
            todo += [(inner, k) for inner in program[i].later]
    return found


def extract(path: Path) -> list[Statement]:
    """The comparisons of a notebook, and before each what it needs."""
    program, kept = statements(path), set()
    for k, statement in enumerate(program):
        if comparisons(statement.node):
            kept |= {k} | needed(program, k, statement.now | statement.later)
    return [program[k] for k in sorted(kept)]


def parts(path: Path) -> list[str]:
    """What is compared: the notebook's modules and functions on the left of a comparison, and the
    modules that those are made of."""
    program = extract(path)
    found: dict[str, None] = {}
    for k, statement in enumerate(program):
        for call in comparisons(statement.node):
            left = {n.id for n in ast.walk(call.args[0]) if isinstance(n, ast.Name)}
            for i in sorted(needed(program, k, left)):
                node = program[i].node
                if (isinstance(node, ast.FunctionDef) and node.name in left) or runs(node):
                    found[node.name] = None
    return list(found)


def learnt(
    path: Path,
    numbers: Sequence[str],
    imports: Sequence[str],
    wanted: Sequence[str] = (),
    change: tuple[str, str] = ("", ""),
) -> dict[str, Any]:
    """What a learner has at the end: the solutions of a notebook's exercises and its own functions.

    Args:
        path: The notebook.
        numbers: Of the exercises, in their order.
        imports: Statements that run first.
        wanted: Names of functions and classes that the notebook defines.
        change: A piece of the texts, and what replaces it wherever it occurs.
    """
    nodes = {getattr(each.node, "name", ""): each.node for each in statements(path)}
    texts = [*imports, *(solution(number).text for number in numbers)]
    texts += [ast.unparse(nodes[name]) for name in wanted]
    assert not change[0] or any(change[0] in text for text in texts)
    names: dict[str, Any] = {}
    for text in texts:
        exec(text.replace(*change), names)
    return names


def runs(node: ast.stmt) -> TypeGuard[ast.ClassDef]:
    """Whether it defines a module: a class with a method `forward`."""
    body = node.body if isinstance(node, ast.ClassDef) else []
    return any(isinstance(part, ast.FunctionDef) and part.name == "forward" for part in body)


def run(program: list[Statement], slip: str = "") -> list[Pair]:
    """Run statements, and return the comparisons in them, or raise as they do.

    slip: a part whose results are made slightly wrong. Raises Unspoilt where they cannot be, and
    Different alone for a comparison that does not hold: also where torch, in the notebook's own
    code, refuses shapes that no longer fit.
    """
    pairs: list[Pair] = []
    places = {statement.place for statement in program}

    def same(
        mine: Callable[..., Any], theirs: Callable[..., Any], *inputs: Any, tolerance: float = 1e-12
    ) -> None:
        try:
            compare.same(mine, theirs, *inputs, tolerance=tolerance)
        except RuntimeError as error:
            if not places & {frame.filename for frame in extract_tb(error.__traceback__)}:
                raise
            raise compare.Different(f"Yours raises {type(error).__name__}: {error}") from error
        pairs.append(Pair(mine, theirs, inputs, tolerance))

    module = ModuleType("the_notebook")
    real, sys.modules[module.__name__] = type(check).same, module
    type(check).same = staticmethod(same)
    try:
        for statement in program:
            code = compile(ast.Module([statement.node], []), statement.place, "exec")
            exec(code, vars(module))
            if slip in statement.bound:
                spoil(vars(module), slip)
    finally:
        type(check).same = staticmethod(real)
        del sys.modules[module.__name__]
    return pairs


class Unspoilt(Exception):
    """A result of a kind in which `slipped` cannot make a mistake: a fault of this file, which must
    not pass for a mistake that a comparison has noticed."""


def spoil(values: dict[str, Any], name: str) -> None:
    part = values[name]
    if isinstance(part, type):
        network: Any = part
        network.forward = wrong(network.forward)
    else:
        values[name] = wrong(part)


def wrong(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with a mistake in its results, or in the results of a function that it
    returns."""

    @wraps(function)
    def slipping(*given: Any, **named: Any) -> Any:
        result = compare.materialize(function(*given, **named))
        if callable(result) and not isinstance(result, type | nn.Module):
            return wrong(result)
        changed = slipped(result)
        # Something else altogether would be noticed whatever the comparison is worth.
        if compare.difference(changed, result, tolerance=1.0):
            raise Unspoilt(f"{function.__name__}: the mistake is not small")
        return changed

    return slipping


def slipped(result: Any) -> Any:
    """The same, wrong from the sixth digit on; raises Unspoilt for what is not made of numbers.

    A whole number has no such digit: one beside others, as the number of a step is, stays as it is.
    """
    if isinstance(result, Tensor) and result.is_floating_point():
        return result + 1e-5 * torch.randn_like(result) * result.abs().mean()
    if isinstance(result, tuple | list):
        if result and all(isinstance(entry, int) for entry in result):
            raise Unspoilt("whole numbers alone have no digit to change")
        inner: list[Any] = [e if isinstance(e, int) else slipped(e) for e in result]
        return type(result)(*inner) if hasattr(result, "_fields") else type(result)(inner)
    if isinstance(result, float):
        return result * 1.00001 + 1e-5
    raise Unspoilt(f"a result of type {type(result).__name__} has no number to change")


def distance(pair: Pair, other_weights: bool = False) -> float:
    """‖mine - theirs‖ / ‖theirs‖ of two modules in float64, largest over their results: with the
    same random weights, or else with others in mine. Computed without check.same."""
    torch.manual_seed(0)
    mine, theirs = (compare.converted(m, torch.float64).eval() for m in (pair.mine, pair.theirs))
    for parameter in theirs.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    mine.load_state_dict(theirs.state_dict(), strict=True)
    for parameter in mine.parameters() if other_weights else ():
        parameter.data += 0.2 * torch.randn_like(parameter)
    inputs = compare.converted(pair.inputs, torch.float64)
    with torch.no_grad():
        a, b = (compare.tree_leaves(compare.materialize(m(*inputs))) for m in (mine, theirs))
    return max(compare.relative_error(x, y) for x, y in zip(a, b, strict=True))


def folded_assertions(notebook: Path) -> int:
    """The number of folded cells of a notebook that assert something."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    folded = [cell for cell in cells if "hide-input" in cell["metadata"].get("tags", [])]
    return sum("assert " in "".join(cell["source"]) for cell in folded)
