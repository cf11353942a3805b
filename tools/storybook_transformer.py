"""Make data/storybook-transformer from finished runs, with its card and its learning curve.

    python tools/storybook_transformer.py runs/transformer --averages runs/averages --images 200

You can give several runs, each started from the weights of the one before. The folder gets the
weights that the last one exported; metrics.json, with what is measured here on the test split;
training.json, with the records of the runs and their mean losses over every fifty steps; and
README.md, the card. `--averages` names a folder of averaged weights that were copied from the runs'
checkpoints during training: `1000.safetensors` has those after 1,000 steps in all. Steps that are
already in metrics.json are not measured again.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from storybook_parts import DATA, HEAD, thinned
from torch import Tensor

from sdlearn import DiffusionTransformer, StableDiffusion, flow, weights
from sdlearn.evaluation import Judge, load_judge
from sdlearn.evaluation.accuracy import batches, judge_images, prompt_cases, rates
from sdlearn.evaluation.few_steps import STEPS, Draw, scores
from sdlearn.evaluation.image_metrics import as_tensor
from sdlearn.evaluation.tables import markdown
from sdlearn.evaluation.training_record import collect, commands, training_section
from sdlearn.storybook import render
from sdlearn.text import Conditioning
from sdlearn.utils.atomic_files import read_json, write_json

FOLDER = DATA / "storybook-transformer"
SCALES = (1.0, 2.0, 3.0)
CURVE_STEPS = 20  # of Euler's method, for the images of the learning curve
CURVE_IMAGES = 100
VALIDATION = 512  # pages whose loss is measured


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", type=Path, nargs="+", help="folders of the runs, each started from the one before"
    )
    parser.add_argument(
        "--averages", type=Path, help="folder of averaged weights: STEP.safetensors"
    )
    parser.add_argument("--images", type=int, default=200, help="images for each measurement")
    args = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    export = DiffusionTransformer.from_pretrained(args.runs[-1] / "export")
    export.save_pretrained(FOLDER, torch.float16)
    sd, judge = StableDiffusion.storybook(device="cpu"), load_judge()
    training = collect(args.runs, FOLDER)
    losses = {run.name: thinned(run) for run in args.runs}
    write_json(FOLDER / "training.json", {"runs": training, "loss": losses})
    path = FOLDER / "metrics.json"
    known = read_json(path) if path.is_file() else {}
    done = sum(record["steps_done"] for record in training)
    points = curve(args.averages, done, known.get("curve", []), sd, judge)
    transformer = DiffusionTransformer.storybook()
    measured = {}
    for scale in SCALES:
        measured[f"{scale:g}"] = scores(drawn(transformer, sd, scale), judge, args.images)
        print(scale, measured[f"{scale:g}"], flush=True)
    metrics = {"captions": args.images, "steps": STEPS, "guidance": measured, "curve": points}
    write_json(path, metrics)
    text = card(transformer, metrics)
    repeat = f"```\n{commands(training)}```\n"
    page = f"{HEAD}{text}\n{training_section(training)}\n## Repeat it\n\n{repeat}"
    (FOLDER / "README.md").write_text(page, encoding="utf-8")


def drawn(transformer: DiffusionTransformer, sd: StableDiffusion, scale: float) -> Draw:
    """Return a function that draws with Euler's method, from pure noise.

    The noise is that of the pipeline's images with the same seeds.
    """
    config = transformer.config
    shape = (config.in_channels, config.sample_size, config.sample_size)

    @torch.inference_mode()
    def draw(texts: list[str], seed: int, steps: int) -> Sequence[Image]:
        cond = flow.transformer_text(sd.text, texts)
        empty = flow.transformer_text(sd.text, [""] * len(texts))
        velocity = flow.transformer_velocity(transformer, cond, empty, scale)
        seeds = (torch.Generator().manual_seed(seed + k) for k in range(len(texts)))
        eps = torch.stack([torch.randn(shape, generator=each) for each in seeds])
        *_, last = flow.euler(velocity, eps, flow.path(steps))
        return sd.to_images(last.x)

    return draw


# ------------------------------------------------------------------------------------ the curve


def curve(
    averages: Path | None,
    last: int,
    known: list[dict[str, float]],
    sd: StableDiffusion,
    judge: Judge,
) -> list[dict[str, float]]:
    """Measure the averaged weights after some steps, and those of the exported transformer.

    Args:
        averages: Folder of STEP.safetensors; None for the exported transformer alone.
        last: Steps of all runs.
        known: Points that needn't be measured again.
        sd: Gives the autoencoder and the text encoder.
        judge: Detects what the images show.

    Returns:
        For each step, "step", "loss" (`validation_loss`) and "right", the fraction of objects with
        the right kind, colour and side in CURVE_IMAGES images.
    """
    points = {int(point["step"]): point for point in known if point["step"] < last}
    loss_of = validation_loss(sd)
    files = {int(file.stem): file for file in (averages or Path()).glob("[0-9]*.safetensors")}
    for step in sorted({*(files if averages else ()), last} - points.keys()):
        transformer = DiffusionTransformer.storybook()
        if step != last:
            weights.load(transformer, files[step])
        right = accuracy(transformer, sd, judge)
        points[step] = {"step": step, "loss": round(loss_of(transformer), 4), "right": right}
        print(points[step], flush=True)
    return [points[step] for step in sorted(points)]


def accuracy(transformer: DiffusionTransformer, sd: StableDiffusion, judge: Judge) -> float:
    """Measure the fraction of objects that are right, in images of the first test captions."""
    cases = prompt_cases("test", CURVE_IMAGES)
    draw, images = drawn(transformer, sd, 3.0), list[Image]()
    for texts in batches([case.caption for case in cases], 50):
        images += draw(texts, len(images), CURVE_STEPS)
    return round(rates(judge_images(judge, cases, images, range(len(cases))))["right"].rate, 4)


def validation_loss(sd: StableDiffusion) -> Callable[[DiffusionTransformer], float]:
    """Return a function that always measures the loss on the same pages, noise and times.

    The pages are those of test captions; the times have the same distribution as in training.
    """
    cases = prompt_cases("test", VALIDATION)
    generator = torch.Generator().manual_seed(0)
    parts: list[tuple[Tensor, ...]] = []
    for first in range(0, VALIDATION, 64):
        some = cases[first : first + 64]
        with torch.inference_mode():
            x_0 = sd.vae.to_latent(
                as_tensor([render(case.scene, sd.spec.resolution) for case in some])
            )
            text = flow.transformer_text(sd.text, [case.caption for case in some])
        assert text.pooled is not None
        t = flow.draw_times(len(some), 0.0, 1.0, generator)
        eps = torch.randn(x_0.shape, generator=generator)
        parts.append((x_0, t, eps, text.context, text.pooled))

    @torch.inference_mode()
    def loss(transformer: DiffusionTransformer) -> float:
        each = [
            flow.transformer_loss(transformer, x_0, t, eps, Conditioning(context, pooled))
            for x_0, t, eps, context, pooled in parts
        ]
        return float(torch.stack(each).mean())

    return loss


# ------------------------------------------------------------------------------------- the card


def card(transformer: DiffusionTransformer, metrics: dict[str, Any]) -> str:
    """Write the card from what was measured."""
    config, n = transformer.config, metrics["captions"]
    parameters = sum(p.numel() for p in transformer.parameters())
    size = (FOLDER / "diffusion_pytorch_model.safetensors").stat().st_size
    head = ["guidance", *(str(steps) for steps in metrics["steps"])]
    rows = metrics["guidance"].items()
    right = [[scale, *(f"{x:.1%}" for x in row["right"])] for scale, row in rows]
    distance = [[scale, *(f"{x:.2f}" for x in row["frechet"])] for scale, row in rows]
    points = [
        [f"{point['step']:,}", f"{point['loss']:.3f}", f"{point['right']:.1%}"]
        for point in metrics["curve"]
    ]
    return f"""\
