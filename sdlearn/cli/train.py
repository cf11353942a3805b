"""`sdlearn train PART`: train one network of a model, or an auxiliary one.

The folder of a run holds recipe.json, metrics.jsonl, samples/, checkpoints/ and export/.
"""

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from sdlearn.recipes import PARTS
from sdlearn.recipes.recipe import SHORTCUTS
from sdlearn.utils.atomic_files import replace_folder

if TYPE_CHECKING:
    from sdlearn.recipes.recipe import Recipe
    from sdlearn.training import TrainingJob


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `sdlearn train`."""
    add = parser.add_argument
    add("part", choices=PARTS, help="the network to train")
    add("--recipe", default="storybook", help="named settings (default: %(default)s)")
    add("--out", required=True, metavar="FOLDER", help="folder of the run, such as runs/vae")
    add("--resume", action="store_true", help="continue from the last checkpoint")
    add("--steps", type=int, help="training steps, over which the learning rate decays")
    add("--minutes", type=float, help="stop after this time; continue with --resume")
    add("--init", metavar="FOLDER", help="start from the weights of a run or a published part")
    add("--data", metavar="FOLDER", help="train on your images with captions (.jsonl, .csv, .txt)")
    add("--vae", metavar="FOLDER", help="autoencoder for `train unet` (default: the shipped one)")
    add("--text", metavar="FOLDER", help="text encoder for `train unet` (default: the shipped one)")
    add("--batch", type=int, help="images in a batch")
    add("--lr", type=float, help="peak learning rate")
    add("--scenes", type=int, help="number of storybook pages to train on")
    add("--seed", type=int, help="seed of weights, batches and noise")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change another setting of the recipe; may be repeated",
    )
    add("--device", help="cuda, mps or cpu (default: the first available)")
    add("--checkpoint-steps", type=int, metavar="N", help="also write a checkpoint every N steps")


def main(args: argparse.Namespace) -> int:
    """Run one training.

    Args:
        args: From `add_arguments`.

    Returns:
        The exit code: 0, or 1 if training diverged.

    Raises:
        ValueError: If an argument is wrong.
        FileNotFoundError: If a folder or file is missing.
    """
    import torch
    from tqdm import tqdm

    from sdlearn.training import TrainingDiverged, train
    from sdlearn.utils.atomic_files import write_json
    from sdlearn.utils.checkpoint import checkpoints
    from sdlearn.utils.device import pick_device

    module = import_module(f"sdlearn.recipes.{args.part}")
    folder = Path(args.out)
    recipe = resolve_recipe(args, module, folder)
    if args.checkpoint_steps is not None and args.checkpoint_steps < 1:
        raise ValueError(f"--checkpoint-steps is {args.checkpoint_steps}; accepted: 1 or more")
    cache = folder.parent / "cache"
    device = pick_device(args.device)
    job = module.make_job(recipe, cache, device)
    if folder.exists():
        check_frozen_parts(job, folder)
    if recipe.init:
        load_initial_weights(job, Path(recipe.init))
    if not (folder / "recipe.json").exists():  # a refused request leaves no folder
        # Device and threads change the rounding, so repeating a run exactly needs them too.
        threads = torch.get_num_threads()
        machine = {"torch": torch.__version__, "device": str(device), "threads": threads}
        record = {"part": args.part, "recipe": args.recipe, "settings": vars(recipe)}
        record |= {"machine": machine, "frozen": dict(job.frozen)}
        write_json(folder / "recipe.json", record)
    with stop_signals() as stopped, tqdm(total=recipe.steps, unit="step", desc=args.part) as bar:
        loop = train(
            job, recipe.steps, folder, resume=args.resume, minutes=args.minutes,
            should_stop=stopped.is_set, checkpoint_steps=args.checkpoint_steps,
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
        print(f"stopped at step {step} of {recipe.steps}; continue with --resume")
    replace_folder(folder / "export", lambda part: module.export(job, recipe, cache, part))
    print(f"the trained part is in {folder / 'export'}")
    return 0


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
    from sdlearn.recipes.recipe import override
    from sdlearn.utils.atomic_files import read_json

    if args.recipe not in module.RECIPES:
        known = ", ".join(module.RECIPES)
        raise ValueError(f"{args.part} has no recipe {args.recipe!r}; accepted: {known}")
    changes: dict[str, object] = {
        name: value for name in SHORTCUTS if (value := getattr(args, name)) is not None
    }
    for setting in args.set:
        name, sign, value = setting.partition("=")
        if not sign:
            raise ValueError(f"--set {setting!r} has no value; accepted: --set NAME=VALUE")
        changes[name] = value
    record = folder / "recipe.json"
    if record.exists() and args.resume:
        started = read_json(record)
        if started["part"] != args.part:
            raise ValueError(f"{folder} trains {started['part']}, not {args.part}")
        recipe = override(module.RECIPES[started["recipe"]], started["settings"])
        for name, value in vars(override(recipe, changes)).items():
            if value != getattr(recipe, name):
                raise ValueError(
                    f"{folder} started with {name} {getattr(recipe, name)!r}, not {value!r}; a "
                    f"resumed run keeps its recipe (--init {folder} starts a new run from it)"
                )
        return recipe
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} is not empty; accepted: a new or empty folder, or a run with --resume"
        )
    return override(module.RECIPES[args.recipe], changes)


def check_frozen_parts(job: "TrainingJob", folder: Path) -> None:
    """Check that the frozen networks of a run are those it started with.

    Raises:
        ValueError: If the weights of one have changed.
    """
    from sdlearn.utils.atomic_files import read_json

    if not (folder / "recipe.json").exists():
        return
    started = read_json(folder / "recipe.json").get("frozen", job.frozen)
    changed = [name for name, now in job.frozen.items() if started.get(name) != now]
    if changed:
        raise ValueError(
            f"{folder} started with other weights of the {' and '.join(changed)}; restore them, or "
            f"start a new run with --init {folder}"
        )


def load_initial_weights(job: "TrainingJob", folder: Path) -> None:
    """Load the weights of another run (its EMA if it has one) or of a published part.

    The weights go into the first network of the job, and its EMA starts as a copy.

    Args:
        job: The training.
        folder: A run's folder or a published part.
    """
    from sdlearn import weights
    from sdlearn.utils.checkpoint import checkpoints, load_networks

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
    """Yield an event that Ctrl-C and SIGTERM set, so that the loop can stop between two steps.

    A second Ctrl-C interrupts at once. Outside the main thread no signal is handled.
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
