"""metrics.jsonl, the losses of a run: one JSON object a step, appended as the training goes on."""

import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

from sdlearn.utils.atomic_files import atomic_write


def append_metrics(path: Path, rows: Iterable[Mapping[str, float]]) -> None:
    """Append rows; the caller flushes them to the disk before it writes a checkpoint."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def truncate_metrics(path: Path, step: int) -> None:
    """Delete the lines after `step`, an incomplete last line, and whatever is not a step's line.

    Warns if steps up to `step` have no readable line, because only damage can do that.
    """
    lines: list[str] = []
    last = 0
    text = path.read_bytes().decode("utf-8", errors="replace") if path.exists() else ""
    for line in text.split("\n"):
        number = step_of(line)
        if last < number <= step:
            lines.append(line + "\n")
            last = number
    if len(lines) < step:
        warnings.warn(
            f"{path} is damaged: it has no readable line for {step - len(lines)} of the {step} "
            "steps done; the weights are not affected, and the other lines are kept",
            stacklevel=2,
        )
    new = "".join(lines)
    if new != text:
        with atomic_write(path) as part:
            part.write_text(new, encoding="utf-8", newline="")


def read_metrics(path: Path) -> tuple[list[dict[str, float]], int]:
    """Read the metrics of a run, which may still go on.

    Returns:
        The rows in their order, and the number of the first line that is damaged; 0 if there is
        none. An incomplete last line, as a killed run leaves it, is left out.
    """
    rows: list[dict[str, float]] = []
    damaged = last = 0
    *lines, end = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    for number, line in enumerate([*lines, end] if step_of(end) else lines, start=1):
        step = step_of(line)
        if step > last:
            rows.append(json.loads(line))
            last = step
        else:
            damaged = damaged or number
    return rows, damaged


def step_of(line: str) -> int:
    """The step of a line of metrics; 0 if it is damaged."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return 0
    if not isinstance(row, dict) or not all(type(value) in (int, float) for value in row.values()):
        return 0
    step = row.get("step")
    return step if type(step) is int else 0
