"""The widget of notebook 09: trajectories of any sampler on a mixture of five Gaussians."""

from functools import lru_cache

import ipywidgets as widgets
import torch
from torch import Tensor

from sdlearn.course.figures.mixtures import DATA, exact_denoiser, sample_mixture
from sdlearn.course.figures.samplers import trajectory_image
from sdlearn.course.widgets.figure_widget import FigureWidget
from sdlearn.samplers import SAMPLERS, State, ddim, heun
from sdlearn.schedule import NoiseSchedule, Point

NUM_TRAJECTORIES = 16
WITH_NOISE = ("ddpm", "euler_ancestral")
SHOWN = {"the trajectory: z": "z", "the estimates of z_0": "z_0"}
CAPTIONS = {"z": "z", "z_0": "estimates of z_0"}


def initial_noise(seed: int) -> Tensor:
    """Return the initial noise of a seed, (NUM_TRAJECTORIES, 2) float64."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_TRAJECTORIES, 2, generator=rng, dtype=torch.float64)


def run_sampler(name: str, steps: int, eta: float, seed: int) -> tuple[list[State], int]:
    """Run a sampler from the last training timestep to sigma = 0.

    Args:
        name: A key of SAMPLERS.
        steps: Sampling steps.
        eta: Used by "ddim" only.
        seed: Of the initial noise and of the noise during sampling.

    Returns:
        The states, and the number of calls of the denoiser.
    """
    spec = SAMPLERS[name]
    path = NoiseSchedule().path(steps, "trailing", "zero", steps_in=spec.steps_in)
    rng = torch.Generator().manual_seed(1000 + seed)
    best, calls = exact_denoiser(DATA), []

    def denoise(z: Tensor, point: Point) -> Tensor:
        calls.append(point.t)
        return best(z, point)

    def noise() -> Tensor:
        return torch.randn(NUM_TRAJECTORIES, 2, generator=rng, dtype=torch.float64)

    options = {"eta": eta} if spec.sample is ddim else {}
    states = list(spec.sample(denoise, initial_noise(seed), path, noise=noise, **options))
    return states, len(calls)


@lru_cache(maxsize=64)
def exact_flow_ends(seed: int) -> Tensor:
    """Return the ends of the probability-flow ODE for a seed, from 250 steps of Heun's method."""
    path = NoiseSchedule().path(250, "trailing", "zero", steps_in="sigma", sigmas="karras")
    *_, last = heun(exact_denoiser(DATA), initial_noise(seed), path)
    return last.z


def plural(n: int, word: str) -> str:
    """Return "1 step", "2 steps"."""
    return f"{n} {word}{'s' * (n != 1)}"


class SamplerWidget(FigureWidget):
    """A sampler, its number of steps, eta and a seed; the trajectories they give.

    Attributes:
        image: The figure on display.
        calls: Number of calls of the denoiser.
        error: Median distance of the ends from those of the exact ODE. None if the sampler adds
            noise.
    """

    def __init__(self, sampler: str = "ddim", steps: int = 10, width: int = 500) -> None:
        """Build the widget.

        Args:
            sampler: Name of the sampler at the start.
            steps: Sampling steps at the start.
            width: Of the figure, in CSS pixels.
        """
        self.width = width
        self.data = sample_mixture(DATA, 500)
        row = {"style": {"description_width": "9em"}, "layout": {"width": "34em"}}
        self.sampler = widgets.Dropdown(
            options=list(SAMPLERS), value=sampler, description="Sampler", **row
        )
        self.steps = widgets.IntSlider(value=steps, min=1, max=60, description="Steps", **row)
        self.eta = widgets.FloatSlider(
            value=0.0, min=0.0, max=1.0, step=0.05, description="eta (ddim only)", **row
        )
        self.seed = widgets.IntSlider(value=0, min=0, max=50, description="Seed", **row)
        self.shown = widgets.Dropdown(options=SHOWN, value="z", description="Show", **row)
        super().__init__([self.sampler, self.steps, self.eta, self.seed, self.shown])

    def update(self) -> None:
        """Run the sampler with the current settings, draw the result and give its error."""
        name, steps, eta, seed = (
            self.sampler.value, self.steps.value, self.eta.value, self.seed.value
        )  # fmt: skip
        self.eta.disabled = name != "ddim"
        states, self.calls = run_sampler(name, steps, eta, seed)
        noisy = name in WITH_NOISE or (name == "ddim" and eta > 0)
        self.error = (
            None if noisy else float((states[-1].z - exact_flow_ends(seed)).norm(dim=-1).median())
        )
        ended = (
            "The sampler adds noise, so there is no single right end."
            if noisy
            else f"Half of the ends are within {self.error:.3f} of those of the exact flow."
        )
        taken, calls = plural(steps, "step"), plural(self.calls, "call")
        sentence = f"{name}, {taken}, {calls} of the denoiser. {ended}"
        # The first state comes before any call of the denoiser, so it has no estimate of z_0.
        drawn_states = [s.z for s in states] if self.shown.value == "z" else [
            s.z_0 for s in states[1:]
        ]  # fmt: skip
        what = self.shown.label
        with_eta = f", eta {eta:g}" * (name == "ddim" and eta > 0)
        caption = f"{name}, {taken}{with_eta}: {CAPTIONS[self.shown.value]}"
        self.image = trajectory_image(torch.stack(drawn_states), self.data, caption)
        alt = f"{NUM_TRAJECTORIES} trajectories over five clusters of data, {what}. {sentence}"
        self.show(sentence, alt)
