"""Tables of results, for the terminal and the model card."""

from collections.abc import Mapping, Sequence
from typing import Any

from sdlearn.evaluation.accuracy import FACTS

# What `--table` measures.
GUIDANCES = (1.0, 2.0, 3.0, 5.0, 7.5, 10.0)
STEPS = (5, 10, 20, 30, 50)
QUICK, FEW = "dpm_pp_2m", 10  # a fast sampler and its steps, measured at the chosen guidance scale

Figures = dict[str, Any]


def percent(rate: Mapping[str, float] | None, with_interval: bool = False) -> str:
    """Return "93.1 %", or "93.1 % (90.2 to 95.2)" with the interval, or a dash for None."""
    if rate is None:
        return "–"
    text = f"{100 * rate['rate']:.1f} %"
    if with_interval:
        text += f" ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"
    return text


def figures_table(split: str, figures: Figures) -> str:
    """Format the results of one split for a terminal."""
    of = figures["splits"][split]
    lines = [
        "",
        f"{figures['model']}, {split} split: {figures['captions']} captions x {figures['seeds']} "
        f"seeds, guidance {figures['guidance']:g}, {figures['steps']} steps of "
        f"{figures['sampler']} (95 % intervals)",
        f"{'':26}{'renders':>10}{'through VAE':>14}{'images':>26}",
    ]
    for name, words in FACTS.items():
        row = [of[column].get(name) for column in ("renders", "round_trip", "pictures")]
        lines.append(
            f"{words:26}{percent(row[0]):>10}{percent(row[1]):>14}{percent(row[2], True):>26}"
        )
    if "text" in of:
        read = ", ".join(f"{FACTS[name]} {percent(rate)}" for name, rate in of["text"].items())
        lines.append(f"decoded from the text embeddings: {read}")
    vae = of["vae"]
    lines.append(
        f"VAE on {vae['pictures']} renders: PSNR {vae['psnr']:.2f} dB, SSIM {vae['ssim']:.4f}"
    )
    return "\n".join(lines)


def sweep_table(cells: Sequence[Figures], fact: str) -> str:
    """Format one fact for every guidance scale (rows) and number of steps (columns)."""
    lines = ["", f"{FACTS[fact]}, guidance down, steps across"]
    lines.append(" " * 8 + "".join(f"{steps:>9}" for steps in STEPS))
    for guidance in GUIDANCES:
        row = [cell["pictures"].get(fact) for cell in cells if cell["guidance"] == guidance]
        lines.append(f"{guidance:<8g}" + "".join(f"{percent(rate):>9}" for rate in row))
    return "\n".join(lines)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
