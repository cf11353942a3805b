"""The model card: README.md of a model's folder, written from its own files, never by hand.

metrics.json holds what `sdlearn evaluate --card` measured, training.json what the runs that made
the weights recorded, in their order; the sizes are counted in the model itself.
"""

import json
from collections.abc import Sequence
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from sdlearn.evaluation.accuracy import FACTS
from sdlearn.evaluation.drawings import UNCHOSEN, WORST
from sdlearn.evaluation.tables import GUIDANCES, STEPS, percent
from sdlearn.files import read_json, replacing
from sdlearn.pipeline import StableDiffusion
from sdlearn.recipes import SHORTCUTS
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


def collect(runs: Sequence[Path], model: Path) -> list[dict[str, Any]]:
    """What the folders of some runs say of themselves: recipe, machine, steps done, seconds, and
    the "note" in their recipe.json, if somebody wrote one. They follow the runs that the model's
    training.json already lists, whose folders may be gone, and replace those of the same name.

    Raises FileNotFoundError or ValueError for a folder that is not a run of a recipe known here.
    """
    training = []
    for folder in runs:
        record = read_json(folder / "recipe.json")
        path = folder / "metrics.jsonl"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; every run keeps its metrics there")
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not rows or "part" not in record:
            raise ValueError(f"{folder} is not a run of `sdlearn train` that has done a step")
        if record["recipe"] not in recipes(record["part"]):
            raise ValueError(f"{folder} was made by a recipe {record['recipe']!r}, unknown here")
        batch = record["settings"]["batch"]
        seconds = sum(batch / row["images_per_second"] for row in rows if row["images_per_second"])
        done = {"run": folder.name, "steps_done": rows[-1]["step"], "seconds": round(seconds)}
        training.append({**record, **done})
    path = model / "training.json"
    listed = read_json(path)["runs"] if path.is_file() else []
    return [run for run in listed if run["run"] not in {r["run"] for r in training}] + training


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


def training_section(training: Sequence[dict[str, Any]]) -> str:
    if not training:
        return ""
    rows = []
    for record in training:
        settings = record["settings"]
        rows.append([
            record["run"],
            record["part"],
            settings.get("init") or "random weights",
            f"{record['steps_done']:,}",
            str(settings["batch"]),
            f"{settings['lr']:g}",
            f"{settings['scenes']:,}",
            duration(record["seconds"]),
            machine(record.get("machine", {})),
        ])  # fmt: skip
    head = ["run", "part", "from", "steps", "batch", "learning rate", "scenes", "time", "machine"]
    notes = "".join(f"{r['run']}: {r['note']}\n\n" for r in training if r.get("note"))
    spent = {"processors": 0.0, "accelerators": 0.0}
    for record in training:
        known = record.get("machine", {"device": "cpu"})  # the first runs kept none
        spent["processors" if known["device"] == "cpu" else "accelerators"] += record["seconds"]
    sums = " and ".join(f"{duration(s) if s else 'none'} on {where}" for where, s in spent.items())
    return f"""\
## Training

{markdown(head, rows)}
{notes}Every setting is in `training.json`. Times are those of the training loop alone, together
{sums}.
"""


def machine(record: dict[str, Any]) -> str:
    """What a run was computed on."""
    if not record:
        return "not recorded"
    n = record["threads"]
    threads = f", {n} thread{'s' * (n > 1)}" if record["device"] == "cpu" else ""
    return f"{record['device']}{threads}, torch {record['torch']}"


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
    for split in SPLIT_NAMES:  # JSON does not keep their order
        if split not in figures["splits"]:
            continue
        measured = figures["splits"][split]
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
    if "table" not in figures:
        return ""
    text = f"""\
## Guidance and steps

Of {figures["table_captions"]} test captions, one picture each, for every guidance (down) and number
of steps of {figures["sampler"]} (across).

![Accuracy against guidance, one line for each number of steps](table.png)
"""
    for fact in ("right", "sky", "ground", "page"):
        cells = {(c["guidance"], c["steps"]): c["pictures"].get(fact) for c in figures["table"]}
        rows = [[f"{g:g}", *(percent(cells[g, s]) for s in STEPS)] for g in GUIDANCES]
        text += f"\n**{FACTS[fact]}**\n\n{markdown(['', *map(str, STEPS)], rows)}"
    head = [f"guidance {figures['guidance']:g}", FACTS["right"], FACTS["page"]]
    rows = [
        [f"{row['steps']} steps of {row['sampler']}"]
        + [percent(row["pictures"].get(fact), True) for fact in ("right", "page")]
        for row in figures["quick"]
    ]
    return f"""\
{text}
Few steps of a sampler made for few against many of the usual one, one picture each of all
{figures["captions"]} test captions, from the same seeds:

{markdown(head, rows)}"""


def sheets_section(figures: dict[str, Any]) -> str:
    n = figures["captions"] * figures["seeds"]
    return f"""\
## Pictures

The first {min(UNCHOSEN, n)} test captions, unchosen, each with its seed; in red what the judge
misses:

![Unchosen pictures with their captions](unchosen.png)

The worst {min(WORST, n)} of {n:,} by the judge:

![The worst pictures with their captions](worst.png)
"""


def reproduction_section(figures: dict[str, Any], training: Sequence[dict[str, Any]]) -> str:
    made = "".join(
        f"sdlearn train {record['part']} --recipe {record['recipe']} --out runs/{record['run']}"
        f"{changes(record)}\n"
        for record in training
    )
    return f"""\
## The same again

```
{made}sdlearn evaluate --card --n {figures["captions"]} --seeds {figures["seeds"]} \
--guidance {figures["guidance"]:g} --steps {figures["steps"]} --sampler {figures["sampler"]}\
{f" --table {figures['table_captions']}" if "table" in figures else ""}
```

## Limits

It knows the words of its captions and nothing else, draws {", ".join(KINDS[:-1])} and
{KINDS[-1]} and nothing else, and is meant for learning how such models work.
"""


def recipes(part: str) -> dict[str, Any]:
    """The named recipes of a part."""
    named: dict[str, Any] = import_module(f"sdlearn.recipes.{part}").RECIPES
    return named


def changes(record: dict[str, Any]) -> str:
    """The settings in which a run differs from its recipe, as arguments of `sdlearn train`.

    A setting that did not exist yet when the run was made had the effect of its class's default.
    """
    recipe = recipes(record["part"])[record["recipe"]]
    before = {field.name: field.default for field in fields(recipe) if field.default is not MISSING}
    known, before = json.loads(json.dumps([vars(recipe), before]))  # tuples become lists
    text = ""
    for name, value in (before | record["settings"]).items():
        if known.get(name, value) != value:
            option = f"--{name} {value}" if name in SHORTCUTS else f"--set '{name}={value}'"
            text += f" {option}"
    return text


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def seeds(figures: dict[str, Any]) -> str:
    return "one seed" if figures["seeds"] == 1 else f"{figures['seeds']} seeds"


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
