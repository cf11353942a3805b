"""The model card: README.md of a model's folder, generated from the folder's own files.

metrics.json holds the results of `sdlearn evaluate --card`. training.json holds the records of the
training runs in their order. The sizes are counted in the model itself.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from sdlearn.evaluation.accuracy import FACTS
from sdlearn.evaluation.contact_sheets import DECODED, UNCHOSEN, WORST
from sdlearn.evaluation.tables import (
    GUIDANCES,
    SET_NAMES,
    SET_SCORES,
    STEPS,
    markdown,
    percent,
    score_text,
)
from sdlearn.evaluation.training_record import commands, training_section
from sdlearn.pipeline import StableDiffusion
from sdlearn.storybook import COLOURS, KINDS
from sdlearn.storybook.scenes import HELD_OUT_PAIRS
from sdlearn.utils.atomic_files import atomic_write, read_json

HEAD = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
language: en
---
"""
COLUMNS = {
    "renders": "true renders",
    "round_trip": "after the autoencoder",
    "text": "decoded from the text embeddings",
    "pictures": "images",
}
SPLIT_NAMES = {
    "test": "Test captions: compositions never trained on",
    "held_out": "Held-out captions: a kind in a colour that no training page shows it in",
}
TABLE = ("right", "sky", "ground", "page")
HIGH = 0.9  # the card states the widest interval of the rates from this one up


def write_card(sd: StableDiffusion, folder: Path) -> None:
    """Write README.md from a folder's metrics.json and, if it exists, training.json.

    Args:
        sd: The model.
        folder: The model's folder.

    Raises:
        FileNotFoundError: If there is no metrics.json.
        ValueError: If metrics.json or training.json cannot be read.
    """
    figures = read_json(folder / "metrics.json")
    record = folder / "training.json"
    training = read_json(record)["runs"] if record.is_file() else []
    sections = [
        HEAD,
        introduction(sd),
        data_section(),
        training_section(training),
        accuracy_section(figures),
        distance_section(figures),
        table_section(sd, figures),
        sheets_section(figures),
        reproduction_section(figures, training),
    ]
    with atomic_write(folder / "README.md") as part:
        part.write_text("\n".join(filter(None, sections)), encoding="utf-8")


def introduction(sd: StableDiffusion) -> str:
    """Describe the model: name, parts, sizes and use."""
    spec = sd.spec
    latent, factor = spec.vae.latent_channels, sd.vae.factor
    rows = [("U-Net", sd.unet), ("autoencoder", sd.vae), ("text encoder", sd.text.encoders[0])]
    table = markdown(["part", "class", "parameters"], [
        [name, f"`{type(module).__name__}`", f"{count(module):,}"] for name, module in rows
    ])  # fmt: skip
    size = spec.resolution
    side = size // factor
    return f"""\
# {spec.name.capitalize()}: Stable Diffusion in miniature

A latent text-to-image model for images of {size} x {size} pixels, trained from random weights with
the code in this repository. It has the parts of Stable Diffusion at a smaller size: an autoencoder
with a factor of {factor} ({size} x {size} x 3 pixel values become {side} x {side} x {latent} latent
values), a frozen text encoder, and a U-Net with cross-attention.

{table}
```python
import sdlearn

sd = sdlearn.StableDiffusion.storybook()
sd.text_to_image("a red cat to the left of a blue house on the sand at night")[0]
```

The folder has the published layout: `diffusers.StableDiffusionPipeline.from_pretrained` reads it.
"""


def data_section() -> str:
    """Describe the training data."""
    return f"""\
## Data

A synthetic picture book: {len(KINDS)} kinds of things in {len(COLOURS)} colours under five skies on
five grounds, with captions from a small grammar (`sdlearn.storybook`). No real images were used.
Training excludes one in ten compositions (the test split) and every page with one of
{len(HELD_OUT_PAIRS)} pairs of kind and colour (the held-out split).
"""


