"""The classes and functions that a pickle names, found without interpreting it.

A pickle is a list of instructions for a machine with a stack and a memo. `names_in_file` follows
where each instruction puts its result, but calls nothing and builds nothing. So it knows which
classes and functions are named, and whether what they return is filled like a dictionary or a list.
"""

import pickletools
import zipfile
from pathlib import Path
from typing import Any, Literal, NamedTuple

Use = Literal["object", "mapping", "list"]


class Nest(NamedTuple):
    """A tuple in a pickle: how many levels deep it is, and how many objects its levels have."""

    depth: int = 1
    size: int = 1


# What is known of an object on the stack: the name it comes from, or that it is a tuple.
Origin = str | Nest | None
# A tuple may be a key, and Python finds the place of a key by visiting all that is in it. Too many
# levels end Python itself, without an error. A pickle of fifty bytes can put a tuple into itself
# so often that the visit never ends. Files of weights have three levels of a few objects.
DEEPEST = 100
LARGEST_TUPLE = 100_000
MOST_INSTRUCTIONS = 2**21  # a tensor needs about fifty; more take seconds to follow

# Pickles have the names of Python 2; torch translates them in the same way.
PYTHON_3 = {
    "__builtin__ long": "builtins int",
    "__builtin__ unicode": "builtins str",
    "__builtin__ xrange": "builtins range",
}
PYTHON_3_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
INSTRUCTIONS = {opcode.code: opcode.name for opcode in pickletools.opcodes}
MARK = "(mark)"  # no name has brackets around it
FILLS: dict[str, Use] = {
    "SETITEM": "mapping",
    "SETITEMS": "mapping",
    "APPEND": "list",
    "APPENDS": "list",
}


def names_in_file(path: Path) -> dict[str, Use]:
    """The classes and functions that a pickle of torch names, and how their results are used.

    Raises:
        ValueError: If the file is not a pickle of torch.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) == b"PK":
                with zipfile.ZipFile(file) as archive:
                    (entry,) = (n for n in archive.namelist() if n.split("/", 1)[-1] == "data.pkl")
                    with archive.open(entry) as pickle:
                        return names_in_pickle(pickle)
            file.seek(0)
            names: dict[str, Use] = {}
            for _ in range(4):  # before torch 1.6: a magic number, a version, the machine, content
                names |= names_in_pickle(file)
            return names
    except Exception as error:  # zipfile and pickletools raise many kinds for damaged bytes
        raise ValueError(
            f"{path} is not a pickle of tensors alone: it is damaged or incomplete, or was "
            "written by another program; download it again, or use a .safetensors file of the "
            "same model"
        ) from error


def names_in_pickle(pickle: Any) -> dict[str, Use]:
    """The names in one pickle, as module and name joined by a dot; the file is left at its end."""
    names: dict[str, Use] = {}
    stack: list[Origin] = []
    memo: dict[Any, Origin] = {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(pickle)):
        if count == MOST_INSTRUCTIONS:
            raise ValueError("the pickle is too long")
        kind = opcode.name
        if "GET" in kind:
            stack.append(memo[argument])
        elif kind == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif "PUT" in kind:
            memo[argument] = stack[-1]
        elif kind == "MARK":
            stack.append(MARK)
        else:
            taken = take(stack, opcode)
            result: Origin = None
            if kind in ("GLOBAL", "INST"):
                module, name = PYTHON_3.get(str(argument), str(argument)).split(" ", 1)
                full = f"{PYTHON_3_MODULES.get(module, module)}.{name}"
                names.setdefault(full, "object")
                result = full
            elif kind in ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", *FILLS):
                result = taken[0]  # the callable, or the object itself
            elif "TUPLE" in kind:
                result = tuple_of(taken)
            if kind in FILLS and isinstance(result, str):
                names[result] = FILLS[kind]
            stack += [result] * len(opcode.stack_after)
    return names


def tuple_of(parts: list[Origin]) -> Nest:
    """What is known of a tuple of these parts; ValueError if it is no key that Python can hold."""
    inner = [part for part in parts if isinstance(part, Nest)]
    nest = Nest(
        1 + max((part.depth for part in inner), default=0),
        1 + len(parts) + sum(part.size for part in inner),
    )
    if nest.depth > DEEPEST or nest.size > LARGEST_TUPLE:
        raise ValueError("its tuples are nested too deeply")
    return nest


def take(stack: list[Origin], opcode: pickletools.OpcodeInfo) -> list[Origin]:
    """Take what an instruction takes from the stack, the lowest first."""
    before = opcode.stack_before
    fixed = len(before)
    taken: list[Origin] = []
    if pickletools.markobject in before:
        fixed = before.index(pickletools.markobject)
        place = len(stack) - 1 - stack[::-1].index(MARK)
        taken = stack[place + 1 :]
        del stack[place:]
    if fixed > len(stack):
        raise ValueError("the stack is empty")
    place = len(stack) - fixed
    taken = stack[place:] + taken
    del stack[place:]
    return taken
