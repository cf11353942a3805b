"""`sdlearn evaluate`: measures a model, prints the figures, has the sheets and the plot drawn."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from sdlearn.evaluation.accuracy import (
    Asked,
    Outcome,
    Rate,
    caption_accuracy,
    questions,
    rates,
    render_accuracy,
    vae_report,
)
from sdlearn.evaluation.card import write_card
from sdlearn.evaluation.drawings import (
    DECODED,
    UNCHOSEN,
    contact_sheet,
    need_matplotlib,
    plot,
    save,
    there_and_back,
    worst,
)
from sdlearn.evaluation.history import collect
from sdlearn.evaluation.judge import Judge, load_judge
from sdlearn.evaluation.reader import learn_to_read, text_accuracy
from sdlearn.evaluation.tables import (
    FEW,
    GUIDANCES,
    QUICK,
    STEPS,
    Figures,
    figures_table,
    sweep_table,
)
from sdlearn.files import write_json
from sdlearn.paths import data_folder
from sdlearn.pipeline import StableDiffusion
from sdlearn.samplers import offered

BATCH = 32


def evaluate(args: argparse.Namespace) -> int:
    """What `sdlearn evaluate` does with its arguments; returns the exit code."""
    sheet = args.sheet or args.card
    if args.table is not None:
        need_matplotlib()
        if args.table > args.n:
            raise ValueError(f"--table is {args.table}; accepted: at most --n, which is {args.n}")
    source = Path(args.model) if args.model else data_folder("storybook")
    if args.card and not source.is_dir():
        raise ValueError(f"--card writes into the model's folder, and {source} is not one")
    training = collect(args.runs, source)
    judge = load_judge()
    sd = StableDiffusion.from_pretrained(args.model or source)
    figures = settings(sd, args)
    place = source if args.card else args.out.parent if args.out else Path("evaluation")
    splits = ("test", "held_out") if args.card or args.split == "both" else (args.split,)

    figures["splits"] = {}
    sheets = {}
    reader = learn_to_read(sd.text) if args.card else None
    for split in splits:
        asked = questions(split, args.n)
        measured, outcomes, decoded = measure(sd, judge, asked, figures, split)
        if reader is not None:
            measured["text"] = as_json(text_accuracy(reader, sd.text, asked))
        figures["splits"][split] = measured
        print(figures_table(split, figures))
        if args.table is not None:
            figures["table_captions"] = args.table or args.n
            measured["table"] = sweep(sd, judge, asked[: figures["table_captions"]], split, figures)
            measured["quick"] = compare(sd, judge, asked, split, figures)
            print(sweep_table(measured["table"], "right"))
        if sheet and split == splits[0]:
            sheets["unchosen.png"] = contact_sheet(outcomes[:UNCHOSEN])
            sheets["worst.png"] = contact_sheet(worst(outcomes))
            sheets["autoencoder.png"] = there_and_back(decoded[:DECODED])

    # Everything is written at the end, so that pictures and figures are always of one evaluation.
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
    """What was asked for, with the model's own choices filled in."""
    sampler = args.sampler or sd.spec.sampler
    offered(sampler)  # an unknown one should be refused before the work
    return {
        "model": sd.spec.name,
        "captions": args.n,
        "seeds": args.seeds,
        "guidance": sd.spec.guidance if args.guidance is None else args.guidance,
        "steps": sd.spec.steps if args.steps is None else args.steps,
        "sampler": sampler,
    }


def compare(
    sd: StableDiffusion, judge: Judge, asked: Sequence[Asked], split: str, how: Figures
) -> list[Figures]:
    """A few steps of a sampler made for few, and many of the usual one, from the same seeds."""
    rows = []
    pictures = len(asked) * how["seeds"]
    for name, steps in ((QUICK, FEW), (how["sampler"], STEPS[-1])):
        title = f"{split}, {steps} steps of {name}"
        with tqdm(total=pictures, desc=title, unit="picture") as bar:
            outcomes = caption_accuracy(
                sd, judge, asked, how["seeds"], how["guidance"], steps, name, BATCH, bar.update
            )
        rows.append({"sampler": name, "steps": steps, "pictures": as_json(rates(outcomes))})
    return rows


def measure(
    sd: StableDiffusion, judge: Judge, asked: Sequence[Asked], how: Figures, split: str
) -> tuple[Figures, list[Outcome], list[Outcome]]:
    """The figures of one split, the pictures made, and the renders through the autoencoder."""
    drawn = render_accuracy(judge, asked)
    vae, decoded = vae_report(sd, judge, asked, BATCH)
    with tqdm(total=len(asked) * how["seeds"], desc=f"{split} captions", unit="picture") as bar:
        outcomes = caption_accuracy(
            sd, judge, asked, how["seeds"], how["guidance"], how["steps"], how["sampler"],
            BATCH, bar.update,
        )  # fmt: skip
    rows = {"renders": drawn, "round_trip": decoded, "pictures": outcomes}
    figures = {name: as_json(rates(row)) for name, row in rows.items()}
    return {"vae": vae, **figures}, outcomes, decoded


def sweep(
    sd: StableDiffusion, judge: Judge, asked: Sequence[Asked], split: str, how: Figures
) -> list[Figures]:
    """Caption accuracy for every guidance and number of steps, one picture of each caption."""
    cells = []
    title = f"{split}, guidance x steps"
    with tqdm(total=len(GUIDANCES) * len(STEPS), desc=title, unit="cell") as bar:
        for guidance in GUIDANCES:
            for steps in STEPS:
                outcomes = caption_accuracy(
                    sd, judge, asked, 1, guidance, steps, how["sampler"], BATCH
                )
                measured = as_json(rates(outcomes))
                cells.append({"guidance": guidance, "steps": steps, "pictures": measured})
                bar.update()
    return cells


def as_json(measured: Mapping[str, Rate]) -> Figures:
    """Rates as JSON objects, to four places; a rate of no cases is left out."""
    return {
        name: {k: round(v, 4) for k, v in rate._asdict().items()}
        for name, rate in measured.items()
        if rate.cases
    }
