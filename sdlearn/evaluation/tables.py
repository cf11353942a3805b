"""Tables of results, for the terminal and the model card."""

from collections.abc import Mapping, Sequence
from typing import Any

from sdlearn.evaluation.accuracy import FACTS
from sdlearn.evaluation.clip_score import HESSEL, PERCENT

# What `--table` measures.
GUIDANCES = (1.0, 2.0, 3.0, 5.0, 7.5, 10.0)
STEPS = (5, 10, 20, 30, 50)
QUICK, FEW = "dpm_pp_2m", 10  # a fast sampler and its steps, measured at the chosen guidance scale

# The sets of images that are compared with true pages, and their scores.
SET_NAMES = {
    "renders": "renders",
    "round_trip": "through VAE",
    "pictures": "images",
    "against": "second model",
}
SET_SCORES = {
    "frechet": "Fréchet distance",
    "frechet_limit": "  for infinitely many, L",
    "frechet_slope": "  c of the line L + c / N",
    "kid": "KID × 1000, ± one subset",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}

WIDE = 20  # characters of a column of these scores

Figures = dict[str, Any]


def percent(rate: Mapping[str, float] | None, with_interval: bool = False) -> str:
    """Return "93.1 %", or "93.1 % (90.2 to 95.2)" with the interval, or a dash for None."""
    if rate is None:
        return "–"
    text = f"{100 * rate['rate']:.1f} %"
    if with_interval:
        text += f" ({100 * rate['low']:.1f} to {100 * rate['high']:.1f})"
    return text


def counted(n: int, noun: str) -> str:
    """Return "1 seed" or "3 seeds"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def figures_table(split: str, figures: Figures) -> str:
    """Format the results of one split for a terminal."""
    of = figures["splits"][split]
    lines = [
        "",
        f"{figures['model']}, {split} split: {counted(figures['captions'], 'caption')} × "
        f"{counted(figures['seeds'], 'seed')}, guidance {figures['guidance']:g}, "
        f"{counted(figures['steps'], 'step')} of "
        f"{figures['sampler']} (95 % intervals)",
        *rate_rows("by the judge", of),
        "",
        *rate_rows("by the background", of["background"]),
        "In the column of renders, the gap to 100 % is the judge's own error.",
    ]
    if "text" in of:
        read = ", ".join(f"{FACTS[name]} {percent(rate)}" for name, rate in of["text"].items())
        lines.append(f"decoded from the text embeddings: {read}")
    vae = of["vae"]
    lines.append(
        f"VAE on {vae['pictures']} renders: PSNR {vae['psnr']:.2f} dB ({vae['psnr_low']:.2f} to "
        f"{vae['psnr_high']:.2f}), SSIM {vae['ssim']:.4f} ({vae['ssim_low']:.4f} to "
        f"{vae['ssim_high']:.4f})"
    )
    return "\n".join(lines)


def rate_rows(title: str, columns: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Format the rates of renders, reconstructions and images, with one line for each fact."""
    lines = [f"{title:26}{'renders':>10}{'through VAE':>14}{'images':>26}"]
    for name, words in FACTS.items():
        row = [columns[column].get(name) for column in ("renders", "round_trip", "pictures")]
        lines.append(
            f"{words:26}{percent(row[0]):>10}{percent(row[1]):>14}{percent(row[2], True):>26}"
        )
    return lines


def sets_table(split: str, figures: Figures) -> str:
    """Format the measures of sets of images, and the CLIP scores, of one split for a terminal."""
    of, names = figures["splits"][split], SET_NAMES
    columns = [name for name in names if name in of.get("sets", of.get("clip", {}))]
    lines = []
    if "sets" not in of:
        lines.append("comparing sets of images with true pages needs 6 captions or more")
    else:
        sizes = of["sets"]["pictures"]
        n, d = sizes["images"], sizes["dimensions"]
        lines += [
            "",
            f"{split} split: distance to {n} other true pages, with {n} images (one per caption) "
            f"and the judge's {d} features",
            f"{'':26}" + "".join(f"{names[name]:>{WIDE}}" for name in columns),
        ]
        for key, words in SET_SCORES.items():
            row = [score_text(key, of["sets"][name]) for name in columns]
            lines.append(f"{words:26}" + "".join(f"{cell:>{WIDE}}" for cell in row))
        lines += too_few(n, d)
    if "clip" not in of:
        lines.append("CLIP score: not measured without --clip")
    else:
        lines += clip_rows(of["clip"], columns)
    return "\n".join(lines)


def clip_rows(scores: Mapping[str, Mapping[str, float]], columns: Sequence[str]) -> list[str]:
    """Format the CLIP score in its two conventions, and the interval of the images' score."""
    lines = []
    for words, scale, digits in (
        ("CLIP score, 100 max(cos,0)", 1.0, 1),
        ("the same, 2.5 max(cos,0)", HESSEL / PERCENT, 3),
    ):
        cells = [f"{scale * scores[name]['value']:>{WIDE}.{digits}f}" for name in columns]
        lines.append(f"{words:26}" + "".join(cells))
    low, high = scores["pictures"]["low"], scores["pictures"]["high"]
    line = f"CLIP score of the images: 95 % interval {low:.1f} to {high:.1f}"
    if "shuffled" in scores:
        line += f"; with the captions of other images {scores['shuffled']['value']:.1f}"
    return [*lines, line]


def folders_table(figures: Figures) -> str:
    """Format the scores of a folder of images against a folder of real ones for a terminal."""
    scores = figures["scores"]
    n, d = min(scores["images"], figures["real_images"]), scores["dimensions"]
    lines = [
        f"{scores['images']} images of {figures['images']}",
        f"against {figures['real_images']} of {figures['real']}",
        f"features: {figures['features']} ({d} dimensions)",
        *([figures["without_inception"]] if figures["without_inception"] else []),
        *(f"{words:26}{score_text(key, scores):>{WIDE}}" for key, words in SET_SCORES.items()),
    ]
    return "\n".join([*lines, *too_few(n, d)])


def too_few(n: int, d: int) -> list[str]:
    """Say what n images are too few for, if their features have d dimensions."""
    lines = []
    if n <= d:
        lines.append(f"{n} images do not determine the covariance of {d} features: use more")
    if n < 4 * d:
        lines.append(f"the limit for infinitely many images needs {4 * d} in each set")
    return lines


def score_text(key: str, scores: Mapping[str, float]) -> str:
    """Return one score of a set as a table shows it, or a dash."""
    if key not in scores:
        return "–"
    if key == "kid":
        return f"{1000 * scores['kid']:.1f} ± {1000 * scores['kid_std']:.1f}"
    if key == "frechet_slope":
        return f"{scores[key]:.0f}"
    return f"{scores[key]:.2f}" if key.startswith("frechet") else f"{scores[key]:.3f}"


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
