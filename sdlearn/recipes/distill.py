"""Few-step distillation: a U-Net that needs four steps and no guidance, from a finished model.

The method is the reflow of rectified flow (Liu et al., arXiv:2209.03003), applied piecewise (Yan et
al., arXiv:2405.07510). The finished model, the teacher, draws images with guidance and many small
steps. Its curved trajectories are cut into windows, one for each step of the student. The student
learns the straight line across each window: the velocity from its first state to its last. It
learns the effect of guidance too, so it calls the U-Net only once per step.

The velocity is computed from the U-Net's noise prediction (see `sdlearn.flow`), so the student
starts as a copy of the teacher, and its sampler is plain DDIM with "trailing" spacing.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from sdlearn.distributed import own_rows
from sdlearn.flow import interpolate, time_of, velocity_loss
from sdlearn.guidance import classifier_free_guidance, denoiser
from sdlearn.pipeline import StableDiffusion
from sdlearn.recipes.base_model import (
    BaseModel,
    check_predicts_noise,
    check_room,
    check_unchanged,
    frozen_base,
    load_base,
)
from sdlearn.recipes.captioned_latents import DiffusionRecipe
from sdlearn.recipes.contact_sheets import grid
from sdlearn.recipes.data import Batches, key, load_captions, to_pixels, training_images
from sdlearn.recipes.denoising_step import accumulated_step, compiled, in_training
from sdlearn.recipes.initial_weights import load_initial_weights
from sdlearn.recipes.latent_cache import HALF, cached, encode_captions, weights_key
from sdlearn.recipes.noise import draw_noise
from sdlearn.recipes.ranges import Place, Range
from sdlearn.recipes.recipe import MAX_BYTES
from sdlearn.recipes.unet import PROMPTS
from sdlearn.samplers import dpm_pp_2m
from sdlearn.schedule import NoiseSchedule, Point
from sdlearn.text import Conditioning
from sdlearn.training import TrainingJob, step_generator
from sdlearn.unet import UNet
from sdlearn.versions import few_steps_spec

CHUNK = 64  # trajectories that the teacher draws at once


@dataclass(frozen=True, kw_only=True)
class DistillRecipe(DiffusionRecipe):
    """Settings of the distillation. The teacher draws its images from the captions alone.

    Attributes:
        model: Folder of the teacher, or "" for the shipped model.
        windows: Number of windows, and of the student's steps.
        substeps: Steps of DPM-Solver++ 2M that the teacher takes in each window.
        guidance: Guidance scale of the teacher.
        inside: Fraction of the training points that are drawn uniformly from a whole window. The
            others are the first points of windows. A student that is run with `windows` steps calls
            the U-Net at no other points.
        dropout: 0, because the student is used without guidance and needs no empty captions.
    """

    model: Place = ""
    windows: Annotated[int, Range(1, 64)] = 4
    substeps: Annotated[int, Range(1, 64)] = 3
    guidance: Annotated[float, Range(0, 100)] = 3.0
    inside: Annotated[float, Range(0, 1)] = 0.0
    dropout: Annotated[float, Range(0, 1)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        why = {
            "dropout": "the student is used without guidance and never sees an empty caption",
            "min_snr": "all windows count the same",
            "t_mean": "the times are those of the windows",
            "t_std": "the times are those of the windows",
        }
        for name, reason in why.items():
            if getattr(self, name) != 0:
                raise ValueError(f"{name} is {getattr(self, name)}; accepted: 0, because {reason}")
        if self.windows * self.substeps > 500:
            raise ValueError(
                f"windows is {self.windows} and substeps is {self.substeps}; accepted: at most 500 "
                "steps of the teacher in all"
            )


RECIPES = {
    "storybook": DistillRecipe(
        steps=1800,
        batch=64,
        lr=6e-4,
        warmup=50,
        scenes=6000,
        inside=0.2,
        ema=0.998,
    ),
    "small": DistillRecipe(steps=100, batch=8, lr=3e-4, warmup=10, scenes=40, substeps=2, ema=0.98),
}


class Lines(NamedTuple):
    """Training points on the student's lines.

    Attributes:
        x: The points x_t, (b, c, h, w), as in `sdlearn.flow`.
        t: Their times, (b,), float64 on the CPU.
        target: The velocities of the lines, (b, c, h, w).
        context: Hidden states of the captions, (b, 77, d).
    """

    x: Tensor
    t: Tensor
    target: Tensor
    context: Tensor

    def parts(self, n: int) -> Iterator[Self]:
        """Divide the points into n equal parts, in order."""
        for each in zip(*(field.chunk(n) for field in self), strict=True):
            yield type(self)(*each)


def make_job(
    recipe: DistillRecipe, cache: Path, device: torch.device, run: Path | None = None
) -> TrainingJob:
    """Draw the teacher's trajectories, and build the step that trains the student on them.

    Args:
        recipe: The settings.
        cache: Folder for captions, hidden states and trajectories; those in it are not drawn again.
        device: Where to train.
        run: Folder of the run to resume from its checkpoint; None for a new run.

    Raises:
        FileNotFoundError: If there is no such model.
        ValueError: If the model does not fit the recipe, or the memory is too small.
    """
    base = load_base(recipe.model, recipe, device)
    sd = base.sd
    check_predicts_noise(base)
    check_room(base, recipe, device, copies=6)  # with the EMA and the teacher
    unet = UNet(sd.unet.config).to(device)
    unet.load_state_dict(sd.unet.state_dict())
    load_initial_weights(recipe.init, {"unet": unet}, run)
    trained = in_training(unet, recipe, device)
    predict = compiled(unet, recipe, device)
    captions, lines = training_lines(recipe, base, cache, device)

    def draw(k: int) -> tuple[Lines, Callable[[Lines], Tensor]]:
        return lines(k), lambda part: velocity_loss(
            predict, part.x, part.t, part.target, part.context, sd.schedule
        )

    step = accumulated_step(recipe, trained, draw, device)
    model = assemble(recipe, sd, trained.average.module)
    prompts = captions[:8] if recipe.data else [*PROMPTS]

    def samples() -> Image.Image:
        """Draw images of up to eight prompts, from the same noise every time."""
        z = model.text_to_image(prompts, seed=0, output="latent", progress=False)
        images = to_pixels(sd.vae.to_image(z))
        return grid([images[:4], images[4:]] if len(images) == 8 else [images], scale=3)

    networks: dict[str, nn.Module] = {"unet": unet, "ema": trained.average.module}
    frozen, states = frozen_base(base, recipe, cache), trained.states("unet")
    return TrainingJob(networks, states, step, recipe.batch, samples, frozen, trained.skeletons)


def window_points(recipe: DistillRecipe, schedule: NoiseSchedule) -> list[Point]:
    """Return the ends of the windows: the path of the student's sampler, from noise to z_0."""
    return schedule.path(recipe.windows, "trailing", "zero")


