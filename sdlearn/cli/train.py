"""`sdlearn train PART`: train one network of a model, or an auxiliary one.

The folder of a run holds recipe.json, metrics.jsonl, samples/, checkpoints/ and export/. While a
training runs, it locks the file .lock there, so that no other training writes to the folder.
"""

import argparse
import errno
import os
import reprlib
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sdlearn.cli import dry_run
from sdlearn.cli.arguments import as_typed, home_path, number, whole
from sdlearn.cli.event_log import LOGS, check_log, event_log
from sdlearn.cli.processes import check_same_settings, first_process_first, joined, locked
from sdlearn.cli.stop_signals import stop_signals
from sdlearn.cli.streams import say
from sdlearn.recipes import PARTS
from sdlearn.recipes.recipe import SHORTCUTS
from sdlearn.utils.atomic_files import recover_folder, replace_folder, user_path
from sdlearn.utils.part_files import remove_abandoned, remove_leftovers
from sdlearn.utils.run_limits import check_minutes

if TYPE_CHECKING:
    import torch

    from sdlearn.recipes.recipe import Recipe
    from sdlearn.training import TrainingJob

DEFAULT = "storybook"  # the recipe
CACHE = "cache"  # a folder beside those of the runs, which share it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sdlearn train`."""
    add = parser.add_argument
    folder: dict[str, Any] = {"type": home_path, "metavar": "FOLDER"}
    add("part", choices=PARTS, help="the network to train")
    add("--recipe", help=f"named settings (default: {DEFAULT}; with --resume the run's own)")
    add("--out", **folder, help="folder of the run, such as runs/vae")
    add("--resume", action="store_true", help="continue from the last checkpoint")
    add("--steps", type=whole, help="training steps, over which the learning rate decays")
    add("--minutes", type=number, help="stop after this time; continue with --resume")
    add("--init", **folder, help="start from the weights of a run or a published part")
    add("--data", **folder, help="train on your captioned images: a folder, or shards")
    add("--vae", **folder, help="autoencoder of the latents (default: the shipped one)")
    add("--text", **folder, help="text encoder of the captions (default: the shipped one)")
    add("--model", **folder, help="model the others start from (default: the shipped one), for "
        "lora, embedding and dreambooth also a single file")  # fmt: skip
    add("--hint", help="for `train controlnet`: edges, depth, pose, segmentation or all")
    add("--batch", type=whole, help="images in a batch")
    add("--lr", type=number, help="peak learning rate")
    add("--scenes", type=whole, help="number of storybook pages to train on")
    add("--accumulate", type=whole, metavar="N", help="parts of a batch, for less memory")
    add("--shard", action="store_const", const=True, help="share the weights out among processes")
    add("--precision", help="float32, bf16 or fp16 (default: bf16 on CUDA, else float32)")
    add("--seed", type=whole, help="seed of weights, batches and noise")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change another setting of the recipe; may be repeated",
    )
    add("--log", metavar="NAME", help=f"write the metrics also for: {', '.join(LOGS)}")
    add("--device", help="cuda, mps or cpu (default: the first available)")
    add(
        "--checkpoint-steps",
        type=whole,
        metavar="N",
        help="also write a checkpoint every N steps",
    )
    dry_run.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """Run one training.

    Args:
        args: From `add_arguments`.

    Returns:
        The exit code: 0, 1 if training diverged, or 130 if it was stopped before its first step.

    Raises:
        ValueError: If an argument is wrong, or a file of the run is damaged.
        OSError: If a folder or file is missing, cannot be written, or is used by another training.
    """
    module = import_module(f"sdlearn.recipes.{args.part}")
    check_options(args)
    typed = {name: f"--{name}" for name in SHORTCUTS if getattr(args, name) is not None}
    if args.dry_run:
        with as_typed(typed):
            return dry_run.dry_run(args, module, changed_settings(args), DEFAULT)
    folder = run_folder(args.out)
    try:
        with as_typed(typed | {"device": "--device"}), joined(args.device) as device:
            with first_process_first():
                check_request(args, module, folder)
            with locked(folder) as check_held:  # a refused request leaves no folder
                return run(args, module, folder, device, check_held)
    except OSError as error:
        if error.errno in (None, errno.ENOMEM):  # it is a sentence, or not about a file
            raise
        place = error.filename or folder
        raise type(error)(f"{place} cannot be read or written: {error.strerror}") from error


