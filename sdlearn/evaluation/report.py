"""What `sdlearn evaluate` does: measure a model, print the results, write sheets and plots."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from sdlearn.evaluation.accuracy import (
    Outcome,
    PromptCase,
    caption_accuracy,
    judge_images,
    prompt_cases,
    rates,
    render_accuracy,
    vae_report,
)
from sdlearn.evaluation.background_judge import BackgroundJudge
from sdlearn.evaluation.card import write_card
from sdlearn.evaluation.clip_score import StorybookClip, train_storybook_clip
from sdlearn.evaluation.contact_sheets import (
    DECODED,
    UNCHOSEN,
    contact_sheet,
    need_matplotlib,
    plot,
    reconstruction_sheet,
    save,
    worst,
)
from sdlearn.evaluation.image_sets import FEWEST, clip_figures, measure_sets
from sdlearn.evaluation.judge import Judge, load_judge
from sdlearn.evaluation.paired import compare_outcomes, comparison_json, comparison_table
from sdlearn.evaluation.resampling import Rate
from sdlearn.evaluation.tables import (
    FEW,
    GUIDANCES,
    QUICK,
    STEPS,
    Figures,
    figures_table,
    sets_table,
    sweep_table,
)
from sdlearn.evaluation.text_probe import text_accuracy, train_probe
from sdlearn.evaluation.training_record import collect
from sdlearn.pipeline import StableDiffusion
from sdlearn.utils.atomic_files import user_path, write_json
from sdlearn.utils.resources import data_folder
from sdlearn.utils.sampling import Sampling
from sdlearn.utils.sampling_checks import check_sampling

BATCH = 32


def evaluate(args: argparse.Namespace) -> int:
    """Evaluate a model and write what the arguments ask for.

    Args:
        args: From `sdlearn.cli.evaluate.add_arguments`.

    Returns:
        The exit code.

    Raises:
        ValueError: If an argument is wrong.
        OSError: If a file cannot be read or written.
    """
    sheet = args.sheet or args.card
    if args.table is not None:
        need_matplotlib()
        if args.table > args.n:
            raise ValueError(f"--table is {args.table}; accepted: at most --n, which is {args.n}")
    source = user_path(args.model) if args.model else data_folder("storybook")
    if args.card and not source.is_dir():
        raise ValueError(f"--card writes into the model's folder, and {source} is not a folder")
    if args.card and args.against:
        raise ValueError(
            "--against compares two models, and --card describes one; give only one of them"
        )
    training = collect(args.runs, source)
    judge = load_judge()
    sd = StableDiffusion.from_pretrained(args.model or source)
    figures = settings(sd, args)
    second = StableDiffusion.from_pretrained(args.against) if args.against else None
    if second is not None:
        figures["against"] = {"folder": str(args.against), **settings(second, args)}
    place = source if args.card else args.out.parent if args.out else Path("evaluation")
    splits = ("test", "held_out") if args.card or args.split == "both" else (args.split,)

    figures["splits"] = {}
    sheets = {}
    probe = train_probe(sd.text) if args.card else None
    clip = storybook_clip(judge) if args.clip else None
    for split in splits:
        cases = prompt_cases(split, args.n)
        measured, rows = measure(sd, judge, cases, figures, split)
        if second is not None:
            rows["against"] = draw(second, judge, cases, figures["against"], f"{split}, second")
            compared = compare_outcomes(rows["pictures"], rows["against"])
            measured["against"] = comparison_json(compared)
        images = {name: [outcome.image for outcome in row] for name, row in rows.items()}
        if args.n >= FEWEST:
            one_each = {name: row[: args.n] for name, row in images.items()}
            measured["sets"] = measure_sets(judge, split, one_each)
        if clip is not None:
            measured["clip"] = clip_figures(clip, [case.caption for case in cases], images)
        if probe is not None:
            measured["text"] = as_json(text_accuracy(probe, sd.text, cases))
        figures["splits"][split] = measured
        print(figures_table(split, figures))
        print(sets_table(split, figures))
        if second is not None:
            print(comparison_table(split, figures))
        if args.table is not None:
            figures["table_captions"] = args.table or args.n
            measured["table"] = sweep(sd, judge, cases[: figures["table_captions"]], split, figures)
            measured["quick"] = compare(sd, judge, cases, split, figures)
            print(sweep_table(measured["table"], "right"))
        if sheet and split == splits[0]:
            sheets["unchosen.png"] = contact_sheet(rows["pictures"][:UNCHOSEN])
            sheets["worst.png"] = contact_sheet(worst(rows["pictures"]))
            sheets["autoencoder.png"] = reconstruction_sheet(rows["round_trip"][:DECODED])

    # All files are written at the end, so that they always belong to the same evaluation.
    for name, drawn in sheets.items():
        save(drawn, place / name)
    if args.table is not None:
        plot({split: of["table"] for split, of in figures["splits"].items()}, place / "table.png")
    elif args.card:
        (place / "table.png").unlink(missing_ok=True)  # of an earlier evaluation

    if args.out:
        write_json(args.out, figures)
    if args.card:
        write_json(place / "metrics.json", figures)
        if training:
            write_json(place / "training.json", {"runs": training})
        write_card(sd, place)
    for path in [args.out] * bool(args.out) + [place / "README.md"] * args.card:
        print(path)
    return 0


def settings(sd: StableDiffusion, args: argparse.Namespace) -> Figures:
    """Return the settings of an evaluation, with the model's own defaults filled in."""
    asked = Sampling(steps=args.steps, guidance_scale=args.guidance, sampler=args.sampler)
    check_sampling(sd.resolve(asked), sd.spec)  # before the work starts
    sampler = args.sampler or sd.spec.sampler
    return {
        "model": sd.spec.name,
        "captions": args.n,
        "seeds": args.seeds,
        "guidance": sd.spec.guidance_scale if args.guidance is None else args.guidance,
        "steps": sd.spec.steps if args.steps is None else args.steps,
        "sampler": sampler,
    }