def accuracy_section(figures: dict[str, Any]) -> str:
    """Report the accuracy of every fact on each split, and the autoencoder's PSNR and SSIM."""
    text = f"""\
## Accuracy

A judge (`data/judge/`, a small detector trained on rendered pages alone) checks whether an image
shows what its caption says. Settings: guidance scale {figures["guidance"]:g},
{figures["steps"]} steps of {figures["sampler"]}, {figures["captions"]} captions of one or two
things, {seeds(figures)} each, 95 % intervals. Patterns, poses and the position of a single thing
are not judged. The first column shows the judge's result on the true renders of the same captions.
The second shows its result on those renders after the autoencoder, which is an upper bound for any
U-Net. The third shows what a small probe decodes from the text encoder's hidden states of the
captions. The U-Net has to guess what the hidden states do not contain.
"""
    for split, measured in splits(figures):
        vae = measured["vae"]
        text += f"""
**{SPLIT_NAMES[split]}**

{rates_table("", measured)}
{rates_table("without a network, by subtracting the background", measured.get("background", {}))}
Autoencoder on these {vae["pictures"]} renders: PSNR {vae["psnr"]:.2f} dB, SSIM {vae["ssim"]:.4f}.
"""
    return text


def rates_table(title: str, measured: dict[str, Any]) -> str:
    """Report the rates of every fact by the columns that were measured, if any were."""
    columns = [name for name in COLUMNS if name in measured]
    rows = [
        [words, *(percent(measured[c].get(fact), c == "pictures") for c in columns)]
        for fact, words in FACTS.items()
    ]
    return markdown([title, *(COLUMNS[c] for c in columns)], rows) if columns else ""


def distance_section(figures: dict[str, Any]) -> str:
    """Report the distances of the sets of images, or nothing if they were not measured."""
    text = ""
    for split, measured in splits(figures):
        if "sets" not in measured:
            continue
        columns = [name for name in SET_NAMES if name in measured["sets"]]
        rows = [
            [words.strip(), *(score_text(key, measured["sets"][name]) for name in columns)]
            for key, words in SET_SCORES.items()
        ]
        if "clip" in measured:
            scores = [f"{measured['clip'][name]['value']:.1f}" for name in columns]
            rows.append(["CLIP score, 100 max(cos, 0)", *scores])
        sizes = measured["sets"]["pictures"]
        text += f"""
**{SPLIT_NAMES[split]}**: {sizes["images"]} images

{markdown(["", *(SET_NAMES[name] for name in columns)], rows)}"""
    if not text:
        return ""
    return f"""\
## Distance to true pages

Sets of images, one image for each caption, compared with as many renders of other captions by the
judge's {sizes["dimensions"]} features. These distances cannot be compared with those from other
networks. The first column shows the scores of true renders in sets of this size.
{text}"""


def table_section(sd: StableDiffusion, figures: dict[str, Any]) -> str:
    """Report accuracy over guidance scale and steps, or nothing if it was not measured."""
    if "table_captions" not in figures:
        return ""
    text = f"""\
## Guidance and steps

Accuracy on {figures["table_captions"]} captions of each split, one image each, for every guidance
scale (down) and number of steps of {figures["sampler"]} (across). Bars in the plot are 95 %
intervals; `metrics.json` holds them for every value. For rates of {100 * HIGH:.0f} % and more they
extend at most {widest_interval(figures):.1f} points to either side.

![Accuracy against guidance, one line for each number of steps](table.png)
{default_scale(sd, figures)}"""
    for split, measured in splits(figures):
        text += f"\n### {SPLIT_NAMES[split]}\n"
        cells = {(c["guidance"], c["steps"]): c["pictures"] for c in measured["table"]}
        for fact in TABLE:
            rows = [[f"{g:g}", *(percent(cells[g, s].get(fact)) for s in STEPS)] for g in GUIDANCES]
            text += f"\n**{FACTS[fact]}**\n\n{markdown(['', *map(str, STEPS)], rows)}"
    text += f"""
### Few steps

This table compares a fast sampler with few steps and the usual one with many, at guidance scale
{figures["guidance"]:g}, on all {figures["captions"]} captions, {seeds(figures)} each. Both use the
same seeds:

"""
    rows = [
        [split.replace("_", "-"), f"{row['steps']} steps of {row['sampler']}"]
        + [percent(row["pictures"].get(fact), True) for fact in ("right", "page")]
        for split, measured in splits(figures)
        for row in measured["quick"]
    ]
    return text + markdown(["captions", "", FACTS["right"], FACTS["page"]], rows)