# A diffusion transformer for the storybook

This is a small version of Stable Diffusion 3's network (MM-DiT, arXiv:2403.03206). It replaces the
U-Net of the storybook model; the autoencoder and the text encoder are those of `data/storybook`.
It has {config.num_layers} blocks of {config.dim} channels with {config.num_heads} attention heads.
Its {parameters:,} parameters, in half precision, take {size / 1e6:.1f} MB. Each position of the
latent is a patch, so an image is {config.sample_size**2} tokens. A prompt is {flow.TOKENS} tokens,
and its pooled embedding is the hidden state of the end-of-text token.

```python
import torch

import sdlearn
from sdlearn import flow

sd, transformer = sdlearn.StableDiffusion.storybook(), sdlearn.DiffusionTransformer.storybook()
prompt = "a red cat to the left of a blue house on the sand at night"
cond, empty = (flow.transformer_text(sd.text.cpu(), [text]) for text in (prompt, ""))
velocity = flow.transformer_velocity(transformer, cond, empty, scale=3.0)
with torch.inference_mode():
    *_, last = flow.euler(velocity, torch.randn(1, 4, 8, 8), flow.path(20))
(image,) = sd.to_images(last.x)
```

`diffusers.SD3Transformer2DModel.from_pretrained` reads the folder.

## How it was made

It was trained from random weights with rectified flow: from x_t = (1 - t) x_0 + t eps and the
timestep 1000 t, it predicts the velocity eps - x_0. The times t are drawn from a logit-normal
distribution with mean 0 and standard deviation 1. For classifier-free guidance, a tenth of the
captions were replaced by the empty one. The weights are an exponential moving average.

## How good it is

Each row was measured on the same {n} captions of the test split, with one image each and the same
seeds. The columns give the number of steps of Euler's method, which starts from pure noise and
takes evenly spaced times. Guidance 1 means no guidance; with guidance, each step calls the
transformer twice. For comparison, the U-Net of `data/storybook`, which has 11 million parameters,
gets 97.8 % of the objects right, measured on 200 captions.

**Fraction of objects with the right kind, colour and side**

{markdown(head, right)}

**Fréchet distance** from the same number of true images, on the judge's features. Lower is better.
With so few images, even another set of true images would not reach 0. The U-Net reaches 6.9 with
200 images; with fewer images the distance is larger.

{markdown(head, distance)}

## The learning curve

The loss is measured on {VALIDATION} pages of the test split, with the same noise and times in every
row. The last column is the fraction of objects with the right kind, colour and side in the images
of {CURVE_IMAGES} test captions, drawn with guidance 3 and {CURVE_STEPS} steps of Euler's method.
The training steps of all runs are counted together. Each run starts from the averaged weights of
the one before. In runs that were not stopped early, the learning rate falls to almost 0.

{markdown(["training steps", "loss", "right"], points)}
"""


if __name__ == "__main__":
    main()
