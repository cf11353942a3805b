"""`sdlearn evaluate`: measures a model, prints the figures, draws the sheets and the plot."""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from tqdm.auto import tqdm

from sdlearn.evaluation.accuracy import (
    FACTS,
    Asked,
    Outcome,
    Rate,
    caption_accuracy,
    facts,
    questions,
    rates,
    render_accuracy,
    vae_report,
)
from sdlearn.evaluation.judge import Judge, load_judge
from sdlearn.files import replacing, write_json
from sdlearn.paths import data_folder
from sdlearn.pipeline import StableDiffusion

GUIDANCES = (1.0, 2.0, 3.0, 5.0, 7.5, 10.0)
STEPS = (5, 10, 20, 30, 50)
UNCHOSEN, WORST = 64, 16
BATCH = 32

Figures = dict[str, Any]


def evaluate(args: argparse.Namespace) -> int:
    """What `sdlearn evaluate` does with its arguments; returns the exit code."""
    table, sheet = args.table or args.card, args.sheet or args.card
    if table:
        need_matplotlib()
    source = Path(args.model) if args.model else data_folder("storybook")
    if args.card and not source.is_dir():
        raise ValueError(f"--card writes into the model's folder, and {source} is not one")
    judge = load_judge()
    sd = StableDiffusion.from_pretrained(args.model or source)
    figures = settings(sd, args)
    place = source if args.card else args.out.parent if args.out else Path("evaluation")
    splits = ("test", "held_out") if args.card or args.split == "both" else (args.split,)

    figures["splits"] = {}
    for split in splits:
        measured, outcomes = measure(sd, judge, questions(split, args.n), figures, split)
        figures["splits"][split] = measured
        print(figures_table(split, figures))
        if sheet and split == splits[0]:
            save(contact_sheet(outcomes[:UNCHOSEN]), place / "unchosen.png")
            save(contact_sheet(worst(outcomes)), place / "worst.png")
    if table:
        asked = questions(splits[0], args.n)
        figures["table"] = sweep(sd, judge, asked, args.sampler)
        print(sweep_table(figures["table"], "right"))
        plot(figures["table"], place / "table.png")

    if args.out:
        write_json(args.out, figures)
    if args.card:
        from sdlearn.evaluation.card import collect, write_card

        write_json(place / "metrics.json", figures)
        if args.runs:
            write_json(place / "training.json", collect(args.runs))
        write_card(sd, place)
    for path in [args.out] * bool(args.out) + [place / "README.md"] * args.card:
        print(path)
    return 0


def settings(sd: StableDiffusion, args: argparse.Namespace) -> Figures:
    """What was asked for, with the model's own choices filled in."""
    return {
        "model": sd.spec.name,
        "captions": args.n,
        "seeds": args.seeds,
        "guidance": sd.spec.guidance if args.guidance is None else args.guidance,
        "steps": sd.spec.steps if args.steps is None else args.steps,
        "sampler": args.sampler or sd.spec.sampler,
    }


def measure(
    sd: StableDiffusion, judge: Judge, asked: Sequence[Asked], how: Figures, split: str
) -> tuple[Figures, list[Outcome]]:
    """The figures of one split, and the pictures behind them."""
    drawn = render_accuracy(judge, asked)
    vae, decoded = vae_report(sd, judge, asked, BATCH)
    with tqdm(total=len(asked) * how["seeds"], desc=f"{split} captions", unit="picture") as bar:
        outcomes = caption_accuracy(
            sd, judge, asked, how["seeds"], how["guidance"], how["steps"], how["sampler"],
            BATCH, bar.update,
        )  # fmt: skip
    rows = {"renders": drawn, "round_trip": decoded, "pictures": outcomes}
    return {"vae": vae, **{name: as_json(rates(row)) for name, row in rows.items()}}, outcomes


def sweep(
    sd: StableDiffusion, judge: Judge, asked: Sequence[Asked], sampler: str | None
) -> list[Figures]:
    """Caption accuracy for every guidance and number of steps, one picture of each caption."""
    cells = []
    with tqdm(total=len(GUIDANCES) * len(STEPS), desc="guidance x steps", unit="cell") as bar:
        for guidance in GUIDANCES:
            for steps in STEPS:
                outcomes = caption_accuracy(sd, judge, asked, 1, guidance, steps, sampler, BATCH)
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


def percent(rate: Mapping[str, float] | None, with_interval: bool = False) -> str:
    """ "93.1 %", or "93.1 % (90.2 to 95.2)"; a dash where nothing was measured."""
    if rate is None:
        return "–"
    text = f"{100 * rate['rate']:.1f} %"
    if with_interval:
        text += f" ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"
    return text