def compare(
    sd: StableDiffusion, judge: Judge, cases: Sequence[PromptCase], split: str, how: Figures
) -> list[Figures]:
    """Measure a fast sampler with few steps and the usual one with many, from the same seeds."""
    rows = []
    images = len(cases) * how["seeds"]
    for name, steps in ((QUICK, FEW), (how["sampler"], STEPS[-1])):
        title = f"{split}, {steps} steps of {name}"
        with tqdm(total=images, desc=title, unit="image") as bar:
            outcomes = caption_accuracy(
                sd, judge, cases, how["seeds"], how["guidance"], steps, name, BATCH, bar.update
            )
        rows.append({"sampler": name, "steps": steps, "pictures": as_json(rates(outcomes))})
    return rows


def measure(
    sd: StableDiffusion, judge: Judge, cases: Sequence[PromptCase], how: Figures, split: str
) -> tuple[Figures, dict[str, list[Outcome]]]:
    """Measure one split.

    Args:
        sd: The model.
        judge: Detects what the images show.
        cases: The captions of the split.
        how: From `settings`.
        split: Name of the split, for the progress bar.

    Returns:
        The results, and the outcomes of the true renders, of their reconstructions ("round_trip")
        and of the model's images ("pictures").
    """
    rendered = render_accuracy(judge, cases)
    vae, decoded = vae_report(sd, judge, cases, BATCH)
    outcomes = draw(sd, judge, cases, how, f"{split} captions")
    rows = {"renders": rendered, "round_trip": decoded, "pictures": outcomes}
    figures = {name: as_json(rates(row)) for name, row in rows.items()}
    figures["background"] = {name: as_json(rates(judge_again(row))) for name, row in rows.items()}
    return {"vae": vae, **figures}, rows


def judge_again(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Judge the same images again, without a network."""
    cases = [outcome.case for outcome in outcomes]
    images, seeds = [o.image for o in outcomes], [o.seed for o in outcomes]
    judged = judge_images(BackgroundJudge(), cases, images, seeds)
    return [o._replace(match=j.match) for o, j in zip(outcomes, judged, strict=True)]


def storybook_clip(judge: Judge) -> StorybookClip:
    """Train the CLIP score's image encoder, for the shipped text encoder.

    Every model is measured with this text encoder, whatever its own is.
    """
    text = StableDiffusion.from_pretrained(data_folder("storybook")).text
    return train_storybook_clip(judge, text)


def draw(
    sd: StableDiffusion, judge: Judge, cases: Sequence[PromptCase], how: Figures, title: str
) -> list[Outcome]:
    """Generate the images of all captions and seeds, with a progress bar, and judge them."""
    with tqdm(total=len(cases) * how["seeds"], desc=title, unit="image") as bar:
        return caption_accuracy(
            sd, judge, cases, how["seeds"], how["guidance"], how["steps"], how["sampler"],
            BATCH, bar.update,
        )  # fmt: skip


def sweep(
    sd: StableDiffusion, judge: Judge, cases: Sequence[PromptCase], split: str, how: Figures
) -> list[Figures]:
    """Measure caption accuracy over guidance scale and steps, with one image a caption."""
    cells = []
    title = f"{split}, guidance x steps"
    with tqdm(total=len(GUIDANCES) * len(STEPS), desc=title, unit="cell") as bar:
        for guidance in GUIDANCES:
            for steps in STEPS:
                outcomes = caption_accuracy(
                    sd, judge, cases, 1, guidance, steps, how["sampler"], BATCH
                )
                measured = as_json(rates(outcomes))
                cells.append({"guidance": guidance, "steps": steps, "pictures": measured})
                bar.update()
    return cells


def as_json(measured: Mapping[str, Rate]) -> Figures:
    """Convert rates to JSON objects with four decimals, without rates of no cases."""
    return {
        name: {k: round(v, 4) for k, v in rate._asdict().items()}
        for name, rate in measured.items()
        if rate.cases
    }
