"""Make data/storybook-controlnet, -inpaint or -few-steps, with its card, from finished runs.

    python tools/storybook_parts.py controlnet runs/controlnet
    python tools/storybook_parts.py inpaint runs/inpaint runs/inpaint2 --rank 48
    python tools/storybook_parts.py few-steps runs/distill --rank 26 --images 200

Each folder gets the weights exported by the last run; training.json, with the records of all runs
and their mean losses over every fifty steps; and README.md, the card. The card's numbers are
measured here, on the test split. Runs already listed in training.json needn't be named again. For
few-steps, the original model isn't measured again if its scores are in metrics.json.
"""

import argparse
import math
from pathlib import Path

import torch

from sdlearn import ControlNet, StableDiffusion
from sdlearn.evaluation import control, inpainting, load_judge
from sdlearn.evaluation.few_steps import STEPS, drawn_by, drawn_by_flow, scores
from sdlearn.evaluation.image_metrics import as_tensor
from sdlearn.evaluation.tables import markdown
from sdlearn.evaluation.training_record import collect, commands, training_section
from sdlearn.inpainting import widen_for_inpainting
from sdlearn.storybook import HINTS, render
from sdlearn.utils.atomic_files import read_json, write_json
from sdlearn.utils.metrics_file import read_metrics
from sdlearn.weights.differences import write_difference
from sdlearn.weights.storybook_models import DIFFERENCE

DATA = Path(__file__).resolve().parents[1] / "data"
THINNED = 50  # training.json keeps one mean loss for this many steps

HEAD = """\
---
license: apache-2.0
library_name: diffusers
language: en
---

"""


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "part", choices=("controlnet", "inpaint", "few-steps"), help="what the runs trained"
    )
    parser.add_argument(
        "runs", type=Path, nargs="+", help="folders of the finished runs; the last export is stored"
    )
    parser.add_argument(
        "--rank", type=int, default=48, help="rank of the stored difference; not for controlnet"
    )
    parser.add_argument(
        "--images", type=int, default=128, help="number of images for each measurement"
    )
    args = parser.parse_args()
    folder = DATA / f"storybook-{args.part}"
    folder.mkdir(exist_ok=True)
    export = args.runs[-1] / "export"
    if args.part == "controlnet":
        ControlNet.from_pretrained(export).save_pretrained(folder, torch.float16)
        text = controlnet_card(args.images)
    else:
        store_difference(export, folder / DIFFERENCE, args.rank)
        card = inpaint_card if args.part == "inpaint" else few_steps_card
        text = card(args.images, args.rank)
    training = collect(args.runs, folder)
    listed = folder / "training.json"
    losses = read_json(listed)["loss"] if listed.is_file() else {}
    losses |= {run.name: thinned(run) for run in args.runs}
    write_json(folder / "training.json", {"runs": training, "loss": losses})
    repeat = f"```\n{commands(training)}```\n"
    page = f"{HEAD}{text}\n{training_section(training)}\n## Repeat it\n\n{repeat}"
    (folder / "README.md").write_text(page, encoding="utf-8")


def thinned(run: Path) -> list[list[float]]:
    """Return the mean loss over every fifty steps of a run: pairs of the last step and the mean."""
    rows, _ = read_metrics(run / "metrics.jsonl")
    pieces = [rows[k : k + THINNED] for k in range(0, len(rows) - THINNED + 1, THINNED)]
    return [
        [row[-1]["step"], round(sum(each["loss"] for each in row) / len(row), 5)] for row in pieces
    ]


# ------------------------------------------------------------------------------------ ControlNet