def training_lines(
    recipe: DistillRecipe, base: BaseModel, cache: Path, device: torch.device
) -> tuple[list[str], Callable[[int], Lines]]:
    """Load or draw the teacher's trajectories, and make batches of training points from them.

    Returns:
        The captions, and the function that returns this process's rows of batch k.
    """
    texts, states, found = trajectories(recipe, base, cache)
    contexts = Batches(states, recipe.seed, recipe.batch, device)
    latents = Batches(found, recipe.seed, recipe.batch, device)
    points = window_points(recipe, base.sd.schedule)
    times = torch.tensor([time_of(point) for point in points], dtype=torch.float64)
    norms = torch.stack([point.alpha + point.sigma for point in points]).float().to(device)

    def lines(k: int) -> Lines:
        generator = step_generator(recipe.seed, k)
        b = recipe.batch
        places = own_rows(np.arange(b))  # every process draws for the whole batch
        first = torch.randint(recipe.windows, (b,), generator=generator)[places]
        within = torch.rand(b, generator=generator, dtype=torch.float64)
        anywhere = torch.rand(b, generator=generator) < recipe.inside
        share = torch.where(anywhere, within, 0.0)[places]
        rows = latents.indices(k)[places]
        x = latents.rows(rows).float() / norms.view(-1, 1, 1, 1)  # (b, windows + 1, c, h, w)
        every, t, s = torch.arange(len(rows)), times[first], times[first + 1]
        start, end = x[every, first], x[every, first + 1]
        target = (start - end) / (t - s).to(start).view(-1, 1, 1, 1)
        x_t = interpolate(start, end, share)
        return Lines(x_t, torch.lerp(t, s, share), target, contexts.rows(rows).float())

    return texts, lines


