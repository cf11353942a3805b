"""The live part of notebook 09: walk through the world of five blobs with any sampler."""

import html
from functools import lru_cache

import ipywidgets as widgets
import torch
from torch import Tensor

from sdlearn.course.figures.pages import img
from sdlearn.course.figures.sampling import WORLD, drawn, exact, walk_page
from sdlearn.samplers import SAMPLERS, Step, ddim, heun
from sdlearn.schedule import NoiseSchedule, Point

WALKERS = 16
WITH_NOISE = ("ddpm", "euler_ancestral")
SHOWN = {"the walk: z": "z", "the estimates of z_0": "z_0"}
CAPTIONS = {"z": "z", "z_0": "estimates of z_0"}


def start(seed: int) -> Tensor:
    """The noise from which all walks of this seed begin, (WALKERS, 2)."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(WALKERS, 2, generator=rng, dtype=torch.float64)


def walk(name: str, steps: int, eta: float, seed: int) -> tuple[list[Step], int]:
    """The states of a sampler's walk, and how often it called the denoiser.

    Every path begins at the last time of the table and ends clean. eta: for "ddim" only.
    """
    offer = SAMPLERS[name]
    path = NoiseSchedule().path(steps, "trailing", "clean", grid=offer.grid)
    rng = torch.Generator().manual_seed(1000 + seed)
    best, calls = exact(WORLD), []

    def denoise(z: Tensor, point: Point) -> Tensor:
        calls.append(point.t)
        return best(z, point)

    def noise() -> Tensor:
        return torch.randn(WALKERS, 2, generator=rng, dtype=torch.float64)

    options = {"eta": eta} if offer.walk is ddim else {}
    states = list(offer.walk(denoise, start(seed), path, noise=noise, **options))
    return states, len(calls)


@lru_cache(maxsize=64)
def flowed(seed: int) -> Tensor:
    """Where the exact flow takes the starts of this seed, as nearly as many small steps can."""
    path = NoiseSchedule().path(250, "trailing", "clean", grid="sigma", karras=True)
    *_, last = heun(exact(WORLD), start(seed), path)
    return last.z


def counted(n: int, word: str) -> str:
    """ "1 step", "2 steps"."""
    return f"{n} {word}{'s' * (n != 1)}"


class Tracks(widgets.VBox):
    """A sampler, its number of steps, eta and a seed; the walks that it makes.

    `picture` is what is shown; `calls` counts those of the denoiser; `error` is the median distance
    of the ends from those of the exact flow, None where there is noise on the way.
    """

    def __init__(self, sampler: str = "ddim", steps: int = 10, width: int = 500) -> None:
        """sampler, steps: at the beginning. width: in CSS pixels."""
        self.width = width
        self.data = drawn(WORLD, 500)
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
        self.message = widgets.HTML()
        self.view = widgets.HTML()
        controls = [self.sampler, self.steps, self.eta, self.seed, self.shown]
        for control in controls:
            control.observe(lambda _: self.look(), "value")
        self.look()
        super().__init__([*controls, self.message, self.view])

    def look(self) -> None:
        """Walk with the current settings, draw it, and say how far it ended from the truth."""
        name, steps, eta, seed = (
            self.sampler.value, self.steps.value, self.eta.value, self.seed.value
        )  # fmt: skip
        self.eta.disabled = name != "ddim"
        states, self.calls = walk(name, steps, eta, seed)
        noisy = name in WITH_NOISE or (name == "ddim" and eta > 0)
        self.error = None if noisy else float((states[-1].z - flowed(seed)).norm(dim=-1).median())
        ended = (
            "Fresh noise on the way: there is no single right end."
            if noisy
            else f"Half of the ends are within {self.error:.3f} of those of the exact flow."
        )
        taken, calls = counted(steps, "step"), counted(self.calls, "call")
        sentence = f"{name}, {taken}, {calls} of the denoiser. {ended}"
        # The first estimate stands for "nothing denoised yet" and is left out.
        drawn_states = [s.z for s in states] if self.shown.value == "z" else [
            s.z_0 for s in states[1:]
        ]  # fmt: skip
        what = self.shown.label
        with_eta = f", eta {eta:g}" * (name == "ddim" and eta > 0)
        caption = f"{name}, {taken}{with_eta}: {CAPTIONS[self.shown.value]}"
        self.picture = walk_page(torch.stack(drawn_states), self.data, caption)
        self.message.value = f'<span role="status">{html.escape(sentence)}</span>'
        alt = f"{WALKERS} walks over five blobs of data, {what}. {sentence}"
        self.view.value = img(self.picture, alt, self.width)
