"""`sdlearn generate`: pictures of a prompt, as PNG files that remember how they were made."""

import argparse
import sys
from pathlib import Path

from sdlearn.files import check_writable

DEFAULT_OUT = Path("picture.png")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sdlearn generate`; what is left out is the model's own choice."""
    add = parser.add_argument
    add("prompt", help='what to draw, such as "a red cat on the sand at night"')
    add("--negative", metavar="PROMPT", help="what to lead away from")
    add("--n", type=int, default=1, metavar="N", help="number of pictures (default: 1)")
    add("--steps", type=int, metavar="N", help="denoising steps")
    add("--guidance", type=float, metavar="SCALE", help="guidance scale; 1 is off")
    add(
        "--sampler",
        metavar="NAME",
        help="ddim, ddpm, plms, euler, euler_ancestral, heun, lms or dpm_pp_2m",
    )
    add("--seed", type=int, default=0, metavar="N", help="picture k has seed N + k (default: 0)")
    add("--size", type=int, metavar="PX", help="height and width in pixels")
    add(
        "--out",
        type=Path,
        default=DEFAULT_OUT,
        metavar="FILE.png",
        help=f"where to; several pictures are numbered NAME-0.png ... (default: {DEFAULT_OUT})",
    )
    add("--model", metavar="PLACE", help="a folder, hub id or single file (default: the storybook)")
    add("--spec", metavar="NAME", help="which system a single file holds, such as sd1.5")
    add("--tokenizer", metavar="FOLDER", help="of a single file, which holds none")


def main(args: argparse.Namespace) -> int:
    """Make the pictures; raises ValueError or OSError, in one sentence, for what cannot be done."""
    if args.n < 1:
        raise ValueError(f"--n is {args.n}; it must be at least 1")
    for place in names(args.out, args.n):
        check_writable(place, ".png", "a picture")

    # Only now, for these imports take seconds.
    from sdlearn.pipeline import StableDiffusion
    from sdlearn.settings import Settings, write

    if args.model is None:
        if args.spec or args.tokenizer:
            raise ValueError("--spec and --tokenizer are for a file; give it with --model")
        sd = StableDiffusion.storybook()
    else:
        sd = StableDiffusion.from_pretrained(args.model, spec=args.spec, tokenizer=args.tokenizer)
    if sd.spec.name == "storybook":
        warn_unknown_words(args.prompt)
    pictures = sd.text_to_image(
        args.prompt,
        negative_prompt=args.negative,
        steps=args.steps,
        guidance_scale=args.guidance,
        sampler=args.sampler,
        seed=args.seed,
        height=args.size,
        width=args.size,
        n=args.n,
    )
    for k, (picture, place) in enumerate(zip(pictures, names(args.out, args.n), strict=True)):
        settings = Settings(
            args.prompt,
            args.negative or "",
            args.seed + k,
            sd.spec.steps if args.steps is None else args.steps,
            sd.spec.guidance if args.guidance is None else args.guidance,
            args.sampler or sd.spec.sampler,
        )
        write(picture, place, settings, args.model or sd.spec.name)
        print(place)
    return 0


def names(out: Path, n: int) -> list[Path]:
    """The file of each picture: the name as given, or numbered from 0 where there are several."""
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
