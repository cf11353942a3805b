"""The model card: README.md of a model's folder, written from its own files, never by hand.

metrics.json holds what `sdlearn evaluate --card` measured, training.json what the runs that made
the weights recorded, in their order; the sizes are counted in the model itself.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from sdlearn.evaluation.accuracy import FACTS
from sdlearn.evaluation.drawings import DECODED, UNCHOSEN, WORST
from sdlearn.evaluation.history import commands, training_section
from sdlearn.evaluation.tables import GUIDANCES, STEPS, markdown, percent
from sdlearn.files import read_json, replacing
from sdlearn.pipeline import StableDiffusion
from sdlearn.storybook import COLOURS, KINDS
from sdlearn.storybook.scenes import HELD_OUT_PAIRS

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
    "text": "read off the text's states",
    "pictures": "pictures",
}
SPLIT_NAMES = {
    "test": "Test captions: compositions never trained on",
    "held_out": "Held-out captions: a kind in a colour that no training page shows it in",
}
TABLE = ("right", "sky", "ground", "page")
HIGH = 0.9  # from here on the text says how far intervals reach


def write_card(sd: StableDiffusion, folder: Path) -> None:
    """Write folder/README.md from the folder's metrics.json and, where there is one, training.json.

    Raises FileNotFoundError or ValueError, naming the file, where the metrics cannot be read.
    """
    figures = read_json(folder / "metrics.json")
    path = folder / "training.json"
    training = read_json(path)["runs"] if path.is_file() else []
    sections = [
        HEAD,
        introduction(sd),
        data_section(),
        training_section(training),
        accuracy_section(figures),
        table_section(figures),
        sheets_section(figures),
        reproduction_section(figures, training),
    ]
    text = "\n".join(section for section in sections if section)
    with replacing(folder / "README.md") as part:
        part.write_text(text, encoding="utf-8")


def introduction(sd: StableDiffusion) -> str:
    spec = sd.spec
    latent, factor = spec.vae.latent_channels, sd.vae.factor
    rows = [
        ("U-Net", sd.unet),
        ("autoencoder", sd.vae),
        ("text encoder", sd.text.encoders[0]),
    ]
    table = markdown(["part", "class", "parameters"], [
        [name, f"`{type(module).__name__}`", f"{count(module):,}"] for name, module in rows
    ])  # fmt: skip
    side = spec.size // factor
    return f"""\
# {spec.name.capitalize()}: Stable Diffusion in miniature

A latent text-to-image model of {spec.size} x {spec.size} pixels, trained from nothing with the code
of this repository. Its parts are Stable Diffusion's, smaller: an autoencoder with a factor of
{factor} ({spec.size} x {spec.size} x 3 pixels become {side} x {side} x {latent} numbers), a frozen
text encoder, a U-Net with cross-attention.

{table}
```python
import sdlearn

sd = sdlearn.StableDiffusion.storybook()
sd.text_to_image("a red cat to the left of a blue house on the sand at night")[0]
```

The folder has the published layout: `diffusers.StableDiffusionPipeline.from_pretrained` reads it.
"""


def data_section() -> str:
    return f"""\
## Data

A drawn children's book, generated: {len(KINDS)} kinds of things in {len(COLOURS)} colours under
five skies on five grounds, with captions from a small grammar (`sdlearn.storybook`). Nobody's
pictures were used. Never trained on: one in ten compositions (the test split), and every page with
one of {len(HELD_OUT_PAIRS)} pairs of kind and colour (the held-out split).
"""


def accuracy_section(figures: dict[str, Any]) -> str:
    text = f"""\
## How good it is

A judge (`data/judge/`, a small detector trained on drawn pages alone) looks for what the caption
says: guidance {figures["guidance"]:g}, {figures["steps"]} steps of {figures["sampler"]},
{figures["captions"]} captions of one or two things, {seeds(figures)} each, 95 % intervals.
Patterns, poses and the place of a lone thing are not judged. The first column is the judge on the
true renders of the same captions, the second those renders through the autoencoder and back, which
no U-Net can beat. The third is what a small network, trained for that, reads off the text encoder's
states of the captions: what is blurred there the U-Net has to guess.
"""
    for split, measured in splits(figures):
        rows = [
            [words, *(percent(measured.get(c, {}).get(fact), c == "pictures") for c in COLUMNS)]
            for fact, words in FACTS.items()
        ]
        vae = measured["vae"]
        text += f"""
