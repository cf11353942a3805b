"""`sdlearn evaluate`: measure caption accuracy, PSNR and SSIM of a model."""

import argparse

from sdlearn.cli.arguments import as_typed, number, path, whole
from sdlearn.utils.atomic_files import check_writable
from sdlearn.utils.sampling import Sampling, knobs
from sdlearn.utils.validation import check_place, check_positive_int, check_range, shown

MOST = 1_000_000  # images, which take a day or more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `sdlearn evaluate`."""
    add = parser.add_argument
    add("--model", metavar="FOLDER", help="a model's folder or hub id (default: the storybook)")
    add(
        "--n",
        type=whole,
        default=200,
        metavar="N",
        help="captions a split (default: %(default)s)",
    )
    add(
        "--seeds",
        type=whole,
        default=1,
        metavar="N",
        help="images a caption (default: %(default)s)",
    )
    add("--guidance", type=number, metavar="SCALE", help="guidance scale (default: the model's)")
    add("--steps", type=whole, metavar="N", help="sampling steps (default: the model's)")
    add("--sampler", metavar="NAME", help="sampler (default: the model's)")
    add(
        "--split",
        choices=("test", "held_out", "both"),
        default="test",
        help="test: captions that training excludes; held_out: pairs of kind and colour that it "
        "excludes (default: %(default)s)",
    )
    add("--out", type=path, metavar="FILE.json", help="write all results to this file")
    add(
        "--table",
        type=whole,
        nargs="?",
        const=0,
        metavar="N",
        help="measure accuracy for every guidance scale and number of steps, on N captions "
        "(default: as --n)",
    )
    add("--sheet", action="store_true", help="draw the first 64 images and the 16 worst")
    add(
        "--card",
        action="store_true",
        help="measure both splits and write the model card with its images into the model's "
        "folder; without it, images go into the folder of --out or into evaluation/",
    )
    add(
        "--runs",
        type=path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="with --card: training runs of the model, added to those that its card lists",
    )


def main(args: argparse.Namespace) -> int:
    """Measure a model, print the results and write the files.

    Args:
        args: From `add_arguments`.

    Returns:
        The exit code.

    Raises:
        ValueError: If an argument is wrong.
        OSError: If a file cannot be read or written.
    """
    for name in ("n", "seeds"):
        check_range(f"--{name}", check_positive_int(f"--{name}", getattr(args, name)), 1, MOST)
    if args.n * args.seeds > MOST:
        raise ValueError(
            f"--n is {args.n} and --seeds is {args.seeds}; their product must be at most {MOST}"
        )
    if args.table is not None and args.table < 0:
        raise ValueError(f"--table is {shown(args.table)}; it must be at least 1")
    for option, field in (("guidance", "guidance_scale"), ("steps", "steps"), ("sampler",) * 2):
        value = getattr(args, option)
        if value is not None:
            knobs(Sampling)[field].checked(f"--{option}", value)
    if args.model is not None:
        check_place(args.model, "--model")
    if args.out is not None:
        check_writable(args.out, ".json", "the results")

    from sdlearn.evaluation.report import evaluate  # imports torch, which takes seconds

    typed = {"guidance_scale": "--guidance", "steps": "--steps", "sampler": "--sampler"}
    with as_typed(typed):
        return evaluate(args)