def run_folder(out: str) -> Path:
    """Return the folder of a run, in whose parent the cache is.

    Raises:
        ValueError: If it is the cache.
    """
    folder = user_path(out)
    if folder.name in ("", ".."):  # the cache is beside the folder, so its parent must be known
        folder = Path(os.path.abspath(folder))
    cache = folder.parent / CACHE
    if folder == cache or (cache.is_dir() and folder.is_dir() and cache.samefile(folder)):
        raise ValueError(f"--out is {out}, where runs keep their images; give another name")
    return folder


def check_options(args: argparse.Namespace) -> None:
    """Check the options that are not settings of the recipe.

    Raises:
        ValueError: If one is out of range.
    """
    dry_run.check_options(args)
    if args.out is None and not args.dry_run:
        raise ValueError("--out is missing; accepted: the folder of the run, such as runs/vae")
    if args.out == "":
        raise ValueError("--out is empty; accepted: the folder of the run")
    for name in ("init", "data", "vae", "text", "model"):
        if getattr(args, name) == "":  # such as a variable of the shell that is not set
            raise ValueError(f"--{name} is empty; accepted: a folder, or leave it out")
    if args.checkpoint_steps is not None and args.checkpoint_steps < 1:
        raise ValueError(f"--checkpoint-steps is {args.checkpoint_steps}; accepted: 1 or more")
    if args.minutes is not None:
        check_minutes("--minutes", args.minutes)
    check_log(args.log)


def check_request(args: argparse.Namespace, module: ModuleType, folder: Path) -> None:
    """Check what is asked for before anything is written.

    Raises:
        ValueError: If the recipe, a setting or the folder is wrong.
        OSError: If another training uses the folder.
    """
    from sdlearn.distributed import is_first_process, process_count
    from sdlearn.recipes.ranges import check_multiples
    from sdlearn.utils.run_lock import check_unlocked

    if is_first_process():
        check_unlocked(folder)
    recipe = resolve_recipe(args, module, folder)
    count, parts = process_count(), getattr(recipe, "accumulate", 1)
    why = "the number of processes" if parts == 1 else f"for {count} processes of {parts} parts"
    check_multiples("batch", recipe.batch, count * parts, why)


def run(
    args: argparse.Namespace,
    module: ModuleType,
    folder: Path,
    device: "torch.device",
    check_held: Callable[[], None],
) -> int:
    """Train in a folder that this process has locked; the rest is as for `main`."""
    from tqdm import tqdm

    from sdlearn.distributed import is_first_process
    from sdlearn.sharding import consolidated
    from sdlearn.training import TrainingDiverged, train
    from sdlearn.utils.checkpoint import checkpoints

    first = is_first_process()
    with first_process_first():  # again: another training may have started in between
        recipe = resolve_recipe(args, module, folder)
    check_same_settings(args.part, recipe)
    with first_process_first():
        job = prepare(args, module, folder, recipe, device)

    def should_stop() -> bool:
        check_held()
        return stopped.is_set()

    progress = tqdm(total=recipe.steps, unit="step", desc=args.part, disable=not first)
    events = event_log(args.log if first else None, folder)
    with stop_signals() as stopped, progress as bar, events as write_events:
        loop = train(
            job, recipe.steps, folder, resume=args.resume, minutes=args.minutes,
            should_stop=should_stop, checkpoint_steps=args.checkpoint_steps,
        )  # fmt: skip
        step = 0
        try:
            for metrics in loop:
                write_events(metrics)
                bar.initial = bar.initial if step else int(metrics["step"]) - 1
                bar.n = step = int(metrics["step"])
                bar.set_postfix(
                    {"loss": f"{metrics['loss']:.4f}", "images/s": metrics["images_per_second"]}
                )
        except TrainingDiverged as error:
            if not first:
                return 1
            good = checkpoints(folder)
            advice = f"the last good state is {good[-1]}: --init {folder} with" if good else "try"
            print(f"\nsdlearn: stopped at {error}; {advice} a smaller --lr", file=sys.stderr)
            return 1
    networks = {
        name: consolidated(job.networks[name], job.skeletons[name]) for name in job.skeletons
    }
    if not first:
        return 0
    if not checkpoints(folder):
        print("sdlearn: stopped before the first step; nothing was exported", file=sys.stderr)
        return 130
    if 0 < step < recipe.steps:
        say(f"stopped at step {step} of {recipe.steps}; continue with --resume")
    cache = folder.parent / CACHE
    finished = replace(job, networks=job.networks | networks)
    replace_folder(folder / "export", lambda part: module.export(finished, recipe, cache, part))
    say(f"the trained part is in {folder / 'export'}")
    return 0