def controlnet_card(n: int) -> str:
    """Measure the ControlNet and write its card."""
    sd, judge = StableDiffusion.storybook(device="cpu"), load_judge()
    net = ControlNet.storybook(device="cpu")
    rows = []
    for hint in HINTS:
        cases = control.control_cases(n, people=hint == "pose")
        truth = [render(case.scene, control.SIZE) for case in cases]
        with torch.no_grad():
            decoded = sd.to_images(sd.vae.to_latent(as_tensor(truth)))
        rows.append(control_row(f"{hint}: true images, encoded and decoded",
                                control.score(cases, decoded, judge)))  # fmt: skip
        rows.append(control_row(f"{hint}: no control",
                                control.control_score(sd, judge, hint, None, n)))  # fmt: skip
        scored = control.control_score(sd, judge, hint, net, n)
        rows.append(control_row(f"{hint}: with control", scored))
        print(hint, scored, flush=True)
    head = ["", "IoU of silhouettes", "offset, pixels", "kind and colour right", "pose right"]
    parameters = sum(p.numel() for p in net.parameters())
    return f"""\
# A ControlNet for the storybook model

One ControlNet with {parameters:,} parameters for four kinds of hint: edges, depth, segmentation and
pose. It controls the model in `data/storybook`, whose U-Net stayed frozen during the training.

```python
import random

import sdlearn
from sdlearn.storybook import edges, sample_scene

sd, controlnet = sdlearn.StableDiffusion.storybook(), sdlearn.ControlNet.storybook()
hint = edges(sample_scene(random.Random(7)), 64)
(image,) = sd.text_to_image("a cat on the sand at night", control=(controlnet, hint))
```

`diffusers.ControlNetModel.from_pretrained` reads the folder.

## How well it follows a hint

The table gives means over {n} scenes of the test split, which the training doesn't contain, with 20
steps and the model's own guidance scale. The condition is recovered from the generated image:

- *IoU of silhouettes*: how far the silhouettes of the objects overlap with those of the true image.
  A silhouette is made of the pixels that differ from the empty background.
- *Offset*: the distance of each object, as the judge detects it, from its place in the scene; 32
  pixels for an object that the judge doesn't find.
- *Kind and colour right*: the fraction of objects with the kind and colour of the caption, which
  decides the colours.
- *Pose right*: the fraction of people for whom the true pose, out of four, fits the silhouette
  best. In the rows for poses, each scene is one person.

{markdown(head, rows)}

`convergence.json` and `convergence.png`, which notebook 14 draws, show the first 500 steps of
training: how far images follow the hint at some checkpoints, and in another run that began with
torch's default initialisation.
"""


def control_row(name: str, score: control.ControlScore) -> list[str]:
    """Return a row of the table."""
    pose = "" if math.isnan(score.pose) else f"{score.pose:.2f}"
    return [name, f"{score.iou:.3f}", f"{score.offset:.2f}", f"{score.right:.2f}", pose]


# ----------------------------------------------------------------------------- low-rank differences


def store_difference(export: Path, path: Path, rank: int) -> None:
    """Write the difference of a trained U-Net from that of the model, widened for inpainting."""
    sd = StableDiffusion.from_pretrained(export, device="cpu")
    tuned, base = sd.unet, StableDiffusion.storybook(device="cpu").unet
    if sd.is_inpainting:
        base = widen_for_inpainting(base)
    write_difference(path, tuned, base.state_dict(), rank, torch.float16)


# ------------------------------------------------------------------------------------ inpainting


@torch.no_grad()
def ceiling(n: int) -> float:
    """PSNR in the hole of the true images, encoded and decoded: the autoencoder's own error."""
    sd, cases = StableDiffusion.storybook(device="cpu"), inpainting.hidden_half_cases(n)
    truth = as_tensor([render(case.page, inpainting.SIZE) for case in cases])
    mask = torch.stack([case.mask for case in cases])
    decoded = as_tensor(sd.to_images(sd.vae.to_latent(truth)))
    return float(inpainting.hole_psnr(decoded, truth, mask).mean())


def inpaint_card(n: int, rank: int) -> str:
    """Measure the inpainting model and write its card."""
    judge = load_judge()
    rows = []
    for name, inpaint in (("replacement", False), ("nine channels", True)):
        sd = StableDiffusion.storybook(device="cpu", inpaint=inpaint)
        for scale in (1.5, 3.0):
            score = inpainting.hole_score(sd, judge, n, guidance_scale=scale)
            print(name, scale, score, flush=True)
            rows.append([
                name, f"{scale:g}", f"{score.psnr:.2f}", f"{score.step:.1f}",
                f"{score.new_thing:.2f}", f"{score.whole_page:.2f}",
            ])  # fmt: skip
    head = [
        "",
        "guidance",
        "PSNR in the hole, dB",
        "step across the border",
        "new object",
        "whole image",
    ]
    size = (DATA / "storybook-inpaint" / DIFFERENCE).stat().st_size
    return f"""\
# The storybook model for inpainting

The U-Net of `data/storybook` with nine input channels (noisy latent, mask, latent of the masked
image), trained further. It is stored as its difference from that U-Net: two matrices of rank {rank}
for each large weight, {size / 1e6:.1f} MB in all.

```python
import sdlearn

sd = sdlearn.StableDiffusion.storybook(inpaint=True)
sd.inpaint("a blue house on the grass by day", image, mask)
```

`sd.save_pretrained(folder)` writes the whole model in the published layout, which
`diffusers.StableDiffusionInpaintPipeline` reads.

## How well it fills a hole

The table compares it with replacement, which uses the model it started from, on {n} images of the
test split for each of two tasks, with 20 steps. Its default guidance scale is 1.5; that of the
model it started from is 3. True images that were encoded and decoded have {ceiling(n):.1f} dB in
the hole.

In the first task, the right half of an object is hidden, and the caption is that of the image:

- *PSNR in the hole*: the peak signal-to-noise ratio of the hole's content.
- *Step across the border*: the step between neighbouring pixels across the hole's border, minus the
  same step in the true image, in grey levels of 0 … 255.

In the second task, the hole is a box around an object, and the caption names another in its place:

- *New object*: the fraction of images in which the judge finds the new object in its colour.
- *Whole image*: the fraction in which the other object is right as well.

{markdown(head, rows)}
"""


