"""Running an answer so that it always gives a result or a sentence, never an exception."""

import dis
import inspect
import io
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from sdlearn.course.grading.compare import converted, copy_weights, materialize, perturbed
from sdlearn.course.grading.exercise import Case, Exercise, check_cell


class Failure(NamedTuple):
    """A sentence for the learner, in place of a result.

    Attributes:
        sentence: What went wrong.
        raised: Type and message of the exception, if the answer's own code raised one.
        blank: Whether the answer has not been written yet.
    """

    sentence: str
    raised: str = ""
    blank: bool = False


def results(exercise: Exercise, answer: Any, dtype: torch.dtype = torch.float64) -> list[Any]:
    """Run an answer on every case of its exercise; a Failure where it gives no result."""
    return [run(exercise, answer, case, dtype) for case in exercise.inputs()]


def run(
    exercise: Exercise,
    answer: Any,
    case: Case,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Any:
    """Run an answer on one case.

    Inputs in float64 are not copied, so that a change in place shows. For another dtype the answer
    gets converted copies. `seed` is that of the random numbers that the answer may draw.

    Returns:
        The result, or a Failure.
    """
    if exercise.kind == "value":
        return answer
    inputs = case.inputs if dtype == torch.float64 else converted(case.inputs, dtype)
    try:
        with isolated_rng():
            function = ready(exercise, answer, case, dtype)
            if isinstance(function, Failure):
                return function
            torch.default_generator.manual_seed(seed)  # whatever was drawn for weights
            result = materialize(function(*inputs))
    except (Exception, SystemExit) as error:
        return failure(error, answer)
    if result is None:
        return Failure(
            "Your code computes something but returns nothing: is a `return` missing at its end?"
        )
    parts = result if isinstance(result, tuple) else (result,)
    if any(part is ... for part in parts):
        return Failure("A `...` is still in what your code returns.", blank=True)
    return result


def ready(exercise: Exercise, answer: Any, case: Case, dtype: torch.dtype) -> Any:
    """The function to call: the answer itself, or a module with the solution's weights.

    Returns:
        The function, or a Failure if the module's weights do not fit.
    """
    if exercise.kind == "function":
        return answer
    module = answer(*case.build)
    trouble = copy_weights(model_for(exercise.solution, case.build), module)
    return Failure(trouble) if trouble else module.to(dtype)


@lru_cache(maxsize=16)
def model_for(solution: type[nn.Module], build: tuple[Any, ...]) -> nn.Module:
    """The module whose weights every answer gets, whatever the learner's class draws."""
    with isolated_rng():
        return perturbed(solution(*build))


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Seed torch's generator, restore it afterwards, and hide what is printed."""
    with torch.random.fork_rng(devices=[]), redirect_stdout(io.StringIO()):
        # Only the CPU's generator: torch.manual_seed also sets every GPU's and is far slower.
        torch.default_generator.manual_seed(0)
        yield


def failure(error: BaseException, answer: Any) -> Failure:
    """Describe an exception from the learner's code, with the line that raised it."""
    code = code_of(answer)
    stack = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in stack if code and frame.filename == code.co_filename]
    place = f"Line {own[-1].lineno} of the cell" if own else "Your code"
    place += f" (`{own[-1].line}`)" if own and own[-1].line else ""
    text = " ".join(str(error).split())
    called_list = "[ModuleList] is missing the required" in text
    if (isinstance(error, NotImplementedError) and not called_list) or "ellipsis" in text:
        return Failure(f"{place} is still to be written.", blank=True)
    text = f"{type(error).__name__}: {text}".rstrip(".: ")
    text = text if len(text) < 240 else f"{text[:240]} …"
    in_layer = bool(stack) and Path(stack[-1].filename).name == "linear.py"
    cause = advice("in a linear layer, " * in_layer + text)
    return Failure(f"{place} raised {text}.{cause}", raised=text)


