"""Finding out whether code changes its inputs, or any tensor or container inside them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdlearn.course.grading.compare import difference


def reachable(value: Any, place: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield every tensor, array and container in a value, with its expression, `x[0].alpha`."""
    if id(value) in seen:
        return
    if isinstance(value, (Tensor, np.ndarray)):
        seen.add(id(value))
        yield place, value
    elif isinstance(value, nn.Module):
        seen.add(id(value))
        for name, tensor in (*value.named_parameters(), *value.named_buffers()):
            yield f"{place}.{name}", tensor
    elif isinstance(value, Mapping):
        seen.add(id(value))
        yield place, value
        for key, part in value.items():
            yield from reachable(part, f"{place}[{key!r}]", seen)
    elif isinstance(value, (list, tuple, set)):
        seen.add(id(value))
        if not isinstance(value, tuple):
            yield place, value
        names = getattr(value, "_fields", None)
        for k, part in enumerate(value):
            yield from reachable(part, f"{place}.{names[k]}" if names else f"{place}[{k}]", seen)
    elif is_dataclass(value) and not isinstance(value, type):
        seen.add(id(value))
        for field in fields(value):
            yield from reachable(getattr(value, field.name), f"{place}.{field.name}", seen)


def remembered(value: Any) -> Any:
    """A snapshot to compare with later: a copy of numbers, or a container's entries themselves."""
    if isinstance(value, (Tensor, np.ndarray)):
        return torch.as_tensor(value).detach().clone()
    return dict(value) if isinstance(value, Mapping) else list(value)


def version(value: Any) -> int:
    """How often torch has written into a tensor, even if no number changed."""
    return value._version if isinstance(value, Tensor) and not value.is_inference() else 0


class Watch:
    """A snapshot of inputs that tells after a run whether they have changed."""

    def __init__(self, names: Sequence[str], inputs: Sequence[Any]) -> None:
        self.before: list[tuple[str, Any, Any, int]] = []
        seen: set[int] = set()
        for name, value in zip(names, inputs, strict=False):
            for place, part in reachable(value, name, seen):
                self.before.append((place, part, remembered(part), version(part)))

    def changed(self) -> str:
        """Name the first changed input or part of one, "`x`" or "`ids`, a list,"; "" if none."""
        for place, part, old, written in self.before:
            if isinstance(part, (Tensor, np.ndarray)):
                if version(part) != written or difference(torch.as_tensor(part), old, 0.0):
                    return f"`{place}`"
            elif not alike(remembered(part), old):
                word = "dictionary" if isinstance(part, Mapping) else type(part).__name__
                return f"`{place}`, a {word},"
        return ""


def alike(now: Any, before: Any) -> bool:
    """Whether a container holds the same entries in the same order.

    The same object counts as unchanged, since `Watch` looks at the entries separately.
    """
    if isinstance(now, dict):
        return list(now) == list(before) and all(same(now[key], before[key]) for key in now)
    return len(now) == len(before) and all(map(same, now, before))


def same(a: Any, b: Any) -> bool:
    """Whether two entries are the same object, or equal values other than tensors."""
    if a is b:
        return True
    return not isinstance(a, Tensor) and type(a) is type(b) and bool(np.all(a == b))
