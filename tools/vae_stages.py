"""Train the storybook's autoencoder from random weights, and show what it can do after each stage.

    python tools/vae_stages.py FOLDER

The training is `sdlearn train vae --recipe storybook --scenes 20000 --steps 9300`, with one thread:
155 steps take about a minute. FOLDER receives the averaged weights of each stage; those that are
there already are not trained again. From them come two files of data/storybook, which notebook 02
shows: the reconstructions of five test images (autoencoder_stages.png, a row for each stage) and
the quality over 200 test images (autoencoder_stages.json).
"""

import argparse
import dataclasses
import random
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from sdlearn.evaluation.image_metrics import as_tensor, psnr, ssim
from sdlearn.recipes.vae import RECIPES, make_job, new_vae
from sdlearn.storybook import Scene, render, sample_scene
from sdlearn.utils.atomic_files import write_json
from sdlearn.utils.images import to_pil
from sdlearn.vae import VAE

STAGES = {155: 1, 775: 5, 3100: 20, 9300: 60}  # minutes of one CPU core, by steps
SHOWN = (1, 2, 9, 12, 27)  # of the scenes that notebook 02 draws
RECIPE = dataclasses.replace(RECIPES["storybook"], steps=max(STAGES), scenes=20_000)
DATA = Path(__file__).resolve().parents[1] / "data" / "storybook"


def main() -> None:
    """Train what is missing, then measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the weights of the stages")
    folder = parser.parse_args().folder
    if not all((folder / f"ema{step}.pt").is_file() for step in STAGES):
        folder.mkdir(parents=True, exist_ok=True)
        train(folder)
    scenes = [sample_scene(random.Random(f"stages-{k}"), "test") for k in range(200)]
    many = as_tensor([render(scene, RECIPE.size) for scene in scenes])
    few = as_tensor([render(scene(k), RECIPE.size) for k in SHOWN])
    rows, measured = [], []
    for step, minutes in STAGES.items():
        vae = new_vae(RECIPE).eval()
        vae.load_state_dict(torch.load(folder / f"ema{step}.pt", weights_only=True))
        back = reconstructed(vae, many)
        quality = {"psnr": psnr(back, many), "ssim": ssim(back, many)}
        means = {name: round(values.mean().item(), 3) for name, values in quality.items()}
        measured.append({"minutes": minutes, "steps": step, **means})
        rows.append(to_pil(reconstructed(vae, few)))
    sheet = Image.new("RGB", (RECIPE.size * len(SHOWN), RECIPE.size * len(rows)))
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (RECIPE.size * x, RECIPE.size * y))
    sheet.save(DATA / "autoencoder_stages.png", optimize=True)
    write_json(DATA / "autoencoder_stages.json", {"shown": SHOWN, "stages": measured})


def scene(k: int) -> Scene:
    """A test scene of two things, as notebook 02 samples it."""
    return sample_scene(random.Random(f"0-{k}"), "test", n=2)


@torch.no_grad()
def reconstructed(vae: VAE, x: Tensor) -> Tensor:
    """The images (b, 3, h, w) after encoding and decoding."""
    return vae.decode(vae.encode(x)[0]).clamp(-1, 1)


def train(folder: Path) -> None:
    """Train, and write the averaged weights of each stage."""
    torch.set_num_threads(1)
    job = make_job(RECIPE, folder / "cache", torch.device("cpu"))
    for k in range(RECIPE.steps):
        job.step(k)
        if k + 1 in STAGES:
            torch.save(job.networks["ema"].state_dict(), folder / f"ema{k + 1}.pt")


if __name__ == "__main__":
    main()
