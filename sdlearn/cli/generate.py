"""`sdlearn generate`: images of a prompt, as PNG files that hold how they were made."""

import argparse
import random
import sys
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sdlearn.cli.arguments import TYPES, as_typed, path, scaled_file, whole
from sdlearn.utils import memory, sampling
from sdlearn.utils.atomic_files import check_writable
from sdlearn.utils.resources import data_folder
from sdlearn.utils.validation import LAST_SEED, as_prompts, check_place, shown

DEFAULT_OUT = Path("picture.png")
ANY_SEED = -1  # on the command line only; the seed that is drawn is printed and stored


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sdlearn generate`; what is left out is the model's own choice."""
    add = parser.add_argument
    add("prompt", help='what to draw, such as "a red cat on the sand at night"')
    add("--negative", metavar="PROMPT", help="what to lead away from")
    for name, knob in sampling.knobs(sampling.Sampling).items():
        add(
            option_name(name, knob),
            dest=name,
            type=TYPES[knob.kind],
            nargs=None if knob.size == 1 else knob.size,
            metavar=knob.metavar,
            help=knob.help + ("; -1 for a random one" if name == "seed" else ""),
        )
    add("--size", type=whole, metavar="PX", help="height and width in pixels")
    add(
        "--out",
        type=path,
        default=DEFAULT_OUT,
        metavar="FILE.png",
        help=f"the file; several images are numbered NAME-0.png ... (default: {DEFAULT_OUT})",
    )
    add("--model", metavar="PLACE", help="a folder, hub id or single file (default: the storybook)")
    add("--spec", metavar="NAME", help="which system a single file holds, such as sd1.5")
    add(
        "--lora",
        type=scaled_file,
        action="append",
        default=[],
        metavar="FILE:SCALE",
        help="an adapter, with a scale other than 1 after a colon; may be given several times",
    )
    add("--tokenizer", metavar="FOLDER", help="of a single file, which holds none")


def main(args: argparse.Namespace) -> int:
    """Make the images; raises ValueError or OSError for arguments that cannot be used."""
    with as_typed(typed_options(args)):
        return draw(args)


def draw(args: argparse.Namespace) -> int:
    """Make the images; errors name a setting as the pipeline does, not its option."""
    asked, place = check(args)
    # Only now, because these imports take seconds.
    from sdlearn.pipeline import StableDiffusion
    from sdlearn.utils.png_metadata import GenerationSettings, adapters_name, write_png

    check_against_model(asked, place)
    if args.seed == ANY_SEED:
        print(f"sdlearn: the seed is {asked.seed}", file=sys.stderr)
    sd = StableDiffusion.from_pretrained(place, spec=args.spec, tokenizer=args.tokenizer)
    for file, scale in args.lora:
        sd.load_adapter(file, scale)
    if sd.spec.name == "storybook":
        warn_unknown_words(args.prompt)
    resolved, negative = sd.resolve(asked), args.negative or ""
    own = [replace(resolved, seed=asked.seed + k, n=1) for k in range(asked.n)]
    model, adapters = sd.spec.name, adapters_name(sd)
    made = [
        GenerationSettings(args.prompt, negative, each, model=model, adapters=adapters)
        for each in own
    ]
    options = asked.to_options()
    images = sd.text_to_image(args.prompt, negative_prompt=negative or None, **options)
    paths = output_files(args.out, asked.n)
    for image, settings, file in zip(images, made, paths, strict=True):
        write_png(image, file, settings)
    print(*paths, sep="\n")
    return 0


def check(args: argparse.Namespace) -> tuple[sampling.Sampling, str | Path]:
    """Check all that needs neither torch nor the model.

    Returns:
        What the arguments say of how the images are made, and where the model is.

    Raises:
        ValueError, OSError: For arguments that cannot be used.
    """
    as_prompts("the prompt", args.prompt)
    if args.negative is not None:
        as_prompts("--negative", args.negative)
    asked = asked_for(args)
    if asked.height is not None and asked.width is not None:
        size = asked.height, asked.width
        memory.check_fits(size, asked.n, asked.n * memory.image_bytes(size), memory.free_memory())
    first, *others = output_files(args.out, asked.n)
    check_writable(first, ".png", "an image")
    for other in others:
        if other.is_dir():
            check_writable(other, ".png", "an image")
    if args.model is None:
        if args.spec is not None or args.tokenizer is not None:
            raise ValueError(
                "--spec and --tokenizer describe a model file; give that file with --model"
            )
        return asked, data_folder("storybook")
    return asked, check_place(args.model, "--model")


def asked_for(args: argparse.Namespace) -> sampling.Sampling:
    """What the arguments say of how the images are made.

    Raises ValueError for a value that cannot be used, and for a size beside a height or a width.
    """
    known = sampling.knobs(sampling.Sampling)
    given = {name: getattr(args, name) for name in known if getattr(args, name) is not None}
    seed = given.get("seed", ANY_SEED)
    if not ANY_SEED <= seed <= LAST_SEED:
        raise ValueError(
            f"--seed is {shown(seed)}; it must lie in 0 … 2^63 - 1, "
            f"or be {ANY_SEED} for a random one"
        )
    if "seed" in given and seed == ANY_SEED:
        given["seed"] = random.randrange(2**31)
    asked = {
        name: known[name].checked(option_name(name, known[name]), value)
        for name, value in given.items()
    }
    if args.size is not None:
        if "height" in asked or "width" in asked:
            raise ValueError("--size is height and width; give it alone, or give these two")
        side = known["height"].checked("--size", args.size)
        asked |= {"height": side, "width": side}
    return sampling.Sampling(**asked)


def check_against_model(asked: sampling.Sampling, place: str | Path) -> None:
    """Check what a folder says of its model, if it is one, before its weights are read."""
    from sdlearn.utils.sampling_checks import check_sampling, resolve
    from sdlearn.weights.diffusers_folder import read_spec

    spec = None
    # Errors in the folder are reported later, when all of it is read.
    with warnings.catch_warnings(action="ignore"), suppress(ValueError, OSError):
        spec = read_spec(Path(place)) if Path(place).is_dir() else None
    if spec is not None:
        factor = 2 ** (len(spec.vae.block_out_channels) - 1)
        check_sampling(resolve(asked, spec), spec, factor=factor)


def option_name(name: str, knob: sampling.Knob) -> str:
    """What a field is called on the command line."""
    return knob.option or "--" + name.replace("_", "-")


def typed_options(args: argparse.Namespace) -> dict[str, str]:
    """The options that the user gave, by the names of their settings."""
    known = sampling.knobs(sampling.Sampling)
    options = {name: option_name(name, knob) for name, knob in known.items()}
    if args.size is not None:
        options |= {"height": "--size", "width": "--size"}
    return options


def output_files(out: Path, n: int) -> list[Path]:
    """The file of each image: the name as given, or numbered from 0 where there are several."""
    return [out] if n == 1 else [out.with_stem(f"{out.stem}-{k}") for k in range(n)]


def warn_unknown_words(prompt: str) -> None:
    """Name the words that no caption of the storybook holds, and the words that some do."""
    from sdlearn.storybook.captions import WORDS, unknown_words
    from sdlearn.text import shorten

    unknown = unknown_words(prompt)
    if unknown:
        print(
            f"sdlearn: the storybook model does not know {shorten(', '.join(unknown))}; "
            f"it knows: {' '.join(sorted(WORDS))}",
            file=sys.stderr,
        )
