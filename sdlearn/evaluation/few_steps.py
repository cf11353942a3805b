"""Image quality with few sampling steps, measured by caption accuracy and Fréchet distance."""

from collections.abc import Callable, Sequence

import torch
from PIL.Image import Image

from sdlearn import flow
from sdlearn.evaluation.accuracy import batches, judge_images, prompt_cases, rates
from sdlearn.evaluation.frechet import frechet_distance
from sdlearn.evaluation.image_sets import reference_pages
from sdlearn.evaluation.judge import Judge
from sdlearn.guidance import classifier_free_guidance
from sdlearn.pipeline import StableDiffusion

STEPS = (1, 2, 4, 8, 30)
BATCH = 50
Draw = Callable[[list[str], int, int], Sequence[Image]]  # (prompts, first seed, steps) -> images


def drawn_by(sd: StableDiffusion, sampler: str | None = None) -> Draw:
    """Return a function that draws with this sampler and the model's default guidance scale."""
    return lambda texts, seed, steps: sd.text_to_image(
        texts, steps=steps, sampler=sampler, seed=seed, progress=False
    )


def drawn_by_flow(sd: StableDiffusion, scale: float) -> Draw:
    """Return a function that draws with Euler's method on the flow path, see `sdlearn.flow`.

    The times are evenly spaced and start from the noisiest time of the schedule. An image starts
    from the same noise as the pipeline's image with the same seed.
    """
    side = sd.spec.resolution // sd.vae.factor
    shape = (sd.unet.config.in_channels, side, side)

    @torch.inference_mode()
    def draw(texts: list[str], seed: int, steps: int) -> Sequence[Image]:
        cond, uncond = sd.text(texts), sd.text([""] * len(texts))
        network = classifier_free_guidance(sd.unet, cond, uncond, scale)
        velocity = flow.velocity_model(network, sd.schedule)
        times = flow.path(steps, flow.last_time(sd.schedule))
        seeds = (torch.Generator().manual_seed(seed + k) for k in range(len(texts)))
        z = torch.stack([torch.randn(shape, generator=each) for each in seeds])
        *_, last = flow.euler(velocity, flow.from_latent(z.to(sd.device), times[0]), times)
        return sd.to_images(last.x)

    return draw


def scores(draw: Draw, judge: Judge, n: int) -> dict[str, list[float]]:
    """Measure the images of n test captions for each number of steps in STEPS.

    Args:
        draw: Draws the images. The image of caption k has the seed k.
        judge: Detects the objects in them and computes the features.
        n: Number of captions, at least 2.

    Returns:
        "right", the fraction of objects with the right kind, colour and side, and "frechet", the
        Fréchet distance from the true images of n other captions. Each is a list with one value for
        each entry of STEPS.
    """
    cases = prompt_cases("test", n)
    reference = judge.embed(reference_pages("test", n, judge.config.size))
    found: dict[str, list[float]] = {"right": [], "frechet": []}
    for steps in STEPS:
        images: list[Image] = []
        for texts in batches([case.caption for case in cases], BATCH):
            images += draw(texts, len(images), steps)
        right = rates(judge_images(judge, cases, images, range(n)))["right"].rate
        found["right"].append(round(right, 4))
        found["frechet"].append(round(frechet_distance(reference, judge.embed(images)), 3))
    return found