def prepare(
    args: argparse.Namespace,
    module: ModuleType,
    folder: Path,
    recipe: "Recipe",
    device: "torch.device",
) -> "TrainingJob":
    """Make the job of a training, and write or check what its folder says about it."""
    from sdlearn.distributed import is_first_process
    from sdlearn.recipes.run_folder import begin
    from sdlearn.utils.checkpoint import checkpoints

    cache = folder.parent / CACHE
    if is_first_process():
        remove_leftovers(folder)
        remove_abandoned(cache)
        recover_folder(folder / "export")
    goes_on = args.resume and checkpoints(folder)
    job: TrainingJob = module.make_job(recipe, cache, device, folder if goes_on else None)
    begin(folder, args.part, args.recipe or DEFAULT, recipe, job, device)
    if args.resume and not goes_on and is_first_process():
        say(f"{folder} has no checkpoint yet; the run starts with its first step")
    return job


def resolve_recipe(args: argparse.Namespace, module: ModuleType, folder: Path) -> "Recipe":
    """Return the recipe of a run: a named one with changes, or for --resume the run's own.

    Args:
        args: The command's arguments.
        module: The module of the part, with its RECIPES.
        folder: The run's folder.

    Raises:
        ValueError: If the recipe or a setting is unknown, the folder holds something else, or the
            arguments would change a resumed run.
    """
    from sdlearn.recipes.recipe import named, override
    from sdlearn.recipes.run_folder import check_unused, may_move, started_recipe

    name = args.recipe or DEFAULT
    chosen: Recipe = named(module.RECIPES, name, args.part)
    changes = changed_settings(args)
    if not args.resume:
        check_unused(folder)
    started = started_recipe(folder, args.part, module.RECIPES)
    if started is None:
        return override(chosen, changes)
    began, recipe = started
    if args.recipe and args.recipe != began:
        raise ValueError(
            f"{folder} started with the recipe {began!r}, not {name!r}; a resumed run keeps its "
            "recipe"
        )
    wanted = override(recipe, changes)
    for name, value in vars(wanted).items():
        if value != getattr(recipe, name) and name not in may_move(folder):
            raise ValueError(
                f"{folder} started with {name} {getattr(recipe, name)!r}, not "
                f"{reprlib.repr(value)}; a resumed run keeps its recipe (--init {folder} starts a "
                "new run from it)"
            )
    return wanted


def changed_settings(args: argparse.Namespace) -> dict[str, object]:
    """Return the settings that the arguments change, by name.

    Raises:
        ValueError: If a setting has no value, or more than one.
    """
    changes: dict[str, object] = {
        name: value for name in SHORTCUTS if (value := getattr(args, name)) is not None
    }
    for setting in args.set:
        name, sign, value = setting.partition("=")
        if not sign:
            raise ValueError(
                f"--set {reprlib.repr(setting)} has no value; accepted: --set NAME=VALUE"
            )
        if name in changes:
            raise ValueError(f"{reprlib.repr(name)} is given twice; accepted: one value")
        changes[name] = value
    return changes
