"""How good is a model? The judge, caption accuracy, PSNR and SSIM; `sdlearn evaluate`.

    from sdlearn.evaluation import load_judge, matches, questions, caption_accuracy, rates

    judge = load_judge()
    outcomes = caption_accuracy(sd, judge, questions("test", 200))
    rates(outcomes)["right"]          # kind, colour and side of the things: share and interval

judge.py finds things on a page, matching.py holds them against a scene, accuracy.py counts over
many captions, reader.py asks what the text encoder knows, pixels.py compares picture with picture;
report.py is the command, with tables.py, drawings.py and card.py, which writes the model card. All
are imported when first used.
"""

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

from sdlearn.files import check_writable

_HOME = {
    "Detection": "judge",
    "Judge": "judge",
    "Reading": "judge",
    "load_judge": "judge",
    "Match": "matching",
    "Verdict": "matching",
    "matches": "matching",
    "psnr": "pixels",
    "ssim": "pixels",
    "Asked": "accuracy",
    "Outcome": "accuracy",
    "Rate": "accuracy",
    "caption_accuracy": "accuracy",
    "interval": "accuracy",
    "questions": "accuracy",
    "rates": "accuracy",
    "render_accuracy": "accuracy",
    "vae_report": "accuracy",
    "contact_sheet": "drawings",
}

__all__ = [*_HOME, "add_arguments", "main"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module 'sdlearn.evaluation' has no attribute {name!r}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sdlearn evaluate`."""
    add = parser.add_argument
    add("--model", metavar="FOLDER", help="a model's folder or hub id (default: the storybook)")
    add("--n", type=int, default=200, metavar="N", help="captions of each split (%(default)s)")
    add("--seeds", type=int, default=1, metavar="N", help="pictures of each caption (%(default)s)")
    add("--guidance", type=float, metavar="SCALE", help="guidance scale (default: the model's)")
    add("--steps", type=int, metavar="N", help="denoising steps (default: the model's)")
    add("--sampler", metavar="NAME", help="sampler (default: the model's)")
    add(
        "--split",
        choices=("test", "held_out", "both"),
        default="test",
        help="captions, or pairs of kind and colour, that training never showed (%(default)s)",
    )
    add("--out", type=Path, metavar="FILE.json", help="write every figure there")
    add(
        "--table",
        type=int,
        nargs="?",
        const=0,
        metavar="N",
        help="accuracy for every guidance and number of steps, of N captions (default: as --n)",
    )
    add("--sheet", action="store_true", help="draw 64 unchosen pictures, and the 16 worst")
    add(
        "--card",
        action="store_true",
        help="figures of both splits and sheets, and the table if asked for, written into the "
        "model's folder as its card; else drawings go beside --out or into evaluation/",
    )
    add(
        "--runs",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="with --card: runs of the model's making, added to those its card lists",
    )


def main(args: argparse.Namespace) -> int:
    """Measure, print, write; raises ValueError or OSError in one sentence for bad input."""
    for name in ("n", "seeds"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}; it must be at least 1")
    if args.table is not None and args.table < 0:
        raise ValueError(f"--table is {args.table}; it must be at least 1")
    if args.out is not None:
        check_writable(args.out, ".json", "the figures")

    from sdlearn.evaluation.report import evaluate  # imports torch, which takes seconds

    return evaluate(args)