def trajectories(
    recipe: DistillRecipe, base: BaseModel, cache: Path
) -> tuple[list[str], NDArray[np.float16], HALF]:
    """Have the teacher draw an image of each caption, or load its cached trajectories.

    Returns:
        The captions; their hidden states, (n * captions, 77, d); the latents at the ends of the
        windows, variance-preserving, (n * captions, windows + 1, c, h, w).
    """
    sd, parts = base.sd, base.parts()
    n = len(training_images(recipe, cache)) if recipe.data else recipe.scenes
    captions = load_captions(n, cache, recipe.data, per_scene=recipe.captions, size=recipe.size)
    texts = [text for paraphrases in captions for text in paraphrases]
    kept = cache / f"states-{weights_key(parts.text_folder, key(texts))}.npy"
    states = encode_captions(sd.text, texts, kept)
    device = sd.device
    side = recipe.size // sd.vae.factor
    shape = (sd.unet.config.in_channels, side, side)
    steps = recipe.windows * recipe.substeps
    path = sd.schedule.path(steps, "trailing", "zero", steps_in="lambda")
    uncond = sd.text([""])

    def draw(rows: slice) -> Tensor:
        context = torch.from_numpy(np.array(states[rows])).to(device).float()
        b = len(context)
        empty = Conditioning(uncond.context.expand(b, -1, -1))
        guided = classifier_free_guidance(sd.unet, Conditioning(context), empty, recipe.guidance)
        eps = draw_noise((b, *shape), recipe.seed, rows.start, device, stream=4)
        ends = [
            state.z
            for state in dpm_pp_2m(denoiser(guided, sd.spec.predicts), eps, path)
            if state.step % recipe.substeps == 0
        ]
        return torch.stack(ends, dim=1)

    identity = key(
        recipe.windows, recipe.substeps, recipe.guidance, recipe.seed, recipe.size, key(texts)
    )
    kept = cache / f"trajectories-{key(base.hash(), identity)}.npy"
    whole = (len(texts), recipe.windows + 1, *shape)
    return texts, states, cached(kept, whole, CHUNK, draw, "drawing trajectories")


def assemble(recipe: DistillRecipe, sd: StableDiffusion, unet: UNet) -> StableDiffusion:
    """Return the model with the student in place of its U-Net, and the student's settings."""
    spec = dataclasses.replace(few_steps_spec(sd.spec), steps=recipe.windows)
    return StableDiffusion(unet, sd.vae, sd.text, spec)


def export(job: TrainingJob, recipe: DistillRecipe, cache: Path, folder: Path) -> None:
    """Write the whole model, with the EMA weights, in the published layout.

    Args:
        job: The finished training.
        recipe: Its settings.
        cache: Not used, because the other parts come from the model in `recipe.model`.
        folder: Where to write.

    Raises:
        ValueError: If the teacher has changed since the training started.
    """
    unet = job.networks["ema"]
    assert isinstance(unet, UNet)
    check_unchanged(job, recipe.model)
    base = load_base(recipe.model, recipe, torch.device("cpu"))
    assemble(recipe, base.sd, unet).save_pretrained(folder, torch.float16, MAX_BYTES)