**{SPLIT_NAMES[split]}**

{markdown(["", *COLUMNS.values()], rows)}
Autoencoder on these {vae["pictures"]} renders: PSNR {vae["psnr"]:.2f} dB, SSIM {vae["ssim"]:.4f}.
"""
    return text


def table_section(figures: dict[str, Any]) -> str:
    if "table_captions" not in figures:
        return ""
    text = f"""\
## Guidance and steps

Of {figures["table_captions"]} captions of each split, one picture each, for every guidance (down)
and number of steps of {figures["sampler"]} (across). Bars in the plot are 95 % intervals, which
`metrics.json` holds for every figure; where {100 * HIGH:.0f} % and more are right, they reach \
{widest(figures):.1f} points
to either side at most.

![Accuracy against guidance, one line for each number of steps](table.png)
"""
    for split, measured in splits(figures):
        text += f"\n### {SPLIT_NAMES[split]}\n"
        cells = {(c["guidance"], c["steps"]): c["pictures"] for c in measured["table"]}
        for fact in TABLE:
            rows = [[f"{g:g}", *(percent(cells[g, s].get(fact)) for s in STEPS)] for g in GUIDANCES]
            text += f"\n**{FACTS[fact]}**\n\n{markdown(['', *map(str, STEPS)], rows)}"
    text += f"""
### Few steps

Few steps of a sampler made for few against many of the usual one, at guidance \
{figures["guidance"]:g}, of all
{figures["captions"]} captions, {seeds(figures)} each, the same ones for both:

"""
    rows = [
        [split.replace("_", "-"), f"{row['steps']} steps of {row['sampler']}"]
        + [percent(row["pictures"].get(fact), True) for fact in ("right", "page")]
        for split, measured in splits(figures)
        for row in measured["quick"]
    ]
    return text + markdown(["captions", "", FACTS["right"], FACTS["page"]], rows)


def splits(figures: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The splits that were measured, in the order of SPLIT_NAMES: JSON does not keep theirs."""
    return [(name, figures["splits"][name]) for name in SPLIT_NAMES if name in figures["splits"]]


def widest(figures: dict[str, Any]) -> float:
    """How far, in points, an interval of the table reaches from a rate of HIGH or more at most."""
    rates = [
        cell["pictures"][fact]
        for _, measured in splits(figures)
        for cell in measured["table"]
        for fact in TABLE
        if fact in cell["pictures"]
    ]
    reach = [max(r["high"] - r["rate"], r["rate"] - r["low"]) for r in rates if r["rate"] >= HIGH]
    return 100 * max(reach, default=0.0)


def sheets_section(figures: dict[str, Any]) -> str:
    n = figures["captions"] * figures["seeds"]
    return f"""\
## Pictures

The first {min(DECODED, figures["captions"])} test renders, and below each row the same pages
through the autoencoder and back, four-fold enlarged:

![True pages above their reconstructions](autoencoder.png)

The first {min(UNCHOSEN, n)} test captions, unchosen, each with its seed; in red what the judge
misses:

![Unchosen pictures with their captions](unchosen.png)

The worst {min(WORST, n)} of {n:,} by the judge:

![The worst pictures with their captions](worst.png)
"""


def reproduction_section(figures: dict[str, Any], training: Sequence[dict[str, Any]]) -> str:
    return f"""\
## The same again

```
{commands(training)}sdlearn evaluate --card --n {figures["captions"]} --seeds {figures["seeds"]} \
--guidance {figures["guidance"]:g} --steps {figures["steps"]} --sampler {figures["sampler"]}\
{f" --table {figures['table_captions']}" if "table_captions" in figures else ""}
```

## Limits

It knows the words of its captions and nothing else, draws {", ".join(KINDS[:-1])} and
{KINDS[-1]} and nothing else, and is meant for learning how such models work.
"""


def seeds(figures: dict[str, Any]) -> str:
    return "one seed" if figures["seeds"] == 1 else f"{figures['seeds']} seeds"


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
