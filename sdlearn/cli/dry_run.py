"""`sdlearn train PART --dry-run`: what a training run takes, before anything is trained or read.

The networks are built on torch's meta device. The formulas are in `course.training_budget`.
"""

import argparse
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from types import ModuleType
from typing import TYPE_CHECKING

from sdlearn.cli.arguments import number, whole
from sdlearn.cli.streams import say

if TYPE_CHECKING:
    from sdlearn.course.meta_training import MetaTraining
    from sdlearn.recipes.recipe import Recipe

MOST_DEVICES = 1_000_000
# Options that mean nothing to the training itself, with what each accepts.
AMOUNTS = {
    "device_memory": "a number of GB above 0",
    "throughput": "a number of images a second, above 0, for one device",
    "price": "a number of dollars, 0 or more, for one hour of one device",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a dry run to those of `sdlearn train`."""
    add = parser.add_argument_group("planning a training run").add_argument
    add("--dry-run", action="store_true", help="train nothing; print what the training would take")
    add("--devices", type=whole, metavar="N", help="number of devices (default: 1)")
    add("--device-memory", type=number, metavar="GB", help="memory of each device")
    add("--throughput", type=number, metavar="X", help="images a second that each device trains on")
    add("--price", type=number, metavar="X", help="dollars per hour of one device")


def check_options(args: argparse.Namespace) -> None:
    """Check the options of a dry run.

    Raises:
        ValueError: If one is out of range, or is given without --dry-run.
    """
    given = {name: getattr(args, name) for name in ("devices", *AMOUNTS)}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not args.dry_run:
        raise ValueError(f"{option(next(iter(given)))} needs --dry-run; add that, or leave it out")
    if args.dry_run and args.resume:
        raise ValueError("--resume cannot be used with --dry-run, which plans a new run")
    if "devices" in given and not 1 <= given["devices"] <= MOST_DEVICES:
        raise ValueError(f"--devices is {args.devices}; accepted: 1 … {MOST_DEVICES:,}")
    for name, accepted in AMOUNTS.items():
        value = given.get(name, 1.0)
        if not math.isfinite(value) or value < 0 or (value == 0 and name != "price"):
            raise ValueError(f"{option(name)} is {value}; accepted: {accepted}")
    if "price" in given and "throughput" not in given:
        raise ValueError("--price needs --throughput: the cost is hours times price")


def option(name: str) -> str:
    """The command-line option for an argument."""
    return "--" + name.replace("_", "-")


def dry_run(
    args: argparse.Namespace, module: ModuleType, changes: Mapping[str, object], default: str
) -> int:
    """Print what a training run takes.

    Args:
        args: The command's arguments.
        module: The module of the part, with its RECIPES.
        changes: The settings that the arguments change.
        default: Name of the recipe if none is given.

    Returns:
        The exit code, 0.

    Raises:
        ValueError: If the recipe or a setting is wrong.
        FileNotFoundError: If a part that the recipe names is missing.
    """
    from sdlearn.cli.personal_plan import personal_training
    from sdlearn.course.meta_training import meta_training
    from sdlearn.recipes.personal_recipe import PersonalRecipe
    from sdlearn.recipes.ranges import check_multiples
    from sdlearn.recipes.recipe import named, override

    name, devices = args.recipe or default, args.devices or 1
    recipe = override(named(module.RECIPES, name, args.part), dict(changes))
    parts = getattr(recipe, "accumulate", 1)
    check_multiples(
        "batch", recipe.batch, devices * parts, f"for {devices} devices x {parts} parts"
    )
    if isinstance(recipe, PersonalRecipe):
        training = personal_training(recipe)
    else:
        training = meta_training(recipe, Path(args.out or "runs/new").parent / "cache")
    say(f"{args.part}, recipe {name}: {recipe.size} x {recipe.size} pixels")
    say(f"{recipe.steps:,} steps of {recipe.batch:,} images")
    for title, lines in (
        ("parameters", parameter_lines(training)),
        (f"memory per device, GB ({devices:,} in all)", memory_lines(args, recipe, training)),
        ("compute", computing_lines(args, recipe, training)),
    ):
        say(f"\n{title}")
        for line in lines:
            say(f"  {line}")
    return 0


def parameter_lines(training: "MetaTraining") -> Iterator[str]:
    """The parameters of each network."""
    from sdlearn.course.meta_training import count

    for name, network in training.trained.items():
        yield f"{name:19}{count(network, trained=True):>13,}  trained"
    for name, network in training.frozen.items():
        yield f"{name:19}{count(network):>13,}  frozen"


def memory_lines(
    args: argparse.Namespace, recipe: "Recipe", training: "MetaTraining"
) -> Iterator[str]:
    """What each device keeps: with the whole state, and with its share of it."""
    from sdlearn.course.meta_training import count
    from sdlearn.course.training_budget import state_memory

    devices = args.devices or 1
    rows = recipe.batch // (devices * getattr(recipe, "accumulate", 1))
    one, two = training.activations(1), training.activations(2)
    activations = one + (rows - 1) * (two - one)
    whole, share = (
        state_memory(
            training.parameters,
            count(*(training.trained[name] for name in training.averaged)),
            training.optimizer_values,
            count(*training.frozen.values()),
            shards,
        )
        for shards in (1, devices)
    )
    sums = [each.total + activations for each in (whole, share)]
    yield f"{'':19}{'replicated':>11}{'sharded':>11}"
    for name in ("weights", "gradients", "optimizer", "ema", "frozen"):
        label = {"ema": "EMA", "frozen": "frozen networks"}.get(name, name)
        yield f"{label:19}" + "".join(f"{getattr(x, name) / 1e9:11.3f}" for x in (whole, share))
    yield f"{'activations':19}" + f"{activations / 1e9:11.3f}" * 2
    yield f"{'total (peak)':19}" + "".join(f"{x / 1e9:11.3f}" for x in sums)
    if args.device_memory is not None:
        fits = ["fits" if x <= args.device_memory * 1e9 else "too large" for x in sums]
        yield f"{f'in {args.device_memory:g} GB':19}" + "".join(f"{x:>11}" for x in fits)
    again = getattr(recipe, "activation_checkpointing", False)
    what = ", with those of one block that is computed again" if again else ""
    yield from note(
        f"activations in float32{what}: "
        f"{(two - one) / 1e9:.3f} GB an image x {rows:,} at a time; about half in mixed precision"
    )
    yield from note(
        "not counted: copies of weights in half precision, temporary memory of operations, weights "
        "gathered from the shards, memory reserved by the allocator, latents kept on the device"
    )


def computing_lines(
    args: argparse.Namespace, recipe: "Recipe", training: "MetaTraining"
) -> Iterator[str]:
    """Images, operations, hours and cost."""
    from sdlearn.course.training_budget import days, dollars, gpu_hours, training_flops

    checkpointing = getattr(recipe, "activation_checkpointing", False)
    devices, images = args.devices or 1, recipe.steps * recipe.batch
    forward = training.flops()
    step = training_flops(forward, checkpointing)
    yield f"{'images':19}{images:>14,}"
    yield f"{'GFLOPs per image':19}{step / 1e9:>14,.2f}"
    yield from note(f"as much as {step // forward} forward passes")
    yield f"{'GFLOPs in all':19}{step * images / 1e9:>14.3e}"
    if args.throughput is None:
        yield from note("hours: give --throughput, the images a second that a device trains on")
        return
    hours = gpu_hours(images, args.throughput)
    yield f"{'device hours':19}{hours:>14,.1f}"
    yield from note(f"at {args.throughput:g} images a second on each device")
    yield f"{'days':19}{days(hours, devices):>14,.2f}"
    yield from note(f"with {devices:,} devices")
    yield f"{'TFLOP/s per device':19}{step * args.throughput / 1e12:>14,.2f}"
    if args.price is not None:
        yield f"{'dollars':19}{dollars(hours, args.price):>14,.2f}"
        yield from note(f"at {args.price:g} dollars an hour")


def note(text: str) -> list[str]:
    """Indented lines of a width that a phone doesn't break."""
    return wrap(text, 41, initial_indent="  ", subsequent_indent="  ")