ADVICE = (
    ("pop from empty list", "More is taken from a list than was put into it."),
    (r"Target .* out of bounds", "There are more right answers than choices: which are the rows?"),
    (
        "must match the size of tensor|are not broadcastable|not broadcastable|shape mismatch",
        "Two shapes do not fit together: an axis of length 1 may be missing, as `x[:, None]` makes "
        "one, or two axes are exchanged.",
    ),
    (
        "in a linear layer, .*mat1 and mat2",
        "A linear layer takes vectors of one length: is this the right layer, and the right input?",
    ),
    (
        "mat1 and mat2|size for first two dimensions|inconsistent tensor size|size mismatch",
        "In a matrix product the last axis of the first must be as long as the last but one of the "
        "second: a transpose may be missing.",
    ),
    (
        "same dtype|expected scalar type|dtypes? .*(match|equal)|expected m1 and m2",
        "Two tensors have different dtypes: bring one to that of the other, `.to(x.dtype)`.",
    ),
    (
        r"\[ModuleList\] is missing",
        "A `ModuleList` only holds layers; it cannot be called. Call one of them: `layers[0](x)`.",
    ),
    (
        "must be Tensor, not NoneType",
        "A tensor is None here: what should happen when an argument is left out?",
    ),
    ("division by zero", "You divide by 0: look at the case in which the divisor vanishes."),
    (
        "must be tuple of Tensors, not Tensor",
        "Several tensors are handed over in a list: `torch.cat([a, b], dim=1)`.",
    ),
    (
        "but got builtin_function_or_method",
        "A method is handed over instead of its result: `()` is missing after its name.",
    ),
    (
        r"must be Tensor, not [A-Z]|invalid combination of arguments - got \((?!Tensor)[A-Z]",
        "Something else was handed to a function of torch in place of a tensor. If it is a layer, "
        "call it first, `layer(x)`, and hand over the result.",
    ),
    (
        "must be Tensor, not torch.return_types",
        "`max(dim)` returns the values and their indices: take its `.values`, or use `amax`.",
    ),
    (
        "must be Tensor, not",
        "A plain number was handed to a function of torch: use `math`, or `x ** 0.5`.",
    ),
    ("object has no attribute '(sqrt|exp|log|shape|view|cos|sin|dim|float)'",
     "You call a tensor's method on something else, perhaps a plain number."),
    ("index out of range|out of bounds", "An index is beyond the end: count from 0."),
    (
        "Sizes of tensors must match except",
        "`torch.cat` joins tensors that agree on all other axes: does one need a `reshape` first?",
    ),
    ("is invalid for input of size", "The lengths do not multiply to that many numbers."),
    ("is not defined", "A name is missing: is it spelt as where you set it?"),
    ("math domain error", "You take a root or logarithm of a number below 0."),
    ("only (one element|integer) tensors", "A tensor of several numbers cannot become one number."),
    ("Boolean value of Tensor", "A tensor has no single truth value: use `torch.where` or a mask."),
)  # fmt: skip


def advice(text: str) -> str:
    """The usual cause of an exception, after a space; "" for an unknown one."""
    return next((f" {cause}" for pattern, cause in ADVICE if re.search(pattern, text)), "")


# -------------------------------------------------------------------------- inspecting the code


def wrong_kind(exercise: Exercise, answer: Any) -> str:
    """Describe an answer of the wrong kind or with other arguments; "" if it can be run."""
    call, name = check_cell(exercise), exercise.name
    is_class = isinstance(answer, type) and issubclass(answer, nn.Module)
    if exercise.kind == "value":
        return f"The answer is a value, not a function: `{call}`." * callable(answer)
    if exercise.kind == "class" and not is_class:
        return f"Hand over the class itself, a subclass of nn.Module: `{call}`."
    if exercise.kind == "function" and (is_class or not callable(answer)):
        return f"Hand over the function itself, not its result: `{call}`."
    case, model = exercise.inputs()[0], exercise.solution
    calls = [(name, answer, model, case.build if is_class else case.inputs)]
    if is_class:
        forward = f"{name}.forward", answer.forward, model.forward, (None, *case.inputs)
        calls.append(forward)
    for called, function, right, arguments in calls:
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError:
            names = ", ".join(inspect.signature(right).parameters)
            return f"`{called}` must take ({names}); yours takes other arguments."
        except ValueError:  # built-in functions have no signature
            continue
    return ""


def argument_names(exercise: Exercise) -> list[str]:
    """The arguments of the solution, or of its forward, without self."""
    function = exercise.solution.forward if exercise.kind == "class" else exercise.solution
    return [name for name in inspect.signature(function).parameters if name != "self"]


def code_of(answer: Any) -> Any:
    """The code object of a function, or of a class's forward; None for anything else."""
    function = getattr(answer, "forward", None) if isinstance(answer, type) else answer
    return getattr(function, "__code__", None)


IDLE = {
    "RESUME", "NOP", "CACHE", "POP_TOP", "STORE_FAST", "LOAD_CONST", "LOAD_SMALL_INT",
    "RETURN_VALUE", "RETURN_CONST", "MAKE_CELL", "COPY_FREE_VARS",
}  # fmt: skip


def is_blank(answer: Any) -> bool:
    """Whether an answer is still empty: `...`, None, or a body that only sets names to these."""
    if answer is None or answer is ...:
        return True
    code = code_of(answer)
    if code is None:
        return False
    steps = list(dis.get_instructions(code))
    constants = [s.argval for s in steps if s.opname in ("LOAD_CONST", "RETURN_CONST")]
    nothing = all(value is None or value is ... for value in constants)
    return nothing and all(step.opname in IDLE for step in steps)