# ------------------------------------------------------------------------------------- few steps


def few_steps_card(n: int, rank: int) -> str:
    """Measure the distilled model and the one it was distilled from, and write its card."""
    folder, judge = DATA / "storybook-few-steps", load_judge()
    sd = StableDiffusion.storybook(device="cpu")
    student = StableDiffusion.storybook(device="cpu", few_steps=True)
    methods = {  # each is measured with the same captions and seeds
        "`ddim`, guidance 3": drawn_by(sd, "ddim"),
        "`dpm_pp_2m`, guidance 3": drawn_by(sd, "dpm_pp_2m"),
        "Euler on the flow path, guidance 3": drawn_by_flow(sd, 3.0),
        "Euler on the flow path, guidance 1.5": drawn_by_flow(sd, 1.5),
        "Euler on the flow path, no guidance": drawn_by_flow(sd, 1.0),
        "**this model**": drawn_by(student),
    }
    path = folder / "metrics.json"
    known = read_json(path) if path.is_file() else {}
    kept = known["methods"] if known.get("captions") == n else {}
    kept.pop(list(methods)[-1], None)  # its weights are new
    measured = {}
    for name, draw in methods.items():
        measured[name] = kept.get(name) or scores(draw, judge, n)
        print(name, measured[name], flush=True)
        write_json(path, {"captions": n, "steps": STEPS, "methods": measured})
    head = ["", *(str(steps) for steps in STEPS)]
    right = [[name, *(f"{x:.1%}" for x in row["right"])] for name, row in measured.items()]
    distance = [[name, *(f"{x:.2f}" for x in row["frechet"])] for name, row in measured.items()]
    size = (folder / DIFFERENCE).stat().st_size
    return f"""\
# The storybook model for four steps

This is the U-Net of `data/storybook`, distilled to four steps without guidance. An image takes four
calls of the U-Net instead of sixty. Only its difference from the original U-Net is stored: two
matrices of rank {rank} for each large weight, {size / 1e6:.1f} MB in all.

```python
import sdlearn

sd = sdlearn.StableDiffusion.storybook(few_steps=True)
sd.text_to_image("a red cat to the left of a blue house on the sand at night")[0]
```

By default it takes four steps with guidance scale 1, which means no guidance.
`sd.save_pretrained(folder)` writes the whole model in the published layout. The U-Net predicts
noise as before, so `diffusers.StableDiffusionPipeline` draws the same images from the same noise,
with `num_inference_steps=4, guidance_scale=1`.

## How it was made

The teacher is the model in `data/storybook`. It drew one image for each training caption, in twelve
steps of DPM-Solver++ with guidance scale 3. Each trajectory is cut into four windows, and the
student learns to cross each window in a straight line (piecewise rectified flow, arXiv:2405.07510).

## How good it is

Each row was measured on the same {n} captions of the test split, with one image each and the same
seeds. The columns give the number of steps. With guidance, each step calls the U-Net twice. The
last row is this model; all other rows are the model it was distilled from. On the flow path, the
times of Euler's method are evenly spaced and start from the noisiest time of the schedule.

**Fraction of objects with the right kind, colour and side**

{markdown(head, right)}

**Fréchet distance** from the same number of true images, on the judge's features. Lower is better.
With so few images, even another set of true images would not reach 0.

{markdown(head, distance)}
"""


if __name__ == "__main__":
    main()
