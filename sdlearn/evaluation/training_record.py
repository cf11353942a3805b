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
from sdlearn.recipes.run_folder import RECIPE
from sdlearn.utils.atomic_files import read_json
from sdlearn.utils.metrics_file import read_metrics
from sdlearn.utils.run_limits import is_number
from sdlearn.utils.validation import shown

LISTED = {"run", "part", "recipe", "settings", "steps_done", "seconds"}  # in every record
MACHINE = {"device", "threads", "torch"}
FROM_A_MODEL = ("controlnet", "inpaint", "flow", "distill")
STARTS = dict.fromkeys(FROM_A_MODEL, "the U-Net")  # if the run has no `init`
SHOWN = ("batch", "lr", "scenes")  # the settings in the table


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
    training = []
    for folder in runs:
        record = read_run(folder)
        path = folder / "metrics.jsonl"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; every run writes its metrics there")
        rows, unreadable = read_metrics(path)
        if not rows:
            raise ValueError(f"{folder} is not a run of `sdlearn train` that has done a step")
        if unreadable:
            raise ValueError(
                f"{path} is damaged: line {unreadable} is not a step's line; `sdlearn train "
                f"{record['part']} --resume --out {folder}` repairs it"
            )
        batch = record["settings"]["batch"]
        speeds = [row.get("images_per_second", 0) for row in rows]
        seconds = sum(batch / speed for speed in speeds if speed)
        done = {"run": folder.name, "steps_done": rows[-1]["step"], "seconds": round(seconds)}
        training.append({**record, **done})
    new = {record["run"] for record in training}
    return [record for record in listed_runs(model) if record["run"] not in new] + training


def read_run(folder: Path) -> dict[str, Any]:
    """Read the recipe.json of a run.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged, or names an unknown part or recipe.
    """
    if not (folder / RECIPE).is_file():
        raise FileNotFoundError(f"{folder} is not a run of `sdlearn train`: it has no {RECIPE}")
    record = read_json(folder / RECIPE)
    part = record.get("part")
    if part not in PARTS:
        raise ValueError(
            f"{folder} is not a run of `sdlearn train`: its {RECIPE} has the part {shown(part)}; "
            f"accepted: {', '.join(PARTS)}"
        )
    name, machine, settings = (record.get(key, {}) for key in ("recipe", "machine", "settings"))
    if name not in [*recipes(part)]:
        known = ", ".join(recipes(part))
        raise ValueError(f"{folder} has the unknown recipe {shown(name)}; accepted: {known}")
    if not isinstance(machine, dict) or (machine and not machine.keys() >= MACHINE):
        raise ValueError(f"{folder / RECIPE} is damaged: its machine is {shown(machine)}")
    if not isinstance(settings, dict) or not all(is_number(settings.get(each)) for each in SHOWN):
        raise ValueError(f"{folder / RECIPE} is damaged: its settings are {shown(settings)}")
    return record


def listed_runs(model: Path) -> list[dict[str, Any]]:
    """The records in a model's training.json; none if it has no such file.

    Raises:
        ValueError: If the file is damaged.
    """
    path = model / "training.json"
    listed = read_json(path).get("runs") if path.is_file() else []
    if not isinstance(listed, list) or not all(
        isinstance(record, dict) and record.keys() >= LISTED for record in listed
    ):
        raise ValueError(
            f"{path} is damaged: it does not list the records of runs; restore it, or delete it "
            "and name all runs with --runs"
        )
    return listed


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
            settings.get("init") or STARTS.get(record["part"], "random weights"),
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
    """Format the steps done, with the number planned if the run was stopped early."""
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
    """Return, for each run, the command line that repeats it."""
    return "".join(
        f"sdlearn train {record['part']} --recipe {record['recipe']} --out runs/{record['run']}"
        f"{changes(record)}\n"
        for record in training
    )


def changes(record: dict[str, Any]) -> str:
    """Return the settings in which a run differs from its recipe, as arguments of `sdlearn train`.

    A setting that did not exist when the run was made counts with its class's default value.
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
    """Return the named recipes of a part."""
    named: dict[str, Any] = import_module(f"sdlearn.recipes.{part}").RECIPES
    return named


def duration(seconds: float) -> str:
    """Format a duration in minutes, or in hours from two hours on."""
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
