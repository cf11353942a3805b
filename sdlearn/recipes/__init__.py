"""`sdlearn train PART`: one short file per trained part, one command for all of them.

A part is a module here with `RECIPES`, a dictionary of named recipes; `make_job(recipe, cache,
device)`, which returns the `Job` to train; and `export(job, recipe, cache, folder)`, which writes
the result as it is shipped. A run folder documents itself: recipe.json, metrics.jsonl, sheets/,
checkpoints/ and export/.
"""

import argparse
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdlearn.recipes.recipe import Recipe
    from sdlearn.training import Job

PARTS = ("vae", "clip", "unet", "perceptual", "judge")
SHORTCUTS = ("steps", "batch", "lr", "seed", "scenes", "init", "data", "vae", "text")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `sdlearn train`."""
    parser.add_argument("part", choices=PARTS, help="what to train")
    parser.add_argument("--recipe", default="storybook", help="named settings (%(default)s)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the run, e.g. runs/vae")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--steps", type=int, help="length, and horizon of the learning rate")
    parser.add_argument("--minutes", type=float, help="stop after this time; --resume goes on")
    parser.add_argument("--init", metavar="FOLDER", help="start from the weights of a run or part")
    parser.add_argument("--data", metavar="FOLDER", help="your captioned pictures (metadata.jsonl)")
    parser.add_argument("--vae", metavar="FOLDER", help="autoencoder of train unet (the shipped)")
    parser.add_argument("--text", metavar="FOLDER", help="text encoder of train unet (the shipped)")
    parser.add_argument("--batch", type=int, help="pictures in a step")
    parser.add_argument("--lr", type=float, help="highest learning rate")
    parser.add_argument("--scenes", type=int, help="storybook pages to train on")
    parser.add_argument("--seed", type=int, help="of weights, batches and noise")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="another setting; repeat"
    )
    parser.add_argument("--device", help="cuda, mps or cpu (the first there is)")
    parser.add_argument(
        "--checkpoint-steps", type=int, metavar="N", help="also a checkpoint every N steps"
    )


def main(args: argparse.Namespace) -> int:
    """Train what the arguments say; returns the exit code.

    Raises ValueError or FileNotFoundError with one sentence for what the user can mend.
    """
    import torch
    from tqdm import tqdm

    from sdlearn.checkpoints import checkpoints
    from sdlearn.files import write_json
    from sdlearn.training import TrainingDiverged, pick_device, train

    module = import_module(f"sdlearn.recipes.{args.part}")
    folder = Path(args.out)
    recipe = settle(args, module, folder)
    if args.checkpoint_steps is not None and args.checkpoint_steps < 1:
        raise ValueError(f"--checkpoint-steps is {args.checkpoint_steps}; accepted: 1 or more")
    cache = folder.parent / "cache"
    device = pick_device(args.device)
    job = module.make_job(recipe, cache, device)
    if folder.exists():
        same_frozen_parts(job, folder)
    if recipe.init:
        start_from(job, Path(recipe.init))
    if not (folder / "recipe.json").exists():  # a request that could not be met leaves no trace
        # Device and threads change the rounding, so they belong to what a run can be repeated from.
        threads = torch.get_num_threads()
        machine = {"torch": torch.__version__, "device": str(device), "threads": threads}
        record = {"part": args.part, "recipe": args.recipe, "settings": vars(recipe)}
        record |= {"machine": machine, "frozen": dict(job.frozen)}
        write_json(folder / "recipe.json", record)
    with stop_signals() as stopped, tqdm(total=recipe.steps, unit="step", desc=args.part) as bar:
        loop = train(
            job, recipe.steps, folder, resume=args.resume, minutes=args.minutes,
            stop=stopped.is_set, checkpoint_steps=args.checkpoint_steps,
        )  # fmt: skip
        step = 0
        try:
            for metrics in loop:
                bar.initial = bar.initial if step else int(metrics["step"]) - 1
                bar.n = step = int(metrics["step"])
                bar.set_postfix(
                    {"loss": f"{metrics['loss']:.4f}", "images/s": metrics["images_per_second"]}
                )
        except TrainingDiverged as error:
            good = checkpoints(folder)
            advice = f"the last good state is {good[-1]}: --init {folder} with" if good else "try"
            print(f"\nsdlearn: stopped at {error}; {advice} a smaller --lr", file=sys.stderr)
            return 1
    if 0 < step < recipe.steps:
        print(f"stopped at step {step} of {recipe.steps}; --resume goes on from there")
    replace_folder(folder / "export", lambda part: module.export(job, recipe, cache, part))
    print(f"the trained part is in {folder / 'export'}")
    return 0


def settle(args: argparse.Namespace, module: ModuleType, folder: Path) -> "Recipe":
    """The recipe of this run: a named one with the changes asked for, or for --resume the one that
    the run began with.

    Raises ValueError when the folder holds something else, or a resumed run would change.
    """
    from sdlearn.files import read_json
    from sdlearn.recipes.recipe import override

    if args.recipe not in module.RECIPES:
        known = ", ".join(module.RECIPES)
        raise ValueError(f"no recipe {args.recipe!r} for {args.part}; accepted: {known}")
    asked: dict[str, object] = {
        name: value for name in SHORTCUTS if (value := getattr(args, name)) is not None
    }
    for setting in args.set:
        name, sign, value = setting.partition("=")
        if not sign:
            raise ValueError(f"--set {setting!r} has no value; accepted: --set NAME=VALUE")
        asked[name] = value
    record = folder / "recipe.json"
    if record.exists() and args.resume:
        began = read_json(record)
        if began["part"] != args.part:
            raise ValueError(f"{folder} trains {began['part']}, not {args.part}")
        recipe = override(module.RECIPES[began["recipe"]], began["settings"])
        for name, value in vars(override(recipe, asked)).items():
            if value != getattr(recipe, name):
                raise ValueError(
                    f"{folder} began with {name} {getattr(recipe, name)!r}, not {value!r}; a "
                    f"resumed run keeps its recipe (--init {folder} starts a new run from it)"
                )
        return recipe
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} is not empty; accepted: a new folder, or a run to go on with by --resume"
        )
    return override(module.RECIPES[args.recipe], asked)


def same_frozen_parts(job: "Job", folder: Path) -> None:
    """Raise ValueError where the weights that a run builds on are not those it began with."""
    from sdlearn.files import read_json

    if not (folder / "recipe.json").exists():
        return
    began = read_json(folder / "recipe.json").get("frozen", job.frozen)
    changed = [name for name, now in job.frozen.items() if began.get(name) != now]
    if changed:
        raise ValueError(
            f"{folder} began with other weights of the {' and '.join(changed)}; put those back, or "
            f"start a new run with --init {folder}"
        )


def start_from(job: "Job", folder: Path) -> None:
    """Begin with the weights of another run (its averages where it has them) or a published part.

    The first network of a job is the one that matters; its average starts as a copy.
    """
    from sdlearn import weights
    from sdlearn.checkpoints import checkpoints, load_networks

    main_name, network = next(iter(job.networks.items()))
    others = {name: net for name, net in job.networks.items() if name not in (main_name, "ema")}
    if checkpoints(folder):
        load_networks(folder, others)
        if not load_networks(folder, {"ema": network}):
            load_networks(folder, {main_name: network})
    else:
        weights.load(network, folder)
    if "ema" in job.networks:
        job.networks["ema"].load_state_dict(network.state_dict())


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; the loop then stops between two steps.

    A second Ctrl-C interrupts at once. Outside the main thread signals are left alone.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def handle(number: int, frame: object) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a folder under another name, then put it in the place of the old one."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write(part)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
