"""What made a model's weights: the record of its runs, and the commands that repeat them."""

import json
from collections.abc import Sequence
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from sdlearn.evaluation.tables import markdown
from sdlearn.files import read_json
from sdlearn.recipes import SHORTCUTS


def collect(runs: Sequence[Path], model: Path) -> list[dict[str, Any]]:
    """What the folders of some runs say of themselves: recipe, machine, steps done, seconds, and
    the "note" in their recipe.json, if somebody wrote one. They follow the runs that the model's
    training.json already lists, whose folders may be gone, and replace those of the same name.

    Raises FileNotFoundError or ValueError for a folder that is not a run of a recipe known here.
    """
    training = []
    for folder in runs:
        record = read_json(folder / "recipe.json")
        path = folder / "metrics.jsonl"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; every run keeps its metrics there")
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not rows or "part" not in record:
            raise ValueError(f"{folder} is not a run of `sdlearn train` that has done a step")
        if record["recipe"] not in recipes(record["part"]):
            raise ValueError(f"{folder} was made by a recipe {record['recipe']!r}, unknown here")
        batch = record["settings"]["batch"]
        seconds = sum(batch / row["images_per_second"] for row in rows if row["images_per_second"])
        done = {"run": folder.name, "steps_done": rows[-1]["step"], "seconds": round(seconds)}
        training.append({**record, **done})
    path = model / "training.json"
    listed = read_json(path)["runs"] if path.is_file() else []
    return [run for run in listed if run["run"] not in {r["run"] for r in training}] + training


def training_section(training: Sequence[dict[str, Any]]) -> str:
    """The runs as a table, their notes, and the time they took."""
    if not training:
        return ""
    rows = []
    for record in training:
        settings = record["settings"]
        rows.append([
            record["run"],
            record["part"],
            settings.get("init") or "random weights",
            steps(record),
            str(settings["batch"]),
            f"{settings['lr']:g}",
            f"{settings['scenes']:,}",
            duration(record["seconds"]),
            machine(record.get("machine", {})),
        ])  # fmt: skip
    head = ["run", "part", "from", "steps", "batch", "learning rate", "scenes", "time", "machine"]
    notes = "".join(f"{r['run']}: {r['note']}\n\n" for r in training if r.get("note"))
    spent = {"processors": 0.0, "accelerators": 0.0}
    for record in training:
        known = record.get("machine", {"device": "cpu"})  # the first runs kept none
        spent["processors" if known["device"] == "cpu" else "accelerators"] += record["seconds"]
    sums = " and ".join(f"{duration(s) if s else 'none'} on {where}" for where, s in spent.items())
    return f"""\
## Training

{markdown(head, rows)}
{notes}Every setting is in `training.json`. Times are those of the training loop alone, together
{sums}.
"""


def steps(record: dict[str, Any]) -> str:
    """The steps that were done, and of how many, where a run was stopped before its horizon."""
    done, horizon = record["steps_done"], record["settings"].get("steps", record["steps_done"])
    return f"{done:,}" if done == horizon else f"{done:,} of {horizon:,}"


def machine(record: dict[str, Any]) -> str:
    """What a run was computed on."""
    if not record:
        return "not recorded"
    n = record["threads"]
    threads = f", {n} thread{'s' * (n > 1)}" if record["device"] == "cpu" else ""
    return f"{record['device']}{threads}, torch {record['torch']}"


def commands(training: Sequence[dict[str, Any]]) -> str:
    """The runs again, a command line each."""
    return "".join(
        f"sdlearn train {record['part']} --recipe {record['recipe']} --out runs/{record['run']}"
        f"{changes(record)}\n"
        for record in training
    )


def changes(record: dict[str, Any]) -> str:
    """The settings in which a run differs from its recipe, as arguments of `sdlearn train`.

    A setting that did not exist yet when the run was made had the effect of its class's default.
    """
    recipe = recipes(record["part"])[record["recipe"]]
    before = {field.name: field.default for field in fields(recipe) if field.default is not MISSING}
    known, before = json.loads(json.dumps([vars(recipe), before]))  # tuples become lists
    text = ""
    for name, value in (before | record["settings"]).items():
        if known.get(name, value) != value:
            option = f"--{name} {value}" if name in SHORTCUTS else f"--set '{name}={value}'"
            text += f" {option}"
    return text


def recipes(part: str) -> dict[str, Any]:
    """The named recipes of a part."""
    named: dict[str, Any] = import_module(f"sdlearn.recipes.{part}").RECIPES
    return named


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
