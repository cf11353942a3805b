"""`sdlearn generate`: images of a prompt, as PNG files that hold how they were made."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from sdlearn.utils import sampling
from sdlearn.utils.atomic_files import check_writable

DEFAULT_OUT = Path("picture.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sdlearn generate`; what is left out is the model's own choice."""
    add = parser.add_argument
    add("prompt", help='what to draw, such as "a red cat on the sand at night"')
    add("--negative", metavar="PROMPT", help="what to lead away from")
    for name, knob in sampling.knobs(sampling.Sampling).items():
        add(
            option_name(name, knob),
            dest=name,
            type=knob.kind,
            nargs=None if knob.size == 1 else knob.size,
            metavar=knob.metavar,
            help=knob.help,
        )
    add("--size", type=int, metavar="PX", help="height and width in pixels")
    add(
        "--out",
        type=Path,
        default=DEFAULT_OUT,
        metavar="FILE.png",
        help=f"the file; several images are numbered NAME-0.png ... (default: {DEFAULT_OUT})",
    )
    add("--model", metavar="PLACE", help="a folder, hub id or single file (default: the storybook)")
    add("--spec", metavar="NAME", help="which system a single file holds, such as sd1.5")
    add("--tokenizer", metavar="FOLDER", help="of a single file, which holds none")


def main(args: argparse.Namespace) -> int:
    """Make the images; raises ValueError or OSError for arguments that cannot be used."""
    asked = asked_for(args)
    for path in output_files(args.out, asked.n):
        check_writable(path, ".png", "an image")

    # Only now, because these imports take seconds.
    from sdlearn.pipeline import StableDiffusion
    from sdlearn.utils.png_metadata import GenerationSettings, write_png

    if args.model is None:
        if args.spec or args.tokenizer:
            raise ValueError("--spec and --tokenizer are for a file; give it with --model")
        sd = StableDiffusion.storybook()
    else:
        sd = StableDiffusion.from_pretrained(args.model, spec=args.spec, tokenizer=args.tokenizer)
    if sd.spec.name == "storybook":
        warn_unknown_words(args.prompt)
    resolved, negative = sd.resolve(asked), args.negative or ""
    own = [replace(resolved, seed=asked.seed + k, n=1) for k in range(asked.n)]
    made = [GenerationSettings(args.prompt, negative, each, model=sd.spec.name) for each in own]
    options = asked.to_options()
    images = sd.text_to_image(args.prompt, negative_prompt=negative or None, **options)
    for image, settings, path in zip(images, made, output_files(args.out, asked.n), strict=True):
        write_png(image, path, settings)
        print(path)
    return 0


def asked_for(args: argparse.Namespace) -> sampling.Sampling:
    """What the arguments say of how the images are made.

    Raises ValueError for a value that cannot be used, and for a size beside a height or a width.
    """
    asked = {
        name: knob.checked(option_name(name, knob), getattr(args, name))
        for name, knob in sampling.knobs(sampling.Sampling).items()
        if getattr(args, name) is not None
    }
    if args.size is not None:
        if "height" in asked or "width" in asked:
            raise ValueError("--size is height and width; give it alone, or give these two")
        asked |= {"height": args.size, "width": args.size}
    return sampling.Sampling(**asked)


def option_name(name: str, knob: sampling.Knob) -> str:
    """What a field is called on the command line."""
    return knob.option or "--" + name.replace("_", "-")


def output_files(out: Path, n: int) -> list[Path]:
    """The file of each image: the name as given, or numbered from 0 where there are several."""
    return [out] if n == 1 else [out.with_stem(f"{out.stem}-{k}") for k in range(n)]


def warn_unknown_words(prompt: str) -> None:
    """Name the words that no caption of the storybook holds, and the words that some do."""
    from sdlearn.storybook.captions import WORDS, unknown_words

    unknown = unknown_words(prompt)
    if unknown:
        print(
            f"sdlearn: the storybook model does not know {', '.join(unknown)}; "
            f"it knows: {' '.join(sorted(WORDS))}",
            file=sys.stderr,
        )
