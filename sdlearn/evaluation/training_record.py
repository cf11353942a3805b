"""The training runs of a model: their records, a table, and the commands that repeat them."""

import json
from collections.abc import Sequence
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from sdlearn.evaluation.tables import markdown
from sdlearn.recipes import PARTS
from sdlearn.recipes.recipe import SHORTCUTS
from sdlearn.utils.atomic_files import read_json
from sdlearn.utils.validation import shown


def collect(runs: Sequence[Path], model: Path) -> list[dict[str, Any]]:
    """Collect the records of training runs.

    A record has the recipe, the machine, the steps done, the seconds, and the "note" of the run's
    recipe.json, if there is one. New records are appended to those in the model's training.json,
    whose folders may no longer exist, and replace those of the same name.

    Args:
        runs: Folders of runs.
        model: The model's folder.

    Raises:
        FileNotFoundError: If a file of a run is missing.
        ValueError: If a folder is not a run, or its recipe is unknown.
    """
    training = [run_record(folder) for folder in runs]
    path = model / "training.json"
    listed = read_json(path)["runs"] if path.is_file() else []
    return [run for run in listed if run["run"] not in {r["run"] for r in training}] + training


def run_record(folder: Path) -> dict[str, Any]:
    """The record of one run, see `collect`."""
    missing = [name for name in ("recipe.json", "metrics.jsonl") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} is not a run of `sdlearn train`: it has no {missing[0]}")
    record = read_json(folder / "recipe.json")
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        known = recipes(record["part"])
        batch = record["settings"]["batch"]
        seconds = sum(batch / row["images_per_second"] for row in rows if row["images_per_second"])
        done = {"run": folder.name, "steps_done": rows[-1]["step"], "seconds": round(seconds)}
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder} is not a run of `sdlearn train` that has done a step, or its files are "
            "damaged"
        ) from error
    if record["recipe"] not in known:
        raise ValueError(
            f"{folder} has the unknown recipe {shown(record['recipe'])}; accepted: "
            f"{', '.join(known)}"
        )
    return {**record, **done}


def training_section(training: Sequence[dict[str, Any]]) -> str:
    """Format the runs as a table, with their notes and total times; "" for no runs."""
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
    spent = {"CPUs": 0.0, "accelerators": 0.0}
    for record in training:
        known = record.get("machine", {"device": "cpu"})  # the first runs did not record it
        spent["CPUs" if known["device"] == "cpu" else "accelerators"] += record["seconds"]
    sums = " and ".join(f"{duration(s) if s else 'none'} on {where}" for where, s in spent.items())
    return f"""\
## Training

{markdown(head, rows)}
{notes}Every setting is in `training.json`. Times are those of the training loop alone, together
{sums}.
"""


def steps(record: dict[str, Any]) -> str:
    """Format the steps done, and of how many if the run was stopped early."""
    done, horizon = record["steps_done"], record["settings"].get("steps", record["steps_done"])
    return f"{done:,}" if done == horizon else f"{done:,} of {horizon:,}"


def machine(record: dict[str, Any]) -> str:
    """Format the machine of a run."""
    if not record:
        return "not recorded"
    n = record["threads"]
    threads = f", {n} thread{'s' * (n > 1)}" if record["device"] == "cpu" else ""
    return f"{record['device']}{threads}, torch {record['torch']}"


def commands(training: Sequence[dict[str, Any]]) -> str:
    """Return one command line for each run that repeats it."""
    return "".join(
        f"sdlearn train {record['part']} --recipe {record['recipe']} --out runs/{record['run']}"
        f"{changes(record)}\n"
        for record in training
    )


def changes(record: dict[str, Any]) -> str:
    """Return the settings in which a run differs from its recipe, as arguments of `sdlearn train`.

    A setting that did not exist when the run was made has the class's default value.
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
    """Return the named recipes of a part. Raises ValueError for something else."""
    if part not in PARTS:
        raise ValueError(f"part is {shown(part)}; accepted: {', '.join(PARTS)}")
    named: dict[str, Any] = import_module(f"sdlearn.recipes.{part}").RECIPES
    return named


def duration(seconds: float) -> str:
    """Format a duration in minutes, or in hours from two hours on."""
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