def figures_table(split: str, figures: Figures) -> str:
    """The figures of one split, for a terminal."""
    of = figures["splits"][split]
    lines = [
        "",
        f"{figures['model']}, {split} split: {figures['captions']} captions x {figures['seeds']} "
        f"seeds, guidance {figures['guidance']:g}, {figures['steps']} steps of "
        f"{figures['sampler']} (95 % intervals)",
        f"{'':26}{'renders':>10}{'through VAE':>14}{'pictures':>26}",
    ]
    for name, words in FACTS.items():
        row = [of[column].get(name) for column in ("renders", "round_trip", "pictures")]
        lines.append(
            f"{words:26}{percent(row[0]):>10}{percent(row[1]):>14}{percent(row[2], True):>26}"
        )
    vae = of["vae"]
    lines.append(
        f"VAE on {vae['pictures']} renders: PSNR {vae['psnr']:.2f} dB, SSIM {vae['ssim']:.4f}"
    )
    return "\n".join(lines)


def sweep_table(cells: Sequence[Figures], fact: str) -> str:
    """One fact for every guidance (rows) and number of steps (columns), for a terminal."""
    lines = ["", f"{FACTS[fact]}, guidance down, steps across"]
    lines.append(" " * 8 + "".join(f"{steps:>9}" for steps in STEPS))
    for guidance in GUIDANCES:
        row = [cell["pictures"].get(fact) for cell in cells if cell["guidance"] == guidance]
        lines.append(f"{guidance:<8g}" + "".join(f"{percent(rate):>9}" for rate in row))
    return "\n".join(lines)


# ------------------------------------------------------------------------------------- drawings


def worst(outcomes: Sequence[Outcome], n: int = WORST) -> list[Outcome]:
    """The n pictures of which the judge found the smallest share right."""

    def share(outcome: Outcome) -> float:
        right = [one for row in facts(outcome.asked, outcome.match).values() for one in row]
        return sum(right) / len(right)

    return sorted(outcomes, key=share)[:n]


def contact_sheet(outcomes: Sequence[Outcome], columns: int = 8, scale: int = 2) -> Image.Image:
    """Pictures with their captions and seeds; what the judge misses on one is said in red."""
    size = max((outcome.picture.width for outcome in outcomes), default=64) * scale
    font = ImageFont.load_default(size=10)
    gap, lines, height = 10, 6, 12
    columns = min(columns, max(1, len(outcomes)))
    rows = math.ceil(len(outcomes) / columns)
    cell = size + gap, size + lines * height + gap
    page = Image.new("RGB", (columns * cell[0] + gap, rows * cell[1] + gap), "white")
    draw = ImageDraw.Draw(page)
    for k, outcome in enumerate(outcomes):
        x, y = gap + (k % columns) * cell[0], gap + (k // columns) * cell[1]
        page.paste(outcome.picture.resize((size, size), Image.Resampling.NEAREST), (x, y))
        text = wrapped(f"{outcome.asked.caption} (seed {outcome.seed})", size, font)
        missed = [
            name
            for name, row in facts(outcome.asked, outcome.match).items()
            if not all(row) and name not in ("right", "page")
        ]
        for line in text[: lines - 1]:
            y += height
            draw.text((x, y + size - height + 2), line, fill="black", font=font)
        if missed:
            below = wrapped("not: " + ", ".join(missed), size, font)[0]
            draw.text((x, y + size + 2), below, fill=(190, 0, 0), font=font)
    return page


def wrapped(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """The words of a text on lines of at most `width` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def save(picture: Image.Image, path: Path) -> None:
    """A PNG of 256 colours, which a third of the bytes hold, in its place all at once."""
    with replacing(path) as part:
        picture.quantize(256).save(part, format="PNG", optimize=True)
    print(path)


def plot(cells: Sequence[Figures], path: Path) -> None:
    """Accuracy over guidance, one line for each number of steps, told apart without colour."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = ("right", "sky", "ground", "page")
    figure, axes = plt.subplots(1, len(panels), figsize=(13, 3.6), sharey=True, dpi=100)
    for axis, fact in zip(axes, panels, strict=True):
        for steps, marker in zip(STEPS, "ovs^D", strict=True):
            row = [cell for cell in cells if cell["steps"] == steps and fact in cell["pictures"]]
            rate = [100 * cell["pictures"][fact]["rate"] for cell in row]
            axis.plot([cell["guidance"] for cell in row], rate, marker=marker, label=f"{steps}")
        axis.set(title=FACTS[fact], xlabel="guidance scale")
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="captions' facts right, %", ylim=(0, 101))
    axes[-1].legend(title="steps", loc="lower right")
    figure.tight_layout()
    with replacing(path) as part:
        figure.savefig(part, format="png", metadata={"Software": None})
    plt.close(figure)
    print(path)


def need_matplotlib() -> None:
    """Find out before the work, not after it, whether the plot can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "the plot of guidance and steps needs matplotlib: pip install 'sdlearn[course]'"
        ) from error
