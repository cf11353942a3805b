"""`sdlearn evaluate`: measure caption accuracy, Fréchet distance, PSNR and more of a model."""

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
        "--against",
        metavar="FOLDER",
        help="a second model, drawn from the same captions and seeds: the difference of the two, "
        "with intervals for pairs",
    )
    add(
        "--clip",
        action="store_true",
        help="also measure the CLIP score; first trains an image encoder for the storybook's text "
        "encoder, for about a minute",
    )
    add(
        "--images",
        type=path,
        metavar="FOLDER",
        help="measure the images of this folder instead of a model, against those of --real",
    )
    add("--real", type=path, metavar="FOLDER", help="with --images: a folder of real images")
    add(
        "--features",
        choices=("inception", "judge"),
        help="with --images: whose features are compared (default: Inception's if torch-fidelity "
        "or torchvision has stored its weights on this machine, else the judge's)",
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
    if args.images is not None or args.real is not None or args.features is not None:
        check_folders_alone(args)
        from sdlearn.evaluation.own_images import evaluate_folders

        return evaluate_folders(args)
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
    for option in ("model", "against"):
        if getattr(args, option) is not None:
            check_place(getattr(args, option), f"--{option}")
    if args.out is not None:
        check_writable(args.out, ".json", "the results")

    from sdlearn.evaluation.report import evaluate  # imports torch, which takes seconds

    typed = {"guidance_scale": "--guidance", "steps": "--steps", "sampler": "--sampler"}
    with as_typed(typed):
        return evaluate(args)


def check_folders_alone(args: argparse.Namespace) -> None:
    """Check the options of a comparison of two folders of images.

    Raises:
        ValueError: If one of the folders is missing, or an option is given that only a model has.
    """
    if args.images is None or args.real is None:
        missing = "--images" if args.images is None else "--real"
        raise ValueError(f"{missing} is missing; --images and --real are given together")
    usual = argparse.ArgumentParser()
    add_arguments(usual)
    kept = {"images", "real", "features", "out"}
    for name, default in vars(usual.parse_args([])).items():
        if name not in kept and getattr(args, name) != default:
            raise ValueError(
                f"--{name} is for a model; accepted beside --images and --real: --features, --out"
            )
    if args.out is not None:
        check_writable(args.out, ".json", "the results")
