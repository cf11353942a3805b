"""Samplers: walk a path from noise to a clean latent, one denoising at a time.

A sampler sees a denoiser (z, point) -> estimate of z_0, a start z and a path; it knows nothing of
networks, prompts or guidance. Each is a generator that yields every state, the start included, so
progress bars, widgets and stopping early are the caller's own loop.

z is variance-preserving everywhere (alpha² + sigma² = 1). Writing s for the next time, every
sampler here moves to  z_s = alpha_s z_0 + sqrt(sigma_s² - kick²) eps + kick * fresh noise;
they differ in how they spend the noise.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sdlearn.schedule import Final, Point

Denoiser = Callable[[Tensor, Point], Tensor]
Noise = Callable[[], Tensor]


class Step(NamedTuple):
    """A state of a sampler.

    point: where on the path; z: the latent there, (b, c, h, w); z_0: the estimate of the clean
    latent that led there. At the start nothing has been denoised yet, and z_0 is alpha z, the best
    linear guess for a latent of unit variance.
    """

    point: Point
    z: Tensor
    z_0: Tensor


def ddim(
    denoise: Denoiser,
    z: Tensor,
    path: Sequence[Point],
    eta: float = 0.0,
    noise: Noise | None = None,
) -> Iterator[Step]:
    """Denoising diffusion implicit models (Song et al. 2021, eq. 12 and 16).

    z: (b, c, h, w), noise at path[0]. eta: 0 is deterministic, 1 has the noise of DDPM.
    noise: gives the next standard normal of z's shape, asked once a step where eta > 0.
    """
    noise = noise or (lambda: torch.randn_like(z))
    yield Step(path[0], z, path[0].alpha * z)
    for here, there in pairwise(path):
        z_0 = denoise(z, here)
        eps = (z - here.alpha * z_0) / here.sigma
        kick = eta * posterior_std(here, there)
        z = there.alpha * z_0 + (there.sigma**2 - kick**2).sqrt() * eps
        if eta > 0:
            z = z + kick * noise()
        yield Step(there, z, z_0)


def ddpm(
    denoise: Denoiser,
    z: Tensor,
    path: Sequence[Point],
    noise: Noise | None = None,
) -> Iterator[Step]:
    """Ancestral sampling of denoising diffusion models (Ho et al. 2020, eq. 6 and 7).

    Each step draws from q(z_s | z_t, z_0) with the estimate of z_0 put in ("fixed small"
    variance). z and noise as in ddim; noise is asked once a step, the last included.
    """
    noise = noise or (lambda: torch.randn_like(z))
    yield Step(path[0], z, path[0].alpha * z)
    for here, there in pairwise(path):
        z_0 = denoise(z, here)
        keep = (here.alpha / there.alpha) ** 2  # Ho's alpha_t, over the whole stride
        mean = (
            there.alpha * (1 - keep) / here.sigma**2 * z_0
            + keep.sqrt() * there.sigma**2 / here.sigma**2 * z
        )
        z = mean + posterior_std(here, there) * noise()
        yield Step(there, z, z_0)


def posterior_std(here: Point, there: Point) -> Tensor:
    """Standard deviation of q(z_s | z_t, z_0), with t = here and s = there (Ho et al. eq. 7)."""
    variance = (there.sigma / here.sigma) ** 2 * (1 - (here.alpha / there.alpha) ** 2)
    return variance.clamp(min=0).sqrt()  # two equal points may round to just below 0


class Offer(NamedTuple):
    """A sampler as a pipeline offers it: how it walks, and where its path ends.

    final: None leaves the end to the model's own specification.
    """

    walk: Callable[..., Iterator[Step]]
    final: Final | None = None


SAMPLERS = {"ddim": Offer(ddim), "ddpm": Offer(ddpm, final="clean")}


def offered(name: str) -> Offer:
    """The sampler of this name; ValueError with the known names for any other."""
    if name not in SAMPLERS:
        raise ValueError(f"sampler {name!r} is not known: the samplers are {', '.join(SAMPLERS)}")
    return SAMPLERS[name]
