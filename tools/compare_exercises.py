"""Compare the mistakes of the exercises in two commits: names, order, sentences and results.

    python tools/compare_exercises.py OLD_COMMIT [NEW_COMMIT] [--only NOTEBOOK ...]

Each commit is unpacked into a temporary folder, where a separate process runs every mistake of
every exercise on every case. The exit code is 1 if anything differs. NEW_COMMIT is HEAD by default.
"""

import argparse
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
# Modules that may define `results(exercise, answer)`, the current one first.
RUNNERS = ("sdlearn.course.grading.sandbox", "sdlearn.course.running")
TOLERANCE = 1e-12

# {"04": {"04.2": [(name, sentence, [outcome of each case]), ...]}}
Found = dict[str, dict[str, list[tuple[str, str, list[Any]]]]]


# -------------------------------------------------------------------------- results of one commit


def probe(only: list[str]) -> Found:
    """Run every mistake of the imported sdlearn on every case.

    Args:
        only: Numbers of notebooks, or none for all.
    """
    run = runner()
    course = import_module("sdlearn.course.exercises")
    return {
        notebook: {
            exercise.number: [
                (m.name, m.sentence, [plain(x) for x in run(exercise, m.answer)])
                for m in exercise.mistakes
            ]
            for exercise in course.exercises(notebook)
        }
        for notebook in course.files()
        if not only or notebook in only
    }


def runner() -> Any:
    """Return the function `results` of the first module of RUNNERS that exists."""
    for name in RUNNERS:
        try:
            return import_module(name).results
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(f"none of these modules exists: {', '.join(RUNNERS)}")


def plain(outcome: Any) -> Any:
    """Convert an outcome to built-in types and tensors, so that another process can read it.

    A Failure becomes the exception's text, or its sentence if nothing was raised.
    """
    if hasattr(outcome, "raised") and hasattr(outcome, "sentence"):
        return ["failure", outcome.raised or outcome.sentence]
    if isinstance(outcome, Tensor):
        return outcome.detach().clone()
    if hasattr(outcome, "__array_interface__"):  # NumPy's arrays and Pillow's images
        return ["array", torch.as_tensor(np.array(outcome))]
    if isinstance(outcome, Mapping):
        return [[str(key), plain(value)] for key, value in outcome.items()]
    if isinstance(outcome, (tuple, list)):
        return [type(outcome).__name__, *map(plain, outcome)]
    if outcome is None or isinstance(outcome, (bool, int, float, str)):
        return outcome
    return re.sub(r" at 0x[0-9a-f]+", "", repr(outcome))


def probed(commit: str, only: list[str]) -> Found:
    """Run `probe` on a commit, in a process that imports the commit's own package."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["git", "archive", "--format=tar", commit, "sdlearn", "data"]
        packed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        out = Path(folder) / "found.pt"
        again = [sys.executable, __file__, commit, "--probe", str(out), "--only", *only]
        environment = os.environ | {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        subprocess.run(again, cwd=folder, env=environment, check=True)
        return torch.load(out, weights_only=True)


# ---------------------------------------------------------------------------------- comparison


@dataclass
class Report:
    """The result of a comparison.

    Attributes:
        outcomes: Number of outcomes compared.
        results: A line for each result that differs.
        sentences: A line for each sentence that differs.
        names: A line for each mistake that is new, gone or in another position.
    """

    outcomes: int = 0
    results: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    @property
    def differences(self) -> list[str]:
        """All lines."""
        return [*self.names, *self.sentences, *self.results]


def compared(old: Found, new: Found) -> Report:
    """Compare the exercises of every notebook that both commits have."""
    report = Report()
    for notebook in [key for key in old if key in new]:
        for number in {**old[notebook], **new[notebook]}:
            before, after = (found[notebook].get(number, []) for found in (old, new))
            compare(report, number, before, after)
    return report


def compare(report: Report, number: str, before: list[Any], after: list[Any]) -> None:
    """Add the differences between the mistakes of one exercise to the report."""
    names, later = ([name for name, _, _ in mistakes] for mistakes in (before, after))
    gone, added = [n for n in names if n not in later], [n for n in later if n not in names]
    report.names += [f"{number} {name}: gone" for name in gone]
    report.names += [f"{number} {name}: new" for name in added]
    if [n for n in names if n in later] != [n for n in later if n in names]:
        report.names.append(f"{number}: another order: {', '.join(later)}")
    known = {name: (sentence, outcomes) for name, sentence, outcomes in after}
    for name, sentence, outcomes in before:
        if name not in known:
            continue
        other, results = known[name]
        if other != sentence:
            report.sentences.append(f"{number} {name}: another sentence")
        report.outcomes += min(len(outcomes), len(results))
        if len(outcomes) != len(results):
            sizes = f"{len(outcomes)} cases before, {len(results)} after"
            report.results.append(f"{number} {name}: {sizes}")
        for k, (a, b) in enumerate(zip(outcomes, results, strict=False)):
            if not equal(a, b):
                report.results.append(f"{number} {name}: another result on case {k}")


def equal(a: Any, b: Any) -> bool:
    """Tell whether two outcomes are equal: text exactly, floats to a relative 1e-12."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        a, b = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
    if not isinstance(a, Tensor):
        return bool(a == b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    finite = a[a.isfinite()].double().abs()
    largest = float(finite.max()) if len(finite) else 0.0
    same = torch.isclose(a.double(), b.double(), TOLERANCE, TOLERANCE * largest, equal_nan=True)
    return bool(same.all())


def main() -> int:
    """Compare two commits and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("old", metavar="OLD_COMMIT", help="the commit to compare with")
    parser.add_argument(
        "new", metavar="NEW_COMMIT", nargs="?", default="HEAD", help="default: %(default)s"
    )
    parser.add_argument(
        "--only",
        metavar="NOTEBOOK",
        nargs="*",
        default=[],
        help="numbers of the notebooks to compare, such as 04 (default: all)",
    )
    parser.add_argument("--probe", metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe:
        torch.save(probe(args.only), args.probe)
        return 0
    old, new = (probed(commit, args.only) for commit in (args.old, args.new))
    report = compared(old, new)
    print(*report.differences, sep="\n", end="\n" * bool(report.differences))
    for notebook in sorted(set(old) ^ set(new)):
        print(f"notebook {notebook} is in one commit only and was not compared")
    print(
        f"{report.outcomes} outcomes (mistake, case) compared: "
        f"{len(report.results)} results differ, {len(report.sentences)} sentences differ, "
        f"{len(report.names)} names or orders differ"
    )
    if not report.outcomes:
        print("nothing was compared")
    return min(len(report.differences) + (not report.outcomes), 1)


if __name__ == "__main__":
    sys.exit(main())