def default_scale(sd: StableDiffusion, figures: dict[str, Any]) -> str:
    """Compare the model's default guidance scale with the measured one, if they differ."""
    own, measured, steps = sd.spec.guidance_scale, figures["guidance"], figures["steps"]
    cells = {
        cell["guidance"]: cell["pictures"]["right"]["rate"]
        for cell in figures["splits"].get("test", {}).get("table", [])
        if cell["steps"] == steps and "right" in cell["pictures"]
    }
    if own == measured or not {own, measured} <= cells.keys():
        return ""
    return f"""
The model's default guidance scale is {own:g}. With {steps} steps and the test
captions, {100 * cells[own]:.1f} % of the objects have the right kind, colour and side at this
scale, and {100 * cells[measured]:.1f} % at {measured:g}.
"""


def splits(figures: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the measured splits in the order of SPLIT_NAMES, which JSON does not keep."""
    return [(name, figures["splits"][name]) for name in SPLIT_NAMES if name in figures["splits"]]


def widest_interval(figures: dict[str, Any]) -> float:
    """Return the largest distance, in points, from a rate of HIGH or more to its interval's end."""
    rates = [
        rate
        for _, measured in splits(figures)
        for cell in measured["table"]
        for fact, rate in cell["pictures"].items()
        if fact in TABLE
    ]
    reach = [max(r["high"] - r["rate"], r["rate"] - r["low"]) for r in rates if r["rate"] >= HIGH]
    return 100 * max(reach, default=0.0)


def sheets_section(figures: dict[str, Any]) -> str:
    """Show the contact sheets."""
    n = figures["captions"] * figures["seeds"]
    return f"""\
## Images

The first {min(DECODED, figures["captions"])} test renders and, below each row, their
reconstructions by the autoencoder, enlarged four times:

![True pages above their reconstructions](autoencoder.png)

The first {min(UNCHOSEN, n)} test captions, not selected, each with its seed. What the judge does
not find is in red:

![The first images with their captions](unchosen.png)

The worst {min(WORST, n)} of {n:,} images according to the judge:

![The worst images with their captions](worst.png)
"""


def reproduction_section(figures: dict[str, Any], training: Sequence[dict[str, Any]]) -> str:
    """List the commands that repeat the training and the evaluation, and the model's limits."""
    clip = any("clip" in measured for _, measured in splits(figures))
    return f"""\
## Reproduction

```
{commands(training)}sdlearn evaluate --card --n {figures["captions"]} --seeds {figures["seeds"]} \
--guidance {figures["guidance"]:g} --steps {figures["steps"]} --sampler {figures["sampler"]}\
{f" --table {figures['table_captions']}" if "table_captions" in figures else ""}\
{" --clip" if clip else ""}
```

## Limits

The model knows only the words of its captions and generates only {", ".join(KINDS[:-1])} and
{KINDS[-1]}. It is meant for learning how such models work.
"""


def seeds(figures: dict[str, Any]) -> str:
    """Return "one seed", "3 seeds"."""
    return "one seed" if figures["seeds"] == 1 else f"{figures['seeds']} seeds"


def count(module: nn.Module) -> int:
    """Count the parameters of a network."""
    return sum(p.numel() for p in module.parameters())
